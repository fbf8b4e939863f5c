//! XDR (RFC 4506) as ONC RPC and NFS use it, over messages that are lists of shared slices: what is read
//! stays where it is, with the byte where it stands, and what is written around it copies no payload.
//!
//! Not here: what the values mean (see `rpc`, `nfs3`, `mount`, `portmap`).

mod rope;
mod weave;
mod writer;

use bytes::Bytes;

pub use self::rope::Rope;
pub use self::weave::Weave;
pub(super) use self::writer::LAST;
pub use self::writer::Writer;

/// What does not fit the protocol, and at which byte of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("{field} is {len} bytes, limit {limit}, at byte {at}")]
    Long { field: &'static str, len: u32, limit: u32, at: usize },
    #[error("{field} has {count} entries, limit {limit}, at byte {at}")]
    Many { field: &'static str, count: u32, limit: u32, at: usize },
    #[error("{field} needs {need} bytes and the message has {left} more, at byte {at}")]
    Short { field: &'static str, need: usize, left: usize, at: usize },
    #[error("{field} is {value}, it must be {want}, at byte {at}")]
    Value { field: &'static str, value: u32, want: &'static str, at: usize },
}

/// Some bytes of a message, by where they stand in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub at: usize,
    pub len: usize,
}

impl Span {
    pub fn end(self) -> usize {
        self.at + self.len
    }
}

/// How many bytes a value of this length takes up (RFC 4506 section 3): a multiple of four.
pub fn padded(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// Reads a message from front to back. Every value names its field, so that a [`Fault`] can; what is
/// variable has a limit, and nothing is set aside for a length before its bytes are there.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rope: &'a Rope,
    /// The piece that `here` is the rest of.
    piece: usize,
    here: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(rope: &'a Rope) -> Self {
        Self { rope, piece: 0, here: rope.piece(0), at: 0 }
    }

    /// From byte `at` on, or from the end if that is before.
    pub fn starting(rope: &'a Rope, at: usize) -> Self {
        let mut reader = Self::new(rope);
        reader.advance(at.min(rope.len()));
        reader
    }

    /// The byte of the message that comes next.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> usize {
        self.rope.len() - self.at
    }

    pub fn u32(&mut self, field: &'static str) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(self.fixed(field)?))
    }

    pub fn u64(&mut self, field: &'static str) -> Result<u64, Fault> {
        Ok(u64::from_be_bytes(self.fixed(field)?))
    }

    pub fn bool(&mut self, field: &'static str) -> Result<bool, Fault> {
        let at = self.at;
        match self.u32(field)? {
            0 => Ok(false),
            1 => Ok(true),
            value => Err(Fault::Value { field, value, want: "0 or 1", at }),
        }
    }

    /// One of a few values; `want` names them.
    pub fn choice<T>(
        &mut self,
        field: &'static str,
        want: &'static str,
        known: impl FnOnce(u32) -> Option<T>,
    ) -> Result<T, Fault> {
        let at = self.at;
        let value = self.u32(field)?;
        known(value).ok_or(Fault::Value { field, value, want, at })
    }

    /// Bytes of a length that the protocol knows, a multiple of four.
    pub fn fixed<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Fault> {
        let mut bytes = [0; N];
        if let Some(near) = self.here.first_chunk::<N>() {
            bytes = *near;
            self.here = &self.here[N..];
            self.at += N;
            return Ok(bytes);
        }
        self.must_have(field, N)?;
        self.copy_to(&mut bytes);
        Ok(bytes)
    }

    /// Counted bytes; what pads them is not looked at (RFC 4506 section 4.10 has it zero, nobody checks).
    /// Shared with the message, unless they lie across two of its pieces.
    pub fn opaque(&mut self, field: &'static str, limit: u32) -> Result<Bytes, Fault> {
        let span = self.counted(field, limit)?;
        let bytes = match self.here.get(..span.len) {
            Some(near) => self.rope.piece_bytes(self.piece).slice_ref(near),
            None => {
                let mut copy = vec![0; span.len];
                self.clone().copy_to(&mut copy);
                copy.into()
            }
        };
        self.advance(padded(span.len));
        Ok(bytes)
    }

    /// Counted bytes that may be many: only where they are, without what pads them.
    pub fn payload(&mut self, field: &'static str, limit: u32) -> Result<Span, Fault> {
        let span = self.counted(field, limit)?;
        self.advance(padded(span.len));
        Ok(span)
    }

    /// Passes over what nobody here needs to know.
    pub fn skip(&mut self, field: &'static str, len: usize) -> Result<(), Fault> {
        self.must_have(field, len)?;
        self.advance(len);
        Ok(())
    }

    /// Reads a count; the bytes are all there, and come next.
    fn counted(&mut self, field: &'static str, limit: u32) -> Result<Span, Fault> {
        let at = self.at;
        let len = self.u32(field)?;
        if len > limit {
            return Err(Fault::Long { field, len, limit, at });
        }
        // A length below 2^32 has a place in memory on every machine that this runs on.
        let len = len as usize;
        self.must_have(field, padded(len))?;
        Ok(Span { at: self.at, len })
    }

    fn must_have(&self, field: &'static str, need: usize) -> Result<(), Fault> {
        match self.left() {
            left if left < need => Err(Fault::Short { field, need, left, at: self.at }),
            _ => Ok(()),
        }
    }

    /// `out` is no longer than what is left.
    fn copy_to(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            self.next_piece();
            let len = self.here.len().min(out.len());
            let (now, later) = out.split_at_mut(len);
            now.copy_from_slice(&self.here[..len]);
            self.here = &self.here[len..];
            self.at += len;
            out = later;
        }
    }

    /// `len` is no more than what is left.
    fn advance(&mut self, mut len: usize) {
        self.at += len;
        while len > self.here.len() {
            len -= self.here.len();
            self.here = &[];
            self.next_piece();
        }
        self.here = &self.here[len..];
    }

    /// Whether there is one: no piece of a message is empty, and nobody asks behind its end.
    fn next_piece(&mut self) {
        if self.here.is_empty() {
            self.piece += 1;
            self.here = self.rope.piece(self.piece);
        }
    }
}

#[cfg(test)]
mod tests;
