//! The columns of images and labels, by the names that are given or in use.
//!
//! A column in a struct has a name with dots, such as `image.bytes`. Images are bytes, or a struct of `bytes` and
//! `path`: `image`, or else the only column that the `datasets` library marks as images. Labels are numbers or
//! text: `label`, or else the only column that it marks as class labels.

use super::super::super::options::IndexOptions;
use super::super::manifest;
use super::fault::Fault;
use super::footer::{Column, Footer, Type};

/// The columns of a file, by their numbers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) image: usize,
    /// Column of the images' names, if there is one.
    pub(super) name: Option<usize>,
    pub(super) label: usize,
    /// Names of the classes by label, if the file has them.
    pub(super) classes: Option<Vec<String>>,
}

impl Chosen {
    /// Finds the columns of a file.
    ///
    /// # Errors
    /// When there are none of these names, or they are not of a kind that images or labels have.
    pub(super) fn find(footer: &Footer, given: &IndexOptions) -> Result<Self, Fault> {
        let features = Features::parse(footer.huggingface.as_deref());
        let columns = &footer.columns;
        let image = match &given.image_column {
            Some(name) => name.clone(),
            None => default(columns, "image", &features.of_type("Image"))
                .ok_or_else(|| unknown("images", "--image-column", columns))?,
        };
        let label = match &given.label_column {
            Some(name) => name.clone(),
            None => default(columns, "label", &features.of_type("ClassLabel"))
                .ok_or_else(|| unknown("labels", "--label-column", columns))?,
        };
        let position = |path: &str| columns.iter().position(|column| column.path == path);
        let bytes = position(&format!("{image}.bytes")).or_else(|| position(&image));
        let missing = |name: &str, flag| {
            Fault::text(format!("it has no column `{name}`; {}", describe(flag, columns)))
        };
        let bytes = bytes.ok_or_else(|| missing(&image, "--image-column"))?;
        let label_column = position(&label).ok_or_else(|| missing(&label, "--label-column"))?;
        check(
            &columns[bytes],
            &[Type::BYTE_ARRAY],
            "images, which are bytes",
            "--image-column",
            columns,
        )?;
        check_label(&columns[label_column], columns)?;
        let name = columns[bytes].path.strip_suffix("bytes").and_then(|outer| {
            let name = position(&format!("{outer}path"))?;
            let is_text = columns[name].kind == Type::BYTE_ARRAY && !columns[name].is_list;
            is_text.then_some(name)
        });
        let classes = features.classes(&label);
        Ok(Self { image: bytes, name, label: label_column, classes })
    }
}

/// The usual name if there is a column of it, or else the only one that is marked.
fn default(columns: &[Column], usual: &str, marked: &[&str]) -> Option<String> {
    let top = |column: &Column| column.path.split('.').next() == Some(usual);
    if columns.iter().any(top) {
        return Some(usual.to_owned());
    }
    match marked {
        [only] => Some((*only).to_owned()),
        _ => None,
    }
}

/// The columns of a manifest, which names image files instead of having their bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ManifestColumns {
    pub(super) path: usize,
    pub(super) label: usize,
    pub(super) split: Option<usize>,
    /// Names of the classes by label, if the file has them.
    pub(super) classes: Option<Vec<String>>,
}

impl ManifestColumns {
    /// Finds the columns of a manifest; `None` if the file is none. It is one if `--image-column` names a column of
    /// text, or if no column can have images and one of text has a name that paths have.
    ///
    /// # Errors
    /// When there is a column of paths and none of labels.
    pub(super) fn find(footer: &Footer, given: &IndexOptions) -> Result<Option<Self>, Fault> {
        let columns = &footer.columns;
        let position = |path: &str| columns.iter().position(|column| column.path == path);
        let usual = |names: &[&str], fits: fn(&Column) -> bool| {
            let is_of = |name: &str, column: &Column| {
                fits(column) && column.path.eq_ignore_ascii_case(name)
            };
            names.iter().find_map(|name| columns.iter().position(|column| is_of(name, column)))
        };
        let path = match &given.image_column {
            Some(name) => position(name).filter(|path| is_text(&columns[*path])),
            None if columns.iter().any(may_have_images) => None,
            None => usual(&manifest::PATHS, is_text),
        };
        let Some(path) = path else { return Ok(None) };
        let features = Features::parse(footer.huggingface.as_deref());
        let marked = || match features.of_type("ClassLabel")[..] {
            [only] => position(only),
            _ => None,
        };
        let label = match &given.label_column {
            Some(name) => position(name),
            None => usual(&manifest::LABELS, |_| true).or_else(marked),
        };
        let label = label.ok_or_else(|| unknown("labels", "--label-column", columns))?;
        check_label(&columns[label], columns)?;
        let split = usual(&manifest::SPLITS, is_text);
        let classes = features.classes(&columns[label].path);
        Ok(Some(Self { path, label, split, classes }))
    }
}

