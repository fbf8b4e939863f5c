//! SIGKILL at random points under load, at either side, cut and severed links, frozen sites: what was
//! answered as done is never lost, and the copies converge with no operator. Every run has a seed
//! (`NEARSHARE_SEED`, `NEARSHARE_SEEDS`), printed when it fails.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::Rng;
use common::cable::Quality;
use common::cluster::{Cluster, Plan, Server};
use common::http::Client;
use common::load::Actor;
use common::seeds::seeds;

/// Blows dealt in one run.
const BLOWS: u64 = 6;

#[test]
fn killed_under_load() {
    for seed in seeds(3) {
        let server = if seed % 2 == 0 { Server::Nginx } else { Server::Embedded };
        storm(seed, server, |rng, cluster| {
            let victim = *rng.pick(&["hq", "hq", "osaka", "lyon"]);
            println!("seed {seed}: SIGKILL {victim}");
            cluster.site_mut(victim).kill();
            std::thread::sleep(rng.millis(1, 400));
            cluster.start(victim);
        });
    }
}

#[test]
fn cut_off_under_load() {
    for seed in seeds(2) {
        let server = if seed % 2 == 0 { Server::Nginx } else { Server::Embedded };
        storm(seed, server, |rng, cluster| {
            let victim = *rng.pick(&["osaka", "lyon"]);
            let how = rng.below(3);
            println!("seed {seed}: {} {victim}", ["cut", "sever", "freeze"][how as usize]);
            match how {
                0 => {
                    cluster.cable(victim).cut();
                    std::thread::sleep(rng.millis(100, 4000));
                    cluster.cable(victim).heal();
                }
                1 => cluster.cable(victim).sever(),
                _ => {
                    cluster.site(victim).freeze();
                    std::thread::sleep(rng.millis(100, 4000));
                    cluster.site(victim).thaw();
                }
            }
        });
    }
}

/// Clients at all three sites, and a few blows; then everything must be right.
fn storm(seed: u64, server: Server, mut blow: impl FnMut(&mut Rng, &mut Cluster)) {
    let mut rng = Rng::new(seed);
    let mut cluster = Plan::three(server).start();
    let mut actors = actors(&cluster, &mut rng);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Clients end also when the blows fail.
        let _ending = Ending(&stop);
        for actor in &mut actors {
            scope.spawn(|| actor.run(&stop));
        }
        for _ in 0..BLOWS {
            std::thread::sleep(rng.millis(50, 1500));
            blow(&mut rng, &mut cluster);
        }
        std::thread::sleep(Duration::from_millis(500));
    });
    println!("seed {seed}: {:?}", actors.iter().map(|actor| actor.tally).collect::<Vec<_>>());
    cluster.settle();
    for actor in &actors {
        assert!(actor.tally.done > 0, "seed {seed}: {} did nothing: {:?}", actor.directory, actor.tally);
        for site in &cluster.sites {
            actor.check(&site.share());
        }
    }
    // Nothing is owed any more, and a fresh change travels.
    let mut lyon = cluster.site("lyon").client();
    common::wait_for("a change after the storm", || {
        lyon.put("/docs/after.txt", b"after").is_ok_and(|answer| answer.is_success())
    });
    cluster.settle();
}

/// Two clients at every site.
fn actors(cluster: &Cluster, rng: &mut Rng) -> Vec<Actor> {
    let mut hq = cluster.site("hq").client();
    let mut actors = Vec::new();
    for site in &cluster.sites {
        for client in 0..2 {
            let directory = format!("{}-{client}", site.name);
            hq.mkcol(&format!("/docs/{directory}/")).unwrap().expect(&[201]);
            actors.push(Actor::new(rng.next(), site.door, &directory));
        }
    }
    actors
}

/// Lets them work for a while, until everything has settled and all that was answered is everywhere.
fn work(cluster: &Cluster, actors: &mut [Actor], what: &str) {
    let stop = AtomicBool::new(false);
    let before: Vec<u64> = actors.iter().map(|actor| actor.tally.done).collect();
    std::thread::scope(|scope| {
        let _ending = Ending(&stop);
        for actor in actors.iter_mut() {
            scope.spawn(|| actor.run(&stop));
        }
        std::thread::sleep(Duration::from_secs(3));
    });
    println!("{what}: {:?}", actors.iter().map(|actor| actor.tally).collect::<Vec<_>>());
    cluster.settle();
    for (actor, before) in actors.iter().zip(before) {
        assert!(actor.tally.done > before, "{what}: {} did nothing", actor.directory);
        for site in &cluster.sites {
            actor.check(&site.share());
        }
    }
}

