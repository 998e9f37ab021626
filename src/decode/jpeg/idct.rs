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
#[path = "idct_avx2.rs"]
mod avx2;

use super::scan::Block;
use crate::simd::Simd;

/// Fraction bits of the constants.
const CONST_BITS: i32 = 13;
/// Fraction bits between the passes.
const PASS1_BITS: i32 = 2;
/// The right shift at the end of the column pass.
const SHIFT_COLUMNS: i32 = CONST_BITS - PASS1_BITS;
/// The right shift at the end of the row pass, which also divides by the transform's factor of 8.
const SHIFT_ROWS: i32 = CONST_BITS + PASS1_BITS + 3;

// round(x * 2^13)
const F_0_298: i32 = 2446;
const F_0_390: i32 = 3196;
const F_0_541: i32 = 4433;
const F_0_765: i32 = 6270;
const F_0_899: i32 = 7373;
const F_1_175: i32 = 9633;
const F_1_501: i32 = 12299;
const F_1_847: i32 = 15137;
const F_1_961: i32 = 16069;
const F_2_053: i32 = 16819;
const F_2_562: i32 = 20995;
const F_3_072: i32 = 25172;

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
    row_of_blocks_scalar(blocks, quant, out, stride);
}

fn row_of_blocks_scalar<'a>(
    blocks: impl Iterator<Item = (&'a Block, u8)>,
    quant: &[u16; 64],
    out: &mut [u8],
    stride: usize,
) {
    for (i, (block, last)) in blocks.enumerate() {
        let out = &mut out[8 * i..];
        if last == 0 {
            let sample = flat(block, quant);
            for y in 0..8 {
                out[y * stride..][..8].fill(sample);
            }
        } else {
            block_scalar(block, quant, out, stride);
        }
    }
}

/// The sample that a block without AC coefficients is filled with.
fn flat(block: &Block, quant: &[u16; 64]) -> u8 {
    let level = block.0[0].wrapping_mul(quant[0].cast_signed()) << PASS1_BITS;
    sample((i32::from(level) + (1 << (PASS1_BITS + 2))) >> (PASS1_BITS + 3))
}

/// The sample of a level, which is centered on 0.
fn sample(level: i32) -> u8 {
    (level + 128).clamp(0, 255) as u8
}

fn block_scalar(block: &Block, quant: &[u16; 64], out: &mut [u8], stride: usize) {
    let mut level = [[0_i16; 8]; 8];
    let shallow = block.0[8..].iter().all(|&coefficient| coefficient == 0);
    for x in 0..8 {
        let column: [i16; 8] = std::array::from_fn(|y| {
            block.0[8 * y + x].wrapping_mul(quant[8 * y + x].cast_signed())
        });
        let column =
            if shallow { [column[0] << PASS1_BITS; 8] } else { line(column, SHIFT_COLUMNS) };
        for y in 0..8 {
            level[y][x] = column[y];
        }
    }
    for (y, &row) in level.iter().enumerate() {
        let samples = line(row, SHIFT_ROWS).map(|level| sample(i32::from(level)));
        out[y * stride..][..8].copy_from_slice(&samples);
    }
}

/// The one-dimensional transform of a column or a row. Its outputs are shifted right by `shift`,
/// rounded and saturated.
fn line(x: [i16; 8], shift: i32) -> [i16; 8] {
    let wide = |value: i16| i32::from(value);
    // Even part: inputs 0, 2, 4, 6.
    let sum = wide(x[0].wrapping_add(x[4])) << CONST_BITS;
    let difference = wide(x[0].wrapping_sub(x[4])) << CONST_BITS;
    let (z2, z3) = (wide(x[2]), wide(x[6]));
    let low = z2 * F_0_541 + z3 * (F_0_541 - F_1_847);
    let high = z2 * (F_0_541 + F_0_765) + z3 * F_0_541;
    let even = [
        sum.wrapping_add(high),
        difference.wrapping_add(low),
        difference.wrapping_sub(low),
        sum.wrapping_sub(high),
    ];
    // Odd part: inputs 1, 3, 5, 7.
    let (z3, z4) = (wide(x[7].wrapping_add(x[3])), wide(x[5].wrapping_add(x[1])));
    let mix3 = z3 * (F_1_175 - F_1_961) + z4 * F_1_175;
    let mix4 = z3 * F_1_175 + z4 * (F_1_175 - F_0_390);
    let [x1, x3, x5, x7] = [x[1], x[3], x[5], x[7]].map(wide);
    let odd = [
        (x7 * -F_0_899 + x1 * (F_1_501 - F_0_899)).wrapping_add(mix4),
        (x5 * -F_2_562 + x3 * (F_3_072 - F_2_562)).wrapping_add(mix3),
        (x5 * (F_2_053 - F_2_562) + x3 * -F_2_562).wrapping_add(mix4),
        (x7 * (F_0_298 - F_0_899) + x1 * -F_0_899).wrapping_add(mix3),
    ];
    let mut out = [0; 8];
    for i in 0..4 {
        let round = |value: i32| {
            let value = value.wrapping_add(1 << (shift - 1)) >> shift;
            value.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
        };
        out[i] = round(even[i].wrapping_add(odd[i]));
        out[7 - i] = round(even[i].wrapping_sub(odd[i]));
    }
    out
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
        row_of_blocks_scalar(std::iter::once((&block, 63)), &[1; 64], &mut out, 8);
        for (i, &sample) in out.iter().enumerate() {
            let terms =
                (0..64).map(|j| f64::from(block.0[j]) * basis(i / 8, j / 8) * basis(i % 8, j % 8));
            let exact = (terms.sum::<f64>() + 128.0).clamp(0.0, 255.0);
            assert!((f64::from(sample) - exact).abs() <= 1.0, "sample {i}: {sample}, not {exact}");
        }
    }
}
