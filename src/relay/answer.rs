//! Answers: ours, which say in a line of plain text what is the matter, and the server's, with what
//! has to be changed in them.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};
use http_body::Frame;

use super::cut::CHANGES_MAX;
use super::fair::Who;
use super::seam::{HomeError, NearError, WireError};
use super::{Away, Part, ShareHttp};
use crate::body::{Body, BoxError};
use crate::id::{ShareId, SiteId};
use crate::route::Why;
use crate::server::ServerError;
use crate::wire::http::etag::EntityTag;
use crate::wire::http::multistatus::{Multistatus, Tagger, Tell};
use crate::wire::http::{Move, Refusal, strip_hop_by_hop};

/// Seconds after which a client may try again: a link is dialled again within about that.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("5");

/// An answer that ends a request before the server has seen it.
pub type Early = Box<Response<Body>>;

/// One of our own.
pub fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut text = text.into();
    text.push('\n');
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}

/// Nothing was done, and trying again is honest.
pub fn retry(text_: impl Into<String>) -> Response<Body> {
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, text_);
    response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    response
}

/// So many changes are under way that no other is begun.
pub fn too_many(share: &ShareId) -> Response<Body> {
    tracing::warn!(%share, limit = CHANGES_MAX, "a change is turned away: as many as may be are under way");
    retry(format!("{CHANGES_MAX} changes are under way at this site; nothing was changed; try again"))
}

/// So many requests of one client, or of another site, are under way that it gets no other.
pub fn too_many_of(who: &Who) -> Response<Body> {
    let limit = who.most();
    retry(format!("{limit} requests of {who} are under way at this site; nothing was done; try again"))
}

