use super::*;

/// `f` in `d` in the root; `g` is a second name of `f` in the root.
fn tree(shelf: &Shelf) {
    let (d, f) = (id(1), id(2));
    let mut changes = create(ObjectId::ROOT, "d", directory(d));
    changes.extend(create(d, "f", file(f, 100)));
    changes.push(Change::Link { parent: ObjectId::ROOT, name: name("g"), id: f });
    commit(shelf, |batch| batch.publish(2, changes, vec![])).unwrap();
}

#[test]
fn an_object_is_found_by_every_way_it_was_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    tree(&shelf);
    let (d, f) = (id(1), id(2));
    let expected = Object { seq: Seq(2), ..file(f, 100) };
    assert_eq!(shelf.object(f).unwrap(), Some(expected));
    assert_eq!(shelf.object(id(3)).unwrap(), None);
    assert_eq!(shelf.child(ObjectId::ROOT, &name("d")).unwrap(), Some(d));
    assert_eq!(shelf.child(d, &name("g")).unwrap(), None);
    assert_eq!(shelf.links(f).unwrap(), [(ObjectId::ROOT, name("g")), (d, name("f"))]);
    assert_eq!(shelf.totals(), Totals { objects: 3, bytes: 100 });
}

#[test]
fn every_kind_and_extreme_of_an_object_survives_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let kinds =
        [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo, Kind::Socket, Kind::Block, Kind::Char];
    let object = |(number, kind): (usize, Kind)| Object {
        kind,
        attrs: Attrs {
            mode: 0o7777,
            uid: u32::MAX,
            gid: u32::MAX,
            mtime: Timespec { sec: i64::MIN, nsec: 999_999_999 },
        },
        size: u64::MAX,
        rdev: u64::MAX,
        target: vec![0xff; 4095],
        version: Version(u64::MAX),
        ctime: Timespec { sec: i64::MAX, nsec: 0 },
        seq: Seq(2),
        ..file(id(number as u64), 0)
    };
    let objects: Vec<Object> = kinds.into_iter().enumerate().map(object).collect();
    {
        let shelf = primary(dir.path());
        let puts = objects.iter().cloned().map(Change::Put).collect();
        commit(&shelf, |batch| batch.publish(i64::MIN, puts, vec![])).unwrap();
    }
    let shelf = shelf(dir.path());
    for object in objects {
        assert_eq!(shelf.object(object.id).unwrap(), Some(object));
    }
    assert_eq!(shelf.record(Seq(2)).unwrap().unwrap().wall, i64::MIN);
}

#[test]
fn children_come_in_byte_order_and_page_by_page() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let mut names: Vec<Vec<u8>> = (1..=255u8).filter(|byte| *byte != b'/').map(|b| vec![b]).collect();
    names.retain(|name| name != b".");
    names.extend([b"aa".to_vec(), vec![0xff; 255], b"a\xff".to_vec(), b"a\x01".to_vec()]);
    let link = |(number, bytes): (usize, &Vec<u8>)| Change::Link {
        parent: ObjectId::ROOT,
        name: Name::new(bytes).unwrap(),
        id: id(number as u64),
    };
    let mut changes: Vec<Change> = names.iter().enumerate().map(link).collect();
    // Neighbours in the key space: they must not show.
    changes.push(Change::Link { parent: id(0), name: name("x"), id: id(1) });
    changes.push(Change::Link { parent: ObjectId::from_bytes([0xff; 16]), name: name("x"), id: id(1) });
    commit(&shelf, |batch| batch.publish(1, changes, vec![])).unwrap();

    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = shelf.children(ObjectId::ROOT, after.as_ref(), 7).unwrap();
        assert!(page.len() <= 7);
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        found.extend(page.into_iter().map(|(name, _)| name.as_bytes().to_vec()));
    }
    names.sort();
    assert_eq!(found, names);
    let last = ObjectId::from_bytes([0xff; 16]);
    assert_eq!(shelf.children(last, None, 10).unwrap(), [(name("x"), id(1))]);
}

#[test]
fn a_name_is_one_object_and_an_unlink_of_another_does_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    tree(&shelf);
    let (d, f, new) = (id(1), id(2), id(3));
    // Replaced: the old object loses this name only.
    let mut changes = create(d, "f", file(new, 5));
    changes.push(Change::Unlink { parent: d, name: name("f"), id: f });
    commit(&shelf, |batch| batch.publish(1, changes, vec![])).unwrap();
    assert_eq!(shelf.child(d, &name("f")).unwrap(), Some(new));
    assert_eq!(shelf.links(f).unwrap(), [(ObjectId::ROOT, name("g"))]);
    assert_eq!(shelf.links(new).unwrap(), [(d, name("f"))]);
    let unlink = vec![Change::Unlink { parent: d, name: name("f"), id: new }];
    commit(&shelf, |batch| batch.publish(1, unlink, vec![])).unwrap();
    assert_eq!(shelf.child(d, &name("f")).unwrap(), None);
    assert_eq!(shelf.links(new).unwrap(), []);
    assert!(shelf.object(new).unwrap().is_some(), "an unlink alone deletes no object");
}

