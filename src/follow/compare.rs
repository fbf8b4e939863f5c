//! Compares this copy with a snapshot of the primary's catalog (R29): the way of a first fill, of a
//! seeded disk, and of a copy whose journal is not the beginning of the primary's. What is here is kept
//! by content; what is too much goes last, through the park; what is foreign is kept aside.

use std::cmp::Ordering;
use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic;

use super::applier::Applier;
use super::settle::Entry;
use super::{FollowError, Result, lock};
use crate::catalog::{Batch, Change, Debt, Head, Touch, decode_change};
use crate::id::{Gen, Name, ObjectId, Position, RelPath, Version};
use crate::link::share::SnapEntry;
use crate::object::{Kind, Object};
use crate::tree::{Aside, Place, Spot, Tree};

/// Names of one directory read from the catalog at once.
const NAMES: usize = 1000;

pub(super) struct Compare {
    head: Head,
    /// Directories in the order in which the snapshot lists them.
    dirs: VecDeque<ObjectId>,
    /// So many of the first `dirs` were left; the next one is being listed.
    left: usize,
    /// The last name the snapshot listed in that directory.
    last: Option<Name>,
    /// What the catalog has in that directory behind it, as far as it was read.
    behind: Option<Behind>,
    /// Objects that lost a name and may have lost their last one. Each has one in limbo, so that a crash
    /// forgets none: not read yet at the beginning.
    loose: Option<BTreeSet<ObjectId>>,
    root: Option<Object>,
    seen: u64,
    expected: u64,
}

impl Compare {
    pub fn new(head: Head, root: Object, expected: u64) -> Self {
        Self {
            head,
            dirs: VecDeque::from([ObjectId::ROOT]),
            left: 0,
            last: None,
            behind: None,
            loose: None,
            root: Some(root),
            seen: 0,
            expected,
        }
    }

    /// Entries in the snapshot's order. May be repeated after a failure: nothing was taken in then.
    pub fn take_in<T: Tree>(&mut self, applier: &mut Applier<T>, entries: &[SnapEntry]) -> Result<()> {
        let before = (self.left, self.dirs.len(), self.last.clone());
        let root = self.root.clone();
        let done = self.commit_entries(applier, entries);
        if done.is_err() {
            self.dirs.truncate(before.1);
            (self.left, _, self.last) = before;
            self.behind = None;
            self.root = root;
            return done;
        }
        self.dirs.drain(..self.left);
        self.left = 0;
        self.seen += entries.len() as u64;
        applier.follow.did(|done| done.entries += entries.len() as u64);
        let (seen, expected) = (self.seen, self.expected);
        applier.follow.note(|progress| {
            progress.compared = seen;
            progress.expected = expected;
        });
        Ok(())
    }

    fn commit_entries<T: Tree>(
        &mut self,
        applier: &mut Applier<T>,
        entries: &[SnapEntry],
    ) -> Result<()> {
        let mut batch = self.batch(applier);
        let mut touches = Vec::new();
        if let Some(root) = self.root.take() {
            batch.apply(Change::Put(root));
            touches.push(Touch::Object(ObjectId::ROOT));
        }
        let mut debts = Vec::new();
        if self.loose.is_none() {
            self.loose = Some(in_limbo(applier)?);
        }
        for entry in entries {
            let (parent, name, object) = read(applier, entry)?;
            self.close_before(applier, parent, &name, &mut batch, &mut touches)?;
            self.take_entry(applier, (parent, name), object, &mut batch, &mut touches, &mut debts)?;
        }
        for debt in &debts {
            batch.owe(*debt);
        }
        mark(applier, &mut batch, &touches);
        applier.follow.shelf.commit(batch, false).wait()?;
        {
            let mut owed = lock(&applier.follow.owed);
            for debt in &debts {
                owed.add(debt);
            }
        }
        applier.dirty(touches);
        Ok(())
    }

