//! The three passes are adjoint to each other and match the definition.

use cudarc::cudnn::sys::cudnnMathType_t::CUDNN_DEFAULT_MATH;
use cudarc::cudnn::sys::cudnnTensorFormat_t::{self, CUDNN_TENSOR_NCHW, CUDNN_TENSOR_NHWC};
use cudarc::cudnn::sys::{cudnnConvolutionBwdDataAlgo_t, cudnnConvolutionBwdFilterAlgo_t};
use half::{bf16, f16};

use super::layer::{BACKWARD_DATA, BACKWARD_FILTER, Layer, SIZES, Sizes, three_passes};
use crate::data::{Real, blank, noise};
use crate::gpu::{Failure, Gpu, Outcome};

/// The sum of products, and the sum of their magnitudes.
fn dot<T: Real>(one: &[T], other: &[T]) -> (f64, f64) {
    let products = one.iter().zip(other).map(|(one, other)| one.value() * other.value());
    products.fold((0.0, 0.0), |(sum, size), product| (sum + product, size + product.abs()))
}

fn adjoint<T: Real>(gpu: &Gpu) -> Outcome {
    for sizes in SIZES {
        for format in [CUDNN_TENSOR_NCHW, CUDNN_TENSOR_NHWC] {
            let passes = three_passes(gpu, &Layer::<T>::new(gpu, sizes, format)?)?;
            let [x, w, y] = passes.map(|[one, other]| dot(&one, &other));
            let error = T::ROUNDING * (x.1 + w.1 + y.1);
            if (x.0 - y.0).abs() > error || (w.0 - y.0).abs() > error {
                return Err(Failure(format!("{sizes:?} {format:?}: {x:?} {w:?} {y:?}")));
            }
        }
    }
    Ok(())
}

pub(crate) fn passes_are_adjoint(gpu: &Gpu) -> Outcome {
    adjoint::<f32>(gpu)?;
    adjoint::<f16>(gpu)?;
    adjoint::<bf16>(gpu)
}

/// The index of an element.
fn at(format: cudnnTensorFormat_t, [_, c, h, w]: [usize; 4], [i, j, y, x]: [usize; 4]) -> usize {
    match format {
        CUDNN_TENSOR_NHWC => ((i * h + y) * w + x) * c + j,
        _ => ((i * c + j) * h + y) * w + x,
    }
}

/// Computes y, dx and dw by the definition.
pub(super) fn naive(
    sizes: &Sizes,
    format: cudnnTensorFormat_t,
    x: &[f32],
    w: &[f32],
    dy: &[f32],
) -> [Vec<f64>; 3] {
    let [xs, ws, ys] = sizes.dims();
    let [mut y, mut dx, mut dw] = [dy.len(), x.len(), w.len()].map(|count| vec![0.0; count]);
    for n in 0..sizes.n {
        for k in 0..sizes.k {
            for (oy, ox) in (0..ys[2]).flat_map(|oy| (0..ys[3]).map(move |ox| (oy, ox))) {
                for c in 0..sizes.c {
                    for (r, s) in (0..ws[2]).flat_map(|r| (0..ws[3]).map(move |s| (r, s))) {
                        let iy = (oy * sizes.stride + r).wrapping_sub(sizes.pad);
                        let ix = (ox * sizes.stride + s).wrapping_sub(sizes.pad);
                        if iy < xs[2] && ix < xs[3] {
                            let on_x = at(format, xs, [n, c, iy, ix]);
                            let on_w = at(format, ws, [k, c, r, s]);
                            let on_y = at(format, ys, [n, k, oy, ox]);
                            y[on_y] += f64::from(x[on_x]) * f64::from(w[on_w]);
                            dx[on_x] += f64::from(dy[on_y]) * f64::from(w[on_w]);
                            dw[on_w] += f64::from(dy[on_y]) * f64::from(x[on_x]);
                        }
                    }
                }
            }
        }
    }
    [y, dx, dw]
}

pub(super) fn near(what: &str, found: &[f32], wanted: &[f64], error: f64) -> Outcome {
    let worst = found.iter().zip(wanted).map(|(found, wanted)| (f64::from(*found) - wanted).abs());
    match worst.fold(0.0, f64::max) {
        worst if worst <= error && found.len() == wanted.len() => Ok(()),
        worst => Err(Failure(format!("{what} is off by {worst}"))),
    }
}

