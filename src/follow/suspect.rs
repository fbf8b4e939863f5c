//! Changes that this site's server may still carry out although another site leads now (R18): this copy does
//! not answer for what they touch, and looks at it again and again, until it is known, or believed, that
//! nothing more comes. Not here: how a site ceases to lead (`notice`, `serve`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::applier::Applier;
use super::{Follow, lock};
use crate::catalog::Touch;
use crate::clock::BootTime;
use crate::hash::HashSet;
use crate::tree::Tree;

/// Looked at again after 1, 2, 4 ... 60 s.
const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(60);
/// A server that has answered, or lost its connection, can only be tidying up: after 1 + 2 + 4 s it has.
const TIDYING_LOOKS: u32 = 3;

#[derive(Debug, Default)]
pub(super) struct Suspects(BTreeMap<Touch, Suspect>);

#[derive(Debug)]
struct Suspect {
    /// What keeps reads of it away from this copy.
    note: u64,
    looks: u32,
    due: BootTime,
    /// The look after so many is believed.
    believed: Option<u32>,
    over: bool,
}

impl Suspects {
    pub fn add(&mut self, touch: Touch, note: u64, now: BootTime) {
        self.0.insert(touch, Suspect { note, looks: 0, due: now, believed: None, over: false });
    }

    pub fn contains(&self, touch: &Touch) -> bool {
        self.0.contains_key(touch)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// What is to be looked at now.
    fn due(&mut self, now: BootTime) -> Vec<Touch> {
        let mut due = Vec::new();
        for (touch, suspect) in self.0.iter_mut().filter(|(_, suspect)| suspect.due <= now) {
            due.push(touch.clone());
            suspect.over = suspect.believed.is_some_and(|looks| suspect.looks >= looks);
            suspect.due = BootTime(now.0 + FIRST.saturating_mul(1 << suspect.looks.min(6)).min(MOST));
            suspect.looks = suspect.looks.saturating_add(1);
        }
        due
    }

    /// Those whose last look has been taken. Says their notes.
    fn end(&mut self) -> Vec<u64> {
        self.0.extract_if(.., |_, suspect| suspect.over).map(|(_, suspect)| suspect.note).collect()
    }

    /// Nothing more comes of all but these, once the server has tidied up.
    fn ended_but(&mut self, unknown: &HashSet<Touch>, now: BootTime) {
        for (touch, suspect) in &mut self.0 {
            if suspect.believed.is_none() && !unknown.contains(touch) {
                *suspect = Suspect { looks: 0, due: now, believed: Some(TIDYING_LOOKS), ..*suspect };
            }
        }
    }

    fn believe(&mut self, now: BootTime) -> usize {
        for suspect in self.0.values_mut() {
            *suspect = Suspect { due: now, believed: Some(0), ..*suspect };
        }
        self.0.len()
    }
}

impl<T: Tree> Follow<T> {
    /// The server has ended what it was at when this site ceased to lead, save what nobody knows of.
    pub fn server_has_ended(&self, unknown: Vec<Touch>) {
        lock(&self.suspects).ended_but(&unknown.into_iter().collect(), self.clock.boot());
    }

    /// The operator knows that nothing in doubt will be carried out any more (R18). Says how many places.
    pub fn believe(&self) -> usize {
        lock(&self.suspects).believe(self.clock.boot())
    }
}

impl<T: Tree> Applier<T> {
    pub(super) fn look_at_suspects(&mut self) {
        let due = lock(&self.follow.suspects).due(self.follow.clock.boot());
        self.dirty(due);
    }

    /// Behind the settling of what [`Self::look_at_suspects`] said.
    pub(super) fn clear_suspects(&self) {
        let notes = lock(&self.follow.suspects).end();
        if !notes.is_empty() {
            self.follow.with_ahead(|ahead| {
                for note in notes {
                    ahead.remove(note);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ObjectId;

    fn touch(n: u8) -> Touch {
        Touch::Object(ObjectId::from_bytes([n; 16]))
    }
    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    #[test]
    fn what_nobody_knows_is_looked_at_for_ever_and_the_rest_until_the_server_has_tidied_up() {
        let mut suspects = Suspects::default();
        suspects.add(touch(1), 1, at(0));
        suspects.add(touch(2), 2, at(0));
        let mut looks = Vec::new();
        for second in 0..300 {
            if second == 20 {
                suspects.ended_but(&HashSet::from_iter([touch(2)]), at(second));
            }
            for looked in suspects.due(at(second)) {
                if looked == touch(1) {
                    looks.push(second);
                }
            }
            assert_eq!(suspects.end(), if second == 27 { vec![1] } else { vec![] }, "{second}");
        }
        assert_eq!(looks, [0, 1, 3, 7, 15, 20, 21, 23, 27]);
        assert!(suspects.contains(&touch(2)) && suspects.len() == 1);
        assert_eq!(suspects.believe(at(300)), 1);
        assert!(suspects.end().is_empty(), "not before a last look");
        assert_eq!((suspects.due(at(300)), suspects.end()), (vec![touch(2)], vec![2]));
    }
}
