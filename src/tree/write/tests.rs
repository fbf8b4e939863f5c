//! On real directories.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::*;
use crate::tree::{RootSpec, tests::clock};

/// A directory as share `eng` of site `hq`.
pub(crate) fn disk(path: &Path) -> Arc<Disk> {
    let (share, site) = ("eng".parse().unwrap(), "hq".parse().unwrap());
    let spec = RootSpec { path: path.into(), share, site, marker: None };
    Arc::new(Disk::open(&spec, clock()).unwrap())
}

fn share() -> (tempfile::TempDir, Arc<Files>) {
    let dir = tempfile::tempdir().unwrap();
    let files = Arc::new(Files::new(disk(dir.path())).unwrap());
    (dir, files)
}

fn rel(path: &str) -> RelPath {
    RelPath::parse(path.as_bytes()).unwrap()
}

fn errno<T>(result: Result<T>) -> Errno {
    match result.err().expect("must fail") {
        TreeError::Io { source, .. } => Errno::from_io_error(&source).unwrap(),
        error => panic!("{error}"),
    }
}

fn tmp_is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir.join(".nearshare/tmp")).unwrap().next().is_none()
}

#[test]
fn links_inside_are_followed_and_links_outside_are_not() {
    use std::os::unix::fs::symlink;
    let (dir, files) = share();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir(at("sub")).unwrap();
    std::fs::write(at("sub/file"), "x").unwrap();
    for (link, target) in [
        ("in", "sub/file"),
        ("dir", "sub"),
        ("out", "../../etc/passwd"),
        ("abs", "/etc/passwd"),
        ("ours", ".nearshare/tmp"),
        ("sub/up", "../sub/file"),
        ("sub/away", "../../x"),
        ("loop", "loop"),
        ("dangling", "nothing"),
    ] {
        symlink(target, at(link)).unwrap();
    }
    for good in ["in", "dir/file", "sub/up", "dir/up"] {
        assert_eq!(files.stat(&rel(good), true).unwrap().size, 1, "{good}");
        assert!(matches!(files.open(&rel(good)).unwrap(), Opened::File(..)), "{good}");
    }
    for (bad, want) in [
        ("out", Errno::XDEV),
        ("abs", Errno::XDEV),
        ("sub/away", Errno::XDEV),
        ("ours", Errno::NOENT),
        ("ours/x", Errno::NOENT),
        (".nearshare", Errno::NOENT),
        (".nearshare/tmp", Errno::NOENT),
        ("loop", Errno::LOOP),
        ("dangling", Errno::NOENT),
        ("in/x", Errno::NOTDIR),
    ] {
        assert_eq!(errno(files.stat(&rel(bad), true)), want, "{bad}");
    }
    for bad in ["out", "abs", "ours/x", "dangling", "loop", ".nearshare/x", "out/x"] {
        assert!(files.upload(&rel(bad), UploadRule::Any).is_err(), "{bad}");
    }
    // The link itself is what is deleted and moved.
    assert_eq!(files.stat(&rel("out"), false).unwrap().kind, Kind::Symlink);
    files.rename(&rel("out"), &rel("moved")).unwrap();
    files.remove(&rel("moved")).unwrap();
    files.remove(&rel("dir")).unwrap();
    assert!(at("sub/file").exists());
}

#[test]
fn an_upload_through_a_link_replaces_what_it_leads_to() {
    let (dir, files) = share();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/file"), "old").unwrap();
    std::os::unix::fs::symlink("sub/file", dir.path().join("link")).unwrap();
    let mut upload = files.upload(&rel("link"), UploadRule::Any).unwrap();
    upload.write(&[Bytes::from("new")]).unwrap();
    upload.commit().unwrap();
    assert_eq!(std::fs::read(dir.path().join("sub/file")).unwrap(), b"new");
    assert!(dir.path().join("link").is_symlink() && tmp_is_empty(dir.path()));
}

