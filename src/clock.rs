//! Time, as the rooms below `serve` see it: handed in, never read. `serve` has the only clocks that
//! look at the kernel's, the simulator has its own.

use std::time::Duration;

/// Time since boot, suspend included (`CLOCK_BOOTTIME`, R12). Only differences mean anything, and
/// only within one boot of one machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub Duration);

impl BootTime {
    /// How long ago `earlier` was; zero if it is in the future.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Time since 1970-01-01 UTC in nanoseconds. For people (logs, `status`) and for comparing with the
/// time stamps of a file system of the same machine; never compared between sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallTime(pub i64);

/// Where the rooms get the time from.
pub trait Clock: Send + Sync {
    fn boot(&self) -> BootTime;
    fn wall(&self) -> WallTime;
}
