//! Clients at every site: what they ask, what they are told, and what that says.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use tokio::time::{Instant, sleep, timeout};

use super::clock::{note, now};
use super::history::names::{Name, Op, Seen};
use super::history::{Call, End};
use super::net::millis;
use super::site::{Site, TOLD, Told};
use super::split::{Led, Split};
use super::{PRIMARY, Plan};
use crate::body::{Body, collect};
use crate::hold::LEASE;
use crate::work::single::pick;

/// The names, each with its directory.
pub const NAMES: [(&str, Option<Name>); 8] = [
    ("d", None),
    ("e", None),
    ("f", None),
    ("g", None),
    ("d/a", Some(0)),
    ("d/b", Some(0)),
    ("e/a", Some(1)),
    ("e/b", Some(1)),
];
/// Bytes of a large content, and a little more.
const LARGE: u64 = 300_000;
/// A client gives up after this.
const PATIENCE: Duration = Duration::from_secs(30);

/// Contents that a client saw at once.
pub struct Sight {
    pub site: &'static str,
    pub called: u64,
    pub ended: u64,
    pub seen: Vec<(Name, u64)>,
    /// The server of this site showed them.
    pub near: bool,
}

/// Every call of every client.
#[derive(Default)]
pub struct History {
    pub calls: RefCell<Vec<Call<Op>>>,
    /// Of each of them.
    pub led: RefCell<Vec<Led>>,
    pub sights: RefCell<Vec<Sight>>,
    /// The calls with the breaks that forced promotions make.
    pub split: RefCell<Option<Split>>,
    values: Cell<u64>,
    /// Something that no order of calls would show.
    pub wrong: RefCell<Option<String>>,
}

/// What a client asks.
#[derive(Debug, Clone)]
enum Ask {
    Get(Name),
    Head(Name),
    /// A directory; none is the root.
    List(Option<Name>),
    Put(Name, u64),
    Delete(Name),
    Mkcol(Name),
    Move {
        from: Name,
        to: Name,
        replace: bool,
    },
    Copy {
        from: Name,
        to: Name,
        replace: bool,
    },
}

fn is_dir(name: Name) -> bool {
    name < 2
}
fn file() -> Name {
    2 + pick(6) as Name
}

fn two_files() -> (Name, Name) {
    let from = file();
    (from, (2..8).filter(|name| *name != from).nth(pick(5) as usize).unwrap_or(2))
}

fn children(dir: Option<Name>) -> Vec<Name> {
    (0..NAMES.len()).filter(|name| NAMES[*name].1 == dir).collect()
}

impl Ask {
    /// Of the primary's site, and of the others, when all want the same two files.
    fn narrow(history: &History, writes: bool, lists: bool) -> Self {
        let name = 2 + usize::from(pick(4) == 0);
        match pick(100) {
            0..50 if lists && !writes => Self::List(None),
            0..94 if !writes => Self::Get(name),
            0..8 => Self::Delete(name),
            8..16 => Self::Move { from: name, to: 5 - name, replace: true },
            _ => {
                history.values.set(history.values.get() + 1);
                Self::Put(name, history.values.get())
            }
        }
    }

    fn any(history: &History, copies: bool) -> Self {
        match pick(100) {
            50..58 if copies => {
                let (from, to) = two_files();
                Self::Copy { from, to, replace: pick(2) == 0 }
            }
            58..61 if copies => {
                let from = pick(2) as Name;
                Self::Copy { from, to: 1 - from, replace: false }
            }
            0..36 => Self::Get(file()),
            36..40 => Self::Head(file()),
            40..50 => Self::List([None, Some(0), Some(1)][pick(3) as usize]),
            50..75 => {
                history.values.set(history.values.get() + 1);
                Self::Put(file(), history.values.get())
            }
            75..83 => Self::Delete(file()),
            83..90 => Self::Mkcol(pick(2) as Name),
            90..92 => Self::Delete(pick(2) as Name),
            92..94 => {
                let from = pick(2) as Name;
                Self::Move { from, to: 1 - from, replace: false }
            }
            _ => {
                let (from, to) = two_files();
                Self::Move { from, to, replace: pick(2) == 0 }
            }
        }
    }

    fn request(&self) -> Request<Body> {
        let path = |name: Name| format!("/eng/{}{}", NAMES[name].0, if is_dir(name) { "/" } else { "" });
        let (method, path_, body) = match *self {
            Self::Get(name) => ("GET", path(name), Body::Empty),
            Self::Head(name) => ("HEAD", path(name), Body::Empty),
            Self::List(None) => ("PROPFIND", "/eng/".to_owned(), Body::Empty),
            Self::List(Some(name)) => ("PROPFIND", path(name), Body::Empty),
            Self::Put(name, value) => ("PUT", path(name), Body::Full(content(value))),
            Self::Delete(name) => ("DELETE", path(name), Body::Empty),
            Self::Mkcol(name) => ("MKCOL", path(name), Body::Empty),
            Self::Move { from, .. } => ("MOVE", path(from), Body::Empty),
            Self::Copy { from, .. } => ("COPY", path(from), Body::Empty),
        };
        let mut request = Request::builder().method(method).uri(path_).header("host", "files");
        if let Self::List(_) = self {
            request = request.header("depth", "1");
        }
        if let Self::Move { to, replace, .. } | Self::Copy { to, replace, .. } = *self {
            request = request.header("destination", path(to));
            request = request.header("overwrite", if replace { "T" } else { "F" });
        }
        request.body(body).expect("a request of ours")
    }

