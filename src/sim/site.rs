//! One site: what outlives its process, and the process, built of the real rooms.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::clock::{SimClock, note};
use super::net::{Dialled, Net};
use super::server::Server;
use super::{PRIMARY, Rules, share};
use crate::catalog::memory::Memory;
use crate::catalog::{self, Catalog, Shelf};
use crate::clock::Clock;
use crate::effect::{Change, Read};
use crate::follow::{self, Follow};
use crate::id::{Epoch, Hash, ObjectId, SiteId, Version};
use crate::link;
use crate::notice::{self, Notice};
use crate::object::Local;
use crate::relay::seam::{Certainty, Fence, Near, NearError, NearTicket, Standing, Wire};
use crate::relay::{self, Away, Codec, HttpRelay, HttpSite, ShareHttp};
use crate::route::Clients;
use crate::serve::adapt::{AtCopy, AtHome, Fenceline, ToSite};
use crate::serve::inbound::{Dispatch, Rooms};
use crate::tree::Tree;
use crate::tree::model::Model;
use crate::wire::http::{Move, ShareUrl, SiteShares};
use crate::work::single::{Group, pick, spawn_blocking};

tokio::task_local! {
    /// Whether the copy answered this read although it was cut off.
    pub static STALE: Cell<bool>;
}

/// What outlives the process.
pub struct Site {
    pub name: &'static str,
    pub clock: Arc<SimClock>,
    pub disk: Model,
    memory: Memory,
    pub server: Arc<Server>,
    pub net: Net,
    rules: Rules,
    boots: Cell<u64>,
    live: Mutex<Option<Arc<Live>>>,
}

/// A process.
pub struct Live {
    pub group: Arc<Group>,
    /// Once it is built.
    rooms: Mutex<Option<Built>>,
}

/// What a process is made of.
#[derive(Clone)]
pub struct Built {
    pub relay: Arc<HttpRelay>,
    pub part: Part,
}

#[derive(Clone)]
pub enum Part {
    Home(Arc<Notice<Model>>),
    Copy(Arc<Follow<Model>>),
}

