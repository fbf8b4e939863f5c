//! Making room without destroying anything: what lives on waits in `.nearshare/park`, what is foreign is
//! kept aside, what is deleted goes, from the leaves up.

use std::sync::Arc;

use super::{CHANGED, Result, Settler, is_changed};
use crate::catalog::Touch;
use crate::id::{Name, ObjectId, RelPath};
use crate::object::{Found, Kind};
use crate::tree::{Alive, Aside, Spot, Tree};

const ROTTEN: &str = "its content was not what had been recorded, as `nearshare verify` found";

/// One directory being emptied.
struct Level<D> {
    dir: Arc<D>,
    names: Vec<Name>,
    /// What it is to the level above; `None` for the parked directory itself.
    own: Option<(Name, ObjectId)>,
    /// Where it was in the share, as far as that is known.
    was: Option<RelPath>,
}

/// Where something was that is kept aside.
#[derive(Clone, Copy)]
pub(super) enum Near<'a> {
    /// In this directory.
    In(ObjectId),
    /// In one that is no more, which was here.
    Was(Option<&'a RelPath>),
}

impl<T: Tree> Settler<'_, T> {
    /// Clears an entry. An object that lives on is parked, a deleted one goes, anything foreign is kept.
    /// `over`: a plain deleted file may stay, a rename is about to replace it; it is still to be forgotten.
    pub(super) fn evict(
        &mut self,
        dir: &T::Dir,
        parent: ObjectId,
        name: &Name,
        id: Option<ObjectId>,
        found: &Found,
        over: bool,
    ) -> Result<()> {
        self.stock.stirred.insert(parent);
        let spot = Spot::Entry(dir, name);
        let Some(id) = id else {
            let rotten = self.stock.rotten.remove(&found.handle);
            let reason = if rotten { ROTTEN } else { "it was not there before" };
            return self.keep(spot, Near::In(parent), name, reason);
        };
        if self.shelf.object(id)?.is_some() {
            let elsewhere =
                self.shelf.links(id)?.into_iter().any(|entry| entry != (parent, name.clone()));
            if found.nlink > 1 && elsewhere && found.kind != Kind::Directory {
                return Ok(self.tree.remove(spot)?);
            }
            self.park(spot, Near::In(parent), id, name, found)?;
            self.stock.parked.insert(id);
            return Ok(());
        }
        if found.kind == Kind::Directory {
            self.park(spot, Near::In(parent), id, name, found)?;
            if let Some(path) = self.path_near(parent)? {
                self.stock.was.insert(id, path.join(name.clone()));
            }
            self.stock.discard.insert(id);
            return Ok(());
        }
        self.guard(spot, Near::In(parent), name, id)?;
        if over {
            return Ok(());
        }
        self.tree.remove(spot)?;
        self.forget(id, found)
    }

    /// A deleted file has one name less. Until its last one goes it is still known as ours.
    pub(super) fn forget(&mut self, id: ObjectId, found: &Found) -> Result<()> {
        if found.nlink > 1 { Ok(()) } else { self.set_local(id, None) }
    }

    fn park(
        &mut self,
        spot: Spot<'_, T::Dir>,
        near: Near<'_>,
        id: ObjectId,
        name: &Name,
        found: &Found,
    ) -> Result<()> {
        if self.stock.park.contains(&id)
            && let Some(there) = self.tree.look(Spot::Park(id))?
            && there.handle != found.handle
        {
            self.keep(Spot::Park(id), near, name, "another inode of this object was found")?;
        }
        self.tree.rename(spot, Spot::Park(id), true)?;
        self.stock.park.insert(id);
        self.dirs.remove(&id);
        Ok(())
    }

    /// Before a file that is ours goes: if it was changed behind our back, that version is kept. Says
    /// whether it was.
    pub(super) fn guard(
        &mut self,
        spot: Spot<'_, T::Dir>,
        near: Near<'_>,
        name: &Name,
        id: ObjectId,
    ) -> Result<bool> {
        let Some(found) = self.tree.look(spot)? else { return Ok(false) };
        let foreign = self.is_foreign(id, &found)?;
        if foreign {
            self.keep(spot, near, name, CHANGED)?;
        }
        Ok(foreign)
    }

    pub(super) fn is_foreign(&self, id: ObjectId, found: &Found) -> Result<bool> {
        Ok(self.local(id)?.is_some_and(|local| is_changed(&local, found)))
    }

    pub(super) fn keep(
        &mut self,
        spot: Spot<'_, T::Dir>,
        near: Near<'_>,
        name: &Name,
        reason: &str,
    ) -> Result<()> {
        let near = match near {
            Near::In(dir) => self.path_near(dir)?,
            Near::Was(path) => path.cloned(),
        };
        let path = near.map(|near| near.join(name.clone()));
        let kept = self.tree.keep(spot, &Aside { name, path: path.as_ref(), reason })?;
        self.out.kept += 1;
        let path = path.map(|path| path.to_string()).unwrap_or_default();
        tracing::warn!(path, %name, kept = %kept.display(), reason, "moved aside, nothing is destroyed");
        Ok(())
    }

    /// Where a directory is, or was before it was deleted, as far as anybody knows.
    fn path_near(&self, dir: ObjectId) -> Result<Option<RelPath>> {
        if let Some(path) = self.shelf.path_of(dir)? {
            return Ok(Some(path));
        }
        if let Some(path) = self.stock.was.get(&dir) {
            return Ok(Some(path.clone()));
        }
        let Some(local) = self.local(dir)? else { return Ok(None) };
        match self.tree.alive(&local.handle)? {
            Alive::Yes(_, path) => Ok(path),
            Alive::Gone | Alive::Unknown => Ok(None),
        }
    }

    /// Objects that were parked on the way find their names; deleted ones go, with what is below them.
    pub(super) fn clear_park(&mut self) -> Result<()> {
        loop {
            while let Some(id) = self.stock.discard.first().copied() {
                self.discard_parked(id).or_else(|error| self.refuse(Touch::Object(id), error))?;
                self.stock.discard.remove(&id);
            }
            let Some(id) = self.stock.parked.first().copied() else { return Ok(()) };
            self.place_parked(id).or_else(|error| self.refuse(Touch::Object(id), error))?;
            self.stock.parked.remove(&id);
        }
    }

    fn place_parked(&mut self, id: ObjectId) -> Result<()> {
        for (parent, name) in self.shelf.links(id)? {
            self.place(parent, &name)?;
        }
        self.tidy(id)
    }

    /// What is still in the park of an object after its names were placed.
    fn tidy(&mut self, id: ObjectId) -> Result<()> {
        if !self.stock.park.contains(&id) {
            return Ok(());
        }
        let Some(left) = self.tree.look(Spot::Park(id))? else {
            self.stock.park.remove(&id);
            return Ok(());
        };
        let Some((parent, name)) = self.shelf.links(id)?.into_iter().next() else { return Ok(()) };
        let Some(dir) = self.dir(parent)? else { return Ok(()) };
        let Some(there) = self.tree.look(Spot::Entry(&dir, &name))? else { return Ok(()) };
        if self.by_handle(&there.handle)? != Some(id) {
            return Ok(());
        }
        if there.handle == left.handle {
            // Another link of an inode that has its name again.
            self.tree.remove(Spot::Park(id))?;
        } else {
            self.keep(
                Spot::Park(id),
                Near::In(parent),
                &name,
                "another inode of this object is in its place",
            )?;
        }
        self.stock.park.remove(&id);
        Ok(())
    }

    /// Deletes a parked directory from the leaves up; what lives elsewhere is parked by its own id,
    /// what is foreign is kept.
    fn discard_parked(&mut self, top: ObjectId) -> Result<()> {
        let spot = Spot::Park(top);
        let was = self.stock.was.get(&top).cloned();
        if let Some(found) = self.tree.look(spot)? {
            if found.kind == Kind::Directory {
                self.empty(top, was)?;
            } else {
                let name = Name::new(top.to_string().as_bytes());
                // 32 hexadecimal digits are a name.
                if let Ok(name) = name {
                    self.guard(spot, Near::Was(None), &name, top)?;
                }
            }
            self.tree.remove(spot)?;
        }
        self.stock.park.remove(&top);
        self.stock.was.remove(&top);
        self.set_local(top, None)
    }

    fn empty(&mut self, top: ObjectId, was: Option<RelPath>) -> Result<()> {
        let Some(dir) = self.tree.open_at(Spot::Park(top))? else { return Ok(()) };
        let names = self.tree.list(&dir)?;
        let mut levels = vec![Level { dir: Arc::new(dir), names, own: None, was }];
        while let Some(level) = levels.last_mut() {
            let Some(name) = level.names.pop() else {
                let own = level.own.take();
                levels.pop();
                if let (Some((own, id)), Some(above)) = (own, levels.last()) {
                    self.tree.remove(Spot::Entry(&above.dir, &own))?;
                    self.set_local(id, None)?;
                }
                continue;
            };
            let (dir, was) = (level.dir.clone(), level.was.clone());
            if let Some((below, id)) = self.discard_one(&dir, &name, was.as_ref())? {
                let names = self.tree.list(&below)?;
                let was = was.map(|was| was.join(name.clone()));
                levels.push(Level { dir: Arc::new(below), names, own: Some((name, id)), was });
            }
        }
        Ok(())
    }

    /// One entry below a parked directory. A directory that is to be emptied first is handed back.
    fn discard_one(
        &mut self,
        dir: &T::Dir,
        name: &Name,
        was: Option<&RelPath>,
    ) -> Result<Option<(T::Dir, ObjectId)>> {
        let (spot, near) = (Spot::Entry(dir, name), Near::Was(was));
        let Some(found) = self.tree.look(spot)? else { return Ok(None) };
        let Some(id) = self.by_handle(&found.handle)? else {
            self.keep(spot, near, name, "it was in a directory that is deleted")?;
            return Ok(None);
        };
        if self.shelf.object(id)?.is_some() {
            if found.nlink > 1 && found.kind != Kind::Directory && self.stock.park.contains(&id) {
                self.tree.remove(spot)?;
                return Ok(None);
            }
            self.park(spot, near, id, name, &found)?;
            self.stock.parked.insert(id);
            return Ok(None);
        }
        if found.kind == Kind::Directory {
            return Ok(self.tree.open_at(spot)?.map(|below| (below, id)));
        }
        self.guard(spot, near, name, id)?;
        self.tree.remove(spot)?;
        self.forget(id, &found)?;
        Ok(None)
    }
}
