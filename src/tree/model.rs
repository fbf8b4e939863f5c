//! A tree in memory: what [`Disk`](super::Disk) must agree with, and what tests of higher rooms run
//! on. Links, handles and errors are a Linux file system's; there are no mounts and no rights. A crash
//! loses the last so many changes that were not synced.

mod files;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use files::into_io;
pub use files::{ModelFile, ModelStage};
use state::{KEPT, Outcome, PARK, ROOT, State, TMP, inode_of};

use super::*;
use crate::clock::Clock;
use crate::id::RelPath;
use crate::object::{Extra, Kind, Stamp, Xattrs};

/// One share's directory in memory.
#[derive(Clone)]
pub struct Model(Arc<Mutex<State>>);

pub struct ModelDir(u64);

/// What a server notes of a content: of every fourth one more than a row has room for.
fn sum(data: &[u8]) -> Xattrs {
    let sum = blake3::hash(data);
    let times = if sum.as_bytes()[0] < 64 { 40 } else { 1 };
    let mut xattrs = Xattrs::default();
    xattrs.insert(b"user.sum".to_vec(), sum.as_bytes().repeat(times));
    xattrs
}

impl Model {
    pub fn new(marker: [u8; 16]) -> Self {
        let mut state = State {
            marker,
            present: true,
            inodes: BTreeMap::new(),
            next: ROOT,
            now: 1_000_000_000,
            kept: 0,
            clock: None,
            full: false,
            unsynced: Vec::new(),
            seen: 0,
            on_read: None,
            on_sync: None,
        };
        for _ in [ROOT, PARK, TMP, KEPT] {
            state.add(Kind::Directory, 0o755);
        }
        Self(Arc::new(Mutex::new(state)))
    }

    /// One that can crash.
    pub fn with_clock(marker: [u8; 16], clock: Arc<dyn Clock>) -> Self {
        let model = Self::new(marker);
        model.lock().clock = Some(clock);
        model
    }

    /// The machine ends: of the changes since the last sync the first `keep(n)` of `n` are left.
    pub fn crash(&self, keep: impl FnOnce(usize) -> usize) {
        let mut state = self.lock();
        let mut states = std::mem::take(&mut state.unsynced);
        if states.is_empty() {
            return;
        }
        let kept = keep(states.len()).max(state.seen.min(states.len()));
        if kept < states.len() {
            // What is made from now on has handles of its own.
            let next = state.next;
            *state = states.swap_remove(kept);
            state.next = next;
            state.unsynced.clear();
        }
        state.seen = 0;
    }

    /// A client has read what is there. No file server waits for the disk before it shows a change that it
    /// has not answered yet, so a crash that loses it proves nothing: here it does not.
    pub fn show(&self) {
        let mut state = self.lock();
        state.seen = state.unsynced.len();
    }

    /// Calls `before` whenever a file is read on, with its path.
    pub fn on_read(&self, before: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) {
        self.lock().on_read = Some(Arc::new(before));
    }

    /// Calls `before` whenever all is to be synced.
    pub fn on_sync(&self, before: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
        self.lock().on_sync = Some(Arc::new(before));
    }

    pub fn set_full(&self, full: bool) {
        let mut state = self.lock();
        state.full = full;
        state.unsynced.iter_mut().for_each(|old| old.full = full);
    }

    /// A file with this content, as a server makes it that notes a sum in an attribute: a new one in place of
    /// what was there, or what was there written over.
    pub fn write(&self, dir: &ModelDir, name: &Name, data: &[u8], over: bool) -> Result<()> {
        self.run("write", "in the model", |state| {
            state.room()?;
            let there = state.inodes[&dir.0].entries.get(name).copied();
            if let Some(inode) = there.filter(|_| over) {
                let now = state.tick();
                let row = state.row(inode);
                row.data = data.to_vec();
                row.holes.clear();
                row.dress(&sum(data));
                (row.attrs.mtime, row.ctime) = (now, now);
                return Ok(());
            }
            let inode = state.add(Kind::File, 0o644);
            state.row(inode).data = data.to_vec();
            state.row(inode).dress(&sum(data));
            if there.is_some() {
                state.take(dir.0, name, true);
            }
            state.put(dir.0, name.clone(), inode)
        })
    }

    pub fn mkdir(&self, dir: &ModelDir, name: &Name) -> Result<()> {
        self.run("mkdir", "in the model", |state| {
            state.room()?;
            let inode = state.add(Kind::Directory, 0o755);
            state.put(dir.0, name.clone(), inode)
        })
    }

