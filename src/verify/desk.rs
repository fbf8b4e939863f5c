//! Where one share's verification is ordered, goes on, and is told of. How far it is is kept in a file of the
//! state directory: a site that was killed goes on from there when it is told to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::look::{Looker, Seen};
use super::{Judge, Report, Result, VerifyError, Wrong};
use crate::catalog::Shelf;
use crate::clock::{BootTime, Clock};
use crate::id::{ObjectId, ShareId};
use crate::tree::Tree;
use crate::work::{self, Thread};

/// Objects taken from the catalog at once.
const OBJECTS: usize = 1000;
/// How far it is is kept this often: a kill costs as much once more.
const SAVE: Duration = Duration::from_secs(5);
/// What was busy is looked at again after this, and is left when it was busy for so long.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_FOR: Duration = Duration::from_secs(60);
/// Busy objects that are looked at again; more are counted as skipped.
const AGAIN_MAX: usize = 100_000;
/// Longest file: [`Report::LISTED_MAX`] paths of 16 KiB each, escaped twice.
const FILE_MAX: u64 = 64 << 20;

/// What is to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Order {
    pub repair: bool,
    /// Bytes a second; `None`: as fast as it goes.
    pub rate: Option<u64>,
    /// From the beginning, however far an earlier one came.
    pub anew: bool,
}

pub struct Desk {
    file: PathBuf,
    report: Mutex<Report>,
    over: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

/// What a share's verification is about.
pub struct Subject<T: Tree> {
    pub share: ShareId,
    pub shelf: Arc<Shelf>,
    pub tree: Arc<T>,
    pub clock: Arc<dyn Clock>,
    pub judge: Arc<dyn Judge>,
}

impl Desk {
    /// With what an earlier process left in `file`, if that can be read.
    pub fn open(file: PathBuf) -> Arc<Self> {
        let report = Mutex::new(load(&file));
        Arc::new(Self { file, report, over: AtomicBool::new(false), thread: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn report(&self) -> Report {
        self.lock().clone()
    }

    /// Begins, or goes on where an earlier one was broken off. `false`: one is under way already.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn begin<T: Tree>(self: &Arc<Self>, subject: Subject<T>, order: Order) -> io::Result<bool> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let mut report = self.lock();
        if report.running {
            return Ok(false);
        }
        if order.anew || report.complete {
            *report = Report::default();
        }
        let totals = subject.shelf.totals();
        report.running = true;
        report.complete = false;
        report.repair = order.repair;
        (report.expected, report.expected_bytes) = (totals.objects, totals.bytes);
        report.stopped = None;
        drop(report);
        self.over.store(false, SeqCst);
        let desk = self.clone();
        let begun = work::thread(format!("verify {}", subject.share), move || desk.run(&subject, order));
        match begun {
            Ok(begun) => *thread = Some(begun),
            Err(error) => {
                self.lock().running = false;
                return Err(error);
            }
        }
        Ok(true)
    }

    /// Lets it end where it is.
    pub fn stop(&self) {
        self.over.store(true, SeqCst);
    }

    /// Waits, after `stop`, until it has ended. Blocks.
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread of a verification panicked");
        }
    }

