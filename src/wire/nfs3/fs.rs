//! NULL, and what a server says of itself (FSINFO, RFC 1813 section 3.3.19).

use super::super::xdr::{Fault, Reader, Span, Weave};
use super::attributes::Time;
use super::items::Items;
use super::{About, Args, More, Returned};

pub(super) fn null(_reader: &mut Reader<'_>) -> Result<Args, Fault> {
    Ok(Args { about: About::Nothing, more: More::Nothing })
}

pub(super) fn nothing(
    _reader: &mut Reader<'_>,
    _ok: bool,
    _items: &mut Items,
) -> Result<Returned, Fault> {
    Ok(Returned::Nothing)
}

/// What a client may ask for, and what for preferably (`FSINFO3resok` behind the attributes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FsInfo {
    /// Most, preferred and multiple of the bytes of a READ.
    pub read: [u32; 3],
    /// Most, preferred and multiple of the bytes of a WRITE.
    pub write: [u32; 3],
    /// Preferred bytes of a READDIR.
    pub list: u32,
    pub file_max: u64,
    /// What times are multiples of.
    pub time_delta: Time,
    /// Bits: hard links 1, symbolic links 2, one PATHCONF for all 8, times can be set 16.
    pub properties: u32,
    /// Where it stands.
    pub at: usize,
}

impl FsInfo {
    const LEN: usize = 48;

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let at = reader.at();
        Ok(Self {
            read: [reader.u32("rtmax")?, reader.u32("rtpref")?, reader.u32("rtmult")?],
            write: [reader.u32("wtmax")?, reader.u32("wtpref")?, reader.u32("wtmult")?],
            list: reader.u32("dtpref")?,
            file_max: reader.u64("maxfilesize")?,
            time_delta: Time::read(reader, "time_delta")?,
            properties: reader.u32("properties")?,
            at,
        })
    }

    /// What holds at both of two servers.
    #[must_use]
    pub fn least(&self, other: &Self) -> Self {
        let sizes = |a: [u32; 3], b: [u32; 3]| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2])];
        let coarser = |a: Time, b: Time| if (a.sec, a.nsec) < (b.sec, b.nsec) { b } else { a };
        Self {
            read: sizes(self.read, other.read),
            write: sizes(self.write, other.write),
            list: self.list.min(other.list),
            file_max: self.file_max.min(other.file_max),
            time_delta: coarser(self.time_delta, other.time_delta),
            properties: self.properties & other.properties,
            at: self.at,
        }
    }

    /// Puts it where it was read from.
    pub fn replace(&self, weave: &mut Weave<'_>) {
        weave.replace(Span { at: self.at, len: Self::LEN }, |out| {
            self.read.iter().chain(&self.write).for_each(|size| {
                out.u32(*size);
            });
            out.u32(self.list).u64(self.file_max);
            out.u32(self.time_delta.sec).u32(self.time_delta.nsec).u32(self.properties);
        });
    }
}
