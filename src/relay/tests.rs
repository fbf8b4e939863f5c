//! One relay between real sockets: a small origin behind it, and stand-ins for the rooms around it
//! that note what they are asked.

mod copy;
mod cuts;
mod dav;
mod edge;
mod locks;
mod lost;
mod primary;
mod tags;

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::seam::*;
use super::*;
use crate::body::collect;
use crate::catalog::Touch;
use crate::clock::{BootTime, Clock, WallTime};
use crate::effect::Depth;
use crate::id::{Gen, Name, ObjectId, RelPath};
use crate::link::Session;
use crate::object::Found;
use crate::server::{Limits, Target, Upstream};
use crate::wire::http::ShareUrl;
use crate::wire::http::etag::Tag;

struct Still;
impl Clock for Still {
    fn boot(&self) -> BootTime {
        BootTime::default()
    }
    fn wall(&self) -> WallTime {
        WallTime::default()
    }
}

/// What happened, in order; and the share's disk.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>, Arc<Mutex<Shown>>);

/// In the place of a version: a link that leads out of the share.
const LEAVES: u64 = 0;

/// The file at `file`: which version each look shows; the last of them from then on.
#[derive(Default)]
struct Shown {
    versions: VecDeque<u64>,
    /// It has not been looked at yet.
    unread: bool,
}

impl Log {
    fn add(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
    /// Until `what` has happened.
    async fn until(&self, what: &str) {
        let happened = async {
            while !self.0.lock().unwrap().iter().any(|entry| entry == what) {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(30);
        tokio::time::timeout(limit, happened).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

/// A server that answers every request by `answer`, and notes its line, Host and body. It is taken for
/// silent after a minute, which a busy machine does not need; tests of that stop the clock.
async fn origin<F, Fut>(log: Log, answer: F) -> Arc<Upstream>
where
    F: Fn(String) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (log, answer) = (log.clone(), answer.clone());
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (log, answer) = (log.clone(), answer.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let field = |name: &str| {
                        parts
                            .headers
                            .get(name)
                            .map(|v| v.to_str().unwrap().to_owned())
                            .unwrap_or_default()
                    };
                    let mut line = format!("{} {}", parts.method, parts.uri);
                    let told = [
                        "destination",
                        "if",
                        "if-match",
                        "if-none-match",
                        "if-range",
                        "range",
                        "authorization",
                        "depth",
                        "content-range",
                        "content-type",
                        "x-end",
                        "nearshare-x",
                        "connection",
                    ];
                    for name in told {
                        if parts.headers.contains_key(name) {
                            line += &format!(" {name}={}", field(name));
                        }
                    }
                    let host = field("host");
                    match collect(body, 1 << 20).await {
                        Ok(body) if !body.is_empty() => line += &format!(" body={}", body.len()),
                        Ok(_) => {}
                        Err(_) => line += " (broke off)",
                    }
                    log.add(format!("server {line}"));
                    let mut response = answer(line).await;
                    response.headers_mut().insert("x-host", host.parse().unwrap());
                    Ok::<_, std::convert::Infallible>(response)
                }
            });
            tokio::spawn(async move {
                let http = hyper::server::conn::http1::Builder::new();
                let _ended = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    let target = Target::Tcp { host: "127.0.0.1".into(), port };
    Upstream::new(target, Limits::default(), Arc::new(Still))
}

/// One whose port nobody listens on.
async fn dead() -> Arc<Upstream> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let target = Target::Tcp { host: "127.0.0.1".into(), port };
    Upstream::new(target, Limits::default(), Arc::new(Still))
}

async fn ok(_: String) -> Response<Body> {
    Response::new(Body::text("hello"))
}

fn status(code: u16) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response
}

struct FakeHome(Log, Option<fn() -> HomeError>);

impl Home for FakeHome {
    fn begin<'a>(
        &'a self,
        change: &'a Change,
        from: Option<&'a Caller>,
    ) -> BoxFuture<'a, Result<Box<dyn HomeTicket>, HomeError>> {
        Box::pin(async move {
            let targets: Vec<_> =
                change.targets.iter().map(|t| format!("{}:{:?}", t.path, t.reach)).collect();
            let from = from.map(|caller| format!(" from {}", caller.site)).unwrap_or_default();
            self.0.add(format!("begin {}{from}", targets.join(" ")));
            match self.1 {
                Some(error) => Err(error()),
                None => Ok(Box::new(FakeTicket(Some(self.0.clone()))) as Box<dyn HomeTicket>),
            }
        })
    }
    fn stay(&self) -> BoxFuture<'_, Result<Box<dyn Send>, HomeError>> {
        Box::pin(async {
            match self.1 {
                Some(error) => Err(error()),
                None => Ok(Box::new(()) as Box<dyn Send>),
            }
        })
    }
    fn is_pledged(&self) -> bool {
        self.1.is_some()
    }
    fn visible<'a>(&'a self, read: &'a Read) -> BoxFuture<'a, Result<(), HomeError>> {
        Box::pin(async move {
            self.0.add(format!("visible {}", read.path));
            self.1.map_or(Ok(()), |error| Err(error()))
        })
    }
}

