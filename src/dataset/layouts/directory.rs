//! Names in a folder.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;

use super::super::error::DatasetError;
use crate::store::StoreError;

/// Names in a folder, sorted by code point as Python sorts, and whether each leads to a folder.
///
/// # Errors
/// When the folder cannot be listed.
pub(super) fn entries(path: &Path) -> Result<Vec<(OsString, bool)>, StoreError> {
    let failed = StoreError::io("list", path);
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(&failed)? {
        let entry = entry.map_err(&failed)?;
        let mut kind = entry.file_type().map_err(&failed)?;
        if kind.is_symlink() {
            // A link without a target keeps its own type, which is not a folder's.
            kind = fs::metadata(entry.path()).map_or(kind, |target| target.file_type());
        }
        entries.push((entry.file_name(), kind.is_dir()));
    }
    // UTF-8 sorts by bytes as it does by code points.
    entries.sort();
    Ok(entries)
}

/// A name that becomes part of a record's name.
///
/// # Errors
/// When it is not UTF-8, as the names in the index must be.
pub(super) fn utf8(folder: &Path, name: &OsStr) -> Result<String, DatasetError> {
    let text = name.to_str().map(str::to_owned);
    text.ok_or_else(|| DatasetError::NotUtf8 { path: folder.join(name) })
}