    fn batch<T: Tree>(&self, applier: &Applier<T>) -> Batch {
        let mut batch = applier.follow.shelf.batch();
        batch.keep_locals(true);
        batch
    }

    fn take_entry<T: Tree>(
        &mut self,
        applier: &Applier<T>,
        entry: Entry,
        object: Object,
        batch: &mut Batch,
        touches: &mut Vec<Touch>,
        debts: &mut Vec<Debt>,
    ) -> Result<()> {
        let shelf = &applier.follow.shelf;
        let (parent, name) = entry;
        if object.kind == Kind::Directory {
            self.dirs.push_back(object.id);
        }
        let known = shelf.object(object.id)?;
        let there = shelf.child(parent, &name)?;
        if let Some(old) = there.filter(|old| *old != object.id) {
            self.loosen(old, batch);
        }
        if self.loose.as_mut().is_some_and(|loose| loose.remove(&object.id)) {
            let id = object.id;
            batch.apply(Change::Unlink { parent: limbo(), name: limbo_name(id), id });
        }
        let local = shelf.local(object.id)?;
        let dressed = known.as_ref().filter(|_| local.is_some());
        let dressed = dressed.is_some_and(|known| known.xattrs == object.xattrs);
        // The same may have been awaited before.
        let undressed = object.xattrs.is_apart() && !(dressed && shelf.debt(object.id)?.is_none());
        let mut awaited = undressed.then_some(0);
        if object.kind == Kind::File {
            // Two histories may have given one number to two contents, and two to one (R34).
            let here = known.as_ref().zip(local.as_ref()).is_some_and(|(known, local)| {
                known.root == object.root && known.version == local.version
            });
            if let Some(mut local) = local {
                let number = if here { object.version } else { Version(0) };
                if here || local.version >= object.version {
                    local.version = number;
                    batch.set_local(object.id, Some(local));
                }
            }
            if !here {
                awaited = Some(object.size);
            }
        }
        if let Some(size) = awaited {
            let Position { epoch, seq } = self.head.at;
            debts.push(Debt { id: object.id, version: object.version, size, seq, epoch });
        }
        let id = object.id;
        if known.as_ref() != Some(&object) {
            batch.apply(Change::Put(object));
            touches.push(Touch::Object(id));
        }
        if there != Some(id) {
            batch.apply(Change::Link { parent, name: name.clone(), id });
        }
        touches.push(Touch::Entry(parent, name));
        Ok(())
    }

    /// The snapshot has gone on to (parent, name): what the catalog has before it is too much.
    fn close_before<T: Tree>(
        &mut self,
        applier: &Applier<T>,
        parent: ObjectId,
        name: &Name,
        batch: &mut Batch,
        touches: &mut Vec<Touch>,
    ) -> Result<()> {
        while let Some(dir) = self.dirs.get(self.left).copied() {
            if dir == parent {
                self.surplus(applier, dir, Some(name), batch, touches)?;
                self.last = Some(name.clone());
                return Ok(());
            }
            self.surplus(applier, dir, None, batch, touches)?;
            self.left += 1;
            self.last = None;
            self.behind = None;
        }
        Err(FollowError::Peer {
            site: applier.follow.config.primary.clone(),
            what: "a snapshot",
            why: format!("entry {name} is in directory {parent}, which was not listed before"),
        })
    }

    /// Names of `dir` in the catalog between the last one the snapshot listed and `until`.
    fn surplus<T: Tree>(
        &mut self,
        applier: &Applier<T>,
        dir: ObjectId,
        until: Option<&Name>,
        batch: &mut Batch,
        touches: &mut Vec<Touch>,
    ) -> Result<()> {
        let mut behind = match self.behind.take() {
            Some(behind) => behind,
            None => Behind::read(applier, dir, self.last.as_ref())?,
        };
        loop {
            let Some((name, id)) = behind.names.pop_front() else {
                match behind.more.take() {
                    Some(last) => behind = Behind::read(applier, dir, Some(&last))?,
                    None => break,
                }
                continue;
            };
            match until.map(|until| name.cmp(until)) {
                Some(Ordering::Greater) => {
                    behind.names.push_front((name, id));
                    break;
                }
                Some(Ordering::Equal) => break,
                Some(Ordering::Less) | None => {}
            }
            batch.apply(Change::Unlink { parent: dir, name: name.clone(), id });
            touches.push(Touch::Entry(dir, name));
            self.loosen(id, batch);
        }
        self.behind = Some(behind);
        Ok(())
    }

