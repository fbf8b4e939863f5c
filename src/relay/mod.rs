//! The life of one request, for clients and peers alike: what it touches, where it goes, and what has
//! to be so before its answer may be given.
//!
//! Not here: how connections come in (`door`), how the server is reached (`server`), and what marks,
//! generations and copies are (`notice`, `follow`; reached through [`seam`]).

mod again;
mod answer;
mod bonds;
mod cut;
mod fair;
mod forward;
mod home;
mod ledger;
mod locks;
mod meters;
mod near;
mod peer;
mod replay;
pub mod seam;
mod stays;
mod steady;
mod tags;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};

use self::again::{Lost, Sent};
use self::answer::Early;
use self::bonds::Bonds;
use self::fair::{Room, UnderWay, Who};
use self::meters::{From, Meters};
use self::replay::{Ids, Replay};
use self::seam::{Awaits, Fence, Home, Near, Wire};
use self::stays::{Said, Stays};
use crate::body::{Body, CollectError, collect};
use crate::clock::Clock;
use crate::effect::{Change, Effect, Read};
use crate::id::{ShareId, SiteId};
use crate::route::{Access, Certainty, Clients, Facts, Role, Route, Standing, route};
use crate::server::Serves;
use crate::wire::http::condition::full_answer_will_do;
use crate::wire::http::{Classified, Move, Refusal, SiteShares, Touches, classify, normalise, xml};

pub use self::cut::Running;
pub use self::fair::host;
pub use self::locks::{Keeper, KeptBy};
pub use self::peer::Caller;

/// On an answer of a copy that cannot know whether it is what the primary has (R13).
const CUT_OFF: HeaderValue = HeaderValue::from_static("nearshare;hit;detail=\"cut off\"");

/// What a site does over HTTP: one value a map, replaced as a whole at a reload.
pub struct HttpSite {
    pub site: SiteId,
    pub shares: SiteShares,
    /// In the order of `shares`.
    pub slots: Vec<ShareHttp>,
    pub upstream: Arc<dyn Serves>,
    /// What the server is told as its Host, instead of what the client said.
    pub host: Option<HeaderValue>,
    pub codec: Codec,
    /// Kept over reloads.
    pub running: Arc<Running>,
}

/// How what a change left ahead is written for another site.
#[derive(Clone, Copy)]
pub struct Codec {
    pub encode: fn(&Awaits) -> Vec<u8>,
    pub decode: fn(&[u8]) -> Option<Awaits>,
}

/// One share at this site.
pub struct ShareHttp {
    pub share: ShareId,
    /// The sites that have a part in it, with a copy or without one: nobody else may forward.
    pub sites: BTreeSet<SiteId>,
    pub clients: Clients,
    /// The share's directory here; none for a site without a copy.
    pub fence: Option<Arc<dyn Fence>>,
    pub locks: KeptBy,
    pub part: Part,
}

/// What this site is for the share, with what that takes.
pub enum Part {
    Local { home: Arc<dyn Home> },
    Broadcast { near: Arc<dyn Near>, away: Away },
    Remote { away: Away },
}

/// The site with the primary copy.
pub struct Away {
    pub site: SiteId,
    pub wire: Arc<dyn Wire>,
    /// From its URLs of the share to ours.
    pub moved: Move,
    /// This site knows of another primary by now: what the site says of changes may be of a history that has
    /// ended (R34).
    pub left: Arc<AtomicBool>,
}

impl Part {
    fn away_mut(&mut self) -> Option<&mut Away> {
        match self {
            Self::Broadcast { away, .. } | Self::Remote { away } => Some(away),
            Self::Local { .. } => None,
        }
    }
}

impl ShareHttp {
    /// The site with the primary copy, if that is another.
    fn away(&self) -> Option<&Away> {
        match &self.part {
            Part::Broadcast { away, .. } | Part::Remote { away } => Some(away),
            Part::Local { .. } => None,
        }
    }
    pub fn role(&self) -> Role {
        match self.part {
            Part::Local { .. } => Role::Local,
            Part::Broadcast { .. } => Role::Broadcast,
            Part::Remote { .. } => Role::Remote,
        }
    }
    fn facts(&self, effect: &Effect, parts: &Parts, said: &Said) -> Facts {
        let role = self.role();
        let mut certainty = Certainty::Relaxed;
        let (standing, link_up) = match (&self.part, effect) {
            (Part::Local { .. }, _) => (Standing::Current, true),
            (Part::Broadcast { near, away }, Effect::Read(read)) => {
                certainty = near.certainty();
                (near.standing(read), away.wire.up())
            }
            (Part::Broadcast { away, .. } | Part::Remote { away }, _) => {
                (Standing::Current, away.wire.up())
            }
        };
        let is_file = [Method::GET, Method::HEAD].contains(&parts.method);
        let full_answer_will_do = is_file && full_answer_will_do(&parts.headers);
        let known_there = self.away().is_some_and(|away| said.is_known_at(&away.site));
        Facts { role, standing, certainty, link_up, full_answer_will_do, known_there }
    }
}

