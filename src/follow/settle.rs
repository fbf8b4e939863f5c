//! Brings a copy's disk to what its catalog says, entry by entry. What it says, not how it came
//! about: settling twice, or again after a crash halfway, ends at the same place.
//!
//! Nothing that nearshare did not put there is ever destroyed: it is moved to `.nearshare/kept`.
//! Objects that are between two names, or have none (R16), wait in `.nearshare/park`.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;

use super::FollowError;
use crate::catalog::{Batch, Shelf, Touch};
use crate::id::{Hash, Name, ObjectId, RelPath, Version};
use crate::object::{Found, Kind, Local, LocalHandle, Object};
use crate::tree::content::Hasher;
use crate::tree::{Place, Spot, Tree};

pub(super) type Entry = (ObjectId, Name);
type Result<T> = std::result::Result<T, FollowError>;

/// Open directories kept for the next look in the same one.
const DIRS_MAX: usize = 64;
const READ_LEN: usize = 256 * 1024;

/// Verified content that waits at its `Spot::Tmp`.
pub(super) type Ready = HashMap<ObjectId, (Version, Hash)>;

pub(super) struct Settler<'a, T: Tree> {
    tree: &'a T,
    shelf: &'a Shelf,
    ready: &'a mut Ready,
    locals: HashMap<ObjectId, Option<Local>>,
    handles: HashMap<LocalHandle, Option<ObjectId>>,
    /// Objects seen at an entry that is no longer theirs.
    seen_at: HashMap<ObjectId, Entry>,
    dirs: HashMap<ObjectId, Arc<T::Dir>>,
    /// Directories whose own times our work has moved.
    stirred: BTreeSet<ObjectId>,
    parked: BTreeSet<ObjectId>,
    /// Parked objects that the catalog has no more.
    discard: BTreeSet<ObjectId>,
    placing: HashSet<Entry>,
    paid: Vec<(ObjectId, Version)>,
    /// A comparison is under way: a file that is there with the right content is taken over, whatever
    /// object it was.
    pub adopt: bool,
    /// Versions that were moved aside, for the log.
    pub kept: u64,
}

/// A directory that is being emptied: the names yet to go, and its own name in the one above.
type Emptied<T> = (Arc<<T as Tree>::Dir>, Vec<Name>, Option<Name>);

/// Where an object's inode comes from.
enum Source {
    /// Its new content, verified.
    Tmp,
    Park,
    At(Entry),
    /// One more name of an inode that keeps the one it has.
    Link(Entry),
    Make,
    /// Its content has not come yet: what is there stays.
    Awaited,
}

impl<'a, T: Tree> Settler<'a, T> {
    pub fn new(tree: &'a T, shelf: &'a Shelf, ready: &'a mut Ready) -> Self {
        Self {
            tree,
            shelf,
            ready,
            locals: HashMap::new(),
            handles: HashMap::new(),
            seen_at: HashMap::new(),
            dirs: HashMap::new(),
            stirred: BTreeSet::new(),
            parked: BTreeSet::new(),
            discard: BTreeSet::new(),
            placing: HashSet::new(),
            paid: Vec::new(),
            adopt: false,
            kept: 0,
        }
    }

    /// Settles what the touches name, in their order. Afterwards `into_batch` has what to commit.
    pub fn settle(&mut self, touches: &[Touch]) -> Result<()> {
        for touch in touches {
            if let Touch::Entry(dir, name) = touch {
                self.survey(*dir, name)?;
            }
        }
        for touch in touches {
            match touch {
                Touch::Entry(dir, name) => self.place(*dir, name)?,
                Touch::Object(id) => self.settle_object(*id)?,
            }
        }
        self.clear_park()?;
        self.set_dir_times()
    }

    /// What the disk and the catalog agree on now, and the debts that are paid.
    pub fn into_batch(self, batch: &mut Batch) -> Vec<(ObjectId, Version)> {
        for (id, local) in self.locals {
            batch.set_local(id, local);
        }
        for (id, version) in &self.paid {
            batch.paid(*id, *version);
        }
        self.paid
    }

