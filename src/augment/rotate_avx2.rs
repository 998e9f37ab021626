//! Rotations with AVX2: estimates from 16 neighbors, corrected as in `warp.rs`.
//!
//! The source is first widened to four floats a pixel (red, green, blue, 0), with its edges repeated,
//! so that two neighboring pixels are one vector and no neighbor is outside. A row of four pixels p0
//! to p3 is two vectors. Its two halves are added only once, after the sum over rows:
//!
//! ```text
//!   sum over rows r of  wy[r] * ( [p0 p1] * [wx0 wx1] + [p2 p3] * [wx2 wx3] )
//!   then the upper half is added to the lower one: red, green, blue, 0
//! ```
//!
//! The bound on the error: values are at most 255, and the magnitudes of four weights add up to at
//! most 1.5. The error of a weight is less than 3 * 2^-24: at most 2^-24 from the rounded fraction
//! and 2 * 2^-24 from three fused multiplications. An axis therefore adds less than
//! 4 * 255 * 1.5 * 3 * 2^-24. Seven roundings of sums of at most 255 * 1.5 * 1.5 add less than
//! 7 * 574 * 2^-24. The total is below 2^-10.2, and [`MARGIN`] is 2^-10.

#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::{
    __m128, __m256, _CMP_EQ_OQ, _mm_add_pd, _mm_add_ps, _mm_and_ps, _mm_cmplt_ps, _mm_cvtepi32_pd,
    _mm_cvtepi32_ps, _mm_cvtepu8_epi32, _mm_cvtpd_ps, _mm_cvtsi32_si128, _mm_cvtsi128_si32,
    _mm_cvttpd_epi32, _mm_cvttps_epi32, _mm_extract_epi32, _mm_max_ps, _mm_min_ps, _mm_movemask_ps,
    _mm_mul_pd, _mm_packus_epi16, _mm_packus_epi32, _mm_set1_pd, _mm_set1_ps, _mm_setr_pd,
    _mm_setzero_ps, _mm_shuffle_ps, _mm_storeu_ps, _mm_sub_pd, _mm_sub_ps, _mm256_add_ps,
    _mm256_castps256_ps128, _mm256_cmp_ps, _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_movemask_ps, _mm256_mul_ps, _mm256_permutevar8x32_ps, _mm256_set_m128,
    _mm256_setr_epi32, _mm256_setr_ps,
};

use super::sampler::Degree;
use super::transform::Transform;
use crate::geometry::View;
use crate::scratch::{bytes_of, fit};
use crate::simd::Avx2;

/// The bound on the error of an estimate. Estimates nearer than this to a whole number are doubtful.
const MARGIN: f32 = 1.0 / 1024.0;

/// The number of pixels that repeat each edge: a cubic needs two, rounding of the position one.
const EDGE: usize = 3;

/// The source as four floats a pixel, with its edges repeated.
#[derive(Debug, Default)]
pub(super) struct WideSource(Vec<[f32; 4]>);

impl WideSource {
    /// The bytes that it keeps.
    pub(super) const fn held_bytes(&self) -> usize {
        bytes_of(&self.0)
    }
}

/// Writes the transformed image to `out`.
pub(super) fn warp(_: Avx2, transform: &Transform<'_>, out: &mut [u8], source: &mut WideSource) {
    // SAFETY: the token proves AVX2 and FMA.
    unsafe {
        widen(transform.source, &mut source.0);
        rows(transform, &source.0, out);
    }
}

/// Converts the source to floats and repeats its edges.
#[target_feature(enable = "avx2,fma")]
fn widen(source: View<'_>, wide: &mut Vec<[f32; 4]>) {
    let size = source.size();
    let (width, height) = (size.width as usize + 2 * EDGE, size.height as usize + 2 * EDGE);
    fit(wide, width * height, [0.0; 4]);
    for (y, row) in wide.chunks_exact_mut(width).enumerate() {
        let y = u32::try_from(y.saturating_sub(EDGE)).map_or(0, |y| y.min(size.height - 1));
        let inner = &mut row[EDGE..width - EDGE];
        for (to, [r, g, b]) in inner.iter_mut().zip(source.row(y).as_chunks().0) {
            let bytes = _mm_cvtsi32_si128(i32::from_le_bytes([*r, *g, *b, 0]));
            let floats = _mm_cvtepi32_ps(_mm_cvtepu8_epi32(bytes));
            // SAFETY: `to` has four floats.
            unsafe { _mm_storeu_ps(to.as_mut_ptr(), floats) };
        }
        let (first, last) = (row[EDGE], row[width - EDGE - 1]);
        row[..EDGE].fill(first);
        row[width - EDGE..].fill(last);
    }
}

