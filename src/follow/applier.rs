//! The share's one writer at a copy: spools records, settles the disk, lets releases take effect.

mod contents;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::compare::Compare;
use super::refused::{REFUSED_MAX, Refused};
use super::release::{Until, Waiting};
use super::settle::{Settler, Stock};
use super::{Follow, FollowError, RETRY, RETRY_MAX, Result, lock};
use crate::catalog::{Change, Debt, Head, Inline, Record, Touch};
use crate::clock::BootTime;
use crate::hash::{HashMap, HashSet};
use crate::id::{Epoch, Gen, Hash, ObjectId, Position, Seq, Version};
use crate::link::share::SnapEntry;
use crate::object::{Kind, Object, Xattrs};
use crate::plant::{self, Bug};
use crate::tree::{Spot, Tree};
use crate::work;

/// Marks are cleared together: one sync of the file system for all of a second.
const SWEEP: Duration = Duration::from_secs(1);
/// How far a comparison and the fill after it are is logged this often.
const REPORT: Duration = Duration::from_secs(5);
/// A content that came before the record that names it waits so long for that.
const EARLY: Duration = Duration::from_secs(5);
/// Touches settled in one go.
const SETTLE_MAX: usize = 1024;
/// Records that a copy keeps: 100,000 of 300 bytes are 30 MB.
const JOURNAL_KEPT: u64 = 100_000;
/// What the primary waits for at a time: it has no more open itself. Beyond it, it hears of none, and asks again.
const PLEDGES_MAX: usize = 8192;

/// What the applier is told to do, in order.
pub(super) enum Job {
    /// Records that follow each other, with what came along. Answered when they are durable.
    Records(Vec<(Record, Vec<Inline>)>, oneshot::Sender<Position>),
    Releases(Vec<(Touch, Gen)>),
    /// The primary has taken the position here for one of its history.
    Accepted,
    /// A stream begins: what is in force at the primary, and its newest generation.
    InForce(Vec<(Touch, Gen)>, Gen),
    /// Contents that have come, whole and verified against what the sender said.
    Contents(Vec<Arrived>),
    /// Notes in doubt, which a barrier at this record ends, and what stays open behind it.
    Barrier(Vec<u64>, Seq, Vec<(Touch, Gen)>),
    /// The primary asks to be told when this is on the disk (R26): the number, and the contents, or all.
    Pledge(u64, Option<Vec<ObjectId>>),
    /// An object of which this version is wrong on the disk. Answered, durably, with whether it is put right.
    Mend(ObjectId, Version, oneshot::Sender<bool>),
    CompareStart(Box<(Head, Object, u64)>),
    CompareEntries(Vec<SnapEntry>),
    CompareEnd(oneshot::Sender<()>),
}

/// What came of one object.
pub(super) struct Arrived {
    pub id: ObjectId,
    pub version: Version,
    /// Its content is at its `Spot::Tmp`. `None`: it is here already, or it has none, and only attributes
    /// were asked for.
    pub root: Option<Hash>,
    /// Those that are apart from its row.
    pub xattrs: Option<Xattrs>,
}

pub(super) struct Applier<T: Tree> {
    pub follow: Arc<Follow<T>>,
    pub stock: Stock,
    /// Contents whose `Spot::Tmp` is the applier's, and since when.
    holding: HashMap<ObjectId, BootTime>,
    /// In the order in which they came.
    pub dirty: VecDeque<Touch>,
    pub refused: Refused,
    /// With more of them the copy stands still.
    pub refused_most: usize,
    /// Settled, but the disk is not yet synced.
    pub settled: HashSet<Touch>,
    swept: BootTime,
    reported: BootTime,
    pub waiting: Vec<Waiting>,
    pub barriers: Vec<(Vec<u64>, Seq)>,
    /// What the primary waits for, by its number.
    pub pledges: BTreeMap<u64, Vec<Until>>,
    pub compare: Option<Compare>,
    /// What it was told does not fit: its stream is passed over to the end.
    spoilt: bool,
    /// Records that are kept, at least.
    pub journal_kept: u64,
    /// A first comparison is through when every content up to here has come.
    pub fill_to: Option<Seq>,
    /// Of the lead that is followed.
    pub epoch: Epoch,
}

