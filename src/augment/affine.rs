//! Rotate, shear and translate: `Image.rotate` and `Image.transform` with an affine matrix. This
//! file derives the matrix; [`warp`](super::warp) applies it.
//!
//! Source: Pillow 12, `Image.py` (`rotate`, `transform`), `src/libImaging/Geometry.c`; timm's
//! `rotate`, `shear_x`, `shear_y`, `translate_x_abs`, `translate_x_rel` and those of y;
//! torchvision's `_get_inverse_affine_matrix`.

use super::angle::{cos_sin, shear_x, shear_y};
use super::nearest;
use super::sampler::{Affine, Degree};
use super::transform::Transform;
use super::warp::{WarpBuffers, warp};
use crate::geometry::{Interpolation, Size, View};
use crate::ops::Effect;
use crate::simd::Simd;

/// The effect of a geometric operation.
#[derive(Debug, PartialEq)]
enum Motion {
    None,
    /// This many quarter turns counter-clockwise, which move pixels without interpolation.
    QuarterTurns(u32),
    Affine(Affine, Interpolation),
}

/// Writes the result of a geometric operation to `out`, which is a copy of `source` so far.
///
/// # Panics
/// Panics if the operation is not a geometric one.
pub(super) fn apply(
    simd: Simd,
    effect: &Effect,
    source: View<'_>,
    fill: [u8; 3],
    out: &mut [u8],
    buffers: &mut WarpBuffers,
) {
    match motion(effect, source.size()) {
        Motion::None => {}
        Motion::QuarterTurns(turns) => quarter_turns(source, turns, out),
        Motion::Affine(affine, filter) => {
            let filter = match filter {
                Interpolation::Nearest => return nearest::transform(source, affine, fill, out),
                Interpolation::Bilinear => Degree::Linear,
                Interpolation::Bicubic => Degree::Cubic,
            };
            warp(simd, &Transform { source, affine, filter, fill }, out, buffers);
        }
    }
}

fn motion(effect: &Effect, size: Size) -> Motion {
    let (width, height) = (f64::from(size.width), f64::from(size.height));
    let (matrix, filter) = match *effect {
        Effect::Rotate(degrees, filter) => match degrees.rem_euclid(360.0) {
            0.0 => return Motion::None,
            180.0 => return Motion::QuarterTurns(2),
            90.0 if size.width == size.height => return Motion::QuarterTurns(1),
            270.0 if size.width == size.height => return Motion::QuarterTurns(3),
            degrees => (rotation(degrees, size), filter),
        },
        Effect::ShearX(factor, filter) => ([1.0, factor, 0.0, 0.0, 1.0, 0.0], filter),
        Effect::ShearY(factor, filter) => ([1.0, 0.0, 0.0, factor, 1.0, 0.0], filter),
        Effect::TorchShearX(magnitude, filter) => {
            ([1.0, shear_x(magnitude), 0.0, 0.0, 1.0, 0.0], filter)
        }
        Effect::TorchShearY(magnitude, filter) => {
            ([1.0, 0.0, 0.0, shear_y(magnitude), 1.0, 0.0], filter)
        }
        Effect::TranslateX(pixels, filter) => ([1.0, 0.0, pixels, 0.0, 1.0, 0.0], filter),
        Effect::TranslateY(pixels, filter) => ([1.0, 0.0, 0.0, 0.0, 1.0, pixels], filter),
        Effect::TranslateXRel(part, filter) => ([1.0, 0.0, part * width, 0.0, 1.0, 0.0], filter),
        Effect::TranslateYRel(part, filter) => ([1.0, 0.0, 0.0, 0.0, 1.0, part * height], filter),
        _ => panic!("{effect:?} is not geometric"),
    };
    match matrix {
        [1.0, 0.0, 0.0, 0.0, 1.0, 0.0] => Motion::None,
        matrix => Motion::Affine(Affine(matrix), filter),
    }
}

/// The matrix of a rotation about the center of the image.
fn rotation(degrees: f64, size: Size) -> [f64; 6] {
    let (x, y) = (f64::from(size.width) / 2.0, f64::from(size.height) / 2.0);
    let angle = -degrees.to_radians();
    let (cos, sin) = cos_sin(angle);
    let (a, b, d, e) = (round15(cos), round15(sin), round15(-sin), round15(cos));
    [a, b, a * -x + b * -y + x, d, e, d * -x + e * -y + y]
}

/// Python's `round(value, 15)`, which goes through the decimal digits.
fn round15(value: f64) -> f64 {
    format!("{value:.15}").parse().expect("formatted digits are a number")
}

/// Turns the image counter-clockwise by quarter turns. For one or three, it must be square.
fn quarter_turns(source: View<'_>, turns: u32, out: &mut [u8]) {
    let Size { height, width } = source.size();
    for (y, row) in (0..height).zip(out.chunks_exact_mut(width as usize * 3)) {
        for (x, pixel) in (0..width).zip(row.as_chunks_mut::<3>().0) {
            let (from_y, from_x) = match turns {
                1 => (x, width - 1 - y),
                2 => (height - 1 - y, width - 1 - x),
                _ => (height - 1 - x, y),
            };
            pixel.copy_from_slice(&source.row(from_y)[from_x as usize * 3..][..3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_to_15_decimals_matches_python() {
        for (value, rounded) in [
            (0.5, 0.5),
            (0.123_456_789_012_345_67, 0.123_456_789_012_346),
            (-1e-16, -0.0),
            (0.866_025_403_784_438_7, 0.866_025_403_784_439),
        ] {
            assert_eq!(round15(value).to_bits(), f64::to_bits(rounded), "{value}");
        }
    }

    #[test]
    fn whole_turns_and_zero_factors_do_nothing() {
        let size = Size { height: 4, width: 6 };
        let filter = Interpolation::Bicubic;
        for effect in [
            Effect::Rotate(-720.0, filter),
            Effect::ShearX(0.0, filter),
            Effect::TranslateYRel(0.0, filter),
        ] {
            assert_eq!(motion(&effect, size), Motion::None, "{effect:?}");
        }
        assert_eq!(motion(&Effect::Rotate(-180.0, filter), size), Motion::QuarterTurns(2));
        assert!(matches!(motion(&Effect::Rotate(90.0, filter), size), Motion::Affine(..)));
    }
}
