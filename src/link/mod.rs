//! Links to other sites: two mutually authenticated TLS 1.3 connections with HTTP/2 per dialled peer,
//! `control` for what is small and urgent, `bulk` for the rest, so that a full line never starves the
//! small. Requests go from the dialler to the acceptor. Inbound ones are handed out through [`Inbound`].
//!
//! A connection begins with a hello. The dialler numbers its sessions: each time its control connection
//! is made anew a new session begins, bulk joins it, and the acceptor answers nobody who is still in an
//! older one. A session ends with its control connection.
//!
//! Not here: what the requests mean (`relay`, `follow`, `serve`), and where positions in journals are
//! told (the journal's own stream).

pub mod bundle;
pub mod cert;
pub mod frames;
pub mod own;
pub mod share;

mod accept;
mod class;
mod dial;
mod hello;
mod pace;
mod rate;
mod refuse;
mod status;
mod stream;
#[cfg(test)]
mod tests;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use class::Class;
pub use dial::{Peer, SendError, Up};
pub use hello::PeerMap;
pub use refuse::{Reason, Refused};
pub use status::{Direction, PeerFault, PeerState};

use accept::Acceptor;
use cert::{Identity, Secret};
use refuse::Refusals;
use verify::Trust;

use crate::body::Body;
use crate::clock::Clock;
use crate::id::{ShareId, SiteId};
use crate::socket::{Listener, cannot_listen};

/// What does not change while the process runs.
pub struct LinkConfig {
    pub me: SiteId,
    pub identity: Identity,
    pub secret: Secret,
    pub listen: SocketAddr,
    pub clock: Arc<dyn Clock>,
}

/// What the map says of links; replaced as a whole when it is reloaded.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    pub serial: u64,
    pub hash: [u8; 32],
    /// What each share's definition hashes to.
    pub digests: BTreeMap<ShareId, [u8; 32]>,
    /// Every site of the map, with the host and port at which others reach it.
    pub sites: BTreeMap<SiteId, (String, u16)>,
    /// The sites that this one dials.
    pub dial: BTreeSet<SiteId>,
    /// Addresses to dial instead of the map's.
    pub via: BTreeMap<SiteId, SocketAddr>,
}

/// Numbers a dialler's connections to one peer: (wall clock at its start, count). A later one is
/// greater, also after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session(pub u64, pub u64);

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// No session is written so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session is two decimal numbers with a dot between them")]
pub struct NoSession;

impl FromStr for Session {
    type Err = NoSession;
    /// Only as it is shown: no sign, and no zero before a number.
    fn from_str(text: &str) -> Result<Self, NoSession> {
        let (start, count) = text.split_once('.').ok_or(NoSession)?;
        let number = |digits: &str| digits.parse().map_err(|_| NoSession);
        let session = Self(number(start)?, number(count)?);
        if session.to_string() == text { Ok(session) } else { Err(NoSession) }
    }
}

impl Serialize for Session {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// Who sends an inbound request. The site is proven by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub site: SiteId,
    pub class: Class,
    pub session: Session,
    /// The first of its sessions that this process accepted: what was sent in that one or later went to no
    /// other process.
    pub since: Session,
    pub addr: SocketAddr,
}

/// Where inbound requests go.
///
/// The future is dropped when the connection ends or the dialler gives up: what must not be cut short
/// has to run in a task of its own. The answer's body is dropped at the same moment.
pub trait Inbound: Send + Sync + 'static {
    fn call(
        &self,
        from: Caller,
        request: http::Request<Body>,
    ) -> BoxFuture<'static, http::Response<Body>>;
}

/// The sites that can be asked from here, as the rooms above see them: [`Links`], or a model.
pub trait Net: Send + Sync + 'static {
    /// A site that this one dials.
    fn peer(&self, site: &SiteId) -> Option<Arc<dyn Remote>>;
    /// Whether a site's map describes a share otherwise than ours, as far as its last hello tells.
    fn disagrees(&self, site: &SiteId, share: &ShareId) -> bool;
}

/// One of them.
pub trait Remote: Send + Sync {
    /// Whether the control connection is there.
    fn up(&self) -> bool;
    fn watch(&self) -> watch::Receiver<Up>;
    /// Sends a request and waits for the head of its answer. Fails at once if the connection is not
    /// there. The URI needs a path only.
    fn send(
        &self,
        class: Class,
        request: http::Request<Body>,
    ) -> BoxFuture<'_, Result<http::Response<Body>, SendError>>;
}

