//! Every plan of every convolution computes it, as exactly as its notes say.

use std::collections::BTreeSet;

use cudarc::cudnn::sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
use cudarc::cudnn::sys::{
    cudnnBackendHeurMode_t as Mode, cudnnBackendNumericalNote_t as Note, cudnnDataType_t as Number,
    cudnnHandle_t,
};
use cudarc::driver::CudaSlice;
use half::{bf16, f16};

use super::plan::{Conv, PASSES, Pass, Plan, at, handle};
use crate::data::{Real, blank, noise};
use crate::dnn::correct::{naive, near};
use crate::dnn::layer::{SIZES, Sizes};
use crate::gpu::{Failure, Gpu, Outcome};

/// x, w and y (or their gradients) on the host.
type Data<T> = [Vec<T>; 3];

fn data<T: Real>(sizes: &Sizes) -> Data<T> {
    let counts = sizes.counts();
    [0, 1, 2].map(|part| noise(counts[part], part + 1))
}

/// Runs a plan with fresh memory for its output.
fn run<T: Real>(
    gpu: &Gpu,
    handle: cudnnHandle_t,
    (conv, plan): (&Conv, &Plan),
    data: &Data<T>,
    old: Option<&[T]>,
) -> Result<Vec<T>, Failure> {
    let output = conv.pass.output();
    let mut slices: Vec<CudaSlice<T>> = Vec::new();
    for (part, values) in data.iter().enumerate() {
        slices.push(match old {
            Some(old) if part == output => gpu.two.clone_htod(old)?,
            None if part == output => blank(gpu, values.len())?,
            _ => gpu.two.clone_htod(values)?,
        });
    }
    let memory = [(1, at(gpu, &slices[0])), (2, at(gpu, &slices[1])), (3, at(gpu, &slices[2]))];
    plan.run(gpu, handle, &memory)?;
    Ok(gpu.two.clone_dtoh(&slices[output])?)
}

fn to_f32<T: Real>(values: &[T]) -> Vec<f32> {
    values.iter().map(|value| value.value() as f32).collect()
}

fn all_plans_of<T: Real>(gpu: &Gpu, number: Number, engines: &mut BTreeSet<i64>) -> Outcome {
    let handle = handle(gpu)?;
    for sizes in SIZES {
        let data = data::<T>(&sizes);
        let values = [0, 1, 2].map(|part| to_f32(&data[part]));
        let [y, dx, dw] = naive(&sizes, CUDNN_TENSOR_NHWC, &values[0], &values[1], &values[2]);
        for (pass, wanted) in
            [(Pass::Forward, y), (Pass::BackwardData, dx), (Pass::BackwardFilter, dw)]
        {
            let conv = Conv::new(pass, &sizes, number);
            let plans = conv.plans(handle)?;
            if plans.is_empty() {
                return Err(Failure(format!("{sizes:?} {pass:?} {number:?} has no plan")));
            }
            let largest = wanted.iter().fold(1.0, |largest: f64, value| largest.max(value.abs()));
            for plan in plans {
                // f32 on tensor cores is TF32, whose inputs have 11 bits; an engine may also convert to bf16.
                let rounding = match number {
                    Number::CUDNN_DATA_FLOAT
                        if plan.has(Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS) =>
                    {
                        1.0 / 64.0
                    }
                    Number::CUDNN_DATA_FLOAT
                        if plan.has(Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE) =>
                    {
                        1.0 / 256.0
                    }
                    _ => 2.0 * T::ROUNDING,
                };
                let found = to_f32(&run(gpu, handle, (&conv, &plan), &data, None)?);
                let what = format!(
                    "{sizes:?} {pass:?} {number:?} by engine {} {:?}",
                    plan.engine, plan.notes
                );
                near(&what, &found, &wanted, rounding * largest)?;
                engines.insert(plan.engine);
            }
        }
    }
    Ok(())
}

pub(crate) fn all_plans_match_the_definition(gpu: &Gpu) -> Outcome {
    let mut engines = BTreeSet::new();
    all_plans_of::<f32>(gpu, Number::CUDNN_DATA_FLOAT, &mut engines)?;
    all_plans_of::<f16>(gpu, Number::CUDNN_DATA_HALF, &mut engines)?;
    all_plans_of::<bf16>(gpu, Number::CUDNN_DATA_BFLOAT16, &mut engines)?;
    if engines.len() < 7 {
        return Err(Failure(format!("only the engines {engines:?} have plans")));
    }
    Ok(())
}

