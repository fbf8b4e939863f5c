//! Operations on whole trees: delete, move, copy. Each is one step for whoever looks at the share: a
//! copy is made aside and renamed in, and what goes or is replaced is renamed away and then taken
//! apart there.

use std::io::{Read, Seek, SeekFrom};

use super::*;
use crate::tree::content::{Extent, Extents};

/// Bytes asked of one `copy_file_range`.
const COPY_STEP: usize = 16 << 20;
/// What a copy keeps of its source's mode.
const COPIED_MODE: u32 = 0o777;

impl Files {
    /// Deletes what is at `path`, with all below it; a symbolic link is deleted itself.
    pub fn remove(&self, path: &RelPath) -> Result<()> {
        let remove = || {
            let slot = self.slot(path)?;
            match fs::unlinkat(&slot.dir, slot.name.as_os_str(), AtFlags::empty()) {
                Err(Errno::ISDIR) => self.remove_dir(&slot),
                done => done,
            }
        };
        remove().map_err(at("deleting", path))
    }

    fn remove_dir(&self, slot: &Slot) -> Sys<()> {
        match fs::unlinkat(&slot.dir, slot.name.as_os_str(), AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                let aside = self.set_aside(slot)?;
                self.discard(aside);
                Ok(())
            }
            done => done,
        }
    }

    /// Moves `from` to `to`, replacing what is there. Symbolic links at the end of either path are
    /// moved and replaced themselves. Neither may lie in the other (EINVAL).
    pub fn rename(&self, from: &RelPath, to: &RelPath) -> Result<()> {
        let rename = || {
            let (source, dest) = (self.slot(from)?, self.slot(to)?);
            self.apart(&self.real_slot(&source)?, &self.real_slot(&dest)?)?;
            self.put(source.dir.as_fd(), source.name.as_os_str(), &dest)
        };
        rename().map_err(at("moving", from))
    }

    /// Copies `from` to `to`, replacing what is there. A symbolic link at the end of `from` is
    /// followed, those below it are copied as links. Of a directory, `below` says whether its
    /// contents are copied too. Neither path may lie in the other (EINVAL).
    pub fn copy(&self, from: &RelPath, to: &RelPath, below: bool) -> Result<()> {
        let copy = || {
            let source = self.walk(from, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
            let dest = self.slot(to)?;
            self.apart(&self.real(source.as_fd())?, &self.real_slot(&dest)?)?;
            let aside = aside_name();
            let made = self.copy_aside(source.as_fd(), &aside, &dest, below);
            let placed = made.and_then(|()| self.put(self.tmp.as_fd(), aside.as_str(), &dest));
            if placed.is_err() {
                self.discard(aside);
            }
            placed
        };
        copy().map_err(at("copying", from))
    }

    /// Refuses two places of which one is the other or lies in it.
    fn apart(&self, one: &RelPath, other: &RelPath) -> Sys<()> {
        if one.starts_with(other) || other.starts_with(one) { Err(Errno::INVAL) } else { Ok(()) }
    }

    /// Renames an entry to `dest`, whatever is there.
    fn put<P: rustix::path::Arg + Copy>(&self, dir: BorrowedFd<'_>, name: P, dest: &Slot) -> Sys<()> {
        let there = entry(dest.dir.as_fd(), &dest.name)?;
        let source = fs::statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)?;
        let is_dir =
            |stat: &fs::Statx| FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
        let place = || fs::renameat(dir, name, &dest.dir, dest.name.as_os_str());
        let Some(there) = there else { return place() };
        let id = |stat: &fs::Statx| (stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino);
        if id(&there) == id(&source) {
            // Two names of one file: rename(2) would leave both.
            return fs::unlinkat(dir, name, AtFlags::empty());
        }
        if !is_dir(&there) && !is_dir(&source) {
            return place();
        }
        let aside = self.set_aside(dest)?;
        match place() {
            Ok(()) => {
                self.discard(aside);
                Ok(())
            }
            Err(error) => {
                let (tmp, name) = (&self.tmp, dest.name.as_os_str());
                let back = fs::renameat_with(tmp, &aside, &dest.dir, name, RenameFlags::NOREPLACE);
                if let Err(error) = back {
                    tracing::error!(name = %dest.name, %aside, %error, "cannot put back what was replaced");
                }
                Err(error)
            }
        }
    }

    fn set_aside(&self, slot: &Slot) -> Sys<String> {
        let aside = aside_name();
        fs::renameat(&slot.dir, slot.name.as_os_str(), &self.tmp, &aside)?;
        Ok(aside)
    }

    fn copy_aside(&self, source: BorrowedFd<'_>, aside: &str, dest: &Slot, below: bool) -> Sys<()> {
        let stat = fs::fstat(source)?;
        let dir = dest.dir.as_fd();
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                let new = copy_file(source, self.tmp.as_fd(), aside)?;
                properties::carry(source, new.as_fd())?;
                let replaced = entry(dir, &dest.name)?;
                dress(new.as_fd(), dir, replaced.as_ref(), Some(stat.st_mode & COPIED_MODE))
            }
            FileType::Directory => {
                fs::mkdirat(&self.tmp, aside, Mode::RWXU)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                let new = open_below(self.tmp.as_fd(), aside, flags, ResolveFlags::NO_SYMLINKS)?;
                properties::carry(source, new.as_fd())?;
                if below {
                    copy_below(source, new.as_fd())?;
                }
                dress(new.as_fd(), dir, None, Some(stat.st_mode & COPIED_MODE))
            }
            _ => Err(Errno::PERM),
        }
    }

    /// Takes apart what has been set aside. What cannot be deleted stays, out of everybody's sight,
    /// and is tried again at the next start.
    pub(super) fn discard(&self, aside: String) {
        let mut left = vec![aside];
        while let Some(top) = left.pop() {
            if let Err(error) = self.discard_one(&top, &mut left) {
                tracing::warn!(path = %format_args!(".nearshare/tmp/{top}"), %error, "cannot delete");
            }
        }
    }

    /// Deletes one thing in `tmp`. Directories in it that are not empty move up beside it first, so
    /// that no depth costs a descriptor or a stack frame.
    fn discard_one(&self, top: &str, left: &mut Vec<String>) -> Sys<()> {
        match fs::unlinkat(&self.tmp, top, AtFlags::empty()) {
            Err(Errno::ISDIR) => {}
            Err(Errno::NOENT) => return Ok(()),
            done => return done,
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = open_below(self.tmp.as_fd(), top, flags, ResolveFlags::NO_SYMLINKS)?;
        for entry in fs::Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match fs::unlinkat(&dir, name, AtFlags::empty()) {
                Err(Errno::ISDIR) => {}
                done => {
                    done?;
                    continue;
                }
            }
            match fs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    let up = aside_name();
                    fs::renameat(&dir, name, &self.tmp, &up)?;
                    left.push(up);
                }
                done => done?,
            }
        }
        fs::unlinkat(&self.tmp, top, AtFlags::REMOVEDIR)
    }

    /// Deletes what an earlier process left of uploads, copies and deletions.
    pub(super) fn tidy(&self) {
        let entries = match fs::Dir::read_from(&self.tmp) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, "cannot look for left-over uploads in .nearshare/tmp");
                return;
            }
        };
        let own = format!("{ASIDE}{:016x}-", *RUN);
        for entry in entries.flatten() {
            if let Ok(name) = entry.file_name().to_str()
                && name.starts_with(ASIDE)
                && !name.starts_with(&own)
            {
                self.discard(name.to_owned());
            }
        }
    }
}

