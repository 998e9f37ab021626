//! torchvision's `gaussian_blur`: a convolution in single precision with 23 x 23 weights, rounded.
//!
//! Source: torchvision 0.29, `transforms/_functional_tensor.py` (`_get_gaussian_kernel1d`,
//! `_get_gaussian_kernel2d`, `gaussian_blur`).
//!
//! torch adds the products row by row, each with one rounding (a fused multiply-add), on AVX2 and on
//! AVX-512 alike, so this order is a part of the result. The exponential is the one of the platform in
//! torch; here it is rounded correctly. MKL's, with which torch is built for x86-64, differs in the last
//! bit of one weight in a hundred, which changes less than one value in a hundred thousand.

use crate::geometry::Size;
use crate::jitter::BLUR_SIDE;
use crate::scratch::fit;
use crate::simd::Simd;

/// Pixels around the center of the kernel on each side.
const RADIUS: usize = BLUR_SIDE / 2;

/// Values of a row that are computed at once: sums that stay in registers.
const BLOCK: usize = 96;

/// The rows under the kernel, as floats, with their ends reflected.
#[derive(Debug, Default)]
pub(super) struct Convolver {
    rows: Vec<f32>,
}

impl Convolver {
    /// Writes `source`, blurred, to `out`.
    pub(super) fn gaussian(
        &mut self,
        simd: Simd,
        source: &[u8],
        size: Size,
        sigma: f64,
        out: &mut [u8],
    ) {
        let (height, width) = (size.height as usize, size.width as usize);
        assert!(height > RADIUS && width > RADIUS, "a {size:?} image has nothing to reflect");
        let weights = weights(sigma);
        let row_bytes = width * 3;
        // The last block of a row reads as much past its end as it is too long.
        let stride = (row_bytes + 6 * RADIUS).next_multiple_of(BLOCK) + BLOCK;
        fit(&mut self.rows, BLUR_SIDE * stride, 0.0);
        let position = |index: usize| reflect(index, height);
        let row = |y: usize| &source[y * row_bytes..][..row_bytes];
        for index in 0..BLUR_SIDE - 1 {
            load(row(position(index)), &mut self.rows[index * stride..][..stride]);
        }
        for (y, out) in out.chunks_exact_mut(row_bytes).enumerate() {
            let index = y + BLUR_SIDE - 1;
            let slot = index % BLUR_SIDE;
            load(row(position(index)), &mut self.rows[slot * stride..][..stride]);
            let rows: [&[f32]; BLUR_SIDE] =
                std::array::from_fn(|row| &self.rows[(y + row) % BLUR_SIDE * stride..][..stride]);
            convolve(simd, &rows, &weights, out);
        }
    }
}

/// The position that an index of a reflected axis has, which starts `RADIUS` before the first one.
fn reflect(index: usize, count: usize) -> usize {
    let position = index.abs_diff(RADIUS);
    if position < count { position } else { 2 * (count - 1) - position }
}

/// A row as floats, with its ends reflected.
fn load(row: &[u8], to: &mut [f32]) {
    let (pixels, _) = row.as_chunks::<3>();
    let (to, _) = to.as_chunks_mut::<3>();
    let count = pixels.len() + 2 * RADIUS;
    for (index, to) in to[..count].iter_mut().enumerate() {
        *to = pixels[reflect(index, pixels.len())].map(f32::from);
    }
}

/// The weights, in the order of torch's additions.
#[expect(clippy::cast_possible_truncation, reason = "torch computes in single precision")]
fn weights(sigma: f64) -> Weights {
    let densities: [f32; BLUR_SIDE] = std::array::from_fn(|index| {
        let ratio = (index as f32 - RADIUS as f32) / sigma as f32;
        libm::exp(f64::from(-0.5 * (ratio * ratio))) as f32
    });
    // torch sums the last seven, then each of eight lanes, which have two numbers each.
    let (lanes, tail) = densities.split_at(16);
    let tail = tail.iter().fold(0.0, |sum, density| sum + density);
    let sum = (0..8).fold(tail, |sum, lane| sum + (lanes[lane] + lanes[lane + 8]));
    let line = densities.map(|density| density / sum);
    line.map(|row| line.map(|column| row * column))
}

/// The weights of all rows.
type Weights = [[f32; BLUR_SIDE]; BLUR_SIDE];

