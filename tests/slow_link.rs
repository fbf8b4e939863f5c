//! A copy's first fill over a line of 2 Mbit/s, 80 ms and a queue of 100 ms, while requests go on:
//! the fill must not starve what people wait for.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::time::{Duration, Instant};

use common::cluster::{Plan, Server};
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
    let mut times = inside(osaka.ns.as_deref(), || {
        let mut client = osaka.client();
        wait_until("the first answer from home", common::PATIENCE, || {
            match client.put("/docs/small", b"0") {
                Ok(answer) if answer.is_success() => Ok(()),
                other => Err(format!("{other:?}\n{}", osaka.tail())),
            }
        });
        let mut times = Vec::new();
        while !osaka.share().join(format!("large-{}", FILES - 1)).exists() || times.len() < 50 {
            let asked = Instant::now();
            client
                .put("/docs/small", format!("{}", times.len()).as_bytes())
                .unwrap()
                .expect(&[201, 204]);
            times.push(asked.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
        times
    });
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    println!("{} writes during the fill: median {:?}, p99 {p99:?}", times.len(), times[times.len() / 2]);
    // One round trip for the write itself, and what the line's queue and ours may add.
    let limit = 2 * ROUND_TRIP + Duration::from_millis(200);
    assert!(p99 < limit, "p99 {p99:?} of {} writes, the limit is {limit:?}", times.len());
    cluster.settle_within(Duration::from_secs(120));
    println!("filled after {:?}", start.elapsed());
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
