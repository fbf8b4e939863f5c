//! What the disk of a [`Model`](super::Model) holds, and how names and inodes hang together.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::ModelDir;
use crate::clock::Clock;
use crate::id::{Name, ObjectId, RelPath};
use crate::object::{Attrs, Found, Kind, LocalHandle, Stamp, Timespec, Xattrs};
use crate::tree::{Resolved, Spot};

pub(super) const ROOT: u64 = 1;
pub(super) const PARK: u64 = 2;
pub(super) const TMP: u64 = 3;
pub(super) const KEPT: u64 = 4;

pub(super) type Outcome<T> = Result<T, i32>;

#[derive(Clone)]
pub(super) struct State {
    pub(super) marker: [u8; 16],
    /// False while "unmounted": `check` fails.
    pub(super) present: bool,
    pub(super) inodes: BTreeMap<u64, Arc<Inode>>,
    pub(super) next: u64,
    /// Nanoseconds since 1970; every change takes one.
    pub(super) now: i64,
    pub(super) kept: u64,
    /// Where the time stamps come from, as coarse as a kernel's; else `now`.
    pub(super) clock: Option<Arc<dyn Clock>>,
    /// Nothing more can be written.
    pub(super) full: bool,
    /// The states since the last sync, the synced one first; of one with a clock.
    pub(super) unsynced: Vec<State>,
    /// How many of them somebody has read.
    pub(super) seen: usize,
    /// What happens before a file is read on.
    pub(super) on_read: Option<OnRead>,
    /// What happens before all is synced.
    pub(super) on_sync: Option<OnSync>,
}

/// Is told the path, and may fail the read.
pub(super) type OnRead = Arc<dyn Fn(&str) -> io::Result<()> + Send + Sync>;

/// May fail the sync.
pub(super) type OnSync = Arc<dyn Fn() -> io::Result<()> + Send + Sync>;

/// Time stamps of a kernel come from its tick.
pub(super) const TICK_NS: i64 = 4_000_000;

#[derive(Clone)]
pub(super) struct Inode {
    pub(super) kind: Kind,
    pub(super) attrs: Attrs,
    pub(super) xattrs: Xattrs,
    pub(super) ctime: Timespec,
    pub(super) rdev: u64,
    /// A file's content, a symlink's target.
    pub(super) data: Vec<u8>,
    /// Where a file has none of its own: what reads as zeros.
    pub(super) holes: Vec<Range<u64>>,
    /// A directory's entries.
    pub(super) entries: BTreeMap<Name, u64>,
    /// Names of a file, 1 for a directory; 0 is deleted.
    pub(super) names: u64,
    /// Where a directory is.
    pub(super) parent: u64,
}

impl Inode {
    /// Only files and directories have attributes of users. Says whether that changed anything.
    pub(super) fn dress(&mut self, wanted: &Xattrs) -> bool {
        let mut can = Xattrs::default();
        let fit = |name: &[u8]| {
            matches!(self.kind, Kind::File | Kind::Directory) || !name.starts_with(b"user.")
        };
        wanted
            .iter()
            .filter(|(name, _)| fit(name))
            .for_each(|(name, value)| can.insert(name.into(), value.into()));
        let changed = can != self.xattrs;
        self.xattrs = can;
        changed
    }
}

impl State {
    pub(super) fn tick(&mut self) -> Timespec {
        self.now += 1;
        let now = match &self.clock {
            Some(clock) => clock.wall().0 / TICK_NS * TICK_NS,
            None => self.now,
        };
        Timespec { sec: now / 1_000_000_000, nsec: (now % 1_000_000_000) as u32 }
    }

    pub(super) fn room(&self) -> Outcome<()> {
        if self.full { Err(libc::ENOSPC) } else { Ok(()) }
    }

    pub(super) fn add(&mut self, kind: Kind, mode: u32) -> u64 {
        let now = self.tick();
        let inode = self.next;
        self.next += 1;
        let row = Inode {
            kind,
            attrs: Attrs {
                mode,
                uid: rustix::process::geteuid().as_raw(),
                gid: rustix::process::getegid().as_raw(),
                mtime: now,
            },
            xattrs: Xattrs::default(),
            ctime: now,
            rdev: 0,
            data: Vec::new(),
            holes: Vec::new(),
            entries: BTreeMap::new(),
            names: 1,
            parent: inode,
        };
        self.inodes.insert(inode, Arc::new(row));
        inode
    }

