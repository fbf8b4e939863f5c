//! Mounts over and inside the root, full and foreign file systems, and a process without rights.
//! Mounts are made in a mount namespace of the test's own thread.

use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::process::Command;

use rustix::fs::{Gid, Uid};

use super::*;

/// Runs `test` on a thread whose mounts nobody else sees.
pub(super) fn with_mounts(test: impl FnOnce(&Fixture) + Send + 'static) {
    if !is_root() {
        return skipped("mounting takes root");
    }
    let run = move || {
        // SAFETY: `unshare` gives only this thread, which ends with the test, a namespace of its own.
        let done = unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) };
        if done != 0 {
            return skipped(format_args!("no mounts here: {}", io::Error::last_os_error()));
        }
        mount(&["--make-rprivate", "/"]);
        test(&Fixture::new());
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// mount(8) is a child of this thread and shares its namespace.
pub(super) fn mount(args: &[&str]) {
    let done = Command::new("mount").args(args).output().unwrap();
    assert!(done.status.success(), "mount {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

pub(super) fn umount(path: &Path) {
    assert!(Command::new("umount").arg("-l").arg(path).status().unwrap().success());
}

#[test]
fn a_file_system_mounted_over_the_root_is_noticed() {
    with_mounts(|f| {
        f.write("mine", "x");
        let root = f.root_dir();
        let at = f.root.to_str().unwrap();
        mount(&["-t", "tmpfs", "none", at]);
        assert!(why(f.disk.check()).contains("empty"));
        fs::write(f.path("foreign"), "x").unwrap();
        assert!(why(f.disk.check()).contains("no .nearshare/marker"));
        // The open tree still shows the share, never the foreign files.
        assert_eq!(f.disk.list(&root).unwrap(), [name("mine")]);
        // A server does not, and what it finds is not taken for the share's.
        let mine = f.found("mine");
        fs::write(f.path("mine"), "x").unwrap();
        assert_eq!(f.disk.by_names(&rel("mine")), None);
        assert!(!f.disk.is_still(&rel("mine"), &mine));
        umount(&f.root);
        f.disk.check().unwrap();
        assert_eq!(f.disk.by_names(&rel("mine")), Some(mine));
    });
}

#[test]
fn an_unmounted_share_is_not_an_empty_one() {
    with_mounts(|f| {
        let point = f.base.path().join("point");
        fs::create_dir(&point).unwrap();
        mount(&["-t", "tmpfs", "none", point.to_str().unwrap()]);
        let disk = Disk::open(&spec(&point), clock()).unwrap();
        umount(&point);
        let found = why(disk.check());
        assert!(found.contains("not mounted") && found.contains("mount or restore"), "{found}");
        let spec = RootSpec { marker: Some(disk.marker()), ..spec(&point) };
        assert!(why(Disk::open(&spec, clock())).contains("not mounted"));
    });
}

#[test]
fn mounts_inside_the_share_are_not_entered() {
    with_mounts(|f| {
        f.mkdir("dir/mounted");
        f.mkdir("dir/bind");
        f.mkdir("dir/mounted/hidden");
        f.write("dir/file", "x");
        f.symlink("dir/mounted/inner", "to-inner");
        let hidden = f.found("dir/mounted/hidden").handle;
        mount(&["-t", "tmpfs", "none", f.path("dir/mounted").to_str().unwrap()]);
        mount(&["--bind", f.outside().to_str().unwrap(), f.path("dir/bind").to_str().unwrap()]);
        let file = f.outside().join("secret");
        mount(&["--bind", file.to_str().unwrap(), f.path("dir/file").to_str().unwrap()]);
        f.write("dir/mounted/inner", "x");
        let dir = f.dir("dir");
        for n in ["mounted", "bind", "file"] {
            let n = name(n);
            let spot = Spot::Entry(&dir, &n);
            assert_eq!(f.disk.look(spot).unwrap(), None, "{n}");
            assert!(f.disk.open_at(spot).unwrap().is_none(), "{n}");
            assert!(f.disk.open_file(spot).unwrap().is_none(), "{n}");
            assert!(f.disk.set_attrs(spot, &attrs(0o777), &plain()).is_err(), "{n}");
            assert_eq!(errno(f.disk.remove(spot)), libc::EBUSY, "{n}");
            assert_eq!(errno(f.disk.rename(spot, Spot::Park(id(1)), true)), libc::EBUSY, "{n}");
            assert_eq!(errno(f.disk.keep(spot, &aside(&name("x"), None))), libc::EBUSY, "{n}");
            f.disk.sync_entry(&dir, &n).unwrap();
        }
        assert_eq!(fs::read_dir(f.path(".nearshare/kept")).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(file).unwrap(), "secret");
        let inside = ["dir/mounted/inner", "dir/mounted/new", "dir/bind/secret", "to-inner"];
        for path in inside.into_iter().chain(["dir/mounted", "dir/file"]) {
            assert_eq!(f.contains(path), Contains::Outside, "{path}");
            assert_eq!(f.resolve(path, true), Resolved::Outside, "{path}");
        }
        // What lies below a mount point is not reached by its handle either.
        let place = Place { handle: &hidden, path: &|| Some(rel("dir/mounted/hidden")) };
        assert!(f.disk.open_dir(&place).unwrap().is_none());
    });
}

#[test]
fn what_is_mounted_inside_is_told_until_it_is_away() {
    with_mounts(|f| {
        let told = || f.disk.left_out();
        let sentence = |path: &str| format!("{path}, where another file system is mounted");
        f.mkdir("dir/in ner");
        f.mkdir("top");
        assert!(told().is_empty(), "{:?}", told());
        for at in ["top", "dir/in ner"] {
            mount(&["-t", "tmpfs", "none", f.path(at).to_str().unwrap()]);
        }
        assert_eq!(told(), [sentence("/dir/in ner"), sentence("/top")]);
        umount(&f.path("top"));
        assert_eq!(told(), [sentence("/dir/in ner")]);
        // By where it is now, and so is the share.
        fs::rename(f.path("dir"), f.path("moved")).unwrap();
        fs::rename(&f.root, f.base.path().join("elsewhere")).unwrap();
        assert_eq!(told(), [sentence("/moved/in ner")]);
        fs::rename(f.base.path().join("elsewhere"), &f.root).unwrap();
        umount(&f.path("moved/in ner"));
        assert!(told().is_empty(), "{:?}", told());
    });
}

#[test]
fn the_first_mount_that_is_met_is_in_the_log() {
    with_mounts(|f| {
        for at in ["first", "second"] {
            f.mkdir(at);
            mount(&["--bind", f.outside().to_str().unwrap(), f.path(at).to_str().unwrap()]);
        }
        let look = |path: &str| logged(|| assert_eq!(f.look(path), None));
        let why = "another file system is mounted in the share; such are not copied";
        let line =
            format!(" WARN nearshare::tree::disk: {why} path=\"{}\"\n", f.path("first").display());
        assert_eq!(look("first"), line);
        assert_eq!(look("first") + &look("second"), "");
    });
}

#[test]
fn of_very_many_mounts_some_are_named() {
    with_mounts(|f| {
        for n in 0..18 {
            let path = format!("{n:02}");
            f.mkdir(&path);
            mount(&["--bind", f.outside().to_str().unwrap(), f.path(&path).to_str().unwrap()]);
        }
        let told = f.disk.left_out();
        assert_eq!(told.len(), 17, "{told:?}");
        assert_eq!(told[15], "/15, where another file system is mounted");
        assert_eq!(told[16], "2 more mount points");
    });
}

#[test]
fn a_bind_mounted_share_does_not_reach_out_by_handle() {
    with_mounts(|f| {
        // Outside, at the very path that the share's own name would have on the whole file system.
        let bind = f.base.path().join("bind");
        fs::create_dir(&bind).unwrap();
        f.mkdir("exported/dir");
        f.mkdir("private");
        let private = f.found("private").handle;
        let dir = f.found("exported/dir").handle;
        let exported = f.path("exported");
        mount(&["--bind", exported.to_str().unwrap(), bind.to_str().unwrap()]);
        let disk = Disk::open(&spec(&bind), clock()).unwrap();
        let open = |handle| disk.open_dir(&Place { handle, path: &|| None }).unwrap();
        assert!(open(&dir).is_some());
        assert!(open(&private).is_none());
        let Alive::Yes(_, path) = disk.alive(&private).unwrap() else { panic!() };
        assert_eq!(path, None);
        let Alive::Yes(_, path) = disk.alive(&dir).unwrap() else { panic!() };
        assert_eq!(path, Some(rel("dir")));
    });
}

#[test]
fn a_file_system_without_handles_is_refused_with_what_would_be_right() {
    with_mounts(|f| {
        let dirs = ["lower", "upper", "work", "merged"].map(|n| f.outside().join(n));
        dirs.iter().for_each(|dir| fs::create_dir(dir).unwrap());
        let [lower, upper, work, merged] = dirs.each_ref().map(|dir| dir.to_str().unwrap());
        let layers = format!("lowerdir={lower},upperdir={upper},workdir={work}");
        let plain = format!("{layers},index=off,nfs_export=off");
        mount(&["-t", "overlay", "overlay", "-o", &plain, merged]);
        let found = why(Disk::open(&spec(&dirs[3]), clock()));
        assert!(found.contains("nfs_export=on"), "{found}");
        assert!(!dirs[3].join(".nearshare").exists());
        umount(&dirs[3]);
        let full = format!("{layers},index=on,nfs_export=on");
        mount(&["-t", "overlay", "overlay", "-o", &full, merged]);
        let disk = Disk::open(&spec(&dirs[3]), clock()).unwrap();
        fs::write(dirs[3].join("file"), "x").unwrap();
        let root = disk.root().unwrap();
        let found = disk.look(Spot::Entry(&root, &name("file"))).unwrap().unwrap();
        assert_eq!(disk.alive(&found.handle).unwrap(), Alive::Yes(found, Some(rel("file"))));
    });
}

#[test]
fn a_full_disk_refuses_and_keeps_what_was_there() {
    with_mounts(|f| {
        let image = f.outside().join("image");
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        let image = image.to_str().unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "0", image]).status().unwrap();
        assert!(made.success());
        let small = f.outside().join("small");
        fs::create_dir(&small).unwrap();
        mount(&["-o", "loop", image, small.to_str().unwrap()]);
        let disk = Disk::open(&spec(&small), clock()).unwrap();
        let root = disk.root().unwrap();
        fs::write(small.join("old"), "old").unwrap();
        let mut stage = disk.stage(id(1)).unwrap();
        let full = loop {
            if let Err(error) = stage.write_all(&[7; 64 << 10]).and_then(|()| stage.sync_data()) {
                break error;
            }
        };
        assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
        disk.staged(stage).unwrap();
        // New directories need a block each; in the end none is left.
        let mut n = 0;
        let refused = loop {
            n += 1;
            let made = name(&n.to_string());
            let dir = object(Kind::Directory, attrs(0o755));
            if let Err(error) = disk.make(Spot::Entry(&root, &made), &dir) {
                break errno(Err::<(), _>(error));
            }
        };
        assert_eq!(refused, libc::ENOSPC);
        let old = name("old");
        assert_eq!(errno(disk.keep(Spot::Entry(&root, &old), &aside(&old, None))), libc::ENOSPC);
        assert_eq!(fs::read_dir(small.join(".nearshare/kept")).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(small.join("old")).unwrap(), "old");
        // Removing, looking and setting attributes still pass, and then there is room again.
        disk.set_attrs(Spot::Entry(&root, &old), &attrs(0o600), &plain()).unwrap();
        disk.remove(Spot::Tmp(id(1))).unwrap();
        disk.keep(Spot::Entry(&root, &old), &aside(&old, None)).unwrap();
        disk.sync().unwrap();
        drop((root, disk));
        umount(&small);
    });
}

