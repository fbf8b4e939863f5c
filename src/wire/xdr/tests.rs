use bytes::BytesMut;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn cut(bytes: &[u8], size: usize) -> Rope {
    bytes.chunks(size.max(1)).map(Bytes::copy_from_slice).collect()
}

/// Spans that do not overlap, in their order, and what to put in their places.
fn edits() -> impl Strategy<Value = (Vec<u8>, Vec<(Span, Vec<u8>)>)> {
    let steps = vec((0_usize..1500, 0_usize..700, vec(any::<u8>(), 0..40)), 0..6);
    (vec(any::<u8>(), 0..5000), steps).prop_map(|(bytes, steps)| {
        let mut at = 0;
        let mut edits = Vec::new();
        for (gap, len, new) in steps {
            at += gap;
            if at + len > bytes.len() {
                break;
            }
            edits.push((Span { at, len }, new));
            at += len;
        }
        (bytes, edits)
    })
}

proptest! {
    #[test]
    fn a_woven_message_is_the_old_one_but_for_what_was_replaced(
        (bytes, edits) in edits(),
        size in 1_usize..2000,
    ) {
        let message = cut(&bytes, size);
        let (mut want, mut weaves) = (bytes, [Weave::new(&message), Weave::new(&message)]);
        for (span, new) in &edits {
            for weave in &mut weaves {
                weave.replace(*span, |out| {
                    out.fixed(new);
                });
            }
        }
        for (span, new) in edits.iter().rev() {
            want.splice(span.at..span.end(), new.iter().copied());
        }
        let [plain, record] = weaves;
        let plain = plain.message();
        prop_assert_eq!(plain.len(), want.len());
        prop_assert_eq!(plain.into_bytes(), &want[..]);
        let mark = (1 << 31 | want.len() as u32).to_be_bytes();
        prop_assert_eq!(record.record().into_bytes(), [&mark[..], &want].concat());
    }

    #[test]
    fn a_part_is_those_bytes(bytes in vec(any::<u8>(), 0..300), size in 1_usize..99, at in 0_usize..310, len in 0_usize..310) {
        let rope = cut(&bytes, size);
        let part = rope.slice(Span { at, len });
        let want: Vec<u8> = bytes.iter().skip(at).take(len).copied().collect();
        prop_assert_eq!(part.len(), want.len());
        prop_assert!(part.pieces().all(|piece| !piece.is_empty()));
        prop_assert_eq!(part.into_bytes(), want);
        let mut reader = Reader::starting(&rope, at);
        let left = bytes.len().saturating_sub(at);
        prop_assert_eq!(reader.left(), left);
        prop_assert_eq!(reader.skip("rest", left), Ok(()));
        prop_assert!(reader.skip("rest", 1).is_err());
    }

    #[test]
    fn values_are_read_as_they_were_written(word: u32, wide: u64, flag: bool, text in vec(any::<u8>(), 0..50), size in 1_usize..20) {
        let mut out = Writer::new();
        out.u32(word).opaque(&text).u64(wide).bool(flag).opaque(&text);
        let bytes = out.message();
        let rope = cut(&bytes, size);
        let mut reader = Reader::new(&rope);
        prop_assert_eq!(reader.u32("word"), Ok(word));
        prop_assert_eq!(reader.opaque("text", 50).unwrap(), &text[..]);
        prop_assert_eq!(reader.u64("wide"), Ok(wide));
        prop_assert_eq!(reader.bool("flag"), Ok(flag));
        let span = reader.payload("text", 50).unwrap();
        prop_assert_eq!(rope.slice(span).into_bytes(), text);
        prop_assert_eq!((reader.left(), reader.at()), (0, bytes.len()));
    }
}

#[test]
fn what_lies_in_one_piece_is_shared() {
    let whole = Bytes::from_static(&[0, 0, 0, 3, 1, 2, 3, 0, 9]);
    let rope = Rope::from(whole.clone());
    let text = Reader::new(&rope).opaque("text", 3).unwrap();
    assert_eq!(text.as_ptr(), whole[4..].as_ptr());
}

#[test]
fn long_pieces_between_replaced_ones_are_shared() {
    let bytes = Bytes::from(vec![1; 4000]);
    let message = Rope::from(bytes.clone());
    let mut weave = Weave::new(&message);
    for at in [0, 1500, 3000] {
        weave.opaque(at, 4, b"new");
    }
    let pieces: Vec<_> = weave.message().pieces().map(|piece| piece.as_ptr()).collect();
    for at in [8, 1508, 3008] {
        assert!(pieces.contains(&bytes[at..].as_ptr()), "{at}");
    }
    assert_eq!(pieces.len(), 6);
}

#[test]
fn nothing_is_set_aside_for_a_length() {
    let rope = Rope::from(BytesMut::from(&[0xff, 0xff, 0xff, 0xfc, 1, 2, 3, 4][..]).freeze());
    let fault = Reader::new(&rope).opaque("text", u32::MAX).unwrap_err();
    assert_eq!(fault, Fault::Short { field: "text", need: 0xffff_fffc, left: 4, at: 4 });
    let fault = Reader::new(&rope).opaque("text", 3).unwrap_err();
    assert_eq!(fault.to_string(), "text is 4294967292 bytes, limit 3, at byte 0");
}
