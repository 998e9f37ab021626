//! The listing that a layout produces: records that have not been read yet.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::super::unpack::Packed;
use crate::geometry::Size;

/// The layout of a dataset's records in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataset) enum Layout {
    /// A folder for each class, a file for each record.
    ImageFolder,
    /// Tars with thousands of records each.
    WebDataset,
    /// Files of `TensorFlow`'s examples.
    TfRecord,
    /// The tars of the official ImageNet.
    Ilsvrc,
    /// The folder of Kaggle's ImageNet.
    Kaggle,
    /// Shards of `MosaicML` Streaming.
    Mds,
    /// The batches of CIFAR-10 and CIFAR-100.
    Cifar,
    /// A CSV file that names the image files.
    Manifest,
    /// Parquet files with a column of images and one of labels.
    Parquet,
    /// A Parquet file that names the image files.
    ParquetManifest,
}

/// All layouts, each at the index that is its number in the index file.
const LAYOUTS: [Layout; 10] = [
    Layout::ImageFolder,
    Layout::WebDataset,
    Layout::TfRecord,
    Layout::Ilsvrc,
    Layout::Kaggle,
    Layout::Mds,
    Layout::Cifar,
    Layout::Manifest,
    Layout::Parquet,
    Layout::ParquetManifest,
];

impl Layout {
    /// Number of the layout in the index.
    pub(in crate::dataset) const fn code(self) -> u8 {
        self as u8
    }

    /// Layout of a number in the index; `None` if there is no such layout.
    pub(in crate::dataset) fn from_code(code: u8) -> Option<Self> {
        LAYOUTS.get(usize::from(code)).copied()
    }

    /// The usual name of the layout.
    pub(in crate::dataset) const fn name(self) -> &'static str {
        match self {
            Self::ImageFolder => "ImageFolder",
            Self::WebDataset => "WebDataset",
            Self::TfRecord => "TFRecord",
            Self::Ilsvrc => "ILSVRC tars",
            Self::Kaggle => "Kaggle ImageNet",
            Self::Mds => "MosaicML MDS",
            Self::Cifar => "CIFAR batches",
            Self::Manifest => "CSV manifest",
            Self::Parquet => "Parquet",
            Self::ParquetManifest => "Parquet manifest",
        }
    }

    /// The size of images that are raw planes of pixels, without a header that says it.
    pub(in crate::dataset) const fn planar(self) -> Option<Size> {
        match self {
            Self::Cifar => Some(Size { height: 32, width: 32 }),
            _ => None,
        }
    }

    /// Whether each record is a file of its own, which the record's name leads to.
    pub(in crate::dataset) const fn records_are_files(self) -> bool {
        matches!(self, Self::ImageFolder | Self::Kaggle | Self::Manifest | Self::ParquetManifest)
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
    pub(in crate::dataset) naming: Naming,
    /// Name and size of each shard that holds many records; none in an `ImageFolder`.
    pub(in crate::dataset) shards: Vec<(String, u64)>,
    pub(in crate::dataset) records: Vec<ListedRecord>,
    pub(in crate::dataset) skipped: SkipCounter,
    pub(in crate::dataset) about: About,
}

/// Where the names of the classes are from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::dataset) enum Naming {
    /// A list that names all classes, such as folders or the lines of a file.
    #[default]
    List,
    /// The labels are numbers, which are the names of the classes that have no others.
    Numbers,
    /// The labels are text, and the classes are those that the records have.
    Texts,
}

const NAMINGS: [(Naming, &str); 3] =
    [(Naming::List, "list"), (Naming::Numbers, "numbers"), (Naming::Texts, "texts")];

impl Naming {
    /// The word for it in an index.
    pub(in crate::dataset) fn word(self) -> &'static str {
        NAMINGS.iter().find(|(naming, _)| *naming == self).expect("all are listed").1
    }

    /// The naming of a word in an index.
    pub(in crate::dataset) fn from_word(word: &str) -> Option<Self> {
        NAMINGS.iter().find(|(_, known)| *known == word).map(|(naming, _)| *naming)
    }
}

/// What is only shown to people about a dataset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::dataset) struct About {
    /// What each class is in words, by label; empty if the data does not say.
    pub(in crate::dataset) words: Vec<String>,
    /// Decisions that were made when the records were found, each with its name.
    pub(in crate::dataset) facts: Vec<(String, String)>,
}

impl About {
    /// Adds a decision.
    pub(super) fn fact(mut self, name: &str, value: impl Into<String>) -> Self {
        self.facts.push((name.to_owned(), value.into()));
        self
    }
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
    /// A range of a shard inside of another one, the frame, which has a checksum.
    Framed { number: u32, offset: u64, length: u32, frame: Frame },
    /// A part of what a range of a shard decompresses to.
    Packed { number: u32, offset: u64, length: u32, packed: Packed },
}

impl Location {
    /// The compressed range that it is in, if it is in one.
    pub(in crate::dataset) const fn packed(self) -> Option<Packed> {
        match self {
            Self::Packed { packed, .. } => Some(packed),
            Self::File | Self::Shard { .. } | Self::Framed { .. } => None,
        }
    }
}

/// A range of a shard with a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataset) struct Frame {
    pub(in crate::dataset) offset: u64,
    pub(in crate::dataset) length: u32,
    /// Its CRC-32C.
    pub(in crate::dataset) crc32c: u32,
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
pub(in crate::dataset) struct SkipCounter(BTreeMap<Cow<'static, str>, (u64, Vec<String>)>);

impl SkipCounter {
    /// Counts one sample.
    pub(in crate::dataset) fn add(
        &mut self,
        reason: &'static str,
        sample: impl FnOnce() -> String,
    ) {
        let (count, examples) = self.0.entry(reason.into()).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(sample());
        }
    }

    /// Adds the counts of a later shard.
    pub(super) fn merge(&mut self, later: Self) {
        for (reason, (count, examples)) in later.0 {
            self.add_many(reason, count, examples);
        }
    }

    /// Adds the samples that were skipped in a later part, which was indexed before.
    pub(in crate::dataset) fn add_all(&mut self, Skipped { count, reason, examples }: &Skipped) {
        self.add_many(reason.clone().into(), *count, examples.clone());
    }

    fn add_many(&mut self, reason: Cow<'static, str>, count: u64, examples: Vec<String>) {
        let (sum, first) = self.0.entry(reason).or_default();
        *sum += count;
        let more = EXAMPLES - first.len();
        first.extend(examples.into_iter().take(more));
    }

    /// Number of skipped samples.
    pub(in crate::dataset) fn total(&self) -> u64 {
        self.0.values().map(|(count, _)| count).sum()
    }

    /// The skipped samples of each reason.
    pub(in crate::dataset) fn finish(&self) -> Vec<Skipped> {
        let skipped = |(reason, (count, examples)): (&Cow<'_, str>, &(u64, Vec<String>))| Skipped {
            count: *count,
            reason: reason.clone().into_owned(),
            examples: examples.clone(),
        };
        self.0.iter().map(skipped).collect()
    }
}
