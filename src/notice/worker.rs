//! The share's one writer: takes hints in the order in which their changes were answered (R20), makes
//! passes, commits, publishes, and clears marks once the disk is synced (R23).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::locks::EntryGuard;
use super::pass::Pass;
use super::scan::{Scan, Step};
use super::table::{Closing, Hint, Job};
use super::tail::Item;
use super::{Notice, NoticeError, Result, lock};
use crate::catalog::{self, CommitRecords, Inline, Record, Release, Touch};
use crate::clock::BootTime;
use crate::hash::{HashMap, HashSet};
use crate::id::{Gen, Name, ObjectId, Version};
use crate::link::share::{Feed, Sent, Small, feed};
use crate::plant::{self, Bug};
use crate::tree::{Tree, TreeError};
use crate::work;

/// Hints taken at once: what bounds the wait of a change behind them.
const JOBS_MAX: usize = 1024;
/// Changes in one record: bounds its length on the wire.
pub(super) const RECORD_MAX: usize = 512;
/// Drafted rows that are committed before a pass goes on.
pub(super) const DRAFT_MAX: usize = 1024;
/// Looks that newer changes overtake, until what was read is journalled as it is (R8).
const OVERTAKEN_TRIES: usize = 8;
/// As many, until the next changes wait for the look.
const OVERTAKEN_FREELY: usize = 3;
/// Entries of which no change begins for as long as a look takes, and how long changes that have begun are waited
/// for.
const STILL_MAX: usize = 64;
const STILL_WAIT: Duration = Duration::from_millis(100);
/// What could not be looked at, or has no place, is tried again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Marks are cleared together: one sync of the file system for all of a second.
const SWEEP: Duration = Duration::from_secs(1);
const SWEEP_MAX: usize = 4096;
/// Between two messages to copies of what is quiet: of a burst over many files each would be one of its own.
pub(super) const GATHER: Duration = Duration::from_millis(20);
/// How often the journal is trimmed.
const TRIM: Duration = Duration::from_secs(30);

/// The worker's own state.
pub(super) struct Worker<T: Tree> {
    notice: Arc<Notice<T>>,
    scan: Option<Scan>,
    /// After an error: what it was is found out even if there is nothing to do.
    paused: bool,
    /// Scans that were begun, and the last one of them that saw the whole share.
    scans: u64,
    scanned: u64,
    /// Objects without a name, and the scan that finds them if they are in the share (R16).
    unplaced: HashMap<ObjectId, u64>,
    /// Closed marks that wait for the sync.
    closed: HashMap<Touch, Gen>,
    /// When copies were last told that something is quiet.
    released: BootTime,
    swept: BootTime,
    trimmed: BootTime,
}

/// What a commit is about that is under way.
#[must_use = "the copies are to be told of it"]
pub(super) struct Handed {
    /// `None`: nothing was to be written.
    commit: Option<CommitRecords>,
    inline: Vec<Inline>,
    /// Releases that no record carries.
    left: Vec<Release>,
    released: Vec<(Touch, Gen)>,
    /// In a strict share: marks that are released later.
    looked: Vec<Closing>,
}

impl<T: Tree> Notice<T> {
    pub(super) fn run(self: Arc<Self>) {
        let now = self.clock.boot();
        let mut worker = Worker {
            notice: self,
            scan: None,
            paused: false,
            scans: 0,
            scanned: 0,
            unplaced: HashMap::default(),
            closed: HashMap::default(),
            released: BootTime::default(),
            swept: now,
            trimmed: now,
        };
        while !worker.notice.stop.load(Ordering::SeqCst) {
            let (jobs, horizon) = worker.wait();
            if let Err(error) = worker.step(jobs, horizon) {
                worker.pause(&error);
            }
        }
        if let Err(error) = worker.sweep(true) {
            tracing::warn!(share = %worker.notice.config.share, %error, "marks are kept over the stop");
        }
        // Nobody answers those that wait.
        lock(&worker.notice.flushes).clear();
    }
}

