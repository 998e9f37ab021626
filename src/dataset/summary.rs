//! The summary of a dataset, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use forebay_types::Digest;
use forebay_types::text::Escaped;
use serde::{Serialize, Serializer};

use super::index::{Index, Record};
use super::layouts::Skipped;
use super::suspicions;

/// A bad record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BadRecord {
    /// Number of the record.
    pub record: u64,
    /// Its name.
    pub name: String,
    /// The reason why it is bad.
    pub reason: String,
}

/// Number of records of a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassCount {
    /// Name of the class.
    pub class: String,
    /// What it is in words; empty if the data does not say.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub words: String,
    /// Number of its records, including bad ones.
    pub records: u64,
}

/// Distribution of a number over the records.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Distribution {
    /// Smallest.
    pub min: u64,
    /// Median; the lower of two.
    pub median: u64,
    /// Mean.
    pub mean: f64,
    /// Largest.
    pub max: u64,
}

impl Distribution {
    /// `None` if there are no numbers.
    fn of(mut numbers: Vec<u64>) -> Option<Self> {
        numbers.sort_unstable();
        let (&min, &max) = numbers.first().zip(numbers.last())?;
        let median = numbers[(numbers.len() - 1) / 2];
        let mean = numbers.iter().sum::<u64>() as f64 / numbers.len() as f64;
        Some(Self { min, median, mean, max })
    }
}

/// The summary of a dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Layout in which the records are stored.
    pub layout: &'static str,
    /// Decisions of the layout, such as the split or the label of the first class.
    pub facts: BTreeMap<String, String>,
    /// Digest of the dataset, in hexadecimal digits.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
    /// Digest of what the records hold, whatever their names and order: the same images with the same
    /// labels have it in every layout.
    #[serde(serialize_with = "as_text")]
    pub content: Digest,
    /// Number of records, including bad ones.
    pub records: u64,
    /// Number of records that decode.
    pub good: u64,
    /// Number of files that hold many records; 0 where each record is a file.
    pub shards: u64,
    /// Bytes of all records.
    pub total_bytes: u64,
    /// Bytes per record.
    pub bytes: Option<Distribution>,
    /// Pixels per good record.
    pub pixels: Option<Distribution>,
    /// Records by format and color, such as `JPEG ycbcr progressive`.
    pub formats: BTreeMap<String, u64>,
    /// Records of each class, by label.
    pub classes: Vec<ClassCount>,
    /// Bad records.
    pub bad: Vec<BadRecord>,
    /// Samples that were skipped, by reason.
    pub skipped: Vec<Skipped>,
    /// What may be a mistake: duplicates, empty classes, splits that are mixed.
    pub suspicious: Vec<String>,
}

fn as_text<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

impl Summary {
    pub(super) fn of(index: &Index) -> Self {
        let mut bytes = Vec::new();
        let mut pixels = Vec::new();
        let mut formats = BTreeMap::new();
        let mut counts = vec![0; index.classes.len()];
        for record in (0..index.len()).map(|id| index.record(id)) {
            bytes.push(u64::from(record.length));
            if record.good {
                pixels.push(u64::from(record.size.height) * u64::from(record.size.width));
            }
            *formats.entry(format_name(&record)).or_insert(0) += 1;
            counts[record.label as usize] += 1;
        }
        let words = index.about.words.iter().cloned().chain(std::iter::repeat(String::new()));
        let class = |((class, records), words): ((&String, u64), String)| ClassCount {
            class: class.clone(),
            words,
            records,
        };
        Self {
            layout: index.layout.name(),
            facts: index.about.facts.iter().cloned().collect(),
            content: suspicions::content(index),
            suspicious: suspicions::of(index, &counts),
            digest: index.digest,
            records: index.len() as u64,
            good: (index.len() - index.bad.len()) as u64,
            shards: index.shards.len() as u64,
            total_bytes: bytes.iter().sum(),
            bytes: Distribution::of(bytes),
            pixels: Distribution::of(pixels),
            formats,
            classes: index.classes.iter().zip(counts).zip(words).map(class).collect(),
            bad: index.bad.iter().map(|(id, reason)| bad_record(index, *id, reason)).collect(),
            skipped: index.skipped.clone(),
        }
    }
}

fn bad_record(index: &Index, id: u64, reason: &str) -> BadRecord {
    let record = index.record(usize::try_from(id).expect("checked when opened"));
    BadRecord { record: id, name: index.name(&record).to_owned(), reason: reason.to_owned() }
}

/// Format, color and process of a record, such as `JPEG ycbcr progressive`.
fn format_name(record: &Record) -> String {
    let mut name = record.format.map_or("unknown", |format| format.name()).to_owned();
    if let Some(color) = record.color {
        name.push_str(&format!(" {color:?}").to_lowercase());
    }
    if record.progressive {
        name.push_str(" progressive");
    }
    name
}

/// Most bad records that the table lists.
const MAX_LISTED: usize = 20;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |f: &mut fmt::Formatter<'_>, what: &str, value: &dyn fmt::Display| {
            writeln!(f, "{what:<10} {}", Escaped(value))
        };
        line(f, "layout", &self.layout)?;
        for (name, value) in &self.facts {
            line(f, name, value)?;
        }
        line(f, "digest", &self.digest)?;
        line(f, "content", &self.content)?;
        line(f, "records", &self.records)?;
        line(f, "bad", &self.bad.len())?;
        if self.shards > 0 {
            line(f, "shards", &self.shards)?;
        }
        for (what, spread) in [("bytes", self.bytes), ("pixels", self.pixels)] {
            if let Some(Distribution { min, median, mean, max }) = spread {
                let text = format!("min {min}  median {median}  mean {mean:.0}  max {max}");
                line(f, what, &text)?;
            }
        }
        for (format, records) in &self.formats {
            line(f, "format", &format_args!("{records:>8}  {format}"))?;
        }
        let counts = || self.classes.iter().map(|class| class.records);
        if let (Some(min), Some(max)) = (counts().min(), counts().max()) {
            let text = format!("{}, of {min} to {max} records", self.classes.len());
            line(f, "classes", &text)?;
        }
        for bad in self.bad.iter().take(MAX_LISTED) {
            line(f, "bad", &format_args!("{} {}: {}", bad.record, bad.name, bad.reason))?;
        }
        if self.bad.len() > MAX_LISTED {
            line(f, "bad", &format_args!("and {} more", self.bad.len() - MAX_LISTED))?;
        }
        for skipped in &self.skipped {
            line(f, "skipped", skipped)?;
        }
        for what in &self.suspicious {
            line(f, "suspicious", what)?;
        }
        Ok(())
    }
}
