//! A share at its primary on a real disk with a real catalog: what happens to the directory, through
//! requests and behind nearshare's back, and what the journal says of it.

mod barriers;
mod changes;
mod contents;
mod crashes;
mod durable;
mod extra;
mod kept;
mod model;
mod names;
mod outside;
mod power;
mod restless;
mod scans;
mod storm;
mod unread;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

use super::*;
use crate::catalog::{Catalog, Change as Row, Options, Record};
use crate::clock::{BootTime, WallTime};
use crate::effect::Change;
use crate::id::{Epoch, Gen, Hash, Name, Position, Seq, Version};
use crate::object::{Local, Object};
use crate::tree::content::hash_bytes;
use crate::tree::{Disk, RootSpec};

/// Longest wait for what must happen by itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// The kernel's clocks; the time since boot may be set ahead, and the wall clock may stand still.
#[derive(Default)]
pub(super) struct TestClock {
    /// Since 1970; 0: it goes on.
    stands_at_ns: AtomicI64,
    /// Seconds.
    boot_ahead: AtomicU64,
}
impl TestClock {
    fn stand_at(&self, wall_ns: i64) {
        self.stands_at_ns.store(wall_ns, Ordering::SeqCst);
    }
    fn go_on(&self) {
        self.stand_at(0);
    }
    fn skip(&self, time: Duration) {
        self.boot_ahead.fetch_add(time.as_secs(), Ordering::SeqCst);
    }
}
impl Clock for TestClock {
    fn boot(&self) -> BootTime {
        let now = clock_gettime(ClockId::Boottime);
        let ahead = Duration::from_secs(self.boot_ahead.load(Ordering::SeqCst));
        BootTime(Duration::new(now.tv_sec as u64, now.tv_nsec as u32) + ahead)
    }
    fn wall(&self) -> WallTime {
        let stands_at = self.stands_at_ns.load(Ordering::SeqCst);
        if stands_at != 0 {
            return WallTime(stands_at);
        }
        let now = clock_gettime(ClockId::Realtime);
        WallTime(now.tv_sec * 1_000_000_000 + now.tv_nsec)
    }
}

/// One share; dropped without `stop`, it ends as in a crash of the process.
struct Site {
    base: Option<TempDir>,
    root: PathBuf,
    clock: Arc<TestClock>,
    catalog: Option<Arc<Catalog>>,
    shelf: Arc<Shelf>,
    disk: Arc<Disk>,
    notice: Arc<Notice<Disk>>,
}

fn spec(root: &Path, marker: Option<[u8; 16]>) -> RootSpec {
    RootSpec { path: root.into(), share: "eng".parse().unwrap(), site: "hq".parse().unwrap(), marker }
}

/// Content that takes some time to read, which holes do not.
fn slow(path: &Path, mib: usize) {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap();
    let piece = vec![1; 1 << 20];
    (0..mib).for_each(|_| std::io::Write::write_all(&mut file, &piece).unwrap());
}

impl Site {
    /// A share whose first scan has ended, with what `fill` puts there before it.
    async fn with(fill: impl FnOnce(&Path)) -> Self {
        let site = Self::unscanned(fill);
        site.quiet().await;
        site
    }

    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// With files of these contents, and with a directory for each name that ends in a slash.
    async fn with_files(files: &[(&str, &str)]) -> Self {
        Self::with(|root| {
            for (path, data) in files {
                let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
                fs::create_dir_all(root.join(dir)).unwrap();
                if !name.is_empty() {
                    fs::write(root.join(path), data).unwrap();
                }
            }
        })
        .await
    }

    fn unscanned(fill: impl FnOnce(&Path)) -> Self {
        Self::unscanned_in(std::env::temp_dir(), fill)
    }

    /// On the file system that `home` is of.
    fn unscanned_in(home: impl AsRef<Path>, fill: impl FnOnce(&Path)) -> Self {
        Self::unscanned_keeping(Kept::default(), home, fill)
    }

    fn unscanned_keeping(kept: Kept, home: impl AsRef<Path>, fill: impl FnOnce(&Path)) -> Self {
        let base = TempDir::with_prefix_in("notice-", home).unwrap();
        for dir in ["root", "outside", "state"] {
            fs::create_dir(base.path().join(dir)).unwrap();
        }
        fill(&base.path().join("root"));
        let catalog = Catalog::open(&base.path().join("state"), &Options::default()).unwrap();
        Self::keeping(kept, Some(base), catalog, "eng", None, "boot 1")
    }

    /// On a catalog that may hold several shares: `root` or `root-<share>` of its base.
    fn on(
        base: Option<TempDir>,
        catalog: Arc<Catalog>,
        share: &str,
        root: Option<PathBuf>,
        boot_id: &str,
    ) -> Self {
        Self::keeping(Kept::default(), base, catalog, share, root, boot_id)
    }