    /// Notes an object that sits where it no longer belongs: its new place takes it from there.
    fn survey(&mut self, parent: ObjectId, name: &Name) -> Result<()> {
        let Some(dir) = self.dir(parent)? else { return Ok(()) };
        let Some(found) = self.tree.look(Spot::Entry(&dir, name))? else { return Ok(()) };
        let Some(id) = self.by_handle(&found.handle)? else { return Ok(()) };
        if self.shelf.child(parent, name)? != Some(id) && self.shelf.object(id)?.is_some() {
            self.seen_at.insert(id, (parent, name.clone()));
        }
        Ok(())
    }

    fn settle_object(&mut self, id: ObjectId) -> Result<()> {
        let Some(object) = self.shelf.object(id)? else {
            if self.tree.look(Spot::Park(id))?.is_some() {
                self.discard.insert(id);
            }
            return Ok(());
        };
        if object.kind == Kind::Directory {
            self.stirred.insert(id);
        }
        for (parent, name) in self.shelf.links(id)? {
            self.place(parent, &name)?;
        }
        Ok(())
    }

    /// Makes one entry what the catalog says it is.
    fn place(&mut self, parent: ObjectId, name: &Name) -> Result<()> {
        let entry = (parent, name.clone());
        if !self.placing.insert(entry.clone()) {
            return Ok(());
        }
        let done = self.place_now(parent, name);
        self.placing.remove(&entry);
        done
    }

    fn place_now(&mut self, parent: ObjectId, name: &Name) -> Result<()> {
        let dir = match self.dir(parent)? {
            Some(dir) => dir,
            None => {
                // Gone with its parent, or its parent was removed behind our back.
                if self.shelf.object(parent)?.is_none() {
                    return Ok(());
                }
                for (above, own) in self.shelf.links(parent)? {
                    self.place(above, &own)?;
                }
                match self.dir(parent)? {
                    Some(dir) => dir,
                    None => return Ok(()),
                }
            }
        };
        let want = match self.shelf.child(parent, name)? {
            Some(id) => self.shelf.object(id)?,
            None => None,
        };
        let have = match self.tree.look(Spot::Entry(&dir, name))? {
            Some(found) => Some((self.by_handle(&found.handle)?, found)),
            None => None,
        };
        match (want, have) {
            (None, None) => Ok(()),
            (None, Some((id, found))) => self.evict(&dir, parent, name, id, &found, false).map(|_| ()),
            (Some(object), Some((Some(id), found))) if id == object.id => {
                self.refresh(&dir, parent, name, &object, &found)
            }
            (Some(object), have) => self.bring(&dir, parent, name, &object, have),
        }
    }

    /// The right object is there: content and attributes.
    fn refresh(
        &mut self,
        dir: &T::Dir,
        parent: ObjectId,
        name: &Name,
        object: &Object,
        found: &Found,
    ) -> Result<()> {
        let version = self.local(object.id)?.map_or(Version(0), |local| local.version);
        if object.kind == Kind::File && version != object.version {
            if self.is_ready(object) {
                return self.replace_content(dir, parent, name, object);
            }
            return Ok(());
        }
        if object.kind == Kind::Directory {
            self.stirred.insert(object.id);
            return Ok(());
        }
        let found = if found.attrs == object.attrs {
            found.clone()
        } else {
            self.tree.set_attrs(Spot::Entry(dir, name), &object.attrs)?
        };
        self.agree(object, &found);
        Ok(())
    }

    /// New content of an object that is in place, under every name it has (R30).
    fn replace_content(
        &mut self,
        dir: &T::Dir,
        parent: ObjectId,
        name: &Name,
        object: &Object,
    ) -> Result<()> {
        let old = self.local(object.id)?.map(|local| local.handle);
        self.tree.set_attrs(Spot::Tmp(object.id), &object.attrs)?;
        self.guard(dir, name, object.id)?;
        self.tree.rename(Spot::Tmp(object.id), Spot::Entry(dir, name), true)?;
        self.arrived(dir, parent, name, object)?;
        for (other, own) in self.shelf.links(object.id)? {
            if (other, &own) == (parent, name) {
                continue;
            }
            let Some(there) = self.dir(other)? else { continue };
            let found = self.tree.look(Spot::Entry(&there, &own))?;
            if found.as_ref().is_none_or(|found| Some(&found.handle) == old.as_ref()) {
                self.relink(Spot::Entry(dir, name), &there, other, &own, object)?;
            }
        }
        Ok(())
    }

