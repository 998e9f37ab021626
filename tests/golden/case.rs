//! One case of a suite: its fields by name, its images, and the comparison.

use std::path::{Path, PathBuf};

use forebay::{Interpolation, Op, Rect, Simd, Size};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

/// One entry of a `cases.json`.
#[derive(Clone)]
pub(crate) struct Case {
    folder: PathBuf,
    fields: Value,
}

/// An RGB image.
pub(crate) struct Image {
    pub(crate) size: Size,
    pub(crate) pixels: Vec<u8>,
}

/// The `cases.json` of a suite; `None` if the folder lacks the suite.
pub(crate) fn read(folder: &Path, suite: &str) -> Option<Value> {
    let path = folder.join(suite).join("cases.json");
    path.exists().then(|| forebay_tests::json(&path))
}

/// A test for each entry of a list, named after the suite and the entry's output.
pub(crate) fn trials(
    folder: &Path,
    name: &str,
    entries: &Value,
    run: fn(&Case) -> Result<(), Failed>,
) -> Vec<Trial> {
    let entries = entries.as_array().expect("a list of cases");
    let trial = |fields: &Value| {
        let suite = name.split('/').next().expect("a name");
        let case = Case { folder: folder.join(suite), fields: fields.clone() };
        let output = case.text("output").trim_start_matches("out/").trim_end_matches(".png");
        Trial::test(format!("{name}/{output}"), move || run(&case))
    };
    entries.iter().map(trial).collect()
}

impl Case {
    /// A string field.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.fields[field]
            .as_str()
            .unwrap_or_else(|| panic!("{field} is not a string: {}", self.fields))
    }

    /// An integer field.
    pub(crate) fn number(&self, field: &str) -> u32 {
        let number = self.fields[field].as_u64().and_then(|n| u32::try_from(n).ok());
        number.unwrap_or_else(|| panic!("{field} is not an integer: {}", self.fields))
    }

    /// A boolean field.
    pub(crate) fn flag(&self, field: &str) -> bool {
        self.fields[field]
            .as_bool()
            .unwrap_or_else(|| panic!("{field} is not a boolean: {}", self.fields))
    }

    /// The crop box.
    pub(crate) fn rect(&self) -> Rect {
        let [top, left, height, width] = ["i", "j", "h", "w"].map(|field| self.number(field));
        Rect { top, left, height, width }
    }

    /// The interpolation filter in a field.
    pub(crate) fn filter(&self, field: &str) -> Interpolation {
        filter(&self.fields[field])
    }

    /// The operation that the case itself describes.
    pub(crate) fn op(&self) -> Op {
        op(&self.fields)
    }

    /// The operations listed in `ops`.
    pub(crate) fn ops(&self) -> Vec<Op> {
        self.fields["ops"].as_array().expect("a list of operations").iter().map(op).collect()
    }

    /// The file that a field names.
    pub(crate) fn path(&self, field: &str) -> PathBuf {
        self.folder.join(self.text(field))
    }

    /// The image that a field names.
    pub(crate) fn image(&self, field: &str) -> Image {
        let (width, height, pixels) = forebay_tests::png(&self.path(field));
        Image { size: Size { height, width }, pixels }
    }
}

fn op(fields: &Value) -> Op {
    let name = fields["op"].as_str().expect("an operation's name");
    Op::from_arg(name, fields["arg"].as_f64(), filter(&fields["interpolation"]))
        .unwrap_or_else(|| panic!("invalid operation: {fields}"))
}

/// Operations without a filter have `null`.
fn filter(name: &Value) -> Interpolation {
    match name.as_str() {
        Some("bicubic") | None => Interpolation::Bicubic,
        Some("bilinear") => Interpolation::Bilinear,
        Some(other) => panic!("unknown filter {other}"),
    }
}

/// Fails with the position of the first difference.
pub(crate) fn same(simd: Simd, expected: &Image, pixels: &[u8]) -> Result<(), Failed> {
    assert_eq!(expected.pixels.len(), pixels.len(), "size");
    let differ = |(a, b): &(&u8, &u8)| a != b;
    let pairs = || expected.pixels.iter().zip(pixels);
    let Some(first) = pairs().position(|pair| differ(&pair)) else { return Ok(()) };
    let width = expected.size.width as usize;
    Err(format!(
        "{simd:?}: {} of {} bytes differ; first in row {}, column {}, channel {}: {}, expected {}",
        pairs().filter(differ).count(),
        pixels.len(),
        first / 3 / width,
        first / 3 % width,
        first % 3,
        pixels[first],
        expected.pixels[first]
    )
    .into())
}
