//! What settling makes of each kind of change. After every one the whole disk is compared, times of
//! directories included.

use std::os::unix::fs::MetadataExt;

use super::rig::Rig;
use super::share::{Share, name};
use crate::catalog::{Inline, Touch};
use crate::clock::BootTime;
use crate::follow::applier::{Job, Step};
use crate::id::{Name, ObjectId};
use crate::object::Kind;

/// /a, /b and /dir/x with contents of their names.
fn both() -> (Share, Rig) {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.file("a", b"a");
    share.file("b", b"b");
    share.dir("dir");
    share.file("dir/x", b"x");
    rig.follow_all(&mut share);
    rig.assert_settled(&share);
    (share, rig)
}

fn settled(share: &mut Share, rig: &mut Rig) {
    rig.follow_all(share);
    rig.assert_settled(share);
    assert_eq!(rig.kept(), [""; 0], "nothing here was foreign");
}

#[test]
fn another_object_at_the_same_name() {
    let (mut share, mut rig) = both();
    share.file("a", b"another");
    rig.feed(&mut share);
    assert_eq!(rig.read("a"), "a", "visible until the new one is whole");
    settled(&mut share, &mut rig);
}

#[test]
fn new_content_under_every_name_of_an_object() {
    for links in 1..4 {
        let (mut share, mut rig) = both();
        for n in 1..links {
            share.link("a", &format!("dir/a{n}"));
        }
        settled(&mut share, &mut rig);
        share.write("a", b"new content");
        rig.feed(&mut share);
        assert_eq!(rig.read("a"), "a");
        settled(&mut share, &mut rig);
    }
}

#[test]
fn new_content_and_a_new_name_at_once() {
    let (mut share, mut rig) = both();
    share.link("a", "dir/0");
    share.write("a", b"changed");
    settled(&mut share, &mut rig);
    // Its names move while its content is on the way.
    share.write("a", b"changed again");
    share.rename("a", "z");
    share.rename("dir/0", "dir/1");
    settled(&mut share, &mut rig);
}

#[test]
fn renames_keep_the_inode() {
    let (mut share, mut rig) = both();
    let inode = |rig: &Rig, path: &str| rig.path(path).metadata().unwrap().ino();
    let (a, x) = (inode(&rig, "a"), inode(&rig, "dir/x"));
    share.rename("a", "c");
    share.rename("dir", "moved");
    rig.feed(&mut share);
    rig.assert_settled(&share);
    assert_eq!((inode(&rig, "c"), inode(&rig, "moved/x")), (a, x));
    share.rename("c", "b");
    rig.feed(&mut share);
    rig.assert_settled(&share);
    assert_eq!(inode(&rig, "b"), a);
}

#[test]
fn names_that_change_places() {
    let (mut share, mut rig) = both();
    for names in [&["a", "b"][..], &["a", "dir/x", "b"], &["a", "dir"], &["dir/x", "b"]] {
        let Some(entries) =
            names.iter().map(|path| share.find(path).map(|_| share.entry(path))).collect()
        else {
            continue;
        };
        let entries: Vec<_> = entries;
        share.rotate(&entries);
        rig.feed(&mut share);
        rig.assert_settled(&share);
    }
}

#[test]
fn a_directory_that_moves_below_one_that_was_in_it() {
    let (mut share, mut rig) = both();
    share.dir("dir/in");
    share.file("dir/in/f", b"f");
    settled(&mut share, &mut rig);
    // The first word is of an entry that in the end holds what is still above it.
    share.file("dir/in/dir", b"soon gone");
    share.unlink("dir/in/dir");
    share.rename("dir/in", "in");
    share.rename("dir", "in/dir");
    settled(&mut share, &mut rig);
    assert_eq!(rig.read("in/dir/x"), "x");
}

