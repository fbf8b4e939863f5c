//! Changes that must be at another site, and the end of the share before they are (R26).

use http::{Request, StatusCode};

use super::tail::Item;
use super::*;
use crate::body::Body;
use crate::link::frames::{FrameReader, FrameSender, sender};
use crate::link::share::{Feed, Follow, MESSAGE_MAX, Pledge, Sent, Snap, feed, snap};

/// One copy follows, which never says that it keeps anything.
pub(super) async fn pledged() -> (Site, pledge::Following) {
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

/// Large attributes come apart from the record, like a content.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_large_attributes_is_pledged_with_them() {
    let (site, _following) = pledged().await;
    let ticket = site.begin(&["d"]).await;
    fs::create_dir(site.at("d")).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(site.at("d"), "user.large", &[3; 2000], flags).unwrap();
    let _answered = tokio::spawn(ticket.answered(true));
    site.until("it waits for the copy", || site.notice.pledges.asked().len() == 1).await;
    let Some(feed::Kind::Pledge(asked)) = site.notice.pledges.asked().remove(0).kind else {
        panic!("a copy is asked for nothing else");
    };
    let id = bytes::Bytes::copy_from_slice(site.id("d").unwrap().as_bytes());
    assert!(!asked.all && asked.objects.contains(&id), "{asked:?}");
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

/// What a record is before the sync of its commit is over: seen here, and lost by a power cut.
async fn unsynced(site: &Site) -> Record {
    let mut batch = site.shelf.batch();
    batch.publish(1, Vec::new(), Vec::new());
    let record = site.shelf.commit_records(batch, false).await.unwrap().remove(0);
    assert_eq!(site.head(), record.at.seq);
    assert!(durable(site) < record.at.seq);
    record
}

fn durable(site: &Site) -> Seq {
    site.shelf.durable_head().borrow().at.seq
}

async fn ask(site: &Site, what: &str, body: Body) -> FrameReader {
    let osaka = Origin { site: "osaka".parse().unwrap(), session: Session::default() };
    let response = site.notice.clone().inbound(osaka, what, Request::new(body)).await;
    assert_eq!(response.status(), StatusCode::OK);
    FrameReader::new(response.into_body())
}

/// The journal's stream to a copy that has everything up to `head`. It lasts as long as its sender.
pub(super) async fn stream(site: &Site, head: Head) -> (FrameSender, FrameReader) {
    let (asks, body) = sender(4096);
    let (epoch, seq) = (head.at.epoch.0, head.at.seq.0);
    let (chain, incarnation) = (head.chain.0.to_vec().into(), head.incarnation.0.to_vec().into());
    asks.send(&Follow { epoch, seq, chain, incarnation }).await.unwrap();
    (asks, ask(site, "journal", body).await)
}

pub(super) async fn next(feeds: &mut FrameReader) -> feed::Kind {
    let feed = tokio::time::timeout(PATIENCE, feeds.next::<Feed>(MESSAGE_MAX)).await.expect("told");
    feed.unwrap().unwrap().kind.unwrap()
}

pub(super) fn pledge() -> Pledge {
    Pledge { generation: 1, objects: Vec::new(), all: false }
}

/// R23: a copy that had it would be ahead of the primary after a power cut there.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_goes_to_a_copy_once_and_not_before_it_is_synced() {
    let (site, _following) = pledged().await;
    let head = site.shelf.head();
    let record = unsynced(&site).await;
    site.notice.ask_for(pledge());
    let (_asks, mut feeds) = stream(&site, head).await;
    let feed::Kind::Start(start) = next(&mut feeds).await else { panic!("a start comes first") };
    assert_eq!(start.head.seq, head.at.seq.0);
    assert_eq!(site.notice.flush().await.unwrap(), head);
    assert_eq!(durable(&site), head.at.seq, "nothing else synced it");

    // What the worker does with a commit of its own.
    site.shelf.commit(site.shelf.batch(), true).await.unwrap();
    assert_eq!(durable(&site), record.at.seq);
    let sent = Sent { record: crate::catalog::encode_record(&record), inline: Vec::new() };
    let item = Feed { kind: Some(feed::Kind::Record(sent)) };
    site.notice.tail.push(vec![Item::record(item, record.at.seq, 100)]);
    // So much that the stream, which nobody reads, has to read the next record in the catalog.
    let flood = || (0..1500).for_each(|_| site.notice.ask_for(pledge()));
    flood();
    site.relay(&["f"], |site| site.write("f", "one")).await;
    site.flush().await;
    flood();
    let last = site.head();
    assert!(last > record.at.seq);
    let mut came = Vec::new();
    while came.last() != Some(&last) {
        if let feed::Kind::Record(sent) = next(&mut feeds).await {
            came.push(crate::catalog::decode_record(&sent.record).unwrap().at.seq);
        }
    }
    let all: Vec<Seq> = site.records(head.at.seq).iter().map(|record| record.at.seq).collect();
    assert_eq!(came, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_shows_nothing_that_a_power_cut_could_take_back() {
    let (site, _following) = pledged().await;
    let record = unsynced(&site).await;
    let mut snaps = ask(&site, "snapshot", Body::Empty).await;
    let snap = snaps.next::<Snap>(MESSAGE_MAX).await.unwrap().unwrap();
    let Some(snap::Kind::Start(start)) = snap.kind else { panic!("a start comes first") };
    assert_eq!(start.seq, record.at.seq.0);
    assert_eq!(durable(&site), record.at.seq);
}
