//! `AdamW`, as torch 2 implements it (`optim/adam.py`, `_single_tensor_adam` with decoupled weight decay).

use rayon::prelude::*;

use super::tensor::{CHUNK, OptimizerTensor, UpdateStep};
use crate::simd::Real;

/// Hyperparameters, by torch's names.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct AdamW {
    /// Decay rates of the first and second moment.
    pub betas: (f64, f64),
    /// Added to the root of the second moment, against division by zero.
    pub eps: f64,
    /// Weight decay of convolution kernels and of the classifier's matrix.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01 }
    }
}

impl AdamW {
    /// Updates one tensor.
    pub(crate) fn update<T: Real>(&self, step: &UpdateStep, tensor: OptimizerTensor<'_, T>) {
        let OptimizerTensor { parameter, gradient, exp_avg, exp_avg_sq, decays } = tensor;
        let (beta1, beta2) = self.betas;
        let correction = |beta: f64| 1.0 - libm::pow(beta, step.update as f64);
        let keep = T::from_f64(if decays { 1.0 - step.lr * self.weight_decay } else { 1.0 });
        let rate = T::from_f64(step.lr / correction(beta1));
        let correction2 = T::from_f64(correction(beta2).sqrt());
        let [new1, beta2, new2, eps] = [1.0 - beta1, beta2, 1.0 - beta2, self.eps].map(T::from_f64);
        let state = exp_avg.par_chunks_mut(CHUNK).zip(exp_avg_sq.par_chunks_mut(CHUNK));
        let chunks = parameter.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(state);
        chunks.for_each(|((parameter, gradient), (exp_avg, exp_avg_sq))| {
            let state = exp_avg.iter_mut().zip(exp_avg_sq);
            for ((parameter, g), (mean, square)) in parameter.iter_mut().zip(gradient).zip(state) {
                *mean = *mean + new1 * (*g - *mean);
                *square = beta2 * *square + new2 * *g * *g;
                let root = square.root() / correction2 + eps;
                *parameter = *parameter * keep - rate * *mean / root;
            }
        });
    }
}
