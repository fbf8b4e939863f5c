//! Any file is a map or has mistakes, and every mistake has a place in it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::map;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = map::text(bytes) else { return };
    let lines = text.split('\n').count();
    match map::parse(text) {
        Ok(map) => assert!(!map.sites.is_empty() && !map.shares.is_empty()),
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            assert!(mistakes.iter().all(|mistake| (1..=lines).contains(&(mistake.line as usize))));
        }
    }
});
