//! The Parquet files of a dataset, and the split that each belongs to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::super::super::error::DatasetError;
use super::super::directory::{self, utf8};

pub(in super::super) fn is_parquet(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".parquet")
}

/// Finds files where the Hugging Face hub and its cache have them below a folder: in `data`, or in the only one of
/// `snapshots`. Returns the folder and the names of its files; `None` if there are none.
///
/// # Errors
/// When a folder cannot be listed, or there are several snapshots.
pub(in super::super) fn nested(
    folder: &Path,
) -> Result<Option<(PathBuf, Vec<String>)>, DatasetError> {
    let data = folder.join("data");
    if data.is_dir() {
        let names = files(&data)?;
        if !names.is_empty() {
            return Ok(Some((data, names)));
        }
    }
    let snapshots = folder.join("snapshots");
    if !snapshots.is_dir() || !folder.join("blobs").is_dir() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for (name, is_folder) in directory::entries(&snapshots)? {
        if is_folder {
            found.push(snapshots.join(name));
        }
    }
    match &found[..] {
        [] => Ok(None),
        [snapshot] => {
            let names = files(snapshot)?;
            if names.is_empty() { nested(snapshot) } else { Ok(Some((snapshot.clone(), names))) }
        }
        [first, ..] => {
            let (count, first) = (found.len(), first.display());
            let why = format!("it has {count} snapshots; name one of them, such as {first}");
            Err(DatasetError::NotADataset { path: folder.into(), why })
        }
    }
}

/// Names of the Parquet files in a folder, sorted.
fn files(folder: &Path) -> Result<Vec<String>, DatasetError> {
    let mut names = Vec::new();
    for (name, is_folder) in directory::entries(folder)? {
        let text = name.to_string_lossy();
        if !is_folder && is_parquet(&text) && !text.starts_with('.') {
            names.push(utf8(folder, &name)?);
        }
    }
    Ok(names)
}

/// The files of a folder, if they are of one split.
///
/// # Errors
/// When they are of several.
pub(in super::super) fn only_split(
    folder: &Path,
    names: Vec<String>,
) -> Result<Vec<String>, DatasetError> {
    let splits = by_split(&names);
    if splits.len() <= 1 {
        return Ok(names);
    }
    let split = |(name, files): (&&str, &Vec<&str>)| format!("`{name}` ({} files)", files.len());
    let listed: Vec<String> = splits.iter().map(split).collect();
    let (name, _) = splits.first_key_value().expect("several");
    let pattern = folder.join(format!("{name}*.parquet"));
    let (listed, pattern) = (listed.join(", "), pattern.display());
    let why = format!("it has the splits {listed}; name one by a pattern, such as {pattern}");
    Err(DatasetError::NotADataset { path: folder.into(), why })
}

/// The files of each split. The split is the part of a name before the number of the file: `train` of
/// `train-00000-of-00294.parquet`.
pub(in super::super) fn by_split(names: &[String]) -> BTreeMap<&str, Vec<&str>> {
    let mut splits: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for name in names {
        splits.entry(split_of(name)).or_default().push(name);
    }
    splits
}

fn split_of(name: &str) -> &str {
    let name = &name[..name.len() - ".parquet".len()];
    // Older versions of `datasets` add the digest of the file.
    let name = match name.rsplit_once('-') {
        Some((rest, digest)) if digest.len() == 16 && is_all(digest, u8::is_ascii_hexdigit) => rest,
        _ => name,
    };
    let name = match name.rsplit_once("-of-") {
        Some((rest, count)) if is_all(count, u8::is_ascii_digit) => rest,
        _ => name,
    };
    name.trim_end_matches(|letter: char| letter.is_ascii_digit()).trim_end_matches(['-', '_', '.'])
}

fn is_all(text: &str, is_right: fn(&u8) -> bool) -> bool {
    !text.is_empty() && text.as_bytes().iter().all(is_right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_the_name_before_the_number() {
        for (name, split) in [
            ("train-00000-of-00294.parquet", "train"),
            ("train-00000-of-00001-0123456789abcdef.parquet", "train"),
            ("validation-00013-of-00014.parquet", "validation"),
            ("test.parquet", "test"),
            ("train_1.parquet", "train"),
            ("0003.parquet", ""),
            ("part.7.parquet", "part"),
            ("my-of-data-00000-of-00002.PARQUET", "my-of-data"),
        ] {
            assert_eq!(split_of(name), split, "{name}");
        }
    }

    #[test]
    fn several_splits_are_refused_by_their_names() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let one = names(&["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]);
        assert_eq!(only_split(Path::new("d"), one).unwrap().len(), 2);
        let two: Vec<String> = names(&["test.parquet", "train-0.parquet", "train-1.parquet"]);
        assert_eq!(by_split(&two)["train"], ["train-0.parquet", "train-1.parquet"]);
        let error = only_split(Path::new("d"), two).unwrap_err().to_string();
        assert!(error.contains("the splits `test` (1 files), `train` (2 files)"), "{error}");
        assert!(error.contains("such as d/test*.parquet"), "{error}");
    }
}
