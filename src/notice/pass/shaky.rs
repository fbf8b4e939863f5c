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

    /// For `status`: an entry could not be read. `listing`: a directory's names.
    pub(super) fn note_unread(&self, parent: ObjectId, name: &Name, why: Why, listing: bool) {
        let touch = Touch::Entry(parent, name.clone());
        lock(self.unreads).note(touch, why, listing, self.clock.boot());
    }

    /// For `status`: an entry has been looked at, and if it was not left unread there is nothing to say of it.
    pub(super) fn note_read(&mut self, entry: Entry) -> Result<()> {
        let is_unread = |shaky: &Shaky| shaky.unread;
        if lock(self.unreads).is_empty() || self.shaky.get(&entry).is_some_and(is_unread) {
            return Ok(());
        }
        let touch = Touch::Entry(entry.0, entry.1.clone());
        // Of nearly all entries that is the end of it, and the catalog is not asked.
        if !lock(self.unreads).looked(&touch) {
            return Ok(());
        }
        let object = match self.draft.child(entry.0, &entry.1)? {
            Some(id) => self.draft.object(id)?,
            None => None,
        };
        if object.is_none_or(|object| object.kind != Kind::Directory) {
            lock(self.unreads).read(&touch);
        }
        Ok(())
    }

    /// For `status`: a directory's names have been read.
    pub(super) fn note_listed(&mut self, id: ObjectId) -> Result<()> {
        if lock(self.unreads).is_empty() {
            return Ok(());
        }
        for (parent, name) in self.draft.links(id)? {
            lock(self.unreads).read(&Touch::Entry(parent, name));
        }
        Ok(())
    }

    /// For `status`: what came of reading a directory's own attributes. Of others than the root's the entry
    /// tells.
    pub(super) fn note_root(&self, id: ObjectId, why: Option<Why>) {
        let root = Touch::Object(ObjectId::ROOT);
        match why {
            _ if id != ObjectId::ROOT => {}
            Some(why) => lock(self.unreads).note(root, why, false, self.clock.boot()),
            None => lock(self.unreads).read(&root),
        }
    }

    /// What is there is not known now.
    pub(super) fn leave_unread(&mut self, parent: ObjectId, name: &Name) {
        self.unsettle(parent, name);
        self.shaky.entry((parent, name.clone())).or_default().unread = true;
        self.unread = true;
    }
}
