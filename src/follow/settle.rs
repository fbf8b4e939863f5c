//! Brings a copy's disk to what its catalog says, entry by entry. What it says, not how it came
//! about: settling twice, or again after a crash halfway, ends at the same place.
//!
//! Nothing that nearshare did not put there is ever destroyed: it is moved to `.nearshare/kept`.
//! Objects that are between two names, or have none (R16), wait in `.nearshare/park`.

mod attrs;
mod content;
mod park;

use std::collections::BTreeSet;
use std::sync::Arc;

use super::FollowError;
use crate::catalog::{Batch, Debt, Shelf, Touch};
use crate::hash::{HashMap, HashSet};
use crate::id::{Hash, Name, ObjectId, RelPath, Version};
use crate::object::{Found, Kind, Local, LocalHandle, Object, Stamp, Xattrs};
use crate::tree::content::hash_sparse;
use crate::tree::{Alive, Place, Resolved, Spot, Tree};
use park::Near;

pub(super) type Entry = (ObjectId, Name);
type Result<T> = std::result::Result<T, FollowError>;

/// Open directories kept for the next look in the same one.
const DIRS_MAX: usize = 64;
const READ_LEN: usize = 256 * 1024;
/// Names of one directory read from the catalog at once.
const NAMES: usize = 1000;
/// Steps up to the root at most: a path of 4096 bytes has no more.
const DEPTH_MAX: usize = 2048;
/// A name in `.nearshare/tmp` for what is linked or made there for a moment. No object has this id, so
/// that no content that is being fetched lies there.
const SCRATCH: [u8; 16] = [0; 16];

/// What is in `.nearshare`, as far as this process put or found it there.
#[derive(Debug, Default)]
pub(super) struct Stock {
    /// Verified content that waits at its `Spot::Tmp`.
    pub ready: HashMap<ObjectId, (Version, Hash)>,
    /// Extended attributes that came apart from a row, with their hash.
    pub xattrs: HashMap<ObjectId, (Hash, Xattrs)>,
    /// What is at its `Spot::Park`.
    pub park: BTreeSet<ObjectId>,
    /// Objects seen at an entry that is no longer theirs, for the next settlings.
    pub seen_at: HashMap<ObjectId, Entry>,
    /// Left to be done, also after a settling that failed: directories whose own times our work has
    /// moved,
    stirred: BTreeSet<ObjectId>,
    /// objects in the park that may have a place now,
    parked: BTreeSet<ObjectId>,
    /// and parked ones that the catalog has no more.
    discard: BTreeSet<ObjectId>,
    /// Where those were in the share.
    was: HashMap<ObjectId, RelPath>,
    /// Inodes whose content was found to be wrong: they make room for the right one.
    pub rotten: HashSet<LocalHandle>,
}

impl Stock {
    /// Those of the object, if they are here and apart from its row.
    pub fn xattrs_of(&self, object: &Object) -> Option<&Xattrs> {
        let (hash, xattrs) = self.xattrs.get(&object.id)?;
        (object.xattrs.is_apart() && object.xattrs.hash() == *hash).then_some(xattrs)
    }
    /// Whether all that comes with the object's content is here.
    pub fn is_dressed(&self, object: &Object) -> bool {
        !object.xattrs.is_apart() || self.xattrs_of(object).is_some()
    }
}

pub(super) struct Settler<'a, T: Tree> {
    tree: &'a T,
    shelf: &'a Shelf,
    stock: &'a mut Stock,
    locals: HashMap<ObjectId, Option<Local>>,
    handles: HashMap<LocalHandle, Option<ObjectId>>,
    dirs: HashMap<ObjectId, Arc<T::Dir>>,
    placing: HashSet<Entry>,
    buffer: Vec<u8>,
    out: Outcome,
    /// The first error of one entry that was not left for later.
    stuck: Option<FollowError>,
    /// Entries that may be left for later.
    pub may_refuse: usize,
    /// A comparison is under way: a file that is there with the right content is taken over, whatever
    /// object it was.
    pub adopt: bool,
}

