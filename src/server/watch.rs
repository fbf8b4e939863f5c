//! Who keeps whom waiting. Each connection notes whose turn it is and since which tick; one task a
//! server looks at all of them every tick and ends those that took too long. A request itself
//! therefore costs no timer.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;

use super::{InUse, Limits, Upstream};

/// All open connections to one server.
#[derive(Default)]
pub(super) struct Watch {
    conns: Mutex<Vec<Weak<Watched>>>,
    tick: Arc<AtomicU32>,
    started: AtomicBool,
}

/// One connection, watched.
pub(super) struct Watched {
    /// Whose turn it is in the upper half, since which tick in the lower.
    turn: AtomicU64,
    fate: AtomicU8,
    /// The request on it is not sent to its end yet.
    uploading: AtomicBool,
    tick: Arc<AtomicU32>,
    task: AbortHandle,
    /// The place of the answer on it; goes with the connection, whoever still has the answer.
    place: Mutex<Option<InUse>>,
}

/// Why a connection was ended, if we ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Alive,
    Idle,
    ServerSilent,
    ClientSilent,
}

const IDLE: u64 = 0;
const SERVER: u64 = 1;
const CLIENT: u64 = 2;

impl Watched {
    fn set(&self, turn: u64) {
        self.turn.store(turn << 32 | u64::from(self.tick.load(Ordering::Relaxed)), Ordering::Relaxed);
    }
    /// Does not begin to count again if it already was that one's turn.
    fn keep(&self, turn: u64) {
        if self.turn.load(Ordering::Relaxed) >> 32 != turn {
            self.set(turn);
        }
    }
    pub(super) fn idle(&self) {
        self.set(IDLE);
    }
    /// Something was just given to the server.
    pub(super) fn await_server(&self) {
        self.set(SERVER);
    }
    /// The server was asked and has nothing yet.
    pub(super) fn still_server(&self) {
        self.keep(SERVER);
    }
    /// Something was just given to the client.
    pub(super) fn await_client(&self) {
        self.set(CLIENT);
    }
    /// The client was asked and has nothing yet.
    pub(super) fn still_client(&self) {
        self.keep(CLIENT);
    }
    pub(super) fn uploading(&self) {
        self.uploading.store(true, Ordering::Relaxed);
    }
    pub(super) fn uploaded(&self) {
        self.uploading.store(false, Ordering::Relaxed);
    }
    pub(super) fn is_uploading(&self) -> bool {
        self.uploading.load(Ordering::Relaxed)
    }
    /// Keeps the place until it is let go or the connection is ended from here.
    pub(super) fn hold(&self, place: InUse) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = Some(place);
    }
    pub(super) fn let_go(&self) -> Option<InUse> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
    /// Closes the connection.
    pub(super) fn abort(&self) {
        self.task.abort();
    }
    pub(super) fn fate(&self) -> Fate {
        match self.fate.load(Ordering::Acquire) {
            1 => Fate::Idle,
            2 => Fate::ServerSilent,
            3 => Fate::ClientSilent,
            _ => Fate::Alive,
        }
    }

    /// Ends the connection if its turn has taken too long. `tick` is how long one tick is.
    fn judge(&self, now: u32, tick: Duration, limits: &Limits) {
        let turn = self.turn.load(Ordering::Relaxed);
        // The lower half is the tick; the cast takes just that.
        #[allow(clippy::cast_possible_truncation)]
        let waited = tick * now.wrapping_sub(turn as u32);
        let (limit, fate) = match turn >> 32 {
            SERVER => (limits.silence, 2),
            CLIENT => (limits.client_silence, 3),
            _ => (limits.idle_for, 1),
        };
        if waited > limit {
            self.fate.store(fate, Ordering::Release);
            self.abort();
            self.let_go();
        }
    }
}

impl Watch {
    pub(super) fn add(&self, task: AbortHandle) -> Arc<Watched> {
        let watched = Arc::new(Watched {
            turn: AtomicU64::new(0),
            fate: AtomicU8::new(0),
            uploading: AtomicBool::new(false),
            tick: self.tick.clone(),
            task,
            place: Mutex::default(),
        });
        watched.idle();
        let mut conns = self.conns.lock().unwrap_or_else(PoisonError::into_inner);
        conns.push(Arc::downgrade(&watched));
        watched
    }

    /// Starts the task that looks, if it does not run yet. It ends with the server.
    pub(super) fn start(&self, server: &Arc<Upstream>) {
        if self.started.swap(true, Ordering::Relaxed) {
            return;
        }
        let server = Arc::downgrade(server);
        tokio::spawn(async move {
            let Some(limits) = server.upgrade().map(|server| server.limits) else { return };
            let shortest = limits.silence.min(limits.client_silence).min(limits.idle_for);
            let length = (shortest / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
            let mut tick = tokio::time::interval(length);
            loop {
                tick.tick().await;
                let Some(server) = server.upgrade() else { return };
                server.watch.look(length, &limits);
                server.pool.tidy();
            }
        });
    }

    fn look(&self, length: Duration, limits: &Limits) {
        let now = self.tick.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut conns = self.conns.lock().unwrap_or_else(PoisonError::into_inner);
        conns.retain(|conn| {
            let conn = conn.upgrade();
            if let Some(conn) = &conn {
                conn.judge(now, length, limits);
            }
            conn.is_some()
        });
    }
}
