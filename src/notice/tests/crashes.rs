//! Crashes, restarts and disks that are not there: what is durable when, and what is never taken for
//! a delete.

use std::os::unix::fs::MetadataExt;

use super::*;
use crate::tree::tests::skipped;

#[tokio::test]
async fn a_mark_is_durable_before_the_server_hears_and_gone_after_a_sync() {
    let site = Site::with_files(&[("f", "0")]).await;
    let (entry, object) = (site.entry("", "f"), Touch::Object(site.id("f").unwrap()));
    let ticket = site.begin(&["f"]).await;
    assert!(site.marked(&entry).is_some() && site.marked(&object).is_some());
    site.write("f", "1");
    let head = site.head();
    ticket.answered(false).await.unwrap();
    site.until("the release is told", || {
        let told = site.records(head).into_iter().any(|record| !record.releases.is_empty());
        told || site.notice.standing().marks == 0
    })
    .await;
    // Journalled and released, but the disk may still lose it: one more look at the next start.
    let kept = site.marked(&entry);
    site.until("they are swept", || site.shelf.marks().unwrap().is_empty()).await;
    assert!(kept.is_some(), "cleared before the sync");
}

#[tokio::test]
async fn a_mark_in_force_at_a_crash_is_looked_at_after_it() {
    let site = Site::with_files(&[("f", "0")]).await;
    let ticket = site.begin(&["f", "d/g"]).await;
    // The request is lost with the process, but for what the server had begun.
    let site = {
        drop(ticket);
        site.restart(false, "boot 1", |root| {
            fs::write(root.join("f"), "1").unwrap();
            fs::create_dir(root.join("d")).unwrap();
            fs::write(root.join("d/g"), "2").unwrap();
        })
        .await
    };
    assert!(site.notice.standing().marks > 0 || site.has("f", "1"));
    site.quiet().await;
    assert!(site.has("f", "1") && site.has("d/g", "2"));
    // Whoever asked was told that nobody knows: the server may go on with it for all that the start shows.
    assert!(site.notice.standing().suspects > 0);
    assert!(site.notice.believe() > 0);
    site.until("they are swept", || site.shelf.marks().unwrap().is_empty()).await;
    site.agrees();
}

/// What changed while nearshare was down, a directory renamed and changed below included.
#[tokio::test]
async fn a_start_finds_what_happened_meanwhile() {
    let site = Site::with_files(&[("a/deep/f", "0"), ("g", "0")]).await;
    let id = site.id("a/deep/f");
    let site = site
        .restart(true, "boot 1", |root| {
            fs::rename(root.join("a"), root.join("z")).unwrap();
            fs::write(root.join("z/deep/f"), "1").unwrap();
            fs::write(root.join("z/deep/h"), "2").unwrap();
            fs::remove_file(root.join("g")).unwrap();
        })
        .await;
    site.quiet().await;
    assert_eq!(site.id("z/deep/f"), id);
    assert!(site.has("z/deep/f", "1") && site.has("z/deep/h", "2"));
    site.agrees();
}

/// After a crash of the machine a file may have its new stamps and its old content, or none.
#[tokio::test]
async fn after_a_crash_of_the_machine_content_is_compared() {
    for (boot_id, clean, compared) in
        [("boot 2", false, true), ("boot 1", false, false), ("boot 2", true, false)]
    {
        let site = Site::with_files(&[("f", "0")]).await;
        torn(&site, "f");
        let site = site.restart(clean, boot_id, |_| {}).await;
        site.quiet().await;
        assert_eq!(site.object("f").version.0 == 2, compared, "{boot_id} {clean}");
        // Only once: the next crash of the process alone proves nothing new.
        torn(&site, "f");
        let version = site.object("f").version;
        let site = site.restart(false, boot_id, |_| {}).await;
        site.quiet().await;
        assert_eq!(site.object("f").version, version);
    }
}

/// As if the recorded content were another one: only reading the file tells.
fn torn(site: &Site, path: &str) {
    let mut object = site.object(path);
    object.root = Hash([1; 32]);
    let mut batch = site.shelf.batch();
    batch.apply(Row::Put(object));
    site.shelf.commit(batch, true).wait().unwrap();
}

#[tokio::test]
async fn a_scan_after_a_crash_that_is_cut_short_is_begun_again_with_the_same_distrust() {
    let site = Site::with(|root| {
        fs::write(root.join("f"), "0").unwrap();
        (0..6000).for_each(|n| fs::write(root.join(format!("a{n}")), "x").unwrap());
    })
    .await;
    torn(&site, "f");
    // Ended at once, whatever the scan has seen: not "f", which comes last.
    let site = site.restart(false, "boot 2", |_| {}).await;
    let site = site.restart(true, "boot 2", |_| {}).await;
    site.quiet().await;
    assert_eq!(site.object("f").version.0, 2);
}

