//! The primary copy moves to another site: asked to, or because its site is gone.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::io::Write;
use std::path::Path;
use std::process::Output;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::cluster::{Cluster, Plan, Server, nearshare};
use common::http::Client;
use common::seeds::seeds;
use common::{PATIENCE, Rng, compare, wait_for, wait_until};

const SITES: [&str; 3] = ["hq", "osaka", "lyon"];

fn settled(server: Server) -> Cluster {
    let cluster = Plan::three(server).start();
    cluster.site("hq").client().put("/docs/first.txt", b"first").unwrap().expect(&[201, 204]);
    cluster.site("hq").client().put("/docs/gone.txt", b"to be deleted").unwrap().expect(&[201]);
    cluster.settle();
    cluster
}

fn promote(cluster: &Cluster, to: &str, more: &[&str]) -> Output {
    let socket = cluster.site(to).state().join("control.sock");
    let mut arguments = vec!["promote", "docs", "--to", to, "--socket", socket.to_str().unwrap()];
    arguments.extend(more);
    nearshare(&arguments)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Every running site knows who leads.
fn wait_led(cluster: &Cluster, by: &str, sites: &[&str]) {
    for name in sites {
        wait_until(&format!("{name} to follow {by}"), PATIENCE, || {
            let status = cluster.site(name).status()?;
            let share = &status["shares"][0];
            let role = if *name == by { "local" } else { "broadcast" };
            let right = share["primary"] == by && share["role"] == role;
            if right { Ok(()) } else { Err(share.to_string()) }
        });
    }
}

fn wait_same(cluster: &Cluster, as_at: &str, sites: &[&str]) {
    for name in sites.iter().filter(|name| **name != as_at) {
        wait_until(&format!("{name} to be as {as_at}"), PATIENCE, || {
            compare::same(&cluster.site(as_at).share(), &cluster.site(name).share())
        });
    }
}

/// Writes files of its own until told to stop; notes what was answered, and the longest time without.
struct Writer {
    answered: Mutex<Vec<(String, Vec<u8>)>>,
    pause: Mutex<Duration>,
}

impl Writer {
    fn run(&self, name: &str, mut client: Client, stop: &AtomicBool) {
        let mut last = Instant::now();
        for n in 0.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let path = format!("/docs/{name}-{}.txt", n % 40);
            let body = format!("{name} {n}").into_bytes();
            if matches!(client.put(&path, &body), Ok(answer) if answer.is_success()) {
                let mut answered = self.answered.lock().unwrap();
                answered.retain(|(known, _)| *known != path);
                answered.push((path, body));
                let mut pause = self.pause.lock().unwrap();
                *pause = last.elapsed().max(*pause);
                last = Instant::now();
            } else {
                // What was in doubt may be there or not.
                self.answered.lock().unwrap().retain(|(known, _)| *known != path);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Nobody misses the links that led to the old primary, and where the map names another that is told (R33).
fn well_and_told(cluster: &Cluster, leads: &str) {
    for name in SITES {
        let site = cluster.site(name);
        let socket = site.state().join("control.sock");
        let moved = leads != "hq";
        let role = if name == leads { "local, ok" } else { "broadcast, following, follows " };
        let whom = if name == leads { "" } else { leads };
        let from = if moved { ", promoted from hq" } else { "" };
        let row = format!("{role}{whom}{from}, position ");
        wait_until(&format!("{name} to be well and to say so"), PATIENCE, || {
            let status = nearshare(&["status", "--socket", socket.to_str().unwrap()]);
            let text = said(&status);
            let share = text.lines().find_map(|line| line.trim_start().strip_prefix("docs  "));
            let told = share.is_some_and(|share| share.starts_with(&row));
            if status.status.success() && told { Ok(()) } else { Err(format!("no {row}: {text}")) }
        });
        let first = site.status().unwrap()["shares"][0]["map_primary"].clone();
        assert_eq!(first, if moved { "hq".into() } else { serde_json::Value::Null }, "{name}");
    }
}

#[test]
fn a_primary_steps_down_and_nothing_is_lost() {
    let mut cluster = settled(Server::Nginx);
    for to in ["osaka", "lyon", "hq"] {
        let stop = AtomicBool::new(false);
        let writers = SITES.map(|_| Writer { answered: Mutex::default(), pause: Mutex::default() });
        std::thread::scope(|scope| {
            for (name, writer) in SITES.iter().zip(&writers) {
                let client = cluster.site(name).client();
                let stop = &stop;
                scope.spawn(move || writer.run(name, client, stop));
            }
            std::thread::sleep(Duration::from_millis(800));
            let output = promote(&cluster, to, &[]);
            let text = said(&output);
            let again = Instant::now();
            if output.status.success() {
                wait_led(&cluster, to, &SITES);
            }
            std::thread::sleep(Duration::from_secs(7).saturating_sub(again.elapsed()));
            stop.store(true, Ordering::Relaxed);
            assert!(output.status.success(), "{text}");
        });
        wait_same(&cluster, to, &SITES);
        for (name, writer) in SITES.iter().zip(&writers) {
            let pause = *writer.pause.lock().unwrap();
            assert!(pause < Duration::from_secs(10), "{name} was not answered for {pause:?}");
            let answered = writer.answered.lock().unwrap();
            assert!(answered.len() > 5);
            for (path, body) in answered.iter() {
                let at = cluster.site(to).share().join(path.strip_prefix("/docs/").unwrap());
                assert_eq!(std::fs::read(at).unwrap(), *body, "{path}");
            }
        }
        // Every write goes there now, and is seen everywhere.
        for name in SITES {
            let body = format!("{to} leads");
            let mut client = cluster.site(name).client();
            wait_for("a write to pass", || {
                client.put("/docs/led.txt", body.as_bytes()).unwrap().is_success()
            });
            for reader in SITES {
                let mut client = cluster.site(reader).client();
                assert_eq!(client.get("/docs/led.txt").unwrap().expect(&[200]).text(), body);
            }
        }
        for name in SITES {
            let log = cluster.site(name).log_text();
            let warned = log.lines().find(|line| line.contains("WARN") && line.contains("be followed"));
            assert_eq!(warned, None, "{name}");
        }
        well_and_told(&cluster, to);
        assert_eq!(promote(&cluster, to, &[]).status.code(), Some(1), "it is there already");
        let map = cluster.map.to_str().unwrap();
        let check = nearshare(&["check", map, "--site", "hq"]);
        assert_eq!(check.status.code(), Some(0), "{}", said(&check));
        let note = said(&check).contains(&format!("the primary copy of docs is at {to}"));
        assert_eq!(note, to != "hq", "{}", said(&check));
    }
    // Roles and epochs outlive the processes.
    assert!(promote(&cluster, "osaka", &[]).status.success());
    for name in SITES {
        cluster.site_mut(name).kill();
    }
    cluster.start_all();
    wait_led(&cluster, "osaka", &SITES);
    let mut lyon = cluster.site("lyon").client();
    wait_for("a write to pass", || lyon.put("/docs/after.txt", b"after").unwrap().is_success());
    wait_same(&cluster, "osaka", &SITES);
}

fn kept(share: &Path) -> Vec<String> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(share.join(".nearshare/kept")).unwrap() {
        let data = entry.unwrap().path().join("data");
        texts.extend(std::fs::read_to_string(data));
    }
    texts.sort();
    texts
}

#[test]
fn without_the_old_primary_only_what_it_alone_has_is_lost_and_kept_there() {
    let began = Instant::now();
    let mut cluster = settled(Server::Embedded);
    // A change from osaka is under way when the line breaks.
    cluster.site("hq").freeze();
    let mut gone = cluster.site("osaka").client().connect().unwrap();
    gone.write_all(b"MKCOL /docs/late/ HTTP/1.1\r\nHost: osaka\r\n\r\n").unwrap();
    let copy = || Ok::<_, String>(cluster.site("osaka").status()?["shares"][0]["copy"].clone());
    wait_until("osaka to note what it is ahead with", PATIENCE, || {
        let copy = copy()?;
        if copy["ahead"].as_u64() > Some(0) { Ok(()) } else { Err(copy.to_string()) }
    });
    for name in ["osaka", "lyon"] {
        cluster.cable(name).cut();
    }
    drop(gone);
    cluster.site("hq").thaw();
    let mut hq = cluster.site("hq").client();
    hq.put("/docs/only-hq.txt", b"only at hq").unwrap().expect(&[201]);
    hq.put("/docs/first.txt", b"second, only at hq").unwrap().expect(&[201, 204]);
    hq.delete("/docs/gone.txt").unwrap().expect(&[204]);
    wait_until("osaka to see that it is alone", PATIENCE, || {
        let status = cluster.site("osaka").status()?;
        if status["links"][0]["up"] == false { Ok(()) } else { Err(status["links"].to_string()) }
    });
    let refused = promote(&cluster, "osaka", &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("hq cannot be reached"), "{}", said(&refused));
    assert!(said(&refused).contains("--accept-loss"), "{}", said(&refused));
    // R34: what there is to judge by.
    let lines = said(&refused);
    let line = |begin: &str| lines.lines().find_map(|line| line.strip_prefix(begin)).unwrap_or_default();
    let ago = line("last contact with hq: ").strip_suffix(" s ago").and_then(|ago| ago.parse().ok());
    assert!(ago.is_some_and(|ago: u64| ago <= began.elapsed().as_secs()), "{lines}");
    let known = copy().unwrap();
    let at = cluster.site("osaka").status().unwrap()["shares"][0]["position"].clone();
    let has = format!(
        "{at}, {} of its own changes under way, {} places held for changes at hq, {} contents awaited",
        known["ahead"], known["held"], known["debts"]
    );
    assert_eq!(line("osaka has docs up to record "), has, "{lines}");
    let done = promote(&cluster, "osaka", &["--accept-loss"]);
    assert!(done.status.success(), "{}", said(&done));
    assert!(said(&done).contains("lyon has docs up to record"), "{}", said(&done));
    wait_led(&cluster, "osaka", &["osaka", "lyon"]);
    let mut osaka = cluster.site("osaka").client();
    wait_for("a write at osaka", || {
        osaka.put("/docs/from-osaka.txt", b"from osaka").unwrap().is_success()
    });
    wait_same(&cluster, "osaka", &["osaka", "lyon"]);
    // HQ was there all the time, and hears of the epoch when the line is whole.
    assert_eq!(hq.get("/docs/first.txt").unwrap().expect(&[200]).text(), "second, only at hq");
    cluster.cable("osaka").heal();
    wait_led(&cluster, "osaka", &SITES);
    wait_same(&cluster, "osaka", &SITES);
    assert_eq!(kept(&cluster.site("hq").share()), ["only at hq", "second, only at hq"]);
    assert_eq!(hq.get("/docs/first.txt").unwrap().expect(&[200]).text(), "first");
    assert_eq!(hq.get("/docs/gone.txt").unwrap().expect(&[200]).text(), "to be deleted");
    wait_for("a write at hq to go to osaka", || {
        hq.put("/docs/first.txt", b"third").unwrap().is_success()
    });
    wait_same(&cluster, "osaka", &SITES);
    let mut lyon = cluster.site("lyon").client();
    assert_eq!(lyon.get("/docs/first.txt").unwrap().expect(&[200]).text(), "third");
    // Nothing more is kept anywhere, now or after a start.
    cluster.site_mut("hq").kill();
    cluster.start("hq");
    wait_same(&cluster, "osaka", &SITES);
    assert_eq!(kept(&cluster.site("hq").share()).len(), 2);
}

#[test]
fn the_furthest_copy_gives_what_it_has() {
    let mut cluster = settled(Server::Embedded);
    cluster.cable("osaka").cut();
    let mut hq = cluster.site("hq").client();
    let large = vec![7u8; 700_000];
    hq.put("/docs/first.txt", b"at hq and lyon").unwrap().expect(&[201, 204]);
    hq.put("/docs/large.bin", &large).unwrap().expect(&[201]);
    hq.delete("/docs/gone.txt").unwrap().expect(&[204]);
    wait_same(&cluster, "hq", &["hq", "lyon"]);
    cluster.site_mut("hq").kill();
    cluster.cable("osaka").heal();
    wait_until("osaka to see that it is alone", PATIENCE, || {
        let status = cluster.site("osaka").status()?;
        if status["links"][0]["up"] == false { Ok(()) } else { Err(status["links"].to_string()) }
    });
    let done = promote(&cluster, "osaka", &["--accept-loss"]);
    assert!(done.status.success(), "{}", said(&done));
    wait_led(&cluster, "osaka", &["osaka", "lyon"]);
    let at = |name: &str| std::fs::read(cluster.site("osaka").share().join(name));
    assert_eq!(at("first.txt").unwrap(), b"at hq and lyon");
    assert!(at("large.bin").unwrap() == large);
    assert!(at("gone.txt").is_err());
    wait_same(&cluster, "osaka", &["osaka", "lyon"]);
    cluster.start("hq");
    wait_led(&cluster, "osaka", &SITES);
    wait_same(&cluster, "osaka", &SITES);
    assert!(kept(&cluster.site("hq").share()).is_empty());
}

/// Either site dies at any point of it: nothing that was answered is lost, and the command can be given
/// again.
#[test]
fn a_promotion_that_is_cut_short_is_finished_by_the_next() {
    for seed in seeds(3) {
        let mut rng = Rng::new(seed);
        let mut cluster = settled(Server::Embedded);
        let mut hq = cluster.site("hq").client();
        hq.put("/docs/answered.txt", format!("{seed}").as_bytes()).unwrap().expect(&[201]);
        let victim = *rng.pick(&["hq", "osaka"]);
        let after = rng.millis(0, 400);
        std::thread::scope(|scope| {
            let socket = cluster.site("osaka").state().join("control.sock");
            scope.spawn(move || {
                nearshare(&["promote", "docs", "--to", "osaka", "--socket", socket.to_str().unwrap()])
            });
            std::thread::sleep(after);
            cluster.site_mut(victim).kill();
        });
        cluster.start(victim);
        wait_until(&format!("seed {seed}: {victim} killed after {after:?}"), PATIENCE * 2, || {
            let output = promote(&cluster, "osaka", &[]);
            let text = said(&output);
            if output.status.success() || text.contains("already") { Ok(()) } else { Err(text) }
        });
        wait_led(&cluster, "osaka", &SITES);
        wait_same(&cluster, "osaka", &SITES);
        let answered = cluster.site("hq").share().join("answered.txt");
        assert_eq!(std::fs::read_to_string(answered).unwrap(), format!("{seed}"), "seed {seed}");
        let mut lyon = cluster.site("lyon").client();
        wait_for("a write to pass", || lyon.put("/docs/after.txt", b"after").unwrap().is_success());
        wait_same(&cluster, "osaka", &SITES);
    }
}
