//! Sites that are to dial this one. One that never has is in no list of links: it is told of here.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::id::SiteId;
use crate::link::{Direction, PeerState};
use crate::map::Map;

/// After a start, or a map that is the first to say so, a site has so long to dial.
const GRACE_MS: i64 = 30_000;

/// Since when this site waits for each, in milliseconds since 1970.
#[derive(Default)]
pub struct Awaited(Mutex<BTreeMap<SiteId, i64>>);

impl Awaited {
    /// Whoever has a part in a share that is led from here dials.
    pub fn by(&self, map: &Map, me: &SiteId, now: i64) {
        let led = map.shares.values().filter(|share| share.primary() == me);
        let sites = led.flat_map(|share| share.sites()).map(|(site, _)| site).filter(|site| *site != me);
        let mut awaited = self.lock();
        let before = std::mem::take(&mut *awaited);
        let since = |site: &SiteId| before.get(site).copied().unwrap_or(now);
        awaited.extend(sites.map(|site| (site.clone(), since(site))));
    }

    /// Makes the list of links whole: those that are late are down, and one that nobody has to dial any more, for
    /// the primary copy has moved or the map has changed, is none once it has ended.
    pub fn complete(&self, links: &mut Vec<PeerState>, now: i64) {
        links.extend(self.missing(links, now));
        let awaited = self.lock();
        links.retain(|link| {
            link.up || link.direction == Direction::Dialled || awaited.contains_key(&link.site)
        });
    }

    /// Those that are not among `known` and are late, as links that are down.
    fn missing(&self, known: &[PeerState], now: i64) -> Vec<PeerState> {
        let awaited = self.lock();
        let late = awaited.iter().filter(|(site, since)| {
            now.saturating_sub(**since) >= GRACE_MS && !known.iter().any(|link| link.site == **site)
        });
        let missing = |(site, since): (&SiteId, &i64)| PeerState {
            site: site.clone(),
            direction: Direction::Accepted,
            up: false,
            bulk: false,
            since_unix_ms: *since,
            address: None,
            rtt_ms: None,
            session: None,
            map: None,
            disagrees: Default::default(),
            last_error: None,
        };
        late.map(missing).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SiteId, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOOR: &str = "{ server = \"embedded\", listen = \"0.0.0.0:80\" }";

    fn map(shares: &str) -> Map {
        let sites = ["hq", "lyon", "osaka", "paris"]
            .map(|name| format!("[site.{name}]\nlink = \"{name}:1\"\nhttp = {DOOR}\n"))
            .concat();
        crate::map::parse(&format!("serial = 1\n{sites}{shares}")).unwrap()
    }

    #[test]
    fn a_site_that_never_dialled_is_missed_after_a_while() {
        let role = |site: &str, role: &str| match role {
            "remote" => format!("{site} = {{ role = \"remote\" }}\n"),
            _ => format!("{site} = {{ role = \"{role}\", path = \"/{site}\" }}\n"),
        };
        let docs = format!(
            "[share.docs]\nhttp = \"/docs\"\n{}{}{}",
            role("hq", "local"),
            role("lyon", "broadcast"),
            role("osaka", "remote")
        );
        let me: SiteId = "hq".parse().unwrap();
        let awaited = Awaited::default();
        let missing = |known: &[PeerState], now| -> Vec<String> {
            awaited.missing(known, now).iter().map(|link| link.site.to_string()).collect()
        };
        awaited.by(&map(&docs), &me, 1000);
        assert!(missing(&[], 1000 + GRACE_MS - 1).is_empty());
        assert_eq!(missing(&[], 1000 + GRACE_MS), ["lyon", "osaka"]);
        let links = awaited.missing(&[], 50_000);
        assert!(links.iter().all(|link| !link.up && link.since_unix_ms == 1000));
        // One that has been here tells of itself, up or down.
        assert_eq!(missing(&links[..1], 50_000), ["osaka"]);
        // A new map begins anew for new sites only.
        let more = format!("{docs}{}", role("paris", "broadcast"));
        awaited.by(&map(&more), &me, 60_000);
        assert_eq!(missing(&[], 60_001), ["lyon", "osaka"]);
        assert_eq!(missing(&[], 60_000 + GRACE_MS), ["lyon", "osaka", "paris"]);
        let known = || vec![links[0].clone(), PeerState { up: true, ..links[1].clone() }];
        let complete = |mut links: Vec<PeerState>, now| -> Vec<String> {
            awaited.complete(&mut links, now);
            links.iter().map(|link| format!("{} {}", link.site, link.up)).collect()
        };
        assert_eq!(complete(known(), 100_000), ["lyon false", "osaka true", "paris false"]);
        // Who does not lead is dialled by nobody: what ends is missed by nobody either.
        awaited.by(&map(&more), &"lyon".parse().unwrap(), 60_000);
        assert!(missing(&[], i64::MAX).is_empty());
        assert_eq!(complete(known(), 100_000), ["osaka true"]);
        let dialled = PeerState { direction: Direction::Dialled, ..links[0].clone() };
        assert_eq!(complete(vec![dialled], 100_000), ["lyon false"]);
    }
}
