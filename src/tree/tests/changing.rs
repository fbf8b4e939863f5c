//! Making, replacing, moving, keeping aside.

use std::io::{Read as _, Write as _};

use super::*;

/// Stages `data` as `n`.
fn stage(f: &Fixture, n: u8, data: &str) {
    let mut stage = f.disk.stage(id(n)).unwrap();
    stage.write_all(data.as_bytes()).unwrap();
    f.disk.staged(stage).unwrap();
}

#[test]
fn a_file_is_staged_placed_and_replaced_whole() {
    everywhere(|f| {
        let root = f.root_dir();
        let file = name("file");
        stage(f, 1, "left over, longer");
        stage(f, 1, "first");
        let found = f.disk.look(Spot::Tmp(id(1))).unwrap().unwrap();
        assert_eq!((found.attrs.mode, found.size), (0o600, 5));
        assert_eq!(f.disk.leftovers().unwrap(), Leftovers { park: vec![], tmp: vec![id(1)] });
        let set = f.disk.set_attrs(Spot::Tmp(id(1)), &attrs(0o4711), &plain()).unwrap();
        assert_eq!(set.attrs, attrs(0o4711));
        f.disk.rename(Spot::Tmp(id(1)), Spot::Entry(&root, &file), false).unwrap();
        assert_eq!(fs::read_to_string(f.path("file")).unwrap(), "first");
        let first = f.found("file");
        assert_eq!((&first.handle, first.attrs), (&found.handle, attrs(0o4711)));
        let mut reader = f.disk.open_file(Spot::Entry(&root, &file)).unwrap().unwrap();
        stage(f, 2, "second");
        let tmp = Spot::Tmp(id(2));
        assert_eq!(errno(f.disk.rename(tmp, Spot::Entry(&root, &file), false)), libc::EEXIST);
        f.disk.rename(tmp, Spot::Entry(&root, &file), true).unwrap();
        assert_eq!(fs::read_to_string(f.path("file")).unwrap(), "second");
        let mut old = String::new();
        reader.read_to_string(&mut old).unwrap();
        assert_eq!(old, "first");
        f.disk.sync_entry(&root, &file).unwrap();
        f.disk.sync().unwrap();
        assert_eq!(f.disk.leftovers().unwrap(), Leftovers::default());
        // A parked directory in the stage's place is not destroyed.
        f.mkdir(&format!(".nearshare/tmp/{}/full", id(3)));
        assert_eq!(errno(f.disk.stage(id(3))), libc::ENOTEMPTY);
    });
}

/// What is put at the two ends of a rename.
const ENDS: [&str; 6] = ["nothing", "file", "link", "fifo", "empty", "full"];

fn put(f: &Fixture, what: &str, at: &str) {
    let root = f.root_dir();
    match what {
        "nothing" => {}
        "file" => f.write(at, "x"),
        "link" => f.symlink("nowhere", at),
        "fifo" => {
            let fifo = object(Kind::Fifo, attrs(0o600));
            f.disk.make(Spot::Entry(&root, &name(at)), &fifo).unwrap();
        }
        "empty" => f.mkdir(at),
        _ => f.mkdir(&format!("{at}/child")),
    }
}

#[test]
fn rename_replaces_like_by_like_and_nothing_else() {
    everywhere(|f| {
        let root = f.root_dir();
        let (from, to) = (name("from"), name("to"));
        for replace in [true, false] {
            for (old, new) in ENDS.iter().flat_map(|old| ENDS.map(|new| (*old, new))) {
                put(f, old, "from");
                put(f, new, "to");
                let is_dir = |what: &str| matches!(what, "empty" | "full");
                let want = match (old, new) {
                    ("nothing", _) => libc::ENOENT,
                    (_, "nothing") => 0,
                    _ if !replace => libc::EEXIST,
                    _ if is_dir(old) && !is_dir(new) => libc::ENOTDIR,
                    _ if !is_dir(old) && is_dir(new) => libc::EISDIR,
                    (_, "full") => libc::ENOTEMPTY,
                    _ => 0,
                };
                let before = f.look("from");
                let other = f.look("to");
                let done = f.disk.rename(Spot::Entry(&root, &from), Spot::Entry(&root, &to), replace);
                let case = format!("{old} to {new}, replace {replace}");
                if want == 0 {
                    done.unwrap();
                    assert_eq!(f.look("from"), None, "{case}");
                    assert_eq!(f.found("to").handle, before.unwrap().handle, "{case}");
                } else {
                    assert_eq!(errno(done), want, "{case}");
                    assert_eq!(f.look("from").map(|f| f.handle), before.map(|f| f.handle), "{case}");
                    assert_eq!(f.look("to").map(|f| f.handle), other.map(|f| f.handle), "{case}");
                }
                for end in ["from", "to"] {
                    let _ = fs::remove_dir_all(f.path(end));
                    let _ = fs::remove_file(f.path(end));
                }
            }
        }
    });
}

