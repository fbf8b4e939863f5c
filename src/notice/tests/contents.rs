//! What copies are sent: small contents go together, large ones in pieces, and each is the file as it is.

use bytes::Bytes;
use http_body_util::BodyExt as _;

use super::durable::{next as next_feed, stream};
use super::*;
use crate::body::Body;
use crate::link::frames::{FrameReader, sender};
use crate::link::share::{
    Content, ContentEnd, Feed, MESSAGE_MAX, Sent, Snap, Supply, Want, Wants, feed,
};
use crate::notice::supply;

/// Around the lengths at which a content goes by itself, and is read in pieces.
const LENGTHS: [usize; 10] =
    [0, 1, 4096, 65_535, 65_536, 65_537, 262_143, 262_144, 262_145, 3 * 262_144 + 5];

fn data(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251 + length) as u8).collect()
}

pub fn want(id: ObjectId) -> Want {
    Want { id: Bytes::copy_from_slice(id.as_bytes()), version: 1, ..Want::default() }
}

/// What is answered to `wants`, in one request.
pub(super) async fn ask(site: &Site, wants: Vec<Want>) -> FrameReader {
    let (asks, body) = sender(64 << 10);
    asks.send(&Wants { wants }).await.unwrap();
    asks.finish().await.unwrap();
    let request = http::Request::new(body);
    FrameReader::new(supply::content(&site.shelf, &site.notice.tree, in_line(site), request).into_body())
}

fn in_line(site: &Site) -> InLine {
    site.notice.contents.enter(site.notice.share(), &"osaka".parse().unwrap()).unwrap()
}

/// The next `count` bytes.
pub(super) async fn bytes(answers: &mut FrameReader, count: u64) -> Vec<u8> {
    let mut data = Vec::new();
    while (data.len() as u64) < count {
        let left = count - data.len() as u64;
        data.extend_from_slice(&answers.raw(left).next().await.unwrap().unwrap());
    }
    data
}

/// One content: what it is, and whether it was whole.
async fn next(answers: &mut FrameReader) -> (Content, Vec<u8>, bool) {
    let head: Content = answers.next(1024).await.unwrap().unwrap();
    if head.supply != Supply::Whole as i32 {
        return (head, Vec::new(), false);
    }
    let data = bytes(answers, head.size).await;
    let end: ContentEnd = answers.next(1024).await.unwrap().unwrap();
    (head, data, end.whole)
}

