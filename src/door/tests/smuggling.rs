//! Raw bytes at the door, and what of them a server behind the relay got: never a request that another
//! program could have read in another way.

use std::sync::Mutex;

use super::*;

/// What is wanted of one stream of bytes.
enum Want {
    /// One answer with this status, then the end of the connection; the server gets nothing.
    Refused(u16),
    /// The server gets these, as `METHOD target body`, and the client an answer to each.
    Passed(&'static [&'static str]),
    /// The server gets these, then the next is refused with this status and the connection ends.
    Then(&'static [&'static str], u16),
    /// The server gets these at most; the last one breaks off with this status, or without an answer.
    Broken(&'static [&'static str], u16),
}
use Want::{Broken as B, Passed as P, Refused as R, Then as T};

/// A server that reads as strictly as can be, and notes what it got.
struct Recorder {
    port: u16,
    got: Arc<Mutex<Vec<String>>>,
}

impl Recorder {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let got = Arc::new(Mutex::new(Vec::new()));
        let into = got.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let into = into.clone();
                tokio::spawn(async move {
                    let mut from = Strict { stream, held: Vec::new() };
                    while let Some(request) = from.request().await {
                        into.lock().unwrap().push(request);
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                        if from.stream.write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, got }
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.got.lock().unwrap())
    }
}

struct Strict {
    stream: TcpStream,
    held: Vec<u8>,
}

impl Strict {
    /// `None` when the connection ends before the request is whole.
    async fn request(&mut self) -> Option<String> {
        let line = self.line().await?;
        let (mut length, mut chunked, mut hosts) = (None, false, 0);
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(": ").expect("a field");
            assert!(!line.contains(|c: char| c.is_control() && c != '\t'), "{line:?}");
            match name {
                "content-length" => assert!(length.replace(value.parse().unwrap()).is_none()),
                "transfer-encoding" => {
                    assert_eq!(value, "chunked");
                    chunked = true;
                }
                "host" => hosts += 1,
                "upgrade" | "keep-alive" | "http2-settings" => panic!("{line}"),
                _ => {}
            }
        }
        assert_eq!(hosts, 1, "{line}");
        assert!(length.is_none() || !chunked, "{line}");
        let body =
            if chunked { self.chunks().await? } else { self.exactly(length.unwrap_or(0)).await? };
        let line = line.strip_suffix(" HTTP/1.1").expect("a request line").to_owned();
        Some(format!("{line} {}", String::from_utf8(body).unwrap()).trim_end().to_owned())
    }
    async fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Some(body);
            }
            body.extend(self.exactly(size).await?);
            assert_eq!(self.line().await?, "");
        }
    }
    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.held.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.held.drain(..at + 2).take(at).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            self.more().await?;
        }
    }
    async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.held.len() < count {
            self.more().await?;
        }
        Some(self.held.drain(..count).collect())
    }
    async fn more(&mut self) -> Option<()> {
        let read = self.stream.read_buf(&mut self.held).await.ok()?;
        (read > 0).then_some(())
    }
}

/// Every status that the client was answered with.
fn statuses(answers: &str) -> Vec<u16> {
    let starts = answers.match_indices("HTTP/1.").map(|(at, _)| at + "HTTP/1.1 ".len());
    // The words of a refusal may name a version as well.
    starts.filter_map(|at| answers.get(at..at + 3)?.parse().ok()).collect()
}

