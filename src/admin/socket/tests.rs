use std::collections::BTreeSet;
use std::sync::Mutex;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::Empty;

use super::*;
use crate::admin::{CopyStatus, HttpStatus, MapStatus, ShareState, ShareStatus};
use crate::id::{Epoch, Seq};
use crate::link::own::Validity;
use crate::link::{Direction, PeerFault, PeerState};
use crate::tree::kept::KeptPage;
use crate::verify::Report;

/// A site that says what it is told to say, and writes down what it is told to do.
struct Fake {
    status: Mutex<Status>,
    reloads: Mutex<Vec<Result<String, NotTaken>>>,
    scans: Mutex<Vec<ShareId>>,
}

impl Steer for Fake {
    fn status(&self) -> Status {
        self.status.lock().unwrap().clone()
    }
    fn metrics(&self) -> String {
        "# TYPE nearshare_requests_total counter\nnearshare_requests_total 3\n".to_owned()
    }
    fn reload(&self) -> BoxFuture<'_, Result<String, NotTaken>> {
        let next = self.reloads.lock().unwrap().pop().unwrap();
        Box::pin(async { next })
    }
    fn rescan(&self, share: &ShareId) -> Result<(), String> {
        if share.as_str() != "docs" {
            return Err(format!("{share} is not at this site; `nearshare status` lists the shares"));
        }
        self.scans.lock().unwrap().push(share.clone());
        Ok(())
    }
    fn believe(&self, share: &ShareId) -> Result<usize, String> {
        if share.as_str() == "docs" { Ok(2) } else { Err("not here".to_owned()) }
    }
    fn kept<'a>(
        &'a self,
        share: &'a ShareId,
        after: Option<Name>,
    ) -> BoxFuture<'a, Result<KeptPage, String>> {
        let more = after.map(|after| format!("{share} {after}"));
        Box::pin(async move { Ok(KeptPage { kept: Vec::new(), more }) })
    }
    fn remove_kept<'a>(
        &'a self,
        share: &'a ShareId,
        which: Unkept,
    ) -> BoxFuture<'a, Result<u64, String>> {
        Box::pin(async move { Err(format!("{share} {which:?}")) })
    }
    fn verify(&self, share: &ShareId, order: Order) -> Result<bool, String> {
        if order.repair { Err(format!("{share} {order:?}")) } else { Ok(order.anew) }
    }
    fn end_verify(&self, _: &ShareId) -> Result<(), String> {
        Ok(())
    }
    fn verified(&self, _: &ShareId) -> Result<Report, String> {
        Ok(Report::default())
    }
    fn promote<'a>(
        &'a self,
        share: &'a ShareId,
        to: &'a SiteId,
        accept_loss: bool,
    ) -> BoxFuture<'a, Result<String, String>> {
        let told = format!("{share} to {to}");
        Box::pin(async move { if accept_loss { Ok(told) } else { Err(told) } })
    }
}

fn link(up: bool) -> PeerState {
    PeerState {
        site: "osaka".parse().unwrap(),
        direction: Direction::Accepted,
        up,
        bulk: up,
        since_unix_ms: 60_000,
        address: None,
        rtt_ms: Some(1.5),
        session: None,
        map: None,
        disagrees: BTreeSet::new(),
        last_error: None,
    }
}

fn status() -> Status {
    Status {
        version: "0.1.0".into(),
        site: "hq".parse().unwrap(),
        pid: 7,
        at_unix_ms: 120_000,
        since_unix_ms: 0,
        stopping: false,
        map: MapStatus { serial: 3, hash: "ab".repeat(32), file: "/etc/map.toml".into() },
        // A year before and after what is now.
        certificate: Validity { from_unix_ms: -31_536_000_000, until_unix_ms: 31_536_000_000 },
        http: Some(HttpStatus {
            listen: "127.0.0.1:80".parse().unwrap(),
            server: "embedded".into(),
            asked: true,
            up: true,
            last_error: None,
            tls: Some("127.0.0.1:443".parse().unwrap()),
            connections: 2,
            turned_away: [("malformed", 3), ("rate", 1200)].into(),
            changes_lost: [("answered", 1), ("not_begun", 0), ("unknown", 1000)].into(),
        }),
        links: vec![link(true)],
        refused: Vec::new(),
        shares: vec![ShareStatus {
            share: "docs".parse().unwrap(),
            role: "local",
            primary: "hq".parse().unwrap(),
            map_primary: None,
            epoch: Epoch(1),
            position: Seq(42),
            objects: 12_000,
            bytes: 3 << 30,
            locks: Some(1),
            state: ShareState::Ok,
            wrong: None,
            fix: None,
            home: Some(crate::notice::Standing::default()),
            copy: None,
            copies: vec![CopyStatus {
                site: "osaka".parse().unwrap(),
                lag_records: 2,
                lag_seconds: 0.5,
                lag_bytes: 4096,
                debts: 1,
                seen_unix_ms: Some(119_000),
            }],
            kept: 0,
            verify: None,
            limits: Vec::new(),
        }],
    }
}

