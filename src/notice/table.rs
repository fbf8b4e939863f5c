//! Which touches are marked, which of them are in flight, and what is to be looked at next. Pure: it
//! is handed the time and does nothing by itself.
//!
//! ```text
//!            begin                    answered / refused / doubt
//!  (clean) --------> in flight ------------------------------------> queued
//!     ^                  ^ begin (a later generation)                  | take
//!     |                  +------------------------------+              v
//!     +---- close: nothing began or flew meanwhile -----+---------- looking
//!     |                                                 |              | looked: likewise, strict
//!     |                                                 +-- unsettled: queued again, later
//!     +---- ripe: quiet since, and nobody leans on it <-------------- lingering
//! ```
//!
//! In a strict share the peers hold what is marked ([`hold`](Table::hold)), and a mark lingers after the
//! look, so that a burst asks them once.

mod hold;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use self::hold::Level;
pub(super) use self::hold::{Above, Ask, Held};
use crate::catalog::Touch;
use crate::clock::BootTime;
use crate::hash::HashMap;
use crate::hold::Question;
use crate::id::{Gen, ObjectId, SiteId};
use crate::plant::{self, Bug};

/// A mark in force.
#[derive(Debug, Clone, Default)]
struct Mark {
    /// Of the latest change.
    generation: Gen,
    in_flight: u32,
    /// Counts the changes begun, so that a look can tell whether one began meanwhile.
    begun: u64,
    /// The number of the latest of them among all.
    latest: u64,
    deep: bool,
    /// A look at it has yet to be taken.
    waits: bool,
    /// Of a change whose outcome nobody told (R18): looked at with back-off, and the look after so many is
    /// believed.
    doubt: Option<u32>,
    looks: u32,
    /// When the next look counts towards the end of the doubt: one is under way to it, and others count nothing.
    doubted: Option<BootTime>,
    /// Looks in a row that found it unsettled.
    unsettled: u32,
    /// The last look could not read what is there: it is not in the journal.
    unread: bool,
    /// The other sites that asked for changes of it; none is known of what an earlier process was asked for.
    askers: Vec<SiteId>,
    of_before: bool,
    /// What the peers were asked for it; none while they have not been.
    question: Option<Asked>,
    /// A wider mark that they hold instead.
    cover: Option<Touch>,
    /// The directories from the mark up to that one, which says it is of the last of them.
    above: Vec<ObjectId>,
    /// Marks that lean on this one.
    members: u32,
    /// `begun` when a look found it settled and what it found was journalled.
    looked: Option<u64>,
    /// When something last happened to it.
    stirred: BootTime,
}

/// Whom a mark waits for before its change may be relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// Nobody had a lease.
    Nobody,
    Of(Question),
}

/// One thing to look at on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hint {
    pub touch: Touch,
    /// Also everything below it, however unchanged it looks.
    pub deep: bool,
}

/// What the worker does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Job {
    Look(Hint),
    /// Everything queued before this has been looked at.
    Flush(u64),
}

/// A mark as it was before the first read of its disk state (R4).
#[derive(Debug, Clone)]
pub(super) struct Closing {
    touch: Touch,
    begun: u64,
}

impl Closing {
    pub fn touch(&self) -> &Touch {
        &self.touch
    }
}

/// A change in doubt is looked at again after 1, 2, 4 ... 60 s.
const DOUBT_FIRST: Duration = Duration::from_secs(1);
const DOUBT_MAX: Duration = Duration::from_secs(60);
/// A server that was not sent all of a change can only be tidying up: after 1 + 2 + 4 s it has.
const TIDYING_LOOKS: u32 = 3;
/// What is unsettled is looked at again after 25, 50 ... 3200 ms: the first above the time stamps'
/// granularity (R17), the others for a file that somebody keeps writing.
const SETTLE: Duration = Duration::from_millis(25);
const SETTLE_DOUBLINGS: u32 = 7;

