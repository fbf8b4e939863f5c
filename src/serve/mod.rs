//! One site: builds the rooms together, starts what runs, reads the clocks. The only composition root.

pub(crate) mod adapt;
mod anew;
mod awaited;
mod clock;
mod history;
pub(crate) mod inbound;
pub(crate) mod lead;
mod meters;
mod own;
mod seat;
pub(crate) mod share;
mod status;
#[cfg(test)]
mod storm;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use clock::KernelClock;
pub use own::{Belongings, Lacking, belongings};

use adapt::{AtCopy, AtHome, CatalogTags, Fenceline, InProcess, ToSite, clients};
use awaited::Awaited;
use inbound::{Dispatch, Rooms};
use lead::{Leading, Moving};
use share::{Part, Running, Surroundings};

use crate::admin;
use crate::catalog::{self, Catalog, CatalogError};
use crate::clock::{Clock, WallTime};
use crate::door::{self, Door};
use crate::embedded::{EmbeddedError, EmbeddedShare, embedded};
use crate::follow::FollowError;
use crate::id::{Epoch, ShareId, SiteId};
use crate::link::cert::Secret;
use crate::link::own::Validity;
use crate::link::{LinkConfig, LinkError, Links, Terms};
use crate::map::{self, HttpDoor, HttpServer, HttpTls, Map, Place, PropertiesBy};
use crate::notice::NoticeError;
use crate::relay::{self, Away, Codec, HttpRelay, HttpSite, KeptBy, ShareHttp};
use crate::server::{Limits, Target, Upstream};
use crate::tree::write::keeps_properties;
use crate::tree::{Disk, TreeError};
use crate::wire::http::{Move, PathError, ShareUrl, SiteShares};

/// A site cannot start, or a new map cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("site {0} is not in the map; name one of its sites with --site")]
    NoSuchSite(SiteId),
    #[error("{what} {path}: {source}")]
    State { what: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Lacking(#[from] Lacking),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Notice(#[from] NoticeError),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    #[error(transparent)]
    Door(#[from] door::ListenError),
    #[error(transparent)]
    Tls(#[from] door::tls::TlsError),
    #[error(transparent)]
    Admin(#[from] admin::AdminError),
    #[error(
        "the primary copy of {share} is at {site}, where it was promoted to, and by the map {site} has no \
         copy: give it one, or promote another site first"
    )]
    NoCopy { share: ShareId, site: SiteId },
    #[error(
        "{site} is said to lead {share} in epoch {epoch}, and this site knows of epoch {known}: so many \
         promotions cannot have been missed, see what runs at {site}"
    )]
    NoEpoch { share: ShareId, site: SiteId, epoch: Epoch, known: Epoch },
    #[error("the journal of {share} has gone on meanwhile; nothing has changed, try again")]
    WentOn { share: ShareId },
    #[error(
        "the other copies of {share} keep nothing for the old primary for a while, and that was over before the \
         primary copy could be taken here; nothing has changed, try again"
    )]
    TooLate { share: ShareId },
    #[error("share {share}: its URL cannot be served: {source}")]
    Url { share: ShareId, source: PathError },
    #[error("{what} cannot change while running; restart nearshare at this site to take it")]
    Restart { what: String },
    #[error("the site is stopping and takes no new map")]
    Stopping,
    #[error("a task ended early while starting; see the log")]
    Task,
}

/// How a site is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the map was read from, for `status` and reload.
    pub map_file: PathBuf,
    pub site: SiteId,
    /// Sites that are dialled at another address than the map's.
    pub via: BTreeMap<SiteId, SocketAddr>,
}

