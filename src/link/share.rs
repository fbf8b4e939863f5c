//! What two sites say to each other about one share, as protobuf messages. Unknown fields are
//! skipped, so a site one release older or newer is understood.
//!
//! ```text
//! POST /v1/share/SHARE/journal    request: Follow, then Ack ...     answer: Feed ... without end,
//!                                 or 409: compare with a snapshot first
//! POST /v1/share/SHARE/snapshot   answer: Snap(start) Snap(entries) ... Snap(end)
//! POST /v1/share/SHARE/content    request: Wants ...                answer: Content, bytes, ...
//! POST /v1/share/SHARE/barrier    answer: Barrier
//! POST /v1/share/SHARE/lease      request: LeaseAsk ...             answer: LeaseSay ... without end
//!
//! Of any site of the share, while the primary copy moves from one to another:
//! POST /v1/share/SHARE/lead       request: Lead                     answer: Lead, the newest known there
//! POST /v1/share/SHARE/who        answer: Lead
//! POST /v1/share/SHARE/step-down  answer: Stepping: the primary lets no change begin
//! POST /v1/share/SHARE/step-on    request: Stepping                 answer: Lead; changes begin again
//! POST /v1/share/SHARE/hand-over  request: HandOver                 answer: HandedOver: it is a copy now
//! POST /v1/share/SHARE/report     answer: Report
//! POST /v1/share/SHARE/records    request: Follow                   answer: Sent ..., or 409
//! ```

use bytes::Bytes;

/// Longest message of a journal or snapshot stream, in bytes: a record of 512 changes with names of
/// 255 bytes, link targets of 4 KiB and 1 KiB of extended attributes stays below 3 MiB.
pub const MESSAGE_MAX: usize = 4 << 20;

/// Where the asking copy's journal ends.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Follow {
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub chain: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub incarnation: Bytes,
}

/// The copy has durably spooled everything up to here (R25); content it still awaits is told apart.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ack {
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    #[prost(uint64, tag = "3")]
    pub debts: u64,
    /// Bytes of those contents.
    #[prost(uint64, tag = "4")]
    pub debt_bytes: u64,
    /// The pledges that are kept here, each told once in a stream: at most [`KEPT_MAX`].
    #[prost(uint64, repeated, tag = "5")]
    pub kept: Vec<u64>,
}

/// Pledges in one acknowledgement.
pub const KEPT_MAX: usize = 64;

/// One message of the journal's stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Feed {
    #[prost(oneof = "feed::Kind", tags = "1, 2, 3, 4, 5")]
    pub kind: Option<feed::Kind>,
}

pub mod feed {
    use bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Start(super::Start),
        #[prost(message, tag = "2")]
        Record(super::Sent),
        /// Releases without a record (R4), as `catalog::encode_touch_gens` writes them.
        #[prost(bytes = "bytes", tag = "3")]
        Releases(Bytes),
        #[prost(message, tag = "4")]
        Beat(super::Beat),
        #[prost(message, tag = "5")]
        Pledge(super::Pledge),
    }
}

/// The copy is to say when it has on its disk what came before in the stream (R26): all records, and of
/// contents those of these objects.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Pledge {
    #[prost(uint64, tag = "1")]
    pub generation: u64,
    /// 16 bytes each.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub objects: Vec<Bytes>,
    /// Of every object.
    #[prost(bool, tag = "3")]
    pub all: bool,
}

/// The stream begins: the head now, and every mark in force (R10).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Start {
    #[prost(message, required, tag = "1")]
    pub head: Beat,
    #[prost(bytes = "bytes", tag = "2")]
    pub in_force: Bytes,
    /// There were more marks than are told: nothing may be taken for released.
    #[prost(bool, tag = "3")]
    pub more: bool,
    /// The newest generation handed out: an earlier one that is not in force is released.
    #[prost(uint64, tag = "4")]
    pub generation: u64,
}

/// A record as the journal stores it, and contents small enough to come along.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Sent {
    #[prost(bytes = "bytes", tag = "1")]
    pub record: Bytes,
    #[prost(message, repeated, tag = "2")]
    pub inline: Vec<Small>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Small {
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    #[prost(uint64, tag = "2")]
    pub version: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
}

