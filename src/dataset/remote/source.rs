//! The shards that a path in a bucket names.
//!
//! What is in a folder is decided by names, as on disk: by the names of shards, by `index.json` of MDS and `_info.json`
//! of timm, which are read, and by the well-known names of CIFAR. A bucket has no folders but in its keys, so that
//! folders of splits and `data` are looked for only where the folder itself has nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;

use glob::Pattern;

use super::super::error::DatasetError;
use super::super::layouts::{self, Batches, Layout, PATTERN_OPTIONS};
use super::folder::Folder;
use super::place::RemotePlace;
use crate::store::Object;

/// Largest file beside shards that is read with them, such as a list of classes.
const MAX_BESIDE: u64 = 16 << 20;

/// Endings of the names of such files, in lower case.
const BESIDE: [&str; 3] = [".txt", ".json", "ilsvrc2012_devkit_t12.tar.gz"];

/// The file of MDS that names the shards, and its largest size.
const INDEX: &str = "index.json";
const MAX_INDEX: u64 = 256 << 20;

/// What a path names.
#[derive(Debug)]
pub(super) struct Found {
    /// The folder of the shards.
    pub(super) folder: String,
    /// The layout, unless each shard stands for itself.
    pub(super) layout: Option<Layout>,
    /// The split that they are of, if one is selected or found.
    pub(super) split: Option<String>,
    /// The shards, in the order of the dataset.
    pub(super) shards: Vec<Object>,
    /// Small files in the same folder.
    pub(super) beside: Vec<Object>,
}

impl Found {
    /// Name of an object in the folder.
    pub(super) fn name<'o>(&self, object: &'o Object) -> &'o str {
        let below = object.key.strip_prefix(self.folder.as_str());
        below.map_or(object.key.as_str(), |name| name.trim_start_matches('/'))
    }

    fn with_split(self, split: Option<&str>) -> Self {
        Self { split: split.map(str::to_owned), ..self }
    }
}

/// Finds the shards.
///
/// # Errors
/// When the bucket does not answer, or has no such shards, or several splits and none is selected.
pub(super) fn find(place: &RemotePlace) -> Result<Found, DatasetError> {
    let path = place.path.trim_matches('/');
    let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
    let is_special = |text: &str| text.contains(['*', '?', '[', '{']);
    if is_special(parent) {
        return Err(not_a_dataset(
            place,
            "the shards of a dataset in a bucket are in one folder: expected special characters in the last part of the \
             path only",
        ));
    }
    let names = if is_special(last) {
        layouts::expand_braces(last)
    } else if layouts::is_shard(last) {
        vec![last.to_owned()]
    } else {
        return in_folder(place, &Folder::open(place, path)?, place.split.as_deref());
    };
    by_names(place, parent, &names)
}

fn not_a_dataset(place: &RemotePlace, why: &str) -> DatasetError {
    DatasetError::NotADataset { path: place.address(), why: why.to_owned() }
}

/// The shards of a folder.
fn in_folder(
    place: &RemotePlace,
    folder: &Folder<'_>,
    split: Option<&str>,
) -> Result<Found, DatasetError> {
    let names = folder.names();
    let is_shard = |name: &&String| layouts::is_shard(name) && !name.starts_with('.');
    let shards: Vec<String> = names.iter().filter(is_shard).cloned().collect();
    if let Some(found) = mds(folder, split, shards.is_empty())? {
        return Ok(found);
    }
    if let Some(found) = cifar(folder, split, shards.is_empty())? {
        return Ok(found);
    }
    let path = folder.address();
    let others: Vec<String> = names.into_iter().filter(|name| !layouts::is_shard(name)).collect();
    layouts::check_compressed(&path, &shards, &others)?;
    if !shards.is_empty() {
        if let Some((name, files)) = described(folder, &shards, split)? {
            return Ok(found(folder, None, folder.need(&files)?)?.with_split(Some(&name)));
        }
        let files = layouts::shards_of_folder(&path, shards, split)?;
        return Ok(found(folder, None, folder.need(&files)?)?.with_split(split));
    }
    let Some(inner) = below(place, folder, split)? else {
        let why = if place.bucket.has_lists() {
            "expected tars, TFRecords or Parquet files in a folder, or those of MDS or CIFAR; folders of images and lists \
             of image files are not read from buckets, because each image would cost a request: write them to tars"
        } else {
            "a web server has no list of files: name the shards with braces, such as train-{000000..000146}.tar, or a \
             folder of MDS or CIFAR"
        };
        return Err(not_a_dataset(place, why));
    };
    Ok(inner)
}

