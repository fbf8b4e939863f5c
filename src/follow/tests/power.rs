//! A machine whose power is cut: what a copy had told of before must be there after it (R23). On a model of the
//! disk and of the catalog's, which lose all that they were not told to sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::faulty::Fate;
use super::rig::Rig;
use super::share::Share;
use crate::catalog::memory::Memory;
use crate::catalog::{Catalog, Inline, Shelf};
use crate::clock::{BootTime, Clock, WallTime};
use crate::follow::applier::{Applier, Job, Step};
use crate::follow::fetch::{Asked, Small, put_aside};
use crate::follow::owed::Lane;
use crate::follow::{Config, Follow, lock};
use crate::id::Position;
use crate::object::Kind;
use crate::tree::model::Model;

/// Time stamps never stand still, and seconds pass when the test says so.
#[derive(Default)]
struct Hand {
    seconds: AtomicU64,
    looks: AtomicI64,
}

impl Clock for Hand {
    fn boot(&self) -> BootTime {
        BootTime(Duration::from_secs(self.seconds.load(Ordering::SeqCst)))
    }
    fn wall(&self) -> WallTime {
        let looks = self.looks.fetch_add(1, Ordering::SeqCst);
        WallTime(1_795_262_400_000_000_000 + looks * 10_000_000)
    }
}

struct Machine {
    clock: Arc<Hand>,
    disk: Model,
    state: Memory,
    live: Option<Live>,
}

struct Live {
    applier: Applier<Model>,
    shelf: Arc<Shelf>,
    _inbox: mpsc::Receiver<Job>,
    _catalog: Arc<Catalog>,
}

impl Machine {
    /// With a copy that has compared with the primary and has all of it.
    fn new(share: &mut Share) -> Self {
        let clock = Arc::new(Hand::default());
        let disk = Model::with_clock([7; 16], clock.clone());
        let mut machine = Self { clock, disk, state: Memory::default(), live: None };
        machine.start();
        machine.applier().take_up().unwrap();
        share.publish();
        share.records.clear();
        let (root, entries) = share.snapshot();
        let (head, many) = (share.shelf.head(), entries.len() as u64);
        machine.job(Job::CompareStart(Box::new((head, root, many))));
        machine.job(Job::CompareEntries(entries));
        machine.job(Job::CompareEnd(oneshot::channel().0));
        machine.pay_all(share);
        machine.idle();
        machine
    }

    fn start(&mut self) {
        let catalog = Catalog::in_memory(&self.state).unwrap();
        let shelf = catalog.share(&"eng".parse().unwrap()).unwrap();
        let config = Config { share: "eng".parse().unwrap(), primary: "hq".parse().unwrap() };
        let tree = Arc::new(self.disk.clone());
        let (follow, _inbox) = Follow::take_up(config, shelf.clone(), tree, self.clock.clone()).unwrap();
        self.live = Some(Live { applier: Applier::new(follow), shelf, _inbox, _catalog: catalog });
    }

    /// `kept`: of what was not synced, so many parts of two are left of the catalog, and of the disk.
    fn power_cut(&mut self, kept: (usize, usize)) {
        self.state.crash(true, |n| n * kept.0 / 2);
        self.disk.crash(|n| n * kept.1 / 2);
        self.live = None;
        self.start();
    }

    fn live(&mut self) -> &mut Live {
        self.live.as_mut().unwrap()
    }
    fn applier(&mut self) -> &mut Applier<Model> {
        &mut self.live().applier
    }
    fn job(&mut self, job: Job) {
        self.applier().step(&mut Step::Job(job)).unwrap();
    }
    /// What is settled is synced, and its marks go.
    fn idle(&mut self) {
        self.clock.seconds.fetch_add(2, Ordering::SeqCst);
        self.applier().step(&mut Step::Idle).unwrap();
    }

    /// All that the share has published, and what is answered. Contents come along where `inline` says so.
    fn feed(&mut self, share: &mut Share, inline: bool) -> Position {
        share.publish();
        let mut records: Vec<_> =
            std::mem::take(&mut share.records).into_iter().map(|record| (record, Vec::new())).collect();
        if let Some((_, inlines)) = records.last_mut().filter(|_| inline) {
            *inlines = share
                .data
                .iter()
                .map(|(id, data)| {
                    let version = share.objects[id].version;
                    Inline { id: *id, version, data: data.clone() }
                })
                .collect();
        }
        let (done, mut told) = oneshot::channel();
        self.job(Job::Records(records, done));
        told.try_recv().expect("it is answered when it is taken in")
    }

