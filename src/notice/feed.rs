//! The journal and the snapshot as streams to one copy.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};

use super::supply::content;
use super::tail::Missed;
use super::{IN_FORCE_MAX, InLine, Notice, Origin, beyond_lost, blocking, lock};
use crate::body::Body;
use crate::catalog::{self, Change, Head, PeerRow, Shelf};
use crate::id::{Epoch, Hash, Position, Seq, SiteId};
use crate::link::frames::{FrameReader, FrameSender, sender};
use crate::link::share::{
    Ack, Barrier, Beat, Feed, Follow, MESSAGE_MAX, Sent, Snap, SnapEnd, SnapEntries, SnapEntry,
    SnapStart, Start, feed, snap,
};
use crate::tree::Tree;
use crate::work;

/// A copy hears where the journal ends at least this often.
const BEAT: Duration = Duration::from_secs(1);
/// Records read from the catalog at once.
const READ_RECORDS: usize = 64;
const READ_BYTES: usize = 256 * 1024;
/// A snapshot that its reader takes no more of ends after this: it keeps a thread, and what was removed since on
/// the disk. A copy that compares reads whole files between two messages.
const SNAP_STALLED: Duration = Duration::from_secs(60 * 60);
/// Entries in one message of a snapshot.
const SNAP_ENTRIES: usize = 256;
/// Longest first message of a request.
const ASK_MAX: usize = 1024;

