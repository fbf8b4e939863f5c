//! What other sites sent here, kept in memory so that nothing is carried out twice, and who lost an answer
//! gets it: [`super::ledger`] behind a lock, and how outcomes are written. Not here: who asks
//! (`again`).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use tokio::sync::Notify;

use super::Caller;
use super::forward::{AHEAD, SMALL_BODY, UNKNOWN};
use super::ledger::{Ask, Begin, ChangeId, KEPT, Ledger, Outcome};
use crate::body::{Body, collect};
use crate::clock::{BootTime, Clock};
use crate::id::SiteId;
use crate::link::Session;
use crate::work;

/// On a forwarded change, and on what asks for its outcome: its [`ChangeId`].
pub const ID: HeaderName = HeaderName::from_static("nearshare-id");
/// On what asks for an outcome: the session in which the change was sent.
pub const SENT: HeaderName = HeaderName::from_static("nearshare-sent");
/// On its answer. Whoever leaves it out knows nothing.
pub const OUTCOME: HeaderName = HeaderName::from_static("nearshare-outcome");
/// The rest is the answer that was given.
pub const ANSWERED: HeaderValue = HeaderValue::from_static("answered");
pub const NOT_BEGUN: HeaderValue = HeaderValue::from_static("not-begun");

/// The most that is kept of one answer, fields included.
const ANSWER_MAX: usize = 16 << 10;
/// What a field takes beside its name and value.
const FIELD_BYTES: usize = 100;

/// Names the changes of this process.
pub struct Ids {
    sender: u128,
    next: AtomicU64,
}

impl Ids {
    pub fn new() -> Self {
        let mut sender = [0; 16];
        work::random(&mut sender);
        Self { sender: u128::from_be_bytes(sender), next: AtomicU64::new(1) }
    }
    pub fn next(&self) -> ChangeId {
        ChangeId { sender: self.sender, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }
}

/// An answer that can be given again.
pub struct Kept {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Kept {
    /// Of an answer that is short enough. Its body is then all there.
    pub async fn of(response: Response<Body>) -> (Response<Body>, Option<Self>) {
        let hint = response.body().size_hint().upper();
        let Some(limit) = hint.filter(|bytes| *bytes <= SMALL_BODY) else { return (response, None) };
        let (mut parts, body) = response.into_parts();
        let body = match collect(body, usize::try_from(limit).unwrap_or(0)).await {
            Ok(body) => body,
            Err(error) => {
                // Whether it was done is in the head.
                tracing::warn!(%error, "the server broke off in the answer to a change");
                parts.headers.remove(header::CONTENT_LENGTH);
                Bytes::new()
            }
        };
        let kept = Self { status: parts.status, headers: parts.headers.clone(), body: body.clone() };
        let kept = (kept.bytes() <= ANSWER_MAX).then(|| kept.apart());
        (Response::from_parts(parts, body.into()), kept)
    }
    /// With memory of its own: what came from a socket is a slice of all that was read with it, which would
    /// be kept as well, and which nobody counts.
    fn apart(mut self) -> Self {
        self.body = Bytes::copy_from_slice(&self.body);
        for value in self.headers.values_mut() {
            if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
                *value = copy;
            }
        }
        self
    }
    fn bytes(&self) -> usize {
        let field =
            |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + FIELD_BYTES;
        self.headers.iter().map(field).sum::<usize>() + self.body.len()
    }
    fn answer(&self) -> Response<Body> {
        let mut response = Response::new(self.body.clone().into());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
        response
    }
}

/// The changes that other sites sent to this process.
pub struct Replay {
    clock: Arc<dyn Clock>,
    sites: Mutex<Sites>,
    ended: Notify,
}

#[derive(Default)]
struct Sites {
    ledgers: BTreeMap<SiteId, Ledger<Arc<Kept>>>,
    /// Somebody comes by to forget what has been kept long enough.
    swept: bool,
}

impl Replay {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, sites: Mutex::default(), ended: Notify::new() }
    }

    fn sites(&self) -> MutexGuard<'_, Sites> {
        self.sites.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<V>(&self, site: &SiteId, look: impl FnOnce(&mut Ledger<Arc<Kept>>, BootTime) -> V) -> V {
        let now = self.clock.boot();
        let ledgers = &mut self.sites().ledgers;
        match ledgers.get_mut(site) {
            Some(ledger) => look(ledger, now),
            None => look(ledgers.entry(site.clone()).or_default(), now),
        }
    }

    /// A site of which nothing more comes is forgotten in its time as well.
    fn sweep(self: &Arc<Self>) {
        if std::mem::replace(&mut self.sites().swept, true) {
            return;
        }
        let replay = Arc::downgrade(self);
        drop(work::spawn(async move {
            loop {
                tokio::time::sleep(KEPT).await;
                if replay.upgrade().is_none_or(|replay| !replay.forget_old()) {
                    return;
                }
            }
        }));
    }

    /// Says whether anything is left.
    fn forget_old(&self) -> bool {
        let now = self.clock.boot();
        let mut sites = self.sites();
        sites.ledgers.values_mut().for_each(|ledger| ledger.forget(now));
        sites.swept = sites.ledgers.values().any(Ledger::keeps_any);
        sites.swept
    }

    /// A change has come. What it must not be carried out for, if so.
    pub fn begin(self: &Arc<Self>, caller: &Caller, id: ChangeId) -> Result<Turn, Begin> {
        match self.with(&caller.site, |ledger, now| ledger.begin(id, caller.session, now)) {
            Begin::Go => Ok(Turn { replay: self.clone(), site: caller.site.clone(), id, open: true }),
            why => Err(why),
        }
    }

    /// What became of a change. Waits while it is under way.
    pub async fn outcome(&self, caller: &Caller, id: ChangeId, sent: Session) -> Response<Body> {
        let others = |(site, ledger): (&SiteId, &Ledger<_>)| *site != caller.site && ledger.is_of(id);
        if self.sites().ledgers.iter().any(others) {
            tracing::warn!(%id, peer = %caller.site, "asked for what became of another site's change");
            return super::answer::text(StatusCode::FORBIDDEN, "another site has sent this change");
        }
        let ask = Ask { id, sent, from: caller.session, since: caller.since };
        let told = loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            match self.with(&caller.site, |ledger, now| ledger.outcome(ask, now)) {
                Outcome::UnderWay => ended.await,
                told => break told,
            }
        };
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::NO_CONTENT;
        match told {
            Outcome::Answered(kept) => {
                response = kept.answer();
                response.headers_mut().insert(OUTCOME, ANSWERED);
            }
            Outcome::NotBegun => drop(response.headers_mut().insert(OUTCOME, NOT_BEGUN)),
            Outcome::UnderWay | Outcome::Unknown => {}
        }
        response
    }

    /// A share is not led here any more: whether what was answered still counts is not known here.
    pub fn forget_all(&self) {
        self.sites().ledgers.values_mut().for_each(Ledger::forget_all);
    }
}