pub(super) fn run<T: Tree>(follow: &Arc<Follow<T>>, mut inbox: mpsc::Receiver<Job>) {
    let mut applier = Applier::new(follow.clone());
    let mut wait = RETRY;
    while let Err(error) = applier.take_up() {
        applier.pause(&error, &mut wait);
        if follow.stopped() {
            return;
        }
    }
    loop {
        applier.follow.note(|progress| progress.stopped = None);
        let mut job = next(&mut inbox);
        if follow.stopped() {
            break;
        }
        let mut wait = RETRY;
        while let Err(error) = applier.step(&mut job) {
            applier.pause(&error, &mut wait);
            if follow.stopped() {
                return;
            }
        }
    }
    if let Err(error) = applier.sweep(true) {
        tracing::warn!(share = %follow.config.share, %error, "marks are kept over the stop");
    }
}

/// The next job; `Idle` after a while without one, for the sweep.
fn next(inbox: &mut mpsc::Receiver<Job>) -> Step {
    match work::block_on(async { tokio::time::timeout(SWEEP, inbox.recv()).await }) {
        Ok(Some(job)) => Step::Job(job),
        Ok(None) | Err(_) => Step::Idle,
    }
}

pub(super) enum Step {
    Job(Job),
    Idle,
    /// The job was taken in; what is left is settling.
    Settle,
}

impl<T: Tree> Applier<T> {
    pub fn new(follow: Arc<Follow<T>>) -> Self {
        Self {
            epoch: follow.shelf.meta().lead.map_or(Epoch(0), |lead| lead.epoch),
            swept: follow.clock.boot(),
            reported: follow.clock.boot(),
            follow,
            stock: Stock::default(),
            holding: HashMap::default(),
            dirty: VecDeque::new(),
            refused: Refused::default(),
            refused_most: REFUSED_MAX,
            settled: HashSet::default(),
            waiting: Vec::new(),
            barriers: Vec::new(),
            pledges: BTreeMap::new(),
            compare: None,
            spoilt: false,
            journal_kept: JOURNAL_KEPT,
            fill_to: None,
        }
    }

    /// After a start: what a crash left half done is thrown away or done again.
    pub fn take_up(&mut self) -> Result<()> {
        let follow = self.follow.clone();
        follow.tree.check()?;
        if !follow.fetching.load(Ordering::Acquire) {
            let left = follow.tree.leftovers()?;
            for id in left.tmp {
                follow.tree.remove(Spot::Tmp(id))?;
            }
            self.dirty = follow.shelf.marks()?.into_iter().map(|(touch, _)| touch).collect();
            self.dirty.extend(left.park.iter().copied().map(Touch::Object));
            self.stock.park = left.park.into_iter().collect();
            follow.fetching.store(true, Ordering::Release);
            follow.owing.notify_waiters();
        }
        self.settle()
    }

    pub fn step(&mut self, step: &mut Step) -> Result<()> {
        // Also when there is nothing to do: whoever reads here must be told.
        if !self.settled.is_empty() || !matches!(step, Step::Settle) {
            self.follow.tree.check()?;
        }
        match std::mem::replace(step, Step::Settle) {
            Step::Job(job) => {
                // Until the job is taken in, a failure gives it back.
                if let Err((error, job)) = self.take_in(job) {
                    *step = Step::Job(*job);
                    return Err(error);
                }
            }
            Step::Idle | Step::Settle => {}
        }
        self.settle()?;
        // Only now: what an earlier try has left must not grow with each that fails.
        self.look_at_suspects();
        self.try_refused();
        if !self.dirty.is_empty() {
            self.settle()?;
        }
        self.clear_suspects();
        self.let_go()?;
        self.keep()?;
        self.report();
        self.sweep(false)
    }

