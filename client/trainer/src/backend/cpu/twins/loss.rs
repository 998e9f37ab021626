//! The twin of loss.cu.

use rayon::prelude::*;

use super::near::Near;
use super::twin::loss::{
    self as twin, Targets, bias_add, bias_gradient, binary_cross_entropy, cross_entropy, exp_of,
    log_of, log1p_of,
};
use super::{doubles, numbers};
use crate::batch::Targets as TrueTargets;
use crate::loss::{Criterion, Loss};

/// Number of roundings that bounds a function with an error of 2 ulp.
const TWO_ULP: f64 = 4.0;

/// Step between the f32 that are tested. With 1, the test takes minutes and finds 0.982 ulp for exp and 1.968 for both logs.
const STEP: usize = 509;

/// Maximum error of a function between two f32, in units in the last place of the exact result.
fn max_ulp(from: f32, to: f32, function: fn(f32) -> f32, truth: fn(f64) -> f64) -> f64 {
    let ulp = |bits: u32| {
        let x = f32::from_bits(bits);
        let truth = truth(f64::from(x));
        let exponent = libm::ilogb(truth.abs().max(f64::from(f32::MIN_POSITIVE)));
        (f64::from(function(x)) - truth).abs() / libm::exp2(f64::from(exponent - 23))
    };
    let (from, to) = (from.to_bits(), to.to_bits());
    let max = (from..to).into_par_iter().step_by(STEP).map(ulp).reduce(|| 0.0, f64::max);
    max.max(ulp(to))
}

#[test]
fn exp_and_log_are_within_2_ulp() {
    let exp = max_ulp(-0.0, -87.0, exp_of, libm::exp).max(max_ulp(0.0, 0.0, exp_of, libm::exp));
    let log1p = max_ulp(0.0, 1.0, log1p_of, libm::log1p);
    // Sums over up to 2^24 classes.
    let log = max_ulp(1.0, 16_777_216.0, log_of, libm::log);
    assert!(exp <= 2.0 && log1p <= 2.0 && log <= 2.0, "exp {exp}, log1p {log1p}, log {log}");
}

#[test]
fn exp_is_right_at_the_ends_of_its_range() {
    assert_eq!(exp_of(0.0).to_bits(), 1.0_f32.to_bits());
    assert_eq!(exp_of(f32::NEG_INFINITY).to_bits(), 0);
    assert_eq!(exp_of(-87.000_01).to_bits(), 0);
    assert!(exp_of(-87.0) >= f32::MIN_POSITIVE);
    assert!(exp_of(f32::NAN).is_nan());
}

/// Error bound of `exp_of`, for x <= 0.
fn exp(x: Near) -> Near {
    // Below -87 the result is 0, and the error below about the smallest normal number.
    let near = x.map(libm::exp(x.value + x.error), libm::exp).widened(TWO_ULP);
    Near { error: near.error + 2e-38, ..near }
}

/// Samples and classes.
const SHAPES: [[usize; 2]; 3] = [[1, 1], [5, 10], [3, 700]];

struct Batch {
    logits: Vec<f32>,
    a: Vec<u32>,
    b: Vec<u32>,
    lambda: Vec<f32>,
}

fn batch([samples, classes]: [usize; 2]) -> Batch {
    let labels = |seed: u64| {
        let class = |x: f32| (f64::from(x).abs() * classes as f64).floor();
        let classes = numbers(samples, seed).into_iter().map(class);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "floored")]
        classes.map(|class| class as u32).collect::<Vec<_>>()
    };
    let (a, mut b) = (labels(1), labels(2));
    // Two equal labels.
    b[0] = a[0];
    // Small and large logits.
    let logits = numbers(samples * classes, 3).iter().map(|x| 20.0 * x * x * x).collect();
    Batch { logits, a, b, lambda: numbers(samples, 4).iter().map(|x| x.abs()).collect() }
}

const SCALE: f32 = 0.375;

