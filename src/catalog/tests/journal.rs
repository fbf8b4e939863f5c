use super::*;
use crate::id::Position;

fn at(epoch: u32, seq: u64) -> Position {
    Position { epoch: Epoch(epoch), seq: Seq(seq) }
}

/// `count` more records of one new file each.
fn publish(shelf: &Shelf, count: u64) -> Vec<Record> {
    let first = shelf.head().at.seq.0;
    let mut records = Vec::new();
    for number in first..first + count {
        let object = file(id(number), number);
        let changes = create(ObjectId::ROOT, &format!("f{number}"), object);
        let release = Release { touch: Touch::Object(id(number)), through: Gen(number) };
        records.extend(commit(shelf, |batch| batch.publish(77, changes, vec![release])).unwrap());
    }
    records
}

/// A copy's shelf that begins where the primary's journal begins.
fn copy(dir: &Path, primary: &Shelf) -> Arc<Shelf> {
    let shelf = shelf(dir);
    let incarnation = primary.head().incarnation;
    commit(&shelf, |batch| batch.set_head(Head { at: at(1, 0), chain: incarnation, incarnation }))
        .unwrap();
    shelf
}

#[test]
fn records_chain_up_from_the_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let more = publish(&shelf, 3);
    let records = shelf.records_after(Seq(0), 100, usize::MAX).unwrap();
    assert_eq!(records[1..], more);
    let mut prev = shelf.head().incarnation;
    assert_ne!(prev, Hash::default());
    for (number, record) in records.iter().enumerate() {
        assert_eq!((record.at, record.prev), (at(1, number as u64 + 1), prev));
        // Told apart from the implementation: the stored form without its last field is what is hashed.
        let stored = encode_record(record);
        let body = &stored[..stored.len() - 34];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&prev.0);
        hasher.update(body);
        assert_eq!(record.chain, Hash(*hasher.finalize().as_bytes()));
        assert_eq!(shelf.chain_at(record.at).unwrap(), Some(record.chain));
        prev = record.chain;
    }
    assert_eq!(shelf.head(), Head { at: at(1, 4), chain: prev, ..shelf.head() });
    assert_eq!(shelf.chain_at(at(1, 0)).unwrap(), Some(shelf.head().incarnation));
    for elsewhere in [at(1, 5), at(2, 4), at(0, 2), at(2, 2)] {
        assert_eq!(shelf.chain_at(elsewhere).unwrap(), None, "{elsewhere}");
    }
}

#[test]
fn several_records_of_one_batch_chain_up() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let records = commit(&shelf, |batch| {
        batch.publish(1, create(ObjectId::ROOT, "a", file(id(1), 1)), vec![]);
        batch.publish(2, vec![Change::Put(file(id(1), 2))], vec![]);
    })
    .unwrap();
    assert_eq!(records[1].prev, records[0].chain);
    assert_eq!(shelf.object(id(1)).unwrap().unwrap().seq, Seq(3));
    let put = |record: &Record| match &record.changes[0] {
        Change::Put(object) => object.seq,
        _ => unreachable!(),
    };
    assert_eq!((put(&records[0]), put(&records[1])), (Seq(2), Seq(3)));
}

#[test]
fn a_copy_that_appends_has_the_same_tables_and_chain() {
    let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shelf = primary(dirs.0.path());
    publish(&shelf, 5);
    let copy = copy(dirs.1.path(), &shelf);
    for (_, bytes) in shelf.stored_after(Seq(0), 100, usize::MAX).unwrap() {
        let record = decode_record(&bytes).unwrap();
        assert_eq!(encode_record(&record), bytes, "sent as it is stored");
        commit(&copy, |batch| batch.append(record)).unwrap();
    }
    assert_eq!(copy.head(), shelf.head());
    assert_eq!(copy.meta().epoch, Epoch(1));
    assert_eq!(copy.totals(), shelf.totals());
    let all = |shelf: &Shelf| shelf.records_after(Seq(0), 100, usize::MAX).unwrap();
    assert_eq!(all(&copy), all(&shelf));
    assert_eq!(copy.object(id(3)).unwrap(), shelf.object(id(3)).unwrap());
}

#[test]
fn a_record_that_does_not_continue_the_journal_is_refused_and_leaves_no_trace() {
    let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let shelf = primary(dirs.0.path());
    let records = publish(&shelf, 3);
    let first = shelf.record(Seq(1)).unwrap().unwrap();
    let copy = copy(dirs.1.path(), &shelf);
    let append = |record: &Record| {
        let mark = Touch::Object(id(99));
        commit(&copy, |batch| {
            batch.mark(mark, Gen(1));
            batch.append(record.clone());
        })
    };
    assert!(matches!(append(&records[0]), Err(CatalogError::NotNext { .. })), "a gap");
    append(&first).unwrap();
    assert!(matches!(append(&first), Err(CatalogError::NotNext { .. })), "a repetition");
    let head = copy.head();
    commit(&copy, |batch| batch.clear_mark(&Touch::Object(id(99)), Gen(9))).unwrap();

    let mut other = records[0].clone();
    other.prev.0[0] ^= 1;
    assert!(matches!(append(&other), Err(CatalogError::OtherChain { .. })));
    let mut forged = records[0].clone();
    forged.wall += 1;
    assert!(matches!(append(&forged), Err(CatalogError::BrokenChain { .. })));
    let mut forged = records[0].clone();
    forged.chain.0[31] ^= 0x80;
    assert!(matches!(append(&forged), Err(CatalogError::BrokenChain { .. })));
    let mut older = records[0].clone();
    older.at.epoch = Epoch(0);
    assert!(matches!(append(&older), Err(CatalogError::OldEpoch { .. })));

    assert_eq!(copy.head(), head);
    assert_eq!(copy.record(Seq(2)).unwrap(), None);
    assert_eq!(copy.marks().unwrap(), [], "a refused batch does nothing at all");
    append(&records[0]).unwrap();
}

