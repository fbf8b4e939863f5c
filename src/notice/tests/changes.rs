//! Changes that come through requests: who waits for whom, what is marked and released when, and in
//! which order the journal tells of them.

use std::os::unix::fs::FileExt;

use http::{Request, StatusCode};

use super::restless::{Share, data};
use super::scans::put_of;
use super::*;
use crate::link::frames::{FrameReader, sender};
use crate::link::share::{Feed, Follow, MESSAGE_MAX, feed};
use crate::object::Kind;
use crate::plant::{Bug, plant};

fn puts(rows: &[Row]) -> Vec<(ObjectId, u64)> {
    let put = |row: &Row| match row {
        Row::Put(object) if object.kind == Kind::File => Some((object.id, object.size)),
        _ => None,
    };
    rows.iter().filter_map(put).collect()
}

#[tokio::test]
async fn changes_of_one_entry_wait_for_each_other() {
    let site = Site::new().await;
    let first = site.begin(&["a", "b"]).await;
    let second = site.notice.clone();
    let change = site.change(&["b"]);
    let mut second = tokio::spawn(async move { second.begin(&change, None).await });
    // Another entry of the same directory does not wait.
    drop(site.begin(&["c"]).await.refused());
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut second).await.is_err());
    drop(first.refused());
    drop(second.await.unwrap().unwrap().refused());
    site.quiet().await;
}

#[tokio::test]
async fn what_the_answer_shows_instead_is_marked_too() {
    let site = Site::with(|root| {
        fs::create_dir(root.join("one")).unwrap();
        fs::create_dir(root.join("two")).unwrap();
        std::os::unix::fs::symlink("one", root.join("way")).unwrap();
    })
    .await;
    let ticket = site.begin(&["way/f"]).await;
    fs::remove_file(site.at("way")).unwrap();
    std::os::unix::fs::symlink("two", site.at("way")).unwrap();
    site.write("two/f", "x");
    let awaits = ticket.answered(false).await.unwrap();
    let touches: Vec<Touch> = awaits.into_iter().map(|(touch, _)| touch).collect();
    assert!(touches.contains(&site.entry("one", "f")) && touches.contains(&site.entry("two", "f")));
    assert!(site.marked(&site.entry("two", "f")).is_some());
    site.flush().await;
    assert!(site.has("two/f", "x"));
}

/// R2: the server writes where the way led for a while, and all is back when it answers.
#[tokio::test]
async fn where_the_way_led_meanwhile_is_marked_too() {
    for (links, bug) in [(false, None), (true, None), (false, Some(Bug::ForgetShifts))] {
        let site = Site::with(|root| {
            for (dir, way) in [("one", "way"), ("two", "other")] {
                fs::create_dir(root.join(dir)).unwrap();
                fs::write(root.join(dir).join("f"), "old").unwrap();
                match links {
                    true => std::os::unix::fs::symlink(dir, root.join(way)).unwrap(),
                    false => fs::rename(root.join(dir), root.join(way)).unwrap(),
                }
            }
        })
        .await;
        let moves = async |from: &str, to: &str| {
            let rename = |site: &Site| fs::rename(site.at(from), site.at(to)).unwrap();
            site.relay(&[from, to], rename).await;
            site.flush().await;
        };
        let put = site.begin(&["way/f"]).await;
        moves("way", "x").await;
        moves("other", "way").await;
        site.write("way/f", "new");
        moves("way", "other").await;
        moves("x", "way").await;
        plant(bug);
        put.answered(true).await.unwrap();
        plant(None);
        site.flush().await;
        let written = if links { "two/f" } else { "other/f" };
        assert_eq!(site.has(written, "new"), bug.is_none(), "{links} {bug:?}");
    }
}

