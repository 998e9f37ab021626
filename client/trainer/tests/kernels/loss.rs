//! Tests of loss.cu.

use half::f16;
use libtest_mimic::Failed;

use crate::data::{noise, numbers, room, stored, words};
use crate::rig::{Case, Format, Part, Rig, Test, args};
use crate::twin::loss::{self as twin, Loss, Targets};
use crate::twin::{Scaler, THREADS};

pub(crate) const TESTS: &[Test] = &[
    ("binary_cross_entropy", [binary::<u16>, binary::<f16>, binary::<f32>]),
    ("cross_entropy", [cross::<u16>, cross::<f16>, cross::<f32>]),
    ("bias_add", [bias_add::<u16>, bias_add::<f16>, bias_add::<f32>]),
    ("bias_gradient", [bias_gradient::<u16>, bias_gradient::<f16>, bias_gradient::<f32>]),
];

/// Samples and classes: one of each; fewer, as many and more classes than threads.
const SHAPES: [[usize; 2]; 7] = [[1, 1], [3, 2], [5, 10], [2, 255], [2, 256], [3, 257], [20, 1000]];

/// Factor of the gradients, and the loss scale, which is a power of two.
const SCALE: f32 = 0.3;
const LOSS_SCALE: f32 = 512.0;

/// Threshold above which targets become 1.
const THRESHOLD: f32 = 0.2;

/// Targets of a batch, in which some samples have two equal labels.
struct Batch {
    logits: Vec<f32>,
    a: Vec<u32>,
    b: Vec<u32>,
    lambda: Vec<f32>,
}

impl Batch {
    fn new([samples, classes]: [usize; 2]) -> Self {
        let mut noise = noise(samples);
        let count = u32::try_from(classes).unwrap();
        let a: Vec<u32> = (0..samples).map(|_| noise() % count).collect();
        let other = |a: &u32| if noise().is_multiple_of(3) { *a } else { noise() % count };
        let mut b: Vec<u32> = a.iter().map(other).collect();
        let mut lambda: Vec<f32> =
            (0..samples).map(|_| (noise() >> 8) as f32 / 16_777_216.0).collect();
        // A target equal to the threshold.
        (b[0], lambda[0]) = ((a[0] + 1) % count, THRESHOLD);
        // -90 to 90, which includes values for which e^x is 0; some are a thousand times larger.
        let logits = numbers(samples * classes, 1).into_iter().map(|x| x * 45.0).collect();
        Self { logits, a, b, lambda }
    }

    fn targets(&self) -> Targets<'_> {
        Targets { a: &self.a, b: &self.b, lambda: &self.lambda }
    }

    fn parts(&self, case: &mut Case) -> [Part; 4] {
        let labels = [case.kept(&self.a), case.kept(&self.b)];
        [case.kept(&self.logits), labels[0], labels[1], case.kept(&self.lambda)]
    }
}

fn loss(classes: usize, smoothing: f32, threshold: Option<f32>) -> Loss {
    let off = smoothing / classes as f32;
    Loss { classes, on: 1.0 - smoothing + off, off, threshold, scale: SCALE * LOSS_SCALE }
}

fn binary<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for [samples, classes] in SHAPES {
        let mut batch = Batch::new([samples, classes]);
        // Diverged training is detected by its loss, so a NaN must be kept.
        *batch.logits.last_mut().unwrap() = f32::NAN;
        for (smoothing, threshold) in [(0.0, None), (0.1, None), (0.0, Some(THRESHOLD))] {
            let loss = loss(classes, smoothing, threshold);
            let (mut slope, mut losses) = (room::<S>(samples * classes), room(samples));
            let targets = batch.targets();
            twin::binary_cross_entropy(&loss, &batch.logits, &targets, &mut slope, &mut losses);
            assert!(losses[samples - 1].is_nan());
            let mut case = Case::default();
            let [logits, a, b, lambda] = batch.parts(&mut case);
            let (slope, losses) = (case.written(&slope), case.written(&losses));
            let Loss { on, off, .. } = loss;
            let (thresholded, threshold) = (threshold.is_some(), threshold.unwrap_or_default());
            let args = args![
                logits,
                a,
                b,
                lambda,
                slope,
                losses,
                classes,
                on,
                off,
                thresholded,
                threshold,
                case.kept(&[SCALE]),
                case.kept(&words(Scaler::fixed(LOSS_SCALE)))
            ];
            rig.run::<S>(&case, |k| &k.binary_cross_entropy, [samples, 1], args)?;
        }
    }
    Ok(())
}

fn cross<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for [samples, classes] in SHAPES {
        let mut batch = Batch::new([samples, classes]);
        *batch.logits.last_mut().unwrap() = f32::NAN;
        for smoothing in [0.0, 0.1] {
            let loss = loss(classes, smoothing, None);
            let (mut slope, mut losses) = (room::<S>(samples * classes), room(samples));
            let targets = batch.targets();
            twin::cross_entropy(&loss, &batch.logits, &targets, &mut slope, &mut losses);
            assert!(losses[samples - 1].is_nan());
            let mut case = Case::default();
            let [logits, a, b, lambda] = batch.parts(&mut case);
            let (slope, losses) = (case.written(&slope), case.written(&losses));
            let Loss { on, off, .. } = loss;
            let scale = case.kept(&[SCALE]);
            let scaler = case.kept(&words(Scaler::fixed(LOSS_SCALE)));
            let args = args![logits, a, b, lambda, slope, losses, classes, on, off, scale, scaler];
            rig.run::<S>(&case, |k| &k.cross_entropy, [samples, 1], args)?;
        }
    }
    Ok(())
}

fn bias_add<S: Format>(rig: &Rig) -> Result<(), Failed> {
    for [samples, classes] in SHAPES {
        let (before, bias) = (numbers(samples * classes, 1), numbers(classes, 2));
        let mut logits = before.clone();
        twin::bias_add(&mut logits, &bias);
        let mut case = Case::default();
        let (logits, bias) = (case.changed(&before, &logits), case.kept(&bias));
        let blocks = [(samples * classes).div_ceil(THREADS), 1];
        rig.run::<S>(&case, |k| &k.bias_add, blocks, args![logits, bias, samples, classes])?;
    }
    Ok(())
}

fn bias_gradient<S: Format + 'static>(rig: &Rig) -> Result<(), Failed> {
    for [samples, classes] in SHAPES.into_iter().chain([[100, 17]]) {
        let slope = stored::<S>(&numbers(samples * classes, 1));
        let before = numbers(classes, 2);
        let mut gradient = before.clone();
        twin::bias_gradient(&slope, &mut gradient);
        let mut case = Case::default();
        let (slope, gradient) = (case.kept(&slope), case.changed(&before, &gradient));
        let args = args![slope, gradient, samples, classes];
        rig.run::<S>(&case, |k| &k.bias_gradient, [classes.div_ceil(16), 1], args)?;
    }
    Ok(())
}
