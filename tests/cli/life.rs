//! A site that serves: new maps, signals, what it says of itself and how.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use super::common::cluster::{Cluster, Plan, Server, Site, nearshare};
use super::common::daemon::Daemon;
use super::common::http::Client;
use super::common::{NEARSHARE, PATIENCE, needs_root, wait_for, wait_until};
use super::start::alone;
use super::{BAD_MAP, path, text};

fn started() -> Cluster {
    let mut cluster = alone();
    cluster.start_all();
    cluster
}

fn serial(site: &Site) -> Value {
    site.status().unwrap()["map"]["serial"].clone()
}

/// What the log says after what it said before.
fn said_since(site: &Site, before: &str, words: &str) {
    wait_until(words, PATIENCE, || {
        let log = site.log_text();
        let new = log.strip_prefix(before).unwrap_or(&log);
        if new.contains(words) { Ok(()) } else { Err(new.to_owned()) }
    });
}

#[test]
fn sighup_takes_a_new_map_and_keeps_the_old_one_when_that_has_a_mistake() {
    let mut cluster = started();
    let hq = cluster.site("hq");
    let hangup = || hq.daemon.as_ref().unwrap().signal(Signal::HUP);
    cluster.write_map(7);
    hangup();
    wait_for("the new map", || serial(hq) == 7);

    let before = hq.log_text();
    std::fs::write(&cluster.map, BAD_MAP).unwrap();
    hangup();
    for line in [2, 5, 10] {
        let mistake =
            format!("the new map is refused, the old one stays: {}:{line}:", cluster.map.display());
        said_since(hq, &before, &mistake);
    }
    assert_eq!(serial(hq), 7);

    let before = hq.log_text();
    std::fs::remove_file(&cluster.map).unwrap();
    hangup();
    said_since(hq, &before, "the new map is refused, the old one stays: read the map");
    assert_eq!(serial(hq), 7);
    hq.client().get("/docs/").unwrap().expect(&[200, 207]);
    assert!(cluster.site_mut("hq").daemon.as_mut().unwrap().exit().is_none());
}

#[test]
fn reload_says_what_it_took_and_what_it_did_not() {
    let cluster = started();
    let hq = cluster.site("hq");
    let (map, socket) = (path(&cluster.map).to_owned(), hq.state().join("control.sock"));
    let by_map = || nearshare(&["reload", "--map", &map, "--site", "hq"]);
    let by_socket = || nearshare(&["reload", "--socket", path(&socket)]);
    let both = |code: i32, words: &[&str]| {
        for output in [by_map(), by_socket()] {
            assert_eq!(output.status.code(), Some(code), "{}", text(&output));
            let missing = words.iter().find(|words| !text(&output).contains(**words));
            assert!(missing.is_none(), "no {missing:?} in {}", text(&output));
        }
    };
    cluster.write_map(5);
    both(0, &[]);
    assert_eq!(serial(hq), 5);

    let good = std::fs::read_to_string(&cluster.map).unwrap();
    std::fs::write(&cluster.map, good.replacen('\n', "\ncolour = \"red\"\n", 1)).unwrap();
    both(
        1,
        &[":2:1: unknown key `colour`", "not taken: site hq goes on with the map that it has, serial 5"],
    );
    // What is asked by way of such a map is answered all the same.
    let status = nearshare(&["status", "--map", &map, "--site", "hq"]);
    assert_eq!(status.status.code(), Some(0), "{}", text(&status));
    let err = String::from_utf8_lossy(&status.stderr);
    assert!(err.contains("has 1 mistake, `nearshare check"), "{err}");
    assert!(String::from_utf8_lossy(&status.stdout).starts_with("ok: site hq"), "{}", text(&status));

    std::fs::remove_file(&cluster.map).unwrap();
    both(2, &["No such file"]);
    assert_eq!(serial(hq), 5);

    // Editions that are not counted up are taken, and spoken of.
    cluster.write_map(4);
    let down = by_socket();
    assert_eq!(down.status.code(), Some(0));
    assert!(text(&down).contains("note: `serial` has gone down from 5 to 4"), "{}", text(&down));
    let same = std::fs::read_to_string(&cluster.map).unwrap() + "# a comment\n";
    std::fs::write(&cluster.map, same).unwrap();
    let changed = by_socket();
    assert!(
        text(&changed).contains("note: the content has changed, but `serial` has not"),
        "{}",
        text(&changed)
    );
    let log = hq.log_text();
    let warned = log.lines().filter(|line| line.contains("WARN") && line.contains("count it up"));
    assert_eq!(warned.count(), 2, "{log}");
}