impl<T: Tree> Worker<T> {
    /// The next jobs, and [`Table::horizon`](super::table::Table::horizon) behind them.
    fn wait(&self) -> (Vec<Job>, u64) {
        let notice = &self.notice;
        let mut table = lock(&notice.table);
        loop {
            let now = notice.clock.boot();
            let jobs = table.take(now, JOBS_MAX);
            let may_release = BootTime(self.released.0 + GATHER);
            let idle = jobs.is_empty()
                && !(table.is_ripe(now) && now >= may_release)
                && self.scan.is_none()
                && !notice.scan_wanted.load(Ordering::SeqCst);
            if !idle || self.paused || notice.stop.load(Ordering::SeqCst) {
                return (jobs, table.horizon());
            }
            let sweep = if self.closed.is_empty() { TRIM } else { SWEEP };
            let (look, quiet) = table.next_due();
            let due = look.into_iter().chain(quiet.map(|due| due.max(may_release))).min();
            let due = due.map_or(sweep, |due| due.since(now).min(sweep));
            let most = due.max(Duration::from_millis(1));
            let (guard, over) = notice.wake.wait_timeout(&notice.table, table, most);
            table = guard;
            if over && due >= sweep {
                return (Vec::new(), 0);
            }
        }
    }

    pub(super) fn notice(&self) -> &Notice<T> {
        &self.notice
    }

    /// Whether a change of the entry has a look to come, or is under way.
    pub(super) fn is_marked(&self, (dir, name): &(ObjectId, Name)) -> bool {
        let table = lock(&self.notice.table);
        table.len() > 0 && table.is_marked(&Touch::Entry(*dir, name.clone()))
    }

    /// Whether somebody waits for what is not a scan.
    pub(super) fn has_jobs(&self) -> bool {
        let notice = &self.notice;
        notice.stop.load(Ordering::SeqCst) || lock(&notice.table).has_jobs(notice.clock.boot())
    }

    fn step(&mut self, jobs: Vec<Job>, horizon: u64) -> Result<()> {
        if !jobs.is_empty() {
            self.look(jobs, horizon)?;
        } else {
            self.notice.tree.check()?;
        }
        self.release();
        self.paused = false;
        if lock(&self.notice.standing).stopped.take().is_some() {
            tracing::info!(share = %self.notice.config.share, "the share is back");
        }
        let scanned = self.scan_some();
        if scanned.is_err() {
            self.notice.scan_wanted.store(true, Ordering::SeqCst);
        }
        scanned?;
        self.sweep(false)?;
        self.trim()
    }

    /// The disk or the catalog failed: nothing is taken for deleted, everything stays marked, and it
    /// is tried again.
    fn pause(&mut self, error: &NoticeError) {
        self.paused = true;
        let notice = &self.notice;
        let why = error.to_string();
        let mut standing = lock(&notice.standing);
        if standing.stopped.as_ref() != Some(&why) {
            tracing::error!(share = %notice.config.share, %error, "the share is stopped; trying again every second");
        }
        standing.stopped = Some(why);
        drop(standing);
        // Whatever is there when it comes back is looked over whole (R28).
        let away = matches!(error, NoticeError::Tree(TreeError::NotTheShare { .. }));
        if self.scan.take().is_some() || away {
            notice.scan_wanted.store(true, Ordering::SeqCst);
        }
        let until = BootTime(notice.clock.boot().0 + RETRY);
        let mut table = lock(&notice.table);
        loop {
            let left = until.since(notice.clock.boot());
            if left.is_zero() || notice.stop.load(Ordering::SeqCst) {
                return;
            }
            table = notice.wake.wait_timeout(&notice.table, table, left).0;
        }
    }

