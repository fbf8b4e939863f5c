//! What one peer is to the primary: its lease, and what it has yet to answer.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Question;
use crate::clock::BootTime;
use crate::plant::{self, Bug};

/// The first wait after a lease ran out against a writer; doubled each time.
const PENALTY: Duration = Duration::from_secs(1);
const PENALTY_MAX: Duration = Duration::from_secs(64);

/// Why a peer's word, or one to it, changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// It came on a connection that is not the peer's newest, or from before a new beginning.
    OldStream,
    /// The peer has yet to answer a question (R6).
    Asked,
    /// A writer had to wait for the peer's lease to run out, not long enough ago.
    TooSoon,
    /// And it has not caught up since.
    Behind,
    /// It has not been asked that, has answered it, or lost its lease over it.
    Unasked,
    /// It has no lease, or one whose time is over.
    NoLease,
}

/// A peer that has joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Peer {
    /// It has no lease.
    #[default]
    Free,
    /// It has none, and gets the next one later, and only when it has caught up (R6).
    Barred(Penalty),
    /// It may answer for itself until then, as this side counts. `late`: what a lease before this one ran
    /// out with, unless an answer has come since.
    Leased { until: BootTime, late: Option<Penalty> },
    /// It is leased, and has not answered these, of which there are some.
    Asked { until: BootTime, late: Option<Penalty>, unanswered: BTreeSet<Question> },
}

/// After a lease ran out against a writer (R6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Penalty {
    not_before: BootTime,
    wait: Duration,
}

/// What happens to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It has dropped its lease.
    Join,
    /// It asks for a lease, which would be until then; it has applied all that was journalled, or not.
    Renew { until: BootTime, caught_up: bool, now: BootTime },
    /// The lease that it was to get was not sent.
    Revoke,
    /// It is asked.
    Ask { question: Question, now: BootTime },
    /// It has answered.
    Answer(Question),
    /// Time passes.
    Pass { now: BootTime },
}

/// What needs no answer of a peer any more.
type Freed = BTreeSet<Question>;

impl Peer {
    /// Becomes what [`Self::turn`] says.
    pub fn meet(&mut self, event: Event) -> Result<Freed, Refused> {
        let (then, turned) = std::mem::take(self).turn(event);
        *self = then;
        turned
    }

