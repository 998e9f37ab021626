//! Suite 15: timm's variants of the `ResNet`: deep stem and average pools, grouped convolutions, squeeze-and-excitation,
//! wide bottlenecks.

use std::path::Path;

use forebay_trainer::{Architecture, Block, DropPath, FineTuning, Graph, ParamKind, Stem};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use super::case::{Case, Limits, batch, images, numbers};
use crate::arrays::{Arrays, distance, relative, within};
use crate::net::On;

pub(super) fn trials(folder: &Path) -> Vec<Trial> {
    let folder = folder.join("15_models");
    if !folder.is_dir() {
        return Vec::new();
    }
    let mut trials = Vec::new();
    let cases = forebay_tests::json(&folder.join("cases.json"))["narrow"].take();
    for (model, case) in cases.as_object().unwrap().clone() {
        for on in On::all().into_iter().filter(|on| !on.rounds() && on.computes(&model)) {
            let (model, case, folder) = (model.clone(), case.clone(), folder.clone());
            let name = on.name(&format!("15_models/{model}_NUMBER"));
            trials.push(Trial::test(name, move || narrow(&folder, &model, &case, on)));
        }
    }
    let full = forebay_tests::json(&folder.join("full.json"));
    for (model, count) in full["counts"].as_object().unwrap().clone() {
        let parameters = full["parameters"][&model].clone();
        let (decay, name) = (full["layer_decay"].as_f64(), format!("15_models/{model}_parameters"));
        trials.push(Trial::test(name, move || named(&model, &count, &parameters, decay)));
    }
    trials
}

fn architecture(case: &Value) -> Architecture {
    let number = |name: &str| case[name].as_u64().map(|n| usize::try_from(n).unwrap());
    let block = if case["block"] == "BasicBlock" { Block::Basic } else { Block::Bottleneck };
    let stem = number("stem_width").map_or(Stem::ImageNet, Stem::Deep);
    let (layers, channels) = (numbers(&case["layers"]), numbers(&case["channels"]));
    let plain = Architecture::new(stem, block, layers, channels, number("classes").unwrap());
    Architecture {
        groups: number("cardinality").unwrap_or(plain.groups),
        base_width: number("base_width").unwrap_or(plain.base_width),
        average_down: case["avg_down"] == true,
        squeeze_excite: case["block_args"]["attn_layer"] == "se",
        ..plain
    }
}

fn narrow(folder: &Path, model: &str, about: &Value, on: On) -> Result<(), Failed> {
    let golden = Arrays::read(&folder.join(format!("{model}.safetensors")));
    let samples = usize::try_from(about["batch"].as_u64().unwrap())?;
    let side = usize::try_from(about["side"].as_u64().unwrap())?;
    let graph = Graph::new(&architecture(about), side, side);
    let names = golden.names().into_iter();
    let weights = names.filter_map(|name| Some(name.strip_prefix("weights.")?.to_owned()));
    let weights = weights.map(|name| (name.clone(), golden.array(&format!("weights.{name}"))));
    let mut drops = DropPath::new(about["drop_path"].as_f64().unwrap(), graph.blocks, samples);
    for (block, kept) in about["kept"].as_object().unwrap().values().enumerate() {
        let kept: Vec<bool> = kept.as_array().unwrap().iter().map(|kept| *kept == true).collect();
        drops.set(block, &kept);
    }
    let mut case = Case {
        on,
        net: on.open(graph, samples, weights.collect()),
        batch: batch(images(&golden.array("input")), samples, side),
        target: golden.get("target"),
        limits: Limits::of(on),
    };
    let limits = case.limits;
    let logits = case.logits(false, None);
    within("logits, eval", relative(&logits, &golden.get("logits_eval")), limits.eval)?;
    let (logits, loss) = case.train(Some(&drops));
    within("logits, train", relative(&logits, &golden.get("logits_train")), limits.train)?;
    let wanted = golden.get("loss")[0];
    within("loss", (loss - wanted).abs() / wanted, limits.train)?;
    for (i, parameter) in case.graph().parameters.iter().enumerate() {
        let wanted = golden.get(&format!("grad.{}", parameter.name));
        let error = distance(&case.net.gradient(i), &wanted);
        within(&format!("gradient of {}", parameter.name), error, limits.gradients)?;
    }
    for (i, norm) in case.graph().norms.iter().enumerate() {
        let running = case.net.running(i);
        let (mean, variance) = running.split_at(running.len() / 2);
        for (kind, numbers) in [("running_mean", mean), ("running_var", variance)] {
            let wanted = golden.get(&format!("after.{}.{kind}", norm.name));
            within(&format!("{}.{kind}", norm.name), relative(numbers, &wanted), limits.train)?;
        }
    }
    Ok(())
}

/// Compares names, order, shapes, weight decay, zero initialization and layer-wise learning rates with timm's, or the
/// number of weights where the file has no more.
fn named(
    model: &str,
    count: &Value,
    parameters: &Value,
    layer_decay: Option<f64>,
) -> Result<(), Failed> {
    let mut graph = Graph::new(&Architecture::named(model, 1000)?, 64, 64);
    FineTuning { layer_decay, ..FineTuning::default() }.apply(&mut graph)?;
    let weights: usize = graph.parameters.iter().map(|p| p.shape.iter().product::<usize>()).sum();
    assert_eq!(Some(weights as u64), count.as_u64());
    let Some(parameters) = parameters.as_object() else { return Ok(()) };
    assert_eq!(graph.parameters.len(), parameters.len());
    for (ours, (name, theirs)) in graph.parameters.iter().zip(parameters) {
        assert_eq!((&ours.name, &ours.shape), (name, &numbers(&theirs[0])));
        assert_eq!(ours.kind.decays(), theirs[2].as_f64() != Some(0.0), "{name}");
        let scale = theirs[1].as_f64().unwrap();
        assert!((ours.lr_scale - scale).abs() < 1e-15, "{name}: {} {scale}", ours.lr_scale);
        let is_zero = matches!(ours.kind, ParamKind::Gamma(true) | ParamKind::Beta);
        assert_eq!(Some(is_zero), theirs[3].as_bool(), "{name}");
    }
    Ok(())
}
