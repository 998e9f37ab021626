//! Losses and the classifier's bias: loss.cu.

use std::ops::Range;

use forebay::gpu::{Arg, DeviceError};

use super::{CHANNELS_PER_BLOCK, Launcher, to_u32, u32_arg};
use crate::backend::cuda::memory_map::InputMap;
use crate::backend::cuda::scalars;
use crate::loss::{Criterion, Loss};

impl Launcher<'_> {
    /// Adds the classifier's bias to the logits.
    pub(crate) fn bias_add(
        &self,
        bias: u64,
        samples: usize,
        classes: usize,
    ) -> Result<(), DeviceError> {
        let logits = self.address(&self.memory.logits, 0);
        let args = [logits, Arg::Address(bias), u32_arg(to_u32(samples)), u32_arg(to_u32(classes))];
        self.each(&self.kernels.bias_add, samples * classes, &args)
    }

    /// Adds to the gradient of the classifier's bias.
    pub(crate) fn bias_gradient(
        &self,
        [dlogits, gradient]: [u64; 2],
        samples: usize,
        classes: usize,
    ) -> Result<(), DeviceError> {
        let [samples, classes_arg] = [samples, classes].map(to_u32).map(u32_arg);
        let args = [Arg::Address(dlogits), Arg::Address(gradient), samples, classes_arg];
        self.run(&self.kernels.bias_gradient, [classes.div_ceil(CHANNELS_PER_BLOCK), 1], &args)
    }

    /// Computes the losses of the samples, and the gradient of the logits times the factor that
    /// [`set_loss_scale`](Launcher::set_loss_scale) stored.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "hyperparameters, as the kernels take them"
    )]
    pub(crate) fn loss(
        &self,
        input: &InputMap,
        loss: &Loss,
        gradient: u64,
        samples: usize,
    ) -> Result<(), DeviceError> {
        let uploaded = |range: &Range<usize>| {
            let start = self.memory.targets.start;
            Arg::Address(self.lane.address(start + range.start..start + range.end))
        };
        let classes = self.memory.classes;
        let off = loss.smoothing / classes as f64;
        let [on, off] = [1.0 - loss.smoothing + off, off].map(|n| Arg::F32(n as f32));
        let mut args = vec![
            self.address(&self.memory.logits, 0),
            uploaded(&input.label_a),
            uploaded(&input.label_b),
            uploaded(&input.lambda),
            Arg::Address(gradient),
            self.address(&self.memory.losses, 0),
            u32_arg(to_u32(classes)),
            on,
            off,
        ];
        let binary = loss.criterion != Criterion::CrossEntropy;
        if binary {
            args.push(u32_arg(u32::from(loss.target_threshold.is_some())));
            args.push(Arg::F32(loss.target_threshold.unwrap_or(0.0)));
        }
        args.push(self.address(&self.memory.scalars, scalars::LOSS_SCALE));
        args.push(self.scaler());
        let k = self.kernels;
        let kernel = if binary { &k.binary_cross_entropy } else { &k.cross_entropy };
        self.run(kernel, [samples, 1], &args)
    }
}
