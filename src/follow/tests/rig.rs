//! A copy without a link: the applier on a real disk and a real catalog, driven step by step.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use super::faulty::Faulty;
use super::share::Share;
use crate::catalog::{Catalog, Inline, Options, Record, Shelf, Touch};
use crate::clock::{BootTime, Clock, WallTime};
use crate::follow::applier::{Applier, Arrived, Job, Step};
use crate::follow::fetch::{Asked, Small, put_aside};
use crate::follow::owed::Lane;
use crate::follow::{Config, Follow, Result, lock};
use crate::id::{Gen, ObjectId, Version};
use crate::object::{Kind, Xattrs};
use crate::tree::{Disk, RootSpec};

#[derive(Default)]
pub struct Hand(AtomicU64);
impl Hand {
    pub fn on(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}
impl Clock for Hand {
    fn boot(&self) -> BootTime {
        BootTime(Duration::from_secs(self.0.load(Ordering::SeqCst)))
    }
    fn wall(&self) -> WallTime {
        WallTime(1_795_262_400_000_000_000)
    }
}

pub struct Rig {
    pub root: PathBuf,
    pub state: PathBuf,
    pub clock: Arc<Hand>,
    pub live: Option<Live>,
    _base: Option<tempfile::TempDir>,
}

/// What a crash takes away.
pub struct Live {
    pub follow: Arc<Follow<Faulty>>,
    pub applier: Applier<Faulty>,
    pub shelf: Arc<Shelf>,
    inbox: tokio::sync::mpsc::Receiver<Job>,
    _catalog: Arc<Catalog>,
}

impl Rig {
    /// An empty copy that has not heard of the primary yet.
    pub fn bare() -> Self {
        let base = tempfile::tempdir_in("/dev/shm").unwrap();
        let (root, state) = (base.path().join("root"), base.path().join("state"));
        fs::create_dir(&root).unwrap();
        Self::on(root, state, Some(base))
    }
    pub fn on(root: PathBuf, state: PathBuf, base: Option<tempfile::TempDir>) -> Self {
        let mut rig = Self { root, state, clock: Arc::default(), live: None, _base: base };
        rig.open();
        rig.applier().take_up().unwrap();
        rig
    }
    /// A copy that has compared with the primary as it is.
    pub fn new(share: &mut Share) -> Self {
        let mut rig = Self::bare();
        rig.compare(share);
        rig.pay_all(share);
        share.records.clear();
        rig
    }

    /// What the process does first after a start, but for `take_up`.
    pub fn open(&mut self) {
        assert!(self.live.is_none());
        let spec = RootSpec {
            path: self.root.clone(),
            share: "eng".parse().unwrap(),
            site: "lyon".parse().unwrap(),
            marker: None,
        };
        let disk = Disk::open(&spec, self.clock.clone()).unwrap();
        let catalog = Catalog::open(&self.state, &Options::default()).unwrap();
        let shelf = catalog.share(&"eng".parse().unwrap()).unwrap();
        let config = Config { share: "eng".parse().unwrap(), primary: "hq".parse().unwrap() };
        let tree = Arc::new(Faulty::new(disk));
        let (follow, inbox) = Follow::take_up(config, shelf.clone(), tree, self.clock.clone()).unwrap();
        let applier = Applier::new(follow.clone());
        self.live = Some(Live { follow, applier, shelf, inbox, _catalog: catalog });
    }
    /// The process dies without a word.
    pub fn crash(&mut self) {
        self.live = None;
    }
    pub fn restart(&mut self) {
        self.crash();
        self.open();
        self.applier().take_up().unwrap();
    }

    pub fn live(&mut self) -> &mut Live {
        self.live.as_mut().unwrap()
    }
    pub fn applier(&mut self) -> &mut Applier<Faulty> {
        &mut self.live().applier
    }
    pub fn follow(&self) -> &Arc<Follow<Faulty>> {
        &self.live.as_ref().unwrap().follow
    }
    pub fn shelf(&self) -> &Shelf {
        &self.live.as_ref().unwrap().shelf
    }
    pub fn tree(&self) -> &Faulty {
        &self.follow().tree
    }

    // ---- jobs

