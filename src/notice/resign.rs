//! The primary copy leaves this site, or the site stops: no change begins, and what has begun ends (R34).
//! Not here: where it goes, and who asks for it (`serve`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use super::lease::Leases;
use super::{Notice, NoticeError, Result, lock};
use crate::catalog::{Head, Touch};
use crate::clock::{BootTime, Clock};
use crate::tree::Tree;

/// What has begun must have ended after this, or the copy stays here. With what the next primary has then, and the
/// rest of the leases, less than two lease times (R34).
const ENDS: Duration = Duration::from_secs(6);
/// Between two looks at what is still changing.
const AGAIN: Duration = Duration::from_millis(20);

/// As long as it is kept no change begins; those that come wait. Nor does anybody get a lease: who leads next must wait
/// out what is left of them (R11).
pub struct Resigning {
    /// Everything is in the journal up to here.
    pub head: Head,
    withheld: Withheld,
    _closed: OwnedRwLockWriteGuard<()>,
}

impl Resigning {
    /// For how long nobody has got a lease.
    pub fn withheld(&self) -> Duration {
        self.withheld.clock.boot().since(self.withheld.since)
    }
}

struct Withheld {
    leases: Arc<Leases>,
    clock: Arc<dyn Clock>,
    since: BootTime,
}

impl Drop for Withheld {
    fn drop(&mut self) {
        self.leases.give_again();
    }
}

impl<T: Tree> Notice<T> {
    /// Lets no change begin from now on; at most so long, until those that have begun have ended.
    pub async fn cease(&self, limit: Duration) {
        self.ceased.store(true, Ordering::SeqCst);
        if tokio::time::timeout(limit, self.gate.write()).await.is_err() {
            tracing::warn!(
                share = %self.config.share,
                "the server is still at some changes: what they touch is looked at after the next start"
            );
        }
    }

    /// Until what is given is dropped the primary copy does not leave.
    pub async fn stay(&self) -> Result<OwnedRwLockReadGuard<()>> {
        let open = self.gate.clone().read_owned().await;
        if self.ceased.load(Ordering::SeqCst) { Err(NoticeError::Moved) } else { Ok(open) }
    }

    /// Whether no change is under way.
    pub fn is_quiet(&self) -> bool {
        self.gate.try_write().is_ok()
    }

    /// After `stop`, where another leads from now on: what the server is still at is in doubt, durably (R18).
    /// Blocks.
    pub fn doubt_in_flight(&self) -> Result<()> {
        let mut batch = self.shelf.batch();
        lock(&self.table).in_flight().into_iter().for_each(|touch| batch.doubt(touch));
        Ok(self.shelf.commit(batch, true).wait()?)
    }

    /// After `stop`: until the server has ended what it was at. Says what it left in doubt.
    pub async fn ended(&self) -> Vec<Touch> {
        let _nothing = self.gate.write().await;
        lock(&self.table).in_endless_doubt()
    }

    /// Lets no change begin any more and waits for those that have begun.
    pub async fn resign(self: &Arc<Self>) -> Result<Resigning> {
        let not_now = |why| Err(NoticeError::NotNow(why));
        if !self.shelf.meta().scanned {
            return not_now("the primary copy is being scanned for the first time");
        }
        let in_doubt = || {
            let table = lock(&self.table);
            (table.suspects() > 0, table.is_in_endless_doubt())
        };
        // What was broken off is believed within seconds, and nobody need wait for that.
        for _ in 0..ENDS.as_millis() / AGAIN.as_millis() {
            if !in_doubt().0 || in_doubt().1 {
                break;
            }
            tokio::time::sleep(AGAIN).await;
        }
        if in_doubt().0 {
            return not_now(
                "changes are in doubt at the primary's server: see its `status`, and `nearshare believe`",
            );
        }
        let (leases, clock) = (self.leases.clone(), self.clock.clone());
        let since = leases.withhold(&*clock);
        let withheld = Withheld { leases, clock, since };
        let ended = async {
            let closed = self.gate.clone().write_owned().await;
            self.leases_of_strangers().await;
            let mut before = None;
            loop {
                let head = self.flush().await?;
                // A mark may be taken away before its record is committed: only the next flush is behind
                // that, and finds the journal where it was.
                let looked_over = lock(&self.table).is_looked_over().then_some(head);
                match looked_over {
                    Some(head) if before == Some(head) => {
                        return Ok(Resigning { head, withheld, _closed: closed });
                    }
                    Some(_) => {}
                    None => tokio::time::sleep(AGAIN).await,
                }
                before = looked_over;
            }
        };
        match tokio::time::timeout(ENDS, ended).await {
            Ok(resigning) => resigning,
            Err(_) => not_now("changes at the primary do not come to an end: try again"),
        }
    }
}
