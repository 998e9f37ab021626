//! The sampler: maps the positions of an epoch to records, and splits them into steps and microbatches.
//!
//! ```text
//!   position p of epoch e  ->  record permutation(seed, e)[p / repeats]
//!   step s                 ->  positions s*B .. (s+1)*B
//!   microbatch g of G      ->  those with p % G == g, in order
//! ```
//!
//! The permutation is computed for one position at a time, so there is no list, no shuffle buffer and
//! no state to save. Given a permutation, positions are those of timm's `RepeatAugSampler`
//! (`timm/data/distributed_sampler.py`): microbatch g of G gets what its rank g of G gets.
//!
//! A recipe with sampling fields has draws of records by class in place of the permutation (`draws.rs`), and datasets
//! that are mixed with weights have draws by dataset (`mixed.rs`).

mod draws;
mod mixed;
mod permutation;

use std::ops::Range;
use std::sync::Arc;

use crate::classes::ClassTable;
use crate::recipe::{Recipe, RecipeError, RecordOrder};

use draws::{Classes, Draws};
use mixed::{Mix, MixDraws};
use permutation::Permutation;

/// timm truncates an epoch of repeated augmentation to a multiple of 256 samples (the default of its
/// argument `selected_round`).
const SELECTED_ROUND: u64 = 256;

/// Maps the positions of every epoch to records, for one dataset, recipe and seed.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// Records, or draws if some come more often than others.
    records: u64,
    seed: u64,
    order: RecordOrder,
    repeats: u64,
    batch: u64,
    microbatches: u64,
    drawn: Drawn,
}

/// How the records of a shuffled epoch are drawn.
#[derive(Clone, Debug)]
enum Drawn {
    /// Each once.
    Evenly,
    ByClass(Classes),
    ByPart(Mix),
}

impl Sampler {
    /// Creates the sampler of a dataset of `records` records, for a recipe without sampling fields;
    /// [`sampler`](crate::sampler) makes that of any recipe.
    ///
    /// # Errors
    /// [`RecipeError::TooSmall`] if the dataset has too few records for one step, and
    /// [`RecipeError::NeedsClasses`] if the recipe has sampling fields.
    pub fn new(records: u64, recipe: &Recipe, seed: u64) -> Result<Self, RecipeError> {
        if !recipe.sampling.is_uniform() {
            return Err(RecipeError::NeedsClasses);
        }
        Self::with(Drawn::Evenly, records, recipe, seed)
    }

    /// Creates the sampler of a dataset whose records are drawn by class. `names` has the classes by label.
    ///
    /// # Errors
    /// As those of [`ClassTable::shares`], and [`RecipeError::TooSmall`] if the dataset has too few records for one
    /// step.
    pub(crate) fn by_class(
        table: &Arc<ClassTable>,
        names: &[String],
        records: u64,
        recipe: &Recipe,
        seed: u64,
    ) -> Result<Self, RecipeError> {
        let shares = table.shares(names, &recipe.sampling)?;
        let classes = Classes { table: Arc::clone(table), shares };
        Self::with(Drawn::ByClass(classes), records, recipe, seed)
    }

    /// Creates the sampler of datasets that are mixed, given by number of records and of draws in an epoch; a sequential
    /// one has every record once.
    ///
    /// # Errors
    /// As those of [`new`](Self::new).
    pub(crate) fn mixed(
        parts: impl IntoIterator<Item = (u64, u64)> + Clone,
        recipe: &Recipe,
        seed: u64,
    ) -> Result<Self, RecipeError> {
        let mix = Mix::new(parts.clone()).filter(|_| recipe.order == RecordOrder::Shuffled);
        match mix {
            Some(mix) => {
                let draws = mix.draws();
                Self::with(Drawn::ByPart(mix), draws, recipe, seed)
            }
            None => Self::new(parts.into_iter().map(|(records, _)| records).sum(), recipe, seed),
        }
    }

    fn with(drawn: Drawn, records: u64, recipe: &Recipe, seed: u64) -> Result<Self, RecipeError> {
        let sampler = Self {
            records,
            seed,
            order: recipe.order,
            repeats: u64::from(recipe.repeats),
            batch: u64::from(recipe.batch),
            microbatches: u64::from(recipe.microbatches),
            drawn,
        };
        if sampler.steps_per_epoch() == 0 {
            return Err(RecipeError::TooSmall {
                samples: sampler.selected(),
                batch: recipe.batch,
                microbatches: recipe.microbatches,
            });
        }
        Ok(sampler)
    }

