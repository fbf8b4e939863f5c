//! Every question to the port mapper has one answer, and no long one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::portmap::judge;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    judge::question(bytes, usize::from(cut)).unwrap();
});
