//! Keeps the journal's stream from the primary going, and asks for a snapshot where it cannot.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use tokio::sync::oneshot;

use super::applier::Job;
use super::{Config, Follow, lock};
use crate::body::{Body, collect};
use crate::catalog::{Change, Head, Inline, Record, decode_change, decode_record, decode_touch_gens};
use crate::clock::BootTime;
use crate::id::{Epoch, Gen, Hash, ObjectId, Position, Seq, Version};
use crate::link::frames::{FrameReader, FrameSender, sender};
use crate::link::share::{
    Ack, BARRIER_MAX, Barrier, Beat, Feed, Follow as Ask, KEPT_MAX, MESSAGE_MAX, Pledge, Sent, Snap,
    SnapStart, feed, snap,
};
use crate::link::{Class, Net, Remote};
use crate::object::Object;
use crate::tree::Tree;
use crate::work;

/// A site without a lease or a link for this long is cut off (R13).
const CUT_OFF: Duration = Duration::from_secs(5);
/// Between two tries.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// A line is looked at so often also if nobody says that it changed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What fails for no longer is the way of every start and every promotion: the bulk connection comes a moment
/// later, and so does the news of who leads.
const LOUD: Duration = Duration::from_secs(3);
/// Records handed to the applier at once.
const RECORDS_MAX: usize = 256;
/// Longest answer that is no stream.
const ANSWER_MAX: usize = 4096;

/// Why a try ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    #[error("the link is down")]
    Down,
    #[error("{what}: {why}")]
    Peer { what: &'static str, why: String },
    #[error("the primary answered {status}: {text}")]
    Status { status: StatusCode, text: String },
    #[error("the stream ended")]
    Ended,
    #[error("the share was stopped")]
    Stopped,
}

