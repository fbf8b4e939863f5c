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
    items: VecDeque<Item>,
    bytes: usize,
    /// Number of the first item kept.
    first: u64,
    /// Last record handed in.
    head: Seq,
}

/// One message of the stream.
#[derive(Clone)]
pub(super) struct Item {
    pub feed: Arc<Feed>,
    /// Of the record, if it is one.
    pub seq: Option<Seq>,
    bytes: usize,
}

impl Item {
    /// `bytes`: about what it takes in memory.
    pub fn record(feed: Feed, seq: Seq, bytes: usize) -> Self {
        Self { feed: Arc::new(feed), seq: Some(seq), bytes }
    }
    /// What goes along with the records.
    pub fn between(feed: Feed, bytes: usize) -> Self {
        Self { feed: Arc::new(feed), seq: None, bytes }
    }
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

    /// Hands in what has just become durable, in order. Only records move the head: the catalog may be
    /// beyond them with what is not synced yet (R23).
    pub fn push(&self, items: Vec<Item>) {
        let mut ring = self.ring();
        for item in items {
            ring.bytes += item.bytes;
            ring.head = ring.head.max(item.seq.unwrap_or_default());
            ring.items.push_back(item);
        }
        while ring.items.len() > ITEMS_MAX || ring.bytes > BYTES_MAX {
            let Some(item) = ring.items.pop_front() else { break };
            ring.bytes -= item.bytes;
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
    pub fn get(&self, next: u64) -> Result<Option<Item>, Missed> {
        let ring = self.ring();
        let index = next.checked_sub(ring.first).ok_or(Missed)?;
        let index = usize::try_from(index).map_err(|_| Missed)?;
        Ok(ring.items.get(index).cloned())
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