#[derive(Debug, Default)]
pub(super) struct Table {
    marks: HashMap<Touch, Mark>,
    /// In the order in which the changes were answered (R20), with how many had begun by then.
    queue: VecDeque<(u64, Job)>,
    /// Changes begun.
    begins: u64,
    /// The number of the latest that may reach anything below what it names.
    deepest: u64,
    later: BTreeMap<(BootTime, u64), Hint>,
    serial: u64,
    /// The newest generation begun.
    newest: Gen,
    /// Closed, but the copies have not been told: still in force for whoever asks now.
    untold: HashMap<Touch, Gen>,
    /// Marks that are released when they have been quiet until then.
    lingering: BTreeMap<(BootTime, u64), Touch>,
    /// How many marks below a directory lean on a wider one that is not below it.
    leaning: HashMap<ObjectId, u32>,
    /// How often each directory's entries were asked about lately (R3).
    asked: HashMap<(ObjectId, Level), (BootTime, u32)>,
}

impl Table {
    /// No generation below `newest` is in force but those that are remembered.
    pub fn start(&mut self, newest: Gen) {
        self.newest = newest;
    }

    pub fn begin(&mut self, touches: &[Touch], generation: Gen, deep: bool) {
        self.newest = self.newest.max(generation);
        self.begins += 1;
        for touch in touches {
            let mark = self.marks.entry(touch.clone()).or_default();
            mark.generation = mark.generation.max(generation);
            mark.in_flight += 1;
            mark.begun += 1;
            mark.latest = self.begins;
            mark.deep |= deep;
        }
        if deep {
            self.deepest = self.begins;
        }
    }

    /// Another site asked for the change of these that has begun.
    pub fn asked_by(&mut self, site: &SiteId, touches: &[Touch]) {
        for touch in touches {
            if let Some(mark) = self.marks.get_mut(touch)
                && !mark.askers.contains(site)
            {
                mark.askers.push(site.clone());
            }
        }
    }

    /// The outcome is known: what the change touched is looked at, in this order. Says the
    /// generation up to which each touch will be released.
    pub fn answered(&mut self, touches: &[Touch]) -> Vec<(Touch, Gen)> {
        touches.iter().filter_map(|touch| self.landed(touch, None)).collect()
    }

    /// The outcome is not known (R18).
    pub fn doubt(&mut self, touches: &[Touch]) {
        for touch in touches {
            self.landed(touch, Some(u32::MAX));
        }
    }

    /// The server was not sent all of it.
    pub fn broke_off(&mut self, touches: &[Touch]) {
        for touch in touches {
            self.landed(touch, Some(TIDYING_LOOKS));
        }
    }

    fn landed(&mut self, touch: &Touch, doubt: Option<u32>) -> Option<(Touch, Gen)> {
        let mark = self.marks.get_mut(touch)?;
        mark.in_flight = mark.in_flight.saturating_sub(1);
        mark.unsettled = 0;
        mark.doubt = mark.doubt.max(doubt.map(|looks| looks.saturating_add(mark.looks)));
        let hint = Hint { touch: touch.clone(), deep: mark.deep };
        let generation = mark.generation;
        self.put(Job::Look(hint));
        Some((touch.clone(), generation))
    }

    /// A mark found at start, or a change heard of from elsewhere than a request.
    pub fn remember(&mut self, touch: Touch, generation: Gen, deep: bool) {
        self.newest = self.newest.max(generation);
        let mark = self.marks.entry(touch.clone()).or_default();
        mark.generation = mark.generation.max(generation);
        mark.begun += 1;
        mark.deep |= deep;
        mark.of_before |= mark.askers.is_empty();
        let deep = mark.deep;
        self.put(Job::Look(Hint { touch, deep }));
    }

    fn put(&mut self, job: Job) {
        if let Job::Look(hint) = &job
            && let Some(mark) = self.marks.get_mut(&hint.touch)
        {
            mark.waits = true;
        }
        self.queue.push_back((self.begins, job));
    }

    /// Whether it will be looked at in any case, so that a change heard of now needs no look of its own. One in doubt
    /// is looked at in its own time, within a minute: each look counts towards the end of the doubt (R18).
    pub fn will_look(&self, touch: &Touch) -> bool {
        self.marks
            .get(touch)
            .is_some_and(|mark| mark.doubt.is_some() || mark.in_flight > 0 || mark.waits)
    }

