//! Renames verified content in, under every name that its object has (R30).

use super::park::Near;
use super::{CHANGED, Entry, Result, SCRATCH, Settler, changed_between, is_changed};
use crate::id::{Name, ObjectId};
use crate::object::{Found, Local, Object};
use crate::tree::{Spot, Tree};

impl<T: Tree> Settler<'_, T> {
    /// New content of an object that is in place, under every name it has (R30).
    pub(super) fn replace_content(
        &mut self,
        dir: &T::Dir,
        parent: ObjectId,
        name: &Name,
        object: &Object,
    ) -> Result<()> {
        let Some(new) = self.dress(object)? else { return Ok(()) };
        let kept = self.guard(Spot::Entry(dir, name), Near::In(parent), name, object.id)?;
        self.bring_content(dir, parent, name, object, new, kept)
    }

    /// Renames dressed content in, under this name last: until then the old content is known as ours
    /// wherever it still is. `kept`: that was changed behind our back, and is kept already.
    pub(super) fn bring_content(
        &mut self,
        dir: &T::Dir,
        parent: ObjectId,
        name: &Name,
        object: &Object,
        new: Found,
        kept: bool,
    ) -> Result<()> {
        let later = match self.local(object.id)? {
            Some(old) => self.spread(parent, name, object, &new, &old, kept)?,
            None => Vec::new(),
        };
        self.tree.rename(Spot::Tmp(object.id), Spot::Entry(dir, name), true)?;
        self.stock.stirred.insert(parent);
        self.stock.ready.remove(&object.id);
        self.pay(object);
        // The rename itself is a change of the inode.
        let stamp = match self.tree.look(Spot::Entry(dir, name))? {
            Some(found) if found.handle == new.handle && !changed_between(&new.stamp, &found.stamp) => {
                found.stamp
            }
            _ => new.stamp,
        };
        let local = Local { handle: new.handle, stamp, version: object.version, settled: true };
        self.set_local(object.id, Some(local))?;
        for (other, own) in later {
            self.place(other, &own)?;
        }
        Ok(())
    }

    /// Gives content that is still at its `Spot::Tmp` every other name that the old content has. Says
    /// which names of the object have neither.
    fn spread(
        &mut self,
        parent: ObjectId,
        name: &Name,
        object: &Object,
        new: &Found,
        old: &Local,
        mut kept: bool,
    ) -> Result<Vec<Entry>> {
        if self.stock.park.contains(&object.id) {
            kept |= self.guard(Spot::Park(object.id), Near::In(parent), name, object.id)?;
            self.tree.remove(Spot::Park(object.id))?;
            self.stock.park.remove(&object.id);
        }
        let mut later = Vec::new();
        let mut places = self.shelf.links(object.id)?;
        places.extend(self.stock.seen_at.remove(&object.id));
        for (other, own) in places {
            if (other, &own) == (parent, name) {
                continue;
            }
            let Some(there) = self.dir(other)? else { continue };
            let spot = Spot::Entry(&*there, &own);
            let Some(found) = self.tree.look(spot)? else { continue };
            let stays = self.shelf.child(other, &own)? == Some(object.id);
            if found.handle != old.handle {
                if stays && found.handle != new.handle {
                    later.push((other, own));
                }
                continue;
            }
            if !kept && is_changed(old, &found) {
                self.keep(spot, Near::In(other), &own, CHANGED)?;
                kept = true;
            }
            if stays {
                self.put_link(Spot::Tmp(object.id), spot)?;
            } else {
                self.tree.remove(spot)?;
            }
            self.stock.stirred.insert(other);
        }
        Ok(later)
    }

    /// Puts one more name to an inode, over whatever is there, in one step for readers.
    pub(super) fn relink(
        &mut self,
        from: Spot<'_, T::Dir>,
        dir: &T::Dir,
        parent: ObjectId,
        name: &Name,
        object: &Object,
    ) -> Result<()> {
        self.put_link(from, Spot::Entry(dir, name))?;
        self.arrived(dir, parent, name, object)
    }

    fn put_link(&self, from: Spot<'_, T::Dir>, to: Spot<'_, T::Dir>) -> Result<()> {
        let scratch = Spot::Tmp(ObjectId::from_bytes(SCRATCH));
        self.tree.remove(scratch)?;
        self.tree.link(from, scratch)?;
        self.tree.rename(scratch, to, true).inspect_err(|_| {
            // It is one name more; where that fails too, the next one removes it.
            let _ = self.tree.remove(scratch);
        })?;
        Ok(())
    }
}
