//! Looking: what is at an entry, in a directory, behind a handle. Nothing here changes the disk.
//! Not here: paths of more than one name (see `walk`).

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxAttributes};
use rustix::fs::{StatxFlags, StatxTimestamp};
use rustix::io::Errno;

use super::handle::Handle;
use crate::id::{NAME_MAX, Name};
use crate::object::{Attrs, Found, Kind, LocalHandle, Stamp, Timespec};

/// One step down, through no link and over no mount point (R28).
pub(super) const STEP: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Bytes of directory entries per getdents64: about 1,000 names of usual length.
const DIRENT_BUFFER: usize = 32 << 10;

/// One name, or `park/<id>`, ending in NUL without an allocation.
pub(super) struct Leaf {
    bytes: [u8; NAME_MAX + 1],
    len: usize,
}

impl Leaf {
    pub(super) fn of(name: &Name) -> Self {
        Self::join(b"", name.as_bytes())
    }
    /// `directory` ends in '/'; both together are at most 255 bytes and hold no NUL.
    pub(super) fn join(directory: &[u8], name: &[u8]) -> Self {
        let mut bytes = [0; NAME_MAX + 1];
        let len = directory.len() + name.len();
        bytes[..directory.len()].copy_from_slice(directory);
        bytes[directory.len()..len].copy_from_slice(name);
        Self { bytes, len }
    }
    pub(super) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.bytes[..=self.len]).unwrap_or(c"")
    }
}

/// What a look at one entry sees.
pub(super) enum Seen {
    Nothing,
    There(Found),
    /// Another file system begins here: nothing of this share.
    Mount,
}

impl Seen {
    pub(super) fn found(self) -> Option<Found> {
        match self {
            Self::There(found) => Some(found),
            Self::Nothing | Self::Mount => None,
        }
    }
}

/// One entry of `dir`, a symlink not followed.
///
/// Two system calls see the entry, so it may be replaced between them: then the inode numbers
/// differ (or cannot be compared), and it is opened once and looked at by descriptor. An entry
/// deleted and made anew under the same inode number in that moment passes as the new handle with
/// the old attributes; the next look tells, as its stamp differs.
pub(super) fn entry(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Seen> {
    let Some(stat) = absent(stat(dir, name))? else { return Ok(Seen::Nothing) };
    if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(Seen::Mount);
    }
    let Some(handle) = absent(Handle::of(dir, name))? else { return Ok(Seen::Nothing) };
    if handle.names_inode(stat.stx_ino) {
        return found(&stat, handle.to_local()).map(Seen::There);
    }
    match absent(open(dir, name, OFlags::PATH))? {
        Some(fd) => inode(fd.as_fd()).map(Seen::There),
        None => Ok(Seen::Nothing),
    }
}

/// The open inode itself.
pub(super) fn inode(fd: BorrowedFd<'_>) -> io::Result<Found> {
    found(&stat(fd, c"")?, Handle::of(fd, c"")?.to_local())
}

/// As [`inode`], where the rest is known.
pub(super) fn inode_as(stat: &Statx, fd: BorrowedFd<'_>) -> io::Result<Found> {
    found(stat, Handle::of(fd, c"")?.to_local())
}

/// As [`inode`], where the handle is known.
pub(super) fn inode_of(fd: BorrowedFd<'_>, handle: LocalHandle) -> io::Result<Found> {
    found(&stat(fd, c"")?, handle)
}

/// Opens one entry of `dir`, its own mount point and symlink not followed. `flags` beside
/// `O_NOFOLLOW | O_CLOEXEC`.
pub(super) fn open(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    retry(|| rustix::fs::openat2(dir, name, flags, Mode::empty(), STEP))
}

/// A regular file for reading; `None` when it is missing or something else. A FIFO or device is
/// opened for a moment if it takes the file's place after the caller looked.
pub(super) fn file(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK;
    let quiet = match open(dir, name, flags | OFlags::NOATIME) {
        // Only the owner and CAP_FOWNER may leave the access time alone.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => open(dir, name, flags),
        other => other,
    };
    let fd = match quiet {
        // What opening a socket or a device without a driver says.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENXIO | libc::ENODEV)) => {
            return Ok(None);
        }
        other => absent(other)?,
    };
    let Some(fd) = fd else { return Ok(None) };
    let stat = stat(fd.as_fd(), c"")?;
    let regular = FileType::from_raw_mode(u32::from(stat.stx_mode)) == FileType::RegularFile;
    Ok(regular.then(|| File::from(fd)))
}

/// All names but `.`, `..` and `.nearshare`.
pub(super) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<Name>> {
    // Read through a descriptor of its own: two lists of one directory do not disturb each other.
    let fd = open(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut buffer = [MaybeUninit::uninit(); DIRENT_BUFFER];
    let mut entries = RawDir::new(fd, &mut buffer);
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // The directory has been removed, so it was empty.
            Err(Errno::NOENT) => break,
            other => other?,
        };
        // A name that is no `Name` is one of the two dots.
        if let Ok(name) = Name::new(entry.file_name().to_bytes())
            && !name.is_ours()
        {
            names.push(name);
        }
    }
    Ok(names)
}

/// `dir`'s entry `name`, or `dir` itself if that is empty.
pub(super) fn stat(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Statx> {
    let flags = if name.is_empty() {
        AtFlags::EMPTY_PATH
    } else {
        AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT
    };
    Ok(rustix::fs::statx(dir, name, flags, StatxFlags::BASIC_STATS)?)
}

/// What tells inodes of one machine apart while one of them is open.
pub(super) fn identity(stat: &Statx) -> (u32, u32, u64) {
    (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino)
}

fn found(stat: &Statx, handle: LocalHandle) -> io::Result<Found> {
    let mode = u32::from(stat.stx_mode);
    let kind = match FileType::from_raw_mode(mode) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::BlockDevice => Kind::Block,
        FileType::CharacterDevice => Kind::Char,
        FileType::Unknown => return Err(io::Error::from(io::ErrorKind::InvalidData)),
    };
    let mtime = time(stat.stx_mtime);
    let rdev = match kind {
        Kind::Block | Kind::Char => rustix::fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        _ => 0,
    };
    Ok(Found {
        handle,
        kind,
        attrs: Attrs { mode: mode & 0o7777, uid: stat.stx_uid, gid: stat.stx_gid, mtime },
        size: stat.stx_size,
        rdev,
        nlink: u64::from(stat.stx_nlink),
        stamp: stamp(stat),
    })
}

pub(super) fn stamp(stat: &Statx) -> Stamp {
    Stamp { size: stat.stx_size, mtime: time(stat.stx_mtime), ctime: time(stat.stx_ctime) }
}

fn time(time: StatxTimestamp) -> Timespec {
    Timespec { sec: time.tv_sec, nsec: time.tv_nsec }
}

/// `None` for "there is no such thing below this directory": missing, a mount point, a symlink or
/// another kind where only one would do.
pub(super) fn absent<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) => match error.raw_os_error() {
            Some(
                libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EXDEV | libc::ESTALE | libc::EISDIR,
            ) => Ok(None),
            _ => Err(error),
        },
    }
}

/// openat2 says EAGAIN when a rename anywhere on the machine got in its way.
pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> io::Result<T> {
    /// Each try loses only against a rename within the same microsecond.
    const TRIES: usize = 64;
    for _ in 1..TRIES {
        match call() {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
    Ok(call()?)
}
