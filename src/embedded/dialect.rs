//! Between HTTP as clients speak it and `dav-server`'s dialect of it: what goes in is made plain
//! first, and where its answer is not what RFC 4918 says, it is put right.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::Bytes;
use dav_server::body::BodyType;
use dav_server::{DavConfig, DavHandler, DavMethod, DavMethodSet};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;

use super::davfs::{DavFs, View, fs_error};
use super::patch;
use super::props::{self, Depth};
use super::url::{self, Place};
use super::{Embedded, Share, collect, set};
use crate::body::{Body, BoxError};
use crate::tree::TreeError;
use crate::wire::http::xml;

/// What is served on a share.
pub(super) const METHODS: HeaderValue =
    HeaderValue::from_static("OPTIONS, GET, HEAD, PUT, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH");
/// Class 1 of RFC 4918: no locks.
const CLASS: HeaderValue = HeaderValue::from_static("1");
/// The same for `dav-server`, which lists it in answers to OPTIONS.
const SERVED: [DavMethod; 10] = [
    DavMethod::Options,
    DavMethod::Get,
    DavMethod::Head,
    DavMethod::Put,
    DavMethod::Delete,
    DavMethod::MkCol,
    DavMethod::Copy,
    DavMethod::Move,
    DavMethod::PropFind,
    DavMethod::PropPatch,
];

/// Answers to `OPTIONS *`.
pub(super) fn options() -> Response<Body> {
    let mut answer = Response::new(Body::Empty);
    answer.headers_mut().insert("dav", CLASS);
    answer.headers_mut().insert(header::ALLOW, METHODS);
    answer
}

/// The status for an error of the disk when a path is looked at.
pub(super) fn status(error: &TreeError) -> StatusCode {
    use dav_server::fs::FsError::*;
    match fs_error(error) {
        NotFound => StatusCode::NOT_FOUND,
        Forbidden | Exists | LoopDetected | IsRemote => StatusCode::FORBIDDEN,
        PathTooLong => StatusCode::URI_TOO_LONG,
        InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
        TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        NotImplemented | GeneralFailure => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Answers everything that is not plainly a GET or HEAD.
pub(super) async fn webdav<B>(
    server: &Embedded,
    share: Arc<Share>,
    place: Place,
    request: Request<B>,
) -> Result<Response<Body>, StatusCode>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let depth = depth(request.headers())?;
    match request.method().as_str() {
        "PROPFIND" => props::propfind(share, place, depth, request.into_body()).await,
        "PROPPATCH" => proppatch(server, share, place, request).await,
        _ => dav_server(server, &share, &place, depth, request).await,
    }
}

/// What `dav_server` gets for a client's PROPPATCH.
const NO_CHANGE: &[u8] = b"<propertyupdate xmlns=\"DAV:\"/>";

/// Answers a PROPPATCH: whether the thing is there and the conditions hold is `dav-server`'s to say, what
/// becomes of the properties is said here. Its XML parser recurses, and must get nothing of a client's.
async fn proppatch<B>(
    server: &Embedded,
    share: Arc<Share>,
    place: Place,
    request: Request<B>,
) -> Result<Response<Body>, StatusCode>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let (parts, body) = request.into_parts();
    let update = xml::propertyupdate(&collect(body).await?).ok_or(StatusCode::BAD_REQUEST)?;
    let request = Request::from_parts(parts, Body::Full(Bytes::from_static(NO_CHANGE)));
    let mut answer = dav_server(server, &share, &place, None, request).await?;
    if answer.status() == StatusCode::MULTI_STATUS {
        let slash = place.slash || answer.headers().contains_key(header::CONTENT_LOCATION);
        let names = share.prefix.names().iter().chain(place.path.names());
        let href = url::encode(names, slash);
        let told = super::blocking(move || patch::patch(&share, &place.path, &href, &update)).await??;
        *answer.body_mut() = Body::text(told);
    }
    Ok(answer)
}