/// R2: names are resolved on the disk. The catalog still has the directory where it was before.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_below_a_directory_that_has_just_moved_is_found_on_the_disk() {
    let site = Site::with_files(&[("a/f", "x")]).await;
    let (dir, file) = (site.id("a").unwrap(), site.id("a/f").unwrap());
    // The worker reads this, and comes to what is answered after it only then.
    slow(&site.outside("large"), 256);
    site.relay(&["large"], |site| fs::rename(site.outside("large"), site.at("large")).unwrap()).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    site.relay(&["a", "b"], |site| fs::rename(site.at("a"), site.at("b")).unwrap()).await;
    let (object, entry) = (Touch::Object(file), Touch::Entry(dir, name("f")));
    assert_eq!((site.marked(&object), site.marked(&entry)), (None, None));
    let ticket = site.begin(&["b/f"]).await;
    assert_eq!((site.id("a"), site.id("b")), (Some(dir), None), "the catalog was to lag behind");
    assert!(site.marked(&object).is_some() && site.marked(&entry).is_some());
    site.write("b/f", "changed");
    let touches: Vec<Touch> =
        ticket.answered(false).await.unwrap().into_iter().map(|(touch, _)| touch).collect();
    assert!(touches.contains(&object) && touches.contains(&entry), "{touches:?}");
    site.quiet().await;
    assert_eq!((site.id("a"), site.id("b/f")), (None, Some(file)));
    assert!(site.has("b/f", "changed"));
    site.agrees();
}

/// What a method does that nobody knows may be anywhere below.
#[tokio::test]
async fn a_change_that_may_reach_anything_below_is_looked_at_to_the_bottom() {
    let site = Site::with_files(&[("a/b/c/f", "one")]).await;
    let change = |reach, data: &'static str| {
        let (mut change, site) = (site.change(&["a"]), &site);
        change.targets[0].reach = reach;
        async move {
            let ticket = site.notice.begin(&change, None).await.unwrap();
            site.write("a/b/c/f", data);
            site.write(&format!("a/b/c/{data}"), "new");
            ticket.answered(false).await.unwrap();
            site.quiet().await;
        }
    };
    change(Reach::Entry, "three").await;
    assert!(site.has("a/b/c/f", "one") && site.id("a/b/c/three").is_none(), "it was looked for deeper");
    change(Reach::Below, "fourth").await;
    assert!(site.has("a/b/c/f", "fourth") && site.has("a/b/c/fourth", "new"));
    assert!(site.has("a/b/c/three", "new"));
    site.agrees();
}

#[tokio::test]
async fn a_path_that_leaves_the_share_is_refused_by_name() {
    let site = Site::with(|root| std::os::unix::fs::symlink("..", root.join("up")).unwrap()).await;
    let refused = site.notice.begin(&site.change(&["up/f"]), None).await;
    assert!(matches!(refused, Err(NoticeError::Outside { path }) if path.to_string().contains("up/f")));
    assert_eq!(site.notice.standing().marks, 0);
}

#[tokio::test]
async fn each_change_of_an_object_has_a_newer_generation_and_is_released_up_to_it() {
    let site = Site::with_files(&[("f", "0")]).await;
    let head = site.head();
    let mut last = Gen(0);
    for data in ["one", "two"] {
        let awaits = site.relay(&["f"], |site| site.write("f", data)).await;
        for (touch, generation) in &awaits {
            assert!(*generation > last, "{touch:?}");
        }
        last = awaits[0].1;
        site.quiet().await;
    }
    let releases: Vec<Gen> = site
        .records(head)
        .into_iter()
        .flat_map(|record| record.releases)
        .map(|release| release.through)
        .collect();
    assert!(releases.iter().all(|through| *through <= last), "{releases:?}");
}

