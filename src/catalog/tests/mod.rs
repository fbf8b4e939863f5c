//! Tests of the whole room, on fjall in a temporary directory unless they say otherwise.

mod crash;
mod journal;
mod model;
mod notes;
mod snapshot;
mod tables;
mod wire;

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::id::{Epoch, Gen, Hash, Name, ObjectId, RelPath, Seq, Version};
use crate::object::{Attrs, Kind, Local, LocalHandle, Object, Stamp, Timespec};

pub fn open(dir: &Path) -> Arc<Catalog> {
    Catalog::open(dir, &Options::default()).unwrap()
}

pub fn shelf(dir: &Path) -> Arc<Shelf> {
    open(dir).share(&"eng".parse().unwrap()).unwrap()
}

/// A shelf with a journal begun in epoch 1 and a root directory in its first record.
pub fn primary(dir: &Path) -> Arc<Shelf> {
    let shelf = shelf(dir);
    let mut batch = shelf.batch();
    batch.new_incarnation(Epoch(1));
    batch.publish(1, vec![Change::Put(directory(ObjectId::ROOT))], vec![]);
    shelf.commit(batch, true).wait().unwrap();
    shelf
}

pub fn id(number: u64) -> ObjectId {
    let mut hash = [7; 12];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    ObjectId::new(Epoch(1), hash)
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub fn file(id: ObjectId, size: u64) -> Object {
    Object {
        id,
        kind: Kind::File,
        attrs: Attrs {
            mode: 0o644,
            uid: 1000,
            gid: 100,
            mtime: Timespec { sec: 1_700_000_000, nsec: 5 },
        },
        xattrs: Default::default(),
        size,
        rdev: 0,
        target: Vec::new(),
        version: Version(1),
        root: Hash(*blake3::hash(id.as_bytes()).as_bytes()),
        ctime: Timespec { sec: 1_700_000_001, nsec: 999_999_999 },
        seq: Seq(0),
    }
}

pub fn directory(id: ObjectId) -> Object {
    Object { kind: Kind::Directory, root: Hash::default(), size: 0, ..file(id, 0) }
}

pub fn local(handle: &[u8]) -> Local {
    Local {
        handle: LocalHandle::from_bytes(handle),
        stamp: Stamp {
            size: 9,
            mtime: Timespec { sec: -1, nsec: 1 },
            ctime: Timespec { sec: 2, nsec: 3 },
        },
        version: Version(1),
        settled: true,
    }
}

/// A new file and its entry.
pub fn create(parent: ObjectId, text: &str, object: Object) -> Vec<Change> {
    let id = object.id;
    vec![Change::Put(object), Change::Link { parent, name: name(text), id }]
}

pub fn commit(shelf: &Shelf, fill: impl FnOnce(&mut Batch)) -> Result<Vec<Record>> {
    let mut batch = shelf.batch();
    fill(&mut batch);
    shelf.commit_records(batch, false).wait()
}
