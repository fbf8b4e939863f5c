//! How a client's stream is cut into pieces makes no difference to how it is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::http::judge;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, stream) = input;
    judge::stream(stream, usize::from(cut)).unwrap();
});
