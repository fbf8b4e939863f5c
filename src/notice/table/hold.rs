//! What the peers of a strict share hold: each mark asks them once, and is in force until a release
//! that is sent when nothing has happened to it for a while (R3, R4, R8).

use std::time::Duration;

use super::{Asked, Closing, Table};
use crate::catalog::Touch;
use crate::clock::BootTime;
use crate::hash::decrement;
use crate::hold::{Giver, Question};
use crate::id::{Gen, ObjectId, SiteId};
use crate::plant::{self, Bug};

/// A mark is released when it has been quiet for so long: the next change of a burst comes sooner.
const LINGER: Duration = Duration::from_millis(100);
/// So many questions about entries of one directory within [`OFTEN`] become one about all of it (R3).
const OFTEN_ENOUGH: u32 = 3;
const OFTEN: Duration = Duration::from_secs(1);
/// So many about all of its directories become one a level up: somebody who works through one directory after
/// the other has asked as often in each of them. They may be further apart: a server that needs 10 ms for a
/// change is through with a directory of 100 files after a second, and would be asked three times for each.
const OFTEN_UPWARDS_ENOUGH: u32 = 2;
const OFTEN_UPWARDS: Duration = Duration::from_secs(5);
/// Directories whose questions are counted.
const COUNTED_MAX: usize = 4096;

/// A touch of a change, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::notice) struct Held {
    pub touch: Touch,
    /// The directories above it, nearest first: a hold on one of them is a hold on all below it. Empty
    /// if the object may be reached on other ways as well.
    pub above: Vec<Above>,
    /// The directory at the entry that is touched, or that a symbolic link there leads to.
    pub object: Option<ObjectId>,
}

impl Held {
    /// Nothing wider stands for it.
    pub fn alone(touch: Touch) -> Self {
        Self { touch, above: Vec::new(), object: None }
    }
}

/// What is asked about in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Level {
    Entries,
    Directories,
}

impl Level {
    fn often(self) -> Duration {
        match self {
            Self::Entries => OFTEN,
            Self::Directories => OFTEN_UPWARDS,
        }
    }

    fn often_enough(self) -> u32 {
        match self {
            Self::Entries => OFTEN_ENOUGH,
            Self::Directories => OFTEN_UPWARDS_ENOUGH,
        }
    }
}

/// A directory, and the entry that it is: none for the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::notice) struct Above {
    pub dir: ObjectId,
    pub entry: Option<Touch>,
}

/// What is to be asked, and whom.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::notice) struct Ask {
    pub question: Question,
    pub sites: Vec<SiteId>,
    pub touches: Vec<(Touch, Gen)>,
}

impl Table {
    /// Makes sure that the peers are asked about what a change that has begun touches. Says the questions
    /// that must be answered before the server hears of it, and what is to be asked now.
    pub fn hold(
        &mut self,
        held: &[Held],
        giver: &mut Giver,
        now: BootTime,
    ) -> (Vec<Question>, Option<Ask>) {
        let mut waits = Vec::new();
        let mut wanted: Vec<Touch> = Vec::new();
        // Entries first, for objects to lean on.
        let (entries, objects): (Vec<_>, Vec<_>) =
            held.iter().partition(|held| matches!(held.touch, Touch::Entry(..)));
        for Held { touch, above, object } in entries.into_iter().chain(objects) {
            let Some(mark) = self.marks.get_mut(touch) else { continue };
            mark.stirred = now;
            // What may be reached on other ways as well leans on none of them.
            let alone = mark.question.is_none() && (mark.cover.is_none() || above.is_empty());
            if alone && !wanted.contains(touch) {
                let wide = self.asked_above(above, &wanted);
                match wide.or_else(|| self.widen(touch, above, &mut wanted, now)) {
                    Some(wide) => self.lean(touch, above, wide),
                    None => wanted.push(touch.clone()),
                }
            }
            if let Some(id) = object.filter(|id| self.leaning.contains_key(id)) {
                self.take_along(touch, id, &mut wanted);
            }
        }
        let ask = self.question(wanted, giver, now);
        for Held { touch, .. } in held {
            waits.extend(self.waits_for(touch).filter(|question| giver.is_open(*question)));
        }
        waits.sort_unstable();
        waits.dedup();
        (waits, ask)
    }

