//! Draws of records of datasets that are mixed with weights.
//!
//! ```text
//!   draw i of epoch e  ->  number permutation(seed, e)[i]
//!   numbers 0..n       ->  a range for each dataset: d numbers, which is weight * records, rounded down
//!   place k in a range ->  record permutation(seed, dataset, t / m)[t % m] of its m records, where t = e * d + k
//! ```
//!
//! The draws of a dataset go on from epoch to epoch, so that no record of it comes again before all others have: with
//! a weight of 0.5, two epochs have each record once. `MosaicML` Streaming's `repeat` draws as many, but begins anew
//! with each epoch. Of an epoch that is truncated to whole steps, or in which samples are repeated, all datasets have a part
//! that is shorter in proportion.

use std::sync::Arc;

use super::permutation::Permutation;

/// The datasets that records are drawn from.
#[derive(Clone, Debug)]
pub(super) struct Mix {
    parts: Arc<[Part]>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    /// Number of its first record.
    first: u64,
    records: u64,
    /// Draws of an epoch from the parts before it.
    before: u64,
    /// Draws of an epoch from it.
    draws: u64,
}

impl Mix {
    /// The mix of parts, given by number of records and of draws in an epoch; `None` if these are the same for all.
    pub(super) fn new(parts: impl IntoIterator<Item = (u64, u64)>) -> Option<Self> {
        let (mut first, mut before, mut is_weighted) = (0, 0, false);
        let part = |(records, draws): (u64, u64)| {
            is_weighted |= draws != records;
            let part = Part { first, records, before, draws };
            (first, before) = (first + records, before.saturating_add(draws));
            part
        };
        let parts = parts.into_iter().map(part).collect();
        is_weighted.then_some(Self { parts })
    }

    /// Draws of an epoch.
    pub(super) fn draws(&self) -> u64 {
        self.parts.iter().map(|part| part.draws).fold(0, u64::saturating_add)
    }
}

/// The draws of one epoch.
#[derive(Clone, Debug)]
pub(super) struct MixDraws {
    parts: Vec<Part>,
    numbers: Permutation,
    seed: u64,
    epoch: u64,
}

impl MixDraws {
    /// `count` are the draws that the epoch has without its truncated end, each of which is repeated: they are divided in
    /// the same proportions.
    pub(super) fn new(mix: &Mix, count: u64, seed: u64, epoch: u64) -> Self {
        let all = u128::from(mix.draws().max(1));
        let scaled = |draws: u64| {
            u64::try_from(u128::from(draws) * u128::from(count) / all).unwrap_or(u64::MAX)
        };
        let part = |part: &Part| {
            let before = scaled(part.before);
            Part { before, draws: scaled(part.before + part.draws) - before, ..*part }
        };
        let parts = mix.parts.iter().map(part).collect();
        Self { parts, numbers: Permutation::new(count, seed, epoch), seed, epoch }
    }