#[test]
fn a_rename_onto_another_link_of_the_same_file_takes_the_old_name_away() {
    everywhere(|f| {
        let root = f.root_dir();
        let (a, b) = (name("a"), name("b"));
        f.write("a", "x");
        f.disk.link(Spot::Entry(&root, &a), Spot::Entry(&root, &b)).unwrap();
        f.disk.link(Spot::Entry(&root, &a), Spot::Park(id(1))).unwrap();
        assert_eq!(f.found("a").nlink, 3);
        assert_eq!(f.found("a").handle, f.found("b").handle);
        assert_eq!(errno(f.disk.link(Spot::Entry(&root, &a), Spot::Entry(&root, &b))), libc::EEXIST);
        f.disk.rename(Spot::Entry(&root, &a), Spot::Entry(&root, &b), true).unwrap();
        assert_eq!(f.disk.list(&root).unwrap(), [name("b")]);
        f.disk.rename(Spot::Park(id(1)), Spot::Entry(&root, &b), true).unwrap();
        assert_eq!(f.found("b").nlink, 1);
        // Onto itself it is no change at all, whatever its links.
        f.disk.rename(Spot::Entry(&root, &b), Spot::Entry(&root, &b), true).unwrap();
        f.disk.link(Spot::Entry(&root, &b), Spot::Entry(&root, &a)).unwrap();
        f.disk.rename(Spot::Entry(&f.root_dir(), &b), Spot::Entry(&root, &b), true).unwrap();
        assert_eq!(f.disk.list(&root).unwrap().len(), 2);
    });
}

#[test]
fn links_are_made_of_links_and_not_of_what_they_point_to() {
    everywhere(|f| {
        let root = f.root_dir();
        f.symlink("../outside/secret", "escape");
        let made = name("made");
        f.disk.link(Spot::Entry(&root, &name("escape")), Spot::Entry(&root, &made)).unwrap();
        assert_eq!(f.found("made").kind, Kind::Symlink);
        f.mkdir("dir");
        let denied = f.disk.link(Spot::Entry(&root, &name("dir")), Spot::Entry(&root, &name("dir2")));
        assert_eq!(errno(denied), libc::EPERM);
    });
}

#[test]
fn things_are_made_with_their_attributes_and_never_over_others() {
    everywhere(|f| {
        let root = f.root_dir();
        let owned = Attrs { mode: 0o2751, ..attrs(0) };
        let owned = if is_root() { Attrs { uid: 1234, gid: 5678, ..owned } } else { owned };
        for (kind, n) in [
            (Kind::Directory, "dir"),
            (Kind::Symlink, "link"),
            (Kind::Fifo, "fifo"),
            (Kind::Socket, "socket"),
        ] {
            let mut object = object(kind, owned);
            object.target = b"target \xff".to_vec();
            let n = name(n);
            let spot = Spot::Entry(&root, &n);
            let made = f.disk.make(spot, &object).unwrap();
            assert_eq!(f.disk.look(spot).unwrap().unwrap(), made);
            assert_eq!(made.kind, kind);
            if kind == Kind::Symlink {
                assert_eq!(made.attrs, Attrs { mode: 0o777, ..owned });
                assert_eq!(f.disk.read_link(spot).unwrap(), b"target \xff");
            } else {
                assert_eq!(made.attrs, owned, "{kind:?}");
            }
            assert_eq!(errno(f.disk.make(spot, &object)), libc::EEXIST);
            f.disk.sync_entry(&root, &n).unwrap();
        }
        let file = object(Kind::File, owned);
        assert_eq!(errno(f.disk.make(Spot::Entry(&root, &name("new")), &file)), libc::EINVAL);
        assert_eq!(f.look("new"), None);
        f.disk.sync_entry(&root, &name("new")).unwrap();
    });
}

#[test]
fn attributes_of_a_link_are_its_own() {
    everywhere(|f| {
        f.symlink("../outside/secret", "escape");
        let secret = f.outside().join("secret");
        let before = fs::metadata(&secret).unwrap();
        let root = f.root_dir();
        let want = Attrs { mtime: Timespec { sec: -1, nsec: 999_999_999 }, ..attrs(0o600) };
        let set = f.disk.set_attrs(Spot::Entry(&root, &name("escape")), &want, &plain()).unwrap();
        assert_eq!(set.attrs, Attrs { mode: 0o777, ..want });
        let after = fs::metadata(&secret).unwrap();
        assert_eq!((after.mode(), after.mtime_nsec()), (before.mode(), before.mtime_nsec()));
        assert_eq!(after.ctime_nsec(), before.ctime_nsec());
        let missing = f.disk.set_attrs(Spot::Entry(&root, &name("missing")), &want, &plain());
        assert_eq!(errno(missing), libc::ENOENT);
    });
}

