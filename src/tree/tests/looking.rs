//! Looks, lists, handles.

use std::io::{Read as _, Seek as _};

use super::*;

#[test]
fn a_look_tells_every_kind_and_attribute() {
    everywhere(|f| {
        f.write("file", "12345");
        f.mkdir("dir");
        f.symlink("anywhere/at all", "link");
        let root = f.root_dir();
        let make = |kind, n: &str| {
            f.disk.make(Spot::Entry(&root, &name(n)), &object(kind, attrs(0o640))).unwrap()
        };
        make(Kind::Fifo, "fifo");
        make(Kind::Socket, "socket");
        let meta = fs::metadata(f.path("file")).unwrap();
        let found = f.found("file");
        assert_eq!(found.kind, Kind::File);
        assert_eq!((found.size, found.nlink, found.rdev), (5, 1, 0));
        assert_eq!(found.attrs.mode, meta.mode() & 0o7777);
        assert_eq!((found.attrs.uid, found.attrs.gid), (meta.uid(), meta.gid()));
        assert_eq!(found.attrs.mtime.as_nanos(), meta.mtime() * 1_000_000_000 + meta.mtime_nsec());
        assert_eq!(found.stamp.ctime.as_nanos(), meta.ctime() * 1_000_000_000 + meta.ctime_nsec());
        assert_eq!((found.stamp.size, found.stamp.mtime), (5, found.attrs.mtime));
        assert_eq!(f.found("dir").kind, Kind::Directory);
        assert_eq!(f.found("link").kind, Kind::Symlink);
        assert_eq!(f.found("fifo").kind, Kind::Fifo);
        assert_eq!(f.found("socket").kind, Kind::Socket);
        let link = Spot::Entry(&root, &name("link"));
        assert_eq!(f.disk.read_link(link).unwrap(), b"anywhere/at all");
        assert_eq!(errno(f.disk.read_link(Spot::Entry(&root, &name("file")))), libc::EINVAL);
        assert_eq!(f.look("nothing"), None);
        let dir = f.dir("dir");
        assert_eq!(f.disk.dir_found(&dir).unwrap(), f.found("dir"));
    });
}

#[test]
fn devices_keep_their_numbers() {
    if !is_root() {
        return skipped("mknod of devices takes root");
    }
    everywhere(|f| {
        let root = f.root_dir();
        for (kind, n) in [(Kind::Char, "null"), (Kind::Block, "disk")] {
            let mut object = object(kind, attrs(0o600));
            object.rdev = libc::makedev(259, 70_000);
            let made = f.disk.make(Spot::Entry(&root, &name(n)), &object).unwrap();
            assert_eq!((made.kind, made.rdev), (kind, object.rdev));
            assert_eq!(fs::symlink_metadata(f.path(n)).unwrap().rdev(), object.rdev);
            assert!(f.disk.open_file(Spot::Entry(&root, &name(n))).unwrap().is_none());
            f.disk.sync_entry(&root, &name(n)).unwrap();
        }
    });
}

#[test]
fn names_of_all_bytes_and_lengths_are_listed_as_they_are() {
    everywhere(|f| {
        let mut want: Vec<Name> = (1..=255u8)
            .filter(|byte| *byte != b'/')
            .map(|byte| Name::new(&[b'x', byte, b'y']).unwrap())
            .collect();
        for text in ["...", " ", "..nearshare", ".nearshare2", "日本語", "e\u{301}", "\u{e9}"] {
            want.push(name(text));
        }
        want.push(Name::new(&[b'l'; 255]).unwrap());
        want.push(Name::new(b"\xff\xfe\xfd").unwrap());
        for each in &want {
            fs::write(f.root.join(each.as_os_str()), each.as_bytes()).unwrap();
        }
        let root = f.root_dir();
        let mut got = f.disk.list(&root).unwrap();
        got.sort();
        want.sort();
        assert_eq!(got, want);
        for each in &want {
            let found = f.disk.look(Spot::Entry(&root, each)).unwrap().unwrap();
            assert_eq!(found.size, each.as_bytes().len() as u64, "{each}");
            let path = RelPath::new(vec![each.clone()]).unwrap();
            let Resolved::Entry { found: Some(again), .. } = f.disk.resolve(&path, true).unwrap() else {
                panic!("{each}");
            };
            assert_eq!(again, found);
            assert_eq!(f.disk.contains(&path, false).unwrap(), Contains::Inside);
            f.disk.remove(Spot::Entry(&root, each)).unwrap();
        }
        assert_eq!(f.disk.list(&root).unwrap(), []);
    });
}

