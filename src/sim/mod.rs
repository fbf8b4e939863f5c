//! The simulation: whole sites, of the real rooms, over models of their disks, servers, lines and
//! clocks, all on one thread, in trouble that a seed decides. What clients were told is judged by the
//! checker of histories. The same seed gives the same run.
//!
//! `NEARSHARE_SEED=N` runs one seed and prints what happened; `NEARSHARE_SEEDS=N` says how many.
//!
//! Not here: doors, TLS, HTTP/2, fjall and real disks (they have tests of their own against the same
//! models, or run as real processes).

#[path = "../../tests/common/history/mod.rs"]
#[allow(dead_code)]
mod history;

mod clients;
mod clock;
mod faults;
mod net;
mod order;
mod scenes;
mod server;
mod site;
mod split;
mod tests;

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;

use clients::{History, NAMES, Sight};
use clock::{begin_trace, end_trace, note, now};
use faults::{Fault, Faults};
use history::names::Names;
use history::own;
use net::{Net, SILENCE};
use server::LATE;
use site::{Part, Site};

use crate::id::ShareId;
use crate::map::Map;
use crate::work::single::{self, outside, pick};

/// The site with the primary copy.
const PRIMARY: &str = "hq";
const SITES: [&str; 5] = [PRIMARY, "osaka", "lyon", "oslo", "rome"];
/// Clients make calls for so long.
const BUSY: Duration = Duration::from_secs(20);
/// And then all must be as at the primary within this.
const QUIET: Duration = Duration::from_secs(240);

fn share() -> ShareId {
    "eng".parse().expect("a name of ours")
}

/// What the map says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    sites: usize,
    strict: bool,
    /// When cut off.
    serve: bool,
    /// `durable_copies`.
    durable: usize,
    /// Changes are answered also while there are fewer sites than that.
    degrade: bool,
    /// A site that has no copy.
    remote: Option<&'static str>,
}

impl Rules {
    fn map(&self) -> Map {
        let mut text = "serial = 1\n".to_owned();
        let http = "{ server = \"http://server:81\", listen = \"0.0.0.0:80\" }";
        for site in &SITES[..self.sites] {
            text += &format!("[site.{site}]\nlink = \"{site}:7400\"\nhttp = {http}\n");
        }
        let (consistency, cut_off) = (
            if self.strict { "strict" } else { "relaxed" },
            if self.serve { "serve" } else { "refuse" },
        );
        text += &format!(
            "[share.eng]\nhttp = \"/eng\"\nconsistency = \"{consistency}\"\ndurable_copies = {}\n\
             degraded = \"{}\"\nwhen_cut_off = \"{cut_off}\"\n",
            self.durable,
            if self.degrade { "allow" } else { "wait" },
        );
        for site in &SITES[..self.sites] {
            text += &match (*site == PRIMARY, self.remote == Some(*site)) {
                (true, _) => format!("{site} = {{ role = \"local\", path = \"/srv/eng\" }}\n"),
                (_, true) => format!("{site} = {{ role = \"remote\" }}\n"),
                _ => format!("{site} = {{ role = \"broadcast\", path = \"/srv/eng\" }}\n"),
            };
        }
        crate::map::parse(&text).expect("a map of ours")
    }
}

/// One run.
#[derive(Debug, Clone)]
struct Plan {
    rules: Rules,
    faults: Vec<Fault>,
    /// At each site.
    clients: u32,
    calls: u32,
    /// All want the same: those at the primary's site write, the others read.
    narrow: bool,
    /// Some changes are copies.
    copies: bool,
    /// Nothing but a lease may hold up a write.
    prompt: bool,
    /// A line on which nothing comes is given up after this, plus up to as much again.
    silence: Duration,
}

impl Plan {
    /// What only a primary had that is gone is lost, also what it answered.
    fn loses(&self) -> bool {
        self.faults.contains(&Fault::Force) && (self.rules.durable < 2 || self.rules.degrade)
    }

    /// Anything may happen.
    fn of(seed: u64) -> Self {
        let sites = if seed.is_multiple_of(4) { 5 } else { 3 };
        let (strict, serve) = match seed % 8 {
            0..=3 => (true, false),
            4..=5 => (true, true),
            _ => (false, true),
        };
        let mut faults: Vec<Fault> = Fault::ALL.into_iter().filter(|_| pick(3) == 0).collect();
        if pick(3) > 0 {
            // What is in doubt is asked of the primary ever after: little else is seen then.
            faults.retain(|fault| !matches!(fault, Fault::Sloppy | Fault::ServerCrash));
        }
        if faults.contains(&Fault::Frozen) {
            // A wall clock that is set back by as much as its machine stood still tells nothing (R12).
            faults.retain(|fault| *fault != Fault::WallJump);
        }
        let (clients, calls) = if sites == 3 { (2, 16) } else { (1, 20) };
        let durable = if seed.is_multiple_of(5) { 2 } else { 1 };
        if seed % 7 == 3 {
            faults.push(Fault::Promote);
        }
        if seed % 14 == 5 {
            // What only the lost primary and another that is away had would be lost.
            let harmless =
                |fault: &Fault| matches!(fault, Fault::Reset | Fault::WallJump | Fault::Sloppy);
            faults.retain(harmless);
            faults.push(Fault::Force);
        }
        if seed % 6 == 1 && !faults.contains(&Fault::Force) {
            faults.push(Fault::Reload);
        }
        let degrade = durable > 1 && seed.is_multiple_of(3);
        let rules = Rules { sites, strict, serve, durable, degrade, remote: None };
        Self {
            rules,
            faults,
            clients,
            calls,
            narrow: pick(3) == 0,
            copies: seed % 5 == 2,
            prompt: false,
            silence: SILENCE,
        }
    }
}

