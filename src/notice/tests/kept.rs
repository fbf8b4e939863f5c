//! What of the journal is kept, and for whom (R29).

use http::{Request, StatusCode};

use super::durable::{next, pledge, stream};
use super::*;
use crate::body::Body;
use crate::link::frames::{FrameSender, sender};
use crate::link::share::{Ack, Feed, Follow, MESSAGE_MAX, feed};

/// As long as the journal is not looked at for what nobody needs.
const TRIMMED_EVERY: Duration = Duration::from_secs(31);
/// More than are kept for nobody.
const MANY: usize = 10_500;

fn osaka() -> Origin {
    Origin { site: "osaka".parse().unwrap(), session: Session::default() }
}

/// A journal that grows by many records without any work.
async fn grow(site: &Site) {
    let mut batch = site.shelf.batch();
    (0..MANY).for_each(|_| batch.publish(0, Vec::new(), Vec::new()));
    site.shelf.commit(batch, true).await.unwrap();
}

/// Waits until the journal has been trimmed as far as it may be.
async fn trim(site: &Site) {
    let mut batch = site.shelf.batch();
    batch.set_meta(|meta| meta.alive_wall = 0);
    site.shelf.commit(batch, true).await.unwrap();
    site.clock.skip(TRIMMED_EVERY);
    // Something to do; it is looked at in the same step.
    site.flush().await;
    site.until("the journal is looked at", || site.shelf.meta().alive_wall != 0).await;
    // What is dropped goes in a batch of its own, right behind.
    site.flush().await;
}

/// Asks for the journal behind `head`.
async fn asked(site: &Site, head: crate::catalog::Head) -> (FrameSender, StatusCode) {
    let (asks, body) = sender(4096);
    let (epoch, seq) = (head.at.epoch.0, head.at.seq.0);
    let (chain, incarnation) = (head.chain.0.to_vec().into(), head.incarnation.0.to_vec().into());
    asks.send(&Follow { epoch, seq, chain, incarnation }).await.unwrap();
    let response = site.notice.clone().inbound(osaka(), "journal", Request::new(body)).await;
    (asks, response.status())
}

/// Tells the primary of `head`, and then that all up to its own head has come.
async fn follow(site: &Site, head: crate::catalog::Head) -> FrameSender {
    let (asks, status) = asked(site, head).await;
    assert_eq!(status, StatusCode::OK, "the journal goes on from the snapshot");
    let (epoch, seq) = (head.at.epoch.0, site.head().0);
    asks.send(&Ack { epoch, seq, ..Ack::default() }).await.unwrap();
    asks
}

#[tokio::test(flavor = "multi_thread")]
async fn records_after_a_snapshot_are_kept_for_who_reads_it() {
    let site = Site::with_files(&[("f", "x")]).await;
    site.notice.reconfigure(Terms { copies: vec![osaka().site], ..Terms::default() });
    let head = site.shelf.head();
    let ask = Request::new(Body::Empty);
    let snapshot = site.notice.clone().inbound(osaka(), "snapshot", ask).await;
    assert_eq!(snapshot.status(), StatusCode::OK);
    let acked = || site.shelf.peers().unwrap().into_iter().map(|(_, row)| row.acked).collect::<Vec<_>>();
    site.until("the reader is known", || acked() == [head.at]).await;

    grow(&site).await;
    trim(&site).await;
    assert!(site.shelf.oldest() <= head.at.seq.next(), "{:?}", site.shelf.oldest());
    let kept = site.records(head.at.seq);
    assert_eq!((kept.len(), kept[0].at.seq), (MANY, head.at.seq.next()));

    let asks = follow(&site, head).await;
    site.until("it has come", || acked() == [site.shelf.head().at]).await;
    trim(&site).await;
    assert!(site.shelf.oldest() > head.at.seq.next(), "{:?}", site.shelf.oldest());
    // Who was away for a moment finds its place.
    assert!(site.records(site.shelf.oldest()).len() >= 9_000);
    drop((snapshot, asks));
}

/// It reads so slowly that what it is to have next is dropped meanwhile: it must not be taken for a copy that
/// has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_next_record_was_dropped_ends_and_its_copy_is_told_to_compare() {
    let kept = Kept { least: 2, most: 6 };
    let site = Site::unscanned_keeping(kept, std::env::temp_dir(), |_| {});
    site.quiet().await;
    site.notice.reconfigure(Terms { copies: vec![osaka().site], ..Terms::default() });
    let head = site.shelf.head();
    let (_asks, mut feeds) = stream(&site, head).await;
    assert!(matches!(next(&mut feeds).await, feed::Kind::Start(_)));
    let acked = || site.shelf.peers().unwrap().into_iter().map(|(_, row)| row.acked).collect::<Vec<_>>();
    assert_eq!(acked(), [], "it has acknowledged nothing");

    // More before the records than is queued for who does not read, and behind them more than is kept in memory.
    let tell = |times: usize| (0..times).for_each(|_| site.notice.ask_for(pledge()));
    tell(100);
    for round in 0..20 {
        site.relay(&["f"], |site| site.write("f", format!("{round}"))).await;
        site.flush().await;
    }
    tell(1500);
    assert!(site.head().0 > head.at.seq.0 + 2 * kept.most);
    trim(&site).await;
    assert_eq!(site.shelf.oldest(), Seq(site.head().0 - kept.most), "for no copy more than that");
    assert!(site.shelf.oldest() > head.at.seq.next());

    let mut came = head.at.seq;
    let read = async {
        while let Ok(Some(Feed { kind })) = feeds.next::<Feed>(MESSAGE_MAX).await {
            if let Some(feed::Kind::Record(sent)) = kind {
                let seq = crate::catalog::decode_record(&sent.record).unwrap().at.seq;
                assert_eq!(seq, came.next(), "one was passed over");
                came = seq;
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the stream ends");
    assert_eq!(came, head.at.seq, "the records had gone when it came to them");
    assert_eq!(asked(&site, head).await.1, StatusCode::CONFLICT);
    // Who has what is kept needs not compare.
    let now = site.shelf.head();
    assert_eq!(asked(&site, now).await.1, StatusCode::OK);
}
