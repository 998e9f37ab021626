//! Evaluation: top-1 and top-5 accuracy.

use crate::Error;
use crate::backend::Backend;
use crate::batch::Batch;

/// Number of samples, and of those whose class had the highest or one of the five highest logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Samples evaluated.
    pub samples: u64,
    /// Samples whose class had the highest logit.
    pub top1: u64,
    /// Samples whose class had one of the five highest logits.
    pub top5: u64,
}

impl Accuracy {
    /// Top-1 accuracy, 0 to 1.
    pub fn top1_rate(&self) -> f64 {
        self.top1 as f64 / self.samples.max(1) as f64
    }

    /// Top-5 accuracy, 0 to 1.
    pub fn top5_rate(&self) -> f64 {
        self.top5 as f64 / self.samples.max(1) as f64
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
    }
}

/// Evaluates the model on microbatches, by the first class of each sample. Every rank evaluates its
/// share of the microbatches, and every rank gets the accuracy over all of them.
///
/// # Errors
/// When `batches` yields an error, a microbatch does not fit the network, or the backend or another
/// rank fails.
pub fn evaluate<E: From<Error>>(
    backend: &mut (impl Backend + ?Sized),
    batches: impl Iterator<Item = Result<Batch, E>>,
) -> Result<Accuracy, E> {
    let mut accuracy = Accuracy::default();
    for batch in batches {
        let batch = batch?;
        let classes = backend.graph().classes;
        let logits = backend.logits(&batch)?;
        for (logits, class) in logits.chunks_exact(classes).zip(&batch.label_a) {
            accuracy.add(logits, *class as usize);
        }
    }
    let mut counts = [accuracy.samples, accuracy.top1, accuracy.top5];
    backend.group().all_reduce(&mut counts)?;
    let [samples, top1, top5] = counts;
    Ok(Accuracy { samples, top1, top5 })
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
    fn a_model_of_nans_never_scores_top_1() {
        let mut accuracy = Accuracy::default();
        accuracy.add(&[f32::NAN, f32::NAN], 0);
        assert_eq!((accuracy.top1, accuracy.top5), (0, 1), "two classes are always in the top 5");
    }
}
