//! `durable_copies = 2`: what was answered is at two sites, and what is not is not shown.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::cluster::{Cluster, Plan, Server};
use common::seeds::seeds;
use common::{Rng, wait_for};

fn pledged(server: Server, more: &str) -> Cluster {
    let mut plan = Plan::three(server);
    plan.keys = format!("durable_copies = 2\n{more}");
    let cluster = plan.start();
    cluster.site("hq").client().put("/docs/first.txt", b"first").unwrap().expect(&[201, 204]);
    cluster.settle();
    cluster
}

fn freeze(cluster: &Cluster, frozen: bool) {
    for name in ["osaka", "lyon"] {
        let site = cluster.site(name);
        if frozen { site.freeze() } else { site.thaw() }
    }
}

#[test]
fn a_change_is_answered_when_another_site_has_it_and_not_shown_before() {
    let cluster = pledged(Server::Nginx, "");
    // They are linked, and do not answer.
    freeze(&cluster, true);
    let (done, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = cluster.site("hq").client();
            client.put("/docs/second.txt", b"second").unwrap().expect(&[201]);
            done.fetch_add(1, Ordering::SeqCst);
        });
        let at_hq = cluster.site("hq").share().join("second.txt");
        wait_for("the server to have it", || at_hq.exists());
        for (method, path) in [("GET", "/docs/second.txt"), ("PROPFIND", "/docs/")] {
            let (cluster, seen) = (&cluster, &seen);
            scope.spawn(move || {
                let mut client = cluster.site("hq").client();
                let answer = client.send(method, path, &[("Depth", "1")], b"").unwrap();
                assert!(answer.expect(&[200, 207]).text().contains("second"));
                seen.fetch_add(1, Ordering::SeqCst);
            });
        }
        // What has nothing to do with it is shown.
        let mut client = cluster.site("hq").client();
        assert_eq!(client.get("/docs/first.txt").unwrap().expect(&[200]).text(), "first");
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(done.load(Ordering::SeqCst), 0, "answered with one copy");
        assert_eq!(seen.load(Ordering::SeqCst), 0, "shown with one copy");
        let status = cluster.site("hq").status().unwrap();
        assert_eq!(status["shares"][0]["home"]["undurable"], 1);
        freeze(&cluster, false);
    });
    assert_eq!((done.into_inner(), seen.into_inner()), (1, 2));
    cluster.settle();
}

/// What a change is refused for is shown by that as well.
#[test]
fn a_change_is_refused_when_another_site_has_why() {
    let cluster = pledged(Server::Nginx, "");
    let mut client = cluster.site("hq").client();
    for dir in ["/docs/e/", "/docs/e/s/", "/docs/other/"] {
        client.send("MKCOL", dir, &[], b"").unwrap().expect(&[201]);
    }
    client.put("/docs/e/f", b"f").unwrap().expect(&[201]);
    cluster.settle();
    freeze(&cluster, true);
    let (done, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = cluster.site("hq").client();
            let to = [("Destination", "/docs/d/")];
            client.send("MOVE", "/docs/e/", &to, b"").unwrap().expect(&[201, 204]);
            done.fetch_add(1, Ordering::SeqCst);
        });
        let at_hq = cluster.site("hq").share().join("d/s");
        wait_for("the server to have moved it", || at_hq.exists());
        let if_match = ("If-Match", "\"x\"");
        for (method, path, field, status) in [
            ("MKCOL", "/docs/d/s/", None, 405),
            ("DELETE", "/docs/e/s/", None, 404),
            ("PUT", "/docs/d/f", Some(if_match), 412),
            ("GET", "/docs/d/f", Some(if_match), 412),
        ] {
            let (cluster, seen) = (&cluster, &seen);
            scope.spawn(move || {
                let mut client = cluster.site("hq").client();
                let answer = client.send(method, path, field.as_slice(), b"").unwrap();
                println!("{method} {path}: {}", answer.status);
                answer.expect(&[status]);
                seen.fetch_add(1, Ordering::SeqCst);
            });
        }
        // What has nothing to do with it is refused at once.
        client.send("MKCOL", "/docs/other/", &[], b"").unwrap().expect(&[405]);
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(done.load(Ordering::SeqCst), 0, "answered with one copy");
        assert_eq!(seen.load(Ordering::SeqCst), 0, "shown with one copy");
        freeze(&cluster, false);
    });
    assert_eq!((done.into_inner(), seen.into_inner()), (1, 4));
    cluster.settle();
}

