//! `WebDataset` tars.

use std::fs;

use forebay::dataset::{Dataset, build};

use super::{Input, seeds};

const BLOCK: usize = 512;

/// A hostile tar is an error, or a dataset whose records are slices of it.
///
/// Input: flags (u8: 1 checksums are corrected), the tar.
pub fn tar(bytes: &[u8]) {
    let mut input = Input(bytes);
    let flags = input.u8();
    let mut file = input.0.to_vec();
    if flags & 1 != 0 {
        // Any block may be a header.
        for block in file.as_chunks_mut::<BLOCK>().0 {
            if block[257..].starts_with(b"ustar") {
                seeds::seal(block);
            }
        }
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("s.tar");
    fs::write(&path, &file).expect("room for the tar");
    if build(&path, None, 1, &|_| {}).is_err() {
        return;
    }
    let dataset = Dataset::open(&path, None).expect("just built");
    let mut buffer = Vec::new();
    for id in 0..dataset.len() {
        let record = dataset.record(id);
        let start = usize::try_from(record.offset).expect("inside the file");
        let stored = &file[start..start + record.length as usize];
        assert!(dataset.read(id, &mut buffer).expect("just built") == stored);
        assert!(dataset.name(id).starts_with("s.tar/"));
        assert!(dataset.record(dataset.good_or_next(id)).good);
    }
}
