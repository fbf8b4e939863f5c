//! Nothing that nearshare did not put there is ever destroyed.

use std::fs;

use super::rig::Rig;
use super::share::Share;

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
