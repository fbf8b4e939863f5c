//! What a copy may answer for: its own changes on their way home (R9), and contents it awaits (R25).

use super::rig::Rig;
use super::share::Share;
use crate::catalog::Touch;
use crate::effect::{Change, Depth, Reach, Read, Target};
use crate::follow::applier::Job;
use crate::follow::lock;
use crate::follow::{AheadTicket, Terms};
use crate::hold::{LEASE, Moment};
use crate::id::{Gen, ObjectId, RelPath, Seq};
use crate::link::share::{Fresh, Grant};
use crate::object::Kind;
use crate::route::Certainty;
use crate::route::Standing::{self, Ahead, Barrier, Behind, Current, Unconfirmed};

fn pair() -> (Share, Rig) {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.file("a", b"a");
    share.dir("dir");
    share.dir("dir/deep");
    share.file("dir/x", b"x");
    share.link("dir/x", "hard");
    share.make("in", Kind::Symlink, |object| object.target = b"dir/./x".to_vec());
    share.make("up", Kind::Symlink, |object| object.target = b"dir".to_vec());
    share.make("out", Kind::Symlink, |object| object.target = b"/etc".to_vec());
    rig.follow_all(&mut share);
    (share, rig)
}

fn path(text: &str) -> RelPath {
    RelPath::parse(text.as_bytes()).unwrap()
}
fn stands(rig: &Rig, text: &str, depth: Depth) -> Standing {
    let share = "eng".parse().unwrap();
    rig.follow().standing(&Read { share, path: path(text), depth, home_only: false })
}
pub fn object(rig: &Rig, text: &str) -> Standing {
    stands(rig, text, Depth::Object)
}
fn begin(rig: &Rig, paths: &[&str]) -> AheadTicket<super::faulty::Faulty> {
    let targets = paths.iter().map(|text| Target { path: path(text), reach: Reach::Entry }).collect();
    let change = Change { share: "eng".parse().unwrap(), targets };
    block_on(rig.follow().begin(&change)).unwrap_or_else(|error| panic!("{error}"))
}
fn block_on<F: std::future::Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Requests that came while another took its place may still ask it.
#[test]
fn a_copy_that_was_stopped_answers_for_nothing() {
    let (_share, rig) = pair();
    assert_eq!(rig.follow().certainty(), Certainty::Relaxed);
    rig.follow().stop();
    assert_eq!(rig.follow().certainty(), Certainty::Unsure);
}

/// R10.
#[test]
fn a_lease_of_another_epoch_is_none() {
    let (_share, mut rig) = pair();
    rig.in_force();
    let follow = rig.follow();
    follow.reconfigure(Terms { strict: true, ..Terms::default() });
    let grant = |epoch| {
        let number = lock(&follow.lease.taker).ask(Moment::now(&*follow.clock));
        let fresh = Fresh { epoch, seq: 0, in_force: Default::default(), generation: 0 };
        let lease_ms = u32::try_from(LEASE.as_millis()).unwrap();
        follow.granted(&Grant { number, lease_ms, fresh: Some(fresh) }).unwrap()
    };
    let epoch = rig.shelf().head().at.epoch.0;
    for other in [epoch - 1, epoch + 1] {
        assert!(!grant(other), "{other}");
        assert_eq!(follow.certainty(), Certainty::Unsure);
    }
    assert!(grant(epoch));
    assert_eq!(follow.certainty(), Certainty::Sure);
}

#[test]
fn nothing_is_answered_before_the_first_comparison_and_the_primarys_word() {
    let mut share = Share::new();
    share.file("a", b"a");
    let mut rig = Rig::bare();
    assert_eq!(object(&rig, "a"), Unconfirmed);
    rig.compare(&mut share);
    rig.in_force();
    assert_eq!(object(&rig, "a"), Unconfirmed, "its content has not come");
    rig.pay_all(&share);
    assert_eq!(object(&rig, "a"), Current);
    rig.restart();
    assert_eq!(object(&rig, "a"), Barrier);
    rig.in_force();
    assert_eq!(object(&rig, "a"), Current);
}

