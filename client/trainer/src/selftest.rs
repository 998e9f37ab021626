//! Whether a GPU computes what the CPU does: each operation of a network forward and backward, on the GPU's own
//! inputs, so that an error is seen where it is made.
//!
//! What is stored as bf16 may differ by the unit in its last place, which is up to 2^-7 of the number: where the
//! sums differ in the order of their additions, a rounding goes the other way. The sums, which are f32,
//! differ by at most 2^-13 of a tensor's largest number. f32 is stored without rounding.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::Error;
use crate::backend::cpu::Cpu;
use crate::backend::cuda::{Cuda, Number, Pass, Setting, bf16};
use crate::backend::{Backend as _, Batch, Networks, Part, Pixels, State};
use crate::droppath::Drops;
use crate::init;
use crate::loss::{Criterion, Loss};
use crate::model::{Graph, Op, Tensor};

/// A comparison: what, how far apart at most, what is allowed; in units of the largest number.
#[derive(Clone, Debug)]
pub struct Check {
    /// Which operation, or gradient of which parameter.
    pub what: String,
    /// Largest excess over the allowed distance, over the tensor's largest number; at most 0 is well.
    pub excess: f64,
}

/// A unit in the last place of a bf16, of the number at most.
const LAST_PLACE: f64 = 1.0 / 128.0;

/// Of a tensor's largest number, what sums in f32 may differ by.
const SUMS: f64 = 1.0 / 8192.0;

/// Both backends in step.
struct Pair {
    cpu: Cpu<f32>,
    gpu: Cuda,
    number: Number,
    pass: Pass,
    drops: Drops,
    checks: Vec<Check>,
}

/// Runs a network of the graph forward and backward on both, for some samples of noise.
pub fn layers(setting: &Setting, graph: &Graph, samples: usize) -> Result<Vec<Check>, Error> {
    let (number, batch) = (setting.number, noise(graph, samples));
    let mut drops = Drops::new(0.3, graph.blocks, samples);
    drops.draw(1, 2, 3);
    let mut pair = Pair {
        cpu: Cpu::new(graph.clone(), samples, graph.clone(), samples, [0.5; 3], [0.25; 3]),
        gpu: Cuda::new(setting.clone(), networks(graph, samples))?,
        number,
        pass: Pass { samples, train: true, drops: true },
        drops,
        checks: Vec::new(),
    };
    let state = weights(graph, number);
    for loaded in [pair.cpu.load(&state), pair.gpu.load(&state)] {
        loaded.expect("the network's own tensors");
    }
    pair.forward(&batch)?;
    pair.losses(&batch)?;
    pair.backward()?;
    Ok(pair.checks)
}

/// Whether a microbatch gives the same bits twice.
pub fn repeats(setting: &Setting, graph: &Graph, samples: usize) -> Result<bool, Error> {
    let batch = noise(graph, samples);
    let loss = Loss { criterion: Criterion::Bce, smoothing: 0.1, threshold: None };
    let once = || {
        let mut gpu = Cuda::new(setting.clone(), networks(graph, samples))?;
        gpu.load(&weights(graph, setting.number)).expect("the network's own tensors");
        gpu.accumulate(&batch, &Part { drops: None, loss: &loss, share: 1.0, last: true })?;
        let gradients = (0..graph.parameters.len()).map(|i| gpu.gradient(i));
        Ok::<_, Error>(gradients.collect::<Result<Vec<_>, _>>()?)
    };
    let bits =
        |all: Vec<Vec<f32>>| -> Vec<u32> { all.into_iter().flatten().map(f32::to_bits).collect() };
    Ok(bits(once()?) == bits(once()?))
}

fn networks(graph: &Graph, samples: usize) -> Networks {
    let [training, evaluation] = [graph.clone(), graph.clone()];
    let (mean, std) = ([0.5; 3], [0.25; 3]);
    Networks { training, batch: samples, evaluation, eval_batch: samples, mean, std }
}

/// First weights whose gradients all count, as the GPU's products take them.
fn weights(graph: &Graph, number: Number) -> State {
    let mut state = init::state(graph, 5);
    for (i, parameter) in graph.parameters.iter().enumerate() {
        let array = state.model.get_mut(&parameter.name).expect("its own name");
        for (k, value) in array.values.iter_mut().enumerate() {
            if !parameter.kind.decays() {
                *value += 0.25 * wave(k, i);
            } else if number == Number::Bf16 {
                *value = f32::from_bits(u32::from(bf16(*value)) << 16);
            }
        }
        if parameter.name.ends_with("weight") && !parameter.kind.decays() {
            array.values.iter_mut().for_each(|gamma| *gamma += 0.5);
        }
    }
    state
}

/// Numbers in -1..1 that are no pattern.
fn wave(k: usize, seed: usize) -> f32 {
    let number = (seed as u64) << 32 | (k as u64 + 1);
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    f32::from(u16::try_from(mixed >> 48).expect("16 bits")) / 32768.0 - 1.0
}

