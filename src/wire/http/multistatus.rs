//! The filter over 207 answers (RFC 4918 section 13): leaves out what lies in `.nearshare`, and moves
//! the URLs of another site's server to this site's prefix. Every other byte passes as it came.
//!
//! It is fed as the answer arrives and holds back only a `response` element up to its first `href`.

use std::fmt;
use std::sync::Arc;

use ::http::HeaderValue;

use super::etag::EntityTag;
use super::lock::SUPPORTED;
use super::prefix::{Move, absolute_path, names_ours};

/// Longest single tag, comment or CDATA section.
pub const TOKEN_MAX: usize = 256 * 1024;
/// Most bytes of one `response` before its first `href`.
pub const HELD_MAX: usize = 64 * 1024;
/// Longest `href`: a path of 4096 bytes, all escaped twice, and an authority.
pub const HREF_MAX: usize = 64 * 1024;
/// Deepest nesting of elements.
pub const DEPTH_MAX: usize = 128;
/// Longest `getetag`, with its element; a longer one is left out.
const GETETAG_MAX: usize = 1024;
/// Most namespace declarations in force at once.
pub const NAMESPACES_MAX: usize = 1024;

/// Why a multistatus cannot be passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MultistatusError {
    #[error("a multistatus of the server {what} is longer than {limit} bytes")]
    TooLong { what: &'static str, limit: usize },
    #[error("a multistatus of the server is nested deeper than {DEPTH_MAX} elements")]
    TooDeep,
    #[error("a multistatus of the server declares more than {NAMESPACES_MAX} namespaces")]
    Namespaces,
    #[error("a multistatus of the server ends in the middle")]
    CutOff,
}

type Result<T, E = MultistatusError> = std::result::Result<T, E>;

/// Says which locks there are, for the path of a URL, as `lockdiscovery` has them; `None` for a place that is
/// not the teller's to know of.
#[derive(Clone)]
pub struct Tell(Arc<Discovery>);

type Discovery = dyn Fn(&str) -> Option<String> + Send + Sync;

impl Tell {
    pub fn new(tell: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for Tell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tell")
    }
}

/// One answer being filtered.
#[derive(Debug, Default)]
pub struct Multistatus {
    moved: Option<Move>,
    tagger: Option<Tagger>,
    drop_locks: bool,
    tell: Option<Tell>,
    /// What arrived and is not yet a whole token.
    rest: Vec<u8>,
    search: Search,
    depth: usize,
    namespaces: Vec<Namespace>,
    response: Response,
    href: Option<Href>,
    /// What the first `href` of the response says.
    url: Option<String>,
    getetag: Option<Element>,
    /// Whether the response has had its `lockdiscovery` and `supportedlock`: a request can name them a thousand
    /// times, and some servers answer each.
    told: [bool; 2],
    /// The depth of the element that is being left out.
    skipping: Option<usize>,
}

/// What becomes of a `getetag`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Getetag {
    Keep,
    Drop,
    Say(HeaderValue),
}

/// Decides it, by the URL that the response is about, if that is known yet, and the tag.
pub struct Tagger(Box<Decide>);

type Decide = dyn FnMut(Option<&str>, EntityTag<'_>) -> Getetag + Send;

impl Tagger {
    pub fn new(decide: impl FnMut(Option<&str>, EntityTag<'_>) -> Getetag + Send + 'static) -> Self {
        Self(Box::new(decide))
    }
    /// For what another site answered: only our tags mean anything here.
    pub fn ours() -> Self {
        Self::new(|_, tag| if tag.ours().is_some() { Getetag::Keep } else { Getetag::Drop })
    }
}

impl fmt::Debug for Tagger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tagger")
    }
}

#[derive(Debug)]
struct Namespace {
    depth: usize,
    /// Empty for the default namespace.
    prefix: Vec<u8>,
    dav: bool,
}

#[derive(Debug)]
struct Href {
    depth: usize,
    /// Escaped as text.
    text: Vec<u8>,
}

/// A `getetag`, until its end.
#[derive(Debug)]
struct Element {
    depth: usize,
    /// With its tags.
    raw: Vec<u8>,
    start: usize,
    /// Escaped as text.
    text: Vec<u8>,
    /// It is too long, or holds more than text.
    odd: bool,
}

/// The `response` we are in.
#[derive(Debug, Default)]
enum Response {
    #[default]
    None,
    /// No `href` seen yet: what it had so far.
    Undecided(Vec<u8>),
    Kept,
    Dropped,
}

impl Multistatus {
    /// `moved`: the answer was written for another site's URLs. `tagger`: for each `getetag`; without one
    /// they pass.
    pub fn new(moved: Option<Move>, tagger: Option<Tagger>) -> Self {
        Self { moved, tagger, ..Self::default() }
    }

