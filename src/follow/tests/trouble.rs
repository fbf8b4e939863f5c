//! Standing still and going on by itself: a missing mount (R28), a full disk (R27).

use std::fs;
use std::path::Path;
use std::process::Command;

use super::faulty::Fate;
use super::rig::Rig;
use super::share::{Share, name};
use super::standing::object;
use crate::catalog::{Lead, Touch};
use crate::follow::FollowError;
use crate::follow::applier::{Job, Step};
use crate::id::{Epoch, Gen, ObjectId, Position, Seq};
use crate::route::Standing;
use crate::tree::TreeError;
use crate::tree::tests::skipped;

#[test]
fn without_its_marker_the_share_stands_still_and_loses_nothing() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.file("a", b"a");
    share.publish();
    let ours = rig.path(".nearshare");
    let away = rig.state.with_file_name("away");
    fs::rename(&ours, &away).unwrap();
    // It is noticed before anything comes.
    rig.try_step(&mut Step::Idle).unwrap_err();
    let records = std::mem::take(&mut share.records);
    let mut step = Step::Job(Rig::records(records, Vec::new()));
    for _ in 0..3 {
        let error = rig.try_step(&mut step).unwrap_err();
        assert!(matches!(error, FollowError::Tree(TreeError::NotTheShare { .. })), "{error}");
    }
    fs::rename(&away, &ours).unwrap();
    rig.try_step(&mut step).unwrap();
    rig.pay_all(&share);
    rig.assert_settled(&share);
}

#[test]
fn removals_pass_on_a_full_disk_and_make_room() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.file("a", b"a");
    rig.follow_all(&mut share);
    share.file("b", b"b");
    rig.feed(&mut share);
    *crate::follow::lock(&rig.tree().full) = Some(libc::ENOSPC);
    assert_eq!(rig.pay(&share, 10), 0);
    assert!(rig.follow().progress().stopped.is_some() && !rig.follow().may_fetch());
    share.unlink("a");
    rig.feed(&mut share);
    assert!(!rig.exists("a"));
    *crate::follow::lock(&rig.tree().full) = None;
    rig.clock.on(2);
    assert!(rig.follow().may_fetch());
    rig.pay_all(&share);
    rig.assert_settled(&share);
    assert_eq!(rig.follow().progress().stopped, None);
}

/// A directory that finds no room, or a link that the disk cannot hold, keeps nothing else waiting: not the
/// removal either that makes room (R27).
#[test]
fn what_the_disk_refuses_keeps_nothing_else_waiting() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.file("old", b"old");
    rig.follow_all(&mut share);
    rig.in_force();
    for errno in [libc::ENOSPC, libc::ENAMETOOLONG, libc::EIO] {
        *crate::follow::lock(&rig.tree().full) = Some(errno);
        share.dir("made");
        share.dir("made/below");
        rig.feed(&mut share);
        assert!(!rig.exists("made"));
        let why = rig.follow().progress().stopped.unwrap();
        assert!(why.contains("cannot be put on this disk"), "{why}");
        for (path, standing) in
            [("made", Standing::Ahead), ("made/below", Standing::Ahead), ("old", Standing::Current)]
        {
            assert_eq!(object(&rig, path), standing, "{path}");
        }
        // Behind it in the journal.
        share.unlink("old");
        rig.feed(&mut share);
        assert!(!rig.exists("old"));
        // Neither a release nor a restart takes it for settled.
        share.release(vec![(Touch::Entry(ObjectId::ROOT, name("made")), Gen(u64::MAX))]);
        rig.feed(&mut share);
        assert_eq!(object(&rig, "made"), Standing::Ahead);
        rig.crash();
        rig.open();
        *crate::follow::lock(&rig.tree().full) = Some(errno);
        rig.applier().take_up().unwrap();
        rig.in_force();
        assert_eq!(object(&rig, "made"), Standing::Ahead);
        *crate::follow::lock(&rig.tree().full) = None;
        rig.clock.on(2);
        rig.idle();
        assert_eq!(rig.follow().progress().stopped, None);
        assert_eq!(object(&rig, "made/below"), Standing::Current);
        rig.assert_settled(&share);
        share.unlink("made/below");
        share.unlink("made");
        share.file("old", b"old");
        rig.follow_all(&mut share);
    }
}

