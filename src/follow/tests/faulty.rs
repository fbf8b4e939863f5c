//! A disk that fails, or a process that dies, at any chosen change.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::follow::lock;
use crate::id::{Name, ObjectId, RelPath};
use crate::object::{Attrs, Found, LocalHandle, Object, Stamp, Xattrs};
use crate::tree::{
    Alive, Aside, Contains, Disk, Leftovers, Place, Resolved, Result, Spot, Tree, TreeError, Used,
};

#[derive(Debug, Clone, Copy)]
pub enum Fate {
    /// The process dies; what it was about to note is not noted.
    Crash,
    Fail(i32),
}

/// What a panic carries that stands for a crash.
pub struct Crashed;

pub struct Faulty {
    disk: Disk,
    /// After so many changes.
    fate: Mutex<Option<(u64, Fate)>>,
    /// Fails every stage and make with this.
    pub full: Mutex<Option<i32>>,
}

type Dir = <Disk as Tree>::Dir;

impl Faulty {
    pub fn new(disk: Disk) -> Self {
        Self { disk, fate: Mutex::default(), full: Mutex::default() }
    }
    pub fn doom(&self, after: u64, fate: Fate) {
        *lock(&self.fate) = Some((after, fate));
    }
    pub fn spare(&self) {
        *lock(&self.fate) = None;
    }
    fn tick(&self, what: &'static str) -> Result<()> {
        let mut fate = lock(&self.fate);
        match &mut *fate {
            None => Ok(()),
            Some((0, Fate::Crash)) => {
                drop(fate);
                std::panic::resume_unwind(Box::new(Crashed))
            }
            Some((0, Fate::Fail(errno))) => {
                let source = io::Error::from_raw_os_error(*errno);
                *fate = None;
                Err(TreeError::Io { what, path: "the test".into(), source })
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(())
            }
        }
    }
    fn room(&self, what: &'static str) -> Result<()> {
        match *lock(&self.full) {
            None => Ok(()),
            Some(errno) => {
                let source = io::Error::from_raw_os_error(errno);
                Err(TreeError::Io { what, path: "the test".into(), source })
            }
        }
    }
}

impl Tree for Faulty {
    type Dir = Dir;
    type File = File;
    type Stage = File;

    fn marker(&self) -> [u8; 16] {
        self.disk.marker()
    }
    fn check(&self) -> Result<()> {
        self.disk.check()
    }
    fn root(&self) -> Result<Dir> {
        self.disk.root()
    }
    fn open_dir(&self, place: &Place<'_>) -> Result<Option<Dir>> {
        self.disk.open_dir(place)
    }
    fn dir_found(&self, dir: &Dir) -> Result<Found> {
        self.disk.dir_found(dir)
    }
    fn look(&self, at: Spot<'_, Dir>) -> Result<Option<Found>> {
        self.disk.look(at)
    }
    fn list(&self, dir: &Dir) -> Result<Vec<Name>> {
        self.disk.list(dir)
    }
    fn open_file(&self, at: Spot<'_, Dir>) -> Result<Option<File>> {
        self.disk.open_file(at)
    }
    fn file_found(&self, file: &File) -> Result<Found> {
        self.disk.file_found(file)
    }
    fn file_stamp(&self, file: &File) -> Result<Stamp> {
        self.disk.file_stamp(file)
    }
    fn read_link(&self, at: Spot<'_, Dir>) -> Result<Vec<u8>> {
        self.disk.read_link(at)
    }
    fn xattrs(&self, at: Spot<'_, Dir>) -> Result<Xattrs> {
        self.disk.xattrs(at)
    }
    fn file_xattrs(&self, file: &File) -> Result<Xattrs> {
        self.disk.file_xattrs(file)
    }
    fn alive(&self, handle: &LocalHandle) -> Result<Alive> {
        self.disk.alive(handle)
    }
    fn resolve(&self, path: &RelPath, follow_last: bool) -> Result<Resolved> {
        self.disk.resolve(path, follow_last)
    }
    fn contains(&self, path: &RelPath, cached: bool) -> Result<Contains> {
        self.disk.contains(path, cached)
    }
    fn reaches(&self, path: &RelPath, cached: bool) -> Result<(Contains, Option<Found>)> {
        self.disk.reaches(path, cached)
    }
    fn by_names(&self, path: &RelPath) -> Option<Found> {
        self.disk.by_names(path)
    }
    fn is_still(&self, path: &RelPath, found: &Found) -> bool {
        self.disk.is_still(path, found)
    }
    fn straight(&self, path: &RelPath, cached: bool) -> Result<Option<RelPath>> {
        self.disk.straight(path, cached)
    }
    fn sync(&self) -> Result<()> {
        self.tick("sync")?;
        self.disk.sync()
    }
    fn sync_entry(&self, dir: &Dir, name: &Name) -> Result<()> {
        self.disk.sync_entry(dir, name)
    }
    fn stage(&self, id: ObjectId) -> Result<File> {
        self.tick("stage")?;
        self.room("stage")?;
        self.disk.stage(id)
    }
    fn skip(&self, stage: &mut File, bytes: u64) -> io::Result<()> {
        self.disk.skip(stage, bytes)
    }
    fn staged(&self, stage: File) -> Result<()> {
        self.tick("staged")?;
        self.disk.staged(stage)
    }
    fn make(&self, at: Spot<'_, Dir>, object: &Object) -> Result<Found> {
        self.tick("make")?;
        self.room("make")?;
        self.disk.make(at, object)
    }
    fn set_attrs(&self, at: Spot<'_, Dir>, attrs: &Attrs, xattrs: &Xattrs) -> Result<Found> {
        self.tick("set_attrs")?;
        self.disk.set_attrs(at, attrs, xattrs)
    }
    fn rename(&self, from: Spot<'_, Dir>, to: Spot<'_, Dir>, replace: bool) -> Result<()> {
        self.tick("rename")?;
        self.disk.rename(from, to, replace)
    }
    fn link(&self, from: Spot<'_, Dir>, to: Spot<'_, Dir>) -> Result<()> {
        self.tick("link")?;
        self.disk.link(from, to)
    }
    fn remove(&self, at: Spot<'_, Dir>) -> Result<()> {
        self.tick("remove")?;
        self.disk.remove(at)
    }
    fn open_at(&self, at: Spot<'_, Dir>) -> Result<Option<Dir>> {
        self.disk.open_at(at)
    }
    fn keep(&self, at: Spot<'_, Dir>, aside: &Aside<'_>) -> Result<PathBuf> {
        self.tick("keep")?;
        self.disk.keep(at, aside)
    }
    fn used(&self) -> Result<Used> {
        self.disk.used()
    }
    fn leftovers(&self) -> Result<Leftovers> {
        self.disk.leftovers()
    }
}
