//! Whole networks against torch's and timm's: logits, losses, gradients, running statistics, five
//! steps of LAMB, stochastic depth; narrow networks and real ones.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use forebay_trainer::backend::{Array, Batch, Pixels};
use forebay_trainer::droppath::Drops;
use forebay_trainer::lamb::Lamb;
use forebay_trainer::loss::{Criterion, Loss};
use forebay_trainer::model::{Architecture, Block, Graph, Kind, Stem};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::arrays::{Arrays, distance, relative, within};
use crate::net::{Net, On};

/// What was compared, how far it is off, and how far it may be.
type Finding = (String, f64, f64);

/// What errors are allowed.
#[derive(Clone, Copy)]
struct Limits {
    /// Of logits in evaluation and in training.
    eval: f64,
    train: f64,
    gradients: f64,
    /// Of losses over five steps.
    steps: f64,
}

impl Limits {
    const fn of(on: On) -> Self {
        match on {
            On::Double => Self { eval: 1e-9, train: 1e-9, gradients: 1e-9, steps: 1e-6 },
            // bf16 has its own: see `narrow`.
            _ => Self { eval: 1e-5, train: 5e-5, gradients: 1e-3, steps: 2e-2 },
        }
    }
}

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let folder = folder.join("10_model");
    if !folder.is_dir() {
        return Vec::new();
    }
    let mut trials = Vec::new();
    for on in On::all() {
        for model in ["r18n", "r50n"] {
            for part in ["forward", "gradients", "steps", "droppath"] {
                let folder = folder.clone();
                let name = on.name(&format!("10_model/{model}_NUMBER_{part}"));
                trials.push(Trial::test(name, move || narrow(&folder, model, on, part)));
            }
        }
    }
    for model in ["resnet18", "resnet50"] {
        for on in [On::Double, On::Single] {
            let folder = folder.clone();
            let name = on.name(&format!("10_model/{model}_full_NUMBER"));
            trials.push(Trial::test(name, move || full(&folder, model, on)));
        }
    }
    for model in ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] {
        let folder = folder.clone();
        trials.push(Trial::test(format!("10_model/{model}_keys"), move || keys(&folder, model)));
    }
    trials
}

/// A network on its golden input.
struct Case {
    on: On,
    net: Box<dyn Net>,
    batch: Batch,
    /// Dense targets.
    target: Vec<f64>,
    limits: Limits,
}

impl Case {
    fn samples(&self) -> usize {
        self.batch.samples()
    }

    fn logits(&mut self, train: bool, drops: Option<&Drops>) -> Vec<f64> {
        self.net.forward(&self.batch, train, drops)
    }

    /// Forward and backward in training by mean BCE on the dense targets; gives logits and loss.
    fn train(&mut self, drops: Option<&Drops>) -> (Vec<f64>, f64) {
        let logits = self.logits(true, drops);
        let loss = Loss { criterion: Criterion::Bce, smoothing: 0.0, threshold: None };
        let (samples, mut slope) = (self.samples(), vec![0.0; logits.len()]);
        let classes = logits.len() / samples;
        let rows = logits.chunks(classes).zip(self.target.chunks(classes));
        let sum = rows
            .zip(slope.chunks_mut(classes))
            .map(|((logits, target), slope)| loss.sample(logits, target, samples, 1.0, slope))
            .sum();
        self.net.backward(&self.batch, &slope, drops);
        (logits, sum)
    }

    fn graph(&self) -> &Graph {
        self.net.graph()
    }
}

fn numbers(value: &Value) -> Vec<usize> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|n| usize::try_from(n.as_u64().unwrap()).unwrap())
        .collect()
}

/// Images of C, H, W as H, W, C.
fn images(from: &Array) -> Pixels {
    let [samples, channels, height, width] = from.shape[..] else { panic!("{:?}", from.shape) };
    let pixels = height * width;
    let at = |i: usize| {
        let (sample, pixel, channel) =
            (i / (pixels * channels), i / channels % pixels, i % channels);
        from.values[(sample * channels + channel) * pixels + pixel]
    };
    Pixels::Floats((0..samples * pixels * channels).map(at).collect())
}

fn batch(pixels: Pixels, samples: usize, side: usize) -> Batch {
    let (label_a, label_b, lambda) = (vec![0; samples], vec![0; samples], vec![1.0; samples]);
    Batch { epoch: 0, step: 0, index: 0, size: (side, side), pixels, label_a, label_b, lambda }
}

