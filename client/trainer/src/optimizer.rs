//! The optimizers, by timm's names: `lamb`, `sgd` with Nesterov momentum, `momentum` with classical momentum, and `adamw`.
//!
//! ```text
//! tensor.rs     what an update works on: one parameter tensor, its gradient and its state
//! clip.rs       clips gradients before the update
//! sgd.rs, adamw.rs, and lamb.rs in the folder above
//! ```

pub(crate) mod adamw;
pub(crate) mod clip;
pub(crate) mod sgd;
pub(crate) mod tensor;

use adamw::AdamW;
use sgd::Sgd;
use tensor::{OptimizerTensor, UpdateStep};

use crate::lamb::{ChunkSums, Lamb};
use crate::simd::Real;

/// An optimizer with its hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "name", rename_all = "lowercase")]
pub enum Optimizer {
    /// SGD with or without momentum.
    Sgd(Sgd),
    /// `AdamW`.
    AdamW(AdamW),
    /// LAMB. Written without a name, as in checkpoints from before there were others.
    #[serde(untagged)]
    Lamb(Lamb),
}

/// The tensors that an optimizer keeps for each parameter, by torch's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StateKind {
    /// None: there was no update yet, or it is SGD without momentum.
    #[default]
    Empty,
    /// `exp_avg` and `exp_avg_sq`, the first and the second moment.
    Moments,
    /// `momentum_buffer`.
    Momentum,
}

impl Optimizer {
    /// Updates one tensor.
    pub fn update<T: Real>(
        &self,
        step: &UpdateStep,
        tensor: OptimizerTensor<'_, T>,
        sums: &mut ChunkSums,
    ) {
        match self {
            Self::Sgd(sgd) => sgd.update(step, tensor),
            Self::AdamW(adamw) => adamw.update(step, tensor),
            Self::Lamb(lamb) => lamb.update(step, tensor, sums),
        }
    }

    /// timm's name.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sgd(Sgd { nesterov: true, .. }) => "sgd",
            Self::Sgd(_) => "momentum",
            Self::AdamW(_) => "adamw",
            Self::Lamb(_) => "lamb",
        }
    }

    /// Sets the weight decay of convolution kernels and of the classifier's matrix.
    pub fn set_weight_decay(&mut self, weight_decay: f64) {
        match self {
            Self::Sgd(sgd) => sgd.weight_decay = weight_decay,
            Self::AdamW(adamw) => adamw.weight_decay = weight_decay,
            Self::Lamb(lamb) => lamb.weight_decay = weight_decay,
        }
    }

    /// The weight decay of convolution kernels and of the classifier's matrix.
    pub const fn weight_decay(&self) -> f64 {
        match self {
            Self::Sgd(sgd) => sgd.weight_decay,
            Self::AdamW(adamw) => adamw.weight_decay,
            Self::Lamb(lamb) => lamb.weight_decay,
        }
    }

    /// What it keeps for each parameter.
    pub(crate) fn state_kind(&self) -> StateKind {
        match self {
            Self::Sgd(sgd) if sgd.momentum > 0.0 => StateKind::Momentum,
            Self::Sgd(_) => StateKind::Empty,
            Self::AdamW(_) | Self::Lamb(_) => StateKind::Moments,
        }
    }

    /// The decay rates of both moments, and whether the moments are corrected for starting at 0. SGD has no moments.
    #[cfg(feature = "cuda")]
    pub(crate) const fn bias_correction(&self) -> ([f64; 2], bool) {
        match *self {
            Self::Sgd(_) => ([0.0; 2], false),
            Self::AdamW(AdamW { betas: (beta1, beta2), .. }) => ([beta1, beta2], true),
            Self::Lamb(Lamb { betas: (beta1, beta2), bias_correction, .. }) => {
                ([beta1, beta2], bias_correction)
            }
        }
    }

    /// The corrections at an update, counted from 1: the divisor of the first moment, and the root of that of the second.
    #[cfg(feature = "cuda")]
    pub(crate) fn corrections(&self, update: u64) -> [f64; 2] {
        let (betas, corrected) = self.bias_correction();
        let [first, second] =
            betas.map(|beta| if corrected { 1.0 - libm::pow(beta, update as f64) } else { 1.0 });
        [first, second.sqrt()]
    }

    /// The norm to which the optimizer itself clips all gradients, after other clipping.
    pub(crate) const fn max_grad_norm(&self) -> Option<f64> {
        match self {
            Self::Lamb(lamb) => lamb.max_grad_norm,
            Self::Sgd(_) | Self::AdamW(_) => None,
        }
    }
}

impl From<Lamb> for Optimizer {
    fn from(lamb: Lamb) -> Self {
        Self::Lamb(lamb)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(json: Value) -> Optimizer {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn an_optimizer_is_read_as_it_was_written() {
        for optimizer in [
            Optimizer::Sgd(Sgd { weight_decay: 0.1, ..Sgd::default() }),
            Optimizer::AdamW(AdamW { betas: (0.8, 0.9), ..AdamW::default() }),
            Optimizer::Lamb(Lamb { max_grad_norm: None, ..Lamb::default() }),
        ] {
            assert_eq!(read(serde_json::to_value(optimizer).unwrap()), optimizer);
        }
    }

    #[test]
    fn an_optimizer_without_a_name_is_lamb_as_in_older_checkpoints() {
        let old = json!({
            "betas": [0.9, 0.999], "eps": 1e-6, "weight_decay": 0.02, "max_grad_norm": 1.0, "bias_correction": true,
            "grad_averaging": true, "trust_clip": false, "always_adapt": false
        });
        assert_eq!(read(old.clone()), Optimizer::Lamb(Lamb::default()));
        assert_eq!(serde_json::to_value(Optimizer::Lamb(Lamb::default())).unwrap(), old);
        let other: Result<Optimizer, _> = serde_json::from_value(json!({"name": "adagrad"}));
        other.unwrap_err();
    }
}
