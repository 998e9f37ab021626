//! The records of a dataset by class, and how often each class is drawn.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use crate::recipe::{RecipeError, Sampling};
use crate::sync::lock;

/// The good records of a dataset by class: four bytes for each, and eight for each class.
#[derive(Debug)]
pub(crate) struct ClassTable {
    /// Records by class, those of a class in ascending order.
    records: Vec<u32>,
    /// Where each class ends in `records`.
    ends: Vec<usize>,
    /// The shares that were made last. Every microbatch of a job wants the same.
    last: Mutex<Option<(Sampling, Arc<Shares>)>>,
}

impl ClassTable {
    /// Makes the table of records, given as number and label. They are gone through twice.
    pub(crate) fn new<I: Iterator<Item = (u32, u32)>>(
        classes: usize,
        records: impl Fn() -> I,
    ) -> Self {
        // An index without a valid label in every record is refused, so `get_mut` finds the class of each.
        let mut ends = vec![0; classes];
        for (_, label) in records() {
            if let Some(count) = ends.get_mut(label as usize) {
                *count += 1;
            }
        }
        let mut total = 0;
        for end in &mut ends {
            // Where the class starts, until its records have been listed.
            let start = total;
            total += *end;
            *end = start;
        }
        let mut listed = vec![0; total];
        for (record, label) in records() {
            if let Some(next) = ends.get_mut(label as usize) {
                listed[*next] = record;
                *next += 1;
            }
        }
        Self { records: listed, ends, last: Mutex::new(None) }
    }

    /// The good records of a class.
    pub(crate) fn of(&self, label: u32) -> &[u32] {
        &self.records[self.range(label as usize)]
    }

    fn range(&self, label: usize) -> Range<usize> {
        let start = label.checked_sub(1).map_or(0, |before| self.ends[before]);
        start..self.ends[label]
    }

    /// The shares of the classes, whose names are given by label.
    ///
    /// # Errors
    /// [`RecipeError::UnknownClass`] if no class has a name that has a weight, and
    /// [`RecipeError::NothingDrawn`] if no record has a weight above 0.
    pub(crate) fn shares(
        &self,
        names: &[String],
        sampling: &Sampling,
    ) -> Result<Arc<Shares>, RecipeError> {
        let mut last = lock(&self.last);
        if let Some((of, shares)) = &*last
            && of == sampling
        {
            return Ok(Arc::clone(shares));
        }
        let shares = Arc::new(Shares::new(self, names, sampling)?);
        *last = Some((sampling.clone(), Arc::clone(&shares)));
        Ok(shares)
    }
}

/// The part of all draws that each class has: twelve bytes for each.
#[derive(Debug)]
pub(crate) struct Shares {
    /// Labels of the classes that are drawn.
    labels: Vec<u32>,
    /// The sum of the shares before each of them, from 0.
    starts: Vec<f64>,
}

impl Shares {
    fn new(
        table: &ClassTable,
        names: &[String],
        Sampling { balance, weights }: &Sampling,
    ) -> Result<Self, RecipeError> {
        if let Some(name) = weights.keys().find(|name| !names.contains(name)) {
            let (name, near) = (name.clone(), near(name, names));
            return Err(RecipeError::UnknownClass { name, near, classes: names.len() });
        }
        let (mut labels, mut starts, mut total) = (Vec::new(), Vec::new(), 0.0);
        for (label, name) in (0..).zip(names) {
            let records = table.of(label).len();
            let factor = weights.get(name).copied().unwrap_or(1.0);
            if records == 0 || factor <= 0.0 {
                continue;
            }
            labels.push(label);
            starts.push(total);
            total += factor * libm::pow(records as f64, 1.0 - balance);
        }
        if labels.is_empty() {
            return Err(RecipeError::NothingDrawn);
        }
        for start in &mut starts {
            *start /= total;
        }
        Ok(Self { labels, starts })
    }

    /// Divides the numbers `0..draws` among the classes, each of which gets a range as long as its share of them, and
    /// returns the class that has `number`, and where in its range it is. The ranges are shifted down by `shift`, which
    /// is in `0..1`, so that a range with a fraction has one number more or one less.
    pub(crate) fn class_of(&self, number: u64, draws: u64, shift: f64) -> (u32, u64) {
        let start = |share: f64| share * draws as f64 - shift;
        let after = self.starts.partition_point(|share| start(*share) <= number as f64);
        // The first range starts at 0 or below.
        let class = after.saturating_sub(1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=number")]
        let first = start(self.starts[class]).ceil().max(0.0) as u64;
        (self.labels[class], number.saturating_sub(first))
    }
}

/// Names that are similar to one, at most three. Only for errors: it looks at all names.
fn near(name: &str, names: &[String]) -> Vec<String> {
    let wanted = start_of(name);
    let mut near: Vec<(usize, &String)> = names
        .iter()
        .filter_map(|other| {
            let known = start_of(other);
            let contains = wanted.len() >= 3 && contains(&known, &wanted);
            let changes = if contains { 0 } else { changes(&wanted, &known) };
            (changes <= 2.min(wanted.len() / 2)).then_some((changes, other))
        })
        .collect();
    near.sort();
    near.dedup();
    near.into_iter().take(3).map(|(_, name)| name.clone()).collect()
}

/// As much of a name as is compared, which bounds the time that hostile recipes take.
fn start_of(name: &str) -> Vec<char> {
    name.chars().flat_map(char::to_lowercase).take(48).collect()
}

fn contains(text: &[char], part: &[char]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// The number of characters to insert, remove or replace between two names (Levenshtein).
fn changes(a: &[char], b: &[char]) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A table whose class `c` has `counts[c]` records, numbered class by class.
    fn table(counts: &[u32]) -> ClassTable {
        let labels: Vec<u32> =
            (0..).zip(counts).flat_map(|(c, &n)| std::iter::repeat_n(c, n as usize)).collect();
        ClassTable::new(counts.len(), || (0..).zip(labels.iter().copied()))
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|class| format!("class{class}")).collect()
    }

