//! The contents this copy awaits (R25), in the order in which they became due.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::catalog::{CatalogError, Debt, Shelf};
use crate::clock::BootTime;
use crate::hash::{HashMap, HashSet};
use crate::id::{ObjectId, Seq, Version};

/// Contents up to this size travel in the small lane and are held in memory till they are written.
pub(super) const SMALL: u64 = 256 * 1024;
/// What is not to be had is asked for again after 1, 2, 4 ... 60 s.
const REST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(60);

/// Two lanes, so that small contents overtake large ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Small,
    Large,
}

impl Lane {
    pub fn of(size: u64) -> Self {
        if size <= SMALL { Self::Small } else { Self::Large }
    }
}

/// About 200 bytes for each content awaited.
#[derive(Debug, Default)]
pub(super) struct Owed {
    by_id: HashMap<ObjectId, Due>,
    by_seq: BTreeSet<(Seq, ObjectId)>,
    /// Those that were awaited before the record that names them now, since when.
    longer: BTreeSet<(Seq, ObjectId)>,
    /// What may be asked for, by lane.
    wanted: [BTreeSet<(Seq, ObjectId)>; 2],
    /// Not to be asked for before then: it came wrong, or was not to be had.
    resting: BTreeMap<ObjectId, BootTime>,
    /// Whose `Spot::Tmp` has an owner, awaited or not: who asked for it, and from then on that it comes,
    /// the applier. Two never write to one place at a time.
    taken: HashSet<ObjectId>,
    /// Some lost a name while they were awaited: what the disk has there is older than that, until it is settled.
    leaving: bool,
    /// Three files of nothing but holes are more than 2^64.
    bytes: u128,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    seq: Seq,
    /// Some content of it is awaited since this record.
    since: Seq,
    version: Version,
    size: u64,
    /// How long it has rested last.
    rest: Duration,
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

    /// What somebody has taken is not asked for until he [`gives it back`](Self::give_back).
    pub fn add(&mut self, debt: &Debt) {
        // A new version may be had; if it is not, that was to be expected.
        let (since, rest) = match self.by_id.get(&debt.id) {
            Some(due) => (due.since.min(debt.seq), due.rest),
            None => (debt.seq, Duration::ZERO),
        };
        self.remove(debt.id);
        let due = Due { seq: debt.seq, since, version: debt.version, size: debt.size, rest };
        self.by_id.insert(debt.id, due);
        if since < debt.seq {
            self.longer.insert((since, debt.id));
        }
        self.by_seq.insert((debt.seq, debt.id));
        self.bytes += u128::from(debt.size);
        self.want(debt.id);
    }

    /// The content has come, at this version or a later one.
    pub fn paid(&mut self, id: ObjectId, version: Version) {
        if self.by_id.get(&id).is_some_and(|due| due.version <= version) {
            self.remove(id);
        }
    }

    /// Some of what is awaited loses a name, and the disk will follow with the next settling.
    pub fn leave(&mut self) {
        self.leaving = true;
    }
    pub fn settled(&mut self) {
        self.leaving = false;
    }
    /// Whether the disk may show what was replaced long ago, and nobody awaits any more.
    pub fn is_leaving(&self) -> bool {
        self.leaving
    }

    pub fn remove(&mut self, id: ObjectId) {
        if let Some(due) = self.by_id.remove(&id) {
            self.by_seq.remove(&(due.seq, id));
            self.longer.remove(&(due.since, id));
            self.wanted[Lane::of(due.size) as usize].remove(&(due.seq, id));
            self.bytes -= u128::from(due.size);
        }
        self.resting.remove(&id);
    }

    /// Takes the next ones to ask for, oldest first: at most `most`, at most `bytes` together (but at
    /// least one).
    pub fn ask(&mut self, lane: Lane, most: usize, bytes: u64) -> Vec<(ObjectId, Version)> {
        let mut asked = Vec::new();
        let mut sum = 0;
        while let Some((seq, id)) = self.wanted[lane as usize].first().copied() {
            let Some(due) = self.by_id.get(&id) else { break };
            if asked.len() >= most || !asked.is_empty() && sum + due.size > bytes {
                break;
            }
            sum += due.size;
            asked.push((id, due.version));
            self.taken.insert(id);
            self.wanted[lane as usize].remove(&(seq, id));
        }
        asked
    }

    /// Takes this one, unless somebody has.
    pub fn take(&mut self, id: ObjectId) -> bool {
        let free = self.taken.insert(id);
        if let Some(due) = self.by_id.get(&id) {
            self.wanted[Lane::of(due.size) as usize].remove(&(due.seq, id));
        }
        free
    }

