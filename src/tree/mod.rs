//! A share's directory on this site's disk. One seam, [`Tree`], between what a share means and what
//! a disk does; [`Disk`] is the real one.
//!
//! Everything happens below an open root descriptor, never through a symbolic link and never across
//! a mount point (R28). `.nearshare` at the root is ours and shows up in no look and no listing.
//! Not here: what a share's history says (see `catalog`), and whether disk or history is right
//! (`notice` at the primary, `follow` at a copy).

use std::io::{self, Write};
use std::path::PathBuf;

pub use self::disk::{Dir, Disk};
pub use self::kept::Aside;
pub use self::watch::{Heard, Ringer, Unwatched, Watcher};

mod apply;
pub mod content;
mod disk;
mod fanotify;
mod handle;
pub mod kept;
mod look;
mod marker;
#[cfg(test)]
pub mod model;
mod mounts;
mod names;
#[cfg(test)]
pub(crate) mod tests;
mod walk;
mod watch;
pub mod write;
mod xattr;

use crate::id::{Hash, Name, ObjectId, RelPath, ShareId, SiteId};
use crate::object::{Attrs, Found, LocalHandle, Object, Stamp, Xattrs};

/// What went wrong on the disk, with what it was about.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The directory is not the share: empty, unmounted, another share's or another site's. Nothing
    /// may be read as "deleted" and nothing applied until it is back (R28).
    #[error("{path}: {why}; mount or restore the share's directory, or correct `path` in the map")]
    NotTheShare { path: PathBuf, why: String },
    /// It is the share, but somebody else could put another marker there.
    #[error(
        "{path}/.nearshare belongs to uid {uid} and has mode {mode:o}: nobody but nearshare may write \
         there; `chown {me} {path}/.nearshare` and `chmod 700 {path}/.nearshare`"
    )]
    NotOurs { path: PathBuf, uid: u32, mode: u32, me: u32 },
    #[error("{what} {path}: {source}")]
    Io { what: &'static str, path: String, source: io::Error },
}

/// Of one object: the source of a [`TreeError::Io`].
#[derive(Debug, thiserror::Error)]
pub enum TooManyXattrs {
    #[error("its extended attributes are more than {} bytes", Xattrs::MAX)]
    Carried,
    #[error(
        "its {bytes} bytes of extended attributes are more than this file system keeps with a file (ext4: \
         4 KiB, unless it has the feature `ea_inode`)"
    )]
    Kept { bytes: usize },
}

impl TreeError {
    /// It is [`TooManyXattrs`].
    pub fn is_of_xattrs(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        source.get_ref().is_some_and(|inner| inner.is::<TooManyXattrs>())
    }
}

pub type Result<T, E = TreeError> = std::result::Result<T, E>;

/// A directory to be opened: by handle where the kernel lets us, else by a path that is then checked
/// against the handle. The path is a hint and may be stale.
pub struct Place<'a> {
    pub handle: &'a LocalHandle,
    pub path: &'a dyn Fn() -> Option<RelPath>,
}

/// Where an inode sits.
#[derive(Debug)]
pub enum Spot<'a, D> {
    Entry(&'a D, &'a Name),
    /// The directory itself, for its own attributes only.
    Itself(&'a D),
    /// `.nearshare/park/<id>`: between two names, or without one (R16).
    Park(ObjectId),
    /// `.nearshare/tmp/<id>`: being made whole.
    Tmp(ObjectId),
}
impl<D> Clone for Spot<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D> Copy for Spot<'_, D> {}

/// Whether an inode still exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alive {
    /// It does; with the path where the kernel last saw it, when it knows one below the root.
    Yes(Found, Option<RelPath>),
    /// Its handle is stale, or it has no links left.
    Gone,
    /// This process may not open by handle (no CAP_DAC_READ_SEARCH): only looking for it tells.
    Unknown,
}

/// Where a directory is that the kernel has named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the share, or its root.
    Inside(RelPath),
    /// In the share, but the kernel does not tell where: too deep, or on its way.
    Somewhere,
    /// Outside, in `.nearshare`, or deleted.
    Elsewhere,
}

/// Where a client's path ends up on this disk, symlinks inside the share followed as the server
/// would (all but the last component).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// The share's root itself.
    Root(Found),
    /// The directory exists; the entry may or may not.
    Entry { dir: Found, name: Name, found: Option<Found> },
    /// Some directory on the way is missing: `name` is the first missing entry, in `dir`.
    NoParent { dir: Found, name: Name },
    /// A component on the way is not a directory; `dir` and `name` say which entry that is.
    NotADirectory { dir: Found, name: Name },
    /// A symbolic link on the way, or the last one if followed, leaves the share, is absolute or goes
    /// in circles; or another file system is mounted at or above the entry.
    Outside,
}

/// Whether a client's path, all symlinks followed, stays inside the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contains {
    /// It exists, inside.
    Inside,
    /// Some part of it is missing, no directory, or `.nearshare`.
    Missing,
    /// A symbolic link is absolute, leads out or in circles, or a file system is mounted there.
    Outside,
    /// Only with `cached`: the disk would have to be asked.
    WouldBlock,
}

