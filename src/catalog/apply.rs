//! What each step of a batch does to the tables. Runs on the committer's thread, one batch at a time, and
//! reads what is committed plus what the batch itself has written so far. Nothing reaches the
//! store from here: the outcome is one list of writes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::batch::{Batch, Step};
use super::error::{CatalogError, Result};
use super::keys;
use super::model::{Change, Debt, Head, PeerRow, Record, Release, Touch};
use super::proto::{self, DecodeError};
use super::rows::{self, State};
use super::store::{Space, View, Write};
use crate::id::{Epoch, Gen, Hash, Name, ObjectId, Position, Seq, ShareId, Version};
use crate::object::{Kind, Local, LocalHandle, Object};

/// Records that one batch drops at most: 10,000 keys of 12 bytes are nothing, a journal's whole
/// length in one batch is not.
pub const TRIM_MAX: u64 = 10_000;

/// Where a batch is applied to.
pub struct Place<'a> {
    pub view: &'a dyn View,
    pub share: &'a ShareId,
    /// The share's own index.
    pub index: u32,
    pub state: State,
    /// The next index that is free in the database.
    pub next_index: u32,
}

/// What a batch comes to.
pub struct Outcome {
    pub writes: Vec<Write>,
    pub state: State,
    pub records: Vec<Record>,
    pub next_index: u32,
    /// What is no longer in use and has to be swept.
    pub sweeps: Vec<(Space, u32)>,
}

/// Carries out all steps, or says which could not be.
pub fn apply(place: Place<'_>, batch: Batch) -> Result<Outcome> {
    let before = rows::encode_state(&place.state);
    let (index, next_index) = (place.index, place.next_index);
    let mut work = Work {
        view: place.view,
        share: place.share,
        index,
        keep_locals: batch.keep_locals,
        state: place.state,
        written: Default::default(),
        records: Vec::new(),
        next_index,
        sweeps: Vec::new(),
    };
    for step in batch.steps {
        work.step(step)?;
    }
    let after = rows::encode_state(&work.state);
    if after != before {
        work.set(Space::Notes, keys::state(index), after);
    }
    for (space, index) in work.sweeps.clone() {
        work.set(Space::Notes, keys::sweep(space, index), Vec::new());
    }
    let mut writes = Vec::with_capacity(work.written.iter().map(BTreeMap::len).sum());
    for (space, written) in Space::ALL.into_iter().zip(work.written) {
        writes.extend(written.into_iter().map(|(key, value)| Write { space, key, value }));
    }
    Ok(Outcome {
        writes,
        state: work.state,
        records: work.records,
        next_index: work.next_index,
        sweeps: work.sweeps,
    })
}

struct Work<'a> {
    view: &'a dyn View,
    share: &'a ShareId,
    index: u32,
    keep_locals: bool,
    state: State,
    /// What the batch has written so far, by space; `None` is removed.
    written: [BTreeMap<Vec<u8>, Option<Bytes>>; 3],
    records: Vec<Record>,
    next_index: u32,
    sweeps: Vec<(Space, u32)>,
}

