//! What is read as a handle of ours is the one that we make.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::nfs3::{judge, near::NearHandles};

fuzz_target!(|bytes: &[u8]| {
    let shares = ["docs", "engineering"].map(|name| name.parse().unwrap());
    judge::handle(&NearHandles::new(&[3; 32], shares), bytes).unwrap();
});
