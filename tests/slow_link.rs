//! A copy's first fill over a line of 2 Mbit/s, 80 ms and a queue of 100 ms, while requests go on:
//! the fill must not starve what people wait for.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use common::cluster::{Plan, Server, nearshare};
use common::lab::{Lab, Line, inside};
use common::{Rng, wait_until};

const ROUND_TRIP: Duration = Duration::from_millis(80);
/// Content to be filled: about 20 s of the line.
const FILES: u64 = 50;
const FILE: usize = 100_000;

#[test]
fn a_first_fill_leaves_room_for_requests() {
    let lab = Lab::new(&Line { round_trip: 80, mbit: 2.0, queue: 100, loss: 0.0 });
    let mut plan = Plan::three(Server::Embedded);
    plan.sites.truncate(2);
    for (site, end) in plan.sites.iter_mut().zip(&lab.ends) {
        site.network = Some((end.ns.clone(), end.address));
    }
    let mut cluster = plan.prepare();
    let mut rng = Rng::new(1);
    for i in 0..FILES {
        // Nothing that compresses.
        let body: Vec<u8> = (0..FILE / 8).flat_map(|_| rng.next().to_le_bytes()).collect();
        std::fs::write(cluster.site("hq").share().join(format!("large-{i}")), body).unwrap();
    }
    let start = Instant::now();
    cluster.start_all();

    let osaka = cluster.site("osaka");
    let socket = osaka.state().join("control.sock");
    let mut seen = None;
    let (mut questions, mut writes) = inside(osaka.ns.as_deref(), || {
        let mut client = osaka.client();
        wait_until("the first answer from home", common::PATIENCE, || {
            match client.put("/docs/small", b"0") {
                Ok(answer) if answer.is_success() => Ok(()),
                other => Err(format!("{other:?}\n{}", osaka.tail())),
            }
        });
        let all = || (0..FILES).all(|i| osaka.share().join(format!("large-{i}")).exists());
        let (mut questions, mut writes) = (Vec::new(), Vec::new());
        while !all() {
            let asked = Instant::now();
            // A condition on locks goes home, and nothing waits for a disk there.
            client.send("HEAD", "/docs/small", &[("If", "(Not <urn:x>)")], b"").unwrap().expect(&[200]);
            questions.push(asked.elapsed());
            if seen.is_none() && questions.len().is_multiple_of(20) {
                seen = progress(&socket);
            }
            if questions.len().is_multiple_of(5) {
                let asked = Instant::now();
                let body = format!("{}", questions.len());
                client.put("/docs/small", body.as_bytes()).unwrap().expect(&[201, 204]);
                writes.push(asked.elapsed());
            }
        }
        (questions, writes)
    });
    // One round trip for the question itself, and what the line's queue and ours may add.
    let limit = 2 * ROUND_TRIP + Duration::from_millis(200);
    let of = |times: &mut Vec<Duration>, percent: usize| {
        times.sort();
        times[times.len() * percent / 100]
    };
    let (p99, median) = (of(&mut questions, 99), of(&mut writes, 50));
    println!(
        "{} questions during the fill: p99 {p99:?}; {} writes: median {median:?}",
        questions.len(),
        writes.len(),
    );
    says_how_far_it_is(seen, &osaka.log_text());
    assert!(questions[0] >= ROUND_TRIP, "{:?}: that one was not answered at hq", questions[0]);
    assert!(questions.len() >= 100, "{} questions are too few for a p99", questions.len());
    assert!(p99 < limit, "p99 {p99:?} of {} questions, the limit is {limit:?}", questions.len());
    // A write waits for the primary's disk as well, which other work may hold up now and then.
    assert!(median < limit, "median {median:?} of {} writes, the limit is {limit:?}", writes.len());
    cluster.settle_within(Duration::from_secs(120));
    println!("filled after {:?}", start.elapsed());
}

/// How `status` says that contents arrive.
fn progress(socket: &Path) -> Option<String> {
    let output = nearshare(&["status", "--socket", socket.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().find(|line| line.contains("contents arrive at")).map(str::to_owned)
}

/// Who looks is told how much is left, how fast it comes and how long it takes, and so is the log.
fn says_how_far_it_is(seen: Option<String>, log: &str) {
    let seen = seen.expect("status says how fast contents arrive");
    assert!(seen.contains("files/s") && seen.ends_with(" left"), "{seen}");
    let filling = log.lines().find(|line| line.contains(" filling ")).expect(log);
    for field in
        ["files_left=", "bytes_left=", "files_per_second=", "bytes_per_second=", "seconds_left="]
    {
        assert!(filling.contains(field), "{filling}");
    }
}

#[test]
fn a_lossy_line_that_breaks_converges() {
    let lab = Lab::new(&Line { round_trip: 40, mbit: 20.0, queue: 100, loss: 1.0 });
    let mut plan = Plan::three(Server::Embedded);
    plan.sites.truncate(2);
    for (site, end) in plan.sites.iter_mut().zip(&lab.ends) {
        site.network = Some((end.ns.clone(), end.address));
    }
    let cluster = plan.start();
    let hq = cluster.site("hq");
    inside(hq.ns.as_deref(), || {
        let mut client = hq.client();
        for i in 0..100 {
            client.put(&format!("/docs/f{i}"), &vec![i; 5_000]).unwrap().expect(&[201]);
            match i {
                30 => lab.cut(),
                60 => lab.heal(),
                _ => {}
            }
        }
    });
    cluster.settle();
}