    fn keeping(
        kept: Kept,
        base: Option<TempDir>,
        catalog: Arc<Catalog>,
        share: &str,
        root: Option<PathBuf>,
        boot_id: &str,
    ) -> Self {
        let root = root.unwrap_or_else(|| base.as_ref().unwrap().path().join("root"));
        let shelf = catalog.share(&share.parse().unwrap()).unwrap();
        if shelf.head().incarnation == Hash::default() {
            let mut batch = shelf.batch();
            batch.new_incarnation(Epoch(1));
            shelf.commit(batch, true).wait().unwrap();
        }
        let clock = Arc::new(TestClock::default());
        let disk = Arc::new(Disk::open(&spec(&root, shelf.meta().marker), clock.clone()).unwrap());
        let marker = disk.marker();
        let mut batch = shelf.batch();
        batch.set_meta(move |meta| meta.marker = Some(marker));
        // As whoever opens a share does: the root has its id before anything is noticed.
        let found = disk.dir_found(&disk.root().unwrap()).unwrap();
        if shelf.local(ObjectId::ROOT).unwrap().is_none() {
            let (handle, stamp) = (found.handle, found.stamp);
            let local = Local { handle, stamp, version: Version(1), settled: false };
            batch.set_local(ObjectId::ROOT, Some(local));
        }
        shelf.commit(batch, true).wait().unwrap();
        let boot_id = boot_id.to_owned();
        let config = Config { share: share.parse().unwrap(), key: [7; 32], boot_id, kept };
        let notice =
            Notice::start(config, Terms::default(), shelf.clone(), disk.clone(), clock.clone()).unwrap();
        Self { base, root, clock, catalog: Some(catalog), shelf, disk, notice }
    }

    /// Ends the process's share, by a crash or cleanly, lets `meanwhile` happen and starts it again.
    async fn restart(mut self, clean: bool, boot_id: &str, meanwhile: impl FnOnce(&Path)) -> Self {
        let base = self.base.take();
        let root = self.root.clone();
        self.notice.stop();
        self.notice.join();
        if clean {
            let mut batch = self.shelf.batch();
            batch.set_meta(|meta| meta.clean = true);
            self.shelf.commit(batch, true).await.unwrap();
        }
        let catalog = self.catalog.take().unwrap();
        drop(self);
        meanwhile(&root);
        Self::on(base, catalog, "eng", Some(root), boot_id)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
    fn outside(&self, path: &str) -> PathBuf {
        self.base.as_ref().unwrap().path().join("outside").join(path)
    }
    fn write(&self, path: &str, data: impl AsRef<[u8]>) {
        fs::write(self.at(path), data).unwrap();
    }

    async fn begin(&self, paths: &[&str]) -> Ticket<Disk> {
        self.notice.begin(&self.change(paths), None).await.unwrap()
    }

    fn change(&self, paths: &[&str]) -> Change {
        let target =
            |path: &&str| Target { path: RelPath::parse(path.as_bytes()).unwrap(), reach: Reach::Entry };
        Change { share: self.notice.share().clone(), targets: paths.iter().map(target).collect() }
    }

    /// A change that the server carries out: `what` between mark and answer, then looked at.
    async fn relay(&self, paths: &[&str], what: impl FnOnce(&Self)) -> Vec<(Touch, Gen)> {
        let ticket = self.begin(paths).await;
        what(self);
        ticket.answered(false).await.unwrap()
    }

    async fn flush(&self) {
        self.notice.flush().await.unwrap();
    }

    fn scanning(&self) -> bool {
        self.notice.scan_wanted.load(Ordering::SeqCst) || lock(&self.notice.standing).scan.is_some()
    }

    /// Waits until nothing is left to look at but changes in doubt.
    async fn quiet(&self) {
        self.until("all is looked at", || {
            let standing = self.notice.standing();
            !self.scanning() && standing.marks == standing.suspects && standing.stopped.is_none()
        })
        .await;
    }

    /// Waits for what happens by itself, as the worker's own pace has it.
    async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let began = Instant::now();
        loop {
            if done() {
                // Behind everything that the worker had begun when it looked done.
                if self.notice.standing().stopped.is_none() {
                    self.flush().await;
                }
                if done() {
                    return;
                }
            }
            assert!(
                began.elapsed() < PATIENCE,
                "waited for: {what}; {:?}; {:?}",
                self.notice.standing(),
                lock(&self.notice.table)
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn rescan(&self) {
        self.notice.rescan();
        self.quiet().await;
    }

    fn head(&self) -> Seq {
        self.shelf.head().at.seq
    }

    fn records(&self, after: Seq) -> Vec<Record> {
        self.shelf.records_after(after, usize::MAX, usize::MAX).unwrap()
    }

    /// The changes since, without the attributes of directories.
    fn news(&self, after: Seq) -> Vec<Row> {
        let rows = self.records(after).into_iter().flat_map(|record| record.changes);
        rows.filter(
            |row| !matches!(row, Row::Put(object) if object.kind == crate::object::Kind::Directory),
        )
        .collect()
    }

    fn id(&self, path: &str) -> Option<ObjectId> {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        path.names().iter().try_fold(ObjectId::ROOT, |dir, name| self.shelf.child(dir, name).unwrap())
    }
    fn object(&self, path: &str) -> Object {
        let id = self.id(path).unwrap_or_else(|| panic!("{path} is not in the catalog"));
        self.shelf.object(id).unwrap().unwrap()
    }
    fn entry(&self, dir: &str, name: &str) -> Touch {
        Touch::Entry(self.id(dir).unwrap(), self::name(name))
    }
    fn marked(&self, touch: &Touch) -> Option<Gen> {
        self.shelf.marks().unwrap().into_iter().find(|(known, _)| known == touch).map(|(_, g)| g)
    }
    fn has(&self, path: &str, data: impl AsRef<[u8]>) -> bool {
        self.object(path).root == hash_bytes(data.as_ref()).root
    }
    /// The catalog is what the disk is, and the journal alone leads to it.
    fn agrees(&self) {
        model::agrees(&self.shelf, &*self.disk);
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.notice.stop();
        self.notice.join();
    }
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn is_removal(row: &Row) -> bool {
    matches!(row, Row::Unlink { .. } | Row::Gone { .. })
}

/// Longer than the time stamps' granularity.
async fn granule() {
    tokio::time::sleep(Duration::from_millis(30)).await;
}
