//! The listing that a browser gets of a directory.

use std::fmt::Write;
use std::sync::Arc;
use std::vec;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;

use super::{Share, blocking, dialect, fields, set, url};
use crate::body::{Body, BoxError};
use crate::id::{NAME_MAX, Name, RelPath};
use crate::object::{Found, Kind, Timespec};
use crate::tree::TreeError;
use crate::tree::write::Listing;

/// Entries looked at in one go.
const BATCH: usize = 256;
/// Bytes of HTML made at once.
const PIECE: usize = 32 << 10;
/// Most bytes of entries that are held for a client while it reads: some 10,000 are sorted, and what is in
/// the directory beside those follows as it comes.
pub(super) const HELD_MAX: usize = 1 << 20;

/// One line.
struct Row {
    file: bool,
    name: Name,
    size: u64,
    modified: Timespec,
}

/// Lists the directory at `path`: directories first, each by name. Blocks.
pub(super) fn index(
    share: &Arc<Share>,
    path: &RelPath,
    head: bool,
) -> Result<Response<Body>, StatusCode> {
    let mut answer = Response::new(Body::Empty);
    set(answer.headers_mut(), header::CONTENT_TYPE, "text/html; charset=utf-8");
    if head {
        return Ok(answer);
    }
    let page = Page::open(share, path).map_err(|error| dialect::status(&error))?;
    let pieces = stream::try_unfold(page, |mut page| async {
        let piece = blocking(move || page.piece().map(|piece| piece.map(|piece| (piece, page))));
        match piece.await {
            Ok(piece) => piece.map_err(BoxError::from),
            Err(status) => Err(BoxError::from(status.to_string())),
        }
    });
    *answer.body_mut() = Body::boxed(StreamBody::new(pieces));
    Ok(answer)
}

/// A listing under way.
pub(super) struct Page {
    text: String,
    rows: vec::IntoIter<Row>,
    /// The directory, if it was not read to its end.
    rest: Option<Listing>,
    ended: bool,
}

impl Page {
    pub fn open(share: &Arc<Share>, path: &RelPath) -> Result<Self, TreeError> {
        let names = share.prefix.names().iter().chain(path.names());
        let title = names.fold(String::new(), |title, name| title + "/" + &escape(name)) + "/";
        let up = if path.is_root() { "" } else { "<a href=\"../\">../</a>\n" };
        let (mut rows, mut held) = (Vec::new(), 0);
        let mut rest = Some(share.files.list(path)?);
        while held < HELD_MAX - BATCH * Row::LONGEST
            && let Some(listing) = &mut rest
        {
            let more: Vec<_> = listing.batch(BATCH, true)?.into_iter().map(Row::new).collect();
            if more.is_empty() {
                rest = None;
            }
            held += more.iter().map(Row::held).sum::<usize>();
            rows.extend(more);
        }
        let sorted = match rest {
            Some(_) => format!("<p>What follows the first {} is in no order.</p>\n", rows.len()),
            None => String::new(),
        };
        let text = format!(
            "<!DOCTYPE html>\n<html><head><title>{title}</title></head>\n<body><h1>{title}</h1>\n\
             {sorted}<pre>{up}"
        );
        rows.sort_unstable_by(|a, b| (a.file, &a.name).cmp(&(b.file, &b.name)));
        Ok(Self { text, rows: rows.into_iter(), rest, ended: false })
    }

    /// The next piece of HTML; `None` after the last.
    pub fn piece(&mut self) -> Result<Option<Frame<Bytes>>, TreeError> {
        while self.text.len() < PIECE && !self.ended {
            if let Some(row) = self.rows.next() {
                row.write(&mut self.text);
            } else if let Some(listing) = &mut self.rest {
                let more: Vec<_> = listing.batch(BATCH, true)?.into_iter().map(Row::new).collect();
                if more.is_empty() {
                    self.rest = None;
                }
                self.rows = more.into_iter();
            } else {
                self.text.push_str("</pre></body></html>\n");
                self.ended = true;
            }
        }
        let text = std::mem::take(&mut self.text);
        Ok((!text.is_empty()).then(|| Frame::data(Bytes::from(text))))
    }

    /// Bytes of entries that are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.rows.as_slice().iter().map(Row::held).sum()
    }
}

impl Row {
    /// Bytes that the longest name makes of one.
    const LONGEST: usize = size_of::<Self>() + NAME_MAX;

    fn new((name, found): (Name, Found)) -> Self {
        let file = found.kind != Kind::Directory;
        Self { file, name, size: found.size, modified: found.attrs.mtime }
    }

    fn held(&self) -> usize {
        size_of::<Self>() + self.name.as_bytes().len()
    }

    fn write(&self, html: &mut String) {
        let slash = if self.file { "" } else { "/" };
        let (link, name) = (url::encode_name(&self.name), escape(&self.name));
        let modified = httpdate::fmt_http_date(fields::http_time(self.modified));
        let size = if self.file { self.size.to_string() } else { "-".into() };
        // `./` keeps a name from being taken for anything but a name. Writing to a string never fails.
        let _ = writeln!(html, "<a href=\"./{link}{slash}\">{name}{slash}</a>  {modified}  {size}");
    }
}

fn escape(name: &Name) -> String {
    let mut text = String::new();
    for char in String::from_utf8_lossy(name.as_bytes()).chars() {
        match char {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&#39;"),
            char => text.push(char),
        }
    }
    text
}