    /// Every path with what is there: a file's content, with a word more if it has not the attribute that it
    /// was written with; none of a directory.
    pub fn tree(&self) -> BTreeMap<String, Option<Vec<u8>>> {
        let state = self.lock();
        let mut found = BTreeMap::new();
        let mut todo = vec![(ROOT, String::new())];
        while let Some((dir, path)) = todo.pop() {
            for (name, child) in &state.inodes[&dir].entries {
                let below = format!("{path}/{name}");
                let row = &state.inodes[child];
                let bare = if row.xattrs == sum(&row.data) { &b""[..] } else { b" bare" };
                let file = (row.kind == Kind::File).then(|| [&row.data[..], bare].concat());
                found.insert(below.clone(), file);
                todo.push((*child, below));
            }
        }
        found
    }

    /// The mode, owner and time of every path; of a symbolic link, which has no mode, as well.
    pub fn attrs(&self) -> BTreeMap<String, Attrs> {
        let state = self.lock();
        let mut found = BTreeMap::new();
        let mut todo = vec![(ROOT, String::new())];
        while let Some((inode, path)) = todo.pop() {
            let row = &state.inodes[&inode];
            todo.extend(row.entries.iter().map(|(name, child)| (*child, format!("{path}/{name}"))));
            found.insert(path, row.attrs);
        }
        found
    }

    /// The contents of all that was kept aside.
    pub fn kept(&self) -> Vec<Vec<u8>> {
        let state = self.lock();
        let mut todo = vec![KEPT];
        let mut found = Vec::new();
        while let Some(inode) = todo.pop() {
            let row = &state.inodes[&inode];
            todo.extend(row.entries.values().copied());
            found.push(row.data.clone());
        }
        found
    }

    /// Unmounts or mounts the share: nothing is lost, but `check` tells.
    pub fn set_present(&self, present: bool) {
        self.lock().present = present;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn run<T>(
        &self,
        what: &'static str,
        path: &str,
        f: impl FnOnce(&mut State) -> Outcome<T>,
    ) -> Result<T> {
        crate::work::linger();
        let mut state = self.lock();
        let before = state.clock.is_some().then(|| State { unsynced: Vec::new(), ..state.clone() });
        let ran = f(&mut state);
        if let Some(before) = before.filter(|before| before.now != state.now) {
            state.unsynced.push(before);
        }
        drop(state);
        ran.map_err(|errno| {
            let source = io::Error::from_raw_os_error(errno);
            TreeError::Io { what, path: path.into(), source }
        })
    }
}

impl Tree for Model {
    type Dir = ModelDir;
    type File = ModelFile;
    type Stage = ModelStage;

