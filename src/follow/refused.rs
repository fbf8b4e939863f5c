//! Entries that this copy's disk does not take: it is full, cannot hold such a name or link, or has a bad block
//! there. The copy goes on with all others, as a removal may make room (R27); for these it does not answer,
//! and tries them again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::applier::Applier;
use super::lock;
use crate::catalog::Touch;
use crate::clock::BootTime;
use crate::tree::Tree;

/// Tried again after 1, 2, 4 ... 30 s.
const FIRST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(30);
/// With more of them the copy stands still: at some 400 bytes each, these are 26 MB.
pub(super) const REFUSED_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Refused(BTreeMap<Touch, Row>);

#[derive(Debug)]
struct Row {
    /// What keeps reads of it away from this copy.
    note: u64,
    due: BootTime,
    wait: Duration,
    why: String,
}

impl Refused {
    /// How many of `touches` may be refused, so that there are `most` of them all together.
    pub fn room(&self, most: usize, touches: &[Touch]) -> usize {
        let again = touches.iter().filter(|touch| self.0.contains_key(*touch)).count();
        (most + again).saturating_sub(self.0.len())
    }

    /// What is to be tried now.
    fn due(&self, now: BootTime) -> Vec<Touch> {
        self.0.iter().filter(|(_, row)| row.due <= now).map(|(touch, _)| touch.clone()).collect()
    }

    /// The disk would not take it, again or for the first time: then `note` says what keeps reads away.
    fn add(&mut self, touch: Touch, why: String, now: BootTime, note: impl FnOnce(&Touch) -> u64) {
        match self.0.get_mut(&touch) {
            Some(row) => {
                row.wait = (row.wait * 2).min(MOST);
                row.due = BootTime(now.0 + row.wait);
                row.why = why;
            }
            None => {
                let row = Row { note: note(&touch), due: BootTime(now.0 + FIRST), wait: FIRST, why };
                self.0.insert(touch, row);
            }
        }
    }

    /// They are on the disk: says the notes of those that were not.
    fn remove<'a>(&mut self, touches: impl Iterator<Item = &'a Touch>) -> Vec<u64> {
        touches.filter_map(|touch| self.0.remove(touch)).map(|row| row.note).collect()
    }

    /// In one line, for people.
    fn why(&self) -> Option<String> {
        let (_, first) = self.0.first_key_value()?;
        Some(match self.0.len() {
            1 => format!("one change cannot be put on this disk: {}", first.why),
            many => format!("{many} changes cannot be put on this disk, such as: {}", first.why),
        })
    }
}

impl<T: Tree> Applier<T> {
    pub(super) fn try_refused(&mut self) {
        let due = self.refused.due(self.follow.clock.boot());
        self.dirty(due);
    }

    /// After a settling of `touches`: these of them were refused, or others in their way.
    pub(super) fn note_refused(&mut self, touches: &[Touch], refused: Vec<(Touch, String)>) {
        if refused.is_empty() && self.refused.0.is_empty() {
            return;
        }
        let follow = self.follow.clone();
        let still = |touch: &&Touch| !refused.iter().any(|(other, _)| other == *touch);
        let over = self.refused.remove(touches.iter().filter(still));
        follow.with_ahead(|ahead| {
            for note in over {
                ahead.remove(note);
            }
        });
        let now = follow.clock.boot();
        // Of a disk that has no ACLs, say, one line for all of them.
        let mut new = refused.iter().filter(|(touch, _)| !self.refused.0.contains_key(touch));
        if let Some((_, why)) = new.next() {
            let (share, more) = (&follow.config.share, new.count());
            tracing::error!(%share, error = %why, more, "the disk refuses an entry; trying again");
            follow.note(|progress| progress.last_error = Some(why.clone()));
        }
        for (touch, why) in refused {
            self.refused
                .add(touch, why, now, |touch| follow.with_ahead(|ahead| ahead.suspect(touch.clone())));
        }
        follow.place_notes();
        *lock(&follow.refused) = self.refused.why();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::ObjectId;

    #[test]
    fn what_is_refused_is_tried_less_and_less_often_and_keeps_its_note() {
        let touch = Touch::Object(ObjectId::from_bytes([1; 16]));
        let at = |seconds| BootTime(Duration::from_secs(seconds));
        let mut refused = Refused::default();
        refused.add(touch.clone(), "full".into(), at(0), |_| 7);
        let mut tries = Vec::new();
        for second in 0..100 {
            if !refused.due(at(second)).is_empty() {
                tries.push(second);
                refused.add(touch.clone(), "still full".into(), at(second), |_| unreachable!());
            }
        }
        assert_eq!(tries, [1, 3, 7, 15, 31, 61, 91]);
        assert_eq!(refused.why().unwrap(), "one change cannot be put on this disk: still full");
        assert_eq!(refused.remove([&touch].into_iter()), [7]);
        assert!(refused.remove([&touch].into_iter()).is_empty() && refused.why().is_none());
    }
}
