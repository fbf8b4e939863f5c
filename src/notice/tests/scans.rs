//! Scans, the first one and later ones, alone and while changes go on.

use super::restless::{Share, write};
use super::*;
use crate::tree::Spot;
use crate::tree::tests::logged;

#[tokio::test]
async fn the_first_scan_records_everything() {
    let site = Site::with(|root| {
        fs::create_dir_all(root.join("a/b/c")).unwrap();
        fs::write(root.join("a/b/f"), vec![7; 5000]).unwrap();
        fs::write(root.join("a/empty"), "").unwrap();
        std::os::unix::fs::symlink("f", root.join("a/b/link")).unwrap();
        fs::hard_link(root.join("a/b/f"), root.join("second")).unwrap();
        let fifo = rustix::fs::FileType::Fifo;
        let mode = rustix::fs::Mode::from(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), fifo, mode, 0).unwrap();
    })
    .await;
    assert!(site.shelf.meta().scanned);
    assert_eq!(site.id("second"), site.id("a/b/f"));
    site.agrees();
}

#[tokio::test]
async fn a_scan_that_finds_nothing_writes_nothing() {
    let site = Site::with_files(&[("d/f", "x")]).await;
    granule().await;
    site.rescan().await;
    let head = site.head();
    site.rescan().await;
    assert_eq!(site.head(), head);
}

#[tokio::test]
async fn changes_go_on_during_the_first_scan() {
    const FILES: usize = 3000;
    let site = Site::unscanned(|root| {
        for dir in 0..10 {
            fs::create_dir(root.join(format!("d{dir}"))).unwrap();
            (0..FILES / 10).for_each(|n| fs::write(root.join(format!("d{dir}/{n}")), "x").unwrap());
        }
    });
    for n in 0..60 {
        let (from, to) = (format!("d{}/{n}", n % 10), format!("d{}/moved{n}", (n + 5) % 10));
        site.relay(&[&from, &to], |site| fs::rename(site.at(&from), site.at(&to)).unwrap()).await;
        let made = format!("d{}/made{n}", n % 7);
        site.relay(&[&made], |site| site.write(&made, "new")).await;
        let gone = format!("d{}/{}", n % 10, n + 100);
        site.relay(&[&gone], |site| fs::remove_file(site.at(&gone)).unwrap()).await;
    }
    site.quiet().await;
    assert_eq!(site.shelf.totals().objects as usize, 1 + 10 + FILES);
    site.agrees();
}