/// A running site.
pub struct Site {
    options: Options,
    clock: Arc<dyn Clock>,
    began: WallTime,
    boot_id: String,
    secret: Secret,
    validity: Validity,
    catalog: Arc<Catalog>,
    links: Arc<Links>,
    awaited: Awaited,
    dispatch: Dispatch<Disk>,
    /// As it was read.
    text: ArcSwap<Map>,
    /// The same, with the primaries where the catalog knows them to be (R33).
    map: ArcSwap<Map>,
    shares: Mutex<BTreeMap<ShareId, Running>>,
    relay: Option<Arc<HttpRelay>>,
    door: Option<Arc<Door>>,
    running: Arc<relay::Running>,
    upstream: Option<Arc<Upstream>>,
    metrics: Option<PrometheusHandle>,
    moving: Moving,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// The control socket, which answers until requests in flight have ended, and its tasks.
    control: (CancellationToken, TaskTracker),
    /// For what must go on when whoever asked for it goes away.
    this: OnceLock<Weak<Self>>,
}

const A_MINUTE: Duration = Duration::from_secs(60);
const A_DAY: Duration = Duration::from_secs(24 * 3600);
/// How long requests may run on after a stop.
const DRAIN: Duration = Duration::from_secs(30);

impl Site {
    /// Starts a site on the current runtime: catalog, links, shares, door, control socket.
    pub async fn start(text: Map, options: Options) -> Result<Arc<Self>, ServeError> {
        let clock: Arc<dyn Clock> = Arc::new(KernelClock);
        let me = options.site.clone();
        let row = text.sites.get(&me).cloned().ok_or_else(|| ServeError::NoSuchSite(me.clone()))?;
        let looked = row.clone();
        let Belongings { identity, secret, validity } =
            blocking(move || Ok(belongings(&looked)?)).await?;
        let state = row.cluster.state.clone();
        let catalog = blocking(move || open_catalog(&state)).await?;
        let map = lead::led(&catalog, &me, &text)?;
        let metrics = metrics_handle();
        meters::begin(&map, &me);
        let dispatch = Dispatch::default();
        let config = LinkConfig {
            me: me.clone(),
            identity,
            secret: secret.clone(),
            listen: row.link_addr(),
            clock: clock.clone(),
        };
        let terms = Arc::new(terms(&map, &options));
        let links = Links::start(config, terms, Arc::new(dispatch.clone())).await?;
        let mut site = Self {
            began: clock.wall(),
            boot_id: boot_id(),
            options,
            clock,
            secret,
            validity,
            catalog,
            links,
            awaited: Awaited::default(),
            dispatch,
            text: ArcSwap::from_pointee(text),
            map: ArcSwap::from_pointee(map.clone()),
            shares: Mutex::default(),
            relay: None,
            door: None,
            running: Arc::default(),
            upstream: None,
            metrics,
            moving: Moving::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            control: Default::default(),
            this: OnceLock::new(),
        };
        site.start_shares(&map)?;
        if let Some(http) = &row.http {
            site.open_http(&map, http)?;
        }
        site.publish();
        site.awaited.by(&map, &me, site.began.0 / 1_000_000);
        let site = Arc::new(site);
        let _once = site.this.set(Arc::downgrade(&site));
        let leader: Weak<dyn inbound::Leader> = Arc::downgrade(&(site.clone() as Arc<_>));
        site.dispatch.open(leader);
        site.tasks.spawn(Leading(site.clone()).tell_others());
        site.tasks.spawn(tell_of_age(site.clone()));
        site.tasks.spawn(count_kept(site.clone()));
        let socket = control_socket(&row.cluster.state);
        let steer: Arc<dyn admin::Steer> = site.clone();
        let control = admin::bind(&socket)?;
        site.control.1.spawn(admin::serve(control, steer, site.control.0.clone()));
        tracing::info!(
            site = %me, link = %site.links.local_addr(),
            http = row.http.as_ref().map(|http| tracing::field::display(http.listen)), serial = map.serial, "serving"
        );
        Ok(site)
    }

