//! Which directory is the share's, and which only looks like it (R28).

use super::*;

fn check_all(root: &Path, disk: &Disk, id: [u8; 16], want: &str) {
    let found = why(disk.check());
    assert!(found.contains(want), "{found}");
    let spec = RootSpec { marker: Some(id), ..spec(root) };
    let found = why(Disk::open(&spec, clock()));
    assert!(found.contains(want), "{found}");
    assert!(found.contains(root.to_str().unwrap()), "{found}");
}

#[test]
fn the_first_start_makes_a_marker_and_later_ones_want_it() {
    everywhere(|f| {
        let id = f.disk.marker();
        f.disk.check().unwrap();
        for room in ["", "park", "tmp", "kept"] {
            let meta = fs::metadata(f.path(".nearshare").join(room)).unwrap();
            assert_eq!(meta.mode() & 0o7777, 0o700, "{room}");
        }
        for marker in [None, Some(id)] {
            let spec = RootSpec { marker, ..spec(&f.root) };
            assert_eq!(Disk::open(&spec, clock()).unwrap().marker(), id);
        }
        assert_ne!(Fixture::new().disk.marker(), id);
    });
}

#[test]
fn a_crash_while_the_marker_is_made_leaves_none_or_a_whole_one() {
    let f = Fixture::new();
    fs::remove_dir_all(f.path(".nearshare")).unwrap();
    fs::DirBuilder::new().create(f.path(".nearshare")).unwrap();
    fs::set_permissions(f.path(".nearshare"), PermissionsExt::from_mode(0o700)).unwrap();
    f.write(".nearshare/marker.new", "nearshare mar");
    let disk = Disk::open(&spec(&f.root), clock()).unwrap();
    disk.check().unwrap();
    assert!(!f.path(".nearshare/marker.new").exists());
}

#[test]
fn a_directory_that_is_not_the_share_says_why() {
    everywhere(|f| {
        let id = f.disk.marker();
        let away = f.base.path().join("away");
        fs::rename(&f.root, &away).unwrap();
        check_all(&f.root, &f.disk, id, "does not exist");
        fs::write(&f.root, "").unwrap();
        check_all(&f.root, &f.disk, id, "not a directory");
        fs::remove_file(&f.root).unwrap();
        fs::create_dir(&f.root).unwrap();
        check_all(&f.root, &f.disk, id, "empty");
        fs::write(f.path("something"), "").unwrap();
        check_all(&f.root, &f.disk, id, "no .nearshare/marker");
        Disk::open(&spec(&f.root), clock()).unwrap();
        check_all(&f.root, &f.disk, id, "the catalog knows");
        fs::write(f.path(".nearshare/marker"), "garbage").unwrap();
        check_all(&f.root, &f.disk, id, "damaged or of a newer");
        let mine = fs::read_to_string(away.join(".nearshare/marker")).unwrap();
        fs::write(f.path(".nearshare/marker"), mine.replace("site hq", "site lyon")).unwrap();
        check_all(&f.root, &f.disk, id, "at site lyon");
        fs::write(f.path(".nearshare/marker"), mine.replace("share eng", "share ops")).unwrap();
        check_all(&f.root, &f.disk, id, "of share ops");
        // A copy of the whole tree, marker and all, put in the old one's place.
        fs::write(f.path(".nearshare/marker"), mine).unwrap();
        assert!(why(f.disk.check()).contains("another directory with the same marker"));
        // And back.
        fs::remove_dir_all(&f.root).unwrap();
        fs::rename(&away, &f.root).unwrap();
        f.disk.check().unwrap();
    });
}

#[test]
fn a_swapped_directory_is_never_read() {
    everywhere(|f| {
        f.write("mine", "mine");
        let root = f.root_dir();
        fs::rename(&f.root, f.base.path().join("away")).unwrap();
        fs::create_dir(&f.root).unwrap();
        f.write("foreign", "foreign");
        for dir in [root, f.root_dir()] {
            assert_eq!(f.disk.list(&dir).unwrap(), [name("mine")]);
            assert_eq!(f.disk.look(Spot::Entry(&dir, &name("foreign"))).unwrap(), None);
        }
    });
}

#[test]
fn a_replaced_nearshare_directory_is_noticed() {
    let f = Fixture::new();
    let marker = fs::read(f.path(".nearshare/marker")).unwrap();
    fs::rename(f.path(".nearshare"), f.outside().join("old")).unwrap();
    f.mkdir(".nearshare");
    fs::write(f.path(".nearshare/marker"), marker).unwrap();
    assert!(why(f.disk.check()).contains("was replaced"));
}

#[test]
fn a_nearshare_directory_that_others_may_enter_is_refused() {
    let f = Fixture::new();
    fs::set_permissions(f.path(".nearshare"), PermissionsExt::from_mode(0o755)).unwrap();
    let refused = || Disk::open(&spec(&f.root), clock()).map(drop).unwrap_err();
    let error = refused();
    assert!(matches!(error, TreeError::NotOurs { mode: 0o755, .. }), "{error:?}");
    // What is said helps: it names the commands, and the directory that is meant.
    let fix = format!("`chmod 700 {}`", f.path(".nearshare").display());
    assert!(error.to_string().contains(&fix), "{error}");
    fs::set_permissions(f.path(".nearshare"), PermissionsExt::from_mode(0o700)).unwrap();
    if is_root() {
        std::os::unix::fs::chown(f.path(".nearshare"), Some(1234), None).unwrap();
        assert!(matches!(refused(), TreeError::NotOurs { uid: 1234, .. }));
    }
}

#[test]
fn a_room_that_is_a_link_is_refused_and_a_missing_one_made() {
    let f = Fixture::new();
    fs::remove_dir(f.path(".nearshare/tmp")).unwrap();
    f.disk.staged(f.disk.stage(id(1)).unwrap()).unwrap();
    fs::remove_dir_all(f.path(".nearshare/park")).unwrap();
    Disk::open(&spec(&f.root), clock()).unwrap();
    assert!(f.path(".nearshare/park").is_dir());
    fs::remove_dir(f.path(".nearshare/park")).unwrap();
    f.symlink("../../outside", ".nearshare/park");
    assert!(Disk::open(&spec(&f.root), clock()).is_err());
    // Nor is anything staged outside when the room becomes a link while we run, or in what is no room.
    fs::remove_dir_all(f.path(".nearshare/tmp")).unwrap();
    let outside = || fs::read_dir(f.outside()).unwrap().count();
    let before = outside();
    f.symlink("../../outside", ".nearshare/tmp");
    assert!(f.disk.stage(id(2)).is_err());
    assert_eq!(outside(), before);
    fs::remove_file(f.path(".nearshare/tmp")).unwrap();
    fs::write(f.path(".nearshare/tmp"), "in the way").unwrap();
    assert!(f.disk.stage(id(2)).is_err());
}

#[test]
fn limits_are_told_in_words() {
    let f = Fixture::new();
    if is_root() {
        assert_eq!(f.disk.limits(), Limits::default());
        assert_eq!(f.disk.limits().sentences().count(), 0);
    }
    let bare = Disk::open_with(&spec(&f.root), clock(), BARE).unwrap();
    let words: Vec<_> = bare.limits().sentences().collect();
    assert_eq!(words.len(), 4, "{words:?}");
    assert!(words[0].contains("owners are not copied"), "{words:?}");
}
