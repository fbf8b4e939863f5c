//! The scan: every directory of the share against the catalog, in the background, a slice at a time,
//! so that changes made through nearshare go first.

use std::time::Duration;

use super::pass::Pass;
use super::worker::{Handed, Worker};
use super::{Notice, Result, lock};
use crate::catalog::Touch;
use crate::clock::{BootTime, WallTime};
use crate::id::{Name, ObjectId};
use crate::tree::Tree;

/// Entries looked at, at most, before waiting hints get their turn.
const SLICE: usize = 2048;
/// Entries looked at, at most, between two commits: they are looked at again if one was overtaken.
const UNCOMMITTED: usize = 4096;
/// As many slices follow each other while no hint waits.
const SLICES: usize = 16;
/// Drafted rows that are committed while the scan goes on.
const DRAFT_MAX: usize = 4 * super::worker::DRAFT_MAX;
/// After a crash of the machine, what was written this long before it is compared by content (R24).
const TORN: Duration = Duration::from_secs(300);
/// Progress is logged this often.
const REPORT: Duration = Duration::from_secs(5);

/// How far a scan is, for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Progress {
    /// The share has never been scanned whole: its copies wait for the end.
    pub first: bool,
    pub entries: u64,
    /// Files read, because they were new or might have changed.
    pub files: u64,
    pub bytes: u64,
    pub entries_per_second: f64,
    /// By what the catalog or the file system says is there; 0 when not even a guess is known.
    pub seconds_left: f64,
}

/// How a part of a scan ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The whole share has been looked at.
    Done,
    More,
    /// What was found at this entry may show a change that others come before (R20): it is left to a hint, behind
    /// them, and what was looked at since the last commit is looked at again.
    Late((ObjectId, Name)),
}

pub(super) struct Scan {
    /// Directories yet to be listed, and the one that is being looked at.
    stack: Vec<ObjectId>,
    names: std::vec::IntoIter<Name>,
    dir: ObjectId,
    /// What is looked at again before anything else, the last one first.
    again: Vec<(ObjectId, Name)>,
    pub(super) progress: Progress,
    expected: u64,
    began: BootTime,
    reported: BootTime,
    distrust: Option<WallTime>,
    /// The last commit: the catalog and its disk carry it out while the scan looks on.
    handed: Option<Handed>,
}

impl Scan {
    pub fn begin<T: Tree>(notice: &Notice<T>) -> Result<Self> {
        notice.tree.check()?;
        let meta = notice.shelf.meta();
        let now = notice.clock.boot();
        let first = !meta.scanned;
        let torn = i64::try_from(TORN.as_nanos()).unwrap_or(i64::MAX);
        let expected = if first { notice.tree.used()?.inodes } else { notice.shelf.totals().objects };
        let crashed = meta.boot_id.is_empty();
        tracing::info!(share = %notice.config.share, first, "scanning");
        let progress = Progress { first, ..Progress::default() };
        // The first file may take hours.
        lock(&notice.standing).scan = Some(progress);
        Ok(Self {
            stack: vec![ObjectId::ROOT],
            names: Vec::new().into_iter(),
            dir: ObjectId::ROOT,
            again: Vec::new(),
            progress,
            expected,
            began: now,
            reported: now,
            distrust: crashed.then(|| WallTime(meta.alive_wall.saturating_sub(torn))),
            handed: None,
        })
    }

    pub fn distrust(&self) -> Option<WallTime> {
        self.distrust
    }

