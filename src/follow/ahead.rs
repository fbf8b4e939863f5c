//! What this site has sent home and not yet got back (R9), and what the primary asked it to hold: its
//! own copy must not answer for it. Pure: notes, answers, holds, releases.

use std::collections::BTreeSet;

use crate::catalog::Touch;
use crate::hash::{HashMap, HashSet, decrement};
use crate::id::{Gen, Name, ObjectId};
use crate::plant::{self, Bug};

/// Numbers of notes that are not of this site's requests, and in no catalog.
const HOLDS: u64 = 1 << 63;
/// Releases remembered while an answer or a grant is under way, which they may overtake.
const RECENT_MAX: usize = 65_536;

#[derive(Debug, Default)]
pub(super) struct Ahead {
    notes: HashMap<u64, Note>,
    touched: HashMap<Touch, u32>,
    /// How many touched entries a directory has: its own attributes change with them.
    entries: HashMap<ObjectId, u32>,
    /// How many touches lie in or below a directory.
    below: HashMap<ObjectId, u32>,
    /// The notes that await a release of a touch.
    awaited: HashMap<Touch, BTreeSet<u64>>,
    /// Notes whose answer is under way.
    unanswered: usize,
    /// A lease has been asked for: what was in force then may come after its release.
    grant: Grant,
    recent: HashMap<Touch, Gen>,
    /// The notes of what the primary could not tell at a barrier.
    untold: HashSet<u64>,
    /// The notes that are holds.
    held: HashMap<Touch, u64>,
    next_hold: u64,
    /// Notes of which it is not known what they are below: until then they are below everything.
    adrift: HashSet<u64>,
    /// Counts the beginnings and ends of moves of directories: what is below what is known only between.
    moves: Moves,
    /// What was in force when the newest stream began, and the newest generation then.
    started: (Gen, HashSet<Touch>),
}

/// How the directories lay when a look at the catalog began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moves(u64);

impl Moves {
    fn is_under_way(self) -> bool {
        self.0 % 2 == 1
    }
}

/// The directories above some touches, by the catalog, and when that was looked up.
#[derive(Debug, Clone, Default)]
pub(super) struct Lies {
    pub above: HashSet<ObjectId>,
    pub seen: Moves,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Grant {
    #[default]
    None,
    Awaited,
    /// Releases that overtake it may have been forgotten.
    Missed,
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
    /// The request is under way. `missed`: releases that overtake its answer may have been forgotten.
    Answer { missed: bool },
    /// Answered: these are to be released by the primary and applied here.
    Releases(HashMap<Touch, Gen>),
    /// Nobody told the outcome: a barrier ends it.
    Doubt,
    /// It ends when whoever waits for that says so: a barrier that is known, say.
    Barrier,
}

impl Ahead {
    /// [`Self::place`] has to follow.
    pub fn note(&mut self, id: u64, touches: Vec<Touch>, lies: Lies) {
        let awaits = Awaits::Answer { missed: false };
        self.unanswered += 1;
        self.notes.insert(id, Note { touches: Vec::new(), above: Vec::new(), awaits });
        self.extend(id, touches, lies);
    }

    /// The primary changes these: held until they are released through these generations. From memory
    /// alone (R5); [`Self::place`] has to follow.
    pub fn hold(&mut self, holds: Vec<(Touch, Gen)>) {
        for (touch, generation) in holds {
            if self.recent.get(&touch).is_some_and(|through| *through >= generation) {
                continue;
            }
            if let Some(id) = self.held.get(&touch) {
                if let Some(Note { awaits: Awaits::Releases(left), .. }) = self.notes.get_mut(id) {
                    let known = left.entry(touch).or_default();
                    *known = match plant::is(Bug::MergeLower) {
                        true => (*known).min(generation),
                        false => (*known).max(generation),
                    };
                }
                continue;
            }
            let id = HOLDS | self.next_hold;
            self.next_hold += 1;
            let awaits = Awaits::Releases(HashMap::from_iter([(touch.clone(), generation)]));
            self.notes.insert(id, Note { touches: Vec::new(), above: Vec::new(), awaits });
            self.awaited.entry(touch.clone()).or_default().insert(id);
            self.held.insert(touch.clone(), id);
            self.extend(id, vec![touch], Lies::default());
            self.adrift.insert(id);
        }
    }