    /// Keeps the rates, and says in the log how far a comparison and the fill after it are.
    fn report(&mut self) {
        let follow = &self.follow;
        let comparing = self.compare.is_some();
        follow.note(|progress| progress.comparing = comparing);
        follow.sample(comparing || follow.owed_count.load(Ordering::Relaxed) > 0);
        let now = follow.clock.boot();
        if !comparing && self.fill_to.is_none() {
            self.reported = now;
        }
        if now.since(self.reported) < REPORT {
            return;
        }
        self.reported = now;
        let progress = follow.progress();
        let (share, seconds_left) = (&follow.config.share, progress.seconds_left.round());
        if comparing {
            tracing::info!(
                %share, entries = progress.compared, expected = progress.expected,
                per_second = progress.entries_per_second.round(), seconds_left, "comparing"
            );
        } else {
            tracing::info!(
                %share, files_left = progress.debts, bytes_left = progress.debt_bytes,
                files_per_second = progress.files_per_second.round(),
                bytes_per_second = progress.bytes_per_second.round(), seconds_left, "filling"
            );
        }
    }

    fn take_in(&mut self, job: Job) -> Result<(), (FollowError, Box<Job>)> {
        let follow = self.follow.clone();
        let names = matches!(job, Job::Records(..) | Job::CompareEntries(_) | Job::CompareEnd(_));
        let _changing = names.then(|| follow.walks.changing());
        match job {
            Job::Records(records, done) => match self.spool(&records) {
                Ok(at) => {
                    // A stream that has ended needs no answer.
                    let _ = done.send(at);
                    Ok(())
                }
                Err(error) if error.is_of_the_stream() => self.end_stream(&error),
                Err(error) => Err((error, Box::new(Job::Records(records, done)))),
            },
            Job::Releases(releases) => {
                self.wait_for(releases);
                Ok(())
            }
            Job::Accepted => self.accepted().map_err(|error| (error, Box::new(Job::Accepted))),
            Job::InForce(force, newest) => {
                self.in_force(force, newest);
                Ok(())
            }
            Job::Contents(contents) => match self.arrived(&contents) {
                Ok(()) => Ok(()),
                Err(error) => Err((error, Box::new(Job::Contents(contents)))),
            },
            Job::Barrier(ids, seq, open) => {
                let stay = self.stay_ahead(&open, ids.clone(), seq);
                stay.map_err(|error| (error, Box::new(Job::Barrier(ids, seq, open))))
            }
            Job::Pledge(number, objects) => {
                let until = match objects {
                    Some(ids) => ids.into_iter().map(Until::Paid).collect(),
                    None => vec![Until::PaidSince(self.follow.shelf.head().at.seq)],
                };
                // A stream that fell behind asks again for all that is open.
                if self.pledges.len() < PLEDGES_MAX {
                    self.pledges.entry(number).or_insert(until);
                }
                Ok(())
            }
            Job::Mend(id, version, done) => self.take_mend(id, version, done),
            Job::CompareStart(start) => {
                let (head, root, expected) = *start;
                self.begin_compare(Compare::new(head, root, expected));
                Ok(())
            }
            Job::CompareEntries(entries) => {
                let Some(mut compare) = self.compare.take_if(|_| !self.spoilt) else { return Ok(()) };
                let done = compare.take_in(self, &entries);
                self.compare = Some(compare);
                match done {
                    Err(error) if error.is_of_the_stream() => {
                        self.spoilt = true;
                        self.end_stream(&error)
                    }
                    done => done.map_err(|error| (error, Box::new(Job::CompareEntries(entries)))),
                }
            }
            Job::CompareEnd(done) => {
                // A stream that broke off is compared again from its beginning.
                let Some(mut compare) = self.compare.take_if(|_| !self.spoilt) else { return Ok(()) };
                match compare.end(self) {
                    Ok(()) => {
                        self.follow.moved();
                        let _ = done.send(());
                        Ok(())
                    }
                    Err(error) => {
                        self.compare = Some(compare);
                        Err((error, Box::new(Job::CompareEnd(done))))
                    }
                }
            }
        }
    }

    /// What came does not fit what is here. It is dropped with whoever waits for it, who then asks anew.
    fn end_stream<V>(&self, error: &FollowError) -> Result<(), V> {
        tracing::warn!(share = %self.follow.config.share, %error, "the primary's journal is asked for anew");
        self.follow.note(|progress| progress.last_error = Some(error.to_string()));
        Ok(())
    }

