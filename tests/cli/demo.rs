//! The demonstration: that it shows what it says, also as nobody in particular, and that it would notice if
//! something were not so.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::common::daemon::Daemon;
use super::common::{NEARSHARE, PATIENCE, needs_root, wait_until};
use super::path;

/// Who owns nothing.
const NOBODY: u32 = 65534;

/// A demonstration with a `TMPDIR` of its own.
struct Demo {
    dir: TempDir,
    daemon: Daemon,
}

impl Demo {
    /// By way of `before`, a command that runs what comes behind it.
    fn start(dir: TempDir, before: &[&str], program: &Path) -> Self {
        let tmp = format!("TMPDIR={}", dir.path().join("tmp").display());
        let command = [before, &["env", &tmp, path(program), "demo"]].concat();
        let daemon = Daemon::spawn(&command, None, &dir.path().join("told"));
        Self { dir, daemon }
    }

    fn made() -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        dir
    }

    fn ends_with(&mut self) -> Option<i32> {
        let limit = Duration::from_secs(60);
        let exit = || self.daemon.exit().ok_or_else(|| self.daemon.tail());
        wait_until("the demo", limit, exit).code()
    }

    fn told(&self) -> String {
        self.daemon.log_text()
    }

    /// What is in its `TMPDIR`.
    fn left(&self) -> Vec<PathBuf> {
        let left = fs::read_dir(self.dir.path().join("tmp")).unwrap();
        left.map(|entry| entry.unwrap().path()).collect()
    }
}

#[test]
fn the_demo_shows_what_it_says() {
    let mut demo = Demo::start(Demo::made(), &[], Path::new(NEARSHARE));
    assert_eq!(demo.ends_with(), Some(0), "{}", demo.told());
    assert_eq!(demo.left(), [""; 0].map(PathBuf::from), "something is left behind");
}

#[test]
fn without_rights_the_demo_says_what_it_leaves_out_and_shows_the_rest() {
    needs_root("another user");
    let dir = Demo::made();
    // The build may lie where only its owner gets to.
    let program = dir.path().join("nearshare");
    fs::copy(NEARSHARE, &program).unwrap();
    for mine in [dir.path(), &dir.path().join("tmp")] {
        fs::set_permissions(mine, fs::Permissions::from_mode(0o700)).unwrap();
        chown(mine, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut demo = Demo::start(dir, &as_nobody, &program);
    assert_eq!(demo.ends_with(), Some(0), "{}", demo.told());
    let told = demo.told();
    let left_out: Vec<_> =
        told.lines().filter_map(|line| line.trim().strip_prefix("left out here: ")).collect();
    let expected = [
        "device files are not copied: that takes root or CAP_MKNOD",
        "extended attributes of trusted and security are not copied: that takes root or CAP_SYS_ADMIN",
        "objects moved behind nearshare's back are found by a scan only: opening by handle takes root or \
         CAP_DAC_READ_SEARCH",
        "owners are not copied: that takes root or CAP_CHOWN",
    ];
    assert_eq!(left_out, expected, "{told}");
    assert!(told.contains("HQ, Lyon and Osaka are identical"), "{told}");
    assert_eq!(demo.left(), [""; 0].map(PathBuf::from), "something is left behind");
}

#[test]
fn a_claim_that_does_not_hold_ends_the_demo_with_1_and_keeps_everything() {
    let mut demo = Demo::start(Demo::made(), &[], Path::new(NEARSHARE));
    // From here on until it is healed, which waits for Osaka's lease to end, only Osaka's disk answers there.
    wait_until("the line to be cut", PATIENCE, || {
        if demo.told().contains("ok  reads go on at Osaka") { Ok(()) } else { Err(demo.told()) }
    });
    let [kept] = &demo.left()[..] else { panic!("{:?}", demo.left()) };
    fs::write(kept.join("osaka/engineering/plan.txt"), "a lie\n").unwrap();
    assert_eq!(demo.ends_with(), Some(1), "{}", demo.told());
    let told = demo.told();
    let failed = format!(
        "nearshare: the demonstration failed; everything is kept in {}: this does not hold: Osaka is cut \
         off for certain, and serves what it has: the second edition\ninstead: ",
        kept.display()
    );
    let instead = told.split_once(&failed).unwrap_or_else(|| panic!("no {failed:?} in {told}")).1;
    assert!(instead.contains("a lie"), "{instead}");
    assert!(!told.contains("ok  Osaka is cut off"), "{told}");
    assert!(!told.contains("All of this was checked"), "{told}");
    assert!(told.contains(&format!("the end of the log, {}:\n", kept.join("log").display())), "{told}");
    assert_eq!(&demo.left()[..], std::slice::from_ref(kept));
    for file in ["log", "map.toml", "hq/engineering/plan.txt", "osaka/engineering/plan.txt"] {
        assert!(kept.join(file).exists(), "{file} is gone");
    }
}
