//! Compares a GPU with the CPU: each operation of a network, forward and backward, on the GPU's own inputs,
//! so that an error is attributed to the operation that causes it. `timing` measures the operations' speed.
//!
//! # Tolerances
//!
//! Sums are f32, and may differ by 2^-13 of the largest value of a tensor, because they are added in
//! another order. Values that are stored as bf16 or f16 may in addition differ by one unit in the last place,
//! which is up to 2^-7 or 2^-10 of the value: where the sums differ, rounding can go the other way. In f16 a unit is at
//! least 2^-24.
//!
//! Where a backward adds to a gradient, the GPU may round what it adds to bf16 before it adds and rounds the sum. So
//! the tolerance of a sum `a + b`, of which `a` was there before, has one more term: 2^-7 of `b`, which is `sum - a`,
//! for the rounding of `b`.

mod errors;
mod fused;
mod timing;

pub(crate) use timing::time_operations;

use errors::{FusedErrors, statistic_errors};
use forebay_types::MicrobatchName;
use half::f16;

use crate::Error;
use crate::backend::cpu::CpuBackend;
use crate::backend::cuda::{CudaBackend, CudaConfig, PassConfig, to_bf16};
use crate::backend::precision::Precision;
use crate::backend::{Backend as _, BackendConfig, MicroStep};
use crate::batch::{Batch, Pixels};
use crate::drop_path::DropPath;
use crate::init::initial_state;
use crate::loss::{Criterion, Loss};
use crate::loss_scaler::LossScaler;
use crate::memory::MemoryPlan;
use crate::model::{Graph, Op, ParamKind, TensorId};
use crate::state::TrainState;

/// One comparison of a tensor.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// The operation, or the parameter whose gradient is compared.
    pub name: String,
    /// Largest excess over the tolerance, relative to the largest value of the tensor; at most 0 passes.
    pub excess: f64,
}

/// Upper bound of a unit in the last place of a bf16, relative to the value.
const BF16_ULP: f64 = 1.0 / 128.0;

/// Upper bound of a unit in the last place of a normal f16, relative to the value.
const F16_ULP: f64 = 1.0 / 1024.0;

/// The unit of f16 below its smallest normal value.
const F16_LEAST: f64 = 1.0 / (1 << 24) as f64;

/// Loss scale in f16, for which no gradient of the comparison is too large.
const LOSS_SCALE: f32 = 256.0;

/// Tolerance of sums in f32, relative to the largest value of the tensor.
const SUM_TOLERANCE: f64 = 1.0 / 8192.0;

/// Both backends, which execute the same operation at a time.
struct Pair {
    cpu: CpuBackend<f32>,
    gpu: CudaBackend,
    precision: Precision,
    pass: PassConfig,
    drop_path: DropPath,
    /// For each parameter, the largest sum of the magnitudes of the weights of one output.
    weights: Vec<f64>,
    fused: FusedErrors,
    comparisons: Vec<Comparison>,
}

/// Compares all operations of a graph, on random images.
///
/// # Errors
/// When the GPU fails.
pub fn compare_operations(
    cuda: &CudaConfig,
    graph: &Graph,
    samples: usize,
) -> Result<Vec<Comparison>, Error> {
    let (precision, batch) = (cuda.precision, random_batch(graph, samples));
    let mut drop_path = DropPath::new(0.3, graph.blocks, samples);
    drop_path.draw(1, 2, 3);
    let state = random_weights(graph, precision);
    let mut pair = Pair {
        cpu: CpuBackend::new(backend_config(graph, samples)),
        gpu: CudaBackend::new(cuda.clone(), backend_config(graph, samples))?,
        precision,
        pass: PassConfig { samples, train: true, drop_path: true },
        drop_path,
        weights: largest_sums(graph, &state),
        fused: FusedErrors::default(),
        comparisons: Vec::new(),
    };
    for loaded in [pair.cpu.load(&state), pair.gpu.load(&state)] {
        loaded.expect("the network's own tensors");
    }
    pair.forward(&batch)?;
    pair.losses(&batch)?;
    pair.backward()?;
    Ok(pair.comparisons)
}

