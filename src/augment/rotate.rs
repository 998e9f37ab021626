//! Rotations with AVX2: sixteen values of each channel, estimated as in [`super::estimate`].
//!
//! The source is first widened to four floats a pixel (red, green, blue, 0), its edges repeated, so
//! that two neighbouring pixels are one vector. A row of four pixels is two vectors; its sum over
//! columns is kept in two halves, which are added once, after the sum over rows:
//!
//! ```text
//!   sum over rows r of wy[r] * ( [p0 p1] * [wx0 wx1] + [p2 p3] * [wx2 wx3] ), then both halves
//! ```
//!
//! The error: values are at most 255, the sizes of the weights add up to at most 1.6 along each
//! axis, and about eleven roundings to 2^-24 apply to each product, so it stays below 2^-11.

#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::{
    __m128, __m256, _CMP_EQ_OQ, _mm_add_ps, _mm_and_ps, _mm_cmplt_ps, _mm_cvtsi128_si32,
    _mm_cvttps_epi32, _mm_max_ps, _mm_min_ps, _mm_movemask_ps, _mm_packus_epi16, _mm_packus_epi32,
    _mm_set1_ps, _mm_setzero_ps, _mm_sub_ps, _mm256_add_ps, _mm256_castps256_ps128, _mm256_cmp_ps,
    _mm256_extractf128_ps, _mm256_loadu_ps, _mm256_movemask_ps, _mm256_mul_ps,
    _mm256_permutevar8x32_ps, _mm256_set_m128, _mm256_setr_epi32, _mm256_setr_ps,
};

use super::estimate::{Job, MARGIN};
use crate::sample::{Interpolation, View};
use crate::simd::Simd;

/// Pixels by which each edge is repeated: a cubic needs two, rounding of the position one.
const EDGE: usize = 3;

/// The source as floats.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    wide: Vec<[f32; 4]>,
}

/// Writes the transformed image to `out`.
pub(super) fn transform(simd: Simd, job: &Job<'_>, out: &mut [u8], scratch: &mut Scratch) {
    assert!(simd.avx2(), "the kernel needs AVX2");
    widen(job.source, &mut scratch.wide);
    // SAFETY: the CPU has AVX2, asserted above.
    unsafe { rows(job, &scratch.wide, out) }
}

/// Writes the source with its edges repeated, as floats.
fn widen(source: View<'_>, wide: &mut Vec<[f32; 4]>) {
    let size = source.size();
    let row = |y: usize| source.row(u32::try_from(y).expect("a row"));
    wide.clear();
    for y in 0..size.height as usize + 2 * EDGE {
        let (pixels, _) =
            row(y.saturating_sub(EDGE).min(size.height as usize - 1)).as_chunks::<3>();
        let float = |[r, g, b]: &[u8; 3]| [f32::from(*r), f32::from(*g), f32::from(*b), 0.0];
        wide.extend([float(&pixels[0]); EDGE]);
        wide.extend(pixels.iter().map(float));
        wide.extend([float(&pixels[pixels.len() - 1]); EDGE]);
    }
}

#[target_feature(enable = "avx2")]
fn rows(job: &Job<'_>, wide: &[[f32; 4]], out: &mut [u8]) {
    let size = job.source.size();
    let (width, height) = (size.width as usize + 2 * EDGE, size.height as usize + 2 * EDGE);
    assert_eq!(wide.len(), width * height, "widened source");
    let curve = Curve::new(job.filter);
    let [a, _, _, d, ..] = job.affine.0;
    for (y, inside, row) in job.rows(out) {
        // From the first pixel's first value on.
        let (left, top) = (job.affine.column(0, y), job.affine.row(0, y));
        let (pixels, _) = row.as_chunks_mut::<3>();
        for x in inside {
            let (column, dx) = place(left + a * f64::from(x));
            let (row, dy) = place(top + d * f64::from(x));
            assert!(column + 4 <= width && row + 4 <= height, "a point outside the source");
            // SAFETY: four rows of four pixels from there on lie in `wide`, asserted above.
            let (value, certain) = unsafe {
                value(wide.as_ptr().add(row * width + column), width, curve.weights(dx, dy))
            };
            pixels[x as usize] = if certain { value } else { job.exact(x, y) };
        }
    }
}

/// For a coordinate inside the source: the first of four positions in the widened source, and the
/// fraction of a pixel after the second.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small, not negative")]
fn place(coordinate: f64) -> (usize, f32) {
    // One pixel on, so that truncation rounds down.
    let position = (coordinate + 0.5).max(0.0);
    let whole = position as usize;
    (whole + EDGE - 2, (position - whole as f64) as f32)
}

