//! How fast a connection may send. Pure: samples of what TCP measures go in, a rate comes out.
//!
//! The aim is a line that is nearly full and a queue in front of it that is nearly empty, so that the
//! control connection's small messages wait for nobody. The rate grows until the round trip does, backs
//! off to what was delivered, stays a little below it and tries a little more from time to time:
//!
//! ```text
//! Start --(the queue grows, or no more comes through)--> Drain --(queue short)--> Cruise
//!   ^                                                      ^                       |  ^
//!   |                               (the queue grows) -----+-----------------------+  |
//!   +--(more came through)-- Probe <--(8 rounds)----------------------- Cruise        |
//!                              +------(no more came through)--------------------------+
//! ```

use std::time::Duration;

/// Nearer than this is one building: no pacing.
const NEAR: Duration = Duration::from_millis(2);
/// Shortest round that is decided upon.
const ROUND_MIN: Duration = Duration::from_millis(50);
/// The lowest round trip of this time (up to twice as long) is what the line takes when it is empty.
const BASE_WINDOW: Duration = Duration::from_secs(10);
/// A rate that was reached counts for so many rounds, up to twice as many.
const BEST_ROUNDS: u32 = 10;
/// Before anything is known: ten packets a round trip, as TCP itself begins (RFC 6928).
const FIRST_BURST: f64 = 14_600.0;
/// Never slower, bytes per second: 64 kbit/s.
const RATE_MIN: f64 = 8_000.0;
/// Growth per round at the start. A line is filled at most one and a half rounds too long before that
/// is seen, which queues some 60 % of a round trip.
const START_GAIN: f64 = 1.35;
const CRUISE_GAIN: f64 = 0.95;
const PROBE_GAIN: f64 = 1.15;
const DRAIN_GAIN: f64 = 0.7;
const CRUISE_ROUNDS: u32 = 8;
const DRAIN_ROUNDS: u32 = 2;
/// The start ends after so many rounds in which no more came through.
const STUCK_ROUNDS: u32 = 6;

/// A queue is worth minding from a quarter of the round trip on, but within these bounds.
const QUEUE_MIN: Duration = Duration::from_millis(10);
const QUEUE_MAX: Duration = Duration::from_millis(25);
/// Bytes that leave as one: three packets.
const GRAIN: f64 = 4500.0;
/// They count for at most so many seconds.
const GRAIN_MAX: f64 = 0.2;

/// What TCP knows of a connection (`struct tcp_info` of Linux).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpInfo {
    /// Smoothed round trip.
    pub rtt: Duration,
    /// The kernel's lowest round trip of late; zero if it has none.
    pub min_rtt: Duration,
    /// Bytes per second that arrived, measured over the last round trip.
    pub delivery_rate: u64,
    /// The measure above says what the program wrote, not what the line can carry.
    pub app_limited: bool,
    /// Bytes that were sent again, ever.
    pub retransmitted: u64,
    /// Bytes sent, retransmissions included, ever.
    pub sent: u64,
    /// Bytes given to the kernel and not sent yet.
    pub not_sent: u32,
    /// Packets under way.
    pub unacked: u32,
}

/// One look at a connection.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// When, since boot.
    pub now: Duration,
    pub info: TcpInfo,
}

/// The controller's state. A new one is one that knows nothing.
#[derive(Debug, Default)]
pub struct Rate {
    phase: Phase,
    base: Lowest,
    best: Highest,
    /// Bytes per second that are allowed now.
    allowed: f64,
    round: Round,
}

#[derive(Debug, Default, Clone, Copy, PartialEq)]
enum Phase {
    #[default]
    Unknown,
    Start {
        stuck: u32,
    },
    Drain {
        rounds: u32,
        braked: bool,
    },
    /// `braked` if a queue was met on the way, which then is not worth braking for again: it may be
    /// somebody else's.
    Cruise {
        rounds: u32,
        braked: bool,
    },
    /// One round faster, then one that waits for what came of it.
    Probe {
        from: f64,
        sent: bool,
    },
}

impl Phase {
    fn drain(braked: bool) -> Self {
        Self::Drain { rounds: 0, braked }
    }
}

