//! Content hashes. A file is cut into content-defined chunks (FastCDC), each chunk is hashed, and
//! the file's hash is a root over its chunks: a small change to a huge file will later cost reading
//! and sending only the chunks it touched. Not here: storing or sending chunks.
//!
//! The bounds, the cut masks and the root's input are part of the format: sites compare roots. A
//! change of any of them needs a new context string.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::sync::LazyLock;

use fastcdc::v2020::{self, MASKS};

use super::Content;
use crate::id::Hash;

/// Shortest chunk but the last, in bytes.
pub const CHUNK_MIN: usize = 8 << 10;
/// What the cut masks aim at.
pub const CHUNK_AVG: usize = 32 << 10;
/// Longest chunk.
pub const CHUNK_MAX: usize = 128 << 10;
/// 2^15 = `CHUNK_AVG`, one bit stricter below it and one laxer above (normalisation level 1).
const MASK_SHORT: u64 = MASKS[16];
const MASK_LONG: u64 = MASKS[14];

/// Separates roots from every other use of BLAKE3 in nearshare.
const CONTEXT: &str = "nearshare content root v1";

/// A content's longest chunks of nothing but zeros that have a row each: 8 GiB of them. What it has more of
/// them is counted, one row for all that follow one another: a file of 8 EiB may have 2^46.
const ZEROS_MAX: u64 = 1 << 16;

/// Hashes content that is pushed in pieces. How it is cut into pieces makes no difference.
pub struct Hasher {
    root: Root,
    /// The beginning of the next chunk: always shorter than `CHUNK_MAX` between two updates.
    carry: Vec<u8>,
    size: u64,
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl Hasher {
    pub fn new() -> Self {
        Self { root: Root::new(), carry: Vec::new(), size: 0 }
    }

    pub fn update(&mut self, mut data: &[u8]) {
        self.size += data.len() as u64;
        // Bytes of `data` that are in the carry as well.
        let mut taken = 0;
        while !self.carry.is_empty() {
            let more = (data.len() - taken).min(CHUNK_MAX - self.carry.len());
            self.carry.extend_from_slice(&data[taken..taken + more]);
            taken += more;
            if self.carry.len() < CHUNK_MAX {
                return;
            }
            let cut = cut(&self.carry);
            self.root.add(&self.carry[..cut]);
            self.carry.drain(..cut);
            if self.carry.len() <= taken {
                // All that is left came from `data`: read it from there.
                data = &data[taken - self.carry.len()..];
                self.carry.clear();
            }
        }
        while data.len() >= CHUNK_MAX {
            let (chunk, rest) = data.split_at(cut(data));
            self.root.add(chunk);
            data = rest;
        }
        self.carry.extend_from_slice(data);
    }

    /// As `update` with so many zeros, however many: what a hole reads as. In all no more than 2^64 bytes.
    pub fn zeros(&mut self, mut count: u64) {
        while count > 0 {
            if self.carry.iter().all(|byte| *byte == 0) {
                self.size += count;
                count += self.carry.len() as u64;
                self.root.add_zeros(count / CHUNK_MAX as u64);
                self.carry.clear();
                self.carry.resize((count % CHUNK_MAX as u64) as usize, 0);
                return;
            }
            // What is before the hole is in the same chunk as its beginning.
            let some = count.min((CHUNK_MAX - self.carry.len()) as u64);
            self.update(&ZEROS[..some as usize]);
            count -= some;
        }
    }

    pub fn finish(mut self) -> Content {
        self.root.add_rest(&self.carry);
        Content { root: self.root.finish(), size: self.size }
    }
}

/// Of a whole content in memory.
pub fn hash_bytes(data: &[u8]) -> Content {
    let mut root = Root::new();
    root.add_rest(data);
    Content { root: root.finish(), size: data.len() as u64 }
}

/// Length of the first chunk of `data`, which is `CHUNK_MAX` bytes or more, or ends the content.
fn cut(data: &[u8]) -> usize {
    let (_, length) = v2020::cut(
        data,
        CHUNK_MIN,
        CHUNK_AVG,
        CHUNK_MAX,
        MASK_SHORT,
        MASK_LONG,
        MASK_SHORT << 1,
        MASK_LONG << 1,
    );
    length
}

/// What a root is made of, for each chunk: its length as u32 LE and its BLAKE3. Or, as no chunk is empty, 0,
/// how many chunks of zeros there are as u64 LE, and 24 zeros.
const ROW: usize = 4 + 32;

fn row(chunk: &[u8]) -> [u8; ROW] {
    let mut row = [0; ROW];
    row[..4].copy_from_slice(&(chunk.len() as u32).to_le_bytes());
    row[4..].copy_from_slice(blake3::hash(chunk).as_bytes());
    row
}

static ZEROS: [u8; CHUNK_MAX] = [0; CHUNK_MAX];
/// Of a chunk that is all zeros: those are never cut before they are as long as a chunk gets.
static ZEROS_ROW: LazyLock<[u8; ROW]> = LazyLock::new(|| row(&ZEROS));

/// A root in the making.
struct Root {
    rows: blake3::Hasher,
    /// Chunks of zeros that still have a row each.
    left: u64,
    /// Chunks of zeros that have none yet.
    counted: u64,
}

impl Root {
    fn new() -> Self {
        static BEGIN: LazyLock<blake3::Hasher> =
            LazyLock::new(|| blake3::Hasher::new_derive_key(CONTEXT));
        Self { rows: BEGIN.clone(), left: ZEROS_MAX, counted: 0 }
    }

