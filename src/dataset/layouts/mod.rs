//! Layouts of stored datasets, and how records are found in each.
//!
//! A layout lists records and does not read images. For each record, in dataset order, it finds a name,
//! a label and a location.
//!
//! ```text
//!   path --find--> Source {layout, root, shards} --list--> Listing {classes, shards, records}
//!                                                             |
//!                                         select: some of its classes and records
//! ```
//!
//! What is in a bucket is listed shard by shard (`dataset::remote`), and selected when all are.

mod cifar;
mod classes;
mod csv;
mod devkit;
mod directory;
mod find;
mod ilsvrc;
mod image_folder;
mod info;
mod kaggle;
mod listing;
mod manifest;
mod mat5;
mod mds;
mod parquet;
mod pattern;
mod pickle;
mod protobuf;
mod select;
mod source;
mod split;
pub(super) mod stray;
mod tar;
mod tfds;
mod tfrecord;
mod tfrecord_file;
mod webdataset;
mod window;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::DatasetError;
use super::options::IndexOptions;

pub(super) use cifar::{Batches, choose as choose_batches, names as names_of_batches};
pub(super) use find::{
    check_compressed, described, find, is_shard, is_tar, of_shards, of_split, shards_of_folder,
};
pub(super) use info::{NAMES as INFO_NAMES, parse as parse_info};
pub use listing::Skipped;
pub(super) use listing::{
    About, Frame, Layout, ListedRecord, Listing, Location, Naming, SkipCounter,
};
pub(super) use mds::{COST, cost, shards_of_index};
pub(super) use parquet::is_parquet;
pub(super) use pattern::{OPTIONS as PATTERN_OPTIONS, expand_braces};
pub(super) use select::{Selectable, apply as select};
pub(super) use source::Source;
pub use split::with_split;
pub(super) use split::{
    aliases as split_aliases, all as all_splits, choose as choose_split, in_name as split_in_name,
    parts as split_parts,
};

/// Lists the records of a source that the options take, on rayon's threads.
///
/// # Errors
/// As [`list_all`], and when an option names what is not there.
pub(super) fn list(source: Source, options: &IndexOptions) -> Result<Listing, DatasetError> {
    let mut listing = list_all(source, options)?;
    let Listing { records, classes, about, .. } = &mut listing;
    select(records, classes, about, options)?;
    Ok(listing)
}

/// Lists all records of a source, read as the options say.
///
/// # Errors
/// When an option is about other layouts, or a folder or shard cannot be read or violates the rules of its layout.
pub(super) fn list_all(source: Source, options: &IndexOptions) -> Result<Listing, DatasetError> {
    check_options(&source, options)?;
    let split = source.split.clone();
    let mut listing = match source.layout {
        Layout::ImageFolder => image_folder::list(&source.root),
        Layout::WebDataset => webdataset::list(source, options),
        Layout::TfRecord => tfrecord::list(source.root, source.shards, options),
        Layout::Ilsvrc => ilsvrc::list(source.root, source.shards),
        Layout::Kaggle => kaggle::list(&source.root),
        Layout::Mds => mds::list(source.root, source.shards, options),
        Layout::Cifar => cifar::list(source.root, source.shards),
        Layout::Manifest => manifest::list(&source, options),
        Layout::Parquet | Layout::ParquetManifest => parquet::list(source, options),
    }?;
    if let Some(split) = split {
        listing.about.facts.insert(0, ("split".to_owned(), split));
    }
    Ok(listing)
}

/// Refuses options that would be ignored, because they are about other layouts.
fn check_options(source: &Source, options: &IndexOptions) -> Result<(), DatasetError> {
    use Layout::{Manifest, Mds, Parquet, TfRecord, WebDataset};
    const NAMED: &[Layout] = &[TfRecord, Parquet, Mds, Manifest];
    let rules = [
        ("--label", options.label.is_some(), &[WebDataset][..]),
        ("--image-column", options.image_column.is_some(), NAMED),
        ("--label-column", options.label_column.is_some(), NAMED),
        ("--label-offset", options.label_offset.is_some(), &[TfRecord, Parquet]),
    ];
    let ignored =
        rules.into_iter().find(|(_, given, fits)| *given && !fits.contains(&source.layout));
    match ignored {
        None => Ok(()),
        Some((option, _, fits)) => Err(DatasetError::Option {
            path: source.list.clone().unwrap_or_else(|| source.root.clone()),
            option,
            layout: source.layout.name(),
            fits: fits.iter().map(|layout| layout.name()).collect(),
        }),
    }
}

