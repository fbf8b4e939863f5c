//! Paths that clients name: never outside the share, whatever links say and whoever swaps them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;

/// What a table row expects of `resolve`.
#[derive(Debug, PartialEq)]
enum Want {
    Root,
    /// In the directory at this path, under this name, there.
    There(&'static str, &'static str),
    Absent(&'static str, &'static str),
    NoParent(&'static str, &'static str),
    NotADirectory(&'static str, &'static str),
    Outside,
}

fn assert_resolves(f: &Fixture, path: &str, follow: bool, want: &Want) {
    let got = f.resolve(path, follow);
    let dir_is = |dir: &Found, path: &str| {
        assert_eq!(*dir, f.disk.dir_found(&f.dir(path)).unwrap(), "{path}");
    };
    match (&got, want) {
        (Resolved::Root(found), Want::Root) => dir_is(found, ""),
        (Resolved::Entry { dir, name: n, found: Some(found) }, Want::There(at, want)) => {
            dir_is(dir, at);
            assert_eq!((n, found), (&name(want), &f.found(&format!("{at}/{want}"))), "{path}");
        }
        (Resolved::Entry { dir, name: n, found: None }, Want::Absent(at, want))
        | (Resolved::NoParent { dir, name: n }, Want::NoParent(at, want))
        | (Resolved::NotADirectory { dir, name: n }, Want::NotADirectory(at, want)) => {
            dir_is(dir, at);
            assert_eq!(n, &name(want), "{path}");
        }
        (Resolved::Outside, Want::Outside) => {}
        _ => panic!("{path} (follow {follow}): {got:?}, not {want:?}"),
    }
}

fn plant(f: &Fixture) {
    f.mkdir("a/b");
    f.write("a/file", "x");
    f.write("a/b/deep", "x");
    for (target, path) in [
        ("a", "to-a"),
        ("a/", "to-a-slash"),
        ("a/file", "to-file"),
        ("a/file/", "to-file-slash"),
        ("to-file", "to-to-file"),
        ("../a/b", "a/around"),
        ("b/../b/../file", "a/zigzag"),
        ("..", "a/up"),
        ("../..", "a/b/upup"),
        (".", "a/here"),
        ("nowhere", "dangling"),
        ("nowhere/deeper", "dangling-deep"),
        ("/etc", "absolute"),
        ("/", "slash"),
        ("..", "parent"),
        ("../outside/secret", "secret"),
        ("a/../../outside", "sly"),
        ("a/b/../../../outside/secret", "slyer"),
        ("absolute/passwd", "via-absolute"),
        ("../root/a/file", "out-and-back"),
        ("loop-b", "loop-a"),
        ("loop-a", "loop-b"),
        ("self", "self"),
        (".nearshare", "ours"),
        (".nearshare/marker", "our-marker"),
        ("/proc/self/root", "magic"),
    ] {
        f.symlink(target, path);
    }
    f.symlink("/etc/passwd", "a/passwd");
}

