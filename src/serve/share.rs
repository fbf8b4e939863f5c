//! One share at this site: its directory, its shelf, and the room that keeps them in step.

use std::path::Path;
use std::sync::Arc;

use super::ServeError;
use super::adapt::LockShelf;
use crate::catalog::{Catalog, Shelf};
use crate::clock::Clock;
use crate::follow::{self, Follow};
use crate::id::{Epoch, Hash, ObjectId, ShareId, SiteId, Version};
use crate::link::Links;
use crate::link::cert::Secret;
use crate::map::{AtSite, Consistency, Degraded, Map, Place, WhenCutOff};
use crate::notice::{self, Notice};
use crate::object::Local;
use crate::relay::Keeper;
use crate::tree::{Disk, RootSpec, Tree};
use crate::verify::{Desk, Judge, Order, Subject};

/// What a directory that was a share before has in it.
const MARKER: &str = ".nearshare/marker";

/// A running share.
pub struct Running {
    pub shelf: Arc<Shelf>,
    pub disk: Arc<Disk>,
    pub part: Part,
    /// At the primary: of the locks, where nearshare is to keep them.
    pub keeper: Option<Arc<Keeper>>,
    pub desk: Arc<Desk>,
    clock: Arc<dyn Clock>,
}

pub enum Part {
    Home(Arc<Notice<Disk>>),
    Copy(Arc<Follow<Disk>>),
}

/// What every share at a site is given.
pub struct Surroundings<'a> {
    pub me: &'a SiteId,
    pub catalog: &'a Arc<Catalog>,
    pub links: &'a Arc<Links>,
    pub secret: &'a Secret,
    pub clock: &'a Arc<dyn Clock>,
    pub boot_id: &'a str,
    /// The site's state directory.
    pub state: &'a Path,
}

impl Running {
    /// Opens and starts what the map says of `share` here. `None` for a share without a copy here.
    pub fn start(
        map: &Map,
        share: &ShareId,
        around: &Surroundings<'_>,
    ) -> Result<Option<Self>, ServeError> {
        let row = &map.shares[share];
        let Some(at) = row.at(around.me) else { return Ok(None) };
        let (path, local) = match &at.place {
            Place::Local(path) => (path, true),
            Place::Broadcast(path) => (path, false),
            Place::Remote => return Ok(None),
        };
        let shelf = around.catalog.share(share)?;
        // Before it is opened, which makes one.
        let was_ours = path.join(MARKER).exists();
        let disk = open(share, path, &shelf, around)?;
        let part = if local {
            if shelf.head().incarnation == Hash::default() {
                let mut batch = shelf.batch();
                batch.new_incarnation(Epoch(1));
                if was_ours {
                    // The state directory was lost, and with it who may have a lease (R11), and what copies await.
                    batch.set_meta(|meta| meta.leased = true);
                    shelf.raise_gens(notice::beyond_lost(Epoch(1), around.clock.wall()))?;
                }
                shelf.commit(batch, true).wait()?;
            }
            let config = notice::Config {
                share: share.clone(),
                key: around.secret.derive("nearshare 2026-11 object id v1"),
                boot_id: around.boot_id.to_owned(),
                kept: notice::Kept::default(),
            };
            let terms = home_terms(map, share, at.http_sync);
            let clock = around.clock.clone();
            Part::Home(Notice::start(config, terms, shelf.clone(), disk.clone(), clock)?)
        } else {
            let config = follow::Config { share: share.clone(), primary: row.primary().clone() };
            let (links, clock) = (around.links.clone(), around.clock.clone());
            let terms = copy_terms(map, share, at);
            Part::Copy(Follow::start(config, terms, shelf.clone(), disk.clone(), links, clock)?)
        };
        let keeper = if local { Some(Arc::new(keeper(share, &shelf, around.clock)?)) } else { None };
        let desk = Desk::open(around.state.join(format!("verify-{share}.json")));
        Ok(Some(Self { shelf, disk, part, keeper, desk, clock: around.clock.clone() }))
    }

    /// After `stop`: waits for the share's thread and notes a clean stop, if it is one.
    pub fn end(&self) -> Result<(), ServeError> {
        let clean = match &self.part {
            Part::Home(notice) => {
                notice.join();
                notice.is_quiet()
            }
            Part::Copy(follow) => {
                follow.join();
                true
            }
        };
        self.desk.join();
        self.disk.sync()?;
        let mut batch = self.shelf.batch();
        batch.set_meta(move |meta| meta.clean = clean);
        Ok(self.shelf.commit(batch, true).wait()?)
    }

    /// As [`Self::end`], while the site goes on: somebody else may take the share up at once.
    pub fn leave(&self) -> Result<(), ServeError> {
        self.stop();
        self.end()?;
        match &self.part {
            Part::Home(notice) => Ok(notice.doubt_in_flight()?),
            Part::Copy(_) => Ok(()),
        }
    }

