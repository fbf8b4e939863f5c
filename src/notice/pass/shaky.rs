//! What a pass leaves for later: what may still change without its stamps telling (R17), and what could not be
//! read.

use super::*;

/// What is known of an entry that is unsettled.
#[derive(Default)]
pub(super) struct Shaky {
    /// Something below it is.
    pub below: bool,
    /// It, or something below it, could not be read.
    pub unread: bool,
}

impl<T: Tree> Pass<'_, T> {
    /// After a hint's entries and what is below them were looked at: `None` if all that was read is
    /// settled, else whether what is not lies below. Hints that name the same entries are told the
    /// same.
    pub fn restless(&mut self) -> Option<bool> {
        if self.unsettled.is_empty() {
            return None;
        }
        let (named, shaky) = (&self.named, &self.shaky);
        let is_below = |shaky: &Shaky| shaky.below;
        let below = |entry: &Entry| !named.contains(entry) || shaky.get(entry).is_some_and(is_below);
        let below = self.unsettled.iter().any(below);
        for entry in &self.named {
            let shaky = self.shaky.entry(entry.clone()).or_default();
            shaky.below |= below;
            shaky.unread |= self.unread;
        }
        Some(below)
    }

    /// What was read may still change without its stamps telling.
    pub(super) fn unsettle(&mut self, parent: ObjectId, name: &Name) {
        self.shaky.entry((parent, name.clone())).or_default();
        self.unsettled.push((parent, name.clone()));
    }

    /// What is there is not known now.
    pub(super) fn leave_unread(&mut self, parent: ObjectId, name: &Name) {
        self.unsettle(parent, name);
        self.shaky.entry((parent, name.clone())).or_default().unread = true;
        self.unread = true;
    }
}