#[test]
fn a_move_into_a_directory_that_is_moved() {
    let (mut share, mut rig) = both();
    share.rename("a", "dir/a");
    share.rename("dir", "far");
    share.dir("dir");
    share.rename("far/x", "dir/x");
    settled(&mut share, &mut rig);
}

#[test]
fn what_lives_on_survives_the_tree_it_was_in() {
    let (mut share, mut rig) = both();
    share.dir("dir/deep");
    share.dir("dir/deep/er");
    share.file("dir/deep/er/f", b"f");
    share.link("dir/x", "dir/deep/hard");
    settled(&mut share, &mut rig);
    share.rename("dir/deep/er", "out");
    share.link("dir/deep/hard", "x");
    share.unlink("dir");
    rig.feed(&mut share);
    rig.assert_settled(&share);
    assert_eq!(rig.read("out/f") + &rig.read("x"), "fx");
    assert_eq!(rig.kept(), [""; 0]);
}

#[test]
fn all_names_of_a_deleted_file_go() {
    let (mut share, mut rig) = both();
    share.link("a", "a2");
    share.link("a", "dir/a3");
    settled(&mut share, &mut rig);
    for path in ["a", "a2", "dir/a3"] {
        share.unlink(path);
    }
    settled(&mut share, &mut rig);
}

#[test]
fn an_object_without_a_name_waits_in_the_park() {
    let (mut share, mut rig) = both();
    let (a, dir) = (share.entry("a"), share.entry("dir"));
    let (a, dir) = (share.hide(a), share.hide(dir));
    rig.feed(&mut share);
    rig.assert_same(&share);
    assert_eq!(rig.park().len(), 2);
    rig.restart();
    // New content of what nobody sees, then both come back.
    share.write_to(a, b"new");
    rig.follow_all(&mut share);
    share.link_at(dir, (crate::id::ObjectId::ROOT, name("back")));
    share.link_at(a, (dir, name("a")));
    settled(&mut share, &mut rig);
    assert_eq!(rig.read("back/a"), "new");
}

#[test]
fn links_special_files_modes_owners_and_times() {
    let (mut share, mut rig) = both();
    share.make("s", Kind::Symlink, |object| object.target = b"no/\xff/where".to_vec());
    share.make("f", Kind::Fifo, |object| object.attrs.mode = 0o604);
    share.make("u", Kind::Socket, |_| {});
    share.make("c", Kind::Char, |object| object.rdev = rustix::fs::makedev(1, 3));
    share.make("k", Kind::Block, |object| object.rdev = rustix::fs::makedev(7, 200));
    share.link("s", "dir/s2");
    share.set("a", |object| object.attrs.mode = 0o6711);
    share.set("dir", |object| (object.attrs.mode, object.attrs.uid) = (0o3777, 4711));
    share.set("b", |object| object.attrs.mtime = crate::object::Timespec { sec: -5, nsec: 1 });
    settled(&mut share, &mut rig);
    share.set("s", |object| object.attrs.uid = 12);
    share.set("", |object| object.attrs.mode = 0o711);
    settled(&mut share, &mut rig);
}

#[test]
fn names_of_any_bytes() {
    let (mut share, mut rig) = both();
    for bytes in [&b"\xff\xfe"[..], b"new\nline", b" ", b"...", &[b'n'; 255], b"\x01\\x01"] {
        share.file_at((crate::id::ObjectId::ROOT, Name::new(bytes).unwrap()), bytes);
    }
    settled(&mut share, &mut rig);
}

#[test]
fn what_is_awaited_may_be_renamed_unlinked_and_replaced() {
    let (mut share, mut rig) = both();
    share.write("a", b"a2");
    share.write("b", b"b2");
    share.write("dir/x", b"x2");
    rig.feed(&mut share);
    let flying = rig.fetch(&share, 10);
    share.rename("a", "dir/a");
    share.unlink("b");
    share.file("dir/x", b"another");
    rig.feed(&mut share);
    assert_eq!((rig.read("dir/a"), rig.read("dir/x")), ("a".into(), "x".into()));
    rig.job(Job::Contents(flying));
    settled(&mut share, &mut rig);
}

