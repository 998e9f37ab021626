//! Executes the operations of a graph, forward and backward, on ranges of the arena.

use std::ops::Range;

use super::batch_norm::{self, BatchNorm};
use super::conv::Scratch;
use super::{CpuBackend, pool};
use crate::drop_path::DropPath;
use crate::model::{Op, Shape, TensorId};
use crate::simd::Real;

/// A batch norm operation, as its backward needs it.
struct NormLayer<'a> {
    /// Index into `Graph::norms`.
    number: usize,
    /// Whether the norm adds a residual.
    residual: bool,
    relu: bool,
    /// Stochastic-depth factor of each sample; `None` without stochastic depth.
    scales: Option<&'a [f64]>,
}

/// Mutable slices of several ranges, which do not overlap.
fn disjoint<T, const N: usize>(arena: &mut [T], ranges: [Range<usize>; N]) -> [&mut [T]; N] {
    arena.get_disjoint_mut(ranges).expect("tensors in use at the same time do not share memory")
}

impl<T: Real> CpuBackend<T> {
    /// Runs all operations forward on the loaded images: in training with batch statistics, otherwise with
    /// running statistics.
    pub(crate) fn forward_ops(
        &mut self,
        samples: usize,
        train: bool,
        drop_path: Option<&DropPath>,
    ) {
        for op in 0..self.program(train).plan.graph.ops.len() {
            self.forward_op(op, samples, train, drop_path);
        }
    }

    /// Updates the running statistics by those of the last microbatch.
    pub(crate) fn update_running_statistics(&mut self) {
        batch_norm::update_running(&mut self.running, &self.batch_statistics);
        self.batches_tracked += 1;
    }

    /// Runs one operation forward.
    pub(crate) fn forward_op(
        &mut self,
        index: usize,
        samples: usize,
        train: bool,
        drop_path: Option<&DropPath>,
    ) {
        let program = if train { &self.training } else { &self.inference };
        let graph = &program.plan.graph;
        let op = &graph.ops[index];
        let (x, y) = op.tensors();
        let (from, to) = (graph.tensors[x], graph.tensors[y]);
        let ranges = [program.value(x, samples), program.value(y, samples)];
        match *op {
            Op::Conv { weight, bias, .. } => {
                let [x, y] = disjoint(&mut self.arena, ranges);
                let weights = &self.parameters[self.parameter_ranges[weight].clone()];
                let bias = bias.map(|bias| &self.parameters[self.parameter_ranges[bias].clone()]);
                program.convolution(index).forward(x, weights, bias, &self.zeros, y);
            }
            Op::BatchNorm { norm: number, residual, relu, block, .. } => {
                let range = self.running_ranges[number].clone();
                let mut norm = BatchNorm {
                    channels: to.channels,
                    pixels: to.pixels(),
                    relu,
                    scales: drop_path.zip(block).map(|(drop_path, block)| drop_path.block(block)),
                    gamma: &self.parameters
                        [self.parameter_ranges[graph.norms[number].gamma].clone()],
                    beta: &self.parameters
                        [self.parameter_ranges[graph.norms[number].gamma + 1].clone()],
                    saved: saved_of(&mut self.saved, &self.running_ranges[number]),
                };
                if train {
                    norm.batch_statistics(
                        &self.arena[ranges[0].clone()],
                        &mut self.batch_statistics[range],
                        &mut self.norm_scratch,
                    );
                } else {
                    norm.running_statistics(&self.running[range]);
                }
                if let Some(residual) = residual {
                    let [x, y, residual] = disjoint(
                        &mut self.arena,
                        [ranges[0].clone(), ranges[1].clone(), program.value(residual, samples)],
                    );
                    norm.forward(x, Some(residual), y);
                } else {
                    let [x, y] = disjoint(&mut self.arena, ranges);
                    norm.forward(x, None, y);
                }
            }
            Op::MaxPool { .. } => {
                let [x, y] = disjoint(&mut self.arena, ranges);
                pool::max(from, to, x, y, &mut self.max_taps[..to.elements() * samples]);
            }
            Op::MeanPool { .. } => {
                let [x, y] = disjoint(&mut self.arena, ranges);
                pool::mean(from, x, y);
            }
            Op::Shortcut { .. } => {
                let [x, y] = disjoint(&mut self.arena, ranges);
                pool::shortcut(from, to, x, y);
            }
        }
    }

    /// The values of a tensor, valid between its first and its last use.
    pub(crate) fn values_mut(&mut self, tensor: TensorId, samples: usize, train: bool) -> &mut [T] {
        let range = self.program(train).value(tensor, samples);
        &mut self.arena[range]
    }

    /// The gradient of a tensor, valid between its first and its last use.
    pub(crate) fn gradient_mut(&mut self, tensor: TensorId, samples: usize) -> &mut [T] {
        let range = self.training.gradient(tensor, samples);
        &mut self.arena[range]
    }

    /// Values that a batch norm keeps for backward: mean, 1 / standard deviation, factor and shift per channel.
    /// The self-test of a GPU compares them.
    #[cfg(feature = "cuda")]
    pub(crate) fn saved_mut(&mut self, norm: usize) -> &mut [T] {
        saved_of(&mut self.saved, &self.running_ranges[norm])
    }

    /// The logits of the last forward pass.
    pub(crate) fn last_logits(&self, samples: usize, train: bool) -> &[T] {
        let program = self.program(train);
        &self.arena[program.value(program.plan.graph.logits(), samples)]
    }