#[test]
fn what_is_mounted_in_a_share_is_left_out_and_status_says_so() {
    needs_root("a mount");
    let mut cluster = alone();
    let map = cluster.map.clone();
    let hq = cluster.site_mut("hq");
    let inner = hq.share().join("inner");
    std::fs::create_dir(&inner).unwrap();
    // In a mount namespace of its own, with which the mount ends.
    let mount_and_go = r#"mount -t tmpfs none "$0" && exec "$@""#;
    let inside = ["unshare", "--mount", "--", "sh", "-c", mount_and_go, path(&inner)];
    let run = [NEARSHARE, "run", "--map", path(&map), "--site", "hq"];
    hq.daemon = Some(Daemon::spawn(&[&inside[..], &run].concat(), None, &hq.log()));
    hq.wait_ready();
    wait_until("status to name the mount", PATIENCE, || {
        let status = nearshare(&["status", "--socket", path(&hq.state().join("control.sock"))]);
        let named = text(&status).contains("left out: /inner, where another file system is mounted\n");
        if named && status.status.success() { Ok(()) } else { Err(text(&status) + &hq.tail()) }
    });
}

#[test]
fn a_slow_download_ends_whole_after_sigterm_and_status_says_what_is_waited_for() {
    const SIZE: usize = 48 << 20;
    let mut cluster = alone();
    let content: Vec<u8> = (0..SIZE).map(|at| (at / 7 % 251) as u8).collect();
    std::fs::write(cluster.site("hq").share().join("film"), &content).unwrap();
    cluster.start_all();
    let hq = cluster.site("hq");
    let mut stream = TcpStream::connect(hq.door).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /docs/film HTTP/1.1\r\nHost: files\r\nConnection: close\r\n\r\n").unwrap();
    let mut got = vec![0; 1 << 16];
    stream.read_exact(&mut got).unwrap();

    hq.daemon.as_ref().unwrap().signal(Signal::TERM);
    wait_for("the signal to arrive", || hq.log_text().contains("requests in flight may end"));
    wait_until("status to say that the site stops", PATIENCE, || {
        let status = nearshare(&["status", "--socket", path(&hq.state().join("control.sock"))]);
        let first = "stopping: site hq waits for requests in flight, 1 connection open";
        if text(&status).starts_with(first) { Ok(()) } else { Err(text(&status)) }
    });
    let reload = nearshare(&["reload", "--socket", path(&hq.state().join("control.sock"))]);
    assert_eq!(reload.status.code(), Some(1), "{}", text(&reload));
    assert!(TcpStream::connect(hq.door).is_err(), "nobody new is let in");
    std::thread::sleep(Duration::from_secs(1));

    stream.read_to_end(&mut got).unwrap();
    let body = got.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(got.starts_with(b"HTTP/1.1 200 "));
    assert_eq!(got.len() - body, SIZE);
    assert!(got[body..] == content, "another content came");
    let hq = cluster.site_mut("hq").daemon.as_mut().unwrap();
    let status = wait_until("the end after SIGTERM", PATIENCE, || hq.exit().ok_or_else(|| hq.tail()));
    assert_eq!(status.code(), Some(0), "{}", hq.tail());
}

