//! Hello, sessions, lines that die and maps that change.

use super::*;
use crate::link::Session;
use crate::link::hello::{HELLO_PATH, Hello, No};
use http::StatusCode;
use prost::Message;
use tokio::io::copy_bidirectional;
use tokio::net::TcpListener;
use tokio::sync::watch;

async fn ask(
    sender: &SendRequest<Body>,
    mut request: Request<Body>,
) -> hyper::Result<Response<Incoming>> {
    let path = request.uri().path().to_owned();
    *request.uri_mut() = format!("https://hq{path}").parse().unwrap();
    sender.clone().send_request(request).await
}

fn hello(cluster: &Cluster, class: Class, session: Session) -> Hello {
    Hello::new(class, session, &terms(&[], &[]), cluster.secret.fingerprint())
}

async fn say(sender: &SendRequest<Body>, hello: &Hello) -> (StatusCode, Bytes) {
    let body = Body::Full(hello.encode_to_vec().into());
    let response = ask(sender, Request::post(HELLO_PATH).body(body).unwrap()).await.unwrap();
    let status = response.status();
    (status, crate::body::collect(response.into_body(), 1 << 20).await.unwrap())
}

async fn status(sender: &SendRequest<Body>, request: Request<Body>) -> StatusCode {
    ask(sender, request).await.unwrap().status()
}

#[tokio::test]
async fn nothing_but_hello_comes_first() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let osaka = raw(cluster.identity("osaka"), hq.local_addr(), Class::Control).await;
    assert_eq!(status(&osaka, get("/who")).await, StatusCode::FORBIDDEN);
    assert_eq!(status(&osaka, get(HELLO_PATH)).await, StatusCode::METHOD_NOT_ALLOWED);
    let (said, answer) = say(&osaka, &hello(&cluster, Class::Control, Session(1, 1))).await;
    assert_eq!(said, StatusCode::OK);
    let answer = Hello::decode(answer).unwrap();
    assert_eq!((answer.session(), answer.map_serial), (Session(1, 1), 1));
    assert_eq!(status(&osaka, get("/who")).await, StatusCode::OK);
}

#[tokio::test]
async fn another_version_is_refused_with_both_ranges() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let osaka = raw(cluster.identity("osaka"), hq.local_addr(), Class::Control).await;
    let mut theirs = hello(&cluster, Class::Control, Session(1, 1));
    (theirs.version_min, theirs.version_max) = (7, 9);
    let (said, answer) = say(&osaka, &theirs).await;
    assert_eq!(said, StatusCode::FORBIDDEN);
    let why = No::decode(answer).unwrap().why;
    assert!(why.contains("7 to 9") && why.contains("1 to 1"), "{why}");
    assert_eq!(refused(&hq, Reason::Version), 1);
    until("it is dropped", || osaka.is_closed()).await;
}

#[tokio::test]
async fn a_malformed_hello_is_refused() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    for body in [vec![0xff; 10], vec![0; 300 << 10]] {
        let osaka = raw(cluster.identity("osaka"), hq.local_addr(), Class::Control).await;
        let request = Request::post(HELLO_PATH).body(Body::Full(body.into())).unwrap();
        assert_eq!(status(&osaka, request).await, StatusCode::FORBIDDEN);
    }
    assert_eq!(refused(&hq, Reason::Hello), 2);
}

