//! What lies at the path of a dataset, and where its index belongs.

use std::fs;
use std::path::{Path, PathBuf};

use super::DatasetError;

/// A dataset as users keep it.
#[derive(Debug)]
pub(super) enum Source {
    /// A folder with a folder for each class.
    Folder {
        /// The folder.
        root: PathBuf,
    },
    /// `WebDataset` tars.
    Tars {
        /// The folder that holds them.
        base: PathBuf,
        /// Their names, sorted.
        shards: Vec<String>,
    },
}

impl Source {
    /// Finds out what lies at a path: an `ImageFolder`, a tar, a folder of tars, or a pattern of tars.
    pub(super) fn find(path: &Path) -> Result<Self, DatasetError> {
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Self::folder(path),
            Ok(_) if has_tar_name(path) => {
                let (base, name) = split(path)?;
                Ok(Self::Tars { base, shards: vec![name] })
            }
            Ok(_) => {
                let why = "it is a file whose name does not end in .tar";
                Err(DatasetError::NotADataset { path: path.into(), why })
            }
            Err(_) if path.to_string_lossy().contains(['*', '{']) => Self::pattern(path),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(DatasetError::Missing { path: path.into() })
            }
            Err(source) => Err(DatasetError::io("open", path)(source)),
        }
    }

    fn folder(path: &Path) -> Result<Self, DatasetError> {
        let mut shards = Vec::new();
        let mut folders = false;
        for (name, is_folder) in list(path)? {
            folders |= is_folder;
            if !is_folder && has_tar_name(Path::new(&name)) {
                shards.push(name);
            }
        }
        match (folders, shards.is_empty()) {
            (_, true) => Ok(Self::Folder { root: path.into() }),
            (false, false) => Ok(Self::Tars { base: path.into(), shards }),
            (true, false) => Err(DatasetError::NotADataset {
                path: path.into(),
                why: "it holds both folders and tars; give one class folder tree, one tar, or a pattern such as 'train-*.tar'",
            }),
        }
    }

    /// `train-{000000..000009}.tar` names each shard, so that a missing one is noticed; `*` takes
    /// those there are.
    fn pattern(path: &Path) -> Result<Self, DatasetError> {
        let (base, name) = split(path)?;
        let mut shards = Vec::new();
        for part in expand(&name) {
            if part.contains('*') {
                let there = list(&base)?;
                let names = there.into_iter().filter(|(_, is_folder)| !is_folder).map(|(n, _)| n);
                shards.extend(names.filter(|name| matches(&part, name)));
            } else if base.join(&part).is_file() {
                shards.push(part);
            } else {
                return Err(DatasetError::Missing { path: base.join(part) });
            }
        }
        shards.sort();
        shards.dedup();
        if shards.is_empty() {
            return Err(DatasetError::Missing { path: path.into() });
        }
        Ok(Self::Tars { base, shards })
    }
}

/// Where the index of a dataset lies: beside it, or in the folder given, under a name that tells
/// datasets of the same name apart.
pub fn index_path(path: &Path, index_dir: Option<&Path>) -> PathBuf {
    // A path that ends in `.` or `..`, or is `/`, has no name of its own.
    let whole = if path.file_name().is_some() {
        path.to_path_buf()
    } else {
        path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
    };
    let name = whole.file_name().map_or("root".into(), |name| name.to_string_lossy());
    let plain = name.replace(['*', '?', '{', '}', '[', ']'], "_");
    let parent = whole.parent().unwrap_or(Path::new("."));
    match index_dir {
        None => parent.join(format!("{plain}.forebay")),
        Some(dir) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            let parent = parent.canonicalize().unwrap_or_else(|_| parent.to_path_buf());
            let place = parent.join(name.as_ref());
            let digest = blake3::hash(place.as_os_str().as_encoded_bytes()).to_hex();
            dir.join(format!("{plain}-{}.forebay", &digest[..8]))
        }
    }
}

/// Names in a folder, sorted by code point as Python sorts, and whether each leads to a folder.
pub(super) fn list(path: &Path) -> Result<Vec<(String, bool)>, DatasetError> {
    let failed = || DatasetError::io("list", path);
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let mut kind = entry.file_type().map_err(failed())?;
        if kind.is_symlink() {
            // A link that leads nowhere is no folder.
            kind = fs::metadata(entry.path()).map_or(kind, |found| found.file_type());
        }
        let name = entry.file_name().into_string();
        let name = name.map_err(|name| DatasetError::NotUtf8 { path: path.join(name) })?;
        entries.push((name, kind.is_dir()));
    }
    entries.sort();
    Ok(entries)
}

fn split(path: &Path) -> Result<(PathBuf, String), DatasetError> {
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| DatasetError::NotUtf8 { path: path.into() })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((parent.unwrap_or(Path::new(".")).into(), name.to_owned()))
}

fn has_tar_name(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar"))
}

/// Expands the first `{a..b}` of a name (numbers of equal width) or `{a,b}`, then those behind it.
fn expand(name: &str) -> Vec<String> {
    let Some((before, rest)) = name.split_once('{') else { return vec![name.to_owned()] };
    let Some((inside, after)) = rest.split_once('}') else { return vec![name.to_owned()] };
    let parts: Vec<String> = match inside.split_once("..") {
        Some((first, last)) => match (first.parse::<u32>(), last.parse::<u32>()) {
            (Ok(from), Ok(to)) if from <= to && to - from < 1_000_000 => {
                (from..=to).map(|number| format!("{number:0width$}", width = first.len())).collect()
            }
            _ => return vec![name.to_owned()],
        },
        None => inside.split(',').map(str::to_owned).collect(),
    };
    let ends = expand(after);
    parts.iter().flat_map(|p| ends.iter().map(move |end| format!("{before}{p}{end}"))).collect()
}

/// Whether a name fits a pattern in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(first) else { return false };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return name.ends_with(part);
        }
        match name.find(part) {
            Some(at) => name = &name[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_name_each_shard() {
        assert_eq!(expand("a-{08..10}.tar"), ["a-08.tar", "a-09.tar", "a-10.tar"]);
        assert_eq!(expand("{x,y}-{1..2}"), ["x-1", "x-2", "y-1", "y-2"]);
        assert_eq!(expand("{9..8}.tar"), ["{9..8}.tar"]);
        assert_eq!(expand("plain.tar"), ["plain.tar"]);
    }

    #[test]
    fn a_star_stands_for_anything() {
        assert!(matches("train-*.tar", "train-000.tar"));
        assert!(matches("*-*.tar", "a-b-c.tar"));
        assert!(!matches("train-*.tar", "train-000.tar.gz"));
        assert!(matches("a*b*a", "aba"));
        assert!(!matches("ab*ba", "aba"));
    }

    #[test]
    fn an_index_lies_beside_its_dataset_or_in_the_folder_given() {
        let beside = |path: &str| index_path(Path::new(path), None);
        assert_eq!(beside("/data/train"), Path::new("/data/train.forebay"));
        assert_eq!(beside("/data/train/"), Path::new("/data/train.forebay"));
        assert_eq!(beside("/d/t-{0..9}.tar"), Path::new("/d/t-_0..9_.tar.forebay"));
        let within = |path: &str| index_path(Path::new(path), Some(Path::new("/var")));
        assert_ne!(within("/a/train"), within("/b/train"));
        assert_eq!(within("/a/train"), within("/a/train/"));
        assert!(within("/a/train").starts_with("/var"));
    }
}
