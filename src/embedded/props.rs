//! PROPFIND (RFC 4918 section 9.1): a listing of any size, made piece by piece as it is sent.
//!
//! `dav-server` has one too, but leaves out the properties that were asked for and are not there,
//! which its section 9.1 requires to be named, and puts an unquoted ETag into getetag.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use quick_xml::escape::{escape, unescape};
use quick_xml::events::{BytesStart, Event};
use quick_xml::name::{Namespace, ResolveResult};
use quick_xml::reader::NsReader;

use super::url::{self, Place};
use super::{Share, blocking, dialect, fields, set};
use crate::body::{self, Body, BoxError};
use crate::id::RelPath;
use crate::object::{Found, Kind};
use crate::tree::TreeError;
use crate::tree::write::Listing;

/// Longest request body. The longest real ones ask for some thirty properties in 2 KiB.
const BODY_MAX: usize = 64 << 10;
/// Most properties that one request may name: each is repeated for each thing listed.
const NAMED_MAX: usize = 128;
/// Bytes of XML made at once, and entries looked at for it.
const PIECE: usize = 64 << 10;
const BATCH: usize = 128;

const DAV: &str = "DAV:";
const APACHE: &str = "http://apache.org/dav/props/";

/// How far down a listing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    Zero,
    One,
    Infinity,
}

/// Answers a PROPFIND. `depth` is what was asked for; nothing means infinity (RFC 4918 section 9.1).
pub(super) async fn propfind<B>(
    share: Arc<Share>,
    place: Place,
    depth: Option<Depth>,
    body: B,
) -> Result<Response<Body>, StatusCode>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let body = body::collect(body, BODY_MAX).await.map_err(|error| match error {
        body::CollectError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        body::CollectError::Broken(_) => StatusCode::BAD_REQUEST,
    })?;
    let ask = parse(&body).ok_or(StatusCode::BAD_REQUEST)?;
    let depth = depth.unwrap_or(Depth::Infinity);
    let begin = move || {
        let found = share.files.stat(&place.path, true).map_err(|error| dialect::status(&error))?;
        let space = ask.names_space().then(|| share.files.space().ok()).flatten();
        let is_dir = found.kind == Kind::Directory;
        let mut walk = Walk {
            paper: Paper { share, ask, space },
            depth,
            text: String::from(
                "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\">",
            ),
            listing: None,
            left: Vec::new(),
            ended: false,
        };
        walk.paper.response(&mut walk.text, &place.path, &found);
        let location = (is_dir && !place.slash).then(|| walk.paper.href(&place.path, true));
        if is_dir && depth != Depth::Zero {
            walk.left.push(place.path);
        }
        Ok::<_, StatusCode>((walk, location))
    };
    let (walk, location) = blocking(begin).await??;
    let pieces = stream::try_unfold(walk, |mut walk| async {
        let piece = blocking(move || walk.piece().map(|piece| piece.map(|piece| (piece, walk))));
        match piece.await {
            Ok(piece) => piece.map_err(BoxError::from),
            Err(status) => Err(BoxError::from(status.to_string())),
        }
    });
    let mut answer = Response::new(Body::boxed(StreamBody::new(pieces)));
    *answer.status_mut() = StatusCode::MULTI_STATUS;
    set(answer.headers_mut(), header::CONTENT_TYPE, "application/xml; charset=utf-8");
    if let Some(location) = location {
        set(answer.headers_mut(), header::CONTENT_LOCATION, &location);
    }
    Ok(answer)
}

/// A listing under way: one open directory, and the directories that are still to be listed.
struct Walk {
    paper: Paper,
    depth: Depth,
    text: String,
    listing: Option<(RelPath, Listing)>,
    left: Vec<RelPath>,
    ended: bool,
}

impl Walk {
    /// The next piece of XML; `None` after the last.
    fn piece(&mut self) -> Result<Option<Frame<Bytes>>, TreeError> {
        while self.text.len() < PIECE && !self.ended {
            self.step()?;
        }
        let text = std::mem::take(&mut self.text);
        Ok((!text.is_empty()).then(|| Frame::data(Bytes::from(text))))
    }

