//! Stochastic depth: per sample, a residual branch is left out with a chance that grows with depth.
//!
//! timm 1.0.31, `calculate_drop_path_rates` and `layers/drop.py`. A draw is keyed by (seed, step,
//! microbatch, sample, block), so neither the number of trainers nor a resume changes it.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Tells these draws from others with the same seed.
const PURPOSE: u64 = u64::from_le_bytes(*b"droppath");

/// Chance of each of `blocks` blocks to be left out, 0 for the first and `rate` for the last.
pub fn rates(rate: f64, blocks: usize) -> Vec<f64> {
    (0..blocks).map(|k| rate * k as f64 / (blocks.max(2) - 1) as f64).collect()
}

/// What to multiply each sample's branch with: 0, or 1 over the chance to be kept.
#[derive(Clone, Debug)]
pub struct Drops {
    rates: Vec<f64>,
    samples: usize,
    /// Block, sample.
    scales: Vec<f64>,
}

impl Drops {
    /// Nothing left out yet of at most `samples` samples.
    pub fn new(rate: f64, blocks: usize, samples: usize) -> Self {
        Self { rates: rates(rate, blocks), samples, scales: vec![1.0; blocks * samples] }
    }

    /// The most samples it draws for.
    pub const fn samples(&self) -> usize {
        self.samples
    }

    /// Draws for one microbatch of a step (counted from the training's begin).
    pub fn draw(&mut self, seed: u64, step: u64, microbatch: u32) {
        let mut key = [0; 32];
        for (part, value) in
            key.chunks_exact_mut(8).zip([seed, step, u64::from(microbatch), PURPOSE])
        {
            part.copy_from_slice(&value.to_le_bytes());
        }
        let mut stream = ChaCha8Rng::from_seed(key);
        let blocks = self.rates.len();
        for sample in 0..self.samples {
            for block in 0..blocks {
                let kept = 1.0 - self.rates[block];
                let uniform = f64::from(stream.next_u32()) / 4_294_967_296.0;
                self.scales[block * self.samples + sample] =
                    if uniform < kept { 1.0 / kept } else { 0.0 };
            }
        }
    }

    /// Sets what is kept of a block.
    pub fn set(&mut self, block: usize, kept: &[bool]) {
        let keep = 1.0 - self.rates[block];
        for (scale, kept) in self.block_mut(block).iter_mut().zip(kept) {
            *scale = if *kept { 1.0 / keep } else { 0.0 };
        }
    }

    /// The factors of a block's samples.
    pub fn block(&self, block: usize) -> &[f64] {
        &self.scales[block * self.samples..][..self.samples]
    }

    fn block_mut(&mut self, block: usize) -> &mut [f64] {
        &mut self.scales[block * self.samples..][..self.samples]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_s_draws_do_not_depend_on_how_many_follow() {
        let (mut few, mut many) = (Drops::new(0.5, 4, 2), Drops::new(0.5, 4, 9));
        few.draw(1, 2, 3);
        many.draw(1, 2, 3);
        for block in 0..4 {
            assert_eq!(few.block(block), &many.block(block)[..2]);
        }
    }

    #[test]
    fn each_part_of_the_key_matters_and_the_share_kept_is_right() {
        let mut drops = Drops::new(0.3, 3, 4096);
        let mut seen = Vec::new();
        for (seed, step, microbatch) in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)] {
            drops.draw(seed, step, microbatch);
            assert!(drops.block(0).iter().all(|s| s.to_bits() == 1.0_f64.to_bits()));
            let kept = drops.block(2).iter().filter(|s| **s > 0.0).count() as f64 / 4096.0;
            assert!((kept - 0.7).abs() < 5.0 * (0.21_f64 / 4096.0).sqrt(), "{kept}");
            seen.push(drops.block(2).to_vec());
        }
        for i in 0..seen.len() {
            assert!(seen[..i].iter().all(|other| *other != seen[i]));
        }
    }
}
