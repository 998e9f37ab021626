//! Whole networks against torch's and timm's: logits, losses, gradients, running statistics, five
//! steps of LAMB, stochastic depth; narrow networks and real ones.
#![expect(clippy::unwrap_used, reason = "a test")]

mod full;
mod keys;
mod narrow;

use std::path::Path;

use forebay_trainer::backend::{Array, Batch, Pixels};
use forebay_trainer::droppath::Drops;
use forebay_trainer::loss::{Criterion, Loss};
use forebay_trainer::model::Graph;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::net::{Net, On};

/// Allowed relative errors.
#[derive(Clone, Copy)]
struct Limits {
    /// Of logits in evaluation mode.
    eval: f64,
    /// Of logits in training mode.
    train: f64,
    gradients: f64,
    /// Of the losses of five optimizer steps.
    steps: f64,
}

impl Limits {
    const fn of(on: On) -> Self {
        match on {
            On::Double => Self { eval: 1e-9, train: 1e-9, gradients: 1e-9, steps: 1e-6 },
            // Networks in bf16 get wider limits in `narrow::run`.
            _ => Self { eval: 1e-5, train: 5e-5, gradients: 1e-3, steps: 2e-2 },
        }
    }
}

pub(crate) fn trials(folder: &Path) -> Vec<Trial> {
    let folder = folder.join("10_model");
    if !folder.is_dir() {
        return Vec::new();
    }
    let mut trials = Vec::new();
    for on in On::all() {
        for model in ["r18n", "r50n"] {
            for part in ["forward", "gradients", "steps", "droppath"] {
                let folder = folder.clone();
                let name = on.name(&format!("10_model/{model}_NUMBER_{part}"));
                trials.push(Trial::test(name, move || narrow::run(&folder, model, on, part)));
            }
        }
    }
    for model in ["resnet18", "resnet50"] {
        for on in [On::Double, On::Single] {
            let folder = folder.clone();
            let name = on.name(&format!("10_model/{model}_full_NUMBER"));
            trials.push(Trial::test(name, move || full::run(&folder, model, on)));
        }
    }
    for model in ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] {
        let folder = folder.clone();
        trials
            .push(Trial::test(format!("10_model/{model}_keys"), move || keys::run(&folder, model)));
    }
    trials
}

/// A network and its golden input.
struct Case {
    on: On,
    net: Box<dyn Net>,
    batch: Batch,
    /// Dense targets.
    target: Vec<f64>,
    limits: Limits,
}

impl Case {
    fn samples(&self) -> usize {
        self.batch.samples()
    }

    fn logits(&mut self, train: bool, drops: Option<&Drops>) -> Vec<f64> {
        self.net.forward(&self.batch, train, drops)
    }

    /// Forward and backward in training by mean BCE on the dense targets; returns the logits and the loss.
    fn train(&mut self, drops: Option<&Drops>) -> (Vec<f64>, f64) {
        let logits = self.logits(true, drops);
        let loss = Loss { criterion: Criterion::Bce, smoothing: 0.0, threshold: None };
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

    fn graph(&self) -> &Graph {
        self.net.graph()
    }
}

fn numbers(value: &Value) -> Vec<usize> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|n| usize::try_from(n.as_u64().unwrap()).unwrap())
        .collect()
}

/// Images of C, H, W as H, W, C.
fn images(from: &Array) -> Pixels {
    let [samples, channels, height, width] = from.shape[..] else { panic!("{:?}", from.shape) };
    let pixels = height * width;
    let at = |i: usize| {
        let (sample, pixel, channel) =
            (i / (pixels * channels), i / channels % pixels, i % channels);
        from.values[(sample * channels + channel) * pixels + pixel]
    };
    Pixels::Floats((0..samples * pixels * channels).map(at).collect())
}

fn batch(pixels: Pixels, samples: usize, side: usize) -> Batch {
    let (label_a, label_b, lambda) = (vec![0; samples], vec![0; samples], vec![1.0; samples]);
    Batch { epoch: 0, step: 0, index: 0, size: (side, side), pixels, label_a, label_b, lambda }
}