    /// What is marked is looked at, whatever else becomes of it.
    pub fn look(&mut self, touches: &[Touch]) {
        touches.iter().for_each(|touch| self.put(Job::Look(Hint { touch: touch.clone(), deep: false })));
    }

    /// After a start: of these changes somebody was told that nobody knows (R18). After a crash the server
    /// may still be at any of the others, but its connection is closed: it can only be tidying up.
    pub fn doubt_found(&mut self, doubts: Vec<Touch>, was_clean: bool) {
        if !was_clean {
            self.marks.values_mut().for_each(|mark| mark.doubt = Some(TIDYING_LOOKS));
        }
        for touch in doubts {
            if let Some(mark) = self.marks.get_mut(&touch) {
                mark.doubt = Some(u32::MAX);
            }
        }
    }

    pub fn flush(&mut self, ticket: u64) {
        self.put(Job::Flush(ticket));
    }

    /// Jobs that were taken and not carried out, in their order and before all others (R20).
    pub fn give_back(&mut self, jobs: Vec<Job>) {
        for job in jobs.into_iter().rev() {
            self.queue.push_front((0, job));
        }
    }

    /// What was read may still change without its stamps telling: looked at again soon.
    pub fn unsettled(&mut self, hint: Hint, now: BootTime) {
        let Some(mark) = self.marks.get_mut(&hint.touch) else { return };
        mark.deep |= hint.deep;
        let wait = SETTLE.saturating_mul(1 << mark.unsettled.min(SETTLE_DOUBLINGS));
        mark.unsettled = mark.unsettled.saturating_add(1);
        self.again(hint, BootTime(now.0 + wait));
    }

    /// After a look, and after the commit of what it found.
    pub fn seen(&mut self, touch: &Touch, unread: bool) {
        if let Some(mark) = self.marks.get_mut(touch) {
            mark.unread = unread;
        }
    }

    /// What a site has asked for and what is not in the journal, or may still be changed by it (R18), although
    /// everything that was answered has been looked at. `None`: more than `most`.
    pub fn open_of(&self, site: &SiteId, most: usize) -> Option<Vec<(Touch, Gen)>> {
        let is_open = |mark: &Mark| {
            (mark.unread || mark.doubt.is_some()) && (mark.of_before || mark.askers.contains(site))
        };
        let open = self.marks.iter().filter(|(_, mark)| is_open(mark));
        let open: Vec<_> =
            open.map(|(touch, mark)| (touch.clone(), mark.generation)).take(most + 1).collect();
        (open.len() <= most).then_some(open)
    }

    /// Looks at `hint` again at `due`.
    fn again(&mut self, hint: Hint, due: BootTime) {
        if let Some(mark) = self.marks.get_mut(&hint.touch) {
            mark.waits = true;
        }
        self.serial += 1;
        self.later.insert((due, self.serial), hint);
    }

    /// The next jobs, at most `most`, and if there are none the time of the next one.
    pub fn take(&mut self, now: BootTime, most: usize) -> Vec<Job> {
        if plant::is(Bug::WaitForQuiet) {
            self.wait_for_quiet(now);
        }
        while let Some(entry) = self.later.first_entry().filter(|entry| entry.key().0 <= now) {
            let hint = entry.remove();
            if self.marks.contains_key(&hint.touch) {
                self.put(Job::Look(hint));
            }
        }
        let most = most.min(self.queue.len());
        let mut jobs: Vec<Job> = self.queue.drain(..most).map(|(_, job)| job).collect();
        for job in &jobs {
            if let Job::Look(hint) = job
                && let Some(mark) = self.marks.get_mut(&hint.touch)
            {
                mark.waits = false;
            }
        }
        if plant::is(Bug::OutOfOrder) {
            jobs.retain(|job| !self.put_off(job, now));
        }
        jobs
    }

    /// After [`Self::take`]: how many changes had begun when the first was answered that is still to be
    /// taken. Those that began later may depend on it.
    pub fn horizon(&self) -> u64 {
        self.queue.front().map_or(self.begins, |(begins, _)| *begins)
    }