async fn check(door: &Door, server: &Recorder, name: &str, bytes: &[u8], want: &Want) {
    // In one piece, and so that every look sees but a few more bytes.
    for piece in [bytes.len(), 7] {
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        for piece in bytes.chunks(piece) {
            // The door may have closed already.
            let _sent = stream.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        if let P(_) | B(..) = want {
            let _sent = stream.shutdown().await;
        }
        let end = until_closed(&mut stream);
        let answers = tokio::time::timeout(Duration::from_secs(10), end).await;
        let answers = answers.unwrap_or_else(|_| panic!("{name}: the connection stays open"));
        let (got, statuses) = (server.take(), statuses(&answers));
        let context = format!("{name}: {answers:?}, the server got {got:?}");
        match want {
            R(status) => {
                assert_eq!((statuses, got), (vec![*status], vec![]), "{context}");
                assert!(answers.contains("connection: close"), "{context}");
            }
            P(wanted) => {
                assert_eq!(got, *wanted, "{context}");
                assert_eq!(statuses, vec![200; wanted.len()], "{context}");
            }
            T(wanted, status) => {
                assert_eq!(got, *wanted, "{context}");
                let passed = vec![200; wanted.len()];
                assert_eq!(statuses, [passed, vec![*status]].concat(), "{context}");
                assert!(answers.contains("connection: close"), "{context}");
            }
            B(wanted, status) => {
                assert_eq!(got, *wanted, "{context}");
                let passed = vec![200; wanted.len()];
                let whole = [passed.clone(), vec![*status]].concat();
                assert!(statuses == passed || statuses == whole, "{context}");
            }
        }
    }
}

/// With one more request behind, which only a smuggler would have read as one.
async fn run(cases: &[(&str, &str, Want)]) {
    let server = Recorder::start().await;
    let door = door_to(server.port, Limits::default()).await;
    for (name, bytes, want) in cases {
        let hidden = format!("{bytes}GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n");
        let bytes = if let R(_) | T(..) = want { hidden.as_bytes() } else { bytes.as_bytes() };
        check(&door, &server, name, bytes, want).await;
    }
}

// long: one table, read from top to bottom.
#[tokio::test]
async fn lengths_and_codings() {
    run(&[
        ("length", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", P(&["PUT /a abc"])),
        ("chunked", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", P(&["PUT /a abc"])),
        ("chunked in capitals", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n", P(&["PUT /a abc"])),
        ("chunked, blanks around", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \t chunked \t\r\n\r\n3\r\nabc\r\n0\r\n\r\n", P(&["PUT /a abc"])),
        ("CL.TE", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", R(400)),
        ("TE.CL", "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n", R(400)),
        ("CL 0 and TE", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", R(400)),
        ("two lengths, the same", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", R(400)),
        ("two lengths, not the same", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 0\r\n\r\nabc", R(400)),
        ("list of lengths", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3, 3\r\n\r\nabc", R(400)),
        ("length +3", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: +3\r\n\r\nabc", R(400)),
        ("length -1", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\nabc", R(400)),
        ("length 0x3", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0x3\r\n\r\nabc", R(400)),
        ("length 3 0", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3 0\r\n\r\nabc", R(400)),
        ("length 3.0", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3.0\r\n\r\nabc", R(400)),
        ("no length in it", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\nabc", R(400)),
        ("length 2^64", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 18446744073709551616\r\n\r\n", R(400)),
        ("length 2^63", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 9223372036854775808\r\n\r\n", R(400)),
        ("length 003", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 003\r\n\r\nabc", P(&["PUT /a abc"])),
        ("blanks around a length", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: \t3 \r\n\r\nabc", P(&["PUT /a abc"])),
        ("chunked twice in a field", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", R(501)),
        ("chunked in two fields", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", R(501)),
        ("identity", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc", R(501)),
        ("chunked and identity", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", R(501)),
        ("identity, then chunked", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", R(501)),
        ("gzip, chunked", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", R(501)),
        ("gzip", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n", R(501)),
        ("xchunked", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", R(501)),
        ("chunked in quotes", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", R(501)),
        ("chunked;q=1", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", R(501)),
        ("empty coding", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\r\n", R(501)),
        ("chunked behind a vertical tab", "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", R(400)),
        ("chunked in 1.0", "PUT /a HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", R(400)),
        ("GET with a length", "GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.1\r\nHost: h\r\n\r\n", P(&["GET /a abc", "GET /b"])),
        ("GET in chunks", "GET /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\n\r\n", P(&["GET /a x", "GET /b"])),
        ("a request in a body", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 31\r\n\r\nGET /b HTTP/1.1\r\nHost: hidden\r\nGET /c HTTP/1.1\r\nHost: h\r\n\r\n", P(&["PUT /a GET /b HTTP/1.1\r\nHost: hidden", "GET /c"])),
        ("pipelined, the second bad", "GET /a HTTP/1.1\r\nHost: h\r\n\r\nPUT /b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", T(&["GET /a"], 400)),
        ("no length, with a body", "PUT /a HTTP/1.1\r\nHost: h\r\n\r\nabc\r\n\r\n", T(&["PUT /a"], 400)),
    ])
    .await;
}

#[tokio::test]
async fn chunks() {
    const HEAD: &str = "PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    let bad = |body: &str| format!("{HEAD}{body}");
    let server = Recorder::start().await;
    let door = door_to(server.port, Limits::default()).await;
    let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(300));
    let many = format!("0\r\n{}\r\n", "x: y\r\n".repeat(200));
    let broken = [
        "-1\r\nx\r\n0\r\n\r\n",
        "+1\r\nx\r\n0\r\n\r\n",
        "0x1\r\nx\r\n0\r\n\r\n",
        " 1\r\nx\r\n0\r\n\r\n",
        "1 \r\nx\r\n0\r\n\r\n",
        "1\nx\n0\n\n",
        "1\rx\r\n0\r\n\r\n",
        "\r\n\r\n",
        "g\r\nx\r\n0\r\n\r\n",
        "1\r\nxy\r\n0\r\n\r\n",
        "1\r\nx0\r\n\r\n",
        "1\r\nx\n0\r\n\r\n",
        "ffffffffffffffff\r\nx\r\n0\r\n\r\n",
        "10000000000000001\r\nx\r\n0\r\n\r\n",
        "1;a\nb\r\nx\r\n0\r\n\r\n",
        "1;a\rb\r\nx\r\n0\r\n\r\n",
        long.as_str(),
        "0\r\nContent-Length: 3\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: other\r\n\r\n",
        "0\r\nno field\r\n\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\nx: y\n\r\n",
        many.as_str(),
    ];
    for body in broken {
        check(&door, &server, body, bad(body).as_bytes(), &B(&[], 400)).await;
        // Nor does anything behind it pass.
        let more = bad(body) + "GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n";
        check(&door, &server, body, more.as_bytes(), &B(&[], 400)).await;
    }
    let whole =
        ["1;ext=\"a;b\"\r\nx\r\n0\r\n\r\n", "01\r\nx\r\n00\r\n\r\n", "1\r\nx\r\n0\r\nx-sum: y\r\n\r\n"];
    for body in whole {
        check(&door, &server, body, bad(body).as_bytes(), &P(&["PUT /a x"])).await;
    }
}

#[tokio::test]
async fn heads() {
    run(&[
        ("folded", "GET /a HTTP/1.1\r\nHost: h\r\nX: y\r\n z\r\n\r\n", R(400)),
        ("folded with a tab", "GET /a HTTP/1.1\r\nHost: h\r\nX: y\r\n\tz\r\n\r\n", R(400)),
        ("folded length", "PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n 3\r\n\r\nabc", R(400)),
        ("folded at once", "GET /a HTTP/1.1\r\n Host: h\r\n\r\n", R(400)),
        (
            "blank before the colon",
            "GET /a HTTP/1.1\r\nHost: h\r\nContent-Length : 3\r\n\r\nabc",
            R(400),
        ),
        (
            "tab before the colon",
            "GET /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding\t: chunked\r\n\r\n",
            R(400),
        ),
        ("no colon", "GET /a HTTP/1.1\r\nHost: h\r\nX\r\n\r\n", R(400)),
        ("no name", "GET /a HTTP/1.1\r\nHost: h\r\n: y\r\n\r\n", R(400)),
        ("LF alone", "GET /a HTTP/1.1\nHost: h\n\n", R(400)),
        ("LF alone in the end", "GET /a HTTP/1.1\r\nHost: h\r\n\n", R(400)),
        ("LF alone between fields", "GET /a HTTP/1.1\r\nHost: h\nX: y\r\n\r\n", R(400)),
        ("CR in a value", "GET /a HTTP/1.1\r\nHost: h\r\nX: y\rContent-Length: 3\r\n\r\n", R(400)),
        ("CR in the request line", "GET /a\rb HTTP/1.1\r\nHost: h\r\n\r\n", R(400)),
        ("CR twice", "GET /a HTTP/1.1\r\r\nHost: h\r\n\r\n", R(400)),
        ("NUL in a value", "GET /a HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n", R(400)),
        ("NUL in a name", "GET /a HTTP/1.1\r\nHost: h\r\nX\0: b\r\n\r\n", R(400)),
        ("control in a value", "GET /a HTTP/1.1\r\nHost: h\r\nX: a\x01b\r\n\r\n", R(400)),
        ("delete in a value", "GET /a HTTP/1.1\r\nHost: h\r\nX: a\x7fb\r\n\r\n", R(400)),
        ("name that is no token", "GET /a HTTP/1.1\r\nHost: h\r\nX(y): b\r\n\r\n", R(400)),
        ("two hosts", "GET /a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n", R(400)),
        ("two hosts, one in capitals", "GET /a HTTP/1.1\r\nHost: h\r\nHOST: i\r\n\r\n", R(400)),
        ("empty lines before", "\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", P(&["GET /a"])),
        (
            "many empty lines before",
            "\r\n\r\n\r\n\r\n\r\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n",
            R(400),
        ),
        ("empty value", "GET /a HTTP/1.1\r\nHost: h\r\nX:\r\n\r\n", P(&["GET /a"])),
        ("no blank", "GET /a HTTP/1.1\r\nHost:h\r\nX:y\r\n\r\n", P(&["GET /a"])),
        ("Latin-1 in a value", "GET /a HTTP/1.1\r\nHost: h\r\nX: é\r\n\r\n", P(&["GET /a"])),
        ("two blanks", "GET  /a HTTP/1.1\r\nHost: h\r\n\r\n", R(400)),
        ("tab", "GET\t/a HTTP/1.1\r\nHost: h\r\n\r\n", R(400)),
        ("blank at the end", "GET /a HTTP/1.1 \r\nHost: h\r\n\r\n", R(400)),
        ("blank in the target", "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n", R(400)),
        ("blank before", " GET /a HTTP/1.1\r\nHost: h\r\n\r\n", R(400)),
        ("fragment", "GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n", R(400)),
        ("http/1.1", "GET /a http/1.1\r\nHost: h\r\n\r\n", R(400)),
        ("HTTP/1.2", "GET /a HTTP/1.2\r\nHost: h\r\n\r\n", R(505)),
        ("HTTP/2.0", "GET /a HTTP/2.0\r\nHost: h\r\n\r\n", R(505)),
        ("HTTP/0.9 by name", "GET /a HTTP/0.9\r\n\r\n", R(505)),
        ("HTTP/1.10", "GET /a HTTP/1.10\r\nHost: h\r\n\r\n", R(400)),
        ("HTTP/1,1", "GET /a HTTP/1,1\r\nHost: h\r\n\r\n", R(400)),
        ("HTTP/0.9", "GET /a\r\n", R(400)),
        ("no target", "GET HTTP/1.1\r\nHost: h\r\n\r\n", R(400)),
        ("method that is no token", "G(T /a HTTP/1.1\r\nHost: h\r\n\r\n", R(400)),
        ("TLS to a plain door", "\x16\x03\x01\x02\n\n", R(400)),
        ("preface of HTTP/2, with another end", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", R(505)),
    ])
    .await;
    let server = Recorder::start().await;
    let door = door_to(server.port, Limits::default()).await;
    let head = |fields: String| format!("GET /a HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    let many = head("x: y\r\n".repeat(128));
    check(&door, &server, "129 fields", many.as_bytes(), &R(431)).await;
    let most = head("x: y\r\n".repeat(127));
    check(&door, &server, "128 fields", most.as_bytes(), &P(&["GET /a"])).await;
    let long = head(format!("x: {}\r\n", "y".repeat(65_536)));
    check(&door, &server, "a long field", long.as_bytes(), &R(431)).await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(65_536));
    check(&door, &server, "a long target", long.as_bytes(), &R(414)).await;
}

#[tokio::test]
async fn targets_hosts_and_connections() {
    run(&[
        ("absolute", "GET http://h/a HTTP/1.1\r\nHost: h\r\n\r\n", P(&["GET /a"])),
        ("absolute, no path", "GET http://h HTTP/1.1\r\nHost: h\r\n\r\n", P(&["GET /"])),
        ("absolute, another host", "GET http://i/a HTTP/1.1\r\nHost: h\r\n\r\n", P(&["GET /a"])),
        ("star", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", P(&["OPTIONS *"])),
        ("upgrade to h2c", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", P(&["GET /a"])),
        ("upgrade to websocket", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", P(&["GET /a"])),
        ("Connection names the length", "PUT /a HTTP/1.1\r\nHost: h\r\nConnection: Content-Length\r\nContent-Length: 3\r\n\r\nabc", P(&["PUT /a abc"])),
        ("Connection names the coding", "PUT /a HTTP/1.1\r\nHost: h\r\nConnection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", P(&["PUT /a abc"])),
        ("Connection names Host", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: Host\r\n\r\n", P(&["GET /a"])),
        ("Connection: close", "GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nGET /hidden HTTP/1.1\r\nHost: h\r\n\r\n", P(&["GET /a"])),
        ("two in a row", "GET /a HTTP/1.1\r\nHost: h\r\n\r\nPUT /b HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nxGET /c HTTP/1.1\r\nHost: h\r\n\r\n", P(&["GET /a", "PUT /b x", "GET /c"])),
        ("HTTP/1.0", "GET /a HTTP/1.0\r\n\r\nGET /hidden HTTP/1.0\r\n\r\n", P(&["GET /a"])),
        ("HTTP/1.0 with a body", "PUT /a HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc", P(&["PUT /a abc"])),
        ("HTTP/1.0 that is kept", "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n", P(&["GET /a", "GET /b"])),
        ("Expect in 1.0", "PUT /a HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc", P(&["PUT /a abc"])),
    ])
    .await;
    // Understood, and not relayed; the connection may go on.
    let refused = [
        ("no host", "GET /a HTTP/1.1\r\n\r\n", 400),
        ("a host that is none", "GET /a HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("a host with a user", "GET /a HTTP/1.1\r\nHost: u@h\r\n\r\n", 400),
        ("a list of hosts", "GET /a HTTP/1.1\r\nHost: h, i\r\n\r\n", 400),
        ("a path in the host", "GET /a HTTP/1.1\r\nHost: h/x\r\n\r\n", 400),
        ("absolute, no host", "GET http://h/a HTTP/1.1\r\n\r\n", 400),
        ("absolute, a user", "GET http://u@h/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("absolute, another scheme", "GET ftp://h/a HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("absolute, https", "GET https://h/a HTTP/1.1\r\nHost: h\r\n\r\n", 421),
        ("authority", "GET h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("authority of CONNECT", "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        ("a path that is none", "GET a/b HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("star of GET", "GET * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("star of DELETE", "DELETE * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
        ("TRACE", "TRACE /a HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (
            "another Expect",
            "PUT /a HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\nContent-Length: 0\r\n\r\n",
            417,
        ),
        (
            "two Expects",
            "PUT /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue, x\r\nContent-Length: 0\r\n\r\n",
            417,
        ),
    ];
    let server = Recorder::start().await;
    let door = door_to(server.port, Limits::default()).await;
    for (name, bytes, status) in refused {
        check(&door, &server, name, bytes.as_bytes(), &B(&[], status)).await;
        let mut stream = TcpStream::connect(door.address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        let line = read_until(&mut stream, "\r\n").await;
        assert!(line.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {line}");
    }
}