#[test]
fn the_order_of_bad_and_good_batches_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let record = shelf.record(Seq(1)).unwrap().unwrap();
    let commits: Vec<_> = (0..50u64)
        .map(|number| {
            let mut batch = shelf.batch();
            if number % 2 == 0 {
                batch.append(record.clone());
            } else {
                batch.publish(
                    1,
                    create(ObjectId::ROOT, &format!("{number}"), file(id(number), 1)),
                    vec![],
                );
            }
            shelf.commit(batch, number % 3 == 0)
        })
        .collect();
    for (number, commit) in commits.into_iter().enumerate() {
        assert_eq!(commit.wait().is_ok(), number % 2 == 1);
    }
    assert_eq!(shelf.head().at, at(1, 26));
    assert_eq!(shelf.records_after(Seq(0), 100, usize::MAX).unwrap().len(), 26);
}

#[test]
fn records_are_read_within_their_limits() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    publish(&shelf, 9);
    let read = |after, records, bytes| {
        let found = shelf.records_after(Seq(after), records, bytes).unwrap();
        found.into_iter().map(|record| record.at.seq.0).collect::<Vec<_>>()
    };
    let size = shelf.stored_after(Seq(3), 1, usize::MAX).unwrap()[0].1.len();
    assert_eq!(read(3, 4, usize::MAX), [4, 5, 6, 7]);
    assert_eq!(read(3, 100, 2 * size + size / 2), [4, 5]);
    assert_eq!(read(3, 100, 0), [4], "one at least");
    assert_eq!(read(3, 0, usize::MAX), [] as [u64; 0]);
    assert_eq!(read(10, 5, usize::MAX), [] as [u64; 0]);
    assert_eq!(read(u64::MAX, 5, usize::MAX), [] as [u64; 0]);
}

#[test]
fn a_trimmed_journal_still_knows_where_it_begins() {
    let dir = tempfile::tempdir().unwrap();
    let chain = {
        let shelf = primary(dir.path());
        let records = publish(&shelf, 9);
        commit(&shelf, |batch| batch.trim_journal(Seq(6))).unwrap();
        assert_eq!(shelf.oldest(), Seq(6));
        records[3].chain
    };
    let shelf = shelf(dir.path());
    assert_eq!(shelf.oldest(), Seq(6));
    assert_eq!(shelf.record(Seq(5)).unwrap(), None);
    assert_eq!(shelf.chain_at(at(1, 5)).unwrap(), Some(chain), "the last one that was dropped");
    assert_eq!(shelf.chain_at(at(1, 4)).unwrap(), None);
    assert!(matches!(
        shelf.records_after(Seq(4), 9, 9),
        Err(CatalogError::Trimmed { kept: Seq(5), .. })
    ));
    assert_eq!(shelf.records_after(Seq(5), 9, usize::MAX).unwrap().len(), 5);
    // Lower than what is gone, and higher than what there is.
    commit(&shelf, |batch| batch.trim_journal(Seq(2))).unwrap();
    assert_eq!(shelf.oldest(), Seq(6));
    commit(&shelf, |batch| batch.trim_journal(Seq(1000))).unwrap();
    assert_eq!((shelf.oldest(), shelf.head().at), (Seq(11), at(1, 10)));
    assert_eq!(shelf.records_after(Seq(10), 9, 9).unwrap(), []);
    assert_eq!(publish(&shelf, 1)[0].at, at(1, 11));
    assert_eq!(shelf.records_after(Seq(10), 9, 9).unwrap().len(), 1);
}

#[test]
fn a_set_head_drops_the_records_that_do_not_lead_there() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    publish(&shelf, 3);
    let same = shelf.head();
    commit(&shelf, |batch| batch.set_head(same)).unwrap();
    assert_eq!(shelf.oldest(), Seq(1), "a head that is there already changes nothing");
    let incarnation = Hash([9; 32]);
    let head = Head { at: at(3, 70), chain: Hash([8; 32]), incarnation };
    commit(&shelf, |batch| batch.set_head(head)).unwrap();
    assert_eq!((shelf.head(), shelf.oldest(), shelf.meta().epoch), (head, Seq(71), Epoch(3)));
    assert_eq!(shelf.record(Seq(2)).unwrap(), None);
    assert_eq!(shelf.chain_at(at(3, 70)).unwrap(), Some(head.chain));
    assert_eq!(shelf.totals().objects, 4, "the tables stay");
    assert_eq!(publish(&shelf, 1)[0].at, at(3, 71));
}

