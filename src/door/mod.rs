//! Where clients come in: accept, TLS, HTTP/1 and HTTP/2, framing, limits and time-outs, and draining at the
//! end. Not here: what a request is and what is done with it (see `relay`).

mod clients;
mod guard;
mod kept;
mod tally;
pub mod tls;
mod watch;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use metrics::{counter, gauge};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::clients::{Clients, Place};
use self::guard::{Guard, Speaks};
use self::kept::Running;
pub use self::tally::{Tally, Why};
use self::watch::{Watch, Watched};
use crate::body::{self, Body};
use crate::relay::HttpRelay;
use crate::socket::{Listener, Socket, cannot_listen};
use crate::wire::http::Secure;
use crate::wire::http::framing::{Fault, HeadLimits};

/// What one door takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; one more gets a 503 and is closed.
    pub connections: usize,
    /// Open connections of one client (an IPv4 address, or an IPv6 network of 64 bits).
    pub client_connections: u64,
    /// Requests of one client in one second; one more gets a 429.
    pub client_rate: Option<u32>,
    /// How long a connection without a request is kept.
    pub idle: Duration,
    /// From the first byte of a request's head to its last, in whole seconds.
    pub head: Duration,
    /// Longest silence in the middle of a request's body, in whole seconds.
    pub body: Duration,
    /// Header fields of a request; more gets a 431.
    pub fields: usize,
    /// Bytes of a request's head, and of a body in memory at once.
    pub buffer: usize,
    /// What a client that takes nothing may keep us waiting, in whole seconds. Of HTTP/2 that ends the
    /// answer, and the connection when nothing else is left on it.
    pub write: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub streams: u32,
    /// How long requests may run on at the end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            // A whole office may come from one address.
            client_connections: 4096,
            client_rate: None,
            idle: Duration::from_secs(30),
            head: Duration::from_secs(30),
            body: Duration::from_secs(60),
            fields: 128,
            buffer: 64 * 1024,
            // A film that is paused takes nothing.
            write: Duration::from_secs(300),
            streams: 256,
            drain: Duration::from_secs(30),
        }
    }
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for clients at {address}: {source}; {}", cannot_listen(source))]
pub struct ListenError {
    pub address: SocketAddr,
    pub source: io::Error,
}

/// Begins to listen. `shared`: several listeners of this process may take turns (SO_REUSEPORT).
pub fn listen(address: SocketAddr, shared: bool) -> Result<Listener, ListenError> {
    open(address, shared).map(Listener::from).map_err(|source| ListenError { address, source })
}

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Connections that wait to be accepted: Linux' own default limit (`net.core.somaxconn`).
const BACKLOG: i32 = 4096;
/// Pause after an accept that failed for want of memory or descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts and serves until `stop`, then lets what runs end.
pub async fn serve(listener: Listener, relay: Arc<HttpRelay>, limits: Limits, stop: CancellationToken) {
    Door::new(relay, limits).serve(listener, stop).await;
}

/// Where clients of one site come in, over one address or several.
pub struct Door {
    relay: Arc<HttpRelay>,
    limits: Limits,
    places: Arc<Semaphore>,
    clients: Clients,
    watch: Watch,
    tally: Tally,
    /// For connections that begin from now on.
    tls: ArcSwapOption<ServerConfig>,
}