    /// The record of a draw.
    ///
    /// # Panics
    /// When `index` is not below the number of draws.
    pub(super) fn record(&self, index: u64) -> u64 {
        let number = self.numbers.at(index);
        // The first part begins at 0, and one without draws is passed over.
        let at = self.parts.partition_point(|part| part.before <= number) - 1;
        let Part { first, records, before, draws } = self.parts[at];
        let place = u128::from(self.epoch) * u128::from(draws) + u128::from(number - before);
        let (round, place) = (place / u128::from(records), place % u128::from(records));
        let [round, place] = [round, place].map(|number| u64::try_from(number).unwrap_or(u64::MAX));
        first + Permutation::of_part(records, self.seed, (at as u64, round)).at(place)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::Sampler;
    use super::*;
    use crate::recipe::{RecipeError, RecipeSpec};

    fn sampler(parts: &[(u64, u64)], changes: &[&str]) -> Result<Sampler, RecipeError> {
        let small = ["batch = 8", "microbatches = 2", "repeats = 1"];
        let changes = small.iter().chain(changes).map(|change| (*change).to_owned());
        let recipe = RecipeSpec::preset("a2").with_changes(changes).resolve().unwrap();
        Sampler::mixed(parts.iter().copied(), &recipe, 7)
    }

    fn records(sampler: &Sampler, epoch: u64) -> Vec<u64> {
        let epoch = sampler.epoch(epoch);
        (0..sampler.samples_per_epoch()).map(|position| epoch.record(position)).collect()
    }

    #[test]
    fn weights_are_how_often_records_come_in_an_epoch() {
        let parts = [(80, 80), (160, 80), (8, 24)];
        let sampler = sampler(&parts, &[]).unwrap();
        assert_eq!((sampler.samples_per_epoch(), sampler.is_even()), (80 + 80 + 24, false));
        let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
        for epoch in 0..2 {
            let records = records(&sampler, epoch);
            let of =
                |range: std::ops::Range<u64>| records.iter().filter(|r| range.contains(r)).count();
            assert_eq!([of(0..80), of(80..240), of(240..248)], [80, 80, 24]);
            for record in records {
                *counts.entry(record).or_default() += 1;
            }
        }
        let expected = |record| {
            if record < 80 {
                2
            } else if record < 240 {
                1
            } else {
                6
            }
        };
        assert!((0..248).all(|record| counts[&record] == expected(record)), "{counts:?}");
    }

    #[test]
    fn datasets_take_turns_within_an_epoch() {
        let sampler = sampler(&[(400, 200), (200, 200)], &[]).unwrap();
        let records = records(&sampler, 3);
        let first_half = records[..200].iter().filter(|record| **record < 400).count();
        assert!((70..130).contains(&first_half), "{first_half} of 200");
    }

    #[test]
    fn without_weights_it_is_the_order_of_one_dataset() {
        let mixed = sampler(&[(100, 100), (60, 60)], &[]).unwrap();
        let one = sampler(&[(160, 160)], &[]).unwrap();
        assert_eq!(records(&mixed, 4), records(&one, 4));
        assert!(mixed.is_even());
    }

    #[test]
    fn a_sequential_epoch_has_every_record_once_whatever_the_weights() {
        let recipe = RecipeSpec::preset("eval").with_changes(["batch = 8".to_owned()]);
        let sampler = Sampler::mixed([(50, 5), (30, 120)], &recipe.resolve().unwrap(), 0).unwrap();
        assert!(records(&sampler, 0).into_iter().eq(0..80));
        assert!(sampler.is_even());
    }

    #[test]
    fn repeats_of_a_record_are_neighbors() {
        let sampler = sampler(&[(500, 250), (300, 600)], &["repeats = 3"]).unwrap();
        let records = records(&sampler, 1);
        assert!(
            records.chunks_exact(3).all(|chunk| chunk.iter().all(|record| *record == chunk[0]))
        );
    }

    proptest! {
        #[test]
        fn no_record_comes_again_before_all_others_of_its_dataset(
            sizes in prop::collection::vec((1_u64..200, 1_u64..400), 1..5), seed: u64, share in 1_u64..=10,
        ) {
            let Some(mix) = Mix::new(sizes.iter().copied()) else { return Ok(()) };
            let count = (mix.draws() * share / 10).max(1);
            let mut counts: BTreeMap<u64, u32> = BTreeMap::new();
            for epoch in 0..5 {
                let draws = MixDraws::new(&mix, count, seed, epoch);
                for index in 0..count {
                    *counts.entry(draws.record(index)).or_default() += 1;
                }
            }
            for part in mix.parts.iter() {
                let of: Vec<u32> = (part.first..part.first + part.records)
                    .map(|record| counts.get(&record).copied().unwrap_or(0)).collect();
                let (least, most) = (of.iter().min().unwrap(), of.iter().max().unwrap());
                prop_assert!(most - least <= 1, "{of:?}");
                let share = part.draws as f64 / mix.draws() as f64 * count as f64 * 5.0;
                let sum = of.iter().map(|&n| f64::from(n)).sum::<f64>();
                prop_assert!((sum - share).abs() <= 5.0, "{sum} of {share}");
            }
        }
    }
}
