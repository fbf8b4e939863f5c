//! Fits the rooms together where one asks through a trait and another has the answer.

use std::io;
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response};
use quick_cache::UnitWeighter;
use quick_cache::sync::{Cache, DefaultLifecycle};
use tokio::io::DuplexStream;

use crate::body::Body;
use crate::catalog::{CatalogError, Shelf};
use crate::effect::{Change, Depth, Read};
use crate::embedded::{Embedded, Tags};
use crate::follow::{AheadTicket, Follow, FollowError};
use crate::hash;
use crate::id::{ObjectId, RelPath, ShareId, SiteId, Version};
use crate::link::{self, Net, SendError};
use crate::map;
use crate::notice::{Notice, NoticeError, Origin, Ticket};
use crate::object::Found;
use crate::relay::Caller;
use crate::relay::seam::{
    Awaits, Certainty, Class, Fence, Fenced, Home, HomeError, HomeTicket, LockRows, Near, NearError,
    NearTicket, Outcome, Standing, Wire, WireError,
};
use crate::route::{Access, ClientRule, Clients};
use crate::server::Connect;
use crate::tree::{Contains, Tree, TreeError};
use crate::wire::http::etag::Tag;
use crate::wire::http::lock::Lock;

/// The primary's side of a share, for `relay`.
pub struct AtHome<T: Tree>(pub Arc<Notice<T>>);

impl<T: Tree> Home for AtHome<T> {
    fn begin<'a>(
        &'a self,
        change: &'a Change,
        from: Option<&'a Caller>,
    ) -> BoxFuture<'a, Result<Box<dyn HomeTicket>, HomeError>> {
        let origin = from.map(|caller| Origin { site: caller.site.clone(), session: caller.session });
        async move {
            let ticket = self.0.begin(change, origin).await.map_err(home_error)?;
            Ok(Box::new(HomeChange(ticket)) as Box<dyn HomeTicket>)
        }
        .boxed()
    }
    fn stay(&self) -> BoxFuture<'_, Result<Box<dyn Send>, HomeError>> {
        async move {
            let stays = self.0.stay().await.map_err(home_error)?;
            Ok(Box::new(stays) as Box<dyn Send>)
        }
        .boxed()
    }
    fn is_pledged(&self) -> bool {
        self.0.is_pledged()
    }
    fn visible<'a>(&'a self, read: &'a Read) -> BoxFuture<'a, Result<(), HomeError>> {
        async move { self.0.visible(read).await.map_err(home_error) }.boxed()
    }
}

struct HomeChange<T: Tree>(Ticket<T>);

impl<T: Tree> HomeTicket for HomeChange<T> {
    fn answered(self: Box<Self>, outcome: Outcome) -> BoxFuture<'static, Result<Awaits, HomeError>> {
        async move { self.0.answered(outcome == Outcome::Done).await.map_err(home_error) }.boxed()
    }
    fn refused(self: Box<Self>, depth: Depth) -> BoxFuture<'static, Result<Awaits, HomeError>> {
        async move { self.0.refused_openly(depth).await.map_err(home_error) }.boxed()
    }
    fn unsent(self: Box<Self>) -> Awaits {
        self.0.refused()
    }
    fn broke_off(self: Box<Self>) {
        self.0.broke_off();
    }
    fn reconcile(&mut self) -> BoxFuture<'_, Result<(), HomeError>> {
        async move { self.0.reconcile().await.map_err(home_error) }.boxed()
    }
}

fn home_error(error: NoticeError) -> HomeError {
    match error {
        NoticeError::Outside { path } => HomeError::Outside { path },
        NoticeError::Tree(error) => tree_error(&error),
        NoticeError::Catalog(error) if full(&error) => HomeError::Full(error.to_string()),
        NoticeError::Catalog(error) => HomeError::Catalog(error.to_string()),
        NoticeError::Stopped { why } => HomeError::NotTheShare(why),
        error @ (NoticeError::Moved
        | NoticeError::Late { .. }
        | NoticeError::NotNow(_)
        | NoticeError::Overtaken) => HomeError::Moved(error.to_string()),
        error @ (NoticeError::TooFewSites { .. } | NoticeError::NotDurable { .. }) => {
            HomeError::NotDurable(error.to_string())
        }
        error @ (NoticeError::Read { .. } | NoticeError::Task) => HomeError::Disk(error.to_string()),
    }
}