    fn start_shares(&self, map: &Map) -> Result<(), ServeError> {
        let state = map.sites.get(&self.options.site).map(|row| row.cluster.state.clone());
        let state = state.unwrap_or_default();
        let around = Surroundings {
            me: &self.options.site,
            catalog: &self.catalog,
            links: &self.links,
            secret: &self.secret,
            clock: &self.clock,
            boot_id: &self.boot_id,
            state: &state,
        };
        let mut shares = self.shares();
        for share in map.shares.keys() {
            if !shares.contains_key(share)
                && let Some(running) = Running::start(map, share, &around)?
            {
                shares.insert(share.clone(), running);
            }
        }
        Ok(())
    }

    fn open_http(&mut self, map: &Map, http: &HttpDoor) -> Result<(), ServeError> {
        let limits = Limits { silence: http.server_timeout, ..Limits::default() };
        let target = self.target(map, http)?;
        let upstream = Upstream::new(target, limits, self.clock.clone());
        let relay =
            Arc::new(HttpRelay::new(self.http_site(map, http, upstream.clone())?, self.clock.clone()));
        relay.show_via(http.via);
        let listener = door::listen(http.listen, false)?;
        let limits = door::Limits {
            client_connections: http.client_connections,
            client_rate: http.client_rate,
            drain: DRAIN,
            ..door::Limits::default()
        };
        let door = Door::new(relay.clone(), limits);
        if let Some(at) = &http.tls {
            door.set_tls(certificates(at)?);
            let listener = door::listen(at.listen, false)?;
            self.tasks.spawn(door.clone().serve_tls(listener, self.stop.clone()));
        }
        self.tasks.spawn(door.clone().serve(listener, self.stop.clone()));
        if let HttpServer::Url(_) = http.server {
            let (stop, asking) = (self.stop.clone(), upstream.clone().keep_asking());
            self.tasks.spawn(async move {
                let _ended = stop.run_until_cancelled(asking).await;
            });
        }
        self.relay = Some(relay);
        self.door = Some(door);
        self.upstream = Some(upstream);
        Ok(())
    }

    fn target(&self, map: &Map, http: &HttpDoor) -> Result<Target, ServeError> {
        match &http.server {
            HttpServer::Url(at) => Ok(Target::Tcp { host: at.host.clone(), port: at.port }),
            HttpServer::Embedded => {
                let shares = self.shares();
                let mut served = Vec::new();
                for (share, at) in map.shares_at(&self.options.site) {
                    if let (Some(prefix), Some(running)) = (&at.http, shares.get(&share.name)) {
                        served.push(EmbeddedShare {
                            share: share.name.clone(),
                            prefix: prefix.path().clone(),
                            tree: running.disk.clone(),
                            properties: share.properties.is_none(),
                        });
                    }
                }
                let tags = shares.iter().map(|(share, running)| (share.clone(), running.shelf.clone()));
                let server = embedded(served, Arc::new(CatalogTags(tags.collect())))?;
                Ok(Target::Embedded(Arc::new(InProcess(server))))
            }
        }
    }