    /// The nearest hold that covers everything below one of these directories. An entry's covers what is
    /// below it only while nothing else comes there: see [`Self::take_along`].
    fn asked_above(&self, above: &[Above], wanted: &[Touch]) -> Option<Touch> {
        let both = |above: &Above| [Some(Touch::Object(above.dir)), above.entry.clone()];
        let asked = |wide: &Touch| self.is_asked(wide) || wanted.contains(wide);
        above.iter().flat_map(both).flatten().find(asked)
    }

    /// The directory at an entry may be somewhere else after this change: what leans on the entry's hold, and
    /// what the server is still at and leans on one further up, leans on the directory's own from here on,
    /// which goes where it goes. (What has been answered is in the journal before the move is.)
    fn take_along(&mut self, entry: &Touch, id: ObjectId, wanted: &mut Vec<Touch>) {
        let own = Touch::Object(id);
        let generation = self.marks.get(entry).map_or(Gen(0), |mark| mark.generation);
        let (mut members, mut left) = (0, Vec::new());
        for mark in self.marks.values_mut() {
            let Some(at) = mark.above.iter().position(|above| *above == id) else { continue };
            let Some(cover) = mark.cover.as_mut() else { continue };
            let moves = match cover == entry {
                true => true,
                false => mark.in_flight > 0 && at + 1 < mark.above.len(),
            };
            if moves {
                left.push((std::mem::replace(cover, own.clone()), mark.above.split_off(at + 1)));
                decrement(&mut self.leaning, &id);
                members += 1;
            }
        }
        if members == 0 {
            return;
        }
        for (cover, above) in left {
            self.leans_no_more(&above, &cover);
            if let Some(mark) = self.marks.get_mut(&cover) {
                mark.members = mark.members.saturating_sub(1);
            }
        }
        self.wide(&own, generation, wanted).members += members;
    }

    /// The mark of something wide that is to be asked about, made if it is not there.
    fn wide(&mut self, wide: &Touch, generation: Gen, wanted: &mut Vec<Touch>) -> &mut super::Mark {
        let mark = self.marks.entry(wide.clone()).or_default();
        mark.generation = mark.generation.max(generation);
        if mark.begun == 0 {
            // Nothing of its own to look at.
            mark.looked = Some(0);
        }
        if mark.question.is_none() && !wanted.contains(wide) {
            wanted.push(wide.clone());
        }
        mark
    }

    fn is_asked(&self, touch: &Touch) -> bool {
        self.marks.get(touch).is_some_and(|mark| mark.question.is_some())
    }

    fn waits_for(&self, touch: &Touch) -> Option<Question> {
        let mark = self.marks.get(touch)?;
        let asked = match (mark.question, &mark.cover) {
            (Some(asked), _) => asked,
            (None, Some(wide)) => self.marks.get(wide)?.question?,
            (None, None) => return None,
        };
        match asked {
            Asked::Of(question) => Some(question),
            Asked::Nobody => None,
        }
    }

    /// The wider touch that is to be asked about instead, because its directory is asked about often.
    fn widen(
        &mut self,
        touch: &Touch,
        above: &[Above],
        wanted: &mut Vec<Touch>,
        now: BootTime,
    ) -> Option<Touch> {
        let mut found = None;
        let mut at = Some(touch);
        let mut level = Level::Entries;
        for wide in above {
            if !matches!(at, Some(Touch::Entry(dir, _)) if *dir == wide.dir)
                || !self.often(wide.dir, level, now)
            {
                break;
            }
            found = Some(Touch::Object(wide.dir));
            at = wide.entry.as_ref();
            level = Level::Directories;
        }
        let wide = found?;
        let generation = self.marks.get(touch)?.generation;
        self.wide(&wide, generation, wanted);
        Some(wide)
    }

    fn often(&mut self, dir: ObjectId, level: Level, now: BootTime) -> bool {
        if self.asked.len() >= COUNTED_MAX {
            self.asked.retain(|(_, level), (first, _)| now.since(*first) < level.often());
            if self.asked.len() >= COUNTED_MAX {
                self.asked.clear();
            }
        }
        let (first, count) = self.asked.entry((dir, level)).or_insert((now, 0));
        if now.since(*first) >= level.often() {
            (*first, *count) = (now, 0);
        }
        *count += 1;
        *count >= level.often_enough()
    }

