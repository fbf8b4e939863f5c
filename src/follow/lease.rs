//! The right of a copy of a strict share to answer for itself: asked for while somebody reads, and what
//! the primary asks it to hold (R5, R10, R12 to R14).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::ahead::Lies;
use super::pull::{PullError, ask, touches};
use super::{Follow, Result, lock};
use crate::catalog::Touch;
use crate::clock::BootTime;
use crate::hold::{LEASE, Moment, Taker};
use crate::id::{Gen, Seq};
use crate::link::frames::{FrameReader, FrameSender, sender};
use crate::link::share::{Grant, LeaseAsk, LeaseSay, MESSAGE_MAX, Renew, lease_ask, lease_say};
use crate::link::{Class, Net, Remote};
use crate::plant::{self, Bug};
use crate::route::Certainty;
use crate::tree::Tree;
use crate::work;

/// A lease is asked for again after so long.
const RENEW: Duration = Duration::from_millis(1500);
/// The primary gave none: it is asked again after this, or when somebody reads.
const AGAIN: Duration = Duration::from_millis(250);
/// Or when somebody reads, but not more often than this.
const SOON: Duration = Duration::from_millis(10);
/// Longest message to the primary.
const ASK_MAX: usize = 256;

/// What is known here of the lease.
#[derive(Default)]
pub(super) struct Lease {
    pub(super) taker: Mutex<Taker>,
    /// The number of the newest renewal.
    asked: AtomicU64,
    /// The last record that is on this disk.
    applied: AtomicU64,
    /// When somebody last read, and since when the link is down (0: it is up), in milliseconds since
    /// boot.
    read_at: AtomicU64,
    down_since: AtomicU64,
    /// The journal's stream is open.
    following: AtomicBool,
    /// The two maps promise different things about the share (R10).
    at_odds: AtomicBool,
    /// Somebody reads and has no lease, or a stream opened.
    wanted: Notify,
}

fn millis(time: BootTime) -> u64 {
    u64::try_from(time.0.as_millis()).unwrap_or(u64::MAX)
}

