//! The layout of the GPU's memory, computed once: which range holds what.

use std::ops::Range;

use forebay::mix::MIX_BYTES;
use forebay_types::Rank;

use super::Precision;
use super::scalars;
use super::stem::{IMAGE_CHANNELS, input_channels};
use crate::loss_scaler;
use crate::memory::MemoryPlan;
use crate::model::{Graph, Op, ParamKind, Parameter};

/// Parameters per chunk of the optimizer, the same as in lamb.cu.
pub(super) const CHUNK: usize = 8192;

/// Maximum number of blocks that batch norm divides a tensor into, and so of chunks over which it sums. An A100
/// runs all of them at once: four on each of its 108 multiprocessors. So do an H100 and an H200, three or four on each of 132.
/// The number is the same on every GPU, because the order of additions depends on it.
pub(super) const NORM_BLOCKS: usize = 432;

/// Parameters start at multiples of this many values. The gaps are zeros.
const ALIGN: usize = 16;

/// Workspace of cuBLAS, which it would otherwise allocate itself: its manual recommends 32 MiB on Hopper, and requires the
/// caller's where calls are captured.
const CUBLAS_WORKSPACE: usize = 32 << 20;

/// Bytes of [`MemoryMap::outcome`]. The scaler is aligned to 16 bytes.
pub(super) const OUTCOME: usize = 16 + loss_scaler::BYTES;

/// Hands out consecutive ranges of bytes, each starting at a multiple of 256.
#[derive(Debug, Default)]
struct RangeAllocator(usize);

impl RangeAllocator {
    fn bytes(&mut self, len: usize) -> Range<usize> {
        let start = self.0.next_multiple_of(256);
        self.0 = start + len;
        start..self.0
    }

    fn f32s(&mut self, len: usize) -> Range<usize> {
        self.bytes(len * 4)
    }
}

/// The ranges of the GPU's memory, in bytes.
#[derive(Debug)]
pub(super) struct MemoryMap {
    /// Values and gradients of the graph's tensors, as the memory plan lays them out.
    pub(super) arena: Range<usize>,
    /// Parameters and optimizer state in f32. Within each, [`Self::parameter_ranges`] holds.
    pub(super) parameters: Range<usize>,
    pub(super) gradients: Range<usize>,
    pub(super) exp_avg: Range<usize>,
    pub(super) exp_avg_sq: Range<usize>,
    pub(super) ema: Range<usize>,
    /// The parameters in the precision of activations, which matrix products read.
    pub(super) parameter_copy: Range<usize>,
    /// Weight gradients of one microbatch, as cuDNN writes them.
    pub(super) filter_gradients: Range<usize>,
    /// Running statistics. Within them and the next two, [`Self::running_ranges`] holds.
    pub(super) running: Range<usize>,
    pub(super) ema_running: Range<usize>,
    /// Batch statistics of one microbatch of each rank.
    pub(super) statistics: Range<usize>,
    /// Values that batch norms keep from forward for backward.
    pub(super) saved: Range<usize>,
    /// Values per channel by which a batch norm computes the gradient of its input.
    pub(super) norm_terms: Range<usize>,
    pub(super) norm_partial: Range<usize>,
    /// Scale and bias by which convolutions apply batch norms that are fused into them.
    pub(super) norm_lines: Range<usize>,
    /// For each batch norm with a residual, which of its outputs `ReLU` passed in training: one byte for each 16
    /// bytes of channels of a pixel. Empty for all others.
    pub(super) masks: Vec<Range<usize>>,
    /// For each output of the max pool, which input was the maximum.
    pub(super) max_taps: Range<usize>,
    pub(super) logits: Range<usize>,
    pub(super) losses: Range<usize>,
    /// Pixels of a microbatch after mixing on this GPU.
    pub(super) mixed: Range<usize>,
    /// Targets of the microbatch in progress, as [`InputMap::targets`] lays them out.
    pub(super) targets: Range<usize>,
    /// What changes from step to step, as scalars.rs lays it out.
    pub(super) scalars: Range<usize>,
    /// Normalized value of each byte, per channel.
    pub(super) normalization: Range<usize>,
    /// Table of the chunks of all tensors, as lamb.cu reads it.
    pub(super) chunks: Range<usize>,
    /// Table of the tensors, as lamb.cu reads it.
    pub(super) tensors: Range<usize>,
    /// Table of the outputs of all convolutions, and of the other tensors, as lamb.cu reads it.
    pub(super) outputs: Range<usize>,
    pub(super) lamb_partial: Range<usize>,
    pub(super) trust_ratios: Range<usize>,
    pub(super) square_partial: Range<usize>,
    /// What the host reads of an update: the norm of its gradients, and the loss scaler.
    pub(super) outcome: Range<usize>,
    pub(super) grad_norm: Range<usize>,
    pub(super) scaler: Range<usize>,
    pub(super) clip: Range<usize>,
    pub(super) cublas_workspace: Range<usize>,
    /// Workspace of cuDNN.
    pub(super) workspace: Range<usize>,
    /// Size of all ranges.
    pub(super) bytes: usize,
    pub(super) precision: Precision,
    pub(super) classes: usize,
    /// Index in `statistics` of the first value of this rank's batch statistics.
    pub(super) own_statistics: usize,
    /// Range of each parameter, in values.
    pub(super) parameter_ranges: Vec<Range<usize>>,
    /// For each parameter, its number of input channels in timm's shape and as stored.
    pub(super) input_channels: Vec<[usize; 2]>,
    /// Range of each batch norm's running means and variances, in values.
    pub(super) running_ranges: Vec<Range<usize>>,
    /// Length of all parameters, in values.
    pub(super) parameters_len: usize,
    /// Length of all running statistics, in values.
    pub(super) running_len: usize,
}

