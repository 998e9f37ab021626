//! Splits: the parts of a dataset, such as `train` and `val`, that are stored at one path.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::super::error::DatasetError;

/// The names of splits that are recognized in names of shards and folders. Those of a row mean the same.
const NAMES: [&[&str]; 3] =
    [&["train", "training"], &["val", "validation", "valid"], &["test", "testing"]];

/// Splits `PATH#SPLIT`. A path that exists as it is has no split.
pub(super) fn of(path: &Path) -> (PathBuf, Option<String>) {
    match parts(path.as_os_str().as_bytes()) {
        Some((path_before, split)) if !path.exists() => {
            (PathBuf::from(OsStr::from_bytes(path_before)), Some(split.to_owned()))
        }
        _ => (path.to_path_buf(), None),
    }
}

/// Path and split of `PATH#SPLIT`, whether something exists at the whole of it or not. A folder whose name has a `#`
/// is no split, and neither is a pattern.
pub(in crate::dataset) fn parts(path: &[u8]) -> Option<(&[u8], &str)> {
    let at = path.iter().rposition(|&byte| byte == b'#').filter(|at| *at > 0)?;
    let split = str::from_utf8(&path[at + 1..]).ok()?;
    let is_name = !split.is_empty() && !split.contains(['/', '*', '{']);
    is_name.then_some((&path[..at], split))
}

/// The path of a split of what is stored at a path: `PATH#SPLIT`. Datasets are indexed and opened by it.
pub fn with_split(path: &Path, split: Option<&str>) -> PathBuf {
    let Some(split) = split else { return path.to_path_buf() };
    let mut with_split = path.as_os_str().to_owned();
    with_split.push("#");
    with_split.push(split);
    with_split.into()
}

/// The folder and the split of a path whose last part is the name of a split: `/data` and `train` of `/data/train`.
pub(super) fn folder_of(path: &Path) -> Option<(&Path, &str)> {
    let name = path.file_name()?.to_str().filter(|name| all().any(|split| split == *name))?;
    Some((path.parent()?, name))
}

/// Whether two names mean the same split: `val` is `validation`.
pub(super) fn is_same(a: &str, b: &str) -> bool {
    a == b || NAMES.iter().any(|row| row.contains(&a) && row.contains(&b))
}

/// Names by which a split may be called, the given one first.
pub(in crate::dataset) fn aliases(split: &str) -> impl Iterator<Item = &str> {
    let row = NAMES.iter().find(|row| row.contains(&split));
    let others = row.into_iter().flat_map(|row| row.iter().copied());
    std::iter::once(split).chain(others.filter(move |name| *name != split))
}

/// All names that are recognized.
pub(in crate::dataset) fn all() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().flatten().copied()
}

/// The split that the name of a shard says: `validation` of `imagenet1k-validation-03.tar`.
pub(in crate::dataset) fn in_name(name: &str) -> Option<&'static str> {
    let mut words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    words.find_map(|word| all().find(|split| *split == word))
}

/// The shards of a split, by their names. Without a split, all of them if they are of one split at most.
///
/// # Errors
/// When there are several splits and none is selected, or only some of the shards say a split, or the selected one is
/// not there.
pub(super) fn select(
    path: &Path,
    shards: Vec<String>,
    split: Option<&str>,
) -> Result<Vec<String>, DatasetError> {
    let names = || shards.iter().filter_map(|name| in_name(name));
    choose(path, names(), split)?;
    let Some(split) = split else {
        let said = shards.iter().find_map(|name| in_name(name));
        let other = shards.iter().find(|name| in_name(name).is_none());
        let (Some(said), Some(other)) = (said, other) else { return Ok(shards) };
        let why = format!(
            "some of its shards are of the split {said}, and the names of others say no split, such as {other}; \
             select the split by --split {said}, or name all shards by a pattern as the path"
        );
        return Err(DatasetError::NotADataset { path: path.into(), why });
    };
    let is_selected = |name: &String| in_name(name).is_some_and(|found| is_same(found, split));
    Ok(shards.into_iter().filter(is_selected).collect())
}

/// The one of several splits that is selected: the only one if none is.
///
/// # Errors
/// When there are several splits and none is selected, or the selected one is not there.
pub(in crate::dataset) fn choose<'a>(
    path: &Path,
    splits: impl IntoIterator<Item = &'a str>,
    selected: Option<&str>,
) -> Result<Option<&'a str>, DatasetError> {
    let mut found: Vec<&str> = splits.into_iter().collect();
    found.sort_unstable();
    found.dedup();
    let chosen = match selected {
        Some(selected) => {
            let same = || found.iter().find(|name| is_same(name, selected));
            found.iter().find(|name| **name == selected).or_else(same)
        }
        None if found.len() <= 1 => return Ok(found.first().copied()),
        None => None,
    };
    chosen.copied().map(Some).ok_or_else(|| DatasetError::Split {
        path: path.into(),
        selected: selected.map(str::to_owned),
        found: found.into_iter().map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_stands_behind_the_path_unless_the_path_exists() {
        let root = tempfile::tempdir().unwrap();
        let odd = root.path().join("c#val");
        std::fs::write(&odd, "").unwrap();
        assert_eq!(of(&odd), (odd.clone(), None));
        let parts = |text: &str| {
            let (path, split) = of(Path::new(text));
            (path.to_str().unwrap().to_owned(), split)
        };
        assert_eq!(parts("/none/x#val"), ("/none/x".into(), Some("val".into())));
        for plain in
            ["/none/x", "/none/x#", "/none/c#/x", "#val", "/none/t#{0..9}.tar", "/none/t#*"]
        {
            assert_eq!(parts(plain), (plain.into(), None));
        }
    }

    #[test]
    fn names_of_shards_say_their_split() {
        for (name, split) in [
            ("train-00000-of-01024", Some("train")),
            ("imagenet2012-validation.tfrecord-00000-of-00064", Some("validation")),
            ("imagenet1k-train-0000.tar", Some("train")),
            ("constrained-0.tar", None),
            ("t-0.tar", None),
        ] {
            assert_eq!(in_name(name), split, "{name}");
        }
        assert!(is_same("val", "validation") && is_same("x", "x") && !is_same("val", "test"));
        assert_eq!(aliases("valid").collect::<Vec<_>>(), ["valid", "val", "validation"]);
        assert_eq!(aliases("extra").collect::<Vec<_>>(), ["extra"]);
    }

    #[test]
    fn one_of_several_splits_must_be_selected() {
        let shards = || ["train-0", "train-1", "valid-0"].map(str::to_owned).to_vec();
        let select = |split| select(Path::new("d"), shards(), split);
        assert_eq!(select(Some("val")).unwrap(), ["valid-0"]);
        assert_eq!(select(Some("train")).unwrap().len(), 2);
        let refused = select(None).unwrap_err().to_string();
        assert!(refused.contains("several splits: train, valid"), "{refused}");
        assert!(refused.contains("--split") && refused.contains("d#train"), "{refused}");
        let extra = ["train-0", "extra-0"].map(str::to_owned).to_vec();
        let refused = super::select(Path::new("d"), extra.clone(), None).unwrap_err().to_string();
        assert!(
            refused.contains("split train") && refused.contains("such as extra-0"),
            "{refused}"
        );
        assert_eq!(super::select(Path::new("d"), extra, Some("train")).unwrap(), ["train-0"]);
        let refused = select(Some("test")).unwrap_err().to_string();
        assert!(refused.contains("no split \"test\"; it has train, valid"), "{refused}");
    }
}
