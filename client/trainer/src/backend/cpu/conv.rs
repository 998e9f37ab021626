//! Convolutions and fully connected layers: forward, gradient of the source, gradient of the weights.
//!
//! Weights lie in panels of [`PANEL`] output channels: panel, tap, input channel, output channel of the
//! panel; those past the last channel are zero and stay zero. Gradients and optimizer state lie alike.

use rayon::prelude::*;

use super::gather::Gather;
use super::product::{Outer, Product};
use super::real::{PANEL, Real};
use crate::model::Conv;

/// Weights of a task that joins partial sums.
const SUMMED: usize = 1 << 11;

/// Room to work in.
pub(super) struct Scratch<'a, T> {
    /// [`Convolution::turned`] numbers, of any value.
    pub(super) work: &'a mut [T],
    /// As many zeros as there are channels.
    pub(super) zeros: &'a [T],
}

/// A convolution with its tables.
#[derive(Debug)]
pub(super) struct Convolution {
    conv: Conv,
    forward: Gather,
    /// Empty where the source needs no gradient.
    backward: Vec<Gather>,
    source_image: usize,
    target_image: usize,
    /// Neighbouring numbers of a tap.
    depth: usize,
}

impl Convolution {
    pub(super) fn new(conv: Conv, backward: bool) -> Self {
        let (pad, depth) = if conv.padded { (conv.pad, conv.kernel) } else { (0, 1) };
        Self {
            conv,
            forward: Gather::forward(&conv),
            backward: if backward { Gather::backward(&conv) } else { Vec::new() },
            source_image: (conv.input.height + 2 * pad) * conv.padded_width() * conv.input.channels,
            target_image: conv.output.numbers(),
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
        let images = images_a_task(y.len() / self.target_image, self.conv.output.pixels());
        let tasks = y
            .par_chunks_mut(images * self.target_image)
            .zip(x.par_chunks(images * self.source_image));
        tasks.for_each(|(target, source)| {
            T::dispatch(Product {
                gather: &self.forward,
                target,
                target_image: self.target_image,
                source,
                source_image: self.source_image,
                zeros,
                panels: weights,
                depth: self.depth,
                columns: self.conv.output.channels,
                bias,
                accumulate: false,
            });
        });
    }

    /// Numbers that [`Convolution::source_gradient`] needs as scratch.
    pub(super) fn turned(&self) -> usize {
        let (input, output) = (self.conv.input.channels, self.conv.output.channels);
        if self.backward.is_empty() {
            0
        } else {
            panels(input) * self.conv.kernel * self.conv.kernel * output * PANEL
        }
    }

    /// The gradient of `x` from that of `y`; with `add`, added to what is there.
    pub(super) fn source_gradient<T: Real>(
        &self,
        dy: &[T],
        weights: &[T],
        add: bool,
        Scratch { work, zeros }: Scratch<'_, T>,
        dx: &mut [T],
    ) {
        let turned = &mut work[..self.turned()];
        let mut rest = &mut *turned;
        for gather in &self.backward {
            let (phase, others) = rest.split_at_mut(
                panels(self.conv.input.channels)
                    * gather.taps.len()
                    * self.conv.output.channels
                    * PANEL,
            );
            self.turn(weights, gather, phase);
            rest = others;
        }
        let images = images_a_task(dx.len() / self.source_image, self.conv.input.pixels());
        let tasks = dx
            .par_chunks_mut(images * self.source_image)
            .zip(dy.par_chunks(images * self.target_image));
        let turned = &*turned;
        tasks.for_each(|(target, source)| {
            let mut first = 0;
            for gather in &self.backward {
                let numbers = panels(self.conv.input.channels)
                    * gather.taps.len()
                    * self.conv.output.channels
                    * PANEL;
                T::dispatch(Product {
                    gather,
                    target: &mut *target,
                    target_image: self.source_image,
                    source,
                    source_image: self.target_image,
                    zeros,
                    panels: &turned[first..first + numbers],
                    depth: self.conv.output.channels,
                    columns: self.conv.input.channels,
                    bias: None,
                    accumulate: add,
                });
                first += numbers;
            }
        });
    }

    /// Weights of a phase's taps with input and output channels exchanged: panel of input channels,
    /// tap, output channel, input channel of the panel.
    fn turn<T: Real>(&self, weights: &[T], gather: &Gather, turned: &mut [T]) {
        let (input, output) = (self.conv.input.channels, self.conv.output.channels);
        let taps = self.conv.kernel * self.conv.kernel;
        if gather.taps.is_empty() {
            return;
        }
        turned.par_chunks_mut(gather.taps.len() * output * PANEL).enumerate().for_each(
            |(panel, turned)| {
                let first = panel * PANEL;
                let width = PANEL.min(input - first);
                for (tap, turned) in gather.taps.iter().zip(turned.chunks_exact_mut(output * PANEL))
                {
                    for (block, turned) in turned.chunks_mut(PANEL * PANEL).enumerate() {
                        let from = &weights[((block * taps + tap) * input + first) * PANEL..]
                            [..width * PANEL];
                        for (out, row) in turned.chunks_exact_mut(PANEL).enumerate() {
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

    /// Numbers that [`Convolution::weight_gradient`] needs as scratch for some images.
    pub(super) fn partial(&self, images: usize) -> usize {
        images.div_ceil(self.images_a_partial(images)) * self.stored()
    }

    /// Numbers of the weights in panels.
    pub(super) fn stored(&self) -> usize {
        panels(self.conv.output.channels)
            * self.conv.kernel
            * self.conv.kernel
            * self.conv.input.channels
            * PANEL
    }

    /// Adds the gradient of the weights to what is there.
    pub(super) fn weight_gradient<T: Real>(
        &self,
        x: &[T],
        dy: &[T],
        partial: &mut [T],
        gradient: &mut [T],
    ) {
        let count = dy.len() / self.target_image;
        let images = self.images_a_partial(count);
        let (stored, panels) = (self.stored(), panels(self.conv.output.channels));
        let partial = &mut partial[..self.partial(count)];
        partial.par_chunks_exact_mut(stored / panels).enumerate().for_each(|(task, weights)| {
            let (first, panel) = (task / panels * images, task % panels);
            let some = first..count.min(first + images);
            T::dispatch(Outer {
                gather: &self.forward,
                weights,
                source: &x[some.start * self.source_image..some.end * self.source_image],
                source_image: self.source_image,
                gradient: &dy[some.start * self.target_image..some.end * self.target_image],
                depth: self.depth,
                columns: self.conv.output.channels,
                column: panel * PANEL,
            });
        });
        let partial = &*partial;
        gradient.par_chunks_mut(SUMMED).enumerate().for_each(|(i, gradient)| {
            // Summed before it is added, so that who summed the other microbatches does not matter.
            let mut sums = [T::ZERO; SUMMED];
            for partial in partial.chunks_exact(stored) {
                for (sum, number) in sums.iter_mut().zip(&partial[i * SUMMED..]) {
                    *sum += *number;
                }
            }
            for (gradient, sum) in gradient.iter_mut().zip(sums) {
                *gradient += sum;
            }
        });
    }

    /// Images of one partial sum of weights: 2048 pixels or more, and at most 32 partial sums.
    fn images_a_partial(&self, images: usize) -> usize {
        2048_usize.div_ceil(self.conv.output.pixels()).max(images.div_ceil(32)).min(images)
    }
}

/// Images of one task of a product: enough rows to make the panels worth their way from memory, and
/// tasks a power of two, so that they divide among cores.
fn images_a_task(images: usize, rows: usize) -> usize {
    let tasks = (images * rows / 120).max(1);
    images.div_ceil(1 << tasks.ilog2()).max(1)
}

const fn panels(channels: usize) -> usize {
    channels.div_ceil(PANEL)
}

/// Numbers in panels of a weight of timm's shape `[out, in, height, width]` or `[out, in]`.
pub(super) fn stored(shape: &[usize]) -> usize {
    panels(shape[0]) * shape[1..].iter().product::<usize>() * PANEL
}

/// From timm's layout to panels, or from panels to timm's layout: where each weight lies.
pub(super) fn place(shape: &[usize], index: usize) -> usize {
    let input = shape[1];
    let taps: usize = shape[2..].iter().product();
    let (out, rest) = (index / (input * taps), index % (input * taps));
    let (channel, tap) = (rest / taps, rest % taps);
    (((out / PANEL) * taps + tap) * input + channel) * PANEL + out % PANEL
}