/// What this process cannot carry from site to site on this disk. An attribute that is not carried
/// is left as the disk made it, without an error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// No CAP_CHOWN: `set_attrs` leaves an owner or group that it may not set (and the kernel then
    /// may drop the set-gid bit).
    pub no_owners: bool,
    /// No CAP_MKNOD: `make` fails with EPERM for a `Block` or `Char`.
    pub no_devices: bool,
    /// No CAP_DAC_READ_SEARCH: `alive` is `Unknown`, and directories are found by path only.
    pub no_handles: bool,
    /// No CAP_SYS_ADMIN: `trusted.` attributes are not seen, and those of `security.` not set.
    pub no_trusted: bool,
}

impl Limits {
    /// One sentence for the operator for each.
    pub fn sentences(self) -> impl Iterator<Item = &'static str> {
        [
            (self.no_owners, "owners are not copied: that takes root or CAP_CHOWN"),
            (self.no_devices, "device files are not copied: that takes root or CAP_MKNOD"),
            (
                self.no_trusted,
                "extended attributes of trusted and security are not copied: that takes root or \
                 CAP_SYS_ADMIN",
            ),
            (
                self.no_handles,
                "objects moved behind nearshare's back are found by a scan only: opening by handle \
                 takes root or CAP_DAC_READ_SEARCH",
            ),
        ]
        .into_iter()
        .filter_map(|(missing, sentence)| missing.then_some(sentence))
    }
}

