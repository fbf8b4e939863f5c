//! At the site with the primary copy.

use super::*;

#[tokio::test]
async fn a_change_is_marked_first_and_answered_last() {
    let log = Log::default();
    let relay = primary(&log, ok).await;
    let put = request("PUT", "/eng/a/f", Body::text("data"));
    assert_eq!(relay.serve(client(), put).await.status(), 200);
    assert_eq!(log.take(), ["begin /a/f:Entry", "server PUT /eng/a/f body=4", "answered Done"]);

    let mut moved = request("MOVE", "//eng/a//%66?x=%41", Body::Empty);
    moved.headers_mut().insert("destination", "http://files/%65ng/b%2cc/".parse().unwrap());
    assert_eq!(relay.serve(client(), moved).await.status(), 200);
    assert_eq!(
        log.take(),
        [
            "begin /a/f:Entry /b,c:Entry",
            "server MOVE /eng/a/f?x=%41 destination=http://files/eng/b,c/",
            "answered Done"
        ]
    );
    ask(&relay, "FROB", "/eng/a").await;
    assert_eq!(log.take(), ["begin /a:Below", "server FROB /eng/a", "answered Done"]);
}

#[tokio::test(start_paused = true)]
async fn the_answer_decides_what_is_known_of_a_change() {
    let log = Log::default();
    let relay = primary(&log, |line| async move {
        match line.rsplit('/').next().unwrap().parse() {
            Ok(code) => status(code),
            Err(_) => std::future::pending().await,
        }
    })
    .await;
    for (code, want) in [
        (201, "answered Done"),
        (204, "answered Done"),
        (207, "answered Done"),
        (301, "refused"),
        (403, "refused"),
        (409, "refused"),
        (500, "answered Perhaps"),
        (507, "answered Perhaps"),
    ] {
        let (status, _) = ask(&relay, "DELETE", &format!("/eng/{code}")).await;
        assert_eq!(status, code);
        assert_eq!(log.take().last().unwrap(), want, "{code}");
    }
    let (status, said) = ask(&relay, "DELETE", "/eng/never").await;
    assert_eq!(status, 504);
    assert!(said.contains("may have been made or not"), "{said}");
    assert_eq!(log.take().last().unwrap(), "unknown");
}

#[tokio::test]
async fn a_server_that_was_never_reached_has_done_nothing() {
    let log = Log::default();
    let relay = HttpRelay::new(site("hq", "/eng", dead().await, home(&log), &log), Arc::new(Still));
    let (status, said) = ask(&relay, "DELETE", "/eng/f").await;
    assert_eq!(status, 502);
    assert!(said.contains("nothing was changed"), "{said}");
    assert_eq!(log.take(), ["begin /f:Entry", "unsent"]);
    assert_eq!(ask(&relay, "GET", "/eng/f").await.0, 502);
    assert_eq!(ask(&relay, "GET", "/elsewhere").await.0, 502);
}

#[tokio::test]
async fn a_server_that_never_answers_the_connect_has_done_nothing() {
    let log = Log::default();
    let deaf = crate::server::tests::Deaf::new();
    let target = Target::Tcp { host: "127.0.0.1".into(), port: deaf.port };
    let limits = Limits { connect: std::time::Duration::from_millis(200), ..Limits::default() };
    let upstream = Upstream::new(target, limits, Arc::new(Still));
    let relay = HttpRelay::new(site("hq", "/eng", upstream, home(&log), &log), Arc::new(Still));
    // The kernel gives up after two minutes.
    let within = std::time::Duration::from_secs(30);
    let ask = async |method, path| {
        tokio::time::timeout(within, ask(&relay, method, path)).await.expect("it is answered in time")
    };
    let (status, said) = ask("DELETE", "/eng/f").await;
    assert_eq!(status, 504);
    assert!(said.contains("silent for 200ms; nothing was changed"), "{said}");
    assert_eq!(log.take(), ["begin /f:Entry", "unsent"]);
    assert_eq!(ask("GET", "/eng/f").await.0, 504);
    assert_eq!(ask("GET", "/elsewhere").await.0, 504);
    // For another site, too.
    let (from, share) = (lyon(Class::Bulk), "eng".parse().unwrap());
    let put = relay.serve_peer(&from, &share, forwarded_put());
    let answer = tokio::time::timeout(within, put).await.expect("it is answered in time");
    assert_eq!(answer.status(), 504);
    assert_eq!(log.take().last().unwrap(), "unsent");
}

