//! The inverse DCT, bit-equal to libjpeg-turbo's "islow" as its SIMD code computes it
//! (`jidctint-avx2.asm`).
//!
//! The algorithm is that of Loeffler, Ligtenberg and Moschytz ("Practical fast 1-D DCT algorithms
//! with 11 multiplications", ICASSP 1989), in fixed point with 13 fraction bits. Two more bits are
//! kept between the column pass and the row pass:
//!
//! ```text
//!   coefficient * quant  -> columns -> i16, 2 fraction bits -> rows -> i8 + 128 -> sample
//!   wraps at 16 bits        line()                             line()
//! ```
//!
//! Where a value wraps and where it saturates shows in damaged files, so both are reproduced: the
//! products of coefficients and quantization steps wrap at 16 bits, as do sums of two inputs; each
//! pass saturates its outputs to 16 bits, except that columns without AC coefficients are shifted
//! left by 2 and wrap.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod scalar;

use super::block::Block;
use crate::simd::Simd;

/// Transforms neighboring blocks: block `i` to columns `8 * i..8 * i + 8` of the eight rows of
/// `out`, which are `stride` bytes apart. Each block is accompanied by the zigzag index of its last
/// nonzero coefficient. Up to 8 columns after the last block may be overwritten.
pub(super) fn row_of_blocks<'a>(
    simd: Simd,
    blocks: impl Iterator<Item = (&'a Block, u8)>,
    quant: &[u16; 64],
    out: &mut [u8],
    stride: usize,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = simd.avx2() {
        return avx2::row_of_blocks(avx2, blocks, quant, out, stride);
    }
    scalar::row_of_blocks(blocks, quant, out, stride);
}

#[cfg(test)]
mod tests {
    use super::super::test_file::Numbers;
    use super::*;

    /// Blocks with few or many coefficients, from small ones to those that overflow.
    fn blocks(numbers: &mut Numbers, count: usize) -> Vec<(Block, u8)> {
        let mut one = || {
            let mut block = Block::EMPTY;
            let range = [4, 200, 5000, 65536][numbers.below(4) as usize];
            let nonzero = [0, 1, 4, 64][numbers.below(4) as usize];
            let within = [8, 64][numbers.below(2) as usize];
            let mut value = || (numbers.below(range).cast_signed() - range as i64 / 2) as i16;
            let values: Vec<i16> = (0..=nonzero).map(|_| value()).collect();
            block.0[0] = values[0];
            for &value in &values[1..] {
                block.0[1 + numbers.below(within - 1) as usize] = value;
            }
            let flat = block.0[1..].iter().all(|&value| value == 0);
            (block, if flat { 0 } else { 63 })
        };
        (0..count).map(|_| one()).collect()
    }

    #[test]
    fn every_level_gives_the_same_samples() {
        let mut numbers = Numbers(1);
        for case in 0..3000 {
            let count = 1 + case % 5;
            let blocks = blocks(&mut numbers, count);
            let range = [2, 40, 65536][case % 3];
            let quant = std::array::from_fn(|_| numbers.below(range) as u16);
            let stride = 8 * count + 32;
            let transformed = |simd| {
                let mut out = vec![0; 8 * stride];
                let blocks = blocks.iter().map(|(block, last)| (block, *last));
                row_of_blocks(simd, blocks, &quant, &mut out, stride);
                out.chunks_exact(stride).flat_map(|row| &row[..8 * count]).copied().collect()
            };
            let scalar: Vec<u8> = transformed(Simd::SCALAR);
            for simd in Simd::all() {
                assert_eq!(transformed(simd), scalar, "{simd:?}: {blocks:?} by {quant:?}");
            }
        }
    }

    #[test]
    fn a_transformed_block_is_within_one_of_the_exact_transform() {
        // The definition (T.81 A.3.3), in floating point.
        let mut numbers = Numbers(2);
        let mut block = Block::EMPTY;
        for coefficient in &mut block.0 {
            *coefficient = numbers.below(60) as i16 - 30;
        }
        let basis = |x: usize, u: usize| {
            let scale = if u == 0 { 0.125_f64.sqrt() } else { 0.5 };
            scale * (((2 * x + 1) * u) as f64 * std::f64::consts::PI / 16.0).cos()
        };
        let mut out = [0; 64];
        scalar::row_of_blocks(std::iter::once((&block, 63)), &[1; 64], &mut out, 8);
        for (i, &sample) in out.iter().enumerate() {
            let terms =
                (0..64).map(|j| f64::from(block.0[j]) * basis(i / 8, j / 8) * basis(i % 8, j % 8));
            let exact = (terms.sum::<f64>() + 128.0).clamp(0.0, 255.0);
            assert!((f64::from(sample) - exact).abs() <= 1.0, "sample {i}: {sample}, not {exact}");
        }
    }
}
