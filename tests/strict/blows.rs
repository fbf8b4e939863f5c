//! What goes wrong in a storm, and the silence after it.

use std::sync::RwLockWriteGuard;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::Mode;
use crate::common::cluster::{Cluster, nearshare};
use crate::common::history::names::Op;
use crate::common::history::{Call, End};
use crate::common::lab::inside;
use crate::common::mesh::Mesh;
use crate::common::{PATIENCE, Rng, wait_for, wait_until};
use crate::visitor::{Ground, Visitor};

/// How long a lease lasts, in the map's default.
const LEASE: Duration = Duration::from_secs(5);
/// Until a change that broke off is believed to be over.
const DOUBT: Duration = Duration::from_secs(12);
const COPIES: [&str; 2] = ["osaka", "lyon"];
/// Clients that come to a site just before it wakes up.
const LATE: u32 = 4;

/// Until a copy knows that its link is down, and that it has been for longer than a lease (R13).
const KNOWN_DOWN: Duration = Duration::from_secs(13);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// For longer than a lease lasts: it must not answer from what it knew before.
    FreezeCopy,
    FreezePrimary,
    /// Packets are lost in one direction between hq and a copy.
    OneWay,
    BothWays,
    /// Both ways, for longer than a lease lasts; until the copy serves what it has, if it ever does.
    CutOff,
    KillPrimary,
    KillCopy,
    /// The primary copy moves to another site and, some time later, back again.
    Promote,
}

/// Where the blows are dealt, and what comes of it.
pub struct Field<'a> {
    pub mode: Mode,
    pub mesh: &'a Mesh,
    pub ground: &'a Ground,
    /// Calls of those who came late, or looked around in a silence.
    pub late: Vec<Call<Op>>,
    /// When everything had come to rest.
    pub settled: Vec<u64>,
}

impl Blow {
    /// What any share must stand.
    const ALL: [Self; 7] = [
        Self::FreezeCopy,
        Self::OneWay,
        Self::KillPrimary,
        Self::KillCopy,
        Self::BothWays,
        Self::FreezePrimary,
        Self::CutOff,
    ];

    /// All in any order.
    pub fn shuffled(rng: &mut Rng, mode: Mode) -> Vec<Self> {
        let mut blows = Self::ALL.to_vec();
        if mode == Mode::Durable {
            blows.push(Self::Promote);
        }
        shuffle(rng, &mut blows);
        blows
    }

    pub fn deal(&self, rng: &mut Rng, cluster: &mut Cluster, field: &mut Field<'_>) {
        let copy = *rng.pick(&COPIES);
        let at = field.ground.now() as f64 / 1e9;
        println!("{} {at:>8.1} s: {self:?} ({copy})", field.mode.name());
        match self {
            Self::FreezeCopy => {
                cluster.site(copy).freeze();
                std::thread::sleep(LEASE + rng.millis(500, 1200));
                field.visit_and_thaw(rng, cluster, copy);
            }
            Self::FreezePrimary => {
                cluster.site("hq").freeze();
                std::thread::sleep(rng.millis(500, 3000));
                field.visit_and_thaw(rng, cluster, "hq");
            }
            Self::OneWay => {
                let mut ends = ["hq", copy];
                shuffle(rng, &mut ends);
                field.mesh.drop_from_to(ends[0], ends[1]);
                std::thread::sleep(rng.millis(300, 3000));
                field.mesh.heal();
            }
            Self::BothWays | Self::CutOff => {
                {
                    // A copy that holds everything when it is cut off serves nothing either.
                    let _silent = matches!(self, Self::CutOff).then(|| field.rest(cluster));
                    field.mesh.drop_from_to("hq", copy);
                    field.mesh.drop_from_to(copy, "hq");
                }
                let least = match (self, field.mode) {
                    (Self::CutOff, Mode::Serve) => KNOWN_DOWN,
                    (Self::CutOff, _) => LEASE,
                    _ => Duration::ZERO,
                };
                std::thread::sleep(least + rng.millis(300, 2500));
                field.mesh.heal();
            }
            Self::KillPrimary => restart(rng, cluster, "hq"),
            Self::KillCopy => restart(rng, cluster, copy),
            Self::Promote => {
                promote(cluster, copy);
                std::thread::sleep(rng.millis(700, 1500));
                promote(cluster, "hq");
            }
        }
    }
}