#[test]
fn content_inside_the_record_is_visible_at_once() {
    let (mut share, mut rig) = both();
    let id = share.file("n", b"n");
    share.write("a", b"inline");
    let a = share.at("a");
    share.publish();
    let inline = [id, a].map(|id| {
        let (version, data) = (share.objects[&id].version, share.data[&id].clone());
        Inline { id, version, data }
    });
    let records = std::mem::take(&mut share.records);
    rig.job(Rig::records(records, inline.into()));
    rig.assert_settled(&share);
}

#[test]
fn a_hard_link_made_while_its_large_content_is_being_written_leaves_that_alone() {
    let (mut share, mut rig) = both();
    share.write("a", b"large");
    rig.feed(&mut share);
    let a = share.at("a");
    // The fetcher writes to the object's own place.
    let mut stage = crate::tree::Tree::stage(rig.tree(), a).unwrap();
    std::io::Write::write_all(&mut stage, b"large").unwrap();
    share.link("a", "a2");
    rig.feed(&mut share);
    assert_eq!(rig.read("a2"), "a");
    let (root, version) = (share.objects[&a].root, share.objects[&a].version);
    let arrived = crate::follow::applier::Arrived { id: a, version, root: Some(root), xattrs: None };
    rig.job(Job::Contents(vec![arrived]));
    rig.assert_settled(&share);
}

#[test]
fn content_that_somebody_removed_before_it_was_placed_is_asked_for_again() {
    let (mut share, mut rig) = both();
    share.write("a", b"one");
    share.publish();
    let first = std::mem::take(&mut share.records);
    share.write("a", b"two");
    rig.job(Rig::records(first, Vec::new()));
    // It comes before its record does.
    let early = rig.fetch(&share, 10);
    rig.job(Job::Contents(early));
    std::fs::remove_file(rig.path(&format!(".nearshare/tmp/{}", share.at("a")))).unwrap();
    settled(&mut share, &mut rig);
}

#[test]
fn a_version_that_came_early_but_not_early_enough_is_asked_for_again() {
    let (mut share, mut rig) = both();
    share.write("a", b"one");
    rig.feed(&mut share);
    share.write("a", b"two");
    let early = rig.fetch(&share, 10);
    rig.job(Job::Contents(early));
    share.write("a", b"three");
    // Both records at once: the version that came is never the newest here.
    share.publish();
    settled(&mut share, &mut rig);
}

/// What the primary told of a record that was lost with it is thrown away; a record that is only late is
/// waited for.
#[test]
fn a_version_whose_record_never_comes_is_not_waited_for() {
    for behind in [true, false] {
        let (mut share, mut rig) = both();
        let a = share.at("a");
        share.write("a", b"one");
        rig.feed(&mut share);
        let kept = (share.objects[&a].clone(), share.data[&a].clone());
        share.write("a", b"never");
        let early = rig.fetch(&share, 10);
        rig.job(Job::Contents(early));
        share.objects.insert(a, kept.0);
        share.data.insert(a, kept.1);
        rig.follow().note(|progress| progress.lag_records = u64::from(behind));
        for _ in 0..2 {
            rig.idle();
            assert!(rig.fetch(&share, 10).is_empty(), "not yet");
        }
        rig.idle();
        if behind {
            assert!(rig.fetch(&share, 10).is_empty(), "its record may be on its way");
            rig.follow().note(|progress| progress.lag_records = 0);
            (0..3).for_each(|_| rig.idle());
        }
        rig.pay_all(&share);
        assert_eq!(rig.read("a"), "one");
    }
}