pub fn refused(refusal: &Refusal) -> Response<Body> {
    let mut response = text(refusal.status(), refusal.to_string());
    if refusal.status() == StatusCode::METHOD_NOT_ALLOWED {
        let allow =
            "GET, HEAD, OPTIONS, PUT, DELETE, MKCOL, COPY, MOVE, PROPFIND, PROPPATCH, LOCK, UNLOCK";
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    response
}

pub fn forbidden(share: &ShareId, changes: bool) -> Response<Body> {
    let what = if changes { "change" } else { "read" };
    text(StatusCode::FORBIDDEN, format!("this client may not {what} the share {share}"))
}

/// The map of this site, `here`, gives the other no part in the share.
pub fn no_part(share: &ShareId, site: &SiteId, here: &SiteId) -> Response<Body> {
    let said = format!(
        "the map at {here} gives {site} no part in the share {share}: give it one, and put the same file \
         at all sites"
    );
    text(StatusCode::FORBIDDEN, said)
}

/// The share cannot do this while the primary's site is away.
pub fn away(share: &ShareHttp, why: Why) -> Response<Body> {
    let name = &share.share;
    let site = match &share.part {
        Part::Broadcast { away, .. } | Part::Remote { away } => away.site.as_str(),
        Part::Local { .. } => "this site",
    };
    let cannot = format!("the site {site}, which holds the primary copy of {name}, cannot be reached");
    retry(match why {
        Why::ChangeAway => format!("{cannot}; nothing was changed; try again"),
        Why::ReadAway => format!("{cannot}, and only it can answer this; try again"),
        Why::Ahead => format!("{cannot}, and the copy here lacks a change made from here; try again"),
        Why::Unconfirmed => {
            format!("{cannot}, and the copy here has not been compared with it yet; try again")
        }
        Why::Unsure => format!("{cannot}, and the copy here may lack a change; try again"),
        Why::Barrier => {
            format!("{cannot}, and this site has just started and must hear from it first; try again")
        }
    })
}

/// The link failed in the middle.
pub fn lost(share: &ShareId, away: &Away, changes: bool, error: &WireError) -> Response<Body> {
    let site = &away.site;
    match error {
        WireError::NotSent(_) => retry(format!(
            "the site {site}, which holds the primary copy of {share}, cannot be reached; \
             nothing was changed; try again"
        )),
        WireError::Lost { .. } if !changes => retry(format!(
            "the link to the site {site}, which holds the primary copy of {share}, broke; try again"
        )),
        WireError::Lost { .. } => in_doubt(share, away),
    }
}

pub fn in_doubt(share: &ShareId, away: &Away) -> Response<Body> {
    let site = &away.site;
    text(
        StatusCode::GATEWAY_TIMEOUT,
        format!(
            "the link to the site {site}, which holds the primary copy of {share}, broke before \
             it answered; the change may have been made or not: look before trying again"
        ),
    )
}

/// It was answered by a site that no longer leads.
pub fn overtaken(share: &ShareId, away: &Away) -> Response<Body> {
    let site = &away.site;
    text(
        StatusCode::GATEWAY_TIMEOUT,
        format!(
            "the primary copy of {share} left the site {site} while that was at the change, which may be \
             lost with it: look before trying again"
        ),
    )
}

pub fn outside(share: &ShareId) -> Response<Body> {
    text(StatusCode::FORBIDDEN, format!("a symbolic link on the way leaves the share {share}"))
}

pub fn gone(share: &ShareId) -> Response<Body> {
    retry(format!("the directory of the share {share} is not there at this site; nothing was changed"))
}

pub fn home_error(share: &ShareId, error: &HomeError) -> Response<Body> {
    tracing::error!(%share, "change: {error}");
    match error {
        HomeError::Outside { .. } => outside(share),
        HomeError::NotTheShare(_) => gone(share),
        HomeError::Full(_) => text(
            StatusCode::INSUFFICIENT_STORAGE,
            format!("no room for the change of {share} at the primary's site; nothing was changed"),
        ),
        HomeError::Moved(why) => retry(format!("{share}: {why}; nothing was changed")),
        HomeError::NotDurable(why) => retry(format!("{share}: {why}; nothing was changed")),
        HomeError::Disk(_) | HomeError::Catalog(_) => {
            retry(format!("the change of {share} could not be prepared; nothing was changed"))
        }
    }
}

/// The server did it, and we cannot promise that it lasts.
pub fn not_synced(share: &ShareId, error: &HomeError) -> Response<Body> {
    tracing::error!(%share, "after a change: {error}");
    if let HomeError::Moved(why) = error {
        return text(StatusCode::GATEWAY_TIMEOUT, format!("{share}: {why}: look before trying again"));
    }
    if let HomeError::NotDurable(_) = error {
        return text(
            StatusCode::GATEWAY_TIMEOUT,
            format!(
                "the change of {share} was made at the primary's site, and its other copies have not confirmed it"
            ),
        );
    }
    text(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("the change of {share} was made, but may not survive a power cut: {error}"),
    )
}

/// Why a change was refused must not be seen yet.
pub fn not_told(share: &ShareId, error: &HomeError) -> Response<Body> {
    tracing::warn!(%share, "after a refusal: {error}");
    text(
        StatusCode::GATEWAY_TIMEOUT,
        format!(
            "{share}: the change was refused because of what other copies have not confirmed: look before \
             trying again"
        ),
    )
}

/// What the server says must not be seen yet.
pub fn not_visible(share: &ShareId, error: &HomeError) -> Response<Body> {
    tracing::warn!(%share, "read: {error}");
    retry(format!(
        "{share}: what was asked for is being changed, and its other copies have not confirmed that"
    ))
}

pub fn near_error(share: &ShareId, error: &NearError) -> Response<Body> {
    tracing::error!(%share, "change to be forwarded: {error}");
    retry(format!("this site could not take note of a change of {share}; nothing was changed"))
}

/// The server gave no answer.
pub fn no_answer(error: &ServerError, changes: bool) -> Response<Body> {
    tracing::debug!("{error}");
    let doubt = changes && !error.nothing_done();
    let status = match error {
        ServerError::Busy { .. } => return retry(format!("{error}; nothing was done; try again")),
        ServerError::Connect { .. } => StatusCode::BAD_GATEWAY,
        ServerError::ConnectSilent { .. } | ServerError::Silent { .. } => StatusCode::GATEWAY_TIMEOUT,
        ServerError::Broke { .. } if doubt => StatusCode::GATEWAY_TIMEOUT,
        ServerError::Broke { .. } => StatusCode::BAD_GATEWAY,
        ServerError::Client { .. } => StatusCode::BAD_REQUEST,
        ServerError::ClientSilent { .. } => StatusCode::REQUEST_TIMEOUT,
    };
    let tail = match (changes, doubt) {
        (true, true) => "; the change may have been made or not: look before trying again",
        (true, false) => "; nothing was changed",
        (false, _) => "",
    };
    text(status, format!("{}{tail}", brief(error)))
}

/// Without addresses: they are none of the client's business.
fn brief(error: &ServerError) -> String {
    match error {
        ServerError::Connect { .. } => "the file server cannot be reached".into(),
        ServerError::ConnectSilent { after, .. } | ServerError::Silent { after, .. } => {
            format!("the file server was silent for {after:?}")
        }
        ServerError::Broke { .. } => "the file server broke off".into(),
        ServerError::Client { .. } => "the request broke off".into(),
        other => other.to_string(),
    }
}

/// What has to be changed in an answer of a server to a request in a share.
pub struct Mend<'a> {
    /// From the server's URLs of the share to ours; also where they are the same, for it drops the
    /// server's own idea of its host and port.
    pub moved: &'a Move,
    /// The URLs differ, so a multistatus has to be rewritten.
    pub rewrite: bool,
    /// WebDAV's XML is rewritten as well where it is no multistatus: an answer to LOCK, an error.
    pub dav: bool,
    /// What a copy's server says of locks is left out of a multistatus.
    pub drop_locks: bool,
    /// What is told of locks in its place.
    pub locks: Option<Tell>,
    /// Tags that are not ours mean nothing here, and are left out.
    pub drop_etags: bool,
    /// For those in a multistatus.
    pub tagger: Option<Tagger>,
    /// Names under which this site and its server are known: an absolute URL with one of them is ours.
    pub hosts: &'a [&'a str],
}