/// Each release would be a message of its own to every copy.
#[tokio::test]
async fn what_of_a_burst_falls_quiet_is_released_together() {
    const FILES: usize = 60;
    let names: Vec<String> = (0..FILES).map(|n| format!("f{n}")).collect();
    let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "0")).collect();
    let site = Site::with_files(&files).await;
    site.notice.reconfigure(Terms { strict: true, ..Terms::default() });
    let (first, began) = (site.notice.tail.cursor().next, Instant::now());
    for name in &names {
        site.relay(&[name], |site| site.write(name, "new")).await;
    }
    let told = || {
        let items = (first..).map_while(|next| site.notice.tail.get(next).unwrap());
        let releases = items.filter_map(|item| match &item.feed.kind {
            Some(feed::Kind::Releases(bytes)) => {
                Some(crate::catalog::decode_touch_gens(bytes).unwrap().len())
            }
            _ => None,
        });
        releases.collect::<Vec<usize>>()
    };
    site.until("all are released", || told().iter().sum::<usize>() >= FILES).await;
    let most = began.elapsed().as_millis() / worker::GATHER.as_millis() + 1;
    let told = told();
    assert!(told.len() as u128 <= most, "released so many at a time: {told:?}; at most {most} times");
}

#[tokio::test]
async fn nothing_is_released_while_a_change_is_in_flight() {
    let site = Site::with_files(&[("f", "0")]).await;
    let second = site.begin(&["f"]).await;
    site.notice.rescan();
    site.flush().await;
    site.until("scanned", || !site.scanning()).await;
    assert!(site.notice.standing().marks > 0);
    drop(second.refused());
    site.quiet().await;
}

