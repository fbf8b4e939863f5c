//! Open files and stages of a [`Model`].

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;

use super::Model;
use crate::tree::TreeError;
use crate::tree::content::Sparse;

/// An open file reads what the file holds at that moment.
pub struct ModelFile {
    pub(super) model: Model,
    pub(super) inode: u64,
    pub(super) at: u64,
}

pub struct ModelStage {
    pub(super) model: Model,
    pub(super) inode: u64,
}

impl Read for ModelFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let state = self.model.lock();
        let before = state.on_read.clone();
        let path = before.as_ref().and_then(|_| state.path_of(self.inode));
        drop(state);
        if let Some((before, path)) = before.zip(path) {
            before(&path.to_string())?;
        }
        let state = self.model.lock();
        let data = &state.inodes[&self.inode].data;
        let from = usize::try_from(self.at).unwrap().min(data.len());
        let count = out.len().min(data.len() - from);
        out[..count].copy_from_slice(&data[from..from + count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for ModelFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let end = self.model.lock().inodes[&self.inode].data.len() as u64;
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(offset) => end.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.at.checked_add_signed(offset),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Sparse for ModelFile {
    fn data_from(&mut self, at: u64) -> io::Result<Option<Range<u64>>> {
        let state = self.model.lock();
        let row = &state.inodes[&self.inode];
        let size = row.data.len() as u64;
        let mut start = at;
        while let Some(hole) = row.holes.iter().find(|hole| hole.contains(&start)) {
            start = hole.end;
        }
        let end = row.holes.iter().map(|hole| hole.start).filter(|hole| *hole > start).min();
        Ok((start < size).then(|| start..end.unwrap_or(size)))
    }
}

pub(super) fn into_io(error: TreeError) -> io::Error {
    match error {
        TreeError::Io { source, .. } => source,
        error => io::Error::other(error.to_string()),
    }
}

impl Write for ModelStage {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let wrote = self.model.run("write", "in the model", |state| {
            state.room()?;
            let now = state.tick();
            let row = state.row(self.inode);
            row.data.extend_from_slice(data);
            (row.attrs.mtime, row.ctime) = (now, now);
            Ok(data.len())
        });
        wrote.map_err(into_io)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
