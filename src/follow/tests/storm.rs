//! Random histories of a share, applied in random pieces while the process dies at random moments. In
//! the end the copy is what the share is.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::faulty::{Crashed, Fate};
use super::rig::Rig;
use super::share::{Entry, Share, name};
use crate::follow::applier::{Arrived, Job, Step};
use crate::follow::lock;
use crate::id::ObjectId;
use crate::object::Kind;
use crate::seeds::seeds;

/// Histories unless NEARSHARE_SEEDS says how many.
const SEEDS: u64 = 60;

struct Storm {
    rng: StdRng,
    share: Share,
    rig: Rig,
    hidden: Vec<ObjectId>,
    /// Contents under way.
    flying: Vec<Arrived>,
    crashes: bool,
    /// A file had two names once.
    linked: bool,
}

impl Storm {
    fn new(seed: u64, crashes: bool) -> Self {
        let mut share = Share::new();
        let rig = Rig::new(&mut share);
        let rng = StdRng::seed_from_u64(seed);
        Self { rng, share, rig, hidden: Vec::new(), flying: Vec::new(), crashes, linked: false }
    }

    fn any(&mut self, kind: impl Fn(Kind) -> bool) -> Option<Entry> {
        let all: Vec<&Entry> = self
            .share
            .names
            .iter()
            .filter(|(_, id)| kind(self.share.objects[id].kind))
            .map(|(entry, _)| entry)
            .collect();
        all.choose(&mut self.rng).map(|entry| (*entry).clone())
    }
    /// Few directories and few names, so that they meet.
    fn place(&mut self) -> Entry {
        let mut dirs = vec![ObjectId::ROOT; 2];
        dirs.extend(
            self.share
                .objects
                .values()
                .filter(|object| {
                    object.kind == Kind::Directory && self.share.is_below(object.id, ObjectId::ROOT)
                })
                .map(|object| object.id),
        );
        dirs.sort();
        let dir = *dirs.choose(&mut self.rng).unwrap();
        (dir, name(["a", "b", "c", "d"].choose(&mut self.rng).unwrap()))
    }
    fn data(&mut self) -> Vec<u8> {
        let len = *[0, 3, 3, 5, 900].choose(&mut self.rng).unwrap();
        (0..len).map(|_| self.rng.random_range(b'a'..b'c')).collect()
    }

    /// One thing that a client does.
    fn change(&mut self) {
        let to = self.place();
        let there = self.share.names.get(&to).copied();
        let there_dir = there.is_some_and(|id| self.share.objects[&id].kind == Kind::Directory);
        match self.rng.random_range(0..106) {
            0..18 if !there_dir => {
                let data = self.data();
                self.share.file_at(to, &data);
            }
            18..36 => {
                if let Some(entry) = self.any(|kind| kind == Kind::File) {
                    let data = self.data();
                    self.share.write_to(self.share.names[&entry], &data);
                }
            }
            36..48 if there.is_none() => {
                self.share.make_at(to, Kind::Directory, |_| {});
            }
            48..66 => self.rename(to),
            66..72 => self.rotate(),
            72..78 if !there_dir => {
                if let Some(entry) = self.any(|kind| kind != Kind::Directory) {
                    self.share.link_at(self.share.names[&entry], to);
                    self.linked = true;
                }
            }
            78..86 if there.is_some() => self.share.unlink_at(to),
            86..89 if there.is_none() => {
                self.share.make_at(to, Kind::Symlink, |object| object.target = b"a/../b".to_vec());
            }
            89..93 => {
                if let Some(entry) = self.any(|kind| kind != Kind::Symlink) {
                    let mut object = self.share.objects[&self.share.names[&entry]].clone();
                    object.attrs.mode = *[0o600, 0o755, 0o4711].choose(&mut self.rng).unwrap();
                    object.attrs.uid = self.rng.random_range(0..3);
                    self.share.put(object);
                }
            }
            93..95 if there.is_some() => {
                let id = self.share.hide(to);
                self.hidden.push(id);
            }
            95..98 => self.show(),
            // In the row, and apart from it.
            98..106 => {
                if let Some(entry) = self.any(|_| true) {
                    let lengths: [&[usize]; 5] = [&[], &[0], &[3, 5], &[2000], &[2000, 1]];
                    let id = self.share.names[&entry];
                    self.share.dress(id, lengths.choose(&mut self.rng).unwrap());
                }
            }
            _ => {}
        }
        let (share, hidden) = (&self.share, &mut self.hidden);
        hidden.retain(|id| share.objects.contains_key(id) && share.links(*id).is_empty());
    }
    fn rename(&mut self, to: Entry) {
        let Some(from) = self.any(|_| true) else { return };
        let id = self.share.names[&from];
        let there = self.share.names.get(&to).copied();
        let kind = |id: ObjectId| self.share.objects[&id].kind == Kind::Directory;
        let fits = there.is_none_or(|there| {
            kind(there) == kind(id) && there != id && self.share.children(there).is_empty()
        });
        if from != to && fits && !self.share.is_below(to.0, id) {
            self.share.rename_at(from, to);
        }
    }
    /// Two or three entries change places in one step.
    fn rotate(&mut self) {
        let many = self.rng.random_range(2..4);
        let entries: Vec<Entry> = (0..many).filter_map(|_| self.any(|_| true)).collect();
        let distinct = |at: usize, other: usize| {
            at == other
                || entries[at] != entries[other]
                    && !self.share.is_below(entries[at].0, self.share.names[&entries[other]])
                    && self.share.names[&entries[at]] != self.share.names[&entries[other]]
        };
        let all = entries.len();
        if all > 1 && (0..all).all(|at| (0..all).all(|other| distinct(at, other))) {
            self.share.rotate(&entries);
        }
    }
    fn show(&mut self) {
        let Some(id) = self.hidden.pop() else { return };
        let to = self.place();
        if self.share.names.contains_key(&to) || self.share.is_below(to.0, id) {
            self.hidden.push(id);
        } else {
            self.share.link_at(id, to);
        }
    }