    fn lean(&mut self, touch: &Touch, above: &[Above], wide: Touch) {
        if let Some(mark) = self.marks.get_mut(&wide) {
            mark.members += 1;
        }
        let is_it =
            |above: &Above| wide == Touch::Object(above.dir) || above.entry.as_ref() == Some(&wide);
        let upto = above.iter().position(is_it).map_or(0, |at| at + 1);
        let below: Vec<ObjectId> = above[..upto].iter().map(|above| above.dir).collect();
        if let Some(mark) = self.marks.get_mut(touch) {
            // The directory whose own hold it is goes where its hold goes.
            let own = matches!(wide, Touch::Object(_));
            for dir in &below[..below.len().saturating_sub(usize::from(own))] {
                *self.leaning.entry(*dir).or_default() += 1;
            }
            mark.above = below;
            mark.cover = Some(wide);
        }
    }

    /// One that leaned is gone.
    fn leans_no_more(&mut self, above: &[ObjectId], wide: &Touch) {
        let own = matches!(wide, Touch::Object(_));
        for dir in &above[..above.len().saturating_sub(usize::from(own))] {
            decrement(&mut self.leaning, dir);
        }
    }

    fn question(&mut self, wanted: Vec<Touch>, giver: &mut Giver, now: BootTime) -> Option<Ask> {
        if wanted.is_empty() {
            return None;
        }
        let asked = giver.ask(now);
        let of = asked.as_ref().map_or(Asked::Nobody, |(question, _)| Asked::Of(*question));
        let mut touches = Vec::with_capacity(wanted.len());
        for touch in wanted {
            if let Some(mark) = self.marks.get_mut(&touch) {
                mark.question = Some(of);
                mark.stirred = now;
                touches.push((touch, mark.generation));
            }
        }
        asked.map(|(question, sites)| Ask { question, sites, touches })
    }

    /// What was read is settled and journalled: released when it has been quiet for a while, unless
    /// something began meanwhile.
    pub fn looked(&mut self, closing: &Closing, now: BootTime) {
        if !self.may_close(closing, now) {
            return;
        }
        if let Some(mark) = self.marks.get_mut(&closing.touch) {
            mark.looked = Some(closing.begun);
            mark.stirred = now;
            self.linger(closing.touch.clone(), BootTime(now.0 + LINGER));
        }
    }

    fn linger(&mut self, touch: Touch, due: BootTime) {
        self.serial += 1;
        self.lingering.insert((due, self.serial), touch);
    }

    /// Whether [`Self::ripe`] has something to do.
    pub fn is_ripe(&self, now: BootTime) -> bool {
        self.lingering.first_key_value().is_some_and(|((due, _), _)| *due <= now)
    }

    /// Takes away the marks that have been quiet for long enough, for the copies to be told. `held_back`:
    /// of those that nobody may show yet (R26).
    pub fn ripe(&mut self, now: BootTime, held_back: impl Fn(&Touch) -> bool) -> Vec<(Touch, Gen)> {
        let mut released = Vec::new();
        while let Some(entry) = self.lingering.first_entry().filter(|entry| entry.key().0 <= now) {
            let touch = entry.remove();
            let Some(mark) = self.marks.get(&touch) else { continue };
            // What happens next to it brings it here again.
            let leaned_on = mark.members > 0 && !plant::is(Bug::ReleaseLeanedOn);
            let busy = mark.in_flight > 0 || mark.looked != Some(mark.begun);
            if leaned_on || busy && !plant::is(Bug::ReleaseInFlight) {
                continue;
            }
            let mut due = BootTime(mark.stirred.0 + LINGER);
            if now >= due && held_back(&touch) {
                due = BootTime(now.0 + LINGER);
            }
            if now < due {
                self.linger(touch, due);
                continue;
            }
            released.extend(self.end(touch, now));
        }
        released
    }