#[tokio::test]
async fn only_the_latest_session_is_answered() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let dial = |class| raw(cluster.identity("osaka"), hq.local_addr(), class);
    let (old, bulk) = (dial(Class::Control).await, dial(Class::Bulk).await);
    let say_in = async |sender: &SendRequest<Body>, class, session| {
        say(sender, &hello(&cluster, class, session)).await
    };
    assert_eq!(say_in(&bulk, Class::Bulk, Session(5, 1)).await.0, StatusCode::GONE);
    assert_eq!(say_in(&old, Class::Control, Session(5, 1)).await.0, StatusCode::OK);
    let bulk = dial(Class::Bulk).await;
    assert_eq!(say_in(&bulk, Class::Bulk, Session(5, 1)).await.0, StatusCode::OK);
    assert_eq!(status(&bulk, get("/who")).await, StatusCode::OK);

    let new = dial(Class::Control).await;
    assert_eq!(say_in(&new, Class::Control, Session(6, 1)).await.0, StatusCode::OK);
    for stale in [&old, &bulk] {
        // Refused without an answer, which might be taken for the server's, or closed already.
        assert!(ask(stale, get("/who")).await.is_err());
    }
    until("both are closed", || old.is_closed() && bulk.is_closed()).await;
    assert_eq!(text(ask(&new, get("/since")).await.unwrap()).await, "5.1 6.1");

    for late in [Session(5, 2), Session(6, 1)] {
        let (said, answer) = say_in(&dial(Class::Control).await, Class::Control, late).await;
        assert_eq!(said, StatusCode::GONE);
        let no = No::decode(answer).unwrap();
        assert_eq!((no.session_start, no.session_count), (6, 1));
    }
    assert_eq!(status(&new, get("/who")).await, StatusCode::OK);
}

#[tokio::test]
async fn bulk_ends_with_its_control_connection() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let control = raw(cluster.identity("osaka"), hq.local_addr(), Class::Control).await;
    let bulk = raw(cluster.identity("osaka"), hq.local_addr(), Class::Bulk).await;
    let session = Session(1, 1);
    assert_eq!(say(&control, &hello(&cluster, Class::Control, session)).await.0, StatusCode::OK);
    assert_eq!(say(&bulk, &hello(&cluster, Class::Bulk, session)).await.0, StatusCode::OK);
    assert!(both_up(&hq, "osaka"));
    drop(control);
    until("bulk is closed", || bulk.is_closed()).await;
    assert!(!hq.states()[0].up && !hq.states()[0].bulk);
}

#[tokio::test]
async fn a_restarted_dialler_comes_after_itself_even_if_its_clock_went_back() {
    struct Behind;
    impl Clock for Behind {
        fn boot(&self) -> BootTime {
            RealClock.boot()
        }
        fn wall(&self) -> WallTime {
            WallTime(RealClock.wall().0 - 60_000_000_000)
        }
    }
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let osaka = cluster.osaka(hq.local_addr()).await;
    until("both connections", || both_up(&osaka, "hq")).await;
    let first = osaka.states()[0].session.unwrap();
    osaka.shutdown().await;
    let mut config = cluster.config("osaka");
    config.clock = Arc::new(Behind);
    let again = start(config, terms(&["hq", "osaka"], &[("hq", hq.local_addr())])).await;
    until("both connections", || both_up(&again, "hq")).await;
    assert!(again.states()[0].session.unwrap() > first);
}

#[tokio::test]
async fn the_link_comes_back_when_the_acceptor_does() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let address = hq.local_addr();
    let osaka = cluster.osaka(address).await;
    until("both connections", || both_up(&osaka, "hq")).await;
    let peer = osaka.peer(&site("hq")).unwrap();
    let before = peer.watch().borrow().session;
    hq.shutdown().await;
    drop(hq);
    until("the link is down", || !peer.up()).await;
    let mut config = cluster.config("hq");
    config.listen = address;
    let hq = start(config, terms(&["hq", "osaka"], &[])).await;
    until("both connections", || both_up(&osaka, "hq") && both_up(&hq, "osaka")).await;
    let session = peer.watch().borrow().session;
    assert!(session > before);
    // What was sent before went to another process.
    let since = text(peer.send(Class::Bulk, get("/since")).await.unwrap()).await;
    assert_eq!(since, format!("{} {}", session.unwrap(), session.unwrap()));
}