    /// One thing that happens at the copy.
    fn happen(&mut self) {
        match self.rng.random_range(0..10) {
            0..4 => {
                let many = self.rng.random_range(0..=self.share.records.len());
                let some: Vec<_> = self.share.records.drain(..many).collect();
                let again = some.clone();
                if !self.step(Step::Job(Rig::records(some, Vec::new()))) {
                    // Not acknowledged: sent again, from where the copy's journal ends.
                    let at = self.rig.shelf().head().at;
                    let left = again.into_iter().filter(|record| record.at > at);
                    self.share.records.splice(..0, left);
                }
            }
            4..6 => {
                let many = self.rng.random_range(1..6);
                let arrived = self.rig.fetch(&self.share, many);
                self.flying.extend(arrived);
            }
            6..9 => {
                let many = self.rng.random_range(0..=self.flying.len());
                let some = self.flying.drain(..many).collect();
                self.step(Step::Job(Job::Contents(some)));
            }
            _ => {
                self.rig.clock.on(2);
                self.step(Step::Idle);
            }
        }
    }

    /// One step of the applier, during which its disk may fail or its process die.
    fn step(&mut self, mut step: Step) -> bool {
        if self.rng.random_bool(0.2) {
            let after = self.rng.random_range(0..12);
            let crash = self.crashes && self.rng.random_bool(0.6);
            let fate = if crash { Fate::Crash } else { Fate::Fail(libc::EIO) };
            self.rig.tree().doom(after, fate);
        }
        loop {
            let rig = &mut self.rig;
            match catch_unwind(AssertUnwindSafe(|| rig.try_step(&mut step))) {
                Ok(Ok(())) => {
                    self.rig.tree().spare();
                    return true;
                }
                Ok(Err(error)) => assert!(error.to_string().contains("the test"), "{error}"),
                Err(panic) if panic.is::<Crashed>() => {
                    self.after_crash();
                    return false;
                }
                Err(panic) => resume_unwind(panic),
            }
        }
    }
    fn after_crash(&mut self) {
        self.flying.clear();
        self.rig.crash();
        loop {
            self.rig.open();
            if self.rng.random_bool(0.3) {
                self.rig.tree().doom(self.rng.random_range(0..12), Fate::Crash);
            }
            let applier = self.rig.applier();
            match catch_unwind(AssertUnwindSafe(|| applier.take_up())) {
                Ok(done) => {
                    done.unwrap();
                    self.rig.tree().spare();
                    return;
                }
                Err(panic) if panic.is::<Crashed>() => self.rig.crash(),
                Err(panic) => resume_unwind(panic),
            }
        }
    }

    fn blow(mut self) {
        for _ in 0..self.rng.random_range(5..40) {
            for _ in 0..self.rng.random_range(0..8) {
                self.change();
                if self.rng.random_bool(0.5) {
                    self.share.publish();
                }
            }
            self.share.publish();
            for _ in 0..self.rng.random_range(0..4) {
                self.happen();
            }
        }
        while let Some(id) = self.hidden.pop() {
            self.share.orphan(id);
        }
        self.rig.feed(&mut self.share);
        let flying = std::mem::take(&mut self.flying);
        self.rig.job(Job::Contents(flying));
        self.rig.pay_all(&self.share);
        self.rig.assert_settled(&self.share);
        // A replaced name may still show an old version of a file that lives on under another name and
        // has got a new one since: that is no longer known as ours, and kept.
        if !self.crashes && !self.linked {
            assert_eq!(self.rig.kept(), [""; 0], "nothing here was foreign");
        }
        self.rig.restart();
        self.rig.assert_settled(&self.share);
        assert!(lock(&self.rig.follow().owed).is_empty());
    }
}

fn all(crashes: bool) {
    for seed in seeds(SEEDS) {
        Storm::new(seed, crashes).blow();
    }
}

#[test]
fn any_history_over_any_failure_ends_as_the_share_is() {
    all(false);
}

#[test]
fn any_history_over_any_crash_ends_as_the_share_is() {
    all(true);
}
