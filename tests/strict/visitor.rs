//! A seeded client that writes down what it asked, when, and what it was told.

use std::io;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::history::names::{Name, Names, Op, Seen};
use crate::common::history::{Call, End};
use crate::common::http::{Client, Response};
use crate::common::{Rng, curl, propfind};

/// Files that are only put, deleted and read: each is an object of its own.
pub const FILES: usize = 4;
/// Directories whose names are one object together: they are moved and listed as well.
const PLACES: usize = 2;
/// In each: files, directories that stay empty, and trees, which are directories with one file.
const PLACE_FILES: usize = 3;
const PLACE_DIRECTORIES: usize = 2;
const PLACE_TREES: usize = 2;
/// Names below a place itself, and with what is in its trees.
const LISTED: usize = PLACE_FILES + PLACE_DIRECTORIES + PLACE_TREES;
const PLACE: usize = LISTED + PLACE_TREES;
pub const NAMES: usize = FILES + PLACES * PLACE;

/// Longer than two leases last, so that a change which waits for one to run out is answered.
const PATIENCE: Duration = Duration::from_secs(12);

/// In nanoseconds.
const BUSY: u64 = 600_000_000;
/// One call in so many is a change while it is not busy.
const SELDOM: u64 = 30;

/// The directories that must exist before anybody begins.
pub fn directories() -> Vec<String> {
    (0..PLACES).map(|place| format!("/docs/n{place}/")).collect()
}

/// The names' URLs in the order of their numbers; those of directories end with a slash.
pub fn names() -> Names {
    let files = (0..FILES).map(|file| format!("/docs/f{file}"));
    let places = (0..PLACES).flat_map(|place| {
        let below = move |name: String| format!("/docs/n{place}/{name}");
        let files = (0..PLACE_FILES).map(|file| format!("f{file}"));
        let directories = (0..PLACE_DIRECTORIES).map(|dir| format!("d{dir}/"));
        let trees = (0..PLACE_TREES).map(|tree| format!("t{tree}/"));
        let within = (0..PLACE_TREES).map(|tree| format!("t{tree}/f"));
        files.chain(directories).chain(trees).chain(within).map(below)
    });
    Names::new(files.chain(places))
}

/// A tree's name and that of the file in it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct TreeName {
    dir: Name,
    file: Name,
}

/// What all visitors of one history have in common.
pub struct Ground {
    pub names: Names,
    start: Instant,
    values: AtomicU64,
    /// Calls made by anybody.
    pub made: AtomicU64,
    /// Held for reading during each call, so that whoever writes has silence.
    pub gate: RwLock<()>,
    pub over: std::sync::atomic::AtomicBool,
}

impl Ground {
    pub fn new() -> Self {
        Self {
            names: names(),
            start: Instant::now(),
            values: AtomicU64::new(0),
            made: AtomicU64::new(0),
            gate: RwLock::new(()),
            over: std::sync::atomic::AtomicBool::new(false),
        }
    }
    /// Nanoseconds since the history began.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap()
    }
    /// In one third of the time everybody changes things, so that whole directories are held; in the
    /// others hardly anybody does, so that copies answer, and are asked to hold and let go.
    fn is_busy(&self) -> bool {
        (self.now() / BUSY).is_multiple_of(3)
    }
    fn fresh(&self) -> u64 {
        1 + self.values.fetch_add(1, Ordering::Relaxed)
    }
}

/// The content that a value stands for: what it says at its head is checked to the last byte.
pub fn content(value: u64) -> Vec<u8> {
    // One in eight is too large to travel inside a record.
    let size = if value.is_multiple_of(8) { 20_000 + value % 40_000 } else { 32 + value % 9_000 };
    let mut content = format!("{value}\n").into_bytes();
    let mut rng = Rng::new(value);
    while content.len() < size as usize {
        content.extend_from_slice(&rng.next().to_le_bytes());
    }
    content.truncate(size as usize);
    content
}

