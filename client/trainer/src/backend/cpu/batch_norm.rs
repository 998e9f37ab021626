//! Batch norm, fused with what follows it: stochastic depth, the residual sum and `ReLU`. Constants are
//! those of torch's `BatchNorm2d`: eps 1e-5, momentum 0.1, unbiased running variance.
//!
//! Sums run over chunks of rows. The size of a chunk depends on shapes only, and the sums of the chunks
//! are added in order, in f64.
#![expect(clippy::inline_always, reason = "kernels must be inlined where the features are enabled")]

use rayon::prelude::*;

use crate::simd::{Real, SimdKernel, SimdVector};

const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// Maximum number of chunks of rows.
const MAX_CHUNKS: usize = 128;

/// Length of the scratch for the sums of one batch norm.
pub(super) const fn scratch_len(channels: usize) -> usize {
    MAX_CHUNKS * 2 * channels
}

/// One batch norm, without its input and output tensors.
pub(super) struct BatchNorm<'a, T> {
    pub(super) channels: usize,
    /// Pixels per image.
    pub(super) pixels: usize,
    pub(super) relu: bool,
    /// Stochastic depth: the factor of each sample's branch.
    pub(super) scales: Option<&'a [f64]>,
    pub(super) gamma: &'a [T],
    pub(super) beta: &'a [T],
    /// Kept from forward for backward: mean, 1 / standard deviation, factor and shift of each channel.
    pub(super) saved: &'a mut [T],
}

/// Updates running statistics by those of a microbatch.
pub(super) fn update_running<T: Real>(running: &mut [T], batch: &[f64]) {
    for (running, new) in running.iter_mut().zip(batch) {
        *running = T::from_f64((1.0 - MOMENTUM) * running.to_f64() + MOMENTUM * new);
    }
}

