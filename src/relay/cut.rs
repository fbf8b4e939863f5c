//! What runs at a site. Running answers of files that a server is about to write into: one body never mixes
//! two versions (R22). Running changes, which are seen through even if who asked for them has gone, and so
//! must not be without number.
//!
//! Servers put a new content beside the old one and rename it in, and whoever reads the old one goes on. Not
//! so COPY onto a file that is there, and what we do not know: those cut the answers that run before they go
//! to the server. What is written by another name of the file, or behind the proxy, is noticed
//! later (see `steady`).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body as _, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::body::{Body, BoxError};
use crate::effect::{Change, Reach};
use crate::id::{RelPath, ShareId};

/// Changes under way at a site, of clients and of other sites together: as many as requests with its
/// server, for those that wait for each other's names.
pub const CHANGES_MAX: usize = 1024;

/// What runs at one site: the answers that may have to be cut, and how many changes there are.
pub struct Running {
    answers: Mutex<HashMap<u64, Answer>>,
    next: AtomicU64,
    changes: Arc<Semaphore>,
}

impl Default for Running {
    fn default() -> Self {
        let changes = Arc::new(Semaphore::new(CHANGES_MAX));
        Self { answers: Mutex::default(), next: AtomicU64::new(0), changes }
    }
}

struct Answer {
    share: ShareId,
    path: RelPath,
    knife: Arc<Knife>,
}

#[derive(Default)]
struct Knife {
    cut: AtomicBool,
    waker: AtomicWaker,
}

impl Running {
    fn answers(&self) -> MutexGuard<'_, HashMap<u64, Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more change, to be kept until it has ended. `None`: there are [`CHANGES_MAX`].
    pub fn change(&self) -> Option<OwnedSemaphorePermit> {
        self.changes.clone().try_acquire_owned().ok()
    }

    /// Before the server is asked for the file at a path: from here on its answer is cut when that is
    /// written into.
    pub fn watch(self: &Arc<Self>, share: &ShareId, path: &RelPath) -> Watch {
        let knife = Arc::new(Knife::default());
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let answer = Answer { share: share.clone(), path: path.clone(), knife: knife.clone() };
        self.answers().insert(number, answer);
        Watch { knife, number, running: self.clone() }
    }

    /// Ends every answer that shows what is about to be written into.
    pub fn cut(&self, share: &ShareId, change: &Change) {
        for answer in self.answers().values().filter(|answer| answer.share == *share) {
            let path = answer.path.names();
            let hit = change.targets.iter().any(|target| match target.reach {
                Reach::Entry => path == target.path.names(),
                Reach::Below => path.starts_with(target.path.names()),
            });
            if hit {
                answer.knife.cut.store(true, Ordering::Release);
                answer.knife.waker.wake();
            }
        }
    }
}

/// An answer that may have to be cut, for as long as this is kept.
pub struct Watch {
    knife: Arc<Knife>,
    number: u64,
    running: Arc<Running>,
}

impl Watch {
    /// What the server answered may be of two versions.
    pub fn is_cut(&self) -> bool {
        self.knife.cut.load(Ordering::Acquire)
    }

    pub fn over(self, body: Body) -> Body {
        if body.is_end_stream() { body } else { Body::boxed(Watched { body, watch: self }) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.running.answers().remove(&self.number);
    }
}

struct Watched {
    body: Body,
    watch: Watch,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.watch.knife.waker.register(cx.waker());
        // After the frame has come: nothing that was read since the cut is handed on.
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if self.watch.is_cut() {
            return Poll::Ready(Some(Err("the file is being written".into())));
        }
        frame
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::effect::Target;

    fn path(text: &str) -> RelPath {
        text.split('/')
            .fold(RelPath::ROOT, |path, name| path.join(crate::id::Name::new(name.as_bytes()).unwrap()))
    }

    #[tokio::test]
    async fn what_is_written_into_is_cut_and_nothing_else() {
        let running = Arc::new(Running::default());
        let share: ShareId = "eng".parse().unwrap();
        let other: ShareId = "caf".parse().unwrap();
        let body = || Body::Full(Bytes::from_static(b"old"));
        let watch = |share: &ShareId, at: &str| running.watch(share, &path(at)).over(body());
        // The server has been asked, and its answer is on its way.
        let asked = running.watch(&share, &path("d/f"));
        let mut inside = watch(&share, "d/f");
        let mut beside = watch(&share, "d2/f");
        let mut elsewhere = watch(&other, "d/f");
        let targets = vec![Target { path: path("d"), reach: Reach::Below }];
        running.cut(&share, &Change { share: share.clone(), targets });
        assert!(inside.frame().await.unwrap().is_err());
        assert!(asked.is_cut() && asked.over(body()).frame().await.unwrap().is_err());
        for whole in [&mut beside, &mut elsewhere] {
            assert_eq!(whole.frame().await.unwrap().unwrap().into_data().unwrap(), "old");
        }
        // One that begins now is of what is there now.
        assert!(watch(&share, "d/f").frame().await.unwrap().is_ok());
        drop((inside, beside, elsewhere));
        assert!(running.answers().is_empty());
        assert!(running.watch(&share, &path("d")).over(Body::Empty).is_end_stream());
    }
}
