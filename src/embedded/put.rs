//! Receiving a file: what arrives is written in batches on the blocking pool, one batch behind what
//! is being received, and put in its place when all of it has come.

use std::io::SeekFrom;

use bytes::{Buf, Bytes};
use dav_server::fs::{DavFile, DavMetaData, FsError, FsFuture};
use tokio::task::JoinHandle;

use super::davfs::{Meta, fs_error};
use crate::tree::TreeError;
use crate::tree::write::Upload;

/// Bytes collected before they are written. A PUT holds at most two batches.
const BATCH: usize = 512 << 10;

type Written = (Upload, Result<(), TreeError>);

/// A PUT's file. Dropped before it was flushed, it leaves the old file as it was.
pub(super) struct Put {
    state: State,
    batch: Vec<Bytes>,
    batched: usize,
    /// What the client said it would send.
    expected: Option<u64>,
}

enum State {
    Idle(Upload),
    Writing(JoinHandle<Written>),
    /// In its place.
    Done(Meta),
    /// Failed, and said so.
    Broken,
}

impl Put {
    pub fn new(upload: Upload, expected: Option<u64>) -> Self {
        Self { state: State::Idle(upload), batch: Vec::new(), batched: 0, expected }
    }

    /// Waits for the batch that is being written.
    async fn idle(&mut self) -> Result<Upload, FsError> {
        match std::mem::replace(&mut self.state, State::Broken) {
            State::Idle(upload) => Ok(upload),
            State::Writing(writing) => {
                let (upload, written) = writing.await.map_err(|_| FsError::GeneralFailure)?;
                match written {
                    Ok(()) => Ok(upload),
                    Err(error) => {
                        discard(upload);
                        Err(fs_error(&error))
                    }
                }
            }
            State::Done(_) | State::Broken => Err(FsError::GeneralFailure),
        }
    }

    async fn push(&mut self, data: Bytes) -> Result<(), FsError> {
        self.batched += data.len();
        self.batch.push(data);
        if self.batched < BATCH {
            return Ok(());
        }
        let mut upload = self.idle().await?;
        let batch = std::mem::take(&mut self.batch);
        self.batched = 0;
        self.state = State::Writing(tokio::task::spawn_blocking(move || {
            let written = upload.write(&batch);
            (upload, written)
        }));
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), FsError> {
        let mut upload = self.idle().await?;
        let (batch, expected) = (std::mem::take(&mut self.batch), self.expected);
        let place = move || {
            upload.write(&batch)?;
            // A body that is shorter or longer than was said is not the file that was meant.
            if expected.is_some_and(|expected| expected != upload.written()) {
                return Ok(None);
            }
            upload.commit().map(Some)
        };
        let placed = tokio::task::spawn_blocking(place).await;
        match placed.map_err(|_| FsError::GeneralFailure)?.map_err(|error| fs_error(&error))? {
            Some(found) => {
                self.state = State::Done(Meta::untagged(found));
                Ok(())
            }
            // dav-server compares the lengths itself, and answers 400.
            None => Ok(()),
        }
    }
}

impl DavFile for Put {
    fn metadata(&mut self) -> FsFuture<'_, Box<dyn DavMetaData>> {
        let meta = match &self.state {
            State::Done(meta) => Ok(Box::new(meta.clone()) as Box<dyn DavMetaData>),
            _ => Err(FsError::GeneralFailure),
        };
        Box::pin(std::future::ready(meta))
    }
    fn write_buf(&mut self, mut buf: Box<dyn Buf + Send>) -> FsFuture<'_, ()> {
        let data = buf.copy_to_bytes(buf.remaining());
        Box::pin(self.push(data))
    }
    fn write_bytes(&mut self, buf: Bytes) -> FsFuture<'_, ()> {
        Box::pin(self.push(buf))
    }
    fn read_bytes(&mut self, _count: usize) -> FsFuture<'_, Bytes> {
        Box::pin(std::future::ready(Err(FsError::Forbidden)))
    }
    /// A PUT writes a whole file, from its beginning.
    fn seek(&mut self, _pos: SeekFrom) -> FsFuture<'_, u64> {
        Box::pin(std::future::ready(Err(FsError::Forbidden)))
    }
    fn flush(&mut self) -> FsFuture<'_, ()> {
        Box::pin(self.finish())
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        // One that is being written is dropped where it is written.
        if let State::Idle(upload) = std::mem::replace(&mut self.state, State::Broken) {
            discard(upload);
        }
    }
}

/// Deletes an unfinished upload, off the threads that must not wait for the disk if there are others.
fn discard(upload: Upload) {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(upload))),
        Err(_) => drop(upload),
    }
}

impl std::fmt::Debug for Put {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Put").field("batched", &self.batched).finish_non_exhaustive()
    }
}
