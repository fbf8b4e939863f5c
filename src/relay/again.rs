//! A change on its way over the link. When the link breaks before the answer, the primary's site is asked,
//! as soon as it can be reached again, what became of it: it gives the answer again, or says that the
//! change was never begun and will not be, and only then is it sent again. A body that is not kept cannot
//! be, but its outcome can be asked for all the same.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body::Body as _;

use super::Away;
use super::forward::SMALL_BODY;
use super::ledger::ChangeId;
use super::replay::{ANSWERED, ID, NOT_BEGUN, OUTCOME, SENT};
use super::seam::{Class, WireError};
use crate::body::{Body, CollectError, collect};
use crate::id::ShareId;
use crate::link::Session;

/// How long the primary's site is tried to be reached again, from when it was seen that the link has broken:
/// that takes up to 5 s, and most clients wait for 30 s. A link that comes back is dialled again within
/// twice its last pause, which grows from 100 ms.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two tries on a link that takes no request although it is there.
const PAUSE: Duration = Duration::from_millis(100);
/// Most times one change is sent.
const SENDS: usize = 3;

/// A change's body.
pub enum Payload {
    Small(Bytes),
    /// Of any size: nothing of it is kept.
    Large(Body),
}

impl Payload {
    /// A body that is known to be small is waited for.
    pub async fn of(headers: &HeaderMap, body: Body) -> Result<Self, CollectError> {
        let small = body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL_BODY);
        if !small || headers.contains_key(header::TRAILER) {
            return Ok(Self::Large(body));
        }
        let limit = usize::try_from(SMALL_BODY).unwrap_or(usize::MAX);
        Ok(Self::Small(collect(body, limit).await?))
    }
    pub fn body(self) -> Body {
        match self {
            Self::Small(bytes) if bytes.is_empty() => Body::Empty,
            Self::Small(bytes) => bytes.into(),
            Self::Large(body) => body,
        }
    }
    fn again(&self) -> Option<Self> {
        match self {
            Self::Small(bytes) => Some(Self::Small(bytes.clone())),
            Self::Large(_) => None,
        }
    }
}

/// What the primary's site knows of a change.
enum Told {
    Answered(Response<Body>),
    NotBegun,
    Unknown,
}

impl Told {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Answered(_) => "answered",
            Self::NotBegun => "not_begun",
            Self::Unknown => "unknown",
        }
    }
}

/// How often what was told since the start, of changes whose link broke before the answer.
#[derive(Default)]
pub struct Lost {
    answered: AtomicU64,
    not_begun: AtomicU64,
    unknown: AtomicU64,
}

impl Lost {
    fn note(&self, told: &Told) {
        let count = match told {
            Told::Answered(_) => &self.answered,
            Told::NotBegun => &self.not_begun,
            Told::Unknown => &self.unknown,
        };
        count.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("nearshare_changes_lost_total", "outcome" => told.as_str()).increment(1);
    }
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counts =
            [("answered", &self.answered), ("not_begun", &self.not_begun), ("unknown", &self.unknown)];
        counts.into_iter().map(|(told, count)| (told, count.load(Ordering::Relaxed))).collect()
    }
}

/// A change by its id, and where it is counted if its link breaks.
pub struct Sent {
    pub id: ChangeId,
    pub lost: Arc<Lost>,
}

/// Sends a change to the primary's site. `client` is there while somebody waits for the answer.
pub async fn send(
    away: &Away,
    share: &ShareId,
    class: Class,
    Sent { id, lost }: Sent,
    mut parts: Parts,
    payload: Payload,
    client: &Weak<()>,
) -> Result<Response<Body>, WireError> {
    let question = question(share, id, &mut parts.headers)?;
    let mut next = Some(payload);
    let mut sends = 0;
    let mut patience = None;
    loop {
        let Some(payload) = next.take() else {
            return Err(WireError::NotSent("the link broke before the change had come".into()));
        };
        next = payload.again().filter(|_| sends + 1 < SENDS);
        sends += 1;
        let sent = away.wire.send(class, Request::from_parts(parts.clone(), payload.body())).await;
        let Err(WireError::Lost { session, why }) = sent else { return sent };
        let patience = patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
        let told = loop {
            tokio::select! {
                biased;
                () = patience.as_mut() => break Told::Unknown,
                there = away.wire.reached() => if !there { break Told::Unknown },
            }
            if let Some(told) = ask(away, question.clone(), session).await {
                break told;
            }
            tokio::time::sleep(PAUSE).await;
        };
        lost.note(&told);
        tracing::debug!(%share, peer = %away.site, %id, outcome = told.as_str(), "no answer came to a change");
        match told {
            Told::Answered(response) => return Ok(response),
            Told::Unknown => return Err(WireError::Lost { session, why }),
            // Whoever has gone may have made another one meanwhile.
            Told::NotBegun if client.strong_count() == 0 => next = None,
            Told::NotBegun => {}
        }
    }
}

/// What asks for the outcome. The change itself gets its id.
fn question(share: &ShareId, id: ChangeId, headers: &mut HeaderMap) -> Result<Parts, WireError> {
    let unwritable = |error: &dyn std::fmt::Display| WireError::NotSent(error.to_string());
    let id = HeaderValue::try_from(id.to_string()).map_err(|error| unwritable(&error))?;
    let path = format!("/v1/share/{share}/outcome");
    let mut question = Request::new(());
    *question.method_mut() = Method::POST;
    *question.uri_mut() = Uri::try_from(path).map_err(|error| unwritable(&error))?;
    question.headers_mut().insert(ID, id.clone());
    headers.insert(ID, id);
    Ok(question.into_parts().0)
}

/// Asks once; `None`: it could not be asked.
async fn ask(away: &Away, mut question: Parts, sent: Session) -> Option<Told> {
    let sent = HeaderValue::try_from(sent.to_string()).ok()?;
    question.headers.insert(SENT, sent);
    let question = Request::from_parts(question, Body::Empty);
    let mut response = away.wire.send(Class::Control, question).await.ok()?;
    Some(match response.headers_mut().remove(OUTCOME) {
        Some(told) if told == ANSWERED => Told::Answered(response),
        Some(told) if told == NOT_BEGUN => Told::NotBegun,
        _ => Told::Unknown,
    })
}
