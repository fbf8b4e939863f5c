//! Our own HTTP/1.1 and WebDAV server (RFC 9110, RFC 4918 class 1), for a site that has none. To the
//! rest of the code it is a server like any other: [`Embedded::connect`] gives a connection to it.
//!
//! `dav-server` speaks WebDAV, on our own file system (`davfs`); reading files (`get`) and listing
//! directories (`props`, `index`) is done here, in few steps on the disk each. So is what clients send as XML. The properties that
//! they make up are kept with the objects (`patch`). Nothing is locked (no LOCK), and nobody is refused: who may do what is
//! decided before a request comes here.

use std::convert::Infallible;
use std::str::Utf8Error;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use crate::body::{self, Body, BoxError};
use crate::id::{ObjectId, RelPath, ShareId, Version};
use crate::object::{Found, Kind};
use crate::tree::write::{Files, keeps_properties};
use crate::tree::{Disk, TreeError};
use crate::wire::http::xml;

mod davfs;
mod dialect;
mod fields;
mod get;
mod index;
mod patch;
mod props;
mod put;
mod stream;
mod url;

/// Bytes that a connection in memory holds each way before the writer waits.
const PIPE: usize = 256 << 10;

/// Knows which content an object on the disk is, for its ETag.
pub trait Tags: Send + Sync + 'static {
    /// The object and version that `found` is certain to be; `None` when the catalog does not know
    /// it or is not sure, and then no ETag is sent. Called where blocking is allowed.
    fn tag(&self, share: &ShareId, found: &Found) -> Option<(ObjectId, Version)>;
}

/// One share as this server serves it.
pub struct EmbeddedShare {
    pub share: ShareId,
    /// The URL below which it is.
    pub prefix: RelPath,
    pub tree: Arc<Disk>,
    /// Whether the properties that clients make up are kept.
    pub properties: bool,
}

/// The embedded server could not be built.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error("share {share}: the URL {prefix} is not UTF-8; give the share another `http` in the map")]
    Prefix { share: ShareId, prefix: RelPath },
    #[error("share {share}: {source}")]
    Tree { share: ShareId, source: TreeError },
}

/// The server. Cheap to clone; all clones are one server.
#[derive(Clone)]
pub struct Embedded {
    shares: Arc<[Arc<Share>]>,
}

/// A share with what is needed to answer for it.
struct Share {
    id: ShareId,
    prefix: RelPath,
    /// The prefix as `dav-server` compares it: decoded, `/a/b`, empty for the root.
    prefix_text: String,
    files: Arc<Files>,
    tags: Arc<dyn Tags>,
    properties: bool,
}

impl Share {
    /// The ETag of a file, with its quotes; always strong. Nothing else has one: a version counts
    /// contents.
    fn etag(&self, found: &Found) -> Option<String> {
        if found.kind != Kind::File {
            return None;
        }
        let (id, version) = self.tags.tag(&self.id, found)?;
        Some(format!("\"{id}-{version}\""))
    }
}

/// Builds the server of `shares`. Clears away what a crash left of unfinished uploads, and blocks
/// while it does.
pub fn embedded(shares: Vec<EmbeddedShare>, tags: Arc<dyn Tags>) -> Result<Embedded, EmbeddedError> {
    let build = |EmbeddedShare { share: id, prefix, tree, properties }: EmbeddedShare| {
        let names = prefix.names().iter().map(|name| std::str::from_utf8(name.as_bytes()));
        let text = names.map(|name| Ok("/".to_owned() + name?)).collect::<Result<_, Utf8Error>>();
        let Ok(prefix_text) = text else { return Err(EmbeddedError::Prefix { share: id, prefix }) };
        let properties = properties && keeps_properties(&tree);
        match Files::new(tree) {
            Ok(files) => {
                let (files, tags) = (Arc::new(files), tags.clone());
                Ok(Arc::new(Share { id, prefix, prefix_text, files, tags, properties }))
            }
            Err(source) => Err(EmbeddedError::Tree { share: id, source }),
        }
    };
    Ok(Embedded { shares: shares.into_iter().map(build).collect::<Result<_, _>>()? })
}

