//! Extended attributes, ACLs and holes on real file systems.

use std::io::Write as _;

use rustix::fs::{IFlags, SeekFrom, XattrFlags};
use rustix::io::Errno;

use super::*;
use crate::object::Extra;
use crate::tree::content::{Extent, Extents, Sparse};
use crate::tree::disk::{SEEKS, data_from};

/// An ACL as the kernel hands it out: version 2, then (tag, permissions, id) each.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(rights.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}
const NOBODY: u32 = u32::MAX;
pub(super) const ACCESS: &str = "system.posix_acl_access";
pub(super) const DEFAULT: &str = "system.posix_acl_default";

/// The owner, somebody, the group, the mask and others.
pub(super) fn rights(owner: u16, somebody: u16, group: u16, mask: u16, other: u16) -> Vec<u8> {
    let entries = [
        (1, owner, NOBODY),
        (2, somebody, 1234),
        (4, group, NOBODY),
        (0x10, mask, NOBODY),
        (0x20, other, NOBODY),
    ];
    acl(&entries)
}

pub(super) fn put(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty())
        .unwrap_or_else(|error| panic!("{name} of {path:?}: {error}"));
}

pub(super) fn set(pairs: &[(&str, &[u8])]) -> Xattrs {
    let mut set = Xattrs::default();
    pairs.iter().for_each(|(name, value)| set.insert(name.as_bytes().into(), value.to_vec()));
    set
}

pub(super) fn of(f: &Fixture, path: &str) -> Xattrs {
    let root = f.root_dir();
    f.disk.xattrs(Spot::Entry(&root, &name(path))).unwrap()
}

#[test]
fn acls_and_modes_are_set_together_and_taken_away_together() {
    everywhere(|f| {
        let root = f.root_dir();
        f.write("file", "x");
        f.mkdir("dir");
        let (file, dir) = (name("file"), name("dir"));
        let (file, dir) = (Spot::Entry(&root, &file), Spot::Entry(&root, &dir));
        let tight = rights(7, 6, 0, 6, 0);
        let open = rights(7, 7, 5, 7, 5);
        // The group's bits of the mode are the mask.
        let found = f.disk.set_attrs(file, &attrs(0o760), &Xattrs::of(&[(ACCESS, &tight)])).unwrap();
        assert_eq!((found.attrs, of(f, "file")), (attrs(0o760), Xattrs::of(&[(ACCESS, &tight)])));
        let both = Xattrs::of(&[(ACCESS, &open), (DEFAULT, &tight)]);
        let found = f.disk.set_attrs(dir, &attrs(0o2775), &both).unwrap();
        assert_eq!((found.attrs, of(f, "dir")), (attrs(0o2775), both));
        let again =
            f.disk.set_attrs(dir, &attrs(0o2775), &Xattrs::of(&[(ACCESS, &open), (DEFAULT, &tight)]));
        assert_eq!(again.unwrap().stamp, found.stamp, "nothing to do");
        // What is made below it inherits nothing that it should not have.
        let below = f.dir("dir");
        for kind in [Kind::Directory, Kind::Fifo] {
            let child = name("child");
            let spot = Spot::Entry(&below, &child);
            let made = f.disk.make(spot, &object(kind, attrs(0o755))).unwrap();
            assert_eq!((made.attrs, f.disk.xattrs(spot).unwrap()), (attrs(0o755), plain()));
            f.disk.remove(spot).unwrap();
        }
        let found = f.disk.set_attrs(file, &attrs(0o640), &plain()).unwrap();
        assert_eq!((found.attrs, of(f, "file")), (attrs(0o640), plain()));
        let found = f.disk.set_attrs(dir, &attrs(0o750), &plain()).unwrap();
        assert_eq!((found.attrs, of(f, "dir")), (attrs(0o750), plain()));
    });
}

#[test]
fn what_is_staged_below_an_inheriting_root_inherits_nothing() {
    everywhere(|f| {
        put(&f.root, DEFAULT, &rights(7, 7, 7, 7, 7));
        put(&f.path(".nearshare/tmp"), DEFAULT, &rights(7, 7, 7, 7, 7));
        let mut stage = f.disk.stage(id(1)).unwrap();
        stage.write_all(b"x").unwrap();
        f.disk.staged(stage).unwrap();
        let found = f.disk.set_attrs(Spot::Tmp(id(1)), &attrs(0o640), &plain()).unwrap();
        assert_eq!(found.attrs, attrs(0o640));
        assert_eq!(f.disk.xattrs(Spot::Tmp(id(1))).unwrap(), plain());
    });
}

