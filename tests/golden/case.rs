//! One case of a suite: its fields by name, its images, and the comparison.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use forebay::testing::{TimmOp, TorchOp};
use forebay::{Chain, Interpolation, Mixture, MixtureKind, Op, Rect, ResizeFilter, Simd, Size};
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
    trials_named(folder, name, entries, run, |case| {
        case.text("output").trim_start_matches("out/").trim_end_matches(".png").to_owned()
    })
}

/// A test for each entry of a list, named after the suite and by a function.
pub(crate) fn trials_named(
    folder: &Path,
    name: &str,
    entries: &Value,
    run: fn(&Case) -> Result<(), Failed>,
    entry_name: fn(&Case) -> String,
) -> Vec<Trial> {
    let entries = entries.as_array().expect("a list of cases");
    let trial = |fields: &Value| {
        let suite = name.split('/').next().expect("a name");
        let case = Case { folder: folder.join(suite), fields: fields.clone() };
        Trial::test(format!("{name}/{}", entry_name(&case)), move || run(&case))
    };
    entries.iter().map(trial).collect()
}

/// A test for each entry of a list, named after the suite, the list and the entry's number.
pub(crate) fn numbered(
    folder: &Path,
    suite: &str,
    cases: &Value,
    list: &str,
    run: fn(&Case) -> Result<(), Failed>,
) -> Vec<Trial> {
    let entries = cases[list].as_array().expect("a list of cases");
    let trial = |(number, fields): (usize, &Value)| {
        let case = Case { folder: folder.join(suite), fields: fields.clone() };
        let run = move || {
            run(&case).map_err(|error| {
                Failed::from(format!("{}: {}", case.fields, error.message().unwrap_or_default()))
            })
        };
        Trial::test(format!("{suite}/{list}/{number:03}"), run)
    };
    entries.iter().enumerate().map(trial).collect()
}

impl Case {
    /// A list field.
    pub(crate) fn list(&self, field: &str) -> &[Value] {
        self.fields[field]
            .as_array()
            .unwrap_or_else(|| panic!("{field} is not a list: {}", self.fields))
    }

    /// A field of integers.
    pub(crate) fn numbers<const N: usize>(&self, field: &str) -> [u32; N] {
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let numbers: Option<Vec<u32>> = self.list(field).iter().map(number).collect();
        numbers
            .and_then(|numbers| numbers.try_into().ok())
            .unwrap_or_else(|| panic!("{field} is not {N} integers: {}", self.fields))
    }

    /// The picture of a size that a file of several, one below the other, has from the row `row` on.
    pub(crate) fn part_of(&self, file: &str, size: Size) -> Image {
        type Sheet = (u32, Arc<Vec<u8>>);
        static SHEETS: Mutex<BTreeMap<PathBuf, Sheet>> = Mutex::new(BTreeMap::new());
        let path = self.folder.join(file);
        let (width, sheet) = SHEETS
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(path.clone())
            .or_insert_with(|| {
                let (width, _, pixels) = forebay_tests::png(&path);
                (width, Arc::new(pixels))
            })
            .clone();
        let [stride, row_bytes] = [width, size.width].map(|width| width as usize * 3);
        let rows = sheet.chunks_exact(stride).skip(self.number("row") as usize);
        let rows = rows.take(size.height as usize);
        Image { size, pixels: rows.flat_map(|row| &row[..row_bytes]).copied().collect() }
    }

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

    /// The filter of a resize in a field.
    pub(crate) fn resize_filter(&self, field: &str) -> ResizeFilter {
        serde_json::from_value(self.fields[field].clone()).expect("the name of a filter")
    }

    /// The operation that the case itself describes.
    pub(crate) fn op(&self) -> Op {
        op(&self.fields)
    }

    /// The operations listed in `ops`.
    pub(crate) fn ops(&self) -> Vec<Op> {
        self.fields["ops"].as_array().expect("a list of operations").iter().map(op).collect()
    }

    /// The mixture of chains that the case describes.
    pub(crate) fn mixture(&self) -> Mixture {
        let weight = |fields: &Value| {
            let text = fields["weight"].to_string();
            text.parse().unwrap_or_else(|_| panic!("a weight: {fields}"))
        };
        let chain = |fields: &Value| {
            let ops = fields["ops"].as_array().expect("a list of operations");
            Chain { weight: weight(fields), ops: ops.iter().map(op).collect() }
        };
        let chains = self.fields["chains"].as_array().expect("a list of chains");
        let kind = match self.text("kind") {
            "summed" => MixtureKind::Summed,
            "blended" => MixtureKind::Blended,
            other => panic!("unknown mixture {other}"),
        };
        Mixture { kind, weight: weight(&self.fields), chains: chains.iter().map(chain).collect() }
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
    let (arg, filter) = (fields["arg"].as_f64(), filter(&fields["interpolation"]));
    let op = if fields["library"] == "torchvision" {
        TorchOp::named(name).and_then(|op| op.at(arg, filter))
    } else {
        TimmOp::named(name).and_then(|op| op.with(arg, filter))
    };
    op.unwrap_or_else(|| panic!("invalid operation: {fields}"))
}

/// Operations without a filter have `null`.
fn filter(name: &Value) -> Interpolation {
    match name.as_str() {
        Some("bicubic") | None => Interpolation::Bicubic,
        Some("bilinear") => Interpolation::Bilinear,
        Some("nearest") => Interpolation::Nearest,
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
