//! What one commit is to do, collected. A batch touches nothing and knows nothing of the tables: it is
//! carried out by `apply`, whole or not at all.

use bytes::Bytes;

use super::model::{Change, Debt, Head, Meta, PeerRow, Record, Release, Touch};
use super::proto;
use crate::id::{Epoch, Gen, Hash, ObjectId, Seq, SiteId, Version};
use crate::object::Local;
use crate::wire::http::lock::Lock;
use crate::work;

/// Steps of one commit of one share, in the order in which they were called.
#[must_use = "a batch does nothing until it is committed"]
#[derive(Default)]
pub struct Batch {
    pub(super) steps: Vec<Step>,
    pub(super) keep_locals: bool,
    /// Changes and rows it holds, for the queue's limit.
    pub(super) weight: usize,
}

pub(super) enum Step {
    /// `tail` is the part of the record that does not depend on its place.
    Publish {
        wall: i64,
        changes: Vec<Change>,
        releases: Vec<Release>,
        tail: Vec<u8>,
    },
    /// `stored` is its form, `intact` whether its chain hash is of its content.
    Append {
        record: Record,
        stored: Bytes,
        intact: bool,
    },
    Apply(Change),
    SetHead(Head),
    SetLocal(ObjectId, Option<Local>),
    Mark(Touch, Gen),
    Doubt(Touch),
    ClearMark(Touch, Gen),
    NoteAhead(u64, Vec<Touch>),
    DropAhead(u64),
    Owe(Debt),
    Paid(ObjectId, Version),
    Peer(SiteId, PeerRow),
    ForgetPeer(SiteId),
    /// In the epoch, or the newest.
    Lock(Option<Epoch>, Lock),
    ForgetLock(String),
    SetMeta(Box<dyn FnOnce(&mut Meta) + Send>),
    TrimJournal(Seq),
    Reset,
    NewIncarnation(Epoch, Hash),
}

impl Batch {
    fn step(&mut self, weight: usize, step: Step) {
        self.weight += weight;
        self.steps.push(step);
    }

    /// At the primary: one more record with these changes, applied to the tables. It gets the next
    /// position in the share's newest epoch, and every object that is put gets its `seq`.
    pub fn publish(&mut self, wall: i64, changes: Vec<Change>, releases: Vec<Release>) {
        let tail = proto::encode_tail(wall, &changes, &releases);
        self.step(changes.len() + 1, Step::Publish { wall, changes, releases, tail });
    }

    /// At a copy: a record of the primary's, applied to the tables. The commit fails with `NotNext`,
    /// `OtherChain`, `OldEpoch` or `BrokenChain` unless it continues this journal.
    pub fn append(&mut self, record: Record) {
        let tail = proto::encode_tail(record.wall, &record.changes, &record.releases);
        let body = proto::body(record.at, &record.prev, &tail);
        let intact = proto::chain(&record.prev, &body) == record.chain;
        let stored = Bytes::from(proto::seal(body, &record.chain));
        self.step(record.changes.len() + 1, Step::Append { record, stored, intact });
    }

    /// At a copy, from a comparison of trees: state without history. A put object keeps its `seq`.
    pub fn apply(&mut self, change: Change) {
        self.step(1, Step::Apply(change));
    }

    /// At a copy, when a comparison ends: the tables are as the primary's were at `head`. The records
    /// kept so far do not lead there and are dropped, unless the head is there already.
    pub fn set_head(&mut self, head: Head) {
        self.step(1, Step::SetHead(head));
    }

    /// `Change::Gone` leaves the object's local row and its handle in place, in this batch: at a copy
    /// the inode is still on the disk, and whoever removes it clears them by `set_local(id, None)`.
    pub fn keep_locals(&mut self, keep: bool) {
        self.keep_locals = keep;
    }

    /// What this disk has of an object, and the way back from the handle. An inode is one object: the
    /// row of another object with the same handle is dropped.
    pub fn set_local(&mut self, id: ObjectId, local: Option<Local>) {
        self.step(1, Step::SetLocal(id, local));
    }

    /// Raises the generation of a mark, or sets it.
    pub fn mark(&mut self, touch: Touch, generation: Gen) {
        self.step(1, Step::Mark(touch, generation));
    }

    /// Notes that nobody knows what became of a marked change (R18), for as long as the mark is there.
    pub fn doubt(&mut self, touch: Touch) {
        self.step(1, Step::Doubt(touch));
    }

    /// Drops a mark unless it was raised above `through` meanwhile (R4).
    pub fn clear_mark(&mut self, touch: &Touch, through: Gen) {
        self.step(1, Step::ClearMark(touch.clone(), through));
    }

    /// Notes what a forwarded request may change (R9). An id that is noted already is replaced.
    pub fn note_ahead(&mut self, id: u64, touches: Vec<Touch>) {
        self.step(touches.len() + 1, Step::NoteAhead(id, touches));
    }

    pub fn drop_ahead(&mut self, id: u64) {
        self.step(1, Step::DropAhead(id));
    }

    /// Content that is awaited, in place of an older version of the same object. A debt for an older
    /// version than the one already owed changes nothing.
    pub fn owe(&mut self, debt: Debt) {
        self.step(1, Step::Owe(debt));
    }

    /// Drops the object's debt if it is for `version` or an older one.
    pub fn paid(&mut self, id: ObjectId, version: Version) {
        self.step(1, Step::Paid(id, version));
    }

    pub fn peer(&mut self, site: SiteId, row: PeerRow) {
        self.step(1, Step::Peer(site, row));
    }

    pub fn forget_peer(&mut self, site: SiteId) {
        self.step(1, Step::ForgetPeer(site));
    }

    /// A lock that is given, or given anew.
    pub fn lock(&mut self, lock: Lock) {
        self.step(1, Step::Lock(None, lock));
    }

    /// A lock that is in force if this site leads in that epoch.
    pub fn lock_in(&mut self, epoch: Epoch, lock: Lock) {
        self.step(1, Step::Lock(Some(epoch), lock));
    }

    pub fn forget_lock(&mut self, token: String) {
        self.step(1, Step::ForgetLock(token));
    }

    /// Runs on the committer's thread: it must not wait for this catalog. `epoch` and `gen_reserved`
    /// never go down.
    pub fn set_meta(&mut self, change: impl FnOnce(&mut Meta) + Send + 'static) {
        self.step(1, Step::SetMeta(Box::new(change)));
    }

    /// Drops records before `before`, at most [`TRIM_MAX`](super::TRIM_MAX) of them in one batch.
    pub fn trim_journal(&mut self, before: Seq) {
        self.step(1, Step::TrimJournal(before));
    }

    /// Forgets all objects, names, links, locals, debts and records. The head is that of no journal;
    /// `scanned` and `confirmed` are false; marks, requests ahead, peers and the rest of `Meta` stay.
    pub fn reset(&mut self) {
        self.step(1, Step::Reset);
    }

    /// Begins an empty journal at (epoch, 0) under a random incarnation id (R24). The tables stay as
    /// they are; peers' acknowledgements were of another journal and go back to nothing.
    pub fn new_incarnation(&mut self, epoch: Epoch) {
        let mut incarnation = [0; 32];
        work::random(&mut incarnation);
        self.step(1, Step::NewIncarnation(epoch, Hash(incarnation)));
    }
}
