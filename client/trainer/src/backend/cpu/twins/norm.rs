//! The twin of norm.cu.

use super::near::Near;
use super::twin::THREADS;
use super::twin::norm::{
    Given, Norm, norm_apply, norm_backward, norm_finish, norm_gradients, norm_reduce,
    norm_reduce_residual, norm_running, norm_statistics, norm_sums, norm_update_running,
    norm_weights,
};
use super::{bits, doubles, numbers};
use crate::backend::cpu::batch_norm as cpu;

const SHAPES: [Norm; 3] = [
    Norm { rows: 1, channels: 3, tile: 1, chunks: 1, pixels: 1, relu: true, has_residual: false },
    Norm { rows: 90, channels: 5, tile: 2, chunks: 3, pixels: 30, relu: true, has_residual: false },
    Norm {
        rows: 3000,
        channels: 9,
        tile: 64,
        chunks: 47,
        pixels: 500,
        relu: true,
        has_residual: false,
    },
];

const EPS: f64 = 1e-5;

impl Norm {
    fn numbers(&self) -> usize {
        self.rows * self.channels
    }

    fn samples(&self) -> usize {
        self.rows.div_ceil(self.pixels)
    }

    /// Additions in which a term takes part: those over a chunk, then those over chunks.
    fn depth(&self) -> usize {
        let lanes = THREADS / self.tile;
        self.rows.div_ceil(self.chunks * lanes) + lanes
    }

    /// Indices of the values of a channel.
    fn of_channel(self, channel: usize) -> impl Iterator<Item = usize> + Clone {
        (channel..self.numbers()).step_by(self.channels)
    }
}

/// The batch norm of the CPU, with saved values.
fn truth<'a>(
    norm: &Norm,
    scales: Option<&'a [f64]>,
    saved: &'a mut [f64],
) -> cpu::BatchNorm<'a, f64> {
    let Norm { channels, pixels, relu, .. } = *norm;
    cpu::BatchNorm { channels, pixels, relu, scales, gamma: &[], beta: &[], saved }
}

/// The mask of the values of an f32 tensor that are above zero, in groups of four channels.
fn mask_of(norm: &Norm, y: &[f32]) -> Vec<u8> {
    let byte = |four: &[f32]| four.iter().rev().fold(0, |byte, y| byte << 1 | u8::from(*y > 0.0));
    y.chunks(norm.channels).flat_map(|row| row.chunks(4).map(byte)).collect()
}

fn line(channels: usize) -> [Vec<f32>; 2] {
    [1, 2].map(|seed| numbers(channels, seed))
}

/// Mean, 1 / standard deviation, factor and shift of a channel.
fn saved_of(mean: Near, variance: Near, gamma: f32, beta: f32) -> [Near; 4] {
    let inverse = Near::exact(1.0) / (variance + Near::exact(EPS)).root();
    let factor = inverse * Near::exact(gamma);
    [mean, inverse, factor, Near::exact(beta) - mean * factor].map(Near::rounded)
}

/// Saved values without extremes.
fn some_saved(channels: usize) -> Vec<f32> {
    let mut saved = numbers(4 * channels, 5);
    saved[channels..3 * channels].iter_mut().for_each(|number| *number += 1.5);
    saved
}

#[test]
fn batch_statistics_match_the_cpu() {
    for norm in SHAPES {
        let c = norm.channels;
        let x: Vec<f32> = numbers(norm.numbers(), 3).iter().map(|x| 3.0 + 0.5 * x).collect();
        let [gamma, beta] = line(c);
        let mut partial = vec![0.0; norm.chunks * 2 * c];
        let (mut statistics, mut saved) = (vec![0.0; 2 * c], vec![0.0; 4 * c]);
        norm_sums(norm, &x, &mut partial);
        norm_finish(norm, &x, &partial, [&gamma, &beta], &mut statistics, &mut saved);

        let (mut true_saved, mut batch) = (vec![0.0; 4 * c], vec![0.0; 2 * c]);
        let [true_gamma, true_beta] = [doubles(&gamma), doubles(&beta)];
        let mut truth = truth(&norm, None, &mut true_saved);
        (truth.gamma, truth.beta) = (&true_gamma, &true_beta);
        truth.batch_statistics(&doubles(&x), &mut batch, &mut vec![0.0; cpu::scratch_len(c)]);

        for channel in 0..c {
            let origin = Near::exact(x[channel]);
            let distances =
                norm.of_channel(channel).map(|at| (Near::exact(x[at]) - origin).rounded());
            let first = Near::sum(distances.clone(), norm.depth());
            let second = Near::sum(distances.map(|d| (d * d).rounded()), norm.depth());
            let count = Near::exact(norm.rows as f64);
            let mean = origin + first / count;
            let square = second - first * first / count;
            let near = saved_of(mean, square / count, gamma[channel], beta[channel]);
            for (which, near) in near.into_iter().enumerate() {
                let at = which * c + channel;
                near.holds("saved", saved[at], true_saved[at]);
            }
            let others = Near::exact((norm.rows as f64 - 1.0).max(1.0));
            mean.rounded().holds("mean", statistics[channel], batch[channel]);
            let variance = (square / others).rounded();
            variance.holds("variance", statistics[c + channel], batch[c + channel]);
        }
    }
}