/// Every site knows it afterwards.
fn promote(cluster: &Cluster, to: &str) {
    ask_to_lead(cluster, to, &[]);
    for site in &cluster.sites {
        wait_until(&format!("{} to follow {to}", site.name), PATIENCE, || {
            let share = site.status()?["shares"][0].clone();
            if share["primary"] == to { Ok(()) } else { Err(share.to_string()) }
        });
    }
}

/// Although the site that leads cannot be reached.
pub fn promote_with_loss(cluster: &Cluster, to: &str) {
    ask_to_lead(cluster, to, &["--accept-loss"]);
}

/// A site that has just come back may have to catch up first.
fn ask_to_lead(cluster: &Cluster, to: &str, how: &[&str]) {
    let socket = cluster.site(to).state().join("control.sock");
    let line = ["promote", "docs", "--to", to, "--socket", socket.to_str().unwrap()];
    wait_until(&format!("{to} to lead"), PATIENCE, || {
        let output = nearshare(&[&line[..], how].concat());
        let said =
            || String::from_utf8_lossy(&[output.stdout.clone(), output.stderr.clone()].concat()).into();
        if output.status.success() { Ok(()) } else { Err::<(), String>(said()) }
    });
}

fn restart(rng: &mut Rng, cluster: &mut Cluster, site: &str) {
    cluster.site_mut(site).kill();
    std::thread::sleep(rng.millis(1, 600));
    cluster.start(site);
}

fn shuffle<T>(rng: &mut Rng, list: &mut [T]) {
    for last in (1..list.len()).rev() {
        list.swap(last, rng.below(last as u64 + 1) as usize);
    }
}

impl<'a> Field<'a> {
    /// Clients whose requests wait at the sleeping site's door are the first that it answers.
    fn visit_and_thaw(&mut self, rng: &mut Rng, cluster: &Cluster, site: &str) {
        let asleep = cluster.site(site);
        let ground = self.ground;
        let seeds: Vec<u64> = (0..LATE).map(|_| rng.next()).collect();
        let found = std::thread::scope(|scope| {
            let late: Vec<_> = (100..)
                .zip(seeds)
                .map(|(number, seed)| {
                    scope.spawn(move || {
                        inside(asleep.ns.as_deref(), || {
                            let mut late =
                                Visitor::new(asleep.name, number, seed, asleep.client(), ground);
                            late.look_around();
                            late.calls
                        })
                    })
                })
                .collect();
            std::thread::sleep(rng.millis(100, 300));
            asleep.thaw();
            late.into_iter().flat_map(|late| late.join().unwrap()).collect::<Vec<_>>()
        });
        self.late.extend(found);
    }

    /// Stops all visitors, and waits until all sites have the same.
    fn rest(&self, cluster: &Cluster) -> RwLockWriteGuard<'a, ()> {
        let silent = self.ground.gate.write().unwrap();
        // What was sent and never answered may still be on its way to the server, or wait for a hold.
        std::thread::sleep(Duration::from_millis(500));
        let since = Instant::now();
        wait_for("the primary to come to rest", || at_rest(cluster, since));
        cluster.settle();
        silent
    }

    /// A rest in which everything is looked at, at each site.
    pub fn silence(&mut self, cluster: &Cluster) {
        let ground = self.ground;
        let _silent = self.rest(cluster);
        for (number, site) in (200..).zip(&cluster.sites) {
            let calls = inside(site.ns.as_deref(), || {
                let mut visitor = Visitor::new(site.name, number, 1, site.client(), ground);
                visitor.look_around();
                visitor.calls
            });
            self.late.extend(calls);
        }
        // Only here: what has happened is best told by these looks.
        self.settled.push(self.ground.now());
        self.ground.made.fetch_add(1, Ordering::Relaxed);
    }
}

/// Nothing has begun that is not in the journal, but for what nobody may ever know the end of.
fn at_rest(cluster: &Cluster, since: Instant) -> bool {
    let Ok(status) = cluster.primary().status() else { return false };
    let home = &status["shares"][0]["home"];
    let number = |key: &str| home[key].as_u64().unwrap_or(u64::MAX);
    let rest = number("marks") == 0 || (number("suspects") > 0 && since.elapsed() > DOUBT);
    rest && home["waits_for_old_leases"] == false
}

/// A change whose end nobody knows has happened by the next silence, or never will.
pub fn expire(calls: &mut [Call<Op>], settled: &[u64]) {
    for call in calls {
        let silence = settled.iter().find(|at| **at > call.called);
        if let (End::Unknown { until }, Some(silence)) = (&mut call.end, silence) {
            *until = *silence;
        }
    }
}
