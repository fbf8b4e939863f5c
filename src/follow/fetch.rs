//! Fetches the contents this copy awaits (R25). Two lanes, so that small ones overtake big ones.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use tokio::sync::mpsc;

use super::applier::{Arrived, Job};
use super::owed::{Lane, SMALL};
use super::{Follow, FollowError, lock};
use crate::catalog::{XATTRS_MAX, decode_xattrs};
use crate::id::{Hash, ObjectId, Version};
use crate::link::frames::{FrameReader, sender};
use crate::link::share::{Content, ContentEnd, Extent, Supply, Want, Wants};
use crate::link::{Class, Net};
use crate::object::{Kind, Xattrs};
use crate::tree::content::Hasher;
use crate::tree::{Spot, Tree};
use crate::work;

/// Contents asked for at once in the small lane by each of those who ask there, and their bytes together.
const MANY: usize = 256;
const TOGETHER: u64 = 4 << 20;
/// Pieces of a large content between the link and the disk: 16 of 16 KiB to 256 KiB.
const PIECES: usize = 16;
/// What changed under the primary's reader, or could not be had, is asked for again after this.
const RETRY: Duration = Duration::from_millis(250);
/// What came with another hash than the journal names is asked for again within this.
const REST: Duration = Duration::from_secs(1);
/// Longest message of wants: 256 of 30 bytes.
const WANTS_MAX: usize = 64 << 10;
/// Longest message between contents.
const HEAD_MAX: usize = 1024;
/// Longest file of Linux, in bytes: an `off_t`.
const SIZE_MAX: u64 = i64::MAX as u64;

#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("the link is down")]
    Down,
    #[error("asking for content: {0}")]
    Link(String),
    #[error("the primary sent {0}")]
    Peer(String),
    #[error(transparent)]
    Follow(#[from] FollowError),
    #[error("the share was stopped")]
    Stopped,
}

pub(super) async fn run<T: Tree>(follow: Arc<Follow<T>>, links: Arc<dyn Net>, lane: Lane) {
    let mut rested = follow.clock.boot();
    while !follow.stopped() {
        let now = follow.clock.boot();
        if now.since(rested) >= REST {
            rested = now;
            lock(&follow.owed).rested(now);
        }
        let owing = follow.owing.notified();
        tokio::pin!(owing);
        owing.as_mut().enable();
        let wants = {
            let mut owed = lock(&follow.owed);
            match lane {
                _ if !follow.may_fetch() => Vec::new(),
                Lane::Small => owed.ask(lane, MANY, TOGETHER),
                Lane::Large => owed.ask(lane, 1, u64::MAX),
            }
        };
        if wants.is_empty() {
            tokio::select! {
                biased;
                () = owing => {}
                () = tokio::time::sleep(REST) => {}
            }
            continue;
        }
        // What is handed over is no longer ours to give back.
        let mut ours = wants.iter().map(|(id, _)| *id).collect();
        let fetched = tokio::select! {
            biased;
            fetched = fetch(&follow, &*links, &wants, &mut ours) => fetched,
            () = follow.stop.cancelled() => return,
        };
        if let Err(error) = &fetched
            && !matches!(error, FetchError::Down | FetchError::Stopped)
        {
            tracing::warn!(share = %follow.config.share, %error, "content could not be fetched; trying again");
            follow.note(|progress| progress.last_error = Some(error.to_string()));
        }
        if !ours.is_empty() {
            // Our own disk is not asked as often as the primary.
            let disk = matches!(fetched, Err(FetchError::Follow(_)));
            if disk {
                let now = follow.clock.boot();
                let mut owed = lock(&follow.owed);
                ours.iter().for_each(|id| owed.rest(*id, now));
            }
            tokio::time::sleep(if disk { RETRY * 20 } else { RETRY }).await;
            let mut owed = lock(&follow.owed);
            ours.into_iter().for_each(|id| owed.give_back(id));
        }
    }
}