    /// The snapshot is whole: what it did not list goes, and the copy stands where it was taken. May be
    /// repeated after a failure.
    pub fn end<T: Tree>(&mut self, applier: &mut Applier<T>) -> Result<()> {
        self.take_in(applier, &[])?;
        while let Some(dir) = self.dirs.front().copied() {
            let mut batch = self.batch(applier);
            let mut touches = Vec::new();
            self.surplus(applier, dir, None, &mut batch, &mut touches)?;
            // Read again if this cannot be kept.
            self.behind = None;
            mark(applier, &mut batch, &touches);
            applier.follow.shelf.commit(batch, false).wait()?;
            applier.dirty(touches);
            self.dirs.pop_front();
            self.last = None;
            self.behind = None;
        }
        while let Some(id) = self.loose.as_ref().and_then(|loose| loose.first().copied()) {
            self.drop_loose(applier, id)?;
            self.loose.get_or_insert_default().remove(&id);
        }
        applier.settle()?;
        let follow = applier.follow.clone();
        keep_foreign(applier)?;
        follow.tree.sync()?;
        let mut batch = follow.shelf.batch();
        batch.set_head(self.head);
        follow.shelf.commit(batch, true).wait()?;
        applier.count_owed();
        applier.filling(self.head.at.seq);
        tracing::info!(
            share = %follow.config.share, entries = self.seen, at = %self.head.at,
            owed = lock(&follow.owed).len(), "compared with the primary copy"
        );
        Ok(())
    }

    fn loosen(&mut self, id: ObjectId, batch: &mut Batch) {
        self.loose.get_or_insert_default().insert(id);
        batch.apply(Change::Link { parent: limbo(), name: limbo_name(id), id });
    }

    /// An object without a name, and everything below it, is gone from the share.
    fn drop_loose<T: Tree>(&mut self, applier: &mut Applier<T>, id: ObjectId) -> Result<()> {
        let shelf = applier.follow.shelf.clone();
        if shelf.links(id)?.iter().any(|(parent, _)| *parent != limbo()) {
            let mut batch = self.batch(applier);
            batch.apply(Change::Unlink { parent: limbo(), name: limbo_name(id), id });
            return Ok(shelf.commit(batch, false).wait()?);
        }
        loop {
            let children = shelf.children(id, None, NAMES)?;
            if children.is_empty() {
                break;
            }
            let mut batch = self.batch(applier);
            for (name, child) in children {
                self.loosen(child, &mut batch);
                batch.apply(Change::Unlink { parent: id, name, id: child });
            }
            shelf.commit(batch, false).wait()?;
        }
        let mut batch = self.batch(applier);
        batch.apply(Change::Gone { id });
        mark(applier, &mut batch, &[Touch::Object(id)]);
        shelf.commit(batch, false).wait()?;
        {
            let mut owed = lock(&applier.follow.owed);
            if owed.contains(id) {
                owed.leave();
            }
            owed.remove(id);
        }
        applier.dirty([Touch::Object(id)]);
        Ok(())
    }
}

/// Names of one directory in the catalog, in their order: nobody else changes them meanwhile.
struct Behind {
    names: VecDeque<(Name, ObjectId)>,
    /// There may be more behind this one.
    more: Option<Name>,
}