    /// Puts one more name to an inode, over whatever is there, in one step for readers.
    fn relink(
        &mut self,
        from: Spot<'_, T::Dir>,
        dir: &T::Dir,
        parent: ObjectId,
        name: &Name,
        object: &Object,
    ) -> Result<()> {
        self.tree.remove(Spot::Tmp(object.id))?;
        self.tree.link(from, Spot::Tmp(object.id))?;
        self.tree.rename(Spot::Tmp(object.id), Spot::Entry(dir, name), true)?;
        self.arrived(dir, parent, name, object)
    }

    /// Another object, or none, is there: brings the right one in.
    fn bring(
        &mut self,
        dir: &T::Dir,
        parent: ObjectId,
        name: &Name,
        object: &Object,
        have: Option<(Option<ObjectId>, Found)>,
    ) -> Result<()> {
        let mut source = self.source(object, parent, name)?;
        if let Some((id, found)) = &have
            && matches!(source, Source::Make | Source::Awaited)
            && self.take_over(dir, parent, name, object, *id, found)?
        {
            return Ok(());
        }
        if matches!(source, Source::Awaited) {
            return Ok(());
        }
        if let Some((id, found)) = &have {
            let over = object.kind != Kind::Directory && found.kind != Kind::Directory;
            self.evict(dir, parent, name, *id, found, over)?;
            // Evicting may have moved the very inode that was to come.
            source = self.source(object, parent, name)?;
        }
        let to = Spot::Entry(dir, name);
        match source {
            Source::Tmp => {
                self.tree.set_attrs(Spot::Tmp(object.id), &object.attrs)?;
                self.tree.rename(Spot::Tmp(object.id), to, true)?;
            }
            Source::Park => self.tree.rename(Spot::Park(object.id), to, true)?,
            Source::At((other, own)) => {
                let Some(there) = self.dir(other)? else { return Ok(()) };
                self.tree.rename(Spot::Entry(&there, &own), to, true)?;
                self.stirred.insert(other);
                self.seen_at.remove(&object.id);
            }
            Source::Link((other, own)) => {
                let Some(there) = self.dir(other)? else { return Ok(()) };
                return self.relink(Spot::Entry(&there, &own), dir, parent, name, object);
            }
            Source::Make => {
                // A file or symlink may still be in the way: it goes in one step for readers.
                if object.kind == Kind::Directory {
                    self.tree.make(to, object)?;
                } else {
                    self.tree.remove(Spot::Tmp(object.id))?;
                    self.tree.make(Spot::Tmp(object.id), object)?;
                    self.tree.rename(Spot::Tmp(object.id), to, true)?;
                }
            }
            Source::Awaited => return Ok(()),
        }
        self.arrived(dir, parent, name, object)
    }

    /// The object's inode is at the entry now: notes it, with the right attributes.
    fn arrived(&mut self, dir: &T::Dir, parent: ObjectId, name: &Name, object: &Object) -> Result<()> {
        self.stirred.insert(parent);
        let Some(mut found) = self.tree.look(Spot::Entry(dir, name))? else { return Ok(()) };
        if object.kind == Kind::Directory {
            self.stirred.insert(object.id);
            self.dirs.remove(&object.id);
        } else if found.attrs != object.attrs {
            found = self.tree.set_attrs(Spot::Entry(dir, name), &object.attrs)?;
        }
        let version = if self.is_ready(object) {
            self.ready.remove(&object.id);
            self.paid.push((object.id, object.version));
            object.version
        } else if object.kind == Kind::File {
            self.local(object.id)?.map_or(object.version, |local| local.version)
        } else {
            object.version
        };
        let local = Local { handle: found.handle, stamp: found.stamp, version, settled: true };
        self.set_local(object.id, Some(local))
    }

