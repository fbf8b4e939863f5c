use std::collections::BTreeSet;

use super::*;
use crate::id::Position;

#[test]
fn a_mark_is_cleared_only_up_to_its_generation() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = primary(dir.path());
    let touch = Touch::Entry(ObjectId::ROOT, name("f"));
    let mark = |generation| commit(&shelf, |batch| batch.mark(touch.clone(), Gen(generation))).unwrap();
    let clear = |generation| commit(&shelf, |batch| batch.clear_mark(&touch, Gen(generation))).unwrap();
    let marked = || shelf.marks().unwrap().first().map(|(_, generation)| generation.0);
    mark(5);
    mark(3);
    assert_eq!(marked(), Some(5), "never lowered");
    clear(4);
    assert_eq!(marked(), Some(5));
    mark(6);
    clear(5);
    assert_eq!(marked(), Some(6), "raised while generation 5 was reconciled");
    clear(6);
    assert_eq!(marked(), None);
    clear(6);
    mark(7);
    clear(u64::MAX);
    assert_eq!(marked(), None);
}

#[test]
fn a_doubt_lasts_as_long_as_its_mark() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Touch::Object(id(1)), Touch::Object(id(2)));
    {
        let shelf = primary(dir.path());
        commit(&shelf, |batch| batch.mark(one.clone(), Gen(5))).unwrap();
        commit(&shelf, |batch| {
            batch.doubt(one.clone());
            batch.doubt(two.clone());
        })
        .unwrap();
        assert_eq!(
            shelf.doubts().unwrap(),
            std::slice::from_ref(&one),
            "what is not marked is in no doubt"
        );
        commit(&shelf, |batch| batch.mark(one.clone(), Gen(6))).unwrap();
    }
    let shelf = shelf(dir.path());
    assert_eq!(shelf.doubts().unwrap(), std::slice::from_ref(&one));
    assert_eq!(shelf.marks().unwrap(), [(one.clone(), Gen(6))]);
    commit(&shelf, |batch| batch.clear_mark(&one, Gen(6))).unwrap();
    commit(&shelf, |batch| batch.mark(one.clone(), Gen(7))).unwrap();
    assert!(shelf.doubts().unwrap().is_empty());
}

#[test]
fn marks_come_back_as_they_were_set() {
    let dir = tempfile::tempdir().unwrap();
    let touches = [
        Touch::Object(ObjectId::ROOT),
        Touch::Object(id(1)),
        Touch::Object(ObjectId::from_bytes([0xff; 16])),
        Touch::Entry(ObjectId::ROOT, name("f")),
        Touch::Entry(id(1), Name::new(&[0xff; 255]).unwrap()),
    ];
    {
        let shelf = shelf(dir.path());
        commit(&shelf, |batch| {
            for (number, touch) in touches.iter().enumerate() {
                batch.mark(touch.clone(), Gen(number as u64));
                batch.note_ahead(u64::MAX - number as u64, vec![touch.clone()]);
            }
            batch.note_ahead(1, vec![]);
            batch.note_ahead(2, touches.to_vec());
            batch.note_ahead(3, touches.to_vec());
            batch.drop_ahead(3);
            batch.drop_ahead(4);
        })
        .unwrap();
    }
    let shelf = shelf(dir.path());
    let marks: BTreeSet<_> = shelf.marks().unwrap().into_iter().collect();
    let expected = touches.iter().enumerate().map(|(n, touch)| (touch.clone(), Gen(n as u64)));
    assert_eq!(marks, expected.collect());
    let notes = shelf.ahead_notes().unwrap();
    assert_eq!(notes.len(), 7);
    assert_eq!(notes[..2], [(1, vec![]), (2, touches.to_vec())]);
    let many = vec![Touch::Object(id(1)); TOUCHES_MAX + 1];
    let refused = commit(&shelf, |batch| batch.note_ahead(9, many));
    assert!(matches!(refused, Err(CatalogError::TooLarge { .. })));
}

#[test]
fn debts_are_of_the_newest_version_and_paid_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let debt = |number, version, size| Debt {
        id: id(number),
        version: Version(version),
        size,
        seq: Seq(version),
        epoch: Epoch(1),
    };
    {
        let shelf = shelf(dir.path());
        commit(&shelf, |batch| {
            batch.owe(debt(1, 2, 20));
            batch.owe(debt(1, 1, 10));
            batch.owe(debt(2, 1, 5));
            batch.owe(debt(3, 1, 7));
        })
        .unwrap();
        assert_eq!((shelf.debt(id(1)).unwrap(), shelf.debt_totals()), (Some(debt(1, 2, 20)), (3, 32)));
        commit(&shelf, |batch| batch.owe(debt(1, 4, 40))).unwrap();
        assert_eq!(shelf.debt_totals(), (3, 52));
        commit(&shelf, |batch| batch.paid(id(1), Version(3))).unwrap();
        assert_eq!(shelf.debt(id(1)).unwrap(), Some(debt(1, 4, 40)), "a newer one is owed by now");
    }
    let shelf = shelf(dir.path());
    assert_eq!(shelf.debt_totals(), (3, 52));
    assert_eq!(shelf.debts(None, 2).unwrap(), [debt(1, 4, 40), debt(2, 1, 5)]);
    assert_eq!(shelf.debts(Some(id(2)), 9).unwrap(), [debt(3, 1, 7)]);
    assert_eq!(shelf.debts(Some(id(3)), 9).unwrap(), []);
    commit(&shelf, |batch| {
        batch.paid(id(1), Version(9));
        batch.paid(id(2), Version(1));
        batch.paid(id(9), Version(1));
    })
    .unwrap();
    assert_eq!((shelf.debts(None, 9).unwrap(), shelf.debt_totals()), (vec![debt(3, 1, 7)], (1, 7)));
    // A newer epoch counts versions anew.
    let newer = Debt { epoch: Epoch(2), ..debt(3, 1, 70) };
    commit(&shelf, |batch| batch.owe(Debt { epoch: Epoch(2), ..debt(3, 1, 70) })).unwrap();
    commit(&shelf, |batch| batch.owe(debt(3, 50, 8))).unwrap();
    assert_eq!(shelf.debt(id(3)).unwrap(), Some(newer));
}

