//! Forms on disk and wire: there and back, and what is refused.

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::catalog::proto::{decode_object, encode_object};
use crate::id::Position;
use crate::object::{Extra, Xattrs};

fn any_id() -> impl Strategy<Value = ObjectId> {
    any::<[u8; 16]>().prop_map(ObjectId::from_bytes)
}
fn any_name() -> impl Strategy<Value = Name> {
    proptest::collection::vec(any::<u8>(), 1..=255).prop_filter_map("a name", |b| Name::new(&b).ok())
}
fn any_time() -> impl Strategy<Value = Timespec> {
    (any::<i64>(), 0..1_000_000_000u32).prop_map(|(sec, nsec)| Timespec { sec, nsec })
}
fn any_touch() -> impl Strategy<Value = Touch> {
    let entry = (any_id(), any_name()).prop_map(|(dir, name)| Touch::Entry(dir, name));
    prop_oneof![any_id().prop_map(Touch::Object), entry]
}
fn any_xattrs() -> impl Strategy<Value = Extra> {
    let bytes = || proptest::collection::vec(any::<u8>(), 0..40);
    let name =
        proptest::collection::vec(1..=255u8, 1..40).prop_map(|end| [&b"user."[..], &end[..]].concat());
    let here = proptest::collection::btree_map(name, bytes(), 0..4).prop_map(|pairs| {
        let mut xattrs = Xattrs::default();
        pairs.into_iter().for_each(|(name, value)| xattrs.insert(name, value));
        Extra::Here(xattrs)
    });
    let apart = any::<([u8; 32], bool)>();
    let apart = apart.prop_map(|(hash, restrict)| Extra::Apart { hash: Hash(hash), restrict });
    prop_oneof![3 => here, 1 => apart]
}
fn any_object() -> impl Strategy<Value = Object> {
    let kind = prop_oneof![
        Just(Kind::File),
        Just(Kind::Directory),
        Just(Kind::Symlink),
        Just(Kind::Fifo),
        Just(Kind::Socket),
        Just(Kind::Block),
        Just(Kind::Char),
    ];
    let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>());
    let owner = (0..=0o7777u32, any::<u32>(), any::<u32>());
    let rest = (proptest::collection::vec(any::<u8>(), 0..50), any::<[u8; 32]>(), any_xattrs());
    (any_id(), kind, owner, any_time(), any_time(), numbers, rest).prop_map(
        |(
            id,
            kind,
            (mode, uid, gid),
            mtime,
            ctime,
            (size, rdev, version, seq),
            (target, root, xattrs),
        )| {
            Object {
                id,
                kind,
                attrs: Attrs { mode, uid, gid, mtime },
                xattrs,
                size,
                rdev,
                target,
                version: Version(version),
                root: Hash(root),
                ctime,
                seq: Seq(seq),
            }
        },
    )
}
fn any_change() -> impl Strategy<Value = Change> {
    let entry = || (any_id(), any_name());
    prop_oneof![
        any_object().prop_map(Change::Put),
        (entry(), any_id()).prop_map(|((parent, name), id)| Change::Link { parent, name, id }),
        (entry(), any_id()).prop_map(|((parent, name), id)| Change::Unlink { parent, name, id }),
        (any_id(), entry(), entry()).prop_map(|(id, from, to)| Change::Move { id, from, to }),
        any_id().prop_map(|id| Change::Gone { id }),
    ]
}

