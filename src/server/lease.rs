//! The bodies on a connection: they say whose turn it is, and the answer's gives the connection back
//! when it ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::watch::Watched;
use super::{Conn, InUse};
use crate::body::{Body, BoxError};

/// How long a request with `Expect: 100-continue` waits for the server to say so before it sends its
/// body all the same (RFC 9110 section 10.1.1: a server may never have heard of it).
const CONTINUE_AFTER: Duration = Duration::from_secs(1);

/// What the client sends.
pub(super) struct Upload {
    body: Body,
    watched: Arc<Watched>,
    gate: Option<Gate>,
}

/// Keeps a body back until the server has asked for it.
struct Gate {
    asked: oneshot::Receiver<()>,
    /// The answer has come without it: nobody wants the body any more.
    shut: bool,
    anyway: Pin<Box<Sleep>>,
}

impl Gate {
    fn before(request: &mut Request<Body>) -> Self {
        let (ask, asked) = oneshot::channel();
        let ask = Mutex::new(Some(ask));
        hyper::ext::on_informational(request, move |answer| {
            if answer.status() == StatusCode::CONTINUE {
                let ask = ask.lock().unwrap_or_else(PoisonError::into_inner).take();
                // Nobody waits any more: the body is on its way, or the exchange is over.
                ask.map(|ask| ask.send(()).ok());
            }
        });
        Self { asked, shut: false, anyway: Box::pin(tokio::time::sleep(CONTINUE_AFTER)) }
    }
    fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        if self.shut {
            return false;
        }
        match Pin::new(&mut self.asked).poll(cx) {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(_)) => {
                self.shut = true;
                false
            }
            Poll::Pending => self.anyway.as_mut().poll(cx).is_ready(),
        }
    }
}

impl Upload {
    pub(super) fn watched(mut request: Request<Body>, watched: Arc<Watched>) -> Request<Body> {
        watched.uploading();
        let gate = request.headers().contains_key(header::EXPECT).then(|| Gate::before(&mut request));
        request.map(|body| Body::boxed(Self { body, watched, gate }))
    }
}

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.gate.as_mut().is_some_and(|gate| !gate.is_open(cx)) {
            return Poll::Pending;
        }
        self.gate = None;
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending => self.watched.still_client(),
            Poll::Ready(_) => self.watched.await_server(),
        }
        let trailers = matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_trailers());
        let last = trailers || matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        if last && !matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.watched.uploaded();
        }
        polled
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the server sends.
pub(super) struct Answer {
    body: Incoming,
    /// Until the body has ended. Dropped before, the connection is closed.
    lease: Option<(Conn, InUse)>,
}

impl Answer {
    pub(super) fn lease(answer: Response<Incoming>, conn: Conn, in_use: InUse) -> Response<Body> {
        if answer.body().is_end_stream() {
            give_back(conn, in_use);
            return answer.map(|_| Body::Empty);
        }
        answer.map(|body| Body::boxed(Self { body, lease: Some((conn, in_use)) }))
    }
    fn end(&mut self) {
        if let Some((conn, in_use)) = self.lease.take() {
            give_back(conn, in_use);
        }
    }
}

/// An answer that came before the whole request was sent leaves a connection that is no use to others.
fn give_back(conn: Conn, in_use: InUse) {
    if conn.watched.is_uploading() { conn.watched.abort() } else { in_use.0.pool.put(conn) }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BoxError;
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match (&polled, &self.lease) {
            (Poll::Pending, Some((conn, _))) => conn.watched.still_server(),
            (Poll::Ready(Some(Ok(frame))), Some((conn, _))) => {
                conn.watched.await_client();
                // Nothing follows trailers, and nobody asks whether something does.
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.end();
                }
            }
            (Poll::Ready(None), Some(_)) => self.end(),
            // A broken connection is not kept.
            (Poll::Ready(Some(Err(_))), Some(_)) => self.lease = None,
            (_, None) => {}
        }
        polled.map_err(Into::into)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
