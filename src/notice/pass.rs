//! One pass over the disk: look at what hints name, compare with the catalog, draft what differs.
//! A hint only says where to look; what is so is found out here, and finding nothing is an answer
//! too, so a doubled hint costs time and never correctness.

mod read;
mod shaky;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use read::{Read, Seen};
use shaky::Shaky;

use super::draft::{DEPTH_MAX, Draft, Entry};
use super::still::Restless;
use super::unread::{Unreads, Why};
use super::{Minter, Notice, NoticeError, lock};
use crate::catalog::{Inline, Shelf, Touch};
use crate::clock::{Clock, WallTime};
use crate::hash::{HashMap, HashSet};
use crate::id::{Epoch, Hash, Name, ObjectId, RelPath, Seq, Version};
use crate::object::{Extra, Found, Kind, Local, Object, Stamp, Xattrs};
use crate::plant::{self, Bug};
use crate::tree::{Alive, Place, Spot, Tree, TreeError};

/// Looks at an entry that is replaced before it is read, until it is left for later.
const REPLACED_TRIES: usize = 10;
/// Open directories kept for the next look in the same one.
const DIRS_MAX: usize = 64;
/// Places followed from one to the next (a chain of renames) before the rest waits its turn: bounds
/// the stack.
const CHAIN_MAX: usize = 64;

type Result<T> = std::result::Result<T, NoticeError>;

/// Counts what a scan has read, for progress.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Tally {
    pub files: u64,
    pub bytes: u64,
}

pub(super) struct Pass<'a, T: Tree> {
    tree: &'a T,
    shelf: &'a Shelf,
    minter: &'a Minter,
    clock: &'a dyn Clock,
    restless: &'a Mutex<Restless>,
    unreads: &'a Mutex<Unreads>,
    epoch: Epoch,
    pub draft: Draft<'a>,
    /// Objects whose name is gone and whose new one, or end, has not been found yet.
    vacated: HashMap<ObjectId, Vec<Entry>>,
    /// What of them was in a directory.
    missing: HashMap<ObjectId, Vec<ObjectId>>,
    /// Entries looked at since the last commit, and whether also what is below them.
    visited: HashMap<Entry, bool>,
    /// Those that the last hint looked at.
    pub fresh: Vec<Entry>,
    /// Entries that were unsettled.
    shaky: HashMap<Entry, Shaky>,
    /// The last hint looked at something that could not be read: what is there is told later.
    pub unread: bool,
    /// Entries that the last hint named.
    named: Vec<Entry>,
    /// Entries at the end of a chain that was too long.
    deferred: Vec<(Entry, bool)>,
    dirs: HashMap<ObjectId, Option<Arc<T::Dir>>>,
    /// Directories whose own attributes may have changed with their entries.
    stirred: BTreeSet<ObjectId>,
    /// Directories to list: (directory, also those already known).
    pub expand: Vec<(ObjectId, bool)>,
    /// Entries that may still change without their stamps telling, or that would not hold still.
    pub unsettled: Vec<Entry>,
    /// Everything is expanded, as a scan does.
    pub thorough: bool,
    /// A scan will still come by: a directory that nobody knows yet may be found by it.
    pub unscanned: bool,
    /// Objects without a name that a whole scan has not found in the share: they have left it (R16).
    pub lost: HashSet<ObjectId>,
    /// Stamps as new as this prove nothing: the machine crashed, and what it wrote last may be lost
    /// or torn (R24).
    pub distrust: Option<WallTime>,
    /// Changes of these wait for as long as they are read.
    pub still: HashSet<ObjectId>,
    /// No change begins any more: what rests is read all the same.
    pub impatient: bool,
    pub tally: Tally,
    buffer: Vec<u8>,
    depth: usize,
}

