//! Write locks (RFC 4918 sections 6 and 7): what they are, and how they are told. For shares whose locks
//! nearshare keeps itself. Which there are, and what they keep others from, is in [`Locks`]. Not here: where
//! they outlive the process.

mod principal;
mod table;

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use ::http::HeaderMap;

use super::if_field::IfField;
use crate::effect::Depth;
use crate::id::RelPath;

pub use self::principal::Principal;
pub use self::table::{Barred, Denied, Locks, NotYours};

/// Longest that a lock lasts unless it is refreshed: somebody may never come back.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3600);
/// How long one lasts whose client does not say.
const TIMEOUT_USUAL: Duration = Duration::from_secs(600);
/// Most locks of a share: a change of a whole tree looks at all, 10,000 in about a millisecond.
pub const LOCKS_MAX: usize = 10_000;
/// Most of one client: a quarter, so that the others find room.
pub const CLIENT_MAX: usize = LOCKS_MAX / 4;
/// Most shared locks that one place is under: all are told with each thing in a listing.
pub const SHARED_MAX: usize = 16;
/// Most bytes of locks' owners that one answer tells: what comes after is told without. An owner may be left
/// out (RFC 4918 section 14.1), and what remains of a lock is some 350 bytes and its place.
pub const OWNERS_MAX: usize = 256 << 10;

/// One lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// A URI that nobody else has.
    pub token: String,
    pub path: RelPath,
    /// Everything below is locked too.
    pub deep: bool,
    pub shared: bool,
    /// An element, or nothing.
    pub owner: String,
    pub timeout: Duration,
    pub maker: Maker,
}

/// Who made a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Maker {
    /// Whom its token is good for (RFC 4918 section 6.4); for everybody if it is not known who that is.
    pub principal: Option<Principal>,
    /// As one client is counted.
    pub client: Option<IpAddr>,
}

impl Lock {
    /// Whether it is for `who` to use its token.
    pub fn is_for(&self, who: Option<Principal>) -> bool {
        self.maker.principal.is_none_or(|principal| who == Some(principal))
    }

    /// Whether it keeps others from that.
    pub fn bars(&self, one: &Use) -> bool {
        match one {
            Use::Entry(path) | Use::Member(path) => self.covers(path),
            Use::Tree(path) => self.covers(path) || self.path.starts_with(path),
        }
    }

    fn covers(&self, path: &RelPath) -> bool {
        self.path == *path || self.deep && path.starts_with(&self.path)
    }
}

/// The Timeout field (RFC 4918 section 10.7): the first that is understood counts.
pub fn timeout(headers: &HeaderMap) -> Duration {
    let field = headers.get("timeout").and_then(|field| field.to_str().ok()).unwrap_or_default();
    let known = field.split(',').find_map(|one| match one.trim().split_once('-') {
        None if one.trim().eq_ignore_ascii_case("infinite") => Some(TIMEOUT_MAX),
        Some((word, seconds)) if word.eq_ignore_ascii_case("second") => {
            let digits = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| Duration::from_secs(seconds.parse().unwrap_or(u64::MAX)))
        }
        _ => None,
    });
    known.unwrap_or(TIMEOUT_USUAL).clamp(Duration::from_secs(1), TIMEOUT_MAX)
}

/// What a change needs to be let by locks (RFC 4918 section 7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Use {
    /// What is at the place changes.
    Entry(RelPath),
    /// So does everything below it.
    Tree(RelPath),
    /// A name appears in the collection, or vanishes.
    Member(RelPath),
}

impl Use {
    /// The collection that has the place as a member.
    pub fn member(path: &RelPath) -> Option<Self> {
        path.split_last().map(|(above, _)| Self::Member(above))
    }
}

/// What an If field comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Judged {
    Holds,
    Fails,
    /// It depends on these entity tags, which the server knows.
    Rests(IfField),
}

/// `activelock` (RFC 4918 section 14.1), where `D` stands for `DAV:`.
fn active(lock: &Lock, left: Duration, owner: &str, url: &impl Fn(&RelPath) -> String) -> String {
    let scope = if lock.shared { "shared" } else { "exclusive" };
    let depth = if lock.deep { "infinity" } else { "0" };
    let (token, seconds, root) = (&lock.token, left.as_secs(), url(&lock.path));
    format!(
        "<D:activelock><D:locktype><D:write/></D:locktype><D:lockscope><D:{scope}/></D:lockscope>\
         <D:depth>{depth}</D:depth>{owner}<D:timeout>Second-{seconds}</D:timeout><D:locktoken><D:href>\
         {token}</D:href></D:locktoken><D:lockroot><D:href>{root}</D:href></D:lockroot></D:activelock>"
    )
}

/// What `supportedlock` has.
pub const SUPPORTED: &str = "<D:lockentry><D:lockscope><D:exclusive/></D:lockscope><D:locktype><D:write/>\
    </D:locktype></D:lockentry><D:lockentry><D:lockscope><D:shared/></D:lockscope><D:locktype><D:write/>\
    </D:locktype></D:lockentry>";

/// The answer to a LOCK.
pub fn granted(lock: &Lock, url: impl Fn(&RelPath) -> String) -> String {
    let active = active(lock, lock.timeout, &lock.owner, &url);
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:prop xmlns:D=\"DAV:\"><D:lockdiscovery>{active}\
         </D:lockdiscovery></D:prop>\n"
    )
}

/// The answer to who lacks a token (RFC 4918 section 16).
pub fn refused(locked: &[&str], condition: &str) -> String {
    let mut out =
        format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:error xmlns:D=\"DAV:\"><D:{condition}>");
    for url in locked {
        let _ = write!(out, "<D:href>{url}</D:href>");
    }
    let _ = writeln!(out, "</D:{condition}></D:error>");
    out
}

/// How far down a LOCK goes: `None` for a depth that it cannot have.
pub fn deep(depth: Option<Depth>) -> Option<bool> {
    match depth {
        None | Some(Depth::Tree) => Some(true),
        Some(Depth::Object) => Some(false),
        Some(Depth::Children) => None,
    }
}

#[cfg(test)]
mod tests;