impl HttpSite {
    /// Takes the place of `old`: whoever waits there for an answer of a site that leads no more is told.
    fn leave(&mut self, old: &Self) {
        for old in &old.slots {
            let Some(away) = old.away() else { continue };
            let now = self.slots.iter_mut().find(|slot| slot.share == old.share);
            match now.and_then(|slot| slot.part.away_mut()) {
                Some(now) if now.site == away.site => now.left = away.left.clone(),
                _ => away.left.store(true, Ordering::SeqCst),
            }
        }
    }
}

/// HTTP at this site.
pub struct HttpRelay {
    site: ArcSwap<HttpSite>,
    reloading: Mutex<()>,
    meters: Meters,
    under_way: Arc<UnderWay>,
    /// Of the changes that are forwarded from here, and to here.
    ids: Ids,
    lost: Arc<Lost>,
    replay: Arc<Replay>,
    /// What of clients here is known to one site's server alone.
    stays: Stays,
    /// Of other sites' clients.
    bonds: Bonds,
    connections: AtomicU64,
    via: AtomicBool,
}

impl HttpRelay {
    /// The metrics recorder must be installed before: handles are taken here.
    pub fn new(site: HttpSite, clock: Arc<dyn Clock>) -> Self {
        Self {
            site: ArcSwap::from_pointee(site),
            reloading: Mutex::default(),
            meters: Meters::new(),
            under_way: Arc::default(),
            ids: Ids::new(),
            lost: Arc::default(),
            replay: Arc::new(Replay::new(clock)),
            stays: Stays::default(),
            bonds: Bonds::default(),
            connections: AtomicU64::new(0),
            via: AtomicBool::new(false),
        }
    }
    /// Whether messages that pass say so in Via (RFC 9110 section 7.6.3), by the site's name. Off at first:
    /// nobody is to notice this relay.
    pub fn show_via(&self, via: bool) {
        self.via.store(via, Ordering::Relaxed);
    }
    /// From the next request on; those that run end under the old map.
    pub fn reload(&self, mut site: HttpSite) {
        // Whoever else reloads at the same time would miss what this one leaves.
        let _one_at_a_time = self.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        site.leave(&self.site.load());
        let leads = |site: &HttpSite, share: &ShareId| {
            site.slots.iter().any(|slot| slot.share == *share && slot.role() == Role::Local)
        };
        let site = Arc::new(site);
        let old = self.site.swap(site.clone());
        if old.slots.iter().any(|slot| slot.role() == Role::Local && !leads(&site, &slot.share)) {
            self.replay.forget_all();
        }
    }
    /// A client's connection, for as long as it is kept.
    pub fn connected(self: &Arc<Self>) -> Connected {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connected(self.clone())
    }
    /// Clients' open connections.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
    /// Changes forwarded since the start whose link broke before the answer, by what was found out.
    pub fn lost(&self) -> BTreeMap<&'static str, u64> {
        self.lost.counts()
    }
    pub fn site(&self) -> Arc<HttpSite> {
        self.site.load_full()
    }

    /// Serves one request of a client.
    pub async fn serve(&self, client: SocketAddr, request: Request<Body>) -> Response<Body> {
        let who = Who::client(client);
        let Some(room) = self.under_way.begin(&who) else {
            let response = answer::too_many_of(&who);
            self.meters.answered(From::Client, None, response.status());
            return response;
        };
        let response = self.serve_in(room.clone(), client, request).await;
        response.map(|body| room.over(body))
    }

    async fn serve_in(
        &self,
        room: Arc<Room>,
        client: SocketAddr,
        request: Request<Body>,
    ) -> Response<Body> {
        let site = self.site.load_full();
        let _running = self.meters.running();
        let (mut parts, body) = request.into_parts();
        let understood = normalise(&mut parts).and_then(|()| classify(&parts, &site.shares));
        let via = self.via.load(Ordering::Relaxed);
        if via {
            add_via(&mut parts.headers, parts.version, &site.site);
        }
        let (decided, mut response) = match understood {
            Ok(classified) => self.decided(&site, room, client, classified, parts, body).await,
            Err(refusal) => {
                note_refusal(&refusal, client, parts.uri.path());
                (None, answer::refused(&refusal))
            }
        };
        if via {
            add_via(response.headers_mut(), Version::HTTP_11, &site.site);
        }
        self.meters.answered(From::Client, decided, response.status());
        response
    }

    async fn decided(
        &self,
        site: &Arc<HttpSite>,
        room: Arc<Room>,
        client: SocketAddr,
        mut classified: Classified,
        parts: Parts,
        body: Body,
    ) -> (Option<(Route, bool)>, Response<Body>) {
        let changes = classified.row.touches.changes();
        let said = self.stays.said(&parts);
        let Some(slot) = classified.place.as_ref().map(|place| place.slot) else {
            let mut response = near::pass(site, changes, parts, body).await;
            self.stays.answered(&said, &site.site, &mut response);
            return (Some((Route::Pass, changes)), response);
        };
        let share = &site.slots[slot];
        if !may(&share.clients, client, changes) {
            tracing::warn!(share = %share.share, %client, "the client may not do this by `clients`");
            return (None, answer::forbidden(&share.share, changes));
        }
        if let (Role::Broadcast, Effect::Read(read)) = (share.role(), &mut classified.effect) {
            read.home_only |= tags::is_unproven(share, &read.path, &parts.headers).await;
        }
        let body = match asked(site, slot, &mut classified, body).await {
            Ok(body) => body,
            Err(early) => return (None, *early),
        };
        let facts = share.facts(&classified.effect, &parts, &said);
        let route = route(&classified.effect, &facts);
        let diverted = matches!(route, Route::Divert | Route::DivertPlain);
        let cut_off = diverted && facts.certainty == Certainty::CutOffServe;
        if cut_off {
            metrics::counter!("nearshare_reads_cut_off_total", "share" => share.share.to_string())
                .increment(1);
        }
        tracing::debug!(
            site = %site.site, share = %share.share, %client, method = %parts.method,
            path = %classified.path(), ?route, "request"
        );
        let by = match (route, share.away()) {
            (Route::Forward, Some(away)) => &away.site,
            _ => &site.site,
        };
        let site = site.clone();
        let taken = Box::new(Taken { site, slot, client, classified, parts, body, from: None, room });
        // In boxes of their own: what the longest way takes is not allocated for a request that goes another, and
        // leaves no hole of that size beside what its connection keeps.
        let mut response = match route {
            Route::Pass | Route::Divert => near::divert(taken, false).boxed().await,
            Route::DivertPlain => near::divert(taken, true).boxed().await,
            Route::Home => home::client(taken).boxed().await,
            Route::Forward => {
                let sent = Sent { id: self.ids.next(), lost: self.lost.clone() };
                forward::forward(taken, sent).boxed().await
            }
            Route::Refuse(why) => answer::away(share, why),
        };
        self.stays.answered(&said, by, &mut response);
        if cut_off {
            // RFC 9211: who asked can tell that this may be old.
            response.headers_mut().append("cache-status", CUT_OFF);
        }
        (Some((route, changes)), response)
    }
}

