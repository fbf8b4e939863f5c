//! TCP, as the rooms that connect and accept ask for it. Outside a simulation of the network these are
//! tokio's own sockets; within one they are turmoil's, so that links and doors run under it as they are.
//!
//! Not here: what travels on a connection, and when one is given up.

use std::io::{self, IoSlice};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// A connection. Read and written through a shared reference, so that others may look at it meanwhile.
pub enum Socket {
    Tcp(TcpStream),
    #[cfg(test)]
    Model(model::Stream),
}

/// Where connections come in.
pub enum Listener {
    Tcp(TcpListener),
    #[cfg(test)]
    Model(turmoil::net::TcpListener),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}
impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

/// What to do about an address that cannot be listened on.
pub fn cannot_listen(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program listens there: stop it, or put another address into the map"
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: put one of its own into the map"
        }
        io::ErrorKind::PermissionDenied => {
            "this user may not: become root, or give nearshare CAP_NET_BIND_SERVICE for ports below 1024"
        }
        _ => "put right the address in the map",
    }
}

impl Listener {
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        #[cfg(test)]
        if model::is_simulated() {
            return turmoil::net::TcpListener::bind(address).await.map(Self::Model);
        }
        TcpListener::bind(address).await.map(Self::Tcp)
    }

    pub async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        match self {
            Self::Tcp(listener) => {
                listener.accept().await.map(|(stream, from)| (Socket::Tcp(stream), from))
            }
            #[cfg(test)]
            Self::Model(listener) => {
                listener.accept().await.map(|(stream, from)| (Socket::Model(stream.into()), from))
            }
        }
    }

    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            #[cfg(test)]
            Self::Model(listener) => listener.local_addr(),
        }
    }
}

impl Socket {
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        #[cfg(test)]
        if model::is_simulated() {
            return turmoil::net::TcpStream::connect(address).await.map(|it| Self::Model(it.into()));
        }
        TcpStream::connect(address).await.map(Self::Tcp)
    }

    /// The kernel's socket, for options and figures; a simulated network has none.
    pub fn kernel(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tcp(stream) => Some(stream.as_fd()),
            #[cfg(test)]
            Self::Model(_) => None,
        }
    }

    pub fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nodelay(true),
            #[cfg(test)]
            Self::Model(_) => Ok(()),
        }
    }

    /// Writes what fits into the socket's buffer at once.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            #[cfg(test)]
            Self::Model(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = match self {
            Self::Tcp(stream) => stream,
            #[cfg(test)]
            Self::Model(stream) => return stream.with(|stream| stream.poll_read(cx, buf)),
        };
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read_buf(buf) {
                Ok(_) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_write_with(stream, cx, |stream| stream.try_write(bytes)),
            #[cfg(test)]
            Self::Model(stream) => stream.with(|stream| stream.poll_write(cx, bytes)),
        }
    }

    pub fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => poll_write_with(stream, cx, |stream| stream.try_write_vectored(bytes)),
            #[cfg(test)]
            Self::Model(stream) => {
                let first = bytes.iter().find(|bytes| !bytes.is_empty()).map_or(&[][..], |it| it);
                stream.with(|stream| stream.poll_write(cx, first))
            }
        }
    }

    /// Nothing more is written.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = &cx;
        match self {
            Self::Tcp(stream) => Poll::Ready(SockRef::from(stream).shutdown(Shutdown::Write)),
            #[cfg(test)]
            Self::Model(stream) => stream.with(|stream| stream.poll_shutdown(cx)),
        }
    }
}

fn poll_write_with(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    write: impl Fn(&TcpStream) -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match write(stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(result),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Self::poll_read(&self, cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(&self, cx, buf)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Self::poll_write_vectored(&self, cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_shutdown(&self, cx)
    }
}

#[cfg(test)]
mod model {
    use std::pin::Pin;
    use std::sync::{Mutex, PoisonError};

    /// Whether a simulated host runs this.
    pub fn is_simulated() -> bool {
        turmoil::sim_elapsed().is_some()
    }

    /// turmoil's stream, which is read and written by who has it alone.
    pub struct Stream(Mutex<turmoil::net::TcpStream>);

    impl From<turmoil::net::TcpStream> for Stream {
        fn from(stream: turmoil::net::TcpStream) -> Self {
            Self(Mutex::new(stream))
        }
    }

    impl Stream {
        pub fn with<R>(&self, run: impl FnOnce(Pin<&mut turmoil::net::TcpStream>) -> R) -> R {
            run(Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)))
        }
    }
}
