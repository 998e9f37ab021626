//! The two passes in plain Rust: the twins that the kernels with vectors equal.
//!
//! Source: Pillow 12, `src/libImaging/Resample.c`: `ImagingResampleHorizontal_8bpc` and
//! `ImagingResampleVertical_8bpc`.

use super::weights::{WEIGHT_BITS, Weights};

/// Half of a unit of the result. Sums start from it, so that the final shift rounds.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// One row of the horizontal pass.
pub(super) fn horizontal(row: &[u8], columns: &Weights, out: &mut [u8]) {
    let outputs = columns.first.iter().zip(columns.values.chunks_exact(columns.taps));
    for ((first, weights), pixel) in outputs.zip(out.as_chunks_mut::<3>().0) {
        let mut sums = [HALF; 3];
        let (source, _) = row[*first as usize * 3..].as_chunks::<3>();
        for (rgb, weight) in source.iter().zip(weights) {
            for (sum, channel) in sums.iter_mut().zip(rgb) {
                *sum += i32::from(*channel) * weight;
            }
        }
        *pixel = sums.map(clip);
    }
}

/// One row of the vertical pass, or a part of one. `data` starts with the part's bytes in the first
/// row that has a weight; rows are `stride` apart.
pub(super) fn vertical(data: &[u8], stride: usize, weights: &[i32], out: &mut [u8]) {
    const BLOCK: usize = 64;
    for (block, out) in out.chunks_mut(BLOCK).enumerate() {
        let mut sums = [HALF; BLOCK];
        for (row, weight) in data[block * BLOCK..].chunks(stride).zip(weights) {
            for (sum, value) in sums[..out.len()].iter_mut().zip(row) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (to, sum) in out.iter_mut().zip(sums) {
            *to = clip(sum);
        }
    }
}

#[expect(clippy::cast_sign_loss, reason = "clamped")]
fn clip(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}
