//! A request that another site forwarded: checked again here as if the client had come itself, and
//! answered with what it left ahead of the copies.

use std::net::SocketAddr;
use std::sync::Arc;

use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body::Body as _;

use super::again::Payload;
use super::answer::Early;
use super::fair::{Room, Who};
use super::forward::{
    AHEAD, BOND, BULK, CLIENT, DESTINATION, HOST, QUERY, RETRY, SMALL_ANSWER, UNKNOWN, hex, remove_ours,
};
use super::home::{self, Ahead, Ended};
use super::ledger::ChangeId;
use super::meters::From;
use super::replay::{self, ID, Kept, Replay, SENT};
use super::seam::Class;
use super::{Codec, HttpRelay, HttpSite, ShareHttp, Taken, answer, may, near, note_refusal};
use crate::body::{Body, CollectError, collect};
use crate::id::{ShareId, SiteId};
use crate::link::Session;
use crate::route::{Role, Route};
use crate::wire::http::{Classified, Refusal, UrlPath, classify_below};

/// Who forwarded a request, as the link knows it.
#[derive(Debug, Clone)]
pub struct Caller {
    pub site: SiteId,
    /// The connection it came on.
    pub class: Class,
    pub session: Session,
    /// The first session of that site which this process knows of.
    pub since: Session,
}

impl HttpRelay {
    /// Serves `/v1/share/<share>/http/...` of another site.
    pub async fn serve_peer(
        &self,
        caller: &Caller,
        share: &ShareId,
        request: Request<Body>,
    ) -> Response<Body> {
        let who = Who::Site(caller.site.clone());
        let Some(room) = self.under_way.begin(&who) else {
            let response = answer::too_many_of(&who);
            self.meters.answered(From::Site, None, response.status());
            return response;
        };
        let response = self.serve_peer_in(room.clone(), caller, share, request).await;
        response.map(|body| room.over(body))
    }

    async fn serve_peer_in(
        &self,
        room: Arc<Room>,
        caller: &Caller,
        share: &ShareId,
        request: Request<Body>,
    ) -> Response<Body> {
        let site = self.site.load_full();
        let _running = self.meters.running();
        let Some(slot) =
            site.slots.iter().position(|known| known.share == *share && known.role() == Role::Local)
        else {
            tracing::warn!(%share, peer = %caller.site, "a request for a share that is not local here");
            let text = format!("{} does not hold the primary copy of {share}", site.site);
            return answer::text(StatusCode::MISDIRECTED_REQUEST, text);
        };
        if !site.slots[slot].sites.contains(&caller.site) {
            tracing::warn!(%share, peer = %caller.site, "a request of a site that has no part in the share");
            let response = answer::no_part(share, &caller.site, &site.site);
            self.meters.answered(From::Site, None, response.status());
            return response;
        }
        let (mut parts, body) = request.into_parts();
        if let Some(bond) = parts.headers.get(BOND) {
            let id = bond.to_str().ok().and_then(|id| u128::from_str_radix(id, 16).ok());
            let Some(id) = id else {
                let text = "nearshare-bond must be hexadecimal, of 128 bits";
                return answer::text(StatusCode::BAD_REQUEST, text);
            };
            parts.extensions.insert(self.bonds.of(&caller.site, id));
        }
        let id = match id(&parts.headers) {
            Ok(id) => id,
            Err(response) => return *response,
        };
        let (decided, response) = match arrived(&site, slot, parts) {
            Ok((client, classified, parts)) => {
                let changes = classified.row.touches.changes();
                let route = if changes { Route::Home } else { Route::Divert };
                tracing::debug!(
                    site = %site.site, %share, %client, from = %caller.site, method = %parts.method,
                    path = %classified.path(), "forwarded request"
                );
                let site = site.clone();
                let taken =
                    Box::new(Taken { site, slot, client, classified, parts, body, from: None, room });
                let response = match changes {
                    true => changed(taken, caller, &self.replay, id).await,
                    false => read(taken, caller.class).await,
                };
                (Some((route, changes)), response)
            }
            Err(response) => (None, *response),
        };
        self.meters.answered(From::Site, decided, response.status());
        response
    }

    /// Serves `/v1/share/<share>/outcome` of another site: what became of a change whose answer it lost.
    pub async fn outcome(
        &self,
        caller: &Caller,
        share: &ShareId,
        headers: &HeaderMap,
    ) -> Response<Body> {
        let site = self.site.load_full();
        let led = |known: &&ShareHttp| known.share == *share && known.role() == Role::Local;
        let Some(known) = site.slots.iter().find(led) else {
            // Another may lead by now, and what was answered here may be lost.
            let text = format!("{} does not hold the primary copy of {share}", site.site);
            return answer::text(StatusCode::MISDIRECTED_REQUEST, text);
        };
        if !known.sites.contains(&caller.site) {
            tracing::warn!(%share, peer = %caller.site, "a question of a site that has no part in the share");
            return answer::no_part(share, &caller.site, &site.site);
        }
        let sent = headers.get(SENT).and_then(|field| field.to_str().ok()?.parse().ok());
        match (id(headers), sent) {
            (Ok(Some(id)), Some(sent)) => self.replay.outcome(caller, id, sent).await,
            (Err(response), _) => *response,
            _ => answer::text(
                StatusCode::BAD_REQUEST,
                "who asks for an outcome must give nearshare-id, and as nearshare-sent the session",
            ),
        }
    }
}