    /// Looks at what hints name and journals what differs. What may show a change that began after another
    /// was answered waits until that one is looked at (R20).
    fn look(&mut self, mut jobs: Vec<Job>, mut horizon: u64) -> Result<()> {
        let notice = self.notice.clone();
        let mut late = HashSet::default();
        for tries in 1.. {
            let hints: Vec<&Hint> = jobs
                .iter()
                .filter_map(|job| match job {
                    Job::Look(hint) => Some(hint),
                    Job::Flush(_) => None,
                })
                .collect();
            let before = (tries < OVERTAKEN_TRIES).then_some(horizon);
            let looked = notice.tree.check().map_err(Into::into);
            let overtaken = (tries > OVERTAKEN_FREELY).then_some(&late);
            let found = looked.and_then(|()| self.look_at(&hints, before, overtaken));
            late = match found {
                Ok(none) if none.is_empty() => break,
                Ok(late) => late,
                Err(error) => {
                    lock(&notice.table).give_back(jobs);
                    return Err(error);
                }
            };
            let is_late = |job: &Job| matches!(job, Job::Look(hint) if late.contains(&hint.touch));
            let (last, first): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(is_late);
            jobs = first;
            let mut table = lock(&notice.table);
            jobs.extend(table.take(notice.clock.boot(), JOBS_MAX));
            horizon = table.horizon();
            jobs.extend(last);
        }
        let mut waiting = lock(&notice.flushes);
        for job in &jobs {
            if let Job::Flush(ticket) = job
                && let Some(done) = waiting.remove(ticket)
            {
                // A waiter that has left needs no answer.
                let _ = done.send(());
            }
        }
        Ok(())
    }

    /// Says which hints show changes that began after `horizon`: nothing was journalled then. No more changes
    /// of what was `overtaken` begin meanwhile.
    fn look_at(
        &mut self,
        hints: &[&Hint],
        horizon: Option<u64>,
        overtaken: Option<&HashSet<Touch>>,
    ) -> Result<HashSet<Touch>> {
        let notice = self.notice.clone();
        let mut pass = Pass::new(&notice);
        pass.lost = self.lost()?;
        pass.unscanned = self.scan.is_some() || notice.scan_wanted.load(Ordering::SeqCst);
        pass.impatient = notice.gate.try_read().is_err();
        let kept_still = self.keep_still(&mut pass, hints, overtaken)?;
        let mut closings = Vec::new();
        let mut again: HashMap<Touch, Hint> = HashMap::default();
        let mut seen = Vec::with_capacity(hints.len());
        // All before the first read: what one hint has read answers for the others as well.
        let open: Vec<Option<Closing>> = {
            let table = lock(&notice.table);
            hints.iter().map(|hint| table.closing(&hint.touch)).collect()
        };
        let mut late = HashSet::default();
        for (hint, closing) in hints.iter().zip(open) {
            pass.look(&hint.touch, hint.deep)?;
            while let Some((dir, deep)) = pass.expand.pop() {
                for name in pass.list(dir)? {
                    pass.visit(dir, &name, deep)?;
                    if pass.draft.weight() >= DRAFT_MAX && late.is_empty() {
                        if self.is_late(&mut pass, Some(hint), horizon)? {
                            return Ok(HashSet::from_iter([hint.touch.clone()]));
                        }
                        self.commit(&mut pass, &[])?;
                    }
                }
            }
            if self.is_late(&mut pass, Some(hint), horizon)? {
                late.insert(hint.touch.clone());
            }
            let restless = pass.restless();
            seen.push((&hint.touch, pass.unread));
            match (closing, restless) {
                (None, _) => {}
                (Some(closing), None) => closings.push(closing),
                (Some(_), Some(below)) => {
                    let touch = hint.touch.clone();
                    let known = again.entry(touch.clone()).or_insert(Hint { touch, deep: false });
                    known.deep |= hint.deep || below;
                }
            }
        }
        drop(kept_still);
        if !late.is_empty() {
            return Ok(late);
        }
        self.commit(&mut pass, &closings)?;
        let now = notice.clock.boot();
        let mut table = lock(&notice.table);
        for hint in again.into_values() {
            table.unsettled(hint, now);
        }
        for (touch, unread) in seen {
            let unplaced = matches!(touch, Touch::Object(id) if self.unplaced.contains_key(id));
            table.seen(touch, unread || unplaced);
        }
        Ok(late)
    }

