//! Options of indexing.

use std::path::PathBuf;

/// What to take of the records that are stored at a path, and how their labels are read. The default
/// takes all, and lets the layout decide.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct IndexOptions {
    /// The classes to take, one in each line of a file. Their order gives the labels.
    pub classes: Option<PathBuf>,
    /// The most records of a class; the first ones in dataset order are taken.
    pub limit_per_class: Option<u64>,
    /// The records to take, by name, one in each line of a file.
    pub records: Option<PathBuf>,
    /// The source of a `WebDataset`'s labels.
    pub label: Option<LabelSource>,
    /// Name of the image in records of named fields: `TFRecord`, Parquet, MDS and manifests. A field in a struct
    /// has a name with dots.
    pub image_column: Option<String>,
    /// Name of the label in records of named fields.
    pub label_column: Option<String>,
    /// The label of the first class in `TFRecord` and Parquet, where the usual one is not right.
    pub label_offset: Option<u32>,
    /// The share of samples that may be skipped; 0 allows none. Default: [`MAX_SKIPPED`](super::MAX_SKIPPED).
    pub max_skipped: Option<f64>,
}

/// The source of a `WebDataset`'s labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelSource {
    /// The `.cls` member.
    Cls,
    /// A key of the `.json` member; dots lead into objects.
    Json(String),
}

impl std::str::FromStr for LabelSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "cls" => Ok(Self::Cls),
            Some(("json", key)) if !key.is_empty() => Ok(Self::Json(key.to_owned())),
            _ => Err("expected cls or json:KEY".to_owned()),
        }
    }
}