/// Convolves one row.
fn convolve(simd: Simd, rows: &[&[f32]; BLUR_SIDE], weights: &Weights, out: &mut [u8]) {
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let rows = rows.map(|row| &row[block * BLOCK..][..BLOCK + 6 * RADIUS]);
        let sums = sums(simd, &rows, weights);
        for (to, sum) in out.iter_mut().zip(sums) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=255")]
            {
                *to = sum.round_ties_even() as u8;
            }
        }
    }
}

/// The sums of products of a block, from rows of its values and `RADIUS` pixels on each side.
fn sums(simd: Simd, rows: &[&[f32]; BLUR_SIDE], weights: &Weights) -> [f32; BLOCK] {
    #[cfg(target_arch = "x86_64")]
    {
        if simd.avx512().is_some() {
            #[expect(unsafe_code, reason = "a call across target features")]
            // SAFETY: the token proves AVX-512 F.
            return unsafe { x86::avx512(rows, weights) };
        }
        if simd.avx2().is_some() {
            #[expect(unsafe_code, reason = "a call across target features")]
            // SAFETY: the token proves AVX2 and FMA.
            return unsafe { x86::avx2(rows, weights) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = simd;
    let mut sums = [0.0_f32; BLOCK];
    for (row, weights) in rows.iter().zip(weights) {
        for (column, weight) in weights.iter().enumerate() {
            for (sum, value) in sums.iter_mut().zip(&row[column * 3..][..BLOCK]) {
                *sum = value.mul_add(*weight, *sum);
            }
        }
    }
    sums
}

/// The same sums, held in registers.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };

    use super::{BLOCK, BLUR_SIDE, RADIUS, Weights};

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512(rows: &[&[f32]; BLUR_SIDE], weights: &Weights) -> [f32; BLOCK] {
        const LANES: usize = 16;
        let mut sums = [_mm512_setzero_ps(); BLOCK / LANES];
        for (row, weights) in rows.iter().zip(weights) {
            assert!(row.len() >= BLOCK + 6 * RADIUS, "rows are too short to read");
            for (column, weight) in weights.iter().enumerate() {
                let weight = _mm512_set1_ps(*weight);
                for (index, sum) in sums.iter_mut().enumerate() {
                    let at = column * 3 + index * LANES;
                    #[expect(unsafe_code, reason = "a load of a vector")]
                    // SAFETY: the last column reads the last values of the row, as asserted above.
                    let values = unsafe { _mm512_loadu_ps(row.as_ptr().add(at)) };
                    *sum = _mm512_fmadd_ps(values, weight, *sum);
                }
            }
        }
        let mut out = [0.0; BLOCK];
        for (to, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            #[expect(unsafe_code, reason = "a store of a vector")]
            // SAFETY: the array has as many values as the vector.
            unsafe {
                _mm512_storeu_ps(to.as_mut_ptr(), sum);
            }
        }
        out
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(rows: &[&[f32]; BLUR_SIDE], weights: &Weights) -> [f32; BLOCK] {
        const LANES: usize = 8;
        let mut sums = [_mm256_setzero_ps(); BLOCK / LANES];
        for (row, weights) in rows.iter().zip(weights) {
            assert!(row.len() >= BLOCK + 6 * RADIUS, "rows are too short to read");
            for (column, weight) in weights.iter().enumerate() {
                let weight = _mm256_set1_ps(*weight);
                for (index, sum) in sums.iter_mut().enumerate() {
                    let at = column * 3 + index * LANES;
                    #[expect(unsafe_code, reason = "a load of a vector")]
                    // SAFETY: the last column reads the last values of the row, as asserted above.
                    let values = unsafe { _mm256_loadu_ps(row.as_ptr().add(at)) };
                    *sum = _mm256_fmadd_ps(values, weight, *sum);
                }
            }
        }
        let mut out = [0.0; BLOCK];
        for (to, sum) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
            #[expect(unsafe_code, reason = "a store of a vector")]
            // SAFETY: the array has as many values as the vector.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), sum);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_those_of_torch() {
        // _get_gaussian_kernel2d([23, 23], [0.7, 0.7], torch.float32, "cpu"), as bits.
        let weights = weights(0.7);
        let bits = [weights[11][11], weights[11][10], weights[9][8], weights[0][11]];
        assert_eq!(bits.map(f32::to_bits), TORCH, "{bits:?}");
    }

    const TORCH: [u32; 4] = [1_051_083_325, 1_039_119_837, 890_707_264, 0];
}
