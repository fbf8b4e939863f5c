//! The way of a server: from `/` along the share's path, by names, not through the root's descriptor. A look by
//! it tells what a server comes to; by its handle one knows whether that is of the share.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags};

use super::handle::Handle;
use super::look;
use crate::id::RelPath;
use crate::object::{Found, Kind};

/// From what the kernel has in memory, and through no link.
const WAY: ResolveFlags =
    ResolveFlags::CACHED.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::MNT_ID);

/// A share's root by its names, and the mount that it is on.
pub(super) struct ByNames {
    root: PathBuf,
    mount: u64,
}

impl ByNames {
    /// `None` if there is a link on the way to the root, or the kernel (before 5.8) does not tell mounts
    /// apart; before 5.12 it knows no look from memory, and nothing is ever found.
    /// `known`: where the kernel says that the root is.
    pub(super) fn new(root: &Path, known: &[u8], fd: BorrowedFd<'_>) -> Option<Self> {
        let mount = mount(&stat(fd)?)?;
        (root.is_absolute() && root.as_os_str().as_bytes() == known)
            .then(|| Self { root: root.to_owned(), mount })
    }

    fn open(&self, path: &RelPath) -> Option<(OwnedFd, Statx)> {
        if path.has_ours() {
            return None;
        }
        let path = self.root.join(path.to_os_path());
        let how = OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::openat2(CWD, &path, how, Mode::empty(), WAY).ok()?;
        let stat = stat(fd.as_fd())?;
        // What is mounted below the root is not in the share.
        (mount(&stat) == Some(self.mount)).then_some((fd, stat))
    }

    pub(super) fn file(&self, path: &RelPath) -> Option<Found> {
        let (fd, stat) = self.open(path)?;
        look::inode_as(&stat, fd.as_fd()).ok().filter(|found| found.kind == Kind::File)
    }

    pub(super) fn is_still(&self, path: &RelPath, found: &Found) -> bool {
        let Some((_, stat)) = self.open(path) else { return false };
        look::stamp(&stat) == found.stamp
            && Handle::from_local(&found.handle).is_some_and(|handle| handle.names_inode(stat.stx_ino))
    }
}

fn stat(fd: BorrowedFd<'_>) -> Option<Statx> {
    rustix::fs::statx(fd, c"", AtFlags::EMPTY_PATH, MASK).ok()
}

fn mount(stat: &Statx) -> Option<u64> {
    (stat.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(stat.stx_mnt_id)
}