    /// Whether an epoch has no record more often than others, but for what is truncated.
    pub const fn is_even(&self) -> bool {
        matches!(self.drawn, Drawn::Evenly)
    }

    /// Samples of an epoch before it is truncated to whole steps.
    fn selected(&self) -> u64 {
        if self.repeats > 1 && self.records >= SELECTED_ROUND {
            self.records / SELECTED_ROUND * SELECTED_ROUND
        } else {
            self.records
        }
    }

    /// Optimizer steps of an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        match self.order {
            RecordOrder::Shuffled => self.selected() / self.batch,
            RecordOrder::Sequential => self.selected().div_ceil(self.batch),
        }
    }

    /// Samples of an epoch: those of its whole steps, or every record in sequential order.
    pub fn samples_per_epoch(&self) -> u64 {
        self.selected().min(self.steps_per_epoch() * self.batch)
    }

    /// Number of non-empty microbatches of a step: all of them, unless the last step of a sequential
    /// epoch has fewer samples than microbatches.
    ///
    /// # Panics
    /// When the step is past the end of the epoch.
    pub fn microbatches(&self, step: u64) -> u32 {
        assert!(step < self.steps_per_epoch(), "step {step} is past the end");
        let remaining = self.samples_per_epoch() - step * self.batch;
        u32::try_from(remaining.min(self.microbatches)).expect("at most 1024")
    }

    /// Positions of a microbatch, in the order of its slots.
    ///
    /// # Panics
    /// When the step or the microbatch is past the end of the epoch.
    pub fn positions(&self, step: u64, microbatch: u32) -> impl Iterator<Item = u64> + use<> {
        assert!(step < self.steps_per_epoch() && u64::from(microbatch) < self.microbatches);
        // A step starts at a multiple of G, so p % G == g holds for every G-th position from the g-th.
        let Range { start, end } = self.step(step);
        (start + u64::from(microbatch)..end)
            .step_by(usize::try_from(self.microbatches).expect("at most 1024"))
    }

    /// Number of samples of a microbatch.
    ///
    /// # Panics
    /// When the step is past the end of the epoch.
    pub fn samples(&self, step: u64, microbatch: u32) -> u64 {
        let Range { start, end } = self.step(step);
        (end - start).saturating_sub(u64::from(microbatch)).div_ceil(self.microbatches)
    }

    /// Positions of a step.
    ///
    /// # Panics
    /// When the step is past the end of the epoch.
    pub fn step(&self, step: u64) -> Range<u64> {
        assert!(step < self.steps_per_epoch(), "step {step} is past the end");
        let first = step * self.batch;
        first..(first + self.batch).min(self.samples_per_epoch())
    }

    /// Positions of a step at which the record of one of its positions is repeated.
    pub fn repeats(&self, step: &Range<u64>, position: u64) -> Range<u64> {
        let first = position / self.repeats * self.repeats;
        first.max(step.start)..(first + self.repeats).min(step.end)
    }

    /// Draws of records in an epoch: as many as it has, so that those are what comes evenly.
    fn draws(&self) -> u64 {
        self.samples_per_epoch().div_ceil(self.repeats)
    }

    /// The mapping from positions to records in one epoch.
    pub fn epoch(&self, epoch: u64) -> EpochSampler {
        let order = match (self.order, &self.drawn) {
            (RecordOrder::Sequential, _) => Order::Sequential,
            (RecordOrder::Shuffled, Drawn::Evenly) => {
                Order::Permuted(Permutation::new(self.records, self.seed, epoch))
            }
            (RecordOrder::Shuffled, Drawn::ByPart(mix)) => {
                Order::Mixed(MixDraws::new(mix, self.draws(), self.seed, epoch))
            }
            (RecordOrder::Shuffled, Drawn::ByClass(classes)) => {
                Order::Drawn(Draws::new(classes.clone(), self.draws(), self.seed, epoch))
            }
        };
        EpochSampler { order, repeats: self.repeats }
    }
}

/// Maps the positions of one epoch to records.
#[derive(Clone, Debug)]
pub struct EpochSampler {
    order: Order,
    repeats: u64,
}

#[derive(Clone, Debug)]
enum Order {
    Sequential,
    Permuted(Permutation),
    Mixed(MixDraws),
    Drawn(Draws),
}