/// `version`: that of the message as it came.
fn add_via(headers: &mut HeaderMap, version: Version, site: &SiteId) {
    let version = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    // A site's name is a token.
    if let Ok(value) = HeaderValue::try_from(format!("{version} {site}")) {
        headers.append(header::VIA, value);
    }
}

/// Counts one client's connection.
pub struct Connected(Arc<HttpRelay>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request in a share, with all that is known of it.
struct Taken {
    site: Arc<HttpSite>,
    slot: usize,
    client: SocketAddr,
    classified: Classified,
    parts: Parts,
    body: Body,
    /// The site that forwarded it.
    from: Option<Caller>,
    /// To be kept for as long as it is under way.
    room: Arc<Room>,
}

impl Taken {
    fn change(&self) -> Option<&Change> {
        match &self.classified.effect {
            Effect::Change(change) => Some(change),
            Effect::Read(Read { .. }) | Effect::Outside => None,
        }
    }
}

/// Whether a PROPFIND at a copy asks for what only the primary's server knows is said in its body.
async fn asked(
    site: &HttpSite,
    slot: usize,
    classified: &mut Classified,
    body: Body,
) -> Result<Body, Early> {
    let Effect::Read(read) = &mut classified.effect else { return Ok(body) };
    if classified.row.touches != Touches::ByDepth || site.slots[slot].role() != Role::Broadcast {
        return Ok(body);
    }
    let xml = match collect(body, xml::BODY_MAX).await {
        Ok(xml) => xml,
        Err(error @ CollectError::TooLong { .. }) => {
            return Err(Box::new(answer::text(StatusCode::PAYLOAD_TOO_LARGE, error.to_string())));
        }
        Err(error) => return Err(Box::new(answer::text(StatusCode::BAD_REQUEST, error.to_string()))),
    };
    read.home_only |= xml::asks_home(&xml, site.shares.url(slot).asks_home());
    Ok(xml.into())
}

/// Whether the share's rules let the client do it.
fn may(clients: &Clients, client: SocketAddr, changes: bool) -> bool {
    clients.access(client.ip()) >= if changes { Access::Write } else { Access::Read }
}

fn note_refusal(refusal: &Refusal, client: SocketAddr, path: &str) {
    if refusal.of_the_edge() {
        tracing::warn!(%client, path = %path.escape_debug(), "refused: {refusal}");
    } else {
        tracing::debug!(%client, path = %path.escape_debug(), "refused: {refusal}");
    }
}

#[cfg(test)]
mod tests;