    /// Lets no change begin of what cannot be read otherwise (R8), or is overtaken again and again (R20), and
    /// waits a moment for those that have begun. What can still change it then is behind nearshare's back, or
    /// takes the server long: it is read as before.
    fn keep_still(
        &self,
        pass: &mut Pass<'_, T>,
        hints: &[&Hint],
        overtaken: Option<&HashSet<Touch>>,
    ) -> Result<Option<EntryGuard>> {
        let notice = &self.notice;
        let is_hinted = |touch: &Touch| hints.iter().any(|hint| hint.touch == *touch);
        let mut entries: Vec<Touch> = Vec::new();
        let restless = lock(&notice.restless).kept_still(notice.clock.boot());
        for (id, (dir, name)) in restless {
            let found = Touch::Entry(dir, name);
            if is_hinted(&found) || is_hinted(&Touch::Object(id)) {
                pass.still.insert(id);
                entries.push(found);
                entries.extend(notice.entries_of(id)?);
            }
        }
        for touch in overtaken.into_iter().flatten() {
            match touch {
                Touch::Entry(..) => entries.push(touch.clone()),
                Touch::Object(id) => entries.extend(notice.entries_of(*id)?),
            }
        }
        if entries.is_empty() || entries.len() > STILL_MAX {
            return Ok(None);
        }
        Ok(work::block_on_within(STILL_WAIT, notice.locks.lock(&entries)))
    }

    /// Whether what was looked at last, on a hint or without one, may show a change that began after
    /// `horizon`.
    fn is_late(
        &self,
        pass: &mut Pass<'_, T>,
        hint: Option<&Hint>,
        horizon: Option<u64>,
    ) -> Result<bool> {
        let fresh = std::mem::take(&mut pass.fresh);
        let Some(horizon) = horizon else { return Ok(false) };
        let mut above = Vec::new();
        if lock(&self.notice.table).reaches_below(horizon) {
            let dirs: HashSet<ObjectId> = fresh.iter().map(|(dir, _)| *dir).collect();
            above = pass.draft.above(dirs)?;
        }
        let mut touches: Vec<Touch> = hint.map(|hint| hint.touch.clone()).into_iter().collect();
        for (dir, name) in fresh {
            touches.extend(pass.draft.child(dir, &name)?.map(Touch::Object));
            touches.push(Touch::Entry(dir, name));
        }
        let table = lock(&self.notice.table);
        Ok(touches.iter().any(|touch| table.is_beyond(touch, horizon))
            || above.iter().any(|touch| table.is_beyond_below(touch, horizon)))
    }

    /// After a look of a scan, whose turn is behind that of everything that was answered (R20): whether it
    /// may show a change that began after something was answered that is still to be looked at.
    pub(super) fn is_overtaken(&self, pass: &mut Pass<'_, T>) -> Result<bool> {
        let horizon = lock(&self.notice.table).queued();
        self.is_late(pass, None, horizon)
    }

    /// Objects that still have no name after a scan that would have found them.
    fn lost(&mut self) -> Result<HashSet<ObjectId>> {
        let mut lost = HashSet::default();
        for (id, scan) in std::mem::take(&mut self.unplaced) {
            let shelf = &self.notice.shelf;
            if shelf.object(id)?.is_none() || !shelf.links(id)?.is_empty() {
                continue;
            }
            if scan <= self.scanned {
                lost.insert(id);
            }
            self.unplaced.insert(id, scan);
        }
        Ok(lost)
    }

    /// Writes the draft in one atomic batch, closes what may be closed, and hands both to the copies.
    pub(super) fn commit(&mut self, pass: &mut Pass<'_, T>, closings: &[Closing]) -> Result<()> {
        let handed = self.hand_over(pass, closings)?;
        self.settle(pass, handed)
    }