proptest! {
    #[test]
    fn a_record_comes_back(
        (epoch, seq, wall) in any::<(u32, u64, i64)>(),
        (prev, chain) in any::<([u8; 32], [u8; 32])>(),
        mut changes in proptest::collection::vec(any_change(), 0..8),
        releases in proptest::collection::vec((any_touch(), any::<u64>()), 0..4),
    ) {
        let at = Position { epoch: Epoch(epoch), seq: Seq(seq) };
        for change in &mut changes {
            if let Change::Put(object) = change {
                object.seq = at.seq;
            }
        }
        let release = |(touch, through)| Release { touch, through: Gen(through) };
        let releases = releases.into_iter().map(release).collect();
        let record = Record { at, prev: Hash(prev), chain: Hash(chain), wall, changes, releases };
        let bytes = encode_record(&record);
        prop_assert_eq!(decode_record(&bytes).unwrap(), record);
        prop_assert_eq!(proto::decode_links(&bytes).unwrap(), (at, Hash(prev), Hash(chain)));
    }

    #[test]
    fn changes_and_touches_come_back(
        change in any_change(),
        touches in proptest::collection::vec((any_touch(), any::<u64>().prop_map(Gen)), 0..6),
    ) {
        prop_assert_eq!(decode_change(&encode_change(&change)).unwrap(), change);
        prop_assert_eq!(decode_touch_gens(&encode_touch_gens(&touches)).unwrap(), touches.clone());
        for (touch, _) in touches {
            prop_assert_eq!(decode_touch(&encode_touch(&touch)).unwrap(), touch);
        }
    }

    #[test]
    fn no_bytes_upset_a_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_record(&bytes);
        let _ = decode_change(&bytes);
        let _ = decode_touch(&bytes);
        let _ = decode_touch_gens(&bytes);
        let _ = proto::decode_touches(&bytes);
        let _ = rows::decode_state(&bytes);
        let _ = rows::decode_local(&bytes);
    }

    #[test]
    fn no_damage_passes_the_chain(bit in 0usize..2000) {
        let mut record = Record {
            at: Position { epoch: Epoch(1), seq: Seq(1) },
            prev: Hash([1; 32]),
            chain: Hash::default(),
            wall: 1_000_000,
            changes: create(ObjectId::ROOT, "name", file(id(1), 1000)),
            releases: vec![Release { touch: Touch::Object(id(1)), through: Gen(3) }],
        };
        let tail = proto::encode_tail(record.wall, &record.changes, &record.releases);
        let body = proto::body(record.at, &record.prev, &tail);
        record.chain = proto::chain(&record.prev, &body);
        let mut bytes = encode_record(&record).to_vec();
        let record = decode_record(&bytes).unwrap();
        let bit = bit % (bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let dir = Path::new("model");
        let catalog = Catalog::with_store(dir, Box::new(model::Model::default())).unwrap();
        let shelf = catalog.share(&"eng".parse().unwrap()).unwrap();
        let at = Position { epoch: Epoch(1), seq: Seq(0) };
        let head = Head { at, chain: Hash([1; 32]), incarnation: Hash([1; 32]) };
        commit(&shelf, |batch| batch.set_head(head)).unwrap();
        // Bits above the 32nd of a 32-bit varint are of the form and not of the content: what is
        // stored then is the form it was published in.
        if let Ok(damaged) = decode_record(&bytes) && damaged != record {
            prop_assert!(commit(&shelf, |batch| batch.append(damaged)).is_err());
        }
    }
}

#[test]
fn limits_and_unknown_kinds_are_refused_by_name() {
    let put =
        |object: Object| decode_change(&encode_change(&Change::Put(object))).unwrap_err().to_string();
    let mut object = file(id(1), 1);
    object.attrs.mode = 0o10000;
    assert_eq!(put(object), "object.mode is 4096, the limit is 4095");
    let mut object = file(id(1), 1);
    object.attrs.mtime.nsec = 1_000_000_000;
    assert_eq!(put(object), "object.mtime_nsec is 1000000000, the limit is 999999999");
    let object = Object { target: vec![b'x'; 4096], ..file(id(1), 1) };
    assert_eq!(put(object), "length of object.target is 4096, the limit is 4095");

    let change = |bytes: &[u8]| decode_change(bytes).unwrap_err().to_string();
    assert_eq!(change(b""), "a known kind of change is missing");
    assert_eq!(change(&[0x32, 0]), "a known kind of change is missing", "kind 6 of a newer release");
    assert_eq!(change(&[0x2a, 3, 1, 2, 3]), "gone.id: an object id is 3 bytes long, it must be 16");
    let mut bad = encode_change(&Change::Link { parent: id(1), name: name("ab"), id: id(2) }).to_vec();
    let slash = bad.windows(2).position(|pair| pair == b"ab").unwrap();
    bad[slash] = b'/';
    assert_eq!(change(&bad), "entry.name: an entry name holds a '/' byte");

    let long = decode_record(&vec![0; RECORD_MAX + 1]).unwrap_err().to_string();
    assert_eq!(long, "record length is 16777217, the limit is 16777216");
    // Two bytes for each: a million structs are not made before they are counted.
    let many = decode_record(&[0x2a, 0].repeat(1_000_000)).unwrap_err().to_string();
    assert_eq!(many, "number of elements is 1000000, the limit is 131072");
    assert!(decode_touch_gens(&[0x0a, 0].repeat(1_000_000)).is_err());
}

