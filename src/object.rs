//! What is known of an object, as plain data that `catalog` stores, `tree` reads and sets, and
//! `notice` and `follow` compare.

use crate::id::{Hash, ObjectId, Seq, Version};

/// Seconds and nanoseconds since 1970-01-01 UTC, as `statx` gives them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timespec {
    pub sec: i64,
    /// 0 to 999,999,999.
    pub nsec: u32,
}

impl Timespec {
    /// Nanoseconds since 1970, saturating outside 1677 to 2262.
    pub fn as_nanos(self) -> i64 {
        self.sec.saturating_mul(1_000_000_000).saturating_add(i64::from(self.nsec))
    }
}

/// The types of RFC 1813's `ftype3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    Block,
    Char,
}

/// The attributes that are copied to every site. Holes, xattrs and ACLs have their place here too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attrs {
    /// Permission bits with set-uid, set-gid and sticky: 0 to 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timespec,
}

/// One object as the share's history has it: the same row at every site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub id: ObjectId,
    pub kind: Kind,
    pub attrs: Attrs,
    /// Bytes of content; 0 unless a file. (A directory's size is each file system's own affair.)
    pub size: u64,
    /// Device number of a `Block` or `Char`, as `makedev` packs it; else 0.
    pub rdev: u64,
    /// What a `Symlink` says; else empty. At most 4095 bytes.
    pub target: Vec<u8>,
    /// Counts contents: a change of attributes alone leaves it.
    pub version: Version,
    /// Content hash of a `File`; zero for all others.
    pub root: Hash,
    /// The primary's ctime when this row was recorded (R31).
    pub ctime: Timespec,
    /// The record that last changed this row.
    pub seq: Seq,
}

/// The kernel's own file handle (`name_to_handle_at`) with the file system's index in front: names
/// one inode of one site's disk, through renames, until it is deleted. At most 2 + 4 + 128 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocalHandle(Box<[u8]>);

impl LocalHandle {
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for LocalHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What `statx` says that cannot stay the same when content or attributes change, but for changes
/// within the time stamps' granularity (R17).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    pub size: u64,
    pub mtime: Timespec,
    pub ctime: Timespec,
}

/// An object on this site's disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    pub handle: LocalHandle,
    /// As it was when the disk and the row agreed.
    pub stamp: Stamp,
    /// The content that the disk held then.
    pub version: Version,
    /// Whether `stamp` proves anything: it was taken a granularity after the last change (R17).
    pub settled: bool,
}

/// What a look at one entry of the disk finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub handle: LocalHandle,
    pub kind: Kind,
    pub attrs: Attrs,
    pub size: u64,
    pub rdev: u64,
    pub nlink: u64,
    pub stamp: Stamp,
}
