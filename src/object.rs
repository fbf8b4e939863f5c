//! What is known of an object, as plain data that `catalog` stores, `tree` reads and sets, and
//! `notice` and `follow` compare.

use std::collections::BTreeMap;

use crate::clock::WallTime;
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

impl Kind {
    /// For people.
    pub const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Block => "block device",
            Self::Char => "character device",
        }
    }
    /// As RFC 1813 section 2.5 numbers them, 1 to 7; so does the catalog.
    pub const fn ftype3(self) -> u32 {
        match self {
            Self::File => 1,
            Self::Directory => 2,
            Self::Block => 3,
            Self::Char => 4,
            Self::Symlink => 5,
            Self::Socket => 6,
            Self::Fifo => 7,
        }
    }
    pub const fn from_ftype3(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::File,
            2 => Self::Directory,
            3 => Self::Block,
            4 => Self::Char,
            5 => Self::Symlink,
            6 => Self::Socket,
            7 => Self::Fifo,
            _ => return None,
        })
    }
}

/// The attributes that every object has, and that are copied to every site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attrs {
    /// Permission bits with set-uid, set-gid and sticky: 0 to 0o7777.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timespec,
}

/// The extended attributes of one object that travel: see [`is_carried`](Self::is_carried).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Xattrs(BTreeMap<Vec<u8>, Vec<u8>>);

impl Xattrs {
    /// Names and values of one object together, in bytes. Linux lists at most 64 KiB of names, and a value is
    /// at most 64 KiB; ext4 keeps 4 KiB of both unless told otherwise.
    pub const MAX: usize = 1 << 20;
    /// Attributes of one object: 64 KiB of names that are no shorter than `user.` and a byte.
    pub const COUNT_MAX: usize = 9_362;
    pub const NAME_MAX: usize = 255;
    pub const VALUE_MAX: usize = 64 << 10;

    /// Whether an attribute is the share's and not a site's own: `user.`, `security.` (capabilities, Samba's
    /// `security.NTACL`) and `trusted.`, and POSIX ACLs. Not the labels, hashes and signatures that the
    /// policy and the keys of one machine put there, not overlayfs's notes of its layers, not the second names
    /// under which XFS shows its ACLs, not `trusted.nearshare.` (R30).
    pub fn is_carried(name: &[u8]) -> bool {
        const OWN: [&[u8]; 8] = [
            b"security.selinux",
            b"security.SMACK64",
            b"security.apparmor",
            b"security.ima",
            b"security.evm",
            b"trusted.overlay.",
            b"trusted.SGI_ACL_",
            b"trusted.nearshare.",
        ];
        const CARRIED: [&[u8]; 3] = [b"user.", b"security.", b"trusted."];
        let is = |prefix: &&[u8]| name.starts_with(prefix);
        CARRIED.iter().any(is) && !OWN.iter().any(is) || Self::is_acl(name)
    }

    /// Who may do what, as the server reads it from the disk.
    pub fn is_acl(name: &[u8]) -> bool {
        matches!(name, b"system.posix_acl_access" | b"system.posix_acl_default")
    }

    /// Whether somebody may be let in without it who is not to be: ACLs, and what others keep of theirs, such as
    /// Samba in `security.NTACL`. Capabilities let in nobody.
    pub fn restricts(name: &[u8]) -> bool {
        Self::is_acl(name) || name.starts_with(b"security.") && name != b"security.capability"
    }

    /// Without those that [restrict](Self::restricts).
    pub fn unrestricted(&self) -> Self {
        let others = self.0.iter().filter(|(name, _)| !Self::restricts(name));
        Self(others.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    #[cfg(test)]
    pub fn of(pairs: &[(&str, &[u8])]) -> Self {
        Self(pairs.iter().map(|(name, value)| (name.as_bytes().into(), value.to_vec())).collect())
    }
    pub fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) {
        self.0.insert(name, value);
    }
    pub fn remove(&mut self, name: &[u8]) {
        self.0.remove(name);
    }
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.get(name).map(Vec::as_slice)
    }
    /// In the order of their names' bytes.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    pub fn bytes(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// The same at every site and in every release. Zero of none.
    pub fn hash(&self) -> Hash {
        if self.is_empty() {
            return Hash::default();
        }
        let mut hasher = blake3::Hasher::new_derive_key("nearshare extended attributes v1");
        for part in self.iter().flat_map(|(name, value)| [name, value]) {
            hasher.update(&(part.len() as u32).to_le_bytes());
            hasher.update(part);
        }
        Hash(*hasher.finalize().as_bytes())
    }
}

/// What an object's row says of its extended attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extra {
    /// These: most objects have none.
    Here(Xattrs),
    /// Too many bytes for a row: those with this hash. They are on the disk, and travel as a debt does.
    Apart {
        hash: Hash,
        /// One of them may [restrict](Xattrs::restricts) who gets in.
        restrict: bool,
    },
}

impl Extra {
    /// What a row holds, in bytes: an ACL with 20 names is 164, what Samba keeps of a file about 500.
    pub const ROW_MAX: usize = 1024;

