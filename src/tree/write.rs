//! A share's directory as a file server of our own works on it: by the paths that clients name, with
//! symbolic links inside the share followed, and never outside it.
//!
//! Whatever becomes visible does so by one rename: an upload or a copied tree is made whole in
//! `.nearshare/tmp` under a name that is no [`crate::id::ObjectId`], and what is deleted goes there
//! first. Not here: syncing (`relay` does that before it answers), and what a share's history says.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, StatxFlags, Uid,
};
use rustix::io::Errno;

use super::disk::{Disk, fd_path};
use super::look::{self, Leaf};
use super::{Result, TreeError};
use crate::id::{Name, RelPath};
use crate::object::{Found, Kind};

mod properties;
mod whole;

pub use properties::keeps_properties;

/// Mode of a new file and of a new directory, before the umask.
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;
/// What a replaced file keeps of its mode: a set-uid bit never outlives the content it was given for.
const KEPT_MODE: u32 = 0o1777;
/// What the names in `.nearshare/tmp` that are made here begin with.
const ASIDE: &str = "http-";
/// Stands in the names that this process makes there, to tell them from what a crash left.
static RUN: LazyLock<u64> = LazyLock::new(rand::random);

/// A share's directory, for serving it.
pub struct Files {
    disk: Arc<Disk>,
    tmp: OwnedFd,
    /// Held while properties are read and put back.
    changing: Mutex<()>,
}

/// What a path names, opened.
#[derive(Debug)]
pub enum Opened {
    File(File, Found),
    Directory(Found),
    /// Neither: a fifo, a socket, a device.
    Special(Found),
}

/// The disk's system calls by errno; each public operation adds its name and path.
type Sys<T> = std::result::Result<T, Errno>;

/// One entry: a directory that is open and a name in it.
struct Slot {
    dir: OwnedFd,
    name: Name,
}

impl Files {
    /// Clears away what an earlier process left in `.nearshare/tmp` of uploads and copies.
    pub fn new(disk: Arc<Disk>) -> Result<Self> {
        let tmp = look::open(disk.ours.as_fd(), c"tmp", OFlags::RDONLY | OFlags::DIRECTORY);
        let tmp = tmp.map_err(|error| disk.fail_root("open .nearshare/tmp of", error))?;
        let files = Self { disk, tmp, changing: Mutex::default() };
        files.tidy();
        Ok(files)
    }

    /// `follow` says whether a symbolic link at the end of the path is followed; those before it are.
    pub fn stat(&self, path: &RelPath, follow: bool) -> Result<Found> {
        let nofollow = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        let look = || {
            let fd = self.walk(path, OFlags::PATH | nofollow)?;
            look::inode(fd.as_fd()).map_err(errno)
        };
        look().map_err(at("looking at", path))
    }

    /// Opens for reading, all symbolic links followed.
    pub fn open(&self, path: &RelPath) -> Result<Opened> {
        let open = || {
            // NONBLOCK: a fifo without a writer must not hold up a thread.
            let fd = match self.walk(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY) {
                // A socket, or a device without a driver, cannot be opened at all.
                Err(Errno::NXIO | Errno::NODEV) => self.walk(path, OFlags::PATH)?,
                fd => fd?,
            };
            let found = look::inode(fd.as_fd()).map_err(errno)?;
            Ok(match found.kind {
                Kind::File => Opened::File(File::from(fd), found),
                Kind::Directory => Opened::Directory(found),
                _ => Opened::Special(found),
            })
        };
        open().map_err(at("opening", path))
    }