    pub(super) fn row(&mut self, inode: u64) -> &mut Inode {
        Arc::make_mut(self.inodes.get_mut(&inode).unwrap())
    }

    pub(super) fn found(&mut self, inode: u64) -> Found {
        let row = self.inodes[&inode].clone();
        let is_dir = |id: &u64| self.inodes[id].kind == Kind::Directory;
        let nlink = match row.kind {
            Kind::Directory if row.names == 0 => 0,
            Kind::Directory => {
                let ours = u64::from(inode == ROOT);
                2 + ours + row.entries.values().filter(|id| is_dir(id)).count() as u64
            }
            _ => row.names,
        };
        let size = row.data.len() as u64;
        Found {
            handle: LocalHandle::from_bytes(&[&b"\0\0model"[..], &inode.to_be_bytes()].concat()),
            kind: row.kind,
            attrs: row.attrs,
            size,
            rdev: row.rdev,
            nlink,
            stamp: Stamp { size, mtime: row.attrs.mtime, ctime: row.ctime },
        }
    }

    /// Directory and name of a spot.
    pub(super) fn at(&self, spot: Spot<'_, ModelDir>) -> Option<(u64, Name)> {
        let name = |id: ObjectId| Name::new(id.to_string().as_bytes()).unwrap();
        match spot {
            Spot::Itself(_) => None,
            Spot::Entry(_, name) if name.is_ours() => None,
            Spot::Entry(dir, name) => Some((dir.0, name.clone())),
            Spot::Park(id) => Some((PARK, name(id))),
            Spot::Tmp(id) => Some((TMP, name(id))),
        }
    }

    pub(super) fn target(&self, spot: Spot<'_, ModelDir>) -> Outcome<(u64, Name)> {
        self.at(spot).ok_or(libc::EPERM)
    }

    pub(super) fn get(&self, spot: Spot<'_, ModelDir>) -> Option<u64> {
        if let Spot::Itself(dir) = spot {
            return Some(dir.0);
        }
        let (dir, name) = self.at(spot)?;
        self.inodes[&dir].entries.get(&name).copied()
    }

    pub(super) fn put(&mut self, dir: u64, name: Name, inode: u64) -> Outcome<()> {
        let now = self.tick();
        let parent = self.row(dir);
        if parent.names == 0 {
            return Err(libc::ENOENT);
        }
        parent.entries.insert(name, inode);
        (parent.attrs.mtime, parent.ctime) = (now, now);
        let row = self.row(inode);
        (row.parent, row.ctime) = (dir, now);
        Ok(())
    }

    /// Takes an entry away; what it named loses a name if `drop`.
    pub(super) fn take(&mut self, dir: u64, name: &Name, drop: bool) {
        let now = self.tick();
        let parent = self.row(dir);
        let inode = parent.entries.remove(name).unwrap();
        (parent.attrs.mtime, parent.ctime) = (now, now);
        let row = self.row(inode);
        row.ctime = now;
        if drop {
            row.names -= 1;
        }
    }

    pub(super) fn unlink(&mut self, dir: u64, name: &Name) -> Outcome<()> {
        let Some(inode) = self.inodes[&dir].entries.get(name).copied() else { return Ok(()) };
        if !self.inodes[&inode].entries.is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        self.take(dir, name, true);
        Ok(())
    }

    pub(super) fn rename(
        &mut self,
        (from, old): (u64, Name),
        (to, new): (u64, Name),
        replace: bool,
    ) -> Outcome<()> {
        let inode = *self.inodes[&from].entries.get(&old).ok_or(libc::ENOENT)?;
        if self.inodes[&to].names == 0 {
            return Err(libc::ENOENT);
        }
        let there = self.inodes[&to].entries.get(&new).copied();
        if there.is_some() && !replace {
            return Err(libc::EEXIST);
        }
        let is_dir = |id: u64| self.inodes[&id].kind == Kind::Directory;
        if is_dir(inode) && self.is_below(to, inode) {
            return Err(libc::EINVAL);
        }
        if there == Some(inode) {
            if (from, &old) != (to, &new) {
                self.take(from, &old, true);
            }
            return Ok(());
        }
        if let Some(there) = there {
            // An ancestor of the source is never empty.
            if self.is_below(from, there) {
                return Err(libc::ENOTEMPTY);
            }
            match (is_dir(inode), is_dir(there)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                _ => self.unlink(to, &new)?,
            }
        }
        self.take(from, &old, false);
        self.put(to, new, inode)
    }

