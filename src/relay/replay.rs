//! What other sites sent here, kept in memory so that nothing is carried out twice, and who lost an answer
//! gets it: [`super::ledger`] behind a lock, and how ids and outcomes are written. Not here: who asks
//! (`again`).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::Body as _;
use tokio::sync::Notify;

use super::Caller;
use super::forward::{AHEAD, SMALL_BODY, UNKNOWN};
use super::ledger::{Ask, Begin, ChangeId, Ledger, Outcome};
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

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:016x}", self.sender, self.number)
    }
}

/// No change has such an id: 32 hexadecimal digits, `-`, 16 more.
#[derive(Debug, thiserror::Error)]
#[error("nearshare-id must be 32 hexadecimal digits, a hyphen and 16 more")]
pub struct NoId;

impl FromStr for ChangeId {
    type Err = NoId;
    fn from_str(text: &str) -> Result<Self, NoId> {
        let (sender, number) = text.split_once('-').ok_or(NoId)?;
        let digits = sender.bytes().chain(number.bytes()).all(|byte| byte.is_ascii_hexdigit());
        if !digits || sender.len() != 32 || number.len() != 16 {
            return Err(NoId);
        }
        let sender = u128::from_str_radix(sender, 16).map_err(|_| NoId)?;
        let number = u64::from_str_radix(number, 16).map_err(|_| NoId)?;
        Ok(Self { sender, number })
    }
}

/// A session as [`Session`] is shown.
pub fn session(text: &str) -> Option<Session> {
    let (start, count) = text.split_once('.')?;
    Some(Session(start.parse().ok()?, count.parse().ok()?))
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
        let kept = (kept.bytes() <= ANSWER_MAX).then_some(kept);
        (Response::from_parts(parts, body.into()), kept)
    }
    fn bytes(&self) -> usize {
        let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
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
    sites: Mutex<BTreeMap<SiteId, Ledger<Arc<Kept>>>>,
    ended: Notify,
}

impl Replay {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, sites: Mutex::default(), ended: Notify::new() }
    }

    fn with<V>(&self, site: &SiteId, look: impl FnOnce(&mut Ledger<Arc<Kept>>, BootTime) -> V) -> V {
        let now = self.clock.boot();
        let mut sites: MutexGuard<'_, _> = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        match sites.get_mut(site) {
            Some(ledger) => look(ledger, now),
            None => look(sites.entry(site.clone()).or_default(), now),
        }
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
        let mut sites = self.sites.lock().unwrap_or_else(PoisonError::into_inner);
        sites.values_mut().for_each(Ledger::forget_all);
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
        self.replay.with(&self.site, |ledger, now| ledger.end(self.id, kept, now));
        self.replay.ended.notify_waiters();
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
