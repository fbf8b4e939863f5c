//! Clients that keep us waiting. Each connection notes since which second; one task a door looks at all of
//! them every second and ends those that took too long. A request itself therefore costs no timer.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use http::HeaderMap;
use tokio_util::sync::CancellationToken;

use super::Limits;
use super::kept::Streams;
use super::tally::{Tally, Why};
use crate::server::Bond;
use crate::wire::http::auth;
use crate::wire::http::framing::Fault;

/// How often the connections are looked at.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// What a connection waits for of its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// Nothing, or the next request: hyper sees to that.
    Nothing,
    /// The rest of a request's head.
    Head,
    /// The rest of a request's body.
    Body,
}

/// One connection, as who watches it sees it.
pub(super) struct Watched {
    pub(super) client: SocketAddr,
    pub(super) now: Arc<AtomicU32>,
    /// What is waited for (high half) and since which tick.
    read: AtomicU64,
    /// Since which tick, from 1 on, the client takes nothing; 0 if it does.
    write: AtomicU32,
    fault: OnceLock<(u64, Fault)>,
    /// Requests so far.
    pub(super) calls: AtomicU64,
    /// Once somebody proves who he is for the whole connection.
    bond: OnceLock<Arc<Bond>>,
    /// Over HTTP/2.
    pub(super) streams: Streams,
    /// Ends the connection.
    pub(super) over: CancellationToken,
}

impl Watched {
    pub(super) fn read_waits(&self, waits: Waits) {
        let what = waits as u64;
        let before = self.read.load(Ordering::Relaxed);
        // The time for a head begins with its first byte, and goes on whatever trickles in.
        if before >> 32 == what && waits != Waits::Body {
            return;
        }
        let now = u64::from(self.now.load(Ordering::Relaxed));
        self.read.store(what << 32 | now, Ordering::Relaxed);
    }

    /// What a request on it is to carry.
    pub(super) fn bond(&self, headers: &HeaderMap) -> Option<Arc<Bond>> {
        match auth::is_of_connection(headers) {
            true => Some(self.bond.get_or_init(Bond::new).clone()),
            false => self.bond.get().cloned(),
        }
    }

    pub(super) fn write_waits(&self, waits: bool) {
        let waited = self.write.load(Ordering::Relaxed) != 0;
        if waits != waited {
            let since = if waits { self.now.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
            self.write.store(since, Ordering::Relaxed);
        }
    }

    /// The request after so many good ones cannot be understood, or the body of the last one.
    pub(super) fn refused(&self, heads: u64, fault: Fault) {
        let _first = self.fault.set((heads, fault));
    }

    /// What is wrong with the request after so many.
    pub(super) fn fault(&self, heads: u64) -> Option<Fault> {
        self.fault.get().filter(|(at, fault)| *at == heads && !fault.in_body()).map(|(_, fault)| *fault)
    }

    /// What was wrong on this connection.
    pub(super) fn any_fault(&self) -> Option<Fault> {
        self.fault.get().map(|(_, fault)| *fault)
    }

    fn judge(&self, now: u32, limits: &Limits) -> Option<Why> {
        let read = self.read.load(Ordering::Relaxed);
        let longer =
            |since: u32, limit: Duration| u64::from(now.saturating_sub(since)) > limit.as_secs();
        let since = (read & u64::from(u32::MAX)) as u32;
        let write = self.write.load(Ordering::Relaxed);
        match read >> 32 {
            what if what == Waits::Head as u64 && longer(since, limits.head) => Some(Why::SlowHead),
            what if what == Waits::Body as u64 && longer(since, limits.body) => Some(Why::SlowBody),
            _ if write != 0 && longer(write - 1, limits.write) => Some(Why::NeverReads),
            _ => None,
        }
    }
}

/// All open connections of one door.
#[derive(Default)]
pub(super) struct Watch {
    now: Arc<AtomicU32>,
    all: Mutex<Vec<Weak<Watched>>>,
}

impl Watch {
    /// Ticks since the door was opened.
    pub(super) fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }

    /// `over`: what ends the connection.
    pub(super) fn add(&self, client: SocketAddr, over: CancellationToken) -> Arc<Watched> {
        let watched = Arc::new(Watched {
            client,
            now: self.now.clone(),
            read: AtomicU64::new(0),
            write: AtomicU32::new(0),
            fault: OnceLock::new(),
            calls: AtomicU64::new(0),
            bond: OnceLock::new(),
            streams: Streams::default(),
            over,
        });
        self.all().push(Arc::downgrade(&watched));
        watched
    }

    /// One second later.
    pub(super) fn tick(&self, limits: &Limits, tally: &Tally) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.all().retain(|watched| {
            let Some(watched) = watched.upgrade() else { return false };
            watched.streams.tick(now, limits, |why| tally.turned_away(why, watched.client, now));
            let Some(why) = watched.judge(now, limits) else { return true };
            tally.turned_away(why, watched.client, now);
            watched.over.cancel();
            false
        });
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<Watched>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
