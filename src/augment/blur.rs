//! A blur by a Gaussian, which Pillow approximates by three box blurs along each axis.
//!
//! Source: Pillow 12, `src/libImaging/BoxBlur.c` (`ImagingGaussianBlur`, `ImagingLineBoxBlur32`).
//! A box of radius r + f, of which f is less than 1, has 2r + 1 whole pixels and a part of the two
//! pixels beside them:
//!
//! ```text
//!   part  [ whole .. whole  center  whole .. whole ]  part       beyond an edge: the pixel at the edge
//! ```
//!
//! Pillow moves a sum along each line, and turns the image to blur columns. The sums are of whole
//! numbers, so the order does not matter. The boxes of augmentation have at most five pixels, so each sum
//! is taken anew here, from shifted lines on both axes, which compilers turn into vectors.

use crate::geometry::Size;
use crate::simd::{Simd, kernel};

/// Box blurs along each axis.
const PASSES: usize = 3;

/// The weights of a box in 24-bit fixed point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BoxWeights {
    radius: usize,
    /// Of each of the `2 * radius + 1` whole pixels.
    whole: u32,
    /// Of each of the two pixels beside them.
    part: u32,
}

impl BoxWeights {
    /// The box of a Gaussian with the given standard deviation, in the precision of Pillow's steps.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "Pillow rounds to single precision, and truncates radius and weight"
    )]
    fn of_gaussian(deviation: f64) -> Self {
        let deviation = deviation as f32;
        let variance = deviation * deviation / PASSES as f32;
        let length = f64::sqrt(12.0 * f64::from(variance) + 1.0) as f32;
        let whole = f64::floor((f64::from(length) - 1.0) / 2.0) as f32;
        let mut part = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
        part /= 6.0 * (variance - (whole + 1.0) * (whole + 1.0));
        let total = whole + part;
        let radius = total as usize;
        let weight = ((1 << 24) as f32 / (total * 2.0 + 1.0)) as u32;
        let rest = (1_u32 << 24).wrapping_sub((radius as u32 * 2 + 1).wrapping_mul(weight));
        Self { radius, whole: weight, part: rest / 2 }
    }
}

/// Blurs `pixels` by a Gaussian with the given standard deviation. `other` is memory of the same size, and
/// `line` of a row.
pub(super) fn gaussian(
    simd: Simd,
    [pixels, other]: [&mut [u8]; 2],
    line: &mut Vec<u8>,
    size: Size,
    deviation: f64,
) {
    // Pillow copies the image.
    if deviation == 0.0 {
        return;
    }
    let weights = BoxWeights::of_gaussian(deviation);
    let stride = size.width as usize * 3;
    let (mut from, mut to) = (pixels, other);
    // The number of passes is even, so that the last one ends where the first one began.
    for pass in 0..2 * PASSES {
        for (y, out) in to.chunks_exact_mut(stride).enumerate() {
            if pass < PASSES {
                repeat_ends(&from[y * stride..][..stride], weights.radius + 1, line);
                blur_row(simd, weights, line, out);
            } else {
                blur_column(simd, weights, from, y, out);
            }
        }
        std::mem::swap(&mut from, &mut to);
    }
}

/// Copies a row and repeats the pixel at each end.
fn repeat_ends(row: &[u8], times: usize, line: &mut Vec<u8>) {
    line.clear();
    (0..times).for_each(|_| line.extend_from_slice(&row[..3]));
    line.extend_from_slice(row);
    (0..times).for_each(|_| line.extend_from_slice(&row[row.len() - 3..]));
}

kernel! {
    /// Blurs a row, whose ends are repeated, along itself.
    fn blur_row(weights: BoxWeights, line: &[u8], out: &mut [u8]) {
        blur_line(weights, |tap| &line[tap * 3..], out);
    }
}

kernel! {
    /// Blurs row `y` of an image across rows.
    fn blur_column(weights: BoxWeights, pixels: &[u8], y: usize, out: &mut [u8]) {
        let stride = out.len();
        let last = pixels.len() / stride - 1;
        let row = |tap: usize| (y + tap).saturating_sub(weights.radius + 1).min(last);
        blur_line(weights, |tap| &pixels[row(tap) * stride..], out);
    }
}

/// Blurs a line of bytes. `tap` returns the line that begins with the first, the second, .. pixel of the
/// first box.
#[inline(always)]
fn blur_line<'a>(weights: BoxWeights, tap: impl Fn(usize) -> &'a [u8], out: &mut [u8]) {
    const BLOCK: usize = 64;
    let last = 2 * weights.radius + 2;
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let at = |index: usize| &tap(index)[block * BLOCK..][..out.len()];
        let (first, last_line) = (at(0), at(last));
        let mut sums = [0_u16; BLOCK];
        for index in 1..last {
            for (sum, value) in sums.iter_mut().zip(at(index)) {
                *sum += u16::from(*value);
            }
        }
        for (((out, sum), a), b) in out.iter_mut().zip(sums).zip(first).zip(last_line) {
            *out = weigh(weights, sum, u16::from(*a) + u16::from(*b));
        }
    }
}

/// The rounded mean of a box: the sum of its whole pixels, and of those that it has a part of.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
fn weigh(weights: BoxWeights, whole: u16, parts: u16) -> u8 {
    let whole = u32::from(whole).wrapping_mul(weights.whole);
    let value = whole.wrapping_add(u32::from(parts).wrapping_mul(weights.part));
    (value.wrapping_add(1 << 23) >> 24) as u8
}