/// Path, wanted with the last link not followed, wanted with it followed, wanted of `contains`.
type Case = (&'static str, Want, Want, Contains);
const CASES: &[Case] = &[
    ("", Want::Root, Want::Root, Contains::Inside),
    ("a", Want::There("", "a"), Want::There("", "a"), Contains::Inside),
    ("a/b/deep", Want::There("a/b", "deep"), Want::There("a/b", "deep"), Contains::Inside),
    ("new", Want::Absent("", "new"), Want::Absent("", "new"), Contains::Missing),
    ("a/new", Want::Absent("a", "new"), Want::Absent("a", "new"), Contains::Missing),
    ("no/new", Want::NoParent("", "no"), Want::NoParent("", "no"), Contains::Missing),
    ("a/no/x/y", Want::NoParent("a", "no"), Want::NoParent("a", "no"), Contains::Missing),
    ("a/file/x", Want::NotADirectory("a", "file"), Want::NotADirectory("a", "file"), Contains::Missing),
    (
        "a/file/x/y",
        Want::NotADirectory("a", "file"),
        Want::NotADirectory("a", "file"),
        Contains::Missing,
    ),
    ("to-a", Want::There("", "to-a"), Want::There("", "a"), Contains::Inside),
    ("to-a-slash/file", Want::There("a", "file"), Want::There("a", "file"), Contains::Inside),
    ("to-a/b/deep", Want::There("a/b", "deep"), Want::There("a/b", "deep"), Contains::Inside),
    ("to-a/new", Want::Absent("a", "new"), Want::Absent("a", "new"), Contains::Missing),
    ("to-a/no/new", Want::NoParent("a", "no"), Want::NoParent("a", "no"), Contains::Missing),
    ("to-file", Want::There("", "to-file"), Want::There("a", "file"), Contains::Inside),
    ("to-to-file", Want::There("", "to-to-file"), Want::There("a", "file"), Contains::Inside),
    ("to-file/x", Want::NotADirectory("a", "file"), Want::NotADirectory("a", "file"), Contains::Missing),
    (
        "to-file-slash",
        Want::There("", "to-file-slash"),
        Want::NotADirectory("a", "file"),
        Contains::Missing,
    ),
    ("a/around/deep", Want::There("a/b", "deep"), Want::There("a/b", "deep"), Contains::Inside),
    ("a/zigzag", Want::There("a", "zigzag"), Want::There("a", "file"), Contains::Inside),
    ("a/up", Want::There("a", "up"), Want::Root, Contains::Inside),
    ("a/up/a/file", Want::There("a", "file"), Want::There("a", "file"), Contains::Inside),
    ("a/b/upup/a/b", Want::There("a", "b"), Want::There("a", "b"), Contains::Inside),
    ("a/here", Want::There("a", "here"), Want::There("", "a"), Contains::Inside),
    ("dangling", Want::There("", "dangling"), Want::Absent("", "nowhere"), Contains::Missing),
    ("dangling/x", Want::NoParent("", "nowhere"), Want::NoParent("", "nowhere"), Contains::Missing),
    (
        "dangling-deep",
        Want::There("", "dangling-deep"),
        Want::NoParent("", "nowhere"),
        Contains::Missing,
    ),
    ("absolute", Want::There("", "absolute"), Want::Outside, Contains::Outside),
    ("absolute/passwd", Want::Outside, Want::Outside, Contains::Outside),
    ("slash/etc", Want::Outside, Want::Outside, Contains::Outside),
    ("parent", Want::There("", "parent"), Want::Outside, Contains::Outside),
    ("parent/outside/secret", Want::Outside, Want::Outside, Contains::Outside),
    ("secret", Want::There("", "secret"), Want::Outside, Contains::Outside),
    ("sly/secret", Want::Outside, Want::Outside, Contains::Outside),
    ("slyer", Want::There("", "slyer"), Want::Outside, Contains::Outside),
    ("via-absolute", Want::There("", "via-absolute"), Want::Outside, Contains::Outside),
    ("out-and-back", Want::There("", "out-and-back"), Want::Outside, Contains::Outside),
    ("a/passwd", Want::There("a", "passwd"), Want::Outside, Contains::Outside),
    ("loop-a", Want::There("", "loop-a"), Want::Outside, Contains::Outside),
    ("loop-a/x", Want::Outside, Want::Outside, Contains::Outside),
    ("self", Want::There("", "self"), Want::Outside, Contains::Outside),
    ("magic/etc/passwd", Want::Outside, Want::Outside, Contains::Outside),
    (".nearshare", Want::Absent("", ".nearshare"), Want::Absent("", ".nearshare"), Contains::Missing),
    (
        ".nearshare/marker",
        Want::NoParent("", ".nearshare"),
        Want::NoParent("", ".nearshare"),
        Contains::Missing,
    ),
    (
        "a/.nearshare/x",
        Want::NoParent("a", ".nearshare"),
        Want::NoParent("a", ".nearshare"),
        Contains::Missing,
    ),
    ("ours", Want::There("", "ours"), Want::Absent("", ".nearshare"), Contains::Missing),
    (
        "ours/marker",
        Want::NoParent("", ".nearshare"),
        Want::NoParent("", ".nearshare"),
        Contains::Missing,
    ),
    ("our-marker", Want::There("", "our-marker"), Want::NoParent("", ".nearshare"), Contains::Missing),
];

#[test]
fn paths_end_where_a_server_would_end_them() {
    everywhere(|f| {
        plant(f);
        for (path, plain, followed, inside) in CASES {
            assert_resolves(f, path, false, plain);
            assert_resolves(f, path, true, followed);
            assert_eq!(f.contains(path), *inside, "{path}");
        }
        // The same with the root moved away from its path, where servers look for it.
        fs::rename(&f.root, f.base.path().join("away")).unwrap();
        for there in [false, true] {
            for (path, _, followed, _) in CASES.iter().filter(|row| row.0 != "out-and-back") {
                assert_resolves(f, path, true, followed);
                let gone = f.disk.contains(&rel(path), false);
                assert!(matches!(gone, Err(TreeError::NotTheShare { .. })), "{path}: {gone:?} {there}");
                assert_eq!(f.disk.contains(&rel(path), true).unwrap(), Contains::WouldBlock);
            }
            if !there {
                fs::create_dir(&f.root).unwrap();
            }
        }
    });
}

#[test]
fn a_path_is_made_straight() {
    let f = Fixture::new();
    plant(&f);
    for (path, want) in [
        ("", Some("")),
        ("a/b/deep", Some("a/b/deep")),
        ("to-a/b", Some("a/b")),
        ("to-file", Some("a/file")),
        ("to-to-file", Some("a/file")),
        ("a/around/deep", Some("a/b/deep")),
        ("a/here/here/file", Some("a/file")),
        ("a/up", Some("")),
        ("a/up/a", Some("a")),
        ("a/none", None),
        ("dangling", None),
        ("absolute", None),
        ("parent", None),
    ] {
        let want = want.map(|want| RelPath::parse(want.as_bytes()).unwrap());
        let path = RelPath::parse(path.as_bytes()).unwrap();
        assert_eq!(f.disk.straight(&path, false).unwrap(), want, "{path}");
    }
}

#[test]
fn a_chain_of_forty_links_is_followed_and_one_more_is_not() {
    everywhere(|f| {
        f.write("end", "x");
        f.symlink("end", "1");
        for n in 2..=41 {
            f.symlink(&(n - 1).to_string(), &n.to_string());
        }
        assert_eq!(f.contains("40"), Contains::Inside);
        assert_eq!(f.contains("41"), Contains::Outside);
        assert_resolves(f, "40", true, &Want::There("", "end"));
        assert_resolves(f, "41", true, &Want::Outside);
    });
}

#[test]
fn a_link_swapped_while_we_walk_never_leads_out() {
    everywhere(|f| {
        f.mkdir("in/dir");
        f.write("in/dir/secret", "harmless");
        f.mkdir("swap");
        f.symlink("in", "link-in");
        f.symlink("../outside", "link-out");
        fs::create_dir(f.outside().join("dir")).unwrap();
        fs::write(f.outside().join("dir/secret"), "secret").unwrap();
        let good = f.found("in/dir/secret").handle;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (swap, in_, out) = (f.path("swap"), f.path("link-in"), f.path("link-out"));
                let exchange = |a: &Path, b: &Path| {
                    let flags = rustix::fs::RenameFlags::EXCHANGE;
                    rustix::fs::renameat_with(rustix::fs::CWD, a, rustix::fs::CWD, b, flags).unwrap();
                };
                while !stop.load(Relaxed) {
                    for other in [&in_, &out] {
                        exchange(&swap, other);
                        exchange(&swap, other);
                    }
                }
            });
            let mut seen = [0; 3];
            for n in 0..20_000 {
                match f.resolve("swap/dir/secret", n % 2 == 0) {
                    Resolved::Entry { found: Some(found), .. } => {
                        assert_eq!(found.handle, good);
                        seen[0] += 1;
                    }
                    Resolved::Outside => seen[1] += 1,
                    _ => seen[2] += 1,
                }
                let _ = f.disk.contains(&rel("swap/dir/secret"), n % 3 == 0).unwrap();
            }
            stop.store(true, Relaxed);
            assert!(seen[0] > 0, "{seen:?}");
        });
    });
}