/// The ranges of a microbatch's upload, in bytes. The same in page-locked host memory and in a slot on the GPU. The
/// pixels are last, so that one copy uploads what there is of them with all the rest.
#[derive(Clone, Debug)]
pub(super) struct InputMap {
    pub(super) label_a: Range<usize>,
    pub(super) label_b: Range<usize>,
    pub(super) lambda: Range<usize>,
    /// Factors of stochastic depth, by block, then sample.
    pub(super) drop_path: Range<usize>,
    /// The mix entry of each sample.
    pub(super) mix: Range<usize>,
    pub(super) pixels: Range<usize>,
    /// Size of all ranges.
    pub(super) bytes: usize,
}

impl InputMap {
    pub(super) fn new([training, inference]: [&MemoryPlan; 2]) -> Self {
        let mut allocator = RangeAllocator::default();
        let pixels = |plan: &MemoryPlan| {
            let (height, width) = plan.graph.image;
            plan.batch * height * width * 3
        };
        let batch = training.batch.max(inference.batch);
        Self {
            label_a: allocator.f32s(batch),
            label_b: allocator.f32s(batch),
            lambda: allocator.f32s(batch),
            drop_path: allocator.f32s(training.graph.blocks * training.batch),
            mix: allocator.bytes(batch * MIX_BYTES),
            pixels: allocator.f32s(pixels(training).max(pixels(inference))),
            bytes: allocator.0.next_multiple_of(256),
        }
    }

    /// What the kernels read until the end of the backward pass.
    pub(super) const fn targets(&self) -> Range<usize> {
        self.label_a.start..self.drop_path.end
    }
}