#[tokio::test]
async fn what_cannot_be_marked_is_not_sent() {
    let cases: [(fn() -> HomeError, u16); 6] = [
        (|| HomeError::Outside { path: RelPath::ROOT }, 403),
        (|| HomeError::NotTheShare("unmounted".into()), 503),
        (|| HomeError::Full("x".into()), 507),
        (|| HomeError::Disk("x".into()), 503),
        (|| HomeError::Catalog("x".into()), 503),
        (|| HomeError::NotDurable("x".into()), 503),
    ];
    for (error, want) in cases {
        let log = Log::default();
        let part = Part::Local { home: Arc::new(FakeHome(log.clone(), Some(error))) };
        let upstream = origin(log.clone(), ok).await;
        let relay = HttpRelay::new(site("hq", "/eng", upstream, part, &log), Arc::new(Still));
        assert_eq!(ask(&relay, "PUT", "/eng/f").await.0, want);
        assert_eq!(log.take(), ["begin /f:Entry"]);
    }
}

/// What the server shows has begun by then: it is asked first (R26).
#[tokio::test]
async fn what_may_be_lost_again_is_not_shown() {
    let log = Log::default();
    let error: fn() -> HomeError = || HomeError::NotDurable("x".into());
    let part = Part::Local { home: Arc::new(FakeHome(log.clone(), Some(error))) };
    let upstream = origin(log.clone(), ok).await;
    let relay = HttpRelay::new(site("hq", "/eng", upstream, part, &log), Arc::new(Still));
    assert_eq!(ask(&relay, "GET", "/eng/f").await.0, 503);
    assert_eq!(log.take(), ["server GET /eng/f", "visible /f"]);
}

/// The client goes away while the server is still at it: the change is seen through.
#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_open() {
    let log = Log::default();
    let (go, wait) = tokio::sync::watch::channel(false);
    let relay = primary(&log, move |_| {
        let mut wait = wait.clone();
        async move {
            wait.wait_for(|go| *go).await.unwrap();
            status(204)
        }
    })
    .await;
    let relay = Arc::new(relay);
    let serving = tokio::spawn({
        let relay = relay.clone();
        async move { relay.serve(client(), request("DELETE", "/eng/f", Body::Empty)).await.status() }
    });
    log.until("server DELETE /eng/f").await;
    serving.abort();
    assert!(serving.await.unwrap_err().is_cancelled());
    go.send(true).unwrap();
    log.until("answered Done").await;
}

/// It goes away in the middle of its body: the server must not take the half for the whole.
#[tokio::test]
async fn half_a_put_is_in_doubt_and_breaks_off() {
    let log = Log::default();
    let relay = primary(&log, ok).await;
    let pieces = futures_util::stream::iter([
        Ok(http_body::Frame::data(bytes::Bytes::from_static(b"half"))),
        Err(crate::body::BoxError::from("gone")),
    ]);
    let body = Body::boxed(http_body_util::StreamBody::new(pieces));
    let response = relay.serve(client(), request("PUT", "/eng/f", body)).await;
    assert_eq!(response.status(), 400);
    log.until("broke off").await;
    let happened = log.take();
    assert_eq!(happened[0], "begin /f:Entry");
    assert!(!happened.iter().any(|entry| entry.contains("body=")), "{happened:?}");
}

