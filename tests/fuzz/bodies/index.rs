//! Index files.

use std::path::Path;

use forebay::Simd;
use forebay::dataset::{Dataset, index_path};
use forebay::decode::Decoder;
use xxhash_rust::xxh3::xxh3_64;

use super::{Input, seeds};

/// Bytes of the file's header.
const HEADER: usize = 32;
/// Bytes of an entry in the table of sections.
const ENTRY: usize = 32;

/// A hostile index is an error, or every record in it can be read: names, labels and replacements are within
/// bounds, files are within the dataset's folder, and entry points are harmless.
///
/// Input: flags (u8: 1 the dataset is a folder instead of a tar, 2 checksums are corrected, 4 it is Parquet), the index.
pub fn index(bytes: &[u8]) {
    let mut input = Input(bytes);
    let flags = input.u8();
    let mut file = input.0.to_vec();
    if flags & 2 != 0 {
        seal(&mut file);
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = if flags & 4 == 0 {
        seeds::dataset(folder.path(), flags & 1 != 0)
    } else {
        seeds::compressed(folder.path())
    };
    std::fs::write(index_path(&path, None), &file).expect("room for the index");
    if let Ok(dataset) = Dataset::open(&path, None) {
        read_all(&dataset, flags & 5 == 1);
    }
}

fn read_all(dataset: &Dataset, is_folder: bool) {
    let (mut buffer, mut decoder) = (Vec::new(), Decoder::new(Simd::detect(), 1 << 16));
    drop(dataset.summary());
    for id in (0..dataset.len()).take(100) {
        let record = dataset.record(id);
        assert!(!dataset.name(id).is_empty());
        assert!((record.label as usize) < dataset.classes().len());
        let good = dataset.good_or_next(id);
        assert!(dataset.record(good).good, "record {id} is replaced by {good}");
        assert!(!record.good || good == id);
        if is_folder {
            let mut parts = Path::new(dataset.name(id)).components();
            let inside = parts.all(|part| matches!(part, std::path::Component::Normal(_)));
            assert!(inside, "{:?} is outside of the folder", dataset.name(id));
        }
        if let Ok(bytes) = dataset.read(id, &mut buffer) {
            assert_eq!(bytes.len(), record.length as usize);
            decoder.decode(bytes, record.size.whole(), dataset.entry_points(id)).ok();
        }
    }
}

/// Corrects the file's length and checksums, so that the reader accepts them and parses the sections.
pub(super) fn seal(file: &mut [u8]) {
    let length = file.len();
    let Some(count) = file.get(12..16) else { return };
    let count = u32::from_le_bytes(count.try_into().expect("4 bytes")) as usize;
    let Some(end) = count.checked_mul(ENTRY).map(|table| HEADER + table).filter(|e| *e <= length)
    else {
        return;
    };
    for entry in (HEADER..end).step_by(ENTRY) {
        let number = |at: usize| {
            let bytes = file[entry + at..entry + at + 8].try_into().expect("8 bytes");
            usize::try_from(u64::from_le_bytes(bytes)).ok()
        };
        let Some(start) = number(8) else { continue };
        let section = number(16).and_then(|l| file.get(start..start.checked_add(l)?));
        if let Some(sum) = section.map(xxh3_64) {
            file[entry + 24..entry + 32].copy_from_slice(&sum.to_le_bytes());
        }
    }
    file[16..24].copy_from_slice(&(length as u64).to_le_bytes());
    let sum = xxh3_64(&file[HEADER..end]);
    file[24..32].copy_from_slice(&sum.to_le_bytes());
}