#[test]
fn moves_swap_and_replace_as_rename_does() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let (a, b) = (id(1), id(2));
    let mut changes = create(ObjectId::ROOT, "a", file(a, 1));
    changes.extend(create(ObjectId::ROOT, "b", file(b, 2)));
    commit(&shelf, |batch| batch.publish(1, changes, vec![])).unwrap();
    let root = |text| (ObjectId::ROOT, name(text));
    let swap = vec![
        Change::Move { id: a, from: root("a"), to: root("b") },
        Change::Move { id: b, from: root("b"), to: root("a") },
    ];
    commit(&shelf, |batch| batch.publish(1, swap.clone(), vec![])).unwrap();
    assert_eq!(shelf.children(ObjectId::ROOT, None, 9).unwrap(), [(name("a"), b), (name("b"), a)]);
    assert_eq!(shelf.links(a).unwrap(), [root("b")]);
    // Applied again, nothing changes: steps state what is so afterwards.
    commit(&shelf, |batch| swap.into_iter().for_each(|step| batch.apply(step))).unwrap();
    assert_eq!(shelf.children(ObjectId::ROOT, None, 9).unwrap(), [(name("a"), b), (name("b"), a)]);
    let replace = vec![Change::Move { id: a, from: root("b"), to: root("a") }, Change::Gone { id: b }];
    commit(&shelf, |batch| batch.publish(1, replace, vec![])).unwrap();
    assert_eq!(shelf.children(ObjectId::ROOT, None, 9).unwrap(), [(name("a"), a)]);
    assert_eq!(shelf.links(b).unwrap(), []);
    assert_eq!(shelf.totals(), Totals { objects: 2, bytes: 1 });
}

#[test]
fn what_is_gone_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    tree(&shelf);
    let f = id(2);
    let handle = local(b"h2");
    commit(&shelf, |batch| {
        batch.set_local(f, Some(handle.clone()));
        batch.owe(Debt { id: f, version: Version(1), size: 100, seq: Seq(2), epoch: Epoch(1) });
        // In the same batch as what it undoes: the batch sees its own writes.
        batch.publish(1, vec![Change::Gone { id: f }], vec![]);
    })
    .unwrap();
    assert_eq!(shelf.object(f).unwrap(), None);
    assert_eq!(shelf.links(f).unwrap(), []);
    assert_eq!(shelf.children(ObjectId::ROOT, None, 9).unwrap(), [(name("d"), id(1))]);
    assert_eq!(shelf.children(id(1), None, 9).unwrap(), []);
    assert_eq!((shelf.local(f).unwrap(), shelf.by_handle(&handle.handle).unwrap()), (None, None));
    assert_eq!((shelf.debt(f).unwrap(), shelf.debt_totals()), (None, (0, 0)));
    assert_eq!(shelf.totals(), Totals { objects: 2, bytes: 0 });
}

#[test]
fn a_copy_keeps_the_local_row_until_the_inode_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    tree(&shelf);
    let (f, row) = (id(2), local(b"h2"));
    commit(&shelf, |batch| {
        batch.set_local(f, Some(row.clone()));
        batch.keep_locals(true);
        batch.apply(Change::Gone { id: f });
    })
    .unwrap();
    assert_eq!(shelf.object(f).unwrap(), None);
    assert_eq!(shelf.local(f).unwrap(), Some(row.clone()));
    assert_eq!(shelf.by_handle(&row.handle).unwrap(), Some(f));
    commit(&shelf, |batch| batch.set_local(f, None)).unwrap();
    assert_eq!((shelf.local(f).unwrap(), shelf.by_handle(&row.handle).unwrap()), (None, None));
}

#[test]
fn handles_and_locals_stay_in_step() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let set = |id, row| commit(&shelf, |batch| batch.set_local(id, row)).map(drop).unwrap();
    let by = |handle: &[u8]| shelf.by_handle(&LocalHandle::from_bytes(handle)).unwrap();
    set(id(1), Some(local(b"a")));
    set(id(1), Some(Local { settled: false, ..local(b"a") }));
    assert_eq!((by(b"a"), shelf.local(id(1)).unwrap().unwrap().settled), (Some(id(1)), false));
    // The object is another inode now.
    set(id(1), Some(local(b"b")));
    assert_eq!((by(b"a"), by(b"b")), (None, Some(id(1))));
    // The inode is another object now: no two objects claim one inode.
    set(id(2), Some(local(b"b")));
    assert_eq!((by(b"b"), shelf.local(id(1)).unwrap()), (Some(id(2)), None));
    set(id(1), None);
    assert_eq!(by(b"b"), Some(id(2)), "clearing the old claim leaves the new one");
    set(id(2), None);
    assert_eq!(by(b"b"), None);
}

