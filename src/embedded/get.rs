//! GET and HEAD: one step on the blocking pool opens, decides and, for a small file, reads.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};

use super::fields::{self, Ranges, Validators, Verdict};
use super::stream::{FileBody, Part, Source};
use super::url::Place;
use super::{Share, blocking, dialect, index, set, url};
use crate::body::Body;
use crate::id::RelPath;
use crate::object::Found;
use crate::tree::write::Opened;

/// Up to this size an answer's body is read in the same step that opens the file.
const AT_ONCE: u64 = 64 << 10;
/// How often a small file is read that changes while it is; then the client is asked to come again.
const TRIES: usize = 4;

/// Answers a GET or HEAD of `place`, with its conditions and ranges.
pub(super) async fn get(
    share: Arc<Share>,
    place: Place,
    headers: &HeaderMap,
    head: bool,
) -> Result<Response<Body>, StatusCode> {
    if let Some(answer) = answer_cached(&share, &place, headers, head) {
        return Ok(answer);
    }
    let headers = headers.clone();
    let answer = move || {
        for _ in 1..TRIES {
            match answer(&share, &place, &headers, head) {
                Err(StatusCode::SERVICE_UNAVAILABLE) => {}
                answer => return answer,
            }
        }
        answer(&share, &place, &headers, head)
    };
    blocking(answer).await?
}

/// Answers for a small file without leaving this thread, if the disk is not needed for it: going to
/// the blocking pool and back costs several times what the answer does.
fn answer_cached(
    share: &Share,
    place: &Place,
    headers: &HeaderMap,
    head: bool,
) -> Option<Response<Body>> {
    if place.slash {
        return None;
    }
    let Opened::File(file, found) = share.files.open_cached(&place.path)? else { return None };
    if found.size > AT_ONCE {
        return None;
    }
    let source = Source { file, stamp: found.stamp };
    let data = if head { Bytes::new() } else { source.read_cached(0, found.size)? };
    let answer = Answer { etag: share.etag(&found), found, mime: mime(&place.path) };
    answer.judge(Content::Read(data), headers, head).ok()
}

fn answer(
    share: &Arc<Share>,
    place: &Place,
    headers: &HeaderMap,
    head: bool,
) -> Result<Response<Body>, StatusCode> {
    match share.files.open(&place.path).map_err(|error| dialect::status(&error))? {
        // Links in a listing are relative to the URL with the slash.
        Opened::Directory(_) if !place.slash => {
            let names = share.prefix.names().iter().chain(place.path.names());
            let mut answer = super::refusal(StatusCode::MOVED_PERMANENTLY, head);
            set(answer.headers_mut(), header::LOCATION, &url::encode(names, true));
            Ok(answer)
        }
        Opened::Directory(_) => index::index(share, &place.path, head),
        Opened::Special(_) => Err(StatusCode::FORBIDDEN),
        // `file/` names something in a directory, and there is none.
        Opened::File(..) if place.slash => Err(StatusCode::NOT_FOUND),
        Opened::File(file, found) => {
            let source = Source { file, stamp: found.stamp };
            let answer = Answer { etag: share.etag(&found), found, mime: mime(&place.path) };
            answer.judge(Content::Disk(source), headers, head)
        }
    }
}

/// Where an answer's bytes are.
enum Content {
    Disk(Source),
    /// All of the file (nothing, for HEAD).
    Read(Bytes),
}

struct Answer {
    etag: Option<String>,
    found: Found,
    mime: &'static str,
}

impl Answer {
    fn judge(
        &self,
        content: Content,
        headers: &HeaderMap,
        head: bool,
    ) -> Result<Response<Body>, StatusCode> {
        let modified = self.found.attrs.mtime;
        let validators = Validators { etag: self.etag.as_deref(), modified };
        let ranges = match fields::judge(headers, &validators) {
            Verdict::Failed => return Err(StatusCode::PRECONDITION_FAILED),
            Verdict::NotModified => return Ok(self.head(StatusCode::NOT_MODIFIED)),
            // Ranges mean something for GET alone (RFC 9110 section 14.2).
            Verdict::Answer { ranges: true } if !head => fields::ranges(headers, self.found.size),
            Verdict::Answer { .. } => Ranges::Whole,
        };
        match ranges {
            Ranges::Unsatisfiable => {
                let mut answer = super::refusal(StatusCode::RANGE_NOT_SATISFIABLE, head);
                let whole = format!("bytes */{}", self.found.size);
                set(answer.headers_mut(), header::CONTENT_RANGE, &whole);
                Ok(answer)
            }
            Ranges::Whole => self.whole(content, head),
            Ranges::Parts(parts) => match parts.as_slice() {
                [one] => self.part(content, *one),
                several => self.parts(content, several),
            },
        }
    }

