//! Stochastic depth: per sample, a residual branch is dropped with a probability that grows with depth.
//!
//! The rates and the scaling are those of timm 1.0.31, `calculate_drop_path_rates` and
//! `layers/drop.py`. A draw is keyed by (seed, update, microbatch, sample, block), so neither the number
//! of ranks nor a resume changes it.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Part of the key, so that draws for other purposes with the same seed are independent.
const PURPOSE: u64 = u64::from_le_bytes(*b"droppath");

/// Drop probability of each of `blocks` blocks: from 0 for the first, linearly, to `rate` for the last.
pub fn drop_path_rates(rate: f64, blocks: usize) -> Vec<f64> {
    (0..blocks).map(|k| rate * k as f64 / (blocks.max(2) - 1) as f64).collect()
}

/// The stochastic-depth mask of one microbatch: the factor of each sample's branch in each block, which
/// is 0, or 1 over the probability that the branch is kept.
#[derive(Clone, Debug)]
pub struct DropPath {
    rates: Vec<f64>,
    samples: usize,
    /// Factors by block, then by sample.
    scales: Vec<f64>,
}

impl DropPath {
    /// A mask for at most `samples` samples that keeps every branch until it is drawn.
    pub fn new(rate: f64, blocks: usize, samples: usize) -> Self {
        let rates = drop_path_rates(rate, blocks);
        Self { rates, samples, scales: vec![1.0; blocks * samples] }
    }

    /// An empty mask, or `None` if the rate is 0.
    pub(crate) fn enabled(rate: f64, blocks: usize) -> Option<Self> {
        (rate > 0.0).then(|| Self::new(rate, blocks, 0))
    }

    /// Makes room for at least `samples` samples.
    pub(crate) fn reserve(&mut self, samples: usize) {
        if self.samples < samples {
            self.samples = samples;
            self.scales = vec![1.0; self.rates.len() * samples];
        }
    }

    /// Draws the mask of one microbatch of an update, counted from the start of training.
    pub fn draw(&mut self, seed: u64, update: u64, microbatch: u32) -> &Self {
        let mut key = [0; 32];
        for (part, value) in
            key.chunks_exact_mut(8).zip([seed, update, u64::from(microbatch), PURPOSE])
        {
            part.copy_from_slice(&value.to_le_bytes());
        }
        let mut stream = ChaCha8Rng::from_seed(key);
        let blocks = self.rates.len();
        // Samples are the outer loop, so that a sample's draws do not depend on how many follow it.
        for sample in 0..self.samples {
            for block in 0..blocks {
                let keep = 1.0 - self.rates[block];
                let uniform = f64::from(stream.next_u32()) / 4_294_967_296.0;
                self.scales[block * self.samples + sample] =
                    if uniform < keep { 1.0 / keep } else { 0.0 };
            }
        }
        self
    }

    /// Sets for each sample whether it keeps the branch of a block.
    pub fn set(&mut self, block: usize, kept: &[bool]) {
        let keep = 1.0 - self.rates[block];
        let scales = &mut self.scales[block * self.samples..][..self.samples];
        for (scale, kept) in scales.iter_mut().zip(kept) {
            *scale = if *kept { 1.0 / keep } else { 0.0 };
        }
    }

    /// The factors of a block, one per sample.
    pub fn block(&self, block: usize) -> &[f64] {
        &self.scales[block * self.samples..][..self.samples]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_draws_of_a_sample_do_not_depend_on_the_batch_size() {
        let (mut small, mut large) = (DropPath::new(0.5, 4, 2), DropPath::new(0.5, 4, 2));
        large.reserve(9);
        small.draw(1, 2, 3);
        large.draw(1, 2, 3);
        for block in 0..4 {
            assert_eq!(small.block(block), &large.block(block)[..2]);
        }
    }

    #[test]
    fn every_part_of_the_key_matters_and_the_kept_share_is_right() {
        let mut mask = DropPath::new(0.3, 3, 4096);
        let mut seen = Vec::new();
        for (seed, update, microbatch) in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)] {
            mask.draw(seed, update, microbatch);
            assert!(mask.block(0).iter().all(|s| s.to_bits() == 1.0_f64.to_bits()));
            let kept = mask.block(2).iter().filter(|s| **s > 0.0).count() as f64 / 4096.0;
            assert!((kept - 0.7).abs() < 5.0 * (0.21_f64 / 4096.0).sqrt(), "{kept}");
            seen.push(mask.block(2).to_vec());
        }
        for i in 0..seen.len() {
            assert!(seen[..i].iter().all(|other| *other != seen[i]));
        }
    }
}