#[derive(Debug, Default)]
struct Round {
    ends: Duration,
    /// The most that was delivered in it, of samples that the line limited.
    delivered: f64,
}

impl Rate {
    /// Bytes per second that may be sent from now on; `None` is no limit.
    pub fn next(&mut self, sample: &Sample) -> Option<u64> {
        let Sample { now, info } = sample;
        if info.rtt.is_zero() {
            return self.told();
        }
        let base = self.base.note(*now, info.rtt);
        let lowest = if info.min_rtt.is_zero() { base } else { base.min(info.min_rtt) };
        if lowest < NEAR {
            *self = Self { base: self.base, ..Self::default() };
            return None;
        }
        if self.phase == Phase::Unknown {
            self.phase = Phase::Start { stuck: 0 };
            self.allowed = (FIRST_BURST / base.as_secs_f64()).max(RATE_MIN);
            self.round.ends = *now + info.rtt.max(ROUND_MIN);
        }
        if !info.app_limited {
            self.round.delivered = self.round.delivered.max(info.delivery_rate as f64);
        }
        if *now >= self.round.ends {
            let delivered = std::mem::take(&mut self.round).delivered;
            self.round.ends = *now + info.rtt.max(ROUND_MIN);
            // A round in which little was to be sent says nothing about the line.
            if delivered > 0.0 {
                self.round_over(delivered, base, info.rtt.saturating_sub(base));
            }
        }
        self.told()
    }
    fn told(&self) -> Option<u64> {
        (self.phase != Phase::Unknown).then_some(self.allowed as u64)
    }
    /// Chooses the next round's phase and rate. `queue` is what the round trip has above its lowest.
    fn round_over(&mut self, delivered: f64, base: Duration, queue: Duration) {
        let before = self.best.get();
        let best = self.best.note(delivered);
        let target = self.target(base);
        // Less arrives than is sent: the line is slower than thought.
        let slower = delivered < 0.9 * self.allowed;
        self.phase = match self.phase {
            Phase::Unknown | Phase::Start { .. } if queue > target => Phase::drain(false),
            Phase::Unknown => Phase::Start { stuck: 0 },
            Phase::Start { stuck } if best > before * 1.1 => Phase::Start { stuck: stuck.min(1) },
            Phase::Start { stuck } if stuck + 1 < STUCK_ROUNDS => Phase::Start { stuck: stuck + 1 },
            Phase::Start { .. } => Phase::drain(false),
            Phase::Cruise { braked: false, .. } | Phase::Probe { .. } if queue > 2 * target => {
                if slower {
                    self.best = Highest::of(delivered);
                }
                Phase::drain(true)
            }
            Phase::Cruise { braked: true, .. } if queue > 2 * target && slower => {
                self.best = Highest::of(delivered);
                Phase::drain(true)
            }
            Phase::Drain { rounds, braked } if queue > target / 2 && rounds + 1 < DRAIN_ROUNDS => {
                Phase::Drain { rounds: rounds + 1, braked }
            }
            Phase::Drain { braked, .. } => Phase::Cruise { rounds: 0, braked },
            Phase::Cruise { rounds, braked } if rounds + 1 < CRUISE_ROUNDS => {
                Phase::Cruise { rounds: rounds + 1, braked }
            }
            Phase::Cruise { .. } => Phase::Probe { from: best, sent: false },
            Phase::Probe { from, sent: false } => Phase::Probe { from, sent: true },
            Phase::Probe { from, sent: true } if best > from * 1.05 => Phase::Start { stuck: 0 },
            Phase::Probe { .. } if queue > target => Phase::drain(false),
            Phase::Probe { .. } => Phase::Cruise { rounds: 0, braked: false },
        };
        let best = self.best.get();
        self.allowed = match self.phase {
            // What is allowed grows only as far as it is used.
            Phase::Unknown | Phase::Start { .. } => {
                (self.allowed * START_GAIN).min(best * START_GAIN * START_GAIN)
            }
            Phase::Drain { .. } => best * DRAIN_GAIN,
            Phase::Cruise { .. } | Phase::Probe { sent: true, .. } => best * CRUISE_GAIN,
            Phase::Probe { .. } => best * PROBE_GAIN,
        }
        .max(RATE_MIN);
    }
}

