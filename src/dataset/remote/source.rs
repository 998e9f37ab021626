//! The shards that a path in a bucket names.

use std::collections::BTreeSet;

use glob::Pattern;

use super::super::error::DatasetError;
use super::super::layouts::{
    PATTERN_OPTIONS, check_compressed, expand_braces, is_shard, of_split, shards_of_folder,
};
use super::place::RemotePlace;
use crate::store::{Object, StoreError};

/// Largest file beside shards that is read with them, such as a list of classes.
const MAX_BESIDE: u64 = 16 << 20;

/// Endings of the names of such files, in lower case.
const BESIDE: [&str; 3] = [".txt", ".json", "ilsvrc2012_devkit_t12.tar.gz"];

/// What a path names.
#[derive(Debug)]
pub(super) struct Found {
    /// The folder of the shards.
    pub(super) folder: String,
    /// The shards, sorted by name.
    pub(super) shards: Vec<Object>,
    /// Small files in the same folder.
    pub(super) beside: Vec<Object>,
}

/// Name of an object in its folder.
pub(super) fn name_of(key: &str) -> &str {
    key.rsplit('/').next().unwrap_or(key)
}

/// Finds the shards.
///
/// # Errors
/// When the bucket does not answer, or has no such shards, or several splits and none is selected.
pub(super) fn find(place: &RemotePlace) -> Result<Found, DatasetError> {
    let path = place.path.trim_matches('/');
    let (parent, last) = path.rsplit_once('/').unwrap_or(("", path));
    let not_a_dataset = |why: String| Err(DatasetError::NotADataset { path: place.address(), why });
    let is_special = |text: &str| text.contains(['*', '?', '[', '{']);
    if is_special(parent) {
        return not_a_dataset(
            "the shards of a dataset in a bucket are in one folder: \
                              expected special characters in the last part of the path only"
                .into(),
        );
    }
    let names = is_special(last).then(|| expand_braces(last));
    let (folder, names) = match names {
        None if is_shard(last) => (parent, Some(vec![last.to_owned()])),
        None => (path, None),
        names => (parent, names),
    };
    let wildcard = names.iter().flatten().any(|name| name.contains(['*', '?', '[', '{']));
    let mut objects = if place.bucket.has_lists() {
        place.bucket.list(folder)?
    } else {
        match &names {
            Some(names) if !wildcard => by_name(place, folder, names)?,
            _ => {
                return not_a_dataset(
                    "a web server has no list of files: name the shards with braces, \
                                       such as train-{000000..000146}.tar"
                        .into(),
                );
            }
        }
    };
    objects.sort_unstable();
    let (shards, beside): (Vec<Object>, Vec<Object>) =
        objects.into_iter().partition(|object| is_shard(name_of(&object.key)));
    let is_folder = names.is_none();
    let mut shards = match names {
        None => {
            shards.into_iter().filter(|object| !name_of(&object.key).starts_with('.')).collect()
        }
        Some(names) => select(place, folder, &names, &shards)?,
    };
    if is_folder {
        let name = |object: &Object| name_of(&object.key).to_owned();
        let (found, others): (Vec<_>, Vec<_>) =
            (shards.iter().map(name).collect(), beside.iter().map(name).collect());
        check_compressed(&place.address(), &found, &others)?;
    }
    if shards.is_empty() {
        return not_a_dataset(
            "expected tars, TFRecords or Parquet files in a folder; folders of images are not read from buckets, \
             because each image would cost a request"
                .into(),
        );
    }
    keep_split(place, is_folder, &mut shards)?;
    shards.sort_unstable();
    shards.dedup();
    let is_small = |object: &Object| {
        let name = object.key.to_ascii_lowercase();
        object.size <= MAX_BESIDE && BESIDE.iter().any(|ending| name.ends_with(ending))
    };
    let beside = beside.into_iter().filter(is_small).collect();
    Ok(Found { folder: folder.to_owned(), shards, beside })
}

/// Keeps the shards of the split that is selected, by the rules for folders and files.
fn keep_split(
    place: &RemotePlace,
    is_folder: bool,
    shards: &mut Vec<Object>,
) -> Result<(), DatasetError> {
    let (path, split) = (place.address(), place.split.as_deref());
    let names: Vec<String> = shards.iter().map(|shard| name_of(&shard.key).to_owned()).collect();
    let selected = if is_folder {
        shards_of_folder(&path, names, split)?
    } else {
        of_split(&path, names, split)?
    };
    let selected: BTreeSet<&str> = selected.iter().map(String::as_str).collect();
    shards.retain(|shard| selected.contains(name_of(&shard.key)));
    Ok(())
}

fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") }
}

/// Shards by their names, with the list of classes if there is one, of a server without lists.
fn by_name(
    place: &RemotePlace,
    folder: &str,
    names: &[String],
) -> Result<Vec<Object>, DatasetError> {
    let keys: Vec<String> = names.iter().map(|name| join(folder, name)).collect();
    let shards = place.bucket.find(&keys)?;
    let classes = find_optional(place, join(folder, "classes.txt"))?;
    Ok(shards.into_iter().flatten().chain(classes).collect())
}

/// An object that there need not be. A web server may deny what it does not have: a public bucket whose list is not
/// public does.
///
/// # Errors
/// When the bucket does not answer, or refuses.
pub(super) fn find_optional(
    place: &RemotePlace,
    key: String,
) -> Result<Option<Object>, StoreError> {
    match place.bucket.find(&[key]) {
        Err(StoreError::Denied { .. }) if !place.bucket.has_lists() => Ok(None),
        found => Ok(found?.pop().flatten()),
    }
}

/// The shards that names and wildcards select. A name without a wildcard must exist.
fn select(
    place: &RemotePlace,
    folder: &str,
    names: &[String],
    shards: &[Object],
) -> Result<Vec<Object>, DatasetError> {
    let mut selected = Vec::new();
    for name in names {
        let key = join(folder, name);
        if let Ok(at) = shards.binary_search_by(|shard| shard.key.as_str().cmp(&key)) {
            selected.push(shards[at].clone());
        } else if name.contains(['*', '?', '[']) {
            let pattern = Pattern::new(name).map_err(|error| DatasetError::NotADataset {
                path: place.address(),
                why: format!("malformed pattern: {error}"),
            })?;
            let matches =
                |shard: &&Object| pattern.matches_with(name_of(&shard.key), PATTERN_OPTIONS);
            selected.extend(shards.iter().filter(matches).cloned());
        } else {
            return Err(DatasetError::Missing { path: place.url(&key).into() });
        }
    }
    Ok(selected)
}
