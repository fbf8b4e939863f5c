//! How a stream of frames is cut into pieces makes no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::link::frames::read_all;

fuzz_target!(|input: (u8, &[u8])| {
    const LIMIT: usize = 4096;
    let (cut, stream) = input;
    let whole = read_all(stream, stream.len(), LIMIT);
    let pieces = read_all(stream, usize::from(cut), LIMIT);
    assert_eq!(whole.ok(), pieces.ok());
});