    pub fn hash(&self) -> Hash {
        match self {
            Self::Here(xattrs) => xattrs.hash(),
            Self::Apart { hash, .. } => *hash,
        }
    }
    pub fn is_apart(&self) -> bool {
        matches!(self, Self::Apart { .. })
    }
    /// Whether what may restrict who gets in is among what is apart.
    pub fn may_restrict(&self) -> bool {
        matches!(self, Self::Apart { restrict: true, .. })
    }
}

impl From<Xattrs> for Extra {
    fn from(xattrs: Xattrs) -> Self {
        if xattrs.bytes() <= Self::ROW_MAX {
            return Self::Here(xattrs);
        }
        let restrict = xattrs.iter().any(|(name, _)| Xattrs::restricts(name));
        Self::Apart { hash: xattrs.hash(), restrict }
    }
}

impl Default for Extra {
    fn default() -> Self {
        Self::Here(Xattrs::default())
    }
}

/// One object as the share's history has it: the same row at every site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub id: ObjectId,
    pub kind: Kind,
    pub attrs: Attrs,
    pub xattrs: Extra,
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

impl Object {
    /// Its attributes for as long as those apart from its row have not come: if an ACL may be among them, the
    /// mode is not to let in anybody but the owner without it. Else the mode is right already, which it must
    /// be: a disk that becomes the primary's before they have come is taken for right.
    pub fn closed(&self) -> Attrs {
        match self.kind {
            _ if !self.xattrs.may_restrict() => self.attrs,
            // Its mode is none, and stays.
            Kind::Symlink => self.attrs,
            _ => Attrs { mode: self.attrs.mode & 0o7700, ..self.attrs },
        }
    }
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

/// A file system's time stamps tell two changes apart when this lies between them (R17).
const GRANULARITY_NS: i64 = 20_000_000;
/// Where there is room for whole seconds only, as in an ext4 with inodes of 128 bytes.
const SECONDS_NS: i64 = 1_000_000_000 + GRANULARITY_NS;
/// A time stamp further ahead than this is no matter of granularity: the clock was set back.
const AHEAD_NS: i64 = 10_000_000_000;

impl Stamp {
    /// Whether a change at `now` or later would show in it (R17).
    pub fn is_settled(&self, now: WallTime) -> bool {
        let age = now.0.saturating_sub(self.ctime.as_nanos());
        // Elsewhere that is one stamp in a million or more, and costs a second.
        let granularity = if self.ctime.nsec == 0 { SECONDS_NS } else { GRANULARITY_NS };
        !(-AHEAD_NS..granularity).contains(&age)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_proves_something_when_the_next_change_would_have_another() {
        let stamp = |sec, nsec| Stamp { ctime: Timespec { sec, nsec }, ..Stamp::default() };
        let table = [
            (stamp(100, 5), 100_019_999_999, false),
            (stamp(100, 5), 100_020_000_005, true),
            // Whole seconds: perhaps the file system keeps no more.
            (stamp(100, 0), 100_999_999_999, false),
            (stamp(100, 0), 101_020_000_000, true),
            // Of a clock that is a little ahead, or was set back.
            (stamp(100, 5), 99_000_000_000, false),
            (stamp(100, 5), 80_000_000_000, true),
        ];
        for (stamp, now, settled) in table {
            assert_eq!(stamp.is_settled(WallTime(now)), settled, "{stamp:?} at {now}");
        }
    }

    #[test]
    fn what_may_restrict_is_known_by_its_name() {
        for (name, restricts) in [
            ("system.posix_acl_access", true),
            ("system.posix_acl_default", true),
            ("security.NTACL", true),
            ("security.nfs4acl_ndr", true),
            ("security.capability", false),
            ("user.DOSATTRIB", false),
            ("trusted.x", false),
        ] {
            assert_eq!(Xattrs::restricts(name.as_bytes()), restricts, "{name}");
        }
    }

    #[test]
    fn what_is_a_sites_own_does_not_travel() {
        let carried = [
            "user.a",
            "user.DOSATTRIB",
            "security.NTACL",
            "security.capability",
            "trusted.x",
            "system.posix_acl_access",
            "system.posix_acl_default",
        ];
        let own = [
            "security.selinux",
            "security.SMACK64EXEC",
            "security.ima",
            "trusted.overlay.origin",
            "trusted.SGI_ACL_FILE",
            "trusted.SGI_ACL_DEFAULT",
            "trusted.nearshare.id",
            "system.nfs4_acl",
            "btrfs.compression",
            "user",
        ];
        carried.iter().for_each(|name| assert!(Xattrs::is_carried(name.as_bytes()), "{name}"));
        own.iter().for_each(|name| assert!(!Xattrs::is_carried(name.as_bytes()), "{name}"));
    }

    #[test]
    fn hashes_never_change_and_tell_sets_apart() {
        let set = |pairs: &[(&str, &str)]| {
            let mut set = Xattrs::default();
            pairs
                .iter()
                .for_each(|(name, value)| set.insert(name.as_bytes().into(), value.as_bytes().into()));
            set.hash().to_string()[..8].to_owned()
        };
        // Sites of different releases compare these.
        assert_eq!(set(&[]), "00000000");
        assert_eq!(set(&[("user.b", "2"), ("user.a", "1")]), "711da954");
        assert_ne!(set(&[("user.a", "1b")]), set(&[("user.a1", "b")]));
        assert_ne!(set(&[("user.a", "")]), set(&[]));
    }
}
