//! To this site's own file server: HTTP/1.1 connections that are kept and used again, limits, and
//! how the server is doing. A dead or silent server is an error in bounded time, never a hang.
//!
//! Not here: what a request means and what its failure means for a change (see `relay`).

mod bond;
mod connect;
mod health;
mod lease;
mod pool;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, header};
use http_body::Body as _;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;

pub use self::bond::Bond;
pub use self::connect::{Connect, Stream, Target};
pub use self::health::{Health, Standing};
use self::lease::{Answer, Seat, Upload};
use self::pool::Pool;
use self::watch::{Fate, Watch, Watched};
use crate::body::{Body, BoxError};
use crate::clock::Clock;
use crate::wire::http::{auth, row};

/// How much of the server is used, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections in use at once; one more request gets a 503. Each is one of the server's workers
    /// or one of its 512 to 1024 `worker_connections`.
    pub connections: usize,
    /// Connections kept open while nobody uses them; as many again may be kept for single clients.
    pub idle: usize,
    /// How long they are kept: less than nginx' `keepalive_timeout` of 75 s, so that we close first.
    pub idle_for: Duration,
    pub connect: Duration,
    /// Longest silence of the server while it is its turn: to take a request, to begin an answer, to
    /// go on with one.
    pub silence: Duration,
    /// Longest silence of a client in the middle of a body that it sends or receives.
    pub client_silence: Duration,
    /// A server that nobody has asked anything for so long is asked how it is.
    pub quiet: Duration,
    /// One that does not answer is asked again so often.
    pub again: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            idle: 256,
            idle_for: Duration::from_secs(60),
            connect: Duration::from_secs(5),
            silence: Duration::from_secs(60),
            client_silence: Duration::from_secs(300),
            quiet: Duration::from_secs(30),
            again: Duration::from_secs(5),
        }
    }
}

/// Why the server gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{limit} requests are with the server {server} already")]
    Busy { server: String, limit: usize },
    #[error("connect to the server {server}: {source}")]
    Connect { server: String, source: std::io::Error },
    #[error("connect to the server {server}: no answer in {after:?}")]
    ConnectSilent { server: String, after: Duration },
    #[error("the server {server} was silent for {after:?}")]
    Silent { server: String, after: Duration },
    #[error("the server {server} broke off: {source}")]
    Broke { server: String, source: hyper::Error },
    #[error("the client broke off in the middle of its request: {source}")]
    Client { source: BoxError },
    #[error("the client was silent for {after:?} in the middle of its request")]
    ClientSilent { after: Duration },
}

impl ServerError {
    /// Whether it is certain that the server has not seen the request.
    pub fn nothing_done(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Connect { .. } | Self::ConnectSilent { .. })
    }
    /// Whether the client broke off before the server had all of the request.
    pub fn of_the_client(&self) -> bool {
        matches!(self, Self::Client { .. } | Self::ClientSilent { .. })
    }
    /// Whether the server is to blame.
    fn of_the_server(&self) -> bool {
        !matches!(self, Self::Busy { .. } | Self::Client { .. } | Self::ClientSilent { .. })
    }
}

/// What answers requests at this site: [`Upstream`], or a model.
pub trait Serves: Send + Sync + 'static {
    /// Sends a request, whose URI must be in origin form, and waits for the head of the answer.
    fn serve(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, ServerError>>;
    fn target(&self) -> &Target;
}

impl Serves for Upstream {
    fn serve(
        self: Arc<Self>,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, ServerError>> {
        Box::pin(async move { Self::send(&self, request).await })
    }
    fn target(&self) -> &Target {
        Self::target(self)
    }
}

/// One server, as this site reaches it.
pub struct Upstream {
    target: Target,
    limits: Limits,
    in_use: AtomicUsize,
    /// Connections that are kept for single clients.
    bound: Arc<bond::Bound>,
    pool: Pool,
    watch: Watch,
    health: Health,
}

/// A connection with nothing running on it, or about to have.
struct Conn {
    sender: SendRequest<Body>,
    watched: Arc<Watched>,
    /// Somebody has proven who he is on it, or has begun to.
    proves: bool,
}

/// One of [`Limits::connections`].
struct InUse {
    of: Arc<Upstream>,
    /// Whom the connection is for, and nobody else.
    bond: Option<Arc<Bond>>,
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.of.in_use.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstream {
    pub fn new(target: Target, limits: Limits, clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            target,
            limits,
            in_use: AtomicUsize::new(0),
            bound: Arc::default(),
            pool: Pool::new(limits.idle),
            watch: Watch::default(),
            health: Health::new(clock),
        })
    }
    pub fn target(&self) -> &Target {
        &self.target
    }
    pub fn health(&self) -> Standing {
        self.health.standing(self.in_use.load(Ordering::Relaxed))
    }