    fn http_site(
        &self,
        map: &Map,
        http: &HttpDoor,
        upstream: Arc<Upstream>,
    ) -> Result<HttpSite, ServeError> {
        let me = &self.options.site;
        let running = self.shares();
        let mut urls = Vec::new();
        let mut slots = Vec::new();
        for (share, at) in map.shares_at(me) {
            let Some(prefix) = &at.http else { continue };
            let failed = |source| ServeError::Url { share: share.name.clone(), source };
            let url = ShareUrl::new(share.name.clone(), prefix.as_str()).map_err(failed)?;
            let here = running.get(&share.name);
            // An embedded server reads them off the copy, if its disk has them.
            let has_own = http.server == HttpServer::Embedded
                && here.is_some_and(|here| keeps_properties(&here.disk));
            let url = url
                .with_properties(share.properties == Some(PropertiesBy::Apache))
                .asking_home(map.keeps_properties(share) && !has_own);
            let home = share.at(share.primary()).and_then(|home| home.http.as_ref());
            let from = home.map_or(&[][..], |home| home.path().names());
            let away = || Away {
                site: share.primary().clone(),
                wire: Arc::new(ToSite { links: self.links.clone(), site: share.primary().clone() }),
                moved: Move::new(from, url.encoded()),
                left: Arc::default(),
            };
            let part = match here.map(|here| &here.part) {
                Some(Part::Home(notice)) => {
                    relay::Part::Local { home: Arc::new(AtHome(notice.clone())) }
                }
                Some(Part::Copy(follow)) => {
                    relay::Part::Broadcast { near: Arc::new(AtCopy(follow.clone())), away: away() }
                }
                None => relay::Part::Remote { away: away() },
            };
            let locks = match here.and_then(|here| here.keeper.clone()) {
                _ if !map.keeps_locks(share) => KeptBy::Server,
                Some(keeper) => KeptBy::Here(keeper),
                None => KeptBy::Elsewhere,
            };
            slots.push(ShareHttp {
                share: share.name.clone(),
                sites: share.sites().map(|(site, _)| site.clone()).collect(),
                clients: clients(at),
                fence: here.map(|here| {
                    let (tree, shelf) = (here.disk.clone(), here.shelf.clone());
                    Arc::new(Fenceline::new(tree, shelf)) as _
                }),
                locks,
                part,
            });
            urls.push(url);
        }
        Ok(HttpSite {
            site: me.clone(),
            shares: SiteShares::new(urls),
            slots,
            upstream,
            host: http.host.as_ref().and_then(|host| host.parse().ok()),
            codec: Codec {
                encode: |awaits| catalog::encode_touch_gens(awaits).to_vec(),
                decode: |bytes| catalog::decode_touch_gens(bytes).ok(),
            },
            running: self.running.clone(),
        })
    }

    /// Lets the other sites ask what is running now.
    fn publish(&self) {
        let shares = self.shares();
        let homes = shares.iter().filter_map(|(share, running)| match &running.part {
            Part::Home(notice) => Some((share.clone(), notice.clone())),
            Part::Copy(_) => None,
        });
        let links = Arc::downgrade(&self.links);
        self.dispatch.set(Rooms {
            open: true,
            homes: homes.collect(),
            relay: self.relay.clone(),
            links,
        });
    }

