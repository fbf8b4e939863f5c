//! Changes that nobody asks nearshare for, as the kernel tells of them. They are made by another process: what this
//! one does is taken for a change that it was asked for.

use std::os::unix::fs::MetadataExt;

use super::crashes::Mounted;
use super::*;
use crate::tree::tests::skipped;

/// A share that has been scanned once, on an ext4 of its own, with its state directory and `outside` beside it.
struct Watched {
    // In the order in which they are dropped.
    site: Site,
    runs: AtomicU64,
    _mounted: Mounted,
    _home: TempDir,
}

/// With so many inodes, and what a shell made in the share before. `None` where nothing can be mounted.
async fn watched(inodes: u32, fill: &str) -> Option<Watched> {
    watched_on("256", inodes, fill).await
}

/// With inodes of so many bytes.
async fn watched_on(size: &str, inodes: u32, fill: &str) -> Option<Watched> {
    if !rustix::process::geteuid().is_root() {
        skipped("mounting takes root");
        return None;
    }
    let home = TempDir::with_prefix("outside-").unwrap();
    let (image, disk) = (home.path().join("image"), home.path().join("disk"));
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    fs::create_dir(&disk).unwrap();
    let inodes = inodes.to_string();
    let args = ["-q", "-m", "0", "-I", size, "-N", &inodes, image.to_str().unwrap()];
    Mounted::run("mkfs.ext4", &args.map(std::convert::AsRef::as_ref));
    let mounted = Mounted::new(&image, &disk);
    let site = Site::unscanned_in(&disk, |root| shell(root, fill));
    site.quiet().await;
    let standing = site.notice.standing();
    assert_eq!(standing.outside, Outside { by: By::Fanotify, why: None });
    assert_eq!(standing.scans, 1);
    Some(Watched { site, runs: AtomicU64::new(0), _mounted: mounted, _home: home })
}

