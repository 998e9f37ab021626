//! The inverse DCT in plain Rust: the twin that the AVX2 kernel equals.

use crate::decode::jpeg::block::Block;

/// Fraction bits of the constants.
pub(super) const CONST_BITS: i32 = 13;
/// Fraction bits between the passes.
pub(super) const PASS1_BITS: i32 = 2;
/// The right shift at the end of the column pass.
pub(super) const SHIFT_COLUMNS: i32 = CONST_BITS - PASS1_BITS;
/// The right shift at the end of the row pass, which also divides by the transform's factor of 8.
pub(super) const SHIFT_ROWS: i32 = CONST_BITS + PASS1_BITS + 3;

// round(x * 2^13)
pub(super) const F_0_298: i32 = 2446;
pub(super) const F_0_390: i32 = 3196;
pub(super) const F_0_541: i32 = 4433;
pub(super) const F_0_765: i32 = 6270;
pub(super) const F_0_899: i32 = 7373;
pub(super) const F_1_175: i32 = 9633;
pub(super) const F_1_501: i32 = 12299;
pub(super) const F_1_847: i32 = 15137;
pub(super) const F_1_961: i32 = 16069;
pub(super) const F_2_053: i32 = 16819;
pub(super) const F_2_562: i32 = 20995;
pub(super) const F_3_072: i32 = 25172;

/// Transforms neighboring blocks; see [`super::row_of_blocks`].
pub(super) fn row_of_blocks<'a>(
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
            transform_block(block, quant, out, stride);
        }
    }
}

/// The sample that a block without AC coefficients is filled with.
pub(super) fn flat(block: &Block, quant: &[u16; 64]) -> u8 {
    let level = block.0[0].wrapping_mul(quant[0].cast_signed()) << PASS1_BITS;
    sample((i32::from(level) + (1 << (PASS1_BITS + 2))) >> (PASS1_BITS + 3))
}

/// The sample of a level, which is centered on 0.
fn sample(level: i32) -> u8 {
    (level + 128).clamp(0, 255) as u8
}

/// Transforms one block.
fn transform_block(block: &Block, quant: &[u16; 64], out: &mut [u8], stride: usize) {
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
