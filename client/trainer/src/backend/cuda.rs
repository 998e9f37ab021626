//! The CUDA backend: convolutions by cuDNN, the classifier by cuBLAS, everything else by the kernels in
//! kernels/*.cu.
//!
//! ```text
//! cuda.rs              what the training loop calls: forward, backward, update
//! uploads.rs           copies microbatches to the GPU, ahead of the work on them
//! input.rs             mixes and normalizes them into the first tensor
//! graphs.rs            CUDA graphs of the passes
//! execute.rs           each operation forward and backward, on ranges of the GPU's memory
//! fusion.rs            which norms are fused into convolutions
//! fused.rs             executes these
//! conv.rs, conv/       convolutions
//! cublas.rs            matrix products of the classifier
//! kernels.rs           compiles kernels/*.cu
//! launch.rs, launch/  grids and arguments of these kernels
//! collectives.rs       exchanges between the ranks, by NCCL
//! communicator.rs      notices that a rank is lost, and ends the exchanges
//! nccl.rs              the functions of NCCL
//! report.rs            downloads losses and gradient norms
//! stem.rs              images with more than three channels
//! state.rs             tensors by timm's names, to the GPU and back
//! transfer.rs          uploads to the GPU
//! measure.rs           what measurements of single operations need
//! memory_map.rs        the layout of the GPU's memory, computed once
//! ```
//!
//! Activations are NHWC in bf16; sums and parameters are f32. A step is a sequence of work on one stream, and the host
//! waits for none of it: the report of a step is read while the next one runs. Copies of microbatches have a stream of
//! their own, and so have the exchanges with other ranks.

mod collectives;
mod communicator;
mod config;
mod conv;
mod cublas;
mod execute;
mod fused;
mod fusion;
mod graphs;
mod input;
mod kernels;
mod launch;
mod measure;
mod memory_map;
mod nccl;
mod report;
mod scalars;
mod state;
mod stem;
mod transfer;
mod uploads;

pub(crate) use config::LIBRARIES;
pub use config::{BUCKET_LEN, CudaConfig, PassConfig};
pub(crate) use state::to_bf16;

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use collectives::Collectives;
use conv::{ConvCase, Convolutions};
use cublas::Cublas;
use forebay::gpu::{DeviceError, Kernel, Lane, Pinned};
use forebay::mix::MIX_KERNELS;
use fusion::Fusions;
use graphs::{Execution, Graphs, Pass};
use kernels::Kernels;
use launch::Launcher;
use memory_map::{InputMap, MemoryMap};
use report::{PendingLosses, PendingReport, PinnedPool};
use scalars::StepScalars;
use uploads::Uploads;

use super::conv_config::{ConvApi, Norms};
use super::precision::Precision;
use super::{Backend, BackendConfig, MicroStep, UpdateReport, normalization_table};
use crate::Error;
use crate::batch::Batch;
use crate::loss::{Criterion, Loss};
use crate::memory::MemoryPlan;
use crate::model::Graph;
use crate::optimizer::clip::ClipGrad;
use crate::optimizer::{Optimizer, StateKind};
use crate::process_group::ProcessGroup;
use crate::state::TrainState;

/// Maximum number of unreported steps when the next one starts.
const MAX_PENDING: usize = 1;

/// A network on a GPU.
#[derive(Debug)]
pub struct CudaBackend {
    /// Dropped first: if a rank was lost, everything that waits for the GPU waits until this has aborted.
    collectives: Option<Collectives>,
    config: CudaConfig,
    /// Forward and backward.
    training: MemoryPlan,
    /// Forward only, perhaps for images of another size.
    inference: MemoryPlan,
    memory: MemoryMap,
    kernels: Kernels,
    mix_kernel: Kernel,
    group: ProcessGroup,
    /// Buckets of gradients, with the operation whose backward completes each.
    buckets: Vec<(usize, Range<usize>)>,
    has_ema: bool,
    /// What is in the ranges of the first and second moments.
    state_kind: StateKind,
    updates: u64,
    batches_tracked: u64,
    /// Losses of the microbatches of the step in progress.
    losses: Vec<PendingLosses>,
    pending_reports: VecDeque<PendingReport>,
    pinned_pool: PinnedPool,
    logits_buffer: Pinned,
    logits: Vec<f32>,
    // Dropped in this order, because these use the memory of the lane.
    graphs: Graphs,
    uploads: Uploads,
    convolutions: Convolutions,
    fusions: Fusions,
    cublas: Cublas,
    lane: Rc<Lane>,
}

