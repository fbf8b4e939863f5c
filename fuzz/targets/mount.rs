//! However a message of MOUNT is cut, it is read alike.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::mount::judge;

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    judge::message(bytes, usize::from(cut)).unwrap();
});