    /// The disk has the object's content and attributes.
    fn agree(&mut self, object: &Object, found: &Found) {
        let local = Local {
            handle: found.handle.clone(),
            stamp: found.stamp,
            version: object.version,
            settled: true,
        };
        self.locals.insert(object.id, Some(local));
    }

    fn source(&mut self, object: &Object, parent: ObjectId, name: &Name) -> Result<Source> {
        if object.kind == Kind::File && self.is_ready(object) {
            return Ok(Source::Tmp);
        }
        let Some(local) = self.local(object.id)? else {
            return Ok(if object.kind == Kind::File { Source::Awaited } else { Source::Make });
        };
        if self.tree.look(Spot::Park(object.id))?.is_some_and(|found| found.handle == local.handle) {
            return Ok(Source::Park);
        }
        let mut places: Vec<(Entry, bool)> =
            self.shelf.links(object.id)?.into_iter().map(|entry| (entry, true)).collect();
        places.extend(self.seen_at.get(&object.id).map(|entry| (entry.clone(), false)));
        for ((other, own), stays) in places {
            if (other, &own) == (parent, name) {
                continue;
            }
            let Some(there) = self.dir(other)? else { continue };
            let found = self.tree.look(Spot::Entry(&there, &own))?;
            if found.is_some_and(|found| found.handle == local.handle) {
                let entry = (other, own);
                let links = stays && object.kind != Kind::Directory;
                return Ok(if links { Source::Link(entry) } else { Source::At(entry) });
            }
        }
        // Lost behind our back: made or fetched again.
        self.set_local(object.id, None)?;
        Ok(if object.kind == Kind::File { Source::Awaited } else { Source::Make })
    }

    /// Takes over what is there if it is what the catalog says, by content: a copy that was seeded by
    /// hand is a head start.
    fn take_over(
        &mut self,
        dir: &T::Dir,
        parent: ObjectId,
        name: &Name,
        object: &Object,
        have: Option<ObjectId>,
        found: &Found,
    ) -> Result<bool> {
        let free = match have {
            None => true,
            Some(id) => self.adopt && self.shelf.object(id)?.is_none(),
        };
        if !free || found.kind != object.kind {
            return Ok(false);
        }
        let spot = Spot::Entry(dir, name);
        let same = match object.kind {
            Kind::Directory => true,
            Kind::File => {
                found.size == object.size
                    && found.nlink == 1
                    && self.hash(spot, found)? == Some(object.root)
            }
            Kind::Symlink => self.tree.read_link(spot)? == object.target,
            Kind::Fifo | Kind::Socket | Kind::Block | Kind::Char => found.rdev == object.rdev,
        };
        if !same {
            return Ok(false);
        }
        if let Some(id) = have {
            self.set_local(id, None)?;
        }
        self.stirred.insert(parent);
        let found = if object.kind == Kind::Directory {
            self.stirred.insert(object.id);
            found.clone()
        } else if found.attrs == object.attrs {
            found.clone()
        } else {
            self.tree.set_attrs(spot, &object.attrs)?
        };
        self.set_local(object.id, None)?;
        self.handles.insert(found.handle.clone(), Some(object.id));
        self.agree(object, &found);
        if object.kind == Kind::File {
            self.paid.push((object.id, object.version));
        }
        Ok(true)
    }

