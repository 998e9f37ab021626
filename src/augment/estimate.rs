//! Affine transforms made fast without changing a bit.
//!
//! Pillow truncates a value computed in double precision. Here it is estimated in single precision,
//! with an error below [`MARGIN`]; where the estimate is nearer than that to a whole number, where
//! truncation could go either way, the pixel is computed as Pillow does ([`sampler`](super::sampler)):
//!
//! ```text
//!   value = centre + w1*(v1 - centre) + w3*(v3 - centre) + w4*(v4 - centre)    weights add up to 1
//!   |value - nearest whole| < MARGIN and not all equal  ->  exact
//! ```
//!
//! Shears and translations need one row or one column of four values, with weights that do not
//! depend on the column (or, for a shear of rows, not on the row). The curve is continuous, so which
//! side of a pixel's edge rounding puts a point on makes no difference to the estimate.
//!
//! The error: weights and products are rounded to 2^-24, values are at most 255, weights at most 1,
//! so that each of six operations adds less than 2^-15; `MARGIN` is 2^-11.

use super::blend::truncate;
use super::sampler::{Affine, sample};
use crate::sample::{Interpolation, View};
use crate::simd::{Simd, kernel};

/// Estimates nearer than this to a whole number are not trusted.
const MARGIN: f32 = 1.0 / 2048.0;

/// Added and subtracted, it rounds to the nearest whole number.
const ROUND: f32 = 12_582_912.0;

/// One transform.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job<'a> {
    pub(super) source: View<'a>,
    pub(super) affine: Affine,
    pub(super) filter: Interpolation,
    pub(super) fill: [u8; 3],
}

/// Memory of one worker for transforms.
#[derive(Debug, Default)]
pub(super) struct Warp {
    /// Bytes of a row whose estimate is not trusted.
    doubtful: Vec<bool>,
    /// A row with its ends repeated.
    line: Vec<u8>,
    /// The image with each column moved by a whole number of rows.
    moved: Vec<u8>,
    /// By how many rows each column moves: whole ones, and the rest.
    moves: Vec<(isize, f64)>,
    /// Weights of v1, v3 and v4 for each byte of a row.
    weights: [Vec<f32>; 3],
    #[cfg(target_arch = "x86_64")]
    rotation: super::rotate::Scratch,
}

/// Writes the transformed image to `out`.
pub(super) fn transform(simd: Simd, job: &Job<'_>, out: &mut [u8], warp: &mut Warp) {
    match job.affine.0 {
        [1.0, _, _, 0.0, 1.0, 0.0] => along_rows(simd, job, out, warp),
        [1.0, 0.0, 0.0, 0.0, 1.0, _] => whole_rows(simd, job, out, warp),
        [1.0, 0.0, 0.0, _, 1.0, 0.0] => along_columns(simd, job, out, warp),
        #[cfg(target_arch = "x86_64")]
        _ if simd.avx2() => super::rotate::transform(simd, job, out, &mut warp.rotation),
        _ => exactly(job, out),
    }
}

impl Job<'_> {
    /// The rows of the output, each with its number and the columns that lie inside the source;
    /// the others are filled.
    pub(super) fn rows<'o>(
        &self,
        out: &'o mut [u8],
    ) -> impl Iterator<Item = (u32, std::ops::Range<u32>, &'o mut [u8])> {
        let (job, size) = (*self, self.source.size());
        (0..size.height).zip(out.chunks_exact_mut(size.width as usize * 3)).map(move |(y, row)| {
            let inside = job.affine.inside(y, size.height, size.width);
            let (pixels, _) = row.as_chunks_mut::<3>();
            if inside.is_empty() {
                pixels.fill(job.fill);
            } else {
                pixels[..inside.start as usize].fill(job.fill);
                pixels[inside.end as usize..].fill(job.fill);
            }
            (y, inside, row)
        })
    }

    /// The value of an output pixel as Pillow computes it.
    pub(super) fn exact(&self, x: u32, y: u32) -> [u8; 3] {
        let (column, row) = (self.affine.column(x, y), self.affine.row(x, y));
        sample(self.source, column, row, self.filter).unwrap_or(self.fill)
    }

    /// Replaces the doubtful bytes of a row, whose first pixel is `first`.
    fn settle(&self, y: u32, first: u32, row: &mut [u8], doubtful: &[bool]) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        let (doubtful, _) = doubtful.as_chunks::<3>();
        for ((pixel, doubtful), x) in pixels.iter_mut().zip(doubtful).zip(first..) {
            if *doubtful != [false; 3] {
                *pixel = self.exact(x, y);
            }
        }
    }
}

/// Every pixel as Pillow computes it.
pub(super) fn exactly(job: &Job<'_>, out: &mut [u8]) {
    for (y, inside, row) in job.rows(out) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        for x in inside {
            pixels[x as usize] = job.exact(x, y);
        }
    }
}

/// Rows moved along themselves: translation and shear of columns.
fn along_rows(simd: Simd, job: &Job<'_>, out: &mut [u8], warp: &mut Warp) {
    /// Pixels repeated at each end: a cubic needs two, rounding of the position one.
    const ENDS: usize = 3;
    let width = job.source.size().width as usize * 3;
    for (y, inside, row) in job.rows(out) {
        if inside.is_empty() {
            continue;
        }
        let source = job.source.row(y);
        warp.line.clear();
        (0..ENDS).for_each(|_| warp.line.extend_from_slice(&source[..3]));
        warp.line.extend_from_slice(source);
        (0..ENDS).for_each(|_| warp.line.extend_from_slice(&source[width - 3..]));

        let (shift, fraction) = split(job.affine.column(0, y) - 0.5);
        let (start, end) = (inside.start as usize * 3, inside.end as usize * 3);
        let first = inside.start as usize + ENDS - 1;
        let first = first.checked_add_signed(shift).expect("inside the source") * 3;
        let taps = taps(job.filter).map(|tap| &warp.line[first + tap * 3..][..end - start]);
        warp.doubtful.resize(width, false);
        let doubtful = &mut warp.doubtful[start..end];
        estimate(simd, taps, weights(fraction, job.filter), &mut row[start..end], doubtful);
        job.settle(y, inside.start, &mut row[start..end], doubtful);
    }
}