#[test]
fn a_path_goes_up_to_the_root_or_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    tree(&shelf);
    assert_eq!(shelf.path_of(ObjectId::ROOT).unwrap(), Some(RelPath::ROOT));
    assert_eq!(shelf.path_of(id(1)).unwrap(), Some(RelPath::parse(b"d").unwrap()));
    // The first of two names, by parent and then by name.
    assert_eq!(shelf.path_of(id(2)).unwrap(), Some(RelPath::parse(b"g").unwrap()));
    assert_eq!(shelf.path_of(id(9)).unwrap(), None, "unknown");
    let (x, y) = (id(10), id(11));
    let mut changes = create(y, "x", directory(x));
    changes.extend(create(x, "y", directory(y)));
    changes.extend(create(x, "below", file(id(12), 1)));
    // A chain of directories that is longer than a path may be.
    for number in 100..2200 {
        let parent = if number == 100 { ObjectId::ROOT } else { id(number - 1) };
        changes.extend(create(parent, "n", directory(id(number))));
    }
    commit(&shelf, |batch| batch.publish(1, changes, vec![])).unwrap();
    for unplaced in [x, y, id(12), id(2199)] {
        assert_eq!(shelf.path_of(unplaced).unwrap(), None);
    }
    assert_eq!(shelf.path_of(id(2147)).unwrap().unwrap().names().len(), 2048);
}

#[test]
fn a_file_of_many_names_loses_them_all_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let text = |number| name(&format!("{number:06}"));
    let link = |number| Change::Link { parent: ObjectId::ROOT, name: text(number), id: id(1) };
    commit(&shelf, |batch| batch.publish(1, (0..3000).map(link).collect(), vec![])).unwrap();
    let names: Vec<_> = (0..3000).map(|number| (ObjectId::ROOT, text(number))).collect();
    assert_eq!(shelf.links(id(1)).unwrap(), names);
    let rows = shelf.core.state().rows;
    let some = shelf::links(&*shelf.catalog.shared.store, rows, id(1), 100).unwrap();
    assert_eq!(some, names[..100]);
    commit(&shelf, |batch| batch.publish(1, vec![Change::Gone { id: id(1) }], vec![])).unwrap();
    assert_eq!(shelf.children(ObjectId::ROOT, None, 9).unwrap(), []);
    assert_eq!(shelf.links(id(1)).unwrap(), []);
}

#[test]
fn totals_are_what_a_count_finds() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = std::collections::BTreeMap::from([(ObjectId::ROOT, 0)]);
    {
        let shelf = primary(dir.path());
        for round in 0..300u64 {
            let object = id(round * 7 % 40);
            let change = if round % 3 == 2 {
                expected.remove(&object);
                Change::Gone { id: object }
            } else {
                expected.insert(object, round);
                Change::Put(file(object, round))
            };
            commit(&shelf, |batch| batch.publish(1, vec![change], vec![])).unwrap();
        }
        let bytes = expected.values().sum();
        assert_eq!(shelf.totals(), Totals { objects: expected.len() as u64, bytes });
    }
    let bytes = expected.values().sum();
    assert_eq!(shelf(dir.path()).totals(), Totals { objects: expected.len() as u64, bytes });
}

#[test]
fn shares_do_not_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let shelves: Vec<_> =
        ["a", "b"].iter().map(|share| catalog.share(&share.parse().unwrap()).unwrap()).collect();
    for (number, shelf) in shelves.iter().enumerate() {
        commit(shelf, |batch| {
            batch.new_incarnation(Epoch(1));
            batch.publish(1, create(ObjectId::ROOT, "n", file(id(number as u64), 1)), vec![]);
            batch.mark(Touch::Object(id(number as u64)), Gen(1));
            batch.set_local(id(number as u64), Some(local(b"same")));
        })
        .unwrap();
    }
    for (number, shelf) in shelves.iter().enumerate() {
        let own = id(number as u64);
        assert_eq!(shelf.child(ObjectId::ROOT, &name("n")).unwrap(), Some(own));
        assert_eq!(shelf.marks().unwrap(), [(Touch::Object(own), Gen(1))]);
        assert_eq!(shelf.by_handle(&LocalHandle::from_bytes(b"same")).unwrap(), Some(own));
        assert_eq!(shelf.totals(), Totals { objects: 1, bytes: 1 });
    }
    commit(&shelves[0], |batch| batch.reset()).unwrap();
    assert_eq!(shelves[1].totals(), Totals { objects: 1, bytes: 1 });
    let again = catalog.share(&"a".parse().unwrap()).unwrap();
    assert_eq!(again.totals(), Totals::default(), "the same share is the same shelf");
}
