//! What is left of a request that is answered before all of it has come: it is read on for a while and
//! thrown away, as other servers do. Else the connection closes while it is still being sent, and the
//! sender hears of that instead of the answer (RFC 9112 section 9.6).

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};

use super::{Body, BoxError};
use crate::work;

/// Who sends for longer, or is silent for so long, is cut off (nginx' `lingering_time` and `lingering_timeout`).
const LINGER: Duration = Duration::from_secs(30);
const SILENCE: Duration = Duration::from_secs(5);
/// Of whom nothing is wanted at all no more than this is taken: what he may have sent before he heard so.
pub const UNWANTED_MAX: u64 = 1 << 20;

/// A body that is read on when whoever had it has enough.
struct Lent {
    body: Option<Incoming>,
    /// It comes by itself, or was asked for.
    wanted: bool,
    /// Bytes that are read on at most.
    most: u64,
    /// Some of it is here.
    came: Arc<AtomicBool>,
}

/// Of a sender that waits to be asked: whether something came. For the head of the answer.
#[derive(Default)]
pub struct Unasked(Option<Arc<AtomicBool>>);

/// Lends what came with `head` over HTTP/1, of which at most so many bytes are read on.
pub fn lend(head: &HeaderMap, body: Incoming, most: u64) -> (Body, Unasked) {
    if body.is_end_stream() {
        return (Body::Empty, Unasked::default());
    }
    // The sender sends nothing before it is asked to (RFC 9110 section 10.1.1).
    let waits = head.contains_key(header::EXPECT);
    let came = Arc::new(AtomicBool::new(false));
    let unasked = Unasked(waits.then(|| came.clone()));
    (Body::boxed(Lent { body: Some(body), wanted: !waits, most, came }), unasked)
}

impl Unasked {
    /// Says that the connection ends, if nothing of the body has come: whether it was asked for in time, and still
    /// comes, nobody knows.
    pub fn say(self, answer: &mut HeaderMap) {
        if self.0.is_some_and(|came| !came.load(Ordering::Relaxed)) {
            answer.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.wanted = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if matches!(polled, Poll::Ready(Some(Ok(_)))) {
            self.came.store(true, Ordering::Relaxed);
        }
        polled.map_err(Into::into)
    }
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        // While the runtime ends there is none, and the connection ends too.
        if !self.wanted || body.is_end_stream() || tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let mut most = self.most;
        work::spawn(tokio::time::timeout(LINGER, async move {
            while let Ok(Some(Ok(frame))) = tokio::time::timeout(SILENCE, body.frame()).await {
                let taken = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(left) = most.checked_sub(taken) else { return };
                most = left;
            }
        }));
    }
}