#[test]
fn a_large_directory_is_listed_whole_and_twice_at_once() {
    let f = Fixture::new();
    f.mkdir("many");
    for n in 0..5_000 {
        f.write(&format!("many/a name of some length {n}"), "");
    }
    let dir = f.dir("many");
    std::thread::scope(|scope| {
        let lists: Vec<_> = (0..2).map(|_| scope.spawn(|| f.disk.list(&dir).unwrap())).collect();
        for list in lists {
            let names: std::collections::HashSet<_> = list.join().unwrap().into_iter().collect();
            assert_eq!(names.len(), 5_000);
        }
    });
}

#[test]
fn ours_is_in_no_look_and_no_listing() {
    everywhere(|f| {
        let root = f.root_dir();
        let ours = name(".nearshare");
        let spot = Spot::Entry(&root, &ours);
        assert_eq!(f.disk.list(&root).unwrap(), []);
        assert_eq!(f.disk.look(spot).unwrap(), None);
        assert!(f.disk.open_at(spot).unwrap().is_none());
        assert!(f.disk.open_file(spot).unwrap().is_none());
        assert_eq!(errno(f.disk.remove(spot)), libc::EPERM);
        assert_eq!(errno(f.disk.set_attrs(spot, &attrs(0o777), &plain())), libc::EPERM);
        assert_eq!(errno(f.disk.rename(spot, Spot::Park(id(1)), true)), libc::EPERM);
        assert_eq!(errno(f.disk.keep(spot, &aside(&name("x"), None))), libc::EPERM);
    });
}

#[test]
fn only_regular_files_are_opened() {
    everywhere(|f| {
        f.write("file", "content");
        f.symlink("file", "link");
        f.mkdir("dir");
        let root = f.root_dir();
        f.disk.make(Spot::Entry(&root, &name("fifo")), &object(Kind::Fifo, attrs(0o600))).unwrap();
        f.disk.make(Spot::Entry(&root, &name("sock")), &object(Kind::Socket, attrs(0o600))).unwrap();
        for n in ["link", "dir", "fifo", "sock", "missing"] {
            assert!(f.disk.open_file(Spot::Entry(&root, &name(n))).unwrap().is_none(), "{n}");
        }
        let mut file = f.disk.open_file(Spot::Entry(&root, &name("file"))).unwrap().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        file.rewind().unwrap();
        assert_eq!(text, "content");
        assert_eq!(f.disk.file_found(&file).unwrap(), f.found("file"));
        // The descriptor stays with the file it opened.
        f.write("other", "other");
        fs::rename(f.path("other"), f.path("file")).unwrap();
        assert_ne!(f.disk.file_found(&file).unwrap().handle, f.found("file").handle);
    });
}

#[test]
fn a_handle_lives_through_renames_and_dies_with_the_last_link() {
    if !is_root() {
        return skipped("opening by handle takes root");
    }
    everywhere(|f| {
        f.mkdir("a/b");
        f.write("a/file", "x");
        let file = f.found("a/file").handle;
        let dir = f.found("a/b").handle;
        assert_eq!(f.disk.alive(&file).unwrap(), Alive::Yes(f.found("a/file"), Some(rel("a/file"))));
        fs::rename(f.path("a"), f.path("c")).unwrap();
        fs::rename(f.path("c/file"), f.path("c/b/renamed")).unwrap();
        assert_eq!(f.found("c/b/renamed").handle, file);
        let Alive::Yes(found, path) = f.disk.alive(&file).unwrap() else { panic!() };
        assert_eq!((found, path), (f.found("c/b/renamed"), Some(rel("c/b/renamed"))));
        let Alive::Yes(_, path) = f.disk.alive(&dir).unwrap() else { panic!() };
        assert_eq!(path, Some(rel("c/b")));
        // A second link keeps it alive.
        fs::hard_link(f.path("c/b/renamed"), f.path("link")).unwrap();
        fs::remove_file(f.path("c/b/renamed")).unwrap();
        let Alive::Yes(found, path) = f.disk.alive(&file).unwrap() else { panic!() };
        assert_eq!(found.nlink, 1);
        assert!(path.is_none() || path == Some(rel("link")), "{path:?}");
        // Unlinked but still open somewhere is gone as well.
        let open = fs::File::open(f.path("link")).unwrap();
        fs::remove_file(f.path("link")).unwrap();
        assert_eq!(f.disk.alive(&file).unwrap(), Alive::Gone);
        drop(open);
        assert_eq!(f.disk.alive(&file).unwrap(), Alive::Gone);
        fs::remove_dir(f.path("c/b")).unwrap();
        assert_eq!(f.disk.alive(&dir).unwrap(), Alive::Gone);
        // A new file has a new handle, whatever its inode number.
        f.write("link", "y");
        assert_ne!(f.found("link").handle, file);
        assert_eq!(f.disk.alive(&file).unwrap(), Alive::Gone);
    });
}

