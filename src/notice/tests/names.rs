//! Names: a missing one is no delete until the object is known to be gone (R15, R16).

use super::*;

use crate::catalog::Change::{Gone, Link, Move, Unlink};

#[tokio::test]
async fn a_hint_after_a_rename_above_it_journals_no_delete() {
    let site = Site::with_files(&[("a/f", "one")]).await;
    let (head, id) = (site.head(), site.id("a/f"));
    let ticket = site.begin(&["a/f"]).await;
    site.write("a/f", "two");
    fs::rename(site.at("a"), site.at("b")).unwrap();
    ticket.answered(false).await.unwrap();
    site.flush().await;
    assert!(!site.news(head).iter().any(is_removal), "{:?}", site.news(head));
    site.rescan().await;
    assert_eq!(site.id("b/f"), id);
    assert!(site.has("b/f", "two"));
    assert!(!site.news(head).iter().any(is_removal), "{:?}", site.news(head));
    site.agrees();
}

#[tokio::test]
async fn a_rename_seen_by_either_half_is_one_move() {
    for seen in ["old", "new"] {
        let site = Site::with_files(&[("old", "x")]).await;
        let (head, id) = (site.head(), site.id("old").unwrap());
        site.relay(&[seen], |site| fs::rename(site.at("old"), site.at("new")).unwrap()).await;
        site.flush().await;
        let (from, to) = ((ObjectId::ROOT, name("old")), (ObjectId::ROOT, name("new")));
        assert_eq!(site.news(head)[..1], [Move { id, from, to }], "{seen}");
        site.quiet().await;
        site.agrees();
    }
}

#[tokio::test]
async fn a_directory_with_many_files_moves_as_one_change() {
    let site = Site::with(|root| {
        fs::create_dir_all(root.join("old/deep")).unwrap();
        (0..300).for_each(|n| fs::write(root.join(format!("old/deep/{n}")), "x").unwrap());
    })
    .await;
    let (head, id) = (site.head(), site.id("old").unwrap());
    site.relay(&["old", "new"], |site| fs::rename(site.at("old"), site.at("new")).unwrap()).await;
    site.quiet().await;
    let (from, to) = ((ObjectId::ROOT, name("old")), (ObjectId::ROOT, name("new")));
    assert_eq!(site.news(head), [Move { id, from, to }]);
    site.agrees();
}

#[tokio::test]
async fn one_name_of_two_goes_and_the_object_stays() {
    let site = Site::with(|root| {
        fs::write(root.join("one"), "x").unwrap();
        fs::hard_link(root.join("one"), root.join("two")).unwrap();
    })
    .await;
    assert_eq!(site.id("one"), site.id("two"));
    let (head, id) = (site.head(), site.id("one").unwrap());
    site.relay(&["one"], |site| fs::remove_file(site.at("one")).unwrap()).await;
    site.quiet().await;
    let unlink = Unlink { parent: ObjectId::ROOT, name: name("one"), id };
    assert!(site.news(head).contains(&unlink));
    assert!(!site.news(head).contains(&Gone { id }));
    let head = site.head();
    site.relay(&["two"], |site| fs::remove_file(site.at("two")).unwrap()).await;
    site.quiet().await;
    assert!(site.news(head).contains(&Gone { id }));
    site.agrees();
}

#[tokio::test]
async fn a_second_name_is_a_link() {
    let site = Site::with_files(&[("one", "x")]).await;
    let (head, id) = (site.head(), site.id("one").unwrap());
    site.relay(&["two"], |site| fs::hard_link(site.at("one"), site.at("two")).unwrap()).await;
    site.quiet().await;
    assert!(site.news(head).contains(&Link { parent: ObjectId::ROOT, name: name("two"), id }));
    assert!(!site.news(head).iter().any(is_removal));
    site.agrees();
}

#[tokio::test]
async fn what_is_renamed_out_of_the_share_is_deleted() {
    let site = Site::with_files(&[("d/e/f", "x"), ("g", "x")]).await;
    let before = site.shelf.totals().objects;
    site.relay(&["g", "d"], |site| {
        fs::rename(site.at("g"), site.outside("g")).unwrap();
        fs::rename(site.at("d"), site.outside("d")).unwrap();
    })
    .await;
    site.until("both are gone", || site.shelf.totals().objects == before - 4).await;
    site.quiet().await;
    site.agrees();
    // And what comes back is new.
    fs::rename(site.outside("d"), site.at("d")).unwrap();
    site.rescan().await;
    assert!(site.has("d/e/f", "x"));
    site.agrees();
}

#[tokio::test]
async fn what_left_the_share_costs_one_scan_and_no_more() {
    let site = Site::with_files(&[("f", "x")]).await;
    site.relay(&["f"], |site| fs::rename(site.at("f"), site.outside("f")).unwrap()).await;
    site.until("it is gone", || site.shelf.totals().objects == 1).await;
    site.quiet().await;
    let head = site.head();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!site.scanning());
    assert_eq!(site.head(), head);
    assert_eq!(site.notice.standing().marks, 0);
}

