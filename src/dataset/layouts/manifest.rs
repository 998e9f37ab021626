//! A manifest: a file with a row for each image: its path, relative to the manifest, its label, and perhaps its
//! split. Here are those that are CSV files, and what is made of the rows of any.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::super::error::DatasetError;
use super::super::options::IndexOptions;
use super::classes::{self, Label};
use super::listing::{About, Layout, ListedRecord, Listing, Location, Naming, SkipCounter};
use super::source::Source;
use super::{csv, split};

/// Names of columns that a manifest may have.
pub(super) const PATHS: [&str; 8] =
    ["path", "file", "filename", "file_name", "filepath", "image", "image_path", "img"];
pub(super) const LABELS: [&str; 6] =
    ["label", "labels", "class", "class_name", "target", "category"];
pub(super) const SPLITS: [&str; 4] = ["split", "set", "subset", "partition"];

/// Longest path of a record.
const MAX_PATH: usize = 32 << 10;

const NO_PATH: &str = "no path";
const NO_LABEL: &str = "no label";
const NEGATIVE: &str = "a negative label";

/// The rows of a manifest.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) layout: Layout,
    /// What an error calls a row.
    pub(super) unit: &'static str,
    pub(super) rows: Vec<Row>,
    /// Whether there is a column of splits.
    pub(super) has_splits: bool,
    /// Names of the classes by label, if the manifest has them beside its rows.
    pub(super) classes: Option<Vec<String>>,
    /// The number of the first class.
    pub(super) first: u32,
}

/// A row of a manifest.
#[derive(Debug)]
pub(super) struct Row {
    /// Its number, for people.
    pub(super) number: usize,
    pub(super) path: Option<Arc<str>>,
    pub(super) label: Option<Label>,
    /// Empty if it has none.
    pub(super) split: Arc<str>,
}

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

/// Lists the images of a CSV manifest.
///
/// # Errors
/// When it cannot be read, has other columns, or a path or label cannot be used.
pub(super) fn list(source: &Source, options: &IndexOptions) -> Result<Listing, DatasetError> {
    let path = source.list.as_deref().expect("a source of this layout has one");
    let mut rows = csv::rows(path)?;
    let Columns { path: of_path, label, split } = columns(path, &mut rows, options)?;
    let width = of_path.max(label).max(split.unwrap_or(0));
    if let Some((line, row)) = rows.iter().find(|(_, row)| row.len() <= width) {
        let what =
            format!("line {line}: it has {} columns; expected {} or more", row.len(), width + 1);
        return Err(DatasetError::Description { path: path.into(), what });
    }
    let row = |(number, cells): csv::Row| Row {
        number,
        path: Some(cells[of_path].as_str().into()),
        label: label_of(&cells[label]),
        split: split.map_or("", |split| &cells[split]).into(),
    };
    let table = Table {
        layout: Layout::Manifest,
        unit: "line",
        rows: rows.into_iter().map(row).collect(),
        has_splits: split.is_some(),
        classes: None,
        first: 0,
    };
    list_rows(source, table)
}

/// The label of a cell: a number if it can be one, and nothing if it is empty.
fn label_of(cell: &str) -> Option<Label> {
    match cell.parse() {
        Ok(number) if number < i64::from(classes::MAX_NUMBERED_CLASSES) => {
            Some(Label::Number(number))
        }
        _ if cell.is_empty() => None,
        _ => Some(Label::Text(cell.into())),
    }
}

/// Lists the images that the rows of a manifest name.
///
/// # Errors
/// When a path leads elsewhere, a label has no class, or a split must be selected.
pub(super) fn list_rows(source: &Source, table: Table) -> Result<Listing, DatasetError> {
    let Table { layout, unit, rows, has_splits, classes: listed, first } = table;
    let path = source.list.as_deref().expect("a source of this layout has one");
    let error = |number: usize, what: String| DatasetError::Description {
        path: path.into(),
        what: format!("{unit} {number}: {what}"),
    };
    let texts = class_names(&rows, unit).map_err(|(number, what)| error(number, what))?;
    let splits: BTreeSet<&str> =
        rows.iter().filter(|_| has_splits).map(|row| &*row.split).collect();
    let chosen = split::choose(path, splits, source.split.as_deref())?.map(str::to_owned);
    let root = source.root.canonicalize().unwrap_or_else(|_| source.root.clone());
    let (mut records, mut skipped) = (Vec::new(), SkipCounter::default());
    for Row { number, path, label, split } in rows {
        if has_splits && chosen.as_deref() != Some(&*split) {
            continue;
        }
        let Some(path) = path else {
            skipped.add(NO_PATH, || format!("{unit} {number}"));
            continue;
        };
        let name = relative(&root, &path).map_err(|what| error(number, what))?;
        let label = match (label, &texts) {
            (None, _) => {
                skipped.add(NO_LABEL, || name);
                continue;
            }
            (Some(Label::Number(below)), _) if below < 0 => {
                skipped.add(NEGATIVE, || name);
                continue;
            }
            (Some(Label::Number(class)), _) => class
                .checked_sub(first.into())
                .and_then(|class| u32::try_from(class).ok())
                .filter(|class| *class < classes::MAX_NUMBERED_CLASSES)
                .ok_or_else(|| {
                    error(number, format!("the label {class} is not a class from {first}; fix it"))
                })?,
            (Some(Label::Text(text)), names) => {
                let names = names.as_ref().expect("there are names if a label is one");
                let at = names.binary_search_by(|name| name.as_str().cmp(&text));
                u32::try_from(at.expect("it is one of them")).expect("fewer than rows")
            }
        };
        records.push(ListedRecord { name, label, location: Location::File });
    }
    let kind = match (&texts, &listed) {
        (Some(_), _) => "class names, sorted".to_owned(),
        (None, Some(_)) => format!("class names of the file, from {first}"),
        (None, None) => format!("numbers from {first}"),
    };
    let (classes, naming) = match (texts, listed) {
        (Some(names), _) => (names, Naming::Texts),
        (None, Some(names)) => {
            classes::check_labels(&records, names.len())?;
            (names, Naming::List)
        }
        (None, None) => classes::listed_or_numbered(&source.root, &records)?,
    };
    Ok(Listing {
        root: source.root.clone(),
        layout,
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
    rows: &mut Vec<csv::Row>,
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
/// The number of a row and what is wrong with it: some labels are numbers and others are not.
fn class_names(rows: &[Row], unit: &str) -> Result<Option<Vec<String>>, (usize, String)> {
    let texts = || {
        rows.iter().filter_map(|row| match &row.label {
            Some(Label::Text(text)) => Some((row.number, text)),
            _ => None,
        })
    };
    let Some((row, name)) = texts().next() else { return Ok(None) };
    let number = rows.iter().find_map(|row| match row.label {
        Some(Label::Number(number)) if number >= 0 => Some((row.number, number)),
        _ => None,
    });
    if let Some((other, number)) = number {
        let what = format!(
            "the label {name:?} is a name, and that of {unit} {other} is the number {number}; use one of both"
        );
        return Err((row, what));
    }
    let names: BTreeSet<&Arc<str>> = texts().map(|(_, text)| text).collect();
    Ok(Some(names.into_iter().map(ToString::to_string).collect()))
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
