//! Measures each operation of a network by itself, by the GPU's clock.
//!
//! An operation runs as in a step: on the values and gradients that the operations before it left. Those that it overwrites are
//! restored before the next run, because norms work in place and convolutions add, and after some repetitions values would
//! overflow. The cache is cleared before each run.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use forebay::gpu::{Scratch, TimingEvent};

use super::{kind, random_batch};
use crate::Error;
use crate::backend::Backend as _;
use crate::backend::cuda::{CudaBackend, PassConfig};
use crate::model::{Graph, Op, TensorId};

/// The cost of all operations of one kind in a microbatch.
#[derive(Clone, Debug, Default)]
pub(crate) struct OpTiming {
    /// Number of operations.
    pub count: usize,
    /// Seconds of all operations forward.
    pub forward: f64,
    /// Seconds of all operations backward.
    pub backward: f64,
    /// Bytes that the kernels read and write.
    pub bytes: f64,
    /// Floating-point operations.
    pub operations: f64,
}

/// What runs are measured by.
struct Meter {
    scratch: Scratch,
    events: [TimingEvent; 2],
    runs: u32,
}

impl Meter {
    fn new(gpu: &CudaBackend, bytes: usize, runs: u32) -> Result<Self, Error> {
        let device = gpu.device();
        let events = [device.timing_event()?, device.timing_event()?];
        Ok(Self { scratch: device.scratch(bytes)?, events, runs })
    }

    /// The median of several runs, in seconds. The parts of the memory are the same before each run.
    fn time(
        &self,
        gpu: &mut CudaBackend,
        overwritten: &[Range<usize>],
        mut run: impl FnMut(&mut CudaBackend) -> Result<(), Error>,
    ) -> Result<f64, Error> {
        self.scratch.save(gpu.lane(), overwritten)?;
        let mut times = Vec::new();
        for measured in 0..=self.runs {
            self.scratch.restore(gpu.lane(), overwritten)?;
            self.scratch.clear_cache(gpu.lane())?;
            gpu.lane().record(&self.events[0])?;
            run(gpu)?;
            gpu.lane().record(&self.events[1])?;
            let time = self.events[1].since(&self.events[0])?;
            // The first run may load kernels.
            if measured > 0 {
                times.push(time);
            }
        }
        times.sort();
        Ok(times.get(times.len() / 2).map_or(0.0, Duration::as_secs_f64))
    }
}

/// Measures each operation by itself, the median of `runs`. Returns the sums by kind.
///
/// # Errors
/// When the GPU fails.
pub(crate) fn time_operations(
    gpu: &mut CudaBackend,
    samples: usize,
    runs: u32,
) -> Result<BTreeMap<&'static str, OpTiming>, Error> {
    let graph = gpu.graph().clone();
    let pass = PassConfig { samples, train: true, drop_path: false };
    gpu.load_batch(&random_batch(&graph, samples), true, None)?;
    let overwritten: Vec<_> = (0..graph.ops.len()).map(|op| gpu.overwritten_backward(op)).collect();
    let bytes = overwritten.iter().map(|parts| parts.iter().map(Range::len).sum());
    let meter = Meter::new(gpu, bytes.max().unwrap_or(0), runs)?;
    let mut forward = Vec::new();
    for op in 0..graph.ops.len() {
        forward.push(meter.time(gpu, &[], |gpu| Ok(gpu.forward_op(op, pass)?))?);
    }
    gpu.set_logits_gradient(&vec![1e-3; samples * graph.classes])?;
    let mut rows: BTreeMap<&'static str, OpTiming> = BTreeMap::new();
    for (op, forward) in forward.into_iter().enumerate().rev() {
        let backward = meter.time(gpu, &overwritten[op], |gpu| Ok(gpu.backward_op(op, pass)?))?;
        let row = rows.entry(kind(&graph.ops[op])).or_default();
        row.count += 1;
        row.forward += forward;
        row.backward += backward;
        let (bytes, operations) = cost(&graph, &graph.ops[op], samples);
        row.bytes += bytes;
        row.operations += operations;
    }
    // The scratch memory is freed after the work that uses it.
    gpu.wait()?;
    Ok(rows)
}

/// Bytes and floating-point operations of an operation, forward and backward, in bf16.
fn cost(graph: &Graph, op: &Op, samples: usize) -> (f64, f64) {
    let bytes = |tensor: TensorId| 2.0 * (graph.tensors[tensor].elements() * samples) as f64;
    let (x, y) = op.tensors();
    match op {
        Op::Conv { conv, .. } => {
            let products = 2.0 * (conv.weights() * conv.output.pixels() * samples) as f64;
            // Forward, the weight gradient, and the input gradient, which the images do not need.
            let times = if x == 0 { 2.0 } else { 3.0 };
            (times * (bytes(x) + bytes(y) + 2.0 * conv.weights() as f64), times * products)
        }
        // Forward reads x twice and writes y. Backward reads x and dy twice and writes dx. With a residual,
        // forward reads it and writes one bit per value, and backward reads the bits and writes dy.
        Op::BatchNorm { residual, .. } => {
            (bytes(x) * if residual.is_some() { 10.125 } else { 8.0 }, 0.0)
        }
        // One byte per output stores which input was the maximum.
        Op::MaxPool { .. } => (2.0 * (bytes(x) + 1.5 * bytes(y)), 0.0),
        Op::MeanPool { .. } | Op::Shortcut { .. } => (2.0 * (bytes(x) + bytes(y)), 0.0),
    }
}