impl Behind {
    fn read<T: Tree>(applier: &Applier<T>, dir: ObjectId, after: Option<&Name>) -> Result<Self> {
        let names = applier.follow.shelf.children(dir, after, NAMES)?;
        let more = names.last().filter(|_| names.len() == NAMES).map(|(name, _)| name.clone());
        Ok(Self { names: names.into(), more })
    }
}

/// No object: the directory, in the catalog only, of objects that may have lost their last name.
fn limbo() -> ObjectId {
    ObjectId::from_bytes([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2])
}

fn limbo_name(id: ObjectId) -> Name {
    Name::new(id.to_string().as_bytes()).expect("32 hexadecimal digits are a name")
}

fn in_limbo<T: Tree>(applier: &Applier<T>) -> Result<BTreeSet<ObjectId>> {
    let mut all = BTreeSet::new();
    let mut after: Option<Name> = None;
    loop {
        let some = applier.follow.shelf.children(limbo(), after.as_ref(), NAMES)?;
        let Some((last, _)) = some.last() else { return Ok(all) };
        after = Some(last.clone());
        all.extend(some.into_iter().map(|(_, id)| id));
    }
}

/// What a comparison changes in the catalog of a copy that answers already is settled again after a
/// crash. (Before the first one has ended, a crash begins it anew, and that looks at everything.)
fn mark<T: Tree>(applier: &Applier<T>, batch: &mut Batch, touches: &[Touch]) {
    if applier.follow.confirmed.load(atomic::Ordering::Acquire) {
        for touch in touches {
            batch.mark(touch.clone(), Gen(0));
        }
    }
}

fn read<T: Tree>(applier: &Applier<T>, entry: &SnapEntry) -> Result<(ObjectId, Name, Object)> {
    let bad = |why: String| FollowError::Peer {
        site: applier.follow.config.primary.clone(),
        what: "a snapshot's entry",
        why,
    };
    let parent = ObjectId::try_from(&entry.parent[..]).map_err(|error| bad(error.to_string()))?;
    let name = Name::new(&entry.name).map_err(|error| bad(error.to_string()))?;
    match decode_change(&entry.object).map_err(|error| bad(error.to_string()))? {
        Change::Put(object) if !name.is_ours() => Ok((parent, name, object)),
        _ => Err(bad("it is no object of a share".into())),
    }
}

/// Moves aside what is on the disk and in nobody's catalog.
fn keep_foreign<T: Tree>(applier: &mut Applier<T>) -> Result<()> {
    let follow = applier.follow.clone();
    let shelf = &follow.shelf;
    let mut stack = vec![ObjectId::ROOT];
    let mut kept = 0;
    while let Some(id) = stack.pop() {
        let dir = if id == ObjectId::ROOT {
            Some(follow.tree.root()?)
        } else {
            let Some(local) = shelf.local(id)? else { continue };
            let path = || -> Option<RelPath> { shelf.path_of(id).ok().flatten() };
            follow.tree.open_dir(&Place { handle: &local.handle, path: &path })?
        };
        let Some(dir) = dir else { continue };
        let mut moved = false;
        for name in follow.tree.list(&dir)? {
            match shelf.child(id, &name)? {
                Some(child) => {
                    if shelf.object(child)?.is_some_and(|object| object.kind == Kind::Directory) {
                        stack.push(child);
                    }
                }
                None => {
                    let reason = "it was here before the first comparison, and not at the primary";
                    let path = shelf.path_of(id)?.map(|path| path.join(name.clone()));
                    let aside = Aside { name: &name, path: path.as_ref(), reason };
                    let to = follow.tree.keep(Spot::Entry(&dir, &name), &aside)?;
                    tracing::warn!(share = %follow.config.share, %name, kept = %to.display(), reason, "moved aside");
                    kept += 1;
                    moved = true;
                }
            }
        }
        if moved {
            applier.dirty([Touch::Object(id)]);
        }
    }
    follow.note(|progress| progress.kept += kept);
    applier.settle()
}
