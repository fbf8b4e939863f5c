//! What is left of a request that was answered before all of it had come: it is read on for a while and
//! thrown away, as other servers do. Else the connection closes while it is still being sent, and the
//! sender hears of that instead of the answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;

/// Who sends for longer is cut off (nginx' `lingering_time`).
const LINGER: Duration = Duration::from_secs(30);

/// A body that comes back when whoever reads it has enough.
pub struct Lent<B> {
    body: Option<B>,
    /// Somebody asked for it, and so it was sent.
    asked: bool,
    back: Option<oneshot::Sender<B>>,
}

/// What may come back.
pub struct Rest<B>(oneshot::Receiver<B>);

/// `waits`: the sender sends nothing before it is asked to (RFC 9110 section 10.1.1).
pub fn lend<B>(body: B, waits: bool) -> (Lent<B>, Rest<B>) {
    let (back, rest) = oneshot::channel();
    (Lent { body: Some(body), asked: !waits, back: Some(back) }, Rest(rest))
}

impl<B: Body<Data = Bytes> + Unpin + Send + 'static> Rest<B> {
    /// After the answer is known.
    pub fn throw_away(mut self) {
        if let Ok(mut body) = self.0.try_recv()
            && !body.is_end_stream()
        {
            let away = async move { while let Some(Ok(_)) = body.frame().await {} };
            tokio::spawn(tokio::time::timeout(LINGER, away));
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Lent<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.asked = true;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }
    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }
    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

impl<B> Drop for Lent<B> {
    fn drop(&mut self) {
        if let (true, Some(body), Some(back)) = (self.asked, self.body.take(), self.back.take()) {
            // Nobody waits for it: it goes with this.
            let _ = back.send(body);
        }
    }
}
