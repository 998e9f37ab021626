//! Suite 08: trajectories of LAMB and learning rate schedules, compared with timm's.
#![expect(clippy::unwrap_used, reason = "a test")]

use std::path::Path;
use std::sync::Arc;

use forebay_trainer::testing::{ChunkSums, LambStep, LambTensor};
use forebay_trainer::{Lamb, Real, Schedule};
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
    let mut trials = Vec::new();
    for variant in cases["variants"].as_object().unwrap().keys() {
        let variant = variant.clone();
        let (cases, arrays) = (Arc::clone(&cases), Arc::clone(&arrays));
        trials.push(Trial::test(format!("08_optim/lamb_{variant}"), move || {
            trajectory::<f64>(&cases, &arrays, &variant, "f64", 1e-12)?;
            trajectory::<f32>(&cases, &arrays, &variant, "f32", 2e-6)?;
            Ok(())
        }));
    }
    #[cfg(feature = "cuda")]
    trials.extend(gpu::trials(&cases, &arrays));
    let schedules = forebay_tests::json(&folder.join("schedule.json"));
    for (name, case) in schedules.as_object().unwrap().clone() {
        trials.push(Trial::test(format!("08_optim/schedule_{name}"), move || Ok(rates(&case)?)));
    }
    trials
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

fn trajectory<T: Real>(
    cases: &Value,
    arrays: &Arrays,
    variant: &str,
    dtype: &str,
    limit: f64,
) -> Result<(), String> {
    let lamb = settings(&cases["variants"][variant]["kwargs"]);
    let get = |name: &str| -> Vec<T> { arrays.get(name).into_iter().map(T::from_f64).collect() };
    let wide = |numbers: &[T]| -> Vec<f64> { numbers.iter().map(|x| x.to_f64()).collect() };
    let names: Vec<&String> = cases["params"].as_object().unwrap().keys().collect();
    let mut parameters: Vec<Vec<T>> =
        names.iter().map(|name| get(&format!("init.{name}"))).collect();
    let mut means: Vec<Vec<T>> = parameters.iter().map(|p| vec![T::ZERO; p.len()]).collect();
    let mut squares = means.clone();
    let mut sums = ChunkSums::new(4096);
    for (step, rate) in cases["lr"].as_array().unwrap().iter().enumerate() {
        let mut gradients: Vec<Vec<T>> =
            names.iter().map(|name| gradient(&get, arrays, step, name)).collect();
        let norm = gradients.iter().map(|g| sums.norm(g).powi(2)).sum::<f64>().sqrt();
        let now = LambStep { lr: rate.as_f64().unwrap(), update: step as u64 + 1, grad_norm: norm };
        for (i, name) in names.iter().enumerate() {
            let tensor = LambTensor {
                parameter: &mut parameters[i],
                gradient: &mut gradients[i],
                exp_avg: &mut means[i],
                exp_avg_sq: &mut squares[i],
                decays: cases["params"][name.as_str()]["weight_decay_group"] == "wd",
            };
            lamb.update(&now, tensor, &mut sums);
            let wanted = arrays.get(&format!("{variant}.{dtype}.{step:02}.{name}"));
            within(
                &format!("{dtype} {name} after step {step}"),
                apart(&wide(&parameters[i]), &wanted),
                limit,
            )?;
        }
    }
    for (state, numbers) in [("exp_avg", means), ("exp_avg_sq", squares)] {
        for (name, numbers) in names.iter().zip(numbers) {
            let wanted = arrays.get(&format!("{variant}.{dtype}.{state}.{name}"));
            within(&format!("{dtype} {state} of {name}"), apart(&wide(&numbers), &wanted), limit)?;
        }
    }
    Ok(())
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
    };
    let steps = updates.unwrap_or(1);
    let wanted = &case[if updates.is_some() { "lr_per_update" } else { "lr_per_epoch" }];
    for (update, wanted) in wanted.as_array().unwrap().iter().enumerate() {
        let rate = schedule.lr(update as u64 / steps, update as u64 % steps, steps);
        within(&format!("update {update}"), (rate - wanted.as_f64().unwrap()).abs(), 1e-15)?;
    }
    Ok(())
}

