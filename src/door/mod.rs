//! Where clients come in: accept, framing, limits and time-outs, and draining at the end. Not here:
//! what a request is and what is done with it (see `relay`).

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::{counter, gauge};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::relay::HttpRelay;
use crate::socket::{Listener, Socket};

/// What one listening address takes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Open connections; one more gets a 503 and is closed.
    pub connections: usize,
    /// From the moment a connection waits for a request until it has its head: also how long an idle
    /// connection is kept.
    pub head: Duration,
    /// Header fields of a request; more gets a 431.
    pub fields: usize,
    /// Bytes of a request's head, and of a body in memory at once.
    pub buffer: usize,
    /// What a client that takes nothing may keep us waiting (TCP_USER_TIMEOUT).
    pub write: Duration,
    /// How long requests may run on at the end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            head: Duration::from_secs(30),
            fields: 128,
            buffer: 64 * 1024,
            write: Duration::from_secs(300),
            drain: Duration::from_secs(30),
        }
    }
}

/// The address cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}: {source}; another process may have it, or this machine may not")]
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
    let places = Arc::new(Semaphore::new(limits.connections));
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
        let Ok(place) = places.clone().try_acquire_owned() else {
            refused.increment(1);
            turn_away(stream);
            continue;
        };
        let connection = connection(stream, client, relay.clone(), limits, stop.clone());
        let (open, cut) = (open.clone(), cut.clone());
        let counted = relay.connected();
        running.spawn(async move {
            open.increment(1.0);
            // `None` if it was cut off.
            let _ended = cut.run_until_cancelled(connection).await;
            open.decrement(1.0);
            drop((counted, place));
        });
    }
    drop(listener);
    running.close();
    if tokio::time::timeout(limits.drain, running.wait()).await.is_err() {
        tracing::warn!(left = running.len(), "requests still running are cut off");
        cut.cancel();
        running.wait().await;
    }
}

/// Says that there are too many, as far as that fits into the socket's buffer.
fn turn_away(stream: Socket) {
    const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n\
        Content-Length: 21\r\n\r\ntoo many connections\n";
    // If not even this fits, closing says it too.
    let _sent = stream.try_write(FULL);
}

async fn connection(
    stream: Socket,
    client: SocketAddr,
    relay: Arc<HttpRelay>,
    limits: Limits,
    stop: CancellationToken,
) {
    if let Err(error) = prepare(&stream, limits) {
        tracing::debug!(%client, "socket options: {error}");
    }
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_headers(limits.fields)
        .max_header_size(limits.buffer)
        .max_buf_size(limits.buffer)
        .half_close(true)
        .keep_alive(true);
    let serving = http.serve_connection(TokioIo::new(stream), ForClient { client, relay });
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%client, "connection: {error}");
    }
}

fn prepare(stream: &Socket, limits: Limits) -> io::Result<()> {
    stream.set_nodelay()?;
    let Some(kernel) = stream.kernel() else { return Ok(()) };
    let socket = socket2::SockRef::from(&kernel);
    socket.set_keepalive(true)?;
    socket.set_tcp_user_timeout(Some(limits.write))
}

/// The relay, for the client of one connection.
struct ForClient {
    client: SocketAddr,
    relay: Arc<HttpRelay>,
}

impl Service<Request<Incoming>> for ForClient {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    /// In a box, so that a connection without a request is small.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let relay = self.relay.clone();
        let client = self.client;
        Box::pin(async move { Ok(relay.serve(client, request.map(Body::from)).await) })
    }
}

#[cfg(test)]
mod tests;
