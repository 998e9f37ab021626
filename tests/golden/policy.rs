//! Suite 14: operations of timm's other policies and of torchvision's, their arguments at each magnitude, and what
//! is drawn of each.

use std::collections::BTreeMap;
use std::path::Path;

use forebay::plan;
use forebay::recipe::{AutoAugment, RecipeSpec, TorchPolicy, Torchvision};
use forebay::testing::{Augmenter, Drawn, Hparams, Space, TimmOp, TorchOp};
use forebay::{Interpolation, Library, Mixture, Op, Simd, Size};
use forebay_tests::json;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::case::{self, Case, Image};
use crate::randaug::FILL;
use crate::stats::{fraction, frequency, summary};

/// Draws of each policy.
const DRAWS: u64 = 50_000;

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let Some(cases) = case::read(folder, "14_policy") else { return Vec::new() };
    let mut trials = case::trials_named(folder, "14_policy", &cases["cases"], operation, |case| {
        format!("{}/{}", case.text("output").trim_end_matches(".png"), case.number("index"))
    });
    let levels = json(&folder.join("14_policy/levels.json"));
    for op in TimmOp::ALL {
        if levels["ops"][op.name()].is_object() {
            let (name, levels) = (format!("14_policy/levels/{}", op.name()), levels.clone());
            trials.push(Trial::test(name, move || arguments(op, &levels)));
        }
    }
    for (name, table) in levels["torchvision"].as_object().expect("spaces").clone() {
        let trial = format!("14_policy/levels/torchvision-{name}");
        trials.push(Trial::test(trial, move || magnitudes(&name, &table)));
    }
    trials.extend(case::trials_named(folder, "14_policy", &cases["mixtures"], mixture, |case| {
        format!("{}/{}", case.text("output").trim_end_matches(".png"), case.number("index"))
    }));
    let mixtures = json(&folder.join("14_policy/mixtures.json"));
    for (policy, case) in mixtures.as_object().expect("policies").clone() {
        let name = format!("14_policy/draws/{policy}");
        trials.push(Trial::test(name, move || mixture_draws(&policy, &case)));
    }
    let stats = json(&folder.join("14_policy/stats.json"));
    for (policy, case) in stats.as_object().expect("policies").clone() {
        let name = format!("14_policy/draws/{policy}");
        trials.push(Trial::test(name, move || draws(&policy, &case)));
    }
    trials
}

/// Input and output of a case. Outputs of an input are in one image, one below the other.
fn images(case: &Case) -> [Image; 2] {
    let (input, outputs) = (case.image("input"), case.image("output"));
    let bytes = input.size.rgb_bytes();
    let pixels = outputs.pixels[case.number("index") as usize * bytes..][..bytes].to_vec();
    let output = Image { size: input.size, pixels };
    [input, output]
}

fn mixture(case: &Case) -> Result<(), Failed> {
    let [input, output] = images(case);
    let mixture = case.mixture();
    // An augmenter is used again for other kinds of mixtures.
    for simd in Simd::all() {
        let mut slot = input.pixels.clone();
        let mut augmenter = Augmenter::new(simd);
        for _ in 0..2 {
            slot.copy_from_slice(&input.pixels);
            augmenter.mix(&mixture, &mut slot, input.size, FILL);
        }
        case::same(simd, &output, &slot)?;
    }
    Ok(())
}

fn operation(case: &Case) -> Result<(), Failed> {
    let [input, output] = images(case);
    for simd in Simd::all() {
        let mut slot = input.pixels.clone();
        let op = case.op();
        let fill = if op.library() == Library::Torchvision { [0; 3] } else { FILL };
        Augmenter::new(simd).apply(&[op], &mut slot, input.size, fill);
        case::same(simd, &output, &slot)?;
    }
    Ok(())
}

/// Compares the argument of each magnitude with timm's, for both signs.
fn arguments(op: TimmOp, levels: &Value) -> Result<(), Failed> {
    let hparam = |name: &str| levels["hparams"][name].as_f64().expect("a number");
    let hparams = Hparams {
        translate_const: hparam("translate_const"),
        translate_pct: hparam("translate_pct"),
    };
    for (sign, negative) in [("positive", false), ("negative", true)] {
        let magnitudes = levels["magnitudes"].as_array().expect("magnitudes");
        let args = levels["ops"][op.name()][sign].as_array().expect("arguments");
        for (magnitude, expected) in magnitudes.iter().zip(args) {
            let drawn = Drawn { negative, radius: 0.0, filter: Interpolation::Bicubic };
            let arg = op.at(magnitude.as_f64().expect("a number"), &hparams, &drawn).arg();
            if arg != expected.as_f64() {
                return Err(format!("magnitude {magnitude}: {arg:?}, not {expected}").into());
            }
        }
    }
    Ok(())
}

/// Compares the magnitudes of a policy of torchvision with `torch.linspace`.
fn magnitudes(name: &str, table: &Value) -> Result<(), Failed> {
    let whole = |field: &str| u32::try_from(table[field].as_u64().expect("a number"));
    let (bins, side) = (whole("bins")?, whole("side")?);
    let space = if name.starts_with("wide") { Space::Wide } else { Space::Narrow(bins) };
    for (op, values) in table["ops"].as_object().expect("operations") {
        let kind = TorchOp::named(op);
        let kind = kind.ok_or_else(|| format!("no operation {op}"))?;
        for index in 0..bins {
            let (ours, value) =
                (kind.magnitude(space, index, side), values[index as usize].as_f64());
            if ours != value {
                return Err(format!("{op} {index}: {ours:?}, not {value:?}").into());
            }
        }
    }
    Ok(())
}

