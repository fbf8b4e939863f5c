//! Paths that clients name: where they end up, symbolic links inside the share followed as a server
//! would follow them. Not here: single entries (see `look`).
//!
//! The kernel walks where it can; where a link is on the way we walk ourselves, one name at a time
//! from one open directory to the next, so that a link swapped under us can at worst make the walk
//! end elsewhere inside the share.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::disk::Disk;
use super::look::{self, Leaf, STEP, Seen, absent};
use super::{Contains, Resolved, TreeError};
use crate::id::{Name, RelPath};
use crate::object::{Found, Kind};

/// Symbolic links followed in one path: Linux `MAXSYMLINKS`.
const LINKS_MAX: usize = 40;

/// A directory that the walk is in.
struct Step {
    fd: OwnedFd,
    name: Name,
}

/// What the walk still has to take, the next component last. `.` and `..` come from links only.
struct Pending(Vec<Box<[u8]>>);

impl Disk {
    pub(super) fn fail_path(&self, what: &'static str, path: impl Display, e: io::Error) -> TreeError {
        let path = format!("{}{path}", self.spec.path.display());
        TreeError::Io { what, path, source: e }
    }

    pub(super) fn find(&self, path: &RelPath, follow_last: bool) -> io::Result<Resolved> {
        match self.find_literally(path, follow_last)? {
            Some(found) => Ok(found),
            None => self.walk(path, follow_last),
        }
    }

    /// The common case, without links: the parent in one step. `None` if there is more to it.
    fn find_literally(&self, path: &RelPath, follow_last: bool) -> io::Result<Option<Resolved>> {
        let Some((parent, name)) = path.split_last() else {
            return Ok(Some(Resolved::Root(look::inode(self.root.as_fd())?)));
        };
        if path.has_ours() {
            return Ok(None);
        }
        let Some(dir) = absent(self.descend(&parent, OFlags::PATH | OFlags::DIRECTORY))? else {
            return Ok(None);
        };
        let found = match look::entry(dir.as_fd(), Leaf::of(name).as_c_str())? {
            Seen::There(found) => Some(found),
            Seen::Nothing => None,
            Seen::Mount => return Ok(Some(Resolved::Outside)),
        };
        if follow_last && found.as_ref().is_some_and(|found| found.kind == Kind::Symlink) {
            return Ok(None);
        }
        let dir = look::inode(dir.as_fd())?;
        Ok(Some(Resolved::Entry { dir, name: name.clone(), found }))
    }

    fn walk(&self, path: &RelPath, follow_last: bool) -> io::Result<Resolved> {
        let mut pending = Pending::of(path);
        let mut steps: Vec<Step> = Vec::new();
        let mut links = 0;
        while let Some(component) = pending.0.pop() {
            match &*component {
                b"." => continue,
                b".." => match steps.pop() {
                    Some(_) => continue,
                    None => return Ok(Resolved::Outside),
                },
                _ => {}
            }
            // Only a link's text can hold a name that is too long.
            let name =
                Name::new(&component).map_err(|_| io::Error::from_raw_os_error(libc::ENAMETOOLONG))?;
            let last = pending.0.is_empty();
            let top = self.top(&steps);
            let (fd, found) = match step(top, &name) {
                Ok(Some(found)) => found,
                Ok(None) => {
                    let dir = look::inode(top)?;
                    return Ok(match last {
                        true => Resolved::Entry { dir, name, found: None },
                        false => Resolved::NoParent { dir, name },
                    });
                }
                Err(error) if error.raw_os_error() == Some(libc::EXDEV) => {
                    return Ok(Resolved::Outside);
                }
                Err(error) => return Err(error),
            };
            match found.kind {
                Kind::Directory => steps.push(Step { fd, name }),
                Kind::Symlink if !last || follow_last => {
                    links += 1;
                    let target = rustix::fs::readlinkat(&fd, c"", Vec::new())?.into_bytes();
                    if links > LINKS_MAX || target.starts_with(b"/") {
                        return Ok(Resolved::Outside);
                    }
                    pending.push(&target);
                }
                _ if last => {
                    let dir = look::inode(top)?;
                    return Ok(Resolved::Entry { dir, name, found: Some(found) });
                }
                _ => return Ok(Resolved::NotADirectory { dir: look::inode(top)?, name }),
            }
        }
        match steps.pop() {
            None => Ok(Resolved::Root(look::inode(self.root.as_fd())?)),
            Some(Step { fd, name }) => Ok(Resolved::Entry {
                dir: look::inode(self.top(&steps))?,
                name,
                found: Some(look::inode(fd.as_fd())?),
            }),
        }
    }