impl Site {
    pub fn new(number: usize, name: &'static str, net: &Net, rules: &Rules) -> Self {
        let clock = Arc::new(SimClock::new(Duration::from_secs(1000 + pick(100_000))));
        let disk = Model::with_clock([number as u8 + 1; 16], clock.clone());
        Self {
            name,
            server: Server::new(name, disk.clone()),
            clock,
            disk,
            memory: Memory::default(),
            net: net.clone(),
            rules: rules.clone(),
            boots: Cell::new(0),
            live: Mutex::default(),
        }
    }
    pub fn id(&self) -> SiteId {
        self.name.parse().expect("a name of ours")
    }
    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.lock().expect("one thread never panics while it holds this").clone()
    }
    pub fn built(&self) -> Option<Built> {
        self.live()?.rooms.lock().expect("one thread never panics while it holds this").clone()
    }

    /// Starts the process. What it is made of is there some time later.
    pub fn start(&self) {
        note(|| format!("{} starts", self.name));
        let live = Arc::new(Live { group: Arc::default(), rooms: Mutex::default() });
        *self.live.lock().expect("one thread never panics while it holds this") = Some(live.clone());
        let dispatch: Dispatch<Model> = Dispatch::default();
        let primary: SiteId = PRIMARY.parse().expect("a name of ours");
        let to = (self.name != PRIMARY).then_some(&primary);
        let links = self.net.open(&self.id(), to, &live.group, Arc::new(dispatch.clone()));
        let make = Make {
            site: self.id(),
            primary,
            clock: self.clock.clone(),
            disk: Arc::new(self.disk.clone()),
            memory: self.memory.clone(),
            server: self.server.clone(),
            rules: self.rules.clone(),
            boot_id: format!("boot {}", self.boots.get()),
            links,
        };
        let into = live.clone();
        live.group.spawn(async move {
            loop {
                let (make, dispatch) = (make.clone(), dispatch.clone());
                match spawn_blocking(move || make.build(&dispatch)).await {
                    Ok(Ok(built)) => {
                        *into.rooms.lock().expect("one thread never panics while it holds this") =
                            Some(built);
                        return;
                    }
                    Ok(Err(why)) => note(|| format!("cannot start: {why}")),
                    Err(_) => return,
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }

    /// The process ends without a word; with `power` the machine does, the server too.
    pub fn crash(&self, power: bool) {
        note(|| format!("{} crashes{}", self.name, if power { " with its machine" } else { "" }));
        if let Some(live) = self.live.lock().expect("one thread never panics while it holds this").take()
        {
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

    pub fn set_full(&self, full: bool) {
        note(|| format!("{}: the disk is {}", self.name, if full { "full" } else { "not full" }));
        self.disk.set_full(full);
    }
}

#[derive(Clone)]
struct Make {
    site: SiteId,
    primary: SiteId,
    clock: Arc<SimClock>,
    disk: Arc<Model>,
    memory: Memory,
    server: Arc<Server>,
    rules: Rules,
    boot_id: String,
    links: Arc<Dialled>,
}

impl Make {
    fn build(&self, dispatch: &Dispatch<Model>) -> Result<Built, String> {
        let failed = |error: &dyn std::fmt::Display| error.to_string();
        let catalog = Catalog::in_memory(&self.memory).map_err(|error| failed(&error))?;
        let shelf = catalog.share(&share()).map_err(|error| failed(&error))?;
        self.memory.set_slow();
        self.open(&shelf).map_err(|error| failed(&error))?;
        let clock: Arc<dyn Clock> = self.clock.clone();
        let part = if self.site == self.primary {
            let config = notice::Config { share: share(), key: [5; 32], boot_id: self.boot_id.clone() };
            let terms = notice::Terms {
                copies: self.rules.copies(),
                sync: true,
                strict: self.rules.strict,
                durable: self.rules.durable,
                may_degrade: false,
            };
            let notice = Notice::start(config, terms, shelf, self.disk.clone(), clock);
            Part::Home(notice.map_err(|error| failed(&error))?)
        } else {
            let config = follow::Config { share: share(), primary: self.primary.clone() };
            let terms =
                follow::Terms { strict: self.rules.strict, serve_when_cut_off: self.rules.serve };
            let follow =
                Follow::start(config, terms, shelf, self.disk.clone(), self.links.clone(), clock);
            Part::Copy(follow.map_err(|error| failed(&error))?)
        };
        let relay = Arc::new(HttpRelay::new(self.http_site(&part)));
        let homes = match &part {
            Part::Home(notice) => BTreeMap::from([(share(), notice.clone())]),
            Part::Copy(_) => BTreeMap::new(),
        };
        let links: Weak<Dialled> = Weak::new();
        let links: Weak<dyn link::Net> = links;
        let rooms = Rooms { open: true, homes, relay: Some(relay.clone()), links };
        dispatch.set(rooms);
        Ok(Built { relay, part })
    }

    /// What `serve` does before it starts a share.
    fn open(&self, shelf: &Arc<Shelf>) -> Result<(), Box<dyn std::error::Error>> {
        let root = self.disk.dir_found(&self.disk.root()?)?;
        let mut batch = shelf.batch();
        if shelf.local(ObjectId::ROOT)?.is_none() {
            let local =
                Local { handle: root.handle, stamp: root.stamp, version: Version(1), settled: false };
            batch.set_local(ObjectId::ROOT, Some(local));
        }
        if self.site == self.primary && shelf.head().incarnation == Hash::default() {
            batch.new_incarnation(Epoch(1));
        }
        Ok(shelf.commit(batch, true).wait()?)
    }

    fn http_site(&self, part: &Part) -> HttpSite {
        let url = ShareUrl::new(share(), "/eng").expect("a path of ours");
        let part = match part {
            Part::Home(notice) => relay::Part::Local { home: Arc::new(AtHome(notice.clone())) },
            Part::Copy(follow) => {
                let wire = Arc::new(ToSite { links: self.links.clone(), site: self.primary.clone() });
                let moved = Move::new(url.prefix(), url.encoded());
                let away = Away { site: self.primary.clone(), wire: wire.clone(), moved };
                let near = Probe { near: AtCopy(follow.clone()), wire };
                relay::Part::Broadcast { near: Arc::new(near), away }
            }
        };
        let fence: Arc<dyn Fence> = Arc::new(Fenceline(self.disk.clone()));
        let slot = ShareHttp { share: share(), clients: Clients::default(), fence: Some(fence), part };
        HttpSite {
            site: self.site.clone(),
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
}

/// Tells the history which reads promise nothing.
struct Probe<N: Near> {
    near: N,
    wire: Arc<ToSite>,
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
        let _ = STALE.try_with(|cell| cell.set(stale));
        certainty
    }
    fn begin<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Box<dyn NearTicket>, NearError>> {
        self.near.begin(change)
    }
}
