//! What must be durable at more than one site before it is answered (R26).
//!
//! ```text
//!        open                 ask                    enough copies have said so
//!  ---> changing ---> to be kept ---------------------------------------------> (gone)
//!   begin      |                 | too few copies follow, and the map allows it
//!   refused, in doubt: likewise  +----------------------------------------------> (gone, degraded)
//! ```
//!
//! A change that is in here is not shown at the primary: reads that depend on it wait. At the copies it is
//! held. Not here: what a copy does before it says so (`follow`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;

use super::table::Held;
use super::tail::Item;
use super::{Notice, NoticeError, Result, blocking, lock};
use crate::catalog::Touch;
use crate::effect::{Depth, Reach, Read, Target};
use crate::id::{Gen, ObjectId, SiteId, Version};
use crate::link::share::{Feed, Pledge, feed};
use crate::object::Kind;
use crate::plant::{self, Bug};
use crate::tree::{Resolved, Tree};
use crate::work;

/// A client waits no longer than this for copies that are not there; what it asked for stays in here.
pub(super) const WAIT: Duration = Duration::from_secs(60);
/// What is still changing is looked at again after this.
const AGAIN: Duration = Duration::from_millis(25);
/// What the disk or the catalog would not tell is asked again after this.
const RETRY: Duration = Duration::from_secs(1);
/// Changes that are not durable yet. Beyond it changes get a retry answer.
const OPEN_MAX: usize = 4096;

/// Locked after the table.
#[derive(Default)]
pub(super) struct Pledges {
    open: Mutex<Open>,
    /// Something was kept, or a copy came or went.
    stirred: Notify,
}

#[derive(Default)]
struct Open {
    changes: BTreeMap<Gen, Waiting>,
    /// How many streams of the journal each copy reads.
    following: BTreeMap<SiteId, usize>,
    /// Changes were answered that too few sites have.
    degraded: bool,
}

/// A change that is not durable at enough sites, as far as is known.
#[derive(Default)]
struct Waiting {
    touches: BTreeSet<Touch>,
    /// The directories it is somewhere below.
    within: BTreeSet<ObjectId>,
    /// It may be anywhere.
    anywhere: bool,
    /// What the copies were asked; not before it is in the journal.
    asked: Option<Pledge>,
    kept_by: BTreeSet<SiteId>,
}

impl Waiting {
    fn of(held: &[Held]) -> Self {
        let mut waiting = Self::default();
        waiting.add(held);
        waiting
    }

    fn add(&mut self, held: &[Held]) {
        for Held { touch, above, .. } in held {
            if let Touch::Entry(dir, _) = touch {
                self.within.insert(*dir);
            }
            // An object that may be reached on many ways is in no directory that is known.
            self.anywhere |= above.is_empty() && *touch != Touch::Object(ObjectId::ROOT);
            self.within.extend(above.iter().map(|above| above.dir));
            self.touches.insert(touch.clone());
        }
    }

    /// Whether what is read may show it. `listing`: also what is below the object.
    fn shows_in(&self, read: &[Held], listing: bool) -> bool {
        self.anywhere
            || read.iter().any(|Held { touch, above, .. }| {
                // Reached over a symbolic link: what it is below is not known.
                let adrift = above.is_empty() && *touch != Touch::Object(ObjectId::ROOT);
                let both = above
                    .iter()
                    .flat_map(|above| above.entry.iter().cloned().chain([Touch::Object(above.dir)]));
                let below = |id: &ObjectId| listing && self.within.contains(id);
                adrift
                    || self.touches.contains(touch)
                    || both.into_iter().any(|touch| self.touches.contains(&touch))
                    || matches!(touch, Touch::Object(id) if below(id))
            })
    }
}

impl Pledges {
    /// A copy follows for as long as this is kept.
    pub fn follows(self: &Arc<Self>, site: &SiteId) -> Following {
        *lock(&self.open).following.entry(site.clone()).or_default() += 1;
        self.stirred.notify_waiters();
        Following { pledges: self.clone(), site: site.clone() }
    }

    /// What a copy is to be asked that begins to follow.
    pub fn asked(&self) -> Vec<Feed> {
        let open = lock(&self.open);
        let asked = open.changes.values().filter_map(|waiting| waiting.asked.clone());
        asked.map(|pledge| Feed { kind: Some(feed::Kind::Pledge(pledge)) }).collect()
    }

