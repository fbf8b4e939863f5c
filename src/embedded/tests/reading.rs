use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use super::*;

#[tokio::test]
async fn a_file_is_read_with_what_is_known_of_it() {
    let bench = Bench::new();
    bench.write("hello.txt", "hello");
    bench.write("empty", "");
    bench.write("page.html", "x");
    let get = bench.ask("GET", "/eng/hello.txt").await;
    assert_eq!((get.status, get.text()), (200, "hello"));
    assert_eq!(get.field("content-type"), Some("text/plain"));
    assert_eq!(get.field("content-length"), Some("5"));
    assert_eq!(get.field("accept-ranges"), Some("bytes"));
    assert!(get.field("last-modified").unwrap().ends_with(" GMT"));
    assert_eq!(get.field("etag"), None, "the catalog does not know it");
    let etag = bench.know("hello.txt", 7);
    let get = bench.ask("GET", "/eng/hello.txt").await;
    assert_eq!(get.field("etag"), Some(etag.as_str()));
    let head = bench.ask("HEAD", "/eng/hello.txt").await;
    assert_eq!((head.status, head.text()), (200, ""));
    for name in ["etag", "content-length", "content-type", "last-modified"] {
        assert_eq!(head.field(name), get.field(name), "{name}");
    }
    let empty = bench.ask("GET", "/eng/empty").await;
    assert_eq!((empty.status, empty.text(), empty.field("content-length")), (200, "", Some("0")));
    assert_eq!(empty.field("content-type"), Some("application/octet-stream"));
    assert_eq!(bench.ask("GET", "/eng/page.html").await.field("content-type"), Some("text/html"));
}

#[tokio::test]
async fn what_is_not_there_is_said_so() {
    let bench = Bench::new();
    bench.write("file", "x");
    let long = format!("/eng/{}", "x".repeat(256));
    for (path, want) in [
        ("/eng/nothing", 404),
        ("/eng/nothing/below", 404),
        ("/eng/file/below", 404),
        ("/eng/file/", 404),
        ("/engineering", 404),
        ("/", 404),
        ("/other/file", 404),
        (&long, 414),
    ] {
        assert_eq!(bench.status("GET", path, &[]).await, want, "{path}");
        assert_eq!(bench.status("HEAD", path, &[]).await, want, "HEAD {path}");
    }
}

#[tokio::test]
async fn hostile_paths_never_leave_the_share() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    let bench = Bench::new();
    symlink(outside.path().join("secret"), bench.at("abs")).unwrap();
    symlink("../../../../../../etc/passwd", bench.at("up")).unwrap();
    symlink(outside.path(), bench.at("dir")).unwrap();
    symlink(".nearshare", bench.at("ours")).unwrap();
    symlink("self", bench.at("self")).unwrap();
    bench.write(".nearshare/marker", "id");
    let paths = [
        "/eng/../etc/passwd",
        "/eng/%2e%2e/etc/passwd",
        "/eng/..%2f..%2fetc/passwd",
        "/eng/%2e%2e%2f%2e%2e%2fetc/passwd",
        "/eng/a%00b",
        "/eng/abs",
        "/eng/up",
        "/eng/dir/secret",
        "/eng/dir/",
        "/eng/self",
        "/eng/ours/marker",
        "/eng/.nearshare/marker",
        "/eng/%2enearshare/marker",
        "/eng/.nearshare",
    ];
    for path in paths {
        for method in ["GET", "HEAD", "PROPFIND", "OPTIONS", "GET with If"] {
            let fields: &[_] = if method.ends_with("If") { &[("if", "(<urn:x>)")] } else { &[] };
            let reply = bench.send(method.split(' ').next().unwrap(), path, fields, "").await;
            let refused = matches!(reply.status, 400 | 403 | 404 | 412);
            let bare = method == "OPTIONS" && reply.status == 200 && reply.body.is_empty();
            assert!(refused || bare, "{method} {path}: {}", reply.status);
            assert!(!String::from_utf8_lossy(&reply.body).contains("secret"), "{method} {path}");
        }
        for method in ["PUT", "MKCOL"] {
            let status = bench.send(method, path, &[], "").await.status;
            assert!(matches!(status, 400 | 403 | 404 | 405 | 409), "{method} {path}: {status}");
        }
        let dest = ("destination", path);
        bench.write("source", "x");
        for method in ["COPY", "MOVE"] {
            // A link itself may be replaced; what it leads to may not.
            let status = bench.status(method, "/eng/source", &[dest, ("overwrite", "F")]).await;
            assert!(matches!(status, 400 | 403 | 404 | 409 | 412), "{method} to {path}: {status}");
        }
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"secret");
    assert_eq!(bench.read(".nearshare/marker"), "id");
    // Raw, as no client library would send it.
    for target in ["/eng/../../etc/passwd", "/eng/\\..\\x", "//eng//..//x", "http://x/eng/../y"] {
        let answer = bench
            .raw(format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
            .await;
        let status = answer.get(9..12).unwrap_or_default();
        assert!(["400", "404"].contains(&status), "{target}: {answer}");
    }
}