/// It is thrown away, and nobody keeps its place.
#[test]
fn a_content_that_is_here_already_is_not_kept() {
    let (mut share, mut rig) = both();
    share.write("a", b"one");
    rig.feed(&mut share);
    let twice = rig.fetch(&share, 10);
    let (id, version) = (twice[0].id, twice[0].version);
    rig.job(Job::Contents(twice));
    assert_eq!(rig.read("a"), "one");
    let again = rig.whole(id, version, &share.data[&id]).into_iter().collect();
    rig.job(Job::Contents(again));
    assert_eq!(std::fs::read_dir(rig.path(".nearshare/tmp")).unwrap().count(), 0);
    share.write("a", b"two");
    rig.feed(&mut share);
    assert_eq!(rig.fetch(&share, 10).len(), 1);
}

#[test]
fn the_right_version_pays_early_and_a_wrong_hash_never() {
    let (mut share, mut rig) = both();
    let a = share.at("a");
    share.write("a", b"one");
    rig.feed(&mut share);
    assert_eq!(rig.fetch(&share, 10).len(), 1);
    let version = share.objects[&a].version;
    let wrong = rig.whole(a, version, &bytes::Bytes::from_static(b"on!")).into_iter().collect();
    rig.job(Job::Contents(wrong));
    assert_eq!(rig.read("a"), "a");
    assert!(rig.fetch(&share, 10).is_empty(), "not at once");
    assert!(crate::follow::lock(&rig.follow().owed).rested(BootTime(std::time::Duration::MAX)));
    settled(&mut share, &mut rig);
    share.write("a", b"two");
    rig.feed(&mut share);
    share.write("a", b"three");
    let early = rig.fetch(&share, 10);
    assert_eq!(early.len(), 1);
    rig.job(Job::Contents(early));
    assert_eq!(rig.read("a"), "one");
    rig.feed(&mut share);
    rig.assert_settled(&share);
    assert_eq!(rig.read("a"), "three");
}

#[test]
fn content_of_what_is_deleted_meanwhile_leaves_nothing_behind() {
    let (mut share, mut rig) = both();
    share.write("a", b"one");
    rig.feed(&mut share);
    let flying = rig.fetch(&share, 10);
    share.unlink("a");
    rig.feed(&mut share);
    rig.job(Job::Contents(flying));
    rig.assert_settled(&share);
}

#[test]
fn more_marks_than_are_settled_at_once_lose_nothing() {
    let (mut share, mut rig) = both();
    for n in 0..700 {
        share.file(&format!("dir/{n:04}"), b"same");
    }
    settled(&mut share, &mut rig);
    // All names move by one directory, and the names that are left come last.
    share.dir("0");
    for n in 0..700 {
        share.rename(&format!("dir/{n:04}"), &format!("0/{:04}", 700 - n));
    }
    share.publish();
    let records = std::mem::take(&mut share.records);
    rig.tree().doom(0, super::faulty::Fate::Crash);
    let job = Rig::records(records, Vec::new());
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rig.job(job))).unwrap_err();
    rig.restart();
    rig.assert_settled(&share);
    assert_eq!(rig.kept(), [""; 0]);
}

/// As after a crash that took the row of what was placed, but not the file: it is missed and found in
/// one go, and nothing is owed for it.
#[test]
fn what_is_missed_and_then_found_is_not_awaited() {
    let (share, mut rig) = both();
    let path = rig.root.join("a");
    std::fs::write(rig.root.join("same"), b"a").unwrap();
    std::fs::rename(rig.root.join("same"), &path).unwrap();
    let entry = Touch::Entry(ObjectId::ROOT, Name::new(b"a").unwrap());
    rig.applier().dirty([entry]);
    rig.applier().settle().unwrap();
    assert_eq!(rig.shelf().debt_totals().0, 0);
    assert_eq!(rig.follow().progress().debts, 0);
    rig.assert_settled(&share);
}

