//! What this site has sent home and not yet got back (R9): its own copy must not answer for it.
//! Pure: notes, answers, releases.

use std::collections::{HashMap, HashSet};

use crate::catalog::Touch;
use crate::id::{Gen, Name, ObjectId};

/// Releases remembered while an answer is under way, which they may overtake.
const RECENT_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Ahead {
    notes: HashMap<u64, Note>,
    touched: HashMap<Touch, u32>,
    /// How many touches lie in or below a directory.
    below: HashMap<ObjectId, u32>,
    recent: HashMap<Touch, Gen>,
    /// What was in force when the newest stream began, and the newest generation then.
    started: (Gen, HashSet<Touch>),
}

#[derive(Debug)]
struct Note {
    touches: Vec<Touch>,
    /// The directories above the touches.
    above: Vec<ObjectId>,
    awaits: Awaits,
}

#[derive(Debug)]
enum Awaits {
    /// The request is under way.
    Answer,
    /// Answered: these are to be released by the primary and applied here.
    Releases(HashMap<Touch, Gen>),
    /// Nobody told the outcome: a barrier ends it.
    Doubt,
}

impl Ahead {
    pub fn note(&mut self, id: u64, touches: Vec<Touch>, above: HashSet<ObjectId>) {
        for touch in &touches {
            *self.touched.entry(touch.clone()).or_default() += 1;
        }
        for dir in &above {
            *self.below.entry(*dir).or_default() += 1;
        }
        let above = above.into_iter().collect();
        self.notes.insert(id, Note { touches, above, awaits: Awaits::Answer });
    }

    /// The primary answered. `true`: everything was released already, the note is dropped.
    pub fn answered(&mut self, id: u64, awaits: Vec<(Touch, Gen)>) -> bool {
        let mut left: HashMap<Touch, Gen> = awaits.into_iter().collect();
        let (newest, force) = &self.started;
        left.retain(|touch, generation| {
            let released = self.recent.get(touch).is_some_and(|through| through >= generation);
            !released && (*generation > *newest || force.contains(touch))
        });
        let done = left.is_empty();
        if let Some(note) = self.notes.get_mut(&id) {
            note.awaits = Awaits::Releases(left);
        }
        if done {
            self.remove(id);
        }
        self.forget_recent();
        done
    }

    pub fn doubt(&mut self, id: u64) {
        if let Some(note) = self.notes.get_mut(&id) {
            note.awaits = Awaits::Doubt;
        }
        self.forget_recent();
    }

    /// Releases whose changes are applied here. Says which notes are done.
    pub fn released(&mut self, releases: &[(Touch, Gen)]) -> Vec<u64> {
        let waiting = self.notes.values().any(|note| matches!(note.awaits, Awaits::Answer));
        let mut done = Vec::new();
        for (id, note) in &mut self.notes {
            let Awaits::Releases(left) = &mut note.awaits else { continue };
            for (touch, through) in releases {
                if left.get(touch).is_some_and(|generation| generation <= through) {
                    left.remove(touch);
                }
            }
            if left.is_empty() {
                done.push(*id);
            }
        }
        if waiting {
            for (touch, through) in releases {
                let known = self.recent.entry(touch.clone()).or_default();
                *known = (*known).max(*through);
            }
            if self.recent.len() > RECENT_MAX {
                // The answers still under way will wait for the next stream's start instead.
                self.recent.clear();
            }
        }
        for id in &done {
            self.remove(*id);
        }
        done
    }

    /// A stream begins: whatever is awaited and no longer in force at the primary has come (R10).
    pub fn in_force(&mut self, force: Vec<(Touch, Gen)>, newest: Gen) -> Vec<u64> {
        let force: HashSet<Touch> = force.into_iter().map(|(touch, _)| touch).collect();
        let mut done = Vec::new();
        for (id, note) in &mut self.notes {
            let Awaits::Releases(left) = &mut note.awaits else { continue };
            left.retain(|touch, generation| *generation > newest || force.contains(touch));
            if left.is_empty() {
                done.push(*id);
            }
        }
        self.started = (newest, force);
        for id in &done {
            self.remove(*id);
        }
        done
    }

    pub fn remove(&mut self, id: u64) {
        let Some(note) = self.notes.remove(&id) else { return };
        for touch in &note.touches {
            decrement(&mut self.touched, touch);
        }
        for dir in &note.above {
            decrement(&mut self.below, dir);
        }
    }

    pub fn in_doubt(&self) -> Vec<u64> {
        let doubted = self.notes.iter().filter(|(_, note)| matches!(note.awaits, Awaits::Doubt));
        doubted.map(|(id, _)| *id).collect()
    }
    pub fn len(&self) -> usize {
        self.notes.len()
    }
    pub fn entry(&self, dir: ObjectId, name: &Name) -> bool {
        self.touched.contains_key(&Touch::Entry(dir, name.clone()))
    }
    pub fn object(&self, id: ObjectId) -> bool {
        self.touched.contains_key(&Touch::Object(id))
    }
    pub fn below(&self, dir: ObjectId) -> bool {
        self.below.contains_key(&dir)
    }

    fn forget_recent(&mut self) {
        if !self.notes.values().any(|note| matches!(note.awaits, Awaits::Answer)) {
            self.recent.clear();
        }
    }
}

fn decrement<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(n: u8) -> Touch {
        Touch::Object(ObjectId::from_bytes([n; 16]))
    }
    fn noted(id: u64, n: u8) -> Ahead {
        let mut ahead = Ahead::default();
        ahead.note(id, vec![touch(n)], HashSet::from([ObjectId::ROOT]));
        ahead
    }

    #[test]
    fn only_its_own_generation_releases_a_note() {
        let mut ahead = noted(1, 7);
        assert!(!ahead.answered(1, vec![(touch(7), Gen(5))]));
        assert!(ahead.released(&[(touch(7), Gen(4))]).is_empty());
        assert!(ahead.below(ObjectId::ROOT));
        assert_eq!(ahead.released(&[(touch(7), Gen(5))]), vec![1]);
        assert!(!ahead.below(ObjectId::ROOT) && ahead.len() == 0);
    }

    #[test]
    fn a_release_may_overtake_the_answer() {
        let mut ahead = noted(1, 7);
        assert!(ahead.released(&[(touch(7), Gen(5))]).is_empty());
        assert!(ahead.answered(1, vec![(touch(7), Gen(5))]));
        assert_eq!(ahead.len(), 0);
    }

    #[test]
    fn an_answer_that_a_new_stream_overtook_awaits_only_what_was_in_force() {
        let mut ahead = noted(1, 7);
        ahead.in_force(vec![(touch(8), Gen(3))], Gen(6));
        assert!(ahead.answered(1, vec![(touch(7), Gen(5))]));
        let mut ahead = noted(1, 7);
        ahead.in_force(vec![(touch(7), Gen(5))], Gen(6));
        assert!(!ahead.answered(1, vec![(touch(7), Gen(5))]));
    }

    #[test]
    fn a_new_stream_ends_what_is_not_in_force_but_no_doubt() {
        let mut ahead = noted(1, 7);
        ahead.answered(1, vec![(touch(7), Gen(5))]);
        ahead.note(2, vec![touch(8)], HashSet::new());
        ahead.doubt(2);
        assert!(ahead.in_force(vec![(touch(7), Gen(9))], Gen(9)).is_empty());
        assert!(ahead.in_force(vec![], Gen(4)).is_empty(), "a later generation than the stream's start");
        assert_eq!(ahead.in_force(vec![], Gen(9)), vec![1]);
        assert_eq!(ahead.in_doubt(), vec![2]);
    }
}