#[tokio::test]
async fn links_inside_the_share_are_followed() {
    let bench = Bench::new();
    std::fs::create_dir(bench.at("sub")).unwrap();
    bench.write("sub/file", "content");
    symlink("sub", bench.at("dir")).unwrap();
    symlink("../sub/file", bench.at("sub/link")).unwrap();
    for path in ["/eng/dir/file", "/eng/sub/link", "/eng/dir/link"] {
        assert_eq!(bench.ask("GET", path).await.text(), "content", "{path}");
    }
}

#[tokio::test]
async fn ranges_over_the_wire() {
    let bench = Bench::new();
    let data: Vec<u8> = (0..1_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    bench.write("data", &data);
    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=262143-262144", 262_143, 262_145),
        ("bytes=100000-", 100_000, 1_000_000),
        ("bytes=-1", 999_999, 1_000_000),
        ("bytes=-2000000", 0, 1_000_000),
        ("bytes=999999-5000000", 999_999, 1_000_000),
    ] {
        let reply = bench.send("GET", "/eng/data", &[("range", range)], "").await;
        assert_eq!(reply.status, 206, "{range}");
        let want = format!("bytes {from}-{}/1000000", to - 1);
        assert_eq!(reply.field("content-range"), Some(want.as_str()), "{range}");
        assert_eq!(reply.field("content-length"), Some((to - from).to_string().as_str()), "{range}");
        assert!(reply.body == data[from..to], "{range}");
    }
    let reply = bench.send("GET", "/eng/data", &[("range", "bytes=1000000-")], "").await;
    assert_eq!((reply.status, reply.field("content-range")), (416, Some("bytes */1000000")));
    let reply = bench.send("GET", "/eng/data", &[("range", "bytes=5-2")], "").await;
    assert!(reply.status == 200 && reply.body == data);
    let reply = bench.send("HEAD", "/eng/data", &[("range", "bytes=0-1")], "").await;
    assert_eq!((reply.status, reply.field("content-length")), (200, Some("1000000")));
    // Several parts, one of them of more than one piece.
    let range = [("range", "bytes=0-3,100-600000,-2")];
    let reply = bench.send("GET", "/eng/data", &range, "").await;
    let boundary = reply.field("content-type").unwrap().split_once("boundary=").unwrap().1;
    let mut want = Vec::new();
    for (from, to) in [(0, 4), (100, 600_001), (999_998, 1_000_000)] {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: bytes {from}-{}/1000000\r\n\r\n",
            to - 1
        );
        want.extend(head.bytes().chain(data[from..to].iter().copied()));
    }
    want.extend(format!("\r\n--{boundary}--\r\n").bytes());
    assert!(reply.status == 206 && reply.body == want);
}

