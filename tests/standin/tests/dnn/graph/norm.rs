//! The gradient of a convolution's input, masked by a `ReLU`, with the gradients of the batch norm before it.

use cudarc::cudnn::sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind, cudnnBackendHeurMode_t as Mode,
    cudnnDataType_t as Number, cudnnHandle_t, cudnnPointwiseMode_t as Function,
};
use cudarc::driver::CudaSlice;
use half::f16;

use super::descriptor::Descriptor;
use super::fused::{per_channel, pointwise, refuse};
use super::plan::{Conv, Pass, Plan, Tensor, at, configs, graph, handle};
use crate::data::{Real as _, blank, noise};
use crate::dnn::correct::{naive, near};
use crate::dnn::layer::Sizes;
use crate::gpu::{Failure, Gpu, Outcome};

const SIZES: Sizes = Sizes { n: 2, c: 16, size: [7, 6], k: 32, filter: [3, 3], stride: 1, pad: 1 };
const HALF: Number = Number::CUDNN_DATA_HALF;
const FLOAT: Number = Number::CUDNN_DATA_FLOAT;
/// The input of the norm, its mean, inverse deviation, scale and bias, the masked gradient, and the first of the five results.
const INPUT: i64 = 4;
const GIVEN: [i64; 4] = [5, 6, 7, 8];
const MASKED: i64 = 9;
const RESULTS: i64 = 30;

fn results() -> [Tensor; 5] {
    [0, 1, 2, 3, 4].map(|at| per_channel(RESULTS + at, FLOAT, SIZES.c))
}

/// The graph of `DgradDreluBNBwdWeight`, with a function for the mean, and a type of what is stored.
fn operations(center: Function, number: Number) -> Result<Vec<Descriptor>, Failure> {
    let mut conv = Conv::new(Pass::BackwardData, &SIZES, number);
    conv.tensors[0] = Tensor { number: FLOAT, is_virtual: true, ..conv.tensors[0].clone() };
    let gradient = conv.tensors[0].clone();
    let input = Tensor { uid: INPUT, number, is_virtual: false, ..gradient.clone() };
    let masked = Tensor { uid: MASKED, ..input.clone() };
    let given = GIVEN.map(|uid| per_channel(uid, FLOAT, SIZES.c));
    let [centered, divided, scaled, shifted] =
        [20, 21, 22, 23].map(|uid| Tensor { uid, ..gradient.clone() });
    let (mul, add) = (Function::CUDNN_POINTWISE_MUL, Function::CUDNN_POINTWISE_ADD);
    let mut norm = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_BN_BWD_WEIGHTS_DESCRIPTOR)?.set(
        Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_MATH_PREC,
        Type::CUDNN_TYPE_DATA_TYPE,
        &[FLOAT],
    )?;
    let names = [
        Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_X_DESC,
        Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DY_DESC,
        Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_MEAN_DESC,
        Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_INVSTD_DESC,
        Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_BN_SCALE_DESC,
        Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DBN_SCALE_DESC,
        Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_DBN_BIAS_DESC,
        Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_DY_SCALE_DESC,
        Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_X_SCALE_DESC,
        Name::CUDNN_ATTR_OPERATION_BN_BWD_WEIGHTS_EQ_BIAS,
    ];
    let results = results();
    let tensors = [&input, &masked].into_iter().chain(&given[..3]).chain(&results);
    for (name, tensor) in names.into_iter().zip(tensors) {
        norm = norm.children(name, &[&tensor.describe()?])?;
    }
    Ok(vec![
        conv.operation()?.finalize()?,
        pointwise(center, &input, Some(&given[0]), &centered)?,
        pointwise(mul, &centered, Some(&given[1]), &divided)?,
        pointwise(mul, &divided, Some(&given[2]), &scaled)?,
        pointwise(add, &scaled, Some(&given[3]), &shifted)?,
        pointwise(Function::CUDNN_POINTWISE_RELU_BWD, &shifted, Some(&gradient), &masked)?,
        norm.finalize()?,
    ])
}

fn graph_of(
    handle: cudnnHandle_t,
    center: Function,
    number: Number,
) -> Result<Descriptor, Failure> {
    graph(handle, &operations(center, number)?.iter().collect::<Vec<_>>())
}

