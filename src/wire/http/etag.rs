//! Entity tags (RFC 9110 section 8.8.3). Ours names an object and its version, `"<ObjectId>-<version>"`, and
//! means the same at every site; what the servers give the same file is told from it. Not here: what is
//! done with tags that a request names (see `condition`).

use std::fmt;

use ::http::HeaderValue;

use crate::id::{ObjectId, Version};
use crate::object::Stamp;

/// An ObjectId as hexadecimal.
const ID_LEN: usize = 32;
/// Longest name of a content coding that a tag of ours carries.
const CODING_MAX: usize = 16;
/// What a server behind us may add to a tag when it compresses, as Apache does.
const CODINGS: [&[u8]; 4] = [b"-gzip", b"-br", b"-zstd", b"-deflate"];

/// The content that a tag of ours names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    pub id: ObjectId,
    pub version: Version,
}

/// As it stands in a tag for the content as it is.
impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.id, self.version)
    }
}

impl Tag {
    /// Strong: for the bytes of the file.
    pub fn field(self) -> HeaderValue {
        value(format!("\"{self}\""))
    }
    /// Weak: for a form of them that need not be the same everywhere. `coding`: its Content-Encoding.
    pub fn weak_field(self, coding: Option<&[u8]>) -> HeaderValue {
        let coding = coding.and_then(|coding| std::str::from_utf8(coding).ok());
        match coding.map(str::to_ascii_lowercase).filter(|coding| is_coding(coding.as_bytes())) {
            Some(coding) => value(format!("W/\"{self}-{coding}\"")),
            None => value(format!("W/\"{self}\"")),
        }
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text)
        .expect("an id, digits, quotes and the letters of a coding are visible ASCII")
}

fn is_coding(name: &[u8]) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=CODING_MAX).contains(&name.len()) && name.iter().all(alphanumeric)
}

/// One entity tag as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntityTag<'a> {
    pub weak: bool,
    /// What is between the quotes.
    pub opaque: &'a [u8],
}

impl<'a> EntityTag<'a> {
    /// A field that is one tag and nothing else.
    pub fn parse(field: &'a [u8]) -> Option<Self> {
        let (tag, rest) = Self::cut(field.trim_ascii())?;
        rest.is_empty().then_some(tag)
    }

    fn cut(text: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (weak, quoted) = match text.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        let inner = quoted.strip_prefix(b"\"")?;
        let end = inner.iter().position(|byte| *byte == b'"')?;
        let opaque = &inner[..end];
        // `etagc`: no blanks and no control characters.
        let clean = opaque.iter().all(|byte| *byte == 0x21 || (0x23..).contains(byte) && *byte != 0x7f);
        clean.then_some((Self { weak, opaque }, &inner[end + 1..]))
    }

    /// What it names if it is of our form, and the coding that it is for.
    pub fn ours(self) -> Option<(Tag, Option<&'a [u8]>)> {
        let (id, rest) = self.opaque.split_at_checked(ID_LEN)?;
        let rest = rest.strip_prefix(b"-")?;
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (version, rest) = rest.split_at(digits);
        let coding = match rest {
            b"" => None,
            [b'-', coding @ ..] if is_coding(coding) => Some(coding),
            _ => return None,
        };
        // Of all ways to write a number the one that we have.
        if version.len() > 1 && version.starts_with(b"0") {
            return None;
        }
        let version = std::str::from_utf8(version).ok()?.parse().ok()?;
        let mut bytes = [0; ID_LEN / 2];
        for (byte, pair) in bytes.iter_mut().zip(id.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some((Tag { id: ObjectId::from_bytes(bytes), version: Version(version) }, coding))
    }

    /// Whether a server that goes by size and time of the file gives this tag to one with that stamp. nginx:
    /// `mtime-size`, in seconds; Apache: `size-mtime`, in microseconds, and the coding if it compresses.
    pub fn is_of(self, stamp: &Stamp) -> bool {
        let told = || {
            let (first, rest) = number(self.opaque)?;
            let (second, coding) = number(rest.strip_prefix(b"-")?)?;
            (coding.is_empty() || CODINGS.contains(&coding)).then_some((first, second))
        };
        told().is_some_and(|told| server_numbers(stamp).contains(&Some(told)))
    }
    /// Of such a tag: whether it says that the server has compressed the file.
    pub fn is_coded(self) -> bool {
        CODINGS.iter().any(|coding| self.opaque.ends_with(coding))
    }
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

/// What nginx and Apache call a file with that stamp, without quotes; nothing for one from before 1970.
pub(super) fn server_tags(stamp: &Stamp) -> [Option<String>; 2] {
    server_numbers(stamp).map(|numbers| numbers.map(|(first, second)| format!("{first:x}-{second:x}")))
}

/// Lower-case hexadecimal without zeros before it, and what follows.
fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().map_while(|byte| digit(*byte));
    let number = digits
        .clone()
        .try_fold(0u64, |number, digit| (number >> 60 == 0).then_some(number << 4 | u64::from(digit)))?;
    let rest = &text[digits.count()..];
    let length = text.len() - rest.len();
    (length == 1 || length > 1 && text[0] != b'0').then_some((number, rest))
}

fn server_numbers(stamp: &Stamp) -> [Option<(u64, u64)>; 2] {
    let Stamp { size, mtime, .. } = stamp;
    // A file system may say any time at all; what is beyond 292,000 years no server names either.
    let micros = mtime.sec.checked_mul(1_000_000);
    let micros = micros.and_then(|micros| micros.checked_add(i64::from(mtime.nsec / 1000)));
    let known = |time: i64| u64::try_from(time).ok();
    [known(mtime.sec).map(|sec| (sec, *size)), micros.and_then(known).map(|micros| (*size, micros))]
}

/// The entity tags of a list; `None` for what is none, and nothing after it.
pub fn list(field: &[u8]) -> impl Iterator<Item = Option<EntityTag<'_>>> {
    let mut rest = Some(field);
    std::iter::from_fn(move || {
        let text = rest?;
        let blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b',');
        let text = &text[text.iter().take_while(blank).count()..];
        if text.is_empty() {
            rest = None;
            return None;
        }
        let cut = EntityTag::cut(text);
        // Tags are separated by commas.
        let after = |text: &[u8]| {
            text.iter().find(|byte| !matches!(byte, b' ' | b'\t')).is_none_or(|byte| *byte == b',')
        };
        let cut = cut.filter(|(_, text)| after(text));
        rest = cut.map(|(_, text)| text);
        Some(cut.map(|(tag, _)| tag))
    })
}
