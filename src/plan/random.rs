//! Streams of random numbers, each keyed by the choice that it is for.

use rand_chacha::ChaCha8Rng;
use rand_core::{Rng as _, SeedableRng as _};

use crate::geometry::{Interpolation, ResizeFilter};
use crate::recipe::Filter;

/// The choice that a stream of random numbers is for. The numbers of the variants are part of the
/// recipe's semantics.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Crop = 1,
    Flip = 2,
    Augment = 3,
    Mix = 4,
    AutoAugment = 16,
    VerticalFlip = 32,
    ColorJitter = 33,
    Grayscale = 34,
    Blur = 35,
}

/// A stream of random numbers: `ChaCha8`, keyed by the name of a choice.
pub(super) struct RandomStream(ChaCha8Rng);

impl RandomStream {
    pub(super) fn new(name: [u64; 4]) -> Self {
        let mut key = [0; 32];
        for (bytes, part) in key.as_chunks_mut::<8>().0.iter_mut().zip(name) {
            *bytes = part.to_le_bytes();
        }
        Self(ChaCha8Rng::from_seed(key))
    }

    /// Uniform in `0..1`, with 53 random bits.
    pub(super) fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Uniform in `low..high`, as Python's `random.uniform`.
    pub(super) fn uniform(&mut self, [low, high]: [f64; 2]) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in `0..n`. The bias of the multiplication is below 2^-32.
    #[expect(clippy::cast_possible_truncation, reason = "the high half is below n")]
    pub(super) fn below(&mut self, n: u32) -> u32 {
        ((u128::from(self.0.next_u64()) * u128::from(n)) >> 64) as u32
    }

    /// Whether a drawn filter is bilinear instead of bicubic. It is drawn for a fixed filter too, so that
    /// the choice of the filter does not shift the numbers behind it.
    fn bilinear(&mut self) -> bool {
        self.unit() < 0.5
    }

    /// The filter of a resize.
    pub(super) fn resize_filter(&mut self, filter: Filter) -> ResizeFilter {
        let drawn = if self.bilinear() { ResizeFilter::Bilinear } else { ResizeFilter::Bicubic };
        filter.for_resize().unwrap_or(drawn)
    }

    /// The filter of a geometric operation.
    pub(super) fn filter(&mut self, filter: Filter) -> Interpolation {
        let drawn = if self.bilinear() { Interpolation::Bilinear } else { Interpolation::Bicubic };
        filter.for_operations().unwrap_or(drawn)
    }

    /// Standard normal (Box-Muller). Only one number of each pair is used.
    pub(super) fn normal(&mut self) -> f64 {
        let radius = f64::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        radius * libm::cos(std::f64::consts::TAU * self.unit())
    }

    /// Beta(alpha, alpha), by the algorithms that NumPy uses: Jöhnk's for alpha up to 1, or else from two
    /// gamma variates.
    pub(super) fn beta(&mut self, alpha: f64) -> f64 {
        if alpha > 1.0 {
            let (x, y) = (self.gamma(alpha), self.gamma(alpha));
            return x / (x + y);
        }
        if alpha <= 0.0 {
            return 1.0;
        }
        loop {
            let (u, v) = (self.unit(), self.unit());
            let (x, y) = (libm::pow(u, 1.0 / alpha), libm::pow(v, 1.0 / alpha));
            if x + y > 1.0 || u + v == 0.0 {
                continue;
            }
            if x + y > 0.0 {
                return x / (x + y);
            }
            // Both powers underflowed, so the ratio is computed from logarithms.
            let (log_x, log_y) = (libm::log(u) / alpha, libm::log(v) / alpha);
            let max = log_x.max(log_y);
            let (x, y) = (libm::exp(log_x - max), libm::exp(log_y - max));
            return x / (x + y);
        }
    }

    /// Dirichlet(alpha, .., alpha) of the given length: gamma variates, divided by their sum. They are
    /// computed from logarithms, because those of a small alpha may all underflow.
    pub(super) fn dirichlet(&mut self, alpha: f64, length: u32) -> Vec<f64> {
        let mut values: Vec<f64> = (0..length).map(|_| self.log_gamma(alpha)).collect();
        let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        for value in &mut values {
            *value = libm::exp(*value - max);
        }
        let sum: f64 = values.iter().sum();
        for value in &mut values {
            *value /= sum;
        }
        values
    }

    /// The logarithm of Gamma(shape, 1). For a shape below 1 it is that of the next shape, times a power of
    /// a uniform number (Marsaglia and Tsang, 2000).
    fn log_gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let next = libm::log(self.gamma(shape + 1.0));
            return next + libm::log(1.0 - self.unit()) / shape;
        }
        libm::log(self.gamma(shape))
    }

    /// Gamma(shape, 1) for shapes of at least 1 (Marsaglia and Tsang, 2000).
    fn gamma(&mut self, shape: f64) -> f64 {
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / f64::sqrt(9.0 * d);
        loop {
            let x = self.normal();
            let v = 1.0 + c * x;
            if v <= 0.0 {
                continue;
            }
            let v = v * v * v;
            if libm::log(1.0 - self.unit()) < 0.5 * x * x + d - d * v + d * libm::log(v) {
                return d * v;
            }
        }
    }
}
