//! The way of a server: from `/` along the share's path, by names, not through the root's descriptor. A look by
//! it tells what a server comes to; by its handle one knows whether that is of the share.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags};

use super::handle::Handle;
use super::look;
use crate::clock::BootTime;
use crate::id::RelPath;
use crate::object::{Found, Kind};

/// From what the kernel has in memory, and through no link.
const WAY: ResolveFlags =
    ResolveFlags::CACHED.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

/// What was in memory so long ago is there still. Within that a file is asked for by its name alone, in one
/// system call and not in four: if that leads to the same inode with the same stamp (R17), it does not matter by
/// what way.
const FRESH: Duration = Duration::from_secs(1);
/// Files that are remembered for that, 400 bytes each, and the longest of their paths.
const KNOWN_MAX: usize = 1024;
const WAY_MAX: usize = 1024;

/// A share's root by its names, and the mount that it is on.
pub(super) struct ByNames {
    root: PathBuf,
    mount: u64,
    known: Cache<RelPath, Arc<Known>>,
}

/// A file that was found in memory, through no link.
struct Known {
    found: Found,
    at: BootTime,
    way: CString,
}

impl ByNames {
    /// `None` if there is a link on the way to the root, or the kernel (before 5.8) does not tell mounts
    /// apart; before 5.12 it knows no look from memory, and nothing is ever found.
    /// `known`: where the kernel says that the root is.
    pub(super) fn new(root: &Path, known: &[u8], fd: BorrowedFd<'_>) -> Option<Self> {
        let mount = mount(&stat(fd)?)?;
        (root.is_absolute() && root.as_os_str().as_bytes() == known).then(|| Self {
            root: root.to_owned(),
            mount,
            known: Cache::new(KNOWN_MAX),
        })
    }

    fn open(&self, path: &RelPath) -> Option<(OwnedFd, Statx, PathBuf)> {
        if path.has_ours() {
            return None;
        }
        let way = self.root.join(path.to_os_path());
        let how = OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(CWD, &way, how, Mode::empty(), WAY).ok()?;
        let stat = stat(fd.as_fd())?;
        // What is mounted below the root is not in the share.
        (mount(&stat) == Some(self.mount)).then_some((fd, stat, way))
    }

    pub(super) fn file(&self, path: &RelPath, now: BootTime) -> Option<Found> {
        if let Some(known) = self.known(path, now)
            && self.is_there(&known)
        {
            return Some(known.found.clone());
        }
        let (fd, stat, way) = self.open(path)?;
        let found = look::inode_as(&stat, fd.as_fd()).ok().filter(|found| found.kind == Kind::File)?;
        let way = CString::new(way.into_os_string().into_vec()).ok()?;
        if way.as_bytes().len() <= WAY_MAX {
            let known = Known { found: found.clone(), at: now, way };
            self.known.insert(path.clone(), Arc::new(known));
        }
        Some(found)
    }

    pub(super) fn is_still(&self, path: &RelPath, found: &Found, now: BootTime) -> bool {
        match self.known(path, now) {
            Some(known) if known.found.stamp == found.stamp && known.found.handle == found.handle => {
                self.is_there(&known)
            }
            _ => self.open(path).is_some_and(|(_, stat, _)| is(&stat, found)),
        }
    }

    fn known(&self, path: &RelPath, now: BootTime) -> Option<Arc<Known>> {
        self.known.get(path).filter(|known| now.since(known.at) < FRESH)
    }

    fn is_there(&self, known: &Known) -> bool {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let stat = rustix::fs::statx(CWD, known.way.as_c_str(), flags, MASK);
        stat.is_ok_and(|stat| mount(&stat) == Some(self.mount) && is(&stat, &known.found))
    }
}

fn is(stat: &Statx, found: &Found) -> bool {
    look::stamp(stat) == found.stamp
        && Handle::from_local(&found.handle).is_some_and(|handle| handle.names_inode(stat.stx_ino))
}

fn stat(fd: BorrowedFd<'_>) -> Option<Statx> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, MASK).ok()
}

fn mount(stat: &Statx) -> Option<u64> {
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}