impl Lease {
    pub fn set_applied(&self, seq: Seq) {
        self.applied.store(seq.0, Ordering::Release);
    }
    pub fn set_link(&self, up: bool, now: BootTime) {
        if up {
            self.down_since.store(0, Ordering::Release);
        } else {
            // Only the first time counts.
            let now = millis(now).max(1);
            let _ = self.down_since.compare_exchange(0, now, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
    pub fn may_be_asked_for(&self, following: bool) {
        self.following.store(following, Ordering::Release);
        self.wanted.notify_one();
    }
    pub fn set_at_odds(&self, at_odds: bool) {
        self.at_odds.store(at_odds, Ordering::Release);
    }
    pub fn is_at_odds(&self) -> bool {
        self.at_odds.load(Ordering::Acquire) && !plant::is(Bug::IgnoreMaps)
    }
    fn is_live(&self, now: Moment) -> bool {
        lock(&self.taker).may_answer(Seq(self.applied.load(Ordering::Acquire)), now)
    }
    /// Somebody read within the last lease (R14).
    fn is_used(&self, now: BootTime) -> bool {
        let read_at = self.read_at.load(Ordering::Relaxed);
        if plant::is(Bug::AskUnread) {
            return true;
        }
        read_at != 0 && millis(now).saturating_sub(read_at) <= LEASE.as_millis() as u64
    }
    fn is_cut_off(&self, now: BootTime) -> bool {
        let since = self.down_since.load(Ordering::Acquire);
        if plant::is(Bug::CutOffByLeaseAlone) {
            return true;
        }
        since != 0 && millis(now).saturating_sub(since) > LEASE.as_millis() as u64
    }
}

impl<T: Tree> Follow<T> {
    pub fn reconfigure(&self, terms: super::Terms) {
        *lock(&self.terms) = terms;
        self.lease.wanted.notify_one();
    }

    /// Whether this copy can know what the primary has. Notes that somebody reads.
    pub fn certainty(&self) -> Certainty {
        // One that was stopped hears of no hold any more: another follows, of another primary perhaps.
        if self.lease.is_at_odds() || self.stopped() {
            return Certainty::Unsure;
        }
        let terms = *lock(&self.terms);
        if !terms.strict {
            return Certainty::Relaxed;
        }
        let now = Moment::now(&*self.clock);
        self.lease.read_at.store(millis(now.boot), Ordering::Relaxed);
        if self.lease.is_live(now) {
            return Certainty::Sure;
        }
        self.lease.wanted.notify_one();
        match (self.lease.is_cut_off(now.boot), terms.serve_when_cut_off) {
            (false, _) => Certainty::Unsure,
            (true, true) => Certainty::CutOffServe,
            (true, false) => Certainty::CutOffRefuse,
        }
    }

    /// Every record up to here is on this disk, contents aside.
    pub(super) fn has_applied(&self, seq: Seq) -> bool {
        self.lease.applied.load(Ordering::Acquire) >= seq.0
    }

    pub(super) fn lease_word(&self) -> Option<&'static str> {
        let now = Moment::now(&*self.clock);
        lock(&self.terms).strict.then(|| {
            if self.lease.is_live(now) {
                "live"
            } else if self.lease.is_cut_off(now.boot) {
                "cut off"
            } else {
                "none"
            }
        })
    }

    /// What was granted does not hold for what is here from now on.
    pub(super) fn lose_lease(&self) {
        lock(&self.lease.taker).drop_lease();
        self.lease.following.store(false, Ordering::Release);
        self.lease.set_applied(Seq(0));
    }

    /// What was granted is given back: the next is a fresh one, with all that is in force.
    pub(super) fn renounce(&self) {
        lock(&self.lease.taker).drop_lease();
    }

    /// The catalog has directories where they are now.
    pub(super) fn moved(&self) {
        lock(&self.ahead).end_moves();
        self.place_notes();
    }

    /// Finds out what notes and holds are below, which listings depend on.
    /// As [`Self::place`]; blocks.
    pub(super) fn place_notes(&self) {
        let adrift = lock(&self.ahead).adrift();
        for (id, touches) in adrift {
            match self.lies(&touches) {
                Ok(lies) => lock(&self.ahead).place(id, lies),
                Err(error) => {
                    tracing::warn!(share = %self.config.share, %error, "listings are forwarded");
                    return;
                }
            }
        }
    }

    /// What touches are below.
    pub(super) fn lies(&self, touches: &[Touch]) -> Result<Lies> {
        let seen = lock(&self.ahead).moves();
        Ok(Lies { above: super::above(&self.shelf, touches)?, seen })
    }

    /// Looks up where notes and holds are; until then they count everywhere.
    pub(super) fn place(self: &Arc<Self>) {
        if lock(&self.ahead).adrift().is_empty() {
            return;
        }
        let follow = self.clone();
        drop(work::blocking(move || follow.place_notes()));
    }

    /// `false`: what was granted is of no use.
    pub(super) fn granted(&self, grant: &Grant) -> Result<bool, PullError> {
        let head = match &grant.fresh {
            None => None,
            Some(fresh) => {
                // Held before the lease counts: whoever reads asks in the other order.
                let in_force = touches(&fresh.in_force)?;
                tracing::trace!(
                    share = %self.config.share, ?in_force, newest = fresh.generation, "a lease with holds"
                );
                let right = self.with_ahead(|ahead| ahead.hold_anew(in_force, Gen(fresh.generation)));
                let epoch = self.shelf.head().at.epoch;
                if !right || epoch.0 != fresh.epoch {
                    tracing::trace!(share = %self.config.share, ours = epoch.0, fresh.epoch, "no lease");
                    return Ok(false);
                }
                Some(Seq(fresh.seq))
            }
        };
        let len = Duration::from_millis(grant.lease_ms.into());
        if grant.number >= self.lease.asked.load(Ordering::Acquire) {
            lock(&self.ahead).granted();
        }
        let now = Moment::now(&*self.clock);
        let granted = lock(&self.lease.taker).granted(grant.number, len, head, now);
        if let Err(why) = granted {
            tracing::trace!(share = %self.config.share, number = grant.number, ?why, "no lease");
        }
        Ok(granted.is_ok())
    }
}

pub(super) async fn run<T: Tree>(follow: Arc<Follow<T>>, links: Arc<dyn Net>) {
    while !follow.stopped() {
        // Also if nobody reads: a primary that has just started hears that there is no old lease (R11).
        let wanted = lock(&follow.terms).strict && follow.lease.following.load(Ordering::Acquire);
        let peer = links.peer(&follow.config.primary).filter(|peer| wanted && peer.up());
        let Some(peer) = peer else {
            tokio::select! {
                biased;
                () = follow.lease.wanted.notified() => {}
                () = follow.stop.cancelled() => {}
            }
            // Reads may come thick and fast while the link is down.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let ended = tokio::select! {
            biased;
            ended = session(&follow, &*peer) => ended,
            () = follow.stop.cancelled() => Ok(()),
        };
        if let Err(error) = ended {
            tracing::debug!(share = %follow.config.share, %error, "no lease");
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// One connection's worth of leases.
async fn session<T: Tree>(follow: &Arc<Follow<T>>, peer: &dyn Remote) -> Result<(), PullError> {
    // Opening the stream says so (R11).
    lock(&follow.lease.taker).drop_lease();
    lock(&follow.ahead).granted();
    let (asks, body) = sender(ASK_MAX);
    let mut asked = renew(follow, &asks).await?;
    let path = format!("/v1/share/{}/lease", follow.config.share);
    let response = ask(peer, Class::Control, path, body).await?;
    let mut says = FrameReader::new(response.into_body());
    loop {
        let due = if follow.lease.is_live(Moment::now(&*follow.clock)) { RENEW } else { AGAIN };
        let since = follow.clock.boot().since(asked);
        tokio::select! {
            biased;
            () = tokio::time::sleep(due.saturating_sub(since)) => {}
            () = follow.lease.wanted.notified(), if since >= SOON => {}
            said = says.next::<LeaseSay>(MESSAGE_MAX) => {
                let said = said
                    .map_err(|error| PullError::Peer { what: "a lease", why: error.to_string() })?
                    .ok_or(PullError::Ended)?;
                heard(follow, &asks, said).await?;
                continue;
            }
        }
        if !follow.lease.following.load(Ordering::Acquire) {
            return Ok(());
        }
        asked = renew(follow, &asks).await?;
    }
}

async fn heard<T: Tree>(
    follow: &Arc<Follow<T>>,
    asks: &FrameSender,
    said: LeaseSay,
) -> Result<(), PullError> {
    match said.kind {
        Some(lease_say::Kind::Grant(grant)) if follow.granted(&grant)? => {}
        // Of no use: a new stream begins with a fresh one.
        Some(lease_say::Kind::Grant(_)) => return Err(PullError::Ended),
        Some(lease_say::Kind::Ask(hold)) => {
            let holds = touches(&hold.touches)?;
            tracing::trace!(share = %follow.config.share, ?holds, "asked to hold");
            // One that woke up late may have heard of the release already.
            let leased = lock(&follow.lease.taker).is_leased(Moment::now(&*follow.clock));
            if plant::is(Bug::HoldBehindDisk) {
                let mut batch = follow.shelf.batch();
                batch.note_ahead(0, Vec::new());
                if follow.shelf.commit(batch, true).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            if leased && !plant::is(Bug::HoldInWordOnly) {
                follow.with_ahead(|ahead| ahead.hold(holds));
            }
            send(asks, lease_ask::Kind::Held(hold.question)).await?;
        }
        // A newer primary may say more.
        None => {}
    }
    follow.place();
    Ok(())
}

/// Asks for a lease, unless nobody reads: then it is left to run out, and nobody waits for this copy
/// (R14).
async fn renew<T: Tree>(follow: &Follow<T>, asks: &FrameSender) -> Result<BootTime, PullError> {
    let now = Moment::now(&*follow.clock);
    if !follow.lease.is_used(now.boot) {
        return Ok(now.boot);
    }
    let number = lock(&follow.lease.taker).ask(now);
    follow.lease.asked.store(number, Ordering::Release);
    lock(&follow.ahead).await_grant();
    let applied = follow.lease.applied.load(Ordering::Acquire);
    send(asks, lease_ask::Kind::Renew(Renew { number, applied })).await?;
    Ok(now.boot)
}

async fn send(asks: &FrameSender, kind: lease_ask::Kind) -> Result<(), PullError> {
    asks.send(&LeaseAsk { kind: Some(kind) }).await.map_err(|_| PullError::Ended)
}
