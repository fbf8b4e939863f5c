//! The bodies on a connection: they say whose turn it is, and the answer's gives the connection back
//! when it ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwapOption;
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
    seat: Seat,
    gate: Option<Gate>,
}

/// The connection that an [`Upload`] is on: another one if the first turned out to be closed.
#[derive(Clone, Default)]
pub(super) struct Seat(Arc<ArcSwapOption<Watched>>);

impl Seat {
    pub(super) fn take(&self, watched: &Arc<Watched>) {
        watched.uploading();
        self.0.store(Some(watched.clone()));
    }
    fn tell(&self, what: impl FnOnce(&Watched)) {
        if let Some(watched) = &*self.0.load() {
            what(watched);
        }
    }
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
    /// Once for each request: who answers 100 opens one gate only.
    pub(super) fn seated(mut request: Request<Body>) -> (Request<Body>, Seat) {
        let gate = request.headers().contains_key(header::EXPECT).then(|| Gate::before(&mut request));
        let seat = Seat::default();
        let on = seat.clone();
        (request.map(|body| Body::boxed(Self { body, seat: on, gate })), seat)
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
            Poll::Pending => self.seat.tell(Watched::still_client),
            Poll::Ready(_) => self.seat.tell(Watched::await_server),
        }
        let trailers = matches!(&polled, Poll::Ready(Some(Ok(frame))) if frame.is_trailers());
        let last = trailers || matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        if last && !matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.seat.tell(Watched::uploaded);
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
    lease: Option<Conn>,
}

impl Answer {
    pub(super) fn lease(answer: Response<Incoming>, conn: Conn, in_use: InUse) -> Response<Body> {
        conn.watched.hold(in_use);
        if answer.body().is_end_stream() {
            give_back(conn);
            return answer.map(|_| Body::Empty);
        }
        // It has the head; the server's silence counts from when it asks for more.
        conn.watched.await_client();
        answer.map(|body| Body::boxed(Self { body, lease: Some(conn) }))
    }
    fn end(&mut self) {
        if let Some(conn) = self.lease.take() {
            give_back(conn);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(conn) = &self.lease {
            conn.watched.let_go();
        }
    }
}

/// An answer that came before the whole request was sent leaves a connection that is no use to others.
fn give_back(conn: Conn) {
    // None of one that was ended meanwhile.
    let Some(in_use) = conn.watched.let_go() else { return };
    match &in_use.bond {
        _ if conn.watched.is_uploading() => conn.watched.abort(),
        Some(bond) => bond.put(&in_use.of, conn),
        None => in_use.of.pool.put(conn),
    }
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
            (Poll::Pending, Some(conn)) => conn.watched.still_server(),
            (Poll::Ready(Some(Ok(frame))), Some(conn)) => {
                conn.watched.await_client();
                // Nothing follows trailers, and nobody asks whether something does.
                if frame.is_trailers() || self.body.is_end_stream() {
                    self.end();
                }
            }
            (Poll::Ready(None), Some(_)) => self.end(),
            // A broken connection is not kept.
            (Poll::Ready(Some(Err(_))), Some(conn)) => {
                conn.watched.let_go();
                self.lease = None;
            }
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
