//! A connection to the server that one client's connection has for itself: NTLM and Negotiate prove who
//! speaks on a connection, and whatever comes on it next is taken for his (RFC 4559 section 6).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::{Conn, Upstream};
use crate::work;

/// Of one client's connection, from its first such proof to its end. In the extensions of its requests.
pub struct Bond {
    id: u128,
    kept: Mutex<Option<Kept>>,
}

/// While nothing runs on it.
struct Kept {
    of: Weak<Upstream>,
    conn: Conn,
    place: Place,
}

/// The connections of one server that are kept for single clients, the longest kept first.
#[derive(Default)]
pub(super) struct Bound(Mutex<Places>);

#[derive(Default)]
struct Places {
    last: u64,
    taken: BTreeMap<u64, Weak<Bond>>,
}

struct Place {
    of: Arc<Bound>,
    number: u64,
}

impl Bound {
    /// A place for one more. With more than `most` the longest kept has none any more.
    fn take(self: &Arc<Self>, bond: &Arc<Bond>, most: usize) -> (Place, Option<(u64, Arc<Bond>)>) {
        let mut places = self.places();
        places.last += 1;
        let number = places.last;
        places.taken.insert(number, Arc::downgrade(bond));
        let longest = if places.taken.len() > most { places.taken.pop_first() } else { None };
        let longest = longest.and_then(|(number, bond)| Some((number, bond.upgrade()?)));
        (Place { of: self.clone(), number }, longest)
    }
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.places().taken.len()
    }
    fn places(&self) -> MutexGuard<'_, Places> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.of.places().taken.remove(&self.number);
    }
}

impl Bond {
    pub fn new() -> Arc<Self> {
        let mut id = [0; 16];
        work::random(&mut id);
        Self::with_id(u128::from_be_bytes(id))
    }
    /// Of a client's connection to another site, which has named it so.
    pub fn with_id(id: u128) -> Arc<Self> {
        Arc::new(Self { id, kept: Mutex::default() })
    }
    pub fn id(&self) -> u128 {
        self.id
    }

    /// Whether it has a connection that nothing runs on.
    pub fn is_kept(&self) -> bool {
        self.kept().as_ref().is_some_and(|kept| !kept.conn.sender.is_closed())
    }

    /// None while something runs on it: what comes meanwhile has a connection that nobody is known on.
    pub(super) fn take(&self, of: &Arc<Upstream>) -> Option<Conn> {
        let kept = self.kept().take()?;
        std::ptr::eq(kept.of.as_ptr(), Arc::as_ptr(of)).then_some(kept.conn)
    }

    pub(super) fn put(self: &Arc<Self>, of: &Arc<Upstream>, conn: Conn) {
        // Of several that ran at once the one stays on which somebody speaks for himself.
        let is_better = |kept: &Kept| kept.conn.proves && !conn.proves && !kept.conn.sender.is_closed();
        if self.kept().as_ref().is_some_and(is_better) {
            return;
        }
        conn.watched.idle();
        let (place, longest) = of.bound.take(self, of.limits.idle);
        let before = self.kept().replace(Kept { of: Arc::downgrade(of), conn, place });
        drop(before);
        if let Some((number, bond)) = longest {
            // It may have been in use, and be kept anew.
            let over = bond.kept().take_if(|kept| kept.place.number == number);
            drop(over);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
