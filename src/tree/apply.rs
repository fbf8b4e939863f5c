//! Changing the disk: making, replacing, moving. Not here: deciding what to change (see `follow`), and what is
//! kept aside (see `kept`).
//!
//! Nothing here is durable by itself: the caller syncs, and forgets why it changed
//! something only after that. Each change is one system call on one entry where the kernel lets us,
//! so that a crash leaves the old or the new state; what is made in several steps (`create`, stages)
//! is looked at again by the caller, whose mark still stands.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::disk::{At, Dir, Disk, invalid, proc_path};
use super::look::{self, STEP, absent, retry};
use super::{Spot, marker, xattr};
use crate::id::{Name, ObjectId};
use crate::object::{Attrs, Extra, Found, Kind, Object, Xattrs};

impl Disk {
    /// Where a change of `spot` goes; nobody changes `.nearshare` through us.
    fn target<'a>(&'a self, spot: Spot<'a, Dir>) -> io::Result<At<'a>> {
        self.at(spot).ok_or_else(|| io::Error::from_raw_os_error(libc::EPERM))
    }

    pub(super) fn flush(&self, dir: &Dir, name: &Name) -> io::Result<()> {
        let at = self.target(Spot::Entry(dir, name))?;
        if let Some(fd) = absent(look::open(at.dir, at.leaf.as_c_str(), OFlags::PATH))? {
            let kind = FileType::from_raw_mode(u32::from(look::stat(fd.as_fd(), c"")?.stx_mode));
            // Links and special files are all inode: they go to disk with the directory.
            if matches!(kind, FileType::RegularFile | FileType::Directory) {
                rustix::fs::fsync(reopen(fd.as_fd())?)?;
            }
        }
        sync_dir(at.dir, c".")
    }