/// Compares how often operations are applied, alone and after each other, and their arguments.
fn draws(policy: &str, case: &Value) -> Result<(), Failed> {
    let recipe = RecipeSpec::preset("a2").with_changes([format!("auto_augment = {policy:?}")]);
    let recipe = recipe.resolve()?;
    let image = Size { height: 375, width: 500 };
    let drawn: Vec<Vec<Op>> =
        (0..DRAWS).map(|p| plan::sample(&recipe, 2, 0, p, image).ops).collect();
    let (m, n) = (DRAWS as f64, case["draws"].as_f64().expect("draws"));
    let number = |value: &Value| value.as_f64().expect("a number");
    for (count, expected) in case["applied"].as_object().expect("counts") {
        let ours = fraction(&drawn, |ops| ops.len().to_string() == *count);
        frequency(&format!("{count} applied"), ours, m, number(expected), n)?;
    }
    let mut pairs: BTreeMap<String, f64> =
        case["pairs"].as_object().expect("pairs").keys().map(|key| (key.clone(), 0.0)).collect();
    for pair in drawn.iter().flat_map(|ops| ops.windows(2)) {
        *pairs.entry(format!("{}+{}", pair[0].name(), pair[1].name())).or_default() += 1.0;
    }
    for (pair, count) in pairs {
        let expected = case["pairs"][&pair].as_f64().unwrap_or(0.0);
        frequency(&pair, count / m, m, expected, n)?;
    }
    let mut args: BTreeMap<&str, Vec<Option<f64>>> = BTreeMap::new();
    for op in drawn.iter().flatten() {
        args.entry(op.name()).or_default().push(op.arg());
    }
    let ops = case["ops"].as_object().expect("operations");
    if !args.keys().copied().eq(ops.keys().map(String::as_str)) {
        return Err(format!("{:?} are drawn, not {:?}", args.keys(), ops.keys()).into());
    }
    for (name, args) in args {
        let reference = &ops[name];
        // An operation can be applied several times to a sample, at most once per draw of one.
        let draws = recipe.auto_augment.as_ref().map_or(1.0, per_sample);
        let ours = args.len() as f64 / m / draws;
        let expected = number(&reference["per_sample"]) / draws;
        frequency(&format!("{name} applied"), ours, m * draws, expected, n * draws)?;
        let args: Vec<f64> = args.into_iter().flatten().collect();
        if args.is_empty() != reference["arg"].is_null() {
            return Err(format!("{name} has {} arguments", args.len()).into());
        }
        if !args.is_empty() {
            let of = number(&reference["arg"]["n"]);
            let positive = fraction(&args, |&arg| arg > 0.0);
            let what = format!("{name} positive");
            frequency(&what, positive, args.len() as f64, number(&reference["positive"]), of)?;
            summary(name, args, &reference["arg"])?;
        }
    }
    Ok(())
}

/// Compares the weights, depths and operations of mixtures.
fn mixture_draws(policy: &str, case: &Value) -> Result<(), Failed> {
    let recipe = RecipeSpec::preset("a2").with_changes([format!("auto_augment = {policy:?}")]);
    let recipe = recipe.resolve()?;
    let image = Size { height: 375, width: 500 };
    let mixtures: Vec<Mixture> =
        (0..DRAWS / 4).filter_map(|p| plan::sample(&recipe, 2, 0, p, image).mixture).collect();
    let of = |value: fn(&Mixture) -> f32| mixtures.iter().map(|m| f64::from(value(m))).collect();
    let statistics: [(&str, Vec<f64>); 3] = [
        ("weight", of(|mixture| mixture.weight)),
        ("first", of(|mixture| mixture.chains[0].weight)),
        ("largest", of(|m| m.chains.iter().map(|chain| chain.weight).fold(0.0, f32::max))),
    ];
    for (name, values) in statistics {
        summary(name, values, &case["mixture"][name])?;
    }
    let chains: Vec<_> = mixtures.iter().flat_map(|mixture| &mixture.chains).collect();
    let depths = chains.iter().map(|chain| chain.ops.len() as f64).collect();
    summary("depth", depths, &case["mixture"]["depth"])?;
    let ops: Vec<&Op> = chains.iter().flat_map(|chain| &chain.ops).collect();
    for (name, reference) in case["ops"].as_object().expect("operations") {
        let number = |field: &str| reference[field].as_f64().expect("a number");
        let share = fraction(&ops, |op| op.name() == name);
        frequency(name, share, ops.len() as f64, number("share"), number("n"))?;
        if reference["arg"].is_object() {
            let args =
                ops.iter().filter(|op| op.name() == name).filter_map(|op| op.arg()).collect();
            summary(name, args, &reference["arg"])?;
        }
    }
    Ok(())
}

/// Draws of operations per sample.
fn per_sample(policy: &AutoAugment) -> f64 {
    match policy {
        AutoAugment::Rand(rand) => f64::from(rand.ops),
        AutoAugment::Auto { .. } => 2.0,
        AutoAugment::AugMix(_) => 1.0,
        AutoAugment::Torchvision(Torchvision { policy, .. }) => match policy {
            TorchPolicy::TrivialWide => 1.0,
            TorchPolicy::Rand { ops, .. } => f64::from(*ops),
            TorchPolicy::Imagenet | TorchPolicy::Cifar10 | TorchPolicy::Svhn => 2.0,
        },
    }
}