    /// Leaves out what its server says of locks: it is not the one that has them.
    pub fn without_locks(self) -> Self {
        Self { drop_locks: true, ..self }
    }

    /// Puts what is told in the place of what its server says of locks.
    pub fn with_locks(self, tell: Tell) -> Self {
        Self { tell: Some(tell), ..self.without_locks() }
    }

    /// Takes the next bytes of the answer and appends what may be sent on.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.rest);
        buffer.extend_from_slice(input);
        let mut at = 0;
        while let Some(token) = Token::next(&buffer[at..], &mut self.search) {
            self.search.at = 0;
            self.token(token, out)?;
            at += token.raw.len();
        }
        buffer.drain(..at);
        if buffer.len() > TOKEN_MAX {
            return Err(MultistatusError::TooLong { what: "(one tag)", limit: TOKEN_MAX });
        }
        self.rest = buffer;
        Ok(())
    }

    /// The answer has ended.
    pub fn finish(self) -> Result<()> {
        if self.rest.is_empty() && self.depth == 0 { Ok(()) } else { Err(MultistatusError::CutOff) }
    }

    fn token(&mut self, token: Token<'_>, out: &mut Vec<u8>) -> Result<()> {
        match token.kind {
            Kind::Start => self.start(token.raw, out),
            Kind::End => self.end(token.raw, out),
            _ if self.skipping.is_some() => Ok(()),
            _ if self.getetag.is_some() => {
                self.getetag_text(token);
                Ok(())
            }
            Kind::Text | Kind::CData if self.href.is_some() => self.href_text(token),
            Kind::Text | Kind::CData | Kind::Other => self.emit(token.raw, out),
        }
    }

    fn start(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let empty = raw.ends_with(b"/>");
        if self.depth >= DEPTH_MAX {
            return Err(MultistatusError::TooDeep);
        }
        self.depth += 1;
        self.declare(raw)?;
        match self.dav_name(raw) {
            _ if self.skipping.is_some() => {}
            _ if self.getetag.is_some() => self.more_of_getetag(raw, true),
            Some(b"getetag") if self.tagger.is_some() && !empty => {
                let (raw, start) = (raw.to_vec(), raw.len());
                let odd = start > GETETAG_MAX;
                self.getetag = Some(Element { depth: self.depth, raw, start, text: Vec::new(), odd });
            }
            Some(name @ (b"lockdiscovery" | b"supportedlock")) if self.drop_locks => {
                let told = self.told(name);
                self.emit(told.as_bytes(), out)?;
                self.skipping = Some(self.depth);
            }
            name => {
                match name {
                    Some(b"response") if self.depth == 2 && !empty => {
                        self.response = Response::Undecided(Vec::new());
                        self.url = None;
                        self.told = [false; 2];
                    }
                    Some(b"href") if !empty && self.href.is_none() => {
                        self.href = Some(Href { depth: self.depth, text: Vec::new() });
                    }
                    _ => {}
                }
                self.emit(raw, out)?;
            }
        }
        if empty {
            self.close();
        }
        Ok(())
    }

    fn end(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match &self.getetag {
            _ if self.skipping.is_some() => {}
            Some(element) if element.depth == self.depth => self.end_getetag(raw, out)?,
            Some(_) => self.more_of_getetag(raw, true),
            None => {
                if self.href.as_ref().is_some_and(|href| href.depth == self.depth) {
                    self.end_href(out)?;
                }
                self.emit(raw, out)?;
            }
        }
        if self.depth == 2 {
            // A response without any href names nothing, and is nobody's secret.
            if let Response::Undecided(held) = std::mem::take(&mut self.response) {
                out.extend_from_slice(&held);
            }
        }
        self.close();
        Ok(())
    }

    /// The element that takes the place of the server's, if there is one: once in a response.
    fn told(&mut self, name: &[u8]) -> String {
        let discovery = name == b"lockdiscovery";
        let place = self.url.as_deref().and_then(absolute_path);
        let Some((place, Tell(tell))) = place.zip(self.tell.as_ref()) else { return String::new() };
        if self.told[usize::from(discovery)] {
            return String::new();
        }
        let Some(inside) = tell(place) else { return String::new() };
        self.told[usize::from(discovery)] = true;
        match discovery {
            true => format!("<D:lockdiscovery xmlns:D=\"DAV:\">{inside}</D:lockdiscovery>"),
            false => format!("<D:supportedlock xmlns:D=\"DAV:\">{SUPPORTED}</D:supportedlock>"),
        }
    }

    fn close(&mut self) {
        if self.skipping == Some(self.depth) {
            self.skipping = None;
        }
        while self.namespaces.last().is_some_and(|space| space.depth >= self.depth) {
            self.namespaces.pop();
        }
        self.depth = self.depth.saturating_sub(1);
    }

    fn emit(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        match &mut self.response {
            Response::Dropped => {}
            Response::Undecided(held) => {
                held.extend_from_slice(raw);
                if held.len() > HELD_MAX {
                    return Err(MultistatusError::TooLong { what: "before its href", limit: HELD_MAX });
                }
            }
            Response::None | Response::Kept => out.extend_from_slice(raw),
        }
        Ok(())
    }

    fn href_text(&mut self, token: Token<'_>) -> Result<()> {
        let Some(href) = &mut self.href else { return Ok(()) };
        token.add_text(&mut href.text);
        if href.text.len() > HREF_MAX {
            return Err(MultistatusError::TooLong { what: "href", limit: HREF_MAX });
        }
        Ok(())
    }

    fn getetag_text(&mut self, token: Token<'_>) {
        self.more_of_getetag(token.raw, false);
        if let Some(element) = &mut self.getetag
            && !element.odd
        {
            token.add_text(&mut element.text);
        }
    }

    fn more_of_getetag(&mut self, raw: &[u8], odd: bool) {
        let Some(element) = &mut self.getetag else { return };
        element.odd |= odd || element.raw.len() + raw.len() > GETETAG_MAX;
        if !element.odd {
            element.raw.extend_from_slice(raw);
        }
    }

    fn end_getetag(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let Some(element) = self.getetag.take() else { return Ok(()) };
        let text = unescaped(&element.text);
        let tag = text.as_ref().and_then(|text| EntityTag::parse(text.as_bytes()));
        let said = match (tag, &mut self.tagger) {
            (Some(tag), Some(tagger)) if !element.odd => (tagger.0)(self.url.as_deref(), tag),
            _ => Getetag::Drop,
        };
        match said {
            Getetag::Keep => self.emit(&[&element.raw, raw].concat(), out),
            Getetag::Drop => Ok(()),
            Getetag::Say(tag) => {
                // Its name ends the element as it began it.
                let text = String::from_utf8_lossy(tag.as_bytes());
                let text = quick_xml::escape::partial_escape(text);
                self.emit(&[&element.raw[..element.start], text.as_bytes(), raw].concat(), out)
            }
        }
    }

    fn end_href(&mut self, out: &mut Vec<u8>) -> Result<()> {
        let Some(href) = self.href.take() else { return Ok(()) };
        let url = unescaped(&href.text);
        if self.url.is_none() {
            self.url.clone_from(&url);
        }
        if let Response::Undecided(held) = &mut self.response {
            let held = std::mem::take(held);
            if url.as_deref().is_some_and(names_ours) {
                self.response = Response::Dropped;
            } else {
                self.response = Response::Kept;
                out.extend_from_slice(&held);
            }
        }
        let moved = url.and_then(|url| self.moved.as_ref()?.apply(&url));
        match moved {
            Some(url) => {
                let text = quick_xml::escape::partial_escape(url.as_str()).into_owned();
                self.emit(text.as_bytes(), out)
            }
            None => self.emit(&href.text, out),
        }
    }

    /// Notes the namespaces that a start tag declares.
    fn declare(&mut self, raw: &[u8]) -> Result<()> {
        for (name, value) in Attributes(tag_inside(raw)) {
            let prefix = match name.strip_prefix(b"xmlns") {
                Some(b"") => &b""[..],
                Some([b':', prefix @ ..]) => prefix,
                _ => continue,
            };
            if self.namespaces.len() >= NAMESPACES_MAX {
                return Err(MultistatusError::Namespaces);
            }
            let dav = value.trim_ascii() == b"DAV:";
            self.namespaces.push(Namespace { depth: self.depth, prefix: prefix.to_vec(), dav });
        }
        Ok(())
    }

    /// The local name of a start tag in the namespace `DAV:`.
    fn dav_name<'a>(&self, raw: &'a [u8]) -> Option<&'a [u8]> {
        let name = tag_name(raw);
        let (prefix, local) = match name.iter().position(|byte| *byte == b':') {
            Some(at) => (&name[..at], &name[at + 1..]),
            None => (&b""[..], name),
        };
        let space = self.namespaces.iter().rev().find(|space| space.prefix == prefix)?;
        space.dav.then_some(local)
    }
}