/// Has `dav-server` answer. Of what comes here it reads no body as XML.
async fn dav_server<B>(
    server: &Embedded,
    share: &Arc<Share>,
    place: &Place,
    depth: Option<Depth>,
    mut request: Request<B>,
) -> Result<Response<Body>, StatusCode>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let view = prepare(server, share, place, depth, &mut request)?;
    let verdict = Arc::new(AtomicU16::new(0));
    let fs = DavFs { share: share.clone(), view, verdict: verdict.clone() };
    let mut methods = DavMethodSet::none();
    for method in SERVED {
        methods.add(method);
    }
    let handler: DavHandler = DavConfig::new()
        .strip_prefix(share.prefix_text.clone())
        .filesystem(Box::new(fs))
        .methods(methods)
        .build_handler();
    let answer = handler.handle(request.map(|body| body.map_err(io::Error::other))).await;
    let (mut parts, body) = answer.into_parts();
    if let Ok(verdict) = StatusCode::from_u16(verdict.load(Ordering::Relaxed))
        && !parts.status.is_success()
    {
        parts.status = verdict;
    }
    if parts.headers.contains_key("dav") {
        parts.headers.insert("dav", CLASS);
    }
    let body = match body.inner {
        BodyType::Empty => Body::Empty,
        BodyType::Bytes(bytes) => Body::Full(bytes.unwrap_or_default()),
        BodyType::AsyncStream(stream) => {
            Body::boxed(dav_server::body::Body::from(stream).map_err(BoxError::from))
        }
    };
    Ok(Response::from_parts(parts, body))
}

/// Makes a request plain for `dav-server`, refuses what it would get wrong, and says how it is to
/// see the share.
fn prepare<B>(
    server: &Embedded,
    share: &Arc<Share>,
    place: &Place,
    depth: Option<Depth>,
    request: &mut Request<B>,
) -> Result<View, StatusCode> {
    let method = request.method().clone();
    let slash = place.slash && !matches!(method.as_str(), "DELETE" | "MOVE" | "COPY");
    rewrite(request.uri_mut(), share, place, slash)?;
    let headers = request.headers_mut();
    match method.as_str() {
        "PUT" if headers.contains_key(header::CONTENT_RANGE) => {
            // RFC 9110 section 14.5: a partial PUT must not be taken for a whole one.
            return Err(StatusCode::BAD_REQUEST);
        }
        // `x/` is a collection (RFC 4918 section 5.2), which PUT cannot make.
        "PUT" if place.slash || place.path.is_root() => return Err(StatusCode::METHOD_NOT_ALLOWED),
        "DELETE" | "MOVE" | "COPY" if place.path.is_root() => return Err(StatusCode::FORBIDDEN),
        // RFC 4918 section 9.6.1: a collection is deleted whole or not at all.
        "DELETE" if depth == Some(Depth::Zero) => return Err(StatusCode::BAD_REQUEST),
        "DELETE" => return Ok(View::Delete),
        "MOVE" | "COPY" => {
            destination(server, share, headers)?;
            let below = depth != Some(Depth::Zero);
            return Ok(if method == "MOVE" { View::Move } else { View::Copy { below } });
        }
        _ => {}
    }
    Ok(View::Plain)
}

/// RFC 4918 section 10.2.
fn depth(headers: &HeaderMap) -> Result<Option<Depth>, StatusCode> {
    let Some(value) = headers.get("depth") else { return Ok(None) };
    match value.as_bytes().trim_ascii() {
        b"0" => Ok(Some(Depth::Zero)),
        b"1" => Ok(Some(Depth::One)),
        value if value.eq_ignore_ascii_case(b"infinity") => Ok(Some(Depth::Infinity)),
        _ => Err(StatusCode::BAD_REQUEST),
    }
}

/// Checks where a MOVE or COPY goes, and says it as `dav-server` reads it: by path alone, without a
/// slash at the end.
fn destination(
    server: &Embedded,
    share: &Arc<Share>,
    headers: &mut HeaderMap,
) -> Result<(), StatusCode> {
    let value = headers.get("destination").ok_or(StatusCode::BAD_REQUEST)?;
    let whole = url::decode_destination(value.as_bytes())?;
    if whole.path.has_ours() {
        return Err(StatusCode::FORBIDDEN);
    }
    let uri = url::encode(whole.path.names().iter(), false);
    let uri = Uri::try_from(uri).map_err(|_| StatusCode::BAD_REQUEST)?;
    // Not here, or in another share: RFC 4918 section 9.8.5.
    let (there, place) = server.locate(&uri).map_err(|_| StatusCode::BAD_GATEWAY)?;
    if !Arc::ptr_eq(&there, share) {
        return Err(StatusCode::BAD_GATEWAY);
    }
    if place.path.is_root() {
        return Err(StatusCode::FORBIDDEN);
    }
    set(headers, header::HeaderName::from_static("destination"), uri.path());
    Ok(())
}

/// Puts the names into a URL in the one way in which they are encoded here.
fn rewrite(uri: &mut Uri, share: &Share, place: &Place, slash: bool) -> Result<(), StatusCode> {
    let names = share.prefix.names().iter().chain(place.path.names());
    let path = url::encode(names, slash);
    *uri = Uri::try_from(path).map_err(|_| StatusCode::BAD_REQUEST)?;
    Ok(())
}
