//! Connections that are refused, by us or by the other side: one log line each that says who, why and
//! what to do, a metric, and counters for `status`. Not here: the checks (`verify`, `hello`).

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use serde::Serialize;

use crate::clock::{BootTime, Clock, WallTime};
use crate::id::SiteId;

/// The same refusal of the same address is logged once in this time.
const QUIET: Duration = Duration::from_secs(10);
/// How many (reason, address) pairs are remembered for that; the oldest is forgotten first.
const REMEMBERED: usize = 1024;
/// How many refusals `status` shows, the latest.
const SHOWN: usize = 16;

/// Why a connection is refused; the label of `nearshare_link_refused_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The certificate is not from our CA, or no certificate was shown.
    Stranger,
    Expired,
    NotYetValid,
    /// Our CA's certificate, but it names no site.
    NoSite,
    /// A site that our map does not have.
    NotInMap,
    /// We dialled one site and another answered.
    OtherSite,
    /// Not TLS 1.3, not our protocol, or broken off on the way.
    Handshake,
    /// The other side refuses us.
    RefusedUs,
    /// The cluster secrets differ.
    Secret,
    /// No common protocol version.
    Version,
    /// No hello, or one that makes no sense.
    Hello,
    /// A session that a newer one has replaced.
    Session,
    /// Too many connections that have not said hello.
    TooMany,
}

impl Reason {
    /// All that there are, in the order of the enum.
    pub const ALL: [Self; 13] = [
        Self::Stranger,
        Self::Expired,
        Self::NotYetValid,
        Self::NoSite,
        Self::NotInMap,
        Self::OtherSite,
        Self::Handshake,
        Self::RefusedUs,
        Self::Secret,
        Self::Version,
        Self::Hello,
        Self::Session,
        Self::TooMany,
    ];
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::NoSite => "no_site",
            Self::NotInMap => "not_in_map",
            Self::OtherSite => "other_site",
            Self::Handshake => "handshake",
            Self::RefusedUs => "refused_us",
            Self::Secret => "secret",
            Self::Version => "version",
            Self::Hello => "hello",
            Self::Session => "session",
            Self::TooMany => "too_many",
        }
    }
}

/// One refusal: why, and what whoever reads it should do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}; {fix}")]
pub struct Refusal {
    pub reason: Reason,
    /// Who the other side says it is, if it says so at all. Not proven.
    pub claims: Option<SiteId>,
    pub why: String,
    pub fix: String,
}

/// A refusal as `status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct Refused {
    /// Milliseconds since 1970-01-01 UTC.
    pub at_unix_ms: i64,
    pub address: SocketAddr,
    pub claims: Option<SiteId>,
    pub reason: Reason,
    pub why: String,
    pub fix: String,
}

/// All refusals of this process.
#[derive(Default)]
pub struct Refusals(Mutex<Book>);

#[derive(Default)]
struct Book {
    counts: BTreeMap<Reason, u64>,
    latest: VecDeque<Refused>,
    logged: BTreeMap<(Reason, IpAddr), BootTime>,
}

impl Refusals {
    /// Counts a refusal, and logs it unless the same was logged a moment ago.
    pub fn note(&self, clock: &dyn Clock, address: SocketAddr, refusal: &Refusal) {
        metrics::counter!("nearshare_link_refused_total", "reason" => refusal.reason.as_str())
            .increment(1);
        if !self.book(clock.boot(), clock.wall(), address, refusal) {
            return;
        }
        let claims = refusal.claims.as_ref().map_or("nobody", SiteId::as_str);
        let Refusal { reason, why, fix, .. } = refusal;
        tracing::warn!(%address, claims, reason = reason.as_str(), "link refused: {why}; {fix}");
    }
    /// How many there were of each kind.
    pub fn counts(&self) -> BTreeMap<Reason, u64> {
        self.lock().counts.clone()
    }
    /// The latest ones, oldest first.
    pub fn latest(&self) -> Vec<Refused> {
        self.lock().latest.iter().cloned().collect()
    }
    /// Whether to log it.
    fn book(&self, now: BootTime, wall: WallTime, address: SocketAddr, refusal: &Refusal) -> bool {
        let mut book = self.lock();
        *book.counts.entry(refusal.reason).or_default() += 1;
        let key = (refusal.reason, address.ip());
        if book.logged.get(&key).is_some_and(|then| now.since(*then) < QUIET) {
            return false;
        }
        if book.logged.len() >= REMEMBERED {
            book.logged.retain(|_, then| now.since(*then) < QUIET);
        }
        if book.logged.len() >= REMEMBERED
            && let Some(oldest) = book.logged.iter().min_by_key(|(_, then)| **then).map(|(k, _)| *k)
        {
            book.logged.remove(&oldest);
        }
        book.logged.insert(key, now);
        if book.latest.len() == SHOWN {
            book.latest.pop_front();
        }
        let Refusal { reason, claims, why, fix } = refusal.clone();
        let at_unix_ms = wall.0 / 1_000_000;
        book.latest.push_back(Refused { at_unix_ms, address, claims, reason, why, fix });
        true
    }
    fn lock(&self) -> std::sync::MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    fn refusal(reason: Reason) -> Refusal {
        Refusal { reason, claims: None, why: "why".into(), fix: "fix".into() }
    }

    #[test]
    fn the_same_refusal_is_logged_once_in_ten_seconds() {
        let refusals = Refusals::default();
        let book = |second, address: &str, reason| {
            let address = address.parse().unwrap();
            refusals.book(at(second), WallTime(0), address, &refusal(reason))
        };
        assert!(book(0, "10.0.0.1:1", Reason::Stranger));
        assert!(!book(9, "10.0.0.1:2", Reason::Stranger));
        assert!(book(9, "10.0.0.1:2", Reason::Expired));
        assert!(book(9, "10.0.0.2:1", Reason::Stranger));
        assert!(book(10, "10.0.0.1:3", Reason::Stranger));
        assert_eq!(refusals.counts()[&Reason::Stranger], 4);
        assert_eq!(refusals.latest().len(), 4);
    }

    #[test]
    fn a_flood_of_addresses_is_not_remembered_for_ever() {
        let refusals = Refusals::default();
        for n in 0..5000u32 {
            let address = SocketAddr::new(IpAddr::V4(n.into()), 1);
            refusals.book(at(0), WallTime(0), address, &refusal(Reason::Handshake));
        }
        assert_eq!(refusals.lock().logged.len(), REMEMBERED);
        assert_eq!(refusals.latest().len(), SHOWN);
    }
}
