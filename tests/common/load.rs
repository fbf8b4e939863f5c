//! Seeded clients that remember what they were told, and check it afterwards: what was answered as
//! done is there, what was refused was not done, and a client sees its own changes at its own site.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Rng;
use super::cluster::SHARE;
use super::http::{Client, Response};

/// Names a client juggles with at a time.
const NAMES: usize = 8;

/// One client with a directory of its own. After an answer that leaves the outcome open (a timeout,
/// a closed connection, 504) the names concerned are set aside and never used again: the change may
/// still happen.
pub struct Actor {
    pub directory: String,
    rng: Rng,
    client: Client,
    /// What is certainly there, or certainly not, by name.
    known: BTreeMap<String, Option<Vec<u8>>>,
    /// For names set aside, all that may be there.
    open: BTreeMap<String, Vec<Option<Vec<u8>>>>,
    made: u64,
    /// What was asked for and told of each name, to be read when something is wrong.
    story: BTreeMap<String, Vec<String>>,
    pub tally: Tally,
    /// Largest file, in bytes.
    pub largest: u64,
}

/// How the answers came out.
#[derive(Debug, Default, Clone, Copy)]
pub struct Tally {
    pub done: u64,
    /// 503: nothing was done.
    pub refused: u64,
    pub unknown: u64,
    pub reads: u64,
    pub reads_failed: u64,
}

enum Outcome {
    Done,
    Refused,
    Unknown,
}

impl Actor {
    /// `directory` is below the share, and exists.
    pub fn new(seed: u64, door: SocketAddr, directory: &str) -> Self {
        let mut client = Client::new(door);
        client.timeout = Duration::from_secs(10);
        Self {
            directory: directory.to_owned(),
            rng: Rng::new(seed),
            client,
            known: BTreeMap::new(),
            open: BTreeMap::new(),
            made: 0,
            story: BTreeMap::new(),
            tally: Tally::default(),
            largest: 64 * 1024,
        }
    }

