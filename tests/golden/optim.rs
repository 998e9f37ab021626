//! Suite 08: trajectories of the optimizers, gradient clipping and learning rate schedules, compared with timm's.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use forebay_trainer::testing::{
    ChunkSums, OptimizerTensor, UpdateStep, clip_outputs, clip_values, norm_factor,
};
use forebay_trainer::{
    AdamW, ClipGrad, ClipMode, Decay, Lamb, Milestones, Optimizer, Real, Schedule, Sgd,
};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::arrays::{Arrays, apart, within};

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let folder = folder.join("08_optim");
    if !folder.is_dir() {
        return Vec::new();
    }
    let cases = Arc::new(forebay_tests::json(&folder.join("lamb.json")));
    let arrays = Arc::new(Arrays::read(&folder.join("lamb.safetensors")));
    let lamb = |(variant, case): (&String, &Value)| Variant {
        test: format!("lamb_{variant}"),
        name: variant.clone(),
        optimizer: settings(&case["kwargs"]).into(),
        clip_grad: None,
        cases: Arc::clone(&cases),
        inputs: Arc::clone(&arrays),
        wanted: Arc::clone(&arrays),
    };
    let mut variants: Vec<Variant> =
        cases["variants"].as_object().unwrap().iter().map(lamb).collect();
    // Larger sets may be older, and have LAMB only.
    if folder.join("optimizers.json").is_file() {
        let others = forebay_tests::json(&folder.join("optimizers.json"));
        let wanted = Arc::new(Arrays::read(&folder.join("optimizers.safetensors")));
        let other = |(variant, case): (&String, &Value)| Variant {
            test: format!("optimizer_{variant}"),
            name: variant.clone(),
            optimizer: optimizer(&case["kwargs"]),
            clip_grad: clip_grad(&case["clip"]),
            cases: Arc::clone(&cases),
            inputs: Arc::clone(&arrays),
            wanted: Arc::clone(&wanted),
        };
        variants.extend(others["variants"].as_object().unwrap().iter().map(other));
    }
    let mut trials = Vec::new();
    #[cfg(feature = "cuda")]
    trials.extend(gpu::trials(&variants));
    for variant in variants {
        trials.push(Trial::test(format!("08_optim/{}", variant.test), move || {
            variant.trajectory::<f64>("f64", 1e-12)?;
            variant.trajectory::<f32>("f32", 2e-6)?;
            Ok(())
        }));
    }
    let schedules = forebay_tests::json(&folder.join("schedule.json"));
    for (name, case) in schedules.as_object().unwrap().clone() {
        trials.push(Trial::test(format!("08_optim/schedule_{name}"), move || Ok(rates(&case)?)));
    }
    if folder.join("schedules.json").is_file() {
        let schedules = forebay_tests::json(&folder.join("schedules.json"));
        for (name, case) in schedules.as_object().unwrap().clone() {
            let name = format!("08_optim/schedule_{name}");
            trials.push(Trial::test(name, move || Ok(all_rates(&case)?)));
        }
    }
    trials
}

/// A trajectory to compare with: an optimizer with its settings.
#[derive(Clone)]
struct Variant {
    /// Name of the test, and in the file of `wanted`.
    test: String,
    name: String,
    optimizer: Optimizer,
    clip_grad: Option<ClipGrad>,
    /// Parameters and learning rates.
    cases: Arc<Value>,
    /// Initial parameters and gradients.
    inputs: Arc<Arrays>,
    wanted: Arc<Arrays>,
}

/// The tensor that stands for the classifier's, which adaptive clipping leaves out.
const HEAD: &str = "matrix";

fn optimizer(kwargs: &Value) -> Optimizer {
    let number = |name: &str| kwargs.get(name).map(|value| value.as_f64().unwrap());
    let weight_decay = number("weight_decay").unwrap();
    let sgd = |nesterov| {
        let momentum = number("momentum").unwrap_or(0.9);
        Optimizer::Sgd(Sgd { momentum, nesterov, weight_decay })
    };
    match kwargs["opt"].as_str().unwrap() {
        "sgd" => sgd(true),
        "momentum" => sgd(false),
        "adamw" => {
            let mut adamw = AdamW { weight_decay, ..AdamW::default() };
            adamw.eps = number("eps").unwrap_or(adamw.eps);
            if let Some(betas) = kwargs.get("betas") {
                adamw.betas = (betas[0].as_f64().unwrap(), betas[1].as_f64().unwrap());
            }
            Optimizer::AdamW(adamw)
        }
        "lamb" => settings(kwargs).into(),
        other => panic!("no optimizer {other}"),
    }
}