    fn whole(&self, content: Content, head: bool) -> Result<Response<Body>, StatusCode> {
        let mut answer = self.head(StatusCode::OK);
        set(answer.headers_mut(), header::CONTENT_TYPE, self.mime);
        self.fill(answer, content, [Part::Range(0, self.found.size)].into(), head)
    }

    fn part(&self, content: Content, (from, to): (u64, u64)) -> Result<Response<Body>, StatusCode> {
        let mut answer = self.head(StatusCode::PARTIAL_CONTENT);
        let fields = answer.headers_mut();
        set(fields, header::CONTENT_TYPE, self.mime);
        set(fields, header::CONTENT_RANGE, &content_range(from, to, self.found.size));
        self.fill(answer, content, [Part::Range(from, to)].into(), false)
    }

    /// RFC 9110 section 14.6.
    fn parts(&self, content: Content, parts: &[(u64, u64)]) -> Result<Response<Body>, StatusCode> {
        let boundary = format!("{:032x}", rand::random::<u128>());
        let mut body = VecDeque::new();
        for (from, to) in parts {
            let range = content_range(*from, *to, self.found.size);
            let mime = self.mime;
            body.push_back(Part::Text(Bytes::from(format!(
                "\r\n--{boundary}\r\nContent-Type: {mime}\r\nContent-Range: {range}\r\n\r\n"
            ))));
            body.push_back(Part::Range(*from, *to));
        }
        body.push_back(Part::Text(Bytes::from(format!("\r\n--{boundary}--\r\n"))));
        let mut answer = self.head(StatusCode::PARTIAL_CONTENT);
        let mime = format!("multipart/byteranges; boundary={boundary}");
        set(answer.headers_mut(), header::CONTENT_TYPE, &mime);
        self.fill(answer, content, body, false)
    }

    /// What every answer about this file says of it.
    fn head(&self, status: StatusCode) -> Response<Body> {
        let mut answer = Response::new(Body::Empty);
        *answer.status_mut() = status;
        let fields = answer.headers_mut();
        let modified = httpdate::fmt_http_date(fields::http_time(self.found.attrs.mtime));
        set(fields, header::LAST_MODIFIED, &modified);
        set(fields, header::ACCEPT_RANGES, "bytes");
        if let Some(etag) = &self.etag {
            set(fields, header::ETAG, etag);
        }
        answer
    }

    fn fill(
        &self,
        mut answer: Response<Body>,
        content: Content,
        parts: VecDeque<Part>,
        head: bool,
    ) -> Result<Response<Body>, StatusCode> {
        let length: u64 = parts.iter().map(Part::len).sum();
        set(answer.headers_mut(), header::CONTENT_LENGTH, &length.to_string());
        if head || length == 0 {
            return Ok(answer);
        }
        *answer.body_mut() = match (content, parts.front()) {
            (Content::Disk(source), Some(Part::Range(from, to)))
                if parts.len() == 1 && length <= AT_ONCE =>
            {
                // Changed since it was opened: nothing has been sent, so the client may ask again.
                let read = source.read(*from, *to);
                Body::Full(read.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?)
            }
            (Content::Disk(source), _) => Body::boxed(FileBody::new(source, parts)),
            (Content::Read(data), _) => Body::Full(assemble(&data, parts)?),
        };
        Ok(answer)
    }
}

fn assemble(data: &Bytes, parts: VecDeque<Part>) -> Result<Bytes, StatusCode> {
    let cut = |from, to| Some(data.slice(usize::try_from(from).ok()?..usize::try_from(to).ok()?));
    let mut pieces = parts.into_iter().map(|part| match part {
        Part::Text(text) => Some(text),
        Part::Range(from, to) => cut(from, to),
    });
    let none = StatusCode::INTERNAL_SERVER_ERROR;
    match (pieces.next(), pieces.len()) {
        (Some(Some(only)), 0) => Ok(only),
        (first, _) => {
            let all: Option<Vec<Bytes>> = first.into_iter().chain(pieces).collect();
            Ok(all.ok_or(none)?.concat().into())
        }
    }
}

fn content_range(from: u64, to: u64, size: u64) -> String {
    format!("bytes {from}-{}/{size}", to.saturating_sub(1))
}

/// By the name's extension alone.
pub(super) fn mime(path: &RelPath) -> &'static str {
    let name = path.names().last().map(|name| name.as_os_str());
    mime_guess::from_path(name.unwrap_or_default()).first_raw().unwrap_or("application/octet-stream")
}
