//! A manifest: a CSV file with a row for each image: its path, relative to the manifest, its label, and
//! perhaps its split.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use super::super::error::DatasetError;
use super::super::options::IndexOptions;
use super::csv::{self, Row};
use super::listing::{About, Layout, ListedRecord, Listing, Location, Naming, SkipCounter};
use super::source::Source;
use super::{classes, split};

/// Names of columns that a header may have.
const PATHS: [&str; 8] =
    ["path", "file", "filename", "file_name", "filepath", "image", "image_path", "img"];
const LABELS: [&str; 6] = ["label", "labels", "class", "class_name", "target", "category"];
const SPLITS: [&str; 4] = ["split", "set", "subset", "partition"];

/// Longest path of a record.
const MAX_PATH: usize = 32 << 10;

const NO_LABEL: &str = "no label";
const NEGATIVE: &str = "a negative label";

/// A manifest at a path. It is read when the dataset is indexed.
///
/// # Errors
/// None.
#[expect(clippy::unnecessary_wraps, reason = "as the other layouts")]
pub(super) fn find(path: &Path, split: Option<&str>) -> Result<Source, DatasetError> {
    let root = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let source = Source::files(Layout::Manifest, root.unwrap_or(Path::new("."))).with_split(split);
    Ok(Source { list: Some(path.into()), ..source })
}

/// The columns of paths, labels and splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Columns {
    path: usize,
    label: usize,
    split: Option<usize>,
}

/// Lists the images of a manifest.
///
/// # Errors
/// When it cannot be read, has other columns, or a path or label cannot be used.
pub(super) fn list(source: &Source, options: &IndexOptions) -> Result<Listing, DatasetError> {
    let path = source.list.as_deref().expect("a source of this layout has one");
    let mut rows = csv::rows(path)?;
    let columns = columns(path, &mut rows, options)?;
    let error = |line: &usize, what: String| DatasetError::Description {
        path: path.into(),
        what: format!("line {line}: {what}"),
    };
    let width = columns.path.max(columns.label).max(columns.split.unwrap_or(0));
    if let Some((line, row)) = rows.iter().find(|(_, row)| row.len() <= width) {
        let what = format!("it has {} columns; expected {} or more", row.len(), width + 1);
        return Err(error(line, what));
    }
    let names = class_names(&rows, columns.label).map_err(|(line, what)| error(&line, what))?;
    let chosen = match columns.split {
        Some(column) => {
            let splits: BTreeSet<&str> = rows.iter().map(|(_, row)| row[column].as_str()).collect();
            split::choose(path, splits, source.split.as_deref())?.map(str::to_owned)
        }
        None => split::choose(path, [], source.split.as_deref())?.map(str::to_owned),
    };
    let root = source.root.canonicalize().unwrap_or_else(|_| source.root.clone());
    let (mut records, mut skipped) = (Vec::new(), SkipCounter::default());
    for (line, row) in &rows {
        let in_split =
            columns.split.zip(chosen.as_ref()).is_none_or(|(at, chosen)| row[at] == *chosen);
        if !in_split {
            continue;
        }
        let name = relative(&root, &row[columns.path]).map_err(|what| error(line, what))?;
        let text = &row[columns.label];
        if text.is_empty() {
            skipped.add(NO_LABEL, || name);
            continue;
        }
        if is_negative(text) {
            skipped.add(NEGATIVE, || name);
            continue;
        }
        let label = match &names {
            Some(names) => u32::try_from(names.binary_search(text).expect("it is one of them")),
            None => Ok(text.parse().expect("all labels are numbers")),
        };
        let label = label.expect("a line of a bounded file");
        records.push(ListedRecord { name, label, location: Location::File });
    }
    let kind = if names.is_some() { "class names, sorted" } else { "numbers from 0" };
    let (classes, naming) = match names {
        Some(names) => (names, Naming::Texts),
        None => classes::listed_or_numbered(&source.root, &records)?,
    };
    Ok(Listing {
        root: source.root.clone(),
        layout: Layout::Manifest,
        classes,
        naming,
        shards: Vec::new(),
        records,
        skipped,
        about: About::default().fact("labels", kind),
    })
}

