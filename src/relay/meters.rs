//! What is counted of requests. Handles are taken once: a request costs a few additions.

use http::StatusCode;
use metrics::{Counter, Gauge, counter, gauge};

use crate::route::Route;

const FROM: [&str; 2] = ["client", "site"];
const ROUTES: [&str; 6] = ["pass", "divert", "forward", "home", "unavailable", "refused"];
const KINDS: [&str; 2] = ["read", "change"];
const STATUSES: [&str; 6] = ["other", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Who asked.
#[derive(Debug, Clone, Copy)]
pub enum From {
    Client,
    Site,
}

pub struct Meters {
    requests: Vec<Counter>,
    running: Gauge,
}

impl Meters {
    pub fn new() -> Self {
        let kinds = KINDS.iter().flat_map(|kind| STATUSES.iter().map(move |status| (kind, status)));
        let routes = FROM.iter().flat_map(|from| ROUTES.iter().map(move |route| (from, route)));
        let requests = routes.flat_map(|(from, route)| {
            kinds.clone().map(move |(kind, status)| {
                counter!(
                    "nearshare_http_requests_total",
                    "from" => *from, "route" => *route, "kind" => *kind, "status" => *status
                )
            })
        });
        let requests = requests.collect();
        Self { requests, running: gauge!("nearshare_http_requests_running") }
    }

    /// Counts a request as running until what this returns is dropped.
    pub fn running(&self) -> Running<'_> {
        self.running.increment(1.0);
        Running(&self.running)
    }

    /// `decided`: the route, and whether it was a change; none if it was refused for what it is.
    pub fn answered(&self, from: From, decided: Option<(Route, bool)>, status: StatusCode) {
        let (route, changes) = match decided {
            Some((Route::Pass, changes)) => (0, changes),
            Some((Route::Divert | Route::DivertPlain, changes)) => (1, changes),
            Some((Route::Forward, changes)) => (2, changes),
            Some((Route::Home, changes)) => (3, changes),
            Some((Route::Refuse(_), changes)) => (4, changes),
            None => (5, false),
        };
        let class = usize::from(status.as_u16() / 100);
        let class = if class < STATUSES.len() { class } else { 0 };
        let from = match from {
            From::Client => 0,
            From::Site => 1,
        };
        let at = (from * ROUTES.len() + route) * KINDS.len() + usize::from(changes);
        let at = at * STATUSES.len() + class;
        self.requests[at].increment(1);
    }
}

pub struct Running<'a>(&'a Gauge);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