    fn this(&self) -> Result<Arc<Self>, ServeError> {
        self.this.get().and_then(Weak::upgrade).ok_or(ServeError::Task)
    }

    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.row()?.http.map(|http| http.listen)
    }
    pub fn link_addr(&self) -> SocketAddr {
        self.links.local_addr()
    }
    pub fn status(&self) -> admin::Status {
        status::status(self)
    }
    /// Where `status` and the other commands reach this process.
    pub fn control_socket(&self) -> Option<PathBuf> {
        Some(control_socket(&self.row()?.cluster.state))
    }

    fn row(&self) -> Option<map::Site> {
        self.map.load().sites.get(&self.options.site).cloned()
    }

    /// Takes a new map without dropping a connection. What cannot change while running is refused, and
    /// then nothing changes.
    pub async fn reload(self: &Arc<Self>, new: Map) -> Result<String, String> {
        let _one_at_a_time = self.moving.reloading.lock().await;
        let site = self.clone();
        blocking(move || site.take(new)).await.map_err(|error| error.to_string())
    }

    fn take(&self, new: Map) -> Result<String, ServeError> {
        let old = self.text.load_full();
        let me = &self.options.site;
        if self.stop.is_cancelled() {
            return Err(ServeError::Stopping);
        }
        if !new.sites.contains_key(me) {
            return Err(ServeError::NoSuchSite(me.clone()));
        }
        refuse_unchangeable(&old, &new, me)?;
        let map = lead::led(&self.catalog, me, &new)?;
        let http = new.sites.get(me).and_then(|row| row.http.as_ref());
        // They may have been renewed; all that can be wrong with them is found before anything changes.
        let tls = http.and_then(|http| http.tls.as_ref()).map(certificates).transpose()?;
        if let (Some(door), Some(tls)) = (&self.door, tls) {
            door.set_tls(tls);
        }
        let (what, uncounted) = edition(&old, &new);
        self.text.store(Arc::new(new));
        self.take_up(map)?;
        tracing::info!(site = %me, "{what}");
        match uncounted {
            None => Ok(what),
            Some(note) => {
                tracing::warn!(site = %me, "{note}");
                Ok(format!("{what}\nnote: {note}"))
            }
        }
    }

    /// Makes everything as the map says: shares, links, doors.
    fn take_up(&self, new: Map) -> Result<(), ServeError> {
        let old = self.map.load_full();
        let me = &self.options.site;
        let row = new.sites.get(me).ok_or_else(|| ServeError::NoSuchSite(me.clone()))?;
        let gone: Vec<ShareId> = {
            let shares = self.shares();
            let gone = shares.keys().filter(|share| !holds(&new, share, me));
            gone.cloned().collect()
        };
        for share in &gone {
            let running = self.shares().remove(share);
            running.map_or(Ok(()), |running| running.leave())?;
        }
        meters::begin(&new, me);
        self.links.set_terms(Arc::new(terms(&new, &self.options)));
        self.awaited.by(&new, me, self.clock.wall().0 / 1_000_000);
        // A share that does not start is nobody's copy here: what is asked of it is forwarded.
        let started = self.start_shares(&new);
        for (share, running) in self.shares().iter() {
            match (&running.part, new.shares[share].at(me)) {
                (Part::Home(notice), Some(at)) => {
                    notice.reconfigure(share::home_terms(&new, share, at.http_sync));
                }
                (Part::Copy(follow), Some(at)) => {
                    follow.reconfigure(share::copy_terms(&new, share, at));
                }
                (_, None) => {}
            }
        }
        if let (Some(http), Some(relay), Some(upstream)) = (&row.http, &self.relay, &self.upstream) {
            let urls = |map: &Map| -> Vec<_> {
                map.shares_at(me)
                    .map(|(share, at)| {
                        (share.name.clone(), at.http.clone(), at.role(), share.properties)
                    })
                    .collect()
            };
            let upstream = match http.server {
                // A share came or went: the embedded server is built anew around the same directories.
                HttpServer::Embedded if urls(&old) != urls(&new) => {
                    let limits = Limits { silence: http.server_timeout, ..Limits::default() };
                    Upstream::new(self.target(&new, http)?, limits, self.clock.clone())
                }
                HttpServer::Embedded | HttpServer::Url(_) => upstream.clone(),
            };
            relay.reload(self.http_site(&new, http, upstream)?);
            relay.show_via(http.via);
        }
        self.map.store(Arc::new(new));
        self.publish();
        started
    }

    /// Lets requests end, stops every share, and closes the catalog as a clean stop.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        let requests = async {
            if tokio::time::timeout(DRAIN + Duration::from_secs(1), self.tasks.wait()).await.is_err() {
                tracing::warn!("some requests did not end in time and are cut off");
            }
        };
        // Those that other sites sent too: the links stay until they are answered.
        let homes: Vec<_> = self.shares().values().filter_map(Running::home).collect();
        let changes = homes.iter().map(|notice| notice.cease(DRAIN));
        tokio::join!(requests, futures_util::future::join_all(changes));
        let (control, answering) = &self.control;
        control.cancel();
        answering.close();
        tokio::join!(answering.wait(), self.links.shutdown());
        let shares = std::mem::take(&mut *self.shares());
        for running in shares.values() {
            running.stop();
        }
        let catalog = self.catalog.clone();
        let closed = blocking(move || {
            for running in shares.values() {
                running.end()?;
            }
            Ok(catalog.close()?)
        });
        if let Err(error) = closed.await {
            tracing::warn!(%error, "the catalog was not closed cleanly; the next start scans");
        }
        tracing::info!(site = %self.options.site, "stopped");
    }

    fn shares(&self) -> std::sync::MutexGuard<'_, BTreeMap<ShareId, Running>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a new map is to the old one, and what is wrong with how its editions are counted.
