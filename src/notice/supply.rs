//! Content for copies: whole files, each read between two looks that agree with the catalog, so that
//! a file that changes while it is sent never arrives torn.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};

use super::Result;
use crate::body::Body;
use crate::catalog::Shelf;
use crate::id::{ObjectId, Version};
use crate::link::frames::{FrameReader, FrameSender, sender};
use crate::link::share::{Content, ContentEnd, Supply, Want, Wants};
use crate::object::Object;
use crate::tree::{Place, Spot, Tree};
use crate::work;

/// Longest message of wants.
const WANTS_MAX: usize = 64 << 10;
/// One read of a file.
const PIECE: usize = 256 * 1024;

/// Answers a request for contents from this disk, at the primary or (for one that is to become it) at a copy.
pub fn content<T: Tree>(shelf: &Arc<Shelf>, tree: &Arc<T>, request: Request<Body>) -> Response<Body> {
    Arc::new(Supplier { shelf: shelf.clone(), tree: tree.clone() }).content(request)
}

struct Supplier<T> {
    shelf: Arc<Shelf>,
    tree: Arc<T>,
}

impl<T: Tree> Supplier<T> {
    fn content(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
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
                let supplier = self.clone();
                let answers = answers.clone();
                let sent = work::blocking(move || {
                    for want in &wants {
                        supplier.supply(want, &answers)?;
                    }
                    Ok::<(), Stopped>(())
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

    fn supply(&self, want: &Want, answers: &FrameSender) -> Result<(), Stopped> {
        let none = |supply: Supply| Content {
            id: want.id.clone(),
            version: want.version,
            size: 0,
            supply: supply as i32,
        };
        let Ok(id) = ObjectId::try_from(&want.id[..]) else {
            return work::block_on(answers.send(&none(Supply::Gone))).map_err(|_| Stopped);
        };
        let opened = self.open_recorded(id);
        let (object, mut file) = match opened {
            Ok(Opened::File(object, file)) => (object, file),
            Ok(Opened::Gone) => {
                return work::block_on(answers.send(&none(Supply::Gone))).map_err(|_| Stopped);
            }
            Ok(Opened::Later) => {
                return work::block_on(answers.send(&none(Supply::Later))).map_err(|_| Stopped);
            }
            Err(error) => {
                tracing::warn!(share = %self.shelf.share(), %id, %error, "content cannot be read");
                return work::block_on(answers.send(&none(Supply::Later))).map_err(|_| Stopped);
            }
        };
        let head = Content { version: object.version.0, size: object.size, ..none(Supply::Whole) };
        let mut left = object.size;
        let mut head = Some(head);
        let mut broken = false;
        while left > 0 || head.is_some() {
            let len = left.min(PIECE as u64) as usize;
            let mut piece = vec![0; len];
            let mut got = 0;
            while got < len && !broken {
                match file.read(&mut piece[got..]) {
                    Ok(0) | Err(_) => broken = true,
                    Ok(more) => got += more,
                }
            }
            left -= len as u64;
            // What was promised is sent in full, so that the stream stays in step; `whole` tells.
            work::block_on(async {
                if let Some(head) = head.take() {
                    answers.send(&head).await?;
                }
                if len > 0 { answers.send_bytes(Bytes::from(piece)).await } else { Ok(()) }
            })
            .map_err(|_| Stopped)?;
        }
        let whole = !broken && self.unchanged(&object, &file);
        work::block_on(answers.send(&ContentEnd { whole })).map_err(|_| Stopped)
    }

    /// Opens an object's file where the catalog has it, if the disk still agrees.
    fn open_recorded(&self, id: ObjectId) -> Result<Opened<T::File>> {
        let (Some(object), Some(local)) = (self.shelf.object(id)?, self.shelf.local(id)?) else {
            return Ok(Opened::Gone);
        };
        let Some((parent, name)) = self.shelf.links(id)?.into_iter().next() else {
            return Ok(Opened::Later);
        };
        let dir = if parent == ObjectId::ROOT {
            self.tree.root()?
        } else {
            let Some(local) = self.shelf.local(parent)? else { return Ok(Opened::Later) };
            let path = || self.shelf.path_of(parent).ok().flatten();
            match self.tree.open_dir(&Place { handle: &local.handle, path: &path })? {
                Some(dir) => dir,
                None => return Ok(Opened::Later),
            }
        };
        let Some(file) = self.tree.open_file(Spot::Entry(&dir, &name))? else {
            return Ok(Opened::Later);
        };
        let found = self.tree.file_found(&file)?;
        let agrees = found.handle == local.handle
            && found.stamp.size == object.size
            && found.stamp.mtime == local.stamp.mtime
            && local.version == object.version
            && object.version >= Version(1);
        Ok(if agrees { Opened::File(object, file) } else { Opened::Later })
    }

    fn unchanged(&self, object: &Object, file: &T::File) -> bool {
        let local = self.shelf.local(object.id).ok().flatten();
        let found = self.tree.file_found(file).ok();
        local.zip(found).is_some_and(|(local, found)| {
            found.stamp.size == object.size && found.stamp.mtime == local.stamp.mtime
        })
    }
}

enum Opened<F> {
    File(Object, F),
    Gone,
    Later,
}

/// The copy is no longer listening.
struct Stopped;
