//! A Parquet file that is a manifest: it has paths of image files instead of images.

use std::sync::Arc;

use rayon::prelude::*;

use super::super::super::error::DatasetError;
use super::super::super::options::IndexOptions;
use super::super::listing::{Layout, Listing};
use super::super::manifest::{self, Row, Table};
use super::super::source::Source;
use super::columns::{ManifestColumns, check_offset};
use super::fault::Fault;
use super::footer::Footer;
use super::page::Buffers;
use super::values;
use crate::store::RegularFile;

/// Most bytes that all paths have together. Pages with a dictionary may claim many more than the file has.
const MAX_PATHS: usize = 1 << 30;

/// Lists the images of a manifest.
///
/// # Errors
/// When a column cannot be read, or a path or label cannot be used.
pub(super) fn list(
    source: &Source,
    file: &RegularFile,
    footer: &Footer,
    columns: ManifestColumns,
    options: &IndexOptions,
) -> Result<Listing, DatasetError> {
    let of_file = |fault: Fault| fault.of(file.path());
    check_offset(&footer.columns[columns.label], options).map_err(of_file)?;
    let read = |buffers: &mut Buffers, group| rows(file, footer, &columns, group, buffers);
    let groups = (0..footer.groups.len()).into_par_iter();
    let read: Vec<Vec<Row>> =
        groups.map_init(Buffers::default, read).collect::<Result<_, Fault>>().map_err(of_file)?;
    let mut rows: Vec<Row> = read.into_iter().flatten().collect();
    let (mut number, mut bytes) = (0, 0_usize);
    for row in &mut rows {
        row.number = number;
        number += 1;
        bytes += row.path.as_deref().map_or(0, str::len);
    }
    if bytes > MAX_PATHS {
        let what = "its paths have more than 1 GiB; write several manifests";
        return Err(Fault::from(what).of(file.path()));
    }
    let table = Table {
        layout: Layout::ParquetManifest,
        unit: "row",
        rows,
        has_splits: columns.split.is_some(),
        classes: columns.classes,
        first: options.label_offset.unwrap_or(0),
    };
    manifest::list_rows(source, table)
}

/// Reads the rows of a row group, which are numbered later.
fn rows(
    file: &RegularFile,
    footer: &Footer,
    columns: &ManifestColumns,
    number: usize,
    buffers: &mut Buffers,
) -> Result<Vec<Row>, Fault> {
    let group = &footer.groups[number];
    let at = |index: usize| {
        let path = &footer.columns[index].path;
        move |fault: Fault| fault.at(format!("row group {number}, column `{path}`"))
    };
    let mut texts = |index: usize| {
        let (column, chunk) = (&footer.columns[index], &group.chunks[index]);
        values::texts(file, column, chunk, group.rows, buffers).map_err(at(index))
    };
    let paths = texts(columns.path)?;
    let splits = columns.split.map(&mut texts).transpose()?;
    let (column, chunk) = (&footer.columns[columns.label], &group.chunks[columns.label]);
    let labels = values::labels(file, column, chunk, group.rows, buffers);
    let labels = labels.map_err(at(columns.label))?;
    let none: Arc<str> = "".into();
    let mut splits = splits.into_iter().flatten();
    let row = |(path, label)| {
        let split = splits.next().flatten().unwrap_or_else(|| Arc::clone(&none));
        Row { number: 0, path, label, split }
    };
    Ok(paths.into_iter().zip(labels).map(row).collect())
}