fn edition(old: &Map, new: &Map) -> (String, Option<String>) {
    let right = "count it up with every change, so that it is seen which site has the newer map";
    let what = match new.hash == old.hash {
        true => format!("the map is the one that was there, serial {}", new.serial),
        false => format!("serial {} replaces {}", new.serial, old.serial),
    };
    let note = match new.serial.cmp(&old.serial) {
        Ordering::Less => {
            Some(format!("`serial` has gone down from {} to {}: {right}", old.serial, new.serial))
        }
        Ordering::Equal if new.hash != old.hash => {
            Some(format!("the content has changed, but `serial` has not ({}): {right}", new.serial))
        }
        Ordering::Equal | Ordering::Greater => None,
    };
    (what, note)
}

fn holds(map: &Map, share: &ShareId, me: &SiteId) -> bool {
    map.shares.get(share).and_then(|row| row.at(me)).is_some_and(|at| !matches!(at.place, Place::Remote))
}

/// What a running site cannot change: its addresses, its state, and where and what its copies are.
fn refuse_unchangeable(old: &Map, new: &Map, me: &SiteId) -> Result<(), ServeError> {
    let restart = |what: String| Err(ServeError::Restart { what });
    let (Some(was), Some(is)) = (old.sites.get(me), new.sites.get(me)) else { return Ok(()) };
    if was.cluster != is.cluster {
        return restart("[cluster]: certificates and the state directory".into());
    }
    if was.link_addr() != is.link_addr() {
        return restart(format!("site.{me}.link"));
    }
    let door = |http: &HttpDoor| {
        let tls = http.tls.as_ref().map(|tls| tls.listen);
        let clients = (http.client_connections, http.client_rate);
        (http.listen, http.server.clone(), http.server_timeout, tls, clients)
    };
    if was.http.as_ref().map(door) != is.http.as_ref().map(door) {
        return restart(format!("site.{me}.http"));
    }
    for (share, row) in &new.shares {
        let Some(before) = old.shares.get(share) else { continue };
        let place = |row: &map::Share| row.at(me).map(|at| at.place.clone());
        let held = holds(old, share, me) && holds(new, share, me);
        if held && (place(before) != place(row) || before.primary() != row.primary()) {
            return restart(format!("share.{share}: its role, path or primary"));
        }
    }
    Ok(())
}

/// What the map says of links. A site dials the sites that hold the primaries of its shares, and those
/// that it must tell that it is one.
pub(crate) fn terms(map: &Map, options: &Options) -> Terms {
    let me = &options.site;
    let mine = || map.shares_at(me).map(|(share, _)| share);
    let mut dial: BTreeSet<SiteId> = mine().map(|share| share.primary().clone()).collect();
    // Whoever became the primary later tells the others: those that were away know only the one before.
    for share in mine().filter(|share| share.primary() == me && share.epoch() > 1) {
        dial.extend(share.sites().map(|(site, _)| site.clone()));
    }
    dial.remove(me);
    Terms {
        serial: map.serial,
        hash: map.hash,
        // Of every share: one that is not ours is still in the map, and the other site may have it.
        digests: map.shares.iter().map(|(name, share)| (name.clone(), share.digest())).collect(),
        sites: map
            .sites
            .iter()
            .map(|(name, site)| (name.clone(), (site.link.host.clone(), site.link.port)))
            .collect(),
        dial,
        via: options.via.clone(),
    }
}

/// The control socket of the site with that state directory.
pub fn control_socket(state: &Path) -> PathBuf {
    state.join("control.sock")
}

/// Says so in the log, at the start and once a day, when the site's certificate has to be renewed.
async fn tell_of_age(site: Arc<Site>) {
    loop {
        own::tell(&site.options.site, site.validity, site.clock.wall());
        tokio::select! {
            () = tokio::time::sleep(A_DAY) => {}
            () = site.stop.cancelled() => return,
        }
    }
}

