//! One site: what outlives its process, and the process, built of the real rooms.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::clock::{DRIFT, SimClock, note, now};
use super::net::{Dialled, Net};
use super::server::Server;
use super::split::Takeover;
use super::{Rules, share};
use crate::body::Body;
use crate::catalog::memory::Memory;
use crate::catalog::{self, Catalog, Shelf};
use crate::clock::Clock;
use crate::effect::{Change, Read};
use crate::follow::{self, Follow};
use crate::id::{Epoch, Hash, ObjectId, ShareId, SiteId, Version};
use crate::link;
use crate::map::{Map, Place};
use crate::notice::{self, Kept, Notice};
use crate::object::Local;
use crate::relay::seam::{
    Certainty, Class, Fence, Near, NearError, NearTicket, Standing, Wire, WireError,
};
use crate::relay::{self, Away, Codec, HttpRelay, HttpSite, KeptBy, ShareHttp};
use crate::route::Clients;
use crate::serve::adapt::{AtCopy, AtHome, Fenceline, ToSite};
use crate::serve::inbound::{Dispatch, Leader, Rooms};
use crate::serve::lead::{self, Host, Leading, Moving};
use crate::serve::share::{copy_terms, home_terms};
use crate::serve::{Options, ServeError, terms};
use crate::tree::Tree;
use crate::tree::model::Model;
use crate::wire::http::lock::Lock;
use crate::wire::http::{Move, ShareUrl, SiteShares};
use crate::work::single::{Group, pick, spawn_blocking};

tokio::task_local! {
    pub static TOLD: Told;
}

/// Who answered a client.
#[derive(Default)]
pub struct Told {
    /// The copy, although it was cut off.
    pub stale: Cell<bool>,
    /// The server of this site.
    pub near: Cell<bool>,
}

/// What outlives the process.
pub struct Site {
    pub name: &'static str,
    pub clock: Arc<SimClock>,
    pub disk: Model,
    memory: Memory,
    pub server: Arc<Server>,
    pub net: Net,
    /// What is in its map file.
    rules: RefCell<Rules>,
    boots: Cell<u64>,
    /// Of the journal, should it lead: from the next start on.
    pub kept: Cell<Kept>,
    live: Mutex<Option<Arc<Live>>>,
}

/// A process.
pub struct Live {
    pub group: Arc<Group>,
    /// Once it is built.
    process: Mutex<Option<Arc<Process>>>,
}

#[derive(Clone)]
pub enum Part {
    Home(Arc<Notice<Model>>),
    Copy(Arc<Follow<Model>>),
}

fn lock<V>(mutex: &Mutex<V>) -> std::sync::MutexGuard<'_, V> {
    mutex.lock().expect("one thread never panics while it holds this")
}

impl Site {
    pub fn new(number: usize, name: &'static str, net: &Net, rules: &Rules) -> Self {
        let up = Duration::from_secs(1000 + pick(100_000));
        // No two sites' clocks run alike.
        let many = super::SITES.len() as i64;
        let fast = pick(2 * DRIFT as u64 / many as u64) as i64 * many + number as i64 - DRIFT;
        let clock = Arc::new(SimClock::new(up, fast));
        let disk = Model::with_clock([number as u8 + 1; 16], clock.clone());
        Self {
            name,
            server: Server::new(name, disk.clone()),
            clock,
            disk,
            memory: Memory::default(),
            net: net.clone(),
            rules: RefCell::new(rules.clone()),
            boots: Cell::new(0),
            kept: Cell::default(),
            live: Mutex::default(),
        }
    }
    pub fn id(&self) -> SiteId {
        self.name.parse().expect("a name of ours")
    }
    pub fn live(&self) -> Option<Arc<Live>> {
        lock(&self.live).clone()
    }
    pub fn process(&self) -> Option<Arc<Process>> {
        lock(&self.live()?.process).clone()
    }

