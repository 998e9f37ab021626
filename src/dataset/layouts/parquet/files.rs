//! The Parquet files of a dataset, and the split that each belongs to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::super::super::error::DatasetError;
use super::super::directory::{self, utf8};
use super::super::split;

pub(in crate::dataset) fn is_parquet(name: &str) -> bool {
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

/// The files of a split by their names. Without a split, all of them if they are of one.
///
/// # Errors
/// When there are several splits and none is selected, or the selected one is not there.
pub(in super::super) fn select(
    path: &Path,
    names: Vec<String>,
    selected: Option<&str>,
) -> Result<Vec<String>, DatasetError> {
    let splits: BTreeSet<&str> = names.iter().map(|name| split_of(name)).collect();
    let has = |wanted: &str| splits.iter().any(|found| split::is_same(found, wanted));
    // `imagenet-train` is the split `train` if there is no other of that name.
    let says = |found: &str, wanted: &str| {
        split::in_name(found).is_some_and(|word| split::is_same(word, wanted))
    };
    let wanted = selected.map(|wanted| {
        let named: Vec<&str> = splits.iter().copied().filter(|found| says(found, wanted)).collect();
        if let [only] = named[..]
            && !has(wanted)
        {
            only
        } else {
            wanted
        }
    });
    let Some(chosen) = split::choose(path, splits.iter().copied(), wanted)?.map(str::to_owned)
    else {
        return Ok(names);
    };
    Ok(names.into_iter().filter(|name| split_of(name) == chosen).collect())
}

/// The part of a name before the number of the file: `train` of `train-00000-of-00294.parquet`. A file that has
/// only a number is of the split that its folder is named after, as in `train/0000.parquet`, and so is a file of Spark.
fn split_of(name: &str) -> &str {
    let (folder, base) = name.rsplit_once('/').unwrap_or(("", name));
    let name = &base[..base.len() - ".parquet".len()];
    let of_folder = folder.rsplit('/').next().unwrap_or_default();
    if is_of_spark(name) {
        return of_folder;
    }
    // Older versions of `datasets` add the digest of the file.
    let name = match name.rsplit_once('-') {
        Some((rest, digest)) if digest.len() == 16 && is_all(digest, u8::is_ascii_hexdigit) => rest,
        _ => name,
    };
    let name = match name.rsplit_once("-of-") {
        Some((rest, count)) if is_all(count, u8::is_ascii_digit) => rest,
        _ => name,
    };
    let name = name.trim_end_matches(|letter: char| letter.is_ascii_digit());
    match name.trim_end_matches(['-', '_', '.']) {
        "" => of_folder,
        split => split,
    }
}

/// Whether a name is one that Spark gives: `part-00000-` and a UUID, which differs from one write to the next.
fn is_of_spark(name: &str) -> bool {
    let numbered = name.strip_prefix("part-").and_then(|rest| rest.split_once('-'));
    let Some((number, rest)) = numbered else { return false };
    let uuid: Vec<&str> = rest.splitn(6, ['-', '.']).take(5).collect();
    let lengths: Vec<usize> = uuid.iter().map(|part| part.len()).collect();
    is_all(number, u8::is_ascii_digit)
        && lengths == [8, 4, 4, 4, 12]
        && uuid.iter().all(|part| is_all(part, u8::is_ascii_hexdigit))
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
            ("default/train/0003.parquet", "train"),
            ("a/test-0.parquet", "test"),
            ("part-00000-0a1b2c3d-0000-4000-8000-0123456789ab-c000.snappy.parquet", ""),
            ("train/part-00017-0a1b2c3d-0000-4000-8000-0123456789ab.c000.parquet", "train"),
            ("part-00000-tid-7.parquet", "part-00000-tid"),
        ] {
            assert_eq!(split_of(name), split, "{name}");
        }
    }

    #[test]
    fn one_of_several_splits_is_selected_by_its_name() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let of = |files: &[&str], split| select(Path::new("d"), names(files), split);
        let one = ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"];
        assert_eq!(of(&one, None).unwrap().len(), 2);
        let two = ["train-0.parquet", "train-1.parquet", "validation-0.parquet"];
        assert_eq!(of(&two, Some("val")).unwrap(), ["validation-0.parquet"]);
        let error = of(&two, None).unwrap_err().to_string();
        assert!(error.contains("several splits: train, validation"), "{error}");
        let error = of(&two, Some("test")).unwrap_err().to_string();
        assert!(error.contains("no split \"test\"; it has train, validation"), "{error}");
        let prefixed = ["x-train-0.parquet", "x-val-0.parquet"];
        assert_eq!(of(&prefixed, Some("validation")).unwrap(), ["x-val-0.parquet"]);
        let both = ["train-0.parquet", "x-train-0.parquet"];
        assert_eq!(of(&both, Some("train")).unwrap(), ["train-0.parquet"]);
    }
}