    /// Looks on until a hint waits. What is under way then has to be settled, also after an error.
    pub fn step<T: Tree>(&mut self, pass: &mut Pass<'_, T>, worker: &mut Worker<T>) -> Result<Step> {
        let mut uncommitted: Vec<(ObjectId, Name)> = Vec::new();
        // So much of the stack is of before the last commit.
        let mut committed = self.stack.len();
        for looks in 1..=SLICE * SLICES {
            if looks % SLICE == 0 {
                self.count(pass);
                self.report(worker.notice());
                if worker.has_jobs() {
                    return Ok(Step::More);
                }
            }
            let Some(entry) = self.next() else {
                let Some(dir) = self.stack.pop() else {
                    self.count(pass);
                    return Ok(Step::Done);
                };
                committed = committed.min(self.stack.len());
                self.dir = dir;
                self.names = pass.list(dir)?.into_iter();
                continue;
            };
            if !uncommitted.is_empty() && worker.is_marked(&entry) {
                // It may be overtaken: the others need not be looked at again for that.
                self.commit(pass, worker)?;
                (uncommitted, committed) = (Vec::new(), self.stack.len());
            }
            pass.visit(entry.0, &entry.1, true)?;
            let late = worker.is_overtaken(pass)?;
            if late {
                // Those come again as well.
                self.stack.truncate(committed);
            }
            // Children after their parent, depth first: the stack stays as small as the tree is deep.
            self.stack.extend(pass.expand.drain(..).map(|(id, _)| id));
            if late {
                self.again.extend(uncommitted.into_iter().rev());
                self.count(pass);
                return Ok(Step::Late(entry));
            }
            uncommitted.push(entry);
            if pass.draft.weight() >= DRAFT_MAX || uncommitted.len() >= UNCOMMITTED {
                self.commit(pass, worker)?;
                (uncommitted, committed) = (Vec::new(), self.stack.len());
            }
        }
        self.count(pass);
        Ok(Step::More)
    }

    /// The next entry; `None` when those of a directory are through.
    fn next(&mut self) -> Option<(ObjectId, Name)> {
        if let Some(entry) = self.again.pop() {
            return Some(entry);
        }
        let name = self.names.next()?;
        self.progress.entries += 1;
        Some((self.dir, name))
    }

    /// Begins another commit.
    fn commit<T: Tree>(&mut self, pass: &mut Pass<'_, T>, worker: &mut Worker<T>) -> Result<()> {
        self.settle(pass, worker)?;
        self.handed = Some(worker.hand_over(pass, &[])?);
        Ok(())
    }

    /// Waits for the commit that is under way.
    pub fn settle<T: Tree>(&mut self, pass: &mut Pass<'_, T>, worker: &mut Worker<T>) -> Result<()> {
        match self.handed.take() {
            Some(handed) => worker.settle(pass, handed),
            None => Ok(()),
        }
    }

    fn count<T: Tree>(&mut self, pass: &mut Pass<'_, T>) {
        let tally = std::mem::take(&mut pass.tally);
        self.progress.files += tally.files;
        self.progress.bytes += tally.bytes;
    }

    /// What moved under the scan is looked at again by itself. `deep`: a directory that could not be listed is
    /// listed then.
    pub fn hint<T: Tree>(
        &self,
        notice: &Notice<T>,
        entries: Vec<(ObjectId, Name)>,
        deep: bool,
    ) -> Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let due = BootTime(notice.clock.boot().0 + Duration::from_millis(25));
        let generation = notice.shelf.next_gen()?;
        let mut table = lock(&notice.table);
        for (dir, name) in entries {
            table.reopen(Touch::Entry(dir, name), generation, due, deep);
        }
        Ok(())
    }

    /// Says how far it is: to who asks for the status, and now and then in the log.
    pub fn report<T: Tree>(&mut self, notice: &Notice<T>) {
        let now = notice.clock.boot();
        let spent = now.since(self.began).as_secs_f64().max(1e-3);
        let progress = &mut self.progress;
        progress.entries_per_second = progress.entries as f64 / spent;
        let left = self.expected.saturating_sub(progress.entries) as f64;
        progress.seconds_left = left / progress.entries_per_second.max(1.0);
        if now.since(self.reported) >= REPORT {
            self.reported = now;
            tracing::info!(
                share = %notice.config.share, entries = progress.entries, files = progress.files,
                bytes = progress.bytes, per_second = progress.entries_per_second.round(),
                seconds_left = progress.seconds_left.round(), "scanning"
            );
        }
        lock(&notice.standing).scan = Some(self.progress);
    }

    pub fn end<T: Tree>(mut self, notice: &Notice<T>) -> Result<()> {
        self.report(notice);
        let mut batch = notice.shelf.batch();
        let wall = notice.clock.wall().0;
        let boot_id = notice.config.boot_id.clone();
        batch.set_meta(move |meta| {
            meta.scanned = true;
            meta.boot_id = boot_id;
            meta.alive_wall = wall;
        });
        notice.shelf.commit(batch, true).wait()?;
        {
            let mut standing = lock(&notice.standing);
            standing.scan = None;
            standing.scans += 1;
        }
        tracing::info!(
            share = %notice.config.share, entries = self.progress.entries, files = self.progress.files,
            bytes = self.progress.bytes, per_second = self.progress.entries_per_second.round(), "scanned"
        );
        Ok(())
    }
}