/// The shards in a folder below: that of the split, or `data` of the Hugging Face hub.
fn below(
    place: &RemotePlace,
    folder: &Folder<'_>,
    split: Option<&str>,
) -> Result<Option<Found>, DatasetError> {
    if !place.bucket.has_lists() {
        return Ok(None);
    }
    for inner in split.into_iter().flat_map(layouts::split_aliases) {
        let folder = folder.below(inner)?;
        if !folder.names().is_empty() {
            return Ok(Some(in_folder(place, &folder, None)?.with_split(Some(inner))));
        }
    }
    let data = folder.below("data")?;
    let is_file = |name: &String| layouts::is_parquet(name) && !name.starts_with('.');
    let files: Vec<String> = data.names().into_iter().filter(is_file).collect();
    if files.is_empty() {
        return Ok(None);
    }
    let files = layouts::shards_of_folder(&folder.address(), files, split)?;
    Ok(Some(found(&data, None, data.need(&files)?)?.with_split(split)))
}

/// Shards with the small files beside them.
fn found(
    folder: &Folder<'_>,
    layout: Option<Layout>,
    shards: Vec<Object>,
) -> Result<Found, DatasetError> {
    let is_small = |name: &String| {
        let name = name.to_ascii_lowercase();
        BESIDE.iter().any(|ending| name.ends_with(ending)) && !layouts::is_shard(&name)
    };
    let mut names: Vec<String> = folder.names().into_iter().filter(is_small).collect();
    if !folder.is_listed() {
        names = vec!["classes.txt".to_owned()];
    }
    let beside = folder.find(&names)?.into_iter().flatten();
    let beside = beside.filter(|object| object.size <= MAX_BESIDE).collect();
    Ok(Found { folder: folder.path().to_owned(), layout, split: None, shards, beside })
}

/// The shards of MDS, in a folder or, if it may have such, in that of a split.
fn mds(
    folder: &Folder<'_>,
    split: Option<&str>,
    may_be_below: bool,
) -> Result<Option<Found>, DatasetError> {
    if let Some(found) = mds_in(folder)? {
        if split.is_some() {
            layouts::choose_split(&folder.address(), [], split)?;
        }
        return Ok(Some(found));
    }
    if !may_be_below {
        return Ok(None);
    }
    let splits: Vec<&str> = layouts::all_splits().collect();
    let indexes: Vec<String> = splits.iter().map(|split| format!("{split}/{INDEX}")).collect();
    let indexes = folder.find(&indexes)?;
    let with_index = splits.iter().zip(&indexes).filter(|(_, index)| index.is_some());
    let mut splits = Vec::new();
    for (split, _) in with_index {
        if let Some(found) = mds_in(&folder.below(split)?)? {
            splits.push((*split, found));
        }
    }
    if splits.is_empty() {
        return Ok(None);
    }
    let names = splits.iter().map(|(name, _)| *name);
    let chosen = layouts::choose_split(&folder.address(), names, split)?;
    let found = splits.into_iter().find(|(name, _)| Some(*name) == chosen);
    Ok(found.map(|(name, found)| found.with_split(Some(name))))
}

