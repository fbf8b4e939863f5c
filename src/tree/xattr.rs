//! Extended attributes on the disk. Not here: which of them travel (see [`Xattrs`]).
//!
//! They are reached through `/proc/self/fd`, for there is no call that takes a directory and a name before
//! Linux 6.13. The name is the last component, and no link at it is followed.

use std::cell::Cell;
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::TooManyXattrs;
use super::disk::{At, proc_path};
use crate::object::Xattrs;

/// The first try's room: the names of an object with attributes are 100 bytes, and so is an ACL.
const FEW: usize = 1024;
/// The kernel's limit on a list of names and on one value.
const MOST: usize = 64 << 10;
/// A disk with less room than this, in bytes, is full: what an object may have of attributes would not fit.
const ROOM: u64 = 1 << 20;

/// An entry itself, a symbolic link not followed.
pub(super) struct Path(CString);

impl Path {
    pub(super) fn of(at: &At<'_>) -> io::Result<Self> {
        let path = format!("/proc/self/fd/{}/", at.dir.as_raw_fd());
        Ok(Self(CString::new([path.as_bytes(), at.leaf.as_c_str().to_bytes()].concat())?))
    }
}

/// Those that travel, of an entry.
pub(super) fn of_entry(path: &Path) -> io::Result<Xattrs> {
    let list = |room: &mut [u8]| rustix::fs::llistxattr(&*path.0, room);
    read(list, |name, room| rustix::fs::lgetxattr(&*path.0, OsStr::from_bytes(name), room))
}

/// Those that travel, of an open file.
pub(super) fn of_file(file: &File) -> io::Result<Xattrs> {
    let list = |room: &mut [u8]| rustix::fs::flistxattr(file, room);
    read(list, |name, room| rustix::fs::fgetxattr(file, OsStr::from_bytes(name), room))
}

/// Those that travel, of an inode opened with `O_PATH`, a symbolic link itself as well.
pub(super) fn of_inode(fd: BorrowedFd<'_>) -> io::Result<Xattrs> {
    let path = proc_path(fd);
    let list = |room: &mut [u8]| rustix::fs::listxattr(&path, room);
    read(list, |name, room| rustix::fs::getxattr(&path, OsStr::from_bytes(name), room))
}

fn read(
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Xattrs> {
    let mut few = [0; FEW];
    let mut many = Vec::new();
    let mut xattrs = Xattrs::default();
    let names = match filled(&mut few, &mut many, list) {
        Ok(names) => names,
        // A file system without any, or a kind of file that has none.
        Err(Errno::OPNOTSUPP) => return Ok(xattrs),
        Err(error) => return Err(error.into()),
    };
    if names.is_empty() {
        return Ok(xattrs);
    }
    let names = names.to_vec();
    for name in names.split(|byte| *byte == 0).filter(|name| Xattrs::is_carried(name)) {
        match filled(&mut few, &mut many, |room| get(name, room)) {
            Ok(value) => xattrs.insert(name.to_vec(), value.to_vec()),
            // It went meanwhile, or is listed by a file system that has no such handler.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        if xattrs.bytes() > Xattrs::MAX {
            return Err(io::Error::other(TooManyXattrs::Carried));
        }
    }
    Ok(xattrs)
}

/// What a call puts into as little room as it needs.
fn filled<'a>(
    few: &'a mut [u8],
    many: &'a mut Vec<u8>,
    call: impl Fn(&mut [u8]) -> Result<usize, Errno>,
) -> Result<&'a [u8], Errno> {
    match call(few) {
        Ok(len) => Ok(&few[..len]),
        Err(Errno::RANGE) => {
            many.resize(MOST, 0);
            let len = call(many)?;
            Ok(&many[..len])
        }
        Err(error) => Err(error),
    }
}

/// Makes what travels of an inode's attributes what is `wanted`; says whether that changed anything. What
/// this disk or this process cannot carry is left, but for an ACL: without it others might read what they
/// may not.
pub(super) fn set(fd: BorrowedFd<'_>, wanted: &Xattrs) -> io::Result<bool> {
    let path = proc_path(fd);
    let remove = |name: &[u8]| rustix::fs::removexattr(&path, OsStr::from_bytes(name));
    let refused = Cell::new(None);
    let put = |name: &[u8], value: &[u8]| {
        let put = rustix::fs::setxattr(&path, OsStr::from_bytes(name), value, XattrFlags::empty());
        refused.set(put.err());
        put
    };
    let done = bring(wanted, || of_inode(fd), remove, put);
    match (&done, refused.get()) {
        (Err(_), Some(errno)) if errno == Errno::TOOBIG || errno == Errno::NOSPC && has_room(fd)? => {
            Err(io::Error::other(TooManyXattrs::Kept { bytes: wanted.bytes() }))
        }
        _ => done,
    }
}