#[target_feature(enable = "avx2,fma")]
fn rows(transform: &Transform<'_>, wide: &[[f32; 4]], out: &mut [u8]) {
    let size = transform.source.size();
    let (width, height) = (size.width as usize + 2 * EDGE, size.height as usize + 2 * EDGE);
    assert_eq!(wide.len(), width * height, "widened source");
    let curve = Curve::new(transform.filter);
    let [a, _, _, d, ..] = transform.affine.0;
    let step = _mm_setr_pd(a, d);
    for (y, inside, row) in transform.rows(out) {
        // The centers of pixels are at halves; one pixel more, so that truncation rounds down.
        let (column, row_at) =
            (transform.affine.column(0, y) + 0.5, transform.affine.row(0, y) + 0.5);
        let start = _mm_setr_pd(column, row_at);
        let (pixels, _) = row.as_chunks_mut::<3>();
        for x in inside {
            let place = _mm_add_pd(start, _mm_mul_pd(step, _mm_set1_pd(f64::from(x))));
            let whole = _mm_cvttpd_epi32(place);
            let fraction = _mm_cvtpd_ps(_mm_sub_pd(place, _mm_cvtepi32_pd(whole)));
            // The first of four neighbors. A negative position wraps to one far outside.
            let first = |whole: i32| (whole.cast_unsigned() as usize).wrapping_add(EDGE - 2);
            let column = first(_mm_cvtsi128_si32(whole));
            let row = first(_mm_extract_epi32::<1>(whole));
            assert!(
                column <= width - 4 && row <= height - 4,
                "the neighbors are inside the widened source"
            );
            // SAFETY: four rows of four pixels from there on are within `wide`, as asserted above.
            let (value, certain) = unsafe {
                value(wide.as_ptr().add(row * width + column), width, curve.weights(fraction))
            };
            pixels[x as usize] = if certain { value } else { transform.exact(x, y) };
        }
    }
}

/// The four weights as cubic polynomials of the fraction, for columns and rows at once.
#[derive(Clone, Copy)]
struct Curve([__m256; 4]);

impl Curve {
    #[target_feature(enable = "avx2,fma")]
    fn new(filter: Degree) -> Self {
        let powers: [[f32; 4]; 4] = match filter {
            Degree::Linear => [[0.0, 1.0, 0.0, 0.0], [0.0, -1.0, 1.0, 0.0], [0.0; 4], [0.0; 4]],
            Degree::Cubic => [
                [0.0, 1.0, 0.0, 0.0],
                [-1.0, 0.0, 1.0, 0.0],
                [2.0, -2.0, 1.0, -1.0],
                [-1.0, 1.0, -1.0, 1.0],
            ],
        };
        Self(powers.map(|[a, b, c, d]| _mm256_setr_ps(a, b, c, d, a, b, c, d)))
    }

    /// The weights of four columns, then of four rows, at the fractions of both.
    #[target_feature(enable = "avx2,fma")]
    #[inline]
    fn weights(&self, fraction: __m128) -> __m256 {
        let (dx, dy) =
            (_mm_shuffle_ps::<0>(fraction, fraction), _mm_shuffle_ps::<0x55>(fraction, fraction));
        let d = _mm256_set_m128(dy, dx);
        let [one, linear, square, cube] = self.0;
        let sum = _mm256_fmadd_ps(d, cube, square);
        let sum = _mm256_fmadd_ps(d, sum, linear);
        _mm256_fmadd_ps(d, sum, one)
    }
}

/// The truncated estimate of a pixel, and whether it is certain.
///
/// # Safety
/// Four rows of four pixels, `width` pixels apart, can be read from `source` on.
#[target_feature(enable = "avx2,fma")]
#[inline]
unsafe fn value(source: *const [f32; 4], width: usize, weights: __m256) -> ([u8; 3], bool) {
    let pick = |a, b| _mm256_permutevar8x32_ps(weights, _mm256_setr_epi32(a, a, a, a, b, b, b, b));
    let (left, right) = (pick(0, 1), pick(2, 3));
    let down = [pick(4, 4), pick(5, 5), pick(6, 6), pick(7, 7)];
    // SAFETY: each load is half of a row of four pixels, which the caller guarantees.
    let load = |row: usize, half: usize| unsafe {
        _mm256_loadu_ps(source.add(row * width + half * 2).cast())
    };
    let line = |row: usize| _mm256_fmadd_ps(load(row, 0), left, _mm256_mul_ps(load(row, 1), right));
    let even = _mm256_fmadd_ps(line(0), down[0], _mm256_mul_ps(line(2), down[2]));
    let odd = _mm256_fmadd_ps(line(1), down[1], _mm256_mul_ps(line(3), down[3]));
    let sum = _mm256_add_ps(even, odd);
    let value = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));

    if !near_whole(value) {
        return (bytes(value), true);
    }
    // Of 16 equal pixels, all differences are zero in Pillow, and the result is the pixel.
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
#[target_feature(enable = "avx2,fma")]
#[inline]
fn near_whole(value: __m128) -> bool {
    // 1.5 * 2^23: adding and subtracting it rounds to the nearest whole number.
    let round = _mm_set1_ps(12_582_912.0);
    let rest = _mm_sub_ps(value, _mm_sub_ps(_mm_add_ps(value, round), round));
    let size = _mm_and_ps(rest, _mm_set1_ps(f32::from_bits(0x7fff_ffff)));
    _mm_movemask_ps(_mm_cmplt_ps(size, _mm_set1_ps(MARGIN))) & 0b111 != 0
}

/// Clamps and truncates.
#[target_feature(enable = "avx2,fma")]
#[inline]
fn bytes(value: __m128) -> [u8; 3] {
    let value = _mm_min_ps(_mm_max_ps(value, _mm_setzero_ps()), _mm_set1_ps(255.0));
    let words = _mm_cvttps_epi32(value);
    let words = _mm_packus_epi32(words, words);
    let [r, g, b, _] = _mm_cvtsi128_si32(_mm_packus_epi16(words, words)).to_le_bytes();
    [r, g, b]
}
