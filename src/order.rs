//! Which record stands at which position of an epoch, and which positions make up a microbatch.
//!
//! ```text
//!   position p of epoch e  ->  record permutation(seed, e)[p / repeats]
//!   step s                 ->  positions s*B .. (s+1)*B
//!   microbatch g of G      ->  those with p % G == g, in order
//! ```
//!
//! The permutation is a keyed bijection, so any position is found at once: there is no list, no
//! shuffle buffer and no state. Given a permutation, positions are those of timm's `RepeatAugSampler`
//! (`timm/data/distributed_sampler.py`): its rank r of G takes what microbatch r takes here.

use std::ops::Range;

use crate::recipe::{Order, Recipe, RecipeError};

/// timm cuts an epoch of repeated augmentation to a multiple of this many samples.
const SELECTED_ROUND: u64 = 256;

/// The order of a dataset's records under a recipe and a seed.
#[derive(Clone, Debug)]
pub struct Sequence {
    records: u64,
    seed: u64,
    order: Order,
    repeats: u64,
    batch: u64,
    microbatches: u64,
}

impl Sequence {
    /// The order of `records` records.
    ///
    /// # Errors
    /// [`RecipeError::TooSmall`] if an epoch would have no step.
    pub fn new(records: u64, recipe: &Recipe, seed: u64) -> Result<Self, RecipeError> {
        let sequence = Self {
            records,
            seed,
            order: recipe.order,
            repeats: u64::from(recipe.repeats),
            batch: u64::from(recipe.batch),
            microbatches: u64::from(recipe.microbatches),
        };
        if sequence.steps_per_epoch() == 0 {
            return Err(RecipeError::TooSmall { samples: sequence.length(), batch: recipe.batch });
        }
        Ok(sequence)
    }

    /// Samples that an epoch offers, before it is cut to whole steps.
    fn length(&self) -> u64 {
        if self.repeats > 1 && self.records >= SELECTED_ROUND {
            self.records / SELECTED_ROUND * SELECTED_ROUND
        } else {
            self.records
        }
    }

    /// Optimizer steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        match self.order {
            Order::Shuffled => self.length() / self.batch,
            Order::Sequential => self.length().div_ceil(self.batch),
        }
    }

    /// Samples of an epoch: those of its whole steps, or all of them in sequential order.
    pub fn samples_per_epoch(&self) -> u64 {
        self.length().min(self.steps_per_epoch() * self.batch)
    }

    /// Microbatches of a step that hold samples: all, unless the last step of a sequential epoch has
    /// fewer samples than microbatches.
    ///
    /// # Panics
    /// When the step lies outside the epoch.
    pub fn microbatches(&self, step: u64) -> u32 {
        assert!(step < self.steps_per_epoch(), "step {step}");
        let left = self.samples_per_epoch() - step * self.batch;
        u32::try_from(left.min(self.microbatches)).expect("at most 1024")
    }

    /// The positions of one microbatch, in the order of its slots.
    ///
    /// # Panics
    /// When the step or the microbatch lies outside the epoch.
    pub fn positions(&self, step: u64, microbatch: u32) -> impl Iterator<Item = u64> + use<> {
        assert!(step < self.steps_per_epoch() && u64::from(microbatch) < self.microbatches);
        let first = step * self.batch;
        // A step starts at a multiple of G, so p % G == g is every G-th position from the g-th.
        let end = (first + self.batch).min(self.samples_per_epoch());
        (first + u64::from(microbatch)..end)
            .step_by(usize::try_from(self.microbatches).expect("at most 1024"))
    }

    /// The positions of a step.
    ///
    /// # Panics
    /// When the step lies outside the epoch.
    pub fn step(&self, step: u64) -> Range<u64> {
        assert!(step < self.steps_per_epoch(), "step {step}");
        let first = step * self.batch;
        first..(first + self.batch).min(self.samples_per_epoch())
    }

    /// The positions of a step that show the record of a position of it.
    pub fn repeats(&self, step: &Range<u64>, position: u64) -> Range<u64> {
        let first = position / self.repeats * self.repeats;
        first.max(step.start)..(first + self.repeats).min(step.end)
    }

    /// The permutation of an epoch.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        let permutation = match self.order {
            Order::Shuffled => Some(Permutation::new(self.records, self.seed, epoch)),
            Order::Sequential => None,
        };
        Epoch { permutation, repeats: self.repeats }
    }
}

/// One epoch's order.
#[derive(Clone, Debug)]
pub struct Epoch {
    permutation: Option<Permutation>,
    repeats: u64,
}

impl Epoch {
    /// The record at a position.
    pub fn record(&self, position: u64) -> u64 {
        let rank = position / self.repeats;
        self.permutation.as_ref().map_or(rank, |permutation| permutation.at(rank))
    }
}

