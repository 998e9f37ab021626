//! SGD with momentum, as torch 2 implements it (`optim/sgd.py`, `_single_tensor_sgd`, with a dampening of 0). Weight
//! decay is added to the gradient.

use rayon::prelude::*;

use super::tensor::{CHUNK, OptimizerTensor, UpdateStep};
use crate::simd::Real;

/// Hyperparameters, by torch's names.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Sgd {
    /// Share of the momentum buffer that an update keeps; 0 keeps no buffer.
    pub momentum: f64,
    /// Nesterov momentum, timm's `sgd`; otherwise classical momentum, timm's `momentum`.
    pub nesterov: bool,
    /// Weight decay of convolution kernels and of the classifier's matrix.
    pub weight_decay: f64,
}

impl Default for Sgd {
    fn default() -> Self {
        Self { momentum: 0.9, nesterov: true, weight_decay: 0.0 }
    }
}

impl Sgd {
    /// Updates one tensor.
    pub(crate) fn update<T: Real>(&self, step: &UpdateStep, tensor: OptimizerTensor<'_, T>) {
        let OptimizerTensor { parameter, gradient, exp_avg: buffer, decays, .. } = tensor;
        let decay = T::from_f64(if decays { self.weight_decay } else { 0.0 });
        let (momentum, lr) = (T::from_f64(self.momentum), T::from_f64(step.lr));
        let state = gradient.par_chunks(CHUNK).zip(buffer.par_chunks_mut(CHUNK));
        parameter.par_chunks_mut(CHUNK).zip(state).for_each(|(parameter, (gradient, buffer))| {
            for ((parameter, gradient), buffer) in parameter.iter_mut().zip(gradient).zip(buffer) {
                let mut direction = *gradient + decay * *parameter;
                if self.momentum > 0.0 {
                    *buffer = momentum * *buffer + direction;
                    direction =
                        if self.nesterov { direction + momentum * *buffer } else { *buffer };
                }
                *parameter = *parameter - lr * direction;
            }
        });
    }
}