/// What came of a run.
struct Ended {
    hash: u64,
    lines: Vec<String>,
    calls: usize,
    failure: Option<String>,
}

/// Runs a seed. `keep`s the lines of its trace.
fn run(seed: u64, plan: impl FnOnce() -> Plan, keep: bool) -> Ended {
    let alone = alone(seed, keep, || async {
        let plan = plan();
        note(|| format!("{plan:?}"));
        let history = Rc::new(History::default());
        let failure = live(&plan, &history).await;
        let calls = history.calls.borrow().len();
        (calls, failure.or_else(|| judge(&plan, &history)))
    });
    let (calls, failure) = alone.value;
    let panicked = alone.panicked.then(|| "a task panicked; see above".to_owned());
    Ended { hash: alone.hash, lines: alone.lines, calls, failure: panicked.or(failure) }
}

/// What came of something that was alone on a thread, with all that it does decided by a seed.
struct Alone<V> {
    value: V,
    panicked: bool,
    hash: u64,
    lines: Vec<String>,
}

fn alone<F: Future>(seed: u64, keep: bool, play: impl FnOnce() -> F) -> Alone<F::Output> {
    let single = single::begin(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without drivers can be built");
    let local = tokio::task::LocalSet::new();
    let value = local.block_on(&runtime, async {
        begin_trace(keep);
        play().await
    });
    let panicked = single.panicked();
    let (hash, lines) = end_trace();
    {
        let _entered = runtime.enter();
        drop(local);
    }
    Alone { value, panicked, hash, lines }
}

async fn live(plan: &Plan, history: &Rc<History>) -> Option<String> {
    let net = Net::new(plan.silence);
    let rules = &plan.rules;
    let sites: Vec<Rc<Site>> =
        (0..rules.sites).map(|number| Rc::new(Site::new(number, SITES[number], &net, rules))).collect();
    sites.iter().for_each(|site| site.start());
    if !settled(&sites, QUIET).await {
        return Some("the copies were never filled".to_owned());
    }
    note(|| "clients begin".to_owned());
    let until = Duration::from_nanos(now()) + BUSY;
    let mut clients = Vec::new();
    for (number, site) in sites.iter().enumerate() {
        for client in 0..plan.clients {
            let client = number as u32 * plan.clients + client;
            clients.push(outside(history.clone().client(site.clone(), client, plan.clone(), until)));
        }
    }
    let faults = Faults::new(&net, &sites, &plan.faults);
    let trouble = outside(faults.clone().run(until));
    for task in clients {
        if task.await.is_err() {
            return Some("a client panicked".to_owned());
        }
    }
    if trouble.await.is_err() {
        return Some("trouble panicked".to_owned());
    }
    faults.end().await;
    // Whatever the servers were still at is done by then.
    sleep(LATE).await;
    if !settled_when(&sites, QUIET, believe).await {
        return Some(unlike(&sites));
    }
    for site in &sites {
        history.read_all(site).await;
    }
    // A machine without power may find what was deleted before, and so may one that takes over before it
    // has all contents.
    if !plan.faults.iter().any(|fault| matches!(fault, Fault::PowerCut | Fault::Force))
        && let Some(process) = leader(&sites).and_then(|site| site.process())
        && let Err(why) = order::identities(&process.shelf, plan.copies)
    {
        return Some(why);
    }
    // What a relaxed share shows is not judged as if it were strict.
    for (from, until) in faults.relaxed.borrow().iter() {
        for call in history.calls.borrow_mut().iter_mut() {
            let over = matches!(call.end, history::End::Answered(at) if at < *from);
            call.exempt |= rules.strict && call.called <= *until && !over;
        }
    }
    for left in faults.left.borrow().iter() {
        let site = sites.iter().find(|site| site.name == left.site);
        let process = leader(&sites).and_then(|site| site.process());
        if let Some((site, process)) = site.zip(process)
            && let Err(why) = order::kept(left, &site.disk, &process.shelf)
        {
            return Some(why);
        }
    }
    if plan.loses() {
        let takeovers = net.takeovers();
        let (calls, led) = (history.calls.borrow(), history.led.borrow());
        match split::at_takeovers(&calls, &led, takeovers, |epoch| faults.lost(epoch)) {
            Ok(split) => *history.split.borrow_mut() = Some(split),
            Err(why) => return Some(why),
        }
    }
    history.wrong.take()
}

/// An operator knows that no server does any more what is in doubt (R18).
fn believe(sites: &[Rc<Site>]) {
    for part in sites.iter().filter_map(|site| site.process()?.part()) {
        match part {
            Part::Home(notice) => notice.believe(),
            Part::Copy(follow) => follow.believe(),
        };
    }
}

/// Until every copy is as the primary and nothing is under way; `false`: not within that time.
async fn settled(sites: &[Rc<Site>], within: Duration) -> bool {
    settled_when(sites, within, |_| ()).await
}

/// The same, with something done before each look.
async fn settled_when(sites: &[Rc<Site>], within: Duration, done: impl Fn(&[Rc<Site>])) -> bool {
    let over = Duration::from_nanos(now()) + within;
    let mut times = 0;
    while Duration::from_nanos(now()) < over {
        sleep(Duration::from_millis(500)).await;
        done(sites);
        times = if is_settled(sites) { times + 1 } else { 0 };
        if times == 2 {
            return true;
        }
    }
    false
}

/// The site that leads, where all agree on that.
fn leader(sites: &[Rc<Site>]) -> Option<Rc<Site>> {
    let known = sites.iter().map(|site| site.process().map(|it| (it.primary(), it.epoch())));
    let known: Vec<_> = known.collect::<Option<_>>()?;
    let first = known.first()?;
    let agree = known.iter().all(|known| known == first);
    sites.iter().find(|site| agree && site.id() == first.0).cloned()
}

fn is_settled(sites: &[Rc<Site>]) -> bool {
    let Some(leader) = leader(sites) else { return false };
    let (wanted, attrs) = (leader.disk.tree(), leader.disk.attrs());
    let Some(Part::Home(notice)) = leader.process().and_then(|it| it.part()) else { return false };
    let standing = notice.standing();
    let home = standing.marks == 0 && standing.stopped.is_none() && standing.scan.is_none();
    let others = sites.iter().filter(|site| site.name != leader.name);
    home && others.into_iter().all(|site| match site.process().and_then(|it| it.part()) {
        None | Some(Part::Home(_)) => false,
        Some(Part::Copy(follow)) => {
            let progress = follow.progress();
            let free = progress.ahead == 0 && progress.held == 0 && progress.suspects == 0;
            let alike = site.disk.tree() == wanted && site.disk.attrs() == attrs;
            free && progress.confirmed && progress.debts == 0 && alike
        }
    })
}

/// What is the matter with sites that do not become alike.
fn unlike(sites: &[Rc<Site>]) -> String {
    let mut text = "the sites do not become alike:\n".to_owned();
    let first = sites.first().map(|site| site.disk.attrs()).unwrap_or_default();
    for site in sites {
        let state = match site.process().and_then(|it| it.part()) {
            None => "not running".to_owned(),
            Some(Part::Home(notice)) => format!("{:?}", notice.standing()),
            Some(Part::Copy(follow)) => format!("{:?}", follow.progress()),
        };
        let tree: Vec<String> = site
            .disk
            .tree()
            .into_iter()
            .map(|(path, data)| match data {
                None => format!("{path}/"),
                Some(data) => format!("{path} = {}", String::from_utf8_lossy(&data).trim()),
            })
            .collect();
        text += &format!("{}: {}\n   {state}\n", site.name, tree.join(", "));
        // Those of the first are as wanted, more often than not.
        let attrs = site.disk.attrs().into_iter().filter(|(path, attrs)| first.get(path) != Some(attrs));
        attrs.for_each(|(path, attrs)| text += &format!("   {path}: {attrs:?}\n"));
    }
    text
}

fn judge(plan: &Plan, history: &History) -> Option<String> {
    let (calls, sights) = (history.calls.borrow(), history.sights.borrow());
    let split = history.split.borrow();
    let (calls, takeovers) =
        split.as_ref().map_or((&*calls, &[][..]), |split| (&split.calls, &split.takeovers));
    let parts = split::parts(calls, takeovers);
    for (number, part) in parts.iter().enumerate() {
        // What was lost is gone also where it was seen.
        let from = number.checked_sub(1).map_or(0, |last| takeovers[last].at);
        let to = takeovers.get(number).map_or(u64::MAX, |next| next.at);
        let sights = sights.iter().filter(|sight| sight.called >= from && sight.ended < to);
        let sights: Vec<&Sight> = sights.collect();
        let own = if plan.rules.strict { Ok(()) } else { own::check(part) };
        let since: Vec<_> = part.iter().filter(|call| call.called >= from).cloned().collect();
        if let Err(why) = order::check(&since, &sights).and(own) {
            return Some(why);
        }
    }
    if !plan.rules.strict {
        return None;
    }
    let names = Names::new(NAMES.map(|(name, _)| name));
    let sides = split.iter().flat_map(|split| &split.sides).map(|side| (" (old side)", side));
    let mut all = std::iter::once(("", calls)).chain(sides);
    all.find_map(|(which, calls)| Some(format!("{}{which}", history::check(&names, calls).err()?)))
}