    pub fn kept(&self, site: &SiteId, generations: &[u64]) {
        let mut open = lock(&self.open);
        for generation in generations {
            if let Some(waiting) = open.changes.get_mut(&Gen(*generation)) {
                waiting.kept_by.insert(site.clone());
            }
        }
        drop(open);
        self.stirred.notify_waiters();
    }

    /// Whether a change of the touch waits in here.
    pub fn holds_back(&self, touch: &Touch) -> bool {
        let open = lock(&self.open);
        // One without any touch is of an earlier process: of everything.
        open.changes.values().any(|waiting| {
            waiting.touches.contains(touch) || waiting.anywhere && waiting.touches.is_empty()
        })
    }

    /// The share stops, or the map asks for more sites or fewer: whoever waits in here finds out.
    pub fn stir(&self) {
        self.stirred.notify_waiters();
    }

    fn end(&self, generation: Gen) {
        lock(&self.open).changes.remove(&generation);
        self.stirred.notify_waiters();
    }
}

/// One stream of the journal.
pub(super) struct Following {
    pledges: Arc<Pledges>,
    site: SiteId,
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut open = lock(&self.pledges.open);
        if let Some(streams) = open.following.get_mut(&self.site) {
            *streams -= 1;
            if *streams == 0 {
                open.following.remove(&self.site);
            }
        }
        drop(open);
        self.pledges.stirred.notify_waiters();
    }
}

/// How many sites there must be, and there are, this one among them.
struct Sites {
    needed: usize,
    alive: usize,
    /// A change may be answered all the same.
    may_degrade: bool,
}

impl<T: Tree> Notice<T> {
    /// Whether changes wait for other sites at all.
    pub fn is_pledged(&self) -> bool {
        lock(&self.terms).durable > 1
    }

    fn sites(&self) -> Sites {
        let terms = lock(&self.terms);
        let open = lock(&self.pledges.open);
        let following = terms.copies.iter().filter(|site| open.following.contains_key(*site));
        Sites { needed: terms.durable, alive: 1 + following.count(), may_degrade: terms.may_degrade }
    }

    /// Changes that wait in here, and why others no longer do.
    pub(super) fn pledged(&self) -> (usize, Option<String>) {
        let (many, degraded) = {
            let open = lock(&self.pledges.open);
            (open.changes.len(), open.degraded)
        };
        let Sites { needed, alive, .. } = self.sites();
        let why = (degraded && alive < needed)
            .then(|| format!("degraded: changes are answered with {alive} of {needed} sites there"));
        (many, why)
    }

    /// Before anything is changed: waits until there are sites enough to keep it.
    pub(super) async fn enough_sites(&self) -> Result<()> {
        let enough = async {
            loop {
                let stirred = self.pledges.stirred.notified();
                tokio::pin!(stirred);
                stirred.as_mut().enable();
                let sites = self.sites();
                if sites.alive >= sites.needed || sites.may_degrade {
                    return Ok(());
                }
                if self.stop.load(Ordering::SeqCst) {
                    return Err(NoticeError::Moved);
                }
                stirred.await;
            }
        };
        tokio::time::timeout(WAIT, enough).await.unwrap_or_else(|_| {
            let Sites { needed, alive, .. } = self.sites();
            Err(NoticeError::TooFewSites { needed, alive })
        })
    }

    /// A change begins that must be durable at other sites as well.
    pub(super) fn open_pledge(&self, generation: Gen, held: &[Held]) -> Result<()> {
        let mut open = lock(&self.pledges.open);
        if open.changes.len() >= OPEN_MAX {
            return Err(NoticeError::NotDurable { many: open.changes.len() });
        }
        open.changes.insert(generation, Waiting::of(held));
        Ok(())
    }

    pub(super) fn unpledge(&self, generation: Gen) {
        self.pledges.end(generation);
    }

    pub(super) fn widen_pledge(&self, generation: Gen, held: &[Held]) {
        if let Some(waiting) = lock(&self.pledges.open).changes.get_mut(&generation) {
            waiting.add(held);
        }
    }

