//! Statistics of the whole image that operations depend on.

use super::blend::luma;
use crate::simd::kernel;

kernel! {
    /// The lowest and the highest value of each channel.
    pub(super) fn extremes(pixels: &[u8]) -> [(u8, u8); 3] {
        // A multiple of the bytes of a pixel and of a vector.
        const BLOCK: usize = 96;
        let mut low = [u8::MAX; BLOCK];
        let mut high = [0; BLOCK];
        let (blocks, rest) = pixels.as_chunks::<BLOCK>();
        for block in blocks {
            for ((low, high), value) in low.iter_mut().zip(&mut high).zip(block) {
                *low = (*low).min(*value);
                *high = (*high).max(*value);
            }
        }
        for ((low, high), value) in low.iter_mut().zip(&mut high).zip(rest) {
            *low = (*low).min(*value);
            *high = (*high).max(*value);
        }
        [0, 1, 2].map(|channel| {
            let low = low.iter().skip(channel).step_by(3).min();
            let high = high.iter().skip(channel).step_by(3).max();
            (*low.expect("not empty"), *high.expect("not empty"))
        })
    }
}

kernel! {
    /// Pillow's `int(mean + 0.5)` of the gray image.
    pub(super) fn mean_luma(pixels: &[u8]) -> u8 {
        let (pixels, _) = pixels.as_chunks::<3>();
        // The sum of a group fits 32 bits, which the compiler vectorizes.
        let sum: u64 = pixels
            .chunks(1 << 16)
            .map(|group| u64::from(group.iter().map(|rgb| u32::from(luma(*rgb))).sum::<u32>()))
            .sum();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 255")]
        {
            (sum as f64 / pixels.len() as f64 + 0.5) as u8
        }
    }
}

/// The histogram of each channel.
pub(super) fn histograms(pixels: &[u8]) -> [[u32; 256]; 3] {
    // Two histograms for alternating pixels: an increment would otherwise have to wait for that of
    // an equal neighbor.
    let mut counts = [[[0_u32; 256]; 3]; 2];
    let (pairs, rest) = pixels.as_chunks::<6>();
    for [r, g, b, r2, g2, b2] in pairs {
        counts[0][0][usize::from(*r)] += 1;
        counts[0][1][usize::from(*g)] += 1;
        counts[0][2][usize::from(*b)] += 1;
        counts[1][0][usize::from(*r2)] += 1;
        counts[1][1][usize::from(*g2)] += 1;
        counts[1][2][usize::from(*b2)] += 1;
    }
    for (channel, value) in rest.iter().enumerate() {
        counts[0][channel][usize::from(*value)] += 1;
    }
    let [mut sums, others] = counts;
    for (sum, other) in sums.as_flattened_mut().iter_mut().zip(others.as_flattened()) {
        *sum += other;
    }
    sums
}