impl Rate {
    /// How long a queue may be. Below a few packets' time it cannot be told from the packets themselves
    /// and the other side's delayed acknowledgements.
    fn target(&self, base: Duration) -> Duration {
        let packets = (GRAIN / self.allowed.max(RATE_MIN)).min(GRAIN_MAX);
        (base / 4).clamp(QUEUE_MIN, QUEUE_MAX).max(Duration::from_secs_f64(packets))
    }
}

/// The lowest of the last one to two windows.
#[derive(Debug, Default, Clone, Copy)]
struct Lowest {
    since: Duration,
    current: Option<Duration>,
    before: Option<Duration>,
}

impl Lowest {
    fn note(&mut self, now: Duration, value: Duration) -> Duration {
        if now.saturating_sub(self.since) >= BASE_WINDOW {
            (self.before, self.current, self.since) = (self.current, None, now);
        }
        let current = self.current.map_or(value, |lowest| lowest.min(value));
        self.current = Some(current);
        self.before.map_or(current, |lowest| lowest.min(current))
    }
}

/// The highest of the last one to two times [`BEST_ROUNDS`] rounds.
#[derive(Debug, Default, Clone, Copy)]
struct Highest {
    rounds: u32,
    current: f64,
    before: f64,
}

impl Highest {
    fn of(value: f64) -> Self {
        Self { rounds: 0, current: value, before: 0.0 }
    }
    fn get(&self) -> f64 {
        self.current.max(self.before)
    }
    fn note(&mut self, value: f64) -> f64 {
        if self.rounds == BEST_ROUNDS {
            *self = Self { rounds: 0, current: 0.0, before: self.current };
        }
        self.rounds += 1;
        self.current = self.current.max(value);
        self.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    const STEP: Duration = Duration::from_millis(1);

    /// A line: everything sent waits in one queue, and its acknowledgement comes a round trip later.
    struct Line {
        bytes_per_s: f64,
        rtt: Duration,
        queue_max: Duration,
    }

    struct Outcome {
        /// Of the line, over the second half of the run.
        used: f64,
        /// 99th percentile of the queue's delay over the second half.
        queue_p99: Duration,
        /// Share of bytes dropped by the full queue, over the whole run.
        dropped: f64,
    }

    /// Sends as fast as allowed for `seconds`; `line` says what the line is at each moment.
    fn run(seconds: u64, line: impl Fn(Duration) -> Line) -> Outcome {
        let (mut rate, mut allowed) = (Rate::default(), Some(20_000));
        let (mut queue, mut now) = (0.0f64, Duration::ZERO);
        let mut acks: VecDeque<(Duration, f64, Duration)> = VecDeque::new();
        let mut history: VecDeque<(Duration, f64)> = VecDeque::new();
        let (mut sent, mut dropped, mut delivered) = (0.0, 0.0, 0.0);
        let (mut capacity, mut delays) = (0.0, Vec::new());
        let mut srtt = line(now).rtt;
        let end = Duration::from_secs(seconds);
        while now < end {
            let Line { bytes_per_s, rtt, queue_max } = line(now);
            let step = STEP.as_secs_f64();
            let offered = allowed.map_or(bytes_per_s * 4.0, |rate| rate as f64) * step;
            let room = (bytes_per_s * queue_max.as_secs_f64() - queue).max(0.0);
            let drop = (offered - room).max(0.0);
            (sent, dropped) = (sent + offered, dropped + drop);
            queue += offered - drop;
            let served = queue.min(bytes_per_s * step);
            queue -= served;
            let delay = Duration::from_secs_f64(queue / bytes_per_s);
            acks.push_back((now + rtt, served, rtt + delay));
            while acks.front().is_some_and(|(at, ..)| *at <= now)
                && let Some((_, bytes, trip)) = acks.pop_front()
            {
                history.push_back((now, bytes));
                srtt = srtt.mul_f64(0.97) + trip.mul_f64(0.03);
            }
            while history.front().is_some_and(|(at, _)| *at + srtt < now) {
                history.pop_front();
            }
            if now > end / 2 {
                (delivered, capacity) = (delivered + served, capacity + bytes_per_s * step);
                delays.push(delay);
            }
            if now.as_millis().is_multiple_of(50) {
                let bytes: f64 = history.iter().map(|(_, bytes)| bytes).sum();
                let delivery_rate = (bytes / srtt.as_secs_f64()) as u64;
                let app_limited = delivery_rate == 0;
                let info = TcpInfo {
                    rtt: srtt,
                    min_rtt: rtt,
                    delivery_rate,
                    app_limited,
                    ..TcpInfo::default()
                };
                allowed = rate.next(&Sample { now, info });
            }
            now += STEP;
        }
        delays.sort();
        let queue_p99 = delays[delays.len() * 99 / 100];
        Outcome { used: delivered / capacity, queue_p99, dropped: dropped / sent }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_slow_line_is_used_and_its_queue_stays_short() {
        for (mbit, rtt, queue) in [
            (2.0, 80, 100),
            (2.0, 30, 100),
            (10.0, 80, 100),
            (1000.0, 100, 50),
            (20.0, 300, 200),
            (0.5, 200, 200),
        ] {
            let outcome =
                run(60, |_| Line { bytes_per_s: mbit * 125_000.0, rtt: ms(rtt), queue_max: ms(queue) });
            let Outcome { used, queue_p99, dropped } = outcome;
            println!("{mbit} Mbit/s {rtt} ms: used {used:.3} p99 {queue_p99:?} dropped {dropped:.5}");
            assert!(used > 0.85, "{mbit} Mbit/s, {rtt} ms: {used}");
            assert!(queue_p99 < ms(60), "{mbit} Mbit/s, {rtt} ms: {queue_p99:?}");
            assert!(dropped < 0.005, "{mbit} Mbit/s, {rtt} ms: {dropped}");
        }
    }

    #[test]
    fn a_line_that_changes_is_followed() {
        let changing = |from: f64, to: f64| {
            run(60, move |now| Line {
                bytes_per_s: 125_000.0 * if now.as_secs() < 20 { from } else { to },
                rtt: ms(80),
                queue_max: ms(100),
            })
        };
        for (from, to) in [(10.0, 2.0), (2.0, 10.0), (2.0, 100.0)] {
            let Outcome { used, queue_p99, .. } = changing(from, to);
            println!("{from} to {to}: used {used:.3} p99 {queue_p99:?}");
            assert!(used > 0.8, "{from} to {to} Mbit/s: {used}");
            assert!(queue_p99 < ms(70), "{from} to {to} Mbit/s: {queue_p99:?}");
        }
    }

    #[test]
    fn a_longer_route_is_not_taken_for_a_queue_for_ever() {
        let outcome = run(80, |now| Line {
            bytes_per_s: 1_250_000.0,
            rtt: if now.as_secs() < 10 { ms(20) } else { ms(120) },
            queue_max: ms(100),
        });
        assert!(outcome.used > 0.8, "{}", outcome.used);
    }

    #[test]
    fn what_is_near_is_not_paced() {
        let mut rate = Rate::default();
        for n in 0..1000 {
            let info = TcpInfo {
                rtt: Duration::from_micros(200 + n),
                delivery_rate: 1 << 30,
                ..TcpInfo::default()
            };
            assert_eq!(rate.next(&Sample { now: ms(50 * n), info }), None);
        }
    }

    #[test]
    fn an_idle_connection_keeps_its_rate() {
        let mut rate = Rate::default();
        let busy = TcpInfo { rtt: ms(50), delivery_rate: 500_000, ..TcpInfo::default() };
        let mut allowed = None;
        for n in 0..100 {
            allowed = rate.next(&Sample { now: ms(50 * n), info: busy });
        }
        let idle = TcpInfo { app_limited: true, delivery_rate: 10, ..busy };
        for n in 100..10_000 {
            assert_eq!(rate.next(&Sample { now: ms(50 * n), info: idle }), allowed);
        }
    }

    #[test]
    fn nothing_makes_it_stop_altogether() {
        let mut rate = Rate::default();
        for n in 0..1000u64 {
            let info = TcpInfo { rtt: ms(20 + n), delivery_rate: 1, ..TcpInfo::default() };
            assert!(rate.next(&Sample { now: ms(100 * n), info }).unwrap() >= RATE_MIN as u64);
        }
    }
}
