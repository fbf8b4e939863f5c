//! A real nginx with WebDAV behind the door and the relay, in the role of the primary.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "http_nginx/house.rs"]
mod house;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

use house::{Answer, House};

#[test]
fn reads_with_ranges_and_without_bodies() {
    let house = House::new();
    fs::write(house.share("f"), b"0123456789").unwrap();
    let all = house.ask("GET", "/eng/f", &[], b"");
    assert_eq!((all.status, &*all.body), (200, &b"0123456789"[..]));
    assert!(all.field("etag").is_some() && all.field("last-modified").is_some());
    let part = house.ask("GET", "/eng/f", &["Range: bytes=2-4"], b"");
    assert_eq!((part.status, &*part.body), (206, &b"234"[..]));
    assert_eq!(part.field("content-range"), Some("bytes 2-4/10"));
    let tail = house.ask("GET", "/eng/f", &["Range: bytes=-3"], b"");
    assert_eq!((tail.status, &*tail.body), (206, &b"789"[..]));
    assert_eq!(house.ask("GET", "/eng/f", &["Range: bytes=99-"], b"").status, 416);
    let head = house.ask("HEAD", "/eng/f", &[], b"");
    assert_eq!((head.status, head.field("content-length"), head.body.len()), (200, Some("10"), 0));
    let etag = format!("If-None-Match: {}", all.field("etag").unwrap());
    assert_eq!(house.ask("GET", "/eng/f", &[&etag], b"").status, 304);
    assert_eq!(house.ask("GET", "/eng/missing", &[], b"").status, 404);
    let moved = house.ask("GET", "/eng/dir", &[], b"");
    assert_eq!(moved.status, 404);
    fs::create_dir(house.share("dir")).unwrap();
    let moved = house.ask("GET", "/eng/dir", &[], b"");
    assert_eq!((moved.status, moved.field("location")), (301, Some("/eng/dir/")));
}

/// Many streams on a few connections of HTTP/2, by a client of another make, and the same over HTTP/1.1. No more
/// at once than this nginx has connections for.
#[test]
fn h2load_gets_every_answer() {
    let house = House::new();
    fs::write(house.share("f"), vec![b'x'; 4096]).unwrap();
    let url = format!("http://{}/eng/f", house.address());
    for more in [&["-m", "16"][..], &["--h1"]] {
        let load = ["-n", "2000", "-c", "8"];
        let ran = Command::new("h2load").args(load).args(more).arg(&url).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(said.contains("2000 succeeded, 0 failed, 0 errored, 0 timeout"), "{said}");
        assert!(said.contains("status codes: 2000 2xx"), "{said}");
    }
}

#[test]
fn every_change_reaches_the_disk_after_it_was_marked() {
    let house = House::new();
    let run = |method: &str, path: &str, fields: &[&str], body: &[u8]| {
        let status = house.ask(method, path, fields, body).status;
        (status, house.marked())
    };
    let marked = |targets: &[&str]| targets.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
    assert_eq!(run("PUT", "/eng/f", &[], b"one"), (201, marked(&["/f"])));
    assert_eq!(run("PUT", "/eng/f", &[], b"two"), (204, marked(&["/f"])));
    assert_eq!(fs::read(house.share("f")).unwrap(), b"two");
    assert_eq!(run("MKCOL", "/eng/d/", &[], b""), (201, marked(&["/d"])));
    assert_eq!(run("PUT", "/eng/d/a%20b%FF", &[], b"x").0, 201);
    let to = "Destination: /eng/d/g";
    assert_eq!(run("COPY", "/eng/f", &[to], b""), (204, marked(&["/d/g"])));
    let to = format!("Destination: http://{}/eng/d/h", house.host());
    assert_eq!(run("MOVE", "/eng/f", &[&to], b""), (204, marked(&["/f", "/d/h"])));
    assert!(!house.share("f").exists());
    assert_eq!(fs::read(house.share("d/h")).unwrap(), b"two");
    assert_eq!(run("MOVE", "/eng/d/", &["Destination: /eng/e/"], b"").0, 201);
    assert_eq!(fs::read_dir(house.share("e")).unwrap().count(), 3);
    // What nginx says of a parent that is missing.
    assert_eq!(run("PUT", "/eng/no/such/dir", &[], b"x").0, 500);
    assert_eq!(run("DELETE", "/eng/missing", &[], b"").0, 404);
    assert_eq!(run("DELETE", "/eng/e/", &[], b""), (204, marked(&["/e"])));
    assert!(!house.share("e").exists());
    assert_eq!(run("FROB", "/eng/x", &[], b""), (405, marked(&["/x"])));
}