/// What a content's coming changed on the disk is looked at again after a crash until it is synced.
#[test]
fn content_that_came_is_marked_until_it_is_synced() {
    let (mut share, mut rig) = both();
    share.write("a", b"new content");
    rig.feed(&mut share);
    let sweep = |rig: &mut Rig| {
        rig.clock.on(5);
        rig.try_step(&mut Step::Idle).unwrap();
        assert_eq!(rig.shelf().marks().unwrap(), []);
    };
    sweep(&mut rig);
    rig.pay_all(&share);
    assert_eq!(rig.shelf().marks().unwrap().len(), 1);
    sweep(&mut rig);
    rig.assert_settled(&share);
}

#[test]
fn attributes_of_every_kind_come_with_the_row_or_apart_from_it() {
    let (mut share, mut rig) = both();
    share.make("link", Kind::Symlink, |object| object.target = b"a".to_vec());
    share.make("fifo", Kind::Fifo, |_| {});
    settled(&mut share, &mut rig);
    let inodes = |rig: &Rig| ["a", "dir", "dir/x"].map(|path| rig.path(path).metadata().unwrap().ino());
    let before = inodes(&rig);
    for lengths in [&[3][..], &[2000], &[2000, 0], &[], &[1500], &[1]] {
        for path in ["a", "dir", "dir/x", "link", "fifo"] {
            share.dress(share.at(path), lengths);
        }
        share.dress(ObjectId::ROOT, lengths);
        rig.feed(&mut share);
        // Of those in the row nothing is awaited; of the others everything, and no content.
        let apart = lengths.iter().sum::<usize>() > 1024;
        assert_eq!(rig.shelf().debt_totals(), (if apart { 6 } else { 0 }, 0), "{lengths:?}");
        if apart {
            // The process does not live to see them come.
            rig.restart();
        }
        settled(&mut share, &mut rig);
        assert_eq!(inodes(&rig), before, "no content came");
    }
    // With a content, and on a new object.
    share.write("a", b"new content");
    share.dress(share.at("a"), &[3000]);
    let new = share.file("dir/new", b"new");
    share.dress(new, &[3001]);
    rig.feed(&mut share);
    assert!(!rig.exists("dir/new"), "not before its attributes are here");
    settled(&mut share, &mut rig);
    // Awaited, and then there is nothing to wait for.
    share.dress(new, &[2002]);
    rig.feed(&mut share);
    share.dress(new, &[4]);
    rig.feed(&mut share);
    rig.assert_settled(&share);
    // A copy that is compared has all of it already.
    rig.compare(&mut share);
    assert_eq!(rig.shelf().debt_totals(), (0, 0));
    rig.assert_settled(&share);
}

/// What is awaited may be an ACL that lets fewer in than the mode alone would.
#[test]
fn nothing_is_open_to_others_before_its_attributes_are_here() {
    let (mut share, mut rig) = both();
    let mode = |rig: &Rig, path: &str| {
        let meta = rig.path(path).symlink_metadata().unwrap();
        meta.mode() & 0o7777
    };
    share.make("new", Kind::Directory, |object| object.attrs.mode = 0o2775);
    share.make("fifo", Kind::Fifo, |object| object.attrs.mode = 0o666);
    share.make("link", Kind::Symlink, |object| object.target = b"a".to_vec());
    share.set("a", |object| object.attrs.mode = 0o664);
    share.set("dir", |object| object.attrs.mode = 0o1777);
    for path in ["new", "fifo", "link", "a", "dir"] {
        share.dress_with(share.at(path), &[2000], &[("security.NTACL", b"of Windows")]);
    }
    rig.feed(&mut share);
    let modes = [("new", 0o2700), ("fifo", 0o600), ("link", 0o777), ("a", 0o600), ("dir", 0o1700)];
    modes.iter().for_each(|(path, closed)| assert_eq!(mode(&rig, path), *closed, "{path}"));
    rig.restart();
    modes.iter().for_each(|(path, closed)| assert_eq!(mode(&rig, path), *closed, "{path}"));
    settled(&mut share, &mut rig);
    assert_eq!(["new", "fifo", "a", "dir"].map(|path| mode(&rig, path)), [0o2775, 0o666, 0o664, 0o1777]);
}

