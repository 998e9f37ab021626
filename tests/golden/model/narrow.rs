//! Narrow ResNets, whose weights, inputs and results the golden set has in full.

use std::path::Path;

use forebay_trainer::DropPath;
use forebay_trainer::Lamb;
use forebay_trainer::{Architecture, Block, Graph, Stem};
use libtest_mimic::Failed;
use serde_json::Value;

use super::case::{Case, Limits, batch, images, numbers};
use crate::arrays::{Arrays, distance, relative, within};
use crate::net::On;

/// A compared quantity, its error and the allowed error.
type Finding = (String, f64, f64);

fn open(folder: &Path, model: &str, on: On) -> (Case, Value, Arrays) {
    let case = forebay_tests::json(&folder.join("models.json"))["models"][model].take();
    let golden = Arrays::read(&folder.join(format!("{model}.golden.safetensors")));
    let weights = Arrays::read(&folder.join(format!("{model}.weights.safetensors")));
    let net = Architecture {
        stem: Stem::ImageNet,
        block: if case["block"] == "BasicBlock" { Block::Basic } else { Block::Bottleneck },
        layers: numbers(&case["layers"]),
        channels: numbers(&case["channels"]),
        classes: 10,
    };
    let (samples, side) = (
        numbers(&serde_json::json!([case["batch"], case["hw"]]))[0],
        numbers(&serde_json::json!([case["hw"]]))[0],
    );
    let named = weights.names().into_iter().filter(|name| !name.ends_with("num_batches_tracked"));
    let model = named.map(|name| (name.clone(), weights.array(&name))).collect();
    let target = golden.get("target");
    let batch = batch(images(&golden.array("input")), samples, side);
    let graph = Graph::new(&net, side, side);
    let limits = Limits::of(on);
    let net = on.open(graph, samples, model);
    (Case { on, net, batch, target, limits }, case, golden)
}

pub(super) fn run(folder: &Path, model: &str, on: On, part: &str) -> Result<(), Failed> {
    let found = findings(folder, model, on, part);
    if !on.rounds() {
        for (what, error, limit) in found {
            within(&what, error, limit)?;
        }
        return Ok(());
    }
    // The error that storing each result in bf16 causes depends on the network. The CPU computes in f64 with the
    // same rounding, and its error is the reference. Where a sum rounds the other way, a `ReLU` may flip, which
    // changes small gradients by much and the mean over all of them by little.
    let rounded = findings(folder, model, On::Rounded, part);
    // Trajectories diverge as they do in f32, and as torch's do: see the golden set's README.
    for ((what, error, limit), (_, expected, _)) in found.iter().zip(&rounded) {
        within(what, *error, 4.0 * expected + limit.max(1.0 / 256.0))?;
    }
    let mean = |found: &[Finding]| found.iter().map(|f| f.1).sum::<f64>() / found.len() as f64;
    let largest = found.iter().fold(1.0 / 256.0, |max: f64, f| max.max(f.2));
    within("all together", mean(&found), 1.5 * mean(&rounded) + largest)?;
    Ok(())
}

fn findings(folder: &Path, model: &str, on: On, part: &str) -> Vec<Finding> {
    let dtype = on.dtype();
    let (mut case, about, golden) = open(folder, model, on);
    let limits = case.limits;
    match part {
        "forward" => forward(&mut case, &golden, dtype),
        "gradients" => {
            let (_, loss) = case.train(None);
            let wanted = about[format!("{dtype}_loss_train")].as_f64().unwrap();
            let mut found = vec![("loss".to_owned(), (loss - wanted).abs() / wanted, limits.train)];
            found.extend(gradients(&case, &golden, &format!("{dtype}.grad."), false));
            found
        }
        "steps" => steps(&mut case, &about, &golden, dtype),
        _ => {
            let drops = masks(&case, &about["droppath"]);
            let (logits, loss) = case.train(Some(&drops));
            let golden_logits = golden.get(&format!("{dtype}.droppath.logits_train"));
            let wanted = about[format!("{dtype}_droppath_loss")].as_f64().unwrap();
            let mut found = vec![
                ("logits".to_owned(), relative(&logits, &golden_logits), limits.train),
                ("loss".to_owned(), (loss - wanted).abs() / wanted, limits.train),
            ];
            found.extend(gradients(&case, &golden, &format!("{dtype}.droppath.grad."), true));
            found
        }
    }
}

