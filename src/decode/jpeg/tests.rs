//! Properties of the whole decoder, on small generated files. Properties on files of an encoder, and
//! under a fuzzer, are in `tests/fuzz/`.

use proptest::prelude::*;

use super::test_file::{Scans, TestFile};
use std::num::NonZeroU16;

use super::block::Block;
use super::reader::MarkerReader;
use super::*;
use crate::geometry::{Rect, Size, View};

/// Decodes arbitrary bytes with an arbitrary box and entry points: nothing panics, and a box equals the
/// same box of the whole.
fn decode_anything(file: &[u8], region: Rect, every: u16, forged: &[u8]) {
    let mut workspace = Workspace::default();
    let Ok(image) = parse(file) else { return };
    drop(image.decode(region, Some(forged), &mut workspace));
    let Ok(entries) = image.entry_points(NonZeroU16::new(every.max(1)).unwrap(), &mut workspace)
    else {
        drop(image.decode(region, None, &mut workspace));
        return;
    };
    if image.size().rgb_bytes() > 1 << 22 {
        return;
    }
    let size = image.size();
    let whole = image.decode(size.whole(), None, &mut workspace).expect("checked").data().to_vec();
    let whole = View::new(&whole, size);
    let region = clamp(region, size);
    for entries in [None, Some(&entries[..])] {
        let part = image.decode(region, entries, &mut workspace).expect("checked");
        for y in 0..region.height {
            assert_eq!(part.row(y), whole.crop(region).row(y), "row {y} of {region:?}");
        }
    }
}

/// A box inside the image, from arbitrary numbers.
fn clamp(region: Rect, size: Size) -> Rect {
    let (top, left) = (region.top % size.height, region.left % size.width);
    Rect {
        top,
        left,
        height: 1 + region.height % (size.height - top),
        width: 1 + region.width % (size.width - left),
    }
}

fn factors() -> impl Strategy<Value = Vec<(u8, u8)>> {
    let ycc = |luma, chroma| Just(vec![luma, chroma, chroma]);
    prop_oneof![
        ycc((1, 1), (1, 1)),
        ycc((2, 1), (1, 1)),
        ycc((2, 2), (1, 1)),
        ycc((1, 2), (1, 1)),
        ycc((4, 1), (1, 1)),
        ycc((4, 2), (1, 1)),
        ycc((1, 4), (1, 2)),
        ycc((1, 1), (2, 2)),
        Just(vec![(2, 2), (1, 2), (2, 1)]),
        Just(vec![(2, 2)]),
        Just(vec![(2, 1), (1, 1), (1, 1), (2, 1)]),
    ]
}

fn files() -> impl Strategy<Value = TestFile> {
    let interval = prop_oneof![Just(0), 1_u16..9];
    let scans = prop_oneof![
        4 => Just(Scans::Interleaved),
        1 => Just(Scans::Separate),
        1 => Just(Scans::Progressive),
    ];
    (1_u16..80, 1_u16..80, factors(), interval, any::<u64>(), scans).prop_map(
        |(height, width, factors, restart_interval, seed, scans)| TestFile {
            height,
            width,
            factors,
            restart_interval,
            seed,
            scans,
        },
    )
}

