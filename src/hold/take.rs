//! A copy's side: whether it may answer for itself just now, as drawn at [`Taker::granted`].

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{BootTime, Clock, WallTime};
use crate::id::Seq;
use crate::plant::{self, Bug};

/// Both clocks, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub boot: BootTime,
    pub wall: WallTime,
}

impl Moment {
    pub fn now(clock: &dyn Clock) -> Self {
        Self { boot: clock.boot(), wall: clock.wall() }
    }
    /// How far the wall clock is ahead of the other, in nanoseconds.
    pub fn offset(self) -> i64 {
        let boot = i64::try_from(self.boot.0.as_nanos()).unwrap_or(i64::MAX);
        self.wall.0.saturating_sub(boot)
    }
}

/// Further than this the clocks do not come apart within a lease unless one of them jumped: time
/// daemons slew by 500 ppm.
const JUMP: u64 = 100_000_000;
/// Requests for a lease whose answers are under way.
const ASKED_MAX: usize = 16;

/// Why what was granted is of no use: a fresh lease is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotGranted {
    /// No request of that number is under way: it was answered, dropped, or overtaken by a later one.
    Unasked,
    /// A renewal, and there is no lease here.
    NoLease,
    /// A renewal of one that is over here, or that a clock jumped in.
    Over,
    /// It was so long under way that it is over, or a clock jumped meanwhile.
    Late,
}

#[derive(Debug, Default)]
pub struct Taker {
    /// When each lease that is under way was asked for.
    asked: VecDeque<(u64, Moment)>,
    next: u64,
    lease: Option<Lease>,
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    asked: Moment,
    len: Duration,
    /// Everything up to here must have been applied before the copy answers (R10).
    head: Seq,
}

impl Lease {
    /// How much further the wall clock has run than the boot clock since then, in nanoseconds.
    fn apart(&self, now: Moment) -> i64 {
        if plant::is(Bug::IgnoreJump) { 0 } else { now.offset().saturating_sub(self.asked.offset()) }
    }

    /// By the clock that ran further: the machine may have stood still for less than a jump.
    fn passed(&self, now: Moment) -> Duration {
        let unseen = Duration::from_nanos(self.apart(now).max(0).unsigned_abs());
        now.boot.since(self.asked.boot).saturating_add(unseen)
    }
}

impl Taker {
    /// A lease is asked for at `now`: it counts from here (R12).
    pub fn ask(&mut self, now: Moment) -> u64 {
        self.next += 1;
        if self.asked.len() >= ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((self.next, now));
        self.next
    }

    /// The answer to one of [`Self::ask`]. `head`: of a fresh lease.
    /// ```text
    ///            granted: fresh                 applied up to its head
    ///   no lease --------------> leased, behind ---------------------> leased, answers for itself
    ///    ^    ^                        |                                  |   |     ^
    ///    |    |                        |                                  |   +-----+ granted: again,
    ///    |    |  dropped               |                                  |     and counts from that ask
    ///    |    +------------------------+----------------------------------+
    ///    |                             |  its time is over, or a clock    |
    ///    |  dropped                    v  jumped (R12)                    |
    ///    +--------------------------- over <------------------------------+
    ///
    ///              fresh                        again              not asked for
    ///   no lease   leased, or over: !Late       !NoLease           !Unasked
    ///   leased     leased, or over: !Late       leased, or !Late   !Unasked
    ///   over       leased, or over: !Late       !Over              !Unasked
    /// ```
    /// A fresh one begins anew, whatever was there. A renewal of one that is over here is none: the primary
    /// counted on, and asked about every change, but what came between is not known to have been heard.
    pub fn granted(
        &mut self,
        number: u64,
        len: Duration,
        head: Option<Seq>,
        now: Moment,
    ) -> Result<(), NotGranted> {
        while self.asked.front().is_some_and(|(asked, _)| *asked < number) {
            self.asked.pop_front();
        }
        let next = self.asked.pop_front_if(|(asked, _)| *asked == number);
        let Some((_, asked)) = next else { return Err(NotGranted::Unasked) };
        let head = match (self.lease, head) {
            (_, Some(head)) => head,
            (Some(lease), None) if self.covers(now) => lease.head,
            (Some(_), None) => return Err(NotGranted::Over),
            (None, None) => return Err(NotGranted::NoLease),
        };
        self.lease = Some(Lease { asked, len, head });
        if self.covers(now) { Ok(()) } else { Err(NotGranted::Late) }
    }