struct Running {
    dir: tempfile::TempDir,
    fake: Arc<Fake>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    async fn start(status: Status) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let reloads = Mutex::new(vec![
            Err(NotTaken::Unread("read map.toml: No such file".to_owned())),
            Err(NotTaken::Refused("map.toml:2:1: no".to_owned())),
            Ok("1 share new".to_owned()),
        ]);
        let fake = Arc::new(Fake { status: Mutex::new(status), reloads, scans: Mutex::default() });
        let stop = CancellationToken::new();
        let control = bind(&dir.path().join("control.sock")).unwrap();
        let task = tokio::spawn(serve(control, fake.clone(), stop.clone()));
        Self { dir, fake, stop, task }
    }
    fn socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }
    async fn send(&self, method: &str, path: &str, origin: Option<&str>) -> (Response<()>, String) {
        let stream = UnixStream::connect(self.socket()).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "local");
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        let answer = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        let (head, body) = answer.into_parts();
        let body = crate::body::collect(body, 1 << 20).await.unwrap();
        (Response::from_parts(head, ()), String::from_utf8(body.to_vec()).unwrap())
    }
    async fn get(&self, path: &str) -> (Response<()>, String) {
        self.send("GET", path, None).await
    }
}

#[tokio::test]
async fn a_site_that_is_well_says_so_in_every_form() {
    let site = Running::start(status()).await;
    let (head, json) = site.get("/status").await;
    assert_eq!(head.headers()[VERDICT], VERDICT_OK);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["ok"], true);
    assert_eq!(json["shares"][0]["position"], 42);
    assert_eq!(json["shares"][0]["state"], "ok");
    assert_eq!(json["links"][0]["site"], "osaka");

    let (head, text) = site.get("/status.txt").await;
    assert_eq!(head.headers()[VERDICT], VERDICT_OK);
    assert_eq!(text.lines().next().unwrap(), "ok: site hq has run for 2 min");
    let share = "docs  local, ok, position 1.42, 12,000 objects, 3.00 GiB";
    assert!(text.contains(share), "{text}");
    assert!(
        text.contains("copy at osaka: 2 records and 0.5 s behind, 1 content (4.00 KiB) to come"),
        "{text}"
    );

    let (head, html) = site.get("/").await;
    assert_eq!(head.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
    assert!(html.contains("<h1 class=\"ok\">ok: site hq"), "{html}");
    let (_, metrics) = site.get("/metrics").await;
    assert!(metrics.contains("\nnearshare_requests_total 3\n"), "{metrics}");
    assert!(metrics.contains("\nnearshare_map_serial 3\n"), "{metrics}");
}