    /// Begins to compare what is on the disk with what was recorded, or goes on with that. `false`: that is
    /// under way already.
    pub fn verify(&self, order: Order) -> Result<bool, String> {
        let under_way = self.desk.report();
        if under_way.running && under_way.repair != order.repair {
            let how = if under_way.repair { "with" } else { "without" };
            return Err(format!(
                "it is under way already, {how} --repair: wait for it, or end it with --stop"
            ));
        }
        let share = self.shelf.share().clone();
        let judge: Arc<dyn Judge> = match &self.part {
            Part::Home(_) if order.repair => {
                return Err(format!(
                    "the primary copy of {share} is here, and all copies follow it: verify it without --repair. \
                     If something is wrong, {}",
                    mended_elsewhere(&share)
                ));
            }
            Part::Home(notice) => notice.clone(),
            Part::Copy(follow) => follow.clone(),
        };
        let subject = Subject {
            share,
            shelf: self.shelf.clone(),
            tree: self.disk.clone(),
            clock: self.clock.clone(),
            judge,
        };
        self.desk.begin(subject, order).map_err(|error| format!("there is no thread for it: {error}"))
    }

    /// The share's primary, if it is here.
    pub fn home(&self) -> Option<Arc<Notice<Disk>>> {
        match &self.part {
            Part::Home(notice) => Some(notice.clone()),
            Part::Copy(_) => None,
        }
    }

    /// Seconds since a record was written, by the clock of the primary, which is this site's.
    pub fn age_seconds(&self, wall: i64) -> f64 {
        (self.clock.wall().0.saturating_sub(wall)) as f64 / 1e9
    }

    pub fn stop(&self) {
        self.desk.stop();
        match &self.part {
            Part::Home(notice) => notice.stop(),
            Part::Copy(follow) => follow.stop(),
        }
    }
}

/// How what is wrong on the primary's disk is put right.
pub fn mended_elsewhere(share: &ShareId) -> String {
    format!(
        "see to the disk, promote a site where `nearshare verify {share}` finds all right, and then give \
         `nearshare verify {share} --repair` here"
    )
}

/// With the locks that are left of an earlier run. Those of an earlier epoch ended when another site led.
fn keeper(share: &ShareId, shelf: &Arc<Shelf>, clock: &Arc<dyn Clock>) -> Result<Keeper, ServeError> {
    let epoch = shelf.meta().epoch;
    let (left, over): (Vec<_>, Vec<_>) =
        shelf.locks()?.into_iter().partition(|(given, _)| *given == epoch);
    let mut batch = shelf.batch();
    for (_, lock) in over {
        batch.forget_lock(lock.token);
    }
    shelf.commit(batch, false).wait()?;
    let left = left.into_iter().map(|(_, lock)| lock).collect();
    Ok(Keeper::new(share.clone(), left, Arc::new(LockShelf(shelf.clone())), clock.clone()))
}

/// What the map says to a primary.
pub fn home_terms(map: &Map, share: &ShareId, sync: bool) -> notice::Terms {
    let row = &map.shares[share];
    notice::Terms {
        copies: copies(map, share),
        sync,
        strict: row.consistency == Consistency::Strict,
        durable: usize::try_from(row.durable_copies).unwrap_or(usize::MAX),
        may_degrade: row.degraded == Degraded::Allow,
    }
}

/// What the map says to a copy.
pub fn copy_terms(map: &Map, share: &ShareId, at: &AtSite) -> follow::Terms {
    let strict = map.shares[share].consistency == Consistency::Strict;
    follow::Terms { strict, serve_when_cut_off: at.when_cut_off == WhenCutOff::Serve }
}

/// The sites that hold a copy which is not the primary.
fn copies(map: &Map, share: &ShareId) -> Vec<SiteId> {
    let sites = map.shares[share].sites();
    sites
        .filter(|(_, at)| matches!(at.place, Place::Broadcast(_)))
        .map(|(site, _)| site.clone())
        .collect()
}

/// Opens the directory by its marker, which the first start makes and the catalog remembers (R28).
fn open(
    share: &ShareId,
    path: &Path,
    shelf: &Arc<Shelf>,
    around: &Surroundings<'_>,
) -> Result<Arc<Disk>, ServeError> {
    let known = shelf.meta().marker;
    let spec =
        RootSpec { path: path.to_owned(), share: share.clone(), site: around.me.clone(), marker: known };
    let disk = Disk::open(&spec, around.clock.clone())?;
    let root = disk.dir_found(&disk.root()?)?;
    let marker = disk.marker();
    let mut batch = shelf.batch();
    if known.is_none() {
        batch.set_meta(move |meta| meta.marker = Some(marker));
    }
    if shelf.local(ObjectId::ROOT)?.is_none_or(|local| local.handle != root.handle) {
        let local =
            Local { handle: root.handle, stamp: root.stamp, version: Version(1), settled: false };
        batch.set_local(ObjectId::ROOT, Some(local));
    }
    shelf.commit(batch, true).wait()?;
    Ok(Arc::new(disk))
}