impl CudaBackend {
    /// Allocates the memory of the networks. Parameters are zero until [`Backend::load`]. The backend
    /// must be used on the thread that created it.
    ///
    /// # Errors
    /// When the GPU does not have enough memory, or a library is missing.
    pub fn new(cuda: CudaConfig, config: BackendConfig) -> Result<Self, Error> {
        check_norms(&cuda)?;
        let BackendConfig { train_graph, batch, eval_graph, eval_batch, mean, std } = config;
        let training = MemoryPlan::training(stem::widen_images(train_graph), batch);
        let inference = MemoryPlan::inference(stem::widen_images(eval_graph), eval_batch);
        let device = &cuda.device;
        device.require(&LIBRARIES)?;
        let kernels = Kernels::compile(device, cuda.precision)?;
        let [mix_kernel] = device.compile("mix.cu", MIX_KERNELS, ["mix_u8_nhwc"])?;
        let mut convolutions = Convolutions::open(device, cuda.precision, cuda.conv.clone())?;
        let fusions =
            Fusions::plan((cuda.conv.norms, cuda.precision), &training, &mut convolutions);
        let mut cublas = Cublas::open(device, cuda.precision)?;
        let cases = [ConvCase::all(&training, true), ConvCase::all(&inference, false)].concat();
        let workspace = convolutions.plan(&cases)?;
        let plans = [&training, &inference];
        let input = InputMap::new(plans);
        let memory = MemoryMap::new(plans, cuda.precision, &input, workspace, cuda.rank);
        let lane = Rc::new(device.lane(0, memory.bytes)?);
        let workspace = memory.workspace.clone();
        convolutions.attach(&lane, (lane.address(workspace.clone()), workspace.len()))?;
        cublas.attach(&lane, memory.cublas_workspace.clone())?;
        let logits = memory.logits.len();
        let mut backend = Self {
            buckets: memory.buckets(&training.graph, cuda.bucket_len),
            group: ProcessGroup::single(),
            has_ema: false,
            state_kind: StateKind::Empty,
            updates: 0,
            batches_tracked: 0,
            losses: Vec::new(),
            pending_reports: VecDeque::new(),
            pinned_pool: PinnedPool::new(device.clone(), batch),
            logits_buffer: device.pinned(logits)?,
            logits: Vec::with_capacity(logits / 4),
            graphs: Graphs::new(cuda.graphs),
            uploads: Uploads::new(device, input)?,
            collectives: None,
            config: cuda,
            training,
            inference,
            memory,
            kernels,
            mix_kernel,
            convolutions,
            fusions,
            cublas,
            lane,
        };
        backend.initialize(mean, std)?;
        Ok(backend)
    }

    /// Clears the ranges that kernels add to, and uploads the tables that never change.
    fn initialize(&mut self, mean: [f64; 3], std: [f64; 3]) -> Result<(), DeviceError> {
        let m = &self.memory;
        for range in [
            &m.gradients,
            &m.exp_avg,
            &m.exp_avg_sq,
            &m.parameters,
            &m.ema,
            &m.filter_gradients,
            &m.running,
            &m.ema_running,
            &m.statistics,
            &m.outcome,
        ] {
            self.launcher().clear(range)?;
        }
        let table = (0..3).flat_map(|c| normalization_table(mean[c], std[c]));
        let table: Vec<u8> = table.flat_map(f32::to_le_bytes).collect();
        let [chunks, tensors, outputs] = m.optimizer_tables(&self.training.graph);
        for (range, bytes) in [
            (&m.normalization, table),
            (&m.chunks, chunks),
            (&m.tensors, tensors),
            (&m.outputs, outputs),
        ] {
            transfer::upload(&self.config.device, &self.lane, range.start, &bytes)?;
        }
        self.load_scaler(None)
    }

    /// Drops the state of another optimizer.
    fn begin_state(&mut self, kind: StateKind) -> Result<(), DeviceError> {
        if self.state_kind != kind {
            let m = &self.memory;
            [&m.exp_avg, &m.exp_avg_sq].into_iter().try_for_each(|r| self.launcher().clear(r))?;
            self.state_kind = kind;
        }
        Ok(())
    }

