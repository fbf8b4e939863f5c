//! What one pass is about to write to the journal, over what it has handed to the catalog and may not be
//! read there yet, over the catalog as it is: later looks of the same pass see what earlier ones found.

use std::collections::{BTreeMap, BTreeSet};

use crate::catalog::{Batch, CatalogError, Change, Inline, Release, Shelf, Touch};
use crate::hash::{HashMap, HashSet};
use crate::id::{Name, ObjectId, RelPath};
use crate::object::{Local, LocalHandle, Object};

pub(super) type Entry = (ObjectId, Name);

/// Deepest directory a path is built for, as in the catalog.
pub(super) const DEPTH_MAX: usize = 2048;
/// Names of a directory read from the catalog at once.
const PAGE: usize = 1000;

pub(super) struct Draft<'a> {
    shelf: &'a Shelf,
    pub changes: Vec<Change>,
    pub inline: Vec<Inline>,
    rows: Rows,
    /// Filled into a batch whose commit is under way.
    handed: Rows,
    /// Objects that the catalog has no row of, so that it has nothing else of them either.
    fresh: HashSet<ObjectId>,
    /// Directories known to be recorded: asked for with every entry.
    recorded: HashSet<ObjectId>,
}

/// Rows that differ from the catalog's; `None` is removed.
#[derive(Default)]
struct Rows {
    names: HashMap<ObjectId, BTreeMap<Name, Option<ObjectId>>>,
    objects: HashMap<ObjectId, Option<Object>>,
    links: HashMap<ObjectId, Vec<Entry>>,
    handles: HashMap<LocalHandle, Option<ObjectId>>,
    locals: HashMap<ObjectId, Option<Local>>,
}

type Result<T> = std::result::Result<T, CatalogError>;

impl<'a> Draft<'a> {
    pub fn new(shelf: &'a Shelf) -> Self {
        Self {
            shelf,
            changes: Vec::new(),
            inline: Vec::new(),
            rows: Rows::default(),
            handed: Rows::default(),
            fresh: HashSet::default(),
            recorded: HashSet::from_iter([ObjectId::ROOT]),
        }
    }