    fn top<'a>(&'a self, steps: &'a [Step]) -> BorrowedFd<'a> {
        steps.last().map_or(self.root.as_fd(), |step| step.fd.as_fd())
    }

    /// What the path leads to, or why there is nothing to be opened.
    pub(super) fn holds(&self, path: &RelPath, cached: bool) -> io::Result<Result<OwnedFd, Contains>> {
        if path.has_ours() {
            return Ok(Err(Contains::Missing));
        }
        let os_path = path.to_os_path();
        match self.reach(&os_path, STEP, cached) {
            Ok(found) => Ok(Ok(found)),
            Err(Errno::LOOP) => self.holds_linked(path, os_path, cached),
            Err(other) => Ok(Err(verdict(other)?)),
        }
    }

    /// As `holds`, with links on the way: the kernel keeps them beneath the root, and the path of
    /// what it found tells whether they led into `.nearshare`.
    fn holds_linked(
        &self,
        path: &RelPath,
        os_path: PathBuf,
        cached: bool,
    ) -> io::Result<Result<OwnedFd, Contains>> {
        let found = match self.reach(&os_path, STEP.difference(ResolveFlags::NO_SYMLINKS), cached) {
            Ok(found) => found,
            Err(error) => return Ok(Err(verdict(error)?)),
        };
        match self.path_below(found.as_fd()) {
            Some(real) if real.has_ours() => Ok(Err(Contains::Missing)),
            Some(_) => Ok(Ok(found)),
            None if cached => Ok(Err(Contains::WouldBlock)),
            None => Ok(match self.walk(path, true)? {
                Resolved::Root(_) | Resolved::Entry { found: Some(_), .. } => Ok(found),
                Resolved::Outside => Err(Contains::Outside),
                _ => Err(Contains::Missing),
            }),
        }
    }

    fn reach(&self, path: &PathBuf, flags: ResolveFlags, cached: bool) -> Result<OwnedFd, Errno> {
        let open = |flags| {
            let how = OFlags::PATH | OFlags::CLOEXEC;
            rustix::fs::openat2(&self.root, path, how, Mode::empty(), flags)
        };
        if cached {
            return open(flags | ResolveFlags::CACHED);
        }
        look::retry(|| open(flags)).map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
    }
}

fn verdict(error: Errno) -> io::Result<Contains> {
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG => Ok(Contains::Missing),
        Errno::XDEV | Errno::LOOP => Ok(Contains::Outside),
        Errno::AGAIN => Ok(Contains::WouldBlock),
        other => Err(other.into()),
    }
}

/// Opens one entry without following it. `None` when there is none or it is `.nearshare`; EXDEV for
/// a mount point.
fn step(dir: BorrowedFd<'_>, name: &Name) -> io::Result<Option<(OwnedFd, Found)>> {
    if name.is_ours() {
        return Ok(None);
    }
    let fd = match look::open(dir, Leaf::of(name).as_c_str(), OFlags::PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let found = look::inode(fd.as_fd())?;
    Ok(Some((fd, found)))
}

impl Pending {
    fn of(path: &RelPath) -> Self {
        Self(path.names().iter().rev().map(|name| name.as_bytes().into()).collect())
    }

    /// A link's text, which is not absolute. A slash at its end asks for a directory, as `/.` does.
    fn push(&mut self, target: &[u8]) {
        if target.ends_with(b"/") {
            self.0.push((*b".").into());
        }
        let parts = target.split(|byte| *byte == b'/').rev();
        self.0.extend(parts.filter(|part| !part.is_empty()).map(Into::into));
    }
}