/// Whether a microbatch gives the same gradients twice, bit for bit.
///
/// # Errors
/// When the GPU fails.
pub(crate) fn is_deterministic(
    cuda: &CudaConfig,
    graph: &Graph,
    samples: usize,
) -> Result<bool, Error> {
    let batch = random_batch(graph, samples);
    let loss = Loss { criterion: Criterion::Bce, smoothing: 0.1, target_threshold: None };
    let once = || {
        let mut gpu = CudaBackend::new(cuda.clone(), backend_config(graph, samples))?;
        gpu.load(&random_weights(graph, cuda.precision)).expect("the network's own tensors");
        let micro = MicroStep { drop_path: None, loss: &loss, weight: 1.0, last: true };
        gpu.forward(&batch, &micro)?;
        gpu.backward(&batch, &micro)?;
        let gradients = (0..graph.parameters.len()).map(|i| gpu.gradient(i));
        Ok::<_, Error>(gradients.collect::<Result<Vec<_>, _>>()?)
    };
    let bits =
        |all: Vec<Vec<f32>>| -> Vec<u32> { all.into_iter().flatten().map(f32::to_bits).collect() };
    Ok(bits(once()?) == bits(once()?))
}

fn backend_config(graph: &Graph, samples: usize) -> BackendConfig {
    BackendConfig {
        train_graph: graph.clone(),
        batch: samples,
        eval_graph: graph.clone(),
        eval_batch: samples,
        mean: [0.5; 3],
        std: [0.25; 3],
    }
}

/// Weights for which no gradient vanishes, rounded as the GPU's matrix products read them.
fn random_weights(graph: &Graph, precision: Precision) -> TrainState {
    let mut state = initial_state(graph, 5);
    state.loss_scaler = Some(LossScaler { scale: LOSS_SCALE, ..LossScaler::default() });
    for (i, parameter) in graph.parameters.iter().enumerate() {
        let tensor = state.model.get_mut(&parameter.name).expect("its own name");
        for (k, value) in tensor.values.iter_mut().enumerate() {
            *value = match precision {
                _ if !parameter.kind.decays() => *value + 0.25 * random(k, i),
                Precision::Bf16 => f32::from_bits(u32::from(to_bf16(*value)) << 16),
                Precision::F16 => f16::from_f32(*value).to_f32(),
                Precision::F32 => *value,
            };
        }
        if parameter.name.ends_with("weight") && !parameter.kind.decays() {
            tensor.values.iter_mut().for_each(|gamma| *gamma += 0.5);
        }
    }
    state
}

/// For each parameter, the largest sum of the magnitudes of the weights of one output.
fn largest_sums(graph: &Graph, state: &TrainState) -> Vec<f64> {
    let largest = |parameter: &crate::model::Parameter| {
        let values = &state.model[&parameter.name].values;
        let rows = values.chunks(values.len() / parameter.shape[0]);
        let sum = |row: &[f32]| row.iter().map(|weight| f64::from(weight.abs())).sum::<f64>();
        rows.map(sum).fold(0.0, f64::max)
    };
    graph.parameters.iter().map(largest).collect()
}

/// A pseudo-random number in -1..1.
fn random(k: usize, seed: usize) -> f32 {
    let number = (seed as u64) << 32 | (k as u64 + 1);
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    f32::from(u16::try_from(mixed >> 48).expect("16 bits")) / 32768.0 - 1.0
}

fn random_batch(graph: &Graph, samples: usize) -> Batch {
    let (height, width) = graph.image;
    let pixels = (0..samples * height * width * 3).map(|k| random(k, 99)).collect();
    let label = |k: usize| u32::try_from(k % graph.classes).expect("few classes");
    Batch {
        name: MicrobatchName { seed: 0, epoch: 0, step: 0, index: 0 },
        size: graph.image,
        pixels: Pixels::Floats(pixels),
        label_a: (0..samples).map(label).collect(),
        label_b: (0..samples).map(|k| label(k + 1)).collect(),
        lambda: (0..samples).map(|k| 0.5 + 0.5 * random(k, 7)).collect(),
    }
}

impl Pair {
    /// Compares values. Those that are `stored` in bf16 are rounded once more.
    fn compare(&mut self, name: String, gpu: &[f32], cpu: &[f32], stored: bool) {
        self.compare_sums(name, gpu, (cpu, None), stored);
    }

    /// Compares values that were perhaps added to those `before`, which are rounded once more if they are stored in
    /// bf16.
    fn compare_sums(
        &mut self,
        name: String,
        gpu: &[f32],
        expected: (&[f32], Option<&[f32]>),
        stored: bool,
    ) {
        self.compare_within(name, gpu, expected, stored, |_| 0.0);
    }

