//! The newest messages of the journal's stream, kept in memory for the copies that follow closely.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::id::Seq;
use crate::link::share::Feed;

/// What is kept: the larger of neither may be passed. 1 MiB is 10 ms of a 1 Gbit/s line.
const ITEMS_MAX: usize = 1024;
const BYTES_MAX: usize = 1 << 20;

pub(super) struct Tail {
    ring: Mutex<Ring>,
    grown: Notify,
}

struct Ring {
    items: VecDeque<(Arc<Feed>, usize)>,
    bytes: usize,
    /// Number of the first item kept.
    first: u64,
    /// Last record handed in.
    head: Seq,
}

/// Where a stream reads on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub next: u64,
    /// The last record before `next`: up to here the catalog has everything, durably.
    pub head: Seq,
}

impl Tail {
    pub fn new(head: Seq) -> Self {
        let ring = Ring { items: VecDeque::new(), bytes: 0, first: 0, head };
        Self { ring: Mutex::new(ring), grown: Notify::new() }
    }

    /// Hands in what has just become durable, in order.
    pub fn push(&self, feeds: Vec<(Feed, usize)>, head: Seq) {
        let mut ring = self.ring();
        ring.head = ring.head.max(head);
        for (feed, bytes) in feeds {
            ring.bytes += bytes;
            ring.items.push_back((Arc::new(feed), bytes));
        }
        while ring.items.len() > ITEMS_MAX || ring.bytes > BYTES_MAX {
            let Some((_, bytes)) = ring.items.pop_front() else { break };
            ring.bytes -= bytes;
            ring.first += 1;
        }
        drop(ring);
        self.grown.notify_waiters();
    }

    pub fn cursor(&self) -> Cursor {
        let ring = self.ring();
        Cursor { next: ring.first + ring.items.len() as u64, head: ring.head }
    }

    /// The item at `next`; `Err` when it is no longer kept, `None` when it is not there yet.
    pub fn get(&self, next: u64) -> Result<Option<Arc<Feed>>, Missed> {
        let ring = self.ring();
        let index = next.checked_sub(ring.first).ok_or(Missed)?;
        let index = usize::try_from(index).map_err(|_| Missed)?;
        Ok(ring.items.get(index).map(|(feed, _)| feed.clone()))
    }

    /// Ready when something was handed in since it was enabled.
    pub fn grown(&self) -> Notified<'_> {
        self.grown.notified()
    }

    fn ring(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The stream fell behind what is kept here and reads the catalog again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Missed;