#[test]
fn the_longest_path_passes() {
    everywhere(|f| {
        // 15 names of 255 and one of 253 bytes with their slashes: 4094 bytes, the kernel takes 4095.
        let mut names = vec![Name::new(&[b'n'; 255]).unwrap(); 15];
        names.push(Name::new(&[b'm'; 253]).unwrap());
        let path = RelPath::new(names).unwrap();
        let mut dir = f.root_dir();
        for name in path.names() {
            let spot = Spot::Entry(&dir, name);
            f.disk.make(spot, &object(Kind::Directory, attrs(0o755))).unwrap();
            dir = f.disk.open_at(spot).unwrap().unwrap();
        }
        let Resolved::Entry { found, .. } = f.disk.resolve(&path, true).unwrap() else { panic!() };
        assert_eq!(found.unwrap(), f.disk.dir_found(&dir).unwrap());
        assert_eq!(f.disk.contains(&path, false).unwrap(), Contains::Inside);
        let below = RelPath::parse(&[b"x/".repeat(2_000), b"yz".to_vec()].concat()).unwrap();
        assert_eq!(f.disk.contains(&below, false).unwrap(), Contains::Missing);
        assert!(matches!(f.disk.resolve(&below, true).unwrap(), Resolved::NoParent { .. }));
        // A link's name may be longer than any name.
        f.symlink(&"z".repeat(256), "toolong");
        assert_eq!(f.contains("toolong"), Contains::Missing);
        assert_eq!(errno(f.disk.resolve(&rel("toolong"), true)), libc::ENAMETOOLONG);
    });
}