    /// The same, where each value may differ by `extra` in addition.
    fn compare_within(
        &mut self,
        name: String,
        gpu: &[f32],
        (cpu, before): (&[f32], Option<&[f32]>),
        stored: bool,
        extra: impl Fn(usize) -> f64,
    ) {
        assert_eq!(gpu.len(), cpu.len(), "{name}");
        let max = cpu.iter().fold(f32::MIN_POSITIVE, |max, x| max.max(x.abs()));
        let (rounding, least) = match self.precision {
            Precision::Bf16 if stored => (BF16_ULP, 0.0),
            Precision::F16 if stored => (F16_ULP, F16_LEAST),
            Precision::Bf16 | Precision::F16 | Precision::F32 => (0.0, 0.0),
        };
        let excess = |(at, (gpu, cpu)): (usize, (&f32, &f32))| {
            let (gpu, cpu) = (f64::from(*gpu), f64::from(*cpu));
            let added = before.map_or(0.0, |before| cpu - f64::from(before[at]));
            let rounded = cpu.abs() + added.abs();
            let tolerance = rounding * rounded + SUM_TOLERANCE * f64::from(max) + least + extra(at);
            ((gpu - cpu).abs() - tolerance) / f64::from(max)
        };
        // A NaN exceeds every tolerance.
        let worse = |a: f64, b: f64| if b.is_nan() { f64::INFINITY } else { a.max(b) };
        let excess = gpu.iter().zip(cpu).enumerate().map(excess).fold(f64::NEG_INFINITY, worse);
        self.comparisons.push(Comparison { name, excess });
    }

    /// Compares the values of a tensor, which may differ by `extra`, and copies those of the GPU to the CPU.
    fn compare_values(&mut self, name: &str, tensor: TensorId, extra: f64) -> Result<(), Error> {
        let pass = self.pass;
        let gpu = self.gpu.values(tensor, pass)?;
        let cpu = self.cpu.values_mut(tensor, pass.samples, true).to_vec();
        let stored = tensor != self.gpu.graph().logits();
        self.compare_within(format!("{name} forward"), &gpu, (&cpu, None), stored, |_| extra);
        self.cpu.values_mut(tensor, pass.samples, true).copy_from_slice(&gpu);
        Ok(())
    }

    /// Compares the gradient of a tensor, which was perhaps added to the one `before`, and copies that of the GPU to
    /// the CPU.
    fn compare_gradient(
        &mut self,
        name: &str,
        tensor: TensorId,
        before: Option<&[f32]>,
        extra: impl Fn(usize) -> f64,
    ) -> Result<(), Error> {
        let samples = self.pass.samples;
        let gpu = self.gpu.gradient_of(tensor, samples)?;
        let cpu = self.cpu.gradient_mut(tensor, samples).to_vec();
        self.compare_within(format!("{name} backward"), &gpu, (&cpu, before), true, extra);
        self.cpu.gradient_mut(tensor, samples).copy_from_slice(&gpu);
        Ok(())
    }

    fn forward(&mut self, batch: &Batch) -> Result<(), Error> {
        self.gpu.load_batch(batch, true, Some(&self.drop_path))?;
        self.cpu.load_images(batch, true);
        self.compare_values("images", 0, 0.0)?;
        for (i, op) in self.gpu.graph().ops.clone().into_iter().enumerate() {
            self.gpu.forward_op(i, self.pass)?;
            self.cpu.forward_op(i, self.pass.samples, true, Some(&self.drop_path));
            let (x, y) = op.tensors();
            let is_stored = self.gpu.stores_output(i, self.pass);
            if is_stored {
                let extra = match op {
                    Op::Conv { weight, .. } => self.fused.of_output(x, self.weights[weight]),
                    _ => 0.0,
                };
                self.compare_values(&name(i, &op), y, extra)?;
            }
            if let Op::BatchNorm { norm, .. } = op {
                let errors = if self.gpu.measures_norm(i, self.pass) {
                    statistic_errors(self.cpu.saved_mut(norm), self.precision)
                } else {
                    vec![0.0; self.cpu.saved_mut(norm).len()]
                };
                let saved = self.gpu.saved(norm)?;
                let own = self.cpu.saved_mut(norm).to_vec();
                let channels = saved.len() / 4;
                let kinds = ["mean", "1 / deviation", "factor", "shift"];
                let pairs = saved.chunks(channels).zip(own.chunks(channels));
                for (((gpu, cpu), kind), errors) in pairs.zip(kinds).zip(errors.chunks(channels)) {
                    let name = format!("{}: {kind}", name(i, &op));
                    self.compare_within(name, gpu, (cpu, None), false, |at| errors[at]);
                }
                self.cpu.saved_mut(norm).copy_from_slice(&saved);
                if !is_stored {
                    self.apply_norm(norm, x, y);
                }
            }
        }
        Ok(())
    }

