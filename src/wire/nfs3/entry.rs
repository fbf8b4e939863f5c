//! Procedures about entries of directories: LOOKUP, CREATE, MKDIR, SYMLINK, MKNOD, REMOVE, RMDIR, RENAME,
//! LINK (RFC 1813 sections 3.3.3, 8 to 15).

use super::super::xdr::{Fault, Reader};
use super::attributes::{Settable, read_kind};
use super::items::{Items, Whose};
use super::{About, Args, EntryAt, Fh, More, Returned, TEXT_MAX};
use crate::object::Kind;

/// How a file is made (`createhow3`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// One that is there already is taken, and cut to the size that is asked for.
    Unchecked(Settable),
    Guarded(Settable),
    /// Once, however often the call comes: the server keeps this with the file.
    Exclusive([u8; 8]),
}

impl EntryAt {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        Ok(Self { dir: Fh::read(reader)?, name: reader.opaque("name", TEXT_MAX)? })
    }
}

/// LOOKUP, REMOVE, RMDIR.
pub(super) fn name(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    Ok(Args { about: About::Entry(EntryAt::read(reader)?), more: More::Nothing })
}

pub(super) fn create(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    let about = About::Entry(EntryAt::read(reader)?);
    let how = reader.choice("create mode", "0, 1 or 2", |mode| (mode <= 2).then_some(mode))?;
    let how = match how {
        0 => How::Unchecked(Settable::read(reader)?),
        1 => How::Guarded(Settable::read(reader)?),
        _ => How::Exclusive(reader.fixed("create verifier")?),
    };
    Ok(Args { about, more: More::Create(how) })
}

pub(super) fn mkdir(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    let about = About::Entry(EntryAt::read(reader)?);
    Ok(Args { about, more: More::Make(Settable::read(reader)?) })
}

pub(super) fn symlink(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    let about = About::Entry(EntryAt::read(reader)?);
    let new = Settable::read(reader)?;
    Ok(Args { about, more: More::Symlink { new, target: reader.opaque("link target", TEXT_MAX)? } })
}

/// A type that cannot be made this way has nothing behind it: the server says BADTYPE.
pub(super) fn mknod(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    let about = About::Entry(EntryAt::read(reader)?);
    let kind = read_kind(reader)?;
    let new = match kind {
        Kind::Block | Kind::Char | Kind::Socket | Kind::Fifo => Settable::read(reader)?,
        Kind::File | Kind::Directory | Kind::Symlink => Settable::default(),
    };
    let device = match kind {
        Kind::Block | Kind::Char => Some((reader.u32("device")?, reader.u32("device")?)),
        _ => None,
    };
    Ok(Args { about, more: More::Node { kind, new, device } })
}

pub(super) fn rename(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    let from = EntryAt::read(reader)?;
    Ok(Args { about: About::Two(from, EntryAt::read(reader)?), more: More::Nothing })
}

pub(super) fn link(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    let object = Fh::read(reader)?;
    Ok(Args { about: About::Link(object, EntryAt::read(reader)?), more: More::Nothing })
}

pub(super) fn found(reader: &mut Reader<'_>, ok: bool, items: &mut Items) -> Result<Returned, Fault> {
    if ok {
        items.handle(reader)?;
        items.after(reader, Whose::Found)?;
    }
    items.after(reader, Whose::Dir)?;
    Ok(Returned::Nothing)
}

pub(super) fn made(reader: &mut Reader<'_>, ok: bool, items: &mut Items) -> Result<Returned, Fault> {
    if ok {
        items.optional_handle(reader)?;
        items.after(reader, Whose::Found)?;
    }
    items.change(reader, Whose::Dir)?;
    Ok(Returned::Nothing)
}

pub(super) fn removed(reader: &mut Reader<'_>, _ok: bool, items: &mut Items) -> Result<Returned, Fault> {
    items.change(reader, Whose::Dir)?;
    Ok(Returned::Nothing)
}

pub(super) fn renamed(reader: &mut Reader<'_>, _ok: bool, items: &mut Items) -> Result<Returned, Fault> {
    items.change(reader, Whose::Dir)?;
    items.change(reader, Whose::ToDir)?;
    Ok(Returned::Nothing)
}

pub(super) fn linked(reader: &mut Reader<'_>, _ok: bool, items: &mut Items) -> Result<Returned, Fault> {
    items.after(reader, Whose::Object)?;
    items.change(reader, Whose::Dir)?;
    Ok(Returned::Nothing)
}