const CDATA: &[u8] = b"<![CDATA[";

/// The smallest piece of XML that can be looked at by itself.
#[derive(Debug, Clone, Copy)]
struct Token<'a> {
    kind: Kind,
    raw: &'a [u8],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Start,
    End,
    /// Up to the next tag, or as much of it as has arrived.
    Text,
    CData,
    /// Comments, processing instructions, declarations.
    Other,
}

/// How far a token that has not arrived whole was searched for its end, so that no byte is looked at again
/// for each that comes.
#[derive(Debug, Default)]
struct Search {
    at: usize,
    /// The quoted value of a start tag that `at` is in.
    quote: Option<u8>,
}

impl<'a> Token<'a> {
    /// `None` when more bytes are needed to know; they are to be asked for with the same `search`, which is
    /// to begin at 0 again after a token.
    fn next(buffer: &'a [u8], search: &mut Search) -> Option<Self> {
        let whole = |kind, end: Option<usize>| Some(Token { kind, raw: &buffer[..end?] });
        match buffer {
            [] => None,
            [b'<'] => None,
            [b'<', b'/', ..] => whole(Kind::End, search.past(buffer, b">", 2)),
            [b'<', b'?', ..] => whole(Kind::Other, search.past(buffer, b"?>", 2)),
            [b'<', b'!', ..] if buffer.starts_with(b"<!--") => {
                whole(Kind::Other, search.past(buffer, b"-->", 4))
            }
            [b'<', b'!', ..] if buffer.starts_with(CDATA) => {
                whole(Kind::CData, search.past(buffer, b"]]>", CDATA.len()))
            }
            [b'<', b'!', ..] if b"<!--".starts_with(buffer) || CDATA.starts_with(buffer) => None,
            [b'<', b'!', ..] => whole(Kind::Other, search.past(buffer, b">", 2)),
            [b'<', ..] => whole(Kind::Start, search.past_tag(buffer)),
            _ => {
                let end = buffer.iter().position(|byte| *byte == b'<').unwrap_or(buffer.len());
                whole(Kind::Text, Some(end))
            }
        }
    }
}

