//! What only all trainers together show: that nothing is lost, repeated or different.
//!
//! [`Digests`] are those of an undisturbed run, from a calm server or a file.

use std::collections::BTreeMap;

use forebay_client::{Cursor, Description, Microbatch, MicrobatchName};
use xxhash_rust::xxh3::xxh3_64;

/// The most violations that are told; the rest is counted.
const TOLD: usize = 20;

/// A number that names a microbatch and its content: records, targets and pixels.
pub fn mark(microbatch: &Microbatch) -> u64 {
    let MicrobatchName { epoch, step, index, .. } = microbatch.name;
    let numbers = [epoch, step, index.into(), microbatch.xxh3].map(u64::to_le_bytes).concat();
    let records = microbatch.records.iter().flat_map(|record| record.to_le_bytes());
    let labels = microbatch.label_a.iter().chain(&microbatch.label_b);
    let labels = labels.flat_map(|label| label.to_le_bytes());
    let weights = microbatch.lambda.iter().flat_map(|weight| weight.to_le_bytes());
    let bytes: Vec<u8> = numbers.into_iter().chain(records).chain(labels).chain(weights).collect();
    xxh3_64(&bytes)
}

/// The marks of an undisturbed run, by name.
pub type Digests = BTreeMap<MicrobatchName, u64>;

/// Which microbatches came to each copy of a job, and how often each record.
#[derive(Debug)]
pub struct Coverage {
    description: Description,
    seed: u64,
    from: Cursor,
    /// What came to slow readers, who read for themselves.
    aside: Vec<(MicrobatchName, u64)>,
    /// For each copy, the marks by name.
    seen: Vec<BTreeMap<MicrobatchName, u64>>,
    /// For each epoch, how often each record came to copy 0.
    counts: BTreeMap<u64, Vec<u32>>,
    found: Vec<String>,
    count: u64,
}

impl Coverage {
    /// Of so many copies of a job that read from a step on.
    pub fn new(description: &Description, seed: u64, from: Cursor, copies: u32) -> Self {
        Self {
            description: description.clone(),
            seed,
            from,
            aside: Vec::new(),
            seen: vec![BTreeMap::new(); copies as usize],
            counts: BTreeMap::new(),
            found: Vec::new(),
            count: 0,
        }
    }

    /// A microbatch came to a slow reader.
    pub fn aside(&mut self, microbatch: &Microbatch) {
        self.aside.push((microbatch.name, mark(microbatch)));
    }

    /// What came to the first copy.
    pub fn digests(&self) -> &Digests {
        &self.seen[0]
    }

    /// A microbatch came to a copy.
    pub fn note(&mut self, copy: u32, microbatch: &Microbatch) {
        let name = microbatch.name;
        if self.seen[copy as usize].insert(name, mark(microbatch)).is_some() {
            self.tell(format!("job {copy}: {name} came twice"));
        } else if copy == 0 {
            self.count(microbatch);
        }
        let classes = self.description.classes.len();
        let beyond = |label: &&u32| classes > 0 && **label as usize >= classes;
        if let Some(label) = microbatch.label_a.iter().chain(&microbatch.label_b).find(beyond) {
            self.tell(format!("{name} has label {label}, there are {classes} classes"));
        }
    }

    fn count(&mut self, microbatch: &Microbatch) {
        let all = usize::try_from(self.description.records).unwrap_or(0);
        for record in &microbatch.records {
            let counts = self.counts.entry(microbatch.name.epoch).or_insert_with(|| vec![0; all]);
            if let Some(count) =
                usize::try_from(*record).ok().and_then(|record| counts.get_mut(record))
            {
                *count += 1;
            } else {
                let name = microbatch.name;
                self.tell(format!("{name} has record {record}, there are {all}"));
            }
        }
    }

    /// Checks what came, once all trainers are done and each copy has read so many steps.
    pub fn finish(&mut self, steps: &[u64]) {
        self.check_names(steps);
        self.check_copies();
        for (epoch, counts) in std::mem::take(&mut self.counts) {
            self.check_records(epoch, &counts);
        }
    }

    /// Checks that what came is what an undisturbed run got; how many microbatches agree.
    pub fn compare(&mut self, undisturbed: &Digests) -> u64 {
        let seen = std::mem::take(&mut self.seen);
        let mut agree = 0;
        for (name, mark) in &seen[0] {
            match undisturbed.get(name) {
                Some(other) if other == mark => agree += 1,
                Some(_) => self.tell(format!("{name} differs from an undisturbed run")),
                None => self.tell(format!("{name} is not in the undisturbed run")),
            }
        }
        self.seen = seen;
        agree
    }

    /// What was wrong, the first of it in words.
    pub fn violations(self) -> (u64, Vec<String>) {
        (self.count, self.found)
    }

    /// Every microbatch of every step that has samples came to every copy, and no other.
    fn check_names(&mut self, steps: &[u64]) {
        let each = self.description.steps_per_epoch;
        let seen = std::mem::take(&mut self.seen);
        for (copy, (seen, steps)) in seen.iter().zip(steps).enumerate() {
            let mut expected = 0;
            for step in 0..*steps {
                let Cursor { epoch, step } = self.from.after(step, each);
                for index in 0..self.description.microbatches {
                    if self.description.samples(step, index) == 0 {
                        continue;
                    }
                    expected += 1;
                    let name = MicrobatchName { seed: self.seed, epoch, step, index };
                    if !seen.contains_key(&name) {
                        self.tell(format!("job {copy}: {name} never came"));
                    }
                }
            }
            if seen.len() > expected {
                self.tell(format!("job {copy}: {} came, {expected} were asked for", seen.len()));
            }
        }
        self.seen = seen;
    }

    /// Every copy got the same.
    fn check_copies(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        for (copy, marks) in seen.iter().enumerate().skip(1) {
            for (name, mark) in marks {
                if seen[0].get(name).is_some_and(|first| first != mark) {
                    self.tell(format!("jobs 0 and {copy} got different bytes for {name}"));
                }
            }
        }
        for (name, mark) in std::mem::take(&mut self.aside) {
            if seen[0].get(&name).is_some_and(|first| *first != mark) {
                self.tell(format!("job 0 and a slow reader got different bytes for {name}"));
            }
        }
        self.seen = seen;
    }

    /// With repeats R, records come R times or not at all, but for one cut off at the first position
    /// and one at the last. A bad record's successor comes in its place as well as its own.
    fn check_records(&mut self, epoch: u64, counts: &[u32]) {
        let Some(repeats) = most_common(counts) else { return };
        let odd: Vec<usize> =
            (0..counts.len()).filter(|at| counts[*at] != 0 && counts[*at] != repeats).collect();
        let allowed = 2 + self.description.bad_records;
        if odd.len() as u64 > if repeats == 1 { self.description.bad_records } else { allowed } {
            let (first, count) = (odd[0], counts[odd[0]]);
            let many = odd.len();
            self.tell(format!(
                "epoch {epoch}: {many} records came another number of times than {repeats}, such as \
                 record {first}, {count} times"
            ));
        }
    }

    /// Something else was wrong.
    pub fn tell(&mut self, violation: String) {
        self.count += 1;
        if self.found.len() < TOLD {
            self.found.push(violation);
        }
    }
}

/// The number of times that most of the records came that came at all.
fn most_common(counts: &[u32]) -> Option<u32> {
    let mut records: BTreeMap<u32, usize> = BTreeMap::new();
    for count in counts.iter().filter(|count| **count > 0) {
        *records.entry(*count).or_default() += 1;
    }
    records.into_iter().max_by_key(|(_, records)| *records).map(|(count, _)| count)
}