/// The kernel tells no path of an inode that nobody has looked up since it was read in.
#[tokio::test]
async fn a_file_that_lives_without_a_known_name_is_found_by_the_scan() {
    let site = Site::with_files(&[("d/f", "x")]).await;
    let id = site.id("d/f").unwrap();
    let head = site.head();
    // By way of outside, so that the look in between finds no place in the share.
    let ticket = site.begin(&["d/f"]).await;
    fs::rename(site.at("d/f"), site.outside("f")).unwrap();
    ticket.answered(false).await.unwrap();
    site.flush().await;
    assert!(site.marked(&Touch::Object(id)).is_some(), "unplaced is marked");
    assert!(!site.news(head).contains(&Gone { id }), "and not deleted");
    fs::rename(site.outside("f"), site.at("g")).unwrap();
    site.until("it is found", || site.id("g").is_some()).await;
    site.quiet().await;
    // Lost and found, or found before the scan that would have lost it: never another object.
    assert_eq!(site.id("g"), Some(id));
    site.agrees();
}

#[tokio::test]
async fn two_names_change_places() {
    for kind in ["file", "directory"] {
        let site = Site::with(|root| {
            for side in ["a", "b"] {
                match kind {
                    "file" => fs::write(root.join(side), side).unwrap(),
                    _ => fs::create_dir_all(root.join(side).join(side)).unwrap(),
                }
            }
        })
        .await;
        let (head, a, b) = (site.head(), site.id("a"), site.id("b"));
        site.relay(&["a", "b"], |site| {
            fs::rename(site.at("a"), site.at("t")).unwrap();
            fs::rename(site.at("b"), site.at("a")).unwrap();
            fs::rename(site.at("t"), site.at("b")).unwrap();
        })
        .await;
        site.quiet().await;
        assert_eq!((site.id("a"), site.id("b")), (b, a), "{kind}");
        assert!(!site.news(head).iter().any(is_removal), "{kind}");
        site.agrees();
    }
}

/// Parent and child change places: neither is ever below itself in the journal.
#[tokio::test]
async fn a_directory_and_what_was_below_it_change_places() {
    let site = Site::with(|root| fs::create_dir_all(root.join("a/b/c/d")).unwrap()).await;
    let (a, d, head) = (site.id("a"), site.id("a/b/c/d"), site.head());
    fs::rename(site.at("a/b/c"), site.at("t")).unwrap();
    fs::rename(site.at("a"), site.at("t/d/a")).unwrap();
    fs::rename(site.at("t"), site.at("z")).unwrap();
    site.rescan().await;
    assert_eq!((site.id("z/d/a"), site.id("z/d")), (a, d));
    assert!(!site.news(head).iter().any(is_removal));
    site.agrees();
}

#[tokio::test]
async fn a_long_chain_of_renames_loses_nothing() {
    const LONG: usize = 1500;
    let site = Site::with(|root| {
        (0..LONG).for_each(|n| fs::write(root.join(format!("log.{n:05}")), format!("{n}")).unwrap());
    })
    .await;
    let ids: Vec<_> = (0..LONG).map(|n| site.id(&format!("log.{n:05}"))).collect();
    for n in (0..LONG).rev() {
        fs::rename(site.at(&format!("log.{n:05}")), site.at(&format!("log.{:05}", n + 1))).unwrap();
    }
    fs::remove_file(site.at("log.00001")).unwrap();
    for n in 2..=LONG {
        fs::rename(site.at(&format!("log.{n:05}")), site.at(&format!("log.{:05}", n - 2))).unwrap();
    }
    site.rescan().await;
    for n in 2..=LONG {
        assert_eq!(site.id(&format!("log.{:05}", n - 2)), ids[n - 1], "{n}");
    }
    site.agrees();
}

#[tokio::test]
async fn a_name_deleted_and_made_anew_in_one_burst_is_another_object() {
    let site = Site::with_files(&[("f", "one")]).await;
    let (head, old) = (site.head(), site.id("f").unwrap());
    site.relay(&["f"], |site| {
        fs::write(site.at("g"), "two").unwrap();
        fs::remove_file(site.at("f")).unwrap();
        fs::rename(site.at("g"), site.at("f")).unwrap();
    })
    .await;
    site.quiet().await;
    assert_ne!(site.id("f"), Some(old));
    assert!(site.news(head).contains(&Gone { id: old }));
    assert!(site.has("f", "two"));
    site.agrees();
}

