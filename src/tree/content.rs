//! Content hashes. A file is cut into content-defined chunks (FastCDC), each chunk is hashed, and
//! the file's hash is a root over its chunks: a small change to a huge file will later cost reading
//! and sending only the chunks it touched. Not here: storing or sending chunks.
//!
//! The bounds, the cut masks and the root's input are part of the format: sites compare roots. A
//! change of any of them needs a new context string.

use std::io::{self, Read};
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
/// A good buffer for [`hash_reader`]: 1 MiB keeps a disk's queue busy and the cut buffer idle.
pub const READ_BUFFER: usize = 1 << 20;

/// 2^15 = `CHUNK_AVG`, one bit stricter below it and one laxer above (normalisation level 1).
const MASK_SHORT: u64 = MASKS[16];
const MASK_LONG: u64 = MASKS[14];

/// Separates roots from every other use of BLAKE3 in nearshare.
const CONTEXT: &str = "nearshare content root v1";

static ROOT: LazyLock<blake3::Hasher> = LazyLock::new(|| blake3::Hasher::new_derive_key(CONTEXT));

/// Hashes content that is pushed in pieces. How it is cut into pieces makes no difference.
pub struct Hasher {
    /// Over (chunk length as u32 LE, chunk's BLAKE3) for each chunk in order.
    root: blake3::Hasher,
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
        Self { root: ROOT.clone(), carry: Vec::new(), size: 0 }
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
            add(&mut self.root, &self.carry[..cut]);
            self.carry.drain(..cut);
            if self.carry.len() <= taken {
                // All that is left came from `data`: read it from there.
                data = &data[taken - self.carry.len()..];
                self.carry.clear();
            }
        }
        while data.len() >= CHUNK_MAX {
            let (chunk, rest) = data.split_at(cut(data));
            add(&mut self.root, chunk);
            data = rest;
        }
        self.carry.extend_from_slice(data);
    }

    pub fn finish(mut self) -> Content {
        add_rest(&mut self.root, &self.carry);
        Content { root: Hash(*self.root.finalize().as_bytes()), size: self.size }
    }
}

/// Of a whole content in memory.
pub fn hash_bytes(data: &[u8]) -> Content {
    let mut root = ROOT.clone();
    add_rest(&mut root, data);
    Content { root: Hash(*root.finalize().as_bytes()), size: data.len() as u64 }
}

/// Reads to the end. [`READ_BUFFER`] bytes are a good size; a content that is shorter than the
/// buffer is hashed in place.
///
/// # Panics
/// If `buffer` is empty.
pub fn hash_reader(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<Content> {
    assert!(!buffer.is_empty(), "a reader needs room");
    let mut filled = 0;
    let mut hasher = None;
    loop {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if filled == buffer.len() {
            hasher.get_or_insert_with(Hasher::new).update(buffer);
            filled = 0;
        }
    }
    Ok(match hasher {
        None => hash_bytes(&buffer[..filled]),
        Some(mut hasher) => {
            hasher.update(&buffer[..filled]);
            hasher.finish()
        }
    })
}

/// Cuts and adds all of `data`, the end of a content.
fn add_rest(root: &mut blake3::Hasher, mut data: &[u8]) {
    while !data.is_empty() {
        let (chunk, rest) = data.split_at(cut(data));
        add(root, chunk);
        data = rest;
    }
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

fn add(root: &mut blake3::Hasher, chunk: &[u8]) {
    let mut row = [0; 4 + 32];
    row[..4].copy_from_slice(&(chunk.len() as u32).to_le_bytes());
    row[4..].copy_from_slice(blake3::hash(chunk).as_bytes());
    root.update(&row);
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
        for edge in [0, CHUNK_MIN, CHUNK_AVG, CHUNK_MAX, 2 * CHUNK_MAX, READ_BUFFER] {
            for len in edge.saturating_sub(2)..edge + 3 {
                // Zeros are never cut before the longest chunk.
                for data in [bytes(len as u64, len), vec![0; len]] {
                    let want = by_definition(&data);
                    assert_eq!(hash_bytes(&data), want, "{len}");
                    let mut buffer = vec![0; READ_BUFFER];
                    assert_eq!(hash_reader(&mut &data[..], &mut buffer).unwrap(), want, "{len}");
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

    /// Says "interrupted" before every read and gives at most `step` bytes.
    struct Hiccup<'a>(&'a [u8], usize, bool);
    impl Read for Hiccup<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.2 = !self.2;
            if self.2 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let count = self.1.min(out.len()).min(self.0.len());
            out[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
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
            step in 1usize..300_000,
            room in 1usize..400_000,
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
            let mut buffer = vec![0; room];
            prop_assert_eq!(hash_reader(&mut Hiccup(&data, step, false), &mut buffer).unwrap(), want);
        }
    }
}