    pub fn try_job(&mut self, job: Job) -> Result<()> {
        let mut step = Step::Job(job);
        self.try_step(&mut step)
    }
    pub fn try_step(&mut self, step: &mut Step) -> Result<()> {
        self.applier().step(step)
    }
    pub fn job(&mut self, job: Job) {
        self.try_job(job).unwrap();
    }
    /// What others than the test have asked of the applier.
    pub fn pump(&mut self) {
        while let Ok(job) = self.live().inbox.try_recv() {
            self.job(job);
        }
    }
    pub fn records(records: Vec<Record>, inline: Vec<Inline>) -> Job {
        let (done, _) = oneshot::channel();
        let mut records: Vec<(Record, Vec<Inline>)> =
            records.into_iter().map(|record| (record, Vec::new())).collect();
        if let Some(last) = records.last_mut() {
            last.1 = inline;
        }
        Job::Records(records, done)
    }
    /// Publishes what changed and applies all that is published; contents are not sent.
    pub fn feed(&mut self, share: &mut Share) {
        share.publish();
        let records = std::mem::take(&mut share.records);
        self.job(Self::records(records, Vec::new()));
    }
    /// What the fetcher would ask, and get.
    pub fn fetch(&mut self, share: &Share, most: usize) -> Vec<Arrived> {
        let mut wants = lock(&self.follow().owed).ask(Lane::Small, most, u64::MAX);
        wants.extend(lock(&self.follow().owed).ask(Lane::Large, most, u64::MAX));
        let mut arrived = Vec::new();
        for (id, version) in wants {
            let want = Asked::of(self.follow(), id, version).unwrap().want;
            let Some(object) =
                share.objects.get(&id).filter(|_| want.only || share.data.contains_key(&id))
            else {
                lock(&self.follow().owed).give_back(id);
                continue;
            };
            assert!(object.version >= version);
            let set = share.xattrs.get(&id).filter(|_| want.xattrs && object.xattrs.is_apart());
            let data = (!want.only).then(|| share.data[&id].clone());
            arrived.extend(self.come(Small { id, version: object.version, xattrs: set.cloned(), data }));
        }
        arrived
    }
    pub fn whole(&self, id: ObjectId, version: Version, data: &bytes::Bytes) -> Option<Arrived> {
        self.come(Small { id, version, xattrs: None, data: Some(data.clone()) })
    }
    /// As the fetcher puts it aside; `None` if there is no room.
    fn come(&self, small: Small) -> Option<Arrived> {
        let id = small.id;
        let (mut arrived, done) = put_aside(self.follow(), vec![small]);
        done.unwrap();
        let arrived = arrived.pop();
        if arrived.is_none() {
            lock(&self.follow().owed).give_back(id);
        }
        arrived
    }
    pub fn pay(&mut self, share: &Share, most: usize) -> usize {
        let arrived = self.fetch(share, most);
        let many = arrived.len();
        self.job(Job::Contents(arrived));
        many
    }
    pub fn pay_all(&mut self, share: &Share) {
        while self.pay(share, 256) > 0 {}
    }
    /// All of it: records, contents.
    pub fn follow_all(&mut self, share: &mut Share) {
        self.feed(share);
        self.pay_all(share);
    }
    pub fn compare(&mut self, share: &mut Share) {
        self.start_compare(share);
        let (_, entries) = share.snapshot();
        let many = if entries.len() > 1000 { 256 } else { 3 };
        for some in entries.chunks(many) {
            self.job(Job::CompareEntries(some.to_vec()));
        }
        let (done, _) = oneshot::channel();
        self.job(Job::CompareEnd(done));
    }
    pub fn start_compare(&mut self, share: &mut Share) {
        share.publish();
        share.records.clear();
        let (root, entries) = share.snapshot();
        let head = share.shelf.head();
        self.job(Job::CompareStart(Box::new((head, root, entries.len() as u64))));
    }
    /// A stream is open and nothing is in force.
    pub fn in_force(&mut self) {
        self.job(Job::Accepted);
        self.job(Job::InForce(Vec::new(), Gen(0)));
    }
    /// A second later: marks are swept.
    pub fn idle(&mut self) {
        self.clock.on(2);
        self.try_step(&mut Step::Idle).unwrap();
    }

    // ---- looking

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
    pub fn read(&self, path: &str) -> String {
        String::from_utf8(fs::read(self.path(path)).unwrap()).unwrap()
    }
    pub fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }
    /// What was moved aside, by what it holds.
    pub fn kept(&self) -> Vec<String> {
        let Ok(kept) = fs::read_dir(self.path(".nearshare/kept")) else { return Vec::new() };
        let mut kept: Vec<String> = kept
            .map(|dir| {
                let data = dir.unwrap().path().join("data");
                match data.is_dir() {
                    true => list(&data).join(" "),
                    false => fs::read_to_string(&data).unwrap_or_else(|_| "?".into()),
                }
            })
            .collect();
        kept.sort();
        kept
    }
    pub fn park(&self) -> Vec<String> {
        list(&self.path(".nearshare/park"))
    }

