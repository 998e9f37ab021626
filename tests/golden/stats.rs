//! Suite 06: the distributions of random draws, compared with timm's: quantiles (a Kolmogorov-Smirnov test at
//! each), means and frequencies, all within five standard errors of the two runs.

use std::path::Path;

use forebay::plan::{self, MixKind};
use forebay::recipe::{Recipe, RecipeSpec};
use forebay::testing::TimmOp;
use forebay::{MicrobatchName, Op, Size};
use forebay_tests::json;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

/// Draws for each statistic.
const DRAWS: u64 = 200_000;
/// Allowed deviation in standard errors.
const SIGMAS: f64 = 5.0;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let suite = folder.join("06_stats");
    if !suite.is_dir() {
        return Vec::new();
    }
    let mut trials = Vec::new();
    let mut add = |name: String, check: Box<dyn FnOnce() -> Result<(), Failed> + Send>| {
        trials.push(Trial::test(format!("06_stats/{name}"), check));
    };
    let each = |file: &str| json(&suite.join(file)).as_object().expect("an object").clone();
    for (key, case) in each("rrc.json") {
        add(format!("random_resized_crop_{key}"), Box::new(move || crop(&case)));
    }
    for (key, case) in each("randaug.json") {
        add(key.clone(), Box::new(move || rand_augment(&key, &case)));
    }
    let mix = each("mix.json");
    for (key, recipe) in [("A1", "a1"), ("A2", "a2"), ("A3", "a3")] {
        if let Some(case) = mix.get(key).cloned() {
            add(format!("mix_{recipe}"), Box::new(move || mix_draws(recipe, &case)));
        }
    }
    for (alpha, case) in mix["beta"].as_object().expect("alphas").clone() {
        add(format!("beta_{alpha}"), Box::new(move || beta(&alpha, &case["summary"])));
    }
    for (side, case) in mix["cutmix"].as_object().expect("sides").clone() {
        let reference = case["corrected_lam_timm_1_0_31"].clone();
        add(format!("cutmix_lambda_{side}"), Box::new(move || cutmix(&side, &reference)));
    }
    let other = each("other.json");
    let flip = other["hflip"]["p"].as_f64().expect("a probability");
    add("flip".into(), Box::new(move || flips(flip)));
    let bilinear = other["ra_interpolation"]["p_bilinear"].as_f64().expect("a probability");
    add("random_interpolation".into(), Box::new(move || filters(bilinear)));
    trials
}

fn recipe(base: &str, set: &[&str]) -> Recipe {
    let set = set.iter().map(|&change| change.to_owned());
    RecipeSpec::preset(base).with_changes(set).resolve().expect("a recipe")
}

/// Compares our values with timm's summary `{n, mean, stderr_mean, quantiles}`.
pub(crate) fn summary(what: &str, mut ours: Vec<f64>, reference: &Value) -> Result<(), Failed> {
    let (m, n) = (ours.len() as f64, reference["n"].as_f64().expect("n"));
    ours.sort_by(f64::total_cmp);
    let mean = ours.iter().sum::<f64>() / m;
    let variance = ours.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / m;
    let stderr = reference["stderr_mean"].as_f64().expect("stderr_mean");
    let off = (mean - reference["mean"].as_f64().expect("mean")).abs();
    let bound = SIGMAS * (variance / m + stderr.powi(2)).sqrt() + 1e-12;
    if off > bound {
        return Err(format!("{what}: mean {mean} is {off} off, {bound} allowed").into());
    }
    for (q, value) in reference["quantiles"].as_object().expect("quantiles") {
        let (q, value): (f64, f64) = (q.parse()?, value.as_f64().expect("a number"));
        if q <= 0.0 || q >= 1.0 {
            continue;
        }
        // A quantile of a discrete value covers a range of q. The slack is for the decimal form of doubles.
        let slack = value.abs() * 1e-12;
        let below = ours.partition_point(|&v| v < value - slack) as f64 / m;
        let up_to = ours.partition_point(|&v| v <= value + slack) as f64 / m;
        let allowed = SIGMAS * (q * (1.0 - q) * (1.0 / m + 1.0 / n)).sqrt() + 1.0 / n + 1.0 / m;
        if below > q + allowed || up_to < q - allowed {
            return Err(format!("{what}: quantile {q} is {value}, ours {below}..{up_to}").into());
        }
    }
    Ok(())
}

