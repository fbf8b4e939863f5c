//! To this site's own server: what is outside every share as it is, reads in a share with the path
//! as we understood it.

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
};

use super::answer::{self, Early, Mend};
use super::seam::{Fence, Fenced};
use super::tags::{self, Seen, Unread};
use super::{HttpSite, KeptBy, Part, ShareHttp, Taken, locks};
use crate::body::Body;
use crate::effect::Effect;
use crate::id::RelPath;
use crate::route::Role;
use crate::server::{Bond, ServerError, Target};
use crate::wire::http::condition::drop_conditions;
use crate::wire::http::{Classified, IfField, Place, ShareUrl, Touches, encode_into, strip_hop_by_hop};
use crate::work;

/// Who asked takes trailers, so we do.
pub const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// What is in no share.
pub async fn pass(site: &HttpSite, changes: bool, mut parts: Parts, body: Body) -> Response<Body> {
    to_http_1(site, &mut parts);
    match site.upstream.clone().serve(Request::from_parts(parts, body)).await {
        Ok(mut response) => {
            strip_hop_by_hop(response.headers_mut());
            *response.version_mut() = Version::HTTP_11;
            response
        }
        Err(error) => answer::no_answer(&error, changes),
    }
}

/// A read in a share, answered here. `plain`: its conditions are left out.
pub async fn divert(taken: Box<Taken>, plain: bool) -> Response<Body> {
    let (site, slot) = (taken.site.clone(), taken.slot);
    let is_file = [Method::GET, Method::HEAD].contains(&taken.parts.method);
    let mut file = None;
    let fenced = match is_file {
        true => {
            let (fenced, seen) = tags::see(&site.slots[slot], taken.classified.path()).await;
            file = seen;
            within(&site.slots[slot], taken.client, taken.classified.path(), fenced)
        }
        false => fence(&site, slot, taken.client, &taken.classified).await,
    };
    if let Err(early) = fenced {
        return *early;
    }
    let share = &site.slots[slot].share;
    let watch = match site.slots[slot].role() {
        Role::Local if taken.parts.method == Method::GET => {
            Some(site.running.watch(share, taken.classified.path()))
        }
        _ => None,
    };
    let pledged = match (&site.slots[slot].part, &taken.classified.effect) {
        (Part::Local { home }, Effect::Read(read)) if home.is_pledged() => Some((home, read.clone())),
        _ => None,
    };
    let response = match answered(taken, file, plain).await {
        Ok(response) => response,
        // A condition that fails shows what is there as well.
        Err(Unread::Early(early)) => *early,
        Err(Unread::Server(error)) => return answer::no_answer(&error, false),
    };
    // After the server: whatever it shows had begun by then.
    if let Some((home, read)) = pledged
        && let Err(error) = home.visible(&read).await
    {
        return answer::not_visible(share, &error);
    }
    match watch {
        Some(watch) if watch.is_cut() => answer::retry(format!("{share}: the file is being written")),
        Some(watch) => response.map(|body| watch.over(body)),
        None => response,
    }
}

/// What is answered to a read that may be answered here.
async fn answered(
    mut taken: Box<Taken>,
    file: Option<Seen>,
    plain: bool,
) -> Result<Response<Body>, Unread> {
    let (site, slot) = (taken.site.clone(), taken.slot);
    let is_file = [Method::GET, Method::HEAD].contains(&taken.parts.method);
    tags::fit_if(&site.slots[slot], &mut taken.classified, None).await?;
    if let Some(keeper) = site.slots[slot].locks.here() {
        let Taken { classified, parts, .. } = &mut *taken;
        locks::read(&site.slots[slot], keeper, classified, &mut parts.headers).await?;
    }
    if plain {
        drop_conditions(&mut taken.parts.headers);
    }
    match is_file {
        true => tags::read(taken, file).await,
        false => ask_for(taken).await,
    }
}

