//! Whole networks against torch's and timm's: logits, losses, gradients, running statistics, five
//! steps of LAMB, stochastic depth; narrow networks and real ones.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

use forebay_trainer::backend::cpu::{Cpu, Real};
use forebay_trainer::backend::{Array, Backend as _, Batch, Pixels, State, Tensors};
use forebay_trainer::droppath::Drops;
use forebay_trainer::lamb::Lamb;
use forebay_trainer::loss::{Criterion, Loss};
use forebay_trainer::model::{Architecture, Block, Graph, Kind, Stem};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::arrays::{Arrays, distance, relative, within};

/// Limits: logits in evaluation, in training, gradients.
const TIGHT: [f64; 3] = [1e-9; 3];
const SINGLE: [f64; 3] = [1e-5, 5e-5, 1e-3];

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let folder = folder.join("10_model");
    if !folder.is_dir() {
        return Vec::new();
    }
    let mut trials = Vec::new();
    for model in ["r18n", "r50n"] {
        for (dtype, run) in
            [("f64", narrow::<f64> as fn(&Path, &str, &str, &str) -> _), ("f32", narrow::<f32>)]
        {
            for part in ["forward", "gradients", "steps", "droppath"] {
                let folder = folder.clone();
                trials.push(Trial::test(format!("10_model/{model}_{dtype}_{part}"), move || {
                    run(&folder, model, dtype, part)
                }));
            }
        }
    }
    for model in ["resnet18", "resnet50"] {
        for (dtype, run) in
            [("f64", full::<f64> as fn(&Path, &str, &str) -> _), ("f32", full::<f32>)]
        {
            let folder = folder.clone();
            trials.push(Trial::test(format!("10_model/{model}_full_{dtype}"), move || {
                run(&folder, model, dtype)
            }));
        }
    }
    for model in ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] {
        let folder = folder.clone();
        trials.push(Trial::test(format!("10_model/{model}_keys"), move || keys(&folder, model)));
    }
    trials
}

/// A network on its golden input.
struct Case<T> {
    cpu: Cpu<T>,
    batch: Batch,
    /// Dense targets.
    target: Vec<T>,
    limits: [f64; 3],
}

impl<T: Real> Case<T> {
    fn samples(&self) -> usize {
        self.batch.samples()
    }

    fn logits(&mut self, train: bool, drops: Option<&Drops>) -> Vec<f64> {
        self.cpu.images(&self.batch, train);
        self.cpu.forward(self.samples(), train, drops);
        wide(self.cpu.last_logits(self.samples(), train))
    }

    /// Forward and backward in training by mean BCE on the dense targets; gives logits and loss.
    fn train(&mut self, drops: Option<&Drops>) -> (Vec<f64>, f64) {
        let logits = self.logits(true, drops);
        let loss = Loss { criterion: Criterion::Bce, smoothing: 0.0, threshold: None };
        let (samples, target, mut sum) = (self.samples(), &self.target, 0.0);
        let classes = target.len() / samples;
        self.cpu.set_slope(samples, |logits, slope| {
            let rows =
                logits.chunks(classes).zip(target.chunks(classes)).zip(slope.chunks_mut(classes));
            sum = rows
                .map(|((logits, target), slope)| loss.sample(logits, target, samples, 1.0, slope))
                .sum();
        });
        self.cpu.backward(samples, drops);
        (logits, sum)
    }
}

