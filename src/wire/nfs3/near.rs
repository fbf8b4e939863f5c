//! The handle that clients get of what is in a share: 32 bytes, the same at every site, for ever, because it
//! says which object it is, and nothing of a server or a disk.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 to 3 | `6e 73 e8` and the version, 1 |
//! | 4 to 7 | the share: the beginning of a hash of its name under the cluster's key |
//! | 8 to 23 | the ObjectId |
//! | 24 to 31 | the tag: the beginning of a hash of all before, under the share's key |
//!
//! 8 bytes of tag: at a million tries a second a guess takes 300,000 years, and gets no more than a name would: the
//! server still decides who may do what.
//! Version 1 is the only one so far.

use crate::id::{ObjectId, ShareId};

const MAGIC: [u8; 3] = [0x6e, 0x73, 0xe8];
const VERSION: u8 = 1;
const LEN: usize = 32;
const TAG: usize = 24;

/// A handle of ours, with a right tag from birth.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NearHandle([u8; LEN]);

impl NearHandle {
    pub fn as_bytes(&self) -> &[u8; LEN] {
        &self.0
    }
}

impl std::fmt::Debug for NearHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A handle that looks like one of ours and is none. The client gets NFS3ERR_BADHANDLE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHandle {
    #[error("a handle of ours is 32 bytes, this one {0}")]
    Length(usize),
    #[error("a handle of ours has version 1, this one {0}: a newer release made it, or nobody did")]
    Version(u8),
    #[error("the handle is of a share that is not in the map here")]
    Share,
    #[error("the handle's tag is not of this cluster's secret: it was changed, or made up")]
    Forged,
}

/// Makes and reads the handles of one share.
#[derive(Clone)]
struct Keyed {
    id: ShareId,
    /// What stands for the share in its handles.
    word: [u8; 4],
    key: [u8; 32],
    fsid: u64,
}

/// The handles of the shares of a map.
#[derive(Clone)]
pub struct NearHandles(Vec<Keyed>);

impl NearHandles {
    /// `key`: derived from the cluster's secret for this and nothing else.
    pub fn new(key: &[u8; 32], shares: impl IntoIterator<Item = ShareId>) -> Self {
        let keyed = |id: ShareId| {
            let mut own = [0; 44];
            let mut hasher = blake3::Hasher::new_keyed(key);
            hasher.update(id.as_str().as_bytes()).finalize_xof().fill(&mut own);
            let (mut word, mut key, mut fsid) = ([0; 4], [0; 32], [0; 8]);
            word.copy_from_slice(&own[..4]);
            key.copy_from_slice(&own[4..36]);
            fsid.copy_from_slice(&own[36..]);
            Keyed { id, word, key, fsid: u64::from_be_bytes(fsid) }
        };
        Self(shares.into_iter().map(keyed).collect())
    }

    /// None if the share is not among them.
    pub fn make(&self, share: &ShareId, object: ObjectId) -> Option<NearHandle> {
        let keyed = self.0.iter().find(|keyed| keyed.id == *share)?;
        let mut bytes = [0; LEN];
        bytes[..3].copy_from_slice(&MAGIC);
        bytes[3] = VERSION;
        bytes[4..8].copy_from_slice(&keyed.word);
        bytes[8..TAG].copy_from_slice(object.as_bytes());
        let tag = keyed.tag(&bytes);
        bytes[TAG..].copy_from_slice(&tag);
        Some(NearHandle(bytes))
    }

    /// What clients see as the number of the file system that the share is, at every site. None if it is not
    /// among them.
    pub fn fsid(&self, share: &ShareId) -> Option<u64> {
        self.0.iter().find(|keyed| keyed.id == *share).map(|keyed| keyed.fsid)
    }

    /// The object that a handle stands for; none if it is not one of ours, but some server's.
    pub fn read(&self, bytes: &[u8]) -> Result<Option<(&ShareId, ObjectId)>, BadHandle> {
        if !bytes.starts_with(&MAGIC) {
            return Ok(None);
        }
        let bytes: &[u8; LEN] = bytes.try_into().map_err(|_| BadHandle::Length(bytes.len()))?;
        if bytes[3] != VERSION {
            return Err(BadHandle::Version(bytes[3]));
        }
        // Two shares may have the same word: the tag tells them apart.
        let mut wrong = BadHandle::Share;
        for keyed in self.0.iter().filter(|keyed| keyed.word == bytes[4..8]) {
            if same(&keyed.tag(bytes), &bytes[TAG..]) {
                let mut object = [0; 16];
                object.copy_from_slice(&bytes[8..TAG]);
                return Ok(Some((&keyed.id, ObjectId::from_bytes(object))));
            }
            wrong = BadHandle::Forged;
        }
        Err(wrong)
    }
}

impl Keyed {
    fn tag(&self, bytes: &[u8; LEN]) -> [u8; LEN - TAG] {
        let mut tag = [0; LEN - TAG];
        tag.copy_from_slice(&blake3::keyed_hash(&self.key, &bytes[..TAG]).as_bytes()[..LEN - TAG]);
        tag
    }
}

/// What clients see as an object's number in its share: 63 bits of its id, for programs that keep it signed.
/// Whoever records a new object sees to it that no two have the same.
pub fn fileid(object: ObjectId) -> u64 {
    let mut last = [0; 8];
    last.copy_from_slice(&object.as_bytes()[8..]);
    u64::from_be_bytes(last) & (u64::MAX >> 1)
}

/// In the same time wherever they differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.iter().zip(b).fold(0, |odd, (a, b)| odd | (a ^ b)) == 0
}
