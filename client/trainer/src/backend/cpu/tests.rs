//! Every layer against its definition, its gradients against finite differences in f64, and SIMD kernels
//! against the scalar version, bit for bit.

use super::batch_norm::{self, BatchNorm};
use super::conv::{self, Convolution, Scratch};
use super::gemm::{Gemm, OuterProduct};
use super::indirection::Indirection;
use super::pool;
use crate::model::{Conv, Shape};
use crate::simd::{PANEL, Real, SimdLevel};

/// Pseudo-random numbers in -1..1.
fn numbers<T: Real>(count: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        T::from_f64(f64::from(u32::try_from(state >> 40).unwrap()) / 8_388_608.0 - 1.0)
    };
    (0..count).map(|_| next()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Checks a gradient of `value` at `x` by finite differences, for some elements of `x`.
fn check_gradient(
    what: &str,
    x: &mut [f64],
    gradient: &[f64],
    mut value: impl FnMut(&[f64]) -> f64,
) {
    let step = 1e-5;
    for i in (0..x.len()).step_by(x.len().div_ceil(23)) {
        let here = x[i];
        x[i] = here + step;
        let up = value(x);
        x[i] = here - step;
        let down = value(x);
        x[i] = here;
        let expected = (up - down) / (2.0 * step);
        assert!(
            (gradient[i] - expected).abs() < 1e-6 * expected.abs().max(1.0),
            "{what} {i}: {} {expected}",
            gradient[i]
        );
    }
}

fn convolution(
    size: (usize, usize),
    channels: (usize, usize),
    kernel: usize,
    stride: usize,
    padded: bool,
) -> Conv {
    let pad = kernel / 2;
    let out = |size: usize| (size + 2 * pad - kernel) / stride + 1;
    Conv {
        input: Shape { height: size.0, width: size.1, channels: channels.0 },
        output: Shape { height: out(size.0), width: out(size.1), channels: channels.1 },
        kernel,
        stride,
        pad,
        padded,
    }
}

/// Kernel sizes, strides, odd sizes, and fewer, as many and more channels than a panel has.
fn convolutions() -> Vec<Conv> {
    vec![
        convolution((5, 6), (3, 5), 3, 1, false),
        convolution((7, 5), (33, 40), 3, 2, false),
        convolution((6, 6), (32, 64), 1, 2, false),
        convolution((4, 9), (9, 32), 1, 1, false),
        convolution((11, 10), (3, 16), 7, 2, true),
        convolution((8, 8), (3, 16), 3, 1, true),
        convolution((1, 1), (40, 10), 1, 1, false),
    ]
}

/// Converts weights from timm's layout to panels.
fn stored<T: Real>(conv: &Conv, weights: &[T]) -> Vec<T> {
    let shape = [conv.output.channels, conv.input.channels, conv.kernel, conv.kernel];
    let mut panels = vec![T::ZERO; conv::panel_len(&shape)];
    for (i, weight) in weights.iter().enumerate() {
        panels[conv::panel_index(&shape, i)] = *weight;
    }
    panels
}

fn unstored(conv: &Conv, panels: &[f64]) -> Vec<f64> {
    let shape = [conv.output.channels, conv.input.channels, conv.kernel, conv.kernel];
    (0..conv.weights()).map(|i| panels[conv::panel_index(&shape, i)]).collect()
}

/// Convolution by its definition.
fn naive(conv: &Conv, samples: usize, x: &[f64], weights: &[f64]) -> Vec<f64> {
    let (from, to) = (conv.input, conv.output);
    let (width, pad) = (conv.padded_width(), if conv.padded { 0 } else { conv.pad });
    let image = if conv.padded { (from.height + 2 * conv.pad) * width } else { from.pixels() }
        * from.channels;
    let mut y = Vec::new();
    for (sample, row, column, out) in (0..samples * to.elements()).map(|i| {
        (
            i / to.elements(),
            i / (to.width * to.channels) % to.height,
            i / to.channels % to.width,
            i % to.channels,
        )
    }) {
        let mut sum = 0.0;
        for (i, weight) in weights[out * from.channels * conv.kernel * conv.kernel..]
            .iter()
            .enumerate()
            .take(from.channels * conv.kernel * conv.kernel)
        {
            let (channel, down, right) =
                (i / (conv.kernel * conv.kernel), i / conv.kernel % conv.kernel, i % conv.kernel);
            let (Some(down), Some(right)) = (
                (row * conv.stride + down).checked_sub(pad),
                (column * conv.stride + right).checked_sub(pad),
            ) else {
                continue;
            };
            if conv.padded || (down < from.height && right < from.width) {
                sum +=
                    weight * x[sample * image + (down * width + right) * from.channels + channel];
            }
        }
        y.push(sum);
    }
    y
}

#[test]
fn convolutions_and_their_gradients_are_right() {
    for conv in convolutions() {
        let (samples, table) = (3, Convolution::new(conv, !conv.padded));
        let pad = if conv.padded { conv.pad } else { 0 };
        let image = (conv.input.height + 2 * pad) * conv.padded_width() * conv.input.channels;
        let mut x: Vec<f64> = numbers(samples * image, 1);
        let mut weights: Vec<f64> = numbers(conv.weights(), 2);
        let bias: Vec<f64> = numbers(conv.output.channels, 3);
        let dy: Vec<f64> = numbers(samples * conv.output.elements(), 4);
        let zeros = vec![0.0; 64];
        let mut y = vec![9.0; dy.len()];
        table.forward(&x, &stored(&conv, &weights), Some(&bias), &zeros, &mut y);
        let expected = naive(&conv, samples, &x, &weights);
        for (i, (y, expected)) in y.iter().zip(&expected).enumerate() {
            assert!((y - expected - bias[i % bias.len()]).abs() < 1e-12, "{conv:?} {i}");
        }

        let mut work = vec![7.0; table.transposed_len().max(table.partial_len(samples))];
        let mut gradient = vec![1.0; stored(&conv, &weights).len()];
        table.weight_gradient(&x, &dy, &mut work, &mut gradient);
        let gradient: Vec<f64> = unstored(&conv, &gradient).into_iter().map(|s| s - 1.0).collect();
        check_gradient("weights", &mut weights, &gradient, |w| {
            dot(&naive(&conv, samples, &x, w), &dy)
        });
        if conv.padded {
            continue;
        }
        let mut dx = vec![5.0; x.len()];
        let scratch = Scratch { values: &mut work, zeros: &zeros };
        table.input_gradient(&dy, &stored(&conv, &weights), false, scratch, &mut dx);
        check_gradient("source", &mut x, &dx, |x| dot(&naive(&conv, samples, x, &weights), &dy));
        let mut added = vec![2.0; x.len()];
        let scratch = Scratch { values: &mut work, zeros: &zeros };
        table.input_gradient(&dy, &stored(&conv, &weights), true, scratch, &mut added);
        assert!(added.iter().zip(&dx).all(|(a, d)| (a - d - 2.0).abs() < 1e-12), "{conv:?}");
    }
}

const LEVELS: [SimdLevel; 3] = [SimdLevel::Scalar, SimdLevel::Avx2, SimdLevel::Avx512];

fn compare_levels<T: Real>() {
    for conv in convolutions() {
        let (samples, indirection) = (4, Indirection::forward(&conv));
        let pad = if conv.padded { conv.pad } else { 0 };
        let image = (conv.input.height + 2 * pad) * conv.padded_width() * conv.input.channels;
        let depth = conv.input.channels * if conv.padded { conv.kernel } else { 1 };
        let x: Vec<T> = numbers(samples * image, 5);
        let dy: Vec<T> = numbers(samples * conv.output.elements(), 6);
        let panels = stored::<T>(&conv, &numbers(conv.weights(), 7));
        let zeros = vec![T::ZERO; 64];
        let mut ys = [dy.clone(), dy.clone(), dy.clone()];
        for (level, target) in LEVELS.into_iter().zip(&mut ys) {
            let product = Gemm {
                indirection: &indirection,
                target,
                target_image: conv.output.elements(),
                source: &x,
                source_image: image,
                zeros: &zeros,
                panels: &panels,
                depth,
                columns: conv.output.channels,
                bias: None,
                accumulate: conv.stride == 2,
            };
            T::dispatch_at_most(level, product);
        }
        assert!(ys[0] == ys[1] && ys[0] == ys[2], "{conv:?}");
        let one = panels.len() / conv.output.channels.div_ceil(PANEL);
        let mut weights = [vec![T::ZERO; one], vec![T::ONE; one], vec![T::ONE; one]];
        for (level, weights) in LEVELS.into_iter().zip(&mut weights) {
            let outer = OuterProduct {
                indirection: &indirection,
                weights,
                source: &x,
                source_image: image,
                gradient: &dy,
                depth,
                columns: conv.output.channels,
                column: 0,
            };
            T::dispatch_at_most(level, outer);
        }
        assert!(weights[0] == weights[1] && weights[0] == weights[2], "{conv:?}");
    }
}

#[test]
fn simd_kernels_give_the_bits_of_the_scalar_version() {
    compare_levels::<f32>();
    compare_levels::<f64>();
}

/// A batch norm over 5 channels and 3 samples of 30 pixels.
struct Layer {
    relu: bool,
    scales: Option<[f64; 3]>,
    gamma: Vec<f64>,
    beta: Vec<f64>,
    saved: Vec<f64>,
}

impl Layer {
    fn norm(&mut self) -> BatchNorm<'_, f64> {
        BatchNorm {
            channels: 5,
            pixels: 30,
            relu: self.relu,
            scales: self.scales.as_ref().map(|s| &s[..]),
            gamma: &self.gamma,
            beta: &self.beta,
            saved: &mut self.saved,
        }
    }

    fn forward(&mut self, x: &[f64], residual: Option<&[f64]>) -> Vec<f64> {
        let mut y = vec![0.0; x.len()];
        let mut norm = self.norm();
        norm.batch_statistics(x, &mut [0.0; 10], &mut vec![0.0; batch_norm::scratch_len(5)]);
        norm.forward(x, residual, &mut y);
        y
    }
}