/// A shell in the share; `../outside` is on the same disk.
fn shell(root: &Path, script: &str) {
    let done =
        std::process::Command::new("sh").args(["-euc", script]).current_dir(root).output().unwrap();
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Watched {
    /// What a shell does is in the catalog when what it does last is, and no scan has a part in it.
    async fn run(&self, script: &str, arrived: impl Fn(&Site) -> bool) {
        self.runs(script).await;
        assert!(arrived(&self.site), "{script}");
        assert_eq!(self.site.notice.standing().scans, 1, "{script}: it was scanned");
    }

    async fn runs(&self, script: &str) {
        let site = &self.site;
        let last = format!("last{}", self.runs.fetch_add(1, Ordering::SeqCst));
        shell(&site.root, &format!("{script}; : > {}", site.at(&last).display()));
        site.until(script, || site.id(&last).is_some() && is_right(site)).await;
        site.agrees();
    }
}

/// Nothing is left to look at.
fn is_right(site: &Site) -> bool {
    !site.scanning() && site.notice.standing().marks == 0
}

fn has(site: &Site, path: &str, data: &str) -> bool {
    site.id(path).is_some() && site.has(path, data)
}

#[tokio::test]
async fn what_a_shell_does_in_the_share_is_journalled_without_a_scan() {
    let Some(share) = watched(4096, "mkdir -p d/sub; printf a > d/a").await else { return };
    let id = share.site.id("d/a");
    share.run("printf new > d/new", |site| has(site, "d/new", "new")).await;
    share.run("printf more >> d/a", |site| has(site, "d/a", "amore")).await;
    share.run("chmod 600 d/a", |site| site.object("d/a").attrs.mode == 0o600).await;
    share.run("chmod 700 d", |site| site.object("d").attrs.mode == 0o700).await;
    share.run("ln -s a d/link", |site| site.id("d/link").is_some()).await;
    share.run("ln d/a d/sub/two", |site| site.id("d/sub/two") == id).await;
    share
        .run("mv d/a d/sub/moved", |site| site.id("d/sub/moved") == id && site.id("d/a").is_none())
        .await;
    share.run("printf 2 > d/sub/two", |site| has(site, "d/sub/moved", "2")).await;
    share.run("rm d/sub/two d/link", |site| site.id("d/sub/two").is_none()).await;
    // Directories that are not recorded yet, and what is in them.
    share.run("mkdir -p n/e/w; printf x > n/e/w/file", |site| has(site, "n/e/w/file", "x")).await;
    let sub = share.site.id("d/sub");
    share.run("mv d/sub n/e/sub", |site| site.id("n/e/sub") == sub).await;
    share.run("printf 3 > n/e/sub/moved", |site| has(site, "n/e/sub/moved", "3")).await;
    share.run("rm -r n", |site| site.id("n").is_none()).await;
    // Swapped, in one call.
    share.run("printf 1 > one; printf 2 > two", |site| has(site, "two", "2")).await;
    share
        .run("mv one t; mv two one; mv t two", |site| has(site, "one", "2") && has(site, "two", "1"))
        .await;
}

/// Where time stamps are of whole seconds, none proves before a second is over that what it is of has not changed since
/// (R17).
#[tokio::test]
async fn changes_within_a_second_are_told_apart_where_stamps_have_whole_seconds() {
    let Some(share) = watched_on("128", 4096, "printf aaaa > file").await else { return };
    let site = &share.site;
    for (data, more) in [("bbbb", "cccc"), ("dddd", "eeee")] {
        site.relay(&["file"], |site| site.write("file", data)).await;
        site.flush().await;
        site.relay(&["file"], |site| site.write("file", more)).await;
        site.until("the second one", || site.has("file", more)).await;
        share
            .run(&format!("printf x{data:.3} > file"), |site| has(site, "file", &format!("x{data:.3}")))
            .await;
    }
    assert_eq!(fs::metadata(site.at("file")).unwrap().ctime_nsec(), 0);
}

/// One rename is all that the kernel tells of it.
#[tokio::test]
async fn a_tree_that_is_moved_in_is_there_with_all_that_is_in_it() {
    let Some(share) = watched(4096, "mkdir -p known/sub; printf x > known/sub/old").await else {
        return;
    };
    shell(&share.site.outside(""), "mkdir -p tree/a/b; printf deep > tree/a/b/c; printf 1 > tree/one");
    // What was heard of that has been found to be elsewhere.
    share.runs(":").await;
    share
        .run("mv ../outside/tree in", |site| has(site, "in/a/b/c", "deep") && has(site, "in/one", "1"))
        .await;
    // And what happens in it from then on, although its directories were outside before.
    let all = |site: &Site| has(site, "in/a/b/c", "2") && site.id("in/a/x").is_some();
    share.run("printf 2 > in/a/b/c; mkdir in/a/x", all).await;
}

/// What is known and was changed while it was elsewhere. Out of the share nothing of it is heard.
#[tokio::test]
async fn a_known_tree_that_comes_back_is_looked_at_whole() {
    let Some(share) = watched(4096, "mkdir -p known/sub; printf x > known/sub/old").await else {
        return;
    };
    let away = "mv known ../outside/away; mkdir ../outside/away/sub/new";
    let changed = "printf y > ../outside/away/sub/new/file; printf z > ../outside/away/sub/old";
    // A look that comes while it is away asks for a scan, as always (R16).
    share.runs(&format!("{away}; {changed}; mv ../outside/away known")).await;
    assert!(has(&share.site, "known/sub/old", "z") && has(&share.site, "known/sub/new/file", "y"));
}

/// Elsewhere on the disk, in `.nearshare`, and by this process: nothing is marked for it.
#[tokio::test]
async fn what_is_not_of_the_share_leads_to_no_look() {
    let Some(share) = watched(4096, "printf x > file").await else { return };
    let before = share.site.shelf.next_gen().unwrap();
    share.site.write("own", "of this process");
    shell(
        &share.site.outside(""),
        "mkdir d; for n in $(seq 100); do echo $n > d/$n; mv d/$n d/to$n; done; rm -r d",
    );
    shell(&share.site.root, "echo x > .nearshare/kept/x; rm .nearshare/kept/x; touch .nearshare");
    shell(&share.site.root, "printf last > last");
    share.site.until("the last", || has(&share.site, "last", "last") && is_right(&share.site)).await;
    assert_eq!(share.site.id("own"), None);
    assert_eq!(share.site.notice.standing().scans, 1);
    // There was one look or a few, of the last: each is handed out a generation, as is what it finds.
    let after = share.site.shelf.next_gen().unwrap();
    assert!(after.0 - before.0 < 20, "{before:?} {after:?}");
}

/// A change through nearshare has its look when the server has answered: what is heard of it leads to none before.
#[tokio::test]
async fn what_a_server_is_asked_for_is_looked_at_when_it_has_answered() {
    let Some(share) = watched(4096, "mkdir d").await else { return };
    let site = &share.site;
    let ticket = site.begin(&["d/asked"]).await;
    // What is heard of later has been looked at, and so would this have been.
    shell(&site.root, "printf x > d/asked; sleep 0.1; printf y > d/not");
    site.until("the other one", || has(site, "d/not", "y")).await;
    assert_eq!(site.id("d/asked"), None);
    ticket.answered(false).await.unwrap();
    site.until("the answered one", || has(site, "d/asked", "x") && is_right(site)).await;
    share.run("printf z > d/asked", |site| has(site, "d/asked", "z")).await;
}

/// More at once than the kernel or this process keeps: a scan finds it, and later changes are heard of again.
#[tokio::test]
async fn more_than_is_kept_leads_to_a_scan() {
    let limit = fs::read_to_string("/proc/sys/fs/fanotify/max_queued_events").unwrap();
    if limit.trim() != "16384" {
        return skipped(format_args!("the kernel keeps {limit} events here"));
    }
    let Some(share) = watched(40_000, "mkdir d; printf x > d/old").await else { return };
    let site = &share.site;
    // Held up where it would take what it hears further: the kernel's own queue runs over, or what this process keeps.
    let held = lock(&site.notice.table);
    shell(
        &site.root,
        "cd d; seq 1 34000 | xargs touch; seq 1 34000 | xargs rm; printf y > old; printf z > new",
    );
    drop(held);
    site.until("a scan", || site.notice.standing().scans > 1 && is_right(site)).await;
    assert!(has(site, "d/old", "y") && has(site, "d/new", "z"));
    site.agrees();
    shell(&site.root, "printf 1 > d/old");
    site.until("it is heard of", || has(site, "d/old", "1")).await;
}

/// The watch is there before the start's scan begins: what happens while that is under way is not missed, also where
/// it has been already.
#[tokio::test]
async fn what_happens_during_the_first_scan_is_not_missed() {
    let Some(share) = watched(4096, "mkdir a m z").await else { return };
    shell(&share.site.root, "for d in a m z; do for n in $(seq 500); do echo $n > $d/$n; done; done");
    share.run(":", |site| site.id("z/500").is_some()).await;
    share.site.notice.rescan();
    for n in 0..20 {
        for dir in ["a", "m", "z"] {
            shell(&share.site.root, &format!("printf {n} > {dir}/1; printf {n} > {dir}/new{n}"));
        }
    }
    let all = |site: &Site| ["a", "m", "z"].iter().all(|dir| has(site, &format!("{dir}/1"), "19"));
    share.runs(":").await;
    assert!(all(&share.site));
    assert_eq!(share.site.notice.standing().scans, 2);
}

#[tokio::test]
async fn a_stop_does_not_wait_for_something_to_happen() {
    let Some(share) = watched(4096, "printf x > file").await else { return };
    let began = Instant::now();
    share.site.notice.stop();
    share.site.notice.join();
    assert!(began.elapsed() < PATIENCE);
}