/// A convolution with aligned channels and long sums, which all engines support.
fn long(pass: Pass) -> (Sizes, Conv) {
    let sizes = Sizes { n: 2, c: 16, size: [12, 12], k: 64, filter: [3, 3], stride: 1, pad: 1 };
    (sizes, Conv::new(pass, &sizes, Number::CUDNN_DATA_FLOAT))
}

/// Plans repeat their bits unless their engine is noted as nondeterministic, and engines differ from each other in what notes say.
pub(crate) fn notes_are_true(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    for pass in PASSES {
        let (sizes, conv) = long(pass);
        let data = data::<f32>(&sizes);
        let (mut exact, mut rounded, mut changing) = (Vec::new(), 0, 0);
        for plan in conv.plans(handle)? {
            let [one, other] = [
                run(gpu, handle, (&conv, &plan), &data, None)?,
                run(gpu, handle, (&conv, &plan), &data, None)?,
            ];
            let noted = plan.has(Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC);
            if (one != other) != noted {
                return Err(Failure(format!(
                    "{pass:?}, engine {}: repeats its bits: {}",
                    plan.engine,
                    one == other
                )));
            }
            changing += usize::from(noted);
            if plan.has(Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE) {
                rounded += 1;
            } else {
                exact = to_f32(&one);
            }
        }
        if exact.is_empty() || rounded < 5 || changing != 1 {
            return Err(Failure(format!(
                "{pass:?}: {rounded} on tensor cores, {changing} nondeterministic"
            )));
        }
    }
    Ok(())
}

/// The heuristics propose a configuration that has no plan first, and one engine twice, with other knobs and another workspace.
pub(crate) fn proposals_differ(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    for pass in PASSES {
        let (sizes, conv) = long(pass);
        let configs = conv.configs(handle, Mode::CUDNN_HEUR_MODE_A)?;
        let first = Plan::new(handle, &configs[0]).err().map(|failure| failure.0);
        if !first.as_ref().is_some_and(|text| text.contains("NOT_SUPPORTED")) {
            return Err(Failure(format!("{pass:?}: the first configuration: {first:?}")));
        }
        let plans = conv.plans(handle)?;
        let twice = plans.iter().enumerate().find_map(|(at, plan)| {
            plans[at + 1..]
                .iter()
                .find(|other| other.engine == plan.engine)
                .map(|other| (plan, other))
        });
        let Some((one, other)) = twice else {
            return Err(Failure(format!("{pass:?}: no engine is proposed twice")));
        };
        let data = data::<f32>(&sizes);
        let same = run(gpu, handle, (&conv, one), &data, None)?
            == run(gpu, handle, (&conv, other), &data, None)?;
        if same || one.workspace == other.workspace {
            return Err(Failure(format!("{pass:?}: same bits: {same}, {} bytes", one.workspace)));
        }
        let fallback = conv.configs(handle, Mode::CUDNN_HEUR_MODE_FALLBACK)?;
        if fallback.iter().any(|config| Plan::new(handle, config).is_err()) {
            return Err(Failure(format!("{pass:?}: a fallback has no plan")));
        }
    }
    Ok(())
}

pub(crate) fn graph_alpha_and_beta(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    for pass in PASSES {
        let (sizes, mut conv) = long(pass);
        let data = data::<f32>(&sizes);
        let exact = |conv: &Conv| -> Result<Plan, Failure> {
            let exact = |plan: &Plan| !plan.has(Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE);
            conv.plans(handle)?
                .into_iter()
                .find(exact)
                .ok_or_else(|| Failure("no exact plan".to_owned()))
        };
        let plain = run(gpu, handle, (&conv, &exact(&conv)?), &data, None)?;
        conv.scales = [0.5, -2.0];
        let old: Vec<f32> = noise(plain.len(), 9);
        let found = run(gpu, handle, (&conv, &exact(&conv)?), &data, Some(&old))?;
        let wanted: Vec<f64> = plain
            .iter()
            .zip(&old)
            .map(|(new, old)| 0.5 * f64::from(*new) - 2.0 * f64::from(*old))
            .collect();
        near(&format!("{pass:?}"), &found, &wanted, 1e-5)?;
    }
    Ok(())
}

/// A plan may outlive every descriptor that it was made of.
pub(crate) fn plans_own_their_graph(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let (sizes, conv) = long(Pass::Forward);
    let config = conv.configs(handle, Mode::CUDNN_HEUR_MODE_FALLBACK)?.remove(0);
    let plan = Plan::new(handle, &config)?;
    drop(config);
    let data = data::<f32>(&sizes);
    run(gpu, handle, (&conv, &plan), &data, None)?;
    Ok(())
}
