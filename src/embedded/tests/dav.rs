use std::os::unix::fs::symlink;

use super::*;

#[tokio::test]
async fn options_promise_what_is_kept() {
    let bench = Bench::new();
    bench.write("file", "x");
    for path in ["/eng/file", "/eng/", "/eng/none", "*"] {
        let reply = bench.ask("OPTIONS", path).await;
        assert_eq!((reply.status, reply.field("dav")), (200, Some("1")), "{path}");
        let allow = reply.field("allow").unwrap();
        assert!(!allow.contains("LOCK") && !allow.contains("PATCH,"), "{path}: {allow}");
    }
    for method in ["LOCK", "UNLOCK", "PATCH", "REPORT", "POST", "TRACE", "NONSENSE"] {
        let reply = bench.ask(method, "/eng/file").await;
        assert!(matches!(reply.status, 405 | 501), "{method}: {}", reply.status);
    }
}

#[tokio::test]
async fn directories_are_made_once_and_deleted_whole() {
    let bench = Bench::new();
    bench.write("file", "x");
    for (path, want) in [
        ("/eng/dir", 201),
        ("/eng/dir", 405),
        ("/eng/dir/", 405),
        ("/eng/dir/sub/", 201),
        ("/eng/file", 405),
        ("/eng/none/dir", 409),
        ("/eng/file/dir", 409),
        ("/eng/", 405),
    ] {
        assert_eq!(bench.status("MKCOL", path, &[]).await, want, "{path}");
    }
    assert_eq!(bench.send("MKCOL", "/eng/body", &[], "<x/>").await.status, 415);
    bench.write("dir/sub/file", "x");
    symlink("../file", bench.at("dir/link")).unwrap();
    for (path, want) in [
        ("/eng/none", 404),
        ("/eng/", 403),
        ("/eng/dir/link", 204),
        ("/eng/dir", 204),
        ("/eng/dir", 404),
        ("/eng/file", 204),
    ] {
        assert_eq!(bench.status("DELETE", path, &[]).await, want, "{path}");
    }
    assert_eq!(bench.status("DELETE", "/eng/body", &[("depth", "0")]).await, 400);
    assert!(bench.tidy());
}

#[tokio::test]
async fn copies_and_moves() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.at("tree/sub")).unwrap();
    bench.write("tree/sub/file", "deep");
    bench.write("file", "f");
    type Step = (&'static str, &'static str, &'static str, &'static [(&'static str, &'static str)], u16);
    let steps: [Step; 24] = [
        ("COPY", "/eng/file", "/eng/copy", &[], 201),
        ("COPY", "/eng/file", "/eng/copy", &[], 204),
        ("COPY", "/eng/file", "/eng/copy", &[("overwrite", "F")], 412),
        ("COPY", "/eng/file", "/eng/none/copy", &[], 409),
        ("COPY", "/eng/none", "/eng/copy", &[], 404),
        ("COPY", "/eng/file", "/eng/file", &[], 403),
        ("COPY", "/eng/file", "/other/file", &[], 502),
        ("COPY", "/eng/file", "/engineering", &[], 502),
        ("COPY", "/eng/file", "/eng", &[], 403),
        ("COPY", "/eng/tree", "/eng/tree/sub", &[], 403),
        ("COPY", "/eng/tree/sub", "/eng/tree", &[], 403),
        ("COPY", "/eng/tree/", "/eng/whole/", &[], 201),
        ("COPY", "/eng/tree", "/eng/flat", &[("depth", "0")], 201),
        ("COPY", "/eng/tree", "/eng/bad", &[("depth", "1")], 400),
        ("COPY", "/eng/file", "http://files:80/eng/by%20url", &[], 201),
        ("MOVE", "/eng/copy", "/eng/by%20url", &[("overwrite", "F")], 412),
        ("MOVE", "/eng/copy", "/eng/by%20url", &[], 204),
        ("MOVE", "/eng/whole", "/eng/whole/sub/x", &[], 403),
        ("MOVE", "/eng/whole/sub", "/eng/whole", &[], 403),
        ("MOVE", "/eng/whole", "/eng/moved", &[], 201),
        ("MOVE", "/eng/file", "/eng/moved", &[], 204),
        ("MOVE", "/eng/tree", "/eng/flat", &[("depth", "0")], 400),
        ("MOVE", "/eng/tree", "/eng/flat", &[], 204),
        ("MOVE", "/eng/", "/eng/root", &[], 403),
    ];
    for (method, from, to, fields, want) in steps {
        let mut fields = fields.to_vec();
        fields.push(("destination", to));
        assert_eq!(bench.status(method, from, &fields).await, want, "{method} {from} {to}");
    }
    assert_eq!(bench.status("MOVE", "/eng/flat", &[]).await, 400, "no destination");
    assert_eq!(bench.read("flat/sub/file"), "deep");
    assert_eq!((bench.read("by url"), bench.read("moved")), ("f".into(), "f".into()));
    for gone in ["copy", "file", "tree", "whole", "bad", "none"] {
        assert!(!bench.at(gone).exists(), "{gone}");
    }
    assert!(bench.tidy());
}

