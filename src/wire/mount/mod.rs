//! MOUNT version 3 (RFC 1813 appendix I), and version 1 (RFC 1094 appendix A) as far as clients of version 3
//! still speak it: how a client gets the handle of an export's root, and what exports there are.
//!
//! Not here: which exports are shares, and whose handle is the right one.

#[cfg(any(test, feature = "fuzz"))]
pub mod judge;

use bytes::Bytes;

use super::rpc::auth::AUTH_SYS;
use super::xdr::{Fault, Reader, Span, Weave, Writer};

pub const PROGRAM: u32 = 100_005;

/// Longest path of an export (`MNTPATHLEN`).
const PATH_MAX: u32 = 1024;
/// Longest name of a client or a group of them (`MNTNAMLEN`).
const NAME_MAX: u32 = 255;
const HANDLE_MAX: u32 = super::nfs3::HANDLE_MAX;
/// Ways to authenticate that one export may list. Linux knows eight.
const FLAVORS_MAX: u32 = 64;

/// Which version of MOUNT. The second differs from the first in a procedure that nobody calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Version 1, and the second. MNT gives a handle of NFS version 2.
    Old,
    /// Version 3. MNT gives one of NFS version 3.
    Three,
}

impl Version {
    pub fn new(number: u32) -> Option<Self> {
        match number {
            1 | 2 => Some(Self::Old),
            3 => Some(Self::Three),
            _ => None,
        }
    }
}

/// What a procedure is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    Nothing,
    /// One export, or a directory below it, by its path.
    Path,
    /// All of the client's mounts, as far as the server remembers.
    Client,
    /// All exports.
    Exports,
}

/// What is known of a procedure. None changes anything of a share.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub number: u32,
    pub name: &'static str,
    pub about: About,
}

/// By number; the same in all versions.
static ROWS: [Row; 6] = [
    Row { number: 0, name: "NULL", about: About::Nothing },
    Row { number: 1, name: "MNT", about: About::Path },
    Row { number: 2, name: "DUMP", about: About::Client },
    Row { number: 3, name: "UMNT", about: About::Path },
    Row { number: 4, name: "UMNTALL", about: About::Client },
    Row { number: 5, name: "EXPORT", about: About::Exports },
];

/// The row of a procedure; none for one that is not known.
pub fn row(procedure: u32) -> Option<&'static Row> {
    ROWS.get(procedure as usize)
}

impl Row {
    pub fn is_mnt(&self) -> bool {
        self.number == 1
    }

    /// The path that a call names, as it came; none if it names none.
    pub fn path(&self, reader: &mut Reader<'_>) -> Result<Option<Bytes>, Fault> {
        match self.about {
            About::Path => reader.opaque("path", PATH_MAX).map(Some),
            About::Nothing | About::Client | About::Exports => Ok(None),
        }
    }
}

/// How a MNT ended (`mountstat3`; version 1 has errno, whose numbers are the same); others may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status(pub u32);

impl Status {
    pub const OK: Self = Self(0);
    pub const NOENT: Self = Self(2);
    pub const ACCES: Self = Self(13);
    pub const NOTDIR: Self = Self(20);
    pub const INVAL: Self = Self(22);
    pub const NAMETOOLONG: Self = Self(63);
    pub const SERVERFAULT: Self = Self(10006);
}

/// What a MNT returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounted {
    pub handle: Bytes,
    /// Where its count stands (in version 1, which has none, the handle itself).
    pub at: usize,
    /// Where the list of ways to authenticate stands, with its count. Version 1 has none.
    pub flavors: Option<Span>,
}

/// Reads the results of a MNT.
pub fn mounted(reader: &mut Reader<'_>, version: Version) -> Result<Result<Mounted, Status>, Fault> {
    match Status(reader.u32("status")?) {
        Status::OK => {}
        status => return Ok(Err(status)),
    }
    let at = reader.at();
    if version == Version::Old {
        let handle: [u8; 32] = reader.fixed("file handle")?;
        return Ok(Ok(Mounted { handle: Bytes::copy_from_slice(&handle), at, flavors: None }));
    }
    let handle = reader.opaque("file handle", HANDLE_MAX)?;
    let begin = reader.at();
    let count = reader.u32("flavor list")?;
    if count > FLAVORS_MAX {
        return Err(Fault::Many { field: "flavor list", count, limit: FLAVORS_MAX, at: begin });
    }
    reader.skip("flavor", count as usize * 4)?;
    let flavors = Some(Span { at: begin, len: reader.at() - begin });
    Ok(Ok(Mounted { handle, at, flavors }))
}

/// The results of a MNT of version 3 of our own making: the handle, and AUTH_SYS as the only way to
/// authenticate.
pub fn grant(out: &mut Writer, handle: &[u8]) {
    out.u32(Status::OK.0).opaque(handle).u32(1).u32(AUTH_SYS);
}

/// Of either version.
pub fn refuse(out: &mut Writer, status: Status) {
    out.u32(status.0);
}

/// The exports that a server lists, one after the other.
#[derive(Debug)]
pub struct Exports<'a>(Reader<'a>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    pub path: Bytes,
    /// Where the list of who may mount it stands. A server behind a relay lists the relay.
    pub clients: Span,
}

impl<'a> Exports<'a> {
    /// `reader` is at the results of EXPORT.
    pub fn new(reader: Reader<'a>) -> Self {
        Self(reader)
    }

    pub fn next_export(&mut self) -> Result<Option<Export>, Fault> {
        if !self.0.bool("export follows")? {
            return Ok(None);
        }
        let path = self.0.opaque("path", PATH_MAX)?;
        let at = self.0.at();
        while self.0.bool("client follows")? {
            self.0.payload("client", NAME_MAX)?;
        }
        Ok(Some(Export { path, clients: Span { at, len: self.0.at() - at } }))
    }
}

impl Export {
    /// Lists others as those who may mount it. None at all means everybody.
    pub fn for_clients<'n>(&self, weave: &mut Weave<'_>, clients: impl IntoIterator<Item = &'n str>) {
        weave.replace(self.clients, |out| {
            for client in clients {
                out.bool(true).opaque(client.as_bytes());
            }
            out.bool(false);
        });
    }
}

#[cfg(test)]
mod tests;
