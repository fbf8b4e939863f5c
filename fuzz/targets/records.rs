//! A journal record from a peer or a disk is refused, or says exactly what it is written back as.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nearshare::catalog::{
    decode_change, decode_record, decode_touch, encode_change, encode_record, encode_touch,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(record) = decode_record(bytes) {
        assert_eq!(decode_record(&encode_record(&record)).as_ref(), Ok(&record));
    }
    if let Ok(change) = decode_change(bytes) {
        assert_eq!(decode_change(&encode_change(&change)).as_ref(), Ok(&change));
    }
    if let Ok(touch) = decode_touch(bytes) {
        assert_eq!(decode_touch(&encode_touch(&touch)).as_ref(), Ok(&touch));
    }
});