    /// ```text
    ///          renew                   ask
    ///   Free ---------> Leased -------------------> Asked
    ///    ^               |  ^                        |  |
    ///    | join, revoke  |  |    the last answer     |  |
    ///    +---------------+  +------------------------+  |
    ///    |                      join                    |
    ///    +----------------------------------------------+
    ///   Asked  -- pass: its time is over --> Barred, which is its Free until all is answered once
    ///   Barred -- renew: it has waited, and caught up --> Leased
    ///
    ///            join  renew              revoke    ask              answer               pass
    ///   Free     -     Leased             !NoLease  !NoLease         !Unasked             -
    ///   Barred   -     Leased, !TooSoon,  !NoLease  !NoLease         !Unasked             -
    ///                  !Behind
    ///   Leased   Free  -                  Free      Asked, !NoLease  !Unasked             -
    ///   Asked    Free  !Asked (R6)        !Asked    -, !NoLease      -, Leased, !Unasked  -, Barred
    /// ```
    /// `-`: it stays what it is, and that is right; `!`: refused. Once the time of its lease is over a peer is
    /// asked nothing; it may renew it, and an answer counts as long as nobody has noticed.
    fn turn(self, event: Event) -> (Self, Result<Freed, Refused>) {
        use Peer::{Asked, Barred, Free, Leased};
        let refused = |peer, why| (peer, Err(why));
        let becomes = |peer| (peer, Ok(Freed::new()));
        match (self, event) {
            (peer @ (Free | Barred(_)), Event::Join) => becomes(peer),
            (Leased { late, .. }, Event::Join | Event::Revoke) => becomes(Self::unleased(late)),
            (Asked { late, unanswered, .. }, Event::Join) => (Self::unleased(late), Ok(unanswered)),

            (Free, Event::Renew { until, .. }) => becomes(Leased { until, late: None }),
            (Barred(late), Event::Renew { now, .. }) if now < late.not_before => {
                refused(Barred(late), Refused::TooSoon)
            }
            (peer @ Barred(_), Event::Renew { caught_up: false, .. }) => refused(peer, Refused::Behind),
            (Barred(late), Event::Renew { until, .. }) => becomes(Leased { until, late: Some(late) }),
            (Leased { late, .. }, Event::Renew { until, .. }) => becomes(Leased { until, late }),
            (Asked { late, unanswered, .. }, Event::Renew { until, .. })
                if plant::is(Bug::RenewWhileAsked) =>
            {
                becomes(Asked { until, late, unanswered })
            }
            (peer @ Asked { .. }, Event::Renew { .. } | Event::Revoke) => refused(peer, Refused::Asked),
            (peer @ (Free | Barred(_)), Event::Revoke) => refused(peer, Refused::NoLease),

            (Leased { until, late }, Event::Ask { question, now }) if now < until => {
                becomes(Asked { until, late, unanswered: [question].into() })
            }
            (Asked { until, late, mut unanswered }, Event::Ask { question, now }) if now < until => {
                unanswered.insert(question);
                becomes(Asked { until, late, unanswered })
            }
            (peer, Event::Ask { .. }) => refused(peer, Refused::NoLease),

            (Asked { until, late, mut unanswered }, Event::Answer(question))
                if unanswered.contains(&question) =>
            {
                unanswered.remove(&question);
                let last = unanswered.is_empty();
                let then =
                    if last { Leased { until, late: None } } else { Asked { until, late, unanswered } };
                (then, Ok([question].into()))
            }
            (peer, Event::Answer(_)) => refused(peer, Refused::Unasked),

            (Asked { until, late, unanswered }, Event::Pass { now }) if until <= now => {
                (Barred(Penalty::after(late, now)), Ok(unanswered))
            }
            (peer, Event::Pass { .. }) => becomes(peer),
        }
    }

    /// Who was late once is late until an answer has come.
    fn unleased(late: Option<Penalty>) -> Self {
        late.map_or(Self::Free, Self::Barred)
    }

    /// Until when it may answer for itself, as far as nobody has taken that away.
    pub fn until(&self) -> Option<BootTime> {
        match self {
            Self::Free | Self::Barred(_) => None,
            Self::Leased { until, .. } | Self::Asked { until, .. } => Some(*until),
        }
    }

    pub fn is_leased(&self, now: BootTime) -> bool {
        self.until().is_some_and(|until| now < until)
    }
}