#[test]
fn a_change_waits_while_too_few_sites_are_there() {
    let mut cluster = pledged(Server::Embedded, "");
    for name in ["osaka", "lyon"] {
        cluster.site_mut(name).kill();
    }
    wait_for("both to be gone", || cluster.site("hq").log_text().matches("has gone").count() == 2);
    let done = AtomicUsize::new(0);
    let at_hq = cluster.site("hq").share().join("late.txt");
    let address = cluster.site("hq").door;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = common::http::Client::new(address);
            client.put("/docs/late.txt", b"late").unwrap().expect(&[201]);
            done.fetch_add(1, Ordering::SeqCst);
        });
        std::thread::sleep(Duration::from_secs(2));
        assert_eq!(done.load(Ordering::SeqCst), 0);
        assert!(!at_hq.exists(), "nothing is done before there are sites enough");
        cluster.start("lyon");
    });
    assert_eq!(std::fs::read(cluster.site("lyon").share().join("late.txt")).unwrap(), b"late");
}

#[test]
fn with_too_few_sites_a_share_may_go_on_degraded_and_says_so() {
    let mut cluster = pledged(Server::Embedded, "degraded = \"allow\"\n");
    for name in ["osaka", "lyon"] {
        cluster.site_mut(name).kill();
    }
    let mut client = cluster.site("hq").client();
    wait_for("the links to be noticed as down", || {
        client.put("/docs/alone.txt", b"alone").unwrap().expect(&[201, 204, 504]).status != 504
    });
    assert_eq!(client.get("/docs/alone.txt").unwrap().expect(&[200]).text(), "alone");
    let status = cluster.site("hq").status().unwrap();
    assert!(status["shares"][0]["wrong"].as_str().unwrap().contains("1 of 2"), "{status}");
    cluster.start("osaka");
    wait_for("two sites to be enough", || {
        client.put("/docs/together.txt", b"together").unwrap().expect(&[201, 204]);
        let status = cluster.site("hq").status().unwrap();
        status["shares"][0]["wrong"].is_null()
    });
}

/// The primary's site dies for good in the middle of writes of all sizes: whatever was answered is whole
/// on the disk of another site.
#[test]
fn nothing_that_was_answered_goes_with_the_primarys_site() {
    for seed in seeds(2) {
        let mut cluster = pledged(Server::Embedded, "");
        let doors: Vec<_> = cluster.sites.iter().map(|site| site.door).collect();
        let answered = std::sync::Mutex::new(Vec::new());
        let mut rng = Rng::new(seed);
        let life = rng.millis(300, 2500);
        std::thread::scope(|scope| {
            for (writer, door) in doors.iter().cycle().take(6).enumerate() {
                let (answered, door) = (&answered, *door);
                let mut rng = Rng::new(seed * 100 + writer as u64);
                scope.spawn(move || {
                    let mut client = common::http::Client::new(door);
                    for n in 0.. {
                        let path = format!("/docs/w{writer}-{n}.bin");
                        let len = [10, 3_000, 20_000, 400_000][rng.below(4) as usize];
                        let body: Vec<u8> = (0..len).map(|at| (at as u64 * (n + 7)) as u8).collect();
                        match client.put(&path, &body) {
                            Ok(answer) if answer.status == 201 => {
                                answered.lock().unwrap().push((path, body));
                            }
                            _ => return,
                        }
                    }
                });
            }
            std::thread::sleep(life);
            cluster.site_mut("hq").kill();
        });
        // What is on the copies' disks now: no process goes on.
        for name in ["osaka", "lyon"] {
            cluster.site_mut(name).kill();
        }
        let answered = answered.into_inner().unwrap();
        assert!(!answered.is_empty());
        for (path, body) in &answered {
            let name = path.strip_prefix("/docs/").unwrap();
            let has = |site: &str| {
                std::fs::read(cluster.site(site).share().join(name)).is_ok_and(|it| it == *body)
            };
            assert!(has("osaka") || has("lyon"), "seed {seed}: {path} of {} bytes", body.len());
        }
        println!("seed {seed}: {} answered in {life:?}", answered.len());
    }
}