    /// As [`Self::horizon`]; `None` if there is nothing to be taken.
    pub fn queued(&self) -> Option<u64> {
        self.queue.front().map(|(begins, _)| *begins)
    }

    /// Whether a change of the touch began after that.
    pub fn is_beyond(&self, touch: &Touch, horizon: u64) -> bool {
        self.marks.get(touch).is_some_and(|mark| mark.latest > horizon)
    }

    /// Whether a change that reaches what is below the touch began after that.
    pub fn is_beyond_below(&self, touch: &Touch, horizon: u64) -> bool {
        self.marks.get(touch).is_some_and(|mark| mark.deep && mark.latest > horizon)
    }

    /// Whether there was any such change at all.
    pub fn reaches_below(&self, horizon: u64) -> bool {
        self.deepest > horizon
    }

    /// Every other change is looked at a second later. `true`: this is of one.
    fn put_off(&mut self, job: &Job, now: BootTime) -> bool {
        let Job::Look(hint) = job else { return false };
        let Some(mark) = self.marks.get_mut(&hint.touch) else { return false };
        if mark.generation.0 % 2 == 1 || mark.looks > 0 {
            return false;
        }
        mark.looks += 1;
        self.again(hint.clone(), BootTime(now.0 + Duration::from_secs(1)));
        true
    }

    /// What has come just now is looked at some time later, if nothing has come for a while by then.
    fn wait_for_quiet(&mut self, now: BootTime) {
        let (looks, others): (Vec<_>, Vec<_>) =
            self.queue.drain(..).partition(|(_, job)| matches!(job, Job::Look(_)));
        self.queue = others.into();
        let mut off = Vec::new();
        for (_, job) in looks {
            let Job::Look(hint) = job else { continue };
            if let Some(mark) = self.marks.get_mut(&hint.touch) {
                mark.stirred = now;
            }
            off.push(hint);
        }
        let stirred = self.marks.values().map(|mark| mark.stirred).max().unwrap_or_default();
        if now.since(stirred) < Duration::from_millis(100) {
            let later = self.later.split_off(&(now, u64::MAX));
            off.extend(std::mem::replace(&mut self.later, later).into_values());
        }
        off.into_iter().for_each(|hint| self.again(hint, BootTime(now.0 + Duration::from_millis(200))));
    }

    /// Whether something is to be done by now.
    pub fn has_jobs(&self, now: BootTime) -> bool {
        let (look, quiet) = self.next_due();
        !self.queue.is_empty() || look.into_iter().chain(quiet).any(|due| due <= now)
    }

    /// When something is to be looked at that has been put off, and when something is quiet for long enough.
    pub fn next_due(&self) -> (Option<BootTime>, Option<BootTime>) {
        let look = self.later.first_key_value().map(|(key, _)| key.0);
        (look, self.lingering.first_key_value().map(|(key, _)| key.0))
    }

    /// Before the first read of `touch`: what `close` needs. `None` while a change is in flight,
    /// whose answer brings the next look.
    pub fn closing(&self, touch: &Touch) -> Option<Closing> {
        let mark = self.marks.get(touch).filter(|mark| mark.in_flight == 0)?;
        Some(Closing { touch: touch.clone(), begun: mark.begun })
    }

    /// After what was read is known to be settled: takes the mark away unless something began
    /// meanwhile. From here on the next change is a new generation (R4). A change in doubt stays
    /// marked and is looked at again.
    pub fn close(&mut self, closing: &Closing, now: BootTime) -> Option<(Touch, Gen)> {
        if !self.may_close(closing, now) {
            return None;
        }
        self.end(closing.touch.clone(), now)
    }

