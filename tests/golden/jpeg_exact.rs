//! Suite 01: forebay's own JPEG decoder equals Pillow bit for bit, with and without entry points, and refuses the
//! files that Pillow refuses.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use forebay::decode::jpeg::{Workspace, parse};
use forebay::{Rect, Simd, Size, View};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let folder = folder.join("01_decode");
    if !folder.is_dir() {
        return Vec::new();
    }
    let cases = forebay_tests::json(&folder.join("cases.json"));
    let cases = cases["cases"].as_array().expect("cases").iter().cloned();
    cases.filter(is_jpeg).map(|case| trial(&folder, case)).collect()
}

/// Pillow detects the format from the content, not from the name.
fn is_jpeg(case: &Value) -> bool {
    case["klass"] != "other-format"
}

fn trial(folder: &Path, case: Value) -> Trial {
    let name = format!("01_jpeg_exact/{}", case["name"].as_str().expect("a name"));
    let folder = folder.to_path_buf();
    Trial::test(name, move || check(&folder, &case))
}

fn check(folder: &Path, case: &Value) -> Result<(), Failed> {
    let file = std::fs::read(folder.join(case["file"].as_str().expect("a file")))?;
    Simd::all().try_for_each(|simd| check_level(folder, case, simd, &file))
}

fn check_level(folder: &Path, case: &Value, simd: Simd, file: &[u8]) -> Result<(), Failed> {
    let mut workspace = Workspace::new(simd);
    let checked = parse(file).and_then(|image| {
        let entries = image.entry_points(NonZeroU16::new(4).expect("not 0"), &mut workspace)?;
        Ok((image, entries))
    });
    if case["expect"] == "error" {
        return match checked {
            Ok(_) => Err("Pillow refuses it".into()),
            Err(_) => Ok(()),
        };
    }
    let (image, entries) = checked?;
    let (path, region) = expected(folder, case);
    let (width, height, pixels) = forebay_tests::png(&path);
    let expected = View::new(&pixels, Size { height, width });
    let region = region.unwrap_or(image.size().whole());
    compare(image.decode(region, None, &mut workspace)?, expected)?;
    let part = Rect {
        top: region.top + height / 3,
        left: region.left + width / 3,
        height: height.div_ceil(2),
        width: width.div_ceil(2),
    };
    let within = Rect { top: height / 3, left: width / 3, ..part };
    compare(image.decode(part, Some(&entries), &mut workspace)?, expected.crop(within))
}

/// The expected image of a case, and its box if it is not the whole image.
fn expected(folder: &Path, case: &Value) -> (PathBuf, Option<Rect>) {
    if let Some(png) = case["png"].as_str() {
        return (folder.join(png), None);
    }
    let png = case["extra"]["png"].as_str().expect("a picture");
    let edge = |i: usize| -> u32 {
        let edge = case["extra"]["crop_box_xyxy"][i].as_u64().expect("a box");
        edge.try_into().expect("a box inside an image")
    };
    let (left, top) = (edge(0), edge(1));
    let region = Rect { top, left, height: edge(3) - top, width: edge(2) - left };
    (folder.join(png), Some(region))
}

fn compare(pixels: View<'_>, expected: View<'_>) -> Result<(), Failed> {
    if pixels.size() != expected.size() {
        return Err(format!("size {:?}, expected {:?}", pixels.size(), expected.size()).into());
    }
    match (0..pixels.size().height).find(|&y| pixels.row(y) != expected.row(y)) {
        None => Ok(()),
        Some(y) => Err(format!("row {y} differs from Pillow's").into()),
    }
}
