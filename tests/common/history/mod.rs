//! Is a history of calls linearizable: is there one order of all calls, each taking effect between
//! its call and its answer, in which every answer is right? The search is Wing and Gong's with Lowe's
//! just-in-time order and memory of what was tried: it walks through time with the set of all worlds
//! that the answers so far allow, and a call is placed only when its answer forces it to be.
//!
//! `names` is the model of files and directories, `own` the weaker promise of relaxed shares. Not
//! here: clients and clocks. Nothing here knows nearshare.

pub mod names;
pub mod own;
pub mod window;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, DefaultHasher, Hash};

pub use window::Window;

/// How hard one search tries. An order that a narrow one finds is an order; only a search that left
/// nothing out proves that there is none. So the next wider one is made when one finds none.
#[derive(Clone, Copy)]
struct Width {
    /// Worlds kept from one event to the next, those first that use the fewest calls of unknown end.
    kept: usize,
    /// Steps from one world towards an answer.
    tried: usize,
    /// How many more calls of unknown end an answer may use than the fewest that explain it. With
    /// none, one that nothing has shown to have happened by the end of its time did not happen.
    slack: usize,
    /// Steps in all.
    steps: usize,
}

const WIDTHS: [Width; 4] = [
    Width { kept: 100, tried: 2_000, slack: 0, steps: 30_000_000 },
    Width { kept: 2_000, tried: 20_000, slack: 0, steps: 30_000_000 },
    Width { kept: 2_000, tried: 20_000, slack: 1, steps: 30_000_000 },
    Width { kept: 50_000, tried: 1_000_000, slack: usize::MAX, steps: 30_000_000 },
];
/// To find out what can be left out of a failure: without it there may be far more worlds.
const SHRINKING: Width = Width { kept: 1_000, tried: 20_000, slack: usize::MAX, steps: 60_000 };

/// What the calls are made to.
pub trait Model {
    type State: Clone + Eq + Hash + Debug;
    type Op: Clone + Debug;

    fn start(&self) -> Self::State;
    /// The state after `op`; `None` when `op` cannot have had its answer here.
    fn apply(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
    /// Whether `op` can have had its answer here.
    fn fits(&self, state: &Self::State, op: &Self::Op) -> bool {
        self.apply(state, op).is_some()
    }
    /// It never changes the state.
    fn is_read(&self, op: &Self::Op) -> bool;
    /// What it reads or changes, a bit each; without a common bit two operations commute.
    fn touches(&self, op: &Self::Op) -> u64;
    fn show(&self, op: &Self::Op) -> String;
    fn show_state(&self, state: &Self::State) -> String;
}

/// One call of one client. Times are nanoseconds of one monotonic clock for the whole history.
#[derive(Clone, Debug)]
pub struct Call<O> {
    pub site: &'static str,
    pub client: u32,
    pub called: u64,
    pub end: End,
    pub op: O,
    /// A read that promises nothing (one marked stale): it is not checked.
    pub exempt: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Answered(u64),
    /// Nobody knows: it takes effect at some time up to `until`, or never. `u64::MAX` is for ever.
    Unknown {
        until: u64,
    },
}

impl<O> Call<O> {
    fn last(&self) -> u64 {
        match self.end {
            End::Answered(at) => at,
            End::Unknown { until } => until,
        }
    }
}

/// How a search ends that does not find an order.
#[derive(Debug)]
pub enum Fault {
    /// There is none; the window is what to look at.
    Impossible(Window),
    /// Too many orders were possible at the call shown: nothing is proven.
    GaveUp(String),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Impossible(window) => write!(f, "{window}"),
            Self::GaveUp(at) => write!(f, "too many worlds are possible at {at}; nothing is proven"),
        }
    }
}

/// `Ok` with an order, or why there is none. A failure is shown as small as it can be made.
pub fn check<M: Model>(model: &M, calls: &[Call<M::Op>]) -> Result<(), Fault> {
    match search(model, calls) {
        Ok(()) => Ok(()),
        Err(Stop::TooWide { at }) => Err(Fault::GaveUp(window::line(model, &calls[at]))),
        Err(Stop::NoWorld { at, before }) => {
            let failure = window::Failure { calls: calls.to_vec(), at, before };
            Err(Fault::Impossible(window::smallest(model, failure)))
        }
    }
}

fn search<M: Model>(model: &M, calls: &[Call<M::Op>]) -> Result<(), Stop<M::State>> {
    let mut found = Ok(());
    for width in WIDTHS {
        found = Search::new(model, calls, width).run().0;
        if !matches!(found, Err(Stop::TooWide { .. })) {
            break;
        }
    }
    found
}

