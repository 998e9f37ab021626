//! Draws of records by class, for recipes with sampling fields.
//!
//! ```text
//!   draw i of epoch e  ->  number permutation(seed, e)[i]
//!   numbers 0..n       ->  a range for each class, as long as its share of them, shifted by (seed, e)
//!   place k in a range ->  record permutation(seed, e, class, k / m)[k % m] of the m records of the class
//! ```
//!
//! Each draw is of each class with the probability of its weight, as with torch's `WeightedRandomSampler`. Unlike
//! there, the draws of an epoch are not independent, and come evenly: an epoch has a class as often as its share,
//! rounded up or down, and no record of a class comes again before all others of the class have.

use std::sync::Arc;

use super::permutation::Permutation;
use crate::classes::{ClassTable, Shares};

/// The classes that records are drawn from.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    pub(super) table: Arc<ClassTable>,
    pub(super) shares: Arc<Shares>,
}

/// The draws of one epoch.
#[derive(Clone, Debug)]
pub(super) struct Draws {
    classes: Classes,
    /// Their number.
    count: u64,
    numbers: Permutation,
    shift: f64,
    seed: u64,
    epoch: u64,
}

impl Draws {
    pub(super) fn new(classes: Classes, count: u64, seed: u64, epoch: u64) -> Self {
        let numbers = Permutation::new(count, seed, epoch);
        Self { classes, count, numbers, shift: shift(seed, epoch), seed, epoch }
    }

    /// The record of a draw.
    ///
    /// # Panics
    /// When `index` is not below the number of draws.
    pub(super) fn record(&self, index: u64) -> u64 {
        let Classes { table, shares } = &self.classes;
        let (class, place) = shares.class_of(self.numbers.at(index), self.count, self.shift);
        let records = table.of(class);
        // A class without records has no share.
        let n = records.len() as u64;
        let order = Permutation::of_class(n, self.seed, self.epoch, (class, place / n));
        records[usize::try_from(order.at(place % n)).expect("below a length")].into()
    }
}