/// Beyond so many the copy stands still, and takes in no more; nor does what it tries again add up while the
/// whole disk fails.
#[test]
fn what_the_disk_refuses_has_a_limit() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.dir("old");
    rig.follow_all(&mut share);
    rig.applier().refused_most = 6;
    *crate::follow::lock(&rig.tree().full) = Some(libc::ENOSPC);
    for n in 0..3 {
        share.dir(&format!("d{n}"));
    }
    rig.feed(&mut share);
    *crate::follow::lock(&rig.tree().full) = Some(libc::EROFS);
    for _ in 0..20 {
        rig.clock.on(30);
        rig.try_step(&mut Step::Idle).unwrap_err();
    }
    let waiting = rig.applier().dirty.len();
    assert!(waiting <= 6, "{waiting}");

    *crate::follow::lock(&rig.tree().full) = Some(libc::ENOSPC);
    for n in 3..6 {
        share.dir(&format!("d{n}"));
    }
    share.unlink("old");
    share.publish();
    let records = std::mem::take(&mut share.records);
    let mut step = Step::Job(Rig::records(records, Vec::new()));
    for _ in 0..20 {
        rig.clock.on(30);
        let error = rig.try_step(&mut step).unwrap_err();
        assert!(error.to_string().contains("No space"), "{error}");
    }
    assert!(!rig.exists("old"), "it may make room");
    let waiting = rig.applier().dirty.len();
    assert!(waiting <= 20, "{waiting}");
    *crate::follow::lock(&rig.tree().full) = None;
    rig.try_step(&mut step).unwrap();
    rig.clock.on(30);
    rig.idle();
    assert_eq!(rig.follow().progress().stopped, None);
    rig.assert_settled(&share);
}

/// A copy's journal does not grow for ever; the newest records are there for those that follow it one day.
#[test]
fn old_records_go_from_a_copy() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    rig.applier().journal_kept = 20;
    for n in 0..50 {
        share.file(&format!("f{n}"), b"x");
        rig.follow_all(&mut share);
    }
    rig.idle();
    let (head, oldest) = (rig.shelf().head().at.seq.0, rig.shelf().oldest().0);
    assert!((20..=23).contains(&(head - oldest)), "{oldest} to {head}");
    rig.restart();
    share.write("f7", b"y");
    rig.follow_all(&mut share);
    rig.assert_settled(&share);
}

/// A pledge outlives a sync that fails once.
#[test]
fn a_pledge_is_kept_when_the_disk_syncs_again() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    let id = share.file("b", b"b");
    rig.feed(&mut share);
    rig.job(Job::Pledge(7, Some(vec![id])));
    assert!(crate::follow::lock(&rig.follow().kept).is_empty(), "its content has not come");
    // The rename, then the sync.
    let arrived = rig.fetch(&share, 10);
    let mut step = Step::Job(Job::Contents(arrived));
    for after in 0..20 {
        rig.tree().doom(after, Fate::Fail(libc::EIO));
        drop(rig.try_step(&mut step));
        rig.tree().spare();
        rig.clock.on(2);
    }
    rig.idle();
    assert_eq!(*crate::follow::lock(&rig.follow().kept), [7]);
}

/// R26: a large content is on its way when a later record names it again.
#[test]
fn a_pledge_of_all_waits_for_what_later_records_name_again() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.file("b", b"b");
    rig.feed(&mut share);
    rig.job(Job::Pledge(7, None));
    share.set("b", |object| object.attrs.mode = 0o600);
    rig.feed(&mut share);
    assert!(crate::follow::lock(&rig.follow().kept).is_empty(), "its content has not come");
    rig.pay_all(&share);
    rig.idle();
    assert_eq!(*crate::follow::lock(&rig.follow().kept), [7]);
}

