//! What a site says of itself. `nearshare status --json` prints it as it is here. Not here: how it is
//! said to people (`words`, `page`).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use crate::clock::WallTime;
use crate::follow;
use crate::id::{Epoch, Seq, ShareId, SiteId};
use crate::link::own::Validity;
use crate::link::{Direction, PeerState, Refused};
use crate::notice;
use crate::verify;

use super::words;

/// The field of an answer to `GET /status` that holds the verdict.
pub const VERDICT: &str = "nearshare-verdict";
/// Nothing is wrong.
pub const VERDICT_OK: &str = "ok";
/// Somebody should look.
pub const VERDICT_WRONG: &str = "wrong";

/// One site, at one moment. Times are milliseconds since 1970-01-01 UTC by this site's clock.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub version: String,
    pub site: SiteId,
    pub pid: u32,
    /// When this was said.
    pub at_unix_ms: i64,
    /// When the process started.
    pub since_unix_ms: i64,
    /// It was told to stop: requests in flight may end, nothing new is taken.
    pub stopping: bool,
    pub map: MapStatus,
    /// From when to when other sites take this one's certificate.
    pub certificate: Validity,
    /// `None` at a site without an HTTP door.
    pub http: Option<HttpStatus>,
    pub links: Vec<PeerState>,
    /// The latest refused connections, oldest first.
    pub refused: Vec<Refused>,
    pub shares: Vec<ShareStatus>,
}

/// The map in use.
#[derive(Debug, Clone, Serialize)]
pub struct MapStatus {
    pub serial: u64,
    /// BLAKE3 of the text, 64 hexadecimal digits.
    pub hash: String,
    pub file: PathBuf,
}

/// The door and the server behind it.
#[derive(Debug, Clone, Serialize)]
pub struct HttpStatus {
    pub listen: SocketAddr,
    /// As the map has it: `embedded` or `http://host:port`.
    pub server: String,
    /// It was asked since the start: by clients, or by nearshare while there are none.
    pub asked: bool,
    /// The server answers, as far as is known.
    pub up: bool,
    pub last_error: Option<String>,
    /// Where the door listens for TLS.
    pub tls: Option<SocketAddr>,
    /// Clients' open connections.
    pub connections: u64,
    /// Clients and requests that were turned away since the start, by reason; reasons that never came up are
    /// left out.
    pub turned_away: BTreeMap<&'static str, u64>,
    /// Changes forwarded since the start whose link broke before the answer, by what was found out afterwards.
    pub changes_lost: BTreeMap<&'static str, u64>,
}

/// One share at this site.
#[derive(Debug, Clone, Serialize)]
pub struct ShareStatus {
    pub share: ShareId,
    /// `local`, `broadcast` or `remote`.
    pub role: &'static str,
    pub primary: SiteId,
    /// Whom the map names as `local`, if that is another (R33).
    pub map_primary: Option<SiteId>,
    pub epoch: Epoch,
    /// The last record that is in the catalog here.
    pub position: Seq,
    pub objects: u64,
    pub bytes: u64,
    /// Of clients, where it is nearshare that keeps them: at the primary.
    pub locks: Option<usize>,
    pub state: ShareState,
    /// What keeps the share from working as it should.
    pub wrong: Option<String>,
    /// What to do about it.
    pub fix: Option<String>,
    /// At the primary.
    pub home: Option<notice::Standing>,
    /// At a copy.
    pub copy: Option<follow::Progress>,
    /// At the primary: how far the copies are.
    pub copies: Vec<CopyStatus>,
    /// What is kept aside under `.nearshare/kept/`; 100,000 of more.
    pub kept: u64,
    /// The last `nearshare verify`, with the first of what is wrong; `None` where there was none.
    pub verify: Option<verify::Report>,
    /// What is not carried here: for lack of a privilege, because of the file system, or because another one
    /// is mounted there.
    pub limits: Vec<String>,
}

/// What a share does at this site, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShareState {
    /// At the primary: all is well.
    Ok,
    /// At the primary: looking over the directory.
    Scanning,
    /// At a copy: finding out what it has.
    Comparing,
    /// At a copy: contents are on their way.
    Filling,
    /// At a copy: all is well.
    Following,
    /// Nothing to go on with yet: the link, or the primary's first scan.
    Waiting,
    /// It cannot go on without somebody's help.
    Stopped,
    /// The primary's site cannot be reached.
    CutOff,
    /// No copy here: everything is forwarded.
    Remote,
}

