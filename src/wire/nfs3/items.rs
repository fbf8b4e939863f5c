//! What in results names objects: handles, attributes with their identities, and what was so before.

use super::super::xdr::{Fault, Reader, Span, Weave};
use super::Fh;
use super::attributes::{Fattr, write_optional};

/// Whose attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The object that the call is about.
    Object,
    /// The object that was looked up or made: the handle beside them is its.
    Found,
    /// The directory of the (first) entry.
    Dir,
    /// RENAME: the directory of the second entry.
    ToDir,
}

/// Attributes, and where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub whose: Whose,
    pub is: Fattr,
    pub at: usize,
    /// They could be left out.
    pub optional: bool,
}

impl Attributes {
    pub(super) fn read(reader: &mut Reader<'_>, whose: Whose, optional: bool) -> Result<Self, Fault> {
        let at = reader.at();
        Ok(Self { whose, is: Fattr::read(reader)?, at, optional })
    }

    /// `post_op_attr`.
    pub(super) fn read_optional(reader: &mut Reader<'_>, whose: Whose) -> Result<Option<Self>, Fault> {
        match reader.bool("attributes follow")? {
            true => Self::read(reader, whose, true).map(Some),
            false => Ok(None),
        }
    }

    /// Another identity; all else is the server's answer.
    pub fn identify(&self, weave: &mut Weave<'_>, fsid: u64, fileid: u64) {
        weave.replace(Span { at: self.at + Fattr::IDENTITY, len: 16 }, |out| {
            out.u64(fsid).u64(fileid);
        });
    }

    /// Others, of the same object.
    pub fn replace(&self, weave: &mut Weave<'_>, new: &Fattr) {
        weave.replace(Span { at: self.at, len: Fattr::LEN }, |out| new.write(out));
    }

    /// None in their place. What is not optional stays.
    pub fn leave_out(&self, weave: &mut Weave<'_>) {
        if self.optional {
            let span = Span { at: self.at - 4, len: 4 + Fattr::LEN };
            weave.replace(span, |out| write_optional(None, out));
        }
    }
}

/// Size and times before a change (`pre_op_attr` that follows), and where they stand with their flag. They
/// tell a client that its cache is still good, which holds only if one server says both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before(pub Span);

impl Before {
    const LEN: usize = 24;

    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, Fault> {
        let at = reader.at();
        if !reader.bool("attributes before follow")? {
            return Ok(None);
        }
        reader.skip("attributes before", Self::LEN)?;
        Ok(Some(Self(Span { at, len: 4 + Self::LEN })))
    }

    pub fn leave_out(&self, weave: &mut Weave<'_>) {
        weave.replace(self.0, |out| {
            out.bool(false);
        });
    }
}

/// Something in results that names an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// Of the object that was looked up or made.
    Handle(Fh),
    Attributes(Attributes),
    Before(Before),
}

/// At most this many stand in one message.
const MOST: usize = 4;

/// The items of a message in the order in which they stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Items {
    list: [Option<Item>; MOST],
}

impl Items {
    pub fn iter(&self) -> impl Iterator<Item = &Item> {
        self.list.iter().flatten()
    }

    fn push(&mut self, item: Item) {
        let free = self.list.iter_mut().find(|item| item.is_none());
        debug_assert!(free.is_some(), "no results have more than {MOST} items");
        if let Some(free) = free {
            *free = Some(item);
        }
    }

    /// `nfs_fh3`.
    pub(super) fn handle(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        self.push(Item::Handle(Fh::read(reader)?));
        Ok(())
    }

    /// `post_op_fh3`.
    pub(super) fn optional_handle(&mut self, reader: &mut Reader<'_>) -> Result<(), Fault> {
        match reader.bool("handle follows")? {
            true => self.handle(reader),
            false => Ok(()),
        }
    }

    /// `fattr3`.
    pub(super) fn attributes(&mut self, reader: &mut Reader<'_>, whose: Whose) -> Result<(), Fault> {
        self.push(Item::Attributes(Attributes::read(reader, whose, false)?));
        Ok(())
    }

    /// `post_op_attr`.
    pub(super) fn after(&mut self, reader: &mut Reader<'_>, whose: Whose) -> Result<(), Fault> {
        if let Some(attributes) = Attributes::read_optional(reader, whose)? {
            self.push(Item::Attributes(attributes));
        }
        Ok(())
    }

    /// `wcc_data`.
    pub(super) fn change(&mut self, reader: &mut Reader<'_>, whose: Whose) -> Result<(), Fault> {
        if let Some(before) = Before::read(reader)? {
            self.push(Item::Before(before));
        }
        self.after(reader, whose)
    }
}
