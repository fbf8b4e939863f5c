//! Messages put together by hand from RFC 1813, whole ones and broken ones.

use bytes::Bytes;

use super::super::{About, Item, More, Returned, Stable, Status, Whose, row};
use crate::wire::xdr::{Reader, Rope, Span, Weave, Writer};

fn rope(write: impl FnOnce(&mut Writer)) -> Rope {
    let mut out = Writer::new();
    write(&mut out);
    out.message().into()
}

#[test]
fn a_write_shares_its_data_with_the_message() {
    let data = Bytes::from(vec![0x5a; 100_001]);
    let mut message: Rope = rope(|out| {
        out.opaque(&[1; 12]).u64(1 << 40).u32(100_001).u32(2).u32(100_001);
    });
    message.push(data.clone());
    message.push(Bytes::from_static(&[0; 3]));
    let args = row(7).unwrap().args(&mut Reader::new(&message)).unwrap();
    let More::Write(part) = args.more else { panic!("{args:?}") };
    assert_eq!((part.offset, part.count, part.stable), (1 << 40, 100_001, Stable::File));
    assert_eq!(part.data, Span { at: 36, len: 100_001 });

    // A longer handle, and the same data: not equal bytes, the very same.
    let mut weave = Weave::new(&message);
    args.about.handles().for_each(|fh| fh.replace(&mut weave, &[2; 64]));
    let sent = weave.record();
    assert_eq!(sent.len(), 4 + message.len() + 52);
    assert!(sent.pieces().any(|piece| piece.as_ptr() == data.as_ptr() && piece.len() == data.len()));
    let record = sent.into_bytes();
    assert_eq!(record[..4], ((1 << 31) | (message.len() as u32 + 52)).to_be_bytes());
    assert_eq!(record[4..8], 64_u32.to_be_bytes());
    assert_eq!(record[8..72], [2; 64]);
    assert_eq!(record[72..92], message.into_bytes()[16..36]);
}

#[test]
fn a_lookup_says_where_everything_stands() {
    let attributes = |out: &mut Writer, id: u64| {
        out.bool(true).u32(2).fixed(&[0; 40]).u64(77).u64(id).fixed(&[0; 24]);
    };
    let message = rope(|out| {
        out.u32(0).opaque(&[9; 5]);
        attributes(out, 1);
        attributes(out, 2);
    });
    let results = row(3).unwrap().results(&mut Reader::new(&message)).unwrap();
    let places: Vec<_> = results
        .items
        .iter()
        .map(|item| match item {
            Item::Handle(fh) => (fh.at, None, fh.bytes.len() as u64),
            Item::Attributes(attributes) => {
                (attributes.at, Some(attributes.whose), attributes.is.fileid)
            }
            Item::Before(before) => (before.0.at, None, 0),
        })
        .collect();
    assert_eq!(places, [(4, None, 5), (20, Some(Whose::Found), 1), (108, Some(Whose::Dir), 2)]);

    let mut weave = Weave::new(&message);
    for item in results.items.iter() {
        if let Item::Attributes(attributes) = item {
            attributes.leave_out(&mut weave);
        }
    }
    let without = rope(|out| {
        out.u32(0).opaque(&[9; 5]).bool(false).bool(false);
    });
    assert_eq!(weave.message().into_bytes(), without.into_bytes());
}

#[test]
fn what_is_not_optional_stays() {
    let message = rope(|out| {
        out.u32(0).u32(1).fixed(&[0; 80]);
    });
    let results = row(1).unwrap().results(&mut Reader::new(&message)).unwrap();
    let Some(Item::Attributes(attributes)) = results.items.iter().next() else { panic!("{results:?}") };
    let mut weave = Weave::new(&message);
    attributes.leave_out(&mut weave);
    assert_eq!(weave.message().into_bytes(), message.into_bytes());
}

#[test]
fn a_status_that_nobody_knows_passes() {
    let message = rope(|out| {
        out.u32(4711).bool(false).bool(false);
    });
    let results = row(7).unwrap().results(&mut Reader::new(&message)).unwrap();
    assert_eq!((results.status, results.returned), (Status(4711), Returned::Nothing));
    assert_eq!(Status(4711).to_string(), "NFS status 4711");
    assert_eq!(Status::STALE.to_string(), "NFS3ERR_STALE");
}

