//! Changes that nobody asked nearshare for: made on the primary's own disk by a shell, a cron job or another protocol's
//! server. Where the kernel tells of them ([`Watcher`]), each becomes a hint, after a moment in which more of the same
//! become one; elsewhere a scan finds them. Not here: what they are (see `pass`).
//!
//! Whatever may have been missed asks for a scan, and so does more than is kept in memory:
//!
//! ```text
//!  kernel's queue --- heard --> pending, 25 ms --- in the share, and not as recorded --> the table's queue
//!        | full                    | full                | cannot be told                  | full
//!        +-------------------------+--------- scan ------+---------------------------------+
//! ```

use std::collections::BTreeMap;
use std::collections::hash_map::Entry as Slot;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use metrics::counter;

use super::{Notice, NoticeError, Result, lock};
use crate::catalog::Touch;
use crate::clock::BootTime;
use crate::effect::{Reach, Target};
use crate::hash::{HashMap, HashSet};
use crate::id::{Gen, Name, ObjectId, RelPath};
use crate::object::{Kind, LocalHandle};
use crate::tree::{Alive, Heard, Place, Ringer, Spot, Tree, Watcher, Whereabouts};
use crate::work::{self, Thread};

/// What is heard of is looked at after so long: above the time stamps' granularity, so that one look is enough (R17),
/// and behind the look that a change through nearshare gets, so that its own events lead to none.
const LINGER: Duration = Duration::from_millis(25);
/// What has been heard is gathered for so long before more is read.
const GATHER: Duration = Duration::from_millis(5);
/// Hints that linger, 16,384 as in the kernel's own queue: with 300 bytes each the most are 5 MB.
const PENDING_MAX: usize = 16_384;
/// Marks, with those of changes through nearshare, up to which hints are added.
const MARKS_MAX: usize = 65_536;
/// Directories outside the share that are remembered, so that what happens there costs next to nothing.
const ELSEWHERE_MAX: usize = 8192;
/// An object that nobody knows and that has no place is asked for again after this, so many times: it may be on its way
/// into the catalog.
const RETRY: Duration = Duration::from_secs(1);
const TRIES: u32 = 10;

/// How changes behind nearshare are noticed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Outside {
    pub by: By,
    /// Why not at once, and what to do about it.
    pub why: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum By {
    /// The kernel tells of every change.
    Fanotify,
    /// At a start, and when somebody asks for it.
    #[default]
    Scan,
}

/// What is under way while the kernel tells of changes.
pub(super) struct Watch {
    ringer: Ringer,
    thread: Thread,
}

impl<T: Tree> Notice<T> {
    /// Begins to hear of changes, where that is possible.
    pub(super) fn watch(self: &Arc<Self>) -> Result<()> {
        let watcher = match self.tree.watch() {
            Ok(watcher) => watcher,
            Err(why) => {
                self.hears_nothing(why.to_string());
                return Ok(());
            }
        };
        lock(&self.standing).outside = Outside { by: By::Fanotify, why: None };
        let ringer = watcher.ringer();
        let listener = Listener {
            notice: self.clone(),
            watcher,
            pending: HashMap::default(),
            due: BTreeMap::new(),
            serial: 0,
            elsewhere: HashSet::default(),
            opened: None,
        };
        let name = format!("watch {}", self.config.share);
        let thread = work::thread(name, move || listener.run())
            .map_err(|source| NoticeError::Read { what: "starting the share's watch".into(), source })?;
        *lock(&self.watch) = Some(Watch { ringer, thread });
        Ok(())
    }

    fn hears_nothing(&self, why: String) {
        tracing::warn!(share = %self.config.share, why, "changes behind nearshare are noticed by scans only");
        lock(&self.standing).outside = Outside { by: By::Scan, why: Some(why) };
    }

    /// Ends the watch after what it is doing now.
    pub(super) fn unwatch(&self) {
        if let Some(watch) = lock(&self.watch).as_ref() {
            watch.ringer.ring();
        }
    }

    /// Waits for it.
    pub(super) fn end_watch(&self) {
        let watch = lock(&self.watch).take();
        if watch.is_some_and(|watch| watch.thread.join().is_err()) {
            tracing::error!(share = %self.config.share, "the share's watch panicked");
        }
    }

    fn is_settled(&self) -> bool {
        let unmarked = lock(&self.table).len() == 0;
        let scanned = lock(&self.standing).scan.is_none() && !self.scan_wanted.load(Ordering::SeqCst);
        unmarked && scanned
    }
}

/// What lingers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Hint {
    Entry(LocalHandle, Name),
    Object(LocalHandle),
}

impl Hint {
    fn handle(&self) -> &LocalHandle {
        match self {
            Self::Entry(handle, _) | Self::Object(handle) => handle,
        }
    }
}