struct FakeTicket(Option<Log>);

fn awaits() -> Awaits {
    vec![
        (Touch::Entry(ObjectId::ROOT, Name::new(b"f").unwrap()), Gen(7)),
        (Touch::Object(ObjectId::ROOT), Gen(8)),
    ]
}

impl HomeTicket for FakeTicket {
    fn answered(mut self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<Awaits, HomeError>> {
        let log = self.0.take().unwrap();
        Box::pin(async move {
            log.add(format!("answered {outcome:?}"));
            Ok(awaits())
        })
    }
    fn refused(mut self: Box<Self>, _: Depth) -> BoxFuture<'static, Result<Awaits, HomeError>> {
        self.0.take().unwrap().add("refused");
        Box::pin(async { Ok(awaits()) })
    }
    fn unsent(mut self: Box<Self>) -> Awaits {
        self.0.take().unwrap().add("unsent");
        awaits()
    }
    fn broke_off(mut self: Box<Self>) {
        self.0.take().unwrap().add("broke off");
    }
    fn reconcile(&mut self) -> BoxFuture<'_, Result<(), HomeError>> {
        let log = self.0.as_ref().unwrap();
        log.add("reconcile");
        log.1.lock().unwrap().unread = false;
        Box::pin(std::future::ready(Ok(())))
    }
}

impl Drop for FakeTicket {
    fn drop(&mut self) {
        if let Some(log) = self.0.take() {
            log.add("unknown");
        }
    }
}

struct FakeNear(Log, Mutex<Standing>, Mutex<Certainty>, Mutex<bool>);

impl Near for FakeNear {
    fn is_over(&self) -> bool {
        *self.3.lock().unwrap()
    }
    fn standing(&self, _: &Read) -> Standing {
        *self.1.lock().unwrap()
    }
    fn certainty(&self) -> Certainty {
        *self.2.lock().unwrap()
    }
    fn begin<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Box<dyn NearTicket>, NearError>> {
        Box::pin(async move {
            self.0.add(format!("note {}", change.targets[0].path));
            Ok(Box::new(FakeNearTicket(Some(self.0.clone()))) as Box<dyn NearTicket>)
        })
    }
}

struct FakeNearTicket(Option<Log>);

impl NearTicket for FakeNearTicket {
    fn answered(mut self: Box<Self>, awaits: Awaits) {
        let gens: Vec<_> = awaits.iter().map(|(_, generation)| generation.0).collect();
        self.0.take().unwrap().add(format!("ahead until {gens:?}"));
    }
    fn refused(mut self: Box<Self>) {
        self.0.take().unwrap().add("not ahead");
    }
}

impl Drop for FakeNearTicket {
    fn drop(&mut self) {
        if let Some(log) = self.0.take() {
            log.add("ahead, unknown");
        }
    }
}