    fn begin_compare(&mut self, compare: Compare) {
        self.follow.lose_lease();
        // They told positions of the journal that is left now.
        for (ids, _) in self.barriers.drain(..) {
            let mut ahead = lock(&self.follow.ahead);
            ids.iter().for_each(|id| ahead.doubt(*id));
        }
        self.pledges.clear();
        lock(&self.follow.ahead).begin_moves();
        self.fill_to = None;
        self.spoilt = false;
        self.compare = Some(compare);
    }

    /// Makes records durable with marks for what they touch (R23), and owes their contents.
    fn spool(&mut self, records: &[(Record, Vec<Inline>)]) -> Result<Position> {
        let follow = self.follow.clone();
        let head = follow.shelf.head().at;
        let mut batch = follow.shelf.batch();
        batch.keep_locals(true);
        let mut touches = Vec::new();
        let mut debts: HashMap<ObjectId, Debt> = HashMap::default();
        let mut gone = Vec::new();
        self.note_leaving(records)?;
        // A job that failed halfway comes again: its records are here, its releases are not.
        let releases = records.iter().flat_map(|(record, _)| &record.releases);
        let releases = releases.map(|release| (release.touch.clone(), release.through)).collect();
        let mut moved = false;
        for (record, _) in records.iter().filter(|(record, _)| record.at > head) {
            for change in &record.changes {
                moved |= matches!(change, Change::Move { .. });
                self.note_change(change, record.at, &mut touches, &mut debts, &mut gone)?;
            }
            batch.append(record.clone());
        }
        for touch in &touches {
            batch.mark(touch.clone(), Gen(0));
        }
        for debt in debts.values() {
            batch.owe(*debt);
        }
        if moved {
            lock(&follow.ahead).begin_moves();
        }
        let noted = follow.shelf.commit(batch, true).wait();
        if moved && self.compare.is_none() {
            follow.moved();
        }
        noted?;
        let at = follow.shelf.head().at;
        {
            let mut owed = lock(&follow.owed);
            gone.iter().for_each(|id| owed.remove(*id));
            debts.values().for_each(|debt| owed.add(debt));
        }
        // First of all: a job that comes again finds its records here, and nothing of this to do.
        self.dirty.extend(touches);
        for id in gone {
            self.drop_ready(id)?;
        }
        for debt in debts.values() {
            let Some((version, _)) = self.stock.ready.get(&debt.id).copied() else { continue };
            // It came early, but not for long enough, or before anybody knew of its attributes.
            let object = follow.shelf.object(debt.id)?;
            if version < debt.version || object.is_some_and(|object| !self.stock.is_dressed(&object)) {
                self.drop_ready(debt.id)?;
            }
        }
        for inline in records.iter().flat_map(|(_, inlines)| inlines) {
            let wanted = follow.shelf.object(inline.id)?;
            if wanted.is_some_and(|object| object.version == inline.version)
                && (self.holding.contains_key(&inline.id) || lock(&follow.owed).take(inline.id))
            {
                self.holding.insert(inline.id, follow.clock.boot());
                self.stage(inline)?;
            }
        }
        self.count_owed();
        self.wait_for(releases);
        Ok(at)
    }

    /// Where a name is taken away of a file whose newest content is awaited, by now or with these records, or of a
    /// directory that it may be below, the disk has an older one under it until that is settled.
    fn note_leaving(&self, records: &[(Record, Vec<Inline>)]) -> Result<()> {
        let changes = || records.iter().flat_map(|(record, _)| &record.changes);
        let put: HashSet<ObjectId> = changes()
            .filter_map(|change| match change {
                Change::Put(object) if object.kind == Kind::File => Some(object.id),
                _ => None,
            })
            .collect();
        let shelf = &self.follow.shelf;
        let some = !put.is_empty() || !lock(&self.follow.owed).is_empty();
        let awaited = |id: &ObjectId| -> Result<bool> {
            let it = put.contains(id) || lock(&self.follow.owed).contains(*id);
            let directory =
                || shelf.object(*id).map(|row| row.is_some_and(|row| row.kind == Kind::Directory));
            Ok(it || some && directory()?)
        };
        for change in changes() {
            let leaves = match change {
                // A name that these records have made has nothing under it.
                Change::Unlink { id, parent, name } | Change::Move { id, from: (parent, name), .. } => {
                    awaited(id)? && shelf.child(*parent, name)?.is_some()
                }
                Change::Gone { id } => awaited(id)?,
                _ => false,
            };
            if leaves {
                lock(&self.follow.owed).leave();
                return Ok(());
            }
        }
        Ok(())
    }