    /// Waits until the GPU has finished all work.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn wait(&self) -> Result<(), Error> {
        let waited = self.lane.wait();
        self.check_ranks()?;
        Ok(waited?)
    }

    /// Returns an error if another rank was lost. To be called after each wait for work that may include an exchange: such a wait
    /// ends then, with or without an error that says nothing of the cause.
    fn check_ranks(&self) -> Result<(), DeviceError> {
        self.collectives.as_ref().map_or(Ok(()), Collectives::check)
    }

    fn launcher(&self) -> Launcher<'_> {
        Launcher {
            lane: &self.lane,
            kernels: &self.kernels,
            mix_kernel: &self.mix_kernel,
            memory: &self.memory,
        }
    }

    const fn plan(&self, train: bool) -> &MemoryPlan {
        if train { &self.training } else { &self.inference }
    }

    /// Computes the losses of the samples, and their gradient times `weight`, from the logits.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn compute_loss(&mut self, batch: &Batch, loss: &Loss, weight: f64) -> Result<(), Error> {
        let terms = self.loss_terms(batch.samples(), loss);
        self.launcher().set_loss_scale(weight / terms)?;
        self.loss_op(batch.samples(), loss)?;
        self.download_losses(batch.samples(), terms)
    }

    /// Divisor of the sum of the losses over samples and, for mean BCE, over classes.
    fn loss_terms(&self, samples: usize, loss: &Loss) -> f64 {
        let classes = self.training.graph.classes as f64;
        samples as f64 * if loss.criterion == Criterion::Bce { classes } else { 1.0 }
    }

    fn loss_op(&self, samples: usize, loss: &Loss) -> Result<(), DeviceError> {
        let gradient = self.gradient_address(self.training.graph.logits());
        self.launcher().loss(self.uploads.map(), loss, gradient, samples)
    }

    fn download_losses(&mut self, samples: usize, terms: f64) -> Result<(), Error> {
        let mut bytes = self.pinned_pool.take()?;
        self.lane.download(self.memory.losses.start, &mut bytes, 0..samples * 4)?;
        self.losses.push(PendingLosses { bytes, samples, terms });
        Ok(())
    }

    /// Number of page-locked buffers allocated so far. It does not grow in steady training.
    #[doc(hidden)]
    pub fn pinned_buffers(&self) -> usize {
        self.pinned_pool.allocated() + self.uploads.buffers()
    }

    /// Number of graphs captured so far.
    #[doc(hidden)]
    pub fn captured_graphs(&self) -> usize {
        self.graphs.captured()
    }

    /// Executes a pass: by its graph, if it has one. With several ranks, launch by launch, because NCCL is not captured.
    fn execute(
        &mut self,
        pass: Pass,
        enqueue: impl Fn(&mut Self) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        if self.collectives.is_some() {
            return enqueue(self);
        }
        match self.graphs.execution(pass) {
            Execution::Eager => return enqueue(self),
            Execution::Launch(graph) => return self.lane.launch_graph(graph),
            Execution::Capture => {}
        }
        let lane = Rc::clone(&self.lane);
        match lane.capture(|| enqueue(self)) {
            Ok(graph) => self.lane.launch_graph(self.graphs.insert(pass, graph)),
            Err(error) => {
                tracing::warn!("{error}; training goes on without CUDA graphs, launch by launch");
                self.graphs.disable();
                enqueue(self)
            }
        }
    }

    /// Each convolution with its plan.
    #[doc(hidden)]
    pub fn convolution_plans(&self) -> Vec<String> {
        self.convolutions.describe()
    }

    /// Updates the running statistics by those of the last microbatch of each rank, in their order.
    pub(crate) fn update_running_statistics(&self) -> Result<(), DeviceError> {
        if let Some(collectives) = &self.collectives {
            collectives.all_gather_statistics(&self.lane, &self.memory)?;
        }
        (0..self.world()).try_for_each(|rank| self.launcher().norm_update_running(rank))
    }

    fn world(&self) -> usize {
        self.collectives.as_ref().map_or(1, Collectives::world)
    }

    /// Exchanges the buckets of gradients that the backward of operation `op` has completed.
    fn exchange_buckets(&self, op: usize) -> Result<(), DeviceError> {
        let Some(collectives) = &self.collectives else { return Ok(()) };
        for (_, range) in self.buckets.iter().filter(|(completed_by, _)| *completed_by == op) {
            self.launcher().add_gradients(range)?;
            collectives.all_reduce_gradients(&self.lane, &self.memory, range)?;
        }
        Ok(())
    }

    /// Waits for the losses of the step in progress. Returns their sum and discards them.
    ///
    /// # Errors
    /// When the GPU fails.
    #[doc(hidden)]
    pub fn take_losses(&mut self) -> Result<f64, Error> {
        let mut losses = std::mem::take(&mut self.losses);
        let sum = losses.iter_mut().map(|losses| Ok(losses.wait()?)).sum();
        self.check_ranks()?;
        sum
    }
}

/// Fused norms need half precision and the graph API.
fn check_norms(cuda: &CudaConfig) -> Result<(), Error> {
    let problem = match (cuda.conv.norms, cuda.precision, cuda.conv.api) {
        (Norms::Separate, ..) => return Ok(()),
        (_, Precision::F32, _) => "fused needs --precision f16 or bf16",
        (.., ConvApi::Legacy) => "fused needs cuDNN's graph API: --conv-api auto or graph",
        _ => return Ok(()),
    };
    Err(Error::Setting { setting: "--norms", problem: problem.to_owned() })
}

