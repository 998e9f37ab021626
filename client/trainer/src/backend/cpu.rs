//! The CPU backend, in f32 for training and f64 for tests. It runs the operations of the graph one after
//! the other, each on all cores. The same input gives the same bits on any number of threads.
//!
//! ```text
//! cpu.rs            what the training loop calls: forward, backward, update
//! program.rs        a memory plan with the tables of its convolutions
//! execute.rs        each operation forward and backward, on ranges of the arena
//! conv.rs           convolutions: output, input gradient, weight gradient
//! gemm.rs           the matrix products behind them
//! indirection.rs    which input pixels a product reads
//! batch_norm.rs, pool.rs
//! stepwise.rs       one operation at a time, for tests
//! state.rs          tensors by timm's names, to and from the backend's layout
//! ```

mod batch_norm;
mod conv;
mod execute;
mod gemm;
mod indirection;
mod pool;
mod program;
mod state;
pub(crate) mod stepwise;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twins;

use std::ops::Range;

use program::Program;

use super::{Backend, BackendConfig, MicroStep, UpdateReport, normalization_table};
use crate::Error;
use crate::batch::{Batch, Pixels};
use crate::lamb::ChunkSums;
use crate::memory::MemoryPlan;
use crate::model::{Graph, Op, ParamKind};
use crate::optimizer::clip::{self, ClipGrad, ClipMode};
use crate::optimizer::tensor::{OptimizerTensor, UpdateStep};
use crate::optimizer::{Optimizer, StateKind};
use crate::process_group::ProcessGroup;
use crate::simd::{PANEL, Real, to_f32};
use crate::state::TrainState;

/// A network in memory.
#[derive(Debug)]
pub(crate) struct CpuBackend<T> {
    /// Forward and backward.
    training: Program,
    /// Forward only, perhaps for images of another size.
    inference: Program,

    /// Range of each parameter in `parameters`, `gradients`, `exp_avg` and `exp_avg_sq`.
    parameter_ranges: Vec<Range<usize>>,
    parameters: Vec<T>,
    gradients: Vec<T>,
    /// The first moments, or SGD's momentum buffers, as `state_kind` says.
    exp_avg: Vec<T>,
    exp_avg_sq: Vec<T>,
    state_kind: StateKind,
    /// Range of each batch norm's means and variances in `running` and `batch_statistics`.
    running_ranges: Vec<Range<usize>>,
    /// Running means and variances.
    running: Vec<T>,
    /// Moving averages of `parameters` and `running`; empty until the first update that uses them.
    ema: (Vec<T>, Vec<T>),
    updates: u64,
    batches_tracked: u64,

    /// Values and gradients of the graph's tensors.
    arena: Vec<T>,
    /// Statistics of the last microbatch of this rank.
    batch_statistics: Vec<f64>,
    /// Statistics of the last microbatch of each rank, in the order of ranks.
    all_statistics: Vec<f64>,
    /// Values that batch norms keep from forward for backward.
    saved: Vec<T>,
    /// For each output of the max pool, which input was the maximum.
    max_taps: Vec<u8>,
    /// Losses of the microbatches of the step in progress.
    losses: Vec<f64>,
    pending_report: Option<UpdateReport>,

    /// Scratch of the backward pass of convolutions.
    conv_scratch: Vec<T>,
    norm_scratch: Vec<f64>,
    lamb_scratch: ChunkSums,
    /// Scratch for the dense target of one sample.
    target_row: Vec<T>,
    /// Zeros that convolutions read outside of the image.
    zeros: Vec<T>,
    /// Logits of the last evaluation.
    logits: Vec<f32>,
    /// Normalized value of each byte, per channel.
    normalized: [[f32; 256]; 3],
    group: ProcessGroup,
}

