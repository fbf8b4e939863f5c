//! The seam between the catalog's tables and whatever keeps them: ordered bytes, atomic batches, and
//! a sync when it is asked for. [`Disk`] keeps them in fjall, and is the only place that knows it.
//! Not here: what the bytes mean (see `keys` and `proto`).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::config::{
    BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
    PartitioningPolicy,
};
use fjall::{
    CompressionType, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot,
};

use super::error::{CatalogError, Result};
use super::repair;

/// Keys with one prefix grow apart from the others in size, age and use; each has a tree of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Small rows, read at random: objects, names, links, local handles, debts.
    Rows,
    /// Large rows, appended, read and dropped in order.
    Journal,
    /// Few rows that come and go: marks, requests ahead, peers, state.
    Notes,
}

impl Space {
    pub const ALL: [Self; 3] = [Self::Rows, Self::Journal, Self::Notes];

    pub fn number(self) -> u8 {
        match self {
            Self::Rows => 1,
            Self::Journal => 2,
            Self::Notes => 3,
        }
    }
    /// Place in an array of all spaces.
    pub fn slot(self) -> usize {
        usize::from(self.number()) - 1
    }
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|space| space.number() == number)
    }
    fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows",
            Self::Journal => "journal",
            Self::Notes => "notes",
        }
    }
}

/// One key to be set, or removed when `value` is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub space: Space,
    pub key: Vec<u8>,
    pub value: Option<Bytes>,
}

pub type Rows<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes)>> + Send + 'a>;

/// Something to read from: the store as it is now, or a snapshot of it.
pub trait View: Send + Sync {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>>;
    /// All rows whose key begins with `prefix` and is not below `from`, in order of their keys. What
    /// is written meanwhile is not seen.
    fn scan(&self, space: Space, prefix: &[u8], from: &[u8]) -> Rows<'_>;
}

/// Ordered bytes that survive. After an error of `apply` or `persist` only opening it again tells
/// what was kept.
pub trait Store: View + 'static {
    /// All of `writes` or nothing, visible at once. After a crash the batches that are there are the
    /// first so many; all that were applied before a `persist(true)` are among them.
    fn apply(&self, writes: Vec<Write>) -> Result<()>;
    /// Hands all batches to the kernel; with `sync` to the disk.
    fn persist(&self, sync: bool) -> Result<()>;
    fn snapshot(&self) -> Box<dyn View>;
    /// Whether it could only be opened by leaving out the last batches: perhaps more than a crash may
    /// take.
    fn repaired(&self) -> bool;
}

/// How much memory the catalog may use.
#[derive(Debug, Clone)]
pub struct Options {
    /// Blocks of tables kept in memory, in bytes.
    pub cache_bytes: u64,
    /// What the rows may fill in memory before it is written out as a table, in bytes; the journal
    /// gets half and the notes a quarter of it. Up to two more such parts wait to be written.
    pub memtable_bytes: u64,
}

impl Default for Options {
    /// Measured with a million files: 24 MiB of memory while they are recorded, 2 MiB after a restart;
    /// twice the cache records no faster.
    fn default() -> Self {
        Self { cache_bytes: 4 << 20, memtable_bytes: 2 << 20 }
    }
}

/// Threads that write and merge tables. (Of two, fjall keeps one spinning while the other merges.)
const WORKERS: usize = 1;
/// Size of one table. The first level holds four, each further one ten times as much; in larger ones
/// every write of a memtable would have most of a small catalog merged again.
const TABLE_BYTES: u64 = 4 << 20;
/// Open table files kept at hand: 512 MiB of catalog.
const OPEN_TABLES: usize = 128;
/// Once logs of unflushed rows exceed this, the oldest rows are written out. The least fjall takes.
const LOG_BYTES: u64 = 64 << 20;

/// Tables that may wait to be written out of memory; a write that would add one more waits.
const WAITING_MAX: usize = 2;
/// How often such a write looks again, and how many times before it gives up: 60 s.
const WAIT_POLL: Duration = Duration::from_millis(1);
const WAIT_POLLS: u32 = 60_000;
/// What a row takes in memory besides its key and value.
const ROW_BYTES: usize = 64;