/// A permutation of `0..n` that is computed and not stored: a Feistel network over the next power of
/// two, walked until it lands below n (Black and Rogaway, "Ciphers with arbitrary finite domains",
/// 2002). Fewer than two walks on average, whatever n is.
#[derive(Clone, Debug)]
pub struct Permutation {
    n: u64,
    left_bits: u32,
    right_bits: u32,
    keys: [u64; Self::ROUNDS],
}

impl Permutation {
    /// Alternating rounds on both halves. Four would do for large halves (Luby and Rackoff); halves
    /// of a few bits need more until every record is equally likely at every place.
    const ROUNDS: usize = 12;

    /// The permutation of `0..n` of one epoch.
    ///
    /// # Panics
    /// When n is 0 or over 2^62.
    pub fn new(n: u64, seed: u64, epoch: u64) -> Self {
        assert!(n > 0 && n <= 1 << 62, "a permutation of {n}");
        let bits = n.next_power_of_two().trailing_zeros().max(2);
        let mut name = *b"forebay order 1\0................";
        name[16..24].copy_from_slice(&seed.to_le_bytes());
        name[24..].copy_from_slice(&epoch.to_le_bytes());
        let mut bytes = [0; Self::ROUNDS * 8];
        blake3::Hasher::new().update(&name).finalize_xof().fill(&mut bytes);
        let mut keys = [0; Self::ROUNDS];
        for (key, bytes) in keys.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *key = u64::from_le_bytes(*bytes);
        }
        Self { n, left_bits: bits / 2, right_bits: bits - bits / 2, keys }
    }

    /// The image of `i`.
    ///
    /// # Panics
    /// When `i` is not below n.
    pub fn at(&self, i: u64) -> u64 {
        assert!(i < self.n, "{i} of {}", self.n);
        let mut value = i;
        loop {
            value = self.encipher(value);
            if value < self.n {
                return value;
            }
        }
    }

    fn encipher(&self, value: u64) -> u64 {
        let left_mask = (1 << self.left_bits) - 1;
        let right_mask = (1 << self.right_bits) - 1;
        let (mut left, mut right) = (value >> self.right_bits, value & right_mask);
        for keys in self.keys.as_chunks::<2>().0 {
            left ^= scramble(right ^ keys[0]) & left_mask;
            right ^= scramble(left ^ keys[1]) & right_mask;
        }
        left << self.right_bits | right
    }
}