    /// Steps until `stop`.
    pub fn run(&mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            self.step();
        }
    }

    pub fn step(&mut self) {
        while self.known.len() < NAMES {
            self.made += 1;
            self.known.insert(format!("f{}", self.made), None);
        }
        let names: Vec<String> = self.known.keys().cloned().collect();
        let name = self.rng.pick(&names).clone();
        let other = self.rng.pick(&names).clone();
        match self.rng.below(10) {
            0..4 => self.put(&name),
            4 => self.delete(&name),
            5 => self.transfer("MOVE", &name, &other),
            6 => self.transfer("COPY", &name, &other),
            _ => self.read(&name),
        }
    }

    fn url(&self, name: &str) -> String {
        format!("{SHARE}/{}/{name}", self.directory)
    }

    fn content(&mut self) -> Vec<u8> {
        self.made += 1;
        let line = format!("{} {} {}\n", self.directory, self.made, self.rng.next());
        let size = 1 + self.rng.below(self.largest) as usize;
        let mut content = line.into_bytes();
        while content.len() < size {
            content.extend_from_slice(&self.rng.next().to_le_bytes());
        }
        content
    }

    fn put(&mut self, name: &str) {
        let content = self.content();
        let answer = self.client.put(&self.url(name), &content);
        self.settle("PUT", answer, vec![(name.to_owned(), Some(content))]);
    }

    fn delete(&mut self, name: &str) {
        if self.known[name].is_some() {
            let answer = self.client.delete(&self.url(name));
            self.settle("DELETE", answer, vec![(name.to_owned(), None)]);
        }
    }

    fn transfer(&mut self, method: &str, from: &str, to: &str) {
        let Some(content) = self.known[from].clone() else { return };
        if from == to {
            return;
        }
        let answer = self.client.transfer(method, &self.url(from), &self.url(to));
        // A COPY that is still to happen takes what its source has by then: that is set aside as well.
        let left = if method == "MOVE" { None } else { Some(content.clone()) };
        let after = vec![(to.to_owned(), Some(content)), (from.to_owned(), left)];
        self.settle(method, answer, after);
    }

    /// Books what an answer says of a change that would have led to `after`.
    fn settle(
        &mut self,
        method: &str,
        answer: std::io::Result<Response>,
        after: Vec<(String, Option<Vec<u8>>)>,
    ) {
        let told = match &answer {
            Ok(answer) => {
                format!("{} {:?}", answer.status, answer.text().chars().take(120).collect::<String>())
            }
            Err(error) => format!("{error}"),
        };
        let now = time::OffsetDateTime::now_utc().time();
        for (name, content) in &after {
            let line = format!("{now} {method} of {}: {told}", show(content));
            self.story.entry(name.clone()).or_default().push(line);
        }
        match outcome(answer) {
            Outcome::Done => {
                self.tally.done += 1;
                self.known.extend(after);
            }
            Outcome::Refused => self.tally.refused += 1,
            Outcome::Unknown => {
                self.tally.unknown += 1;
                for (name, content) in after {
                    let before = self.known.remove(&name).flatten();
                    self.open.insert(name, vec![before, content]);
                }
            }
        }
    }

    /// A client sees its own changes at its own site (always promised); a refusal is no lie.
    fn read(&mut self, name: &str) {
        let url = self.url(name);
        match self.client.get(&url) {
            Ok(answer) if matches!(answer.status, 200 | 404) => {
                self.tally.reads += 1;
                let seen = (answer.status == 200).then_some(answer.body);
                let known = &self.known[name];
                assert!(
                    seen == *known,
                    "{url}: read {}, own last change was {}",
                    show(&seen),
                    show(known)
                );
            }
            Ok(answer) if matches!(answer.status, 502..=504) => self.tally.reads_failed += 1,
            Ok(answer) => panic!("GET {url}: status {}: {}", answer.status, answer.text()),
            Err(_) => self.tally.reads_failed += 1,
        }
    }

    /// Compares with what is on a disk after everything has settled.
    pub fn check(&self, share: &std::path::Path) {
        let read = |name: &str| std::fs::read(share.join(&self.directory).join(name)).ok();
        for (name, content) in &self.known {
            let seen = read(name);
            assert!(
                seen == *content,
                "{}/{name}: {} is on {}, {} was answered as done; {:?}; {}",
                self.directory,
                show(&seen),
                share.display(),
                show(content),
                self.tally,
                self.told_of(name),
            );
        }
        for (name, may_be) in &self.open {
            let seen = read(name);
            assert!(
                may_be.contains(&seen),
                "{}/{name}: {} is on {}, which is none of what may be there; {}",
                self.directory,
                show(&seen),
                share.display(),
                self.told_of(name),
            );
        }
    }

    fn told_of(&self, name: &str) -> String {
        let story = self.story.get(name).map_or(&[][..], |story| story);
        format!("it was told:\n{}", story.join("\n"))
    }
}

fn show(content: &Option<Vec<u8>>) -> String {
    match content {
        None => "nothing".to_owned(),
        Some(bytes) => {
            let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
            format!("{:?} ({} bytes)", String::from_utf8_lossy(line), bytes.len())
        }
    }
}

fn outcome(answer: std::io::Result<Response>) -> Outcome {
    match answer {
        // Nothing was connected, so nothing was sent.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => Outcome::Refused,
        Err(_) => Outcome::Unknown,
        Ok(answer) if answer.is_success() => Outcome::Done,
        Ok(answer) if answer.status == 503 => {
            assert!(
                answer.header("retry-after").is_some(),
                "503 without Retry-After: {:?}",
                answer.headers
            );
            Outcome::Refused
        }
        Ok(answer) if matches!(answer.status, 500..=599) => Outcome::Unknown,
        Ok(answer) => panic!("a change got status {}: {}", answer.status, answer.text()),
    }
}