/// A fjall database.
pub struct Disk {
    db: Database,
    spaces: [Keyspace; 3],
    /// Bytes that each space has in memory and may have there.
    filled: [AtomicUsize; 3],
    limits: [usize; 3],
    repaired: bool,
}

impl Disk {
    /// Opens or creates the database in `dir`, which exists. One process at a time.
    pub fn open(dir: &Path, options: &Options) -> Result<Self> {
        let mut repaired = false;
        let db = loop {
            match builder(dir, options).open() {
                Ok(db) => break db,
                Err(fjall::Error::Locked) => return Err(CatalogError::Locked { dir: dir.to_owned() }),
                Err(fjall::Error::JournalRecovery(_)) if !repaired => {
                    repaired = true;
                    let cut = repair::cut_log(dir).map_err(not_opened(dir, "repair the log"))?;
                    if let Some(repair::Cut { log, at, aside }) = cut {
                        tracing::warn!(
                            log = %log.display(), at, aside = %aside.display(),
                            "the catalog's log was cut behind its last whole batch after a power cut; \
                             the shares are scanned"
                        );
                    }
                }
                Err(other) => return Err(not_opened(dir, "open")(std::io::Error::other(other))),
            }
        };
        let open = |space: Space| {
            db.keyspace(space.name(), || create_options(space)).map_err(failed("open a space"))
        };
        let spaces = [open(Space::Rows)?, open(Space::Journal)?, open(Space::Notes)?];
        let rows = usize::try_from(options.memtable_bytes).unwrap_or(usize::MAX);
        // How full they are after a crash is not told apart by space.
        let replayed = usize::try_from(db.write_buffer_size()).unwrap_or(usize::MAX);
        let filled = [replayed, replayed, replayed].map(AtomicUsize::new);
        let disk = Self { db, spaces, filled, limits: [rows, rows / 2, rows / 4], repaired };
        // What a killed process left with the kernel only is as good as lost until it is synced.
        disk.db.persist(PersistMode::SyncAll).map_err(failed("sync"))?;
        Ok(disk)
    }

    /// Has what a space holds in memory written out as a table, once there is enough of it.
    ///
    /// fjall can do that by itself, but then it asks its worker again with every write until that is
    /// done, and the worker waits for itself for ever when its queue is full of that.
    fn rotate(&self, space: Space) -> Result<()> {
        let filled = &self.filled[space.slot()];
        if filled.load(Ordering::Relaxed) < self.limits[space.slot()] {
            return Ok(());
        }
        self.wait_for_worker()?;
        self.space(space).rotate_memtable().map_err(failed("write a table"))?;
        filled.store(0, Ordering::Relaxed);
        Ok(())
    }

    fn wait_for_worker(&self) -> Result<()> {
        for _ in 0..WAIT_POLLS {
            if self.spaces.iter().map(Keyspace::sealed_memtable_count).sum::<usize>() < WAITING_MAX {
                return Ok(());
            }
            // Fails when the worker has met an error and stopped.
            self.db.persist(PersistMode::Buffer).map_err(failed("write a table"))?;
            std::thread::park_timeout(WAIT_POLL);
        }
        let why = "the store's worker makes no progress".to_owned();
        Err(CatalogError::Store { what: "write a table", why })
    }

    fn space(&self, space: Space) -> &Keyspace {
        &self.spaces[space.slot()]
    }
}

fn builder(dir: &Path, options: &Options) -> fjall::DatabaseBuilder<Database> {
    Database::builder(dir)
        .cache_size(options.cache_bytes)
        .worker_threads(WORKERS)
        .max_cached_files(Some(OPEN_TABLES))
        .max_journaling_size(LOG_BYTES)
        .journal_compression(CompressionType::None)
        .manual_journal_persist(true)
}

