use ::http::{HeaderValue, Request, Version};
use proptest::prelude::*;

use super::*;

/// `/eng`, `/eng/sub` below it, `/a b` and `/deep/er`.
fn shares() -> SiteShares {
    let share = |name: &str, url| ShareUrl::new(name.parse().unwrap(), url).unwrap();
    SiteShares::new(vec![
        share("eng", "/eng"),
        share("sub", "/eng/sub"),
        share("space", "/a%20b"),
        share("deep", "/deep/er"),
    ])
}

fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(uri).header("host", "files:8080");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// What is expected of one request.
enum Want {
    Outside,
    Read(&'static str, &'static str, Depth),
    Change(&'static str, &'static [(&'static str, Reach)]),
    Status(u16),
}
use Want::{Change as C, Outside as O, Read as R, Status as S};

fn check(method: &str, uri: &str, fields: &[(&str, &str)], want: &Want) {
    let got = classify(&parts(method, uri, fields), &shares());
    let context = format!("{method} {uri} {fields:?}: {got:?}");
    match (want, got) {
        (O, Ok(Classified { effect: Effect::Outside, place: None, .. })) => {}
        (R(share, path, depth), Ok(Classified { effect: Effect::Read(read), .. })) => {
            assert_eq!(read.share.as_str(), *share, "{context}");
            assert_eq!(read.path.to_string(), *path, "{context}");
            assert_eq!(read.depth, *depth, "{context}");
        }
        (C(share, targets), Ok(Classified { effect: Effect::Change(change), .. })) => {
            assert_eq!(change.share.as_str(), *share, "{context}");
            let got: Vec<_> =
                change.targets.iter().map(|target| (target.path.to_string(), target.reach)).collect();
            let want: Vec<_> =
                targets.iter().map(|(path, reach)| ((*path).to_owned(), *reach)).collect();
            assert_eq!(got, want, "{context}");
        }
        (S(status), Err(refusal)) => assert_eq!(refusal.status().as_u16(), *status, "{context}"),
        _ => panic!("{context}"),
    }
}

/// Where mod_dav keeps properties, which clients may not see.
#[test]
fn properties_lie_beside_what_they_are_of() {
    let url = ShareUrl::new("eng".parse().unwrap(), "/eng").unwrap().with_properties(true);
    let shares = SiteShares::new(vec![url]);
    let of = |method: &str, uri: &str, to: &str| {
        let got = classify(&parts(method, uri, &[("destination", to)]), &shares);
        got.map_err(|refusal| refusal.status().as_u16()).map(|got| match got.effect {
            Effect::Change(change) => {
                change.targets.iter().map(|it| it.path.to_string()).collect::<Vec<_>>().join(" ")
            }
            other => format!("{other:?}"),
        })
    };
    for (method, uri, to, want) in [
        ("PUT", "/eng/d/f", "", Ok("/d/f")),
        ("MKCOL", "/eng/d/", "", Ok("/d")),
        ("PROPPATCH", "/eng/d/f", "", Ok("/d/f /d/.DAV /d/f/.DAV")),
        ("PROPPATCH", "/eng/", "", Ok("/ /.DAV")),
        ("DELETE", "/eng/f", "", Ok("/f /.DAV /f/.DAV")),
        ("MOVE", "/eng/f", "/eng/d/g", Ok("/f /d/g /.DAV /f/.DAV /d/.DAV /d/g/.DAV")),
        ("COPY", "/eng/f", "/eng/d/g", Ok("/d/g /d/.DAV /d/g/.DAV")),
        ("GET", "/eng/.DAV/f", "", Err(404)),
        ("PROPFIND", "/eng/d/.DAV/", "", Err(404)),
        ("PUT", "/eng/%2EDAV/f", "", Err(403)),
        ("MOVE", "/eng/f", "/eng/.DAV/f", Err(403)),
    ] {
        assert_eq!(of(method, uri, to).as_deref().map_err(|status| *status), want, "{method} {uri}");
    }
    // Elsewhere it is a name like others.
    check("GET", "/eng/.DAV/f", &[], &R("eng", "/.DAV/f", Depth::Object));
}

type Row = (&'static str, &'static str, Vec<(&'static str, &'static str)>, Want);

// long: one table of every method, read from top to bottom.
#[test]
fn every_method_says_what_it_touches() {
    use Depth::{Children, Object, Tree};
    use Reach::{Below, Entry};
    let to = |path: &'static str| vec![("destination", path)];
    let table: Vec<Row> = vec![
        ("GET", "/eng/f", vec![], R("eng", "/f", Object)),
        ("GET", "/eng/d/", vec![], R("eng", "/d", Children)),
        ("GET", "/eng", vec![], R("eng", "/", Object)),
        ("GET", "/eng/", vec![], R("eng", "/", Children)),
        ("HEAD", "/eng/f", vec![], R("eng", "/f", Object)),
        ("OPTIONS", "/eng/f", vec![], R("eng", "/f", Object)),
        ("OPTIONS", "*", vec![], O),
        ("PROPFIND", "/eng/d", vec![("depth", "0")], R("eng", "/d", Object)),
        ("PROPFIND", "/eng/d", vec![("depth", "1")], R("eng", "/d", Children)),
        ("PROPFIND", "/eng/d", vec![("depth", "Infinity")], R("eng", "/d", Tree)),
        ("PROPFIND", "/eng/d", vec![], R("eng", "/d", Tree)),
        ("PROPFIND", "/eng/d", vec![("depth", "2")], S(400)),
        ("PUT", "/eng/f", vec![], C("eng", &[("/f", Entry)])),
        ("DELETE", "/eng/d/", vec![], C("eng", &[("/d", Entry)])),
        ("MKCOL", "/eng/d/", vec![], C("eng", &[("/d", Entry)])),
        ("COPY", "/eng/f", to("/eng/g"), C("eng", &[("/g", Below)])),
        ("MOVE", "/eng/f", to("/eng/g"), C("eng", &[("/f", Entry), ("/g", Entry)])),
        ("MOVE", "/eng/f", to("http://files:8080/eng/g"), C("eng", &[("/f", Entry), ("/g", Entry)])),
        ("MOVE", "/eng/f", to("HTTP://FILES:8080/eng/g"), C("eng", &[("/f", Entry), ("/g", Entry)])),
        (
            "COPY",
            "/eng/f",
            vec![("destination", "/eng/g"), ("overwrite", "F")],
            C("eng", &[("/g", Below)]),
        ),
        ("COPY", "/eng/f", vec![("destination", "/eng/g"), ("overwrite", "no")], S(400)),
        ("MOVE", "/eng/d/", to("/eng/d/e/"), S(403)),
        ("MOVE", "/eng/d/", to("/eng/d"), S(403)),
        ("MOVE", "/eng/d/e/", to("/eng/d/"), S(403)),
        ("MOVE", "/eng/d", to("/eng/dd"), C("eng", &[("/d", Entry), ("/dd", Entry)])),
        ("COPY", "/eng/d/", to("/eng/%64/e/"), S(403)),
        ("COPY", "/eng/d/e", to("/eng/d"), S(403)),
        (
            "COPY",
            "/eng/d/",
            vec![("destination", "/eng/d/e/"), ("depth", "0")],
            C("eng", &[("/d/e", Below)]),
        ),
        ("COPY", "/eng/d/", vec![("destination", "/eng/d/"), ("depth", "0")], S(403)),
        ("LOCK", "/eng/f", vec![], C("eng", &[("/f", Entry)])),
        ("UNLOCK", "/eng/f", vec![], C("eng", &[("/f", Entry)])),
        ("LOCK", "/deep/er/", vec![], C("deep", &[("/", Entry)])),
        ("PROPPATCH", "/deep/er", vec![], C("deep", &[("/", Entry)])),
        ("PROPPATCH", "/eng/f", vec![], C("eng", &[("/f", Entry)])),
        // Above a share.
        ("LOCK", "/deep/", vec![("depth", "infinity")], S(403)),
        ("LOCK", "/deep/", vec![], S(403)),
        ("LOCK", "/deep/", vec![("depth", "0")], O),
        ("LOCK", "/eng/", vec![], S(403)),
        ("LOCK", "/eng/", vec![("depth", "0")], C("eng", &[("/", Entry)])),
        ("PROPPATCH", "/", vec![], S(403)),
        ("PROPPATCH", "/eng/", vec![], S(403)),
        // What an If field is about.
        ("PUT", "/eng/f", vec![("if", "(<urn:a>)")], C("eng", &[("/f", Entry)])),
        ("PUT", "/eng/f", vec![("if", "</eng/f> (<urn:a>)")], C("eng", &[("/f", Entry)])),
        (
            "PUT",
            "/eng/f",
            vec![("if", "<http://files:8080/eng/f> (<urn:a>)")],
            C("eng", &[("/f", Entry)]),
        ),
        ("PUT", "/eng/f", vec![("if", "<http://files/eng/f> (<urn:a>)")], S(412)),
        ("PUT", "/eng/f", vec![("if", "</other> (<urn:a>)")], S(412)),
        ("PUT", "/eng/f", vec![("if", "</eng/sub/f> (<urn:a>)")], S(412)),
        ("PUT", "/eng/f", vec![("if", "</eng/.nearshare> (<urn:a>)")], S(412)),
        ("PUT", "/eng/f", vec![("if", "</eng/../f> (<urn:a>)")], S(400)),
        ("PUT", "/eng/f", vec![("if", "<f> (<urn:a>)")], S(400)),
        ("PUT", "/eng/f", vec![("if", "urn:a")], S(400)),
        // The server's own affair.
        ("PUT", "/other", vec![("if", "urn:a")], O),
        ("PATCH", "/deep/er/", vec![], C("deep", &[("/", Below)])),
        ("PATCH", "/eng/", vec![], S(403)),
        ("PROPFIND", "/eng/", vec![], S(403)),
        ("get", "/eng/f", vec![], C("eng", &[("/f", Below)])),
        ("TRACE", "/eng/f", vec![], S(405)),
        ("CONNECT", "files:443", vec![], S(405)),
        // Absolute form.
        ("GET", "http://files:8080/eng/f?x=1", vec![], R("eng", "/f", Object)),
        // The narrowest share.
        ("GET", "/eng/sub/f", vec![], R("sub", "/f", Object)),
        ("GET", "/eng/submarine/f", vec![], R("eng", "/submarine/f", Object)),
        ("GET", "/english", vec![], O),
        ("GET", "/deep", vec![], O),
        ("GET", "/", vec![], O),
        ("PUT", "/other", vec![], O),
        // A part of a file, in place.
        ("PUT", "/eng/f", vec![("content-range", "bytes 0-3/10")], S(400)),
        ("PUT", "/other", vec![("content-range", "bytes 0-3/10")], O),
        ("PUT", "/eng/f", vec![("range", "bytes=0-3")], C("eng", &[("/f", Entry)])),
        // Two framings.
        ("PUT", "/eng/f", vec![("content-length", "1"), ("transfer-encoding", "chunked")], S(400)),
    ];
    for (method, uri, fields, want) in &table {
        check(method, uri, fields, want);
    }
}

#[test]
fn no_request_changes_more_than_its_share() {
    use Reach::Entry;
    let to = |path: &'static str| vec![("destination", path)];
    let table: Vec<Row> = vec![
        // Never the share itself.
        ("DELETE", "/eng", vec![], S(403)),
        ("DELETE", "/eng/", vec![], S(403)),
        ("PUT", "/deep/er", vec![], S(403)),
        ("MKCOL", "/deep/er/", vec![], S(405)),
        ("MOVE", "/deep/er", to("/deep/er/x"), S(403)),
        ("COPY", "/deep/er/x", to("/deep/er/"), S(403)),
        // Never a directory that holds a share.
        ("DELETE", "/", vec![], S(403)),
        ("DELETE", "/deep/", vec![], S(403)),
        ("POST", "/deep", vec![], S(403)),
        ("MOVE", "/deep", to("/x"), S(403)),
        ("MOVE", "/x", to("/deep"), S(403)),
        ("PROPFIND", "/", vec![("depth", "1")], O),
        ("PROPFIND", "/", vec![("depth", "infinity")], S(403)),
        ("PROPFIND", "/elsewhere", vec![], O),
        // Never across an edge.
        ("MOVE", "/eng/f", to("/f"), S(502)),
        ("MOVE", "/f", to("/eng/f"), S(502)),
        ("COPY", "/eng/f", to("/eng/sub/f"), S(502)),
        ("COPY", "/eng/f", to("/deep"), S(502)),
        ("COPY", "/eng/f", to("http://elsewhere/eng/g"), S(502)),
        ("COPY", "/eng/f", to("http://files/eng/g"), S(502)),
        ("COPY", "/eng/f", to("ftp://files:8080/eng/g"), S(502)),
        ("COPY", "/eng/f", to("eng/g"), S(400)),
        ("COPY", "/eng/f", to("//files/eng/g"), S(400)),
        ("COPY", "/eng/f", to("/eng/../../g"), S(400)),
        ("COPY", "/eng/f", to("/eng/g?x"), S(400)),
        ("COPY", "/eng/f", vec![], S(400)),
        ("COPY", "/f", to("/g"), O),
        ("COPY", "/f/g", to("/x/%zz"), O),
        ("COPY", "/f/g", to("/x/%zz%2f..%2f..%2feng/g"), S(400)),
        ("DELETE", "/x/%zz%2f..%2f..%2feng/secret", vec![], S(400)),
        ("DELETE", "/eng/x", vec![], C("eng", &[("/x", Entry)])),
        ("DELETE", "/eng/sub", vec![], S(403)),
        // Ours.
        ("GET", "/eng/.nearshare", vec![], S(404)),
        ("GET", "/eng/d/%2Enearshare/x", vec![], S(404)),
        ("PROPFIND", "/eng/.nearshare/", vec![], S(404)),
        ("PUT", "/eng/.nearshare/tmp/x", vec![], S(403)),
        ("MOVE", "/eng/f", to("/eng/.nearshare/f"), S(403)),
        ("LOCK", "/eng/.nearshare", vec![], S(403)),
        ("GET", "/eng/.nearshare2", vec![], R("eng", "/.nearshare2", Depth::Object)),
        ("GET", "/.nearshare", vec![], O),
    ];
    for (method, uri, fields, want) in &table {
        check(method, uri, fields, want);
    }
}

#[test]
fn a_host_field_is_a_host_and_there_is_one() {
    let status = |host: Option<&str>, version| {
        let mut parts = parts("GET", "/eng/f", &[]);
        parts.version = version;
        parts.headers.remove("host");
        if let Some(host) = host {
            parts.headers.insert("host", HeaderValue::from_str(host).unwrap());
        }
        classify(&parts, &shares()).map_or_else(|refusal| refusal.status().as_u16(), |_| 200)
    };
    let new = Version::HTTP_11;
    for host in ["files", "files:8080", "10.0.0.1", "[fe80::1]:80", ""] {
        assert_eq!(status(Some(host), new), 200, "{host}");
    }
    for host in ["a b", "a/..", "me@files", "files:x:y", "a?b", "a#b"] {
        assert_eq!(status(Some(host), new), 400, "{host}");
    }
    assert_eq!(status(None, new), 400);
    assert_eq!(status(None, Version::HTTP_10), 200);
}

#[test]
fn hostile_paths_never_leave_their_share() {
    let long = format!("/eng/{}", "x".repeat(256));
    let deep = format!("/eng{}", "/abcdefgh".repeat(500));
    let table: Vec<(&str, Want)> = vec![
        ("/eng/../etc/passwd", S(400)),
        ("/eng/a/..", S(400)),
        ("/eng/./a", S(400)),
        ("/eng/%2e%2e/etc", S(400)),
        ("/eng/.%2E/etc", S(400)),
        ("/eng/%2e", S(400)),
        ("/x/../eng/f", S(400)),
        ("/x/%2e%2e/eng/f", S(400)),
        ("/eng/a%2Fb", S(400)),
        ("/eng%2Ff", S(400)),
        ("/%2Feng/f", S(400)),
        ("/x%2F..%2Feng/f", S(400)),
        ("/x/a%2f..%2f..%2feng/f", S(400)),
        ("/eng/a%00", S(400)),
        ("/eng/%", S(400)),
        ("/eng/%4", S(400)),
        ("/eng/%zz", S(400)),
        ("/eng/%+1", S(400)),
        (&long, S(414)),
        (&deep, S(414)),
        // What is odd but leads elsewhere however it is read passes.
        ("/api/a%2Fb", O),
        ("/x/%00", O),
        ("/x/%zz", O),
        ("/x/%2e%2e", S(400)),
        ("/x/%zz/%", O),
        ("/x/%zz%2f%2ee", O),
        ("/x/%zz/a..b/%2f", O),
        ("/x/%zz%2f%5c..%5ceng", O),
        // Not so for a server that leaves what is no escape as it is, and decodes the rest.
        ("/x/%zz%2f..%2f..%2feng/secret", S(400)),
        ("/x/%zz%2F%2e%2E%2F%2e./eng/secret", S(400)),
        ("/x/%2%2f..%2f..%2feng", S(400)),
        ("/x/%%2f..%2f..%2feng", S(400)),
        ("/x/%zz/%zz%2f..%2f..%2f..%2feng", S(400)),
        ("/x/a%2fb/%zz%2f..%2f..%2f..%2f..%2feng", S(400)),
        ("/x/%00/%zz%2f..%2f..%2f..%2feng", S(400)),
        ("/x/%zz/../../eng/secret", S(400)),
        ("/x/%zz%2f.", S(400)),
        // What is only spelled oddly is what it says.
        ("//eng///f", R("eng", "/f", Depth::Object)),
        ("/%65ng/f", R("eng", "/f", Depth::Object)),
        ("/a%20b/f", R("space", "/f", Depth::Object)),
        ("/eng/...", R("eng", "/...", Depth::Object)),
        ("/eng/..a", R("eng", "/..a", Depth::Object)),
        ("/eng/a%5C..%5Cb", R("eng", "/a\\\\..\\\\b", Depth::Object)),
        ("/eng/%252e%252e", R("eng", "/%2e%2e", Depth::Object)),
        ("/eng/%FF%FE", R("eng", "/\\xff\\xfe", Depth::Object)),
        ("/eng/f;x=1", R("eng", "/f;x=1", Depth::Object)),
    ];
    for (uri, want) in &table {
        check("GET", uri, &[], want);
    }
}

#[test]
fn what_only_the_primary_can_judge_goes_home() {
    let home_only = |fields: &[(&str, &str)]| match classify(&parts("GET", "/eng/f", fields), &shares())
        .unwrap()
        .effect
    {
        Effect::Read(read) => read.home_only,
        other => panic!("{other:?}"),
    };
    assert!(!home_only(&[]));
    assert!(!home_only(&[("range", "bytes=0-1"), ("accept", "*/*")]));
    let ours = "\"0123456789abcdef0123456789abcdef-3\"";
    for name in ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range"] {
        assert!(!home_only(&[(name, ours)]), "{name}");
        assert_eq!(home_only(&[(name, "\"x\"")]), name == "If-Match", "{name}");
    }
    assert!(home_only(&[("If", "(<urn:x>)")]));
}

#[test]
fn a_share_at_the_root_holds_everything() {
    let all = SiteShares::new(vec![ShareUrl::new("all".parse().unwrap(), "/").unwrap()]);
    let got = |uri| all.locate(uri).unwrap();
    let inside = |path: &str, slash| Located::Inside {
        slot: 0,
        path: RelPath::parse(path.as_bytes()).unwrap(),
        slash,
        canonical: true,
        above: false,
    };
    assert_eq!(got("/"), inside("", true));
    assert_eq!(got("/a/b"), inside("a/b", false));
    assert_eq!(encode(all.url(0).encoded(), &RelPath::ROOT, false), "/");
    assert_eq!(encode(all.url(0).encoded(), &RelPath::parse(b"a").unwrap(), true), "/a/");
}

#[test]
fn hop_by_hop_fields_end_here() {
    let mut request = Request::new(());
    for (name, value) in [
        ("connection", "close, X-Private"),
        ("connection", "x-other, host, if-match"),
        ("x-private", "1"),
        ("x-other", "2"),
        ("keep-alive", "5"),
        ("te", "trailers"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("proxy-connection", "close"),
        ("host", "files"),
        ("if-match", "\"x\""),
        ("x-kept", "3"),
    ] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    let mut headers = request.into_parts().0.headers;
    strip_hop_by_hop(&mut headers);
    let mut left: Vec<&str> = headers.keys().map(|name| name.as_str()).collect();
    left.sort_unstable();
    assert_eq!(left, ["host", "if-match", "x-kept"]);
}

#[test]
fn urls_move_between_prefixes() {
    let from = ShareUrl::new("eng".parse().unwrap(), "/srv/a%20b").unwrap();
    let moved = Move::new(from.prefix(), "/eng");
    for (url, want) in [
        ("/srv/a%20b/x%2Cy?q#f", Some("/eng/x%2Cy?q#f")),
        ("/srv/a%20b", Some("/eng")),
        ("/srv/a%20b?q", Some("/eng?q")),
        ("http://host:1/srv/a%20b/", Some("/eng/")),
        ("/srv/a%20bc", None),
        ("/srv", None),
        ("mailto:x", None),
    ] {
        assert_eq!(moved.apply(url).as_deref(), want, "{url}");
    }
    assert_eq!(Move::new(from.prefix(), "").apply("/srv/a%20b").as_deref(), Some("/"));
    assert_eq!(Move::new(&[], "/eng").apply("/x").as_deref(), Some("/eng/x"));
}

fn holds_for(method: &str, uri: &str, destination: &str) -> Result<(), TestCaseError> {
    judge::request(&shares(), method, uri, destination).map_err(TestCaseError::fail)
}

#[test]
fn fields_that_decide_stand_only_once() {
    for name in ["Host", "Depth", "Destination", "Overwrite", "Content-Length"] {
        let mut parts = parts("COPY", "/eng/f", &[("destination", "/eng/g")]);
        let name = ::http::HeaderName::try_from(name).unwrap();
        parts.headers.append(&name, "T".parse().unwrap());
        parts.headers.append(&name, "T".parse().unwrap());
        let refusal = classify(&parts, &shares()).unwrap_err();
        assert!(matches!(refusal, Refusal::Twice(_)), "{name}: {refusal}");
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
    }
}

proptest! {
    #[test]
    fn what_is_sent_on_is_what_was_understood(
        method in "GET|PUT|DELETE|MOVE|COPY|PROPFIND|FOO",
        path in "/{0,2}(eng|%65ng|deep|x)?(/(\\.\\.|%2[eEfF]|%00|%[0-9a-fA-F]{2}|[a-z;+~\"|]{0,3}|sub|er|\\.nearshare){1,3}){0,4}/{0,2}(\\?[a-z]{0,3})?",
        to in "(http://files)?/eng(/(%[0-9a-fA-F]{2}|[a-z.]{0,3})){0,3}/?",
    ) {
        holds_for(&method, &path, &to)?;
    }

    #[test]
    fn no_bytes_make_it_panic(method in "\\PC{0,8}", uri in "\\PC{0,80}", to in "\\PC{0,40}") {
        holds_for(&method, &uri, &to)?;
    }

    #[test]
    fn a_stream_is_read_alike_however_it_is_cut(
        pieces in proptest::collection::vec(
            "GET|PUT|/a|HTTP/1\\.[012]| |\r\n|\r|\n|host: h|content-length: [0-9]{1,2}|\
             transfer-encoding: (chunked|gzip)|[0-9a-f]{1,2}(;x)?|x: y|:|abc|\
             (GET|PUT) /a HTTP/1\\.1\r\nhost: h\r\n|\r\n\r\n|[a-z]{300}|\\PC",
            0..16,
        ),
        cut in 1usize..40,
    ) {
        let stream = pieces.concat();
        judge::stream(stream.as_bytes(), cut).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn good_streams_pass_whole_and_are_counted(
        bodies in proptest::collection::vec(("[a-z\r\n]{0,40}", any::<bool>()), 1..6),
        cut in 1usize..80,
    ) {
        let mut stream = String::new();
        for (body, chunked) in &bodies {
            stream += "PUT /a HTTP/1.1\r\nhost: h\r\n";
            stream += &match (chunked, body.is_empty()) {
                (false, _) => format!("content-length: {}\r\n\r\n{body}", body.len()),
                (true, true) => "transfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
                (true, false) => {
                    let size = body.len();
                    format!("transfer-encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\nx: y\r\n\r\n")
                }
            };
        }
        let mut framing = framing::Framing::new(framing::HeadLimits { fields: 8, bytes: 256 });
        let (mut passed, mut heads, mut seen) = (0, 0, 0);
        while seen < stream.len() {
            seen = (seen + cut).min(stream.len());
            let (more, fault) = framing.pass(&stream.as_bytes()[passed..seen], &mut heads);
            prop_assert_eq!(fault, None);
            passed += more;
        }
        prop_assert_eq!((passed, heads), (stream.len(), bodies.len() as u64));
        prop_assert!(!framing.in_body());
    }

    #[test]
    fn fields_that_are_not_ours_are_kept_in_their_order(
        fields in proptest::collection::vec(
            (
                "[a-d]|x-[a-c]|te|connection|upgrade|cookie|if-match|trailer|keep-alive",
                "([a-d]|x-[a-c]|close|cookie|trailers|if-match|, |\"){0,5}",
            ),
            0..12,
        ),
    ) {
        let fields: Vec<_> = fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        judge::fields(&fields).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn tags_are_read_as_they_are_written(
        fields in proptest::collection::vec(
            proptest::collection::vec(
                "\"|W/|w/|, ?|\\*|-|0+|3|4|-gzip|000102030405060708090a0b0c0d0e0f|[a-f]{1,3}|\
                 \"000102030405060708090a0b0c0d0e0f-3(-gzip)?\"|\"5f5e100-ff\"|\"ff-5af3107a4fa0\"|\\PC",
                0..8,
            ),
            3,
        ),
        proven: bool,
    ) {
        let id = crate::id::ObjectId::from_bytes(std::array::from_fn(|n| n as u8));
        let tag = etag::Tag { id, version: crate::id::Version(3) };
        let mtime = crate::object::Timespec { sec: 100_000_000, nsec: 4_000_000 };
        let stamp = crate::object::Stamp { size: 255, mtime, ctime: mtime };
        let file = condition::Current { stamp, tag: proven.then_some(tag) };
        let fields: Vec<String> = fields.iter().map(|parts| parts.concat()).collect();
        let fields = std::array::from_fn(|n| fields[n].as_bytes());
        judge::tags(fields, &file).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn a_multistatus_is_read_alike_however_it_is_cut(
        pieces in proptest::collection::vec(
            "<D:multistatus xmlns:D=\"DAV:\">|<D:response>|<D:href>/eng/f</D:href>|<D:href>http://h/eng/\\.nearshare/</D:href>|\
             </D:response>|</D:multistatus>|<D:getetag>\"x\"</D:getetag>|&amp;|<!--|-->|<|>|<!\\[CDATA\\[|\\]\\]>|x",
            0..16,
        ),
        cut in 1usize..40,
    ) {
        let moved = Move::new(&[crate::id::Name::new(b"eng").unwrap()], "/e");
        judge::multistatus(pieces.concat().as_bytes(), cut, Some(&moved)).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn any_names_survive_the_way_through_a_url(
        names in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..5),
        slash: bool,
    ) {
        let Ok(names) = names.iter().map(|bytes| crate::id::Name::new(bytes)).collect::<Result<Vec<_>, _>>()
        else { return Ok(()) };
        let path = RelPath::new(names.clone()).unwrap();
        let back = UrlPath::decode(&encode("", &path, slash)).unwrap();
        prop_assert_eq!(back.names, names);
        prop_assert_eq!(back.slash, slash || path.is_root());
    }
}
