//! Comparisons of norms that are fused into convolutions: see `backend/cuda/fusion.rs`.
//!
//! Such a norm's output is not stored. The CPU computes what the convolution reads, `relu(x * scale + bias)` with scale
//! and bias rounded to f16. cuDNN may round the product, the sum and the result to f16 or not, and bias may round the
//! other way. So an input of the convolution differs by at most `2^-11 (|x * scale| + |y| + 2 |bias|)`, an output by
//! the largest of these times the sum of its weights' magnitudes, and a weight's gradient by it times the sum of the
//! magnitudes of the output's gradients.
//!
//! Statistics are sums of a convolution's output before or after its rounding: each summand differs by at most 2^-11 of
//! it in f16, and by 2^-8 in bf16. So do the sums for the gradients of a norm's weights.

use half::f16;

use super::errors::rounding;
use super::{F16_LEAST, Pair};
use crate::Error;
use crate::backend::precision::Precision;
use crate::model::{Graph, Op, TensorId};

/// Norms are applied by convolutions in f16 alone.
const ROUNDING: f64 = rounding(Precision::F16);

/// Signs within this part of the terms of a sum are not compared.
const SIGN: f32 = 1e-5;

impl Pair {
    /// Computes the output of a norm as the convolution that applies it does.
    pub(super) fn apply_norm(&mut self, norm: usize, x: TensorId, y: TensorId) {
        let samples = self.pass.samples;
        let saved = self.cpu.saved_mut(norm).to_vec();
        let values = self.cpu.values_mut(x, samples, true).to_vec();
        let channels = saved.len() / 4;
        let rounded = |value: f32| f16::from_f32(value).to_f32();
        let mut largest = 0.0_f64;
        for (at, y) in self.cpu.values_mut(y, samples, true).iter_mut().enumerate() {
            let [mean, _, factor, shift] = saved_of(&saved, channels, at % channels);
            let scale = rounded(factor);
            let bias = rounded(shift + mean * factor - mean * scale);
            let product = values[at] * scale;
            *y = rounded((product + bias).max(0.0));
            let terms = product.abs() + *y + 2.0 * bias.abs();
            largest = largest.max(ROUNDING * f64::from(terms) + F16_LEAST);
        }
        self.fused.inputs.insert(y, largest);
    }

    /// Applies the mask of a norm's `ReLU` to the gradient of its output, as the convolution that applies it does, and
    /// keeps the errors of the gradients of both their weights.
    pub(super) fn mask_gradient(
        &mut self,
        graph: &Graph,
        [norm, conv]: [&Op; 2],
    ) -> Result<(), Error> {
        let (Op::BatchNorm { norm, x, y, .. }, Op::Conv { weight, y: output, .. }) = (norm, conv)
        else {
            return Ok(());
        };
        let samples = self.pass.samples;
        let found = self.gpu.gradient_of(*y, samples)?;
        let saved = self.cpu.saved_mut(*norm).to_vec();
        let values = self.cpu.values_mut(*x, samples, true).to_vec();
        let channels = saved.len() / 4;
        let mut errors = [vec![0.0; channels], vec![0.0; channels]];
        for (at, gradient) in self.cpu.gradient_mut(*y, samples).iter_mut().enumerate() {
            let channel = at % channels;
            let [mean, inverse, factor, shift] = saved_of(&saved, channels, channel);
            let (product, value) = (values[at] * factor, values[at] * factor + shift);
            if value.abs() <= SIGN * (product.abs() + shift.abs()) {
                *gradient = found[at];
            } else if value < 0.0 {
                *gradient = 0.0;
            }
            let normal = f64::from((values[at] - mean) * inverse).abs();
            let error = ROUNDING * f64::from(gradient.abs());
            errors[0][channel] += error * normal;
            errors[1][channel] += error;
        }
        let gamma = graph.norms[*norm].gamma;
        self.fused.parameters.extend((gamma..).zip(errors));
        let mut sums = vec![0.0; graph.tensors[*output].channels];
        for (at, gradient) in self.cpu.gradient_mut(*output, samples).iter().enumerate() {
            let channel = at % sums.len();
            sums[channel] += f64::from(gradient.abs());
        }
        let largest = sums.into_iter().fold(0.0, f64::max);
        let error = self.fused.inputs.get(y).map_or(0.0, |error| error * largest);
        self.fused.parameters.insert(*weight, vec![error]);
        Ok(())
    }

    /// The errors of the gradient of a norm's input that come from those of the gradients of its weights: of the sums
    /// over all rows, each row gets its part.
    pub(super) fn input_gradient_errors(
        &mut self,
        graph: &Graph,
        norm: usize,
        x: TensorId,
    ) -> Vec<f64> {
        let saved = self.cpu.saved_mut(norm).to_vec();
        let values = self.cpu.values_mut(x, self.pass.samples, true).to_vec();
        let (channels, gamma) = (saved.len() / 4, graph.norms[norm].gamma);
        let rows = (values.len() / channels) as f64;
        let error = |(at, value): (usize, &f32)| {
            let [mean, inverse, factor, _] = saved_of(&saved, channels, at % channels);
            let normal = f64::from((value - mean) * inverse).abs();
            let [of_gamma, of_beta] = [gamma, gamma + 1].map(|of| self.fused.of_gradient(of, at));
            f64::from(factor.abs()) * (of_beta + normal * of_gamma) / rows
        };
        values.iter().enumerate().map(error).collect()
    }
}

/// Mean, inverse deviation, factor and shift of a channel.
fn saved_of(saved: &[f32], channels: usize, channel: usize) -> [f32; 4] {
    std::array::from_fn(|which| saved[which * channels + channel])
}
