//! The cable between two sites: a TCP relay on loopback that can be cut and healed.

use std::io;
use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// A cable that lies as long as this lives.
pub(super) struct Cable {
    /// Where the dialling site connects to.
    pub address: SocketAddr,
    whole: watch::Sender<bool>,
    _accepting: AbortOnDropHandle<()>,
}

impl Cable {
    /// A cable to `target`. Nothing needs to listen there yet.
    pub async fn lay(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let whole = watch::Sender::new(true);
        let accepting =
            AbortOnDropHandle::new(tokio::spawn(accept(listener, target, whole.subscribe())));
        Ok(Self { address, whole, _accepting: accepting })
    }
    /// Ends every connection and lets none through.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }
    pub fn heal(&self) {
        self.whole.send_replace(true);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, whole: watch::Receiver<bool>) {
    // Two connections a dial: a cut or dropped cable leaves no more than those of the last dial.
    while let Ok((near, _)) = listener.accept().await {
        if *whole.borrow() {
            tokio::spawn(carry(near, target, whole.clone()));
        }
    }
}

async fn carry(mut near: TcpStream, target: SocketAddr, mut whole: watch::Receiver<bool>) {
    let carrying = async {
        let mut far = TcpStream::connect(target).await?;
        near.set_nodelay(true)?;
        far.set_nodelay(true)?;
        copy_bidirectional(&mut near, &mut far).await
    };
    tokio::select! {
        // How a connection ends is its two ends' business.
        _ended = carrying => {}
        _cut = whole.wait_for(|whole| !whole) => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_cut_ends_connections_until_it_is_healed() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cable = Cable::lay(server.local_addr().unwrap()).await.unwrap();
        let mut byte = [0];
        let mut near = TcpStream::connect(cable.address).await.unwrap();
        let mut far = server.accept().await.unwrap().0;
        near.write_all(b"a").await.unwrap();
        far.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"a");

        cable.cut();
        assert!(matches!(near.read(&mut byte).await, Ok(0) | Err(_)));
        assert!(matches!(far.read(&mut byte).await, Ok(0) | Err(_)));
        let mut during = TcpStream::connect(cable.address).await.unwrap();
        assert!(matches!(during.read(&mut byte).await, Ok(0) | Err(_)));

        cable.heal();
        let mut again = TcpStream::connect(cable.address).await.unwrap();
        let mut far = server.accept().await.unwrap().0;
        far.write_all(b"b").await.unwrap();
        again.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"b");
    }
}
