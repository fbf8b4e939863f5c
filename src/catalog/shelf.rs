//! One share's part of the catalog: what there is to read, and where to commit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::apply::{MarkRow, damaged};
use super::batch::Batch;
use super::commit::{Commit, CommitRecords};
use super::error::{CatalogError, Result};
use super::keys;
use super::model::{Debt, Head, Meta, PeerRow, Record, Totals, Touch};
use super::proto::{self, DecodeError};
use super::rows::{self, State};
use super::snapshot::Snapshot;
use super::store::{Space, View};
use super::{Catalog, GEN_BLOCK, LINKS_MAX};
use crate::id::{Epoch, Gen, Hash, Name, ObjectId, Position, RelPath, Seq, ShareId, SiteId};
use crate::object::{Local, LocalHandle, Object};
use crate::wire::http::lock::Lock;

/// Steps up to the root at most: a path of 4096 bytes has no more.
const DEPTH_MAX: usize = 2048;

/// One share's part of the catalog. Reads see what is committed, durable or not, and may wait for
/// the disk; each by itself is consistent, two in a row need not be (see [`Shelf::snapshot`]).
pub struct Shelf {
    pub(super) catalog: Arc<Catalog>,
    pub(super) core: Arc<Core>,
}

/// The part of a shelf that the committer works on.
pub struct Core {
    pub share: ShareId,
    pub index: u32,
    state: Mutex<State>,
    /// The head as far as it is synced.
    pub durable: watch::Sender<Head>,
    gens: Mutex<Gens>,
    commits: AtomicU64,
}

struct Gens {
    last: Gen,
    /// Nothing above this may be handed out before a higher one is durable.
    reserved: Gen,
}

impl Core {
    pub fn new(share: ShareId, index: u32, state: State) -> Self {
        let reserved = state.meta.gen_reserved;
        Self {
            share,
            index,
            durable: watch::Sender::new(state.head),
            state: Mutex::new(state),
            // What was handed out of the last block is not known: it is left behind.
            gens: Mutex::new(Gens { last: reserved, reserved }),
            commits: AtomicU64::new(0),
        }
    }
    /// What readers see has changed.
    pub fn committed(&self) {
        self.commits.fetch_add(1, Ordering::SeqCst);
    }
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    pub(super) fn new(catalog: Arc<Catalog>, core: Arc<Core>) -> Self {
        Self { catalog, core }
    }

    pub fn share(&self) -> &ShareId {
        &self.core.share
    }

    /// Another number whenever what can be read here has changed since: what was read under one, and is
    /// remembered, is as good as new under the same (R21).
    pub fn commits(&self) -> u64 {
        self.core.commits.load(Ordering::SeqCst)
    }

    // ---- objects and names

    pub fn object(&self, id: ObjectId) -> Result<Option<Object>> {
        object(self.view(), self.rows(), id)
    }

    /// Ids of objects in their order, from the one behind `after`.
    pub fn objects(&self, after: Option<ObjectId>, limit: usize) -> Result<Vec<ObjectId>> {
        let prefix = keys::objects(self.rows());
        let from = match after {
            Some(id) => behind(keys::object(self.rows(), id)),
            None => prefix.clone(),
        };
        let rows = self.view().scan(Space::Rows, &prefix, &from).take(limit);
        let decode = |row: Result<(Bytes, Bytes)>| {
            let (key, _) = row?;
            keys::object_of(&key).ok_or(DecodeError::Key).map_err(damaged(&key))
        };
        rows.map(decode).collect()
    }

    pub fn child(&self, parent: ObjectId, name: &Name) -> Result<Option<ObjectId>> {
        self.id_at(&keys::name(self.rows(), parent, name))
    }

