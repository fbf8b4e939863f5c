//! Contents that have come: whose they are until they are in place, and what becomes of wrong, early and late ones.

use super::{Applier, Arrived, EARLY, lock};
use crate::catalog::Inline;
use crate::catalog::Touch;
use crate::follow::Result;
use crate::follow::settle::Stock;
use crate::id::{Hash, ObjectId, Version};
use crate::object::Object;
use crate::tree::content::hash_bytes;
use crate::tree::{Spot, Tree};

impl<T: Tree> Applier<T> {
    /// They count only with the hashes that the journal names.
    pub(super) fn arrived(&mut self, contents: &[Arrived]) -> Result<()> {
        for Arrived { id, version, root, xattrs } in contents {
            self.holding.insert(*id, self.follow.clock.boot());
            if let Some(xattrs) = xattrs {
                self.stock.xattrs.insert(*id, (xattrs.hash(), xattrs.clone()));
            }
            match root {
                Some(root) => self.note_ready(*id, *version, *root)?,
                None => self.note_dressed(*id, *version)?,
            }
        }
        if self.follow.may_fetch() {
            *lock(&self.follow.full) = None;
        }
        Ok(())
    }

    /// Writes aside what came with its record. What there is no room for is fetched again later: meanwhile a
    /// removal may make room.
    pub(super) fn stage(&mut self, inline: &Inline) -> Result<()> {
        let Inline { id, version, data } = inline;
        let ready = self.stock.ready.get(id);
        if ready.is_some_and(|(here, root)| here == version && *root == hash_bytes(data).root) {
            return Ok(());
        }
        // What was ready there is not from here on.
        self.stock.ready.remove(id);
        match self.follow.put_aside(*id, data) {
            Ok(root) => self.note_ready(*id, *version, root),
            Err(error) if error.no_room() => {
                self.follow.no_room(&error);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn note_ready(&mut self, id: ObjectId, version: Version, root: Hash) -> Result<()> {
        self.stock.ready.insert(id, (version, root));
        let Some(object) = self.follow.shelf.object(id)? else {
            // Deleted while its content was on the way.
            return self.drop_ready(id);
        };
        if object.version < version {
            // The record that names it is on the way (R25).
            return Ok(());
        }
        let right = object.version == version && object.root == root && self.stock.is_dressed(&object);
        if right && lock(&self.follow.owed).contains(id) {
            self.dirty.push_back(Touch::Object(id));
            return Ok(());
        }
        self.drop_ready(id)?;
        self.note_wrong(&object, version);
        Ok(())
    }

    /// Attributes came without content.
    fn note_dressed(&mut self, id: ObjectId, version: Version) -> Result<()> {
        let Some(object) = self.follow.shelf.object(id)? else { return Ok(()) };
        if self.stock.is_dressed(&object) {
            self.dirty.push_back(Touch::Object(id));
        } else {
            self.note_wrong(&object, version);
        }
        Ok(())
    }

    /// What came is not what the journal names. Its record may be on the way, or it was here already.
    fn note_wrong(&self, object: &Object, version: Version) {
        let mut owed = lock(&self.follow.owed);
        if object.version == version && owed.contains(object.id) {
            tracing::warn!(
                share = %self.follow.config.share, id = %object.id,
                "content came with another hash than the journal names; it is asked for again"
            );
            owed.rest(object.id, self.follow.clock.boot());
        }
    }

    /// Gives back what was taken of contents that are in place by now, or thrown away. What came early, and
    /// whose record does not come because it was of a journal that ended elsewhere, goes too.
    pub(super) fn give_back(&mut self) -> Result<()> {
        let follow = self.follow.clone();
        let now = follow.clock.boot();
        let early: Vec<ObjectId> = self
            .holding
            .iter()
            .filter(|(id, since)| now.since(**since) >= EARLY && self.stock.ready.contains_key(id))
            .map(|(id, _)| *id)
            .collect();
        // While records are on their way, that one may be.
        let late = self.compare.is_none() && follow.progress().lag_records == 0;
        for id in early {
            let here = self.stock.ready.get(&id).copied();
            let named = follow.shelf.object(id)?.map(|object| (object.version, object.root));
            if here == named {
                // It would be in place if somebody had tried.
                self.dirty.push_back(Touch::Object(id));
            } else if late {
                self.drop_ready(id)?;
                continue;
            }
            self.holding.insert(id, now);
        }
        let Stock { ready, xattrs, .. } = &mut self.stock;
        // What was refused asks for them anew.
        xattrs.retain(|id, _| ready.contains_key(id));
        let over = self.holding.extract_if(|id, _| !ready.contains_key(id));
        let over: Vec<ObjectId> = over.map(|(id, _)| id).collect();
        if !over.is_empty() {
            let mut owed = lock(&follow.owed);
            over.into_iter().for_each(|id| owed.give_back(id));
            follow.owing.notify_waiters();
        }
        Ok(())
    }

    pub(super) fn drop_ready(&mut self, id: ObjectId) -> Result<()> {
        self.stock.xattrs.remove(&id);
        if self.stock.ready.remove(&id).is_some() {
            self.follow.tree.remove(Spot::Tmp(id))?;
        }
        Ok(())
    }
}