#[test]
fn moves_and_copies_never_lose_what_they_would_replace() {
    let (dir, files) = share();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("a/b/c")).unwrap();
    std::fs::write(at("a/b/c/file"), "x").unwrap();
    std::os::unix::fs::symlink("a", at("alias")).unwrap();
    // Into itself, onto an ancestor, onto itself, and all of that under another name.
    for (from, to) in [
        ("a", "a/b"),
        ("a", "a/b/new"),
        ("a/b", "a"),
        ("a/b", "a/b"),
        ("a", "alias/b"),
        ("a/b", "alias/b"),
        ("a", "alias/b/c/file"),
    ] {
        assert_eq!(errno(files.rename(&rel(from), &rel(to))), Errno::INVAL, "move {from} {to}");
        assert_eq!(errno(files.copy(&rel(from), &rel(to), true)), Errno::INVAL, "copy {from} {to}");
        assert!(at("a/b/c/file").exists(), "{from} {to}");
    }
    // Whatever is replaced by whatever.
    std::fs::create_dir_all(at("full/of/things")).unwrap();
    std::fs::write(at("file"), "f").unwrap();
    files.copy(&rel("file"), &rel("full"), true).unwrap();
    assert_eq!(std::fs::read(at("full")).unwrap(), b"f");
    files.copy(&rel("a"), &rel("full"), true).unwrap();
    assert_eq!(std::fs::read(at("full/b/c/file")).unwrap(), b"x");
    files.rename(&rel("full"), &rel("file")).unwrap();
    assert_eq!(std::fs::read(at("file/b/c/file")).unwrap(), b"x");
    files.copy(&rel("a"), &rel("file"), false).unwrap();
    assert_eq!(std::fs::read_dir(at("file")).unwrap().count(), 0);
    assert!(tmp_is_empty(dir.path()));
}

#[test]
fn two_names_of_one_file_become_one() {
    let (dir, files) = share();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("one"), "x").unwrap();
    std::fs::hard_link(at("one"), at("two")).unwrap();
    files.rename(&rel("one"), &rel("two")).unwrap();
    assert!(!at("one").exists() && at("two").exists());
}

#[test]
fn a_copied_tree_keeps_modes_and_links_and_ends() {
    use std::os::unix::fs::PermissionsExt;
    let (dir, files) = share();
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("from/sub")).unwrap();
    std::fs::write(at("from/run"), "#!").unwrap();
    std::fs::set_permissions(at("from/run"), PermissionsExt::from_mode(0o4751)).unwrap();
    std::fs::set_permissions(at("from/sub"), PermissionsExt::from_mode(0o711)).unwrap();
    for link in ["one", "two"] {
        std::os::unix::fs::symlink("..", at("from/sub").join(link)).unwrap();
    }
    files.copy(&rel("from"), &rel("to"), true).unwrap();
    let mode = |name: &str| at(name).symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!((mode("to/run"), mode("to/sub")), (0o751, 0o711));
    assert_eq!(std::fs::read_link(at("to/sub/one")).unwrap(), Path::new(".."));
}