    /// What is known of a row besides the catalog: what was drafted last, else what was handed over.
    fn known<'r, R>(&'r self, row: impl Fn(&'r Rows) -> Option<&'r R>) -> Option<&'r R> {
        row(&self.rows).or_else(|| row(&self.handed))
    }

    pub fn child(&self, parent: ObjectId, name: &Name) -> Result<Option<ObjectId>> {
        match self.known(|rows| rows.names.get(&parent)?.get(name)) {
            Some(known) => Ok(*known),
            None => self.shelf.child(parent, name),
        }
    }
    /// Every name below a directory, those of the catalog and those that were drafted.
    pub fn names_below(&self, parent: ObjectId) -> Result<BTreeSet<Name>> {
        let mut names = BTreeSet::new();
        let mut after: Option<Name> = None;
        loop {
            let known = self.shelf.children(parent, after.as_ref(), PAGE)?;
            let Some((last, _)) = known.last() else { break };
            after = Some(last.clone());
            names.extend(known.into_iter().map(|(name, _)| name));
        }
        for rows in [&self.rows, &self.handed] {
            names.extend(rows.names.get(&parent).into_iter().flat_map(BTreeMap::keys).cloned());
        }
        Ok(names)
    }
    pub fn object(&self, id: ObjectId) -> Result<Option<Object>> {
        match self.known(|rows| rows.objects.get(&id)) {
            Some(known) => Ok(known.clone()),
            None if self.fresh.contains(&id) => Ok(None),
            None => self.shelf.object(id),
        }
    }
    /// An id that no handle led to: most often there is nothing to be read about it.
    pub fn minted(&mut self, id: ObjectId) -> Result<()> {
        if !self.fresh.contains(&id) && self.object(id)?.is_none() {
            self.fresh.insert(id);
        }
        Ok(())
    }
    pub fn recorded(&mut self, id: ObjectId) -> Result<bool> {
        if self.recorded.contains(&id) {
            return Ok(true);
        }
        let recorded = self.object(id)?.is_some();
        if recorded {
            self.recorded.insert(id);
        }
        Ok(recorded)
    }
    pub fn links(&self, id: ObjectId) -> Result<Vec<Entry>> {
        match self.known(|rows| rows.links.get(&id)) {
            Some(known) => Ok(known.clone()),
            None if self.fresh.contains(&id) => Ok(Vec::new()),
            None => self.shelf.links(id),
        }
    }
    pub fn local(&self, id: ObjectId) -> Result<Option<Local>> {
        match self.known(|rows| rows.locals.get(&id)) {
            Some(known) => Ok(known.clone()),
            None if self.fresh.contains(&id) => Ok(None),
            None => self.shelf.local(id),
        }
    }
    pub fn by_handle(&self, handle: &LocalHandle) -> Result<Option<ObjectId>> {
        match self.known(|rows| rows.handles.get(handle)) {
            Some(known) => Ok(*known),
            None => self.shelf.by_handle(handle),
        }
    }
    /// The directories, the entries that they are, and all that are above those.
    pub fn above(&self, dirs: impl IntoIterator<Item = ObjectId>) -> Result<Vec<Touch>> {
        let mut next: Vec<ObjectId> = dirs.into_iter().collect();
        let mut known: HashSet<ObjectId> = next.iter().copied().collect();
        let mut above = Vec::new();
        while let Some(dir) = next.pop() {
            above.push(Touch::Object(dir));
            for (parent, name) in self.links(dir)? {
                above.push(Touch::Entry(parent, name));
                if known.insert(parent) {
                    next.push(parent);
                }
            }
        }
        Ok(above)
    }
    pub fn path_of(&self, id: ObjectId) -> Result<Option<RelPath>> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ObjectId::ROOT {
            let Some((parent, name)) = self.links(at)?.into_iter().next() else { return Ok(None) };
            names.push(name);
            at = parent;
            if names.len() > DEPTH_MAX {
                return Ok(None);
            }
        }
        names.reverse();
        Ok(RelPath::new(names).ok())
    }

    pub fn put(&mut self, object: Object) {
        self.rows.objects.insert(object.id, Some(object.clone()));
        self.changes.push(Change::Put(object));
    }
    pub fn set_local(&mut self, id: ObjectId, local: Local) -> Result<()> {
        if let Some(old) = self.local(id)?
            && old.handle != local.handle
        {
            self.rows.handles.insert(old.handle, None);
        }
        self.rows.handles.insert(local.handle.clone(), Some(id));
        self.rows.locals.insert(id, Some(local));
        Ok(())
    }
    /// The entry is `id` from now on, with no word in the journal: `link` and `moved` give it.
    fn enter(&mut self, parent: ObjectId, name: &Name, id: ObjectId) -> Result<()> {
        let mut links = self.links(id)?;
        let entry = (parent, name.clone());
        if !links.contains(&entry) {
            links.push(entry);
        }
        self.rows.links.insert(id, links);
        self.rows.names.entry(parent).or_default().insert(name.clone(), Some(id));
        Ok(())
    }
    /// The entry is nothing from now on, with no word in the journal yet.
    pub fn leave(&mut self, parent: ObjectId, name: &Name, id: ObjectId) -> Result<()> {
        let mut links = self.links(id)?;
        let entry = (parent, name.clone());
        links.retain(|known| *known != entry);
        self.rows.links.insert(id, links);
        self.rows.names.entry(parent).or_default().insert(name.clone(), None);
        Ok(())
    }
    pub fn link(&mut self, parent: ObjectId, name: &Name, id: ObjectId) -> Result<()> {
        self.enter(parent, name, id)?;
        self.changes.push(Change::Link { parent, name: name.clone(), id });
        Ok(())
    }
    /// Says in the journal what `leave` has done.
    pub fn unlinked(&mut self, (parent, name): Entry, id: ObjectId) {
        self.changes.push(Change::Unlink { parent, name, id });
    }
    pub fn moved(&mut self, id: ObjectId, from: Entry, to: Entry) -> Result<()> {
        self.enter(to.0, &to.1, id)?;
        self.changes.push(Change::Move { id, from, to });
        Ok(())
    }
    pub fn gone(&mut self, id: ObjectId) -> Result<()> {
        if let Some(local) = self.local(id)? {
            self.rows.handles.insert(local.handle, None);
        }
        self.rows.locals.insert(id, None);
        self.rows.objects.insert(id, None);
        self.recorded.remove(&id);
        self.rows.links.insert(id, Vec::new());
        self.changes.push(Change::Gone { id });
        Ok(())
    }

    /// Hands everything over to `batch` as records of at most `most` changes, and begins anew. What was
    /// handed over before must be committed. Releases go with the last record; where there is no
    /// change they are handed back.
    pub fn fill(
        &mut self,
        batch: &mut Batch,
        wall: i64,
        most: usize,
        releases: Vec<Release>,
    ) -> Vec<Release> {
        let mut changes = std::mem::take(&mut self.changes).into_iter().peekable();
        let mut left = Some(releases);
        while changes.peek().is_some() {
            let chunk: Vec<Change> = changes.by_ref().take(most).collect();
            let releases = if changes.peek().is_none() { left.take() } else { None };
            batch.publish(wall, chunk, releases.unwrap_or_default());
        }
        // After the changes: a `Gone` takes its local row along.
        for (id, local) in &self.rows.locals {
            batch.set_local(*id, local.clone());
        }
        self.handed = std::mem::take(&mut self.rows);
        self.fresh.clear();
        left.unwrap_or_default()
    }

    /// The catalog has committed what was handed over.
    pub fn committed(&mut self) {
        self.handed = Rows::default();
    }

    /// Whether any name or object is to go.
    pub fn removes(&self) -> bool {
        self.changes.iter().any(|change| matches!(change, Change::Unlink { .. } | Change::Gone { .. }))
    }

    /// How much this holds: what bounds a pass.
    pub fn weight(&self) -> usize {
        self.changes.len() + self.rows.locals.len()
    }
}
