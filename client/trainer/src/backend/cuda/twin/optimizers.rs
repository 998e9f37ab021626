//! lamb.cu: SGD, `AdamW` and gradient clipping.

use super::lamb::Chunk;
use super::{Stored, THREADS, block_sum, nearest};

/// Values that an update changes, of all tensors with the same layout. SGD keeps its buffer in `mean`.
#[derive(Debug)]
pub(crate) struct Updated<'a, S> {
    pub(crate) parameter: &'a mut [f32],
    pub(crate) gradient: &'a mut [f32],
    pub(crate) mean: &'a mut [f32],
    pub(crate) square: &'a mut [f32],
    pub(crate) copy: &'a mut [S],
}

/// Coefficients of SGD, as the kernel takes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SgdArgs {
    pub(crate) clip: f32,
    pub(crate) lr: f32,
    pub(crate) momentum: f32,
    pub(crate) nesterov: bool,
    pub(crate) decay: f32,
}

pub(crate) fn sgd_apply<S: Stored>(chunks: &[Chunk], values: &mut Updated<'_, S>, args: SgdArgs) {
    for chunk in chunks {
        let own_decay = if chunk.decays { args.decay } else { 0.0 };
        for at in chunk.places() {
            let (p, buffer) = (&mut values.parameter[at], &mut values.mean[at]);
            let mut direction = values.gradient[at] / args.clip + own_decay * *p;
            if args.momentum > 0.0 {
                *buffer = args.momentum * *buffer + direction;
                direction =
                    if args.nesterov { direction + args.momentum * *buffer } else { *buffer };
            }
            *p -= args.lr * direction;
            values.gradient[at] = 0.0;
            values.copy[at] = S::to_stored(*p);
        }
    }
}

/// Coefficients of `AdamW`, as the kernel takes them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdamWArgs {
    pub(crate) clip: f32,
    pub(crate) lr: f32,
    pub(crate) one_minus_beta1: f32,
    pub(crate) beta2: f32,
    pub(crate) one_minus_beta2: f32,
    pub(crate) corrections: [f32; 2],
    pub(crate) eps: f32,
    pub(crate) decay: f32,
}

pub(crate) fn adamw_apply<S: Stored>(
    chunks: &[Chunk],
    values: &mut Updated<'_, S>,
    args: &AdamWArgs,
) {
    let [correction1, correction2] = args.corrections;
    let step = args.lr / correction1;
    for chunk in chunks {
        let keep = 1.0 - args.lr * if chunk.decays { args.decay } else { 0.0 };
        for (number, at) in chunk.places().enumerate() {
            let (p, mean, square) =
                (&mut values.parameter[at], &mut values.mean[at], &mut values.square[at]);
            let now = values.gradient[at] / args.clip;
            *mean += args.one_minus_beta1 * (now - *mean);
            *square = args.beta2 * *square + args.one_minus_beta2 * now * now;
            let root = square.sqrt() / correction2 + args.eps;
            let moved = *p * keep - step * *mean / root;
            *p = if chunk.has(number) { moved } else { 0.0 };
            values.gradient[at] = 0.0;
            values.copy[at] = S::to_stored(*p);
        }
    }
}

pub(crate) fn clip_values(gradient: &mut [f32], divide: f32, limit: f32) {
    for value in gradient {
        *value /= divide;
        *value = if *value < -limit { -limit } else { *value };
        *value = if *value > limit { limit } else { *value };
    }
}

/// The weights of one output of a convolution, or a whole tensor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) start: usize,
    pub(crate) length: usize,
    pub(crate) clips: bool,
}

pub(crate) fn clip_outputs(
    outputs: &[Output],
    parameter: &[f32],
    gradient: &mut [f32],
    divide: f32,
    share: f32,
) {
    for output in outputs {
        let range = output.start..output.start + output.length;
        let (parameter, gradient) = (&parameter[range.clone()], &mut gradient[range]);
        let (mut weights, mut gradients) = ([0.0_f32; THREADS], [0.0_f32; THREADS]);
        for (number, (p, g)) in parameter.iter().zip(&*gradient).enumerate() {
            let g = g / divide;
            weights[number % THREADS] += p * p;
            gradients[number % THREADS] += g * g;
        }
        let (weights, gradients) = (block_sum(weights).sqrt(), block_sum(gradients).sqrt());
        let most = if weights < 1e-3 { 1e-3 } else { weights } * share;
        // Not so where the norm is NaN.
        let within = gradients < most;
        let mut factor = 1.0;
        if output.clips && !within {
            factor = most / if gradients < 1e-6 { 1e-6 } else { gradients };
        }
        for g in gradient {
            *g = *g / divide * factor;
        }
    }
}

pub(crate) fn clipped_norm(partial: &[f32], max_norm: f32) -> f32 {
    let mut sums = [0.0; THREADS];
    for (part, partial) in partial.iter().enumerate() {
        sums[part % THREADS] += f64::from(*partial);
    }
    let ratio = block_sum(sums).sqrt() / f64::from(max_norm);
    nearest(if max_norm > 0.0 && ratio > 1.0 { ratio } else { 1.0 })
}