/// Rows moved as a whole: translation.
fn whole_rows(simd: Simd, job: &Job<'_>, out: &mut [u8], warp: &mut Warp) {
    let size = job.source.size();
    warp.doubtful.resize(size.width as usize * 3, false);
    for (y, inside, row) in job.rows(out) {
        if inside.is_empty() {
            continue;
        }
        let (shift, fraction) = split(job.affine.row(0, y) - 0.5);
        let row_at = |tap: usize| clamp(shift + tap.cast_signed() - 1, size.height);
        let taps = taps(job.filter).map(|tap| job.source.row(row_at(tap)));
        estimate(simd, taps, weights(fraction, job.filter), row, &mut warp.doubtful);
        job.settle(y, 0, row, &warp.doubtful);
    }
}

/// Columns moved along themselves: shear of rows. Columns are first moved by whole rows, so that
/// the four values of a byte lie below one another.
fn along_columns(simd: Simd, job: &Job<'_>, out: &mut [u8], warp: &mut Warp) {
    let size = job.source.size();
    let width = size.width as usize * 3;
    warp.moves.clear();
    warp.moves.extend((0..size.width).map(|x| split(job.affine.row(x, 0) - 0.5)));
    for (index, list) in warp.weights.iter_mut().enumerate() {
        let weight = |(_, fraction): &(isize, f64)| weights(*fraction, job.filter)[index];
        list.clear();
        list.extend(warp.moves.iter().flat_map(|moved| [weight(moved); 3]));
    }
    // One row above the image and two below it, as far as a cubic reaches.
    let rows = size.height as usize + 3;
    warp.moved.resize(rows * width, 0);
    for (y, row) in (-1..).zip(warp.moved.chunks_exact_mut(width)) {
        for ((x, pixel), (shift, _)) in (0..).zip(row.as_chunks_mut::<3>().0).zip(&warp.moves) {
            let row = job.source.row(clamp(shift.saturating_add(y), size.height));
            pixel.copy_from_slice(&row[x * 3..][..3]);
        }
    }
    warp.doubtful.resize(width, false);
    for (y, inside, row) in job.rows(out) {
        if inside.is_empty() {
            continue;
        }
        let (start, end) = (inside.start as usize * 3, inside.end as usize * 3);
        let tap = |tap: usize| &warp.moved[(y as usize + tap) * width..][start..end];
        let taps = taps(job.filter).map(tap);
        let [w1, w3, w4] = &warp.weights;
        let weights = [&w1[start..end], &w3[start..end], &w4[start..end]];
        let doubtful = &mut warp.doubtful[start..end];
        estimate_each(simd, taps, weights, &mut row[start..end], doubtful);
        job.settle(y, inside.start, &mut row[start..end], doubtful);
    }
}

/// Which of four neighbours are v1 to v4: where a weight is zero, the centre, so that the value in
/// its place does not make a whole number doubtful.
const fn taps(filter: Interpolation) -> [usize; 4] {
    match filter {
        Interpolation::Bilinear => [1, 1, 2, 1],
        Interpolation::Bicubic => [0, 1, 2, 3],
    }
}

/// A position as whole pixels and the rest.
#[expect(clippy::cast_possible_truncation, reason = "saturates where nothing is inside")]
fn split(position: f64) -> (isize, f64) {
    let whole = position.floor();
    (whole as isize, position - whole)
}

/// A position clamped to `0..count`, which is not empty.
fn clamp(position: isize, count: u32) -> u32 {
    u32::try_from(position.max(0)).unwrap_or(u32::MAX).min(count - 1)
}

/// The weights of v1, v3 and v4 at a fraction of a pixel after v2.
#[expect(clippy::cast_possible_truncation, reason = "an estimate")]
fn weights(d: f64, filter: Interpolation) -> [f32; 3] {
    match filter {
        Interpolation::Bilinear => [0.0, d as f32, 0.0],
        Interpolation::Bicubic => [
            (d * (-1.0 + d * (2.0 - d))) as f32,
            (d * (1.0 + d * (1.0 - d))) as f32,
            (d * d * (d - 1.0)) as f32,
        ],
    }
}

/// The truncated estimate from the values v1 to v4, and whether it is doubtful.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
fn estimate_one([v1, centre, v3, v4]: [u8; 4], [w1, w3, w4]: [f32; 3]) -> (u8, bool) {
    let difference = |value: u8| i16::from(value) - i16::from(centre);
    let (d1, d3, d4) = (difference(v1), difference(v3), difference(v4));
    let change = w1 * f32::from(d1) + w3 * f32::from(d3) + w4 * f32::from(d4);
    let value = f32::from(centre) + change;
    // Not a lazy operator: it would be a branch.
    let doubtful = u8::from(near_whole(value)) & u8::from((d1 | d3 | d4) != 0);
    (truncate(value), doubtful != 0)
}

/// Whether a value of at most a few thousand is nearer than the margin to a whole number.
#[expect(clippy::inline_always, reason = "must take its caller's features")]
#[inline(always)]
fn near_whole(value: f32) -> bool {
    (value - ((value + ROUND) - ROUND)).abs() < MARGIN
}

kernel! {
    /// A row of estimates with the same weights.
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
    /// A row of estimates with weights for each.
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