/// Whether the disk is not full: then it is the inode that is.
fn has_room(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let stat = rustix::fs::fstatvfs(fd)?;
    let inodes = stat.f_files == 0 || stat.f_ffree > 0;
    Ok(inodes && stat.f_bavail.saturating_mul(stat.f_frsize) >= ROOM)
}

fn bring(
    wanted: &Xattrs,
    read: impl Fn() -> io::Result<Xattrs>,
    remove: impl Fn(&[u8]) -> Result<(), Errno>,
    put: impl Fn(&[u8], &[u8]) -> Result<(), Errno>,
) -> io::Result<bool> {
    let mut have = read()?;
    let mut touched = false;
    for (name, _) in have.iter().filter(|(name, _)| wanted.get(name).is_none()) {
        touched |= done(name, remove(name))?;
    }
    if touched {
        // What a file system shows under two names, as XFS does its ACLs, has gone with either of them.
        have = read()?;
    }
    for (name, value) in wanted.iter().filter(|(name, value)| have.get(name) != Some(value)) {
        touched |= done(name, put(name, value))?;
    }
    Ok(touched)
}

/// Whether a change of one attribute was made.
fn done(name: &[u8], result: Result<(), Errno>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        // What was to go had gone.
        Err(Errno::NODATA) => Ok(false),
        Err(Errno::PERM | Errno::OPNOTSUPP) if !Xattrs::is_acl(name) => Ok(false),
        Err(errno) if Xattrs::is_acl(name) => Err(io::Error::other(OfAcl(errno))),
        Err(error) => Err(error.into()),
    }
}

/// An ACL could not be set, and why.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct OfAcl(Errno);

/// What could not be done if `error` is of attributes, with what helps against it, and the disk's own error.
pub(super) fn failed(what: &'static str, error: io::Error) -> (&'static str, io::Error) {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<OfAcl>()) {
        Some(OfAcl(errno)) => {
            let what = match *errno {
                Errno::OPNOTSUPP => {
                    "set the ACL (without it others may read what they must not: use ext4, xfs or btrfs \
                     here, not mounted with noacl) of"
                }
                Errno::PERM => {
                    "set the ACL (without it others may read what they must not: run nearshare as root \
                     or with CAP_FOWNER, and see with lsattr whether this is immutable) of"
                }
                _ => "set the ACL of",
            };
            (what, (*errno).into())
        }
        None => (what, error),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Xattrs {
        let mut set = Xattrs::default();
        pairs.iter().for_each(|(name, value)| set.insert((*name).into(), (*value).into()));
        set
    }

    /// On a file system that shows an ACL under another name as well.
    #[test]
    fn what_goes_with_a_second_name_is_put_again() {
        let (acl, other) = ("system.posix_acl_access", "trusted.second-name");
        let disk = RefCell::new(set(&[(acl, "rights"), (other, "rights"), ("user.a", "1")]));
        let remove = |name: &[u8]| {
            if name == other.as_bytes() {
                disk.borrow_mut().remove(acl.as_bytes());
            }
            disk.borrow_mut().remove(name);
            Ok(())
        };
        let put = |name: &[u8], value: &[u8]| {
            disk.borrow_mut().insert(name.into(), value.into());
            Ok(())
        };
        let wanted = set(&[(acl, "rights"), ("user.b", "2")]);
        assert!(bring(&wanted, || Ok(disk.borrow().clone()), remove, put).unwrap());
        assert_eq!(*disk.borrow(), wanted);
        assert!(!bring(&wanted, || Ok(disk.borrow().clone()), remove, put).unwrap());
    }

    #[test]
    fn only_an_acl_has_to_be_carried() {
        let refusing = |errno: Errno, name: &str, have: bool| {
            let set = set(&[(name, "x")]);
            let (have, wanted) = if have { (set, Xattrs::default()) } else { (Xattrs::default(), set) };
            bring(&wanted, || Ok(have.clone()), |_| Err(errno), |_, _| Err(errno))
        };
        for have in [false, true] {
            for errno in [Errno::PERM, Errno::OPNOTSUPP] {
                assert!(!refusing(errno, "trusted.x", have).unwrap());
                let error = refusing(errno, "system.posix_acl_default", have).unwrap_err();
                let (what, error) = failed("set", error);
                assert_eq!(error.raw_os_error(), Some(errno.raw_os_error()));
                assert!(what.starts_with("set the ACL (without it"), "{what}");
            }
            let full = |name| failed("set", refusing(Errno::NOSPC, name, have).unwrap_err());
            for (name, said) in [("user.x", "set"), ("system.posix_acl_access", "set the ACL of")] {
                let (what, error) = full(name);
                assert_eq!((what, error.raw_os_error()), (said, Some(libc::ENOSPC)));
            }
        }
        assert!(!refusing(Errno::NODATA, "system.posix_acl_access", true).unwrap());
    }
}