impl<'a, T: Tree> Pass<'a, T> {
    pub fn new(notice: &'a Notice<T>) -> Self {
        let Notice { tree, shelf, minter, clock, restless, unreads, .. } = notice;
        Self {
            tree: &**tree,
            shelf: &**shelf,
            minter,
            clock: &**clock,
            restless,
            unreads,
            epoch: shelf.meta().epoch,
            draft: Draft::new(shelf),
            vacated: HashMap::default(),
            missing: HashMap::default(),
            visited: HashMap::default(),
            fresh: Vec::new(),
            shaky: HashMap::default(),
            unread: false,
            named: Vec::new(),
            deferred: Vec::new(),
            dirs: HashMap::default(),
            stirred: BTreeSet::new(),
            expand: Vec::new(),
            unsettled: Vec::new(),
            thorough: false,
            unscanned: false,
            lost: HashSet::default(),
            distrust: None,
            still: HashSet::default(),
            impatient: false,
            tally: Tally::default(),
            buffer: Vec::new(),
            depth: 0,
        }
    }

    /// After what was drafted was handed to the catalog: what was seen before is no longer news.
    pub fn handed(&mut self) {
        self.visited.clear();
        self.missing.clear();
        self.dirs.clear();
    }

    pub fn look(&mut self, touch: &Touch, deep: bool) -> Result<()> {
        self.unsettled.clear();
        self.named.clear();
        self.fresh.clear();
        self.unread = false;
        match touch {
            Touch::Entry(dir, name) => {
                self.named.push((*dir, name.clone()));
                // What came and went since the last look is nowhere, but has changed the directory.
                self.stirred.insert(*dir);
                self.visit(*dir, name, deep)
            }
            Touch::Object(id) if *id == ObjectId::ROOT => {
                self.stirred.insert(*id);
                if deep {
                    self.expand.push((*id, true));
                }
                Ok(())
            }
            Touch::Object(id) => self.look_object(*id, deep),
        }
    }

    /// An object without a name to look at: wherever it is known to be, or wherever the kernel says.
    fn look_object(&mut self, id: ObjectId, deep: bool) -> Result<()> {
        let links = self.draft.links(id)?;
        for (dir, name) in &links {
            self.visit(*dir, name, deep)?;
        }
        self.named.extend(links.iter().cloned());
        if links.is_empty() && self.draft.object(id)?.is_some() {
            self.vacated.entry(id).or_default();
            if self.seek(id)? {
                self.end(id, false)?;
            }
        }
        Ok(())
    }

    /// Lists a directory: every name on the disk and every name in the catalog is looked at.
    pub fn list(&mut self, id: ObjectId) -> Result<Vec<Name>> {
        let Some(dir) = self.dir(id)? else { return Ok(Vec::new()) };
        let listed = self.tree.list(&dir);
        let found = match if id == ObjectId::ROOT { Ok(listed?) } else { self.spare(listed)? } {
            Ok(found) => found,
            Err(why) => {
                for (parent, name) in self.draft.links(id)? {
                    self.note_unread(parent, &name, why.clone(), true);
                    self.leave_unread(parent, &name);
                }
                return Ok(Vec::new());
            }
        };
        self.note_listed(id)?;
        let mut names: BTreeSet<Name> = found.into_iter().collect();
        names.extend(self.draft.names_below(id)?);
        // What came, could not be read and went is in neither.
        names.extend(lock(self.unreads).names_in(id));
        self.stirred.insert(id);
        Ok(names.into_iter().collect())
    }

