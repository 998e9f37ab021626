//! Checks over all trainers together: that nothing is lost, repeated or different.

use std::collections::BTreeMap;

use forebay_client::{Cursor, Description, Microbatch, MicrobatchName};
use xxhash_rust::xxh3::xxh3_64;

/// Number of violations that are described. Further ones are only counted.
const MAX_DESCRIBED: usize = 20;

/// A digest of the name, records, targets and pixels of a microbatch.
pub(crate) fn digest(microbatch: &Microbatch) -> u64 {
    let MicrobatchName { epoch, step, index, .. } = microbatch.name;
    let numbers = [epoch, step, index.into(), microbatch.xxh3].map(u64::to_le_bytes).concat();
    let records = microbatch.records.iter().flat_map(|record| record.to_le_bytes());
    let labels = microbatch.label_a.iter().chain(&microbatch.label_b);
    let labels = labels.flat_map(|label| label.to_le_bytes());
    let weights = microbatch.lambda.iter().flat_map(|weight| weight.to_le_bytes());
    let bytes: Vec<u8> = numbers.into_iter().chain(records).chain(labels).chain(weights).collect();
    xxh3_64(&bytes)
}

/// Digests of microbatches, by name.
pub(crate) type Digests = BTreeMap<MicrobatchName, u64>;

/// How often records were received in an epoch.
#[derive(Debug, Default)]
struct Counts {
    of: BTreeMap<u64, u32>,
    /// Their sum.
    samples: u64,
}

/// The microbatches that each copy of a job received, and how often each record was in them.
#[derive(Debug)]
pub(crate) struct Coverage {
    description: Description,
    seed: u64,
    from: Cursor,
    /// Digests of what slow readers received.
    slow: Vec<(MicrobatchName, u64)>,
    /// For each copy, the digests of what it received.
    received: Vec<Digests>,
    /// For each epoch of which copy 0 has received a part, how often it received each record.
    counts: BTreeMap<u64, Counts>,
    found: Vec<String>,
    count: u64,
}

impl Coverage {
    /// The checks for a number of copies of a job that read from a step on.
    pub(crate) fn new(description: &Description, seed: u64, from: Cursor, copies: u32) -> Self {
        Self {
            description: description.clone(),
            seed,
            from,
            slow: Vec::new(),
            received: vec![BTreeMap::new(); copies as usize],
            counts: BTreeMap::new(),
            found: Vec::new(),
            count: 0,
        }
    }

    /// Records that a slow reader received a microbatch.
    pub(crate) fn record_slow(&mut self, microbatch: &Microbatch) {
        self.slow.push((microbatch.name, digest(microbatch)));
    }

    /// The digests that the first copy received.
    pub(crate) fn digests(&self) -> &Digests {
        &self.received[0]
    }

    /// Records that a copy received a microbatch.
    pub(crate) fn record(&mut self, copy: u32, microbatch: &Microbatch) {
        let name = microbatch.name;
        if self.received[copy as usize].insert(name, digest(microbatch)).is_some() {
            self.violation(format!("job {copy}: {name} was received twice"));
        } else if copy == 0 {
            self.count(name.epoch, &microbatch.records);
        }
    }

    /// Counts the records of a microbatch. An epoch is checked as soon as it is whole, and takes no memory after that:
    /// a test may read thousands of them.
    fn count(&mut self, epoch: u64, records: &[u64]) {
        let counts = self.counts.entry(epoch).or_default();
        for record in records {
            *counts.of.entry(*record).or_default() += 1;
        }
        counts.samples += records.len() as u64;
        if counts.samples >= self.description.samples_per_epoch
            && let Some(counts) = self.counts.remove(&epoch)
        {
            self.check_records(epoch, &counts);
        }
    }

    /// Leaves out what was received of steps that were not read to their end. `steps` is how many steps
    /// each copy has read.
    pub(crate) fn leave_out_unfinished(&mut self, steps: &[u64]) {
        for (copy, (received, steps)) in self.received.iter_mut().zip(steps).enumerate() {
            let end = self.from.after(*steps, self.description.steps_per_epoch);
            let all = received.len();
            received.retain(|name, _| name.cursor() < end);
            if copy == 0 && received.len() < all {
                // A part of a step has some of the repeats of a record.
                self.counts.remove(&end.epoch);
            }
        }
    }

    /// Checks everything once all trainers are done. `steps` is how many steps each copy has read.
    pub(crate) fn finish(&mut self, steps: &[u64]) {
        self.check_names(steps);
        self.check_copies();
        for (epoch, counts) in std::mem::take(&mut self.counts) {
            self.check_records(epoch, &counts);
        }
    }

    /// Compares the first copy with an undisturbed run. Returns how many microbatches are equal.
    pub(crate) fn compare(&mut self, undisturbed: &Digests) -> u64 {
        let received = std::mem::take(&mut self.received);
        let mut equal = 0;
        for (name, digest) in &received[0] {
            match undisturbed.get(name) {
                Some(other) if other == digest => equal += 1,
                Some(_) => self.violation(format!("{name} differs from an undisturbed run")),
                None => self.violation(format!("{name} is not in the undisturbed run")),
            }
        }
        self.received = received;
        equal
    }

    /// The number of violations, and descriptions of the first ones.
    pub(crate) fn violations(self) -> (u64, Vec<String>) {
        (self.count, self.found)
    }

