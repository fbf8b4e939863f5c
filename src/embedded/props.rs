//! PROPFIND (RFC 4918 section 9.1): a listing of any size, made piece by piece as it is sent.
//!
//! `dav-server` has one too, but leaves out the properties that were asked for and are not there,
//! which its section 9.1 requires to be named, and puts an unquoted ETag into getetag.

use std::sync::Arc;
use std::vec;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use quick_xml::escape::escape;

use super::url::{self, Place};
use super::{Share, blocking, collect, dialect, fields, patch, set};
use crate::body::{Body, BoxError};
use crate::id::{Name, RelPath};
use crate::object::{Found, Kind};
use crate::tree::TreeError;
use crate::tree::write::Listing;
use crate::wire::http::xml::{self, APACHE, Ask, DAV, Dead, USUAL, element, propstat};

/// Bytes of XML made at once: a piece is longer by no more than what is said of one thing, the longest of which
/// has all the properties that it may have, and is asked for as many that it has not.
const PIECE: usize = 64 << 10;
/// Entries looked at in one go.
const BATCH: usize = 128;

pub(super) const BEGIN: &str =
    "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\">";
pub(super) const END: &str = "</D:multistatus>\n";

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
    let ask = xml::propfind(&collect(body).await?).ok_or(StatusCode::BAD_REQUEST)?.without_usual();
    let depth = depth.unwrap_or(Depth::Infinity);
    let begin = move || {
        let found = share.files.stat(&place.path, true).map_err(|error| dialect::status(&error))?;
        let space = asks_space(&ask).then(|| share.files.space().ok()).flatten();
        let is_dir = found.kind == Kind::Directory;
        let dead = share.properties && asks_dead(&ask);
        let mut walk = Walk {
            paper: Paper { share, ask, space, dead },
            depth,
            text: BEGIN.to_owned(),
            listing: None,
            left: Vec::new(),
            ended: false,
        };
        let written = walk.paper.response(&mut walk.text, &place.path, &found);
        written.map_err(|error| dialect::status(&error))?;
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
    listing: Option<Open>,
    left: Vec<RelPath>,
    ended: bool,
}

/// A directory being listed, and what was looked at of it and is not written yet.
struct Open {
    path: RelPath,
    listing: Listing,
    batch: vec::IntoIter<(Name, Found)>,
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

    /// Writes of one thing at most.
    fn step(&mut self) -> Result<(), TreeError> {
        let Some(mut open) = self.listing.take() else { return self.next_directory() };
        // A symbolic link is shown as what it leads to; below the first level only if that is no
        // directory, so that no link leads in circles.
        let endless = self.depth == Depth::Infinity;
        let Some((name, mut found)) = open.batch.next() else {
            let batch = open.listing.batch(BATCH, !endless)?;
            if !batch.is_empty() {
                self.listing = Some(Open { batch: batch.into_iter(), ..open });
            }
            return Ok(());
        };
        let child = open.path.join(name);
        self.listing = Some(open);
        if found.kind == Kind::Symlink {
            match self.paper.share.files.stat(&child, true) {
                Ok(target) if target.kind != Kind::Directory => found = target,
                _ => return Ok(()),
            }
        }
        self.paper.response(&mut self.text, &child, &found)?;
        if endless && found.kind == Kind::Directory {
            self.left.push(child);
        }
        Ok(())
    }

    fn next_directory(&mut self) -> Result<(), TreeError> {
        let Some(path) = self.left.pop() else {
            self.text.push_str(END);
            self.ended = true;
            return Ok(());
        };
        match self.paper.share.files.list(&path) {
            Ok(listing) => {
                self.listing = Some(Open { path, listing, batch: Vec::new().into_iter() });
                Ok(())
            }
            // What has vanished meanwhile is not there. Any other error ends the answer early: a
            // listing that lacks things would be taken for their deletion.
            Err(error) if dialect::status(&error) == StatusCode::NOT_FOUND => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Whether the ask is for what the file system has left (RFC 4331).
fn asks_space(ask: &Ask) -> bool {
    match ask {
        Ask::All(named) | Ask::Named(named) => {
            named.iter().any(|property| property.name.starts_with("quota-"))
        }
        Ask::Names => false,
    }
}

/// Whether it is for properties that clients make up, as far as can be told.
fn asks_dead(ask: &Ask) -> bool {
    match ask {
        Ask::All(_) | Ask::Names => true,
        Ask::Named(named) => !named.iter().all(xml::is_live),
    }
}

/// Writes what is known of one thing.
struct Paper {
    share: Arc<Share>,
    ask: Ask,
    /// Bytes used and bytes in all, if they were asked for (RFC 4331).
    space: Option<(u64, u64)>,
    /// Whether what clients have made up is asked for, and kept.
    dead: bool,
}

impl Paper {
    fn href(&self, path: &RelPath, slash: bool) -> String {
        url::encode(self.share.prefix.names().iter().chain(path.names()), slash)
    }

    fn response(&self, out: &mut String, path: &RelPath, found: &Found) -> Result<(), TreeError> {
        let href = self.href(path, found.kind == Kind::Directory);
        let (mut there, mut missing) = (String::new(), String::new());
        let dead = if self.dead { patch::of(&self.share, path)? } else { Dead::default() };
        match &self.ask {
            Ask::All(_) | Ask::Names => {
                for name in USUAL {
                    if let Some(value) = self.value(DAV, name, path, found) {
                        let value = if self.ask == Ask::Names { "" } else { &value };
                        element(&mut there, name, value);
                    }
                }
                self.made_up(&mut there, &dead);
            }
            Ask::Named(_) => {}
        }
        if let Ask::All(named) | Ask::Named(named) = &self.ask {
            for property in named {
                match self.value(&property.namespace, &property.name, path, found) {
                    Some(value) => property.write(&mut there, &value),
                    None => match dead.get(property) {
                        Some(element) => there.push_str(element),
                        None => property.write(&mut missing, ""),
                    },
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
        Ok(())
    }

    /// Writes those that nobody had to name.
    fn made_up(&self, out: &mut String, dead: &Dead) {
        for (property, element) in dead.iter() {
            match &self.ask {
                Ask::Names => property.write(out, ""),
                Ask::All(named) | Ask::Named(named) if named.contains(property) => {}
                Ask::All(_) | Ask::Named(_) => out.push_str(element),
            }
        }
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
            // For who keeps the locks to fill in.
            (DAV, "lockdiscovery" | "supportedlock") => Some(String::new()),
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
