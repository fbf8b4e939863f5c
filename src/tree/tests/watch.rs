//! What the kernel tells of changes, on a real ext4. They are made by another process: of its own a watcher says nothing.

use std::time::Instant;

use super::mounts::{mount, umount, with_mounts};
use super::*;
use crate::object::LocalHandle;

/// Runs `test` on a share on an ext4 of its own, of 16 MiB with so many inodes.
fn with_ext4(inodes: u32, test: impl FnOnce(&Fixture) + Send + 'static) {
    with_mounts(move |f| {
        let image = f.outside().join("image");
        fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
        let (image, inodes) = (image.to_str().unwrap(), inodes.to_string());
        run("mkfs.ext4", &["-q", "-m", "0", "-N", &inodes, image]);
        let base = TempDir::with_prefix_in("ext4-", f.outside()).unwrap();
        mount(&["-o", "loop", image, base.path().to_str().unwrap()]);
        let root = base.path().join("root");
        fs::create_dir(&root).unwrap();
        fs::create_dir(base.path().join("outside")).unwrap();
        let disk = Disk::open(&spec(&root), clock()).unwrap();
        let ext4 = Fixture { base, root, disk };
        test(&ext4);
        let at = ext4.base.path().to_owned();
        umount(&at);
    });
}

fn run(program: &str, args: &[&str]) {
    let done = std::process::Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A shell, in the directory that has `root` and `outside`.
fn shell(f: &Fixture, script: &str) {
    let script = format!("set -eu; cd {}; {script}", f.base.path().display());
    run("sh", &["-c", &script]);
}

/// All that is heard until what is wanted has been.
fn until(watcher: &mut Watcher, wanted: &[Heard]) -> Vec<Heard> {
    let began = Instant::now();
    let mut heard = Vec::new();
    while !wanted.iter().all(|wanted| heard.contains(wanted)) {
        assert!(began.elapsed() < Duration::from_secs(20), "{heard:?} of {wanted:?}");
        heard.extend(watcher.next(Some(Duration::from_millis(100))).unwrap());
    }
    heard
}

fn entry(dir: &LocalHandle, named: &str) -> Heard {
    Heard::Entry { dir: dir.clone(), name: name(named) }
}

#[test]
fn every_change_of_a_share_is_heard_of() {
    with_ext4(1024, |f| {
        f.mkdir("dir/sub");
        f.write("dir/old", "old");
        let root = f.disk.dir_found(&f.root_dir()).unwrap().handle;
        let dir = f.found("dir").handle;
        let sub = f.found("dir/sub").handle;
        let outside =
            f.disk.dir_found(&Disk::open(&spec(&f.outside()), clock()).unwrap().root().unwrap());
        let outside = outside.unwrap().handle;
        let moved = |from: (&LocalHandle, &str), to: (&LocalHandle, &str), directory| Heard::Moved {
            from: Some((from.0.clone(), name(from.1))),
            to: (to.0.clone(), name(to.1)),
            directory,
        };
        let mut watcher = f.disk.watch().unwrap();
        let table = [
            ("echo x > root/new", vec![entry(&root, "new")]),
            ("echo x >> root/dir/old", vec![entry(&dir, "old")]),
            ("truncate -s 0 root/dir/old", vec![entry(&dir, "old")]),
            ("chmod 600 root/dir/old", vec![entry(&dir, "old")]),
            ("touch root/dir/old", vec![entry(&dir, "old")]),
            ("ln root/dir/old root/dir/sub/two", vec![entry(&sub, "two")]),
            ("ln -s x root/link", vec![entry(&root, "link")]),
            ("mkdir root/dir/made", vec![entry(&dir, "made")]),
            ("chmod 700 root/dir", vec![Heard::Object(dir.clone())]),
            ("chmod 700 root", vec![Heard::Object(root.clone())]),
            ("mv root/new root/dir/moved", vec![moved((&root, "new"), (&dir, "moved"), false)]),
            ("mv root/dir/made outside/out", vec![moved((&dir, "made"), (&outside, "out"), true)]),
            ("mv outside/out root/in", vec![moved((&outside, "out"), (&root, "in"), true)]),
            ("rm root/dir/moved", vec![entry(&dir, "moved")]),
            ("rmdir root/in", vec![entry(&root, "in")]),
        ];
        for (script, wanted) in table {
            shell(f, script);
            until(&mut watcher, &wanted);
        }
        // What only reads is not heard of, nor what this process does; and both have been by the time of a mark.
        f.write("own", "x");
        shell(f, "cat root/dir/old; ls -R root; echo x > root/last");
        let heard = until(&mut watcher, &[entry(&root, "last")]);
        assert!(heard.iter().all(|heard| *heard == entry(&root, "last")), "{heard:?}");
    });
}

/// A wait has no end but these: something happens, its time is over, or somebody rings.
#[test]
fn a_wait_ends_when_somebody_rings() {
    with_ext4(1024, |f| {
        let mut watcher = f.disk.watch().unwrap();
        let ringer = watcher.ringer();
        let waits = std::thread::spawn(move || watcher.next(None).unwrap());
        ringer.ring();
        assert_eq!(waits.join().unwrap(), []);
    });
}

/// Nobody asks for a while, and more happens than the kernel keeps.
#[test]
fn what_the_kernel_could_not_keep_is_told_as_lost() {
    let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    let limit: u32 = limit.trim().parse().unwrap();
    if limit > 65_536 {
        return skipped(format_args!("the kernel keeps {limit} events here"));
    }
    with_ext4(limit + 1024, move |f| {
        let mut watcher = f.disk.watch().unwrap();
        shell(f, &format!("cd root; seq 1 {} | xargs touch", limit + 512));
        let heard = until(&mut watcher, &[Heard::Lost]);
        assert!(heard.len() as u32 <= limit + 1, "{} of {limit}", heard.len());
        // And it goes on.
        shell(f, "echo x > root/after");
        let root = f.disk.dir_found(&f.root_dir()).unwrap().handle;
        until(&mut watcher, &[entry(&root, "after")]);
    });
}

#[test]
fn where_a_directory_is_that_was_heard_of() {
    with_ext4(1024, |f| {
        f.mkdir("dir/sub");
        let at = |f: &Fixture, path: &str| f.disk.whereabouts(&f.found(path).handle).unwrap();
        let root = f.disk.dir_found(&f.root_dir()).unwrap().handle;
        assert_eq!(f.disk.whereabouts(&root).unwrap(), Whereabouts::Inside(RelPath::ROOT));
        assert_eq!(at(f, "dir/sub"), Whereabouts::Inside(rel("dir/sub")));
        let sub = f.found("dir/sub").handle;
        shell(f, "mv root/dir root/renamed");
        assert_eq!(f.disk.whereabouts(&sub).unwrap(), Whereabouts::Inside(rel("renamed/sub")));
        shell(f, "mv root/renamed outside/dir");
        assert_eq!(f.disk.whereabouts(&sub).unwrap(), Whereabouts::Elsewhere);
        shell(f, "mv outside/dir root/.nearshare/dir");
        assert_eq!(f.disk.whereabouts(&sub).unwrap(), Whereabouts::Elsewhere);
        // Deeper than a path that the kernel tells.
        shell(f, "mv root/.nearshare/dir root/dir");
        let name = "d".repeat(250);
        let mut dir = f.dir("dir/sub");
        for _ in 0..20 {
            let below = self::name(&name);
            let below = Spot::Entry(&dir, &below);
            f.disk.make(below, &object(Kind::Directory, attrs(0o755))).unwrap();
            let made = f.disk.open_at(below).unwrap().unwrap();
            dir = made;
        }
        let deepest = f.disk.dir_found(&dir).unwrap().handle;
        assert_eq!(f.disk.whereabouts(&deepest).unwrap(), Whereabouts::Somewhere);
        drop(dir);
        shell(f, "rm -r root/dir");
        assert_eq!(f.disk.whereabouts(&sub).unwrap(), Whereabouts::Elsewhere);
    });
}

#[test]
fn who_may_not_watch_is_told_why() {
    let f = Fixture::new();
    let bare = Disk::open_with(&spec(&f.root), clock(), BARE).unwrap();
    let Err(why) = bare.watch() else { panic!("it may") };
    assert!(
        why.to_string().contains("CAP_SYS_ADMIN") && why.to_string().contains("nearshare scan"),
        "{why}"
    );
    for (errno, part) in [
        (libc::EPERM, "CAP_SYS_ADMIN"),
        (libc::EINVAL, "5.17"),
        (libc::ENODEV, "ext4"),
        (libc::EMFILE, "max_user_groups"),
    ] {
        let why = Unwatched::from(io::Error::from_raw_os_error(errno)).to_string();
        assert!(why.contains(part) && why.contains("nearshare scan"), "{why}");
    }
}