    fn sampling(balance: f64, weights: &[(&str, f64)]) -> Sampling {
        let weights = weights.iter().map(|(name, weight)| ((*name).to_owned(), *weight));
        Sampling { balance, weights: weights.collect() }
    }

    /// Draws of each label among the numbers below `draws`.
    fn counts(shares: &Shares, labels: usize, draws: u64, shift: f64) -> Vec<u64> {
        let mut counts = vec![0; labels];
        for number in 0..draws {
            let (label, place) = shares.class_of(number, draws, shift);
            let count = &mut counts[label as usize];
            assert_eq!(place, *count, "the places of a class are 0, 1, 2, ...");
            *count += 1;
        }
        counts
    }

    #[test]
    fn records_are_listed_by_class_in_order() {
        let labels = [2, 0, 2, 3, 0];
        let table = ClassTable::new(5, || (0..).zip(labels));
        let listed: Vec<&[u32]> = (0..5).map(|label| table.of(label)).collect();
        assert_eq!(listed, [&[1, 4][..], &[], &[0, 2], &[3], &[]]);
    }

    #[test]
    fn balance_is_the_exponent_of_the_size() {
        let sizes = [1600, 400, 100];
        for (balance, expected) in
            [(0.0, [1600, 400, 100]), (0.5, [1200, 600, 300]), (1.0, [700, 700, 700])]
        {
            let shares = table(&sizes).shares(&names(3), &sampling(balance, &[])).unwrap();
            assert_eq!(counts(&shares, 3, 2100, 0.0), expected, "{balance}");
        }
    }

    #[test]
    fn weights_are_factors_and_empty_classes_have_no_share() {
        let sampling = sampling(1.0, &[("class0", 3.0), ("class2", 0.0)]);
        let shares = table(&[5, 9, 7, 0, 1]).shares(&names(5), &sampling).unwrap();
        assert_eq!(counts(&shares, 5, 1000, 0.0), [600, 200, 0, 0, 200]);
    }

    #[test]
    fn other_sampling_of_the_same_table_has_other_shares() {
        let table = table(&[30, 10]);
        for (balance, expected) in [(0.0, [30, 10]), (1.0, [20, 20]), (0.0, [30, 10])] {
            let shares = table.shares(&names(2), &sampling(balance, &[])).unwrap();
            assert_eq!(counts(&shares, 2, 40, 0.0), expected);
        }
    }

    proptest! {
        #[test]
        fn a_class_has_its_share_rounded_up_or_down(
            sizes in prop::collection::vec(0_u32..400, 1..30),
            balance in 0.0_f64..=1.0, draws in 1_u64..3000, shift in 0_u32..1 << 20,
        ) {
            prop_assume!(sizes.iter().any(|&size| size > 0));
            let n = sizes.len();
            let shares = table(&sizes).shares(&names(n), &sampling(balance, &[])).unwrap();
            let weight = |size: u32| if size == 0 { 0.0 } else { libm::pow(f64::from(size), 1.0 - balance) };
            let total: f64 = sizes.iter().map(|&size| weight(size)).sum();
            let shift = f64::from(shift) / f64::from(1 << 20);
            for (size, count) in sizes.iter().zip(counts(&shares, n, draws, shift)) {
                let share = weight(*size) / total * draws as f64;
                prop_assert!((count as f64 - share).abs() < 1.0 + 1e-6, "{count} of {share}");
            }
        }
    }

    #[test]
    fn an_unknown_class_is_refused_with_similar_names() {
        let table = table(&[1, 1, 1]);
        let names = ["tench, Tinca tinca", "goldfish", "gold finch"].map(String::from);
        for (wrong, similar) in [
            ("goldfihs", "(similar: \"goldfish\")"),
            ("Tench", "(similar: \"tench, Tinca tinca\")"),
            ("gold", "(similar: \"gold finch\", \"goldfish\")"),
            ("zebra", "(none of its 3 classes has a similar name)"),
        ] {
            let error = table.shares(&names, &sampling(0.0, &[(wrong, 2.0)])).unwrap_err();
            let error = error.to_string();
            assert!(error.contains(&format!("no class {wrong:?} {similar}")), "{error}");
        }
    }

    #[test]
    fn weights_that_leave_no_record_are_refused() {
        let sampling = sampling(0.0, &[("class0", 0.0)]);
        let error = table(&[4, 0]).shares(&names(2), &sampling).unwrap_err();
        assert!(matches!(error, RecipeError::NothingDrawn), "{error}");
    }
}
