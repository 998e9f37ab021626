//! Small datasets.

use std::fs;
use std::path::Path;

use forebay::dataset::{Dataset, DatasetError, IndexOptions, Summary, build, build_with};

const TINY: &[u8] = include_bytes!("../data/tiny.jpg");

/// A JPEG of 26x18 pixels. A byte behind its end, which decoders ignore, makes it unique.
pub(crate) fn image(number: u8) -> Vec<u8> {
    [TINY, &[number]].concat()
}

/// A truncated JPEG, which does not decode.
pub(crate) fn cut_image() -> Vec<u8> {
    TINY[..TINY.len() - 30].to_vec()
}

/// Writes files, and creates their folders.
pub(crate) fn files(root: &Path, files: &[(&str, Vec<u8>)]) {
    for (name, bytes) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// A tar of regular files.
pub(crate) fn tar(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, data) in members {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[124..135].copy_from_slice(format!("{:011o}", data.len()).as_bytes());
        header[148..156].fill(b' ');
        header[156] = b'0';
        header[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend(header);
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// Indexes on two threads; the index is beside the dataset.
pub(crate) fn index(path: &Path) -> Result<Summary, DatasetError> {
    build(path, None, 2, &|_| {})
}

/// Indexes, and skips at most a share of the samples.
pub(crate) fn index_skipping(max_skipped: f64, path: &Path) -> Result<Summary, DatasetError> {
    let options = IndexOptions { max_skipped: Some(max_skipped), ..IndexOptions::default() };
    build_with(path, None, 2, &options, &|_| {})
}

/// Indexes and opens.
pub(crate) fn opened(path: &Path) -> Dataset {
    index(path).unwrap();
    Dataset::open(path, None).unwrap()
}

/// Number, reason and names of what was skipped.
pub(crate) fn skipped(dataset: &Dataset) -> Vec<(u64, String, Vec<String>)> {
    let skipped = dataset.summary().skipped.into_iter();
    skipped.map(|skipped| (skipped.count, skipped.reason, skipped.examples)).collect()
}

/// Names and labels in dataset order.
pub(crate) fn listing(dataset: &Dataset) -> Vec<(&str, u32)> {
    (0..dataset.len()).map(|id| (dataset.name(id), dataset.record(id).label)).collect()
}

/// The message of an error.
pub(crate) fn message<T>(result: Result<T, DatasetError>) -> String {
    result.err().expect("an error").to_string()
}
