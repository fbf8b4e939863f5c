//! Locks that nearshare keeps, before a server that knows of none.

mod bounds;
mod moving;
mod over;
mod under_way;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::wire::http::lock::{Lock, OWNERS_MAX, SHARED_MAX};

/// Ann and Bob, as Basic has them.
const ANN: &str = "Basic YW5uOng=";
const BOB: &str = "Basic Ym9iOng=";

/// What is written down.
#[derive(Default)]
struct Rows {
    full: AtomicBool,
    /// Nothing is written that is only about what is over.
    keeps: AtomicBool,
    /// No lock is written before `may_write`.
    waits: AtomicBool,
    /// One is to be written.
    waiting: AtomicBool,
    may_write: tokio::sync::Notify,
    rows: Mutex<BTreeMap<String, Lock>>,
}

impl LockRows for Rows {
    fn save<'a>(
        &'a self,
        put: Option<&'a Lock>,
        gone: Vec<String>,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let keeps = put.is_none() && self.keeps.load(Ordering::SeqCst);
            if keeps || self.full.load(Ordering::SeqCst) {
                return Err("no room".into());
            }
            if put.is_some() && self.waits.load(Ordering::SeqCst) {
                self.waiting.store(true, Ordering::SeqCst);
                self.may_write.notified().await;
            }
            let mut rows = self.rows.lock().unwrap();
            gone.iter().for_each(|token| drop(rows.remove(token)));
            rows.extend(put.map(|lock| (lock.token.clone(), lock.clone())));
            Ok(())
        })
    }
}

impl Rows {
    fn left(&self) -> Vec<Lock> {
        self.rows.lock().unwrap().values().cloned().collect()
    }
}

async fn locking<F, Fut>(log: &Log, answer: F) -> HttpRelay
where
    F: Fn(String) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    keeping(log, vec![], answer).await.0
}

/// A primary whose locks nearshare keeps; some may be left from before.
async fn keeping<F, Fut>(log: &Log, left: Vec<Lock>, answer: F) -> (HttpRelay, Arc<Keeper>, Arc<Rows>)
where
    F: Fn(String) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    keeping_by(Arc::new(Still), log, left, answer).await
}

async fn keeping_by<F, Fut>(
    clock: Arc<dyn Clock>,
    log: &Log,
    left: Vec<Lock>,
    answer: F,
) -> (HttpRelay, Arc<Keeper>, Arc<Rows>)
where
    F: Fn(String) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Response<Body>> + Send + 'static,
{
    let upstream = origin(log.clone(), answer).await;
    let mut site = site("hq", "/eng", upstream, home(log), log);
    let rows = Arc::new(Rows::default());
    let share: ShareId = "eng".parse().unwrap();
    let keeper = Arc::new(Keeper::new(share, left, rows.clone(), clock));
    site.slots[0].locks = KeptBy::Here(keeper.clone());
    (HttpRelay::new(site, Arc::new(Still)), keeper, rows)
}

/// Nothing is at `fresh`; whoever changes something must say a name.
async fn server(line: String) -> Response<Body> {
    let reads = line.starts_with("PROPFIND") || line.starts_with("GET");
    match () {
        () if !reads && !line.contains("authorization") => {
            let mut response = status(401);
            response.headers_mut().insert("www-authenticate", "Basic".parse().unwrap());
            response
        }
        () if line.starts_with("PROPFIND /eng/fresh") => status(404),
        () if line.starts_with("PROPFIND") => status(207),
        () if line.starts_with("PUT /eng/fresh") => status(201),
        () if line.starts_with("UNLOCK") => status(409),
        () => status(204),
    }
}

fn info(scope: &str, owner: &str) -> String {
    format!(
        "<lockinfo xmlns='DAV:'><lockscope><{scope}/></lockscope><locktype><write/></locktype>{owner}</lockinfo>"
    )
}

async fn said(
    relay: &HttpRelay,
    method: &str,
    uri: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let mut asked = request(method, uri, Body::text(body.to_owned()));
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().unwrap();
        asked.headers_mut().insert(name, value.parse().unwrap());
    }
    text(relay.serve(client(), asked).await).await
}

/// The token of a lock that is taken.
async fn locked(relay: &HttpRelay, uri: &str, fields: &[(&str, &str)]) -> String {
    let (status, said) = said(relay, "LOCK", uri, fields, &info("exclusive", "")).await;
    assert!(status == 200 || status == 201, "{status} {said}");
    said.split(['<', '>']).find(|text| text.starts_with("urn:uuid:")).unwrap().to_owned()
}