impl Mend<'_> {
    pub fn mend(self, response: Response<Body>) -> Response<Body> {
        let (mut parts, body) = response.into_parts();
        strip_hop_by_hop(&mut parts.headers);
        parts.version = Version::HTTP_11;
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            self.location(&mut parts, name);
        }
        let foreign = |field: &HeaderValue| {
            EntityTag::parse(field.as_bytes()).is_none_or(|tag| tag.ours().is_none())
        };
        if self.drop_etags && parts.headers.get(header::ETAG).is_some_and(foreign) {
            parts.headers.remove(header::ETAG);
        }
        let dav = self.rewrite && self.dav && is_xml(&parts);
        if parts.status != StatusCode::MULTI_STATUS && !dav {
            return Response::from_parts(parts, body);
        }
        if parts.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            tracing::error!("the server sends a multistatus in a coding that was not asked for");
            return text(
                StatusCode::BAD_GATEWAY,
                "the file server answers in a coding it was not asked for",
            );
        }
        parts.headers.remove(header::CONTENT_LENGTH);
        let moved = self.rewrite.then(|| self.moved.clone());
        let mut filter = Multistatus::new(moved, self.tagger);
        if let Some(locks) = self.locks {
            filter = filter.with_locks(locks);
        } else if self.drop_locks {
            filter = filter.without_locks();
        }
        let body = Filtered { body, filter: Some(filter), ready: VecDeque::new() };
        Response::from_parts(parts, Body::boxed(body))
    }

    fn location(&self, parts: &mut Parts, name: HeaderName) {
        let Some(field) = parts.headers.get(&name) else { return };
        let url = field.to_str().ok().filter(|url| url.starts_with('/') || self.knows(url));
        let moved = url.and_then(|url| self.moved.apply(url));
        if let Some(Ok(moved)) = moved.map(HeaderValue::try_from) {
            parts.headers.insert(name, moved);
        }
    }
}

impl Mend<'_> {
    /// Whatever the port: a server behind us puts its own there.
    fn knows(&self, url: &str) -> bool {
        let host = url.split_once("://").map(|(_, rest)| &rest[..rest.find('/').unwrap_or(rest.len())]);
        host.is_some_and(|host| {
            self.hosts.iter().any(|known| host_only(known).eq_ignore_ascii_case(host_only(host)))
        })
    }
}

/// To who asked a server that knows WebDAV without locks (RFC 4918 section 18), where nearshare keeps them.
pub fn say_class_2(headers: &mut HeaderMap) {
    let Some(classes) = headers.get("dav").and_then(|classes| classes.to_str().ok()) else { return };
    let known: Vec<&str> = classes.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
    let missing = ["1", "2"].into_iter().filter(|class| !known.contains(class));
    let all = missing.chain(known.iter().copied()).collect::<Vec<_>>().join(", ");
    let methods = headers.get(header::ALLOW).and_then(|methods| methods.to_str().ok());
    let methods = methods.map(|methods| format!("{methods}, LOCK, UNLOCK"));
    if let Ok(all) = HeaderValue::try_from(all) {
        headers.insert("dav", all);
    }
    if let Some(Ok(methods)) = methods.map(HeaderValue::try_from) {
        headers.insert(header::ALLOW, methods);
    }
}

fn is_xml(parts: &Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.map(|kind| kind.split(';').next().unwrap_or_default().trim());
    kind.is_some_and(|kind| {
        ["text/xml", "application/xml"].iter().any(|it| it.eq_ignore_ascii_case(kind))
    })
}

fn host_only(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// A multistatus on its way through the filter.
struct Filtered {
    body: Body,
    /// Until the end.
    filter: Option<Multistatus>,
    ready: VecDeque<Bytes>,
}

impl http_body::Body for Filtered {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let frame = match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    let ended = self.filter.take().map_or(Ok(()), Multistatus::finish);
                    return Poll::Ready(ended.err().map(|error| Err(error.into())));
                }
            };
            if let (Ok(bytes), Some(filter)) = (frame.into_data(), &mut self.filter) {
                let mut out = Vec::with_capacity(bytes.len());
                filter.push(&bytes, &mut out)?;
                if !out.is_empty() {
                    self.ready.push_back(out.into());
                }
            }
        }
    }
}
