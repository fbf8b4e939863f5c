//! Which share a URL is in.

use super::path::{PathError, UrlPath, encode, may_climb, segment, segments};
use super::prefix::Move;
use crate::id::{Name, RelPath, ShareId};

/// Where mod_dav_fs keeps the properties of what is in a directory.
const DAV: &[u8] = b".DAV";

/// One share's place among a site's URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareUrl {
    pub share: ShareId,
    prefix: Vec<Name>,
    /// The prefix as it goes into URLs: `/a/b`, or empty for a share at the root.
    encoded: String,
    stay: Move,
    properties: bool,
    asks_home: bool,
}

impl ShareUrl {
    /// `prefix` as the map has it: `/engineering`.
    pub fn new(share: ShareId, prefix: &str) -> Result<Self, PathError> {
        let prefix = UrlPath::decode(prefix)?.names;
        let mut encoded = encode("", &RelPath::new(prefix.clone())?, false);
        if prefix.is_empty() {
            encoded.clear();
        }
        let stay = Move::new(&prefix, &encoded);
        Ok(Self { share, prefix, encoded, stay, properties: false, asks_home: false })
    }
    /// Whether its servers keep what clients set with PROPPATCH, as mod_dav does: in a directory `.DAV` beside
    /// what it is about, which is no client's business.
    #[must_use]
    pub fn with_properties(self, properties: bool) -> Self {
        Self { properties, ..self }
    }
    /// Whether what clients set is known at the primary's site alone, though not kept in such directories.
    #[must_use]
    pub fn asking_home(self, asks_home: bool) -> Self {
        Self { asks_home, ..self }
    }
    /// Whether only the primary's site can say what clients have set.
    pub fn asks_home(&self) -> bool {
        self.properties || self.asks_home
    }
    /// Whether clients may not see or name the place.
    pub fn hides(&self, path: &RelPath) -> bool {
        path.has_ours() || self.properties && path.names().iter().any(|name| name.as_bytes() == DAV)
    }
    /// The directories with the properties of a place and of what it holds.
    pub fn beside(&self, path: &RelPath) -> Vec<RelPath> {
        let places = [path.split_last().map(|(above, _)| above), Some(path.clone())];
        let places = places.into_iter().flatten().filter(|_| self.properties);
        places
            .filter_map(|at| RelPath::new([at.names(), &[Name::new(DAV).ok()?]].concat()).ok())
            .collect()
    }
    pub fn encoded(&self) -> &str {
        &self.encoded
    }
    pub fn prefix(&self) -> &[Name] {
        &self.prefix
    }
    /// From this prefix to itself: makes an absolute path of an absolute URI.
    pub fn stay(&self) -> &Move {
        &self.stay
    }
    fn relation(&self, walk: &[std::borrow::Cow<'_, [u8]>]) -> Relation {
        let common = self.prefix.iter().zip(walk).take_while(|(a, b)| a.as_bytes() == &***b).count();
        match (common == self.prefix.len(), common == walk.len()) {
            (true, _) => Relation::Inside,
            (false, true) => Relation::Above,
            (false, false) => Relation::Apart,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Relation {
    Inside,
    Above,
    Apart,
}

/// All shares that a site has under URLs.
#[derive(Debug, Clone, Default)]
pub struct SiteShares(Vec<ShareUrl>);

/// Where a URL leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Located {
    Outside,
    /// To a directory that has a share below it.
    Above,
    Inside {
        slot: usize,
        path: RelPath,
        slash: bool,
        /// The path is written as we would write it.
        canonical: bool,
        /// Another share lies below this place.
        above: bool,
    },
}

impl SiteShares {
    /// The slots are the indexes into `shares`.
    pub fn new(shares: Vec<ShareUrl>) -> Self {
        Self(shares)
    }
    /// The share of a slot that [`Self::locate`] gave.
    pub fn share(&self, slot: usize) -> &ShareId {
        &self.0[slot].share
    }
    pub fn url(&self, slot: usize) -> &ShareUrl {
        &self.0[slot]
    }
    pub fn len(&self) -> usize {
        self.0.len()
    }
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Finds the share of a URL's path, by whole segments, the longest prefix winning.
    ///
    /// A path that different servers may read differently is refused, unless it leads outside every
    /// share however it is read.
    pub fn locate(&self, raw: &str) -> Result<Located, PathError> {
        if raw == "*" {
            return Ok(Located::Outside);
        }
        let mut walk = Vec::with_capacity(8);
        let mut canonical = true;
        let mut parts = segments(raw)?.peekable();
        while let Some(raw) = parts.next() {
            if raw.is_empty() {
                canonical &= parts.peek().is_none();
                continue;
            }
            let odd = match segment(raw) {
                Ok(part) if part.climbs() => return Err(PathError::Dots),
                Ok(part) => match part.bytes.iter().find(|byte| matches!(byte, 0 | b'/')) {
                    None => {
                        canonical &= part.canonical;
                        walk.push(part.bytes);
                        continue;
                    }
                    Some(0) => PathError::Nul,
                    Some(_) => PathError::EncodedSlash,
                },
                Err(odd) => odd,
            };
            // From here on the server may see another path than we do.
            if self.0.iter().any(|share| share.relation(&walk) != Relation::Apart) {
                return Err(odd);
            }
            return match std::iter::once(raw).chain(parts).any(may_climb) {
                true => Err(PathError::Dots),
                false => Ok(Located::Outside),
            };
        }
        self.place(&walk, raw.ends_with('/'), canonical)
    }

    /// The place below a share that a path of a server's URL leads to; `None` outside of it.
    pub fn inside(&self, slot: usize, path: &str) -> Option<RelPath> {
        let path = path.split(['?', '#']).next()?;
        match self.locate(path) {
            Ok(Located::Inside { slot: found, path, .. }) if found == slot => Some(path),
            _ => None,
        }
    }

    fn place(
        &self,
        walk: &[std::borrow::Cow<'_, [u8]>],
        slash: bool,
        canonical: bool,
    ) -> Result<Located, PathError> {
        let mut found: Option<usize> = None;
        let mut above = false;
        for (slot, share) in self.0.iter().enumerate() {
            match share.relation(walk) {
                Relation::Inside => {
                    let longer =
                        found.is_none_or(|other| self.0[other].prefix.len() < share.prefix.len());
                    found = if longer { Some(slot) } else { found };
                }
                Relation::Above => above = true,
                Relation::Apart => {}
            }
        }
        let Some(slot) = found else {
            return Ok(if above { Located::Above } else { Located::Outside });
        };
        let below = &walk[self.0[slot].prefix.len()..];
        let names = below.iter().map(|bytes| Name::new(bytes)).collect::<Result<_, _>>()?;
        Ok(Located::Inside { slot, path: RelPath::new(names)?, slash, canonical, above })
    }
}