impl Door {
    /// Needs a runtime.
    pub fn new(relay: Arc<HttpRelay>, limits: Limits) -> Arc<Self> {
        let door = Arc::new(Self {
            relay,
            limits,
            places: Arc::new(Semaphore::new(limits.connections)),
            clients: Clients::default(),
            watch: Watch::default(),
            tally: Tally::default(),
            tls: ArcSwapOption::empty(),
        });
        let watching = Arc::downgrade(&door);
        tokio::spawn(async move {
            let mut seconds = tokio::time::interval(watch::TICK);
            seconds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                seconds.tick().await;
                let Some(door) = watching.upgrade() else { return };
                door.watch.tick(&door.limits, &door.tally);
                door.clients.tidy(door.watch.now());
            }
        });
        door
    }

    /// Who was turned away, and why.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// From the next connection on.
    pub fn set_tls(&self, tls: Arc<ServerConfig>) {
        self.tls.store(Some(tls));
    }

    /// Accepts and serves until `stop`, then lets what runs end.
    pub async fn serve(self: Arc<Self>, listener: Listener, stop: CancellationToken) {
        self.accept(listener, false, stop).await;
    }

    /// The same, over TLS; without a certificate nobody gets in.
    pub async fn serve_tls(self: Arc<Self>, listener: Listener, stop: CancellationToken) {
        self.accept(listener, true, stop).await;
    }

    async fn accept(self: Arc<Self>, listener: Listener, secure: bool, stop: CancellationToken) {
        let running = TaskTracker::new();
        let cut = CancellationToken::new();
        let open = gauge!("nearshare_http_connections");
        let refused = counter!("nearshare_http_connections_refused_total");
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let (stream, client) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!("accept: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let (place, own) = match self.enter(client) {
                Ok(places) => places,
                Err(why) => {
                    refused.increment(1);
                    self.tally.turned_away(why, client, self.watch.now());
                    if !secure {
                        turn_away(stream);
                    }
                    continue;
                }
            };
            let (door, open, stop, cut) = (self.clone(), open.clone(), stop.clone(), cut.clone());
            let counted = self.relay.connected();
            running.spawn(async move {
                open.increment(1.0);
                let cut = cut.child_token();
                door.connection(stream, (client, own), secure, stop, cut).await;
                open.decrement(1.0);
                drop((counted, place));
            });
        }
        drop(listener);
        running.close();
        if tokio::time::timeout(self.limits.drain, running.wait()).await.is_err() {
            tracing::warn!(left = running.len(), "requests still running are cut off");
            cut.cancel();
            running.wait().await;
        }
    }

    fn enter(&self, client: SocketAddr) -> Result<(OwnedSemaphorePermit, Place), Why> {
        let Limits { client_connections, client_rate, .. } = self.limits;
        let own = self.clients.enter(client.ip(), client_connections, client_rate).ok_or(Why::Many)?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| Why::Full)?;
        Ok((place, own))
    }

    /// One connection, from its first byte to its last, or until it is `cut`.
    async fn connection(
        self: Arc<Self>,
        stream: Socket,
        (client, own): (SocketAddr, Place),
        secure: bool,
        stop: CancellationToken,
        cut: CancellationToken,
    ) {
        if let Err(error) = prepare(&stream, self.limits) {
            tracing::debug!(%client, "socket options: {error}");
        }
        let watched = self.watch.add(client, cut.clone());
        let served = async {
            let own = ForClient::new(&self, &watched, own, secure);
            if secure {
                Box::pin(self.shake(stream, own, stop)).await;
            } else {
                Box::pin(self.talk(stream, None, own, stop)).await;
            }
        };
        // Pinned here, or each that waits for it would hold it twice.
        let served = pin!(served);
        // `None` if it kept us waiting, or ran on for too long at the end.
        let _ended = cut.run_until_cancelled(served).await;
    }

    /// TLS, and what is said over it.
    async fn shake(self: &Arc<Self>, stream: Socket, own: ForClient, stop: CancellationToken) {
        // In a box of its own, which goes before anything is said.
        let shaken = Box::pin(self.handshake(stream)).await;
        match shaken {
            Ok(stream) => {
                let alpn = stream.get_ref().1.alpn_protocol();
                let agreed = alpn.map(|name| if name == tls::H2 { Speaks::Two } else { Speaks::One });
                Box::pin(self.talk(stream, agreed, own, stop)).await;
            }
            Err(error) => {
                let client = own.watched.client;
                tracing::debug!(%client, "TLS: {error}");
                self.tally.turned_away(Why::Handshake, client, self.watch.now());
            }
        }
    }

    async fn handshake(&self, stream: Socket) -> io::Result<TlsStream<Socket>> {
        let tls = self.tls.load_full().ok_or(io::ErrorKind::NotConnected)?;
        let shaken = tokio::time::timeout(self.limits.head, TlsAcceptor::from(tls).accept(stream)).await;
        shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// `agreed`: which HTTP it is, if that is known already.
    async fn talk<I>(
        self: &Arc<Self>,
        stream: I,
        agreed: Option<Speaks>,
        service: ForClient,
        stop: CancellationToken,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = self.limits;
        let heads = HeadLimits { fields: limits.fields, bytes: limits.buffer };
        let watched = service.watched.clone();
        let mut guard = Guard::new(stream, heads, watched.clone());
        let speaks = match agreed {
            Some(speaks) => speaks,
            None => tokio::select! {
                heard = tokio::time::timeout(limits.idle, guard.hear()) => match heard {
                    Ok(Ok(speaks)) => speaks,
                    Ok(Err(_)) | Err(_) => return,
                },
                () = stop.cancelled() => return,
            },
        };
        let client = watched.client;
        // In boxes: there may be thousands, and each is to be as large as it needs, not as the largest.
        let ended = match speaks {
            Speaks::One => Box::pin(one(guard, service, limits, stop)).await,
            Speaks::Two => {
                guard.open();
                Box::pin(two(guard, service, limits, stop)).await
            }
        };
        if watched.any_fault().is_some() {
            self.tally.turned_away(Why::Malformed, client, self.watch.now());
        }
        if let Err(error) = ended {
            tracing::debug!(%client, "connection: {error}");
        }
    }
}

