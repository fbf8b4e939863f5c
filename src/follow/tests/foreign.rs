//! Nothing that nearshare did not put there is ever destroyed.

use std::fs;

use super::rig::Rig;
use super::share::Share;
use crate::catalog::Touch;
use crate::effect::{Depth, Read};
use crate::id::{Gen, Name, ObjectId, RelPath};
use crate::route::Standing;

fn pair() -> (Share, Rig) {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.file("a", b"ours");
    share.dir("dir");
    share.file("dir/x", b"x");
    rig.follow_all(&mut share);
    rig.idle();
    (share, rig)
}

fn ends(mut share: Share, mut rig: Rig, kept: &[&str]) {
    rig.follow_all(&mut share);
    rig.assert_settled(&share);
    assert_eq!(rig.kept(), kept);
}

#[test]
fn a_file_or_directory_in_the_way() {
    let (mut share, rig) = pair();
    fs::write(rig.path("n"), "foreign").unwrap();
    fs::create_dir(rig.path("d")).unwrap();
    fs::write(rig.path("d/in"), "").unwrap();
    share.file("n", b"ours");
    share.file("d", b"a file");
    share.dir("e");
    fs::write(rig.path("e"), "no directory").unwrap();
    ends(share, rig, &["foreign", "in", "no directory"]);
}

#[test]
fn a_file_changed_here_before_new_content_comes() {
    let (mut share, rig) = pair();
    fs::write(rig.path("a"), "mine").unwrap();
    share.write("a", b"newer");
    ends(share, rig, &["mine"]);
}

#[test]
fn a_file_with_two_names_changed_here() {
    let (mut share, mut rig) = pair();
    share.link("a", "dir/a");
    rig.follow_all(&mut share);
    fs::write(rig.path("dir/a"), "mine").unwrap();
    share.write("a", b"newer");
    ends(share, rig, &["mine"]);
}

#[test]
fn a_file_changed_here_before_it_is_deleted() {
    let (mut share, rig) = pair();
    fs::write(rig.path("a"), "mine").unwrap();
    fs::write(rig.path("dir/x"), "mine too").unwrap();
    share.unlink("a");
    share.unlink("dir");
    ends(share, rig, &["mine", "mine too"]);
}

#[test]
fn a_file_changed_here_before_another_takes_its_name() {
    let (mut share, rig) = pair();
    fs::write(rig.path("a"), "mine").unwrap();
    share.rename("dir/x", "a");
    ends(share, rig, &["mine"]);
}

#[test]
fn a_file_changed_here_of_which_only_the_mode_changes_is_put_right() {
    let (mut share, rig) = pair();
    fs::write(rig.path("a"), "mine").unwrap();
    share.set("a", |object| object.attrs.mode = 0o600);
    ends(share, rig, &["mine"]);
}

#[test]
fn a_file_changed_here_that_lost_its_name_before_it_is_deleted() {
    let (mut share, mut rig) = pair();
    fs::write(rig.path("a"), "mine").unwrap();
    let entry = share.entry("a");
    let id = share.hide(entry);
    rig.follow_all(&mut share);
    share.orphan(id);
    ends(share, rig, &["mine"]);
}

#[test]
fn a_file_in_a_directory_that_is_deleted() {
    let (mut share, rig) = pair();
    fs::write(rig.path("dir/foreign"), "foreign").unwrap();
    share.unlink("dir");
    ends(share, rig, &["foreign"]);
}

/// What the notes say of where it was.
#[test]
fn what_is_kept_tells_where_it_was() {
    let (mut share, mut rig) = pair();
    share.dir("dir/sub");
    share.dir("gone");
    share.dir("gone/below");
    share.file("gone/below/y", b"y");
    rig.follow_all(&mut share);
    rig.idle();
    fs::write(rig.path("dir/x"), "mine").unwrap();
    fs::write(rig.path("dir/sub/n"), "in the way").unwrap();
    fs::write(rig.path("gone/below/foreign"), "foreign").unwrap();
    share.write("dir/x", b"newer");
    share.file("dir/sub/n", b"n");
    for path in ["gone/below/y", "gone/below", "gone"] {
        share.unlink(path);
    }
    rig.follow_all(&mut share);
    rig.assert_settled(&share);
    let mut told = Vec::new();
    for dir in fs::read_dir(rig.path(".nearshare/kept")).unwrap() {
        let dir = dir.unwrap().path();
        let note = fs::read_to_string(dir.join("note")).unwrap();
        let path = note.lines().find_map(|line| line.strip_prefix("path ")).map(str::to_owned);
        told.push((path, fs::read_to_string(dir.join("data")).unwrap()));
    }
    told.sort();
    let want = [("/dir/sub/n", "in the way"), ("/dir/x", "mine"), ("/gone/below/foreign", "foreign")];
    assert_eq!(told, want.map(|(path, data)| (Some(path.to_owned()), data.to_owned())));
}

#[test]
fn what_was_removed_here_comes_back_when_it_is_touched() {
    let (mut share, mut rig) = pair();
    share.dir("dir/deep");
    share.file("dir/deep/f", b"f");
    rig.follow_all(&mut share);
    fs::remove_dir_all(rig.path("dir")).unwrap();
    fs::remove_file(rig.path("a")).unwrap();
    share.set("a", |object| object.attrs.mode = 0o600);
    share.file("dir/deep/g", b"g");
    ends(share, rig, &[]);
}

#[test]
fn what_was_moved_here_is_moved_back() {
    let (mut share, rig) = pair();
    fs::rename(rig.path("dir"), rig.path("mine")).unwrap();
    share.file("dir/y", b"y");
    ends(share, rig, &[]);
}

/// R18: this site led when its server was asked, and does not any more when the server does it.
#[test]
fn what_the_server_does_late_is_put_right_and_never_answered() {
    let (share, mut rig) = pair();
    let touch = Touch::Entry(ObjectId::ROOT, Name::new(b"a").unwrap());
    let mut batch = rig.shelf().batch();
    batch.mark(touch.clone(), Gen(0));
    batch.doubt(touch.clone());
    rig.shelf().commit(batch, true).wait().unwrap();
    rig.restart();
    rig.in_force();
    let read = |path: &[u8]| {
        let (share, path) = ("eng".parse().unwrap(), RelPath::parse(path).unwrap());
        Read { share, path, depth: Depth::Object, home_only: false }
    };
    rig.clock.on(20);
    rig.idle();
    rig.idle();
    fs::write(rig.path("a"), "late").unwrap();
    assert_eq!(rig.follow().standing(&read(b"a")), Standing::Ahead);
    rig.clock.on(60);
    rig.idle();
    rig.pay_all(&share);
    assert_eq!(fs::read(rig.path("a")).unwrap(), b"ours");
    assert_eq!(rig.shelf().doubts().unwrap(), [touch], "until it is known");
    assert_eq!(rig.follow().standing(&read(b"dir/x")), Standing::Current);
    // Still held after a restart, until the server has ended and tidied up.
    rig.restart();
    rig.in_force();
    rig.follow().server_has_ended(Vec::new());
    for seconds in [0, 1, 2, 3] {
        assert_eq!(rig.follow().progress().suspects, 1);
        rig.clock.on(seconds);
        rig.idle();
    }
    rig.clock.on(4);
    rig.idle();
    assert_eq!(rig.follow().standing(&read(b"a")), Standing::Current);
    rig.clock.on(1);
    rig.idle();
    assert!(rig.shelf().marks().unwrap().is_empty());
    ends(share, rig, &["late"]);
}