/// The four weights as polynomials of the fraction, for columns and rows at once.
#[derive(Clone, Copy)]
struct Curve([__m256; 4]);

impl Curve {
    #[target_feature(enable = "avx2")]
    fn new(filter: Interpolation) -> Self {
        let powers: [[f32; 4]; 4] = match filter {
            Interpolation::Bilinear => {
                [[0.0, 1.0, 0.0, 0.0], [0.0, -1.0, 1.0, 0.0], [0.0; 4], [0.0; 4]]
            }
            Interpolation::Bicubic => [
                [0.0, 1.0, 0.0, 0.0],
                [-1.0, 0.0, 1.0, 0.0],
                [2.0, -2.0, 1.0, -1.0],
                [-1.0, 1.0, -1.0, 1.0],
            ],
        };
        Self(powers.map(|[a, b, c, d]| _mm256_setr_ps(a, b, c, d, a, b, c, d)))
    }

    /// Weights of four columns, then of four rows.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn weights(&self, dx: f32, dy: f32) -> __m256 {
        let d = _mm256_set_m128(_mm_set1_ps(dy), _mm_set1_ps(dx));
        let [one, linear, square, cube] = self.0;
        let sum = _mm256_add_ps(square, _mm256_mul_ps(d, cube));
        let sum = _mm256_add_ps(linear, _mm256_mul_ps(d, sum));
        _mm256_add_ps(one, _mm256_mul_ps(d, sum))
    }
}

/// The value of a pixel, and whether it is certain.
///
/// # Safety
/// Four rows of four pixels, `width` pixels apart, must be readable from `source` on.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn value(source: *const [f32; 4], width: usize, weights: __m256) -> ([u8; 3], bool) {
    let pick = |a, b| _mm256_permutevar8x32_ps(weights, _mm256_setr_epi32(a, a, a, a, b, b, b, b));
    let (left, right) = (pick(0, 1), pick(2, 3));
    let down = [pick(4, 4), pick(5, 5), pick(6, 6), pick(7, 7)];
    // SAFETY: the caller's condition; each load is half of a row of four pixels.
    let load = |row: usize, half: usize| unsafe {
        _mm256_loadu_ps(source.add(row * width + half * 2).cast())
    };
    let line = |row: usize| {
        let sum =
            _mm256_add_ps(_mm256_mul_ps(load(row, 0), left), _mm256_mul_ps(load(row, 1), right));
        _mm256_mul_ps(sum, down[row])
    };
    let sum = _mm256_add_ps(_mm256_add_ps(line(0), line(1)), _mm256_add_ps(line(2), line(3)));
    let value = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));

    if !near_whole(value) {
        return (bytes(value), true);
    }
    // Sixteen equal pixels: Pillow's differences are zero and the value is theirs.
    let first = load(0, 0);
    let pixel = _mm256_castps256_ps128(first);
    let all = _mm256_set_m128(pixel, pixel);
    let equal = |row: usize, half: usize| {
        _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(load(row, half), all)) == 0xff
    };
    let flat = (0..4).all(|row| equal(row, 0) && equal(row, 1));
    (bytes(pixel), flat)
}

/// Whether one of three channels is nearer than the margin to a whole number.
#[target_feature(enable = "avx2")]
#[inline]
fn near_whole(value: __m128) -> bool {
    // Added and subtracted, it rounds to the nearest whole number.
    let round = _mm_set1_ps(12_582_912.0);
    let rest = _mm_sub_ps(value, _mm_sub_ps(_mm_add_ps(value, round), round));
    let size = _mm_and_ps(rest, _mm_set1_ps(f32::from_bits(0x7fff_ffff)));
    _mm_movemask_ps(_mm_cmplt_ps(size, _mm_set1_ps(MARGIN))) & 0b111 != 0
}

/// Clamped and truncated.
#[target_feature(enable = "avx2")]
#[inline]
fn bytes(value: __m128) -> [u8; 3] {
    let value = _mm_min_ps(_mm_max_ps(value, _mm_setzero_ps()), _mm_set1_ps(255.0));
    let words = _mm_cvttps_epi32(value);
    let words = _mm_packus_epi32(words, words);
    let [r, g, b, _] = _mm_cvtsi128_si32(_mm_packus_epi16(words, words)).to_le_bytes();
    [r, g, b]
}
