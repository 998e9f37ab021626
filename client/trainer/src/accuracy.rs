//! Evaluation: top-1 and top-5 accuracy, and the cross-entropy.

use crate::Error;
use crate::backend::Backend;
use crate::batch::Batch;
use crate::process_group::ProcessGroup;

/// Number of samples, and of those whose class had the highest or one of the five highest logits, and their
/// cross-entropy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Samples evaluated.
    pub samples: u64,
    /// Samples whose class had the highest logit.
    pub top1: u64,
    /// Samples whose class had one of the five highest logits.
    pub top5: u64,
    /// Sum of the cross-entropies in units of 2^-24, of the samples whose logits are finite. Whole numbers have the same
    /// sum in every world.
    loss: u64,
    /// Samples whose logits are not finite.
    without_loss: u64,
}

/// Units of a cross-entropy of 1.
const LOSS_UNITS: f64 = (1 << 24) as f64;

/// What a larger cross-entropy of a sample counts as, so that sums cannot overflow.
const MAX_LOSS: f64 = 1024.0;

impl Accuracy {
    /// Top-1 accuracy, 0 to 1.
    pub fn top1_rate(&self) -> f64 {
        self.top1 as f64 / self.samples.max(1) as f64
    }

    /// Top-5 accuracy, 0 to 1.
    pub fn top5_rate(&self) -> f64 {
        self.top5 as f64 / self.samples.max(1) as f64
    }

    /// The mean cross-entropy of the softmax, as timm's validation computes it; NaN if the logits of a sample are
    /// not finite.
    pub fn loss(&self) -> f64 {
        if self.without_loss > 0 {
            return f64::NAN;
        }
        self.loss as f64 / LOSS_UNITS / self.samples.max(1) as f64
    }

    /// Counts one sample. Ties count for the lower class, and a NaN ranks above every number, so that a
    /// broken model cannot score.
    fn add(&mut self, logits: &[f32], class: usize) {
        let own = logits[class];
        let above = |(i, x): &(usize, &f32)| x.is_nan() || **x > own || (**x >= own && *i < class);
        let rank = if own.is_nan() {
            logits.len()
        } else {
            logits.iter().enumerate().filter(above).count()
        };
        self.samples += 1;
        self.top1 += u64::from(rank == 0);
        self.top5 += u64::from(rank < 5);
        match cross_entropy(logits, class) {
            Some(units) => self.loss += units,
            None => self.without_loss += 1,
        }
    }

    /// The counts over all ranks.
    fn over_all(self, group: &mut ProcessGroup) -> Result<Self, Error> {
        let Self { samples, top1, top5, loss, without_loss } = self;
        let mut counts = [samples, top1, top5, loss, without_loss];
        group.all_reduce(&mut counts)?;
        let [samples, top1, top5, loss, without_loss] = counts;
        Ok(Self { samples, top1, top5, loss, without_loss })
    }
}

/// The cross-entropy of a class, given the logits of all, in [`LOSS_UNITS`].
fn cross_entropy(logits: &[f32], class: usize) -> Option<u64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|x| libm::exp(f64::from(x - max))).sum();
    let loss = libm::log(sum) + (f64::from(max) - f64::from(logits[class]));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 2^34")]
    let units = (loss.clamp(0.0, MAX_LOSS) * LOSS_UNITS).round() as u64;
    loss.is_finite().then_some(units)
}

/// Evaluates the model on microbatches, by the first class of each sample. Every rank evaluates its
/// share of the microbatches, and every rank gets the accuracy over all of them; `None` if a rank was asked to stop
/// meanwhile.
///
/// # Errors
/// When `batches` yields an error, a microbatch does not fit the network, or the backend or another
/// rank fails.
pub fn evaluate<E: From<Error>>(
    backend: &mut (impl Backend + ?Sized),
    batches: impl Iterator<Item = Result<Batch, E>>,
) -> Result<Option<Accuracy>, E> {
    let mut accuracy = Accuracy::default();
    let stop = backend.group().stop_request();
    for batch in batches {
        if stop.is_asked() {
            break;
        }
        let batch = batch?;
        let classes = backend.graph().classes;
        let logits = backend.logits(&batch)?;
        for (logits, class) in logits.chunks_exact(classes).zip(&batch.label_a) {
            accuracy.add(logits, *class as usize);
        }
    }
    let accuracy = accuracy.over_all(backend.group())?;
    Ok((!backend.group().agree_to_stop()?).then_some(accuracy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_count_for_the_lower_class() {
        let logits = [0.1, 0.9, 0.9, -1.0, 0.5, 0.6, 0.7];
        let hits = |class| {
            let mut accuracy = Accuracy::default();
            accuracy.add(&logits, class);
            (accuracy.top1, accuracy.top5)
        };
        assert_eq!(hits(1), (1, 1));
        assert_eq!(hits(2), (0, 1));
        assert_eq!(hits(4), (0, 1));
        assert_eq!(hits(0), (0, 0));
    }

    #[test]
    fn the_loss_is_the_mean_cross_entropy_of_the_softmax() {
        let mut accuracy = Accuracy::default();
        accuracy.add(&[1.0, 2.0, 3.0], 2);
        accuracy.add(&[1e30, -1e30], 0);
        // -ln(e^3 / (e + e^2 + e^3)) = 0.4076060, and 0.
        assert!((accuracy.loss() - 0.407_606_0 / 2.0).abs() < 1e-7, "{}", accuracy.loss());
        accuracy.add(&[1e30, -1e30], 1);
        assert!((accuracy.loss() - (0.407_606_0 + MAX_LOSS) / 3.0).abs() < 1e-7);
        accuracy.add(&[f32::NAN, 0.0], 1);
        assert!(accuracy.loss().is_nan());
    }

    #[test]
    fn a_model_of_nans_never_scores_top_1() {
        let mut accuracy = Accuracy::default();
        accuracy.add(&[f32::NAN, f32::NAN], 0);
        assert_eq!((accuracy.top1, accuracy.top5), (0, 1), "two classes are always in the top 5");
    }
}