    fn note_change(
        &self,
        change: &Change,
        at: Position,
        touches: &mut Vec<Touch>,
        debts: &mut HashMap<ObjectId, Debt>,
        gone: &mut Vec<ObjectId>,
    ) -> Result<()> {
        match change {
            Change::Put(object) => {
                touches.push(Touch::Object(object.id));
                match self.awaits(object)? {
                    Some(size) => {
                        let (id, version, Position { epoch, seq }) = (object.id, object.version, at);
                        debts.insert(id, Debt { id, version, size, seq, epoch });
                    }
                    // As it was before these records.
                    None => _ = debts.remove(&object.id),
                }
            }
            Change::Link { parent, name, .. } | Change::Unlink { parent, name, .. } => {
                touches.push(Touch::Entry(*parent, name.clone()));
            }
            Change::Move { from, to, .. } => {
                touches.push(Touch::Entry(from.0, from.1.clone()));
                touches.push(Touch::Entry(to.0, to.1.clone()));
            }
            Change::Gone { id } => {
                touches.push(Touch::Object(*id));
                debts.remove(id);
                gone.push(*id);
            }
        }
        Ok(())
    }

    /// What is to be fetched of an object that is as `now` says, in bytes of content.
    fn awaits(&self, now: &Object) -> Result<Option<u64>> {
        let shelf = &self.follow.shelf;
        let here = shelf.local(now.id)?;
        if now.kind == Kind::File && here.as_ref().map(|local| local.version) != Some(now.version) {
            return Ok(Some(now.size));
        }
        let known = shelf.object(now.id)?;
        let dressed = here.is_some() && known.is_some_and(|known| known.xattrs == now.xattrs);
        Ok((now.xattrs.is_apart() && !dressed).then_some(0))
    }

    /// Settles what is dirty, a bounded number at a time.
    pub fn settle(&mut self) -> Result<()> {
        let follow = self.follow.clone();
        if self.dirty.len() > SETTLE_MAX {
            // What is settled later may be where something settled earlier comes from.
            let all = self.dirty.make_contiguous();
            Settler::new(&*follow.tree, &follow.shelf, &mut self.stock).survey(all)?;
        }
        while !self.dirty.is_empty() {
            let many = self.dirty.len().min(SETTLE_MAX);
            let mut seen = HashSet::default();
            let touches: Vec<Touch> =
                self.dirty.range(..many).filter(|touch| seen.insert(*touch)).cloned().collect();
            let mut settler = Settler::new(&*follow.tree, &follow.shelf, &mut self.stock);
            settler.adopt = self.compare.is_some();
            settler.may_refuse = self.refused.room(self.refused_most, &touches);
            let done = settler.settle(&touches);
            let mut batch = follow.shelf.batch();
            // What was done before a failure is noted all the same.
            let out = settler.into_batch(&mut batch);
            // Contents come without a record that marks them, and are on the disk only once that is synced.
            let brought = || out.paid.iter().map(|(id, _)| Touch::Object(*id));
            brought().for_each(|touch| batch.mark(touch, Gen(0)));
            self.settled.extend(brought());
            follow.shelf.commit(batch, false).wait()?;
            {
                let mut owed = lock(&follow.owed);
                follow.did(|done| done.files += out.paid.len() as u64);
                for (id, version) in out.paid {
                    owed.paid(id, version);
                }
                out.lost.iter().for_each(|debt| owed.add(debt));
            }
            self.give_back()?;
            self.dirty.extend(out.again);
            self.count_owed();
            if out.kept > 0 {
                follow.note(|progress| progress.kept += out.kept);
            }
            done?;
            self.report();
            self.dirty.drain(..many);
            self.settled.extend(touches.iter().cloned());
            out.refused.iter().for_each(|(touch, _)| {
                self.settled.remove(touch);
            });
            self.note_refused(&touches, out.refused);
        }
        self.stock.seen_at.clear();
        lock(&follow.owed).settled();
        self.count_owed();
        self.give_back()
    }

