//! A copy that is to become the primary: whether it has everything, and what others have that it lacks
//! (R35). Not here: who is asked to step down, and what follows from it (`serve`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use tokio::sync::oneshot;

use super::applier::Job;
use super::pull::read_sent;
use super::{Follow, FollowError, Result, lock};
use crate::body::Body;
use crate::catalog::{Head, Meta};
use crate::clock::BootTime;
use crate::id::{Epoch, Seq, SiteId};
use crate::link::frames::{FrameReader, sender};
use crate::link::share::{Follow as Ask, MESSAGE_MAX, Report, Sent};
use crate::link::{Class, Net, Remote};
use crate::tree::Tree;

/// Between two looks at how far the copy is.
const AGAIN: Duration = Duration::from_millis(20);
/// Contents of which another site gives not a byte for so long are not to be had there.
const STALLED: Duration = Duration::from_secs(10);
/// A content may begin anew so often, after a line that broke say: who never gets through it stalls all the same.
const ANEW_MAX: u32 = 3;
/// For so long what was told to who may lead stays true. Then the promotion went wrong, and the old primary goes
/// on: its changes wait for a minute.
pub const FENCE: Duration = Duration::from_secs(30);

impl<T: Tree> Follow<T> {
    pub fn head(&self) -> Head {
        self.shelf.head()
    }

    /// Before another site that may become the primary is told what is here: what comes after that of the old one
    /// may be lost, and is kept for no change of it (R26) for as long as [`FENCE`], unless it is known before
    /// who leads. Noted, so that a later process keeps to it. Blocks.
    pub fn fence(&self) -> Result<()> {
        let noted = {
            // Notes are written in the order in which the fence is put up and taken away.
            let mut fence = lock(&self.fence);
            *fence = Some(BootTime(self.clock.boot().0 + FENCE));
            let mut batch = self.shelf.batch();
            batch.set_meta(|meta| meta.fenced = meta.epoch);
            self.shelf.commit(batch, true)
        };
        Ok(noted.wait()?)
    }

    /// Whether what comes is not kept for any change.
    pub(super) fn is_fenced(&self) -> Result<bool> {
        let noted = {
            let mut fence = lock(&self.fence);
            match *fence {
                None => return Ok(false),
                Some(until) if self.clock.boot() < until => return Ok(true),
                Some(_) => {}
            }
            *fence = None;
            let mut batch = self.shelf.batch();
            batch.set_meta(|meta| meta.fenced = Epoch(0));
            self.shelf.commit(batch, false)
        };
        // Whoever puts it up meanwhile does not wait for this disk.
        noted.wait()?;
        Ok(false)
    }

    /// At a start: what the process before it promised. A later epoch has ended that.
    pub(super) fn fenced_since(meta: &Meta, now: BootTime) -> Option<BootTime> {
        let fenced = meta.fenced != Epoch(0) && meta.fenced == meta.epoch;
        fenced.then(|| BootTime(now.0 + FENCE))
    }

    /// What another site is told that may become the primary.
    pub fn report(&self) -> Report {
        // First: who hears of a lead notes in one write whether it is confirmed under that, and what is accepted
        // is noted before its records come.
        let meta = self.shelf.meta();
        let head = self.shelf.head();
        let progress = self.progress();
        Report {
            epoch: head.at.epoch.0,
            seq: head.at.seq.0,
            incarnation: Bytes::copy_from_slice(&head.incarnation.0),
            confirmed: progress.confirmed && meta.confirmed,
            ahead: progress.ahead as u64,
            held: progress.held as u64,
            debts: progress.debts,
            accepted: meta.accepted.0,
        }
    }

    /// Why this copy cannot be the primary at once; `None` if it can.
    pub fn lacks(&self, head: Option<&Head>) -> Option<String> {
        let progress = self.progress();
        if let Some(stopped) = progress.stopped {
            return Some(format!("the copy here stands still: {stopped}"));
        }
        if !progress.confirmed || progress.comparing {
            return Some("the copy here has not been compared and filled yet".to_owned());
        }
        if progress.debts > 0 {
            return Some(format!("the copy here still awaits the contents of {} files", progress.debts));
        }
        let (here, Some(head)) = (self.shelf.head(), head) else { return None };
        let (seq, wanted) = (here.at.seq.0, head.at.seq.0);
        if here.at != head.at || here.chain != head.chain || !self.has_applied(head.at.seq) {
            return Some(format!("the copy here is at record {seq}, and the primary at {wanted}"));
        }
        None
    }

