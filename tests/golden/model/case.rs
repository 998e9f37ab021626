//! A network with its golden input and targets.

use forebay_trainer::{Batch, Criterion, DropPath, Graph, Loss, MicrobatchName, Pixels, Tensor};
use serde_json::Value;

use crate::net::{Net, On};

/// Allowed relative errors.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Of logits in evaluation mode.
    pub(super) eval: f64,
    /// Of logits in training mode.
    pub(super) train: f64,
    pub(super) gradients: f64,
    /// Of the losses of five optimizer steps.
    pub(super) steps: f64,
}

impl Limits {
    pub(super) const fn of(on: On) -> Self {
        match on {
            On::Double => Self { eval: 1e-9, train: 1e-9, gradients: 1e-9, steps: 1e-6 },
            // Networks in bf16 get wider limits in `narrow::run`.
            _ => Self { eval: 1e-5, train: 5e-5, gradients: 1e-3, steps: 2e-2 },
        }
    }
}

/// A network and its golden input.
pub(super) struct Case {
    pub(super) on: On,
    pub(super) net: Box<dyn Net>,
    pub(super) batch: Batch,
    /// Dense targets.
    pub(super) target: Vec<f64>,
    pub(super) limits: Limits,
}

impl Case {
    pub(super) fn samples(&self) -> usize {
        self.batch.samples()
    }

    pub(super) fn logits(&mut self, train: bool, drops: Option<&DropPath>) -> Vec<f64> {
        self.net.forward(&self.batch, train, drops)
    }

    /// Forward and backward in training by mean BCE on the dense targets; returns the logits and the loss.
    pub(super) fn train(&mut self, drops: Option<&DropPath>) -> (Vec<f64>, f64) {
        let logits = self.logits(true, drops);
        let loss = Loss { criterion: Criterion::Bce, smoothing: 0.0, target_threshold: None };
        let (samples, mut slope) = (self.samples(), vec![0.0; logits.len()]);
        let classes = logits.len() / samples;
        let rows = logits.chunks(classes).zip(self.target.chunks(classes));
        let sum = rows
            .zip(slope.chunks_mut(classes))
            .map(|((logits, target), slope)| loss.sample(logits, target, samples, 1.0, slope))
            .sum();
        self.net.backward(&self.batch, &slope, drops);
        (logits, sum)
    }

    pub(super) fn graph(&self) -> &Graph {
        self.net.graph()
    }
}

pub(super) fn numbers(value: &Value) -> Vec<usize> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|n| usize::try_from(n.as_u64().unwrap()).unwrap())
        .collect()
}

/// Images of C, H, W as H, W, C.
pub(super) fn images(from: &Tensor) -> Pixels {
    let [samples, channels, height, width] = from.shape[..] else { panic!("{:?}", from.shape) };
    let pixels = height * width;
    let at = |i: usize| {
        let (sample, pixel, channel) =
            (i / (pixels * channels), i / channels % pixels, i % channels);
        from.values[(sample * channels + channel) * pixels + pixel]
    };
    Pixels::Floats((0..samples * pixels * channels).map(at).collect())
}

pub(super) fn batch(pixels: Pixels, samples: usize, side: usize) -> Batch {
    let (label_a, label_b, lambda) = (vec![0; samples], vec![0; samples], vec![1.0; samples]);
    let name = MicrobatchName { seed: 0, epoch: 0, step: 0, index: 0 };
    Batch { name, size: (side, side), pixels, label_a, label_b, lambda }
}
