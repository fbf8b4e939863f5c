//! NFS version 3 (RFC 1813) and its ACL side protocol: one row per procedure says what it touches, and reads
//! its arguments and results with the places of all that has to be translated. The rest of a message is
//! never touched: [`Weave`] puts other handles and identities around it.
//!
//! Not here: which server's handle stands for which object (see `server`), and what is done about a call
//! (see `route`, `relay`).

pub mod acl;
mod attributes;
pub mod cookie;
mod data;
mod entry;
mod fs;
mod items;
#[cfg(any(test, feature = "fuzz"))]
pub mod judge;
pub mod listing;
pub mod near;
mod object;
mod status;
mod touches;

use bytes::Bytes;

pub use self::attributes::{Fattr, SetTime, Settable, Time};
pub use self::data::{Part, Stable, Written};
pub use self::entry::How;
pub use self::fs::FsInfo;
pub use self::items::{Attributes, Before, Item, Items, Whose};
pub use self::status::Status;
pub use self::touches::{Owner, Refusal, Touches, effect};
use super::xdr::{Fault, Reader, Weave, Writer};

pub const PROGRAM: u32 = 100_003;
pub const VERSION: u32 = 3;

/// Longest file handle (`NFS3_FHSIZE`).
pub const HANDLE_MAX: u32 = 64;
/// Longest name or symbolic link that is read at all. Linux has none longer than 255 and 4095 bytes;
/// between that and this a client is told which of its names is too long.
const TEXT_MAX: u32 = 8192;
/// Most data of one READ or WRITE that is read: four times what Linux asks for.
pub const DATA_MAX: u32 = 4 << 20;

/// What is known of a procedure.
#[derive(Debug)]
pub struct Row {
    pub number: u32,
    pub name: &'static str,
    pub touches: Touches,
    /// A second call with the same xid gets the first one's reply: doing it twice is not doing it once.
    pub cached: bool,
    args: fn(&mut Reader<'_>) -> Result<Args, Fault>,
    results: fn(&mut Reader<'_>, bool, &mut Items) -> Result<Returned, Fault>,
    /// Behind a failure's status so many optional attributes may stand.
    optional: u32,
}

impl Row {
    pub fn writes(&self) -> bool {
        self.touches.changes()
    }

    /// Reads the arguments of a call.
    pub fn args(&self, reader: &mut Reader<'_>) -> Result<Args, Fault> {
        (self.args)(reader)
    }

    /// Reads the results of a successful RPC, whatever their status.
    pub fn results(&self, reader: &mut Reader<'_>) -> Result<Results, Fault> {
        // NULL has no results, not even a status.
        let status = match self.touches {
            Touches::Nothing => Status::OK,
            _ => Status(reader.u32("status")?),
        };
        let mut items = Items::default();
        let returned = (self.results)(reader, status == Status::OK, &mut items)?;
        Ok(Results { status, items, returned })
    }

    /// A failure of our own making, without attributes, behind the head of a reply.
    pub fn fail(&self, out: &mut Writer, status: Status) {
        out.u32(status.0);
        (0..self.optional).for_each(|_| {
            out.bool(false);
        });
    }
}

macro_rules! procedure {
    ($number:literal $name:ident $touches:ident, $cached:ident, $group:ident::{$args:ident, $results:ident}, $optional:literal) => {
        Row {
            number: $number,
            name: stringify!($name),
            touches: Touches::$touches,
            cached: $cached,
            args: $group::$args,
            results: $group::$results,
            optional: $optional,
        }
    };
}
use procedure;

/// By number. (knfsd's table has the same column on what is cached.)
static ROWS: [Row; 22] = [
    procedure!(0 NULL Nothing, false, fs::{null, nothing}, 0),
    procedure!(1 GETATTR Object, false, object::{handle, got_attributes}, 0),
    procedure!(2 SETATTR ChangesObject, true, object::{set_attributes, changed}, 2),
    procedure!(3 LOOKUP Entry, false, entry::{name, found}, 1),
    procedure!(4 ACCESS Object, false, object::{access, accessible}, 1),
    procedure!(5 READLINK Object, false, object::{handle, link_target}, 1),
    procedure!(6 READ Object, false, data::{read, data}, 1),
    procedure!(7 WRITE ChangesObject, true, data::{write, written}, 2),
    procedure!(8 CREATE Makes, true, entry::{create, made}, 2),
    procedure!(9 MKDIR Makes, true, entry::{mkdir, made}, 2),
    procedure!(10 SYMLINK Makes, true, entry::{symlink, made}, 2),
    procedure!(11 MKNOD Makes, true, entry::{mknod, made}, 2),
    procedure!(12 REMOVE Removes, true, entry::{name, removed}, 2),
    procedure!(13 RMDIR Removes, true, entry::{name, removed}, 2),
    procedure!(14 RENAME Moves, true, entry::{rename, renamed}, 4),
    procedure!(15 LINK Links, true, entry::{link, linked}, 3),
    procedure!(16 READDIR Lists, false, listing::{names, listed}, 1),
    procedure!(17 READDIRPLUS Lists, false, listing::{names_plus, listed}, 1),
    procedure!(18 FSSTAT Object, false, object::{handle, fs_figures}, 1),
    procedure!(19 FSINFO Object, false, object::{handle, fs_info}, 1),
    procedure!(20 PATHCONF Object, false, object::{handle, fs_figures}, 1),
    procedure!(21 COMMIT ChangesObject, false, data::{commit, committed}, 2),
];

/// The row of a procedure; none for one that NFS version 3 does not have.
pub fn row(procedure: u32) -> Option<&'static Row> {
    ROWS.get(procedure as usize)
}

/// A file handle as it stands in a message; whose it is, is for others to find out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fh {
    /// At most 64.
    pub bytes: Bytes,
    /// Where its count stands.
    pub at: usize,
}

