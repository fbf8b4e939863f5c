use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::judge;
use super::super::record::{Limits, Records};
use crate::wire::xdr::{Rope, Writer};

const LIMITS: Limits = Limits { bytes: 1000, fragments: 3 };

fn fragment(last: bool, bytes: &[u8]) -> Vec<u8> {
    let mark = u32::from(last) << 31 | bytes.len() as u32;
    [&mark.to_be_bytes()[..], bytes].concat()
}

fn take(stream: &[u8]) -> Result<Vec<Bytes>, String> {
    let mut records = Records::new(LIMITS);
    let mut bytes = BytesMut::from(stream);
    let mut all = Vec::new();
    while let Some(record) = records.take(&mut bytes).map_err(|fault| fault.to_string())? {
        all.push(record.into_bytes());
    }
    Ok(all)
}

#[test]
fn fragments_make_one_record() {
    let stream = [
        fragment(false, b"one "),
        fragment(false, b""),
        fragment(true, b"record"),
        fragment(true, b"another"),
        fragment(true, b""),
        fragment(true, b"begun")[..7].to_vec(),
    ];
    let records = take(&stream.concat()).unwrap();
    assert_eq!(records, [&b"one record"[..], b"another", b""]);
}

#[test]
fn what_is_too_much_is_refused_as_soon_as_it_is_said() {
    let begun = fragment(true, &[0; 1000]);
    let table = [
        (
            [&begun[..], &[0x80, 0, 3, 0xe9]].concat(),
            "a record is 1001 bytes, limit 1000, at byte 1004 of the stream",
        ),
        (vec![0xff; 4], "a record is 2147483647 bytes, limit 1000, at byte 0 of the stream"),
        (
            [fragment(false, &[0; 600]), fragment(true, &[0; 401])].concat(),
            "a record is 1001 bytes, limit 1000, at byte 604 of the stream",
        ),
        (
            [fragment(false, b""), fragment(false, b""), fragment(false, b""), fragment(false, b"")]
                .concat(),
            "a record has more than 3 fragments, at byte 12 of the stream",
        ),
    ];
    for (stream, want) in table {
        assert_eq!(take(&stream).unwrap_err(), want);
    }
}

/// As a connection reads: pieces of one buffer as they come, then another buffer.
#[test]
fn a_record_is_not_copied() {
    let payload = vec![3; 700];
    let stream = fragment(true, &payload);
    let mut records = Records::new(LIMITS);
    let mut buffer = BytesMut::with_capacity(512);
    let mut starts = vec![buffer.as_ptr()];
    let mut whole = None;
    for piece in stream.chunks(50) {
        if buffer.capacity() < piece.len() {
            buffer = BytesMut::with_capacity(512);
            starts.push(buffer.as_ptr());
        }
        buffer.extend_from_slice(piece);
        whole = records.take(&mut buffer).unwrap();
        assert!(buffer.is_empty());
    }
    let record: Rope = whole.unwrap();
    let pieces: Vec<_> = record.pieces().map(|piece| piece.as_ptr()).collect();
    assert_eq!(pieces, [starts[0].wrapping_add(4), starts[1]]);
    assert_eq!(record.into_bytes(), payload);
}

#[test]
fn what_is_held_is_counted() {
    let mut records = Records::new(LIMITS);
    let mut bytes = BytesMut::from(&fragment(false, &[1; 30])[..]);
    assert!(records.take(&mut bytes).unwrap().is_none());
    assert_eq!(records.held(), 30);
    assert!(records.take(&mut BytesMut::from(&fragment(true, &[1; 9])[..])).unwrap().is_some());
    assert_eq!(records.held(), 0);
}

proptest! {
    #[test]
    fn records_come_out_as_they_went_in(
        messages in vec(vec(any::<u8>(), 0..300), 0..6),
        fragments in vec(1_usize..200, 1..4),
        cut in 1_usize..400,
    ) {
        let mut stream = Vec::new();
        for message in &messages {
            match message.len() {
                // Those of our own making have one fragment.
                len if len % 2 == 0 => {
                    let mut out = Writer::new();
                    out.fixed(message);
                    stream.extend(out.record());
                }
                len => {
                    let first = fragments[0].min(len);
                    stream.extend(fragment(false, &message[..first]));
                    stream.extend(fragment(true, &message[first..]));
                }
            }
        }
        prop_assert_eq!(take(&stream).unwrap(), messages);
        prop_assert_eq!(judge::stream(&stream, cut), Ok(()));
    }

    #[test]
    fn any_stream_is_read_in_one_way(
        bytes in vec(prop_oneof![4 => Just(0_u8), 1 => Just(0x80), 2 => 0_u8..40, 1 => any::<u8>()], 0..400),
        cut in 1_usize..50,
    ) {
        prop_assert_eq!(judge::stream(&bytes, cut), Ok(()));
    }
}