#[test]
fn a_change_on_its_way_is_ahead_wherever_it_shows() {
    let (_share, mut rig) = pair();
    rig.in_force();
    let ticket = begin(&rig, &["dir/x"]);
    for text in ["dir/x", "hard", "in", "up/x", "dir", "up"] {
        assert_eq!(object(&rig, text), Ahead, "{text}");
    }
    for text in ["a", "dir/deep", "dir/none", ""] {
        assert_eq!(object(&rig, text), Current, "{text}");
    }
    assert_eq!(stands(&rig, "", Depth::Children), Ahead);
    assert_eq!(stands(&rig, "dir/deep", Depth::Tree), Current);
    assert_eq!(object(&rig, "out"), Ahead, "nobody knows where it leads");
    ticket.refused();
    assert_eq!(stands(&rig, "", Depth::Tree), Current);
    // The note goes from the disk in its own time, which is before this.
    rig.shelf().commit(rig.shelf().batch(), false).wait().unwrap();
    assert!(rig.shelf().ahead_notes().unwrap().is_empty());
}

#[test]
fn what_is_to_be_made_is_ahead_as_a_missing_entry() {
    let (_share, mut rig) = pair();
    rig.in_force();
    let _ticket = begin(&rig, &["new/sub/file"]);
    for text in ["new", "new/sub/file", "new/other"] {
        assert_eq!(object(&rig, text), Ahead, "{text}");
    }
    assert_eq!(object(&rig, "dir/none"), Current, "a negative answer");
    assert_eq!(stands(&rig, "", Depth::Children), Ahead);
}

#[test]
fn a_link_that_is_itself_deleted_is_ahead_in_its_own_directory() {
    let (mut share, mut rig) = pair();
    share.make("dir/deep/l", Kind::Symlink, |object| object.target = b"../x".to_vec());
    share.file("dir/deep/z", b"z");
    rig.follow_all(&mut share);
    rig.in_force();
    let _ticket = begin(&rig, &["dir/deep/l"]);
    assert_eq!(stands(&rig, "dir/deep", Depth::Children), Ahead);
    assert_eq!(object(&rig, "dir/deep/z"), Current);
}

#[test]
fn a_note_ends_when_its_generation_is_applied_with_its_content() {
    let (mut share, mut rig) = pair();
    rig.in_force();
    let ticket = begin(&rig, &["a"]);
    let touch = Touch::Object(share.at("a"));
    ticket.answered(vec![(touch.clone(), Gen(7))]);
    share.release(vec![(touch.clone(), Gen(6))]);
    rig.feed(&mut share);
    assert_eq!(object(&rig, "a"), Ahead, "another change's release");
    share.write("a", b"mine");
    share.release(vec![(touch, Gen(7))]);
    rig.feed(&mut share);
    assert_eq!(object(&rig, "a"), Ahead, "its content has not come");
    rig.pay_all(&share);
    assert_eq!(object(&rig, "a"), Current);
    rig.shelf().commit(rig.shelf().batch(), false).wait().unwrap();
    assert_eq!(
        rig.shelf().ahead_notes().unwrap().len(),
        1,
        "a power cut may bring the old version back"
    );
    rig.idle();
    assert!(rig.shelf().ahead_notes().unwrap().is_empty(), "the file system is synced");
}

#[test]
fn a_deletion_does_not_wait_for_the_contents_of_others() {
    let (mut share, mut rig) = pair();
    rig.in_force();
    share.write("dir/x", b"slow");
    rig.feed(&mut share);
    let touch = Touch::Entry(crate::id::ObjectId::ROOT, super::share::name("a"));
    begin(&rig, &["a"]).answered(vec![(touch.clone(), Gen(7))]);
    share.unlink("a");
    share.release(vec![(touch, Gen(7))]);
    rig.feed(&mut share);
    assert_eq!(object(&rig, "a"), Current);
}

