//! The locks that a share has. What is asked for every thing in a listing costs as much as its path is long,
//! however many locks there are; what is asked for a change, at most one look at each.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use super::super::if_field::{IfField, List, State};
use super::{CLIENT_MAX, Judged, LOCKS_MAX, Lock, Principal, SHARED_MAX, Use, active};
use crate::clock::BootTime;
use crate::hash::{self, HashMap, HashSet};
use crate::id::RelPath;

/// All locks of a share.
#[derive(Default)]
pub struct Locks {
    /// By their tokens.
    held: HashMap<String, Held>,
    /// The tokens of those at one place, by its hash.
    places: HashMap<u64, Vec<String>>,
    ends: BTreeSet<(BootTime, String)>,
    clients: HashMap<IpAddr, u32>,
    hasher: hash::State,
}

struct Held {
    lock: Lock,
    ends: BootTime,
}

/// Why a lock is not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// This one is in the way.
    Locked(Lock),
    /// The place, or one below it, is under [`SHARED_MAX`] already.
    TooManyHere,
    /// The client has [`CLIENT_MAX`].
    TooManyOfClient,
    TooMany,
}

/// What keeps somebody from a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Barred {
    /// The token of this lock was not submitted.
    Locked(Lock),
    /// It was, by somebody else than who made the lock.
    NotYours,
}

/// Why a lock is not refreshed or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotYours {
    /// There is none of that token that covers the place.
    Missing,
    /// Somebody else made it.
    Others,
}

impl Locks {
    /// Those that are known from an earlier run. How much of its time each has left is not, so it has all.
    pub fn new(locks: Vec<Lock>, now: BootTime) -> Self {
        let mut all = Self::default();
        locks.into_iter().for_each(|lock| all.insert(lock, now));
        all
    }

    pub fn all(&self) -> Vec<Lock> {
        self.held.values().map(|held| held.lock.clone()).collect()
    }

    pub fn count(&self) -> usize {
        self.held.len()
    }

    fn insert(&mut self, lock: Lock, now: BootTime) {
        let (token, ends) = (lock.token.clone(), after(now, lock.timeout));
        self.remove(&token);
        self.places.entry(self.place(&lock.path)).or_default().push(token.clone());
        self.ends.insert((ends, token.clone()));
        if let Some(client) = lock.maker.client {
            *self.clients.entry(client).or_default() += 1;
        }
        self.held.insert(token, Held { lock, ends });
    }

    fn remove(&mut self, token: &str) -> Option<Lock> {
        let Held { lock, ends } = self.held.remove(token)?;
        let place = self.place(&lock.path);
        if let Some(tokens) = self.places.get_mut(&place) {
            tokens.retain(|other| other != token);
            if tokens.is_empty() {
                self.places.remove(&place);
            }
        }
        self.ends.remove(&(ends, lock.token.clone()));
        if let Some(client) = &lock.maker.client {
            hash::decrement(&mut self.clients, client);
        }
        Some(lock)
    }

    /// Forgets those whose time is over, and says which.
    pub fn expire(&mut self, now: BootTime) -> Vec<String> {
        let mut over = Vec::new();
        while let Some((_, token)) = self.ends.first().filter(|(ends, _)| *ends <= now) {
            let token = token.clone();
            self.remove(&token);
            over.push(token);
        }
        over
    }

    /// Forgets those at or below a place that is no more, and says which.
    pub fn gone(&mut self, path: &RelPath) -> Vec<String> {
        let gone = self.held.values().filter(|held| held.lock.path.starts_with(path));
        let gone: Vec<String> = gone.map(|held| held.lock.token.clone()).collect();
        gone.iter().for_each(|token| drop(self.remove(token)));
        gone
    }

    pub fn grant(&mut self, lock: Lock, now: BootTime) -> Result<(), Denied> {
        let excludes = |other: &&Lock| !(lock.shared && other.shared);
        let below = || self.below(&lock.path).filter(|_| lock.deep);
        if let Some(other) = self.covering(&lock.path).chain(below()).find(excludes) {
            return Err(Denied::Locked(other.clone()));
        }
        let full = |path: &RelPath| self.covering(path).count() >= SHARED_MAX;
        if full(&lock.path) || below().any(|other| full(&other.path)) {
            return Err(Denied::TooManyHere);
        }
        let of_client = lock.maker.client.and_then(|client| self.clients.get(&client));
        if of_client.is_some_and(|count| *count as usize >= CLIENT_MAX) {
            return Err(Denied::TooManyOfClient);
        }
        if self.held.len() >= LOCKS_MAX {
            return Err(Denied::TooMany);
        }
        self.insert(lock, now);
        Ok(())
    }

