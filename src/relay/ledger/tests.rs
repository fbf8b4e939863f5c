//! Every row of the ledger's table, and storms in which messages come late or never, sessions and
//! processes end, and time passes: nothing is carried out twice, and what is told is true.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::seeds::{picked, seeds};

fn at(seconds: u64) -> BootTime {
    BootTime(Duration::from_secs(seconds))
}
fn id(number: u64) -> ChangeId {
    ChangeId { sender: 1, number }
}
fn session(count: u64) -> Session {
    Session(1, count)
}
fn ask(number: u64, sent: u64, from: u64) -> Ask {
    Ask { id: id(number), sent: session(sent), from: session(from), since: session(1) }
}
fn heard() -> Ledger<&'static str> {
    let mut ledger = Ledger::default();
    assert_eq!(ledger.begin(id(1), session(1), at(0)), Begin::Go);
    ledger
}

#[test]
fn what_began_is_told_and_is_begun_once() {
    let mut ledger = heard();
    assert_eq!(ledger.outcome(ask(1, 1, 2), at(1)), Outcome::UnderWay);
    assert_eq!(ledger.begin(id(1), session(2), at(1)), Begin::Known);
    ledger.end(id(1), Some(("done", 4)), at(1));
    for (sent, from) in [(1, 2), (2, 2), (2, 3)] {
        assert_eq!(ledger.outcome(ask(1, sent, from), at(2)), Outcome::Answered("done"));
    }
    assert_eq!(ledger.begin(id(1), session(3), at(2)), Begin::Known);
    ledger.begin(id(2), session(3), at(2));
    ledger.end(id(2), None, at(2));
    assert_eq!(ledger.outcome(ask(2, 3, 4), at(2)), Outcome::Unknown);
}

#[test]
fn what_never_came_is_not_begun_and_never_will_be() {
    let mut ledger = heard();
    assert_eq!(ledger.outcome(ask(2, 1, 2), at(1)), Outcome::NotBegun);
    assert_eq!(ledger.begin(id(2), session(1), at(1)), Begin::Late, "on the connection before");
    assert_eq!(ledger.begin(id(3), session(1), at(1)), Begin::Late);
    assert_eq!(ledger.begin(id(2), session(2), at(1)), Begin::Go, "sent again");
    assert_eq!(ledger.outcome(ask(2, 2, 3), at(1)), Outcome::UnderWay);
    // The very first thing that this process hears of a site.
    assert_eq!(Ledger::<u8>::default().outcome(ask(1, 1, 2), at(1)), Outcome::NotBegun);
}

#[test]
fn of_what_may_have_come_nothing_is_told() {
    // In the session in which it was sent: it may be on its way.
    assert_eq!(heard().outcome(ask(2, 2, 2), at(1)), Outcome::Unknown);
    // Sent when another process was here.
    let before = Ask { since: session(3), ..ask(2, 2, 4) };
    assert_eq!(heard().outcome(before, at(1)), Outcome::Unknown);
    // Asked for over a link that has been replaced.
    let mut ledger = heard();
    ledger.begin(id(2), session(3), at(1));
    assert_eq!(ledger.outcome(ask(3, 1, 2), at(1)), Outcome::Unknown);
    assert_eq!(ledger.outcome(ask(2, 3, 2), at(1)), Outcome::Unknown);
    // The share was elsewhere meanwhile.
    let mut ledger = heard();
    ledger.end(id(1), Some(("done", 4)), at(1));
    ledger.forget_all();
    assert_eq!(ledger.outcome(ask(1, 1, 2), at(1)), Outcome::Unknown);
    assert_eq!(ledger.outcome(ask(2, 1, 2), at(1)), Outcome::Unknown);
    assert_eq!(ledger.outcome(ask(2, 2, 3), at(1)), Outcome::NotBegun);
}

#[test]
fn answers_are_kept_for_a_time_and_not_without_number() {
    let mut ledger = heard();
    ledger.end(id(1), Some(("done", 4)), at(10));
    assert_eq!(ledger.outcome(ask(1, 1, 2), at(69)), Outcome::Answered("done"));
    assert_eq!(ledger.outcome(ask(1, 1, 2), at(70)), Outcome::Unknown);
    assert_eq!(ledger.outcome(ask(2, 1, 2), at(70)), Outcome::NotBegun, "a later one");
    let many = ANSWERS_MAX as u64 + 2;
    for (bytes, left) in [(1, ANSWERS_MAX), (BYTES_MAX / 4, 4)] {
        let mut ledger = heard();
        for number in 2..=many {
            ledger.begin(id(number), session(1), at(1));
            ledger.end(id(number), Some(("done", bytes)), at(1));
        }
        assert_eq!((ledger.ended.len(), ledger.rows.len()), (left, left + 1));
        assert_eq!(ledger.bytes, left * bytes);
        assert_eq!(ledger.outcome(ask(2, 1, 2), at(1)), Outcome::Unknown);
        assert_eq!(ledger.outcome(ask(many, 1, 2), at(1)), Outcome::Answered("done"));
        assert_eq!(ledger.outcome(ask(1, 1, 2), at(1)), Outcome::UnderWay, "however old");
    }
}