fn wide<T: Real>(numbers: &[T]) -> Vec<f64> {
    numbers.iter().map(|x| x.to_f64()).collect()
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

fn backend<T: Real>(net: &Architecture, side: usize, samples: usize, model: Tensors) -> Cpu<T> {
    let graph = Graph::new(net, side, side);
    let mut cpu = Cpu::new(graph.clone(), samples, graph, samples, [0.0; 3], [1.0; 3]);
    cpu.load(&State { model, ..State::default() }).unwrap();
    cpu
}

fn narrow_case<T: Real>(folder: &Path, model: &str, limits: [f64; 3]) -> (Case<T>, Value, Arrays) {
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
    let target = golden.get("target").into_iter().map(T::from_f64).collect();
    let pixels = images(&golden.array("input"));
    let cpu = backend(&net, side, samples, model);
    (Case { cpu, batch: batch(pixels, samples, side), target, limits }, case, golden)
}

fn narrow<T: Real>(folder: &Path, model: &str, dtype: &str, part: &str) -> Result<(), Failed> {
    let limits = if dtype == "f64" { TIGHT } else { SINGLE };
    let (mut case, about, golden) = narrow_case::<T>(folder, model, limits);
    match part {
        "forward" => forward(&mut case, &golden, dtype)?,
        "gradients" => {
            let (_, loss) = case.train(None);
            let wanted = about[format!("{dtype}_loss_train")].as_f64().unwrap();
            within("loss", (loss - wanted).abs() / wanted, limits[1])?;
            gradients(&case, &golden, &format!("{dtype}.grad."), false)?;
        }
        "steps" => steps(&mut case, &about, &golden, dtype)?,
        _ => {
            let drops = masks(&case, &about["droppath"]);
            let (logits, loss) = case.train(Some(&drops));
            within(
                "logits",
                relative(&logits, &golden.get(&format!("{dtype}.droppath.logits_train"))),
                limits[1],
            )?;
            let wanted = about[format!("{dtype}_droppath_loss")].as_f64().unwrap();
            within("loss", (loss - wanted).abs() / wanted, limits[1])?;
            gradients(&case, &golden, &format!("{dtype}.droppath.grad."), true)?;
        }
    }
    Ok(())
}

fn forward<T: Real>(case: &mut Case<T>, golden: &Arrays, dtype: &str) -> Result<(), String> {
    let [eval, train, _] = case.limits;
    within(
        "logits in evaluation",
        relative(&case.logits(false, None), &golden.get(&format!("{dtype}.logits_eval"))),
        eval,
    )?;
    within(
        "logits in training",
        relative(&case.logits(true, None), &golden.get(&format!("{dtype}.logits_train"))),
        train,
    )?;
    let norms: Vec<String> = case.cpu.graph().norms.iter().map(|n| n.name.clone()).collect();
    for (i, name) in norms.iter().enumerate() {
        let (mean, variance) = case.cpu.running(i);
        for (kind, numbers) in [("running_mean", mean), ("running_var", variance)] {
            let wanted = golden.get(&format!("{dtype}.after_1_train_forward.{name}.{kind}"));
            within(&format!("{name}.{kind}"), relative(&wide(numbers), &wanted), train)?;
        }
    }
    Ok(())
}

/// Compares every gradient that the file has (r18n has none in f32: then those in f64).
fn gradients<T: Real>(
    case: &Case<T>,
    golden: &Arrays,
    prefix: &str,
    some: bool,
) -> Result<(), String> {
    let mut compared = 0;
    for (i, parameter) in case.cpu.graph().parameters.iter().enumerate() {
        let own = format!("{prefix}{}", parameter.name);
        let double = own.replacen("f32.", "f64.", 1);
        let Some(name) = [own, double].into_iter().find(|name| golden.has(name)) else {
            assert!(some, "no gradient of {} in the golden file", parameter.name);
            continue;
        };
        within(
            &parameter.name,
            distance(&wide(&case.cpu.gradient(i)), &golden.get(&name)),
            case.limits[2],
        )?;
        compared += 1;
    }
    assert!(compared > 0, "no gradients under {prefix}");
    Ok(())
}

fn steps<T: Real>(
    case: &mut Case<T>,
    about: &Value,
    golden: &Arrays,
    dtype: &str,
) -> Result<(), String> {
    let lamb =
        Lamb { weight_decay: about["lamb"]["weight_decay"].as_f64().unwrap(), ..Lamb::default() };
    let rate = about["lamb"]["lr"].as_f64().unwrap();
    let wanted = about[format!("{dtype}_losses_5_lamb_steps_then_after")].as_array().unwrap();
    let limit = if dtype == "f64" { 1e-6 } else { 2e-2 };
    for (step, wanted) in wanted.iter().map(|w| w.as_f64().unwrap()).enumerate() {
        let (_, loss) = case.train(None);
        within(&format!("loss after {step} steps"), (loss - wanted).abs() / wanted, limit)?;
        if step + 1
            == about[format!("{dtype}_losses_5_lamb_steps_then_after")].as_array().unwrap().len()
        {
            break;
        }
        case.cpu.update(&lamb, rate, None).unwrap();
    }
    for (i, parameter) in case.cpu.graph().parameters.iter().enumerate().filter(|_| dtype == "f64")
    {
        let wanted = golden.get(&format!("f64.after_5_lamb.{}", parameter.name));
        within(&parameter.name, relative(&wide(&case.cpu.parameter(i)), &wanted), 1e-6)?;
    }
    Ok(())
}

fn masks<T: Real>(case: &Case<T>, about: &Value) -> Drops {
    let graph = case.cpu.graph();
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

fn full_case<T: Real>(model: &str, about: &Value, limits: [f64; 3]) -> Case<T> {
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
    let cpu = backend(&net, side, samples, parameters.chain(running).collect());
    #[expect(clippy::cast_possible_truncation, reason = "exact in f32")]
    let values = hash(&format!("dev/input.{model}"), samples * 3 * side * side)
        .into_iter()
        .map(|v| (2.0 * v) as f32)
        .collect();
    let pixels = images(&Array { shape: vec![samples, 3, side, side], values });
    let labels = numbers(&about["labels"]);
    let loss = Loss { criterion: Criterion::Bce, smoothing: 0.1, threshold: None };
    let mut target = vec![T::ZERO; samples * 1000];
    for (i, row) in target.chunks_mut(1000).enumerate() {
        loss.target(labels[i], labels[samples - 1 - i], 0.7, row);
    }
    Case { cpu, batch: batch(pixels, samples, side), target, limits }
}

fn full<T: Real>(folder: &Path, model: &str, dtype: &str) -> Result<(), Failed> {
    let about = forebay_tests::json(&folder.join("full.json"))[model].take();
    let golden = Arrays::read(&folder.join(format!("{model}_full.golden.safetensors")));
    // Lambda comes as f32, so the loss and the gradients are a rounding away from torch's f64. In f32 a
    // ReLU may decide otherwise, in torch as here: no closer than twice torch's own way from f64.
    let limits =
        if dtype == "f64" { [1e-9, 1e-9, 1e-7] } else { [1e-5, 5e-5, 2.0 * torch_s_own(&about)] };
    let mut case = full_case::<T>(model, &about, limits);
    let eval = case.logits(false, None);
    within(
        "logits in evaluation",
        relative(&eval, &golden.get(&format!("{dtype}.logits_eval"))),
        limits[0],
    )?;
    let (train, loss) = case.train(None);
    within(
        "logits in training",
        relative(&train, &golden.get(&format!("{dtype}.logits_train"))),
        limits[1],
    )?;
    let wanted = about[format!("{dtype}_loss_train")].as_f64().unwrap();
    within("loss", (loss - wanted).abs() / wanted, limits[1].max(1e-7))?;
    for (i, parameter) in case.cpu.graph().parameters.iter().enumerate() {
        let gradient = wide(&case.cpu.gradient(i));
        let probe = hash(&format!("dev/probe.{}", parameter.name), gradient.len());
        let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let dot: f64 = gradient.iter().zip(probe).map(|(g, p)| g * p).sum();
        for (kind, ours) in [("grad_l2", length), ("grad_dot_hash", dot)] {
            let wanted = about[format!("f64_{kind}")][&parameter.name].as_f64().unwrap();
            within(
                &format!("{kind} of {}", parameter.name),
                (ours - wanted).abs() / length,
                limits[2],
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