/// The finaliser of `SplitMix64` (Steele, Lea and Flood, 2014), its high half folded in.
fn scramble(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::recipe::RecipeSpec;

    fn recipe(base: &str, batch: u32, microbatches: u32, repeats: u32) -> Recipe {
        RecipeSpec::preset(base)
            .with([
                format!("batch = {batch}"),
                format!("microbatches = {microbatches}"),
                format!("repeats = {repeats}"),
            ])
            .resolve()
            .unwrap()
    }

    proptest! {
        #[test]
        fn the_permutation_is_a_bijection(n in 1_u64..3000, seed: u64, epoch: u64) {
            let permutation = Permutation::new(n, seed, epoch);
            let mut seen = vec![false; usize::try_from(n).unwrap()];
            for i in 0..n {
                let place = usize::try_from(permutation.at(i)).unwrap();
                prop_assert!(!std::mem::replace(&mut seen[place], true), "{place} twice");
            }
        }

        #[test]
        fn the_permutation_of_a_huge_set_stays_inside(n in 1_u64 << 40..=1 << 62, i: u64, seed: u64) {
            let permutation = Permutation::new(n, seed, 0);
            let (a, b) = (i % n, (i.wrapping_mul(3) + 1) % n);
            prop_assert!(permutation.at(a) < n && permutation.at(b) < n);
            prop_assert_eq!(a == b, permutation.at(a) == permutation.at(b));
        }

        #[test]
        fn microbatches_of_an_epoch_cover_its_positions_once(
            records in 8_u64..2000, size in 1_u32..5, microbatches in 1_u32..9, repeats in 1_u32..5,
        ) {
            let recipe = recipe("a2", 2 * size * microbatches, microbatches, repeats);
            let Ok(sequence) = Sequence::new(records, &recipe, 1) else { return Ok(()) };
            let mut positions: Vec<u64> = (0..sequence.steps_per_epoch())
                .flat_map(|step| (0..microbatches).map(move |g| (step, g)))
                .flat_map(|(step, g)| sequence.positions(step, g))
                .collect();
            positions.sort_unstable();
            prop_assert!(positions.into_iter().eq(0..sequence.samples_per_epoch()));
        }

        #[test]
        fn a_repeated_record_comes_as_neighbouring_positions(
            records in 300_u64..2000, repeats in 2_u32..5, seed: u64,
        ) {
            let sequence = Sequence::new(records, &recipe("a2", 8, 4, repeats), seed).unwrap();
            let epoch = sequence.epoch(3);
            for p in 0..sequence.samples_per_epoch() {
                let first = p / u64::from(repeats) * u64::from(repeats);
                prop_assert_eq!(epoch.record(p), epoch.record(first));
            }
        }

        #[test]
        fn evaluation_takes_every_record_once_in_order(records in 1_u64..700, batch in 1_u32..65) {
            let sequence = Sequence::new(records, &recipe("eval", batch, 1, 1), 9).unwrap();
            let epoch = sequence.epoch(0);
            let taken: Vec<u64> = (0..sequence.steps_per_epoch())
                .flat_map(|step| sequence.positions(step, 0))
                .map(|p| epoch.record(p))
                .collect();
            prop_assert!(taken.into_iter().eq(0..records));
        }
    }

    #[test]
    fn every_record_is_equally_likely_everywhere() {
        // 60,000 epochs: for each place, how often each of n records stands there. Chi-square with
        // n - 1 degrees of freedom has mean n - 1 and variance 2 (n - 1); n places are looked at.
        for n in [2_u64, 3, 5, 17, 24, 33] {
            let size = usize::try_from(n).unwrap();
            let epochs = 60_000_u32;
            let mut counts = vec![vec![0_u32; size]; size];
            for epoch in 0..epochs {
                let permutation = Permutation::new(n, 7, u64::from(epoch));
                for (i, counts) in (0_u64..).zip(&mut counts) {
                    counts[usize::try_from(permutation.at(i)).unwrap()] += 1;
                }
            }
            let expected = f64::from(epochs) / n as f64;
            let freedom = n as f64 - 1.0;
            for (place, counts) in counts.iter().enumerate() {
                let chi: f64 =
                    counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
                assert!(
                    chi < freedom + 6.0 * (2.0 * freedom).sqrt() + 6.0,
                    "n {n} place {place}: {chi}"
                );
            }
        }
    }

    #[test]
    fn neighbours_do_not_stay_neighbours() {
        // In a random permutation of n, i + 1 follows i once an epoch in the mean.
        let (n, epochs) = (1000, 400);
        let followed: usize = (0..epochs)
            .map(|epoch| {
                let permutation = Permutation::new(n, 3, epoch);
                (1..n).filter(|&i| permutation.at(i) == permutation.at(i - 1) + 1).count()
            })
            .sum();
        let mean = followed as f64 / epochs as f64;
        assert!((mean - 1.0).abs() < 5.0 / (epochs as f64).sqrt(), "{mean} a epoch");
    }

    #[test]
    fn another_epoch_or_seed_is_another_order() {
        let order = |seed, epoch| {
            let permutation = Permutation::new(1000, seed, epoch);
            (0..1000).map(|i| permutation.at(i)).collect::<Vec<_>>()
        };
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        assert_eq!(order(1, 0), order(1, 0));
    }

    #[test]
    fn a_short_last_step_has_no_empty_microbatch() {
        let sequence = Sequence::new(11, &recipe("eval", 8, 4, 1), 0).unwrap();
        assert_eq!((sequence.microbatches(0), sequence.microbatches(1)), (4, 3));
        assert!((0..3).all(|g| sequence.positions(1, g).count() == 1));
    }

    #[test]
    fn the_repeats_of_a_record_end_with_the_step() {
        let sequence = Sequence::new(300, &recipe("a2", 16, 8, 3), 0).unwrap();
        let step = sequence.step(1);
        assert_eq!(step, 16..32);
        let repeats: Vec<_> = step.clone().map(|p| sequence.repeats(&step, p)).collect();
        assert_eq!(repeats[..4], [16..18, 16..18, 18..21, 18..21]);
        assert_eq!(repeats[14..], [30..32, 30..32]);
    }

    #[test]
    fn imagenet_has_625_steps_with_and_without_repeats() {
        for name in ["a1", "a2", "a3"] {
            let recipe = RecipeSpec::preset(name).resolve().unwrap();
            assert_eq!(Sequence::new(1_281_167, &recipe, 0).unwrap().steps_per_epoch(), 625);
        }
    }

    #[test]
    fn a_dataset_smaller_than_a_step_is_refused_with_a_way_out() {
        let recipe = RecipeSpec::preset("a2").resolve().unwrap();
        let error = Sequence::new(200, &recipe, 0).unwrap_err().to_string();
        assert!(error.contains("200 samples") && error.contains("--batch 200"), "{error}");
    }
}
