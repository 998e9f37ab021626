//! Suite 16: torchvision's color operations, one by one and in chains.

use std::path::Path;

use forebay::recipe::RecipeSpec;
use forebay::testing::Augmenter;
use forebay::{ColorOp, Simd, Size, plan};
use forebay_tests::sha256;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::case::{self, Case};
use crate::stats;

/// Draws for each statistic.
const DRAWS: u64 = 20_000;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let Some(cases) = case::read(folder, "16_colors") else { return Vec::new() };
    let mut trials = case::numbered(folder, "16_colors", &cases, "cases", operations);
    for case in cases["hue_of_every_color"].as_array().expect("digests") {
        let case = case.clone();
        let name = format!("16_colors/hue_of_every_color/{}", case["arg"]);
        trials.push(Trial::test(name, move || hue_of_every_color(&case)));
    }
    let random = cases["random"].clone();
    trials.push(Trial::test("16_colors/random", move || draws(&random)));
    trials
}

fn operations(case: &Case) -> Result<(), Failed> {
    let input = case.image("input");
    let ops: Vec<ColorOp> = case.list("ops").iter().map(op).collect();
    let expected = case.part_of("out.png", input.size);
    for simd in Simd::all() {
        let mut slot = input.pixels.clone();
        Augmenter::new(simd).apply_color(&ops, &mut slot, input.size);
        case::same(simd, &expected, &slot)?;
    }
    Ok(())
}

fn op(fields: &Value) -> ColorOp {
    ColorOp::from_arg(fields["op"].as_str().expect("a name"), fields["arg"].as_f64())
        .unwrap_or_else(|| panic!("invalid operation: {fields}"))
}

/// The digest of all colors after a change of their hue, in the order of red, green, blue.
fn hue_of_every_color(case: &Value) -> Result<(), Failed> {
    let hue = ColorOp::Hue(case["arg"].as_f64().expect("a part of the circle"));
    let color = |index: u32| {
        let [_, red, green, blue] = index.to_be_bytes();
        [red, green, blue]
    };
    let mut every: Vec<u8> = (0..1 << 24).flat_map(color).collect();
    Augmenter::new(Simd::detect()).apply_color(&[hue], &mut every, Size::square(4096));
    let found = sha256(&every);
    if case["sha256"] == found {
        return Ok(());
    }
    Err(format!("SHA-256 {found}, expected {}", case["sha256"]).into())
}

/// The distributions of `ColorJitter`'s factors and order, and of the deviation of a blur.
fn draws(expected: &Value) -> Result<(), Failed> {
    let mut recipe = RecipeSpec::preset("a2").resolve()?;
    recipe.color.jitter = serde_json::from_value(expected["jitter"].clone()).expect("four numbers");
    (recipe.color.probability, recipe.color.grayscale, recipe.color.blur) = (0.8, 0.2, 0.3);
    let drawn: Vec<Vec<ColorOp>> =
        (0..DRAWS).map(|p| plan::sample(&recipe, 1, 0, p, Size::square(300)).color).collect();
    let values = |name: &str| -> Vec<f64> {
        drawn.iter().flatten().filter(|op| op.name() == name).filter_map(ColorOp::arg).collect()
    };
    let names = ["adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue"];
    for (name, field) in names.iter().zip(["brightness", "contrast", "saturation", "hue"]) {
        stats::summary(name, values(name), &expected[field])?;
        probability(name, values(name).len(), 0.8)?;
    }
    let sigmas = values("gaussian_blur");
    probability("blur", sigmas.len(), 0.3)?;
    stats::summary("gaussian_blur", sigmas, &expected["sigma"])?;
    let count = |is: &dyn Fn(&Vec<ColorOp>) -> bool| drawn.iter().filter(|ops| is(ops)).count();
    probability("gray", count(&|ops| ops.contains(&ColorOp::Grayscale)), 0.2)?;
    for (index, name) in names.iter().enumerate() {
        // A quarter of the jitters begins with each operation, and a quarter ends with it.
        for (place, at) in [("first", 0), ("last", 3)] {
            let found = count(&|ops| ops.get(at).is_some_and(|op| op.name() == *name));
            probability(name, found, 0.8 * expected[place][index].as_f64().expect("a part"))?;
        }
    }
    Ok(())
}

/// Compares a number of draws with a probability.
fn probability(what: &str, count: usize, expected: f64) -> Result<(), Failed> {
    let draws = DRAWS as f64;
    stats::frequency(what, count as f64 / draws, draws, expected, draws)
}