fn value_of(body: &[u8]) -> Option<u64> {
    let line = body.split(|byte| *byte == b'\n').next()?;
    let value = std::str::from_utf8(line).ok()?.parse().ok()?;
    (content(value) == body).then_some(value)
}

pub struct Visitor<'a> {
    pub site: &'static str,
    number: u32,
    rng: Rng,
    client: Client,
    /// Its requests are sent by curl.
    pub by_curl: bool,
    ground: &'a Ground,
    pub calls: Vec<Call<Op>>,
}

struct Request<'r> {
    method: &'r str,
    url: &'r str,
    headers: &'r [(&'r str, &'r str)],
    body: Option<&'r [u8]>,
}

impl<'r> Request<'r> {
    fn new(method: &'r str, url: &'r str) -> Self {
        Self { method, url, headers: &[], body: None }
    }
    fn put(url: &'r str, body: &'r [u8]) -> Self {
        Self { body: Some(body), ..Self::new("PUT", url) }
    }
}

/// What an answer says of a change.
enum Outcome {
    Done,
    /// It was certainly not done, and this is why.
    Not(u16),
    Unknown,
}

impl<'a> Visitor<'a> {
    pub fn new(
        site: &'static str,
        number: u32,
        seed: u64,
        mut client: Client,
        ground: &'a Ground,
    ) -> Self {
        client.timeout = PATIENCE;
        let rng = Rng::new(seed);
        Self { site, number, rng, client, by_curl: false, ground, calls: Vec::new() }
    }

    /// Visits until the ground is over.
    pub fn run(&mut self) {
        while !self.ground.over.load(Ordering::Relaxed) {
            {
                let _open = self.ground.gate.read().unwrap();
                self.step();
            }
            std::thread::sleep(self.rng.millis(0, 15));
        }
    }

    pub fn step(&mut self) {
        self.ground.made.fetch_add(1, Ordering::Relaxed);
        if !self.ground.is_busy() && self.rng.below(SELDOM) != 0 {
            return self.look();
        }
        let file = self.rng.below(FILES as u64) as Name;
        match self.rng.below(20) {
            0..3 => self.put(file),
            3 => self.delete(file),
            4..8 => self.get(file),
            8..15 => self.in_a_place(),
            _ => self.in_a_tree(),
        }
    }

    fn look(&mut self) {
        match self.rng.below(8) {
            0..4 => {
                let file = self.rng.below(FILES as u64) as Name;
                self.get(file);
            }
            4 => {
                let file = self.name_in_a_place(0, PLACE_FILES);
                self.get(file);
            }
            5..7 => {
                let tree = self.tree();
                self.get(tree.file);
            }
            _ => {
                let place = self.rng.below(PLACES as u64) as usize;
                self.list(place);
            }
        }
    }

    fn in_a_place(&mut self) {
        let place = self.rng.below(PLACES as u64) as usize;
        let file = self.name_in_a_place(0, PLACE_FILES);
        let directory = self.name_in_a_place(PLACE_FILES, PLACE_DIRECTORIES);
        match self.rng.below(16) {
            0..3 => self.put(file),
            3 => self.delete(file),
            4..6 => self.get(file),
            6..9 => {
                let to = self.name_in_a_place(0, PLACE_FILES);
                self.transfer(file, to, true);
            }
            9 => {
                let to = self.name_in_a_place(PLACE_FILES, PLACE_DIRECTORIES);
                self.transfer(directory, to, false);
            }
            10 => self.mkcol(directory),
            11 => self.delete(directory),
            _ => self.list(place),
        }
    }

    fn in_a_tree(&mut self) {
        let tree = self.tree();
        match self.rng.below(16) {
            0..2 => self.mkcol(tree.dir),
            2..6 => self.put_within(tree),
            6 => self.delete(tree.file),
            7..9 => {
                let to = self.tree();
                self.move_tree(tree, to);
            }
            9 => self.delete_tree(tree),
            _ => self.get(tree.file),
        }
    }