impl Net for Links {
    fn peer(&self, site: &SiteId) -> Option<Arc<dyn Remote>> {
        Self::peer(self, site).map(|peer| peer as Arc<dyn Remote>)
    }
    fn disagrees(&self, site: &SiteId, share: &ShareId) -> bool {
        Self::disagrees(self, site, share)
    }
}

impl Remote for Peer {
    fn up(&self) -> bool {
        Self::up(self)
    }
    fn watch(&self) -> watch::Receiver<Up> {
        Self::watch(self)
    }
    fn send(
        &self,
        class: Class,
        request: http::Request<Body>,
    ) -> BoxFuture<'_, Result<http::Response<Body>, SendError>> {
        let sent = Self::send(self, class, request);
        Box::pin(async move { Ok(sent.await?.map(Body::from)) })
    }
}

/// Links cannot start.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("cannot listen for other sites at {addr}: {source}; {}", cannot_listen(source))]
    Listen { addr: SocketAddr, source: io::Error },
    #[error("cannot use {what}: {source}; issue a new bundle with `nearshare cert issue {site}`")]
    Tls { site: SiteId, what: &'static str, source: rustls::Error },
    #[error(
        "this is site {me}, but the certificate is that of {site}: copy the bundle that \
         `nearshare cert issue {me}` wrote"
    )]
    NotMine { me: SiteId, site: SiteId },
}

/// How long things may take. The defaults are the product's; tests have shorter ones.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// From the end of the TLS handshake to the hello.
    hello: Duration,
    tls: Duration,
    connect: Duration,
    /// First and longest pause between two attempts.
    backoff: (Duration, Duration),
    /// A connection that lived so long begins again with the first pause.
    lived: Duration,
    /// Hello is said again so often, so that a map reloaded at the other side is noticed.
    again: Duration,
    /// How long running requests of an ended session may take to end.
    drain: Duration,
    /// Connections that have not said hello, at one listener.
    strangers: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(5),
            tls: Duration::from_secs(5),
            connect: Duration::from_secs(5),
            backoff: (Duration::from_millis(100), Duration::from_secs(5)),
            lived: Duration::from_secs(1),
            again: Duration::from_secs(30),
            drain: Duration::from_secs(1),
            strangers: 256,
        }
    }
}

/// All links of this site.
pub struct Links {
    core: Arc<Core>,
    acceptor: Arc<Acceptor>,
    local: SocketAddr,
    runtime: tokio::runtime::Handle,
    dialled: Mutex<BTreeMap<SiteId, (Arc<Peer>, CancellationToken)>>,
}

/// What both ends need.
struct Core {
    me: SiteId,
    fingerprint: [u8; 32],
    clock: Arc<dyn Clock>,
    terms: watch::Sender<Arc<Terms>>,
    trust: Trust,
    refusals: Refusals,
    limits: Limits,
    /// First half of the sessions of this process.
    start: u64,
    ending: CancellationToken,
    tasks: TaskTracker,
    warned: Mutex<BTreeSet<MapPair>>,
}

/// A difference of maps that was logged: the other site, our map's hash and its.
type MapPair = (SiteId, [u8; 32], [u8; 32]);

