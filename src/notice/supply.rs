//! Content for copies: whole files, each read between two looks, the first of which agrees with the catalog
//! and the second with the first, so that a file that changes while it is sent never arrives torn.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};

use super::{InLine, Result};
use crate::body::Body;
use crate::catalog::Shelf;
use crate::id::{ObjectId, Version};
use crate::link::frames::{FrameReader, FrameSender, put_frame, sender};
use crate::link::share::{Content, ContentEnd, Supply, Want, Wants};
use crate::object::Stamp;
use crate::tree::{Place, Spot, Tree};
use crate::work;

/// Longest message of wants.
const WANTS_MAX: usize = 64 << 10;
/// One read of a file.
const PIECE: usize = 256 * 1024;
/// What is no larger goes along with what is before and behind it: a frame for each would cost more than the
/// content of a small file.
const PACKED: usize = 64 * 1024;
/// A reader that takes not one piece in this time keeps no thread any longer: three lanes of a line of
/// 64 kbit/s take one in 98 s.
const STALLED: Duration = Duration::from_secs(300);
/// Room for what is said before the first content of a pack and behind the last.
const HEADS: usize = 1024;

/// Answers a request for contents from this disk, at the primary or (for one that is to become it) at a copy.
pub fn content<T: Tree>(
    shelf: &Arc<Shelf>,
    tree: &Arc<T>,
    line: InLine,
    request: Request<Body>,
) -> Response<Body> {
    content_within(shelf, tree, line, request, STALLED)
}

/// As [`content`]; whoever takes nothing for so long is answered no further.
pub(super) fn content_within<T: Tree>(
    shelf: &Arc<Shelf>,
    tree: &Arc<T>,
    line: InLine,
    request: Request<Body>,
    stalled: Duration,
) -> Response<Body> {
    let supplier = Supplier { shelf: shelf.clone(), tree: tree.clone(), stalled };
    Arc::new(supplier).content(line, request)
}

struct Supplier<T> {
    shelf: Arc<Shelf>,
    tree: Arc<T>,
    stalled: Duration,
}

impl<T: Tree> Supplier<T> {
    fn content(self: Arc<Self>, line: InLine, request: Request<Body>) -> Response<Body> {
        let (answers, body) = sender(WANTS_MAX);
        let answers = Arc::new(answers);
        let mut asked = FrameReader::new(request.into_body());
        work::spawn(async move {
            loop {
                let wants = match asked.next::<Wants>(WANTS_MAX).await {
                    Ok(Some(Wants { wants })) => wants,
                    Ok(None) => break,
                    Err(_) => return,
                };
                let turn = tokio::select! {
                    turn = line.turn() => turn,
                    () = answers.closed() => return,
                };
                let supplier = self.clone();
                let answers = answers.clone();
                let sent = work::blocking(move || {
                    let _turn = turn;
                    supplier.supply(&wants, &answers)
                });
                if !matches!(sent.await, Ok(Ok(()))) {
                    return;
                }
            }
            if let Some(answers) = Arc::into_inner(answers) {
                // The reader has gone: nobody to tell.
                let _ = answers.finish().await;
            }
        });
        Response::new(body)
    }

    fn supply(&self, wants: &[Want], answers: &FrameSender) -> Result<(), Stopped> {
        let mut answer = Answer { of: self, answers, packed: BytesMut::new(), dir: None };
        for want in wants {
            answer.supply(want)?;
        }
        answer.flush()
    }
}

/// What some wants are answered.
struct Answer<'a, T: Tree> {
    of: &'a Supplier<T>,
    answers: &'a FrameSender,
    /// What goes together: a small content is no frame of its own.
    packed: BytesMut,
    /// The last one, in which the next content is as well more often than not.
    dir: Option<(ObjectId, T::Dir)>,
}

