//! Binary cross-entropy and cross-entropy on sparse mixed targets.
//!
//! A sample's target is (a, b, lambda): lambda of class a and the rest of class b, both smoothed
//! (timm's `mixup_target`): `off = s / C`, `on = 1 - s + off`. Sources: timm 1.0.31
//! `loss/binary_cross_entropy.py` (the threshold is strict, decided in f32, after mixing),
//! `loss/cross_entropy.py`; torch's `binary_cross_entropy_with_logits`.

use crate::batch::Targets;
use crate::simd::Real;

/// The loss function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Criterion {
    /// Binary cross-entropy of each class, averaged over classes.
    Bce,
    /// Binary cross-entropy of each class, summed over classes.
    BceSum,
    /// Cross-entropy of the softmax.
    CrossEntropy,
}

/// A loss, averaged over the batch.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Loss {
    /// The loss function.
    pub criterion: Criterion,
    /// Label smoothing, 0 to 1.
    pub smoothing: f64,
    /// Binary cross-entropy only: targets above the threshold become 1, all others 0. `None` keeps the
    /// mixed targets.
    pub target_threshold: Option<f32>,
}

impl Loss {
    /// Writes the dense target of a sample over all classes, before the threshold is applied.
    pub fn target<T: Real>(&self, a: usize, b: usize, lambda: f32, target: &mut [T]) {
        let off = self.smoothing / target.len() as f64;
        let (on, off) = (T::from_f64(1.0 - self.smoothing + off), T::from_f64(off));
        let (first, second) =
            (T::from_f64(f64::from(lambda)), T::from_f64(1.0 - f64::from(lambda)));
        target.fill(off * first + off * second);
        if a == b {
            target[a] = on * first + on * second;
        } else {
            target[a] = on * first + off * second;
            target[b] = off * first + on * second;
        }
    }

    /// Returns the loss of one sample of a batch of `batch` samples, and writes its gradient times `scale`.
    pub fn sample<T: Real>(
        &self,
        logits: &[T],
        target: &[T],
        batch: usize,
        scale: f64,
        gradient: &mut [T],
    ) -> f64 {
        let classes = logits.len() as f64;
        // Divisor of the sum over samples and, for mean BCE, over classes.
        let terms = batch as f64 * if self.criterion == Criterion::Bce { classes } else { 1.0 };
        match self.criterion {
            Criterion::Bce | Criterion::BceSum => {
                let mut sum = 0.0;
                for ((logit, target), gradient) in logits.iter().zip(target).zip(gradient) {
                    let (x, y) = (logit.to_f64(), self.thresholded(target.to_f64()));
                    // exp(-|x|) never overflows.
                    let small = libm::exp(-x.abs());
                    sum += x.max(0.0) - x * y + libm::log1p(small);
                    let sigmoid = if x >= 0.0 { 1.0 } else { small } / (1.0 + small);
                    *gradient = T::from_f64((sigmoid - y) / terms * scale);
                }
                sum / terms
            }
            Criterion::CrossEntropy => {
                let max = logits.iter().fold(f64::NEG_INFINITY, |max, x| max.max(x.to_f64()));
                let sum: f64 = logits.iter().map(|x| libm::exp(x.to_f64() - max)).sum();
                let target_sum: f64 = target.iter().map(|t| t.to_f64()).sum();
                let (log_sum, mut loss) = (libm::log(sum), 0.0);
                for ((logit, target), gradient) in logits.iter().zip(target).zip(gradient) {
                    let x = logit.to_f64() - max;
                    loss -= target.to_f64() * (x - log_sum);
                    let probability = T::from_f64(libm::exp(x) / sum);
                    let slope =
                        (probability * T::from_f64(target_sum) - *target) / T::from_f64(terms);
                    *gradient = slope * T::from_f64(scale);
                }
                loss / terms
            }
        }
    }

    /// Returns the loss of a batch, and writes its gradient times `scale`. `row` is scratch for one dense
    /// target.
    pub(crate) fn batch<T: Real>(
        &self,
        logits: &[T],
        targets: &Targets<'_>,
        scale: f64,
        row: &mut [T],
        gradient: &mut [T],
    ) -> f64 {
        let classes = row.len();
        let samples =
            logits.chunks_exact(classes).zip(gradient.chunks_exact_mut(classes)).enumerate();
        let mut loss = 0.0;
        for (i, (logits, gradient)) in samples {
            self.target(targets.a[i] as usize, targets.b[i] as usize, targets.lambda[i], row);
            loss += self.sample(logits, row, targets.a.len(), scale, gradient);
        }
        loss
    }

    #[expect(clippy::cast_possible_truncation, reason = "timm decides in f32")]
    fn thresholded(&self, target: f64) -> f64 {
        self.target_threshold
            .map_or(target, |threshold| f64::from(u8::from(target as f32 > threshold)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f64; 4] = [0.3, -1.2, 40.0, -700.0];

    #[test]
    fn gradients_match_finite_differences() {
        for criterion in [Criterion::Bce, Criterion::BceSum, Criterion::CrossEntropy] {
            let loss = Loss { criterion, smoothing: 0.1, target_threshold: None };
            let mut target = [0.0; 4];
            loss.target(1, 2, 0.3, &mut target);
            let mut gradient = [0.0; 4];
            loss.sample(&LOGITS, &target, 2, 0.5, &mut gradient);
            for i in 0..4 {
                let at = |step: f64| {
                    let mut logits = LOGITS;
                    logits[i] += step;
                    loss.sample(&logits, &target, 2, 1.0, &mut [0.0; 4])
                };
                let slope = (at(1e-4) - at(-1e-4)) / 2e-4;
                assert!(
                    (slope * 0.5 - gradient[i]).abs() < 1e-8,
                    "{criterion:?} {i}: {slope} {gradient:?}"
                );
            }
        }
    }

    #[test]
    fn the_threshold_is_strict() {
        let loss = Loss { criterion: Criterion::Bce, smoothing: 0.0, target_threshold: Some(0.2) };
        assert!(loss.thresholded(f64::from(0.2_f32)) < 0.5);
        assert!(loss.thresholded(f64::from(0.200_000_1_f32)) > 0.5);
    }

    #[test]
    fn two_equal_labels_give_a_one_hot_target() {
        let loss = Loss { criterion: Criterion::Bce, smoothing: 0.0, target_threshold: None };
        let mut target = [9.0_f32; 3];
        loss.target(1, 1, 0.25, &mut target);
        assert_eq!(target.map(f32::to_bits), [0.0_f32, 1.0, 0.0].map(f32::to_bits));
    }
}