    /// Starts the process. What it is made of is there some time later.
    pub fn start(&self) {
        note(|| format!("{} starts", self.name));
        // Nothing starts on a machine that stands still.
        self.clock.thaw();
        let live = Arc::new(Live { group: Arc::default(), process: Mutex::default() });
        *lock(&self.live) = Some(live.clone());
        let dispatch: Dispatch<Model> = Dispatch::default();
        let make = Make {
            site: self.id(),
            clock: self.clock.clone(),
            disk: Arc::new(self.disk.clone()),
            memory: self.memory.clone(),
            server: self.server.clone(),
            map: self.rules.borrow().map(),
            boot_id: format!("boot {}", self.boots.get()),
            kept: self.kept.get(),
            links: self.net.open(&self.id(), &live.group, Arc::new(dispatch.clone())),
            dispatch,
        };
        let into = live.clone();
        live.group.spawn(async move {
            loop {
                let make = make.clone();
                match spawn_blocking(move || make.build()).await {
                    Ok(Ok(process)) => {
                        let leader: Weak<dyn Leader> = Arc::downgrade(&(process.clone() as Arc<_>));
                        process.dispatch.open(leader);
                        crate::work::spawn(Leading(process.clone()).tell_others());
                        *lock(&into.process) = Some(process);
                        return;
                    }
                    Ok(Err(why)) => note(|| format!("cannot start: {why}")),
                    Err(_) => return,
                }
                sleep(Duration::from_secs(1)).await;
            }
        });
    }

    /// The process ends without a word; with `power` the machine does, the server too.
    pub fn crash(&self, power: bool) {
        note(|| format!("{} crashes{}", self.name, if power { " with its machine" } else { "" }));
        if let Some(live) = lock(&self.live).take() {
            live.group.kill();
        }
        self.net.close(&self.id());
        let keep = |most: usize| pick(most as u64 + 1) as usize;
        self.memory.crash(power, keep);
        if power {
            self.server.stop();
            self.server.start();
            self.disk.crash(keep);
            self.clock.boots();
            self.boots.set(self.boots.get() + 1);
        }
    }

    /// The process is asked to end: as [`crate::serve`] does, waiting so long for what has begun. `false`:
    /// something else ended it.
    pub async fn stop(&self, limit: Duration) -> bool {
        note(|| format!("{} stops", self.name));
        let Some(live) = self.live() else { return false };
        let process = self.process();
        let ended = live.group.spawn(async move {
            let Some(process) = process else { return };
            process.stop.cancel();
            if let Some(Part::Home(notice)) = process.part() {
                notice.cease(limit).await;
            }
            if let Some((_, end)) = process.take_out(&share()) {
                let ended = spawn_blocking(end).await;
                note(|| format!("{} has stopped: {}", process.me, matches!(ended, Ok(Ok(())))));
            }
        });
        // The process may be killed, or stand still, meanwhile.
        let _ = tokio::time::timeout(limit + Duration::from_secs(60), ended).await;
        let same = self.live().is_some_and(|now| Arc::ptr_eq(&now, &live));
        if same {
            self.crash(false);
        }
        same
    }

    pub fn set_state_full(&self, full: bool) {
        note(|| {
            format!("{}: the catalog's disk is {}", self.name, if full { "full" } else { "not full" })
        });
        self.memory.set_full(full);
    }

    pub fn set_full(&self, full: bool) {
        note(|| format!("{}: the disk is {}", self.name, if full { "full" } else { "not full" }));
        self.disk.set_full(full);
    }

    pub fn rules(&self) -> Rules {
        self.rules.borrow().clone()
    }

