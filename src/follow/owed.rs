//! The contents this copy awaits (R25), in the order in which they became due.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::catalog::{CatalogError, Debt, Shelf};
use crate::id::{ObjectId, Seq, Version};

#[derive(Debug, Default)]
pub(super) struct Owed {
    by_id: HashMap<ObjectId, (Seq, Version, u64)>,
    by_seq: BTreeMap<(Seq, ObjectId), ()>,
    bytes: u64,
    /// Asked for and not yet here.
    asked: HashSet<ObjectId>,
}

impl Owed {
    pub fn load(shelf: &Shelf) -> Result<Self, CatalogError> {
        let mut owed = Self::default();
        let mut after = None;
        loop {
            let debts = shelf.debts(after, 1000)?;
            let Some(last) = debts.last() else { return Ok(owed) };
            after = Some(last.id);
            for debt in debts {
                owed.add(&debt);
            }
        }
    }

    /// A content asked for before stays asked for: two never arrive at one place at a time.
    pub fn add(&mut self, debt: &Debt) {
        let asked = self.asked.contains(&debt.id);
        self.remove(debt.id);
        if asked {
            self.asked.insert(debt.id);
        }
        self.by_id.insert(debt.id, (debt.seq, debt.version, debt.size));
        self.by_seq.insert((debt.seq, debt.id), ());
        self.bytes += debt.size;
    }

    /// The content has come, at this version or a later one.
    pub fn paid(&mut self, id: ObjectId, version: Version) {
        if self.by_id.get(&id).is_some_and(|(_, owed, _)| *owed <= version) {
            self.remove(id);
        }
    }

    pub fn remove(&mut self, id: ObjectId) {
        self.asked.remove(&id);
        if let Some((seq, _, size)) = self.by_id.remove(&id) {
            self.by_seq.remove(&(seq, id));
            self.bytes -= size;
        }
    }

    /// The next ones to ask for, oldest first: at most `most`, at most `bytes` together (but at least
    /// one), of a size that `fits`.
    pub fn ask(
        &mut self,
        most: usize,
        bytes: u64,
        fits: impl Fn(u64) -> bool,
    ) -> Vec<(ObjectId, Version)> {
        let mut asked = Vec::new();
        let mut sum = 0;
        for (_, id) in self.by_seq.keys() {
            let Some((_, version, size)) = self.by_id.get(id) else { continue };
            if !fits(*size) || self.asked.contains(id) {
                continue;
            }
            if asked.len() >= most || !asked.is_empty() && sum + size > bytes {
                break;
            }
            sum += size;
            asked.push((*id, *version));
        }
        self.asked.extend(asked.iter().map(|(id, _)| *id));
        asked
    }

    /// Not got: it may be asked for again.
    pub fn unasked(&mut self, id: ObjectId) {
        self.asked.remove(&id);
    }

    pub fn is_asked(&self, id: ObjectId) -> bool {
        self.asked.contains(&id)
    }
    pub fn contains(&self, id: ObjectId) -> bool {
        self.by_id.contains_key(&id)
    }
    /// The oldest record whose content has not come.
    pub fn oldest(&self) -> Option<Seq> {
        self.by_seq.first_key_value().map(|((seq, _), ())| *seq)
    }
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;

    fn debt(n: u8, seq: u64, version: u64, size: u64) -> Debt {
        let id = ObjectId::from_bytes([n; 16]);
        Debt { id, version: Version(version), size, seq: Seq(seq), epoch: Epoch(1) }
    }

    #[test]
    fn oldest_first_each_once_and_never_none_for_size() {
        let mut owed = Owed::default();
        owed.add(&debt(1, 3, 1, 900));
        owed.add(&debt(2, 1, 1, 5000));
        owed.add(&debt(3, 2, 1, 10));
        let ids = |asked: Vec<(ObjectId, Version)>| {
            asked.iter().map(|(id, _)| id.as_bytes()[0]).collect::<Vec<_>>()
        };
        assert_eq!(ids(owed.ask(10, 1000, |_| true)), [2]);
        assert_eq!(ids(owed.ask(10, 1000, |_| true)), [3, 1]);
        assert!(owed.ask(10, 1000, |_| true).is_empty());
        owed.unasked(ObjectId::from_bytes([3; 16]));
        assert_eq!(ids(owed.ask(10, 1000, |size| size < 100)), [3]);
        assert_eq!(owed.oldest(), Some(Seq(1)));
    }

    #[test]
    fn an_older_version_pays_nothing() {
        let mut owed = Owed::default();
        owed.add(&debt(1, 3, 2, 900));
        owed.paid(ObjectId::from_bytes([1; 16]), Version(1));
        assert_eq!(owed.bytes(), 900);
        owed.paid(ObjectId::from_bytes([1; 16]), Version(2));
        assert!(owed.is_empty() && owed.bytes() == 0);
    }
}