impl<T: Tree> Answer<'_, T> {
    fn supply(&mut self, want: &Want) -> Result<(), Stopped> {
        let none = |supply: Supply| Content {
            id: want.id.clone(),
            version: want.version,
            size: 0,
            supply: supply as i32,
        };
        let Ok(id) = ObjectId::try_from(&want.id[..]) else { return self.say(&none(Supply::Gone)) };
        let (version, stamp, mut file) = match self.open_recorded(id) {
            Ok(Opened::File(version, stamp, file)) => (version, stamp, file),
            Ok(Opened::Gone) => return self.say(&none(Supply::Gone)),
            Ok(Opened::Later) => return self.say(&none(Supply::Later)),
            Err(error) => {
                tracing::warn!(share = %self.of.shelf.share(), %id, %error, "content cannot be read");
                return self.say(&none(Supply::Later));
            }
        };
        self.say(&Content { version: version.0, size: stamp.size, ..none(Supply::Whole) })?;
        let mut left = stamp.size;
        let mut broken = false;
        while left > 0 {
            let len = left.min(PIECE as u64) as usize;
            left -= len as u64;
            // What was promised is sent in full, so that the stream stays in step; `whole` tells.
            if len <= PACKED {
                let from = self.packed.len();
                if from < HEADS {
                    self.packed.reserve(PACKED + len + HEADS);
                }
                self.packed.resize(from + len, 0);
                broken = broken || file.read_exact(&mut self.packed[from..]).is_err();
            } else {
                let mut piece = vec![0; len];
                broken = broken || file.read_exact(&mut piece).is_err();
                self.flush()?;
                self.send(Bytes::from(piece))?;
            }
        }
        let whole = !broken && self.unchanged(&stamp, &file);
        self.say(&ContentEnd { whole })
    }

    fn say<M: prost::Message>(&mut self, message: &M) -> Result<(), Stopped> {
        put_frame(&mut self.packed, message, WANTS_MAX).map_err(|_| Stopped)?;
        if self.packed.len() >= PACKED { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), Stopped> {
        let packed = self.packed.split().freeze();
        self.send(packed)
    }

    fn send(&self, bytes: Bytes) -> Result<(), Stopped> {
        let sent = tokio::time::timeout(self.of.stalled, self.answers.send_bytes(bytes));
        match work::block_on(sent) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Stopped),
        }
    }

    /// Opens an object's file where the catalog has it, if the disk still agrees.
    fn open_recorded(&mut self, id: ObjectId) -> Result<Opened<T::File>> {
        let Supplier { shelf, tree, .. } = self.of;
        let (Some(object), Some(local)) = (shelf.object(id)?, shelf.local(id)?) else {
            return Ok(Opened::Gone);
        };
        let Some((parent, name)) = shelf.links(id)?.into_iter().next() else {
            return Ok(Opened::Later);
        };
        if self.dir.as_ref().is_none_or(|(known, _)| *known != parent) {
            self.dir = self.open_dir(parent)?.map(|dir| (parent, dir));
        }
        let Some((_, dir)) = &self.dir else { return Ok(Opened::Later) };
        let Some(file) = tree.open_file(Spot::Entry(dir, &name))? else {
            self.dir = None;
            return Ok(Opened::Later);
        };
        let found = tree.file_found(&file)?;
        let agrees = found.handle == local.handle
            && found.stamp.size == object.size
            && found.stamp.mtime == local.stamp.mtime
            && local.version == object.version
            && object.version >= Version(1);
        if agrees {
            return Ok(Opened::File(object.version, found.stamp, file));
        }
        // Another directory may have its place by now.
        self.dir = None;
        Ok(Opened::Later)
    }

    fn open_dir(&self, id: ObjectId) -> Result<Option<T::Dir>> {
        let Supplier { shelf, tree, .. } = self.of;
        if id == ObjectId::ROOT {
            return Ok(Some(tree.root()?));
        }
        let Some(local) = shelf.local(id)? else { return Ok(None) };
        let path = || shelf.path_of(id).ok().flatten();
        Ok(tree.open_dir(&Place { handle: &local.handle, path: &path })?)
    }

    fn unchanged(&self, before: &Stamp, file: &T::File) -> bool {
        let after = self.of.tree.file_stamp(file);
        after.is_ok_and(|after| after.size == before.size && after.mtime == before.mtime)
    }
}

enum Opened<F> {
    /// Its version, and what tells whether it changed since.
    File(Version, Stamp, F),
    Gone,
    Later,
}

/// The copy is no longer listening, or takes nothing.
struct Stopped;
