//! ResNets of real size, whose weights and inputs are computed from a hash.

use std::path::Path;

use forebay_trainer::Tensor;
use forebay_trainer::{Architecture, Graph, ParamKind};
use forebay_trainer::{Criterion, Loss};
use libtest_mimic::Failed;
use serde_json::Value;

use super::case::{Case, Limits, batch, images, numbers};
use crate::arrays::{Arrays, relative, within};
use crate::net::On;

/// The pseudo-random numbers of a golden set, keyed by the set's name (README of the golden set).
struct Hash {
    set: String,
}

impl Hash {
    /// Reads the set's name: the field `set` of `full.json`, or what precedes `input` in the `input_key`
    /// of a narrow model.
    fn of(folder: &Path) -> Self {
        let json = |file: &str| forebay_tests::json(&folder.join(file));
        if let Some(set) = json("full.json")["set"].as_str() {
            return Self { set: set.to_owned() };
        }
        let models = json("models.json");
        let key = models["models"]["r18n"]["input_key"].as_str().expect("r18n has an input_key");
        let (set, _) = key.split_once("/input.").expect("an input_key is SET/input.MODEL");
        Self { set: set.to_owned() }
    }

    /// `count` numbers in [-1, 1) for a name.
    fn numbers(&self, name: &str, count: usize) -> Vec<f64> {
        let key = format!("{}/{name}", self.set).bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        let number = |i: u64| {
            let mut z = key.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            f64::from(u32::try_from((z ^ (z >> 31)) >> 40).unwrap()) / 8_388_608.0 - 1.0
        };
        (0..count as u64).map(number).collect()
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the README's formula rounds to f32")]
fn weight(hash: &Hash, name: &str, shape: &[usize], last: bool) -> Tensor {
    let count: usize = shape.iter().product();
    let fan: usize = shape.iter().skip(1).product();
    let scale = match shape.len() {
        4 => (6.0 / fan as f64).sqrt() as f32,
        2 => (1.0 / fan as f64).sqrt() as f32,
        _ => 1.0,
    };
    let value = |v: f64| match () {
        () if shape.len() > 1 => v as f32 * scale,
        () if name.ends_with("running_var") => (1.0 + 0.5 * v) as f32,
        () if name.ends_with("running_mean") || name.ends_with("bias") => (0.125 * v) as f32,
        () => (1.0 + 0.25 * v) as f32 * if last { 0.5 } else { 1.0 },
    };
    Tensor {
        shape: shape.to_vec(),
        values: hash.numbers(name, count).into_iter().map(value).collect(),
    }
}

fn open(hash: &Hash, model: &str, about: &Value, on: On) -> Case {
    let [samples, side] =
        [&about["batch"], &about["hw"]].map(|n| usize::try_from(n.as_u64().unwrap()).unwrap());
    let net = Architecture::named(model, 1000).unwrap();
    let graph = Graph::new(&net, side, side);
    let parameters = graph.parameters.iter().map(|p| {
        (p.name.clone(), weight(hash, &p.name, &p.shape, p.kind == ParamKind::Gamma(true)))
    });
    let running = graph.norms.iter().flat_map(|n| {
        ["running_mean", "running_var"].map(|kind| {
            let name = format!("{}.{kind}", n.name);
            (name.clone(), weight(hash, &name, &[n.channels], false))
        })
    });
    let tensors = parameters.chain(running).collect();
    let limits = Limits::of(on);
    let net = on.open(graph.clone(), samples, tensors);
    #[expect(clippy::cast_possible_truncation, reason = "exact in f32")]
    let values = hash
        .numbers(&format!("input.{model}"), samples * 3 * side * side)
        .into_iter()
        .map(|v| (2.0 * v) as f32)
        .collect();
    let pixels = images(&Tensor { shape: vec![samples, 3, side, side], values });
    let labels = numbers(&about["labels"]);
    let loss = Loss { criterion: Criterion::Bce, smoothing: 0.1, target_threshold: None };
    let mut target = vec![0.0; samples * 1000];
    for (i, row) in target.chunks_mut(1000).enumerate() {
        loss.target(labels[i], labels[samples - 1 - i], 0.7, row);
    }
    Case { on, net, batch: batch(pixels, samples, side), target, limits }
}

pub(super) fn run(folder: &Path, model: &str, on: On) -> Result<(), Failed> {
    let dtype = on.dtype();
    let hash = Hash::of(folder);
    let about = forebay_tests::json(&folder.join("full.json"))[model].take();
    let golden = Arrays::read(&folder.join(format!("{model}_full.golden.safetensors")));
    // Lambda is an f32, so that the loss and the gradients differ from torch's f64 by a rounding. In f32 a ReLU
    // may flip, in torch as here: the limit is twice the distance of torch's own f32 from f64.
    let mut case = open(&hash, model, &about, on);
    case.limits.gradients = if on == On::Double { 1e-7 } else { 2.0 * torch_f32_error(&about) };
    let limits = case.limits;
    let eval = case.logits(false, None);
    within(
        "logits in evaluation",
        relative(&eval, &golden.get(&format!("{dtype}.logits_eval"))),
        limits.eval,
    )?;
    let (train, loss) = case.train(None);
    within(
        "logits in training",
        relative(&train, &golden.get(&format!("{dtype}.logits_train"))),
        limits.train,
    )?;
    let wanted = about[format!("{dtype}_loss_train")].as_f64().unwrap();
    within("loss", (loss - wanted).abs() / wanted, limits.train.max(1e-7))?;
    for (i, parameter) in case.graph().parameters.iter().enumerate() {
        let gradient = case.net.gradient(i);
        let probe = hash.numbers(&format!("probe.{}", parameter.name), gradient.len());
        let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let dot: f64 = gradient.iter().zip(probe).map(|(g, p)| g * p).sum();
        for (kind, ours) in [("grad_l2", length), ("grad_dot_hash", dot)] {
            let wanted = about[format!("f64_{kind}")][&parameter.name].as_f64().unwrap();
            within(
                &format!("{kind} of {}", parameter.name),
                (ours - wanted).abs() / length,
                limits.gradients,
            )?;
        }
    }
    Ok(())
}

/// The largest relative distance of torch's gradients in f32 from those in f64, but at least 5e-4.
fn torch_f32_error(about: &Value) -> f64 {
    let lengths = about["f64_grad_l2"].as_object().unwrap();
    let distance = |kind: &str, name: &str, length: f64| {
        let [single, double] =
            ["f32", "f64"].map(|dtype| about[format!("{dtype}_{kind}")][name].as_f64().unwrap());
        (single - double).abs() / length
    };
    let of = |(name, length): (&String, &Value)| {
        let length = length.as_f64().unwrap();
        distance("grad_l2", name, length).max(distance("grad_dot_hash", name, length))
    };
    lengths.iter().map(of).fold(5e-4, f64::max)
}
