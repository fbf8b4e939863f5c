//! The tree on real file systems: the one below /tmp, tmpfs, and small loop-mounted ones.

mod changing;
mod extra;
mod kept;
mod looking;
mod mounts;
mod paths;
mod random;
mod roots;
mod watch;
mod xfs;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::thread::CapabilitySet;
use tempfile::TempDir;

use super::*;
use crate::clock::{BootTime, Clock, WallTime};
use crate::id::Version;
use crate::object::{Kind, Timespec, Xattrs};

struct Noon;
impl Clock for Noon {
    fn boot(&self) -> BootTime {
        BootTime(Duration::from_secs(1))
    }
    fn wall(&self) -> WallTime {
        WallTime(1_795_262_400_000_000_000)
    }
}

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(Noon)
}

/// As a process without any capability.
const BARE: Limits = Limits { no_owners: true, no_devices: true, no_handles: true, no_trusted: true };

/// Whether this process may do all that root may; in many containers root may not.
fn is_root() -> bool {
    let needed = CapabilitySet::CHOWN | CapabilitySet::MKNOD | CapabilitySet::DAC_READ_SEARCH;
    rustix::process::geteuid().is_root() && may(needed)
}

/// Whether this process may set attributes of `trusted` and `security`, capabilities among them.
fn may_trusted() -> bool {
    may(CapabilitySet::SYS_ADMIN | CapabilitySet::SETFCAP)
}

fn may(needed: CapabilitySet) -> bool {
    rustix::thread::capabilities(None).unwrap().effective.contains(needed)
}

/// Whether files may have attributes of `user` there, as on tmpfs since Linux 6.6.
fn has_users_attributes(f: &Fixture) -> bool {
    let flags = rustix::fs::XattrFlags::empty();
    match rustix::fs::setxattr(f.outside(), "user.probe", b"x", flags) {
        Ok(()) => true,
        Err(rustix::io::Errno::OPNOTSUPP) => false,
        Err(error) => panic!("user.probe of {:?}: {error}", f.outside()),
    }
}

/// Says what is not tested here, past the harness, which keeps to itself what a test that passes prints.
pub(crate) fn skipped(what: impl std::fmt::Display) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a thread of a test");
    writeln!(std::io::stderr(), "skipped in {test}: {what}").unwrap();
}

/// What is logged while `what` runs, on this thread.
pub(crate) fn logged(what: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = Lines(lines.0.clone());
    let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
    tracing::subscriber::with_default(log.without_time().finish(), what);
    let bytes = lines.0.lock().unwrap();
    String::from_utf8(bytes.clone()).unwrap()
}

/// Where tests make their trees: the file systems here that have handles.
fn homes() -> impl Iterator<Item = &'static str> {
    let fit = |home: &&str| {
        let Ok(base) = TempDir::with_prefix_in("tree-", home) else { return false };
        match Disk::open(&spec(base.path()), clock()) {
            Ok(_) => true,
            Err(TreeError::NotTheShare { why, .. }) if why.contains("no file handles") => {
                skipped(format_args!("{home}: {why}"));
                false
            }
            Err(other) => panic!("{other}"),
        }
    };
    ["/tmp", "/dev/shm"].into_iter().filter(fit)
}

fn spec(path: &Path) -> RootSpec {
    RootSpec {
        path: path.into(),
        share: "eng".parse().unwrap(),
        site: "hq".parse().unwrap(),
        marker: None,
    }
}

struct Fixture {
    /// Holds `root` and `outside`.
    base: TempDir,
    root: PathBuf,
    disk: Disk,
}

