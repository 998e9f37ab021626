//! The digest of a dataset.

use forebay_types::Digest;

use super::index::Record;

/// Digest of the classes and of each record's name, label, length, checksum and verdict. Paths and
/// times are not part of it, so equal copies have equal digests.
pub(super) fn of<'a>(
    classes: &[String],
    records: impl ExactSizeIterator<Item = (&'a str, &'a Record)>,
) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"forebay dataset 1");
    update_length(&mut hasher, classes.len());
    for class in classes {
        update_text(&mut hasher, class);
    }
    update_length(&mut hasher, records.len());
    for (name, record) in records {
        update_text(&mut hasher, name);
        hasher.update(&record.label.to_le_bytes());
        hasher.update(&record.length.to_le_bytes());
        hasher.update(&record.checksum.to_le_bytes());
        hasher.update(&[u8::from(record.good)]);
    }
    Digest(*hasher.finalize().as_bytes())
}

/// A length before the items keeps two lists from having the same bytes.
fn update_length(hasher: &mut blake3::Hasher, length: usize) {
    hasher.update(&(length as u64).to_le_bytes());
}

fn update_text(hasher: &mut blake3::Hasher, text: &str) {
    update_length(hasher, text.len());
    hasher.update(text.as_bytes());
}
