//! [`Disk`]: a share's directory on a real Linux file system (ext4, xfs, btrfs, tmpfs, overlayfs
//! with `nfs_export=on`). Everything goes through the root's descriptor that was opened and checked
//! once; the configured path is only ever looked at again by `check`, `contains` and `by_names`.
//!
//! File systems mounted below the root are not entered: they are in no look, a warning names the first one
//! that is met, and `left_out` all.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use tracing::warn;

use super::content::Sparse;
use super::handle::Handle;
use super::look::{self, Leaf, Seen, absent};
use super::marker::{self, io_error, not};
use super::names::ByNames;
use super::{
    Alive, Aside, Contains, Leftovers, Limits, Place, Resolved, Result, RootSpec, Spot, Tree, TreeError,
    Unwatched, Used, Watcher, Whereabouts, mounts, xattr,
};
use crate::clock::Clock;
use crate::id::{Name, ObjectId, RelPath};
use crate::object::{Attrs, Found, LocalHandle, Object, Stamp, Xattrs};

/// Pairs of seeks for one range: a range that becomes a hole between the two is rare, and a file system that
/// always says so must not hold whoever reads for ever.
pub(super) const SEEKS: usize = 8;

/// A share's directory on this machine.
pub struct Disk {
    pub(super) spec: RootSpec,
    pub(super) marker: [u8; 16],
    /// Readable: `open_by_handle_at` and `syncfs` take no `O_PATH` descriptor.
    pub(super) root: OwnedFd,
    /// `.nearshare`, which only we may enter.
    pub(super) ours: OwnedFd,
    pub(super) root_identity: (u32, u32, u64),
    ours_identity: (u32, u32, u64),
    /// Where the kernel says the root is, to tell paths below it. A hint: the root may be moved.
    pub(super) root_path: Vec<u8>,
    by_names: Option<ByNames>,
    pub(super) limits: Limits,
    pub(super) clock: Arc<dyn Clock>,
    /// Whether the warning of a mount inside the share has been given.
    warned: AtomicBool,
    /// What is kept aside, as far as it has been counted.
    pub(super) kept_count: AtomicU64,
}

/// An open directory, good for looking and for naming entries. It stays the same directory when it
/// is moved.
pub struct Dir(pub(super) OwnedFd);

/// An entry as the kernel wants it.
pub(super) struct At<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) leaf: Leaf,
}

impl Disk {
    /// Opens and checks the directory of `spec`; makes the marker on the first start.
    ///
    /// # Errors
    /// `NotTheShare` as for `check`, and where the file system has no file handles.
    pub fn open(spec: &RootSpec, clock: Arc<dyn Clock>) -> Result<Self> {
        let capable = rustix::thread::capabilities(None)
            .map_err(|e| io_error("read this process's capabilities for", &spec.path, e.into()))?
            .effective;
        let limits = Limits {
            no_owners: !capable.contains(CapabilitySet::CHOWN),
            no_devices: !capable.contains(CapabilitySet::MKNOD),
            no_trusted: !capable.contains(CapabilitySet::SYS_ADMIN),
            no_handles: false,
        };
        Self::open_with(spec, clock, limits)
    }

    /// As if this process had no more rights than `limits` says.
    pub(super) fn open_with(spec: &RootSpec, clock: Arc<dyn Clock>, limits: Limits) -> Result<Self> {
        let root = open_root(spec, OFlags::RDONLY)?;
        let stat = look::stat(root.as_fd(), c"").map_err(|e| io_error("stat", &spec.path, e))?;
        let limits = probe_handles(root.as_fd(), spec, limits)?;
        let (ours, marker) = marker::open(root.as_fd(), spec)?;
        let own = look::stat(ours.as_fd(), c"").map_err(|e| io_error("stat", &spec.path, e))?;
        let root_path =
            fd_path(root.as_fd()).unwrap_or_else(|_| spec.path.as_os_str().as_bytes().into());
        Ok(Self {
            spec: spec.clone(),
            marker,
            root_identity: look::identity(&stat),
            by_names: ByNames::new(&spec.path, &root_path, root.as_fd()),
            ours_identity: look::identity(&own),
            root_path,
            root,
            ours,
            limits,
            clock,
            warned: AtomicBool::new(false),
            kept_count: AtomicU64::new(0),
        })
    }

