//! ImageNet as Kaggle packs it: `ILSVRC/Data/CLS-LOC/train/<synset>/`, a flat `val/` whose labels are in
//! `LOC_val_solution.csv`, and `LOC_synset_mapping.txt`, which has words for each synset.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::super::error::DatasetError;
use super::listing::{About, Layout, ListedRecord, Listing, Location, Naming, SkipCounter};
use super::source::Source;
use super::{classes, csv, directory, image_folder, split, stray};

const SOLUTION: &str = "LOC_val_solution.csv";
const MAPPING: &str = "LOC_synset_mapping.txt";
const NO_LABEL: &str = "no label in LOC_val_solution.csv";

/// Recognizes the layout at a folder: the one that was unpacked, one on the way to the images, or that of
/// the validation images. The folder of training images is an `ImageFolder`.
///
/// # Errors
/// When a split must be selected.
pub(super) fn find(path: &Path, split: Option<&str>) -> Result<Option<Source>, DatasetError> {
    let absolute = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    let is_images = |folder: &Path| folder.file_name().is_some_and(|name| name == "CLS-LOC");
    let split_folder = absolute.parent().is_some_and(is_images) && absolute.ends_with("val");
    if split_folder && split.is_none() && solution(path).is_some() {
        return Ok(Some(Source::files(Layout::Kaggle, path)));
    }
    let below = ["ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC"].map(|inner| path.join(inner));
    let images = below.into_iter().find(|inner| inner.is_dir());
    let Some(images) = images.or_else(|| is_images(&absolute).then(|| path.to_path_buf())) else {
        return Ok(None);
    };
    let splits = ["train", "val"].into_iter().filter(|split| images.join(split).is_dir());
    let Some(chosen) = split::choose(path, splits, split)? else { return Ok(None) };
    Ok(Some(Source::files(Layout::Kaggle, images.join(chosen)).with_split(Some(chosen))))
}

/// Lists the images of a split.
///
/// # Errors
/// When a folder or list cannot be read or is malformed.
pub(super) fn list(root: &Path) -> Result<Listing, DatasetError> {
    let names = match above(root, MAPPING) {
        Some(path) => mapping(&path)?,
        None => BTreeMap::new(),
    };
    let mut listing =
        if root.ends_with("train") { image_folder::list(root)? } else { validation(root, &names)? };
    listing.layout = Layout::Kaggle;
    if !names.is_empty() {
        let words = |class: &String| names.get(class).cloned().unwrap_or_default();
        listing.about.words = listing.classes.iter().map(words).collect();
    }
    Ok(listing)
}

fn validation(root: &Path, names: &BTreeMap<String, String>) -> Result<Listing, DatasetError> {
    let Some(path) = solution(root) else {
        let what =
            format!("the labels of these images are not there; put {SOLUTION} into a folder above");
        return Err(DatasetError::Description { path: root.into(), what });
    };
    let mut wnids = BTreeMap::new();
    for (line, row) in csv::rows(&path)? {
        let [image, boxes] = &row[..] else {
            let what = format!("line {line}: expected two columns; restore it");
            return Err(DatasetError::Description { path, what });
        };
        if let Some(wnid) = boxes.split_whitespace().next()
            && line > 1
        {
            wnids.insert(image.clone(), wnid.to_owned());
        }
    }
    let mut classes: Vec<String> = if names.is_empty() {
        wnids.values().cloned().collect()
    } else {
        names.keys().cloned().collect()
    };
    classes.sort();
    classes.dedup();
    let (mut records, mut skipped) = (Vec::new(), SkipCounter::default());
    for (name, is_folder) in directory::entries(root)? {
        if is_folder || !image_folder::is_image(&name) {
            continue;
        }
        let Some(name) = name.to_str().map(str::to_owned) else {
            skipped.add(stray::NOT_UTF8, || name.to_string_lossy().into_owned());
            continue;
        };
        let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
        let label = wnids.get(stem).and_then(|wnid| classes.binary_search(wnid).ok());
        let Some(label) = label else {
            skipped.add(NO_LABEL, || name);
            continue;
        };
        let label = u32::try_from(label).expect("a line of a bounded file");
        records.push(ListedRecord { name, label, location: Location::File });
    }
    Ok(Listing {
        root: root.into(),
        layout: Layout::Kaggle,
        classes,
        naming: Naming::List,
        shards: Vec::new(),
        records,
        skipped,
        about: About::default().fact("labels", format!("by {}", path.display())),
    })
}

fn solution(root: &Path) -> Option<PathBuf> {
    above(root, SOLUTION)
}

/// A file in a folder of images or in one of the four above it.
fn above(root: &Path, name: &str) -> Option<PathBuf> {
    let absolute = root.canonicalize().ok()?;
    let candidates = absolute.ancestors().take(5).map(|folder| folder.join(name));
    candidates.into_iter().find(|path| fs::symlink_metadata(path).is_ok())
}

/// The words of each synset: `n01440764 tench, Tinca tinca`.
fn mapping(path: &Path) -> Result<BTreeMap<String, String>, DatasetError> {
    let lines = classes::text_lines(path)?;
    let pairs = lines.iter().filter_map(|line| line.split_once(' '));
    Ok(pairs.map(|(wnid, words)| (wnid.to_owned(), words.trim().to_owned())).collect())
}