/// A directory as this share sees it.
enum Dir {
    Known(ObjectId),
    /// It is not recorded yet.
    At(RelPath),
    Elsewhere,
}

struct Listener<T: Tree> {
    notice: Arc<Notice<T>>,
    watcher: Watcher,
    /// With how often each was asked for in vain.
    pending: HashMap<Hint, u32>,
    due: BTreeMap<(BootTime, u64), Hint>,
    serial: u64,
    /// Directories outside the share. No place stays outside over the move of any directory.
    elsewhere: HashSet<LocalHandle>,
    /// The last recorded directory that was looked into.
    opened: Option<(ObjectId, Option<T::Dir>)>,
}

impl<T: Tree> Listener<T> {
    fn run(mut self) {
        let share = self.notice.config.share.to_string();
        let events = counter!("nearshare_outside_events_total", "share" => share);
        while !self.notice.stop.load(Ordering::SeqCst) {
            let now = self.notice.clock.boot();
            let most = self.due.first_key_value().map(|((due, _), _)| due.since(now));
            let heard = match self.watcher.next(most) {
                Ok(heard) => heard,
                Err(error) => {
                    self.notice
                        .hears_nothing(format!("the kernel tells no more: {error}; restart nearshare"));
                    self.miss("the watch has ended");
                    return;
                }
            };
            if !heard.is_empty() {
                events.increment(heard.len() as u64);
                heard.into_iter().for_each(|heard| self.hear(heard));
                work::pause(GATHER);
            }
            if let Err(error) = self.pass_on() {
                self.miss(&error.to_string());
            }
        }
    }

