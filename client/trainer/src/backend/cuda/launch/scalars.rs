//! Stores the scalars of a step: lamb.cu.

use forebay::gpu::{Arg, DeviceError};

use super::{Launcher, to_u32, u32_arg};
use crate::backend::cuda::scalars::{LEARNING_RATE, LOSS_SCALE, StepScalars};
use crate::optimizer::Optimizer;

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
    pub(crate) fn set_step(
        &self,
        optimizer: &Optimizer,
        step: StepScalars,
    ) -> Result<(), DeviceError> {
        let [correction1, correction2] = optimizer.corrections(step.update);
        let (keep, take) = (step.ema_decay, 1.0 - step.ema_decay);
        self.store(LEARNING_RATE, &[step.lr, correction1, correction2, keep, take])
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