/// R24: the copies have records that this site no longer knows, and its disk is right.
#[test]
fn a_primary_with_an_older_state_goes_on_from_its_disk() {
    with_another_state(true);
}

#[test]
fn a_primary_without_its_state_goes_on_from_its_disk() {
    with_another_state(false);
}

fn with_another_state(older: bool) {
    let mut cluster = Plan::three(Server::Embedded).start();
    let mut actors = actors(&cluster, &mut Rng::new(7));
    work(&cluster, &mut actors, "at first");
    assert_eq!(cluster.site_mut("hq").terminate().code(), Some(0));
    let (state, saved) = (cluster.site("hq").state(), cluster.dir.path().join("saved"));
    common::run("cp", &["-a", state.to_str().unwrap(), saved.to_str().unwrap()]);
    cluster.start("hq");
    work(&cluster, &mut actors, "what the saved state does not know");
    cluster.site_mut("hq").kill();
    std::fs::remove_dir_all(&state).unwrap();
    if older {
        std::fs::rename(&saved, &state).unwrap();
    }
    cluster.start("hq");
    work(&cluster, &mut actors, "on another state");
}

/// R24, and R10: with the old state nobody may be given what is on no disk any more.
#[test]
fn no_copy_of_a_strict_share_answers_what_an_older_state_says() {
    let mut cluster = Plan::three(Server::Embedded).start();
    let mut hq = cluster.site("hq").client();
    let mut names: Vec<String> = (0..10).map(|n| format!("/docs/d{n}/f")).collect();
    for name in &names {
        hq.mkcol(name.strip_suffix("f").unwrap()).unwrap().expect(&[201]);
        hq.put(name, b"old").unwrap().expect(&[201]);
    }
    cluster.settle();
    assert_eq!(cluster.site_mut("hq").terminate().code(), Some(0));
    let (state, saved) = (cluster.site("hq").state(), cluster.dir.path().join("saved"));
    common::run("cp", &["-a", state.to_str().unwrap(), saved.to_str().unwrap()]);
    cluster.start("hq");
    let mut hq = cluster.site("hq").client();
    names.extend((0..10).map(|n| format!("/docs/d{n}/made")));
    for name in &names {
        hq.put(name, b"new").unwrap().expect(&[201, 204]);
    }
    cluster.settle();
    cluster.site_mut("hq").kill();
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&saved, &state).unwrap();
    // A scan that takes its time before it comes to what is below: of data, for holes are not read.
    let large = cluster.site("hq").share().join("large");
    let mut file = std::fs::File::create(&large).unwrap();
    for _ in 0..1024 {
        std::io::Write::write_all(&mut file, &vec![0; 1 << 20]).unwrap();
    }
    cluster.start("hq");
    let mut lyon = cluster.site("lyon").client();
    let began = std::time::Instant::now();
    let mut rounds = 0;
    loop {
        for name in &names {
            let answer = lyon.get(name).unwrap();
            assert_ne!(answer.status, 404, "{name} after {:?}", began.elapsed());
            if answer.status == 200 {
                assert_eq!(answer.text(), "new", "{name} after {:?}", began.elapsed());
            }
        }
        let status = cluster.site("hq").status().unwrap();
        match status["shares"][0]["home"]["scan"].is_null() {
            false => rounds += 1,
            true if rounds > 0 => break,
            true => assert!(began.elapsed() < common::PATIENCE, "no scan: {status}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("asked {rounds} times during a scan of {:?}", began.elapsed());
    assert!(rounds >= 10, "asked {rounds} times only before the scan ended");
    cluster.site("hq").client().delete("/docs/large").unwrap().expect(&[204]);
    cluster.settle();
}

/// R19: whatever the line was carrying. Everything is done at most once: a second MKCOL would be told 405, a
/// second MOVE or DELETE 404, a second PUT 204.
#[test]
fn a_change_whose_line_breaks_is_made_once_and_its_client_is_told() {
    let cluster = Plan::three(Server::Embedded).start();
    let cable = cluster.cable("lyon");
    cluster.site("lyon").wait_linked();
    cable.set(Quality { one_way: Duration::from_millis(100), ..Quality::default() });
    let large = vec![b'x'; 300_000];
    // Before a request arrives, while the answer travels; and what is held up on the line comes when its
    // sender has dialled anew.
    let long = Duration::from_millis(6500);
    for (round, (after, cut)) in [(30, None), (150, None), (30, Some(long))].into_iter().enumerate() {
        let mut lyon = cluster.site("lyon").client();
        let mut during = |change: &mut dyn FnMut(&mut Client) -> Answer| -> Answer {
            common::wait_for("a link that takes changes", || {
                lyon.put("/docs/warm", b"up").is_ok_and(|answer| answer.is_success())
            });
            std::thread::scope(|scope| {
                let breaking = scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(after));
                    match cut {
                        None => cable.sever(),
                        Some(long) => {
                            cable.cut();
                            std::thread::sleep(long);
                            cable.heal();
                        }
                    }
                });
                let answer = change(&mut lyon);
                breaking.join().unwrap();
                answer
            })
        };
        let (dir, moved, file) = (format!("d{round}"), format!("m{round}"), format!("f{round}"));
        let at = |name: &str| format!("/docs/{name}");
        let mkcol = during(&mut |lyon| lyon.mkcol(&format!("{}/", at(&dir))).unwrap().status);
        let renamed = during(&mut |lyon| {
            lyon.transfer("MOVE", &format!("{}/", at(&dir)), &format!("{}/", at(&moved))).unwrap().status
        });
        let put = during(&mut |lyon| lyon.put(&at(&file), b"small").unwrap().status);
        let deleted = during(&mut |lyon| lyon.delete(&at(&file)).unwrap().status);
        assert_eq!((mkcol, renamed, put, deleted), (201, 201, 201, 204), "round {round}");
        // Nothing of a large body is kept, so it is not sent again; it is there whole or not at all.
        let sent = during(&mut |lyon| lyon.put(&at("large"), &large).unwrap().status);
        println!("round {round}: a large PUT was told {sent}");
        cluster.settle();
        let there = std::fs::read(cluster.site("hq").share().join("large")).ok();
        match sent {
            201 => assert!(there.as_deref() == Some(&large)),
            503 => assert!(there.is_none()),
            504 => assert!(there.is_none_or(|there| there == large)),
            other => panic!("round {round}: {other}"),
        }
        let _ = cluster.site("hq").client().delete(&at("large")).unwrap();
        cluster.settle();
    }
    let socket = cluster.site("lyon").state().join("control.sock");
    let socket = ["--silent", "--unix-socket", socket.to_str().unwrap(), "http://site/metrics"];
    let metrics = common::run("curl", &socket);
    for outcome in ["answered", "not_begun"] {
        let count = format!("nearshare_changes_lost_total{{outcome=\"{outcome}\"}} ");
        let count = metrics.lines().find_map(|line| line.strip_prefix(&count));
        assert!(count.is_some_and(|count| count != "0"), "{metrics}");
    }
}