/// Passes bytes on to `to` until it is told to stop, and then keeps the connections open and mute.
async fn line(to: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (alive, watching) = watch::channel(true);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut alive = watching.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await.unwrap();
                tokio::select! {
                    _ = copy_bidirectional(&mut near, &mut far) => return,
                    () = async { drop(alive.wait_for(|alive| !alive).await) } => {}
                }
                std::future::pending::<()>().await;
            });
        }
    });
    (address, alive)
}

#[tokio::test]
async fn a_dead_line_is_noticed_by_both_and_another_one_is_taken() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let (through, alive) = line(hq.local_addr()).await;
    let osaka = cluster.osaka(through).await;
    until("both connections", || both_up(&osaka, "hq") && both_up(&hq, "osaka")).await;
    alive.send_replace(false);
    until("both notice", || !osaka.states()[0].up && !hq.states()[0].up && !hq.states()[0].bulk).await;
    let (through, _alive) = line(hq.local_addr()).await;
    osaka.set_terms(Arc::new(terms(&["hq", "osaka"], &[("hq", through)])));
    until("both connections", || both_up(&osaka, "hq") && both_up(&hq, "osaka")).await;
}

#[tokio::test]
async fn maps_are_compared_again_when_either_changes() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let address = hq.local_addr();
    let osaka = cluster.osaka(address).await;
    until("both connections", || both_up(&osaka, "hq") && both_up(&hq, "osaka")).await;
    let session = osaka.states()[0].session;
    let with = |digest: u8, dial: &[(&str, SocketAddr)]| {
        let digests = [("docs".parse().unwrap(), [digest; 32])].into();
        Arc::new(Terms { serial: 2, hash: [digest; 32], digests, ..terms(&["hq", "osaka"], dial) })
    };
    let disagrees = |links: &Links| links.states()[0].disagrees.len();
    let (docs, music) = ("docs".parse().unwrap(), "music".parse().unwrap());
    osaka.set_terms(with(1, &[("hq", address)]));
    until("both see it", || disagrees(&osaka) == 1 && disagrees(&hq) == 1).await;
    assert!(osaka.disagrees(&site("hq"), &docs) && hq.disagrees(&site("osaka"), &docs));
    assert!(!osaka.disagrees(&site("hq"), &music) && !hq.disagrees(&site("lyon"), &docs));
    hq.set_terms(with(2, &[]));
    until("hq's map is known", || osaka.states()[0].map.as_ref().is_some_and(|map| map.map_serial == 2))
        .await;
    assert!(disagrees(&osaka) == 1 && disagrees(&hq) == 1);
    hq.set_terms(with(1, &[]));
    until("they agree", || disagrees(&osaka) == 0 && disagrees(&hq) == 0).await;
    assert_eq!(osaka.states()[0].session, session, "no connection was lost");
}

/// A comment, a new site, an address: nobody promises anything else.
#[tokio::test]
async fn maps_that_differ_only_in_their_serial_are_told_of_and_do_no_harm() {
    let cluster = Cluster::new();
    let with = |serial, dial: &[(&str, SocketAddr)]| {
        let digests = [("docs".parse().unwrap(), [7; 32])].into();
        Terms { serial, hash: [serial as u8; 32], digests, ..terms(&["hq", "osaka"], dial) }
    };
    let hq = start(cluster.config("hq"), with(1, &[])).await;
    let osaka = start(cluster.config("osaka"), with(2, &[("hq", hq.local_addr())])).await;
    until("both connections", || both_up(&osaka, "hq") && both_up(&hq, "osaka")).await;
    for (links, other, serial) in [(&hq, "osaka", 2), (&osaka, "hq", 1)] {
        let state = &links.states()[0];
        let map = state.map.as_ref().unwrap();
        assert_eq!((map.same_map, map.map_serial), (false, serial));
        assert!(state.disagrees.is_empty(), "{state:?}");
        assert!(!links.disagrees(&site(other), &"docs".parse().unwrap()));
        let told: Vec<SiteId> =
            links.core.warned.lock().unwrap().iter().map(|(site, ..)| site.clone()).collect();
        assert_eq!(told, [site(other)], "once, although it has two connections");
        assert!(links.refused().is_empty(), "{:?}", links.refusals());
    }
}