#[test]
fn the_least_of_two_servers_is_what_both_can_do() {
    let info = |read, delta, properties| {
        let message = rope(|out| {
            out.u32(0).bool(false).u32(read).u32(read).u32(512).u32(1).u32(1).u32(8);
            out.u32(4096).u64(1 << 40).u32(0).u32(delta).u32(properties);
        });
        let results = row(19).unwrap().results(&mut Reader::new(&message)).unwrap();
        let Returned::FsInfo(info) = results.returned else { panic!("{results:?}") };
        (info, message)
    };
    let ((big, message), (small, want)) = (info(1 << 20, 1, 0x1b), info(1 << 16, 1000, 0x9));
    let mut weave = Weave::new(&message);
    big.least(&small).replace(&mut weave);
    assert_eq!(weave.message().into_bytes(), want.into_bytes());
}

// long: one table, read from top to bottom.
#[test]
fn a_fault_says_field_size_limit_and_place() {
    let handle = |out: &mut Writer, len: usize| {
        out.opaque(&vec![7; len]);
    };
    type Broken = (u32, Box<dyn FnOnce(&mut Writer)>, &'static str);
    let args: Vec<Broken> = vec![
        (1, Box::new(move |out| handle(out, 80)), "file handle is 80 bytes, limit 64, at byte 0"),
        (
            14,
            Box::new(move |out| {
                handle(out, 4);
                out.opaque(b"abc").u32(80);
            }),
            "file handle is 80 bytes, limit 64, at byte 16",
        ),
        (
            3,
            Box::new(move |out| {
                handle(out, 8);
                out.u32(9000);
            }),
            "name is 9000 bytes, limit 8192, at byte 12",
        ),
        (
            3,
            Box::new(move |out| {
                handle(out, 8);
                out.u32(5).fixed(b"abcde");
            }),
            "name needs 8 bytes and the message has 5 more, at byte 16",
        ),
        (
            6,
            Box::new(move |out| handle(out, 8)),
            "offset needs 8 bytes and the message has 0 more, at byte 12",
        ),
        (
            7,
            Box::new(move |out| {
                handle(out, 8);
                out.u64(0).u32(1).u32(3);
            }),
            "stable is 3, it must be 0, 1 or 2, at byte 24",
        ),
        (
            7,
            Box::new(move |out| {
                handle(out, 8);
                out.u64(0).u32(1).u32(0).u32(u32::MAX);
            }),
            "data is 4294967295 bytes, limit 4194304, at byte 28",
        ),
        (
            2,
            Box::new(move |out| {
                handle(out, 8);
                out.u32(2);
            }),
            "mode to set is 2, it must be 0 or 1, at byte 12",
        ),
        (
            11,
            Box::new(move |out| {
                handle(out, 0);
                out.opaque(b"x").u32(8);
            }),
            "type is 8, it must be 1 to 7, at byte 12",
        ),
        (1, Box::new(|_| ()), "file handle needs 4 bytes and the message has 0 more, at byte 0"),
    ];
    for (number, write, want) in args {
        let message = rope(write);
        let fault = row(number).unwrap().args(&mut Reader::new(&message)).unwrap_err();
        assert_eq!(fault.to_string(), want);
    }
    let message = rope(|out| {
        out.u32(0).bool(true).u32(9);
    });
    let fault = row(4).unwrap().results(&mut Reader::new(&message)).unwrap_err();
    assert_eq!(fault.to_string(), "type is 9, it must be 1 to 7, at byte 8");
}

#[test]
fn about_names_its_handles_in_order() {
    let message = rope(|out| {
        out.opaque(&[1; 3]).opaque(b"from").opaque(&[2; 9]).opaque(b"to");
    });
    let args = row(14).unwrap().args(&mut Reader::new(&message)).unwrap();
    let handles: Vec<_> = args.about.handles().map(|fh| (fh.at, fh.bytes.len())).collect();
    assert_eq!(handles, [(0, 3), (16, 9)]);
    let About::Two(from, to) = args.about else { panic!("a RENAME is about two entries") };
    assert_eq!((&from.name[..], &to.name[..]), (&b"from"[..], &b"to"[..]));
}
