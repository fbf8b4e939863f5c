//! A message that came, with some of its bytes replaced.

use bytes::Bytes;

use super::{Rope, Span, Writer};

/// What is kept in pieces of at least this many bytes is shared, what is shorter is copied next to what
/// is new: that many are copied in less time than one more slice costs in a vectored write.
const SHARED_FROM: usize = 512;

/// Goes through a message from front to back and replaces bytes of it, by as many or by more or fewer.
#[derive(Debug)]
pub struct Weave<'a> {
    message: &'a Rope,
    /// Up to here everything has been woven in or left out.
    done: usize,
    head: Writer,
    /// Behind the head: shared pieces, and what is new between them.
    rest: Vec<Bytes>,
    last: Option<Writer>,
}

impl<'a> Weave<'a> {
    pub fn new(message: &'a Rope) -> Self {
        let head = Writer::with_capacity(message.len().min(SHARED_FROM) + 60);
        Self { message, done: 0, head, rest: Vec::new(), last: None }
    }

    /// Replaces a span by what `write` writes. Spans come in the order in which they stand.
    pub fn replace(&mut self, span: Span, write: impl FnOnce(&mut Writer)) -> &mut Self {
        debug_assert!(span.at >= self.done, "{span:?} comes after byte {}", self.done);
        self.keep_to(span.at);
        write(self.writer());
        self.done = self.done.max(span.end());
        self
    }

    /// Replaces counted bytes whose count stands at `at`, by others of any length.
    pub fn opaque(&mut self, at: usize, old: usize, new: &[u8]) -> &mut Self {
        let span = Span { at, len: 4 + super::padded(old) };
        self.replace(span, |out| {
            out.opaque(new);
        })
    }

    /// For a datagram, or to go into something else.
    pub fn message(mut self) -> Rope {
        self.close();
        let head = self.head.message();
        std::iter::once(head).chain(self.rest).collect()
    }

    /// For a stream: one record of one fragment.
    pub fn record(mut self) -> Rope {
        self.close();
        let behind = self.rest.iter().map(Bytes::len).sum();
        let head = self.head.marked(behind);
        std::iter::once(head).chain(self.rest).collect()
    }

    fn writer(&mut self) -> &mut Writer {
        if self.rest.is_empty() { &mut self.head } else { self.last.get_or_insert_default() }
    }

    fn keep_to(&mut self, at: usize) {
        let span = Span { at: self.done, len: at.saturating_sub(self.done) };
        let message = self.message;
        message.parts(span, |piece| {
            if piece.len() < SHARED_FROM {
                self.writer().fixed(&piece);
            } else {
                self.flush();
                self.rest.push(piece);
            }
        });
        self.done = self.done.max(at);
    }

    fn flush(&mut self) {
        self.rest.extend(self.last.take().map(Writer::message));
    }

    fn close(&mut self) {
        self.keep_to(self.message.len());
        self.flush();
    }
}
