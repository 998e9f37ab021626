//! `ImageFolder`: a folder for each class, in torchvision's order (`find_classes` and `make_dataset` of
//! torchvision/datasets/folder.py).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::super::error::DatasetError;
use super::directory::{self, utf8};
use super::listing::{About, Layout, ListedRecord, Listing, Location, Naming, SkipCounter};
use super::source::EXPECTED;
use super::stray;
use crate::store::StoreError;

/// torchvision's `IMG_EXTENSIONS`, matched in any letter case.
const EXTENSIONS: [&str; 9] =
    [".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"];

/// Maximum number of paths by which a class leads to a folder.
const MAX_PATHS: u32 = 1000;

/// A folder, relative to the root, and its images.
type Folder = (String, Vec<String>);

/// Lists the classes and their images.
///
/// # Errors
/// When the root has no folders, a class has no images, or something cannot be listed.
pub(super) fn list(root: &Path) -> Result<Listing, DatasetError> {
    let mut classes = Vec::new();
    for (name, is_folder) in directory::entries(root)? {
        if is_folder {
            classes.push(utf8(root, &name)?);
        }
    }
    if classes.is_empty() {
        let why = EXPECTED.to_owned();
        return Err(DatasetError::NotADataset { path: root.into(), why });
    }
    let (mut records, mut skipped) = (Vec::new(), SkipCounter::default());
    for (label, class) in (0..).zip(&classes) {
        let before = records.len();
        for (folder, images) in images_of(root, class, &mut skipped)? {
            let record = |image: String| ListedRecord {
                name: format!("{folder}/{image}"),
                label,
                location: Location::File,
            };
            records.extend(images.into_iter().map(record));
        }
        if records.len() == before {
            return Err(DatasetError::EmptyClass {
                path: root.join(class),
                expected: EXTENSIONS.join(" "),
            });
        }
    }
    Ok(Listing {
        root: root.into(),
        layout: Layout::ImageFolder,
        classes,
        naming: Naming::List,
        shards: Vec::new(),
        records,
        skipped,
        about: About::default(),
    })
}

/// Whether all of some folders hold an image, directly, as class folders do.
///
/// # Errors
/// When one of them cannot be listed.
pub(super) fn hold_images(root: &Path, folders: &[String]) -> Result<bool, DatasetError> {
    for folder in folders {
        let entries = directory::entries(&root.join(folder))?;
        if !entries.iter().any(|(name, is_folder)| !is_folder && is_image(name)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Images of a class. torchvision sorts folders by their whole path, so `a-b` is before `a/b`.
fn images_of(
    root: &Path,
    class: &str,
    skipped: &mut SkipCounter,
) -> Result<Vec<Folder>, DatasetError> {
    let mut found = Found { folders: Vec::new(), skipped };
    walk(root, class.to_owned(), &mut Visits::default(), &mut found)?;
    found.folders.sort();
    Ok(found.folders)
}

/// The folders of a class.
struct Found<'a> {
    folders: Vec<Folder>,
    skipped: &'a mut SkipCounter,
}

/// The folders that a walk has been in, each by device and inode.
#[derive(Default)]
struct Visits {
    /// The folders above the current one.
    ancestors: Vec<(u64, u64)>,
    counts: BTreeMap<(u64, u64), u32>,
}

/// Collects a folder and those below it. Follows symbolic links, as torchvision does. A link to a folder
/// above it would have no end, and a few dozen folders that link to each other have millions of paths.
fn walk(
    root: &Path,
    folder: String,
    visits: &mut Visits,
    found: &mut Found<'_>,
) -> Result<(), DatasetError> {
    let path = root.join(&folder);
    let metadata = fs::metadata(&path).map_err(StoreError::io("open", &path))?;
    let id = (metadata.dev(), metadata.ino());
    if visits.ancestors.contains(&id) {
        return Err(DatasetError::Loop { path });
    }
    let count = visits.counts.entry(id).or_default();
    *count += 1;
    if *count > MAX_PATHS {
        return Err(DatasetError::TooManyPaths { path, limit: MAX_PATHS });
    }
    visits.ancestors.push(id);
    let mut images = Vec::new();
    for (name, is_folder) in directory::entries(&path)? {
        if is_folder {
            walk(root, format!("{folder}/{}", utf8(&path, &name)?), visits, found)?;
        } else if is_image(&name) {
            if let Some(name) = name.to_str() {
                images.push(name.to_owned());
            } else {
                let name = || format!("{folder}/{}", name.to_string_lossy());
                found.skipped.add(stray::NOT_UTF8, name);
            }
        }
    }
    visits.ancestors.pop();
    found.folders.push((folder, images));
    Ok(())
}

/// Whether a file is an image by its name.
pub(super) fn is_image(name: &OsStr) -> bool {
    let name = name.to_string_lossy().to_lowercase();
    EXTENSIONS.iter().any(|extension| name.ends_with(extension))
}
