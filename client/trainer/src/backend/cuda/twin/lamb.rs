//! lamb.cu: LAMB over all tensors at once, and other elementwise kernels over all parameters. Its other optimizers and
//! gradient clipping are in optimizers.rs.

use super::{Scaler, Stored, THREADS, block_sum, nearest};

/// Maximum number of values in a chunk.
pub(crate) const CHUNK: usize = 8192;

/// Number of values that a thread processes at once.
const EIGHT: usize = 8;

/// A range of one tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    pub(crate) start: usize,
    pub(crate) length: usize,
    pub(crate) tensor: usize,
    pub(crate) decays: bool,
    /// Of each eight values, the first that exist. The rest are zeros.
    pub(crate) existing: usize,
}

impl Chunk {
    /// Indices of its values, with the padding of the last eight.
    pub(super) fn places(self) -> impl Iterator<Item = usize> {
        self.start..self.start + self.length.next_multiple_of(EIGHT)
    }

    /// Whether a value exists; otherwise it is padding.
    pub(super) const fn has(self, number: usize) -> bool {
        number < self.length && number % EIGHT < self.existing
    }
}

/// The chunks of a tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensor {
    pub(crate) first: usize,
    pub(crate) chunks: usize,
    pub(crate) adapts: bool,
}

/// The thread of a block that processes a value.
const fn thread_of(number: usize) -> usize {
    number / EIGHT % THREADS
}

pub(crate) fn square_sums(values: &[f32], partial: &mut [f32]) {
    for (values, partial) in values.chunks(CHUNK).zip(partial) {
        let mut sums = [0.0; THREADS];
        for (number, value) in values.iter().enumerate() {
            sums[thread_of(number)] += value * value;
        }
        *partial = block_sum(sums);
    }
}

/// Updates of a dynamic scale in a row before it is doubled.
pub(crate) const GROWTH_INTERVAL: u32 = 2000;

/// The largest scale that is doubled.
const MAX_SCALE: f32 = 8.507_059e37;

/// Decay rates of LAMB, and whether it corrects the moments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Betas {
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) corrected: bool,
}

fn power_of(mut base: f64, mut exponent: u64) -> f64 {
    let mut power = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            power *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    power
}

fn update_scaler(scaler: &mut Scaler, finite: bool, corrections: &mut [f32; 2], betas: Betas) {
    scaler.skip = !finite;
    if !finite {
        scaler.scale *= 0.5;
        scaler.growth = 0;
        scaler.skipped += 1;
        return;
    }
    scaler.updates += 1;
    let power = |beta: f64| if betas.corrected { power_of(beta, scaler.updates) } else { 0.0 };
    *corrections = [1.0 - power(betas.beta1), (1.0 - power(betas.beta2)).sqrt()].map(nearest);
    scaler.growth += 1;
    if scaler.growth == GROWTH_INTERVAL {
        if scaler.scale <= MAX_SCALE {
            scaler.scale *= 2.0;
        }
        scaler.growth = 0;
    }
}

/// The norm of all gradients without the loss scale, and the divisor that clips it to both norms and removes the scale.
pub(crate) fn gradient_norm(
    partial: &[f32],
    [clip_norm, max_norm]: [f32; 2],
    scaler: &mut Scaler,
    corrections: &mut [f32; 2],
    betas: Betas,
) -> (f64, f32) {
    let mut sums = [0.0; THREADS];
    for (part, partial) in partial.iter().enumerate() {
        sums[part % THREADS] += f64::from(*partial);
    }
    let scale = f64::from(scaler.scale);
    let root = block_sum(sums).sqrt() / scale;
    let factor = f64::from(clip_norm) / (root + 1e-6);
    let factor = if clip_norm > 0.0 && factor < 1.0 { factor } else { 1.0 };
    let ratio = root * factor / f64::from(max_norm);
    if scaler.dynamic {
        update_scaler(scaler, root.is_finite(), corrections, betas);
    }
    (root, nearest(if max_norm > 0.0 && ratio > 1.0 { ratio } else { 1.0 } * scale / factor))
}

/// Coefficients of an update, as the kernel takes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Direction {
    pub(crate) beta1: f32,
    pub(crate) beta3: f32,
    pub(crate) beta2: f32,
    pub(crate) one_minus_beta2: f32,
    pub(crate) correction1: f32,
    pub(crate) correction2: f32,
    pub(crate) eps: f32,
    pub(crate) decay: f32,
}

