//! A site's durable index of its shares' objects, and each share's journal (ARCHITECTURE.md).
//!
//! One [`Catalog`] per site, one [`Shelf`] per share. Everything is read from the shelf; everything is
//! written as a [`Batch`], whole or not at all, by the committer's thread. A change of the tables and
//! the record that tells of it are one batch, so that the tables are always what the journal says.
//!
//! Not here: what is on the share's disk (`tree`), whether disk or catalog is right (`notice` at the
//! primary, `follow` at a copy), how records get to other sites (`link`).

mod apply;
mod batch;
mod commit;
mod committer;
mod error;
mod keys;
#[cfg(test)]
pub mod memory;
mod model;
mod proto;
mod repair;
mod rows;
mod shelf;
mod snapshot;
mod store;

use std::collections::VecDeque;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use apply::TRIM_MAX;
pub use batch::Batch;
pub use commit::{Commit, CommitRecords};
use committer::{Shared, Sweep};
pub use error::{CatalogError, Result};
pub use model::{Change, Debt, Head, Inline, Lead, Meta, PeerRow, Record, Release, Totals, Touch};
pub use proto::{
    CHANGES_MAX, DecodeError, RECORD_MAX, TOUCHES_MAX, XATTRS_MAX, decode_change, decode_record,
    decode_touch, decode_touch_gens, decode_xattrs, encode_change, encode_record, encode_touch,
    encode_touch_gens, encode_xattrs,
};
use rows::{DatabaseRow, State};
pub use rows::{decode_lock, encode_lock};
use shelf::Core;
pub use shelf::Shelf;
pub use snapshot::{Entries, Snapshot};
pub use store::Options;
use store::{Disk, Space, Store, Write};

use crate::hash::HashMap;
use crate::id::ShareId;
use crate::work::{self, Thread};

/// Entries that [`Shelf::links`] returns at most: ext4 allows 65,000 links to a file.
pub const LINKS_MAX: usize = 65_536;
/// Generations that are reserved at a time: a million changes for one sync.
const GEN_BLOCK: u64 = 1 << 20;
/// What the rows in a database mean. 1: the first.
const FORMAT: u32 = 1;

/// A site's catalog, in one directory.
pub struct Catalog {
    dir: PathBuf,
    shared: Arc<Shared>,
    /// The shares that were opened. Held while one is opened.
    shares: Mutex<HashMap<ShareId, Arc<Core>>>,
    thread: Mutex<Option<Thread>>,
}

impl Catalog {
    /// Opens the catalog in `dir`, or makes a new one; the directory gets mode 0700. One process at a
    /// time may have it open.
    pub fn open(dir: &Path, options: &Options) -> Result<Arc<Self>> {
        let failed = |what| {
            move |source: std::io::Error| CatalogError::Dir {
                what,
                dir: dir.to_owned(),
                source: Arc::new(source),
            }
        };
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(dir).map_err(failed("create"))?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
            .map_err(failed("set mode 0700"))?;
        Self::with_store(dir, Box::new(Disk::open(dir, options)?))
    }

    /// A catalog in memory.
    #[cfg(test)]
    pub fn in_memory(memory: &memory::Memory) -> Result<Arc<Self>> {
        Self::with_store(Path::new("memory"), Box::new(memory.clone()))
    }

