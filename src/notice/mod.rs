//! The primary's side of a share: every change, wherever it came from, becomes records of the
//! journal, and the journal goes to every copy.
//!
//! A relayed change, an entry found by a scan, a mark left by a crash: each is only a hint that an
//! object or an entry may differ from the catalog; [`pass`] finds out from the disk what is so. Not
//! here: what a copy does with the records (see `follow`), and who may change what (the servers).
//!
//! What a crash leaves, step by step:
//! 1. before the mark is durable: the server has not heard of the change; nothing happened.
//! 2. after it: the mark is found at start and the entry is looked at, done or not done.
//! 3. after the batch with the record is durable: copies get it; the mark, still there, costs one
//!    more look that finds nothing.
//! 4. after the mark is cleared: the file system was synced before that.

mod draft;
mod feed;
mod lease;
mod locks;
mod minter;
mod outside;
mod pass;
mod pledge;
mod resign;
mod scan;
mod shifts;
mod still;
mod supply;
mod table;
mod tail;
#[cfg(test)]
mod tests;
mod ticket;
mod turns;
mod unread;
mod verify;
mod worker;

pub use feed::{busy, records};
pub use outside::{By, Outside};
pub use resign::Resigning;
pub use scan::Progress;
pub use supply::content;
pub use ticket::Ticket;
pub use turns::{InLine, Turns};

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use minter::Minter;
use shifts::Way;
use table::{Above, Held, Table};
use tail::Tail;
use ticket::Flying;

use crate::catalog::{CatalogError, Head, Shelf, Touch};
use crate::clock::{Clock, WallTime};
use crate::effect::{Reach, Target};
use crate::hash::HashMap;
use crate::id::{Epoch, Gen, ObjectId, RelPath, ShareId, SiteId};
use crate::link::Session;
use crate::object::{Found, Kind};
use crate::plant::{self, Bug};
use crate::tree::{Resolved, Tree, TreeError};
use crate::work::{self, Bell, Thread};

/// Most marks told at the start of a journal stream; beyond it the copy waits for releases.
const IN_FORCE_MAX: usize = 10_000;
/// Most touches that a barrier tells to be open; beyond it there is none now.
const OPEN_MAX: usize = 2048;
/// Deepest directory whose whole way up is looked for.
const DEPTH_MAX: usize = 4096;
/// Generations of one epoch: a later primary hands out greater ones than any before.
pub const GENS_BITS: u32 = 40;
/// Changes a second that no primary makes on average since 1970, as a power of two.
const CHANGES_BITS: u32 = 8;
/// Places in doubt that `status` names.
const SUSPECTED_MAX: usize = 20;
/// Places that could not be read that `status` names.
const UNREAD_MAX: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("reading {what}: {source}")]
    Read { what: String, source: io::Error },
    #[error("{path} leaves the share by a symbolic link")]
    Outside { path: RelPath },
    #[error("the share is stopped here: {why}")]
    Stopped { why: String },
    #[error("{alive} of the {needed} sites are there that must have a change before it is answered")]
    TooFewSites { needed: usize, alive: usize },
    #[error("{many} changes are not yet on the disks of as many sites as the map asks for")]
    NotDurable { many: usize },
    #[error("the primary copy is no longer here, or is about to move")]
    Moved,
    #[error("the primary copy went elsewhere while the server was at the change")]
    Overtaken,
    #[error("the change came out of a session that {site} has ended")]
    Late { site: SiteId },
    #[error("{0}")]
    NotNow(&'static str),
    #[error("a task of the share ended early; see the log")]
    Task,
}

pub type Result<T, E = NoticeError> = std::result::Result<T, E>;

/// A generation of `epoch` that is greater than any that a catalog which is lost has handed out: copies may await
/// those, and only greater ones end that.
pub fn beyond_lost(epoch: Epoch, now: WallTime) -> Gen {
    let seconds = u64::try_from(now.0 / 1_000_000_000).unwrap_or(0);
    Gen((u64::from(epoch.0) << GENS_BITS) + (seconds << CHANGES_BITS))
}

/// Who sent a change: a session of another site, so that a barrier knows what it must wait for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    pub site: SiteId,
    pub session: Session,
}

/// What a share needs to know of the map and never changes.
pub struct Config {
    pub share: ShareId,
    /// For ObjectIds, derived from the cluster's secret.
    pub key: [u8; 32],
    /// The kernel's boot id: another one than last time means that the page cache was lost (R24).
    pub boot_id: String,
    pub kept: Kept,
}

