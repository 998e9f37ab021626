//! Labels, and names of the classes of records whose labels are numbers.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::super::error::DatasetError;
use super::listing::{ListedRecord, Naming};
use crate::store::RegularFile;

/// Largest file of names: those of 1.28 million records have 50 MB.
const MAX_FILE: u32 = 256 << 20;

/// Without a list of class names, labels must be below this.
pub(super) const MAX_NUMBERED_CLASSES: u32 = 1 << 20;

/// A label as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Label {
    Number(i64),
    Text(Arc<str>),
}

/// The lines of `classes.txt` in a folder; `None` if it is not there.
///
/// # Errors
/// When it cannot be read or is malformed.
pub(super) fn listed(root: &Path) -> Result<Option<Vec<String>>, DatasetError> {
    let path = root.join("classes.txt");
    if fs::symlink_metadata(&path).is_ok() { lines(&path).map(Some) } else { Ok(None) }
}

/// The lines of `classes.txt` in a folder, or else the labels as numbers, and which of them they are.
///
/// # Errors
/// When the file cannot be read or is malformed, or a label has no class.
pub(super) fn listed_or_numbered(
    root: &Path,
    records: &[ListedRecord],
) -> Result<(Vec<String>, Naming), DatasetError> {
    let (classes, naming) = if let Some(listed) = listed(root)? {
        (listed, Naming::List)
    } else {
        let last = records.iter().map(|record| record.label).max();
        let count = last.map_or(0, |label| label.saturating_add(1));
        let numbers = 0..count.min(MAX_NUMBERED_CLASSES);
        (numbers.map(|label| label.to_string()).collect(), Naming::Numbers)
    };
    check_labels(records, classes.len())?;
    Ok((classes, naming))
}

/// # Errors
/// When a label has no class.
pub(super) fn check_labels(records: &[ListedRecord], classes: usize) -> Result<(), DatasetError> {
    match records.iter().max_by_key(|record| record.label) {
        Some(record) if record.label as usize >= classes => {
            Err(DatasetError::Label { name: record.name.clone(), label: record.label, classes })
        }
        _ => Ok(()),
    }
}

/// The class names of a file, one in each line.
///
/// # Errors
/// When it cannot be read, is not UTF-8 or has a blank line.
pub(super) fn lines(path: &Path) -> Result<Vec<String>, DatasetError> {
    let lines = text_lines(path)?;
    match lines.iter().position(String::is_empty) {
        None => Ok(lines),
        Some(blank) => Err(DatasetError::Classes {
            path: path.into(),
            line: blank + 1,
            what: "it is blank, so every class behind it would have another label; remove it",
        }),
    }
}

/// The lines of a file without the space around them.
///
/// # Errors
/// When it cannot be read or is not UTF-8.
pub(super) fn text_lines(path: &Path) -> Result<Vec<String>, DatasetError> {
    let mut text = Vec::new();
    RegularFile::open(path)?.read_whole(&mut text, MAX_FILE, "a list of names")?;
    let text = str::from_utf8(&text).map_err(|error| DatasetError::Classes {
        path: path.into(),
        line: text[..error.valid_up_to()].split(|&byte| byte == b'\n').count(),
        what: "it is not UTF-8; convert the file",
    })?;
    Ok(text.trim_end().lines().map(|line| line.trim().to_owned()).collect())
}
