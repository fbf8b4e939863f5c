//! Bodies over HTTP/2. On such a connection one stream may stand still while others go on, so each notes
//! for itself since when it waits for the client; one that does so for too long is given up, and with it
//! all that is behind it: a place at the server, a stream of a link.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};

use super::Limits;
use super::tally::Why;
use super::watch::Watched;
use crate::body::{Body, BoxError};

/// Which way a body goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the client, which keeps us waiting when there is nothing.
    In,
    /// To the client, which keeps us waiting when it does not ask.
    Out,
}

/// A body that may be given up, as who watches it sees it.
pub(super) struct Kept {
    way: Way,
    now: Arc<AtomicU32>,
    /// Since which tick, from 1 on, the client is waited for; 0 if it is not.
    since: AtomicU32,
    /// None once it is given up.
    held: Mutex<Option<Held>>,
    /// Of who waits for the client.
    waker: AtomicWaker,
}

struct Held {
    body: Body,
    /// For an answer.
    _running: Option<Running>,
}

impl Kept {
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waits(&self, waits: bool) {
        let since = if waits { self.now.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        self.since.store(since, Ordering::Relaxed);
    }

    /// Gives the body up if the client has kept it waiting for too long.
    fn judge(&self, now: u32, limits: &Limits) -> Option<Why> {
        let (limit, why) = match self.way {
            Way::In => (limits.body, Why::SlowBody),
            Way::Out => (limits.write, Why::NeverReads),
        };
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 || u64::from(now.saturating_sub(since - 1)) <= limit.as_secs() {
            return None;
        }
        let held = self.held().take();
        self.waker.wake();
        held.map(|_| why)
    }
}

/// What one connection carries.
#[derive(Default)]
pub(super) struct Streams {
    next: AtomicU64,
    all: Mutex<HashMap<u64, Arc<Kept>>>,
    running: AtomicU32,
}

impl Streams {
    fn all(&self) -> MutexGuard<'_, HashMap<u64, Arc<Kept>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Requests that are not answered to the end, without the answers that were given up.
    pub(super) fn running(&self) -> u32 {
        self.running.load(Ordering::Relaxed)
    }

    /// Gives up what waits for the client for too long, and says why, once each.
    pub(super) fn tick(&self, now: u32, limits: &Limits, mut gave_up: impl FnMut(Why)) {
        let all: Vec<_> = self.all().values().cloned().collect();
        all.iter().filter_map(|kept| kept.judge(now, limits)).for_each(&mut gave_up);
    }
}

/// A request that is not answered to the end.
pub(super) struct Running(Arc<Watched>);

impl Running {
    pub(super) fn begin(watched: &Arc<Watched>) -> Self {
        watched.streams.running.fetch_add(1, Ordering::Relaxed);
        Self(watched.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.streams.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body itself.
struct Keep {
    kept: Arc<Kept>,
    watched: Arc<Watched>,
    number: u64,
}

/// What a client sends.
pub(super) fn from_client(watched: &Arc<Watched>, body: Body) -> Body {
    keep(Way::In, watched, body, None)
}

/// What it is sent.
pub(super) fn to_client(running: Running, body: Body) -> Body {
    keep(Way::Out, &running.0.clone(), body, Some(running))
}

fn keep(way: Way, watched: &Arc<Watched>, body: Body, running: Option<Running>) -> Body {
    if body.is_end_stream() {
        return body;
    }
    let kept = Arc::new(Kept {
        way,
        now: watched.now.clone(),
        since: AtomicU32::new(0),
        held: Mutex::new(Some(Held { body, _running: running })),
        waker: AtomicWaker::new(),
    });
    kept.waits(way == Way::Out);
    let number = watched.streams.next.fetch_add(1, Ordering::Relaxed);
    watched.streams.all().insert(number, kept.clone());
    Body::boxed(Keep { kept, watched: watched.clone(), number })
}

impl Drop for Keep {
    fn drop(&mut self) {
        self.watched.streams.all().remove(&self.number);
    }
}

impl http_body::Body for Keep {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let kept = &self.kept;
        kept.waker.register(cx.waker());
        let mut held = kept.held();
        let Some(held) = &mut *held else {
            return Poll::Ready(Some(Err("the client kept us waiting".into())));
        };
        let polled = Pin::new(&mut held.body).poll_frame(cx);
        match (kept.way, polled.is_pending()) {
            (Way::In, true) if kept.since.load(Ordering::Relaxed) == 0 => kept.waits(true),
            (Way::In, true) => {}
            (Way::In, false) | (Way::Out, true) => kept.waits(false),
            (Way::Out, false) => kept.waits(true),
        }
        polled
    }
    fn is_end_stream(&self) -> bool {
        self.kept.held().as_ref().is_some_and(|held| held.body.is_end_stream())
    }
    fn size_hint(&self) -> SizeHint {
        self.kept.held().as_ref().map(|held| held.body.size_hint()).unwrap_or_default()
    }
}