    fn add(&mut self, chunk: &[u8]) {
        let row = row(chunk);
        if row == *ZEROS_ROW {
            return self.add_zeros(1);
        }
        self.end_count();
        self.rows.update(&row);
    }

    /// So many chunks of zeros, all as long as a chunk gets.
    fn add_zeros(&mut self, count: u64) {
        let single = count.min(self.left);
        for _ in 0..single {
            self.rows.update(&*ZEROS_ROW);
        }
        self.left -= single;
        self.counted += count - single;
    }

    fn end_count(&mut self) {
        if self.counted > 0 {
            let mut row = [0; ROW];
            row[4..12].copy_from_slice(&self.counted.to_le_bytes());
            self.rows.update(&row);
            self.counted = 0;
        }
    }

    /// Cuts and adds all of `data`, the end of a content.
    fn add_rest(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (chunk, rest) = data.split_at(cut(data));
            self.add(chunk);
            data = rest;
        }
    }

    fn finish(mut self) -> Hash {
        self.end_count();
        Hash(*self.rows.finalize().as_bytes())
    }
}

/// A file open for reading that may have holes: ranges that read as zeros and take no room.
pub trait Sparse: Read + Seek {
    /// The next range at `at` or behind that is no hole, never empty; `None`: there is none.
    fn data_from(&mut self, at: u64) -> io::Result<Option<Range<u64>>>;
}

/// A part of a file: a hole and the data behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub hole: u64,
    pub data: u64,
}

/// The parts of a file's first `size` bytes, in order. The file stands at each one's data when it is
/// handed out.
pub struct Extents {
    at: u64,
    size: u64,
}

impl Extents {
    pub fn new(size: u64) -> Self {
        Self { at: 0, size }
    }

    pub fn next(&mut self, file: &mut impl Sparse) -> io::Result<Option<Extent>> {
        if self.at >= self.size {
            return Ok(None);
        }
        let data = file.data_from(self.at)?.filter(|data| data.start < self.size && data.end > self.at);
        let Some(data) = data else {
            let hole = self.size - self.at;
            self.at = self.size;
            return Ok(Some(Extent { hole, data: 0 }));
        };
        let (start, end) = (data.start.max(self.at), data.end.min(self.size));
        file.seek(SeekFrom::Start(start))?;
        let extent = Extent { hole: start - self.at, data: end.saturating_sub(start) };
        self.at = end;
        Ok(Some(extent))
    }
}

