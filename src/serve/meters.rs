//! What the counters mean, and that each of them is there from the start: who watches for the first of
//! something must see the 0 before it. Not here: what is known at any moment without counting (see
//! `admin`, which says that with every answer).

use metrics::{counter, describe_counter, describe_gauge};

use crate::id::SiteId;
use crate::link::Reason;
use crate::map::Map;

/// Describes every counter, and begins those of the shares that `map` has at site `me`. What has begun
/// already stays as it is.
pub(super) fn begin(map: &Map, me: &SiteId) {
    describe();
    for reason in Reason::ALL {
        counter!("nearshare_link_refused_total", "reason" => reason.as_str()).increment(0);
    }
    for outcome in ["answered", "not_begun", "unknown"] {
        counter!("nearshare_changes_lost_total", "outcome" => outcome).increment(0);
    }
    for (share, _) in map.shares_at(me) {
        for name in [
            "nearshare_reads_cut_off_total",
            "nearshare_changes_degraded_total",
            "nearshare_outside_events_total",
            "nearshare_outside_overflows_total",
        ] {
            counter!(name, "share" => share.name.to_string()).increment(0);
        }
    }
}

fn describe() {
    describe_counter!(
        "nearshare_http_requests_total",
        "Requests answered, by who asked, where they went, whether they change anything, and status."
    );
    describe_gauge!("nearshare_http_requests_running", "Requests that are being answered.");
    describe_gauge!("nearshare_http_connections", "Open connections of clients.");
    describe_counter!(
        "nearshare_http_connections_refused_total",
        "Connections of clients that were closed at once, for want of room."
    );
    describe_counter!(
        "nearshare_http_turned_away_total",
        "Clients and requests that were turned away, by reason."
    );
    describe_counter!(
        "nearshare_link_refused_total",
        "Connections between sites that were refused, here or by the other side, by reason."
    );
    describe_counter!(
        "nearshare_changes_lost_total",
        "Forwarded changes to which no answer came over the link, by what was found out afterwards."
    );
    describe_counter!(
        "nearshare_reads_cut_off_total",
        "Reads answered from the copy while the primary's site could not be reached."
    );
    describe_counter!(
        "nearshare_changes_degraded_total",
        "Changes answered that fewer sites than `durable_copies` had on their disks."
    );
    describe_counter!(
        "nearshare_outside_events_total",
        "Events that the kernel told of on a primary copy's file system, inside the share and outside."
    );
    describe_counter!(
        "nearshare_outside_overflows_total",
        "Times that changes behind nearshare may have been missed, so that the share was scanned."
    );
}
