//! A share as `dav-server` sees it. One [`DavFs`] serves one request and knows what the request is,
//! because `dav-server` takes COPY, MOVE and DELETE apart into steps that are not safe on a real
//! tree (it deletes what a MOVE will replace before it knows that the move succeeds, and follows
//! symbolic links in circles): for these everything is shown to it as plain files, and each is then
//! one call of `tree::write`.

use std::fs::File;
use std::io::SeekFrom;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::SystemTime;

use bytes::{Buf, Bytes};
use dav_server::davpath::DavPath;
use dav_server::fs::{
    DavDirEntry, DavFile, DavFileSystem, DavMetaData, FsError, FsFuture, FsResult, FsStream,
    OpenOptions, ReadDirMeta,
};
use http::StatusCode;
use rustix::io::Errno;

use super::put::Put;
use super::stream::Source;
use super::{Share, fields};
use crate::id::RelPath;
use crate::object::{Found, Kind, Timespec};
use crate::tree::TreeError;
use crate::tree::write::{Opened, UploadRule};

/// How one request sees the share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Plain,
    /// DELETE, MOVE, COPY and whether all below is copied: see the module's text. DELETE's own
    /// `remove_file` is the whole deletion, the others' is nothing.
    Delete,
    Move,
    Copy {
        below: bool,
    },
}

impl View {
    fn flat(self) -> bool {
        matches!(self, Self::Delete | Self::Move | Self::Copy { .. })
    }
}

#[derive(Clone)]
pub(super) struct DavFs {
    pub share: Arc<Share>,
    pub view: View,
    /// A status that `dav-server` has no error for; 0 is none. It replaces the one it answers with.
    pub verdict: Arc<AtomicU16>,
}

/// Says what an error of the disk is to a client.
pub(super) fn fs_error(error: &TreeError) -> FsError {
    let TreeError::Io { source, .. } = error else {
        tracing::error!(%error, "embedded server");
        return FsError::GeneralFailure;
    };
    match Errno::from_io_error(source) {
        Some(Errno::NOENT | Errno::NOTDIR | Errno::STALE) => FsError::NotFound,
        Some(Errno::EXIST | Errno::NOTEMPTY) => FsError::Exists,
        Some(
            Errno::ACCESS
            | Errno::PERM
            | Errno::ROFS
            | Errno::XDEV
            | Errno::ISDIR
            | Errno::INVAL
            | Errno::BUSY
            | Errno::TXTBSY
            | Errno::LOOP
            | Errno::NXIO
            | Errno::NODEV,
        ) => FsError::Forbidden,
        Some(Errno::NAMETOOLONG) => FsError::PathTooLong,
        Some(Errno::NOSPC | Errno::DQUOT | Errno::MLINK) => {
            tracing::warn!(%error, "embedded server: no space");
            FsError::InsufficientStorage
        }
        Some(Errno::FBIG) => FsError::TooLarge,
        _ => {
            tracing::error!(%error, "embedded server");
            FsError::GeneralFailure
        }
    }
}

