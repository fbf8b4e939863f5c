//! Over the link to the site with the primary copy.
//!
//! `/v1/share/<share>/http/<path below the share>` with the client's own method and end-to-end
//! fields. What only the two sites are to know travels in fields that begin with `nearshare-`.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header,
};
use http_body::Body as _;

use super::again::{self, Payload, Sent};
use super::answer::{self, Early, Mend};
use super::near::TRAILERS;
use super::seam::{Class, Near, WireError};
use super::{Away, HttpSite, Part, Taken};
use crate::body::{Body, collect};
use crate::effect::{Change, Depth, Effect};
use crate::id::RelPath;
use crate::server::Bond;
use crate::wire::http::multistatus::Tagger;
use crate::wire::http::{Touches, encode, encode_into, strip_hop_by_hop};
use crate::work;

/// Request bodies up to this, and answers up to [`SMALL_ANSWER`], may take the control connection.
pub const SMALL_BODY: u64 = 8 * 1024;
pub const SMALL_ANSWER: u64 = 64 * 1024;
/// Most times one read is sent: once more for a broken link, once more for the other connection.
const READ_SENDS: usize = 3;

pub const QUERY: HeaderName = HeaderName::from_static("nearshare-query");
pub const CLIENT: HeaderName = HeaderName::from_static("nearshare-client");
pub const DESTINATION: HeaderName = HeaderName::from_static("nearshare-destination");
/// Hexadecimal: the client's connection, where who speaks on it is proven for all of it.
pub const BOND: HeaderName = HeaderName::from_static("nearshare-bond");
pub const HOST: HeaderName = HeaderName::from_static("nearshare-host");
/// Hexadecimal of what to await, or [`UNKNOWN`]. Missing when nothing was done.
pub const AHEAD: HeaderName = HeaderName::from_static("nearshare-ahead");
pub const UNKNOWN: HeaderValue = HeaderValue::from_static("unknown");
/// With 421: ask again on this connection.
pub const RETRY: HeaderName = HeaderName::from_static("nearshare-retry");
pub const BULK: HeaderValue = HeaderValue::from_static("bulk");

/// `sent`: if it is a change.
pub async fn forward(taken: Box<Taken>, sent: Sent) -> Response<Body> {
    let site = taken.site.clone();
    let share = &site.slots[taken.slot];
    let (near, away) = match &share.part {
        Part::Broadcast { near, away } => (Some(near.clone()), away),
        Part::Remote { away } => (None, away),
        Part::Local { .. } => return answer::retry(format!("{} has its primary here", share.share)),
    };
    match taken.change().cloned() {
        None => read(taken, away).await,
        Some(change) => {
            let Some(room) = site.running.change() else { return answer::too_many(&share.share) };
            let kept = taken.room.clone();
            // Once it may have been sent it is seen through even if the client goes away.
            let here = Arc::new(());
            let client = Arc::downgrade(&here);
            let seen_through = work::spawn(async move {
                let response = changed(taken, near, change, sent, client).await;
                drop((room, kept));
                response
            });
            let seen_through = seen_through.await;
            drop(here);
            seen_through.unwrap_or_else(|error| {
                tracing::error!(share = %share.share, "forwarded change: {error}");
                answer::in_doubt(&share.share, away)
            })
        }
    }
}

