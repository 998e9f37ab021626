//! Layouts of stored datasets, and how records are found in each.
//!
//! A layout lists records and does not read images. For each record, in dataset order, it finds a name,
//! a label and a location.
//!
//! ```text
//!   path --find--> Source {layout, root, shards} --list--> Listing {classes, shards, records}
//! ```

mod directory;
mod image_folder;
mod listing;
mod pattern;
pub(super) mod stray;
mod tar;
mod webdataset;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::error::DatasetError;
use crate::store::StoreError;

pub use listing::Skipped;
pub(super) use listing::{Layout, ListedRecord, Listing, Location};

/// A dataset as it is stored.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) layout: Layout,
    /// Folder that the names of shards and files are relative to.
    pub(super) root: PathBuf,
    /// Names of the tars, sorted; none in an `ImageFolder`.
    pub(super) shards: Vec<String>,
}

impl Source {
    /// Finds out what is stored at a path: an `ImageFolder`, a tar, a folder of tars, or the tars that a
    /// pattern names.
    ///
    /// # Errors
    /// When nothing is stored there, or something that is not a dataset.
    pub(super) fn find(path: &Path) -> Result<Self, DatasetError> {
        if let Some((folder, pattern)) = pattern::split(path) {
            let shards = pattern::expand(&folder, &pattern)?;
            return Self::tars(folder, shards);
        }
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => Self::folder(path),
            Ok(_) => {
                let name = path.file_name().unwrap_or_default();
                let root = folder_of(path);
                let name = directory::utf8(root, name)?;
                Self::tars(root.into(), vec![name])
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(DatasetError::Missing { path: path.into() })
            }
            Err(error) => Err(StoreError::io("open", path)(error).into()),
        }
    }

    /// Tars in a folder are a `WebDataset`. But class folders may have the tars beside them that they
    /// were unpacked from, so folders with images make it an `ImageFolder`.
    fn folder(path: &Path) -> Result<Self, DatasetError> {
        let (mut tars, mut has_folders, mut compressed) = (Vec::new(), false, None);
        for (name, is_folder) in directory::entries(path)? {
            has_folders |= is_folder;
            let text = name.to_string_lossy();
            if is_folder || text.starts_with('.') {
                continue;
            }
            if is_tar(&text) {
                tars.push(directory::utf8(path, &name)?);
            } else if is_compressed_tar(&text) {
                compressed = Some(path.join(&name));
            }
        }
        let is_image_folder = tars.is_empty() || has_folders && image_folder::has_images(path)?;
        match compressed {
            _ if !is_image_folder => Self::tars(path.into(), tars),
            Some(tar) if !has_folders => Err(compressed_tar(tar)),
            _ => Ok(Self { layout: Layout::ImageFolder, root: path.into(), shards: Vec::new() }),
        }
    }

    fn tars(root: PathBuf, shards: Vec<String>) -> Result<Self, DatasetError> {
        match shards.iter().find(|name| !is_tar(name)) {
            None => Ok(Self { layout: Layout::WebDataset, root, shards }),
            Some(name) if is_compressed_tar(name) => Err(compressed_tar(root.join(name))),
            Some(name) => {
                let why = "expected a folder, or a file whose name ends in .tar".to_owned();
                Err(DatasetError::NotADataset { path: root.join(name), why })
            }
        }
    }

    /// Lists the records, on rayon's threads.
    ///
    /// # Errors
    /// When a folder or shard cannot be read, or violates the rules of its layout.
    pub(super) fn list(self) -> Result<Listing, DatasetError> {
        match self.layout {
            Layout::ImageFolder => image_folder::list(&self.root),
            Layout::WebDataset => webdataset::list(self.root, self.shards),
        }
    }
}

/// Path of a dataset's index: beside the dataset, or in `index_dir` under a name that tells datasets of
/// the same name apart.
pub fn index_path(path: &Path, index_dir: Option<&Path>) -> PathBuf {
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
    let name = name.to_string_lossy();
    let plain = name.replace(['*', '?', '{', '}', '[', ']', '/'], "_");
    let Some(index_dir) = index_dir else { return parent.join(format!("{plain}.forebay")) };
    let parent = if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent };
    let identity = parent.canonicalize().unwrap_or(parent).join(name.as_ref());
    let digest = blake3::hash(identity.as_os_str().as_encoded_bytes()).to_hex();
    index_dir.join(format!("{plain}-{}.forebay", &digest[..8]))
}

/// Folder of a file, `.` if its path has only a name.
fn folder_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_beside_its_dataset_or_in_a_folder_of_indexes() {
        let beside = |path: &str| index_path(Path::new(path), None);
        assert_eq!(beside("/data/train"), Path::new("/data/train.forebay"));
        assert_eq!(beside("/data/train/"), Path::new("/data/train.forebay"));
        assert_eq!(beside("/d/t-{0..9}.tar"), Path::new("/d/t-_0..9_.tar.forebay"));
        assert_eq!(beside("/d/p*/s.tar"), Path::new("/d/p__s.tar.forebay"));
        let within = |path: &str| index_path(Path::new(path), Some(Path::new("/var")));
        assert_ne!(within("/a/train"), within("/b/train"));
        assert_eq!(within("/a/train"), within("/a/train/"));
        assert!(within("/a/train").starts_with("/var"));
    }
}