impl DavFs {
    /// Runs one operation on the disk where it may block.
    fn disk<'a, T: Send + 'static>(
        &'a self,
        work: impl FnOnce(&Arc<Share>) -> Result<T, TreeError> + Send + 'static,
    ) -> FsFuture<'a, T> {
        let share = self.share.clone();
        Box::pin(async move {
            let done = super::blocking(move || work(&share)).await;
            done.map_err(|_| FsError::GeneralFailure)?.map_err(|error| fs_error(&error))
        })
    }

    fn look<'a>(&'a self, path: &'a DavPath, follow: bool) -> FsFuture<'a, Box<dyn DavMetaData>> {
        // Only the parent that a destination must have is asked for with a slash at the end, or,
        // when it is the root, without anything.
        let parent = path.is_collection() || path.as_bytes().is_empty();
        let flat = self.view.flat() && !parent;
        let path = match rel(path) {
            Ok(path) => path,
            Err(error) => return refuse(error),
        };
        self.disk(move |share| {
            let found = share.files.stat(&path, follow)?;
            Ok(Box::new(Meta { flat, ..Meta::new(share, found) }) as Box<dyn DavMetaData>)
        })
    }

    fn upload<'a>(&'a self, path: RelPath, options: OpenOptions) -> FsFuture<'a, Box<dyn DavFile>> {
        let rule = match (options.create_new, options.create) {
            (true, _) => UploadRule::New,
            (false, true) => UploadRule::Any,
            (false, false) => UploadRule::Replace,
        };
        let verdict = self.verdict.clone();
        self.disk(move |share| {
            let upload = share.files.upload(&path, rule);
            if upload.as_ref().is_err_and(is_directory) {
                // RFC 4918 section 9.7.2.
                verdict.store(StatusCode::METHOD_NOT_ALLOWED.as_u16(), Ordering::Relaxed);
            }
            Ok(Box::new(Put::new(upload?, options.size)) as Box<dyn DavFile>)
        })
    }
}

fn is_directory(error: &TreeError) -> bool {
    matches!(error, TreeError::Io { source, .. } if Errno::from_io_error(source) == Some(Errno::ISDIR))
}

fn rel(path: &DavPath) -> Result<RelPath, FsError> {
    RelPath::parse(path.as_bytes()).map_err(|_| FsError::PathTooLong)
}

fn refuse<'a, T: Send + 'static>(error: FsError) -> FsFuture<'a, T> {
    Box::pin(std::future::ready(Err(error)))
}

impl DavFileSystem for DavFs {
    fn open<'a>(&'a self, path: &'a DavPath, options: OpenOptions) -> FsFuture<'a, Box<dyn DavFile>> {
        let path = match rel(path) {
            Ok(path) => path,
            Err(error) => return refuse(error),
        };
        if options.write {
            return self.upload(path, options);
        }
        self.disk(move |share| match share.files.open(&path)? {
            Opened::File(file, found) => {
                let meta = Meta::new(share, found);
                Ok(Box::new(Reading::new(file, meta)) as Box<dyn DavFile>)
            }
            Opened::Directory(_) | Opened::Special(_) => Err(TreeError::Io {
                what: "reading",
                path: path.to_string(),
                source: Errno::ISDIR.into(),
            }),
        })
    }

    /// Listings are made by `props` and `index`; all else is shown as plain files.
    fn read_dir<'a>(
        &'a self,
        _path: &'a DavPath,
        _meta: ReadDirMeta,
    ) -> FsFuture<'a, FsStream<Box<dyn DavDirEntry>>> {
        refuse(FsError::NotImplemented)
    }
    fn metadata<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, Box<dyn DavMetaData>> {
        self.look(path, true)
    }
    fn symlink_metadata<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, Box<dyn DavMetaData>> {
        self.look(path, false)
    }
    fn create_dir<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, ()> {
        match rel(path) {
            Ok(path) => self.disk(move |share| share.files.make_dir(&path)),
            Err(error) => refuse(error),
        }
    }
    fn remove_file<'a>(&'a self, path: &'a DavPath) -> FsFuture<'a, ()> {
        match (rel(path), self.view) {
            (Ok(path), View::Delete) => self.disk(move |share| share.files.remove(&path)),
            // What is at the destination goes in the moment it is replaced.
            (Ok(_), _) => Box::pin(std::future::ready(Ok(()))),
            (Err(error), _) => refuse(error),
        }
    }
    fn rename<'a>(&'a self, from: &'a DavPath, to: &'a DavPath) -> FsFuture<'a, ()> {
        match (rel(from), rel(to)) {
            (Ok(from), Ok(to)) => self.disk(move |share| share.files.rename(&from, &to)),
            (Err(error), _) | (_, Err(error)) => refuse(error),
        }
    }
    fn copy<'a>(&'a self, from: &'a DavPath, to: &'a DavPath) -> FsFuture<'a, ()> {
        let below = self.view == View::Copy { below: true };
        match (rel(from), rel(to)) {
            (Ok(from), Ok(to)) => self.disk(move |share| share.files.copy(&from, &to, below)),
            (Err(error), _) | (_, Err(error)) => refuse(error),
        }
    }
    fn get_quota(&self) -> FsFuture<'_, (u64, Option<u64>)> {
        self.disk(|share| share.files.space().map(|(used, total)| (used, Some(total))))
    }
}

