//! Convolutions with statistics of their output, and with a scaled input.

use cudarc::cudnn::sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;
use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type,
    cudnnBackendDescriptorType_t as Kind, cudnnBackendHeurMode_t as Mode,
    cudnnDataType_t as Number, cudnnGenStatsMode_t, cudnnHandle_t,
    cudnnPointwiseMode_t as Function,
};
use cudarc::driver::CudaSlice;
use half::{bf16, f16};

use super::descriptor::Descriptor;
use super::plan::{Conv, Pass, Plan, Tensor, at, configs, graph, handle};
use crate::data::{Real, blank, noise};
use crate::dnn::correct::{naive, near};
use crate::dnn::layer::Sizes;
use crate::gpu::{Failure, Gpu, Outcome};

const SIZES: Sizes = Sizes { n: 2, c: 16, size: [7, 6], k: 32, filter: [3, 3], stride: 2, pad: 1 };
const HALF: Number = Number::CUDNN_DATA_HALF;
const FLOAT: Number = Number::CUDNN_DATA_FLOAT;
/// The identifiers of the tensors other than x, w and y.
const SUM: i64 = 4;
const SQUARES: i64 = 5;
const SCALE: i64 = 6;
const BIAS: i64 = 7;

pub(super) fn per_channel(uid: i64, number: Number, channels: usize) -> Tensor {
    Tensor::new(uid, number, [1, channels, 1, 1])
}

fn statistics(y: &Tensor, sum: &Tensor, squares: &Tensor) -> Result<Descriptor, Failure> {
    Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR)?
        .set(
            Name::CUDNN_ATTR_OPERATION_GENSTATS_MODE,
            Type::CUDNN_TYPE_GENSTATS_MODE,
            &[cudnnGenStatsMode_t::CUDNN_GENSTATS_SUM_SQSUM],
        )?
        .set(Name::CUDNN_ATTR_OPERATION_GENSTATS_MATH_PREC, Type::CUDNN_TYPE_DATA_TYPE, &[FLOAT])?
        .children(Name::CUDNN_ATTR_OPERATION_GENSTATS_XDESC, &[&y.describe()?])?
        .children(Name::CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC, &[&sum.describe()?])?
        .children(Name::CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC, &[&squares.describe()?])?
        .finalize()
}

/// A pointwise operation. In the backward direction `other` is dy and `y` is dx.
pub(super) fn pointwise(
    function: Function,
    x: &Tensor,
    other: Option<&Tensor>,
    y: &Tensor,
) -> Result<Descriptor, Failure> {
    let [b, out] = match function {
        Function::CUDNN_POINTWISE_RELU_BWD => [
            Name::CUDNN_ATTR_OPERATION_POINTWISE_DYDESC,
            Name::CUDNN_ATTR_OPERATION_POINTWISE_DXDESC,
        ],
        _ => {
            [Name::CUDNN_ATTR_OPERATION_POINTWISE_BDESC, Name::CUDNN_ATTR_OPERATION_POINTWISE_YDESC]
        }
    };
    let function = Descriptor::new(Kind::CUDNN_BACKEND_POINTWISE_DESCRIPTOR)?
        .set(Name::CUDNN_ATTR_POINTWISE_MODE, Type::CUDNN_TYPE_POINTWISE_MODE, &[function])?
        .set(Name::CUDNN_ATTR_POINTWISE_MATH_PREC, Type::CUDNN_TYPE_DATA_TYPE, &[FLOAT])?
        .finalize()?;
    let mut operation = Descriptor::new(Kind::CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR)?
        .children(Name::CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, &[&function])?
        .children(Name::CUDNN_ATTR_OPERATION_POINTWISE_XDESC, &[&x.describe()?])?
        .children(out, &[&y.describe()?])?;
    if let Some(other) = other {
        operation = operation.children(b, &[&other.describe()?])?;
    }
    operation.finalize()
}

/// What a graph consists of beside its convolution.
#[derive(Clone)]
struct Parts {
    conv: Conv,
    scaled: bool,
    sums: Option<Number>,
    channels: usize,
    /// The type of the values between the operations.
    between: Number,
}

impl Parts {
    fn new(pass: Pass, number: Number, scaled: bool) -> Self {
        let conv = Conv::new(pass, &SIZES, number);
        let sums = (pass == Pass::Forward).then_some(FLOAT);
        Self { conv, scaled, sums, channels: SIZES.k, between: HALF }
    }

