//! `norm.cu`: batch norm, fused with stochastic depth, the residual sum and `ReLU`.

use super::{Stored, THREADS, nearest};

const EPS: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

/// Lanes that sum over chunks.
const LANES: usize = 16;

/// Scalar arguments of the kernels.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norm {
    pub(crate) rows: usize,
    pub(crate) channels: usize,
    /// Groups of channels per block.
    pub(crate) tile: usize,
    /// Chunks of rows.
    pub(crate) chunks: usize,
    /// Rows per sample.
    pub(crate) pixels: usize,
    pub(crate) relu: bool,
    /// Whether there is a residual, so that dy is the gradient before `ReLU`.
    pub(crate) has_residual: bool,
}

impl Norm {
    /// Row and channel of each value, in memory order.
    fn places(self) -> impl Iterator<Item = (usize, usize)> {
        (0..self.rows * self.channels).map(move |at| (at / self.channels, at % self.channels))
    }

    /// Bytes of a mask, which has one byte for each group of 16 bytes of a row.
    pub(crate) const fn mask_len<S: Stored>(&self) -> usize {
        self.rows * self.channels.div_ceil(16 / size_of::<S>())
    }

    /// The byte of a mask, and the bit in it, that belong to a value.
    const fn mask_place<S: Stored>(&self, row: usize, channel: usize) -> (usize, u8) {
        let wide = 16 / size_of::<S>();
        (row * self.channels.div_ceil(wide) + channel / wide, 1 << (channel % wide))
    }

    /// The stochastic-depth factor of the sample of a row.
    fn scale(&self, scales: Option<&[f32]>, row: usize) -> f32 {
        scales.map_or(1.0, |scales| scales[row / self.pixels])
    }

    /// The two sums of `terms(row, channel)` over each chunk: first over the rows of a lane, then over lanes.
    fn add_lanes(&self, partial: &mut [f32], terms: impl Fn(usize, usize) -> [f32; 2]) {
        let lanes = THREADS / self.tile;
        for chunk in 0..self.chunks {
            for channel in 0..self.channels {
                let mut sums = [0.0; 2];
                for lane in 0..lanes {
                    let mut own = [0.0; 2];
                    let first = chunk * lanes + lane;
                    for row in (first..self.rows).step_by(self.chunks * lanes) {
                        let [first, second] = terms(row, channel);
                        own[0] += first;
                        own[1] += second;
                    }
                    sums[0] += own[0];
                    sums[1] += own[1];
                }
                for (which, sum) in sums.into_iter().enumerate() {
                    partial[(chunk * 2 + which) * self.channels + channel] = sum;
                }
            }
        }
    }

    /// The two sums over the chunks of one channel.
    fn add_chunks(&self, partial: &[f32], channel: usize) -> [f64; 2] {
        let mut sums = [0.0; 2];
        for lane in 0..LANES {
            let mut own = [0.0; 2];
            for chunk in (lane..self.chunks).step_by(LANES) {
                for (which, own) in own.iter_mut().enumerate() {
                    *own += f64::from(partial[(chunk * 2 + which) * self.channels + channel]);
                }
            }
            sums[0] += own[0];
            sums[1] += own[1];
        }
        sums
    }
}

pub(crate) fn norm_sums<S: Stored>(norm: Norm, x: &[S], partial: &mut [f32]) {
    norm.add_lanes(partial, |row, channel| {
        let distance = x[row * norm.channels + channel].to_float() - x[channel].to_float();
        [distance, distance * distance]
    });
}

fn save(
    saved: &mut [f32],
    channels: usize,
    channel: usize,
    [mean, variance]: [f64; 2],
    [gamma, beta]: [&[f32]; 2],
) {
    let inverse = 1.0 / (variance + EPS).sqrt();
    let factor = inverse * f64::from(gamma[channel]);
    let shift = f64::from(beta[channel]) - mean * factor;
    for (which, number) in [mean, inverse, factor, shift].into_iter().enumerate() {
        saved[which * channels + channel] = nearest(number);
    }
}

