//! loss.cu: losses on sparse mixed targets, and the classifier's bias.

use super::{Stored, THREADS, block_sum};

/// Adding this to a number below 2^22 leaves the nearest integer in the low bits.
const MAGIC: f32 = 12_582_912.0;

/// e^x for x <= 0, and NaN for NaN. Below -87 it is 0.
#[expect(clippy::excessive_precision, reason = "digits are those of loss.cu")]
pub(crate) fn exp_of(x: f32) -> f32 {
    if x < -87.0 {
        return 0.0;
    }
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let k = shifted - MAGIC;
    let r = (x - k * 0.693_359_375) - k * -2.121_944_4e-4;
    let mut p = 1.987_569_15e-4;
    p = p * r + 1.398_199_950_7e-3;
    p = p * r + 8.333_451_907_3e-3;
    p = p * r + 4.166_579_589_4e-2;
    p = p * r + 1.666_666_545_9e-1;
    p = p * r + 5.000_000_120_1e-1;
    p = p * (r * r) + r + 1.0;
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// 2 atanh(s) for |s| <= 1/3: log((1 + s) / (1 - s)).
fn twice_atanh(s: f32) -> f32 {
    let z = s * s;
    let mut p = 1.0 / 15.0;
    p = p * z + 1.0 / 13.0;
    p = p * z + 1.0 / 11.0;
    p = p * z + 1.0 / 9.0;
    p = p * z + 1.0 / 7.0;
    p = p * z + 1.0 / 5.0;
    p = p * z + 1.0 / 3.0;
    2.0 * s + 2.0 * s * z * p
}

/// log(1 + x) for 0 <= x <= 1.
pub(crate) fn log1p_of(x: f32) -> f32 {
    twice_atanh(x / (2.0 + x))
}

/// log(x) for x >= 1.
pub(crate) fn log_of(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as f32 - 127.0;
    let mut mantissa = f32::from_bits((bits & 0x7f_ffff) | 0x3f80_0000);
    if mantissa > std::f32::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1.0;
    }
    let log = twice_atanh((mantissa - 1.0) / (mantissa + 1.0));
    exponent * std::f32::consts::LN_2 + log
}

fn block_max(mut scratch: [f32; THREADS]) -> f32 {
    let mut half = THREADS / 2;
    while half > 0 {
        for thread in 0..half {
            let other = scratch[thread + half];
            if other > scratch[thread] {
                scratch[thread] = other;
            }
        }
        half /= 2;
    }
    scratch[0]
}

/// Folds the classes of each thread of a block, from `start`.
fn threads<T: Copy>(classes: usize, start: T, class: impl FnMut(&mut T, usize)) -> [T; THREADS] {
    let (mut own, mut class) = ([start; THREADS], class);
    for c in 0..classes {
        class(&mut own[c % THREADS], c);
    }
    own
}

/// Sparse targets of a batch: class a with weight lambda, class b with the rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Targets<'a> {
    pub(crate) a: &'a [u32],
    pub(crate) b: &'a [u32],
    pub(crate) lambda: &'a [f32],
}

/// Scalar arguments of a loss.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loss {
    pub(crate) classes: usize,
    pub(crate) on: f32,
    pub(crate) off: f32,
    pub(crate) threshold: Option<f32>,
    pub(crate) scale: f32,
}

impl Loss {
    /// The smoothed target of each class of a sample.
    fn target_of(&self, targets: &Targets<'_>, sample: usize, c: usize) -> f32 {
        let of = |class: u32| if class as usize == c { self.on } else { self.off };
        let (first, second) = (targets.lambda[sample], 1.0 - targets.lambda[sample]);
        of(targets.a[sample]) * first + of(targets.b[sample]) * second
    }
}

pub(crate) fn binary_cross_entropy<S: Stored>(
    args: &Loss,
    logits: &[f32],
    targets: &Targets<'_>,
    gradient: &mut [S],
    losses: &mut [f32],
) {
    for (sample, sum) in losses.iter_mut().enumerate() {
        let loss = threads(args.classes, 0.0_f32, |loss, c| {
            let at = sample * args.classes + c;
            let (x, mut y) = (logits[at], args.target_of(targets, sample, c));
            if let Some(threshold) = args.threshold {
                y = if y > threshold { 1.0 } else { 0.0 };
            }
            let small = exp_of(if x > 0.0 { -x } else { x });
            *loss += (if x > 0.0 { x } else { 0.0 }) - x * y + log1p_of(small);
            let sigmoid = (if x >= 0.0 { 1.0 } else { small }) / (1.0 + small);
            gradient[at] = S::to_stored((sigmoid - y) * args.scale);
        });
        *sum = block_sum(loss);
    }
}

pub(crate) fn cross_entropy<S: Stored>(
    args: &Loss,
    logits: &[f32],
    targets: &Targets<'_>,
    gradient: &mut [S],
    losses: &mut [f32],
) {
    let classes = args.classes;
    for (sample, all) in losses.iter_mut().enumerate() {
        let row = &logits[sample * classes..][..classes];
        let max = block_max(threads(classes, row[0], |own, c| {
            *own = if row[c] > *own { row[c] } else { *own };
        }));
        let sum = block_sum(threads(classes, 0.0_f32, |part, c| *part += exp_of(row[c] - max)));
        let whole = block_sum(threads(classes, 0.0_f32, |part, c| {
            *part += args.target_of(targets, sample, c);
        }));
        let log = log_of(sum);
        *all = block_sum(threads(classes, 0.0_f32, |loss, c| {
            let (x, y) = (row[c] - max, args.target_of(targets, sample, c));
            *loss -= y * (x - log);
            gradient[sample * classes + c] =
                S::to_stored((exp_of(x) / sum * whole - y) * args.scale);
        }));
    }
}

pub(crate) fn bias_add(logits: &mut [f32], bias: &[f32]) {
    for (number, logit) in logits.iter_mut().enumerate() {
        *logit += bias[number % bias.len()];
    }
}

pub(crate) fn bias_gradient<S: Stored>(dlogits: &[S], gradient: &mut [f32]) {
    let classes = gradient.len();
    for (c, gradient) in gradient.iter_mut().enumerate() {
        let mut sum = 0.0;
        for lane in 0..16 {
            let samples = (lane..dlogits.len() / classes).step_by(16);
            sum += samples.fold(0.0, |sum, sample| sum + dlogits[sample * classes + c].to_float());
        }
        *gradient += sum;
    }
}