#[tokio::test]
async fn conditions_over_the_wire() {
    let bench = Bench::new();
    bench.write("file", "content");
    let path = "/eng/file";
    // The catalog does not know it: no tag holds, and none is sent.
    for (field, value, want) in
        [("if-none-match", "\"7-1\"", 200), ("if-match", "\"7-1\"", 412), ("if-none-match", "*", 304)]
    {
        let reply = bench.send("GET", path, &[(field, value)], "").await;
        assert_eq!((reply.status, reply.field("etag")), (want, None), "{field}: {value}");
    }
    let etag = bench.know("file", 3);
    let modified = bench.ask("HEAD", path).await.field("last-modified").unwrap().to_owned();
    let weak = format!("W/{etag}");
    let list = format!("\"x\", {etag}");
    for (field, value, want) in [
        ("if-none-match", etag.as_str(), 304),
        ("if-none-match", &weak, 304),
        ("if-none-match", &list, 304),
        ("if-none-match", "\"x\"", 200),
        ("if-match", &etag, 200),
        ("if-match", &weak, 412),
        ("if-modified-since", &modified, 304),
        ("if-unmodified-since", "Thu, 01 Jan 1970 00:00:00 GMT", 412),
    ] {
        let reply = bench.send("GET", path, &[(field, value)], "").await;
        assert_eq!(reply.status, want, "{field}: {value}");
        assert_eq!(reply.body.len(), if want == 304 { 0 } else { reply.body.len() });
    }
    for (if_range, want) in [(etag.as_str(), 206), ("\"x\"", 200), (&weak, 200), (&modified, 206)] {
        let fields = [("range", "bytes=0-1"), ("if-range", if_range)];
        assert_eq!(bench.status("GET", path, &fields).await, want, "if-range: {if_range}");
    }
    // WebDAV's own condition: dav-server's, with our tag.
    for (list, want) in [(format!("([{etag}])"), 200), ("([\"x\"])".into(), 412)] {
        let reply = bench.send("GET", path, &[("if", &list)], "").await;
        assert_eq!(reply.status, want, "if: {list}");
        assert!(want != 200 || reply.text() == "content");
    }
}

#[tokio::test]
async fn conditions_on_changes() {
    let bench = Bench::new();
    bench.write("file", "old");
    let etag = bench.know("file", 3);
    for (field, value, want) in [
        ("if-match", "\"x\"", 412),
        ("if-none-match", "*", 412),
        ("if-none-match", etag.as_str(), 412),
        ("if-match", &etag, 204),
    ] {
        let reply = bench.send("PUT", "/eng/file", &[(field, value)], "new").await;
        assert_eq!((reply.status, reply.field("etag")), (want, None), "{field}: {value}");
        assert_eq!(bench.read("file"), if want == 204 { "new" } else { "old" });
    }
    // It is another file now, of which nothing is known.
    for (field, value, want) in
        [("if-match", etag.as_str(), 412), ("if-match", "*", 204), ("if-none-match", &etag, 204)]
    {
        let reply = bench.send("PUT", "/eng/file", &[(field, value)], "newer").await;
        assert_eq!((reply.status, reply.field("etag")), (want, None), "{field}: {value}");
    }
    assert_eq!(bench.status("PUT", "/eng/none", &[("if-match", "*")]).await, 412);
    assert_eq!(bench.status("PUT", "/eng/none", &[("if-none-match", "*")]).await, 201);
    for method in ["DELETE", "MOVE", "COPY"] {
        let fields = [("if-match", "\"x\""), ("destination", "/eng/elsewhere")];
        assert_eq!(bench.status(method, "/eng/file", &fields).await, 412, "{method}");
    }
    assert!(bench.at("file").exists() && !bench.at("elsewhere").exists() && bench.tidy());
}

