//! What is read of a message of NFS can be put back, and what is translated is all that names an object.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::nfs3::judge;

fuzz_target!(|input: (u8, u8, &[u8])| {
    let (which, cut, bytes) = input;
    let rows = judge::rows().count();
    let row = judge::rows().nth(usize::from(which) % rows).unwrap();
    // As long as ours are, and of another length than most.
    for handle in [&[0xa5; 32][..], &[0x5a; 7]] {
        judge::args(row, bytes, usize::from(cut), handle).unwrap();
        judge::results(row, bytes, usize::from(cut), handle).unwrap();
    }
});