fn forward(case: &mut Case, golden: &Arrays, dtype: &str) -> Vec<Finding> {
    let Limits { eval, train, .. } = case.limits;
    let mut found = Vec::new();
    for (kind, training, limit) in [("eval", false, eval), ("train", true, train)] {
        let wanted = golden.get(&format!("{dtype}.logits_{kind}"));
        let error = relative(&case.logits(training, None), &wanted);
        found.push((format!("logits, {kind}"), error, limit));
    }
    let norms: Vec<String> = case.graph().norms.iter().map(|n| n.name.clone()).collect();
    for (i, name) in norms.iter().enumerate() {
        let running = case.net.running(i);
        let (mean, variance) = running.split_at(running.len() / 2);
        for (kind, numbers) in [("running_mean", mean), ("running_var", variance)] {
            let wanted = golden.get(&format!("{dtype}.after_1_train_forward.{name}.{kind}"));
            found.push((format!("{name}.{kind}"), relative(numbers, &wanted), train));
        }
    }
    found
}

/// Compares every gradient of the file. r18n has none in f32, so that its f64 gradients are used.
fn gradients(case: &Case, golden: &Arrays, prefix: &str, some: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    for (i, parameter) in case.graph().parameters.iter().enumerate() {
        let own = format!("{prefix}{}", parameter.name);
        let double = own.replacen("f32.", "f64.", 1);
        let Some(name) = [own, double].into_iter().find(|name| golden.has(name)) else {
            assert!(some, "no gradient of {} in the golden file", parameter.name);
            continue;
        };
        let error = distance(&case.net.gradient(i), &golden.get(&name));
        found.push((parameter.name.clone(), error, case.limits.gradients));
    }
    assert!(!found.is_empty(), "no gradients under {prefix}");
    found
}

fn steps(case: &mut Case, about: &Value, golden: &Arrays, dtype: &str) -> Vec<Finding> {
    let lamb =
        Lamb { weight_decay: about["lamb"]["weight_decay"].as_f64().unwrap(), ..Lamb::default() };
    let rate = about["lamb"]["lr"].as_f64().unwrap();
    let wanted = about[format!("{dtype}_losses_5_lamb_steps_then_after")].as_array().unwrap();
    let mut found = Vec::new();
    for (step, wanted) in wanted.iter().map(|w| w.as_f64().unwrap()).enumerate() {
        if step > 0 {
            case.net.update(&lamb.into(), rate);
        }
        let (_, loss) = case.train(None);
        let what = format!("loss after {step} steps");
        found.push((what, (loss - wanted).abs() / wanted, case.limits.steps));
    }
    for (i, parameter) in
        case.graph().parameters.iter().enumerate().filter(|_| case.on == On::Double)
    {
        let wanted = golden.get(&format!("f64.after_5_lamb.{}", parameter.name));
        found.push((parameter.name.clone(), relative(&case.net.parameter(i), &wanted), 1e-6));
    }
    found
}

fn masks(case: &Case, about: &Value) -> DropPath {
    let graph = case.graph();
    let mut drops = DropPath::new(about["rate"].as_f64().unwrap(), graph.blocks, case.samples());
    let mut names: Vec<String> = graph
        .parameters
        .iter()
        .filter_map(|p| p.name.strip_suffix(".conv1.weight").map(str::to_owned))
        .collect();
    names.dedup();
    for (block, name) in names.iter().enumerate().skip(1) {
        let kept = about["masks"][name]["keep"].as_array().unwrap();
        drops.set(block, &kept.iter().map(|k| k.as_f64().unwrap() > 0.0).collect::<Vec<bool>>());
    }
    drops
}
