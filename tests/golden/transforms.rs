//! Suite 15: every filter of a resize, and timm's other crops.

use std::path::Path;

use forebay::plan;
use forebay::recipe::{Crop, Recipe, RecipeSpec};
use forebay::testing::{Part, Resample, Resizer};
use forebay::{PadMode, Padding, Rect, Simd, Size, View};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::case::{self, Case, Image};
use crate::randaug::FILL;
use crate::stats;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let Some(cases) = case::read(folder, "15_transforms") else { return Vec::new() };
    let mut trials = case::numbered(folder, "15_transforms", &cases, "resizes", resize);
    trials.extend(case::numbered(folder, "15_transforms", &cases, "crops", crop));
    trials.extend(case::numbered(folder, "15_transforms", &cases, "places", place));
    for (name, expected) in cases["random"].as_object().expect("sizes") {
        let expected = expected.clone();
        let name = format!("15_transforms/random/{name}");
        trials.push(Trial::test(name, move || sizes(&expected)));
    }
    trials
}

fn resize(case: &Case) -> Result<(), Failed> {
    let size = Size { height: case.number("height"), width: case.number("width") };
    let to = Resample::whole(size, case.resize_filter("filter"));
    let input = case.image("input");
    check(case, "resizes.png", &input, input.size.whole(), &to)
}

/// The picture that timm's crop gives, by the sizes and places that it drew.
fn crop(case: &Case) -> Result<(), Failed> {
    let [height, width] = case.numbers("resized");
    let to = Resample {
        window: rect(case.numbers("window")),
        padding: padding(case),
        ..Resample::whole(Size { height, width }, case.resize_filter("filter"))
    };
    check(case, "crops.png", &case.image("input"), rect(case.numbers("source")), &to)
}

/// Resizes all of the source, and from the part of it that is needed.
fn check(
    case: &Case,
    sheet: &str,
    input: &Image,
    source: Rect,
    to: &Resample,
) -> Result<(), Failed> {
    let expected = case.part_of(sheet, to.out());
    let view = View::new(&input.pixels, input.size).crop(source);
    for simd in Simd::all() {
        let mut slot = vec![0; to.out().rgb_bytes()];
        let mut resizer = Resizer::new(simd);
        resizer.resize(view, to, &mut slot);
        case::same(simd, &expected, &slot)?;
        let rect = to.needs(source.size());
        let part = Part { pixels: view.crop(rect), rect, whole: source.size() };
        slot.fill(0);
        resizer.resize_part(part, to, &mut slot);
        case::same(simd, &expected, &slot)?;
    }
    Ok(())
}

/// Where crops without draws take a picture from, and where they put it.
fn place(case: &Case) -> Result<(), Failed> {
    let image = Size { height: case.number("height"), width: case.number("width") };
    let (resize, trim) = (case.number("resize"), 0);
    let crop = match case.text("crop") {
        "center" => Crop::Center { resize, trim },
        "squash" => Crop::Squash { resize, trim },
        _ => Crop::Border { resize, trim },
    };
    let mut recipe = eval();
    (recipe.crop, recipe.image_size) = (crop, case.number("side"));
    let plan = plan::sample(&recipe, 0, 0, 0, image);
    let [height, width] = case.numbers("resized");
    let found = (plan.source, plan.resized, plan.window, plan.padding);
    let expected =
        (image.whole(), Size { height, width }, rect(case.numbers("window")), padding(case));
    if found == expected {
        return Ok(());
    }
    Err(format!("{found:?}, expected {expected:?}").into())
}

fn eval() -> Recipe {
    RecipeSpec::preset("eval").resolve().expect("a preset")
}

fn rect([top, left, height, width]: [u32; 4]) -> Rect {
    Rect { top, left, height, width }
}

fn padding(case: &Case) -> Option<Padding> {
    let [top, left, bottom, right] = case.numbers("padding");
    let mode = if case.text("mode") == "reflect" { PadMode::Reflect } else { PadMode::Fill(FILL) };
    (top + left + bottom + right > 0).then_some(Padding { top, left, bottom, right, mode })
}

/// The distributions of the sizes and the places of `rkrr`.
fn sizes(expected: &Value) -> Result<(), Failed> {
    let number = |name: &str| {
        u32::try_from(expected[name].as_u64().expect("a number")).expect("a number of 32 bits")
    };
    let image = Size { height: number("height"), width: number("width") };
    let pair = |name: &str| [0, 1].map(|index| expected[name][index].as_f64().expect("a number"));
    let mut recipe = RecipeSpec::preset("a2").resolve().expect("a preset");
    recipe.crop = Crop::KeepRatioRandom { scale: pair("scale"), ratio: pair("ratio") };
    let drawn: Vec<_> = (0..20_000).map(|p| plan::sample(&recipe, 1, 0, p, image)).collect();
    let of = |value: fn(&plan::SamplePlan) -> f64| drawn.iter().map(value).collect::<Vec<_>>();
    // timm's place of a picture that is too small is negative.
    let values = [
        ("resized_height", of(|plan| plan.resized.height.into())),
        ("resized_width", of(|plan| plan.resized.width.into())),
        ("area", of(|plan| f64::from(plan.resized.height) * f64::from(plan.resized.width))),
        (
            "top",
            of(|plan| f64::from(plan.window.top) - plan.padding.map_or(0.0, |p| f64::from(p.top))),
        ),
        (
            "left",
            of(|plan| {
                f64::from(plan.window.left) - plan.padding.map_or(0.0, |p| f64::from(p.left))
            }),
        ),
    ];
    values.into_iter().try_for_each(|(name, values)| stats::summary(name, values, &expected[name]))
}