fn create_options(space: Space) -> KeyspaceCreateOptions {
    let block = if space == Space::Journal { 32 << 10 } else { 4 << 10 };
    // One look-up of a hundred reads a block in vain.
    let bits = BloomConstructionPolicy::BitsPerKey(10.0);
    KeyspaceCreateOptions::default()
        // See `Disk::rotate`.
        .max_memtable_size(u64::MAX)
        .data_block_size_policy(BlockSizePolicy::all(block))
        .data_block_compression_policy(CompressionPolicy::all(CompressionType::Lz4))
        // In one piece, the filter of a large table is larger than the cache, and would be read from
        // disk for every look-up.
        .filter_block_partitioning_policy(PartitioningPolicy::all(true))
        .index_block_partitioning_policy(PartitioningPolicy::all(true))
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(bits)))
        .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(TABLE_BYTES)))
        .manual_journal_persist(true)
}

fn not_opened(dir: &Path, what: &'static str) -> impl FnOnce(std::io::Error) -> CatalogError {
    let dir = dir.to_owned();
    move |source| CatalogError::Dir { what, dir, source: Arc::new(source) }
}

fn failed(what: &'static str) -> impl Fn(fjall::Error) -> CatalogError {
    move |error| CatalogError::Store { what, why: error.to_string() }
}

fn range(prefix: &[u8], from: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let first = if from > prefix { from } else { prefix };
    let mut end = prefix.to_vec();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    let end = match end.last_mut() {
        Some(last) => {
            *last += 1;
            Some(end)
        }
        None => None,
    };
    (first.to_vec(), end)
}

fn rows(iter: fjall::Iter) -> Rows<'static> {
    Box::new(iter.map(|guard| {
        let (key, value) = guard.into_inner().map_err(failed("read a range"))?;
        Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
    }))
}

impl View for Disk {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.space(space).get(key).map_err(failed("read"))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }
    fn scan(&self, space: Space, prefix: &[u8], from: &[u8]) -> Rows<'_> {
        let space = self.space(space);
        rows(match range(prefix, from) {
            (first, Some(end)) if first < end => space.range(first..end),
            (_, Some(_)) => return Box::new(std::iter::empty()),
            (first, None) => space.range(first..),
        })
    }
}

impl Store for Disk {
    fn apply(&self, writes: Vec<Write>) -> Result<()> {
        let mut batch = self.db.batch();
        for Write { space, key, value } in writes {
            let bytes = key.len() + value.as_ref().map_or(0, Bytes::len) + ROW_BYTES;
            self.filled[space.slot()].fetch_add(bytes, Ordering::Relaxed);
            match value {
                Some(value) => batch.insert(self.space(space), key, &value[..]),
                None => batch.remove(self.space(space), key),
            }
        }
        batch.commit().map_err(failed("write"))?;
        Space::ALL.into_iter().try_for_each(|space| self.rotate(space))
    }
    fn persist(&self, sync: bool) -> Result<()> {
        let mode = if sync { PersistMode::SyncData } else { PersistMode::Buffer };
        self.db.persist(mode).map_err(failed("sync"))
    }
    fn snapshot(&self) -> Box<dyn View> {
        Box::new(DiskSnapshot { snapshot: self.db.snapshot(), spaces: self.spaces.clone() })
    }
    fn repaired(&self) -> bool {
        self.repaired
    }
}

struct DiskSnapshot {
    snapshot: Snapshot,
    spaces: [Keyspace; 3],
}

impl View for DiskSnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        let space = &self.spaces[space.slot()];
        let found = self.snapshot.get(space, key).map_err(failed("read a snapshot"))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }
    fn scan(&self, space: Space, prefix: &[u8], from: &[u8]) -> Rows<'_> {
        let space = &self.spaces[space.slot()];
        rows(match range(prefix, from) {
            (first, Some(end)) if first < end => self.snapshot.range(space, first..end),
            (_, Some(_)) => return Box::new(std::iter::empty()),
            (first, None) => self.snapshot.range(space, first..),
        })
    }
}