    /// Whether a server that comes by the path comes here. Where the file system is not mounted it finds an empty
    /// directory, and would say of everything that it is not there.
    fn is_in_place(&self) -> bool {
        let (flags, mask) = (AtFlags::NO_AUTOMOUNT, StatxFlags::INO);
        let found = rustix::fs::statx(CWD, &self.spec.path, flags, mask);
        found.is_ok_and(|found| look::identity(&found) == self.root_identity)
    }

    /// What a server would come to at `path`, or why it would not.
    fn held(&self, path: &RelPath, cached: bool) -> Result<std::result::Result<OwnedFd, Contains>> {
        if !self.is_in_place() {
            if cached {
                return Ok(Err(Contains::WouldBlock));
            }
            self.check()?;
        }
        self.holds(path, cached).map_err(|e| self.fail_path("resolve", path, e))
    }

    /// `None` for `.nearshare`, which is nobody's entry.
    pub(super) fn at<'a>(&'a self, spot: Spot<'a, Dir>) -> Option<At<'a>> {
        Some(match spot {
            Spot::Entry(_, name) if name.is_ours() => return None,
            Spot::Entry(dir, name) => At { dir: dir.0.as_fd(), leaf: Leaf::of(name) },
            Spot::Itself(dir) => At { dir: dir.0.as_fd(), leaf: Leaf::join(b"", b".") },
            Spot::Park(id) => At { dir: self.ours.as_fd(), leaf: id_leaf(b"park/", id) },
            Spot::Tmp(id) => At { dir: self.ours.as_fd(), leaf: id_leaf(b"tmp/", id) },
        })
    }

    /// The part of an open inode's path below the root, where the kernel knows one. `Some` is a
    /// hint: it may be stale or, on a bind mount, another place of the same name.
    pub(super) fn path_below(&self, fd: BorrowedFd<'_>) -> Option<RelPath> {
        let path = fd_path(fd).ok()?;
        let root = self.root_path.strip_suffix(b"/").unwrap_or(&self.root_path);
        let rest = path.strip_prefix(root)?.strip_prefix(b"/")?;
        RelPath::parse(rest).ok().filter(|path| !path.is_root())
    }

    /// Whether an open directory is the root, or below it and not kept aside.
    fn is_below(&self, fd: BorrowedFd<'_>, identity: (u32, u32, u64)) -> io::Result<bool> {
        if identity == self.root_identity {
            return Ok(true);
        }
        if let Some(path) = self.path_below(fd).filter(|path| !path.has_ours()) {
            match self.descend(&path, OFlags::PATH | OFlags::DIRECTORY) {
                Ok(there) if look::identity(&look::stat(there.as_fd(), c"")?) == identity => {
                    return Ok(true);
                }
                // A file system is mounted above it: what it hides is not in the share.
                Err(error) if error.raw_os_error() == Some(libc::EXDEV) => return Ok(false),
                _ => {}
            }
        }
        self.climbs_to_root(fd, identity)
    }

    /// Follows `..` to the root: for paths that are too long for the kernel, have just changed, or
    /// lie in the park.
    fn climbs_to_root(&self, fd: BorrowedFd<'_>, mut child: (u32, u32, u64)) -> io::Result<bool> {
        /// Deeper than any tree that a client can make through a 4096 byte path.
        const CLIMB_MAX: usize = 65_536;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let kept = look::stat(self.ours.as_fd(), c"kept").map(|stat| look::identity(&stat)).ok();
        let mut fd = fd.try_clone_to_owned()?;
        for _ in 0..CLIMB_MAX {
            if Some(child) == kept {
                return Ok(false);
            }
            let parent = match rustix::fs::openat(&fd, c"..", flags, Mode::empty()) {
                // It has been deleted, or lies outside what a bind mount shows.
                Err(Errno::NOENT) => return Ok(false),
                other => other?,
            };
            let identity = look::identity(&look::stat(parent.as_fd(), c"")?);
            if identity == self.root_identity {
                return Ok(true);
            }
            if identity == child {
                return Ok(false);
            }
            (fd, child) = (parent, identity);
        }
        Ok(false)
    }

    /// Opens `path` below the root through no link and over no mount point.
    pub(super) fn descend(&self, path: &RelPath, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = path.to_os_path();
        look::retry(|| rustix::fs::openat2(&self.root, &path, flags, Mode::empty(), look::STEP))
    }

    fn open_by_handle(&self, handle: &Handle) -> io::Result<Option<OwnedFd>> {
        let fd = handle.open(self.root.as_fd(), libc::O_DIRECTORY);
        let Some(fd) = absent(fd)? else { return Ok(None) };
        let stat = look::stat(fd.as_fd(), c"")?;
        let found = stat.stx_nlink > 0 && self.is_below(fd.as_fd(), look::identity(&stat))?;
        Ok(found.then_some(fd))
    }

