//! One change at the primary, from its mark to its outcome. Not here: what is found out from the disk
//! afterwards (`pass`).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::shifts::Met;
use super::table::Held;
use super::{Notice, NoticeError, Origin, Result, Walked, blocking, lock, locks, pledge};
use crate::catalog::Touch;
use crate::effect::{Change, Depth, Target};
use crate::hash::HashMap;
use crate::id::{Gen, Name, ObjectId, SiteId};
use crate::link::Session;
use crate::plant::{self, Bug};
use crate::tree::{Place, Tree};
use crate::work;

/// Most entries looked at beside those that a failed change named; a scan finds any others.
const STRAYS_MAX: usize = 1000;

/// One change between its mark and its outcome. Dropped without a word, its outcome is unknown (R18).
pub struct Ticket<T: Tree> {
    notice: Arc<Notice<T>>,
    targets: Vec<Target>,
    touches: Vec<Touch>,
    /// Where they were when it began, for a refusal: nothing if it is in no pledge.
    walked: Vec<Held>,
    pub(super) generation: Gen,
    deep: bool,
    flight: Option<Flight<T>>,
    /// It is open in the pledges.
    pledged: bool,
    stage: Stage,
    footing: Footing<T>,
    _guard: locks::EntryGuard,
    _open: tokio::sync::OwnedRwLockReadGuard<()>,
}

/// How far a change has come, for when its ticket is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The server has not heard of it.
    Unsent,
    /// The server may or may not carry it out, now or later.
    Sent,
    /// The server has answered.
    Known,
    Landed,
}

/// The changes of other sites that have come and not landed, and what came too late to be one of them.
#[derive(Default)]
pub(super) struct Flying {
    counts: HashMap<Origin, u64>,
    /// A barrier was asked for in this session: nothing begins that was sent in an older one.
    asked: HashMap<SiteId, Session>,
}

impl Flying {
    /// Whether all that `origin`'s site sent in older sessions has landed. None of that begins from now on.
    pub(super) fn have_landed_before(&mut self, origin: &Origin) -> bool {
        let asked = self.asked.entry(origin.site.clone()).or_insert(origin.session);
        *asked = origin.session.max(*asked);
        !self.counts.keys().any(|other| other.site == origin.site && other.session < origin.session)
    }
}

/// One change of another site, from when it comes here: before it waits for anything, so that a barrier waits
/// for it, or it is late.
struct Flight<T: Tree> {
    notice: Arc<Notice<T>>,
    origin: Origin,
}

impl<T: Tree> Flight<T> {
    fn of(notice: &Arc<Notice<T>>, origin: Origin) -> Result<Self> {
        let mut flying = lock(&notice.flying);
        if flying.asked.get(&origin.site).is_some_and(|asked| origin.session < *asked) {
            return Err(NoticeError::Late { site: origin.site });
        }
        *flying.counts.entry(origin.clone()).or_default() += 1;
        drop(flying);
        Ok(Self { notice: notice.clone(), origin })
    }
}

impl<T: Tree> Drop for Flight<T> {
    fn drop(&mut self) {
        let mut flying = lock(&self.notice.flying);
        if let Some(count) = flying.counts.get_mut(&self.origin) {
            *count -= 1;
            if *count == 0 {
                flying.counts.remove(&self.origin);
            }
        }
        drop(flying);
        self.notice.landed.notify_waiters();
    }
}

/// What is moved on the way of a change, from before it is looked for on the disk.
struct Footing<T: Tree> {
    notice: Arc<Notice<T>>,
    number: u64,
}

impl<T: Tree> Footing<T> {
    /// The directories where the server may have been at it, beside where it was and is: with all below them,
    /// for it may have been on the way at any depth.
    fn met(&self) -> Vec<Held> {
        let dirs = match self.notice.shifts.met(self.number) {
            _ if plant::is(Bug::ForgetShifts) || plant::is(Bug::KeepFirstWalk) => Vec::new(),
            Met::These(dirs) => dirs,
            Met::TooMany => vec![ObjectId::ROOT],
        };
        dirs.into_iter().map(|id| Held::alone(Touch::Object(id))).collect()
    }
}

impl<T: Tree> Drop for Footing<T> {
    fn drop(&mut self) {
        self.notice.shifts.leave(self.number);
    }
}

