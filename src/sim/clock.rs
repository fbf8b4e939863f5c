//! A site's clocks, and the trace of what happens when.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{BootTime, Clock, WallTime};
use crate::work::single::drawn;

/// 2026-11-21, in nanoseconds.
const WALL: i64 = 1_795_262_400_000_000_000;

/// Both clocks go with tokio's paused one; the wall clock may be set.
pub struct SimClock {
    begun: Instant,
    /// How long the machine was up at `begun`, in nanoseconds; less than nothing for one that booted
    /// later.
    up: AtomicI64,
    ahead: AtomicI64,
}

impl SimClock {
    pub fn new(up: Duration) -> Self {
        let up = AtomicI64::new(up.as_nanos() as i64);
        Self { begun: Instant::now(), up, ahead: AtomicI64::new(0) }
    }
    fn passed(&self) -> i64 {
        self.begun.elapsed().as_nanos() as i64
    }
    /// The machine boots now.
    pub fn boots(&self) {
        self.up.store(1_000_000_000 - self.passed(), Ordering::SeqCst);
    }
    /// Somebody sets the wall clock.
    pub fn jump(&self, by: i64) {
        self.ahead.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn boot(&self) -> BootTime {
        let nanos = self.passed() + self.up.load(Ordering::SeqCst);
        BootTime(Duration::from_nanos(nanos as u64))
    }
    fn wall(&self) -> WallTime {
        WallTime(WALL + self.passed() + self.ahead.load(Ordering::SeqCst))
    }
}

struct Trace {
    begun: Instant,
    hasher: DefaultHasher,
    lines: Option<Vec<String>>,
}

thread_local! {
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

/// Begins a trace; `keep`s its lines.
pub fn begin_trace(keep: bool) {
    let lines = keep.then(Vec::new);
    let trace = Trace { begun: Instant::now(), hasher: DefaultHasher::new(), lines };
    TRACE.with(|known| *known.borrow_mut() = Some(trace));
}

/// What happened just now.
pub fn note(what: impl FnOnce() -> String) {
    TRACE.with(|trace| {
        if let Some(trace) = trace.borrow_mut().as_mut() {
            let at = trace.begun.elapsed();
            let line = format!("{:>9.3} {:>7} {}", at.as_secs_f64(), drawn(), what());
            trace.hasher.write(line.as_bytes());
            if let Some(lines) = &mut trace.lines {
                lines.push(line);
            }
        }
    });
}

/// The hash of all that happened, and its lines if they were kept.
pub fn end_trace() -> (u64, Vec<String>) {
    TRACE.with(|trace| {
        let trace = trace.borrow_mut().take().expect("a trace was begun");
        (trace.hasher.finish(), trace.lines.unwrap_or_default())
    })
}

/// Nanoseconds since the trace began.
pub fn now() -> u64 {
    TRACE
        .with(|trace| trace.borrow().as_ref().map_or(0, |trace| trace.begun.elapsed().as_nanos() as u64))
}