#[tokio::test]
async fn forwarded_requests_are_checked_again() {
    let log = Log::default();
    let relay = primary(&log, ok).await;
    let caller = lyon(Class::Control);
    let eng: ShareId = "eng".parse().unwrap();
    let send = async |method: &str, path: &str, fields: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(path).body(Body::Empty).unwrap();
        request.headers_mut().insert("nearshare-client", "10.9.9.9:1".parse().unwrap());
        for (name, value) in fields {
            request
                .headers_mut()
                .insert(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        let response = relay.serve_peer(&caller, &eng, request).await;
        let ahead = response.headers().get("nearshare-ahead").map(|a| a.to_str().unwrap().to_owned());
        (response.status().as_u16(), ahead)
    };
    let done = |code| (code, Some("0708".to_owned()));
    assert_eq!(send("PUT", "/v1/share/eng/http/a%20b", &[("nearshare-query", "q=1")]).await, done(200));
    assert_eq!(log.take(), ["begin /a b:Entry from lyon", "server PUT /eng/a%20b?q=1", "answered Done"]);
    assert_eq!(send("GET", "/v1/share/eng/http/d/", &[("nearshare-host", "lyon")]).await, (200, None));
    assert_eq!(log.take(), ["server GET /eng/d/"]);
    let to = [("nearshare-destination", "/g")];
    assert_eq!(send("MOVE", "/v1/share/eng/http/f", &to).await, done(200));
    // The Host that it is told for want of another.
    let host = relay.site().upstream.target().host();
    let moved = format!("server MOVE /eng/f destination=http://{host}/eng/g");
    let begin = "begin /f:Entry /g:Entry from lyon";
    assert_eq!(log.take(), [begin, &*moved, "answered Done"]);
    for (method, path, fields, want) in [
        ("PUT", "/v1/share/eng/http/../x", vec![], 400),
        ("PUT", "/v1/share/eng/http/.nearshare/x", vec![], 403),
        ("GET", "/v1/share/eng/http/.nearshare", vec![], 404),
        ("GET", "/v1/share/eng/http/a%2Fb", vec![], 400),
        ("MOVE", "/v1/share/eng/http/f", vec![], 400),
        ("MOVE", "/v1/share/eng/http/f", vec![("nearshare-destination", "/.nearshare")], 403),
        ("MOVE", "/v1/share/eng/http/f", vec![("nearshare-destination", "/%2e%2e/x")], 400),
        ("DELETE", "/v1/share/eng/http", vec![], 403),
        ("PUT", "/v1/share/eng/http/out", vec![], 403),
        ("GET", "/v1/share/eng/other", vec![], 400),
        ("GET", "/v1/share/eng/http/f", vec![("nearshare-client", "nobody")], 400),
    ] {
        assert_eq!(send(method, path, &fields).await, (want, None), "{method} {path}");
        assert_eq!(log.take(), Vec::<String>::new(), "{method} {path}");
    }
    let other: ShareId = "other".parse().unwrap();
    let request = request("GET", "/v1/share/other/http/f", Body::Empty);
    assert_eq!(relay.serve_peer(&caller, &other, request).await.status(), 421);
}

#[tokio::test]
async fn a_site_without_a_part_in_the_share_has_nothing_of_it_until_a_map_gives_it_one() {
    let log = Log::default();
    let relay = primary(&log, ok).await;
    let eng: ShareId = "eng".parse().unwrap();
    let osaka = Caller { site: "osaka".parse().unwrap(), ..lyon(Class::Control) };
    let send = async |method: &str| {
        let mut request = request(method, "/v1/share/eng/http/f", Body::Empty);
        request.headers_mut().insert("nearshare-client", "10.9.9.9:1".parse().unwrap());
        text(relay.serve_peer(&osaka, &eng, request).await).await
    };
    for method in ["GET", "HEAD", "PROPFIND", "PUT", "DELETE", "FROB"] {
        let (status, said) = send(method).await;
        assert_eq!(status, 403, "{method}");
        assert!(said.contains("gives osaka no part in the share eng"), "{said}");
    }
    assert_eq!(log.take(), Vec::<String>::new());

    let mut wider = site("hq", "/eng", origin(log.clone(), ok).await, home(&log), &log);
    wider.slots[0].sites.insert("osaka".parse().unwrap());
    relay.reload(wider);
    assert_eq!((send("GET").await.0, send("PUT").await.0), (200, 200));
    relay.reload(site("hq", "/eng", origin(log.clone(), ok).await, home(&log), &log));
    assert_eq!(send("GET").await.0, 403);
}

/// Lets a change begin for each permit.
pub(super) struct Waiting(pub Log, pub Arc<tokio::sync::Semaphore>);

impl Home for Waiting {
    fn begin<'a>(
        &'a self,
        _: &'a Change,
        _: Option<&'a Caller>,
    ) -> BoxFuture<'a, Result<Box<dyn HomeTicket>, HomeError>> {
        Box::pin(async move {
            self.0.add("waits");
            self.1.acquire().await.unwrap().forget();
            Ok(Box::new(FakeTicket(Some(self.0.clone()))) as Box<dyn HomeTicket>)
        })
    }
    fn stay(&self) -> BoxFuture<'_, Result<Box<dyn Send>, HomeError>> {
        Box::pin(async {
            self.1.acquire().await.unwrap().forget();
            Ok(Box::new(()) as Box<dyn Send>)
        })
    }
    fn is_pledged(&self) -> bool {
        false
    }
    fn visible<'a>(&'a self, _: &'a Read) -> BoxFuture<'a, Result<(), HomeError>> {
        Box::pin(async { Ok(()) })
    }
}

/// Changes go on when who asked for them has gone; however often somebody does that, they have a limit.
#[tokio::test]
async fn changes_under_way_have_a_limit() {
    let log = Log::default();
    let may_begin = Arc::new(tokio::sync::Semaphore::new(0));
    let upstream = origin(log.clone(), ok).await;
    let part = Part::Local { home: Arc::new(Waiting(log.clone(), may_begin.clone())) };
    let relay = HttpRelay::new(site("hq", "/eng", upstream, part, &log), Arc::new(Still));
    let delete = |host: usize| {
        let client = ([10, 1, 2, host as u8], 1).into();
        relay.serve(client, request("DELETE", "/eng/f", Body::Empty))
    };
    let clients = cut::CHANGES_MAX / fair::CLIENT_MAX;
    for number in 0..cut::CHANGES_MAX {
        let mut asked = Box::pin(delete(number / fair::CLIENT_MAX));
        // It goes away.
        assert!(futures_util::poll!(&mut asked).is_pending());
    }
    let response = delete(clients).await;
    assert_eq!(
        (response.status().as_u16(), response.headers()["retry-after"].as_bytes()),
        (503, &b"5"[..])
    );
    // Also for another site, which hears that nothing was done.
    let response = relay.serve_peer(&lyon(Class::Bulk), &"eng".parse().unwrap(), forwarded_put()).await;
    assert_eq!(response.status(), 503);
    assert!(!response.headers().contains_key("nearshare-ahead"));
    // Reads are not concerned.
    let get = |host| relay.serve(([10, 1, 2, host], 1).into(), request("GET", "/eng/f", Body::Empty));
    assert_eq!(get(99).await.status(), 200);
    may_begin.add_permits(1);
    log.until("answered Done").await;
    may_begin.add_permits(cut::CHANGES_MAX);
    loop {
        match delete(clients).await.status().as_u16() {
            200 => break,
            status => assert_eq!(status, 503),
        }
        tokio::task::yield_now().await;
    }
}