/// The change's id; a site one release older gives none.
fn id(headers: &HeaderMap) -> Result<Option<ChangeId>, Early> {
    let mut fields = headers.get_all(ID).into_iter();
    let Some(field) = fields.next() else { return Ok(None) };
    if fields.next().is_some() {
        let text = "a change has one nearshare-id";
        return Err(Box::new(answer::text(StatusCode::BAD_REQUEST, text)));
    }
    match field.to_str().unwrap_or_default().parse() {
        Ok(id) => Ok(Some(id)),
        Err(error) => Err(Box::new(answer::text(StatusCode::BAD_REQUEST, format!("{error}")))),
    }
}

/// What the request is, and for whom.
fn arrived(
    site: &HttpSite,
    slot: usize,
    mut parts: Parts,
) -> Result<(SocketAddr, Classified, Parts), Early> {
    let bad = |what: &str| Box::new(answer::text(StatusCode::BAD_REQUEST, what));
    let field = |name| parts.headers.get(name).and_then(|field: &HeaderValue| field.to_str().ok());
    let client: SocketAddr = field(CLIENT)
        .and_then(|client| client.parse().ok())
        .ok_or_else(|| bad("a forwarded request must carry nearshare-client: address and port"))?;
    let share = &site.slots[slot].share;
    let below = parts
        .uri
        .path()
        .strip_prefix("/v1/share/")
        .and_then(|rest| rest.strip_prefix(share.as_str()))
        .and_then(|rest| rest.strip_prefix("/http"))
        .ok_or_else(|| bad("a forwarded request is for /v1/share/<share>/http/<path>"))?;
    let refused = |refusal: Refusal| {
        note_refusal(&refusal, client, parts.uri.path());
        Box::new(answer::refused(&refusal))
    };
    let path = match below {
        "" => UrlPath::default(),
        below => UrlPath::decode(below).map_err(|error| refused(error.into()))?,
    };
    let to = field(DESTINATION).map(UrlPath::decode).transpose();
    let to = to.map_err(|error| refused(error.into()))?;
    let classified =
        classify_below(&parts.method, &parts.headers, site.shares.url(slot), slot, path, to)
            .map_err(refused)?;
    if !may(&site.slots[slot].clients, client, classified.row.touches.changes()) {
        tracing::warn!(%share, %client, "the client may not do this by `clients`");
        return Err(Box::new(answer::forbidden(share, classified.row.touches.changes())));
    }
    let query = format!("/?{}", field(QUERY).unwrap_or_default());
    parts.uri = match parts.headers.contains_key(QUERY) {
        true => PathAndQuery::try_from(query).map(Uri::from).map_err(|_| bad("nearshare-query"))?,
        false => Uri::from_static("/"),
    };
    if let Some(host) = parts.headers.remove(HOST) {
        parts.headers.insert(header::HOST, host);
    }
    remove_ours(&mut parts.headers);
    Ok((client, classified, parts))
}

async fn read(taken: Box<Taken>, class: Class) -> Response<Body> {
    let response = near::divert(taken, false).await;
    if class == Class::Control { small(response).await } else { response }
}

async fn changed(
    mut taken: Box<Taken>,
    caller: &Caller,
    replay: &Arc<Replay>,
    id: Option<ChangeId>,
) -> Response<Body> {
    // A small body that does not come whole was never begun.
    let body = std::mem::replace(&mut taken.body, Body::Empty);
    taken.body = match Payload::of(&taken.parts.headers, body).await {
        Ok(payload) => payload.body(),
        Err(error) => return answer::text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    let turn = match id.map(|id| replay.begin(caller, id)).transpose() {
        Ok(turn) => turn,
        Err(why) => return replay::refused(&why),
    };
    let codec = taken.site.codec;
    taken.from = Some(caller.clone());
    let seen_through = home::change(taken, move |ended| async move {
        // The other site's client did not break off, the link did.
        let doubt = ended.ahead == Ahead::Unknown && ended.response.status().is_client_error();
        let response = told(ended, codec);
        let Some(turn) = turn else { return response };
        let (response, kept) = Kept::of(response).await;
        turn.end(kept.filter(|_| !doubt));
        response
    });
    seen_through.await.unwrap_or_else(|broken| {
        told(Ended { response: home::in_doubt(broken), ahead: Ahead::Unknown }, codec)
    })
}

/// The answer, with what the change left ahead of the copies.
fn told(ended: Ended, codec: Codec) -> Response<Body> {
    let Ended { mut response, ahead } = ended;
    let ahead = match ahead {
        Ahead::NotBegun => None,
        Ahead::Unknown => Some(UNKNOWN),
        // What cannot be told is not known there.
        Ahead::Awaits(awaits) => {
            Some(HeaderValue::try_from(hex(&(codec.encode)(&awaits))).unwrap_or(UNKNOWN))
        }
    };
    if let Some(ahead) = ahead {
        response.headers_mut().insert(AHEAD, ahead);
    }
    response
}

/// Only short answers go over the control connection: of others the other site is told to ask for
/// them on the other one.
async fn small(response: Response<Body>) -> Response<Body> {
    let too_long = || {
        let mut response =
            answer::text(StatusCode::MISDIRECTED_REQUEST, "longer than the control connection takes");
        response.headers_mut().insert(RETRY, BULK);
        response
    };
    let (parts, body) = response.into_parts();
    if body.is_end_stream() {
        return Response::from_parts(parts, body);
    }
    match body.size_hint().upper() {
        Some(bytes) if bytes <= SMALL_ANSWER => return Response::from_parts(parts, body),
        Some(_) => return too_long(),
        None => {}
    }
    let limit = usize::try_from(SMALL_ANSWER).unwrap_or(usize::MAX);
    match collect(body, limit).await {
        Ok(bytes) => Response::from_parts(parts, bytes.into()),
        Err(CollectError::TooLong { .. }) => too_long(),
        Err(CollectError::Broken(error)) => {
            answer::text(StatusCode::BAD_GATEWAY, format!("the file server broke off: {error}"))
        }
    }
}
