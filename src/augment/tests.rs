use proptest::prelude::*;

use super::sampler::{Affine, Degree};
use super::transform::{Transform, exactly};
use super::warp::warp;
use super::*;
use crate::geometry::Interpolation;
use crate::jitter::ColorOp;
use crate::ops::{Drawn, Effect, Hparams, TimmOp};

const FILTERS: [Interpolation; 3] =
    [Interpolation::Nearest, Interpolation::Bilinear, Interpolation::Bicubic];
const FILL: [u8; 3] = [124, 116, 104];

/// Noise, or patches of equal pixels as in photographs.
fn pixels(size: Size, seed: u64) -> Vec<u8> {
    let patch = if seed.is_multiple_of(2) { 1 } else { 9 };
    let mut state = seed | 1;
    let mut last = [0; 3];
    let mut next = |index: u32| {
        if index.is_multiple_of(patch) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            last =
                if state >> 62 == 0 { [255; 3] } else { [0, 1, 2].map(|c| state.to_le_bytes()[c]) };
        }
        last
    };
    (0..size.height * size.width).flat_map(&mut next).collect()
}

fn applied(simd: Simd, ops: &[Op], size: Size, pixels: &[u8]) -> Vec<u8> {
    let mut slot = pixels.to_vec();
    Augmenter::new(simd).apply(ops, &mut slot, size, FILL);
    slot
}

fn size() -> impl Strategy<Value = Size> {
    (1..=50_u32, 1..=50_u32).prop_map(|(height, width)| Size { height, width })
}

fn op() -> impl Strategy<Value = Op> {
    let hparams = Hparams { translate_const: 20.0, translate_pct: 0.45 };
    let kind = prop::sample::select(TimmOp::ALL.to_vec());
    (kind, 0.0..=10.0, any::<bool>(), 0.0..1.0, prop::sample::select(FILTERS.to_vec())).prop_map(
        move |(kind, magnitude, negative, radius, filter)| {
            kind.at(magnitude, &hparams, &Drawn { negative, radius, filter })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn every_vector_width_gives_the_same_bytes(size in size(), seed in any::<u64>(), op in op()) {
        let pixels = pixels(size, seed);
        let plain = applied(Simd::SCALAR, &[op], size, &pixels);
        for simd in Simd::all() {
            prop_assert_eq!(&applied(simd, &[op], size, &pixels), &plain, "{:?}", simd);
        }
    }

    #[test]
    fn estimates_equal_every_pixel_computed_exactly(
        size in size(), seed in any::<u64>(), cubic in any::<bool>(), kind in 0..5_u32, amount in -1.2..1.2,
    ) {
        let filter = if cubic { Degree::Cubic } else { Degree::Linear };
        let (cos, sin) = (f64::cos(amount), f64::sin(amount));
        let affine = Affine(match kind {
            0 => [1.0, amount, 0.0, 0.0, 1.0, 0.0],
            1 => [1.0, 0.0, 0.0, amount, 1.0, 0.0],
            2 => [1.0, 0.0, amount * f64::from(size.width), 0.0, 1.0, 0.0],
            3 => [1.0, 0.0, 0.0, 0.0, 1.0, amount * f64::from(size.height)],
            _ => [cos, sin, amount * 5.0, -sin, cos, 3.0],
        });
        let pixels = pixels(size, seed);
        let transform = Transform { source: View::new(&pixels, size), affine, filter, fill: FILL };
        let (mut exact, mut fast) = (vec![0; pixels.len()], vec![1; pixels.len()]);
        exactly(&transform, &mut exact);
        for simd in Simd::all() {
            warp(simd, &transform, &mut fast, &mut WarpBuffers::default());
            prop_assert_eq!(&exact, &fast, "{:?}", simd);
        }
    }

    #[test]
    fn every_vector_width_gives_the_same_colors(
        height in 12..30_u32, width in 12..40_u32, seed in any::<u64>(), kind in 0..6_usize, part in 0.0..1.0,
    ) {
        let size = Size { height, width };
        let op = [
            ColorOp::Brightness(2.0 * part),
            ColorOp::Contrast(2.0 * part),
            ColorOp::Saturation(2.0 * part),
            ColorOp::Hue(part - 0.5),
            ColorOp::Grayscale,
            ColorOp::GaussianBlur(0.1 + 1.9 * part),
        ][kind];
        let colored = |simd| {
            let mut slot = pixels(size, seed);
            Augmenter::new(simd).apply_color(&[op], &mut slot, size);
            slot
        };
        let plain = colored(Simd::SCALAR);
        for simd in Simd::all() {
            prop_assert_eq!(&colored(simd), &plain, "{:?} {:?}", simd, op);
        }
    }

    #[test]
    fn composed_operations_equal_operations_one_by_one(
        size in size(), seed in any::<u64>(), ops in prop::collection::vec(op(), 2..5),
    ) {
        let pixels = pixels(size, seed);
        let mut one_by_one = pixels.clone();
        for op in &ops {
            one_by_one = applied(Simd::detect(), &[*op], size, &one_by_one);
        }
        prop_assert_eq!(applied(Simd::detect(), &ops, size, &pixels), one_by_one);
    }
}

#[test]
fn extreme_arguments_do_not_panic() {
    let size = Size { height: 5, width: 4 };
    let pixels = pixels(size, 8);
    for arg in [-1e300, -1e9, -3.0, 1e-300, 2.5, 1e9, f64::MAX] {
        for filter in FILTERS {
            for simd in Simd::all() {
                let ops = [
                    Effect::Rotate(arg, filter),
                    Effect::ShearX(arg, filter),
                    Effect::ShearY(arg, filter),
                    Effect::TorchShearX(arg.clamp(-10.0, 10.0), filter),
                    Effect::TorchShearY(arg.clamp(-10.0, 10.0), filter),
                    Effect::TranslateX(arg, filter),
                    Effect::TranslateY(arg, filter),
                    Effect::TranslateXRel(arg, filter),
                    Effect::TranslateYRel(arg, filter),
                    Effect::Color(arg),
                    Effect::Contrast(arg),
                    Effect::Brightness(arg),
                    Effect::Sharpness(arg),
                ];
                for op in ops.map(Effect::op) {
                    assert_eq!(applied(simd, &[op], size, &pixels).len(), pixels.len(), "{op:?}");
                }
            }
        }
    }
}

#[test]
fn integer_smoothing_equals_the_single_precision_of_pillow() {
    let (one, five) = (1.0_f32 / 13.0, 5.0_f32 / 13.0);
    // All sums of a pixel and of equal pixels around it.
    for around in 0..=255_u8 {
        for center in 0..=255_u8 {
            let size = Size::square(3);
            let mut pixels = vec![around; 27];
            pixels[12..15].fill(center);
            let [a, c] = [f32::from(around), f32::from(center)];
            let side = a * one + a * one + a * one;
            let sum = 0.5_f32 + side + (a * one + c * five + a * one) + side;
            let expected = blend::mix(blend::truncate(sum), center, 1.63);
            let mut out = pixels.clone();
            blend::sharpness(Simd::SCALAR, &pixels, size, &mut out, 1.63);
            assert_eq!(out[12..15], [expected; 3]);
        }
    }
}
