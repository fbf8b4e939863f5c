//! A URL's path as names, and back. It is decoded once, and what goes to a server is always encoded
//! again from the names, so that the server cannot read another place out of it than we did.

use std::borrow::Cow;

use crate::id::{IdError, Name, RelPath};

/// Why a path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("it must begin with '/'")]
    NotAbsolute,
    #[error("'%' must be followed by two hexadecimal digits")]
    Escape,
    #[error("an encoded '/' cannot be part of a name")]
    EncodedSlash,
    #[error("a name cannot hold a NUL byte")]
    Nul,
    #[error("'.' and '..' are not names; send the path without them")]
    Dots,
    #[error("{0}")]
    Id(#[from] IdError),
}

impl PathError {
    pub fn too_long(&self) -> bool {
        matches!(self, Self::Id(IdError::NameTooLong { .. } | IdError::PathTooLong))
    }
}

/// A decoded path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UrlPath {
    pub names: Vec<Name>,
    /// It ended in a slash (the root itself always does).
    pub slash: bool,
}

impl UrlPath {
    /// Decodes a whole path. Empty segments are left out, as servers do (`merge_slashes`).
    pub fn decode(raw: &str) -> Result<Self, PathError> {
        let mut names = Vec::new();
        for raw in segments(raw)?.filter(|raw| !raw.is_empty()) {
            names.push(segment(raw)?.name()?);
        }
        Ok(Self { slash: raw.ends_with('/'), names })
    }
}

/// The parts between slashes, the empty ones too.
pub(super) fn segments(raw: &str) -> Result<std::str::Split<'_, char>, PathError> {
    Ok(raw.strip_prefix('/').ok_or(PathError::NotAbsolute)?.split('/'))
}

/// One decoded segment.
pub(super) struct Segment<'a> {
    pub bytes: Cow<'a, [u8]>,
    /// [`encode`] makes the same of it again.
    pub canonical: bool,
}

impl Segment<'_> {
    pub fn name(&self) -> Result<Name, PathError> {
        match &*self.bytes {
            b"." | b".." => Err(PathError::Dots),
            bytes if bytes.contains(&0) => Err(PathError::Nul),
            bytes if bytes.contains(&b'/') => Err(PathError::EncodedSlash),
            bytes => Ok(Name::new(bytes)?),
        }
    }
    /// Whether a server that takes an encoded slash for a slash would walk upwards here.
    pub fn climbs(&self) -> bool {
        climbs(&self.bytes)
    }
}

/// Whether a server would walk upwards here that leaves a '%' of no escape as it is, and decodes all others.
pub(super) fn may_climb(raw: &str) -> bool {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escape = if *first == b'%' { escaped(tail) } else { None };
        let (byte, tail) = escape.unwrap_or((*first, tail));
        bytes.push(byte);
        rest = tail;
    }
    climbs(&bytes)
}

/// The byte that two digits at the beginning stand for, and what follows them.
fn escaped(digits: &[u8]) -> Option<(u8, &[u8])> {
    let (&[high, low], rest) = digits.split_first_chunk::<2>()?;
    Some((hex(high)? << 4 | hex(low)?, rest))
}

fn climbs(bytes: &[u8]) -> bool {
    bytes.split(|byte| *byte == b'/').any(|part| matches!(part, b"." | b".."))
}

/// Decodes a segment, once.
pub(super) fn segment(raw: &str) -> Result<Segment<'_>, PathError> {
    let raw = raw.as_bytes();
    if raw.iter().all(|byte| PLAIN[usize::from(*byte)]) {
        return Ok(Segment { bytes: Cow::Borrowed(raw), canonical: true });
    }
    let mut bytes = Vec::with_capacity(raw.len());
    let mut canonical = true;
    let mut rest = raw;
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            canonical &= PLAIN[usize::from(*first)];
            bytes.push(*first);
            continue;
        }
        let Some((&[high, low], tail)) = tail.split_first_chunk::<2>() else {
            return Err(PathError::Escape);
        };
        let (Some(h), Some(l)) = (hex(high), hex(low)) else { return Err(PathError::Escape) };
        rest = tail;
        let byte = h << 4 | l;
        let upper = !high.is_ascii_lowercase() && !low.is_ascii_lowercase();
        canonical &= upper && !PLAIN[usize::from(byte)];
        bytes.push(byte);
    }
    Ok(Segment { bytes: Cow::Owned(bytes), canonical })
}

/// `prefix` (already encoded, `/a/b` or empty), then every name of `path`, then a slash if wanted.
pub fn encode(prefix: &str, path: &RelPath, slash: bool) -> String {
    let bytes: usize = path.names().iter().map(|name| name.as_bytes().len() + 4).sum();
    let mut out = String::with_capacity(prefix.len() + bytes + 1);
    encode_into(&mut out, prefix, path, slash);
    out
}

/// As [`encode`], at the end of `out`.
pub fn encode_into(out: &mut String, prefix: &str, path: &RelPath, slash: bool) {
    out.push_str(prefix);
    for name in path.names() {
        out.push('/');
        for byte in name.as_bytes() {
            if PLAIN[usize::from(*byte)] {
                out.push(char::from(*byte));
            } else {
                out.push('%');
                out.push(char::from(HEX[usize::from(byte >> 4)]));
                out.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    if slash || out.is_empty() {
        out.push('/');
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// Bytes that need no escape in a segment: RFC 3986 `pchar`.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(b, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')')
            || matches!(b, b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@');
        byte += 1;
    }
    table
};
