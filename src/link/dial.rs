//! The dialling end: keeps a control and a bulk connection to one peer, makes them anew when they
//! break, and sends requests over them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{Method, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use prost::Message;
use rustls_pki_types::ServerName;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::hello::{HELLO_MAX, HELLO_PATH, Hello, NEWS_PATH, No, Theirs, hash_text, printable};
use super::pace::{self, tcp_info};
use super::refuse::{Reason, Refusal};
use super::status::{Direction, PeerFault, PeerState};
use super::stream::{Fault, FaultCell, Tcp, Watched, prepare};
use super::{Class, Core, Session, Terms, lock};
use crate::body::{Body, BoxError, collect};
use crate::clock::BootTime;
use crate::id::SiteId;
use crate::socket::Socket;

/// A peer that stays unreachable is logged once in this time.
const QUIET: Duration = Duration::from_secs(60);
/// What the other side's certificate is checked against is its URI, so the name in TLS is always this.
const TLS_NAME: &str = "nearshare";

/// A site that this one dials.
pub struct Peer {
    site: SiteId,
    core: Arc<Core>,
    up: watch::Sender<Up>,
    control: ArcSwapOption<Line>,
    bulk: ArcSwapOption<Line>,
    status: Mutex<Status>,
}

/// Whether a peer can be sent requests, and in which session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Up {
    /// The control connection is there.
    pub up: bool,
    /// The bulk connection is there as well; it comes a moment later.
    pub bulk: bool,
    /// The last one that there was.
    pub session: Option<Session>,
}

/// A request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// It was not sent: nothing was done.
    #[error("the {} link to {site} {why}", .class.as_str())]
    NotSent { site: SiteId, class: Class, why: &'static str },
    /// It may have arrived and may have been done.
    #[error("the {} link to {site} broke before the answer came: {source}", .class.as_str())]
    Lost { site: SiteId, class: Class, session: Session, source: BoxError },
}

struct Status {
    since_unix_ms: i64,
    address: Option<SocketAddr>,
    theirs: Option<Theirs>,
    last_error: Option<PeerFault>,
    /// What was logged last of this, and when.
    logged: Option<(String, BootTime)>,
}

/// One connection, hello done.
struct Line {
    session: Session,
    sender: SendRequest<Body>,
    address: SocketAddr,
    tcp: Weak<Socket>,
    /// One per request that waits for its answer's head: hyper's own queue has no end.
    permits: Semaphore,
    fault: FaultCell,
    ended: CancellationToken,
    theirs: Theirs,
    /// Ends the connection, at the latest when the last who uses it lets go.
    kill: CancellationToken,
    _guard: DropGuard,
}

/// Why a connection could not be made.
enum DialError {
    Unreachable {
        what: String,
        fix: String,
    },
    Refused(SocketAddr, Refusal),
    /// The acceptor knows a later session than ours.
    Superseded(Session),
}

