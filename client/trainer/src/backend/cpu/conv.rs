//! Convolutions and fully connected layers: output, input gradient and weight gradient.
//!
//! Weights are stored in panels of [`PANEL`] output channels, in the order panel, tap, input channel,
//! output channel of the panel. The channels that fill up the last panel are zero and stay zero.
//! Gradients and optimizer state have the same layout.

use rayon::prelude::*;

use super::gemm::{Gemm, OuterProduct};
use super::indirection::Indirection;
use crate::model::Conv;
use crate::simd::{PANEL, Real};

/// Weights that one task sums over the partial gradients.
const SUM_CHUNK: usize = 1 << 11;

/// Scratch memory.
pub(super) struct Scratch<'a, T> {
    /// At least [`Convolution::transposed_len`] values, of any content.
    pub(super) values: &'a mut [T],
    /// Zeros, as many as the largest depth of a tap.
    pub(super) zeros: &'a [T],
}

/// A convolution with its indirection tables.
#[derive(Debug)]
pub(super) struct Convolution {
    conv: Conv,
    forward: Indirection,
    /// Empty if the input needs no gradient.
    backward: Vec<Indirection>,
    input_image: usize,
    output_image: usize,
    /// Consecutive input values that a tap reads.
    depth: usize,
}

impl Convolution {
    pub(super) fn new(conv: Conv, backward: bool) -> Self {
        let (pad, depth) = if conv.padded { (conv.pad, conv.kernel) } else { (0, 1) };
        Self {
            conv,
            forward: Indirection::forward(&conv),
            backward: if backward { Indirection::backward(&conv) } else { Vec::new() },
            input_image: (conv.input.height + 2 * pad) * conv.padded_width() * conv.input.channels,
            output_image: conv.output.elements(),
            depth: depth * conv.input.channels,
        }
    }

    /// `y = x * weights + bias`.
    pub(super) fn forward<T: Real>(
        &self,
        x: &[T],
        weights: &[T],
        bias: Option<&[T]>,
        zeros: &[T],
        y: &mut [T],
    ) {
        let images = images_per_task(y.len() / self.output_image, self.conv.output.pixels());
        let tasks = y
            .par_chunks_mut(images * self.output_image)
            .zip(x.par_chunks(images * self.input_image));
        tasks.for_each(|(target, source)| {
            T::dispatch(Gemm {
                indirection: &self.forward,
                target,
                target_image: self.output_image,
                source,
                source_image: self.input_image,
                zeros,
                panels: weights,
                depth: self.depth,
                columns: self.conv.output.channels,
                bias,
                accumulate: false,
            });
        });
    }

    /// Scratch that [`Convolution::input_gradient`] needs, in values.
    pub(super) fn transposed_len(&self) -> usize {
        let (input, output) = (self.conv.input.channels, self.conv.output.channels);
        if self.backward.is_empty() {
            0
        } else {
            panels(input) * self.conv.kernel * self.conv.kernel * output * PANEL
        }
    }

    /// Computes the gradient of `x` from that of `y`, and overwrites `dx` with it or, with `add`, adds it.
    pub(super) fn input_gradient<T: Real>(
        &self,
        dy: &[T],
        weights: &[T],
        add: bool,
        Scratch { values, zeros }: Scratch<'_, T>,
        dx: &mut [T],
    ) {
        let transposed = &mut values[..self.transposed_len()];
        let mut rest = &mut *transposed;
        for indirection in &self.backward {
            let (phase, others) = rest.split_at_mut(
                panels(self.conv.input.channels)
                    * indirection.taps.len()
                    * self.conv.output.channels
                    * PANEL,
            );
            self.transpose(weights, indirection, phase);
            rest = others;
        }
        let images = images_per_task(dx.len() / self.input_image, self.conv.input.pixels());
        let tasks = dx
            .par_chunks_mut(images * self.input_image)
            .zip(dy.par_chunks(images * self.output_image));
        let transposed = &*transposed;
        tasks.for_each(|(target, source)| {
            let mut first = 0;
            for indirection in &self.backward {
                let numbers = panels(self.conv.input.channels)
                    * indirection.taps.len()
                    * self.conv.output.channels
                    * PANEL;
                T::dispatch(Gemm {
                    indirection,
                    target: &mut *target,
                    target_image: self.input_image,
                    source,
                    source_image: self.output_image,
                    zeros,
                    panels: &transposed[first..first + numbers],
                    depth: self.conv.output.channels,
                    columns: self.conv.input.channels,
                    bias: None,
                    accumulate: add,
                });
                first += numbers;
            }
        });
    }

