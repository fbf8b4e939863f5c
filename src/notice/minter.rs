//! ObjectIds of inodes that the catalog does not have yet: a keyed hash of the file system's marker
//! and the kernel's handle, so that a crash right after a CREATE was answered loses no identity.

use std::sync::{Mutex, PoisonError};

use quick_cache::unsync::Cache;

use crate::id::{Epoch, ObjectId, RelPath};
use crate::object::LocalHandle;

/// Directories that a request named before they were recorded, kept until the next look.
const RECENT_MAX: usize = 4096;

pub(super) struct Minter {
    key: [u8; 32],
    marker: [u8; 16],
    recent: Mutex<Cache<ObjectId, (LocalHandle, RelPath)>>,
}

impl Minter {
    /// `key` comes from the cluster secret; `marker` from the root of the file system (R32).
    pub fn new(key: [u8; 32], marker: [u8; 16]) -> Self {
        Self { key, marker, recent: Mutex::new(Cache::new(RECENT_MAX)) }
    }

    pub fn mint(&self, epoch: Epoch, handle: &LocalHandle) -> ObjectId {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&self.marker);
        hasher.update(handle.as_bytes());
        let mut hash = [0; 12];
        hasher.finalize_xof().fill(&mut hash);
        ObjectId::new(epoch, hash)
    }

    /// A directory that a change names and the catalog lacks.
    pub fn remember(&self, id: ObjectId, handle: LocalHandle, path: RelPath) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).insert(id, (handle, path));
    }

    pub fn recall(&self, id: ObjectId) -> Option<(LocalHandle, RelPath)> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R32: the same object has the same id after a crash, and no other object has it.
    #[test]
    fn an_id_is_of_one_object_of_one_disk_in_one_cluster() {
        let mint = |key: u8, marker: u8, epoch, handle: &[u8]| {
            let minter = Minter::new([key; 32], [marker; 16]);
            minter.mint(Epoch(epoch), &LocalHandle::from_bytes(handle))
        };
        let id = mint(1, 2, 3, b"handle");
        assert_eq!(id, mint(1, 2, 3, b"handle"));
        // It is on disks: another way to make it would give every object that is not recorded a new one.
        assert_eq!(id.to_string(), "0000000382ac5b9a5633bdd823c67e2b");
        let others = [
            mint(9, 2, 3, b"handle"),
            mint(1, 9, 3, b"handle"),
            mint(1, 2, 9, b"handle"),
            mint(1, 2, 3, b"handl"),
        ];
        for (n, other) in others.iter().enumerate() {
            assert_ne!(id, *other);
            assert!(!others[..n].contains(other), "{other}");
        }
    }
}
