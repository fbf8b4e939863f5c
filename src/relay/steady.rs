//! An answer whose file is written into behind the proxy, or by another name of it, is cut when that is noticed:
//! one body never mixes two versions (R22). Whoever writes through a memory map is noticed late, for the file's
//! times change late.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};

use super::seam::Fence;
use crate::body::{Body, BoxError};
use crate::id::RelPath;
use crate::object::Found;
use crate::wire::http::etag::Tag;

/// A server has read a body of at most so much when its first bytes come: the look at its head's arrival was for all
/// of it.
const AT_ONCE: u64 = 64 << 10;
/// Between two looks; the last is made when the last byte is here.
const LOOK_EVERY: u64 = 4 << 20;

/// What a server reads from the file that was found at `path`. `tag`: which version that was, if it is known.
/// `moved`: the look at the answer's head found another.
pub fn watched(
    fence: &Arc<dyn Fence>,
    path: &RelPath,
    (found, tag): (Found, Option<Tag>),
    moved: bool,
    body: Body,
) -> Body {
    if !moved && body.size_hint().exact().is_some_and(|size| size <= AT_ONCE) {
        return body;
    }
    Body::boxed(Steady { body, fence: fence.clone(), path: path.clone(), found, tag, passed: 0 })
}

struct Steady {
    body: Body,
    fence: Arc<dyn Fence>,
    path: RelPath,
    found: Found,
    tag: Option<Tag>,
    /// Bytes since the last look.
    passed: u64,
}

impl Steady {
    /// Whether the file that the server has open is not as it was. What has taken its place is not that file.
    fn is_written(&self) -> bool {
        let Some(now) = self.fence.reaches(&self.path, true).1 else { return false };
        // If it was given another time only, the catalog soon knows that.
        is_written(&self.found, &now) && (self.tag.is_none() || self.fence.version(&now) != self.tag)
    }
}

fn is_written(before: &Found, now: &Found) -> bool {
    before.handle == now.handle
        && (before.stamp.size, before.stamp.mtime) != (now.stamp.size, now.stamp.mtime)
}

impl http_body::Body for Steady {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let data = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.data_ref().map_or(0, Bytes::len) as u64,
            Poll::Ready(None) => 0,
            Poll::Pending | Poll::Ready(Some(Err(_))) => return polled,
        };
        self.passed += data;
        // After the frame has come: what was written before it was read shows now.
        // Of a chunked body only this call tells that it is over.
        let over = matches!(polled, Poll::Ready(None)) || self.body.is_end_stream();
        if self.passed >= LOOK_EVERY || over {
            self.passed = 0;
            if self.is_written() {
                tracing::info!(path = %self.path, "an answer is cut: its file is written while it is sent");
                return Poll::Ready(Some(Err("the file is being written".into())));
            }
        }
        polled
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
    use super::*;
    use crate::object::{Attrs, Kind, LocalHandle, Stamp, Timespec};

    fn found(handle: &[u8], size: u64, mtime: i64, ctime: i64) -> Found {
        let time = |sec| Timespec { sec, nsec: 0 };
        Found {
            handle: LocalHandle::from_bytes(handle),
            kind: Kind::File,
            attrs: Attrs { mode: 0o644, uid: 0, gid: 0, mtime: time(mtime) },
            size,
            rdev: 0,
            nlink: 1,
            stamp: Stamp { size, mtime: time(mtime), ctime: time(ctime) },
        }
    }

    #[test]
    fn only_what_is_written_in_place_is_cut() {
        let before = found(b"a", 9, 5, 5);
        for (now, written) in [
            (found(b"a", 9, 5, 5), false),
            // Its mode or a name of it.
            (found(b"a", 9, 5, 6), false),
            (found(b"a", 9, 6, 6), true),
            (found(b"a", 8, 5, 6), true),
            // Another file took its place: the server goes on with the one that it has open.
            (found(b"b", 8, 6, 6), false),
        ] {
            assert_eq!(is_written(&before, &now), written, "{now:?}");
        }
    }
}
