//! Protocol Buffers messages one after the other in an HTTP/2 body, with raw payload between them: each
//! message has its length in front (4 bytes, big endian), payload has none, for the message before it
//! said how long it is. Payload is never copied. Not here: what the messages are.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Frame;
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use crate::body::{Body, BoxError};

/// How many frames may wait in a body before [`FrameSender::send`] waits as well.
pub const FRAMES_QUEUED: usize = 16;
/// Bytes of the length in front of a message.
const PREFIX: usize = 4;

/// The other end of the body is gone: nobody reads it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendFrameError {
    #[error("the reader of the stream is gone")]
    Closed,
    #[error("a message is {len} bytes long, the stream's limit is {limit}")]
    TooLong { len: usize, limit: usize },
}

/// A stream of frames could not be read. The stream is of no use afterwards.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a message is said to be {len} bytes long, the limit is {limit}")]
    TooLong { len: usize, limit: usize },
    #[error("the stream ends within a message or its payload, {missing} bytes early")]
    Truncated { missing: u64 },
    #[error("a message is malformed: {0}")]
    Malformed(#[from] prost::DecodeError),
    #[error("{0} bytes of payload were not read before the next message")]
    Unread(u64),
    #[error("the stream broke off: {0}")]
    Broken(BoxError),
}

/// Makes a body that carries what is given to the sender. Messages longer than `limit` bytes are not
/// sent: it should be what the reader takes.
pub fn sender(limit: usize) -> (FrameSender, Body) {
    let (queue, waiting) = mpsc::channel(FRAMES_QUEUED);
    (FrameSender { queue, limit }, Body::boxed(FrameBody { waiting, finished: false }))
}

/// Writes frames. Must be [`finish`](Self::finish)ed: if it is just dropped, the reader gets an error
/// and not an end, so that a list that broke off is never taken for a short one.
pub struct FrameSender {
    queue: mpsc::Sender<Item>,
    limit: usize,
}

enum Item {
    Data(Bytes),
    End,
}

impl FrameSender {
    /// Sends one message; waits while [`FRAMES_QUEUED`] frames are unread.
    pub async fn send<M: prost::Message>(&self, message: &M) -> Result<(), SendFrameError> {
        self.put(frame(message, self.limit)?).await
    }
    /// Sends payload as it is, after the message that says how long it is.
    pub async fn send_bytes(&self, payload: Bytes) -> Result<(), SendFrameError> {
        if payload.is_empty() { Ok(()) } else { self.put(payload).await }
    }
    /// Ends the stream for good.
    pub async fn finish(self) -> Result<(), SendFrameError> {
        self.queue.send(Item::End).await.map_err(|_| SendFrameError::Closed)
    }
    /// Ready when the reader has gone away.
    pub async fn closed(&self) {
        self.queue.closed().await;
    }
    async fn put(&self, bytes: Bytes) -> Result<(), SendFrameError> {
        self.queue.send(Item::Data(bytes)).await.map_err(|_| SendFrameError::Closed)
    }
}

/// One message with its length in front.
pub fn frame<M: prost::Message>(message: &M, limit: usize) -> Result<Bytes, SendFrameError> {
    let mut bytes = BytesMut::with_capacity(PREFIX + message.encoded_len());
    put_frame(&mut bytes, message, limit)?;
    Ok(bytes.freeze())
}

/// The same behind what is there: several may go as one payload.
pub fn put_frame<M: prost::Message>(
    bytes: &mut BytesMut,
    message: &M,
    limit: usize,
) -> Result<(), SendFrameError> {
    let len = message.encoded_len();
    let Some(prefix) = u32::try_from(len).ok().filter(|_| len <= limit) else {
        return Err(SendFrameError::TooLong { len, limit });
    };
    bytes.reserve(PREFIX + len);
    bytes.put_u32(prefix);
    message.encode_raw(bytes);
    Ok(())
}

struct FrameBody {
    waiting: mpsc::Receiver<Item>,
    finished: bool,
}

impl http_body::Body for FrameBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.finished {
            return Poll::Ready(None);
        }
        this.waiting.poll_recv(cx).map(|item| match item {
            Some(Item::Data(bytes)) => Some(Ok(Frame::data(bytes))),
            Some(Item::End) => {
                this.finished = true;
                None
            }
            None => {
                this.finished = true;
                Some(Err("the writer of the stream is gone".into()))
            }
        })
    }
    fn is_end_stream(&self) -> bool {
        self.finished
    }
}

/// Reads frames from a body, no further ahead than the frame asked for.
pub struct FrameReader<B = Body> {
    body: B,
    frames: Deframer,
    /// Bytes of payload that were announced and not read yet.
    unread: u64,
}