#[test]
fn status_tells_by_its_code_whether_somebody_should_look() {
    let mut cluster = Plan::three(Server::Embedded).start();
    cluster.site_mut("osaka").kill();
    let map = cluster.map.clone();
    let status = |name: &str| nearshare(&["status", "--map", path(&map), "--site", name]);
    let ill = wait_until("hq to miss osaka", PATIENCE, || {
        let output = status("hq");
        if output.status.code() == Some(1) { Ok(output) } else { Err(text(&output)) }
    });
    assert!(text(&ill).starts_with("wrong: 1 thing at site hq"), "{}", text(&ill));
    assert!(text(&ill).contains("osaka has had no link"), "{}", text(&ill));
    for ask in ["status", "reload"] {
        let gone = nearshare(&[ask, "--map", path(&map), "--site", "osaka"]);
        assert_eq!(gone.status.code(), Some(2), "{}", text(&gone));
        assert!(text(&gone).contains("nobody answers at"), "{}", text(&gone));
    }
}

/// What the unit in the README relies on.
#[test]
fn a_service_manager_is_told_of_the_start_of_a_reload_and_of_the_end() {
    let cluster = alone();
    let (manager, log) = (cluster.dir.path().join("notify"), cluster.dir.path().join("notify.log"));
    let heard = UnixDatagram::bind(&manager).unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut bytes = [0; 4096];
        let len = heard.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..len]).trim_end().to_owned()
    };
    let socket = format!("NOTIFY_SOCKET={}", manager.display());
    let run = ["env", &socket, NEARSHARE, "run", "--map", path(&cluster.map), "--site", "hq"];
    let mut hq = Daemon::spawn(&run, None, &log);
    assert_eq!(told(), "READY=1");
    cluster.site("hq").client().get("/docs/").unwrap().expect(&[200]);
    hq.signal(Signal::HUP);
    let reloading = told();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(told(), "READY=1");
    assert_eq!(hq.terminate(PATIENCE).code(), Some(0));
    assert_eq!(told(), "STOPPING=1");
}

#[test]
fn a_json_log_is_json_to_the_last_line() {
    for verbose in [false, true] {
        let cluster = alone();
        let log = cluster.dir.path().join("json.log");
        let mut command = vec![NEARSHARE, "run", "--map", path(&cluster.map), "--site", "hq"];
        command.extend(["--log-format", "json"]);
        command.extend(verbose.then_some("-v"));
        let mut hq = Daemon::spawn(&command, None, &log);
        cluster.site("hq").wait_ready();
        cluster.site("hq").client().put("/docs/a", b"a").unwrap().expect(&[201]);
        assert_eq!(hq.terminate(PATIENCE).code(), Some(0));

        let lines: Vec<Value> = hq
            .log_text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        assert!(lines.iter().all(|line| line["site"] == "hq"), "{lines:?}");
        let first = &lines[0]["fields"];
        assert_eq!(
            (&first["message"], &first["version"]),
            (&"nearshare starts".into(), &env!("CARGO_PKG_VERSION").into())
        );
        let serving = lines.iter().find(|line| line["fields"]["message"] == "serving").unwrap();
        assert_eq!(serving["fields"]["http"], cluster.site("hq").door.to_string());
        let levels: BTreeSet<&str> = lines.iter().filter_map(|line| line["level"].as_str()).collect();
        assert_eq!(levels.contains("DEBUG"), verbose, "{levels:?}");
        // Libraries have nothing to say while nothing is amiss.
        let foreign = lines.iter().find(|line| {
            let ours = line["target"].as_str().unwrap().starts_with("nearshare");
            !ours && matches!(line["level"].as_str(), Some("INFO" | "DEBUG" | "TRACE"))
        });
        assert!(foreign.is_none(), "{foreign:?}");
    }
}