/// Two looks at one entry in one pass, a change between them: the second look reads nothing anew and
/// must not close what began after the first.
#[tokio::test]
async fn what_one_look_has_read_closes_no_change_after_it() {
    let site = Site::with(|root| {
        fs::write(root.join("f"), "old").unwrap();
        for n in 0..3 {
            slow(&root.join(format!("big{n}")), 48);
        }
    })
    .await;
    let entry = site.entry("", "f");
    let touched = |site: &Site, big: &str| {
        let file = fs::File::options().write(true).open(site.at(big)).unwrap();
        file.write_all_at(b"x", 0).unwrap();
    };
    // While the first is read, the next pass is queued whole: f, something long, f again.
    site.relay(&["big0"], |site| touched(site, "big0")).await;
    site.relay(&["f"], |_| {}).await;
    site.relay(&["big1"], |site| touched(site, "big1")).await;
    site.relay(&["f"], |_| {}).await;
    let read = site.object("big1").seq;
    while site.object("big0").seq <= read {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    site.relay(&["big2"], |site| touched(site, "big2")).await;
    site.relay(&["f"], |site| site.write("f", "new")).await;
    let in_force = || lock(&site.notice.table).in_force(usize::MAX);
    while in_force().iter().any(|(touch, _)| *touch == entry) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(site.has("f", "new"), "released before it was looked at");
    site.quiet().await;
    site.agrees();
}

#[tokio::test]
async fn a_release_waits_until_the_time_stamps_can_tell() {
    use std::os::unix::fs::MetadataExt;
    let site = Site::new().await;
    site.relay(&["f"], |site| {
        site.write("f", "x");
        // A wall clock that stands where the file's does: nothing can be told for as long as it stands.
        let found = fs::metadata(site.at("f")).unwrap();
        site.clock.stand_at(found.ctime() * 1_000_000_000 + found.ctime_nsec());
    })
    .await;
    site.flush().await;
    assert!(site.has("f", "x"), "journalled at once all the same");
    // Many times longer than any file system's clock takes for a tick.
    for _ in 0..10 {
        granule().await;
        site.flush().await;
        assert!(site.notice.standing().marks > 0, "released within the granularity");
    }
    let settled = || site.shelf.local(site.id("f").unwrap()).unwrap().unwrap().settled;
    assert!(!settled());
    site.clock.go_on();
    site.quiet().await;
    assert!(settled());
}

/// A second write in the same granule, with the same size and time stamps put back.
#[tokio::test]
async fn a_change_that_the_stamps_do_not_tell_is_found() {
    for _ in 0..10 {
        let site = Site::new().await;
        site.relay(&["f"], |site| site.write("f", "one")).await;
        site.flush().await;
        let file = fs::File::options().write(true).open(site.at("f")).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        file.write_all_at(b"two", 0).unwrap();
        file.set_modified(modified).unwrap();
        // On a slow day it comes after the look that settled it: then the stamps do tell a scan.
        site.rescan().await;
        assert!(site.has("f", "two"));
        site.agrees();
    }
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_never_recorded_torn() {
    let site = Site::with(|root| fs::write(root.join("f"), vec![0; 3 << 20]).unwrap()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (stop, path) = (stop.clone(), site.at("f"));
        std::thread::spawn(move || {
            let file = fs::File::options().write(true).open(path).unwrap();
            for round in (1..=255u8).cycle() {
                // From the end: a reader that began before sees an old start and a new end.
                for block in (0..3u64).rev() {
                    file.write_all_at(&vec![round; 1 << 20], block << 20).unwrap();
                }
                if stop.load(Ordering::SeqCst) {
                    return round;
                }
            }
            unreachable!("a cycle has no end")
        })
    };
    for _ in 0..10 {
        site.relay(&["f"], |_| {}).await;
        site.flush().await;
    }
    stop.store(true, Ordering::SeqCst);
    let last = writer.join().unwrap();
    site.relay(&["f"], |_| {}).await;
    site.quiet().await;
    assert!(site.has("f", vec![last; 3 << 20]));
    site.agrees();
}

/// A cron job writes beside a relayed change: the look reads the file, not what was relayed.
#[tokio::test]
async fn a_foreign_write_beside_a_relayed_one_is_journalled_with_it() {
    let site = Site::with(|root| fs::write(root.join("f"), vec![0; 400_000]).unwrap()).await;
    let ticket = site.begin(&["f"]).await;
    let file = fs::File::options().write(true).open(site.at("f")).unwrap();
    file.write_all_at(b"relayed", 0).unwrap();
    file.write_all_at(b"cron", 300_000).unwrap();
    ticket.answered(false).await.unwrap();
    site.quiet().await;
    site.agrees();
}

#[tokio::test]
async fn a_change_without_an_answer_stays_marked_and_is_journalled_when_it_comes() {
    let site = Site::new().await;
    let ticket = site.begin(&["f"]).await;
    drop(ticket);
    site.quiet().await;
    assert_eq!(site.notice.standing().suspects, 1);
    assert!(site.marked(&Touch::Entry(ObjectId::ROOT, name("f"))).is_some());
    // The server was only slow.
    site.write("f", "late");
    site.until("the late change is journalled", || site.id("f").is_some()).await;
    assert!(site.has("f", "late"));
    assert_eq!(site.notice.standing().suspects, 1, "until a restart of the server proves it");
}

/// A client that leaves before its request was sent on leaves no suspect behind.
#[tokio::test]
async fn a_change_that_was_never_sent_is_not_in_doubt() {
    let site = Site::new().await;
    for n in 0..20 {
        let notice = site.notice.clone();
        let change = site.change(&["f"]);
        let begin = tokio::spawn(async move { notice.begin(&change, None).await.map(drop_sent) });
        tokio::time::sleep(Duration::from_micros(n * 100)).await;
        begin.abort();
        let _ = begin.await;
    }
    site.quiet().await;
    assert_eq!(site.notice.standing().suspects, 0);
}

/// Another leads from now on: what the server does after that is answered as what it is, and in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_ends_after_its_share_left_is_not_answered_as_done() {
    let site = Site::new().await;
    let ticket = site.begin(&["f"]).await;
    site.notice.cease(Duration::from_millis(50)).await;
    let late = site.notice.begin(&site.change(&["g"]), None).await;
    assert!(matches!(late, Err(NoticeError::Moved)));
    site.notice.stop();
    site.notice.join();
    assert!(!site.notice.is_quiet());
    site.notice.doubt_in_flight().unwrap();
    assert_eq!(site.shelf.doubts().unwrap(), [site.entry("", "f")]);
    let notice = site.notice.clone();
    let ended = tokio::spawn(async move { notice.ended().await });
    site.write("f", "late");
    assert!(matches!(ticket.answered(true).await, Err(NoticeError::Overtaken)));
    assert_eq!(ended.await.unwrap(), [], "it is known how it ended");
    assert!(site.notice.is_quiet());
}

/// R18: nobody knows what the server makes of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_without_an_answer_after_its_share_left_is_told() {
    let site = Site::new().await;
    let ticket = site.begin(&["f"]).await;
    site.notice.stop();
    site.notice.join();
    drop(ticket);
    assert_eq!(site.notice.ended().await, [site.entry("", "f")]);
}