impl Peer {
    pub(super) fn new(site: SiteId, core: Arc<Core>) -> Arc<Self> {
        let status = Status {
            since_unix_ms: core.now_unix_ms(),
            address: None,
            theirs: None,
            last_error: None,
            logged: None,
        };
        Arc::new(Self {
            site,
            core,
            up: watch::Sender::default(),
            control: ArcSwapOption::empty(),
            bulk: ArcSwapOption::empty(),
            status: Mutex::new(status),
        })
    }
    pub fn site(&self) -> &SiteId {
        &self.site
    }
    /// Whether the control connection is there.
    pub fn up(&self) -> bool {
        self.up.borrow().up
    }
    pub fn watch(&self) -> watch::Receiver<Up> {
        self.up.subscribe()
    }
    pub(super) fn theirs(&self) -> Option<Theirs> {
        lock(&self.status).theirs.clone()
    }
    /// Sends a request and waits for the head of its answer. Fails at once if the connection is not
    /// there. The URI needs a path only.
    pub async fn send(
        &self,
        class: Class,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, SendError> {
        let site = || self.site.clone();
        let not_sent = |why| SendError::NotSent { site: site(), class, why };
        let line = self.slot(class).load_full().ok_or_else(|| not_sent("is down"))?;
        let _permit =
            line.permits.try_acquire().map_err(|_| not_sent("has no room for more requests"))?;
        complete(request.uri_mut(), &self.site);
        match line.sender.clone().try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut error) => match error.take_message() {
                Some(_) => Err(not_sent("has just broken")),
                None => {
                    let source = error.into_error();
                    if refused_stream(&source) {
                        return Err(not_sent("takes no more requests"));
                    }
                    let session = line.session;
                    Err(SendError::Lost { site: site(), class, session, source: source.into() })
                }
            },
        }
    }
    pub fn state(&self) -> PeerState {
        let ours = self.core.terms();
        let control = self.control.load_full();
        let tcp = control.as_ref().and_then(|line| line.tcp.upgrade());
        let info = tcp.and_then(|tcp| tcp_info(tcp.kernel()?).ok());
        let up = *self.up.borrow();
        let status = lock(&self.status);
        PeerState {
            site: self.site.clone(),
            direction: Direction::Dialled,
            up: up.up,
            bulk: up.bulk,
            since_unix_ms: status.since_unix_ms,
            address: status.address,
            rtt_ms: info.map(|info| info.rtt.as_secs_f64() * 1e3),
            session: up.session.filter(|_| up.up),
            map: status.theirs.as_ref().map(|theirs| theirs.map(&ours)),
            disagrees: status.theirs.as_ref().map(|theirs| theirs.disagrees(&ours)).unwrap_or_default(),
            last_error: status.last_error.clone(),
        }
    }
    fn slot(&self, class: Class) -> &ArcSwapOption<Line> {
        match class {
            Class::Control => &self.control,
            Class::Bulk => &self.bulk,
        }
    }

    /// Keeps the link up until `cancel`.
    pub(super) async fn run(self: Arc<Self>, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = self.keep_control() => {}
        }
        self.down();
    }
    async fn keep_control(&self) {
        let limits = self.core.limits;
        let mut session = Session(self.core.start, 0);
        let mut attempt = 0;
        loop {
            session.1 += 1;
            match self.open(Class::Control, session).await {
                Ok(line) => {
                    let began = self.core.clock.boot();
                    let ended = self.live(Arc::new(line), session).await;
                    self.down();
                    self.failed(ended);
                    if self.core.clock.boot().since(began) >= limits.lived {
                        attempt = 0;
                    }
                }
                Err(DialError::Superseded(latest)) => {
                    session = session.max(latest);
                    self.failed(DialError::Superseded(latest));
                }
                Err(error) => self.failed(error),
            }
            sleep(pause(attempt, limits.backoff, rand::random())).await;
            attempt = attempt.saturating_add(1);
        }
    }
    /// One session, from the control connection's hello to its end; says why it ended.
    async fn live(&self, control: Arc<Line>, session: Session) -> DialError {
        let address = control.address;
        self.core.compare_maps(&self.site, &control.theirs);
        {
            let mut status = lock(&self.status);
            status.address = Some(address);
            status.theirs = Some(control.theirs.clone());
            status.since_unix_ms = self.core.now_unix_ms();
            status.logged = None;
        }
        self.control.store(Some(control.clone()));
        self.up.send_replace(Up { up: true, bulk: false, session: Some(session) });
        tracing::info!(peer = %self.site, %address, %session, "connected to another site");
        tokio::select! {
            () = control.ended.cancelled() => self.broke(&control),
            error = self.keep_bulk(session) => error,
            error = self.keep_greeting(&control, session) => error,
        }
    }
    /// Says hello again from time to time and when either map is new.
    async fn keep_greeting(&self, control: &Line, session: Session) -> DialError {
        let mut terms = self.core.terms.subscribe();
        let dialled = target(&terms.borrow_and_update(), &self.site);
        let mut known = control.theirs.hash;
        loop {
            tokio::select! {
                () = sleep(self.core.limits.again) => {}
                () = self.news_of_map(control, &known) => {}
                changed = terms.changed() => if changed.is_err() { return std::future::pending().await },
            }
            if target(&terms.borrow_and_update(), &self.site) != dialled {
                return DialError::Unreachable {
                    what: format!("the map has a new address for {}", self.site),
                    fix: "nothing to do, it is dialled there".into(),
                };
            }
            let sender = control.sender.clone();
            match self.greet(sender, Class::Control, session, control.address, &control.fault).await {
                Ok(theirs) => {
                    self.core.compare_maps(&self.site, &theirs);
                    known = theirs.hash;
                    lock(&self.status).theirs = Some(theirs);
                }
                Err(error) => return error,
            }
        }
    }
    /// Waits until the other side has another map than the one with this hash. For ever with a release that
    /// does not tell: it is met by the next hello.
    async fn news_of_map(&self, control: &Line, known: &[u8; 32]) {
        let mut request = Request::new(Body::Empty);
        // A path and hexadecimal digits are a URI.
        *request.uri_mut() = format!("{NEWS_PATH}?{}", hash_text(known)).parse().unwrap_or_default();
        complete(request.uri_mut(), &self.site);
        match control.sender.clone().send_request(request).await {
            // Maps do not change more often than that.
            Ok(answer) if answer.status() == StatusCode::NO_CONTENT => {
                sleep(self.core.limits.backoff.0).await;
            }
            _ => std::future::pending().await,
        }
    }
    /// Keeps the bulk connection up while the session lasts.
    async fn keep_bulk(&self, session: Session) -> DialError {
        let limits = self.core.limits;
        let mut attempt = 0;
        loop {
            let began = self.core.clock.boot();
            match self.open(Class::Bulk, session).await {
                Ok(line) => {
                    let line = Arc::new(line);
                    self.bulk.store(Some(line.clone()));
                    self.up.send_modify(|state| state.bulk = true);
                    line.ended.cancelled().await;
                    self.bulk.store(None);
                    self.up.send_modify(|state| state.bulk = false);
                    self.failed(self.broke(&line));
                }
                Err(DialError::Superseded(latest)) => return DialError::Superseded(latest),
                Err(error) => self.failed(error),
            }
            if self.core.clock.boot().since(began) >= limits.lived {
                attempt = 0;
            }
            sleep(pause(attempt, limits.backoff, rand::random())).await;
            attempt = attempt.saturating_add(1);
        }
    }
    fn down(&self) {
        let was_up = self.up.send_if_modified(|state| {
            state.bulk = false;
            std::mem::take(&mut state.up)
        });
        // Requests that still wait for an answer hold their line; it ends all the same.
        for line in [self.control.swap(None), self.bulk.swap(None)].into_iter().flatten() {
            line.kill.cancel();
        }
        if was_up {
            lock(&self.status).since_unix_ms = self.core.now_unix_ms();
        }
    }
    /// Why a connection that was up is not any more.
    fn broke(&self, line: &Line) -> DialError {
        let why = line.fault.get().map_or("the other side closed it", |fault| fault.text.as_str());
        DialError::Unreachable {
            what: format!("the link to {} at {} is down: {why}", self.site, line.address),
            fix: "if it does not come back, look at the line and at nearshare there".into(),
        }
    }
    /// Logs and keeps what went wrong.
    fn failed(&self, error: DialError) {
        let (what, fix, log) = match error {
            DialError::Refused(address, refusal) => {
                self.core.refusals.note(&*self.core.clock, address, &refusal);
                (refusal.why, refusal.fix, false)
            }
            DialError::Unreachable { what, fix } => (what, fix, true),
            DialError::Superseded(latest) => (
                format!("{} knows a later session ({latest}) of this site", self.site),
                format!("if this repeats, another machine runs as {}: stop it", self.core.me),
                true,
            ),
        };
        let now = self.core.clock.boot();
        let mut status = lock(&self.status);
        let said = status.logged.as_ref();
        let quiet = said.is_some_and(|(text, then)| *text == what && now.since(*then) < QUIET);
        if log && !quiet {
            status.logged = Some((what.clone(), now));
        }
        let at_unix_ms = self.core.now_unix_ms();
        status.last_error = Some(PeerFault { at_unix_ms, what: what.clone(), fix: fix.clone() });
        drop(status);
        if log && !quiet {
            tracing::warn!(peer = %self.site, "{what}; {fix}");
        }
    }

    /// Makes a connection and says hello on it.
    async fn open(&self, class: Class, session: Session) -> Result<Line, DialError> {
        let terms = self.core.terms();
        let (tcp, address) = self.connect(&terms).await?;
        let tcp = Arc::new(tcp);
        let kill = CancellationToken::new();
        let guard = kill.clone().drop_guard();
        let shaken = self.handshake(tcp.clone(), address, class, terms, kill.clone());
        let (sender, fault, connection) = shaken.await?;
        let ended = CancellationToken::new();
        let ending = ended.clone().drop_guard();
        self.core.tasks.spawn(async move {
            // What it ends with is in the line's fault.
            let _ = connection.await;
            drop(ending);
        });
        let theirs = self.greet(sender.clone(), class, session, address, &fault).await?;
        let tcp = Arc::downgrade(&tcp);
        self.core.tasks.spawn(pace::run(tcp.clone(), self.core.clock.clone()));
        let permits = Semaphore::new(class.limits().streams as usize);
        Ok(Line { session, sender, address, tcp, permits, fault, ended, theirs, kill, _guard: guard })
    }
    async fn connect(&self, terms: &Terms) -> Result<(Socket, SocketAddr), DialError> {
        let site = &self.site;
        let Some((host, port)) = target(terms, site) else {
            return Err(DialError::Unreachable {
                what: format!("the map has no address for {site}"),
                fix: format!("give [site.{site}] a `link`"),
            });
        };
        let unreachable = |error: String| DialError::Unreachable {
            what: format!("cannot reach {site} at {host}:{port}: {error}"),
            fix: format!(
                "see that nearshare runs there, that `link` of [site.{site}] is right and that no \
                 firewall is in between"
            ),
        };
        let limit = self.core.limits.connect;
        let late = |_| unreachable(format!("no answer within {limit:?}"));
        let addresses = timeout(limit, tokio::net::lookup_host((host.as_str(), port)))
            .await
            .map_err(late)?
            .map_err(|error| unreachable(error.to_string()))?;
        let mut last = unreachable("the name has no address".into());
        for address in addresses {
            match timeout(limit, Socket::connect(address)).await {
                Ok(Ok(tcp)) => return Ok((tcp, address)),
                Ok(Err(error)) => last = unreachable(error.to_string()),
                Err(elapsed) => last = late(elapsed),
            }
        }
        Err(last)
    }
    async fn handshake(
        &self,
        tcp: Arc<Socket>,
        address: SocketAddr,
        class: Class,
        terms: Arc<Terms>,
        kill: CancellationToken,
    ) -> Result<(SendRequest<Body>, FaultCell, impl Future<Output = hyper::Result<()>> + use<>), DialError>
    {
        let site = &self.site;
        let broken = |why: String| {
            let (reason, claims) = (Reason::Handshake, None);
            let why = format!("cannot talk to {site}: {why}");
            let fix = format!("see that `link` of [site.{site}] is the address of nearshare there");
            DialError::Refused(address, Refusal { reason, claims, why, fix })
        };
        prepare(&tcp, class).map_err(|error| broken(error.to_string()))?;
        let (config, verdict) =
            self.core.trust.dial(site, class, terms).map_err(|error| broken(error.to_string()))?;
        let name = ServerName::try_from(TLS_NAME).map_err(|error| broken(error.to_string()))?;
        let handshake = TlsConnector::from(config).connect(name, Tcp::new(tcp, kill));
        let mut tls = match timeout(self.core.limits.tls, handshake).await {
            Ok(Ok(tls)) => tls,
            // Nobody refused anything: a line that swallows everything, most often.
            Err(_) => {
                return Err(DialError::Unreachable {
                    what: format!(
                        "{site} at {address} does not answer: the TLS handshake took too long"
                    ),
                    fix: format!("look at the line, and that `link` of [site.{site}] is right"),
                });
            }
            Ok(Err(error)) => {
                if let Some(Err(refusal)) = verdict.get() {
                    return Err(DialError::Refused(address, refusal.clone()));
                }
                let fault = Fault::of(&error);
                return Err(self
                    .blame(address, &fault)
                    .unwrap_or_else(|| broken(format!("the TLS handshake failed: {}", fault.text))));
            }
        };
        if tls.get_ref().1.alpn_protocol() != Some(class.alpn()) {
            return Err(broken("it does not speak the protocol of links".into()));
        }
        tls.get_mut().1.set_buffer_limit(Some(class.limits().sealed));
        let (stream, fault) = Watched::new(tls);
        match class.client().handshake(TokioIo::new(stream)).await {
            Ok((sender, connection)) => Ok((sender, fault, connection)),
            Err(error) => {
                let blamed = fault.get().and_then(|fault| self.blame(address, fault));
                Err(blamed.unwrap_or_else(|| broken(error.to_string())))
            }
        }
    }
    /// What the other side's TLS alert means for whoever runs this site. In TLS 1.3 it comes after
    /// our end of the handshake is done, with the first thing that is read.
    fn blame(&self, address: SocketAddr, fault: &Fault) -> Option<DialError> {
        let alert = fault.alert?;
        let (me, site) = (&self.core.me, &self.site);
        use rustls::AlertDescription as Alert;
        let (why, fix) = match alert {
            Alert::CertificateExpired => (
                "it says that our certificate is not valid now",
                format!(
                    "run `nearshare cert issue {me}`, copy the bundle here, and see that the clocks are right"
                ),
            ),
            Alert::UnknownCA | Alert::DecryptError => (
                "it says that our certificate is from another CA than its own",
                format!("issue {me} and {site} from one `nearshare cert init`"),
            ),
            Alert::AccessDenied => (
                "it does not have our site in its map, or knows our certificate as another site's",
                format!("see that [site.{me}] is in the map at {site}; its log says more"),
            ),
            _ => ("it refuses our certificate", format!("read why in the log of {site}")),
        };
        let why = format!("{site} refuses {me}: {why} (TLS alert {})", u8::from(alert));
        let claims = Some(site.clone());
        Some(DialError::Refused(address, Refusal { reason: Reason::RefusedUs, claims, why, fix }))
    }
    /// Says hello.
    async fn greet(
        &self,
        mut sender: SendRequest<Body>,
        class: Class,
        session: Session,
        address: SocketAddr,
        fault: &FaultCell,
    ) -> Result<Theirs, DialError> {
        let core = &self.core;
        let refused = |reason, why, fix| {
            let claims = Some(self.site.clone());
            DialError::Refused(address, Refusal { reason, claims, why, fix })
        };
        let same = || "run the same release at both sites".to_string();
        let hello = Hello::new(class, session, &core.terms(), core.fingerprint).encode_to_vec();
        let mut request = Request::new(Body::Full(hello.into()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static(HELLO_PATH);
        complete(request.uri_mut(), &self.site);
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status();
            let body = collect(response.into_body(), HELLO_MAX).await;
            Ok::<_, String>((status, body.map_err(|error| error.to_string())?))
        };
        let answered = timeout(core.limits.hello, exchange).await;
        let (status, body) = match answered {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                // The connection's task may be about to note why.
                tokio::task::yield_now().await;
                let blamed = fault.get().and_then(|fault| self.blame(address, fault));
                let why = format!("{} gave no answer to hello: {error}", self.site);
                return Err(blamed.unwrap_or_else(|| refused(Reason::Hello, why, same())));
            }
            Err(_) => {
                let why = format!("{} did not answer hello within {:?}", self.site, core.limits.hello);
                return Err(refused(Reason::Hello, why, same()));
            }
        };
        let malformed = |error: prost::DecodeError| {
            let why = format!("the answer of {} to hello is malformed: {error}", self.site);
            refused(Reason::Hello, why, same())
        };
        match status {
            StatusCode::OK => {
                let theirs = Hello::decode(body).map_err(malformed)?;
                theirs
                    .judge(&self.site, class, &core.fingerprint)
                    .map_err(|refusal| DialError::Refused(address, refusal))
            }
            StatusCode::GONE => {
                let no = No::decode(body).map_err(malformed)?;
                Err(DialError::Superseded(Session(no.session_start, no.session_count)))
            }
            _ => {
                let no = No::decode(body).map_err(malformed)?;
                let (why, fix) = (printable(&no.why), printable(&no.fix));
                let why = format!("{} refuses {}: it says: {why}", self.site, core.me);
                Err(refused(Reason::RefusedUs, why, fix))
            }
        }
    }
}

