//! Comparisons (R29): a first fill, a seeded disk, another journal.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::sync::oneshot;

use super::faulty::Fate;
use super::rig::Rig;
use super::share::Share;
use crate::follow::applier::{Job, Step};
use crate::follow::lock;

fn sample() -> Share {
    let mut share = Share::new();
    share.file("a", b"aaa");
    share.file("b", b"bbb");
    for dir in ["d", "d/e", "f", "g"] {
        share.dir(dir);
    }
    for path in ["d/1", "d/2", "d/e/3", "f/4", "f/5", "g/6"] {
        share.file(path, path.as_bytes());
    }
    share.link("a", "f/a");
    share
}

fn debts(rig: &Rig) -> usize {
    lock(&rig.follow().owed).len()
}

#[test]
fn an_equal_tree_transfers_nothing() {
    let mut share = sample();
    let mut rig = Rig::new(&mut share);
    rig.assert_settled(&share);
    let inode = rig.path("d/e/3").metadata().unwrap().ino();
    share.new_journal();
    rig.compare(&mut share);
    assert_eq!(debts(&rig), 0);
    rig.assert_settled(&share);
    assert_eq!(inode, rig.path("d/e/3").metadata().unwrap().ino());
    assert_eq!(rig.shelf().head(), share.shelf.head());
}

#[test]
fn a_fill_tells_how_fast_it_is_and_how_long_it_takes() {
    let mut share = Share::new();
    for n in 0..40 {
        share.file(&format!("{n}"), &[n; 1000]);
    }
    let mut rig = Rig::bare();
    rig.compare(&mut share);
    let progress = rig.follow().progress();
    assert_eq!((progress.compared, progress.debts, progress.debt_bytes), (40, 40, 40_000));
    assert_eq!((progress.files_per_second, progress.seconds_left), (0.0, 0.0), "not known yet");
    for second in 1..=5 {
        rig.clock.on(1);
        rig.follow().did(|done| done.bytes += 4000);
        assert_eq!(rig.pay(&share, 4), 4);
        let progress = rig.follow().progress();
        assert_eq!((progress.files_per_second, progress.bytes_per_second), (4.0, 4000.0), "{second}");
        assert_eq!(progress.seconds_left, 10.0 - second as f64);
    }
    rig.pay_all(&share);
    rig.clock.on(1);
    rig.idle();
    let progress = rig.follow().progress();
    assert_eq!((progress.files_per_second, progress.bytes_per_second), (0.0, 0.0), "all is here");
}

#[test]
fn a_seeded_disk_is_a_head_start_and_what_is_foreign_is_kept() {
    let mut share = sample();
    let mut rig = Rig::bare();
    for dir in ["d", "d/e", "extra"] {
        fs::create_dir(rig.path(dir)).unwrap();
    }
    fs::write(rig.path("d/1"), "d/1").unwrap();
    fs::write(rig.path("d/e/3"), "d/e/3").unwrap();
    fs::write(rig.path("d/2"), "D/2").unwrap();
    fs::write(rig.path("d/e/more"), "more").unwrap();
    fs::write(rig.path("extra/file"), "").unwrap();
    rig.compare(&mut share);
    assert_eq!(debts(&rig), share.data.len() - 2, "all but the two that are there");
    rig.pay_all(&share);
    rig.assert_settled(&share);
    assert_eq!(rig.kept(), ["D/2", "file", "more"]);
}