/// The body of a GET over the control socket.
pub fn asked(socket: &Path, what: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET {what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

#[test]
fn what_one_alerts_on_is_measured_from_the_start() {
    let mut cluster = Plan::three(Server::Embedded).start();
    cluster.settle();
    let metrics = |site: &Site| asked(&site.state().join("control.sock"), "/metrics");
    let wait = |name: &'static str, lines: &[&str]| {
        wait_until(&format!("{name} to measure"), PATIENCE, || {
            let told = metrics(cluster.site(name));
            let missing = lines.iter().find(|line| !told.lines().any(|has| has == **line));
            missing.map_or(Ok(told.clone()), |line| Err(format!("no {line} in\n{told}")))
        })
    };
    let version = env!("CARGO_PKG_VERSION");
    // All in one answer: the files of a copy are equal before hq has heard that they are.
    let lines = [
        &format!("nearshare_build_info{{version=\"{version}\"}} 1"),
        "nearshare_wrong 0",
        "nearshare_server_up 1",
        "nearshare_link_up{site=\"osaka\",direction=\"accepted\"} 1",
        "nearshare_share_state{share=\"docs\",role=\"local\",primary=\"hq\",state=\"ok\"} 1",
        "nearshare_copy_lag_records{share=\"docs\",site=\"osaka\"} 0",
        "nearshare_copy_lag_bytes{share=\"docs\",site=\"lyon\"} 0",
        "nearshare_copy_lag_seconds{share=\"docs\",site=\"lyon\"} 0",
        "nearshare_changes_degraded_total{share=\"docs\"} 0",
        "nearshare_reads_cut_off_total{share=\"docs\"} 0",
        "nearshare_link_refused_total{reason=\"stranger\"} 0",
        "nearshare_http_turned_away_total{reason=\"malformed\"} 0",
    ];
    let hq = wait("hq", &lines);
    let until = "nearshare_certificate_expiry_timestamp_seconds ";
    let until = hq.lines().find_map(|line| line.strip_prefix(until)).unwrap();
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    let days = ((until.parse::<f64>().unwrap() - now) / 86_400.0) as i64;
    assert!((728..=730).contains(&days), "{days}");

    // Every metric says what it is, and two answers come in one order.
    let names = |text: &str, kind: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(kind));
        lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
    };
    let sampled: BTreeSet<String> = hq
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split(['{', ' ']).next().unwrap().to_owned())
        .collect();
    let sampled: Vec<String> = sampled.into_iter().collect();
    assert_eq!(names(&hq, "# HELP "), sampled);
    assert_eq!(names(&hq, "# TYPE "), sampled);
    let series = |text: &str| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned())).collect()
    };
    assert_eq!(series(&hq), series(&metrics(cluster.site("hq"))));

    wait(
        "osaka",
        &[
            "nearshare_link_up{site=\"hq\",direction=\"dialled\"} 1",
            "nearshare_share_state{share=\"docs\",role=\"broadcast\",primary=\"hq\",state=\"following\"} 1",
            "nearshare_copy_lag_records{share=\"docs\",site=\"osaka\"} 0",
        ],
    );
    assert!(asked(&cluster.site("hq").state().join("control.sock"), "/").starts_with("<!doctype html>"));
    cluster.site_mut("hq").kill();
    wait_for("osaka to measure that the link is down", || {
        let osaka = metrics(cluster.site("osaka"));
        osaka.contains("nearshare_link_up{site=\"hq\",direction=\"dialled\"} 0")
            && osaka.contains("state=\"cut-off\"} 1")
            && !osaka.contains("nearshare_wrong 0")
    });
}

#[test]
fn the_demo_stays_when_asked_to_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut demo = Daemon::spawn(&[NEARSHARE, "demo", "--stay"], None, &dir.path().join("demo.log"));
    wait_until("the invitation", Duration::from_secs(90), || {
        let text = demo.log_text();
        if text.contains("Ctrl-C ends it all") { Ok(()) } else { Err(demo.tail()) }
    });
    let told = demo.log_text();
    let urls = told.lines().filter_map(|line| line.strip_prefix("  curl http://"));
    let urls: Vec<&str> = urls.filter(|url| !url.contains(' ')).collect();
    assert_eq!(urls.len(), 3, "{told}");
    for url in urls {
        let (address, name) = url.split_once('/').unwrap();
        let mut client = Client::new(address.parse().unwrap());
        let page = client.get(&format!("/{name}drawings/001.txt")).unwrap().expect(&[200]);
        assert!(page.text().starts_with("drawing 1: every site shows the same"), "{}", page.text());
    }
    let home = told.split("on this machine, in ").nth(1).and_then(|rest| rest.split(". HQ").next());
    let home = Path::new(home.unwrap());
    assert!(home.is_dir());
    assert_eq!(demo.terminate(PATIENCE).code(), Some(0), "{}", demo.tail());
    assert!(!home.exists());
}