    /// By whoever has taken it: nothing of it is at its `Spot::Tmp`. If it is still awaited, it may be asked
    /// for again.
    pub fn give_back(&mut self, id: ObjectId) {
        self.taken.remove(&id);
        self.want(id);
    }

    /// By whoever has taken it: it came wrong, or was not to be had. Others go first, and it is not asked
    /// for before it has [`rested`](Self::rested), each time for twice as long.
    pub fn rest(&mut self, id: ObjectId, now: BootTime) {
        if let Some(due) = self.by_id.get_mut(&id) {
            due.rest = (due.rest * 2).clamp(REST, REST_MAX);
            self.resting.insert(id, BootTime(now.0 + due.rest));
        }
    }

    /// Whether there is anything to ask that was not a moment ago.
    pub fn rested(&mut self, now: BootTime) -> bool {
        let over: Vec<ObjectId> =
            self.resting.extract_if(.., |_, until| *until <= now).map(|(id, _)| id).collect();
        over.iter().for_each(|id| self.want(*id));
        !over.is_empty()
    }

    /// Somebody else is asked from now on.
    pub fn rest_no_more(&mut self) {
        let resting: Vec<ObjectId> = std::mem::take(&mut self.resting).into_keys().collect();
        for due in self.by_id.values_mut() {
            due.rest = Duration::ZERO;
        }
        resting.into_iter().for_each(|id| self.want(id));
    }

    fn want(&mut self, id: ObjectId) {
        if let Some(due) = self.by_id.get(&id)
            && !self.taken.contains(&id)
            && !self.resting.contains_key(&id)
        {
            self.wanted[Lane::of(due.size) as usize].insert((due.seq, id));
        }
    }