#[test]
fn listings_leave_our_directory_out() {
    let house = House::new();
    fs::create_dir(house.share(".nearshare")).unwrap();
    fs::write(house.share("f"), b"x").unwrap();
    let find = |depth| house.ask("PROPFIND", "/eng/", &[depth, "Accept-Encoding: gzip"], b"");
    let answer = find("Depth: 1");
    assert_eq!(answer.status, 207);
    let text = answer.text();
    assert!(text.contains("<D:href>/eng/f</D:href>"), "{text}");
    assert!(!text.contains("nearshare"), "{text}");
    assert_eq!(find("Depth: 0").text().matches("<D:response>").count(), 1);
    let options = house.ask("OPTIONS", "/eng/", &[], b"");
    assert!(options.field("dav").is_some(), "{options:?}");
    assert_eq!(house.ask("PROPFIND", "/", &["Depth: infinity"], b"").status, 403);
    assert_eq!(house.ask("PROPFIND", "/", &["Depth: 1"], b"").status, 207);
}

#[test]
fn hostile_paths_stay_in_the_share() {
    let house = House::new();
    fs::write(house.outside("secret"), b"secret").unwrap();
    symlink(house.outside(""), house.share("out")).unwrap();
    symlink("inside", house.share("in")).unwrap();
    fs::write(house.share("inside"), b"inside").unwrap();
    let long = format!("/eng/{}", "x".repeat(300));
    for (path, read, change) in [
        ("/eng/../other/secret", 400, 400),
        ("/eng/%2e%2e/other/secret", 400, 400),
        ("/eng/.%2E/other/secret", 400, 400),
        ("/eng/..%2fother%2fsecret", 400, 400),
        ("/eng%2f..%2fother/secret", 400, 400),
        ("/eng/a%00b", 400, 400),
        ("/eng/%zz", 400, 400),
        (&*long, 414, 414),
        ("/eng/out/secret", 403, 403),
        ("//eng//out/secret", 403, 403),
        ("/eng/.nearshare/marker", 404, 403),
        ("/eng/%2enearshare/marker", 404, 403),
    ] {
        for method in ["GET", "HEAD", "PROPFIND"] {
            assert_eq!(house.ask(method, path, &[], b"").status, read, "{method} {path}");
        }
        for method in ["PUT", "DELETE", "MKCOL", "FROB"] {
            assert_eq!(house.ask(method, path, &[], b"").status, change, "{method} {path}");
        }
        if path.starts_with("//") {
            continue; // In a Destination that would be another host.
        }
        let to = format!("Destination: {path}");
        let copied = house.ask("COPY", "/eng/inside", &[&to], b"").status;
        assert_eq!(copied, change, "COPY to {path}");
    }
    assert_eq!(house.marked(), Vec::<String>::new());
    assert_eq!(fs::read(house.outside("secret")).unwrap(), b"secret");
    // A link inside the share is followed, and the one that leaves it may be removed.
    assert_eq!(house.ask("GET", "/eng/in", &[], b"").body, b"inside");
    assert_eq!(house.ask("DELETE", "/eng/out", &[], b"").status, 204);
    assert!(house.outside("secret").exists());
    // Across the edge.
    for to in ["/other/x", "http://elsewhere/eng/x"] {
        let to = format!("Destination: {to}");
        assert_eq!(house.ask("MOVE", "/eng/inside", &[&to], b"").status, 502, "{to}");
        assert_eq!(house.ask("COPY", "/other/secret", &["Destination: /eng/x"], b"").status, 502);
    }
    for method in ["DELETE", "PUT", "MKCOL"] {
        assert_eq!(house.ask(method, "/", &[], b"").status, 403, "{method} /");
    }
}

