//! What is said of a challenge leaves its nonces what they are.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::http::judge;

fuzz_target!(|field: &[u8]| judge::auth(field).unwrap());