fn narrow_case(folder: &Path, model: &str, on: On) -> (Case, Value, Arrays) {
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

fn narrow(folder: &Path, model: &str, on: On, part: &str) -> Result<(), Failed> {
    let found = findings(folder, model, on, part);
    if !on.rounds() {
        for (what, error, limit) in found {
            within(&what, error, limit)?;
        }
        return Ok(());
    }
    // How far storing each result in bf16 leads away is a matter of the network: the CPU does the same in f64
    // but for that rounding. Where a sum rounds the other way, a `ReLU` may decide otherwise, which moves small
    // gradients by much and all of them together by little.
    let rounded = findings(folder, model, On::Rounded, part);
    // Steps part as those in f32 do, and as torch's: see the golden set's README.
    for ((what, error, limit), (_, expected, _)) in found.iter().zip(&rounded) {
        within(what, *error, 4.0 * expected + limit.max(1.0 / 256.0))?;
    }
    let mean = |found: &[Finding]| found.iter().map(|f| f.1).sum::<f64>() / found.len() as f64;
    let most = found.iter().fold(1.0 / 256.0, |most: f64, f| most.max(f.2));
    within("all together", mean(&found), 1.5 * mean(&rounded) + most)?;
    Ok(())
}

fn findings(folder: &Path, model: &str, on: On, part: &str) -> Vec<Finding> {
    let dtype = on.dtype();
    let (mut case, about, golden) = narrow_case(folder, model, on);
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

/// Compares every gradient that the file has (r18n has none in f32: then those in f64).
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
            case.net.update(&lamb, rate);
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

fn masks(case: &Case, about: &Value) -> Drops {
    let graph = case.graph();
    let mut drops = Drops::new(about["rate"].as_f64().unwrap(), graph.blocks, case.samples());
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

/// The numbers of a hash of the name, in [-1, 1) (README of the golden set).
fn hash(name: &str, count: usize) -> Vec<f64> {
    let key = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    let number = |i: u64| {
        let mut z = key.wrapping_add((i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        f64::from(u32::try_from((z ^ (z >> 31)) >> 40).unwrap()) / 8_388_608.0 - 1.0
    };
    (0..count as u64).map(number).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "the README's recipe rounds to f32")]
fn weight(name: &str, shape: &[usize], last: bool) -> Array {
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
    Array {
        shape: shape.to_vec(),
        values: hash(&format!("dev/{name}"), count).into_iter().map(value).collect(),
    }
}

fn full_case(model: &str, about: &Value, on: On) -> Case {
    let [samples, side] =
        [&about["batch"], &about["hw"]].map(|n| usize::try_from(n.as_u64().unwrap()).unwrap());
    let net = Architecture::named(model, 1000).unwrap();
    let graph = Graph::new(&net, side, side);
    let parameters = graph
        .parameters
        .iter()
        .map(|p| (p.name.clone(), weight(&p.name, &p.shape, p.kind == Kind::Gamma(true))));
    let running = graph.norms.iter().flat_map(|n| {
        ["running_mean", "running_var"].map(|kind| {
            let name = format!("{}.{kind}", n.name);
            (name.clone(), weight(&name, &[n.channels], false))
        })
    });
    let tensors = parameters.chain(running).collect();
    let limits = Limits::of(on);
    let net = on.open(graph.clone(), samples, tensors);
    #[expect(clippy::cast_possible_truncation, reason = "exact in f32")]
    let values = hash(&format!("dev/input.{model}"), samples * 3 * side * side)
        .into_iter()
        .map(|v| (2.0 * v) as f32)
        .collect();
    let pixels = images(&Array { shape: vec![samples, 3, side, side], values });
    let labels = numbers(&about["labels"]);
    let loss = Loss { criterion: Criterion::Bce, smoothing: 0.1, threshold: None };
    let mut target = vec![0.0; samples * 1000];
    for (i, row) in target.chunks_mut(1000).enumerate() {
        loss.target(labels[i], labels[samples - 1 - i], 0.7, row);
    }
    Case { on, net, batch: batch(pixels, samples, side), target, limits }
}

fn full(folder: &Path, model: &str, on: On) -> Result<(), Failed> {
    let dtype = on.dtype();
    let about = forebay_tests::json(&folder.join("full.json"))[model].take();
    let golden = Arrays::read(&folder.join(format!("{model}_full.golden.safetensors")));
    // Lambda comes as f32, so the loss and the gradients are a rounding away from torch's f64. In f32 a
    // ReLU may decide otherwise, in torch as here: no closer than twice torch's own way from f64.
    let mut case = full_case(model, &about, on);
    case.limits.gradients = if on == On::Double { 1e-7 } else { 2.0 * torch_s_own(&about) };
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
        let probe = hash(&format!("dev/probe.{}", parameter.name), gradient.len());
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
fn torch_s_own(about: &Value) -> f64 {
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

/// Names, shapes, count, decay and zero initialisation as timm's.
fn keys(folder: &Path, model: &str) -> Result<(), Failed> {
    let about = forebay_tests::json(&folder.join("timm_resnet_keys.json"))[model].take();
    let graph = Graph::new(&Architecture::named(model, 1000)?, 224, 224);
    let count: usize = graph.parameters.iter().map(|p| p.shape.iter().product::<usize>()).sum();
    assert_eq!(Some(count as u64), about["param_count"].as_u64());
    assert_eq!(Some(graph.parameters.len() as u64), about["n_param_tensors"].as_u64());
    let still = graph.parameters.iter().filter(|p| !p.kind.decays());
    assert_eq!(Some(still.count() as u64), about["n_no_weight_decay"].as_u64());
    let strings = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
    };
    if about["parameters_order"].is_array() {
        let names: Vec<String> = graph.parameters.iter().map(|p| p.name.clone()).collect();
        assert_eq!(names, strings(&about["parameters_order"]));
        let zero =
            graph.parameters.iter().filter(|p| p.kind == Kind::Gamma(true)).map(|p| p.name.clone());
        assert_eq!(zero.collect::<Vec<_>>(), strings(&about["zero_init"]));
        let decays = graph.parameters.iter().filter(|p| !p.kind.decays()).map(|p| p.name.clone());
        assert_eq!(decays.collect::<Vec<_>>(), strings(&about["no_weight_decay"]));
    }
    Ok(())
}
