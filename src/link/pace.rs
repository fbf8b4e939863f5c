//! Pacing: looks at TCP several times a second and tells the kernel how fast it may send, so that a long
//! transfer on the bulk connection (or a long stream of records on the control connection) does not fill
//! the line's queue in front of small requests. How fast that is, is decided in `rate`. All `unsafe` of
//! the links is here.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::rate::{Rate, Sample, TcpInfo};
use crate::clock::Clock;
use crate::socket::Socket;

/// How often a busy connection is looked at: several times per round trip of a long line.
const TICK: Duration = Duration::from_millis(50);
/// How often one is that is idle or near.
const TICK_IDLE: Duration = Duration::from_millis(250);

/// Bytes of `struct tcp_info` up to and with `tcpi_bytes_retrans` (Linux 4.19).
const INFO: usize = 216;

/// Reads `TCP_INFO`.
pub fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    let mut raw = [0u8; INFO];
    let mut len = libc::socklen_t::try_from(INFO).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while it is borrowed; the kernel writes at most `len` bytes,
    // which is the size of `raw`, and any bytes are valid in it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            raw.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(parse(&raw)) } else { Err(io::Error::last_os_error()) }
}

/// Sets the most that the kernel sends on this connection, in bytes per second; `None` is no limit.
fn set_max_rate(socket: BorrowedFd<'_>, rate: Option<u64>) -> io::Result<()> {
    let rate = rate.unwrap_or(u64::MAX);
    let len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open while it is borrowed; the kernel reads `len` bytes, the size of
    // `rate`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const rate).cast(),
            len,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Offsets are those of `struct tcp_info` in linux/tcp.h, which only ever grows at its end. A field
/// that an older kernel does not have stays zero.
fn parse(raw: &[u8; INFO]) -> TcpInfo {
    let u32_at = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&raw[at..at + 4]);
        u32::from_ne_bytes(bytes)
    };
    let u64_at = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&raw[at..at + 8]);
        u64::from_ne_bytes(bytes)
    };
    let micros = |at| Some(u32_at(at)).filter(|n| *n != u32::MAX).map_or(0, u64::from);
    TcpInfo {
        rtt: Duration::from_micros(micros(68)),
        min_rtt: Duration::from_micros(micros(148)),
        delivery_rate: u64_at(160),
        app_limited: raw[7] & 1 != 0,
        retransmitted: u64_at(208),
        sent: u64_at(200),
        not_sent: u32_at(144),
        unacked: u32_at(24),
    }
}

/// Paces a connection until it is gone. Does nothing where the other side is near.
pub(super) async fn run(tcp: Weak<Socket>, clock: Arc<dyn Clock>) {
    let mut rate = Rate::default();
    let mut told = None;
    while let Some(tcp) = tcp.upgrade() {
        let Some(socket) = tcp.kernel() else { return };
        let Ok(info) = tcp_info(socket) else { return };
        let now = clock.boot().0;
        let allowed = rate.next(&Sample { now, info });
        if allowed != told {
            if let Err(error) = set_max_rate(socket, allowed) {
                tracing::warn!(%error, "cannot pace a link: a long transfer may delay small requests");
                return;
            }
            told = allowed;
        }
        let idle = info.not_sent == 0 && info.unacked == 0;
        drop(tcp);
        tokio::time::sleep(if idle || allowed.is_none() { TICK_IDLE } else { TICK }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn the_kernel_tells_what_it_did() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut there, _) = listener.accept().unwrap();
        here.write_all(&[0; 1000]).unwrap();
        there.read_exact(&mut [0; 1000]).unwrap();
        there.write_all(b"x").unwrap();
        here.read_exact(&mut [0; 1]).unwrap();
        let info = tcp_info(here.as_fd()).unwrap();
        assert_eq!((info.sent, info.retransmitted, info.not_sent), (1000, 0, 0));
        assert!(info.rtt > Duration::ZERO && info.rtt < Duration::from_secs(1), "{info:?}");
        assert!(info.min_rtt <= info.rtt, "{info:?}");
    }

    #[test]
    fn the_kernel_keeps_to_the_rate() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        for rate in [Some(250_000), None] {
            set_max_rate(here.as_fd(), rate).unwrap();
            let mut raw = 0u64;
            let mut len = 8;
            // SAFETY: as in `tcp_info`; the kernel writes at most 8 bytes to `raw`.
            let result = unsafe {
                libc::getsockopt(
                    here.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_MAX_PACING_RATE,
                    (&raw mut raw).cast(),
                    &raw mut len,
                )
            };
            assert_eq!((result, raw), (0, rate.unwrap_or(u64::MAX)));
        }
    }
}