#[tokio::test]
async fn properties() {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.at("dir/sub")).unwrap();
    bench.write("dir/file.txt", "12345");
    bench.write("dir/sub/deep", "");
    let etag = bench.know("dir/file.txt", 9);
    let hrefs = |reply: &Reply| {
        let mut hrefs: Vec<_> = reply.text().split("<D:href>").skip(1).collect();
        hrefs.iter_mut().for_each(|href| *href = href.split_once('<').unwrap().0);
        hrefs.sort_unstable();
        hrefs.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let all = ["/eng/dir/", "/eng/dir/file.txt", "/eng/dir/sub/", "/eng/dir/sub/deep"];
    for (depth, want) in [
        (Some("0"), &all[..1]),
        (Some("1"), &all[..3]),
        (Some("infinity"), &all[..]),
        (Some("Infinity"), &all[..]),
        (None, &all[..]),
    ] {
        let fields: Vec<_> = depth.map(|depth| ("depth", depth)).into_iter().collect();
        let reply = bench.send("PROPFIND", "/eng/dir", &fields, "").await;
        assert_eq!((reply.status, hrefs(&reply)), (207, want.iter().map(|s| (*s).into()).collect()));
    }
    assert_eq!(bench.status("PROPFIND", "/eng/dir", &[("depth", "2")]).await, 400);
    assert_eq!(bench.status("PROPFIND", "/eng/none", &[("depth", "0")]).await, 404);
    let reply = bench.send("PROPFIND", "/eng/dir/file.txt", &[("depth", "0")], "").await;
    let text = reply.text();
    for part in [
        format!("<D:getetag>{etag}</D:getetag>"),
        "<D:getcontentlength>5</D:getcontentlength>".into(),
        "<D:getcontenttype>text/plain</D:getcontenttype>".into(),
        "GMT</D:getlastmodified>".into(),
    ] {
        assert!(text.contains(&part), "{part} in {text}");
    }
    let reply = bench.send("PROPFIND", "/eng/dir/sub/deep", &[("depth", "0")], "").await;
    assert!(!reply.text().contains("getetag"), "unknown to the catalog: {}", reply.text());
    let ask =
        r#"<propfind xmlns="DAV:"><prop><getetag/><x xmlns="urn:x"/><resourcetype/></prop></propfind>"#;
    let reply = bench.send("PROPFIND", "/eng/dir/sub/deep", &[("depth", "0")], ask).await;
    let want = "<D:href>/eng/dir/sub/deep</D:href>\
        <D:propstat><D:prop><D:resourcetype/></D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat>\
        <D:propstat><D:prop><D:getetag/><x xmlns=\"urn:x\"/></D:prop>\
        <D:status>HTTP/1.1 404 Not Found</D:status></D:propstat>";
    assert!(reply.text().contains(want), "{}", reply.text());
    let quota = r#"<propfind xmlns="DAV:"><prop><quota-available-bytes/></prop></propfind>"#;
    let reply = bench.send("PROPFIND", "/eng/", &[("depth", "0")], quota).await;
    assert!(reply.text().contains("</D:quota-available-bytes>"), "{}", reply.text());
    let names = r#"<propfind xmlns="DAV:"><propname/></propfind>"#;
    let reply = bench.send("PROPFIND", "/eng/", &[("depth", "0")], names).await;
    let want = "<D:prop><D:getcontenttype/><D:getlastmodified/><D:lockdiscovery/><D:resourcetype/>\
        <D:supportedlock/></D:prop>";
    assert!(reply.text().contains(want), "{}", reply.text());
    assert_eq!(bench.send("PROPFIND", "/eng/dir", &[("depth", "0")], "<nonsense").await.status, 400);
}

