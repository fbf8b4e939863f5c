//! Fifty clients at three sites write into one directory at once.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeSet;

use common::Rng;
use common::cluster::{Plan, Server};

const WRITERS: u64 = 50;
const ROUNDS: u64 = 12;

/// A file whose every line says who wrote it, so that a mixture shows.
fn content(writer: u64, round: u64) -> Vec<u8> {
    let lines = 1 + (writer * 7 + round * 13) % 400;
    format!("writer {writer} round {round}\n").repeat(lines as usize).into_bytes()
}

#[test]
fn fifty_writers_in_one_directory() {
    for server in [Server::Nginx, Server::Embedded] {
        let cluster = Plan::three(server).start();
        cluster.site("hq").client().mkcol("/docs/all/").unwrap().expect(&[201]);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let site = &cluster.sites[writer as usize % cluster.sites.len()];
                scope.spawn(move || {
                    let mut rng = Rng::new(writer);
                    let mut client = site.client();
                    for round in 0..ROUNDS {
                        let own = format!("/docs/all/own-{writer}");
                        client.put(&own, &content(writer, round)).unwrap().expect(&[201, 204]);
                        let seen = client.get(&own).unwrap().expect(&[200]).body;
                        assert!(
                            seen == content(writer, round),
                            "{own} at {}: not the own write",
                            site.name
                        );
                        let contended = format!("/docs/all/contended-{}", rng.below(4));
                        client.put(&contended, &content(writer, round)).unwrap().expect(&[201, 204]);
                        // Somebody else may have moved or removed it first.
                        let moved = format!("/docs/all/moved-{}", rng.below(4));
                        client.transfer("MOVE", &contended, &moved).unwrap().expect(&[201, 204, 404]);
                    }
                });
            }
        });
        cluster.settle();
        for site in &cluster.sites {
            let directory = site.share().join("all");
            for writer in 0..WRITERS {
                let seen = std::fs::read(directory.join(format!("own-{writer}"))).unwrap();
                assert!(seen == content(writer, ROUNDS - 1), "own-{writer} at {}", site.name);
            }
            for entry in std::fs::read_dir(&directory).unwrap() {
                let path = entry.unwrap().path();
                let text = std::fs::read_to_string(&path).unwrap();
                let writers: BTreeSet<&str> = text.lines().collect();
                assert_eq!(writers.len(), 1, "{} mixes {writers:?}", path.display());
            }
        }
    }
}