fn forwarded_put() -> Request<Body> {
    let mut put = request("PUT", "/v1/share/eng/http/f", Body::Empty);
    put.headers_mut().insert("nearshare-client", "10.1.2.3:5".parse().unwrap());
    put
}

/// Neither a client nor another site gets all that there is.
#[tokio::test]
async fn who_asks_leaves_room_for_others() {
    let log = Log::default();
    let may_begin = Arc::new(tokio::sync::Semaphore::new(0));
    let upstream = origin(log.clone(), ok).await;
    let part = Part::Local { home: Arc::new(Waiting(log.clone(), may_begin.clone())) };
    let mut here = site("hq", "/eng", upstream, part, &log);
    here.slots[0].sites.insert("oslo".parse().unwrap());
    let relay = HttpRelay::new(here, Arc::new(Still));
    let put = |host| relay.serve(([10, 1, 2, host], 1).into(), request("PUT", "/eng/f", Body::Empty));
    for _ in 0..fair::CLIENT_MAX {
        let mut asked = Box::pin(put(3));
        // It goes away, and its change goes on.
        assert!(futures_util::poll!(&mut asked).is_pending());
    }
    let limit = std::time::Duration::from_secs(60);
    let refused = tokio::time::timeout(limit, put(3)).await.unwrap();
    let (status, said) = text(refused).await;
    assert!(status == 503 && said.contains("256 requests of client 10.1.2.3 are under way"), "{said}");
    // Outside of shares as well.
    let get = |host| relay.serve(([10, 1, 2, host], 1).into(), request("GET", "/other", Body::Empty));
    assert_eq!((get(3).await.status().as_u16(), get(4).await.status().as_u16()), (503, 200));
    let share: ShareId = "eng".parse().unwrap();
    let (lyon, mut oslo) = (lyon(Class::Bulk), lyon(Class::Bulk));
    oslo.site = "oslo".parse().unwrap();
    for _ in 0..fair::SITE_MAX {
        let mut asked = Box::pin(relay.serve_peer(&lyon, &share, forwarded_put()));
        assert!(futures_util::poll!(&mut asked).is_pending());
    }
    let refused = relay.serve_peer(&lyon, &share, forwarded_put()).await;
    assert!(refused.status() == 503 && !refused.headers().contains_key("nearshare-ahead"));
    assert!(
        futures_util::poll!(&mut Box::pin(relay.serve_peer(&oslo, &share, forwarded_put())))
            .is_pending()
    );
    // What has ended counts no longer.
    may_begin.add_permits(cut::CHANGES_MAX * 64);
    let freed = tokio::time::timeout(limit, async {
        while put(3).await.status() != 200 {
            tokio::task::yield_now().await;
        }
        while relay.serve_peer(&lyon, &share, forwarded_put()).await.status() != 200 {
            tokio::task::yield_now().await;
        }
    });
    freed.await.unwrap();
}

/// An answer counts until the client has taken it.
#[tokio::test]
async fn answers_that_nobody_takes_are_under_way() {
    let log = Log::default();
    let relay = primary(&log, ok).await;
    let get = |host| relay.serve(([10, 1, 2, host], 1).into(), request("GET", "/eng/f", Body::Empty));
    let mut held = Vec::new();
    for _ in 0..fair::CLIENT_MAX {
        held.push(get(3).await);
    }
    assert!(held.iter().all(|answer| answer.status() == 200));
    log.take();
    assert_eq!(get(3).await.status(), 503);
    assert_eq!(log.take(), Vec::<String>::new());
    assert_eq!(text(get(4).await).await, (200, "hello".into()));
    held.pop();
    assert_eq!(text(get(3).await).await, (200, "hello".into()));
    assert_eq!(text(held.pop().unwrap()).await, (200, "hello".into()));
    held.push(get(3).await);
    held.push(get(3).await);
    assert_eq!(get(3).await.status(), 503);
}