/// chown takes capabilities away, and so does a write.
#[test]
fn capabilities_come_after_the_owner() {
    if !is_root() || !may_trusted() {
        return skipped("chown and attributes of security take root");
    }
    everywhere(|f| {
        let root = f.root_dir();
        f.write("ping", "x");
        let file = name("ping");
        // VFS_CAP_REVISION_2 with CAP_NET_RAW, permitted and effective.
        let mut caps = 0x0200_0001u32.to_le_bytes().to_vec();
        caps.extend([0x2000u32, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()));
        let wanted = Xattrs::of(&[("security.capability", &caps)]);
        for uid in [7, 8] {
            let attrs = Attrs { uid, ..attrs(0o755) };
            let found = f.disk.set_attrs(Spot::Entry(&root, &file), &attrs, &wanted).unwrap();
            assert_eq!((found.attrs, of(f, "ping")), (attrs, wanted.clone()));
        }
    });
}

#[test]
fn a_sites_own_attributes_are_neither_seen_nor_touched() {
    if !may_trusted() {
        return skipped("attributes of trusted take root");
    }
    everywhere(|f| {
        f.write("file", "x");
        let path = f.path("file");
        put(&path, "trusted.nearshare.id", b"ours");
        put(&path, "trusted.x", b"theirs");
        std::os::unix::fs::symlink("file", f.path("link")).unwrap();
        put(&f.path("link"), "trusted.l", b"the link's own");
        assert_eq!(of(f, "file"), Xattrs::of(&[("trusted.x", b"theirs")]));
        assert_eq!(of(f, "link"), Xattrs::of(&[("trusted.l", b"the link's own")]));
        let root = f.root_dir();
        for (entry, wanted) in [("file", plain()), ("link", Xattrs::of(&[("trusted.m", b"m")]))] {
            let found = f.disk.set_attrs(Spot::Entry(&root, &name(entry)), &attrs(0o644), &wanted);
            found.unwrap();
            assert_eq!(of(f, entry), wanted);
        }
        let mut value = [0; 16];
        let len = rustix::fs::lgetxattr(&path, "trusted.nearshare.id", &mut value).unwrap();
        assert_eq!(&value[..len], b"ours");
    });
}

#[test]
fn large_values_and_many_names_are_read_whole_up_to_the_limit() {
    // ext4 keeps 4 KiB of them.
    let f = Fixture::below("/dev/shm");
    if !has_users_attributes(&f) {
        return skipped("the tmpfs of this kernel has no attributes of users");
    }
    f.write("file", "x");
    let mut wanted = Xattrs::default();
    for n in 0..10u8 {
        wanted.insert(format!("user.{n}").into_bytes(), vec![n; Xattrs::VALUE_MAX]);
    }
    for n in 0..500 {
        wanted.insert(format!("user.name-{n}").into_bytes(), Vec::new());
    }
    let root = f.root_dir();
    let file = name("file");
    f.disk.set_attrs(Spot::Entry(&root, &file), &attrs(0o644), &wanted).unwrap();
    assert!(of(&f, "file") == wanted);
    assert!(Extra::from(wanted.clone()).is_apart());
    for n in 10..17u8 {
        put(&f.path("file"), &format!("user.{n}"), &vec![n; Xattrs::VALUE_MAX]);
    }
    let error = f.disk.xattrs(Spot::Entry(&root, &file)).unwrap_err().to_string();
    assert!(error.contains("its extended attributes are more than 1048576 bytes"), "{error}");
}