/// What is known of one thing.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    found: Found,
    etag: Option<String>,
    /// Shown as a plain file, whatever it is.
    flat: bool,
}

impl Meta {
    fn new(share: &Share, found: Found) -> Self {
        // `dav-server` adds the quotes.
        let etag = share.etag(&found).map(|tag| tag.trim_matches('"').to_owned());
        Self { found, etag, flat: false }
    }

    /// Of what has just been written, and is not in the catalog yet.
    pub fn untagged(found: Found) -> Self {
        Self { found, etag: None, flat: false }
    }
}

impl DavMetaData for Meta {
    fn len(&self) -> u64 {
        self.found.size
    }
    fn modified(&self) -> FsResult<SystemTime> {
        Ok(fields::http_time(self.found.attrs.mtime))
    }
    fn status_changed(&self) -> FsResult<SystemTime> {
        let Timespec { sec, nsec } = self.found.stamp.ctime;
        Ok(fields::http_time(Timespec { sec, nsec }))
    }
    fn executable(&self) -> FsResult<bool> {
        Ok(self.found.attrs.mode & 0o100 != 0)
    }
    fn etag(&self) -> Option<String> {
        self.etag.clone()
    }
    fn is_dir(&self) -> bool {
        self.found.kind == Kind::Directory && !self.flat
    }
    fn is_symlink(&self) -> bool {
        self.found.kind == Kind::Symlink && !self.flat
    }
}

/// A file being read by `dav-server` itself: a GET with an If field.
struct Reading {
    source: Arc<Source>,
    meta: Meta,
    at: u64,
}

impl Reading {
    fn new(file: File, meta: Meta) -> Self {
        let source = Arc::new(Source { file, stamp: meta.found.stamp });
        Self { source, meta, at: 0 }
    }
}

impl DavFile for Reading {
    fn metadata(&mut self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        Box::pin(std::future::ready(Ok(Box::new(self.meta.clone()) as Box<dyn DavMetaData>)))
    }
    /// `dav-server` asks for no more than there is, and would make up what is missing: a file that
    /// shrinks is an error here.
    fn read_bytes(&mut self, count: usize) -> FsFuture<'_, Bytes> {
        let (source, from) = (self.source.clone(), self.at);
        Box::pin(async move {
            let to = from + count as u64;
            let read = super::blocking(move || source.read(from, to)).await;
            let data = read.map_err(|_| FsError::GeneralFailure)?;
            self.at = to;
            data.map_err(|_| FsError::GeneralFailure)
        })
    }
    fn seek(&mut self, pos: SeekFrom) -> FsFuture<'_, u64> {
        let at = match pos {
            SeekFrom::Start(at) => Ok(at),
            SeekFrom::End(_) | SeekFrom::Current(_) => Err(FsError::NotImplemented),
        };
        self.at = *at.as_ref().unwrap_or(&self.at);
        Box::pin(std::future::ready(at))
    }
    fn write_buf(&mut self, _buf: Box<dyn Buf + Send>) -> FsFuture<'_, ()> {
        refuse(FsError::Forbidden)
    }
    fn write_bytes(&mut self, _buf: Bytes) -> FsFuture<'_, ()> {
        refuse(FsError::Forbidden)
    }
    fn flush(&mut self) -> FsFuture<'_, ()> {
        refuse(FsError::Forbidden)
    }
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("at", &self.at).finish_non_exhaustive()
    }
}
