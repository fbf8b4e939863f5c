//! Who gets a lock, while changes of others are still under way that were let by before it.

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::relay::locks::PATIENCE;

/// Changes that say `x-end` are under way until they may end.
struct Held {
    log: Log,
    relay: Arc<HttpRelay>,
    keeper: Arc<Keeper>,
    may_end: Arc<Semaphore>,
    /// The server lets nobody change anything any more.
    refuses: Arc<AtomicBool>,
}

async fn held() -> Held {
    let log = Log::default();
    let may_end = Arc::new(Semaphore::new(0));
    let ends = may_end.clone();
    let refuses = Arc::new(AtomicBool::new(false));
    let refused = refuses.clone();
    let answer = move |line: String| {
        let (ends, refused) = (ends.clone(), refused.clone());
        async move {
            if line.starts_with("UNLOCK") && refused.load(Ordering::SeqCst) {
                return status(403);
            }
            // A file that a LOCK makes is held by its name: the request says nothing that the LOCK did.
            if line.contains("x-end") || line.starts_with("PUT /eng/d/fresh") {
                ends.acquire().await.unwrap().forget();
            }
            match line.starts_with("PROPFIND /eng/d/fresh") {
                true => status(404),
                false => server(line.replace("/eng/d/fresh", "/eng/fresh")).await,
            }
        }
    };
    let (relay, keeper, _) = keeping(&log, vec![], answer).await;
    Held { log, relay: Arc::new(relay), keeper, may_end, refuses }
}

impl Held {
    fn ask(
        &self,
        method: &'static str,
        uri: &'static str,
        fields: &[(&'static str, &'static str)],
        body: String,
    ) -> JoinHandle<(u16, String)> {
        let (relay, log) = (self.relay.clone(), self.log.clone());
        let fields = [&[("authorization", ANN)], fields].concat();
        tokio::spawn(async move {
            let answer = said(&relay, method, uri, &fields, &body).await;
            log.add(format!("{method} {uri} {}", answer.0));
            answer
        })
    }

    /// One that is at the server when this returns.
    async fn begin(&self, method: &'static str, uri: &'static str) -> JoinHandle<(u16, String)> {
        let change = self.ask(method, uri, &[("x-end", "1")], String::new());
        self.log.until(&format!("server {method} {uri} authorization={ANN} x-end=1")).await;
        change
    }

    fn lock(&self, uri: &'static str, depth: &'static str) -> JoinHandle<(u16, String)> {
        self.ask("LOCK", uri, &[("depth", depth)], info("exclusive", ""))
    }
}

/// No change of somebody else comes after the answer.
#[tokio::test(start_paused = true)]
async fn a_lock_is_given_when_what_was_let_by_before_it_has_ended() {
    for (method, at, uri, depth, status) in [
        ("PUT", "/eng/d/f", "/eng/d", "infinity", 200),
        ("PUT", "/eng/link/f", "/eng/dir", "infinity", 200),
        ("MKCOL", "/eng/d/fresh", "/eng/d", "0", 200),
        // The locked thing goes with it.
        ("DELETE", "/eng/d", "/eng/d/f", "0", 503),
    ] {
        let held = held().await;
        let change = held.begin(method, at).await;
        let mut lock = held.lock(uri, depth);
        let early = timeout(PATIENCE / 2, &mut lock).await;
        assert!(early.is_err(), "{method} {at}, LOCK {uri}: {early:?}");
        // Nobody begins another one meanwhile.
        let other = held.ask("PUT", uri, &[], String::new()).await.unwrap();
        assert_eq!(other.0, 423, "{other:?}");
        held.may_end.add_permits(1);
        let (locked, text) = lock.await.unwrap();
        assert_eq!(locked, status, "{method} {at}, LOCK {uri}: {text}");
        assert_eq!(change.await.unwrap().0, 204);
        assert_eq!(held.keeper.count(), usize::from(status == 200));
        if status == 503 {
            assert!(text.contains("has just been removed") && text.contains("nothing was locked"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_lock_is_not_on_does_not_keep_it() {
    for (method, at, uri, depth) in [
        ("PUT", "/eng/d/f", "/eng/e", "infinity"),
        ("PUT", "/eng/d/f", "/eng/d", "0"),
        ("PUT", "/eng/d/f", "/eng/d/g", "0"),
    ] {
        let held = held().await;
        let change = held.begin(method, at).await;
        let (status, text) = held.lock(uri, depth).await.unwrap();
        assert_eq!(status, 200, "{method} {at}, LOCK {uri}: {text}");
        assert!(!change.is_finished());
    }
}

/// A file that is made for another lock is a change too.
#[tokio::test(start_paused = true)]
async fn a_lock_waits_for_a_file_that_is_made_for_another() {
    let held = held().await;
    let fresh = held.lock("/eng/d/fresh", "0");
    held.log.until(&format!("server PUT /eng/d/fresh if-none-match=* authorization={ANN}")).await;
    let mut lock = held.lock("/eng/d", "0");
    assert!(timeout(PATIENCE / 2, &mut lock).await.is_err());
    held.may_end.add_permits(1);
    assert_eq!((lock.await.unwrap().0, fresh.await.unwrap().0), (200, 201));
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_would_wait_for_long_is_not_given() {
    let held = held().await;
    let change = held.begin("PUT", "/eng/d/f").await;
    let began = tokio::time::Instant::now();
    let (status, text) = held.lock("/eng/d", "infinity").await.unwrap();
    assert!(
        status == 503 && text.contains("have not ended in 8 s; nothing was locked"),
        "{status} {text}"
    );
    assert!(began.elapsed() >= PATIENCE);
    // It is as if nobody had asked.
    assert_eq!(held.keeper.count(), 0);
    assert_eq!(held.ask("PUT", "/eng/d/g", &[], String::new()).await.unwrap().0, 204);
    assert!(!change.is_finished());
    held.may_end.add_permits(1);
    assert_eq!(change.await.unwrap().0, 204);
    assert_eq!(held.lock("/eng/d", "infinity").await.unwrap().0, 200);
}

/// Who may change nothing when his turn comes gets no lock, whatever he might when he asked.
#[tokio::test(start_paused = true)]
async fn who_may_lock_is_asked_again_after_a_wait() {
    for (refuses, want) in [(true, (403, 0)), (false, (200, 1))] {
        let held = held().await;
        let change = held.begin("PUT", "/eng/d/f").await;
        let mut lock = held.lock("/eng/d", "infinity");
        assert!(timeout(PATIENCE / 2, &mut lock).await.is_err());
        held.refuses.store(refuses, Ordering::SeqCst);
        held.may_end.add_permits(1);
        assert_eq!((lock.await.unwrap().0, held.keeper.count()), want);
        change.await.unwrap();
    }
}