impl Penalty {
    fn after(late: Option<Self>, now: BootTime) -> Self {
        let wait = late.map_or(PENALTY, |late| (late.wait * 2).min(PENALTY_MAX));
        Self { not_before: BootTime(now.0 + wait), wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime(Duration::from_secs(seconds))
    }
    fn questions(numbers: &[u64]) -> BTreeSet<Question> {
        numbers.iter().copied().map(Question).collect()
    }
    fn late(not_before: u64, wait: u64) -> Penalty {
        Penalty { not_before: at(not_before), wait: Duration::from_secs(wait) }
    }
    fn leased(until: u64, late: Option<Penalty>) -> Peer {
        Peer::Leased { until: at(until), late }
    }
    fn asked(until: u64, late: Option<Penalty>, unanswered: &[u64]) -> Peer {
        Peer::Asked { until: at(until), late, unanswered: questions(unanswered) }
    }

    enum Want {
        Stays,
        No(Refused),
        To(Peer),
        Frees(Peer, &'static [u64]),
    }

    const LATE: Penalty =
        Penalty { not_before: BootTime(Duration::from_secs(8)), wait: Duration::from_secs(2) };

    fn states() -> [Peer; 7] {
        [
            Peer::Free,
            Peer::Barred(LATE),
            leased(10, None),
            leased(10, Some(LATE)),
            asked(10, None, &[1]),
            asked(10, Some(LATE), &[1]),
            asked(10, Some(LATE), &[1, 2]),
        ]
    }

    /// What each of the states becomes.
    fn all(event: Event, wants: [Want; 7]) {
        for (peer, want) in states().into_iter().zip(wants) {
            let expected = match want {
                Want::Stays => (peer.clone(), Ok(questions(&[]))),
                Want::No(why) => (peer.clone(), Err(why)),
                Want::To(then) => (then, Ok(questions(&[]))),
                Want::Frees(then, freed) => (then, Ok(questions(freed))),
            };
            assert_eq!(peer.clone().turn(event), expected, "{peer:?}, {event:?}");
        }
    }

    #[test]
    fn whatever_becomes_of_a_lease_is_drawn() {
        use Peer::{Barred, Free};
        use Refused::{Asked, Behind, NoLease, TooSoon};
        use Want::{Frees, No, Stays, To};
        all(
            Event::Join,
            [
                Stays,
                Stays,
                To(Free),
                To(Barred(LATE)),
                Frees(Free, &[1]),
                Frees(Barred(LATE), &[1]),
                Frees(Barred(LATE), &[1, 2]),
            ],
        );
        all(
            Event::Revoke,
            [No(NoLease), No(NoLease), To(Free), To(Barred(LATE)), No(Asked), No(Asked), No(Asked)],
        );
        // Before and after the penalty, and the lease.
        for (now, caught_up, barred) in [
            (7, false, No(TooSoon)),
            (7, true, No(TooSoon)),
            (8, false, No(Behind)),
            (8, true, To(leased(20, Some(LATE)))),
            (10, true, To(leased(20, Some(LATE)))),
        ] {
            all(
                Event::Renew { until: at(20), caught_up, now: at(now) },
                [
                    To(leased(20, None)),
                    barred,
                    To(leased(20, None)),
                    To(leased(20, Some(LATE))),
                    No(Asked),
                    No(Asked),
                    No(Asked),
                ],
            );
        }
    }

    #[test]
    fn whatever_becomes_of_a_question_is_drawn() {
        use Peer::Barred;
        use Refused::{NoLease, Unasked};
        use Want::{Frees, No, Stays, To};
        all(
            Event::Ask { question: Question(3), now: at(9) },
            [
                No(NoLease),
                No(NoLease),
                To(asked(10, None, &[3])),
                To(asked(10, Some(LATE), &[3])),
                To(asked(10, None, &[1, 3])),
                To(asked(10, Some(LATE), &[1, 3])),
                To(asked(10, Some(LATE), &[1, 2, 3])),
            ],
        );
        all(Event::Ask { question: Question(3), now: at(10) }, [(); 7].map(|()| No(NoLease)));
        all(
            Event::Answer(Question(1)),
            [
                No(Unasked),
                No(Unasked),
                No(Unasked),
                No(Unasked),
                Frees(leased(10, None), &[1]),
                Frees(leased(10, None), &[1]),
                Frees(asked(10, Some(LATE), &[2]), &[1]),
            ],
        );
        all(Event::Answer(Question(3)), [(); 7].map(|()| No(Unasked)));
        all(Event::Pass { now: at(9) }, [(); 7].map(|()| Stays));
        all(
            Event::Pass { now: at(10) },
            [
                Stays,
                Stays,
                Stays,
                Stays,
                Frees(Barred(late(11, 1)), &[1]),
                Frees(Barred(late(14, 4)), &[1]),
                Frees(Barred(late(14, 4)), &[1, 2]),
            ],
        );
        let longest = asked(10, Some(late(0, 64)), &[1]).turn(Event::Pass { now: at(10) });
        assert_eq!(longest.0, Barred(late(74, 64)));
    }
}