async fn ask_for(taken: Box<Taken>) -> Result<Response<Body>, Unread> {
    let (site, slot) = (taken.site.clone(), taken.slot);
    let drop_etags = site.slots[slot].role() != Role::Local;
    Ok(ask(&site, slot, drop_etags, to_server(taken)?).await?)
}

/// Asks the server, and makes its answer fit to be given.
pub async fn ask(
    site: &Arc<HttpSite>,
    slot: usize,
    drop_etags: bool,
    request: Request<Body>,
) -> Result<Response<Body>, ServerError> {
    let host = request.headers().get(header::HOST).cloned();
    let options = request.method() == Method::OPTIONS;
    let response = site.upstream.clone().serve(request).await?;
    let mut response = mend(site, slot, host.as_ref(), drop_etags, response);
    if options && !matches!(site.slots[slot].locks, KeptBy::Server) {
        answer::say_class_2(response.headers_mut());
    }
    Ok(response)
}

/// Makes the server's answer fit to be given. `host`: what it was asked as.
pub fn mend(
    site: &Arc<HttpSite>,
    slot: usize,
    host: Option<&HeaderValue>,
    drop_etags: bool,
    response: Response<Body>,
) -> Response<Body> {
    let known = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let server = match site.upstream.target() {
        Target::Tcp { host, .. } => host.as_str(),
        Target::Embedded(_) => known,
    };
    let share = &site.slots[slot];
    let many = response.status() == StatusCode::MULTI_STATUS;
    let keeper = share.locks.here().filter(|_| many);
    let mend = Mend {
        moved: site.shares.url(slot).stay(),
        rewrite: false,
        dav: false,
        drop_locks: share.role() != Role::Local,
        locks: keeper.map(|keeper| keeper.tell(&site.shares, slot, share.fence.clone())),
        drop_etags,
        tagger: many.then(|| tags::tagger(site, slot)),
        hosts: &[known, server],
    };
    mend.mend(response)
}

/// The request as the server gets it: its paths made from what we understood, never what came in.
pub fn to_server(taken: Box<Taken>) -> Result<Request<Body>, Early> {
    let Taken { site, slot, classified, mut parts, body, .. } = *taken;
    let url = site.shares.url(slot);
    to_http_1(&site, &mut parts);
    let Some(place) = &classified.place else {
        return Ok(Request::from_parts(parts, body));
    };
    if !place.canonical {
        parts.uri = uri(url, classified.path(), place.slash, parts.uri.query())?;
    }
    if let Some((to, slash)) = &place.destination {
        let field = absolute(&parts.headers, url, to, *slash);
        let field = HeaderValue::try_from(field).map_err(|_| unwritable())?;
        parts.headers.insert("destination", field);
    }
    if let Some(conditions) = &place.conditions {
        write_if(&mut parts.headers, url, conditions)?;
    }
    if classified.row.touches != Touches::Object {
        // A multistatus that may come back has to be read.
        parts.headers.remove(header::ACCEPT_ENCODING);
    }
    Ok(Request::from_parts(parts, body))
}

/// Who sent a request, and for what place.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    pub headers: &'a HeaderMap,
    pub uri: &'a Uri,
    pub extensions: &'a Extensions,
}

impl<'a> Asker<'a> {
    pub fn of(parts: &'a Parts) -> Self {
        let Parts { headers, uri, extensions, .. } = parts;
        Self { headers, uri, extensions }
    }
}

/// Another request for the place that a request is for, by the same client: who that is, and nothing that is
/// about the first one, such as its body or its conditions.
pub fn instead(asker: Asker<'_>, method: Method) -> Request<Body> {
    let Asker { headers, uri, extensions } = asker;
    let mut other = Request::new(Body::Empty);
    *other.method_mut() = method;
    *other.uri_mut() = uri.clone();
    for name in [header::HOST, header::AUTHORIZATION, header::COOKIE, header::USER_AGENT] {
        for field in headers.get_all(&name) {
            other.headers_mut().append(&name, field.clone());
        }
    }
    if let Some(bond) = extensions.get::<Arc<Bond>>() {
        other.extensions_mut().insert(bond.clone());
    }
    other
}

