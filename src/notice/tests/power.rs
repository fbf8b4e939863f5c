//! A machine whose power is cut: what is marked no longer is on the disk (R23).

use std::io;
use std::sync::atomic::AtomicBool;

use super::restless::{Share, data};
use super::*;
use crate::catalog::memory::Memory;
use crate::tree::model::Model;

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_goes_only_once_the_file_system_has_been_synced() {
    let disk = Model::with_clock([7; 16], Arc::new(TestClock::default()));
    let catalog = Catalog::in_memory(&Memory::default()).unwrap();
    let share = Share::with(catalog, disk).await;
    share.until("all marks are gone", || share.shelf.marks().unwrap().is_empty()).await;

    let (fails, tried) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    share.tree.on_sync({
        let (fails, tried) = (fails.clone(), tried.clone());
        move || {
            tried.fetch_add(1, Ordering::SeqCst);
            match fails.load(Ordering::SeqCst) {
                true => Err(io::Error::from_raw_os_error(libc::EIO)),
                false => Ok(()),
            }
        }
    });
    // Its server syncs nothing.
    share.relay("f", 1, None).await;
    share.until("it is journalled", || share.object("f").root == hash_bytes(&data(1)).root).await;
    let marks = share.shelf.marks().unwrap();
    assert!(!marks.is_empty());
    share.until("a sync has failed twice", || tried.load(Ordering::SeqCst) >= 2).await;
    assert_eq!(share.shelf.marks().unwrap(), marks);

    fails.store(false, Ordering::SeqCst);
    share.until("its marks are gone", || share.shelf.marks().unwrap().is_empty()).await;
    share.tree.crash(|_| 0);
    let content = share.tree.tree().remove("/f").flatten();
    assert!(content.is_some_and(|content| content.starts_with(&data(1))), "it is lost");
}

/// Of a change of the root itself, such as of its properties, no entry is touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_root_is_on_the_disk_before_it_is_answered() {
    let disk = Model::with_clock([7; 16], Arc::new(TestClock::default()));
    let catalog = Catalog::in_memory(&Memory::default()).unwrap();
    let share = Share::with(catalog, disk).await;
    share.notice.reconfigure(Terms { strict: true, sync: true, ..Terms::default() });
    share.until("all marks are gone", || share.shelf.marks().unwrap().is_empty()).await;
    let synced = Arc::new(AtomicU64::new(0));
    share.tree.on_sync({
        let synced = synced.clone();
        move || {
            synced.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    });
    share.begin("", Reach::Entry, None).await.answered(true).await.unwrap();
    assert!(synced.load(Ordering::SeqCst) > 0);
}