    fn losses(&mut self, batch: &Batch) -> Result<(), Error> {
        let logits = self.gpu.graph().logits();
        let rows = self.gpu.values(logits, self.pass)?;
        let classes = self.gpu.graph().classes;
        for (name, loss) in [
            (
                "bce",
                Loss { criterion: Criterion::Bce, smoothing: 0.1, target_threshold: Some(0.2) },
            ),
            (
                "cross-entropy",
                Loss { criterion: Criterion::CrossEntropy, smoothing: 0.1, target_threshold: None },
            ),
        ] {
            let (mut row, mut gradient) = (vec![0.0_f32; classes], vec![0.0_f32; rows.len()]);
            let value = loss.batch(&rows, &batch.targets(), 0.5, &mut row, &mut gradient);
            if self.precision == Precision::F16 {
                for gradient in &mut gradient {
                    *gradient *= LOSS_SCALE;
                }
            }
            self.gpu.compute_loss(batch, &loss, 0.5)?;
            let gpu = self.gpu.gradient_of(logits, self.pass.samples)?;
            self.compare(format!("{name}: gradient"), &gpu, &gradient, true);
            #[expect(clippy::cast_possible_truncation, reason = "compared as f32")]
            let (found, wanted) = (self.gpu.take_losses()? as f32, value as f32);
            self.compare(format!("{name}: value"), &[found], &[wanted], false);
            self.cpu.gradient_mut(logits, self.pass.samples).copy_from_slice(&gpu);
        }
        Ok(())
    }

    fn backward(&mut self) -> Result<(), Error> {
        let graph = self.gpu.graph().clone();
        let adds = MemoryPlan::training(graph.clone(), self.pass.samples).adds;
        for (i, op) in graph.ops.iter().enumerate().rev() {
            let x = op.tensors().0;
            let before = adds[i].then(|| self.gpu.gradient_of(x, self.pass.samples)).transpose()?;
            self.gpu.backward_op(i, self.pass)?;
            self.cpu.backward_op(i, self.pass.samples, Some(&self.drop_path));
            let extra = match op {
                Op::BatchNorm { norm, .. } if !self.gpu.stores_output(i, self.pass) => {
                    self.input_gradient_errors(&graph, *norm, x)
                }
                _ => vec![0.0],
            };
            if i > 0 && !self.gpu.stores_output(i - 1, self.pass) {
                self.mask_gradient(&graph, [&graph.ops[i - 1], op])?;
            }
            if x > 0 {
                let extra = |at: usize| extra[at % extra.len()];
                self.compare_gradient(&name(i, op), x, before.as_deref(), extra)?;
            }
            if let Op::BatchNorm { residual: Some(residual), .. } = op {
                let name = format!("{} to its residual", name(i, op));
                self.compare_gradient(&name, *residual, None, |_| 0.0)?;
            }
        }
        self.gpu.add_gradients()?;
        for (i, parameter) in graph.parameters.iter().enumerate() {
            let (gpu, cpu) = (self.gpu.gradient(i)?, self.cpu.gradient(i));
            let stored = parameter.kind == ParamKind::Conv;
            let errors = std::mem::take(&mut self.fused);
            let (name, extra) =
                (format!("gradient of {}", parameter.name), |at| errors.of_gradient(i, at));
            self.compare_within(name, &gpu, (&cpu, None), stored, extra);
            self.fused = errors;
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

const fn kind(op: &Op) -> &'static str {
    match op {
        Op::Conv { bias: None, .. } => "convolution",
        Op::Conv { .. } => "classifier",
        Op::BatchNorm { residual: Some(_), .. } => "norm with residual",
        Op::BatchNorm { .. } => "norm",
        Op::MaxPool { .. } => "max pool",
        Op::MeanPool { .. } => "mean pool",
        Op::Shortcut { .. } => "shortcut",
    }
}
