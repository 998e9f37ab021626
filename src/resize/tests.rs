use proptest::prelude::*;

use super::*;
use crate::geometry::PadMode;

const FILTERS: [ResizeFilter; 6] = ResizeFilter::ALL;

fn pixels(size: Size, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Both extremes are frequent, because they make sums overshoot.
        match state >> 62 {
            0 => 0,
            1 => 255,
            _ => state.to_le_bytes()[3],
        }
    };
    (0..size.rgb_bytes()).map(|_| next()).collect()
}

fn resized(simd: Simd, source: View<'_>, to: &Resample) -> Vec<u8> {
    let mut slot = vec![0xaa; to.out().rgb_bytes()];
    Resizer::new(simd).resize(source, to, &mut slot);
    slot
}

fn size(max: u32) -> impl Strategy<Value = Size> {
    (1..=max, 1..=max).prop_map(|(height, width)| Size { height, width })
}

/// A box inside an image of the given size.
fn part(size: Size, at: [u32; 4]) -> Rect {
    let (top, left) = (at[0] % size.height, at[1] % size.width);
    let (height, width) = (1 + at[2] % (size.height - top), 1 + at[3] % (size.width - left));
    Rect { top, left, height, width }
}

proptest! {
    #[test]
    fn every_vector_width_gives_the_same_bytes(
        from in size(90), crop in any::<[u32; 4]>(), resized_to in size(90),
        window in any::<[u32; 4]>(), filter in 0..6_usize, flips in any::<[bool; 2]>(), seed in any::<u64>(),
    ) {
        let data = pixels(from, seed);
        let source = View::new(&data, from).crop(part(from, crop));
        let window = part(resized_to, window);
        let [flip, vflip] = flips;
        let whole = Resample::whole(resized_to, FILTERS[filter]);
        let to = Resample { window, flip, vflip, ..whole };
        let plain = resized(Simd::SCALAR, source, &to);
        for simd in Simd::all() {
            prop_assert_eq!(&resized(simd, source, &to), &plain, "{:?}", simd);
        }
    }

    #[test]
    fn a_window_is_the_crop_of_the_whole(
        from in size(60), resized_to in size(60), window in any::<[u32; 4]>(), filter in 0..6_usize,
    ) {
        let data = pixels(from, 7);
        let source = View::new(&data, from);
        let window = part(resized_to, window);
        let whole = Resample::whole(resized_to, FILTERS[filter]);
        let to = Resample { window, ..whole };
        let all = resized(Simd::detect(), source, &whole);
        let crop = View::new(&all, resized_to).crop(window);
        let rows: Vec<u8> = (0..window.height).flat_map(|y| crop.row(y)).copied().collect();
        prop_assert_eq!(resized(Simd::detect(), source, &to), rows);
    }

    #[test]
    fn the_part_that_a_window_needs_gives_the_same_bytes(
        from in size(60), tall in any::<bool>(), resized_to in size(60), window in any::<[u32; 4]>(),
        filter in 0..6_usize, flips in any::<[bool; 2]>(),
    ) {
        let from = if tall { Size { height: from.height * 20, width: 1 + from.width % 4 } } else { from };
        let data = pixels(from, 9);
        let source = View::new(&data, from);
        let window = part(resized_to, window);
        let [flip, vflip] = flips;
        let to = Resample { window, flip, vflip, ..Resample::whole(resized_to, FILTERS[filter]) };
        let rect = to.needs(from);
        prop_assert!(rect.fits(from), "{:?} of {:?}", rect, from);
        let mut slot = vec![0xaa; window.size().rgb_bytes()];
        let needed = Part { pixels: source.crop(rect), rect, whole: from };
        Resizer::new(Simd::detect()).resize_part(needed, &to, &mut slot);
        prop_assert_eq!(resized(Simd::detect(), source, &to), slot);
    }

    #[test]
    fn flips_mirror_the_window(
        from in size(40), resized_to in size(40), window in any::<[u32; 4]>(), keep in any::<[bool; 2]>(),
        filter in 0..6_usize, padded in any::<bool>(),
    ) {
        let data = pixels(from, 3);
        let resized_to = Size {
            height: if keep[0] { from.height } else { resized_to.height },
            width: if keep[1] { from.width } else { resized_to.width },
        };
        let window = part(resized_to, window);
        let mode = PadMode::Reflect;
        let padding = padded.then_some(Padding { top: 2, left: 5, bottom: 3, right: 0, mode });
        let to = Resample { window, padding, ..Resample::whole(resized_to, FILTERS[filter]) };
        let source = View::new(&data, from);
        let plain = resized(Simd::detect(), source, &to);
        let row_bytes = to.out().width as usize * 3;
        let mut mirrored = plain.clone();
        mirrored.chunks_exact_mut(row_bytes).for_each(mirror);
        prop_assert_eq!(resized(Simd::detect(), source, &Resample { flip: true, ..to }), mirrored);
        let upside_down = plain.chunks_exact(row_bytes).rev().flatten().copied();
        let flipped = resized(Simd::detect(), source, &Resample { vflip: true, ..to });
        prop_assert_eq!(flipped, upside_down.collect::<Vec<u8>>());
    }
}

