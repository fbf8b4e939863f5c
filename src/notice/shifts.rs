//! Changes on whose way a directory is moved while the server is at them (R2): where that writes then is neither
//! where the way led when the change began, nor where it leads when it ends. Directories that are moved meanwhile
//! are kept in mind for those changes alone on whose way something has been moved.
//!
//! ```text
//!   enter             place: its own way, and what it moves itself          leave
//!  --------> unplaced ------------------------------------------> placed ----------->
//!                |                                                  |
//!                +-- another moves something: kept for `place`      +-- on its way: shaken, and that counts,
//!                                                                       and all that is moved from then on
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use super::lock;
use super::table::Held;
use crate::catalog::Touch;
use crate::id::{ObjectId, RelPath};

/// Directories of one change; beyond it all of the share is meant.
const MET_MAX: usize = 256;
/// The number of no change.
const NOBODY: u64 = 0;

/// Where a target is, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    /// Without a symbolic link above its last name; none if that cannot be told.
    pub path: Option<RelPath>,
    /// It is reached over symbolic links.
    pub over_links: bool,
    /// Something is there that a way may lead over: a directory, or a symbolic link.
    pub leads: bool,
}

impl Way {
    /// Whether another way may lead over what is here.
    fn carries(&self, other: &Self) -> bool {
        let (Some(own), Some(path)) = (&self.path, &other.path) else { return self.leads };
        let is_above = path.names().len() > own.names().len() && path.names().starts_with(own.names());
        self.leads && (is_above || other.over_links)
    }
}

/// What one change may move: the places, and the directories there.
#[derive(Debug, Clone, Default)]
struct Shift {
    ways: Vec<Way>,
    dirs: BTreeSet<(Touch, ObjectId)>,
}

#[derive(Default)]
struct Flight {
    /// None while it is not placed.
    ways: Option<Vec<Way>>,
    /// What it moves itself, if it may.
    shift: Option<Shift>,
    /// Others that have moved something on its way, or may yet.
    shaken_by: BTreeSet<u64>,
    /// All that others have moved since the first of them.
    met: BTreeMap<u64, Shift>,
    too_many: bool,
}

impl Flight {
    fn meet(&mut self, number: u64, shift: &Shift) {
        let many: usize = self.met.values().map(|shift| shift.dirs.len().max(1)).sum();
        if self.too_many || many + shift.dirs.len() > MET_MAX {
            self.too_many = true;
            self.met.clear();
            return;
        }
        let known = self.met.entry(number).or_default();
        known.ways.clone_from(&shift.ways);
        known.dirs.extend(shift.dirs.iter().cloned());
    }

    /// By whom is no longer counted, nor taken back.
    fn note_many(&mut self) {
        if self.too_many && self.ways.is_some() {
            self.shaken_by = BTreeSet::from([NOBODY]);
        }
    }

    fn is_shaken(&self, shift: &Shift) -> bool {
        let on = |way: &Way| self.ways.iter().flatten().any(|own| way.carries(own));
        shift.ways.iter().any(on)
    }
}

/// Directories that may have been on a change's way.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Met {
    These(Vec<ObjectId>),
    TooMany,
}

#[derive(Default)]
pub(super) struct Shifts {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    flights: BTreeMap<u64, Flight>,
}

impl Open {
    /// What `number` moves, or has moved, is met by all others.
    fn tell(&mut self, number: u64, shift: &Shift) {
        let mut newly = Vec::new();
        for (other, flight) in self.flights.iter_mut().filter(|(other, _)| **other != number) {
            if flight.is_shaken(shift) && !flight.too_many {
                if flight.shaken_by.is_empty() {
                    newly.push(*other);
                }
                flight.shaken_by.insert(number);
            }
            if flight.ways.is_none() || !flight.shaken_by.is_empty() {
                flight.meet(number, shift);
                flight.note_many();
            }
        }
        for other in newly {
            self.meet_all(other);
        }
    }

