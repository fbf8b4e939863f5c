//! Whatever a request and its Destination are, what is sent on is what was understood.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::http::{ShareUrl, SiteShares, judge};

fuzz_target!(|input: (&str, &str, &str)| {
    let (method, uri, destination) = input;
    let share = |name: &str, prefix: &str| ShareUrl::new(name.parse().unwrap(), prefix).unwrap();
    let shares = SiteShares::new(vec![share("docs", "/docs"), share("deep", "/a/b c")]);
    judge::request(&shares, method, uri, destination).unwrap();
});
