//! Clients that were turned away, by reason: counted, and named in the log so that a flood of them does not
//! become a flood of lines.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use metrics::{Counter, counter};

/// Why a client, or one of its requests, was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The door has as many connections as it takes.
    Full,
    /// The client has as many as one may.
    Many,
    /// It asks more often than one may.
    Often,
    /// It does not get done with a request's head.
    SlowHead,
    /// It stands still in a request's body.
    SlowBody,
    /// It takes nothing of an answer.
    NeverReads,
    /// What it sent is no request, or one that could be read in two ways.
    Malformed,
    /// No TLS came about.
    Handshake,
}

const ALL: [Why; 8] = [
    Why::Full,
    Why::Many,
    Why::Often,
    Why::SlowHead,
    Why::SlowBody,
    Why::NeverReads,
    Why::Malformed,
    Why::Handshake,
];

/// Seconds between two lines of the log for the same reason.
const QUIET: u32 = 10;

impl Why {
    /// The label in metrics and in `status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Many => "connections",
            Self::Often => "rate",
            Self::SlowHead => "slow-head",
            Self::SlowBody => "slow-body",
            Self::NeverReads => "never-reads",
            Self::Malformed => "malformed",
            Self::Handshake => "handshake",
        }
    }
    fn said(self) -> &'static str {
        match self {
            Self::Full => "there are as many connections as the door takes",
            Self::Many => "it has as many connections as one client may (`client_connections`)",
            Self::Often => "it asks more often than one client may (`client_rate`)",
            Self::SlowHead => "it did not get done with the head of a request",
            Self::SlowBody => "it stood still in the body of a request",
            Self::NeverReads => "it took nothing of an answer",
            Self::Malformed => "what it sent is no request, or could be read in two ways",
            Self::Handshake => "no TLS connection came about",
        }
    }
}

/// The counts.
pub struct Tally([Row; ALL.len()]);

struct Row {
    count: AtomicU64,
    counter: Counter,
    /// When the last line was written, from 1 on; 0 if none was.
    said: AtomicU32,
    unsaid: AtomicU64,
}

impl Default for Tally {
    /// The metrics recorder must be installed before: handles are taken here.
    fn default() -> Self {
        Self(ALL.map(|why| Row {
            count: AtomicU64::new(0),
            counter: counter!("nearshare_http_turned_away_total", "reason" => why.as_str()),
            said: AtomicU32::new(0),
            unsaid: AtomicU64::new(0),
        }))
    }
}

impl Tally {
    /// How many were, by reason; reasons that never came up are left out.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counts = ALL.iter().map(|why| (why.as_str(), self.row(*why).count.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// `now`: seconds since the door was opened.
    pub(super) fn turned_away(&self, why: Why, client: SocketAddr, now: u32) {
        let row = self.row(why);
        row.count.fetch_add(1, Ordering::Relaxed);
        row.counter.increment(1);
        let said = row.said.load(Ordering::Relaxed);
        let now = now.saturating_add(1);
        let due = said == 0 || now.saturating_sub(said) >= QUIET;
        if due && row.said.compare_exchange(said, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            let more = row.unsaid.swap(0, Ordering::Relaxed);
            tracing::warn!(%client, more, why = why.as_str(), "client turned away: {}", why.said());
        } else {
            row.unsaid.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn row(&self, why: Why) -> &Row {
        &self.0[why as usize]
    }
}
