//! The command as an operator meets it: exit codes, mistakes in the map, certificates, refusals.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;
#[path = "cli/demo.rs"]
mod demo;
#[path = "cli/doubt.rs"]
mod doubt;
#[path = "cli/kept.rs"]
mod kept;
#[path = "cli/life.rs"]
mod life;
#[path = "cli/start.rs"]
mod start;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::time::Instant;

use common::cluster::{Plan, Server, nearshare};
use common::{NEARSHARE, run, wait_for, wait_until};
use life::asked;

fn text(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

const BAD_MAP: &str = r#"serial = 1
colour = "red"

[site.hq]
link = "hq.example.com:99999"
http = { server = "embedded", listen = "127.0.0.1:8080" }

[share.docs]
http = "/docs"
hq = { role = "loca", path = "srv/docs" }
"#;

#[test]
fn the_maps_that_we_hand_out_are_clean() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let in_readme = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("readme.toml"), in_readme).unwrap();
    let maps = ["server-map.example.toml", "docker/map.toml"].map(|name| root.join(name));
    for map in maps.iter().chain([&dir.path().join("readme.toml")]) {
        let output = nearshare(&["check", path(map)]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    }
}

#[test]
fn check_reports_every_mistake_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("map.toml");
    std::fs::write(&file, BAD_MAP).unwrap();
    let output = nearshare(&["check", path(&file)]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    for line in [2, 5, 10] {
        let place = format!("{}:{line}:", file.display());
        assert!(text(&output).contains(&place), "no {place} in\n{}", text(&output));
    }
    let json = nearshare(&["check", path(&file), "--json"]);
    assert_eq!(json.status.code(), Some(1));
    serde_json::from_slice::<serde_json::Value>(&json.stdout).unwrap();

    // `run` says the same and touches nothing.
    let ran = nearshare(&["run", "--map", path(&file), "--site", "hq"]);
    assert_eq!(ran.status.code(), Some(1), "{}", text(&ran));
    for line in text(&output).lines().filter(|line| line.contains("map.toml:")) {
        assert!(text(&ran).contains(line), "`run` does not say {line:?} but\n{}", text(&ran));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_cannot_be_read_is_2() {
    assert_eq!(nearshare(&["check", "/nowhere/map.toml"]).status.code(), Some(2));
    assert_eq!(nearshare(&["no-such-command"]).status.code(), Some(2));
    let none = nearshare(&["status", "--socket", "/nowhere/control.sock"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none).contains("/nowhere/control.sock"), "{}", text(&none));
}

#[test]
fn keys_are_private_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca");
    let bundle = dir.path().join("hq");
    run(NEARSHARE, &["cert", "init", "--dir", path(&ca)]);
    run(NEARSHARE, &["cert", "issue", "hq", "--dir", path(&ca), "--out", path(&bundle)]);
    for file in [ca.join("ca.key"), ca.join("secret"), bundle.join("site.key"), bundle.join("secret")] {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
    let key = std::fs::read(ca.join("ca.key")).unwrap();
    assert!(!nearshare(&["cert", "init", "--dir", path(&ca)]).status.success());
    assert_eq!(std::fs::read(ca.join("ca.key")).unwrap(), key);
    let bad = nearshare(&["cert", "issue", "Not A Site", "--dir", path(&ca), "--out", path(&bundle)]);
    assert!(!bad.status.success());
}

#[test]
fn a_stranger_is_refused_with_one_clear_line() {
    let mut cluster = Plan::three(Server::Embedded).prepare();
    // Osaka has a certificate of another CA, lyon that of another site.
    let other_ca = cluster.dir.path().join("other-ca");
    run(NEARSHARE, &["cert", "init", "--dir", path(&other_ca)]);
    let osaka = cluster.site("osaka").home.join("bundle");
    std::fs::remove_dir_all(&osaka).unwrap();
    run(NEARSHARE, &["cert", "issue", "osaka", "--dir", path(&other_ca), "--out", path(&osaka)]);
    let lyon = cluster.site("lyon").home.join("bundle");
    std::fs::remove_dir_all(&lyon).unwrap();
    let ca = cluster.dir.path().join("ca");
    run(NEARSHARE, &["cert", "issue", "madrid", "--dir", path(&ca), "--out", path(&lyon)]);

    let (map, started) = (cluster.map.clone(), Instant::now());
    for site in &mut cluster.sites {
        site.start(&map, "hq");
    }
    cluster.site("hq").wait_ready();
    wait_until("osaka to be refused", common::PATIENCE, || {
        let log = cluster.site("hq").log_text() + &cluster.site("osaka").log_text();
        if log.to_lowercase().contains("certificate") { Ok(()) } else { Err(log) }
    });
    wait_for("lyon to say whose certificate it has", || {
        cluster.site("lyon").log_text().contains("madrid")
    });
    // They try again and again, each refusing the other: each time is counted, one line in ten seconds says so.
    for (name, reason) in [("osaka", "stranger"), ("hq", "refused_us")] {
        let site = cluster.site(name);
        let line = format!("nearshare_link_refused_total{{reason=\"{reason}\"}} ");
        let socket = site.state().join("control.sock");
        wait_for(&format!("{name} to listen"), || socket.exists());
        wait_for(&format!("{name} to count"), || {
            let metrics = asked(&socket, "/metrics");
            let count = metrics.lines().find_map(|said| said.strip_prefix(&line)).unwrap();
            count.parse::<u64>().unwrap() >= 3
        });
        let lines = site.log_text().matches(&format!("reason=\"{reason}\"")).count() as u64;
        let most = 1 + started.elapsed().as_secs() / 10;
        assert!((1..=most).contains(&lines), "{}", site.log_text());
    }
    assert!(!cluster.site("hq").log_text().contains("panicked"));
    // It never had a copy: it does not claim to serve one.
    wait_for("osaka to be cut off", || {
        cluster.site("osaka").log_text().contains("serving nothing, the copy is not complete")
    });
    for site in &cluster.sites {
        let log = site.log_text();
        let inner = ["UnknownCA", "DecryptError"].into_iter().find(|name| log.contains(name));
        assert!(inner.is_none(), "{inner:?} is nobody's word: {log}");
    }
    cluster.site("hq").client().put("/docs/secret.txt", b"ours").unwrap().expect(&[201]);
    for copy in ["osaka", "lyon"] {
        assert!(!cluster.site(copy).share().join("secret.txt").exists());
    }
}

#[test]
fn status_says_what_is_up_and_what_is_not() {
    let cluster = Plan::three(Server::Embedded).start();
    cluster.site("hq").client().put("/docs/a", b"a").unwrap().expect(&[201]);
    cluster.settle();
    for site in &cluster.sites {
        let status = wait_until("status", common::PATIENCE, || site.status());
        let all = status.to_string();
        for word in ["hq", "docs", site.name] {
            assert!(all.contains(word), "{word} is not in {all}");
        }
        let socket = site.state().join("control.sock");
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let human = nearshare(&["status", "--map", path(&cluster.map), "--site", site.name]);
        assert_eq!(human.status.code(), Some(0), "{}", text(&human));
        assert!(text(&human).contains("docs"), "{}", text(&human));
    }
}

#[test]
fn reload_takes_a_new_map_and_refuses_a_bad_one() {
    let cluster = Plan::three(Server::Embedded).start();
    let hq = cluster.site("hq");
    let mut client = hq.client();
    client.put("/docs/a", b"a").unwrap().expect(&[201]);
    let socket = hq.state().join("control.sock");
    let reload = || nearshare(&["reload", "--socket", path(&socket)]);

    cluster.write_map(2);
    let good = reload();
    assert_eq!(good.status.code(), Some(0), "{}", text(&good));
    let serial = || hq.status().unwrap()["map"]["serial"].clone();
    assert_eq!(serial(), 2);
    // The same connection goes on.
    assert_eq!(client.get("/docs/a").unwrap().expect(&[200]).text(), "a");

    std::fs::write(&cluster.map, BAD_MAP).unwrap();
    let bad = reload();
    assert_eq!(bad.status.code(), Some(1), "{}", text(&bad));
    assert!(text(&bad).contains(":2:"), "{}", text(&bad));
    assert_eq!(serial(), 2);
    assert_eq!(client.get("/docs/a").unwrap().expect(&[200]).text(), "a");
}

#[test]
fn sigterm_ends_with_0_and_leaves_no_socket() {
    let mut cluster = Plan::three(Server::Embedded).start();
    let socket = cluster.site("osaka").state().join("control.sock");
    assert!(socket.exists());
    assert_eq!(cluster.site_mut("osaka").terminate().code(), Some(0));
    assert!(!socket.exists());
}
