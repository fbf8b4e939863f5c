//! A copy's side of a share: pulls the primary's journal, spools it, brings the disk to it, fetches
//! content, and knows what this copy may answer for.
//!
//! The catalog says what should be; a mark says that the disk may not be there yet. What a crash
//! leaves, step by step:
//! 1. before a batch of records is durable: nothing was acknowledged, the primary sends it again.
//! 2. after it: records, marks and debts are there; at start every marked entry is settled again.
//! 3. content staged in `.nearshare/tmp`: thrown away at start, the debt is still there.
//! 4. renamed in, but the row that says so was not yet committed: the mark is, and settling takes over
//!    what it finds by content.
//! 5. marks are cleared only after the file system was synced.
//!
//! Not here: what the primary writes to its journal (see `notice`).

mod ahead;
mod applier;
mod compare;
mod fetch;
mod lease;
mod meter;
mod owed;
mod pull;
mod refused;
mod release;
mod settle;
mod succeed;
mod suspect;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ahead::{Ahead, Lies};
use meter::{Done, Meter, Rates, seconds_left};
use owed::{Lane, Owed};
pub use succeed::FENCE;
use suspect::Suspects;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use walk::Walks;

use crate::catalog::{CatalogError, Shelf, Touch};
use crate::clock::{BootTime, Clock};
use crate::effect::{Change, Depth, Read};
use crate::hash::HashSet;
use crate::id::{Gen, Hash, ObjectId, ShareId, SiteId};
use crate::link::Net;
use crate::plant::{self, Bug};
use crate::route::Standing;
use crate::tree::content::hash_bytes;
use crate::tree::{Spot, Tree, TreeError};
use crate::work::{self, Bell, Thread};

/// Requests sent home and not yet back: beyond it writes get a retry answer.
const AHEAD_MAX: usize = 65_536;
/// What failed is tried again after this, and after twice as long up to the most.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Jobs that wait for the applier.
const JOBS_MAX: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("reading {what}: {source}")]
    Read { what: String, source: io::Error },
    #[error("writing {what}: {source}")]
    Write { what: String, source: io::Error },
    #[error("{site} sent {what}: {why}")]
    Peer { site: SiteId, what: &'static str, why: String },
    #[error("{AHEAD_MAX} requests of this site are under way or not yet back in its copy")]
    Busy,
    #[error(
        "the maps of this site and of {0} describe the share differently: put the same file at both \
         sites and run `nearshare reload`"
    )]
    MapsDiffer(SiteId),
    #[error("which site has the primary copy is changing")]
    Moving,
    #[error("a task of the share ended early; see the log")]
    Task,
}

impl FollowError {
    /// The disk is full: removals may still pass, and make room (R27).
    fn no_room(&self) -> bool {
        self.raw().is_some_and(|errno| matches!(errno, libc::ENOSPC | libc::EDQUOT))
    }

    /// The disk has room, and keeps no more extended attributes with an object.
    fn is_of_xattrs(&self) -> bool {
        matches!(self, Self::Tree(error) if error.is_of_xattrs())
    }

    /// It is of one entry, and says nothing of the others.
    fn is_of_an_entry(&self) -> bool {
        let of_all = [libc::EROFS, libc::EMFILE, libc::ENFILE, libc::ENOMEM];
        self.is_of_xattrs() || self.raw().is_some_and(|errno| !of_all.contains(&errno))
    }

    /// The primary's records are not what follows the ones that are here: only another stream helps.
    fn is_of_the_stream(&self) -> bool {
        use CatalogError::{BrokenChain, NotNext, OldEpoch, OtherChain};
        match self {
            Self::Catalog(error) => {
                matches!(
                    error,
                    NotNext { .. } | OtherChain { .. } | OldEpoch { .. } | BrokenChain { .. }
                )
            }
            Self::Peer { .. } => true,
            _ => false,
        }
    }

    /// A directory was to be moved below itself.
    fn is_into_itself(&self) -> bool {
        self.raw() == Some(libc::EINVAL)
    }