    /// This may be changed here by nobody's order: until [`Self::remove`], whose number this says.
    /// [`Self::place`] has to follow.
    pub fn suspect(&mut self, touch: Touch) -> u64 {
        let id = HOLDS | self.next_hold;
        self.next_hold += 1;
        let awaits = Awaits::Barrier;
        self.notes.insert(id, Note { touches: Vec::new(), above: Vec::new(), awaits });
        self.extend(id, vec![touch], Lies::default());
        self.adrift.insert(id);
        id
    }

    /// Whether a request of this site awaits the release of the touch through this generation.
    pub fn awaits(&self, touch: &Touch, generation: Gen) -> bool {
        let ids = self.awaited.get(touch).into_iter().flatten().filter(|id| Self::is_own(**id));
        ids.filter_map(|id| self.notes.get(id)).any(|note| match &note.awaits {
            Awaits::Releases(left) => left.get(touch).is_some_and(|known| *known >= generation),
            _ => false,
        })
    }

    /// This site has asked for a change of the touch and knows no more of it: ahead until it is released.
    /// [`Self::place`] has to follow.
    pub fn stays(&mut self, id: u64, touch: Touch, generation: Gen) {
        let awaits = Awaits::Releases(HashMap::from_iter([(touch.clone(), generation)]));
        self.notes.insert(id, Note { touches: Vec::new(), above: Vec::new(), awaits });
        self.awaited.entry(touch.clone()).or_default().insert(id);
        self.untold.insert(id);
        self.extend(id, vec![touch], Lies::default());
        self.adrift.insert(id);
    }

    /// A lease is asked for: from now on releases may overtake what is in force with it.
    pub fn await_grant(&mut self) {
        if self.grant == Grant::None {
            self.grant = Grant::Awaited;
        }
    }

    /// It has come, or will not come.
    pub fn granted(&mut self) {
        self.grant = Grant::None;
        self.forget_unneeded();
    }

    fn overtakes(&self) -> bool {
        self.unanswered > 0 || self.grant != Grant::None
    }

    fn forget_unneeded(&mut self) {
        if !self.overtakes() {
            self.recent.clear();
        }
    }

    /// A lease begins anew: this is in force, and holds up to `newest` that are not have been released
    /// in records up to the head that comes with it (R10). `false`: some of it may be over.
    pub fn hold_anew(&mut self, force: Vec<(Touch, Gen)>, newest: Gen) -> bool {
        let still: HashSet<&Touch> = force.iter().map(|(touch, _)| touch).collect();
        let over = |touch: &Touch, id: &u64| match self.notes.get(id) {
            Some(Note { awaits: Awaits::Releases(left), .. }) => {
                !still.contains(touch) && left.get(touch).is_none_or(|held| *held <= newest)
            }
            _ => false,
        };
        let gone: Vec<u64> =
            self.held.iter().filter(|(touch, id)| over(touch, id)).map(|(_, id)| *id).collect();
        for id in gone {
            self.remove(id);
        }
        // What the journal's stream, opened since, no longer had in force.
        let (then, left) = &self.started;
        let late = force.iter().any(|(touch, held)| held <= then && !left.contains(touch));
        self.hold(force);
        !late && self.grant != Grant::Missed
    }

    /// Notes that are not known to be below only some directories, and what they are about.
    pub fn adrift(&self) -> Vec<(u64, Vec<Touch>)> {
        let of = |id: &u64| self.notes.get(id).map(|note| (*id, note.touches.clone()));
        self.adrift.iter().filter_map(of).collect()
    }

    /// What a note is below.
    pub fn place(&mut self, id: u64, lies: Lies) {
        if self.adrift.remove(&id) {
            self.extend(id, Vec::new(), lies);
        }
    }

    /// Directories are about to move: what is below them is not known until they have.
    pub fn begin_moves(&mut self) {
        if !self.moves.is_under_way() {
            self.moves.0 += 1;
            self.set_adrift();
        }
    }

    /// They have, by the catalog. [`Self::place`] has to follow.
    pub fn end_moves(&mut self) {
        if self.moves.is_under_way() {
            self.moves.0 += 1;
            self.set_adrift();
        }
    }

    pub fn moves(&self) -> Moves {
        self.moves
    }

    fn set_adrift(&mut self) {
        for (id, note) in &mut self.notes {
            for dir in note.above.drain(..) {
                decrement(&mut self.below, &dir);
            }
            self.adrift.insert(*id);
        }
    }