    /// As [`Tree::whereabouts`].
    fn place(&self, handle: &Handle) -> io::Result<Whereabouts> {
        let fd = match absent(handle.open(self.root.as_fd(), libc::O_DIRECTORY))? {
            Some(fd) => fd,
            None => return Ok(Whereabouts::Elsewhere),
        };
        let stat = look::stat(fd.as_fd(), c"")?;
        let identity = look::identity(&stat);
        if identity == self.root_identity {
            return Ok(Whereabouts::Inside(RelPath::ROOT));
        }
        let path = self.path_below(fd.as_fd());
        if path.as_ref().is_some_and(RelPath::has_ours) || !self.is_below(fd.as_fd(), identity)? {
            return Ok(Whereabouts::Elsewhere);
        }
        let proven = match &path {
            Some(path) => self.open_by_path(handle, path)?.is_some(),
            None => false,
        };
        Ok(path.filter(|_| proven).map_or(Whereabouts::Somewhere, Whereabouts::Inside))
    }

    fn open_by_path(&self, handle: &Handle, path: &RelPath) -> io::Result<Option<OwnedFd>> {
        let fd = absent(self.descend(path, OFlags::PATH | OFlags::DIRECTORY))?;
        let Some(fd) = fd else { return Ok(None) };
        let same = Handle::of(fd.as_fd(), c"")? == *handle;
        Ok(same.then_some(fd))
    }

    /// Names a spot in an error.
    pub(super) fn name(&self, spot: Spot<'_, Dir>) -> String {
        match spot {
            Spot::Entry(dir, name) => format!("{}/{name}", self.name_dir(dir.0.as_fd())),
            Spot::Itself(dir) => self.name_dir(dir.0.as_fd()),
            Spot::Park(id) => format!("{}/.nearshare/park/{id}", self.spec.path.display()),
            Spot::Tmp(id) => format!("{}/.nearshare/tmp/{id}", self.spec.path.display()),
        }
    }

    pub(super) fn name_dir(&self, dir: BorrowedFd<'_>) -> String {
        match fd_path(dir) {
            Ok(path) => path.escape_ascii().to_string(),
            Err(_) => format!("{}/(deep)", self.spec.path.display()),
        }
    }

    pub(super) fn fail(&self, what: &'static str, spot: Spot<'_, Dir>, source: io::Error) -> TreeError {
        TreeError::Io { what, path: self.name(spot), source }
    }

    fn fail_attrs(&self, what: &'static str, spot: Spot<'_, Dir>, source: io::Error) -> TreeError {
        let (what, source) = xattr::failed(what, source);
        self.fail(what, spot, source)
    }

    fn fail_dir(&self, what: &'static str, dir: BorrowedFd<'_>, source: io::Error) -> TreeError {
        TreeError::Io { what, path: self.name_dir(dir), source }
    }

    pub(super) fn fail_root(&self, what: &'static str, source: io::Error) -> TreeError {
        io_error(what, &self.spec.path, source)
    }

    fn handle(&self, handle: &LocalHandle) -> Result<Handle> {
        Handle::from_local(handle)
            .ok_or_else(|| self.fail_root("use a file handle of another release for", invalid()))
    }

    fn leftover(&self, room: &std::ffi::CStr) -> Result<Vec<ObjectId>> {
        let names = look::open(self.ours.as_fd(), room, OFlags::PATH | OFlags::DIRECTORY)
            .and_then(|dir| look::names(dir.as_fd()))
            .map_err(|e| self.fail_root("list .nearshare of", e))?;
        let id = |name: &Name| marker::unhex(name.as_bytes()).map(ObjectId::from_bytes);
        Ok(names.iter().filter_map(id).collect())
    }
}

impl Tree for Disk {
    type Dir = Dir;
    type File = File;
    type Stage = File;

    fn marker(&self) -> [u8; 16] {
        self.marker
    }

    fn check(&self) -> Result<()> {
        let spec = &self.spec;
        let now = open_root(spec, OFlags::PATH)?;
        let now = now.as_fd();
        marker::judge(now, spec, self.marker, marker::read(now, &spec.path)?)?;
        let stat = |name| look::stat(now, name).map_err(|e| io_error("stat", &spec.path, e));
        if look::identity(&stat(c"")?) != self.root_identity {
            let why = "another directory with the same marker is at this path now, such as a copy or \
                       a remounted file system: restart nearshare to take it";
            return Err(not(spec, why.into()));
        }
        if look::identity(&stat(c".nearshare")?) != self.ours_identity {
            return Err(not(spec, "its .nearshare was replaced: restart nearshare to take it".into()));
        }
        Ok(())
    }