/// Says that there are too many, as far as that fits into the socket's buffer.
fn turn_away(stream: Socket) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n\
        Content-Length: 21\r\n\r\ntoo many connections\n";
    // If not even this fits, closing says it too.
    let _sent = stream.try_write(FULL);
}

/// HTTP/1.1 and 1.0.
async fn one<I>(
    io: Guard<I>,
    service: ForClient,
    limits: Limits,
    stop: CancellationToken,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_headers(limits.fields)
        .max_header_size(limits.buffer)
        .max_buf_size(limits.buffer)
        .half_close(true)
        .keep_alive(true);
    let serving = http.serve_connection(TokioIo::new(io), service);
    tokio::pin!(serving);
    tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    }
}

/// How often a silent HTTP/2 client is asked whether it is still there, and how long it may think.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);
/// Streams that a client may have reset before we took them (h2's own default, and the same for those that
/// we reset): more is an attack, and ends the connection.
const RESETS: usize = 20;
/// Bytes of one body that a client may have sent and nobody has taken: 100 Mbit/s over 20 ms. A connection
/// takes that of all its streams, or one body that waits its turn would stop the others. Only changes under
/// way and requests at the server have such bodies, and both have limits.
const WINDOW: u32 = 256 << 10;
/// RFC 9113 section 6.9.1.
const WINDOW_MAX: u32 = (1 << 31) - 1;

async fn two<I>(
    io: Guard<I>,
    service: ForClient,
    limits: Limits,
    stop: CancellationToken,
) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let list = u32::try_from(limits.buffer).unwrap_or(u32::MAX);
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW.saturating_mul(limits.streams).min(WINDOW_MAX))
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .max_header_list_size(list)
        .max_send_buf_size(limits.buffer);
    let watched = service.watched.clone();
    let serving = http.serve_connection(TokioIo::new(io), service);
    tokio::pin!(serving);
    let mut asked = 0;
    loop {
        tokio::select! {
            ended = serving.as_mut() => return ended,
            () = stop.cancelled() => break,
            () = tokio::time::sleep(limits.idle) => {
                let before = std::mem::replace(&mut asked, watched.calls.load(Ordering::Relaxed));
                if before == asked {
                    break;
                }
            }
        }
    }
    // What runs ends as it should; for what is new the client comes again.
    serving.as_mut().graceful_shutdown();
    let mut over = false;
    loop {
        tokio::select! {
            ended = serving.as_mut() => return ended,
            () = tokio::time::sleep(limits.write) => {
                // What is left are answers that nobody takes.
                if std::mem::replace(&mut over, watched.streams.running() == 0) && over {
                    return Ok(());
                }
            }
        }
    }
}