#[tokio::test]
async fn a_token_is_of_use_to_who_made_the_lock() {
    let log = Log::default();
    let relay = locking(&log, server).await;
    let token = locked(&relay, "/eng/f", &[("authorization", ANN)]).await;
    let (held, ended) = (format!("(<{token}>)"), format!("<{token}>"));
    for (who, change, unlock) in [(Some(BOB), 403, 403), (None, 401, 401), (Some(ANN), 204, 204)] {
        log.take();
        let who = who.map(|who| ("authorization", who));
        let fields = |field| who.into_iter().chain([field]).collect::<Vec<_>>();
        let changed = said(&relay, "PUT", "/eng/f", &fields(("if", &held)), "x").await.0;
        let put = log.take().iter().any(|entry| entry.starts_with("server PUT"));
        assert_eq!((changed, put), (change, change == 204), "{who:?}");
        let refresh = said(&relay, "LOCK", "/eng/f", &fields(("if", &held)), "").await.0;
        assert_eq!(refresh, if change == 204 { 200 } else { change }, "{who:?}");
        let ended = said(&relay, "UNLOCK", "/eng/f", &fields(("lock-token", &ended)), "").await.0;
        assert_eq!(ended, unlock, "{who:?}");
    }
    // Who says no name may not keep others from what only those who do may change.
    assert_eq!(said(&relay, "LOCK", "/eng/f", &[], &info("exclusive", "")).await.0, 401);
    // Somebody may be there whom no name is known of.
    let token = locked(&relay, "/eng/f", &[("authorization", "Bearer x")]).await;
    let ended = [("lock-token", &*format!("<{token}>")), ("authorization", "Bearer y")];
    assert_eq!(said(&relay, "UNLOCK", "/eng/f", &ended, "").await.0, 204);
}

/// Digest proves who asks for one method only: he is asked about that one.
#[tokio::test]
async fn who_proves_himself_for_one_method_is_asked_about_that_one() {
    let log = Log::default();
    // It knows Digest: what is said for another method is wrong.
    let relay = locking(&log, |line| async move {
        let method = line.split(' ').next().unwrap().to_lowercase();
        let asks_who = matches!(method.as_str(), "lock" | "unlock");
        match asks_who && !line.contains(&format!("uri=of-{method}")) {
            true => status(401),
            false => server(line).await,
        }
    })
    .await;
    let digest = |name: &str, of: &str| format!("Digest username=\"{name}\", uri={of}");
    let said_by = async |method: &str, who: &str, field: (&str, &str), body: &str| {
        said(&relay, method, "/eng/f", &[("authorization", who), field], body).await.0
    };
    let deep = ("depth", "infinity");
    let exclusive = info("exclusive", "");
    assert_eq!(said_by("LOCK", &digest("zz", "x"), deep, &exclusive).await, 401);
    assert_eq!(said_by("LOCK", "Digest", deep, &exclusive).await, 401);
    let token = locked(&relay, "/eng/f", &[("authorization", &digest("ann", "of-lock"))]).await;
    let (held, ended) = (format!("(<{token}>)"), format!("<{token}>"));
    for (name, of, want) in [("ann", "x", 401), ("bob", "of-lock", 403), ("ann", "of-lock", 200)] {
        assert_eq!(said_by("LOCK", &digest(name, of), ("if", &held), "").await, want, "{name} {of}");
    }
    for (name, of, want) in [("ann", "x", 401), ("bob", "of-unlock", 403), ("ann", "of-unlock", 204)] {
        let unlocked = said_by("UNLOCK", &digest(name, of), ("lock-token", &ended), "").await;
        assert_eq!(unlocked, want, "{name} {of}");
    }
    // What is asked gives nobody a lock of the server's.
    let asked = log.take().into_iter().filter(|entry| entry.starts_with("server LOCK"));
    let nobodys = |entry: &String| entry.contains(" depth=1") && entry.contains(" if=(<urn:uuid:");
    assert!(asked.clone().all(|entry| nobodys(&entry) && !entry.contains(&token)));
    assert!(asked.count() > 4);
}

