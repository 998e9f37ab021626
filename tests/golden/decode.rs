//! Suites 01 and 12: the pixels of `Image.open(f).convert('RGB')`, and the files that Pillow refuses.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use forebay::Rect;
use forebay::decode::{Decoder, verify};
use forebay_tests::{json, png};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    ["01_decode", "12_formats"].into_iter().flat_map(|suite| trials_of(folder, suite)).collect()
}

fn trials_of(folder: &Path, suite: &str) -> Vec<Trial> {
    let folder = folder.join(suite);
    if !folder.is_dir() {
        return Vec::new();
    }
    let cases = json(&folder.join("cases.json"))["cases"].as_array().unwrap().clone();
    let trial = |case: Value| {
        let name = format!("{suite}/{}", case["name"].as_str().unwrap());
        let folder = folder.clone();
        Trial::test(name, move || check(&folder, &case))
    };
    cases.into_iter().map(trial).collect()
}

fn check(folder: &Path, case: &Value) -> Result<(), Failed> {
    let bytes = std::fs::read(folder.join(case["file"].as_str().unwrap()))?;
    let mut decoder = Decoder::default();
    let verdict = verify(&bytes, &mut decoder);
    if case["expect"] == "error" {
        return verdict.map_or(Ok(()), |(header, _)| {
            Err(format!("Pillow refuses it, accepted as {header:?}").into())
        });
    }
    let (header, entries) = verdict?;
    let size = header.size;
    assert_eq!(u64::from(size.width), case["width"]);
    assert_eq!(u64::from(size.height), case["height"]);
    let (rect, file) = match &case["extra"]["crop_box_xyxy"] {
        Value::Array(corners) => {
            let corner = |at: usize| u32::try_from(corners[at].as_u64().unwrap()).unwrap();
            let (left, top) = (corner(0), corner(1));
            let rect = Rect { top, left, height: corner(3) - top, width: corner(2) - left };
            (rect, &case["extra"]["png"])
        }
        _ => (size.whole(), &case["png"]),
    };
    let (_, _, expected) = png(&folder.join(file.as_str().unwrap()));
    let region = decoder.decode(&bytes, rect, &entries)?;
    let view = region.crop(rect);
    let rows = (0..rect.height).flat_map(|y| view.row(y));
    let different = rows.zip(&expected).filter(|(ours, theirs)| ours != theirs).count();
    if different == 0 {
        Ok(())
    } else {
        Err(format!("{different} of {} values differ", expected.len()).into())
    }
}
