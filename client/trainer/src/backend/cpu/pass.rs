//! Forward and backward over a graph: which layer, on which slices of the arena.

use std::ops::Range;

use super::conv::Scratch;
use super::norm::{self, Norm};
use super::{Cpu, Real, pool};
use crate::droppath::Drops;
use crate::model::{Op, Shape, Tensor};

/// What a norm's operation says, on the way back.
struct Layer<'a> {
    number: usize,
    residual: bool,
    relu: bool,
    scales: Option<&'a [f64]>,
}

/// Slices of the arena that do not overlap, as planned.
fn views<T, const N: usize>(arena: &mut [T], places: [Range<usize>; N]) -> [&mut [T]; N] {
    arena.get_disjoint_mut(places).expect("tensors in use at the same time do not share a place")
}

impl<T: Real> Cpu<T> {
    /// Runs all operations on the images put before; in training by the batch's own statistics, which
    /// the running ones then follow.
    pub fn forward(&mut self, samples: usize, train: bool, drops: Option<&Drops>) {
        self.operations(samples, train, drops);
        if train {
            self.follow();
        }
    }

    /// Has the running statistics follow those of the last microbatch.
    pub fn follow(&mut self) {
        norm::follow(&mut self.running, &self.statistics);
        self.passes += 1;
    }

    /// The same without the running statistics.
    pub(super) fn operations(&mut self, samples: usize, train: bool, drops: Option<&Drops>) {
        for op in 0..self.program(train).plan.graph.ops.len() {
            self.operation(op, samples, train, drops);
        }
    }

    /// One operation forward.
    pub fn operation(&mut self, index: usize, samples: usize, train: bool, drops: Option<&Drops>) {
        let program = if train { &self.training } else { &self.inference };
        let graph = &program.plan.graph;
        let op = &graph.ops[index];
        let (x, y) = op.tensors();
        let (from, to) = (graph.tensors[x], graph.tensors[y]);
        let places = [program.value(x, samples), program.value(y, samples)];
        match *op {
            Op::Conv { weight, bias, .. } => {
                let [x, y] = views(&mut self.arena, places);
                let weights = &self.parameters[self.places[weight].clone()];
                let bias = bias.map(|bias| &self.parameters[self.places[bias].clone()]);
                program.convolution(index).forward(x, weights, bias, &self.zeros, y);
            }
            Op::Norm { norm: number, residual, relu, block, .. } => {
                let place = self.running_places[number].clone();
                let mut norm = Norm {
                    channels: to.channels,
                    pixels: to.pixels(),
                    relu,
                    scales: drops.zip(block).map(|(drops, block)| drops.block(block)),
                    gamma: &self.parameters[self.places[graph.norms[number].gamma].clone()],
                    beta: &self.parameters[self.places[graph.norms[number].gamma + 1].clone()],
                    saved: saved_of(&mut self.saved, &self.running_places[number]),
                };
                if train {
                    norm.batch_statistics(
                        &self.arena[places[0].clone()],
                        &mut self.statistics[place],
                        &mut self.norm_sums,
                    );
                } else {
                    norm.running_statistics(&self.running[place]);
                }
                if let Some(residual) = residual {
                    let [x, y, residual] = views(
                        &mut self.arena,
                        [places[0].clone(), places[1].clone(), program.value(residual, samples)],
                    );
                    norm.forward(x, Some(residual), y);
                } else {
                    let [x, y] = views(&mut self.arena, places);
                    norm.forward(x, None, y);
                }
            }
            Op::MaxPool { .. } => {
                let [x, y] = views(&mut self.arena, places);
                pool::max(from, to, x, y, &mut self.taps[..to.numbers() * samples]);
            }
            Op::MeanPool { .. } => {
                let [x, y] = views(&mut self.arena, places);
                pool::mean(from, x, y);
            }
            Op::Shortcut { .. } => {
                let [x, y] = views(&mut self.arena, places);
                pool::shortcut(from, to, x, y);
            }
        }
    }

    /// What a tensor holds, between its first use and its last.
    pub fn values_mut(&mut self, tensor: Tensor, samples: usize, train: bool) -> &mut [T] {
        let place = self.program(train).value(tensor, samples);
        &mut self.arena[place]
    }

    /// A tensor's gradient, between its first use and its last.
    pub fn slopes_mut(&mut self, tensor: Tensor, samples: usize) -> &mut [T] {
        let place = self.training.gradient(tensor, samples);
        &mut self.arena[place]
    }

    /// What a norm keeps for its way back: mean, 1 / deviation, factor and shift of each channel.
    pub fn saved_mut(&mut self, norm: usize) -> &mut [T] {
        saved_of(&mut self.saved, &self.running_places[norm])
    }

    /// The logits of the last forward pass.
    pub fn last_logits(&self, samples: usize, train: bool) -> &[T] {
        let program = self.program(train);
        &self.arena[program.value(program.plan.graph.logits(), samples)]
    }