pub(crate) fn passes_match_the_definition(gpu: &Gpu) -> Outcome {
    for sizes in SIZES {
        for format in [CUDNN_TENSOR_NCHW, CUDNN_TENSOR_NHWC] {
            let layer = Layer::<f32>::new(gpu, sizes, format)?;
            let [[x, dx], [w, dw], [y, dy]] = three_passes(gpu, &layer)?;
            let wanted = naive(&sizes, format, &x, &w, &dy);
            near("y", &y, &wanted[0], 2e-5)?;
            near("dx", &dx, &wanted[1], 2e-5)?;
            near("dw", &dw, &wanted[2], 2e-5)?;
        }
    }
    Ok(())
}

pub(crate) fn alpha_and_beta(gpu: &Gpu) -> Outcome {
    let layer = Layer::<f32>::new(gpu, SIZES[0], CUDNN_TENSOR_NHWC)?;
    let [[x, _], [w, _], [y, dy]] = three_passes(gpu, &layer)?;
    let (x, w) = (gpu.two.clone_htod(&x)?, gpu.two.clone_htod(&w)?);
    let mut kept = gpu.two.clone_htod(&dy)?;
    layer.run(gpu, [0.5, -2.0], [&x, &w], &mut kept)?;
    let wanted: Vec<f64> =
        y.iter().zip(&dy).map(|(y, old)| 0.5 * f64::from(*y) - 2.0 * f64::from(*old)).collect();
    near("y", &gpu.two.clone_dtoh(&kept)?, &wanted, 1e-6)
}

/// Default math is TF32, FMA math is f32.
pub(crate) fn f32_needs_fma_math(gpu: &Gpu) -> Outcome {
    let mut layer = Layer::<f32>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let [.., [exact, _]] = three_passes(gpu, &layer)?;
    layer.conv.set_math_type(CUDNN_DEFAULT_MATH)?;
    let [.., [rounded, _]] = three_passes(gpu, &layer)?;
    let exact: Vec<f64> = exact.into_iter().map(f64::from).collect();
    near("y", &rounded, &exact, 72.0 / 1024.0)?;
    match near("y", &rounded, &exact, 1e-5) {
        Ok(()) => Err(Failure("default math was f32".to_owned())),
        Err(_) => Ok(()),
    }
}

pub(crate) fn determinism_is_as_reported(gpu: &Gpu) -> Outcome {
    let sizes = Sizes { n: 2, c: 16, size: [12, 12], k: 64, filter: [3, 3], stride: 1, pad: 1 };
    let layer = Layer::<f32>::new(gpu, sizes, CUDNN_TENSOR_NHWC)?;
    let counts = sizes.counts();
    let (x, w) =
        (gpu.two.clone_htod(&noise(counts[0], 1))?, gpu.two.clone_htod(&noise(counts[1], 2))?);
    let dy = gpu.two.clone_htod(&noise(counts[2], 3))?;
    let data = |algorithm| {
        Ok::<_, Failure>(gpu.two.clone_dtoh(&layer.run_data(gpu, &w, &dy, algorithm)?)?)
    };
    let filter = |algorithm| {
        Ok::<_, Failure>(gpu.two.clone_dtoh(&layer.run_filter(gpu, &x, &dy, algorithm)?)?)
    };
    let atomic_data = cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_0;
    let atomic_filter = cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_3;
    let same = data(BACKWARD_DATA)? == data(BACKWARD_DATA)?
        && filter(BACKWARD_FILTER)? == filter(BACKWARD_FILTER)?;
    let differ = data(atomic_data)? != data(atomic_data)?
        && filter(atomic_filter)? != filter(atomic_filter)?;
    match (same, differ) {
        (true, true) => Ok(()),
        other => Err(Failure(format!("same, differ: {other:?}"))),
    }
}

/// One stream uploads the inputs of a convolution on another one.
pub(crate) fn two_streams(gpu: &Gpu) -> Outcome {
    let layer = Layer::<bf16>::new(gpu, SIZES[1], CUDNN_TENSOR_NHWC)?;
    let counts = SIZES[1].counts();
    let x = gpu.one.clone_htod(&noise::<bf16>(counts[0], 1))?;
    let w = gpu.one.clone_htod(&noise::<bf16>(counts[1], 2))?;
    let uploaded = gpu.event()?;
    uploaded.record(&gpu.one)?;
    gpu.two.wait(&uploaded)?;
    let mut y = blank(gpu, counts[2])?;
    layer.run(gpu, [1.0, 0.0], [&x, &w], &mut y)?;
    let done = gpu.event()?;
    done.record(&gpu.two)?;
    gpu.one.wait(&done)?;
    let [.., [wanted, _]] = three_passes(gpu, &layer)?;
    if gpu.one.clone_dtoh(&y)? == wanted { Ok(()) } else { Err(Failure("y differs".to_owned())) }
}
