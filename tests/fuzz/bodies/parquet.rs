//! Parquet files.

use std::fs;

use forebay::dataset::{Dataset, build};

/// A hostile Parquet file is an error, or a dataset whose records are read as they were indexed.
///
/// Input: the file.
pub fn parquet(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("s.parquet");
    fs::write(&path, bytes).expect("room for the file");
    if build(&path, None, 1, &|_| {}).is_err() {
        return;
    }
    let dataset = Dataset::open(&path, None).expect("just built");
    let mut buffer = Vec::new();
    for id in 0..dataset.len() {
        let record = dataset.record(id);
        let read = dataset.read(id, &mut buffer).expect("just built");
        assert_eq!(read.len(), record.length as usize);
        assert!((record.label as usize) < dataset.classes().len());
        assert!(dataset.name(id).starts_with("s.parquet/"));
        assert!(dataset.record(dataset.good_or_next(id)).good);
    }
}
