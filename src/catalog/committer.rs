//! The one thread that writes. It takes all commits that are queued, carries each out as one atomic batch
//! of the store, and syncs once for all of them that are to be durable: the longer a sync takes, the
//! more commits share the next one.
//!
//! What a crash leaves, by how far a commit had got:
//! ```text
//! queued, being applied          nothing of it; nobody was told
//! applied                        readers saw it; it may be lost, together with all that came after it
//! handed to the kernel           survives the process: what a commit that is not durable was promised
//! synced                         survives the machine: what a durable commit was promised
//! ```
//! So what survives is always the first so many commits, and a durable one is never among the lost.
//! An index that was left behind (a share reset, a journal begun anew) is noted in the same batch and
//! swept in small steps when nothing is queued; a crash between two steps resumes at the next start.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::apply::{self, Outcome, Place};
use super::batch::Batch;
use super::commit::{CommitRecords, Promise, promise};
use super::error::{CatalogError, Result};
use super::keys;
use super::model::Record;
use super::rows::{self, DatabaseRow};
use super::shelf::Core;
use super::store::{Space, Store, Write};
use crate::work::Bell;

/// Commits that may be queued; one more waits for room.
const QUEUE_MAX: usize = 1024;
/// Changes and rows in queued commits; a larger commit waits for an empty queue. At some 400 bytes each,
/// 50 MB at most.
const QUEUE_WEIGHT_MAX: usize = 128 << 10;
/// Keys removed in one step of sweeping: a commit that arrives meanwhile waits about a millisecond.
const SWEEP_STEP: usize = 500;

/// What the thread and its callers share.
pub struct Shared {
    pub store: Box<dyn Store>,
    engine: Mutex<Engine>,
    queue: Mutex<Queue>,
    arrived: Bell,
    left: Bell,
    broken: OnceLock<String>,
    commits: AtomicU64,
    syncs: AtomicU64,
}

/// What only whoever writes touches.
pub struct Engine {
    pub database: DatabaseRow,
    pub sweeps: VecDeque<Sweep>,
    /// Shares with commits that are not synced yet.
    unsynced: Vec<Arc<Core>>,
}

/// Rows to be removed, all under one index; `from` is how far that got.
pub struct Sweep {
    pub space: Space,
    pub index: u32,
    pub from: Vec<u8>,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    weight: usize,
    closed: bool,
}

struct Job {
    core: Arc<Core>,
    batch: Batch,
    durable: bool,
    promise: Promise,
}

enum Next {
    Jobs(Vec<Job>),
    Sweep,
    Closed,
}

impl Shared {
    pub fn new(store: Box<dyn Store>, database: DatabaseRow, sweeps: VecDeque<Sweep>) -> Self {
        Self {
            store,
            engine: Mutex::new(Engine { database, sweeps, unsynced: Vec::new() }),
            queue: Mutex::default(),
            arrived: Bell::default(),
            left: Bell::default(),
            broken: OnceLock::new(),
            commits: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
        }
    }

    /// For the few writes that are not a share's batch. Held up to one group of commits long.
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits carried out and syncs that took, since the catalog was opened.
    pub fn counts(&self) -> (u64, u64) {
        (self.commits.load(Ordering::Relaxed), self.syncs.load(Ordering::Relaxed))
    }

