//! A message as a list of slices.

use bytes::{Bytes, BytesMut};

use super::Span;

/// A message, or a part of one, as shared slices in their order. Most have one, and then nothing is
/// allocated for the list.
#[derive(Debug, Clone, Default)]
pub struct Rope {
    /// Empty only if the whole is.
    first: Bytes,
    /// None is empty.
    more: Vec<Bytes>,
    len: usize,
}

impl Rope {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        self.len += bytes.len();
        match self.first.is_empty() {
            true => self.first = bytes,
            false => self.more.push(bytes),
        }
    }

    /// The slices, none of them empty: what a vectored write takes.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        Some(&self.first).filter(|first| !first.is_empty()).into_iter().chain(&self.more)
    }

    /// A part of it, which shares its bytes. What lies behind the end is left out.
    #[must_use]
    pub fn slice(&self, span: Span) -> Self {
        let mut part = Self::default();
        self.parts(span, |piece| part.push(piece));
        part
    }

    /// The slices of a part, one after the other.
    pub(super) fn parts(&self, span: Span, mut each: impl FnMut(Bytes)) {
        let (mut from, end) = (0, span.end());
        for piece in self.pieces() {
            let to = from + piece.len();
            let (begin, stop) = (span.at.max(from), end.min(to));
            if begin < stop {
                each(piece.slice(begin - from..stop - from));
            }
            if to >= end {
                break;
            }
            from = to;
        }
    }

    /// As one slice; copies if it is not one.
    pub fn into_bytes(self) -> Bytes {
        if self.more.is_empty() {
            return self.first;
        }
        let mut whole = BytesMut::with_capacity(self.len);
        self.pieces().for_each(|piece| whole.extend_from_slice(piece));
        whole.freeze()
    }

    pub(super) fn piece(&self, number: usize) -> &[u8] {
        match number {
            0 => &self.first,
            _ => self.more.get(number - 1).map_or(&[], |piece| piece),
        }
    }

    /// `number` is that of a piece.
    pub(super) fn piece_bytes(&self, number: usize) -> &Bytes {
        match number {
            0 => &self.first,
            _ => &self.more[number - 1],
        }
    }
}

impl From<Bytes> for Rope {
    fn from(bytes: Bytes) -> Self {
        Self { len: bytes.len(), first: bytes, more: Vec::new() }
    }
}

impl FromIterator<Bytes> for Rope {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Self {
        let mut rope = Self::default();
        pieces.into_iter().for_each(|piece| rope.push(piece));
        rope
    }
}
