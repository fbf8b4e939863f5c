//! Changes that must be at another site, and the end of the share before they are (R26).

use super::*;

/// One copy follows, which never says that it keeps anything.
async fn pledged() -> (Site, pledge::Following) {
    let site = Site::new().await;
    let osaka: SiteId = "osaka".parse().unwrap();
    let terms = Terms { copies: vec![osaka.clone()], durable: 2, ..Terms::default() };
    site.notice.reconfigure(terms);
    let following = site.notice.pledges.follows(&osaka);
    (site, following)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_at_one_site_when_the_share_stops_is_not_answered_as_done() {
    let (site, _following) = pledged().await;
    let ticket = site.begin(&["f"]).await;
    site.write("f", "one");
    let answered = tokio::spawn(ticket.answered(true));
    site.until("it waits for the copy", || site.notice.pledges.asked().len() == 1).await;
    site.notice.stop();
    let ended = tokio::time::timeout(PATIENCE, answered).await.expect("it waits for ever").unwrap();
    assert!(matches!(ended, Err(NoticeError::NotDurable { .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_copy_keeps_is_answered_as_done() {
    let (site, _following) = pledged().await;
    let ticket = site.begin(&["f"]).await;
    let generation = ticket.generation;
    site.write("f", "one");
    let answered = tokio::spawn(ticket.answered(true));
    site.until("it waits for the copy", || site.notice.pledges.asked().len() == 1).await;
    site.notice.pledges.kept(&"osaka".parse().unwrap(), &[generation.0]);
    answered.await.unwrap().unwrap();
}

/// A copy that is to be the primary starts where the old one says that its journal ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_steps_down_tells_where_its_journal_ends() {
    let site = Site::new().await;
    for round in 0..20 {
        let ticket = site.begin(&["f"]).await;
        site.write("f", format!("{round}"));
        ticket.answered(false).await.unwrap();
        let resigning = site.notice.resign().await.unwrap();
        assert!(site.has("f", format!("{round}")));
        let end = resigning.head;
        site.flush().await;
        assert_eq!(site.shelf.head(), end, "round {round}");
    }
}
