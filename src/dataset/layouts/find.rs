//! Recognizes the layout at a path: by the names of files, and where these do not say it by the first
//! bytes of one of them. Nothing else is read, because servers do this when they start.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::error::DatasetError;
use super::directory;
use super::listing::Layout;
use super::source::{EXPECTED, Source};
use super::{
    cifar, ilsvrc, image_folder, info, kaggle, manifest, mds, parquet, pattern, split, tfrecord,
    tfrecord_file,
};
use crate::store::StoreError;

/// Finds out what is stored at a path: a folder, a file, or the files that a pattern names; `#SPLIT`
/// behind it selects a split.
///
/// # Errors
/// When nothing is stored there, or something that is not a dataset, or several splits and none is
/// selected.
pub(in crate::dataset) fn find(path: &Path) -> Result<Source, DatasetError> {
    let (path, split) = split::of(path);
    let split = split.as_deref();
    if let Some((folder, pattern)) = pattern::split(&path) {
        let files = pattern::expand(&folder, &pattern)?;
        return named(folder, of_split(&path, files, split, true)?, split);
    }
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => folder(&path, split),
        Ok(_) => {
            let root = folder_of(&path);
            let name = directory::utf8(root, path.file_name().unwrap_or_default())?;
            named(root.into(), of_split(&path, vec![name], split, true)?, split)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err(DatasetError::Missing { path }),
        Err(error) => Err(StoreError::io("open", &path)(error).into()),
    }
}

/// The files of a split by their names. Without a split, all of them, because they were named explicitly. A single file
/// on a local disk may be a manifest, whose split is a column.
///
/// # Errors
/// When the split is not there.
pub(in crate::dataset) fn of_split(
    path: &Path,
    files: Vec<String>,
    split: Option<&str>,
    is_on_disk: bool,
) -> Result<Vec<String>, DatasetError> {
    match split {
        Some(_) if is_on_disk && (is_manifest(&files) || may_be_manifest(&files)) => Ok(files),
        Some(_) if are_parquet(&files) => parquet::select(path, files, split),
        Some(_) => split::select(path, files, split),
        None => Ok(files),
    }
}

/// The shards among the files of a folder that are a dataset, by their names: those of a split, or all of them if
/// they have no splits.
///
/// # Errors
/// When a split must be selected, or the selected one is not there.
pub(in crate::dataset) fn shards_of_folder(
    path: &Path,
    names: impl IntoIterator<Item = String>,
    split: Option<&str>,
) -> Result<Vec<String>, DatasetError> {
    let mut shards = Shards::default();
    for name in names {
        shards.add(name);
    }
    shards.select(path, split)
}

/// The source of shards whose split is known. Their layout is known too, unless each of them stands for itself.
///
/// # Errors
/// When they have no layout that is read.
pub(in crate::dataset) fn of_shards(
    layout: Option<Layout>,
    root: &Path,
    files: Vec<String>,
    split: Option<&str>,
) -> Result<Source, DatasetError> {
    match layout {
        Some(layout) => Ok(Source::shards(layout, root, files).with_split(split)),
        None => shards(root.into(), files, split),
    }
}

/// Whether an object of a bucket with this name is a shard that stands for itself.
pub(in crate::dataset) fn is_shard(name: &str) -> bool {
    is_tar(name) || tfrecord::is_name(name) || parquet::is_parquet(name)
}

/// Names of shards in a folder.
#[derive(Default)]
struct Shards {
    tars: Vec<String>,
    tfrecords: Vec<String>,
    parquets: Vec<String>,
}

impl Shards {
    fn add(&mut self, name: String) {
        if is_tar(&name) {
            self.tars.push(name);
        } else if tfrecord::is_name(&name) {
            self.tfrecords.push(name);
        } else if parquet::is_parquet(&name) {
            self.parquets.push(name);
        }
    }

    fn is_empty(&self) -> bool {
        self.tars.is_empty() && self.tfrecords.is_empty() && self.parquets.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        self.tars.iter().chain(&self.tfrecords).chain(&self.parquets)
    }

    fn first(&self) -> Option<String> {
        self.all().next().cloned()
    }

    /// The shards of a split. Tars come first, because they may have files of metadata beside them.
    fn select(self, path: &Path, split: Option<&str>) -> Result<Vec<String>, DatasetError> {
        let Self { tars, tfrecords, parquets } = self;
        let is_there = |(tar, _): &&(&str, &str)| tars.iter().any(|name| name == tar);
        let official: Vec<&(&str, &str)> = ilsvrc::TARS.iter().filter(is_there).collect();
        if !official.is_empty() {
            let chosen = split::choose(path, official.iter().map(|(_, split)| *split), split)?;
            let tar = official.iter().find(|(_, split)| Some(*split) == chosen);
            return Ok(vec![tar.expect("one of them was chosen").0.to_owned()]);
        }
        if !tars.is_empty() {
            split::select(path, tars, split)
        } else if !tfrecords.is_empty() {
            split::select(path, tfrecords, split)
        } else {
            parquet::select(path, parquets, split)
        }
    }
}