    /// What others are moving now is met by `number`.
    fn meet_all(&mut self, number: u64) {
        let others = self.flights.iter().filter(|(other, _)| **other != number);
        let shifts: Vec<(u64, Shift)> =
            others.filter_map(|(other, flight)| Some((*other, flight.shift.clone()?))).collect();
        let Some(flight) = self.flights.get_mut(&number) else { return };
        shifts.iter().for_each(|(other, shift)| flight.meet(*other, shift));
        flight.note_many();
    }
}

/// The directories at the entries of a change.
fn dirs(held: &[Held]) -> BTreeSet<(Touch, ObjectId)> {
    held.iter().filter_map(|held| Some((held.touch.clone(), held.object?))).collect()
}

impl Shifts {
    /// A change is about to be looked for on the disk.
    pub fn enter(&self) -> u64 {
        let mut open = lock(&self.open);
        open.next += 1;
        let number = open.next;
        open.flights.insert(number, Flight::default());
        number
    }

    /// Its turn has come, and the server has not heard of it.
    pub fn place(&self, number: u64, ways: Vec<Way>, held: &[Held]) {
        let shift =
            ways.iter().any(|way| way.leads).then(|| Shift { ways: ways.clone(), dirs: dirs(held) });
        let mut open = lock(&self.open);
        open.meet_all(number);
        let Some(flight) = open.flights.get_mut(&number) else { return };
        flight.ways = Some(ways);
        flight.shift.clone_from(&shift);
        let shakers: Vec<u64> = flight
            .met
            .iter()
            .filter(|(_, shift)| flight.is_shaken(shift))
            .map(|(other, _)| *other)
            .collect();
        flight.shaken_by.extend(shakers);
        flight.note_many();
        if flight.shaken_by.is_empty() {
            flight.met.clear();
        }
        if let Some(shift) = shift {
            open.tell(number, &shift);
        }
    }

    /// The server has answered, and this is at its entries now. What has moved nothing was on nobody's way.
    pub fn moved(&self, number: u64, held: &[Held]) {
        let now = dirs(held);
        let mut open = lock(&self.open);
        let Some(flight) = open.flights.get_mut(&number) else { return };
        match flight.shift.take() {
            None if now.is_empty() => return,
            Some(before) if before.dirs == now && !now.is_empty() => {
                open.withdraw(number);
                return;
            }
            _ => {}
        }
        let mut ways = flight.ways.clone().unwrap_or_default();
        ways.iter_mut().for_each(|way| way.leads = true);
        open.tell(number, &Shift { ways, dirs: now });
    }

    /// The server has refused it, or has not heard of it.
    pub fn kept(&self, number: u64) {
        lock(&self.open).withdraw(number);
    }

    /// What may have been on the way of `number` beside what is there now.
    pub fn met(&self, number: u64) -> Met {
        let open = lock(&self.open);
        let Some(flight) = open.flights.get(&number).filter(|it| !it.shaken_by.is_empty()) else {
            return Met::These(Vec::new());
        };
        if flight.too_many {
            return Met::TooMany;
        }
        let dirs: BTreeSet<ObjectId> =
            flight.met.values().flat_map(|shift| shift.dirs.iter().map(|(_, id)| *id)).collect();
        Met::These(dirs.into_iter().collect())
    }

    pub fn leave(&self, number: u64) {
        lock(&self.open).flights.remove(&number);
    }
}