    /// Waits until nothing is lacking, at most `limit`; says what is.
    pub async fn level(&self, head: Option<&Head>, limit: Duration) -> Option<String> {
        let begun = self.clock.boot();
        loop {
            let lacks = self.lacks(head)?;
            if self.clock.boot().since(begun) > limit {
                return Some(lacks);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits until the disk is as the journal says, contents aside, at most `limit`.
    pub async fn settled(&self, limit: Duration) -> bool {
        let begun = self.clock.boot();
        while self.progress().stopped.is_some() || !self.has_applied(self.shelf.head().at.seq) {
            if self.clock.boot().since(begun) > limit {
                return false;
            }
            tokio::time::sleep(AGAIN).await;
        }
        true
    }

    /// Takes what another copy has behind this one's position: its records up to `last`, then the contents that
    /// are awaited here. Says how many of those it could not give.
    pub async fn take_from(self: &Arc<Self>, links: &dyn Net, site: &SiteId, last: Seq) -> Result<u64> {
        let Some(peer) = links.peer(site).filter(|peer| peer.up()) else {
            return Err(self.not_told(site, "the link is down".to_owned()));
        };
        self.take_records(&*peer, site, last).await?;
        self.fetch_from(site);
        let left = self.take_contents().await;
        // If the promotion fails, contents come from the primary again.
        self.fetch_from(&self.config.primary);
        Ok(left)
    }

    /// From now on. What the one before did not have is asked of this one at once.
    fn fetch_from(&self, site: &SiteId) {
        *lock(&self.source) = site.clone();
        lock(&self.owed).rest_no_more();
        self.owing.notify_waiters();
    }

    /// The last record of which a content is awaited.
    pub fn newest_debt(&self) -> Option<Seq> {
        lock(&self.owed).newest()
    }

    /// Contents that are awaited, and their bytes that have not come.
    fn awaited(&self) -> (u64, u64) {
        let owed = lock(&self.owed);
        (owed.len() as u64, owed.bytes().saturating_sub(self.part.load(Ordering::Relaxed)))
    }

    async fn take_contents(&self) -> u64 {
        let mut coming = Coming { least: (u64::MAX, u64::MAX), since: self.clock.boot(), anew: 0 };
        loop {
            self.owing.notify_waiters();
            let (debts, bytes) = self.awaited();
            if debts == 0 || coming.has_stalled(debts, bytes, self.clock.boot()) {
                return debts;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn take_records(self: &Arc<Self>, peer: &dyn Remote, site: &SiteId, last: Seq) -> Result<()> {
        let head = self.shelf.head();
        if head.at.seq >= last {
            return Ok(());
        }
        let ask = Ask {
            epoch: head.at.epoch.0,
            seq: head.at.seq.0,
            chain: Bytes::copy_from_slice(&head.chain.0),
            incarnation: Bytes::copy_from_slice(&head.incarnation.0),
        };
        let failed = |why: String| self.not_told(site, why);
        let (asks, body) = sender(MESSAGE_MAX);
        asks.send(&ask).await.map_err(|_| failed("the link is down".to_owned()))?;
        asks.finish().await.map_err(|_| failed("the link is down".to_owned()))?;
        let path = format!("/v1/share/{}/records", self.config.share);
        let request = Request::builder().method(Method::POST).uri(path).body(body);
        let request: Request<Body> = request.map_err(|error| failed(error.to_string()))?;
        let sent = peer.send(Class::Bulk, request).await;
        let response = sent.map_err(|error| failed(error.to_string()))?;
        match response.status() {
            StatusCode::OK => {}
            // Further, but on another way: the tree comparison afterwards keeps what only it has.
            StatusCode::CONFLICT => return Ok(()),
            status => return Err(failed(format!("it answers {status}"))),
        }
        let mut frames = FrameReader::new(response.into_body());
        while let Some(sent) =
            frames.next::<Sent>(MESSAGE_MAX).await.map_err(|error| failed(error.to_string()))?
        {
            let record = read_sent(&sent).map_err(|error| failed(error.to_string()))?;
            if record.0.at.seq > last {
                break;
            }
            let (done, durable) = oneshot::channel();
            let job = Job::Records(vec![record], done);
            self.jobs.send(job).await.map_err(|_| FollowError::Task)?;
            durable.await.map_err(|_| FollowError::Task)?;
        }
        Ok(())
    }

    fn not_told(&self, site: &SiteId, why: String) -> FollowError {
        FollowError::Peer { site: site.clone(), what: "what it has of the share", why }
    }
}

/// How far contents have come from another site.
struct Coming {
    /// Contents, and bytes, that were lacking at the best moment.
    least: (u64, u64),
    since: BootTime,
    /// How often a content has begun anew since the last one was whole.
    anew: u32,
}

impl Coming {
    /// Whether nothing has come for too long. A large content that is on its way is something.
    fn has_stalled(&mut self, debts: u64, bytes: u64, now: BootTime) -> bool {
        let (most, least) = self.least;
        if debts < most || bytes < least {
            self.since = now;
            self.least = (debts.min(most), bytes.min(least));
        } else if bytes > least && self.anew < ANEW_MAX {
            // What had come of it is gone, and what comes now counts once more.
            self.anew += 1;
            self.least.1 = bytes;
        }
        if debts < most {
            self.anew = 0;
        }
        now.since(self.since) > STALLED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_content_that_comes_slowly_is_waited_for() {
        let at = |seconds| BootTime(Duration::from_secs(seconds));
        let mut coming = Coming { least: (u64::MAX, u64::MAX), since: at(0), anew: 0 };
        for second in 1..=60 {
            assert!(!coming.has_stalled(3, 2_000_000_000 - second * 1_000_000, at(second)));
        }
        // The next one begins: nothing of it has come.
        assert!(!coming.has_stalled(2, 5_000_000_000, at(69)));
        assert!(!coming.has_stalled(2, 5_000_000_000, at(79)));
        assert!(coming.has_stalled(2, 5_000_000_000, at(80)));
    }

    #[test]
    fn a_large_content_that_begins_anew_is_waited_for_but_not_for_ever() {
        let mut coming = Coming { least: (u64::MAX, u64::MAX), since: BootTime::default(), anew: 0 };
        let mut second = 0;
        // Each time the line breaks when half of it has come.
        let mut half = || {
            (0..=50).all(|come| {
                second += 1;
                !coming.has_stalled(1, 100 - come, BootTime(Duration::from_secs(second)))
            })
        };
        assert!((0..=ANEW_MAX).all(|_| half()));
        assert!(!half());
    }
}
