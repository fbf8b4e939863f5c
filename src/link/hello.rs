//! The first request on every connection, `POST /v1/hello`: both sides say which protocol versions they
//! speak, which map they have and that they know the cluster's secret. Pure. Positions in journals are
//! not told here; the journal's own stream has them.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::refuse::{Reason, Refusal};
use super::{Class, Session, Terms};
use crate::id::{ShareId, SiteId};

pub(super) const HELLO_PATH: &str = "/v1/hello";
/// With the hash of a map behind it: answered when the acceptor has another, for only the dialler says hello.
pub(super) const NEWS_PATH: &str = "/v1/map";
/// Longest hello or answer, in bytes: the digests, 32 bytes and a name each, of the 17,000 shares that fit
/// into the longest map.
pub(super) const HELLO_MAX: usize = 1 << 20;
/// The protocol versions that this build speaks, lowest and highest.
pub(super) const VERSIONS: (u32, u32) = (1, 1);
/// Longest product version that is shown, in characters.
const PRODUCT_MAX: usize = 64;

/// What a site says of itself. Also the answer, with the dialler's session.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Hello {
    #[prost(uint32, tag = "1")]
    pub version_min: u32,
    #[prost(uint32, tag = "2")]
    pub version_max: u32,
    #[prost(string, tag = "3")]
    pub product: String,
    /// 1 control, 2 bulk.
    #[prost(uint32, tag = "4")]
    pub class: u32,
    #[prost(uint64, tag = "5")]
    pub session_start: u64,
    #[prost(uint64, tag = "6")]
    pub session_count: u64,
    #[prost(uint64, tag = "7")]
    pub map_serial: u64,
    #[prost(bytes = "vec", tag = "8")]
    pub map_hash: Vec<u8>,
    #[prost(message, repeated, tag = "9")]
    pub digests: Vec<ShareDigest>,
    #[prost(bytes = "vec", tag = "10")]
    pub secret: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ShareDigest {
    #[prost(string, tag = "1")]
    pub share: String,
    #[prost(bytes = "vec", tag = "2")]
    pub digest: Vec<u8>,
}

/// The answer to a hello that is refused, or to a request of a session that is over.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct No {
    #[prost(string, tag = "1")]
    pub why: String,
    #[prost(string, tag = "2")]
    pub fix: String,
    /// The latest session of the dialler that the acceptor knows of: a new one must be above it.
    #[prost(uint64, tag = "3")]
    pub session_start: u64,
    #[prost(uint64, tag = "4")]
    pub session_count: u64,
}

/// What is known of the other side's map and build from its hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Theirs {
    /// The highest protocol version that both speak.
    pub version: u32,
    pub product: String,
    pub serial: u64,
    pub hash: [u8; 32],
    pub digests: BTreeMap<ShareId, [u8; 32]>,
}

/// How the two maps differ, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerMap {
    pub product: String,
    pub protocol: u32,
    pub map_serial: u64,
    pub same_map: bool,
}

impl Hello {
    pub(super) fn new(class: Class, session: Session, terms: &Terms, secret: [u8; 32]) -> Self {
        let digests = terms
            .digests
            .iter()
            .map(|(share, digest)| ShareDigest { share: share.to_string(), digest: digest.to_vec() });
        Self {
            version_min: VERSIONS.0,
            version_max: VERSIONS.1,
            product: env!("CARGO_PKG_VERSION").into(),
            class: class.number(),
            session_start: session.0,
            session_count: session.1,
            map_serial: terms.serial,
            map_hash: terms.hash.to_vec(),
            digests: digests.collect(),
            secret: secret.to_vec(),
        }
    }
    pub(super) fn session(&self) -> Session {
        Session(self.session_start, self.session_count)
    }
    /// What the hello of `site` says, or why it is refused.
    pub(super) fn judge(
        &self,
        site: &SiteId,
        class: Class,
        secret: &[u8; 32],
    ) -> Result<Theirs, Refusal> {
        let refuse = |reason, why, fix| Err(Refusal { reason, claims: Some(site.clone()), why, fix });
        let (min, max) = VERSIONS;
        let version = max.min(self.version_max);
        if version < min.max(self.version_min) {
            return refuse(
                Reason::Version,
                format!(
                    "{site} speaks protocol versions {} to {}, this site {min} to {max}",
                    self.version_min, self.version_max
                ),
                format!(
                    "bring both sites to releases next to each other ({site} runs {}, this site {})",
                    printable(&self.product),
                    env!("CARGO_PKG_VERSION")
                ),
            );
        }
        if self.secret != secret {
            return refuse(
                Reason::Secret,
                format!("{site} has another cluster secret"),
                "copy the file `secret` of the CA's directory to both sites, it is the same for all"
                    .into(),
            );
        }
        let digests = self.digests.iter().map(|digest| {
            let share = digest.share.parse().ok()?;
            Some((share, digest.digest.as_slice().try_into().ok()?))
        });
        let parsed =
            digests.collect::<Option<BTreeMap<_, _>>>().zip(self.map_hash.as_slice().try_into().ok());
        let Some((digests, hash)) = parsed.filter(|_| self.class == class.number()) else {
            return refuse(
                Reason::Hello,
                format!("the hello of {site} makes no sense"),
                "run the same release at both sites, and report this".into(),
            );
        };
        let product = printable(&self.product);
        Ok(Theirs { version, product, serial: self.map_serial, hash, digests })
    }
}