/// Names in a folder, without those that are hidden.
#[derive(Default)]
struct Names {
    folders: Vec<String>,
    shards: Shards,
    /// Shards that are compressed as a whole.
    compressed: Vec<String>,
}

impl Names {
    fn of(path: &Path) -> Result<Self, DatasetError> {
        let mut names = Self::default();
        for (name, is_folder) in directory::entries(path)? {
            let text = name.to_string_lossy();
            if text.starts_with('.') {
            } else if is_folder {
                names.folders.push(text.into_owned());
            } else if is_shard(&text) {
                names.shards.add(directory::utf8(path, &name)?);
            } else if is_compressed(&text) {
                names.compressed.push(text.into_owned());
            }
        }
        Ok(names)
    }
}

/// Shards in a folder are a dataset. But class folders may have the tars beside them that they were
/// unpacked from, so folders of the names of all tars make it an `ImageFolder`.
fn folder(path: &Path, split: Option<&str>) -> Result<Source, DatasetError> {
    let special = [kaggle::find, mds::find, cifar::find];
    for find in special {
        if let Some(source) = find(path, split)? {
            return Ok(source);
        }
    }
    let names = Names::of(path)?;
    let has_folders = !names.folders.is_empty();
    if let Some(split) = split {
        let inner = split::aliases(split).find(|name| names.folders.iter().any(|f| f == name));
        if let Some(inner) = inner {
            return Ok(folder(&path.join(inner), None)?.with_split(Some(inner)));
        }
    }
    if !names.shards.is_empty() && !names.are_unpacked() {
        return names.shards_of(path, split);
    }
    if names.shards.is_empty()
        && has_folders
        && let Some((root, files)) = parquet::nested(path)?
    {
        let files = parquet::select(path, files, split)?;
        return Ok(Source::shards(Layout::Parquet, root, files).with_split(split));
    }
    let found = folders_of_splits(path, &names);
    let selected = split.map(str::to_owned);
    // Two classes are not called `train` and `val`.
    let are_splits = found.len() > 1 && found.len() == names.folders.len();
    let holds_shards =
        |name: &String| Names::of(&path.join(name)).is_ok_and(|n| !n.shards.is_empty());
    let hold_shards = || !found.is_empty() && found.iter().all(holds_shards);
    if selected.is_some() || are_splits || hold_shards() {
        return Err(DatasetError::Split { path: path.into(), selected, found });
    }
    match names.compressed.first() {
        Some(name) if !has_folders => Err(compressed(&path.join(name))),
        _ => Ok(Source::files(Layout::ImageFolder, path)),
    }
}

impl Names {
    /// Whether each tar has a folder of its name, which it was unpacked to: `n01440764/` of `n01440764.tar`.
    fn are_unpacked(&self) -> bool {
        let Shards { tars, tfrecords, parquets } = &self.shards;
        let has_folder = |tar: &String| {
            let stem = &tar[..tar.len() - ".tar".len()];
            self.folders.iter().any(|folder| folder == stem)
        };
        tfrecords.is_empty() && parquets.is_empty() && tars.iter().all(has_folder)
    }

    /// The shards of a folder, which has some.
    fn shards_of(self, path: &Path, split: Option<&str>) -> Result<Source, DatasetError> {
        let Self { folders, shards: found, compressed } = self;
        let first = found.first().unwrap_or_default();
        if folders.len() > 1 && image_folder::hold_images(path, &folders)? {
            let why = format!(
                "it has shards, such as {first}, and folders with images, such as {}; name the shards by a pattern \
                 as the path, such as {}, or move them out of the folder",
                folders[0],
                pattern_of(&first)
            );
            return Err(DatasetError::NotADataset { path: path.into(), why });
        }
        check_compressed(path, found.all(), &compressed)?;
        let info = if found.tars.is_empty() { None } else { info::info(path)? };
        if let Some(info) = info
            && let Some((name, files)) = described(path, &info, &found.tars, split)?
        {
            return shards(path.into(), files, Some(&name));
        }
        let files = found.select(path, split)?;
        shards(path.into(), files, split)
    }
}

/// A pattern that matches all files of a kind.
fn pattern_of(name: &str) -> String {
    match name.rfind('.') {
        Some(dot) => format!("'*{}'", &name[dot..]),
        None => format!("'{}*'", name.trim_end_matches(|letter: char| !letter.is_alphabetic())),
    }
}

