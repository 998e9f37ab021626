//! Top-1 and top-5 accuracy.

use crate::Error;
use crate::backend::{Backend, Batch};

/// Samples seen, and those whose class was the first, or among the first five, of the logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accuracy {
    /// Samples.
    pub samples: u64,
    /// Class first.
    pub first: u64,
    /// Class among the first five.
    pub five: u64,
}

impl Accuracy {
    /// Share of the samples whose class was the first, 0 to 1.
    pub fn top1(&self) -> f64 {
        self.first as f64 / self.samples.max(1) as f64
    }

    /// Share of the samples whose class was among the first five.
    pub fn top5(&self) -> f64 {
        self.five as f64 / self.samples.max(1) as f64
    }

    /// Counts one sample. Of equal logits the lower class comes first; a NaN comes before all.
    pub fn add(&mut self, logits: &[f32], class: usize) {
        let own = logits[class];
        let before = |(i, x): &(usize, &f32)| x.is_nan() || **x > own || (**x >= own && *i < class);
        let rank = if own.is_nan() {
            logits.len()
        } else {
            logits.iter().enumerate().filter(before).count()
        };
        self.samples += 1;
        self.first += u64::from(rank == 0);
        self.five += u64::from(rank < 5);
    }
}

/// Evaluates a model on microbatches, each sample's class being its first one. Each rank has its share
/// of the microbatches; all get the accuracy over all.
pub fn evaluate<E: From<Error>>(
    backend: &mut (impl Backend + ?Sized),
    source: impl Iterator<Item = Result<Batch, E>>,
) -> Result<Accuracy, E> {
    let mut accuracy = Accuracy::default();
    for batch in source {
        let batch = batch?;
        let classes = backend.graph().classes;
        let logits = backend.logits(&batch)?;
        for (logits, class) in logits.chunks_exact(classes).zip(&batch.label_a) {
            accuracy.add(logits, *class as usize);
        }
    }
    let own = [accuracy.samples, accuracy.first, accuracy.five];
    let mut all = vec![0; own.len() * backend.ranks().place().world as usize];
    backend.ranks().gather(&own, &mut all)?;
    let total = |i: usize| all.iter().skip(i).step_by(own.len()).sum();
    Ok(Accuracy { samples: total(0), first: total(1), five: total(2) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_what_comes_before() {
        let logits = [0.1, 0.9, 0.9, -1.0, 0.5, 0.6, 0.7];
        let rank_of = |class| {
            let mut accuracy = Accuracy::default();
            accuracy.add(&logits, class);
            (accuracy.first, accuracy.five)
        };
        assert_eq!(rank_of(1), (1, 1));
        assert_eq!(rank_of(2), (0, 1));
        assert_eq!(rank_of(4), (0, 1));
        assert_eq!(rank_of(0), (0, 0));
        let mut accuracy = Accuracy::default();
        accuracy.add(&[f32::NAN, f32::NAN], 0);
        assert_eq!((accuracy.first, accuracy.five), (0, 1), "two classes, both among five");
    }
}
