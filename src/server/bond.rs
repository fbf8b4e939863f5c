//! A connection to the server that one client's connection has for itself: NTLM and Negotiate prove who
//! speaks on a connection, and whatever comes on it next is taken for his (RFC 4559 section 6).

use std::sync::atomic::{AtomicUsize, Ordering};
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
    _counted: Counted,
}

/// One of the connections that are kept for single clients.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(all: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let counted = Self(all.clone());
        (all.fetch_add(1, Ordering::Relaxed) < most).then_some(counted)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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

    pub(super) fn put(&self, of: &Arc<Upstream>, conn: Conn) {
        let Some(counted) = Counted::new(&of.bound, of.limits.idle) else { return };
        conn.watched.idle();
        // Another one that was kept meanwhile ends.
        *self.kept() = Some(Kept { of: Arc::downgrade(of), conn, _counted: counted });
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