/// Nor may it be closed for no reason: this disk may become the primary's before they have come, and is taken
/// for right then.
#[test]
fn where_no_acl_is_awaited_the_mode_is_right_and_no_acl_of_before_is_left() {
    // Version 2: the owner, user 1234, the group, the mask, others.
    let rights =
        [(1, 6, u32::MAX), (2, 6, 1234), (4, 0, u32::MAX), (0x10, 0, u32::MAX), (0x20, 0, u32::MAX)];
    let mut acl = 2u32.to_le_bytes().to_vec();
    for (tag, rights, id) in rights {
        let (tag, rights): (u16, u16) = (tag, rights);
        acl.extend(tag.to_le_bytes().into_iter().chain(rights.to_le_bytes()).chain(id.to_le_bytes()));
    }
    let (mut share, mut rig) = both();
    share.set("a", |object| object.attrs.mode = 0o600);
    share.dress_with(share.at("a"), &[10], &[("system.posix_acl_access", &acl)]);
    settled(&mut share, &mut rig);
    share.make("fifo", Kind::Fifo, |object| object.attrs.mode = 0o666);
    share.set("a", |object| object.attrs.mode = 0o664);
    share.set("dir", |object| object.attrs.mode = 0o2775);
    for path in ["fifo", "a", "dir"] {
        share.dress(share.at(path), &[2000]);
    }
    rig.feed(&mut share);
    rig.restart();
    assert_eq!(rig.shelf().debt_totals().0, 3, "their attributes have not come");
    let modes = ["fifo", "a", "dir"].map(|path| rig.path(path).metadata().unwrap().mode() & 0o7777);
    assert_eq!(modes, [0o666, 0o664, 0o2775]);
    let acl = rustix::fs::getxattr(rig.path("a"), "system.posix_acl_access", &mut [0; 64]);
    assert_eq!(acl, Err(rustix::io::Errno::NODATA), "with the new mode it would let its user in");
    settled(&mut share, &mut rig);
}

#[test]
fn a_seeded_file_gets_the_attributes_that_it_lacks() {
    let mut share = Share::new();
    let mut rig = Rig::bare();
    for (path, lengths) in [("row", &[5][..]), ("apart", &[2000]), ("right", &[2001])] {
        let id = share.file(path, path.as_bytes());
        share.dress(id, lengths);
        std::fs::write(rig.path(path), path).unwrap();
    }
    rustix::fs::setxattr(rig.path("row"), "user.wrong", b"x", rustix::fs::XattrFlags::empty()).unwrap();
    let right = vec![b'x'; 2001];
    rustix::fs::setxattr(rig.path("right"), "user.0", &right, rustix::fs::XattrFlags::empty()).unwrap();
    let before = ["row", "apart", "right"].map(|path| rig.path(path).metadata().unwrap().ino());
    rig.compare(&mut share);
    assert_eq!(rig.shelf().debt_totals().0, 1, "what is missing of one");
    rig.pay_all(&share);
    rig.assert_settled(&share);
    assert_eq!(["row", "apart", "right"].map(|path| rig.path(path).metadata().unwrap().ino()), before);
}

/// Its record is on the way, and says that there is more to it.
#[test]
fn a_content_that_came_before_anybody_knew_of_its_attributes_is_asked_for_again() {
    let (mut share, mut rig) = both();
    let a = share.at("a");
    share.write("a", b"newer");
    share.dress(a, &[2000]);
    let early = rig.whole(a, share.objects[&a].version, &share.data[&a]).into_iter().collect();
    rig.job(Job::Contents(early));
    rig.feed(&mut share);
    assert_eq!(rig.read("a"), "a", "not without them");
    settled(&mut share, &mut rig);
}
