//! A server that goes by size and time, under a disk that changes while it answers.

use super::copy::two;
use super::*;
use crate::object::{Attrs, Kind, LocalHandle, Stamp, Timespec};

/// The file in its `version`th state.
pub fn found(version: u64) -> Found {
    let time = Timespec { sec: 100 + version as i64, nsec: 0 };
    Found {
        handle: LocalHandle::from_bytes(b"file"),
        kind: Kind::File,
        attrs: Attrs { mode: 0o644, uid: 0, gid: 0, mtime: time },
        size: version,
        rdev: 0,
        nlink: 1,
        stamp: Stamp { size: version, mtime: time, ctime: time },
    }
}

fn ours(version: u64) -> String {
    format!("\"{}-{version}\"", "11".repeat(16))
}
/// As nginx has it.
fn own(version: u64) -> String {
    format!("\"{:x}-{version:x}\"", 100 + version)
}

/// Answers as a server that has version 5, whatever the disk shows.
async fn five(line: String) -> Response<Body> {
    let known = line.contains("if-none-match=") && line.contains(&own(5));
    let mut response = match (known, line.contains(" range=")) {
        (true, _) => status(304),
        (_, true) => Response::builder().status(206).body(Body::text("5")).unwrap(),
        _ => Response::new(Body::text("five5")),
    };
    if line.contains("authorization=wrong") {
        response = status(401);
        response.headers_mut().insert("www-authenticate", "Basic".parse().unwrap());
    }
    let script = line.contains("script");
    let tag = if script { "\"made-up\"".to_owned() } else { own(5) };
    response.headers_mut().insert("etag", tag.parse().unwrap());
    response
}

async fn shown(log: &Log, versions: &[u64]) -> HttpRelay {
    log.1.lock().unwrap().versions = versions.iter().copied().collect();
    primary(log, five).await
}