fn noise(graph: &Graph, samples: usize) -> Batch {
    let (height, width) = graph.image;
    let pixels = (0..samples * height * width * 3).map(|k| wave(k, 99)).collect();
    let label = |k: usize| u32::try_from(k % graph.classes).expect("few classes");
    Batch {
        epoch: 0,
        step: 0,
        index: 0,
        size: graph.image,
        pixels: Pixels::Floats(pixels),
        label_a: (0..samples).map(label).collect(),
        label_b: (0..samples).map(|k| label(k + 1)).collect(),
        lambda: (0..samples).map(|k| 0.5 + 0.5 * wave(k, 7)).collect(),
    }
}

impl Pair {
    /// Compares what should be equal, rounded once if it is stored.
    fn compare(&mut self, what: String, gpu: &[f32], cpu: &[f32], stored: bool) {
        assert_eq!(gpu.len(), cpu.len(), "{what}");
        let most = cpu.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
        let rounds = if stored && self.number == Number::Bf16 { LAST_PLACE } else { 0.0 };
        let excess = |(gpu, cpu): (&f32, &f32)| {
            let (gpu, cpu) = (f64::from(*gpu), f64::from(*cpu));
            let allowed = rounds * cpu.abs() + SUMS * f64::from(most);
            ((gpu - cpu).abs() - allowed) / f64::from(most)
        };
        // A number that is none is as wrong as can be.
        let worse = |a: f64, b: f64| if b.is_nan() { f64::INFINITY } else { a.max(b) };
        let excess = gpu.iter().zip(cpu).map(excess).fold(f64::NEG_INFINITY, worse);
        self.checks.push(Check { what, excess });
    }

    /// Compares a tensor, and gives the CPU the GPU's.
    fn values(&mut self, what: &str, tensor: Tensor) -> Result<(), Error> {
        let pass = self.pass;
        let gpu = self.gpu.values(tensor, pass)?;
        let cpu = self.cpu.values_mut(tensor, pass.samples, true).to_vec();
        let stored = tensor != self.gpu.graph().logits();
        self.compare(format!("{what} forward"), &gpu, &cpu, stored);
        self.cpu.values_mut(tensor, pass.samples, true).copy_from_slice(&gpu);
        Ok(())
    }

    fn slopes(&mut self, what: &str, tensor: Tensor) -> Result<(), Error> {
        let samples = self.pass.samples;
        let gpu = self.gpu.slopes(tensor, samples)?;
        let cpu = self.cpu.slopes_mut(tensor, samples).to_vec();
        self.compare(format!("{what} backward"), &gpu, &cpu, true);
        self.cpu.slopes_mut(tensor, samples).copy_from_slice(&gpu);
        Ok(())
    }

    fn forward(&mut self, batch: &Batch) -> Result<(), Error> {
        self.gpu.put(batch, true, Some(&self.drops))?;
        self.cpu.images(batch, true);
        self.values("images", 0)?;
        for (i, op) in self.gpu.graph().ops.clone().into_iter().enumerate() {
            self.gpu.operation(i, self.pass)?;
            self.cpu.operation(i, self.pass.samples, true, Some(&self.drops));
            self.values(&name(i, &op), op.tensors().1)?;
            if let Op::Norm { norm, .. } = op {
                let saved = self.gpu.saved(norm)?;
                let own = self.cpu.saved_mut(norm).to_vec();
                let channels = saved.len() / 4;
                let kinds = ["mean", "1 / deviation", "factor", "shift"];
                let pairs = saved.chunks(channels).zip(own.chunks(channels));
                for ((gpu, cpu), kind) in pairs.zip(kinds) {
                    self.compare(format!("{}: {kind}", name(i, &op)), gpu, cpu, false);
                }
                self.cpu.saved_mut(norm).copy_from_slice(&saved);
            }
        }
        Ok(())
    }

    fn losses(&mut self, batch: &Batch) -> Result<(), Error> {
        let logits = self.gpu.graph().logits();
        let rows = self.gpu.values(logits, self.pass)?;
        let classes = self.gpu.graph().classes;
        for (name, loss) in [
            ("bce", Loss { criterion: Criterion::Bce, smoothing: 0.1, threshold: Some(0.2) }),
            (
                "cross-entropy",
                Loss { criterion: Criterion::CrossEntropy, smoothing: 0.1, threshold: None },
            ),
        ] {
            let (mut row, mut slope) = (vec![0.0_f32; classes], vec![0.0_f32; rows.len()]);
            let value = loss.batch(&rows, &batch.targets(), 0.5, &mut row, &mut slope);
            self.gpu.criterion(batch, &loss, 0.5)?;
            let gpu = self.gpu.slopes(logits, self.pass.samples)?;
            self.compare(format!("{name}: slope"), &gpu, &slope, true);
            #[expect(clippy::cast_possible_truncation, reason = "compared as f32")]
            let (found, wanted) = (self.gpu.losses()? as f32, value as f32);
            self.compare(format!("{name}: value"), &[found], &[wanted], false);
            self.cpu.slopes_mut(logits, self.pass.samples).copy_from_slice(&gpu);
        }
        Ok(())
    }