/// What is to be committed after a settling, whether or not it came to its end.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub paid: Vec<(ObjectId, Version)>,
    /// Contents that were here and are not: lost, or changed behind our back.
    pub lost: Vec<Debt>,
    /// What else is to be settled: all that was in a directory which had to be made again.
    pub again: Vec<Touch>,
    /// What the disk did not take, and why.
    pub refused: Vec<(Touch, String)>,
    /// Versions that were moved aside.
    pub kept: u64,
}

/// Where an object's inode comes from.
enum Source<D> {
    /// Its new content, verified.
    Tmp,
    Park,
    At(Entry),
    /// One more name of an inode that keeps the one it has.
    Link(Entry),
    /// Somebody moved it behind our back.
    Stray(D, Name),
    Make,
    /// Its content has not come yet: what is there stays.
    Awaited,
}

impl<'a, T: Tree> Settler<'a, T> {
    pub fn new(tree: &'a T, shelf: &'a Shelf, stock: &'a mut Stock) -> Self {
        Self {
            tree,
            shelf,
            stock,
            locals: HashMap::default(),
            handles: HashMap::default(),
            dirs: HashMap::default(),
            placing: HashSet::default(),
            buffer: Vec::new(),
            out: Outcome::default(),
            stuck: None,
            may_refuse: 0,
            adopt: false,
        }
    }

    /// Settles what the touches name, in their order. Afterwards `into_batch` has what to commit. Where
    /// the disk refuses one the rest is done all the same: it may make room (R27).
    pub fn settle(&mut self, touches: &[Touch]) -> Result<()> {
        self.survey(touches)?;
        for touch in touches {
            let done = match touch {
                Touch::Entry(dir, name) => {
                    // Also where nothing is left to be done: a crash may have come before its times.
                    self.stock.stirred.insert(*dir);
                    self.place(*dir, name)
                }
                Touch::Object(id) => self.settle_object(*id),
            };
            done.or_else(|error| self.refuse(touch.clone(), error))?;
        }
        self.clear_park()?;
        self.set_dir_times()?;
        self.stuck.take().map_or(Ok(()), Err)
    }

    /// An error of one entry only: that one is left for later. A comparison has no later (what it has looked
    /// at is taken for settled), nor has what is too much: there all stands still, once everything that may
    /// make room has been done.
    fn refuse(&mut self, touch: Touch, error: FollowError) -> Result<()> {
        let later = !self.adopt && self.out.refused.len() < self.may_refuse;
        match error {
            error if !error.is_of_an_entry() => return Err(error),
            error if later => self.out.refused.push((touch, error.to_string())),
            error if error.no_room() || error.is_of_xattrs() => {
                self.stuck = self.stuck.take().or(Some(error))
            }
            error => return Err(error),
        }
        Ok(())
    }

    /// What the disk and the catalog agree on now, and the debts that are paid and new.
    pub fn into_batch(self, batch: &mut Batch) -> Outcome {
        for (id, local) in self.locals {
            batch.set_local(id, local);
        }
        for (id, version) in &self.out.paid {
            batch.paid(*id, *version);
        }
        for debt in &self.out.lost {
            batch.owe(*debt);
        }
        for touch in self.out.again.iter().chain(self.out.refused.iter().map(|(touch, _)| touch)) {
            batch.mark(touch.clone(), crate::id::Gen(0));
        }
        self.out
    }

