//! Where one HTTP/1 request of a client's stream ends and the next begins (RFC 9112 sections 2, 3, 5, 6 and
//! 7), by the narrowest reading. What two programs could read differently is a [`Fault`], however
//! harmless it looks: that is how requests are smuggled past a relay.
//!
//! Only looks: what a request means is for others, and they get the very bytes that were looked at.
//! Not here: connections, and what becomes of a stream with a fault in it.

use ::http::StatusCode;

/// What may not come, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the request line must be a method, a target and a version, with one space between each")]
    RequestLine,
    #[error("the version of HTTP must be 1.1 or 1.0")]
    Version,
    #[error("the request target is longer than a request may be")]
    LongTarget,
    #[error("the request has more header fields, or longer ones, than are taken")]
    LongHead,
    #[error("lines must end in CR LF, and neither may stand anywhere else")]
    LineEnd,
    #[error("a header field must be a name, a colon right behind it, and a value on the same line")]
    Field,
    #[error("Content-Length must stand once and be a number")]
    Length,
    #[error("a request has either Content-Length or Transfer-Encoding, not both")]
    TwoLengths,
    #[error("the only Transfer-Encoding that is understood is chunked, once")]
    Coding,
    #[error("HTTP/1.0 has no Transfer-Encoding")]
    OldCoding,
    #[error("the field Host may stand only once")]
    TwoHosts,
    #[error("a chunk must begin with its size in hexadecimal digits and end with its line")]
    Chunk,
    #[error("a trailer must not have fields that say how to read the message, nor more than are taken")]
    Trailer,
}

impl Fault {
    pub fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::LongTarget => StatusCode::URI_TOO_LONG,
            Self::LongHead => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Coding => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::BAD_REQUEST,
        }
    }
    /// Whether it is in a body: the head has been taken already.
    pub fn in_body(self) -> bool {
        matches!(self, Self::Chunk | Self::Trailer)
    }
}

/// How much of a head, or of a trailer section, is taken.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    pub fields: usize,
    pub bytes: usize,
}

/// Longest line with a chunk's size: nobody has extensions, and none is ever looked at.
const CHUNK_LINE: usize = 256;
/// Empty lines before a request (RFC 9112 section 2.2): some clients end a body with one.
const EMPTY_LINES: usize = 4;

/// How far one client's stream has been understood.
#[derive(Debug)]
pub struct Framing {
    at: At,
    limits: HeadLimits,
    /// Of a head that is not complete yet: so many bytes hold no end of it.
    searched: usize,
}

/// What comes next in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// A head, after so many empty lines.
    Head(usize),
    /// So many bytes of a body with Content-Length.
    Rest(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    /// So many fields and bytes of the trailer section have been seen.
    Trailer(usize, usize),
}

impl Framing {
    pub fn new(limits: HeadLimits) -> Self {
        Self { at: At::Head(0), limits, searched: 0 }
    }

    /// Whether a request's body is to go on.
    pub fn in_body(&self) -> bool {
        !matches!(self.at, At::Head(_))
    }

    /// How many bytes of the front are understood, and what is wrong with those that follow. What is left
    /// must come again, with more behind it: a head is taken only as a whole.
    ///
    /// `heads` counts those that were taken. After a fault nothing more may be asked.
    pub fn pass(&mut self, bytes: &[u8], heads: &mut u64) -> (usize, Option<Fault>) {
        let mut done = 0;
        while done < bytes.len() {
            match self.step(&bytes[done..], heads) {
                Ok(0) => break,
                Ok(taken) => done += taken,
                Err(fault) => return (done, Some(fault)),
            }
        }
        (done, None)
    }