    /// What a note is about, so far as is known.
    fn extend(&mut self, id: u64, touches: Vec<Touch>, lies: Lies) {
        let Some(note) = self.notes.get_mut(&id) else { return };
        let known = lies.seen == self.moves && !self.moves.is_under_way();
        let above = if known { lies.above } else { HashSet::default() };
        if !known {
            self.adrift.insert(id);
        }
        for touch in &touches {
            *self.touched.entry(touch.clone()).or_default() += 1;
            if let Touch::Entry(dir, _) = touch {
                *self.entries.entry(*dir).or_default() += 1;
            }
        }
        for dir in &above {
            *self.below.entry(*dir).or_default() += 1;
        }
        note.touches.extend(touches);
        note.above.extend(above);
    }

    /// The primary answered: these releases end the note. `true`: they have come already, it is dropped.
    /// What they are about is ahead as well, whatever the catalog here thought the request would touch.
    /// [`Self::place`] has to follow.
    pub fn answered(&mut self, id: u64, awaits: Vec<(Touch, Gen)>, lies: Lies) -> bool {
        let mut left: HashMap<Touch, Gen> = awaits.into_iter().collect();
        left.retain(|touch, generation| {
            self.recent.get(touch).is_none_or(|through| through < generation)
        });
        let (newest, force) = &self.started;
        // Released before the stream began, but perhaps not all of it is here yet.
        let missed =
            left.iter().any(|(touch, generation)| generation <= newest && !force.contains(touch));
        let Some(note) = self.notes.get(&id) else { return true };
        if missed || matches!(note.awaits, Awaits::Answer { missed: true }) && !left.is_empty() {
            self.doubt(id);
            return false;
        }
        if left.is_empty() {
            self.remove(id);
            return true;
        }
        for touch in left.keys() {
            self.awaited.entry(touch.clone()).or_default().insert(id);
        }
        self.extend(id, left.keys().cloned().collect(), lies);
        self.turn(id, Awaits::Releases(left));
        false
    }

    pub fn doubt(&mut self, id: u64) {
        self.turn(id, Awaits::Doubt);
    }

    fn turn(&mut self, id: u64, awaits: Awaits) {
        let Some(note) = self.notes.get_mut(&id) else { return };
        if let Awaits::Answer { .. } = std::mem::replace(&mut note.awaits, awaits) {
            self.unanswered -= 1;
        }
        self.forget_unneeded();
    }

    /// Whether a release of this touch could end anything: all others need not be waited for.
    pub fn cares(&self, touch: &Touch) -> bool {
        self.overtakes() || self.awaited.contains_key(touch)
    }

    /// Releases whose changes are applied here. Says which notes are done.
    pub fn released(&mut self, releases: &[(Touch, Gen)]) -> Vec<u64> {
        let mut done = Vec::new();
        for (touch, through) in releases {
            let Some(ids) = self.awaited.get_mut(touch) else { continue };
            ids.retain(|id| {
                let Some(Note { awaits: Awaits::Releases(left), .. }) = self.notes.get_mut(id) else {
                    return false;
                };
                let later = left.get(touch).is_some_and(|generation| generation > through);
                if later && !plant::is(Bug::ReleaseAnyGeneration) {
                    return true;
                }
                left.remove(touch);
                if left.is_empty() {
                    done.push(*id);
                }
                false
            });
            if ids.is_empty() {
                self.awaited.remove(touch);
            }
        }
        if self.overtakes() {
            self.remember(releases);
        }
        for id in &done {
            self.remove(*id);
        }
        done
    }

    fn remember(&mut self, releases: &[(Touch, Gen)]) {
        for (touch, through) in releases {
            let known = self.recent.entry(touch.clone()).or_default();
            *known = (*known).max(*through);
        }
        if self.recent.len() > RECENT_MAX {
            self.forget_recent();
        }
    }

    /// Releases were forgotten: an answer that is under way may never see its own, a barrier ends it; a
    /// grant may hold what is released.
    pub fn forget_recent(&mut self) {
        self.recent.clear();
        if self.grant == Grant::Awaited {
            self.grant = Grant::Missed;
        }
        for note in self.notes.values_mut() {
            if let Awaits::Answer { missed } = &mut note.awaits {
                *missed = true;
            }
        }
    }

    /// As `forget_recent`, for releases of these touches. `true`: some are of holds, which only a fresh
    /// lease can end now.
    pub fn doubt_all<'a>(&mut self, touches: impl Iterator<Item = &'a Touch>) -> bool {
        let ids: BTreeSet<u64> =
            touches.filter_map(|touch| self.awaited.get(touch)).flatten().copied().collect();
        let (own, holds): (Vec<u64>, Vec<u64>) = ids.into_iter().partition(|id| Self::is_own(*id));
        own.into_iter().for_each(|id| self.doubt(id));
        !holds.is_empty()
    }