    /// Sets the gradient of the logits by a function of the logits and the gradient to write.
    pub(crate) fn set_logits_gradient(
        &mut self,
        samples: usize,
        write: impl FnOnce(&[T], &mut [T]),
    ) {
        let logits = self.training.plan.graph.logits();
        let ranges =
            [self.training.value(logits, samples), self.training.gradient(logits, samples)];
        let [logits, gradient] = disjoint(&mut self.arena, ranges);
        write(logits, gradient);
    }

    /// Runs all operations backward from the gradient of the logits. Adds to the parameters' gradients.
    pub(crate) fn backward_ops(&mut self, samples: usize, drop_path: Option<&DropPath>) {
        for op in (0..self.training.plan.graph.ops.len()).rev() {
            self.backward_op(op, samples, drop_path);
        }
    }

    /// Runs one operation backward: from the gradient of its output to those of its input and parameters.
    pub(crate) fn backward_op(
        &mut self,
        index: usize,
        samples: usize,
        drop_path: Option<&DropPath>,
    ) {
        let program = &self.training;
        let graph = &program.plan.graph;
        let (x, y) = graph.ops[index].tensors();
        let (from, to) = (graph.tensors[x], graph.tensors[y]);
        let dy = program.gradient(y, samples);
        match graph.ops[index] {
            Op::Conv { weight, bias, .. } => self.backward_conv(index, samples, weight, bias),
            Op::BatchNorm { norm, residual, relu, block, .. } => {
                let scales = drop_path.zip(block).map(|(drop_path, block)| drop_path.block(block));
                let layer = NormLayer { number: norm, residual: residual.is_some(), relu, scales };
                self.backward_norm(samples, [x, y], &layer);
            }
            Op::MaxPool { .. } => {
                let [dy, dx] = disjoint(&mut self.arena, [dy, program.gradient(x, samples)]);
                pool::max_backward(from, to, dy, &self.max_taps[..to.elements() * samples], dx);
            }
            Op::MeanPool { .. } => {
                let [dy, dx] = disjoint(&mut self.arena, [dy, program.gradient(x, samples)]);
                pool::mean_backward(from, dy, dx);
            }
            Op::Shortcut { .. } => {
                let [dy, dx] = disjoint(&mut self.arena, [dy, program.gradient(x, samples)]);
                pool::shortcut_backward(from, to, dy, dx);
            }
        }
    }

    fn backward_conv(&mut self, index: usize, samples: usize, weight: usize, bias: Option<usize>) {
        let program = &self.training;
        let (x, y) = program.plan.graph.ops[index].tensors();
        let convolution = program.convolution(index);
        let dy = program.gradient(y, samples);
        if let Some(bias) = bias {
            let gradient = &mut self.gradients[self.parameter_ranges[bias].clone()];
            let dy = &self.arena[dy.clone()];
            let classes = gradient.len();
            for (class, sum) in gradient.iter_mut().enumerate() {
                *sum += dy[class..].iter().step_by(classes).copied().sum();
            }
        }
        let gradient = &mut self.gradients[self.parameter_ranges[weight].clone()];
        let [input, dy_values] = disjoint(&mut self.arena, [program.value(x, samples), dy.clone()]);
        convolution.weight_gradient(input, dy_values, &mut self.conv_scratch, gradient);
        if program.plan.gradients[x].is_some() {
            let weights = &self.parameters[self.parameter_ranges[weight].clone()];
            let [dy, dx] = disjoint(&mut self.arena, [dy, program.gradient(x, samples)]);
            let scratch = Scratch { values: &mut self.conv_scratch, zeros: &self.zeros };
            convolution.input_gradient(dy, weights, program.plan.adds[index], scratch, dx);
        }
    }

    fn backward_norm(&mut self, samples: usize, [x, y]: [usize; 2], layer: &NormLayer<'_>) {
        let NormLayer { number, residual, relu, scales } = *layer;
        let program = &self.training;
        let graph = &program.plan.graph;
        let Shape { channels, .. } = graph.tensors[x];
        let gamma = graph.norms[number].gamma;
        let norm = BatchNorm {
            channels,
            pixels: graph.tensors[x].pixels(),
            relu,
            scales,
            gamma: &self.parameters[self.parameter_ranges[gamma].clone()],
            beta: &self.parameters[self.parameter_ranges[gamma + 1].clone()],
            saved: saved_of(&mut self.saved, &self.running_ranges[number]),
        };
        let norm_gradients = disjoint(
            &mut self.gradients,
            [self.parameter_ranges[gamma].clone(), self.parameter_ranges[gamma + 1].clone()],
        );
        let (value, dy) = (program.value(x, samples), program.gradient(y, samples));
        if residual {
            let [x, dy, y, dx] = disjoint(
                &mut self.arena,
                [value, dy, program.value(y, samples), program.gradient(x, samples)],
            );
            norm.backward(x, Some((y, dx)), dy, norm_gradients, &mut self.norm_scratch);
        } else {
            let [x, dy] = disjoint(&mut self.arena, [value, dy]);
            norm.backward(x, None, dy, norm_gradients, &mut self.norm_scratch);
        }
    }
}

/// The saved values of a norm, which are twice as many as its running statistics.
fn saved_of<'a, T>(saved: &'a mut [T], running: &Range<usize>) -> &'a mut [T] {
    &mut saved[2 * running.start..2 * running.end]
}