    fn hash(&self, spot: Spot<'_, T::Dir>, before: &Found) -> Result<Option<Hash>> {
        let Some(mut file) = self.tree.open_file(spot)? else { return Ok(None) };
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; READ_LEN.min(usize::try_from(before.size).unwrap_or(READ_LEN).max(1))];
        loop {
            let len = file
                .read(&mut buffer)
                .map_err(|source| FollowError::Read { what: "a file that is there".into(), source })?;
            if len == 0 {
                break;
            }
            hasher.update(&buffer[..len]);
        }
        let after = self.tree.file_found(&file)?;
        let same = after.stamp.mtime == before.stamp.mtime && after.size == before.size;
        Ok(same.then(|| hasher.finish().root))
    }

    /// Clears an entry. An object that lives on is parked, a deleted one goes, anything foreign is kept.
    /// `over`: a plain deleted file may stay, a rename is about to replace it.
    fn evict(
        &mut self,
        dir: &T::Dir,
        parent: ObjectId,
        name: &Name,
        id: Option<ObjectId>,
        found: &Found,
        over: bool,
    ) -> Result<()> {
        self.stirred.insert(parent);
        let spot = Spot::Entry(dir, name);
        let Some(id) = id else { return self.keep(spot, parent, name, "it was not there before") };
        if self.shelf.object(id)?.is_some() {
            let elsewhere =
                self.shelf.links(id)?.into_iter().any(|entry| entry != (parent, name.clone()));
            if found.nlink > 1 && elsewhere && found.kind != Kind::Directory {
                return Ok(self.tree.remove(spot)?);
            }
            self.tree.rename(spot, Spot::Park(id), true)?;
            self.parked.insert(id);
            self.dirs.remove(&id);
            return Ok(());
        }
        if found.kind == Kind::Directory {
            self.tree.rename(spot, Spot::Park(id), true)?;
            self.discard.insert(id);
            self.dirs.remove(&id);
            return Ok(());
        }
        self.guard(dir, name, id)?;
        if self.tree.look(spot)?.is_some() && !over {
            self.tree.remove(spot)?;
        }
        self.set_local(id, None)
    }

    /// Before a file that is ours goes: if it was changed behind our back, that version is kept.
    fn guard(&mut self, dir: &T::Dir, name: &Name, id: ObjectId) -> Result<()> {
        let spot = Spot::Entry(dir, name);
        let Some(found) = self.tree.look(spot)? else { return Ok(()) };
        let foreign = self.local(id)?.is_some_and(|local| {
            local.handle == found.handle
                && found.kind == Kind::File
                && (local.stamp.size, local.stamp.mtime) != (found.stamp.size, found.stamp.mtime)
        });
        if foreign {
            self.keep(spot, id, name, "it was changed at this copy, behind nearshare")?;
        }
        Ok(())
    }

    fn keep(&mut self, spot: Spot<'_, T::Dir>, near: ObjectId, name: &Name, reason: &str) -> Result<()> {
        let kept = self.tree.keep(spot, &name.to_string(), reason)?;
        self.kept += 1;
        let path = self.shelf.path_of(near)?.map(|path| path.to_string()).unwrap_or_default();
        tracing::warn!(near = %path, %name, kept = %kept.display(), reason, "moved aside, nothing is destroyed");
        Ok(())
    }

    /// Objects that were parked on the way find their names; deleted ones go, with what is below them.
    fn clear_park(&mut self) -> Result<()> {
        loop {
            while let Some(id) = self.discard.pop_first() {
                self.discard_parked(id)?;
            }
            let Some(id) = self.parked.pop_first() else { break };
            for (parent, name) in self.shelf.links(id)? {
                self.place(parent, &name)?;
            }
            let local = self.local(id)?;
            let left = self.tree.look(Spot::Park(id))?;
            let placed = self.shelf.links(id)?.first().cloned();
            if let (Some(local), Some(left), Some((parent, name))) = (local, left, placed)
                && local.handle == left.handle
                && let Some(dir) = self.dir(parent)?
                && self
                    .tree
                    .look(Spot::Entry(&dir, &name))?
                    .is_some_and(|found| found.handle == local.handle)
            {
                // Another link of an inode that has its name again.
                self.tree.remove(Spot::Park(id))?;
            }
        }
        Ok(())
    }

    /// Deletes a parked directory from the leaves up; what lives elsewhere is parked by its own id,
    /// what is foreign is kept.
    fn discard_parked(&mut self, top: ObjectId) -> Result<()> {
        let spot = Spot::Park(top);
        if let Some(found) = self.tree.look(spot)? {
            if found.kind == Kind::Directory {
                let mut stack: Vec<Emptied<T>> = Vec::new();
                if let Some(dir) = self.tree.open_at(spot)? {
                    let names = self.tree.list(&dir)?;
                    stack.push((Arc::new(dir), names, None));
                }
                while let Some((dir, names, own)) = stack.last_mut() {
                    let Some(name) = names.pop() else {
                        let own = own.take();
                        stack.pop();
                        if let (Some(own), Some((above, ..))) = (own, stack.last()) {
                            self.tree.remove(Spot::Entry(above, &own))?;
                        }
                        continue;
                    };
                    let dir = dir.clone();
                    if let Some(below) = self.discard_one(&dir, &name, top)? {
                        let names = self.tree.list(&below)?;
                        stack.push((Arc::new(below), names, Some(name)));
                    }
                }
            }
            self.tree.remove(spot)?;
        }
        self.set_local(top, None)
    }

    /// One entry below a parked directory. A directory that is to be emptied first is handed back.
    fn discard_one(&mut self, dir: &T::Dir, name: &Name, top: ObjectId) -> Result<Option<T::Dir>> {
        let spot = Spot::Entry(dir, name);
        let Some(found) = self.tree.look(spot)? else { return Ok(None) };
        let Some(id) = self.by_handle(&found.handle)? else {
            self.keep(spot, top, name, "it was in a directory that is deleted")?;
            return Ok(None);
        };
        if self.shelf.object(id)?.is_some() {
            self.tree.rename(spot, Spot::Park(id), true)?;
            self.parked.insert(id);
            return Ok(None);
        }
        if found.kind == Kind::Directory {
            let below = self.tree.open_at(spot)?;
            self.set_local(id, None)?;
            return Ok(below);
        }
        self.guard(dir, name, id)?;
        self.tree.remove(spot)?;
        self.set_local(id, None)?;
        Ok(None)
    }

    /// Our own work moved the times of directories: they become the primary's again.
    fn set_dir_times(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.stirred) {
            let Some(object) = self.shelf.object(id)? else { continue };
            let Some(dir) = self.dir(id)? else { continue };
            let found = self.tree.dir_found(&dir)?;
            let found = if found.attrs == object.attrs {
                found
            } else {
                self.tree.set_attrs(Spot::Itself(&dir), &object.attrs)?
            };
            self.handles.insert(found.handle.clone(), Some(id));
            self.agree(&object, &found);
        }
        Ok(())
    }

    fn is_ready(&self, object: &Object) -> bool {
        self.ready.get(&object.id) == Some(&(object.version, object.root))
    }

    fn local(&self, id: ObjectId) -> Result<Option<Local>> {
        match self.locals.get(&id) {
            Some(known) => Ok(known.clone()),
            None => Ok(self.shelf.local(id)?),
        }
    }
    fn by_handle(&self, handle: &LocalHandle) -> Result<Option<ObjectId>> {
        match self.handles.get(handle) {
            Some(known) => Ok(*known),
            None => Ok(self.shelf.by_handle(handle)?),
        }
    }
    fn set_local(&mut self, id: ObjectId, local: Option<Local>) -> Result<()> {
        if let Some(old) = self.local(id)? {
            self.handles.insert(old.handle, None);
        }
        if let Some(local) = &local {
            self.handles.insert(local.handle.clone(), Some(id));
        }
        self.locals.insert(id, local);
        Ok(())
    }

    fn dir(&mut self, id: ObjectId) -> Result<Option<Arc<T::Dir>>> {
        if let Some(known) = self.dirs.get(&id) {
            return Ok(Some(known.clone()));
        }
        let opened = if id == ObjectId::ROOT {
            Some(self.tree.root()?)
        } else {
            let Some(local) = self.local(id)? else { return Ok(None) };
            let path = || self.path_of(id);
            self.tree.open_dir(&Place { handle: &local.handle, path: &path })?
        };
        let Some(dir) = opened.map(Arc::new) else { return Ok(None) };
        if self.dirs.len() >= DIRS_MAX {
            self.dirs.clear();
        }
        self.dirs.insert(id, dir.clone());
        Ok(Some(dir))
    }

    fn path_of(&self, id: ObjectId) -> Option<RelPath> {
        self.shelf.path_of(id).ok().flatten()
    }
}
