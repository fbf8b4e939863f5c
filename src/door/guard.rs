//! One client's bytes on their way to hyper: only whole requests that can be read in one way get there. Of
//! one that cannot, hyper sees a harmless one in its place, whose turn it is to be refused, so that answers
//! keep their order. Also notes who keeps whom waiting (see [`Watched`]).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::watch::{Waits, Watched};
use crate::wire::http::framing::{Fault, Framing, HeadLimits};

/// What HTTP/2 begins with (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// In the place of a request that is refused.
const INSTEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n";
/// Room for what follows the beginning of a head.
const MORE: usize = 4096;

/// A connection of which only what is understood is read.
pub(super) struct Guard<I> {
    inner: I,
    mode: Mode,
    /// What was read and is not handed on yet; its first `ready` bytes may be.
    held: BytesMut,
    ready: usize,
    watched: Arc<Watched>,
}

enum Mode {
    /// HTTP/1, with the number of heads handed on.
    Looking(Framing, u64),
    /// Not ours to understand: HTTP/2.
    Through,
    /// After a fault in a head: whatever comes is thrown away.
    Deaf,
    /// After a fault in a body.
    Broken(Fault),
}

/// Which HTTP a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    One,
    Two,
}

impl<I: AsyncRead + AsyncWrite + Unpin> Guard<I> {
    pub(super) fn new(inner: I, limits: HeadLimits, watched: Arc<Watched>) -> Self {
        let mode = Mode::Looking(Framing::new(limits), 0);
        Self { inner, mode, held: BytesMut::new(), ready: 0, watched }
    }

    /// Lets everything through.
    pub(super) fn open(&mut self) {
        self.mode = Mode::Through;
        self.ready = self.held.len();
    }

    /// Reads as much as tells which HTTP this is; what ends before that is HTTP/1.
    pub(super) async fn hear(&mut self) -> io::Result<Speaks> {
        loop {
            let known = self.held.len().min(PREFACE.len());
            if self.held[..known] != PREFACE[..known] {
                break;
            }
            if known == PREFACE.len() {
                return Ok(Speaks::Two);
            }
            self.held.reserve(MORE);
            if self.inner.read_buf(&mut self.held).await? == 0 {
                break;
            }
        }
        self.look();
        Ok(Speaks::One)
    }

    /// Looks at what is held.
    fn look(&mut self) {
        let Mode::Looking(framing, heads) = &mut self.mode else { return };
        let (good, fault) = framing.pass(&self.held[self.ready..], heads);
        self.ready += good;
        if let Some(fault) = fault {
            self.refuse(fault);
        }
    }

    fn refuse(&mut self, fault: Fault) {
        let heads = if let Mode::Looking(_, heads) = self.mode { heads } else { 0 };
        self.held.truncate(self.ready);
        if fault.in_body() {
            self.mode = Mode::Broken(fault);
        } else {
            self.held.extend_from_slice(INSTEAD);
            self.ready = self.held.len();
            self.mode = Mode::Deaf;
        }
        self.watched.refused(heads, fault);
    }

    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        let fits = self.ready.min(buf.remaining());
        buf.put_slice(&self.held[..fits]);
        self.held.advance(fits);
        self.ready -= fits;
        if self.held.is_empty() {
            // A connection that waits for a request holds no memory.
            self.held = BytesMut::new();
        }
    }

    /// What is waited for while nothing comes.
    fn waits(&self) -> Waits {
        match &self.mode {
            Mode::Looking(framing, _) if framing.in_body() => Waits::Body,
            Mode::Looking(..) if !self.held.is_empty() => Waits::Head,
            _ => Waits::Nothing,
        }
    }

    /// Reads straight into hyper's buffer; what is no whole of its kind is taken out again and held.
    /// Gives whether anything came.
    fn poll_fresh(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<bool>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let came = buf.filled().len() > before;
        let Mode::Looking(framing, heads) = &mut self.mode else { return Poll::Ready(Ok(came)) };
        let (good, fault) = framing.pass(&buf.filled()[before..], heads);
        if before + good < buf.filled().len() || fault.is_some() {
            self.held.extend_from_slice(&buf.filled()[before + good..]);
            buf.set_filled(before + good);
        }
        if let Some(fault) = fault {
            self.refuse(fault);
        }
        Poll::Ready(Ok(came))
    }

    /// Throws away what still comes, until the client is done.
    fn poll_deaf(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scrap = [0; 1024];
        for _ in 0..SCRAPS {
            let mut scrap = ReadBuf::new(&mut scrap);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut scrap))?;
            if scrap.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        // It goes on and on: as if it had ended.
        Poll::Ready(Ok(()))
    }
}

/// So much is thrown away at once.
const SCRAPS: usize = 64;

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            if this.ready > 0 {
                this.deliver(buf);
                return Poll::Ready(Ok(()));
            }
            let read = match &this.mode {
                Mode::Broken(fault) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, *fault)));
                }
                Mode::Deaf => return this.poll_deaf(cx),
                _ if this.held.is_empty() => this.poll_fresh(cx, buf),
                _ => {
                    this.held.reserve(MORE);
                    poll_read_buf(Pin::new(&mut this.inner), cx, &mut this.held).map_ok(|read| read > 0)
                }
            };
            let Poll::Ready(read) = read else {
                this.watched.read_waits(this.waits());
                return Poll::Pending;
            };
            if !read? {
                // The client is done; half a head is none.
                return Poll::Ready(Ok(()));
            }
            if this.waits() != Waits::Head {
                this.watched.read_waits(Waits::Nothing);
            }
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
            if this.ready == 0 {
                this.look();
            }
        }
    }
}

impl<I: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watched.write_waits(written.is_pending());
        written
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watched.write_waits(written.is_pending());
        written
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if flushed.is_pending() {
            self.watched.write_waits(true);
        }
        flushed
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        if let (Poll::Ready(Ok(())), Mode::Deaf | Mode::Broken(_)) = (&shut, &self.mode) {
            // What is not read when the socket is closed would take the answer back from the client.
            let _scrap = self.poll_deaf(cx);
        }
        shut
    }
}