#[test]
fn batch_norms_and_their_gradients_are_right() {
    for (relu, with_residual, scales) in [
        (false, false, None),
        (true, false, None),
        (true, true, None),
        (true, true, Some([0.0, 1.25, 1.25])),
        (false, true, None),
    ] {
        let mut layer =
            Layer { relu, scales, gamma: numbers(5, 1), beta: numbers(5, 2), saved: vec![0.0; 20] };
        let mut x: Vec<f64> = numbers(450, 3);
        let mut residual: Vec<f64> = numbers(450, 4);
        let dy: Vec<f64> = numbers(450, 5);
        let y = layer.forward(&x, with_residual.then_some(&residual));
        let (mut dr, mut other, mut dgamma, mut dbeta) =
            (dy.clone(), vec![3.0; 450], vec![0.0; 5], vec![0.0; 5]);
        let parts = with_residual.then_some((&y[..], &mut other[..]));
        layer.norm().backward(
            &x,
            parts,
            &mut dr,
            [&mut dgamma, &mut dbeta],
            &mut vec![0.0; batch_norm::scratch_len(5)],
        );
        let dx = if with_residual { &other } else { &dr };
        let fixed = residual.clone();
        let other = |layer: &mut Layer, x: &[f64]| {
            dot(&layer.forward(x, with_residual.then_some(&fixed)), &dy)
        };
        check_gradient("x", &mut x, dx, |x| other(&mut layer, x));
        for (what, gradient) in [("gamma", &dgamma), ("beta", &dbeta)] {
            let mut numbers =
                if what == "gamma" { layer.gamma.clone() } else { layer.beta.clone() };
            check_gradient(what, &mut numbers, gradient, |numbers| {
                let place = if what == "gamma" { &mut layer.gamma } else { &mut layer.beta };
                let before = std::mem::replace(place, numbers.to_vec());
                let value = other(&mut layer, &x);
                *(if what == "gamma" { &mut layer.gamma } else { &mut layer.beta }) = before;
                value
            });
        }
        if with_residual {
            check_gradient("residual", &mut residual, &dr, |r| {
                dot(&layer.forward(&x, Some(r)), &dy)
            });
        }
    }
}