#[tokio::test]
async fn a_restored_state_directory_does_not_extend_a_copys_chain() {
    let site = Site::new().await;
    for n in 0..3 {
        site.relay(&["f"], |site| site.write("f", format!("{n}"))).await;
        site.quiet().await;
    }
    let head = site.shelf.head();
    assert!(site.notice.extends(head.at, head.chain, head.incarnation).unwrap());
    let earlier = Position { seq: Seq(head.at.seq.0 - 1), ..head.at };
    let chain = site.shelf.chain_at(earlier).unwrap().unwrap();
    assert!(site.notice.extends(earlier, chain, head.incarnation).unwrap());
    // A copy that has applied what this site no longer knows, or knows otherwise.
    let ahead = Position { seq: head.at.seq.next(), ..head.at };
    assert!(!site.notice.extends(ahead, head.chain, head.incarnation).unwrap());
    assert!(!site.notice.extends(earlier, head.chain, head.incarnation).unwrap());
    assert!(!site.notice.extends(head.at, head.chain, Hash([9; 32])).unwrap());
}

/// What came after the older state is on the disk alone: nobody compares with the catalog before that is found.
#[tokio::test(flavor = "multi_thread")]
async fn with_an_older_state_directory_the_copies_wait_for_a_scan() {
    use crate::body::Body;
    use crate::link::frames::sender;
    use crate::link::share::Follow;
    use http::{Request, StatusCode};
    let site = Site::with_files(&[("f", "0")]).await;
    let ask = async |what: &'static str, body| {
        let osaka = Origin { site: "osaka".parse().unwrap(), session: Session::default() };
        site.notice.clone().inbound(osaka, what, Request::new(body)).await.status()
    };
    let head = site.shelf.head();
    let follow = async |at: Position, incarnation: Hash| {
        let (asks, body) = sender(4096);
        let (epoch, seq) = (at.epoch.0, at.seq.0);
        let (chain, incarnation) = (vec![9; 32].into(), incarnation.0.to_vec().into());
        asks.send(&Follow { epoch, seq, chain, incarnation }).await.unwrap();
        ask("journal", body).await
    };
    // Of other histories nothing is learnt.
    assert_eq!(follow(head.at, Hash([9; 32])).await, StatusCode::CONFLICT);
    assert_eq!(ask("snapshot", Body::Empty).await, StatusCode::OK);
    // Something for the scan to do first, and behind it what the catalog does not have.
    slow(&site.at("large"), 128);
    fs::create_dir(site.at("d")).unwrap();
    site.write("d/later", "x");
    let later = Position { seq: Seq(head.at.seq.0 + 5), ..head.at };
    assert_eq!(follow(later, head.incarnation).await, StatusCode::CONFLICT);
    assert_eq!(ask("snapshot", Body::Empty).await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(site.scanning());
    while ask("snapshot", Body::Empty).await == StatusCode::SERVICE_UNAVAILABLE {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(site.has("d/later", "x"), "compared with what is not so");
    // Once is enough.
    assert_eq!(follow(later, head.incarnation).await, StatusCode::CONFLICT);
    assert_eq!(ask("snapshot", Body::Empty).await, StatusCode::OK);
}

async fn comes_back_by_itself(take: fn(&Path, &Path), back: fn(&Path, &Path)) {
    let site = Site::with_files(&[("d/f", "0"), ("g", "0")]).await;
    let head = site.head();
    let away = site.outside("away");
    let ticket = site.begin(&["g"]).await;
    take(&site.root, &away);
    drop(ticket.refused());
    site.notice.rescan();
    site.until("it is stopped", || site.notice.standing().stopped.is_some()).await;
    let refused = site.notice.begin(&site.change(&["g"]), None).await;
    assert!(matches!(refused, Err(NoticeError::Stopped { .. })));
    assert_eq!(site.head(), head, "nothing is journalled: {:?}", site.news(head));
    back(&site.root, &away);
    fs::write(site.at("g"), "changed meanwhile").unwrap();
    site.until("it is back", || site.notice.standing().stopped.is_none()).await;
    site.quiet().await;
    assert!(!site.news(head).iter().any(is_removal), "{:?}", site.news(head));
    assert!(site.has("g", "changed meanwhile"));
    site.agrees();
}

#[tokio::test]
async fn an_unmounted_directory_stops_the_share_and_deletes_nothing() {
    comes_back_by_itself(
        |root, away| {
            fs::rename(root, away).unwrap();
            fs::create_dir(root).unwrap();
        },
        |root, away| {
            fs::remove_dir(root).unwrap();
            fs::rename(away, root).unwrap();
        },
    )
    .await;
}

#[tokio::test]
async fn an_emptied_directory_stops_the_share_and_deletes_nothing() {
    comes_back_by_itself(
        |root, away| {
            fs::create_dir(away).unwrap();
            for entry in fs::read_dir(root).unwrap() {
                let name = entry.unwrap().file_name();
                fs::rename(root.join(&name), away.join(&name)).unwrap();
            }
        },
        |root, away| {
            for entry in fs::read_dir(away).unwrap() {
                let name = entry.unwrap().file_name();
                fs::rename(away.join(&name), root.join(&name)).unwrap();
            }
        },
    )
    .await;
}

/// Before the very first scan has ended: the scan is made up for.
#[tokio::test]
async fn a_share_that_stops_during_its_first_scan_is_scanned_when_it_is_back() {
    let site = Site::unscanned(|root| {
        (0..3000).for_each(|n| fs::write(root.join(format!("{n}")), "x").unwrap());
    });
    let away = site.outside("away");
    fs::rename(&site.root, &away).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    fs::rename(&away, &site.root).unwrap();
    site.until("it is scanned", || site.shelf.meta().scanned).await;
    site.quiet().await;
    site.agrees();
}

#[tokio::test]
async fn a_flush_after_the_end_says_so() {
    let site = Site::new().await;
    site.notice.stop();
    assert!(matches!(site.notice.flush().await, Err(NoticeError::Task)));
    site.notice.join();
}

/// An image that is mounted on a directory, until this is dropped.
pub(super) struct Mounted(PathBuf);
impl Mounted {
    pub(super) fn run(program: &str, args: &[&std::ffi::OsStr]) {
        let output = std::process::Command::new(program).args(args).output().unwrap();
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {args:?}: {why}");
    }
    pub(super) fn new(image: &Path, root: &Path) -> Self {
        Self::run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), root.as_ref()]);
        Self(root.to_owned())
    }
}
impl Drop for Mounted {
    fn drop(&mut self) {
        let _away = std::process::Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// An inode that the disk has lost (EUCLEAN): the share goes on, and nothing is taken for deleted.
#[tokio::test]
async fn an_inode_that_cannot_be_read_stops_nothing_and_deletes_nothing() {
    if !rustix::process::geteuid().is_root() {
        return skipped("mounting takes root");
    }
    let mut mounted = None;
    let image = |root: &Path| root.with_file_name("image");
    let site = Site::with(|root| {
        fs::File::create(image(root)).unwrap().set_len(8 << 20).unwrap();
        Mounted::run("mkfs.ext4", &["-q".as_ref(), image(root).as_ref()]);
        mounted = Some(Mounted::new(&image(root), root));
        ["a", "d", "d/below", "z"].iter().for_each(|dir| fs::create_dir(root.join(dir)).unwrap());
        ["a/lost", "d/below/f", "z/good"]
            .iter()
            .for_each(|file| fs::write(root.join(file), "x").unwrap());
    })
    .await;
    let known = ["a/lost", "d/below", "d/below/f"].map(|path| site.id(path).unwrap());
    let inode = |path: &str| fs::symlink_metadata(site.at(path)).unwrap().ino();
    let lost = [inode("a/lost"), inode("d/below")];
    let mut again = None;
    let site = site
        .restart(false, "boot 1", |root| {
            Mounted::run("umount", &[root.as_ref()]);
            for inode in lost {
                let clear = format!("clri <{inode}>");
                let image = image(root);
                Mounted::run("debugfs", &["-w".as_ref(), "-R".as_ref(), clear.as_ref(), image.as_ref()]);
            }
            again = Some(Mounted::new(&image(root), root));
        })
        .await;
    assert_eq!(fs::metadata(site.at("a/lost")).unwrap_err().raw_os_error(), Some(libc::EUCLEAN));
    site.until("it has been scanned", || !site.scanning()).await;
    site.relay(&["z/good"], |site| site.write("z/good", "new")).await;
    let mut deep = site.change(&["a"]);
    deep.targets[0].reach = Reach::Below;
    let ticket = site.notice.begin(&deep, None).await.unwrap();
    ticket.answered(false).await.unwrap();
    site.flush().await;
    assert!(site.has("z/good", "new"));
    for (path, id) in ["a/lost", "d/below", "d/below/f"].iter().zip(known) {
        assert_eq!(site.id(path), Some(id), "{path} is taken for deleted");
    }
    assert_eq!(site.notice.standing().stopped, None);
    drop(site);
    drop(again);
    drop(mounted);
}
