//! The locks that nearshare keeps of a share go along with its primary copy. The new primary asks for them during the
//! pause, when nobody takes, refreshes or ends one, and writes them down for the epoch that is to begin before the old one
//! steps down: however the hand-over goes on from there, who leads in that epoch has them. Each has its whole time again,
//! as after a start.

use prost::Message as _;

use super::*;
use crate::catalog;
use crate::wire::http::lock::{LOCKS_MAX, Lock};

/// Bytes of one answer: longer by one lock at most. All that a share may have come in a few, for changes wait meanwhile.
const PAGE: usize = 1 << 20;

impl<H: Host> Leading<H> {
    /// Some of them, in the order of their tokens.
    pub(super) fn locks_after(&self, share: &ShareId, body: &[u8]) -> Response<Body> {
        let Ok(said::LocksAfter { token, after }) = said::LocksAfter::decode(body) else {
            return refuse(StatusCode::BAD_REQUEST, "no message");
        };
        if self.pauses().get(share).is_none_or(|pause| pause.token != token) {
            return refuse(StatusCode::CONFLICT, "the pause is over: begin again");
        }
        let mut locks = self.locks(share);
        locks.retain(|lock| lock.token > after);
        locks.sort_by(|one, other| one.token.cmp(&other.token));
        let (mut page, mut bytes) = (said::Locks::default(), 0);
        for lock in &locks {
            if bytes >= PAGE {
                page.more = true;
                break;
            }
            let row = catalog::encode_lock(Epoch(0), lock);
            bytes += row.len();
            page.locks.push(row.into());
        }
        reply(&page)
    }

    /// Brings here what the primary has of them, for the epoch to come. Says how many came along.
    pub(super) async fn bring_locks(
        &self,
        share: &ShareId,
        primary: &SiteId,
        token: u64,
        epoch: Epoch,
    ) -> Result<String, String> {
        let locks = self.take_locks(share, primary, token).await?;
        let many = locks.len();
        let mut map = Map::clone(&self.map());
        map.led_by(share, self.me(), epoch.0);
        let keeps = map.shares.get(share).is_some_and(|row| map.keeps_locks(row));
        self.keep_locks(share, epoch, if keeps { locks } else { Vec::new() }).await?;
        Ok(match (many, keeps) {
            (0, _) => String::new(),
            (many, true) => format!("; WebDAV locks: {many} came along"),
            (many, false) => {
                format!("; WebDAV locks: {many} are over, for the server here is to keep them")
            }
        })
    }

    async fn take_locks(
        &self,
        share: &ShareId,
        primary: &SiteId,
        token: u64,
    ) -> Result<Vec<Lock>, String> {
        let mut locks: Vec<Lock> = Vec::new();
        loop {
            let after = locks.last().map(|lock| lock.token.clone()).unwrap_or_default();
            let asked = said::LocksAfter { token, after };
            let page: said::Locks = ask(&*self.links(), primary, share, "locks", &asked).await?;
            for row in &page.locks {
                let (_, lock) = catalog::decode_lock(row).map_err(text)?;
                let behind = locks.last().is_none_or(|last| last.token < lock.token);
                if !behind || locks.len() >= LOCKS_MAX {
                    return Err(format!("{primary} tells of locks in disorder, or of too many"));
                }
                locks.push(lock);
            }
            if !page.more || page.locks.is_empty() {
                return Ok(locks);
            }
        }
    }

    /// These are in force in the epoch, and no others: a hand-over that came to nothing may have left some.
    pub(super) async fn keep_locks(
        &self,
        share: &ShareId,
        epoch: Epoch,
        locks: Vec<Lock>,
    ) -> Result<(), String> {
        let shelf = self.shelf(share).map_err(text)?;
        let kept = blocking(move || {
            let mut batch = shelf.batch();
            for (_, lock) in shelf.locks()? {
                batch.forget_lock(lock.token);
            }
            locks.into_iter().for_each(|lock| batch.lock_in(epoch, lock));
            Ok(shelf.commit(batch, true).wait()?)
        });
        kept.await.map_err(text)
    }
}