/// The kernel gives up on a client a little later than we do.
const LATER: Duration = Duration::from_secs(10);

fn prepare(stream: &Socket, limits: Limits) -> io::Result<()> {
    stream.set_nodelay()?;
    let Some(kernel) = stream.kernel() else { return Ok(()) };
    let socket = socket2::SockRef::from(&kernel);
    socket.set_keepalive(true)?;
    socket.set_tcp_user_timeout(Some(limits.write + LATER))
}

/// The relay, for the client of one connection.
struct ForClient {
    door: Arc<Door>,
    watched: Arc<Watched>,
    own: Place,
    /// Over TLS.
    secure: bool,
}

impl ForClient {
    fn new(door: &Arc<Door>, watched: &Arc<Watched>, own: Place, secure: bool) -> Self {
        Self { door: door.clone(), watched: watched.clone(), own, secure }
    }

    /// What must not even be looked at.
    fn turned_away(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let before = self.watched.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(fault) = self.watched.fault(before) {
            let mut answer = said(fault.status(), &fault.to_string());
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return Some(answer);
        }
        if request.headers().len() > self.door.limits.fields {
            return Some(said(Fault::LongHead.status(), &Fault::LongHead.to_string()));
        }
        let now = self.door.watch.now();
        if self.own.ask(now) {
            return None;
        }
        self.door.tally.turned_away(Why::Often, self.watched.client, now);
        let mut answer = said(StatusCode::TOO_MANY_REQUESTS, "too many requests; nothing was done");
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        Some(answer)
    }
}

fn said(status: StatusCode, text: &str) -> Response<Body> {
    let mut answer = Response::new(Body::text(format!("{text}\n")));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}

impl Service<Request<Incoming>> for ForClient {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    /// In a box, so that a connection without a request is small.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Self::Error>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let turned_away = self.turned_away(&request);
        if self.secure {
            request.extensions_mut().insert(Secure);
        }
        if let Some(bond) = self.watched.bond(request.headers()) {
            request.extensions_mut().insert(bond);
        }
        let old = request.version() == Version::HTTP_10;
        let two = request.version() == Version::HTTP_2;
        let (head, body) = request.into_parts();
        let (body, unasked) = if two {
            (kept::from_client(&self.watched, body.into()), body::Unasked::default())
        } else {
            body::lend(
                &head.headers,
                body,
                if turned_away.is_some() { body::UNWANTED_MAX } else { u64::MAX },
            )
        };
        if let Some(mut answer) = turned_away {
            unasked.say(answer.headers_mut());
            return Box::pin(std::future::ready(Ok(answer)));
        }
        let relay = self.door.relay.clone();
        let client = self.watched.client;
        let running = two.then(|| Running::begin(&self.watched));
        let request = Request::from_parts(head, body);
        Box::pin(async move {
            let mut answer = relay.serve(client, request).await;
            unasked.say(answer.headers_mut());
            if let Some(running) = running {
                answer = answer.map(|body| kept::to_client(running, body));
            }
            if old && answer.body().size_hint().exact().is_none() {
                // Its end is that of the connection, whatever was asked for. hyper keeps no connection after
                // an answer of this version.
                *answer.version_mut() = Version::HTTP_10;
            }
            Ok(answer)
        })
    }
}

#[cfg(test)]
mod tests;