#[tokio::test(flavor = "multi_thread")]
async fn how_far_a_scan_is_can_be_seen() {
    const FILES: u64 = 9000;
    let site = Site::unscanned(|root| {
        (0..FILES).for_each(|n| fs::write(root.join(format!("{n:04}")), "x").unwrap());
    });
    let mut seen: Vec<scan::Progress> = Vec::new();
    let began = Instant::now();
    while !site.shelf.meta().scanned {
        assert!(began.elapsed() < PATIENCE, "{seen:?}");
        seen.extend(site.notice.standing().scan);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    seen.dedup();
    // Before it has looked at anything.
    seen.retain(|progress| *progress != scan::Progress { first: true, ..Default::default() });
    // Of each slice at least once, and never backwards.
    assert!(seen.len() >= 3, "{seen:?}");
    for (before, after) in seen.iter().zip(&seen[1..]) {
        let counts = |it: &scan::Progress| [it.entries, it.files, it.bytes];
        let pairs = counts(before).into_iter().zip(counts(after));
        assert!(pairs.into_iter().all(|(before, after)| before <= after), "{seen:?}");
    }
    for progress in &seen {
        assert!(progress.first && (1..=FILES).contains(&progress.entries), "{progress:?}");
        // Each of them is one byte, and every one is read as nothing is known yet.
        assert_eq!((progress.files, progress.bytes), (progress.entries, progress.entries));
        assert!(progress.entries_per_second > 0.0 && progress.seconds_left >= 0.0, "{progress:?}");
    }
    site.quiet().await;
    assert_eq!(site.notice.standing().scan, None);

    // The second time it is known how many there are.
    site.notice.rescan();
    let last = || site.notice.standing().scan;
    assert!(last().is_some(), "it is wanted, whether or not it has begun");
    let mut again = None;
    while again.is_none() || last().is_some() {
        assert!(began.elapsed() < 2 * PATIENCE, "{again:?}");
        again = last().filter(|progress| progress.entries > 0).or(again);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let again: scan::Progress = again.unwrap();
    assert!(!again.first, "{again:?}");
    let (left, rate) = (again.seconds_left, again.entries_per_second);
    let expected = (FILES + 1 - again.entries) as f64 / rate;
    assert!((left - expected).abs() < 0.01 * expected + 0.001, "{again:?}: {expected} s");
}

#[tokio::test]
async fn the_log_says_now_and_then_how_far_a_scan_is() {
    let site = Site::with_files(&[("a", "x"), ("b", "x")]).await;
    let mut scan = scan::Scan::begin(&site.notice).unwrap();
    scan.progress = scan::Progress { entries: 30, files: 20, bytes: 1000, ..scan.progress };
    let report = |scan: &mut scan::Scan, ahead| {
        site.clock.skip(Duration::from_secs(ahead));
        let log = logged(|| scan.report(&site.notice));
        let scan::Progress { entries_per_second, seconds_left, .. } = scan.progress;
        (log, entries_per_second.round(), seconds_left.round())
    };
    // It has just begun.
    assert_eq!(report(&mut scan, 0).0, "");
    let (log, rate, left) = report(&mut scan, 5);
    let said = "entries=30 files=20 bytes=1000";
    let line = format!("scanning share=eng {said} per_second={rate:?} seconds_left={left:?}");
    assert_eq!(log, format!(" INFO nearshare::notice::scan: {line}\n"));
    assert!((1.0..=6.0).contains(&rate), "30 in 5 s are no {rate} a second");
    assert_eq!(report(&mut scan, 0).0, "", "at once again");
    let (log, ..) = report(&mut scan, 6);
    assert_eq!(log.lines().count(), 1, "{log}");
    let log = logged(|| scan.end(&site.notice).unwrap());
    assert!(log.contains(&format!("scanned share=eng {said} per_second=")), "{log}");
}

/// A rescan asked for during a scan, which may have passed the place already, is another one.
#[tokio::test]
async fn a_scan_wanted_during_a_scan_is_made() {
    let site = Site::unscanned(|root| {
        (0..5000).for_each(|n| fs::write(root.join(format!("{n:04}")), "x").unwrap());
    });
    site.until("it has begun", || lock(&site.notice.standing).scan.is_some_and(|s| s.entries > 0)).await;
    fs::write(site.at("0000"), "changed").unwrap();
    site.notice.rescan();
    site.quiet().await;
    assert!(site.has("0000", "changed"));
}

/// R20: a scan that takes its time reads what was written after something else was answered.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_scan_has_read_is_journalled_behind_what_it_may_depend_on() {
    let share = Share::new().await;
    let (start, root) = (share.shelf.head().at.seq, share.tree.root().unwrap());
    // Behind nearshare's back: for the scan alone, which comes to `a` first.
    write(&share.tree, "f", 1);
    share.tree.mkdir(&root, &name("a")).unwrap();
    let a = share.tree.open_at(Spot::Entry(&root, &name("a"))).unwrap().unwrap();
    share.tree.write(&a, &name("x"), b"x", false).unwrap();
    let gate = share.gate("/f");
    share.notice.rescan();
    share.until("the scan reads", || gate.is_reached()).await;
    share.relay("g", 1, None).await;
    share.relay("f", 2, None).await;
    assert!(share.scanning());
    gate.open();
    share.quiet().await;
    let news = share.news(start);
    assert!(put_of(&news, &share.object("g")) < put_of(&news, &share.object("f")), "{news:?}");
    // And nothing else that the scan had found is forgotten.
    model::agrees(&share.shelf, &*share.tree);
}

/// Where the journal tells of an object as it is now.
pub(super) fn put_of(news: &[Row], object: &Object) -> usize {
    let is = |row: &Row| matches!(row, Row::Put(put) if (put.id, put.root) == (object.id, object.root));
    news.iter().position(is).unwrap_or_else(|| panic!("{object:?} is not in {news:?}"))
}

/// R20: a tree is being deleted, and a scan finds what is below it gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_scan_finds_below_a_change_is_journalled_behind_what_it_may_depend_on() {
    let share = Share::new().await;
    let root = share.tree.root().unwrap();
    share.tree.mkdir(&root, &name("d")).unwrap();
    let d = share.tree.open_at(Spot::Entry(&root, &name("d"))).unwrap().unwrap();
    for text in ["a", "b"] {
        share.tree.write(&d, &name(text), b"0", false).unwrap();
    }
    share.notice.rescan();
    share.quiet().await;
    let id = share.object("d").id;
    let (start, b) = (share.shelf.head().at.seq, share.shelf.child(id, &name("b")).unwrap().unwrap());
    share.tree.write(&d, &name("a"), b"1", true).unwrap();
    let gate = share.gate("/d/a");
    share.notice.rescan();
    share.until("the scan reads", || gate.is_reached()).await;
    share.relay("g", 1, None).await;
    let ticket = share.begin("d", Reach::Below, None).await;
    share.tree.remove(Spot::Entry(&d, &name("b"))).unwrap();
    assert!(share.scanning());
    gate.open();
    share.until("the scan is through", || !share.scanning()).await;
    drop(ticket.refused());
    share.quiet().await;
    let news = share.news(start);
    let gone = news.iter().position(|row| *row == Row::Gone { id: b }).unwrap();
    assert!(put_of(&news, &share.object("g")) < gone, "{news:?}");
    model::agrees(&share.shelf, &*share.tree);
}

/// One file that cannot be read is tried again; the share goes on.
#[tokio::test]
async fn a_file_that_cannot_be_read_does_not_stop_the_share() {
    let site = Site::new().await;
    // Reading this one fails with EIO: nothing is mapped there.
    let fails = Path::new("/proc/self/mem");
    if fs::read(fails).is_ok() {
        return;
    }
    // A name that changes hands between the look and the read is the everyday case.
    let stop = Arc::new(AtomicBool::new(false));
    let swap = {
        let (stop, path, root) = (stop.clone(), site.at("f"), site.root.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let _ = fs::write(root.join("t"), "x");
                let _ = fs::rename(root.join("t"), &path);
                let _ = std::os::unix::fs::symlink("x", root.join("t"));
                let _ = fs::rename(root.join("t"), &path);
            }
        })
    };
    for _ in 0..300 {
        site.relay(&["f"], |_| {}).await;
        site.flush().await;
        assert_eq!(site.notice.standing().stopped, None);
    }
    stop.store(true, Ordering::SeqCst);
    swap.join().unwrap();
    site.rescan().await;
    site.agrees();
}