enum Stop<S> {
    /// No world is left when the call `at` is answered; `before` are the states until then.
    NoWorld { at: usize, before: Vec<S> },
    /// None that was kept is left, but not all were.
    TooWide { at: usize },
}

/// One way things may be: the state, and which of the open calls have led to it.
#[derive(Clone)]
struct World<S> {
    state: S,
    /// Open answered calls that have taken effect; sorted.
    done: Vec<usize>,
    /// Open calls of unknown end that have taken effect; sorted.
    used: Vec<usize>,
    /// Calls of unknown end that have taken effect, closed ones too.
    cost: usize,
}

/// Worlds without those that another one is as good as: same state, same calls done, and fewer
/// calls of unknown end used up.
struct Worlds<S> {
    /// By state and calls done. Hashed without a secret, so that a search can be repeated exactly.
    found: Hashed<(S, Vec<usize>), Vec<Way>>,
}

/// The calls of unknown end used, and the cost.
type Way = (Vec<usize>, usize);

type Hashed<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

impl<S: Clone + Eq + Hash> Worlds<S> {
    fn new() -> Self {
        Self { found: HashMap::default() }
    }
    /// False when it is as good as there already.
    fn add(&mut self, world: &World<S>) -> bool {
        let ways = self.found.entry((world.state.clone(), world.done.clone())).or_default();
        if let Some((_, cost)) = ways.iter_mut().find(|(used, _)| subset(used, &world.used)) {
            *cost = (*cost).min(world.cost);
            return false;
        }
        ways.retain(|(used, _)| !subset(&world.used, used));
        ways.push((world.used.clone(), world.cost));
        true
    }
    fn list(self) -> Vec<World<S>> {
        let each = self.found.into_iter().flat_map(|((state, done), ways)| {
            ways.into_iter().map(move |(used, cost)| World {
                state: state.clone(),
                done: done.clone(),
                used,
                cost,
            })
        });
        each.collect()
    }
}

fn subset(small: &[usize], large: &[usize]) -> bool {
    small.len() <= large.len() && small.iter().all(|item| large.binary_search(item).is_ok())
}

fn with(list: &[usize], item: usize) -> Vec<usize> {
    let mut list = list.to_vec();
    if let Err(at) = list.binary_search(&item) {
        list.insert(at, item);
    }
    list
}

fn without(list: &[usize], item: usize) -> Vec<usize> {
    list.iter().copied().filter(|other| *other != item).collect()
}

struct Search<'a, M: Model> {
    model: &'a M,
    calls: &'a [Call<M::Op>],
    width: Width,
    /// Something was left out.
    narrowed: bool,
    steps: usize,
    /// Calls that have begun and not ended.
    reads: Vec<usize>,
    writes: Vec<usize>,
    worlds: Vec<World<M::State>>,
}

impl<'a, M: Model> Search<'a, M> {
    fn new(model: &'a M, calls: &'a [Call<M::Op>], width: Width) -> Self {
        let first = World { state: model.start(), done: Vec::new(), used: Vec::new(), cost: 0 };
        Self {
            model,
            calls,
            width,
            narrowed: false,
            steps: 0,
            reads: Vec::new(),
            writes: Vec::new(),
            worlds: vec![first],
        }
    }

    /// How it ends, and after how many steps.
    fn run(mut self) -> (Result<(), Stop<M::State>>, usize) {
        let found = self.walk();
        (found, self.steps)
    }

    fn walk(&mut self) -> Result<(), Stop<M::State>> {
        let mut events = Vec::new();
        for (index, call) in self.calls.iter().enumerate() {
            let read = self.model.is_read(&call.op);
            if read && (call.exempt || matches!(call.end, End::Unknown { .. })) {
                continue;
            }
            // Of two things at one moment, a call is first: then they may be in either order.
            events.push((call.called, 0, index));
            if call.last() != u64::MAX {
                events.push((call.last(), 1, index));
            }
        }
        events.sort_unstable();
        for (_, end, index) in events {
            match (end, self.calls[index].end) {
                (0, _) => self.begin(index),
                (_, End::Answered(_)) => self.answer(index)?,
                (_, End::Unknown { .. }) => self.expire(index),
            }
        }
        Ok(())
    }

    fn op(&self, index: usize) -> &M::Op {
        &self.calls[index].op
    }

    fn begin(&mut self, index: usize) {
        if !self.model.is_read(self.op(index)) {
            self.writes.push(index);
            return;
        }
        self.reads.push(index);
        for world in &mut self.worlds {
            if self.model.fits(&world.state, &self.calls[index].op) {
                world.done = with(&world.done, index);
            }
        }
    }

