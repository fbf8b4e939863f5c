//! Extended attributes on the disk. Not here: which of them travel (see [`Xattrs`]).
//!
//! They are reached through `/proc/self/fd`, for there is no call that takes a directory and a name before
//! Linux 6.13. The name is the last component, and no link at it is followed.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::disk::{At, proc_path};
use crate::object::Xattrs;

/// The first try's room: the names of an object with attributes are 100 bytes, and so is an ACL.
const FEW: usize = 1024;
/// The kernel's limit on a list of names and on one value.
const MOST: usize = 64 << 10;

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
            let why = format!("its extended attributes are more than {} bytes", Xattrs::MAX);
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
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
/// this disk or this process cannot carry is left, but for an ACL on a disk that has none: without it others
/// might read what they may not.
pub(super) fn set(fd: BorrowedFd<'_>, wanted: &Xattrs) -> io::Result<bool> {
    let path = proc_path(fd);
    let have = of_inode(fd)?;
    let mut touched = false;
    let mut note = |name: &[u8], done: Result<(), Errno>| match done {
        Ok(()) => {
            touched = true;
            Ok(())
        }
        Err(Errno::NODATA | Errno::PERM) => Ok(()),
        Err(Errno::OPNOTSUPP) if !Xattrs::is_acl(name) => Ok(()),
        Err(error) => Err(io::Error::from(error)),
    };
    for (name, _) in have.iter().filter(|(name, _)| wanted.get(name).is_none()) {
        note(name, rustix::fs::removexattr(&path, OsStr::from_bytes(name)))?;
    }
    for (name, value) in wanted.iter().filter(|(name, value)| have.get(name) != Some(value)) {
        let set = rustix::fs::setxattr(&path, OsStr::from_bytes(name), value, XattrFlags::empty());
        note(name, set)?;
    }
    Ok(touched)
}
