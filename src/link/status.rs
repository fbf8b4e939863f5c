//! What `status` shows of a link.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde::Serialize;

use super::{PeerMap, Session};
use crate::id::{ShareId, SiteId};

/// One link, seen from here.
#[derive(Debug, Clone, Serialize)]
pub struct PeerState {
    pub site: SiteId,
    pub direction: Direction,
    /// The control connection is there and hello is done.
    pub up: bool,
    /// The bulk connection is there as well.
    pub bulk: bool,
    /// Since when it is up or down, in milliseconds since 1970-01-01 UTC.
    pub since_unix_ms: i64,
    pub address: Option<SocketAddr>,
    pub rtt_ms: Option<f64>,
    pub session: Option<Session>,
    /// From the other side's last hello.
    pub map: Option<PeerMap>,
    /// Shares that the other side's map describes otherwise.
    pub disagrees: BTreeSet<ShareId>,
    pub last_error: Option<PeerFault>,
}

/// Who made the connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    Dialled,
    Accepted,
}

/// The last thing that went wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerFault {
    pub at_unix_ms: i64,
    pub what: String,
    pub fix: String,
}
