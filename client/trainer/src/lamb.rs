//! The LAMB optimizer, as timm 1.0.31 implements it (`optim/lamb.py`, `_single_tensor_lamb`): Adam's
//! direction plus weight decay, scaled per tensor by the trust ratio, which is the norm of the
//! parameters over the norm of the direction. Gradients are clipped by their norm over all tensors.
//!
//! Sums run over chunks of fixed size and are added in order, so that any number of threads gives the
//! same bits.

use rayon::prelude::*;

use crate::optimizer::tensor::{CHUNK, OptimizerTensor, UpdateStep};
use crate::simd::Real;

/// Hyperparameters, by timm's names.
#[expect(clippy::struct_excessive_bools, reason = "they are timm's, and independent")]
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Lamb {
    /// Decay rates of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment, against division by zero.
    pub eps: f64,
    /// Weight decay of convolution kernels and of the classifier's matrix.
    pub weight_decay: f64,
    /// Norm that gradients are clipped to; `None` does not clip.
    pub max_grad_norm: Option<f64>,
    /// Corrects the bias of the moments toward 0 in the first steps, as Adam does.
    pub bias_correction: bool,
    /// Weights a new gradient by `1 - betas.0` in the first moment; otherwise by 1.
    pub grad_averaging: bool,
    /// Limits the trust ratio to 1.
    pub trust_clip: bool,
    /// Applies the trust ratio to parameters without weight decay, too.
    pub always_adapt: bool,
}

impl Default for Lamb {
    fn default() -> Self {
        Self {
            betas: (0.9, 0.999),
            eps: 1e-6,
            weight_decay: 0.02,
            max_grad_norm: Some(1.0),
            bias_correction: true,
            grad_averaging: true,
            trust_clip: false,
            always_adapt: false,
        }
    }
}

/// Scratch for the sums of squares over the chunks of one tensor.
#[derive(Debug)]
pub struct ChunkSums(Vec<[f64; 2]>);

impl ChunkSums {
    /// Scratch for tensors of at most `len` values.
    pub fn new(len: usize) -> Self {
        Self(vec![[0.0; 2]; len.div_ceil(CHUNK).max(1)])
    }

    /// The Euclidean norm of a tensor.
    pub fn norm<T: Real>(&mut self, values: &[T]) -> f64 {
        let chunks = values.par_chunks(CHUNK).zip(&mut self.0);
        chunks.for_each(|(values, sum)| sum[0] = sum_of_squares(values));
        self.0[..values.len().div_ceil(CHUNK)].iter().map(|s| s[0]).sum::<f64>().sqrt()
    }
}

impl Lamb {
    /// Updates one tensor.
    pub fn update<T: Real>(
        &self,
        step: &UpdateStep,
        tensor: OptimizerTensor<'_, T>,
        sums: &mut ChunkSums,
    ) {
        let OptimizerTensor { parameter, gradient, exp_avg, exp_avg_sq, decays } = tensor;
        let decay = if decays { self.weight_decay } else { 0.0 };
        let adapt = decay != 0.0 || self.always_adapt;
        let direction = self.direction::<T>(step, decay);
        let chunks = parameter.par_chunks(CHUNK).zip(gradient.par_chunks_mut(CHUNK));
        let state = exp_avg.par_chunks_mut(CHUNK).zip(exp_avg_sq.par_chunks_mut(CHUNK));
        chunks.zip(state).zip(&mut sums.0).for_each(
            |(((parameter, gradient), (exp_avg, exp_avg_sq)), sums)| {
                direction.apply(parameter, gradient, exp_avg, exp_avg_sq);
                *sums = if adapt {
                    [sum_of_squares(parameter), sum_of_squares(gradient)]
                } else {
                    [0.0; 2]
                };
            },
        );
        let mut ratio = 1.0;
        if adapt {
            let sums = sums.0[..parameter.len().div_ceil(CHUNK)].iter();
            let [weights, update] =
                sums.fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]).map(f64::sqrt);
            if weights > 0.0 && update > 0.0 {
                ratio = weights / update;
            }
            if self.trust_clip {
                ratio = ratio.min(1.0);
            }
        }
        let (ratio, lr) = (T::from_f64(ratio), T::from_f64(step.lr));
        parameter.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).for_each(
            |(parameter, update)| {
                for (parameter, update) in parameter.iter_mut().zip(update) {
                    *parameter = *parameter - lr * (*update * ratio);
                }
            },
        );
    }

    fn direction<T: Real>(&self, step: &UpdateStep, decay: f64) -> Direction<T> {
        let clip = self.max_grad_norm.map_or(1.0, |max| (step.grad_norm / max).max(1.0));
        let c = Coefficients::new(self, step.update);
        Direction {
            clip: T::from_f64(clip),
            beta1: T::from_f64(c.beta1),
            beta3: T::from_f64(c.beta3),
            beta2: T::from_f64(c.beta2),
            one_minus_beta2: T::from_f64(c.one_minus_beta2),
            correction1: T::from_f64(c.correction1),
            correction2: T::from_f64(c.correction2),
            eps: T::from_f64(self.eps),
            decay: T::from_f64(decay),
        }
    }
}