#[test]
fn set_uid_survives_a_new_owner_and_no_change_is_no_change() {
    if !is_root() {
        return skipped("chown takes root");
    }
    everywhere(|f| {
        f.write("file", "x");
        let root = f.root_dir();
        let file = name("file");
        let spot = Spot::Entry(&root, &file);
        for (uid, mode) in [(1, 0o4755), (2, 0o6755), (3, 0o1644), (3, 0o6755), (4, 0o6755)] {
            let want = Attrs { uid, gid: uid + 7, ..attrs(mode) };
            let set = f.disk.set_attrs(spot, &want, &plain()).unwrap();
            assert_eq!(set.attrs, want);
            assert_eq!(f.disk.look(spot).unwrap().unwrap(), set);
            let atime = fs::metadata(f.path("file")).unwrap().atime_nsec();
            assert_eq!(f.disk.set_attrs(spot, &want, &plain()).unwrap().stamp, set.stamp);
            assert_eq!(fs::metadata(f.path("file")).unwrap().atime_nsec(), atime);
        }
    });
}

#[test]
fn removing_takes_one_thing_and_forgives_its_absence() {
    everywhere(|f| {
        let root = f.root_dir();
        for what in ENDS {
            put(f, what, "x");
            let done = f.disk.remove(Spot::Entry(&root, &name("x")));
            if what == "full" {
                assert_eq!(errno(done), libc::ENOTEMPTY);
            } else {
                done.unwrap();
                assert_eq!(f.look("x"), None, "{what}");
            }
        }
        f.symlink("../outside", "out");
        f.disk.remove(Spot::Entry(&root, &name("out"))).unwrap();
        assert!(f.outside().join("secret").exists());
    });
}

#[test]
fn a_parked_directory_is_looked_into() {
    everywhere(|f| {
        f.mkdir("dir/sub");
        f.write("dir/sub/file", "x");
        let root = f.root_dir();
        f.disk.rename(Spot::Entry(&root, &name("dir")), Spot::Park(id(1)), false).unwrap();
        let parked = f.disk.open_at(Spot::Park(id(1))).unwrap().unwrap();
        let sub = f.disk.open_at(Spot::Entry(&parked, &name("sub"))).unwrap().unwrap();
        assert_eq!(f.disk.list(&sub).unwrap(), [name("file")]);
        assert_eq!(f.disk.leftovers().unwrap(), Leftovers { park: vec![id(1)], tmp: vec![] });
        f.disk.rename(Spot::Park(id(1)), Spot::Entry(&root, &name("back")), false).unwrap();
        assert_eq!(fs::read_to_string(f.path("back/sub/file")).unwrap(), "x");
        // The open directory moved along.
        f.disk.remove(Spot::Entry(&sub, &name("file"))).unwrap();
        assert!(!f.path("back/sub/file").exists());
        assert!(f.disk.open_at(Spot::Park(id(1))).unwrap().is_none());
    });
}

#[test]
fn kept_things_are_never_overwritten() {
    everywhere(|f| {
        let root = f.root_dir();
        let label = name("re: port..\u{e9} \n");
        let was = rel("docs").join(label.clone());
        let mut places = Vec::new();
        for n in 0..3 {
            f.write("file", &format!("version {n}"));
            let spot = Spot::Entry(&root, &name("file"));
            places.push(f.disk.keep(spot, &aside(&label, Some(&was))).unwrap());
            assert_eq!(f.look("file"), None);
        }
        f.mkdir("tree/sub");
        f.disk.rename(Spot::Entry(&root, &name("tree")), Spot::Park(id(1)), false).unwrap();
        let tree = f.disk.keep(Spot::Park(id(1)), &aside(&name(&"x".repeat(255)), None)).unwrap();
        assert!(tree.join("sub").is_dir());
        for (n, place) in places.iter().enumerate() {
            assert_eq!(fs::read_to_string(place).unwrap(), format!("version {n}"));
            let dir = place.parent().unwrap();
            let dir_name = dir.file_name().unwrap().to_str().unwrap();
            assert_eq!(dir_name, format!("20261121T120000Z-re__port..____-{}", n + 1));
            let note = fs::read_to_string(dir.join("note")).unwrap();
            let want = "nearshare kept 1\ntime 20261121T120000Z\nreason changed behind the proxy\n\
                        name re: port..\\xc3\\xa9 \\n\npath /docs/re: port..\\xc3\\xa9 \\n\n";
            assert_eq!(note, want);
        }
        let count = || fs::read_dir(f.path(".nearshare/kept")).unwrap().count();
        assert_eq!(count(), 4);
        let missing = f.disk.keep(Spot::Entry(&root, &name("gone")), &aside(&name("gone"), None));
        assert_eq!(errno(missing), libc::ENOENT);
        assert_eq!(count(), 4);
    });
}

#[test]
fn a_missing_directory_below_an_open_one_is_an_error_not_a_panic() {
    everywhere(|f| {
        f.mkdir("dir");
        let dir = f.dir("dir");
        fs::remove_dir(f.path("dir")).unwrap();
        let spot = Spot::Entry(&dir, &name("x"));
        assert_eq!(f.disk.look(spot).unwrap(), None);
        assert_eq!(f.disk.list(&dir).unwrap(), []);
        f.disk.remove(spot).unwrap();
        let made = f.disk.make(spot, &object(Kind::Directory, attrs(0o755)));
        assert_eq!(errno(made), libc::ENOENT);
        stage(f, 1, "x");
        assert_eq!(errno(f.disk.rename(Spot::Tmp(id(1)), spot, true)), libc::ENOENT);
    });
}