#[test]
fn what_is_in_no_share_passes_as_it_is() {
    let house = House::new();
    fs::write(house.outside("f"), b"plain").unwrap();
    assert_eq!(house.ask("GET", "/other/f", &[], b"").body, b"plain");
    assert_eq!(house.ask("PUT", "/other/g", &[], b"new").status, 201);
    assert_eq!(fs::read(house.outside("g")).unwrap(), b"new");
    let echoed =
        house.ask("GET", "/echo//a%2Fb?%zz", &["X-End: 1", "Connection: close, x-hop", "X-Hop: 2"], b"");
    assert_eq!(echoed.text(), "/echo//a%2Fb?%zz end=1 hop= host=files.example.com");
    assert_eq!(house.marked(), Vec::<String>::new());
}

#[test]
fn bodies_of_every_framing_arrive_whole() {
    let house = House::new();
    let chunked = b"5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n";
    let put = house.ask_raw("PUT", "/eng/c", &["Transfer-Encoding: chunked"], chunked);
    assert_eq!(put.status, 201, "{put:?}");
    assert_eq!(fs::read(house.share("c")).unwrap(), b"hello, world");
    let both = ["Transfer-Encoding: chunked", "Content-Length: 5"];
    let put = house.ask_raw("PUT", "/eng/d", &both, chunked);
    assert!(put.status == 400 || fs::read(house.share("d")).unwrap() == b"hello, world", "{put:?}");
    // Half a body: the old file stays.
    house.half_a_put("/eng/c", 1000, b"half");
    assert_eq!(fs::read(house.share("c")).unwrap(), b"hello, world");
    let curl = Command::new("curl")
        .args(["-sS", "-H", "Expect: 100-continue", "-w", "%{http_code}", "-T", "-"])
        .arg(format!("http://{}/eng/e", house.address()))
        .stdin(fs::File::open(house.share("c")).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&curl.stdout), "201");
    assert_eq!(fs::read(house.share("e")).unwrap(), b"hello, world");
}

/// 1 GiB up and down: the process must not grow by more than 16 MiB.
#[test]
fn big_bodies_take_no_memory() {
    const BIG: u64 = 1 << 30;
    let house = House::alone();
    let source = house.outside("big");
    fs::File::create(&source).unwrap().set_len(BIG).unwrap();
    let url = format!("http://{}/eng/big", house.address());
    house.ask("GET", "/eng/", &[], b"");
    let before = house::peak_kib();
    let put = Command::new("curl").args(["-sSf", "-T"]).arg(&source).arg(&url).status().unwrap();
    assert!(put.success());
    assert_eq!(fs::metadata(house.share("big")).unwrap().len(), BIG);
    let get = Command::new("curl")
        .args(["-sSf", "-o", "/dev/null", "-w", "%{size_download}"])
        .arg(&url)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&get.stdout), BIG.to_string());
    let grown = house::peak_kib() - before;
    assert!(grown <= 16 * 1024, "{grown} KiB");
}

#[test]
fn a_server_that_dies_is_an_error_and_comes_back() {
    let mut house = House::new();
    fs::write(house.share("f"), b"x").unwrap();
    assert_eq!(house.ask("GET", "/eng/f", &[], b"").status, 200);
    house.stop_server();
    let answer: Answer = house.ask("GET", "/eng/f", &[], b"");
    assert_eq!(answer.status, 502, "{answer:?}");
    assert_eq!(house.ask("PUT", "/eng/f", &[], b"y").status, 502);
    house.start_server();
    assert_eq!(house.ask("PUT", "/eng/f", &[], b"z").status, 204);
    assert_eq!(house.ask("GET", "/eng/f", &[], b"").body, b"z");
}
