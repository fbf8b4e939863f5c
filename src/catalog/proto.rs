//! How the journal's vocabulary is written down: one form for disk and wire, Protocol Buffers by field
//! number. A field is never given another meaning; a new one is optional. Kinds that are not known
//! are refused, never skipped.
//!
//! A record's form is its body (fields 1 to 6) followed by its chain hash (field 15), and the chain
//! hash is BLAKE3 over the hash before and the body. A body with fields that this release does not
//! know therefore fails the check of `Batch::append`: it must not be applied by half. A newer primary
//! writes such fields once every site of the share can read them.
//!
//! Not here: the rows only the catalog itself reads (see `rows`).

use bytes::Bytes;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};

use super::model::{Change, Record, Release, Touch};
use crate::id::{Epoch, Gen, Hash, IdError, Name, ObjectId, Position, Seq, Version};
use crate::object::{Attrs, Extra, Kind, Object, Timespec, Xattrs};

/// Changes of one record, and releases of one record.
pub const CHANGES_MAX: usize = 65_536;
/// Bytes of one record: 65,536 changes of 256 bytes, the size of a new file and its entry.
pub const RECORD_MAX: usize = 16 << 20;
/// Touches of one forwarded request or answer.
pub const TOUCHES_MAX: usize = 65_536;
/// What a symbolic link may say, in bytes: Linux `PATH_MAX` without the final NUL.
pub const TARGET_MAX: usize = 4095;