    /// Entries of a directory in the order of their names' bytes, from the one behind `after`.
    pub fn children(
        &self,
        parent: ObjectId,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<(Name, ObjectId)>> {
        let prefix = keys::names(self.rows(), parent);
        let from = match after {
            Some(name) => behind(keys::name(self.rows(), parent, name)),
            None => prefix.clone(),
        };
        let rows = self.view().scan(Space::Rows, &prefix, &from).take(limit);
        rows.map(|row| entry(&row?)).collect()
    }

    /// Every entry that is this object, at most [`LINKS_MAX`].
    pub fn links(&self, id: ObjectId) -> Result<Vec<(ObjectId, Name)>> {
        links(self.view(), self.rows(), id, LINKS_MAX)
    }

    /// Where the object is, by the first of its names and of its parents' names. `None` when there is
    /// no way up to the root (R16), or the way is longer than a path may be.
    pub fn path_of(&self, id: ObjectId) -> Result<Option<RelPath>> {
        let view = self.view().snapshot();
        let rows = self.rows();
        let mut names = Vec::new();
        let mut at = id;
        while at != ObjectId::ROOT {
            let Some((parent, name)) = links(&*view, rows, at, 1)?.pop() else { return Ok(None) };
            if names.len() == DEPTH_MAX {
                return Ok(None);
            }
            names.push(name);
            at = parent;
        }
        names.reverse();
        Ok(RelPath::new(names).ok())
    }

    pub fn totals(&self) -> Totals {
        self.core.state().totals
    }

    // ---- this disk

    pub fn local(&self, id: ObjectId) -> Result<Option<Local>> {
        let key = keys::local(self.rows(), id);
        let row = self.view().get(Space::Rows, &key)?;
        row.map(|row| rows::decode_local(&row).map_err(damaged(&key))).transpose()
    }

    pub fn by_handle(&self, handle: &LocalHandle) -> Result<Option<ObjectId>> {
        self.id_at(&keys::handle(self.rows(), handle))
    }

    // ---- the journal

    pub fn head(&self) -> Head {
        self.core.state().head
    }

    /// The head as far as it is synced: a record leaves the site only then (R23). Changes are seen by
    /// whoever waits for them.
    pub fn durable_head(&self) -> watch::Receiver<Head> {
        self.core.durable.subscribe()
    }

    /// The first record that is kept; one behind the head when there is none.
    pub fn oldest(&self) -> Seq {
        self.core.state().kept_after.seq.next()
    }

    pub fn record(&self, seq: Seq) -> Result<Option<Record>> {
        let key = keys::record(self.journal(), seq);
        let row = self.view().get(Space::Journal, &key)?;
        row.map(|row| proto::decode_record(&row).map_err(damaged(&key))).transpose()
    }

    /// Records behind `seq`, as many as `max_records` and `max_bytes` (of their stored form) allow, but
    /// one at least if there is one. `Trimmed` when the first of them is no longer kept.
    pub fn records_after(&self, seq: Seq, max_records: usize, max_bytes: usize) -> Result<Vec<Record>> {
        let stored = self.stored_after(seq, max_records, max_bytes)?;
        let decode = |(at, bytes): (Seq, Bytes)| {
            proto::decode_record(&bytes).map_err(damaged(&keys::record(self.journal(), at)))
        };
        stored.into_iter().map(decode).collect()
    }

    /// As [`Shelf::records_after`], in the form in which they are stored and sent.
    pub fn stored_after(
        &self,
        seq: Seq,
        max_records: usize,
        max_bytes: usize,
    ) -> Result<Vec<(Seq, Bytes)>> {
        let (journal, kept) = {
            let state = self.core.state();
            (state.journal, state.kept_after.seq)
        };
        if seq < kept {
            return Err(CatalogError::Trimmed { share: self.core.share.clone(), after: seq, kept });
        }
        let prefix = keys::index(journal);
        let from = keys::record(journal, seq.next());
        let mut found = Vec::new();
        let (mut bytes, mut next) = (0usize, seq.next());
        for row in self.view().scan(Space::Journal, &prefix, &from).take(max_records) {
            let (key, value) = row?;
            bytes = bytes.saturating_add(value.len());
            // A trim may overtake this read: a gap is never handed out.
            if key[..] != keys::record(journal, next)[..] || (bytes > max_bytes && !found.is_empty()) {
                break;
            }
            found.push((next, value));
            next = next.next();
        }
        Ok(found)
    }

    /// The chain hash that this journal has at a position; `None` when it is not, or no longer, there.
    pub fn chain_at(&self, at: Position) -> Result<Option<Hash>> {
        let (journal, head, kept_after, kept_chain) = {
            let state = self.core.state();
            (state.journal, state.head, state.kept_after, state.kept_chain)
        };
        if head.incarnation == Hash::default() {
            return Ok(None);
        }
        if at == head.at {
            return Ok(Some(head.chain));
        }
        if at == kept_after {
            return Ok(Some(kept_chain));
        }
        let key = keys::record(journal, at.seq);
        let Some(row) = self.view().get(Space::Journal, &key)? else { return Ok(None) };
        let (found, _, chain) = proto::decode_links(&row).map_err(damaged(&key))?;
        Ok((found == at).then_some(chain))
    }

    // ---- marks, requests ahead, debts, peers

    pub fn marks(&self) -> Result<Vec<(Touch, Gen)>> {
        self.notes(&keys::marks(self.core.index), |key, row| {
            Ok((keys::mark_of(key).ok_or(DecodeError::Key)?, MarkRow::decode(row)?.generation))
        })
    }

    /// Whether the touch is marked.
    pub fn is_marked(&self, touch: &Touch) -> Result<bool> {
        Ok(self.view().get(Space::Notes, &keys::mark(self.core.index, touch))?.is_some())
    }

    /// Marked touches of which nobody knows what became.
    pub fn doubts(&self) -> Result<Vec<Touch>> {
        let rows = self.notes(&keys::marks(self.core.index), |key, row| {
            Ok((keys::mark_of(key).ok_or(DecodeError::Key)?, MarkRow::decode(row)?.doubt))
        })?;
        Ok(rows.into_iter().filter_map(|(touch, doubt)| doubt.then_some(touch)).collect())
    }

    /// Requests that were forwarded and whose changes have not been released here, by their ids.
    pub fn ahead_notes(&self) -> Result<Vec<(u64, Vec<Touch>)>> {
        self.notes(&keys::aheads(self.core.index), |key, row| {
            Ok((keys::ahead_of(key).ok_or(DecodeError::Key)?, proto::decode_touches(row)?))
        })
    }

    /// Debts in the order of their objects' ids, from the one behind `after`.
    pub fn debts(&self, after: Option<ObjectId>, limit: usize) -> Result<Vec<Debt>> {
        let prefix = keys::debts(self.rows());
        let from = match after {
            Some(id) => behind(keys::debt(self.rows(), id)),
            None => prefix.clone(),
        };
        let rows = self.view().scan(Space::Rows, &prefix, &from).take(limit);
        let decode = |row: Result<(Bytes, Bytes)>| {
            let (key, value) = row?;
            let id = keys::debt_of(&key).ok_or(DecodeError::Key).map_err(damaged(&key))?;
            rows::decode_debt(id, &value).map_err(damaged(&key))
        };
        rows.map(decode).collect()
    }

    pub fn debt(&self, id: ObjectId) -> Result<Option<Debt>> {
        let key = keys::debt(self.rows(), id);
        let row = self.view().get(Space::Rows, &key)?;
        row.map(|row| rows::decode_debt(id, &row).map_err(damaged(&key))).transpose()
    }

    /// Objects whose content is awaited, and how many bytes that is.
    pub fn debt_totals(&self) -> (u64, u64) {
        let debts = self.core.state().debts;
        (debts.objects, debts.bytes)
    }

    pub fn peers(&self) -> Result<Vec<(SiteId, PeerRow)>> {
        self.notes(&keys::peers(self.core.index), |key, row| {
            Ok((keys::peer_of(key).ok_or(DecodeError::Key)?, rows::decode_peer(row)?))
        })
    }

    /// Locks that clients were given at this site, and in which epoch.
    pub fn locks(&self) -> Result<Vec<(Epoch, Lock)>> {
        self.notes(&keys::locks(self.core.index), |_, row| rows::decode_lock(row))
    }

    pub fn meta(&self) -> Meta {
        self.core.state().meta.clone()
    }

    /// All objects and names as they are at one head, whatever is committed meanwhile. What was
    /// removed since is kept on disk until the snapshot is dropped.
    pub fn snapshot(&self) -> Result<Snapshot> {
        let view = self.view().snapshot();
        let key = keys::state(self.core.index);
        let row = view.get(Space::Notes, &key)?;
        let row = row.ok_or(DecodeError::Missing { field: "the state" }).map_err(damaged(&key))?;
        Ok(Snapshot::new(view, rows::decode_state(&row).map_err(damaged(&key))?))
    }

    // ---- writes

    /// A generation above every other that was ever handed out for this share here. Once in a million
    /// calls it waits for a sync, and fails if that does.
    pub fn next_gen(&self) -> Result<Gen> {
        let mut gens = self.core.gens.lock().unwrap_or_else(PoisonError::into_inner);
        let next = gens.last.next();
        if next > gens.reserved {
            self.reserve(&mut gens)?;
        }
        gens.last = next;
        Ok(next)
    }

    /// No generation up to `floor` is handed out from now on.
    pub fn raise_gens(&self, floor: Gen) -> Result<()> {
        let mut gens = self.core.gens.lock().unwrap_or_else(PoisonError::into_inner);
        gens.last = gens.last.max(floor);
        self.reserve(&mut gens)
    }

    pub(super) fn reserve_gens(&self) -> Result<()> {
        let mut gens = self.core.gens.lock().unwrap_or_else(PoisonError::into_inner);
        self.reserve(&mut gens)
    }

    fn reserve(&self, gens: &mut Gens) -> Result<()> {
        let reserved = Gen(gens.last.0.saturating_add(GEN_BLOCK));
        let mut batch = self.batch();
        batch.set_meta(move |meta| meta.gen_reserved = reserved);
        self.commit(batch, true).wait()?;
        gens.reserved = reserved;
        Ok(())
    }

    pub fn batch(&self) -> Batch {
        Batch::default()
    }

    /// Commits a batch. It is visible when the commit resolves; with `durable` it is synced as well
    /// (R23), without it survives the process but not the machine.
    ///
    /// Commits of one share are carried out in the order of these calls. One that cannot be carried
    /// out leaves no trace and does not hold up the next.
    pub fn commit(&self, batch: Batch, durable: bool) -> Commit {
        self.commit_records(batch, durable).into()
    }

    /// As [`Shelf::commit`], for the records that the batch published.
    pub fn commit_records(&self, batch: Batch, durable: bool) -> CommitRecords {
        self.catalog.shared.submit(self.core.clone(), batch, durable)
    }

    fn view(&self) -> &dyn super::store::Store {
        &*self.catalog.shared.store
    }
    fn rows(&self) -> u32 {
        self.core.state().rows
    }
    fn journal(&self) -> u32 {
        self.core.state().journal
    }
    fn id_at(&self, key: &[u8]) -> Result<Option<ObjectId>> {
        let row = self.view().get(Space::Rows, key)?;
        row.map(|row| proto::id("the row", &row).map_err(damaged(key))).transpose()
    }
    fn notes<T>(
        &self,
        prefix: &[u8],
        decode: impl Fn(&[u8], &[u8]) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>> {
        let rows = self.view().scan(Space::Notes, prefix, prefix);
        rows.map(|row| {
            let (key, value) = row?;
            decode(&key, &value).map_err(damaged(&key))
        })
        .collect()
    }
}

pub(super) fn object(view: &(impl View + ?Sized), rows: u32, id: ObjectId) -> Result<Option<Object>> {
    let key = keys::object(rows, id);
    let row = view.get(Space::Rows, &key)?;
    row.map(|row| proto::decode_object(id, &row).map_err(damaged(&key))).transpose()
}

pub(super) fn links(
    view: &(impl View + ?Sized),
    rows: u32,
    id: ObjectId,
    limit: usize,
) -> Result<Vec<(ObjectId, Name)>> {
    let prefix = keys::links(rows, id);
    let found = view.scan(Space::Rows, &prefix, &prefix).take(limit);
    let decode = |row: Result<(Bytes, Bytes)>| {
        let (key, _) = row?;
        keys::link_of(&key).ok_or(DecodeError::Key).map_err(damaged(&key))
    };
    found.map(decode).collect()
}

/// A row of names.
pub(super) fn entry((key, value): &(Bytes, Bytes)) -> Result<(Name, ObjectId)> {
    let name = keys::name_of(key).ok_or(DecodeError::Key).map_err(damaged(key))?;
    Ok((name, proto::id("the row", value).map_err(damaged(key))?))
}

/// The least key above another.
pub(super) fn behind(mut key: Vec<u8>) -> Vec<u8> {
    key.push(0);
    key
}