impl PullError {
    /// Nobody has to look: a site that starts or stops, or one that scans for the first time, and links
    /// that are down, which are told of as such.
    fn passes(&self) -> bool {
        match self {
            Self::Down | Self::Ended | Self::Stopped => true,
            Self::Status { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            Self::Peer { .. } => false,
        }
    }
}

pub(super) async fn run<T: Tree>(follow: Arc<Follow<T>>, links: Arc<dyn Net>) {
    tokio::select! {
        biased;
        () = heed_line(&follow, &*links) => {}
        () = pull(&follow, &*links) => {}
    }
}

/// Notes since when the line to the primary's site is down, whether or not anything is asked over it just then: a
/// line that was back meanwhile has not been down since before that (R13). Never ends.
async fn heed_line<T: Tree>(follow: &Follow<T>, links: &dyn Net) {
    loop {
        let peer = links.peer(&follow.config.primary);
        let mut watch = peer.as_ref().map(|peer| peer.watch());
        let up = peer.as_ref().is_some_and(|peer| peer.up());
        follow.lease.set_link(up, follow.clock.boot());
        let changed = async {
            let told = match &mut watch {
                Some(watch) => watch.changed().await.is_ok(),
                None => false,
            };
            if !told {
                // A reload took it away, or puts another there.
                std::future::pending::<()>().await;
            }
        };
        let _ = tokio::time::timeout(LOOK_AGAIN, changed).await;
    }
}

async fn pull<T: Tree>(follow: &Arc<Follow<T>>, links: &dyn Net) {
    let begun = follow.clock.boot();
    let mut wait = RETRY;
    let mut failing: Option<BootTime> = None;
    while !follow.stopped() {
        let error = match connect(follow, links, begun).await {
            Ok(peer) => {
                let tried = follow.clock.boot();
                let ended = tokio::select! {
                    biased;
                    ended = session(follow, links, &*peer) => ended,
                    () = follow.stop.cancelled() => Err(PullError::Stopped),
                };
                follow.lease.may_be_asked_for(false);
                if follow.clock.boot().since(tried) > RETRY_MAX {
                    wait = RETRY;
                    failing = None;
                }
                match ended {
                    Ok(()) => {
                        failing = None;
                        continue;
                    }
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if !error.passes() {
            let now = follow.clock.boot();
            let Config { share, primary: peer } = &follow.config;
            if now.since(*failing.get_or_insert(now)) < LOUD {
                tracing::info!(%share, %peer, %error, "the primary's journal cannot be followed yet");
            } else {
                tracing::warn!(
                    %share, %peer, %error, "the primary's journal cannot be followed; trying again"
                );
            }
        } else if matches!(error, PullError::Down) {
            failing = None;
        }
        follow.note(|progress| {
            progress.doing = "waiting for the primary's site";
            if !matches!(error, PullError::Stopped) {
                progress.last_error = Some(error.to_string());
            }
        });
        let jitter = 0.5 + work::random_part() / 2.0;
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait.mul_f64(jitter)) => {}
            () = follow.stop.cancelled() => {}
        }
        wait = (wait * 2).min(RETRY_MAX);
    }
}

/// Waits until the primary's site can be asked. Once it could not be for so long that we are cut off,
/// what is here is served as it is (R9, R13).
async fn connect<T: Tree>(
    follow: &Follow<T>,
    links: &dyn Net,
    begun: BootTime,
) -> Result<Arc<dyn Remote>, PullError> {
    let Some(peer) = links.peer(&follow.config.primary) else { return Err(PullError::Down) };
    if peer.up() {
        return Ok(peer);
    }
    if follow.clock.boot().since(begun) > CUT_OFF && !follow.open.swap(true, Ordering::AcqRel) {
        let share = &follow.config.share;
        if follow.confirmed.load(Ordering::Acquire) {
            tracing::warn!(%share, "cut off since the start: serving what is here");
        } else {
            tracing::warn!(%share, "cut off since the start: serving nothing, the copy is not complete");
        }
    }
    let mut watch = peer.watch();
    let changed = tokio::time::timeout(LOOK_AGAIN, watch.changed()).await;
    if changed.is_ok() && peer.up() { Ok(peer) } else { Err(PullError::Down) }
}

pub(super) async fn ask(
    peer: &dyn Remote,
    class: Class,
    path: String,
    body: Body,
) -> Result<Response<Body>, PullError> {
    let request = Request::builder().method(Method::POST).uri(path).body(body);
    let request = request.map_err(|error| PullError::Peer { what: "asking", why: error.to_string() })?;
    let response = peer
        .send(class, request)
        .await
        .map_err(|error| PullError::Peer { what: "asking", why: error.to_string() })?;
    if response.status() == StatusCode::OK {
        return Ok(response);
    }
    let status = response.status();
    let text = collect(response.into_body(), ANSWER_MAX).await.unwrap_or_default();
    Err(PullError::Status { status, text: String::from_utf8_lossy(&text).into_owned() })
}

/// One connection's worth of following.
async fn session<T: Tree>(
    follow: &Arc<Follow<T>>,
    links: &dyn Net,
    peer: &dyn Remote,
) -> Result<(), PullError> {
    compare_maps(follow, links);
    let head = follow.shelf.head();
    let (asks, body) = sender(ANSWER_MAX);
    let first = Ask {
        epoch: head.at.epoch.0,
        seq: head.at.seq.0,
        chain: Bytes::copy_from_slice(&head.chain.0),
        incarnation: Bytes::copy_from_slice(&head.incarnation.0),
    };
    asks.send(&first).await.map_err(|_| PullError::Ended)?;
    let path = format!("/v1/share/{}/journal", follow.config.share);
    match ask(peer, Class::Control, path, body).await {
        Ok(response) => {
            put(follow, Job::Accepted).await?;
            // Only now: before, the copy's positions may be those of another journal.
            barrier(follow, peer).await?;
            journal(follow, links, peer, response, asks).await
        }
        Err(PullError::Status { status: StatusCode::CONFLICT, .. }) => compare(follow, peer).await,
        Err(error) => Err(error),
    }
}

/// Ends what this site knows no outcome of.
async fn barrier<T: Tree>(follow: &Arc<Follow<T>>, peer: &dyn Remote) -> Result<(), PullError> {
    let doubts = lock(&follow.ahead).in_doubt();
    if doubts.is_empty() {
        return Ok(());
    }
    let path = format!("/v1/share/{}/barrier", follow.config.share);
    let response = ask(peer, Class::Control, path, Body::Empty).await?;
    let bytes = collect(response.into_body(), BARRIER_MAX)
        .await
        .map_err(|error| PullError::Peer { what: "the barrier's answer", why: error.to_string() })?;
    let barrier: Barrier = prost::Message::decode(bytes).map_err(|error: prost::DecodeError| {
        PullError::Peer { what: "the barrier's answer", why: error.to_string() }
    })?;
    let open = touches(&barrier.open)?;
    lock(&follow.ahead).barred(&doubts);
    put(follow, Job::Barrier(doubts, Seq(barrier.seq), open)).await
}

async fn put<T: Tree>(follow: &Follow<T>, job: Job) -> Result<(), PullError> {
    follow.jobs.send(job).await.map_err(|_| PullError::Stopped)
}

/// A primary whose map promises something else keeps none of our promises (R10).
fn compare_maps<T: Tree>(follow: &Follow<T>, links: &dyn Net) {
    let Config { share, primary } = &follow.config;
    follow.lease.set_at_odds(links.disagrees(primary, share));
}

async fn journal<T: Tree>(
    follow: &Arc<Follow<T>>,
    links: &dyn Net,
    peer: &dyn Remote,
    response: Response<Body>,
    asks: FrameSender,
) -> Result<(), PullError> {
    follow.note(|progress| {
        progress.doing = "following";
        progress.last_error = None;
    });
    let mut feeds = FrameReader::new(response.into_body());
    let mut records: Vec<(Record, Vec<Inline>)> = Vec::new();
    loop {
        // What has arrived already is taken together; nothing waits for more.
        let more = if records.is_empty() {
            tokio::select! {
                biased;
                () = follow.keeping.notified() => {
                    acknowledge(follow, follow.shelf.head().at, &asks).await?;
                    continue;
                }
                feed = feeds.next::<Feed>(MESSAGE_MAX) => Some(feed),
            }
        } else {
            futures_util::FutureExt::now_or_never(feeds.next::<Feed>(MESSAGE_MAX))
        };
        let kind = match more {
            None => None,
            Some(Ok(Some(feed))) => feed.kind,
            Some(Ok(None)) => return Err(PullError::Ended),
            Some(Err(error)) => {
                return Err(PullError::Peer { what: "the journal", why: error.to_string() });
            }
        };
        let full = records.len() >= RECORDS_MAX;
        match kind {
            Some(feed::Kind::Record(sent)) => {
                records.push(read_sent(&sent)?);
                if !full {
                    continue;
                }
                spool(follow, &mut records, &asks).await?;
            }
            other => {
                spool(follow, &mut records, &asks).await?;
                match other {
                    None | Some(feed::Kind::Record(_)) => {}
                    Some(feed::Kind::Start(start)) => {
                        note_beat(follow, &start.head);
                        if !start.more {
                            put(follow, Job::InForce(touches(&start.in_force)?, Gen(start.generation)))
                                .await?;
                        }
                        follow.lease.may_be_asked_for(true);
                    }
                    Some(feed::Kind::Releases(bytes)) => {
                        put(follow, Job::Releases(touches(&bytes)?)).await?
                    }
                    Some(feed::Kind::Pledge(pledge)) => {
                        let objects = pledged(&pledge)?;
                        put(follow, Job::Pledge(pledge.generation, objects)).await?;
                    }
                    Some(feed::Kind::Beat(beat)) => {
                        note_beat(follow, &beat);
                        compare_maps(follow, links);
                        acknowledge(follow, follow.shelf.head().at, &asks).await?;
                        if lock(&follow.ahead).in_doubt().is_empty() {
                            continue;
                        }
                        // A request of this session got lost: its outcome is asked for.
                        barrier(follow, peer).await?;
                    }
                }
            }
        }
    }
}

async fn spool<T: Tree>(
    follow: &Arc<Follow<T>>,
    records: &mut Vec<(Record, Vec<Inline>)>,
    asks: &FrameSender,
) -> Result<(), PullError> {
    if records.is_empty() {
        return Ok(());
    }
    let (done, durable) = oneshot::channel();
    put(follow, Job::Records(std::mem::take(records), done)).await?;
    // The applier drops what does not fit, and all when it stops.
    let at = durable.await.map_err(|_| PullError::Ended)?;
    acknowledge(follow, at, asks).await
}

async fn acknowledge<T: Tree>(
    follow: &Follow<T>,
    at: Position,
    asks: &FrameSender,
) -> Result<(), PullError> {
    let (debts, debt_bytes) = {
        let owed = lock(&follow.owed);
        (owed.len() as u64, owed.bytes())
    };
    loop {
        let kept: Vec<u64> = {
            let mut kept = lock(&follow.kept);
            let some = kept.len().min(KEPT_MAX);
            kept.drain(..some).collect()
        };
        let more = kept.len() == KEPT_MAX;
        let ack = Ack { epoch: at.epoch.0, seq: at.seq.0, debts, debt_bytes, kept };
        asks.send(&ack).await.map_err(|_| PullError::Ended)?;
        if !more {
            return Ok(());
        }
    }
}

/// The contents that are to be on the disk; `None`: all.
fn pledged(pledge: &Pledge) -> Result<Option<Vec<ObjectId>>, PullError> {
    if pledge.all {
        return Ok(None);
    }
    let id = |bytes: &Bytes| ObjectId::try_from(&bytes[..]);
    let ids = pledge.objects.iter().map(id).collect::<Result<_, _>>();
    ids.map(Some).map_err(|error| PullError::Peer { what: "a pledge", why: error.to_string() })
}

fn note_beat<T: Tree>(follow: &Follow<T>, beat: &Beat) {
    let head = follow.shelf.head().at;
    follow.note(|progress| {
        progress.lag_records =
            if Epoch(beat.epoch) == head.epoch { beat.seq.saturating_sub(head.seq.0) } else { 0 };
        progress.lag_seconds = if progress.lag_records == 0 { 0.0 } else { beat.lag_ms as f64 / 1000.0 };
    });
}

pub(super) fn touches(bytes: &[u8]) -> Result<Vec<(crate::catalog::Touch, Gen)>, PullError> {
    decode_touch_gens(bytes)
        .map_err(|error| PullError::Peer { what: "a list of touches", why: error.to_string() })
}

pub(super) fn read_sent(sent: &Sent) -> Result<(Record, Vec<Inline>), PullError> {
    let record = decode_record(&sent.record)
        .map_err(|error| PullError::Peer { what: "a record", why: error.to_string() })?;
    let mut inline = Vec::with_capacity(sent.inline.len());
    for small in &sent.inline {
        let id = ObjectId::try_from(&small.id[..])
            .map_err(|error| PullError::Peer { what: "inline content", why: error.to_string() })?;
        inline.push(Inline { id, version: Version(small.version), data: small.data.clone() });
    }
    Ok((record, inline))
}

/// Compares trees, and goes on from there.
async fn compare<T: Tree>(follow: &Arc<Follow<T>>, peer: &dyn Remote) -> Result<(), PullError> {
    follow.note(|progress| progress.doing = "comparing with the primary copy");
    let path = format!("/v1/share/{}/snapshot", follow.config.share);
    let response = ask(peer, Class::Bulk, path, Body::Empty).await?;
    let mut snaps = FrameReader::new(response.into_body());
    let mut started = false;
    loop {
        let bad = |why: String| PullError::Peer { what: "the snapshot", why };
        let snap = snaps.next::<Snap>(MESSAGE_MAX).await.map_err(|error| bad(error.to_string()))?;
        match snap.ok_or(PullError::Ended)?.kind {
            Some(snap::Kind::Start(start)) if !started => {
                started = true;
                let (head, root) = read_start(&start)?;
                tracing::info!(
                    share = %follow.config.share, objects = start.objects, bytes = start.bytes, at = %head.at,
                    "comparing with the primary copy"
                );
                put(follow, Job::CompareStart(Box::new((head, root, start.objects)))).await?;
            }
            Some(snap::Kind::Entries(some)) if started => {
                put(follow, Job::CompareEntries(some.entries)).await?
            }
            Some(snap::Kind::End(_)) if started => {
                let (done, ended) = oneshot::channel();
                put(follow, Job::CompareEnd(done)).await?;
                return ended.await.map_err(|_| PullError::Ended);
            }
            // A newer primary may say more.
            None => {}
            Some(_) => return Err(bad("its messages are out of order".into())),
        }
    }
}

fn read_start(start: &SnapStart) -> Result<(Head, Object), PullError> {
    let bad = |why: String| PullError::Peer { what: "the snapshot's start", why };
    let hash = |bytes: &[u8]| Hash::try_from(bytes).map_err(|error| bad(error.to_string()));
    let head = Head {
        at: Position { epoch: Epoch(start.epoch), seq: Seq(start.seq) },
        chain: hash(&start.chain)?,
        incarnation: hash(&start.incarnation)?,
    };
    match decode_change(&start.root).map_err(|error| bad(error.to_string()))? {
        Change::Put(root) if root.id == ObjectId::ROOT => Ok((head, root)),
        _ => Err(bad("the root directory is missing".into())),
    }
}
