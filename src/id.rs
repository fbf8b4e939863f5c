//! Identifiers, each a type of its own and legal from birth, so that two things of the same shape
//! never mix. Not here: what an identifier refers to (see `catalog`), or how one is found on disk
//! (see `tree`).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest site or share name, in bytes: one DNS label (RFC 1035 section 2.3.4).
pub const LABEL_MAX: usize = 63;
/// Longest name of one directory entry, in bytes: Linux `NAME_MAX`.
pub const NAME_MAX: usize = 255;
/// Longest path below a share's root, in bytes, separators included: Linux `PATH_MAX`.
pub const PATH_MAX: usize = 4096;

/// Why a text or byte string is not the identifier it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error(
        "{what} name {text:?} must be 1 to 63 of a-z, 0-9 and '-', and begin with a letter or digit"
    )]
    Label { what: &'static str, text: String },
    #[error("an entry name is {len} bytes long, the limit is 255")]
    NameTooLong { len: usize },
    #[error("an entry name is empty")]
    NameEmpty,
    #[error("an entry name may not be '.' or '..'")]
    NameDots,
    #[error("an entry name holds a {0} byte")]
    NameByte(&'static str),
    #[error("a path is longer than 4096 bytes")]
    PathTooLong,
    #[error("{what} is {len} bytes long, it must be {want}")]
    Length { what: &'static str, len: usize, want: usize },
}

/// One site's name: a DNS label, `[a-z0-9][a-z0-9-]*`. The name is the identity: it is what the
/// certificate's URI SAN carries.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(Arc<str>);

/// One share's name, of the same alphabet as a [`SiteId`]; the same at every site.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShareId(Arc<str>);

macro_rules! label {
    ($type:ident, $what:literal) => {
        impl $type {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $type {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let first = text.bytes().next().is_some_and(|b| b != b'-');
                let rest = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
                if first && rest && text.len() <= LABEL_MAX {
                    Ok(Self(text.into()))
                } else {
                    let text = text.chars().take(80).collect();
                    Err(IdError::Label { what: $what, text })
                }
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($type), self.0)
            }
        }
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
label!(SiteId, "site");
label!(ShareId, "share");

macro_rules! number {
    ($(#[$doc:meta])* $type:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
        pub struct $type(pub $repr);
        impl $type {
            /// The one after this. A counter that has run out would break every order that is
            /// built on it, and at a million a second it takes half a million years.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
number!(
    /// Counts who a share's primary has been (R33). The first primary's epoch is 1.
    Epoch, u32
);
number!(
    /// Position of a record in a share's journal. The first record is 1; 0 is "nothing yet".
    Seq, u64
);
number!(
    /// Counts the contents an object has had. 1 is what it was first recorded with.
    Version, u64
);
number!(
    /// Generation of a mark or hold (R4): one counter per share, kept by its primary, never reused
    /// over restarts. A later change has a higher one.
    Gen, u64
);

/// A place in a share's history: positions are (epoch, seq) everywhere (R33).
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    serde::Serialize,
    serde::Deserialize,
)]
pub struct Position {
    pub epoch: Epoch,
    pub seq: Seq,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.seq)
    }
}

/// A file, directory, symlink or special file of a share, the same at every site for ever: the
/// epoch in which it was created (4 bytes, big endian) and 12 bytes of a keyed hash
/// (ARCHITECTURE.md, "Identity").
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId([u8; 16]);

impl ObjectId {
    /// The share's root directory. It has no name and no parent, and exists before any epoch.
    pub const ROOT: Self = Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    pub fn new(epoch: Epoch, hash: [u8; 12]) -> Self {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&epoch.0.to_be_bytes());
        bytes[4..].copy_from_slice(&hash);
        Self(bytes)
    }
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl TryFrom<&[u8]> for ObjectId {
    type Error = IdError;
    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        let array = bytes.try_into().map_err(|_| IdError::Length {
            what: "an object id",
            len: bytes.len(),
            want: 16,
        })?;
        Ok(Self(array))
    }
}

/// A BLAKE3 hash: of a file's content, of a journal record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hash(pub [u8; 32]);

impl TryFrom<&[u8]> for Hash {
    type Error = IdError;
    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        let array = bytes.try_into().map_err(|_| IdError::Length {
            what: "a hash",
            len: bytes.len(),
            want: 32,
        })?;
        Ok(Self(array))
    }
}

macro_rules! hex {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                hexadecimal(&self.0, f)
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}
hex!(ObjectId);
hex!(Hash);

/// Entity tags have an id in them: every GET writes one.
fn hexadecimal(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for some in bytes.chunks(16) {
        let mut text = [0; 32];
        for (byte, pair) in some.iter().zip(text.chunks_exact_mut(2)) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        f.write_str(std::str::from_utf8(&text[..2 * some.len()]).map_err(|_| fmt::Error)?)?;
    }
    Ok(())
}

/// The name of one directory entry: 1 to 255 bytes of any value but `/` and NUL, and not `.` or
/// `..`. Not necessarily UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// The directory at the root of every file system of a share that holds what nearshare needs
    /// there and no client ever sees (R32).
    pub const OURS: &'static [u8] = b".nearshare";

    pub fn new(bytes: &[u8]) -> Result<Self, IdError> {
        match bytes {
            b"" => Err(IdError::NameEmpty),
            b"." | b".." => Err(IdError::NameDots),
            _ if bytes.len() > NAME_MAX => Err(IdError::NameTooLong { len: bytes.len() }),
            _ if bytes.contains(&b'/') => Err(IdError::NameByte("'/'")),
            _ if bytes.contains(&0) => Err(IdError::NameByte("NUL")),
            _ => Ok(Self(bytes.into())),
        }
    }
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    pub fn as_os_str(&self) -> &std::ffi::OsStr {
        std::os::unix::ffi::OsStrExt::from_bytes(&self.0)
    }
    /// Whether this is `.nearshare`, which no client may see or change.
    pub fn is_ours(&self) -> bool {
        &*self.0 == Self::OURS
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}
impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A path below a share's root as the names along it; empty is the root itself. At most 4096 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RelPath(Vec<Name>);

impl RelPath {
    pub const ROOT: Self = Self(Vec::new());

    /// From names; refuses what the kernel would not take as one path.
    pub fn new(names: Vec<Name>) -> Result<Self, IdError> {
        let bytes: usize = names.iter().map(|name| name.as_bytes().len() + 1).sum();
        if bytes > PATH_MAX { Err(IdError::PathTooLong) } else { Ok(Self(names)) }
    }
    /// From `a/b/c`; empty components are left out, `.` and `..` refused.
    pub fn parse(bytes: &[u8]) -> Result<Self, IdError> {
        let names = bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
        Self::new(names.map(Name::new).collect::<Result<_, _>>()?)
    }
    pub fn names(&self) -> &[Name] {
        &self.0
    }
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
    /// The directory and the entry in it; `None` for the root.
    pub fn split_last(&self) -> Option<(Self, &Name)> {
        let (last, rest) = self.0.split_last()?;
        Some((Self(rest.to_vec()), last))
    }
    #[must_use]
    pub fn join(&self, name: Name) -> Self {
        let mut names = self.0.clone();
        names.push(name);
        Self(names)
    }
    pub fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
    /// Whether any name along the path is `.nearshare`.
    pub fn has_ours(&self) -> bool {
        self.0.iter().any(Name::is_ours)
    }
    /// For the kernel: `a/b/c`, or `.` for the root. Always relative.
    pub fn to_os_path(&self) -> std::path::PathBuf {
        if self.0.is_empty() {
            return ".".into();
        }
        self.0.iter().map(Name::as_os_str).collect()
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.0 {
            write!(f, "/{name}")?;
        }
        if self.0.is_empty() { f.write_str("/") } else { Ok(()) }
    }
}
impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels_are_dns_labels() {
        for good in ["hq", "a", "0", "site-2", &"x".repeat(63)] {
            assert!(good.parse::<SiteId>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "HQ", "a.b", "a_b", "é", &"x".repeat(64)] {
            assert!(bad.parse::<ShareId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn names_refuse_what_a_directory_cannot_hold() {
        for bad in [&b""[..], b".", b"..", b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(Name::new(bad).is_err(), "{bad:?}");
        }
        for good in [&b"..."[..], b"\xff\xfe", b".nearshare", &[b'x'; 255]] {
            assert!(Name::new(good).is_ok(), "{good:?}");
        }
    }

    proptest! {
        #[test]
        fn a_path_never_leaves_the_root(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(path) = RelPath::parse(&bytes) {
                let os = path.to_os_path();
                prop_assert!(os.is_relative());
                prop_assert!(os.components().all(|c| !matches!(c, std::path::Component::ParentDir)));
            }
        }
    }
}
