//! How the tables' keys are laid out. Every key begins with an index of three bytes (big endian), so
//! that all of one share, or one of its generations, is one range and can be left behind at once.
//! With the table's number that makes 20 bytes for what is keyed by an object: as many as fjall keeps
//! in place, without an allocation of their own.
//!
//! ```text
//! space Rows     <rows index>    1 object                     -> Object
//!                                2 parent name                -> object id
//!                                3 object parent name         -> (nothing)
//!                                4 object                     -> Local
//!                                5 local handle               -> object id
//!                                6 object                     -> Debt
//! space Journal  <journal index> seq                          -> Record
//! space Notes    <share index>   1 touch                      -> generation
//!                                2 id of a forwarded request  -> touches
//!                                3 site                       -> PeerRow
//!                                4                            -> State
//!                                5 token                      -> Lock
//!                0               1                            -> Database
//!                0               2 share                      -> share index
//!                0               3 space, index               -> (nothing): rows to be swept
//! ```

use super::model::Touch;
use super::store::Space;
use crate::id::{Name, ObjectId, Seq, ShareId, SiteId};
use crate::object::LocalHandle;

const OBJECT: u8 = 1;
const NAME: u8 = 2;
const LINK: u8 = 3;
const LOCAL: u8 = 4;
const HANDLE: u8 = 5;
const DEBT: u8 = 6;

const MARK: u8 = 1;
const AHEAD: u8 = 2;
const PEER: u8 = 3;
const STATE: u8 = 4;
const LOCK: u8 = 5;

const DATABASE: u8 = 1;
const SHARE: u8 = 2;
const SWEEP: u8 = 3;

const TOUCH_OBJECT: u8 = 1;
const TOUCH_ENTRY: u8 = 2;

/// Bytes of the index.
const INDEX: usize = 3;
/// Bytes of the index and the table's number.
const HEAD: usize = INDEX + 1;
const ID: usize = 16;

/// Indices end here: 16 million shares, resets and journals.
pub const INDEX_MAX: u32 = (1 << (8 * INDEX)) - 1;