impl Fixture {
    fn below(parent: &str) -> Self {
        let base = TempDir::with_prefix_in("tree-", parent).unwrap();
        let root = base.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::create_dir(base.path().join("outside")).unwrap();
        fs::write(base.path().join("outside/secret"), "secret").unwrap();
        let disk = Disk::open(&spec(&root), clock()).unwrap();
        Self { base, root, disk }
    }
    fn new() -> Self {
        Self::below(homes().next().expect("/tmp or /dev/shm must have file handles"))
    }
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }
    fn outside(&self) -> PathBuf {
        self.base.path().join("outside")
    }
    fn write(&self, path: &str, data: &str) {
        fs::write(self.path(path), data).unwrap();
    }
    fn mkdir(&self, path: &str) {
        fs::create_dir_all(self.path(path)).unwrap();
    }
    fn symlink(&self, target: &str, path: &str) {
        std::os::unix::fs::symlink(target, self.path(path)).unwrap();
    }
    fn root_dir(&self) -> Dir {
        self.disk.root().unwrap()
    }
    /// The directory at `path`, found step by step.
    fn dir(&self, path: &str) -> Dir {
        let mut dir = self.root_dir();
        for name in rel(path).names() {
            dir = self.disk.open_at(Spot::Entry(&dir, name)).unwrap().unwrap();
        }
        dir
    }
    fn look(&self, path: &str) -> Option<Found> {
        let (parent, name) = rel(path).split_last().map(|(p, n)| (p, n.clone())).unwrap();
        let parent = self.dir(std::str::from_utf8(&join(&parent)).unwrap());
        self.disk.look(Spot::Entry(&parent, &name)).unwrap()
    }
    fn found(&self, path: &str) -> Found {
        self.look(path).unwrap_or_else(|| panic!("{path} is missing"))
    }
    fn resolve(&self, path: &str, follow: bool) -> Resolved {
        self.disk.resolve(&rel(path), follow).unwrap()
    }
    /// Both ways of asking must agree (the second may need the disk).
    fn contains(&self, path: &str) -> Contains {
        let slow = self.disk.contains(&rel(path), false).unwrap();
        let quick = self.disk.contains(&rel(path), true).unwrap();
        assert!(quick == slow || quick == Contains::WouldBlock, "{path}: {quick:?} {slow:?}");
        assert_ne!(slow, Contains::WouldBlock);
        if let Some(found) = self.disk.by_names(&rel(path)) {
            assert_eq!(
                self.disk.reaches(&rel(path), false).unwrap(),
                (Contains::Inside, Some(found)),
                "{path}"
            );
        }
        slow
    }
}

/// Runs a test on the file system of /tmp and on tmpfs.
fn everywhere(test: impl Fn(&Fixture)) {
    let homes: Vec<_> = homes().collect();
    assert!(!homes.is_empty(), "/tmp or /dev/shm must have file handles");
    homes.into_iter().for_each(|home| test(&Fixture::below(home)));
}

fn join(path: &RelPath) -> Vec<u8> {
    path.names().iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/')
}

fn rel(path: &str) -> RelPath {
    RelPath::parse(path.as_bytes()).unwrap()
}

fn name(name: &str) -> Name {
    Name::new(name.as_bytes()).unwrap()
}

fn id(n: u8) -> ObjectId {
    ObjectId::from_bytes([n; 16])
}

fn attrs(mode: u32) -> Attrs {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Attrs { mode, uid, gid, mtime: Timespec { sec: 1_000_000_000, nsec: 123_456_789 } }
}

fn aside<'a>(name: &'a Name, path: Option<&'a RelPath>) -> Aside<'a> {
    Aside { name, path, reason: "changed behind the proxy" }
}

/// No extended attributes.
fn plain() -> Xattrs {
    Xattrs::default()
}

fn object(kind: Kind, attrs: Attrs) -> Object {
    Object {
        id: id(9),
        kind,
        attrs,
        xattrs: Default::default(),
        size: 0,
        rdev: 0,
        target: Vec::new(),
        version: Version(1),
        root: Hash::default(),
        ctime: Timespec::default(),
        seq: crate::id::Seq(1),
    }
}

fn errno<T: std::fmt::Debug>(result: Result<T>) -> i32 {
    match result {
        Err(TreeError::Io { source, .. }) => source.raw_os_error().unwrap(),
        other => panic!("{other:?}"),
    }
}

fn why<T>(result: Result<T>) -> String {
    match result {
        Err(error @ TreeError::NotTheShare { .. }) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was taken for the share"),
    }
}
