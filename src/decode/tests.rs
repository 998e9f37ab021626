//! The check of a file against Pillow's verdict, and the decoding of files that passed it. The behavior
//! of Pillow was measured with 12.3.0.

use super::*;
use crate::geometry::{Rect, Size, View};

/// 26x18, 4:2:0, from a gradient.
const TINY: &[u8] = include_bytes!("../../tests/data/tiny.jpg");

/// The offset of the height in the frame header.
fn height_at() -> usize {
    TINY.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap() + 5
}

#[test]
fn a_region_holds_the_box_in_the_coordinates_of_the_image() {
    let mut decoder = Decoder::default();
    let size = Size { height: 18, width: 26 };
    let whole = decoder.decode(TINY, size.whole(), &[]).unwrap().pixels.data().to_vec();
    let rect = Rect { top: 3, left: 5, height: 7, width: 11 };
    let crop = decoder.decode(TINY, rect, &[]).unwrap().crop(rect);
    let expected = View::new(&whole, size).crop(rect);
    assert!((0..7).all(|y| crop.row(y) == expected.row(y)));
}

#[test]
fn a_huge_size_allocates_nothing() {
    let mut huge = TINY.to_vec();
    huge[height_at()..height_at() + 4].copy_from_slice(&[0xFF, 0xDC, 0xFF, 0xDC]);
    let mut decoder = Decoder::default();
    assert!(matches!(verify(&huge, &mut decoder), Err(DecodeError::TooLarge { .. })));
    let rect = Size::square(1).whole();
    assert!(matches!(decoder.decode(&huge, rect, &[]), Err(DecodeError::TooLarge { .. })));
    assert_eq!(decoder.pixels.capacity(), 0);
    huge[height_at()..height_at() + 4].copy_from_slice(&[0xFF; 4]);
    assert!(decoder.decode(&huge, rect, &[]).is_err());
}

#[test]
fn a_box_outside_is_refused() {
    let rect = Rect { top: 0, left: 20, height: 1, width: 7 };
    let error = Decoder::default().decode(TINY, rect, &[]).unwrap_err();
    assert!(matches!(error, DecodeError::Outside { .. }), "{error}");
}

#[test]
fn a_file_without_end_marker_is_refused_and_trailing_junk_is_not() {
    let mut decoder = Decoder::default();
    assert!(verify(&[TINY, b"junk"].concat(), &mut decoder).is_ok());
    for cut in 1..TINY.len() - 2 {
        assert!(verify(&TINY[..cut], &mut decoder).is_err(), "cut to {cut} bytes");
    }
}

#[test]
fn any_changed_byte_is_an_error_or_a_picture() {
    let mut decoder = Decoder::default();
    for at in 0..TINY.len() {
        for byte in [0, 1, 0x7F, 0xFF] {
            let mut bytes = TINY.to_vec();
            bytes[at] = byte;
            if let Ok((header, _)) = verify(&bytes, &mut decoder) {
                assert!(header.size.rgb_bytes() > 0);
            }
            // As when a file changes after it was indexed.
            let served = decoder.decode(&bytes, Size::square(1).whole(), &[]);
            assert!(served.is_err() || probe(&bytes).is_ok());
        }
    }
}

/// `TINY` with a segment inserted after its start.
fn with(segment: &[u8]) -> Vec<u8> {
    [&TINY[..2], segment, &TINY[2..]].concat()
}

/// The pixels of a file that both the check and the decoder accept.
fn shown(file: &[u8]) -> Vec<u8> {
    let mut decoder = Decoder::default();
    let (header, entries) = verify(file, &mut decoder).unwrap();
    assert_eq!(probe(file), Ok(header));
    decoder.decode(file, header.size.whole(), &entries).unwrap().pixels.data().to_vec()
}

/// Whether the check, the probe and the decoder refuse a file. They must agree.
fn refused(file: &[u8]) -> bool {
    let mut decoder = Decoder::default();
    let served = decoder.decode(file, Size::square(1).whole(), &[]).is_ok();
    let found = [verify(file, &mut decoder).is_ok(), probe(file).is_ok(), served];
    assert!(found == [false; 3] || found == [true; 3], "no agreement: {found:?}");
    !found[0]
}

