//! Affine transforms: a fast estimate of every pixel, and Pillow's arithmetic where it could matter.
//!
//! Pillow interpolates in double precision and truncates the result. To be bit-equal, the fast path
//! does not have to compute the same value, it only has to truncate to the same byte. So it
//! estimates the value in single precision, with a known bound on the error, [`MARGIN`]:
//!
//! ```text
//!      n                                   n + 1
//!   ---|-------------------------------------|---     between the brackets, the exact value and
//!     [ ]                                   [ ]       the estimate truncate to the same byte, n
//!                                                     inside the brackets, the estimate is doubtful
//! ```
//!
//! Pixels with a doubtful byte are computed as Pillow does ([`sampler`](super::sampler)).
//!
//! The estimate of a byte, from its four neighbors v1 to v4 along one axis, where v2 is its center
//! and the weights of all four add up to 1:
//!
//! ```text
//!   value = v2 + w1 * (v1 - v2) + w3 * (v3 - v2) + w4 * (v4 - v2)
//! ```
//!
//! Flat areas would be doubtful everywhere, because their values are whole numbers. There, all
//! differences are zero in Pillow too, and the estimate is exact. About one byte in a thousand
//! remains doubtful.
//!
//! The bound: weights and products are rounded to 2^-24, values are at most 255 and weights at most
//! 1, so each of six operations adds less than 2^-15 to the error, and `MARGIN` is 2^-11. Rounding
//! may place a point on the other side of an edge between two pixels than Pillow does. The
//! interpolation is continuous there, so the estimate still holds.
//!
//! Shears and translations interpolate along one axis only, with weights that are the same for a
//! whole row or, for a vertical shear, for a whole column: these loops are here. Rotations need 16
//! neighbors (`rotate_avx2.rs`).

use super::blend::truncate;
use super::sampler::Degree;
use super::transform::{Transform, exactly};
use crate::scratch::{bytes_of, fit};
use crate::simd::{Simd, kernel};

/// The bound on the error of an estimate. Estimates nearer than this to a whole number are doubtful.
const MARGIN: f32 = 1.0 / 2048.0;

/// 1.5 * 2^23: adding and subtracting it rounds to the nearest whole number.
const ROUND: f32 = 12_582_912.0;

/// Memory that transforms reuse.
#[derive(Debug, Default)]
pub(super) struct WarpBuffers {
    /// Whether the estimate of each byte of a row is doubtful.
    doubtful: Vec<bool>,
    /// A row with its ends repeated.
    pub(super) line: Vec<u8>,
    /// The image with each column shifted by a whole number of rows.
    shifted: Vec<u8>,
    /// The shift of each column: whole rows, and the fraction.
    shifts: Vec<(isize, f64)>,
    /// Weights of v1, v3 and v4 for each byte of a row.
    weights: [Vec<f32>; 3],
    #[cfg(target_arch = "x86_64")]
    rotation: super::rotate_avx2::WideSource,
}

impl WarpBuffers {
    /// The bytes that they keep, without those of single rows.
    pub(super) fn held_bytes(&self) -> usize {
        #[cfg(target_arch = "x86_64")]
        let rotation = self.rotation.held_bytes();
        #[cfg(not(target_arch = "x86_64"))]
        let rotation = 0;
        bytes_of(&self.shifted) + rotation
    }
}

/// Writes the transformed image to `out`.
pub(super) fn warp(
    simd: Simd,
    transform: &Transform<'_>,
    out: &mut [u8],
    buffers: &mut WarpBuffers,
) {
    match transform.affine.0 {
        [1.0, _, _, 0.0, 1.0, 0.0] => shift_along_rows(simd, transform, out, buffers),
        [1.0, 0.0, 0.0, 0.0, 1.0, _] => shift_whole_rows(simd, transform, out, buffers),
        [1.0, 0.0, 0.0, _, 1.0, 0.0] => shift_along_columns(simd, transform, out, buffers),
        _ => {
            #[cfg(target_arch = "x86_64")]
            if let Some(avx2) = simd.avx2() {
                return super::rotate_avx2::warp(avx2, transform, out, &mut buffers.rotation);
            }
            exactly(transform, out);
        }
    }
}