/// Path of a dataset's index: beside the dataset, or in `index_dir` under a name that tells datasets of
/// the same name apart.
///
/// `PATH#SPLIT` names a split of what is stored at a path, which has an index of its own.
pub fn index_path(path: &Path, index_dir: Option<&Path>) -> PathBuf {
    let (path, split) = split::of(path);
    let path = path.as_path();
    let (parent, name) = pattern::split(path).unwrap_or_else(|| {
        // A path that is `/`, or ends in `.` or `..`, has no name of its own.
        let path = if path.file_name().is_some() {
            path.to_path_buf()
        } else {
            path.canonicalize().unwrap_or_else(|_| path.to_path_buf())
        };
        let name = path.file_name().unwrap_or("root".as_ref()).into();
        (path.parent().map(Path::to_path_buf).unwrap_or_default(), name)
    });
    let mut name = name.to_string_lossy().into_owned();
    if let Some(split) = split {
        name = format!("{name}#{split}");
    }
    let plain = name.replace(['*', '?', '{', '}', '[', ']', '/'], "_");
    let Some(index_dir) = index_dir else { return parent.join(format!("{plain}.forebay")) };
    let parent = if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent };
    let identity = parent.canonicalize().unwrap_or(parent).join(&name);
    let digest = blake3::hash(identity.as_os_str().as_encoded_bytes()).to_hex();
    index_dir.join(format!("{plain}-{}.forebay", &digest[..8]))
}

/// The other splits of a path that have an index, each with its file: of `PATH#SPLIT` those of the same path, and of a
/// path that is named after a split the folders beside it, such as `val` beside `train`.
pub(super) fn other_splits(path: &Path, index_dir: Option<&Path>) -> Vec<(String, PathBuf)> {
    let (whole, selected) = split::of(path);
    let mut names: Vec<String> = split::all().map(str::to_owned).collect();
    let (own, parent) = match (selected, split::folder_of(&whole)) {
        (Some(own), _) => {
            names.extend(indexed_splits(&index_path(path, index_dir), index_dir.is_some()));
            (own, None)
        }
        (None, Some((parent, own))) => (own.to_owned(), Some(parent)),
        (None, None) => return Vec::new(),
    };
    names.retain(|name| !split::is_same(name, &own));
    names.sort_unstable();
    names.dedup();
    let file = |name: String| {
        let path = match parent {
            Some(parent) => parent.join(&name),
            None => with_split(&whole, Some(&name)),
        };
        let file = index_path(&path, index_dir);
        file.is_file().then_some((name, file))
    };
    names.into_iter().filter_map(file).collect()
}

/// The splits that the names of indexes say beside that of `PATH#SPLIT`. In a folder of indexes, a digest is behind them.
fn indexed_splits(index: &Path, has_digest: bool) -> Vec<String> {
    let own = index.file_name().unwrap_or_default().to_string_lossy();
    let prefix = own.split_once('#').map_or(&*own, |(prefix, _)| prefix);
    let parent = index.parent().filter(|parent| !parent.as_os_str().is_empty());
    let entries = directory::entries(parent.unwrap_or(Path::new("."))).unwrap_or_default();
    let split = |(name, _): &(OsString, bool)| {
        let name = name.to_str()?.strip_prefix(prefix)?.strip_prefix('#')?;
        let split = name.strip_suffix(".forebay")?;
        let without_digest = split.rsplit_once('-').filter(|_| has_digest);
        Some(without_digest.map_or(split, |(split, _)| split).to_owned())
    };
    entries.iter().filter_map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_beside_its_dataset_or_in_a_folder_of_indexes() {
        let beside = |path: &str| index_path(Path::new(path), None);
        assert_eq!(beside("/data/train"), Path::new("/data/train.forebay"));
        assert_eq!(beside("/data/train/"), Path::new("/data/train.forebay"));
        assert_eq!(beside("/none/imagenet#val"), Path::new("/none/imagenet#val.forebay"));
        assert_eq!(beside("/none/imagenet/#val"), Path::new("/none/imagenet#val.forebay"));
        assert_eq!(beside("/d/t-{0..9}.tar"), Path::new("/d/t-_0..9_.tar.forebay"));
        assert_eq!(beside("/d/p*/s.tar"), Path::new("/d/p__s.tar.forebay"));
        let within = |path: &str| index_path(Path::new(path), Some(Path::new("/var")));
        assert_ne!(within("/a/train"), within("/b/train"));
        assert_eq!(within("/a/train"), within("/a/train/"));
        assert!(within("/a/train").starts_with("/var"));
    }
}