    fn step(&mut self) -> Result<(), TreeError> {
        let Some((path, mut listing)) = self.listing.take() else {
            match self.left.pop() {
                None => {
                    self.text.push_str("</D:multistatus>\n");
                    self.ended = true;
                }
                Some(path) => match self.paper.share.files.list(&path) {
                    Ok(listing) => self.listing = Some((path, listing)),
                    // What has vanished meanwhile is not there. Any other error ends the answer
                    // early: a listing that lacks things would be taken for their deletion.
                    Err(error) if dialect::status(&error) == StatusCode::NOT_FOUND => {}
                    Err(error) => return Err(error),
                },
            }
            return Ok(());
        };
        // A symbolic link is shown as what it leads to; below the first level only if that is no
        // directory, so that no link leads in circles.
        let endless = self.depth == Depth::Infinity;
        let batch = listing.batch(BATCH, !endless)?;
        let more = !batch.is_empty();
        for (name, mut found) in batch {
            let child = path.join(name);
            if found.kind == Kind::Symlink {
                match self.paper.share.files.stat(&child, true) {
                    Ok(target) if target.kind != Kind::Directory => found = target,
                    _ => continue,
                }
            }
            self.paper.response(&mut self.text, &child, &found);
            if endless && found.kind == Kind::Directory {
                self.left.push(child);
            }
        }
        if more {
            self.listing = Some((path, listing));
        }
        Ok(())
    }
}

/// What a request asks for (RFC 4918 section 14.20).
#[derive(Debug, PartialEq, Eq)]
enum Ask {
    /// All that are there, and those named beside them.
    All(Vec<Property>),
    Names,
    Named(Vec<Property>),
}

/// A property's name, unescaped.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Property {
    namespace: String,
    name: String,
}

impl Ask {
    fn names_space(&self) -> bool {
        match self {
            Self::All(named) | Self::Named(named) => {
                named.iter().any(|property| property.name.starts_with("quota-"))
            }
            Self::Names => false,
        }
    }
}

/// The properties of RFC 4918 section 15 that there are here, each of which most things have. (No
/// locks are kept, and of no thing is it known when it was made.)
const USUAL: [&str; 5] =
    ["getcontentlength", "getcontenttype", "getetag", "getlastmodified", "resourcetype"];

/// Writes what is known of one thing.
struct Paper {
    share: Arc<Share>,
    ask: Ask,
    /// Bytes used and bytes in all, if they were asked for (RFC 4331).
    space: Option<(u64, u64)>,
}

impl Paper {
    fn href(&self, path: &RelPath, slash: bool) -> String {
        url::encode(self.share.prefix.names().iter().chain(path.names()), slash)
    }

    fn response(&self, out: &mut String, path: &RelPath, found: &Found) {
        let href = self.href(path, found.kind == Kind::Directory);
        let (mut there, mut missing) = (String::new(), String::new());
        match &self.ask {
            Ask::All(_) | Ask::Names => {
                for name in USUAL {
                    if let Some(value) = self.value(DAV, name, path, found) {
                        let value = if self.ask == Ask::Names { "" } else { &value };
                        element(&mut there, name, value);
                    }
                }
            }
            Ask::Named(_) => {}
        }
        if let Ask::All(named) | Ask::Named(named) = &self.ask {
            for Property { namespace, name } in named {
                match self.value(namespace, name, path, found) {
                    Some(value) if namespace == DAV => element(&mut there, name, &value),
                    Some(value) => foreign(&mut there, namespace, name, &value),
                    None if namespace == DAV => element(&mut missing, name, ""),
                    None => foreign(&mut missing, namespace, name, ""),
                }
            }
        }
        out.push_str("<D:response><D:href>");
        out.push_str(&href);
        out.push_str("</D:href>");
        // At least one must be there.
        if !there.is_empty() || missing.is_empty() {
            propstat(out, &there, "200 OK");
        }
        if !missing.is_empty() {
            propstat(out, &missing, "404 Not Found");
        }
        out.push_str("</D:response>");
    }

