//! Reads what was found at an entry, so that what is recorded was there at one time (R17).

use std::io::{self, Read as _};

use bytes::Bytes;

use super::*;
use crate::object::Extra;
use crate::tree::Content;
use crate::tree::content::{Extent, Extents, Hasher};

/// Content up to this size travels inside the journal's stream: one round trip less.
const INLINE_MAX: u64 = 4096;
/// One read of a file.
const READ_LEN: usize = 256 * 1024;
/// A file that changes while it is read is read so often.
const TRIES: usize = 3;

/// What came of reading an entry.
pub(super) enum Read {
    Seen(Box<Seen>),
    /// Left as it was, and unsettled: the disk would not give it, or it would not hold still.
    Unread,
    /// Something else is there by now, or nothing.
    Replaced,
}

impl Read {
    fn seen(seen: Seen) -> Self {
        Self::Seen(Box::new(seen))
    }
}

/// One entry as it was read.
pub(super) struct Seen {
    /// Before the read.
    pub began: WallTime,
    pub found: Found,
    pub xattrs: Extra,
    pub root: Hash,
    pub target: Vec<u8>,
    /// The whole content of a small file.
    pub inline: Option<Bytes>,
}

impl<T: Tree> Pass<'_, T> {
    /// Reads what was found.
    pub(super) fn read(
        &mut self,
        parent: ObjectId,
        name: &Name,
        id: ObjectId,
        found: &Found,
    ) -> Result<Read> {
        let began = self.clock.boot();
        if !self.impatient && lock(self.restless).rests(id, began) {
            self.leave_unread(parent, name);
            return Ok(Read::Unread);
        }
        match self.read_entry(parent, name, found) {
            Ok(Read::Unread) => self.note_unread(parent, name, Why::Restless, false),
            Ok(Read::Seen(seen)) => {
                let kept_still = self.still.contains(&id);
                lock(self.restless).read(id, began, self.clock.boot(), kept_still);
                return Ok(Read::Seen(seen));
            }
            Err(error @ (NoticeError::Tree(TreeError::Io { .. }) | NoticeError::Read { .. })) => {
                // One bad block, or a name that changed hands meanwhile, must not stop the share.
                if lock(self.restless).is_new(id) {
                    tracing::warn!(share = %self.shelf.share(), %error, "left as it was; trying again");
                }
                let why = match &error {
                    NoticeError::Tree(error) => Why::of(error),
                    other => Why::Refused(other.to_string()),
                };
                self.note_unread(parent, name, why, false);
            }
            other => return other,
        }
        lock(self.restless).unread(id, (parent, name.clone()), began, self.clock.boot());
        self.leave_unread(parent, name);
        Ok(Read::Unread)
    }

    /// Reads an entry's content between two looks that agree (R17).
    fn read_entry(&mut self, parent: ObjectId, name: &Name, found: &Found) -> Result<Read> {
        let began = self.clock.wall();
        let plain = |found: &Found, xattrs: Xattrs| Seen {
            began,
            found: found.clone(),
            xattrs: xattrs.into(),
            root: Hash::default(),
            target: Vec::new(),
            inline: None,
        };
        let Some(dir) = self.dir(parent)? else { return Ok(Read::Replaced) };
        let spot = Spot::Entry(&*dir, name);
        if found.kind != Kind::File {
            let target = match found.kind {
                Kind::Symlink => self.tree.read_link(spot)?,
                _ => Vec::new(),
            };
            let xattrs = self.tree.xattrs(spot)?;
            let again = self.tree.look(spot)?.filter(|again| again.handle == found.handle);
            return Ok(match again {
                // Entries come and go in a directory; its own row is taken once more at the end of the pass.
                Some(again) if again.stamp == found.stamp || found.kind == Kind::Directory => {
                    Read::seen(Seen { target, ..plain(found, xattrs) })
                }
                _ => Read::Replaced,
            });
        }
        for _ in 0..TRIES {
            let Some(mut file) = self.tree.open_file(spot)? else {
                return Ok(Read::Replaced);
            };
            let before = self.tree.file_found(&file)?;
            if before.handle != found.handle {
                return Ok(Read::Replaced);
            }
            // Before the content, which is read for nothing if there are too many of them.
            let xattrs = self.tree.file_xattrs(&file)?;
            let (content, inline) = self
                .read_file(&mut file, before.size)
                .map_err(|source| NoticeError::Read { what: name.to_string(), source })?;
            let after = self.tree.file_stamp(&file)?;
            if after == before.stamp && content.size == after.size {
                self.tally.files += 1;
                let inline = inline.map(Bytes::from);
                return Ok(Read::seen(Seen { root: content.root, inline, ..plain(&before, xattrs) }));
            }
        }
        Ok(Read::Unread)
    }

    /// Reads so many bytes, and no holes; less if there is less. That it has grown the stamps tell.
    fn read_file(&mut self, file: &mut T::File, size: u64) -> io::Result<(Content, Option<Vec<u8>>)> {
        let mut hasher = Hasher::new();
        let mut inline = (size <= INLINE_MAX).then(Vec::new);
        let room = usize::try_from(size).unwrap_or(READ_LEN).min(READ_LEN);
        if self.buffer.len() < room {
            self.buffer.resize(room, 0);
        }
        let mut extents = Extents::new(size);
        while let Some(Extent { hole, data }) = extents.next(file)? {
            hasher.zeros(hole);
            // What has a hole comes with it.
            inline.take_if(|_| hole > 0);
            let mut left = data;
            while left > 0 {
                let room = room.min(usize::try_from(left).unwrap_or(READ_LEN));
                let len = match file.read(&mut self.buffer[..room]) {
                    Ok(0) => return Ok((hasher.finish(), None)),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read?,
                };
                hasher.update(&self.buffer[..len]);
                if let Some(inline) = &mut inline {
                    inline.extend_from_slice(&self.buffer[..len]);
                }
                self.tally.bytes += len as u64;
                left -= len as u64;
            }
        }
        Ok((hasher.finish(), inline))
    }
}