#[test]
fn a_handle_that_is_asked_for_while_it_dies_is_alive_or_gone() {
    if !is_root() {
        return skipped("opening by handle takes root");
    }
    everywhere(|f| {
        for round in 0..300 {
            f.mkdir("d");
            f.write("d/file", "x");
            let handles = [f.found("d").handle, f.found("d/file").handle];
            std::thread::scope(|scope| {
                scope.spawn(|| fs::remove_dir_all(f.path("d")).unwrap());
                for handle in &handles {
                    scope.spawn(|| {
                        while f.disk.alive(handle).unwrap_or_else(|e| panic!("{round}: {e}"))
                            != Alive::Gone
                        {}
                        let path = || Some(rel("d"));
                        let place = Place { handle, path: &path };
                        assert!(f.disk.open_dir(&place).unwrap().is_none());
                    });
                }
            });
        }
    });
}

#[test]
fn what_left_the_share_is_alive_without_a_place() {
    if !is_root() {
        return skipped("opening by handle takes root");
    }
    everywhere(|f| {
        f.mkdir("dir/sub");
        f.write("file", "x");
        f.write("dir (deleted)", "a real name");
        let sub = f.found("dir/sub").handle;
        let handles = [f.found("dir").handle, f.found("file").handle];
        let odd = f.found("dir (deleted)").handle;
        let Alive::Yes(_, path) = f.disk.alive(&odd).unwrap() else { panic!() };
        assert_eq!(path, Some(rel("dir (deleted)")));
        fs::rename(f.path("dir"), f.outside().join("dir")).unwrap();
        fs::rename(f.path("file"), f.path(".nearshare/park/file")).unwrap();
        for handle in &handles {
            let Alive::Yes(_, path) = f.disk.alive(handle).unwrap() else { panic!() };
            assert_eq!(path, None);
        }
        // A directory outside is not entered by its handle.
        for handle in [&handles[0], &sub] {
            let place = Place { handle, path: &|| Some(rel("dir")) };
            assert!(f.disk.open_dir(&place).unwrap().is_none());
        }
        // One in the park is, one kept aside is not.
        fs::rename(f.outside().join("dir"), f.path(".nearshare/park/dir")).unwrap();
        let place = Place { handle: &sub, path: &|| None };
        assert!(f.disk.open_dir(&place).unwrap().is_some());
        fs::rename(f.path(".nearshare/park/dir"), f.path(".nearshare/kept/dir")).unwrap();
        assert!(f.disk.open_dir(&place).unwrap().is_none());
    });
}

#[test]
fn directories_are_opened_by_handle_or_by_a_checked_path() {
    everywhere(|f| {
        f.mkdir("a/b/c");
        f.write("a/b/c/inside", "");
        f.write("file", "");
        let handle = f.found("a/b/c").handle;
        let bare = Disk::open_with(&spec(&f.root), clock(), BARE).unwrap();
        assert_eq!(bare.alive(&handle).unwrap(), Alive::Unknown);
        let open = |disk: &Disk, handle: &LocalHandle, path: Option<&str>| {
            let place = Place { handle, path: &|| path.map(rel) };
            disk.open_dir(&place).unwrap().map(|dir| disk.list(&dir).unwrap())
        };
        let want = Some(vec![name("inside")]);
        assert_eq!(open(&bare, &handle, Some("a/b/c")), want);
        assert_eq!(open(&bare, &handle, Some("a/b")), None);
        assert_eq!(open(&bare, &handle, None), None);
        let root = bare.dir_found(&bare.root().unwrap()).unwrap().handle;
        assert_eq!(open(&bare, &root, Some("")).unwrap().len(), 2);
        if is_root() {
            assert_eq!(open(&f.disk, &handle, None), want);
            assert_eq!(open(&f.disk, &root, None).unwrap().len(), 2);
            assert_eq!(open(&f.disk, &f.found("file").handle, None), None);
        }
        fs::rename(f.path("a/b"), f.path("moved")).unwrap();
        assert_eq!(open(&bare, &handle, Some("a/b/c")), None);
        // Another directory at the hinted path is not taken for it.
        f.mkdir("a/b/c");
        assert_eq!(open(&bare, &handle, Some("a/b/c")), None);
        assert_eq!(open(&bare, &handle, Some("moved/c")), want);
        if is_root() {
            assert_eq!(open(&f.disk, &handle, Some("a/b/c")), want);
        }
        fs::remove_dir_all(f.path("moved")).unwrap();
        assert_eq!(open(&bare, &handle, Some("moved/c")), None);
        if is_root() {
            assert_eq!(open(&f.disk, &handle, None), None);
        }
        // A moved root changes nothing for an open tree.
        let handle = f.found("a/b/c").handle;
        fs::rename(&f.root, f.base.path().join("away")).unwrap();
        assert_eq!(open(&bare, &handle, Some("a/b/c")), Some(vec![]));
        if is_root() {
            assert_eq!(open(&f.disk, &handle, None), Some(vec![]));
        }
    });
}

