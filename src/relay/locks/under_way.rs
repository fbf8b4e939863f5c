//! The changes that locks have let by and that have not ended: who gets a lock waits for those that it would have
//! barred, so that afterwards nobody else changes what it is on.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::hash::HashMap;
use crate::wire::http::lock::{Lock, Use};

/// All of a share. There are no more of them than changes under way at a site.
#[derive(Clone, Default)]
pub struct UnderWay(Arc<Mutex<Changes>>);

#[derive(Default)]
struct Changes {
    last: u64,
    all: HashMap<u64, Change>,
}

struct Change {
    uses: Vec<Use>,
    ends: Ends,
}

/// Tells when a change has ended, by its sender's end.
pub type Ends = watch::Receiver<()>;

/// A change that is under way until this is dropped.
pub struct Admitted {
    number: u64,
    among: UnderWay,
    _ends: watch::Sender<()>,
}

impl UnderWay {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn begin(&self, uses: Vec<Use>) -> Admitted {
        let (sender, ends) = watch::channel(());
        let mut changes = self.changes();
        changes.last += 1;
        let number = changes.last;
        changes.all.insert(number, Change { uses, ends });
        Admitted { number, among: self.clone(), _ends: sender }
    }

    /// Of those that the lock would have barred.
    pub fn barred_by(&self, lock: &Lock) -> Vec<Ends> {
        let changes = self.changes();
        let barred = changes.all.values().filter(|change| change.uses.iter().any(|one| lock.bars(one)));
        barred.map(|change| change.ends.clone()).collect()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.among.changes().all.remove(&self.number);
    }
}

/// Returns when all have ended.
pub async fn ended(all: Vec<Ends>) {
    for mut one in all {
        while one.changed().await.is_ok() {}
    }
}
