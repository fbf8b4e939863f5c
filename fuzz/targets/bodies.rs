//! The XML that clients send.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::http::judge;

fuzz_target!(|body: &[u8]| judge::bodies(body).unwrap());