/// Copies all below `source` to the empty directory `dest`. Directories are reached by their path
/// from the top, so that depth costs no descriptors; the kernel's limit on paths is the limit here.
fn copy_below(source: BorrowedFd<'_>, dest: BorrowedFd<'_>) -> Sys<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut left = vec![RelPath::ROOT];
    while let Some(path) = left.pop() {
        let os = path.to_os_path();
        let from = open_below(source, &os, flags, ResolveFlags::NO_SYMLINKS)?;
        let to = open_below(dest, &os, flags, ResolveFlags::NO_SYMLINKS)?;
        for entry in fs::Dir::read_from(&from)? {
            let entry = entry?;
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else { continue };
            if name.is_ours() {
                continue;
            }
            if copy_entry(from.as_fd(), to.as_fd(), &name)? {
                let names = path.names().iter().cloned().chain([name]).collect();
                left.push(RelPath::new(names).map_err(|_| Errno::NAMETOOLONG)?);
            }
        }
    }
    Ok(())
}

/// Copies one entry and says whether it is a directory, whose contents are still to be copied.
fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &Name) -> Sys<bool> {
    let os = name.as_os_str();
    // What has vanished since it was listed is not copied.
    let Some(stat) = entry(from, name)? else { return Ok(false) };
    let mode = Mode::from_raw_mode(u32::from(stat.stx_mode) & COPIED_MODE);
    match FileType::from_raw_mode(stat.stx_mode.into()) {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
            let source = open_below(from, os, flags, ResolveFlags::NO_SYMLINKS)?;
            let new = copy_file(source.as_fd(), to, os)?;
            properties::carry(source.as_fd(), new.as_fd())?;
            fs::fchmod(&new, mode)?;
            Ok(false)
        }
        FileType::Directory => {
            fs::mkdirat(to, os, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let new = open_below(to, os, flags, ResolveFlags::NO_SYMLINKS)?;
            let source = open_below(from, os, flags | OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS)?;
            properties::carry(source.as_fd(), new.as_fd())?;
            // Writable by us while it is being filled; root, as which sites run, always may.
            fs::fchmod(new, mode | Mode::RWXU)?;
            Ok(true)
        }
        FileType::Symlink => {
            let target = fs::readlinkat(from, os, Vec::new())?;
            fs::symlinkat(&target, to, os)?;
            Ok(false)
        }
        FileType::Fifo | FileType::Socket => {
            fs::mknodat(to, os, FileType::from_raw_mode(stat.stx_mode.into()), mode, 0)?;
            Ok(false)
        }
        _ => Err(Errno::PERM),
    }
}