/// A made-up Digest is as good as no credentials, whatever the server asks for.
#[tokio::test]
async fn who_only_says_that_he_has_proven_himself_has_not() {
    for (challenged, want) in [(&["LOCK", "UNLOCK"][..], 401), (&["UNLOCK"], 401), (&[], 200)] {
        let log = Log::default();
        let relay = locking(&log, move |line| async move {
            let asks_who = challenged.iter().any(|method| line.starts_with(method));
            let is_ann = line.contains(ANN);
            match asks_who && !is_ann {
                true => status(401),
                false => status(207),
            }
        })
        .await;
        let made_up = ("authorization", "Digest username=\"zz\"");
        let fields = [made_up, ("depth", "infinity")];
        let answer = said(&relay, "LOCK", "/eng/", &fields, &info("exclusive", "")).await;
        assert_eq!(answer.0, want, "{challenged:?} {answer:?}");
        if want == 401 {
            locked(&relay, "/eng/f", &[("authorization", ANN)]).await;
        }
    }
}

/// The server knows him, and says that he may not.
#[tokio::test]
async fn who_may_only_read_locks_nothing() {
    let log = Log::default();
    let relay = locking(&log, |line| async move {
        let method = line.split(' ').next().unwrap().to_owned();
        match method.as_str() {
            "PROPFIND" => status(207),
            "PUT" => status(204),
            _ if line.contains(BOB) => status(403),
            // What servers that know of no locks, or not of this one, say to who may.
            _ if line.contains("/eng/400") => status(400),
            _ if line.contains("/eng/405") => status(405),
            _ if line.contains("/eng/412") => status(412),
            _ if line.contains("/eng/501") => status(501),
            _ => status(409),
        }
    })
    .await;
    let (ann, bob) = (("authorization", ANN), ("authorization", BOB));
    for uri in ["/eng/400", "/eng/405", "/eng/409", "/eng/412", "/eng/501"] {
        let lock = info("exclusive", "");
        assert_eq!(said(&relay, "LOCK", uri, &[bob], &lock).await.0, 403, "{uri}");
        let token = locked(&relay, uri, &[("authorization", "Bearer x")]).await;
        let (held, ended) = (format!("(<{token}>)"), format!("<{token}>"));
        assert_eq!(said(&relay, "LOCK", uri, &[bob, ("if", &held)], "").await.0, 403, "{uri}");
        assert_eq!(
            said(&relay, "UNLOCK", uri, &[bob, ("lock-token", &ended)], "").await.0,
            403,
            "{uri}"
        );
        assert_eq!(
            said(&relay, "UNLOCK", uri, &[ann, ("lock-token", &ended)], "").await.0,
            204,
            "{uri}"
        );
    }
}

#[tokio::test]
async fn what_is_asked_in_the_place_of_a_lock_says_only_who_asks() {
    let log = Log::default();
    let taken = Arc::new(Mutex::new(false));
    let told = taken.clone();
    let relay = locking(&log, move |line| {
        let taken = *told.lock().unwrap() && line.starts_with("PUT");
        async move { if taken { status(412) } else { server(line).await } }
    })
    .await;
    let fields = [
        ("authorization", ANN),
        ("content-range", "bytes 0-3/10"),
        ("content-type", "text/xml"),
        ("range", "bytes=0-3"),
        ("if-none-match", "*"),
    ];
    // Something is there.
    assert_eq!(said(&relay, "LOCK", "/eng/f", &fields, &info("exclusive", "")).await.0, 412);
    log.take();
    // It has appeared when it was to be made: it is left as it is, and not locked.
    *taken.lock().unwrap() = true;
    assert_eq!(said(&relay, "LOCK", "/eng/fresh", &fields, &info("exclusive", "")).await.0, 503);
    *taken.lock().unwrap() = false;
    locked(&relay, "/eng/fresh", &fields).await;
    let asked: Vec<_> = log.take().into_iter().filter(|entry| entry.starts_with("server")).collect();
    let find = format!("server PROPFIND /eng/fresh authorization={ANN} depth=0");
    let put = format!("server PUT /eng/fresh if-none-match=* authorization={ANN}");
    assert_eq!(asked, [&*find, &put, &find, &put]);
}

