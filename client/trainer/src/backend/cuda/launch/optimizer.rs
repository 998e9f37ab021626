//! LAMB, and other kernels over all parameters: lamb.cu.

use std::ops::Range;

use forebay::gpu::{Arg, DeviceError};

use super::{Launcher, to_u32, u32_arg};
use crate::backend::cuda::memory_map::CHUNK;
use crate::backend::cuda::scalars;
use crate::lamb::{Coefficients, Lamb};

impl Launcher<'_> {
    /// Fills a range of the memory with zeros.
    pub(crate) fn clear(&self, range: &Range<usize>) -> Result<(), DeviceError> {
        // The next range starts at a multiple of 256 bytes, so clearing up to 32 bytes is safe.
        let len = range.len().next_multiple_of(32) / 4;
        let args = [self.address(range, 0), u32_arg(to_u32(len))];
        self.each(&self.kernels.clear, len / 8, &args)
    }

    /// Adds a range of the weight gradients of one microbatch to those of the step.
    pub(crate) fn add_gradients(&self, range: &Range<usize>) -> Result<(), DeviceError> {
        let (m, bytes) = (self.memory, self.precision().bytes());
        let from = m.filter_gradients.start + range.start * bytes
            ..m.filter_gradients.start + range.end * bytes;
        let from = Arg::Address(self.lane.address(from));
        let args = [from, self.address(&m.gradients, range.start), u32_arg(to_u32(range.len()))];
        self.each(&self.kernels.add_gradients, range.len() / 8, &args)
    }

    /// Updates the copy of the parameters that matrix products read.
    pub(crate) fn copy_parameters(&self) -> Result<(), DeviceError> {
        let m = self.memory;
        let copy = Arg::Address(self.lane.address(m.parameter_copy.clone()));
        let args = [self.address(&m.parameters, 0), copy, u32_arg(to_u32(m.parameters_len))];
        self.each(&self.kernels.copy_parameters, m.parameters_len / 8, &args)
    }

    /// Updates all parameters by LAMB, with the step's scalars as [`set_step`](Launcher::set_step) stored them.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "hyperparameters, as the kernels take them"
    )]
    pub(crate) fn lamb(&self, lamb: &Lamb) -> Result<(), DeviceError> {
        let (m, k) = (self.memory, self.kernels);
        let parts = m.parameters_len.div_ceil(CHUNK);
        let (gradients, parameters) =
            (self.address(&m.gradients, 0), self.address(&m.parameters, 0));
        let sums = self.address(&m.square_partial, 0);
        self.run(
            &k.square_sums,
            [parts, 1],
            &[gradients, sums, u32_arg(to_u32(m.parameters_len))],
        )?;
        let [norm, clip, chunks, tensors, partial, ratios] =
            [&m.grad_norm, &m.clip, &m.chunks, &m.tensors, &m.lamb_partial, &m.trust_ratios]
                .map(|range| self.address(range, 0));
        let max_norm = Arg::F32(lamb.max_grad_norm.unwrap_or(0.0) as f32);
        let (parts, scaler) = (u32_arg(to_u32(parts)), self.scaler());
        let corrections = self.address(&m.scalars, scalars::CORRECTIONS);
        let [beta1, beta2] = [lamb.betas.0, lamb.betas.1].map(Arg::F64);
        let corrected = u32_arg(u32::from(lamb.bias_correction));
        let args =
            [sums, parts, max_norm, norm, clip, scaler, corrections, beta1, beta2, corrected];
        self.run(&k.gradient_norm, [1, 1], &args)?;
        // The corrections are the only ones that depend on the step.
        let c = Coefficients::new(lamb, 1);
        let [beta1, beta3, beta2, one_minus_beta2, eps, decay] =
            [c.beta1, c.beta3, c.beta2, c.one_minus_beta2, lamb.eps, lamb.weight_decay]
                .map(|n| Arg::F32(n as f32));
        let factors = [beta1, beta3, beta2, one_minus_beta2, corrections, eps, decay, scaler];
        let state = [
            chunks,
            parameters,
            gradients,
            self.address(&m.exp_avg, 0),
            self.address(&m.exp_avg_sq, 0),
        ];
        let args = [&state[..], &[partial, clip], &factors].concat();
        let blocks = m.chunks.len() / 16;
        self.run(&k.lamb_direction, [blocks, 1], &args)?;
        let flags = [lamb.always_adapt, lamb.weight_decay != 0.0, lamb.trust_clip];
        let args =
            [&[tensors, partial, ratios][..], &flags.map(|on| u32_arg(u32::from(on))), &[scaler]]
                .concat();
        self.run(&k.lamb_ratio, [m.tensors.len() / 16, 1], &args)?;
        let copy = Arg::Address(self.lane.address(m.parameter_copy.clone()));
        let lr = self.address(&m.scalars, scalars::LEARNING_RATE);
        let args = [chunks, ratios, parameters, gradients, copy, lr, scaler];
        self.run(&k.lamb_apply, [blocks, 1], &args)
    }

    /// Updates the moving averages: `ema = decay * ema + (1 - decay) * model`, with the decay that
    /// [`set_step`](Launcher::set_step) stored.
    pub(crate) fn update_ema(&self) -> Result<(), DeviceError> {
        let m = self.memory;
        let weights = self.address(&m.scalars, scalars::EMA_WEIGHTS);
        for (ema, model, len) in
            [(&m.ema, &m.parameters, m.parameters_len), (&m.ema_running, &m.running, m.running_len)]
        {
            let args =
                [self.address(ema, 0), self.address(model, 0), u32_arg(to_u32(len)), weights];
            self.each(&self.kernels.update_ema, len / 8, &args)?;
        }
        Ok(())
    }

    /// Exchanges the model with its moving average.
    pub(crate) fn swap_ema(&self) -> Result<(), DeviceError> {
        let m = self.memory;
        for (ema, model, len) in
            [(&m.ema, &m.parameters, m.parameters_len), (&m.ema_running, &m.running, m.running_len)]
        {
            let args = [self.address(ema, 0), self.address(model, 0), u32_arg(to_u32(len))];
            self.each(&self.kernels.exchange, len / 8, &args)?;
        }
        self.copy_parameters()
    }
}
