//! Content for copies: whole files, each read between two looks, the first of which agrees with the catalog
//! and the second with the first, so that a file that changes while it is sent never arrives torn.

use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};

use super::{InLine, Result};
use crate::body::Body;
use crate::catalog::{Shelf, encode_xattrs};
use crate::id::{ObjectId, Version};
use crate::link::frames::{FrameReader, FrameSender, put_frame, sender};
use crate::link::share::{self, Content, ContentEnd, Supply, Want, Wants};
use crate::object::{Object, Stamp, Xattrs};
use crate::tree::content::{Extent, Extents};
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
                    biased;
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
            supply: supply as i32,
            ..Content::default()
        };
        let Ok(id) = ObjectId::try_from(&want.id[..]) else { return self.say(&none(Supply::Gone)) };
        let opened = match self.open_recorded(id, want) {
            Ok(Opened::Object(opened)) => *opened,
            Ok(Opened::Gone) => return self.say(&none(Supply::Gone)),
            Ok(Opened::Later) => return self.say(&none(Supply::Later)),
            Err(error) => {
                tracing::warn!(share = %self.of.shelf.share(), %id, %error, "content cannot be read");
                return self.say(&none(Supply::Later));
            }
        };
        let Found { version, xattrs, file } = opened;
        let head = Content { version: version.0, xattrs: xattrs.len() as u32, ..none(Supply::Whole) };
        let Some((stamp, mut file)) = file else {
            self.say(&head)?;
            self.pass(xattrs)?;
            return self.say(&ContentEnd { whole: true });
        };
        let mut extents = Extents::new(stamp.size);
        let mut next = extents.next(&mut file);
        let dense = matches!(next, Ok(Some(Extent { hole: 0, data })) if data == stamp.size);
        let sparse = want.holes && !dense && stamp.size > 0;
        self.say(&Content { size: stamp.size, sparse, ..head })?;
        self.pass(xattrs)?;
        let mut broken = false;
        if !sparse {
            broken |= file.seek(SeekFrom::Start(0)).is_err();
            self.data(&mut file, stamp.size, &mut broken)?;
            next = Ok(None);
        }
        let mut left = stamp.size;
        while sparse && left > 0 {
            // What was promised is sent in full, so that the stream stays in step; `whole` tells.
            let rest = Extent { hole: left, data: 0 };
            let Extent { hole, data } = match next {
                Ok(Some(extent)) => extent,
                Ok(None) | Err(_) => {
                    broken = true;
                    rest
                }
            };
            left -= hole + data;
            self.say(&share::Extent { hole, data })?;
            self.data(&mut file, data, &mut broken)?;
            next = extents.next(&mut file);
        }
        let whole = !broken && self.unchanged(&stamp, &file);
        self.say(&ContentEnd { whole })
    }

    /// So many bytes from where the file stands; zeros once it is `broken`, for they were promised.
    fn data(&mut self, file: &mut T::File, mut left: u64, broken: &mut bool) -> Result<(), Stopped> {
        while left > 0 {
            let len = left.min(PIECE as u64) as usize;
            left -= len as u64;
            if len <= PACKED {
                let from = self.packed.len();
                if from < HEADS {
                    self.packed.reserve(PACKED + len + HEADS);
                }
                self.packed.resize(from + len, 0);
                *broken = *broken || file.read_exact(&mut self.packed[from..]).is_err();
            } else {
                let mut piece = vec![0; len];
                *broken = *broken || file.read_exact(&mut piece).is_err();
                self.flush()?;
                self.send(Bytes::from(piece))?;
            }
        }
        Ok(())
    }

    /// Bytes that are at hand.
    fn pass(&mut self, bytes: Bytes) -> Result<(), Stopped> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.flush()?;
        self.send(bytes)
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

    /// Opens an object where the catalog has it, if the disk still agrees.
    fn open_recorded(&mut self, id: ObjectId, want: &Want) -> Result<Opened<T::File>> {
        let Supplier { shelf, tree, .. } = self.of;
        let (Some(object), Some(local)) = (shelf.object(id)?, shelf.local(id)?) else {
            return Ok(Opened::Gone);
        };
        if id == ObjectId::ROOT {
            let root = tree.root()?;
            let xattrs = tree.xattrs(Spot::Itself(&root))?;
            return Ok(Found::of(&object, want, None, xattrs));
        }
        let Some((parent, name)) = shelf.links(id)?.into_iter().next() else {
            return Ok(Opened::Later);
        };
        if self.dir.as_ref().is_none_or(|(known, _)| *known != parent) {
            self.dir = self.open_dir(parent)?.map(|dir| (parent, dir));
        }
        let Some((_, dir)) = &self.dir else { return Ok(Opened::Later) };
        let spot = Spot::Entry(dir, &name);
        if want.only {
            let xattrs = tree.xattrs(spot)?;
            if tree.look(spot)?.is_some_and(|found| found.handle == local.handle) {
                return Ok(Found::of(&object, want, None, xattrs));
            }
        } else if let Some(file) = tree.open_file(spot)? {
            let xattrs = if want.xattrs { tree.file_xattrs(&file)? } else { Xattrs::default() };
            let found = tree.file_found(&file)?;
            let agrees = found.handle == local.handle
                && found.stamp.size == object.size
                && found.stamp.mtime == local.stamp.mtime
                && local.version == object.version
                && object.version >= Version(1);
            if agrees {
                return Ok(Found::of(&object, want, Some((found.stamp, file)), xattrs));
            }
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
    Object(Box<Found<F>>),
    Gone,
    Later,
}

/// An object as the catalog has it.
struct Found<F> {
    version: Version,
    /// As they travel; empty if they were not asked for, or are in the object's row.
    xattrs: Bytes,
    /// What tells whether it changed since, and its content, if that was asked for.
    file: Option<(Stamp, F)>,
}

impl<F> Found<F> {
    fn of(object: &Object, want: &Want, file: Option<(Stamp, F)>, xattrs: Xattrs) -> Opened<F> {
        let apart = want.xattrs && object.xattrs.is_apart();
        if apart && object.xattrs.hash() != xattrs.hash() {
            return Opened::Later;
        }
        let xattrs = if apart { encode_xattrs(&xattrs).into() } else { Bytes::new() };
        Opened::Object(Box::new(Self { version: object.version, xattrs, file }))
    }
}

/// The copy is no longer listening, or takes nothing.
struct Stopped;
