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

/// Who sends for longer is cut off (nginx' `lingering_time`).
const LINGER: Duration = Duration::from_secs(30);

/// A body that is read on when whoever had it has enough.
struct Lent {
    body: Option<Incoming>,
    /// Somebody asked for it, and so it is sent.
    asked: Arc<AtomicBool>,
}

/// Of a sender that waits to be asked: whether it was. For the head of the answer.
#[derive(Default)]
pub struct Unasked(Option<Arc<AtomicBool>>);

/// Lends what came with `head` over HTTP/1.
pub fn lend(head: &HeaderMap, body: Incoming) -> (Body, Unasked) {
    if body.is_end_stream() {
        return (Body::Empty, Unasked::default());
    }
    // The sender sends nothing before it is asked to (RFC 9110 section 10.1.1).
    let waits = head.contains_key(header::EXPECT);
    let asked = Arc::new(AtomicBool::new(!waits));
    let unasked = Unasked(waits.then(|| asked.clone()));
    (Body::boxed(Lent { body: Some(body), asked }), unasked)
}

impl Unasked {
    /// Says that the connection ends, if the body was never asked for: whether it still comes, nobody knows.
    pub fn say(self, answer: &mut HeaderMap) {
        if self.0.is_some_and(|asked| !asked.load(Ordering::Relaxed)) {
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
        self.asked.store(true, Ordering::Relaxed);
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            None => Poll::Ready(None),
        }
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
        if !self.asked.load(Ordering::Relaxed) || body.is_end_stream() {
            return;
        }
        // While the runtime ends there is none, and the connection ends too.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let away = async move { while let Some(Ok(_)) = body.frame().await {} };
            runtime.spawn(async { tokio::time::timeout(LINGER, away).await });
        }
    }
}