#[test]
fn a_sender_that_starts_anew_takes_the_place_of_the_one_before() {
    let mut ledger = heard();
    ledger.end(id(1), Some(("done", 4)), at(1));
    let anew = ChangeId { sender: 2, number: 1 };
    assert_eq!(ledger.begin(anew, session(2), at(1)), Begin::Go);
    assert_eq!(ledger.begin(id(2), session(1), at(1)), Begin::Late);
    // What runs of the old one is told to nobody.
    ledger.end(id(1), Some(("old", 3)), at(1));
    ledger.end(anew, Some(("new", 3)), at(1));
    let asked = Ask { id: anew, ..ask(1, 2, 3) };
    assert_eq!(ledger.outcome(asked, at(1)), Outcome::Answered("new"));
    // Somebody who was thought dead is told nothing of before.
    assert_eq!(ledger.outcome(ask(2, 2, 4), at(1)), Outcome::Unknown);
}

/// A sender, the line and the process that answers.
struct Storm {
    rng: StdRng,
    now: u64,
    session: u64,
    /// The primary's process began with this one.
    since: u64,
    sender: u128,
    next: u64,
    ledger: Ledger<u64>,
    /// What is on a line to this process: it may come at any time, or never.
    coming: Vec<(ChangeId, u64)>,
    running: Vec<ChangeId>,
    /// What the sender waits for, and the session in which it was sent last.
    waits: BTreeMap<u64, u64>,
    carried: BTreeMap<(u128, u64), u32>,
    told: BTreeMap<&'static str, u32>,
}

impl Storm {
    fn new(seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            now: 1000,
            session: 1,
            since: 1,
            sender: 1,
            next: 1,
            ledger: Ledger::default(),
            coming: Vec::new(),
            running: Vec::new(),
            waits: BTreeMap::new(),
            carried: BTreeMap::new(),
            told: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..30 => {
                self.send(self.next);
                self.next += 1;
            }
            30..55 => self.arrive(),
            55..70 => self.end(),
            70..90 => self.ask(),
            90..96 => self.session += 1,
            96 => self.now += self.rng.random_range(1..90),
            97 => {
                // The primary's process ends, and with it all that was on its lines.
                (self.ledger, self.coming, self.running) = Default::default();
                self.session += 1;
                self.since = self.session;
            }
            98 => self.ledger.forget_all(),
            _ => {
                // The sender's process ends; what is on its lines may still come.
                self.sender += 1;
                self.session += 1;
                self.next = self.rng.random_range(1..3);
                self.waits.clear();
            }
        }
    }

    fn send(&mut self, number: u64) {
        self.coming.push((ChangeId { sender: self.sender, number }, self.session));
        self.waits.insert(number, self.session);
    }

    fn arrive(&mut self) {
        if self.coming.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.coming.len());
        let (id, from) = self.coming.swap_remove(which);
        match self.ledger.begin(id, session(from), at(self.now)) {
            Begin::Go => {
                let carried = self.carried.entry((id.sender, id.number)).or_default();
                *carried += 1;
                assert_eq!(*carried, 1, "{id:?} is carried out again");
                self.running.push(id);
            }
            Begin::Late => self.count("late"),
            Begin::Known => panic!("{id:?} was sent again although it came"),
        }
    }

    fn end(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.running.len());
        let id = self.running.swap_remove(which);
        let answer = self.rng.random_bool(0.9).then_some((id.number, 100));
        self.ledger.end(id, answer, at(self.now));
    }

    /// One whose line has broken.
    fn ask(&mut self) {
        let lost: Vec<(u64, u64)> = self.waits.clone().into_iter().collect();
        let Some((number, sent)) = lost.choose(&mut self.rng).copied() else { return };
        let id = ChangeId { sender: self.sender, number };
        let sessions = (session(sent), session(self.session), session(self.since));
        let asked = Ask { id, sent: sessions.0, from: sessions.1, since: sessions.2 };
        let carried = self.carried.contains_key(&(id.sender, number));
        match self.ledger.outcome(asked, at(self.now)) {
            Outcome::UnderWay => {
                assert!(self.running.contains(&id), "{id:?} is not under way");
                return self.count("under way");
            }
            Outcome::Answered(answer) => {
                assert!(carried && answer == number, "{id:?} was not answered so");
                self.count("answered");
            }
            Outcome::NotBegun => {
                assert!(!carried, "{id:?} was begun");
                self.count("not begun");
                if self.rng.random_bool(0.7) {
                    return self.send(number);
                }
            }
            Outcome::Unknown => self.count("unknown"),
        }
        self.waits.remove(&number);
    }

    fn count(&mut self, what: &'static str) {
        *self.told.entry(what).or_default() += 1;
    }
}

#[test]
fn storms() {
    let (mut told, mut many) = (BTreeMap::<&str, u32>::new(), 0);
    for seed in seeds(300) {
        let mut storm = Storm::new(seed);
        for _ in 0..1000 {
            storm.step();
        }
        many += 1;
        for (what, times) in storm.told {
            *told.entry(what).or_default() += times;
        }
    }
    for what in ["late", "under way", "answered", "not begun", "unknown"] {
        let times = told.get(what).copied().unwrap_or(0);
        assert!(times > many || picked().is_some(), "{told:?}");
    }
}