/// The same trajectories on a GPU or its stand-in.
#[cfg(feature = "cuda")]
mod gpu {
    use std::sync::Arc;

    use forebay::mix::Device;
    use forebay_trainer::{
        Backend as _, ParamKind, Parameter, Precision, StateDict, Tensor, TrainState,
    };
    use libtest_mimic::Trial;
    use serde_json::Value;

    use crate::arrays::{Arrays, apart, within};
    use crate::net::gpu;

    pub(super) fn trials(cases: &Arc<Value>, arrays: &Arc<Arrays>) -> Vec<Trial> {
        let Some(Device::Cuda(device)) = forebay_tests::gpu() else { return Vec::new() };
        let trial = |variant: &String| {
            let (cases, arrays, variant) = (Arc::clone(cases), Arc::clone(arrays), variant.clone());
            let name = format!("cuda:{device}/08_optim/lamb_{variant}");
            Trial::test(name, move || Ok(trajectory(device, &cases, &arrays, &variant)?))
        };
        cases["variants"].as_object().unwrap().keys().map(trial).collect()
    }

    fn wide(numbers: &[f32]) -> Vec<f64> {
        numbers.iter().map(|&x| f64::from(x)).collect()
    }

    /// The golden parameters in addition to those of a classifier, whose gradients are zero.
    fn trajectory(
        device: u32,
        cases: &Value,
        arrays: &Arrays,
        variant: &str,
    ) -> Result<(), String> {
        let lamb = super::settings(&cases["variants"][variant]["kwargs"]);
        let names: Vec<&String> = cases["params"].as_object().unwrap().keys().collect();
        let parameters = names.iter().map(|name| Parameter {
            name: (*name).clone(),
            shape: arrays.array(&format!("init.{name}")).shape,
            kind: if cases["params"][name.as_str()]["weight_decay_group"] == "wd" {
                ParamKind::Matrix
            } else {
                ParamKind::Beta
            },
        });
        let graph = crate::loss::classifier(2, parameters.collect());
        let mut model: StateDict = names
            .iter()
            .map(|name| ((*name).clone(), arrays.array(&format!("init.{name}"))))
            .collect();
        for (parameter, count) in graph.parameters.iter().zip([6, 2]) {
            let zeros = Tensor { shape: parameter.shape.clone(), values: vec![0.0; count] };
            model.insert(parameter.name.clone(), zeros);
        }
        let mut net = gpu::open(device, Precision::Bf16, graph, 1);
        net.load(&TrainState { model, ..TrainState::default() }).unwrap();
        for (step, rate) in cases["lr"].as_array().unwrap().iter().enumerate() {
            for (i, name) in names.iter().enumerate() {
                let gradient =
                    super::gradient(&|name: &str| arrays.array(name).values, arrays, step, name);
                net.set_gradient(2 + i, &gradient).unwrap();
            }
            net.update(&lamb, rate.as_f64().unwrap(), None).unwrap();
            net.poll_report(true).unwrap();
            for (i, name) in names.iter().enumerate() {
                let wanted = arrays.get(&format!("{variant}.f32.{step:02}.{name}"));
                let what = format!("{name} after step {step}");
                within(&what, apart(&wide(&net.parameter(2 + i).unwrap()), &wanted), 2e-6)?;
            }
        }
        let state = net.state().unwrap();
        for (kind, tensors) in [("exp_avg", state.exp_avg), ("exp_avg_sq", state.exp_avg_sq)] {
            for name in &names {
                let wanted = arrays.get(&format!("{variant}.f32.{kind}.{name}"));
                let what = format!("{kind} of {name}");
                within(&what, apart(&wide(&tensors[name.as_str()].values), &wanted), 2e-6)?;
            }
        }
        Ok(())
    }
}
