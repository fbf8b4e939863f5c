//! The link breaks before a change is answered (R19).

use super::copy::{Two, two};
use super::*;

fn trouble(two: &Two, all: &[Trouble]) {
    two.wire.trouble.lock().unwrap().extend(all.iter().copied());
}

/// What the primary's server was asked, how often the link took something, and the last that happened.
fn happened(two: &Two) -> (usize, usize, String) {
    let log = two.log.take();
    let of = |what: &str| log.iter().filter(|entry| entry.starts_with(what)).count();
    (of("server"), of("link"), log.last().unwrap().clone())
}

#[tokio::test]
async fn a_change_is_made_once_and_its_client_is_told_the_truth() {
    use Trouble::{After, Before, None, NotSent};
    let two = two(true, |line| async move {
        match line.contains("refuse") {
            true => status(403),
            false => Response::new(Body::text("done")),
        }
    })
    .await;
    let (large, small) = ("x".repeat(9000), "x".to_owned());
    let (ahead, not) = ("ahead until [7, 8]", "not ahead");
    // The path, the body, what goes wrong; status, how often the server was asked and the link used, the
    // end of the note.
    let table = [
        ("f", &small, vec![Before], 200, 1, 3, ahead),
        ("f", &small, vec![After], 200, 1, 2, ahead),
        ("f", &small, vec![After, Before, After, NotSent], 200, 1, 5, ahead),
        ("f", &small, vec![Before, None, Before, None, After], 200, 1, 6, ahead),
        ("f", &small, vec![Before, None, Before, None, Before, None], 503, 0, 6, not),
        ("f", &small, vec![Before, None, NotSent], 503, 0, 3, not),
        ("refuse", &small, vec![After], 403, 1, 2, ahead),
        ("gone", &small, vec![After], 503, 0, 2, not),
        // Nothing of it is kept.
        ("f", &large, vec![After], 200, 1, 2, ahead),
        ("f", &large, vec![Before], 503, 0, 2, not),
    ];
    for (path, body, troubles, want, served, sent, last) in table {
        trouble(&two, &troubles);
        let put = request("PUT", &format!("/e/{path}"), Body::text(body.clone()));
        let (status, said) = text(two.lyon.serve(client(), put).await).await;
        let what = format!("{path} {troubles:?} {}: {said}", body.len());
        assert_eq!((status, happened(&two)), (want, (served, sent, last.into())), "{what}");
        assert!(status != 503 || said.contains("nothing was changed") || path == "gone", "{what}");
        assert!(two.wire.trouble.lock().unwrap().is_empty(), "{what}");
    }
    // What `status` says of them: of one that was lost three times all three.
    let told = [("answered", 6), ("not_begun", 8), ("unknown", 0)].into();
    assert_eq!(two.lyon.lost(), told);
}

#[tokio::test]
async fn who_asks_while_it_is_under_way_waits_for_the_answer() {
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let log = Arc::new(Mutex::new(None::<Log>));
    let (held, told) = (gate.clone(), log.clone());
    let two = two(true, move |_| {
        let (held, told) = (held.clone(), told.lock().unwrap().clone().unwrap());
        async move {
            told.add("under way");
            held.acquire().await.unwrap().forget();
            Response::new(Body::text("done"))
        }
    })
    .await;
    *log.lock().unwrap() = Some(two.log.clone());
    trouble(&two, &[Trouble::Meanwhile]);
    let asked = tokio::spawn({
        let lyon = two.lyon.clone();
        async move { ask(&lyon, "DELETE", "/e/f").await }
    });
    two.log.until("link Control POST /v1/share/eng/outcome").await;
    gate.add_permits(1);
    assert_eq!(asked.await.unwrap(), (200, "done".into()));
    assert_eq!(happened(&two), (1, 2, "ahead until [7, 8]".into()));
}

/// The first comes after all, when its client has the answer of the second.
#[tokio::test]
async fn what_comes_late_over_the_link_before_is_not_carried_out() {
    let two = two(true, ok).await;
    trouble(&two, &[Trouble::Late]);
    assert_eq!(ask(&two.lyon, "DELETE", "/e/f").await.0, 200);
    two.log.add("later");
    two.log.until("late: 503").await;
    assert_eq!(happened(&two), (1, 3, "late: 503".into()));
}

#[tokio::test]
async fn nothing_is_sent_again_for_a_client_that_has_gone() {
    let two = two(true, ok).await;
    trouble(&two, &[Trouble::Before]);
    *two.wire.returns.lock().unwrap() = false;
    let asked = tokio::spawn({
        let lyon = two.lyon.clone();
        async move { ask(&lyon, "DELETE", "/e/f").await }
    });
    two.log.until("link Control DELETE /v1/share/eng/http/f").await;
    asked.abort();
    asked.await.unwrap_err();
    *two.wire.returns.lock().unwrap() = true;
    two.log.until("not ahead").await;
    assert_eq!(happened(&two), (0, 2, "not ahead".into()));
}

