mod passing;
mod slow;
mod smuggling;
mod two;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::clock::{BootTime, Clock, WallTime};
use crate::relay::{Codec, HttpSite};
use crate::server::{Target, Upstream};
use crate::wire::http::SiteShares;

struct Still;
impl Clock for Still {
    fn boot(&self) -> BootTime {
        BootTime::default()
    }
    fn wall(&self) -> WallTime {
        WallTime::default()
    }
}

/// A server that answers at once, but to `/slow` it says that it came and waits until `go`.
async fn origin(go: CancellationToken, came: CancellationToken) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (go, came) = (go.clone(), came.clone());
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (go, came) = (go.clone(), came.clone());
                async move {
                    let path = request.uri().path().to_owned();
                    if path == "/slow" {
                        came.cancel();
                        go.cancelled().await;
                    }
                    if path == "/refuses" {
                        let mut response = Response::new(Body::Empty);
                        *response.status_mut() = http::StatusCode::FORBIDDEN;
                        return Ok(response);
                    }
                    let body = crate::body::collect(request.into_body(), 1 << 20).await.unwrap();
                    Ok::<_, std::convert::Infallible>(Response::new(Body::text(format!(
                        "{path} {}",
                        body.len()
                    ))))
                }
            });
            tokio::spawn(async move {
                let http = http1::Builder::new();
                let _ended = http.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    port
}

/// A door with all behind it.
struct Door {
    address: SocketAddr,
    door: Arc<super::Door>,
    relay: Arc<HttpRelay>,
    stop: CancellationToken,
    go: CancellationToken,
    came: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

async fn door(limits: Limits) -> Door {
    let (go, came) = (CancellationToken::new(), CancellationToken::new());
    let port = origin(go.clone(), came.clone()).await;
    Door { go, came, ..door_to(port, limits).await }
}

/// One with another server behind it.
async fn door_to(port: u16, limits: Limits) -> Door {
    door_for(port, limits, crate::server::Limits::default()).await
}

async fn door_for(port: u16, limits: Limits, of_server: crate::server::Limits) -> Door {
    let stop = CancellationToken::new();
    let target = Target::Tcp { host: "127.0.0.1".into(), port };
    let site = HttpSite {
        site: "hq".parse().unwrap(),
        shares: SiteShares::default(),
        slots: Vec::new(),
        upstream: Upstream::new(target, of_server, Arc::new(Still)),
        host: None,
        codec: Codec { encode: |_| Vec::new(), decode: |_| None },
        running: Arc::default(),
    };
    let listener = listen(([127, 0, 0, 1], 0).into(), false).unwrap();
    let address = listener.local_addr().unwrap();
    let relay = Arc::new(HttpRelay::new(site, Arc::new(Still)));
    let door = super::Door::new(relay.clone(), limits);
    let serving = tokio::spawn(door.clone().serve(listener, stop.clone()));
    let (go, came) = (CancellationToken::new(), CancellationToken::new());
    Door { address, door, relay, stop, go, came, serving }
}

/// Sends `bytes` on a new connection and reads until it is closed.
async fn talk(door: &Door, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    until_closed(&mut stream).await
}

async fn until_closed(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    // A reset after the answer is an end too.
    let _ended = stream.read_to_end(&mut text).await;
    String::from_utf8(text).unwrap()
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).await.unwrap(), 1, "closed after {text:?}");
        text.push(char::from(byte[0]));
    }
    text
}

/// There may be ten thousand, most of them idle: what TLS, HTTP/1 or HTTP/2 take is in boxes of their own.
#[test]
fn a_connection_is_no_larger_than_what_it_has_come_to_be() {
    type Begun = (Arc<super::Door>, Socket, SocketAddr, Place, bool, CancellationToken);
    fn size_of<F>(_: impl FnOnce(Begun) -> F) -> usize {
        std::mem::size_of::<F>()
    }
    let size = size_of(|(door, stream, client, own, secure, stop)| {
        door.connection(stream, (client, own), secure, stop.clone(), stop)
    });
    assert!(size <= 1024, "{size} bytes");
}