    /// Sets the gradient of the logits by a function of the logits.
    pub fn set_slope(&mut self, samples: usize, slope: impl FnOnce(&[T], &mut [T])) {
        let logits = self.training.plan.graph.logits();
        let places =
            [self.training.value(logits, samples), self.training.gradient(logits, samples)];
        let [logits, gradient] = views(&mut self.arena, places);
        slope(logits, gradient);
    }

    /// Runs all operations backward from the gradient of the logits; adds to the parameters'.
    pub fn backward(&mut self, samples: usize, drops: Option<&Drops>) {
        for op in (0..self.training.plan.graph.ops.len()).rev() {
            self.reverse(op, samples, drops);
        }
    }

    /// One operation backward: from the gradient of its result, those of its source and parameters.
    pub fn reverse(&mut self, index: usize, samples: usize, drops: Option<&Drops>) {
        let program = &self.training;
        let graph = &program.plan.graph;
        let (x, y) = graph.ops[index].tensors();
        let (from, to) = (graph.tensors[x], graph.tensors[y]);
        let dy = program.gradient(y, samples);
        match graph.ops[index] {
            Op::Conv { weight, bias, .. } => self.reverse_convolution(index, samples, weight, bias),
            Op::Norm { norm, residual, relu, block, .. } => {
                let scales = drops.zip(block).map(|(drops, block)| drops.block(block));
                let layer = Layer { number: norm, residual: residual.is_some(), relu, scales };
                self.reverse_norm(samples, [x, y], &layer);
            }
            Op::MaxPool { .. } => {
                let [dy, dx] = views(&mut self.arena, [dy, program.gradient(x, samples)]);
                pool::max_backward(from, to, dy, &self.taps[..to.numbers() * samples], dx);
            }
            Op::MeanPool { .. } => {
                let [dy, dx] = views(&mut self.arena, [dy, program.gradient(x, samples)]);
                pool::mean_backward(from, dy, dx);
            }
            Op::Shortcut { .. } => {
                let [dy, dx] = views(&mut self.arena, [dy, program.gradient(x, samples)]);
                pool::shortcut_backward(from, to, dy, dx);
            }
        }
    }

    fn reverse_convolution(
        &mut self,
        index: usize,
        samples: usize,
        weight: usize,
        bias: Option<usize>,
    ) {
        let program = &self.training;
        let (x, y) = program.plan.graph.ops[index].tensors();
        let convolution = program.convolution(index);
        let dy = program.gradient(y, samples);
        if let Some(bias) = bias {
            let gradient = &mut self.gradients[self.places[bias].clone()];
            let dy = &self.arena[dy.clone()];
            let classes = gradient.len();
            for (class, sum) in gradient.iter_mut().enumerate() {
                *sum += dy[class..].iter().step_by(classes).copied().sum();
            }
        }
        let gradient = &mut self.gradients[self.places[weight].clone()];
        let [from, slope] = views(&mut self.arena, [program.value(x, samples), dy.clone()]);
        convolution.weight_gradient(from, slope, &mut self.work, gradient);
        if program.plan.gradients[x].is_some() {
            let weights = &self.parameters[self.places[weight].clone()];
            let [dy, dx] = views(&mut self.arena, [dy, program.gradient(x, samples)]);
            let scratch = Scratch { work: &mut self.work, zeros: &self.zeros };
            convolution.source_gradient(dy, weights, program.plan.adds[index], scratch, dx);
        }
    }

    fn reverse_norm(&mut self, samples: usize, [x, y]: [usize; 2], layer: &Layer<'_>) {
        let Layer { number, residual, relu, scales } = *layer;
        let program = &self.training;
        let graph = &program.plan.graph;
        let Shape { channels, .. } = graph.tensors[x];
        let gamma = graph.norms[number].gamma;
        let norm = Norm {
            channels,
            pixels: graph.tensors[x].pixels(),
            relu,
            scales,
            gamma: &self.parameters[self.places[gamma].clone()],
            beta: &self.parameters[self.places[gamma + 1].clone()],
            saved: saved_of(&mut self.saved, &self.running_places[number]),
        };
        let slopes = views(
            &mut self.gradients,
            [self.places[gamma].clone(), self.places[gamma + 1].clone()],
        );
        let (value, dy) = (program.value(x, samples), program.gradient(y, samples));
        if residual {
            let [x, dy, y, dx] = views(
                &mut self.arena,
                [value, dy, program.value(y, samples), program.gradient(x, samples)],
            );
            norm.backward(x, Some((y, dx)), dy, slopes, &mut self.norm_sums);
        } else {
            let [x, dy] = views(&mut self.arena, [value, dy]);
            norm.backward(x, None, dy, slopes, &mut self.norm_sums);
        }
    }
}

/// A norm saves twice as many numbers as its running statistics are.
fn saved_of<'a, T>(saved: &'a mut [T], running: &Range<usize>) -> &'a mut [T] {
    &mut saved[2 * running.start..2 * running.end]
}
