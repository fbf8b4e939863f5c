//! At a site with a copy, and at one without.

use super::*;
use crate::wire::http::Move;

/// Lyon has the share under `/e`, HQ under `/srv/eng`.
pub struct Two {
    pub lyon: Arc<HttpRelay>,
    near: Arc<FakeNear>,
    pub wire: Arc<FakeWire>,
    /// What happened anywhere, and HQ's disk.
    pub log: Log,
    /// Lyon's disk.
    pub shown: Arc<Mutex<Shown>>,
}

/// What a server says of the locks and the tag of a file.
pub const LISTED: &str = "<D:multistatus xmlns:D='DAV:'><D:response><D:href>/e/f</D:href><D:prop>\
    <D:lockdiscovery><D:activelock/></D:lockdiscovery><D:supportedlock/><D:getetag>\"5f-1\"</D:getetag></D:prop>\
    </D:response></D:multistatus>";

pub async fn two<F, Fut>(copy: bool, answer: F) -> Two
where
    F: Fn(String) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let log = Log::default();
    let hq = site("hq", "/srv/eng", origin(log.clone(), answer).await, home(&log), &log);
    let near = Arc::new(FakeNear(
        log.clone(),
        Mutex::new(Standing::Current),
        Mutex::new(Certainty::Relaxed),
        Mutex::default(),
    ));
    let wire = Arc::new(FakeWire {
        log: log.clone(),
        up: Mutex::new(true),
        returns: Mutex::new(true),
        session: AtomicU64::new(1),
        since: AtomicU64::new(1),
        to: Arc::new(HttpRelay::new(hq, Arc::new(Still))),
        trouble: Mutex::default(),
    });
    let from = ShareUrl::new("eng".parse().unwrap(), "/srv/eng").unwrap();
    let moved = Move::new(from.prefix(), "/e");
    let away = Away { site: "hq".parse().unwrap(), wire: wire.clone(), moved, left: Arc::default() };
    let part = match copy {
        true => Part::Broadcast { near: near.clone(), away },
        false => Part::Remote { away },
    };
    let own = origin(log.clone(), |line: String| async move {
        if line.starts_with("PROPFIND") {
            let mut response = status(207);
            *response.body_mut() = Body::text(LISTED);
            return response;
        }
        let mut response = Response::new(Body::text("near"));
        let tag = if line.contains("ours") { OURS } else { "\"5f-1\"" };
        response.headers_mut().insert("etag", tag.parse().unwrap());
        response
    })
    .await;
    let disk = Log(log.0.clone(), Arc::default());
    let lyon = HttpRelay::new(site("lyon", "/e", own, part, &disk), Arc::new(Still));
    Two { lyon: Arc::new(lyon), near, wire, log, shown: disk.1 }
}

const OURS: &str = "\"0123456789abcdef0123456789abcdef-3\"";

#[tokio::test]
async fn reads_are_near_while_the_copy_is_current() {
    let two = two(true, ok).await;
    assert_eq!(ask(&two.lyon, "GET", "/e/f").await, (200, "near".into()));
    assert_eq!(two.log.take(), ["server GET /e/f"]);
    let tag = async |uri| {
        let response = two.lyon.serve(client(), request("GET", uri, Body::Empty)).await;
        response.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned())
    };
    assert_eq!(tag("/e/f").await, None);
    assert_eq!(tag("/e/ours").await.as_deref(), Some(OURS));
    two.log.take();
    for standing in [Standing::Ahead, Standing::Unconfirmed, Standing::Barrier] {
        *two.near.1.lock().unwrap() = standing;
        assert_eq!(ask(&two.lyon, "GET", "/e/d/?x=1").await, (200, "hello".into()), "{standing:?}");
        assert_eq!(
            two.log.take(),
            ["link Bulk GET /v1/share/eng/http/d/", "server GET /srv/eng/d/?x=1"]
        );
    }
    *two.wire.up.lock().unwrap() = false;
    for standing in [Standing::Ahead, Standing::Unconfirmed, Standing::Barrier] {
        *two.near.1.lock().unwrap() = standing;
        let response = two.lyon.serve(client(), request("GET", "/e/f", Body::Empty)).await;
        assert_eq!(response.headers()["retry-after"], "5");
        let (status, said) = text(response).await;
        assert_eq!(status, 503);
        assert!(said.contains("site hq") && said.contains("try again"), "{said}");
    }
    *two.near.1.lock().unwrap() = Standing::Current;
    assert_eq!(ask(&two.lyon, "GET", "/e/f").await.0, 200);
}