async fn read(taken: Box<Taken>, away: &Away) -> Response<Body> {
    let mut class = class(&taken);
    let Taken { site, slot, body, .. } = &*taken;
    let (site, slot, dav) = (site.clone(), *slot, is_dav(&taken));
    let share = &site.slots[slot].share;
    let small = body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL_BODY);
    let (parts, body) = match outward(taken) {
        Ok(outward) => outward,
        Err(early) => return *early,
    };
    if !small {
        // Nothing is kept of a body that may be of any size, so it can be sent only once.
        let sent = away.wire.send(Class::Bulk, Request::from_parts(parts, body)).await;
        return match sent {
            Ok(response) => back(&site, slot, away, dav, response),
            Err(error) => answer::lost(share, away, false, &error),
        };
    }
    let limit = usize::try_from(SMALL_BODY).unwrap_or(usize::MAX);
    let bytes = match collect(body, limit).await {
        Ok(bytes) => bytes,
        Err(error) => return answer::text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let mut last = WireError::NotSent("no answer".into());
    for _ in 0..READ_SENDS {
        let request = Request::from_parts(parts.clone(), again(&bytes));
        match away.wire.send(class, request).await {
            Ok(response) if wants_bulk(&response) && class == Class::Control => class = Class::Bulk,
            Ok(response) => return back(&site, slot, away, dav, response),
            Err(error @ WireError::NotSent(_)) => return answer::lost(share, away, false, &error),
            Err(error) if matches!(last, WireError::Lost { .. }) => {
                return answer::lost(share, away, false, &error);
            }
            Err(error) => last = error,
        }
    }
    answer::lost(share, away, false, &last)
}

fn again(bytes: &Bytes) -> Body {
    if bytes.is_empty() { Body::Empty } else { Body::Full(bytes.clone()) }
}

fn wants_bulk(response: &Response<Body>) -> bool {
    response.status() == StatusCode::MISDIRECTED_REQUEST
        && response.headers().get(RETRY).is_some_and(|wanted| wanted == BULK)
}

/// A change: what it will make ahead of the copy here is noted first (R9).
async fn changed(
    taken: Box<Taken>,
    near: Option<Arc<dyn Near>>,
    change: Change,
    as_sent: Sent,
    client: Weak<()>,
) -> Response<Body> {
    let class = class(&taken);
    let (site, slot, dav) = (taken.site.clone(), taken.slot, is_dav(&taken));
    let share = &site.slots[slot];
    let (Part::Broadcast { away, .. } | Part::Remote { away }) = &share.part else {
        return answer::retry(format!("{} has its primary here", share.share));
    };
    let (parts, body) = match outward(taken) {
        Ok(outward) => outward,
        Err(early) => return *early,
    };
    let payload = match Payload::of(&parts.headers, body).await {
        Ok(payload) => payload,
        Err(error) => return answer::text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let ticket = match near {
        None => None,
        Some(near) => match near.begin(&change).await {
            Ok(ticket) => Some((near, ticket)),
            Err(error) => return answer::near_error(&share.share, &error),
        },
    };
    let sent = again::send(away, &share.share, class, as_sent, parts, payload, &client).await;
    match (&sent, ticket) {
        (Ok(response), _)
            if response.headers().contains_key(AHEAD) && away.left.load(Ordering::SeqCst) =>
        {
            return answer::overtaken(&share.share, away);
        }
        (_, None) => {}
        (Err(WireError::NotSent(_)), Some((_, ticket))) => ticket.refused(),
        // Dropped: unknown.
        (Err(WireError::Lost { .. }), Some(_)) => {}
        (Ok(response), Some((near, ticket))) => match response.headers().get(AHEAD) {
            None => ticket.refused(),
            Some(_) if near.is_over() => return answer::overtaken(&share.share, away),
            Some(ahead) => {
                if let Some(awaits) = unhex(ahead.as_bytes()).and_then(|raw| (site.codec.decode)(&raw)) {
                    ticket.answered(awaits);
                }
            }
        },
    }
    match sent {
        Ok(response) => back(&site, slot, away, dav, response),
        Err(error) => {
            tracing::warn!(share = %share.share, peer = %away.site, "forwarded change: {error}");
            answer::lost(&share.share, away, true, &error)
        }
    }
}

/// Small things take the control connection, and whatever may be big the other.
fn class(taken: &Taken) -> Class {
    let small = taken.body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL_BODY);
    let fits = match &taken.classified.effect {
        Effect::Read(read) => match taken.parts.method {
            Method::HEAD | Method::OPTIONS => true,
            Method::GET => small_range(&taken.parts.headers),
            // The primary says so if the listing turns out too long.
            _ => read.depth != Depth::Tree,
        },
        Effect::Change(_) | Effect::Outside => true,
    };
    if small && fits { Class::Control } else { Class::Bulk }
}