pub(crate) fn norm_finish<S: Stored>(
    norm: Norm,
    x: &[S],
    partial: &[f32],
    line: [&[f32]; 2],
    statistics: &mut [f32],
    saved: &mut [f32],
) {
    let (count, channels) = (norm.rows as f64, norm.channels);
    for channel in 0..channels {
        let [first, second] = norm.add_chunks(partial, channel);
        let mean = f64::from(x[channel].to_float()) + first / count;
        let mut square = second - first * first / count;
        if square < 0.0 {
            square = 0.0;
        }
        save(saved, channels, channel, [mean, square / count], line);
        statistics[channel] = nearest(mean);
        statistics[channels + channel] =
            nearest(square / if norm.rows > 1 { count - 1.0 } else { 1.0 });
    }
}

pub(crate) fn norm_update_running(statistics: &[f32], running: &mut [f32]) {
    for (running, new) in running.iter_mut().zip(statistics) {
        let kept = (1.0 - MOMENTUM) * f64::from(*running);
        *running = nearest(kept + MOMENTUM * f64::from(*new));
    }
}

pub(crate) fn norm_running(running: &[f32], line: [&[f32]; 2], saved: &mut [f32]) {
    let channels = running.len() / 2;
    for channel in 0..channels {
        let statistics = [running[channel], running[channels + channel]].map(f64::from);
        save(saved, channels, channel, statistics, line);
    }
}

/// Arrays that forward and backward read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Given<'a, S> {
    pub(crate) x: &'a [S],
    pub(crate) scales: Option<&'a [f32]>,
    pub(crate) saved: &'a [f32],
}

/// Clears `mask` and sets its bits where `ReLU` passed the value, unless it is `None` or there is no `ReLU`.
pub(crate) fn norm_apply<S: Stored>(
    norm: Norm,
    given: Given<'_, S>,
    residual: Option<&[S]>,
    y: &mut [S],
    mut mask: Option<&mut [u8]>,
) {
    let Given { x, scales, saved } = given;
    let (factor, shift) = saved[2 * norm.channels..].split_at(norm.channels);
    if let Some(mask) = mask.as_deref_mut().filter(|_| norm.relu) {
        mask.fill(0);
    }
    for (at, (row, channel)) in norm.places().enumerate() {
        let mut value = x[at].to_float() * factor[channel] + shift[channel];
        if let Some(residual) = residual {
            value = residual[at].to_float() + norm.scale(scales, row) * value;
        }
        if norm.relu {
            if let Some(mask) = mask.as_deref_mut().filter(|_| value > 0.0) {
                let (byte, bit) = norm.mask_place::<S>(row, channel);
                mask[byte] |= bit;
            }
            if value < 0.0 {
                value = 0.0;
            }
        }
        y[at] = S::to_stored(value);
    }
}

pub(crate) fn norm_reduce<S: Stored>(
    norm: Norm,
    given: Given<'_, S>,
    dy: &[S],
    partial: &mut [f32],
) {
    let (Given { x, saved, .. }, channels) = (given, norm.channels);
    let (factor, shift) = saved[2 * channels..].split_at(channels);
    norm.add_lanes(partial, |row, channel| {
        let at = row * channels + channel;
        let (value, mut gradient) = (x[at].to_float(), dy[at].to_float());
        let on = value * factor[channel] + shift[channel] > 0.0;
        if norm.relu && !on {
            gradient = 0.0;
        }
        [gradient, gradient * (value - saved[channel])]
    });
}

