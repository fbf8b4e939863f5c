use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::body::collect;
use crate::clock::{BootTime, WallTime};

/// The kernel gives up connecting after two minutes; a busy machine may take seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// A port where no connect is answered.
pub(crate) struct Deaf {
    pub(crate) port: u16,
    _listener: socket2::Socket,
    _waiting: Vec<std::net::TcpStream>,
}

impl Deaf {
    pub(crate) fn new() -> Self {
        let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut waiting = Vec::new();
        let mut unanswered = 0;
        while unanswered < 2 {
            assert!(waiting.len() < 100, "the kernel queues without end");
            match std::net::TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
                Ok(stream) => waiting.push(stream),
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
                    unanswered += 1;
                }
            }
        }
        Self { port: address.port(), _listener: listener, _waiting: waiting }
    }
}

struct Still;
impl Clock for Still {
    fn boot(&self) -> BootTime {
        BootTime::default()
    }
    fn wall(&self) -> WallTime {
        WallTime(7)
    }
}

fn upstream(port: u16, limits: Limits) -> Arc<Upstream> {
    Upstream::new(Target::Tcp { host: "127.0.0.1".into(), port }, limits, Arc::new(Still))
}

fn request(method: Method, body: Body) -> Request<Body> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = "/f".parse().unwrap();
    request
}

fn get() -> Request<Body> {
    request(Method::GET, Body::Empty)
}

async fn fails(server: &Arc<Upstream>, request: Request<Body>) -> ServerError {
    server.send(request).await.err().unwrap()
}

async fn text(response: Response<Body>) -> String {
    String::from_utf8(collect(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
}

/// Reads one request's head.
async fn head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap_or(0) == 0 {
            return None;
        }
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).ok()
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that does `each` to every connection, numbered.
async fn origin<F, Fut>(each: F) -> u16
where
    F: Fn(usize, TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for number in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            tokio::spawn(each(number, stream));
        }
    });
    port
}

