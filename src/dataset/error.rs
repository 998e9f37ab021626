//! What is wrong with a dataset or its index: always which file, and what to do.

use std::path::PathBuf;

/// What is wrong with a dataset or its index.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// There is nothing at the path.
    #[error("there is no dataset at {}: no such file or directory", .path.display())]
    Missing {
        /// The path given.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried: `open`, `read`, `list`, `write`.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// The path leads to something that is no dataset.
    #[error("{} is not a dataset: {why}", .path.display())]
    NotADataset {
        /// The path given.
        path: PathBuf,
        /// What was expected.
        why: &'static str,
    },
    /// A class folder without an image, which torchvision refuses too.
    #[error(
        "the class folder {} holds no image ({}); remove it or fill it",
        .path.display(), super::folder::EXTENSIONS.join(" ")
    )]
    EmptyClass {
        /// The folder.
        path: PathBuf,
    },
    /// A symbolic link that leads back to a folder above it.
    #[error("the symbolic link {} leads back to a folder above it; remove it", .path.display())]
    Loop {
        /// The link.
        path: PathBuf,
    },
    /// No records.
    #[error("the dataset at {} holds no images", .path.display())]
    Empty {
        /// The path given.
        path: PathBuf,
    },
    /// A name that cannot be written down.
    #[error("the name {} is not UTF-8; rename it", .path.display())]
    NotUtf8 {
        /// The file, with replacement characters.
        path: PathBuf,
    },
    /// The index is damaged where nobody looked when it was opened.
    #[error("the index's entry points for {name} are damaged; run `forebay index` again")]
    Entries {
        /// The record.
        name: String,
    },
    /// A tar file that is damaged or cut.
    #[error("{}: at byte {offset}: {what}", .path.display())]
    Tar {
        /// The shard.
        path: PathBuf,
        /// Of the header in question.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A sample of a tar that lacks something.
    #[error("{}: at byte {offset}: sample `{key}`: {what}", .path.display())]
    Sample {
        /// The shard.
        path: PathBuf,
        /// Where the sample begins.
        offset: u64,
        /// The sample's key.
        key: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A label without a class.
    #[error("{name}: label {label}, but there are {classes} classes (0 to {})", .classes.saturating_sub(1))]
    Label {
        /// The record.
        name: String,
        /// Its label.
        label: u32,
        /// How many classes there are.
        classes: usize,
    },
    /// Not one record that can be served.
    #[error("all {records} records are bad; the first is {name}: {reason}")]
    AllBad {
        /// How many there are.
        records: u64,
        /// The first.
        name: String,
        /// Why it is bad.
        reason: String,
    },
    /// The dataset was never indexed, or its index lies elsewhere.
    #[error(
        "there is no index at {}; run `forebay index {}` (with the same --index-dir)",
        .index.display(), .path.display()
    )]
    NoIndex {
        /// The dataset.
        path: PathBuf,
        /// Where its index was looked for.
        index: PathBuf,
    },
    /// The index cannot be used.
    #[error("the index {} cannot be used: {what}; run `forebay index` again", .path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The data are not those that were indexed.
    #[error("{name} changed since it was indexed ({what}); run `forebay index` again")]
    Changed {
        /// The shard or record.
        name: String,
        /// What differs.
        what: String,
    },
}

impl DatasetError {
    /// An error of the operating system.
    pub(super) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
