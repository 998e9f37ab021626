//! The listing that a layout produces: records that have not been read yet.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// The layout of a dataset's records in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataset) enum Layout {
    /// A folder for each class, a file for each record.
    ImageFolder,
    /// Tars with thousands of records each.
    WebDataset,
}

impl Layout {
    /// Number of the layout in the index.
    pub(in crate::dataset) const fn code(self) -> u8 {
        match self {
            Self::ImageFolder => 0,
            Self::WebDataset => 1,
        }
    }

    /// Layout of a number in the index; `None` if there is no such layout.
    pub(in crate::dataset) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::ImageFolder),
            1 => Some(Self::WebDataset),
            _ => None,
        }
    }
}

/// The records of a dataset, in dataset order.
#[derive(Debug)]
pub(in crate::dataset) struct Listing {
    /// Folder that the names of shards and files are relative to.
    pub(in crate::dataset) root: PathBuf,
    pub(in crate::dataset) layout: Layout,
    /// Names of the classes, by label.
    pub(in crate::dataset) classes: Vec<String>,
    /// Name and size of each shard that holds many records; none in an `ImageFolder`.
    pub(in crate::dataset) shards: Vec<(String, u64)>,
    pub(in crate::dataset) records: Vec<ListedRecord>,
    pub(in crate::dataset) skipped: SkipCounter,
}

/// A record that was found.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::dataset) struct ListedRecord {
    pub(in crate::dataset) name: String,
    pub(in crate::dataset) label: u32,
    pub(in crate::dataset) location: Location,
}

/// The location of a record's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataset) enum Location {
    /// The whole file of the record's name. Its length is not known before it is read.
    File,
    /// A range of a shard.
    Shard { number: u32, offset: u64, length: u32 },
}

/// Samples that were skipped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// Number of samples.
    pub count: u64,
    /// The part that they lack, or what is wrong with them.
    pub reason: String,
    /// The first of them, three at most.
    pub examples: Vec<String>,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, reason, examples } = self;
        let samples = if *count == 1 { "sample" } else { "samples" };
        write!(f, "{count} {samples} with {reason}, such as {}", examples.join(", "))
    }
}

/// Names of skipped samples that are kept for each reason.
const EXAMPLES: usize = 3;

/// Counts skipped samples by reason.
#[derive(Debug, Default)]
pub(in crate::dataset) struct SkipCounter(BTreeMap<&'static str, (u64, Vec<String>)>);

impl SkipCounter {
    /// Counts one sample.
    pub(in crate::dataset) fn add(
        &mut self,
        reason: &'static str,
        sample: impl FnOnce() -> String,
    ) {
        let (count, examples) = self.0.entry(reason).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(sample());
        }
    }

    /// Adds the counts of a later shard.
    pub(super) fn merge(&mut self, later: Self) {
        for (reason, (count, examples)) in later.0 {
            let (sum, first) = self.0.entry(reason).or_default();
            *sum += count;
            let more = EXAMPLES - first.len();
            first.extend(examples.into_iter().take(more));
        }
    }

    /// Number of skipped samples.
    pub(in crate::dataset) fn total(&self) -> u64 {
        self.0.values().map(|(count, _)| count).sum()
    }

    /// The skipped samples of each reason.
    pub(in crate::dataset) fn finish(&self) -> Vec<Skipped> {
        let skipped = |(reason, (count, examples)): (&&str, &(u64, Vec<String>))| Skipped {
            count: *count,
            reason: (*reason).to_owned(),
            examples: examples.clone(),
        };
        self.0.iter().map(skipped).collect()
    }
}