    fn step(&mut self, bytes: &[u8], heads: &mut u64) -> Result<usize, Fault> {
        match self.at {
            At::Head(empty) => self.head(bytes, empty, heads),
            At::Rest(left) => Ok(self.data(bytes, left, At::Rest, At::Head(0))),
            At::ChunkData(left) => Ok(self.data(bytes, left, At::ChunkData, At::ChunkEnd)),
            At::ChunkSize => {
                let Some(line) = line(bytes, CHUNK_LINE, Fault::Chunk)? else { return Ok(0) };
                self.at = match chunk_size(line)? {
                    0 => At::Trailer(0, 0),
                    size => At::ChunkData(size),
                };
                Ok(line.len() + 2)
            }
            At::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.at = At::ChunkSize;
                    Ok(2)
                }
                [] | [b'\r'] => Ok(0),
                _ => Err(Fault::Chunk),
            },
            At::Trailer(fields, size) => {
                let left = self.limits.bytes.saturating_sub(size);
                let Some(line) = line(bytes, left, Fault::Trailer)? else { return Ok(0) };
                if line.is_empty() {
                    self.at = At::Head(0);
                    return Ok(2);
                }
                let (name, _) = field(line).ok_or(Fault::Trailer)?;
                if fields == self.limits.fields || UNTRAILED.iter().any(|it| is(name, it)) {
                    return Err(Fault::Trailer);
                }
                self.at = At::Trailer(fields + 1, size + line.len() + 2);
                Ok(line.len() + 2)
            }
        }
    }

    /// As much of a body as is here.
    fn data(&mut self, bytes: &[u8], left: u64, more: impl FnOnce(u64) -> At, then: At) -> usize {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left = left - here as u64;
        self.at = if left == 0 { then } else { more(left) };
        here
    }

    fn head(&mut self, bytes: &[u8], empty: usize, heads: &mut u64) -> Result<usize, Fault> {
        match bytes {
            [b'\r', b'\n', ..] if empty < EMPTY_LINES => {
                self.at = At::Head(empty + 1);
                return Ok(2);
            }
            [b'\r'] => return Ok(0),
            _ => {}
        }
        let most = self.limits.bytes;
        let Some(first) = memchr::memchr(b'\n', bytes) else {
            return if bytes.len() > most { Err(Fault::LongTarget) } else { Ok(0) };
        };
        if first >= most {
            return Err(Fault::LongTarget);
        }
        // At once, for one of a client that waits for an answer may never be followed by an empty line.
        let old = request_line(ended(&bytes[..first])?)?;
        let fields = &bytes[first + 1..];
        // Mostly all of it is here, and good.
        if self.searched == 0
            && let Ok(Some((at, length))) = judge(fields, old, self.limits.fields)
            && first + 1 + length <= most
        {
            self.at = at;
            *heads += 1;
            return Ok(first + 1 + length);
        }
        let end = match self.head_end(bytes, first) {
            Some(end) if end <= most => end,
            None if bytes.len() <= most => return Ok(0),
            _ => return Err(Fault::LongHead),
        };
        self.searched = 0;
        match judge(&bytes[first + 1..end], old, self.limits.fields)? {
            Some((at, length)) if first + 1 + length == end => self.at = at,
            _ => return Err(Fault::LineEnd),
        }
        *heads += 1;
        Ok(end)
    }

    /// Where the head ends: behind its first empty line, be it one with LF alone. `first`: where the first
    /// line ends.
    fn head_end(&mut self, bytes: &[u8], first: usize) -> Option<usize> {
        // The end may have begun with the last bytes that were here before.
        let mut from = self.searched.saturating_sub(3).max(first);
        while let Some(at) = memchr::memchr(b'\n', &bytes[from..]) {
            let next = from + at + 1;
            match &bytes[next..] {
                [b'\n', ..] => return Some(next + 1),
                [b'\r', b'\n', ..] => return Some(next + 2),
                _ => from = next,
            }
        }
        self.searched = bytes.len();
        None
    }
}

/// What the fields of a head say of what follows it, and their length up to the end of the empty line;
/// none if that is not here. `old`: it is one of HTTP/1.0.
fn judge(fields: &[u8], old: bool, most: usize) -> Result<Option<(At, usize)>, Fault> {
    let (mut length, mut coded, mut hosts) = (None, false, 0);
    let mut at = 0;
    for number in 0.. {
        let Some(end) = memchr::memchr(b'\n', &fields[at..]) else { return Ok(None) };
        let line = ended(&fields[at..at + end])?;
        at += end + 1;
        if line.is_empty() {
            break;
        }
        if number == most {
            return Err(Fault::LongHead);
        }
        let (name, value) = field(line).ok_or(Fault::Field)?;
        match name.len() {
            4 if is(name, "host") => hosts += 1,
            14 if is(name, "content-length") => {
                let before = length.replace(content_length(value)?);
                if before.is_some() {
                    return Err(Fault::Length);
                }
            }
            17 if is(name, "transfer-encoding") => {
                if old {
                    return Err(Fault::OldCoding);
                }
                if coded || !is(value, "chunked") {
                    return Err(Fault::Coding);
                }
                coded = true;
            }
            _ => {}
        }
    }
    if hosts > 1 {
        return Err(Fault::TwoHosts);
    }
    let next = match (length, coded) {
        (Some(_), true) => return Err(Fault::TwoLengths),
        (None, true) => At::ChunkSize,
        (Some(length @ 1..), false) => At::Rest(length),
        (Some(0) | None, false) => At::Head(0),
    };
    Ok(Some((next, at)))
}