/// From sums in f32, as a convolution computes them. Of a single row, rounding would be the whole variance.
#[test]
fn statistics_of_sums_match_the_cpu() {
    for norm in SHAPES.into_iter().filter(|norm| norm.rows > 1) {
        let c = norm.channels;
        let x: Vec<f32> = numbers(norm.numbers(), 3).iter().map(|x| 1.0 + x).collect();
        let [gamma, beta] = line(c);
        let sum = |channel: usize, power: i32| {
            norm.of_channel(channel).map(|at| f64::from(x[at]).powi(power)).sum::<f64>()
        };
        #[expect(clippy::cast_possible_truncation, reason = "the sums are f32")]
        let sums: Vec<f32> =
            (0..2 * c).map(|at| sum(at % c, if at < c { 1 } else { 2 }) as f32).collect();
        let (mut statistics, mut saved) = (vec![0.0; 2 * c], vec![0.0; 4 * c]);
        let mut rounded = vec![0.0_f32; 2 * c];
        let given = [&gamma[..], &beta[..]];
        norm_statistics(norm.rows, &sums, given, &mut statistics, &mut saved, &mut rounded);

        let (mut true_saved, mut batch) = (vec![0.0; 4 * c], vec![0.0; 2 * c]);
        let [true_gamma, true_beta] = [doubles(&gamma), doubles(&beta)];
        let mut truth = truth(&norm, None, &mut true_saved);
        (truth.gamma, truth.beta) = (&true_gamma, &true_beta);
        truth.batch_statistics(&doubles(&x), &mut batch, &mut vec![0.0; cpu::scratch_len(c)]);

        for channel in 0..c {
            let [first, second] = [1, 2].map(|power| Near::exact(sum(channel, power)).rounded());
            let count = Near::exact(norm.rows as f64);
            let mean = first / count;
            let square = second - first * mean;
            let near = saved_of(mean, square / count, gamma[channel], beta[channel]);
            for (which, near) in near.into_iter().enumerate() {
                let at = which * c + channel;
                near.holds("saved", saved[at], true_saved[at]);
            }
            near[2].holds("scale", rounded[channel], true_saved[2 * c + channel]);
            near[3].holds("bias", rounded[c + channel], true_saved[3 * c + channel]);
            let others = Near::exact((norm.rows as f64 - 1.0).max(1.0));
            mean.rounded().holds("mean", statistics[channel], batch[channel]);
            let variance = (square / others).rounded();
            variance.holds("variance", statistics[c + channel], batch[c + channel]);
        }
    }
}