/// The five results in f64, from the masked gradient.
fn expected(x: &[f32], dy: &[f32], [mean, deviation, scale]: [&[f32]; 3]) -> [Vec<f64>; 5] {
    let c = SIZES.c;
    let count = (x.len() / c) as f64;
    let mut results = [0; 5].map(|_| vec![0.0; c]);
    for channel in 0..c {
        let [mean, deviation, scale] =
            [mean, deviation, scale].map(|values| f64::from(values[channel]));
        let (mut dscale, mut dbias) = (0.0, 0.0);
        for at in (channel..x.len()).step_by(c) {
            dbias += f64::from(dy[at]);
            dscale += f64::from(dy[at]) * (f64::from(x[at]) - mean) * deviation;
        }
        // dx = scale * deviation * (dy - dbias / count - (x - mean) * deviation * dscale / count)
        let a = scale * deviation;
        let b = -scale * deviation * deviation * dscale / count;
        for (result, value) in
            results.iter_mut().zip([dscale, dbias, a, b, -a * dbias / count - b * mean])
        {
            result[channel] = value;
        }
    }
    results
}

pub(crate) fn gradient_of_a_norm(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let counts = SIZES.counts();
    let [input, w, dy]: [Vec<f16>; 3] = [0, 1, 2].map(|part| noise(counts[part], part + 1));
    let given: [Vec<f32>; 4] = [4, 5, 6, 7].map(|seed| noise(SIZES.c, seed));
    let values =
        |values: &[f16]| values.iter().map(|value| value.value() as f32).collect::<Vec<_>>();
    let [_, gradient, _] =
        naive(&SIZES, CUDNN_TENSOR_NHWC, &values(&input), &values(&w), &values(&dy));
    let x = values(&input);
    let mask = |at: usize| {
        let [mean, deviation, scale, bias] = [0, 1, 2, 3].map(|part| given[part][at % SIZES.c]);
        (x[at] - mean) * deviation * scale + bias
    };
    let graph = graph_of(handle, Function::CUDNN_POINTWISE_SUB, HALF)?;
    let configs = configs(&graph, Mode::CUDNN_HEUR_MODE_A)?;
    let plans: Vec<Plan> = configs.iter().filter_map(|one| Plan::new(handle, one).ok()).collect();
    if plans.len() < 4 {
        return Err(Failure(format!("{} plans", plans.len())));
    }
    for plan in &plans {
        let (on_w, on_dy, on_x) =
            (gpu.two.clone_htod(&w)?, gpu.two.clone_htod(&dy)?, gpu.two.clone_htod(&input)?);
        let masked: CudaSlice<f16> = blank(gpu, input.len())?;
        let mut memory = vec![
            (2, at(gpu, &on_w)),
            (3, at(gpu, &on_dy)),
            (INPUT, at(gpu, &on_x)),
            (MASKED, at(gpu, &masked)),
        ];
        let mut channels = Vec::new();
        for (uid, values) in GIVEN.into_iter().zip(&given) {
            channels.push(gpu.two.clone_htod(values)?);
            memory.push((uid, at(gpu, &channels[channels.len() - 1])));
        }
        let mut found = Vec::new();
        for uid in RESULTS..RESULTS + 5 {
            let result: CudaSlice<f32> = blank(gpu, SIZES.c)?;
            memory.push((uid, at(gpu, &result)));
            found.push(result);
        }
        plan.run(gpu, handle, &memory)?;
        let masked = values(&gpu.two.clone_dtoh(&masked)?);
        let what = format!("engine {} {:?}", plan.engine, plan.notes);
        for (at, value) in masked.iter().enumerate() {
            let wanted = if mask(at) > 0.0 { gradient[at] } else { 0.0 };
            // The mask may round to the other side of 0.
            if mask(at).abs() > 1e-3 && (f64::from(*value) - wanted).abs() > 0.02 {
                return Err(Failure(format!("{what}: {value} at {at}, not {wanted}")));
            }
        }
        let wanted = expected(&x, &masked, [&given[0], &given[1], &given[2]]);
        for (part, (result, wanted)) in found.iter().zip(&wanted).enumerate() {
            near(&format!("{what}, result {part}"), &gpu.two.clone_dtoh(result)?, wanted, 0.1)?;
        }
    }
    Ok(())
}

/// The mean is subtracted: cuDNN knows no other form.
pub(crate) fn mean_is_added(gpu: &Gpu) -> Outcome {
    refuse(&graph_of(handle(gpu)?, Function::CUDNN_POINTWISE_ADD, HALF)?)
}

pub(crate) fn gradient_of_a_norm_in_bf16(gpu: &Gpu) -> Outcome {
    let number = Number::CUDNN_DATA_BFLOAT16;
    refuse(&graph_of(handle(gpu)?, Function::CUDNN_POINTWISE_SUB, number)?)
}