/// Parameters, gradients and moments of all tensors, with the same layout.
#[derive(Debug)]
pub(crate) struct State<'a> {
    pub(crate) parameter: &'a [f32],
    pub(crate) gradient: &'a mut [f32],
    pub(crate) mean: &'a mut [f32],
    pub(crate) square: &'a mut [f32],
}

pub(crate) fn lamb_direction(
    chunks: &[Chunk],
    state: &mut State<'_>,
    partial: &mut [[f32; 2]],
    clip: f32,
    args: &Direction,
) {
    for (chunk, partial) in chunks.iter().zip(partial) {
        let own_decay = if chunk.decays { args.decay } else { 0.0 };
        let (mut weights, mut update) = ([0.0; THREADS], [0.0; THREADS]);
        for (number, at) in chunk.places().enumerate() {
            let (p, thread) = (state.parameter[at], thread_of(number));
            let (mean, square) = (&mut state.mean[at], &mut state.square[at]);
            let now = state.gradient[at] / clip;
            *mean = args.beta1 * *mean + args.beta3 * now;
            *square = args.beta2 * *square + args.one_minus_beta2 * now * now;
            let root = square.sqrt() / args.correction2 + args.eps;
            let direction = *mean / args.correction1 / root + own_decay * p;
            let direction = if chunk.has(number) { direction } else { 0.0 };
            weights[thread] += p * p;
            update[thread] += direction * direction;
            state.gradient[at] = direction;
        }
        *partial = [block_sum(weights), block_sum(update)];
    }
}

/// The choice of the tensors that use the trust ratio, and the limit of the ratio.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trust {
    pub(crate) always: bool,
    /// Whether there is weight decay.
    pub(crate) decays: bool,
    pub(crate) clip: bool,
}

pub(crate) fn lamb_ratio(
    tensors: &[Tensor],
    partial: &[[f32; 2]],
    ratios: &mut [f32],
    trust: Trust,
) {
    for (tensor, to) in tensors.iter().zip(ratios) {
        let (mut weights, mut update) = ([0.0; THREADS], [0.0; THREADS]);
        for (chunk, sums) in partial[tensor.first..][..tensor.chunks].iter().enumerate() {
            weights[chunk % THREADS] += f64::from(sums[0]);
            update[chunk % THREADS] += f64::from(sums[1]);
        }
        let (weights, update) = (block_sum(weights).sqrt(), block_sum(update).sqrt());
        let mut ratio = 1.0;
        if trust.always || (trust.decays && tensor.adapts) {
            if weights > 0.0 && update > 0.0 {
                ratio = weights / update;
            }
            if trust.clip && ratio > 1.0 {
                ratio = 1.0;
            }
        }
        *to = nearest(ratio);
    }
}

pub(crate) fn lamb_apply<S: Stored>(
    chunks: &[Chunk],
    ratios: &[f32],
    parameter: &mut [f32],
    gradient: &mut [f32],
    copy: &mut [S],
    lr: f32,
) {
    for chunk in chunks {
        let ratio = ratios[chunk.tensor];
        for at in chunk.places() {
            parameter[at] -= lr * (gradient[at] * ratio);
            gradient[at] = 0.0;
            copy[at] = S::to_stored(parameter[at]);
        }
    }
}

pub(crate) fn copy_parameters<S: Stored>(parameter: &[f32], copy: &mut [S]) {
    for (copy, parameter) in copy.iter_mut().zip(parameter) {
        *copy = S::to_stored(*parameter);
    }
}

pub(crate) fn add_gradients<S: Stored>(from: &[S], gradient: &mut [f32]) {
    for (gradient, from) in gradient.iter_mut().zip(from) {
        *gradient += from.to_float();
    }
}

pub(crate) fn update_ema(ema: &mut [f32], model: &[f32], keep: f32, take: f32) {
    for (ema, model) in ema.iter_mut().zip(model) {
        *ema = *ema * keep + model * take;
    }
}

pub(crate) fn exchange(one: &mut [f32], other: &mut [f32]) {
    one.swap_with_slice(other);
}

pub(crate) fn clear(values: &mut [f32]) {
    values.fill(0.0);
}