/// The offsets of the three components in the frame header and in the scan header.
fn components() -> [[usize; 3]; 2] {
    let scan = TINY.windows(2).position(|pair| pair == [0xFF, 0xDA]).unwrap() + 5;
    [height_at() + 5, scan].map(|at| [0, 1, 2].map(|i| at + i * if at == scan { 2 } else { 3 }))
}

#[test]
fn equal_component_ids_are_told_apart_by_position() {
    let mut file = TINY.to_vec();
    for at in components().into_iter().flatten() {
        file[at] = 7;
    }
    assert!(shown(&file) == shown(TINY));
}

#[test]
fn components_in_another_order_than_the_frame_are_refused() {
    for order in [[0, 2, 1], [1, 0, 2], [2, 1, 0]] {
        let mut file = TINY.to_vec();
        let [_, scan] = components();
        for (to, from) in scan.into_iter().zip(order) {
            file[to..to + 2].copy_from_slice(&TINY[scan[from]..scan[from] + 2]);
        }
        assert!(refused(&file), "{order:?}");
    }
}

#[test]
fn segments_of_length_0_are_empty_unless_they_hold_tables() {
    for length in [0, 1] {
        for code in [0xDC, 0xE0, 0xE1, 0xEE, 0xFE] {
            assert!(shown(&with(&[0xFF, code, 0, length])) == shown(TINY), "{code:x} {length}");
        }
        for code in [0xC4, 0xCC, 0xDB, 0xDD] {
            assert!(refused(&with(&[0xFF, code, 0, length])), "{code:x} {length}");
        }
    }
}

#[test]
fn impossible_arithmetic_conditioning_is_refused() {
    assert!(shown(&with(&[0xFF, 0xCC, 0, 4, 0, 0x10])) == shown(TINY));
    for body in [&[0, 1][..], &[32, 0x10], &[0, 0x10, 0]] {
        let head = [0xFF, 0xCC, 0, u8::try_from(body.len()).unwrap() + 2];
        assert!(refused(&with(&[&head, body].concat())), "{body:?}");
    }
}

#[test]
fn a_short_jfif_segment_does_not_define_the_color_space() {
    // Without JFIF, Adobe's 0 means RGB.
    let jfif = TINY.windows(2).position(|pair| pair == [0xFF, 0xE0]).unwrap();
    let length = usize::from(u16::from_be_bytes([TINY[jfif + 2], TINY[jfif + 3]]));
    let plain = [&TINY[..jfif], &TINY[jfif + 2 + length..]].concat();
    let adobe = b"\xFF\xEE\0\x0EAdobe\0\x64\0\0\0\0\0";
    let of_body = |bytes: usize| {
        let head = [0xFF, 0xE0, 0, u8::try_from(bytes).unwrap() + 2];
        let body = &b"JFIF\0\x01\x02\0\0\x01\0\x01\0\0"[..bytes];
        shown(&[&plain[..2], &head, body, adobe, &plain[2..]].concat())
    };
    assert!(of_body(14) == shown(TINY));
    let rgb = shown(&[&plain[..2], adobe, &plain[2..]].concat());
    assert!(rgb != shown(TINY));
    assert!([11, 12, 13].iter().all(|&bytes| of_body(bytes) == rgb));
}

