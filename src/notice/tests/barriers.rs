//! What a barrier waits for, and what can no longer begin after it (R9).

use super::*;
use crate::effect::Reach;

fn from_osaka(number: u64) -> Origin {
    Origin { site: "osaka".parse().unwrap(), session: Session(1, number) }
}

fn of(path: &str) -> Change {
    let path = RelPath::parse(path.as_bytes()).unwrap();
    Change { share: "eng".parse().unwrap(), targets: vec![Target { path, reach: Reach::Entry }] }
}

/// A change that waits for its turn has come, though it has no mark yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_waits_for_what_waits_for_its_turn_and_lets_nothing_begin_that_is_late() {
    let site = Site::new().await;
    let notice = &site.notice;
    let first = notice.begin(&of("f"), None).await.unwrap();
    let change = of("f");
    let mut waits = Box::pin(notice.begin(&change, Some(from_osaka(1))));
    let begun = tokio::time::timeout(Duration::from_millis(100), &mut waits).await;
    assert!(begun.is_err(), "the entry is taken");
    let second = from_osaka(2);
    let mut barrier = Box::pin(notice.barrier(&second));
    let ended = tokio::time::timeout(Duration::from_millis(100), &mut barrier).await;
    assert!(ended.is_err(), "a change of the session before it has come and not landed");
    let late = notice.begin(&of("g"), Some(from_osaka(1))).await;
    assert!(matches!(late, Err(NoticeError::Late { .. })));
    drop(notice.begin(&of("g"), Some(second.clone())).await.unwrap().refused());

    drop(first.refused());
    drop(waits.await.unwrap().refused());
    tokio::time::timeout(PATIENCE, barrier).await.expect("all has landed").unwrap();
}

/// Who goes away while it waits has landed.
#[tokio::test(flavor = "multi_thread")]
async fn a_barrier_does_not_wait_for_who_gave_up_waiting() {
    let site = Site::new().await;
    let first = site.notice.begin(&of("f"), None).await.unwrap();
    let change = of("f");
    let waits = site.notice.begin(&change, Some(from_osaka(1)));
    assert!(tokio::time::timeout(Duration::from_millis(100), waits).await.is_err());
    let barrier = site.notice.barrier(&from_osaka(2)).await;
    barrier.unwrap();
    drop(first.refused());
}
