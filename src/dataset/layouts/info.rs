//! `_info.json`, which timm writes beside the shards of a `WebDataset`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path};

use serde::Deserialize;

use super::super::error::DatasetError;
use super::super::options::LabelSource;
use super::split;
use crate::store::RegularFile;

/// The names under which timm looks for it.
pub(in crate::dataset) const NAMES: [&str; 2] = ["_info.json", "info.json"];

/// Largest file.
const MAX_FILE: u32 = 64 << 20;

/// The splits of a dataset.
#[derive(Debug, Deserialize)]
pub(in crate::dataset) struct Info {
    splits: BTreeMap<String, Split>,
}

/// A split.
#[derive(Debug, Deserialize)]
pub(super) struct Split {
    filenames: Vec<String>,
    #[serde(default)]
    alt_label: String,
}

/// The file in a folder; `None` if there is none, or one of something else.
///
/// # Errors
/// When it cannot be read.
pub(super) fn info(root: &Path) -> Result<Option<Info>, DatasetError> {
    for path in NAMES.map(|name| root.join(name)) {
        if fs::symlink_metadata(&path).is_ok() {
            let mut text = Vec::new();
            RegularFile::open(&path)?.read_whole(&mut text, MAX_FILE, "_info.json")?;
            return Ok(parse(&text));
        }
    }
    Ok(None)
}

/// The splits that a file describes; `None` if it is one of something else.
pub(in crate::dataset) fn parse(text: &[u8]) -> Option<Info> {
    serde_json::from_slice(text).ok()
}

impl Info {
    /// The names of its splits.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.splits.keys().map(String::as_str)
    }

    /// A split by its name or one that means the same.
    pub(super) fn split(&self, wanted: &str) -> Option<&Split> {
        let same = || self.splits.iter().find(|(name, _)| split::is_same(name, wanted));
        self.splits.get(wanted).or_else(|| same().map(|(_, split)| split))
    }
}

impl Split {
    /// Its shards, sorted, of which none is outside of the folder.
    pub(super) fn shards(&self) -> Vec<String> {
        let is_inside = |name: &&String| {
            !name.is_empty()
                && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
        };
        let mut names: Vec<String> = self.filenames.iter().filter(is_inside).cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// The source of its labels, if it is not the usual one.
    pub(super) fn label(&self) -> Option<LabelSource> {
        (!self.alt_label.is_empty()).then(|| LabelSource::Json(self.alt_label.clone()))
    }
}