impl<T: Real> CpuBackend<T> {
    /// Allocates the memory of the networks. Parameters are zero until [`Backend::load`].
    pub(crate) fn new(config: BackendConfig) -> Self {
        let BackendConfig { train_graph, batch, eval_graph, eval_batch, mean, std } = config;
        let parameter_ranges = consecutive_ranges(
            train_graph
                .parameters
                .iter()
                .map(|p| if p.kind.decays() { conv::panel_len(&p.shape) } else { p.shape[0] }),
        );
        let running_ranges = consecutive_ranges(train_graph.norms.iter().map(|n| 2 * n.channels));
        let len = parameter_ranges.last().map_or(0, |range| range.end);
        let largest = parameter_ranges.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let running = running_ranges.last().map_or(0, |range| range.end);
        let widest = train_graph.tensors.iter().map(|t| t.channels).max().unwrap_or(0);
        // Of those that are normalized: the logits may be of millions of classes.
        let normalized = train_graph.norms.iter().map(|norm| norm.channels).max().unwrap_or(0);
        let max_taps = pooled_len(&train_graph, batch).max(pooled_len(&eval_graph, eval_batch));
        let classes = train_graph.classes;
        let training = Program::new(MemoryPlan::training(train_graph, batch));
        let inference = Program::new(MemoryPlan::inference(eval_graph, eval_batch));
        Self {
            parameter_ranges,
            parameters: vec![T::ZERO; len],
            gradients: vec![T::ZERO; len],
            exp_avg: vec![T::ZERO; len],
            exp_avg_sq: vec![T::ZERO; len],
            state_kind: StateKind::Empty,
            running_ranges,
            running: vec![T::ZERO; running],
            ema: (Vec::new(), Vec::new()),
            updates: 0,
            batches_tracked: 0,
            arena: vec![T::ZERO; training.plan.arena.max(inference.plan.arena)],
            batch_statistics: vec![0.0; running],
            all_statistics: vec![0.0; running],
            saved: vec![T::ZERO; 2 * running],
            max_taps: vec![0; max_taps],
            losses: Vec::new(),
            pending_report: None,
            conv_scratch: vec![T::ZERO; training.conv_scratch_len(batch)],
            norm_scratch: vec![0.0; batch_norm::scratch_len(normalized)],
            lamb_scratch: ChunkSums::new(largest),
            target_row: vec![T::ZERO; classes],
            // The stem reads a row of taps of a 7x7 kernel over three channels at once.
            zeros: vec![T::ZERO; widest.max(3 * 7)],
            logits: Vec::with_capacity(eval_batch),
            normalized: std::array::from_fn(|c| normalization_table(mean[c], std[c])),
            group: ProcessGroup::single(),
            training,
            inference,
        }
    }

    fn program(&self, train: bool) -> &Program {
        if train { &self.training } else { &self.inference }
    }

    /// Copies images into the first tensor. The batch must have been checked.
    pub(crate) fn load_images(&mut self, batch: &Batch, train: bool) {
        let program = if train { &self.training } else { &self.inference };
        let (padded, pad) = (program.plan.graph.tensors[0], program.plan.graph.pad);
        let x = &mut self.arena[program.value(0, batch.samples())];
        let table = &self.normalized;
        match &batch.pixels {
            Pixels::Bytes(bytes) => {
                let value = |byte: u8, channel: usize| f64::from(table[channel][usize::from(byte)]);
                pool::images(padded, pad, bytes, |byte, c| T::from_f64(value(byte, c)), x);
            }
            Pixels::Floats(floats) => {
                pool::images(padded, pad, floats, |value: f32, _| T::from_f64(value.into()), x);
            }
            Pixels::Unmixed(..) => unreachable!("`check` refuses unmixed samples"),
        }
    }

    /// Combines the gradients and statistics of the ranks, which computed one microbatch each. Rank 0 gets
    /// the sum of all gradients so far, added in the order of microbatches. The running statistics are
    /// updated by the statistics of every rank's microbatch, in the same order.
    fn exchange(&mut self) -> Result<(), Error> {
        self.group.all_gather(&self.batch_statistics, &mut self.all_statistics)?;
        for statistics in self.all_statistics.chunks_exact(self.batch_statistics.len()) {
            batch_norm::update_running(&mut self.running, statistics);
            self.batches_tracked += 1;
        }
        self.group.reduce(&mut self.gradients)
    }