#[test]
fn a_release_survives_a_failure_between_spool_and_disk() {
    let (mut share, mut rig) = pair();
    rig.in_force();
    let touch = Touch::Object(share.at("a"));
    begin(&rig, &["a"]).answered(vec![(touch.clone(), Gen(7))]);
    share.write("a", b"mine");
    share.release(vec![(touch, Gen(7))]);
    let (id, data) = (share.at("a"), share.data[&share.at("a")].clone());
    let version = share.objects[&id].version;
    let inline = crate::catalog::Inline { id, version, data };
    let records = std::mem::take(&mut share.records);
    rig.tree().doom(0, super::faulty::Fate::Fail(libc::EIO));
    let mut step = crate::follow::applier::Step::Job(Rig::records(records, vec![inline]));
    assert!(rig.try_step(&mut step).is_err());
    rig.try_step(&mut step).unwrap();
    assert_eq!(object(&rig, "a"), Current);
    assert_eq!(rig.read("a"), "mine");
}

#[test]
fn what_the_primary_says_it_changed_is_ahead_though_the_path_meant_something_else_here() {
    let (mut share, mut rig) = pair();
    rig.in_force();
    let ticket = begin(&rig, &["dir/new"]);
    // Meanwhile another directory took the name at home, and its record comes first.
    share.rename("dir", "old");
    let dir = share.dir("dir");
    rig.feed(&mut share);
    ticket.answered(vec![(Touch::Entry(dir, super::share::name("new")), Gen(9))]);
    assert_eq!(object(&rig, "dir/new"), Ahead);
    assert_eq!(stands(&rig, "dir", Depth::Children), Ahead);
}

#[test]
fn a_restart_leaves_doubt_which_only_a_barrier_ends() {
    let (mut share, mut rig) = pair();
    rig.in_force();
    // As a process that ends at once leaves it.
    let _ticket = std::mem::ManuallyDrop::new(begin(&rig, &["a"]));
    // The ticket's own reference goes with the process.
    rig.live().follow.stop();
    let (root, state) = (rig.root.clone(), rig.state.clone());
    let copy = tempfile::tempdir_in("/dev/shm").unwrap();
    let kept = copy.path().join("state");
    std::process::Command::new("cp").arg("-a").args([&state, &kept]).status().unwrap();
    let mut rig2 = Rig::on(root, kept, None);
    rig2.in_force();
    assert_eq!(object(&rig2, "a"), Ahead);
    share.write("dir/x", b"more");
    rig2.feed(&mut share);
    let doubts = lock(&rig2.follow().ahead).in_doubt();
    assert_eq!(doubts.len(), 1);
    let head = rig2.shelf().head().at.seq;
    rig2.job(Job::Barrier(doubts.clone(), Seq(head.0 + 1), Vec::new()));
    rig2.job(Job::Barrier(doubts, head, Vec::new()));
    assert_eq!(object(&rig2, "a"), Ahead, "neither the record nor all contents are here");
    rig2.pay_all(&share);
    assert_eq!(object(&rig2, "a"), Current);
    share.write("a", b"later");
    rig2.follow_all(&mut share);
    assert_eq!(rig2.follow().progress().ahead, 0, "two barriers end a note once");
    assert_eq!(object(&rig2, "a"), Current);
}