/// The split that timm's description of tars has, with its files, if one is selected or it has only one. A split that
/// it does not have may be found by the names of tars.
///
/// # Errors
/// When a split must be selected.
pub(in crate::dataset) fn described(
    path: &Path,
    info: &info::Info,
    tars: &[String],
    split: Option<&str>,
) -> Result<Option<(String, Vec<String>)>, DatasetError> {
    let chosen = if let Some(split) = split {
        Some(split.to_owned())
    } else {
        let is_new = |name: &&str| !info.names().any(|known| split::is_same(known, name));
        let others = tars.iter().filter_map(|name| split::in_name(name)).filter(is_new);
        split::choose(path, info.names().chain(others), None)?.map(str::to_owned)
    };
    let Some(chosen) = chosen else { return Ok(None) };
    let files = info.split(&chosen).map(info::Split::shards).filter(|files| !files.is_empty());
    Ok(files.map(|files| (chosen, files)))
}

/// Refuses shards that are not read because they are compressed, where the others of their kind are not.
///
/// # Errors
/// When there are such shards.
pub(in crate::dataset) fn check_compressed<'n>(
    path: &Path,
    shards: impl IntoIterator<Item = &'n String>,
    others: &[String],
) -> Result<(), DatasetError> {
    // Names of one kind differ in their numbers.
    let kind = |name: &str| {
        let stem = name.split('.').next().unwrap_or(name);
        stem.replace(|letter: char| letter.is_ascii_digit(), "")
    };
    let shards: BTreeSet<&String> = shards.into_iter().collect();
    let kinds: BTreeSet<String> = shards.iter().map(|name| kind(name)).collect();
    let is_sibling = |name: &&String| {
        // What it decompresses to may lie beside it.
        let is_new = decompressed(name).is_some_and(|inner| !shards.contains(&inner));
        is_new && (kinds.is_empty() || kinds.contains(&kind(name)))
    };
    match others.iter().find(is_sibling) {
        Some(name) => Err(compressed(&path.join(name))),
        None => Ok(()),
    }
}

/// The folders that have the name of a split.
fn folders_of_splits(path: &Path, names: &Names) -> Vec<String> {
    let is_split = |name: &&String| split::all().any(|split| split == **name);
    let mut found: Vec<String> = names.folders.iter().filter(is_split).cloned().collect();
    found.retain(|name| path.join(name).is_dir());
    found
}

/// The layout of files that were named, and not found in a folder. A single one may be a manifest.
fn named(root: PathBuf, files: Vec<String>, split: Option<&str>) -> Result<Source, DatasetError> {
    if is_manifest(&files) {
        return manifest::find(&root.join(&files[0]), split);
    }
    let list = may_be_manifest(&files).then(|| root.join(&files[0]));
    Ok(Source { list, ..shards(root, files, split)? })
}

/// The layout of files, of which there is at least one.
fn shards(root: PathBuf, files: Vec<String>, split: Option<&str>) -> Result<Source, DatasetError> {
    let layout = if files.iter().all(|name| is_tar(name)) {
        if ilsvrc::are_tars(&root, &files) { Layout::Ilsvrc } else { Layout::WebDataset }
    } else if let Some(name) = files.iter().find(|name| is_compressed(name)) {
        return Err(compressed(&root.join(name)));
    } else if are_parquet(&files) {
        Layout::Parquet
    } else if files.iter().all(|name| tfrecord::is_name(name))
        || tfrecord_file::is_file(&root.join(&files[0]))
    {
        Layout::TfRecord
    } else {
        let unknown = files.iter().find(|name| !is_tar(name)).expect("one is not a tar");
        let why = EXPECTED.to_owned();
        return Err(DatasetError::NotADataset { path: root.join(unknown), why });
    };
    Ok(Source::shards(layout, root, files).with_split(split))
}

/// Folder of a file, `.` if its path has only a name.
fn folder_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Whether the only file is a CSV manifest.
fn is_manifest(files: &[String]) -> bool {
    matches!(files, [file] if file.to_ascii_lowercase().ends_with(".csv"))
}

/// Whether the only file is a Parquet file: its columns say whether it is a manifest, which has a column of splits.
fn may_be_manifest(files: &[String]) -> bool {
    files.len() == 1 && are_parquet(files)
}

fn are_parquet(files: &[String]) -> bool {
    files.iter().all(|name| parquet::is_parquet(name))
}

pub(in crate::dataset) fn is_tar(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".tar")
}

/// Whether a file is a shard that was compressed as a whole, by its name.
fn is_compressed(name: &str) -> bool {
    decompressed(name).is_some()
}

/// The name of the shard that a file decompresses to.
fn decompressed(name: &str) -> Option<String> {
    let (stem, ending) = name.rsplit_once('.')?;
    match ending.to_ascii_lowercase().as_str() {
        "tgz" => Some(format!("{stem}.tar")),
        "gz" | "zst" | "bz2" | "xz" | "lz4" if is_shard(stem) => Some(stem.to_owned()),
        _ => None,
    }
}

fn compressed(path: &Path) -> DatasetError {
    let why = "records are read in place, which a compressed shard does not allow; decompress it \
               (such as with gunzip) and index that"
        .to_owned();
    DatasetError::NotADataset { path: path.into(), why }
}