#[tokio::test]
async fn a_directory_is_listed_for_people() {
    let bench = Bench::new();
    std::fs::create_dir(bench.at("a dir")).unwrap();
    bench.write("<b>&\".txt", "12345");
    std::fs::write(bench.dir.join(std::ffi::OsStr::from_bytes(b"\xff\xfe%")), "").unwrap();
    symlink("/etc", bench.at("leaves")).unwrap();
    symlink("a dir", bench.at("stays")).unwrap();
    let page = bench.ask("GET", "/eng/").await;
    assert_eq!((page.status, page.field("content-type")), (200, Some("text/html; charset=utf-8")));
    let text = page.text();
    for part in [
        "<a href=\"./a%20dir/\">a dir/</a>",
        "<a href=\"./%3Cb%3E%26%22.txt\">&lt;b&gt;&amp;&quot;.txt</a>",
        "<a href=\"./%FF%FE%25\">",
        "<a href=\"./stays/\">",
        "  5\n",
        "</html>",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    assert!(!text.contains("nearshare") && !text.contains("leaves") && !text.contains("<b>"));
    assert!(text.find("a dir/").unwrap() < text.find("%3Cb").unwrap(), "directories first");
    // Below any other URL its links would lead elsewhere.
    for method in ["GET", "HEAD"] {
        for (path, want) in [("/eng/a%20dir", "/eng/a%20dir/"), ("/eng", "/eng/")] {
            let moved = bench.ask(method, path).await;
            assert_eq!((moved.status, moved.field("location")), (301, Some(want)), "{method}");
        }
    }
    for (method, want) in [("PROPFIND", 207), ("OPTIONS", 200)] {
        assert_eq!(bench.status(method, "/eng", &[("depth", "0")]).await, want, "{method}");
    }
    let head = bench.ask("HEAD", "/eng/a%20dir/").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
}

#[tokio::test]
async fn of_a_large_directory_little_is_held_while_it_is_read() {
    const ENTRIES: usize = 5000;
    let bench = Bench::new();
    for number in 0..ENTRIES {
        bench.write(&format!("{number:0240}"), "");
    }
    let mut page = index::Page::open(&bench.server.shares[0], &RelPath::ROOT).unwrap();
    assert!(page.held() > index::HELD_MAX * 3 / 4, "{}", page.held());
    while let Some(piece) = page.piece().unwrap() {
        assert!(page.held() <= index::HELD_MAX && piece.data_ref().unwrap().len() < 40 << 10);
    }
    let reply = bench.ask("GET", "/eng/").await;
    let text = reply.text();
    let names = text.split("<a href=\"./").skip(1).map(|row| row.split_once('"').unwrap().0);
    let mut names: Vec<_> = names.collect();
    let said = text.split_once("first ").unwrap().1.split_once(' ').unwrap().0;
    let sorted: usize = said.parse().unwrap();
    assert!(sorted > 2500 && names[..sorted].is_sorted() && text.ends_with("</html>\n"), "{sorted}");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), ENTRIES, "each once");
}

#[tokio::test]
async fn names_of_any_bytes() {
    let bench = Bench::new();
    for code in 1..=255u8 {
        if matches!(code, b'/' | b'.') {
            continue;
        }
        let path = format!("/eng/%{code:02X}");
        assert_eq!(bench.send("PUT", &path, &[], vec![code]).await.status, 201, "{path}");
        assert_eq!(bench.ask("GET", &path).await.body.as_ref(), [code], "{path}");
    }
    let all = bench.send("PROPFIND", "/eng/", &[("depth", "1")], "").await;
    assert!(all.text().contains("<D:href>/eng/%FF</D:href>"));
    assert_eq!(all.text().matches("<D:response>").count(), 254);
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_sent_breaks_off() {
    let bench = Bench::new();
    bench.write("big", vec![b'a'; 8 << 20]);
    for cut in [true, false] {
        let io = TokioIo::new(bench.server.connect());
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        let request = Request::get("/eng/big").header("host", "x").body(String::new()).unwrap();
        let mut body = sender.send_request(request).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        // At most a few hundred KiB are on their way.
        let file = std::fs::OpenOptions::new().write(true).open(bench.at("big")).unwrap();
        if cut {
            file.set_len(4 << 20).unwrap();
        } else {
            use std::os::unix::fs::FileExt;
            file.write_all_at(&[b'b'; 1 << 20], 3 << 20).unwrap();
        }
        assert!(body.collect().await.is_err(), "cut: {cut}");
    }
}

#[tokio::test]
async fn many_requests_on_one_connection() {
    let bench = Bench::new();
    bench.write("file", "content");
    let io = TokioIo::new(bench.server.connect());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for (method, path, want) in [
        ("GET", "/eng/file", 200),
        ("GET", "/eng/none", 404),
        ("HEAD", "/eng/none", 404),
        ("DELETE", "/eng/none", 404),
        ("MKCOL", "/eng/file", 405),
        ("GET", "/eng/../x", 400),
        ("MKCOL", "/eng/dir", 201),
        ("PUT", "/eng/new", 201),
        ("PROPFIND", "/eng/", 207),
        ("GET", "/eng/", 200),
    ] {
        sender.ready().await.unwrap();
        let request = Request::builder().method(method).uri(path).header("host", "x");
        let reply = sender.send_request(request.body(String::new()).unwrap()).await.unwrap();
        assert_eq!(reply.status(), want, "{method} {path}");
        reply.into_body().collect().await.unwrap();
    }
}