fn clip_grad(clip: &Value) -> Option<ClipGrad> {
    let mode = match clip.get("mode")?.as_str().unwrap() {
        "norm" => ClipMode::Norm,
        "value" => ClipMode::Value,
        "agc" => ClipMode::Agc,
        other => panic!("no mode {other}"),
    };
    Some(ClipGrad { value: clip["value"].as_f64().unwrap(), mode })
}

fn settings(kwargs: &Value) -> Lamb {
    let mut lamb = Lamb::default();
    let flag =
        |name: &str, default: bool| kwargs.get(name).map_or(default, |v| v.as_bool().unwrap());
    let number = |value: &Value| value.as_f64().unwrap();
    lamb.weight_decay = number(&kwargs["weight_decay"]);
    lamb.bias_correction = flag("bias_correction", true);
    lamb.grad_averaging = flag("grad_averaging", true);
    lamb.trust_clip = flag("trust_clip", false);
    lamb.always_adapt = flag("always_adapt", false);
    if let Some(norm) = kwargs.get("max_grad_norm") {
        lamb.max_grad_norm = norm.as_f64();
    }
    if let Some(betas) = kwargs.get("betas") {
        lamb.betas = (number(&betas[0]), number(&betas[1]));
    }
    if let Some(eps) = kwargs.get("eps") {
        lamb.eps = number(eps);
    }
    lamb
}

impl Variant {
    fn names(&self) -> Vec<&String> {
        self.cases["params"].as_object().unwrap().keys().collect()
    }

    fn decays(&self, name: &str) -> bool {
        self.cases["params"][name]["weight_decay_group"] == "wd"
    }

    fn rates(&self) -> impl Iterator<Item = f64> + '_ {
        self.cases["lr"].as_array().unwrap().iter().map(|rate| rate.as_f64().unwrap())
    }

    /// Compares values with those of the file.
    fn check(&self, dtype: &str, key: &str, found: &[f64], limit: f64) -> Result<(), String> {
        let name = format!("{}.{dtype}.{key}", self.name);
        if !self.wanted.has(&name) && key.starts_with("exp_avg") {
            // An optimizer without this state has zeros there.
            return Ok(());
        }
        let wanted = self.wanted.get(&name);
        // The gradients of one step are large, and so is what the moments keep of them: those above 1 are compared relatively.
        let is_relative = !key.starts_with(|first: char| first.is_ascii_digit());
        let largest = wanted.iter().fold(1.0, |size: f64, value| size.max(value.abs()));
        let size = if is_relative { largest } else { 1.0 };
        within(&format!("{dtype} {key}"), apart(found, &wanted) / size, limit)
    }

    fn trajectory<T: Real>(&self, dtype: &str, limit: f64) -> Result<(), String> {
        let get =
            |name: &str| -> Vec<T> { self.inputs.get(name).into_iter().map(T::from_f64).collect() };
        let wide = |numbers: &[T]| -> Vec<f64> { numbers.iter().map(|x| x.to_f64()).collect() };
        let names = self.names();
        let mut parameters: Vec<Vec<T>> =
            names.iter().map(|name| get(&format!("init.{name}"))).collect();
        let mut means: Vec<Vec<T>> = parameters.iter().map(|p| vec![T::ZERO; p.len()]).collect();
        let mut squares = means.clone();
        let mut sums = ChunkSums::new(4096);
        for (step, lr) in self.rates().enumerate() {
            let mut gradients: Vec<Vec<T>> =
                names.iter().map(|name| gradient(&get, &self.inputs, step, name)).collect();
            self.clip(&names, &parameters, &mut gradients, &mut sums);
            let grad_norm = norm(&gradients, &mut sums);
            let now = UpdateStep { lr, update: step as u64 + 1, grad_norm };
            for (i, name) in names.iter().enumerate() {
                let tensor = OptimizerTensor {
                    parameter: &mut parameters[i],
                    gradient: &mut gradients[i],
                    exp_avg: &mut means[i],
                    exp_avg_sq: &mut squares[i],
                    decays: self.decays(name),
                };
                self.optimizer.update(&now, tensor, &mut sums);
                self.check(dtype, &format!("{step:02}.{name}"), &wide(&parameters[i]), limit)?;
            }
        }
        let first = if matches!(self.optimizer, Optimizer::Sgd(sgd) if sgd.momentum > 0.0) {
            "momentum_buffer"
        } else {
            "exp_avg"
        };
        for (state, numbers) in [(first, means), ("exp_avg_sq", squares)] {
            for (name, numbers) in names.iter().zip(numbers) {
                self.check(dtype, &format!("{state}.{name}"), &wide(&numbers), limit)?;
            }
        }
        Ok(())
    }

    fn clip<T: Real>(
        &self,
        names: &[&String],
        parameters: &[Vec<T>],
        gradients: &mut [Vec<T>],
        sums: &mut ChunkSums,
    ) {
        let Some(ClipGrad { value, mode }) = self.clip_grad else { return };
        let factor = T::from_f64(norm_factor(value, norm(gradients, sums)));
        for ((name, parameter), gradient) in names.iter().zip(parameters).zip(gradients) {
            match mode {
                ClipMode::Norm => gradient.iter_mut().for_each(|g| *g = *g * factor),
                ClipMode::Value => clip_values(value, gradient),
                ClipMode::Agc if *name == HEAD => {}
                ClipMode::Agc => {
                    let shape = self.inputs.array(&format!("init.{name}")).shape;
                    let row: usize = shape[1..].iter().product();
                    let outputs = if shape.len() > 1 { shape[0] } else { 1 };
                    let output_of = |index| if outputs > 1 { index / row } else { 0 };
                    clip_outputs(value, parameter, gradient, outputs, output_of);
                }
            }
        }
    }
}