/// Where a site is to be dialled.
fn target(terms: &Terms, site: &SiteId) -> Option<(String, u16)> {
    match terms.via.get(site) {
        Some(address) => Some((address.ip().to_string(), address.port())),
        None => terms.sites.get(site).cloned(),
    }
}

/// HTTP/2 wants a scheme and an authority; what the caller gave stays.
fn complete(uri: &mut Uri, site: &SiteId) {
    if uri.authority().is_some() {
        return;
    }
    let mut parts = std::mem::take(uri).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTPS);
    // A site's name is a DNS label.
    parts.authority = site.as_str().parse().ok();
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    }
    *uri = Uri::from_parts(parts).unwrap_or_default();
}

/// Whether the other side says that it has not looked at the request (RFC 9113 section 8.7).
fn refused_stream(error: &hyper::Error) -> bool {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.is_remote() && h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        source = error.source();
    }
    false
}

/// How long to wait before the next attempt: anything from nothing to twice as much as the last time
/// (`chance` says where), so that sites that lost one peer together do not all come back at once.
fn pause(attempt: u32, (first, longest): (Duration, Duration), chance: u32) -> Duration {
    let most = first.saturating_mul(1u32.checked_shl(attempt).unwrap_or(u32::MAX)).min(longest);
    most.mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_longest_and_are_spread() {
        let limits = (Duration::from_millis(100), Duration::from_secs(5));
        let longest: Vec<_> = (0..8).map(|n| pause(n, limits, u32::MAX).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(pause(u32::MAX, limits, u32::MAX), limits.1);
        assert_eq!(pause(3, limits, 0), Duration::ZERO);
        let half = pause(3, limits, u32::MAX / 2);
        assert!(half > Duration::from_millis(390) && half < Duration::from_millis(410));
    }

    #[test]
    fn a_uri_gets_what_http2_needs_and_keeps_its_own() {
        let site: SiteId = "hq".parse().unwrap();
        for (given, wanted) in [
            ("/v1/journal?from=3", "https://hq/v1/journal?from=3"),
            ("http://files.example.com/a%20b", "http://files.example.com/a%20b"),
            ("*", "https://hq*"),
        ] {
            let mut uri = Uri::from_static(given);
            complete(&mut uri, &site);
            assert_eq!(uri.to_string(), wanted);
        }
    }
}