#[tokio::test(flavor = "multi_thread")]
async fn contents_of_every_length_come_whole_and_in_order() {
    let site = Site::with(|root| {
        fs::create_dir_all(root.join("a/b")).unwrap();
        for length in LENGTHS {
            for dir in ["", "a", "a/b"] {
                fs::write(root.join(dir).join(length.to_string()), data(length)).unwrap();
            }
        }
    })
    .await;
    let mut wants = Vec::new();
    let mut lengths = Vec::new();
    // By turns, and the same directory many times.
    for dirs in [["", "a/", "a/b/"], ["a/", "a/", "a/b/"]] {
        for length in LENGTHS {
            for dir in dirs {
                wants.push(want(site.id(&format!("{dir}{length}")).unwrap()));
                lengths.push(length);
            }
        }
    }
    let mut answers = ask(&site, wants.clone()).await;
    for (want, length) in wants.iter().zip(lengths) {
        let (head, came, whole) = next(&mut answers).await;
        assert!(head.id == want.id && whole && came == data(length), "{length}");
    }
    assert!(answers.next::<Content>(1024).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_or_newer_than_the_catalog_is_said_among_the_others() {
    let site = Site::with(|root| {
        fs::create_dir(root.join("d")).unwrap();
        for name in ["first", "gone", "newer", "last"] {
            fs::write(root.join("d").join(name), name).unwrap();
        }
    })
    .await;
    let ids = ["d/first", "d/gone", "d/newer", "d/last"].map(|path| site.id(path).unwrap());
    let nobody = ObjectId::from_bytes([7; 16]);
    // Behind the catalog's back.
    fs::remove_file(site.at("d/gone")).unwrap();
    granule().await;
    site.write("d/newer", "newer than that");
    let mut wants: Vec<Want> = ids.into_iter().map(want).collect();
    wants.insert(2, want(nobody));
    let mut answers = ask(&site, wants).await;
    let mut supplied = Vec::new();
    for _ in 0..5 {
        let (head, came, whole) = next(&mut answers).await;
        supplied.push((Supply::try_from(head.supply).unwrap(), came, whole));
    }
    let whole = |name: &str| (Supply::Whole, name.as_bytes().to_vec(), true);
    let none = |supply| (supply, Vec::new(), false);
    let expected =
        [whole("first"), none(Supply::Later), none(Supply::Gone), none(Supply::Later), whole("last")];
    assert_eq!(supplied, expected);
}

/// A file that becomes shorter, or another, while it is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_content_that_changes_on_its_way_is_not_whole_and_those_behind_it_come() {
    let large = 16 << 20;
    let site = Site::with(|root| {
        fs::write(root.join("large"), data(large)).unwrap();
        fs::write(root.join("small"), "small").unwrap();
    })
    .await;
    let wants = ["large", "small"].map(|path| want(site.id(path).unwrap())).to_vec();
    let mut answers = ask(&site, wants).await;
    let head: Content = answers.next(1024).await.unwrap().unwrap();
    assert_eq!(head.size, large as u64);
    // It is not read further ahead than fits into the queue.
    let file = fs::OpenOptions::new().write(true).open(site.at("large")).unwrap();
    file.set_len(12 << 20).unwrap();
    bytes(&mut answers, head.size).await;
    let end: ContentEnd = answers.next(1024).await.unwrap().unwrap();
    assert!(!end.whole);
    let (_, came, whole) = next(&mut answers).await;
    assert!(whole && came == b"small");
}

/// A reader that goes away ends it.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_answered_on() {
    let site = Site::with(|root| fs::write(root.join("f"), data(32 << 20)).unwrap()).await;
    let (asks, body) = sender(64 << 10);
    asks.send(&Wants { wants: vec![want(site.id("f").unwrap())] }).await.unwrap();
    let request = http::Request::new(body);
    let mut answers =
        supply::content(&site.shelf, &site.notice.tree, in_line(&site), request).into_body();
    answers.frame().await.unwrap().unwrap();
    drop(answers);
    tokio::time::timeout(PATIENCE, asks.closed()).await.expect("it is still asked");
}

/// One content that is longer than what waits for its reader, of a reader that may stand still for so long.
async fn ask_within(site: &Site, stalled: Duration) -> FrameReader {
    let (asks, body) = sender(64 << 10);
    asks.send(&Wants { wants: vec![want(site.id("f").unwrap())] }).await.unwrap();
    asks.finish().await.unwrap();
    let request = http::Request::new(body);
    let answer = supply::content_within(&site.shelf, &site.notice.tree, in_line(site), request, stalled);
    FrameReader::new(answer.into_body())
}