/// Counts what the shares have kept aside, at the start and now and then: an operator may move it away.
async fn count_kept(site: Arc<Site>) {
    loop {
        let disks: Vec<_> = site.shares().values().map(|here| here.disk.clone()).collect();
        for disk in disks {
            if let Err(error) = blocking(move || Ok(disk.count_kept()?)).await {
                tracing::debug!(%error, "counting what is kept aside");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(A_MINUTE) => {}
            () = site.stop.cancelled() => return,
        }
    }
}

fn open_catalog(state: &Path) -> Result<Arc<Catalog>, ServeError> {
    let failed =
        |source| ServeError::State { what: "make the state directory", path: state.into(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(failed)?;
    Ok(Catalog::open(&state.join("catalog"), &catalog::Options::default())?)
}

fn certificates(of: &HttpTls) -> Result<Arc<rustls::ServerConfig>, door::tls::TlsError> {
    let pair = |files: &map::CertificateFiles| (files.certificate.clone(), files.key.clone());
    door::tls::config(&of.certificates.iter().map(pair).collect::<Vec<_>>())
}

fn boot_id() -> String {
    // Without procfs every start counts as one after a crash of the machine.
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

/// The process' one recorder. Several sites in one process (the demo) share it.
fn metrics_handle() -> Option<PrometheusHandle> {
    static HANDLE: std::sync::OnceLock<Option<PrometheusHandle>> = std::sync::OnceLock::new();
    HANDLE.get_or_init(|| PrometheusBuilder::new().install_recorder().ok()).clone()
}

async fn blocking<R: Send + 'static>(
    work: impl FnOnce() -> Result<R, ServeError> + Send + 'static,
) -> Result<R, ServeError> {
    crate::work::blocking(work).await.map_err(|_| ServeError::Task)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_that_is_not_counted_up_is_spoken_of() {
        let map = |serial: u64, zone: &str| {
            let site = format!("[site.a]\nlink = \"a:1\"\nzone = \"{zone}\"\n");
            let share = "[share.x]\na = { role = \"local\", path = \"/x\" }\n";
            map::parse(&format!("serial = {serial}\n{site}{share}")).unwrap()
        };
        let note = |old, new| edition(&old, &new).1;
        assert_eq!(note(map(1, "emea"), map(2, "apac")), None);
        assert_eq!(note(map(1, "emea"), map(1, "emea")), None);
        let same = note(map(1, "emea"), map(1, "apac")).unwrap();
        assert!(same.starts_with("the content has changed, but `serial` has not (1)"), "{same}");
        let down = note(map(3, "emea"), map(1, "apac")).unwrap();
        assert!(down.starts_with("`serial` has gone down from 3 to 1: count it up"), "{down}");
    }

    #[test]
    fn sites_with_one_map_agree_also_on_shares_that_only_one_of_them_has() {
        let sites = ["a", "b", "c"].map(|name| {
            format!("[site.{name}]\nlink = \"{name}:1\"\nhttp = {{ server = \"embedded\", listen = \"0.0.0.0:80\" }}\n")
        });
        let share = |name, other| {
            format!(
                "[share.{name}]\nhttp = \"/{name}\"\na = {{ role = \"local\", path = \"/{name}\" }}\n\
                 {other} = {{ role = \"broadcast\", path = \"/{name}\" }}\n"
            )
        };
        let text = format!("serial = 1\n{}{}{}", sites.concat(), share("x", "b"), share("y", "c"));
        let map = map::parse(&text).unwrap();
        let digests = ["a", "b", "c"].map(|site| {
            let options =
                Options { map_file: PathBuf::new(), site: site.parse().unwrap(), via: BTreeMap::new() };
            terms(&map, &options).digests
        });
        assert_eq!(digests[0].len(), 2);
        assert!(digests.iter().all(|said| *said == digests[0]));
    }
}
