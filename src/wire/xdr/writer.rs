//! Messages of our own making.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::padded;

/// Bytes in front of every message for the record mark (RFC 5531 section 11).
const MARK: usize = 4;
/// The bit of a record mark that says that the record ends with this fragment.
pub(in crate::wire) const LAST: u32 = 1 << 31;

/// Writes a message from front to back.
#[derive(Debug)]
pub struct Writer(BytesMut);

impl Writer {
    pub fn new() -> Self {
        Self::with_capacity(120)
    }

    /// Room for so many bytes of message.
    pub fn with_capacity(bytes: usize) -> Self {
        let mut out = BytesMut::with_capacity(MARK + bytes);
        out.put_bytes(0, MARK);
        Self(out)
    }

    /// Bytes of message so far.
    pub fn len(&self) -> usize {
        self.0.len() - MARK
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.0.put_u32(value);
        self
    }

    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.0.put_u64(value);
        self
    }

    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u32(value.into())
    }

    /// As they are: of a length that the protocol knows, or encoded already.
    pub fn fixed(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.put_slice(bytes);
        self
    }

    /// Counted, and padded with zeros.
    pub fn opaque(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(count(bytes.len())).fixed(bytes);
        self.0.put_bytes(0, padded(bytes.len()) - bytes.len());
        self
    }

    /// For a datagram, or to go into something else.
    pub fn message(mut self) -> Bytes {
        self.0.advance(MARK);
        self.0.freeze()
    }

    /// For a stream: one record of one fragment.
    pub fn record(self) -> Bytes {
        self.marked(0)
    }

    /// With a mark that counts `behind` more bytes than are in here.
    pub(super) fn marked(mut self, behind: usize) -> Bytes {
        let mark = LAST | count(self.len() + behind);
        self.0[..MARK].copy_from_slice(&mark.to_be_bytes());
        self.0.freeze()
    }
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

/// Lengths that are sent are of messages that came, which have a limit far below this one.
fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX).min(LAST - 1)
}