    /// A stream begins: whatever is awaited and no longer in force at the primary was released (R10),
    /// in records that came before. Says what that is.
    pub fn in_force(&mut self, force: Vec<(Touch, Gen)>, newest: Gen) -> Vec<(Touch, Gen)> {
        let force: HashSet<Touch> = force.into_iter().map(|(touch, _)| touch).collect();
        let released = self.awaited.keys().filter(|touch| !force.contains(touch));
        let released = released.map(|touch| (touch.clone(), newest)).collect();
        self.started = (newest, force);
        released
    }

    /// Whether there was such a note.
    pub fn remove(&mut self, id: u64) -> bool {
        self.turn(id, Awaits::Doubt);
        let Some(note) = self.notes.remove(&id) else { return false };
        self.adrift.remove(&id);
        self.untold.remove(&id);
        for touch in &note.touches {
            if self.held.get(touch) == Some(&id) {
                self.held.remove(touch);
            }
            decrement(&mut self.touched, touch);
            if let Touch::Entry(dir, _) = touch {
                decrement(&mut self.entries, dir);
            }
            if let Some(ids) = self.awaited.get_mut(touch) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.awaited.remove(touch);
                }
            }
        }
        for dir in &note.above {
            decrement(&mut self.below, dir);
        }
        true
    }

    /// Notes that a barrier is to be asked for.
    pub fn in_doubt(&self) -> Vec<u64> {
        let doubted = self.notes.iter().filter(|(_, note)| matches!(note.awaits, Awaits::Doubt));
        doubted.map(|(id, _)| *id).collect()
    }

    /// A barrier for these is known; it need not be asked for again.
    pub fn barred(&mut self, ids: &[u64]) {
        for id in ids {
            if let Some(note) = self.notes.get_mut(id)
                && matches!(note.awaits, Awaits::Doubt)
            {
                note.awaits = Awaits::Barrier;
            }
        }
    }

    pub fn len(&self) -> usize {
        self.notes.len()
    }
    /// Requests of this site.
    pub fn own(&self) -> usize {
        self.notes.len() - self.held.len()
    }
    /// Requests of this site of which the primary has not said that it cannot tell what became of them; and
    /// touches of which it has.
    pub fn own_and_untold(&self) -> (usize, usize) {
        (self.own() - self.untold.len(), self.untold.len())
    }
    /// Whether a note is of a request of this site, and so in the catalog.
    pub fn is_own(id: u64) -> bool {
        id & HOLDS == 0
    }
    pub fn entry(&self, dir: ObjectId, name: &Name) -> bool {
        // Most directories have none: no name is copied to ask.
        self.entries.contains_key(&dir) && self.touched.contains_key(&Touch::Entry(dir, name.clone()))
    }
    /// The object itself, a directory's own attributes included. What touches the root may touch
    /// everything.
    pub fn object(&self, id: ObjectId) -> bool {
        self.touched.contains_key(&Touch::Object(id))
            || self.touched.contains_key(&Touch::Object(ObjectId::ROOT))
            || self.entries.contains_key(&id)
    }
    /// All of a directory: its entries and whatever is below them.
    pub fn whole(&self, dir: ObjectId) -> bool {
        self.touched.contains_key(&Touch::Object(dir))
    }
    pub fn below(&self, dir: ObjectId) -> bool {
        self.below.contains_key(&dir) || !self.adrift.is_empty()
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
        ahead.note(id, vec![touch(n)], below([ObjectId::ROOT]));
        ahead
    }

    fn none() -> Lies {
        Lies::default()
    }
    fn below<const N: usize>(above: [ObjectId; N]) -> Lies {
        Lies { above: HashSet::from_iter(above), seen: Moves::default() }
    }

    #[test]
    fn only_its_own_generation_releases_a_note() {
        let mut ahead = noted(1, 7);
        assert!(!ahead.answered(1, vec![(touch(7), Gen(5))], none()));
        assert!(ahead.released(&[(touch(7), Gen(4))]).is_empty());
        assert!(ahead.below(ObjectId::ROOT));
        assert_eq!(ahead.released(&[(touch(7), Gen(5))]), vec![1]);
        assert!(!ahead.below(ObjectId::ROOT) && ahead.len() == 0 && !ahead.cares(&touch(7)));
    }

    #[test]
    fn a_release_may_overtake_the_answer() {
        let mut ahead = noted(1, 7);
        assert!(ahead.cares(&touch(7)));
        assert!(ahead.released(&[(touch(7), Gen(5))]).is_empty());
        assert!(ahead.answered(1, vec![(touch(7), Gen(5))], none()));
        assert_eq!(ahead.len(), 0);
    }

    #[test]
    fn releases_that_had_to_be_forgotten_leave_a_doubt() {
        let mut ahead = noted(1, 7);
        ahead.released(&[(touch(7), Gen(5))]);
        ahead.forget_recent();
        assert!(!ahead.answered(1, vec![(touch(7), Gen(5))], none()));
        assert_eq!(ahead.in_doubt(), vec![1]);
        ahead.barred(&[1]);
        assert!(ahead.in_doubt().is_empty());
        assert!(ahead.remove(1) && !ahead.remove(1));
    }

    #[test]
    fn an_answer_that_a_new_stream_overtook_awaits_what_was_in_force_or_a_barrier() {
        let mut ahead = noted(1, 7);
        ahead.in_force(vec![(touch(8), Gen(3))], Gen(6));
        assert!(!ahead.answered(1, vec![(touch(7), Gen(5))], none()));
        assert_eq!(ahead.in_doubt(), vec![1]);
        let mut ahead = noted(1, 7);
        ahead.in_force(vec![(touch(7), Gen(5))], Gen(6));
        assert!(!ahead.answered(1, vec![(touch(7), Gen(5))], none()));
        assert_eq!(ahead.released(&[(touch(7), Gen(5))]), vec![1]);
    }

    #[test]
    fn a_new_stream_releases_what_is_not_in_force_but_no_doubt() {
        let mut ahead = noted(1, 7);
        ahead.answered(1, vec![(touch(7), Gen(5))], none());
        ahead.note(2, vec![touch(8)], none());
        ahead.doubt(2);
        assert!(ahead.in_force(vec![(touch(7), Gen(9))], Gen(9)).is_empty());
        let released = ahead.in_force(vec![], Gen(4));
        assert!(ahead.released(&released).is_empty(), "a later generation than the stream's start");
        let released = ahead.in_force(vec![], Gen(9));
        assert_eq!(ahead.released(&released), vec![1]);
        assert_eq!(ahead.in_doubt(), vec![2]);
    }

    #[test]
    fn a_hold_lasts_until_its_last_generation_is_released() {
        let mut ahead = Ahead::default();
        ahead.hold(vec![(touch(7), Gen(3))]);
        ahead.hold(vec![(touch(7), Gen(5)), (touch(8), Gen(5))]);
        assert!(ahead.cares(&touch(7)) && ahead.whole(ObjectId::from_bytes([7; 16])));
        assert!(ahead.released(&[(touch(7), Gen(4))]).is_empty());
        assert_eq!((ahead.len(), ahead.own()), (2, 0));
        let done = ahead.released(&[(touch(7), Gen(5)), (touch(8), Gen(9))]);
        assert!(done.len() == 2 && done.iter().all(|id| !Ahead::is_own(*id)));
        assert!(ahead.len() == 0 && ahead.touched.is_empty() && ahead.held.is_empty());
    }

    /// R4: a barrier says nothing of holds, and a forgotten release must not make one deaf.
    #[test]
    fn a_hold_whose_release_was_forgotten_is_still_one() {
        let mut ahead = noted(1, 7);
        ahead.answered(1, vec![(touch(7), Gen(3))], none());
        ahead.hold(vec![(touch(7), Gen(3))]);
        assert!(ahead.doubt_all([touch(7)].iter()), "a fresh lease is needed");
        assert_eq!(ahead.in_doubt(), vec![1]);
        ahead.hold(vec![(touch(7), Gen(8))]);
        assert!(ahead.remove(1) && ahead.whole(ObjectId::from_bytes([7; 16])));
        assert!(ahead.released(&[(touch(7), Gen(5))]).is_empty());
        assert!(ahead.hold_anew(vec![], Gen(8)) && ahead.len() == 0);
        assert!(!ahead.doubt_all([touch(7)].iter()));
    }

    #[test]
    fn until_it_is_placed_a_hold_is_below_everything() {
        let mut ahead = Ahead::default();
        ahead.hold(vec![(touch(7), Gen(3))]);
        assert!(ahead.below(ObjectId::from_bytes([1; 16])));
        let (id, touches) = ahead.adrift().pop().unwrap();
        assert_eq!(touches, vec![touch(7)]);
        let lies = below([ObjectId::from_bytes([2; 16])]);
        ahead.place(id, lies.clone());
        assert!(!ahead.below(ObjectId::from_bytes([1; 16])));
        assert!(ahead.below(ObjectId::from_bytes([2; 16])));
        // Directories move: what was looked up before or meanwhile says nothing any more.
        ahead.begin_moves();
        assert!(ahead.below(ObjectId::from_bytes([1; 16])) && ahead.below.is_empty());
        ahead.place(id, lies.clone());
        let meanwhile = Lies { seen: ahead.moves(), ..lies.clone() };
        ahead.place(id, meanwhile.clone());
        ahead.end_moves();
        for stale in [lies.clone(), meanwhile] {
            ahead.place(id, stale.clone());
            ahead.note(1, vec![touch(8)], stale);
            assert!(ahead.below(ObjectId::from_bytes([1; 16])) && ahead.below.is_empty());
            ahead.remove(1);
        }
        ahead.place(id, Lies { seen: ahead.moves(), ..lies });
        assert!(!ahead.below(ObjectId::from_bytes([1; 16])));
        ahead.remove(id);
        assert!(ahead.adrift.is_empty() && ahead.below.is_empty());
    }

    /// R10: what overtook the grant stays, what it does not name is over.
    #[test]
    fn a_fresh_lease_ends_what_is_not_in_force() {
        let mut ahead = noted(1, 1);
        ahead.hold(vec![(touch(7), Gen(3)), (touch(8), Gen(4)), (touch(9), Gen(12))]);
        ahead.hold_anew(vec![(touch(8), Gen(6))], Gen(10));
        assert!(!ahead.cares(&touch(7)) || ahead.unanswered > 0);
        assert!(!ahead.held.contains_key(&touch(7)) && ahead.held.contains_key(&touch(9)));
        assert!(ahead.released(&[(touch(8), Gen(5))]).is_empty(), "the higher generation wins");
        assert_eq!(ahead.own(), 1);
    }

    #[test]
    fn what_the_primary_cannot_tell_is_counted_by_itself() {
        let mut ahead = noted(1, 1);
        ahead.hold(vec![(touch(7), Gen(3))]);
        ahead.stays(2, touch(8), Gen(4));
        assert_eq!(ahead.own_and_untold(), (1, 1));
        ahead.remove(2);
        assert_eq!(ahead.own_and_untold(), (1, 0));
        ahead.remove(1);
        assert_eq!(ahead.own_and_untold(), (0, 0));
    }

    #[test]
    fn what_the_primary_names_is_ahead_too() {
        let mut ahead = noted(1, 7);
        let entry = Touch::Entry(ObjectId::from_bytes([3; 16]), Name::new(b"n").unwrap());
        ahead.answered(1, vec![(entry, Gen(5))], below([ObjectId::from_bytes([3; 16])]));
        assert!(ahead.entry(ObjectId::from_bytes([3; 16]), &Name::new(b"n").unwrap()));
        assert!(ahead.object(ObjectId::from_bytes([3; 16])), "the directory's own times");
        ahead.remove(1);
        assert!(ahead.touched.is_empty() && ahead.entries.is_empty() && ahead.below.is_empty());
        assert!(ahead.awaited.is_empty());
    }

    #[test]
    fn a_grant_that_its_releases_overtook_holds_nothing_for_ever() {
        let mut ahead = Ahead::default();
        ahead.await_grant();
        assert!(ahead.cares(&touch(7)));
        ahead.released(&[(touch(7), Gen(5))]);
        assert!(ahead.hold_anew(vec![(touch(7), Gen(5)), (touch(8), Gen(6))], Gen(6)));
        assert!(!ahead.whole(ObjectId::from_bytes([7; 16])) && ahead.len() == 1);
        ahead.hold(vec![(touch(7), Gen(6))]);
        assert_eq!(ahead.len(), 2, "a later change");
        ahead.granted();
        assert!(!ahead.cares(&touch(9)));
        // Too many to be remembered: a fresh one is needed.
        ahead.await_grant();
        ahead.forget_recent();
        assert!(!ahead.hold_anew(vec![], Gen(7)));
        ahead.granted();
        // The journal's stream began in between.
        ahead.await_grant();
        ahead.in_force(vec![(touch(8), Gen(6))], Gen(9));
        assert!(!ahead.hold_anew(vec![(touch(8), Gen(6)), (touch(7), Gen(8))], Gen(8)));
        assert!(ahead.hold_anew(vec![(touch(8), Gen(6)), (touch(9), Gen(10))], Gen(10)));
    }
}