#[tokio::test]
async fn links_in_listings_lead_nowhere_endless() {
    let bench = Bench::new();
    std::fs::create_dir(bench.at("dir")).unwrap();
    bench.write("dir/file", "x");
    for link in ["one", "two"] {
        symlink(".", bench.at("dir").join(link)).unwrap();
    }
    symlink("dir/file", bench.at("link")).unwrap();
    symlink("/etc/passwd", bench.at("out")).unwrap();
    let one = bench.send("PROPFIND", "/eng/", &[("depth", "1")], "").await;
    assert!(one.text().contains("/eng/link<") && !one.text().contains("/eng/out"));
    let endless = bench.send("PROPFIND", "/eng/", &[("depth", "infinity")], "").await;
    assert_eq!(endless.text().matches("<D:response>").count(), 4, "{}", endless.text());
    assert!(endless.text().contains("/eng/link<") && !endless.text().contains("/eng/dir/one"));
    let to = [("destination", "/eng/copy")];
    assert_eq!(bench.status("COPY", "/eng/dir", &to).await, 201);
    assert_eq!(std::fs::read_link(bench.at("copy/one")).unwrap(), Path::new("."));
    assert_eq!(bench.status("DELETE", "/eng/copy", &[]).await, 204);
    assert_eq!(bench.status("DELETE", "/eng/dir/one", &[]).await, 204);
    assert_eq!(bench.read("dir/file"), "x");
}

#[tokio::test]
async fn a_property_that_is_asked_for_weighs_little_however_it_is_named() {
    const ENTRIES: usize = 300;
    let bench = Bench::new();
    for number in 0..ENTRIES {
        bench.write(&number.to_string(), "");
    }
    let ask =
        |properties: String| format!("<propfind xmlns='DAV:'><prop>{properties}</prop></propfind>");
    let pieces = async |body: String| {
        let request = Request::builder().method("PROPFIND").uri("/eng/").header("depth", "1");
        let answer = bench.server.handle(request.body(Body::text(body)).unwrap()).await;
        let (status, mut body) = (answer.status().as_u16(), answer.into_body());
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.push(frame.unwrap().into_data().unwrap());
        }
        (status, pieces)
    };
    let hostile = ask((0..128).map(|number| format!("<n:x{number}/>")).collect());
    let hostile = hostile.replace("<prop>", &format!("<prop xmlns:n='{}'>", "\"".repeat(60_000)));
    assert!(hostile.len() < 64 << 10);
    assert_eq!(pieces(hostile).await.0, 400);
    // As much as there may be: 128 names of 64 bytes, each of which six times as long when it is escaped.
    let names = |quotes: usize| {
        let property = |number| format!("<x{number:03} xmlns='{}'/>", "\"".repeat(quotes));
        ask((0..128).map(property).collect())
    };
    assert_eq!(pieces(names(61)).await.0, 400);
    let (status, pieces) = pieces(names(60)).await;
    let longest = pieces.iter().map(Bytes::len).max().unwrap();
    let whole = String::from_utf8(pieces.concat()).unwrap();
    assert_eq!((status, whole.matches("<D:response>").count()), (207, ENTRIES + 1));
    assert!(whole.len() > 14_000_000 && longest < 128 << 10, "{longest} of {} bytes", whole.len());
}

fn patch(set: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?><propertyupdate xmlns=\"DAV:\"><set><prop>{set}</prop></set></propertyupdate>"
    )
}

#[tokio::test]
async fn no_property_can_be_changed_where_none_is_kept() {
    const WINDOWS: &str = "<Z:Win32FileAttributes xmlns:Z=\"urn:schemas-microsoft-com:\">\
                           00000020</Z:Win32FileAttributes>";
    let dir = tempfile::tempdir().unwrap();
    let bench = Bench::keeping(dir.path(), false);
    bench.write("a file", "x");
    std::fs::create_dir(bench.at("dir")).unwrap();
    let etag = bench.know("a file", 1);
    let ask = async |path: &str, body: String| bench.send("PROPPATCH", path, &[], body).await;
    let told = |href: &str, propstats: &[(&str, &str)]| {
        let propstats = propstats.iter().map(|(properties, status)| {
            format!(
                "<D:propstat><D:prop>{properties}</D:prop><D:status>HTTP/1.1 {status}</D:status>\
                 </D:propstat>"
            )
        });
        format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\"><D:response>\
             <D:href>{href}</D:href>{}</D:response></D:multistatus>\n",
            propstats.collect::<String>()
        )
    };
    let reply =
        ask("/eng/a%20file", patch("<x xmlns=\"urn:x\">1<y/></x><displayname>n</displayname>")).await;
    let refused = ("<x xmlns=\"urn:x\"/><D:displayname/>", "403 Forbidden");
    assert_eq!((reply.status, reply.text()), (207, told("/eng/a%20file", &[refused]).as_str()));
    assert_eq!(reply.field("content-type"), Some("application/xml; charset=utf-8"));
    // What Windows sets after each upload, alone and beside another.
    let windows = "<Win32FileAttributes xmlns=\"urn:schemas-microsoft-com:\"/>";
    let reply = ask("/eng/a%20file", patch(WINDOWS)).await;
    assert_eq!(reply.text(), told("/eng/a%20file", &[(windows, "200 OK")]));
    let reply = ask("/eng/dir", patch(&format!("{WINDOWS}<getetag>1</getetag>"))).await;
    let both = [("<D:getetag/>", "403 Forbidden"), (windows, "424 Failed Dependency")];
    assert_eq!((reply.status, reply.text()), (207, told("/eng/dir/", &both).as_str()));
    assert_eq!(reply.field("content-location"), Some("/eng/dir/"));
    // What is not there, and conditions.
    assert_eq!(ask("/eng/none", patch("<x/>")).await.status, 404);
    for (field, value, want) in [
        ("if-match", "\"x\"", 412),
        ("if-match", &etag, 207),
        ("if", "(<urn:token>)", 412),
        ("if", &format!("([{etag}])"), 207),
        ("depth", "2", 400),
    ] {
        let reply = bench.send("PROPPATCH", "/eng/a%20file", &[(field, value)], patch("<x/>")).await;
        assert_eq!(reply.status, want, "{field}: {value}");
    }
    // Not what was kept before the map said no, either.
    let kept = b"<prop xmlns='DAV:'><kept xmlns='urn:x'/></prop>";
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(bench.at("dir"), "user.nearshare.properties", kept, flags).unwrap();
    let all = bench.send("PROPFIND", "/eng/dir", &[("depth", "0")], "").await;
    assert!(all.status == 207 && !all.text().contains("kept"), "{}", all.text());
}

