//! Recognizes the layout at a path: by the names of files, and where these do not say it by the first
//! bytes of one of them. Nothing else is read, because servers do this when they start.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::super::error::DatasetError;
use super::directory;
use super::info::info;
use super::listing::Layout;
use super::source::{EXPECTED, Source};
use super::{
    cifar, ilsvrc, image_folder, kaggle, manifest, mds, parquet, pattern, split, tfrecord,
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
        return shards(folder, of_split(&path, files, split)?, split);
    }
    match fs::metadata(&path) {
        Ok(found) if found.is_dir() => folder(&path, split),
        Ok(_) => {
            let root = folder_of(&path);
            let name = directory::utf8(root, path.file_name().unwrap_or_default())?;
            shards(root.into(), of_split(&path, vec![name], split)?, split)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err(DatasetError::Missing { path }),
        Err(error) => Err(StoreError::io("open", &path)(error).into()),
    }
}

/// The files of a split by their names. Without a split, all of them: whoever names files has selected them.
///
/// # Errors
/// When the split is not there.
pub(in crate::dataset) fn of_split(
    path: &Path,
    files: Vec<String>,
    split: Option<&str>,
) -> Result<Vec<String>, DatasetError> {
    match split {
        // A manifest has a column for it.
        Some(_) if is_manifest(&files) => Ok(files),
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
        match split {
            // The names of tars follow no rule, so that those of several splits may be one dataset.
            None if !tars.is_empty() => Ok(tars),
            _ if !tars.is_empty() => split::select(path, tars, split),
            _ if !tfrecords.is_empty() => split::select(path, tfrecords, split),
            _ => parquet::select(path, parquets, split),
        }
    }
}

/// Names in a folder, without those that are hidden.
#[derive(Default)]
struct Names {
    folders: Vec<String>,
    shards: Shards,
    compressed: Option<PathBuf>,
}

impl Names {
    fn of(path: &Path) -> Result<Self, DatasetError> {
        let mut names = Self::default();
        for (name, is_folder) in directory::entries(path)? {
            let text = name.to_string_lossy();
            if is_folder {
                names.folders.push(text.into_owned());
            } else if text.starts_with('.') {
            } else if is_shard(&text) {
                names.shards.add(directory::utf8(path, &name)?);
            } else if is_compressed_tar(&text) {
                names.compressed = Some(path.join(&name));
            }
        }
        Ok(names)
    }
}

/// Shards in a folder are a dataset. But class folders may have the tars beside them that they were
/// unpacked from, so folders with images make it an `ImageFolder`.
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
    let is_tree = || Ok::<_, DatasetError>(has_folders && image_folder::has_images(path)?);
    if !names.shards.is_empty() && !is_tree()? {
        let described = match split {
            Some(wanted) if !names.shards.tars.is_empty() => {
                info(path)?.and_then(|info| Some(info.split(wanted)?.shards()))
            }
            _ => None,
        };
        let files = match described {
            Some(listed) if !listed.is_empty() => listed,
            _ => names.shards.select(path, split)?,
        };
        return shards(path.into(), files, split);
    }
    if names.shards.is_empty()
        && has_folders
        && let Some((root, files)) = parquet::nested(path)?
    {
        let files = parquet::select(path, files, split)?;
        return Ok(Source::shards(Layout::Parquet, root, files).with_split(split));
    }
    if let Some(split) = split {
        let found = folders_of_splits(path, &names);
        return Err(DatasetError::Split { path: path.into(), selected: Some(split.into()), found });
    }
    match names.compressed {
        Some(tar) if !has_folders => Err(compressed_tar(tar)),
        _ => {
            let found = folders_of_splits(path, &names);
            let holds_shards =
                |name: &String| Names::of(&path.join(name)).is_ok_and(|n| !n.shards.is_empty());
            if !found.is_empty() && found.iter().all(holds_shards) {
                return Err(DatasetError::Split { path: path.into(), selected: None, found });
            }
            Ok(Source::files(Layout::ImageFolder, path))
        }
    }
}

/// The folders that have the name of a split.
fn folders_of_splits(path: &Path, names: &Names) -> Vec<String> {
    let is_split = |name: &&String| split::all().any(|split| split == **name);
    let mut found: Vec<String> = names.folders.iter().filter(is_split).cloned().collect();
    found.retain(|name| path.join(name).is_dir());
    found
}

/// The layout of files, of which there is at least one.
fn shards(root: PathBuf, files: Vec<String>, split: Option<&str>) -> Result<Source, DatasetError> {
    if is_manifest(&files) {
        return manifest::find(&root.join(&files[0]), split);
    }
    let layout = if files.iter().all(|name| is_tar(name)) {
        if ilsvrc::are_tars(&root, &files) { Layout::Ilsvrc } else { Layout::WebDataset }
    } else if let Some(name) = files.iter().find(|name| is_compressed_tar(name)) {
        return Err(compressed_tar(root.join(name)));
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

fn are_parquet(files: &[String]) -> bool {
    files.iter().all(|name| parquet::is_parquet(name))
}

fn is_tar(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".tar")
}

fn is_compressed_tar(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let endings = [".tgz", ".tar.gz", ".tar.zst", ".tar.bz2", ".tar.xz", ".tar.lz4"];
    endings.iter().any(|ending| name.ends_with(ending))
}

fn compressed_tar(path: PathBuf) -> DatasetError {
    let why = "records are read in place, which a compressed tar does not allow; decompress it \
               (such as with gunzip) and index the .tar"
        .to_owned();
    DatasetError::NotADataset { path, why }
}