impl Theirs {
    /// The shares that the two maps describe differently, or that only one of them has.
    pub(super) fn disagrees(&self, ours: &Terms) -> BTreeSet<ShareId> {
        let shares = self.digests.keys().chain(ours.digests.keys());
        let differs = |share: &&ShareId| self.digests.get(*share) != ours.digests.get(*share);
        shares.filter(differs).cloned().collect()
    }
    pub(super) fn map(&self, ours: &Terms) -> PeerMap {
        PeerMap {
            product: self.product.clone(),
            protocol: self.version,
            map_serial: self.serial,
            same_map: self.same_map(ours),
        }
    }
    pub(super) fn same_map(&self, ours: &Terms) -> bool {
        (self.serial, self.hash) == (ours.serial, ours.hash)
    }
}

/// A map's hash as text.
pub(super) fn hash_text(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The other side's text, made fit for a log line.
pub(super) fn printable(text: &str) -> String {
    text.chars().take(PRODUCT_MAX).map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(digests: &[(&str, u8)]) -> Terms {
        let digests = digests.iter().map(|(share, n)| (share.parse().unwrap(), [*n; 32]));
        Terms { serial: 7, hash: [9; 32], digests: digests.collect(), ..Terms::default() }
    }

    fn judge(change: impl FnOnce(&mut Hello)) -> Result<Theirs, Reason> {
        let mut hello = Hello::new(Class::Bulk, Session(3, 4), &terms(&[("a", 1)]), [5; 32]);
        change(&mut hello);
        hello.judge(&"hq".parse().unwrap(), Class::Bulk, &[5; 32]).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn our_own_hello_is_taken() {
        let theirs = judge(|_| {}).unwrap();
        assert_eq!((theirs.version, theirs.serial, theirs.hash), (1, 7, [9; 32]));
        assert!(theirs.same_map(&terms(&[])));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        type Change = fn(&mut Hello);
        let table: [(Change, Reason); 6] = [
            (|h| (h.version_min, h.version_max) = (2, 3), Reason::Version),
            (|h| (h.version_min, h.version_max) = (0, 0), Reason::Version),
            (|h| h.secret[0] ^= 1, Reason::Secret),
            (|h| h.class = 1, Reason::Hello),
            (|h| h.map_hash.clear(), Reason::Hello),
            (|h| h.digests[0].share = "A B".into(), Reason::Hello),
        ];
        for (change, reason) in table {
            assert_eq!(judge(change), Err(reason));
        }
    }

    #[test]
    fn a_newer_release_that_still_speaks_ours_is_taken() {
        assert_eq!(judge(|h| h.version_max = 9).unwrap().version, 1);
    }

    #[test]
    fn shares_disagree_when_either_map_says_otherwise() {
        let hello = Hello::new(
            Class::Control,
            Session(1, 1),
            &terms(&[("same", 1), ("other", 1), ("theirs", 1)]),
            [0; 32],
        );
        let theirs = hello.judge(&"hq".parse().unwrap(), Class::Control, &[0; 32]).unwrap();
        let disagrees = theirs.disagrees(&terms(&[("same", 1), ("other", 2), ("ours", 1)]));
        let names: Vec<_> = disagrees.iter().map(ShareId::as_str).collect();
        assert_eq!(names, ["other", "ours", "theirs"]);
    }
}
