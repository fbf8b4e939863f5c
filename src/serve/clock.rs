//! The kernel's clocks: the only place that reads them.

use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::clock::{BootTime, Clock, WallTime};

/// `CLOCK_BOOTTIME` and `CLOCK_REALTIME`.
#[derive(Debug, Clone, Copy, Default)]
pub struct KernelClock;

impl Clock for KernelClock {
    fn boot(&self) -> BootTime {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Boottime);
        let nanos = u32::try_from(tv_nsec).unwrap_or(0);
        BootTime(Duration::new(u64::try_from(tv_sec).unwrap_or(0), nanos))
    }
    fn wall(&self) -> WallTime {
        let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::Realtime);
        WallTime(tv_sec.saturating_mul(1_000_000_000).saturating_add(tv_nsec))
    }
}
