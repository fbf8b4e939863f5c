use std::os::unix::fs::PermissionsExt;

use super::*;

#[tokio::test]
async fn a_file_is_made_and_replaced() {
    let bench = Bench::new();
    assert_eq!(bench.send("PUT", "/eng/new", &[], "one").await.status, 201);
    assert_eq!(bench.read("new"), "one");
    let mode = |path: &str| bench.at(path).metadata().unwrap().mode() & 0o7777;
    // rustix has no way to read the umask without setting it; a file made by std shows it.
    bench.write("model", "");
    assert_eq!(mode("new"), mode("model") & 0o644);
    std::fs::set_permissions(bench.at("new"), PermissionsExt::from_mode(0o4640)).unwrap();
    std::os::unix::fs::chown(bench.at("new"), Some(1234), Some(4321)).unwrap();
    std::fs::set_permissions(bench.at("new"), PermissionsExt::from_mode(0o4640)).unwrap();
    let put = bench.send("PUT", "/eng/new", &[], "two").await;
    assert_eq!((put.status, put.field("etag")), (204, None));
    assert_eq!(bench.read("new"), "two");
    let stat = bench.at("new").metadata().unwrap();
    assert_eq!((stat.uid(), stat.gid(), mode("new")), (1234, 4321, 0o640));
    // A set-gid directory gives its group to what is made in it.
    assert_eq!(bench.ask("MKCOL", "/eng/team").await.status, 201);
    assert_eq!(mode("team"), 0o755 & (mode("model") | 0o111));
    std::os::unix::fs::chown(bench.at("team"), None, Some(77)).unwrap();
    std::fs::set_permissions(bench.at("team"), PermissionsExt::from_mode(0o2775)).unwrap();
    assert_eq!(bench.send("PUT", "/eng/team/file", &[], "x").await.status, 201);
    assert_eq!(bench.at("team/file").metadata().unwrap().gid(), 77);
    assert!(bench.tidy());
}

#[tokio::test]
async fn refusals_of_a_put() {
    let bench = Bench::new();
    std::fs::create_dir(bench.at("dir")).unwrap();
    bench.write("file", "x");
    for (path, want) in [
        ("/eng/none/file", 409),
        ("/eng/file/below", 409),
        ("/eng/dir", 405),
        ("/eng/dir/", 405),
        ("/eng/new/", 405),
        ("/eng/", 405),
        ("/eng", 405),
        ("/elsewhere", 404),
    ] {
        let reply = bench.send("PUT", path, &[], "data").await;
        assert_eq!(reply.status, want, "{path}");
        assert!(want != 405 || reply.field("allow").is_some(), "{path}");
    }
    let part = [("content-range", "bytes 0-3/10")];
    assert_eq!(bench.send("PUT", "/eng/file", &part, "data").await.status, 400);
    let patch = [("x-update-range", "append"), ("content-type", "application/x-sabredav-partialupdate")];
    assert_eq!(bench.send("PATCH", "/eng/file", &patch, "data").await.status, 405);
    assert_eq!(bench.read("file"), "x");
    assert!(bench.tidy());
}

/// Sends the head of a PUT and some of its body, and hangs up.
async fn abort(bench: &Bench, head: &str, body: &[u8]) {
    let mut io = bench.server.connect();
    let head = format!("PUT /eng/file HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n");
    io.write_all(head.as_bytes()).await.unwrap();
    io.write_all(body).await.unwrap();
}

