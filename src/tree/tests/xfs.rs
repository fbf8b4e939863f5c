//! A real XFS, which shows its ACLs to root under two names.

use std::io::Write as _;
use std::process::Command;
use std::time::Instant;

use super::extra::{ACCESS, DEFAULT, of, put, rights, set};
use super::mounts::{mount, umount, with_mounts};
use super::*;
use crate::tree::content::{Hasher, hash_sparse};

/// Runs `test` on a share on an XFS.
fn with_xfs(test: impl FnOnce(&Fixture) + Send + 'static) {
    with_mounts(move |f| {
        let image = f.outside().join("image");
        // mkfs makes none below 300 MB.
        fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        let made = Command::new("mkfs.xfs").arg("-q").arg(&image).status();
        assert!(made.expect("tests/setup installs xfsprogs").success());
        let base = TempDir::with_prefix_in("xfs-", f.outside()).unwrap();
        mount(&["-o", "loop", image.to_str().unwrap(), base.path().to_str().unwrap()]);
        let root = base.path().join("root");
        fs::create_dir(&root).unwrap();
        let disk = Disk::open(&spec(&root), clock()).unwrap();
        let xfs = Fixture { base, root, disk };
        test(&xfs);
        let at = xfs.base.path().to_owned();
        umount(&at);
    });
}

fn listed(path: &Path) -> Vec<String> {
    let mut names = [0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names).unwrap();
    let names = names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8(name.into()).unwrap()).collect()
}

#[test]
fn an_acl_outlives_every_further_setting_of_attributes() {
    with_xfs(|f| {
        let root = f.root_dir();
        f.write("file", "x");
        f.mkdir("dir");
        let (tight, open) = (rights(7, 6, 0, 6, 0), rights(7, 7, 5, 7, 5));
        let sets = [
            ("file", attrs(0o760), set(&[(ACCESS, &tight)])),
            ("dir", attrs(0o775), set(&[(ACCESS, &open), (DEFAULT, &tight), ("user.a", b"1")])),
        ];
        for (path, attrs, wanted) in sets {
            let name = name(path);
            let spot = Spot::Entry(&root, &name);
            for _ in 0..3 {
                let found = f.disk.set_attrs(spot, &attrs, &wanted).unwrap();
                assert_eq!((found.attrs, of(f, path)), (attrs, wanted.clone()));
            }
            let names = listed(&f.path(path));
            assert!(names.iter().any(|name| name == "trusted.SGI_ACL_FILE"), "{names:?}");
            // Another one goes, and the ACL stays.
            put(&f.path(path), "user.b", b"2");
            f.disk.set_attrs(spot, &attrs, &wanted).unwrap();
            assert_eq!(of(f, path), wanted);
        }
    });
}

/// 8 EiB, of which a few bytes at the beginning, in the middle and at the end are no hole.
#[test]
fn the_longest_file_is_staged_and_read_in_no_time() {
    with_xfs(|f| {
        let began = Instant::now();
        let most = i64::MAX as u64;
        let parts = [(0, 5000), (most / 2, 70_000), (most / 4, 1)];
        let mut stage = f.disk.stage(id(1)).unwrap();
        let mut hasher = Hasher::new();
        let data = |len| vec![b'd'; len as usize];
        for (hole, len) in parts {
            f.disk.skip(&mut stage, hole).unwrap();
            stage.write_all(&data(len)).unwrap();
            hasher.zeros(hole);
            hasher.update(&data(len));
        }
        let rest = most - parts.iter().map(|(hole, len)| hole + len).sum::<u64>();
        f.disk.skip(&mut stage, rest).unwrap();
        hasher.zeros(rest);
        assert!(f.disk.skip(&mut stage, 1).is_err(), "there is no longer one");
        f.disk.staged(stage).unwrap();
        let mut file = f.disk.open_file(Spot::Tmp(id(1))).unwrap().unwrap();
        let found = f.disk.file_found(&file).unwrap();
        let content = hash_sparse(&mut file, found.size, &mut vec![0; 1 << 20]).unwrap();
        assert_eq!((content, content.size), (hasher.finish(), most));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    });
}
