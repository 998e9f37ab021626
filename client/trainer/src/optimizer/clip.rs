//! Gradient clipping, as timm 1.0.31 does it before an update (`utils/clip_grad.py`, `utils/agc.py`, for norms of order 2).

use crate::simd::Real;

/// A limit of the gradients.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ClipGrad {
    /// The limit, above 0.
    pub value: f64,
    /// What the limit is of.
    pub mode: ClipMode,
}

/// What is limited.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum ClipMode {
    /// The norm of the gradients of all tensors.
    Norm,
    /// Each value of a gradient, to both sides of 0.
    Value,
    /// Adaptive gradient clipping (arXiv 2102.06171): of each output of a convolution, the norm of the gradient as a share
    /// of the norm of the weights. The classifier is not clipped, as in timm's train script.
    Agc,
}

/// Added to the norm by which gradients are divided, as torch does.
pub(crate) const NORM_EPS: f64 = 1e-6;

/// Norm below which weights do not limit their gradient further.
pub(crate) const MIN_WEIGHTS: f64 = 1e-3;

/// Norm below which gradients are not divided by theirs.
pub(crate) const MIN_GRADIENT: f64 = 1e-6;

/// The factor that limits gradients of this norm.
pub fn norm_factor(max: f64, norm: f64) -> f64 {
    let factor = max / (norm + NORM_EPS);
    if factor < 1.0 { factor } else { 1.0 }
}

/// Limits each value. NaN stays.
pub fn clip_values<T: Real>(max: f64, gradient: &mut [T]) {
    let (low, high) = (T::from_f64(-max), T::from_f64(max));
    for value in gradient {
        *value = if *value < low { low } else { *value };
        *value = if *value > high { high } else { *value };
    }
}

/// Limits the norm of each output's gradient to a share of the norm of its weights. `output_of` says of a value which of
/// the `outputs` it belongs to; biases and batch norms are one output.
pub fn clip_outputs<T: Real>(
    share: f64,
    parameter: &[T],
    gradient: &mut [T],
    outputs: usize,
    output_of: impl Fn(usize) -> usize,
) {
    let mut squares = vec![[0.0; 2]; outputs];
    for (i, (weight, gradient)) in parameter.iter().zip(&*gradient).enumerate() {
        let [weights, gradients] = &mut squares[output_of(i)];
        *weights += weight.to_f64() * weight.to_f64();
        *gradients += gradient.to_f64() * gradient.to_f64();
    }
    let factor = |[weights, gradients]: [f64; 2]| {
        let (max, norm) = (weights.sqrt().max(MIN_WEIGHTS) * share, gradients.sqrt());
        T::from_f64(if norm < max { 1.0 } else { max / norm.max(MIN_GRADIENT) })
    };
    let factors: Vec<T> = squares.into_iter().map(factor).collect();
    for (i, gradient) in gradient.iter_mut().enumerate() {
        *gradient = *gradient * factors[output_of(i)];
    }
}

/// Multiplies all values.
pub(crate) fn scale<T: Real>(factor: f64, gradient: &mut [T]) {
    let factor = T::from_f64(factor);
    for value in gradient {
        *value = *value * factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_an_output_is_a_share_of_the_norm_of_its_weights() {
        // Two outputs of two values each, interleaved: weights of norm 5 and 0, gradients of norm 10.
        let weights = [3.0_f64, 0.0, 4.0, 0.0];
        let mut gradient = [6.0, 0.0, 8.0, 10.0];
        clip_outputs(0.1, &weights, &mut gradient, 2, |i| i % 2);
        let expected = [0.3, 0.0, 0.4, 1e-4];
        assert!(gradient.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15), "{gradient:?}");
        let before = gradient;
        clip_outputs(0.2, &weights, &mut gradient, 2, |i| i % 2);
        assert_eq!(gradient.map(f64::to_bits), before.map(f64::to_bits));
    }

    #[test]
    fn values_are_limited_to_both_sides_and_nan_stays() {
        let mut gradient = [2.0_f32, -3.0, 0.25, f32::NAN, f32::INFINITY];
        clip_values(0.5, &mut gradient);
        assert_eq!(gradient[..3], [0.5, -0.5, 0.25]);
        assert!(gradient[3].is_nan() && gradient[4].to_bits() == 0.5_f32.to_bits());
    }

    #[test]
    fn a_norm_within_the_limit_changes_nothing() {
        assert_eq!(norm_factor(1.0, 0.5).to_bits(), 1.0_f64.to_bits());
        assert!((norm_factor(1.0, 2.0) - 0.5).abs() < 1e-6);
        // A gradient that is not finite ends training with an error of its own.
        assert_eq!(norm_factor(1.0, f64::NAN).to_bits(), 1.0_f64.to_bits());
    }
}
