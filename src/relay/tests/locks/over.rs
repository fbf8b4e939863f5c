//! Locks that are over, or were never answered, and what of them is written down.

use std::time::Duration;

use super::*;

#[derive(Default)]
struct Hands(Mutex<Duration>);
impl Clock for Hands {
    fn boot(&self) -> BootTime {
        BootTime(*self.0.lock().unwrap())
    }
    fn wall(&self) -> WallTime {
        WallTime::default()
    }
}

/// A file may have been made: whatever becomes of the lock's row, nobody says that nothing was done.
#[tokio::test(start_paused = true)]
async fn a_doubt_stays_a_doubt_where_a_lock_cannot_be_put_out() {
    let log = Log::default();
    let (relay, keeper, rows) = keeping(&log, vec![], |line| async move {
        match line.starts_with("PUT") {
            true => std::future::pending().await,
            false => server(line).await,
        }
    })
    .await;
    rows.keeps.store(true, Ordering::SeqCst);
    let fields = [("authorization", ANN)];
    let (status, words) = said(&relay, "LOCK", "/eng/fresh", &fields, &info("exclusive", "")).await;
    assert!(status == 504 && words.contains("may have been made or not"), "{status} {words}");
    assert_eq!(log.take().last().unwrap(), "unknown");
    // Nobody has its token: it bars nobody.
    assert_eq!((keeper.count(), rows.left().len()), (0, 1));
    assert_eq!(said(&relay, "DELETE", "/eng/fresh", &fields, "").await.0, 204);
}

/// As after every other change: only what is refused for certain leaves nothing to look for.
#[tokio::test]
async fn a_file_that_the_server_fails_to_make_for_a_lock_is_looked_for() {
    for (code, told, ended) in [
        (500, 500, "answered Perhaps"),
        (507, 507, "answered Perhaps"),
        (403, 403, "refused"),
        (412, 503, "refused"),
    ] {
        let log = Log::default();
        let (relay, keeper, rows) = keeping(&log, vec![], move |line| async move {
            if line.starts_with("PUT") { status(code) } else { server(line).await }
        })
        .await;
        let fields = [("authorization", ANN)];
        let answer = said(&relay, "LOCK", "/eng/fresh", &fields, &info("exclusive", "")).await;
        assert_eq!((answer.0, log.take().last().unwrap().as_str()), (told, ended), "{code}");
        assert_eq!((keeper.count(), rows.left().len()), (0, 0));
    }
}

/// The process may end before the old lock's own row is written.
#[tokio::test]
async fn a_lock_that_is_over_goes_at_the_latest_with_who_takes_its_place() {
    for end in ["", "DELETE"] {
        let log = Log::default();
        let hands = Arc::new(Hands::default());
        let (relay, _, rows) = keeping_by(hands.clone(), &log, vec![], server).await;
        let (ann, bob) = (("authorization", ANN), ("authorization", BOB));
        let token = locked(&relay, "/eng/f", &[ann, ("timeout", "Second-60")]).await;
        rows.keeps.store(true, Ordering::SeqCst);
        let held = format!("(<{token}>)");
        match end {
            "" => *hands.0.lock().unwrap() += Duration::from_secs(60),
            _ => assert_eq!(said(&relay, end, "/eng/f", &[ann, ("if", &held)], "").await.0, 204),
        }
        let token = locked(&relay, "/eng/f", &[bob]).await;
        let left = rows.left();
        assert_eq!(left.iter().map(|lock| &lock.token).collect::<Vec<_>>(), [&token], "{end}");
        // And so it is after a start.
        let (relay, ..) = keeping(&log, left, server).await;
        let held = format!("(<{token}>)");
        assert_eq!(said(&relay, "PUT", "/eng/f", &[bob, ("if", &held)], "x").await.0, 204);
    }
}

/// The end of what is locked overtakes the row of the lock.
#[tokio::test]
async fn a_lock_that_ends_before_it_is_written_down_is_not_given() {
    let log = Log::default();
    let (relay, keeper, rows) = keeping(&log, vec![], server).await;
    let relay = Arc::new(relay);
    let (ann, bob) = (("authorization", ANN), ("authorization", BOB));
    // Who has another lock of the place may remove it.
    let (_, words) = said(&relay, "LOCK", "/eng/f", &[ann], &info("shared", "")).await;
    let token = words.split(['<', '>']).find(|text| text.starts_with("urn:uuid:")).unwrap();
    rows.waits.store(true, Ordering::SeqCst);
    let asks = relay.clone();
    let late =
        tokio::spawn(async move { said(&asks, "LOCK", "/eng/f", &[bob], &info("shared", "")).await });
    while keeper.count() < 2 {
        tokio::task::yield_now().await;
    }
    let held = format!("(<{token}>)");
    assert_eq!(said(&relay, "DELETE", "/eng/f", &[ann, ("if", &held)], "").await.0, 204);
    assert_eq!(keeper.count(), 0);
    rows.may_write.notify_one();
    let (status, words) = late.await.unwrap();
    assert!(status == 503 && words.contains("nothing was locked"), "{status} {words}");
    assert_eq!((keeper.count(), rows.left().len()), (0, 0));
}

/// Nobody is told that he has a lock for longer that he has no more.
#[tokio::test]
async fn a_lock_that_ends_while_it_is_refreshed_is_not_said_to_last() {
    let log = Log::default();
    let (relay, keeper, rows) = keeping(&log, vec![], server).await;
    let relay = Arc::new(relay);
    let ann = ("authorization", ANN);
    let token = locked(&relay, "/eng/f", &[ann]).await;
    rows.waits.store(true, Ordering::SeqCst);
    let (asks, held) = (relay.clone(), format!("(<{token}>)"));
    let late =
        tokio::spawn(async move { said(&asks, "LOCK", "/eng/f", &[ann, ("if", &held)], "").await });
    while !rows.waiting.load(Ordering::SeqCst) {
        tokio::task::yield_now().await;
    }
    let ended = format!("<{token}>");
    let unlocked = said(&relay, "UNLOCK", "/eng/f", &[ann, ("lock-token", &ended)], "").await;
    assert_eq!((unlocked.0, keeper.count()), (204, 0));
    rows.may_write.notify_one();
    let (status, words) = late.await.unwrap();
    assert!(status == 412 && words.contains("no lock here"), "{status} {words}");
    assert_eq!(rows.left().len(), 0);
}

#[tokio::test]
async fn a_lock_that_cannot_be_ended_stays_written_down() {
    let log = Log::default();
    let (relay, _, rows) = keeping(&log, vec![], server).await;
    let (ann, bob) = (("authorization", ANN), ("authorization", BOB));
    let ended = format!("<{}>", locked(&relay, "/eng/f", &[ann]).await);
    rows.keeps.store(true, Ordering::SeqCst);
    let fields = [ann, ("lock-token", ended.as_str())];
    assert_eq!(said(&relay, "UNLOCK", "/eng/f", &fields, "").await.0, 503);
    assert_eq!(said(&relay, "PUT", "/eng/f", &[bob], "x").await.0, 423);
    locked(&relay, "/eng/g", &[bob]).await;
    assert_eq!(rows.left().len(), 2);
}
