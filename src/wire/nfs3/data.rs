//! A file's data: READ, WRITE, COMMIT (RFC 1813 sections 3.3.6, 7, 21). The data itself is only located.

use super::super::xdr::{Fault, Reader, Span};
use super::items::{Items, Whose};
use super::{About, Args, DATA_MAX, Fh, More, Returned};

/// When a WRITE is to be answered, or what it was when it was (`stable_how`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stable {
    /// As soon as the server has it; a COMMIT follows.
    Unstable,
    /// When the data is on the disk, and what is needed to find it.
    Data,
    /// When all of it is.
    File,
}

impl Stable {
    fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, Fault> {
        reader.choice(field, "0, 1 or 2", |how| match how {
            0 => Some(Self::Unstable),
            1 => Some(Self::Data),
            2 => Some(Self::File),
            _ => None,
        })
    }
}

/// A part of a file that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub offset: u64,
    /// What the server goes by; the data should be as long.
    pub count: u32,
    pub stable: Stable,
    pub data: Span,
}

/// What became of a WRITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes from the front.
    pub count: u32,
    pub committed: Stable,
    /// Another one than before means that the server may have forgotten what was not stable.
    pub verf: [u8; 8],
}

pub(super) fn read(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    let about = About::Object(Fh::read(reader)?);
    let more = More::Read { offset: reader.u64("offset")?, count: reader.u32("count")? };
    Ok(Args { about, more })
}

pub(super) fn write(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    let about = About::Object(Fh::read(reader)?);
    let part = Part {
        offset: reader.u64("offset")?,
        count: reader.u32("count")?,
        stable: Stable::read(reader, "stable")?,
        data: reader.payload("data", DATA_MAX)?,
    };
    Ok(Args { about, more: More::Write(part) })
}

pub(super) fn commit(reader: &mut Reader<'_>) -> Result<Args, Fault> {
    let about = About::Object(Fh::read(reader)?);
    let more = More::Commit { offset: reader.u64("offset")?, count: reader.u32("count")? };
    Ok(Args { about, more })
}

pub(super) fn data(reader: &mut Reader<'_>, ok: bool, items: &mut Items) -> Result<Returned, Fault> {
    items.after(reader, Whose::Object)?;
    if !ok {
        return Ok(Returned::Nothing);
    }
    reader.u32("count")?;
    let eof = reader.bool("eof")?;
    Ok(Returned::Data { eof, data: reader.payload("data", DATA_MAX)? })
}

pub(super) fn written(reader: &mut Reader<'_>, ok: bool, items: &mut Items) -> Result<Returned, Fault> {
    items.change(reader, Whose::Object)?;
    if !ok {
        return Ok(Returned::Nothing);
    }
    Ok(Returned::Written(Written {
        count: reader.u32("count")?,
        committed: Stable::read(reader, "committed")?,
        verf: reader.fixed("write verifier")?,
    }))
}

pub(super) fn committed(
    reader: &mut Reader<'_>,
    ok: bool,
    items: &mut Items,
) -> Result<Returned, Fault> {
    items.change(reader, Whose::Object)?;
    if ok { Ok(Returned::Committed(reader.fixed("write verifier")?)) } else { Ok(Returned::Nothing) }
}