    fn root(&self) -> Result<Dir> {
        let fd = look::open(self.root.as_fd(), c".", OFlags::PATH | OFlags::DIRECTORY);
        fd.map(Dir).map_err(|e| self.fail_root("open", e))
    }

    fn open_dir(&self, place: &Place<'_>) -> Result<Option<Dir>> {
        let handle = self.handle(place.handle)?;
        let fd = if self.limits.no_handles {
            match (place.path)() {
                Some(path) => self.open_by_path(&handle, &path),
                None => Ok(None),
            }
        } else {
            self.open_by_handle(&handle)
        };
        fd.map(|fd| fd.map(Dir)).map_err(|e| self.fail_root("open a directory below", e))
    }

    fn dir_found(&self, dir: &Dir) -> Result<Found> {
        look::inode(dir.0.as_fd()).map_err(|e| self.fail_dir("stat", dir.0.as_fd(), e))
    }

    fn look(&self, spot: Spot<'_, Dir>) -> Result<Option<Found>> {
        let Some(at) = self.at(spot) else { return Ok(None) };
        let seen = look::entry(at.dir, at.leaf.as_c_str());
        let seen = seen.map_err(|e| self.fail("look at", spot, e))?;
        if matches!(seen, Seen::Mount) && !self.warned.swap(true, Relaxed) {
            let path = self.name(spot);
            warn!(path, "another file system is mounted in the share; such are not copied");
        }
        Ok(seen.found())
    }

    fn list(&self, dir: &Dir) -> Result<Vec<Name>> {
        look::names(dir.0.as_fd()).map_err(|e| self.fail_dir("list", dir.0.as_fd(), e))
    }

    fn open_file(&self, spot: Spot<'_, Dir>) -> Result<Option<File>> {
        let Some(at) = self.at(spot) else { return Ok(None) };
        look::file(at.dir, at.leaf.as_c_str()).map_err(|e| self.fail("open", spot, e))
    }

    fn file_found(&self, file: &File) -> Result<Found> {
        look::inode(file.as_fd()).map_err(|e| self.fail_dir("stat", file.as_fd(), e))
    }

    fn afresh(&self, file: &File) {
        // A kernel that keeps it has it right, for all that anybody can tell.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    }

    fn file_stamp(&self, file: &File) -> Result<Stamp> {
        let stat = look::stat(file.as_fd(), c"").map_err(|e| self.fail_dir("stat", file.as_fd(), e))?;
        Ok(look::stamp(&stat))
    }

    fn read_link(&self, spot: Spot<'_, Dir>) -> Result<Vec<u8>> {
        let read = |at: At<'_>| -> io::Result<Vec<u8>> {
            Ok(rustix::fs::readlinkat(at.dir, at.leaf.as_c_str(), Vec::new())?.into_bytes())
        };
        let at = self.at(spot).ok_or_else(|| self.fail("read the link", spot, missing()))?;
        read(at).map_err(|e| self.fail("read the link", spot, e))
    }

    fn xattrs(&self, spot: Spot<'_, Dir>) -> Result<Xattrs> {
        let read = |at: At<'_>| xattr::of_entry(&xattr::Path::of(&at)?);
        let at = self.at(spot).ok_or_else(|| self.fail("read the attributes of", spot, missing()))?;
        read(at).map_err(|e| self.fail("read the attributes of", spot, e))
    }

    fn file_xattrs(&self, file: &File) -> Result<Xattrs> {
        xattr::of_file(file).map_err(|e| self.fail_dir("read the attributes of", file.as_fd(), e))
    }

    fn alive(&self, handle: &LocalHandle) -> Result<Alive> {
        let raw = self.handle(handle)?;
        if self.limits.no_handles {
            return Ok(Alive::Unknown);
        }
        let find = || -> io::Result<Alive> {
            let fd = match raw.open(self.root.as_fd(), 0) {
                Ok(fd) => fd,
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => return Ok(Alive::Gone),
                Err(error) => return Err(error),
            };
            let found = look::inode_of(fd.as_fd(), handle.clone())?;
            if found.nlink == 0 {
                return Ok(Alive::Gone);
            }
            let path = self.path_below(fd.as_fd()).filter(|path| !path.has_ours());
            let proven = match &path {
                Some(path) => match absent(self.descend(path, OFlags::PATH))? {
                    Some(there) => Handle::of(there.as_fd(), c"")? == raw,
                    None => false,
                },
                None => false,
            };
            Ok(Alive::Yes(found, path.filter(|_| proven)))
        };
        find().map_err(|e| self.fail_root("find an object by its handle in", e))
    }