    fn may_close(&mut self, closing: &Closing, now: BootTime) -> bool {
        let Some(mark) = self.marks.get_mut(&closing.touch) else { return false };
        if mark.begun != closing.begun || mark.in_flight > 0 {
            return false;
        }
        if mark.doubt.is_some_and(|believed| mark.looks < believed) {
            if mark.doubted.is_some_and(|due| now < due) {
                return false;
            }
            let wait = DOUBT_FIRST.saturating_mul(1 << mark.looks.min(6)).min(DOUBT_MAX);
            let due = BootTime(now.0 + wait);
            mark.looks = mark.looks.saturating_add(1);
            mark.doubted = Some(due);
            let hint = Hint { touch: closing.touch.clone(), deep: mark.deep };
            self.again(hint, due);
            return false;
        }
        true
    }

    /// The copies have been told, or will be by what is queued for them.
    pub fn told(&mut self, released: &[(Touch, Gen)]) {
        for (touch, generation) in released {
            if self.untold.get(touch).is_some_and(|known| known <= generation) {
                self.untold.remove(touch);
            }
        }
    }

    /// The mark is in force, or again so, and is looked at at `due`.
    pub fn reopen(&mut self, touch: Touch, generation: Gen, due: BootTime, deep: bool) {
        self.untold.remove(&touch);
        let mark = self.marks.entry(touch.clone()).or_default();
        mark.generation = mark.generation.max(generation);
        mark.begun += 1;
        mark.deep |= deep;
        let deep = mark.deep;
        self.again(Hint { touch, deep }, due);
    }

    /// The marks in force, at most `most`.
    pub fn in_force(&self, most: usize) -> Vec<(Touch, Gen)> {
        let marks = self.marks.iter().map(|(touch, mark)| (touch.clone(), mark.generation));
        let untold = self.untold.iter().map(|(touch, generation)| (touch.clone(), *generation));
        marks.chain(untold).take(most).collect()
    }

    /// How many [`Self::in_force`] would tell at most.
    pub fn many_in_force(&self) -> usize {
        self.marks.len() + self.untold.len()
    }

    /// What every mark is about is in the journal.
    pub fn is_looked_over(&self) -> bool {
        self.marks.values().all(|mark| mark.in_flight == 0 && mark.looked == Some(mark.begun))
    }

    pub fn is_marked(&self, touch: &Touch) -> bool {
        self.marks.contains_key(touch)
    }
    pub fn newest(&self) -> Gen {
        self.newest
    }
    pub fn len(&self) -> usize {
        self.marks.len()
    }
    /// What is in doubt, at most `most`.
    pub fn doubts(&self, most: usize) -> Vec<Touch> {
        let doubts = self.marks.iter().filter(|(_, mark)| mark.doubt.is_some() && mark.looks > 0);
        let mut some: Vec<Touch> = doubts.map(|(touch, _)| touch.clone()).collect();
        some.sort_unstable();
        some.truncate(most);
        some
    }

    /// Somebody knows that the server will not carry out any more what is in doubt: the next look is
    /// believed. Says how many that were.
    pub fn believe(&mut self) -> usize {
        let mut again = Vec::new();
        for (touch, mark) in &mut self.marks {
            if mark.doubt.take().is_some() {
                mark.looks = 0;
                again.push(Hint { touch: touch.clone(), deep: mark.deep });
            }
        }
        let many = again.len();
        again.into_iter().for_each(|hint| self.put(Job::Look(hint)));
        many
    }

    /// What is under way at the server, or about to be.
    pub fn in_flight(&self) -> Vec<Touch> {
        let flying = self.marks.iter().filter(|(_, mark)| mark.in_flight > 0);
        flying.map(|(touch, _)| touch.clone()).collect()
    }

    /// What is in doubt until somebody believes it.
    pub fn in_endless_doubt(&self) -> Vec<Touch> {
        let doubts = self.marks.iter().filter(|(_, mark)| mark.doubt == Some(u32::MAX));
        doubts.map(|(touch, _)| touch.clone()).collect()
    }

    /// Whether something is in doubt until somebody believes it.
    pub fn is_in_endless_doubt(&self) -> bool {
        self.marks.values().any(|mark| mark.doubt == Some(u32::MAX))
    }