#[test]
fn a_new_incarnation_begins_at_zero_and_is_never_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let first = shelf.head().incarnation;
    publish(&shelf, 2);
    let peer: crate::id::SiteId = "lyon".parse().unwrap();
    let row = PeerRow { acked: at(1, 3), debts: 4, debt_bytes: 5, seen_wall: -5 };
    commit(&shelf, |batch| batch.peer(peer.clone(), row)).unwrap();
    commit(&shelf, |batch| batch.new_incarnation(Epoch(2))).unwrap();
    let head = shelf.head();
    assert_eq!((head.at, head.chain), (at(2, 0), head.incarnation));
    assert_ne!(head.incarnation, first);
    assert_eq!((shelf.oldest(), shelf.record(Seq(1)).unwrap()), (Seq(1), None));
    let forgotten = PeerRow { acked: Position::default(), debts: 0, debt_bytes: 0, seen_wall: -5 };
    assert_eq!(shelf.peers().unwrap(), [(peer, forgotten)]);
    assert_eq!(publish(&shelf, 1)[0].at, at(2, 1));
    let back = commit(&shelf, |batch| batch.new_incarnation(Epoch(1)));
    assert!(matches!(back, Err(CatalogError::OldEpoch { .. })));
}

#[test]
fn a_journal_has_to_be_begun() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    assert_eq!((shelf.head(), shelf.oldest()), (Head::default(), Seq(1)));
    assert_eq!(shelf.chain_at(Position::default()).unwrap(), None, "of no journal");
    let published = commit(&shelf, |batch| batch.publish(1, vec![], vec![]));
    assert!(matches!(published, Err(CatalogError::NoJournal { .. })));
}

#[test]
fn too_large_a_record_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let gone = |count| (0..count).map(|number| Change::Gone { id: id(number as u64) }).collect();
    let refused = commit(&shelf, |batch| batch.publish(1, gone(CHANGES_MAX + 1), vec![]));
    assert!(matches!(refused, Err(CatalogError::TooLarge { limit: CHANGES_MAX, .. })));
    let symlink = |number| {
        Change::Put(Object { kind: Kind::Symlink, target: vec![b'x'; 4095], ..file(id(number), 0) })
    };
    let refused = commit(&shelf, |batch| batch.publish(1, (0..4200).map(symlink).collect(), vec![]));
    assert!(matches!(refused, Err(CatalogError::TooLarge { limit: RECORD_MAX, .. })));
    assert_eq!(shelf.head().at, at(1, 1));
}

#[test]
fn a_reset_share_is_empty_keeps_its_notes_and_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let mark = (Touch::Entry(ObjectId::ROOT, name("m")), Gen(5));
    {
        let shelf = primary(dir.path());
        for chunk in 0..5u64 {
            let files = (0..1000).map(|n| chunk * 1000 + n);
            let changes = files.flat_map(|n| create(ObjectId::ROOT, &format!("f{n}"), file(id(n), 1)));
            commit(&shelf, |batch| batch.publish(1, changes.collect(), vec![])).unwrap();
        }
        commit(&shelf, |batch| {
            batch.mark(mark.0.clone(), mark.1);
            batch.note_ahead(7, vec![Touch::Object(id(1))]);
            batch.set_meta(|meta| {
                meta.marker = Some([3; 16]);
                meta.scanned = true;
                meta.confirmed = true;
            });
            batch.set_local(id(1), Some(local(b"h")));
            batch.reset();
            // What comes after the reset in its batch is kept.
            batch.apply(Change::Put(directory(ObjectId::ROOT)));
        })
        .unwrap();
    }
    let shelf = shelf(dir.path());
    assert_eq!(shelf.totals(), Totals { objects: 1, bytes: 0 });
    assert_eq!((shelf.head(), shelf.object(id(1)).unwrap()), (Head::default(), None));
    assert_eq!(shelf.children(ObjectId::ROOT, None, 9).unwrap(), []);
    assert_eq!((shelf.local(id(1)).unwrap(), shelf.links(id(1)).unwrap()), (None, vec![]));
    assert_eq!(shelf.by_handle(&LocalHandle::from_bytes(b"h")).unwrap(), None);
    assert_eq!(shelf.marks().unwrap(), [mark]);
    assert_eq!(shelf.ahead_notes().unwrap().len(), 1);
    let meta = shelf.meta();
    assert_eq!((meta.marker, meta.scanned, meta.confirmed), (Some([3; 16]), false, false));
    // What was left behind goes without anybody asking.
    let store = &shelf.catalog.shared.store;
    let left = |space| store.scan(space, b"", b"").count();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while (left(Space::Rows), left(Space::Journal)) != (1, 0) {
        assert!(std::time::Instant::now() < until, "{} rows", left(Space::Rows));
        std::thread::yield_now();
    }
    assert_eq!(store.scan(Space::Notes, &keys::sweeps(), &keys::sweeps()).count(), 0);
}