/// What a journal stream ended with.
#[derive(Debug, thiserror::Error)]
enum FeedError {
    #[error("the copy is no longer listening")]
    Closed,
    #[error("the copy has read nothing of it for {SNAP_STALLED:?}")]
    Stalled,
    #[error(transparent)]
    Notice(#[from] super::NoticeError),
    #[error(transparent)]
    Catalog(#[from] catalog::CatalogError),
}

pub(super) fn answer(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    response
}

/// So many requests of the site wait already that this one does not.
pub fn busy() -> Response<Body> {
    let mut busy = answer(StatusCode::SERVICE_UNAVAILABLE, "too many of these requests wait already");
    busy.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    busy
}

impl<T: Tree> Notice<T> {
    /// Answers what a copy asks about this share: `what` is the last part of the path.
    pub async fn inbound(
        self: Arc<Self>,
        from: Origin,
        what: &str,
        request: Request<Body>,
    ) -> Response<Body> {
        match what {
            "journal" => self.journal(from.site, request).await,
            "snapshot" => match self.snapshots.enter(&self.config.share, &from.site) {
                Some(line) => self.snapshot(from.site, line),
                None => busy(),
            },
            "content" => match self.contents.enter(&self.config.share, &from.site) {
                Some(line) => content(&self.shelf, &self.tree, line, request),
                None => busy(),
            },
            "lease" => self.lease(from.site, request).await,
            "barrier" => match self.barrier(&from).await {
                Ok((head, open)) => {
                    let open = catalog::encode_touch_gens(&open);
                    let barrier = Barrier { epoch: head.at.epoch.0, seq: head.at.seq.0, open };
                    Response::new(Body::Full(prost::Message::encode_to_vec(&barrier).into()))
                }
                Err(error) => answer(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
            },
            _ => answer(StatusCode::NOT_FOUND, "no such request about a share"),
        }
    }

    async fn journal(self: Arc<Self>, site: SiteId, request: Request<Body>) -> Response<Body> {
        let mut asked = FrameReader::new(request.into_body());
        let follow = match asked.next::<Follow>(ASK_MAX).await {
            Ok(Some(follow)) => follow,
            Ok(None) => {
                return answer(StatusCode::BAD_REQUEST, "the request ended before its first message");
            }
            Err(error) => return answer(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let at = Position { epoch: Epoch(follow.epoch), seq: Seq(follow.seq) };
        let known =
            Hash::try_from(&follow.chain[..]).ok().zip(Hash::try_from(&follow.incarnation[..]).ok());
        let Some((chain, incarnation)) = known else {
            return answer(
                StatusCode::BAD_REQUEST,
                "the chain and incarnation hashes must be 32 bytes each",
            );
        };
        match self.extends(at, chain, incarnation) {
            Ok(true) => {}
            Ok(false) => {
                if let Err(error) = self.distrust_catalog(&site, at, chain, incarnation).await {
                    tracing::warn!(share = %self.config.share, peer = %site, %error, "the journal cannot be read");
                    return answer(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
                }
                return answer(
                    StatusCode::CONFLICT,
                    "this journal does not extend yours: compare trees",
                );
            }
            Err(error) => {
                tracing::warn!(share = %self.config.share, peer = %site, %error, "the journal cannot be read");
                return answer(StatusCode::SERVICE_UNAVAILABLE, error.to_string());
            }
        }
        let (feeds, body) = sender(MESSAGE_MAX);
        let acked = Arc::new(std::sync::Mutex::new(at));
        work::spawn(self.clone().take_acks(site.clone(), asked, acked.clone()));
        work::spawn(async move {
            match self.stream(at, &feeds, &acked).await {
                Err(FeedError::Closed) | Ok(()) => {}
                Err(error) => {
                    tracing::warn!(share = %self.config.share, peer = %site, %error, "the journal's stream broke off");
                }
            }
        });
        Response::new(body)
    }

    /// Whether our journal goes on where the copy's ends (R24).
    pub(super) fn extends(
        &self,
        at: Position,
        chain: Hash,
        incarnation: Hash,
    ) -> Result<bool, catalog::CatalogError> {
        let head = self.shelf.head();
        if incarnation != head.incarnation
            || at.seq.next() < self.shelf.oldest()
            || !self.shelf.meta().scanned
        {
            return Ok(false);
        }
        Ok(self.shelf.chain_at(at)? == Some(chain))
    }

    /// A copy has records of this very journal that are not in it: the state directory is an older one, put
    /// back, and what came later is on the disk alone (R24). Nobody is told of this catalog until a scan has
    /// found it.
    async fn distrust_catalog(
        self: &Arc<Self>,
        site: &SiteId,
        at: Position,
        chain: Hash,
        incarnation: Hash,
    ) -> super::Result<()> {
        let head = self.shelf.head();
        let trimmed = at.seq.next() < self.shelf.oldest();
        if (incarnation, at.epoch) != (head.incarnation, head.at.epoch) || trimmed {
            return Ok(());
        }
        if self.shelf.chain_at(at)? == Some(chain) || self.outdated.load(Ordering::SeqCst) {
            return Ok(());
        }
        tracing::warn!(
            share = %self.config.share, peer = %site, theirs = %at, ours = %head.at,
            "a copy has records that this site no longer knows, as after an older state directory was put \
             back: the copies wait until the share has been scanned"
        );
        let mut batch = self.shelf.batch();
        batch.set_meta(|meta| meta.scanned = false);
        self.shelf.commit(batch, true).await?;
        let notice = self.clone();
        blocking(move || {
            notice.shelf.raise_gens(beyond_lost(head.at.epoch, notice.clock.wall()))?;
            // Handed out under the table's lock, as every other.
            let mut table = lock(&notice.table);
            table.start(notice.shelf.next_gen()?);
            Ok(())
        })
        .await?;
        self.outdated.store(true, Ordering::SeqCst);
        self.rescan();
        Ok(())
    }

    async fn take_acks(
        self: Arc<Self>,
        site: SiteId,
        mut asked: FrameReader,
        last: Arc<std::sync::Mutex<Position>>,
    ) {
        // Its end is known at once here, and only with the next message where the records are sent.
        let _following = self.pledges.follows(&site);
        while let Ok(Some(ack)) = asked.next::<Ack>(ASK_MAX).await {
            let acked = Position { epoch: Epoch(ack.epoch), seq: Seq(ack.seq) };
            *lock(&last) = acked;
            let Ack { debts, debt_bytes, kept, .. } = ack;
            if !kept.is_empty() {
                self.pledges.kept(&site, &kept);
            }
            let row = PeerRow { acked, debts, debt_bytes, seen_wall: self.clock.wall().0 };
            let mut batch = self.shelf.batch();
            batch.peer(site.clone(), row);
            // Not waited for to be durable: an older position only means that more is sent again.
            if let Err(error) = self.shelf.commit(batch, false).await {
                tracing::warn!(share = %self.config.share, peer = %site, %error, "an acknowledgement was not noted");
            }
        }
    }

    async fn stream(
        &self,
        at: Position,
        feeds: &FrameSender,
        acked: &std::sync::Mutex<Position>,
    ) -> Result<(), FeedError> {
        let mut done = at.seq;
        'restart: loop {
            let (mut cursor, force, newest) = {
                let table = lock(&self.table);
                (self.tail.cursor(), table.in_force(IN_FORCE_MAX), table.newest())
            };
            let head = self.beat(*lock(acked));
            let more = force.len() >= IN_FORCE_MAX;
            let start =
                Start { head, more, generation: newest.0, in_force: catalog::encode_touch_gens(&force) };
            self.catch_up(&mut done, cursor.head, feeds).await?;
            send(feeds, feed::Kind::Start(start)).await?;
            for pledge in self.pledges.asked() {
                feeds.send(&pledge).await.map_err(|_| FeedError::Closed)?;
            }
            loop {
                if self.stop.load(Ordering::SeqCst) {
                    return Ok(());
                }
                match self.tail.get(cursor.next) {
                    Ok(Some(item)) => {
                        cursor.next += 1;
                        feeds.send(&*item.feed).await.map_err(|_| FeedError::Closed)?;
                        done = item.seq.unwrap_or(done);
                    }
                    Err(Missed) => continue 'restart,
                    // The copy waits to be told what is in force.
                    Ok(None) if more && lock(&self.table).many_in_force() < IN_FORCE_MAX => {
                        continue 'restart;
                    }
                    Ok(None) => {
                        let grown = self.tail.grown();
                        tokio::pin!(grown);
                        grown.as_mut().enable();
                        if self.tail.cursor().next > cursor.next {
                            continue;
                        }
                        if tokio::time::timeout(BEAT, grown).await.is_err() {
                            let beat = self.beat(*lock(acked));
                            send(feeds, feed::Kind::Beat(beat)).await?;
                        }
                    }
                }
            }
        }
    }

    async fn catch_up(&self, done: &mut Seq, head: Seq, feeds: &FrameSender) -> Result<(), FeedError> {
        while *done < head {
            let shelf = self.shelf.clone();
            let after = *done;
            let records =
                blocking(move || Ok(shelf.records_after(after, READ_RECORDS, READ_BYTES)?)).await?;
            if records.first().is_none_or(|first| first.at.seq != done.next()) {
                // Trimmed under a copy that was away: the next connection compares trees.
                return Err(FeedError::Closed);
            }
            for record in records.iter().take_while(|record| record.at.seq <= head) {
                let sent = Sent { record: catalog::encode_record(record), inline: Vec::new() };
                *done = record.at.seq;
                send(feeds, feed::Kind::Record(sent)).await?;
            }
        }
        Ok(())
    }

    fn beat(&self, acked: Position) -> Beat {
        let head = self.durable().at;
        let behind = (acked.epoch == head.epoch && acked.seq < head.seq)
            .then(|| self.shelf.record(acked.seq.next()).ok().flatten())
            .flatten();
        let lag = behind.map_or(0, |record| self.clock.wall().0.saturating_sub(record.wall));
        Beat {
            epoch: head.epoch.0,
            seq: head.seq.0,
            lag_ms: u64::try_from(lag / 1_000_000).unwrap_or(0),
        }
    }

    fn snapshot(self: Arc<Self>, site: SiteId, line: InLine) -> Response<Body> {
        if !self.shelf.meta().scanned {
            return answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "the primary copy is being scanned for the first time",
            );
        }
        let (feeds, body) = sender(MESSAGE_MAX);
        work::spawn(async move {
            let turn = tokio::select! {
                biased;
                turn = line.turn() => turn,
                () = feeds.closed() => return,
            };
            let sent = work::blocking(move || {
                let _turn = (line, turn);
                match self.send_snapshot(&site, &feeds) {
                    // The reader has gone: nobody to tell.
                    Ok(()) => {
                        let _ = work::block_on(feeds.finish());
                    }
                    Err(error) => {
                        tracing::warn!(share = %self.config.share, peer = %site, %error, "a snapshot broke off");
                    }
                }
            });
            drop(sent);
        });
        Response::new(body)
    }

    fn send_snapshot(&self, site: &SiteId, feeds: &FrameSender) -> Result<(), FeedError> {
        let snapshot = self.shelf.snapshot()?;
        let head: Head = snapshot.head();
        // Pins the records after the snapshot until the copy says more (R29).
        let seen_wall = self.clock.wall().0;
        let row = PeerRow { acked: head.at, seen_wall, ..PeerRow::default() };
        let mut batch = self.shelf.batch();
        batch.peer(site.clone(), row);
        // And with it all that the snapshot has seen: nothing else leaves the site (R23).
        self.shelf.commit(batch, true).wait()?;
        let totals = self.shelf.totals();
        let put = |kind| {
            let snap = Snap { kind: Some(kind) };
            let sent = tokio::time::timeout(SNAP_STALLED, feeds.send(&snap));
            match work::block_on(sent) {
                Ok(sent) => sent.map_err(|_| FeedError::Closed),
                Err(_) => Err(FeedError::Stalled),
            }
        };
        put(snap::Kind::Start(SnapStart {
            epoch: head.at.epoch.0,
            seq: head.at.seq.0,
            chain: Bytes::copy_from_slice(&head.chain.0),
            incarnation: Bytes::copy_from_slice(&head.incarnation.0),
            objects: totals.objects,
            bytes: totals.bytes,
            root: snapshot
                .root()?
                .map(|root| catalog::encode_change(&Change::Put(root)))
                .unwrap_or_default(),
        }))?;
        let mut entries = Vec::with_capacity(SNAP_ENTRIES);
        let mut count = 0;
        for entry in snapshot.entries() {
            let (parent, name, object) = entry?;
            count += 1;
            entries.push(SnapEntry {
                parent: Bytes::copy_from_slice(parent.as_bytes()),
                name: Bytes::copy_from_slice(name.as_bytes()),
                object: catalog::encode_change(&Change::Put(object)),
            });
            if entries.len() == SNAP_ENTRIES {
                put(snap::Kind::Entries(SnapEntries { entries: std::mem::take(&mut entries) }))?;
            }
        }
        put(snap::Kind::Entries(SnapEntries { entries }))?;
        put(snap::Kind::End(SnapEnd { entries: count }))
    }
}

/// What this site has of a journal behind a position, once: for a copy that is to become the primary
/// (R35). 409 if the position is not in it.
pub async fn records(shelf: Arc<Shelf>, request: Request<Body>) -> Response<Body> {
    let mut asked = FrameReader::new(request.into_body());
    let Ok(Some(ask)) = asked.next::<Follow>(ASK_MAX).await else {
        return answer(StatusCode::BAD_REQUEST, "the request must begin with a position");
    };
    let at = Position { epoch: Epoch(ask.epoch), seq: Seq(ask.seq) };
    match shelf.chain_at(at) {
        Ok(Some(chain))
            if ask.chain == chain.0[..] && ask.incarnation == shelf.head().incarnation.0[..] => {}
        Ok(_) => return answer(StatusCode::CONFLICT, "the position is not in this journal"),
        Err(error) => return answer(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
    let (feeds, body) = sender(MESSAGE_MAX);
    work::spawn(async move {
        let mut done = at.seq;
        loop {
            let from = shelf.clone();
            let some = blocking(move || Ok(from.records_after(done, READ_RECORDS, READ_BYTES)?)).await;
            let Ok(some) = some else { return };
            let Some(last) = some.last() else { break };
            done = last.at.seq;
            for record in &some {
                let sent = Sent { record: catalog::encode_record(record), inline: Vec::new() };
                if feeds.send(&sent).await.is_err() {
                    return;
                }
            }
        }
        // Nobody listens any more: nobody to tell.
        let _ = feeds.finish().await;
    });
    Response::new(body)
}

async fn send(feeds: &FrameSender, kind: feed::Kind) -> Result<(), FeedError> {
    feeds.send(&Feed { kind: Some(kind) }).await.map_err(|_| FeedError::Closed)
}