impl Token<'_> {
    /// Adds the text that it is, escaped, if it is any.
    fn add_text(self, text: &mut Vec<u8>) {
        match self.kind {
            Kind::CData => {
                let inner = String::from_utf8_lossy(&self.raw[CDATA.len()..self.raw.len() - 3]);
                text.extend_from_slice(quick_xml::escape::partial_escape(inner).as_bytes());
            }
            Kind::Text => text.extend_from_slice(self.raw),
            Kind::Start | Kind::End | Kind::Other => {}
        }
    }
}

/// What an element's text says.
fn unescaped(text: &[u8]) -> Option<String> {
    let text = quick_xml::escape::unescape(std::str::from_utf8(text).ok()?).ok()?;
    Some(text.trim().to_owned())
}

impl Search {
    /// Past the first `needle` that does not begin before `from`.
    fn past(&mut self, buffer: &[u8], needle: &[u8], from: usize) -> Option<usize> {
        let from = self.at.max(from);
        let windows = buffer.get(from..)?.windows(needle.len());
        let unseen = windows.len();
        let found = windows.into_iter().position(|window| window == needle);
        self.at = from + unseen;
        Some(from + found? + needle.len())
    }

    /// Past the `>` of a start tag, which may stand in a quoted value too.
    fn past_tag(&mut self, buffer: &[u8]) -> Option<usize> {
        for (at, byte) in buffer.iter().enumerate().skip(self.at) {
            match (self.quote, byte) {
                (None, b'>') => return Some(at + 1),
                (None, b'"' | b'\'') => self.quote = Some(*byte),
                (Some(open), byte) if open == *byte => self.quote = None,
                _ => {}
            }
        }
        self.at = buffer.len();
        None
    }
}

fn tag_name(raw: &[u8]) -> &[u8] {
    let inside = raw.get(1..).unwrap_or_default();
    let ends = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, b'/' | b'>');
    &inside[..inside.iter().position(ends).unwrap_or(inside.len())]
}

/// What follows the name in a start tag.
fn tag_inside(raw: &[u8]) -> &[u8] {
    &raw[(1 + tag_name(raw).len()).min(raw.len())..]
}

/// The attributes of a start tag, values as they are written.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (&'a [u8], &'a [u8]);
    fn next(&mut self) -> Option<Self::Item> {
        let equals = self.0.iter().position(|byte| *byte == b'=')?;
        let name = self.0[..equals].trim_ascii();
        let value = self.0[equals + 1..].trim_ascii_start();
        let (quote, value) = value.split_first()?;
        let end = value.iter().position(|byte| byte == quote)?;
        self.0 = &value[end + 1..];
        Some((name, &value[..end]))
    }
}

#[cfg(test)]
mod tests;
