//! `ImageFolder`: one folder a class, in torchvision's order (`find_classes` and `make_dataset` of
//! torchvision/datasets/folder.py).

use std::fs;
use std::path::{Path, PathBuf};

use super::DatasetError;
use super::source::list;

/// torchvision's `IMG_EXTENSIONS`, matched in any letter case.
pub(super) const EXTENSIONS: [&str; 9] =
    [".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"];

/// An image file, by its path relative to the root, with `/` between the parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ImageFile {
    pub(super) name: String,
    pub(super) label: u32,
}

/// Lists the classes and their images.
pub(super) fn scan(root: &Path) -> Result<(Vec<String>, Vec<ImageFile>), DatasetError> {
    let entries = list(root)?;
    let classes: Vec<String> =
        entries.into_iter().filter(|(_, is_folder)| *is_folder).map(|(name, _)| name).collect();
    if classes.is_empty() {
        let why = "it holds neither class folders nor tars";
        return Err(DatasetError::NotADataset { path: root.into(), why });
    }
    let mut files = Vec::new();
    for (label, class) in (0..).zip(&classes) {
        let before = files.len();
        let mut folders = Vec::new();
        walk(root, class.clone(), &mut Vec::new(), &mut folders)?;
        // torchvision sorts the folders by their whole path, so that `a-b` comes before `a/b`.
        folders.sort();
        for (folder, names) in folders {
            let names = names.into_iter().filter(|name| is_image(name));
            files.extend(names.map(|name| ImageFile { name: format!("{folder}/{name}"), label }));
        }
        if files.len() == before {
            return Err(DatasetError::EmptyClass { path: root.join(class) });
        }
    }
    Ok((classes, files))
}

/// Collects a folder and those below it, each with the names of its files. Follows symbolic links,
/// as torchvision; `above` holds the real places of the folders on the way down.
fn walk(
    root: &Path,
    folder: String,
    above: &mut Vec<PathBuf>,
    folders: &mut Vec<(String, Vec<String>)>,
) -> Result<(), DatasetError> {
    let path = root.join(&folder);
    let place = fs::canonicalize(&path).map_err(DatasetError::io("open", &path))?;
    if above.contains(&place) {
        return Err(DatasetError::Loop { path });
    }
    above.push(place);
    let mut files = Vec::new();
    for (name, is_folder) in list(&path)? {
        if is_folder {
            walk(root, format!("{folder}/{name}"), above, folders)?;
        } else {
            files.push(name);
        }
    }
    above.pop();
    folders.push((folder, files));
    Ok(())
}

fn is_image(name: &str) -> bool {
    let name = name.to_lowercase();
    EXTENSIONS.iter().any(|extension| name.ends_with(extension))
}
