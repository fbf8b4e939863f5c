//! Where an entry stands in the listing of its directory: a keyed hash of its name, the same at every site
//! and after every change of other names. Whoever goes on from a cookie gets what comes behind it, each
//! entry once, whichever site answers and whatever was made or removed meanwhile.
//!
//! Two names of one directory may have the same hash (of a million names, once in twenty million directories).
//! They get neighbouring numbers by the order of the names: only if one of them comes or goes in the middle
//! of a listing may the other be listed twice, or not.

/// `.` and `..` stand in front of all names.
pub const DOT: u64 = 1;
pub const DOT_DOT: u64 = 2;
/// The verifier of all our listings: a cookie never grows old.
pub const VERIFIER: [u8; 8] = *b"nearshr1";

/// Cookies of names begin here; 0 is the beginning of a listing.
const FIRST: u64 = 3;
/// They are below 2^63, for clients that keep them as signed numbers, and leave room for as many names of
/// equal hashes as a directory can have.
const HASHES: u64 = (1 << 63) - (1 << 32) - FIRST;

/// What hashes the names of one share.
#[derive(Clone)]
pub struct Cookies([u8; 32]);

impl Cookies {
    /// `key`: derived from the cluster's secret for this and nothing else.
    pub fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The cookie of a name, if no other name of its directory has the same.
    pub fn of(&self, name: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.0, name);
        let mut first = [0; 8];
        first.copy_from_slice(&hash.as_bytes()[..8]);
        FIRST + u64::from_be_bytes(first) % HASHES
    }

    /// All names of a directory in the order of their cookies. No name may stand twice.
    pub fn order<N: AsRef<[u8]> + Ord>(&self, names: impl IntoIterator<Item = N>) -> Vec<(u64, N)> {
        number(names.into_iter().map(|name| (self.of(name.as_ref()), name)).collect())
    }
}

/// Orders names by their hashes, and gives equal ones the next free numbers.
fn number<N: Ord>(mut hashed: Vec<(u64, N)>) -> Vec<(u64, N)> {
    hashed.sort_unstable();
    let mut free = FIRST;
    for (cookie, _) in &mut hashed {
        *cookie = free.max(*cookie);
        free = *cookie + 1;
    }
    hashed
}

#[cfg(test)]
mod tests;