    /// Changes in doubt that have been looked at and found without effect so far.
    pub fn suspects(&self) -> usize {
        self.marks.values().filter(|mark| mark.doubt.is_some() && mark.looks > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Name, ObjectId};
    use proptest::prelude::*;

    fn touch(n: u8) -> Touch {
        Touch::Object(ObjectId::from_bytes([n; 16]))
    }
    fn at(ms: u64) -> BootTime {
        BootTime(Duration::from_millis(ms))
    }

    #[test]
    fn a_change_that_begins_during_a_look_keeps_the_mark() {
        let mut table = Table::default();
        table.begin(&[touch(1)], Gen(1), false);
        assert!(table.closing(&touch(1)).is_none(), "in flight");
        assert_eq!(table.answered(&[touch(1)]), vec![(touch(1), Gen(1))]);
        let closing = table.closing(&touch(1)).unwrap();
        table.begin(&[touch(1)], Gen(2), false);
        table.answered(&[touch(1)]);
        assert_eq!(table.close(&closing, at(0)), None);
        let closing = table.closing(&touch(1)).unwrap();
        assert_eq!(table.close(&closing, at(0)), Some((touch(1), Gen(2))));
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_change_in_doubt_stays_marked_and_is_looked_at_again() {
        let mut table = Table::default();
        table.begin(&[touch(1)], Gen(1), false);
        table.doubt(&[touch(1)]);
        assert_eq!(table.take(at(0), 9).len(), 1);
        let closing = table.closing(&touch(1)).unwrap();
        assert_eq!(table.close(&closing, at(0)), None);
        assert_eq!((table.len(), table.suspects()), (1, 1));
        assert!(table.take(at(100), 9).is_empty());
        assert_eq!(table.take(at(2_000), 9).len(), 1);
    }

    /// The operator knows that nothing more comes (R18).
    #[test]
    fn what_somebody_believes_is_no_longer_in_doubt() {
        let mut table = Table::default();
        table.begin(&[touch(1), touch(2)], Gen(1), false);
        table.doubt(&[touch(1)]);
        table.answered(&[touch(2)]);
        table.take(at(0), 9);
        let closing = table.closing(&touch(1)).unwrap();
        assert_eq!(table.close(&closing, at(0)), None);
        assert_eq!(table.doubts(9), [touch(1)]);
        assert_eq!(table.believe(), 1);
        assert!(table.doubts(9).is_empty() && table.suspects() == 0);
        assert_eq!(table.take(at(0), 9), [Job::Look(Hint { touch: touch(1), deep: false })]);
        let closing = table.closing(&touch(1)).unwrap();
        assert!(table.close(&closing, at(0)).is_some());
    }

    /// A server may go on with what it was asked when nearshare dies.
    #[test]
    fn what_is_found_at_start_is_in_doubt_for_seconds_and_what_was_told_so_for_ever() {
        let mut table = Table::default();
        table.remember(touch(1), Gen(1), false);
        table.remember(touch(2), Gen(1), false);
        table.doubt_found(vec![touch(2)], false);
        for ms in (0..600_000).step_by(500) {
            for job in table.take(at(ms), 9) {
                let Job::Look(hint) = job else { panic!("{job:?}") };
                let closing = table.closing(&hint.touch).unwrap();
                if table.close(&closing, at(ms)).is_some() {
                    assert_eq!((hint.touch, ms), (touch(1), 7000));
                }
            }
        }
        assert!(table.is_marked(&touch(2)) && !table.is_marked(&touch(1)));
    }

    /// R20: what a look reads may depend on whatever was answered before the newest change that it shows.
    #[test]
    fn what_is_still_to_be_looked_at_is_the_horizon_of_a_look() {
        let mut table = Table::default();
        for n in 1..=3 {
            table.begin(&[touch(n)], Gen(n.into()), false);
            table.answered(&[touch(n)]);
        }
        table.begin(&[touch(1)], Gen(4), false);
        assert_eq!(table.take(at(0), 2).len(), 2);
        // The third was answered before the first was changed again.
        assert!(
            table.is_beyond(&touch(1), table.horizon()) && !table.is_beyond(&touch(2), table.horizon())
        );
        assert_eq!(table.take(at(0), 2).len(), 1);
        assert!(!table.is_beyond(&touch(1), table.horizon()));
        let horizon = table.horizon();
        table.begin(&[touch(2)], Gen(5), false);
        assert!(table.is_beyond(&touch(2), horizon));
    }

    /// An upload that the client breaks off must not be held for ever.
    #[test]
    fn a_change_that_the_server_was_not_sent_whole_is_in_doubt_for_seconds() {
        let mut table = Table::default();
        table.begin(&[touch(1)], Gen(1), false);
        table.broke_off(&[touch(1)]);
        let mut looked_at = Vec::new();
        for ms in (0..60_000).step_by(500) {
            for _ in table.take(at(ms), 9) {
                looked_at.push(ms);
                let closing = table.closing(&touch(1)).unwrap();
                if table.close(&closing, at(ms)).is_some() {
                    assert_eq!(looked_at, [0, 1000, 3000, 7000]);
                    return;
                }
            }
        }
        panic!("still in doubt after {looked_at:?}");
    }

    proptest! {
        /// Whatever happens, a mark is taken away only by a look that began after the last change
        /// of it was answered, and no release names a generation above what was looked at.
        #[test]
        fn no_release_overtakes_a_change(steps in proptest::collection::vec((0u8..6, 0u8..3), 1..200)) {
            let mut table = Table::default();
            let mut generation = Gen(0);
            let mut flying: Vec<u8> = Vec::new();
            let mut last_change: HashMap<u8, Gen> = HashMap::default();
            let mut looks: Vec<(Closing, Gen)> = Vec::new();
            for (step, n) in steps {
                match step {
                    0 | 1 => {
                        generation = generation.next();
                        table.begin(&[touch(n)], generation, false);
                        last_change.insert(n, generation);
                        flying.push(n);
                    }
                    2 => if let Some(i) = flying.iter().position(|f| *f == n) {
                        flying.remove(i);
                        table.answered(&[touch(n)]);
                    },
                    3 | 4 => if let Some(closing) = table.closing(&touch(n)) {
                        prop_assert!(!flying.contains(&n));
                        looks.push((closing, last_change[&n]));
                    },
                    _ => for (closing, known) in looks.drain(..) {
                        if let Some((touch_, through)) = table.close(&closing, at(0)) {
                            let n = (0..3).find(|n| touch(*n) == touch_).unwrap();
                            prop_assert_eq!(through, known);
                            prop_assert_eq!(last_change[&n], known);
                            prop_assert!(!flying.contains(&n));
                        }
                    },
                }
            }
        }
    }

    /// Every job that is due is taken and found settled; says how many looks that were.
    fn looks(table: &mut Table, now: BootTime) -> usize {
        let jobs = table.take(now, 99);
        for job in &jobs {
            let Job::Look(hint) = job else { continue };
            let Some(closing) = table.closing(&hint.touch) else { continue };
            table.close(&closing, now);
        }
        jobs.len()
    }

    /// R18: what is in doubt is believed after its time, however often it is changed meanwhile, and such
    /// changes leave no looks behind that come on top of its own.
    #[test]
    fn changes_of_what_is_in_doubt_neither_end_the_doubt_nor_add_looks() {
        let mut table = Table::default();
        let touch = [Touch::Entry(ObjectId::ROOT, Name::new(b"f").unwrap())];
        table.begin(&touch, Gen(1), false);
        table.broke_off(&touch);
        assert_eq!(looks(&mut table, at(0)), 1);
        for n in 1..50 {
            table.begin(&touch, Gen(1 + n), false);
            table.answered(&touch);
            assert_eq!(looks(&mut table, at(n)), 1, "the change's own");
            assert_eq!(table.later.len(), 1, "the doubt's own");
        }
        assert_eq!(looks(&mut table, at(999)), 0);
        assert_eq!(looks(&mut table, at(1000)), 1);
        assert_eq!(looks(&mut table, at(3000)), 1);
        assert!(table.is_marked(&touch[0]), "it is believed after seven seconds");
        assert_eq!(looks(&mut table, at(7000)), 1);
        assert!(!table.is_marked(&touch[0]));
        assert_eq!((table.later.len(), table.queue.len()), (0, 0));
    }
}