impl<T: Real> BatchNorm<'_, T> {
    /// Values per chunk.
    fn chunk_len(&self, len: usize) -> usize {
        (len / self.channels).div_ceil(MAX_CHUNKS).max(64) * self.channels
    }

    /// Saves the statistics of the batch. Writes its means, then its unbiased variances, to `batch`.
    pub(super) fn batch_statistics(&mut self, x: &[T], batch: &mut [f64], sums: &mut [f64]) {
        let (c, chunk) = (self.channels, self.chunk_len(x.len()));
        let tasks = x.par_chunks(chunk).zip(sums.par_chunks_mut(2 * c));
        tasks.for_each(|(x, sums)| T::dispatch(Moments { x, sums }));
        let count = (x.len() / c) as f64;
        let (means, variances) = batch.split_at_mut(c);
        for (channel, (batch_mean, variance)) in means.iter_mut().zip(variances).enumerate() {
            // The sums of a chunk are relative to its first row, against cancellation. Chan's formula
            // combines the chunks.
            let parts = || {
                x.chunks(chunk).zip(sums.chunks(2 * c)).map(|(x, sums)| {
                    let n = (x.len() / c) as f64;
                    let (first, second) = (sums[channel], sums[c + channel]);
                    (n, x[channel].to_f64() + first / n, second - first * first / n)
                })
            };
            let mean = parts().map(|(n, mean, _)| n * mean).sum::<f64>() / count;
            let square: f64 =
                parts().map(|(n, part, square)| square + n * (part - mean) * (part - mean)).sum();
            let square = square.max(0.0);
            self.save(channel, mean, square / count);
            *batch_mean = mean;
            *variance = square / (count - 1.0).max(1.0);
        }
    }

    /// Saves the running statistics, for inference.
    pub(super) fn running_statistics(&mut self, running: &[T]) {
        let (means, variances) = running.split_at(self.channels);
        for (channel, (mean, variance)) in means.iter().zip(variances).enumerate() {
            self.save(channel, mean.to_f64(), variance.to_f64());
        }
    }

    fn save(&mut self, channel: usize, mean: f64, variance: f64) {
        let inverse = 1.0 / (variance + EPS).sqrt();
        let factor = inverse * self.gamma[channel].to_f64();
        let shift = self.beta[channel].to_f64() - mean * factor;
        for (i, number) in [mean, inverse, factor, shift].into_iter().enumerate() {
            self.saved[i * self.channels + channel] = T::from_f64(number);
        }
    }

    /// `y = relu(residual + scale * (x * factor + shift))`.
    pub(super) fn forward(&self, x: &[T], residual: Option<&[T]>, y: &mut [T]) {
        let chunk = self.chunk_len(x.len());
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).enumerate().for_each(|(i, (y, x))| {
            let residual = residual.map(|r| &r[i * chunk..][..x.len()]);
            T::dispatch(Apply { norm: self, first: i * chunk, x, residual, y });
        });
    }

    /// Computes the gradient of x from that of the output, and adds to those of gamma and beta.
    ///
    /// With a residual, given as the output `y` and a tensor for the gradient of x, `dy` becomes the
    /// gradient of the residual. Without one, `dy` becomes the gradient of x.
    pub(super) fn backward(
        &self,
        x: &[T],
        residual: Option<(&[T], &mut [T])>,
        dy: &mut [T],
        [dgamma, dbeta]: [&mut [T]; 2],
        sums: &mut [f64],
    ) {
        let (c, chunk) = (self.channels, self.chunk_len(x.len()));
        let y = residual.as_ref().map(|(y, _)| *y);
        let tasks =
            dy.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).zip(sums.par_chunks_mut(2 * c));
        tasks.enumerate().for_each(|(i, ((dy, x), sums))| {
            let y = y.map(|y| &y[i * chunk..][..x.len()]);
            T::dispatch(GradientSums { norm: self, first: i * chunk, x, y, dy, sums });
        });
        let count = (x.len() / c) as f64;
        let parts = x.len().div_ceil(chunk);
        // The sums of the first chunk are overwritten by what `InputGradient` needs: the mean gradient, and
        // the mean of (gradient times distance to the mean) divided by the variance.
        for channel in 0..c {
            let total = |at: usize| (0..parts).map(|part| sums[part * 2 * c + at]).sum::<f64>();
            let (sum, product) = (total(channel), total(c + channel));
            let inverse = self.saved[c + channel].to_f64();
            dbeta[channel] += T::from_f64(sum);
            dgamma[channel] += T::from_f64(product * inverse);
            sums[channel] = sum / count;
            sums[c + channel] = product * inverse * inverse / count;
        }
        let means = &sums[..2 * c];
        if let Some((_, dx)) = residual {
            let tasks = dx.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).zip(dy.par_chunks(chunk));
            tasks.enumerate().for_each(|(i, ((dx, x), dy))| {
                let first = i * chunk;
                T::dispatch(InputGradient { norm: self, first, x, dy: Some(dy), means, dx });
            });
        } else {
            let tasks = dy.par_chunks_mut(chunk).zip(x.par_chunks(chunk));
            tasks.enumerate().for_each(|(i, (dx, x))| {
                let first = i * chunk;
                T::dispatch(InputGradient { norm: self, first, x, dy: None, means, dx });
            });
        }
    }

    /// The stochastic-depth factor of the sample that a value belongs to.
    #[inline(always)]
    fn scale(&self, index: usize) -> T {
        self.scales
            .map_or(T::ONE, |scales| T::from_f64(scales[index / (self.pixels * self.channels)]))
    }
}

/// Sums of the distance to the first row of the chunk, and of its square.
struct Moments<'a, T> {
    x: &'a [T],
    sums: &'a mut [f64],
}

impl<T: Real> SimdKernel<T> for Moments<'_, T> {
    #[inline(always)]
    fn run<V: SimdVector<T>, const R: usize, const M: usize, const W: usize>(self) {
        self.sums.fill(0.0);
        let c = self.sums.len() / 2;
        let (sums, squares) = self.sums.split_at_mut(c);
        let origin = &self.x[..c];
        for x in self.x.chunks_exact(c) {
            for (((x, origin), sum), square) in
                x.iter().zip(origin).zip(&mut *sums).zip(&mut *squares)
            {
                let distance = *x - *origin;
                *sum += distance.to_f64();
                *square += (distance * distance).to_f64();
            }
        }
    }
}

/// [`BatchNorm::forward`] of a chunk that starts at value `first`.
struct Apply<'a, T> {
    norm: &'a BatchNorm<'a, T>,
    first: usize,
    x: &'a [T],
    residual: Option<&'a [T]>,
    y: &'a mut [T],
}

