//! What the primary cannot read, for people: where that is, why, and since when. Pure. Not here: when it is
//! looked at again (`still`, `table`).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::catalog::Touch;
use crate::clock::BootTime;
use crate::id::{Name, ObjectId};
use crate::tree::TreeError;

/// Places that are known at once: of more there is only the number, which is no greater than this.
const MANY: usize = 4096;
/// Most that is looked at does not stay so for long.
const LASTS: Duration = Duration::from_secs(1);

/// Why a place could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Why {
    /// It was another one at the end of the read than at the beginning, again and again.
    Restless,
    /// More extended attributes than are carried.
    Xattrs(String),
    /// What the disk said.
    Refused(String),
}

impl Why {
    pub fn of(error: &TreeError) -> Self {
        match error {
            TreeError::Io { source, .. } if error.is_of_xattrs() => Self::Xattrs(source.to_string()),
            TreeError::Io { source, .. } => Self::Refused(source.to_string()),
            other => Self::Refused(other.to_string()),
        }
    }

    pub fn is_for_an_operator(&self) -> bool {
        !matches!(self, Self::Restless)
    }

    pub fn said(&self) -> &str {
        match self {
            Self::Restless => "it changes while it is read",
            Self::Xattrs(said) | Self::Refused(said) => said,
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> &'static str {
        match self {
            Self::Restless => {
                "let what writes it pause for as long as it takes to read, or write a new file and rename it to \
                 its name"
            }
            Self::Xattrs(_) => "take some of them away; `getfattr -d -m -` lists them",
            Self::Refused(_) => "see to the disk, or to who may read it; it is tried again by itself",
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Unreads(BTreeMap<Place, Row>);

/// An entry of a directory, or an object itself: those of one directory stand together.
type Place = (ObjectId, Option<Name>);

fn place_of(touch: Touch) -> Place {
    match touch {
        Touch::Object(id) => (id, None),
        Touch::Entry(dir, name) => (dir, Some(name)),
    }
}

fn touch_of((id, name): &Place) -> Touch {
    match name {
        None => Touch::Object(*id),
        Some(name) => Touch::Entry(*id, name.clone()),
    }
}

#[derive(Debug)]
struct Row {
    why: Why,
    since: BootTime,
    /// A directory whose names could not be read: that it can be looked at does not end that.
    listing: bool,
}

impl Unreads {
    /// It could not be read at `now`, nor since it was noted first.
    pub fn note(&mut self, touch: Touch, why: Why, listing: bool, now: BootTime) {
        let place = place_of(touch);
        if self.0.len() >= MANY && !self.0.contains_key(&place) {
            return;
        }
        let row = self.0.entry(place).or_insert(Row { why: Why::Restless, since: now, listing });
        (row.why, row.listing) = (why, listing);
    }

    /// It has been looked at, and is there no more or could be read: all that is left to say of it is that
    /// its names could not be listed. `false`: nothing is.
    pub fn looked(&mut self, touch: &Touch) -> bool {
        let place = place_of(touch.clone());
        let listing = self.0.get(&place).is_some_and(|row| row.listing);
        if !listing {
            self.0.remove(&place);
        }
        listing
    }

    /// It could be read, its names included.
    pub fn read(&mut self, touch: &Touch) {
        self.0.remove(&place_of(touch.clone()));
    }

    /// What a directory's listing does not tell may be among them: it was seen, and nothing was recorded.
    pub fn names_in(&self, dir: ObjectId) -> Vec<Name> {
        self.below(dir).filter_map(|(_, name)| name.clone()).collect()
    }

    /// The directory is no more, and with it every entry that it had.
    pub fn ended(&mut self, dir: ObjectId) {
        let below: Vec<Place> = self.below(dir).cloned().collect();
        below.iter().for_each(|place| drop(self.0.remove(place)));
    }

    fn below(&self, dir: ObjectId) -> impl Iterator<Item = &Place> {
        self.0.range((dir, None)..).map(|(place, _)| place).take_while(move |place| place.0 == dir)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that have lasted.
    pub fn lasting(&self, most: usize, now: BootTime) -> Lasting {
        let mut lasting: Vec<_> =
            self.0.iter().filter(|(_, row)| now.since(row.since) >= LASTS).collect();
        lasting.sort_by_key(|(place, row)| (!row.why.is_for_an_operator(), *place));
        let ill = lasting.iter().filter(|(_, row)| row.why.is_for_an_operator()).count();
        let first = lasting.iter().take(most);
        let first = first.map(|(place, row)| (touch_of(place), row.why.clone(), now.since(row.since)));
        Lasting { many: lasting.len(), ill, first: first.collect() }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lasting {
    pub many: usize,
    /// Of them: what does not end before somebody does something about it.
    pub ill: usize,
    /// The first of them, those before all others, each with how long it has lasted.
    pub first: Vec<(Touch, Why, Duration)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(n: u16) -> Touch {
        let [high, low] = n.to_be_bytes();
        Touch::Object(ObjectId::from_bytes([high, low, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7]))
    }
    fn at(ms: u64) -> BootTime {
        BootTime(Duration::from_millis(ms))
    }

    #[test]
    fn what_lasts_is_told_since_it_began_and_what_somebody_can_end_comes_first() {
        let mut unreads = Unreads::default();
        unreads.note(touch(1), Why::Restless, false, at(0));
        unreads.note(touch(2), Why::Refused("no".into()), false, at(0));
        assert_eq!(unreads.lasting(9, at(999)), Lasting { many: 0, ill: 0, first: vec![] });
        unreads.note(touch(2), Why::Refused("EIO".into()), false, at(900));
        let second = (touch(2), Why::Refused("EIO".into()), Duration::from_secs(1));
        assert_eq!(unreads.lasting(1, at(1000)), Lasting { many: 2, ill: 1, first: vec![second] });
        unreads.read(&touch(2));
        let first = (touch(1), Why::Restless, Duration::from_secs(2));
        assert_eq!(unreads.lasting(9, at(2000)), Lasting { many: 1, ill: 0, first: vec![first] });
        assert!(!unreads.looked(&touch(1)));
        assert!(unreads.is_empty());
        // A directory can be looked at all the time.
        unreads.note(touch(3), Why::Refused("EIO".into()), true, at(2000));
        assert!(unreads.looked(&touch(3)));
        assert_eq!(unreads.lasting(9, at(3000)).many, 1);
        unreads.read(&touch(3));
        assert!(unreads.is_empty());
    }

    #[test]
    fn of_a_directory_that_ends_nothing_is_told() {
        let dir = |n: u8| ObjectId::from_bytes([n; 16]);
        let name = |text: &str| Name::new(text.as_bytes()).unwrap();
        let entry = |n, text| Touch::Entry(dir(n), name(text));
        let mut unreads = Unreads::default();
        for touch in [entry(1, "x"), entry(2, "a"), entry(2, "b"), entry(3, "x")] {
            unreads.note(touch, Why::Restless, false, at(0));
        }
        assert_eq!(unreads.names_in(dir(2)), [name("a"), name("b")]);
        unreads.ended(dir(2));
        let left: Vec<Touch> = unreads.lasting(9, at(1000)).first.into_iter().map(|row| row.0).collect();
        assert_eq!(left, [entry(1, "x"), entry(3, "x")]);
        assert_eq!(unreads.names_in(dir(2)), []);
    }

    #[test]
    fn there_are_only_so_many() {
        let mut unreads = Unreads::default();
        (0..5000).for_each(|n| unreads.note(touch(n), Why::Restless, false, at(0)));
        // Those that are known still are.
        unreads.note(touch(0), Why::Xattrs("more".into()), false, at(500));
        let Lasting { many, first, .. } = unreads.lasting(1, at(1000));
        assert_eq!((many, first[0].1.clone()), (MANY, Why::Xattrs("more".into())));
    }
}