/// The operations `notice`, `follow`, `relay` and `embedded` need of a share's directory. All block.
pub trait Tree: Send + Sync + 'static {
    /// An open directory.
    type Dir: Send + Sync;
    /// A regular file open for reading.
    type File: content::Sparse + Send;
    /// A regular file being written at its `Spot::Tmp`.
    type Stage: Write + Send;

    /// The random id of the root marker: stands for the file system in ObjectIds (R32).
    fn marker(&self) -> [u8; 16];
    /// Fails with `NotTheShare` unless the root is there and carries our marker for this share and
    /// site. Called before every scan and every apply.
    fn check(&self) -> Result<()>;
    fn root(&self) -> Result<Self::Dir>;

    /// `None` when the directory is gone (or, unprivileged, no longer at the hinted path).
    fn open_dir(&self, place: &Place<'_>) -> Result<Option<Self::Dir>>;
    /// The directory's own attributes.
    fn dir_found(&self, dir: &Self::Dir) -> Result<Found>;
    /// One entry, its symlink not followed. `None` when there is none; a mount point is none.
    fn look(&self, at: Spot<'_, Self::Dir>) -> Result<Option<Found>>;
    /// All names but `.nearshare`, in no order.
    fn list(&self, dir: &Self::Dir) -> Result<Vec<Name>>;
    /// `None` when it is missing or not a regular file.
    fn open_file(&self, at: Spot<'_, Self::Dir>) -> Result<Option<Self::File>>;
    /// Of an open file, by descriptor.
    fn file_found(&self, file: &Self::File) -> Result<Found>;
    /// What is read of it next comes from the disk, as far as the kernel lets go of what it has in memory.
    fn afresh(&self, _file: &Self::File) {}
    /// For the second of two looks around a read (R17).
    fn file_stamp(&self, file: &Self::File) -> Result<Stamp>;
    fn read_link(&self, at: Spot<'_, Self::Dir>) -> Result<Vec<u8>>;
    /// The extended attributes that travel, of what is there, its symlink not followed. More than
    /// [`Xattrs::MAX`] bytes of them are an error.
    fn xattrs(&self, at: Spot<'_, Self::Dir>) -> Result<Xattrs>;
    /// Of an open file, by descriptor.
    fn file_xattrs(&self, file: &Self::File) -> Result<Xattrs>;
    fn alive(&self, handle: &LocalHandle) -> Result<Alive>;
    /// Tells from now on of every change on the share's file system, whoever makes it but this process. Or
    /// why nothing does here.
    fn watch(&self) -> Result<Watcher, Unwatched> {
        Err(Unwatched::Untold)
    }
    /// Of a directory that [`Self::watch`] told of.
    fn whereabouts(&self, _dir: &LocalHandle) -> Result<Whereabouts> {
        Ok(Whereabouts::Elsewhere)
    }
    /// For paths that clients name: see [`Resolved`]. `follow_last` also follows a final symlink.
    fn resolve(&self, path: &RelPath, follow_last: bool) -> Result<Resolved>;
    /// Whether a server that opens `path` now stays inside. With `cached` it never waits for the
    /// disk (2 to 3 us), so an async task may call it; on `WouldBlock` ask again without, where
    /// blocking is allowed. `NotTheShare` as for `check`, where a server does not come here at all.
    fn contains(&self, path: &RelPath, cached: bool) -> Result<Contains>;
    /// As [`Self::contains`], with what is there; one look, so that both are of one moment.
    fn reaches(&self, path: &RelPath, cached: bool) -> Result<(Contains, Option<Found>)>;
    /// What a server finds at `path` that goes by names alone, and not through the directory that is held open
    /// here: a regular file on the same mount, with no symbolic link on the way from `/` (or none a second ago, when
    /// it was found there), and with a stamp in which a change from now on would show (R17). Whether it is of the share its handle tells; where the share's
    /// own directory is, nothing. Waits for the disk only if it has left memory within a second; `None` also means
    /// that this cannot tell.
    fn by_names(&self, path: &RelPath) -> Option<Found>;
    /// Whether a server finds now what [`Self::by_names`] found before, with the same stamp. As that otherwise.
    /// It goes by the inode's number: a new file of that number would have a later ctime.
    fn is_still(&self, path: &RelPath, found: &Found) -> bool;
    /// The path of what `path` leads to, without a symbolic link on the way. `None`: there is nothing inside,
    /// or, with `cached`, only the disk can tell.
    fn straight(&self, path: &RelPath, cached: bool) -> Result<Option<RelPath>>;
    /// What this process cannot carry here.
    fn limits(&self) -> Limits {
        Limits::default()
    }
    /// What is not carried here, in words for the operator: the [limits](Self::limits), and what is mounted
    /// inside. Never waits for the disk.
    fn left_out(&self) -> Vec<String> {
        self.limits().sentences().map(str::to_owned).collect()
    }

    /// Everything written so far to this file system is on disk (`syncfs`).
    fn sync(&self) -> Result<()>;
    /// One entry's object and the directory are on disk (`fsync` of both); a missing entry syncs the
    /// directory alone.
    fn sync_entry(&self, dir: &Self::Dir, name: &Name) -> Result<()>;

    /// Makes `Spot::Tmp(id)`, replacing a left-over one. Mode 0600 until `set_attrs`.
    fn stage(&self, id: ObjectId) -> Result<Self::Stage>;
    /// So many bytes more, as a hole.
    fn skip(&self, stage: &mut Self::Stage, bytes: u64) -> io::Result<()>;
    /// Closes a stage; its content stays at `Spot::Tmp(id)`.
    fn staged(&self, stage: Self::Stage) -> Result<()>;
    /// Makes a directory, symlink or special file with `object`'s attributes; if it has some apart from its
    /// row, without those, and [closed](Object::closed). Fails if one is there.
    fn make(&self, at: Spot<'_, Self::Dir>, object: &Object) -> Result<Found>;
    /// Owner, extended attributes, mode, mtime, in this order, of the entry itself (symlinks not followed;
    /// their mode left). Extended attributes that travel and are not in `xattrs` go.
    fn set_attrs(&self, at: Spot<'_, Self::Dir>, attrs: &Attrs, xattrs: &Xattrs) -> Result<Found>;
    /// rename(2): replaces a file by a file, an empty directory by a directory. `replace = false`
    /// fails with EEXIST instead (RENAME_NOREPLACE).
    fn rename(&self, from: Spot<'_, Self::Dir>, to: Spot<'_, Self::Dir>, replace: bool) -> Result<()>;
    /// Another name for the file or special file at `from`. Fails if one is there.
    fn link(&self, from: Spot<'_, Self::Dir>, to: Spot<'_, Self::Dir>) -> Result<()>;
    /// Unlinks one file or one empty directory. Nothing there is no error.
    fn remove(&self, at: Spot<'_, Self::Dir>) -> Result<()>;
    /// Opens the directory at `at` itself, for looking below a parked one.
    fn open_at(&self, at: Spot<'_, Self::Dir>) -> Result<Option<Self::Dir>>;
    /// Moves what is at `at` to `.nearshare/kept/<time>-<name>` with a note of why and from where beside it,
    /// durably; says where. A copy never destroys what it did not make.
    fn keep(&self, at: Spot<'_, Self::Dir>, aside: &Aside<'_>) -> Result<PathBuf>;
    /// How full the file system is.
    fn used(&self) -> Result<Used>;
    /// Ids of what is left at `Spot::Park` and `Spot::Tmp`, for tidying after a start.
    fn leftovers(&self) -> Result<Leftovers>;
}

/// What is on the share's file system, other directories of it included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Used {
    /// Inodes in use; 0 where the file system does not count them.
    pub inodes: u64,
    pub bytes: u64,
    pub free_bytes: u64,
}

/// What a crash left in `.nearshare`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leftovers {
    pub park: Vec<ObjectId>,
    pub tmp: Vec<ObjectId>,
}

/// What a share's root must carry, and how to come by it.
#[derive(Debug, Clone)]
pub struct RootSpec {
    pub path: PathBuf,
    pub share: ShareId,
    pub site: SiteId,
    /// The marker id the catalog remembers. `None` on the very first start: the marker is made, or
    /// an existing one of this share and site taken over.
    pub marker: Option<[u8; 16]>,
}

/// A content hash and the number of bytes under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    pub root: Hash,
    pub size: u64,
}
