//! Rows that only this site's catalog reads: what it knows of its own disk, of its peers, and of
//! each share as a whole. Same rules as in `proto`.

use std::time::Duration;

use prost::Message;

use super::model::{Debt, Head, Lead, Meta, PeerRow, Totals};
use super::proto::{DecodeError, hash, limit, message, timespec};
use crate::id::{Epoch, Gen, Hash, IdError, Name, ObjectId, Position, RelPath, Seq, Version};
use crate::object::{Local, LocalHandle, Stamp};
use crate::wire::http::lock::{Lock, Maker, Principal};

/// Bytes of a local handle: see [`LocalHandle`].
const HANDLE_MAX: u64 = 2 + 4 + 128;

/// What is true of a share as a whole; one row, written with every batch that changes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    /// Under which index its objects, names, links, locals and debts are.
    pub rows: u32,
    /// Under which index its journal is.
    pub journal: u32,
    pub totals: Totals,
    pub debts: Totals,
    pub head: Head,
    /// The record before the first that is kept: its position and chain hash, or the incarnation's.
    pub kept_after: Position,
    pub kept_chain: Hash,
    pub meta: Meta,
}

/// What is true of the database.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DatabaseRow {
    pub format: u32,
    /// The next index to give out.
    pub next_index: u32,
}

pub fn encode_state(state: &State) -> Vec<u8> {
    let meta = &state.meta;
    let message = StateMessage {
        rows: state.rows,
        journal: state.journal,
        objects: state.totals.objects,
        bytes: state.totals.bytes,
        debt_objects: state.debts.objects,
        debt_bytes: state.debts.bytes,
        head_epoch: state.head.at.epoch.0,
        head_seq: state.head.at.seq.0,
        head_chain: state.head.chain.0.to_vec(),
        incarnation: state.head.incarnation.0.to_vec(),
        kept_epoch: state.kept_after.epoch.0,
        kept_seq: state.kept_after.seq.0,
        kept_chain: state.kept_chain.0.to_vec(),
        meta: Some(MetaMessage {
            marker: meta.marker.map(Vec::from),
            epoch: meta.epoch.0,
            scanned: meta.scanned,
            confirmed: meta.confirmed,
            clean: meta.clean,
            boot_id: meta.boot_id.clone(),
            alive_wall: meta.alive_wall,
            gen_reserved: meta.gen_reserved.0,
            lead: meta.lead.as_ref().map(|lead| LeadMessage {
                epoch: lead.epoch.0,
                site: lead.site.as_str().to_owned(),
                base_epoch: lead.base.epoch.0,
                base_seq: lead.base.seq.0,
                chain: lead.chain.0.to_vec(),
            }),
            leased: meta.leased,
            leased_to: meta.leased_to.iter().map(|site| site.as_str().to_owned()).collect(),
            fenced: meta.fenced.0,
            accepted: meta.accepted.0,
        }),
    };
    message.encode_to_vec()
}

pub fn decode_state(bytes: &[u8]) -> Result<State, DecodeError> {
    let row = StateMessage::decode(bytes).map_err(|source| message("state", source))?;
    let meta = row.meta.ok_or(DecodeError::Missing { field: "state.meta" })?;
    let marker = meta.marker.map(|bytes| {
        let (len, want) = (bytes.len(), 16);
        let source = IdError::Length { what: "a marker", len, want };
        <[u8; 16]>::try_from(bytes).map_err(|_| DecodeError::Id { field: "meta.marker", source })
    });
    let leased_to = meta
        .leased_to
        .iter()
        .map(|site| site.parse().map_err(|source| DecodeError::Id { field: "meta.leased_to", source }));
    Ok(State {
        rows: row.rows,
        journal: row.journal,
        totals: Totals { objects: row.objects, bytes: row.bytes },
        debts: Totals { objects: row.debt_objects, bytes: row.debt_bytes },
        head: Head {
            at: Position { epoch: Epoch(row.head_epoch), seq: Seq(row.head_seq) },
            chain: hash("state.head_chain", &row.head_chain)?,
            incarnation: hash("state.incarnation", &row.incarnation)?,
        },
        kept_after: Position { epoch: Epoch(row.kept_epoch), seq: Seq(row.kept_seq) },
        kept_chain: hash("state.kept_chain", &row.kept_chain)?,
        meta: Meta {
            marker: marker.transpose()?,
            epoch: Epoch(meta.epoch),
            scanned: meta.scanned,
            confirmed: meta.confirmed,
            clean: meta.clean,
            boot_id: meta.boot_id,
            alive_wall: meta.alive_wall,
            gen_reserved: Gen(meta.gen_reserved),
            lead: meta.lead.map(decode_lead).transpose()?,
            leased: meta.leased,
            leased_to: leased_to.collect::<Result<_, _>>()?,
            fenced: Epoch(meta.fenced),
            accepted: Epoch(meta.accepted),
        },
    })
}