    /// Gives the first lock of `tokens` that covers the place and is `who`'s its time anew: an If field may submit
    /// shared locks of others too.
    pub fn refresh<'a>(
        &mut self,
        path: &RelPath,
        tokens: impl IntoIterator<Item = &'a str>,
        timeout: Duration,
        who: Option<Principal>,
        now: BootTime,
    ) -> Result<Lock, NotYours> {
        let mut why = NotYours::Missing;
        let own = tokens.into_iter().find_map(|token| match self.of(path, token, who) {
            Ok(lock) => Some(lock.clone()),
            Err(NotYours::Missing) => None,
            Err(NotYours::Others) => {
                why = NotYours::Others;
                None
            }
        });
        let mut lock = own.ok_or(why)?;
        lock.timeout = timeout;
        self.insert(lock.clone(), now);
        Ok(lock)
    }

    pub fn holds(&self, token: &str) -> bool {
        self.held.contains_key(token)
    }

    /// Ends a lock that covers the place.
    pub fn release(
        &mut self,
        path: &RelPath,
        token: &str,
        who: Option<Principal>,
    ) -> Result<Lock, NotYours> {
        self.of(path, token, who)?;
        self.take(token).ok_or(NotYours::Missing)
    }

    /// Ends a lock, whoever made it.
    pub fn take(&mut self, token: &str) -> Option<Lock> {
        self.remove(token)
    }

    fn of(&self, path: &RelPath, token: &str, who: Option<Principal>) -> Result<&Lock, NotYours> {
        let lock = self.held.get(token).map(|held| &held.lock).filter(|lock| lock.covers(path));
        let lock = lock.ok_or(NotYours::Missing)?;
        if lock.is_for(who) { Ok(lock) } else { Err(NotYours::Others) }
    }

    /// Whether the conditions hold, as far as they are about locks. `own`: the path that the request is for;
    /// `leads` says where one does.
    pub fn judge(&self, field: &IfField, own: &RelPath, leads: impl Fn(&RelPath) -> RelPath) -> Judged {
        let is = |token: &str, path: &RelPath| {
            self.held.get(token).is_some_and(|held| held.lock.covers(&leads(path)))
        };
        let mut lists = Vec::new();
        for List { place, conditions } in &field.lists {
            let at = place.as_ref().map_or(own, |(path, _)| path);
            let fails = conditions.iter().any(|condition| match &condition.state {
                State::Token(token) => is(token, at) == condition.not,
                State::Etag(_) => false,
            });
            if fails {
                continue;
            }
            let tags = conditions.iter().filter(|condition| matches!(condition.state, State::Etag(_)));
            let conditions: Vec<_> = tags.cloned().collect();
            if conditions.is_empty() {
                return Judged::Holds;
            }
            lists.push(List { place: place.clone(), conditions });
        }
        if lists.is_empty() { Judged::Fails } else { Judged::Rests(IfField { lists }) }
    }

    /// What bars one of the uses to `who` has submitted these tokens. Of several shared locks on one place any
    /// will do.
    pub fn bars(&self, uses: &[Use], tokens: &[&str], who: Option<Principal>) -> Option<Barred> {
        if self.held.is_empty() {
            return None;
        }
        let tokens: HashSet<&str> = tokens.iter().copied().collect();
        let barred = |locks: &[&Lock]| -> Option<Barred> {
            let first = *locks.first()?;
            let mut submitted = locks.iter().filter(|lock| tokens.contains(lock.token.as_str()));
            match submitted.clone().any(|lock| lock.is_for(who)) {
                true => None,
                false if submitted.next().is_some() => Some(Barred::NotYours),
                false => Some(Barred::Locked(first.clone())),
            }
        };
        let covered = |path| barred(&self.covering(path).collect::<Vec<_>>());
        uses.iter().find_map(|one| match one {
            Use::Entry(path) | Use::Member(path) => covered(path),
            Use::Tree(path) => covered(path).or_else(|| {
                let mut barring = None::<(&RelPath, Barred)>;
                for lock in self.below(path) {
                    // Of all that bar it the one that comes first, whatever order they are looked at in.
                    if barring.as_ref().is_none_or(|(least, _)| lock.path < **least) {
                        let found = barred(&self.at(&lock.path).collect::<Vec<_>>());
                        barring = found.map(|why| (&lock.path, why)).or(barring);
                    }
                }
                barring.map(|(_, why)| why)
            }),
        })
    }

    /// What `lockdiscovery` has for the place; `url` writes one. `owners`: bytes of owners that may be told
    /// still.
    pub fn discovery(
        &self,
        path: &RelPath,
        now: BootTime,
        owners: &mut usize,
        url: impl Fn(&RelPath) -> String,
    ) -> String {
        let mut told = String::new();
        for lock in self.covering(path) {
            let ends = self.held.get(&lock.token).map_or(now, |held| held.ends);
            let owner = match owners.checked_sub(lock.owner.len()) {
                Some(rest) => {
                    *owners = rest;
                    lock.owner.as_str()
                }
                None => "",
            };
            told += &active(lock, ends.since(now), owner, &url);
        }
        told
    }

    /// The locks that cover a place, those on the root first.
    fn covering<'a>(&'a self, path: &'a RelPath) -> impl Iterator<Item = &'a Lock> {
        let places = self.along(path).filter_map(|place| self.places.get(&place));
        let locks = places.flatten().filter_map(|token| self.held.get(token)).map(|held| &held.lock);
        locks.filter(|lock| lock.covers(path))
    }

    /// Those at the place itself.
    fn at<'a>(&'a self, path: &'a RelPath) -> impl Iterator<Item = &'a Lock> {
        let tokens = self.places.get(&self.place(path)).into_iter().flatten();
        let locks = tokens.filter_map(|token| self.held.get(token)).map(|held| &held.lock);
        locks.filter(move |lock| lock.path == *path)
    }

    /// Those below it.
    fn below<'a>(&'a self, path: &'a RelPath) -> impl Iterator<Item = &'a Lock> {
        let all = self.held.values().map(|held| &held.lock);
        all.filter(move |lock| lock.path != *path && lock.path.starts_with(path))
    }

    /// The hash of every place along the path, from the root to its end.
    fn along(&self, path: &RelPath) -> impl Iterator<Item = u64> {
        let mut hasher = self.hasher.build_hasher();
        let root = hasher.finish();
        let rest = path.names().iter().map(move |name| {
            name.hash(&mut hasher);
            hasher.finish()
        });
        std::iter::once(root).chain(rest)
    }

    fn place(&self, path: &RelPath) -> u64 {
        self.along(path).last().unwrap_or_default()
    }
}

fn after(now: BootTime, timeout: Duration) -> BootTime {
    BootTime(now.0.saturating_add(timeout))
}