impl<B> FrameReader<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub fn new(body: B) -> Self {
        Self { body, frames: Deframer::default(), unread: 0 }
    }
    /// The next message, of at most `max_len` bytes; `None` at the end of the stream.
    pub async fn next<M>(&mut self, max_len: usize) -> Result<Option<M>, FrameError>
    where
        M: prost::Message + Default,
    {
        if self.unread > 0 {
            return Err(FrameError::Unread(self.unread));
        }
        loop {
            if let Some(message) = self.frames.message(max_len)? {
                return Ok(Some(M::decode(message)?));
            }
            if !self.more().await? {
                return self.frames.end().map(|()| None);
            }
        }
    }
    /// The payload of `len` bytes that follows the last message. All of it must be read before the
    /// next message.
    pub fn raw(&mut self, len: u64) -> Raw<'_, B> {
        self.unread = len;
        Raw { reader: self }
    }
    /// Waits for more bytes; false at the end of the body.
    async fn more(&mut self) -> Result<bool, FrameError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|error| FrameError::Broken(error.into()))?;
            if let Ok(data) = frame.into_data()
                && !data.is_empty()
            {
                self.frames.push(data);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The payload after a message, as it arrives.
pub struct Raw<'a, B> {
    reader: &'a mut FrameReader<B>,
}

impl<B> Raw<'_, B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// The next slice, never empty; `None` once all of the payload has been given.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let reader = &mut *self.reader;
        if reader.unread == 0 {
            return Ok(None);
        }
        loop {
            if let Some(bytes) = reader.frames.payload(reader.unread) {
                reader.unread -= bytes.len() as u64;
                return Ok(Some(bytes));
            }
            if !reader.more().await? {
                return Err(FrameError::Truncated { missing: reader.unread });
            }
        }
    }
}

/// Finds messages in bytes that arrive in pieces; knows nothing of where they come from.
#[derive(Default)]
pub struct Deframer {
    pieces: VecDeque<Bytes>,
    /// Bytes in `pieces`.
    held: usize,
}

impl Deframer {
    pub fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.held += piece.len();
            self.pieces.push_back(piece);
        }
    }
    /// The next whole message; `None` if more bytes are needed.
    pub fn message(&mut self, max_len: usize) -> Result<Option<Bytes>, FrameError> {
        if self.held < PREFIX {
            return Ok(None);
        }
        let len = self.promised();
        if len > max_len {
            return Err(FrameError::TooLong { len, limit: max_len });
        }
        if self.held - PREFIX < len {
            return Ok(None);
        }
        self.take(PREFIX);
        Ok(Some(self.take(len)))
    }
    /// Whatever is there of a payload of `len` bytes, one piece at a time.
    pub fn payload(&mut self, len: u64) -> Option<Bytes> {
        let first = self.pieces.front()?.len();
        Some(self.take(usize::try_from(len).map_or(first, |len| len.min(first))))
    }
    /// Whether the bytes may end here: not within a message.
    pub fn end(&self) -> Result<(), FrameError> {
        match self.held {
            0 => Ok(()),
            held @ 1..PREFIX => Err(FrameError::Truncated { missing: (PREFIX - held) as u64 }),
            held => {
                let whole = PREFIX as u64 + self.promised() as u64;
                Err(FrameError::Truncated { missing: whole.saturating_sub(held as u64) })
            }
        }
    }
    /// The length in front, once [`PREFIX`] bytes are held.
    fn promised(&self) -> usize {
        self.pieces.iter().flatten().take(PREFIX).fold(0, |len, byte| len << 8 | usize::from(*byte))
    }
    /// The next `len` bytes, of which at least so many are held: a slice if one piece has them all.
    fn take(&mut self, len: usize) -> Bytes {
        self.held -= len;
        if let Some(first) = self.pieces.front_mut()
            && first.len() > len
        {
            return first.split_to(len);
        }
        if self.pieces.front().is_some_and(|first| first.len() == len) {
            return self.pieces.pop_front().unwrap_or_default();
        }
        let mut whole = BytesMut::with_capacity(len);
        while whole.len() < len
            && let Some(piece) = self.pieces.front_mut()
        {
            let part = piece.len().min(len - whole.len());
            whole.put_slice(&piece[..part]);
            piece.advance(part);
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
        whole.freeze()
    }
}

