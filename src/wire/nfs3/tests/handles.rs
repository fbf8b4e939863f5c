use proptest::prelude::*;

use super::super::judge;
use super::super::near::{BadHandle, NearHandles, fileid};
use crate::id::{ObjectId, ShareId};

fn share(name: &str) -> ShareId {
    name.parse().unwrap()
}

fn handles() -> NearHandles {
    NearHandles::new(&[3; 32], [share("engineering"), share("docs")])
}

#[test]
fn a_handle_is_for_ever() {
    // What sites and releases must agree on.
    let handle = handles().make(&share("docs"), ObjectId::ROOT).unwrap();
    let text = "6e73e8010851402a00000000000000000000000000000001722c4c1d54cd3276";
    assert_eq!(format!("{handle:?}"), text);
    assert_eq!(handles().fsid(&share("docs")), Some(0x9a77_c918_e974_4e65));
    assert_eq!(handles().fsid(&share("attic")), None);
    assert_eq!(fileid(ObjectId::ROOT), 1);
    assert_eq!(fileid(ObjectId::from_bytes([0xff; 16])), u64::MAX >> 1);
}

#[test]
fn what_is_not_ours_is_told_from_what_is_wrong() {
    let handles = handles();
    let good = *handles.make(&share("docs"), ObjectId::ROOT).unwrap().as_bytes();
    let with = |at: usize, byte: u8| {
        let mut bytes = good;
        bytes[at] = byte;
        bytes.to_vec()
    };
    let other = NearHandles::new(&[4; 32], [share("docs")]);
    let gone = NearHandles::new(&[3; 32], [share("engineering"), share("attic")]);
    let table = [
        (good[..31].to_vec(), BadHandle::Length(31)),
        ([&good[..], &[0]].concat(), BadHandle::Length(33)),
        (good[..3].to_vec(), BadHandle::Length(3)),
        (with(3, 2), BadHandle::Version(2)),
        (with(9, 7), BadHandle::Forged),
        (with(31, good[31] ^ 1), BadHandle::Forged),
        (with(4, good[4] ^ 1), BadHandle::Share),
        (other.make(&share("docs"), ObjectId::ROOT).unwrap().as_bytes().to_vec(), BadHandle::Share),
        (gone.make(&share("attic"), ObjectId::ROOT).unwrap().as_bytes().to_vec(), BadHandle::Share),
    ];
    for (bytes, why) in table {
        assert_eq!(handles.read(&bytes), Err(why), "{bytes:02x?}");
    }
    // As knfsd and Ganesha make them, and nothing at all.
    for foreign in [&[1, 0, 6, 0, 1, 2, 3, 4][..], b"C\0\0\0abcd", &good[..2], b""] {
        assert_eq!(handles.read(foreign), Ok(None), "{foreign:02x?}");
    }
    assert!(handles.make(&share("attic"), ObjectId::ROOT).is_none());
}

proptest! {
    #[test]
    fn a_handle_leads_to_its_object_at_every_site(object: [u8; 16], first: bool) {
        let id = share(if first { "engineering" } else { "docs" });
        let handle = handles().make(&id, ObjectId::from_bytes(object)).unwrap();
        // Another site has its shares in another order.
        let elsewhere = NearHandles::new(&[3; 32], [share("docs"), share("x"), share("engineering")]);
        prop_assert_eq!(elsewhere.read(handle.as_bytes()), Ok(Some((&id, ObjectId::from_bytes(object)))));
        prop_assert_eq!(elsewhere.make(&id, ObjectId::from_bytes(object)), Some(handle));
    }

    #[test]
    fn no_bit_of_a_handle_can_be_changed(object: [u8; 16], bit in 0_usize..256) {
        let mut bytes = *handles().make(&share("docs"), ObjectId::from_bytes(object)).unwrap().as_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(!matches!(handles().read(&bytes), Ok(Some(_))));
    }

    #[test]
    fn any_bytes_are_a_handle_of_ours_or_none(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..=64),
        ours: bool,
    ) {
        if ours {
            let handle = handles().make(&share("docs"), ObjectId::ROOT).unwrap();
            bytes.splice(..bytes.len().min(8), handle.as_bytes()[..8].iter().copied());
        }
        prop_assert_eq!(judge::handle(&handles(), &bytes), Ok(()));
    }
}