/// The terms give the gradient of a norm's input, from the gradients of its weights.
#[test]
fn gradients_of_weights_give_that_of_the_input() {
    let (c, rows) = (37, 90);
    let (gradients, saved) = (numbers(2 * c, 3), some_saved(c));
    let [x, dy, before] = [4, 5, 6].map(|seed| numbers(c, seed));
    let (mut dgamma, mut dbeta, mut terms) = (before.clone(), before.clone(), vec![0.0; 2 * c]);
    norm_weights(rows, &gradients, &saved, &mut dgamma, &mut dbeta, &mut terms);
    let added = |gradients: &[f32]| -> Vec<f32> {
        before.iter().zip(gradients).map(|(before, gradient)| before + gradient).collect()
    };
    assert_eq!(bits(&dgamma), bits(&added(&gradients[..c])));
    assert_eq!(bits(&dbeta), bits(&added(&gradients[c..])));
    for channel in 0..c {
        let exact = |values: &[f32], at: usize| Near::exact(values[at]);
        let [mean, inverse, factor] = [0, 1, 2].map(|which| exact(&saved, which * c + channel));
        let [product, sum] = [0, c].map(|at| exact(&gradients, at + channel));
        let count = Near::exact(rows as f64);
        let slope = (Near::exact(0.0) - factor * product * inverse / count).rounded();
        let rest = (factor * (mean * product * inverse / count - sum / count)).rounded();
        let line = (exact(&x, channel) * slope).rounded() + rest;
        let near = ((factor * exact(&dy, channel)).rounded() + line.rounded()).rounded();
        let found = saved[2 * c + channel] * dy[channel]
            + (x[channel] * terms[channel] + terms[c + channel]);
        // The formula of the gradient, in f64.
        let [mean, inverse, factor, x, dy] =
            [saved[channel], saved[c + channel], saved[2 * c + channel], x[channel], dy[channel]]
                .map(f64::from);
        let [product, sum] = [gradients[channel], gradients[c + channel]].map(f64::from);
        let normal = (x - mean) * inverse;
        let wanted = factor * (dy - sum / rows as f64 - normal * product / rows as f64);
        near.holds("dx", found, wanted);
    }
}

#[test]
fn running_statistics_match_the_cpu() {
    let c = 37;
    let [gamma, beta] = line(c);
    let mut running: Vec<f32> = numbers(2 * c, 3).iter().map(|x| x + 1.0).collect();
    let (before, batch) = (running.clone(), numbers(2 * c, 4));
    norm_update_running(&batch, &mut running);
    let mut followed = before;
    cpu::update_running(&mut followed, &doubles(&batch));
    assert_eq!(bits(&running), bits(&followed));

    let (mut saved, mut true_saved) = (vec![0.0; 4 * c], vec![0.0_f32; 4 * c]);
    norm_running(&running, [&gamma, &beta], &mut saved);
    let mut norm = cpu::BatchNorm {
        channels: c,
        pixels: 1,
        relu: false,
        scales: None,
        gamma: &gamma,
        beta: &beta,
        saved: &mut true_saved,
    };
    norm.running_statistics(&running);
    assert_eq!(bits(&saved), bits(&true_saved));
}

#[test]
fn outputs_match_the_cpu() {
    for norm in SHAPES {
        let c = norm.channels;
        let [x, residual] = [3, 4].map(|seed| numbers(norm.numbers(), seed));
        let scales: Vec<f32> = numbers(norm.samples(), 6).iter().map(|x| x.max(0.0)).collect();
        let saved = some_saved(c);
        for (has_residual, scaled, relu) in
            [(false, false, true), (true, false, true), (true, true, true), (true, true, false)]
        {
            let norm = Norm { relu, has_residual, ..norm };
            let residual = has_residual.then_some(&residual[..]);
            let scales = scaled.then_some(&scales[..]);
            let mut y = vec![0.0; norm.numbers()];
            let mut mask = vec![0xaa; norm.mask_len::<f32>()];
            let given = Given { x: &x, scales, saved: &saved };
            norm_apply(norm, given, residual, &mut y, Some(&mut mask));
            assert!(!relu || mask == mask_of(&norm, &y));

            let (mut true_y, mut true_saved) = (vec![0.0; y.len()], doubles(&saved));
            let (true_scales, true_residual) = (scales.map(doubles), residual.map(doubles));
            let truth = truth(&norm, true_scales.as_deref(), &mut true_saved);
            truth.forward(&doubles(&x), true_residual.as_deref(), &mut true_y);

            for at in 0..y.len() {
                let (row, channel) = (at / c, at % c);
                let [factor, shift] = [2, 3].map(|which| Near::exact(saved[which * c + channel]));
                let mut near = ((Near::exact(x[at]) * factor).rounded() + shift).rounded();
                if let Some(residual) = residual {
                    let scale = scales.map_or(1.0, |scales| scales[row / norm.pixels]);
                    let scaled = (Near::exact(scale) * near).rounded();
                    near = (Near::exact(residual[at]) + scaled).rounded();
                }
                if relu {
                    near = near.map(1.0, |x| x.max(0.0));
                }
                near.holds("y", y[at], true_y[at]);
            }
        }
    }
}