/// The shards of MDS in a folder.
fn mds_in(folder: &Folder<'_>) -> Result<Option<Found>, DatasetError> {
    let Some(index) = folder.get(INDEX)? else { return Ok(None) };
    let text = folder.read(&index, MAX_INDEX)?;
    let mut there: BTreeSet<String> = folder.names().into_iter().collect();
    // The plain forms of compressed shards are asked for at once where the list cannot tell: in folders below, and on
    // a web server.
    let asked = RefCell::new(Vec::new());
    let note = |name: &str| {
        if !folder.is_listed() || name.contains('/') {
            asked.borrow_mut().push(name.to_owned());
        }
        true
    };
    if layouts::shards_of_index(&folder.address(), &text, note)?.is_none() {
        return Ok(None);
    }
    let asked = asked.into_inner();
    let found_there = folder.find(&asked)?;
    there.extend(
        asked.into_iter().zip(found_there).filter_map(|(name, object)| object.map(|_| name)),
    );
    let is_there = |name: &str| there.contains(name);
    let Some(names) = layouts::shards_of_index(&folder.address(), &text, is_there)? else {
        return Ok(None);
    };
    let mut seen = BTreeSet::new();
    if let Some(name) = names.iter().find(|name| !seen.insert(*name)) {
        let why = format!("it names the shard {name} twice; restore it");
        return Err(DatasetError::NotADataset { path: folder.address().join(INDEX), why });
    }
    let mut found = found(folder, Some(Layout::Mds), folder.need(&names)?)?;
    found.beside.retain(|object| object.key != index.key);
    found.beside.push(index);
    Ok(Some(found))
}

/// The batches of CIFAR, in a folder or, if it may have such, below it.
fn cifar(
    folder: &Folder<'_>,
    split: Option<&str>,
    may_be_below: bool,
) -> Result<Option<Found>, DatasetError> {
    let names: Vec<String> =
        layouts::names_of_batches().filter(|name| may_be_below || !name.contains('/')).collect();
    let objects = folder.find(&names)?;
    let there = names.iter().zip(&objects).filter(|(_, object)| object.is_some());
    let there: BTreeSet<&str> = there.map(|(name, _)| name.as_str()).collect();
    let is_there = |name: &str| there.contains(name);
    let Some(batches) = layouts::choose_batches(&folder.address(), split, is_there)? else {
        return Ok(None);
    };
    let Batches { folder: inner, meta, files, split } = batches;
    let folder = folder.at(inner);
    let (shards, beside) = (folder.need(&files)?, folder.need(&[meta.to_owned()])?);
    let (layout, split) = (Some(Layout::Cifar), Some(split.to_owned()));
    Ok(Some(Found { folder: folder.path().to_owned(), layout, split, shards, beside }))
}

/// The split that timm's `_info.json` beside tars selects, with its shards.
fn described(
    folder: &Folder<'_>,
    shards: &[String],
    split: Option<&str>,
) -> Result<Option<(String, Vec<String>)>, DatasetError> {
    let tars: Vec<String> = shards.iter().filter(|name| layouts::is_tar(name)).cloned().collect();
    if tars.is_empty() {
        return Ok(None);
    }
    let names = layouts::INFO_NAMES.map(str::to_owned);
    let Some(object) = folder.find(&names)?.into_iter().flatten().next() else { return Ok(None) };
    let Some(info) = layouts::parse_info(&folder.read(&object, MAX_BESIDE)?) else {
        return Ok(None);
    };
    layouts::described(&folder.address(), &info, &tars, split)
}

/// The shards that names and wildcards select. A name without a wildcard must exist.
fn by_names(place: &RemotePlace, parent: &str, names: &[String]) -> Result<Found, DatasetError> {
    let folder = Folder::open(place, parent)?;
    let listed: Vec<String> =
        folder.names().into_iter().filter(|name| layouts::is_shard(name)).collect();
    let mut selected = Vec::new();
    for name in names {
        if !name.contains(['*', '?', '[', '{']) || listed.contains(name) {
            selected.push(name.clone());
        } else if folder.is_listed() {
            let pattern = Pattern::new(name).map_err(|error| DatasetError::NotADataset {
                path: place.address(),
                why: format!("malformed pattern: {error}"),
            })?;
            let matches = |name: &&String| pattern.matches_with(name, PATTERN_OPTIONS);
            selected.extend(listed.iter().filter(matches).cloned());
        } else {
            let why = "a web server has no list of files: name the shards with braces, such as \
                       train-{000000..000146}.tar";
            return Err(not_a_dataset(place, why));
        }
    }
    selected.sort_unstable();
    selected.dedup();
    let split = place.split.as_deref();
    // As for local files: without a split, all files that were named are taken.
    let selected = layouts::of_split(&place.address(), selected, split, false)?;
    if selected.is_empty() {
        return Err(not_a_dataset(place, "no shard in the bucket matches"));
    }
    Ok(found(&folder, None, folder.need(&selected)?)?.with_split(split))
}