/// Asks for some contents and hands over what comes: the others stay `ours`.
async fn fetch<T: Tree>(
    follow: &Arc<Follow<T>>,
    links: &dyn Net,
    wants: &[(ObjectId, Version)],
    ours: &mut BTreeSet<ObjectId>,
) -> Result<(), FetchError> {
    let source = lock(&follow.source).clone();
    let peer = links.peer(&source).filter(|peer| peer.up()).ok_or(FetchError::Down)?;
    let asked = wants.iter().map(|(id, version)| Asked::of(follow, *id, *version));
    let asked: Vec<Asked> = asked.collect::<Result<_, _>>()?;
    let message = Wants { wants: asked.iter().map(|asked| asked.want.clone()).collect() };
    let (asks, body) = sender(WANTS_MAX);
    asks.send(&message).await.map_err(|_| FetchError::Down)?;
    asks.finish().await.map_err(|_| FetchError::Down)?;
    let path = format!("/v1/share/{}/content", follow.config.share);
    let request = Request::builder().method(Method::POST).uri(path).body(body);
    let request = request.map_err(|error| FetchError::Link(error.to_string()))?;
    let response =
        peer.send(Class::Bulk, request).await.map_err(|error| FetchError::Link(error.to_string()))?;
    if response.status() != StatusCode::OK {
        return Err(FetchError::Peer(format!("status {}", response.status())));
    }
    let mut answers = FrameReader::new(response.into_body());
    let mut small = Vec::new();
    let mut held = 0;
    for asked in asked {
        let (id, only) = (asked.id, asked.want.only);
        let head: Content = next(&mut answers).await?;
        if head.id[..] != id.as_bytes()[..] {
            return Err(FetchError::Peer("contents in another order than they were asked for".into()));
        }
        if let Err(why) = asked.check(&head) {
            // The stream is of no more use, and others must not have to wait for this one.
            rest(follow, id);
            return Err(FetchError::Peer(why));
        }
        match Supply::try_from(head.supply) {
            // The record that says it is gone comes by itself; until then nothing is lost by asking.
            Ok(Supply::Later | Supply::Gone) | Err(_) => rest(follow, id),
            Ok(Supply::Whole) => {
                let version = Version(head.version);
                let xattrs = take_xattrs(&mut answers, &head).await?;
                held += u64::from(head.xattrs);
                if head.size <= SMALL && !head.sparse {
                    if let Some(data) = take_small(&mut answers, &head).await? {
                        held += head.size;
                        follow.did(|done| done.bytes += head.size);
                        let data = (!only).then_some(data);
                        small.push(Small { id, version, xattrs, data });
                    } else {
                        rest(follow, id);
                    }
                } else if let Some(root) = take_large(follow, &mut answers, id, &head).await? {
                    // Who takes it sees to its file, whatever becomes of the contents that follow.
                    let root = Some(root);
                    hand_over(follow, vec![Arrived { id, version, root, xattrs }], ours).await?;
                } else {
                    rest(follow, id);
                }
            }
        }
        if held > TOGETHER / 4 {
            held = 0;
            write_small(follow, std::mem::take(&mut small), ours).await?;
        }
    }
    write_small(follow, small, ours).await
}

/// A content that is asked for.
pub(super) struct Asked {
    pub id: ObjectId,
    /// What of the object is not here.
    pub want: Want,
    /// How long it is at which version.
    known: Option<(Version, u64)>,
}

impl Asked {
    pub fn of<T: Tree>(follow: &Follow<T>, id: ObjectId, version: Version) -> Result<Self, FollowError> {
        let object = follow.shelf.object(id)?;
        let here = follow.shelf.local(id)?.is_some_and(|local| local.version == version);
        let known = object.as_ref().map(|object| (object.version, object.size));
        let xattrs = object.as_ref().is_some_and(|object| object.xattrs.is_apart());
        let bare =
            object.is_some_and(|object| object.kind != Kind::File || object.version == version && here);
        let bytes = Bytes::copy_from_slice(id.as_bytes());
        let want = Want { id: bytes, version: version.0, xattrs, only: xattrs && bare, holes: true };
        Ok(Self { id, want, known })
    }

