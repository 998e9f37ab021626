//! CIFAR-10 and CIFAR-100 as they are distributed, in the binary version and in the one for Python, which
//! torchvision keeps. Images are not files but raw pixels: 32 x 32 of red, then of green, then of blue.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::super::error::DatasetError;
use super::listing::{About, Layout, ListedRecord, Listing, Location, Naming, SkipCounter};
use super::pickle::Pickle;
use super::source::Source;
use super::window::{Input, Window};
use super::{classes, split};
use crate::store::RegularFile;

/// Bytes of an image.
const IMAGE: u64 = 3 * 32 * 32;

/// Longest file name and class name in a pickle.
const MAX_TEXT: u64 = 256;

/// A version of one of the datasets.
#[derive(Debug)]
struct Version {
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static [&'static str],
    /// The file with the names of the classes.
    meta: &'static str,
    /// Bytes before an image, of which the last one is its label; `None` for pickles.
    label_bytes: Option<u64>,
    /// The key of labels, and of the names of classes, in pickles.
    keys: [&'static str; 2],
    classes: u32,
}

const VERSIONS: [Version; 4] = [
    Version {
        folder: "cifar-10-batches-py",
        train: &["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5"],
        test: &["test_batch"],
        meta: "batches.meta",
        label_bytes: None,
        keys: ["labels", "label_names"],
        classes: 10,
    },
    Version {
        folder: "cifar-100-python",
        train: &["train"],
        test: &["test"],
        meta: "meta",
        label_bytes: None,
        keys: ["fine_labels", "fine_label_names"],
        classes: 100,
    },
    Version {
        folder: "cifar-10-batches-bin",
        train: &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
        ],
        test: &["test_batch.bin"],
        meta: "batches.meta.txt",
        label_bytes: Some(1),
        keys: ["", ""],
        classes: 10,
    },
    Version {
        folder: "cifar-100-binary",
        train: &["train.bin"],
        test: &["test.bin"],
        meta: "fine_label_names.txt",
        label_bytes: Some(2),
        keys: ["", ""],
        classes: 100,
    },
];

/// The batches of a version that are found below a path.
#[derive(Debug)]
pub(in crate::dataset) struct Batches {
    /// Their folder; empty if it is the path itself.
    pub(in crate::dataset) folder: &'static str,
    /// The file with the names of the classes.
    pub(in crate::dataset) meta: &'static str,
    pub(in crate::dataset) files: Vec<String>,
    pub(in crate::dataset) split: &'static str,
}

/// Recognizes the layout at a folder that holds batches, or that torchvision unpacked them in.
///
/// # Errors
/// As [`choose`].
pub(super) fn find(path: &Path, split: Option<&str>) -> Result<Option<Source>, DatasetError> {
    let batches = choose(path, split, |name| path.join(name).is_file())?;
    Ok(batches.map(|Batches { folder, files, split, .. }| {
        let root = if folder.is_empty() { path.into() } else { path.join(folder) };
        Source::shards(Layout::Cifar, root, files).with_split(Some(split))
    }))
}

/// The files by which a version is recognized, relative to the path, with the folder that they are in.
fn marks() -> impl Iterator<Item = ([String; 2], &'static str, &'static Version)> {
    VERSIONS.iter().flat_map(|version| {
        ["", version.folder].map(|folder| {
            let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
            let files = [version.meta, version.test[0]].map(|name| format!("{prefix}{name}"));
            (files, folder, version)
        })
    })
}

/// The names of the files by which batches below a path are recognized.
pub(in crate::dataset) fn names() -> impl Iterator<Item = String> {
    marks().flat_map(|(files, ..)| files)
}

/// The batches of a split below a path. `is_there` says which of the [names] there are.
///
/// # Errors
/// When a split must be selected, or there are several versions.
pub(in crate::dataset) fn choose(
    path: &Path,
    split: Option<&str>,
    is_there: impl Fn(&str) -> bool,
) -> Result<Option<Batches>, DatasetError> {
    let found = marks().filter(|(files, ..)| files.iter().all(|name| is_there(name)));
    let found: Vec<(&str, &Version)> =
        found.map(|(_, folder, version)| (folder, version)).collect();
    let (folder, version) = match found[..] {
        [] => return Ok(None),
        [found] => found,
        _ => {
            let folders: Vec<&str> = found.iter().map(|(_, version)| version.folder).collect();
            let folders = folders.join(", ");
            let why = format!(
                "it has several versions of CIFAR: {folders}; name the folder of one of them as the path"
            );
            return Err(DatasetError::NotADataset { path: path.into(), why });
        }
    };
    // The second split has no validation images beside it, and is used as such.
    let wanted = split.map(|name| if split::is_same(name, "val") { "test" } else { name });
    let chosen = split::choose(path, ["train", "test"], wanted)?;
    let (split, files) =
        if chosen == Some("train") { ("train", version.train) } else { ("test", version.test) };
    let files = files.iter().map(|name| (*name).to_owned()).collect();
    Ok(Some(Batches { folder, meta: version.meta, files, split }))
}

/// Lists the images of batches, on rayon's threads.
///
/// # Errors
/// When a batch cannot be read or is not what its name says.
pub(super) fn list(root: PathBuf, names: Vec<String>) -> Result<Listing, DatasetError> {
    let of = |version: &&Version| {
        [version.train, version.test].concat().contains(&names[0].as_str())
            && root.join(version.meta).is_file()
    };
    let version = VERSIONS.iter().find(of);
    let version = version.ok_or_else(|| DatasetError::Missing { path: root.join(&names[0]) })?;
    let batch = |(number, name): (u32, &String)| {
        let file = RegularFile::open(&root.join(name))?;
        let records = match version.label_bytes {
            Some(bytes) => fixed(&file, bytes)?,
            None => pickled(&file, version)?,
        };
        let record = |(name_in, label, offset): Entry| ListedRecord {
            name: format!("{name}/{name_in}"),
            label,
            location: Location::Shard { number, offset, length: 3 * 32 * 32 },
        };
        Ok((records.into_iter().map(record).collect::<Vec<_>>(), file.size()))
    };
    let numbered: Vec<_> = (0..).zip(&names).collect();
    let batches = numbered.into_par_iter().map(batch).collect::<Result<Vec<_>, DatasetError>>()?;
    let (records, sizes): (Vec<_>, Vec<_>) = batches.into_iter().unzip();
    let records: Vec<ListedRecord> = records.into_iter().flatten().collect();
    let classes = class_names(&root, version)?;
    classes::check_labels(&records, classes.len())?;
    let shards = names.into_iter().zip(sizes).collect();
    let (layout, skipped) = (Layout::Cifar, SkipCounter::default());
    let about = About::default().fact("version", version.folder);
    Ok(Listing { root, layout, classes, shards, records, skipped, about, naming: Naming::List })
}

/// The name of an image in its batch, its label and its offset.
type Entry = (String, u32, u64);

/// The images of a batch of the binary version.
fn fixed(file: &RegularFile, label_bytes: u64) -> Result<Vec<Entry>, DatasetError> {
    let record = label_bytes + IMAGE;
    if file.size() == 0 || !file.size().is_multiple_of(record) {
        return Err(DatasetError::Shard {
            path: file.path().into(),
            offset: file.size(),
            what: format!("its size is not a multiple of {record}, which a record has; restore it"),
        });
    }
    let mut window = Window::new(Input::File(file));
    let entry = |index: u64| {
        let label = window.read(index * record + label_bytes - 1, 1)?[0];
        Ok((index.to_string(), label.into(), index * record + label_bytes))
    };
    (0..file.size() / record).map(entry).collect()
}

/// The images of a batch of the version for Python.
fn pickled(file: &RegularFile, version: &Version) -> Result<Vec<Entry>, DatasetError> {
    let error = |what: &str| DatasetError::Shard {
        path: file.path().into(),
        offset: 0,
        what: format!("{what}; restore it, or use the binary version"),
    };
    let mut window = Window::new(Input::File(file));
    let mut pickle = Pickle::load(&mut window)?;
    let [key, _] = version.keys;
    let missing = || {
        error(&format!("it has no list {key:?} of whole numbers, or no array of bytes \"data\""))
    };
    let labels = pickle.numbers(key)?.ok_or_else(missing)?;
    let data = pickle.array("data")?.ok_or_else(missing)?;
    let names = pickle.strings("filenames")?.filter(|names| names.len() == labels.len());
    if (labels.len() as u64).checked_mul(IMAGE) != Some(data.end - data.start) {
        return Err(error("it does not have 3072 bytes for each label"));
    }
    let mut window = Window::new(Input::File(file));
    let mut entries = Vec::with_capacity(labels.len());
    for (index, label) in labels.into_iter().enumerate() {
        let offset = data.start + index as u64 * IMAGE;
        let label = u32::try_from(label).map_err(|_error| error("it has a negative label"))?;
        let name = match names.as_ref().map(|names| &names[index]) {
            Some(name) => text(&mut window, name)?,
            None => None,
        };
        entries.push((name.unwrap_or_else(|| index.to_string()), label, offset));
    }
    Ok(entries)
}

fn text(window: &mut Window<'_>, range: &Range<u64>) -> Result<Option<String>, DatasetError> {
    if range.end - range.start > MAX_TEXT {
        return Ok(None);
    }
    let bytes = window.read(range.start, range.end - range.start)?;
    Ok(str::from_utf8(bytes).ok().filter(|text| !text.is_empty()).map(str::to_owned))
}

/// The names of the classes, or else their numbers.
fn class_names(root: &Path, version: &Version) -> Result<Vec<String>, DatasetError> {
    let path = root.join(version.meta);
    if fs::symlink_metadata(&path).is_err() {
        return Ok((0..version.classes).map(|label| label.to_string()).collect());
    }
    if version.label_bytes.is_some() {
        return classes::lines(&path);
    }
    let file = RegularFile::open(&path)?;
    let mut window = Window::new(Input::File(&file));
    let names = Pickle::load(&mut window)?.strings(version.keys[1])?.unwrap_or_default();
    let mut window = Window::new(Input::File(&file));
    let name = |(label, range): (usize, &Range<u64>)| {
        Ok(text(&mut window, range)?.unwrap_or_else(|| label.to_string()))
    };
    names.iter().enumerate().map(name).collect()
}