    fn marker(&self) -> [u8; 16] {
        self.lock().marker
    }
    fn check(&self) -> Result<()> {
        if self.lock().present {
            return Ok(());
        }
        Err(TreeError::NotTheShare { path: "/model".into(), why: "it is not mounted".into() })
    }
    fn root(&self) -> Result<ModelDir> {
        Ok(ModelDir(ROOT))
    }
    fn open_dir(&self, place: &Place<'_>) -> Result<Option<ModelDir>> {
        self.run("open", "by handle", |state| {
            let inode = inode_of(place.handle)?;
            let row = state.inodes.get(&inode).filter(|row| row.names > 0);
            let inside = row.is_some_and(|row| row.kind == Kind::Directory)
                && [ROOT, PARK, TMP].iter().any(|top| state.is_below(inode, *top));
            Ok(inside.then_some(ModelDir(inode)))
        })
    }
    fn dir_found(&self, dir: &ModelDir) -> Result<Found> {
        Ok(self.lock().found(dir.0))
    }
    fn look(&self, at: Spot<'_, ModelDir>) -> Result<Option<Found>> {
        crate::work::linger();
        let mut state = self.lock();
        Ok(state.get(at).map(|inode| state.found(inode)))
    }
    fn list(&self, dir: &ModelDir) -> Result<Vec<Name>> {
        crate::work::linger();
        Ok(self.lock().inodes[&dir.0].entries.keys().cloned().collect())
    }
    fn open_file(&self, at: Spot<'_, ModelDir>) -> Result<Option<ModelFile>> {
        let state = self.lock();
        let inode = state.get(at).filter(|inode| state.inodes[inode].kind == Kind::File);
        Ok(inode.map(|inode| ModelFile { model: self.clone(), inode, at: 0 }))
    }
    fn file_found(&self, file: &ModelFile) -> Result<Found> {
        Ok(self.lock().found(file.inode))
    }
    fn file_stamp(&self, file: &ModelFile) -> Result<Stamp> {
        Ok(self.lock().found(file.inode).stamp)
    }
    fn read_link(&self, at: Spot<'_, ModelDir>) -> Result<Vec<u8>> {
        self.run("read the link", "in the model", |state| {
            let row = &state.inodes[&state.get(at).ok_or(libc::ENOENT)?];
            if row.kind == Kind::Symlink { Ok(row.data.clone()) } else { Err(libc::EINVAL) }
        })
    }
    fn xattrs(&self, at: Spot<'_, ModelDir>) -> Result<Xattrs> {
        let state = self.lock();
        let inode = state.get(at).ok_or_else(|| TreeError::Io {
            what: "read the attributes of",
            path: "in the model".into(),
            source: io::Error::from_raw_os_error(libc::ENOENT),
        })?;
        Ok(state.inodes[&inode].xattrs.clone())
    }
    fn file_xattrs(&self, file: &ModelFile) -> Result<Xattrs> {
        Ok(self.lock().inodes[&file.inode].xattrs.clone())
    }
    fn alive(&self, handle: &LocalHandle) -> Result<Alive> {
        self.run("find", "by handle", |state| {
            let inode = inode_of(handle)?;
            match state.inodes.get(&inode) {
                Some(row) if row.names > 0 => {
                    let path = state.path_of(inode);
                    Ok(Alive::Yes(state.found(inode), path))
                }
                _ => Ok(Alive::Gone),
            }
        })
    }
    fn resolve(&self, path: &RelPath, follow_last: bool) -> Result<Resolved> {
        self.run("resolve", &path.to_string(), |state| state.resolve(path, follow_last))
    }
    fn contains(&self, path: &RelPath, cached: bool) -> Result<Contains> {
        Ok(self.reaches(path, cached)?.0)
    }
    fn reaches(&self, path: &RelPath, _cached: bool) -> Result<(Contains, Option<Found>)> {
        let resolved = self.lock().resolve(path, true);
        Ok(match resolved {
            Ok(Resolved::Root(found) | Resolved::Entry { found: Some(found), .. }) => {
                (Contains::Inside, Some(found))
            }
            Ok(Resolved::Outside) => (Contains::Outside, None),
            _ => (Contains::Missing, None),
        })
    }
    fn by_names(&self, path: &RelPath) -> Option<Found> {
        let (_, found) = self.reaches(path, true).ok()?;
        found.filter(|found| found.kind == Kind::File)
    }
    fn is_still(&self, path: &RelPath, found: &Found) -> bool {
        self.by_names(path).is_some_and(|now| now.handle == found.handle && now.stamp == found.stamp)
    }
    fn straight(&self, path: &RelPath, _cached: bool) -> Result<Option<RelPath>> {
        Ok(self.lock().walk(path, true).ok().and_then(|(_, there)| there))
    }
    fn sync(&self) -> Result<()> {
        // What is written while it takes its time may not be part of it.
        let (many, before) = {
            let state = self.lock();
            (state.unsynced.len(), state.on_sync.clone())
        };
        if let Some(before) = before {
            let failed = |source| TreeError::Io { what: "sync", path: "in the model".into(), source };
            before().map_err(failed)?;
        }
        crate::work::linger();
        let mut state = self.lock();
        let many = many.min(state.unsynced.len());
        state.unsynced.drain(..many);
        state.seen = state.seen.saturating_sub(many);
        Ok(())
    }
    fn sync_entry(&self, _dir: &ModelDir, _name: &Name) -> Result<()> {
        self.sync()
    }
    fn stage(&self, id: ObjectId) -> Result<ModelStage> {
        self.run("stage", "in the model", |state| {
            state.room()?;
            let (dir, name) = state.target(Spot::Tmp(id))?;
            state.unlink(dir, &name)?;
            let inode = state.add(Kind::File, 0o600);
            state.put(dir, name, inode)?;
            Ok(ModelStage { model: self.clone(), inode })
        })
    }
    fn skip(&self, stage: &mut ModelStage, bytes: u64) -> io::Result<()> {
        let done = self.run("write", "in the model", |state| {
            let now = state.tick();
            let row = state.row(stage.inode);
            let from = row.data.len() as u64;
            let size = usize::try_from(from + bytes).map_err(|_| libc::EFBIG)?;
            row.data.resize(size, 0);
            row.holes.push(from..from + bytes);
            (row.attrs.mtime, row.ctime) = (now, now);
            Ok(())
        });
        done.map_err(into_io)
    }
    fn staged(&self, _stage: ModelStage) -> Result<()> {
        Ok(())
    }
    fn make(&self, at: Spot<'_, ModelDir>, object: &Object) -> Result<Found> {
        self.run("make", "in the model", |state| {
            state.room()?;
            let (dir, name) = state.target(at)?;
            if object.kind == Kind::File {
                return Err(libc::EINVAL);
            }
            if state.inodes[&dir].entries.contains_key(&name) {
                return Err(libc::EEXIST);
            }
            if state.inodes[&dir].names == 0 {
                return Err(libc::ENOENT);
            }
            let inode = state.add(object.kind, object.attrs.mode);
            state.put(dir, name, inode)?;
            let row = state.row(inode);
            row.attrs = if object.xattrs.is_apart() { object.closed() } else { object.attrs };
            if object.kind == Kind::Symlink {
                row.data.clone_from(&object.target);
                row.attrs.mode = 0o777;
            }
            if let Extra::Here(xattrs) = &object.xattrs {
                row.dress(xattrs);
            }
            row.rdev = object.rdev;
            Ok(state.found(inode))
        })
    }
    fn set_attrs(&self, at: Spot<'_, ModelDir>, attrs: &Attrs, xattrs: &Xattrs) -> Result<Found> {
        self.run("set the attributes of", "in the model", |state| {
            if !matches!(at, Spot::Itself(_)) {
                state.target(at)?;
            }
            let inode = state.get(at).ok_or(libc::ENOENT)?;
            let now = state.tick();
            let row = state.row(inode);
            let mode = if row.kind == Kind::Symlink { row.attrs.mode } else { attrs.mode };
            let wanted = Attrs { mode, ..*attrs };
            let dressed = row.dress(xattrs);
            if row.attrs != wanted || dressed {
                (row.attrs, row.ctime) = (wanted, now);
            }
            Ok(state.found(inode))
        })
    }
    fn rename(&self, from: Spot<'_, ModelDir>, to: Spot<'_, ModelDir>, replace: bool) -> Result<()> {
        self.run("rename", "in the model", |state| {
            let (from, to) = (state.target(from)?, state.target(to)?);
            state.rename(from, to, replace)
        })
    }
    fn link(&self, from: Spot<'_, ModelDir>, to: Spot<'_, ModelDir>) -> Result<()> {
        self.run("link", "in the model", |state| {
            let (dir, name) = state.target(to)?;
            state.target(from)?;
            let inode = state.get(from).ok_or(libc::ENOENT)?;
            if state.inodes[&dir].entries.contains_key(&name) {
                return Err(libc::EEXIST);
            }
            if state.inodes[&inode].kind == Kind::Directory {
                return Err(libc::EPERM);
            }
            state.put(dir, name, inode)?;
            state.row(inode).names += 1;
            Ok(())
        })
    }
    fn remove(&self, at: Spot<'_, ModelDir>) -> Result<()> {
        self.run("remove", "in the model", |state| {
            let (dir, name) = state.target(at)?;
            state.unlink(dir, &name)
        })
    }
    fn open_at(&self, at: Spot<'_, ModelDir>) -> Result<Option<ModelDir>> {
        let state = self.lock();
        let inode = state.get(at).filter(|inode| state.inodes[inode].kind == Kind::Directory);
        Ok(inode.map(ModelDir))
    }
    fn keep(&self, at: Spot<'_, ModelDir>, aside: &Aside<'_>) -> Result<PathBuf> {
        self.run("keep aside", "in the model", |state| {
            let from = state.target(at)?;
            state.kept += 1;
            let name = format!("{}-{}", state.kept, aside.name);
            state.rename(from, (KEPT, Name::new(name.as_bytes()).unwrap()), false)?;
            Ok(PathBuf::from("/model/.nearshare/kept").join(name))
        })
    }
    fn used(&self) -> Result<Used> {
        let inodes = self.lock().inodes.len() as u64;
        Ok(Used { inodes, ..Used::default() })
    }
    fn leftovers(&self) -> Result<Leftovers> {
        let state = self.lock();
        Ok(Leftovers { park: state.ids(PARK), tmp: state.ids(TMP) })
    }
}
