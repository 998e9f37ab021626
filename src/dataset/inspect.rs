//! What is in a dataset, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use forebay_types::Digest;
use serde::{Serialize, Serializer};

use super::Dataset;

/// A bad record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadRecord {
    /// Its number.
    pub record: u64,
    /// Its name.
    pub name: String,
    /// Why it is bad.
    pub reason: String,
}

/// How many records a class has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// The class.
    pub class: String,
    /// Its records, bad ones included.
    pub records: u64,
}

/// How a number is spread over the records.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Least.
    pub min: u64,
    /// The middle one; of two, the lower.
    pub median: u64,
    /// Mean.
    pub mean: f64,
    /// Most.
    pub max: u64,
}

impl Spread {
    /// `None` without numbers.
    fn of(mut numbers: Vec<u64>) -> Option<Self> {
        numbers.sort_unstable();
        let (&min, &max) = numbers.first().zip(numbers.last())?;
        let median = numbers[(numbers.len() - 1) / 2];
        let mean = numbers.iter().sum::<u64>() as f64 / numbers.len() as f64;
        Some(Self { min, median, mean, max })
    }
}

/// What is in a dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// BLAKE3, in hexadecimal digits.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
    /// All records.
    pub records: u64,
    /// Those that decode.
    pub good: u64,
    /// How many tars; 0 for a folder.
    pub shards: u64,
    /// Bytes of all records.
    pub total_bytes: u64,
    /// Bytes of a record.
    pub bytes: Option<Spread>,
    /// Pixels of a good record.
    pub pixels: Option<Spread>,
    /// Records by format and kind of colour, such as `JPEG ycbcr progressive`.
    pub formats: BTreeMap<String, u64>,
    /// Records of each class, by label.
    pub classes: Vec<ClassCount>,
    /// The bad records.
    pub bad: Vec<BadRecord>,
}

fn as_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

impl Summary {
    pub(super) fn of(dataset: &Dataset) -> Self {
        let mut bytes = Vec::new();
        let mut pixels = Vec::new();
        let mut formats = BTreeMap::new();
        let mut counts = vec![0; dataset.classes().len()];
        for id in 0..dataset.len() {
            let record = dataset.record(id);
            bytes.push(u64::from(record.bytes));
            if record.good {
                pixels.push(u64::from(record.size.height) * u64::from(record.size.width));
            }
            let mut format = record.format.map_or("unknown", |format| format.name()).to_owned();
            if let Some(color) = record.color {
                format.push_str(&format!(" {color:?}").to_lowercase());
            }
            if record.progressive {
                format.push_str(" progressive");
            }
            *formats.entry(format).or_insert(0) += 1;
            counts[record.label as usize] += 1;
        }
        let classes = dataset.classes().iter().zip(counts);
        let bad = |(record, reason): (u64, &str)| BadRecord {
            record,
            name: dataset.name(record).to_owned(),
            reason: reason.to_owned(),
        };
        Self {
            digest: dataset.digest(),
            records: dataset.len(),
            good: dataset.len() - dataset.bad().len() as u64,
            shards: dataset.index.shards.len() as u64,
            total_bytes: bytes.iter().sum(),
            bytes: Spread::of(bytes),
            pixels: Spread::of(pixels),
            formats,
            classes: classes.map(|(c, records)| ClassCount { class: c.clone(), records }).collect(),
            bad: dataset.bad().map(bad).collect(),
        }
    }
}

/// Bad records that a table for people lists.
const SHOWN: usize = 20;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, what: &str, value: &dyn fmt::Display| {
            writeln!(f, "{what:<10} {value}")
        };
        line(f, "digest", &self.digest)?;
        line(f, "records", &self.records)?;
        line(f, "bad", &self.bad.len())?;
        if self.shards > 0 {
            line(f, "shards", &self.shards)?;
        }
        for (what, spread) in [("bytes", self.bytes), ("pixels", self.pixels)] {
            if let Some(Spread { min, median, mean, max }) = spread {
                let text = format!("min {min}  median {median}  mean {mean:.0}  max {max}");
                line(f, what, &text)?;
            }
        }
        for (format, records) in &self.formats {
            line(f, "format", &format_args!("{records:>8}  {format}"))?;
        }
        let counts = || self.classes.iter().map(|class| class.records);
        if let (Some(least), Some(most)) = (counts().min(), counts().max()) {
            let text = format!("{}, of {least} to {most} records", self.classes.len());
            line(f, "classes", &text)?;
        }
        for bad in self.bad.iter().take(SHOWN) {
            line(f, "bad", &format_args!("{} {}: {}", bad.record, bad.name, bad.reason))?;
        }
        if self.bad.len() > SHOWN {
            line(f, "bad", &format_args!("and {} more", self.bad.len() - SHOWN))?;
        }
        Ok(())
    }
}