    /// Checks that every copy received every microbatch that has samples, and no other.
    fn check_names(&mut self, steps: &[u64]) {
        let each = self.description.steps_per_epoch;
        let received = std::mem::take(&mut self.received);
        for (copy, (received, steps)) in received.iter().zip(steps).enumerate() {
            let mut expected = 0;
            for step in 0..*steps {
                let Cursor { epoch, step } = self.from.after(step, each);
                for index in 0..self.description.microbatches {
                    if self.description.samples(step, index) == 0 {
                        continue;
                    }
                    expected += 1;
                    let name = MicrobatchName { seed: self.seed, epoch, step, index };
                    if !received.contains_key(&name) {
                        self.violation(format!("job {copy}: {name} was not received"));
                    }
                }
            }
            if received.len() > expected {
                self.violation(format!(
                    "job {copy}: received {} microbatches, expected {expected}",
                    received.len()
                ));
            }
        }
        self.received = received;
    }

    /// Checks that every copy received the same.
    fn check_copies(&mut self) {
        let received = std::mem::take(&mut self.received);
        for (copy, digests) in received.iter().enumerate().skip(1) {
            for (name, digest) in digests {
                if received[0].get(name).is_some_and(|first| first != digest) {
                    self.violation(format!(
                        "jobs 0 and {copy} received different bytes for {name}"
                    ));
                }
            }
        }
        for (name, digest) in std::mem::take(&mut self.slow) {
            if received[0].get(&name).is_some_and(|first| *first != digest) {
                self.violation(format!(
                    "job 0 and a slow reader received different bytes for {name}"
                ));
            }
        }
        self.received = received;
    }

    /// Checks how often an epoch had each record. With R repeats, records appear R times or not at all,
    /// except for one that is cut off at the first position and one at the last. The successor of a bad
    /// record also appears in its place. Nothing is known about records that are drawn by weight.
    fn check_records(&mut self, epoch: u64, counts: &Counts) {
        if self.description.weighted {
            return;
        }
        let repeats = repeats(&self.description.recipe_toml);
        let Some(repeats) = repeats.or_else(|| most_common(counts)) else { return };
        let odd = || counts.of.iter().filter(|(_, count)| **count != repeats);
        let many = odd().count() as u64;
        let allowed = self.description.bad_records.saturating_add(if repeats == 1 { 0 } else { 2 });
        if let Some((first, count)) = odd().next().filter(|_| many > allowed) {
            self.violation(format!(
                "epoch {epoch}: {many} records were not received {repeats} times, such as record {first}, \
                 received {count} times"
            ));
        }
    }

    /// Records a violation.
    pub(crate) fn violation(&mut self, violation: String) {
        self.count += 1;
        if self.found.len() < MAX_DESCRIBED {
            self.found.push(violation);
        }
    }
}

/// The repeats of a recipe in its canonical form, which has a line for each field.
fn repeats(recipe: &str) -> Option<u32> {
    recipe.lines().find_map(|line| line.strip_prefix("repeats = ")?.parse().ok())
}

/// The most frequent number of times that a record was received.
fn most_common(counts: &Counts) -> Option<u32> {
    let mut records: BTreeMap<u32, usize> = BTreeMap::new();
    for count in counts.of.values() {
        *records.entry(*count).or_default() += 1;
    }
    records.into_iter().max_by_key(|(_, records)| *records).map(|(count, _)| count)
}

#[cfg(test)]
mod tests {
    use forebay_types::Digest;

    use super::*;

    /// The checks of a job of 12 records in steps of four.
    fn coverage(repeats: u32) -> Coverage {
        let description = Description {
            server_version: String::new(),
            dataset_digest: Digest([1; 32]),
            records: 12,
            bad_records: 0,
            classes: Vec::new(),
            recipe_digest: Digest([2; 32]),
            recipe_toml: format!("image_size = 8\nrepeats = {repeats}\n"),
            samples_per_epoch: 12,
            steps_per_epoch: 3,
            batch: 4,
            microbatches: 1,
            image_size: 8,
            smoothing: 0.0,
            mean: [0.0; 3],
            std: [1.0; 3],
            datasets: Vec::new(),
            weighted: false,
            image_sizes: Vec::new(),
        };
        Coverage::new(&description, 0, Cursor::default(), 1)
    }

    #[test]
    fn half_of_the_records_twice_are_not_all_records_once() {
        for (repeats, is_right) in [(2, true), (1, false), (3, false)] {
            let mut coverage = coverage(repeats);
            for step in 0..3 {
                coverage.count(0, &[0, 0, 1, 1].map(|record| record + 2 * step));
            }
            let (count, found) = coverage.violations();
            assert_eq!(count == 0, is_right, "{repeats}: {found:?}");
        }
    }

    #[test]
    fn records_that_are_drawn_by_weight_may_come_as_often_as_they_are_drawn() {
        for weighted in [true, false] {
            let mut coverage = coverage(1);
            coverage.description.weighted = weighted;
            for step in 0..3 {
                coverage.count(0, &[0, 0, 0, 1 + step]);
            }
            let (count, found) = coverage.violations();
            assert_eq!(count == 0, weighted, "{found:?}");
        }
    }

    #[test]
    fn an_epoch_takes_memory_until_it_is_whole() {
        let mut coverage = coverage(1);
        for epoch in 0..1000 {
            for step in 0..3 {
                assert_eq!(coverage.counts.len(), usize::from(step > 0));
                coverage.count(epoch, &[0, 1, 2, 3].map(|record| record + 4 * step));
            }
        }
        coverage.count(1000, &[0, 0, 1, 2]);
        assert_eq!(coverage.counts.len(), 1);
        coverage.finish(&[0]);
        let (count, found) = coverage.violations();
        assert_eq!(count, 1);
        assert!(
            found[0].starts_with("epoch 1000: 1 records were not received 1 times"),
            "{found:?}"
        );
    }
}