impl<T: Real> SimdKernel<T> for Apply<'_, T> {
    #[inline(always)]
    fn run<V: SimdVector<T>, const R: usize, const M: usize, const W: usize>(self) {
        let c = self.norm.channels;
        let (factor, shift) = self.norm.saved[2 * c..].split_at(c);
        let floor = |number: T| if self.norm.relu && number < T::ZERO { T::ZERO } else { number };
        for (i, (x, y)) in self.x.chunks_exact(c).zip(self.y.chunks_exact_mut(c)).enumerate() {
            let numbers = x.iter().zip(factor).zip(shift).zip(y);
            if let Some(residual) = self.residual {
                let scale = self.norm.scale(self.first + i * c);
                for ((((x, factor), shift), y), residual) in numbers.zip(&residual[i * c..]) {
                    *y = floor(*residual + scale * (*x * *factor + *shift));
                }
            } else {
                for (((x, factor), shift), y) in numbers {
                    *y = floor(*x * *factor + *shift);
                }
            }
        }
    }
}

/// Sums of the gradient before `ReLU` and stochastic depth, and of this gradient times the distance to
/// the mean. With a residual, `dy` becomes the gradient before `ReLU`.
struct GradientSums<'a, T> {
    norm: &'a BatchNorm<'a, T>,
    first: usize,
    x: &'a [T],
    /// The output, with a residual.
    y: Option<&'a [T]>,
    dy: &'a mut [T],
    sums: &'a mut [f64],
}

impl<T: Real> SimdKernel<T> for GradientSums<'_, T> {
    #[inline(always)]
    fn run<V: SimdVector<T>, const R: usize, const M: usize, const W: usize>(self) {
        self.sums.fill(0.0);
        let c = self.norm.channels;
        let (sums, products) = self.sums.split_at_mut(c);
        let mean = &self.norm.saved[..c];
        let (factor, shift) = self.norm.saved[2 * c..].split_at(c);
        for (i, (x, dy)) in self.x.chunks_exact(c).zip(self.dy.chunks_exact_mut(c)).enumerate() {
            let sums = sums.iter_mut().zip(&mut *products);
            let numbers = x.iter().zip(mean).zip(sums);
            if let Some(y) = self.y {
                let scale = self.norm.scale(self.first + i * c);
                for ((((x, mean), (sum, product)), dy), y) in numbers.zip(dy).zip(&y[i * c..]) {
                    *dy = if !self.norm.relu || *y > T::ZERO { *dy } else { T::ZERO };
                    let gradient = *dy * scale;
                    *sum += gradient.to_f64();
                    *product += (gradient * (*x - *mean)).to_f64();
                }
            } else {
                let line = factor.iter().zip(shift);
                for ((((x, mean), (sum, product)), dy), (factor, shift)) in
                    numbers.zip(dy).zip(line)
                {
                    let on = !self.norm.relu || *x * *factor + *shift > T::ZERO;
                    let gradient = if on { *dy } else { T::ZERO };
                    *sum += gradient.to_f64();
                    *product += (gradient * (*x - *mean)).to_f64();
                }
            }
        }
    }
}

/// Computes the gradient of the input of a chunk.
struct InputGradient<'a, T> {
    norm: &'a BatchNorm<'a, T>,
    first: usize,
    x: &'a [T],
    /// The gradient before `ReLU`, with a residual. Without one, `dx` holds the gradient of the output.
    dy: Option<&'a [T]>,
    means: &'a [f64],
    dx: &'a mut [T],
}

impl<T: Real> SimdKernel<T> for InputGradient<'_, T> {
    #[inline(always)]
    fn run<V: SimdVector<T>, const R: usize, const M: usize, const W: usize>(self) {
        let c = self.norm.channels;
        let mean = &self.norm.saved[..c];
        let (factor, shift) = self.norm.saved[2 * c..].split_at(c);
        let (mean_gradients, products) = self.means.split_at(c);
        for (i, (x, dx)) in self.x.chunks_exact(c).zip(self.dx.chunks_exact_mut(c)).enumerate() {
            let line = factor.iter().zip(shift).zip(mean).zip(mean_gradients.iter().zip(products));
            if let Some(dy) = self.dy {
                let scale = self.norm.scale(self.first + i * c);
                for (((x, dx), (((factor, _), mean), (gradient, product))), dy) in
                    x.iter().zip(dx).zip(line).zip(&dy[i * c..])
                {
                    let centered = *dy * scale - T::from_f64(*gradient);
                    *dx = *factor * (centered - (*x - *mean) * T::from_f64(*product));
                }
            } else {
                for ((x, dx), (((factor, shift), mean), (gradient, product))) in
                    x.iter().zip(dx).zip(line)
                {
                    let on = !self.norm.relu || *x * *factor + *shift > T::ZERO;
                    let centered = if on { *dx } else { T::ZERO } - T::from_f64(*gradient);
                    *dx = *factor * (centered - (*x - *mean) * T::from_f64(*product));
                }
            }
        }
    }
}
