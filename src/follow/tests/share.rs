//! A share as its primary would tell of it: operations on a small model, and the records they make.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::catalog::{Batch, Catalog, Change, Options, Record, Release, Shelf, encode_change};
use crate::id::{Epoch, Gen, Hash, Name, ObjectId, RelPath, Seq, Version};
use crate::link::share::SnapEntry;
use crate::object::{Attrs, Kind, Object, Timespec, Xattrs};
use crate::tree::content::hash_bytes;

pub type Entry = (ObjectId, Name);

pub struct Share {
    pub shelf: Arc<Shelf>,
    pub names: BTreeMap<Entry, ObjectId>,
    pub objects: HashMap<ObjectId, Object>,
    pub data: HashMap<ObjectId, Bytes>,
    /// Extended attributes of those that have or had any.
    pub xattrs: HashMap<ObjectId, Xattrs>,
    pub changes: Vec<Change>,
    /// Records that the copy has not got yet.
    pub records: Vec<Record>,
    next: u64,
    clock: i64,
    _catalog: Arc<Catalog>,
    _dir: tempfile::TempDir,
}

pub fn name(name: &str) -> Name {
    Name::new(name.as_bytes()).unwrap()
}

impl Share {
    pub fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let catalog = Catalog::open(dir.path(), &Options::default()).unwrap();
        let shelf = catalog.share(&"eng".parse().unwrap()).unwrap();
        let mut share = Self {
            shelf,
            names: BTreeMap::new(),
            objects: HashMap::new(),
            data: HashMap::new(),
            xattrs: HashMap::new(),
            changes: Vec::new(),
            records: Vec::new(),
            next: 2,
            clock: 0,
            _catalog: catalog,
            _dir: dir,
        };
        share.new_journal();
        let root = share.object(ObjectId::ROOT, Kind::Directory);
        share.put(root);
        share.publish();
        share
    }

    /// The primary begins another journal: every copy has to compare.
    pub fn new_journal(&mut self) {
        let mut batch = self.shelf.batch();
        batch.new_incarnation(Epoch(1));
        self.commit(batch);
        self.records.clear();
    }

    fn commit(&mut self, batch: Batch) {
        let records = self.shelf.commit_records(batch, false).wait().unwrap();
        self.records.extend(records);
    }

    /// Everything changed since the last time is one record.
    pub fn publish(&mut self) {
        self.release(Vec::new());
    }
    pub fn release(&mut self, releases: Vec<(crate::catalog::Touch, Gen)>) {
        let changes = std::mem::take(&mut self.changes);
        if changes.is_empty() && releases.is_empty() {
            return;
        }
        let releases = releases.into_iter().map(|(touch, through)| Release { touch, through });
        let mut batch = self.shelf.batch();
        batch.publish(1, changes, releases.collect());
        self.commit(batch);
    }

    pub fn snapshot(&self) -> (Object, Vec<SnapEntry>) {
        let snapshot = self.shelf.snapshot().unwrap();
        let entries = snapshot.entries().map(|entry| {
            let (parent, name, object) = entry.unwrap();
            SnapEntry {
                parent: Bytes::copy_from_slice(parent.as_bytes()),
                name: Bytes::copy_from_slice(name.as_bytes()),
                object: encode_change(&Change::Put(object)),
            }
        });
        (snapshot.root().unwrap().unwrap(), entries.collect())
    }

    // ---- looking

    pub fn at(&self, path: &str) -> ObjectId {
        self.find(path).unwrap_or_else(|| panic!("{path} is not in the model"))
    }
    pub fn find(&self, path: &str) -> Option<ObjectId> {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        path.names()
            .iter()
            .try_fold(ObjectId::ROOT, |at, name| self.names.get(&(at, name.clone())).copied())
    }
    pub fn entry(&self, path: &str) -> Entry {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        let (dir, name) = path.split_last().unwrap();
        let dir = dir.names().iter().fold(ObjectId::ROOT, |at, name| self.names[&(at, name.clone())]);
        (dir, name.clone())
    }
    pub fn links(&self, id: ObjectId) -> Vec<Entry> {
        self.names.iter().filter(|(_, other)| **other == id).map(|(entry, _)| entry.clone()).collect()
    }
    pub fn children(&self, dir: ObjectId) -> Vec<(Name, ObjectId)> {
        let all = self.names.iter().filter(|((parent, _), _)| *parent == dir);
        all.map(|((_, name), id)| (name.clone(), *id)).collect()
    }
    pub fn is_below(&self, mut id: ObjectId, top: ObjectId) -> bool {
        loop {
            if id == top {
                return true;
            }
            let Some((dir, _)) = self.links(id).pop() else { return false };
            id = dir;
        }
    }

    // ---- changing

    fn now(&mut self) -> Timespec {
        self.clock += 1;
        Timespec {
            sec: 1_600_000_000 + self.clock * 7,
            nsec: (self.clock * 123_456_789 % 999_999_937) as u32,
        }
    }
    fn object(&mut self, id: ObjectId, kind: Kind) -> Object {
        let mode = if kind == Kind::Symlink { 0o777 } else { 0o750 };
        let owner = 1000 + (self.next % 5) as u32;
        let mtime = self.now();
        Object {
            id,
            kind,
            attrs: Attrs { mode, uid: owner, gid: owner + 1, mtime },
            xattrs: Default::default(),
            size: 0,
            rdev: 0,
            target: Vec::new(),
            version: Version(1),
            root: Hash::default(),
            ctime: mtime,
            seq: Seq(0),
        }
    }
    fn mint(&mut self) -> ObjectId {
        let mut hash = [0; 12];
        self.next += 1;
        hash[4..].copy_from_slice(&self.next.to_be_bytes());
        ObjectId::new(Epoch(1), hash)
    }
    pub fn put(&mut self, object: Object) {
        self.objects.insert(object.id, object.clone());
        self.changes.push(Change::Put(object));
    }
    /// A directory's times move with its entries.
    fn stir(&mut self, dir: ObjectId) {
        if let Some(mut object) = self.objects.get(&dir).cloned() {
            object.attrs.mtime = self.now();
            self.put(object);
        }
    }
    pub fn set(&mut self, path: &str, change: impl FnOnce(&mut Object)) {
        let mut object = self.objects[&self.at(path)].clone();
        change(&mut object);
        self.put(object);
    }

    /// `user.n` of so many bytes for each; of what may have none of users, `trusted.n`.
    pub fn dress(&mut self, id: ObjectId, lengths: &[usize]) {
        self.dress_with(id, lengths, &[]);
    }

    /// With these besides.
    pub fn dress_with(&mut self, id: ObjectId, lengths: &[usize], more: &[(&str, &[u8])]) {
        let mut object = self.objects[&id].clone();
        let space = if matches!(object.kind, Kind::File | Kind::Directory) { "user" } else { "trusted" };
        let mut xattrs = Xattrs::default();
        for (n, length) in lengths.iter().enumerate() {
            xattrs.insert(format!("{space}.{n}").into_bytes(), vec![b'x'; *length]);
        }
        for (name, value) in more {
            xattrs.insert(name.as_bytes().into(), value.to_vec());
        }
        object.xattrs = xattrs.clone().into();
        self.xattrs.insert(id, xattrs);
        self.put(object);
    }

    pub fn make(&mut self, path: &str, kind: Kind, change: impl FnOnce(&mut Object)) -> ObjectId {
        let entry = self.entry(path);
        self.make_at(entry, kind, change)
    }
    pub fn make_at(&mut self, entry: Entry, kind: Kind, change: impl FnOnce(&mut Object)) -> ObjectId {
        let id = self.mint();
        let mut object = self.object(id, kind);
        change(&mut object);
        self.put(object);
        let old = self.names.insert(entry.clone(), id);
        self.changes.push(Change::Link { parent: entry.0, name: entry.1, id });
        if let Some(old) = old {
            self.orphan(old);
        }
        self.stir(entry.0);
        id
    }
    /// A new file, in place of whatever file there was.
    pub fn file(&mut self, path: &str, data: &[u8]) -> ObjectId {
        let entry = self.entry(path);
        self.file_at(entry, data)
    }
    pub fn file_at(&mut self, entry: Entry, data: &[u8]) -> ObjectId {
        let content = hash_bytes(data);
        let id = self.make_at(entry, Kind::File, |object| {
            object.attrs.mode = 0o640;
            (object.size, object.root) = (content.size, content.root);
        });
        self.data.insert(id, Bytes::copy_from_slice(data));
        id
    }
    pub fn dir(&mut self, path: &str) -> ObjectId {
        self.make(path, Kind::Directory, |_| {})
    }
    /// New content of the same object.
    pub fn write(&mut self, path: &str, data: &[u8]) {
        let id = self.at(path);
        self.write_to(id, data);
    }
    pub fn write_to(&mut self, id: ObjectId, data: &[u8]) {
        let content = hash_bytes(data);
        let mut object = self.objects[&id].clone();
        object.version = object.version.next();
        object.attrs.mtime = self.now();
        (object.size, object.root) = (content.size, content.root);
        self.data.insert(id, Bytes::copy_from_slice(data));
        self.put(object);
    }
    pub fn link(&mut self, old: &str, new: &str) {
        let (id, entry) = (self.at(old), self.entry(new));
        self.link_at(id, entry);
    }
    pub fn link_at(&mut self, id: ObjectId, (parent, name): Entry) {
        let old = self.names.insert((parent, name.clone()), id);
        self.changes.push(Change::Link { parent, name, id });
        if let Some(old) = old.filter(|old| *old != id) {
            self.orphan(old);
        }
        self.stir(parent);
    }
    pub fn rename(&mut self, from: &str, to: &str) {
        let (from, to) = (self.entry(from), self.entry(to));
        self.rename_at(from, to);
    }
    pub fn rename_at(&mut self, from: Entry, to: Entry) {
        let id = self.names.remove(&from).unwrap();
        let old = self.names.insert(to.clone(), id);
        let dirs = [from.0, to.0];
        self.changes.push(Change::Move { id, from, to });
        if let Some(old) = old.filter(|old| *old != id) {
            self.orphan(old);
        }
        dirs.into_iter().for_each(|dir| self.stir(dir));
    }
    /// As `notice` tells of entries that changed places: each move names where it came from, whoever is
    /// there by then.
    pub fn rotate(&mut self, entries: &[Entry]) {
        let ids: Vec<ObjectId> = entries.iter().map(|entry| self.names[entry]).collect();
        for (at, id) in ids.iter().enumerate() {
            let to = entries[(at + 1) % entries.len()].clone();
            self.names.insert(to.clone(), *id);
            self.changes.push(Change::Move { id: *id, from: entries[at].clone(), to });
        }
        entries.iter().for_each(|entry| self.stir(entry.0));
    }
    pub fn unlink(&mut self, path: &str) {
        let entry = self.entry(path);
        self.unlink_at(entry);
    }
    pub fn unlink_at(&mut self, entry: Entry) {
        let id = self.hide(entry);
        self.orphan(id);
    }
    /// The object lives on without a name.
    pub fn hide(&mut self, (parent, name): Entry) -> ObjectId {
        let id = self.names.remove(&(parent, name.clone())).unwrap();
        self.changes.push(Change::Unlink { parent, name, id });
        self.stir(parent);
        id
    }
    /// An object that lost a name is gone if it was its last one, with all that was below it.
    pub fn orphan(&mut self, id: ObjectId) {
        if !self.links(id).is_empty() {
            return;
        }
        for (name, child) in self.children(id) {
            self.names.remove(&(id, name.clone()));
            self.changes.push(Change::Unlink { parent: id, name, id: child });
            self.orphan(child);
        }
        self.objects.remove(&id);
        self.data.remove(&id);
        self.changes.push(Change::Gone { id });
    }
}