    /// A catalog on any store; `dir` is for its errors only.
    fn with_store(dir: &Path, store: Box<dyn Store>) -> Result<Arc<Self>> {
        let database = match store.get(Space::Notes, &keys::database())? {
            Some(row) => rows::decode_database(&row).map_err(apply::damaged(&keys::database()))?,
            // Index 0 is the database's own.
            None => DatabaseRow { format: FORMAT, next_index: 1 },
        };
        if database.format > FORMAT {
            let (found, known) = (database.format, FORMAT);
            return Err(CatalogError::Newer { dir: dir.to_owned(), found, known });
        }
        let mut sweeps = VecDeque::new();
        for row in store.scan(Space::Notes, &keys::sweeps(), &keys::sweeps()) {
            let (key, _) = row?;
            let (space, index) =
                keys::sweep_of(&key).ok_or(DecodeError::Key).map_err(apply::damaged(&key))?;
            sweeps.push_back(Sweep::new(space, index));
        }
        let shared = Arc::new(Shared::new(store, database, sweeps));
        let run = shared.clone();
        let run = move || {
            // What went wrong is told to whoever commits or closes.
            let _ = run.run();
        };
        let thread = work::thread("catalog".to_owned(), run).map_err(|source| CatalogError::Dir {
            what: "start the committer's thread",
            dir: dir.to_owned(),
            source: Arc::new(source),
        })?;
        let thread = Mutex::new(Some(thread));
        Ok(Arc::new(Self { dir: dir.to_owned(), shared, shares: Mutex::default(), thread }))
    }

    /// The share's part, made if it is not there. All shelves of one share are the same.
    pub fn share(self: &Arc<Self>, share: &ShareId) -> Result<Arc<Shelf>> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(core) = shares.get(share) {
            return Ok(Arc::new(Shelf::new(self.clone(), core.clone())));
        }
        let core = Arc::new(self.open_share(share)?);
        let shelf = Arc::new(Shelf::new(self.clone(), core.clone()));
        shelf.reserve_gens()?;
        shares.insert(share.clone(), core);
        Ok(shelf)
    }

    fn open_share(&self, share: &ShareId) -> Result<Core> {
        let shared = &self.shared;
        let key = keys::share(share);
        if let Some(row) = shared.store.get(Space::Notes, &key)? {
            let index = rows::decode_index(&row).map_err(apply::damaged(&key))?;
            let key = keys::state(index);
            let row = shared.store.get(Space::Notes, &key)?;
            let row = row.ok_or(DecodeError::Missing { field: "the state" });
            let state = row.and_then(|row| rows::decode_state(&row));
            let mut state = state.map_err(apply::damaged(&key))?;
            if shared.store.repaired() {
                // As after any start whose last stop is not known to have been a clean one (R24).
                state.meta.clean = false;
                state.meta.boot_id.clear();
            }
            return Ok(Core::new(share.clone(), index, state));
        }
        let mut engine = shared.engine();
        shared.check()?;
        let index = engine.database.next_index;
        if index > keys::INDEX_MAX - 3 {
            let (what, limit) = ("the next index", keys::INDEX_MAX as usize);
            return Err(CatalogError::TooLarge { what, len: index as usize, limit });
        }
        let state = State { rows: index + 1, journal: index + 2, ..State::default() };
        engine.database.next_index = index + 3;
        let note = |key, value: Vec<u8>| Write { space: Space::Notes, key, value: Some(value.into()) };
        let writes = vec![
            engine.database_row(),
            note(key, rows::encode_index(index)),
            note(keys::state(index), rows::encode_state(&state)),
        ];
        shared.or_break(shared.store.apply(writes))?;
        shared.or_break(shared.store.persist(true))?;
        Ok(Core::new(share.clone(), index, state))
    }

    /// Why nothing is written any more: a write or sync has failed, and what is on the disk can be known
    /// only by opening the catalog again.
    pub fn broken(&self) -> Option<String> {
        self.shared.check().err().map(|error| error.to_string())
    }

    /// Commits carried out, and syncs that took, since it was opened.
    pub fn counts(&self) -> (u64, u64) {
        self.shared.counts()
    }

    /// Carries out what is queued, syncs and takes no more commits; reads go on. The directory is free
    /// for another process when all shelves are dropped too.
    pub fn close(&self) -> Result<()> {
        self.shared.close();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The last owner may be a closure that the committer itself drops. A panic is in `check`.
            let _ = thread.join();
        }
        self.shared.check()
    }
}

impl Drop for Catalog {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(dir = %self.dir.display(), %error, "the catalog was not closed cleanly");
        }
    }
}

#[cfg(test)]
mod tests;
