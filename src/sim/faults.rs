//! What goes wrong, and when: all of it by the seed, one thing at a time at each site.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Rules;
use super::clock::{note, now};
use super::net::{Net, millis};
use super::site::Site;
use crate::hold::LEASE;
use crate::work::single::{outside, pick};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    OneWay,
    Partition,
    Reset,
    Pause,
    /// The same of the whole machine, with its boot clock.
    Frozen,
    Kill,
    PowerCut,
    ServerCrash,
    Sloppy,
    FullDisk,
    /// The disk of the catalog.
    FullState,
    /// A clean stop, and a start.
    Restart,
    WallJump,
    /// The primary copy moves, by an operator's word.
    Promote,
    /// The same, without the old primary.
    Force,
    /// A new map reaches one site after the other, and the old one does later.
    Reload,
}

impl Fault {
    /// Those that may happen at any time.
    pub const ALL: [Self; 13] = [
        Self::OneWay,
        Self::Partition,
        Self::Reset,
        Self::Pause,
        Self::Frozen,
        Self::Kill,
        Self::PowerCut,
        Self::ServerCrash,
        Self::Sloppy,
        Self::FullDisk,
        Self::FullState,
        Self::Restart,
        Self::WallJump,
    ];
}

/// An operator waits so long.
const COMMAND: Duration = Duration::from_secs(90);
/// And gives a command again so often.
const TRIES: u32 = 8;

/// What a primary had on its disk, and who took its place without it had not.
pub struct Left {
    pub site: &'static str,
    pub contents: BTreeSet<Vec<u8>>,
}

/// What is going on.
pub struct Faults {
    net: Net,
    sites: Vec<Rc<Site>>,
    kinds: Vec<Fault>,
    busy: RefCell<BTreeSet<(Fault, &'static str)>>,
    pub left: RefCell<Vec<Left>>,
    /// What operators were told who gave a command.
    pub told: RefCell<Vec<String>>,
    /// From when until when some map said that the share is relaxed, in one that is strict.
    pub relaxed: RefCell<Vec<(u64, u64)>>,
}

impl Faults {
    pub fn new(net: &Net, sites: &[Rc<Site>], kinds: &[Fault]) -> Rc<Self> {
        let (net, sites, kinds) = (net.clone(), sites.to_vec(), kinds.to_vec());
        Rc::new(Self {
            net,
            sites,
            kinds,
            busy: RefCell::default(),
            left: RefCell::default(),
            told: RefCell::default(),
            relaxed: RefCell::default(),
        })
    }