impl MemoryMap {
    pub(super) fn new(
        plans: [&MemoryPlan; 2],
        precision: Precision,
        input: &InputMap,
        workspace: usize,
        rank: Rank,
    ) -> Self {
        let graph = &plans[0].graph;
        let input_channels = input_channels(graph);
        let parameter_lens = graph.parameters.iter().zip(&input_channels);
        let parameter_lens = parameter_lens
            .map(|(p, [inputs, stored])| p.shape.iter().product::<usize>() / inputs * stored);
        let (parameter_ranges, parameters_len) = consecutive_ranges(parameter_lens);
        let running_lens = graph.norms.iter().map(|n| 2 * n.channels);
        let (running_ranges, running_len) = consecutive_ranges(running_lens);
        let widest = graph.norms.iter().map(|n| n.channels).max().unwrap_or(0);
        let batch = plans[0].batch.max(plans[1].batch);
        let chunks: usize = parameter_ranges.iter().map(|p| p.len().div_ceil(CHUNK)).sum();
        let outputs: usize = graph.parameters.iter().map(outputs).sum();
        let mut a = RangeAllocator::default();
        let outcome = a.bytes(OUTCOME);
        Self {
            grad_norm: outcome.start..outcome.start + 8,
            scaler: outcome.end - loss_scaler::BYTES..outcome.end,
            outcome,
            parameters: a.f32s(parameters_len),
            gradients: a.f32s(parameters_len),
            exp_avg: a.f32s(parameters_len),
            exp_avg_sq: a.f32s(parameters_len),
            ema: a.f32s(parameters_len),
            running: a.f32s(running_len),
            ema_running: a.f32s(running_len),
            statistics: a.f32s(running_len * rank.world as usize),
            saved: a.f32s(2 * running_len),
            norm_terms: a.f32s(2 * widest),
            norm_partial: a.f32s(2 * NORM_BLOCKS * widest),
            logits: a.f32s(batch * graph.classes),
            losses: a.f32s(batch),
            normalization: a.f32s(3 * 256),
            square_partial: a.f32s(parameters_len.div_ceil(CHUNK)),
            trust_ratios: a.f32s(parameter_ranges.len()),
            clip: a.f32s(1),
            arena: a.bytes(plans[0].arena.max(plans[1].arena) * precision.bytes()),
            parameter_copy: a.bytes(parameters_len * precision.bytes()),
            filter_gradients: a.bytes(parameters_len * precision.bytes()),
            norm_lines: a.bytes(running_len * precision.bytes()),
            masks: mask_lens(plans[0], precision).into_iter().map(|len| a.bytes(len)).collect(),
            max_taps: a.bytes(plans.map(pooled_len).into_iter().max().unwrap_or(0)),
            mixed: a.bytes(input.pixels.len() / 4),
            targets: a.bytes(input.targets().len()),
            scalars: a.f32s(scalars::COUNT),
            cublas_workspace: a.bytes(CUBLAS_WORKSPACE),
            chunks: a.bytes(chunks * 16),
            tensors: a.bytes(parameter_ranges.len() * 16),
            outputs: a.bytes(outputs * 16),
            lamb_partial: a.bytes(chunks * 8),
            workspace: a.bytes(workspace),
            bytes: a.0,
            precision,
            classes: graph.classes,
            own_statistics: rank.rank as usize * running_len,
            parameter_ranges,
            input_channels,
            running_ranges,
            parameters_len,
            running_len,
        }
    }

    /// The contents of `chunks`, `tensors` and `outputs`.
    pub(super) fn optimizer_tables(&self, graph: &Graph) -> [Vec<u8>; 3] {
        let mut rows: Vec<[u32; 4]> = Vec::new();
        let (mut chunks, mut tensors): (Vec<[u32; 4]>, Vec<[u32; 4]>) = (Vec::new(), Vec::new());
        let parameters = graph.parameters.iter().zip(&self.input_channels);
        for (range, (parameter, [inputs, stored])) in self.parameter_ranges.iter().zip(parameters) {
            // Of each eight values, those that exist.
            let existing = if inputs == stored { 8 } else { *inputs };
            assert!(inputs == stored || *stored == IMAGE_CHANNELS, "{}", parameter.name);
            let (tensor, decays) = (to_u32(tensors.len()), u32::from(parameter.kind.decays()));
            let first = to_u32(chunks.len());
            for start in range.clone().step_by(CHUNK) {
                let length = CHUNK.min(range.end - start);
                let flags = decays | to_u32(existing) << 16;
                chunks.push([to_u32(start), to_u32(length), tensor, flags]);
            }
            tensors.push([first, to_u32(chunks.len()) - first, decays, 0]);
            let length = range.len() / outputs(parameter);
            let clips = u32::from(!matches!(parameter.kind, ParamKind::Matrix | ParamKind::Bias));
            let starts = range.clone().step_by(length);
            rows.extend(starts.map(|start| [to_u32(start), to_u32(length), clips, 0]));
        }
        let bytes = |table: Vec<[u32; 4]>| {
            table.into_iter().flatten().flat_map(u32::to_le_bytes).collect::<Vec<u8>>()
        };
        [chunks, tensors, rows].map(bytes)
    }