#[tokio::test]
async fn a_put_that_breaks_off_leaves_the_old_file_and_no_litter() {
    let bench = Bench::new();
    bench.write("file", "old");
    let big = vec![b'n'; 3 << 20];
    let length = "content-length: 4000000";
    let chunked = "transfer-encoding: chunked";
    let mut chunks = format!("{:x}\r\n", big.len()).into_bytes();
    chunks.extend_from_slice(&big);
    chunks.extend_from_slice(b"\r\n");
    let cases: [(&str, &[u8]); 8] = [
        (length, b""),
        (length, b"n"),
        (length, &big),
        (chunked, b""),
        (chunked, b"5\r\nnewer"),
        (chunked, b"5\r\nnewer\r\n"),
        (chunked, &chunks),
        // Says how much will come, and ends properly after less.
        ("transfer-encoding: chunked\r\nx-expected-entity-length: 9", b"5\r\nnewer\r\n0\r\n\r\n"),
    ];
    for (head, body) in cases {
        abort(&bench, head, body).await;
        bench.becomes_tidy().await;
        assert_eq!(bench.read("file"), "old", "{head}, {} bytes", body.len());
    }
    // Cut in the middle of the head as well, and a file that was not there stays so.
    let mut io = bench.server.connect();
    io.write_all(b"PUT /eng/fresh HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab").await.unwrap();
    drop(io);
    bench.becomes_tidy().await;
    assert!(!bench.at("fresh").exists());
}

#[tokio::test]
async fn a_body_is_asked_for_when_the_client_waits_and_may_be_chunked() {
    let bench = Bench::new();
    let mut io = bench.server.connect();
    let head = "PUT /eng/file HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    io.write_all(head.as_bytes()).await.unwrap();
    let mut line = [0; 25];
    io.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    io.write_all(b"hello").await.unwrap();
    let mut answer = [0; 12];
    io.read_exact(&mut answer).await.unwrap();
    assert_eq!((&answer, bench.read("file").as_str()), (b"HTTP/1.1 201", "hello"));
    let put = "PUT /eng/file HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n\
               3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    assert!(bench.raw(put.as_bytes()).await.starts_with("HTTP/1.1 204"));
    assert_eq!(bench.read("file"), "abcdefg");
}

/// Whoever still sends hears the answer, and not that the connection has gone.
#[tokio::test]
async fn what_is_refused_is_read_on_to_its_end() {
    let bench = Bench::new();
    for close in ["", "connection: close\r\n"] {
        let mut io = bench.server.connect();
        let length = 8 << 20;
        // Refused by its name, before anything of the body is looked at.
        let head =
            format!("PUT /eng/dir/ HTTP/1.1\r\nhost: x\r\n{close}content-length: {length}\r\n\r\n");
        io.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![7; 1 << 20];
        for _ in 0..8 {
            io.write_all(&piece).await.unwrap();
        }
        let mut answer = [0; 12];
        io.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 405");
    }
    // Who waits to be asked is not asked.
    let mut io = bench.server.connect();
    let head = "PUT /eng/dir/ HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    io.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    io.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 405");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_puts_at_once_one_wins_whole() {
    let bench = Arc::new(Bench::new());
    let tasks: Vec<_> = (0..16u8)
        .map(|n| {
            let bench = bench.clone();
            tokio::spawn(async move {
                let body = vec![b'a' + n; 700_000 + usize::from(n)];
                for _ in 0..4 {
                    let status = bench.send("PUT", "/eng/file", &[], body.clone()).await.status;
                    assert!(matches!(status, 201 | 204), "{status}");
                    let seen = bench.ask("GET", "/eng/file").await;
                    whole(&seen.body);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    whole(&std::fs::read(bench.at("file")).unwrap());
    assert!(bench.tidy());
}

fn whole(content: &[u8]) {
    let first = content[0];
    assert_eq!(content.len(), 700_000 + usize::from(first - b'a'));
    assert!(content.iter().all(|byte| *byte == first), "torn");
}

#[tokio::test]
async fn a_request_may_be_handed_over_without_a_connection() {
    let bench = Bench::new();
    let put = Request::put("/eng/file").header("content-length", "5").body(Body::text("hello")).unwrap();
    assert_eq!(bench.server.handle(put).await.status(), 201);
    let get = bench.server.handle(Request::get("/eng/file").body(Body::Empty).unwrap()).await;
    assert_eq!(get.into_body().collect().await.unwrap().to_bytes(), "hello");
    // A body shorter than was said is no whole file, however it ends.
    let put = Request::put("/eng/file").header("content-length", "9").body(Body::text("short")).unwrap();
    assert_eq!(bench.server.handle(put).await.status(), 400);
    assert_eq!(bench.read("file"), "hello");
    bench.becomes_tidy().await;
}