    fn backward(&mut self) -> Result<(), Error> {
        let graph = self.gpu.graph().clone();
        for (i, op) in graph.ops.iter().enumerate().rev() {
            self.gpu.reverse(i, self.pass)?;
            self.cpu.reverse(i, self.pass.samples, Some(&self.drops));
            let x = op.tensors().0;
            if x > 0 {
                self.slopes(&name(i, op), x)?;
            }
            if let Op::Norm { residual: Some(residual), .. } = op {
                self.slopes(&format!("{} to its residual", name(i, op)), *residual)?;
            }
        }
        self.gpu.add_gradients()?;
        for (i, parameter) in graph.parameters.iter().enumerate() {
            let (gpu, cpu) = (self.gpu.gradient(i)?, self.cpu.gradient(i));
            let stored = parameter.kind == crate::model::Kind::Conv;
            self.compare(format!("gradient of {}", parameter.name), &gpu, &cpu, stored);
        }
        Ok(())
    }
}

fn name(index: usize, op: &Op) -> String {
    let Op::Conv { conv, bias: None, .. } = op else { return format!("{index}: {}", kind(op)) };
    let (from, to) = (conv.input, conv.output);
    format!(
        "{index}: convolution {0}x{0}/{1}, {2} to {3} channels, {4}x{5}",
        conv.kernel, conv.stride, from.channels, to.channels, to.height, to.width
    )
}

/// What one kind of operation takes in a microbatch, forward and backward.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// How many there are.
    pub count: usize,
    /// Seconds of all.
    pub forward: f64,
    /// Seconds of all.
    pub backward: f64,
    /// Bytes that the kernels read and write, as they are written.
    pub bytes: f64,
    /// Multiplications and additions.
    pub operations: f64,
}

/// Times each operation alone, `repeats` times; by kind.
pub fn times(
    gpu: &mut Cuda,
    samples: usize,
    repeats: u32,
) -> Result<BTreeMap<&'static str, Row>, Error> {
    let graph = gpu.graph().clone();
    let pass = Pass { samples, train: true, drops: false };
    gpu.put(&noise(&graph, samples), true, None)?;
    let mut rows: BTreeMap<&'static str, Row> = BTreeMap::new();
    let each = |gpu: &mut Cuda, run: &dyn Fn(&mut Cuda) -> Result<(), Error>| {
        run(gpu)?;
        gpu.wait()?;
        let begin = Instant::now();
        for _ in 0..repeats {
            run(gpu)?;
        }
        gpu.wait()?;
        Ok::<f64, Error>(begin.elapsed().as_secs_f64() / f64::from(repeats))
    };
    let mut forward = Vec::new();
    for op in 0..graph.ops.len() {
        forward.push(each(gpu, &|gpu| Ok(gpu.operation(op, pass)?))?);
    }
    gpu.set_logits_gradient(&vec![1e-3; samples * graph.classes])?;
    for (op, forward) in forward.into_iter().enumerate().rev() {
        let backward = each(gpu, &|gpu| Ok(gpu.reverse(op, pass)?))?;
        let row = rows.entry(kind(&graph.ops[op])).or_default();
        row.count += 1;
        row.forward += forward;
        row.backward += backward;
        let (bytes, operations) = work(&graph, &graph.ops[op], samples);
        row.bytes += bytes;
        row.operations += operations;
    }
    Ok(rows)
}

const fn kind(op: &Op) -> &'static str {
    match op {
        Op::Conv { bias: None, .. } => "convolution",
        Op::Conv { .. } => "classifier",
        Op::Norm { residual: Some(_), .. } => "norm with residual",
        Op::Norm { .. } => "norm",
        Op::MaxPool { .. } => "max pool",
        Op::MeanPool { .. } => "mean pool",
        Op::Shortcut { .. } => "shortcut",
    }
}

/// Bytes and arithmetic of an operation, forward and backward, in bf16.
fn work(graph: &Graph, op: &Op, samples: usize) -> (f64, f64) {
    let bytes = |tensor: Tensor| 2.0 * (graph.tensors[tensor].numbers() * samples) as f64;
    let (x, y) = op.tensors();
    match op {
        Op::Conv { conv, .. } => {
            let products = 2.0 * (conv.weights() * conv.output.pixels() * samples) as f64;
            // Forward, to the weights, and to the source but for the images'.
            let times = if x == 0 { 2.0 } else { 3.0 };
            (times * (bytes(x) + bytes(y) + 2.0 * conv.weights() as f64), times * products)
        }
        // Forward x is read twice and y written. Backward x and dy are read twice and dx written; with a residual it is
        // read forward, and backward y is read and dy written.
        Op::Norm { residual, .. } => (bytes(x) * if residual.is_some() { 11.0 } else { 8.0 }, 0.0),
        // One byte a result tells which it was.
        Op::MaxPool { .. } => (2.0 * (bytes(x) + 1.5 * bytes(y)), 0.0),
        Op::MeanPool { .. } | Op::Shortcut { .. } => (2.0 * (bytes(x) + bytes(y)), 0.0),
    }
}
