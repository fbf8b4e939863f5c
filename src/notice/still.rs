//! Files that do not hold still for as long as it takes to read them, or that the disk does not give (R8): when
//! they are read again, and when the changes that come through nearshare are kept waiting for that. Pure.

use std::time::Duration;

use super::draft::Entry;
use crate::clock::BootTime;
use crate::hash::HashMap;
use crate::id::ObjectId;

/// A burst ends after so long, even if it is still busy.
const BURST: Duration = Duration::from_secs(1);
/// After a file was read in vain, or while others waited, it is left alone for so many times as long.
const REST: u32 = 4;
/// Files that are known at once; beyond it all begin anew.
const MANY: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Restless(HashMap<ObjectId, File>);

#[derive(Debug)]
struct File {
    /// Where it was found last.
    entry: Entry,
    /// Since when it could not be read; `None`: it has been.
    since: Option<BootTime>,
    /// It is not read before.
    rest: BootTime,
}

impl Restless {
    pub fn rests(&self, id: ObjectId, now: BootTime) -> bool {
        self.0.get(&id).is_some_and(|file| now < file.rest)
    }

    /// Whether it could be read the last time, or was never tried.
    pub fn is_new(&self, id: ObjectId) -> bool {
        self.0.get(&id).is_none_or(|file| file.since.is_none())
    }

    /// It could not be read, which took from `began` until `now`.
    pub fn unread(&mut self, id: ObjectId, entry: Entry, began: BootTime, now: BootTime) {
        if self.0.len() >= MANY && !self.0.contains_key(&id) {
            self.0.clear();
        }
        let since = self.0.get(&id).and_then(|file| file.since).unwrap_or(began);
        let rest = BootTime(now.0 + now.since(began) * REST);
        self.0.insert(id, File { entry, since: Some(since), rest });
    }

    /// It has been read. `kept_still`: changes of it had to wait for that.
    pub fn read(&mut self, id: ObjectId, began: BootTime, now: BootTime, kept_still: bool) {
        match self.0.get_mut(&id) {
            Some(file) if kept_still => {
                (file.since, file.rest) = (None, BootTime(now.0 + now.since(began) * REST));
            }
            Some(_) => drop(self.0.remove(&id)),
            None => {}
        }
    }

    /// Those for which changes are to wait now, each with where it was found.
    pub fn kept_still(&self, now: BootTime) -> Vec<(ObjectId, Entry)> {
        let is_due =
            |file: &File| now >= file.rest && file.since.is_some_and(|since| now.since(since) >= BURST);
        let due = self.0.iter().filter(|(_, file)| is_due(file));
        due.map(|(id, file)| (*id, file.entry.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Name;

    fn at(ms: u64) -> BootTime {
        BootTime(Duration::from_millis(ms))
    }

    #[test]
    fn who_is_in_vain_read_rests_and_is_kept_still_after_a_second() {
        let mut restless = Restless::default();
        let (id, entry) = (ObjectId::from_bytes([7; 16]), (ObjectId::ROOT, Name::new(b"f").unwrap()));
        assert!(!restless.rests(id, at(0)));
        let mut now = 0;
        while restless.kept_still(at(now)).is_empty() {
            if !restless.rests(id, at(now)) {
                restless.unread(id, entry.clone(), at(now), at(now + 50));
                assert!(restless.rests(id, at(now + 249)) && !restless.rests(id, at(now + 250)));
                now += 50;
            }
            now += 10;
        }
        assert!((1000..1300).contains(&now), "{now}");
        assert!(!restless.is_new(id));
        assert_eq!(restless.kept_still(at(now)), [(id, entry.clone())]);
        // Others waited: not again at once, and from there on as at first.
        restless.read(id, at(now), at(now + 100), true);
        assert!(restless.rests(id, at(now + 499)) && !restless.rests(id, at(now + 500)));
        assert!(restless.kept_still(at(now + 5000)).is_empty());
        assert!(restless.is_new(id) && restless.is_new(ObjectId::ROOT));
        restless.unread(id, entry, at(now + 500), at(now + 510));
        assert!(restless.kept_still(at(now + 1499)).is_empty());
        assert_eq!(restless.kept_still(at(now + 1500)).len(), 1);
        restless.read(id, at(now + 1500), at(now + 1600), false);
        assert!(restless.0.is_empty());
    }
}