impl Fh {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Fault> {
        let at = reader.at();
        Ok(Self { bytes: reader.opaque("file handle", HANDLE_MAX)?, at })
    }

    /// Puts another handle in its place.
    pub fn replace(&self, weave: &mut Weave<'_>, handle: &[u8]) {
        weave.opaque(self.at, self.bytes.len(), handle);
    }
}

/// One entry of a directory, as arguments name it (`diropargs3`). The name is as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryAt {
    pub dir: Fh,
    pub name: Bytes,
}

/// What arguments say, in the order in which they say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Args {
    pub about: About,
    pub more: More,
}

/// What a call is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum About {
    Nothing,
    Object(Fh),
    Entry(EntryAt),
    /// RENAME, from and to.
    Two(EntryAt, EntryAt),
    /// LINK: the object, and the entry that it gets.
    Link(Fh, EntryAt),
}

impl About {
    /// In the order in which they stand.
    pub fn handles(&self) -> impl Iterator<Item = &Fh> {
        let (first, second) = match self {
            Self::Nothing => (None, None),
            Self::Object(object) => (Some(object), None),
            Self::Entry(entry) => (Some(&entry.dir), None),
            Self::Two(from, to) => (Some(&from.dir), Some(&to.dir)),
            Self::Link(object, entry) => (Some(object), Some(&entry.dir)),
        };
        first.into_iter().chain(second)
    }
}

/// What arguments say beside what they are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum More {
    Nothing,
    /// The rights asked for.
    Access(u32),
    Read {
        offset: u64,
        count: u32,
    },
    Write(Part),
    /// A count of 0 is everything from `offset` on.
    Commit {
        offset: u64,
        count: u32,
    },
    /// `guard`: only if that is the time of the last change.
    Set {
        new: Settable,
        guard: Option<Time>,
    },
    Create(How),
    Make(Settable),
    Symlink {
        new: Settable,
        target: Bytes,
    },
    /// `device`: major and minor number of a device.
    Node {
        kind: crate::object::Kind,
        new: Settable,
        device: Option<(u32, u32)>,
    },
    List(listing::Asked),
}

/// What results say.
#[derive(Debug, Clone)]
pub struct Results {
    pub status: Status,
    /// All that names objects, in the order in which it stands, but for the entries of a listing.
    pub items: Items,
    pub returned: Returned,
}

/// What results say beside what names objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Returned {
    /// Nothing that anybody here needs: it passes as it is.
    Nothing,
    /// The rights there are, of those asked for.
    Access(u32),
    /// Where a symbolic link leads.
    Target(Bytes),
    /// READ: where its data stands, and whether the file ends there.
    Data {
        data: super::xdr::Span,
        eof: bool,
    },
    Written(Written),
    /// The server's write verifier: another one means that it may have forgotten what was not stable.
    Committed([u8; 8]),
    FsInfo(FsInfo),
    /// The entries begin at this byte; see [`listing::Entries`].
    Listing(usize),
}

#[cfg(test)]
mod tests;
