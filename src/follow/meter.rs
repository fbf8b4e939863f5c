//! How fast a comparison or a fill goes, and how long it will take at that. Pure: it is handed the time.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::BootTime;

/// A sample is kept this often, and so many of them: rates are those of the last half minute.
const EVERY: Duration = Duration::from_secs(1);
const SAMPLES_MAX: usize = 30;
/// Over less time than this a rate says nothing.
const LEAST: Duration = Duration::from_millis(200);

/// What has been done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Done {
    /// Entries compared.
    pub entries: u64,
    /// Contents that were put in place.
    pub files: u64,
    /// Bytes of contents that came over the link.
    pub bytes: u64,
}

/// The same, per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    pub entries: f64,
    pub files: f64,
    pub bytes: f64,
}

#[derive(Debug, Default)]
pub(super) struct Meter {
    samples: VecDeque<(BootTime, Done)>,
}

impl Meter {
    pub fn note(&mut self, now: BootTime, done: Done) {
        if self.samples.back().is_some_and(|(then, _)| now.since(*then) < EVERY) {
            return;
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((now, done));
    }

    /// Nothing is under way: the time until something is does not count.
    pub fn rest(&mut self) {
        self.samples.clear();
    }

    /// 0 while it cannot be told.
    pub fn rates(&self, now: BootTime, done: Done) -> Rates {
        let Some((then, before)) = self.samples.front() else { return Rates::default() };
        let spent = now.since(*then);
        if spent < LEAST {
            return Rates::default();
        }
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / spent.as_secs_f64();
        Rates {
            entries: rate(done.entries, before.entries),
            files: rate(done.files, before.files),
            bytes: rate(done.bytes, before.bytes),
        }
    }
}

/// Seconds until so much is done as well, by whatever takes longest; 0 when that cannot be told.
pub(super) fn seconds_left(left: Done, rates: Rates) -> f64 {
    let spans = [(left.entries, rates.entries), (left.files, rates.files), (left.bytes, rates.bytes)];
    let spans = spans.into_iter().filter(|(_, rate)| *rate > 0.0);
    spans.map(|(left, rate)| left as f64 / rate).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }

    fn bytes(bytes: u64) -> Done {
        Done { bytes, ..Done::default() }
    }

    #[test]
    fn a_rate_is_that_of_the_last_half_minute() {
        let mut meter = Meter::default();
        assert_eq!(meter.rates(at(5), bytes(99)), Rates::default());
        for second in 0..100 {
            // Slow at first, then a hundred bytes a second.
            meter.note(at(second), bytes(if second < 50 { second } else { 50 + (second - 50) * 100 }));
        }
        assert_eq!(meter.rates(at(100), bytes(5050)).bytes, 100.0);
        // It stands still: the rate falls by and by.
        assert!(meter.rates(at(130), bytes(5050)).bytes < 51.0);
        meter.rest();
        meter.note(at(500), bytes(5050));
        assert_eq!(meter.rates(at(502), bytes(5070)).bytes, 10.0);
    }

    #[test]
    fn what_takes_longest_decides() {
        let left = Done { entries: 0, files: 100, bytes: 1000 };
        let rates = |files, bytes| Rates { entries: 7.0, files, bytes };
        assert_eq!(seconds_left(left, rates(10.0, 10.0)), 100.0);
        assert_eq!(seconds_left(left, rates(0.5, 10.0)), 200.0);
        // One large content: none has been finished yet.
        assert_eq!(seconds_left(left, rates(0.0, 20.0)), 50.0);
        assert_eq!(seconds_left(left, Rates::default()), 0.0);
    }
}
