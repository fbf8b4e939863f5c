//! Record marking (RFC 5531 section 11): where one message of a stream ends and the next begins.

use bytes::{Buf, BytesMut};

use super::super::xdr::{LAST, Rope};

const MARK: usize = 4;

/// What a record may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all its fragments.
    pub bytes: u32,
    /// Linux, Solaris and the BSDs send one; more than a few only delay.
    pub fragments: u32,
}

/// Why a stream cannot be read on: where its next record would begin is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordFault {
    #[error("a record is {len} bytes, limit {limit}, at byte {at} of the stream")]
    Long { len: u64, limit: u32, at: u64 },
    #[error("a record has more than {limit} fragments, at byte {at} of the stream")]
    Fragments { limit: u32, at: u64 },
}

/// How far one stream has been cut into records. Keeps what has come of one; a length that a fragment
/// claims is checked, and nothing is set aside for it.
#[derive(Debug)]
pub struct Records {
    limits: Limits,
    /// Of a mark that has not come whole, the first bytes.
    mark: [u8; MARK],
    marked: usize,
    /// Of the fragment, so much is still to come.
    rest: u32,
    /// It is the record's last.
    last: bool,
    fragments: u32,
    /// What has come of the record. Pieces that lay side by side are one, however they came.
    pieces: Vec<BytesMut>,
    len: u32,
    /// Bytes of the stream before what comes next.
    at: u64,
}

impl Records {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            mark: [0; MARK],
            marked: 0,
            rest: 0,
            last: false,
            fragments: 0,
            pieces: Vec::new(),
            len: 0,
            at: 0,
        }
    }

    /// Takes from the front of `bytes` up to the end of the next record, and returns that. With none, all
    /// of `bytes` has been taken. After a fault nothing more may be asked.
    pub fn take(&mut self, bytes: &mut BytesMut) -> Result<Option<Rope>, RecordFault> {
        loop {
            if self.rest == 0 {
                if self.last {
                    return Ok(Some(self.complete()));
                }
                match self.next_mark(bytes) {
                    Some(mark) => self.begin(mark)?,
                    None => return Ok(None),
                }
                continue;
            }
            if bytes.is_empty() {
                return Ok(None);
            }
            let len = u32::try_from(bytes.len()).map_or(self.rest, |here| here.min(self.rest));
            let piece = bytes.split_to(len as usize);
            self.rest -= len;
            self.len += len;
            self.at += u64::from(len);
            self.keep(piece);
        }
    }

    /// Bytes of the record that has begun: what is kept here.
    pub fn held(&self) -> u32 {
        self.len
    }

    fn next_mark(&mut self, bytes: &mut BytesMut) -> Option<u32> {
        let len = bytes.len().min(MARK - self.marked);
        self.mark[self.marked..self.marked + len].copy_from_slice(&bytes[..len]);
        bytes.advance(len);
        self.marked += len;
        if self.marked < MARK {
            return None;
        }
        self.marked = 0;
        Some(u32::from_be_bytes(self.mark))
    }

    fn begin(&mut self, mark: u32) -> Result<(), RecordFault> {
        let at = self.at;
        self.at += MARK as u64;
        self.last = mark & LAST != 0;
        self.rest = mark & !LAST;
        self.fragments += 1;
        let Limits { bytes, fragments } = self.limits;
        if self.fragments > fragments {
            return Err(RecordFault::Fragments { limit: fragments, at });
        }
        match u64::from(self.len) + u64::from(self.rest) {
            len if len > u64::from(bytes) => Err(RecordFault::Long { len, limit: bytes, at }),
            _ => Ok(()),
        }
    }

    /// Nothing is copied: pieces of one buffer that lie side by side are put together again, others stay
    /// as they are.
    fn keep(&mut self, piece: BytesMut) {
        match self.pieces.last_mut() {
            Some(before) if before.as_ptr_range().end == piece.as_ptr() => before.unsplit(piece),
            _ => self.pieces.push(piece),
        }
    }

    fn complete(&mut self) -> Rope {
        (self.last, self.fragments, self.len) = (false, 0, 0);
        self.pieces.drain(..).map(BytesMut::freeze).collect()
    }
}
