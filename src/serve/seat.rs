//! A site, as what moves primary copies sees it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::lead::{self, End, Host, Moving};
use super::share::Part;
use super::{ServeError, Site, terms};
use crate::catalog::Shelf;
use crate::clock::Clock;
use crate::follow::Follow;
use crate::id::{ShareId, SiteId};
use crate::link::Net;
use crate::map::Map;
use crate::notice::Notice;
use crate::tree::Disk;
use crate::wire::http::lock::Lock;

impl Host for Site {
    type Tree = Disk;

    fn me(&self) -> &SiteId {
        &self.options.site
    }
    fn map(&self) -> Arc<Map> {
        self.map.load_full()
    }
    fn shelf(&self, share: &ShareId) -> Result<Arc<Shelf>, ServeError> {
        Ok(self.catalog.share(share)?)
    }
    fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
    fn links(&self) -> Arc<dyn Net> {
        self.links.clone()
    }
    fn contact(&self, site: &SiteId) -> i64 {
        self.links.peer(site).map_or(0, |peer| peer.state().since_unix_ms)
    }
    fn dial_too(&self, sites: BTreeSet<SiteId>) {
        let mut wider = terms(&self.map.load(), &self.options);
        wider.dial.extend(sites);
        self.links.set_terms(Arc::new(wider));
    }
    fn home(&self, share: &ShareId) -> Option<Arc<Notice<Disk>>> {
        match &self.shares().get(share)?.part {
            Part::Home(notice) => Some(notice.clone()),
            Part::Copy(_) => None,
        }
    }
    fn copy(&self, share: &ShareId) -> Option<Arc<Follow<Disk>>> {
        match &self.shares().get(share)?.part {
            Part::Copy(follow) => Some(follow.clone()),
            Part::Home(_) => None,
        }
    }
    fn disk(&self, share: &ShareId) -> Option<Arc<Disk>> {
        self.shares().get(share).map(|running| running.disk.clone())
    }
    fn locks(&self, share: &ShareId) -> Vec<Lock> {
        let map = self.map.load();
        let keeps = map.shares.get(share).is_some_and(|row| map.keeps_locks(row));
        let keeper = self.shares().get(share).and_then(|running| running.keeper.clone());
        keeper.filter(|_| keeps).map(|keeper| keeper.all()).unwrap_or_default()
    }
    fn take_out(&self, share: &ShareId) -> Option<(bool, End)> {
        let running = self.shares().remove(share)?;
        let primary = matches!(running.part, Part::Home(_));
        Some((primary, Box::new(move || running.leave())))
    }
    fn install(&self) -> Result<(), ServeError> {
        let map = lead::led(&self.catalog, &self.options.site, &self.text.load())?;
        self.take_up(map)
    }
    fn moving(&self) -> &Moving {
        &self.moving
    }
    fn stopping(&self) -> &CancellationToken {
        &self.stop
    }
}