type Answer = u16;

struct Ending<'a>(&'a AtomicBool);
impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// R11: nobody remembers whom leases were given to.
#[test]
fn a_primary_without_its_state_waits_out_the_leases_that_it_gave() {
    let mut cluster = Plan::three(Server::Embedded).start();
    cluster.site("hq").client().put("/docs/f", b"old").unwrap().expect(&[201]);
    cluster.settle();
    let mut lyon = cluster.site("lyon").client();
    common::wait_for("a lease at lyon", || {
        lyon.get("/docs/f").unwrap().expect(&[200]);
        let status = cluster.site("hq").status().unwrap();
        status["shares"][0].to_string().contains("\"leased\":[\"lyon\"]")
    });
    cluster.site_mut("hq").kill();
    std::fs::remove_dir_all(cluster.site("hq").state()).unwrap();
    cluster.start("hq");
    common::wait_for("a change", || {
        cluster.site("hq").client().put("/docs/f", b"new").unwrap().is_success()
    });
    let answer = lyon.get("/docs/f").unwrap().expect(&[200, 503]);
    assert!(answer.status == 503 || answer.text() == "new", "{}", answer.text());
    cluster.settle();
}

/// R9: what copies await is of generations that this state never handed out.
#[test]
fn what_is_ahead_at_a_copy_ends_with_another_state_at_the_primary() {
    for older in [false, true] {
        let mut cluster = Plan::three(Server::Embedded).start();
        cluster.site("hq").client().put("/docs/first", b"x").unwrap().expect(&[201]);
        cluster.settle();
        assert_eq!(cluster.site_mut("hq").terminate().code(), Some(0));
        let (state, saved) = (cluster.site("hq").state(), cluster.dir.path().join("saved"));
        common::run("cp", &["-a", state.to_str().unwrap(), saved.to_str().unwrap()]);
        cluster.start("hq");
        cluster.site("lyon").wait_linked();
        let mut lyon = cluster.site("lyon").client();
        let mut put = |n| lyon.put(&format!("/docs/f{n}"), b"x").unwrap().is_success();
        common::wait_for("the first change", || put(0));
        // The last of them are not released yet.
        (1..40).for_each(|n| assert!(put(n)));
        cluster.site_mut("hq").kill();
        assert_ne!(cluster.site("lyon").status().unwrap()["shares"][0]["copy"]["ahead"], 0);
        std::fs::remove_dir_all(&state).unwrap();
        if older {
            std::fs::rename(&saved, &state).unwrap();
        }
        cluster.start("hq");
        cluster.settle();
        common::wait_for("nothing to be ahead at lyon", || {
            cluster.site("lyon").status().unwrap()["shares"][0]["copy"]["ahead"] == 0
        });
    }
}

