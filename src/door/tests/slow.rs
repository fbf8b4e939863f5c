//! Clients that keep the door waiting, or want too much of it.

use super::*;

/// Seconds that a client may take for anything.
fn quick() -> Limits {
    let second = Duration::from_secs(1);
    Limits {
        idle: Duration::from_secs(60),
        head: second,
        body: second,
        write: second,
        ..Limits::default()
    }
}

/// Until somebody was turned away for that reason.
async fn until_counted(door: &Door, why: Why) {
    let counted = async {
        while !door.door.tally().counts().contains_key(why.as_str()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(20), counted).await;
    in_time.unwrap_or_else(|_| panic!("{}: {:?}", why.as_str(), door.door.tally().counts()));
}

#[tokio::test]
async fn a_head_that_trickles_is_not_waited_for() {
    let door = door(quick()).await;
    let stream = TcpStream::connect(door.address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let trickle = tokio::spawn(async move {
        write.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n").await.unwrap();
        // Until the door closes.
        while write.write_all(b"x: y\r\n").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    until_counted(&door, Why::SlowHead).await;
    let mut answer = Vec::new();
    let _ended = read.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
    trickle.await.unwrap();
}

#[tokio::test]
async fn a_body_that_stands_still_is_not_waited_for() {
    let door = door(quick()).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc").await.unwrap();
    until_counted(&door, Why::SlowBody).await;
    assert_eq!(until_closed(&mut stream).await, "");
}

#[tokio::test]
async fn a_request_that_the_server_takes_long_for_is_waited_for() {
    let door = door(quick()).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    door.came.cancelled().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    door.go.cancel();
    read_until(&mut stream, "/slow 0").await;
    assert!(door.door.tally().counts().is_empty());
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go() {
    // A server that answers with more than all the buffers on the way hold.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        while stream.write_all(&[b'x'; 65_536]).await.is_ok() {}
    });
    let door = door_to(port, quick()).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    until_counted(&door, Why::NeverReads).await;
}

#[tokio::test]
async fn one_client_has_so_many_connections_and_requests() {
    let limits = Limits { client_connections: 2, client_rate: Some(5), ..Limits::default() };
    let door = door(limits).await;
    let mut first = TcpStream::connect(door.address).await.unwrap();
    let get = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n";
    // More than two seconds' worth: whenever the second ends, some are too many.
    first.write_all(&get.repeat(20)).await.unwrap();
    first.shutdown().await.unwrap();
    let answers = until_closed(&mut first).await;
    let (good, bad) = (answers.matches("200 OK").count(), answers.matches("429 Too Many").count());
    assert!((5..=15).contains(&good) && good + bad == 20, "{good} {bad}");
    assert!(answers.contains("retry-after: 1"));
    let _second = TcpStream::connect(door.address).await.unwrap();
    let _third = TcpStream::connect(door.address).await.unwrap();
    let mut fourth = TcpStream::connect(door.address).await.unwrap();
    let answer = until_closed(&mut fourth).await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let counts = door.door.tally().counts();
    assert_eq!((counts["rate"], counts["connections"]), (bad as u64, 1));
}

#[tokio::test]
async fn what_cannot_be_read_is_counted() {
    let door = door(Limits::default()).await;
    let answer = talk(&door, b"GET /a\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    until_counted(&door, Why::Malformed).await;
}

type Raw = h2::client::SendRequest<bytes::Bytes>;

/// An HTTP/2 client with a window of so many bytes, and what runs it.
async fn raw(door: &Door, window: u32) -> (Raw, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(door.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window);
    let (client, connection) = builder.handshake(stream).await.unwrap();
    (client, tokio::spawn(connection))
}

fn asked(method: &str, path: &str) -> Request<()> {
    Request::builder().method(method).uri(format!("http://files{path}")).body(()).unwrap()
}

async fn ask(client: &Raw, method: &str, path: &str) -> Response<h2::RecvStream> {
    let (answer, _) = client.clone().send_request(asked(method, path), true).unwrap();
    answer.await.unwrap()
}

const PLACES: usize = 4;

/// With a server of few places that answers each request with a megabyte.
async fn few_places(limits: Limits) -> Door {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|_: Request<Incoming>| async {
                let body = Body::Full(vec![b'x'; 1 << 20].into());
                Ok::<_, std::convert::Infallible>(Response::new(body))
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    let of_server = crate::server::Limits { connections: PLACES, ..crate::server::Limits::default() };
    door_for(port, limits, of_server).await
}

#[tokio::test]
async fn answers_that_nobody_takes_are_given_up_and_the_connection_goes_on() {
    let door = few_places(quick()).await;
    let (client, _connection) = raw(&door, 0).await;
    let mut unread = Vec::new();
    for _ in 0..PLACES {
        let answer = ask(&client, "GET", "/a").await;
        assert_eq!(answer.status(), 200);
        unread.push(answer.into_body());
    }
    let others = async {
        loop {
            let answer = talk(&door, b"GET /a HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
            if answer.starts_with("HTTP/1.1 200") {
                return answer.len();
            }
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let others = tokio::time::timeout(Duration::from_secs(20), others).await;
    assert!(others.expect("nobody else is served") > 1 << 20);
    until_counted(&door, Why::NeverReads).await;
    assert_eq!(ask(&client, "GET", "/a").await.status(), 200);
    drop(unread);
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_taken_ends() {
    let door = few_places(Limits { idle: Duration::from_secs(1), ..quick() }).await;
    let (client, connection) = raw(&door, 0).await;
    let _unread = ask(&client, "GET", "/a").await;
    let ended = tokio::time::timeout(Duration::from_secs(20), connection).await;
    let _how = ended.expect("the connection stays").unwrap();
}

#[tokio::test]
async fn who_takes_something_now_and_then_gets_all_of_it() {
    let door = few_places(Limits { write: Duration::from_secs(5), ..quick() }).await;
    let (client, _connection) = raw(&door, 1 << 16).await;
    let mut body = ask(&client, "GET", "/a").await.into_body();
    let mut bytes = 0;
    while let Some(data) = body.data().await {
        let more = data.unwrap().len();
        bytes += more;
        if bytes % (1 << 16) == 0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        body.flow_control().release_capacity(more).unwrap();
    }
    assert_eq!(bytes, 1 << 20);
    assert!(door.door.tally().counts().is_empty());
}

#[tokio::test]
async fn bodies_that_stand_still_end_and_others_go_on() {
    let door = door(quick()).await;
    let (client, _connection) = raw(&door, 65_535).await;
    let mut stalled = Vec::new();
    for method in ["PUT", "PROPFIND"] {
        let mut request = asked(method, "/a");
        request.headers_mut().insert("content-length", HeaderValue::from_static("10"));
        let (answer, mut body) = client.clone().send_request(request, false).unwrap();
        if method == "PUT" {
            body.send_data("abc".into(), false).unwrap();
        }
        stalled.push((answer, body));
    }
    for (answer, _body) in stalled {
        let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
        assert_eq!(answer.expect("it waits for ever").unwrap().status(), 400);
    }
    assert_eq!(ask(&client, "GET", "/a").await.status(), 200);
    assert_eq!(door.door.tally().counts()[Why::SlowBody.as_str()], 2);
}