/// A number in `0..1` for each epoch. Its 20 bits are few enough for sums with numbers of draws to be exact.
fn shift(seed: u64, epoch: u64) -> f64 {
    let mut name = *b"forebay shift 1\0................";
    name[16..24].copy_from_slice(&seed.to_le_bytes());
    name[24..].copy_from_slice(&epoch.to_le_bytes());
    let [a, b, c, ..] = *blake3::hash(&name).as_bytes();
    f64::from(u32::from_le_bytes([a, b, c, 0]) >> 4) / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::Sampler;
    use super::*;
    use crate::recipe::{Recipe, RecipeError, RecipeSpec};

    /// Labels of records of which class `c` has `sizes[c]`, mixed up.
    fn labels(sizes: &[u32]) -> Vec<u32> {
        let mut left = sizes.to_vec();
        let mut labels = Vec::new();
        while left.iter().any(|&left| left > 0) {
            for (label, left) in (0..).zip(&mut left) {
                if *left > 0 {
                    *left -= 1;
                    labels.push(label);
                }
            }
        }
        labels
    }

    fn recipe(changes: &[&str]) -> Recipe {
        let small = ["batch = 8", "microbatches = 2", "repeats = 1"];
        let changes = small.iter().chain(changes).map(|change| (*change).to_owned());
        RecipeSpec::preset("a2").with_changes(changes).resolve().unwrap()
    }

    /// The sampler of a dataset whose records have these labels.
    fn sampler(labels: &[u32], recipe: &Recipe, seed: u64) -> Result<Sampler, RecipeError> {
        let classes = labels.iter().max().map_or(0, |&most| most as usize + 1);
        let names: Vec<String> = (0..classes).map(|class| format!("class{class}")).collect();
        let table = Arc::new(ClassTable::new(classes, || (0..).zip(labels.iter().copied())));
        Sampler::by_class(&table, &names, labels.len() as u64, recipe, seed)
    }

    /// The records of an epoch by position.
    fn records(sampler: &Sampler, epoch: u64) -> Vec<u64> {
        let epoch = sampler.epoch(epoch);
        (0..sampler.samples_per_epoch()).map(|position| epoch.record(position)).collect()
    }

    fn count<T: Ord>(values: impl Iterator<Item = T>) -> BTreeMap<T, u32> {
        let mut counts = BTreeMap::new();
        for value in values {
            *counts.entry(value).or_default() += 1;
        }
        counts
    }

    proptest! {
        #[test]
        fn every_position_has_a_record_of_a_class_with_a_weight(
            sizes in prop::collection::vec(0_u32..60, 2..12),
            balance in 0.0_f64..=1.0, repeats in 1_u32..5, seed: u64, epoch: u64,
        ) {
            let labels = labels(&sizes);
            let set = [
                format!("repeats = {repeats}"),
                format!("sampling = {{ balance = {balance:?}, weights = {{ class0 = 0, class1 = 2.5 }} }}"),
            ];
            let recipe = recipe(&set.each_ref().map(String::as_str));
            prop_assume!(sizes[1] > 0 && labels.len() >= 8);
            let sampler = sampler(&labels, &recipe, seed).unwrap();
            for record in records(&sampler, epoch) {
                let label = labels[usize::try_from(record).unwrap()];
                prop_assert!(label != 0, "{record}");
            }
        }

        #[test]
        fn the_records_of_a_class_come_evenly(
            sizes in prop::collection::vec(1_u32..40, 2..8), seed: u64, epoch: u64,
        ) {
            let labels = labels(&sizes);
            prop_assume!(labels.len() >= 8);
            let recipe = recipe(&["sampling.balance = 1"]);
            let records = records(&sampler(&labels, &recipe, seed).unwrap(), epoch);
            let label = |record: u64| labels[usize::try_from(record).unwrap()];
            let draws = count(records.iter().map(|&record| label(record)));
            let share = records.len() as f64 / sizes.len() as f64;
            let often = count(records.iter().copied());
            for (class, &size) in (0..).zip(&sizes) {
                let drawn = draws.get(&class).copied().unwrap_or(0);
                prop_assert!((f64::from(drawn) - share).abs() < 1.0 + 1e-6, "{drawn} of {share}");
                let all = (0..).zip(&labels).filter(|(_, label)| **label == class);
                for (record, _) in all {
                    let often = often.get(&record).copied().unwrap_or(0);
                    prop_assert!(often == drawn / size || often == drawn.div_ceil(size), "{record}: {often}");
                }
            }
        }
    }

    #[test]
    fn every_position_draws_classes_by_weight_and_their_records_alike() {
        // As the test of permutations: for each position, how often each record occurs there in many epochs.
        let sizes = [1, 2, 4, 6];
        let labels = labels(&sizes);
        let recipe =
            recipe(&["sampling.balance = 0.5", "sampling.weights = { class1 = 3, class2 = 0.5 }"]);
        let sampler = sampler(&labels, &recipe, 7).unwrap();
        let epochs = 40_000_u32;
        let mut counts = vec![vec![0_u32; labels.len()]; 8];
        for epoch in 0..epochs {
            for (record, counts) in records(&sampler, epoch.into()).iter().zip(&mut counts) {
                counts[usize::try_from(*record).unwrap()] += 1;
            }
        }
        let weights: Vec<f64> = sizes
            .iter()
            .zip([1.0, 3.0, 0.5, 1.0])
            .map(|(&size, factor)| factor * f64::from(size).sqrt())
            .collect();
        let total: f64 = weights.iter().sum();
        let freedom = labels.len() as f64 - 1.0;
        for (position, counts) in counts.iter().enumerate() {
            let chi: f64 = counts
                .iter()
                .zip(&labels)
                .map(|(&count, &label)| {
                    let class = label as usize;
                    let share = weights[class] / total / f64::from(sizes[class]);
                    let expected = share * f64::from(epochs);
                    (f64::from(count) - expected).powi(2) / expected
                })
                .sum();
            assert!(
                chi < freedom + 6.0 * (2.0 * freedom).sqrt() + 6.0,
                "position {position}: {chi}"
            );
        }
    }

    #[test]
    fn microbatches_do_not_change_the_order() {
        let labels = labels(&[3, 50, 20]);
        let order = |microbatches: u32| {
            let set = [&*format!("microbatches = {microbatches}"), "sampling.balance = 1"];
            let sampler = sampler(&labels, &recipe(&set), 5).unwrap();
            let epoch = sampler.epoch(2);
            let mut order = BTreeMap::new();
            for step in 0..sampler.steps_per_epoch() {
                for index in 0..microbatches {
                    let positions = sampler.positions(step, index);
                    order.extend(positions.map(|position| (position, epoch.record(position))));
                }
            }
            order
        };
        assert_eq!(order(1).len(), 72);
        assert_eq!(order(1), order(4));
    }

    #[test]
    fn repeats_share_a_draw_and_steps_are_those_without_sampling() {
        let labels = labels(&[100, 400]);
        let (plain, drawn) =
            (recipe(&["repeats = 3"]), recipe(&["repeats = 3", "sampling.balance = 1"]));
        let without = Sampler::new(500, &plain, 0).unwrap();
        let sampler = sampler(&labels, &drawn, 0).unwrap();
        assert_eq!(sampler.samples_per_epoch(), without.samples_per_epoch());
        assert_eq!(sampler.steps_per_epoch(), without.steps_per_epoch());
        let records = records(&sampler, 1);
        assert_eq!(records.len(), 256);
        assert!(records.chunks(3).all(|same| same.iter().all(|record| *record == same[0])));
        // 86 draws, half of each class.
        let classes =
            count(records.chunks(3).map(|same| labels[usize::try_from(same[0]).unwrap()]));
        assert_eq!(classes, BTreeMap::from([(0, 43), (1, 43)]));
    }

    #[test]
    fn another_epoch_or_seed_has_other_draws() {
        let labels = labels(&[40, 200]);
        let recipe = recipe(&["sampling.balance = 0.5"]);
        let order = |seed, epoch| records(&sampler(&labels, &recipe, seed).unwrap(), epoch);
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
        assert_eq!(order(1, 0), order(1, 0));
    }

    #[test]
    fn the_draws_of_a_recipe_never_change() {
        // They are part of the semantics: a change here is a change of `SEMANTICS`.
        let recipe = recipe(&["sampling.balance = 0.5"]);
        let drawn = records(&sampler(&labels(&[2, 5, 9]), &recipe, 1).unwrap(), 3);
        assert_eq!(drawn, [4, 2, 5, 8, 0, 7, 15, 3, 11, 12, 10, 6, 13, 1, 0, 3]);
    }

    #[test]
    fn a_sampler_that_does_not_know_the_classes_is_refused() {
        let error = Sampler::new(100, &recipe(&["sampling.balance = 0.5"]), 0).unwrap_err();
        assert!(matches!(error, RecipeError::NeedsClasses), "{error}");
    }
}