    /// Sends a request, whose URI must be in origin form, and waits for the head of the answer.
    ///
    /// A connection that was kept and turns out to be closed is replaced by a new one, once, if
    /// the server cannot have seen the request or may see it twice.
    ///
    /// What has a [`Bond`] goes on its connection; who proves himself by one and has none gets one that is
    /// closed behind him.
    pub async fn send(
        self: &Arc<Self>,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ServerError> {
        let bond = request.extensions_mut().remove::<Arc<Bond>>();
        let bond = bond.or_else(|| auth::is_of_connection(request.headers()).then(Bond::new));
        let in_use = self.enter(bond)?;
        let sent = self.send_on(in_use, request).await;
        match &sent {
            Ok(_) => self.health.answered(),
            Err(error) if error.of_the_server() => self.health.failed(error),
            Err(_) => {}
        }
        sent
    }

    /// Asks the server something at once and whenever nobody else does, so that [`health`](Self::health) knows
    /// of a dead or mistyped one before the first client. Whatever it answers, it is there.
    pub async fn keep_asking(self: Arc<Self>) {
        let mut asked = 0;
        loop {
            let health = self.health();
            if health.asked() == asked || !health.up {
                let mut request = Request::new(Body::Empty);
                *request.method_mut() = Method::HEAD;
                if let Ok(host) = HeaderValue::try_from(self.target.host()) {
                    request.headers_mut().insert(header::HOST, host);
                }
                // What comes of it is noted.
                let _answer = self.send(request).await;
            }
            let health = self.health();
            asked = health.asked();
            tokio::time::sleep(if health.up { self.limits.quiet } else { self.limits.again }).await;
        }
    }

    async fn send_on(
        self: &Arc<Self>,
        in_use: InUse,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, ServerError> {
        let empty = request.body().is_end_stream();
        let proves = in_use.bond.is_some() && auth::is_of_connection(request.headers());
        let mut seat = None;
        if !empty {
            frame(&mut request);
            let (seated, on) = Upload::seated(request);
            (request, seat) = (seated, Some(on));
        }
        if let Some(mut conn) = self.kept(in_use.bond.as_deref()).await {
            conn.proves |= proves;
            let spare = (empty && !row(request.method()).touches.changes()).then(|| copy(&request));
            match self.exchange(&mut conn, request, seat.as_ref()).await {
                Ok(answer) => return Ok(Answer::lease(answer, conn, in_use)),
                Err(Failed { unsent: Some(unsent), .. }) => request = unsent,
                Err(Failed { stale: true, error, .. }) => request = spare.ok_or(error)?,
                Err(Failed { error, .. }) => return Err(error),
            }
        }
        let mut conn = self.connect().await?;
        conn.proves = proves;
        match self.exchange(&mut conn, request, seat.as_ref()).await {
            Ok(answer) => Ok(Answer::lease(answer, conn, in_use)),
            Err(Failed { error, .. }) => Err(error),
        }
    }

    /// A kept connection that is still open.
    async fn kept(self: &Arc<Self>, bond: Option<&Bond>) -> Option<Conn> {
        while let Some(mut conn) = bond.map_or_else(|| self.pool.take(), |bond| bond.take(self)) {
            if conn.sender.is_ready() || conn.sender.ready().await.is_ok() {
                return Some(conn);
            }
        }
        None
    }

    async fn exchange(
        &self,
        conn: &mut Conn,
        request: Request<Body>,
        upload: Option<&Seat>,
    ) -> Result<Response<hyper::body::Incoming>, Failed> {
        conn.watched.await_server();
        if let Some(seat) = upload {
            seat.take(&conn.watched);
        }
        let mut failed = match conn.sender.try_send_request(request).await {
            Ok(answer) => return Ok(answer),
            Err(failed) => failed,
        };
        let unsent = failed.take_message();
        let source = failed.into_error();
        let stale = source.is_incomplete_message() || source.is_canceled() || is_reset(&source);
        let server = self.target.to_string();
        let error = match conn.watched.fate() {
            Fate::ServerSilent => ServerError::Silent { server, after: self.limits.silence },
            Fate::ClientSilent => ServerError::ClientSilent { after: self.limits.client_silence },
            Fate::Alive if source.is_user() => ServerError::Client { source: source.into() },
            Fate::Alive | Fate::Idle => ServerError::Broke { server, source },
        };
        let stale = stale && matches!(error, ServerError::Broke { .. });
        Err(Failed { unsent: unsent.filter(|_| stale), stale, error })
    }

    fn enter(self: &Arc<Self>, bond: Option<Arc<Bond>>) -> Result<InUse, ServerError> {
        let before = self.in_use.fetch_add(1, Ordering::Relaxed);
        let in_use = InUse { of: self.clone(), bond };
        if before < self.limits.connections {
            Ok(in_use)
        } else {
            let (server, limit) = (self.target.to_string(), self.limits.connections);
            Err(ServerError::Busy { server, limit })
        }
    }

    async fn connect(self: &Arc<Self>) -> Result<Conn, ServerError> {
        let server = || self.target.to_string();
        let after = self.limits.connect;
        let stream = match tokio::time::timeout(after, self.target.connect()).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(ServerError::Connect { server: server(), source }),
            Err(_) => return Err(ServerError::ConnectSilent { server: server(), after }),
        };
        let builder = http1::Builder::new();
        let (sender, connection) = builder
            .handshake::<_, Body>(TokioIo::new(stream))
            .await
            .map_err(|source| ServerError::Broke { server: server(), source })?;
        let task = tokio::spawn(async move {
            // What ends a connection is told to the request on it; an idle one just ends.
            let _ended = connection.await;
        });
        let watched = self.watch.add(task.abort_handle());
        self.watch.start(self);
        Ok(Conn { sender, watched, proves: false })
    }
}

/// An exchange that brought no answer.
struct Failed {
    /// The request, if no byte of it was sent.
    unsent: Option<Request<Body>>,
    /// The connection had been closed by the server, perhaps before it saw the request.
    stale: bool,
    error: ServerError,
}

fn is_reset(error: &hyper::Error) -> bool {
    use std::error::Error;
    use std::io::ErrorKind;
    let io = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    io.is_some_and(|io| matches!(io.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe))
}

/// hyper leaves out a body of unknown length where one is unusual.
fn frame(request: &mut Request<Body>) {
    let unusual = matches!(*request.method(), Method::GET | Method::HEAD);
    if unusual && !request.headers().contains_key(header::CONTENT_LENGTH) {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The same request again, of one without a body.
fn copy(request: &Request<Body>) -> Request<Body> {
    let mut copy = Request::new(Body::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    copy
}

#[cfg(test)]
pub(crate) mod tests;
