//! What only all trainers together show: that nothing is lost, repeated or different.

use std::collections::BTreeMap;

use forebay_client::{Cursor, Description, Microbatch, Name};
use xxhash_rust::xxh3::xxh3_64;

/// The most violations that are told; the rest is counted.
const TOLD: usize = 20;

/// A number that names a microbatch and its content: records, targets and pixels.
pub fn mark(microbatch: &Microbatch) -> u64 {
    let Name { epoch, step, index } = microbatch.name;
    let numbers = [epoch, step, index.into(), microbatch.xxh3].map(u64::to_le_bytes).concat();
    let records = microbatch.records.iter().flat_map(|record| record.to_le_bytes());
    let labels = microbatch.label_a.iter().chain(&microbatch.label_b);
    let labels = labels.flat_map(|label| label.to_le_bytes());
    let weights = microbatch.lambda.iter().flat_map(|weight| weight.to_le_bytes());
    let bytes: Vec<u8> = numbers.into_iter().chain(records).chain(labels).chain(weights).collect();
    xxh3_64(&bytes)
}

/// Which microbatches came to each copy of a job, and how often each record.
#[derive(Debug)]
pub struct Coverage {
    description: Description,
    from: Cursor,
    steps: u64,
    /// For each copy, the marks by name.
    seen: Vec<BTreeMap<Name, u64>>,
    /// For each epoch, how often each record came to copy 0.
    counts: BTreeMap<u64, Vec<u32>>,
    found: Vec<String>,
    more: usize,
}

impl Coverage {
    /// Of so many copies of a job that read so many steps from one on.
    pub fn new(description: &Description, from: Cursor, steps: u64, copies: u32) -> Self {
        Self {
            description: description.clone(),
            from,
            steps,
            seen: vec![BTreeMap::new(); copies as usize],
            counts: BTreeMap::new(),
            found: Vec::new(),
            more: 0,
        }
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

    /// What was wrong, once all trainers are done.
    pub fn violations(&mut self) -> Vec<String> {
        self.check_names();
        self.check_copies();
        for (epoch, counts) in std::mem::take(&mut self.counts) {
            self.check_records(epoch, &counts);
        }
        let mut found = std::mem::take(&mut self.found);
        if self.more > 0 {
            found.push(format!("and {} violations more", self.more));
        }
        found
    }

    /// Every microbatch of every step that has samples came to every copy, and no other.
    fn check_names(&mut self) {
        let each = self.description.steps_per_epoch;
        let seen = std::mem::take(&mut self.seen);
        let mut expected = 0;
        for step in 0..self.steps {
            let Cursor { epoch, step } = self.from.after(step, each);
            for index in 0..self.description.microbatches {
                if self.description.samples(step, index) == 0 {
                    continue;
                }
                expected += 1;
                let name = Name { epoch, step, index };
                for (copy, seen) in seen.iter().enumerate() {
                    if !seen.contains_key(&name) {
                        self.tell(format!("job {copy}: {name} never came"));
                    }
                }
            }
        }
        for (copy, seen) in seen.iter().enumerate() {
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

    fn tell(&mut self, violation: String) {
        if self.found.len() < TOLD {
            self.found.push(violation);
        } else {
            self.more += 1;
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