    /// The first half of a commit. The second must follow, whatever else happens: what the journal has,
    /// its copies must be told.
    pub(super) fn hand_over(&mut self, pass: &mut Pass<'_, T>, closings: &[Closing]) -> Result<Handed> {
        let notice = self.notice.clone();
        let unplaced = pass.finish()?;
        let generation = notice.shelf.next_gen()?;
        if pass.draft.removes() {
            // A directory that was swapped or unmounted under the pass looks like deletes (R28).
            notice.tree.check()?;
        }
        let now = notice.clock.boot();
        let placed = |closing: &&Closing| match closing.touch() {
            Touch::Object(id) => !unplaced.contains(id),
            Touch::Entry(..) => true,
        };
        let placed = closings.iter().filter(placed);
        let (released, looked) = if notice.is_strict() {
            (Vec::new(), placed.cloned().collect())
        } else {
            let mut table = lock(&notice.table);
            (placed.filter_map(|closing| table.close(closing, now)).collect(), Vec::new())
        };
        let inline = std::mem::take(&mut pass.draft.inline);
        let mut batch = notice.shelf.batch();
        let releases = released
            .iter()
            .map(|(touch, through)| Release { touch: touch.clone(), through: *through })
            .collect();
        let writes = pass.draft.weight() > 0 || !unplaced.is_empty();
        let left = pass.draft.fill(&mut batch, notice.clock.wall().0, RECORD_MAX, releases);
        self.keep_unplaced(&mut batch, &unplaced, generation);
        pass.handed();
        let commit = writes.then(|| notice.shelf.commit_records(batch, true));
        Ok(Handed { commit, inline, left, released, looked })
    }

    /// The second half: waits until it is durable, and tells the copies.
    pub(super) fn settle(&mut self, pass: &mut Pass<'_, T>, handed: Handed) -> Result<()> {
        let notice = self.notice.clone();
        let Handed { commit, inline, left, released, looked } = handed;
        let records = match commit.map_or(Ok(Vec::new()), CommitRecords::wait) {
            Ok(records) => records,
            Err(error) => {
                let due = BootTime(notice.clock.boot().0 + RETRY);
                let mut table = lock(&notice.table);
                for (touch, generation) in released {
                    table.reopen(touch, generation, due, false);
                }
                return Err(error.into());
            }
        };
        pass.draft.committed();
        self.publish(&records, inline, left, &released);
        self.closed.extend(released);
        let now = notice.clock.boot();
        let mut table = lock(&notice.table);
        looked.iter().for_each(|closing| table.looked(closing, now));
        Ok(())
    }

    /// Tells the copies what has been quiet for long enough.
    fn release(&mut self) {
        let now = self.notice.clock.boot();
        if now.since(self.released) < GATHER {
            return;
        }
        let held_back = |touch: &Touch| self.notice.pledges.holds_back(touch);
        let ripe = lock(&self.notice.table).ripe(now, held_back);
        if ripe.is_empty() {
            return;
        }
        self.released = now;
        if plant::is(Bug::ForgetRelease) {
            return;
        }
        let release =
            |(touch, through): &(Touch, Gen)| Release { touch: touch.clone(), through: *through };
        self.publish(&[], Vec::new(), ripe.iter().map(release).collect(), &ripe);
        self.closed.extend(ripe);
    }

    /// Objects that live without a known name (R16): marked until a scan finds their place.
    fn keep_unplaced(&mut self, batch: &mut catalog::Batch, unplaced: &[ObjectId], generation: Gen) {
        if unplaced.is_empty() {
            return;
        }
        let notice = &self.notice;
        let due = BootTime(notice.clock.boot().0 + RETRY);
        let mut table = lock(&notice.table);
        for id in unplaced {
            batch.mark(Touch::Object(*id), generation);
            table.reopen(Touch::Object(*id), generation, due, false);
            self.unplaced.entry(*id).or_insert_with(|| {
                notice.scan_wanted.store(true, Ordering::SeqCst);
                self.scans + 1
            });
        }
    }

    fn publish(
        &self,
        records: &[Record],
        inline: Vec<Inline>,
        left: Vec<Release>,
        told: &[(Touch, Gen)],
    ) {
        let mut small: HashMap<(ObjectId, Version), Small> = inline
            .into_iter()
            .map(|inline| {
                let id = bytes::Bytes::copy_from_slice(inline.id.as_bytes());
                let small = Small { id, version: inline.version.0, data: inline.data };
                ((inline.id, inline.version), small)
            })
            .collect();
        let mut items = Vec::new();
        for record in records {
            let mut sent = Sent { record: catalog::encode_record(record), inline: Vec::new() };
            for change in &record.changes {
                if let catalog::Change::Put(object) = change {
                    sent.inline.extend(small.remove(&(object.id, object.version)));
                }
            }
            let bytes =
                sent.record.len() + sent.inline.iter().map(|small| small.data.len() + 40).sum::<usize>();
            let feed = Feed { kind: Some(feed::Kind::Record(sent)) };
            items.push(Item::record(feed, record.at.seq, bytes));
        }
        if !left.is_empty() {
            let touches: Vec<(Touch, Gen)> =
                left.into_iter().map(|release| (release.touch, release.through)).collect();
            for some in touches.chunks(RECORD_MAX) {
                let bytes = catalog::encode_touch_gens(some);
                let len = bytes.len();
                let feed = Feed { kind: Some(feed::Kind::Releases(bytes)) };
                items.push(Item::between(feed, len));
            }
        }
        // Under the table's lock, so that a stream that begins now sees either the mark or the release.
        let mut table = lock(&self.notice.table);
        if !items.is_empty() {
            self.notice.tail.push(items);
        }
        table.told(told);
    }