impl<T: Tree> Notice<T> {
    /// Before the server hears of a change: what it touches is found on the disk, changes of the same
    /// entries are waited for, and the marks are made durable.
    pub async fn begin(self: &Arc<Self>, change: &Change, origin: Option<Origin>) -> Result<Ticket<T>> {
        let flight = origin.map(|origin| Flight::of(self, origin)).transpose()?;
        let open = self.stay().await?;
        if let Some(why) = lock(&self.standing).stopped.clone() {
            return Err(NoticeError::Stopped { why });
        }
        self.enough_sites().await?;
        self.old_leases().await;
        let footing = Footing { number: self.shifts.enter(), notice: self.clone() };
        let Walked { held, deep, ways } = self.walk(&change.targets, true).await?;
        self.shifts.place(footing.number, ways, &held);
        let touches: Vec<Touch> = held.iter().map(|held| held.touch.clone()).collect();
        let entries: Vec<Touch> =
            touches.iter().filter(|touch| matches!(touch, Touch::Entry(..))).cloned().collect();
        let guard = self.locks.lock(&entries).await;
        let pledged = self.is_pledged();
        // Handed out under the table's lock: whoever asks for the newest knows all before it.
        let (generation, questions) = {
            let mut table = lock(&self.table);
            let generation = self.shelf.next_gen()?;
            if pledged {
                self.open_pledge(generation, &held)?;
            }
            table.begin(&touches, generation, deep);
            if let Some(flight) = &flight {
                table.asked_by(&flight.origin.site, &touches);
            }
            (generation, self.hold(&mut table, &held))
        };
        let mut ticket = Ticket {
            notice: self.clone(),
            targets: change.targets.clone(),
            touches,
            walked: if pledged { held } else { Vec::new() },
            generation,
            deep,
            flight,
            pledged,
            stage: Stage::Unsent,
            footing,
            _guard: guard,
            _open: open,
        };
        let (marked, ()) = tokio::join!(self.mark(&ticket.touches, generation), self.held(questions));
        marked?;
        // While it waited another may have taken over without this site.
        if self.stop.load(Ordering::SeqCst) {
            return Err(NoticeError::Moved);
        }
        ticket.stage = Stage::Sent;
        Ok(ticket)
    }

    async fn mark(&self, touches: &[Touch], generation: Gen) -> Result<()> {
        let mut batch = self.shelf.batch();
        for touch in touches {
            batch.mark(touch.clone(), generation);
        }
        Ok(self.shelf.commit(batch, true).await?)
    }
}

impl<T: Tree> Ticket<T> {
    /// While the server has not been asked: what the change touches is looked at, so that the catalog has
    /// what was there before it. Nobody else changes that meanwhile, but behind the proxy.
    pub async fn reconcile(&mut self) -> Result<()> {
        lock(&self.notice.table).look(&self.touches);
        self.notice.flush().await.map(drop)
    }

    /// The server said it is done. Synced where the share asks for it; then the disk is looked at. Says what
    /// the asking site must not answer from its own copy until these generations are released there.
    pub async fn answered(mut self, sync: bool) -> Result<Vec<(Touch, Gen)>> {
        self.stage = Stage::Known;
        if self.notice.stop.load(Ordering::SeqCst) {
            return Err(NoticeError::Overtaken);
        }
        // The walk may have led elsewhere meanwhile (R2): what it leads to now is marked as well.
        let (mut held, mut deep) = self.notice.touches_of(&self.targets).await?;
        self.notice.shifts.moved(self.footing.number, &held);
        held.retain(|_| !plant::is(Bug::KeepFirstWalk));
        let met = self.footing.met();
        self.deep |= !met.is_empty();
        deep |= !met.is_empty();
        held.extend(met);
        held.retain(|held| !self.touches.contains(&held.touch));
        if !held.is_empty() {
            let more: Vec<Touch> = held.iter().map(|held| held.touch.clone()).collect();
            let questions = {
                let mut table = lock(&self.notice.table);
                table.begin(&more, self.generation, deep);
                if let Some(flight) = &self.flight {
                    table.asked_by(&flight.origin.site, &more);
                }
                self.notice.hold(&mut table, &held)
            };
            if self.pledged {
                self.notice.widen_pledge(self.generation, &held);
            }
            self.touches.extend(more.iter().cloned());
            let marked = self.notice.mark(&more, self.generation);
            let (marked, ()) = tokio::join!(marked, self.notice.held(questions));
            marked?;
        }
        if !sync {
            self.strays().await?;
        } else if lock(&self.notice.terms).sync && !plant::is(Bug::AnswerBeforeDurable) {
            self.sync().await?;
        }
        let kept = std::mem::take(&mut self.pledged).then(|| self.keep());
        let awaits = self.land();
        match kept {
            Some(kept) if sync && !plant::is(Bug::AnswerBeforeKept) => self.wait_for(kept).await?,
            kept => drop(kept.map(work::spawn)),
        }
        match self.notice.stop.load(Ordering::SeqCst) {
            true => Err(NoticeError::Overtaken),
            false => Ok(awaits),
        }
    }

