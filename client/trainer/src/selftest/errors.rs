//! By how much values may differ because norms are fused into convolutions: see fused.rs.

use std::collections::BTreeMap;

use crate::backend::precision::Precision;
use crate::model::TensorId;

/// Half a unit in the last place, relative to the value.
pub(super) const fn rounding(precision: Precision) -> f64 {
    match precision {
        Precision::Bf16 => 1.0 / 256.0,
        Precision::F16 => 1.0 / 2048.0,
        Precision::F32 => 1.0 / 16_777_216.0,
    }
}

/// By how much values may differ in addition, because norms are fused.
#[derive(Debug, Default)]
pub(super) struct FusedErrors {
    /// For each input of a convolution that is not stored: the largest difference of a value.
    pub(super) inputs: BTreeMap<TensorId, f64>,
    /// The differences of the gradient of a parameter, which repeat.
    pub(super) parameters: BTreeMap<usize, Vec<f64>>,
}

impl FusedErrors {
    /// For the output of a convolution of x, of which an output has weights of this sum of magnitudes.
    pub(super) fn of_output(&self, x: TensorId, weights: f64) -> f64 {
        self.inputs.get(&x).map_or(0.0, |error| error * weights)
    }

    pub(super) fn of_gradient(&self, parameter: usize, at: usize) -> f64 {
        self.parameters.get(&parameter).map_or(0.0, |errors| errors[at % errors.len()])
    }
}

/// For mean, inverse deviation, factor and shift of each channel, given these, where each value may be rounded. The mean square of the values is
/// `mean^2 + 1 / inverse^2`.
pub(super) fn statistic_errors(saved: &[f32], precision: Precision) -> Vec<f64> {
    let rounding = rounding(precision);
    let channels = saved.len() / 4;
    let at = |which: usize, channel: usize| f64::from(saved[which * channels + channel]);
    let error = |index: usize| {
        let (which, channel) = (index / channels, index % channels);
        let [mean, inverse, factor] = [0, 1, 2].map(|which| at(which, channel));
        let of_mean = rounding * mean.hypot(1.0 / inverse);
        let relative = 2.0 * rounding * (1.0 + mean * mean * inverse * inverse);
        match which {
            0 => of_mean,
            1 => inverse * relative,
            2 => factor.abs() * relative,
            _ => factor.abs() * (of_mean + mean.abs() * relative),
        }
    };
    (0..saved.len()).map(error).collect()
}