    /// The norm of all gradients.
    fn gradient_norm(&mut self) -> f64 {
        let squares = self
            .parameter_ranges
            .iter()
            .map(|range| self.lamb_scratch.norm(&self.gradients[range.clone()]).powi(2));
        squares.sum::<f64>().sqrt()
    }

    /// Clips all gradients, whose norm is `norm`.
    fn clip_gradients(&mut self, clip_grad: ClipGrad, norm: f64) {
        let ClipGrad { value, mode } = clip_grad;
        match mode {
            ClipMode::Norm => clip::scale(clip::norm_factor(value, norm), &mut self.gradients),
            ClipMode::Value => clip::clip_values(value, &mut self.gradients),
            ClipMode::Agc => {
                let parameters = &self.training.plan.graph.parameters;
                for (range, parameter) in self.parameter_ranges.iter().zip(parameters) {
                    let shape = &parameter.shape;
                    let weights = &self.parameters[range.clone()];
                    let gradient = &mut self.gradients[range.clone()];
                    match parameter.kind {
                        ParamKind::Matrix | ParamKind::Bias => {}
                        ParamKind::Gamma(_) | ParamKind::Beta => {
                            clip::clip_outputs(value, weights, gradient, 1, |_| 0);
                        }
                        ParamKind::Conv => {
                            let output_of = |index: usize| conv::output_of(shape, index);
                            let outputs = shape[0].next_multiple_of(PANEL);
                            clip::clip_outputs(value, weights, gradient, outputs, output_of);
                        }
                    }
                }
            }
        }
    }

    /// Drops the state of another optimizer.
    fn begin_state(&mut self, kind: StateKind) {
        if self.state_kind != kind {
            self.exp_avg.fill(T::ZERO);
            self.exp_avg_sq.fill(T::ZERO);
            self.state_kind = kind;
        }
    }

    /// `ema = decay * ema + (1 - decay) * model`.
    fn update_ema(&mut self, decay: f64) {
        let (keep, take) = (T::from_f64(decay), T::from_f64(1.0 - decay));
        for (ema, model) in [(&mut self.ema.0, &self.parameters), (&mut self.ema.1, &self.running)]
        {
            for (ema, model) in ema.iter_mut().zip(model) {
                *ema = *ema * keep + *model * take;
            }
        }
    }
}

impl<T: Real> Backend for CpuBackend<T> {
    fn graph(&self) -> &Graph {
        &self.training.plan.graph
    }

    fn group(&mut self) -> &mut ProcessGroup {
        &mut self.group
    }

    fn join(&mut self, group: ProcessGroup) -> Result<(), Error> {
        self.all_statistics = vec![0.0; self.running.len() * group.rank().world as usize];
        self.group = group;
        Ok(())
    }

    fn forward(&mut self, batch: &Batch, micro: &MicroStep<'_>) -> Result<(), Error> {
        check(batch, &self.training.plan)?;
        self.load_images(batch, true);
        self.forward_ops(batch.samples(), true, micro.drop_path);
        Ok(())
    }

    fn backward(&mut self, batch: &Batch, micro: &MicroStep<'_>) -> Result<(), Error> {
        let samples = batch.samples();
        let mut row = std::mem::take(&mut self.target_row);
        let mut loss = 0.0;
        self.set_logits_gradient(samples, |logits, gradient| {
            loss = micro.loss.batch(logits, &batch.targets(), micro.weight, &mut row, gradient);
        });
        self.target_row = row;
        self.losses.push(loss);
        self.backward_ops(samples, micro.drop_path);
        self.exchange()
    }

