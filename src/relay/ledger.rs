//! The changes that one other site has sent here, and how they ended (R19). Pure.
//!
//! ```text
//!            begin           end                  after KEPT, or for want of room
//!  (unheard) -----> UnderWay ---> Ended: an answer, or doubt ----------------> (forgotten)
//! ```
//! Who lost an answer asks for it. That a change was not begun, and never will be, is said only when
//! - this process accepted the session that it was sent in: no other process can have got it;
//! - it is asked for in a later session: whatever comes out of an older one from then on is refused;
//! - nothing of a number as high has been forgotten, nor all that came in that session.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::clock::BootTime;
use crate::link::Session;
use crate::plant::{self, Bug};

/// An answer is kept so long. A dead line is noticed within 25 s, and then asked over for 8 s.
pub const KEPT: Duration = Duration::from_secs(60);
/// Answers kept of one site, and their bytes.
pub const ANSWERS_MAX: usize = 4096;
pub const BYTES_MAX: usize = 2 << 20;

/// Names a change for as long as the process runs that sends it, and at every site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeId {
    /// Drawn by the process.
    pub sender: u128,
    pub number: u64,
}

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}-{:016x}", self.sender, self.number)
    }
}

/// No change has such an id: 32 hexadecimal digits, `-`, 16 more.
#[derive(Debug, thiserror::Error)]
#[error("nearshare-id must be 32 hexadecimal digits, a hyphen and 16 more")]
pub struct NoId;

impl FromStr for ChangeId {
    type Err = NoId;
    fn from_str(text: &str) -> Result<Self, NoId> {
        let (sender, number) = text.split_once('-').ok_or(NoId)?;
        let digits = sender.bytes().chain(number.bytes()).all(|byte| byte.is_ascii_hexdigit());
        if !digits || sender.len() != 32 || number.len() != 16 {
            return Err(NoId);
        }
        let sender = u128::from_str_radix(sender, 16).map_err(|_| NoId)?;
        let number = u64::from_str_radix(number, 16).map_err(|_| NoId)?;
        Ok(Self { sender, number })
    }
}

/// Whether a change may be carried out.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin {
    Go,
    /// It comes out of a session that is over. Its sender may have been told that it was not begun.
    Late,
    /// It has been here.
    Known,
}

/// What became of a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<A> {
    UnderWay,
    Answered(A),
    /// And never will be.
    NotBegun,
    Unknown,
}

/// Who asks for one.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub id: ChangeId,
    /// The session in which it was sent last.
    pub sent: Session,
    /// The session in which it is asked for.
    pub from: Session,
    /// The first session of the site that this process accepted.
    pub since: Session,
}

/// All that is known of one site's changes. `A` is an answer.
pub struct Ledger<A> {
    newest: Session,
    sender: u128,
    /// What came in sessions up to this one may have been forgotten.
    barred: Session,
    /// What has a number up to this one may have been forgotten.
    forgotten: u64,
    rows: BTreeMap<u64, Row<A>>,
    /// Those that have ended, in the order of that.
    ended: VecDeque<(BootTime, u64)>,
    bytes: usize,
}

enum Row<A> {
    UnderWay,
    /// With its bytes.
    Ended(Option<(A, usize)>),
}

impl<A> Default for Ledger<A> {
    fn default() -> Self {
        Self {
            newest: Session::default(),
            sender: 0,
            barred: Session::default(),
            forgotten: 0,
            rows: BTreeMap::new(),
            ended: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl<A: Clone> Ledger<A> {
    /// A change has come.
    pub fn begin(&mut self, id: ChangeId, from: Session, now: BootTime) -> Begin {
        if plant::is(Bug::CarryOutTwice) {
            return Begin::Go;
        }
        self.forget(now);
        if from < self.newest && !plant::is(Bug::TakeLate) {
            return Begin::Late;
        }
        self.hear(id.sender, from);
        if self.rows.contains_key(&id.number) {
            return Begin::Known;
        }
        self.rows.insert(id.number, Row::UnderWay);
        Begin::Go
    }

    /// It has ended; `answer`, with its bytes, is missing where nobody can tell how, or it is too long.
    pub fn end(&mut self, id: ChangeId, answer: Option<(A, usize)>, now: BootTime) {
        let Some(row @ Row::UnderWay) =
            self.rows.get_mut(&id.number).filter(|_| id.sender == self.sender)
        else {
            return;
        };
        self.bytes += answer.as_ref().map_or(0, |(_, bytes)| *bytes);
        *row = Row::Ended(answer);
        self.ended.push_back((now, id.number));
        self.forget(now);
    }

    /// Its sender has lost the answer.
    pub fn outcome(&mut self, ask: Ask, now: BootTime) -> Outcome<A> {
        let Ask { id, sent, from, since } = ask;
        if plant::is(Bug::CarryOutTwice) {
            return Outcome::NotBegun;
        }
        self.forget(now);
        if from < self.newest {
            return Outcome::Unknown;
        }
        self.hear(id.sender, from);
        match self.rows.get(&id.number) {
            Some(Row::UnderWay) => Outcome::UnderWay,
            Some(Row::Ended(Some((answer, _)))) => Outcome::Answered(answer.clone()),
            Some(Row::Ended(None)) => Outcome::Unknown,
            None => {
                let ours = sent >= since || plant::is(Bug::TrustUnknown);
                let unheard = sent > self.barred && id.number > self.forgotten;
                if ours && unheard && from > sent { Outcome::NotBegun } else { Outcome::Unknown }
            }
        }
    }

    /// Of all that has come, nothing can be told any more.
    pub fn forget_all(&mut self) {
        *self =
            Self { newest: self.newest, sender: self.sender, barred: self.newest, ..Self::default() };
    }

    /// Whether the process that drew it is the one whose changes these are.
    pub fn is_of(&self, id: ChangeId) -> bool {
        self.sender == id.sender
    }

    /// Whether anything is left that time takes away.
    pub fn keeps_any(&self) -> bool {
        !self.ended.is_empty()
    }

    /// A process that begins to send takes the place of the one before it, whose clients are gone.
    fn hear(&mut self, sender: u128, from: Session) {
        if sender != self.sender {
            self.forget_all();
            self.sender = sender;
        }
        self.newest = from;
    }

    /// What has been kept long enough, or is more than may be kept.
    pub fn forget(&mut self, now: BootTime) {
        while let Some((at, number)) = self.ended.front().copied() {
            let room = self.ended.len() <= ANSWERS_MAX && self.bytes <= BYTES_MAX;
            if room && now.since(at) < KEPT {
                return;
            }
            self.ended.pop_front();
            if let Some(Row::Ended(Some((_, bytes)))) = self.rows.remove(&number) {
                self.bytes -= bytes;
            }
            self.forgotten = self.forgotten.max(number);
        }
    }
}

#[cfg(test)]
mod tests;
