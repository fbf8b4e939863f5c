//! Fields that are not of one connection only pass as they came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::http::judge;

fuzz_target!(|fields: Vec<(&str, &[u8])>| {
    judge::fields(&fields).unwrap();
});