#[test]
fn peers_and_meta_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let row = |seq| PeerRow {
        acked: Position { epoch: Epoch(2), seq: Seq(seq) },
        debts: u64::MAX,
        debt_bytes: u64::MAX,
        seen_wall: i64::MIN,
    };
    let reserved = {
        let shelf = shelf(dir.path());
        commit(&shelf, |batch| {
            batch.peer("hq".parse().unwrap(), row(1));
            batch.peer("lyon".parse().unwrap(), row(2));
            batch.peer("lyon".parse().unwrap(), row(3));
            batch.peer("osaka".parse().unwrap(), row(4));
            batch.forget_peer("hq".parse().unwrap());
            batch.set_meta(|meta| {
                *meta = Meta {
                    marker: Some([1; 16]),
                    epoch: Epoch(4),
                    scanned: true,
                    confirmed: true,
                    clean: true,
                    boot_id: "0b9e".to_owned(),
                    alive_wall: -7,
                    gen_reserved: Gen(0),
                    lead: Some(lead()),
                    leased: true,
                    leased_to: ["lyon", "osaka"].map(|site| site.parse().unwrap()).into(),
                    fenced: Epoch(4),
                    accepted: Epoch(3),
                }
            });
            batch.set_meta(|meta| meta.epoch = Epoch(1));
        })
        .unwrap();
        shelf.meta().gen_reserved
    };
    assert!(reserved.0 >= 1 << 20, "not lowered");
    let shelf = shelf(dir.path());
    let peers = shelf.peers().unwrap();
    assert_eq!(peers, [("lyon".parse().unwrap(), row(3)), ("osaka".parse().unwrap(), row(4))]);
    let meta = shelf.meta();
    assert_eq!((meta.marker, meta.epoch, meta.boot_id.as_str()), (Some([1; 16]), Epoch(4), "0b9e"));
    assert!(meta.scanned && meta.confirmed && meta.clean);
    assert_eq!(meta.lead, Some(lead()));
    assert!(meta.leased && meta.leased_to.len() == 2 && meta.fenced == Epoch(4));
    assert_eq!(meta.accepted, Epoch(3));
}

fn lead() -> Lead {
    let base = Position { epoch: Epoch(3), seq: Seq(70) };
    Lead { epoch: Epoch(4), site: "osaka".parse().unwrap(), base, chain: Hash([5; 32]) }
}

#[test]
fn generations_are_never_handed_out_twice() {
    let dir = tempfile::tempdir().unwrap();
    let mut last = Gen(0);
    for _ in 0..3 {
        let shelf = shelf(dir.path());
        for _ in 0..1000 {
            let next = shelf.next_gen().unwrap();
            assert!(next > last);
            last = next;
        }
    }
    // Beyond the reserved block the next one is on disk before anything of it is used.
    let shelf = shelf(dir.path());
    while shelf.next_gen().unwrap() < Gen(last.0 + GEN_BLOCK + 10) {}
    assert!(shelf.meta().gen_reserved > Gen(last.0 + GEN_BLOCK + 10));
}

#[test]
fn generations_of_many_threads_are_distinct() {
    let dir = tempfile::tempdir().unwrap();
    let shelf = shelf(dir.path());
    let taken: Vec<Vec<Gen>> = std::thread::scope(|scope| {
        let take = || (0..500).map(|_| shelf.next_gen().unwrap()).collect();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(take)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(taken.iter().all(|gens: &Vec<Gen>| gens.is_sorted()));
    assert_eq!(taken.concat().into_iter().collect::<BTreeSet<_>>().len(), 4000);
}

#[test]
fn a_lock_is_read_as_it_was_written() {
    use crate::catalog::rows::{decode_lock, encode_lock};
    use crate::wire::http::lock::{Lock, Maker, Principal};
    let named = Maker {
        principal: Some(Principal(crate::id::Hash([7; 32]))),
        client: Some("2001:db8::".parse().unwrap()),
    };
    for maker in [Maker::default(), named] {
        let lock = Lock {
            token: "urn:uuid:1".into(),
            path: crate::id::RelPath::parse(b"a/b").unwrap(),
            deep: true,
            shared: false,
            owner: "<owner xmlns=\"DAV:\"/>".into(),
            timeout: std::time::Duration::from_secs(60),
            maker,
        };
        assert_eq!(
            decode_lock(&encode_lock(crate::id::Epoch(3), &lock)).unwrap(),
            (crate::id::Epoch(3), lock)
        );
    }
}