    fn update(
        &mut self,
        optimizer: &Optimizer,
        clip_grad: Option<ClipGrad>,
        lr: f64,
        model_ema_decay: Option<f64>,
    ) -> Result<(), Error> {
        self.group.broadcast(&mut self.gradients)?;
        self.updates += 1;
        // The average starts at the model as it was before its first update.
        if model_ema_decay.is_some() && self.ema.0.is_empty() {
            self.ema = (self.parameters.clone(), self.running.clone());
        }
        self.begin_state(optimizer.state_kind());
        let grad_norm = self.gradient_norm();
        let mut step = UpdateStep { lr, update: self.updates, grad_norm };
        if let Some(clip_grad) = clip_grad {
            self.clip_gradients(clip_grad, grad_norm);
            if optimizer.max_grad_norm().is_some() {
                step.grad_norm = self.gradient_norm();
            }
        }
        let parameters = &self.training.plan.graph.parameters;
        for (range, parameter) in self.parameter_ranges.iter().zip(parameters) {
            let tensor = OptimizerTensor {
                parameter: &mut self.parameters[range.clone()],
                gradient: &mut self.gradients[range.clone()],
                exp_avg: &mut self.exp_avg[range.clone()],
                exp_avg_sq: &mut self.exp_avg_sq[range.clone()],
                decays: parameter.kind.decays(),
            };
            optimizer.update(&step, tensor, &mut self.lamb_scratch);
        }
        self.gradients.fill(T::ZERO);
        if let Some(decay) = model_ema_decay {
            self.update_ema(decay);
        }
        let losses = std::mem::take(&mut self.losses);
        self.pending_report = Some(UpdateReport { losses, grad_norm, loss_scaler: None });
        Ok(())
    }

    fn poll_report(&mut self, _flush: bool) -> Result<Option<UpdateReport>, Error> {
        Ok(self.pending_report.take())
    }

    fn logits(&mut self, batch: &Batch) -> Result<&[f32], Error> {
        check(batch, &self.inference.plan)?;
        self.load_images(batch, false);
        self.forward_ops(batch.samples(), false, None);
        let mut logits = std::mem::take(&mut self.logits);
        logits.clear();
        logits.extend(self.last_logits(batch.samples(), false).iter().map(|x| to_f32(*x)));
        self.logits = logits;
        Ok(&self.logits)
    }

    fn swap_ema(&mut self) -> Result<(), Error> {
        if !self.ema.0.is_empty() {
            std::mem::swap(&mut self.ema.0, &mut self.parameters);
            std::mem::swap(&mut self.ema.1, &mut self.running);
        }
        Ok(())
    }

    fn state(&self) -> Result<TrainState, Error> {
        Ok(self.to_state())
    }

    fn load(&mut self, state: &TrainState) -> Result<(), String> {
        self.load_state(state)
    }
}

/// Refuses a microbatch that does not fit or that is not mixed yet.
fn check(batch: &Batch, plan: &MemoryPlan) -> Result<(), Error> {
    batch.check(&plan.graph, plan.batch)?;
    let Pixels::Unmixed(..) = batch.pixels else { return Ok(()) };
    let problem = "its samples are not mixed, which only a GPU does: use --mixed-by server";
    Err(Error::Batch { name: batch.name, problem: problem.to_owned() })
}

/// Consecutive ranges of these lengths, each starting at a cache line.
fn consecutive_ranges(lengths: impl Iterator<Item = usize>) -> Vec<Range<usize>> {
    let mut end: usize = 0;
    let next = |len: usize| {
        let start = end.next_multiple_of(PANEL);
        end = start + len;
        start..end
    };
    lengths.map(next).collect()
}

/// Output values of the largest max pool.
fn pooled_len(graph: &Graph, batch: usize) -> usize {
    let output = |op: &Op| if let Op::MaxPool { y, .. } = op { Some(*y) } else { None };
    let outputs = graph.ops.iter().filter_map(output);
    outputs.map(|y| graph.tensors[y].elements() * batch).max().unwrap_or(0)
}
