//! A share as it is at one head, read while the catalog goes on: what a copy is compared with (R29).

use std::collections::VecDeque;

use super::error::Result;
use super::keys;
use super::model::{Head, Totals};
use super::rows::State;
use super::shelf::{behind, entry, links, object};
use super::store::{Space, View};
use crate::id::{Name, ObjectId};
use crate::object::{Kind, Object};

/// Names read from the store at a time: 1,000 of 20 to 300 bytes.
const NAMES_AT_ONCE: usize = 1000;

/// All objects and names of a share at one head.
pub struct Snapshot {
    view: Box<dyn View>,
    state: State,
}

impl Snapshot {
    pub(super) fn new(view: Box<dyn View>, state: State) -> Self {
        Self { view, state }
    }

    pub fn head(&self) -> Head {
        self.state.head
    }
    pub fn totals(&self) -> Totals {
        self.state.totals
    }
    pub fn object(&self, id: ObjectId) -> Result<Option<Object>> {
        object(&*self.view, self.state.rows, id)
    }
    /// The root directory; `None` before the first scan.
    pub fn root(&self) -> Result<Option<Object>> {
        self.object(ObjectId::ROOT)
    }

    /// Every entry below the root with the object it is, level by level: parents before children,
    /// names of one directory in the order of their bytes. An object with several names comes once
    /// for each. A directory is entered by the first of its names only, and what cannot be reached
    /// from the root is left out, as are names whose object is not known.
    ///
    /// Memory: 16 bytes for every directory of one level, and 1,000 names.
    pub fn entries(&self) -> Entries<'_> {
        Entries {
            snapshot: self,
            directories: VecDeque::from([ObjectId::ROOT]),
            names: Vec::new().into_iter(),
            after: None,
            failed: false,
        }
    }
}

/// See [`Snapshot::entries`]. Ends after the first error.
pub struct Entries<'a> {
    snapshot: &'a Snapshot,
    /// Directories still to be read; the first is being read.
    directories: VecDeque<ObjectId>,
    names: std::vec::IntoIter<(Name, ObjectId)>,
    /// The last name that was read of the first directory.
    after: Option<Name>,
    failed: bool,
}

impl Entries<'_> {
    fn advance(&mut self) -> Result<Option<(ObjectId, Name, Object)>> {
        while let Some(&parent) = self.directories.front() {
            let Some((name, id)) = self.names.next() else {
                self.read(parent)?;
                continue;
            };
            let Some(object) = self.snapshot.object(id)? else { continue };
            if object.kind == Kind::Directory && self.is_first(parent, &name, id)? {
                self.directories.push_back(id);
            }
            return Ok(Some((parent, name, object)));
        }
        Ok(None)
    }

    /// The next names of `parent`; none are left when it has been read to its end.
    fn read(&mut self, parent: ObjectId) -> Result<()> {
        let rows = self.snapshot.state.rows;
        let prefix = keys::names(rows, parent);
        let from = match &self.after {
            Some(name) => behind(keys::name(rows, parent, name)),
            None => prefix.clone(),
        };
        let found = self.snapshot.view.scan(Space::Rows, &prefix, &from).take(NAMES_AT_ONCE);
        let names = found.map(|row| entry(&row?)).collect::<Result<Vec<_>>>()?;
        match names.last() {
            Some((name, _)) => self.after = Some(name.clone()),
            None => {
                self.directories.pop_front();
                self.after = None;
            }
        }
        self.names = names.into_iter();
        Ok(())
    }

    fn is_first(&self, parent: ObjectId, name: &Name, id: ObjectId) -> Result<bool> {
        let first = links(&*self.snapshot.view, self.snapshot.state.rows, id, 1)?.pop();
        Ok(id != ObjectId::ROOT && first.is_some_and(|(dir, other)| dir == parent && other == *name))
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<(ObjectId, Name, Object)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.advance().transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }
}
