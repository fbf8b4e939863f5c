//! How a multistatus arrives makes no difference to what passes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::http::{Move, judge};

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (cut, moves, body) = input;
    let moved = moves.then(|| Move::new(&[], "/e"));
    judge::multistatus(body, usize::from(cut), moved.as_ref()).unwrap();
});