/// How many records of the journal are kept that every copy has, or that one does not come for. With 300 bytes
/// each the most are 300 MB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Always, so that a copy that reconnects at once finds its place.
    pub least: u64,
    /// For a copy that is away: one further behind compares trees instead.
    pub most: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { least: 10_000, most: 1_000_000 }
    }
}

/// What a map may change while the share runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// The sites whose copies the journal is kept for.
    pub copies: Vec<SiteId>,
    /// Whether what a change touched is synced before it is answered.
    pub sync: bool,
    /// Whether the copies hold what a change touches before the server hears of it.
    pub strict: bool,
    /// On the disks of so many sites is a change before it is answered (R26); 0 counts as 1.
    pub durable: usize,
    /// It is answered all the same while too few of them can be reached.
    pub may_degrade: bool,
}

/// How a share fares at its primary, for `status`.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct Standing {
    /// Why nothing can be noticed now, and what to do about it.
    pub stopped: Option<String>,
    /// Under way or wanted.
    pub scan: Option<Progress>,
    /// Scans that have ended since the start.
    pub scans: u64,
    /// How changes behind nearshare are noticed.
    pub outside: Outside,
    pub marks: usize,
    /// Changes whose outcome the server never told, and where the first of them are (R18).
    pub suspects: usize,
    pub suspected: Vec<String>,
    /// Places that cannot be read, or do not hold still, and have not for a second: copies have what was there
    /// before, or nothing. And the first of them.
    pub unread: usize,
    pub unread_first: Vec<Unread>,
    /// How many of them do not end before somebody does something about it; they come first.
    pub unreadable: usize,
    /// Copies of a strict share that may answer for themselves.
    pub leased: Vec<SiteId>,
    /// Changes wait until leases of an earlier process are over (R11).
    pub waits_for_old_leases: bool,
    /// Changes that are not yet on as many sites' disks as the map asks for.
    pub undurable: usize,
    /// The last of them were answered all the same.
    pub degraded: Option<String>,
}

/// A place that the primary cannot read.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Unread {
    /// A path in the share, or the name in an object whose path is not known.
    pub place: String,
    pub why: String,
    /// For so long.
    pub seconds: f64,
    /// What to do about it.
    pub fix: &'static str,
}

/// One share at its primary's site.
pub struct Notice<T: Tree> {
    config: Config,
    shelf: Arc<Shelf>,
    tree: Arc<T>,
    clock: Arc<dyn Clock>,
    minter: Minter,
    locks: Arc<locks::EntryLocks>,
    shifts: shifts::Shifts,
    table: Mutex<Table>,
    wake: Bell,
    tail: Tail,
    flushes: Mutex<HashMap<u64, tokio::sync::oneshot::Sender<()>>>,
    next_flush: AtomicU64,
    flying: Mutex<Flying>,
    landed: tokio::sync::Notify,
    standing: Mutex<Standing>,
    restless: Mutex<still::Restless>,
    unreads: Mutex<unread::Unreads>,
    scan_wanted: AtomicBool,
    /// A copy has shown that the catalog was older than what was told of it before this start.
    outdated: AtomicBool,
    terms: Mutex<Terms>,
    leases: Arc<lease::Leases>,
    contents: Turns,
    snapshots: Turns,
    pledges: Arc<pledge::Pledges>,
    /// Held by every change from its begin to its end, and by whoever lets none begin.
    gate: Arc<tokio::sync::RwLock<()>>,
    /// No change begins any more.
    ceased: AtomicBool,
    stop: AtomicBool,
    worker: Mutex<Option<Thread>>,
    watch: Mutex<Option<outside::Watch>>,
}