    /// The copy is what the share is, and nothing is left to be done.
    pub fn assert_settled(&mut self, share: &Share) {
        self.idle();
        self.assert_same(share);
        let marks: Vec<Touch> =
            self.shelf().marks().unwrap().into_iter().map(|(touch, _)| touch).collect();
        assert!(marks.is_empty(), "marks {marks:?}");
        assert_eq!(self.park(), [""; 0], "park");
        assert_eq!(list(&self.path(".nearshare/tmp")), [""; 0], "tmp");
        assert_eq!(self.shelf().debt_totals(), (0, 0), "debts");
        assert!(lock(&self.follow().owed).is_empty());
        let stock = &self.applier().stock;
        assert!(
            stock.ready.is_empty()
                && stock.xattrs.is_empty()
                && stock.park.is_empty()
                && stock.seen_at.is_empty(),
            "{stock:?}"
        );
    }

    /// The copy is what the share is, contents that are awaited included.
    pub fn assert_same(&self, share: &Share) {
        let mut inodes: HashMap<ObjectId, u64> = HashMap::new();
        let mut seen: BTreeMap<PathBuf, ObjectId> = BTreeMap::new();
        self.assert_dir(share, ObjectId::ROOT, &self.root, &mut inodes, &mut seen);
        let placed = share.objects.keys().filter(|id| share.is_below(**id, ObjectId::ROOT)).count();
        assert_eq!(inodes.len(), placed, "objects on the disk");
        for (path, id) in seen {
            let links = share.links(id).len();
            if share.objects[&id].kind != Kind::Directory {
                assert_eq!(path.symlink_metadata().unwrap().nlink(), links as u64, "{path:?}");
            }
        }
    }

    fn assert_dir(
        &self,
        share: &Share,
        id: ObjectId,
        path: &Path,
        inodes: &mut HashMap<ObjectId, u64>,
        seen: &mut BTreeMap<PathBuf, ObjectId>,
    ) {
        self.assert_one(share, id, path, inodes);
        let want: Vec<String> = share
            .children(id)
            .iter()
            .map(|(name, _)| name.as_bytes().escape_ascii().to_string())
            .collect();
        let mut want = want;
        want.sort();
        assert_eq!(list(path), want, "names in {path:?}");
        for (name, child) in share.children(id) {
            let path = path.join(name.as_os_str());
            seen.insert(path.clone(), child);
            if share.objects[&child].kind == Kind::Directory {
                self.assert_dir(share, child, &path, inodes, seen);
            } else {
                self.assert_one(share, child, &path, inodes);
            }
        }
    }

    fn assert_one(&self, share: &Share, id: ObjectId, path: &Path, inodes: &mut HashMap<ObjectId, u64>) {
        let (want, found) = (&share.objects[&id], path.symlink_metadata().unwrap());
        let kind = found.file_type();
        let is = match want.kind {
            Kind::File => kind.is_file(),
            Kind::Directory => kind.is_dir(),
            Kind::Symlink => kind.is_symlink(),
            Kind::Fifo => kind.is_fifo(),
            Kind::Socket => kind.is_socket(),
            Kind::Block => kind.is_block_device(),
            Kind::Char => kind.is_char_device(),
        };
        assert!(is, "{path:?} is no {:?}", want.kind);
        if want.kind == Kind::File {
            assert_eq!(fs::read(path).unwrap(), share.data[&id], "content of {path:?}");
        }
        if want.kind == Kind::Symlink {
            assert_eq!(fs::read_link(path).unwrap().as_os_str().as_bytes(), want.target);
        }
        assert_eq!(found.rdev(), want.rdev, "{path:?}");
        let attrs = (found.mode() & 0o7777, found.uid(), found.gid());
        assert_eq!(attrs, (want.attrs.mode, want.attrs.uid, want.attrs.gid), "{path:?}");
        let mtime = (found.mtime(), found.mtime_nsec());
        assert_eq!(mtime, (want.attrs.mtime.sec, i64::from(want.attrs.mtime.nsec)), "mtime of {path:?}");
        let none = Xattrs::default();
        let xattrs = share.xattrs.get(&id).unwrap_or(&none);
        assert!(xattrs_of(path) == *xattrs, "attributes of {path:?}");
        let inode = *inodes.entry(id).or_insert(found.ino());
        assert_eq!(inode, found.ino(), "{path:?} is another inode than its other names");
    }
}

/// Those that travel, read without any of our own code.
pub fn xattrs_of(path: &Path) -> Xattrs {
    let mut names = vec![0; 1 << 16];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let mut found = Xattrs::default();
    for name in names[..len].split(|byte| *byte == 0).filter(|name| Xattrs::is_carried(name)) {
        let mut value = vec![0; 1 << 16];
        let len =
            rustix::fs::lgetxattr(path, std::ffi::OsStr::from_bytes(name), &mut value[..]).unwrap();
        value.truncate(len);
        found.insert(name.to_vec(), value);
    }
    found
}

/// The names in a directory but ours.
pub fn list(path: &Path) -> Vec<String> {
    let names = fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<String> = names
        .filter(|name| name != ".nearshare")
        .map(|name| name.as_bytes().escape_ascii().to_string())
        .collect();
    names.sort();
    names
}