#[tokio::test]
async fn what_is_kept_is_asked_for_and_removed_by_id_or_age() {
    let mut kept = status();
    kept.shares[0].kept = 3;
    let site = Running::start(kept).await;
    let (_, text) = site.get("/status.txt").await;
    assert!(text.contains("    3 kept aside: `nearshare kept docs` lists them\n"), "{text}");
    let (_, metrics) = site.get("/metrics").await;
    assert!(metrics.contains("\nnearshare_share_kept{share=\"docs\"} 3\n"), "{metrics}");
    let (head, page) = site.get("/shares/docs/kept").await;
    assert_eq!((head.status(), page.as_str()), (StatusCode::OK, r#"{"kept":[],"more":null}"#));
    let (_, page) = site.get("/shares/docs/kept?after=a%5Cx%66f%2Db").await;
    assert_eq!(page, r#"{"kept":[],"more":"docs a\\xff-b"}"#);
    let (head, said) = site.send("POST", "/shares/docs/kept/remove?id=a%20b", None).await;
    assert_eq!((head.status(), said.as_str()), (StatusCode::CONFLICT, "docs One(a b)\n"));
    let (_, said) = site.send("POST", "/shares/docs/kept/remove?older-than=60", None).await;
    assert_eq!(said, "docs OlderThan(60)\n");
    for bad in ["", "?id=", "?id=..", "?id=a%2Fb", "?id=%C3%A9", "?older-than=-1", "?what=1"] {
        let (head, said) = site.send("POST", &format!("/shares/docs/kept/remove{bad}"), None).await;
        assert_eq!(head.status(), StatusCode::BAD_REQUEST, "{bad}: {said}");
    }
    let (head, _) = site.get("/shares/docs/kept/remove?id=a").await;
    assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
    let (head, _) = site.send("POST", "/shares/docs/kept/remove?id=a", Some("http://x")).await;
    assert_eq!(head.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_verification_is_ordered_and_told_of() {
    let mut verified = status();
    let wrong = ["/a", "/b"].map(|path| crate::verify::Wrong {
        id: "0".repeat(32),
        path: path.to_owned(),
        why: "it is missing".to_owned(),
    });
    let done = Report {
        complete: true,
        objects: 1200,
        bytes: 4096,
        wrong: wrong.to_vec(),
        ..Report::default()
    };
    verified.shares[0].verify = Some(done.clone().in_short(1));
    let site = Running::start(verified).await;
    let (_, text) = site.get("/status.txt").await;
    assert!(text.contains("    verified: 1,200 objects, 4.00 KiB; 2 wrong\n"), "{text}");
    let (_, metrics) = site.get("/metrics").await;
    assert!(metrics.contains("\nnearshare_share_verify_wrong{share=\"docs\"} 2\n"), "{metrics}");
    let post = async |query: &str| {
        let (head, said) = site.send("POST", &format!("/shares/docs/verify{query}"), None).await;
        (head.status().as_u16(), said)
    };
    assert_eq!(post("").await.0, 200);
    assert!(post("?anew").await.1.starts_with("the verification of docs begins"));
    let (code, said) = post("?rate=7&repair").await;
    assert_eq!(
        (code, said.as_str()),
        (409, "docs Order { repair: true, rate: Some(7), anew: false }\n")
    );
    for bad in ["?rate=fast", "?rate", "?rapair", "?repair=yes"] {
        assert_eq!(post(bad).await.0, 400, "{bad}");
    }
    assert_eq!(post("/stop").await.0, 200);
    let (_, json) = site.get("/shares/docs/verified").await;
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), Report::default());
    let (head, _) = site.get("/shares/docs/verify").await;
    assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn what_is_wrong_comes_first_with_what_to_do() {
    let mut ill = status();
    ill.links = vec![PeerState {
        direction: Direction::Dialled,
        last_error: Some(PeerFault {
            at_unix_ms: 100_000,
            what: "connection refused".into(),
            fix: "start nearshare there".into(),
        }),
        ..link(false)
    }];
    ill.shares[0].state = ShareState::Stopped;
    ill.shares[0].wrong = Some("the directory is empty".into());
    ill.shares[0].fix = Some("mount it".into());
    let site = Running::start(ill).await;
    let (head, text) = site.get("/status.txt").await;
    assert_eq!(head.headers()[VERDICT], VERDICT_WRONG);
    let lines: Vec<&str> = text.lines().take(7).collect();
    let expected = [
        "wrong: 2 things at site hq, which has run for 2 min",
        "",
        "wrong",
        "  !  share docs: the directory is empty",
        "       to do: mount it",
        "  !  no link to osaka for 60 s: connection refused",
        "       to do: start nearshare there",
    ];
    assert_eq!(lines, expected);
    let (_, json) = site.get("/status").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["wrong"].as_array().unwrap().len(), 2);
    assert_eq!(json["ok"], false);
}

#[tokio::test]
async fn a_site_that_stops_says_what_it_waits_for() {
    let mut stopping = status();
    stopping.stopping = true;
    stopping.http.as_mut().unwrap().connections = 1;
    stopping.shares[0].objects = 1;
    let site = Running::start(stopping).await;
    let (_, text) = site.get("/status.txt").await;
    let first = "stopping: site hq waits for requests in flight, 1 connection open";
    assert_eq!(text.lines().next().unwrap(), first);
    assert!(text.contains("position 1.42, 1 object, 3.00 GiB"), "{text}");
}

#[tokio::test]
async fn a_certificate_is_spoken_of_before_other_sites_refuse_it() {
    let day = 24 * 3600 * 1000;
    let table = [
        (400 * day, None, "certificate  valid from 1969-01-01 to 1971-02-05, 400 days left"),
        (12 * day, Some("expires on 1970-01-13, in 11 days"), "1970-01-13, 12 days left"),
        (-day, Some("expired on 1969-12-31: other sites refuse it"), "to 1969-12-31\n"),
    ];
    for (until_unix_ms, wrong, said) in table {
        let mut aged = status();
        aged.certificate.until_unix_ms = until_unix_ms;
        let site = Running::start(aged).await;
        let (head, text) = site.get("/status.txt").await;
        let verdict = if wrong.is_some() { VERDICT_WRONG } else { VERDICT_OK };
        assert_eq!(head.headers()[VERDICT], verdict, "{text}");
        assert!(text.contains(said), "{text}");
        assert!(wrong.is_none_or(|wrong| text.contains(wrong)), "{text}");
        let renew = "to do: run `nearshare cert issue hq`";
        assert_eq!(text.contains(renew), wrong.is_some(), "{text}");
    }
}

#[tokio::test]
async fn a_promotion_names_its_site() {
    let site = Running::start(status()).await;
    let (answer, text) = site.send("POST", "/shares/docs/promote?to=osaka&accept-loss", None).await;
    assert_eq!((answer.status(), text.as_str()), (StatusCode::OK, "docs to osaka\n"));
    let (answer, _) = site.send("POST", "/shares/docs/promote?to=osaka", None).await;
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    for query in ["", "?to=", "?to=OSAKA", "?site=osaka", "?to=osaka&force"] {
        let (answer, text) = site.send("POST", &format!("/shares/docs/promote{query}"), None).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{query}: {text}");
    }
    let (answer, text) = site.send("POST", "/shares/docs/believe", None).await;
    assert_eq!(
        (answer.status(), text.as_str()),
        (StatusCode::OK, "2 places of docs are no longer in doubt\n")
    );
    let (answer, _) = site.send("GET", "/shares/docs/promote?to=osaka", None).await;
    assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn commands_are_posts_and_not_from_browsers() {
    let site = Running::start(status()).await;
    let status = |(head, text): (Response<()>, String)| (head.status().as_u16(), text);
    assert_eq!(status(site.send("GET", "/reload", None).await).0, 405);
    assert_eq!(status(site.send("POST", "/reload", Some("http://evil.example")).await).0, 403);
    assert_eq!(status(site.send("POST", "/reload", None).await), (200, "1 share new\n".into()));
    let kept = "not taken: site hq goes on with the map that it has, serial 3\n";
    let refused = status(site.send("POST", "/reload", None).await);
    assert_eq!(refused, (422, format!("map.toml:2:1: no\n{kept}")));
    let unread = status(site.send("POST", "/reload", None).await);
    assert_eq!(unread, (UNREAD.as_u16(), format!("read map.toml: No such file\n{kept}")));
    assert_eq!(status(site.send("POST", "/shares/docs/scan", None).await).0, 202);
    assert_eq!(status(site.send("POST", "/shares/other/scan", None).await).0, 409);
    assert_eq!(status(site.send("POST", "/shares/Not%20A/scan", None).await).0, 400);
    assert_eq!(status(site.send("POST", "/nothing", None).await).0, 404);
    let scans: Vec<String> = site.fake.scans.lock().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(scans, ["docs"]);
}

#[tokio::test]
async fn one_site_one_socket() {
    let site = Running::start(status()).await;
    let mode = fs::metadata(site.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let second = bind(&site.socket()).err();
    assert!(matches!(second, Some(AdminError::InUse(_))), "{second:?}");
    let left: Vec<_> = fs::read_dir(site.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["control.sock"]);

    site.stop.cancel();
    site.task.await.unwrap();
    assert!(!site.dir.path().join("control.sock").exists());
}

#[tokio::test]
async fn a_dead_socket_is_replaced_and_nothing_else_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = bind(&path).unwrap();
    // One that has been taken over does not remove its successor's.
    drop(first.listener);
    let first = Control { listener: UnixListener::bind(dir.path().join("x")).unwrap(), ..first };
    let _second = bind(&path).unwrap();
    first.remove();
    assert!(path.exists());

    let file = dir.path().join("file");
    fs::write(&file, "kept").unwrap();
    assert!(matches!(bind(&file).err(), Some(AdminError::NotASocket(_))));
    assert_eq!(fs::read(&file).unwrap(), b"kept");
    let long = dir.path().join("s".repeat(PATH_MAX));
    assert!(matches!(bind(&long).err(), Some(AdminError::TooLong(_))));
}