    /// The graph, with the convolution first: the order of the operations has no meaning.
    fn graph(&self, handle: cudnnHandle_t) -> Result<Descriptor, Failure> {
        let mut conv = self.conv.clone();
        let [x, _, y] = conv.tensors.clone();
        let mut operations = Vec::new();
        if self.scaled {
            let [scaled, shifted, clipped] = [10, 11, 12].map(|uid| Tensor {
                uid,
                is_virtual: true,
                number: self.between,
                ..x.clone()
            });
            let [scale, bias] = [SCALE, BIAS].map(|uid| per_channel(uid, x.number, SIZES.c));
            let (mul, add) = (Function::CUDNN_POINTWISE_MUL, Function::CUDNN_POINTWISE_ADD);
            operations.push(pointwise(mul, &x, Some(&scale), &scaled)?);
            operations.push(pointwise(add, &scaled, Some(&bias), &shifted)?);
            operations.push(pointwise(
                Function::CUDNN_POINTWISE_RELU_FWD,
                &shifted,
                None,
                &clipped,
            )?);
            conv.tensors[0] = clipped;
        }
        operations.insert(0, conv.operation()?.finalize()?);
        if let Some(number) = self.sums {
            let [sum, squares] = [SUM, SQUARES].map(|uid| per_channel(uid, number, self.channels));
            operations.push(statistics(&y, &sum, &squares)?);
        }
        graph(handle, &operations.iter().collect::<Vec<_>>())
    }

    fn plans(&self, handle: cudnnHandle_t) -> Result<Vec<Plan>, Failure> {
        let configs = configs(&self.graph(handle)?, Mode::CUDNN_HEUR_MODE_A)?;
        Ok(configs.iter().filter_map(|config| Plan::new(handle, config).ok()).collect())
    }
}

/// The results of a plan: the output of the convolution, and the statistics if it is forward.
fn run<T: Real>(
    gpu: &Gpu,
    handle: cudnnHandle_t,
    (parts, plan): (&Parts, &Plan),
    data: &[Vec<T>; 3],
    affine: &[Vec<T>; 2],
) -> Result<(Vec<f32>, [Vec<f32>; 2]), Failure> {
    let output = parts.conv.pass.output();
    let mut slices = Vec::new();
    for (part, values) in data.iter().enumerate() {
        let on_device =
            if part == output { blank(gpu, values.len())? } else { gpu.two.clone_htod(values)? };
        slices.push(on_device);
    }
    let [scale, bias] = [gpu.two.clone_htod(&affine[0])?, gpu.two.clone_htod(&affine[1])?];
    let sums: [CudaSlice<f32>; 2] = [blank(gpu, SIZES.k)?, blank(gpu, SIZES.k)?];
    let mut memory: Vec<_> =
        slices.iter().zip(1..).map(|(slice, uid)| (uid, at(gpu, slice))).collect();
    if parts.scaled {
        memory.extend([(SCALE, at(gpu, &scale)), (BIAS, at(gpu, &bias))]);
    }
    if parts.sums.is_some() {
        memory.extend([(SUM, at(gpu, &sums[0])), (SQUARES, at(gpu, &sums[1]))]);
    }
    plan.run(gpu, handle, &memory)?;
    let found = gpu.two.clone_dtoh(&slices[output])?;
    let found = found.iter().map(|value| value.value() as f32).collect();
    let sums = match parts.sums {
        Some(_) => [gpu.two.clone_dtoh(&sums[0])?, gpu.two.clone_dtoh(&sums[1])?],
        None => [Vec::new(), Vec::new()],
    };
    Ok((found, sums))
}

/// Compares all plans with a direct computation. Returns how many there are, and how many give statistics of rounded values.
fn all_plans<T: Real>(gpu: &Gpu, parts: &Parts) -> Result<[usize; 2], Failure> {
    let handle = handle(gpu)?;
    let counts = SIZES.counts();
    let data: [Vec<T>; 3] = [0, 1, 2].map(|part| noise(counts[part], part + 1));
    let affine: [Vec<T>; 2] = [noise(SIZES.c, 5), noise(SIZES.c, 6)];
    let values = |values: &[T]| values.iter().map(|value| value.value() as f32).collect::<Vec<_>>();
    let (mut x, w, dy) = (values(&data[0]), values(&data[1]), values(&data[2]));
    if parts.scaled {
        for (at, x) in x.iter_mut().enumerate() {
            let [scale, bias] = [0, 1].map(|part| affine[part][at % SIZES.c].value() as f32);
            *x = (*x * scale + bias).max(0.0);
        }
    }
    let [y, _, dw] = naive(&SIZES, CUDNN_TENSOR_NHWC, &x, &w, &dy);
    let wanted = if parts.conv.pass == Pass::Forward { y } else { dw };
    let largest = wanted.iter().fold(1.0, |largest: f64, value| largest.max(value.abs()));
    let mut rounded = 0;
    let plans = parts.plans(handle)?;
    for plan in &plans {
        let (found, sums) = run(gpu, handle, (parts, plan), &data, &affine)?;
        let what = format!("engine {} {:?}", plan.engine, plan.notes);
        near(&what, &found, &wanted, 4.0 * T::ROUNDING * largest)?;
        if parts.sums.is_none() {
            continue;
        }
        let mut expected = [vec![0.0; SIZES.k], vec![0.0; SIZES.k]];
        for (at, value) in found.iter().enumerate() {
            expected[0][at % SIZES.k] += f64::from(*value);
            expected[1][at % SIZES.k] += f64::from(*value) * f64::from(*value);
        }
        // The sums of values that are not rounded differ from these, by less than the rounding of each.
        let pixels = (found.len() / SIZES.k) as f64;
        near(&what, &sums[0], &expected[0], pixels * largest * T::ROUNDING)?;
        near(&what, &sums[1], &expected[1], pixels * largest * largest * 2.0 * T::ROUNDING)?;
        rounded += usize::from(near(&what, &sums[0], &expected[0], 1e-5 * pixels).is_ok());
    }
    Ok([plans.len(), rounded])
}