fn with(method: &str, uri: &str, fields: &[(&'static str, &str)]) -> Request<Body> {
    let mut request = request(method, uri, Body::Empty);
    for (name, value) in fields {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

async fn get(relay: &HttpRelay, fields: &[(&'static str, &str)]) -> (u16, Option<String>) {
    let response = relay.serve(client(), with("GET", "/eng/file", fields)).await;
    let tag = response.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned());
    (response.status().as_u16(), tag)
}

#[tokio::test]
async fn an_answer_has_our_tag_only_if_the_file_held_still() {
    let log = Log::default();
    for (versions, tag) in [
        (&[5][..], Some(ours(5))),
        // It was replaced before the server was asked, or after.
        (&[4, 5], None),
        (&[5, 6], None),
    ] {
        let relay = shown(&log, versions).await;
        assert_eq!(get(&relay, &[]).await, (200, tag), "{versions:?}");
    }
    // It is not known yet which version that is: the server's own tag means nothing either.
    log.1.lock().unwrap().unread = true;
    let relay = shown(&log, &[5]).await;
    assert_eq!(get(&relay, &[]).await, (200, None));
    // What is not the file keeps its tag where the primary is.
    let relay = shown(&log, &[7]).await;
    assert_eq!(get(&relay, &[]).await, (200, Some(own(5))));
}

#[tokio::test]
async fn what_a_condition_says_is_asked_again_if_the_file_did_not_hold_still() {
    let log = Log::default();
    let (five, six) = (ours(5), ours(6));
    let kept = [("if-none-match", &*five)];
    let relay = shown(&log, &[5]).await;
    assert_eq!(get(&relay, &kept).await, (304, Some(five.clone())));
    assert!(log.take()[0].contains(&own(5)));
    // The server has said 304 of version 5, and 6 is there.
    let relay = shown(&log, &[5, 6]).await;
    assert_eq!(get(&relay, &kept).await, (200, Some(own(5))));
    let asked = log.take();
    assert_eq!((asked.len(), &*asked[1]), (2, "server GET /eng/file"));
    // A part that is to fit version 5.
    let part = [("range", "bytes=4-4"), ("if-range", &*five)];
    let relay = shown(&log, &[5]).await;
    assert_eq!(get(&relay, &part).await, (206, Some(five.clone())));
    assert_eq!(log.take(), ["server GET /eng/file range=bytes=4-4"]);
    let relay = shown(&log, &[5, 6]).await;
    assert_eq!(get(&relay, &part).await.0, 200);
    assert_eq!(log.take(), ["server GET /eng/file range=bytes=4-4", "server GET /eng/file"]);
    // If-Match holds, and then does not.
    let relay = shown(&log, &[5, 6]).await;
    get(&relay, &[("if-match", &five)]).await;
    assert_eq!(log.take(), ["server GET /eng/file", "server GET /eng/file if-match=\"none-of-these\""]);
    let relay = shown(&log, &[6]).await;
    get(&relay, &[("if-match", &six)]).await;
    // The server has something else than what is on the disk.
    assert!(log.take().len() == 3);
}

#[tokio::test]
async fn a_change_is_judged_under_its_locks() {
    let log = Log::default();
    let put = async |relay: &HttpRelay, fields: &[(&'static str, &str)]| {
        relay.serve(client(), with("PUT", "/eng/file", fields)).await
    };
    let relay = shown(&log, &[5]).await;
    let answer = put(&relay, &[("if-match", &ours(5))]).await;
    assert_eq!((answer.status().as_u16(), answer.headers().get("etag")), (200, None));
    assert_eq!(log.take(), ["begin /file:Entry", "server PUT /eng/file", "answered Done"]);
    for field in [("if-match", &*ours(4)), ("if-match", "\"x\""), ("if-none-match", "*")] {
        assert_eq!(put(&relay, &[field]).await.status(), 412, "{field:?}");
        assert_eq!(log.take(), ["begin /file:Entry", "server HEAD /eng/file", "refused"]);
        let refused = put(&relay, &[field, ("authorization", "wrong")]).await;
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["www-authenticate"]),
            (401, &"Basic".parse().unwrap())
        );
        log.take();
    }
    log.1.lock().unwrap().unread = true;
    assert_eq!(put(&relay, &[("if-match", &ours(5))]).await.status(), 200);
    assert_eq!(log.take()[..2], ["begin /file:Entry", "reconcile"]);
    // What a script does with tags is its own affair.
    relay.serve(client(), with("POST", "/eng/script", &[("if-match", "\"x\"")])).await;
    assert_eq!(log.take()[1], "server POST /eng/script if-match=\"x\"");
    // The server that was never asked has no say in what is not there.
    let relay = shown(&log, &[]).await;
    assert_eq!(put(&relay, &[("if-match", "*")]).await.status(), 412);
    log.take();
    assert_eq!(put(&relay, &[("if-none-match", "*")]).await.status(), 200);
    assert_eq!(log.take()[1], "server PUT /eng/file");
}

#[tokio::test]
async fn an_if_field_is_told_in_words_that_every_server_knows() {
    let log = Log::default();
    let (five, four) = (ours(5), ours(4));
    for (field, heard) in [
        (format!("(<urn:a> [{five}])"), "(<urn:a> Not <DAV:no-lock>)"),
        (format!("([{four}]) (Not [{five}])"), "(<DAV:no-lock>) (<DAV:no-lock>)"),
        (format!("([W/{five}] Not [{four}])"), "(Not <DAV:no-lock> Not <DAV:no-lock>)"),
        // Of a collection, or of nothing.
        (format!("</eng/d> ([{five}])"), "<http://files/eng/d> (<DAV:no-lock>)"),
        (
            format!("</eng/file> ([{five}] [\"x\"])"),
            "<http://files/eng/file> (Not <DAV:no-lock> [\"x\"])",
        ),
    ] {
        for method in ["PUT", "GET"] {
            let relay = shown(&log, &[5]).await;
            relay.serve(client(), with(method, "/eng/file", &[("if", &field)])).await;
            let asked = log.take();
            let asked = asked.iter().find(|line| line.starts_with("server")).unwrap();
            assert_eq!(*asked, format!("server {method} /eng/file if={heard}"), "{field}");
        }
    }
    // It is looked at first.
    log.1.lock().unwrap().unread = true;
    let relay = shown(&log, &[5]).await;
    relay.serve(client(), with("PUT", "/eng/file", &[("if", &format!("([{five}])"))])).await;
    let want = ["begin /file:Entry", "reconcile", "server PUT /eng/file if=(Not <DAV:no-lock>)"];
    assert_eq!(log.take()[..3], want);
}

/// A link is put in a file's place after the look before the server is asked.
#[tokio::test]
async fn what_a_server_reads_outside_of_the_share_is_not_given() {
    for (tag, status) in [
        (Some(own(5)), 200),
        (Some("\"made-up\"".to_owned()), 200),
        (None, 206),
        // It says that nothing is there, which is not so.
        (None, 404),
    ] {
        let server = move |_: String| {
            let mut answer = Response::builder().status(status);
            if let Some(tag) = &tag {
                answer = answer.header("etag", tag);
            }
            let answer = answer.body(Body::text("secret")).unwrap();
            async { answer }
        };
        let log = Log::default();
        log.1.lock().unwrap().versions = [5, LEAVES].into();
        let home = primary(&log, server).await;
        assert_eq!(home.serve(client(), with("GET", "/eng/file", &[])).await.status(), 403, "{status}");
    }
    // At a copy what a tag of something else names is nobody's affair, but what it shows is.
    let two = two(true, five).await;
    two.shown.lock().unwrap().versions = [5, LEAVES].into();
    assert_eq!(two.lyon.serve(client(), with("GET", "/e/file", &[])).await.status(), 403);
    assert_eq!(two.log.take(), ["server GET /e/file"]);
}

/// R21: which version the copy has is not known yet, and the primary can tell.
#[tokio::test]
async fn a_copy_leaves_conditions_to_the_primary_while_its_own_version_is_not_proven() {
    let two = two(true, five).await;
    two.log.1.lock().unwrap().versions = [5].into();
    two.shown.lock().unwrap().versions = [5].into();
    let (five, four) = (ours(5), ours(4));
    let ask = async |method: &str, uri: &str, fields: &[(&'static str, &str)]| {
        let status = two.lyon.serve(client(), with(method, uri, fields)).await.status().as_u16();
        (status, two.log.take())
    };
    // Nor is it at the primary's site which form its server's own tag has.
    let all_forms = format!(" if-none-match={five}, {}, \"5-6422c40\"", own(5));
    for unread in [true, false] {
        two.shown.lock().unwrap().unread = unread;
        for (fields, status, heard) in [
            (&[("if-none-match", &*five)][..], 304, &*all_forms),
            (&[("if-none-match", &*four)], 200, ""),
            (&[("if-match", &*five)], 200, ""),
            (&[("if-match", &*four)], 200, " if-match=\"none-of-these\""),
            (&[("range", "bytes=4-4"), ("if-range", &*five)], 206, " range=bytes=4-4"),
        ] {
            for method in ["GET", "HEAD"] {
                // A whole file may be large.
                let lane = if method == "GET" && fields[0].0 != "range" { "Bulk" } else { "Control" };
                let (answered, happened) = ask(method, "/e/file", fields).await;
                if unread {
                    let link = format!("link {lane} {method} /v1/share/eng/http/file");
                    let server = format!("server {method} /srv/eng/file{heard}");
                    assert_eq!((answered, happened), (status, vec![link, server]), "{fields:?}");
                } else {
                    assert!(
                        happened[0].starts_with(&format!("server {method} /e/file")),
                        "{happened:?}"
                    );
                    assert!(!happened.iter().any(|line| line.starts_with("link")), "{happened:?}");
                }
            }
        }
    }
    // What rests on no version of ours is answered near all the same, and so is what is no file.
    two.shown.lock().unwrap().unread = true;
    for (uri, fields) in [
        ("/e/file", &[][..]),
        ("/e/file", &[("if-none-match", "\"x\"")]),
        ("/e/other", &[("if-none-match", &*five)]),
    ] {
        let (answered, happened) = ask("GET", uri, fields).await;
        assert_eq!((answered, happened), (200, vec![format!("server GET {uri}")]), "{fields:?}");
    }
}

/// R22: the file is written in place, by somebody who did not come this way, while its server still reads it.
#[tokio::test]
async fn an_answer_whose_file_is_written_behind_the_proxy_does_not_end_well() {
    let log = Log::default();
    for (versions, whole) in [(&[5, 5, 5][..], true), (&[5, 5, 6], false)] {
        log.1.lock().unwrap().versions = versions.iter().copied().collect();
        let relay = primary(&log, |_| async {
            let answer = Response::builder().header("etag", own(5));
            answer.body(Body::Full(vec![7; 200 << 10].into())).unwrap()
        });
        let response = relay.await.serve(client(), with("GET", "/eng/file", &[])).await;
        assert_eq!(response.headers()["etag"], ours(5));
        let read = crate::body::collect(response.into_body(), 1 << 20).await;
        assert_eq!(read.is_ok(), whole, "{versions:?}: {read:?}");
    }
}

/// R22: what a server begins to send is of one version also if that is no longer there when its first bytes come.
#[tokio::test]
async fn an_answer_whose_file_is_written_before_its_first_bytes_come_does_not_end_well() {
    let log = Log::default();
    for (versions, tag, whole) in [
        // The server had read the file when it was written into.
        (&[5, 6][..], own(5), false),
        // It opened what was there by then.
        (&[4, 5], own(5), true),
        // It does not say.
        (&[5, 6], "\"made-up\"".to_owned(), false),
    ] {
        for length in [9, 200 << 10] {
            log.1.lock().unwrap().versions = versions.iter().copied().collect();
            let says = tag.clone();
            let relay = primary(&log, move |_| {
                let answer = Response::builder().header("etag", says.clone());
                let answer = answer.body(Body::Full(vec![7; length].into()));
                async { answer.unwrap() }
            });
            let response = relay.await.serve(client(), with("GET", "/eng/file", &[])).await;
            let read = crate::body::collect(response.into_body(), 1 << 20).await;
            assert_eq!(read.is_ok(), whole, "{versions:?} {tag} {length}: {read:?}");
        }
    }
}