#[tokio::test]
async fn a_map_without_a_site_ends_its_link() {
    let cluster = Cluster::new();
    let hq = cluster.hq().await;
    let address = hq.local_addr();
    let osaka = cluster.osaka(address).await;
    until("both connections", || both_up(&osaka, "hq") && both_up(&hq, "osaka")).await;
    let peer = osaka.peer(&site("hq")).unwrap();
    hq.set_terms(Arc::new(terms(&["hq"], &[])));
    until("the link is down", || !peer.up() && hq.states().is_empty()).await;
    until("it says why", || refused(&hq, Reason::NotInMap) > 0).await;
    hq.set_terms(Arc::new(terms(&["hq", "osaka"], &[])));
    until("both connections", || both_up(&osaka, "hq") && both_up(&hq, "osaka")).await;
    osaka.set_terms(Arc::new(terms(&["hq", "osaka"], &[])));
    assert!(osaka.peer(&site("hq")).is_none());
    until("the link is down", || !peer.up() && !hq.states()[0].up).await;
}

#[test]
fn a_session_is_read_only_as_it_is_shown() {
    for session in [Session(0, 0), Session(7, 12), Session(u64::MAX, u64::MAX)] {
        assert_eq!(session.to_string().parse(), Ok(session));
    }
    for bad in ["", ".", "1", "1.", ".1", "+1.2", "01.2", "1.2 ", "1.2.3", "18446744073709551616.0"] {
        assert!(bad.parse::<Session>().is_err(), "{bad}");
    }
}

/// Only the dialler says hello.
#[tokio::test]
async fn a_new_map_is_known_at_the_other_side_at_once_whoever_dialled() {
    let cluster = Cluster::new();
    let limits = || Limits { again: Duration::from_secs(3600), ..QUICK() };
    let of = |hash: u8, dial: &[(&str, SocketAddr)]| {
        let digests = [("docs".parse().unwrap(), [hash; 32])].into();
        Terms { serial: hash.into(), hash: [hash; 32], digests, ..terms(&["hq", "osaka"], dial) }
    };
    let answers = || Arc::new(Answers::default());
    let hq = start_with(cluster.config("hq"), of(1, &[]), answers(), limits()).await;
    let dial = [("hq", hq.local_addr())];
    let osaka = start_with(cluster.config("osaka"), of(1, &dial), answers(), limits()).await;
    until("both connections", || both_up(&osaka, "hq") && both_up(&hq, "osaka")).await;
    let serial = |links: &Links| links.states()[0].map.as_ref().map(|map| map.map_serial);
    let same = |links: &Links| links.states()[0].map.as_ref().is_some_and(|map| map.same_map);
    let session = osaka.states()[0].session;
    for round in 2..5 {
        hq.set_terms(Arc::new(of(round, &[])));
        until("osaka knows hq's map", || serial(&osaka) == Some(round.into())).await;
        assert!(!same(&osaka) && !same(&hq));
        assert_eq!((osaka.states()[0].disagrees.len(), hq.states()[0].disagrees.len()), (1, 1));
        osaka.set_terms(Arc::new(of(round, &dial)));
        until("hq knows osaka's map", || serial(&hq) == Some(round.into())).await;
        assert!(same(&osaka) && same(&hq));
        assert!(osaka.states()[0].disagrees.is_empty() && hq.states()[0].disagrees.is_empty());
    }
    assert_eq!(osaka.states()[0].session, session, "no connection was lost");
    // What waits for news holds up no stop.
    let stopped = tokio::time::timeout(Duration::from_millis(900), hq.shutdown()).await;
    stopped.expect("it drains for a second");
}