    /// Notes which objects sit where they no longer belong: their new places take them from there.
    pub fn survey(&mut self, touches: &[Touch]) -> Result<()> {
        for touch in touches {
            if let Touch::Entry(dir, name) = touch {
                match self.survey_one(*dir, name) {
                    // Settling it says so.
                    Err(error) if error.is_of_an_entry() => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    fn survey_one(&mut self, parent: ObjectId, name: &Name) -> Result<()> {
        let Some(dir) = self.dir(parent)? else { return Ok(()) };
        let Some(found) = self.tree.look(Spot::Entry(&dir, name))? else { return Ok(()) };
        let Some(id) = self.by_handle(&found.handle)? else { return Ok(()) };
        if self.shelf.child(parent, name)? != Some(id) && self.shelf.object(id)?.is_some() {
            self.stock.seen_at.insert(id, (parent, name.clone()));
        }
        Ok(())
    }

    fn settle_object(&mut self, id: ObjectId) -> Result<()> {
        let parked = self.stock.park.contains(&id);
        let Some(object) = self.shelf.object(id)? else {
            if parked {
                self.stock.discard.insert(id);
            }
            return Ok(());
        };
        if parked {
            self.stock.parked.insert(id);
        }
        if object.kind == Kind::Directory {
            self.stock.stirred.insert(id);
        }
        for (parent, name) in self.shelf.links(id)? {
            self.stock.stirred.insert(parent);
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
                self.place_above(parent)?;
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
            (None, Some((id, found))) => self.evict(&dir, parent, name, id, &found, false),
            (Some(object), Some((Some(id), found))) if id == object.id => {
                self.refresh(&dir, parent, name, &object, &found)
            }
            (Some(object), have) => match self.bring(&dir, parent, name, &object, have) {
                Err(error) if error.is_into_itself() => {
                    // What is above it now will not be, once that has moved as well.
                    self.place_above(parent)?;
                    let have = match self.tree.look(Spot::Entry(&dir, name))? {
                        Some(found) => Some((self.by_handle(&found.handle)?, found)),
                        None => None,
                    };
                    self.bring(&dir, parent, name, &object, have)
                }
                other => other,
            },
        }
    }

    /// Places a directory and all above it, from the top.
    fn place_above(&mut self, dir: ObjectId) -> Result<()> {
        let mut chain = Vec::new();
        let mut at = dir;
        while at != ObjectId::ROOT && chain.len() < DEPTH_MAX {
            let Some((above, own)) = self.shelf.links(at)?.pop() else { break };
            at = above;
            chain.push((above, own));
        }
        while let Some((above, own)) = chain.pop() {
            self.place(above, &own)?;
        }
        Ok(())
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
            self.stock.stirred.insert(object.id);
            return Ok(());
        }
        if self.is_foreign(object.id, found)? {
            self.keep(Spot::Entry(dir, name), Near::In(parent), name, CHANGED)?;
            self.stock.stirred.insert(parent);
            return self.lose(object);
        }
        let (found, whole) = self.carry(Spot::Entry(dir, name), object, found.clone())?;
        self.agree(object, &found);
        if whole { self.pay_if_owed(object) } else { Ok(()) }
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
            && (matches!(source, Source::Make | Source::Awaited)
                || id.is_none() && matches!(source, Source::Tmp))
            && self.take_over(dir, parent, name, object, *id, found)?
        {
            return Ok(());
        }
        let new = match source {
            Source::Awaited => return Ok(()),
            Source::Tmp => match self.dress(object)? {
                Some(new) => Some(new),
                None => return Ok(()),
            },
            _ => None,
        };
        if let Some((id, found)) = &have
            && !(id.is_none() && self.is_same(Spot::Entry(dir, name), object, found)?)
        {
            let over = object.kind != Kind::Directory && found.kind != Kind::Directory;
            self.evict(dir, parent, name, *id, found, over)?;
            // Evicting may have moved the very inode that was to come.
            source = self.source(object, parent, name)?;
        }
        self.bring_from(source, new, dir, parent, name, object)?;
        match have {
            // Only now: what a failure leaves there must be known as ours.
            Some((Some(id), found)) if self.shelf.object(id)?.is_none() => self.forget(id, &found),
            _ => Ok(()),
        }
    }

    fn bring_from(
        &mut self,
        source: Source<T::Dir>,
        new: Option<Found>,
        dir: &T::Dir,
        parent: ObjectId,
        name: &Name,
        object: &Object,
    ) -> Result<()> {
        let to = Spot::Entry(dir, name);
        match source {
            Source::Tmp => {
                let Some(new) = new else { return Ok(()) };
                return self.bring_content(dir, parent, name, object, new, false);
            }
            Source::Park => {
                self.tree.rename(Spot::Park(object.id), to, true)?;
                self.stock.park.remove(&object.id);
            }
            Source::At((other, own)) => {
                let Some(there) = self.dir(other)? else { return Ok(()) };
                self.tree.rename(Spot::Entry(&there, &own), to, true)?;
                self.stock.stirred.insert(other);
                self.stock.seen_at.remove(&object.id);
            }
            Source::Link((other, own)) => {
                let Some(there) = self.dir(other)? else { return Ok(()) };
                return self.relink(Spot::Entry(&there, &own), dir, parent, name, object);
            }
            Source::Stray(there, own) => self.tree.rename(Spot::Entry(&there, &own), to, true)?,
            Source::Make if object.kind == Kind::Directory => {
                self.tree.make(to, object)?;
            }
            Source::Make => {
                // A file or symlink may still be in the way: it goes in one step for readers.
                let scratch = Spot::Tmp(ObjectId::from_bytes(SCRATCH));
                self.tree.remove(scratch)?;
                self.tree.make(scratch, object)?;
                self.tree.rename(scratch, to, true)?;
            }
            Source::Awaited => return Ok(()),
        }
        self.arrived(dir, parent, name, object)
    }

    /// The object's inode is at the entry now: notes it, with the right attributes.
    fn arrived(&mut self, dir: &T::Dir, parent: ObjectId, name: &Name, object: &Object) -> Result<()> {
        self.stock.stirred.insert(parent);
        let Some(mut found) = self.tree.look(Spot::Entry(dir, name))? else { return Ok(()) };
        if object.kind == Kind::Directory {
            self.stock.stirred.insert(object.id);
            self.dirs.remove(&object.id);
        } else {
            let whole;
            (found, whole) = self.carry(Spot::Entry(dir, name), object, found)?;
            if whole && self.has_content(object)? {
                self.pay_if_owed(object)?;
            }
        }
        let known = self.local(object.id)?.filter(|_| object.kind == Kind::File);
        let version = known.map_or(object.version, |local| local.version);
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

    fn source(&mut self, object: &Object, parent: ObjectId, name: &Name) -> Result<Source<T::Dir>> {
        if object.kind == Kind::File && self.is_ready(object) {
            return Ok(Source::Tmp);
        }
        let Some(local) = self.local(object.id)? else {
            return Ok(if object.kind == Kind::File { Source::Awaited } else { Source::Make });
        };
        if self.stock.park.contains(&object.id)
            && self.tree.look(Spot::Park(object.id))?.is_some_and(|found| found.handle == local.handle)
        {
            return Ok(Source::Park);
        }
        let mut places: Vec<(Entry, bool)> =
            self.shelf.links(object.id)?.into_iter().map(|entry| (entry, true)).collect();
        places.extend(self.stock.seen_at.get(&object.id).map(|entry| (entry.clone(), false)));
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
        if let Alive::Yes(_, Some(path)) = self.tree.alive(&local.handle)?
            && let Resolved::Entry { dir, name: own, found: Some(found) } =
                self.tree.resolve(&path, false)?
            && found.handle == local.handle
            && let Some(there) =
                self.tree.open_dir(&Place { handle: &dir.handle, path: &|| Some(path.clone()) })?
        {
            return Ok(Source::Stray(there, own));
        }
        self.lose(object)?;
        Ok(if object.kind == Kind::File { Source::Awaited } else { Source::Make })
    }

    /// What was here is not: it is made or fetched again, and so is all that was in it.
    fn lose(&mut self, object: &Object) -> Result<()> {
        self.set_local(object.id, None)?;
        if object.kind == Kind::File {
            self.out.lost.push(self.debt(object, object.size));
        }
        if object.kind != Kind::Directory {
            return Ok(());
        }
        let mut after: Option<Name> = None;
        loop {
            let children = self.shelf.children(object.id, after.as_ref(), NAMES)?;
            let Some((last, _)) = children.last() else { break };
            after = Some(last.clone());
            let touches = children.into_iter().map(|(name, _)| Touch::Entry(object.id, name));
            self.out.again.extend(touches);
        }
        Ok(())
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
            Kind::File => found.nlink == 1 && self.is_same(spot, object, found)?,
            Kind::Symlink => self.tree.read_link(spot)? == object.target,
            Kind::Fifo | Kind::Socket | Kind::Block | Kind::Char => found.rdev == object.rdev,
        };
        if !same {
            return Ok(false);
        }
        if let Some(id) = have {
            self.set_local(id, None)?;
        }
        self.stock.stirred.insert(parent);
        // Its content is here, however much of it was missed a moment ago.
        self.out.lost.retain(|debt| debt.id != object.id);
        let (found, whole) = if object.kind == Kind::Directory {
            self.stock.stirred.insert(object.id);
            (found.clone(), false)
        } else {
            self.carry(spot, object, found.clone())?
        };
        self.set_local(object.id, None)?;
        self.handles.insert(found.handle.clone(), Some(object.id));
        self.agree(object, &found);
        match object.kind {
            _ if !whole => {}
            Kind::File => self.pay(object),
            _ => self.pay_if_owed(object)?,
        }
        if self.stock.ready.remove(&object.id).is_some() {
            self.tree.remove(Spot::Tmp(object.id))?;
        }
        Ok(true)
    }

    /// Whether a file in the way is byte for byte what is to take its place: then nothing of it is lost.
    fn is_same(&mut self, spot: Spot<'_, T::Dir>, object: &Object, found: &Found) -> Result<bool> {
        let kinds = (object.kind, found.kind) == (Kind::File, Kind::File);
        Ok(kinds && object.size == found.size && self.hash(spot, found)? == Some(object.root))
    }

    fn hash(&mut self, spot: Spot<'_, T::Dir>, before: &Found) -> Result<Option<Hash>> {
        let Some(mut file) = self.tree.open_file(spot)? else { return Ok(None) };
        self.buffer.resize(READ_LEN, 0);
        let content = hash_sparse(&mut file, before.size, &mut self.buffer)
            .map_err(|source| FollowError::Read { what: "a file that is there".into(), source })?;
        let after = self.tree.file_stamp(&file)?;
        let same = after.mtime == before.stamp.mtime && after.size == before.size;
        Ok(same.then_some(content.root))
    }

    /// Our own work moved the times of directories: they become the primary's again.
    fn set_dir_times(&mut self) -> Result<()> {
        while let Some(id) = self.stock.stirred.first().copied() {
            self.set_times_of(id).or_else(|error| self.refuse(Touch::Object(id), error))?;
            self.stock.stirred.remove(&id);
        }
        Ok(())
    }

    fn set_times_of(&mut self, id: ObjectId) -> Result<()> {
        if let Some(object) = self.shelf.object(id)?
            && let Some(dir) = self.dir(id)?
        {
            let found = self.tree.dir_found(&dir)?;
            let (found, whole) = self.carry(Spot::Itself(&dir), &object, found)?;
            self.handles.insert(found.handle.clone(), Some(id));
            self.agree(&object, &found);
            if whole {
                self.pay_if_owed(&object)?;
            }
        }
        Ok(())
    }

    fn is_ready(&self, object: &Object) -> bool {
        self.stock.ready.get(&object.id) == Some(&(object.version, object.root))
            && self.stock.is_dressed(object)
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

const CHANGED: &str = "it was changed at this copy, behind nearshare";

fn changed_between(before: &Stamp, after: &Stamp) -> bool {
    (before.size, before.mtime) != (after.size, after.mtime)
}

/// Whether a file's content may be another than we put there.
fn is_changed(local: &Local, found: &Found) -> bool {
    let (ours, now) = (&local.stamp, &found.stamp);
    found.kind == Kind::File
        && local.handle == found.handle
        && (ours.size, ours.mtime) != (now.size, now.mtime)
}