/// R34: a site that may lead has been told what is here, also before a restart.
#[test]
fn a_fenced_copy_keeps_nothing_for_the_old_primary() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    let kept = |rig: &Rig| crate::follow::lock(&rig.follow().kept).clone();
    rig.follow().fence().unwrap();
    for (restarts, number) in [(false, 7), (true, 8)] {
        if restarts {
            rig.restart();
        }
        rig.job(Job::Pledge(number, None));
        // One second less than it lasts, with the two that pass when nothing is asked.
        rig.clock.on(27);
        rig.idle();
        assert_eq!(kept(&rig), [0; 0], "{restarts}");
    }
    rig.idle();
    assert_eq!(kept(&rig), [8]);
    // That was over before this start.
    rig.restart();
    rig.job(Job::Pledge(9, None));
    assert_eq!(kept(&rig), [9]);
}

/// R33: what is here may have ended with a lead that was never heard of here. Only who leads can tell.
#[test]
fn a_copy_that_has_only_heard_of_a_lead_does_not_say_that_it_follows() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    for epoch in [Epoch(1), Epoch(4)] {
        let lead = Lead {
            epoch,
            site: "hq".parse().unwrap(),
            base: Position { epoch: Epoch(3), seq: Seq(100) },
            chain: Default::default(),
        };
        let mut batch = rig.shelf().batch();
        batch.set_meta(move |meta| meta.lead = Some(lead));
        rig.shelf().commit(batch, true).wait().unwrap();
        rig.restart();
        assert!(rig.follow().report().confirmed && rig.follow().report().accepted < epoch.0);
        rig.in_force();
        assert_eq!(rig.follow().report().accepted, epoch.0);
        rig.restart();
        assert_eq!(rig.follow().report().accepted, epoch.0);
    }
}

/// What does not follow the records that are here is dropped: another stream brings what does.
#[test]
fn a_record_that_does_not_fit_is_asked_for_anew() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.file("a", b"a");
    share.publish();
    share.file("b", b"b");
    share.publish();
    let mut records = std::mem::take(&mut share.records);
    let second = records.split_off(1);
    let (done, mut answer) = tokio::sync::oneshot::channel();
    let with_nothing = second.iter().cloned().map(|record| (record, Vec::new())).collect();
    rig.job(Job::Records(with_nothing, done));
    assert!(
        answer.try_recv().is_err_and(|error| error == tokio::sync::oneshot::error::TryRecvError::Closed)
    );
    records.extend(second);
    rig.job(Rig::records(records, Vec::new()));
    rig.pay_all(&share);
    rig.assert_settled(&share);
}

/// A file system of 8 MiB that is unmounted with it.
struct Small(tempfile::TempDir);
impl Small {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        fs::create_dir(&mount).unwrap();
        let done = |command: &mut Command| {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        };
        done(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        done(Command::new("mount").args(["-o", "loop"]).args([&image, &mount]));
        Self(dir)
    }
    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("mount")
    }
}
impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[test]
fn a_really_full_disk_goes_on_when_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        return skipped("mounting takes root");
    }
    let small = Small::new();
    let state = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut share = Share::new();
    let mut rig = Rig::on(small.path(), state.path().join("state"), None);
    rig.compare(&mut share);
    rig.pay_all(&share);
    let _ = fs::remove_dir(rig.path("lost+found"));
    share.file("first", &[b'1'; 3 << 20]);
    rig.follow_all(&mut share);
    share.file("second", &[b'2'; 5 << 20]);
    rig.feed(&mut share);
    assert_eq!(rig.pay(&share, 10), 0);
    let why = rig.follow().progress().stopped.unwrap();
    assert!(why.contains("No space left"), "{why}");
    assert!(
        !rig.exists("second") && super::rig::list(Path::new(&rig.path(".nearshare/tmp"))).is_empty()
    );
    share.unlink("first");
    rig.feed(&mut share);
    rig.clock.on(2);
    rig.pay_all(&share);
    // What this file system was made with is not of the share.
    fs::remove_dir_all(rig.path(".nearshare/kept")).ok();
    assert_eq!(rig.read("second").len(), 5 << 20);
    assert_eq!(rig.follow().progress().stopped, None);
    rig.crash();
}
