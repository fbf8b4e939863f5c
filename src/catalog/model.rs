//! The journal's vocabulary: what a change of a share is, whoever made it.

use std::collections::BTreeSet;

use bytes::Bytes;

pub use crate::effect::Touch;
use crate::id::{Epoch, Gen, Hash, Name, ObjectId, Position, Seq, SiteId, Version};
use crate::object::Object;

/// One step of a share's history. Steps state what is so afterwards, so that applying one twice
/// changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The object is as this row says; a new one, or a new version or new attributes of a known one.
    Put(Object),
    /// The entry (parent, name) now is `id`; what it was before is said by its own change.
    Link { parent: ObjectId, name: Name, id: ObjectId },
    /// The entry (parent, name), which was `id`, is no more. The object lives on unless `Gone` follows.
    Unlink { parent: ObjectId, name: Name, id: ObjectId },
    /// A rename: both ends in one step (R16).
    Move { id: ObjectId, from: (ObjectId, Name), to: (ObjectId, Name) },
    /// The object is deleted: its handle is stale or it has no links left.
    Gone { id: ObjectId },
}

/// What was held or marked for `touch` up to generation `through` is all in the journal by now (R4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    pub touch: Touch,
    pub through: Gen,
}

/// One atomic step of the journal. `chain` is BLAKE3 over the record before it and this one's own
/// bytes: two journals with the same chain hash at a position are the same up to there (R24).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub at: Position,
    /// Chain hash of the record before; of the share's incarnation for the first.
    pub prev: Hash,
    pub chain: Hash,
    /// When the primary wrote it, in nanoseconds since 1970 by its own clock: for people, lag shown
    /// by `status` is computed from positions and the primary's own answers.
    pub wall: i64,
    /// Parents before children.
    pub changes: Vec<Change>,
    pub releases: Vec<Release>,
}

/// Content of one object at one version, small enough to travel inside the journal's stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inline {
    pub id: ObjectId,
    pub version: Version,
    pub data: Bytes,
}

/// Where a journal is: what a site says of itself at hello (R24, R33).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    pub at: Position,
    pub chain: Hash,
    /// Random per journal that was begun: a restored state directory begins a new one.
    pub incarnation: Hash,
}

/// Content that a copy awaits (R25).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Debt {
    pub id: ObjectId,
    pub version: Version,
    pub size: u64,
    pub seq: Seq,
    pub epoch: Epoch,
}

/// What a share holds, root directory included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    pub objects: u64,
    /// Sum of the sizes of all files.
    pub bytes: u64,
}

/// What is known of another site's copy of a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PeerRow {
    /// Everything up to here is applied there, but for its debts.
    pub acked: Position,
    /// Objects whose content it still awaited then.
    pub debts: u64,
    /// Bytes of those contents.
    pub debt_bytes: u64,
    /// When it last said so, in nanoseconds since 1970 by this site's clock. For people.
    pub seen_wall: i64,
}

/// Who has the primary copy of a share, and since when (R33). The greater epoch counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lead {
    pub epoch: Epoch,
    pub site: SiteId,
    /// The last record of earlier epochs that belongs to this one's history, and its chain hash.
    pub base: Position,
    pub chain: Hash,
}

/// What this site has to remember of a share over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// The root marker's id; `None` until the share's directory was first opened.
    pub marker: Option<[u8; 16]>,
    /// The newest epoch heard of (R33): of the own journal, of a record, of a head that was set.
    pub epoch: Epoch,
    /// A first scan was completed (primary).
    pub scanned: bool,
    /// A first comparison with the primary was completed (copy).
    pub confirmed: bool,
    /// The last stop was a clean one. Set at the end, cleared at the next start.
    pub clean: bool,
    /// The kernel's boot id at the last start: another one without a clean stop means that the page
    /// cache was lost (R24). At most 64 bytes.
    pub boot_id: String,
    /// When this site was last known to be running, in nanoseconds since 1970 by its own clock.
    pub alive_wall: i64,
    /// No generation above this one was ever handed out. The catalog's own: `set_meta` cannot lower it.
    pub gen_reserved: Gen,
    /// Who holds the primary copy, as far as this site knows; `None` before the share was first seen here.
    pub lead: Option<Lead>,
    /// Leases were given (primary): a later process must wait them out (R11).
    pub leased: bool,
    /// To whom, among them sites that a map no longer has.
    pub leased_to: BTreeSet<SiteId>,
    /// In this epoch a site that may lead was told what is here (copy): what came after it is no pledge for a
    /// while, also of a later process (R34).
    pub fenced: Epoch,
    /// Under whose lead the position here was last taken for one of that history, by its chain, or compared (copy).
    pub accepted: Epoch,
}
