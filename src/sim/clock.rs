//! A site's clocks, and the trace of what happens when.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::{BootTime, Clock, WallTime};
use crate::work::single::drawn;

/// 2026-11-21, in nanoseconds.
const WALL: i64 = 1_795_262_400_000_000_000;

/// Both clocks go with tokio's paused one, a little faster or slower; the wall clock may be set, and the other
/// stand still.
pub struct SimClock {
    begun: Instant,
    /// In millionths above tokio's.
    fast: i64,
    boot: Mutex<Boot>,
    ahead: AtomicI64,
}

/// How the boot clock goes.
struct Boot {
    /// How long the machine was up when the clock was made, in nanoseconds; less than nothing for one that
    /// booted later, or stood still.
    up: i64,
    /// How much had passed when it began to stand still.
    still: Option<i64>,
}

/// Clocks run at most so many millionths faster or slower than true time: half of what R12 allows between
/// two of them.
pub const DRIFT: i64 = 5000;

impl SimClock {
    pub fn new(up: Duration, fast: i64) -> Self {
        let boot = Mutex::new(Boot { up: up.as_nanos() as i64, still: None });
        Self { begun: Instant::now(), fast, boot, ahead: AtomicI64::new(0) }
    }
    fn passed(&self) -> i64 {
        let passed = self.begun.elapsed().as_nanos() as i64;
        passed + passed / 1000 * self.fast / 1000
    }
    fn lock(&self) -> MutexGuard<'_, Boot> {
        self.boot.lock().expect("one thread never panics while it holds this")
    }
    /// The machine boots now.
    pub fn boots(&self) {
        *self.lock() = Boot { up: 1_000_000_000 - self.passed(), still: None };
    }
    /// The machine stands still, and its boot clock with it. The wall clock is right afterwards.
    pub fn freeze(&self) {
        self.lock().still = Some(self.passed());
    }
    pub fn thaw(&self) {
        let mut boot = self.lock();
        if let Some(since) = boot.still.take() {
            boot.up -= self.passed() - since;
        }
    }
    /// Somebody sets the wall clock.
    pub fn jump(&self, by: i64) {
        self.ahead.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for SimClock {
    fn boot(&self) -> BootTime {
        let boot = self.lock();
        let nanos = boot.still.unwrap_or_else(|| self.passed()) + boot.up;
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
