//! What can go wrong with the catalog, and who can do something about it.

use std::path::PathBuf;
use std::sync::Arc;

use super::proto::DecodeError;
use crate::id::{Epoch, Hash, Position, Seq, ShareId};

/// Why the catalog did not do what it was asked.
///
/// `Clone`, because one failed sync is the answer to every commit that waited for it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CatalogError {
    /// The operator's: two processes on one state directory.
    #[error(
        "catalog {dir}: another nearshare has it open; stop that one or use another state directory"
    )]
    Locked { dir: PathBuf },
    /// The operator's: a downgrade.
    #[error(
        "catalog {dir}: format {found} was written by a newer nearshare (this one knows up to {known}); \
         install that version or restore the state directory from before the upgrade"
    )]
    Newer { dir: PathBuf, found: u32, known: u32 },
    /// The operator's: rights, a full disk.
    #[error("catalog {dir}: {what}: {source}")]
    Dir { what: &'static str, dir: PathBuf, source: Arc<std::io::Error> },
    /// The disk's, or the store's.
    #[error("catalog: {what}: {why}")]
    Store { what: &'static str, why: String },
    /// After a write or sync that failed nothing more is written: what is on disk can be known
    /// only by opening it again.
    #[error(
        "catalog: nothing is written since an earlier write failed ({why}); make room for the state \
         directory or see to its disk: nearshare starts itself anew when it can write there"
    )]
    Broken { why: String },
    /// A row that is not what was written: a damaged disk, or a defect of nearshare.
    #[error(
        "catalog: the row {row} is damaged: {source}; restore the state directory or remove it to have it built again"
    )]
    Damaged { row: String, source: DecodeError },
    /// The peer's, or a race with a second stream: records come in order, none twice.
    #[error("share {share}: record {found} does not follow {head}")]
    NotNext { share: ShareId, head: Position, found: Position },
    /// The two journals are not the same history (R24); trees have to be compared.
    #[error("share {share}: record {at} continues {prev}, the journal here ends with {chain}")]
    OtherChain { share: ShareId, at: Position, prev: Hash, chain: Hash },
    /// A record that was changed on its way, or written by a newer release with fields that this one
    /// does not know and so must not half apply.
    #[error(
        "share {share}: record {at} does not have the content its chain hash was made of; it was damaged on \
         its way or made by a newer nearshare: upgrade this site first"
    )]
    BrokenChain { share: ShareId, at: Position },
    /// A defect of nearshare: a primary begins its journal with `new_incarnation`.
    #[error("share {share}: a record was to be published before the journal was begun")]
    NoJournal { share: ShareId },
    /// Asked for records that are no longer kept; trees have to be compared.
    #[error("share {share}: record {after} and later were asked for, the journal begins after {kept}")]
    Trimmed { share: ShareId, after: Seq, kept: Seq },
    /// A defect of nearshare: the epoch of a share never goes back.
    #[error("share {share}: epoch {found} is older than {known}")]
    OldEpoch { share: ShareId, known: Epoch, found: Epoch },
    /// A defect of nearshare: the change has to be split.
    #[error("catalog: {what} is {len}, the limit is {limit}")]
    TooLarge { what: &'static str, len: usize, limit: usize },
    /// The process is stopping.
    #[error("catalog: closed")]
    Closed,
}

pub type Result<T, E = CatalogError> = std::result::Result<T, E>;
