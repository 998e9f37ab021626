//! Errors of a dataset or its index. Each names the file and the remedy.

use std::path::{Path, PathBuf};

use crate::store::StoreError;

/// An error of a dataset or its index.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A file or folder cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The path does not exist.
    #[error("no dataset at {}: no such file or directory; check the path", .path.display())]
    Missing {
        /// The path that was given.
        path: PathBuf,
    },
    /// The path leads to something that is not a dataset.
    #[error("{} is not a dataset: {why}", .path.display())]
    NotADataset {
        /// The path that was given.
        path: PathBuf,
        /// The expected files.
        why: String,
    },
    /// A path with several splits, of which none or an unknown one is selected.
    #[error("{}", no_split(.path, .selected.as_deref(), .found))]
    Split {
        /// The path, without a split.
        path: PathBuf,
        /// The split that was selected, if one was.
        selected: Option<String>,
        /// The splits that are there.
        found: Vec<String>,
    },
    /// A class folder without images, which torchvision refuses too.
    #[error("the class folder {} has no images ({expected}); fill or remove it", .path.display())]
    EmptyClass {
        /// The folder.
        path: PathBuf,
        /// The extensions of images.
        expected: String,
    },
    /// A symbolic link to one of the folders above it.
    #[error("the symbolic link {} leads back to a folder above it; remove it", .path.display())]
    Loop {
        /// The link.
        path: PathBuf,
    },
    /// A folder that symbolic links lead to in too many ways.
    #[error(
        "symbolic links lead to the folder {} by more than {limit} paths; remove links", .path.display()
    )]
    TooManyPaths {
        /// One of the paths.
        path: PathBuf,
        /// The limit.
        limit: u32,
    },
    /// Datasets that cannot be mixed.
    #[error("cannot mix {}: {why}", .path.display())]
    Mix {
        /// One of them.
        path: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// There are no records.
    #[error("the dataset at {} has no images with labels{skipped}; expected at least one", .path.display())]
    Empty {
        /// The path that was given.
        path: PathBuf,
        /// The number of skipped samples with the reason, or nothing.
        skipped: String,
    },
    /// More samples were skipped than may be.
    #[error(
        "{skipped} of {samples} samples of the dataset at {} cannot be used, and at most {limit} may be \
         skipped: {reasons}; fix them, or let more be skipped (--max-skipped)",
        .path.display()
    )]
    TooManySkipped {
        /// The path that was given.
        path: PathBuf,
        /// Number of skipped samples.
        skipped: u64,
        /// Number of all samples.
        samples: u64,
        /// Number of samples that may be skipped.
        limit: f64,
        /// The skipped samples, by reason.
        reasons: String,
    },
    /// A name that cannot become the name of a record or class.
    #[error("the name {} is not UTF-8; rename it", .path.display())]
    NotUtf8 {
        /// The file or folder, with replacement characters.
        path: PathBuf,
    },
    /// A tar file that is damaged or truncated.
    #[error("{}: at byte {offset}: {what}; restore or rebuild the tar", .path.display())]
    Tar {
        /// The shard.
        path: PathBuf,
        /// Offset of the header in question.
        offset: u64,
        /// The fault.
        what: &'static str,
    },
    /// A sample of a tar that is malformed.
    #[error("{}: at byte {offset}: sample `{key}`: {what}", .path.display())]
    Sample {
        /// The shard.
        path: PathBuf,
        /// Offset of the sample.
        offset: u64,
        /// Key of the sample.
        key: String,
        /// The fault.
        what: &'static str,
    },
    /// A shard other than a tar that is damaged, truncated, or not of its layout.
    #[error("{}: at byte {offset}: {what}", .path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// Offset of the part in question.
        offset: u64,
        /// The fault, and what to do.
        what: String,
    },
    /// A file that describes a dataset, such as a list of labels, that cannot be used.
    #[error("cannot use {}: {what}", .path.display())]
    Description {
        /// The file.
        path: PathBuf,
        /// The fault, and what to do.
        what: String,
    },
    /// Records whose fields do not have the names that images and labels usually have.
    #[error(
        "{}: it has no {missing}; its columns are {}. Name them by --image-column and --label-column",
        .path.display(), .columns.join(", ")
    )]
    Columns {
        /// The file.
        path: PathBuf,
        /// What is missing.
        missing: String,
        /// The names that it has.
        columns: Vec<String>,
    },
    /// An option of indexing that is about other layouts.
    #[error(
        "{option} does not apply to {}, which has the layout {layout}: it is about {}; remove it",
        .path.display(), .fits.join(", ")
    )]
    Option {
        /// The folder of the dataset, or the file that lists it.
        path: PathBuf,
        /// The option, as a flag.
        option: &'static str,
        /// The layout of the dataset.
        layout: &'static str,
        /// The layouts that the option is about.
        fits: Vec<&'static str>,
    },
    /// A file that selects classes or records has a line that selects nothing.
    #[error("{}: line {line}: the dataset has no {what} {name:?}; remove the line", .path.display())]
    Selection {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// `class` or `record`.
        what: &'static str,
        /// The line.
        name: String,
    },
    /// A Parquet file that is damaged, or whose columns are not known or supported.
    #[error("{}: {what}", .path.display())]
    Parquet {
        /// The file.
        path: PathBuf,
        /// The part and the fault, with the remedy.
        what: String,
    },
    /// A line of `classes.txt` that is not the name of a class.
    #[error("{}: line {line}: {what}", .path.display())]
    Classes {
        /// The file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// The fault.
        what: &'static str,
    },
    /// A label without a class.
    #[error(
        "{name} has label {label}, but the number of classes is {classes}; \
         fix the label or classes.txt"
    )]
    Label {
        /// The record.
        name: String,
        /// Its label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// No record can be served.
    #[error(
        "all {records} records are bad; the first is {name}: {reason}; repair the images and index again"
    )]
    AllBad {
        /// Number of records.
        records: u64,
        /// The first.
        name: String,
        /// The reason why it is bad.
        reason: String,
    },
    /// The worker threads of `forebay index` cannot be started.
    #[error("cannot start {threads} threads: {error}; use fewer (--threads)")]
    Threads {
        /// Number of threads.
        threads: usize,
        /// Error of the operating system.
        error: String,
    },
    /// The dataset was never indexed, or its index is elsewhere.
    #[error(
        "no index at {}; run \"forebay index {}\" (with the same --index-dir)",
        .index.display(), .path.display()
    )]
    NoIndex {
        /// The dataset.
        path: PathBuf,
        /// Expected path of its index.
        index: PathBuf,
    },
    /// The index cannot be used.
    #[error("cannot use the index {}: {what}; run \"forebay index\" again", .path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// The fault.
        what: String,
    },
    /// The shards are not those that were indexed.
    #[error(
        "the dataset at {} has {found} shards and had {indexed} others when it was indexed; \
         run \"forebay index\" again",
        .path.display()
    )]
    ShardsChanged {
        /// Folder of the shards.
        path: PathBuf,
        /// Number of shards now.
        found: usize,
        /// Number of shards in the index.
        indexed: usize,
    },
    /// A record cannot be read, or its bytes are not those that were indexed.
    #[error("record {record} ({name}): {error}")]
    Record {
        /// Number of the record.
        record: u64,
        /// Its name.
        name: String,
        /// The fault.
        error: StoreError,
    },
}

/// The message of [`DatasetError::Split`].
fn no_split(path: &Path, selected: Option<&str>, found: &[String]) -> String {
    let (path, list) = (path.display(), found.join(", "));
    match (selected, found.first()) {
        (Some(selected), None) => format!("{path} has no split {selected:?}, and no others"),
        (Some(selected), Some(_)) => format!("{path} has no split {selected:?}; it has {list}"),
        (None, first) => {
            let first = first.map_or("SPLIT", String::as_str);
            format!(
                "{path} has several splits: {list}; select one, by --split {first} or by {path}#{first} as \
                 the path"
            )
        }
    }
}

impl DatasetError {
    /// Whether a record's bytes are there and are not those that were indexed; see
    /// [`StoreError::is_change`].
    pub const fn is_change(&self) -> bool {
        match self {
            Self::Store(error) | Self::Record { error, .. } => error.is_change(),
            _ => false,
        }
    }
}