    fn raw(&self) -> Option<i32> {
        match self {
            Self::Tree(TreeError::Io { source, .. })
            | Self::Read { source, .. }
            | Self::Write { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

type Result<T, E = FollowError> = std::result::Result<T, E>;

/// What a share needs to know of the map.
pub struct Config {
    pub share: ShareId,
    /// The site with the primary copy.
    pub primary: SiteId,
}

/// What a map may change while the share runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// Reads are answered from here only under a lease.
    pub strict: bool,
    /// Without one for long enough they are again (R13).
    pub serve_when_cut_off: bool,
}

/// How a copy fares, for `status`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Progress {
    /// What it is doing: "waiting for the link", "comparing", "following".
    pub doing: &'static str,
    /// Why nothing, or no content, can be applied now.
    pub stopped: Option<String>,
    pub confirmed: bool,
    pub comparing: bool,
    /// Entries compared so far, of so many.
    pub compared: u64,
    pub expected: u64,
    /// Records the primary has and this copy has not.
    pub lag_records: u64,
    pub lag_seconds: f64,
    /// Contents awaited.
    pub debts: u64,
    pub debt_bytes: u64,
    /// Over the last half minute; 0 while it cannot be told.
    pub entries_per_second: f64,
    pub files_per_second: f64,
    pub bytes_per_second: f64,
    /// Of the comparison, else of the contents awaited now; 0 while it cannot be told.
    pub seconds_left: f64,
    /// What this copy does not answer for, besides what it holds.
    pub ahead: usize,
    /// Of that: requests of this site that are not back in its copy.
    pub writes: usize,
    /// Of that: touches of such requests that the primary could not read, or was in doubt of, when this site asked.
    pub untold: usize,
    /// What the primary asked this copy of a strict share not to answer for.
    pub held: usize,
    /// Places that this site's server may still change, of when this site was the primary (R18).
    pub suspects: usize,
    /// Of a strict share: "live", "none" (nobody reads, or it is on its way), "cut off".
    pub lease: Option<&'static str>,
    /// Files and directories moved aside since the start.
    pub kept: u64,
    pub last_error: Option<String>,
}

/// One share at a site that holds a copy.
pub struct Follow<T: Tree> {
    config: Config,
    shelf: Arc<Shelf>,
    tree: Arc<T>,
    clock: Arc<dyn Clock>,
    ahead: Mutex<Ahead>,
    /// How many notes are in `ahead`: the fast path of every read.
    ahead_count: AtomicUsize,
    next_note: AtomicU64,
    /// Notes that are over, but for the file system's sync: after a power cut the copy is behind them again.
    over: Mutex<Vec<u64>>,
    suspects: Mutex<Suspects>,
    owed: Mutex<Owed>,
    owed_count: AtomicUsize,
    owing: Notify,
    /// What a crash left in `.nearshare/tmp` is tidied away: content may be staged.
    fetching: AtomicBool,
    confirmed: AtomicBool,
    /// The primary has said what is in force, or we are known to be cut off (R9).
    open: AtomicBool,
    terms: Mutex<Terms>,
    lease: lease::Lease,
    walks: Walks,
    progress: Mutex<Progress>,
    done: Mutex<Done>,
    meter: Mutex<Meter>,
    /// So much has come of the large content that is on its way, in bytes; of any of them if there are more.
    part: AtomicU64,
    /// The disk has no room for contents.
    full: Mutex<Option<Full>>,
    /// What the disk does not take, in words.
    refused: Mutex<Option<String>>,
    jobs: mpsc::Sender<applier::Job>,
    /// The site that contents are asked of.
    source: Mutex<SiteId>,
    /// Pledges that are kept, for the primary to be told.
    kept: Mutex<Vec<u64>>,
    keeping: Notify,
    /// Until then no pledge is told as kept: a site that may be about to lead has heard what is here.
    fence: Mutex<Option<BootTime>>,
    stop: CancellationToken,
    applier: Mutex<Option<Thread>>,
    /// How many write contents aside, besides the applier.
    writers: Mutex<usize>,
    written: Bell,
}

/// One that writes contents aside: nobody else takes the share's directory over before it has ended.
struct Writing<T: Tree>(Arc<Follow<T>>);

impl<T: Tree> std::ops::Deref for Writing<T> {
    type Target = Follow<T>;
    fn deref(&self) -> &Follow<T> {
        &self.0
    }
}

impl<T: Tree> Drop for Writing<T> {
    fn drop(&mut self) {
        *lock(&self.writers) -= 1;
        self.written.ring();
    }
}

/// Contents are not fetched before `until`.
struct Full {
    until: BootTime,
    wait: Duration,
    why: String,
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Tree> Follow<T> {
    /// Takes up what the catalog remembers and starts the share's tasks on the current runtime.
    pub fn start(
        config: Config,
        terms: Terms,
        shelf: Arc<Shelf>,
        tree: Arc<T>,
        links: Arc<dyn Net>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>> {
        let (follow, inbox) = Self::take_up(config, shelf, tree, clock)?;
        follow.reconfigure(terms);
        let applier = follow.clone();
        let name = format!("follow {}", follow.config.share);
        let handle = work::thread(name, move || applier::run(&applier, inbox)).map_err(|source| {
            FollowError::Read { what: "starting the share's thread".into(), source }
        })?;
        *lock(&follow.applier) = Some(handle);
        work::spawn(pull::run(follow.clone(), links.clone()));
        work::spawn(lease::run(follow.clone(), links.clone()));
        // While some are on the way the next ones are asked for.
        work::spawn(fetch::run(follow.clone(), links.clone(), Lane::Small));
        work::spawn(fetch::run(follow.clone(), links.clone(), Lane::Small));
        work::spawn(fetch::run(follow.clone(), links, Lane::Large));
        Ok(follow)
    }

    /// What the catalog remembers, without a task: the jobs are for an [`applier::Applier`].
    fn take_up(
        config: Config,
        shelf: Arc<Shelf>,
        tree: Arc<T>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Self>, mpsc::Receiver<applier::Job>)> {
        let (jobs, inbox) = mpsc::channel(JOBS_MAX);
        let mut ahead = Ahead::default();
        let mut last = 0;
        for (id, touches) in shelf.ahead_notes()? {
            if plant::is(Bug::ForgetAheadOverRestart) {
                continue;
            }
            let above = above(&shelf, &touches)?;
            let lies = Lies { above, seen: ahead.moves() };
            ahead.note(id, touches, lies);
            // Whatever became of it, this process does not know.
            ahead.doubt(id);
            last = last.max(id);
        }
        let mut suspects = Suspects::default();
        for touch in shelf.doubts()? {
            suspects.add(touch.clone(), ahead.suspect(touch), clock.boot());
        }
        let owed = Owed::load(&shelf)?;
        let follow = Arc::new(Self {
            ahead_count: AtomicUsize::new(ahead.len()),
            ahead: Mutex::new(ahead),
            next_note: AtomicU64::new(last + 1),
            over: Mutex::default(),
            suspects: Mutex::new(suspects),
            owed_count: AtomicUsize::new(owed.len()),
            owed: Mutex::new(owed),
            owing: Notify::new(),
            fetching: AtomicBool::new(false),
            confirmed: AtomicBool::new(shelf.meta().confirmed),
            open: AtomicBool::new(false),
            terms: Mutex::default(),
            lease: lease::Lease::default(),
            walks: Walks::default(),
            progress: Mutex::default(),
            done: Mutex::default(),
            meter: Mutex::default(),
            part: AtomicU64::new(0),
            full: Mutex::default(),
            refused: Mutex::default(),
            jobs,
            source: Mutex::new(config.primary.clone()),
            kept: Mutex::default(),
            keeping: Notify::new(),
            fence: Mutex::new(Self::fenced_since(&shelf.meta(), clock.boot())),
            stop: CancellationToken::new(),
            applier: Mutex::default(),
            writers: Mutex::default(),
            written: Bell::default(),
            config,
            shelf,
            tree,
            clock,
        });
        Ok((follow, inbox))
    }

    pub fn stop(&self) {
        self.stop.cancel();
        self.owing.notify_waiters();
    }

    /// `None`: it was stopped.
    fn write(self: Arc<Self>) -> Option<Writing<T>> {
        let mut writers = lock(&self.writers);
        if self.stopped() {
            return None;
        }
        *writers += 1;
        drop(writers);
        Some(Writing(self))
    }

    /// Writes a content to its `Spot::Tmp`, whose owner the caller is.
    fn put_aside(&self, id: ObjectId, data: &[u8]) -> Result<Hash> {
        let mut stage = self.tree.stage(id)?;
        if let Err(source) = stage.write_all(data) {
            drop(stage);
            self.tree.remove(Spot::Tmp(id))?;
            return Err(FollowError::Write { what: id.to_string(), source });
        }
        self.tree.staged(stage)?;
        Ok(hash_bytes(data).root)
    }

    /// Waits, after `stop`, until nobody writes to the share any more. Blocks.
    pub fn join(&self) {
        if let Some(applier) = lock(&self.applier).take()
            && applier.join().is_err()
        {
            tracing::error!(share = %self.config.share, "the share's thread panicked");
        }
        let mut writers = lock(&self.writers);
        while *writers > 0 {
            writers = self.written.wait(&self.writers, writers);
        }
    }

    pub fn share(&self) -> &ShareId {
        &self.config.share
    }
    pub fn primary(&self) -> &SiteId {
        &self.config.primary
    }

    pub fn progress(&self) -> Progress {
        let owed = lock(&self.owed);
        let (debts, debt_bytes) = (owed.len() as u64, owed.bytes());
        drop(owed);
        let progress = lock(&self.progress).clone();
        let ((writes, untold), ahead, held) = {
            let ahead = lock(&self.ahead);
            (ahead.own_and_untold(), ahead.own(), ahead.len() - ahead.own())
        };
        let suspects = lock(&self.suspects).len();
        let rates = self.rates();
        // Contents that come while the trees are compared say nothing of how fast the rest will.
        let left = match progress.comparing {
            true => {
                Done { entries: progress.expected.saturating_sub(progress.compared), ..Done::default() }
            }
            false => Done {
                entries: 0,
                files: debts,
                bytes: debt_bytes.saturating_sub(self.part.load(Ordering::Relaxed)),
            },
        };
        Progress {
            debts,
            debt_bytes,
            ahead,
            writes,
            untold,
            held,
            suspects,
            lease: self.lease_word(),
            entries_per_second: rates.entries,
            files_per_second: rates.files,
            bytes_per_second: rates.bytes,
            seconds_left: seconds_left(left, rates),
            confirmed: self.confirmed.load(Ordering::Relaxed),
            stopped: progress
                .stopped
                .or_else(|| lock(&self.full).as_ref().map(|full| full.why.clone()))
                .or_else(|| lock(&self.refused).clone()),
            ..progress
        }
    }

    fn note(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut lock(&self.progress));
    }

    fn did(&self, count: impl FnOnce(&mut Done)) {
        count(&mut lock(&self.done));
    }

    fn rates(&self) -> Rates {
        let done = *lock(&self.done);
        lock(&self.meter).rates(self.clock.boot(), done)
    }

    /// Takes a sample for the rates, while there is something to be done.
    fn sample(&self, busy: bool) {
        let done = *lock(&self.done);
        let mut meter = lock(&self.meter);
        match busy {
            true => meter.note(self.clock.boot(), done),
            false => meter.rest(),
        }
    }

    /// A content could not be written: no more are fetched for a while, and for twice as long if that
    /// does not help. Everything else goes on.
    fn no_room(&self, error: &FollowError) {
        let now = self.clock.boot();
        let mut full = lock(&self.full);
        let wait = match &*full {
            Some(full) if now < full.until => return,
            Some(full) => (full.wait * 2).min(RETRY_MAX),
            None => RETRY,
        };
        let why = error.to_string();
        tracing::error!(share = %self.config.share, %error, retry = ?wait, "there is no room for contents");
        self.note(|progress| progress.last_error = Some(why.clone()));
        *full = Some(Full { until: BootTime(now.0 + wait), wait, why });
    }

    fn may_fetch(&self) -> bool {
        let now = self.clock.boot();
        self.fetching.load(Ordering::Acquire)
            && lock(&self.full).as_ref().is_none_or(|full| now >= full.until)
    }

    pub fn stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Whether this copy may answer a read. Cheap when nothing of this site is under way.
    pub fn standing(&self, read: &Read) -> Standing {
        if !self.confirmed.load(Ordering::Acquire) {
            return Standing::Unconfirmed;
        }
        if !self.open.load(Ordering::Acquire) {
            return Standing::Barrier;
        }
        if self.ahead_count.load(Ordering::Acquire) == 0 && self.owed_count.load(Ordering::Acquire) == 0
        {
            return Standing::Current;
        }
        // What the catalog cannot tell is asked at home.
        self.look_up(read).unwrap_or(Standing::Ahead)
    }

    fn look_up(&self, read: &Read) -> Result<Standing> {
        let walk = self.walks.get_or(&read.path, || walk::by_catalog(&self.shelf, &read.path))?;
        let is_ahead = |ahead: &Ahead, dir, name| {
            ahead.entry(dir, name) || ahead.whole(dir) && !plant::is(Bug::ForgetBelow)
        };
        let ahead = lock(&self.ahead);
        if walk.steps.iter().any(|(dir, name)| is_ahead(&ahead, *dir, name)) {
            return Ok(Standing::Ahead);
        }
        {
            let owed = lock(&self.owed);
            // What stands where it was deleted, or was replaced, is not told by the catalog; and who may
            // enter a directory is not on the disk before all of its attributes are.
            if owed.is_leaving() || walk.steps.iter().any(|(dir, _)| owed.contains(*dir)) {
                return Ok(Standing::Behind);
            }
        }
        let Some(id) = walk.found else {
            return Ok(if walk.lost { Standing::Ahead } else { Standing::Current });
        };
        let listing = read.depth != Depth::Object;
        if listing && plant::is(Bug::ListBlindly) {
            return Ok(Standing::Current);
        }
        if ahead.object(id) || ahead.below(id) && listing {
            return Ok(Standing::Ahead);
        }
        drop(ahead);
        let owed = lock(&self.owed);
        Ok(if owed.contains(id) || listing && !owed.is_empty() {
            Standing::Behind
        } else {
            Standing::Current
        })
    }

    /// Before a change is sent home: what it touches counts as ahead of this copy, durably (R9).
    pub async fn begin(self: &Arc<Self>, change: &Change) -> Result<AheadTicket<T>> {
        // Another may have its numbers already.
        if self.stopped() {
            return Err(FollowError::Moving);
        }
        if lock(&self.ahead).own() >= AHEAD_MAX {
            return Err(FollowError::Busy);
        }
        if self.lease.is_at_odds() {
            return Err(FollowError::MapsDiffer(self.config.primary.clone()));
        }
        let mut touches = Vec::new();
        for target in &change.targets {
            let walk = walk::by_catalog(&self.shelf, &target.path)?;
            touches.extend(walk.found.map(Touch::Object));
            let last = walk.last.unwrap_or(walk.steps.len().saturating_sub(1));
            touches.extend(walk.steps.into_iter().skip(last).map(|(dir, name)| Touch::Entry(dir, name)));
        }
        if plant::is(Bug::ForgetAhead) {
            touches.clear();
        }
        let lies = self.lies(&touches)?;
        let id = self.next_note.fetch_add(1, Ordering::Relaxed);
        self.with_ahead(|ahead| ahead.note(id, touches.clone(), lies));
        self.place();
        let ticket = AheadTicket { follow: self.clone(), id, open: true };
        let mut batch = self.shelf.batch();
        batch.note_ahead(id, touches);
        self.shelf.commit(batch, !plant::is(Bug::NoteUnsynced)).await?;
        Ok(ticket)
    }

    fn with_ahead<V>(&self, change: impl FnOnce(&mut Ahead) -> V) -> V {
        let mut ahead = lock(&self.ahead);
        let done = change(&mut ahead);
        self.ahead_count.store(ahead.len(), Ordering::Release);
        done
    }

    /// What was ahead is here: the notes go from the catalog with the next sync of the file system.
    fn forget(&self, ids: &[u64]) {
        lock(&self.over).extend(ids.iter().filter(|id| Ahead::is_own(**id)));
    }
}

/// Every directory above some touches, for reads that list.
fn above(shelf: &Shelf, touches: &[Touch]) -> Result<HashSet<ObjectId>> {
    let mut above = HashSet::default();
    let mut next: Vec<ObjectId> = Vec::new();
    for touch in touches {
        match touch {
            Touch::Entry(dir, _) => next.push(*dir),
            Touch::Object(id) => {
                above.insert(*id);
                next.extend(shelf.links(*id)?.into_iter().map(|(dir, _)| dir));
            }
        }
    }
    while let Some(dir) = next.pop() {
        if above.insert(dir) {
            next.extend(shelf.links(dir)?.into_iter().map(|(dir, _)| dir));
        }
    }
    Ok(above)
}

/// A change on its way home. Dropped without a word, its outcome is unknown.
pub struct AheadTicket<T: Tree> {
    follow: Arc<Follow<T>>,
    id: u64,
    open: bool,
}

impl<T: Tree> AheadTicket<T> {
    /// The primary did it; these are to be applied here before this copy answers again.
    pub fn answered(mut self, awaits: Vec<(Touch, Gen)>) {
        if plant::is(Bug::ForgetAhead) {
            return self.refused();
        }
        let touches: Vec<Touch> = awaits.iter().map(|(touch, _)| touch.clone()).collect();
        // What the catalog cannot tell is left in doubt.
        let Ok(lies) = self.follow.lies(&touches) else { return };
        self.open = false;
        if self.follow.with_ahead(|ahead| ahead.answered(self.id, awaits, lies)) {
            self.follow.forget(&[self.id]);
        }
        self.follow.place();
    }

    /// Nothing was done.
    pub fn refused(mut self) {
        self.open = false;
        self.follow.with_ahead(|ahead| ahead.remove(self.id));
        let mut batch = self.follow.shelf.batch();
        batch.drop_ahead(self.id);
        // A note that survives a crash is one barrier more after it.
        drop(self.follow.shelf.commit(batch, false));
    }
}

impl<T: Tree> Drop for AheadTicket<T> {
    fn drop(&mut self) {
        if self.open {
            // The next barrier tells.
            self.follow.with_ahead(|ahead| ahead.doubt(self.id));
        }
    }
}