    /// The mark goes, for the copies to be told, and leans on no other any more.
    pub(super) fn end(&mut self, touch: Touch, now: BootTime) -> Option<(Touch, Gen)> {
        let mark = self.marks.remove(&touch)?;
        if let Some(wide) = mark.cover {
            self.leans_no_more(&mark.above, &wide);
            // A file leans on its own entry, which was stirred whenever it was.
            let own = matches!((&touch, &wide), (Touch::Object(_), Touch::Entry(..)));
            self.left(wide, if own { now } else { BootTime(now.0 + LINGER) });
        }
        self.untold.insert(touch.clone(), mark.generation);
        Some((touch, mark.generation))
    }

    /// One that leaned on `wide` is gone. If it was the last, `wide` may go at `due`.
    fn left(&mut self, wide: Touch, due: BootTime) {
        let Some(mark) = self.marks.get_mut(&wide) else { return };
        mark.members = mark.members.saturating_sub(1);
        if mark.members == 0 && mark.in_flight == 0 && mark.looked == Some(mark.begun) {
            self.linger(wide, due);
        }
    }

    /// What peers that get a lease now must hold, at most `most`; `None` if it is more.
    pub fn to_hold(&self, most: usize) -> Option<Vec<(Touch, Gen)>> {
        let apart = |mark: &super::Mark| mark.cover.is_none() || mark.question.is_some();
        let marks = self.marks.iter().filter(|(_, mark)| apart(mark));
        let marks = marks.map(|(touch, mark)| (touch.clone(), mark.generation));
        let untold = self.untold.iter().map(|(touch, generation)| (touch.clone(), *generation));
        let all: Vec<_> = marks.chain(untold).take(most + 1).collect();
        (all.len() <= most).then_some(all)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::hold::{LEASE, Stream};
    use crate::id::Name;

    fn dir(n: u8) -> ObjectId {
        ObjectId::from_bytes([n; 16])
    }
    fn entry(n: u8, name: &str) -> Touch {
        Touch::Entry(dir(n), Name::new(name.as_bytes()).unwrap())
    }
    fn at(ms: u64) -> BootTime {
        BootTime(Duration::from_millis(ms))
    }
    /// An entry of directory `n`, which is entry `d` of the root.
    fn below(n: u8, name: &str) -> Held {
        let entry_of = Touch::Entry(ObjectId::ROOT, Name::new(format!("d{n}").as_bytes()).unwrap());
        let above = vec![
            Above { dir: dir(n), entry: Some(entry_of) },
            Above { dir: ObjectId::ROOT, entry: None },
        ];
        Held { touch: entry(n, name), above, object: None }
    }
    /// The entry of the root that directory `n` is.
    fn itself(n: u8, object: Option<u8>) -> Held {
        let touch = below(n, "f").above[0].entry.clone().unwrap();
        Held { touch, above: vec![Above { dir: ObjectId::ROOT, entry: None }], object: object.map(dir) }
    }
    fn giver() -> (Giver, SiteId, Stream) {
        let osaka: SiteId = "osaka".parse().unwrap();
        let mut giver = Giver::new(LEASE, false, Default::default(), at(0));
        let stream = giver.join(&osaka);
        giver.renew(&osaka, stream, true, at(0)).unwrap();
        (giver, osaka, stream)
    }
    fn begin(
        table: &mut Table,
        giver: &mut Giver,
        held: &Held,
        generation: u64,
        ms: u64,
    ) -> Option<Ask> {
        table.begin(std::slice::from_ref(&held.touch), Gen(generation), false);
        table.hold(std::slice::from_ref(held), giver, at(ms)).1
    }
    fn land(table: &mut Table, held: &Held, ms: u64) {
        table.answered(std::slice::from_ref(&held.touch));
        table.take(at(ms), 99);
        let closing = table.closing(&held.touch).unwrap();
        table.looked(&closing, at(ms));
    }

    #[test]
    fn a_burst_asks_once_and_is_released_when_it_is_quiet() {
        let (mut table, (mut giver, osaka, stream)) = (Table::default(), giver());
        let held = below(1, "f");
        let ask = begin(&mut table, &mut giver, &held, 1, 0).unwrap();
        assert_eq!(ask.touches, vec![(held.touch.clone(), Gen(1))]);
        let (waits, none) = table.hold(std::slice::from_ref(&held), &mut giver, at(1));
        assert_eq!((waits, none), (vec![ask.question], None), "the second waits for the same answer");
        giver.answered(&osaka, stream, ask.question).unwrap();
        land(&mut table, &held, 2);
        for n in 2..50 {
            assert_eq!(begin(&mut table, &mut giver, &held, n, n * 50), None);
            assert!(table.hold(std::slice::from_ref(&held), &mut giver, at(n * 50)).0.is_empty());
            assert!(table.ripe(at(n * 50 + 40), |_| false).is_empty());
            land(&mut table, &held, n * 50 + 1);
        }
        assert!(table.ripe(at(49 * 50 + 100), |_| false).is_empty());
        assert_eq!(table.ripe(at(49 * 50 + 101), |_| false), vec![(held.touch.clone(), Gen(49))]);
        assert!(begin(&mut table, &mut giver, &held, 50, 4000).is_some(), "the next burst asks again");
    }

    #[test]
    fn the_third_in_a_directory_asks_about_all_of_it_and_it_is_released_after_them() {
        let (mut table, (mut giver, ..)) = (Table::default(), giver());
        let all: Vec<Held> = (0..9).map(|n| below(1, &format!("f{n}"))).collect();
        let mut asked = Vec::new();
        for (n, held) in all.iter().enumerate() {
            if let Some(ask) = begin(&mut table, &mut giver, held, n as u64 + 1, n as u64) {
                asked.extend(ask.touches.into_iter().map(|(touch, _)| touch));
            }
        }
        let wide = Touch::Object(dir(1));
        assert_eq!(asked, vec![all[0].touch.clone(), all[1].touch.clone(), wide.clone()]);
        assert_eq!(table.to_hold(99).unwrap().len(), 3);
        all.iter().for_each(|held| land(&mut table, held, 10));
        let first = table.ripe(at(110), |_| false);
        assert_eq!(first.len(), 9);
        assert_eq!(table.ripe(at(110), |_| false), vec![]);
        assert_eq!(table.ripe(at(210), |_| false), vec![(wide, Gen(3))]);
        assert_eq!(table.len(), 0);
    }

    /// A map may make the share relaxed at any moment: what leans on a wide hold ends otherwise then.
    #[test]
    fn a_wide_hold_ends_also_when_the_share_becomes_relaxed() {
        let (mut table, (mut giver, _, _)) = (Table::default(), giver());
        let held: Vec<Held> = ["a", "b", "c"].iter().map(|name| below(1, name)).collect();
        for (n, held) in (1..).zip(&held) {
            begin(&mut table, &mut giver, held, n, n);
        }
        for held in &held {
            table.answered(std::slice::from_ref(&held.touch));
            table.take(at(10), 99);
            let closing = table.closing(&held.touch).unwrap();
            assert!(table.close(&closing, at(10)).is_some());
        }
        let wide = Touch::Object(dir(1));
        let released = table.ripe(at(500), |_| false);
        assert!(released.iter().any(|(touch, _)| *touch == wide), "{released:?}");
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn what_is_made_in_a_new_directory_leans_on_its_hold() {
        let (mut table, (mut giver, ..)) = (Table::default(), giver());
        let made = itself(1, None);
        assert!(begin(&mut table, &mut giver, &made, 1, 0).is_some());
        land(&mut table, &made, 1);
        for n in 0..20 {
            let held = below(1, &format!("f{n}"));
            assert_eq!(begin(&mut table, &mut giver, &held, 2 + n, 50 * n), None);
            land(&mut table, &held, 50 * n + 1);
            assert!(table.ripe(at(50 * n + 2), |_| false).iter().all(|(touch, _)| *touch != made.touch));
        }
        table.ripe(at(1100), |_| false);
        assert_eq!(table.ripe(at(1200), |_| false), vec![(made.touch, Gen(1))]);
    }

    /// The directory moves while something below it is being changed: its hold goes with it, and is
    /// released after both.
    #[test]
    fn a_directory_that_moves_takes_the_holds_below_it_along() {
        let (mut table, (mut giver, ..)) = (Table::default(), giver());
        begin(&mut table, &mut giver, &itself(1, None), 1, 0).unwrap();
        land(&mut table, &itself(1, None), 1);
        assert_eq!(begin(&mut table, &mut giver, &below(1, "f"), 2, 2), None);
        let moved = [itself(1, Some(1)), itself(2, None)];
        let touches: Vec<Touch> = moved.iter().map(|held| held.touch.clone()).collect();
        table.begin(&touches, Gen(3), false);
        let ask = table.hold(&moved, &mut giver, at(3)).1.unwrap();
        let own = Touch::Object(dir(1));
        assert!(ask.touches.contains(&(own.clone(), Gen(3))), "{ask:?}");
        moved.iter().for_each(|held| land(&mut table, held, 4));
        let gone: Vec<Touch> =
            table.ripe(at(1000), |_| false).into_iter().map(|(touch, _)| touch).collect();
        assert_eq!(gone.len(), 2);
        assert!(table.to_hold(9).unwrap().iter().any(|(touch, _)| *touch == own), "still uploading");
        land(&mut table, &below(1, "f"), 1000);
        assert_eq!(table.ripe(at(1100), |_| false).len(), 1);
        assert_eq!(table.ripe(at(1200), |_| false), vec![(own, Gen(3))]);
    }

    /// An upload goes on in a directory that is moved out of the one that all is asked about.
    #[test]
    fn a_directory_that_moves_out_of_a_wide_hold_takes_what_is_under_way_along() {
        let (mut table, (mut giver, ..)) = (Table::default(), giver());
        let wide = Above { dir: dir(1), entry: Some(entry(0, "d1")) };
        let above =
            |inner: &[Above]| [inner, &[wide.clone(), Above { dir: dir(0), entry: None }]].concat();
        for n in 0..3 {
            let held = Held { touch: entry(1, &format!("f{n}")), above: above(&[]), object: None };
            begin(&mut table, &mut giver, &held, n + 1, n);
        }
        let inner = Above { dir: dir(5), entry: Some(entry(1, "e")) };
        let upload =
            Held { touch: entry(5, "x"), above: above(std::slice::from_ref(&inner)), object: None };
        let done = Held { touch: entry(5, "y"), above: above(&[inner]), object: None };
        assert_eq!(
            begin(&mut table, &mut giver, &upload, 4, 4),
            None,
            "it leans on the directory's hold"
        );
        assert_eq!(begin(&mut table, &mut giver, &done, 5, 4), None);
        table.answered(std::slice::from_ref(&done.touch));
        let moved = [
            Held { touch: entry(1, "e"), above: above(&[]), object: Some(dir(5)) },
            Held { touch: entry(9, "e"), above: vec![], object: None },
        ];
        let touches: Vec<Touch> = moved.iter().map(|held| held.touch.clone()).collect();
        table.begin(&touches, Gen(6), false);
        let ask = table.hold(&moved, &mut giver, at(5)).1.unwrap();
        let own = Touch::Object(dir(5));
        assert!(ask.touches.contains(&(own.clone(), Gen(6))), "{ask:?}");
        assert_eq!(table.marks[&upload.touch].cover, Some(own.clone()));
        assert_eq!(table.marks[&done.touch].cover, Some(Touch::Object(dir(1))));
        moved.iter().for_each(|held| land(&mut table, held, 6));
        land_if(&mut table, &done, 6);
        for n in 0..3 {
            land(&mut table, &below(1, &format!("f{n}")), 6);
        }
        for ms in [200, 400, 600] {
            assert!(
                table.ripe(at(ms), |_| false).iter().all(|(touch, _)| *touch != own),
                "still uploading"
            );
        }
        land(&mut table, &upload, 700);
        assert_eq!(table.ripe(at(800), |_| false), vec![(upload.touch, Gen(4))]);
        assert_eq!(table.ripe(at(900), |_| false), vec![(own, Gen(6))]);
        assert!(table.leaning.is_empty() && table.len() == 0);
    }

    /// Servers that replace a file make another object of it each time.
    #[test]
    fn a_file_that_is_replaced_again_and_again_is_asked_about_once() {
        let (mut table, (mut giver, ..)) = (Table::default(), giver());
        let replaced = |n: u8| {
            let held = below(1, "f");
            let own = Above { dir: dir(n), entry: Some(held.touch.clone()) };
            let above = std::iter::once(own).chain(held.above.clone()).collect();
            [Held { touch: Touch::Object(dir(n)), above, object: None }, held]
        };
        let mut asked = Vec::new();
        for n in 0..20 {
            let held = replaced(100 + n);
            let touches: Vec<Touch> = held.iter().map(|held| held.touch.clone()).collect();
            table.begin(&touches, Gen(u64::from(n) + 1), false);
            let ask = table.hold(&held, &mut giver, at(u64::from(n) * 20)).1;
            asked.extend(ask.into_iter().flat_map(|ask| ask.touches));
            held.iter().for_each(|held| land(&mut table, held, u64::from(n) * 20 + 1));
            table.ripe(at(u64::from(n) * 20 + 2), |_| false);
        }
        assert_eq!(asked, vec![(below(1, "f").touch, Gen(1))]);
        // All go together, 100 ms after the last.
        assert!(table.ripe(at(480), |_| false).iter().all(|(touch, _)| *touch != below(1, "f").touch));
        assert!(table.ripe(at(481), |_| false).contains(&(below(1, "f").touch, Gen(20))));
        assert_eq!(table.len(), 0);
    }

    /// `rm -rf`, at a server that needs 8 ms for each: 100 files in each of many directories.
    #[test]
    fn a_burst_over_many_directories_asks_a_few_times() {
        let (mut table, (mut giver, osaka, stream)) = (Table::default(), giver());
        let top = Above { dir: dir(200), entry: None };
        let mut asked = 0;
        let mut ms = 0;
        for n in 0..30_u8 {
            for file in 0..100 {
                let above =
                    vec![Above { dir: dir(n), entry: Some(entry(200, &format!("d{n}"))) }, top.clone()];
                let held = Held { touch: entry(n, &format!("f{file}")), above, object: None };
                giver.renew(&osaka, stream, true, at(ms)).unwrap();
                if let Some(ask) = begin(&mut table, &mut giver, &held, ms, ms) {
                    giver.answered(&osaka, stream, ask.question).unwrap();
                    asked += 1;
                    ms += 80;
                }
                ms += 8;
                land(&mut table, &held, ms);
                table.ripe(at(ms), |_| false);
            }
        }
        assert_eq!(asked, 6);
    }

    /// An archive that is unpacked: whatever is made in it leans on the hold of its top.
    #[test]
    fn a_new_tree_asks_once_in_all() {
        let (mut table, (mut giver, osaka, stream)) = (Table::default(), giver());
        let top = Held {
            touch: Touch::Entry(ObjectId::ROOT, Name::new(b"tree").unwrap()),
            above: vec![Above { dir: ObjectId::ROOT, entry: None }],
            object: None,
        };
        let within = |dir: u8, name: &str, of: &Held| {
            let above = Above { dir: ObjectId::from_bytes([dir; 16]), entry: Some(of.touch.clone()) };
            let above = std::iter::once(above).chain(of.above.clone()).collect();
            Held { touch: entry(dir, name), above, object: None }
        };
        let mut made = vec![top.clone()];
        for n in 0..100 {
            let inner = within(200, &format!("d{n}"), &top);
            let files = (0..100).map(|file| within(n, &format!("f{file}"), &inner));
            made.extend(std::iter::once(inner.clone()).chain(files.collect::<Vec<_>>()));
        }
        let (mut asked, mut ms) = (Vec::new(), 0);
        for held in &made {
            giver.renew(&osaka, stream, true, at(ms)).unwrap();
            if let Some(ask) = begin(&mut table, &mut giver, held, ms, ms) {
                giver.answered(&osaka, stream, ask.question).unwrap();
                asked.extend(ask.touches.into_iter().map(|(touch, _)| touch));
                ms += 80;
            }
            ms += 8;
            land(&mut table, held, ms);
            table.ripe(at(ms), |_| false);
        }
        assert_eq!(asked, vec![top.touch]);
        for round in 1..5 {
            table.ripe(at(ms + 200 * round), |_| false);
        }
        assert!(table.len() == 0 && table.leaning.is_empty());
    }

    /// A file that has got another name meanwhile is asked about by itself.
    #[test]
    fn an_object_that_leans_on_its_entry_stands_alone_once_it_has_two() {
        let (mut table, (mut giver, ..)) = (Table::default(), giver());
        let entry = below(1, "f");
        let own = Above { dir: dir(9), entry: Some(entry.touch.clone()) };
        let object = Touch::Object(dir(9));
        let leaning = Held { touch: object.clone(), above: vec![own], object: None };
        table.begin(&[entry.touch.clone(), object.clone()], Gen(1), false);
        let ask = table.hold(&[leaning, entry.clone()], &mut giver, at(0)).1.unwrap();
        assert_eq!(ask.touches, vec![(entry.touch, Gen(1))]);
        table.begin(std::slice::from_ref(&object), Gen(2), false);
        let ask = table.hold(&[Held::alone(object.clone())], &mut giver, at(1)).1.unwrap();
        assert_eq!(ask.touches, vec![(object.clone(), Gen(2))]);
        assert!(table.to_hold(9).unwrap().contains(&(object.clone(), Gen(2))));
        let (waits, none) = table.hold(&[Held::alone(object)], &mut giver, at(2));
        assert_eq!((waits, none), (vec![ask.question], None));
    }

    proptest! {
        /// A change never goes on without a hold of it or of something above it being in force at every
        /// peer; and in the end everything is released, at least through its last change.
        #[test]
        fn nothing_changes_that_is_not_held(
            steps in proptest::collection::vec((0u8..5, 0u8..3, 0u8..4, 0u64..60), 1..120),
        ) {
            let (mut table, (mut giver, osaka, stream)) = (Table::default(), giver());
            let mut peer: std::collections::HashMap<Touch, Gen> = Default::default();
            let mut flying: Vec<Held> = Vec::new();
            let mut last: std::collections::HashMap<Touch, Gen> = Default::default();
            let (mut now, mut generation) = (0, 0);
            for (step, d, name, pass) in steps {
                now += pass;
                let held = below(d + 1, &format!("f{name}"));
                match step {
                    0..3 => {
                        giver.renew(&osaka, stream, true, at(now)).unwrap();
                        generation += 1;
                        if let Some(ask) = begin(&mut table, &mut giver, &held, generation, now) {
                            for (touch, through) in ask.touches {
                                let known = peer.entry(touch).or_default();
                                *known = (*known).max(through);
                            }
                            giver.answered(&osaka, stream, ask.question).unwrap();
                        }
                        prop_assert!(is_held(&peer, &held));
                        last.insert(held.touch.clone(), Gen(generation));
                        flying.push(held);
                    }
                    3 => if !flying.is_empty() {
                        let held = flying.remove(usize::from(name) % flying.len());
                        table.answered(std::slice::from_ref(&held.touch));
                        table.take(at(now), 99);
                        if let Some(closing) = table.closing(&held.touch) {
                            table.looked(&closing, at(now));
                        }
                    },
                    _ => for (touch, through) in table.ripe(at(now), |_| false) {
                        prop_assert!(flying.iter().all(|held| held.touch != touch));
                        prop_assert!(last.get(&touch).is_none_or(|known| *known == through));
                        peer.retain(|known, held| *known != touch || *held > through);
                        table.told(&[(touch, through)]);
                    },
                }
                for held in &flying {
                    prop_assert!(is_held(&peer, held));
                }
            }
            for held in std::mem::take(&mut flying) {
                land_if(&mut table, &held, now);
            }
            for round in 1..5 {
                for (touch, through) in table.ripe(at(now + round * 200), |_| false) {
                    peer.retain(|known, held| *known != touch || *held > through);
                    table.told(&[(touch, through)]);
                }
            }
            prop_assert!(peer.is_empty() && table.len() == 0, "{peer:?}");
            prop_assert!(table.leaning.is_empty());
        }
    }

    fn is_held(peer: &std::collections::HashMap<Touch, Gen>, held: &Held) -> bool {
        let above = held.above.iter().map(|above| Touch::Object(above.dir));
        above.chain([held.touch.clone()]).any(|touch| peer.contains_key(&touch))
    }

    fn land_if(table: &mut Table, held: &Held, ms: u64) {
        table.answered(std::slice::from_ref(&held.touch));
        table.take(at(ms), 99);
        if let Some(closing) = table.closing(&held.touch) {
            table.looked(&closing, at(ms));
        }
    }
}