#[test]
fn everything_stopped_and_started_again() {
    let mut cluster = Plan::three(Server::Nginx).start();
    let mut hq = cluster.site("hq").client();
    for i in 0..50 {
        hq.put(&format!("/docs/f{i}"), format!("{i}").as_bytes()).unwrap().expect(&[201]);
    }
    for name in ["hq", "osaka", "lyon"] {
        assert_eq!(cluster.site_mut(name).terminate().code(), Some(0), "{name} after SIGTERM");
    }
    // While everything was down: a change at the primary's disk.
    std::fs::write(cluster.site("hq").share().join("f0"), b"by hand").unwrap();
    cluster.start_all();
    cluster.settle();
    assert_eq!(std::fs::read(cluster.site("osaka").share().join("f0")).unwrap(), b"by hand");
    // A version that somebody made at a copy is kept when the primary's replaces it.
    std::fs::write(cluster.site("lyon").share().join("f1"), b"by mistake").unwrap();
    cluster.site("hq").client().put("/docs/f1", b"by intent").unwrap().expect(&[201, 204]);
    cluster.settle();
    let kept = cluster.site("lyon").share().join(".nearshare/kept");
    let kept: Vec<_> = std::fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).collect();
    let saved =
        kept.iter().any(|path| std::fs::read(path.join("data")).is_ok_and(|text| text == b"by mistake"));
    assert!(saved, "the version changed at the copy is not among {kept:?}");
}

#[test]
fn a_copy_that_lost_its_state_keeps_its_data() {
    let mut cluster = Plan::three(Server::Nginx).start();
    let mut hq = cluster.site("hq").client();
    let body = vec![1; 2_000_000];
    for i in 0..10 {
        hq.put(&format!("/docs/f{i}"), &body).unwrap().expect(&[201]);
    }
    cluster.settle();
    cluster.site_mut("osaka").kill();
    std::fs::remove_dir_all(cluster.site("osaka").state()).unwrap();
    hq.put("/docs/f0", b"changed").unwrap().expect(&[201, 204]);
    hq.delete("/docs/f1").unwrap().expect(&[204]);
    let before = cluster.cable("osaka").passed();
    cluster.start("osaka");
    cluster.settle();
    let moved = cluster.cable("osaka").passed() - before;
    assert!(moved < 4_000_000, "{moved} bytes crossed the line for files that were there already");
}
