//! Leases and questions of strict shares (R6, R10 to R14), as state machines that are handed the time.
//! One [`Giver`] a share at its primary, one [`Taker`] at every copy. Not here: what is held, which
//! `notice` and `follow` know, and how the two sides talk.

mod give;
mod peer;
#[cfg(test)]
mod storm;
mod take;

use std::time::Duration;

use crate::plant::{self, Bug};

pub use self::give::{Giver, Question, Renewal, Stream};
pub use self::peer::Refused;
pub use self::take::{Moment, NotGranted, Taker};

/// How long a copy may answer for itself after it asked for its lease.
pub const LEASE: Duration = Duration::from_secs(5);

/// How long the giver counts on a lease of this length: clocks run at most 1 % apart, and what was
/// read from one is up to 10 ms old when it is compared (R12).
pub fn counted(lease: Duration) -> Duration {
    if plant::is(Bug::NoMargin) {
        return lease;
    }
    lease + lease / 100 + Duration::from_millis(10)
}