    /// What it does where it does something.
    fn change(&self) -> Option<Op> {
        Some(match *self {
            Self::Get(_) | Self::Head(_) | Self::List(_) => return None,
            Self::Put(name, value) => within(name, Op::Put { name, value, size: size_of(value) }),
            Self::Delete(name) if is_dir(name) => Op::Rmdir { name, names: children(Some(name)) },
            Self::Delete(name) => Op::Delete { name },
            Self::Mkcol(name) => Op::Mkcol { name },
            Self::Move { from, to, .. } if is_dir(from) => {
                let below = children(Some(from)).into_iter().zip(children(Some(to)));
                Op::MoveTree { names: [(from, to)].into_iter().chain(below).collect() }
            }
            Self::Move { from, to, replace } => within(to, Op::Move { from, to, replace }),
            Self::Copy { from, to, .. } if is_dir(from) => {
                let below = children(Some(from)).into_iter().zip(children(Some(to)));
                Op::CopyTree { names: [(from, to)].into_iter().chain(below).collect() }
            }
            Self::Copy { from, to, replace } => within(to, Op::Copy { from, to, replace }),
        })
    }

    /// What an answer says; `None`: nothing.
    fn told(&self, status: u16, body: &[u8]) -> Option<Op> {
        let look = |name, seen| Some(Op::Look { name, seen });
        match (self, status) {
            (Self::Get(name), 200) => look(*name, Seen::Value(value_of(body))),
            (Self::Head(name), 200) => look(*name, Seen::Present),
            (Self::Get(name) | Self::Head(name) | Self::Delete(name), 404) => look(*name, Seen::Absent),
            (Self::Move { from, .. } | Self::Copy { from, .. }, 404) => look(*from, Seen::Absent),
            (Self::Move { to, .. } | Self::Copy { to, .. }, 412) => look(*to, Seen::Present),
            (Self::List(Some(dir)), 404) => look(*dir, Seen::Absent),
            (Self::List(dir), 207) => Some(listed(*dir, body)),
            (Self::Put(name, _), 409) => look(NAMES[*name].1?, Seen::Absent),
            (Self::Mkcol(name), 405) => look(*name, Seen::Present),
            (ask, 200..300) => ask.change(),
            _ => None,
        }
    }
}

fn within(name: Name, op: Op) -> Op {
    match NAMES[name].1 {
        Some(dir) => Op::Within { dir, op: Box::new(op) },
        None => op,
    }
}

/// Each value has its own; some are more than travels with a record, and a few more than is sent at once.
fn size_of(value: u64) -> u64 {
    value
        + match value {
            _ if value % 40 == 39 => LARGE,
            _ if value.is_multiple_of(3) => 6000,
            _ => 10,
        }
}

/// The contents that an answer shows.
fn shown(op: &Op) -> Vec<(Name, u64)> {
    let value = |name: Name, seen: Seen| match seen {
        Seen::Value(value) => Some((name, value)),
        Seen::Size(size) => {
            let more = [LARGE, 6000, 10].into_iter().find(|more| size > *more).unwrap_or(0);
            let value = size - more;
            (size_of(value) == size).then_some((name, value))
        }
        _ => None,
    };
    match op {
        Op::Look { name, seen } => value(*name, *seen).into_iter().collect(),
        Op::List { seen } => seen.iter().filter_map(|(name, seen)| value(*name, *seen)).collect(),
        _ => Vec::new(),
    }
}

pub fn content(value: u64) -> Bytes {
    let digits = value.to_string();
    let fill = (size_of(value) as usize).saturating_sub(digits.len());
    let text = format!("{digits}{}", " ".repeat(fill));
    text.into()
}

pub fn value_of(body: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(body);
    text.trim().parse().unwrap_or(u64::MAX)
}

fn listed(dir: Option<Name>, body: &[u8]) -> Op {
    let text = String::from_utf8_lossy(body).into_owned();
    let mut seen = Vec::new();
    seen.extend(dir.map(|dir| (dir, Seen::Directory)));
    for name in children(dir) {
        let href =
            format!("<D:href>/eng/{}{}</D:href>", NAMES[name].0, if is_dir(name) { "/" } else { "" });
        let sight = match text.split_once(&href) {
            None => Seen::Absent,
            Some(_) if is_dir(name) => Seen::Directory,
            Some((_, rest)) => {
                let size =
                    rest.split_once("getcontentlength>").and_then(|(_, rest)| rest.split_once('<'));
                Seen::Size(size.and_then(|(size, _)| size.parse().ok()).unwrap_or(u64::MAX))
            }
        };
        seen.push((name, sight));
    }
    Op::List { seen }
}