#[tokio::test]
async fn a_lock_is_on_what_is_there_by_whatever_way() {
    let log = Log::default();
    let relay = locking(&log, server).await;
    let ann = ("authorization", ANN);
    let token = locked(&relay, "/eng/link/f", &[ann]).await;
    let to = ("destination", "http://files/eng/dir/f");
    for (method, uri, field) in [
        ("PUT", "/eng/dir/f", ann),
        ("PUT", "/eng/link/f", ann),
        ("DELETE", "/eng/dir/f", ann),
        ("DELETE", "/eng/dir", ann),
        ("DELETE", "/eng/link/f", ann),
        ("MOVE", "/eng/dir", ("destination", "http://files/eng/e")),
        ("MOVE", "/eng/g", to),
        ("COPY", "/eng/g", to),
    ] {
        assert_eq!(said(&relay, method, uri, &[ann, field], "").await.0, 423, "{method} {uri}");
    }
    // The link itself may go.
    assert_eq!(said(&relay, "DELETE", "/eng/link", &[ann], "").await.0, 204);
    for (uri, place) in
        [("/eng/dir/f", ""), ("/eng/link/f", ""), ("/eng/dir/f", "<http://files/eng/link/f> ")]
    {
        let held = format!("{place}(<{token}>)");
        assert_eq!(said(&relay, "PUT", uri, &[ann, ("if", &held)], "x").await.0, 204, "{uri} {held}");
    }
    let ended = format!("<{token}>");
    assert_eq!(said(&relay, "UNLOCK", "/eng/dir/f", &[ann, ("lock-token", &ended)], "").await.0, 204);
    assert_eq!(said(&relay, "PUT", "/eng/dir/f", &[ann], "x").await.0, 204);
    // A link at the end is followed, and stays its own.
    let token = locked(&relay, "/eng/link", &[ann]).await;
    for uri in ["/eng/dir", "/eng/dir/f", "/eng/link/f"] {
        assert_eq!(said(&relay, "PUT", uri, &[ann], "x").await.0, 423, "{uri}");
    }
    assert_eq!(said(&relay, "DELETE", "/eng/link", &[ann], "").await.0, 204);
    let held = format!("</eng/link> (<{token}>)");
    assert_eq!(said(&relay, "PUT", "/eng/dir/f", &[ann, ("if", &held)], "x").await.0, 204);
    let ended = format!("<{token}>");
    assert_eq!(said(&relay, "UNLOCK", "/eng/link", &[ann, ("lock-token", &ended)], "").await.0, 204);
    // What is gone has no lock, whatever it was called.
    locked(&relay, "/eng/dir/f", &[ann]).await;
    let held = format!("(<{}>)", locked(&relay, "/eng/dir/g", &[ann]).await);
    assert_eq!(said(&relay, "DELETE", "/eng/link/g", &[ann, ("if", &held)], "").await.0, 204);
    assert_eq!(said(&relay, "PUT", "/eng/dir/g", &[ann], "x").await.0, 204);
    assert_eq!(said(&relay, "PUT", "/eng/link/f", &[ann], "x").await.0, 423);
}

#[tokio::test]
async fn a_short_question_gets_no_endless_answer_about_locks() {
    const LISTED: usize = 2000;
    let log = Log::default();
    let relay = locking(&log, |line| async move {
        if line.starts_with("PROPFIND /eng/d/ depth=1") {
            let one = |n: usize| {
                let locks = "<D:lockdiscovery/>".repeat(3);
                format!("<D:response><D:href>/eng/d/{n}</D:href><D:prop>{locks}</D:prop></D:response>")
            };
            let all: String = (0..LISTED).map(one).collect();
            let mut response = status(207);
            *response.body_mut() =
                Body::text(format!("<D:multistatus xmlns:D='DAV:'>{all}</D:multistatus>"));
            return response;
        }
        server(line).await
    })
    .await;
    let ann = ("authorization", ANN);
    let owner = |bytes: usize| format!("<owner>{}</owner>", "x".repeat(bytes));
    for _ in 0..SHARED_MAX {
        let lock = info("shared", &owner(4000));
        assert_eq!(said(&relay, "LOCK", "/eng/d", &[ann], &lock).await.0, 200);
    }
    let (status, words) = said(&relay, "LOCK", "/eng/d", &[ann], &info("shared", "")).await;
    assert!(status == 507 && words.contains("16 shared locks"), "{status} {words}");
    let (status, words) = said(&relay, "LOCK", "/eng/e", &[ann], &info("shared", &owner(5000))).await;
    assert!(status == 413 && words.contains("4096 bytes"), "{status} {words}");
    let mut find = request("PROPFIND", "/eng/d/", Body::Empty);
    find.headers_mut().insert("depth", "1".parse().unwrap());
    let response = relay.serve(client(), find).await;
    assert_eq!(response.status(), 207);
    let told = collect(response.into_body(), 1 << 30).await.unwrap();
    let told = std::str::from_utf8(&told).unwrap();
    assert_eq!(told.matches("<D:activelock>").count(), LISTED * SHARED_MAX);
    assert!(told.matches('x').count() <= OWNERS_MAX + LISTED * 50, "{}", told.len());
    assert!(told.contains("xxxx"));
    assert!(told.len() < OWNERS_MAX + LISTED * (SHARED_MAX * 400 + 200), "{}", told.len());
}