/// It is not left out, as others are: what would help is said.
#[test]
fn an_acl_that_cannot_be_set_is_an_error_with_a_remedy() {
    everywhere(|f| {
        let root = f.root_dir();
        f.write("file", "x");
        f.symlink("file", "link");
        let wanted = set(&[(ACCESS, &rights(6, 6, 4, 6, 0))]);
        let said = |path: &str| {
            let name = name(path);
            let failed =
                f.disk.set_attrs(Spot::Entry(&root, &name), &attrs(0o660), &wanted).unwrap_err();
            let said = failed.to_string();
            (errno(Err::<(), _>(failed)), said)
        };
        // Symbolic links have none anywhere.
        let (errno, why) = said("link");
        assert_eq!(errno, libc::EOPNOTSUPP);
        assert!(why.contains("use ext4, xfs or btrfs here, not mounted with noacl) of /"), "{why}");
        if !is_root() || !may(CapabilitySet::LINUX_IMMUTABLE) {
            return skipped("making a file immutable takes root");
        }
        let file = fs::File::open(f.path("file")).unwrap();
        let flags = match rustix::fs::ioctl_getflags(&file) {
            // No such flags at all.
            Err(Errno::NOTTY) => return skipped(format_args!("{:?} makes no file immutable", f.root)),
            flags => flags.unwrap(),
        };
        rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE).unwrap();
        let (errno, why) = said("file");
        rustix::fs::ioctl_setflags(&file, flags).unwrap();
        assert_eq!(errno, libc::EPERM);
        assert!(why.contains("see with lsattr whether this is immutable) of /"), "{why}");
        f.disk.set_attrs(Spot::Entry(&root, &name("file")), &attrs(0o660), &wanted).unwrap();
    });
}

#[test]
fn what_is_not_there_has_no_attributes() {
    everywhere(|f| {
        let root = f.root_dir();
        assert_eq!(errno(f.disk.xattrs(Spot::Entry(&root, &name("none")))), libc::ENOENT);
        assert_eq!(f.disk.xattrs(Spot::Itself(&root)).unwrap(), plain());
        // Also of a directory that has been deleted meanwhile.
        f.mkdir("gone");
        let gone = f.dir("gone");
        fs::remove_dir(f.path("gone")).unwrap();
        assert_eq!(f.disk.xattrs(Spot::Itself(&gone)).unwrap(), plain());
    });
}

/// What this thread ever moved by system calls: bytes read and written.
fn moved() -> [u64; 2] {
    let counts = fs::read_to_string("/proc/thread-self/io").unwrap();
    ["rchar: ", "wchar: "]
        .map(|field| counts.lines().find_map(|line| line.strip_prefix(field)).unwrap().parse().unwrap())
}

/// What a broken file system, or one that somebody wrote for FUSE, may say for ever.
#[test]
fn who_looks_for_data_that_is_a_hole_every_time_gives_up_and_takes_it_for_data() {
    let mut seeks = 0;
    let found = data_from(5, |to| match to {
        SeekFrom::Data(at) | SeekFrom::Hole(at) => {
            seeks += 1;
            assert!(seeks <= 2 * SEEKS, "for ever");
            Ok(at)
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(found.unwrap(), Some(5..u64::MAX));
    // Once or twice it is what XFS does.
    let mut seeks = [7, 7, 9, 9, 100, 130].into_iter();
    assert_eq!(data_from(5, |_| Ok(seeks.next().unwrap())).unwrap(), Some(100..130));
}

#[test]
fn of_a_hundred_gigabytes_of_holes_none_is_written_or_read() {
    everywhere(|f| {
        let (hole, data) = (50 << 30, vec![b'd'; 100_000]);
        let before = moved();
        let mut stage = f.disk.stage(id(1)).unwrap();
        f.disk.skip(&mut stage, hole).unwrap();
        stage.write_all(&data).unwrap();
        f.disk.skip(&mut stage, hole).unwrap();
        f.disk.staged(stage).unwrap();
        let size = 2 * hole + data.len() as u64;
        let mut file = f.disk.open_file(Spot::Tmp(id(1))).unwrap().unwrap();
        let meta = file.metadata().unwrap();
        assert!(meta.len() == size && meta.blocks() * 512 < 1 << 20, "{meta:?}");
        let mut extents = Extents::new(size);
        let first = extents.next(&mut file).unwrap().unwrap();
        assert!(first.hole == hole && first.data >= data.len() as u64, "{first:?}");
        let last = extents.next(&mut file).unwrap();
        assert_eq!(last, Some(Extent { hole: size - first.hole - first.data, data: 0 }));
        assert_eq!(extents.next(&mut file).unwrap(), None);
        content::hash_sparse(&mut file, size, &mut vec![0; 1 << 20]).unwrap();
        let moved = [0, 1].map(|n| moved()[n] - before[n]);
        let once = data.len() as u64..200_000;
        assert!(moved.iter().all(|bytes| once.contains(bytes)), "{moved:?} bytes read and written");
        assert_eq!(file.data_from(size).unwrap(), None);
    });
}