/// Why bytes are not what they were taken for: the field, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{field}: {source}")]
    Id { field: &'static str, source: IdError },
    #[error("{field} is {found}, the limit is {limit}")]
    Limit { field: &'static str, found: u64, limit: u64 },
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} {found} is not known here; a newer nearshare wrote it")]
    Unknown { field: &'static str, found: u32 },
    #[error("the extended attribute {name} is none that travels; a newer nearshare wrote it")]
    Xattr { name: String },
    #[error("{what} is not a message: {source}")]
    Message { what: &'static str, source: prost::DecodeError },
    #[error("the key of the row is not one of its table")]
    Key,
}

/// The stored and sent form of a record. A `Put`'s object always has the record's own `seq`, which
/// is not written twice.
pub fn encode_record(record: &Record) -> Bytes {
    let tail = encode_tail(record.wall, &record.changes, &record.releases);
    let body = body(record.at, &record.prev, &tail);
    Bytes::from(seal(body, &record.chain))
}

/// Reads what [`encode_record`] wrote. That the content is what the chain hash was made of is for
/// `Batch::append` to check.
pub fn decode_record(bytes: &[u8]) -> Result<Record, DecodeError> {
    limit("record length", bytes.len() as u64, RECORD_MAX as u64)?;
    count_repeated(bytes, &[5, 6])?;
    let message = RecordMessage::decode(bytes).map_err(|source| message("record", source))?;
    let at = Position { epoch: Epoch(message.epoch), seq: Seq(message.seq) };
    let changes = message.changes.into_iter().map(|change| {
        let mut change = Change::try_from(change)?;
        if let Change::Put(object) = &mut change {
            object.seq = at.seq;
        }
        Ok(change)
    });
    Ok(Record {
        at,
        prev: hash("record.prev", &message.prev)?,
        chain: hash("record.chain", &message.chain)?,
        wall: message.wall,
        changes: changes.collect::<Result<_, DecodeError>>()?,
        releases: message.releases.into_iter().map(Release::try_from).collect::<Result<_, _>>()?,
    })
}

/// The form of one change of a snapshot's stream.
pub fn encode_change(change: &Change) -> Bytes {
    Bytes::from(ChangeMessage::from(change).encode_to_vec())
}

pub fn decode_change(bytes: &[u8]) -> Result<Change, DecodeError> {
    ChangeMessage::decode(bytes).map_err(|source| message("change", source))?.try_into()
}

pub fn encode_touch(touch: &Touch) -> Bytes {
    Bytes::from(TouchMessage::from(touch).encode_to_vec())
}

pub fn decode_touch(bytes: &[u8]) -> Result<Touch, DecodeError> {
    TouchMessage::decode(bytes).map_err(|source| message("touch", source))?.try_into()
}

/// What a forwarded request's answer says is ahead, and up to which generation.
pub fn encode_touch_gens(touches: &[(Touch, Gen)]) -> Bytes {
    let touches = touches
        .iter()
        .map(|(touch, through)| ReleaseMessage { touch: Some(touch.into()), through: through.0 });
    Bytes::from(ReleasesMessage { releases: touches.collect() }.encode_to_vec())
}

pub fn decode_touch_gens(bytes: &[u8]) -> Result<Vec<(Touch, Gen)>, DecodeError> {
    count_repeated(bytes, &[1])?;
    let message = ReleasesMessage::decode(bytes).map_err(|source| message("touches", source))?;
    let pair = |release: ReleaseMessage| {
        let Release { touch, through } = release.try_into()?;
        Ok((touch, through))
    };
    message.releases.into_iter().map(pair).collect()
}

pub fn encode_touches(touches: &[Touch]) -> Vec<u8> {
    TouchesMessage { touches: touches.iter().map(TouchMessage::from).collect() }.encode_to_vec()
}

pub fn decode_touches(bytes: &[u8]) -> Result<Vec<Touch>, DecodeError> {
    count_repeated(bytes, &[1])?;
    let message = TouchesMessage::decode(bytes).map_err(|source| message("touches", source))?;
    message.touches.into_iter().map(Touch::try_from).collect()
}

/// The part of a record's body that does not depend on its place: made by whoever publishes, while
/// the place is given by the committer.
pub fn encode_tail(wall: i64, changes: &[Change], releases: &[Release]) -> Vec<u8> {
    let changes = changes.iter().map(|change| match change {
        Change::Put(object) => put_message(object, Seq(0)),
        other => other.into(),
    });
    let message = RecordMessage {
        wall,
        changes: changes.collect(),
        releases: releases.iter().map(ReleaseMessage::from).collect(),
        ..RecordMessage::default()
    };
    message.encode_to_vec()
}

/// A record's body: its place, and what [`encode_tail`] made.
pub fn body(at: Position, prev: &Hash, tail: &[u8]) -> Vec<u8> {
    let head = RecordMessage {
        epoch: at.epoch.0,
        seq: at.seq.0,
        prev: prev.0.to_vec(),
        ..RecordMessage::default()
    };
    let mut body = Vec::with_capacity(head.encoded_len() + tail.len() + CHAIN_FIELD);
    head.encode_raw(&mut body);
    body.extend_from_slice(tail);
    body
}

/// Tag, length and bytes of a record's chain hash.
const CHAIN_FIELD: usize = 34;

/// A record's body with its chain hash behind it: its stored and sent form.
pub fn seal(mut body: Vec<u8>, chain: &Hash) -> Vec<u8> {
    RecordMessage { chain: chain.0.to_vec(), ..RecordMessage::default() }.encode_raw(&mut body);
    body
}

/// R24.
pub fn chain(prev: &Hash, body: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&prev.0);
    hasher.update(body);
    Hash(*hasher.finalize().as_bytes())
}

/// Position, hash before and own hash of a stored record, without its changes.
pub fn decode_links(bytes: &[u8]) -> Result<(Position, Hash, Hash), DecodeError> {
    let links = RecordLinks::decode(bytes).map_err(|source| message("record", source))?;
    let at = Position { epoch: Epoch(links.epoch), seq: Seq(links.seq) };
    Ok((at, hash("record.prev", &links.prev)?, hash("record.chain", &links.chain)?))
}

pub fn encode_object(object: &Object) -> Vec<u8> {
    // The id is the row's key.
    let message = ObjectMessage { id: Vec::new(), ..ObjectMessage::new(object, object.seq) };
    message.encode_to_vec()
}

pub fn decode_object(id: ObjectId, bytes: &[u8]) -> Result<Object, DecodeError> {
    let mut row = ObjectMessage::decode(bytes).map_err(|source| message("object", source))?;
    row.id = id.as_bytes().to_vec();
    row.try_into()
}

/// A set of extended attributes: what a row holds, and what travels apart from one.
pub fn encode_xattrs(xattrs: &Xattrs) -> Vec<u8> {
    let xattrs =
        xattrs.iter().map(|(name, value)| XattrMessage { name: name.into(), value: value.into() });
    XattrsMessage { xattrs: xattrs.collect() }.encode_to_vec()
}

/// What [`encode_xattrs`] writes of a set of [`Xattrs::MAX`] is no longer.
pub const XATTRS_MAX: usize = Xattrs::MAX + 16 * Xattrs::COUNT_MAX;

pub fn decode_xattrs(bytes: &[u8]) -> Result<Xattrs, DecodeError> {
    limit("length of xattrs", bytes.len() as u64, XATTRS_MAX as u64)?;
    count_to(bytes, &[1], Xattrs::COUNT_MAX)?;
    let message = XattrsMessage::decode(bytes).map_err(|source| message("xattrs", source))?;
    let mut xattrs = Xattrs::default();
    for XattrMessage { name, value } in message.xattrs {
        limit("length of an xattr's name", name.len() as u64, Xattrs::NAME_MAX as u64)?;
        limit("length of an xattr", value.len() as u64, Xattrs::VALUE_MAX as u64)?;
        if !Xattrs::is_carried(&name) || name.contains(&0) {
            let name = name.escape_ascii().to_string();
            return Err(DecodeError::Xattr { name });
        }
        xattrs.insert(name, value);
    }
    limit("bytes of xattrs", xattrs.bytes() as u64, Xattrs::MAX as u64)?;
    Ok(xattrs)
}

#[derive(Clone, PartialEq, Message)]
struct RecordMessage {
    #[prost(uint32, tag = "1")]
    epoch: u32,
    #[prost(uint64, tag = "2")]
    seq: u64,
    #[prost(bytes = "vec", tag = "3")]
    prev: Vec<u8>,
    #[prost(sint64, tag = "4")]
    wall: i64,
    #[prost(message, repeated, tag = "5")]
    changes: Vec<ChangeMessage>,
    #[prost(message, repeated, tag = "6")]
    releases: Vec<ReleaseMessage>,
    #[prost(bytes = "vec", tag = "15")]
    chain: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct RecordLinks {
    #[prost(uint32, tag = "1")]
    epoch: u32,
    #[prost(uint64, tag = "2")]
    seq: u64,
    #[prost(bytes = "vec", tag = "3")]
    prev: Vec<u8>,
    #[prost(bytes = "vec", tag = "15")]
    chain: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ChangeMessage {
    #[prost(oneof = "Step", tags = "1, 2, 3, 4, 5")]
    step: Option<Step>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Step {
    #[prost(message, tag = "1")]
    Put(ObjectMessage),
    #[prost(message, tag = "2")]
    Link(EntryMessage),
    #[prost(message, tag = "3")]
    Unlink(EntryMessage),
    #[prost(message, tag = "4")]
    Move(MoveMessage),
    #[prost(bytes = "vec", tag = "5")]
    Gone(Vec<u8>),
}

#[derive(Clone, PartialEq, Message)]
struct ObjectMessage {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint32, tag = "2")]
    kind: u32,
    #[prost(uint32, tag = "3")]
    mode: u32,
    #[prost(uint32, tag = "4")]
    uid: u32,
    #[prost(uint32, tag = "5")]
    gid: u32,
    #[prost(sint64, tag = "6")]
    mtime_sec: i64,
    #[prost(uint32, tag = "7")]
    mtime_nsec: u32,
    #[prost(uint64, tag = "8")]
    size: u64,
    #[prost(uint64, tag = "9")]
    rdev: u64,
    #[prost(bytes = "vec", tag = "10")]
    target: Vec<u8>,
    #[prost(uint64, tag = "11")]
    version: u64,
    /// Empty for the zero hash of what is not a file.
    #[prost(bytes = "vec", tag = "12")]
    root: Vec<u8>,
    #[prost(sint64, tag = "13")]
    ctime_sec: i64,
    #[prost(uint32, tag = "14")]
    ctime_nsec: u32,
    #[prost(uint64, tag = "15")]
    seq: u64,
    /// As [`encode_xattrs`] writes them; at most one of the two is there.
    #[prost(bytes = "vec", tag = "16")]
    xattrs: Vec<u8>,
    #[prost(bytes = "vec", tag = "17")]
    xattrs_hash: Vec<u8>,
    /// With the hash: none of them restricts who gets in.
    #[prost(bool, tag = "18")]
    xattrs_open: bool,
}

#[derive(Clone, PartialEq, Message)]
struct XattrsMessage {
    /// By name.
    #[prost(message, repeated, tag = "1")]
    xattrs: Vec<XattrMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct XattrMessage {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EntryMessage {
    #[prost(bytes = "vec", tag = "1")]
    parent: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    id: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct MoveMessage {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    from_parent: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    from_name: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    to_parent: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    to_name: Vec<u8>,
}

/// An object, or an entry when there is a name.
#[derive(Clone, PartialEq, Message)]
struct TouchMessage {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    name: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct ReleaseMessage {
    #[prost(message, optional, tag = "1")]
    touch: Option<TouchMessage>,
    #[prost(uint64, tag = "2")]
    through: u64,
}

#[derive(Clone, PartialEq, Message)]
struct ReleasesMessage {
    #[prost(message, repeated, tag = "1")]
    releases: Vec<ReleaseMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct TouchesMessage {
    #[prost(message, repeated, tag = "1")]
    touches: Vec<TouchMessage>,
}

impl ObjectMessage {
    fn new(object: &Object, seq: Seq) -> Self {
        let root = if object.root == Hash::default() { Vec::new() } else { object.root.0.to_vec() };
        let (xattrs, xattrs_hash, xattrs_open) = match &object.xattrs {
            Extra::Here(xattrs) => (encode_xattrs(xattrs), Vec::new(), false),
            Extra::Apart { hash, restrict } => (Vec::new(), hash.0.to_vec(), !restrict),
        };
        Self {
            id: object.id.as_bytes().to_vec(),
            kind: object.kind.ftype3(),
            mode: object.attrs.mode,
            uid: object.attrs.uid,
            gid: object.attrs.gid,
            mtime_sec: object.attrs.mtime.sec,
            mtime_nsec: object.attrs.mtime.nsec,
            size: object.size,
            rdev: object.rdev,
            target: object.target.clone(),
            version: object.version.0,
            root,
            ctime_sec: object.ctime.sec,
            ctime_nsec: object.ctime.nsec,
            seq: seq.0,
            xattrs,
            xattrs_hash,
            xattrs_open,
        }
    }
}

impl TryFrom<ObjectMessage> for Object {
    type Error = DecodeError;
    fn try_from(row: ObjectMessage) -> Result<Self, DecodeError> {
        limit("object.mode", row.mode.into(), 0o7777)?;
        limit("length of object.target", row.target.len() as u64, TARGET_MAX as u64)?;
        Ok(Self {
            id: id("object.id", &row.id)?,
            kind: kind(row.kind)?,
            attrs: Attrs {
                mode: row.mode,
                uid: row.uid,
                gid: row.gid,
                mtime: timespec("object.mtime_nsec", row.mtime_sec, row.mtime_nsec)?,
            },
            xattrs: match &row.xattrs_hash[..] {
                [] => {
                    let xattrs = decode_xattrs(&row.xattrs)?;
                    limit("bytes of object.xattrs", xattrs.bytes() as u64, Extra::ROW_MAX as u64)?;
                    Extra::Here(xattrs)
                }
                apart => {
                    let hash = hash("object.xattrs_hash", apart)?;
                    Extra::Apart { hash, restrict: !row.xattrs_open }
                }
            },
            size: row.size,
            rdev: row.rdev,
            target: row.target,
            version: Version(row.version),
            root: if row.root.is_empty() { Hash::default() } else { hash("object.root", &row.root)? },
            ctime: timespec("object.ctime_nsec", row.ctime_sec, row.ctime_nsec)?,
            seq: Seq(row.seq),
        })
    }
}

fn put_message(object: &Object, seq: Seq) -> ChangeMessage {
    ChangeMessage { step: Some(Step::Put(ObjectMessage::new(object, seq))) }
}

impl From<&Change> for ChangeMessage {
    fn from(change: &Change) -> Self {
        let entry = |parent: &ObjectId, name: &Name, id: &ObjectId| EntryMessage {
            parent: parent.as_bytes().to_vec(),
            name: name.as_bytes().to_vec(),
            id: id.as_bytes().to_vec(),
        };
        let step = match change {
            Change::Put(object) => return put_message(object, object.seq),
            Change::Link { parent, name, id } => Step::Link(entry(parent, name, id)),
            Change::Unlink { parent, name, id } => Step::Unlink(entry(parent, name, id)),
            Change::Move { id, from, to } => Step::Move(MoveMessage {
                id: id.as_bytes().to_vec(),
                from_parent: from.0.as_bytes().to_vec(),
                from_name: from.1.as_bytes().to_vec(),
                to_parent: to.0.as_bytes().to_vec(),
                to_name: to.1.as_bytes().to_vec(),
            }),
            Change::Gone { id } => Step::Gone(id.as_bytes().to_vec()),
        };
        Self { step: Some(step) }
    }
}

impl TryFrom<ChangeMessage> for Change {
    type Error = DecodeError;
    fn try_from(message: ChangeMessage) -> Result<Self, DecodeError> {
        let entry = |entry: EntryMessage| {
            let parent = id("entry.parent", &entry.parent)?;
            Ok::<_, DecodeError>((parent, name("entry.name", &entry.name)?, id("entry.id", &entry.id)?))
        };
        Ok(match message.step.ok_or(DecodeError::Missing { field: "a known kind of change" })? {
            Step::Put(object) => Self::Put(object.try_into()?),
            Step::Link(message) => {
                let (parent, name, id) = entry(message)?;
                Self::Link { parent, name, id }
            }
            Step::Unlink(message) => {
                let (parent, name, id) = entry(message)?;
                Self::Unlink { parent, name, id }
            }
            Step::Move(message) => Self::Move {
                id: id("move.id", &message.id)?,
                from: (
                    id("move.from_parent", &message.from_parent)?,
                    name("move.from_name", &message.from_name)?,
                ),
                to: (id("move.to_parent", &message.to_parent)?, name("move.to_name", &message.to_name)?),
            },
            Step::Gone(bytes) => Self::Gone { id: id("gone.id", &bytes)? },
        })
    }
}

impl From<&Touch> for TouchMessage {
    fn from(touch: &Touch) -> Self {
        match touch {
            Touch::Object(id) => Self { id: id.as_bytes().to_vec(), name: Vec::new() },
            Touch::Entry(dir, name) => {
                Self { id: dir.as_bytes().to_vec(), name: name.as_bytes().to_vec() }
            }
        }
    }
}

impl TryFrom<TouchMessage> for Touch {
    type Error = DecodeError;
    fn try_from(message: TouchMessage) -> Result<Self, DecodeError> {
        let id = id("touch.id", &message.id)?;
        if message.name.is_empty() {
            Ok(Self::Object(id))
        } else {
            Ok(Self::Entry(id, name("touch.name", &message.name)?))
        }
    }
}

impl From<&Release> for ReleaseMessage {
    fn from(release: &Release) -> Self {
        Self { touch: Some((&release.touch).into()), through: release.through.0 }
    }
}

impl TryFrom<ReleaseMessage> for Release {
    type Error = DecodeError;
    fn try_from(message: ReleaseMessage) -> Result<Self, DecodeError> {
        let touch = message.touch.ok_or(DecodeError::Missing { field: "release.touch" })?;
        Ok(Self { touch: touch.try_into()?, through: Gen(message.through) })
    }
}

fn kind(found: u32) -> Result<Kind, DecodeError> {
    Kind::from_ftype3(found).ok_or(DecodeError::Unknown { field: "object.kind", found })
}

/// Counts the repeated fields before anything is allocated for them: an element of two bytes
/// becomes a struct of two hundred.
fn count_repeated(bytes: &[u8], tags: &[u32]) -> Result<(), DecodeError> {
    count_to(bytes, tags, CHANGES_MAX + TOUCHES_MAX)
}

fn count_to(bytes: &[u8], tags: &[u32], most: usize) -> Result<(), DecodeError> {
    let mut rest = bytes;
    let mut count = 0u64;
    let mut walk = || {
        while !rest.is_empty() {
            let (tag, wire): (u32, WireType) = decode_key(&mut rest)?;
            count += u64::from(tags.contains(&tag));
            skip_field(wire, tag, &mut rest, DecodeContext::default())?;
        }
        Ok(())
    };
    walk().map_err(|source| message("message", source))?;
    limit("number of elements", count, most as u64)
}

pub(super) fn message(what: &'static str, source: prost::DecodeError) -> DecodeError {
    DecodeError::Message { what, source }
}

pub(super) fn limit(field: &'static str, found: u64, limit: u64) -> Result<(), DecodeError> {
    if found > limit { Err(DecodeError::Limit { field, found, limit }) } else { Ok(()) }
}

pub(super) fn id(field: &'static str, bytes: &[u8]) -> Result<ObjectId, DecodeError> {
    ObjectId::try_from(bytes).map_err(|source| DecodeError::Id { field, source })
}

pub(super) fn hash(field: &'static str, bytes: &[u8]) -> Result<Hash, DecodeError> {
    Hash::try_from(bytes).map_err(|source| DecodeError::Id { field, source })
}

fn name(field: &'static str, bytes: &[u8]) -> Result<Name, DecodeError> {
    Name::new(bytes).map_err(|source| DecodeError::Id { field, source })
}

pub(super) fn timespec(field: &'static str, sec: i64, nsec: u32) -> Result<Timespec, DecodeError> {
    limit(field, nsec.into(), 999_999_999)?;
    Ok(Timespec { sec, nsec })
}