fn tree_error(error: &TreeError) -> HomeError {
    match error {
        TreeError::NotTheShare { .. } | TreeError::NotOurs { .. } => {
            HomeError::NotTheShare(error.to_string())
        }
        TreeError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            HomeError::Full(error.to_string())
        }
        TreeError::Io { .. } => HomeError::Disk(error.to_string()),
    }
}

fn full(error: &CatalogError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::StorageFull)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// A copy's side of a share, for `relay`.
pub struct AtCopy<T: Tree>(pub Arc<Follow<T>>);

impl<T: Tree> Near for AtCopy<T> {
    fn standing(&self, read: &Read) -> Standing {
        self.0.standing(read)
    }
    fn certainty(&self) -> Certainty {
        self.0.certainty()
    }
    fn begin<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, Result<Box<dyn NearTicket>, NearError>> {
        async move {
            let ticket =
                self.0.begin(change).await.map_err(|error: FollowError| NearError(error.to_string()))?;
            Ok(Box::new(NearChange(ticket)) as Box<dyn NearTicket>)
        }
        .boxed()
    }
    fn is_over(&self) -> bool {
        self.0.stopped()
    }
}

struct NearChange<T: Tree>(AheadTicket<T>);

impl<T: Tree> NearTicket for NearChange<T> {
    fn answered(self: Box<Self>, awaits: Awaits) {
        self.0.answered(awaits);
    }
    fn refused(self: Box<Self>) {
        self.0.refused();
    }
}

/// Who may do what in a share at one site, for `relay`.
pub fn clients(at: &map::AtSite) -> Clients {
    let rule = |rule: &map::ClientRule| {
        let access = match rule.access {
            map::Access::ReadOnly => Access::Read,
            map::Access::ReadWrite => Access::Write,
        };
        ClientRule { net: rule.net, access }
    };
    Clients::new(at.clients.iter().map(rule).collect())
}

/// The link to one site, for `relay`.
pub struct ToSite {
    pub links: Arc<dyn Net>,
    pub site: SiteId,
}

impl Wire for ToSite {
    fn up(&self) -> bool {
        self.links.peer(&self.site).is_some_and(|peer| peer.up())
    }
    fn reached(&self) -> BoxFuture<'_, bool> {
        let up = self.links.peer(&self.site).map(|peer| peer.watch());
        async move {
            let Some(mut up) = up else { return false };
            up.wait_for(|up| up.up).await.is_ok()
        }
        .boxed()
    }
    fn send(
        &self,
        class: Class,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, WireError>> {
        let class = match class {
            Class::Control => link::Class::Control,
            Class::Bulk => link::Class::Bulk,
        };
        async move {
            let Some(peer) = self.links.peer(&self.site) else {
                return Err(WireError::NotSent(format!("{} is not dialled from here", self.site)));
            };
            match peer.send(class, request).await {
                Ok(response) => Ok(response.map(Body::from)),
                Err(error @ SendError::Lost { session, .. }) => {
                    Err(WireError::Lost { session, why: error.to_string() })
                }
                Err(error @ SendError::NotSent { .. }) => Err(WireError::NotSent(error.to_string())),
            }
        }
        .boxed()
    }
}

/// A share's directory, for what clients may reach.
pub struct Fenceline<T: Tree> {
    tree: Arc<T>,
    shelf: Arc<Shelf>,
    proofs: Cache<RelPath, Arc<Proof>, UnitWeighter, hash::State>,
}

/// A file, and which version the catalog said that it is when it had seen so many commits (R21).
struct Proof {
    found: Found,
    tag: Tag,
    commits: u64,
}

/// Files that are remembered so, half a KiB each.
const PROOFS_MAX: usize = 1024;

impl<T: Tree> Fenceline<T> {
    pub fn new(tree: Arc<T>, shelf: Arc<Shelf>) -> Self {
        let (hasher, life) = (hash::State::default(), DefaultLifecycle::default());
        let proofs = Cache::with(PROOFS_MAX, PROOFS_MAX as u64, UnitWeighter, hasher, life);
        Self { tree, shelf, proofs }
    }