fn is_text(column: &Column) -> bool {
    column.is_text && !column.is_list
}

/// Whether a column has bytes that are not text.
fn may_have_images(column: &Column) -> bool {
    column.kind == Type::BYTE_ARRAY && !column.is_text && !column.is_list
}

/// Refuses an offset of labels that are text.
pub(super) fn check_offset(label: &Column, options: &IndexOptions) -> Result<(), Fault> {
    if options.label_offset.is_none() || label.kind != Type::BYTE_ARRAY {
        return Ok(());
    }
    let path = &label.path;
    Err(Fault::text(format!(
        "--label-offset is about labels that are numbers, and the column `{path}` is text; remove it"
    )))
}

fn check_label(column: &Column, columns: &[Column]) -> Result<(), Fault> {
    let kinds = [Type::INT32, Type::INT64, Type::BYTE_ARRAY];
    let expected = "labels, which are whole numbers or text";
    check(column, &kinds, expected, "--label-column", columns)
}

fn check(
    column: &Column,
    kinds: &[Type],
    expected: &str,
    flag: &str,
    columns: &[Column],
) -> Result<(), Fault> {
    let path = &column.path;
    if !column.is_list && kinds.contains(&column.kind) {
        return Ok(());
    }
    let found = if column.is_list {
        "is a list".to_owned()
    } else {
        format!("has values of type {}", column.kind.name())
    };
    let advice = describe(flag, columns);
    Err(Fault::text(format!("the column `{path}` {found}, and not {expected}; {advice}")))
}

fn unknown(what: &str, flag: &str, columns: &[Column]) -> Fault {
    Fault::text(format!("the column of {what} is not known; {}", describe(flag, columns)))
}

/// Columns that an error lists.
const MAX_LISTED: usize = 30;

/// Advice to name a column, with all there are.
fn describe(flag: &str, columns: &[Column]) -> String {
    let column = |column: &Column| {
        let list = if column.is_list { "list of " } else { "" };
        let kind = if column.is_text { "text" } else { column.kind.name() };
        format!("`{}` ({list}{kind})", column.path)
    };
    let listed: Vec<String> = columns.iter().take(MAX_LISTED).map(column).collect();
    let more = if columns.len() > MAX_LISTED { " and others" } else { "" };
    format!("name one with {flag}: its columns are {}{more}", listed.join(", "))
}

/// What the `datasets` library says about columns.
struct Features(serde_json::Map<String, serde_json::Value>);

impl Features {
    fn parse(text: Option<&str>) -> Self {
        let parsed = text.and_then(|text| serde_json::from_str(text).ok());
        let mut root: serde_json::Value = parsed.unwrap_or_default();
        match root.pointer_mut("/info/features").map(serde_json::Value::take) {
            Some(serde_json::Value::Object(features)) => Self(features),
            _ => Self(serde_json::Map::new()),
        }
    }

    /// Names of the columns of a type.
    fn of_type(&self, kind: &str) -> Vec<&str> {
        let features = self.0.iter().filter(|(_, feature)| feature["_type"] == *kind);
        features.map(|(name, _)| name.as_str()).collect()
    }