    /// As [`Files::open`], but only if nothing has to be waited for: every name on the way is in the
    /// kernel's cache and none is a symbolic link. `None` says nothing of what is there.
    pub fn open_cached(&self, path: &RelPath) -> Option<Opened> {
        if path.has_ours() {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_XDEV
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::CACHED;
        let fd = fs::openat2(self.root(), path.to_os_path(), flags, Mode::empty(), resolve);
        let fd = fd.ok()?;
        let found = look::inode(fd.as_fd()).ok()?;
        (found.kind == Kind::File).then(|| Opened::File(File::from(fd), found))
    }

    /// Begins to read a directory; see [`Listing::batch`].
    pub fn list(self: &Arc<Self>, path: &RelPath) -> Result<Listing> {
        let open = || {
            let dir = self.walk(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            let entries = fs::Dir::read_from(&dir)?;
            Ok(Listing { files: self.clone(), path: path.clone(), dir, entries })
        };
        open().map_err(at("listing", path))
    }

    /// Begins a file that will be at `path`, or where a symbolic link there leads, once it is
    /// committed. The directory must exist, and what is there must be a file or nothing.
    pub fn upload(self: &Arc<Self>, path: &RelPath, rule: UploadRule) -> Result<Upload> {
        let begin = || {
            let slot = self.slot_followed(path)?;
            match entry(slot.dir.as_fd(), &slot.name)? {
                Some(there) => match FileType::from_raw_mode(there.stx_mode.into()) {
                    _ if rule == UploadRule::New => return Err(Errno::EXIST),
                    FileType::RegularFile => {}
                    FileType::Directory => return Err(Errno::ISDIR),
                    _ => return Err(Errno::PERM),
                },
                None if rule == UploadRule::Replace => return Err(Errno::NOENT),
                None => {}
            }
            let aside = aside_name();
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = fs::openat(&self.tmp, &aside, flags, Mode::from_raw_mode(FILE_MODE))?;
            let file = File::from(file);
            let (files, path) = (self.clone(), path.clone());
            Ok(Upload { files, path, file, aside: Some(aside), slot, rule, written: 0 })
        };
        begin().map_err(at("beginning an upload to", path))
    }

    /// Makes one directory. The parent must exist.
    pub fn make_dir(&self, path: &RelPath) -> Result<()> {
        let make = || {
            if path.is_root() {
                return Err(Errno::EXIST);
            }
            let slot = self.slot(path)?;
            fs::mkdirat(&slot.dir, slot.name.as_os_str(), Mode::from_raw_mode(DIR_MODE))
        };
        make().map_err(at("making the directory", path))
    }

    /// Bytes in use and bytes that there are, of the file system.
    pub fn space(&self) -> Result<(u64, u64)> {
        let stat = fs::fstatvfs(self.root()).map_err(at("measuring", &RelPath::ROOT))?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        Ok((total.saturating_sub(stat.f_bavail.saturating_mul(stat.f_frsize)), total))
    }

    fn root(&self) -> BorrowedFd<'_> {
        self.disk.root.as_fd()
    }

    /// Opens `path` below the root. Tried first without any symbolic link, which is the common case
    /// and proves that the path leads where it says; one that has links is asked where it led.
    fn walk(&self, path: &RelPath, flags: OFlags) -> Sys<OwnedFd> {
        if path.has_ours() {
            return Err(Errno::NOENT);
        }
        let (root, path) = (self.root(), path.to_os_path());
        match open_below(root, &path, flags, ResolveFlags::NO_SYMLINKS) {
            Err(Errno::LOOP) => {
                let fd = open_below(root, &path, flags, ResolveFlags::NO_MAGICLINKS)?;
                self.real(fd.as_fd())?;
                Ok(fd)
            }
            opened => opened,
        }
    }

    /// The entry at `path`; a symbolic link at its end is the entry itself.
    fn slot(&self, path: &RelPath) -> Sys<Slot> {
        let (parent, name) = path.split_last().ok_or(Errno::BUSY)?;
        if name.is_ours() {
            return Err(Errno::NOENT);
        }
        let dir = self.walk(&parent, OFlags::PATH | OFlags::DIRECTORY)?;
        Ok(Slot { dir, name: name.clone() })
    }

    /// The entry where `path` leads; one with a dangling symbolic link at its end leads nowhere.
    fn slot_followed(&self, path: &RelPath) -> Sys<Slot> {
        let slot = self.slot(path)?;
        match entry(slot.dir.as_fd(), &slot.name)? {
            Some(there) if FileType::from_raw_mode(there.stx_mode.into()) == FileType::Symlink => {
                self.slot(&self.real(self.walk(path, OFlags::PATH)?.as_fd())?)
            }
            _ => Ok(slot),
        }
    }

    /// The path without any symbolic link of what is open; refuses what clients never see.
    fn real(&self, fd: BorrowedFd<'_>) -> Sys<RelPath> {
        let root = fd_path(self.root()).map_err(errno)?;
        let path = fd_path(fd).map_err(errno)?;
        let below = path.strip_prefix(root.as_slice()).ok_or(Errno::XDEV)?;
        // A root of "/" takes the separator with it; any other must be followed by one or nothing.
        if !below.is_empty() && !below.starts_with(b"/") && root != b"/" {
            return Err(Errno::XDEV);
        }
        let path = RelPath::parse(below).map_err(|_| Errno::NAMETOOLONG)?;
        if path.has_ours() { Err(Errno::NOENT) } else { Ok(path) }
    }

    fn real_slot(&self, slot: &Slot) -> Sys<RelPath> {
        Ok(self.real(slot.dir.as_fd())?.join(slot.name.clone()))
    }
}

/// What an upload asks of the entry that it will replace or make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadRule {
    Any,
    /// Nothing may be there.
    New,
    /// A file must be there.
    Replace,
}

/// A file that is being received. Dropped before [`Upload::commit`], it leaves nothing behind.
pub struct Upload {
    files: Arc<Files>,
    path: RelPath,
    file: File,
    aside: Option<String>,
    slot: Slot,
    rule: UploadRule,
    written: u64,
}

impl Upload {
    /// Bytes that have been written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Appends all of `data`.
    pub fn write(&mut self, data: &[Bytes]) -> Result<()> {
        for part in data {
            let write = self.file.write_all_at(part, self.written);
            write.map_err(|source| {
                let (what, path) = ("writing an upload to", self.path.to_string());
                TreeError::Io { what, path, source }
            })?;
            self.written += part.len() as u64;
        }
        Ok(())
    }