    /// Makes trouble until then.
    pub async fn run(self: Rc<Self>, until: Duration) {
        while !self.kinds.is_empty() && Duration::from_nanos(now()) < until {
            sleep(millis(200, 3000)).await;
            let kind = self.kinds[pick(self.kinds.len() as u64) as usize];
            let site = self.sites[pick(self.sites.len() as u64) as usize].clone();
            // One operator, with one thing in mind.
            let moves = |kind| matches!(kind, Fault::Promote | Fault::Force);
            let alike = |other| other == kind && kind == Fault::Reload || moves(kind) && moves(other);
            // On a machine that stands still nothing happens; lines have their troubles all the same.
            let line = |kind| matches!(kind, Fault::OneWay | Fault::Partition | Fault::Reset);
            let still = |other: Fault| {
                (kind == Fault::Frozen || other == Fault::Frozen) && !line(kind) && !line(other)
            };
            let occupied = self
                .busy
                .borrow()
                .iter()
                .any(|(other, at)| alike(*other) || *at == site.name && still(*other));
            if occupied || !self.busy.borrow_mut().insert((kind, site.name)) {
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
            Fault::Promote => {
                self.promote(site, false).await;
            }
            Fault::Force => self.force(site).await,
            Fault::Reload => self.reload(site).await,
            Fault::Reset => {
                note(|| format!("the line of {} breaks", site.name));
                self.net.reset(&site.id());
            }
            Fault::Pause | Fault::Frozen => self.stand_still(kind, site, span).await,
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
            Fault::Restart => {
                if site.stop(span / 3).await {
                    sleep(span / 3).await;
                    site.start();
                }
            }
            Fault::FullState => {
                site.set_state_full(true);
                sleep(span).await;
                site.set_state_full(false);
                if site.process().is_some_and(|process| process.is_broken()) {
                    // As a process does that can write again.
                    site.crash(false);
                    site.start();
                }
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

    /// The process does nothing for a while, or its whole machine.
    async fn stand_still(&self, kind: Fault, site: &Site, span: Duration) {
        let Some(live) = site.live() else { return };
        note(|| format!("{} stands still for {span:?}: {kind:?}", site.name));
        if kind == Fault::Frozen {
            site.clock.freeze();
        }
        live.group.set_paused(true);
        sleep(span).await;
        note(|| format!("{} goes on", site.name));
        site.clock.thaw();
        live.group.set_paused(false);
    }

    /// Cuts a site off from all others, one way or both.
    async fn part(&self, kind: Fault, site: &Site, span: Duration) {
        let ways = match (kind, pick(2)) {
            (Fault::Partition, _) => (true, true),
            (_, 0) => (true, false),
            _ => (false, true),
        };
        note(|| format!("nothing gets from (0) or to (1) {} for {span:?}: {ways:?}", site.name));
        self.cut(site, ways, true);
        sleep(span).await;
        note(|| format!("{} and the others hear of each other again", site.name));
        self.cut(site, ways, false);
    }

    fn cut(&self, site: &Site, (from, to): (bool, bool), blocked: bool) {
        for other in self.sites.iter().filter(|other| other.name != site.name) {
            if from {
                self.net.set_blocked(&site.id(), &other.id(), blocked);
            }
            if to {
                self.net.set_blocked(&other.id(), &site.id(), blocked);
            }
        }
    }

    /// Another map for a while: a site without its copy, or something else promised.
    async fn reload(&self, site: &Site) {
        let (before, began) = (site.rules(), now());
        let mut after = before.clone();
        // One that is to lead must have a copy.
        let stays = |kind: &Fault| matches!(kind, Fault::Promote | Fault::Force);
        match pick(4) {
            0 => after.serve = !before.serve,
            1 => after.durable = 3 - before.durable,
            2 => after.strict = !before.strict,
            _ if site.name == super::PRIMARY || self.kinds.iter().any(stays) => return,
            _ => after.remote = Some(site.name),
        }
        note(|| format!("the map is to say {after:?}"));
        self.spread(&after).await;
        sleep(millis(0, 6000)).await;
        note(|| "the map is to be as before".to_owned());
        self.spread(&before).await;
        if after.strict != before.strict {
            // A change that was answered meanwhile may not have come to who has a lease from before.
            let over = now() + 2 * LEASE.as_nanos() as u64;
            self.relaxed.borrow_mut().push((began, over));
        }
    }

    async fn spread(&self, rules: &Rules) {
        let mut sites = self.sites.clone();
        while !sites.is_empty() {
            let site = sites.swap_remove(pick(sites.len() as u64) as usize);
            site.reload(rules).await;
            note(|| format!("{} has the new map", site.name));
            sleep(millis(0, 1500)).await;
        }
    }

    /// An operator gives the command. `false`: it could not be done.
    async fn promote(&self, site: &Site, accept_loss: bool) -> bool {
        let Some(task) = site.promote(accept_loss) else { return false };
        note(|| format!("{} is to lead, accept loss: {accept_loss}", site.name));
        match timeout(COMMAND, task).await {
            Ok(Ok(done)) => {
                note(|| format!("{} is to lead: {done:?}", site.name));
                let is_done = done.is_ok();
                self.told.borrow_mut().extend(done);
                is_done
            }
            _ => {
                note(|| format!("{} is to lead: no answer", site.name));
                false
            }
        }
    }

    /// The primary is gone, for as long as it takes to do without it.
    async fn force(&self, site: &Rc<Site>) {
        let Some(old) = super::leader(&self.sites).filter(|old| old.name != site.name) else { return };
        let killed = pick(2) == 0;
        note(|| format!("{} is gone for good, it seems", old.name));
        if killed {
            old.crash(pick(2) == 0);
        } else {
            self.cut(&old, (true, true), true);
        }
        sleep(millis(200, 6000)).await;
        for _ in 0..TRIES {
            if self.promote(site, true).await {
                if killed {
                    let on = |site: &Site| -> BTreeSet<Vec<u8>> {
                        site.disk.tree().into_values().flatten().collect()
                    };
                    let (had, taken) = (on(&old), on(site));
                    let contents = had.difference(&taken).cloned().collect();
                    self.left.borrow_mut().push(Left { site: old.name, contents });
                }
                break;
            }
            sleep(Duration::from_secs(2)).await;
        }
        sleep(millis(0, 4000)).await;
        note(|| format!("{} is back", old.name));
        if killed {
            old.start();
        } else {
            self.cut(&old, (true, true), false);
        }
    }

    /// How many contents were said to be lost when an epoch began, if somebody was told.
    pub fn lost(&self, epoch: u32) -> Option<usize> {
        let told = self.told.borrow();
        let told = told.iter().find(|told| told.contains(&format!("(epoch {epoch})")))?;
        let line = told.lines().find(|line| line.contains("newest contents no site had"));
        Some(line.and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or(0))
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