    /// That enough sites keep it. Goes on even if nobody waits any more.
    fn keep(&self) -> impl Future<Output = bool> + Send + 'static {
        self.notice.clone().keep(self.generation, self.touches.clone(), self.deep)
    }

    async fn wait_for(&self, kept: impl Future<Output = bool> + Send + 'static) -> Result<()> {
        let kept = work::spawn(kept);
        match tokio::time::timeout(pledge::WAIT, kept).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Err(_)) => Err(NoticeError::Task),
            Ok(Ok(false)) | Err(_) => Err(NoticeError::NotDurable { many: 1 }),
        }
    }

    /// The server refused: still looked at, as a refusal halfway through may have changed something.
    pub fn refused(mut self) -> Vec<(Touch, Gen)> {
        self.notice.shifts.kept(self.footing.number);
        self.land()
    }

    /// The same, where the refusal tells of what is there: what others did to that is durable at enough sites
    /// when this returns (R26).
    pub async fn refused_openly(mut self, depth: Depth) -> Result<Vec<(Touch, Gen)>> {
        let (notice, own) = (self.notice.clone(), self.generation);
        let (targets, walked) = (std::mem::take(&mut self.targets), std::mem::take(&mut self.walked));
        // First: others may wait for what it has locked and pledged, as it waits for theirs.
        let awaits = self.refused();
        notice.may_refuse(own, &targets, walked, depth).await?;
        Ok(awaits)
    }

    /// The client broke off, and the connection to the server is closed: without all of the change it cannot
    /// carry it out, but what it has begun it may still be tidying away.
    pub fn broke_off(mut self) {
        self.stage = Stage::Landed;
        self.let_keep();
        lock(&self.notice.table).broke_off(&self.touches);
        self.has_landed();
    }

    fn land(&mut self) -> Vec<(Touch, Gen)> {
        self.stage = Stage::Landed;
        self.let_keep();
        let awaits = lock(&self.notice.table).answered(&self.touches);
        self.has_landed();
        awaits
    }

    fn has_landed(&mut self) {
        self.flight = None;
        self.notice.wake.ring();
    }

    /// Nobody waits for it, but what it did is shown only when it is durable.
    fn let_keep(&mut self) {
        if !std::mem::take(&mut self.pledged) {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(_) => drop(work::spawn(self.keep())),
            Err(_) => self.notice.unpledge(self.generation),
        }
    }

    /// A server that failed halfway may have left what nobody named, a temporary file beside its
    /// target say: what is in the directories of the change and not in the catalog is looked at too.
    async fn strays(&self) -> Result<()> {
        let notice = self.notice.clone();
        let dirs: BTreeSet<ObjectId> = self
            .touches
            .iter()
            .filter_map(|touch| match touch {
                Touch::Entry(dir, _) => Some(*dir),
                Touch::Object(_) => None,
            })
            .collect();
        let generation = self.generation;
        blocking(move || {
            let mut found = Vec::new();
            for id in dirs {
                let Some(handle) = notice.handle_of(id)? else { continue };
                let path = || notice.shelf.path_of(id).ok().flatten();
                let Some(dir) = notice.tree.open_dir(&Place { handle: &handle, path: &path })? else {
                    continue;
                };
                for name in notice.tree.list(&dir)? {
                    if found.len() < STRAYS_MAX && notice.shelf.child(id, &name)?.is_none() {
                        found.push(Touch::Entry(id, name));
                    }
                }
            }
            let mut table = lock(&notice.table);
            // What another change is at has its own turn (R20).
            found.retain(|touch| !table.is_marked(touch));
            for touch in found {
                table.remember(touch, generation, false);
            }
            Ok(())
        })
        .await
    }

    async fn sync(&self) -> Result<()> {
        let notice = self.notice.clone();
        let entries: Vec<(ObjectId, Name)> = self
            .touches
            .iter()
            .filter_map(|touch| match touch {
                Touch::Entry(dir, name) => Some((*dir, name.clone())),
                Touch::Object(_) => None,
            })
            .collect();
        let deep = self.deep;
        blocking(move || {
            // The root is no entry.
            if deep || entries.is_empty() {
                return Ok(notice.tree.sync()?);
            }
            for (id, name) in &entries {
                let Some(handle) = notice.handle_of(*id)? else { continue };
                let path = || notice.shelf.path_of(*id).ok().flatten();
                match notice.tree.open_dir(&Place { handle: &handle, path: &path })? {
                    Some(dir) => notice.tree.sync_entry(&dir, name)?,
                    None => notice.tree.sync()?,
                }
            }
            Ok(())
        })
        .await
    }
}

impl<T: Tree> Drop for Ticket<T> {
    fn drop(&mut self) {
        match self.stage {
            Stage::Unsent => {
                self.notice.shifts.kept(self.footing.number);
                drop(self.land());
            }
            Stage::Known => drop(self.land()),
            Stage::Sent if plant::is(Bug::ForgetDoubt) => drop(self.land()),
            Stage::Sent => {
                self.let_keep();
                lock(&self.notice.table).doubt(&self.touches);
                self.notice.note_doubt(&self.touches);
                self.has_landed();
            }
            Stage::Landed => {}
        }
    }
}