    fn watch(&self) -> Result<Watcher, Unwatched> {
        if self.limits.no_handles {
            return Err(Unwatched::NotPermitted);
        }
        Watcher::of(self.root.as_fd())
    }

    fn whereabouts(&self, dir: &LocalHandle) -> Result<Whereabouts> {
        let raw = self.handle(dir)?;
        let found = self.place(&raw);
        found.map_err(|e| self.fail_root("find a directory by its handle in", e))
    }

    fn resolve(&self, path: &RelPath, follow_last: bool) -> Result<Resolved> {
        self.find(path, follow_last).map_err(|e| self.fail_path("resolve", path, e))
    }

    fn contains(&self, path: &RelPath, cached: bool) -> Result<Contains> {
        Ok(self.held(path, cached)?.map_or_else(|contains| contains, |_| Contains::Inside))
    }
    fn reaches(&self, path: &RelPath, cached: bool) -> Result<(Contains, Option<Found>)> {
        match self.held(path, cached)? {
            Ok(fd) => {
                let found = look::inode(fd.as_fd()).map_err(|e| self.fail_path("look at", path, e));
                Ok((Contains::Inside, Some(found?)))
            }
            Err(contains) => Ok((contains, None)),
        }
    }

    fn by_names(&self, path: &RelPath) -> Option<Found> {
        let found = self.by_names.as_ref()?.file(path, self.clock.boot())?;
        found.stamp.is_settled(self.clock.wall()).then_some(found)
    }
    fn is_still(&self, path: &RelPath, found: &Found) -> bool {
        let now = self.clock.boot();
        self.by_names.as_ref().is_some_and(|names| names.is_still(path, found, now))
    }

