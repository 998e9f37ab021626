//! Suite 02: crop and resize, and the evaluation transform.

use std::path::Path;

use forebay::testing::{Resample, Resizer};
use forebay::{Rect, Simd, Size, View};
use libtest_mimic::{Failed, Trial};

use crate::case::{self, Case};

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let Some(cases) = case::read(folder, "02_crop") else { return Vec::new() };
    let mut trials = case::trials(folder, "02_crop", &cases["rrc"], random_crop);
    trials.extend(case::trials(folder, "02_crop", &cases["eval"], evaluation));
    trials
}

fn random_crop(case: &Case) -> Result<(), Failed> {
    let resized = Size { height: case.number("out_h"), width: case.number("out_w") };
    check(case, case.rect(), Resample::whole(resized, case.resize_filter("interpolation")))
}

fn evaluation(case: &Case) -> Result<(), Failed> {
    let size = case.number("size");
    let resized = Size { height: case.number("resized_h"), width: case.number("resized_w") };
    let to = Resample {
        window: Rect {
            top: case.number("crop_top"),
            left: case.number("crop_left"),
            height: size,
            width: size,
        },
        ..Resample::whole(resized, case.resize_filter("interpolation"))
    };
    check(case, case.image("input").size.whole(), to)
}

fn check(case: &Case, crop: Rect, to: Resample) -> Result<(), Failed> {
    let (input, output) = (case.image("input"), case.image("output"));
    for simd in Simd::all() {
        let mut slot = vec![0; to.window.size().rgb_bytes()];
        let source = View::new(&input.pixels, input.size).crop(crop);
        Resizer::new(simd).resize(source, &to, &mut slot);
        case::same(simd, &output, &slot)?;
    }
    Ok(())
}
