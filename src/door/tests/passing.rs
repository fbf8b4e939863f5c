//! What passes, passes as it came: fields, trailers, and answers to old clients.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;

/// A server for one connection: for every exchange it reads up to `end`, and then says `answer`. Gives
/// all that it read.
async fn server(
    exchanges: &'static [(&'static str, &'static str)],
) -> (u16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut all = String::new();
        for (end, answer) in exchanges {
            all += &read_until(&mut stream, end).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        all
    });
    (port, serving)
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n\r\n\
    3\r\nabc\r\n0\r\nx-end: z\r\nx-other: w\r\n\r\n";

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (port, serving) = server(&[("x-sum: y\r\n\r\n", CHUNKED), ("\r\n\r\n", CHUNKED)]).await;
    let door = door_to(port, Limits::default()).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let put =
        b"PUT /a HTTP/1.1\r\nHost: h\r\nTE: trailers, deflate\r\nConnection: te\r\nTrailer: x-sum\r\n\
        Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: y\r\nx-secret: n\r\n\r\n";
    stream.write_all(put).await.unwrap();
    let answer = read_until(&mut stream, "x-end: z\r\n\r\n").await;
    assert!(answer.contains("\r\n3\r\nabc\r\n0\r\n"), "{answer}");
    assert!(!answer.contains("x-other"), "{answer}");
    // Nobody asked for any.
    stream.write_all(b"GET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    let answer = until_closed(&mut stream).await;
    assert!(answer.ends_with("\r\n3\r\nabc\r\n0\r\n\r\n"), "{answer}");
    let asked = serving.await.unwrap();
    let (put, get) = asked.split_once("x-sum: y\r\n\r\n").unwrap();
    assert!(put.contains("te: trailers\r\n") && put.contains("connection: te\r\n"), "{put}");
    assert!(!put.contains("x-secret") && !put.contains("deflate"), "{put}");
    assert!(!get.contains("te: ") && !get.contains("connection: "), "{get}");
}

#[tokio::test]
async fn old_clients_get_answers_that_they_understand() {
    const KNOWN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
    let (port, serving) =
        server(&[("\r\n\r\n", KNOWN), ("\r\n\r\n", KNOWN), ("\r\n\r\n", CHUNKED)]).await;
    let door = door_to(port, Limits::default()).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    // Kept only if they ask for it.
    stream.write_all(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
    let kept = read_until(&mut stream, "abc").await;
    assert!(kept.to_lowercase().contains("connection: keep-alive\r\n"), "{kept}");
    stream.write_all(b"GET /b HTTP/1.0\r\n\r\n").await.unwrap();
    let closed = until_closed(&mut stream).await;
    assert!(
        closed.ends_with("\r\n\r\nabc") && !closed.to_lowercase().contains("keep-alive"),
        "{closed}"
    );
    // What has no length ends with the connection, even if that was to be kept.
    let answer = talk(&door, b"GET /c HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
    assert!(answer.ends_with("\r\n\r\nabc"), "{answer}");
    let lower = answer.to_lowercase();
    assert!(!lower.contains("transfer-encoding") && !lower.contains("keep-alive"), "{answer}");
    let asked = serving.await.unwrap();
    assert_eq!(asked.matches(" HTTP/1.1\r\n").count(), 3, "{asked}");
    assert_eq!(asked.matches(&format!("host: 127.0.0.1:{port}\r\n")).count(), 3, "{asked}");
}

#[tokio::test]
async fn via_is_shown_if_the_map_says_so() {
    const ANSWER: &str = "HTTP/1.1 200 OK\r\nVia: 1.1 near\r\nContent-Length: 0\r\n\r\n";
    let (port, serving) = server(&[("\r\n\r\n", ANSWER), ("\r\n\r\n", ANSWER)]).await;
    let door = door_to(port, Limits::default()).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    let get = b"GET /a HTTP/1.1\r\nHost: h\r\nVia: 1.0 far\r\n\r\n";
    stream.write_all(get).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.contains("via: 1.1 near\r\n") && !answer.contains("hq"), "{answer}");
    door.relay.show_via(true);
    stream.write_all(get).await.unwrap();
    let answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.contains("via: 1.1 near\r\nvia: 1.1 hq\r\n"), "{answer}");
    let asked = serving.await.unwrap();
    assert_eq!(asked.matches("via: 1.0 far\r\n").count(), 2, "{asked}");
    assert_eq!(asked.matches("via: 1.0 far\r\nvia: 1.1 hq\r\n").count(), 1, "{asked}");
}