    fn run<T: Tree>(&self, subject: &Subject<T>, order: Order) {
        let share = &subject.share;
        tracing::info!(%share, repair = order.repair, after = self.lock().after, "verifying");
        let is_over = || self.over.load(SeqCst) || subject.judge.is_stopped();
        let Subject { shelf, tree, clock, judge, .. } = subject;
        let looker = Looker::new(&**tree, shelf, &**clock, &**judge, order.rate, &is_over);
        let began = {
            let report = self.lock();
            (report.objects, report.bytes)
        };
        let mut run = Run {
            desk: self,
            share,
            shelf,
            repair: order.repair,
            looker,
            began,
            saved: clock.boot(),
            wrong: BTreeMap::new(),
            again: BTreeMap::new(),
        };
        let ended = run.all();
        let mut report = self.lock();
        report.running = false;
        match &ended {
            Ok(()) => report.complete = true,
            Err(VerifyError::Stopped) => report.stopped = Some("it was stopped".to_owned()),
            Err(error) => report.stopped = Some(error.to_string()),
        }
        let (wrong, why) = (report.all_wrong(), report.stopped.clone());
        let told = report.clone();
        drop(report);
        if let Err(error) = save(&self.file, &told) {
            tracing::warn!(%share, %error, "how far the verification is cannot be kept");
        }
        tracing::info!(
            %share, objects = told.objects, bytes = told.bytes, wrong, repaired = told.repaired,
            skipped = told.skipped, why, "verified"
        );
    }
}

struct Run<'a, T: Tree> {
    desk: &'a Desk,
    share: &'a ShareId,
    shelf: &'a Shelf,
    repair: bool,
    looker: Looker<'a, T>,
    /// Objects and bytes of earlier runs.
    began: (u64, u64),
    saved: BootTime,
    /// What is wrong, as it is listed.
    wrong: BTreeMap<ObjectId, Wrong>,
    /// Looked at again, and whether it is to be put right by then.
    again: BTreeMap<ObjectId, bool>,
}