impl Links {
    /// Binds, listens and begins to dial. Must be called within the runtime. Ends on
    /// [`shutdown`](Self::shutdown).
    pub async fn start(
        config: LinkConfig,
        terms: Arc<Terms>,
        inbound: Arc<dyn Inbound>,
    ) -> Result<Arc<Self>, LinkError> {
        Self::start_with(config, terms, inbound, Limits::default()).await
    }
    async fn start_with(
        config: LinkConfig,
        terms: Arc<Terms>,
        inbound: Arc<dyn Inbound>,
        limits: Limits,
    ) -> Result<Arc<Self>, LinkError> {
        let LinkConfig { me, identity, secret, listen: addr, clock } = config;
        if identity.site != me {
            return Err(LinkError::NotMine { me, site: identity.site });
        }
        let trust = Trust::new(identity, clock.clone())?;
        let failed = |source| LinkError::Listen { addr, source };
        let listener = Listener::bind(addr).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let start = u64::try_from(clock.wall().0).unwrap_or(0);
        let core = Arc::new(Core {
            me,
            fingerprint: secret.fingerprint(),
            clock,
            terms: watch::Sender::new(terms.clone()),
            trust,
            refusals: Refusals::default(),
            limits,
            start,
            ending: CancellationToken::new(),
            tasks: TaskTracker::new(),
            warned: Mutex::default(),
        });
        let acceptor = Acceptor::new(core.clone(), inbound);
        core.tasks.spawn(acceptor.clone().run(listener));
        let runtime = tokio::runtime::Handle::current();
        let links = Arc::new(Self { core, acceptor, local, runtime, dialled: Mutex::default() });
        links.set_terms(terms);
        Ok(links)
    }
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
    /// Takes a new map. Connections that it still allows stay; hello is said again on them.
    pub fn set_terms(&self, terms: Arc<Terms>) {
        self.core.terms.send_replace(terms.clone());
        let mut dialled = lock(&self.dialled);
        dialled.retain(|site, (_, cancel)| {
            let stays = terms.dial.contains(site);
            if !stays {
                cancel.cancel();
            }
            stays
        });
        for site in &terms.dial {
            if *site == self.core.me || dialled.contains_key(site) || self.core.ending.is_cancelled() {
                continue;
            }
            let cancel = self.core.ending.child_token();
            let peer = Peer::new(site.clone(), self.core.clone());
            self.core.tasks.spawn_on(peer.clone().run(cancel.clone()), &self.runtime);
            dialled.insert(site.clone(), (peer, cancel));
        }
    }
    /// A site that this one dials.
    pub fn peer(&self, site: &SiteId) -> Option<Arc<Peer>> {
        lock(&self.dialled).get(site).map(|(peer, _)| peer.clone())
    }
    /// Whether a site's map describes a share otherwise than ours, as far as its last hello tells.
    pub fn disagrees(&self, site: &SiteId, share: &ShareId) -> bool {
        let ours = self.core.terms();
        let dialled = self.peer(site).and_then(|peer| peer.theirs());
        let theirs = [dialled, self.acceptor.theirs(site)];
        theirs.iter().flatten().any(|theirs| theirs.disagrees(&ours).contains(share))
    }
    /// Every link, dialled ones first.
    pub fn states(&self) -> Vec<PeerState> {
        let peers: Vec<_> = lock(&self.dialled).values().map(|(peer, _)| peer.clone()).collect();
        let mut states: Vec<_> = peers.iter().map(|peer| peer.state()).collect();
        states.extend(self.acceptor.states());
        states
    }
    /// How many connections were refused, for each reason.
    pub fn refused(&self) -> BTreeMap<Reason, u64> {
        self.core.refusals.counts()
    }
    /// The latest refusals, oldest first.
    pub fn refusals(&self) -> Vec<Refused> {
        self.core.refusals.latest()
    }
    /// Ends every connection and waits for that. Requests that others have sent get a second to end,
    /// those sent from here break.
    pub async fn shutdown(&self) {
        self.core.ending.cancel();
        self.core.tasks.close();
        self.core.tasks.wait().await;
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.core.ending.cancel();
    }
}

/// Differing maps that are remembered so as to be logged once.
const WARNED_MAX: usize = 256;

impl Core {
    fn terms(&self) -> Arc<Terms> {
        self.terms.borrow().clone()
    }
    fn now_unix_ms(&self) -> i64 {
        self.clock.wall().0 / 1_000_000
    }
    /// Says once that a site has another map.
    fn compare_maps(&self, site: &SiteId, theirs: &hello::Theirs) {
        let ours = self.terms();
        if theirs.same_map(&ours) {
            return;
        }
        let mut warned = lock(&self.warned);
        if warned.len() >= WARNED_MAX {
            warned.clear();
        }
        let new = warned.insert((site.clone(), ours.hash, theirs.hash));
        drop(warned);
        if new {
            let shares = theirs.disagrees(&ours);
            let shares = shares.iter().map(ShareId::as_str).collect::<Vec<_>>().join(", ");
            tracing::warn!(
                peer = %site,
                serial = ours.serial,
                their_serial = theirs.serial,
                shares,
                "the map of another site differs from ours (`shares` are those it describes otherwise): \
                 put the same file at both sites and run `nearshare reload`"
            );
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is kept under these locks is never half changed when a panic could happen.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