    /// Before anything is made for what follows: whether it can be what was asked for.
    pub fn check(&self, head: &Content) -> Result<(), String> {
        let Content { version, size, .. } = *head;
        let most = match self.known {
            _ if self.want.only => 0,
            Some((known, size)) if known.0 == version => size,
            _ => SIZE_MAX,
        };
        if size > most {
            return Err(format!(
                "version {version} of {} of {size} bytes, the limit is {most}",
                self.id
            ));
        }
        Ok(())
    }
}

/// It was not to be had: others first.
fn rest<T: Tree>(follow: &Follow<T>, id: ObjectId) {
    lock(&follow.owed).rest(id, follow.clock.boot());
}

/// A content that has come, or attributes alone.
pub(super) struct Small {
    pub id: ObjectId,
    pub version: Version,
    pub xattrs: Option<Xattrs>,
    pub data: Option<Bytes>,
}

/// Writes aside what has come and hands it over: while it is written, the applier places what came before.
async fn write_small<T: Tree>(
    follow: &Arc<Follow<T>>,
    small: Vec<Small>,
    ours: &mut BTreeSet<ObjectId>,
) -> Result<(), FetchError> {
    if small.is_empty() {
        return Ok(());
    }
    let writing = follow.clone().write().ok_or(FetchError::Stopped)?;
    let written = work::blocking(move || put_aside(&writing, small));
    let (arrived, done) = written.await.map_err(|_| FetchError::Stopped)?;
    hand_over(follow, arrived, ours).await?;
    Ok(done?)
}

/// Those that are there, and what stopped the others.
pub(super) fn put_aside<T: Tree>(
    follow: &Follow<T>,
    small: Vec<Small>,
) -> (Vec<Arrived>, Result<(), FollowError>) {
    let mut arrived = Vec::with_capacity(small.len());
    for Small { id, version, xattrs, data } in small {
        match data.map(|data| follow.put_aside(id, &data)).transpose() {
            Ok(root) => arrived.push(Arrived { id, version, root, xattrs }),
            // The others are asked for again when there may be room.
            Err(error) if error.no_room() => {
                follow.no_room(&error);
                break;
            }
            Err(error) => return (arrived, Err(error)),
        }
    }
    (arrived, Ok(()))
}

async fn hand_over<T: Tree>(
    follow: &Follow<T>,
    arrived: Vec<Arrived>,
    ours: &mut BTreeSet<ObjectId>,
) -> Result<(), FetchError> {
    if arrived.is_empty() {
        return Ok(());
    }
    for arrived in &arrived {
        ours.remove(&arrived.id);
    }
    follow.jobs.send(Job::Contents(arrived)).await.map_err(|_| FetchError::Stopped)
}

async fn next<M: prost::Message + Default>(answers: &mut FrameReader) -> Result<M, FetchError> {
    match answers.next::<M>(HEAD_MAX).await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(FetchError::Peer("fewer contents than were asked for".into())),
        Err(error) => Err(FetchError::Peer(error.to_string())),
    }
}

async fn piece(answers: &mut FrameReader, left: u64) -> Result<Bytes, FetchError> {
    match answers.raw(left).next().await {
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err(FetchError::Peer("less content than it announced".into())),
        Err(error) => Err(FetchError::Peer(error.to_string())),
    }
}

async fn take_xattrs(answers: &mut FrameReader, head: &Content) -> Result<Option<Xattrs>, FetchError> {
    if head.xattrs == 0 {
        return Ok(None);
    }
    if head.xattrs as usize > XATTRS_MAX {
        let why = format!("extended attributes of {} bytes, the limit is {XATTRS_MAX}", head.xattrs);
        return Err(FetchError::Peer(why));
    }
    let bytes = take(answers, head.xattrs.into()).await?;
    decode_xattrs(&bytes).map(Some).map_err(|error| FetchError::Peer(error.to_string()))
}

async fn take_small(answers: &mut FrameReader, head: &Content) -> Result<Option<Bytes>, FetchError> {
    let data = take(answers, head.size).await?;
    let end: ContentEnd = next(answers).await?;
    Ok(end.whole.then_some(data))
}