/// Compares our frequency with timm's.
pub(crate) fn frequency(
    what: &str,
    ours: f64,
    m: f64,
    reference: f64,
    n: f64,
) -> Result<(), Failed> {
    let p = (ours * m + reference * n) / (m + n);
    let allowed = SIGMAS * (p * (1.0 - p) * (1.0 / m + 1.0 / n)).sqrt() + 1.0 / n + 1.0 / m;
    if (ours - reference).abs() > allowed {
        return Err(format!("{what}: {reference}, ours {ours}, {allowed} allowed").into());
    }
    Ok(())
}

pub(crate) fn fraction<T>(values: &[T], is: impl Fn(&T) -> bool) -> f64 {
    values.iter().filter(|value| is(value)).count() as f64 / values.len() as f64
}

/// A statistic of a crop box.
type Measure = Box<dyn Fn(&forebay::Rect) -> f64>;

fn crop(case: &Value) -> Result<(), Failed> {
    let side = |key: &str| u32::try_from(case[key].as_u64().expect("pixels")).expect("small");
    let image = Size { height: side("height"), width: side("width") };
    let recipe = recipe("a2", &[]);
    let boxes: Vec<_> = (0..DRAWS).map(|p| plan::sample(&recipe, 1, 0, p, image).source).collect();
    let fallback = &case["fallback_box_i_j_h_w"];
    let is_fallback = |b: &forebay::Rect| {
        [b.top, b.left, b.height, b.width]
            .iter()
            .enumerate()
            .all(|(i, &v)| fallback[i].as_u64() == Some(u64::from(v)))
    };
    // The box of the fallback may also be drawn by chance, which is rare for large images.
    let expected = case["fallback_fraction"].as_f64().expect("a fraction");
    let draws = case["draws"].as_f64().expect("draws");
    if expected > 0.5 {
        frequency("fallback", fraction(&boxes, is_fallback), DRAWS as f64, expected, draws)?;
    }
    let (h, w) = (f64::from(image.height), f64::from(image.width));
    let free = |start: u32, of: f64, part: u32| f64::from(start) / (of - f64::from(part)).max(1.0);
    let measures: [(&str, Measure); 8] = [
        ("area_fraction", Box::new(move |b| f64::from(b.height) * f64::from(b.width) / (h * w))),
        ("log_aspect_w_over_h", Box::new(|b| (f64::from(b.width) / f64::from(b.height)).ln())),
        ("i", Box::new(|b| f64::from(b.top))),
        ("j", Box::new(|b| f64::from(b.left))),
        ("h", Box::new(|b| f64::from(b.height))),
        ("w", Box::new(|b| f64::from(b.width))),
        ("i_over_free", Box::new(move |b| free(b.top, h, b.height))),
        ("j_over_free", Box::new(move |b| free(b.left, w, b.width))),
    ];
    for (name, measure) in measures {
        let ours: Vec<f64> = boxes.iter().map(measure).collect();
        summary(name, ours, &case[name])?;
    }
    Ok(())
}