/// A share that stops waits for what is under way, and is then as clean as one at rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_stops_waits_for_the_changes_that_have_begun() {
    let site = Site::new().await;
    let ticket = site.begin(&["f"]).await;
    let notice = site.notice.clone();
    let ceased = tokio::spawn(async move { notice.cease(PATIENCE).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!ceased.is_finished());
    site.write("f", "one");
    ticket.answered(true).await.unwrap();
    ceased.await.unwrap();
    assert!(site.notice.is_quiet());
}

fn drop_sent(ticket: Ticket<Disk>) {
    drop(ticket.refused());
}

#[tokio::test]
async fn records_are_in_the_order_of_the_answers() {
    let site = Site::new().await;
    let head = site.head();
    let (one, two) = (site.begin(&["one"]).await, site.begin(&["two"]).await);
    site.write("one", "1");
    site.write("two", "22");
    // Begun first, answered last.
    two.answered(false).await.unwrap();
    one.answered(false).await.unwrap();
    site.flush().await;
    let want = [(site.id("two").unwrap(), 2), (site.id("one").unwrap(), 1)];
    assert_eq!(puts(&site.news(head)), want);
    site.quiet().await;
    site.agrees();
}

/// R20: what is replaced again before it is read is read again, before anything behind it is journalled.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_replaced_over_and_over_is_journalled_before_what_was_answered_after_it() {
    let site = Site::with_files(&[("f", "0")]).await;
    let (root, round, over) =
        (site.root.clone(), Arc::new(Mutex::new(0)), Arc::new(AtomicBool::new(false)));
    let put = |root: &Path, by: &str, round: u32| {
        fs::write(root.join(by), format!("{round}")).unwrap();
        fs::rename(root.join(by), root.join("f")).unwrap();
    };
    let others = std::thread::spawn({
        let (root, round, over) = (root.clone(), round.clone(), over.clone());
        move || {
            while !over.load(Ordering::SeqCst) {
                let round = lock(&round);
                put(&root, "../outside/other", *round);
                drop(round);
                std::thread::yield_now();
            }
        }
    });
    for n in 1..200 {
        let ticket = site.begin(&["f"]).await;
        {
            let mut round = lock(&round);
            *round = n;
            put(&root, "../outside/mine", n);
        }
        ticket.answered(false).await.unwrap();
        site.relay(&["g"], |site| site.write("g", format!("{n}"))).await;
        site.flush().await;
        // The others go on: what was found may be gone by now, and another of the same content there.
        let seen = || site.id("f").and_then(|id| site.shelf.object(id).unwrap());
        let found = std::iter::repeat_with(seen).take(100).flatten().next();
        let root = found.map(|object| object.root);
        assert_eq!(root, Some(hash_bytes(format!("{n}").as_bytes()).root), "g is at {n}");
    }
    over.store(true, Ordering::SeqCst);
    others.join().unwrap();
}