/// The norm of all gradients.
fn norm<T: Real>(gradients: &[Vec<T>], sums: &mut ChunkSums) -> f64 {
    gradients.iter().map(|g| sums.norm(g).powi(2)).sum::<f64>().sqrt()
}

fn gradient<T>(get: &impl Fn(&str) -> Vec<T>, arrays: &Arrays, step: usize, name: &str) -> Vec<T> {
    let padded = format!("grad.{step:02}.{name}");
    if arrays.has(&padded) { get(&padded) } else { get(&format!("grad.{step}.{name}")) }
}

fn rates(case: &Value) -> Result<(), String> {
    let number = |name: &str| case[name].as_f64().unwrap();
    let updates = case["updates_per_epoch"].as_u64();
    let schedule = Schedule {
        lr: number("lr"),
        warmup_lr: number("warmup_lr"),
        min_lr: number("min_lr"),
        epochs: case["epochs"].as_u64().unwrap(),
        warmup_epochs: case["warmup_epochs"].as_u64().unwrap(),
        on_updates: updates.is_some(),
        decay: Decay::Cosine,
        cooldown_epochs: 0,
        warmup_prefix: false,
    };
    let steps = updates.unwrap_or(1);
    let wanted = &case[if updates.is_some() { "lr_per_update" } else { "lr_per_epoch" }];
    for (update, wanted) in wanted.as_array().unwrap().iter().enumerate() {
        let rate = schedule.lr(update as u64 / steps, update as u64 % steps, steps);
        within(&format!("update {update}"), (rate - wanted.as_f64().unwrap()).abs(), 1e-15)?;
    }
    Ok(())
}

/// The rates of every schedule, from the first to the last step.
fn all_rates(case: &Value) -> Result<(), String> {
    let kwargs = &case["kwargs"];
    let (number, count) = (
        |name: &str| kwargs[name].as_f64().unwrap(),
        |name: &str| kwargs.get(name).map_or(0, |value| value.as_u64().unwrap()),
    );
    let decay = match kwargs["sched"].as_str().unwrap() {
        "cosine" => Decay::Cosine,
        "step" => Decay::Step { epochs: count("decay_epochs"), rate: number("decay_rate") },
        "multistep" => {
            let milestones = kwargs["decay_milestones"].as_array().unwrap().iter();
            let number = |epoch: &Value| u32::try_from(epoch.as_u64().unwrap()).unwrap();
            let milestones: Vec<u32> = milestones.map(number).collect();
            let milestones = Milestones::try_from(milestones)?;
            Decay::Multistep { milestones, rate: kwargs["decay_rate"].as_f64().unwrap() }
        }
        "poly" => Decay::Poly { power: number("decay_rate") },
        other => panic!("no schedule {other}"),
    };
    let updates = case["updates_per_epoch"].as_u64();
    let schedule = Schedule {
        lr: case["lr"].as_f64().unwrap(),
        warmup_lr: number("warmup_lr"),
        min_lr: number("min_lr"),
        epochs: count("num_epochs"),
        warmup_epochs: count("warmup_epochs"),
        on_updates: updates.is_some(),
        decay,
        cooldown_epochs: count("cooldown_epochs"),
        warmup_prefix: kwargs.get("warmup_prefix").is_some(),
    };
    if case["total_epochs"] != schedule.total_epochs() {
        return Err(format!("{} epochs, not {}", schedule.total_epochs(), case["total_epochs"]));
    }
    let (steps, values) = (updates.unwrap_or(1), case["values"].as_array().unwrap());
    assert_eq!(values.len() as u64, schedule.total_epochs() * steps);
    for (update, wanted) in values.iter().enumerate() {
        let rate = schedule.lr(update as u64 / steps, update as u64 % steps, steps);
        within(&format!("update {update}"), (rate - wanted.as_f64().unwrap()).abs(), 1e-15)?;
    }
    Ok(())
}