    /// Splits the gradients into buckets of about `len` values, which are exchanged one by one. Starts
    /// with the last parameters, whose gradients are ready first. Each bucket comes with the operation
    /// whose backward completes it.
    pub(super) fn buckets(&self, graph: &Graph, len: usize) -> Vec<(usize, Range<usize>)> {
        // The operation whose backward writes the gradient of each parameter.
        let mut writers = vec![0; self.parameter_ranges.len()];
        for (i, op) in graph.ops.iter().enumerate() {
            match *op {
                Op::Conv { weight, bias, .. } => {
                    writers[weight] = i;
                    writers[bias.unwrap_or(weight)] = i;
                }
                Op::BatchNorm { norm, .. } => {
                    let gamma = graph.norms[norm].gamma;
                    writers[gamma..gamma + 2].fill(i);
                }
                Op::MaxPool { .. } | Op::MeanPool { .. } | Op::Shortcut { .. } => {}
            }
        }
        let (mut buckets, mut end) = (Vec::new(), self.parameters_len);
        let mut completed_by = usize::MAX;
        for (range, op) in self.parameter_ranges.iter().zip(writers).rev() {
            completed_by = completed_by.min(op);
            if end - range.start >= len || range.start == 0 {
                buckets.push((completed_by, range.start..end));
                (end, completed_by) = (range.start, usize::MAX);
            }
        }
        buckets
    }
}

/// Outputs whose gradients are clipped one by one: those of a convolution. Every other tensor is one.
fn outputs(parameter: &Parameter) -> usize {
    if parameter.kind == ParamKind::Conv { parameter.shape[0] } else { 1 }
}

fn to_u32(value: usize) -> u32 {
    u32::try_from(value).expect("a network has fewer than 2^32 parameters")
}

/// Bytes of the mask of each batch norm of a training.
fn mask_lens(plan: &MemoryPlan, precision: Precision) -> Vec<usize> {
    let mut lens = vec![0; plan.graph.norms.len()];
    for op in &plan.graph.ops {
        if let Op::BatchNorm { y, norm, residual: Some(_), .. } = *op {
            let shape = plan.graph.tensors[y];
            let groups = shape.channels.div_ceil(16 / precision.bytes());
            lens[norm] = plan.batch * shape.pixels() * groups;
        }
    }
    lens
}

/// Output values of the max pool.
fn pooled_len(plan: &MemoryPlan) -> usize {
    let output = |op: &Op| if let Op::MaxPool { y, .. } = op { Some(*y) } else { None };
    let len = |y: usize| plan.graph.tensors[y].elements() * plan.batch;
    plan.graph.ops.iter().filter_map(output).map(len).max().unwrap_or(0)
}

/// Consecutive ranges of these lengths, each starting at a multiple of [`ALIGN`]; and their total length.
fn consecutive_ranges(lens: impl Iterator<Item = usize>) -> (Vec<Range<usize>>, usize) {
    let mut end: usize = 0;
    let next = |len: usize| {
        let start = end;
        end = (start + len).next_multiple_of(ALIGN);
        start..start + len
    };
    let ranges = lens.map(next).collect();
    (ranges, end)
}