impl EpochSampler {
    /// Record at a position.
    pub fn record(&self, position: u64) -> u64 {
        let index = position / self.repeats;
        match &self.order {
            Order::Sequential => index,
            Order::Permuted(permutation) => permutation.at(index),
            Order::Mixed(draws) => draws.record(index),
            Order::Drawn(draws) => draws.record(index),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::recipe::RecipeSpec;

    fn recipe(base: &str, batch: u32, microbatches: u32, repeats: u32) -> Recipe {
        RecipeSpec::preset(base)
            .with_changes([
                format!("batch = {batch}"),
                format!("microbatches = {microbatches}"),
                format!("repeats = {repeats}"),
            ])
            .resolve()
            .unwrap()
    }

    proptest! {
        #[test]
        fn microbatches_of_an_epoch_cover_its_positions_once(
            records in 8_u64..2000, size in 1_u32..5, microbatches in 1_u32..9, repeats in 1_u32..5,
        ) {
            let recipe = recipe("a2", 2 * size * microbatches, microbatches, repeats);
            let Ok(sampler) = Sampler::new(records, &recipe, 1) else { return Ok(()) };
            let mut positions: Vec<u64> = (0..sampler.steps_per_epoch())
                .flat_map(|step| (0..microbatches).map(move |g| (step, g)))
                .flat_map(|(step, g)| sampler.positions(step, g))
                .collect();
            positions.sort_unstable();
            prop_assert!(positions.into_iter().eq(0..sampler.samples_per_epoch()));
        }

        #[test]
        fn repeats_of_a_record_have_adjacent_positions(
            records in 300_u64..2000, repeats in 2_u32..5, seed: u64,
        ) {
            let sampler = Sampler::new(records, &recipe("a2", 8, 4, repeats), seed).unwrap();
            let epoch = sampler.epoch(3);
            for p in 0..sampler.samples_per_epoch() {
                let first = p / u64::from(repeats) * u64::from(repeats);
                prop_assert_eq!(epoch.record(p), epoch.record(first));
            }
        }

        #[test]
        fn evaluation_visits_every_record_once_in_order(records in 1_u64..700, batch in 1_u32..65) {
            let sampler = Sampler::new(records, &recipe("eval", batch, 1, 1), 9).unwrap();
            let epoch = sampler.epoch(0);
            let visited: Vec<u64> = (0..sampler.steps_per_epoch())
                .flat_map(|step| sampler.positions(step, 0))
                .map(|p| epoch.record(p))
                .collect();
            prop_assert!(visited.into_iter().eq(0..records));
        }
    }

    #[test]
    fn a_short_last_step_has_no_empty_microbatch() {
        let sampler = Sampler::new(11, &recipe("eval", 8, 4, 1), 0).unwrap();
        assert_eq!((sampler.microbatches(0), sampler.microbatches(1)), (4, 3));
        assert!((0..3).all(|g| sampler.positions(1, g).count() == 1));
    }

    #[test]
    fn repeats_of_a_record_do_not_cross_a_step() {
        let sampler = Sampler::new(300, &recipe("a2", 16, 8, 3), 0).unwrap();
        let step = sampler.step(1);
        assert_eq!(step, 16..32);
        let repeats: Vec<_> = step.clone().map(|p| sampler.repeats(&step, p)).collect();
        assert_eq!(repeats[..4], [16..18, 16..18, 18..21, 18..21]);
        assert_eq!(repeats[14..], [30..32, 30..32]);
    }

    #[test]
    fn imagenet_has_625_steps_with_and_without_repeats() {
        for name in ["a1", "a2", "a3"] {
            let recipe = RecipeSpec::preset(name).resolve().unwrap();
            assert_eq!(Sampler::new(1_281_167, &recipe, 0).unwrap().steps_per_epoch(), 625);
        }
    }

    #[test]
    fn a_dataset_smaller_than_a_step_is_refused_with_advice() {
        let recipe = RecipeSpec::preset("a2").resolve().unwrap();
        let error = Sampler::new(200, &recipe, 0).unwrap_err().to_string();
        assert!(error.contains("200 samples") && error.contains("(--batch 192)"), "{error}");
        let error = Sampler::new(10, &recipe, 0).unwrap_err().to_string();
        assert!(error.contains("(--batch 10 --microbatches 1)"), "{error}");
    }
}