/// A new file `name` in `dir` with the content of `source`, holes included; blocks are shared where the file
/// system can.
fn copy_file<P: rustix::path::Arg>(source: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: P) -> Sys<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut to = File::from(fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?);
    let mut from = File::from(source.try_clone_to_owned().map_err(errno)?);
    let size = from.metadata().map_err(errno)?.len();
    let mut extents = Extents::new(size);
    let mut at = 0;
    while let Some(Extent { hole, data }) = extents.next(&mut from).map_err(errno)? {
        at += hole;
        copy_range(&mut from, &mut to, at, at + data)?;
        at += data;
    }
    to.set_len(size).map_err(errno)?;
    Ok(to)
}

/// Copies what is in a range, where `from` stands at its beginning; less if it has become shorter.
fn copy_range(from: &mut File, to: &mut File, begin: u64, end: u64) -> Sys<()> {
    let (mut read, mut wrote) = (begin, begin);
    while read < end {
        let step = usize::try_from(end - read).unwrap_or(COPY_STEP).min(COPY_STEP);
        match fs::copy_file_range(&*from, Some(&mut read), &*to, Some(&mut wrote), step) {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::XDEV | Errno::NOSYS) => {
                from.seek(SeekFrom::Start(read)).map_err(errno)?;
                to.seek(SeekFrom::Start(wrote)).map_err(errno)?;
                io::copy(&mut from.take(end - read), to).map_err(errno)?;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