/// Whether it is one of HTTP/1.0.
fn request_line(line: &[u8]) -> Result<bool, Fault> {
    let first = memchr::memchr(b' ', line).ok_or(Fault::RequestLine)?;
    let last = memchr::memrchr(b' ', line).filter(|last| *last > first + 1).ok_or(Fault::RequestLine)?;
    let (method, target, version) = (&line[..first], &line[first + 1..last], &line[last + 1..]);
    // A fragment never leaves its client, and is dropped where one comes: the server would see less than
    // was looked at elsewhere.
    let odd = |byte: &u8| *byte <= b' ' || *byte == 0x7f || *byte == b'#';
    // Over all of them, which takes less time than to look for the first.
    if !is_token(method) || target.iter().fold(false, |found, byte| found | odd(byte)) {
        return Err(Fault::RequestLine);
    }
    match version {
        b"HTTP/1.1" => Ok(false),
        b"HTTP/1.0" => Ok(true),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor] => {
            let number = major.is_ascii_digit() && minor.is_ascii_digit();
            Err(if number { Fault::Version } else { Fault::RequestLine })
        }
        _ => Err(Fault::RequestLine),
    }
}

/// A line up to its LF, without the CR that must stand before that. One that stands anywhere else is no part
/// of anything, and found where that is looked at.
fn ended(line: &[u8]) -> Result<&[u8], Fault> {
    match line {
        [line @ .., b'\r'] => Ok(line),
        _ => Err(Fault::LineEnd),
    }
}

/// A line of at most `most` bytes, without its end; none if it is not complete yet.
fn line(bytes: &[u8], most: usize, fault: Fault) -> Result<Option<&[u8]>, Fault> {
    let most = most.saturating_add(2).min(bytes.len().saturating_add(1));
    match memchr::memchr(b'\n', &bytes[..most.min(bytes.len())]) {
        Some(at) => ended(&bytes[..at]).map(Some).map_err(|_| fault),
        None if bytes.len() >= most => Err(fault),
        None => Ok(None),
    }
}

/// The name and the value of a field line (RFC 9112 section 5), the value without blanks around it.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| !TOKEN[usize::from(*byte)]).filter(|at| *at > 0)?;
    let (name, [b':', value @ ..]) = line.split_at(colon) else { return None };
    // Control characters but the tab; bytes above ASCII are the server's to understand.
    let odd = |byte: &u8| *byte < b' ' && *byte != b'\t' || *byte == 0x7f;
    if value.iter().fold(false, |found, byte| found | odd(byte)) {
        return None;
    }
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let Some(first) = value.iter().position(|byte| !blank(byte)) else { return Some((name, &[])) };
    let last = value.iter().rposition(|byte| !blank(byte)).unwrap_or(first);
    Some((name, &value[first..=last]))
}

fn is(text: &[u8], lower: &str) -> bool {
    text.eq_ignore_ascii_case(lower.as_bytes())
}

fn is_token(text: &[u8]) -> bool {
    !text.is_empty() && text.iter().all(|byte| TOKEN[usize::from(*byte)])
}

/// What a token may have in it (RFC 9110 section 5.6.2).
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let odd = b"!#$%&'*+-.^_`|~";
    let mut at = 0;
    while at < odd.len() {
        table[odd[at] as usize] = true;
        at += 1;
    }
    table
};

fn content_length(value: &[u8]) -> Result<u64, Fault> {
    let digits = value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| digits);
    // No program counts further than this.
    let length = text.and_then(|text| text.parse::<u64>().ok()).filter(|length| *length < 1 << 63);
    length.ok_or(Fault::Length)
}

/// The size of a chunk; its extensions are looked at only so far as they could hide a line's end.
fn chunk_size(line: &[u8]) -> Result<u64, Fault> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (size, rest) = line.split_at(digits);
    let odd = |byte: &u8| *byte < b' ' && *byte != b'\t' || *byte == 0x7f;
    if !(rest.is_empty() || rest.starts_with(b";")) || rest.iter().any(odd) {
        return Err(Fault::Chunk);
    }
    // 15 digits are more than any disk holds.
    let size = std::str::from_utf8(size).ok().filter(|size| (1..=15).contains(&size.len()));
    size.and_then(|size| u64::from_str_radix(size, 16).ok()).ok_or(Fault::Chunk)
}

/// What a trailer section may not say: how to read the message, where it goes and who sends it (RFC 9110
/// section 6.5.1).
const UNTRAILED: [&str; 10] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
];
