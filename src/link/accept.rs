//! The accepting end: connections from other sites, their hello, and which of them are of the latest
//! session. Requests are handed to [`Inbound`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::hello::{HELLO_MAX, HELLO_PATH, Hello, NEWS_PATH, No, Theirs, hash_text};
use super::pace::{self, tcp_info};
use super::refuse::{Reason, Refusal};
use super::status::{Direction, PeerState};
use super::stream::{Fault, Tcp, Watched, prepare};
use super::verify::not_in_map;
use super::{Caller, Class, Core, Inbound, Session, lock};
use crate::body::{Body, collect};
use crate::id::SiteId;
use crate::socket::{Listener, Socket};

/// How long to wait when the system has no descriptor for another connection.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

pub(super) struct Acceptor {
    core: Arc<Core>,
    inbound: Arc<dyn Inbound>,
    strangers: Arc<Semaphore>,
    numbers: AtomicU64,
    heard: Mutex<BTreeMap<SiteId, Heard>>,
}

/// What is known of a site that has dialled.
struct Heard {
    first: Session,
    latest: Session,
    control: Option<Line>,
    bulk: Option<Line>,
    theirs: Theirs,
    address: SocketAddr,
    since_unix_ms: i64,
}

struct Line {
    number: u64,
    closing: CancellationToken,
    tcp: Weak<Socket>,
}

impl Heard {
    fn line(&mut self, class: Class) -> &mut Option<Line> {
        match class {
            Class::Control => &mut self.control,
            Class::Bulk => &mut self.bulk,
        }
    }
    /// Ends the connections of the session.
    fn close(&mut self) {
        for line in [self.control.take(), self.bulk.take()].into_iter().flatten() {
            line.closing.cancel();
        }
    }
}

/// One connection, from the end of its handshake on.
struct Connection {
    acceptor: Arc<Acceptor>,
    number: u64,
    site: SiteId,
    class: Class,
    address: SocketAddr,
    tcp: Weak<Socket>,
    /// Cancelled when no more requests are to be taken.
    closing: CancellationToken,
    greeting: Mutex<Greeting>,
}

/// How far a connection is with its hello.
enum Greeting {
    /// The permit is held until the hello, or the end.
    Awaited {
        _permit: OwnedSemaphorePermit,
    },
    Said(Session),
    Failed,
}