#[tokio::test]
async fn keep_alive_and_pipelining() {
    let door = door(Limits::default()).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let get = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
    stream.write_all(&get.repeat(3)).await.unwrap();
    for _ in 0..3 {
        read_until(&mut stream, "/a 0").await;
    }
    stream.write_all(get).await.unwrap();
    read_until(&mut stream, "/a 0").await;
    // Half-closed: what was asked is still answered.
    stream.write_all(get).await.unwrap();
    stream.shutdown().await.unwrap();
    assert!(until_closed(&mut stream).await.ends_with("/a 0"));
    // HTTP/1.0 closes by itself.
    let answer = talk(&door, b"GET /b HTTP/1.0\r\n\r\n").await;
    assert!(answer.ends_with("/b 0"), "{answer}");
}

#[tokio::test]
async fn a_hundred_is_sent_only_when_the_body_is_wanted() {
    let door = door(Limits::default()).await;
    let put = |path: &str| {
        format!("PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    };
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(put("/f").as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"data").await.unwrap();
    assert!(read_until(&mut stream, "/f 4").await.starts_with("HTTP/1.1 200"));
    let answer = talk(&door, put("/refuses").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    let answer = talk(&door, put("/../x").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test]
async fn limits_have_names() {
    let limits = Limits { idle: Duration::from_millis(100), ..Limits::default() };
    let door = door(limits).await;
    let get = "GET /a HTTP/1.1\r\nHost: x\r\n";
    let fields = "x: y\r\n".repeat(200);
    let answer = talk(&door, format!("{get}{fields}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let answer = talk(&door, format!("{get}x: {}\r\n\r\n", "y".repeat(100_000)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let answer = talk(&door, b"nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    // Half a head, and nothing at all, end by themselves.
    assert_eq!(talk(&door, b"GET /a HT").await, "");
    assert_eq!(talk(&door, b"").await, "");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let door = door(Limits { connections: 1, ..Limits::default() }).await;
    let mut first = TcpStream::connect(door.address).await.unwrap();
    first.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut first, "/a 0").await;
    let mut second = TcpStream::connect(door.address).await.unwrap();
    let answer = until_closed(&mut second).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("Retry-After: 5"), "{answer}");
    let (_, said) = answer.split_once("\r\n\r\n").unwrap();
    assert!(answer.contains(&format!("Content-Length: {}\r\n", said.len())), "{answer}");
}

/// A client that goes away makes room at once, not when its time is over.
#[tokio::test]
async fn a_closed_connection_makes_room() {
    let door = door(Limits { connections: 1, ..Limits::default() }).await;
    for _ in 0..3 {
        let mut answer = String::new();
        for _ in 0..500 {
            let mut stream = TcpStream::connect(door.address).await.unwrap();
            // If there is no room yet, the connection may be closed before this is written.
            let _sent = stream.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await;
            let mut first = [0; 64];
            let read = stream.read(&mut first).await.unwrap_or(0);
            answer = String::from_utf8_lossy(&first[..read]).into_owned();
            if answer.starts_with("HTTP/1.1 200") {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn what_runs_at_the_end_is_answered() {
    let Door { address, stop, go, came, serving, .. } = door(Limits::default()).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    let mut running = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    read_until(&mut idle, "/a 0").await;
    running.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    came.cancelled().await;
    stop.cancel();
    assert_eq!(until_closed(&mut idle).await, "");
    go.cancel();
    assert!(until_closed(&mut running).await.ends_with("/slow 0"));
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_request_that_never_ends_is_cut_off_at_the_end() {
    let limits = Limits { drain: Duration::from_millis(50), ..Limits::default() };
    let Door { address, stop, go: _go, came, serving, .. } = door(limits).await;
    let mut running = TcpStream::connect(address).await.unwrap();
    running.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    came.cancelled().await;
    stop.cancel();
    serving.await.unwrap();
    assert_eq!(until_closed(&mut running).await, "");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = listen(([127, 0, 0, 1], 0).into(), false).unwrap();
    let address = taken.local_addr().unwrap();
    let error = listen(address, false).err().unwrap().to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}