/// The columns by a header, which is removed, or else by their order.
fn columns(
    path: &Path,
    rows: &mut Vec<Row>,
    options: &IndexOptions,
) -> Result<Columns, DatasetError> {
    let Some((_, first)) = rows.first() else {
        let what = "it is empty; expected a row for each image: path, label, split".to_owned();
        return Err(DatasetError::Description { path: path.into(), what });
    };
    let lower: Vec<String> = first.iter().map(|cell| cell.to_lowercase()).collect();
    let usual =
        |names: &[&str]| names.iter().find_map(|name| lower.iter().position(|cell| cell == name));
    let named = |name: &Option<String>, names: &[&str]| match name {
        Some(name) => first.iter().position(|cell| cell == name),
        None => usual(names),
    };
    let missing = |missing: &str| DatasetError::Columns {
        path: path.into(),
        missing: missing.to_owned(),
        columns: first.clone(),
    };
    let found = (named(&options.image_column, &PATHS), named(&options.label_column, &LABELS));
    let columns = match found {
        (Some(path), Some(label)) => Columns { path, label, split: usual(&SPLITS) },
        (None, _) if options.image_column.is_some() => return Err(missing("column of paths")),
        (_, None) if options.label_column.is_some() => return Err(missing("column of labels")),
        // A header that names only one of the two. Two columns may be without a header, unless a flag names one.
        (Some(_), None) if first.len() != 2 || options.image_column.is_some() => {
            return Err(missing("column of labels"));
        }
        (None, Some(_)) if first.len() != 2 || options.label_column.is_some() => {
            return Err(missing("column of paths"));
        }
        _ => match first.len() {
            2 => return Ok(Columns { path: 0, label: 1, split: None }),
            3 => return Ok(Columns { path: 0, label: 1, split: Some(2) }),
            _ => return Err(missing("header that names the columns of paths and labels")),
        },
    };
    rows.remove(0);
    Ok(columns)
}

/// The names of the classes, sorted; `None` if labels are numbers. All splits count, so that they agree.
///
/// # Errors
/// A line and what is wrong with it: some labels are numbers and others are not.
fn class_names(rows: &[Row], column: usize) -> Result<Option<Vec<String>>, (usize, String)> {
    let labels = || {
        let cells = rows.iter().map(|(line, row)| (*line, row[column].as_str()));
        cells.filter(|(_, label)| !label.is_empty() && !is_negative(label))
    };
    let is_number =
        |label: &str| label.parse::<u32>().is_ok_and(|n| n < classes::MAX_NUMBERED_CLASSES);
    let name = labels().find(|(_, label)| !is_number(label));
    let number = labels().find(|(_, label)| is_number(label));
    match (name, number) {
        (Some((line, name)), Some((other, number))) => {
            let what = format!(
                "the label {name:?} is a name, and that of line {other} is the number {number}; use one of both"
            );
            Err((line, what))
        }
        (Some(_), None) => {
            let names: BTreeSet<&str> = labels().map(|(_, label)| label).collect();
            Ok(Some(names.into_iter().map(str::to_owned).collect()))
        }
        (None, _) => Ok(None),
    }
}

/// Whether a label is a number that means that there is none.
fn is_negative(label: &str) -> bool {
    label.parse().is_ok_and(|number: i64| number < 0)
}

/// A path below the folder of the manifest, as the name of a record.
///
/// # Errors
/// What is wrong with the path, if it leads elsewhere.
fn relative(root: &Path, text: &str) -> Result<String, String> {
    let path = Path::new(text);
    let below = path.strip_prefix(root).unwrap_or(path);
    let parts = below.components().filter(|part| *part != Component::CurDir);
    let clean: PathBuf = parts.collect();
    let mut parts = clean.components();
    let is_below = parts.all(|part| matches!(part, Component::Normal(_)));
    if clean.as_os_str().is_empty() || !is_below || text.len() > MAX_PATH {
        return Err(format!(
            "the path {text:?} does not lead to a file below the manifest's folder; put the manifest into a \
             folder above all images"
        ));
    }
    Ok(clean.to_str().expect("made of text").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_folder_of_the_manifest() {
        let relative = |text| relative(Path::new("/data"), text);
        assert_eq!(relative("./a//b.jpg").unwrap(), "a/b.jpg");
        assert_eq!(relative("/data/a/b.jpg").unwrap(), "a/b.jpg");
        for text in ["../a.jpg", "/etc/passwd", "a/../../b", "", "."] {
            assert!(relative(text).is_err(), "{text}");
        }
    }
}
