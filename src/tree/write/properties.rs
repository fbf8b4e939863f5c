//! What clients have said of an object over WebDAV, in an extended attribute: so it lies on the disk with the object,
//! moves and goes with it, and is journalled and carried to the copies as every attribute is. What is in it is for
//! whoever reads it to say; anybody who may write to the object may have put it there.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rustix::fs::XattrFlags;

use super::*;
use crate::tree::disk::proc_path;

const ATTRIBUTE: &str = "user.nearshare.properties";
/// Room for what most objects have of them, and the kernel's limit on a value.
const FEW: usize = 1 << 10;
const MOST: usize = 64 << 10;

/// Whether the disk has extended attributes that anybody may set.
pub fn keeps_properties(disk: &Disk) -> bool {
    let mut none: [u8; 0] = [];
    !matches!(fs::fgetxattr(&disk.root, ATTRIBUTE, &mut none[..]), Err(Errno::OPNOTSUPP))
}

impl Files {
    /// Those of what the path leads to.
    pub fn properties(&self, path: &RelPath) -> Result<Option<Vec<u8>>> {
        let read = || of(&proc_path(self.walk(path, OFlags::PATH)?.as_fd()));
        read().map_err(at("reading the properties of", path))
    }

    /// Replaces those of what the path leads to, in one step, by what `change` makes of them, which may also refuse. One
    /// change at a time.
    pub fn change_properties<E>(
        &self,
        path: &RelPath,
        change: impl FnOnce(Option<Vec<u8>>) -> std::result::Result<Option<Vec<u8>>, E>,
    ) -> Result<std::result::Result<(), E>> {
        let change = || {
            let fd = self.walk(path, OFlags::PATH)?;
            let place = proc_path(fd.as_fd());
            let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
            let old = of(&place)?;
            let new = match change(old.clone()) {
                Ok(new) if new == old => return Ok(Ok(())),
                Ok(new) => new,
                Err(refusal) => return Ok(Err(refusal)),
            };
            match new {
                Some(new) => fs::setxattr(&place, ATTRIBUTE, &new, XattrFlags::empty())?,
                None => fs::removexattr(&place, ATTRIBUTE)?,
            }
            Ok(Ok(()))
        };
        change().map_err(at("setting the properties of", path))
    }
}

/// The attribute of what a descriptor's place in `/proc` stands for.
fn of(place: &Path) -> Sys<Option<Vec<u8>>> {
    value(|room| fs::getxattr(place, ATTRIBUTE, room))
}

fn value(get: impl Fn(&mut [u8]) -> Sys<usize>) -> Sys<Option<Vec<u8>>> {
    let mut room = vec![0; FEW];
    loop {
        match get(&mut room) {
            Ok(len) => {
                room.truncate(len);
                return Ok(Some(room));
            }
            Err(Errno::RANGE) if room.len() < MOST => room.resize(MOST, 0),
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Gives a new file or directory the properties of what it is a copy of.
pub(super) fn carry(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Sys<()> {
    give(of(&proc_path(from))?, to)
}

/// Gives a new file those of the file that it takes the place of.
pub(super) fn inherit(slot: &Slot, replaced: Option<&fs::Statx>, to: BorrowedFd<'_>) -> Sys<()> {
    let regular =
        |stat: &&fs::Statx| FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
    if replaced.filter(regular).is_none() {
        return Ok(());
    }
    let place: PathBuf = proc_path(slot.dir.as_fd()).join(slot.name.as_os_str());
    match value(|room| fs::lgetxattr(&place, ATTRIBUTE, room)) {
        // It has just gone.
        Err(Errno::NOENT) => Ok(()),
        properties => give(properties?, to),
    }
}

fn give(properties: Option<Vec<u8>>, to: BorrowedFd<'_>) -> Sys<()> {
    match properties {
        Some(value) => fs::fsetxattr(to, ATTRIBUTE, &value, XattrFlags::empty()),
        None => Ok(()),
    }
}
