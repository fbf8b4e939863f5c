//! Links over real sockets on loopback.

mod backoff;
mod refused;
mod sessions;
mod talk;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::cert::{Authority, Identity, Secret};
use super::stream::Tcp;
use super::verify::Trust;
use super::{Caller, Class, Inbound, Limits, LinkConfig, Links, Reason, Terms};
use crate::body::{Body, BoxError};
use crate::clock::{BootTime, Clock, WallTime};
use crate::id::SiteId;

struct RealClock;

impl Clock for RealClock {
    fn boot(&self) -> BootTime {
        BootTime(SystemTime::UNIX_EPOCH.elapsed().unwrap())
    }
    fn wall(&self) -> WallTime {
        WallTime(i64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos()).unwrap())
    }
}

fn site(name: &str) -> SiteId {
    name.parse().unwrap()
}

/// One cluster's CA and secret.
struct Cluster {
    ca: Authority,
    secret: Secret,
}

impl Cluster {
    fn new() -> Self {
        let ca = Authority::create(RealClock.wall()).unwrap();
        Self { ca, secret: Secret::generate().unwrap() }
    }
    fn identity(&self, name: &str) -> Identity {
        self.identity_from(name, RealClock.wall())
    }
    /// Valid for one day from `now`.
    fn identity_from(&self, name: &str, now: WallTime) -> Identity {
        let issued = self.ca.issue(&site(name), now, 1).unwrap();
        Identity::from_pem(self.ca.cert_pem(), &issued.cert, &issued.key).unwrap()
    }
    fn config(&self, name: &str) -> LinkConfig {
        self.config_with(self.identity(name))
    }
    fn config_with(&self, identity: Identity) -> LinkConfig {
        LinkConfig {
            me: identity.site.clone(),
            identity,
            secret: self.secret.clone(),
            listen: "127.0.0.1:0".parse().unwrap(),
            clock: Arc::new(RealClock),
        }
    }
    /// `hq`, which dials nobody.
    async fn hq(&self) -> Arc<Links> {
        start(self.config("hq"), terms(&["hq", "osaka"], &[])).await
    }
    /// `osaka`, which dials `hq` there.
    async fn osaka(&self, hq: SocketAddr) -> Arc<Links> {
        start(self.config("osaka"), terms(&["hq", "osaka"], &[("hq", hq)])).await
    }
}

/// A map of these sites, of which some are dialled at these addresses.
fn terms(sites: &[&str], dial: &[(&str, SocketAddr)]) -> Terms {
    Terms {
        serial: 1,
        hash: [1; 32],
        digests: BTreeMap::new(),
        sites: sites.iter().map(|name| (site(name), ("192.0.2.1".into(), 1))).collect(),
        dial: dial.iter().map(|(name, _)| site(name)).collect(),
        via: dial.iter().map(|(name, address)| (site(name), *address)).collect(),
    }
}

const QUICK: fn() -> Limits = || Limits {
    backoff: (Duration::from_millis(5), Duration::from_millis(50)),
    again: Duration::from_millis(50),
    ..Limits::default()
};

async fn start(config: LinkConfig, terms: Terms) -> Arc<Links> {
    start_with(config, terms, Arc::new(Answers::default()), QUICK()).await
}

async fn start_with(
    config: LinkConfig,
    terms: Terms,
    inbound: Arc<Answers>,
    limits: Limits,
) -> Arc<Links> {
    Links::start_with(config, Arc::new(terms), inbound, limits).await.unwrap()
}

/// Waits for something that must come to pass, for half a minute.
async fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

fn both_up(links: &Links, name: &str) -> bool {
    let name = site(name);
    links.states().iter().any(|state| state.site == name && state.up && state.bulk)
}

fn refused(links: &Links, reason: Reason) -> u64 {
    links.refused().get(&reason).copied().unwrap_or_default()
}

/// Bytes in one piece of what `/flood` sends.
const PIECE: usize = 64 << 10;

/// Answers requests by their path.
#[derive(Default)]
struct Answers {
    callers: Mutex<Vec<Caller>>,
    /// Bytes of `/flood` that were asked for.
    flooded: Arc<AtomicU64>,
    /// What `/in-turn` waits for before it reads a body.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Inbound for Answers {
    fn call(&self, from: Caller, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        self.callers.lock().unwrap().push(from.clone());
        let (flooded, turn) = (self.flooded.clone(), self.turn.clone());
        async move {
            let path = request.uri().path().to_owned();
            Response::new(match path.split('/').collect::<Vec<_>>()[..] {
                ["", "who"] => Body::text(format!("{} {}", from.site, from.class.as_str())),
                ["", "since"] => Body::text(format!("{} {}", from.since, from.session)),
                ["", "echo"] => request.into_body(),
                ["", "never"] => std::future::pending().await,
                ["", "in-turn"] => {
                    let _turn = turn.lock().await;
                    Body::text(drain(request.into_body()).await.to_string())
                }
                ["", "flood", mib] => flood(mib.parse().unwrap(), flooded),
                _ => Body::Empty,
            })
        }
        .boxed()
    }
}

fn flood(mib: usize, flooded: Arc<AtomicU64>) -> Body {
    let pieces = futures_util::stream::iter((0..mib << 20).step_by(PIECE).map(move |at| {
        flooded.fetch_add(PIECE as u64, Ordering::SeqCst);
        Ok::<_, BoxError>(Frame::data(Bytes::from(vec![(at >> 16) as u8; PIECE])))
    }));
    Body::boxed(StreamBody::new(pieces))
}

/// How many bytes a body has.
async fn drain(mut body: Body) -> u64 {
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        bytes += frame.unwrap().into_data().unwrap().len() as u64;
    }
    bytes
}

fn get(path: &str) -> Request<Body> {
    Request::get(path).body(Body::Empty).unwrap()
}

async fn text(response: Response<Incoming>) -> String {
    let bytes = crate::body::collect(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A TLS and HTTP/2 connection without a hello, to say what no nearshare would say.
async fn raw(identity: Identity, to: SocketAddr, class: Class) -> SendRequest<Body> {
    let trust = Trust::new(identity, Arc::new(RealClock)).unwrap();
    let terms = Arc::new(terms(&["hq", "osaka"], &[]));
    let (config, _) = trust.dial(&site("hq"), class, terms).unwrap();
    let tcp = Tcp::new(Arc::new(TcpStream::connect(to).await.unwrap().into()), CancellationToken::new());
    let name = ServerName::try_from("nearshare").unwrap();
    let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.unwrap();
    let (sender, connection) = class.client().handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    sender
}