/// R9: the primary could not read something that this site has changed there.
#[test]
fn what_stays_open_behind_a_barrier_is_ahead_until_it_is_released_and_nothing_else_is() {
    let (_share, mut rig) = pair();
    rig.in_force();
    let tickets = [begin(&rig, &["a"]), begin(&rig, &["dir/x"])];
    drop(tickets);
    let (a, head) = (Touch::Entry(ObjectId::ROOT, super::share::name("a")), rig.shelf().head().at.seq);
    let doubts = lock(&rig.follow().ahead).in_doubt();
    assert_eq!(doubts.len(), 2);
    rig.job(Job::Barrier(doubts, head, vec![(a.clone(), Gen(7))]));
    assert_eq!((object(&rig, "a"), object(&rig, "dir/x")), (Ahead, Current));
    assert_eq!(stands(&rig, "dir", Depth::Tree), Current);
    // Another barrier ends what was in doubt, and opens no second note.
    drop(begin(&rig, &["dir/x"]));
    let doubts = lock(&rig.follow().ahead).in_doubt();
    rig.job(Job::Barrier(doubts, head, vec![(a.clone(), Gen(7))]));
    assert_eq!((object(&rig, "a"), object(&rig, "dir/x")), (Ahead, Current));
    assert_eq!(rig.follow().progress().ahead, 1);
    // It outlives this process: then it is in doubt again.
    rig.restart();
    rig.in_force();
    assert_eq!(object(&rig, "a"), Ahead);
    let doubts = lock(&rig.follow().ahead).in_doubt();
    rig.job(Job::Barrier(doubts, head, vec![(a.clone(), Gen(7))]));
    rig.job(Job::Releases(vec![(a.clone(), Gen(6))]));
    assert_eq!(object(&rig, "a"), Ahead);
    rig.job(Job::Releases(vec![(a, Gen(7))]));
    assert_eq!(object(&rig, "a"), Current);
    rig.idle();
    assert_eq!((rig.follow().progress().ahead, rig.shelf().ahead_notes().unwrap().len()), (0, 0));
}

#[test]
fn awaited_content_is_behind() {
    let (mut share, mut rig) = pair();
    rig.in_force();
    share.write("dir/x", b"new");
    rig.feed(&mut share);
    assert_eq!((object(&rig, "dir/x"), object(&rig, "a")), (Behind, Current));
    assert_eq!(stands(&rig, "dir", Depth::Children), Behind);
    // An acknowledgement is the position and the debts.
    assert_eq!(rig.shelf().head(), share.shelf.head());
    assert_eq!(rig.follow().progress().debts, 1);
    rig.pay_all(&share);
    assert_eq!(object(&rig, "dir/x"), Current);
}

/// What loses its name while its newest content is awaited: the disk still has the old one for a moment, which was
/// replaced before what this copy shows by now (R20).
#[test]
fn what_is_deleted_while_it_is_awaited_is_not_shown_as_it_was() {
    not_shown_as_it_was(|share| share.unlink("d/f"));
    not_shown_as_it_was(|share| share.rename("d/f", "g"));
    // Replaced by another file, as servers do, and that one deleted.
    not_shown_as_it_was(|share| {
        share.unlink("d/f");
        share.file("d/f", b"three");
        share.unlink("d/f");
    });
    not_shown_as_it_was(|share| {
        share.write("d/f", b"three");
        share.rename("d/f", "g");
    });
    // With the directory that it is in.
    not_shown_as_it_was(|share| share.rename("d", "e"));
    not_shown_as_it_was(|share| {
        share.unlink("d/f");
        share.unlink("d");
    });
}

fn not_shown_as_it_was(change: impl FnOnce(&mut Share)) {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.dir("d");
    share.file("d/f", b"one");
    rig.follow_all(&mut share);
    rig.in_force();
    share.write("d/f", b"two");
    rig.feed(&mut share);
    assert_eq!(object(&rig, "d/f"), Behind);
    change(&mut share);
    share.publish();
    let job = Rig::records(std::mem::take(&mut share.records), Vec::new());
    rig.tree().doom(0, super::faulty::Fate::Crash);
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rig.job(job))).unwrap_err();
    assert!(rig.exists("d/f"), "spooled, and not settled");
    assert_eq!((object(&rig, "d/f"), stands(&rig, "", Depth::Tree)), (Behind, Behind));
    rig.tree().spare();
    rig.applier().settle().unwrap();
    assert!(!rig.exists("d/f"));
    rig.pay_all(&share);
    assert_eq!((object(&rig, "d/f"), stands(&rig, "", Depth::Tree)), (Current, Current));
}