/// R20: a look that takes its time reads what was written after something else was answered.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_look_has_read_is_journalled_behind_what_it_may_depend_on() {
    let share = Share::new().await;
    let start = share.shelf.head().at.seq;
    let gate = share.gate("/f");
    share.relay("f", 1, None).await;
    share.until("it is read", || gate.is_reached()).await;
    share.relay("g", 1, None).await;
    share.relay("f", 2, None).await;
    gate.open();
    share.quiet().await;
    let news = share.news(start);
    let (f, g) = (share.object("f"), share.object("g"));
    assert_eq!([f.root, g.root], [2, 1].map(|round| hash_bytes(&data(round)).root));
    assert!(put_of(&news, &g) < put_of(&news, &f), "{news:?}");
}

/// Data, then the link that points to it: no copy may see the flip without the data.
#[tokio::test]
async fn a_flip_never_comes_before_the_data() {
    let site = Site::new().await;
    for n in 0..20 {
        let head = site.head();
        let file = format!("v{n}");
        site.relay(&[&file], |site| site.write(&file, "data")).await;
        site.relay(&["current"], |site| {
            let _ = fs::remove_file(site.at("current"));
            std::os::unix::fs::symlink(&file, site.at("current")).unwrap();
        })
        .await;
        site.flush().await;
        // A copy takes a record as a whole: what is in one comes at one time.
        let records = site.records(head);
        let of = |is: fn(&Object, &str) -> bool| {
            let puts = |row: &Row| matches!(row, Row::Put(object) if is(object, &file));
            records.iter().position(|record| record.changes.iter().any(puts)).unwrap()
        };
        let (data, flip) = (of(|o, _| o.size == 4), of(|o, file| o.target == file.as_bytes()));
        assert!(data <= flip, "{records:?}");
    }
}

#[tokio::test]
async fn a_delete_answered_before_a_put_comes_before_it() {
    let site = Site::with_files(&[("old", "x")]).await;
    let (head, old) = (site.head(), site.id("old").unwrap());
    site.relay(&["old"], |site| fs::remove_file(site.at("old")).unwrap()).await;
    site.relay(&["new"], |site| site.write("new", "y")).await;
    site.flush().await;
    let news = site.news(head);
    let gone = news.iter().position(|row| *row == Row::Gone { id: old }).unwrap();
    let put = news.iter().position(|row| matches!(row, Row::Put(_))).unwrap();
    assert!(gone < put);
}

/// What could not be looked at keeps its place before what was answered later, and a flush waits.
#[tokio::test]
async fn a_failed_look_keeps_the_order_and_holds_up_a_flush() {
    let site = Site::new().await;
    let head = site.head();
    let away = site.outside("away");
    let tickets = [site.begin(&["one"]).await, site.begin(&["two"]).await];
    site.write("one", "1");
    site.write("two", "22");
    fs::rename(&site.root, &away).unwrap();
    let [one, two] = tickets;
    // The share is not there: the answers are, and nothing is lost.
    drop(one.refused());
    let flush = tokio::spawn({
        let notice = site.notice.clone();
        async move { notice.flush().await.unwrap() }
    });
    site.until("it is stopped", || site.notice.standing().stopped.is_some()).await;
    drop(two.refused());
    assert!(!flush.is_finished(), "nothing has been looked at");
    fs::rename(&away, &site.root).unwrap();
    flush.await.unwrap();
    assert!(site.id("one").is_some(), "the flush waited for the look");
    site.quiet().await;
    let want = [(site.id("one").unwrap(), 1), (site.id("two").unwrap(), 2)];
    assert_eq!(puts(&site.news(head)), want);
    site.agrees();
}

