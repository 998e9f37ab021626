//! Parquet files.

use std::fs;

use forebay::dataset::{Dataset, build};

use super::seeds::Jpeg;

/// The images that the seed of a manifest names.
const NAMED: [&str; 2] = ["0.jpg", "1.jpg"];

/// A hostile Parquet file is an error, or a dataset whose records are read as they were indexed.
///
/// Input: the file.
pub fn parquet(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("s.parquet");
    let images = folder.path().join("images");
    fs::create_dir(&images).expect("a folder");
    for name in NAMED {
        let image = Jpeg { size: (9, 9), ..Jpeg::USUAL }.encode();
        fs::write(images.join(name), image).expect("room for the file");
    }
    fs::write(&path, bytes).expect("room for the file");
    if build(&path, None, 1, &|_| {}).is_err() {
        return;
    }
    let dataset = Dataset::open(&path, None).expect("just built");
    let mut buffer = Vec::new();
    let are_files = dataset.summary().layout == "Parquet manifest";
    for id in 0..dataset.len() {
        let record = dataset.record(id);
        let read = dataset.read(id, &mut buffer).expect("just built");
        assert_eq!(read.len(), record.length as usize);
        assert!((record.label as usize) < dataset.classes().len());
        assert!(are_files || dataset.name(id).starts_with("s.parquet/"));
        assert!(dataset.record(dataset.good_or_next(id)).good);
    }
}
