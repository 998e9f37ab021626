//! LAMB as timm's (1.0.31, `optim/lamb.py`, `_single_tensor_lamb`): Adam's direction plus decay, each
//! tensor scaled to the size of its parameters; gradients are clipped by their norm over all tensors.
//!
//! Sums run over chunks of fixed size, added in order: the same bits on any number of threads.

use rayon::prelude::*;

use crate::backend::cpu::Real;

/// Numbers of a parallel piece of work.
const CHUNK: usize = 1 << 14;

/// Settings, by timm's names.
#[expect(clippy::struct_excessive_bools, reason = "they are timm's, and independent")]
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Lamb {
    /// Decay of the mean of gradients and of their squares.
    pub betas: (f64, f64),
    /// Added to the root of the mean square.
    pub eps: f64,
    /// For parameters that decay.
    pub weight_decay: f64,
    /// Gradients are scaled down to this norm; `None`: never.
    pub max_grad_norm: Option<f64>,
    /// Adam's correction of the first steps.
    pub bias_correction: bool,
    /// New gradients count `1 - betas.0`; else 1.
    pub grad_averaging: bool,
    /// The trust ratio is at most 1.
    pub trust_clip: bool,
    /// Trust ratio for parameters without decay too.
    pub always_adapt: bool,
}

impl Default for Lamb {
    fn default() -> Self {
        Self {
            betas: (0.9, 0.999),
            eps: 1e-6,
            weight_decay: 0.02,
            max_grad_norm: Some(1.0),
            bias_correction: true,
            grad_averaging: true,
            trust_clip: false,
            always_adapt: false,
        }
    }
}

/// One tensor of an update.
#[derive(Debug)]
pub struct Tensor<'a, T> {
    /// Changed.
    pub parameter: &'a mut [T],
    /// Used as scratch.
    pub gradient: &'a mut [T],
    /// Mean of gradients.
    pub mean: &'a mut [T],
    /// Mean of their squares.
    pub square: &'a mut [T],
    /// Whether weight decay applies.
    pub decays: bool,
}

/// Numbers that depend on the step alone.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// Learning rate.
    pub rate: f64,
    /// 1 for the first update.
    pub number: u64,
    /// Norm of all gradients.
    pub norm: f64,
}

/// Room for the sums over the chunks of the largest tensor.
#[derive(Debug)]
pub struct Sums(Vec<[f64; 2]>);

impl Sums {
    /// For tensors of at most so many numbers.
    pub fn new(numbers: usize) -> Self {
        Self(vec![[0.0; 2]; numbers.div_ceil(CHUNK).max(1)])
    }

    /// The norm of a tensor.
    pub fn norm<T: Real>(&mut self, values: &[T]) -> f64 {
        let chunks = values.par_chunks(CHUNK).zip(&mut self.0);
        chunks.for_each(|(values, sum)| sum[0] = square_sum(values));
        self.0[..values.len().div_ceil(CHUNK)].iter().map(|s| s[0]).sum::<f64>().sqrt()
    }
}

impl Lamb {
    /// Updates one tensor.
    pub fn update<T: Real>(&self, step: &Step, tensor: Tensor<'_, T>, sums: &mut Sums) {
        let Tensor { parameter, gradient, mean, square, decays } = tensor;
        let decay = if decays { self.weight_decay } else { 0.0 };
        let adapt = decay != 0.0 || self.always_adapt;
        let direction = self.direction::<T>(step, decay);
        let chunks = parameter.par_chunks(CHUNK).zip(gradient.par_chunks_mut(CHUNK));
        let state = mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK));
        chunks.zip(state).zip(&mut sums.0).for_each(
            |(((parameter, gradient), (mean, square)), sums)| {
                direction.apply(parameter, gradient, mean, square);
                *sums =
                    if adapt { [square_sum(parameter), square_sum(gradient)] } else { [0.0; 2] };
            },
        );
        let mut ratio = 1.0;
        if adapt {
            let sums = sums.0[..parameter.len().div_ceil(CHUNK)].iter();
            let [weights, update] =
                sums.fold([0.0; 2], |a, b| [a[0] + b[0], a[1] + b[1]]).map(f64::sqrt);
            if weights > 0.0 && update > 0.0 {
                ratio = weights / update;
            }
            if self.trust_clip {
                ratio = ratio.min(1.0);
            }
        }
        let (ratio, rate) = (T::from_f64(ratio), T::from_f64(step.rate));
        parameter.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).for_each(
            |(parameter, update)| {
                for (parameter, update) in parameter.iter_mut().zip(update) {
                    *parameter = *parameter - rate * (*update * ratio);
                }
            },
        );
    }

    fn direction<T: Real>(&self, step: &Step, decay: f64) -> Direction<T> {
        let clip = self.max_grad_norm.map_or(1.0, |most| (step.norm / most).max(1.0));
        let factors = Factors::new(self, step.number);
        Direction {
            clip: T::from_f64(clip),
            beta1: T::from_f64(factors.beta1),
            new1: T::from_f64(factors.new1),
            beta2: T::from_f64(factors.beta2),
            new2: T::from_f64(factors.new2),
            correction1: T::from_f64(factors.correction1),
            correction2: T::from_f64(factors.correction2),
            eps: T::from_f64(self.eps),
            decay: T::from_f64(decay),
        }
    }
}

/// What an update's number makes of the settings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Factors {
    pub(crate) beta1: f64,
    pub(crate) new1: f64,
    pub(crate) beta2: f64,
    pub(crate) new2: f64,
    /// What the mean is divided by, and the root of what the mean square is.
    pub(crate) correction1: f64,
    pub(crate) correction2: f64,
}

impl Factors {
    /// Of an update, 1 for the first.
    pub(crate) fn new(lamb: &Lamb, update: u64) -> Self {
        let (beta1, beta2) = lamb.betas;
        let corrected = |beta: f64| {
            if lamb.bias_correction { 1.0 - libm::pow(beta, update as f64) } else { 1.0 }
        };
        Self {
            beta1,
            new1: if lamb.grad_averaging { 1.0 - beta1 } else { 1.0 },
            beta2,
            new2: 1.0 - beta2,
            correction1: corrected(beta1),
            correction2: corrected(beta2).sqrt(),
        }
    }
}

/// Adam's direction plus decay.
struct Direction<T> {
    clip: T,
    beta1: T,
    new1: T,
    beta2: T,
    new2: T,
    correction1: T,
    correction2: T,
    eps: T,
    decay: T,
}

impl<T: Real> Direction<T> {
    /// Leaves the direction in `gradient`.
    fn apply(&self, parameter: &[T], gradient: &mut [T], mean: &mut [T], square: &mut [T]) {
        let state = mean.iter_mut().zip(square);
        for ((parameter, gradient), (mean, square)) in parameter.iter().zip(gradient).zip(state) {
            let g = *gradient / self.clip;
            *mean = self.beta1 * *mean + self.new1 * g;
            *square = self.beta2 * *square + self.new2 * g * g;
            let root = square.root() / self.correction2 + self.eps;
            *gradient = *mean / self.correction1 / root + self.decay * *parameter;
        }
    }
}

/// Sum of squares, in f64, eight sums side by side.
fn square_sum<T: Real>(values: &[T]) -> f64 {
    let mut sums = [0.0; 8];
    let chunks = values.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|x| x.to_f64() * x.to_f64()).sum();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += x.to_f64() * x.to_f64();
        }
    }
    sums.iter().sum::<f64>() + rest
}
