//! Blends of the image with a degenerate version of it: `ImageEnhance`.
//!
//! Source: Pillow 12, `src/libImaging/Blend.c`, `Convert.c` (`L24`), `Filter.c` (`ImagingFilter3x3`
//! with `ImageFilter.SMOOTH`).

use crate::geometry::Size;
use crate::simd::{Simd, kernel};

/// `degenerate + factor * (value - degenerate)` in single precision, clamped and truncated.
pub(super) fn mix(degenerate: u8, value: u8, factor: f64) -> u8 {
    mix_single(degenerate, value, single(factor))
}

/// The factor as Pillow's C function receives it.
#[expect(clippy::cast_possible_truncation, reason = "Pillow rounds it to single precision")]
fn single(factor: f64) -> f32 {
    factor as f32
}

#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
pub(super) fn mix_single(degenerate: u8, value: u8, factor: f32) -> u8 {
    let difference = f32::from(i16::from(value) - i16::from(degenerate));
    truncate(f32::from(degenerate) + factor * difference)
}

/// Clamps to `0..=255` and truncates. NaN becomes 0.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
pub(super) fn truncate(value: f32) -> u8 {
    // Each comparison is one instruction, `max` or `min`, and drops NaN; `clamp` would keep NaN.
    let value = if value > 0.0 { value } else { 0.0 };
    let value = if value < 255.0 { value } else { 255.0 };
    #[expect(unsafe_code, reason = "the checked conversion is not vectorized well")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 255")]
    // SAFETY: the value is between 0 and 255, and not NaN.
    unsafe {
        value.to_int_unchecked::<i32>() as u8
    }
}

/// Pillow's gray: ITU-R 601-2 luma in 16-bit fixed point.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
pub(super) fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let sum = u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471;
    #[expect(clippy::cast_possible_truncation, reason = "the weights add up to 2^16")]
    {
        ((sum + 0x8000) >> 16) as u8
    }
}

kernel! {
    /// Blends `base` with `values` (`Image.blend`).
    pub(super) fn blend(factor: f32, base: &mut [u8], values: &[u8]) {
        for (base, value) in base.iter_mut().zip(values) {
            *base = mix_single(*base, *value, factor);
        }
    }
}

/// Blends with the gray image.
pub(super) fn color(simd: Simd, pixels: &mut [u8], factor: f64) {
    color_single(simd, pixels, single(factor));
}

kernel! {
    // Without AVX-512, whose code for spreading each gray value over three bytes takes half as long
    // again.
    [avx2]
    fn color_single(pixels: &mut [u8], factor: f32) {
        /// A multiple of the bytes of a pixel and of a vector.
        const BLOCK: usize = 96;
        for block in pixels.chunks_mut(BLOCK) {
            let mut gray = [0; BLOCK];
            for (gray, pixel) in gray.as_chunks_mut::<3>().0.iter_mut().zip(block.as_chunks().0) {
                *gray = [luma(*pixel); 3];
            }
            for (value, gray) in block.iter_mut().zip(gray) {
                *value = mix_single(gray, *value, factor);
            }
        }
    }
}

/// Blends `source` with a smoothed version of itself. The outermost pixels keep their values.
pub(super) fn sharpness(simd: Simd, source: &[u8], size: Size, out: &mut [u8], factor: f64) {
    let stride = size.width as usize * 3;
    if size.width < 3 || size.height < 3 {
        return;
    }
    for (rows, out) in
        source.windows(3 * stride).step_by(stride).zip(out[stride..].chunks_exact_mut(stride))
    {
        sharpen_row(simd, rows, &mut out[3..stride - 3], single(factor));
    }
}

kernel! {
    /// Computes one row without its first and last pixel, from three whole rows.
    fn sharpen_row(rows: &[u8], out: &mut [u8], factor: f32) {
        let stride = rows.len() / 3;
        let count = out.len();
        // The byte itself and its neighbors of the same channel, by row and column from top left.
        let at = |row: usize, column: usize| &rows[row * stride + column * 3..][..count];
        let above = [at(0, 0), at(0, 1), at(0, 2)];
        let (left, center, right) = (at(1, 0), at(1, 1), at(1, 2));
        let below = [at(2, 0), at(2, 1), at(2, 2)];
        for index in 0..count {
            let sum = |row: &[&[u8]]| row.iter().map(|v| u16::from(v[index])).sum::<u16>();
            let value = center[index];
            let total = sum(&above) + sum(&[left, right]) + sum(&below) + 5 * u16::from(value);
            out[index] = mix_single(smooth(total), value, factor);
        }
    }
}

/// The smoothed value: `total / 13`, rounded.
///
/// Pillow adds nine products in single precision to 0.5 and truncates. The exact value,
/// `total / 13 + 1 / 2`, is an odd multiple of 1/26, so at least 1/26 away from any whole number. The
/// rounding errors of the products add up to less than 1/1000. Integer arithmetic therefore gives
/// the same result.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "13 weights")]
fn smooth(total: u16) -> u8 {
    ((total + 6) / 13) as u8
}