fn key(index: u32, table: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len = HEAD + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut key = Vec::with_capacity(len);
    key.extend_from_slice(&index.to_be_bytes()[4 - INDEX..]);
    key.push(table);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// The prefix of everything under one index.
pub fn index(index: u32) -> Vec<u8> {
    index.to_be_bytes()[4 - INDEX..].to_vec()
}

pub fn object(rows: u32, id: ObjectId) -> Vec<u8> {
    key(rows, OBJECT, &[id.as_bytes()])
}
pub fn objects(rows: u32) -> Vec<u8> {
    key(rows, OBJECT, &[])
}
/// The object in a key made by [`object`].
pub fn object_of(key: &[u8]) -> Option<ObjectId> {
    ObjectId::try_from(key.get(HEAD..)?).ok()
}
pub fn name(rows: u32, parent: ObjectId, name: &Name) -> Vec<u8> {
    key(rows, NAME, &[parent.as_bytes(), name.as_bytes()])
}
pub fn names(rows: u32, parent: ObjectId) -> Vec<u8> {
    key(rows, NAME, &[parent.as_bytes()])
}
/// The name in a key made by [`name`].
pub fn name_of(key: &[u8]) -> Option<Name> {
    Name::new(key.get(HEAD + ID..)?).ok()
}
pub fn link(rows: u32, id: ObjectId, parent: ObjectId, name: &Name) -> Vec<u8> {
    key(rows, LINK, &[id.as_bytes(), parent.as_bytes(), name.as_bytes()])
}
pub fn links(rows: u32, id: ObjectId) -> Vec<u8> {
    key(rows, LINK, &[id.as_bytes()])
}
/// The entry in a key made by [`link`].
pub fn link_of(key: &[u8]) -> Option<(ObjectId, Name)> {
    let parent = ObjectId::try_from(key.get(HEAD + ID..HEAD + 2 * ID)?).ok()?;
    Some((parent, Name::new(key.get(HEAD + 2 * ID..)?).ok()?))
}
pub fn local(rows: u32, id: ObjectId) -> Vec<u8> {
    key(rows, LOCAL, &[id.as_bytes()])
}
pub fn handle(rows: u32, handle: &LocalHandle) -> Vec<u8> {
    key(rows, HANDLE, &[handle.as_bytes()])
}
pub fn debt(rows: u32, id: ObjectId) -> Vec<u8> {
    key(rows, DEBT, &[id.as_bytes()])
}
pub fn debts(rows: u32) -> Vec<u8> {
    key(rows, DEBT, &[])
}
/// The object in a key made by [`debt`].
pub fn debt_of(key: &[u8]) -> Option<ObjectId> {
    ObjectId::try_from(key.get(HEAD..)?).ok()
}

pub fn record(journal: u32, seq: Seq) -> Vec<u8> {
    let mut key = index(journal);
    key.extend_from_slice(&seq.0.to_be_bytes());
    key
}

pub fn mark(share: u32, touch: &Touch) -> Vec<u8> {
    match touch {
        Touch::Object(id) => key(share, MARK, &[&[TOUCH_OBJECT], id.as_bytes()]),
        Touch::Entry(dir, name) => key(share, MARK, &[&[TOUCH_ENTRY], dir.as_bytes(), name.as_bytes()]),
    }
}
pub fn marks(share: u32) -> Vec<u8> {
    key(share, MARK, &[])
}
/// The touch in a key made by [`mark`].
pub fn mark_of(key: &[u8]) -> Option<Touch> {
    let id = ObjectId::try_from(key.get(HEAD + 1..HEAD + 1 + ID)?).ok()?;
    let rest = key.get(HEAD + 1 + ID..)?;
    match *key.get(HEAD)? {
        TOUCH_OBJECT if rest.is_empty() => Some(Touch::Object(id)),
        TOUCH_ENTRY => Some(Touch::Entry(id, Name::new(rest).ok()?)),
        _ => None,
    }
}
pub fn ahead(share: u32, id: u64) -> Vec<u8> {
    key(share, AHEAD, &[&id.to_be_bytes()])
}
pub fn aheads(share: u32) -> Vec<u8> {
    key(share, AHEAD, &[])
}
/// The request's id in a key made by [`ahead`].
pub fn ahead_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(HEAD..)?.try_into().ok()?))
}
pub fn peer(share: u32, site: &SiteId) -> Vec<u8> {
    key(share, PEER, &[site.as_str().as_bytes()])
}
pub fn peers(share: u32) -> Vec<u8> {
    key(share, PEER, &[])
}
/// The site in a key made by [`peer`].
pub fn peer_of(key: &[u8]) -> Option<SiteId> {
    std::str::from_utf8(key.get(HEAD..)?).ok()?.parse().ok()
}
pub fn state(share: u32) -> Vec<u8> {
    key(share, STATE, &[])
}

pub fn lock(share: u32, token: &str) -> Vec<u8> {
    key(share, LOCK, &[token.as_bytes()])
}
pub fn locks(share: u32) -> Vec<u8> {
    key(share, LOCK, &[])
}

pub fn database() -> Vec<u8> {
    key(0, DATABASE, &[])
}
pub fn share(share: &ShareId) -> Vec<u8> {
    key(0, SHARE, &[share.as_str().as_bytes()])
}
pub fn sweep(space: Space, index: u32) -> Vec<u8> {
    key(0, SWEEP, &[&[space.number()], &index.to_be_bytes()])
}
pub fn sweeps() -> Vec<u8> {
    key(0, SWEEP, &[])
}
/// What a key made by [`sweep`] is about.
pub fn sweep_of(key: &[u8]) -> Option<(Space, u32)> {
    let index = u32::from_be_bytes(key.get(HEAD + 1..)?.try_into().ok()?);
    Some((Space::from_number(*key.get(HEAD)?)?, index))
}