    /// What the disk says of one entry. One bad block must not stop the share: why, and nothing is known
    /// of it, least of all that it is gone. A disk that fails altogether does not pass its own check.
    fn spare<V>(&self, said: std::result::Result<V, TreeError>) -> Result<std::result::Result<V, Why>> {
        match said {
            Ok(said) => Ok(Ok(said)),
            Err(error @ TreeError::Io { .. }) => {
                self.tree.check()?;
                tracing::warn!(share = %self.shelf.share(), %error, "left as it was; trying again");
                Ok(Err(Why::of(&error)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Compares one entry of the disk with the catalog.
    pub fn visit(&mut self, parent: ObjectId, name: &Name, deep: bool) -> Result<()> {
        if name.is_ours() {
            return Ok(());
        }
        let deep = deep || self.thorough;
        let entry = (parent, name.clone());
        if self.depth >= CHAIN_MAX {
            self.deferred.push((entry, deep));
            return Ok(());
        }
        self.visit_once(entry, deep)?;
        while self.depth == 0
            && let Some((entry, deep)) = self.deferred.pop()
        {
            self.visit_once(entry, deep)?;
        }
        Ok(())
    }

    fn visit_once(&mut self, entry: Entry, deep: bool) -> Result<()> {
        if let Some(shaky) = self.shaky.get(&entry) {
            self.unread |= shaky.unread;
            self.unsettled.push(entry.clone());
        }
        if self.visited.get(&entry).is_some_and(|done| *done || !deep) {
            return Ok(());
        }
        self.visited.insert(entry.clone(), deep);
        self.fresh.push(entry.clone());
        self.depth += 1;
        let mut compared = self.compare(entry.0, &entry.1, deep);
        for _ in 1..REPLACED_TRIES {
            // What was found was replaced before it was read: something was there all the time.
            if !matches!(compared, Ok(Compared::Torn)) {
                break;
            }
            compared = self.compare(entry.0, &entry.1, deep);
        }
        self.depth -= 1;
        if let Compared::Torn = compared? {
            self.note_unread(entry.0, &entry.1, Why::Restless, false);
            self.leave_unread(entry.0, &entry.1);
        }
        self.note_read(entry)
    }

    fn compare(&mut self, parent: ObjectId, name: &Name, deep: bool) -> Result<Compared> {
        let found = match self.dir(parent)? {
            Some(dir) => match self.spare(self.tree.look(Spot::Entry(&dir, name)))? {
                Ok(found) => found,
                Err(why) => {
                    self.note_unread(parent, name, why, false);
                    self.leave_unread(parent, name);
                    return Ok(Compared::Whole);
                }
            },
            None => {
                if self.unscanned && !self.draft.recorded(parent)? {
                    self.leave_unread(parent, name);
                }
                None
            }
        };
        if found.is_some() && !self.draft.recorded(parent)? {
            // Whoever made the directory, it is recorded before what is in it.
            self.record_parents(parent)?;
            if !self.draft.recorded(parent)? {
                self.leave_unread(parent, name);
                return Ok(Compared::Whole);
            }
        }
        let known = self.draft.child(parent, name)?;
        let Some(found) = found else {
            if let Some(id) = known {
                self.vacate(parent, name, id)?;
            }
            return Ok(Compared::Whole);
        };
        let id = self.identify(&found)?;
        let mut now = known;
        let mut seen = None;
        if let Some(known) = known.filter(|known| *known != id) {
            if self.draft.object(id)?.is_none() {
                // The old one goes in the record that the new one comes in: nobody sees neither.
                seen = match self.read(parent, name, id, &found)? {
                    Read::Seen(seen) => Some(*seen),
                    Read::Unread => return Ok(Compared::Whole),
                    Read::Replaced => return Ok(Compared::Torn),
                };
            }
            self.vacate(parent, name, known)?;
            // What that led to may have been here.
            now = self.draft.child(parent, name)?;
        }
        let compared = if now != Some(id) {
            self.occupy(parent, name, id, &found, deep, seen)?
        } else {
            if deep && found.kind == Kind::Directory {
                self.expand.push((id, true));
            }
            self.refresh(parent, name, id, &found)?
        };
        let torn = matches!(compared, Compared::Whole) && self.draft.child(parent, name)?.is_none();
        Ok(if torn { Compared::Torn } else { compared })
    }

    /// Looks at every entry on the way to a directory that the catalog does not have yet.
    fn record_parents(&mut self, id: ObjectId) -> Result<()> {
        let Some((handle, remembered)) = self.minter.recall(id) else { return Ok(()) };
        let path = match self.tree.alive(&handle)? {
            Alive::Yes(_, Some(path)) => path,
            Alive::Yes(_, None) | Alive::Unknown => remembered,
            Alive::Gone => return Ok(()),
        };
        let mut parent = ObjectId::ROOT;
        for name in path.names() {
            self.visit(parent, name, false)?;
            let Some(child) = self.draft.child(parent, name)? else { break };
            parent = child;
        }
        Ok(())
    }

    /// The object that an inode is: as the catalog has it, else as it will have it (derived again and
    /// again the same until it is recorded).
    fn identify(&mut self, found: &Found) -> Result<ObjectId> {
        Ok(match self.draft.by_handle(&found.handle)? {
            Some(id) => id,
            None => {
                let id = self.minter.mint(self.epoch, &found.handle);
                self.draft.minted(id)?;
                id
            }
        })
    }

    /// The entry no longer is `id`: deleted, renamed, or one name less (R16).
    fn vacate(&mut self, parent: ObjectId, name: &Name, id: ObjectId) -> Result<()> {
        if self.detach(parent, name, id)? {
            self.end(id, false)?;
        }
        Ok(())
    }

    /// Takes the entry from `id`. `true`: it was the last one, and the object is no more.
    fn detach(&mut self, parent: ObjectId, name: &Name, id: ObjectId) -> Result<bool> {
        self.draft.leave(parent, name, id)?;
        self.stirred.insert(parent);
        let entry = (parent, name.clone());
        if !self.draft.links(id)?.is_empty() {
            self.draft.unlinked(entry, id);
            return Ok(false);
        }
        self.miss(id, entry);
        self.seek(id)
    }

    fn miss(&mut self, id: ObjectId, entry: Entry) {
        self.missing.entry(entry.0).or_default().push(id);
        self.vacated.entry(id).or_default().push(entry);
    }

    /// Finds out what became of a vacated object, as far as the kernel tells now. `true`: it is no more.
    fn seek(&mut self, id: ObjectId) -> Result<bool> {
        match self.fate(id)? {
            Fate::Gone => return Ok(true),
            Fate::Lives(Some(path)) => {
                if let Some((dir, name)) = path.split_last()
                    && let Some(parent) = self.dir_at(&dir)?
                {
                    self.visit(parent, name, false)?;
                }
            }
            Fate::Lives(None) | Fate::Unknown => {}
        }
        Ok(false)
    }

    /// As the tree says; what the kernel will not tell now is not taken for an end.
    fn fate(&self, id: ObjectId) -> Result<Fate> {
        let local = self.draft.local(id)?.filter(|_| !plant::is(Bug::DeleteForMove));
        let Some(local) = local else { return Ok(Fate::Gone) };
        Ok(match self.tree.alive(&local.handle) {
            Ok(Alive::Gone) => Fate::Gone,
            Ok(Alive::Yes(_, path)) => Fate::Lives(path),
            Ok(Alive::Unknown) => Fate::Unknown,
            Err(error @ TreeError::Io { .. }) => {
                tracing::warn!(share = %self.shelf.share(), %error, "left to the next scan");
                Fate::Lives(None)
            }
            Err(error) => return Err(error.into()),
        })
    }

    /// The recorded directory at a path of the disk; one that is not recorded is found by its own hint.
    fn dir_at(&self, path: &RelPath) -> Result<Option<ObjectId>> {
        if path.is_root() {
            return Ok(Some(ObjectId::ROOT));
        }
        let crate::tree::Resolved::Entry { found: Some(found), .. } = self.tree.resolve(path, false)?
        else {
            return Ok(None);
        };
        Ok(self.draft.by_handle(&found.handle)?)
    }

    /// The object is deleted, and so is what the catalog has below it unless it turns up elsewhere.
    /// `lost`: it lives on outside the share, and so does what is below it. Children end before their
    /// directory; no recursion, as clients make trees as deep as they like.
    fn end(&mut self, id: ObjectId, lost: bool) -> Result<()> {
        let mut stack = vec![self.ending(id)?];
        while let Some((dir, names)) = stack.last_mut() {
            let dir = *dir;
            let Some(name) = names.next() else {
                stack.pop();
                self.stirred.remove(&dir);
                self.end_names(dir);
                lock(self.unreads).ended(dir);
                if self.draft.object(dir)?.is_some() {
                    self.draft.gone(dir)?;
                }
                continue;
            };
            let Some(child) = self.draft.child(dir, &name)? else { continue };
            let gone = self.detach(dir, &name, child)?;
            if gone || (lost && self.vacated.contains_key(&child)) {
                stack.push(self.ending(child)?);
            }
        }
        Ok(())
    }

    /// What was in the directory, lives on and has not turned up: its names go before the directory does.
    fn end_names(&mut self, dir: ObjectId) {
        for child in self.missing.remove(&dir).unwrap_or_default() {
            let Some(entries) = self.vacated.get_mut(&child) else { continue };
            for entry in entries.extract_if(.., |entry| entry.0 == dir) {
                self.draft.unlinked(entry, child);
            }
        }
    }

    /// The names of an object that ends are gone; says what was below it.
    fn ending(
        &mut self,
        id: ObjectId,
    ) -> Result<(ObjectId, std::collections::btree_set::IntoIter<Name>)> {
        for entry in self.vacated.remove(&id).unwrap_or_default() {
            self.draft.unlinked(entry, id);
        }
        let directory = self.draft.object(id)?.is_some_and(|object| object.kind == Kind::Directory);
        let below = if directory {
            self.dirs.insert(id, None);
            self.draft.names_below(id)?
        } else {
            BTreeSet::new()
        };
        Ok((id, below.into_iter()))
    }

    /// The entry is `id` now: a new object, a renamed one, or one name more.
    fn occupy(
        &mut self,
        parent: ObjectId,
        name: &Name,
        id: ObjectId,
        found: &Found,
        deep: bool,
        seen: Option<Seen>,
    ) -> Result<Compared> {
        self.stirred.insert(parent);
        let known = self.draft.object(id)?;
        if known.as_ref().is_some_and(|known| known.kind != found.kind) {
            // The handle of a deleted inode was given out again.
            for (dir, old) in self.draft.links(id)? {
                self.draft.leave(dir, &old, id)?;
                self.draft.unlinked((dir, old), id);
            }
            self.vacated.remove(&id);
            self.end(id, false)?;
            return self.create(parent, name, id, found, seen);
        }
        if known.is_none() {
            return self.create(parent, name, id, found, seen);
        }
        for (dir, old) in self.draft.links(id)? {
            self.visit(dir, &old, false)?;
        }
        if found.kind == Kind::Directory && !self.clear_way(parent, name, id)? {
            return Ok(Compared::Whole);
        }
        if self.draft.object(id)?.is_none() {
            // It came to its end while its other names were looked at: something else is here by now.
            self.leave_unread(parent, name);
            return Ok(Compared::Whole);
        }
        let to = (parent, name.clone());
        match self.vacated.remove(&id) {
            Some(from) => {
                let mut from = from.into_iter();
                match from.next_back() {
                    Some(last) => {
                        for entry in from {
                            self.draft.unlinked(entry, id);
                        }
                        self.draft.moved(id, last, to)?;
                    }
                    None => self.draft.link(parent, name, id)?,
                }
            }
            None => self.draft.link(parent, name, id)?,
        }
        if deep && found.kind == Kind::Directory {
            self.expand.push((id, true));
        }
        self.refresh(parent, name, id, found)
    }

    /// Before a directory moves to `parent`: it has one place only, and what it moves below must not be
    /// below itself any more (two directories that changed places). `false`: not now.
    fn clear_way(&mut self, parent: ObjectId, name: &Name, id: ObjectId) -> Result<bool> {
        for entry in self.draft.links(id)? {
            // Seen there a moment ago, or not looked at yet: it has moved on.
            self.draft.leave(entry.0, &entry.1, id)?;
            self.stirred.insert(entry.0);
            self.miss(id, entry);
        }
        for (dir, name) in self.way_below(id, parent)?.into_iter().rev() {
            self.visit(dir, &name, false)?;
        }
        if self.way_below(id, parent)?.is_empty() && parent != id {
            return Ok(true);
        }
        self.leave_unread(parent, name);
        Ok(false)
    }

    /// The entries from `at` up to `top`; none if the catalog does not have `at` below `top`.
    fn way_below(&self, top: ObjectId, mut at: ObjectId) -> Result<Vec<Entry>> {
        let mut way = Vec::new();
        while at != top {
            let Some(entry) = self.draft.links(at)?.into_iter().next() else { return Ok(Vec::new()) };
            at = entry.0;
            way.push(entry);
            if at == ObjectId::ROOT || way.len() > DEPTH_MAX {
                return Ok(Vec::new());
            }
        }
        Ok(way)
    }

    fn create(
        &mut self,
        parent: ObjectId,
        name: &Name,
        id: ObjectId,
        found: &Found,
        seen: Option<Seen>,
    ) -> Result<Compared> {
        let seen = match seen {
            Some(seen) => seen,
            None => match self.read(parent, name, id, found)? {
                Read::Seen(seen) => *seen,
                Read::Unread => return Ok(Compared::Unread),
                Read::Replaced => return Ok(Compared::Torn),
            },
        };
        self.record(parent, name, id, seen, None)?;
        self.draft.link(parent, name, id)?;
        if found.kind == Kind::Directory {
            self.expand.push((id, false));
        }
        Ok(Compared::Whole)
    }

    /// The same object as before: has its content or have its attributes changed?
    fn refresh(
        &mut self,
        parent: ObjectId,
        name: &Name,
        id: ObjectId,
        found: &Found,
    ) -> Result<Compared> {
        let Some(object) = self.draft.object(id)? else { return Ok(Compared::Whole) };
        if found.kind == Kind::Directory {
            self.stirred.insert(id);
            return Ok(Compared::Whole);
        }
        let local = self.draft.local(id)?;
        let proven = local.as_ref().is_some_and(|local| {
            local.settled && local.stamp == found.stamp && !self.distrusted(&found.stamp)
        });
        if proven {
            return Ok(Compared::Whole);
        }
        match self.read(parent, name, id, found)? {
            Read::Seen(seen) => self.record(parent, name, id, *seen, Some(object))?,
            Read::Unread => {}
            Read::Replaced => return Ok(Compared::Torn),
        }
        Ok(Compared::Whole)
    }

    /// Puts what was read into the draft.
    fn record(
        &mut self,
        parent: ObjectId,
        name: &Name,
        id: ObjectId,
        seen: Seen,
        known: Option<Object>,
    ) -> Result<()> {
        let found = &seen.found;
        let settled = found.stamp.is_settled(seen.began);
        if !settled {
            self.unsettle(parent, name);
        }
        let version = match &known {
            Some(old) if old.root == seen.root && old.target == seen.target => old.version,
            Some(old) => old.version.next(),
            None => Version(1),
        };
        let object = Object {
            id,
            kind: found.kind,
            attrs: found.attrs,
            xattrs: seen.xattrs,
            size: if found.kind == Kind::File { found.size } else { 0 },
            rdev: found.rdev,
            target: seen.target,
            version,
            root: seen.root,
            ctime: found.stamp.ctime,
            seq: Seq(0),
        };
        let local = Local { handle: found.handle.clone(), stamp: found.stamp, version, settled };
        if self.draft.local(id)?.as_ref() != Some(&local) {
            self.draft.set_local(id, local)?;
        }
        let new = known.as_ref().is_none_or(|old| old.version != version);
        let same = known.is_some_and(|old| {
            !new && old.attrs == object.attrs
                && old.xattrs == object.xattrs
                && old.size == object.size
                && old.rdev == object.rdev
        });
        if !same {
            // What comes apart comes with its content.
            if let Some(data) = seen.inline.filter(|_| new && !object.xattrs.is_apart()) {
                self.draft.inline.push(Inline { id, version, data });
            }
            self.draft.put(object);
        }
        Ok(())
    }

    /// Ends a pass: directories' own attributes, and objects that have no name now (R16).
    pub fn finish(&mut self) -> Result<Vec<ObjectId>> {
        let mut unplaced = Vec::new();
        while let Some(id) = self.vacated.keys().next().copied() {
            match self.fate(id)? {
                Fate::Lives(_) if self.lost.contains(&id) => self.end(id, true)?,
                Fate::Lives(_) => {
                    for entry in self.vacated.remove(&id).unwrap_or_default() {
                        self.draft.unlinked(entry, id);
                    }
                    unplaced.push(id);
                }
                // Unprivileged, a name that is gone is all we can know; a rename whose other end
                // shows up later brings the object back under its own id.
                Fate::Gone | Fate::Unknown => self.end(id, false)?,
            }
        }
        for id in std::mem::take(&mut self.stirred) {
            self.refresh_dir(id)?;
        }
        Ok(unplaced)
    }

    fn refresh_dir(&mut self, id: ObjectId) -> Result<()> {
        let Some(dir) = self.dir(id)? else { return Ok(()) };
        let looked = self
            .tree
            .xattrs(Spot::Itself(&dir))
            .and_then(|xattrs| Ok((xattrs, self.tree.dir_found(&dir)?)));
        let (xattrs, found) = match self.spare(looked)? {
            Ok(looked) => looked,
            Err(why) => {
                self.note_root(id, Some(why));
                return Ok(());
            }
        };
        self.note_root(id, None);
        let xattrs = Extra::from(xattrs);
        let known = self.draft.object(id)?;
        if known.is_none() && id != ObjectId::ROOT {
            return Ok(());
        }
        let version = known.as_ref().map_or(Version(1), |known| known.version);
        // A directory's own row is taken again with every change of an entry: nothing waits for it.
        let settled = found.stamp.is_settled(self.clock.wall());
        let local = Local { handle: found.handle.clone(), stamp: found.stamp, version, settled };
        if self.draft.local(id)?.as_ref() != Some(&local) {
            self.draft.set_local(id, local)?;
        }
        if known.is_none_or(|known| known.attrs != found.attrs || known.xattrs != xattrs) {
            self.draft.put(Object {
                id,
                kind: Kind::Directory,
                attrs: found.attrs,
                xattrs,
                size: 0,
                rdev: 0,
                target: Vec::new(),
                version,
                root: Hash::default(),
                ctime: found.stamp.ctime,
                seq: Seq(0),
            });
        }
        Ok(())
    }

    fn distrusted(&self, stamp: &Stamp) -> bool {
        self.distrust.is_some_and(|since| stamp.ctime.as_nanos() >= since.0)
    }

    fn dir(&mut self, id: ObjectId) -> Result<Option<Arc<T::Dir>>> {
        if let Some(known) = self.dirs.get(&id) {
            return Ok(known.clone());
        }
        let dir = self.open(id)?.map(Arc::new);
        if self.dirs.len() >= DIRS_MAX {
            self.dirs.clear();
        }
        self.dirs.insert(id, dir.clone());
        Ok(dir)
    }

    fn open(&self, id: ObjectId) -> Result<Option<T::Dir>> {
        if id == ObjectId::ROOT {
            return Ok(Some(self.tree.root()?));
        }
        let handle = match self.draft.local(id)? {
            Some(local) => local.handle,
            None => match self.minter.recall(id) {
                Some((handle, _)) => handle,
                None => return Ok(None),
            },
        };
        let path = || self.draft.path_of(id).ok().flatten();
        Ok(self.tree.open_dir(&Place { handle: &handle, path: &path })?)
    }
}

/// Whether an entry was brought to what was found there.
enum Compared {
    Whole,
    /// Something new is there, and why it is not recorded has been noted.
    Unread,
    /// Something is there, and nothing was drafted.
    Torn,
}

/// What has become of an object that has lost its last name.
enum Fate {
    Gone,
    /// It has a name somewhere; with the path if the kernel knows it and it is in the share.
    Lives(Option<RelPath>),
    /// Only looking for it tells.
    Unknown,
}
