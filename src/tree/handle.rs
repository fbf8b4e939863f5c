//! The kernel's file handles. Not here: what a handle means to the
//! rest of nearshare (see `object::LocalHandle`).

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use crate::object::LocalHandle;

/// Longest handle of any file system, in bytes: Linux `MAX_HANDLE_SZ`.
const BYTES_MAX: usize = 128;
/// Bytes before the kernel's own in a [`LocalHandle`]: the file system's index (2, big endian) and
/// the handle's type (4, big endian).
const HEAD: usize = 6;
/// The root's own file system. Others are not entered.
const ROOT_FS: [u8; 2] = [0, 0];

/// The kernel also says ENOMEM of an inode that is just being deleted, and ESTALE a moment later: it is
/// asked again after this, so many times. A machine that really has no memory is told after 50 ms.
const DYING: Duration = Duration::from_millis(1);
const DYING_TRIES: u32 = 50;

/// Handle types of `linux/exportfs.h` that hold the inode number in a place we know.
const INO32_GEN: i32 = 1;
const XFS_INO64_GEN: i32 = 0x81;
const BTRFS_WITHOUT_PARENT: i32 = 0x4d;

/// One inode's handle as the kernel gives it: `struct file_handle` with its room.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Handle {
    len: u32,
    kind: i32,
    bytes: [u8; BYTES_MAX],
}

impl Handle {
    /// Of the entry `name` of `dir`, a symlink not followed; of `dir` itself if `name` is empty.
    /// EOPNOTSUPP where the file system has no handles.
    pub(super) fn of(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Self> {
        let mut handle = Self { len: BYTES_MAX as u32, kind: 0, bytes: [0; BYTES_MAX] };
        let mut mount_id = 0;
        let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
        // SAFETY: `dir` is an open descriptor and `name` a NUL-terminated string for the length of
        // the call. `handle` has the layout of `struct file_handle` followed by `len` = 128 bytes,
        // and the kernel writes no more than `len` of them. Without AT_SYMLINK_FOLLOW nothing is
        // followed.
        let result = unsafe {
            libc::name_to_handle_at(
                dir.as_raw_fd(),
                name.as_ptr(),
                (&raw mut handle).cast::<libc::file_handle>(),
                &raw mut mount_id,
                flags,
            )
        };
        if result == 0 { Ok(handle) } else { Err(io::Error::last_os_error()) }
    }

    /// Opens the inode with `O_PATH | O_NOFOLLOW` and `flags`. ESTALE when it is gone, EPERM without
    /// CAP_DAC_READ_SEARCH. `mount` must not be an `O_PATH` descriptor.
    pub(super) fn open(&self, mount: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
        for _ in 0..DYING_TRIES {
            match self.open_once(mount, flags) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                    std::thread::park_timeout(DYING);
                }
                opened => return opened,
            }
        }
        self.open_once(mount, flags)
    }

    fn open_once(&self, mount: BorrowedFd<'_>, flags: i32) -> io::Result<OwnedFd> {
        let mut handle = *self;
        let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC | flags;
        // SAFETY: `handle` has the layout of `struct file_handle` with `len` <= 128 bytes behind it
        // (`of` and `from_local` see to that), which the kernel only reads; it checks the content
        // itself. `mount` is an open descriptor.
        let fd = unsafe {
            libc::open_by_handle_at(
                mount.as_raw_fd(),
                (&raw mut handle).cast::<libc::file_handle>(),
                flags,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave us this descriptor and nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    pub(super) fn to_local(self) -> LocalHandle {
        let len = self.len.min(BYTES_MAX as u32) as usize;
        let mut bytes = [0; HEAD + BYTES_MAX];
        bytes[..2].copy_from_slice(&ROOT_FS);
        bytes[2..HEAD].copy_from_slice(&self.kind.to_be_bytes());
        bytes[HEAD..HEAD + len].copy_from_slice(&self.bytes[..len]);
        LocalHandle::from_bytes(&bytes[..HEAD + len])
    }

    /// `None` for what no look of this release has ever returned.
    pub(super) fn from_local(local: &LocalHandle) -> Option<Self> {
        let (head, rest) = local.as_bytes().split_first_chunk::<HEAD>()?;
        if head[..2] != ROOT_FS || rest.len() > BYTES_MAX {
            return None;
        }
        let kind = i32::from_be_bytes([head[2], head[3], head[4], head[5]]);
        let mut bytes = [0; BYTES_MAX];
        bytes[..rest.len()].copy_from_slice(rest);
        Some(Self { len: rest.len() as u32, kind, bytes })
    }

    /// Of the parts that the kernel told; `None` if they are no handle.
    pub(super) fn from_parts(kind: i32, raw: &[u8]) -> Option<Self> {
        let mut bytes = [0; BYTES_MAX];
        bytes.get_mut(..raw.len())?.copy_from_slice(raw);
        Some(Self { len: raw.len() as u32, kind, bytes })
    }

    /// Whether the handle is known to name inode `ino`. `false` also means "cannot tell".
    pub(super) fn names_inode(&self, ino: u64) -> bool {
        let words = self.bytes.as_chunks::<4>().0;
        let word = |n: usize| u64::from(u32::from_ne_bytes(words[n]));
        match (self.kind, self.len) {
            (INO32_GEN, 8) => word(0) == ino,
            // tmpfs puts the generation first and the number in two words.
            (INO32_GEN, 12) => word(1) | word(2) << 32 == ino,
            (XFS_INO64_GEN, 12) => self.first_u64() == ino,
            (BTRFS_WITHOUT_PARENT, _) => self.first_u64() == ino,
            _ => false,
        }
    }

    fn first_u64(&self) -> u64 {
        let (first, _) = self.bytes.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        u64::from_ne_bytes(*first)
    }
}

impl PartialEq for Handle {
    fn eq(&self, other: &Self) -> bool {
        let len = self.len as usize;
        self.kind == other.kind && self.len == other.len && self.bytes[..len] == other.bytes[..len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    /// The fast look rests on this on ext4 and tmpfs.
    #[test]
    fn a_handle_names_its_inode_and_no_other() {
        for parent in ["/tmp", "/dev/shm"] {
            let Ok(file) = tempfile::tempfile_in(parent) else { continue };
            let ino = file.metadata().unwrap().ino();
            let handle = Handle::of(file.as_fd(), c"").unwrap();
            assert!(!handle.names_inode(ino + 1));
            assert!(!handle.names_inode(ino | 1 << 40));
            if handle.kind == INO32_GEN {
                assert!(handle.names_inode(ino), "{parent}");
            }
        }
    }

    #[test]
    fn local_handles_round_trip() {
        for len in [0, 1, 8, 12, BYTES_MAX] {
            let mut handle = Handle { len: len as u32, kind: -2, bytes: [0; BYTES_MAX] };
            handle.bytes[..len].fill(7);
            let local = handle.to_local();
            assert_eq!(local.as_bytes().len(), HEAD + len);
            assert!(Handle::from_local(&local).unwrap() == handle);
        }
    }
}
