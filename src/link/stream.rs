//! The byte streams under a link's HTTP/2: a TCP socket that can be ended from anywhere and looked at
//! by the pacing, and a layer above TLS that remembers why it broke.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use rustls::AlertDescription;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::Class;
use crate::socket::Socket;

/// Sets what both ends of a connection of this class want of TCP.
pub(super) fn prepare(tcp: &Socket, class: Class) -> io::Result<()> {
    tcp.set_nodelay()?;
    let Some(kernel) = tcp.kernel() else { return Ok(()) };
    let socket = SockRef::from(&kernel);
    socket.set_tcp_user_timeout(Some(class.limits().unacknowledged))?;
    socket.set_tcp_notsent_lowat(class.limits().unsent)
}

/// A TCP socket shared with whoever looks at it; reads and writes fail once `kill` is cancelled.
pub(super) struct Tcp {
    tcp: Arc<Socket>,
    kill: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Tcp {
    pub(super) fn new(tcp: Arc<Socket>, kill: CancellationToken) -> Self {
        Self { tcp, kill: Box::pin(kill.cancelled_owned()) }
    }
    fn killed(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.kill.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "ended here")),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Tcp {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.killed(cx)?;
        this.tcp.poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.tcp.poll_write(cx, buf)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tcp.poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_shutdown(cx)
    }
}

/// Why a stream broke. HTTP/2 reports it as text at best, so it is kept where it is first seen.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub text: String,
    /// What the other side's TLS said, if it did.
    pub alert: Option<AlertDescription>,
    /// It was to show a certificate, and has none.
    pub no_certificate: bool,
}

impl Fault {
    pub(super) fn of(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let alert = match inner {
            Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
            _ => None,
        };
        let text = match (alert, error.kind()) {
            // By its number (RFC 8446, section 6): rustls has names of its own for them.
            (Some(alert), _) => format!("it sent TLS alert {}", u8::from(alert)),
            // rustls says so in its own words, with the address of its manual.
            (None, io::ErrorKind::UnexpectedEof) => "the connection was cut off".to_owned(),
            (None, _) => error.to_string(),
        };
        let no_certificate = matches!(inner, Some(rustls::Error::NoCertificatesPresented));
        Self { text, alert, no_certificate }
    }
}

pub(super) type FaultCell = Arc<OnceLock<Fault>>;

/// A stream that keeps its first error.
pub(super) struct Watched<S> {
    stream: S,
    fault: FaultCell,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S) -> (Self, FaultCell) {
        let fault = FaultCell::default();
        (Self { stream, fault: fault.clone() }, fault)
    }
    fn note<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &result {
            self.fault.get_or_init(|| Fault::of(error));
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.note(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.note(result)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.note(result)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_flush(cx);
        this.note(result)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.note(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_without_goodbye_is_said_in_our_words() {
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ));
        let config = config.with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(rustls::RootCertStore::empty());
        let name = "localhost".try_into().unwrap();
        let mut tls =
            rustls::ClientConnection::new(Arc::new(config.with_no_client_auth()), name).unwrap();
        tls.read_tls(&mut io::empty()).unwrap();
        let error = io::Read::read(&mut tls.reader(), &mut [0]).unwrap_err();
        assert!(error.to_string().contains("https://"), "rustls has changed: {error}");
        assert_eq!(Fault::of(&error).text, "the connection was cut off");
    }
}
