//! The end of a block with squeeze-and-excitation, and `ReLU` by itself. Images are independent of each other, and
//! each is one task.

use rayon::prelude::*;

use crate::model::Shape;
use crate::simd::Real;

/// The gates of a microbatch, one per image and channel.
pub(super) struct Gates<'a, T> {
    pub(super) shape: Shape,
    /// Before the sigmoid.
    pub(super) values: &'a [T],
    /// Stochastic-depth factor of each image; `None` without stochastic depth.
    pub(super) scales: Option<&'a [f64]>,
}

impl<T: Real> Gates<'_, T> {
    /// The gates of an image, and the factor that the branch is multiplied with in addition.
    fn image(&self, image: usize) -> (&[T], f64) {
        let scale = self.scales.map_or(1.0, |scales| scales[image]);
        (&self.values[image * self.shape.channels..][..self.shape.channels], scale)
    }

    /// `y = relu(x * sigmoid(gate) * scale + residual)`.
    pub(super) fn forward(&self, x: &[T], residual: &[T], y: &mut [T]) {
        let len = self.shape.elements();
        let images = y.par_chunks_mut(len).zip(x.par_chunks(len)).zip(residual.par_chunks(len));
        images.enumerate().for_each(|(image, ((y, x), residual))| {
            let (gates, scale) = self.image(image);
            let factors: Vec<T> =
                gates.iter().map(|gate| T::from_f64(sigmoid(*gate) * scale)).collect();
            let c = self.shape.channels;
            let pixels = y.chunks_exact_mut(c).zip(x.chunks_exact(c)).zip(residual.chunks_exact(c));
            for ((y, x), residual) in pixels {
                for (((y, x), residual), factor) in y.iter_mut().zip(x).zip(residual).zip(&factors)
                {
                    let sum = *x * *factor + *residual;
                    *y = if sum > T::ZERO { sum } else { T::ZERO };
                }
            }
        });
    }

    /// Leaves the gradient of the residual in `dy`, and computes those of `x` and of the gates.
    pub(super) fn backward(&self, x: &[T], y: &[T], dy: &mut [T], dx: &mut [T], dgates: &mut [T]) {
        let (len, c) = (self.shape.elements(), self.shape.channels);
        let images = dy.par_chunks_mut(len).zip(y.par_chunks(len)).zip(x.par_chunks(len));
        let gradients = dx.par_chunks_mut(len).zip(dgates.par_chunks_mut(c));
        images.zip(gradients).enumerate().for_each(|(image, (((dy, y), x), (dx, dgates)))| {
            let (gates, scale) = self.image(image);
            let factors: Vec<T> =
                gates.iter().map(|gate| T::from_f64(sigmoid(*gate) * scale)).collect();
            dgates.fill(T::ZERO);
            let values = y.chunks_exact(c).zip(x.chunks_exact(c));
            for (((y, x), dy), dx) in values.zip(dy.chunks_exact_mut(c)).zip(dx.chunks_exact_mut(c))
            {
                for channel in 0..c {
                    let slope = if y[channel] > T::ZERO { dy[channel] } else { T::ZERO };
                    dy[channel] = slope;
                    dx[channel] = slope * factors[channel];
                    dgates[channel] += slope * x[channel];
                }
            }
            for (dgate, gate) in dgates.iter_mut().zip(gates) {
                let open = sigmoid(*gate);
                *dgate = *dgate * T::from_f64(open * (1.0 - open) * scale);
            }
        });
    }
}

fn sigmoid<T: Real>(x: T) -> f64 {
    1.0 / (1.0 + libm::exp(-x.to_f64()))
}

pub(super) fn relu<T: Real>(x: &[T], y: &mut [T]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = if *x > T::ZERO { *x } else { T::ZERO };
    }
}

/// Passes the gradient where the output is positive.
pub(super) fn relu_backward<T: Real>(y: &[T], dy: &[T], dx: &mut [T]) {
    for ((dx, dy), y) in dx.iter_mut().zip(dy).zip(y) {
        *dx = if *y > T::ZERO { *dy } else { T::ZERO };
    }
}