#[test]
fn a_nearest_pixel_is_needed_where_the_sum_of_steps_puts_it() {
    // The center of output 22 is exactly at 15, and the sum of 22 steps of 2/3 is below that.
    let (from, to) = (Size { height: 1, width: 24 }, Size { height: 1, width: 36 });
    let window = Rect { top: 0, left: 22, height: 1, width: 1 };
    let to = Resample { window, ..Resample::whole(to, ResizeFilter::Nearest) };
    assert_eq!(to.needs(from), Rect { top: 0, left: 14, height: 1, width: 1 });
}

#[test]
fn the_same_size_is_a_copy() {
    let size = Size { height: 9, width: 13 };
    let data = pixels(size, 5);
    let to = Resample::whole(size, ResizeFilter::Bicubic);
    assert_eq!(resized(Simd::detect(), View::new(&data, size), &to), data);
}

#[test]
fn a_flat_image_stays_flat_at_extreme_ratios() {
    for (from, to) in [
        (Size { height: 1, width: 5000 }, Size::square(224)),
        (Size { height: 5000, width: 1 }, Size::square(224)),
        (Size { height: 3, width: 20_000 }, Size { height: 5, width: 1 }),
        (Size { height: 20_000, width: 2 }, Size::square(1)),
        (Size::square(1), Size { height: 700, width: 3 }),
    ] {
        let data = vec![201; from.rgb_bytes()];
        let source = View::new(&data, from);
        for filter in FILTERS {
            let to = Resample { flip: true, ..Resample::whole(to, filter) };
            for simd in Simd::all() {
                assert!(resized(simd, source, &to).iter().all(|value| *value == 201), "{to:?}");
            }
        }
    }
}

#[test]
fn a_very_tall_image_takes_the_vertical_pass_first() {
    let filter = ResizeFilter::Bicubic;
    for (height, tall) in [(300, false), (301, true)] {
        let from = Size { height, width: 3 };
        let data = pixels(from, 11);
        let source = View::new(&data, from);
        let to = Resample { flip: true, ..Resample::whole(Size::square(8), filter) };
        let step = |source, size: Size, flip| {
            let to = Resample { flip, ..Resample::whole(size, filter) };
            resized(Simd::detect(), source, &to)
        };
        let middle = Size { height: 8, width: 3 };
        let lowered = step(source, middle, false);
        let vertical_first = step(View::new(&lowered, middle), Size::square(8), true);
        assert_eq!(resized(Simd::detect(), source, &to) == vertical_first, tall, "{height} rows");
    }
}

#[test]
fn every_vector_width_gives_the_same_bytes_at_the_sizes_of_photographs() {
    // The sizes range from enlarging to shrinking by more than the AVX-512 kernel can.
    for (height, width) in [(97, 61), (224, 300), (301, 224), (375, 500), (900, 953), (700, 1400)] {
        let from = Size { height, width };
        let data = pixels(from, 17);
        let source = View::new(&data, from);
        for (filter, flip) in FILTERS.into_iter().zip([false, true].into_iter().cycle()) {
            let to = Resample { flip, ..Resample::whole(Size::square(224), filter) };
            let plain = resized(Simd::SCALAR, source, &to);
            for simd in Simd::all() {
                assert!(resized(simd, source, &to) == plain, "{simd:?} {from:?} {filter:?} {flip}");
            }
        }
    }
}

#[test]
fn weights_fit_three_signed_digits() {
    let mut weights = Weights::default();
    for (source, resized) in
        (1..60).flat_map(|source| (1..60).map(move |resized| (source, resized)))
    {
        for filter in FILTERS.into_iter().filter(|filter| *filter != ResizeFilter::Nearest) {
            let axis = Axis { source, resized, window: 0..resized, filter, mirrored: false };
            weights.fill(Simd::detect(), &axis);
            assert!(weights.values.iter().all(|weight| weight.abs() < 127 << 16), "{axis:?}");
        }
    }
}