    /// Transposes the weights of some taps, so that input channels are the columns: panel of input
    /// channels, tap, output channel, input channel of the panel.
    fn transpose<T: Real>(&self, weights: &[T], indirection: &Indirection, transposed: &mut [T]) {
        let (input, output) = (self.conv.input.channels, self.conv.output.channels);
        let taps = self.conv.kernel * self.conv.kernel;
        if indirection.taps.is_empty() {
            return;
        }
        transposed.par_chunks_mut(indirection.taps.len() * output * PANEL).enumerate().for_each(
            |(panel, transposed)| {
                let first = panel * PANEL;
                let width = PANEL.min(input - first);
                for (tap, transposed) in
                    indirection.taps.iter().zip(transposed.chunks_exact_mut(output * PANEL))
                {
                    for (block, transposed) in transposed.chunks_mut(PANEL * PANEL).enumerate() {
                        let from = &weights[((block * taps + tap) * input + first) * PANEL..]
                            [..width * PANEL];
                        for (out, row) in transposed.chunks_exact_mut(PANEL).enumerate() {
                            row[width..].fill(T::ZERO);
                            for (i, number) in row[..width].iter_mut().enumerate() {
                                *number = from[i * PANEL + out];
                            }
                        }
                    }
                }
            },
        );
    }

    /// Scratch that [`Convolution::weight_gradient`] needs for a number of images, in values.
    pub(super) fn partial_len(&self, images: usize) -> usize {
        images.div_ceil(self.images_per_partial(images)) * self.weights_len()
    }

    /// Length of the weights in panels.
    pub(super) fn weights_len(&self) -> usize {
        panels(self.conv.output.channels)
            * self.conv.kernel
            * self.conv.kernel
            * self.conv.input.channels
            * PANEL
    }

    /// Adds the gradient of the weights to `gradient`.
    pub(super) fn weight_gradient<T: Real>(
        &self,
        x: &[T],
        dy: &[T],
        partial: &mut [T],
        gradient: &mut [T],
    ) {
        let count = dy.len() / self.output_image;
        let images = self.images_per_partial(count);
        let (stored, panels) = (self.weights_len(), panels(self.conv.output.channels));
        let partial = &mut partial[..self.partial_len(count)];
        partial.par_chunks_exact_mut(stored / panels).enumerate().for_each(|(task, weights)| {
            let (first, panel) = (task / panels * images, task % panels);
            let some = first..count.min(first + images);
            T::dispatch(OuterProduct {
                indirection: &self.forward,
                weights,
                source: &x[some.start * self.input_image..some.end * self.input_image],
                source_image: self.input_image,
                gradient: &dy[some.start * self.output_image..some.end * self.output_image],
                depth: self.depth,
                columns: self.conv.output.channels,
                column: panel * PANEL,
            });
        });
        let partial = &*partial;
        gradient.par_chunks_mut(SUM_CHUNK).enumerate().for_each(|(i, gradient)| {
            // The microbatch is summed before it is added to the step, so that the result does not depend
            // on which rank computed the microbatches before it.
            let mut sums = [T::ZERO; SUM_CHUNK];
            for partial in partial.chunks_exact(stored) {
                for (sum, number) in sums.iter_mut().zip(&partial[i * SUM_CHUNK..]) {
                    *sum += *number;
                }
            }
            for (gradient, sum) in gradient.iter_mut().zip(sums) {
                *gradient += sum;
            }
        });
    }

    /// Images per partial sum of the weights: at least 2048 pixels, and at most 32 partial sums.
    fn images_per_partial(&self, images: usize) -> usize {
        2048_usize.div_ceil(self.conv.output.pixels()).max(images.div_ceil(32)).min(images)
    }
}

/// Images per task of a product: enough rows to pay for loading the panels from memory, and a power of
/// two of tasks, so that they divide evenly among cores.
fn images_per_task(images: usize, rows: usize) -> usize {
    let tasks = (images * rows / 120).max(1);
    images.div_ceil(1 << tasks.ilog2()).max(1)
}

const fn panels(channels: usize) -> usize {
    channels.div_ceil(PANEL)
}

/// Length in panels of a weight of shape `[out, in, height, width]` or `[out, in]`.
pub(super) fn panel_len(shape: &[usize]) -> usize {
    panels(shape[0]) * shape[1..].iter().product::<usize>() * PANEL
}

/// The output of the weight that has `index` in panels. Those beyond the outputs of the shape only fill up a panel.
pub(super) fn output_of(shape: &[usize], index: usize) -> usize {
    let panel = shape[1..].iter().product::<usize>() * PANEL;
    index / panel * PANEL + index % PANEL
}

/// Index in panels of the weight that has `index` in timm's layout.
pub(super) fn panel_index(shape: &[usize], index: usize) -> usize {
    let input = shape[1];
    let taps: usize = shape[2..].iter().product();
    let (out, rest) = (index / (input * taps), index % (input * taps));
    let (channel, tap) = (rest / taps, rest % taps);
    (((out / PANEL) * taps + tap) * input + channel) * PANEL + out % PANEL
}
