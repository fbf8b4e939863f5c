//! Real doors and links over a simulated network: the answers that clients get at a site without a copy are
//! the truth of what the primary's site did, whatever happens to the line and to either site.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::adapt::ToSite;
use crate::body::{Body, collect};
use crate::clock::{BootTime, Clock, WallTime};
use crate::door;
use crate::id::{ShareId, SiteId};
use crate::link::cert::{Authority, Identity, Secret};
use crate::link::{Caller, Inbound, LinkConfig, Links, Terms};
use crate::relay::{Away, Codec, HttpRelay, HttpSite, KeptBy, Part, ShareHttp};
use crate::route::Clients;
use crate::seeds::{picked, seeds};
use crate::server::{Limits, Target, Upstream};
use crate::socket::Listener;
use crate::wire::http::{Move, ShareUrl, SiteShares};

const CLIENTS: usize = 3;
const WRITES: usize = 25;
const LINK: u16 = 7400;
const DOOR: u16 = 80;
/// Simulated time for one seed.
const LONG: Duration = Duration::from_secs(600);

/// The simulation's time.
struct SimClock(i64);

impl Clock for SimClock {
    fn boot(&self) -> BootTime {
        BootTime(turmoil::sim_elapsed().unwrap_or_default())
    }
    fn wall(&self) -> WallTime {
        WallTime(self.0 + i64::try_from(self.boot().0.as_nanos()).unwrap())
    }
}

struct Cluster {
    ca: Authority,
    secret: Secret,
    clock: Arc<SimClock>,
}

fn name(text: &str) -> SiteId {
    text.parse().unwrap()
}

fn any(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

impl Cluster {
    fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
        let clock = Arc::new(SimClock(i64::try_from(now).unwrap()));
        let ca = Authority::create(clock.wall()).unwrap();
        Self { ca, secret: Secret::generate().unwrap(), clock }
    }

    async fn links(&self, me: &str, dial: &[&str], inbound: Arc<dyn Inbound>) -> Arc<Links> {
        let issued = self.ca.issue(&name(me), WallTime(self.clock.0), 30).unwrap();
        let identity = Identity::from_pem(self.ca.cert_pem(), &issued.cert, &issued.key).unwrap();
        let config = LinkConfig {
            me: name(me),
            identity,
            secret: self.secret.clone(),
            listen: any(LINK),
            clock: self.clock.clone(),
        };
        let at = |site: &str| (name(site), (turmoil::lookup(site).to_string(), LINK));
        let terms = Terms {
            serial: 1,
            hash: [1; 32],
            sites: ["hq", "lyon"].map(at).into(),
            dial: dial.iter().map(|site| name(site)).collect(),
            ..Terms::default()
        };
        Links::start(config, Arc::new(terms), inbound).await.unwrap()
    }
}

/// The primary's site: does what it is asked, once for each request, and remembers it over its own end.
#[derive(Clone, Default)]
struct Books(Arc<Mutex<BTreeMap<String, u32>>>);

impl Inbound for Books {
    fn call(&self, _: Caller, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let books = self.0.clone();
        async move {
            let path = request.uri().path().to_owned();
            let change = request.method() == Method::PUT;
            let done = tokio::spawn(async move {
                if collect(request.into_body(), 1 << 20).await.is_err() {
                    return StatusCode::BAD_REQUEST;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
                if change {
                    *books.lock().unwrap().entry(path).or_default() += 1;
                }
                StatusCode::CREATED
            });
            let mut response = Response::new(Body::text("done"));
            *response.status_mut() = done.await.unwrap_or(StatusCode::GATEWAY_TIMEOUT);
            response
        }
        .boxed()
    }
}

/// Nobody asks anything of this site.
struct Nobody;

impl Inbound for Nobody {
    fn call(&self, _: Caller, _: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        async { Response::new(Body::Empty) }.boxed()
    }
}

async fn hq(cluster: Arc<Cluster>, books: Books) -> turmoil::Result {
    let _links = cluster.links("hq", &[], Arc::new(books)).await;
    std::future::pending().await
}

async fn lyon(cluster: Arc<Cluster>) -> turmoil::Result {
    let links = cluster.links("lyon", &["hq"], Arc::new(Nobody)).await;
    let share: ShareId = "eng".parse().unwrap();
    let url = ShareUrl::new(share.clone(), "/eng").unwrap();
    let target = Target::Tcp { host: "127.0.0.1".into(), port: 9 };
    let site = HttpSite {
        site: name("lyon"),
        slots: vec![ShareHttp {
            share,
            sites: ["hq", "lyon"].map(name).into(),
            clients: Clients::default(),
            fence: None,
            locks: KeptBy::Server,
            part: Part::Remote {
                away: Away {
                    site: name("hq"),
                    wire: Arc::new(ToSite { links: links.clone(), site: name("hq") }),
                    moved: Move::new(&[], url.encoded()),
                    left: Arc::default(),
                },
            },
        }],
        shares: SiteShares::new(vec![url]),
        upstream: Upstream::new(target, Limits::default(), cluster.clock.clone()),
        host: None,
        codec: Codec { encode: |_| Vec::new(), decode: |_| None },
        running: Arc::default(),
    };
    let listener = Listener::bind(any(DOOR)).await.unwrap();
    let relay = Arc::new(HttpRelay::new(site, cluster.clock.clone()));
    door::serve(listener, relay, door::Limits::default(), CancellationToken::new()).await;
    Ok(())
}

/// What a client was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Done,
    NotDone,
    Nothing,
}

