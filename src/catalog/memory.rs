//! A store in memory that survives its process, and loses at a crash what a disk may lose.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::error::{CatalogError, Result};
use super::store::{Rows, Space, Store, View, Write};

type Map = BTreeMap<(u8, Vec<u8>), Bytes>;

/// What is on the disk, and what is only said to be.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    now: Arc<Map>,
    synced: Map,
    /// Since the last sync.
    batches: Vec<Vec<Write>>,
    /// So many of them are with the kernel.
    handed: usize,
    full: bool,
    /// A sync takes its time.
    slow: bool,
    /// Rows that were asked for by their keys.
    asked: u64,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The process ends; with `power` so does the machine. Of what may be lost, all but the first
    /// `keep(n)` of `n` batches is.
    pub fn crash(&self, power: bool, keep: impl FnOnce(usize) -> usize) {
        let mut state = self.lock();
        let least = if power { 0 } else { state.handed };
        let kept = least + keep(state.batches.len() - least);
        let batches = std::mem::take(&mut state.batches);
        let mut map = state.synced.clone();
        for batch in batches.iter().take(kept) {
            carry_out(&mut map, batch);
        }
        state.now = Arc::new(map);
        state.slow = false;
        state.batches = batches.into_iter().take(kept).collect();
        state.handed = state.batches.len();
        if power {
            state.synced = Map::clone(&state.now);
            state.batches.clear();
            state.handed = 0;
        }
    }

    /// From now on; not while shares are opened, who hold what others wait for.
    pub fn set_slow(&self) {
        self.lock().slow = true;
    }

    pub fn asked(&self) -> u64 {
        self.lock().asked
    }

    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }
}

fn carry_out(map: &mut Map, batch: &[Write]) {
    for write in batch {
        let key = (write.space.number(), write.key.clone());
        match &write.value {
            Some(value) => map.insert(key, value.clone()),
            None => map.remove(&key),
        };
    }
}

fn scan(map: &Map, space: Space, prefix: &[u8], from: &[u8]) -> Rows<'static> {
    let first = from.max(prefix).to_vec();
    let rows = map.range((space.number(), first)..);
    let rows = rows.take_while(|((of, key), _)| *of == space.number() && key.starts_with(prefix));
    let rows: Vec<_> =
        rows.map(|((_, key), value)| Ok((Bytes::copy_from_slice(key), value.clone()))).collect();
    Box::new(rows.into_iter())
}

impl View for Memory {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        let mut state = self.lock();
        state.asked += 1;
        Ok(state.now.get(&(space.number(), key.to_vec())).cloned())
    }
    fn scan(&self, space: Space, prefix: &[u8], from: &[u8]) -> Rows<'_> {
        let map = self.lock().now.clone();
        scan(&map, space, prefix, from)
    }
}

impl Store for Memory {
    fn apply(&self, writes: Vec<Write>) -> Result<()> {
        let mut state = self.lock();
        if state.full {
            let why = "No space left on device".to_owned();
            return Err(CatalogError::Store { what: "write", why });
        }
        carry_out(Arc::make_mut(&mut state.now), &writes);
        state.batches.push(writes);
        Ok(())
    }
    fn persist(&self, sync: bool) -> Result<()> {
        if self.lock().slow {
            crate::work::linger();
        }
        let mut state = self.lock();
        state.handed = state.batches.len();
        if sync {
            let state = &mut *state;
            for batch in state.batches.drain(..) {
                carry_out(&mut state.synced, &batch);
            }
            state.handed = 0;
        }
        Ok(())
    }
    fn snapshot(&self) -> Box<dyn View> {
        Box::new(Snapshot(self.lock().now.clone()))
    }
    fn repaired(&self) -> bool {
        false
    }
}

struct Snapshot(Arc<Map>);

impl View for Snapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.0.get(&(space.number(), key.to_vec())).cloned())
    }
    fn scan(&self, space: Space, prefix: &[u8], from: &[u8]) -> Rows<'_> {
        scan(&self.0, space, prefix, from)
    }
}