    fn straight(&self, path: &RelPath, cached: bool) -> Result<Option<RelPath>> {
        let Ok(fd) = self.held(path, cached)? else { return Ok(None) };
        let failed = |e| self.fail_path("look at", path, e);
        match self.path_below(fd.as_fd()) {
            Some(there) => Ok(Some(there)),
            None => {
                let there = look::identity(&look::stat(fd.as_fd(), c"").map_err(failed)?);
                Ok((there == self.root_identity).then_some(RelPath::ROOT))
            }
        }
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn left_out(&self) -> Vec<String> {
        // Where it is now: it may have been moved.
        let root = fd_path(self.root.as_fd());
        let mounts = mounts::left_out(root.as_deref().unwrap_or(&self.root_path));
        self.limits.sentences().map(str::to_owned).chain(mounts).collect()
    }

    fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.root).map_err(|e| self.fail_root("sync", e.into()))
    }

    fn sync_entry(&self, dir: &Dir, name: &Name) -> Result<()> {
        self.flush(dir, name).map_err(|e| self.fail("sync", Spot::Entry(dir, name), e))
    }

    fn stage(&self, id: ObjectId) -> Result<File> {
        self.begin(id).map_err(|e| self.fail("stage", Spot::Tmp(id), e))
    }

    fn skip(&self, stage: &mut File, bytes: u64) -> io::Result<()> {
        let at = stage.stream_position()?.checked_add(bytes).ok_or_else(invalid)?;
        stage.set_len(at)?;
        stage.seek(SeekFrom::Start(at)).map(|_| ())
    }

    fn staged(&self, stage: File) -> Result<()> {
        drop(stage);
        Ok(())
    }

    fn make(&self, spot: Spot<'_, Dir>, object: &Object) -> Result<Found> {
        self.create(spot, object).map_err(|e| self.fail_attrs("make", spot, e))
    }

    fn set_attrs(&self, spot: Spot<'_, Dir>, attrs: &Attrs, xattrs: &Xattrs) -> Result<Found> {
        self.carry(spot, attrs, xattrs).map_err(|e| self.fail_attrs("set the attributes of", spot, e))
    }

    fn rename(&self, from: Spot<'_, Dir>, to: Spot<'_, Dir>, replace: bool) -> Result<()> {
        self.move_entry(from, to, replace).map_err(|e| {
            let path = format!("{} to {}", self.name(from), self.name(to));
            TreeError::Io { what: "rename", path, source: e }
        })
    }

    fn link(&self, from: Spot<'_, Dir>, to: Spot<'_, Dir>) -> Result<()> {
        self.link_entry(from, to).map_err(|e| {
            let path = format!("{} to {}", self.name(from), self.name(to));
            TreeError::Io { what: "link", path, source: e }
        })
    }

    fn remove(&self, spot: Spot<'_, Dir>) -> Result<()> {
        self.unlink(spot).map_err(|e| self.fail("remove", spot, e))
    }

    fn open_at(&self, spot: Spot<'_, Dir>) -> Result<Option<Dir>> {
        let Some(at) = self.at(spot) else { return Ok(None) };
        let fd = look::open(at.dir, at.leaf.as_c_str(), OFlags::PATH | OFlags::DIRECTORY);
        let fd = absent(fd).map_err(|e| self.fail("open", spot, e))?;
        Ok(fd.map(Dir))
    }

    fn keep(&self, spot: Spot<'_, Dir>, aside: &Aside<'_>) -> Result<PathBuf> {
        self.keep_aside(spot, aside).map_err(|e| self.fail("keep aside", spot, e))
    }

    fn used(&self) -> Result<Used> {
        let stat = rustix::fs::fstatvfs(&self.root)
            .map_err(|e| io_error("ask for the space of", &self.spec.path, e.into()))?;
        Ok(Used {
            inodes: stat.f_files.saturating_sub(stat.f_ffree),
            bytes: stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn leftovers(&self) -> Result<Leftovers> {
        Ok(Leftovers { park: self.leftover(c"park")?, tmp: self.leftover(c"tmp")? })
    }
}

impl Sparse for File {
    fn data_from(&mut self, at: u64) -> io::Result<Option<Range<u64>>> {
        data_from(at, |to| rustix::fs::seek(&*self, to))
    }
}

/// The next range with data, as `seek` tells of holes.
pub(super) fn data_from(
    mut at: u64,
    mut seek: impl FnMut(rustix::fs::SeekFrom) -> rustix::io::Result<u64>,
) -> io::Result<Option<Range<u64>>> {
    for _ in 0..SEEKS {
        let start = match seek(rustix::fs::SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(None),
            // A file system that knows of no holes.
            Err(Errno::INVAL) => return Ok(Some(at..u64::MAX)),
            start => start?,
        };
        let end = match seek(rustix::fs::SeekFrom::Hole(start)) {
            // It has become shorter.
            Err(Errno::NXIO) => return Ok(None),
            end => end?,
        };
        if start < end {
            return Ok(Some(start..end));
        }
        // Between the two it became a hole, as on XFS what was read of a range without data does.
        at = start;
    }
    // Read as data, holes are zeros all the same.
    Ok(Some(at..u64::MAX))
}

fn open_root(spec: &RootSpec, mode: OFlags) -> Result<OwnedFd> {
    let flags = mode | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(&spec.path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => not(spec, "it does not exist".into()),
        Errno::NOTDIR => not(spec, "it is not a directory".into()),
        other => io_error("open", &spec.path, other.into()),
    })
}

/// Finds out whether handles exist here, and whether this process may open them.
fn probe_handles(root: BorrowedFd<'_>, spec: &RootSpec, mut limits: Limits) -> Result<Limits> {
    let unfit = |error: io::Error| {
        let why = format!(
            "its file system has no file handles ({error}); use ext4, xfs, btrfs or tmpfs, or mount \
             overlayfs with index=on,nfs_export=on"
        );
        not(spec, why)
    };
    let handle = Handle::of(root, c"").map_err(unfit)?;
    if !limits.no_handles {
        match handle.open(root, 0) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => limits.no_handles = true,
            Err(error) => return Err(unfit(error)),
        }
    }
    Ok(limits)
}

/// The path of an open descriptor, as the kernel knows it now.
pub(super) fn fd_path(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    Ok(std::fs::read_link(proc_path(fd))?.into_os_string().into_vec())
}

/// Names the open inode itself, whatever has become of its name.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}

fn id_leaf(room: &[u8], id: ObjectId) -> Leaf {
    let mut text = String::with_capacity(32);
    // Writing to a String cannot fail.
    let _ = write!(text, "{id}");
    Leaf::join(room, text.as_bytes())
}

pub(super) fn invalid() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

pub(super) fn missing() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}