/// Shifts each row along itself: horizontal translation and shear.
fn shift_along_rows(
    simd: Simd,
    transform: &Transform<'_>,
    out: &mut [u8],
    buffers: &mut WarpBuffers,
) {
    /// The number of pixels that repeat each end: a cubic needs two, rounding of the position one.
    const ENDS: usize = 3;
    let width = transform.source.size().width as usize * 3;
    for (y, inside, row) in transform.rows(out) {
        if inside.is_empty() {
            continue;
        }
        let source = transform.source.row(y);
        buffers.line.clear();
        (0..ENDS).for_each(|_| buffers.line.extend_from_slice(&source[..3]));
        buffers.line.extend_from_slice(source);
        (0..ENDS).for_each(|_| buffers.line.extend_from_slice(&source[width - 3..]));

        let (shift, fraction) = split(transform.affine.column(0, y) - 0.5);
        let (start, end) = (inside.start as usize * 3, inside.end as usize * 3);
        let first = inside.start as usize + ENDS - 1;
        let first = first.checked_add_signed(shift).expect("inside the source") * 3;
        let taps =
            taps(transform.filter).map(|tap| &buffers.line[first + tap * 3..][..end - start]);
        buffers.doubtful.resize(width, false);
        let doubtful = &mut buffers.doubtful[start..end];
        estimate(simd, taps, weights(fraction, transform.filter), &mut row[start..end], doubtful);
        transform.correct(y, inside.start, &mut row[start..end], doubtful);
    }
}

/// Shifts rows as a whole: vertical translation.
fn shift_whole_rows(
    simd: Simd,
    transform: &Transform<'_>,
    out: &mut [u8],
    buffers: &mut WarpBuffers,
) {
    let size = transform.source.size();
    buffers.doubtful.resize(size.width as usize * 3, false);
    for (y, inside, row) in transform.rows(out) {
        if inside.is_empty() {
            continue;
        }
        let (shift, fraction) = split(transform.affine.row(0, y) - 0.5);
        let row_at = |tap: usize| clamp(shift + tap.cast_signed() - 1, size.height);
        let taps = taps(transform.filter).map(|tap| transform.source.row(row_at(tap)));
        estimate(simd, taps, weights(fraction, transform.filter), row, &mut buffers.doubtful);
        transform.correct(y, 0, row, &buffers.doubtful);
    }
}

/// Shifts each column along itself: vertical shear. Columns are first shifted by whole rows, so that
/// the four neighbors of every byte are in the same four rows, as the estimate of a row needs.
fn shift_along_columns(
    simd: Simd,
    transform: &Transform<'_>,
    out: &mut [u8],
    buffers: &mut WarpBuffers,
) {
    let size = transform.source.size();
    let width = size.width as usize * 3;
    buffers.shifts.clear();
    buffers.shifts.extend((0..size.width).map(|x| split(transform.affine.row(x, 0) - 0.5)));
    for (index, list) in buffers.weights.iter_mut().enumerate() {
        let weight = |(_, fraction): &(isize, f64)| weights(*fraction, transform.filter)[index];
        list.clear();
        list.extend(buffers.shifts.iter().flat_map(|shift| [weight(shift); 3]));
    }
    // The cubic reaches one row above the image and two rows below it.
    let rows = size.height as usize + 3;
    fit(&mut buffers.shifted, rows * width, 0);
    for (y, row) in (-1..).zip(buffers.shifted.chunks_exact_mut(width)) {
        for ((x, pixel), (shift, _)) in (0..).zip(row.as_chunks_mut::<3>().0).zip(&buffers.shifts) {
            let row = transform.source.row(clamp(shift.saturating_add(y), size.height));
            pixel.copy_from_slice(&row[x * 3..][..3]);
        }
    }
    buffers.doubtful.resize(width, false);
    for (y, inside, row) in transform.rows(out) {
        if inside.is_empty() {
            continue;
        }
        let (start, end) = (inside.start as usize * 3, inside.end as usize * 3);
        let tap = |tap: usize| &buffers.shifted[(y as usize + tap) * width..][start..end];
        let taps = taps(transform.filter).map(tap);
        let [w1, w3, w4] = &buffers.weights;
        let weights = [&w1[start..end], &w3[start..end], &w4[start..end]];
        let doubtful = &mut buffers.doubtful[start..end];
        estimate_each(simd, taps, weights, &mut row[start..end], doubtful);
        transform.correct(y, inside.start, &mut row[start..end], doubtful);
    }
}