/// Whether one range of at most [`SMALL_ANSWER`] bytes is asked for (RFC 9110 section 14.1.2).
fn small_range(headers: &HeaderMap) -> bool {
    let range = headers.get(header::RANGE).and_then(|field| field.to_str().ok());
    let Some((first, last)) =
        range.and_then(|range| range.strip_prefix("bytes=")).and_then(|range| range.split_once('-'))
    else {
        return false;
    };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) => last.checked_sub(first).is_some_and(|span| span < SMALL_ANSWER),
        (Err(_), Ok(suffix)) => first.trim().is_empty() && suffix <= SMALL_ANSWER,
        _ => false,
    }
}

/// The request as it goes over the link.
fn outward(taken: Box<Taken>) -> Result<(Parts, Body), Early> {
    let Taken { site, slot, client, classified, mut parts, body, .. } = *taken;
    let headers = &mut parts.headers;
    if strip_hop_by_hop(headers) {
        headers.insert(header::TE, TRAILERS);
    }
    remove_ours(headers);
    // The body is asked for as soon as this site has found nothing against the request.
    headers.remove(header::EXPECT);
    let unwritable = || {
        let text = "the request cannot be sent to the primary's site";
        Early::new(answer::text(StatusCode::BAD_REQUEST, text))
    };
    let value = |text: String| HeaderValue::try_from(text).map_err(|_| unwritable());
    if let Some(host) = headers.remove(header::HOST) {
        headers.insert(HOST, host);
    }
    headers.insert(CLIENT, value(client.to_string())?);
    if let Some(bond) = parts.extensions.remove::<Arc<Bond>>() {
        headers.insert(BOND, value(format!("{:032x}", bond.id()))?);
    }
    if let Some(query) = parts.uri.query() {
        headers.insert(QUERY, value(query.to_owned())?);
    }
    let mut path = format!("/v1/share/{}/http", site.slots[slot].share);
    if let Some(place) = &classified.place {
        if let Some((to, slash)) = &place.destination {
            let mut path = String::new();
            encode_into(&mut path, "", to, *slash);
            headers.insert(DESTINATION, value(path)?);
            headers.remove("destination");
        }
        if let Some(conditions) = &place.conditions {
            let below = |path: &RelPath, slash| encode("", path, slash);
            headers.insert("if", value(conditions.write(below))?);
        }
        encode_into(&mut path, "", classified.path(), place.slash);
    }
    parts.uri = PathAndQuery::try_from(path).map(Uri::from).map_err(|_| unwritable())?;
    parts.version = Version::HTTP_2;
    Ok((parts, body))
}

/// Drops every field that only sites may send each other.
pub fn remove_ours(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("nearshare-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

/// The primary's answer, as the client here gets it.
fn back(
    site: &HttpSite,
    slot: usize,
    away: &Away,
    dav: bool,
    mut response: Response<Body>,
) -> Response<Body> {
    remove_ours(response.headers_mut());
    if response.status() == StatusCode::MISDIRECTED_REQUEST {
        let share = &site.slots[slot].share;
        tracing::error!(%share, site = %away.site, "the site says that it does not hold the primary");
        return answer::retry(format!(
            "the site {} does not hold the primary copy of {share}; nothing was changed",
            away.site
        ));
    }
    let mend = Mend {
        moved: &away.moved,
        rewrite: true,
        dav,
        drop_locks: false,
        locks: None,
        drop_etags: true,
        tagger: Some(Tagger::ours()),
        hosts: &[],
    };
    mend.mend(response)
}

/// Whether XML in the answer is WebDAV's own, and no file.
fn is_dav(taken: &Taken) -> bool {
    taken.classified.row.touches != Touches::Object
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}