/// What a change touches, on the disk.
#[derive(Default)]
struct Walked {
    held: Vec<Held>,
    /// Also everything below.
    deep: bool,
    ways: Vec<Way>,
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Tree> Notice<T> {
    /// Takes up the marks that are in force and starts the share's worker thread, which scans first
    /// if the share was never scanned or was not stopped cleanly, and in the background otherwise.
    pub fn start(
        config: Config,
        terms: Terms,
        shelf: Arc<Shelf>,
        tree: Arc<T>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>> {
        let minter = Minter::new(config.key, tree.marker());
        let meta = shelf.meta();
        let mut leased_to: BTreeSet<SiteId> = terms.copies.iter().cloned().collect();
        if !plant::is(Bug::ForgetStrangers) {
            leased_to.extend(meta.leased_to);
        }
        let given = meta.leased && !plant::is(Bug::ForgetLeases);
        let leases = Arc::new(lease::Leases::new(given, leased_to, clock.boot()));
        let head = shelf.head();
        let notice = Arc::new(Self {
            config,
            tree,
            clock,
            minter,
            locks: Arc::default(),
            shifts: shifts::Shifts::default(),
            table: Mutex::default(),
            wake: Bell::default(),
            tail: Tail::new(head.at.seq),
            flushes: Mutex::default(),
            next_flush: AtomicU64::new(1),
            flying: Mutex::default(),
            landed: tokio::sync::Notify::new(),
            standing: Mutex::default(),
            restless: Mutex::default(),
            unreads: Mutex::default(),
            scan_wanted: AtomicBool::new(true),
            outdated: AtomicBool::new(false),
            terms: Mutex::new(terms),
            leases,
            contents: Turns::contents(),
            snapshots: Turns::snapshots(),
            pledges: Arc::default(),
            gate: Arc::default(),
            ceased: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            worker: Mutex::default(),
            watch: Mutex::default(),
            shelf,
        });
        let was_clean = notice.shelf.meta().clean;
        notice.note_start()?;
        // Whatever was handed out before and is not marked has been released. What is marked may be held by a
        // later generation than the mark's, of a change that got no further: it ends with this one.
        let newest = notice.shelf.next_gen()?;
        {
            let mut table = lock(&notice.table);
            table.start(newest);
            for (touch, _) in notice.shelf.marks()? {
                table.remember(touch, newest, true);
            }
            table.doubt_found(notice.shelf.doubts()?, was_clean);
        }
        // Before the scan, so that nothing falls between the two.
        notice.watch()?;
        let worker = notice.clone();
        let name = format!("notice {}", notice.config.share);
        let handle = work::thread(name, move || worker.run()).map_err(|source| NoticeError::Read {
            what: "starting the share's thread".into(),
            source,
        })?;
        *lock(&notice.worker) = Some(handle);
        notice.pledge_marks(newest);
        notice.forget_strangers();
        Ok(notice)
    }

    /// The stop to come is none yet. After a crash of the machine there is no boot id until a scan has
    /// seen everything: whatever ends that scan, the next one distrusts as much (R24).
    fn note_start(&self) -> Result<()> {
        let boot_id = self.config.boot_id.clone();
        let mut batch = self.shelf.batch();
        batch.set_meta(move |meta| {
            if !meta.clean && meta.boot_id != boot_id {
                meta.boot_id.clear();
            }
            meta.clean = false;
        });
        Ok(self.shelf.commit(batch, true).wait()?)
    }

    pub fn reconfigure(self: &Arc<Self>, terms: Terms) {
        let nothing_begins = lock(&self.table);
        let was_strict = std::mem::replace(&mut *lock(&self.terms), terms.clone()).strict;
        if terms.strict && !was_strict {
            // Nobody was asked about what changed meanwhile: leases from before are worth nothing.
            self.leases.begin_anew(&terms.copies, self.clock.boot());
        }
        drop(nothing_begins);
        self.pledges.stir();
        self.forget_strangers();
    }

    pub fn copies(&self) -> Vec<SiteId> {
        lock(&self.terms).copies.clone()
    }

    fn is_strict(&self) -> bool {
        lock(&self.terms).strict
    }

    /// Waits for the worker after `stop`. Blocks.
    pub fn join(&self) {
        if let Some(worker) = lock(&self.worker).take()
            && worker.join().is_err()
        {
            tracing::error!(share = %self.config.share, "the share's thread panicked");
        }
        self.end_watch();
    }

    /// Ends the worker after what it is doing now.
    pub fn stop(&self) {
        self.ceased.store(true, Ordering::SeqCst);
        self.stop.store(true, Ordering::SeqCst);
        self.wake.ring();
        self.unwatch();
        self.pledges.stir();
    }

    pub fn share(&self) -> &ShareId {
        &self.config.share
    }

    pub fn standing(&self) -> Standing {
        // A scan that begins meanwhile is in one of both, and what an ended one left to do is in the table by then.
        let wanted = self.scan_wanted.load(Ordering::SeqCst);
        let standing = lock(&self.standing).clone();
        let waiting = || Progress { first: !self.shelf.meta().scanned, ..Default::default() };
        let scan = standing.scan.or_else(|| wanted.then(waiting));
        let table = lock(&self.table);
        let (marks, suspects) = (table.len(), table.suspects());
        let suspected = table.doubts(SUSPECTED_MAX);
        drop(table);
        let suspected = suspected.iter().map(|touch| self.told(touch)).collect();
        let (leased, waits_for_old_leases) = self.leases.standing(self.clock.boot());
        let (undurable, degraded) = self.pledged();
        let (unread, unread_first, unreadable) = self.unread();
        Standing {
            scan,
            marks,
            suspects,
            suspected,
            unread,
            unread_first,
            unreadable,
            leased,
            waits_for_old_leases,
            undurable,
            degraded,
            ..standing
        }
    }

    fn unread(&self) -> (usize, Vec<Unread>, usize) {
        let unread = lock(&self.unreads).lasting(UNREAD_MAX, self.clock.boot());
        let told = unread.first.into_iter().map(|(touch, why, lasted)| Unread {
            place: self.told(&touch),
            why: why.said().to_owned(),
            seconds: lasted.as_secs_f64(),
            fix: why.fix(),
        });
        (unread.many, told.collect(), unread.ill)
    }

    /// What is in doubt is still so after a restart. One that comes before this is on the disk leaves marks
    /// that are in doubt for seconds.
    fn note_doubt(&self, touches: &[Touch]) {
        let mut batch = self.shelf.batch();
        touches.iter().for_each(|touch| batch.doubt(touch.clone()));
        drop(self.shelf.commit(batch, true));
    }

    /// A touch as people know it.
    fn told(&self, touch: &Touch) -> String {
        let path = match touch {
            Touch::Object(id) => self.shelf.path_of(*id).ok().flatten(),
            Touch::Entry(dir, name) => {
                self.shelf.path_of(*dir).ok().flatten().map(|path| path.join(name.clone()))
            }
        };
        let unplaced = || match touch {
            Touch::Object(id) => format!("object {id}"),
            Touch::Entry(dir, name) => format!("{name} in directory {dir}"),
        };
        path.map_or_else(unplaced, |path| path.to_string())
    }

    /// The operator knows that nothing in doubt will be carried out any more: what is on the disk is right
    /// (R18). Says how many changes that were.
    pub fn believe(&self) -> usize {
        let many = lock(&self.table).believe();
        self.wake.ring();
        many
    }

    /// Looks over the whole share again, in the background.
    pub fn rescan(&self) {
        self.scan_wanted.store(true, Ordering::SeqCst);
        self.wake.ring();
    }

    async fn touches_of(self: &Arc<Self>, targets: &[Target]) -> Result<(Vec<Held>, bool)> {
        let Walked { held, deep, .. } = self.walk(targets, false).await?;
        Ok((held, deep))
    }

    /// `ways`: also how the targets are reached.
    async fn walk(self: &Arc<Self>, targets: &[Target], ways: bool) -> Result<Walked> {
        let notice = self.clone();
        let targets = targets.to_vec();
        blocking(move || {
            // A server goes by paths: what it would write now, or has written, must be this share (R28).
            notice.tree.check()?;
            let mut walked = Walked::default();
            for target in &targets {
                let (deep, leads) = notice.touch(target, &mut walked.held)?;
                walked.deep |= deep;
                if ways {
                    walked.ways.extend(notice.way_to(&target.path, leads)?);
                }
            }
            walked.held.dedup_by(|one, other| one.touch == other.touch);
            Ok(walked)
        })
        .await
    }

    /// How a place is reached. None for the root, which stays where it is.
    fn way_to(&self, path: &RelPath, leads: bool) -> Result<Option<Way>> {
        let Some((above, name)) = path.split_last() else { return Ok(None) };
        if above == RelPath::ROOT {
            return Ok(Some(Way { path: Some(path.clone()), over_links: false, leads }));
        }
        let straight = self.tree.straight(&above, false)?;
        let over_links = straight.as_ref().is_some_and(|straight| *straight != above);
        let path = straight.map(|straight| straight.join(name.clone()));
        Ok(Some(Way { path, over_links, leads }))
    }

    /// What one target is on the disk now (R2). Says whether everything below it may change too, and whether it
    /// is something that ways lead over.
    fn touch(&self, target: &Target, held: &mut Vec<Held>) -> Result<(bool, bool)> {
        let path = &target.path;
        let below = target.reach == Reach::Below;
        let (dir, name, found, deep) = match self.tree.resolve(path, false)? {
            Resolved::Root(_) => {
                held.push(Held::alone(Touch::Object(ObjectId::ROOT)));
                return Ok((below, false));
            }
            Resolved::Entry { dir, name, found } => (dir, name, found, below),
            // A server that makes missing parents makes them below here.
            Resolved::NoParent { dir, name } => (dir, name, None, true),
            Resolved::NotADirectory { dir, name } => (dir, name, None, below),
            Resolved::Outside => return Err(NoticeError::Outside { path: path.clone() }),
        };
        let mut parent = self.dir_id(&dir, path)?;
        if plant::is(Bug::ResolveInCatalog) {
            parent = self.recorded_above(path).unwrap_or(parent);
        }
        let above = match self.is_strict() || self.is_pledged() {
            true => self.above(parent, path)?,
            false => Vec::new(),
        };
        let entry = Touch::Entry(parent, name);
        let Some(found) = found else {
            held.push(Held { touch: entry, above, object: None });
            return Ok((deep, false));
        };
        let known = self.shelf.by_handle(&found.handle)?;
        let directory = found.kind == Kind::Directory;
        let mut object = directory.then(|| self.known_or_new(known, &found));
        if let Some(id) = known {
            let above = match directory {
                true => above.clone(),
                false if above.is_empty() || self.shelf.links(id)?.len() > 1 => Vec::new(),
                // What is read of it is read through its entry: a burst on one file asks once, although
                // every change may make another object of it.
                false => {
                    let own = Above { dir: id, entry: Some(entry.clone()) };
                    std::iter::once(own).chain(above.iter().cloned()).collect()
                }
            };
            held.push(Held { touch: Touch::Object(id), above, object: None });
        }
        if found.kind == Kind::Symlink {
            object = self.touch_target(path, held)?;
        }
        held.push(Held { touch: entry, above, object });
        Ok((deep, directory || found.kind == Kind::Symlink))
    }

    fn known_or_new(&self, known: Option<ObjectId>, found: &Found) -> ObjectId {
        known.unwrap_or_else(|| self.minter.mint(self.shelf.meta().epoch, &found.handle))
    }

    /// Some servers write through a symbolic link at the end of the path, some replace it: what it
    /// leads to is touched as well. Says which directory that is.
    fn touch_target(&self, path: &RelPath, held: &mut Vec<Held>) -> Result<Option<ObjectId>> {
        let Resolved::Entry { dir, name, found } = self.tree.resolve(path, true)? else {
            return Ok(None);
        };
        let mut directory = None;
        if let Some(found) = found {
            let known = self.shelf.by_handle(&found.handle)?;
            held.extend(known.map(Touch::Object).map(Held::alone));
            directory = (found.kind == Kind::Directory).then(|| self.known_or_new(known, &found));
        }
        held.push(Held::alone(Touch::Entry(self.dir_id(&dir, path)?, name)));
        Ok(directory)
    }

    /// The directories from `parent` up to the root, for what is at `path` in it. None if that cannot
    /// be told.
    fn above(&self, parent: ObjectId, path: &RelPath) -> Result<Vec<Above>> {
        let mut above = Vec::new();
        let mut at = parent;
        while at != ObjectId::ROOT {
            let Some((dir, name)) = self.shelf.links(at)?.into_iter().next() else {
                return if above.is_empty() { self.above_new(parent, path) } else { Ok(Vec::new()) };
            };
            above.push(Above { dir: at, entry: Some(Touch::Entry(dir, name)) });
            at = dir;
            if above.len() > DEPTH_MAX {
                return Ok(Vec::new());
            }
        }
        above.push(Above { dir: ObjectId::ROOT, entry: None });
        Ok(above)
    }

    /// As [`Self::above`], for a directory that is not recorded yet: down the path, which must go through
    /// directories alone.
    fn above_new(&self, parent: ObjectId, path: &RelPath) -> Result<Vec<Above>> {
        let mut above = vec![Above { dir: ObjectId::ROOT, entry: None }];
        let mut at = ObjectId::ROOT;
        let names = path.names();
        for (depth, name) in names.iter().take(names.len().saturating_sub(1)).enumerate() {
            let entry = Some(Touch::Entry(at, name.clone()));
            at = match self.shelf.child(at, name)? {
                Some(id) if self.shelf.object(id)?.is_some_and(|it| it.kind == Kind::Directory) => id,
                Some(_) => return Ok(Vec::new()),
                None => {
                    // A beginning of a path that was short enough is short enough.
                    let here = RelPath::new(names[..=depth].to_vec()).unwrap_or_default();
                    let Resolved::Entry { found: Some(found), .. } = self.tree.resolve(&here, false)?
                    else {
                        return Ok(Vec::new());
                    };
                    if found.kind != Kind::Directory {
                        return Ok(Vec::new());
                    }
                    self.minter.mint(self.shelf.meta().epoch, &found.handle)
                }
            };
            above.insert(0, Above { dir: at, entry });
        }
        Ok(if at == parent { above } else { Vec::new() })
    }

    /// What the catalog says that the directory of a path is: for [`Bug::ResolveInCatalog`] alone.
    fn recorded_above(&self, path: &RelPath) -> Option<ObjectId> {
        let (above, _) = path.split_last()?;
        above
            .names()
            .iter()
            .try_fold(ObjectId::ROOT, |at, name| self.shelf.child(at, name).ok().flatten())
    }

    /// The directory's id; one that is not recorded yet is remembered with where it was seen.
    fn dir_id(&self, dir: &Found, path: &RelPath) -> Result<ObjectId> {
        if let Some(id) = self.shelf.by_handle(&dir.handle)? {
            return Ok(id);
        }
        let id = self.minter.mint(self.shelf.meta().epoch, &dir.handle);
        let above = path.split_last().map(|(above, _)| above).unwrap_or_default();
        self.minter.remember(id, dir.handle.clone(), above);
        Ok(id)
    }

    /// Everything answered before this call has been looked at; says the head after that.
    pub(crate) async fn flush(&self) -> Result<Head> {
        let ticket = self.next_flush.fetch_add(1, Ordering::Relaxed);
        let (done, wait) = tokio::sync::oneshot::channel();
        lock(&self.flushes).insert(ticket, done);
        if self.stop.load(Ordering::SeqCst) {
            // The worker may have answered its last.
            lock(&self.flushes).remove(&ticket);
            return Err(NoticeError::Task);
        }
        lock(&self.table).flush(ticket);
        self.wake.ring();
        wait.await.map_err(|_| NoticeError::Task)?;
        Ok(self.durable())
    }

    /// Where the journal ends as far as it survives a power cut: no other site may hear of more (R23).
    fn durable(&self) -> Head {
        *self.shelf.durable_head().borrow()
    }

    /// All that `origin`'s site sent in older sessions has landed, and has been looked at. Says what of it is
    /// not in the journal all the same, because it could not be read or is in doubt: until that is released
    /// the site must not answer for it.
    async fn barrier(&self, origin: &Origin) -> Result<(Head, Vec<(Touch, Gen)>)> {
        loop {
            let landed = self.landed.notified();
            tokio::pin!(landed);
            landed.as_mut().enable();
            if lock(&self.flying).have_landed_before(origin) {
                break;
            }
            landed.await;
        }
        self.flush().await?;
        // Before the head is asked for: what is closed between the two is in the journal by then.
        let open = lock(&self.table).open_of(&origin.site, OPEN_MAX);
        let open = open.ok_or(NoticeError::NotNow("too many changes cannot be looked at now"))?;
        Ok((self.durable(), open))
    }
}

impl<T: Tree> Notice<T> {
    /// The entries that are an object, by the catalog.
    fn entries_of(&self, id: ObjectId) -> Result<Vec<Touch>> {
        let links = self.shelf.links(id)?;
        Ok(links.into_iter().map(|(dir, name)| Touch::Entry(dir, name)).collect())
    }

    fn handle_of(&self, id: ObjectId) -> Result<Option<crate::object::LocalHandle>> {
        Ok(match self.shelf.local(id)? {
            Some(local) => Some(local.handle),
            None => self.minter.recall(id).map(|(handle, _)| handle),
        })
    }
}

async fn blocking<R: Send + 'static>(run: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
    work::blocking(run).await.map_err(|_| NoticeError::Task)?
}