/// Where the primary's journal ends; sent at least once a second.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Beat {
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// Milliseconds by the primary's clock since the record after the last acknowledged one was
    /// written: how far this copy lags.
    #[prost(uint64, tag = "3")]
    pub lag_ms: u64,
}

/// One message of a snapshot's stream.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Snap {
    #[prost(oneof = "snap::Kind", tags = "1, 2, 3")]
    pub kind: Option<snap::Kind>,
}

pub mod snap {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Start(super::SnapStart),
        #[prost(message, tag = "2")]
        Entries(super::SnapEntries),
        #[prost(message, tag = "3")]
        End(super::SnapEnd),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapStart {
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub chain: Bytes,
    #[prost(bytes = "bytes", tag = "4")]
    pub incarnation: Bytes,
    /// For progress.
    #[prost(uint64, tag = "5")]
    pub objects: u64,
    #[prost(uint64, tag = "6")]
    pub bytes: u64,
    /// The root directory's own row, as a `Change::Put`.
    #[prost(bytes = "bytes", tag = "7")]
    pub root: Bytes,
}

/// Entries in order: breadth first, each directory's names in byte order.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapEntries {
    #[prost(message, repeated, tag = "1")]
    pub entries: Vec<SnapEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct SnapEntry {
    #[prost(bytes = "bytes", tag = "1")]
    pub parent: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    pub name: Bytes,
    /// The object as a `Change::Put`.
    #[prost(bytes = "bytes", tag = "3")]
    pub object: Bytes,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct SnapEnd {
    #[prost(uint64, tag = "1")]
    pub entries: u64,
}

/// Contents that a copy asks for.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Wants {
    #[prost(message, repeated, tag = "1")]
    pub wants: Vec<Want>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Want {
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    #[prost(uint64, tag = "2")]
    pub version: u64,
    /// Also the extended attributes, if they are apart from the object's row.
    #[prost(bool, tag = "3")]
    pub xattrs: bool,
    /// Those and no content.
    #[prost(bool, tag = "4")]
    pub only: bool,
    /// The copy understands `sparse`.
    #[prost(bool, tag = "5")]
    pub holes: bool,
}

/// Announces what follows: `xattrs` raw bytes, `size` raw bytes of content, then one `ContentEnd`. Of a
/// sparse content not the raw bytes follow, but an [`Extent`] with its data, and again, to the end.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Content {
    #[prost(bytes = "bytes", tag = "1")]
    pub id: Bytes,
    /// The version that follows: the one asked for or a later one (R25).
    #[prost(uint64, tag = "2")]
    pub version: u64,
    #[prost(uint64, tag = "3")]
    pub size: u64,
    #[prost(enumeration = "Supply", tag = "4")]
    pub supply: i32,
    /// Length of the extended attributes, as `catalog::encode_xattrs` writes them.
    #[prost(uint32, tag = "5")]
    pub xattrs: u32,
    #[prost(bool, tag = "6")]
    pub sparse: bool,
}

/// A hole of a sparse content, and the length of the data behind it, which follows: at least 1, unless the
/// hole goes to the end.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Extent {
    #[prost(uint64, tag = "1")]
    pub hole: u64,
    #[prost(uint64, tag = "2")]
    pub data: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Supply {
    /// `size` bytes follow.
    Whole = 0,
    /// It is changing right now: ask again later; a newer record may come first.
    Later = 1,
    /// The object is deleted; the record that says so is on its way.
    Gone = 2,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct ContentEnd {
    /// The file stayed the same from the first byte to the last.
    #[prost(bool, tag = "1")]
    pub whole: bool,
}

/// Once everything up to here is applied, all that the asking site sent before and knows no outcome
/// of is in its copy, or will never be done, but for what is `open`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Barrier {
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// Touches with their generations that the asking site must not answer for until they are released.
    #[prost(bytes = "bytes", tag = "3")]
    pub open: Bytes,
}

/// Longest [`Barrier`]: 2048 open touches of 300 bytes.
pub const BARRIER_MAX: usize = 1 << 20;

/// What a copy of a strict share says about leases. Its first message also says that it has dropped
/// whatever lease it had (R11).
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LeaseAsk {
    #[prost(oneof = "lease_ask::Kind", tags = "1, 2")]
    pub kind: Option<lease_ask::Kind>,
}

pub mod lease_ask {
    #[derive(Clone, Copy, PartialEq, prost::Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Renew(super::Renew),
        /// The question with this number: everything it named is held.
        #[prost(uint64, tag = "2")]
        Held(u64),
    }
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Renew {
    /// Told again with the answer.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// The last record that the copy has applied.
    #[prost(uint64, tag = "2")]
    pub applied: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LeaseSay {
    #[prost(oneof = "lease_say::Kind", tags = "1, 2")]
    pub kind: Option<lease_say::Kind>,
}

pub mod lease_say {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Kind {
        #[prost(message, tag = "1")]
        Grant(super::Grant),
        #[prost(message, tag = "2")]
        Ask(super::HoldAsk),
    }
}

/// The copy may answer for itself (R10), counted from when it asked.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Grant {
    #[prost(uint64, tag = "1")]
    pub number: u64,
    #[prost(uint32, tag = "2")]
    pub lease_ms: u32,
    /// Only if it had no lease before.
    #[prost(message, optional, tag = "3")]
    pub fresh: Option<Fresh>,
}

/// Where a copy without a lease begins: the head, and everything in force.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Fresh {
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    /// As `catalog::encode_touch_gens` writes them.
    #[prost(bytes = "bytes", tag = "3")]
    pub in_force: Bytes,
    /// The newest generation handed out: an earlier hold that is not in force is released.
    #[prost(uint64, tag = "4")]
    pub generation: u64,
}