    pub fn check(&self) -> Result<()> {
        match self.broken.get() {
            Some(why) => Err(CatalogError::Broken { why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Passes a result on; an error also ends all writing.
    pub fn or_break<T>(&self, result: Result<T>) -> Result<T> {
        result.inspect_err(|error| {
            if self.broken.set(error.to_string()).is_ok() {
                tracing::error!(
                    %error,
                    "the catalog takes no more writes; make room for the state directory or see to its \
                     disk: nearshare starts itself anew when it can write there"
                );
            }
        })
    }

    /// Queues a commit; waits while the queue is full.
    pub fn submit(&self, core: Arc<Core>, batch: Batch, durable: bool) -> CommitRecords {
        let (promise, commit) = promise();
        let weight = batch.weight;
        let mut queue = self.lock_queue();
        let full = |queue: &Queue| {
            let heavy = queue.weight + weight > QUEUE_WEIGHT_MAX && !queue.jobs.is_empty();
            queue.jobs.len() >= QUEUE_MAX || heavy
        };
        while full(&queue) && !queue.closed {
            queue = self.left.wait(&self.queue, queue);
        }
        if queue.closed {
            promise.resolve(self.check().and(Err(CatalogError::Closed)));
            return commit;
        }
        queue.weight += weight;
        queue.jobs.push_back(Job { core, batch, durable, promise });
        drop(queue);
        self.arrived.ring();
        commit
    }

    /// No more commits are taken; those that are queued are still carried out.
    pub fn close(&self) {
        self.lock_queue().closed = true;
        self.arrived.ring();
        self.left.ring();
    }

    /// The thread: returns when the queue was closed and is empty and everything is synced.
    pub fn run(&self) -> Result<()> {
        let _unwinding = CloseOnUnwind(self);
        loop {
            let sweeping = !self.engine().sweeps.is_empty() && self.check().is_ok();
            match self.next(sweeping) {
                Next::Jobs(jobs) => self.group(jobs),
                Next::Sweep => {
                    let mut engine = self.engine();
                    // Reported where it is set; the next commit is told.
                    let _ = self.or_break(engine.sweep(&*self.store));
                }
                Next::Closed => break,
            }
        }
        self.check()?;
        let mut engine = self.engine();
        self.or_break(self.sync(&mut engine))
    }

    fn next(&self, sweeping: bool) -> Next {
        let mut queue = self.lock_queue();
        loop {
            if !queue.jobs.is_empty() {
                queue.weight = 0;
                let jobs = queue.jobs.drain(..).collect();
                drop(queue);
                self.left.ring();
                return Next::Jobs(jobs);
            }
            if queue.closed {
                return Next::Closed;
            }
            if sweeping {
                return Next::Sweep;
            }
            queue = self.arrived.wait(&self.queue, queue);
        }
    }

    fn group(&self, jobs: Vec<Job>) {
        let mut engine = self.engine();
        let mut handed = Vec::new();
        let mut durable = Vec::new();
        for Job { core, batch, durable: sync, promise } in jobs {
            match self.check().and_then(|()| self.carry_out(&mut engine, &core, batch)) {
                Ok(records) if sync => durable.push((promise, records)),
                Ok(records) => handed.push((promise, records)),
                Err(error) => promise.resolve(Err(error)),
            }
        }
        if !handed.is_empty() {
            let outcome = self.or_break(self.store.persist(false));
            resolve(handed, &outcome);
        }
        if !durable.is_empty() {
            let outcome = self.check().and_then(|()| self.or_break(self.sync(&mut engine)));
            resolve(durable, &outcome);
        }
    }

    /// One batch, to the store and then to the copy in memory.
    fn carry_out(&self, engine: &mut Engine, core: &Arc<Core>, batch: Batch) -> Result<Vec<Record>> {
        let place = Place {
            view: &*self.store,
            share: &core.share,
            index: core.index,
            state: core.state().clone(),
            next_index: engine.database.next_index,
        };
        // A batch that cannot be carried out has written nothing: only the store's errors break.
        let Outcome { mut writes, state, records, next_index, sweeps } = apply::apply(place, batch)?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        if writes.is_empty() {
            return Ok(records);
        }
        if next_index != engine.database.next_index {
            engine.database.next_index = next_index;
            writes.push(engine.database_row());
        }
        self.or_break(self.store.apply(writes))?;
        *core.state() = state;
        core.committed();
        engine.sweeps.extend(sweeps.into_iter().map(|(space, index)| Sweep::new(space, index)));
        if !engine.unsynced.iter().any(|other| Arc::ptr_eq(other, core)) {
            engine.unsynced.push(core.clone());
        }
        Ok(records)
    }

    fn sync(&self, engine: &mut Engine) -> Result<()> {
        if engine.unsynced.is_empty() {
            return Ok(());
        }
        self.store.persist(true)?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        for core in engine.unsynced.drain(..) {
            let head = core.state().head;
            core.durable.send_if_modified(|known| std::mem::replace(known, head) != head);
        }
        Ok(())
    }

    fn lock_queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn resolve(waiting: Vec<(Promise, Vec<Record>)>, outcome: &Result<()>) {
    for (promise, records) in waiting {
        promise.resolve(outcome.clone().map(|()| records));
    }
}

impl Engine {
    pub fn database_row(&self) -> Write {
        let value = rows::encode_database(&self.database).into();
        Write { space: Space::Notes, key: keys::database(), value: Some(value) }
    }

    /// Removes some rows of the first sweep. Not synced: a sweep that is forgotten is made again.
    fn sweep(&mut self, store: &dyn Store) -> Result<()> {
        let Some(sweep) = self.sweeps.front_mut() else { return Ok(()) };
        let Sweep { space, index, from } = sweep;
        let mut writes = Vec::with_capacity(SWEEP_STEP);
        for row in store.scan(*space, &keys::index(*index), from).take(SWEEP_STEP) {
            writes.push(Write { space: *space, key: row?.0.to_vec(), value: None });
        }
        let ended = writes.len() < SWEEP_STEP;
        if let Some(last) = writes.last() {
            from.clone_from(&last.key);
        }
        if ended {
            let key = keys::sweep(*space, *index);
            writes.push(Write { space: Space::Notes, key, value: None });
            self.sweeps.pop_front();
        }
        store.apply(writes)
    }
}

impl Sweep {
    pub fn new(space: Space, index: u32) -> Self {
        Self { space, index, from: Vec::new() }
    }
}

/// A panic of the thread (in a closure of `set_meta`, say) leaves nobody waiting for ever.
struct CloseOnUnwind<'a>(&'a Shared);

impl Drop for CloseOnUnwind<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "the committer's thread panicked".to_owned();
            // Already broken is as good.
            let _ = self.0.broken.set(why);
            self.0.close();
            let jobs = std::mem::take(&mut self.0.lock_queue().jobs);
            drop(jobs);
        }
    }
}
