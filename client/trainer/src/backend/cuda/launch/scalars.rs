//! What changes from step to step, in the GPU's memory: kernels read it there, so that a captured launch can be repeated.

use forebay::gpu::{Arg, DeviceError};

use super::{Launcher, to_u32, u32_arg};
use crate::lamb::{Coefficients, Lamb};

/// Factor of the gradient of the logits.
pub(crate) const LOSS_SCALE: usize = 0;
/// The learning rate, and what follows it is stored with it.
pub(crate) const LEARNING_RATE: usize = 1;
/// Corrections of both moments of LAMB.
pub(crate) const CORRECTIONS: usize = 2;
/// Weights of the moving average and of the model.
pub(crate) const EMA_WEIGHTS: usize = 4;
/// Number of scalars.
pub(crate) const COUNT: usize = 6;

/// The scalars of one update.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StepScalars {
    pub(crate) lr: f64,
    /// The number of this update, from 1.
    pub(crate) update: u64,
    /// Weight of the old average; 0 replaces it by the model.
    pub(crate) ema_decay: f64,
}

impl Launcher<'_> {
    /// Stores the factor of the gradient of the logits.
    pub(crate) fn set_loss_scale(&self, scale: f64) -> Result<(), DeviceError> {
        self.store(LOSS_SCALE, &[scale])
    }

    /// The loss scaler of loss.cu and lamb.cu.
    pub(super) fn scaler(&self) -> Arg {
        self.address(&self.memory.scaler, 0)
    }

    /// Stores the scalars of an update.
    pub(crate) fn set_step(&self, lamb: &Lamb, step: StepScalars) -> Result<(), DeviceError> {
        let c = Coefficients::new(lamb, step.update);
        let (keep, take) = (step.ema_decay, 1.0 - step.ema_decay);
        self.store(LEARNING_RATE, &[step.lr, c.correction1, c.correction2, keep, take])
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "hyperparameters, as the kernels take them"
    )]
    fn store(&self, first: usize, values: &[f64]) -> Result<(), DeviceError> {
        let value = |index: usize| Arg::F32(values.get(index).map_or(0.0, |value| *value as f32));
        let count = u32_arg(to_u32(values.len()));
        let to = self.address(&self.memory.scalars, first);
        let args = [to, count, value(0), value(1), value(2), value(3), value(4)];
        self.run(&self.kernels.store_scalars, [1, 1], &args)
    }
}