/// Directories that a server makes on the way, and those that it was asked for a moment ago.
#[tokio::test]
async fn parents_that_nobody_knows_are_recorded_first() {
    let site = Site::new().await;
    let head = site.head();
    site.relay(&["a/b/c/f"], |site| {
        fs::create_dir_all(site.at("a/b/c")).unwrap();
        site.write("a/b/c/f", "x");
    })
    .await;
    site.flush().await;
    assert!(site.has("a/b/c/f", "x"));
    // Behind nearshare's back, then named by a request before any scan.
    fs::create_dir_all(site.at("d/e")).unwrap();
    site.relay(&["d/e/f"], |site| site.write("d/e/f", "y")).await;
    site.flush().await;
    assert!(site.has("d/e/f", "y"));
    site.quiet().await;
    assert!(site.head() > head);
    site.agrees();
}

/// What is found below a new directory is looked at again until it is settled, too.
#[tokio::test]
async fn a_new_tree_is_held_until_all_of_it_is_settled() {
    let site = Site::new().await;
    site.relay(&["d"], |site| {
        fs::create_dir(site.at("d")).unwrap();
        (0..20).for_each(|n| site.write(&format!("d/{n}"), "x"));
    })
    .await;
    site.quiet().await;
    site.agrees();
}

/// A file that is replaced again while it is read: the old one and the new one change places in one record.
#[tokio::test]
async fn an_entry_that_is_replaced_is_never_recorded_as_missing() {
    let site = Site::with_files(&[("f", "0")]).await;
    let before = site.head();
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (f, new, ends) = (site.at("f"), site.outside("new"), over.clone());
    fs::create_dir_all(new.parent().unwrap()).unwrap();
    let busy = std::thread::spawn(move || {
        let mut number = 0u64;
        while !ends.load(Ordering::SeqCst) {
            number += 1;
            fs::write(&new, vec![b'x'; 200_000 + number as usize % 7]).unwrap();
            fs::rename(&new, &f).unwrap();
        }
    });
    for _ in 0..100 {
        site.relay(&["f"], |_| {}).await;
        site.flush().await;
    }
    over.store(true, Ordering::SeqCst);
    busy.join().unwrap();
    site.quiet().await;
    let f = (ObjectId::ROOT, name("f"));
    for record in site.records(before) {
        let mut there = true;
        for change in &record.changes {
            match change {
                Row::Unlink { parent, name, .. } if (*parent, name) == (f.0, &f.1) => there = false,
                Row::Link { parent, name, .. } if (*parent, name) == (f.0, &f.1) => there = true,
                Row::Move { to, .. } if *to == f => there = true,
                _ => {}
            }
        }
        assert!(there, "{record:?}");
    }
    site.rescan().await;
    site.agrees();
}

/// R9: a copy that could not be told all that is in force is told when it is less.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_tells_what_is_in_force_once_it_is_little_enough() {
    let site = Site::new().await;
    let many: Vec<Touch> =
        (0..IN_FORCE_MAX).map(|n| Touch::Entry(ObjectId::ROOT, name(&format!("f{n}")))).collect();
    lock(&site.notice.table).begin(&many, site.shelf.next_gen().unwrap(), false);
    let head = site.shelf.head();
    let (asks, body) = sender(4096);
    let (epoch, seq) = (head.at.epoch.0, head.at.seq.0);
    let (chain, incarnation) = (head.chain.0.to_vec().into(), head.incarnation.0.to_vec().into());
    asks.send(&Follow { epoch, seq, chain, incarnation }).await.unwrap();
    let osaka = Origin { site: "osaka".parse().unwrap(), session: Session::default() };
    let request = Request::new(body);
    let response = site.notice.clone().inbound(osaka, "journal", request).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut feeds = FrameReader::new(response.into_body());
    let mut next = async || loop {
        let feed = tokio::time::timeout(PATIENCE, feeds.next::<Feed>(MESSAGE_MAX)).await.expect("told");
        if let Some(feed::Kind::Start(start)) = feed.unwrap().unwrap().kind {
            return start.more;
        }
    };
    assert!(next().await, "more than can be told");
    lock(&site.notice.table).answered(&many);
    site.notice.wake.ring();
    assert!(!next().await);
}