fn rand_augment(name: &str, case: &Value) -> Result<(), Failed> {
    // rand-mM-mstdS-inc1
    let number = |prefix: &str| {
        let part = name.split('-').find_map(|part| part.strip_prefix(prefix)).expect("a number");
        part.parse::<f64>().expect("a number")
    };
    let std = format!("randaugment.std = {:?}", number("mstd"));
    let magnitude = name.split('-').nth(1).and_then(|m| m.strip_prefix('m')).expect("a magnitude");
    let magnitude = format!("randaugment.magnitude = {magnitude}.0");
    let recipe = recipe("a2", &[&magnitude, &std]);
    let image = Size { height: 375, width: 500 };
    let drawn: Vec<Vec<Op>> =
        (0..DRAWS).map(|p| plan::sample(&recipe, 2, 0, p, image).ops).collect();
    let (m, n) = (DRAWS as f64, case["draws"].as_f64().expect("draws"));
    for (count, expected) in
        case["applied_count_distribution"].as_array().expect("three").iter().enumerate()
    {
        let ours = fraction(&drawn, |ops| ops.len() == count);
        frequency(&format!("{count} applied"), ours, m, expected.as_f64().expect("a number"), n)?;
    }
    let all: Vec<Op> = drawn.into_iter().flatten().collect();
    for name in TimmOp::INCREASING.map(TimmOp::name) {
        let picked = &case["picked_fraction_per_slot"][name];
        let applied = case["applied_given_picked"][name].as_f64().expect("a fraction");
        let expected = (picked[0].as_f64().expect("a number")
            + picked[1].as_f64().expect("a number"))
            * applied;
        let ours = all.iter().filter(|op| op.name() == name).count() as f64 / m;
        frequency(&format!("{name} applied"), ours / 2.0, 2.0 * m, expected / 2.0, 2.0 * n)?;
        let reference = &case["arg_summary"][name];
        if reference.is_object() {
            let args: Vec<f64> =
                all.iter().filter(|op| op.name() == name).filter_map(Op::arg).collect();
            let positive = reference["fraction_positive"].as_f64().expect("a fraction");
            let of = reference["summary"]["n"].as_f64().expect("n");
            let ours = fraction(&args, |&arg| arg > 0.0);
            frequency(&format!("{name} positive"), ours, args.len() as f64, positive, of)?;
            summary(name, args, &reference["summary"])?;
        }
    }
    Ok(())
}

/// Whether each plan of a single sample is CutMix, and its lambda.
fn lambdas(recipe: &Recipe, seed: u64, draws: u64) -> Vec<(bool, f64)> {
    (0..draws)
        .map(|step| {
            let name = MicrobatchName { seed, epoch: 0, step, index: 0 };
            let sample = plan::mix(recipe, name, 2).samples[0];
            (matches!(sample.kind, MixKind::Cutmix(_)), sample.lambda)
        })
        .collect()
}

fn mix_draws(name: &str, case: &Value) -> Result<(), Failed> {
    let drawn = lambdas(&recipe(name, &[]), 3, DRAWS);
    let cutmix = case["p_cutmix"].as_f64().expect("a fraction");
    frequency("CutMix", fraction(&drawn, |(cut, _)| *cut), DRAWS as f64, cutmix, 200_000.0)?;
    let mixup = drawn.iter().filter(|(cut, _)| !cut).map(|(_, lambda)| *lambda).collect();
    summary("lambda given MixUp", mixup, &case["lam_given_mixup"])
}

fn beta(alpha: &str, reference: &Value) -> Result<(), Failed> {
    let mixup = format!("mix.mixup = {alpha}");
    let recipe = recipe("a2", &[&mixup, "mix.cutmix = 0.0"]);
    let drawn = lambdas(&recipe, 4, DRAWS).into_iter().map(|(_, lambda)| lambda).collect();
    summary("Beta", drawn, reference)
}

fn cutmix(side: &str, reference: &Value) -> Result<(), Failed> {
    let size = format!("image_size = {side}");
    let recipe = recipe("a2", &[&size, "mix.mixup = 0.0"]);
    let drawn = lambdas(&recipe, 5, DRAWS).into_iter().map(|(_, lambda)| lambda).collect();
    summary("corrected lambda", drawn, reference)
}

fn flips(expected: f64) -> Result<(), Failed> {
    let recipe = recipe("a2", &[]);
    let image = Size::square(300);
    let drawn: Vec<bool> = (0..DRAWS).map(|p| plan::sample(&recipe, 6, 0, p, image).flip).collect();
    frequency("flip", fraction(&drawn, |flip| *flip), DRAWS as f64, expected, 1e9)
}

fn filters(expected: f64) -> Result<(), Failed> {
    let recipe = recipe("a2", &["interpolation = \"random\""]);
    let image = Size::square(300);
    let plans: Vec<_> = (0..DRAWS).map(|p| plan::sample(&recipe, 7, 0, p, image)).collect();
    let bilinear = |filter| filter == forebay::Interpolation::Bilinear;
    let resize = fraction(&plans, |plan| plan.filter == forebay::ResizeFilter::Bilinear);
    frequency("bilinear resize", resize, DRAWS as f64, expected, 1e9)?;
    let ops: Vec<_> =
        plans.iter().flat_map(|plan| &plan.ops).filter_map(Op::interpolation).collect();
    let share = fraction(&ops, |&filter| bilinear(filter));
    frequency("bilinear operation", share, ops.len() as f64, expected, 1e9)
}