/// Reads `stream`, cut into pieces of `cut` bytes, as messages of at most `max_len` bytes. For the
/// property test and the fuzz target: how it is cut must not matter.
pub fn read_all(stream: &[u8], cut: usize, max_len: usize) -> Result<Vec<Bytes>, FrameError> {
    let mut frames = Deframer::default();
    let mut found = Vec::new();
    for piece in stream.chunks(cut.max(1)) {
        frames.push(Bytes::copy_from_slice(piece));
        while let Some(message) = frames.message(max_len)? {
            found.push(message);
        }
    }
    frames.end().map(|()| found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use proptest::prelude::*;

    #[derive(Clone, PartialEq, prost::Message)]
    struct Note {
        #[prost(bytes = "bytes", tag = "1")]
        text: Bytes,
        #[prost(uint64, tag = "2")]
        payload: u64,
    }

    type Pieces = Vec<Result<Frame<Bytes>, BoxError>>;

    fn reader(
        stream: &[u8],
        cut: usize,
    ) -> FrameReader<impl http_body::Body<Data = Bytes, Error = BoxError> + Unpin> {
        let pieces: Pieces =
            stream.chunks(cut).map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece)))).collect();
        FrameReader::new(StreamBody::new(futures_util::stream::iter(pieces)))
    }

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            notes in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..300), proptest::collection::vec(any::<u8>(), 0..300)),
                0..8,
            ),
            cut in 1usize..400,
        ) {
            let mut stream = Vec::new();
            for (text, payload) in &notes {
                let note = Note { text: text.clone().into(), payload: payload.len() as u64 };
                stream.extend_from_slice(&frame(&note, 1024).unwrap());
                stream.extend_from_slice(payload);
            }
            run(async {
                let mut reader = reader(&stream, cut);
                for (text, payload) in &notes {
                    let note: Note = reader.next(1024).await.unwrap().unwrap();
                    assert_eq!(note.text, text);
                    let (mut raw, mut got) = (reader.raw(note.payload), Vec::new());
                    while let Some(bytes) = raw.next().await.unwrap() {
                        assert!(!bytes.is_empty());
                        got.extend_from_slice(&bytes);
                    }
                    assert_eq!(&got, payload);
                }
                assert!(reader.next::<Note>(1024).await.unwrap().is_none());
            });
        }

        #[test]
        fn any_bytes_read_alike_however_they_are_cut(
            stream in proptest::collection::vec(prop_oneof![Just(0u8), 0u8..20, any::<u8>()], 0..200),
            cut in 1usize..50,
        ) {
            let (one, many) = (read_all(&stream, usize::MAX, 64), read_all(&stream, cut, 64));
            prop_assert_eq!(format!("{one:?}"), format!("{many:?}"));
        }

        #[test]
        fn a_stream_that_ends_early_is_an_error(text in ".{1,50}", cut in 1usize..20, missing in 1usize..50) {
            let note = Note { text: text.into_bytes().into(), payload: 0 };
            let whole = frame(&note, 1024).unwrap();
            let kept = whole.len().saturating_sub(missing).max(1);
            let result = run(reader(&whole[..kept], cut).next::<Note>(1024));
            let matches = matches!(result, Err(FrameError::Truncated { .. }));
            prop_assert!(matches);
        }
    }

    #[test]
    fn a_length_is_refused_before_the_bytes_are_there() {
        let result = run(reader(&[0xff; 4], 4).next::<Note>(64 << 10));
        assert!(matches!(result, Err(FrameError::TooLong { len: 0xffff_ffff, limit: 65536 })));
        let long = Note { text: vec![0; 100].into(), payload: 0 };
        assert!(matches!(frame(&long, 99), Err(SendFrameError::TooLong { limit: 99, .. })));
    }

    #[test]
    fn payload_must_be_read_and_must_be_there() {
        let mut stream = frame(&Note { text: Bytes::new(), payload: 5 }, 64).unwrap().to_vec();
        stream.extend_from_slice(b"abc");
        run(async {
            let mut reader = reader(&stream, 7);
            let note: Note = reader.next(64).await.unwrap().unwrap();
            let mut raw = reader.raw(note.payload);
            assert!(raw.next().await.unwrap().is_some());
            let unread = reader.next::<Note>(64).await;
            assert!(matches!(unread, Err(FrameError::Unread(1..5))), "{unread:?}");
            let mut raw = Raw { reader: &mut reader };
            let end = loop {
                match raw.next().await {
                    Ok(Some(_)) => {}
                    other => break other,
                }
            };
            assert!(matches!(end, Err(FrameError::Truncated { missing: 2 })), "{end:?}");
        });
    }

    #[test]
    fn payload_is_not_copied() {
        run(async {
            let (sender, mut body) = sender(64);
            let payload = Bytes::from(vec![7; 1000]);
            sender.send_bytes(payload.clone()).await.unwrap();
            let got = body.frame().await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(got.as_ptr(), payload.as_ptr());
        });
    }

    #[test]
    fn only_a_finished_stream_ends() {
        run(async {
            for finish in [true, false] {
                let (sender, body) = sender(64);
                let note = Note { text: Bytes::new(), payload: 1 };
                sender.send(&note).await.unwrap();
                if finish {
                    sender.finish().await.unwrap();
                } else {
                    drop(sender);
                }
                let mut reader = FrameReader::new(body);
                assert_eq!(reader.next::<Note>(64).await.unwrap(), Some(note));
                let end = reader.next::<Note>(64).await;
                assert!(if finish {
                    matches!(end, Ok(None))
                } else {
                    matches!(end, Err(FrameError::Broken(_)))
                });
            }
        });
    }

    #[test]
    fn a_reader_that_left_is_noticed() {
        run(async {
            let (sender, body) = sender(64);
            drop(body);
            sender.closed().await;
            let note = Note { text: Bytes::new(), payload: 1 };
            assert_eq!(sender.send(&note).await, Err(SendFrameError::Closed));
        });
    }
}
