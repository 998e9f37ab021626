//! Blends of the image with a degenerate one: `ImageEnhance`.
//!
//! Source: Pillow 12, `src/libImaging/Blend.c`, `Convert.c` (`L24`), `Filter.c` (`ImagingFilter3x3`
//! with `ImageFilter.SMOOTH`).

use crate::sample::Size;
use crate::simd::{Simd, kernel};

/// `degenerate + factor * (value - degenerate)` in single precision, clamped and truncated.
pub(super) fn mix(degenerate: u8, value: u8, factor: f64) -> u8 {
    mix_single(degenerate, value, single(factor))
}

/// The factor as Pillow's C function gets it.
#[expect(clippy::cast_possible_truncation, reason = "Pillow rounds it so")]
fn single(factor: f64) -> f32 {
    factor as f32
}

#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
fn mix_single(degenerate: u8, value: u8, factor: f32) -> u8 {
    let difference = f32::from(i16::from(value) - i16::from(degenerate));
    truncate(f32::from(degenerate) + factor * difference)
}

/// Clamps to `0..=255` and truncates; not-a-number gives 0.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
pub(super) fn truncate(value: f32) -> u8 {
    // Compared so, each is one instruction; `clamp` would keep not-a-number.
    let value = if value > 0.0 { value } else { 0.0 };
    let value = if value < 255.0 { value } else { 255.0 };
    #[expect(unsafe_code, reason = "the checked conversion is not vectorised well")]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 255")]
    // SAFETY: the value is a number from 0 to 255.
    unsafe {
        value.to_int_unchecked::<i32>() as u8
    }
}

/// Pillow's grey: ITU-R 601-2 luma in 16-bit fixed point.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
pub(super) fn luma([red, green, blue]: [u8; 3]) -> u8 {
    let sum = u32::from(red) * 19595 + u32::from(green) * 38470 + u32::from(blue) * 7471;
    #[expect(clippy::cast_possible_truncation, reason = "the weights add up to 2^16")]
    {
        ((sum + 0x8000) >> 16) as u8
    }
}

/// Blends with the image in grey.
pub(super) fn color(simd: Simd, pixels: &mut [u8], factor: f64) {
    // To spread each grey over three bytes, the compiler's AVX-512 takes half as long again.
    color_single(simd.at_most_avx2(), pixels, single(factor));
}

kernel! {
    fn color_single(pixels: &mut [u8], factor: f32) {
        /// A whole number of pixels and of vectors.
        const BLOCK: usize = 96;
        for block in pixels.chunks_mut(BLOCK) {
            let mut grey = [0; BLOCK];
            for (grey, pixel) in grey.as_chunks_mut::<3>().0.iter_mut().zip(block.as_chunks().0) {
                *grey = [luma(*pixel); 3];
            }
            for (value, grey) in block.iter_mut().zip(grey) {
                *value = mix_single(grey, *value, factor);
            }
        }
    }
}

/// Blends `source` with its smoothed self. The outermost pixels keep their values.
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
    /// One row without its first and last pixel, from three whole rows.
    fn sharpen_row(rows: &[u8], out: &mut [u8], factor: f32) {
        let stride = rows.len() / 3;
        let count = out.len();
        // The byte itself and its neighbours of the same channel: (row, column) from top left.
        let at = |row: usize, column: usize| &rows[row * stride + column * 3..][..count];
        let (above, beside, below) = ([at(0, 0), at(0, 1), at(0, 2)], [at(1, 0), at(1, 2)], [at(2, 0), at(2, 1), at(2, 2)]);
        let centre = at(1, 1);
        for index in 0..count {
            let sum = |row: &[&[u8]]| row.iter().map(|v| u16::from(v[index])).sum::<u16>();
            let value = centre[index];
            let total = sum(&above) + sum(&beside) + sum(&below) + 5 * u16::from(value);
            out[index] = mix_single(smooth(total), value, factor);
        }
    }
}

/// The smoothed value: a weighted sum over 13, rounded.
///
/// Pillow adds nine products in single precision to 0.5 and truncates. A sum over 13 plus a half is
/// never nearer than 1/26 to a whole number, and the products' rounding errors together stay below
/// 1/1000, so whole numbers give the same.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "13 weights")]
fn smooth(total: u16) -> u8 {
    ((total + 6) / 13) as u8
}