pub(crate) fn norm_reduce_residual<S: Stored>(
    norm: Norm,
    given: Given<'_, S>,
    mask: &[u8],
    dy: &mut [S],
    partial: &mut [f32],
) {
    let (Given { x, scales, saved }, channels) = (given, norm.channels);
    if norm.relu {
        for (dy, (row, channel)) in dy.iter_mut().zip(norm.places()) {
            let (byte, bit) = norm.mask_place::<S>(row, channel);
            if mask[byte] & bit == 0 {
                *dy = S::to_stored(0.0);
            }
        }
    }
    let dy = &*dy;
    norm.add_lanes(partial, |row, channel| {
        let at = row * channels + channel;
        let scaled = dy[at].to_float() * norm.scale(scales, row);
        [scaled, scaled * (x[at].to_float() - saved[channel])]
    });
}

pub(crate) fn norm_gradients(
    norm: Norm,
    partial: &[f32],
    saved: &[f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    terms: &mut [f32],
) {
    let (count, channels) = (norm.rows as f64, norm.channels);
    for channel in 0..channels {
        let [sum, product] = norm.add_chunks(partial, channel);
        let inverse = f64::from(saved[channels + channel]);
        dbeta[channel] += nearest(sum);
        dgamma[channel] += nearest(product * inverse);
        let (mean, factor) = (f64::from(saved[channel]), f64::from(saved[2 * channels + channel]));
        let slope = product * inverse * inverse / count;
        terms[channel] = nearest(-factor * slope);
        terms[channels + channel] = nearest(factor * (mean * slope - sum / count));
    }
}

pub(crate) fn norm_backward<S: Stored>(
    norm: Norm,
    given: Given<'_, S>,
    dy: &[S],
    terms: &[f32],
    dx: &mut [S],
) {
    let (Given { x, scales, saved }, channels) = (given, norm.channels);
    let (factor, shift) = saved[2 * channels..].split_at(channels);
    let (slope, rest) = terms.split_at(channels);
    for (at, (row, channel)) in norm.places().enumerate() {
        let (value, mut gradient) = (x[at].to_float(), dy[at].to_float());
        let scale = norm.scale(scales.filter(|_| norm.has_residual), row);
        let on = value * factor[channel] + shift[channel] > 0.0;
        if norm.relu && !norm.has_residual && !on {
            gradient = 0.0;
        }
        let own = factor[channel] * (gradient * scale);
        dx[at] = S::to_stored(own + (value * slope[channel] + rest[channel]));
    }
}

pub(crate) fn norm_statistics<S: Stored>(
    rows: usize,
    sums: &[f32],
    line: [&[f32]; 2],
    statistics: &mut [f32],
    saved: &mut [f32],
    rounded: &mut [S],
) {
    let (count, channels) = (rows as f64, sums.len() / 2);
    for channel in 0..channels {
        let [sum, squares] = [sums[channel], sums[channels + channel]].map(f64::from);
        let mean = sum / count;
        let mut square = squares - sum * mean;
        if square < 0.0 {
            square = 0.0;
        }
        save(saved, channels, channel, [mean, square / count], line);
        statistics[channel] = nearest(mean);
        statistics[channels + channel] = nearest(square / if rows > 1 { count - 1.0 } else { 1.0 });
        let scale = S::to_stored(saved[2 * channels + channel]);
        let bias = f64::from(line[1][channel]) - mean * f64::from(scale.to_float());
        rounded[channel] = scale;
        rounded[channels + channel] = S::to_stored(nearest(bias));
    }
}

pub(crate) fn norm_weights(
    rows: usize,
    gradients: &[f32],
    saved: &[f32],
    dgamma: &mut [f32],
    dbeta: &mut [f32],
    terms: &mut [f32],
) {
    let (count, channels) = (rows as f64, gradients.len() / 2);
    for channel in 0..channels {
        let [product, sum] = [gradients[channel], gradients[channels + channel]];
        dgamma[channel] += product;
        dbeta[channel] += sum;
        let [mean, inverse, factor] =
            [0, 1, 2].map(|which| f64::from(saved[which * channels + channel]));
        let slope = f64::from(product) * inverse / count;
        terms[channel] = nearest(-factor * slope);
        terms[channels + channel] = nearest(factor * (mean * slope - f64::from(sum) / count));
    }
}
