//! Locks that nearshare keeps: where they cannot be written down, or are too many.

use std::time::Duration;

use super::*;
use crate::wire::http::lock::{LOCKS_MAX, Maker};

const INFO: &str = "<lockinfo xmlns='DAV:'><lockscope><exclusive/></lockscope>\
                    <locktype><write/></locktype></lockinfo>";

/// A primary whose locks nearshare keeps, `many` of them from before.
async fn with(log: &Log, many: usize) -> (HttpRelay, Arc<Keeper>, Arc<Rows>) {
    let left = (0..many).map(|n| Lock {
        token: format!("t:{n}"),
        path: RelPath::parse(format!("d/{n}").as_bytes()).unwrap(),
        deep: false,
        shared: false,
        owner: String::new(),
        timeout: Duration::from_secs(60),
        maker: Maker::default(),
    });
    keeping(log, left.collect(), async |_| status(207)).await
}

/// Status, Retry-After, Lock-Token and text.
async fn say(
    relay: &HttpRelay,
    method: &str,
    fields: &[(&'static str, &str)],
    body: &str,
) -> (u16, bool, String, String) {
    let mut asked = request(method, "/eng/f", Body::text(body.to_owned()));
    for (name, value) in fields {
        asked.headers_mut().insert(*name, value.parse().unwrap());
    }
    let response = relay.serve(client(), asked).await;
    let retry = response.headers().contains_key("retry-after");
    let token = response.headers().get("lock-token").map(|token| token.to_str().unwrap().to_owned());
    let (status, said) = text(response).await;
    (status, retry, token.unwrap_or_default(), said)
}

/// RFC 4918 section 11.5: no client may try again by itself, as 503 would have it do.
#[tokio::test]
async fn of_too_many_locks_one_more_is_refused_for_want_of_room() {
    let log = Log::default();
    let (relay, keeper, _) = with(&log, LOCKS_MAX).await;
    let (status, retry, token, said) = say(&relay, "LOCK", &[], INFO).await;
    assert_eq!((status, retry, token.as_str()), (507, false, ""), "{said}");
    assert!(said.contains("10000 locks") && said.contains("UNLOCK"), "{said}");
    assert_eq!(keeper.count(), LOCKS_MAX);
}

#[tokio::test]
async fn what_cannot_be_written_down_is_neither_locked_nor_unlocked() {
    let log = Log::default();
    let (relay, keeper, rows) = with(&log, 0).await;
    rows.full.store(true, Ordering::SeqCst);
    let (status, retry, _, said) = say(&relay, "LOCK", &[], INFO).await;
    assert_eq!((status, retry, keeper.count()), (503, true, 0), "{said}");
    assert!(said.contains("nothing was changed"), "{said}");
    rows.full.store(false, Ordering::SeqCst);
    let (status, _, token, said) = say(&relay, "LOCK", &[], INFO).await;
    assert_eq!((status, keeper.count()), (200, 1), "{said}");
    rows.full.store(true, Ordering::SeqCst);
    let (status, retry, _, said) = say(&relay, "UNLOCK", &[("lock-token", &token)], "").await;
    assert_eq!((status, retry, keeper.count()), (503, true, 1), "{said}");
    rows.full.store(false, Ordering::SeqCst);
    let (status, _, _, said) = say(&relay, "UNLOCK", &[("lock-token", &token)], "").await;
    assert_eq!((status, keeper.count()), (204, 0), "{said}");
}

/// Who asks is the server's to judge; what is asked is not what it is asked.
#[tokio::test]
async fn whether_something_is_there_is_asked_in_the_clients_name_and_of_nothing_else() {
    let log = Log::default();
    let (relay, ..) = with(&log, 0).await;
    let fields = [
        ("authorization", "Basic eDp5"),
        ("connection", "close"),
        ("depth", "infinity"),
        ("nearshare-x", "1"),
        ("range", "bytes=0-1"),
        ("timeout", "Second-60"),
    ];
    let (status, ..) = say(&relay, "LOCK", &fields, INFO).await;
    assert_eq!(status, 200);
    let heard: Vec<_> = log.take().into_iter().filter(|line| line.starts_with("server")).collect();
    let unlock = "server UNLOCK /eng/f authorization=Basic eDp5";
    assert_eq!(heard, ["server PROPFIND /eng/f authorization=Basic eDp5 depth=0", unlock]);
}
