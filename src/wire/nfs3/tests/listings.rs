//! Listings of our own making, as the other program reads them.

use nfs3_types::nfs3::{Nfs3Option, Nfs3Result, READDIR3res, READDIRPLUS3res};
use nfs3_types::xdr_codec::{Pack, Unpack};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::cookie::VERIFIER;
use super::super::listing::{Entries, Line, Listing, Room};
use super::super::{Fattr, Returned, Time, row};
use crate::object::Kind;
use crate::wire::xdr::{Reader, Rope, Writer};

fn attributes(fileid: u64) -> Fattr {
    let time = Time { sec: 5, nsec: 6 };
    Fattr {
        kind: Kind::Directory,
        mode: 0o755,
        nlink: 2,
        uid: 1,
        gid: 2,
        size: 3,
        used: 4,
        rdev: (0, 0),
        fsid: 9,
        fileid,
        atime: time,
        mtime: time,
        ctime: time,
    }
}

/// As many of the names as there is room for.
fn list(names: &[Vec<u8>], room: Room) -> (usize, Option<Vec<u8>>) {
    let dir = attributes(1);
    let mut listing = Listing::new(Writer::new(), Some(&dir), VERIFIER, room);
    let mut taken = 0;
    for (name, number) in names.iter().zip(1_u64..) {
        let attributes = attributes(number);
        // Some have no attributes, some no handle.
        let line = Line {
            fileid: number,
            name,
            cookie: number * 10,
            attributes: Some(&attributes).filter(|_| number % 3 != 0),
            handle: Some(&[7; 32][..]).filter(|_| number % 4 != 0),
        };
        if !listing.push(&line) {
            break;
        }
        taken += 1;
    }
    (taken, listing.finish(taken == names.len()).map(|out| out.message().to_vec()))
}

proptest! {
    #[test]
    fn a_listing_is_what_was_put_in(names in vec(vec(any::<u8>(), 1..60), 0..30), all in 0_u32..3000) {
        let (taken, reply) = list(&names, Room { names: None, all });
        let Some(reply) = reply else {
            prop_assert!(taken == 0 && all < 250);
            return Ok(());
        };
        let (read, len) = READDIR3res::unpack(&mut &reply[..]).unwrap();
        prop_assert_eq!(len, reply.len());
        prop_assert!(reply.len() - 4 <= all as usize);
        let Nfs3Result::Ok(read) = read else { panic!("the status is OK") };
        prop_assert_eq!(read.cookieverf.0, VERIFIER);
        prop_assert_eq!(read.reply.eof, taken == names.len());
        let lines: Vec<_> = read.reply.entries.0.iter().map(|e| (e.fileid, e.name.0.to_vec(), e.cookie)).collect();
        let want: Vec<_> = names[..taken].iter().zip(1_u64..).map(|(name, n)| (n, name.clone(), n * 10)).collect();
        prop_assert_eq!(lines, want);
        // The next one would not have fitted.
        if let Some(next) = names.get(taken) {
            prop_assert!(reply.len() - 4 + 24 + next.len().next_multiple_of(4) > all as usize);
        }
    }

    #[test]
    fn a_long_listing_is_what_was_put_in(
        names in vec(vec(any::<u8>(), 1..60), 0..30),
        few in 0_u32..600,
        all in 0_u32..6000,
    ) {
        let (taken, reply) = list(&names, Room { names: Some(few), all });
        let Some(reply) = reply else {
            prop_assert!(taken == 0 && all < 400);
            return Ok(());
        };
        let (read, len) = READDIRPLUS3res::unpack(&mut &reply[..]).unwrap();
        prop_assert_eq!(len, reply.len());
        prop_assert!(reply.len() - 4 <= all as usize);
        let Nfs3Result::Ok(read) = read else { panic!("the status is OK") };
        let used: usize = names[..taken].iter().map(|name| 24 + name.len().next_multiple_of(4)).sum();
        prop_assert!(taken <= 1 || used <= few as usize);
        prop_assert_eq!(read.reply.entries.0.len(), taken);
        for (n, entry) in (1_u64..).zip(&read.reply.entries.0) {
            prop_assert_eq!((entry.fileid, entry.cookie), (n, n * 10));
            prop_assert_eq!(entry.name.as_ref(), &names[n as usize - 1][..]);
            prop_assert_eq!(entry.name_handle.is_some(), n % 4 != 0);
            match &entry.name_attributes {
                Nfs3Option::Some(is) => prop_assert_eq!((is.fileid, is.mode, is.fsid), (n, 0o755, 9)),
                Nfs3Option::None => prop_assert_eq!(n % 3, 0),
            }
        }
        // We read it as the other program does.
        let rope = Rope::from(bytes::Bytes::from(reply));
        let results = row(17).unwrap().results(&mut Reader::new(&rope)).unwrap();
        let Returned::Listing(at) = results.returned else { panic!("{results:?}") };
        let mut entries = Entries::new(Reader::starting(&rope, at), true);
        for name in &names[..taken] {
            prop_assert_eq!(&entries.next_entry().unwrap().unwrap().name, name);
        }
        prop_assert_eq!(entries.next_entry(), Ok(Err(taken == names.len())));
    }
}

#[test]
fn attributes_are_written_as_the_other_program_packs_them() {
    let mut out = Writer::new();
    attributes(5).write(&mut out);
    let bytes = out.message();
    let (read, len) = nfs3_types::nfs3::fattr3::unpack(&mut &bytes[..]).unwrap();
    assert_eq!((len, read.packed_size()), (Fattr::LEN, Fattr::LEN));
    assert_eq!((read.fsid, read.fileid, read.used, read.mtime.nseconds), (9, 5, 4, 6));
}

#[test]
fn too_little_room_is_said() {
    let name = vec![vec![b'x'; 40]];
    assert_eq!(list(&name, Room { names: None, all: 64 }), (0, None));
    // An empty rest of a directory needs no more than its end.
    assert!(list(&[], Room { names: None, all: 104 }).1.is_some());
    assert!(list(&[], Room { names: None, all: 103 }).1.is_none());
}