    fn pay_all(&mut self, share: &Share) {
        loop {
            let follow = self.applier().follow.clone();
            let wants = lock(&follow.owed).ask(Lane::Small, 256, u64::MAX);
            if wants.is_empty() {
                return;
            }
            let small = wants.into_iter().map(|(id, version)| {
                let want = Asked::of(&follow, id, version).unwrap().want;
                let data = (!want.only).then(|| share.data[&id].clone());
                Small { id, version: share.objects[&id].version, xattrs: None, data }
            });
            let (arrived, done) = put_aside(&follow, small.collect());
            done.unwrap();
            self.job(Job::Contents(arrived));
        }
    }

    /// The disk is what the share is, and nothing is left to be done.
    fn assert_same(&mut self, share: &Share, what: &str) {
        let mut wanted = std::collections::BTreeMap::new();
        let mut todo = vec![(crate::id::ObjectId::ROOT, String::new())];
        while let Some((dir, path)) = todo.pop() {
            for (name, id) in share.children(dir) {
                let below = format!("{path}/{name}");
                let file = share.objects[&id].kind == Kind::File;
                // The model says of each file that it has not the attribute its own servers give it.
                let data = file.then(|| [&share.data[&id][..], b" bare"].concat());
                wanted.insert(below.clone(), data);
                todo.push((id, below));
            }
        }
        assert_eq!(self.disk.tree(), wanted, "{what}");
        assert_eq!(self.live().shelf.marks().unwrap(), [], "{what}");
        assert_eq!(self.live().shelf.debt_totals(), (0, 0), "{what}");
    }
}

/// The primary drops what every copy has acknowledged, and counts on what a copy says that it has.
#[test]
fn a_position_is_acknowledged_only_once_a_power_cut_cannot_take_it_back() {
    for inline in [false, true] {
        let mut share = Share::new();
        let mut copy = Machine::new(&mut share);
        for round in 0..4 {
            let what = format!("round {round}, inline {inline}");
            share.file(&format!("f{round}"), b"one");
            if round > 0 {
                share.rename(&format!("f{}", round - 1), &format!("g{round}"));
            }
            let acknowledged = copy.feed(&mut share, inline);
            assert_eq!(acknowledged, share.shelf.head().at, "{what}");
            copy.power_cut((0, 0));
            assert_eq!(copy.live().shelf.head().at, acknowledged, "{what}");
            assert!(!copy.live().shelf.marks().unwrap().is_empty(), "{what}");
            copy.applier().take_up().unwrap();
            copy.pay_all(&share);
            copy.idle();
            copy.assert_same(&share, &what);
        }
    }
}

/// One thing after the other happens to a share; of each step the copy makes the power may be cut.
const STEPS: usize = 12;

fn step(share: &mut Share, copy: &mut Machine, step: usize) {
    match step {
        0 => {
            share.dir("d");
            share.file("d/new", b"new");
            share.file("f", b"two");
        }
        3 => share.rename("f", "d/f"),
        5 => {
            share.write("d/f", b"three");
            share.unlink("d/new");
        }
        8 => {
            share.rename("d", "e");
            share.file("d", b"a file now");
        }
        1 | 6 | 9 => return copy.pay_all(share),
        2 | 4 | 7 | 10 => return copy.idle(),
        _ => share.unlink("e/f"),
    }
    copy.feed(share, step == 3);
}

/// All that was ever noted of the catalog is kept, and of the disk as little as there may be: a mark that
/// went before the disk was synced would be missed.
#[test]
fn what_a_power_cut_takes_from_a_copys_disk_is_marked() {
    for last in 0..STEPS {
        for kept in [(2, 0), (2, 1), (1, 0), (1, 1), (0, 0), (0, 2)] {
            let mut share = Share::new();
            let mut copy = Machine::new(&mut share);
            (0..=last).for_each(|at| step(&mut share, &mut copy, at));
            copy.power_cut(kept);
            copy.applier().take_up().unwrap();
            copy.pay_all(&share);
            copy.idle();
            copy.assert_same(&share, &format!("cut after step {last}, {kept:?} kept"));
        }
    }
}

#[test]
fn no_mark_goes_from_a_copy_whose_disk_does_not_sync() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    rig.idle();
    share.file("f", b"one");
    rig.follow_all(&mut share);
    assert_eq!(rig.read("f"), "one");
    let marks = rig.shelf().marks().unwrap();
    assert!(!marks.is_empty());
    for _ in 0..3 {
        rig.clock.on(2);
        // Nothing else is left to be done on the disk.
        rig.tree().doom(0, Fate::Fail(libc::EIO));
        let error = rig.try_step(&mut Step::Idle).unwrap_err().to_string();
        assert!(error.contains("sync"), "{error}");
        assert_eq!(rig.shelf().marks().unwrap(), marks);
    }
    rig.idle();
    rig.assert_settled(&share);
}
