//! To this site's own server: what is outside every share as it is, reads in a share with the path
//! as we understood it.

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};

use super::answer::{self, Early, Mend};
use super::seam::Fenced;
use super::tags::{self, Unread};
use super::{HttpSite, Part, ShareHttp, Taken};
use crate::body::Body;
use crate::effect::Effect;
use crate::id::RelPath;
use crate::route::Role;
use crate::server::Target;
use crate::wire::http::condition::drop_conditions;
use crate::wire::http::{Classified, Place, ShareUrl, Touches, encode_into, strip_hop_by_hop};
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
pub async fn divert(mut taken: Taken, plain: bool) -> Response<Body> {
    let (site, slot) = (taken.site.clone(), taken.slot);
    let is_file = [Method::GET, Method::HEAD].contains(&taken.parts.method);
    let mut file = None;
    let fenced = match is_file {
        true => {
            let (fenced, found) = tags::reach(&site.slots[slot], taken.classified.path()).await;
            file = found;
            within(&site.slots[slot], taken.client, taken.classified.path(), fenced)
        }
        false => fence(&site, slot, taken.client, &taken.classified).await,
    };
    if let Err(early) = fenced {
        return *early;
    }
    if plain {
        drop_conditions(&mut taken.parts.headers);
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
    let response = match is_file {
        true => tags::read(taken, file).await,
        false => ask(taken).await,
    };
    let response = match response {
        Ok(response) => response,
        Err(Unread::Early(early)) => return *early,
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

async fn ask(taken: Taken) -> Result<Response<Body>, Unread> {
    let (site, slot) = (taken.site.clone(), taken.slot);
    let request = to_server(taken)?;
    let host = request.headers().get(header::HOST).cloned();
    let response = site.upstream.clone().serve(request).await?;
    let drop_etags = site.slots[slot].role() != Role::Local;
    Ok(mend(&site, slot, host.as_ref(), drop_etags, response))
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
    let many = response.status() == StatusCode::MULTI_STATUS;
    let tagger = many.then(|| tags::tagger(site, slot));
    let moved = site.shares.url(slot).stay();
    Mend { moved, rewrite: false, drop_etags, tagger, hosts: &[known, server] }.mend(response)
}

/// The request as the server gets it: its paths made from what we understood, never what came in.
pub fn to_server(taken: Taken) -> Result<Request<Body>, Early> {
    let Taken { site, slot, classified, mut parts, body, .. } = taken;
    let url = site.shares.url(slot);
    to_http_1(&site, &mut parts);
    let Some(place) = &classified.place else {
        return Ok(Request::from_parts(parts, body));
    };
    if !place.canonical {
        parts.uri = uri(url, classified.path(), place.slash, parts.uri.query())?;
    }
    if let Some((to, slash)) = &place.destination {
        let mut path = String::new();
        encode_into(&mut path, url.encoded(), to, *slash);
        let field = HeaderValue::try_from(path).map_err(|_| unwritable())?;
        parts.headers.insert("destination", field);
    }
    if classified.row.touches != Touches::Object {
        // A multistatus that may come back has to be read.
        parts.headers.remove(header::ACCEPT_ENCODING);
    }
    Ok(Request::from_parts(parts, body))
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
        let mut fenced = fence.cached(path, follow);
        if fenced == Fenced::Unknown {
            let (fence, path) = (fence.clone(), path.clone());
            let looked = work::blocking(move || fence.look(&path, follow)).await;
            // Only a panic or the end of the runtime makes no answer.
            fenced = looked.unwrap_or(Fenced::Gone);
        }
        within(share, client, classified.path(), fenced)?;
    }
    Ok(())
}

fn within(share: &ShareHttp, client: SocketAddr, path: &RelPath, fenced: Fenced) -> Result<(), Early> {
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