#[tokio::test]
async fn connections_are_used_again() {
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    let port = origin(|_, mut stream| async move {
        SEEN.fetch_add(1, Ordering::Relaxed);
        while head(&mut stream).await.is_some() {
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let server = upstream(port, Limits::default());
    for _ in 0..20 {
        assert_eq!(text(server.send(get()).await.unwrap()).await, "ok");
    }
    assert_eq!(SEEN.load(Ordering::Relaxed), 1);
    let health = server.health();
    assert_eq!((health.up, health.answered, health.failed, health.in_use), (true, 20, 0, 0));
}

/// The server closes each kept connection just when the next request arrives on it.
#[tokio::test]
async fn a_stale_connection_is_replaced_once_for_what_may_be_sent_twice() {
    let port = origin(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        head(&mut stream).await;
    })
    .await;
    let server = upstream(port, Limits::default());
    assert_eq!(text(server.send(get()).await.unwrap()).await, "ok");
    assert_eq!(text(server.send(get()).await.unwrap()).await, "ok");

    let server = upstream(port, Limits::default());
    assert_eq!(text(server.send(get()).await.unwrap()).await, "ok");
    let error = fails(&server, request(Method::DELETE, Body::Empty)).await;
    assert!(matches!(error, ServerError::Broke { .. }), "{error}");
    assert!(!error.nothing_done());
}

/// One that was closed while nobody looked is simply not used.
#[tokio::test]
async fn a_connection_closed_while_idle_is_not_used() {
    let (closed, mut told) = tokio::sync::mpsc::channel(1);
    let port = origin(move |_, mut stream| {
        let closed = closed.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(OK).await.unwrap();
            drop(stream);
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let server = upstream(port, Limits::default());
    for _ in 0..3 {
        // Even what must not be sent twice goes through.
        let answer = server.send(request(Method::DELETE, Body::Empty)).await.unwrap();
        assert_eq!(text(answer).await, "ok");
        told.recv().await.unwrap();
        while server.pool.take().is_some_and(|conn| !conn.sender.is_closed()) {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_dead_server_is_an_error_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let server = upstream(port, Limits::default());
    let error = fails(&server, get()).await;
    assert!(matches!(error, ServerError::Connect { .. }), "{error}");
    assert!(error.nothing_done());
    let health = server.health();
    assert!(!health.up);
    assert_eq!(health.failed, 1);
    assert_eq!(health.last_error.as_ref().map(|(at, _)| *at), Some(WallTime(7)));
}

/// Its machine takes no more connections and refuses none, as one that is overloaded, or away.
#[tokio::test]
async fn a_server_that_never_answers_the_connect_is_an_error_in_time() {
    let deaf = Deaf::new();
    let limits = Limits { connect: Duration::from_millis(200), ..Limits::default() };
    let server = upstream(deaf.port, limits);
    for method in [Method::GET, Method::PUT] {
        let asked = tokio::time::timeout(PATIENCE, server.send(request(method, Body::text("x")))).await;
        let error = asked.expect("it is waited for for ever").err().unwrap();
        let after = Duration::from_millis(200);
        assert!(
            matches!(&error, ServerError::ConnectSilent { after: it, .. } if *it == after),
            "{error}"
        );
        assert!(error.nothing_done());
    }
    let health = server.health();
    assert_eq!((health.up, health.failed, health.in_use), (false, 2, 0));
}

#[tokio::test]
async fn a_silent_server_is_an_error_in_time() {
    let port = origin(|number, mut stream| async move {
        head(&mut stream).await;
        if number == 1 {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await.unwrap();
        }
        std::future::pending::<()>().await;
    })
    .await;
    let limits = Limits { silence: Duration::from_millis(200), ..Limits::default() };
    let server = upstream(port, limits);
    let error = fails(&server, get()).await;
    assert!(matches!(error, ServerError::Silent { .. }), "{error}");
    assert!(!error.nothing_done());
    // In the middle of a body too: it ends in an error, not in less than was announced.
    let answer = server.send(get()).await.unwrap();
    assert!(collect(answer.into_body(), 100).await.is_err());
    assert_eq!(server.health().in_use, 0);
}

#[tokio::test]
async fn a_silent_client_is_not_the_servers_fault() {
    let port = origin(|_, mut stream| async move {
        head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let limits = Limits {
        client_silence: Duration::from_millis(200),
        silence: Duration::from_secs(3600),
        ..Limits::default()
    };
    let server = upstream(port, limits);
    let never = http_body_util::StreamBody::new(futures_util::stream::pending());
    let error = fails(&server, request(Method::PUT, Body::boxed(never))).await;
    assert!(matches!(error, ServerError::ClientSilent { .. }), "{error}");
    assert!(server.health().up);
}

#[tokio::test]
async fn a_broken_upload_breaks_the_connection() {
    let (ended, mut seen) = tokio::sync::mpsc::channel(1);
    let port = origin(move |_, mut stream| {
        let ended = ended.clone();
        async move {
            head(&mut stream).await;
            let mut body = Vec::new();
            let read = stream.read_to_end(&mut body).await;
            // The last chunk must not have been sent: the server must not take it for the whole.
            ended.send((read.is_ok(), body.ends_with(b"0\r\n\r\n"))).await.unwrap();
        }
    })
    .await;
    let server = upstream(port, Limits::default());
    let pieces = futures_util::stream::iter([
        Ok(http_body::Frame::data(bytes::Bytes::from_static(b"half"))),
        Err(BoxError::from("gone")),
    ]);
    let body = Body::boxed(http_body_util::StreamBody::new(pieces));
    let error = fails(&server, request(Method::PUT, body)).await;
    assert!(matches!(error, ServerError::Client { .. }), "{error}");
    let (_, whole) = seen.recv().await.unwrap();
    assert!(!whole);
}

#[tokio::test]
async fn one_more_than_the_limit_is_refused_by_name() {
    let port = origin(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let server = upstream(port, Limits { connections: 2, ..Limits::default() });
    let one = server.send(get()).await.unwrap();
    let two = server.send(get()).await.unwrap();
    let error = fails(&server, get()).await;
    assert!(matches!(error, ServerError::Busy { limit: 2, .. }), "{error}");
    // An answer that is not wanted any more makes room.
    drop(one);
    assert!(server.send(get()).await.is_ok());
    drop(two);
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    let (ended, mut seen) = tokio::sync::mpsc::channel(1);
    let port = origin(move |_, mut stream| {
        let ended = ended.clone();
        async move {
            head(&mut stream).await;
            stream.write_all(OK).await.unwrap();
            let next = head(&mut stream).await;
            ended.send(next.is_none()).await.unwrap();
        }
    })
    .await;
    let server = upstream(port, Limits { idle_for: Duration::from_millis(50), ..Limits::default() });
    assert_eq!(text(server.send(get()).await.unwrap()).await, "ok");
    assert!(seen.recv().await.unwrap());
}

/// With `Expect: 100-continue` the body is sent only when the server wants it.
#[tokio::test]
async fn the_server_decides_whether_it_wants_the_body() {
    let port = origin(|number, mut stream| async move {
        head(&mut stream).await;
        if number == 0 {
            let no = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(no).await.unwrap();
            std::future::pending::<()>().await;
        }
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"data");
        stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    let server = upstream(port, Limits::default());
    let polled = Arc::new(AtomicUsize::new(0));
    let put = || {
        let polled = polled.clone();
        let piece = futures_util::stream::once(async move {
            polled.fetch_add(1, Ordering::Relaxed);
            Ok(http_body::Frame::data(bytes::Bytes::from_static(b"data")))
        });
        let body = Body::boxed(http_body_util::StreamBody::new(Box::pin(piece)));
        let mut put = request(Method::PUT, body);
        put.headers_mut().insert("expect", "100-continue".parse().unwrap());
        put.headers_mut().insert("content-length", "4".parse().unwrap());
        put
    };
    assert_eq!(server.send(put()).await.unwrap().status(), StatusCode::FORBIDDEN);
    assert_eq!(polled.load(Ordering::Relaxed), 0);
    assert_eq!(server.send(put()).await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(polled.load(Ordering::Relaxed), 1);
}

/// The server has closed a kept connection, and who uses it hears of that right after: what is sent on it
/// comes back unsent.
#[tokio::test]
async fn what_waits_for_a_hundred_may_change_connections() {
    use std::io::{Read, Write};
    fn head(stream: &mut std::net::TcpStream) {
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            seen.push(byte[0]);
        }
    }
    let (close, closes) = std::sync::mpsc::channel();
    let (closed, told) = std::sync::mpsc::channel();
    let (mut here, there) = tokio::net::UnixStream::pair().unwrap();
    let mut there = there.into_std().unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        head(&mut stream);
        stream.write_all(OK).unwrap();
        closes.recv().unwrap();
        there.write_all(b"x").unwrap();
        drop(stream);
        closed.send(()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        head(&mut stream);
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        let mut body = [0; 4];
        stream.read_exact(&mut body).unwrap();
        stream.write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n").unwrap();
    });
    let server = upstream(port, Limits::default());
    assert_eq!(text(server.send(get()).await.unwrap()).await, "ok");
    // Until the connection is fit for use again.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    // Holds up this runtime: it hears of both at once, and comes here first.
    close.send(()).unwrap();
    told.recv().unwrap();
    assert_eq!(here.read_u8().await.unwrap(), b'x');
    let mut put = request(Method::PUT, Body::text("data"));
    put.headers_mut().insert("expect", "100-continue".parse().unwrap());
    put.headers_mut().insert("content-length", "4".parse().unwrap());
    let sent = tokio::time::timeout(Duration::from_secs(30), server.send(put)).await;
    assert_eq!(sent.expect("the body never comes").unwrap().status(), StatusCode::CREATED);
}

/// An answer that is kept and not read takes a place only as long as its connection.
#[tokio::test]
async fn an_answer_that_nobody_reads_keeps_no_place() {
    let port = origin(|_, mut stream| async move {
        head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let limits = Limits {
        connections: 1,
        client_silence: Duration::from_millis(200),
        silence: Duration::from_secs(3600),
        ..Limits::default()
    };
    let server = upstream(port, limits);
    let unread = server.send(get()).await.unwrap();
    assert!(matches!(fails(&server, get()).await, ServerError::Busy { .. }));
    let freed = async {
        while server.health().in_use > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), freed).await.expect("its place is kept");
    let next = server.send(get()).await.unwrap();
    assert!(collect(unread.into_body(), 100).await.is_err());
    // What was given up already does not give a second place.
    assert_eq!(server.health().in_use, 1);
    drop(next);
    assert_eq!(server.health().in_use, 0);
}

/// Nobody sends a request.
#[tokio::test]
async fn a_server_is_asked_how_it_is_while_nobody_else_asks() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let (quiet, again) = (Duration::from_millis(20), Duration::from_millis(5));
    let server = upstream(port, Limits { quiet, again, ..Limits::default() });
    assert_eq!((server.health().asked(), server.health().up), (0, true));
    let asking = tokio::spawn(server.clone().keep_asking());
    let until = async |up: bool| {
        while server.health().asked() == 0 || server.health().up != up {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let patient = Duration::from_secs(20);
    tokio::time::timeout(patient, until(false)).await.expect("a dead server is known");
    assert!(server.health().last_error.unwrap().1.contains("connect to the server"));

    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let answering = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let head = head(&mut stream).await.unwrap();
                assert!(head.starts_with("HEAD / HTTP/1.1\r\n"), "{head}");
                let refused = b"HTTP/1.1 401 No\r\ncontent-length: 2\r\nconnection: close\r\n\r\n";
                stream.write_all(refused).await.unwrap();
            });
        }
    });
    tokio::time::timeout(patient, until(true)).await.expect("any answer will do");
    // One that dies while nobody asks is noticed as well.
    answering.abort();
    drop(answering.await);
    tokio::time::timeout(patient, until(false)).await.expect("it is asked again");
    asking.abort();
}

#[tokio::test]
async fn a_server_that_clients_ask_is_not_asked_besides() {
    static SEEN: AtomicUsize = AtomicUsize::new(0);
    let port = origin(|_, mut stream| async move {
        while let Some(head) = head(&mut stream).await {
            SEEN.fetch_add(usize::from(head.starts_with("HEAD")), Ordering::Relaxed);
            let length = if head.starts_with("HEAD") { "" } else { "ok" };
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{length}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let server = upstream(port, Limits { quiet: Duration::from_millis(100), ..Limits::default() });
    let asking = tokio::spawn(server.clone().keep_asking());
    for _ in 0..50 {
        text(server.send(get()).await.unwrap()).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(SEEN.load(Ordering::Relaxed) <= 2, "{SEEN:?}");
    asking.abort();
}

/// Who proves himself for a connection has one for himself, as long as he has it, and no other ever gets it.
#[tokio::test]
async fn what_is_proven_on_a_connection_is_for_one_client() {
    // Says the connection that a request came on.
    let port = origin(|number, mut stream| async move {
        while head(&mut stream).await.is_some() {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let server = upstream(port, Limits { idle: 16, ..Limits::default() });
    let (ann, bob) = (Bond::new(), Bond::new());
    let by = async |bond: Option<&Arc<Bond>>, proof: Option<&str>| {
        let mut request = get();
        if let Some(proof) = proof {
            request.headers_mut().insert("authorization", proof.parse().unwrap());
        }
        if let Some(bond) = bond {
            request.extensions_mut().insert(bond.clone());
        }
        text(server.send(request).await.unwrap()).await
    };
    let anybody = async || by(None, None).await;
    assert_eq!(anybody().await, "0");
    assert_eq!(by(Some(&ann), Some("NTLM x")).await, "1");
    assert_eq!(by(Some(&bob), Some("Negotiate x")).await, "2");
    for _ in 0..3 {
        assert_eq!(by(Some(&ann), None).await, "1");
        assert_eq!((by(Some(&bob), None).await, anybody().await), ("2".into(), "0".into()));
    }
    // Without a bond it ends with the request.
    assert_eq!(
        (by(None, Some("NTLM x")).await, by(None, Some("ntlm x")).await),
        ("3".into(), "4".into())
    );
    drop(ann);
    assert_eq!((anybody().await, by(Some(&Bond::new()), None).await), ("0".into(), "5".into()));
    assert_eq!(server.bound.len(), 1, "bob's");
    // Of another server's, or of an older map's, nothing is left.
    let other = upstream(port, Limits::default());
    let mut request = get();
    request.extensions_mut().insert(bob.clone());
    assert_eq!(text(other.send(request).await.unwrap()).await, "6");
    assert!(bob.is_kept());
}

/// What is kept for single clients has its own limit.
#[tokio::test]
async fn so_many_clients_have_a_connection_for_themselves() {
    let port = origin(|_, mut stream| async move {
        while head(&mut stream).await.is_some() {
            stream.write_all(OK).await.unwrap();
        }
    })
    .await;
    let server = upstream(port, Limits { idle: 2, ..Limits::default() });
    let bonds = [(); 4].map(|()| Bond::new());
    for bond in &bonds {
        let mut request = get();
        request.extensions_mut().insert(bond.clone());
        text(server.send(request).await.unwrap()).await;
    }
    assert_eq!(bonds.iter().map(|bond| bond.is_kept()).collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(server.bound.len(), 2);
}

/// Over HTTP/2 a client's requests run at once: what comes beside a proof does not take its place.
#[tokio::test]
async fn a_connection_with_a_proof_stays_the_one_that_is_kept() {
    let port = origin(|number, mut stream| async move {
        while let Some(asked) = head(&mut stream).await {
            if asked.contains("slow") {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{number}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let server = upstream(port, Limits { idle: 16, ..Limits::default() });
    let bond = Bond::new();
    let by = async |fields: &[(&'static str, &str)]| {
        let mut request = get();
        for (name, value) in fields {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        request.extensions_mut().insert(bond.clone());
        text(server.send(request).await.unwrap()).await
    };
    let beside = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        by(&[("x", "slow")]).await
    };
    // The other is on its way when the proof's connection is kept, and ends after it.
    let (proof, other) = tokio::join!(by(&[("authorization", "NTLM x"), ("x", "slow")]), beside);
    assert_ne!(proof, other);
    assert_eq!(by(&[]).await, proof);
    assert_eq!(server.bound.len(), 1);
}