    pub fn contains(&self, id: ObjectId) -> bool {
        self.by_id.contains_key(&id)
    }
    /// The oldest record whose content has not come.
    pub fn oldest(&self) -> Option<Seq> {
        self.by_seq.first().map(|(seq, _)| *seq)
    }
    pub fn newest(&self) -> Option<Seq> {
        self.by_seq.last().map(|(seq, _)| *seq)
    }
    /// The oldest record since which some content is awaited, whatever later ones say of it.
    pub fn oldest_since(&self) -> Option<Seq> {
        let longer = self.longer.first().map(|(seq, _)| *seq);
        longer.into_iter().chain(self.oldest()).min()
    }
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }
    pub fn len(&self) -> usize {
        self.by_id.len()
    }
    pub fn bytes(&self) -> u64 {
        self.bytes.try_into().unwrap_or(u64::MAX)
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
        assert_eq!(ids(owed.ask(Lane::Small, 10, 1000)), [2]);
        assert_eq!(ids(owed.ask(Lane::Small, 10, 1000)), [3, 1]);
        assert!(owed.ask(Lane::Small, 10, 1000).is_empty());
        owed.give_back(ObjectId::from_bytes([3; 16]));
        assert_eq!(ids(owed.ask(Lane::Small, 10, 1000)), [3]);
        assert_eq!(owed.oldest(), Some(Seq(1)));
    }

    #[test]
    fn another_source_is_asked_at_once_for_what_rests() {
        let mut owed = Owed::default();
        let (id, now) = (ObjectId::from_bytes([1; 16]), BootTime(Duration::from_secs(9)));
        owed.add(&debt(1, 7, 1, 10));
        for _ in 0..5 {
            assert_eq!(owed.ask(Lane::Small, 1, 10).len(), 1);
            owed.rest(id, now);
            owed.give_back(id);
            assert!(owed.ask(Lane::Small, 1, 10).is_empty());
            owed.rest_no_more();
        }
        assert_eq!((owed.ask(Lane::Small, 1, 10).len(), owed.newest()), (1, Some(Seq(7))));
        // The new one has its first rest as well.
        owed.rest(id, now);
        owed.give_back(id);
        assert!(owed.rested(BootTime(now.0 + REST)));
    }

    #[test]
    fn what_a_later_record_names_is_awaited_since_the_first() {
        let mut owed = Owed::default();
        owed.add(&debt(1, 5, 2, 900));
        owed.add(&debt(2, 6, 1, 10));
        owed.add(&debt(1, 9, 2, 900));
        assert_eq!((owed.oldest(), owed.oldest_since()), (Some(Seq(6)), Some(Seq(5))));
        owed.paid(ObjectId::from_bytes([1; 16]), Version(2));
        assert_eq!((owed.oldest(), owed.oldest_since()), (Some(Seq(6)), Some(Seq(6))));
    }

    #[test]
    fn a_small_content_overtakes_older_large_ones() {
        let mut owed = Owed::default();
        owed.add(&debt(1, 1, 1, SMALL + 1));
        owed.add(&debt(2, 2, 1, SMALL));
        assert_eq!(owed.ask(Lane::Small, 10, u64::MAX)[0].0, ObjectId::from_bytes([2; 16]));
        assert_eq!(owed.ask(Lane::Large, 10, u64::MAX)[0].0, ObjectId::from_bytes([1; 16]));
        // Grown meanwhile: it changes lanes, but is not asked for twice at a time.
        owed.add(&debt(2, 3, 2, SMALL + 1));
        assert!(owed.ask(Lane::Large, 10, u64::MAX).is_empty());
        owed.give_back(ObjectId::from_bytes([2; 16]));
        assert_eq!(owed.ask(Lane::Large, 10, u64::MAX).len(), 1);
    }

    #[test]
    fn what_came_wrong_rests_before_it_is_asked_for_again() {
        let mut owed = Owed::default();
        owed.add(&debt(1, 1, 1, 10));
        assert_eq!(owed.ask(Lane::Small, 10, 1000).len(), 1);
        let at = |seconds| BootTime(Duration::from_secs(seconds));
        owed.rest(ObjectId::from_bytes([1; 16]), at(0));
        owed.give_back(ObjectId::from_bytes([1; 16]));
        assert!(owed.ask(Lane::Small, 10, 1000).is_empty());
        assert!(!owed.rested(at(0)) && owed.rested(at(1)) && !owed.rested(at(1)));
        assert_eq!(owed.ask(Lane::Small, 10, 1000).len(), 1);
    }

    /// A file that is written without pause is not to be had, and keeps nobody waiting.
    #[test]
    fn what_is_not_to_be_had_lets_the_others_go_first() {
        let mut owed = Owed::default();
        let big = SMALL + 1;
        (1..=3).for_each(|n| owed.add(&debt(n, n.into(), 1, big)));
        let (mut asked, mut had) = (0, Vec::new());
        for second in 0..200 {
            let now = BootTime(Duration::from_secs(second));
            owed.rested(now);
            let Some((id, version)) = owed.ask(Lane::Large, 1, u64::MAX).pop() else { continue };
            if id == ObjectId::from_bytes([1; 16]) {
                asked += 1;
                owed.rest(id, now);
            } else {
                had.push(id.as_bytes()[0]);
                owed.paid(id, version);
            }
            owed.give_back(id);
        }
        assert_eq!((asked, had), (9, vec![2, 3]), "again after 1, 2, 4, 8, 16, 32, 60 and 60 s");
        // A new version is asked for at once, and rests as long if that is not to be had either.
        owed.add(&debt(1, 9, 2, big));
        assert_eq!(owed.ask(Lane::Large, 1, u64::MAX).len(), 1);
    }

    /// Whoever writes to its place is the only one, whatever becomes of the debt meanwhile.
    #[test]
    fn what_is_taken_is_asked_for_by_nobody_until_it_is_given_back() {
        let id = ObjectId::from_bytes([1; 16]);
        let mut owed = Owed::default();
        owed.add(&debt(1, 1, 1, 10));
        assert_eq!(owed.ask(Lane::Small, 10, 1000).len(), 1);
        for lane in [Lane::Small, Lane::Large] {
            owed.paid(id, Version(1));
            owed.add(&debt(1, 2, 2, if lane == Lane::Small { 10 } else { SMALL + 1 }));
            assert!(owed.ask(lane, 10, 1000).is_empty());
            owed.remove(id);
            owed.add(&debt(1, 3, 3, if lane == Lane::Small { 10 } else { SMALL + 1 }));
            assert!(owed.ask(lane, 10, 1000).is_empty());
            assert!(!owed.take(id));
        }
        owed.give_back(id);
        assert_eq!(owed.ask(Lane::Large, 10, 1000).len(), 1);
        // Paid by another way, and then given back: nobody wants it.
        owed.paid(id, Version(3));
        owed.give_back(id);
        assert!(owed.ask(Lane::Large, 10, 1000).is_empty() && owed.is_empty());
        owed.add(&debt(1, 4, 4, 10));
        assert!(owed.take(id) && owed.ask(Lane::Small, 10, 1000).is_empty());
        owed.give_back(id);
        assert_eq!(owed.ask(Lane::Small, 10, 1000).len(), 1);
    }

    #[test]
    fn sizes_of_files_of_holes_are_no_trouble_together() {
        let mut owed = Owed::default();
        let most = i64::MAX as u64;
        (1..=3).for_each(|n| owed.add(&debt(n, n.into(), 1, most)));
        assert_eq!(owed.bytes(), u64::MAX);
        owed.paid(ObjectId::from_bytes([2; 16]), Version(1));
        owed.paid(ObjectId::from_bytes([1; 16]), Version(1));
        assert_eq!(owed.bytes(), most);
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