/// The same trajectories on a GPU or its stand-in.
#[cfg(feature = "cuda")]
mod gpu {
    use forebay::mix::Device;
    use forebay_trainer::{
        Backend as _, ParamKind, Parameter, Precision, StateDict, Tensor, TrainState,
    };
    use libtest_mimic::Trial;

    use super::{HEAD, Variant};
    use crate::net::gpu;

    pub(super) fn trials(variants: &[Variant]) -> Vec<Trial> {
        let Some(Device::Cuda(device)) = forebay_tests::gpu() else { return Vec::new() };
        let trial = |variant: &Variant| {
            let variant = variant.clone();
            let name = format!("cuda:{device}/08_optim/{}", variant.test);
            Trial::test(name, move || Ok(trajectory(device, &variant)?))
        };
        variants.iter().map(trial).collect()
    }

    fn wide(numbers: &[f32]) -> Vec<f64> {
        numbers.iter().map(|&x| f64::from(x)).collect()
    }

    /// The golden parameters in addition to those of a classifier, whose gradients are zero.
    fn trajectory(device: u32, variant: &Variant) -> Result<(), String> {
        let (names, inputs) = (variant.names(), &variant.inputs);
        let kind = |name: &str| match name {
            HEAD => ParamKind::Matrix,
            name if variant.decays(name) => ParamKind::Conv,
            _ => ParamKind::Beta,
        };
        let parameters = names.iter().map(|name| Parameter {
            name: (*name).clone(),
            shape: inputs.array(&format!("init.{name}")).shape,
            kind: kind(name),
        });
        let graph = crate::loss::classifier(2, parameters.collect());
        let mut model: StateDict = names
            .iter()
            .map(|name| ((*name).clone(), inputs.array(&format!("init.{name}"))))
            .collect();
        for (parameter, count) in graph.parameters.iter().zip([6, 2]) {
            let zeros = Tensor { shape: parameter.shape.clone(), values: vec![0.0; count] };
            model.insert(parameter.name.clone(), zeros);
        }
        let mut net = gpu::open(device, Precision::Bf16, graph, 1);
        net.load(&TrainState { model, ..TrainState::default() }).unwrap();
        for (step, rate) in variant.rates().enumerate() {
            for (i, name) in names.iter().enumerate() {
                let gradient =
                    super::gradient(&|name: &str| inputs.array(name).values, inputs, step, name);
                net.set_gradient(2 + i, &gradient).unwrap();
            }
            net.update(&variant.optimizer, variant.clip_grad, rate, None).unwrap();
            net.poll_report(true).unwrap();
            for (i, name) in names.iter().enumerate() {
                let found = wide(&net.parameter(2 + i).unwrap());
                variant.check("f32", &format!("{step:02}.{name}"), &found, 2e-6)?;
            }
        }
        let state = net.state().unwrap();
        for (kind, tensors) in [
            ("exp_avg", state.exp_avg),
            ("exp_avg_sq", state.exp_avg_sq),
            ("momentum_buffer", state.momentum_buffer),
        ] {
            for name in names.iter().filter(|_| !tensors.is_empty()) {
                let found = wide(&tensors[name.as_str()].values);
                variant.check("f32", &format!("{kind}.{name}"), &found, 2e-6)?;
            }
        }
        Ok(())
    }
}
