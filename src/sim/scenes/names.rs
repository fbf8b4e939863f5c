//! What a change is found to touch, and when.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::work;

/// R2: the server takes its time, and where the path led when it was asked is not where it writes.
#[test]
fn what_an_answer_shows_is_held_before_it_is_given() {
    shows(Bug::KeepFirstWalk, 5, |seed| {
        play(seed, |scene| async move {
            assert_eq!(scene.ask(0, "MKCOL", "/eng/d", "").await.status, 201);
            assert!(settled(&scene.sites, QUIET).await);
            scene.answers_for_itself(1).await;
            scene.sites[0].server.set_slow("d/f", Duration::from_secs(1));
            let swaps = async {
                sleep(Duration::from_millis(300)).await;
                assert_eq!(scene.transfer(0, "MOVE", "/eng/d", "/eng/e").await, 201);
                assert_eq!(scene.ask(0, "MKCOL", "/eng/d", "").await.status, 201);
            };
            let (put, ()) = tokio::join!(scene.ask(0, "PUT", "/eng/d/f", "new"), swaps);
            assert_eq!(put.status, 201);
            scene.ask(1, "GET", "/eng/d/f", "").await.body == "new"
        })
    });
}

/// R2: the server takes its time, and writes where the path led neither when it was asked nor when it has answered.
#[test]
fn where_a_path_led_meanwhile_is_held_before_it_is_answered() {
    shows(Bug::ForgetShifts, 5, |seed| {
        play(seed, |scene| async move {
            for dir in ["/eng/d", "/eng/e"] {
                assert_eq!(scene.ask(0, "MKCOL", dir, "").await.status, 201);
            }
            for file in ["/eng/d/f", "/eng/e/f"] {
                assert_eq!(scene.ask(0, "PUT", file, "before").await.status, 201);
            }
            assert!(settled(&scene.sites, QUIET).await);
            let server = &scene.sites[0].server;
            server.set_slow("d/f", Duration::from_secs(1));
            server.set_silent("d/f", Duration::from_secs(9));
            let swaps = async {
                sleep(Duration::from_millis(300)).await;
                assert_eq!(scene.transfer(0, "MOVE", "/eng/d", "/eng/x").await, 201);
                assert_eq!(scene.transfer(0, "MOVE", "/eng/e", "/eng/d").await, 201);
                sleep(Duration::from_secs(1)).await;
                assert_eq!(scene.transfer(0, "MOVE", "/eng/d", "/eng/e").await, 201);
                assert_eq!(scene.transfer(0, "MOVE", "/eng/x", "/eng/d").await, 201);
                // The copy answers for it, until it is asked to hold it.
                sleep(Duration::from_secs(3)).await;
                for _ in 0..40 {
                    scene.ask(1, "GET", "/eng/e/f", "").await;
                    sleep(Duration::from_millis(50)).await;
                }
                scene.ask(1, "GET", "/eng/e/f", "").await.near
            };
            let (put, near) = tokio::join!(scene.ask(0, "PUT", "/eng/d/f", "new"), swaps);
            assert!(near && put.status == 204, "{put:?}");
            let moved = scene.ask(1, "GET", "/eng/e/f", "").await.body;
            let stayed = scene.ask(1, "GET", "/eng/d/f", "").await.body;
            moved == "new" && stayed == "before" && settled(&scene.sites, QUIET).await
        })
    });
}

/// R2: the primary's disk takes its time, and the catalog does not know yet where the path leads.
#[test]
fn where_a_change_is_made_is_looked_up_on_the_disk() {
    shows(Bug::ResolveInCatalog, 3, |seed| {
        play(seed, |scene| async move {
            for dir in ["/eng/a", "/eng/b"] {
                assert_eq!(scene.ask(0, "MKCOL", dir, "").await.status, 201);
            }
            assert!(settled(&scene.sites, QUIET).await);
            let slow = AtomicBool::new(true);
            scene.sites[0].disk.on_read(move |path| {
                if path == "/large" && slow.swap(false, Ordering::SeqCst) {
                    work::pause(Duration::from_secs(2));
                }
                Ok(())
            });
            assert_eq!(scene.ask(0, "PUT", "/eng/large", "large").await.status, 201);
            assert_eq!(scene.transfer(0, "MOVE", "/eng/b", "/eng/c").await, 201);
            assert_eq!(scene.transfer(0, "MOVE", "/eng/a", "/eng/b").await, 201);
            assert_eq!(scene.ask(0, "PUT", "/eng/b/new", "new").await.status, 201);
            settled(&scene.sites, QUIET).await
                && scene.ask(1, "GET", "/eng/b/new", "").await.body == "new"
        })
    });
}

/// R7: what was made a moment ago may be in no journal yet, in one, or on its way to a copy; and the server is
/// at what is made in it when that is over.
#[test]
fn what_is_new_is_born_held() {
    shows(Bug::ReleaseLeanedOn, 60, |seed| {
        play(seed, |scene| async move {
            let later = Duration::from_millis(seed * 5);
            assert_eq!(scene.ask(0, "MKCOL", "/eng/n", "").await.status, 201);
            sleep(later).await;
            scene.sites[0].server.set_slow("n/g", Duration::from_millis(300));
            assert_eq!(scene.ask(0, "PUT", "/eng/n/g", "one").await.status, 201);
            let one = scene.ask(1, "GET", "/eng/n/g", "").await;
            sleep(later).await;
            assert_eq!(scene.ask(0, "PUT", "/eng/n/g", "two").await.status, 204);
            let two = scene.ask(1, "GET", "/eng/n/g", "").await;
            one.body == "one" && two.body == "two"
        })
    });
}
