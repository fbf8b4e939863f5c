//! The two system calls that make the kernel tell of changes on a whole file system (fanotify(7)). Not here: what it
//! tells, and how that is read (see `watch`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// What changes names, contents or attributes. A file that is mapped into memory is told of when its last writer
/// lets it go.
const CHANGES: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_RENAME
    | libc::FAN_MODIFY
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ATTRIB
    | libc::FAN_ONDIR;

/// A group that names objects by their handles, and entries by their directory's handle and their name. It keeps
/// no more events than the kernel's own limit (16,384 unless the machine is told otherwise), and never blocks.
pub(super) fn group() -> io::Result<OwnedFd> {
    let flags = libc::FAN_CLASS_NOTIF
        | libc::FAN_CLOEXEC
        | libc::FAN_NONBLOCK
        | libc::FAN_REPORT_FID
        | libc::FAN_REPORT_DFID_NAME;
    // SAFETY: the call takes two numbers and touches no memory of ours.
    let fd = unsafe { libc::fanotify_init(flags, libc::O_RDONLY as u32) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// From now on `group` is told of every change on the file system that `dir` is of.
pub(super) fn mark(group: BorrowedFd<'_>, dir: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
    // SAFETY: both descriptors are open for the length of the call, and the path is a string that ends in NUL.
    let done = unsafe {
        libc::fanotify_mark(group.as_raw_fd(), flags, CHANGES, dir.as_raw_fd(), c".".as_ptr())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
