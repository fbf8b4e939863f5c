use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// 3 levels of 3 directories, 1,500 files in the first, a file with two names.
fn fill(shelf: &Shelf) -> BTreeSet<(ObjectId, Name)> {
    let mut changes = Vec::new();
    let mut number = 0;
    let mut level = vec![ObjectId::ROOT];
    for _ in 0..3 {
        let mut below = Vec::new();
        for parent in level {
            for text in ["a", "b", "c"] {
                number += 1;
                changes.extend(create(parent, text, directory(id(number))));
                below.push(id(number));
            }
        }
        level = below;
    }
    for file_number in 0..1500u64 {
        changes.extend(create(id(1), &format!("f{file_number}"), file(id(1000 + file_number), 1)));
    }
    changes.push(Change::Link { parent: id(2), name: name("second"), id: id(1000) });
    let links = changes.iter().filter_map(|change| match change {
        Change::Link { parent, name, .. } => Some((*parent, name.clone())),
        _ => None,
    });
    let entries = links.collect();
    commit(shelf, |batch| batch.publish(1, changes, vec![])).unwrap();
    entries
}

#[test]
fn entries_come_parents_first_and_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let expected = fill(&shelf);
    let snapshot = shelf.snapshot().unwrap();
    assert_eq!((snapshot.head(), snapshot.totals()), (shelf.head(), shelf.totals()));
    assert_eq!(snapshot.root().unwrap().unwrap().kind, Kind::Directory);
    let mut known = BTreeSet::from([ObjectId::ROOT]);
    let mut last: BTreeMap<ObjectId, Name> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for entry in snapshot.entries() {
        let (parent, name, object) = entry.unwrap();
        assert!(known.contains(&parent), "{parent} before its own entry");
        assert!(last.insert(parent, name.clone()).is_none_or(|before| before < name));
        assert_eq!(shelf.object(object.id).unwrap().as_ref(), Some(&object));
        known.insert(object.id);
        assert!(found.insert((parent, name)));
    }
    assert_eq!(found, expected);
}

#[test]
fn a_snapshot_stays_as_it_was_while_others_write() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let expected = fill(&shelf);
    let head = shelf.head();
    let snapshot = shelf.snapshot().unwrap();
    let mut entries = snapshot.entries();
    let mut found: Vec<_> = entries.by_ref().take(5).map(Result::unwrap).collect();
    commit(&shelf, |batch| {
        batch.publish(1, vec![Change::Gone { id: id(1) }, Change::Gone { id: id(1000) }], vec![]);
        batch.publish(1, create(ObjectId::ROOT, "new", file(id(77), 1)), vec![]);
    })
    .unwrap();
    found.extend(entries.by_ref().take(700).map(Result::unwrap));
    // Not even everything at once, and the sweep behind it.
    commit(&shelf, |batch| batch.reset()).unwrap();
    for _ in 0..20 {
        commit(&shelf, |batch| batch.mark(Touch::Object(id(1)), Gen(1))).unwrap();
    }
    found.extend(entries.map(Result::unwrap));
    let found: BTreeSet<_> = found.into_iter().map(|(parent, name, _)| (parent, name)).collect();
    assert_eq!(found, expected);
    assert_eq!(snapshot.head(), head);
    assert_eq!(shelf.snapshot().unwrap().entries().count(), 0);
}

#[test]
fn head_and_tables_of_a_snapshot_belong_together() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0..300u64 {
                let changes = create(ObjectId::ROOT, &format!("f{number}"), file(id(number), 1));
                commit(&shelf, |batch| batch.publish(1, changes, vec![])).unwrap();
            }
        });
        while !writer.is_finished() {
            let snapshot = shelf.snapshot().unwrap();
            let entries = snapshot.entries().count() as u64;
            // The root's record, and one for every file.
            assert_eq!(entries + 1, snapshot.head().at.seq.0);
            assert_eq!(entries + 1, snapshot.totals().objects);
        }
    });
}

#[test]
fn loops_and_strays_do_not_trap_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let (x, y) = (id(1), id(2));
    let mut changes = create(ObjectId::ROOT, "x", directory(x));
    changes.extend(create(x, "y", directory(y)));
    // y holds x again, and the root; a name without an object; an island.
    changes.push(Change::Link { parent: y, name: name("x"), id: x });
    changes.push(Change::Link { parent: y, name: name("root"), id: ObjectId::ROOT });
    changes.push(Change::Link { parent: y, name: name("nothing"), id: id(50) });
    changes.extend(create(id(60), "island", directory(id(61))));
    commit(&shelf, |batch| batch.publish(1, changes, vec![])).unwrap();
    let snapshot = shelf.snapshot().unwrap();
    let found: Vec<_> = snapshot.entries().map(|entry| entry.unwrap().1.to_string()).collect();
    assert_eq!(found, ["x", "y", "root", "x"]);
}
