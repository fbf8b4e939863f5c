//! While the primary copy moves, its locks stay as they are told to whoever gets it.

use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::super::primary::Waiting;
use super::*;

/// How long what must not end is watched.
const WATCHED: Duration = Duration::from_millis(200);

#[tokio::test]
async fn nobody_ends_or_refreshes_a_lock_while_the_primary_copy_moves() {
    let log = Log::default();
    // For the LOCK.
    let may_go = Arc::new(Semaphore::new(1));
    let part = Part::Local { home: Arc::new(Waiting(log.clone(), may_go.clone())) };
    let mut site = site("hq", "/eng", origin(log.clone(), server).await, part, &log);
    let rows = Arc::new(Rows::default());
    let keeper = Arc::new(Keeper::new("eng".parse().unwrap(), vec![], rows.clone(), Arc::new(Still)));
    site.slots[0].locks = KeptBy::Here(keeper.clone());
    let relay = Arc::new(HttpRelay::new(site, Arc::new(Still)));
    let token = locked(&relay, "/eng/f", &[("authorization", ANN), ("timeout", "Second-60")]).await;
    let ask = |method: &'static str, name: &'static str, field: String| -> JoinHandle<u16> {
        let relay = relay.clone();
        tokio::spawn(async move {
            let fields = [("authorization", ANN), ("timeout", "Second-600"), (name, &*field)];
            said(&relay, method, "/eng/f", &fields, "").await.0
        })
    };
    let kept = || rows.left().into_iter().map(|lock| lock.timeout.as_secs()).collect::<Vec<_>>();
    for (method, name, field, want, left) in [
        ("LOCK", "if", format!("(<{token}>)"), 200, vec![600]),
        ("UNLOCK", "lock-token", format!("<{token}>"), 204, vec![]),
    ] {
        let before = kept();
        let asked = ask(method, name, field);
        tokio::time::sleep(WATCHED).await;
        assert!(!asked.is_finished() && kept() == before && keeper.all().len() == 1, "{method}");
        may_go.add_permits(1);
        assert_eq!((asked.await.unwrap(), kept()), (want, left), "{method}");
    }
}