fn boxes() -> impl Strategy<Value = Rect> {
    any::<(u16, u16, u16, u16)>().prop_map(|(top, left, height, width)| Rect {
        top: top.into(),
        left: left.into(),
        height: height.into(),
        width: width.into(),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn a_box_equals_the_same_box_of_the_whole(file in files(), region in boxes(), every in 1_u16..12) {
        let file = file.encode();
        let checked = parse(&file).unwrap().entry_points(NonZeroU16::MIN, &mut Workspace::default());
        prop_assert!(checked.is_ok(), "{checked:?}");
        decode_anything(&file, region, every, &[]);
    }

    #[test]
    fn scans_do_not_change_pixels(mut file in files()) {
        let mut pixels = |scans| {
            file.scans = scans;
            let bytes = file.encode();
            let image = parse(&bytes).unwrap();
            let mut workspace = Workspace::default();
            image.entry_points(NonZeroU16::MIN, &mut workspace).unwrap();
            let whole = image.decode(image.size().whole(), None, &mut workspace).unwrap();
            whole.data().to_vec()
        };
        let interleaved = pixels(Scans::Interleaved);
        prop_assert!(pixels(Scans::Separate) == interleaved);
        prop_assert!(pixels(Scans::Progressive) == interleaved);
    }

    #[test]
    fn a_damaged_file_does_not_panic(
        file in files(),
        region in boxes(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = file.encode();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        decode_anything(&bytes, region, 3, &[]);
    }

    #[test]
    fn a_damaged_scan_has_equal_boxes(
        file in files(),
        region in boxes(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        marker in any::<(prop::sample::Index, u8)>(),
    ) {
        let mut bytes = file.encode();
        let scan = MarkerReader::new(&bytes).unwrap().first_scan().unwrap().1.data;
        let length = bytes.len() - scan - 2;
        for (at, byte) in damage {
            bytes[scan + at.index(length)] = byte;
        }
        let at = scan + marker.0.index(length);
        bytes.splice(at..at, [0xFF, 0xD0 | marker.1 & 7]);
        decode_anything(&bytes, region, 3, &[]);
    }

    #[test]
    fn forged_entry_points_do_not_panic(
        file in files(),
        region in boxes(),
        every in 1_u16..12,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
    ) {
        let file = file.encode();
        let image = parse(&file).unwrap();
        let mut workspace = Workspace::default();
        let mut forged =
            image.entry_points(NonZeroU16::new(every).unwrap(), &mut workspace).unwrap();
        for (at, byte) in damage {
            let at = at.index(forged.len().max(1));
            forged.get_mut(at..=at).into_iter().for_each(|part| part.fill(byte));
        }
        decode_anything(&file, clamp(region, image.size()), every, &forged);
    }

    #[test]
    fn noise_does_not_panic(mut bytes in prop::collection::vec(any::<u8>(), 3..2000)) {
        bytes[..3].copy_from_slice(&[0xFF, 0xD8, 0xFF]);
        decode_anything(&bytes, Rect { top: 0, left: 0, height: 1, width: 1 }, 1, &bytes);
    }
}

/// A file with one row of blocks, and a larger size in its header.
fn with_size(height: u16, width: u16) -> Vec<u8> {
    let (factors, scans) = (vec![(2, 2), (1, 1), (1, 1)], Scans::Interleaved);
    let file = TestFile { height: 16, width: 600, factors, restart_interval: 0, seed: 1, scans };
    let mut bytes = file.encode();
    let frame = bytes.windows(2).position(|pair| pair == [0xFF, 0xC0]).unwrap();
    bytes[frame + 5..frame + 7].copy_from_slice(&height.to_be_bytes());
    bytes[frame + 7..frame + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

#[test]
fn a_header_larger_than_pillow_opens_is_refused() {
    let bytes = with_size(65_500, 65_500);
    assert_eq!(parse(&bytes).unwrap_err(), JpegError::TooLarge { size: Size::square(65_500) });
    assert!(parse(&with_size(65_535, 1)).is_err());
}

#[test]
fn a_large_size_allocates_only_the_memory_of_the_box() {
    let bytes = with_size(13_000, 13_000);
    let mut workspace = Workspace::default();
    let region = Rect { top: 12_000, left: 12_000, height: 100, width: 100 };
    let image = parse(&bytes).unwrap();
    let pixels = image.decode(region, None, &mut workspace).unwrap();
    // The data has ended long before, which libjpeg shows as gray.
    assert!(pixels.data().iter().all(|&sample| sample == 128));
    assert!(workspace.canvas.pixels.capacity() < 1 << 20);
    assert!(workspace.blocks.capacity() * size_of::<Block>() < 1 << 20);
}

#[test]
fn a_file_that_ends_early_is_truncated() {
    let whole = with_size(16, 600);
    let bytes = &whole[..whole.len() - 100];
    let image = parse(bytes).unwrap();
    let error = image.decode(image.size().whole(), None, &mut Workspace::default()).unwrap_err();
    assert_eq!(error, JpegError::Truncated { length: bytes.len() });
}

#[test]
fn entry_points_of_another_image_are_refused() {
    let (one, other) = (with_size(16, 600), with_size(16, 570));
    let mut workspace = Workspace::default();
    let entries = parse(&one).unwrap().entry_points(NonZeroU16::MIN, &mut workspace).unwrap();
    let other = parse(&other).unwrap();
    let error = other.decode(other.size().whole(), Some(&entries), &mut workspace).unwrap_err();
    assert!(matches!(error, JpegError::EntryPoints { .. }), "{error}");
}

#[test]
fn a_box_outside_the_image_is_refused() {
    let bytes = with_size(16, 600);
    let image = parse(&bytes).unwrap();
    let region = Rect { top: 0, left: 599, height: 1, width: 2 };
    let error = image.decode(region, None, &mut Workspace::default()).unwrap_err();
    assert_eq!(error, JpegError::Outside { rect: region, size: image.size() });
}