impl Embedded {
    /// A new connection to the server, in memory. Ends when the other end is dropped. Needs a tokio
    /// runtime.
    pub fn connect(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(PIPE);
        let server = self.clone();
        tokio::spawn(async move {
            if let Err(error) = server.serve_connection(far).await {
                tracing::debug!(%error, "embedded server: a connection ended early");
            }
        });
        near
    }

    /// Serves HTTP/1.1 on one connection until either side closes it.
    pub async fn serve_connection<I>(&self, io: I) -> hyper::Result<()>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request: Request<hyper::body::Incoming>| async {
            let (head, body) = request.into_parts();
            let (body, unasked) = body::lend(&head.headers, body, u64::MAX);
            let mut answer = self.handle(Request::from_parts(head, body)).await;
            unasked.say(answer.headers_mut());
            Ok::<_, Infallible>(answer)
        });
        http1::Builder::new().serve_connection(TokioIo::new(io), service).await
    }

    /// Answers one request. Whoever has the request at hand may call this and save the connection.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let head = request.method() == Method::HEAD;
        let answer = self.answer(request).await;
        let mut answer = answer.unwrap_or_else(|status| refusal(status, head));
        if answer.status() == StatusCode::METHOD_NOT_ALLOWED {
            answer.headers_mut().entry(header::ALLOW).or_insert(dialect::METHODS);
        }
        answer
    }

    async fn answer<B>(&self, request: Request<B>) -> Result<Response<Body>, StatusCode>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if request.uri().path() == "*" && request.method() == Method::OPTIONS {
            return Ok(dialect::options());
        }
        let (share, place) = self.locate(request.uri())?;
        match *request.method() {
            Method::GET | Method::HEAD if !request.headers().contains_key("if") => {
                let head = request.method() == Method::HEAD;
                get::get(share, place, request.headers(), head).await
            }
            _ => dialect::webdav(self, share, place, request).await,
        }
    }

    /// Which share a URL is in, and where.
    fn locate(&self, uri: &Uri) -> Result<(Arc<Share>, url::Place), StatusCode> {
        let place = url::decode(uri.path())?;
        let holds = |share: &&Arc<Share>| place.path.starts_with(&share.prefix);
        let share = self.shares.iter().filter(holds).max_by_key(|share| share.prefix.names().len());
        let share = share.ok_or(StatusCode::NOT_FOUND)?;
        let place = place.below(&share.prefix).ok_or(StatusCode::NOT_FOUND)?;
        if place.path.has_ours() {
            return Err(StatusCode::NOT_FOUND);
        }
        Ok((share.clone(), place))
    }
}

/// A refusal that says in one line what it is.
fn refusal(status: StatusCode, head: bool) -> Response<Body> {
    let text = format!("{status}\n");
    let length = text.len();
    let mut answer = Response::new(if head { Body::Empty } else { Body::text(text) });
    *answer.status_mut() = status;
    set(answer.headers_mut(), header::CONTENT_LENGTH, &length.to_string());
    set(answer.headers_mut(), header::CONTENT_TYPE, "text/plain; charset=utf-8");
    if status == StatusCode::SERVICE_UNAVAILABLE {
        set(answer.headers_mut(), header::RETRY_AFTER, "1");
    }
    answer
}

/// Sets a field to a value that is made of visible ASCII; any other is left out.
fn set(headers: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Receives a body of XML.
async fn collect<B>(body: B) -> Result<Bytes, StatusCode>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    body::collect(body, xml::BODY_MAX).await.map_err(|error| match error {
        body::CollectError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        body::CollectError::Broken(_) => StatusCode::BAD_REQUEST,
    })
}

/// Runs what blocks on the disk where it may. Panics pass through; a runtime that is shutting down
/// is the only other way to fail.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StatusCode> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

#[cfg(test)]
mod tests;
