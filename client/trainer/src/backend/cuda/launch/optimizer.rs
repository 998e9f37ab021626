//! The optimizers, gradient clipping, and other kernels over all parameters: lamb.cu.

use std::ops::Range;

use forebay::gpu::{Arg, DeviceError};

use super::{Launcher, to_u32, u32_arg};
use crate::backend::cuda::memory_map::CHUNK;
use crate::backend::cuda::scalars;
use crate::lamb::{Coefficients, Lamb};
use crate::optimizer::Optimizer;
use crate::optimizer::adamw::AdamW;
use crate::optimizer::clip::{ClipGrad, ClipMode};
use crate::optimizer::sgd::Sgd;

#[expect(clippy::cast_possible_truncation, reason = "hyperparameters, as the kernels take them")]
const fn float(value: f64) -> Arg {
    Arg::F32(value as f32)
}

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
        let copy = self.parameter_copy();
        let args = [self.address(&m.parameters, 0), copy, u32_arg(to_u32(m.parameters_len))];
        self.each(&self.kernels.copy_parameters, m.parameters_len / 8, &args)
    }

    /// Clips the gradients and updates all parameters, with the step's scalars as [`set_step`](Launcher::set_step) stored
    /// them.
    pub(crate) fn update(
        &self,
        optimizer: &Optimizer,
        clip_grad: Option<ClipGrad>,
    ) -> Result<(), DeviceError> {
        self.clip_gradients(optimizer, clip_grad)?;
        match optimizer {
            Optimizer::Sgd(sgd) => self.sgd(sgd),
            Optimizer::AdamW(adamw) => self.adamw(adamw),
            Optimizer::Lamb(lamb) => self.lamb(lamb),
        }
    }

    /// Computes the norm of the gradients and the divisor by which the optimizer divides them, and clips them in place where
    /// a divisor cannot.
    fn clip_gradients(
        &self,
        optimizer: &Optimizer,
        clip_grad: Option<ClipGrad>,
    ) -> Result<(), DeviceError> {
        let (m, k) = (self.memory, self.kernels);
        let [gradients, norm, clip] =
            [&m.gradients, &m.grad_norm, &m.clip].map(|range| self.address(range, 0));
        let (sums, parts) = self.square_sums()?;
        let scaler = self.scaler();
        let own = optimizer.max_grad_norm().unwrap_or(0.0);
        let (clip_norm, max_norm) = match clip_grad {
            None => (0.0, own),
            Some(ClipGrad { value, mode: ClipMode::Norm }) => (value, own),
            // LAMB clips what is left by the kernels below.
            Some(ClipGrad { mode: ClipMode::Value | ClipMode::Agc, .. }) => (0.0, 0.0),
        };
        let corrections = self.address(&m.scalars, scalars::CORRECTIONS);
        let (betas, corrected) = optimizer.bias_correction();
        let [beta1, beta2] = betas.map(Arg::F64);
        let corrected = u32_arg(u32::from(corrected));
        let [clip_norm, max_norm] = [clip_norm, max_norm].map(float);
        let args = [
            sums,
            parts,
            clip_norm,
            max_norm,
            norm,
            clip,
            scaler,
            corrections,
            beta1,
            beta2,
            corrected,
        ];
        self.run(&k.gradient_norm, [1, 1], &args)?;
        match clip_grad {
            None | Some(ClipGrad { mode: ClipMode::Norm, .. }) => return Ok(()),
            Some(ClipGrad { value, mode: ClipMode::Value }) => {
                let len = u32_arg(to_u32(m.parameters_len));
                let args = [gradients, len, clip, float(value), scaler];
                self.each(&k.clip_values, m.parameters_len / 8, &args)?;
            }
            Some(ClipGrad { value, mode: ClipMode::Agc }) => {
                let [outputs, parameters] = [&m.outputs, &m.parameters].map(|r| self.address(r, 0));
                let args = [outputs, parameters, gradients, clip, float(value), scaler];
                self.run(&k.clip_outputs, [m.outputs.len() / 16, 1], &args)?;
            }
        }
        let (sums, parts) = self.square_sums()?;
        self.run(&k.clipped_norm, [1, 1], &[sums, parts, float(own), clip])
    }

    /// The sums of squares of all gradients, and their number.
    fn square_sums(&self) -> Result<(Arg, Arg), DeviceError> {
        let m = self.memory;
        let parts = m.parameters_len.div_ceil(CHUNK);
        let sums = self.address(&m.square_partial, 0);
        let args = [self.address(&m.gradients, 0), sums, u32_arg(to_u32(m.parameters_len))];
        self.run(&self.kernels.square_sums, [parts, 1], &args)?;
        Ok((sums, u32_arg(to_u32(parts))))
    }

    fn sgd(&self, sgd: &Sgd) -> Result<(), DeviceError> {
        let (m, nesterov) = (self.memory, u32_arg(u32::from(sgd.nesterov)));
        let [chunks, parameters, gradients, buffer, clip] =
            [&m.chunks, &m.parameters, &m.gradients, &m.exp_avg, &m.clip]
                .map(|range| self.address(range, 0));
        let lr = self.address(&m.scalars, scalars::LEARNING_RATE);
        let (momentum, decay) = (float(sgd.momentum), float(sgd.weight_decay));
        let args = [
            chunks,
            parameters,
            gradients,
            buffer,
            self.parameter_copy(),
            clip,
            lr,
            momentum,
            nesterov,
            decay,
            self.scaler(),
        ];
        self.run(&self.kernels.sgd_apply, [m.chunks.len() / 16, 1], &args)
    }

    fn adamw(&self, adamw: &AdamW) -> Result<(), DeviceError> {
        let m = self.memory;
        let [chunks, parameters, gradients, exp_avg, exp_avg_sq, clip] =
            [&m.chunks, &m.parameters, &m.gradients, &m.exp_avg, &m.exp_avg_sq, &m.clip]
                .map(|range| self.address(range, 0));
        let lr = self.address(&m.scalars, scalars::LEARNING_RATE);
        let corrections = self.address(&m.scalars, scalars::CORRECTIONS);
        let (beta1, beta2) = adamw.betas;
        let [new1, beta2, new2, eps, decay] =
            [1.0 - beta1, beta2, 1.0 - beta2, adamw.eps, adamw.weight_decay].map(float);
        let args = [
            chunks,
            parameters,
            gradients,
            exp_avg,
            exp_avg_sq,
            self.parameter_copy(),
            clip,
            lr,
            new1,
            beta2,
            new2,
            corrections,
            eps,
            decay,
            self.scaler(),
        ];
        self.run(&self.kernels.adamw_apply, [m.chunks.len() / 16, 1], &args)
    }

    fn lamb(&self, lamb: &Lamb) -> Result<(), DeviceError> {
        let (m, k) = (self.memory, self.kernels);
        let (gradients, parameters) =
            (self.address(&m.gradients, 0), self.address(&m.parameters, 0));
        let [clip, chunks, tensors, partial, ratios] =
            [&m.clip, &m.chunks, &m.tensors, &m.lamb_partial, &m.trust_ratios]
                .map(|range| self.address(range, 0));
        let scaler = self.scaler();
        let corrections = self.address(&m.scalars, scalars::CORRECTIONS);
        // The corrections are the only ones that depend on the step.
        let c = Coefficients::new(lamb, 1);
        let [beta1, beta3, beta2, one_minus_beta2, eps, decay] =
            [c.beta1, c.beta3, c.beta2, c.one_minus_beta2, lamb.eps, lamb.weight_decay].map(float);
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
        let copy = self.parameter_copy();
        let lr = self.address(&m.scalars, scalars::LEARNING_RATE);
        let args = [chunks, ratios, parameters, gradients, copy, lr, scaler];
        self.run(&k.lamb_apply, [blocks, 1], &args)
    }

    fn parameter_copy(&self) -> Arg {
        Arg::Address(self.lane.address(self.memory.parameter_copy.clone()))
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