    /// One system call where nothing is in the way: it is done for every content that comes.
    pub(super) fn begin(&self, id: ObjectId) -> io::Result<File> {
        let at = self.target(Spot::Tmp(id))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let make = || retry(|| rustix::fs::openat2(at.dir, at.leaf.as_c_str(), flags, mode, STEP));
        match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                marker::room(self.ours.as_fd(), c"tmp")?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.unlink(Spot::Tmp(id))?,
            other => return other.map(File::from),
        }
        make().map(File::from)
    }

    pub(super) fn create(&self, spot: Spot<'_, Dir>, object: &Object) -> io::Result<Found> {
        let At { dir, leaf } = self.target(spot)?;
        let name = leaf.as_c_str();
        let special = |kind, rdev| rustix::fs::mknodat(dir, name, kind, Mode::RUSR, rdev);
        match object.kind {
            // Files are staged, so that nobody sees half of one.
            Kind::File => return Err(invalid()),
            Kind::Directory => rustix::fs::mkdirat(dir, name, Mode::RWXU)?,
            Kind::Symlink => rustix::fs::symlinkat(object.target.as_slice(), dir, name)?,
            Kind::Fifo => special(FileType::Fifo, 0)?,
            Kind::Socket => special(FileType::Socket, 0)?,
            Kind::Block => special(FileType::BlockDevice, object.rdev)?,
            Kind::Char => special(FileType::CharacterDevice, object.rdev)?,
        }
        match &object.xattrs {
            Extra::Here(xattrs) => self.carry(spot, &object.attrs, xattrs),
            Extra::Apart { .. } => self.carry(spot, &object.closed(), &Xattrs::default()),
        }
    }

    /// Sets what differs, by descriptor: the entry may be replaced meanwhile, by a link to anywhere.
    pub(super) fn carry(
        &self,
        spot: Spot<'_, Dir>,
        attrs: &Attrs,
        xattrs: &Xattrs,
    ) -> io::Result<Found> {
        let at = self.target(spot)?;
        let fd = look::open(at.dir, at.leaf.as_c_str(), OFlags::PATH)?;
        let fd = fd.as_fd();
        let found = look::inode(fd)?;
        let mut touched = false;
        if (found.attrs.uid, found.attrs.gid) != (attrs.uid, attrs.gid) {
            touched = self.chown(fd, attrs)?;
        }
        // chown takes a file's capabilities away, and an ACL is part of the mode.
        touched |= xattr::set(fd, xattrs)?;
        // chown clears set-uid and set-gid, so the mode comes after it.
        if found.kind != Kind::Symlink && (touched || found.attrs.mode != attrs.mode) {
            rustix::fs::chmod(proc_path(fd), Mode::from_raw_mode(attrs.mode & 0o7777))?;
            touched = true;
        }
        if found.attrs.mtime != attrs.mtime {
            let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
            let mtime = Timespec { tv_sec: attrs.mtime.sec, tv_nsec: attrs.mtime.nsec.into() };
            let times = Timestamps { last_access: omit, last_modification: mtime };
            rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)?;
            touched = true;
        }
        if touched { look::inode_of(fd, found.handle) } else { Ok(found) }
    }

    /// Whether it changed anything. Without CAP_CHOWN what we may not set is left (see `Limits`).
    fn chown(&self, fd: BorrowedFd<'_>, attrs: &Attrs) -> io::Result<bool> {
        let set = |uid, gid| rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH);
        let gid = Gid::from_raw(attrs.gid);
        match set(Some(Uid::from_raw(attrs.uid)), Some(gid)) {
            Err(Errno::PERM) if self.limits.no_owners => match set(None, Some(gid)) {
                Err(Errno::PERM) => Ok(false),
                other => Ok(other.map(|()| true)?),
            },
            other => Ok(other.map(|()| true)?),
        }
    }

    pub(super) fn move_entry(
        &self,
        from: Spot<'_, Dir>,
        to: Spot<'_, Dir>,
        replace: bool,
    ) -> io::Result<()> {
        let (old, new) = (self.target(from)?, self.target(to)?);
        let (old_name, new_name) = (old.leaf.as_c_str(), new.leaf.as_c_str());
        let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        rustix::fs::renameat_with(old.dir, old_name, new.dir, new_name, flags)?;
        if replace {
            // rename(2) of one link onto another of the same inode does nothing and says it did.
            let left = absent(look::stat(old.dir, old_name))?;
            if let Some(left) = left.filter(|left| left.stx_nlink > 1)
                && let Some(there) = absent(look::stat(new.dir, new_name))?
                && look::identity(&left) == look::identity(&there)
                && !self.same_entry(&old, &new)?
            {
                rustix::fs::unlinkat(old.dir, old_name, AtFlags::empty())?;
            }
        }
        Ok(())
    }

    fn same_entry(&self, one: &At<'_>, other: &At<'_>) -> io::Result<bool> {
        let dir = |at: &At<'_>| look::stat(at.dir, c"").map(|stat| look::identity(&stat));
        Ok(one.leaf.as_c_str() == other.leaf.as_c_str() && dir(one)? == dir(other)?)
    }

    pub(super) fn link_entry(&self, from: Spot<'_, Dir>, to: Spot<'_, Dir>) -> io::Result<()> {
        let (old, new) = (self.target(from)?, self.target(to)?);
        let (old_name, new_name) = (old.leaf.as_c_str(), new.leaf.as_c_str());
        Ok(rustix::fs::linkat(old.dir, old_name, new.dir, new_name, AtFlags::empty())?)
    }

    pub(super) fn unlink(&self, spot: Spot<'_, Dir>) -> io::Result<()> {
        let at = self.target(spot)?;
        let remove = |flags| rustix::fs::unlinkat(at.dir, at.leaf.as_c_str(), flags);
        let result = match remove(AtFlags::empty()) {
            Err(Errno::ISDIR) => remove(AtFlags::REMOVEDIR),
            other => other,
        };
        match result {
            Err(Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// The same inode, readable.
fn reopen(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(proc_path(fd), flags, Mode::empty())?)
}

pub(super) fn sync_dir(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    Ok(rustix::fs::fsync(look::open(dir, name, OFlags::RDONLY | OFlags::DIRECTORY)?)?)
}