#[test]
fn attributes_are_refused_that_do_not_travel_or_are_too_many() {
    let refused = |name: &str, value: usize, many: usize| {
        let mut xattrs = Xattrs::default();
        for n in 0..many {
            let name = if n == 0 { name.to_owned() } else { format!("{name}{n}") };
            xattrs.insert(name.into_bytes(), vec![1; value]);
        }
        decode_xattrs(&encode_xattrs(&xattrs))
            .map(|read| assert_eq!(read, xattrs))
            .map_err(|e| e.to_string())
    };
    assert_eq!(refused("user.a", Xattrs::VALUE_MAX, 15), Ok(()));
    let wrong = |name: &str, value, many| refused(name, value, many).unwrap_err();
    let own =
        "the extended attribute trusted.overlay.opaque is none that travels; a newer nearshare wrote it";
    assert_eq!(wrong("trusted.overlay.opaque", 1, 1), own);
    assert!(wrong("user.\0", 1, 1).contains("user.\\x00"));
    assert_eq!(
        wrong("user.a", Xattrs::VALUE_MAX + 1, 1),
        "length of an xattr is 65537, the limit is 65536"
    );
    assert_eq!(wrong("user.a", 0, 9_363), "number of elements is 9363, the limit is 9362");
    assert!(wrong("user.a", Xattrs::VALUE_MAX, 20).starts_with("length of xattrs is 1311"));
    assert_eq!(
        wrong("user.a", Xattrs::VALUE_MAX, 16),
        "bytes of xattrs is 1048693, the limit is 1048576"
    );
    // A row has few of them, wherever it comes from.
    let mut object = file(id(1), 1);
    let mut few = Xattrs::default();
    for (len, fits) in [(Extra::ROW_MAX - 6, true), (Extra::ROW_MAX - 5, false)] {
        few.insert(b"user.a".to_vec(), vec![0; len]);
        object.xattrs = Extra::Here(few.clone());
        let bytes = encode_change(&Change::Put(object.clone()));
        let read = decode_change(&bytes).map(|_| ()).map_err(|error| error.to_string());
        let limit = "bytes of object.xattrs is 1025, the limit is 1024".to_owned();
        assert_eq!(read, if fits { Ok(()) } else { Err(limit) });
        assert_eq!(decode_object(object.id, &encode_object(&object)).is_ok(), fits);
    }
    few.insert(b"user.a".to_vec(), vec![0; 600]);
    object.xattrs = few.into();
    let with = encode_change(&Change::Put(object.clone())).len();
    object.xattrs = Extra::default();
    let without = encode_change(&Change::Put(object)).len();
    assert!(with - without < 630, "{with} and {without}");
}

#[derive(Clone, PartialEq, Message)]
struct NewerTouch {
    #[prost(bytes = "vec", tag = "1")]
    id: Vec<u8>,
    #[prost(uint32, tag = "9")]
    added: u32,
}

#[test]
fn a_field_that_a_newer_release_added_is_passed_over() {
    let newer = NewerTouch { id: id(1).as_bytes().to_vec(), added: 7 };
    assert_eq!(decode_touch(&newer.encode_to_vec()).unwrap(), Touch::Object(id(1)));
}

#[test]
fn a_file_and_its_entry_take_little_room_in_a_record() {
    let mut object = file(id(1), 123_456);
    object.attrs.mtime.nsec = 123_456_789;
    let changes = create(id(2), "a-usual-name.txt", object);
    let bytes: usize = changes.iter().map(|change| encode_change(change).len()).sum();
    assert!(bytes <= 190, "{bytes} bytes");
}