    fn name_in_a_place(&mut self, first: usize, count: usize) -> Name {
        let place = self.rng.below(PLACES as u64) as usize;
        FILES + place * PLACE + first + self.rng.below(count as u64) as usize
    }

    fn tree(&mut self) -> TreeName {
        let dir = self.name_in_a_place(PLACE_FILES + PLACE_DIRECTORIES, PLACE_TREES);
        TreeName { dir, file: dir + PLACE_TREES }
    }

    fn url(&self, name: Name) -> String {
        self.ground.names.shown[name].clone()
    }

    /// Sends a request, and says when.
    fn send(&mut self, request: Request<'_>) -> (u64, End, io::Result<Response>) {
        let Request { method, url, headers, body } = request;
        let called = self.ground.now();
        let answer = if self.by_curl {
            curl::send(self.client.address(), PATIENCE, method, url, headers, body)
        } else {
            self.client.send(method, url, headers, body.unwrap_or_default())
        };
        (called, End::Answered(self.ground.now()), answer)
    }

    pub fn put(&mut self, name: Name) {
        let value = self.ground.fresh();
        let content = content(value);
        let op = Op::Put { name, value, size: content.len() as u64 };
        self.change(&[op], &[], Request::put(&self.url(name), &content));
    }

    fn put_within(&mut self, TreeName { dir, file }: TreeName) {
        let value = self.ground.fresh();
        let content = content(value);
        let op = Box::new(Op::Put { name: file, value, size: content.len() as u64 });
        let no_parent = Op::Look { name: dir, seen: Seen::Absent };
        let refusals = [(409, no_parent.clone()), (404, no_parent)];
        let op = Op::Within { dir, op };
        self.change(&[op], &refusals, Request::put(&self.url(file), &content));
    }

    fn delete(&mut self, name: Name) {
        let absent = Op::Look { name, seen: Seen::Absent };
        self.change(&[Op::Delete { name }], &[(404, absent)], Request::new("DELETE", &self.url(name)));
    }

    /// Servers delete what is in it first; one that finds something new there then gives up.
    fn delete_tree(&mut self, TreeName { dir, file }: TreeName) {
        let absent = Op::Look { name: dir, seen: Seen::Absent };
        let ops = [Op::Clear { name: file }, Op::Rmdir { name: dir, names: vec![file] }];
        self.change(&ops, &[(404, absent)], Request::new("DELETE", &self.url(dir)));
    }

    fn mkcol(&mut self, name: Name) {
        let present = Op::Look { name, seen: Seen::Present };
        self.change(&[Op::Mkcol { name }], &[(405, present)], Request::new("MKCOL", &self.url(name)));
    }

    fn move_tree(&mut self, from: TreeName, to: TreeName) {
        if from != to {
            let names = vec![(from.dir, to.dir), (from.file, to.file)];
            self.transferred(Op::MoveTree { names }, from.dir, to.dir, false);
        }
    }

    fn transfer(&mut self, from: Name, to: Name, replace: bool) {
        if from != to {
            self.transferred(Op::Move { from, to, replace }, from, to, replace);
        }
    }

    fn transferred(&mut self, op: Op, from: Name, to: Name, replace: bool) {
        let destination = format!("http://{}{}", self.client.address(), self.url(to));
        let overwrite = if replace { "T" } else { "F" };
        let refusals = [
            (404, Op::Look { name: from, seen: Seen::Absent }),
            (412, Op::Look { name: to, seen: Seen::Present }),
        ];
        let headers = [("Destination", destination.as_str()), ("Overwrite", overwrite)];
        let url = self.url(from);
        self.change(&[op], &refusals, Request { headers: &headers, ..Request::new("MOVE", &url) });
    }