#[tokio::test]
async fn what_the_primary_cannot_know_stays_in_doubt() {
    let two = two(true, ok).await;
    // It is elsewhere by now, and whether what was done here counts there is not known.
    let moved = crate::wire::http::Move::new(&[], "/srv/eng");
    let away =
        Away { site: "osaka".parse().unwrap(), wire: two.wire.clone(), moved, left: Arc::default() };
    let elsewhere = site("hq", "/srv/eng", dead().await, Part::Remote { away }, &two.log);
    trouble(&two, &[Trouble::After, Trouble::Before]);
    let asked = tokio::spawn({
        let lyon = two.lyon.clone();
        async move { ask(&lyon, "DELETE", "/e/f").await }
    });
    two.log.until("answered Done").await;
    two.wire.to.reload(elsewhere);
    let (status, said) = asked.await.unwrap();
    assert!(status == 504 && said.contains("may have been made or not"), "{status} {said}");
    assert_eq!(happened(&two).2, "ahead, unknown");
    let home = site("hq", "/srv/eng", origin(two.log.clone(), ok).await, home(&two.log), &two.log);
    two.wire.to.reload(home);
    assert_eq!(ask(&two.lyon, "DELETE", "/e/f").await.0, 200);
    two.log.take();
    // Its process is another one.
    two.wire.since.store(1000, Ordering::SeqCst);
    trouble(&two, &[Trouble::Before]);
    assert_eq!(ask(&two.lyon, "DELETE", "/e/f").await.0, 504);
    assert_eq!(happened(&two), (0, 2, "ahead, unknown".into()));
}

#[tokio::test(start_paused = true)]
async fn a_link_that_does_not_come_back_leaves_a_doubt() {
    let two = two(true, ok).await;
    trouble(&two, &[Trouble::Before]);
    *two.wire.returns.lock().unwrap() = false;
    let began = tokio::time::Instant::now();
    assert_eq!(ask(&two.lyon, "DELETE", "/e/f").await.0, 504);
    assert_eq!(began.elapsed().as_secs(), 8);
    assert_eq!(happened(&two), (0, 1, "ahead, unknown".into()));
}

#[tokio::test]
async fn an_id_is_good_for_one_change() {
    let log = Log::default();
    let relay = primary(&log, ok).await;
    let eng: ShareId = "eng".parse().unwrap();
    let caller = lyon(Class::Control);
    let send = async |id: &str| {
        let mut request = request("PUT", "/v1/share/eng/http/f", Body::Empty);
        request.headers_mut().insert("nearshare-client", "10.9.9.9:1".parse().unwrap());
        request.headers_mut().insert("nearshare-id", id.parse().unwrap());
        let response = relay.serve_peer(&caller, &eng, request).await;
        (response.headers().get("nearshare-ahead").is_some(), text(response).await)
    };
    let id = format!("{:032x}-{:016x}", 5, 7);
    assert_eq!(send(&id).await.1.0, 200);
    let (ahead, (status, said)) = send(&id).await;
    assert!(ahead && status == 504 && said.contains("has been here already"), "{said}");
    log.take();
    let bad =
        ["".into(), "5-7".into(), id[1..].to_owned(), id.replace('5', "g"), id.replace("05", "+5")];
    for bad in bad {
        let (ahead, (status, said)) = send(&bad).await;
        assert!(!ahead && status == 400 && said.contains("32 hexadecimal digits"), "{bad}: {said}");
    }
    assert_eq!(log.take(), Vec::<String>::new());
    let asked = async |site: &str, fields: &[(&'static str, &str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let caller = Caller { site: site.parse().unwrap(), ..caller.clone() };
        text(relay.outcome(&caller, &eng, &headers).await).await
    };
    let outcome = async |fields: &[(&'static str, &str)]| asked("lyon", fields).await.0;
    assert_eq!(outcome(&[("nearshare-id", &id), ("nearshare-sent", "0.0")]).await, 200);
    assert_eq!(outcome(&[("nearshare-id", &id), ("nearshare-sent", "0")]).await, 400);
    assert_eq!(outcome(&[("nearshare-id", "x"), ("nearshare-sent", "0.0")]).await, 400);
    assert_eq!(outcome(&[("nearshare-sent", "0.0")]).await, 400);
    assert_eq!(outcome(&[("nearshare-id", &id), ("nearshare-sent", "+0.0")]).await, 400);
    let twice = [("nearshare-id", id.as_str()), ("nearshare-id", &id), ("nearshare-sent", "0.0")];
    assert_eq!(outcome(&twice).await, 400);
    // Of what another site has sent nothing is told, least of all that it was not begun; and nothing to who
    // has no part in the share.
    let whole = [("nearshare-id", id.as_str()), ("nearshare-sent", "0.0")];
    for (site, word) in [("hq", "another site has sent"), ("osaka", "gives osaka no part")] {
        let (status, said) = asked(site, &whole).await;
        assert!(status == 403 && said.contains(word), "{site}: {status} {said}");
    }
    assert_eq!(outcome(&whole).await, 200);
}
