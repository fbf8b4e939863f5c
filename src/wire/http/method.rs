//! One row per method: no other file knows what a method does.

use ::http::Method;

/// What a method touches of the URL it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Touches {
    /// Reads the object; a listing when the path ends in a slash.
    Object,
    /// Reads as far down as the Depth field says; everything when there is none (RFC 4918 9.1).
    ByDepth,
    /// Changes the entry.
    Entry,
    /// Locks the object, and makes an empty file where there is none.
    Lock,
    /// Changes what is known about the object: its locks, its properties.
    About,
    /// Changes the entry and the one that the Destination field names.
    Both,
    /// Reads here, changes at and below the Destination.
    Copy,
    /// May change anything at or below the URL.
    Below,
    /// Is not relayed at all.
    Refused,
}

impl Touches {
    pub fn changes(self) -> bool {
        !matches!(self, Self::Object | Self::ByDepth | Self::Refused)
    }
}

/// What is known of a method.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub name: &'static str,
    pub touches: Touches,
    /// A symbolic link at the last place of the path is followed by servers.
    pub follows: bool,
}

impl Row {
    pub fn has_destination(&self) -> bool {
        matches!(self.touches, Touches::Both | Touches::Copy)
    }
}

const fn known(name: &'static str, touches: Touches, follows: bool) -> Row {
    Row { name, touches, follows }
}

const ROWS: [Row; 14] = [
    known("GET", Touches::Object, true),
    known("HEAD", Touches::Object, true),
    known("OPTIONS", Touches::Object, true),
    known("PROPFIND", Touches::ByDepth, true),
    known("PUT", Touches::Entry, true),
    known("DELETE", Touches::Entry, false),
    known("MKCOL", Touches::Entry, true),
    known("COPY", Touches::Copy, true),
    known("MOVE", Touches::Both, false),
    known("LOCK", Touches::Lock, true),
    known("UNLOCK", Touches::About, true),
    known("PROPPATCH", Touches::About, true),
    known("TRACE", Touches::Refused, true),
    known("CONNECT", Touches::Refused, true),
];

/// Any method that is not in the table.
const OTHER: Row = known("another method", Touches::Below, true);

/// The row of a method; method names are case-sensitive (RFC 9110 section 9.1).
pub fn row(method: &Method) -> &'static Row {
    let name = method.as_str();
    ROWS.iter().find(|row| row.name == name).unwrap_or(&OTHER)
}

/// What `http` has no constant for.
pub fn propfind() -> Method {
    extension(b"PROPFIND")
}

pub fn lock() -> Method {
    extension(b"LOCK")
}

pub fn unlock() -> Method {
    extension(b"UNLOCK")
}

fn extension(name: &[u8]) -> Method {
    Method::from_bytes(name).expect("letters are a method's name")
}