    fn ask(&self, path: &RelPath, follow: bool, cached: bool) -> Fenced {
        let asked = if follow {
            self.tree.contains(path, cached)
        } else {
            match path.split_last() {
                // The last place may be a link that is itself changed: only the way to it counts.
                Some((above, _)) => self.tree.contains(&above, cached),
                None => self.tree.contains(path, cached),
            }
        };
        asked.map_or_else(|error| unseen(path, &error), fenced)
    }
}

fn fenced(contains: Contains) -> Fenced {
    match contains {
        Contains::Inside => Fenced::Inside,
        Contains::Missing => Fenced::Missing,
        Contains::Outside => Fenced::Outside,
        Contains::WouldBlock => Fenced::Unknown,
    }
}

fn unseen(path: &RelPath, error: &TreeError) -> Fenced {
    if !matches!(error, TreeError::NotTheShare { .. }) {
        tracing::warn!(%path, %error, "the share's directory cannot be looked at");
    }
    Fenced::Gone
}

impl<T: Tree> Fence for Fenceline<T> {
    fn cached(&self, path: &RelPath, follow: bool) -> Fenced {
        self.ask(path, follow, true)
    }
    fn look(&self, path: &RelPath, follow: bool) -> Fenced {
        self.ask(path, follow, false)
    }
    fn reaches(&self, path: &RelPath, cached: bool) -> (Fenced, Option<Found>) {
        match self.tree.reaches(path, cached) {
            Ok((contains, found)) => (fenced(contains), found),
            Err(error) => (unseen(path, &error), None),
        }
    }
    fn proven(&self, path: &RelPath) -> Option<(Found, Tag)> {
        let commits = self.shelf.commits();
        let found = self.tree.by_names(path)?;
        let known = self.proofs.get(path);
        if let Some(proof) = known.filter(|proof| proof.commits == commits && proof.found == found) {
            return Some((found, proof.tag));
        }
        let tag = version_of(&self.shelf, &found)?;
        self.proofs.insert(path.clone(), Arc::new(Proof { found: found.clone(), tag, commits }));
        Some((found, tag))
    }
    fn is_still(&self, path: &RelPath, found: &Found) -> bool {
        self.tree.is_still(path, found)
    }
    fn straight(&self, path: &RelPath, cached: bool) -> Option<RelPath> {
        self.tree.straight(path, cached).unwrap_or_else(|error| {
            unseen(path, &error);
            None
        })
    }
    fn version(&self, file: &Found) -> Option<Tag> {
        version_of(&self.shelf, file)
    }
}

/// Which content `found` is certain to be: what was read then, and has the same stamp now (R17).
fn version_of(shelf: &Shelf, found: &Found) -> Option<Tag> {
    let id = shelf.by_handle(&found.handle).ok()??;
    let local = shelf.local(id).ok()??;
    (local.settled && local.stamp == found.stamp).then_some(Tag { id, version: local.version })
}

/// ETags by the catalog, for the embedded server.
pub struct CatalogTags(pub std::collections::BTreeMap<ShareId, Arc<Shelf>>);

impl Tags for CatalogTags {
    fn tag(&self, share: &ShareId, found: &Found) -> Option<(ObjectId, Version)> {
        version_of(self.0.get(share)?, found).map(|tag| (tag.id, tag.version))
    }
}

/// A share's locks in the catalog, for `relay`.
pub struct LockShelf(pub Arc<Shelf>);

impl LockRows for LockShelf {
    fn save<'a>(
        &'a self,
        put: Option<&'a Lock>,
        gone: Vec<String>,
    ) -> BoxFuture<'a, Result<(), String>> {
        let mut batch = self.0.batch();
        gone.into_iter().for_each(|token| batch.forget_lock(token));
        if let Some(lock) = put {
            batch.lock(lock.clone());
        }
        async move { self.0.commit(batch, true).await.map_err(|error| error.to_string()) }.boxed()
    }
}

/// The embedded server, as a server to connect to.
pub struct InProcess(pub Embedded);

