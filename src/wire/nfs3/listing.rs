//! Listings: READDIR and READDIRPLUS (RFC 1813 sections 3.3.16, 17). The one kind of reply that is of our own
//! making, where a share is listed; those of a server are read entry by entry.

use bytes::Bytes;

use super::super::xdr::{Fault, Reader, Span, Weave, Writer, padded};
use super::attributes::{Fattr, write_optional};
use super::items::{Attributes, Items, Whose};
use super::{About, Args, Fh, More, Returned, TEXT_MAX};

/// What part of a directory is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// What comes behind the entry of this cookie; 0 is everything.
    pub cookie: u64,
    pub verf: [u8; 8],
    pub room: Room,
}

/// How much a client takes at once, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// READDIRPLUS: of ids, names and cookies.
    pub names: Option<u32>,
    /// Of everything behind the status.
    pub all: u32,
}

pub(super) fn names(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    asked(reader, |reader| Ok(Room { names: None, all: reader.u32("count")? }))
}

pub(super) fn names_plus(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    asked(reader, |reader| {
        Ok(Room { names: Some(reader.u32("dircount")?), all: reader.u32("maxcount")? })
    })
}

fn asked(
    reader: &mut Reader<'_>,
    room: fn(&mut Reader<'_>) -> Result<Room, Fault>,
) -> Result<Args, Fault> {
    let about = About::Object(Fh::read(reader)?);
    let (cookie, verf) = (reader.u64("cookie")?, reader.fixed("cookie verifier")?);
    Ok(Args { about, more: More::List(Asked { cookie, verf, room: room(reader)? }) })
}

pub(super) fn listed(reader: &mut Reader<'_>, ok: bool, items: &mut Items) -> Result<Returned, Fault> {
    items.after(reader, Whose::Object)?;
    if !ok {
        return Ok(Returned::Nothing);
    }
    reader.skip("cookie verifier", 8)?;
    Ok(Returned::Listing(reader.at()))
}

/// The entries of a server's listing, one after the other.
#[derive(Debug)]
pub struct Entries<'a> {
    reader: Reader<'a>,
    plus: bool,
}

/// An entry, and where it can be translated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub fileid: u64,
    pub name: Bytes,
    pub cookie: u64,
    pub attributes: Option<Attributes>,
    pub handle: Option<Fh>,
    at: usize,
}

impl<'a> Entries<'a> {
    /// `reader` stands where [`Returned::Listing`] says.
    pub fn new(reader: Reader<'a>, plus: bool) -> Self {
        Self { reader, plus }
    }

    /// The next entry; or, behind the last, whether the directory ends there.
    pub fn next_entry(&mut self) -> Result<Result<Entry, bool>, Fault> {
        let reader = &mut self.reader;
        if !reader.bool("entry follows")? {
            return Ok(Err(reader.bool("eof")?));
        }
        let at = reader.at();
        let fileid = reader.u64("fileid")?;
        let name = reader.opaque("name", TEXT_MAX)?;
        let cookie = reader.u64("cookie")?;
        let mut entry = Entry { fileid, name, cookie, attributes: None, handle: None, at };
        if self.plus {
            entry.attributes = Attributes::read_optional(reader, Whose::Found)?;
            entry.handle = match reader.bool("handle follows")? {
                true => Some(Fh::read(reader)?),
                false => None,
            };
        }
        Ok(Ok(entry))
    }
}

impl Entry {
    /// Another identity, in the entry and in its attributes, and another handle.
    pub fn identify(&self, weave: &mut Weave<'_>, fsid: u64, fileid: u64, handle: &[u8]) {
        weave.replace(Span { at: self.at, len: 8 }, |out| {
            out.u64(fileid);
        });
        if let Some(attributes) = &self.attributes {
            attributes.identify(weave, fsid, fileid);
        }
        if let Some(fh) = &self.handle {
            fh.replace(weave, handle);
        }
    }
}

/// An entry of a listing of our own.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    pub fileid: u64,
    pub name: &'a [u8],
    pub cookie: u64,
    /// READDIRPLUS: what is known of the object.
    pub attributes: Option<&'a Fattr>,
    pub handle: Option<&'a [u8]>,
}

/// A listing of our own in the making.
#[derive(Debug)]
pub struct Listing {
    out: Writer,
    /// Up to here the reply may go.
    end: usize,
    /// READDIRPLUS: bytes left for ids, names and cookies.
    names: Option<usize>,
    lines: u32,
}

/// Bytes behind the last entry: none follows, and whether the directory ends.
const TAIL: usize = 8;

impl Listing {
    /// Behind the head of a reply: the status, the directory's attributes, the verifier.
    pub fn new(mut out: Writer, dir: Option<&Fattr>, verf: [u8; 8], room: Room) -> Self {
        out.u32(super::Status::OK.0);
        let end = out.len().saturating_add(room.all as usize);
        write_optional(dir, &mut out);
        out.fixed(&verf);
        Self { out, end, names: room.names.map(|names| names as usize), lines: 0 }
    }

    /// Adds an entry, if the client takes that much. After the first that was not added none may be.
    pub fn push(&mut self, line: &Line<'_>) -> bool {
        let names = 24 + padded(line.name.len());
        let plus = match self.names {
            None => 0,
            Some(_) => {
                let handle = line.handle.map_or(0, |handle| 4 + padded(handle.len()));
                8 + line.attributes.map_or(0, |_| Fattr::LEN) + handle
            }
        };
        // Room for the first name is always taken: a client that gets none has nowhere to go on from.
        let full = self.names.is_some_and(|left| left < names) && self.lines > 0;
        if full || self.out.len() + names + plus + TAIL > self.end {
            return false;
        }
        self.names = self.names.map(|left| left.saturating_sub(names));
        self.lines += 1;
        self.out.bool(true).u64(line.fileid).opaque(line.name).u64(line.cookie);
        if self.names.is_some() {
            write_optional(line.attributes, &mut self.out);
            self.out.bool(line.handle.is_some());
            if let Some(handle) = line.handle {
                self.out.opaque(handle);
            }
        }
        true
    }

    /// The reply. None if nothing fits into what the client takes: it is told that this is too small.
    pub fn finish(mut self, eof: bool) -> Option<Writer> {
        if self.lines == 0 && !eof || self.out.len() + TAIL > self.end {
            return None;
        }
        self.out.bool(false).bool(eof);
        Some(self.out)
    }
}
