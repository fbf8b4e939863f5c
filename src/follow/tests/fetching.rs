//! Large contents on their way to the disk, and what is left of those that do not arrive.

use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use bytes::Bytes;

use super::rig::{Rig, list};
use super::share::Share;
use crate::body::Body;
use crate::follow::fetch::{Asked, take_large};
use crate::id::{ObjectId, Version};
use crate::link::frames::{FrameReader, FrameSender, sender};
use crate::link::share::{Content, ContentEnd, Extent};
use crate::tree::content::{Hasher, hash_bytes};

fn id() -> ObjectId {
    ObjectId::from_bytes([7; 16])
}
const PIECE: usize = 100_000;

/// A content of two pieces.
fn head() -> Content {
    Content { size: 2 * PIECE as u64, ..Content::default() }
}

fn lines() -> (FrameSender, FrameReader<Body>) {
    let (sender, body) = sender(1024);
    (sender, FrameReader::new(body))
}

async fn piece(line: &FrameSender) {
    line.send_bytes(Bytes::from(vec![b'x'; PIECE])).await.unwrap();
}

fn parts(rig: &Rig) -> usize {
    list(&rig.path(".nearshare/tmp")).len()
}

async fn until_parts(rig: &Rig, many: usize) {
    let so_many = async {
        while parts(rig) != many {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(30), so_many).await;
    in_time.unwrap_or_else(|_| panic!("{} files, not {many}", parts(rig)));
}

#[tokio::test]
async fn what_arrives_whole_is_kept_and_nothing_else() {
    let rig = Rig::bare();
    for whole in [false, true] {
        let (line, mut answers) = lines();
        let sending = async {
            piece(&line).await;
            piece(&line).await;
            line.send(&ContentEnd { whole }).await.unwrap();
        };
        let head = head();
        let (root, ()) = tokio::join!(take_large(rig.follow(), &mut answers, id(), &head), sending);
        let want = whole.then(|| hash_bytes(&[b'x'; 2 * PIECE]).root);
        assert_eq!((root.unwrap(), parts(&rig)), (want, usize::from(whole)));
    }
}

/// The content may be deleted before it is asked for again.
#[tokio::test]
async fn of_a_line_that_breaks_nothing_is_left() {
    let rig = Rig::bare();
    let (line, mut answers) = lines();
    let sending = async {
        piece(&line).await;
        until_parts(&rig, 1).await;
        drop(line);
    };
    let head = head();
    let (taken, ()) = tokio::join!(take_large(rig.follow(), &mut answers, id(), &head), sending);
    assert!(taken.is_err());
    // Already: another attempt writes to the same place.
    assert_eq!(parts(&rig), 0);
}

#[tokio::test]
async fn of_an_attempt_that_is_given_up_nothing_is_left() {
    let rig = Rig::bare();
    let (line, mut answers) = lines();
    let head = head();
    {
        let mut taking = Box::pin(take_large(rig.follow(), &mut answers, id(), &head));
        let begun = async {
            piece(&line).await;
            until_parts(&rig, 1).await;
        };
        tokio::select! {
            _ = &mut taking => panic!("there is no end yet"),
            () = begun => {}
        }
    }
    until_parts(&rig, 0).await;
}

/// A disk that fails in the end takes the file away before anybody may begin anew.
#[tokio::test]
async fn a_writer_that_fails_late_is_waited_for() {
    let rig = Rig::bare();
    let (line, mut answers) = lines();
    let sending = async {
        piece(&line).await;
        until_parts(&rig, 1).await;
        // The next change of the disk.
        rig.tree().doom(0, super::faulty::Fate::Fail(libc::EIO));
        piece(&line).await;
        line.send(&ContentEnd { whole: true }).await.unwrap();
    };
    let head = head();
    let (taken, ()) = tokio::join!(take_large(rig.follow(), &mut answers, id(), &head), sending);
    let error = taken.err().unwrap().to_string();
    assert!(error.contains("the test"), "{error}");
    assert_eq!(parts(&rig), 0);
}

#[tokio::test]
async fn a_sparse_content_is_staged_with_its_holes() {
    let rig = Rig::bare();
    let gib = 1u64 << 30;
    let (line, mut answers) = lines();
    let head = Content { size: 100 * gib + PIECE as u64, sparse: true, ..Content::default() };
    let sending = async {
        line.send(&Extent { hole: 40 * gib, data: PIECE as u64 }).await.unwrap();
        piece(&line).await;
        line.send(&Extent { hole: 60 * gib, data: 0 }).await.unwrap();
        line.send(&ContentEnd { whole: true }).await.unwrap();
    };
    let (root, ()) = tokio::join!(take_large(rig.follow(), &mut answers, id(), &head), sending);
    let mut hasher = Hasher::new();
    hasher.zeros(40 * gib);
    hasher.update(&[b'x'; PIECE]);
    hasher.zeros(60 * gib);
    assert_eq!(root.unwrap(), Some(hasher.finish().root));
    let staged = rig.path(".nearshare/tmp").join(&list(&rig.path(".nearshare/tmp"))[0]);
    let meta = staged.metadata().unwrap();
    assert!(meta.len() == head.size && meta.blocks() * 512 < 2 * PIECE as u64, "{meta:?}");
}

#[tokio::test]
async fn holes_that_do_not_fit_are_refused() {
    let rig = Rig::bare();
    let wrong = [(0, 0), (u64::MAX, 1), (1, 2 * PIECE as u64), (2 * PIECE as u64 + 1, 0), (5, 0)];
    for (hole, data) in wrong {
        let (line, mut answers) = lines();
        let head = Content { sparse: true, ..head() };
        let extent = Extent { hole, data };
        let sending = line.send(&extent);
        let (taken, sent) = tokio::join!(take_large(rig.follow(), &mut answers, id(), &head), sending);
        sent.unwrap();
        let error = taken.err().unwrap().to_string();
        assert!(error.contains("where 200000 are left"), "{error}");
        assert_eq!(parts(&rig), 0);
    }
}

/// A content longer than the journal says, or than any file, would fill the disk before its hash told.
#[tokio::test]
async fn a_size_that_cannot_be_is_refused_before_anything_is_made() {
    let mut share = Share::new();
    let mut rig = Rig::new(&mut share);
    let id = share.file("f", b"12345");
    rig.feed(&mut share);
    let asked = Asked::of(rig.follow(), id, Version(1)).unwrap();
    let fits = |version, size| asked.check(&Content { version, size, ..Content::default() });
    assert_eq!((fits(1, 5), fits(1, 0)), (Ok(()), Ok(())));
    assert!(fits(1, 6).unwrap_err().ends_with("of 6 bytes, the limit is 5"));
    // Of a version that is not known here yet only what no file can be.
    let most = i64::MAX as u64;
    assert!(fits(2, most).is_ok() && fits(2, most + 1).is_err() && fits(0, u64::MAX).is_err());
}

#[tokio::test]
async fn the_longest_file_is_staged_in_no_time() {
    let rig = Rig::bare();
    let (line, mut answers) = lines();
    // ext4 has none longer than 16 TiB.
    let head = Content { size: (16 << 40) - (64 << 10), sparse: true, ..Content::default() };
    let sending = async {
        line.send(&Extent { hole: head.size, data: 0 }).await.unwrap();
        line.send(&ContentEnd { whole: true }).await.unwrap();
    };
    let taking = take_large(rig.follow(), &mut answers, id(), &head);
    let both = async { tokio::join!(taking, sending) };
    let (root, ()) = tokio::time::timeout(Duration::from_secs(20), both).await.unwrap();
    let mut hasher = Hasher::new();
    hasher.zeros(head.size);
    assert_eq!(root.unwrap(), Some(hasher.finish().root));
}