/// A change that is carried out. Dropped without a word, nobody can tell how it ended.
pub struct Turn {
    replay: Arc<Replay>,
    site: SiteId,
    id: ChangeId,
    open: bool,
}

impl Turn {
    /// It has ended; what could be kept of the answer.
    pub fn end(mut self, kept: Option<Kept>) {
        self.open = false;
        self.note(kept);
    }
    fn note(&self, kept: Option<Kept>) {
        let kept = kept.map(|kept| {
            let bytes = kept.bytes();
            (Arc::new(kept), bytes)
        });
        let keeps = kept.is_some();
        self.replay.with(&self.site, |ledger, now| ledger.end(self.id, kept, now));
        self.replay.ended.notify_waiters();
        if keeps {
            self.replay.sweep();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.open {
            self.note(None);
        }
    }
}

/// What may not be carried out is answered so.
pub fn refused(why: &Begin) -> Response<Body> {
    if *why == Begin::Late {
        return super::answer::retry("the link that this came over has been replaced; nothing was done");
    }
    let text = "a change with this nearshare-id has been here already: ask for its outcome";
    let mut response = super::answer::text(StatusCode::GATEWAY_TIMEOUT, text);
    response.headers_mut().insert(AHEAD, UNKNOWN);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::WallTime;
    use crate::relay::seam::Class;
    use std::time::Duration;

    /// Goes with the runtime's.
    struct Running(tokio::time::Instant);
    impl Clock for Running {
        fn boot(&self) -> BootTime {
            BootTime(self.0.elapsed())
        }
        fn wall(&self) -> WallTime {
            WallTime::default()
        }
    }

    #[tokio::test]
    async fn what_is_kept_holds_no_larger_buffer() {
        let read = Bytes::from(vec![b'x'; 64 << 10]);
        let mut response = Response::new(Body::Full(read.slice(..10)));
        let field = HeaderValue::from_maybe_shared(read.slice(10..20)).unwrap();
        response.headers_mut().insert("x-field", field);
        let (response, kept) = Kept::of(response).await;
        drop(response);
        let kept = kept.unwrap();
        assert_eq!((&kept.body[..], kept.headers["x-field"].as_bytes()), (&read[..10], &read[10..20]));
        assert!(read.is_unique());
        // Fields take room of their own.
        let mut many = Response::new(Body::Empty);
        for number in 0..ANSWER_MAX / FIELD_BYTES {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            many.headers_mut().insert(name, HeaderValue::from_static("x"));
        }
        assert!(Kept::of(many).await.1.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_forgotten_in_its_time_though_nothing_more_comes() {
        let clock = Arc::new(Running(tokio::time::Instant::now()));
        let replay = Arc::new(Replay::new(clock));
        let (session, since) = (Session::default(), Session::default());
        let caller = Caller { site: "lyon".parse().unwrap(), class: Class::Control, session, since };
        let kept = || replay.sites().ledgers.values().filter(|ledger| ledger.keeps_any()).count();
        for number in 1..3 {
            let turn = replay.begin(&caller, ChangeId { sender: 1, number }).ok().unwrap();
            turn.end(Kept::of(Response::new(Body::text("done"))).await.1);
            tokio::time::sleep(KEPT / 2).await;
            assert_eq!(kept(), 1);
        }
        tokio::time::sleep(KEPT * 2 + Duration::from_secs(1)).await;
        assert_eq!((kept(), replay.sites().swept), (0, false));
    }
}