/// Coefficients that depend on the number of the update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Coefficients {
    pub(crate) beta1: f64,
    /// Weight of the new gradient in the first moment, as timm names it: `1 - beta1` with gradient averaging, else 1.
    pub(crate) beta3: f64,
    pub(crate) beta2: f64,
    pub(crate) one_minus_beta2: f64,
    /// Divisor of the first moment.
    pub(crate) correction1: f64,
    /// Square root of the divisor of the second moment.
    pub(crate) correction2: f64,
}

impl Coefficients {
    /// The coefficients of an update, counted from 1.
    pub(crate) fn new(lamb: &Lamb, update: u64) -> Self {
        let (beta1, beta2) = lamb.betas;
        let corrected = |beta: f64| {
            if lamb.bias_correction { 1.0 - libm::pow(beta, update as f64) } else { 1.0 }
        };
        Self {
            beta1,
            beta3: if lamb.grad_averaging { 1.0 - beta1 } else { 1.0 },
            beta2,
            one_minus_beta2: 1.0 - beta2,
            correction1: corrected(beta1),
            correction2: corrected(beta2).sqrt(),
        }
    }
}

/// Adam's direction plus weight decay, with coefficients in the parameters' precision.
struct Direction<T> {
    clip: T,
    beta1: T,
    beta3: T,
    beta2: T,
    one_minus_beta2: T,
    correction1: T,
    correction2: T,
    eps: T,
    decay: T,
}

impl<T: Real> Direction<T> {
    /// Updates the moments and leaves the direction in `gradient`.
    fn apply(&self, parameter: &[T], gradient: &mut [T], exp_avg: &mut [T], exp_avg_sq: &mut [T]) {
        let state = exp_avg.iter_mut().zip(exp_avg_sq);
        for ((parameter, gradient), (exp_avg, exp_avg_sq)) in
            parameter.iter().zip(gradient).zip(state)
        {
            let g = *gradient / self.clip;
            *exp_avg = self.beta1 * *exp_avg + self.beta3 * g;
            *exp_avg_sq = self.beta2 * *exp_avg_sq + self.one_minus_beta2 * g * g;
            let root = exp_avg_sq.root() / self.correction2 + self.eps;
            *gradient = *exp_avg / self.correction1 / root + self.decay * *parameter;
        }
    }
}

/// Sum of squares in f64, as eight interleaved partial sums.
fn sum_of_squares<T: Real>(values: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    let chunks = values.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|x| x.to_f64() * x.to_f64()).sum();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x.to_f64() * x.to_f64();
        }
    }
    sums.iter().sum::<f64>() + rest
}