impl<T: Tree> Run<'_, T> {
    fn all(&mut self) -> Result<()> {
        // From here on a kill is told as one, and not as the end of the run before.
        self.save()?;
        let (mut after, listed) = {
            let report = self.desk.lock();
            (report.after.as_ref().and_then(|id| id_of(id)), report.wrong.clone())
        };
        // What an earlier run has found may be right by now.
        for wrong in listed {
            if let Some(id) = id_of(&wrong.id) {
                self.wrong.insert(id, wrong);
                self.again.insert(id, false);
            }
        }
        loop {
            let ids = self.shelf.objects(after, OBJECTS)?;
            let Some(last) = ids.last().copied() else { break };
            for id in ids {
                let seen = self.looker.look(id)?;
                self.note(id, seen)?;
                self.went_on(id)?;
            }
            after = Some(last);
        }
        self.all_again()
    }

    /// What was busy, until it is not; what is still to come then is counted.
    fn all_again(&mut self) -> Result<()> {
        let clock = self.looker.clock;
        let mut until = BootTime(clock.boot().0 + AGAIN_FOR);
        while !self.again.is_empty() && clock.boot() < until {
            let before = self.again.len();
            for (id, mended) in std::mem::take(&mut self.again) {
                match self.looker.look(id)? {
                    Seen::Busy => _ = self.again.insert(id, mended),
                    Seen::Right if mended => {
                        self.wrong.remove(&id);
                        self.desk.lock().repaired += 1;
                    }
                    seen => self.note(id, seen)?,
                }
            }
            self.tell();
            if self.again.len() < before {
                until = BootTime(clock.boot().0 + AGAIN_FOR);
            }
            if !self.again.is_empty() {
                self.pause()?;
            }
        }
        let left = std::mem::take(&mut self.again);
        {
            let mut report = self.desk.lock();
            // What was to be put right and is not is wrong still.
            for (_, mended) in left.iter().filter(|(id, _)| !self.wrong.contains_key(id)) {
                *(if *mended { &mut report.unlisted } else { &mut report.skipped }) += 1;
            }
        }
        self.tell();
        Ok(())
    }

    fn pause(&self) -> Result<()> {
        let clock = self.looker.clock;
        let until = BootTime(clock.boot().0 + AGAIN);
        while clock.boot() < until {
            if (self.looker.is_over)() {
                return Err(VerifyError::Stopped);
            }
            work::pause(Duration::from_millis(50));
        }
        Ok(())
    }

    fn note(&mut self, id: ObjectId, seen: Seen) -> Result<()> {
        match seen {
            Seen::Right | Seen::Gone => _ = self.wrong.remove(&id),
            Seen::Busy if self.again.len() < AGAIN_MAX => _ = self.again.insert(id, false),
            Seen::Busy => self.desk.lock().skipped += 1,
            Seen::Wrong(why) => self.wrong(id, why)?,
        }
        Ok(())
    }

    fn wrong(&mut self, id: ObjectId, why: String) -> Result<()> {
        let path =
            self.shelf.path_of(id)?.map_or_else(|| format!("object {id}"), |path| path.to_string());
        let version = self.shelf.object(id)?.map(|object| object.version);
        let mended = match version {
            Some(version) if self.repair => {
                if !self.looker.judge.mend(id, version)? {
                    // Something has begun with it since the look.
                    return self.note(id, Seen::Busy);
                }
                true
            }
            _ => false,
        };
        let share = self.share;
        if mended {
            tracing::error!(%share, path, why, "wrong on this disk; it is put right");
            self.again.insert(id, true);
        } else {
            tracing::error!(%share, path, why, "wrong on this disk");
        }
        if self.wrong.len() < Report::LISTED_MAX || self.wrong.contains_key(&id) {
            self.wrong.insert(id, Wrong { id: id.to_string(), path, why });
        } else if !mended {
            self.desk.lock().unlisted += 1;
        }
        self.tell();
        self.save()
    }

    /// One object more was looked at.
    fn went_on(&mut self, id: ObjectId) -> Result<()> {
        {
            let mut report = self.desk.lock();
            report.objects += 1;
            report.after = Some(id.to_string());
        }
        if (self.looker.is_over)() {
            self.tell();
            return Err(VerifyError::Stopped);
        }
        if self.looker.clock.boot().since(self.saved) >= SAVE {
            self.tell();
            self.save()?;
        }
        Ok(())
    }

    fn tell(&self) {
        let spent = self.looker.clock.boot().since(self.looker.pace.began).as_secs_f64().max(1e-3);
        let mut report = self.desk.lock();
        report.bytes = self.began.1 + self.looker.pace.bytes;
        report.bytes_per_second = (self.looker.pace.bytes as f64 / spent) as u64;
        // Whichever takes longer: many small files, or few large ones.
        let by = |done: u64, began: u64, expected: u64| {
            let rate = done.saturating_sub(began) as f64 / spent;
            if rate > 0.0 { expected.saturating_sub(done) as f64 / rate } else { 0.0 }
        };
        let objects = by(report.objects, self.began.0, report.expected);
        let bytes = by(report.bytes, self.began.1, report.expected_bytes);
        report.seconds_left = objects.max(bytes) as u64;
        report.wrong = self.wrong.values().cloned().collect();
    }

    fn save(&mut self) -> Result<()> {
        self.saved = self.looker.clock.boot();
        let report = self.desk.report();
        save(&self.desk.file, &report).map_err(VerifyError::Saving)
    }
}

fn id_of(text: &str) -> Option<ObjectId> {
    let number = u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32)?;
    Some(ObjectId::from_bytes(number.to_be_bytes()))
}

/// What cannot be read is as if it were not there: then all is looked at from the beginning.
fn load(file: &Path) -> Report {
    let mut text = Vec::new();
    let read = File::open(file).and_then(|opened| opened.take(FILE_MAX).read_to_end(&mut text));
    match read {
        Ok(_) => {
            let report: Report = serde_json::from_slice(&text).unwrap_or_default();
            let stopped = report.running.then(|| "the site was stopped".to_owned());
            Report { running: false, stopped: stopped.or(report.stopped), ..report }
        }
        Err(_) => Report::default(),
    }
}

/// Whole or not at all.
fn save(file: &Path, report: &Report) -> io::Result<()> {
    let dir = file.parent().unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(dir)?;
    new.write_all(&serde_json::to_vec(report).map_err(io::Error::other)?)?;
    new.as_file().sync_all()?;
    new.persist(file)?;
    Ok(())
}