/// Hashes the first `size` bytes; of a file that has become shorter, what there is. Holes are not read.
pub fn hash_sparse(file: &mut impl Sparse, size: u64, buffer: &mut [u8]) -> io::Result<Content> {
    let mut hasher = Hasher::new();
    let mut extents = Extents::new(size);
    while let Some(Extent { hole, data }) = extents.next(file)? {
        hasher.zeros(hole);
        let mut left = data;
        while left > 0 {
            let room = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match file.read(&mut buffer[..room]) {
                Ok(0) => return Ok(hasher.finish()),
                Ok(len) => {
                    hasher.update(&buffer[..len]);
                    left -= len as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes that look random and are the same everywhere.
    fn bytes(seed: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
        out
    }

    /// The definition, spelt out with the library's own iterator.
    fn by_definition(data: &[u8]) -> Content {
        let mut root = blake3::Hasher::new_derive_key(CONTEXT);
        for chunk in v2020::FastCDC::new(data, CHUNK_MIN, CHUNK_AVG, CHUNK_MAX) {
            let part = &data[chunk.offset..chunk.offset + chunk.length];
            root.update(&(part.len() as u32).to_le_bytes());
            root.update(blake3::hash(part).as_bytes());
        }
        Content { root: Hash(*root.finalize().as_bytes()), size: data.len() as u64 }
    }

    #[test]
    fn roots_never_change() {
        // Sites of different releases compare these.
        let lengths = [0, 1, CHUNK_MIN, CHUNK_MIN + 1, 1_000_000];
        let roots = lengths.map(|len| hash_bytes(&bytes(7, len)).root.to_string()[..8].to_owned());
        assert_eq!(roots, ["2638aed7", "ca818e47", "ad6f22b5", "c0efeb4f", "152743d2"]);
    }

    #[test]
    fn roots_of_many_zeros_never_change_and_take_no_time() {
        let root = |parts: &[(u64, &[u8])]| {
            let mut hasher = Hasher::new();
            for (hole, data) in parts {
                hasher.zeros(*hole);
                hasher.update(data);
            }
            hasher.finish()
        };
        let (chunk, limit) = (CHUNK_MAX as u64, ZEROS_MAX * CHUNK_MAX as u64);
        // Up to the limit: a row each.
        let mut plain = blake3::Hasher::new_derive_key(CONTEXT);
        for _ in 0..ZEROS_MAX {
            plain.update(&*ZEROS_ROW);
        }
        let rows = |hasher: &blake3::Hasher| Hash(*hasher.finalize().as_bytes());
        assert_eq!(root(&[(limit, b"")]), Content { root: rows(&plain), size: limit });
        // From there on counted, whether they are holes or not.
        let mut counted = plain.clone();
        counted.update(&[&[0; 4][..], &3u64.to_le_bytes(), &[0; 24]].concat());
        assert_eq!(root(&[(limit + 3 * chunk, b"")]).root, rows(&counted));
        assert_eq!(root(&[(limit + chunk, &ZEROS), (chunk, b"")]).root, rows(&counted));
        counted.update(&row(&[1; 500]));
        assert_eq!(root(&[(limit + 3 * chunk, &[1; 500])]).root, rows(&counted));
        // The longest file there is, and one with data at its end and in the middle.
        let most = i64::MAX as u64;
        let sizes = [
            root(&[(most, b"")]),
            root(&[(most - 1, b"x")]),
            root(&[(most / 2, b"x"), (most - most / 2 - 1, b"")]),
            root(&[(most - chunk, b"")]),
        ];
        let roots = sizes.map(|content| content.root.to_string()[..8].to_owned());
        assert_eq!(sizes.map(|content| most - content.size), [0, 0, 0, chunk]);
        assert_eq!(roots, ["264b2402", "6526246e", "6890c3d9", "710134fc"]);
    }

    #[test]
    fn a_local_change_keeps_all_other_chunks() {
        let chunks = |data: &[u8]| -> std::collections::HashSet<blake3::Hash> {
            v2020::FastCDC::new(data, CHUNK_MIN, CHUNK_AVG, CHUNK_MAX)
                .map(|c| blake3::hash(&data[c.offset..c.offset + c.length]))
                .collect()
        };
        let old = bytes(1, 4 << 20);
        let mut new = old.clone();
        new.splice(2_000_000..2_000_000, *b"inserted");
        let (old, new) = (chunks(&old), chunks(&new));
        assert!(old.difference(&new).count() <= 4, "{}", old.difference(&new).count());
    }

    #[test]
    fn the_edges_of_the_bounds_follow_the_definition() {
        for edge in [0, CHUNK_MIN, CHUNK_AVG, CHUNK_MAX, 2 * CHUNK_MAX, 1 << 20] {
            for len in edge.saturating_sub(2)..edge + 3 {
                // Zeros are never cut before the longest chunk.
                for data in [bytes(len as u64, len), vec![0; len]] {
                    let want = by_definition(&data);
                    assert_eq!(hash_bytes(&data), want, "{len}");
                }
            }
        }
    }

    #[test]
    fn lengths_and_contents_do_not_collide() {
        let mut seen = std::collections::HashSet::new();
        for len in 0..300 {
            assert!(seen.insert(hash_bytes(&vec![0; len]).root), "{len}");
        }
    }

    /// A file with holes where `bytes` has zeros. Says "interrupted" before every read and gives at most
    /// `step` bytes.
    struct Holey {
        bytes: Vec<u8>,
        holes: Vec<Range<usize>>,
        at: usize,
        step: usize,
        again: bool,
    }
    impl Read for Holey {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.again = !self.again;
            if self.again {
                return Err(io::ErrorKind::Interrupted.into());
            }
            assert!(!self.holes.iter().any(|hole| hole.contains(&self.at)), "a hole is read");
            let count = self.step.min(out.len()).min(self.bytes.len() - self.at);
            out[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
            self.at += count;
            Ok(count)
        }
    }
    impl Seek for Holey {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            let SeekFrom::Start(at) = to else { panic!("{to:?}") };
            self.at = at as usize;
            Ok(at)
        }
    }
    impl Sparse for Holey {
        fn data_from(&mut self, at: u64) -> io::Result<Option<Range<u64>>> {
            let in_hole = |at: &usize| self.holes.iter().any(|hole| hole.contains(at));
            let size = self.bytes.len();
            let Some(start) = (at as usize..size).find(|at| !in_hole(at)) else { return Ok(None) };
            let end = self.holes.iter().map(|hole| hole.start).filter(|hole| *hole > start).min();
            // A file system may know of data behind the end.
            Ok(Some(start as u64..end.unwrap_or(size + 100) as u64))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn pieces_make_no_difference(
            seed in any::<u64>(),
            len in 0usize..900_000,
            zeros in 0usize..300_000,
            pieces in proptest::collection::vec(1usize..400_000, 1..12),
        ) {
            let mut data = bytes(seed, len);
            data.extend(std::iter::repeat_n(0, zeros));
            let want = by_definition(&data);
            prop_assert_eq!(hash_bytes(&data), want);
            let mut hasher = Hasher::new();
            let mut rest = &data[..];
            for piece in pieces.iter().cycle() {
                let (head, tail) = rest.split_at(rest.len().min(*piece));
                hasher.update(head);
                prop_assert!(hasher.carry.len() < CHUNK_MAX);
                rest = tail;
                if rest.is_empty() { break; }
            }
            prop_assert_eq!(hasher.finish(), want);
        }

        #[test]
        fn a_hole_is_as_good_as_zeros(
            seed in any::<u64>(),
            parts in proptest::collection::vec((1usize..300_000, 1usize..400_000), 0..5),
            step in 1usize..300_000,
            room in 1usize..400_000,
        ) {
            let mut bytes = bytes(seed, parts.iter().map(|(data, _)| data).sum());
            let mut holes = Vec::new();
            let mut at = (seed % 7) as usize * 1000 % (bytes.len() + 1);
            for (data, hole) in parts {
                bytes.splice(at..at, std::iter::repeat_n(0, hole));
                holes.push(at..at + hole);
                at = (at + hole + data).min(bytes.len());
            }
            let want = by_definition(&bytes);
            let mut hasher = Hasher::new();
            let mut from = 0;
            for hole in &holes {
                hasher.update(&bytes[from..hole.start]);
                hasher.zeros(hole.len() as u64);
                prop_assert!(hasher.carry.len() < CHUNK_MAX);
                from = hole.end;
            }
            hasher.update(&bytes[from..]);
            prop_assert_eq!(hasher.finish(), want);
            let size = bytes.len() as u64;
            let mut file = Holey { bytes, holes, at: 0, step, again: false };
            prop_assert_eq!(hash_sparse(&mut file, size, &mut vec![0; room]).unwrap(), want);
        }
    }
}