#[test]
fn deep_and_wide_trees_go_without_descriptors_or_stack() {
    let (dir, files) = share();
    let mut fd = fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    for depth in 0..2100 {
        let name = if depth == 0 { "deep" } else { "d" };
        fs::mkdirat(&fd, name, Mode::RWXU).unwrap();
        fd = fs::openat(&fd, name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        fs::openat(&fd, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }
    assert_eq!(errno(files.copy(&rel("deep"), &rel("copy"), true)), Errno::NAMETOOLONG);
    assert!(!dir.path().join("copy").exists() && tmp_is_empty(dir.path()));
    files.remove(&rel("deep")).unwrap();
    assert!(!dir.path().join("deep").exists() && tmp_is_empty(dir.path()));
}

#[test]
fn a_start_clears_what_a_crash_left_and_nothing_else() {
    let (dir, files) = share();
    let tmp = dir.path().join(".nearshare/tmp");
    std::fs::create_dir_all(tmp.join("http-1/with/things")).unwrap();
    std::fs::write(tmp.join("http-2"), "x").unwrap();
    std::fs::write(tmp.join("000102030405060708090a0b0c0d0e0f"), "staged").unwrap();
    let upload = files.upload(&rel("file"), UploadRule::Any).unwrap();
    Files::new(disk(dir.path())).unwrap();
    upload.commit().expect("an upload under way is not a left-over");
    let left: Vec<_> = std::fs::read_dir(&tmp).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["000102030405060708090a0b0c0d0e0f"]);
}

#[test]
fn rules_of_an_upload() {
    let (dir, files) = share();
    std::fs::write(dir.path().join("there"), "x").unwrap();
    std::fs::create_dir(dir.path().join("dir")).unwrap();
    let try_one = |path: &str, rule| files.upload(&rel(path), rule).map(drop);
    assert_eq!(errno(try_one("there", UploadRule::New)), Errno::EXIST);
    assert_eq!(errno(try_one("new", UploadRule::Replace)), Errno::NOENT);
    assert_eq!(errno(try_one("dir", UploadRule::Any)), Errno::ISDIR);
    assert_eq!(errno(try_one("no/file", UploadRule::Any)), Errno::NOENT);
    assert_eq!(errno(try_one("there/file", UploadRule::Any)), Errno::NOTDIR);
    // One that was there first wins over one that must be new.
    let upload = files.upload(&rel("late"), UploadRule::New).unwrap();
    std::fs::write(dir.path().join("late"), "first").unwrap();
    assert_eq!(errno(upload.commit()), Errno::EXIST);
    assert_eq!(std::fs::read(dir.path().join("late")).unwrap(), b"first");
    assert!(tmp_is_empty(dir.path()));
}

#[test]
fn a_copy_of_a_sparse_file_is_sparse_and_the_same() {
    use std::io::{Seek, SeekFrom, Write};
    let (dir, files) = share();
    let mut file = File::create(dir.path().join("sparse")).unwrap();
    let data = vec![b'x'; 100_000];
    for at in [0, 1 << 30] {
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&data).unwrap();
    }
    file.set_len(50 << 30).unwrap();
    files.copy(&rel("sparse"), &rel("copy"), false).unwrap();
    let copy = File::open(dir.path().join("copy")).unwrap();
    let meta = copy.metadata().unwrap();
    assert!(meta.len() == 50 << 30 && meta.blocks() * 512 < 1 << 20, "{meta:?}");
    for at in [0, 1 << 30] {
        let mut there = vec![0; data.len() + 1];
        copy.read_exact_at(&mut there, at).unwrap();
        assert!(there[..data.len()] == data && there[data.len()] == 0);
    }
}

#[test]
fn properties_are_changed_one_at_a_time_and_never_outside() {
    use std::os::unix::fs::symlink;
    const CHANGES: u8 = 8;
    let (dir, files) = share();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("file"), "x").unwrap();
    symlink("file", at("in")).unwrap();
    symlink("../../etc/passwd", at("out")).unwrap();
    fs::mknodat(fs::CWD, at("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    std::thread::scope(|scope| {
        for number in 0..CHANGES {
            let files = &files;
            scope.spawn(move || {
                let add = |old: Option<Vec<u8>>| {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    Ok::<_, ()>(Some([old.unwrap_or_default(), vec![number]].concat()))
                };
                files.change_properties(&rel("in"), add).unwrap().unwrap();
            });
        }
    });
    let mut kept = files.properties(&rel("file")).unwrap().unwrap();
    kept.sort_unstable();
    assert_eq!(kept, (0..CHANGES).collect::<Vec<_>>());
    assert_eq!(files.change_properties(&rel("file"), |_| Err("no")).unwrap(), Err("no"));
    assert!(files.properties(&rel("file")).unwrap().is_some());
    for _ in 0..2 {
        assert_eq!(files.change_properties(&rel("file"), |_| Ok::<_, ()>(None)).unwrap(), Ok(()));
        assert_eq!(files.properties(&rel("in")).unwrap(), None);
    }
    let set = |path| errno(files.change_properties(&rel(path), |_| Ok::<_, ()>(Some(vec![1]))));
    assert_eq!(
        ["out", ".nearshare/tmp", "none", "pipe"].map(set),
        [Errno::XDEV, Errno::NOENT, Errno::NOENT, Errno::PERM]
    );
}