fn decode_lead(row: LeadMessage) -> Result<Lead, DecodeError> {
    let site = row.site.parse();
    Ok(Lead {
        epoch: Epoch(row.epoch),
        site: site.map_err(|source| DecodeError::Id { field: "meta.lead.site", source })?,
        base: Position { epoch: Epoch(row.base_epoch), seq: Seq(row.base_seq) },
        chain: hash("meta.lead.chain", &row.chain)?,
    })
}

pub fn encode_local(local: &Local) -> Vec<u8> {
    let Stamp { size, mtime, ctime } = local.stamp;
    let message = LocalMessage {
        handle: local.handle.as_bytes().to_vec(),
        size,
        mtime_sec: mtime.sec,
        mtime_nsec: mtime.nsec,
        ctime_sec: ctime.sec,
        ctime_nsec: ctime.nsec,
        version: local.version.0,
        settled: local.settled,
    };
    message.encode_to_vec()
}

pub fn decode_local(bytes: &[u8]) -> Result<Local, DecodeError> {
    let row = LocalMessage::decode(bytes).map_err(|source| message("local", source))?;
    limit("length of local.handle", row.handle.len() as u64, HANDLE_MAX)?;
    Ok(Local {
        handle: LocalHandle::from_bytes(&row.handle),
        stamp: Stamp {
            size: row.size,
            mtime: timespec("local.mtime_nsec", row.mtime_sec, row.mtime_nsec)?,
            ctime: timespec("local.ctime_nsec", row.ctime_sec, row.ctime_nsec)?,
        },
        version: Version(row.version),
        settled: row.settled,
    })
}

pub fn encode_debt(debt: &Debt) -> Vec<u8> {
    let message =
        DebtMessage { version: debt.version.0, size: debt.size, seq: debt.seq.0, epoch: debt.epoch.0 };
    message.encode_to_vec()
}

pub fn decode_debt(id: ObjectId, bytes: &[u8]) -> Result<Debt, DecodeError> {
    let row = DebtMessage::decode(bytes).map_err(|source| message("debt", source))?;
    let (version, seq, epoch) = (Version(row.version), Seq(row.seq), Epoch(row.epoch));
    Ok(Debt { id, version, size: row.size, seq, epoch })
}

pub fn encode_peer(row: &PeerRow) -> Vec<u8> {
    let message = PeerMessage {
        epoch: row.acked.epoch.0,
        seq: row.acked.seq.0,
        debts: row.debts,
        seen_wall: row.seen_wall,
        debt_bytes: row.debt_bytes,
    };
    message.encode_to_vec()
}

pub fn decode_peer(bytes: &[u8]) -> Result<PeerRow, DecodeError> {
    let row = PeerMessage::decode(bytes).map_err(|source| message("peer", source))?;
    let acked = Position { epoch: Epoch(row.epoch), seq: Seq(row.seq) };
    let PeerMessage { debts, debt_bytes, seen_wall, .. } = row;
    Ok(PeerRow { acked, debts, debt_bytes, seen_wall })
}

pub fn encode_lock(epoch: Epoch, lock: &Lock) -> Vec<u8> {
    let path = lock.path.names().iter().map(|name| name.as_bytes().to_vec()).collect();
    let Lock { token, deep, shared, owner, timeout, maker, .. } = lock.clone();
    let (epoch, seconds) = (epoch.0, timeout.as_secs());
    let principal = maker.principal.map(|Principal(hash)| hash.0.to_vec()).unwrap_or_default();
    let client = maker.client.map(|client| client.to_string()).unwrap_or_default();
    let row = LockMessage { token, path, deep, shared, owner, seconds, epoch, principal, client };
    row.encode_to_vec()
}

pub fn decode_lock(bytes: &[u8]) -> Result<(Epoch, Lock), DecodeError> {
    let row = LockMessage::decode(bytes).map_err(|source| message("lock", source))?;
    let wrong = |source| DecodeError::Id { field: "lock.path", source };
    let names = row.path.iter().map(|name| Name::new(name).map_err(wrong)).collect::<Result<_, _>>()?;
    let timeout = Duration::from_secs(row.seconds);
    let principal = match row.principal.as_slice() {
        b"" => None,
        hash => {
            let wrong = |source| DecodeError::Id { field: "lock.principal", source };
            Some(Principal(Hash::try_from(hash).map_err(wrong)?))
        }
    };
    let maker = Maker { principal, client: row.client.parse().ok() };
    let LockMessage { token, deep, shared, owner, .. } = row;
    let path = RelPath::new(names).map_err(wrong)?;
    Ok((Epoch(row.epoch), Lock { token, path, deep, shared, owner, timeout, maker }))
}

pub fn encode_database(row: &DatabaseRow) -> Vec<u8> {
    DatabaseMessage { format: row.format, next_index: row.next_index }.encode_to_vec()
}

pub fn decode_database(bytes: &[u8]) -> Result<DatabaseRow, DecodeError> {
    let row = DatabaseMessage::decode(bytes).map_err(|source| message("database", source))?;
    Ok(DatabaseRow { format: row.format, next_index: row.next_index })
}