    /// Whatever was granted or is under way counts no more.
    pub fn drop_lease(&mut self) {
        self.asked.clear();
        self.lease = None;
    }

    /// Whether the copy, which has applied everything up to `applied`, may answer for what is not held.
    pub fn may_answer(&self, applied: Seq, now: Moment) -> bool {
        self.lease.is_some_and(|lease| applied >= lease.head) && self.covers(now)
    }

    /// Whether a lease is here that counts now or may count later: without one, what is in force comes
    /// with the next. One that is over by either clock is dropped, so that it never counts again.
    pub fn is_leased(&mut self, now: Moment) -> bool {
        if self.lease.is_some_and(|lease| lease.passed(now) >= lease.len) {
            self.drop_lease();
        }
        self.lease.is_some()
    }

    fn covers(&self, now: Moment) -> bool {
        self.lease.is_some_and(|lease| {
            let live = lease.passed(now) < lease.len || plant::is(Bug::ServeOnExpiredLease);
            now.boot >= lease.asked.boot && live && lease.apart(now).unsigned_abs() < JUMP
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: Duration = Duration::from_secs(5);

    fn at(ms: u64) -> Moment {
        skewed(ms, 0)
    }
    fn skewed(ms: u64, wall_ms: i64) -> Moment {
        let wall = 1_700_000_000_000 + ms as i64 + wall_ms;
        Moment { boot: BootTime(Duration::from_millis(ms)), wall: WallTime(wall * 1_000_000) }
    }
    fn leased() -> Taker {
        let mut taker = Taker::default();
        let number = taker.ask(at(1000));
        taker.granted(number, LEN, Some(Seq(7)), at(1080)).unwrap();
        taker
    }

    #[test]
    fn a_lease_counts_from_when_it_was_asked_for() {
        let taker = leased();
        assert!(taker.may_answer(Seq(7), at(5999)));
        assert!(!taker.may_answer(Seq(7), at(6000)));
        assert!(!taker.may_answer(Seq(6), at(2000)), "records before the grant are missing");
    }

    #[test]
    fn a_lease_that_does_not_count_yet_is_one() {
        let mut taker = Taker::default();
        let number = taker.ask(at(1000));
        assert!(!taker.is_leased(at(1000)));
        taker.granted(number, LEN, Some(Seq(7)), at(1080)).unwrap();
        assert!(!taker.may_answer(Seq(6), at(2000)) && taker.is_leased(at(2000)));
        assert!(!taker.may_answer(Seq(7), skewed(2000, 500)) && taker.is_leased(skewed(2000, 500)));
        // The machine stood still for as long as the lease, and its clock was set right.
        let mut woken = leased();
        assert!(woken.is_leased(skewed(1500, 4000)) && !woken.is_leased(skewed(1500, 4500)));
        assert!(!woken.may_answer(Seq(7), at(1500)), "it is over for good");
        assert!(!taker.is_leased(at(6000)));
    }

    #[test]
    fn an_answer_that_comes_too_late_grants_nothing() {
        let mut taker = Taker::default();
        let number = taker.ask(at(0));
        assert_eq!(taker.granted(number, LEN, Some(Seq(0)), at(5000)), Err(NotGranted::Late));
        assert!(!taker.may_answer(Seq(9), at(5000)));
    }

    #[test]
    fn a_renewal_keeps_the_head_and_does_not_wake_the_dead() {
        let mut taker = leased();
        let number = taker.ask(at(4000));
        taker.granted(number, LEN, None, at(4100)).unwrap();
        assert!(taker.may_answer(Seq(7), at(8999)) && !taker.may_answer(Seq(6), at(4200)));
        let number = taker.ask(at(8900));
        let renewed = taker.granted(number, LEN, None, at(9050));
        assert_eq!(renewed, Err(NotGranted::Over), "before it was renewed");
        assert!(!taker.may_answer(Seq(7), at(9060)));
    }

    #[test]
    fn a_jump_of_either_clock_ends_a_lease_and_extends_none() {
        for jump in [-3_600_000, -200, 200, 3_600_000] {
            assert!(!leased().may_answer(Seq(7), skewed(2000, jump)), "{jump}");
        }
        assert!(leased().may_answer(Seq(7), skewed(2000, 20)), "slewed");
        assert!(!leased().may_answer(Seq(7), at(900)), "the clock went back");
    }

    /// R12: less than a jump, and more than the giver's margin.
    #[test]
    fn a_boot_clock_that_stood_still_for_a_moment_extends_no_lease() {
        assert!(leased().may_answer(Seq(7), skewed(5909, 90)));
        assert!(!leased().may_answer(Seq(7), skewed(5910, 90)));
        assert!(
            !leased().may_answer(Seq(7), skewed(6000, -90)),
            "nor does a wall clock that was set back"
        );
    }

    #[test]
    fn what_was_asked_before_it_was_dropped_is_not_granted_after() {
        let mut taker = leased();
        let number = taker.ask(at(2000));
        taker.drop_lease();
        assert_eq!(taker.granted(number, LEN, Some(Seq(7)), at(2010)), Err(NotGranted::Unasked));
        assert!(!taker.may_answer(Seq(7), at(2010)));
    }

    #[test]
    fn answers_may_be_skipped_but_not_repeated() {
        let mut taker = Taker::default();
        let (one, two) = (taker.ask(at(0)), taker.ask(at(100)));
        taker.granted(two, LEN, Some(Seq(0)), at(200)).unwrap();
        for number in [one, two] {
            let granted = taker.granted(number, LEN, Some(Seq(0)), at(200));
            assert_eq!(granted, Err(NotGranted::Unasked));
        }
        assert!(taker.may_answer(Seq(0), at(5099)) && !taker.may_answer(Seq(0), at(5100)));
    }

    /// Whether each request for a lease is granted, by the kind of lease that is here and of what comes.
    #[test]
    fn whatever_becomes_of_what_is_granted_is_drawn() {
        use NotGranted::{Late, NoLease, Over, Unasked};
        #[derive(Debug, Clone, Copy)]
        enum Way {
            InTime,
            TooLate,
            Jumped,
            NeverAsked,
            Dropped,
        }
        let ways = [Way::InTime, Way::TooLate, Way::Jumped, Way::NeverAsked, Way::Dropped];
        // Of a fresh one and of a renewal, in the order of the ways.
        let fresh = [Ok(()), Err(Late), Err(Late), Err(Unasked), Err(Unasked)];
        for (here, again) in [
            (None, [NoLease, NoLease, NoLease, Unasked, Unasked].map(Err)),
            (Some(at(5000)), [Ok(()), Err(Late), Err(Late), Err(Unasked), Err(Unasked)]),
            (Some(skewed(5000, 200)), [Over, Over, Over, Unasked, Unasked].map(Err)),
            (Some(at(3000)), [Over, Over, Over, Unasked, Unasked].map(Err)),
        ] {
            for (way, fresh, again) in (0..ways.len()).map(|way| (ways[way], fresh[way], again[way])) {
                for (head, expected) in [(Some(Seq(7)), fresh), (None, again)] {
                    let lease = here.map(|asked| Lease { asked, len: LEN, head: Seq(6) });
                    let mut taker = Taker { lease, ..Taker::default() };
                    let number = match way {
                        Way::InTime => taker.ask(at(8900)),
                        Way::TooLate => taker.ask(at(4000)),
                        Way::Jumped => taker.ask(skewed(8900, 200)),
                        Way::NeverAsked => taker.ask(at(8900)) + 1,
                        Way::Dropped => {
                            let number = taker.ask(at(8900));
                            taker.drop_lease();
                            number
                        }
                    };
                    let case = format!("{here:?}, {way:?}, {head:?}");
                    let before = taker.lease.filter(|_| taker.covers(at(9000)));
                    assert_eq!(taker.granted(number, LEN, head, at(9000)), expected, "{case}");
                    // What is refused extends nothing.
                    let head = head.or(before.map(|lease| lease.head));
                    let counts = match expected {
                        Ok(()) => head,
                        Err(Unasked) => before.map(|lease| lease.head),
                        Err(_) => None,
                    };
                    for applied in [5, 6, 7].map(Seq) {
                        let answers = counts.is_some_and(|head| applied >= head);
                        assert_eq!(taker.may_answer(applied, at(9000)), answers, "{case}, {applied:?}");
                    }
                }
            }
        }
    }
}
