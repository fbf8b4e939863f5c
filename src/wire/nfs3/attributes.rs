//! Attributes as they stand in arguments and results.

use super::super::xdr::{Fault, Reader, Writer};
use crate::object::Kind;

/// `nfstime3`: seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Time {
    pub sec: u32,
    pub nsec: u32,
}

impl Time {
    pub(super) fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, Fault> {
        Ok(Self { sec: reader.u32(field)?, nsec: reader.u32(field)? })
    }
}

/// An object's attributes (`fattr3`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fattr {
    pub kind: Kind,
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Bytes on the disk.
    pub used: u64,
    /// Major and minor number of a device.
    pub rdev: (u32, u32),
    pub fsid: u64,
    pub fileid: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
}

impl Fattr {
    /// Bytes on the wire.
    pub const LEN: usize = 84;
    /// Where `fsid` and then `fileid` stand, from the beginning on.
    pub(super) const IDENTITY: usize = 44;

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        Ok(Self {
            kind: read_kind(reader)?,
            mode: reader.u32("mode")?,
            nlink: reader.u32("nlink")?,
            uid: reader.u32("uid")?,
            gid: reader.u32("gid")?,
            size: reader.u64("size")?,
            used: reader.u64("used")?,
            rdev: (reader.u32("rdev")?, reader.u32("rdev")?),
            fsid: reader.u64("fsid")?,
            fileid: reader.u64("fileid")?,
            atime: Time::read(reader, "atime")?,
            mtime: Time::read(reader, "mtime")?,
            ctime: Time::read(reader, "ctime")?,
        })
    }

    pub fn write(&self, out: &mut Writer) {
        out.u32(self.kind.ftype3()).u32(self.mode).u32(self.nlink).u32(self.uid).u32(self.gid);
        out.u64(self.size).u64(self.used).u32(self.rdev.0).u32(self.rdev.1);
        out.u64(self.fsid).u64(self.fileid);
        for time in [self.atime, self.mtime, self.ctime] {
            out.u32(time.sec).u32(time.nsec);
        }
    }
}

/// `post_op_attr`, of our own making.
pub(super) fn write_optional(attributes: Option<&Fattr>, out: &mut Writer) {
    out.bool(attributes.is_some());
    if let Some(attributes) = attributes {
        attributes.write(out);
    }
}

/// `ftype3`.
pub(super) fn read_kind(reader: &mut Reader<'_>) -> Result<Kind, Fault> {
    reader.choice("type", "1 to 7", Kind::from_ftype3)
}

/// What a time becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetTime {
    #[default]
    Keep,
    /// That at the server.
    Now,
    To(Time),
}

/// Attributes that are asked to be set (`sattr3`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settable {
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: SetTime,
    pub mtime: SetTime,
}

impl Settable {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let optional = |reader: &mut Reader<'_>, field| match reader.bool(field)? {
            true => reader.u32(field).map(Some),
            false => Ok(None),
        };
        Ok(Self {
            mode: optional(reader, "mode to set")?,
            uid: optional(reader, "uid to set")?,
            gid: optional(reader, "gid to set")?,
            size: match reader.bool("size to set")? {
                true => Some(reader.u64("size to set")?),
                false => None,
            },
            atime: SetTime::read(reader, "atime to set")?,
            mtime: SetTime::read(reader, "mtime to set")?,
        })
    }
}

impl SetTime {
    fn read(reader: &mut Reader<'_>, field: &'static str) -> Result<Self, Fault> {
        let how = reader.choice(field, "0, 1 or 2", |how| match how {
            0 => Some(Self::Keep),
            1 => Some(Self::Now),
            2 => Some(Self::To(Time::default())),
            _ => None,
        })?;
        match how {
            Self::To(_) => Ok(Self::To(Time::read(reader, field)?)),
            how => Ok(how),
        }
    }
}