/// Nothing is left of it but the directory's own times.
#[tokio::test]
async fn a_name_that_comes_and_goes_in_one_burst_changes_its_directory() {
    let site = Site::with(|root| fs::create_dir(root.join("d")).unwrap()).await;
    let before = site.object("d").attrs;
    granule().await;
    site.relay(&["d/f"], |site| {
        site.write("d/f", "one");
        fs::remove_file(site.at("d/f")).unwrap();
    })
    .await;
    site.quiet().await;
    assert_ne!(site.object("d").attrs, before);
    site.agrees();
}

#[tokio::test]
async fn a_file_becomes_a_directory_and_back() {
    let site = Site::with_files(&[("f", "one")]).await;
    site.relay(&["f"], |site| {
        fs::remove_file(site.at("f")).unwrap();
        fs::create_dir(site.at("f")).unwrap();
        site.write("f/below", "x");
    })
    .await;
    site.quiet().await;
    site.agrees();
    site.relay(&["f"], |site| {
        fs::remove_dir_all(site.at("f")).unwrap();
        site.write("f", "two");
    })
    .await;
    site.quiet().await;
    assert!(site.has("f", "two"));
    site.agrees();
}

/// Deeper than any stack that a look in a look would need.
#[tokio::test]
async fn a_very_deep_tree_comes_and_goes() {
    const DEEP: usize = 900;
    let site = Site::new().await;
    let deep = ["d"; DEEP].join("/");
    site.relay(&["d"], |site| fs::create_dir_all(site.at(&deep)).unwrap()).await;
    site.quiet().await;
    assert_eq!(site.shelf.totals().objects, DEEP as u64 + 1);
    site.relay(&["d"], |site| fs::remove_dir_all(site.at("d")).unwrap()).await;
    site.quiet().await;
    assert_eq!(site.shelf.totals().objects, 1);
    site.agrees();
}

#[tokio::test]
async fn our_own_directory_is_never_journalled() {
    let site = Site::new().await;
    let head = site.head();
    site.relay(&["f"], |site| {
        site.write(".nearshare/tmp/x", "x");
        site.write("f", "x");
    })
    .await;
    site.rescan().await;
    let ours = |row: &Row| matches!(row, Link { name, .. } if name.is_ours());
    assert!(!site.news(head).iter().any(ours));
    assert!(site.id(".nearshare").is_none());
    assert!(site.notice.begin(&site.change(&[".nearshare/marker"]), None).await.is_ok());
    site.quiet().await;
    site.agrees();
}

/// What was in a directory that is gone may live on where nobody looks.
#[tokio::test]
async fn a_directory_ends_after_the_names_in_it() {
    let site = Site::with_files(&[("d/f", "1"), ("d/sub/g", "2")]).await;
    fs::create_dir_all(site.outside("")).unwrap();
    site.relay(&["d"], |site| {
        fs::rename(site.at("d/f"), site.outside("f")).unwrap();
        fs::rename(site.at("d/sub/g"), site.outside("g")).unwrap();
        fs::remove_dir_all(site.at("d")).unwrap();
    })
    .await;
    site.flush().await;
    assert_eq!(site.id("d"), None);
    site.rescan().await;
    site.agrees();
}

/// R2, R3: a hold of one name covers what is read by that name alone.
#[tokio::test]
async fn what_has_another_name_is_held_by_itself() {
    let site = Site::with(|root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/one"), "1").unwrap();
        fs::write(root.join("d/two"), "2").unwrap();
        fs::hard_link(root.join("d/two"), root.join("other")).unwrap();
    })
    .await;
    site.notice.reconfigure(Terms { strict: true, ..Terms::default() });
    let dir = site.id("d").unwrap();
    let (now, lyon) = (BootTime::default(), "lyon".parse().unwrap());
    for (path, alone) in [("d/one", false), ("d/two", true)] {
        let target = Target { path: RelPath::parse(path.as_bytes()).unwrap(), reach: Reach::Entry };
        let (held, deep) = site.notice.touches_of(&[target]).await.unwrap();
        let touches: Vec<Touch> = held.iter().map(|held| held.touch.clone()).collect();
        // One copy has a lease.
        let mut giver = crate::hold::Giver::new(crate::hold::LEASE, false, Default::default(), now);
        let stream = giver.join(&lyon);
        giver.renew(&lyon, stream, true, now).unwrap();
        let mut table = super::super::table::Table::default();
        table.begin(&touches, Gen(1), deep);
        let (_, ask) = table.hold(&held, &mut giver, now);
        let asked: Vec<Touch> = ask.unwrap().touches.into_iter().map(|(touch, _)| touch).collect();
        let name = Name::new(path.trim_start_matches("d/").as_bytes()).unwrap();
        let mut expected = vec![Touch::Entry(dir, name)];
        expected.extend(alone.then(|| Touch::Object(site.id(path).unwrap())));
        assert_eq!(asked, expected, "{path}");
    }
}