/// A place as other fields than the target name it: some servers refuse a path there, and some a host that is
/// not the one they heard.
fn absolute(headers: &HeaderMap, url: &ShareUrl, path: &RelPath, slash: bool) -> String {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let mut text = format!("http://{}", host.unwrap_or_default());
    encode_into(&mut text, url.encoded(), path, slash);
    text
}

pub fn write_if(headers: &mut HeaderMap, url: &ShareUrl, conditions: &IfField) -> Result<(), Early> {
    let field = conditions.write(|path, slash| absolute(headers, url, path, slash));
    headers.insert("if", HeaderValue::try_from(field).map_err(|_| unwritable())?);
    Ok(())
}

fn uri(url: &ShareUrl, path: &RelPath, slash: bool, query: Option<&str>) -> Result<Uri, Early> {
    let mut text = String::new();
    encode_into(&mut text, url.encoded(), path, slash);
    if let Some(query) = query {
        text.push('?');
        text.push_str(query);
    }
    let path = PathAndQuery::try_from(text).map_err(|_| unwritable())?;
    Ok(Uri::from(path))
}

/// Every path we understood can be written; a query taken from a URI can be put into another.
fn unwritable() -> Early {
    Box::new(answer::text(StatusCode::BAD_REQUEST, "the URL cannot be sent on"))
}

/// Every request that goes out is HTTP/1.1 and names a host, whatever came in (RFC 9112 section 3.2).
fn to_http_1(site: &HttpSite, parts: &mut Parts) {
    if strip_hop_by_hop(&mut parts.headers) {
        parts.headers.insert(header::TE, TRAILERS);
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    parts.version = Version::HTTP_11;
    let meant = match &site.host {
        Some(host) => Some(host.clone()),
        None if parts.headers.contains_key(header::HOST) => return,
        None => HeaderValue::try_from(site.upstream.target().host()).ok(),
    };
    if let Some(host) = meant {
        parts.headers.insert(header::HOST, host);
    }
}

/// Refuses what leads out of the share by a symbolic link.
pub async fn fence(
    site: &HttpSite,
    slot: usize,
    client: SocketAddr,
    classified: &Classified,
) -> Result<(), Early> {
    let share = &site.slots[slot];
    let Some(fence) = &share.fence else { return Ok(()) };
    for (path, follow) in places(classified) {
        let fenced = look(fence, path, follow).await;
        within(share, client, classified.path(), fenced)?;
    }
    Ok(())
}

/// Where a path of the share ends.
pub async fn look(fence: &Arc<dyn Fence>, path: &RelPath, follow: bool) -> Fenced {
    match fence.cached(path, follow) {
        Fenced::Unknown => {
            let (fence, path) = (fence.clone(), path.clone());
            let looked = work::blocking(move || fence.look(&path, follow)).await;
            // Only a panic or the end of the runtime makes no answer.
            looked.unwrap_or(Fenced::Gone)
        }
        known => known,
    }
}

pub fn within(
    share: &ShareHttp,
    client: SocketAddr,
    path: &RelPath,
    fenced: Fenced,
) -> Result<(), Early> {
    match fenced {
        Fenced::Inside | Fenced::Missing => Ok(()),
        Fenced::Outside => {
            tracing::warn!(share = %share.share, %client, %path, "refused: a link leaves the share");
            Err(Box::new(answer::outside(&share.share)))
        }
        Fenced::Gone | Fenced::Unknown => Err(Box::new(answer::gone(&share.share))),
    }
}

/// Every place that the server will walk to, and whether it follows a symbolic link at its end.
fn places(classified: &Classified) -> impl Iterator<Item = (&RelPath, bool)> {
    let place = classified.place.as_ref();
    let own = place.map(|Place { slash, .. }| (classified.path(), classified.row.follows || *slash));
    let to = place.and_then(|place| place.destination.as_ref()).map(|(path, _)| (path, true));
    own.into_iter().chain(to)
}
