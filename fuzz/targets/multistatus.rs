//! How a multistatus arrives makes no difference to what passes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::wire::http::multistatus::Multistatus;

fn filter(body: &[u8], cut: usize) -> Option<Vec<u8>> {
    let mut filter = Multistatus::new(None, true);
    let mut out = Vec::new();
    for piece in body.chunks(cut.max(1)) {
        filter.push(piece, &mut out).ok()?;
    }
    filter.finish().ok()?;
    Some(out)
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, body) = input;
    let whole = filter(body, body.len());
    if let Some(pieces) = filter(body, usize::from(cut)) {
        assert_eq!(whole, Some(pieces));
    }
});
