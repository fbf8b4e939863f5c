//! Standing still and going on by itself: a missing mount (R28), a full disk (R27).

use std::fs;
use std::path::Path;
use std::process::Command;

use super::rig::Rig;
use super::share::Share;
use crate::follow::FollowError;
use crate::follow::applier::Step;
use crate::tree::TreeError;

#[test]
fn without_its_marker_the_share_stands_still_and_loses_nothing() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    share.file("a", b"a");
    share.publish();
    let ours = rig.path(".nearshare");
    let away = rig.state.with_file_name("away");
    fs::rename(&ours, &away).unwrap();
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
    assert_eq!(rig.pay(&share, 10), 1);
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

/// A file system of 8 MiB that is unmounted with it.
struct Small(tempfile::TempDir);
impl Small {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
        fs::create_dir(&mount).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).status();
        let mounted = made.ok()?.success()
            && Command::new("mount")
                .args(["-o", "loop"])
                .args([&image, &mount])
                .status()
                .ok()?
                .success();
        mounted.then_some(Self(dir))
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
    let Some(small) = Small::new() else {
        eprintln!("not run: it takes root and loop devices");
        return;
    };
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
    assert_eq!(rig.pay(&share, 10), 1);
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