    fn scan_some(&mut self) -> Result<()> {
        let notice = self.notice.clone();
        let mut scan = match self.scan.take() {
            Some(scan) => scan,
            None if notice.scan_wanted.load(Ordering::SeqCst) => {
                let scan = Scan::begin(&notice)?;
                // No sooner than it stands in the standing, and before it looks at anything.
                notice.scan_wanted.store(false, Ordering::SeqCst);
                self.scans += 1;
                scan
            }
            None => return Ok(()),
        };
        let mut pass = Pass::new(&notice);
        pass.thorough = true;
        pass.distrust = scan.distrust();
        let step = scan.step(&mut pass, self);
        let settled = scan.settle(&mut pass, self);
        let step = step?;
        settled?;
        match &step {
            // All of the pass since its last commit is dropped.
            Step::Late(entry) => scan.hint(&notice, vec![entry.clone()], false)?,
            Step::Done | Step::More => self.commit(&mut pass, &[])?,
        }
        scan.hint(&notice, std::mem::take(&mut pass.unsettled), true)?;
        if step == Step::Done {
            self.scanned = self.scans;
            scan.end(&notice)
        } else {
            self.scan = Some(scan);
            Ok(())
        }
    }

    /// Clears closed marks once what they were about is on the disk (R23).
    fn sweep(&mut self, last: bool) -> Result<()> {
        let notice = &self.notice;
        let now = notice.clock.boot();
        if self.closed.is_empty()
            || (!last && now.since(self.swept) < SWEEP && self.closed.len() < SWEEP_MAX)
        {
            return Ok(());
        }
        notice.tree.sync()?;
        let mut batch = notice.shelf.batch();
        for (touch, through) in self.closed.drain() {
            batch.clear_mark(&touch, through);
        }
        self.swept = now;
        Ok(notice.shelf.commit(batch, false).wait()?)
    }

    /// Drops records that every copy has applied, but for the newest ones, and those beyond the
    /// limit.
    fn trim(&mut self) -> Result<()> {
        let notice = &self.notice;
        let now = notice.clock.boot();
        if now.since(self.trimmed) < TRIM {
            return Ok(());
        }
        self.trimmed = now;
        let wall = notice.clock.wall().0;
        let mut batch = notice.shelf.batch();
        if self.scan.is_none() {
            // A scan needs to know when the machine last crashed until it has seen everything (R24).
            batch.set_meta(move |meta| meta.alive_wall = wall);
        }
        notice.shelf.commit(batch, false).wait()?;
        let head = notice.shelf.head().at;
        let peers: HashMap<_, _> = notice.shelf.peers()?.into_iter().collect();
        let acked = notice.copies().into_iter().map(|site| {
            peers.get(&site).filter(|row| row.acked.epoch == head.epoch).map_or(0, |row| row.acked.seq.0)
        });
        let kept = notice.config.kept;
        let keep_from = acked.min().unwrap_or(head.seq.0).min(head.seq.0.saturating_sub(kept.least));
        let before = keep_from.max(head.seq.0.saturating_sub(kept.most));
        // A batch drops some of them.
        while before > notice.shelf.oldest().0 {
            let mut batch = notice.shelf.batch();
            batch.trim_journal(crate::id::Seq(before));
            notice.shelf.commit(batch, false).wait()?;
        }
        Ok(())
    }
}