impl Acceptor {
    pub(super) fn new(core: Arc<Core>, inbound: Arc<dyn Inbound>) -> Arc<Self> {
        let strangers = Arc::new(Semaphore::new(core.limits.strangers));
        let (numbers, heard) = (AtomicU64::new(0), Mutex::default());
        Arc::new(Self { core, inbound, strangers, numbers, heard })
    }
    pub(super) async fn run(self: Arc<Self>, listener: Listener) {
        let mut terms = self.core.terms.subscribe();
        loop {
            tokio::select! {
                () = self.core.ending.cancelled() => return,
                _ = terms.changed() => self.forget_strangers(),
                accepted = listener.accept() => match accepted {
                    Ok((tcp, address)) => self.admit(tcp, address),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a link from another site");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        }
    }
    pub(super) fn states(&self) -> Vec<PeerState> {
        let ours = self.core.terms();
        let heard = lock(&self.heard);
        let states = heard.iter().map(|(site, heard)| {
            let tcp = heard.control.as_ref().and_then(|line| line.tcp.upgrade());
            let info = tcp.and_then(|tcp| tcp_info(tcp.kernel()?).ok());
            PeerState {
                site: site.clone(),
                direction: Direction::Accepted,
                up: heard.control.is_some(),
                bulk: heard.bulk.is_some(),
                since_unix_ms: heard.since_unix_ms,
                address: Some(heard.address),
                rtt_ms: info.map(|info| info.rtt.as_secs_f64() * 1e3),
                session: heard.control.is_some().then_some(heard.latest),
                map: Some(heard.theirs.map(&ours)),
                disagrees: heard.theirs.disagrees(&ours),
                last_error: None,
            }
        });
        states.collect()
    }
    pub(super) fn theirs(&self, site: &SiteId) -> Option<Theirs> {
        lock(&self.heard).get(site).map(|heard| heard.theirs.clone())
    }
    /// Sites that a new map no longer has lose their connections.
    fn forget_strangers(&self) {
        let terms = self.core.terms();
        lock(&self.heard).retain(|site, heard| {
            let stays = terms.sites.contains_key(site);
            if !stays {
                tracing::info!(peer = %site, "the map no longer has this site, its link is ended");
                heard.close();
            }
            stays
        });
    }
    fn admit(self: &Arc<Self>, tcp: Socket, address: SocketAddr) {
        let Ok(permit) = self.strangers.clone().try_acquire_owned() else {
            let limit = self.core.limits.strangers;
            let refusal = Refusal {
                reason: Reason::TooMany,
                claims: None,
                why: format!("{limit} connections have not said hello yet"),
                fix: "let only the other sites reach this port".into(),
            };
            return self.core.refusals.note(&*self.core.clock, address, &refusal);
        };
        self.core.tasks.spawn(self.clone().connection(tcp, address, permit));
    }
    async fn connection(
        self: Arc<Self>,
        tcp: Socket,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        let kill = CancellationToken::new();
        let tcp = Arc::new(tcp);
        let weak = Arc::downgrade(&tcp);
        let shaken = tokio::select! {
            () = self.core.ending.cancelled() => return,
            shaken = self.handshake(tcp, kill.clone()) => shaken,
        };
        let (tls, site, class) = match shaken {
            Ok(shaken) => shaken,
            Err(refusal) => return self.core.refusals.note(&*self.core.clock, address, &refusal),
        };
        self.core.tasks.spawn(pace::run(weak.clone(), self.core.clock.clone()));
        let connection = Arc::new(Connection {
            number: self.numbers.fetch_add(1, Ordering::Relaxed),
            site,
            class,
            address,
            tcp: weak,
            closing: self.core.ending.child_token(),
            greeting: Mutex::new(Greeting::Awaited { _permit: permit }),
            acceptor: self,
        });
        connection.serve(tls).await;
        kill.cancel();
        connection.ended();
    }
    async fn handshake(
        &self,
        tcp: Arc<Socket>,
        kill: CancellationToken,
    ) -> Result<(TlsStream<Tcp>, SiteId, Class), Refusal> {
        let broken = |why: String| Refusal {
            reason: Reason::Handshake,
            claims: None,
            why,
            fix: "let only nearshare dial this port".into(),
        };
        let (config, verdict) =
            self.core.trust.accept(self.core.terms()).map_err(|error| broken(error.to_string()))?;
        let handshake = TlsAcceptor::from(config).accept(Tcp::new(tcp.clone(), kill));
        let mut tls = match timeout(self.core.limits.tls, handshake).await {
            Ok(Ok(tls)) => tls,
            Err(_) => return Err(broken("the TLS handshake took too long".into())),
            Ok(Err(error)) => {
                if let Some(Err(refusal)) = verdict.get() {
                    return Err(refusal.clone());
                }
                let fault = Fault::of(&error);
                return Err(match fault.alert {
                    Some(_) => refused_by_dialler(&fault),
                    None if fault.no_certificate => shows_nothing(),
                    None => broken(format!("the TLS handshake failed: {}", fault.text)),
                });
            }
        };
        let Some(Ok(site)) = verdict.get() else {
            return Err(shows_nothing());
        };
        let alpn = tls.get_ref().1.alpn_protocol();
        let Some(class) = Class::ALL.into_iter().find(|class| Some(class.alpn()) == alpn) else {
            return Err(broken("it does not speak the protocol of links".into()));
        };
        prepare(&tcp, class).map_err(|error| broken(error.to_string()))?;
        tls.get_mut().1.set_buffer_limit(Some(class.limits().sealed));
        Ok((tls, site.clone(), class))
    }
}

fn shows_nothing() -> Refusal {
    Refusal {
        reason: Reason::Stranger,
        claims: None,
        why: "it showed no certificate".into(),
        fix: "let only nearshare dial this port".into(),
    }
}

fn refused_by_dialler(fault: &Fault) -> Refusal {
    Refusal {
        reason: Reason::RefusedUs,
        claims: None,
        why: format!("the dialling site refuses this site's certificate: {}", fault.text),
        fix: "read why in the log of that site".into(),
    }
}

impl Connection {
    /// Runs the connection to its end.
    async fn serve(self: &Arc<Self>, tls: TlsStream<Tcp>) {
        let core = &self.acceptor.core;
        let (stream, fault) = Watched::new(tls);
        let service = service_fn(|request| {
            let this = self.clone();
            this.answer(request)
        });
        let mut connection = pin!(self.class.server().serve_connection(TokioIo::new(stream), service));
        let mut patience = pin!(sleep(core.limits.hello));
        let mut waiting = true;
        loop {
            tokio::select! {
                // What the closing side did comes before what is still to be read.
                biased;
                () = self.closing.cancelled() => break,
                _ = connection.as_mut() => {
                    let failed = matches!(*lock(&self.greeting), Greeting::Awaited { .. });
                    if let Some(fault) = fault.get().filter(|_| failed) {
                        let refusal = match fault.alert {
                            Some(_) => refused_by_dialler(fault),
                            None => self.no_hello(&format!("broke off before its hello: {}", fault.text)),
                        };
                        core.refusals.note(&*core.clock, self.address, &refusal);
                    }
                    return;
                }
                () = patience.as_mut(), if waiting => {
                    waiting = false;
                    if matches!(*lock(&self.greeting), Greeting::Awaited { .. }) {
                        let why = format!("did not say hello within {:?}", core.limits.hello);
                        core.refusals.note(&*core.clock, self.address, &self.no_hello(&why));
                        return;
                    }
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        let _ = timeout(core.limits.drain, connection).await;
    }
    fn no_hello(&self, why: &str) -> Refusal {
        Refusal {
            reason: Reason::Hello,
            claims: Some(self.site.clone()),
            why: format!("{} {why}", self.site),
            fix: "run the same release at both sites".into(),
        }
    }
    /// An answer of the link itself would be taken for one of the server: a request that may not come in
    /// is refused as one that was not processed (RFC 9113 section 8.7).
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, h2::Error> {
        if request.uri().path() == HELLO_PATH {
            return Ok(self.hello(request).await);
        }
        let session = match *lock(&self.greeting) {
            Greeting::Said(session) => session,
            Greeting::Awaited { .. } => return Ok(told(StatusCode::FORBIDDEN, "say hello first\n")),
            Greeting::Failed => return Err(h2::Reason::REFUSED_STREAM.into()),
        };
        let Some(since) = self.current_since() else {
            self.closing.cancel();
            return Err(h2::Reason::REFUSED_STREAM.into());
        };
        if request.uri().path() == NEWS_PATH {
            return Ok(self.news_of_map(request.uri().query().unwrap_or_default()).await);
        }
        let (site, class, addr) = (self.site.clone(), self.class, self.address);
        let request = request.map(Body::from);
        Ok(self.acceptor.inbound.call(Caller { site, class, session, since, addr }, request).await)
    }
    /// Waits until this site has another map than the one whose hash is `known`.
    async fn news_of_map(&self, known: &str) -> Response<Body> {
        let mut terms = self.acceptor.core.terms.subscribe();
        tokio::select! {
            () = self.closing.cancelled() => {}
            _ = terms.wait_for(|terms| hash_text(&terms.hash) != known) => {}
        }
        told(StatusCode::NO_CONTENT, "")
    }
    async fn hello(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() != Method::POST {
            return told(StatusCode::METHOD_NOT_ALLOWED, "hello is a POST\n");
        }
        let core = &self.acceptor.core;
        let hello = match collect(request.into_body(), HELLO_MAX).await {
            Ok(body) => Hello::decode(body).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let judged = hello.map_err(|error| self.no_hello(&format!("says a malformed hello: {error}")));
        let judged = judged.and_then(|hello| {
            // The map may be newer than the handshake.
            if let Some(refusal) = not_in_map(&core.me, &self.site, &core.terms()) {
                return Err(refusal);
            }
            Ok((hello.session(), hello.judge(&self.site, self.class, &core.fingerprint)?))
        });
        match judged {
            Err(refusal) => {
                *lock(&self.greeting) = Greeting::Failed;
                core.refusals.note(&*core.clock, self.address, &refusal);
                self.closing.cancel();
                let Refusal { why, fix, .. } = refusal;
                no(StatusCode::FORBIDDEN, &No { why, fix, ..No::default() })
            }
            Ok((session, theirs)) => {
                core.compare_maps(&self.site, &theirs);
                if !self.join(session, theirs) {
                    *lock(&self.greeting) = Greeting::Failed;
                    let why = format!("{} says hello in session {session}, which is over", self.site);
                    let fix = "nothing to do, it dials again".into();
                    let (reason, claims) = (Reason::Session, Some(self.site.clone()));
                    let refusal = Refusal { reason, claims, why, fix };
                    core.refusals.note(&*core.clock, self.address, &refusal);
                    self.closing.cancel();
                    return self.gone();
                }
                let answer = Hello::new(self.class, session, &core.terms(), core.fingerprint);
                Response::new(Body::Full(answer.encode_to_vec().into()))
            }
        }
    }
    /// Takes the connection into its session; a control connection begins a new one. False if the
    /// session is not the latest.
    fn join(&self, session: Session, theirs: Theirs) -> bool {
        let core = &self.acceptor.core;
        let line = Line { number: self.number, closing: self.closing.clone(), tcp: self.tcp.clone() };
        let mut all = lock(&self.acceptor.heard);
        // Said again on the same connection: only the map may be new.
        if let Some(heard) = all.get_mut(&self.site)
            && heard.latest == session
            && heard.line(self.class).as_ref().is_some_and(|line| line.number == self.number)
        {
            heard.theirs = theirs;
            return true;
        }
        match (self.class, all.get_mut(&self.site)) {
            (Class::Control, Some(heard)) if heard.latest >= session => return false,
            (Class::Control, heard) => {
                let first = heard.as_ref().map_or(session, |heard| heard.first);
                if let Some(heard) = heard {
                    heard.close();
                }
                let (address, since_unix_ms) = (self.address, core.now_unix_ms());
                let heard = Heard {
                    first,
                    latest: session,
                    control: Some(line),
                    bulk: None,
                    theirs,
                    address,
                    since_unix_ms,
                };
                all.insert(self.site.clone(), heard);
                tracing::info!(peer = %self.site, %address, %session, "another site has connected");
            }
            (Class::Bulk, Some(heard)) if heard.latest == session && heard.control.is_some() => {
                if let Some(old) = heard.bulk.replace(line) {
                    old.closing.cancel();
                }
            }
            (Class::Bulk, _) => return false,
        }
        drop(all);
        *lock(&self.greeting) = Greeting::Said(session);
        true
    }
    /// While this connection is of its site's latest session: the first one of that site.
    fn current_since(&self) -> Option<Session> {
        let mut all = lock(&self.acceptor.heard);
        let heard = all.get_mut(&self.site)?;
        let line = heard.line(self.class).as_ref()?;
        (line.number == self.number).then_some(heard.first)
    }
    /// The session of this connection is over; says which one the next has to be above.
    fn gone(&self) -> Response<Body> {
        let latest = lock(&self.acceptor.heard).get(&self.site).map(|heard| heard.latest);
        let Session(session_start, session_count) = latest.unwrap_or_default();
        let why = "this session is over".into();
        no(StatusCode::GONE, &No { why, fix: "dial again".into(), session_start, session_count })
    }
    /// The connection is closed: its session ends if it was the control connection.
    fn ended(&self) {
        let mut all = lock(&self.acceptor.heard);
        let Some(heard) = all.get_mut(&self.site) else { return };
        let line = heard.line(self.class);
        if line.as_ref().is_none_or(|line| line.number != self.number) {
            return;
        }
        *line = None;
        if self.class == Class::Control {
            heard.close();
            heard.since_unix_ms = self.acceptor.core.now_unix_ms();
            tracing::info!(peer = %self.site, address = %self.address, "another site has gone");
        }
    }
}

fn told(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    response
}

fn no(status: StatusCode, no: &No) -> Response<Body> {
    let mut response = Response::new(Body::Full(no.encode_to_vec().into()));
    *response.status_mut() = status;
    response
}
