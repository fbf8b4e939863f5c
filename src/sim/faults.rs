//! What goes wrong, and when: all of it by the seed, one thing at a time at each site.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use super::PRIMARY;
use super::clock::{note, now};
use super::net::{Net, millis};
use super::site::Site;
use crate::id::SiteId;
use crate::work::single::{outside, pick};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    OneWay,
    Partition,
    Reset,
    Pause,
    Kill,
    PowerCut,
    ServerCrash,
    Sloppy,
    FullDisk,
    WallJump,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::OneWay,
        Self::Partition,
        Self::Reset,
        Self::Pause,
        Self::Kill,
        Self::PowerCut,
        Self::ServerCrash,
        Self::Sloppy,
        Self::FullDisk,
        Self::WallJump,
    ];
}

/// What is going on.
pub struct Faults {
    net: Net,
    sites: Vec<Rc<Site>>,
    kinds: Vec<Fault>,
    busy: RefCell<BTreeSet<(Fault, &'static str)>>,
}

impl Faults {
    pub fn new(net: &Net, sites: &[Rc<Site>], kinds: &[Fault]) -> Rc<Self> {
        let (net, sites, kinds) = (net.clone(), sites.to_vec(), kinds.to_vec());
        Rc::new(Self { net, sites, kinds, busy: RefCell::default() })
    }

    /// Makes trouble until then.
    pub async fn run(self: Rc<Self>, until: Duration) {
        while !self.kinds.is_empty() && Duration::from_nanos(now()) < until {
            sleep(millis(200, 3000)).await;
            let kind = self.kinds[pick(self.kinds.len() as u64) as usize];
            let site = self.sites[pick(self.sites.len() as u64) as usize].clone();
            if !self.busy.borrow_mut().insert((kind, site.name)) {
                continue;
            }
            let this = self.clone();
            outside(async move {
                this.happen(kind, &site).await;
                this.busy.borrow_mut().remove(&(kind, site.name));
            });
        }
    }

    async fn happen(&self, kind: Fault, site: &Rc<Site>) {
        // Mostly short, sometimes longer than a lease.
        let span = if pick(3) == 0 { millis(5000, 12_000) } else { millis(50, 3000) };
        match kind {
            Fault::OneWay | Fault::Partition => self.part(kind, site, span).await,
            Fault::Reset => {
                note(|| format!("the line of {} breaks", site.name));
                self.net.reset(&site.id());
            }
            Fault::Pause => {
                let Some(live) = site.live() else { return };
                note(|| format!("{} stands still for {span:?}", site.name));
                live.group.set_paused(true);
                sleep(span).await;
                note(|| format!("{} goes on", site.name));
                live.group.set_paused(false);
            }
            Fault::Kill | Fault::PowerCut => {
                if site.live().is_none() {
                    return;
                }
                site.crash(kind == Fault::PowerCut);
                sleep(span / 3).await;
                site.start();
            }
            Fault::ServerCrash => {
                note(|| format!("{}: the server crashes", site.name));
                site.server.stop();
                sleep(span / 3).await;
                site.server.start();
            }
            Fault::Sloppy => {
                note(|| format!("{}: the server is sloppy for {span:?}", site.name));
                site.server.set_sloppy(true);
                sleep(span).await;
                site.server.set_sloppy(false);
            }
            Fault::FullDisk => {
                site.set_full(true);
                sleep(span).await;
                site.set_full(false);
            }
            Fault::WallJump => {
                let by = match pick(3) {
                    0 => 3_600_000_000_000,
                    1 => 5_000_000_000,
                    _ => 150_000_000,
                };
                let by = if pick(2) == 0 { by } else { -by };
                note(|| format!("{}: the wall clock is set by {} ms", site.name, by / 1_000_000));
                site.clock.jump(by);
            }
        }
    }

    async fn part(&self, kind: Fault, site: &Site, span: Duration) {
        let primary: SiteId = PRIMARY.parse().expect("a name of ours");
        let there = site.id();
        if there == primary {
            // All lines end there: it is cut off from all.
            for other in &self.sites {
                self.block(&other.id(), &primary, kind, true);
            }
            sleep(span).await;
            for other in &self.sites {
                self.block(&other.id(), &primary, kind, false);
            }
            return;
        }
        let kind_here = if kind == Fault::Partition { 2 } else { pick(2) };
        let (from, to) = if kind_here == 1 { (&primary, &there) } else { (&there, &primary) };
        note(|| format!("nothing gets from {from} to {to} for {span:?}"));
        self.net.set_blocked(from, to, true);
        if kind_here == 2 {
            self.net.set_blocked(to, from, true);
        }
        sleep(span).await;
        note(|| format!("{from} and {to} hear of each other again"));
        self.net.set_blocked(from, to, false);
        self.net.set_blocked(to, from, false);
    }

    fn block(&self, site: &SiteId, primary: &SiteId, kind: Fault, blocked: bool) {
        if site == primary {
            return;
        }
        note(|| format!("{site} to {primary}: blocked: {blocked}"));
        self.net.set_blocked(site, primary, blocked);
        if kind == Fault::Partition {
            self.net.set_blocked(primary, site, blocked);
        }
    }

    /// Everything is well from now on.
    pub async fn end(&self) {
        while !self.busy.borrow().is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
        self.net.heal();
        note(|| "everything is well".to_owned());
    }
}