impl Connect for InProcess {
    fn connect(&self) -> BoxFuture<'_, io::Result<DuplexStream>> {
        async move { Ok(self.0.connect()) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::catalog::Catalog;
    use crate::clock::{BootTime, Clock, WallTime};
    use crate::object::Local;
    use crate::serve::clock::KernelClock;
    use crate::tree::{Disk, RootSpec};

    /// By the map's own example.
    #[test]
    fn a_client_gets_what_the_narrowest_net_gives() {
        let map = map::parse(include_str!("../../server-map.example.toml")).unwrap();
        let at = |share: &str, site: &str| {
            let share = &map.shares[&share.parse::<ShareId>().unwrap()];
            clients(share.at(&site.parse().unwrap()).unwrap())
        };
        let of = |clients: &Clients, address: &str| clients.access(address.parse().unwrap());
        let open = at("engineering", "hq");
        assert_eq!(of(&open, "192.0.2.1"), Access::Write);
        let osaka = at("drawings", "osaka");
        for (address, access) in [
            ("10.1.2.3", Access::Write),
            ("10.9.0.1", Access::Read),
            ("::ffff:10.9.0.1", Access::Read),
            ("11.0.0.1", Access::None),
            ("::1", Access::None),
        ] {
            assert_eq!(of(&osaka, address), access, "{address}");
        }
        // A site's own rules take the place of the share's.
        let lyon = at("drawings", "lyon");
        assert_eq!([of(&lyon, "10.2.3.4"), of(&lyon, "10.1.2.3")], [Access::Read, Access::None]);
    }

    /// A minute later, so that whatever was just written is settled.
    struct Later;

    impl Clock for Later {
        fn boot(&self) -> BootTime {
            KernelClock.boot()
        }
        fn wall(&self) -> WallTime {
            WallTime(KernelClock.wall().0 + Duration::from_secs(60).as_nanos() as i64)
        }
    }

    fn tag(version: u64) -> Tag {
        Tag { id: ObjectId::from_bytes([7; 16]), version: Version(version) }
    }

    /// `file` of a share, and the catalog's word for which version it is.
    fn proof_of(fence: &Fenceline<Disk>, found: &Found, version: u64) {
        let Tag { id, version } = tag(version);
        let local = Local { handle: found.handle.clone(), stamp: found.stamp, version, settled: true };
        let mut batch = fence.shelf.batch();
        batch.set_local(id, Some(local));
        fence.shelf.commit(batch, false).wait().unwrap();
    }

    /// R21.
    #[test]
    fn which_version_a_file_is_is_remembered_until_something_is_committed() {
        let base = tempfile::tempdir_in("/dev/shm").unwrap();
        let spec = RootSpec {
            path: base.path().canonicalize().unwrap(),
            share: "eng".parse().unwrap(),
            site: "hq".parse().unwrap(),
            marker: None,
        };
        let disk = Arc::new(Disk::open(&spec, Arc::new(Later)).unwrap());
        let catalog = Catalog::in_memory(&Default::default()).unwrap();
        let shelf = catalog.share(&spec.share).unwrap();
        let fence = Fenceline::new(disk.clone(), shelf);
        let path = RelPath::parse(b"file").unwrap();
        std::fs::write(base.path().join("file"), "one").unwrap();
        let first = disk.by_names(&path).unwrap();
        assert_eq!(fence.proven(&path), None, "the catalog does not know it");
        for version in [1, 2] {
            proof_of(&fence, &first, version);
            for _ in 0..2 {
                assert_eq!(fence.proven(&path), Some((first.clone(), tag(version))));
                assert!(fence.is_still(&path, &first));
            }
        }
        // Another file is there, of which nothing is committed.
        std::fs::write(base.path().join("other"), "two").unwrap();
        std::fs::rename(base.path().join("other"), base.path().join("file")).unwrap();
        assert!(!fence.is_still(&path, &first));
        assert_eq!(fence.proven(&path), None);
        let second = disk.by_names(&path).unwrap();
        proof_of(&fence, &second, 3);
        assert_eq!(fence.proven(&path), Some((second.clone(), tag(3))));
        std::fs::remove_file(base.path().join("file")).unwrap();
        assert_eq!(fence.proven(&path), None);
    }
}