    /// A property's value as XML; `None` if the thing has none of that name.
    fn value(&self, namespace: &str, name: &str, path: &RelPath, found: &Found) -> Option<String> {
        let is_dir = found.kind == Kind::Directory;
        match (namespace, name) {
            (DAV, "resourcetype") if is_dir => Some("<D:collection/>".into()),
            (DAV, "resourcetype") => Some(String::new()),
            (DAV, "getcontentlength") if !is_dir => Some(found.size.to_string()),
            (DAV, "getcontenttype") if is_dir => Some("httpd/unix-directory".into()),
            (DAV, "getcontenttype") => Some(escape(super::get::mime(path)).into_owned()),
            (DAV, "getlastmodified") => {
                Some(httpdate::fmt_http_date(fields::http_time(found.attrs.mtime)))
            }
            (DAV, "getetag") => self.share.etag(found),
            (DAV, "quota-used-bytes") if is_dir => Some(self.space?.0.to_string()),
            (DAV, "quota-available-bytes") if is_dir => {
                let (used, total) = self.space?;
                Some(total.saturating_sub(used).to_string())
            }
            (APACHE, "executable") if found.kind == Kind::File => {
                Some(if found.attrs.mode & 0o100 != 0 { "T" } else { "F" }.into())
            }
            _ => None,
        }
    }
}

fn propstat(out: &mut String, properties: &str, status: &str) {
    // Writing to a string never fails.
    let _ = write!(
        out,
        "<D:propstat><D:prop>{properties}</D:prop><D:status>HTTP/1.1 {status}</D:status></D:propstat>"
    );
}

fn element(out: &mut String, name: &str, value: &str) {
    let _ = match value {
        "" => write!(out, "<D:{name}/>"),
        value => write!(out, "<D:{name}>{value}</D:{name}>"),
    };
}

fn foreign(out: &mut String, namespace: &str, name: &str, value: &str) {
    let namespace = escape(namespace);
    let _ = match value {
        "" => write!(out, "<{name} xmlns=\"{namespace}\"/>"),
        value => write!(out, "<{name} xmlns=\"{namespace}\">{value}</{name}>"),
    };
}

/// Reads a request's body; `None` is 400. An empty one asks for all.
fn parse(xml: &[u8]) -> Option<Ask> {
    let xml = std::str::from_utf8(xml).ok()?;
    if xml.trim().is_empty() {
        return Some(Ask::All(Vec::new()));
    }
    let mut reader = NsReader::from_str(xml);
    // Names of the open elements that matter: the root's is none, and below a property all is skipped.
    let (mut depth, mut section) = (0u32, String::new());
    let (mut asked, mut named) = (None, Vec::new());
    let mut rooted = false;
    loop {
        let (namespace, event) = reader.read_resolved_event().ok()?;
        let (start, open) = match &event {
            Event::Start(start) => (start, 1),
            Event::Empty(start) => (start, 0),
            Event::End(_) => {
                depth = depth.checked_sub(1)?;
                continue;
            }
            // Entities of a document type are how XML is made to explode.
            Event::DocType(_) => return None,
            Event::Eof if depth == 0 && rooted => break,
            Event::Eof => return None,
            _ => continue,
        };
        let property = property(&namespace, start)?;
        match depth {
            0 if property.is("propfind") && !rooted => rooted = true,
            0 => return None,
            1 => {
                section = if property.namespace == DAV { property.name } else { String::new() };
                match section.as_str() {
                    // The three exclude each other.
                    "prop" | "allprop" | "propname" if asked.replace(section.clone()).is_some() => {
                        return None;
                    }
                    _ => {}
                }
            }
            2 if section == "prop" || section == "include" => named.push(property),
            _ => {}
        }
        if named.len() > NAMED_MAX {
            return None;
        }
        depth += open;
    }
    match asked?.as_str() {
        "prop" => Some(Ask::Named(named)),
        "propname" => Some(Ask::Names),
        _ => {
            named.retain(|property| !USUAL.iter().any(|usual| property.is(usual)));
            Some(Ask::All(named))
        }
    }
}

impl Property {
    fn is(&self, name: &str) -> bool {
        self.namespace == DAV && self.name == name
    }
}