impl Open {
    fn withdraw(&mut self, number: u64) {
        for flight in self.flights.values_mut() {
            flight.met.remove(&number);
            let was_shaken = flight.shaken_by.remove(&number);
            if was_shaken && flight.shaken_by.is_empty() {
                flight.met.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Name;

    fn id(n: u8) -> ObjectId {
        ObjectId::from_bytes([n; 16])
    }
    fn way(path: &str, leads: bool) -> Way {
        Way { path: Some(RelPath::parse(path.as_bytes()).unwrap()), over_links: false, leads }
    }
    fn at(object: Option<u8>) -> Held {
        let touch = Touch::Entry(ObjectId::ROOT, Name::new(b"n").unwrap());
        Held { touch, above: Vec::new(), object: object.map(id) }
    }
    fn begun(shifts: &Shifts, ways: Vec<Way>, dir: Option<u8>) -> u64 {
        let number = shifts.enter();
        shifts.place(number, ways, &[at(dir)]);
        number
    }
    fn ended(shifts: &Shifts, number: u64, dir: Option<u8>) {
        shifts.moved(number, &[at(dir)]);
        shifts.leave(number);
    }
    fn these(dirs: &[u8]) -> Met {
        Met::These(dirs.iter().copied().map(id).collect())
    }

    #[test]
    fn what_is_moved_since_something_on_the_way_was_is_met() {
        let shifts = Shifts::default();
        let put = begun(&shifts, vec![way("d/s/f", false)], None);
        let beside = begun(&shifts, vec![way("d2/f", false)], None);
        let earlier = begun(&shifts, vec![way("a", true), way("b", false)], Some(1));
        ended(&shifts, earlier, Some(2));
        assert_eq!(shifts.met(put), these(&[]));
        let under_way = begun(&shifts, vec![way("e", true), way("e2", false)], Some(3));
        let first = begun(&shifts, vec![way("d", true), way("x", false)], Some(4));
        let second = begun(&shifts, vec![way("y/s", true), way("x/s", false)], Some(5));
        ended(&shifts, first, None);
        // It was taken back: nothing is where it was.
        ended(&shifts, second, Some(5));
        shifts.leave(under_way);
        assert_eq!(shifts.met(put), these(&[3, 4]));
        assert_eq!(shifts.met(beside), these(&[]));
        let late = begun(&shifts, vec![way("d/s/g", false)], None);
        assert_eq!(shifts.met(late), these(&[]));
    }

    #[test]
    fn what_moves_nothing_is_on_nobodys_way() {
        let shifts = Shifts::default();
        let put = begun(&shifts, vec![way("d/f", false)], None);
        let attributes = begun(&shifts, vec![way("d", true)], Some(1));
        assert_eq!(shifts.met(put), these(&[1]));
        ended(&shifts, attributes, Some(1));
        assert_eq!(shifts.met(put), these(&[]));
        let refused = begun(&shifts, vec![way("d", true)], Some(1));
        shifts.kept(refused);
        shifts.leave(refused);
        assert_eq!(shifts.met(put), these(&[]));
        // Nobody knows what became of it.
        let doubt = begun(&shifts, vec![way("d", true)], Some(1));
        shifts.leave(doubt);
        assert_eq!(shifts.met(put), these(&[1]));
    }

    #[test]
    fn what_is_moved_while_a_change_is_looked_for_is_met() {
        let shifts = Shifts::default();
        let (put, other) = (shifts.enter(), shifts.enter());
        let moved = begun(&shifts, vec![way("d", true), way("x", false)], Some(1));
        shifts.moved(moved, &[at(Some(2))]);
        shifts.leave(moved);
        shifts.place(put, vec![way("d/f", false)], &[at(None)]);
        shifts.place(other, vec![way("e/f", false)], &[at(None)]);
        assert_eq!((shifts.met(put), shifts.met(other)), (these(&[1, 2]), these(&[])));
    }

    #[test]
    fn a_way_over_links_may_lead_over_anything() {
        let shifts = Shifts::default();
        let over = begun(&shifts, vec![Way { over_links: true, ..way("d/f", false) }], None);
        let unknown = begun(&shifts, vec![Way { path: None, ..way("f", false) }], None);
        let link = begun(&shifts, vec![way("l", true)], None);
        ended(&shifts, link, None);
        let moved = begun(&shifts, vec![way("e", true)], Some(1));
        ended(&shifts, moved, None);
        assert_eq!((shifts.met(over), shifts.met(unknown)), (these(&[1]), these(&[1])));
    }

    #[test]
    fn of_too_many_no_list_is_kept() {
        let shifts = Shifts::default();
        let put = begun(&shifts, vec![way("d/f", false)], None);
        for _ in 0..=MET_MAX {
            let moved = begun(&shifts, vec![way("d", true)], Some(1));
            ended(&shifts, moved, None);
        }
        assert_eq!(shifts.met(put), Met::TooMany);
        let open = lock(&shifts.open);
        let flight = &open.flights[&put];
        assert!(flight.met.is_empty() && flight.shaken_by.len() == 1);
    }
}