impl Work<'_> {
    fn step(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Publish { wall, changes, releases, tail } => {
                self.publish(wall, changes, releases, &tail)
            }
            Step::Append { record, stored, intact } => self.append(record, stored, intact),
            Step::Apply(change) => self.change(&change),
            Step::SetHead(head) => self.set_head(head),
            Step::SetLocal(id, local) => self.set_local(id, local),
            Step::Mark(touch, generation) => self.mark(&touch, generation),
            Step::Doubt(touch) => self.doubt(&touch),
            Step::ClearMark(touch, through) => self.clear_mark(&touch, through),
            Step::NoteAhead(id, touches) => self.note_ahead(id, &touches),
            Step::DropAhead(id) => {
                self.remove(Space::Notes, keys::ahead(self.index, id));
                Ok(())
            }
            Step::Owe(debt) => self.owe(&debt),
            Step::Paid(id, version) => self.paid(id, version),
            Step::Peer(site, row) => {
                self.set(Space::Notes, keys::peer(self.index, &site), rows::encode_peer(&row));
                Ok(())
            }
            Step::ForgetPeer(site) => {
                self.remove(Space::Notes, keys::peer(self.index, &site));
                Ok(())
            }
            Step::Lock(epoch, lock) => {
                let key = keys::lock(self.index, &lock.token);
                let epoch = epoch.unwrap_or(self.state.meta.epoch);
                self.set(Space::Notes, key, rows::encode_lock(epoch, &lock));
                Ok(())
            }
            Step::ForgetLock(token) => {
                self.remove(Space::Notes, keys::lock(self.index, &token));
                Ok(())
            }
            Step::SetMeta(change) => {
                let (epoch, reserved) = (self.state.meta.epoch, self.state.meta.gen_reserved);
                change(&mut self.state.meta);
                let meta = &mut self.state.meta;
                meta.epoch = meta.epoch.max(epoch);
                meta.gen_reserved = meta.gen_reserved.max(reserved);
                Ok(())
            }
            Step::TrimJournal(before) => self.trim(before),
            Step::Reset => self.reset(),
            Step::NewIncarnation(epoch, incarnation) => self.new_incarnation(epoch, incarnation),
        }
    }

    // ---- the journal

    fn publish(
        &mut self,
        wall: i64,
        mut changes: Vec<Change>,
        releases: Vec<Release>,
        tail: &[u8],
    ) -> Result<()> {
        let head = self.state.head;
        if head.incarnation == Hash::default() {
            return Err(CatalogError::NoJournal { share: self.share.clone() });
        }
        let (what, limit) = ("number of changes of a record", proto::CHANGES_MAX);
        let len = changes.len().max(releases.len());
        if len > limit {
            return Err(CatalogError::TooLarge { what, len, limit });
        }
        let at = Position { epoch: self.state.meta.epoch.max(head.at.epoch), seq: head.at.seq.next() };
        let body = proto::body(at, &head.chain, tail);
        let chain = proto::chain(&head.chain, &body);
        let stored = proto::seal(body, &chain);
        let (what, len, limit) = ("length of a record", stored.len(), proto::RECORD_MAX);
        if len > limit {
            return Err(CatalogError::TooLarge { what, len, limit });
        }
        self.set(Space::Journal, keys::record(self.state.journal, at.seq), stored);
        for change in &mut changes {
            if let Change::Put(object) = change {
                object.seq = at.seq;
            }
            self.change(change)?;
        }
        self.advance(at, chain);
        self.records.push(Record { at, prev: head.chain, chain, wall, changes, releases });
        Ok(())
    }

    fn append(&mut self, mut record: Record, stored: Bytes, intact: bool) -> Result<()> {
        let (share, head) = (self.share.clone(), self.state.head);
        let Record { at, prev, chain, .. } = record;
        if at.seq != head.at.seq.next() {
            return Err(CatalogError::NotNext { share, head: head.at, found: at });
        }
        if prev != head.chain {
            return Err(CatalogError::OtherChain { share, at, prev, chain: head.chain });
        }
        if at.epoch < head.at.epoch {
            return Err(CatalogError::OldEpoch { share, known: head.at.epoch, found: at.epoch });
        }
        if !intact {
            return Err(CatalogError::BrokenChain { share, at });
        }
        let (what, len, limit) = ("length of a record", stored.len(), proto::RECORD_MAX);
        if len > limit {
            return Err(CatalogError::TooLarge { what, len, limit });
        }
        self.set_bytes(Space::Journal, keys::record(self.state.journal, at.seq), stored);
        for change in &mut record.changes {
            if let Change::Put(object) = change {
                object.seq = at.seq;
            }
            self.change(change)?;
        }
        self.advance(at, chain);
        Ok(())
    }

    fn advance(&mut self, at: Position, chain: Hash) {
        self.state.head.at = at;
        self.state.head.chain = chain;
        self.state.meta.epoch = self.state.meta.epoch.max(at.epoch);
    }

    fn set_head(&mut self, head: Head) -> Result<()> {
        if head == self.state.head {
            return Ok(());
        }
        self.begin_journal(head)
    }

    fn begin_journal(&mut self, head: Head) -> Result<()> {
        if self.state.kept_after.seq != self.state.head.at.seq {
            let index = self.new_index()?;
            self.leave(Space::Journal, self.state.journal);
            self.state.journal = index;
        }
        self.state.head = head;
        self.state.kept_after = head.at;
        self.state.kept_chain = head.chain;
        self.state.meta.epoch = self.state.meta.epoch.max(head.at.epoch);
        Ok(())
    }

    fn trim(&mut self, before: Seq) -> Result<()> {
        let kept = self.state.kept_after.seq.0;
        let last = before.0.saturating_sub(1).min(self.state.head.at.seq.0);
        let last = last.min(kept.saturating_add(TRIM_MAX));
        if last <= kept {
            return Ok(());
        }
        let key = keys::record(self.state.journal, Seq(last));
        let row = self.get(Space::Journal, &key)?;
        let row = row.ok_or(DecodeError::Missing { field: "the record" }).map_err(damaged(&key))?;
        let (at, _, chain) = proto::decode_links(&row).map_err(damaged(&key))?;
        self.state.kept_after = at;
        self.state.kept_chain = chain;
        for seq in kept + 1..=last {
            self.remove(Space::Journal, keys::record(self.state.journal, Seq(seq)));
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<()> {
        let index = self.new_index()?;
        self.leave(Space::Rows, self.state.rows);
        self.state.rows = index;
        self.state.totals = Default::default();
        self.state.debts = Default::default();
        self.state.meta.scanned = false;
        self.state.meta.confirmed = false;
        self.begin_journal(Head::default())
    }

    fn new_incarnation(&mut self, epoch: Epoch, incarnation: Hash) -> Result<()> {
        let known = self.state.meta.epoch;
        if epoch < known {
            return Err(CatalogError::OldEpoch { share: self.share.clone(), known, found: epoch });
        }
        let at = Position { epoch, seq: Seq(0) };
        self.begin_journal(Head { at, chain: incarnation, incarnation })?;
        let prefix = keys::peers(self.index);
        for (key, row) in self.scan(Space::Notes, &prefix)? {
            let row = rows::decode_peer(&row).map_err(damaged(&key))?;
            let row = PeerRow { acked: Position::default(), debts: 0, debt_bytes: 0, ..row };
            self.set(Space::Notes, key, rows::encode_peer(&row));
        }
        Ok(())
    }

    fn new_index(&mut self) -> Result<u32> {
        let (what, len, limit) = ("the next index", self.next_index, keys::INDEX_MAX);
        if len > limit {
            return Err(CatalogError::TooLarge { what, len: len as usize, limit: limit as usize });
        }
        self.next_index += 1;
        Ok(len)
    }

    /// Leaves all rows of an index behind, to be swept later; what this very batch wrote there is
    /// not written at all.
    fn leave(&mut self, space: Space, index: u32) {
        let prefix = keys::index(index);
        self.written[space.slot()].retain(|key, _| !key.starts_with(&prefix));
        self.sweeps.push((space, index));
    }

    // ---- objects and names

    fn change(&mut self, change: &Change) -> Result<()> {
        match change {
            Change::Put(object) => self.put(object),
            Change::Link { parent, name, id } => self.link(*parent, name, *id),
            Change::Unlink { parent, name, id } => self.unlink(*parent, name, *id),
            Change::Move { id, from, to } => {
                self.unlink(from.0, &from.1, *id)?;
                self.link(to.0, &to.1, *id)
            }
            Change::Gone { id } => self.gone(*id),
        }
    }

    fn put(&mut self, object: &Object) -> Result<()> {
        let key = keys::object(self.state.rows, object.id);
        self.forget_object(&key, object.id)?;
        self.state.totals.objects += 1;
        self.state.totals.bytes = self.state.totals.bytes.saturating_add(file_bytes(object));
        self.set(Space::Rows, key, proto::encode_object(object));
        Ok(())
    }

    /// Takes an object's row, if there is one, out of the totals.
    fn forget_object(&mut self, key: &[u8], id: ObjectId) -> Result<()> {
        if let Some(row) = self.get(Space::Rows, key)? {
            let old = proto::decode_object(id, &row).map_err(damaged(key))?;
            let totals = &mut self.state.totals;
            totals.objects = totals.objects.saturating_sub(1);
            totals.bytes = totals.bytes.saturating_sub(file_bytes(&old));
        }
        Ok(())
    }

    fn link(&mut self, parent: ObjectId, name: &Name, id: ObjectId) -> Result<()> {
        let key = keys::name(self.state.rows, parent, name);
        match self.id_at(&key)? {
            Some(old) if old == id => return Ok(()),
            Some(old) => self.remove(Space::Rows, keys::link(self.state.rows, old, parent, name)),
            None => {}
        }
        self.set(Space::Rows, key, id.as_bytes().to_vec());
        self.set(Space::Rows, keys::link(self.state.rows, id, parent, name), Vec::new());
        Ok(())
    }

    fn unlink(&mut self, parent: ObjectId, name: &Name, id: ObjectId) -> Result<()> {
        let key = keys::name(self.state.rows, parent, name);
        if self.id_at(&key)? == Some(id) {
            self.remove(Space::Rows, key);
            self.remove(Space::Rows, keys::link(self.state.rows, id, parent, name));
        }
        Ok(())
    }

    fn gone(&mut self, id: ObjectId) -> Result<()> {
        let key = keys::object(self.state.rows, id);
        self.forget_object(&key, id)?;
        self.remove(Space::Rows, key);
        let prefix = keys::links(self.state.rows, id);
        for (key, _) in self.scan(Space::Rows, &prefix)? {
            let (parent, name) = keys::link_of(&key).ok_or(DecodeError::Key).map_err(damaged(&key))?;
            self.unlink(parent, &name, id)?;
        }
        self.drop_debt(id, |_| true)?;
        if !self.keep_locals {
            self.set_local(id, None)?;
        }
        Ok(())
    }

    // ---- this disk

    fn set_local(&mut self, id: ObjectId, local: Option<Local>) -> Result<()> {
        let key = keys::local(self.state.rows, id);
        if let Some(row) = self.get(Space::Rows, &key)? {
            let old = rows::decode_local(&row).map_err(damaged(&key))?;
            if local.as_ref().is_none_or(|new| new.handle != old.handle) {
                self.drop_handle(&old.handle, id)?;
            }
        }
        let Some(local) = local else {
            self.remove(Space::Rows, key);
            return Ok(());
        };
        let handle = keys::handle(self.state.rows, &local.handle);
        match self.id_at(&handle)? {
            Some(other) if other == id => {}
            other => {
                if let Some(other) = other {
                    self.remove(Space::Rows, keys::local(self.state.rows, other));
                }
                self.set(Space::Rows, handle, id.as_bytes().to_vec());
            }
        }
        self.set(Space::Rows, key, rows::encode_local(&local));
        Ok(())
    }

    fn drop_handle(&mut self, handle: &LocalHandle, id: ObjectId) -> Result<()> {
        let key = keys::handle(self.state.rows, handle);
        if self.id_at(&key)? == Some(id) {
            self.remove(Space::Rows, key);
        }
        Ok(())
    }

    // ---- marks, requests ahead, debts

    fn mark(&mut self, touch: &Touch, generation: Gen) -> Result<()> {
        let key = keys::mark(self.index, touch);
        let old = self.mark_at(&key)?;
        if old.is_none_or(|old| old.generation < generation) {
            let doubt = old.is_some_and(|old| old.doubt);
            self.set(Space::Notes, key, MarkRow { generation, doubt }.encode());
        }
        Ok(())
    }

    fn doubt(&mut self, touch: &Touch) -> Result<()> {
        let key = keys::mark(self.index, touch);
        if let Some(row) = self.mark_at(&key)? {
            self.set(Space::Notes, key, MarkRow { doubt: true, ..row }.encode());
        }
        Ok(())
    }

    fn clear_mark(&mut self, touch: &Touch, through: Gen) -> Result<()> {
        let key = keys::mark(self.index, touch);
        if self.mark_at(&key)?.is_some_and(|old| old.generation <= through) {
            self.remove(Space::Notes, key);
        }
        Ok(())
    }

    fn mark_at(&self, key: &[u8]) -> Result<Option<MarkRow>> {
        let row = self.get(Space::Notes, key)?;
        row.map(|row| MarkRow::decode(&row).map_err(damaged(key))).transpose()
    }

    fn note_ahead(&mut self, id: u64, touches: &[Touch]) -> Result<()> {
        let (what, len, limit) = ("number of touches of a request", touches.len(), proto::TOUCHES_MAX);
        if len > limit {
            return Err(CatalogError::TooLarge { what, len, limit });
        }
        self.set(Space::Notes, keys::ahead(self.index, id), proto::encode_touches(touches));
        Ok(())
    }

    fn owe(&mut self, debt: &Debt) -> Result<()> {
        let newer = |old: &Debt| (old.epoch, old.version) <= (debt.epoch, debt.version);
        if self.drop_debt(debt.id, newer)? {
            self.state.debts.objects += 1;
            self.state.debts.bytes = self.state.debts.bytes.saturating_add(debt.size);
            self.set(Space::Rows, keys::debt(self.state.rows, debt.id), rows::encode_debt(debt));
        }
        Ok(())
    }

    fn paid(&mut self, id: ObjectId, version: Version) -> Result<()> {
        self.drop_debt(id, |old| old.version <= version)?;
        Ok(())
    }

    /// Whether there is no debt for the object now: there was none, or `which` let it go.
    fn drop_debt(&mut self, id: ObjectId, which: impl Fn(&Debt) -> bool) -> Result<bool> {
        let key = keys::debt(self.state.rows, id);
        let Some(row) = self.get(Space::Rows, &key)? else { return Ok(true) };
        let debt = rows::decode_debt(id, &row).map_err(damaged(&key))?;
        if !which(&debt) {
            return Ok(false);
        }
        self.remove(Space::Rows, key);
        let debts = &mut self.state.debts;
        debts.objects = debts.objects.saturating_sub(1);
        debts.bytes = debts.bytes.saturating_sub(debt.size);
        Ok(true)
    }

    // ---- rows

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        match self.written[space.slot()].get(key) {
            Some(written) => Ok(written.clone()),
            None => self.view.get(space, key),
        }
    }

    fn id_at(&self, key: &[u8]) -> Result<Option<ObjectId>> {
        let row = self.get(Space::Rows, key)?;
        row.map(|row| proto::id("the row", &row).map_err(damaged(key))).transpose()
    }

    /// All rows under a prefix, with what this batch did to them.
    fn scan(&self, space: Space, prefix: &[u8]) -> Result<Vec<(Vec<u8>, Bytes)>> {
        let mut found = BTreeMap::new();
        for row in self.view.scan(space, prefix, prefix) {
            let (key, value) = row?;
            found.insert(key.to_vec(), value);
        }
        let written = self.written[space.slot()].range(prefix.to_vec()..);
        for (key, value) in written.take_while(|(key, _)| key.starts_with(prefix)) {
            match value {
                Some(value) => found.insert(key.clone(), value.clone()),
                None => found.remove(key),
            };
        }
        Ok(found.into_iter().collect())
    }

    fn set(&mut self, space: Space, key: Vec<u8>, value: Vec<u8>) {
        self.set_bytes(space, key, Bytes::from(value));
    }

    fn set_bytes(&mut self, space: Space, key: Vec<u8>, value: Bytes) {
        self.written[space.slot()].insert(key, Some(value));
    }

    fn remove(&mut self, space: Space, key: Vec<u8>) {
        self.written[space.slot()].insert(key, None);
    }
}

/// A mark's row: its generation, and a byte more if its change is in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkRow {
    pub generation: Gen,
    pub doubt: bool,
}

impl MarkRow {
    fn encode(self) -> Vec<u8> {
        let mut row = self.generation.0.to_be_bytes().to_vec();
        row.extend(self.doubt.then_some(1));
        row
    }

    pub fn decode(row: &[u8]) -> Result<Self, DecodeError> {
        let wrong =
            || DecodeError::Limit { field: "length of a mark's row", found: row.len() as u64, limit: 9 };
        let (generation, rest) = row.split_first_chunk().ok_or_else(wrong)?;
        let doubt = match rest {
            [] => false,
            [1] => true,
            _ => return Err(wrong()),
        };
        Ok(Self { generation: Gen(u64::from_be_bytes(*generation)), doubt })
    }
}

/// The error for a row that cannot be read, with the row's key.
pub fn damaged(key: &[u8]) -> impl FnOnce(DecodeError) -> CatalogError {
    move |source| {
        let row = key.iter().map(|byte| format!("{byte:02x}")).collect();
        CatalogError::Damaged { row, source }
    }
}

fn file_bytes(object: &Object) -> u64 {
    if object.kind == Kind::File { object.size } else { 0 }
}
