//! What being strict costs at most.

use super::*;
use crate::hold::counted;

/// What the server and the disks of a site take at most for one change.
const WORK: Duration = Duration::from_secs(1);
/// One way there and one back: `net` lets either take up to 30 ms.
const ROUND: Duration = Duration::from_millis(60);

async fn timed<V>(work: impl Future<Output = V>) -> (V, Duration) {
    let begun = Instant::now();
    let done = work.await;
    (done, begun.elapsed())
}

/// R6: a copy that cannot be reached costs one writer the rest of its lease, and nobody after it anything; also
/// if all that it says is heard.
#[test]
fn a_copy_that_hears_nothing_is_waited_for_once_and_no_longer_than_its_lease() {
    shows(Bug::RenewWhileAsked, 10, |seed| {
        play(seed, |scene| async move {
            match seed.is_multiple_of(2) {
                true => scene.cut_off(1),
                false => scene.net.set_blocked(&scene.sites[0].id(), &scene.sites[1].id(), true),
            }
            let (put, first) = timed(scene.put(0, "new")).await;
            assert_eq!(put, 204);
            for path in ["/eng/g", "/eng/h"] {
                let (put, next) = timed(scene.ask(0, "PUT", path, "other")).await;
                assert_eq!(put.status, 201);
                assert!(next < WORK, "{next:?} at {path}");
            }
            assert!(!scene.get(1).await.near);
            first <= counted(LEASE) + WORK
        })
    });
}

/// What is held is read at the primary, and that is all that it costs.
#[test]
fn a_read_of_what_is_held_costs_one_round_trip() {
    for seed in 1..=10 {
        play(seed, |scene| async move {
            scene.sites[0].server.set_slow("f", WORK * 2);
            let reads = async {
                sleep(WORK / 2).await;
                let mut times = Vec::new();
                for _ in 0..9 {
                    let (answer, time) = timed(scene.get(1)).await;
                    assert!(!answer.near && answer.body == "old", "it is held: {answer:?}");
                    times.push(time);
                }
                times.sort();
                // A disk may take its time once.
                assert!(times[4] < ROUND && times[7] < Duration::from_millis(150), "{times:?}");
            };
            let (put, ()) = tokio::join!(scene.put(0, "new"), reads);
            assert_eq!(put, 204);
        });
    }
}