    /// What an earlier process answered, or was about to: it may be on this disk alone.
    pub(super) fn pledge_marks(self: &Arc<Self>, generation: Gen) {
        if !self.is_pledged() || lock(&self.table).len() == 0 {
            return;
        }
        let waiting = Waiting { anywhere: true, ..Waiting::default() };
        lock(&self.pledges.open).changes.insert(generation, waiting);
        let notice = self.clone();
        drop(work::spawn(async move { notice.keep(generation, Vec::new(), true).await }));
    }

    /// Sees to it that a change which the server has dealt with is durable at enough sites, however
    /// long that takes. `false`: the share was stopped before that, and nobody may be told that it is.
    pub(super) async fn keep(self: Arc<Self>, generation: Gen, touches: Vec<Touch>, deep: bool) -> bool {
        let objects = loop {
            match self.journalled(&touches, deep).await {
                Ok(objects) => break objects,
                // The marks are still there.
                Err(_) if self.stop.load(Ordering::SeqCst) => return false,
                Err(error) => {
                    tracing::debug!(share = %self.config.share, %error, "not known to be durable yet");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        let ids = objects.iter().map(|id| Bytes::copy_from_slice(id.as_bytes())).collect();
        self.ask_for(Pledge { generation: generation.0, objects: ids, all: deep });
        let kept = self.kept(generation).await;
        if kept {
            self.pledges.end(generation);
        }
        kept
    }

    pub(super) fn ask_for(&self, pledge: Pledge) {
        let generation = Gen(pledge.generation);
        if let Some(waiting) = lock(&self.pledges.open).changes.get_mut(&generation) {
            waiting.asked = Some(pledge.clone());
        }
        let bytes = prost::Message::encoded_len(&pledge);
        let feed = Feed { kind: Some(feed::Kind::Pledge(pledge)) };
        self.tail.push(vec![Item::between(feed, bytes)]);
    }

    /// `false`: the share was stopped before enough sites said so.
    async fn kept(&self, generation: Gen) -> bool {
        loop {
            let stirred = self.pledges.stirred.notified();
            tokio::pin!(stirred);
            stirred.as_mut().enable();
            let sites = self.sites();
            let copies = self.copies();
            {
                let mut open = lock(&self.pledges.open);
                let Some(waiting) = open.changes.get(&generation) else { return false };
                let kept_by = copies.iter().filter(|site| waiting.kept_by.contains(*site));
                let enough = 1 + kept_by.count() >= sites.needed;
                let degraded = !enough && sites.alive < sites.needed && sites.may_degrade;
                if enough || degraded {
                    self.note_degraded(&mut open, degraded, &sites);
                    return true;
                }
            }
            if self.stop.load(Ordering::SeqCst) {
                return false;
            }
            stirred.await;
        }
    }

    /// Loud once, and counted always.
    fn note_degraded(&self, open: &mut Open, degraded: bool, sites: &Sites) {
        let share = &self.config.share;
        if degraded {
            metrics::counter!("nearshare_changes_degraded_total", "share" => share.to_string())
                .increment(1);
        }
        if degraded && !open.degraded {
            let Sites { needed, alive, .. } = sites;
            tracing::error!(
                %share, alive, needed,
                "changes are answered that too few sites have on their disks (`degraded = \"allow\"`)"
            );
        } else if !degraded && open.degraded {
            tracing::info!(%share, "changes are on enough sites' disks again");
        }
        open.degraded = degraded;
    }

    /// Waits until the journal says what is on the disk now for these touches. Says what among them has something
    /// that does not come with its record: files, and what has large attributes.
    async fn journalled(self: &Arc<Self>, touches: &[Touch], deep: bool) -> Result<Vec<ObjectId>> {
        let versions = self.versions(touches)?;
        loop {
            self.flush().await?;
            if deep {
                return Ok(Vec::new());
            }
            let (notice, some, before) = (self.clone(), touches.to_vec(), versions.clone());
            if let Some(files) = blocking(move || notice.as_journalled(&some, &before)).await? {
                return Ok(files);
            }
            tokio::time::sleep(AGAIN).await;
            let mut table = lock(&self.table);
            for touch in touches {
                let generation = table.newest();
                table.remember(touch.clone(), generation, false);
            }
        }
    }

    /// What the journal has of the objects at these touches.
    fn versions(&self, touches: &[Touch]) -> Result<BTreeMap<ObjectId, Version>> {
        let mut versions = BTreeMap::new();
        for touch in touches {
            let id = match touch {
                Touch::Object(id) => Some(*id),
                Touch::Entry(dir, name) => self.shelf.child(*dir, name)?,
            };
            if let Some(object) = id.map_or(Ok(None), |id| self.shelf.object(id))? {
                versions.insert(object.id, object.version);
            }
        }
        Ok(versions)
    }

    /// What has something apart at these touches, or nothing if the catalog does not know what is there now. A version
    /// that is newer than `before` was read after that: somebody may go on writing the file for ever.
    fn as_journalled(
        &self,
        touches: &[Touch],
        before: &BTreeMap<ObjectId, Version>,
    ) -> Result<Option<Vec<ObjectId>>> {
        let mut files = Vec::new();
        for touch in touches {
            let (id, found) = match touch {
                Touch::Object(id) => (self.shelf.object(*id)?.map(|_| *id), None),
                Touch::Entry(dir, name) => {
                    let known = self.shelf.child(*dir, name)?;
                    let Some(path) = self.shelf.path_of(*dir)? else {
                        // A directory that is gone, or was never there.
                        continue;
                    };
                    let path = path.join(name.clone());
                    let found = match self.tree.resolve(&path, false)? {
                        Resolved::Entry { found, .. } => found,
                        _ => None,
                    };
                    if found.is_some() != known.is_some() {
                        return Ok(None);
                    }
                    (known, found)
                }
            };
            let Some(id) = id else { continue };
            let Some(object) = self.shelf.object(id)? else { continue };
            let local = self.shelf.local(id)?;
            let as_found = |found: crate::object::Found| {
                local.is_some_and(|local| local.handle == found.handle && local.stamp == found.stamp)
            };
            let newer = before.get(&id).is_some_and(|before| object.version > *before);
            if object.kind == Kind::File && !newer && !found.is_none_or(as_found) {
                return Ok(None);
            }
            if object.kind == Kind::File || object.xattrs.is_apart() {
                files.push(id);
            }
        }
        files.sort_unstable();
        files.dedup();
        Ok(Some(files))
    }

    /// After a read was answered by the server, and before the client sees that: waits until what it
    /// may show is durable at enough sites.
    pub async fn visible(self: &Arc<Self>, read: &Read) -> Result<()> {
        if lock(&self.pledges.open).changes.is_empty() || plant::is(Bug::ShowBeforeKept) {
            return Ok(());
        }
        let target = Target { path: read.path.clone(), reach: Reach::Entry };
        let held = self.touches_of(std::slice::from_ref(&target)).await?.0;
        self.shown(&held, read.depth, None).await
    }

    /// After a change was refused, and before the client sees that: the same of all that the refusal may show.
    /// `walked`: what its targets were when it began. Its own pledge, of the generation `own`, is none of that.
    pub(super) async fn may_refuse(
        self: &Arc<Self>,
        own: Gen,
        targets: &[Target],
        walked: Vec<Held>,
        depth: Depth,
    ) -> Result<()> {
        let alone = lock(&self.pledges.open).changes.keys().all(|generation| *generation == own);
        if alone || plant::is(Bug::ShowByRefusal) {
            return Ok(());
        }
        let mut held = self.touches_of(targets).await?.0;
        held.extend(walked);
        self.shown(&held, depth, Some(own)).await
    }

    /// Waits until what may be seen of `held` is durable at enough sites.
    async fn shown(&self, held: &[Held], depth: Depth, but: Option<Gen>) -> Result<()> {
        let listing = depth != Depth::Object;
        let shown: Vec<Gen> = {
            let open = lock(&self.pledges.open);
            let others = open.changes.iter().filter(|(generation, _)| Some(**generation) != but);
            let shown = others.filter(|(_, waiting)| waiting.shows_in(held, listing));
            shown.map(|(generation, _)| *generation).collect()
        };
        let gone = async {
            loop {
                let stirred = self.pledges.stirred.notified();
                tokio::pin!(stirred);
                stirred.as_mut().enable();
                if !shown.iter().any(|shown| lock(&self.pledges.open).changes.contains_key(shown)) {
                    return Ok(());
                }
                if self.stop.load(Ordering::SeqCst) {
                    return Err(NoticeError::Moved);
                }
                stirred.await;
            }
        };
        let late = |_| Err(NoticeError::NotDurable { many: shown.len() });
        tokio::time::timeout(WAIT, gone).await.unwrap_or_else(late)
    }
}
