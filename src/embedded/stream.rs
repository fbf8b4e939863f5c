//! The body of an answer that comes from a file, read ahead by one piece on the blocking pool.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::MetadataExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use rustix::io::ReadWriteFlags;
use tokio::task::JoinHandle;

use crate::body::BoxError;
use crate::object::Stamp;

/// Bytes read at once. A body holds at most two pieces: the one being sent and the next one.
pub const PIECE: u64 = 256 << 10;

/// What is sent, in order.
pub enum Part {
    Text(Bytes),
    /// Bytes of the file, from (inclusive) and to (exclusive).
    Range(u64, u64),
}

/// Parts of one version of a file. If the file changes or shrinks while it is read, the body breaks
/// off: no answer mixes two versions (R22).
pub struct FileBody {
    source: Arc<Source>,
    parts: VecDeque<Part>,
    reading: Option<JoinHandle<io::Result<Bytes>>>,
    /// Bytes still to be sent.
    left: u64,
}

/// An open file and what it looked like when the answer was begun.
pub struct Source {
    pub file: File,
    pub stamp: Stamp,
}

impl Source {
    /// Reads from (inclusive) and to (exclusive); fails if the file is no longer what it was.
    pub fn read(&self, from: u64, to: u64) -> io::Result<Bytes> {
        // Never more than a piece: the caller's limit, not the client's.
        let mut data = Vec::with_capacity(usize::try_from(to - from).unwrap_or(usize::MAX));
        let mut at = from;
        while at < to {
            let read = rustix::io::pread(&self.file, rustix::buffer::spare_capacity(&mut data), at)?;
            if read == 0 {
                return Err(changed());
            }
            at += read as u64;
        }
        data.truncate(usize::try_from(to - from).unwrap_or(usize::MAX));
        self.unchanged(data)
    }

    /// As [`Source::read`], but only if all of it is in the page cache.
    pub fn read_cached(&self, from: u64, to: u64) -> Option<Bytes> {
        let mut data = vec![0; usize::try_from(to - from).ok()?];
        let mut parts = [IoSliceMut::new(&mut data)];
        let read = rustix::io::preadv2(&self.file, &mut parts, from, ReadWriteFlags::NOWAIT);
        if read != Ok(data.len()) {
            return None;
        }
        self.unchanged(data).ok()
    }

    fn unchanged(&self, data: Vec<u8>) -> io::Result<Bytes> {
        let now = self.file.metadata()?;
        let was = (self.stamp.size, self.stamp.mtime.sec, i64::from(self.stamp.mtime.nsec));
        let is = (now.size(), now.mtime(), now.mtime_nsec());
        if is == was { Ok(Bytes::from(data)) } else { Err(changed()) }
    }
}

fn changed() -> io::Error {
    io::Error::other("the file changed while it was being sent")
}

impl FileBody {
    pub fn new(source: Source, parts: VecDeque<Part>) -> Self {
        let left = parts.iter().map(Part::len).sum();
        Self { source: Arc::new(source), parts, reading: None, left }
    }

    /// Begins to read the next piece, if the next part is of the file.
    fn read_ahead(&mut self) {
        if let Some(Part::Range(from, to)) = self.parts.front_mut() {
            let (start, end) = (*from, (*from + PIECE).min(*to));
            *from = end;
            if end == *to {
                self.parts.pop_front();
            }
            let source = self.source.clone();
            self.reading = Some(tokio::task::spawn_blocking(move || source.read(start, end)));
        }
    }
}

impl Part {
    pub fn len(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Range(from, to) => to - from,
        }
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.reading.is_none() {
            self.read_ahead();
        }
        let data = match &mut self.reading {
            Some(reading) => {
                let read = ready!(Pin::new(reading).poll(cx));
                self.reading = None;
                let data = read.map_err(io::Error::other)??;
                self.read_ahead();
                data
            }
            None => match self.parts.pop_front() {
                Some(Part::Text(text)) => text,
                // A range would have been read ahead.
                _ => return Poll::Ready(None),
            },
        };
        self.left = self.left.saturating_sub(data.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