    /// Entries to be looked at with the next settling.
    pub fn dirty(&mut self, touches: impl IntoIterator<Item = Touch>) {
        self.dirty.extend(touches);
    }

    pub fn count_owed(&self) {
        let count = {
            let owed = lock(&self.follow.owed);
            owed.len() + usize::from(owed.is_leaving())
        };
        self.follow.owed_count.store(count, Ordering::Release);
        if count > 0 {
            self.follow.owing.notify_waiters();
        }
    }

    /// A stream has begun.
    fn in_force(&mut self, force: Vec<(Touch, Gen)>, newest: Gen) {
        self.confirm_from_here();
        tracing::trace!(share = %self.follow.config.share, ?force, ?newest, "in force");
        let released = lock(&self.follow.ahead).in_force(force, newest);
        self.wait_for(released);
        self.follow.open.store(true, Ordering::Release);
    }

    /// Before any record that follows. Who has only heard of the primary does not know that what is here is of its
    /// history: a lead that was missed in between may have ended it (R33).
    fn accepted(&self) -> Result<()> {
        let (shelf, epoch) = (&self.follow.shelf, self.epoch);
        if shelf.meta().accepted != epoch {
            let mut batch = shelf.batch();
            batch.set_meta(move |meta| meta.accepted = epoch);
            shelf.commit(batch, false).wait()?;
        }
        Ok(())
    }

    /// This journal is the beginning of the primary's. A site that was the primary itself never compared:
    /// it answers when it has all that the journal tells of.
    fn confirm_from_here(&mut self) {
        let confirmed = self.follow.confirmed.load(Ordering::Acquire);
        if !confirmed && self.compare.is_none() && self.fill_to.is_none() {
            self.fill_to = Some(self.follow.shelf.head().at.seq);
        }
    }

    /// The first comparison has brought everything but the contents up to here.
    pub fn filling(&mut self, to: Seq) {
        self.fill_to = Some(to);
    }

    /// Clears marks and the notes of this site's writes once what they were about is on the disk (R23).
    fn sweep(&mut self, last: bool) -> Result<()> {
        let follow = self.follow.clone();
        let now = follow.clock.boot();
        if !last && now.since(self.swept) < SWEEP {
            return Ok(());
        }
        // What is over after this may not be synced.
        let over = lock(&follow.over).len();
        if self.settled.is_empty() && over == 0 {
            return Ok(());
        }
        if !plant::is(Bug::ClearMarkUnsynced) {
            follow.tree.sync()?;
        }
        let mut batch = follow.shelf.batch();
        lock(&follow.over).drain(..over).for_each(|id| batch.drop_ahead(id));
        let suspects = lock(&follow.suspects);
        for touch in self.settled.drain().filter(|touch| !suspects.contains(touch)) {
            // Marked again since: not settled again yet, and kept.
            batch.clear_mark(&touch, Gen(0));
        }
        drop(suspects);
        self.swept = now;
        follow.shelf.commit(batch, false).wait()?;
        self.trim()
    }

    /// Drops old records: the newest are for others to follow, should this site become the primary.
    fn trim(&self) -> Result<()> {
        let shelf = &self.follow.shelf;
        let before = shelf.head().at.seq.0.saturating_sub(self.journal_kept);
        if before > shelf.oldest().0 + self.journal_kept / 10 {
            let mut batch = shelf.batch();
            batch.trim_journal(Seq(before));
            shelf.commit(batch, false).wait()?;
        }
        Ok(())
    }

    /// A full disk, a missing mount, an I/O error: the share stands still here, says why, keeps
    /// everything and tries again by itself.
    fn pause(&self, error: &FollowError, wait: &mut Duration) {
        let why = error.to_string();
        tracing::error!(share = %self.follow.config.share, %error, retry = ?wait, "the copy stands still");
        self.follow.note(|progress| {
            progress.stopped = Some(why.clone());
            progress.last_error = Some(why);
        });
        let until = BootTime(self.follow.clock.boot().0 + *wait);
        while self.follow.clock.boot() < until && !self.follow.stopped() {
            work::pause(Duration::from_millis(100));
        }
        *wait = (*wait * 2).min(RETRY_MAX);
    }
}
