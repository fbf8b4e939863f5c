//! Reads what is on a share's disk and compares it with the content hashes of the catalog: finds what a bad disk
//! changed under everybody. In the order of the objects' ids, so that it can go on where it was; at a limited
//! rate; and beside everything else that goes on, of which it only needs to be told.
//!
//! ```text
//!  catalog's next object --- busy: marked, awaited, or its row or disk changed meanwhile --> looked at again, later
//!        | read between two looks at the row, and at the file
//!        +-- as recorded --> right
//!        +-- else, twice --> wrong --- repair --> busy until it is right
//! ```
//!
//! Not here: what is busy and how something is put right (see [`Judge`]: `follow` at a copy, `notice` at the
//! primary).

mod desk;
mod look;

pub use desk::{Desk, Order, Subject};

use serde::{Deserialize, Serialize};

use crate::catalog::CatalogError;
use crate::id::{Name, ObjectId, Version};
use crate::object::{Local, Stamp};
use crate::tree::TreeError;

#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Tree(#[from] TreeError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    #[error("keeping how far it is: {0}")]
    Saving(std::io::Error),
    #[error("the share is about to stop here")]
    Stopped,
}

type Result<T, E = VerifyError> = std::result::Result<T, E>;

/// What the room that looks after a share's directory knows of it. All may block.
pub trait Judge: Send + Sync + 'static {
    /// The disk may not be what the catalog says just now, for a reason that is known: nothing is to be said of
    /// the object.
    fn is_busy(&self, id: ObjectId, entry: &(ObjectId, Name)) -> Result<bool>;
    /// Whether a file with this stamp has the content that was recorded, if its disk is sound. One that
    /// does not say so is looked at by somebody else.
    fn claims(&self, local: &Local, now: &Stamp) -> bool;
    /// Whether something that is not where the catalog has it is wrong, and not just news.
    fn is_copy(&self) -> bool;
    /// Begins to put right an object of which this version was wrong, durably: it is busy until that is done.
    /// `false`: something has begun with it meanwhile, and it is to be looked at again.
    fn mend(&self, id: ObjectId, version: Version) -> Result<bool>;
    fn is_stopped(&self) -> bool;
}

/// How far it is, and what was found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub running: bool,
    /// It came to its end, and nothing is left to be looked at.
    pub complete: bool,
    /// What is wrong is put right.
    pub repair: bool,
    /// Objects looked at, of so many.
    pub objects: u64,
    pub expected: u64,
    pub bytes: u64,
    pub expected_bytes: u64,
    pub bytes_per_second: u64,
    /// By the rate of this run; 0 while it cannot be told.
    pub seconds_left: u64,
    /// Objects that something went on with all the time.
    pub skipped: u64,
    pub repaired: u64,
    /// What is wrong and was not put right, the first 1000.
    pub wrong: Vec<Wrong>,
    /// What is wrong besides.
    pub unlisted: u64,
    /// Why it ended early.
    pub stopped: Option<String>,
    /// The last object looked at, by its id.
    pub after: Option<String>,
}

impl Report {
    /// Most of `wrong`.
    pub const LISTED_MAX: usize = 1000;

    /// With no more than the first few of what is wrong.
    pub fn in_short(mut self, most: usize) -> Self {
        self.unlisted += self.wrong.len().saturating_sub(most) as u64;
        self.wrong.truncate(most);
        self
    }

    /// What is wrong and was not put right.
    pub fn all_wrong(&self) -> u64 {
        self.unlisted + self.wrong.len() as u64
    }
}

/// Something on the disk that is not what was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrong {
    pub id: String,
    /// In the share, as the log has it.
    pub path: String,
    pub why: String,
}