/// These are not to be answered for until they are released.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HoldAsk {
    #[prost(uint64, tag = "1")]
    pub question: u64,
    #[prost(bytes = "bytes", tag = "2")]
    pub touches: Bytes,
}

/// Who has the primary copy since when, as [`crate::catalog::Lead`] has it.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Lead {
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    #[prost(string, tag = "2")]
    pub site: String,
    #[prost(uint32, tag = "3")]
    pub base_epoch: u32,
    #[prost(uint64, tag = "4")]
    pub base_seq: u64,
    #[prost(bytes = "bytes", tag = "5")]
    pub chain: Bytes,
}

/// No change begins at the primary, for so long, and everything before is in its journal.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stepping {
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub chain: Bytes,
    /// Names this pause, for [`HandOver`].
    #[prost(uint64, tag = "4")]
    pub token: u64,
    #[prost(uint32, tag = "5")]
    pub pause_ms: u32,
}

/// Asks for the locks behind that of a token, during a pause.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LocksAfter {
    /// Of the pause.
    #[prost(uint64, tag = "1")]
    pub token: u64,
    /// Empty for the first.
    #[prost(string, tag = "2")]
    pub after: String,
}

/// Some locks, in the order of their tokens, as the catalog has them.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Locks {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub locks: Vec<Bytes>,
    #[prost(bool, tag = "2")]
    pub more: bool,
}

/// The asking site has all that the pause covers, and is the primary from here on.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HandOver {
    #[prost(uint64, tag = "1")]
    pub token: u64,
    #[prost(message, required, tag = "2")]
    pub lead: Lead,
}

/// Nobody has got a lease from the old primary for so long.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HandedOver {
    #[prost(uint64, tag = "1")]
    pub withheld_ms: u64,
}

/// How far a copy is.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Report {
    #[prost(uint32, tag = "1")]
    pub epoch: u32,
    #[prost(uint64, tag = "2")]
    pub seq: u64,
    #[prost(bytes = "bytes", tag = "3")]
    pub incarnation: Bytes,
    /// A first comparison was completed there.
    #[prost(bool, tag = "4")]
    pub confirmed: bool,
    /// Requests of that site whose changes it has not seen, and touches it holds for the primary.
    #[prost(uint64, tag = "5")]
    pub ahead: u64,
    #[prost(uint64, tag = "6")]
    pub held: u64,
    #[prost(uint64, tag = "7")]
    pub debts: u64,
    /// The epoch under whose lead its position was last taken for one of that history.
    #[prost(uint32, tag = "8")]
    pub accepted: u32,
}