type Answers = Arc<Mutex<BTreeMap<String, Told>>>;

async fn ask(method: Method, path: &str, body: Vec<u8>) -> Option<StatusCode> {
    let exchange = async {
        let address: IpAddr = turmoil::lookup("lyon");
        let stream = turmoil::net::TcpStream::connect((address, DOOR)).await.ok()?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "files");
        let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await;
        let (head, body) = response.ok()?.into_parts();
        collect(Body::from(body), 1 << 20).await.ok()?;
        Some(head.status)
    };
    tokio::time::timeout(Duration::from_secs(40), exchange).await.ok().flatten()
}

async fn client(number: usize, seed: u64, answers: Answers) -> turmoil::Result {
    let mut rng = SmallRng::seed_from_u64(seed * 100 + number as u64);
    for write in 0..WRITES {
        let path = format!("/eng/c{number}-{write}");
        let body = vec![7; [0, 100, 5_000, 200_000][rng.random_range(0..4)]];
        // The site may hear of it before the client is told anything.
        answers.lock().unwrap().insert(path.clone(), Told::Nothing);
        let told = match ask(Method::PUT, &path, body).await {
            Some(StatusCode::CREATED) => Told::Done,
            Some(StatusCode::SERVICE_UNAVAILABLE) => Told::NotDone,
            _ => Told::Nothing,
        };
        answers.lock().unwrap().insert(path, told);
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
    }
    // Whatever happened, it goes on in the end.
    for _ in 0..200 {
        if ask(Method::GET, "/eng/any", Vec::new()).await == Some(StatusCode::CREATED) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Err("the site does not answer again".into())
}

/// What has just been done to the line or a site is undone after a while.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Cut,
    OneWay(bool),
    Hold,
    Crash(&'static str),
}

impl Blow {
    fn any(rng: &mut SmallRng) -> Self {
        match rng.random_range(0..6) {
            0 => Self::Cut,
            1 => Self::OneWay(true),
            2 => Self::OneWay(false),
            3 => Self::Hold,
            4 => Self::Crash("hq"),
            _ => Self::Crash("lyon"),
        }
    }
    fn strike(self, sim: &mut turmoil::Sim<'_>) {
        match self {
            Self::Cut => sim.partition("hq", "lyon"),
            Self::OneWay(true) => sim.partition_oneway("hq", "lyon"),
            Self::OneWay(false) => sim.partition_oneway("lyon", "hq"),
            Self::Hold => sim.hold("hq", "lyon"),
            Self::Crash(site) => sim.crash(site),
        }
    }
    fn undo(self, sim: &mut turmoil::Sim<'_>) {
        match self {
            Self::Cut => sim.repair("hq", "lyon"),
            Self::OneWay(true) => sim.repair_oneway("hq", "lyon"),
            Self::OneWay(false) => sim.repair_oneway("lyon", "hq"),
            Self::Hold => sim.release("hq", "lyon"),
            Self::Crash(site) => sim.bounce(site),
        }
    }
}

fn run(seed: u64) -> (BTreeMap<String, Told>, BTreeMap<String, u32>) {
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(seed)
        .simulation_duration(LONG)
        .tick_duration(Duration::from_millis(2))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(40))
        .tcp_capacity(1 << 16);
    let mut sim = builder.build();
    let cluster = Arc::new(Cluster::new());
    let (books, answers) = (Books::default(), Answers::default());
    let (at_hq, kept) = (cluster.clone(), books.clone());
    sim.host("hq", move || hq(at_hq.clone(), kept.clone()));
    sim.host("lyon", move || lyon(cluster.clone()));
    for number in 0..CLIENTS {
        sim.client(format!("client{number}"), client(number, seed, answers.clone()));
    }
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut at = Duration::from_secs(1);
    let mut struck: Option<Blow> = None;
    loop {
        if sim.step().unwrap_or_else(|error| panic!("seed {seed}: {error}")) {
            break;
        }
        if sim.elapsed() < at {
            continue;
        }
        match struck.take() {
            Some(blow) => {
                blow.undo(&mut sim);
                at += Duration::from_millis(rng.random_range(100..6_000));
            }
            None if sim.elapsed() < LONG / 10 => {
                let blow = Blow::any(&mut rng);
                blow.strike(&mut sim);
                struck = Some(blow);
                at += Duration::from_millis(rng.random_range(50..9_000));
            }
            None => at = LONG,
        }
    }
    let done = books.0.lock().unwrap().clone();
    let told = answers.lock().unwrap().clone();
    (told, done)
}

#[test]
fn an_answer_is_the_truth_whatever_happens_to_the_line() {
    let (mut sum, mut many) = (BTreeMap::new(), 0);
    for seed in seeds(10) {
        many += 1;
        let (told, done) = run(seed);
        for (path, told) in told {
            let times = done.get(&format!("/v1/share/eng/http{}", &path[4..])).copied().unwrap_or(0);
            let fits = match told {
                Told::Done => times == 1,
                Told::NotDone => times == 0,
                Told::Nothing => times <= 1,
            };
            assert!(
                fits,
                "seed {seed}: {path} was done {times} times, and the client was told {told:?}"
            );
            *sum.entry(format!("{told:?} {times}")).or_insert(0) += 1;
        }
    }
    println!("{sum:?}");
    assert!(sum["Done 1"] > 10 * many, "{sum:?}");
    assert!(sum.len() > 1 || picked().is_some(), "{sum:?}");
}