#[test]
fn another_history_is_come_to_through_the_park() {
    let mut share = sample();
    let mut rig = Rig::new(&mut share);
    let inode = |rig: &Rig, path: &str| rig.path(path).metadata().unwrap().ino();
    let (three, five) = (inode(&rig, "d/e/3"), inode(&rig, "f/5"));
    // The copy never hears how this came about.
    share.rename("d/e", "g/e");
    share.unlink("d");
    share.rename("f/5", "5");
    share.unlink("f");
    share.write("g/6", b"other");
    let (a, b) = (share.entry("a"), share.entry("b"));
    share.rotate(&[a, b]);
    share.publish();
    share.new_journal();
    rig.compare(&mut share);
    assert_eq!(debts(&rig), 1);
    rig.pay_all(&share);
    rig.assert_settled(&share);
    assert_eq!((inode(&rig, "g/e/3"), inode(&rig, "5")), (three, five));
    assert_eq!(rig.kept(), [""; 0]);
}

/// What a site that led wrote last is lost with it, and the next one gives its numbers away again.
#[test]
fn one_number_of_two_histories_is_two_contents() {
    for (ours, theirs) in [(1, 1), (2, 1), (1, 2)] {
        let mut share = sample();
        let mut rig = Rig::new(&mut share);
        let a = share.at("a");
        let before = share.objects[&a].clone();
        for n in 0..ours {
            share.write("a", format!("ours, {n}").as_bytes());
            rig.follow_all(&mut share);
        }
        // As if none of that had been.
        share.objects.insert(a, before);
        share.new_journal();
        for n in 0..theirs {
            share.write("a", format!("theirs, {n}").as_bytes());
        }
        rig.compare(&mut share);
        assert_eq!(debts(&rig), 1, "{ours} and {theirs}");
        rig.pay_all(&share);
        assert_eq!(rig.read("a"), format!("theirs, {}", theirs - 1));
        rig.assert_settled(&share);
        // Nor is a later number of theirs what we have.
        for n in 0..3 {
            share.write("a", format!("later, {n}").as_bytes());
            rig.follow_all(&mut share);
            assert_eq!(rig.read("a"), format!("later, {n}"));
        }
        rig.assert_settled(&share);
    }
}

#[test]
fn records_go_on_where_the_comparison_ended() {
    let mut share = sample();
    let mut rig = Rig::bare();
    rig.compare(&mut share);
    share.write("a", b"later");
    share.unlink("d");
    rig.follow_all(&mut share);
    rig.assert_settled(&share);
}

/// A comparison whose every job may fail halfway, and is then given again.
#[test]
fn a_failure_anywhere_in_a_comparison_takes_nothing_in_twice() {
    for after in 0..40 {
        let mut share = sample();
        let mut rig = Rig::new(&mut share);
        share.rename("d/e", "g/e");
        share.unlink("f");
        share.file("d/n", b"n");
        share.new_journal();
        rig.start_compare(&mut share);
        let (_, entries) = share.snapshot();
        let mut jobs: Vec<Job> =
            entries.chunks(2).map(|some| Job::CompareEntries(some.to_vec())).collect();
        jobs.push(Job::CompareEnd(oneshot::channel().0));
        rig.tree().doom(after, Fate::Fail(libc::EIO));
        for job in jobs {
            let mut step = Step::Job(job);
            while rig.try_step(&mut step).is_err() {}
        }
        rig.tree().spare();
        // What the disk refused is tried again.
        rig.idle();
        rig.pay_all(&share);
        rig.assert_settled(&share);
        assert_eq!(rig.kept(), [""; 0], "after {after}");
    }
}

#[test]
fn a_crash_anywhere_in_a_comparison_and_a_whole_one_after_it() {
    for after in 0..40 {
        let mut share = sample();
        let mut rig = Rig::new(&mut share);
        share.rename("d/e", "g/e");
        share.unlink("f");
        share.file("d/n", b"n");
        share.new_journal();
        rig.tree().doom(after, Fate::Crash);
        if catch_unwind(AssertUnwindSafe(|| rig.compare(&mut share))).is_err() {
            rig.restart();
            rig.compare(&mut share);
        }
        rig.tree().spare();
        rig.pay_all(&share);
        // What was half done is known to be ours.
        assert_eq!(rig.kept(), [""; 0], "after {after}");
        rig.assert_settled(&share);
    }
}