#[tokio::test]
async fn an_absolute_target_decides_what_the_server_hears_of_the_host() {
    const KNOWN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
    let (port, serving) = server(&[("\r\n\r\n", KNOWN)]).await;
    let door = door_to(port, Limits::default()).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    stream.write_all(b"GET http://files:81/a?b HTTP/1.1\r\nHost: other\r\n\r\n").await.unwrap();
    read_until(&mut stream, "abc").await;
    let asked = serving.await.unwrap();
    assert!(asked.starts_with("GET /a?b HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("host: files:81\r\n") && !asked.contains("other"), "{asked}");
}

/// A server that answers with the fields that it was sent.
async fn mirror() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                loop {
                    let head = read_until(&mut stream, "\r\n\r\n").await;
                    let (_, fields) = head.split_once("\r\n").unwrap();
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n{fields}");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    port
}

/// Those of one name, in their order.
fn by_name(head: &str) -> std::collections::BTreeMap<String, Vec<String>> {
    let mut all = std::collections::BTreeMap::<_, Vec<String>>::new();
    for line in head.lines().skip(1).take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').unwrap();
        if !["date", "content-length", "host"].contains(&name.to_lowercase().as_str()) {
            all.entry(name.to_lowercase()).or_default().push(value.trim().to_owned());
        }
    }
    all
}

/// There and back, every field that is not ours arrives as it was sent, those of one name in their order.
#[test]
fn fields_that_are_not_ours_arrive() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let door = runtime.block_on(async { door_to(mirror().await, Limits::default()).await });
    let name =
        "[A-Za-z][A-Za-z0-9-]{0,6}[a-z]|Cookie|Accept|Cache-Control|X-A|If-Match|If-None-Match|Warning";
    let value = "[!-~]([ -~]{0,20}[!-~])?";
    let fields = proptest::collection::vec((name, value), 0..20);
    let mut runner =
        TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) });
    let ran = runner.run(&fields, |fields| {
        let mut head = "GET /a HTTP/1.1\r\nHost: h\r\n".to_owned();
        for (name, value) in &fields {
            if !["te", "host", "expect", "upgrade", "range"].contains(&name.to_lowercase().as_str()) {
                head += &format!("{name}: {value}\r\n");
            }
        }
        head += "\r\n";
        let answer = runtime.block_on(async {
            let mut stream = TcpStream::connect(door.address).await.unwrap();
            stream.write_all(head.as_bytes()).await.unwrap();
            read_until(&mut stream, "\r\n\r\n").await
        });
        prop_assert_eq!(by_name(&answer), by_name(&head));
        Ok(())
    });
    ran.unwrap();
}

/// Who sends its body after the answer hears the answer to its next request too.
#[tokio::test]
async fn what_is_answered_early_is_read_on_to_its_end() {
    let door = door(Limits { client_rate: Some(2), ..Limits::default() }).await;
    let mut stream = TcpStream::connect(door.address).await.unwrap();
    // The server refuses, and what is asked too often gets no farther than the door.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..1000 {
        let put = b"PUT /refuses HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\n";
        stream.write_all(put).await.unwrap();
        assert_eq!(read_until(&mut stream, " ").await, "HTTP/1.1 ");
        let status = read_until(&mut stream, " ").await;
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(!head.contains("connection: close"), "{head}");
        if let Some((_, length)) = head.split_once("content-length: ") {
            let length = length.split_once('\r').unwrap().0.parse().unwrap();
            stream.read_exact(&mut vec![0; length]).await.unwrap();
        }
        stream.write_all(&[7; 70000]).await.unwrap();
        seen.insert(status);
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["403 ", "429 "]);
}

/// Who asks too often has to stop, and does not get rid of what he sends for half a minute.
#[tokio::test]
async fn of_what_is_asked_too_often_little_is_read_on() {
    let door = door(Limits { client_rate: Some(1), ..Limits::default() }).await;
    for _ in 0..1000 {
        let stream = TcpStream::connect(door.address).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        to.write_all(b"PUT /refuses HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
            .await
            .unwrap();
        let mut line = [0; 12];
        from.read_exact(&mut line).await.unwrap();
        if &line != b"HTTP/1.1 429" {
            continue;
        }
        let mut sent = 0;
        while to.write_all(&[7; 65536]).await.is_ok() {
            sent += 65536;
        }
        // What the kernel holds for both sides comes on top of it.
        assert!(sent < 32 << 20, "{sent} bytes were taken");
        return;
    }
    panic!("never too often");
}

/// Who waits to be asked for its body and is not is told that the connection ends: else nobody knows
/// whether what comes next is that body or a request.
#[tokio::test]
async fn a_body_that_nobody_asked_for_ends_the_connection() {
    let door = door(Limits { client_rate: Some(1), ..Limits::default() }).await;
    let put = b"PUT /a HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    for _ in 0..1000 {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(put).await.unwrap();
        let line = read_until(&mut stream, "\r\n").await;
        if line.starts_with("HTTP/1.1 100") {
            continue;
        }
        let rest = until_closed(&mut stream).await;
        assert!(
            line.starts_with("HTTP/1.1 429") && rest.contains("connection: close\r\n"),
            "{line}{rest}"
        );
        return;
    }
    panic!("never too often");
}
