//! How a stream is cut into pieces makes no difference to its records, nor to the heads of messages.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::rpc::judge;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    judge::stream(bytes, usize::from(cut)).unwrap();
    judge::head(bytes, usize::from(cut)).unwrap();
});
