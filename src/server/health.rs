//! How the server is doing, for `status`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::ServerError;
use crate::clock::{Clock, WallTime};

/// Counts, and the last thing that went wrong.
pub struct Health {
    clock: Arc<dyn Clock>,
    answered: AtomicU64,
    failed: AtomicU64,
    /// The last request was answered. Read before it is written, so that it costs nothing when
    /// nothing changes.
    up: AtomicBool,
    last: Mutex<Option<(WallTime, String)>>,
}

/// A snapshot of [`Health`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// Whether the last request was answered; true before the first.
    pub up: bool,
    pub answered: u64,
    pub failed: u64,
    pub in_use: usize,
    /// The last failure of the server and when it was.
    pub last_error: Option<(WallTime, String)>,
}

impl Standing {
    /// Requests of which the server is known to have answered or not.
    pub fn asked(&self) -> u64 {
        self.answered + self.failed
    }
}

impl Health {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let (answered, failed, last) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(None));
        Self { clock, answered, failed, up: AtomicBool::new(true), last }
    }
    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if !self.up.load(Ordering::Relaxed) && !self.up.swap(true, Ordering::Relaxed) {
            tracing::info!("the server answers again");
        }
    }
    pub(super) fn failed(&self, error: &ServerError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if self.up.swap(false, Ordering::Relaxed) {
            tracing::warn!(%error, "the server does not answer");
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((self.clock.wall(), error.to_string()));
    }
    pub(super) fn standing(&self, in_use: usize) -> Standing {
        Standing {
            up: self.up.load(Ordering::Relaxed),
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            in_use,
            last_error: self.last.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