#[test]
fn a_process_without_rights_says_what_it_leaves_out() {
    if !is_root() {
        return skipped("becoming another user takes root");
    }
    let run = || {
        let base = TempDir::with_prefix_in("tree-", homes().next().unwrap()).unwrap();
        let path = base.path().join("share");
        fs::create_dir(&path).unwrap();
        for dir in [base.path(), &path] {
            std::os::unix::fs::chown(dir, Some(65534), Some(65534)).unwrap();
        }
        fs::write(base.path().join("theirs"), "x").unwrap();
        let base_fd = fs::File::open(base.path()).unwrap();
        // Of this thread alone, which ends with the test.
        let (uid, gid) = (Uid::from_raw(65534), Gid::from_raw(65534));
        rustix::thread::set_thread_groups(&[]).unwrap();
        rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
        rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
        let disk = Disk::open(&spec(&path), clock()).unwrap();
        assert_eq!(disk.limits(), BARE);
        disk.check().unwrap();
        let root = disk.root().unwrap();
        let n = name("dir");
        let spot = Spot::Entry(&root, &n);
        let wanted = Attrs { uid: 1, gid: 2, ..attrs(0o2751) };
        let made = disk.make(spot, &object(Kind::Directory, wanted)).unwrap();
        assert_eq!((made.attrs.uid, made.attrs.gid), (65534, 65534));
        assert_eq!((made.attrs.mode, made.attrs.mtime), (0o2751, wanted.mtime));
        let dir = disk.open_dir(&Place { handle: &made.handle, path: &|| Some(rel("dir")) });
        assert_eq!(disk.dir_found(&dir.unwrap().unwrap()).unwrap(), made);
        assert_eq!(disk.alive(&made.handle).unwrap(), Alive::Unknown);
        let device = Object { rdev: libc::makedev(1, 3), ..object(Kind::Char, attrs(0o600)) };
        assert_eq!(errno(disk.make(Spot::Entry(&root, &name("null")), &device)), libc::EPERM);
        fs::write(path.join("file"), "x").unwrap();
        let file = name("file");
        assert!(disk.open_file(Spot::Entry(&root, &file)).unwrap().is_some());
        disk.keep(Spot::Entry(&root, &file), &aside(&file, None)).unwrap();
        disk.sync().unwrap();
        // Another user's file can be read, but its access time is theirs to keep.
        let file = look::file(base_fd.as_fd(), c"theirs").unwrap().unwrap();
        assert_eq!(file.metadata().unwrap().uid(), 0);
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}
