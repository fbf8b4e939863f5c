//! What each client has in use: connections, and requests in the running second.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::relay::host;

/// All clients that have connections, or had some a moment ago.
#[derive(Default)]
pub(super) struct Clients(Mutex<HashMap<IpAddr, Arc<Row>>>);

/// One client.
#[derive(Default)]
struct Row {
    connections: AtomicU64,
    /// A second (high half), and the requests that came in it.
    asked: AtomicU64,
}

/// A connection of a client, for as long as it is kept.
pub(super) struct Place {
    row: Arc<Row>,
    rate: Option<u32>,
}

impl Clients {
    /// Takes a place for one more connection, of at most so many; `rate`: the most requests a second.
    pub(super) fn enter(&self, client: IpAddr, most: u64, rate: Option<u32>) -> Option<Place> {
        let row = self.rows().entry(host(client)).or_default().clone();
        let place = Place { row, rate };
        (place.row.connections.fetch_add(1, Ordering::Relaxed) < most).then_some(place)
    }

    /// Forgets clients that are gone. `now`: the running second.
    pub(super) fn tidy(&self, now: u32) {
        let live = |row: &Row| {
            let asked = row.asked.load(Ordering::Relaxed) >> 32;
            row.connections.load(Ordering::Relaxed) > 0 || asked + 1 >= u64::from(now)
        };
        self.rows().retain(|_, row| live(row) || Arc::strong_count(row) > 1);
    }

    fn rows(&self) -> MutexGuard<'_, HashMap<IpAddr, Arc<Row>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether one more request may come in this second.
    pub(super) fn ask(&self, now: u32) -> bool {
        let Some(rate) = self.rate else { return true };
        let (now, asked) = (u64::from(now) << 32, &self.row.asked);
        let before = asked.load(Ordering::Relaxed);
        let count = if before & !u64::from(u32::MAX) == now { before - now } else { 0 };
        if count >= u64::from(rate) {
            return false;
        }
        // Two at once may count as one: it is a limit against floods, not a price.
        asked.store(now | (count + 1), Ordering::Relaxed);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.row.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_its_own_share_of_connections_and_requests() {
        let clients = Clients::default();
        let one = "10.0.0.1".parse().unwrap();
        let first = clients.enter(one, 2, Some(2)).unwrap();
        let second = clients.enter(one, 2, Some(2)).unwrap();
        assert!(clients.enter(one, 2, Some(2)).is_none());
        assert!(clients.enter("10.0.0.2".parse().unwrap(), 2, None).is_some());
        // Over both of its connections.
        assert!(first.ask(7) && second.ask(7) && !first.ask(7) && !second.ask(7));
        assert!(first.ask(8));
        drop(first);
        let again = clients.enter(one, 2, Some(2)).unwrap();
        assert!(again.ask(8) && !again.ask(8), "a new connection buys nothing");
        drop((again, second));
        clients.tidy(9);
        assert!(!clients.enter(one, 2, Some(2)).unwrap().ask(8));
        clients.tidy(11);
        assert!(clients.rows().is_empty());
    }
}
