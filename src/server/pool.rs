//! Connections that nobody uses just now. Each thread has a shelf of its own, so that threads rarely
//! wait for each other; one that finds its own empty looks on the others'.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::Conn;

pub(super) struct Pool {
    shelves: Box<[Mutex<Vec<Conn>>]>,
    /// Most connections on one shelf.
    most: usize,
}

/// More threads than this share shelves.
const SHELVES_MAX: usize = 16;

impl Pool {
    /// Of at most `idle` connections.
    pub(super) fn new(idle: usize) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let count = threads.clamp(1, SHELVES_MAX).min(idle.max(1));
        let shelves = (0..count).map(|_| Mutex::new(Vec::new())).collect();
        Self { shelves, most: idle / count }
    }

    /// The connection used last: it is the least likely to have been closed.
    pub(super) fn take(&self) -> Option<Conn> {
        let own = self.own();
        if let Some(conn) = self.shelf(own).pop() {
            return Some(conn);
        }
        (1..self.shelves.len()).find_map(|step| self.shelf(own + step).pop())
    }

    pub(super) fn put(&self, conn: Conn) {
        if conn.sender.is_closed() {
            return;
        }
        conn.watched.idle();
        let mut shelf = self.shelf(self.own());
        if shelf.len() < self.most {
            shelf.push(conn);
        }
    }

    /// Forgets those that have been closed.
    pub(super) fn tidy(&self) {
        for at in 0..self.shelves.len() {
            self.shelf(at).retain(|conn| !conn.sender.is_closed());
        }
    }

    fn shelf(&self, at: usize) -> std::sync::MutexGuard<'_, Vec<Conn>> {
        self.shelves[at % self.shelves.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: Cell<Option<usize>> = const { Cell::new(None) };
        }
        THREAD.with(|thread| {
            let number = thread.get().unwrap_or_else(|| THREADS.fetch_add(1, Ordering::Relaxed));
            thread.set(Some(number));
            number % self.shelves.len()
        })
    }
}