#[test]
fn handles_of_nobody_are_refused_by_name() {
    let f = Fixture::new();
    for bytes in [&b""[..], b"\0\0\0\0\0", b"\0\x01\0\0\0\x01abcdefgh", &[0; 135]] {
        let error = f.disk.alive(&LocalHandle::from_bytes(bytes)).unwrap_err().to_string();
        assert!(error.contains("another release"), "{error}");
    }
    if is_root() {
        // Well-formed, and of an inode that never was.
        let mut bytes = f.disk.dir_found(&f.root_dir()).unwrap().handle.as_bytes().to_vec();
        bytes[6..].fill(0x7f);
        assert_eq!(f.disk.alive(&LocalHandle::from_bytes(&bytes)).unwrap(), Alive::Gone);
    }
}

#[test]
fn trees_deeper_than_any_path_are_reached() {
    everywhere(|f| {
        let long = Name::new(&[b'd'; 250]).unwrap();
        let mut dir = f.root_dir();
        for _ in 0..40 {
            let spot = Spot::Entry(&dir, &long);
            f.disk.make(spot, &object(Kind::Directory, attrs(0o755))).unwrap();
            dir = f.disk.open_at(spot).unwrap().unwrap();
        }
        let bottom = f.disk.dir_found(&dir).unwrap();
        if is_root() {
            let place = Place { handle: &bottom.handle, path: &|| None };
            let again = f.disk.open_dir(&place).unwrap().unwrap();
            assert_eq!(f.disk.dir_found(&again).unwrap(), bottom);
            let alive = f.disk.alive(&bottom.handle).unwrap();
            assert_eq!(alive, Alive::Yes(bottom.clone(), None));
            // The same depth outside is told apart.
            fs::rename(f.root.join(long.as_os_str()), f.outside().join("deep")).unwrap();
            assert!(f.disk.open_dir(&place).unwrap().is_none());
            fs::rename(f.outside().join("deep"), f.root.join(long.as_os_str())).unwrap();
        }
        // Errors down there still say something.
        let missing = f.disk.read_link(Spot::Entry(&dir, &name("x"))).unwrap_err().to_string();
        assert!(missing.contains("deep"), "{missing}");
    });
}

#[test]
fn a_look_under_fire_never_mixes_two_inodes() {
    // Two files of different sizes take turns at one name. Handle and size must belong together.
    everywhere(|f| {
        f.write("a", "a");
        f.write("b", "bb");
        let sizes = [(f.found("a").handle, 1), (f.found("b").handle, 2)];
        let root = f.root_dir();
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    let (a, b) = (f.path("a"), f.path("b"));
                    rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, flags).unwrap();
                }
            });
            for _ in 0..20_000 {
                let found = f.disk.look(Spot::Entry(&root, &name("a"))).unwrap().unwrap();
                assert!(sizes.contains(&(found.handle.clone(), found.size)), "{found:?}");
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    });
}

#[test]
fn the_disk_is_read_as_the_bytes_it_holds() {
    let f = Fixture::new();
    let data: Vec<u8> = (0..3_000_000u32).map(|n| (n ^ (n >> 8)) as u8).collect();
    fs::write(f.path("big"), &data).unwrap();
    let root = f.root_dir();
    let mut file = f.disk.open_file(Spot::Entry(&root, &name("big"))).unwrap().unwrap();
    let size = data.len() as u64;
    let got = content::hash_sparse(&mut file, size, &mut vec![0; 1 << 20]).unwrap();
    assert_eq!(got, content::hash_bytes(&data));
}