    /// Names of the classes of a column.
    fn classes(&self, column: &str) -> Option<Vec<String>> {
        let names = self.0.get(column)?.get("names")?.as_array()?;
        names.iter().map(|name| name.as_str().map(str::to_owned)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn footer(columns: &[(&str, Type)], huggingface: Option<&str>) -> Footer {
        let column = |(path, kind): &(&str, Type)| Column {
            path: (*path).to_owned(),
            kind: *kind,
            max_definition: 1,
            is_list: path.contains(".list."),
            is_text: false,
        };
        Footer {
            columns: columns.iter().map(column).collect(),
            groups: Vec::new(),
            huggingface: huggingface.map(str::to_owned),
        }
    }

    fn find(footer: &Footer, image: Option<&str>, label: Option<&str>) -> Result<Chosen, String> {
        let name = |name: Option<&str>| name.map(str::to_owned);
        let given = IndexOptions {
            image_column: name(image),
            label_column: name(label),
            ..IndexOptions::default()
        };
        Chosen::find(footer, &given).map_err(|fault| match fault {
            Fault::Text(what) => what,
            Fault::Store(error) => error.to_string(),
        })
    }

    const BYTES: Type = Type::BYTE_ARRAY;

    #[test]
    fn columns_are_found_by_their_usual_names_or_by_the_marks_of_datasets() {
        let usual =
            footer(&[("image.bytes", BYTES), ("image.path", BYTES), ("label", Type::INT64)], None);
        let chosen = |image, name, label, classes: Option<&[&str]>| Chosen {
            image,
            name,
            label,
            classes: classes.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        };
        assert_eq!(find(&usual, None, None), Ok(chosen(0, Some(1), 2, None)));
        assert_eq!(find(&usual, Some("image.bytes"), None), Ok(chosen(0, Some(1), 2, None)));
        let marks = r#"{"info": {"features": {"img": {"_type": "Image"}, "y": {"names": ["a", "b"], "_type": "ClassLabel"}}}}"#;
        let marked =
            footer(&[("y", Type::INT64), ("img.path", BYTES), ("img.bytes", BYTES)], Some(marks));
        assert_eq!(find(&marked, None, None), Ok(chosen(2, Some(1), 0, Some(&["a", "b"]))));
        let plain = footer(&[("image", BYTES), ("text", BYTES)], None);
        assert_eq!(find(&plain, None, Some("text")), Ok(chosen(0, None, 1, None)));
    }

    #[test]
    fn an_error_lists_the_columns_and_the_flag() {
        let other = footer(&[("picture", BYTES), ("class", Type::INT32)], None);
        let error = find(&other, None, None).unwrap_err();
        let columns = "its columns are `picture` (bytes), `class` (int32)";
        assert!(error.contains("--image-column") && error.contains(columns), "{error}");
        let error = find(&other, Some("picture"), None).unwrap_err();
        assert!(error.contains("the column of labels is not known"), "{error}");
        let error = find(&other, Some("none"), None).unwrap_err();
        assert!(error.contains("the column of labels"), "{error}");
        let error = find(&other, Some("none"), Some("class")).unwrap_err();
        assert!(error.contains("it has no column `none`; name one with --image-column"), "{error}");
        let error = find(&other, Some("class"), Some("class")).unwrap_err();
        assert!(error.contains("the column `class` has values of type int32, and not"), "{error}");
        let lists = footer(&[("image.list.element", BYTES), ("label", Type::INT64)], None);
        let error = find(&lists, Some("image.list.element"), None).unwrap_err();
        assert!(error.contains("`image.list.element` is a list, and not"), "{error}");
    }

    #[test]
    fn a_file_without_images_whose_text_has_a_name_of_paths_is_a_manifest() {
        let with_text = |columns: &[(&str, Type)], texts: &[&str]| {
            let mut footer = footer(columns, None);
            for column in &mut footer.columns {
                column.is_text = texts.contains(&column.path.as_str());
            }
            footer
        };
        let find = |footer: &Footer, image: Option<&str>| {
            let given =
                IndexOptions { image_column: image.map(str::to_owned), ..IndexOptions::default() };
            ManifestColumns::find(footer, &given)
        };
        let columns = [("Label", Type::INT64), ("split", BYTES), ("image", BYTES)];
        let paths = with_text(&columns, &["image", "split"]);
        let found = find(&paths, None).unwrap().unwrap();
        assert_eq!((found.path, found.label, found.split), (2, 0, Some(1)));
        // Bytes that are not text may be images.
        assert_eq!(find(&with_text(&columns, &["split"]), None).unwrap(), None);
        let both = [("hash", BYTES), ("photo", BYTES), ("class", Type::INT32)];
        let both = with_text(&both, &["photo"]);
        assert_eq!(find(&both, None).unwrap(), None);
        assert_eq!(find(&both, Some("photo")).unwrap().unwrap().label, 2);
        assert_eq!(find(&both, Some("hash")).unwrap(), None);
        let Err(Fault::Text(error)) = find(&with_text(&[("path", BYTES)], &["path"]), None) else {
            panic!("it has no labels");
        };
        let says = "name one with --label-column: its columns are `path` (text)";
        assert!(error.contains(says), "{error}");
    }

    #[test]
    fn metadata_that_are_not_those_of_datasets_are_ignored() {
        for text in [
            "",
            "{",
            "[]",
            r#"{"info": {"features": [1]}}"#,
            r#"{"info": {"features": {"label": 3}}}"#,
        ] {
            let odd = footer(&[("image", BYTES), ("label", Type::INT64)], Some(text));
            assert_eq!(find(&odd, None, None).unwrap().classes, None);
        }
    }
}