#[test]
fn segments_that_pillow_fails_on_are_refused() {
    let segment = |code: u8, body: &[u8]| {
        let length = u8::try_from(body.len()).unwrap() + 2;
        with(&[&[0xFF, code, 0, length], body].concat())
    };
    let profile = |body: &[u8]| segment(0xE2, &[b"ICC_PROFILE\0", body].concat());
    assert!(shown(&profile(b"\x01\x01")) == shown(TINY));
    assert!(refused(&profile(b"\x01")) && refused(&profile(b"")));
    let resources = |body: &[u8]| segment(0xED, &[b"Photoshop 3.0\0", body].concat());
    let whole = b"8BIM\x04\x04\0\0\0\0\0\x018\0";
    for body in [&b""[..], b"8BIM", b"8BIM\x04", b"8BIM\x04\x04\0", b"8BIX\x04\x04", whole] {
        assert!(shown(&resources(body)) == shown(TINY), "{body:?}");
    }
    assert!(refused(&resources(b"8BIM\x04\x04")));
    assert!(refused(&resources(&[&whole[..], b"8BIM\x04\x04"].concat())));
    // The number of pictures, and entries of 16 bytes.
    let index = |pictures: u8, bytes: u8| {
        let head = b"MPF\0II*\0\x08\0\0\0\x02\0\x01\xB0\x04\0\x01\0\0\0";
        let entry = [pictures, 0, 0, 0, 2, 0xB0, 7, 0, bytes, 0, 0, 0, 38, 0, 0, 0, 0, 0, 0, 0];
        segment(0xE2, &[&head[..], &entry, &[0; 64]].concat())
    };
    assert!(shown(&index(2, 32)) == shown(TINY) && shown(&index(0, 16)) == shown(TINY));
    assert!(refused(&index(2, 31)) && refused(&index(3, 32)));
    // A resolution of this many bytes, and its unit. JFIF states one too.
    let exif = |bytes: u8, unit: u8| {
        let head = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x1A\x01\x01\0";
        let entry =
            [bytes, 0, 0, 0, 72, 72, 0, 0, unit, 1, 3, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0];
        segment(0xE1, &[&head[..], &entry].concat())
    };
    assert!(shown(&exif(2, 0x28)) == shown(TINY) && shown(&exif(1, 0x29)) == shown(TINY));
    assert!(refused(&exif(1, 0x28)));
    let mut stated = exif(1, 0x28);
    let unit = stated.windows(4).position(|bytes| bytes == b"JFIF").unwrap() + 7;
    assert_eq!(stated[unit], 0);
    stated[unit] = 1;
    assert!(shown(&stated) == shown(TINY));
}

#[test]
fn after_the_image_a_segment_may_be_truncated_but_not_malformed() {
    let accepted = |bytes: &[u8]| {
        let file = [&TINY[..TINY.len() - 2], bytes].concat();
        verify(&file, &mut Decoder::default()).is_ok()
    };
    for code in [0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xE0, 0xEE, 0xFE] {
        assert!(accepted(&[0xFF, code]), "{code:x}");
    }
    for code in [0x02, 0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC8, 0xC9, 0xCA, 0xCB, 0xCF, 0xD8, 0xDE, 0xF0]
    {
        assert!(!accepted(&[0xFF, code]), "{code:x}");
    }
    assert!(!accepted(&[0xFF, 0xC0, 0, 17, 8, 0]));
}

#[test]
fn formats_that_only_pillow_decodes_are_refused_by_name() {
    for (file, name) in [
        (&b"\0\0\0\x20ftypavif\0\0\0\0"[..], "AVIF"),
        (b"\0\0\0\x0CjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xFF\x4F\xFF\x51", "JPEG 2000"),
        (b"Pf 1 1 1 ", "PNM other than P1 to P6"),
    ] {
        let error = verify(file, &mut Decoder::default()).unwrap_err();
        assert_eq!(error, DecodeError::OtherFormat(name));
        let text = error.to_string();
        assert!(text.contains(name) && text.contains("convert the image"), "{text}");
    }
    assert_eq!(
        verify(b"\0\0\0\x20ftypheic", &mut Decoder::default()),
        Err(DecodeError::Unidentified)
    );
}

#[test]
fn a_decoder_is_as_good_as_new_after_a_damaged_image() {
    let mut decoder = Decoder::default();
    assert!(verify(&TINY[..TINY.len() / 2], &mut decoder).is_err());
    let size = Size { height: 18, width: 26 };
    let again = decoder.decode(TINY, size.whole(), &[]).unwrap().pixels.data().to_vec();
    assert!(again == shown(TINY));
}

#[test]
fn a_file_without_end_marker_is_good_if_libjpeg_can_fill_its_bit_buffer() {
    let without_end = |junk: usize| [&TINY[..TINY.len() - 2], &vec![0x55; junk]].concat();
    for junk in [4, 6, 8, 16, 600] {
        assert!(shown(&without_end(junk)) == shown(TINY), "{junk} bytes");
    }
    for junk in [0, 1, 2] {
        assert!(verify(&without_end(junk), &mut Decoder::default()).is_err(), "{junk} bytes");
    }
}
