//! A dataset as it is stored: what was recognized at a path.

use std::path::PathBuf;

use super::listing::Layout;

/// What a path may lead to.
pub(super) const EXPECTED: &str = "expected a folder for each class, WebDataset or ILSVRC tars, TFRecords, \
                                   Parquet files, Kaggle's ImageNet, a folder of MDS shards or of CIFAR batches, \
                                   or a manifest (CSV or Parquet)";

/// A dataset as it is stored.
#[derive(Debug)]
pub(in crate::dataset) struct Source {
    pub(in crate::dataset) layout: Layout,
    /// Folder that the names of shards and files are relative to.
    pub(in crate::dataset) root: PathBuf,
    /// Names of the files that hold many records each, sorted; none if each record is a file.
    pub(in crate::dataset) shards: Vec<String>,
    /// The split, if the path has several.
    pub(super) split: Option<String>,
    /// The file that lists the records, if the layout has one, or the only one, which may be such a file.
    pub(super) list: Option<PathBuf>,
}

impl Source {
    /// Records that are files below a folder.
    pub(super) fn files(layout: Layout, root: impl Into<PathBuf>) -> Self {
        Self { layout, root: root.into(), shards: Vec::new(), split: None, list: None }
    }

    /// Shards in a folder.
    pub(super) fn shards(layout: Layout, root: impl Into<PathBuf>, shards: Vec<String>) -> Self {
        Self { shards, ..Self::files(layout, root) }
    }

    pub(super) fn with_split(self, split: Option<&str>) -> Self {
        Self { split: split.map(str::to_owned), ..self }
    }

    /// The same as what it was when it was indexed: whether a Parquet file is a manifest is read from its footer, with
    /// the columns that flags name.
    pub(in crate::dataset) fn with_layout(self, layout: Layout) -> Self {
        let may_be = self.layout == Layout::Parquet && self.list.is_some();
        if may_be && layout == Layout::ParquetManifest {
            return Self { layout, shards: Vec::new(), ..self };
        }
        self
    }
}