/// Statistics may be those of the convolution before or after its rounding: both occur.
pub(crate) fn statistics_of_a_convolution(gpu: &Gpu) -> Outcome {
    let [plans, rounded] = all_plans::<f16>(gpu, &Parts::new(Pass::Forward, HALF, false))?;
    let [compiled, _] =
        all_plans::<bf16>(gpu, &Parts::new(Pass::Forward, Number::CUDNN_DATA_BFLOAT16, false))?;
    if plans < 5 || rounded == 0 || rounded == plans || compiled == 0 {
        return Err(Failure(format!("{plans} plans, {rounded} rounded, {compiled} for bf16")));
    }
    Ok(())
}

pub(crate) fn scaled_input_of_a_convolution(gpu: &Gpu) -> Outcome {
    for between in [HALF, FLOAT] {
        for pass in [Pass::Forward, Pass::BackwardFilter] {
            let parts = Parts { between, ..Parts::new(pass, HALF, true) };
            let [plans, _] = all_plans::<f16>(gpu, &parts)?;
            if plans < 5 {
                return Err(Failure(format!("{pass:?}: {plans} plans")));
            }
        }
    }
    Ok(())
}

/// Looks for the first plan of a graph that has none.
pub(super) fn refuse(graph: &Descriptor) -> Outcome {
    let found = configs(graph, Mode::CUDNN_HEUR_MODE_A)?.len();
    if found > 0 {
        return Err(Failure(format!("{found} configurations")));
    }
    let engine = Descriptor::new(Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?
        .children(Name::CUDNN_ATTR_ENGINE_OPERATION_GRAPH, &[graph])?
        .ints(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX, &[1])?
        .finalize()?;
    Descriptor::new(Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)?
        .children(Name::CUDNN_ATTR_ENGINECFG_ENGINE, &[&engine])?
        .finalize()?;
    Ok(())
}

fn refused(gpu: &Gpu, parts: &Parts) -> Outcome {
    refuse(&parts.graph(handle(gpu)?)?)
}

pub(crate) fn scaled_input_of_bf16(gpu: &Gpu) -> Outcome {
    refused(gpu, &Parts::new(Pass::Forward, Number::CUDNN_DATA_BFLOAT16, true))
}

pub(crate) fn statistics_in_half(gpu: &Gpu) -> Outcome {
    refused(gpu, &Parts { sums: Some(HALF), ..Parts::new(Pass::Forward, HALF, false) })
}

pub(crate) fn statistics_of_f32(gpu: &Gpu) -> Outcome {
    refused(gpu, &Parts::new(Pass::Forward, FLOAT, false))
}

pub(crate) fn statistics_of_other_channels(gpu: &Gpu) -> Outcome {
    let parts = Parts { channels: SIZES.k - 1, ..Parts::new(Pass::Forward, HALF, false) };
    parts.graph(handle(gpu)?)?;
    Ok(())
}

/// cuDNN has no plan for statistics of an output that is not stored.
pub(crate) fn statistics_of_a_virtual_output(gpu: &Gpu) -> Outcome {
    let mut parts = Parts::new(Pass::Forward, HALF, false);
    parts.conv.tensors[2].is_virtual = true;
    refused(gpu, &parts)
}

/// The sums are in memory for one channel too few.
pub(crate) fn statistics_are_short(gpu: &Gpu) -> Outcome {
    let handle = handle(gpu)?;
    let parts = Parts::new(Pass::Forward, HALF, false);
    let counts = SIZES.counts();
    let (x, w) = (
        gpu.two.clone_htod(&noise::<f16>(counts[0], 1))?,
        gpu.two.clone_htod(&noise::<f16>(counts[1], 2))?,
    );
    let (y, sum): (CudaSlice<f16>, CudaSlice<f32>) =
        (blank(gpu, counts[2])?, blank(gpu, SIZES.k - 1)?);
    let squares: CudaSlice<f32> = blank(gpu, SIZES.k)?;
    let memory = [
        (1, at(gpu, &x)),
        (2, at(gpu, &w)),
        (3, at(gpu, &y)),
        (SUM, at(gpu, &sum)),
        (SQUARES, at(gpu, &squares)),
    ];
    parts.plans(handle)?[0].run(gpu, handle, &memory)?;
    Ok(gpu.two.synchronize()?)
}