    /// Sends a change and books it; a refusal of a status in `refusals` was a look at what is there.
    fn change(&mut self, ops: &[Op], refusals: &[(u16, Op)], request: Request<'_>) {
        let (called, answered, answer) = self.send(request);
        match outcome(answer) {
            Outcome::Done => ops.iter().for_each(|op| self.book(called, answered, op.clone(), false)),
            Outcome::Not(503) => {}
            Outcome::Not(status) if refusals.iter().any(|(refusal, _)| *refusal == status) => {
                let (_, look) = refusals.iter().find(|(refusal, _)| *refusal == status).unwrap();
                self.book(called, answered, look.clone(), false);
            }
            // Of what takes more than one step, some may have been taken.
            Outcome::Not(status) if ops.len() == 1 => panic!("{}: {ops:?} got {status}", self.site),
            Outcome::Not(_) | Outcome::Unknown => {
                let unknown = End::Unknown { until: u64::MAX };
                ops.iter().for_each(|op| self.book(called, unknown, op.clone(), false));
            }
        }
    }

    pub fn get(&mut self, name: Name) {
        let url = self.url(name);
        let (called, answered, answer) = self.send(Request::new("GET", &url));
        let Ok(answer) = answer else { return };
        let seen = match answer.status {
            404 => Seen::Absent,
            200 => Seen::Value(value_of(&answer.body).unwrap_or_else(|| {
                panic!("{}: GET {url} is no content that anybody wrote: {:?}", self.site, answer.headers)
            })),
            500..=599 => return,
            status => panic!("{}: GET {url} got {status}", self.site),
        };
        self.book(called, answered, Op::Look { name, seen }, is_stale(&answer));
    }

    /// Lists a directory. A server reads the names first and then each one's attributes, so a listing
    /// is as many looks, all within the one call.
    fn list(&mut self, place: usize) {
        let url = format!("/docs/n{place}/");
        let (called, answered, answer) =
            self.send(Request { headers: &[("Depth", "1")], ..Request::new("PROPFIND", &url) });
        let Ok(answer) = answer else { return };
        match answer.status {
            207 => {}
            500..=599 => return,
            status => panic!("{}: PROPFIND {url} got {status}", self.site),
        }
        let listed = propfind::entries(&answer.body);
        let first = FILES + place * PLACE;
        for name in first..first + LISTED {
            let shown = self.url(name);
            let seen = match listed.get(shown.trim_end_matches('/')) {
                None => Seen::Absent,
                Some(propfind::Entry::Directory) => Seen::Directory,
                Some(propfind::Entry::File(size)) => Seen::Size(*size),
            };
            self.book(called, answered, Op::Look { name, seen }, is_stale(&answer));
        }
    }

    /// Looks at everything, one after the other.
    pub fn look_around(&mut self) {
        for place in 0..PLACES {
            self.list(place);
        }
        let is_file = |name: &Name| !self.ground.names.shown[*name].ends_with('/');
        for name in (0..NAMES).filter(is_file).collect::<Vec<_>>() {
            self.get(name);
        }
    }

    fn book(&mut self, called: u64, end: End, op: Op, exempt: bool) {
        let (site, client) = (self.site, self.number);
        self.calls.push(Call { site, client, called, end, op, exempt });
    }
}

/// What a copy says of an answer that it gives because it is cut off.
fn is_stale(answer: &Response) -> bool {
    answer.header("cache-status").is_some_and(|field| field.contains("detail=\"cut off\""))
}

fn outcome(answer: io::Result<Response>) -> Outcome {
    match answer {
        // Nothing was connected, so nothing was sent.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Outcome::Not(503),
        Err(_) => Outcome::Unknown,
        Ok(answer) if answer.is_success() && answer.status != 207 => Outcome::Done,
        Ok(answer) if answer.status == 503 || (400..500).contains(&answer.status) => {
            Outcome::Not(answer.status)
        }
        Ok(_) => Outcome::Unknown,
    }
}
