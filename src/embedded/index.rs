//! The listing that a browser gets of a directory.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;

use super::{Share, dialect, fields, set, url};
use crate::body::{Body, BoxError};
use crate::id::{Name, RelPath};
use crate::object::{Kind, Timespec};

/// Entries looked at in one go.
const BATCH: usize = 256;
/// Bytes of HTML sent at once.
const PIECE: usize = 32 << 10;

/// One line; about 100 bytes a directory entry are held until the listing has been sent.
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
    let mut rows = Vec::new();
    let mut listing = share.files.list(path).map_err(|error| dialect::status(&error))?;
    loop {
        let batch = listing.batch(BATCH, true).map_err(|error| dialect::status(&error))?;
        if batch.is_empty() {
            break;
        }
        rows.extend(batch.into_iter().map(|(name, found)| Row {
            file: found.kind != Kind::Directory,
            name,
            size: found.size,
            modified: found.attrs.mtime,
        }));
    }
    rows.sort_unstable_by(|a, b| (a.file, &a.name).cmp(&(b.file, &b.name)));
    let names = share.prefix.names().iter().chain(path.names());
    let title = names.fold(String::new(), |title, name| title + "/" + &escape(name)) + "/";
    let up = if path.is_root() { "" } else { "<a href=\"../\">../</a>\n" };
    let top = format!(
        "<!DOCTYPE html>\n<html><head><title>{title}</title></head>\n<body><h1>{title}</h1>\n\
         <pre>{up}"
    );
    let pieces = Pieces { next: Some(top), rows: rows.into_iter() };
    let pieces = pieces.map(|piece| Ok::<_, BoxError>(Frame::data(Bytes::from(piece))));
    *answer.body_mut() = Body::boxed(StreamBody::new(stream::iter(pieces)));
    Ok(answer)
}

struct Pieces {
    next: Option<String>,
    rows: std::vec::IntoIter<Row>,
}

impl Iterator for Pieces {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let mut piece = self.next.take()?;
        while piece.len() < PIECE {
            let Some(row) = self.rows.next() else {
                piece.push_str("</pre></body></html>\n");
                return Some(piece);
            };
            row.write(&mut piece);
        }
        self.next = Some(String::new());
        Some(piece)
    }
}

impl Row {
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
