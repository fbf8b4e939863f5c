//! What `status` says of places that could not be read, and for how long.

use std::io;

use super::restless::{Share, data};
use super::*;
use crate::effect::Reach;
use crate::tree::Spot;
use crate::tree::model::{Model, ModelDir};

/// The disk refuses every file of this name.
fn refuse(tree: &Model, name: &'static str) {
    tree.on_read(move |path| match path.ends_with(name) {
        true => Err(io::Error::from_raw_os_error(libc::EIO)),
        false => Ok(()),
    });
}

fn dir(tree: &Model, text: &str) -> ModelDir {
    let root = tree.root().unwrap();
    tree.open_at(Spot::Entry(&root, &name(text))).unwrap().unwrap()
}

/// As a server copies a tree: the mark is that of the directory alone.
async fn copy_to_dst(share: &Share) {
    let ticket = share.begin("dst", Reach::Below, None).await;
    share.tree.mkdir(&share.tree.root().unwrap(), &name("dst")).unwrap();
    let dst = dir(&share.tree, "dst");
    for file in ["bad", "good"] {
        share.tree.write(&dst, &name(file), &data(1), false).unwrap();
    }
    ticket.answered(false).await.unwrap();
    share.until("status tells it", || share.notice.standing().unreadable == 1).await;
    assert_eq!(share.notice.standing().unread_first[0].place, "/dst/bad");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_with_its_directory_is_told_no_more() {
    let share = Share::new().await;
    refuse(&share.tree, "/bad");
    copy_to_dst(&share).await;
    let ticket = share.begin("dst", Reach::Below, None).await;
    let dst = dir(&share.tree, "dst");
    for file in ["bad", "good"] {
        share.tree.remove(Spot::Entry(&dst, &name(file))).unwrap();
    }
    share.tree.remove(Spot::Entry(&share.tree.root().unwrap(), &name("dst"))).unwrap();
    ticket.answered(false).await.unwrap();
    share.quiet().await;
    let standing = share.notice.standing();
    assert_eq!((standing.unread, standing.unread_first.len()), (0, 0), "{standing:?}");
}

/// Behind nearshare's back: no listing tells of it any more, and the catalog never had it.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_recorded_and_has_gone_is_told_no_more() {
    let share = Share::new().await;
    refuse(&share.tree, "/bad");
    copy_to_dst(&share).await;
    share.tree.remove(Spot::Entry(&dir(&share.tree, "dst"), &name("bad"))).unwrap();
    share.quiet().await;
    let standing = share.notice.standing();
    assert_eq!((standing.unread, standing.unread_first.len()), (0, 0), "{standing:?}");
}

/// Where millions are looked at, one bad block must not make each of them slower.
#[tokio::test(flavor = "multi_thread")]
async fn one_place_that_cannot_be_read_makes_no_other_ask_the_catalog_more() {
    const FILES: u64 = 500;
    let memory = crate::catalog::memory::Memory::default();
    let share = Share::on(Catalog::in_memory(&memory).unwrap()).await;
    let root = share.tree.root().unwrap();
    for n in 0..FILES {
        share.tree.write(&root, &name(&n.to_string()), b"x", false).unwrap();
    }
    let rescanned = async || {
        share.notice.rescan();
        share.quiet().await;
        // All is proven by now, and a scan only looks.
        granule().await;
        let before = memory.asked();
        share.notice.rescan();
        share.until("it is scanned", || !share.scanning()).await;
        memory.asked() - before
    };
    let healthy = rescanned().await;
    assert!(healthy >= FILES, "{healthy}");
    // What nobody looks at: only the row is wanted here.
    let nowhere = Touch::Entry(ObjectId::from_bytes([7; 16]), name("bad"));
    let now = share.notice.clock.boot();
    lock(&share.notice.unreads).note(nowhere, super::super::unread::Why::Restless, false, now);
    let ill = rescanned().await;
    assert!(ill < healthy + FILES / 2, "{ill} rows, and {healthy} when all could be read");
}
