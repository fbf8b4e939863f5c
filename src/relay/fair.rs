//! How much each of those who ask may have under way at a site, so that the others find room: of the
//! [`CHANGES_MAX`] changes that a site carries at once, and of as many connections with its server, a client
//! gets a quarter, and another site, which speaks for many clients, half.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::cut::CHANGES_MAX;
use crate::body::{Body, BoxError};
use crate::hash::HashMap;
use crate::id::SiteId;

/// Requests of one client under way: not answered to the end, or changes that are seen through.
pub const CLIENT_MAX: usize = CHANGES_MAX / 4;
/// The same of another site.
pub const SITE_MAX: usize = CHANGES_MAX / 2;

/// One of those who ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Who {
    /// As [`host`] has it.
    Client(IpAddr),
    Site(SiteId),
}

impl Who {
    pub fn client(address: SocketAddr) -> Self {
        Self::Client(host(address.ip()))
    }
    pub fn most(&self) -> usize {
        match self {
            Self::Client(_) => CLIENT_MAX,
            Self::Site(_) => SITE_MAX,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(address) => write!(f, "client {address}"),
            Self::Site(site) => write!(f, "site {site}"),
        }
    }
}

/// What counts as one client: an IPv4 address, or the 64 bits that a network gives to one IPv6 host.
pub fn host(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

/// What everybody has under way.
#[derive(Default)]
pub struct UnderWay(Mutex<HashMap<Who, Row>>);

#[derive(Default)]
struct Row {
    running: usize,
    /// The log says that it was turned away.
    said: bool,
}

impl UnderWay {
    fn rows(&self) -> MutexGuard<'_, HashMap<Who, Row>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one request more. `None`: there are as many of it as may be.
    pub fn begin(self: &Arc<Self>, who: &Who) -> Option<Arc<Room>> {
        let mut rows = self.rows();
        let row = rows.entry(who.clone()).or_default();
        if row.running >= who.most() {
            if !std::mem::replace(&mut row.said, true) {
                let limit = who.most();
                tracing::warn!(%who, limit, "turned away: as many of its requests as may be are under way");
            }
            return None;
        }
        row.running += 1;
        Some(Arc::new(Room { all: self.clone(), who: who.clone() }))
    }
}

/// One request's room, until nobody keeps it any longer.
pub struct Room {
    all: Arc<UnderWay>,
    who: Who,
}

impl Room {
    /// Keeps it until the body has gone out, or was given up.
    pub fn over(self: Arc<Self>, body: Body) -> Body {
        match body {
            Body::Empty | Body::Full(_) => body,
            body if body.is_end_stream() => body,
            body => Body::boxed(Roomed { body, _room: self }),
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut rows = self.all.rows();
        if let Some(row) = rows.get_mut(&self.who) {
            row.running -= 1;
            if row.running == 0 {
                rows.remove(&self.who);
            }
        }
    }
}

struct Roomed {
    body: Body,
    _room: Arc<Room>,
}

impl http_body::Body for Roomed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ipv6_host_is_one_client() {
        let host = |text: &str| host(text.parse().unwrap());
        assert_eq!(host("2001:db8::1"), host("2001:db8::ffff:1"));
        assert_ne!(host("2001:db8::1"), host("2001:db8:0:1::1"));
        assert_eq!(host("::ffff:10.0.0.1"), host("10.0.0.1"));
    }

    #[test]
    fn who_has_nothing_under_way_is_forgotten() {
        let all = Arc::new(UnderWay::default());
        let one = Who::client(([10, 0, 0, 1], 1).into());
        let mut held: Vec<_> = std::iter::from_fn(|| all.begin(&one)).collect();
        assert_eq!(held.len(), CLIENT_MAX);
        assert!(all.begin(&Who::client(([10, 0, 0, 1], 2).into())).is_none(), "by another port");
        let site = Who::Site("lyon".parse().unwrap());
        held.extend(std::iter::from_fn(|| all.begin(&site)));
        assert_eq!(held.len(), CLIENT_MAX + SITE_MAX);
        let kept = held.remove(0);
        drop(held);
        assert_eq!(all.rows().len(), 1);
        let body = kept.clone().over(Body::boxed(Body::Full(Bytes::from_static(b"x"))));
        drop(kept);
        assert_eq!(all.rows().len(), 1, "the answer goes out");
        drop(body);
        assert!(all.rows().is_empty());
    }
}
