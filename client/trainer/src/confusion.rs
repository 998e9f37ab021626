//! An evaluation in detail: the accuracy of each class, and which class was taken for which.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::Error;
use crate::accuracy::{Accuracy, predicted};
use crate::backend::Backend;
use crate::batch::{Batch, Pixels};

/// The result of an evaluation by class.
#[derive(Debug, Default)]
pub(crate) struct Confusion {
    /// Accuracy of the samples of each class.
    pub(crate) classes: Vec<Accuracy>,
    /// Samples by class and predicted class. Only pairs that occurred, because classes may be many.
    pub(crate) pairs: BTreeMap<(usize, usize), u64>,
}

impl Confusion {
    fn add(&mut self, logits: &[f32], class: usize) {
        self.classes[class].add(logits, class);
        *self.pairs.entry((class, predicted(logits))).or_default() += 1;
    }

    /// The accuracy of all samples.
    pub(crate) fn total(&self) -> Accuracy {
        let mut total = Accuracy::default();
        for accuracy in &self.classes {
            total.add_all(*accuracy);
        }
        total
    }

    /// The pairs of different classes, with the most frequent first.
    pub(crate) fn mistakes(&self) -> Vec<((usize, usize), u64)> {
        let mistakes = self.pairs.iter().filter(|((class, predicted), _)| class != predicted);
        let mut mistakes: Vec<_> = mistakes.map(|(pair, count)| (*pair, *count)).collect();
        mistakes.sort_by_key(|(pair, count)| (std::cmp::Reverse(*count), *pair));
        mistakes
    }

    /// As JSON: totals, classes and pairs. `names` are those of the classes, as far as they are known.
    pub(crate) fn json(&self, names: &[String]) -> Value {
        let rates = |accuracy: &Accuracy| json!({"samples": accuracy.samples, "top1": accuracy.top1_rate(), "top5": accuracy.top5_rate()});
        let class = |(class, accuracy): (usize, &Accuracy)| {
            let mut json = rates(accuracy);
            json["class"] = class.into();
            json["name"] = names.get(class).cloned().into();
            json
        };
        let mut json = rates(&self.total());
        json["classes"] = self.classes.iter().enumerate().map(class).collect();
        let pair =
            |((class, predicted), count): (&(usize, usize), &u64)| json!([class, predicted, count]);
        json["confusion"] = self.pairs.iter().map(pair).collect();
        json
    }
}

/// Evaluates the model on microbatches by class. With `flips`, the logits of a sample are the means of those of the image
/// and of its mirror image.
///
/// # Errors
/// When `batches` yields an error, a microbatch does not fit the network, or the backend fails.
pub(crate) fn evaluate<E: From<Error>>(
    backend: &mut (impl Backend + ?Sized),
    batches: impl Iterator<Item = Result<Batch, E>>,
    flips: bool,
) -> Result<Confusion, E> {
    let classes = backend.graph().classes;
    let mut confusion =
        Confusion { classes: vec![Accuracy::default(); classes], ..Confusion::default() };
    let mut logits = Vec::new();
    for batch in batches {
        let batch = batch?;
        logits.clear();
        logits.extend_from_slice(backend.logits(&batch)?);
        if flips {
            let mirrored = backend.logits(&mirrored(&batch))?;
            for (logit, other) in logits.iter_mut().zip(mirrored) {
                *logit = 0.5 * (*logit + other);
            }
        }
        for (logits, class) in logits.chunks_exact(classes).zip(&batch.label_a) {
            confusion.add(logits, *class as usize);
        }
    }
    Ok(confusion)
}

/// The images of a microbatch, each flipped from left to right.
fn mirrored(batch: &Batch) -> Batch {
    let row = batch.size.1 * 3;
    let pixels = match &batch.pixels {
        Pixels::Bytes(bytes) => Pixels::Bytes(mirrored_rows(bytes, row).into()),
        Pixels::Floats(floats) => Pixels::Floats(mirrored_rows(floats, row)),
        unmixed @ Pixels::Unmixed(..) => unmixed.clone(),
    };
    Batch { pixels, ..batch.clone() }
}

fn mirrored_rows<P: Copy>(pixels: &[P], row: usize) -> Vec<P> {
    let rows = pixels.chunks(row.max(1));
    rows.flat_map(|row| row.as_chunks::<3>().0.iter().rev().flatten().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_mirrored_pixel_by_pixel() {
        let pixels: Vec<u8> = (0..12).collect();
        assert_eq!(mirrored_rows(&pixels, 6), [3, 4, 5, 0, 1, 2, 9, 10, 11, 6, 7, 8]);
        assert_eq!(mirrored_rows(&mirrored_rows(&pixels, 12), 12), pixels);
    }

    #[test]
    fn classes_and_pairs_are_counted() {
        let mut confusion =
            Confusion { classes: vec![Accuracy::default(); 3], ..Confusion::default() };
        for (logits, class) in
            [([3.0, 1.0, 2.0], 0), ([3.0, 1.0, 2.0], 2), ([0.0, 9.0, 1.0], 2), ([9.0, 0.0, 0.0], 2)]
        {
            confusion.add(&logits, class);
        }
        assert_eq!(confusion.mistakes(), [((2, 0), 2), ((2, 1), 1)]);
        let json = confusion.json(&["heron".to_owned()]);
        assert_eq!(json["samples"], 4);
        assert_eq!(json["top1"], 0.25);
        assert_eq!(
            json["classes"][0],
            json!({"samples": 1, "top1": 1.0, "top5": 1.0, "class": 0, "name": "heron"})
        );
        assert_eq!(json["classes"][2]["top1"], 0.0);
        assert_eq!(json["classes"][2]["name"], Value::Null);
        assert_eq!(json["confusion"], json!([[0, 0, 1], [2, 0, 2], [2, 1, 1]]));
    }
}