impl Backend for CudaBackend {
    fn graph(&self) -> &Graph {
        &self.training.graph
    }

    fn group(&mut self) -> &mut ProcessGroup {
        &mut self.group
    }

    fn join(&mut self, mut group: ProcessGroup) -> Result<(), Error> {
        assert_eq!(group.rank(), self.config.rank, "memory is planned for this rank");
        self.collectives = Collectives::connect(&self.config.device, &mut group)?;
        self.group = group;
        Ok(())
    }

    fn forward(&mut self, batch: &Batch, micro: &MicroStep<'_>) -> Result<(), Error> {
        batch.check(&self.training.graph, self.training.batch)?;
        self.load_batch(batch, true, micro.drop_path)?;
        let pass = PassConfig::training(batch, micro);
        let PassConfig { samples, drop_path, .. } = pass;
        self.execute(Pass::Forward { samples, drop_path }, |backend| {
            backend.forward_ops(pass)?;
            backend.update_running_statistics()
        })?;
        self.batches_tracked += self.world() as u64;
        Ok(())
    }

    fn backward(&mut self, batch: &Batch, micro: &MicroStep<'_>) -> Result<(), Error> {
        let (pass, loss) = (PassConfig::training(batch, micro), *micro.loss);
        let PassConfig { samples, drop_path, .. } = pass;
        let terms = self.loss_terms(samples, &loss);
        self.launcher().set_loss_scale(micro.weight / terms)?;
        self.execute(Pass::Backward { samples, drop_path, loss }, |backend| {
            backend.loss_op(samples, &loss)?;
            backend.backward_ops(pass, micro.last)
        })?;
        self.download_losses(samples, terms)
    }

    fn update(
        &mut self,
        optimizer: &Optimizer,
        clip_grad: Option<ClipGrad>,
        lr: f64,
        model_ema_decay: Option<f64>,
    ) -> Result<(), Error> {
        self.updates += 1;
        self.begin_state(optimizer.state_kind())?;
        if model_ema_decay.is_some() && !self.has_ema {
            // The average starts at the model as it was before its first update.
            self.has_ema = true;
            let step = StepScalars { lr, update: self.updates, ema_decay: 0.0 };
            self.launcher().set_step(optimizer, step)?;
            self.launcher().update_ema()?;
        }
        let ema_decay = model_ema_decay.unwrap_or(0.0);
        let step = StepScalars { lr, update: self.updates, ema_decay };
        self.launcher().set_step(optimizer, step)?;
        let ema = model_ema_decay.is_some();
        self.execute(Pass::Update { optimizer: *optimizer, clip_grad, ema }, |backend| {
            backend.launcher().update(optimizer, clip_grad)?;
            if ema { backend.launcher().update_ema() } else { Ok(()) }
        })?;
        let mut outcome = self.pinned_pool.take()?;
        self.lane.download(
            self.memory.outcome.start,
            &mut outcome,
            0..self.memory.outcome.len(),
        )?;
        let losses = std::mem::take(&mut self.losses);
        let is_scaled = self.config.precision == Precision::F16;
        self.pending_reports.push_back(PendingReport { losses, outcome, is_scaled });
        Ok(())
    }

    fn poll_report(&mut self, flush: bool) -> Result<Option<UpdateReport>, Error> {
        let max_pending = if flush { 0 } else { MAX_PENDING };
        if self.pending_reports.len() <= max_pending {
            return Ok(None);
        }
        let Some(pending) = self.pending_reports.pop_front() else { return Ok(None) };
        let report = pending.wait(&mut self.pinned_pool);
        self.check_ranks()?;
        Ok(Some(report?))
    }

    fn logits(&mut self, batch: &Batch) -> Result<&[f32], Error> {
        batch.check(&self.inference.graph, self.inference.batch)?;
        self.load_batch(batch, false, None)?;
        let samples = batch.samples();
        let pass = PassConfig { samples, train: false, drop_path: false };
        self.forward_ops(pass)?;
        let downloaded = self.download_logits(samples);
        self.check_ranks()?;
        downloaded?;
        Ok(&self.logits)
    }

    fn swap_ema(&mut self) -> Result<(), Error> {
        if self.has_ema {
            self.launcher().swap_ema()?;
        }
        Ok(())
    }

    fn state(&self) -> Result<TrainState, Error> {
        let state = self.to_state();
        self.check_ranks()?;
        Ok(state?)
    }

    fn load(&mut self, state: &TrainState) -> Result<(), String> {
        self.load_state(state)
    }
}