    /// A new map is put here, and taken up by what runs here now.
    pub async fn reload(&self, rules: &Rules) {
        *self.rules.borrow_mut() = rules.clone();
        // One that starts has read the old map, and one that is busy takes its time.
        while let Some(live) = self.live() {
            let taken = self.process().map(|process| {
                let map = rules.map();
                live.group.spawn(async move { process.reload(map).await })
            });
            // Without a word: it was killed meanwhile.
            if let Some(taken) = taken
                && let Ok(taken) = taken.await
            {
                match taken {
                    Ok(()) => return,
                    Err(why) => note(|| format!("{} takes no new map: {why}", self.name)),
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// An operator wants the primary copy here; `None`: nothing runs here.
    pub fn promote(&self, accept_loss: bool) -> Option<JoinHandle<Result<String, String>>> {
        let (live, process) = self.live().zip(self.process())?;
        Some(live.group.spawn(async move {
            Leading(process.clone()).promote(&share(), &process.me, accept_loss).await
        }))
    }
}

/// What a process is made of.
pub struct Process {
    me: SiteId,
    options: Options,
    /// As it was read, and with the primary where the catalog knows it to be.
    text: Mutex<Map>,
    map: Mutex<Arc<Map>>,
    clock: Arc<dyn Clock>,
    disk: Arc<Model>,
    server: Arc<Server>,
    boot_id: String,
    kept: Kept,
    links: Arc<Dialled>,
    dispatch: Dispatch<Model>,
    catalog: Arc<Catalog>,
    pub shelf: Arc<Shelf>,
    part: Mutex<Option<Part>>,
    relay: OnceLock<Arc<HttpRelay>>,
    moving: Moving,
    stop: CancellationToken,
}

#[derive(Clone)]
struct Make {
    site: SiteId,
    clock: Arc<SimClock>,
    disk: Arc<Model>,
    memory: Memory,
    server: Arc<Server>,
    map: Map,
    boot_id: String,
    kept: Kept,
    links: Arc<Dialled>,
    dispatch: Dispatch<Model>,
}

impl Make {
    fn build(self) -> Result<Arc<Process>, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let catalog = Catalog::in_memory(&self.memory).map_err(|error| failed(&error))?;
        let shelf = catalog.share(&share()).map_err(|error| failed(&error))?;
        self.memory.set_slow();
        let options =
            Options { map_file: PathBuf::new(), site: self.site.clone(), via: BTreeMap::new() };
        let process = Arc::new(Process {
            me: self.site,
            options,
            map: Mutex::new(Arc::new(self.map.clone())),
            text: Mutex::new(self.map),
            clock: self.clock,
            disk: self.disk,
            server: self.server,
            boot_id: self.boot_id,
            kept: self.kept,
            links: self.links,
            dispatch: self.dispatch,
            catalog,
            shelf,
            part: Mutex::default(),
            relay: OnceLock::new(),
            moving: Moving::default(),
            stop: CancellationToken::new(),
        });
        process.install().map_err(|error| failed(&error))?;
        Ok(process)
    }
}

impl Process {
    pub fn relay(&self) -> Arc<HttpRelay> {
        self.relay.get().expect("it was built").clone()
    }
    pub fn part(&self) -> Option<Part> {
        lock(&self.part).clone()
    }
    /// The catalog takes nothing any more.
    pub fn is_broken(&self) -> bool {
        self.catalog.broken().is_some()
    }
    pub fn primary(&self) -> SiteId {
        lock(&self.map).shares[&share()].primary().clone()
    }
    pub fn epoch(&self) -> u32 {
        lock(&self.map).shares[&share()].epoch()
    }

    /// What `serve` does when it starts a share.
    fn begin(&self, map: &Map) -> Result<Part, ServeError> {
        let at = map.shares[&share()].at(&self.me).expect("every site has a part in it");
        let root = self.disk.dir_found(&self.disk.root()?)?;
        let mut batch = self.shelf.batch();
        if self.shelf.local(ObjectId::ROOT)?.is_none() {
            let local =
                Local { handle: root.handle, stamp: root.stamp, version: Version(1), settled: false };
            batch.set_local(ObjectId::ROOT, Some(local));
        }
        let local = matches!(at.place, Place::Local(_));
        if local && self.shelf.head().incarnation == Hash::default() {
            batch.new_incarnation(Epoch(1));
        }
        self.shelf.commit(batch, true).wait()?;
        let (shelf, disk, clock) = (self.shelf.clone(), self.disk.clone(), self.clock.clone());
        Ok(if local {
            let (boot_id, kept) = (self.boot_id.clone(), self.kept);
            let config = notice::Config { share: share(), key: [5; 32], boot_id, kept };
            let terms = home_terms(map, &share(), at.http_sync);
            Part::Home(Notice::start(config, terms, shelf, disk, clock)?)
        } else {
            let primary = map.shares[&share()].primary().clone();
            let config = follow::Config { share: share(), primary };
            let terms = copy_terms(map, &share(), at);
            Part::Copy(Follow::start(config, terms, shelf, disk, self.links.clone(), clock)?)
        })
    }

    /// What `serve` does when it is given another map.
    async fn reload(self: Arc<Self>, text: Map) -> Result<(), String> {
        let _one_at_a_time = self.moving.reloading.lock().await;
        let site = self.clone();
        let taken = spawn_blocking(move || {
            if site.stop.is_cancelled() {
                return Err(ServeError::Stopping);
            }
            let map = lead::led(&site.catalog, &site.me, &text)?;
            *lock(&site.text) = text;
            site.take_up(map)
        });
        taken.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    fn http_site(&self, map: &Map) -> HttpSite {
        let url = ShareUrl::new(share(), "/eng").expect("a path of ours");
        let primary = map.shares[&share()].primary().clone();
        let wire = Arc::new(Far(ToSite { links: self.links.clone(), site: primary.clone() }));
        let moved = Move::new(url.prefix(), url.encoded());
        let away = Away { site: primary, wire: wire.clone(), moved, left: Arc::default() };
        let part = match self.part() {
            Some(Part::Home(notice)) => relay::Part::Local { home: Arc::new(AtHome(notice)) },
            Some(Part::Copy(follow)) => {
                let near = Probe { near: AtCopy(follow), wire };
                relay::Part::Broadcast { near: Arc::new(near), away }
            }
            None => relay::Part::Remote { away },
        };
        let (tree, shelf) = (self.disk.clone(), self.shelf.clone());
        let fence: Arc<dyn Fence> = Arc::new(Fenceline::new(tree, shelf));
        let sites = map.shares[&share()].sites().map(|(site, _)| site.clone()).collect();
        let clients = Clients::default();
        let locks = KeptBy::Server;
        let slot = ShareHttp { share: share(), sites, clients, fence: Some(fence), locks, part };
        HttpSite {
            site: self.me.clone(),
            shares: SiteShares::new(vec![url]),
            slots: vec![slot],
            upstream: self.server.clone(),
            host: None,
            codec: Codec {
                encode: |awaits| catalog::encode_touch_gens(awaits).to_vec(),
                decode: |bytes| catalog::decode_touch_gens(bytes).ok(),
            },
            running: Arc::default(),
        }
    }

    /// What `serve` does with a map.
    fn take_up(&self, map: Map) -> Result<(), ServeError> {
        let row = &map.shares[&share()];
        let at = row.at(&self.me).expect("every site has a part in it");
        let holds = !matches!(at.place, Place::Remote);
        if !holds && let Some((_, end)) = self.take_out(&share()) {
            end()?;
        }
        self.links.net().says(&self.me, row.digest());
        self.links.dial(&terms(&map, &self.options).dial);
        let begun = match self.part() {
            Some(Part::Home(notice)) => {
                notice.reconfigure(home_terms(&map, &share(), at.http_sync));
                Ok(())
            }
            Some(Part::Copy(follow)) => {
                follow.reconfigure(copy_terms(&map, &share(), at));
                Ok(())
            }
            None if holds => self.begin(&map).map(|part| *lock(&self.part) = Some(part)),
            None => Ok(()),
        };
        let site = self.http_site(&map);
        match self.relay.get() {
            Some(relay) => relay.reload(site),
            None => drop(self.relay.set(Arc::new(HttpRelay::new(site, self.clock.clone())))),
        }
        note(|| {
            let row = &map.shares[&share()];
            format!("{} knows {} to lead in epoch {}", self.me, row.primary(), row.epoch())
        });
        if map.shares[&share()].primary() == &self.me {
            let epoch = map.shares[&share()].epoch();
            self.links.net().leads(epoch, || Takeover::of(epoch, now(), &self.disk, &self.shelf));
        }
        *lock(&self.map) = Arc::new(map);
        let homes = match self.part() {
            Some(Part::Home(notice)) => BTreeMap::from([(share(), notice)]),
            _ => BTreeMap::new(),
        };
        let links: Weak<dyn link::Net> = Arc::downgrade(&(self.links.clone() as Arc<_>));
        let relay = self.relay.get().cloned();
        self.dispatch.set(Rooms { open: true, homes, relay, links });
        begun
    }
}

impl Host for Process {
    type Tree = Model;

    fn me(&self) -> &SiteId {
        &self.me
    }
    fn map(&self) -> Arc<Map> {
        lock(&self.map).clone()
    }
    fn shelf(&self, _: &ShareId) -> Result<Arc<Shelf>, ServeError> {
        Ok(self.shelf.clone())
    }
    fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
    fn links(&self) -> Arc<dyn link::Net> {
        self.links.clone()
    }
    fn contact(&self, _: &SiteId) -> i64 {
        0
    }
    fn dial_too(&self, sites: BTreeSet<SiteId>) {
        let mut dial = terms(&self.map(), &self.options).dial;
        dial.extend(sites);
        self.links.dial(&dial);
    }
    fn home(&self, _: &ShareId) -> Option<Arc<Notice<Model>>> {
        match self.part()? {
            Part::Home(notice) => Some(notice),
            Part::Copy(_) => None,
        }
    }
    fn copy(&self, _: &ShareId) -> Option<Arc<Follow<Model>>> {
        match self.part()? {
            Part::Copy(follow) => Some(follow),
            Part::Home(_) => None,
        }
    }
    fn disk(&self, _: &ShareId) -> Option<Arc<Model>> {
        self.part().map(|_| self.disk.clone())
    }
    /// Nobody locks anything there.
    fn locks(&self, _: &ShareId) -> Vec<Lock> {
        Vec::new()
    }
    fn take_out(&self, _: &ShareId) -> Option<(bool, lead::End)> {
        let part = lock(&self.part).take()?;
        let primary = matches!(part, Part::Home(_));
        let (disk, shelf) = (self.disk.clone(), self.shelf.clone());
        let end = move || {
            let mut clean = true;
            match &part {
                Part::Home(notice) => {
                    notice.stop();
                    notice.join();
                    clean = notice.is_quiet();
                }
                Part::Copy(follow) => {
                    follow.stop();
                    follow.join();
                }
            }
            disk.sync()?;
            let mut batch = shelf.batch();
            batch.set_meta(move |meta| meta.clean = clean);
            shelf.commit(batch, true).wait()?;
            match &part {
                Part::Home(notice) => Ok(notice.doubt_in_flight()?),
                Part::Copy(_) => Ok(()),
            }
        };
        Some((primary, Box::new(end)))
    }
    fn install(&self) -> Result<(), ServeError> {
        let text = lock(&self.text).clone();
        self.take_up(lead::led(&self.catalog, &self.me, &text)?)
    }
    fn moving(&self) -> &Moving {
        &self.moving
    }
    fn stopping(&self) -> &CancellationToken {
        &self.stop
    }
}

/// Tells the history which reads promise nothing.
struct Probe<N: Near> {
    near: N,
    wire: Arc<Far>,
}

struct Far(ToSite);

impl Wire for Far {
    fn up(&self) -> bool {
        self.0.up()
    }
    fn reached(&self) -> BoxFuture<'_, bool> {
        // Those who wait for a change of a watch are woken in an order that no seed decides.
        Box::pin(async {
            while !self.up() {
                sleep(Duration::from_millis(20)).await;
            }
            true
        })
    }
    fn send(
        &self,
        class: Class,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, WireError>> {
        let _ = TOLD.try_with(|told| told.near.set(false));
        self.0.send(class, request)
    }
}

impl<N: Near> Near for Probe<N> {
    fn standing(&self, read: &Read) -> Standing {
        self.near.standing(read)
    }
    fn certainty(&self) -> Certainty {
        let certainty = self.near.certainty();
        // With a link it is asked of the primary.
        let stale = certainty == Certainty::CutOffServe && !self.wire.up();
        // Reads are asked for within a scope; what a room asks by itself is not.
        let _ = TOLD.try_with(|told| told.stale.set(stale));
        certainty
    }
    fn is_over(&self) -> bool {
        self.near.is_over()
    }
    fn begin<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Box<dyn NearTicket>, NearError>> {
        self.near.begin(change)
    }
}