async fn take(answers: &mut FrameReader, mut left: u64) -> Result<Bytes, FetchError> {
    let mut data = BytesMut::new();
    while left > 0 {
        let bytes = piece(answers, left).await?;
        left -= bytes.len() as u64;
        data.extend_from_slice(&bytes);
    }
    Ok(data.freeze())
}

/// Writes a large content aside as it comes. `None`: it changed on the way. Unless it gives the hash, no
/// file is left, and nobody goes on writing.
pub(super) async fn take_large<T: Tree>(
    follow: &Arc<Follow<T>>,
    answers: &mut FrameReader,
    id: ObjectId,
    head: &Content,
) -> Result<Option<Hash>, FetchError> {
    let (pieces, mut inbox) = mpsc::channel(PIECES);
    let writer = {
        let follow = follow.clone().write().ok_or(FetchError::Stopped)?;
        work::blocking(move || -> Result<Option<Hash>, FollowError> {
            let done = write_large(&*follow.tree, id, &mut inbox);
            if !matches!(done, Ok(Some(_))) {
                // A part of it is in nobody's use, and in the way of others.
                follow.tree.remove(Spot::Tmp(id))?;
            }
            if let Err(error) = &done
                && error.no_room()
            {
                follow.no_room(error);
            }
            done
        })
    };
    let _over = Over(&follow.part);
    let received = receive(follow, answers, head, pieces).await;
    // Also if the line broke: the next attempt writes to the same place.
    let written = writer.await.map_err(|_| FetchError::Stopped)?;
    received?;
    Ok(written?)
}

/// A part of a large content.
enum Piece {
    Bytes(Bytes),
    Hole(u64),
    /// That was all, and it did not change on the way.
    End,
}

/// Hands on what comes; a writer that does not hear of the end drops what it has.
async fn receive<T: Tree>(
    follow: &Follow<T>,
    answers: &mut FrameReader,
    head: &Content,
    pieces: mpsc::Sender<Piece>,
) -> Result<(), FetchError> {
    let mut left = head.size;
    let mut writing = true;
    while left > 0 {
        let (hole, mut data) = if head.sparse {
            let Extent { hole, data } = next(answers).await?;
            // Only at the end is there no data behind a hole: there are no more of them than bytes sent.
            if hole.checked_add(data).is_none_or(|both| both > left || data == 0 && hole < left) {
                let why = format!("a hole of {hole} and data of {data} bytes where {left} are left");
                return Err(FetchError::Peer(why));
            }
            (hole, data)
        } else {
            (0, left)
        };
        if hole > 0 && writing {
            writing = pieces.send(Piece::Hole(hole)).await.is_ok();
        }
        left -= hole;
        while data > 0 {
            let bytes = piece(answers, data).await?;
            let len = bytes.len() as u64;
            (data, left) = (data - len, left - len);
            follow.did(|done| done.bytes += len);
            follow.part.store(head.size - left, Ordering::Relaxed);
            if writing {
                // A writer that failed says so itself; the stream is read on to stay in step.
                writing = pieces.send(Piece::Bytes(bytes)).await.is_ok();
            }
        }
    }
    let end: ContentEnd = next(answers).await?;
    if end.whole && writing {
        let _failed = pieces.send(Piece::End).await;
    }
    Ok(())
}

/// Nothing is on its way any more, however that ended.
struct Over<'a>(&'a AtomicU64);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// `None`: the end did not come.
fn write_large<T: Tree>(
    tree: &T,
    id: ObjectId,
    inbox: &mut mpsc::Receiver<Piece>,
) -> Result<Option<Hash>, FollowError> {
    let failed = |source| FollowError::Write { what: id.to_string(), source };
    let mut stage = tree.stage(id)?;
    let mut hasher = Hasher::new();
    loop {
        match work::block_on(inbox.recv()) {
            Some(Piece::Bytes(bytes)) => {
                stage.write_all(&bytes).map_err(failed)?;
                hasher.update(&bytes);
            }
            Some(Piece::Hole(bytes)) => {
                tree.skip(&mut stage, bytes).map_err(failed)?;
                hasher.zeros(bytes);
            }
            Some(Piece::End) => break,
            None => return Ok(None),
        }
    }
    tree.staged(stage)?;
    Ok(Some(hasher.finish().root))
}
