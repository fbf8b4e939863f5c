//! What an If field says arrives at the server as it was said.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::http::judge;

fuzz_target!(|field: &[u8]| judge::if_field(field).unwrap());