    /// Anything may have changed.
    fn miss(&mut self, why: &str) {
        let notice = &self.notice;
        let share = notice.config.share.to_string();
        counter!("nearshare_outside_overflows_total", "share" => share).increment(1);
        (self.pending, self.due) = (HashMap::default(), BTreeMap::new());
        // One of them may have moved into the share.
        self.elsewhere.clear();
        if !notice.scan_wanted.swap(true, Ordering::SeqCst) {
            tracing::warn!(
                share = %notice.config.share, why, "changes behind nearshare may have been missed: scanning"
            );
        }
        notice.wake.ring();
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Entry { dir, name } => self.linger(Hint::Entry(dir, name), 0, LINGER),
            Heard::Object(handle) => self.linger(Hint::Object(handle), 0, LINGER),
            Heard::Moved { from, to: (dir, name), directory } => {
                if directory {
                    // What was below it may be in the share now. If it was there before and is back, whoever looked
                    // for it meanwhile has asked for a scan (R16).
                    self.elsewhere.clear();
                }
                if let Some((dir, name)) = from {
                    self.linger(Hint::Entry(dir, name), 0, LINGER);
                }
                self.linger(Hint::Entry(dir, name), 0, LINGER);
            }
            Heard::Lost => self.miss("more happened at once than the kernel keeps"),
        }
    }

    fn linger(&mut self, hint: Hint, tries: u32, time: Duration) {
        let ours = matches!(&hint, Hint::Entry(_, name) if name.is_ours());
        if ours || self.elsewhere.contains(hint.handle()) {
            return;
        }
        if let Slot::Vacant(free) = self.pending.entry(hint) {
            self.serial += 1;
            let due = BootTime(self.notice.clock.boot().0 + time);
            self.due.insert((due, self.serial), free.key().clone());
            free.insert(tries);
        }
        if self.pending.len() > PENDING_MAX {
            self.miss("more happened at once than is kept");
        }
    }

    /// Hints at what has lingered long enough, is in the share, and differs from what is recorded.
    fn pass_on(&mut self) -> Result<()> {
        let now = self.notice.clock.boot();
        let mut touches: Vec<Touch> = Vec::new();
        while let Some(first) = self.due.first_entry().filter(|first| first.key().0 <= now) {
            let hint = first.remove();
            let tries = self.pending.remove(&hint).unwrap_or_default();
            self.resolve(hint, tries, &mut touches)?;
        }
        self.opened = None;
        if touches.is_empty() {
            return Ok(());
        }
        let notice = self.notice.clone();
        let mut generation: Option<Gen> = None;
        let mut table = lock(&notice.table);
        if table.len() > MARKS_MAX {
            drop(table);
            self.miss("more waits to be looked at than is kept");
            return Ok(());
        }
        for touch in touches {
            if table.will_look(&touch) {
                continue;
            }
            let newest = match generation {
                Some(newest) => newest,
                None => notice.shelf.next_gen()?,
            };
            generation = Some(newest);
            table.remember(touch, newest, false);
        }
        drop(table);
        if generation.is_some() {
            notice.wake.ring();
        }
        Ok(())
    }

    fn resolve(&mut self, hint: Hint, tries: u32, touches: &mut Vec<Touch>) -> Result<()> {
        match &hint {
            Hint::Entry(handle, name) => match self.dir(handle)? {
                Dir::Elsewhere => {}
                Dir::At(path) => self.touch(path.join(name.clone()), touches)?,
                Dir::Known(dir) => {
                    let touch = Touch::Entry(dir, name.clone());
                    if !self.will_look(&touch) && self.differs(dir, handle, name)? {
                        touches.push(touch);
                    }
                }
            },
            Hint::Object(handle) => self.resolve_object(handle.clone(), tries, touches)?,
        }
        Ok(())
    }

    fn resolve_object(
        &mut self,
        handle: LocalHandle,
        tries: u32,
        touches: &mut Vec<Touch>,
    ) -> Result<()> {
        let notice = self.notice.clone();
        // Before it is asked for: what has been made in the share is recorded by then.
        let settled = notice.is_settled();
        let known = notice.shelf.by_handle(&handle)?;
        let found = match notice.tree.alive(&handle)? {
            Alive::Yes(found, path) => Some((found, path)),
            Alive::Gone | Alive::Unknown => None,
        };
        match (known, found) {
            (Some(id), found) => {
                let touch = Touch::Object(id);
                let local = notice.shelf.local(id)?;
                let same = found.is_some_and(|(found, _)| {
                    local.is_some_and(|local| local.settled && local.stamp == found.stamp)
                });
                if !same && !self.will_look(&touch) {
                    touches.push(touch);
                }
            }
            (None, Some((_, Some(path)))) => self.touch(path, touches)?,
            (None, Some((found, None))) if found.kind == Kind::Directory => {
                // Unless it is outside, it has a place by now.
                if let Dir::At(path) = self.dir(&handle)? {
                    self.touch(path, touches)?;
                }
            }
            (None, Some(_)) if !settled && tries < TRIES => {
                self.linger(Hint::Object(handle), tries + 1, RETRY);
            }
            (None, Some(_)) if !settled => self.miss("a file changed whose place is not known"),
            // Gone, or no file of the share: all of those are recorded.
            (None, _) => {}
        }
        Ok(())
    }

    fn will_look(&self, touch: &Touch) -> bool {
        lock(&self.notice.table).will_look(touch)
    }

    fn dir(&mut self, handle: &LocalHandle) -> Result<Dir> {
        if self.elsewhere.contains(handle) {
            return Ok(Dir::Elsewhere);
        }
        if let Some(id) = self.notice.shelf.by_handle(handle)? {
            return Ok(Dir::Known(id));
        }
        Ok(match self.notice.tree.whereabouts(handle)? {
            Whereabouts::Inside(path) => Dir::At(path),
            Whereabouts::Somewhere => {
                self.miss("a directory's place cannot be told");
                Dir::Elsewhere
            }
            Whereabouts::Elsewhere => {
                if self.elsewhere.len() >= ELSEWHERE_MAX {
                    self.elsewhere.clear();
                }
                self.elsewhere.insert(handle.clone());
                Dir::Elsewhere
            }
        })
    }

    /// What is at a path of the disk now, in directories that may not be recorded yet.
    fn touch(&self, path: RelPath, touches: &mut Vec<Touch>) -> Result<()> {
        let mut held = Vec::new();
        match self.notice.touch(&Target { path, reach: Reach::Entry }, &mut held) {
            // It has moved on, which is heard of as well.
            Err(NoticeError::Outside { .. }) => return Ok(()),
            done => done?,
        };
        touches.extend(held.into_iter().map(|held| held.touch));
        Ok(())
    }

    /// Whether an entry of the disk is not what the catalog proves it to be (R17).
    fn differs(&mut self, id: ObjectId, handle: &LocalHandle, name: &Name) -> Result<bool> {
        let notice = self.notice.clone();
        if self.opened.as_ref().is_none_or(|(known, _)| *known != id) {
            let path = || notice.shelf.path_of(id).ok().flatten();
            self.opened = Some((id, notice.tree.open_dir(&Place { handle, path: &path })?));
        }
        let Some((_, Some(dir))) = &self.opened else { return Ok(true) };
        let found = notice.tree.look(Spot::Entry(dir, name))?;
        let known = notice.shelf.child(id, name)?;
        // What came and went has changed the directory.
        let (known, found) = match (known, found) {
            (None, None) => (id, notice.tree.dir_found(dir)?),
            (Some(known), Some(found)) => (known, found),
            _ => return Ok(true),
        };
        let local = notice.shelf.local(known)?;
        Ok(local.is_none_or(|local| {
            !local.settled || local.stamp != found.stamp || local.handle != found.handle
        }))
    }
}
