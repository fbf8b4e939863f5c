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