#[test]
fn running_statistics_match_torch() {
    let mut layer = Layer {
        relu: false,
        scales: None,
        gamma: vec![1.0; 5],
        beta: vec![0.0; 5],
        saved: vec![0.0; 20],
    };
    let x: Vec<f64> = numbers::<f64>(450, 9).into_iter().map(|x| x + 1000.0).collect();
    let mut running = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0];
    let mut batch = [0.0; 10];
    layer.norm().batch_statistics(&x, &mut batch, &mut vec![0.0; batch_norm::scratch_len(5)]);
    batch_norm::update_running(&mut running, &batch);
    for channel in 0..5 {
        let values: Vec<f64> = x.iter().skip(channel).step_by(5).copied().collect();
        let mean = values.iter().sum::<f64>() / 90.0;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / 89.0;
        assert!((running[channel] - 0.1 * mean).abs() < 1e-9);
        assert!((running[5 + channel] - 0.9 - 0.1 * variance).abs() < 1e-9);
    }
}

#[test]
fn pools_and_their_gradients_are_right() {
    let from = Shape { height: 7, width: 6, channels: 4 };
    let to = Shape { height: 4, width: 3, channels: 4 };
    let mut x: Vec<f64> = numbers(2 * from.elements(), 1);
    let dy: Vec<f64> = numbers(2 * to.elements(), 2);
    let forward = |x: &[f64]| {
        let (mut y, mut taps) = (vec![0.0; dy.len()], vec![0; dy.len()]);
        pool::max(from, to, x, &mut y, &mut taps);
        (y, taps)
    };
    let mut dx = vec![1.0; x.len()];
    pool::max_backward(from, to, &dy, &forward(&x).1, &mut dx);
    check_gradient("max", &mut x, &dx, |x| dot(&forward(x).0, &dy));

    let dmean: Vec<f64> = numbers(8, 3);
    pool::mean_backward(from, &dmean, &mut dx);
    check_gradient("mean", &mut x, &dx, |x| {
        let mut y = vec![0.0; 8];
        pool::mean(from, x, &mut y);
        dot(&y, &dmean)
    });

    let wide = Shape { channels: 8, ..to };
    let dy: Vec<f64> = numbers(2 * wide.elements(), 4);
    pool::shortcut_backward(from, wide, &dy, &mut dx);
    check_gradient("shortcut", &mut x, &dx, |x| {
        let mut y = vec![9.0; dy.len()];
        pool::shortcut(from, wide, x, &mut y);
        dot(&y, &dy)
    });
}