/// R13: who reads at a site that is cut off can tell.
#[tokio::test]
async fn what_a_copy_answers_while_it_is_cut_off_is_marked() {
    let two = two(true, ok).await;
    let marked = async || {
        let response = two.lyon.serve(client(), request("GET", "/e/f", Body::Empty)).await;
        response.headers().get("cache-status").map(|field| field.to_str().unwrap().to_owned())
    };
    *two.near.2.lock().unwrap() = Certainty::CutOffServe;
    assert_eq!(marked().await, None, "forwarded: the link is up again");
    *two.wire.up.lock().unwrap() = false;
    assert_eq!(marked().await.as_deref(), Some("nearshare;hit;detail=\"cut off\""));
    *two.near.1.lock().unwrap() = Standing::Ahead;
    assert_eq!(marked().await, None, "refused");
    *two.near.1.lock().unwrap() = Standing::Current;
    *two.near.2.lock().unwrap() = Certainty::Sure;
    assert_eq!(marked().await, None);
}

#[tokio::test]
async fn conditions_are_judged_at_home_or_left_out() {
    let two = two(true, ok).await;
    let get = |name: &'static str| {
        let mut get = request("GET", "/e/f", Body::Empty);
        get.headers_mut().insert(name, "\"x\"".parse().unwrap());
        get
    };
    // A tag that is nobody's here matches nothing.
    two.lyon.serve(client(), get("if-none-match")).await;
    assert_eq!(two.log.take(), ["server GET /e/f"]);
    two.lyon.serve(client(), get("if-match")).await;
    assert_eq!(
        two.log.take(),
        ["link Bulk GET /v1/share/eng/http/f", "server GET /srv/eng/f if-match=\"x\""]
    );
    *two.wire.up.lock().unwrap() = false;
    let response = two.lyon.serve(client(), get("if-none-match")).await;
    assert_eq!(text(response).await, (200, "near".into()));
    assert_eq!(two.log.take(), ["server GET /e/f"]);
    assert_eq!(two.lyon.serve(client(), get("if-match")).await.status(), 503);
}

#[tokio::test]
async fn a_change_goes_home_and_is_ahead_here() {
    let two = two(true, ok).await;
    let mut put = request("PUT", "/e/a%20b?q", Body::text("data"));
    for (name, value) in [("x-end", "1"), ("nearshare-x", "2"), ("connection", "close")] {
        put.headers_mut().insert(name, value.parse().unwrap());
    }
    let response = two.lyon.serve(client(), put).await;
    assert_eq!(response.headers()["x-host"], "files");
    assert!(response.headers().keys().all(|name| !name.as_str().starts_with("nearshare")));
    assert_eq!(text(response).await, (200, "hello".into()));
    assert_eq!(
        two.log.take(),
        [
            "note /a b",
            "link Control PUT /v1/share/eng/http/a%20b",
            "begin /a b:Entry from lyon",
            "server PUT /srv/eng/a%20b?q x-end=1 body=4",
            "answered Done",
            "ahead until [7, 8]",
        ]
    );
    let mut copy = request("COPY", "/e/f", Body::Empty);
    copy.headers_mut().insert("destination", "/e/g/".parse().unwrap());
    two.lyon.serve(client(), copy).await;
    assert_eq!(two.log.take()[3], "server COPY /srv/eng/f destination=http://files/srv/eng/g/");
    // What may be big never takes the control connection.
    two.lyon.serve(client(), request("PUT", "/e/f", Body::text("x".repeat(9000)))).await;
    assert_eq!(two.log.take()[1], "link Bulk PUT /v1/share/eng/http/f");
}

/// R34: what was done there may not be in the history that goes on.
#[tokio::test]
async fn a_change_that_is_answered_by_who_no_longer_leads_is_in_doubt() {
    let two = two(true, ok).await;
    *two.near.3.lock().unwrap() = true;
    assert_eq!(ask(&two.lyon, "PUT", "/e/f").await.0, 504);
    assert_eq!(two.log.take().last().map(String::as_str), Some("ahead, unknown"));
}