    /// Whether `inode` is `top` or below it.
    pub(super) fn is_below(&self, mut inode: u64, top: u64) -> bool {
        while inode != top {
            let parent = self.inodes[&inode].parent;
            if parent == inode {
                return false;
            }
            inode = parent;
        }
        true
    }

    /// The first path of `inode` below the root.
    pub(super) fn path_of(&self, inode: u64) -> Option<RelPath> {
        let mut todo = vec![(ROOT, RelPath::ROOT)];
        while let Some((dir, path)) = todo.pop() {
            for (name, child) in &self.inodes[&dir].entries {
                let below = path.join(name.clone());
                if *child == inode {
                    return Some(below);
                }
                todo.push((*child, below));
            }
        }
        None
    }

    pub(super) fn resolve(&mut self, path: &RelPath, follow_last: bool) -> Outcome<Resolved> {
        self.walk(path, follow_last).map(|(resolved, _)| resolved)
    }

    /// And the path of what is there, without links.
    pub(super) fn walk(
        &mut self,
        path: &RelPath,
        follow_last: bool,
    ) -> Outcome<(Resolved, Option<RelPath>)> {
        let names = |steps: &[(u64, Name)], name: Option<&Name>| {
            let names = steps.iter().map(|(_, name)| name).chain(name).cloned().collect();
            RelPath::new(names).ok()
        };
        let mut todo: Vec<Vec<u8>> =
            path.names().iter().rev().map(|name| name.as_bytes().to_vec()).collect();
        let mut steps: Vec<(u64, Name)> = Vec::new();
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == b"." || (part == b".." && steps.pop().is_some()) {
                continue;
            }
            if part == b".." {
                return Ok((Resolved::Outside, None));
            }
            let name = Name::new(&part).map_err(|_| libc::ENAMETOOLONG)?;
            let top = steps.last().map_or(ROOT, |step| step.0);
            let dir = self.found(top);
            let inode = self.inodes[&top].entries.get(&name).copied().filter(|_| !name.is_ours());
            let Some(inode) = inode else {
                let resolved = match todo.is_empty() {
                    true => Resolved::Entry { dir, name, found: None },
                    false => Resolved::NoParent { dir, name },
                };
                return Ok((resolved, None));
            };
            let row = self.inodes[&inode].clone();
            match row.kind {
                Kind::Directory => steps.push((inode, name)),
                Kind::Symlink if follow_last || !todo.is_empty() => {
                    links += 1;
                    if links > 40 || row.data.starts_with(b"/") {
                        return Ok((Resolved::Outside, None));
                    }
                    if row.data.ends_with(b"/") {
                        todo.push(b".".to_vec());
                    }
                    let parts = row.data.split(|byte| *byte == b'/').rev();
                    todo.extend(parts.filter(|part| !part.is_empty()).map(<[u8]>::to_vec));
                }
                _ if todo.is_empty() => {
                    let there = names(&steps, Some(&name));
                    return Ok((Resolved::Entry { dir, name, found: Some(self.found(inode)) }, there));
                }
                _ => return Ok((Resolved::NotADirectory { dir, name }, None)),
            }
        }
        let there = names(&steps, None);
        let Some((inode, name)) = steps.pop() else {
            return Ok((Resolved::Root(self.found(ROOT)), there));
        };
        let dir = self.found(steps.last().map_or(ROOT, |step| step.0));
        Ok((Resolved::Entry { dir, name, found: Some(self.found(inode)) }, there))
    }

    pub(super) fn ids(&self, room: u64) -> Vec<ObjectId> {
        let id = |name: &Name| crate::tree::marker::unhex(name.as_bytes()).map(ObjectId::from_bytes);
        self.inodes[&room].entries.keys().filter_map(id).collect()
    }
}

pub(super) fn inode_of(handle: &LocalHandle) -> Outcome<u64> {
    let bytes = handle.as_bytes().strip_prefix(b"\0\0model").ok_or(libc::EINVAL)?;
    Ok(u64::from_be_bytes(bytes.try_into().map_err(|_| libc::EINVAL)?))
}