#[test]
fn what_a_server_finds_by_names_is_seen_while_it_is_there_and_unchanged() {
    everywhere(|f| {
        f.mkdir("d");
        f.write("d/file", "one");
        f.write("other", "one");
        f.symlink("d", "link");
        let at = rel("d/file");
        let first = f.disk.by_names(&at).unwrap();
        assert_eq!(first, f.found("d/file"));
        assert!(f.disk.is_still(&at, &first));
        // Nothing that is no file, is not there, is reached through a link, or is nobody's entry.
        for path in ["", "d", "no", "link/file", ".nearshare/marker"] {
            assert_eq!(f.disk.by_names(&rel(path)), None, "{path}");
            assert!(!f.disk.is_still(&rel(path), &first), "{path}");
        }
        // Another file, by the same name or not.
        let other = f.disk.by_names(&rel("other")).unwrap();
        assert!(!f.disk.is_still(&at, &other));
        fs::rename(f.path("d"), f.path("away")).unwrap();
        assert!(!f.disk.is_still(&at, &first));
        fs::rename(f.path("away"), f.path("d")).unwrap();
        assert!(f.disk.is_still(&at, &first));
        fs::rename(f.path("other"), f.path("d/file")).unwrap();
        assert!(!f.disk.is_still(&at, &first));
        // The same one, changed.
        let second = f.disk.by_names(&at).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        f.write("d/file", "two");
        assert!(!f.disk.is_still(&at, &second));
        // Another directory in the share's place.
        let third = f.disk.by_names(&at).unwrap();
        fs::rename(&f.root, f.base.path().join("away")).unwrap();
        f.mkdir("");
        f.mkdir("d");
        f.write("d/file", "two");
        assert!(!f.disk.is_still(&at, &third));
        assert_ne!(f.disk.by_names(&at), Some(third));
    });
}

/// For a second a file is asked for by its name alone: whatever the way to it is then, it has to be the same.
#[test]
fn what_was_found_by_names_is_found_again_by_whatever_way() {
    everywhere(|f| {
        f.mkdir("d");
        f.mkdir("e");
        f.write("d/file", "one");
        f.write("e/file", "two");
        let at = rel("d/file");
        let first = f.disk.by_names(&at).unwrap();
        fs::rename(f.path("d"), f.path("away")).unwrap();
        f.symlink("away", "d");
        assert!(f.disk.is_still(&at, &first), "a server that follows links comes to it");
        assert_eq!(f.disk.by_names(&at), Some(first.clone()));
        fs::remove_file(f.path("d")).unwrap();
        f.symlink("e", "d");
        assert!(!f.disk.is_still(&at, &first));
        assert_eq!(f.disk.by_names(&at), None, "through a link");
        fs::remove_file(f.path("d")).unwrap();
        assert!(!f.disk.is_still(&at, &first));
        fs::rename(f.path("e"), f.path("d")).unwrap();
        assert!(!f.disk.is_still(&at, &first));
        assert_eq!(f.disk.by_names(&at), Some(f.found("d/file")));
    });
}

/// Where a link leads may change: then its name proves nothing.
#[test]
fn a_share_behind_a_link_is_not_looked_at_by_names() {
    let f = Fixture::new();
    f.write("file", "x");
    let link = f.base.path().join("link");
    std::os::unix::fs::symlink(&f.root, &link).unwrap();
    let disk = Disk::open(&spec(&link), clock()).unwrap();
    assert_eq!(disk.by_names(&rel("file")), None);
    assert_eq!(disk.reaches(&rel("file"), false).unwrap(), (Contains::Inside, Some(f.found("file"))));
}
