//! Whose turn it is to be sent contents or a snapshot. Each of those takes a thread that waits for its reader,
//! and every share has its threads of one pool: a site that asks for much, or reads nothing, takes few of
//! them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::lock;
use crate::id::{ShareId, SiteId};

/// Requests for contents of one share that one site is answered at once. A copy makes three, and it may take
/// a while until one of a connection that broke has ended.
const CONTENTS: usize = 4;
/// A copy reads one snapshot.
const SNAPSHOTS: usize = 1;
/// Requests that wait for their turn: what is beyond is refused.
const WAITING: usize = 16;

/// The requests of one kind. There are as many lines as the map has sites with a part in a share.
pub struct Turns {
    at_once: usize,
    lines: Mutex<BTreeMap<(ShareId, SiteId), Line>>,
}

#[derive(Clone)]
struct Line {
    places: Arc<Semaphore>,
    turns: Arc<Semaphore>,
}

/// A request that is answered or waits for that.
pub struct InLine {
    turns: Arc<Semaphore>,
    _kept: OwnedSemaphorePermit,
}

impl Turns {
    pub fn contents() -> Self {
        Self { at_once: CONTENTS, lines: Mutex::default() }
    }
    pub fn snapshots() -> Self {
        Self { at_once: SNAPSHOTS, lines: Mutex::default() }
    }

    /// `None`: too many requests of the site wait already.
    pub fn enter(&self, share: &ShareId, site: &SiteId) -> Option<InLine> {
        let line = {
            let mut lines = lock(&self.lines);
            let new = || Line {
                places: Arc::new(Semaphore::new(self.at_once + WAITING)),
                turns: Arc::new(Semaphore::new(self.at_once)),
            };
            lines.entry((share.clone(), site.clone())).or_insert_with(new).clone()
        };
        let kept = line.places.try_acquire_owned().ok()?;
        Some(InLine { turns: line.turns, _kept: kept })
    }
}

impl Default for Turns {
    fn default() -> Self {
        Self::contents()
    }
}

impl InLine {
    /// Waits for the turn, in the order in which it was asked for. It lasts until what this returns is dropped.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // They are never closed.
        self.turns.clone().acquire_owned().await.ok()
    }
}
