//! Schedules that are too rare to be left to seeds, played with the rule and without it.

mod costs;
mod names;

use bytes::Bytes;
use futures_util::stream;
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::Instant;

use super::net::SILENCE;
use super::site::{TOLD, Told};
use super::*;
use crate::body::{Body, BoxError, collect};
use crate::hold::LEASE;
use crate::id::{RelPath, SiteId};
use crate::plant::{Bug, plant};
use crate::relay;
use crate::tree::Tree as _;

/// Three sites of a strict share, all filled, with a file that both copies answer for.
struct Scene {
    sites: Vec<Rc<Site>>,
    net: Net,
    rules: Rules,
}

/// Who answered: the status, and whether it was the site's own server.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    near: bool,
    /// As of a site that is cut off.
    stale: bool,
    body: Bytes,
}

fn play<F: Future>(seed: u64, scene: impl FnOnce(Scene) -> F) -> F::Output {
    play_by(|_| {}, seed, scene)
}

/// With other rules.
fn play_by<F: Future>(
    change: impl FnOnce(&mut Rules),
    seed: u64,
    scene: impl FnOnce(Scene) -> F,
) -> F::Output {
    let ended = alone(seed, false, || async {
        let net = Net::new(SILENCE);
        let mut rules =
            Rules { sites: 3, strict: true, serve: false, durable: 1, degrade: false, remote: None };
        change(&mut rules);
        let site = |number| Rc::new(Site::new(number, SITES[number], &net, &rules));
        let sites: Vec<Rc<Site>> = (0..rules.sites).map(site).collect();
        sites.iter().for_each(|site| site.start());
        assert!(settled(&sites, QUIET).await, "the copies were never filled");
        let set = Scene { sites, net, rules };
        assert_eq!(set.put(0, "old").await, 201);
        for copy in [1, 2] {
            set.answers_for_itself(copy).await;
        }
        scene(set).await
    });
    assert!(!ended.panicked);
    ended.value
}