impl History {
    async fn call(&self, site: &Site, client: u32, ask: &Ask) {
        let Some((process, live)) = site.process().zip(site.live()) else { return };
        let (relay, primary) = (process.relay(), process.primary());
        let epoch = process.epoch();
        if !site.net.hears_of(&site.id(), epoch) {
            let why = format!("{} goes back to epoch {epoch}", site.name);
            self.wrong.borrow_mut().get_or_insert(why);
        }
        let mut led = (primary == site.id()).then_some(epoch);
        let cut_off = || !site.net.down_for(&site.id(), &primary).is_zero();
        let was_cut_off = cut_off();
        let (called, began) = (now(), Instant::now());
        let request = ask.request();
        let addr = ([10, 9, 0, client as u8], 999).into();
        let task = live.group.spawn(TOLD.scope(Told::default(), async move {
            let response = relay.serve(addr, request).await;
            let status = response.status().as_u16();
            let body = collect(response.into_body(), 1 << 20).await;
            let (stale, near) = TOLD.with(|told| (told.stale.get(), told.near.get()));
            (status, body, stale, near)
        }));
        let answer = timeout(PATIENCE, task).await;
        let unknown = End::Unknown { until: u64::MAX };
        let (end, op, exempt) = match answer {
            Ok(Ok((status, body, stale, near))) => {
                let down = site.net.down_lately(&site.id(), &primary, began);
                if stale && down < LEASE && process.primary() == primary {
                    let why = format!(
                        "{} served {ask:?} as if cut off, {down:?} after it lost its line",
                        site.name
                    );
                    self.wrong.borrow_mut().get_or_insert(why);
                }
                note(|| {
                    format!(
                        "{} client {client}: {ask:?}: {status}{}",
                        site.name,
                        if stale { " stale" } else { "" }
                    )
                });
                if !near && process.epoch() == epoch {
                    // It was answered by whoever led in that epoch.
                    led = Some(epoch);
                }
                let refused = matches!(status, 502 | 503 | 507);
                match (body.ok().and_then(|body| ask.told(status, &body)), ask.change()) {
                    (Some(op), _) => {
                        // Another has taken its place, and it has not heard.
                        let deposed =
                            process.epoch() < site.net.epoch() && process.primary() == site.id();
                        // Contents that it waits for are then not asked for at home.
                        let behind = stale || deposed || was_cut_off || cut_off();
                        let seen = if behind { Vec::new() } else { shown(&op) };
                        let (site, ended) = (site.name, now());
                        self.sights.borrow_mut().push(Sight { site, called, ended, seen, near });
                        (End::Answered(ended), op, stale)
                    }
                    (None, Some(change)) if status >= 500 && !refused => (unknown, change, false),
                    _ => return,
                }
            }
            _ => {
                note(|| format!("{} client {client}: {ask:?}: no answer", site.name));
                match ask.change() {
                    Some(change) => (unknown, change, false),
                    None => return,
                }
            }
        };
        let call = Call { site: site.name, client, called, end, op, exempt };
        self.calls.borrow_mut().push(call);
        self.led.borrow_mut().push(led);
    }

    /// One client, until so many calls or so much time.
    pub async fn client(self: Rc<Self>, site: Rc<Site>, client: u32, plan: Plan, until: Duration) {
        let writes = site.name == PRIMARY;
        let calls = if plan.narrow && !writes { plan.calls * 6 } else { plan.calls };
        for _ in 0..calls {
            // Bursts, and rests in which bursts end.
            let rest = match (plan.narrow, writes) {
                (true, true) if plan.rules.strict => millis(60, 600),
                (true, true) => millis(2, 120),
                (true, false) => millis(2, 80),
                (false, _) if pick(3) == 0 => millis(100, 1500),
                (false, _) => millis(1, 60),
            };
            sleep(rest).await;
            if Duration::from_nanos(now()) > until {
                return;
            }
            let ask = match plan.narrow {
                true => Ask::narrow(&self, writes, !plan.rules.strict),
                false => Ask::any(&self, plan.copies),
            };
            let begun = now();
            self.call(&site, client, &ask).await;
            let took = Duration::from_nanos(now() - begun);
            if writes && plan.prompt && took > LEASE * 2 {
                let why = format!("{ask:?} took {took:?} at the primary's site");
                self.wrong.borrow_mut().get_or_insert(why);
            }
        }
    }

    /// Reads everything, for the end.
    pub async fn read_all(&self, site: &Site) {
        for name in 2..NAMES.len() {
            self.call(site, 99, &Ask::Get(name)).await;
        }
        for dir in [None, Some(0), Some(1)] {
            self.call(site, 99, &Ask::List(dir)).await;
        }
    }
}