/// R34: nor does a site without a copy pass that on, if it has heard of another primary meanwhile.
#[tokio::test]
async fn a_site_without_a_copy_is_in_doubt_of_whom_it_no_longer_asks() {
    let late = |line: String| async move {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        ok(line).await
    };
    for (reloads, status) in [(&["hq"][..], 200), (&["osaka"], 504), (&["osaka", "hq"], 504)] {
        let two = two(false, late).await;
        let asked = tokio::spawn({
            let lyon = two.lyon.clone();
            async move { ask(&lyon, "PUT", "/e/f").await.0 }
        });
        two.log.until("server PUT /srv/eng/f").await;
        for primary in reloads {
            let moved = Move::new(&[], "/e");
            let (wire, left) = (two.wire.clone(), Arc::default());
            let away = Away { site: primary.parse().unwrap(), wire, moved, left };
            two.lyon.reload(site("lyon", "/e", dead().await, Part::Remote { away }, &two.log));
        }
        assert_eq!(asked.await.unwrap(), status, "{reloads:?}");
    }
}

/// It may change anything.
#[tokio::test]
async fn a_method_that_nobody_knows_goes_home_as_a_change_of_all_below() {
    for copy in [true, false] {
        let two = two(copy, ok).await;
        assert_eq!(ask(&two.lyon, "FROB", "/e/d").await, (200, "hello".into()));
        let mut expected = vec![
            "link Control FROB /v1/share/eng/http/d",
            "begin /d:Below from lyon",
            "server FROB /srv/eng/d",
            "answered Done",
        ];
        if copy {
            expected.insert(0, "note /d");
            expected.push("ahead until [7, 8]");
        }
        assert_eq!(two.log.take(), expected);
        *two.wire.up.lock().unwrap() = false;
        assert_eq!(ask(&two.lyon, "FROB", "/e/d").await.0, 503);
        assert_eq!(two.log.take(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_failed_leaves_what_is_known() {
    let two = two(true, |line| async move {
        match line.contains("refuse") {
            true => status(403),
            false => std::future::pending().await,
        }
    })
    .await;
    let last = || two.log.take().pop().unwrap();
    // The server said no, and half of it may have been done.
    assert_eq!(ask(&two.lyon, "DELETE", "/e/refuse").await.0, 403);
    assert_eq!(last(), "ahead until [7, 8]");
    // It never reached the server.
    assert_eq!(ask(&two.lyon, "DELETE", "/e/gone").await.0, 503);
    assert_eq!(last(), "not ahead");
    // The server never answered.
    assert_eq!(ask(&two.lyon, "DELETE", "/e/never").await.0, 504);
    assert_eq!(last(), "ahead, unknown");
    let trouble = |error| two.wire.trouble.lock().unwrap().push_back(error);
    trouble(Trouble::NotSent);
    let (status, said) = ask(&two.lyon, "DELETE", "/e/f").await;
    assert_eq!((status, last().as_str()), (503, "not ahead"));
    assert!(said.contains("nothing was changed"), "{said}");
    // The primary's process is another one now.
    two.wire.since.store(100, Ordering::SeqCst);
    trouble(Trouble::Before);
    let (status, said) = ask(&two.lyon, "DELETE", "/e/f").await;
    assert_eq!((status, last().as_str()), (504, "ahead, unknown"));
    assert!(said.contains("may have been made or not"), "{said}");
    *two.wire.up.lock().unwrap() = false;
    let (status, said) = ask(&two.lyon, "DELETE", "/e/f").await;
    assert_eq!((status, two.log.take()), (503, vec![]));
    assert_eq!(
        said,
        "the site hq, which holds the primary copy of eng, cannot be reached; nothing was changed; \
         try again\n"
    );
}

#[tokio::test]
async fn a_lost_read_is_asked_once_more() {
    let two = two(false, ok).await;
    let lose = || two.wire.trouble.lock().unwrap().push_back(Trouble::Before);
    lose();
    assert_eq!(ask(&two.lyon, "GET", "/e/f").await.0, 200);
    lose();
    lose();
    assert_eq!(ask(&two.lyon, "GET", "/e/f").await.0, 503);
    let sends = two.log.take().iter().filter(|entry| entry.starts_with("link")).count();
    assert_eq!(sends, 4);
}

#[tokio::test]
async fn a_long_answer_moves_to_the_other_connection() {
    let two = two(false, |line| async move {
        let mut response = status(207);
        let entry = "<D:response><D:href>http://hq/srv/eng/x</D:href></D:response>";
        let count = if line.contains("big") { 2000 } else { 2 };
        let text = format!("<D:multistatus xmlns:D=\"DAV:\">{}</D:multistatus>", entry.repeat(count));
        *response.body_mut() = Body::text(text);
        response
    })
    .await;
    let find = async |uri: &str| {
        let mut find = request("PROPFIND", uri, Body::text("<propfind/>"));
        find.headers_mut().insert("depth", "1".parse().unwrap());
        text(two.lyon.serve(client(), find).await).await
    };
    let (status, said) = find("/e/small").await;
    assert_eq!(status, 207);
    assert_eq!(said.matches("<D:href>/e/x</D:href>").count(), 2, "{said}");
    assert_eq!(two.log.take().len(), 2);
    let (status, said) = find("/e/big").await;
    assert_eq!((status, said.matches("<D:href>/e/x</D:href>").count()), (207, 2000));
    let asked = "server PROPFIND /srv/eng/big depth=1 body=11";
    assert_eq!(
        two.log.take(),
        [
            "link Control PROPFIND /v1/share/eng/http/big",
            asked,
            "link Bulk PROPFIND /v1/share/eng/http/big",
            asked
        ]
    );
}

#[tokio::test]
async fn a_site_without_a_copy_asks_for_everything() {
    let two = two(false, ok).await;
    assert_eq!(ask(&two.lyon, "GET", "/e/f").await, (200, "hello".into()));
    assert_eq!(ask(&two.lyon, "PUT", "/e/f").await, (200, "hello".into()));
    assert_eq!(two.log.take()[2], "link Control PUT /v1/share/eng/http/f");
    *two.wire.up.lock().unwrap() = false;
    assert_eq!(ask(&two.lyon, "GET", "/e/f").await.0, 503);
    assert_eq!(ask(&two.lyon, "PUT", "/e/f").await.0, 503);
    // What is in no share goes on.
    assert_eq!(ask(&two.lyon, "GET", "/x").await, (200, "near".into()));
}

#[tokio::test]
async fn small_ranges_take_the_control_connection() {
    let two = two(false, ok).await;
    for (range, class) in [
        ("bytes=0-100", "Control"),
        ("bytes=0-65535", "Control"),
        ("bytes=0-65536", "Bulk"),
        ("bytes=-500", "Control"),
        ("bytes=5-", "Bulk"),
        ("bytes=9-5", "Bulk"),
        ("bytes=0-1,2-3", "Bulk"),
        ("lines=1-2", "Bulk"),
    ] {
        let mut get = request("GET", "/e/f", Body::Empty);
        get.headers_mut().insert("range", range.parse().unwrap());
        two.lyon.serve(client(), get).await;
        let want = format!("link {class} GET /v1/share/eng/http/f");
        assert_eq!(two.log.take()[0], want, "{range}");
    }
}

#[tokio::test]
async fn changes_under_way_to_the_primary_have_a_limit() {
    let two = two(true, ok).await;
    let running = two.lyon.site().running.clone();
    let mut taken: Vec<_> = (0..cut::CHANGES_MAX).map(|_| running.change().unwrap()).collect();
    let response = two.lyon.serve(client(), request("PUT", "/e/f", Body::Empty)).await;
    assert_eq!(
        (response.status().as_u16(), response.headers()["retry-after"].as_bytes()),
        (503, &b"5"[..])
    );
    // Nothing was noted, nothing sent.
    assert_eq!(two.log.take(), Vec::<String>::new());
    taken.pop();
    assert_eq!(ask(&two.lyon, "PUT", "/e/f").await.0, 200);
    assert_eq!(ask(&two.lyon, "PUT", "/e/f").await.0, 200);
}