fn property(namespace: &ResolveResult<'_>, start: &BytesStart<'_>) -> Option<Property> {
    let local = start.local_name();
    let name: &str = local.as_ref();
    let namespace = match namespace {
        // A prefix must stand for something (XML Names section 5).
        ResolveResult::Bound(Namespace("")) | ResolveResult::Unknown(_) => return None,
        ResolveResult::Bound(Namespace(raw)) => unescape(raw).ok()?.into_owned(),
        ResolveResult::Unbound => String::new(),
    };
    // It is sent back as it came, so it must be a name.
    let fits =
        |char: char| char.is_alphanumeric() || matches!(char, '-' | '_' | '.') || !char.is_ascii();
    let begins = name.starts_with(|char: char| char.is_alphabetic() || char == '_' || !char.is_ascii());
    (begins && name.chars().all(fits)).then(|| Property { namespace, name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(names: &[(&str, &str)]) -> Vec<Property> {
        let property = |(namespace, name): &(&str, &str)| Property {
            namespace: (*namespace).into(),
            name: (*name).into(),
        };
        names.iter().map(property).collect()
    }

    #[test]
    fn what_is_asked_for() {
        for (xml, want) in [
            ("", Ask::All(vec![])),
            (" \n", Ask::All(vec![])),
            (r#"<propfind xmlns="DAV:"><allprop/></propfind>"#, Ask::All(vec![])),
            (r#"<propfind xmlns="DAV:"><propname/></propfind>"#, Ask::Names),
            (
                r#"<?xml version="1.0"?><D:propfind xmlns:D="DAV:"><D:prop><D:getetag/><x xmlns="urn:a&amp;b">
                   <y/></x><z/></D:prop></D:propfind>"#,
                Ask::Named(named(&[("DAV:", "getetag"), ("urn:a&b", "x"), ("", "z")])),
            ),
            (
                r#"<D:propfind xmlns:D="DAV:"><D:allprop/><D:include><D:getetag/><D:x/></D:include></D:propfind>"#,
                Ask::All(named(&[("DAV:", "x")])),
            ),
            (
                r#"<D:propfind xmlns:D="DAV:"><D:prop/><e xmlns="urn:e"><f/></e></D:propfind>"#,
                Ask::Named(vec![]),
            ),
        ] {
            assert_eq!(parse(xml.as_bytes()), Some(want), "{xml}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let many =
            format!("<propfind xmlns=\"DAV:\"><prop>{}</prop></propfind>", "<x/>".repeat(NAMED_MAX + 1));
        for xml in [
            "<",
            "text",
            "<propfind/>",
            r#"<propfind xmlns="DAV:"/>"#,
            r#"<propfind xmlns="DAV:"><prop/><allprop/></propfind>"#,
            r#"<propfind xmlns="DAV:"><prop></propfind>"#,
            r#"<propfind xmlns="DAV:"><prop>"#,
            r#"<propfind xmlns="DAV:"><prop/></propfind><propfind xmlns="DAV:"><prop/></propfind>"#,
            r#"<prop xmlns="DAV:"><prop/></prop>"#,
            r#"<D:propfind xmlns:D="DAV:"><D:prop><b:x xmlns:b=""/></D:prop></D:propfind>"#,
            r#"<D:propfind xmlns:D="DAV:"><D:prop><b:x/></D:prop></D:propfind>"#,
            r#"<propfind xmlns="DAV:"><prop><a&b/></prop></propfind>"#,
            r#"<!DOCTYPE x [<!ENTITY a "b">]><propfind xmlns="DAV:"><prop/></propfind>"#,
            &many,
        ] {
            assert_eq!(parse(xml.as_bytes()), None, "{xml}");
        }
        assert_eq!(parse(b"<propfind xmlns=\"DAV:\"><prop>\xff</prop></propfind>"), None);
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_xml_is_too_strange(text in r#"(<|>|/|"|=|x|xmlns|DAV:|prop|propfind| |:|&|!|\[|-){0,60}"#) {
            let _ = parse(text.as_bytes());
        }
    }
}