#[tokio::test]
async fn no_xml_is_nested_too_deep_for_the_server() {
    let bench = Bench::new();
    bench.write("file", "x");
    let open = "<a>".repeat(21_845);
    let whole = "<a>".repeat(9_000) + &"</a>".repeat(9_000);
    let bodies = [open, whole.clone(), patch(&whole), format!("<!DOCTYPE x>{}", patch("<x/>"))];
    for method in ["PROPPATCH", "PROPFIND", "LOCK", "MKCOL", "COPY", "REPORT", "POST", "DELETE"] {
        for body in &bodies {
            let want: &[u16] = match method {
                "PROPPATCH" | "PROPFIND" => &[400],
                _ => &[400, 405, 415, 501],
            };
            let fields = [("destination", "/eng/other"), ("depth", "0")];
            let status = bench.send(method, "/eng/file", &fields, body.clone()).await.status;
            assert!(want.contains(&status), "{method}: {status}");
        }
    }
    let long = patch(&"<x/>".repeat(16 << 10));
    assert_eq!(bench.send("PROPPATCH", "/eng/file", &[], long).await.status, 413);
    assert_eq!(bench.ask("GET", "/eng/file").await.text(), "x");
}

#[tokio::test]
async fn the_longest_prefix_is_the_share() {
    let (outer, inner) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::create_dir(outer.path().join("sub")).unwrap();
    std::fs::write(outer.path().join("sub/file"), "outer").unwrap();
    std::fs::write(inner.path().join("file"), "inner").unwrap();
    struct Nothing;
    impl Tags for Nothing {
        fn tag(&self, _: &ShareId, _: &Found) -> Option<(ObjectId, Version)> {
            None
        }
    }
    let share = |name: &str, prefix: &str, dir: &Path| EmbeddedShare {
        share: name.parse().unwrap(),
        prefix: RelPath::parse(prefix.as_bytes()).unwrap(),
        tree: disk(dir),
        properties: true,
    };
    let shares = vec![share("root", "", outer.path()), share("in", "in side", inner.path())];
    let server = embedded(shares, Arc::new(Nothing)).unwrap();
    let get = async |path: &str| {
        let answer = server.handle(Request::get(path).body(Body::Empty).unwrap()).await;
        answer.into_body().collect().await.unwrap().to_bytes()
    };
    assert_eq!(get("/sub/file").await, "outer");
    assert_eq!(get("/in%20side/file").await, "inner");
    let request = Request::builder().method("PROPFIND").uri("/in%20side/file").header("depth", "0");
    let answer = server.handle(request.body(Body::Empty).unwrap()).await;
    let text = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&text).contains("<D:href>/in%20side/file</D:href>"));
    for (from, to, want) in [
        ("/in%20side/file", "/sub/new", 502),
        ("/sub/file", "/new", 201),
        ("/sub/file", "/in%20side/x", 502),
    ] {
        let request = Request::builder().method("COPY").uri(from).header("destination", to);
        let answer = server.handle(request.body(Body::Empty).unwrap()).await;
        assert_eq!(answer.status().as_u16(), want, "{from} {to}");
    }
}
