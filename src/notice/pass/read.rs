//! Reads what was found at an entry, so that what is recorded was there at one time (R17).

use std::io::Read as _;

use bytes::Bytes;

use super::*;
use crate::tree::content::Hasher;

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
            Ok(Read::Unread) => {}
            Ok(Read::Seen(seen)) => {
                let kept_still = self.still.contains(&id);
                lock(self.restless).read(id, began, self.clock.boot(), kept_still);
                return Ok(Read::Seen(seen));
            }
            Err(error @ (NoticeError::Tree(TreeError::Io { .. }) | NoticeError::Read { .. })) => {
                // One bad block, or a name that changed hands meanwhile, must not stop the share.
                tracing::warn!(share = %self.shelf.share(), %error, "left as it was; trying again");
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
        let plain = |found: &Found| Seen {
            began,
            found: found.clone(),
            root: Hash::default(),
            target: Vec::new(),
            inline: None,
        };
        let Some(dir) = self.dir(parent)? else { return Ok(Read::Replaced) };
        match found.kind {
            Kind::File => {}
            Kind::Symlink => {
                let target = self.tree.read_link(Spot::Entry(&dir, name))?;
                let again = self.tree.look(Spot::Entry(&dir, name))?;
                let same = again.is_some_and(|again| again.handle == found.handle);
                return Ok(match same {
                    true => Read::seen(Seen { target, ..plain(found) }),
                    false => Read::Replaced,
                });
            }
            _ => return Ok(Read::seen(plain(found))),
        }
        for _ in 0..TRIES {
            let Some(mut file) = self.tree.open_file(Spot::Entry(&dir, name))? else {
                return Ok(Read::Replaced);
            };
            let before = self.tree.file_found(&file)?;
            if before.handle != found.handle {
                return Ok(Read::Replaced);
            }
            let mut hasher = Hasher::new();
            let mut inline = (before.size <= INLINE_MAX).then(Vec::new);
            let mut size = 0;
            // A byte more than it has tells that it grew.
            let len = usize::try_from(before.size + 1).unwrap_or(READ_LEN).min(READ_LEN);
            if self.buffer.len() < len {
                self.buffer.resize(len, 0);
            }
            loop {
                let len = file
                    .read(&mut self.buffer)
                    .map_err(|source| NoticeError::Read { what: name.to_string(), source })?;
                if len == 0 {
                    break;
                }
                hasher.update(&self.buffer[..len]);
                if let Some(inline) = &mut inline {
                    inline.extend_from_slice(&self.buffer[..len]);
                }
                self.tally.bytes += len as u64;
                size += len as u64;
                // It grows, and whoever writes may be as fast as we are; or this was the last of it.
                if size > before.size || (size == before.size && len < self.buffer.len()) {
                    break;
                }
            }
            let content = hasher.finish();
            let after = self.tree.file_stamp(&file)?;
            if after == before.stamp && content.size == after.size {
                self.tally.files += 1;
                let inline = inline.map(Bytes::from);
                return Ok(Read::seen(Seen { root: content.root, inline, ..plain(&before) }));
            }
        }
        Ok(Read::Unread)
    }
}