/// A link that ends in the other site's relay, in the same process.
struct FakeWire {
    log: Log,
    up: Mutex<bool>,
    /// It comes back when it has broken.
    returns: Mutex<bool>,
    to: Arc<HttpRelay>,
    /// What goes wrong, taken one a send.
    trouble: Mutex<VecDeque<Trouble>>,
    session: AtomicU64,
    /// The first session that the other site's process knows of.
    since: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Trouble {
    None,
    NotSent,
    /// The link breaks before the request has come.
    Before,
    /// It breaks when that has been answered.
    After,
    /// It breaks while that is under way.
    Meanwhile,
    /// It breaks, and the request comes only when the next has been served.
    Late,
}

impl Wire for FakeWire {
    fn up(&self) -> bool {
        *self.up.lock().unwrap()
    }
    fn reached(&self) -> BoxFuture<'_, bool> {
        Box::pin(async {
            while !*self.returns.lock().unwrap() {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            true
        })
    }
    fn send(
        &self,
        class: Class,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, WireError>> {
        Box::pin(async move {
            self.log.add(format!("link {class:?} {} {}", request.method(), request.uri()));
            let session = Session(1, self.session.load(Ordering::SeqCst));
            let since = Session(1, self.since.load(Ordering::SeqCst));
            let caller = Caller { session, since, ..lyon(class) };
            let to = self.to.clone();
            let asks = request.uri().path().ends_with("/outcome");
            let served = async move {
                let share = "eng".parse().unwrap();
                match asks {
                    true => to.outcome(&caller, &share, request.headers()).await,
                    false => to.serve_peer(&caller, &share, request).await,
                }
            };
            let trouble = self.trouble.lock().unwrap().pop_front().unwrap_or(Trouble::None);
            match trouble {
                Trouble::None => return Ok(served.await),
                Trouble::NotSent => return Err(WireError::NotSent("x".into())),
                Trouble::Before => {}
                Trouble::After => drop(served.await),
                Trouble::Meanwhile => {
                    let log = self.log.clone();
                    tokio::spawn(served);
                    log.until("under way").await;
                }
                Trouble::Late => {
                    let log = self.log.clone();
                    tokio::spawn(async move {
                        log.until("later").await;
                        log.add(format!("late: {}", served.await.status().as_u16()));
                    });
                }
            }
            self.session.fetch_add(1, Ordering::SeqCst);
            Err(WireError::Lost { session, why: "x".into() })
        })
    }
}

fn lyon(class: Class) -> Caller {
    let (session, since) = (Session::default(), Session::default());
    Caller { site: "lyon".parse().unwrap(), class, session, since }
}

/// Says of every path that ends in `out` that it leads out of the share, and of `fresh` that it is not there.
struct FakeFence(Log);

impl Fence for FakeFence {
    fn cached(&self, path: &RelPath, follow: bool) -> Fenced {
        match path.names().last().map(Name::as_bytes) {
            Some(b"out") if follow => Fenced::Outside,
            Some(b"slow") => Fenced::Unknown,
            Some(b"gone") => Fenced::Gone,
            Some(b"fresh") => Fenced::Missing,
            _ => Fenced::Inside,
        }
    }
    fn look(&self, _: &RelPath, _: bool) -> Fenced {
        self.0.add("looked");
        Fenced::Outside
    }
    fn reaches(&self, path: &RelPath, cached: bool) -> (Fenced, Option<Found>) {
        let found = || {
            let mut shown = self.0.1.lock().unwrap();
            let version = match shown.versions.len() {
                0 | 1 => shown.versions.front().copied(),
                _ => shown.versions.pop_front(),
            };
            version.map(tags::found)
        };
        match (path.names().last().map(Name::as_bytes), cached) {
            (Some(b"file"), _) => match found() {
                Some(found) if found.size == LEAVES => (Fenced::Outside, None),
                Some(found) => (Fenced::Inside, Some(found)),
                None => (Fenced::Missing, None),
            },
            (_, true) => (self.cached(path, true), None),
            (_, false) => (self.look(path, true), None),
        }
    }
    fn proven(&self, path: &RelPath) -> Option<(Found, Tag)> {
        let known = path.names().last().is_some_and(|name| name.as_bytes() == b"file");
        if !known || self.0.1.lock().unwrap().unread {
            return None;
        }
        let found = self.reaches(path, true).1?;
        let tag = self.version(&found)?;
        Some((found, tag))
    }
    fn is_still(&self, path: &RelPath, found: &Found) -> bool {
        let next = self.0.1.lock().unwrap().versions.front().copied();
        // What differs is for the look that follows.
        let same = next.is_some_and(|next| tags::found(next).stamp == found.stamp);
        same && self.reaches(path, true).1.is_some()
    }
    /// `link` leads to `dir` beside it.
    fn straight(&self, path: &RelPath, _: bool) -> Option<RelPath> {
        let names = path.names().iter().map(|name| match name.as_bytes() {
            b"link" => Name::new(b"dir").unwrap(),
            _ => name.clone(),
        });
        let there = self.cached(path, true) != Fenced::Missing;
        there.then(|| RelPath::new(names.collect()).unwrap())
    }
    fn version(&self, file: &Found) -> Option<Tag> {
        let id = ObjectId::from_bytes([0x11; 16]);
        let read = !self.0.1.lock().unwrap().unread;
        read.then_some(Tag { id, version: crate::id::Version(file.size) })
    }
}

/// One byte for each touch's kind, then its generation: enough for a test.
fn codec() -> Codec {
    Codec {
        encode: |awaits| awaits.iter().map(|(_, generation)| generation.0 as u8).collect(),
        decode: |bytes| {
            Some(bytes.iter().map(|b| (Touch::Object(ObjectId::ROOT), Gen(u64::from(*b)))).collect())
        },
    }
}

fn site(name: &str, url: &str, upstream: Arc<Upstream>, part: Part, log: &Log) -> HttpSite {
    let share: ShareId = "eng".parse().unwrap();
    let fence: Arc<dyn Fence> = Arc::new(FakeFence(log.clone()));
    HttpSite {
        site: name.parse().unwrap(),
        shares: SiteShares::new(vec![ShareUrl::new(share.clone(), url).unwrap()]),
        slots: vec![ShareHttp {
            share,
            sites: ["hq", "lyon"].map(|name| name.parse().unwrap()).into(),
            clients: Clients::default(),
            locks: KeptBy::Server,
            fence: Some(fence),
            part,
        }],
        upstream,
        host: None,
        codec: codec(),
        running: Arc::default(),
    }
}

fn home(log: &Log) -> Part {
    Part::Local { home: Arc::new(FakeHome(log.clone(), None)) }
}

async fn primary<F, Fut>(log: &Log, answer: F) -> HttpRelay
where
    F: Fn(String) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let upstream = origin(log.clone(), answer).await;
    HttpRelay::new(site("hq", "/eng", upstream, home(log), log), Arc::new(Still))
}

fn request(method: &str, uri: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(uri).header("host", "files").body(body).unwrap()
}

fn client() -> SocketAddr {
    ([10, 1, 2, 3], 999).into()
}

/// Status, and what it says.
async fn ask(relay: &HttpRelay, method: &str, uri: &str) -> (u16, String) {
    text(relay.serve(client(), request(method, uri, Body::Empty)).await).await
}

async fn text(response: Response<Body>) -> (u16, String) {
    let status = response.status().as_u16();
    let body = collect(response.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}