#[test]
fn gradients_match_the_cpu() {
    for norm in SHAPES {
        let scales: Vec<f32> = numbers(norm.samples(), 6).iter().map(|x| x.max(0.0)).collect();
        for (has_residual, scaled, relu) in
            [(false, false, true), (false, false, false), (true, true, true), (true, false, false)]
        {
            gradients(Norm { relu, has_residual, ..norm }, scaled.then_some(&scales));
        }
    }
}

fn gradients(norm: Norm, scales: Option<&[f32]>) {
    let c = norm.channels;
    let [x, y, before] = [3, 4, 5].map(|seed| numbers(norm.numbers(), seed));
    let (saved, y) = (some_saved(c), norm.has_residual.then_some(&y[..]));
    let line = [6, 7].map(|seed| numbers(c, seed));
    let (mut dy, mut dx) = (before.clone(), vec![0.0; x.len()]);
    let [mut dgamma, mut dbeta] = line.clone();
    let (mut partial, mut terms) = (vec![0.0; norm.chunks * 2 * c], vec![0.0; 2 * c]);
    let given = Given { x: &x, scales, saved: &saved };
    if let Some(y) = y {
        norm_reduce_residual(norm, given, &mask_of(&norm, y), &mut dy, &mut partial);
    } else {
        norm_reduce(norm, given, &dy, &mut partial);
    }
    norm_gradients(norm, &partial, &saved, &mut dgamma, &mut dbeta, &mut terms);
    norm_backward(norm, given, &dy, &terms, &mut dx);

    let (mut true_dy, mut true_dx) = (doubles(&before), vec![0.0; x.len()]);
    let (mut true_saved, true_scales) = (doubles(&saved), scales.map(doubles));
    let [mut true_dgamma, mut true_dbeta] = [doubles(&line[0]), doubles(&line[1])];
    let true_y = y.map(doubles);
    let truth = truth(&norm, true_scales.as_deref(), &mut true_saved);
    truth.backward(
        &doubles(&x),
        true_y.as_deref().map(|y| (y, &mut true_dx[..])),
        &mut true_dy,
        [&mut true_dgamma, &mut true_dbeta],
        &mut vec![0.0; cpu::scratch_len(c)],
    );
    if norm.has_residual {
        assert_eq!(doubles(&dy), true_dy);
    } else {
        true_dx = true_dy;
    }

    for channel in 0..c {
        let [mean, inverse, factor, shift] =
            [0, 1, 2, 3].map(|which| Near::exact(saved[which * c + channel]));
        // The gradient before ReLU, times the factor of the sample.
        let slope = |at: usize| {
            let line = ((Near::exact(x[at]) * factor).rounded() + shift).rounded();
            assert!(
                line.value.abs() > line.error,
                "the input must not be within rounding of the ReLU's threshold"
            );
            let on = !norm.relu || y.map_or(line.value, |y| f64::from(y[at])) > 0.0;
            let scale = scales.map_or(1.0, |scales| scales[at / c / norm.pixels]);
            (Near::exact(if on { before[at] } else { 0.0 }) * Near::exact(scale)).rounded()
        };
        let distance = |at: usize| (Near::exact(x[at]) - mean).rounded();
        let products = norm.of_channel(channel).map(|at| (slope(at) * distance(at)).rounded());
        let sum = Near::sum(norm.of_channel(channel).map(slope), norm.depth());
        let product = Near::sum(products, norm.depth());
        let count = Near::exact(norm.rows as f64);
        let (old_gamma, old_beta) = (Near::exact(line[0][channel]), Near::exact(line[1][channel]));
        let new_beta = (old_beta + sum.rounded()).rounded();
        new_beta.holds("dbeta", dbeta[channel], true_dbeta[channel]);
        let new_gamma = (old_gamma + (product * inverse).rounded()).rounded();
        new_gamma.holds("dgamma", dgamma[channel], true_dgamma[channel]);
        let mean_product = product * inverse * inverse / count;
        let line_slope = (Near::exact(0.0) - factor * mean_product).rounded();
        let rest = (factor * (mean * mean_product - sum / count)).rounded();
        for at in norm.of_channel(channel) {
            let line = ((Near::exact(x[at]) * line_slope).rounded() + rest).rounded();
            let near = ((factor * slope(at)).rounded() + line).rounded();
            near.holds("dx", dx[at], true_dx[at]);
        }
    }
}
