//! The two connections of a link and what each may take.

use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;

/// Which of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Small and urgent: journal records, small requests and answers.
    Control,
    /// Content, bodies, long answers.
    Bulk,
}

/// What a connection of a class may take.
pub(super) struct ClassLimits {
    pub streams: u32,
    /// Bytes of one body that may be under way or unread.
    pub window: u32,
    /// Longest HTTP/2 frame: what a small message has to wait for.
    pub frame: u32,
    /// Bytes that a request or answer may have waiting in HTTP/2.
    pub buffer: usize,
    /// A ping so often, and how long its answer may take.
    pub ping: (Duration, Duration),
    /// How long sent bytes may stay without acknowledgement (TCP_USER_TIMEOUT).
    pub unacknowledged: Duration,
    /// Bytes that may wait encrypted in TLS.
    pub sealed: usize,
    /// Bytes that may wait in the kernel without being sent (TCP_NOTSENT_LOWAT).
    pub unsent: u32,
}

/// Longest list of header fields, in bytes.
const HEADERS_MAX: u32 = 64 << 10;
/// Requests that the dialler may cancel before the acceptor has looked at them. A site is trusted, and
/// its clients may all leave at once.
const RESETS_MAX: usize = 1024;

impl ClassLimits {
    /// Bytes of all bodies of a connection that may be under way or unread, and so the most memory that
    /// they take at either end. It is enough for all of them: a body that nobody reads keeps its window
    /// until somebody does, and must not keep another's.
    const fn whole_window(&self) -> u32 {
        self.streams * self.window
    }
}

/// A dead line is noticed within five seconds. A long stream of records must not make a small request
/// wait: on a line of 2 Mbit/s the 16 KiB of its window take 65 ms, what is in TLS and the kernel 16 ms
/// each, and HTTP/2 takes turns with what is behind that. All windows together are 16 MiB.
const CONTROL: ClassLimits = ClassLimits {
    streams: 1024,
    window: 16 << 10,
    frame: 16 << 10,
    buffer: 16 << 10,
    ping: (Duration::from_secs(1), Duration::from_secs(4)),
    unacknowledged: Duration::from_secs(5),
    sealed: 4 << 10,
    unsent: 4 << 10,
};

/// A window for 200 Mbit/s over 80 ms on each request: 2 MB. All together are 512 MiB, which only that
/// many clients who stand still in the middle of a body can fill. Windows are fixed: hyper's adaptive ones
/// give the whole to every stream, so that one slow reader stops all others. Bulk ends with its session's
/// control connection, so its own pings only have to find what kills one of two connections, and may wait
/// behind 128 KiB on a line of 64 kbit/s.
const BULK: ClassLimits = ClassLimits {
    streams: 256,
    window: 2 << 20,
    frame: 64 << 10,
    buffer: 256 << 10,
    ping: (Duration::from_secs(5), Duration::from_secs(20)),
    unacknowledged: Duration::from_secs(20),
    sealed: 64 << 10,
    unsent: 128 << 10,
};

impl Class {
    pub const ALL: [Self; 2] = [Self::Control, Self::Bulk];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Bulk => "bulk",
        }
    }
    pub(super) fn limits(self) -> &'static ClassLimits {
        match self {
            Self::Control => &CONTROL,
            Self::Bulk => &BULK,
        }
    }
    /// The protocol's name in TLS: the acceptor has to know the class before the first request.
    pub(super) fn alpn(self) -> &'static [u8] {
        match self {
            Self::Control => b"nearshare-control",
            Self::Bulk => b"nearshare-bulk",
        }
    }
    pub(super) fn number(self) -> u32 {
        match self {
            Self::Control => 1,
            Self::Bulk => 2,
        }
    }
    pub(super) fn client(self) -> hyper::client::conn::http2::Builder<TokioExecutor> {
        let limits = self.limits();
        let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_connection_window_size(limits.whole_window())
            .initial_stream_window_size(limits.window)
            .max_frame_size(limits.frame)
            .max_header_list_size(HEADERS_MAX)
            .max_send_buf_size(limits.buffer)
            .keep_alive_interval(limits.ping.0)
            .keep_alive_timeout(limits.ping.1)
            .keep_alive_while_idle(true);
        builder
    }
    pub(super) fn server(self) -> hyper::server::conn::http2::Builder<TokioExecutor> {
        let limits = self.limits();
        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .initial_connection_window_size(limits.whole_window())
            .initial_stream_window_size(limits.window)
            .max_concurrent_streams(limits.streams)
            .max_frame_size(limits.frame)
            .max_header_list_size(HEADERS_MAX)
            .max_send_buf_size(limits.buffer)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .keep_alive_interval(limits.ping.0)
            .keep_alive_timeout(limits.ping.1)
            .auto_date_header(false);
        builder
    }
}
