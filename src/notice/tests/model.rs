//! What must hold of any catalog and journal, checked against the disk and against a model that knows
//! nothing but the records.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use crate::catalog::{Change, Shelf};
use crate::id::{Hash, Name, ObjectId, Seq};
use crate::object::{Kind, Object};
use crate::tree::content::hash_bytes;
use crate::tree::{Place, Spot, Tree};

#[derive(Default)]
struct Model {
    objects: BTreeMap<ObjectId, Object>,
    names: BTreeMap<(ObjectId, Name), ObjectId>,
}

impl Model {
    fn exists(&self, id: ObjectId) -> bool {
        id == ObjectId::ROOT || self.objects.contains_key(&id)
    }
    fn links(&self, id: ObjectId) -> usize {
        self.names.values().filter(|known| **known == id).count()
    }
    fn parent(&self, id: ObjectId) -> Option<ObjectId> {
        self.names.iter().find(|(_, known)| **known == id).map(|((parent, _), _)| *parent)
    }

    fn apply(&mut self, seq: Seq, change: &Change) {
        let at = |what: &str| format!("record {}: {what}: {change:?}", seq.0);
        match change {
            Change::Put(object) => {
                assert_eq!(object.seq, seq, "{}", at("seq"));
                self.objects.insert(object.id, object.clone());
            }
            Change::Link { parent, name, id } => self.enter(*parent, name, *id, &at),
            Change::Unlink { parent, name, id } => {
                let entry = (*parent, name.clone());
                if self.names.get(&entry) == Some(id) {
                    self.names.remove(&entry);
                }
            }
            Change::Move { id, from, to } => {
                if self.names.get(from) == Some(id) {
                    self.names.remove(from);
                }
                self.enter(to.0, &to.1, *id, &at);
            }
            Change::Gone { id } => {
                assert!(self.objects.remove(id).is_some(), "{}", at("ends twice"));
                assert_eq!(self.links(*id), 0, "{}", at("ends with a name"));
                let below = self.names.range((*id, first())..).next();
                assert!(
                    below.is_none_or(|((dir, _), _)| dir != id),
                    "{}",
                    at("ends before its children")
                );
            }
        }
    }

    fn enter(&mut self, parent: ObjectId, name: &Name, id: ObjectId, at: &dyn Fn(&str) -> String) {
        assert!(self.exists(parent), "{}", at("before its parent"));
        assert!(self.exists(id), "{}", at("a name before its object"));
        let mut above = Some(parent);
        while let Some(dir) = above {
            assert_ne!(dir, id, "{}", at("below itself"));
            above = self.parent(dir);
        }
        self.names.insert((parent, name.clone()), id);
        if self.objects.get(&id).is_some_and(|object| object.kind == Kind::Directory) {
            assert_eq!(self.links(id), 1, "{}", at("a directory with two names"));
        }
    }
}

fn first() -> Name {
    Name::new(b"\x01").unwrap()
}

/// Fails unless catalog, journal and disk say the same.
pub fn agrees<T: Tree>(shelf: &Shelf, tree: &T) {
    let mut model = Model::default();
    for record in shelf.records_after(Seq(0), usize::MAX, usize::MAX).unwrap() {
        for change in &record.changes {
            model.apply(record.at.seq, change);
        }
    }
    let mut seen = BTreeSet::from([ObjectId::ROOT]);
    let mut names = BTreeMap::new();
    let mut stack = vec![(ObjectId::ROOT, tree.root().unwrap(), String::new())];
    while let Some((id, dir, path)) = stack.pop() {
        let own = tree.dir_found(&dir).unwrap();
        let row = shelf.object(id).unwrap().unwrap_or_else(|| panic!("{path}/ has no row"));
        assert_eq!((row.kind, row.attrs), (Kind::Directory, own.attrs), "{path}/");
        assert_eq!(row.xattrs, tree.xattrs(Spot::Itself(&dir)).unwrap().into(), "{path}/");
        for name in tree.list(&dir).unwrap() {
            let path = format!("{path}/{name}");
            let spot = Spot::Entry(&dir, &name);
            let found = tree.look(spot).unwrap().unwrap();
            let child = shelf.child(id, &name).unwrap();
            let child = child.unwrap_or_else(|| panic!("{path} is not in the catalog"));
            let row = shelf.object(child).unwrap().unwrap();
            let local = shelf.local(child).unwrap().unwrap();
            assert_eq!((row.kind, row.attrs), (found.kind, found.attrs), "{path}");
            assert_eq!(row.xattrs, tree.xattrs(spot).unwrap().into(), "{path}");
            assert_eq!(local.handle, found.handle, "{path}");
            assert_eq!(shelf.by_handle(&found.handle).unwrap(), Some(child), "{path}");
            assert!(shelf.links(child).unwrap().contains(&(id, name.clone())), "{path}");
            match found.kind {
                Kind::File => {
                    let mut data = Vec::new();
                    tree.open_file(spot).unwrap().unwrap().read_to_end(&mut data).unwrap();
                    assert_eq!(
                        (row.size, row.root),
                        (data.len() as u64, hash_bytes(&data).root),
                        "{path}"
                    );
                    assert!(local.settled && local.version == row.version, "{path} is not settled");
                }
                Kind::Symlink => assert_eq!(row.target, tree.read_link(spot).unwrap(), "{path}"),
                Kind::Directory => {
                    let place = Place { handle: &found.handle, path: &|| None };
                    stack.push((child, tree.open_dir(&place).unwrap().unwrap(), path));
                }
                _ => assert_eq!(row.root, Hash::default(), "{path}"),
            }
            seen.insert(child);
            names.insert((id, name), child);
        }
    }
    for (entry, id) in &model.names {
        assert_eq!(names.get(entry), Some(id), "the journal has {entry:?}");
    }
    assert_eq!(model.names.len(), names.len(), "names of the journal and of the disk");
    assert_eq!(shelf.totals().objects, seen.len() as u64, "objects of the catalog and of the disk");
    assert_eq!(model.objects.keys().copied().collect::<BTreeSet<_>>(), seen, "objects of the journal");
    for (id, object) in &model.objects {
        assert_eq!(shelf.object(*id).unwrap().as_ref(), Some(object));
    }
}