/// The neighbors that are v1 to v4, by their index. Where a weight is zero, it is the index of v2, so
/// that a neighbor that does not matter cannot make a flat area doubtful.
const fn taps(filter: Degree) -> [usize; 4] {
    match filter {
        Degree::Linear => [1, 1, 2, 1],
        Degree::Cubic => [0, 1, 2, 3],
    }
}

/// Splits a position into whole pixels and the fraction.
#[expect(
    clippy::cast_possible_truncation,
    reason = "saturates only where no pixel is inside the source"
)]
fn split(position: f64) -> (isize, f64) {
    let whole = position.floor();
    (whole as isize, position - whole)
}

/// Clamps a position to `0..count`, which is not empty.
fn clamp(position: isize, count: u32) -> u32 {
    u32::try_from(position.max(0)).unwrap_or(u32::MAX).min(count - 1)
}

/// The weights of v1, v3 and v4 at a fraction of a pixel after v2.
#[expect(clippy::cast_possible_truncation, reason = "an estimate")]
fn weights(d: f64, filter: Degree) -> [f32; 3] {
    match filter {
        Degree::Linear => [0.0, d as f32, 0.0],
        Degree::Cubic => [
            (d * (-1.0 + d * (2.0 - d))) as f32,
            (d * (1.0 + d * (1.0 - d))) as f32,
            (d * d * (d - 1.0)) as f32,
        ],
    }
}

/// The truncated estimate from v1 to v4, and whether it is doubtful.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
fn estimate_one([v1, center, v3, v4]: [u8; 4], [w1, w3, w4]: [f32; 3]) -> (u8, bool) {
    let difference = |value: u8| i16::from(value) - i16::from(center);
    let (d1, d3, d4) = (difference(v1), difference(v3), difference(v4));
    let change = w1 * f32::from(d1) + w3 * f32::from(d3) + w4 * f32::from(d4);
    let value = f32::from(center) + change;
    // `&&` would be a branch.
    let doubtful = u8::from(near_whole(value)) & u8::from((d1 | d3 | d4) != 0);
    (truncate(value), doubtful != 0)
}

/// Whether a value, at most a few thousand in magnitude, is nearer than the margin to a whole number.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
fn near_whole(value: f32) -> bool {
    (value - ((value + ROUND) - ROUND)).abs() < MARGIN
}

kernel! {
    /// Estimates a row of bytes with common weights.
    fn estimate(taps: [&[u8]; 4], weights: [f32; 3], out: &mut [u8], doubtful: &mut [bool]) {
        let count = out.len();
        let [v1, v2, v3, v4] = taps.map(|tap| &tap[..count]);
        let doubtful = &mut doubtful[..count];
        for i in 0..count {
            (out[i], doubtful[i]) = estimate_one([v1[i], v2[i], v3[i], v4[i]], weights);
        }
    }
}

kernel! {
    /// Estimates a row of bytes, each with its own weights.
    fn estimate_each(taps: [&[u8]; 4], weights: [&[f32]; 3], out: &mut [u8], doubtful: &mut [bool]) {
        let count = out.len();
        let [v1, v2, v3, v4] = taps.map(|tap| &tap[..count]);
        let [w1, w3, w4] = weights.map(|weight| &weight[..count]);
        let doubtful = &mut doubtful[..count];
        for i in 0..count {
            (out[i], doubtful[i]) = estimate_one([v1[i], v2[i], v3[i], v4[i]], [w1[i], w3[i], w4[i]]);
        }
    }
}