    /// Puts the file in its place, with the mode, owner and properties of the file that it replaces.
    pub fn commit(mut self) -> Result<Found> {
        let path = self.path.clone();
        self.place().map_err(at("putting an upload in place at", &path))
    }

    fn place(&mut self) -> Sys<Found> {
        let (dir, name) = (self.slot.dir.as_fd(), &self.slot.name);
        let flags = match self.rule {
            UploadRule::New => RenameFlags::NOREPLACE,
            UploadRule::Any | UploadRule::Replace => RenameFlags::empty(),
        };
        let replaces = entry(dir, name)?;
        properties::inherit(&self.slot, replaces.as_ref(), self.file.as_fd())?;
        dress(self.file.as_fd(), dir, replaces.as_ref(), None)?;
        if let Some(aside) = &self.aside {
            fs::renameat_with(&self.files.tmp, aside, dir, name.as_os_str(), flags)?;
        }
        self.aside = None;
        look::inode(self.file.as_fd()).map_err(errno)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(aside) = &self.aside
            && let Err(error) = fs::unlinkat(&self.files.tmp, aside, AtFlags::empty())
        {
            tracing::warn!(path = %self.path, %aside, %error, "an unfinished upload was left behind");
        }
    }
}

/// A directory being read.
pub struct Listing {
    files: Arc<Files>,
    path: RelPath,
    dir: OwnedFd,
    entries: fs::Dir,
}

impl Listing {
    /// Up to `most` entries more, in no order; none when there are no more. What vanishes meanwhile,
    /// and a mount point, is left out. With `follow`, a symbolic link is what it leads to, and one
    /// that leads nowhere or outside is left out.
    pub fn batch(&mut self, most: usize, follow: bool) -> Result<Vec<(Name, Found)>> {
        let mut batch = Vec::new();
        while batch.len() < most {
            let Some(entry) = self.entries.read() else { break };
            let entry = entry.map_err(at("listing", &self.path))?;
            // What the kernel lists is a name, but for `.` and `..`.
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else { continue };
            if name.is_ours() {
                continue;
            }
            if let Some(found) = self.found(&name, follow).map_err(at("listing", &self.path))? {
                batch.push((name, found));
            }
        }
        Ok(batch)
    }

    fn found(&self, name: &Name, follow: bool) -> Sys<Option<Found>> {
        let entry = look::entry(self.dir.as_fd(), Leaf::of(name).as_c_str()).map_err(errno)?;
        let Some(found) = entry.found() else { return Ok(None) };
        if found.kind == Kind::Symlink && follow {
            return Ok(self.files.stat(&self.path.join(name.clone()), true).ok());
        }
        Ok(Some(found))
    }
}

/// `openat2` below `dir` and on its file system, `resolve` on top. Always close-on-exec.
fn open_below<P: rustix::path::Arg + Copy>(
    dir: BorrowedFd<'_>,
    path: P,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Sys<OwnedFd> {
    let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_XDEV;
    let flags = flags | OFlags::CLOEXEC;
    look::retry(|| fs::openat2(dir, path, flags, Mode::empty(), resolve)).map_err(errno)
}

/// One entry, its symbolic link not followed.
fn entry(dir: BorrowedFd<'_>, name: &Name) -> Sys<Option<fs::Statx>> {
    match fs::statx(dir, name.as_os_str(), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives a new file or directory that will be in `dir` its owner and mode: those of the file it
/// replaces; else the group of a set-gid directory, as if it had been made there, and `mode`.
fn dress(
    new: BorrowedFd<'_>,
    dir: BorrowedFd<'_>,
    replaces: Option<&fs::Statx>,
    mode: Option<u32>,
) -> Sys<()> {
    let regular =
        |stat: &&fs::Statx| FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
    let (uid, gid, mode) = match replaces.filter(regular) {
        Some(old) => {
            let (uid, gid) = (Uid::from_raw(old.stx_uid), Gid::from_raw(old.stx_gid));
            (Some(uid), Some(gid), Some(u32::from(old.stx_mode) & KEPT_MODE))
        }
        None => {
            let parent = fs::fstat(dir)?;
            let inherited = parent.st_mode & Mode::SGID.as_raw_mode() != 0;
            (None, inherited.then(|| Gid::from_raw(parent.st_gid)), mode)
        }
    };
    if uid.is_some() || gid.is_some() {
        match fs::fchown(new, uid, gid) {
            // Without privileges the owner is whoever runs this, as with any other server.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    match mode {
        Some(mode) => fs::fchmod(new, Mode::from_raw_mode(mode)),
        None => Ok(()),
    }
}

/// A name in `.nearshare/tmp` that nobody else uses.
fn aside_name() -> String {
    format!("{ASIDE}{:016x}-{:016x}", *RUN, rand::random::<u64>())
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Says what failed and where.
fn at<'a>(what: &'static str, path: &'a RelPath) -> impl Fn(Errno) -> TreeError + 'a {
    move |errno| TreeError::Io { what, path: path.to_string(), source: errno.into() }
}

#[cfg(test)]
pub(crate) mod tests;