impl ShareState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Scanning => "scanning",
            Self::Comparing => "comparing",
            Self::Filling => "filling",
            Self::Following => "following",
            Self::Waiting => "waiting",
            Self::Stopped => "stopped",
            Self::CutOff => "cut-off",
            Self::Remote => "remote",
        }
    }
}

/// A copy elsewhere, as the primary's site knows it.
#[derive(Debug, Clone, Serialize)]
pub struct CopyStatus {
    pub site: SiteId,
    /// Records that it has not acknowledged.
    pub lag_records: u64,
    /// Age of the oldest of them, no more than this process's of a copy that was never heard of; 0 when there is
    /// none.
    pub lag_seconds: f64,
    /// Bytes of the contents that it awaits, and at most those of records that it has not acknowledged
    /// (of the first thousand of them).
    pub lag_bytes: u64,
    /// Contents that it awaits.
    pub debts: u64,
    /// When it was last heard of; `None` when never.
    pub seen_unix_ms: Option<i64>,
}

/// One thing that somebody should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wrong {
    pub what: String,
    pub fix: Option<String>,
}

impl Status {
    /// All that is wrong, worst first; empty when all is well. Work in progress is not wrong, neither is
    /// a stranger who was refused.
    pub fn wrong(&self) -> Vec<Wrong> {
        let shares = self.shares.iter().filter_map(ShareStatus::trouble);
        let http = self.http.iter().filter(|http| !http.up).map(HttpStatus::trouble);
        let links = self.links.iter().flat_map(|link| link_trouble(link, self.at_unix_ms));
        let certificate = self.certificate.trouble(&self.site, self.now());
        let certificate = certificate.map(|(what, fix)| Wrong { what, fix: Some(fix) });
        shares.chain(http).chain(links).chain(certificate).collect()
    }

    pub(super) fn now(&self) -> WallTime {
        WallTime(self.at_unix_ms.saturating_mul(1_000_000))
    }
}

impl ShareStatus {
    /// What is wrong with the share here. One that is only cut off is the link's trouble.
    fn trouble(&self) -> Option<Wrong> {
        let home = self.home.as_ref().and_then(|home| home.stopped.as_ref());
        let copy = self.copy.as_ref().and_then(|copy| copy.stopped.as_ref());
        let told = self.wrong.as_ref().or(home).or(copy);
        let share = &self.share;
        match told {
            Some(told) => Some(Wrong { what: format!("share {share}: {told}"), fix: self.fix.clone() }),
            None if self.state == ShareState::Stopped => {
                let fix = self.fix.clone().or_else(|| Some("see the log".to_owned()));
                Some(Wrong { what: format!("share {share} has stopped"), fix })
            }
            None => None,
        }
    }
}

impl HttpStatus {
    fn trouble(&self) -> Wrong {
        let why = self.last_error.as_deref().unwrap_or("it does not answer");
        Wrong {
            what: format!("the server at {} is down: {why}", self.server),
            fix: Some("start it, or put right `server` of this site in the map".to_owned()),
        }
    }
}

fn link_trouble(link: &PeerState, now: i64) -> Vec<Wrong> {
    let mut found = Vec::new();
    let site = &link.site;
    if !link.up {
        let fault = link.last_error.as_ref();
        let why = fault.map(|fault| format!(": {}", fault.what)).unwrap_or_default();
        let since = words::ago(now, link.since_unix_ms);
        let what = match link.direction {
            Direction::Dialled => format!("no link to {site} for {since}{why}"),
            Direction::Accepted => format!("{site} has had no link to here for {since}{why}"),
        };
        let look = || format!("look at `nearshare status` at {site} and at the line to it");
        let fix = fault.map(|fault| fault.fix.clone()).filter(|fix| !fix.is_empty());
        found.push(Wrong { what, fix: Some(fix.unwrap_or_else(look)) });
    }
    if !link.disagrees.is_empty() {
        let shares: Vec<&str> = link.disagrees.iter().map(ShareId::as_str).collect();
        found.push(Wrong {
            what: format!("the map at {site} describes {} otherwise than ours", shares.join(", ")),
            fix: Some("put the same file at both sites and run `nearshare reload`".to_owned()),
        });
    }
    found
}
