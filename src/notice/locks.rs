//! Changes of one (directory, name) entry are serialised at the primary (R2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::catalog::Touch;

type Slot = Arc<tokio::sync::Mutex<()>>;

#[derive(Default)]
pub(super) struct EntryLocks {
    slots: Mutex<HashMap<Touch, Slot>>,
}

/// Held from before a change is sent to the server until its answer has been taken in.
pub(super) struct EntryGuard {
    owner: Arc<EntryLocks>,
    touches: Vec<Touch>,
    guards: Vec<OwnedMutexGuard<()>>,
}

impl EntryLocks {
    /// Waits for every change of these touches that came before. One order for all: no deadlock.
    pub async fn lock(self: &Arc<Self>, touches: &[Touch]) -> EntryGuard {
        let mut touches = touches.to_vec();
        touches.sort();
        touches.dedup();
        let mut held = EntryGuard { owner: self.clone(), touches: Vec::new(), guards: Vec::new() };
        for touch in touches {
            let slot = self.slots().entry(touch.clone()).or_default().clone();
            // Noted first: a wait that is given up leaves no slot behind.
            held.touches.push(touch);
            held.guards.push(slot.lock_owned().await);
        }
        held
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<Touch, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for EntryGuard {
    fn drop(&mut self) {
        self.guards.clear();
        let mut slots = self.owner.slots();
        for touch in &self.touches {
            if slots.get(touch).is_some_and(|slot| Arc::strong_count(slot) == 1) {
                slots.remove(touch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ObjectId;

    #[tokio::test]
    async fn a_second_change_waits_and_slots_vanish() {
        let locks = Arc::new(EntryLocks::default());
        let touch = |n| Touch::Object(ObjectId::from_bytes([n; 16]));
        let first = locks.lock(&[touch(1), touch(2)]).await;
        let other = locks.clone();
        let second = tokio::spawn(async move { other.lock(&[touch(2), touch(3)]).await });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        drop(second.await.unwrap());
        assert!(locks.slots().is_empty());
    }
}
