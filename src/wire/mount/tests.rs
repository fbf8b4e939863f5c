use nfs3_types::mount::{
    dirpath, export_node, exports, fhandle3, mountres3, mountres3_ok, mountstat3, name,
};
use nfs3_types::xdr_codec::{List, Opaque, Pack, Unpack};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::rpc::judge::cut;
use super::super::xdr::Rope;
use super::*;

fn pack(value: &impl Pack) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.pack(&mut bytes).unwrap();
    bytes
}

/// What a server exports, and to whom.
fn listed<'a>(all: &'a [(Vec<u8>, Vec<String>)]) -> exports<'a, 'a> {
    let node = |(path, clients): &'a (Vec<u8>, Vec<String>)| export_node {
        ex_dir: dirpath(Opaque::borrowed(path)),
        ex_groups: List(
            clients.iter().map(|client| name(Opaque::borrowed(client.as_bytes()))).collect(),
        ),
    };
    List(all.iter().map(node).collect())
}

proptest! {
    #[test]
    fn a_mount_is_read_and_made_as_the_other_program_does(
        handle in vec(any::<u8>(), 0..=64),
        flavors in vec(any::<u32>(), 0..9),
        size in 1_usize..60,
    ) {
        let ok = |flavors: &[u32]| {
            let fhandle = fhandle3(Opaque::borrowed(&handle));
            pack(&mountres3::Ok(mountres3_ok { fhandle, auth_flavors: flavors.to_vec() }))
        };
        let bytes = ok(&flavors);
        let message = cut(&bytes, size);
        let got = mounted(&mut Reader::new(&message), Version::Three).unwrap().unwrap();
        prop_assert_eq!(&got.handle, &handle);
        prop_assert_eq!(got.at, 4);
        let span = got.flavors.unwrap();
        prop_assert_eq!((span.len, span.end()), (4 + flavors.len() * 4, bytes.len()));
        let mut out = Writer::new();
        grant(&mut out, &handle);
        prop_assert_eq!(out.message(), ok(&[1]));
    }

    #[test]
    fn exports_get_other_clients(
        all in vec((vec(any::<u8>(), 0..30), vec("[a-z.*]{1,20}", 0..4)), 0..5),
        clients in vec("[0-9./]{1,20}", 0..3),
        size in 1_usize..200,
    ) {
        let bytes = pack(&listed(&all));
        let message = cut(&bytes, size);
        let mut weave = Weave::new(&message);
        let mut exports = Exports::new(Reader::new(&message));
        let mut paths = Vec::new();
        while let Some(export) = exports.next_export().unwrap() {
            export.for_clients(&mut weave, clients.iter().map(String::as_str));
            paths.push(export.path.to_vec());
        }
        prop_assert!(paths.iter().eq(all.iter().map(|(path, _)| path)));
        let others: Vec<_> = all.iter().map(|(path, _)| (path.clone(), clients.clone())).collect();
        prop_assert_eq!(weave.message().into_bytes(), pack(&listed(&others)));
    }

    #[test]
    fn any_message_is_read_in_one_way(
        bytes in vec(prop_oneof![4 => Just(0_u8), 2 => 0_u8..3, 1 => any::<u8>()], 0..200),
        size in 1_usize..50,
    ) {
        prop_assert_eq!(judge::message(&bytes, size), Ok(()));
    }
}

#[test]
fn a_refusal_is_one() {
    let mut out = Writer::new();
    refuse(&mut out, Status::ACCES);
    let bytes = out.message();
    let (read, _) = mountres3::unpack(&mut &bytes[..]).unwrap();
    assert!(matches!(read, mountres3::Err(mountstat3::MNT3ERR_ACCES)));
    for version in [Version::Old, Version::Three] {
        let rope = Rope::from(bytes.clone());
        assert_eq!(mounted(&mut Reader::new(&rope), version), Ok(Err(Status::ACCES)));
    }
}

#[test]
fn the_old_version_has_a_handle_of_32_bytes() {
    let rope = Rope::from(Bytes::from([&[0; 4][..], &[7; 32]].concat()));
    let got = mounted(&mut Reader::new(&rope), Version::Old).unwrap().unwrap();
    assert_eq!((got.handle.len(), got.at, got.flavors), (32, 4, None));
    assert_eq!(
        [0, 1, 2, 3, 4].map(|number| Version::new(number).is_some()),
        [false, true, true, true, false]
    );
}

#[test]
fn a_fault_says_field_size_limit_and_place() {
    let path = |bytes: &[u8]| {
        let rope = Rope::from(Bytes::copy_from_slice(bytes));
        row(1).unwrap().path(&mut Reader::new(&rope)).unwrap_err().to_string()
    };
    assert_eq!(path(&1025_u32.to_be_bytes()), "path is 1025 bytes, limit 1024, at byte 0");
    let mut out = Writer::new();
    out.u32(0).opaque(&[1; 8]).u32(65);
    let rope = Rope::from(out.message());
    let fault = mounted(&mut Reader::new(&rope), Version::Three).unwrap_err();
    assert_eq!(fault.to_string(), "flavor list has 65 entries, limit 64, at byte 16");
}

#[test]
fn procedures_say_what_they_are_about() {
    for number in 0..6 {
        assert_eq!(row(number).unwrap().number, number);
    }
    assert!(row(6).is_none() && row(1).unwrap().is_mnt() && !row(3).unwrap().is_mnt());
    let rope = Rope::from(Bytes::from_static(b"\0\0\0\x02/a\0\0"));
    let path = |number| row(number).unwrap().path(&mut Reader::new(&rope)).unwrap();
    assert_eq!([1, 3].map(path), [Some(Bytes::from_static(b"/a")), Some(Bytes::from_static(b"/a"))]);
    assert_eq!([0, 2, 4, 5].map(path), [None, None, None, None]);
}