    /// The time of a call of unknown end is over: it has taken effect by now, or it never will.
    fn expire(&mut self, index: usize) {
        let near = self.near(index);
        let mut left = Worlds::new();
        self.narrowed |= self.width.slack == 0;
        for world in std::mem::take(&mut self.worlds) {
            let happens = if self.width.slack == 0 || world.used.binary_search(&index).is_ok() {
                Vec::new()
            } else {
                self.until_done(&world, index, &near)
            };
            for mut world in happens.into_iter().chain([world]) {
                world.used = without(&world.used, index);
                left.add(&world);
            }
        }
        self.writes.retain(|open| *open != index);
        self.keep(left);
    }

    fn answer(&mut self, index: usize) -> Result<(), Stop<M::State>> {
        let near = self.near(index);
        let mut left = Worlds::new();
        let worlds = std::mem::take(&mut self.worlds);
        for world in &worlds {
            let found = if world.done.binary_search(&index).is_ok() {
                vec![world.clone()]
            } else {
                self.until_done(world, index, &near)
            };
            for mut world in found {
                world.done = without(&world.done, index);
                left.add(&world);
            }
        }
        self.keep(left);
        if self.worlds.is_empty() && self.narrowed {
            return Err(Stop::TooWide { at: index });
        }
        if self.worlds.is_empty() {
            let states: HashSet<_> = worlds.into_iter().map(|world| world.state).collect();
            return Err(Stop::NoWorld { at: index, before: states.into_iter().collect() });
        }
        self.reads.retain(|open| *open != index);
        self.writes.retain(|open| *open != index);
        Ok(())
    }

    fn keep(&mut self, worlds: Worlds<M::State>) {
        self.worlds = worlds.list();
        if self.worlds.len() > self.width.kept {
            self.worlds.sort_by_key(|world| world.cost);
            self.worlds.truncate(self.width.kept);
            self.narrowed = true;
        }
    }

    /// The open writes whose order with `index` can matter, through whatever lies between.
    fn near(&self, index: usize) -> Vec<usize> {
        let mut reach = self.model.touches(self.op(index));
        loop {
            let before = reach;
            for open in self.reads.iter().chain(&self.writes) {
                let touches = self.model.touches(self.op(*open));
                if touches & reach != 0 {
                    reach |= touches;
                }
            }
            if reach == before {
                break;
            }
        }
        let touched = |open: &&usize| self.model.touches(self.op(**open)) & reach != 0;
        self.writes.iter().filter(touched).copied().collect()
    }

    /// All worlds that follow from `world` by open writes, the last of which lets `index` be done.
    fn until_done(
        &mut self,
        world: &World<M::State>,
        index: usize,
        near: &[usize],
    ) -> Vec<World<M::State>> {
        let mut seen = Worlds::new();
        let mut ends = Worlds::new();
        let mut tried = 0;
        // By how many calls of unknown end are used, the fewest first.
        let mut queues = BTreeMap::from([(world.used.len(), VecDeque::from([world.clone()]))]);
        let mut fewest = None;
        while let Some(mut entry) = queues.first_entry() {
            if fewest.is_some_and(|fewest: usize| *entry.key() > fewest.saturating_add(self.width.slack))
            {
                self.narrowed = true;
                break;
            }
            let Some(world) = entry.get_mut().pop_front() else {
                entry.remove();
                continue;
            };
            for write in near {
                let Some(next) = self.place(&world, *write) else { continue };
                tried += 1;
                self.steps += 1;
                if tried > self.width.tried || self.steps > self.width.steps {
                    self.narrowed = true;
                    return ends.list();
                }
                if *write == index || next.done.binary_search(&index).is_ok() {
                    fewest = Some(fewest.unwrap_or(next.used.len()).min(next.used.len()));
                    ends.add(&next);
                } else if seen.add(&next) {
                    queues.entry(next.used.len()).or_default().push_back(next);
                }
            }
        }
        ends.list()
    }

    /// The world after `write`, and after all open reads that are right in it: placing a read as
    /// soon as it is right can only help.
    fn place(&self, world: &World<M::State>, write: usize) -> Option<World<M::State>> {
        let unknown = matches!(self.calls[write].end, End::Unknown { .. });
        let placed = if unknown { &world.used } else { &world.done };
        if placed.binary_search(&write).is_ok() {
            return None;
        }
        let state = self.model.apply(&world.state, self.op(write))?;
        let mut next = World { state, ..world.clone() };
        if unknown {
            next.used = with(&next.used, write);
            next.cost += 1;
        } else {
            next.done = with(&next.done, write);
        }
        for read in &self.reads {
            if self.model.fits(&next.state, self.op(*read)) {
                next.done = with(&next.done, *read);
            }
        }
        Some(next)
    }
}