#[derive(Clone, PartialEq, Message)]
struct StateMessage {
    #[prost(uint32, tag = "1")]
    rows: u32,
    #[prost(uint32, tag = "2")]
    journal: u32,
    #[prost(uint64, tag = "3")]
    objects: u64,
    #[prost(uint64, tag = "4")]
    bytes: u64,
    #[prost(uint64, tag = "5")]
    debt_objects: u64,
    #[prost(uint64, tag = "6")]
    debt_bytes: u64,
    #[prost(uint32, tag = "7")]
    head_epoch: u32,
    #[prost(uint64, tag = "8")]
    head_seq: u64,
    #[prost(bytes = "vec", tag = "9")]
    head_chain: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    incarnation: Vec<u8>,
    #[prost(uint32, tag = "11")]
    kept_epoch: u32,
    #[prost(uint64, tag = "12")]
    kept_seq: u64,
    #[prost(bytes = "vec", tag = "13")]
    kept_chain: Vec<u8>,
    #[prost(message, optional, tag = "14")]
    meta: Option<MetaMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct MetaMessage {
    #[prost(bytes = "vec", optional, tag = "1")]
    marker: Option<Vec<u8>>,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(bool, tag = "3")]
    scanned: bool,
    #[prost(bool, tag = "4")]
    confirmed: bool,
    #[prost(bool, tag = "5")]
    clean: bool,
    #[prost(string, tag = "6")]
    boot_id: String,
    #[prost(uint64, tag = "7")]
    gen_reserved: u64,
    #[prost(message, optional, tag = "11")]
    lead: Option<LeadMessage>,
    #[prost(sint64, tag = "9")]
    alive_wall: i64,
    #[prost(bool, tag = "10")]
    leased: bool,
    #[prost(string, repeated, tag = "12")]
    leased_to: Vec<String>,
    #[prost(uint32, tag = "13")]
    fenced: u32,
    #[prost(uint32, tag = "14")]
    accepted: u32,
}

#[derive(Clone, PartialEq, Message)]
struct LeadMessage {
    #[prost(uint32, tag = "1")]
    epoch: u32,
    #[prost(string, tag = "2")]
    site: String,
    #[prost(uint32, tag = "3")]
    base_epoch: u32,
    #[prost(uint64, tag = "4")]
    base_seq: u64,
    #[prost(bytes = "vec", tag = "5")]
    chain: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct LocalMessage {
    #[prost(bytes = "vec", tag = "1")]
    handle: Vec<u8>,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(sint64, tag = "3")]
    mtime_sec: i64,
    #[prost(uint32, tag = "4")]
    mtime_nsec: u32,
    #[prost(sint64, tag = "5")]
    ctime_sec: i64,
    #[prost(uint32, tag = "6")]
    ctime_nsec: u32,
    #[prost(uint64, tag = "7")]
    version: u64,
    #[prost(bool, tag = "8")]
    settled: bool,
}

#[derive(Clone, PartialEq, Message)]
struct DebtMessage {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(uint64, tag = "2")]
    size: u64,
    #[prost(uint64, tag = "3")]
    seq: u64,
    #[prost(uint32, tag = "4")]
    epoch: u32,
}

#[derive(Clone, PartialEq, Message)]
struct PeerMessage {
    #[prost(uint32, tag = "1")]
    epoch: u32,
    #[prost(uint64, tag = "2")]
    seq: u64,
    #[prost(uint64, tag = "3")]
    debts: u64,
    #[prost(sint64, tag = "4")]
    seen_wall: i64,
    #[prost(uint64, tag = "5")]
    debt_bytes: u64,
}

#[derive(Clone, PartialEq, Message)]
struct LockMessage {
    #[prost(string, tag = "1")]
    token: String,
    #[prost(bytes = "vec", repeated, tag = "2")]
    path: Vec<Vec<u8>>,
    #[prost(bool, tag = "3")]
    deep: bool,
    #[prost(bool, tag = "4")]
    shared: bool,
    #[prost(string, tag = "5")]
    owner: String,
    #[prost(uint64, tag = "6")]
    seconds: u64,
    #[prost(uint32, tag = "7")]
    epoch: u32,
    /// 32 bytes, or none.
    #[prost(bytes = "vec", tag = "8")]
    principal: Vec<u8>,
    /// An address, or empty.
    #[prost(string, tag = "9")]
    client: String,
}

#[derive(Clone, PartialEq, Message)]
struct DatabaseMessage {
    #[prost(uint32, tag = "1")]
    format: u32,
    #[prost(uint32, tag = "2")]
    next_index: u32,
}

/// A share's index in the database.
pub fn encode_index(index: u32) -> Vec<u8> {
    ShareMessage { index }.encode_to_vec()
}

pub fn decode_index(bytes: &[u8]) -> Result<u32, DecodeError> {
    Ok(ShareMessage::decode(bytes).map_err(|source| message("share", source))?.index)
}

#[derive(Clone, PartialEq, Message)]
struct ShareMessage {
    #[prost(uint32, tag = "1")]
    index: u32,
}