/// Arguments of the twin, and the smoothed target values, rounded to f32.
fn args(loss: &Loss, classes: usize) -> (twin::Loss, [Near; 2]) {
    let off = loss.smoothing / classes as f64;
    let near = [1.0 - loss.smoothing + off, off].map(|number| Near::exact(number).rounded());
    let [on, off] = near.map(|near| nearest(near.value));
    (twin::Loss { classes, on, off, threshold: loss.target_threshold, scale: SCALE }, near)
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is the purpose")]
const fn nearest(number: f64) -> f32 {
    number as f32
}

/// Compares the loss and the gradient of each sample with the bounds that `derive(logits, targets)` returns.
fn compare(
    loss: &Loss,
    run: impl Fn(&twin::Loss, &[f32], &Targets<'_>, &mut [f32], &mut [f32]),
    derive: impl Fn(&[Near], &[Near]) -> (Near, Vec<Near>),
) {
    for [samples, classes] in SHAPES {
        let Batch { logits, a, b, lambda } = batch([samples, classes]);
        let (args, [on, off]) = args(loss, classes);
        let (mut slope, mut losses) = (vec![0.0; logits.len()], vec![0.0; samples]);
        let targets = Targets { a: &a, b: &b, lambda: &lambda };
        run(&args, &logits, &targets, &mut slope, &mut losses);
        for sample in 0..samples {
            let row = sample * classes..(sample + 1) * classes;
            let one = TrueTargets {
                a: &a[sample..=sample],
                b: &b[sample..=sample],
                lambda: &lambda[sample..=sample],
            };
            let mut gradient = vec![0.0; classes];
            let scale = f64::from(SCALE);
            let logits = &doubles(&logits[row.clone()]);
            let truth = loss.batch(logits, &one, scale, &mut vec![0.0; classes], &mut gradient);

            let first = Near::exact(lambda[sample]);
            let second = (Near::exact(1.0) - first).rounded();
            let of = |class: u32, c: usize| if class as usize == c { on } else { off };
            let target = |c: usize| {
                let first = (of(a[sample], c) * first).rounded();
                (first + (of(b[sample], c) * second).rounded()).rounded()
            };
            let targets: Vec<Near> = (0..classes).map(target).collect();
            let logits: Vec<Near> = logits.iter().copied().map(Near::exact).collect();
            let (near, slopes) = derive(&logits, &targets);
            near.holds("loss", losses[sample], truth);
            for ((near, slope), truth) in slopes.into_iter().zip(&slope[row]).zip(gradient) {
                near.holds("slope", *slope, truth);
            }
        }
    }
}

/// Additions in which a class takes part: those of a thread, then those over a block.
const fn depth(classes: usize) -> usize {
    classes.div_ceil(256) + 8
}

#[test]
fn binary_cross_entropy_matches_the_cpu() {
    for (smoothing, threshold) in [(0.0, None), (0.1, None), (0.1, Some(0.2))] {
        let loss = Loss { criterion: Criterion::BceSum, smoothing, target_threshold: threshold };
        compare(&loss, binary_cross_entropy, |logits, targets| {
            let one = Near::exact(1.0);
            let each = logits.iter().zip(targets).map(|(x, y)| {
                let y = threshold.map_or(*y, |threshold| {
                    let above = y.value - f64::from(threshold);
                    assert!(
                        above.abs() > y.error,
                        "the target must not be within rounding of the threshold"
                    );
                    Near::exact(f64::from(u8::from(above > 0.0)))
                });
                let small = exp(Near::exact(-x.value.abs()));
                let log = small.map(1.0, libm::log1p).widened(TWO_ULP);
                let positive = Near::exact(x.value.max(0.0));
                let loss = ((positive - (*x * y).rounded()).rounded() + log).rounded();
                let above = if x.value >= 0.0 { one } else { small };
                let sigmoid = (above / (one + small).rounded()).rounded();
                let slope = ((sigmoid - y).rounded() * Near::exact(SCALE)).rounded();
                (loss, slope)
            });
            let (losses, slopes): (Vec<Near>, Vec<Near>) = each.unzip();
            (Near::sum(losses, depth(logits.len())), slopes)
        });
    }
}

#[test]
fn cross_entropy_matches_the_cpu() {
    for smoothing in [0.0, 0.1] {
        let loss = Loss { criterion: Criterion::CrossEntropy, smoothing, target_threshold: None };
        compare(&loss, cross_entropy, |logits, targets| {
            let depth = depth(logits.len());
            let max = logits.iter().fold(f64::NEG_INFINITY, |max, x| max.max(x.value));
            let away = |x: &Near| (*x - Near::exact(max)).rounded();
            let sum = Near::sum(logits.iter().map(away).map(exp), depth);
            let whole = Near::sum(targets.iter().copied(), depth);
            // The derivative of the logarithm is at most 1 for arguments of at least 1.
            let log = sum.map(1.0, libm::log).widened(TWO_ULP);
            let losses = logits.iter().zip(targets).map(|(x, y)| {
                let behind = (away(x) - log).rounded();
                Near::exact(0.0) - (*y * behind).rounded()
            });
            let slopes = logits.iter().zip(targets).map(|(x, y)| {
                let share = (exp(away(x)) / sum).rounded();
                let slope = ((share * whole).rounded() - *y).rounded();
                (slope * Near::exact(SCALE)).rounded()
            });
            (Near::sum(losses, depth), slopes.collect())
        });
    }
}

#[test]
fn the_bias_and_its_gradient_match_sums() {
    let (samples, classes) = (37, 9);
    let (before, bias) = (numbers(samples * classes, 1), numbers(classes, 2));
    let mut logits = before.clone();
    bias_add(&mut logits, &bias);
    for (at, logit) in logits.iter().enumerate() {
        let near = Near::exact(before[at]) + Near::exact(bias[at % classes]);
        near.rounded().holds("logit", *logit, near.value);
    }
    let mut gradient = bias.clone();
    bias_gradient(&before, &mut gradient);
    for c in 0..classes {
        let slopes = (c..before.len()).step_by(classes).map(|at| Near::exact(before[at]));
        // Three samples per lane, and sixteen lanes.
        let near = Near::exact(bias[c]) + Near::sum(slopes, 3 + 16);
        near.rounded().holds("gradient", gradient[c], near.value);
    }
}
