//! One look at one object: its content between two looks at its file, and those between two at its row.

use std::io::{self, Read as _};
use std::time::Duration;

use super::{Judge, Result, VerifyError};
use crate::catalog::Shelf;
use crate::clock::{BootTime, Clock};
use crate::id::{Name, ObjectId, RelPath};
use crate::object::{Kind, Local, Object};
use crate::tree::content::{Extent, Extents, Hasher};
use crate::tree::{Content, Place, Spot, Tree, TreeError};
use crate::work;

/// One read of a file, and so the least that is read between two rests.
const READ_LEN: usize = 256 * 1024;
/// Longest rest before somebody who waits for the end is heard.
const REST: Duration = Duration::from_millis(100);

/// What a look says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// Or there is nothing to compare.
    Right,
    /// There is no such object any more.
    Gone,
    Busy,
    Wrong(String),
}

/// Reads no faster than it may.
pub(super) struct Pace {
    /// Bytes a second.
    pub rate: Option<u64>,
    pub began: BootTime,
    /// Since then.
    pub bytes: u64,
}

pub(super) struct Looker<'a, T: Tree> {
    pub tree: &'a T,
    pub shelf: &'a Shelf,
    pub clock: &'a dyn Clock,
    pub judge: &'a dyn Judge,
    pub pace: Pace,
    /// Somebody waits for the end.
    pub is_over: &'a dyn Fn() -> bool,
    buffer: Vec<u8>,
}

impl<'a, T: Tree> Looker<'a, T> {
    pub fn new(
        tree: &'a T,
        shelf: &'a Shelf,
        clock: &'a dyn Clock,
        judge: &'a dyn Judge,
        rate: Option<u64>,
        is_over: &'a dyn Fn() -> bool,
    ) -> Self {
        let pace = Pace { rate, began: clock.boot(), bytes: 0 };
        Self { tree, shelf, clock, judge, pace, is_over, buffer: vec![0; READ_LEN] }
    }

    /// What is wrong is so twice: a read that went wrong on its way is none of the disk's.
    pub fn look(&mut self, id: ObjectId) -> Result<Seen> {
        match self.look_once(id)? {
            Seen::Wrong(_) => {
                // A directory that is not mounted has nothing in it, and that is all that is wrong (R28).
                self.tree.check()?;
                self.look_once(id)
            }
            seen => Ok(seen),
        }
    }

    fn look_once(&mut self, id: ObjectId) -> Result<Seen> {
        let Some(object) = self.shelf.object(id)? else { return Ok(Seen::Gone) };
        if !matches!(object.kind, Kind::File | Kind::Symlink) {
            return Ok(Seen::Right);
        }
        let local = self.shelf.local(id)?;
        let entry = self.shelf.links(id)?.into_iter().next();
        let (Some(local), Some(entry)) = (local, entry) else { return Ok(Seen::Busy) };
        // The row is asked for before what is busy, and once more after the read: whoever changes the disk
        // marks first, and drops the mark after the row is right.
        if object.kind == Kind::File && local.version != object.version
            || self.judge.is_busy(id, &entry)?
        {
            return Ok(Seen::Busy);
        }
        let seen = self.read(&object, &local, &entry)?;
        let now = (self.shelf.object(id)?, self.shelf.local(id)?);
        let same = now == (Some(object), Some(local)) && !self.judge.is_busy(id, &entry)?;
        Ok(if same { seen } else { Seen::Busy })
    }

    /// The entry as it is; an error of this entry alone says that it is wrong.
    fn read(&mut self, object: &Object, local: &Local, entry: &(ObjectId, Name)) -> Result<Seen> {
        match self.read_entry(object, local, entry) {
            Err(VerifyError::Tree(error @ TreeError::Io { .. })) => {
                Ok(Seen::Wrong(format!("it cannot be read: {error}")))
            }
            other => other,
        }
    }

    fn read_entry(
        &mut self,
        object: &Object,
        local: &Local,
        (parent, name): &(ObjectId, Name),
    ) -> Result<Seen> {
        let away = |why: &str| match self.judge.is_copy() {
            true => Seen::Wrong(why.to_owned()),
            false => Seen::Busy,
        };
        let Some(dir) = self.dir(*parent)? else { return Ok(away("it is missing")) };
        let spot = Spot::Entry(&dir, name);
        if object.kind == Kind::Symlink {
            return Ok(match self.tree.look(spot)? {
                None => away("it is missing"),
                Some(found) if found.handle != local.handle => away("something else is in its place"),
                Some(_) if self.tree.read_link(spot)? == object.target => Seen::Right,
                Some(_) => away("it leads elsewhere than was recorded"),
            });
        }
        let Some(mut file) = self.tree.open_file(spot)? else { return Ok(away("it is missing")) };
        let before = self.tree.file_found(&file)?;
        if before.handle != local.handle {
            return Ok(away("something else is in its place"));
        }
        if !self.judge.claims(local, &before.stamp) {
            return Ok(Seen::Busy);
        }
        self.tree.afresh(&file);
        let read = self.hash(&mut file, before.size);
        self.tree.afresh(&file);
        let content = match read {
            Ok(Some(content)) => content,
            Ok(None) => return Err(VerifyError::Stopped),
            Err(error) => return Ok(Seen::Wrong(format!("it cannot be read: {error}"))),
        };
        if self.tree.file_stamp(&file)? != before.stamp {
            return Ok(Seen::Busy);
        }
        let right = (content.root, content.size) == (object.root, object.size);
        Ok(if right { Seen::Right } else { Seen::Wrong("its content is not what was recorded".into()) })
    }

    /// `None`: somebody waits for the end.
    fn hash(&mut self, file: &mut T::File, size: u64) -> io::Result<Option<Content>> {
        let mut hasher = Hasher::new();
        let mut extents = Extents::new(size);
        while let Some(Extent { hole, data }) = extents.next(file)? {
            hasher.zeros(hole);
            let mut left = data;
            while left > 0 {
                let room = READ_LEN.min(usize::try_from(left).unwrap_or(READ_LEN));
                let len = match file.read(&mut self.buffer[..room]) {
                    Ok(0) => return Ok(Some(hasher.finish())),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read?,
                };
                hasher.update(&self.buffer[..len]);
                left -= len as u64;
                self.pace.bytes += len as u64;
                if !self.rest() {
                    return Ok(None);
                }
            }
        }
        Ok(Some(hasher.finish()))
    }

    /// Until as much may have been read as was. `false`: somebody waits for the end.
    fn rest(&self) -> bool {
        loop {
            if (self.is_over)() {
                return false;
            }
            let Some(rate) = self.pace.rate.filter(|rate| *rate > 0) else { return true };
            let due = Duration::from_secs_f64(self.pace.bytes as f64 / rate as f64);
            let left = due.saturating_sub(self.clock.boot().since(self.pace.began));
            if left.is_zero() {
                return true;
            }
            work::pause(left.min(REST));
        }
    }

    fn dir(&self, id: ObjectId) -> Result<Option<T::Dir>> {
        if id == ObjectId::ROOT {
            return Ok(Some(self.tree.root()?));
        }
        let Some(local) = self.shelf.local(id)? else { return Ok(None) };
        let path = || -> Option<RelPath> { self.shelf.path_of(id).ok().flatten() };
        Ok(self.tree.open_dir(&Place { handle: &local.handle, path: &path })?)
    }
}