/// Each takes a thread of a pool that every share has its own of as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_reads_nothing_keeps_few_threads_and_those_not_for_ever() {
    let site = Site::with(|root| fs::write(root.join("f"), data(32 << 20)).unwrap()).await;
    let mut idle = Vec::new();
    for _ in 0..4 {
        let mut answers = ask_within(&site, Duration::from_secs(1)).await;
        // It has begun.
        answers.next::<Content>(1024).await.unwrap().unwrap();
        idle.push(answers);
    }
    let mut fifth = ask_within(&site, PATIENCE).await;
    let early = tokio::time::timeout(Duration::from_millis(200), fifth.next::<Content>(1024)).await;
    assert!(early.is_err(), "it waits for its turn");
    // Those that stand still end, and then it comes, whole.
    let (_, came, whole) = tokio::time::timeout(PATIENCE, next(&mut fifth)).await.expect("its turn");
    assert!(whole && came == data(32 << 20));
    let mut answers = idle.remove(0);
    let mut left = 32 << 20;
    let ended = loop {
        match answers.raw(left).next().await {
            Ok(Some(bytes)) => left -= bytes.len() as u64,
            ended => break ended,
        }
    };
    assert!(ended.is_err() && left > 0, "what was broken off is not taken for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_has_so_many_requests_and_takes_no_others_place() {
    let site = Site::new().await;
    let ask = async |name: &str, what: &str| {
        let (asks, body) = sender(64 << 10);
        let from = Origin { site: name.parse().unwrap(), session: Session::default() };
        let answer = site.notice.clone().inbound(from, what, http::Request::new(body)).await;
        let again = answer.headers().contains_key(http::header::RETRY_AFTER);
        assert_eq!(again, answer.status() == 503);
        (answer.status().as_u16(), asks, answer)
    };
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(ask("osaka", "content").await);
    }
    assert!(open.iter().all(|(status, ..)| *status == 200));
    assert_eq!(ask("osaka", "content").await.0, 503);
    for (site, what) in [("lyon", "content"), ("osaka", "snapshot"), ("lyon", "snapshot")] {
        assert_eq!(ask(site, what).await.0, 200, "{site} {what}");
    }
    // An honest copy that comes back finds what it left behind gone.
    drop(open);
    let back = async {
        while ask("osaka", "content").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.expect("places are given back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_is_sent_one_snapshot_at_a_time() {
    let site = Site::new().await;
    let osaka: SiteId = "osaka".parse().unwrap();
    let first = site.notice.snapshots.enter(site.notice.share(), &osaka).unwrap();
    let turn = first.turn().await;
    let from = Origin { site: osaka, session: Session::default() };
    let answer = site.notice.clone().inbound(from, "snapshot", http::Request::new(Body::Empty)).await;
    let mut snaps = FrameReader::new(answer.into_body());
    let mut next = async |limit| tokio::time::timeout(limit, snaps.next::<Snap>(MESSAGE_MAX)).await;
    assert!(next(Duration::from_millis(200)).await.is_err(), "it waits for its turn");
    drop(turn);
    assert!(next(PATIENCE).await.expect("its turn").unwrap().is_some());
}

/// A small content needs no way of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_content_of_one_block_goes_with_its_record_and_a_longer_one_does_not() {
    let site = Site::new().await;
    let (_asks, mut feeds) = stream(&site, site.shelf.head()).await;
    // From here on it is sent what comes, and does not read it in the catalog.
    assert!(matches!(next_feed(&mut feeds).await, feed::Kind::Start(_)));
    let mut record_of = async |path: &str| -> Sent {
        let told = async {
            loop {
                let feed: Feed = feeds.next(MESSAGE_MAX).await.unwrap().unwrap();
                let Some(feed::Kind::Record(sent)) = feed.kind else { continue };
                let record = crate::catalog::decode_record(&sent.record).unwrap();
                let id = site.id(path);
                let is_of = |row: &Row| matches!(row, Row::Put(object) if Some(object.id) == id);
                if record.changes.iter().any(is_of) {
                    return sent;
                }
            }
        };
        tokio::time::timeout(PATIENCE, told).await.expect("a record of it")
    };
    for (path, length) in [("empty", 0), ("one", 1), ("block", 4096), ("more", 4097), ("large", 100_000)]
    {
        site.relay(&[path], |site| site.write(path, data(length))).await;
        site.flush().await;
        let inline = record_of(path).await.inline;
        let wanted = (length <= 4096).then(|| Bytes::from(data(length)));
        let came: Vec<Bytes> = inline.iter().map(|small| small.data.clone()).collect();
        assert!(came == Vec::from_iter(wanted), "{path} came with {came:?}");
        if let Some(small) = inline.first() {
            let object = site.object(path);
            assert_eq!((&small.id[..], small.version), (&object.id.as_bytes()[..], object.version.0));
        }
        // Also where it was there before.
        let changed = data(length + 1)[1..].to_vec();
        site.relay(&[path], |site| site.write(path, &changed)).await;
        site.flush().await;
        if length > 0 {
            let came = record_of(path).await.inline.pop().map(|small| small.data.to_vec());
            assert!(came == (length <= 4096).then_some(changed), "{path} anew came with {came:?}");
        }
    }
}