impl Scene {
    async fn ask(&self, site: usize, method: &str, path: &str, body: &'static str) -> Answer {
        let request = Request::builder().method(method).uri(path).header("host", "files");
        let body = if body.is_empty() { Body::Empty } else { Body::Full(body.into()) };
        self.send(site, request.body(body).expect("a request of ours")).await
    }
    /// The status of a MOVE or a COPY.
    async fn transfer(&self, site: usize, method: &str, from: &str, to: &str) -> u16 {
        let request = Request::builder().method(method).uri(from).header("host", "files");
        let request = request.header("destination", format!("http://files{to}")).body(Body::Empty);
        self.send(site, request.expect("a request of ours")).await.status
    }
    async fn send(&self, site: usize, request: Request<Body>) -> Answer {
        let (process, live) = self.sites[site]
            .process()
            .zip(self.sites[site].live())
            .expect("a scene asks sites that run");
        let addr = ([10, 9, 0, 1], 999).into();
        let asked = TOLD.scope(Told::default(), async move {
            let response = process.relay().serve(addr, request).await;
            let status = response.status().as_u16();
            let body = collect(response.into_body(), 1 << 20).await.unwrap_or_default();
            let (near, stale) = TOLD.with(|told| (told.near.get(), told.stale.get()));
            Answer { status, near, stale, body }
        });
        live.group.spawn(asked).await.expect("nobody stops it")
    }
    async fn get(&self, site: usize) -> Answer {
        self.ask(site, "GET", "/eng/f", "").await
    }
    async fn put(&self, site: usize, body: &'static str) -> u16 {
        self.ask(site, "PUT", "/eng/f", body).await.status
    }
    async fn answers_for_itself(&self, site: usize) {
        for _ in 0..200 {
            if self.get(site).await.near {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("{} never answers for itself", self.sites[site].name);
    }
    fn leased(&self) -> Vec<String> {
        match self.sites[0].process().and_then(|process| process.part()) {
            Some(Part::Home(notice)) => {
                notice.standing().leased.iter().map(|it| it.to_string()).collect()
            }
            _ => panic!("hq does not lead"),
        }
    }
    /// How much a copy has compared with the primary since it started, or began to.
    fn compared(&self, site: usize) -> u64 {
        match self.sites[site].process().and_then(|process| process.part()) {
            Some(Part::Copy(follow)) => follow.progress().compared,
            _ => panic!("{} has no copy", self.sites[site].name),
        }
    }
    /// Who leads, as far as a site knows.
    fn primary_at(&self, site: usize) -> SiteId {
        let relay = self.sites[site].process().expect("a scene asks sites that run").relay().site();
        match &relay.slots[0].part {
            relay::Part::Local { .. } => self.sites[site].id(),
            relay::Part::Broadcast { away, .. } | relay::Part::Remote { away } => away.site.clone(),
        }
    }
    async fn restart(&self, site: usize) {
        self.sites[site].crash(false);
        self.sites[site].start();
        while self.sites[site].process().is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    }
    /// A map that takes lyon's copy away comes to these, and lyon does not hear of it.
    async fn forget_lyon(&self, at: impl IntoIterator<Item = usize>) {
        let without = Rules { remote: Some("lyon"), ..self.rules.clone() };
        for site in at {
            self.sites[site].reload(&without).await;
        }
    }
    fn cut_off(&self, site: usize) {
        self.set_cut_off(site, true);
    }
    fn open(&self, site: usize) {
        self.set_cut_off(site, false);
    }
    fn set_cut_off(&self, site: usize, cut_off: bool) {
        for other in (0..self.sites.len()).filter(|other| *other != site) {
            self.set_blocked(site, other, cut_off);
        }
    }
    fn cut(&self, one: usize, other: usize) {
        self.set_blocked(one, other, true);
    }
    fn set_blocked(&self, one: usize, other: usize, blocked: bool) {
        let (one, other) = (self.sites[one].id(), self.sites[other].id());
        self.net.set_blocked(&one, &other, blocked);
        self.net.set_blocked(&other, &one, blocked);
    }
}

/// With the rule all seeds are well, and without it one is not.
fn shows(bug: Bug, seeds: u64, well: impl Fn(u64) -> bool) {
    let bad = (1..=seeds).find(|seed| !well(*seed));
    assert_eq!(bad, None, "this seed is not well");
    plant(Some(bug));
    let caught = (1..=seeds).any(|seed| !well(seed));
    plant(None);
    assert!(caught, "{bug:?} is not seen");
}

/// R9, R13: a site's own change is answered, and it is cut off and restarts before it comes back.
#[test]
fn what_is_ahead_is_answered_for_neither_after_a_restart_nor_when_cut_off() {
    for (bug, restarts) in [(Bug::ForgetAheadOverRestart, true), (Bug::ServeWhatIsAhead, false)] {
        shows(bug, 3, |seed| {
            play_by(
                |rules| rules.serve = true,
                seed,
                |scene| async move {
                    assert_eq!(scene.ask(0, "PUT", "/eng/g", "other").await.status, 201);
                    assert!(settled(&scene.sites, QUIET).await);
                    assert_eq!(scene.put(1, "new").await, 204);
                    scene.cut_off(1);
                    if restarts {
                        scene.restart(1).await;
                    }
                    sleep(LEASE * 3).await;
                    let other = scene.ask(1, "GET", "/eng/g", "").await;
                    assert!(other.near && other.body == "other", "all else is served: {other:?}");
                    scene.get(1).await.status == 503
                },
            )
        });
    }
}

/// R9: a site's own change is answered, its machine loses its power, and it starts cut off. What was on the disk of
/// its server is there again.
#[test]
fn what_is_ahead_is_answered_for_not_after_a_power_cut_either() {
    shows(Bug::NoteUnsynced, 20, |seed| {
        play_by(
            |rules| rules.serve = true,
            seed,
            |scene| async move {
                assert!(settled(&scene.sites, QUIET).await);
                assert_eq!(scene.put(1, "new").await, 204);
                scene.cut_off(1);
                scene.sites[1].crash(true);
                scene.sites[1].start();
                while scene.sites[1].process().is_none() {
                    sleep(Duration::from_millis(10)).await;
                }
                sleep(LEASE * 3).await;
                let answer = scene.get(1).await;
                assert!(answer.status == 503 || answer.near && answer.stale, "{answer:?}");
                answer.status == 503
            },
        )
    });
}

/// R26: a change is refused for what another has done that is on one disk alone, and that disk is lost.
#[test]
fn why_a_change_is_refused_is_on_enough_disks() {
    shows(Bug::ShowByRefusal, 3, |seed| {
        play_by(
            |rules| (rules.durable, rules.strict) = (2, false),
            seed,
            |scene| async move {
                for dir in ["/eng/e", "/eng/e/s"] {
                    assert_eq!(scene.ask(0, "MKCOL", dir, "").await.status, 201);
                }
                assert!(settled(&scene.sites, QUIET).await);
                // They are linked, and hear nothing.
                for copy in [1, 2] {
                    let (hq, copy) = (scene.sites[0].id(), scene.sites[copy].id());
                    scene.net.set_blocked(&hq, &copy, true);
                }
                let moved = async {
                    let moved = scene.transfer(0, "MOVE", "/eng/e", "/eng/d");
                    tokio::time::timeout(Duration::from_secs(2), moved).await.is_ok()
                };
                let made = async {
                    sleep(Duration::from_millis(200)).await;
                    let made = scene.ask(0, "MKCOL", "/eng/d/s", "");
                    tokio::time::timeout(Duration::from_secs(1), made).await
                };
                let (moved, made) = tokio::join!(moved, made);
                assert!(!moved, "it is on one disk");
                let Ok(made) = made else {
                    scene.net.heal();
                    return scene.ask(0, "MKCOL", "/eng/d/s", "").await.status == 405;
                };
                assert_eq!(made.status, 405);
                scene.sites[0].crash(true);
                scene.net.heal();
                // Until it knows that it has no line to hq.
                sleep(LEASE * 2).await;
                let promoted = scene.sites[1].promote(true).expect("a scene asks sites that run").await;
                assert!(matches!(promoted, Ok(Ok(_))), "{promoted:?}");
                scene.ask(1, "PROPFIND", "/eng/d/s/", "").await.status == 207
            },
        )
    });
}

/// R13: the line is back for a moment while the copy waits before it asks for the journal again, and goes once more.
#[test]
fn a_line_that_was_back_for_a_moment_has_not_been_down_since_before_that() {
    for seed in 1..=3 {
        play_by(
            |rules| rules.serve = true,
            seed,
            |scene| async move {
                let (lyon, hq) = (scene.sites[1].id(), scene.sites[0].id());
                let is_up = || scene.net.down_for(&lyon, &hq).is_zero();
                for _ in 0..8 {
                    scene.cut_off(1);
                    sleep(LEASE * 2 + SILENCE).await;
                    assert!(scene.get(1).await.stale, "it is cut off");
                    scene.open(1);
                    while !is_up() {
                        sleep(Duration::from_millis(1)).await;
                    }
                    scene.cut_off(1);
                    scene.net.reset(&lyon);
                    sleep(Duration::from_millis(20)).await;
                    assert!(!is_up() && !scene.get(1).await.stale, "seed {seed}");
                    scene.open(1);
                }
            },
        );
    }
}

/// R14.
#[test]
fn who_does_not_read_has_no_lease_and_is_not_waited_for() {
    shows(Bug::AskUnread, 3, |seed| {
        play(seed, |scene| async move {
            assert_eq!(scene.leased(), ["lyon", "osaka"]);
            sleep(LEASE * 2 + Duration::from_secs(1)).await;
            let lapsed = scene.leased().is_empty();
            scene.cut_off(1);
            let begun = Instant::now();
            assert_eq!(scene.put(0, "new").await, 204);
            lapsed && begun.elapsed() < Duration::from_secs(1)
        })
    });
}

/// R5: neither the copy's disk nor its catalog takes anything, and the writer does not feel it.
#[test]
fn a_hold_waits_for_no_disk() {
    for bug in [Bug::HoldInWordOnly, Bug::HoldBehindDisk] {
        shows(bug, 3, |seed| {
            play(seed, |scene| async move {
                scene.sites[1].set_full(true);
                scene.sites[1].set_state_full(true);
                let begun = Instant::now();
                assert_eq!(scene.put(0, "new").await, 204);
                let prompt = begun.elapsed() < Duration::from_secs(1);
                let answer = scene.get(1).await;
                prompt && !answer.near && answer.body == "new"
            })
        });
    }
}

/// R8: a file that somebody writes all the time is copied all the same.
#[test]
fn what_never_comes_to_rest_is_copied_all_the_same() {
    shows(Bug::WaitForQuiet, 3, |seed| {
        play(seed, |scene| async move {
            let begun = Instant::now();
            let has_old =
                || scene.sites[1].disk.tree().into_values().flatten().any(|data| data == b"old");
            let mut after_two = None;
            while begun.elapsed() < Duration::from_secs(3) {
                assert_eq!(scene.put(0, "new").await, 204);
                if begun.elapsed() > Duration::from_secs(2) {
                    after_two.get_or_insert_with(has_old);
                }
                sleep(Duration::from_millis(50)).await;
            }
            after_two == Some(false)
        })
    });
}

/// R10: the primary promises something else than this copy's map says.
#[test]
fn who_has_another_map_answers_for_nothing_and_changes_nothing_until_it_is_the_same() {
    shows(Bug::IgnoreMaps, 3, |seed| {
        play(seed, |scene| async move {
            let other = Rules { durable: 2, ..scene.rules.clone() };
            scene.sites[1].reload(&other).await;
            // It hears of that with the next hello.
            for _ in 0..60 {
                scene.get(1).await;
                sleep(Duration::from_millis(250)).await;
            }
            let answer = scene.get(1).await;
            assert_eq!(answer.body, "old");
            let leased = scene.leased().contains(&"osaka".to_owned());
            let refused = scene.put(1, "new").await == 503;
            scene.sites[1].reload(&scene.rules).await;
            scene.answers_for_itself(1).await;
            let (put, other) = (scene.put(1, "new").await, scene.get(2).await);
            put == 204 && other.body == "new" && refused && !leased && !answer.near
        })
    });
}

/// R11: the map takes its copy from a site that does not hear of it, and the primary is killed.
#[test]
fn a_lease_of_a_copy_that_the_map_no_longer_has_is_waited_out() {
    shows(Bug::ForgetStrangers, 3, |seed| {
        play(seed, |scene| async move {
            scene.forget_lyon([0, 1]).await;
            scene.answers_for_itself(2).await;
            scene.cut_off(2);
            scene.restart(0).await;
            assert_eq!(scene.put(0, "new").await, 204);
            !scene.get(2).await.near
        })
    });
}

/// R11: the same, and the primary steps down for another that knows nothing of that lease.
#[test]
fn a_lease_of_a_copy_that_the_map_no_longer_has_is_waited_out_before_another_leads() {
    shows(Bug::ForgetStrangers, 3, |seed| {
        play(seed, |scene| async move {
            scene.forget_lyon([0, 1]).await;
            scene.answers_for_itself(2).await;
            scene.cut_off(2);
            let promoted = scene.sites[1].promote(false).expect("a scene asks sites that run").await;
            assert!(matches!(promoted, Ok(Ok(_))), "{promoted:?}");
            assert_eq!(scene.put(1, "new").await, 204);
            !scene.get(2).await.near
        })
    });
}

/// R11: who is promoted knows nothing of the leases that the primary before it gave, but that there may be some.
#[test]
fn a_lease_of_the_primary_before_is_waited_out() {
    shows(Bug::ForgetLeases, 3, |seed| {
        play(seed, |scene| async move {
            scene.answers_for_itself(2).await;
            scene.cut_off(2);
            let promoted = scene.sites[1].promote(false).expect("a scene asks sites that run").await;
            assert!(matches!(promoted, Ok(Ok(_))), "{promoted:?}");
            assert_eq!(scene.put(1, "new").await, 204);
            !scene.get(2).await.near
        })
    });
}

/// R34: a change waits less than two lease times for a planned move, whatever it meets: an upload takes its time, and
/// a copy cannot be reached whose lease must be waited out (R11).
#[test]
fn nobody_waits_two_leases_for_a_planned_move() {
    for seed in 1..=3 {
        play(seed, |scene| async move {
            scene.answers_for_itself(2).await;
            let pieces = stream::unfold(0, |sent| async move {
                sleep(Duration::from_millis(100)).await;
                let piece = Frame::data(Bytes::from_static(b"piece"));
                (sent < 55).then_some((Ok::<_, BoxError>(piece), sent + 1))
            });
            let body = Body::boxed(StreamBody::new(pieces));
            let upload = Request::builder().method("PUT").uri("/eng/g").header("host", "files");
            let upload = scene.send(0, upload.body(body).expect("a request of ours"));
            let moves = async {
                sleep(Duration::from_millis(50)).await;
                scene.cut_off(2);
                let promoted = scene.sites[1].promote(false).expect("a scene asks sites that run");
                sleep(Duration::from_millis(500)).await;
                let begun = Instant::now();
                let waits = async {
                    while scene.put(0, "new").await != 204 {
                        sleep(Duration::from_millis(50)).await;
                    }
                    begun.elapsed()
                };
                let (promoted, waited) = tokio::join!(promoted, waits);
                assert!(matches!(promoted, Ok(Ok(_))), "{promoted:?}");
                assert!(!scene.get(2).await.near, "its lease is over");
                waited
            };
            let (uploaded, waited) = tokio::join!(upload, moves);
            assert_eq!(uploaded.status, 201);
            assert_eq!(scene.primary_at(0), scene.sites[1].id());
            assert!(waited > LEASE && waited < LEASE * 2, "seed {seed}: {waited:?}");
        });
    }
}

/// R11: the same while the primary goes on, which knows whom it gave leases.
#[test]
fn a_lease_of_a_copy_that_the_map_no_longer_has_ends() {
    for seed in 1..=3 {
        play(seed, |scene| async move {
            scene.forget_lyon([0]).await;
            for _ in 0..50 {
                let lyon = scene.get(2).await;
                assert!(lyon.status == 200 && lyon.body == "old");
                sleep(Duration::from_millis(200)).await;
            }
            assert!(!scene.leased().contains(&"lyon".to_owned()));
            assert_eq!(scene.put(0, "new").await, 204);
            assert!(!scene.get(2).await.near);
        });
    }
}

/// R35: what was answered is at one copy, and the other is promoted.
#[test]
fn who_is_promoted_takes_what_the_furthest_copy_has() {
    shows(Bug::PromoteAlone, 3, |seed| {
        play_by(
            |rules| rules.durable = 2,
            seed,
            |scene| async move {
                scene.cut_off(1);
                assert_eq!(scene.put(0, "new").await, 204);
                scene.sites[0].crash(false);
                scene.net.heal();
                // Until it knows that it has no line to hq.
                sleep(LEASE * 2).await;
                let promoted = scene.sites[1].promote(true).expect("a scene asks sites that run").await;
                assert!(matches!(promoted, Ok(Ok(_))), "{promoted:?}");
                scene.get(1).await.body == "new"
            },
        )
    });
}

/// R19: the primary's process dies with what it knows of a change that it has made.
#[test]
fn what_a_primary_before_its_restart_was_sent_is_not_sent_again() {
    shows(Bug::TrustUnknown, 3, |seed| {
        play_by(
            |rules| rules.strict = false,
            seed,
            |scene| async move {
                let (hq, osaka) = (scene.sites[0].id(), scene.sites[1].id());
                scene.net.set_blocked(&hq, &osaka, true);
                let dies = async {
                    sleep(Duration::from_secs(1)).await;
                    assert_eq!(scene.ask(0, "PROPFIND", "/eng/d/", "").await.status, 207, "it is made");
                    scene.net.reset(&osaka);
                    scene.restart(0).await;
                    scene.net.heal();
                };
                let (made, ()) = tokio::join!(scene.ask(1, "MKCOL", "/eng/d/", ""), dies);
                made.status == 504
            },
        )
    });
}

/// R19: what is too large to be sent again comes out of a session that is over, when its client was told that
/// nothing was done.
#[test]
fn what_comes_late_out_of_an_old_session_changes_nothing() {
    const LARGE: &str = match str::from_utf8(&[b'n'; 9000]) {
        Ok(text) => text,
        Err(_) => unreachable!(),
    };
    shows(Bug::TakeLate, 60, |seed| {
        play(seed, |scene| async move {
            let breaks = async {
                sleep(Duration::from_millis(seed % 30)).await;
                scene.net.reset(&scene.sites[1].id());
            };
            let (told, ()) = tokio::join!(scene.put(1, LARGE), breaks);
            sleep(Duration::from_secs(3)).await;
            told != 503 || scene.get(0).await.body == "old"
        })
    });
}

/// Too long to come with its record.
const APART: &str = match std::str::from_utf8(&[b'x'; 5000]) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};

/// R26, R34: who takes over by force stands still when it has asked the others, and they keep more for the old
/// primary meanwhile.
#[test]
fn who_takes_over_by_force_has_what_the_others_kept_meanwhile() {
    shows(Bug::TrustOldReports, 60, |seed| {
        play_by(
            |rules| rules.durable = 2,
            seed,
            |scene| async move {
                scene.cut(0, 1);
                sleep(LEASE * 2).await;
                assert_eq!(scene.ask(0, "PUT", "/eng/g", APART).await.status, 201);
                let promoted = scene.sites[1].promote(true).expect("a scene asks sites that run");
                sleep(Duration::from_millis(seed * 10)).await;
                let live = scene.sites[1].live().expect("a scene asks sites that run");
                live.group.set_paused(true);
                let answered = scene.put(0, "new").await;
                live.group.set_paused(false);
                let leads = matches!(promoted.await, Ok(Ok(_)));
                !leads || answered != 204 || scene.get(1).await.body == "new"
            },
        )
    });
}

/// R33: lyon takes over while hq goes on, hq hears of that and has put nothing aside yet, and lyon is gone too.
#[test]
fn who_takes_over_by_force_takes_nothing_of_an_ended_history() {
    shows(Bug::TakeEnded, 40, |seed| {
        play(seed, |scene| async move {
            let (hq, osaka, lyon) = (0, 1, 2);
            scene.cut_off(hq);
            let ended = scene.ask(hq, "MKCOL", "/eng/ended", "").await.status;
            let takes_over = async |site: usize| {
                let asked = scene.sites[site].promote(true).expect("a scene asks sites that run");
                matches!(asked.await, Ok(Ok(_)))
            };
            if ended != 201 || !takes_over(lyon).await {
                return true;
            }
            while scene.primary_at(osaka) != scene.sites[lyon].id() {
                sleep(Duration::from_millis(1)).await;
            }
            // Before it has a record of that.
            scene.cut(osaka, lyon);
            scene.open(hq);
            while scene.primary_at(hq) != scene.sites[lyon].id() {
                sleep(Duration::from_millis(1)).await;
            }
            sleep(Duration::from_millis(seed * 10)).await;
            scene.cut_off(lyon);
            !takes_over(osaka).await
                || scene.ask(osaka, "PROPFIND", "/eng/ended", "").await.status == 404
        })
    });
}

/// R29: nothing is kept for ever for a copy that does not come.
#[test]
fn a_copy_that_was_away_for_longer_than_the_journal_compares_and_is_sent_nothing_twice() {
    const LATE: [&str; 2] = ["/eng/late", "/eng/later"];
    for seed in 1..=3 {
        play(seed, |scene| async move {
            let (hq, osaka) = (0, 1);
            scene.sites[hq].kept.set(crate::notice::Kept { least: 4, most: 16 });
            scene.restart(hq).await;
            while scene.ask(hq, "PUT", "/eng/g", APART).await.status == 503 {
                sleep(Duration::from_secs(1)).await;
            }
            assert!(settled(&scene.sites, QUIET).await);
            let shelf = |site: usize| scene.sites[site].process().expect("it runs").shelf.clone();
            let handles = |names: &[&str]| -> Vec<_> {
                let path = |name: &&str| RelPath::parse(name.as_bytes()).expect("a path of ours");
                let found = |name| scene.sites[osaka].disk.by_names(&path(name));
                names.iter().map(found).map(|found| found.expect("a copy has it").handle).collect()
            };
            let before = handles(&["f", "g"]);

            scene.cut_off(osaka);
            let behind = shelf(osaka).head().at.seq;
            let mut seconds = 0;
            while shelf(hq).oldest() <= behind.next() {
                assert!(seconds < 200, "{:?} {:?}", shelf(hq).oldest(), shelf(hq).head());
                let put = scene.ask(hq, "PUT", LATE[seconds % 2], APART).await.status;
                assert!([201, 204].contains(&put), "{put}");
                sleep(Duration::from_secs(1)).await;
                seconds += 1;
            }
            assert_eq!(shelf(osaka).head().at.seq, behind);
            scene.open(osaka);
            assert!(settled(&scene.sites, QUIET).await, "{}", unlike(&scene.sites));
            assert_eq!(scene.compared(osaka), 4, "all there is");
            assert_eq!(handles(&["f", "g"]), before, "what is here is not put here again");
            assert_eq!(shelf(osaka).head(), shelf(hq).head());
            assert_eq!(scene.ask(osaka, "GET", "/eng/late", "").await.status, 200);
        });
    }
}

/// R34: a content that no site has keeps nobody from taking over, however many have to be asked for it.
#[test]
fn what_no_site_has_keeps_nobody_from_taking_over() {
    let told = |seed| {
        play_by(
            |rules| rules.sites = 5,
            seed,
            |scene| async move {
                let put = scene.ask(0, "PUT", "/eng/g", APART).await.status;
                assert_eq!(put, 201);
                // Its record is with the others by then, or not, and so is its content.
                sleep(Duration::from_millis(seed * 3)).await;
                scene.cut_off(0);
                sleep(LEASE * 2).await;
                let promoted = scene.sites[1].promote(true).expect("a scene asks sites that run");
                promoted.await.expect("nobody stops it").expect("it takes over")
            },
        )
    };
    let lost = (1..=30).filter(|seed| told(*seed).contains("whose newest contents no site had"));
    assert!(lost.count() > 0, "each time somebody had it");
}
