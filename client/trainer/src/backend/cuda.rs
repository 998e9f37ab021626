//! The CUDA backend: convolutions by cuDNN, the classifier by cuBLAS, everything else by the kernels in
//! kernels/*.cu.
//!
//! ```text
//! cuda.rs              what the training loop calls: forward, backward, update
//! input.rs             uploads a microbatch
//! execute.rs           each operation forward and backward, on ranges of the GPU's memory
//! cudnn.rs             convolutions
//! cublas.rs            matrix products of the classifier
//! kernels.rs           compiles kernels/*.cu
//! launch.rs, launch/  grids and arguments of these kernels
//! collectives.rs       exchanges between the ranks, by NCCL
//! report.rs            downloads losses and gradient norms
//! state.rs             tensors by timm's names, to the GPU and back
//! transfer.rs          uploads to the GPU
//! memory_map.rs        the layout of the GPU's memory, computed once
//! ```
//!
//! Activations are NHWC in bf16; sums and parameters are f32. A step is a sequence of work on one stream,
//! and nothing in it waits for the GPU. The report of a step is read while the next one runs.

mod collectives;
mod config;
mod cublas;
mod cudnn;
mod execute;
mod input;
mod kernels;
mod launch;
mod memory_map;
mod report;
mod state;
mod transfer;

pub use config::{BUCKET_LEN, CudaConfig, PassConfig, Precision};
pub(crate) use state::to_bf16;

use std::collections::VecDeque;
use std::ops::Range;

use collectives::Collectives;
use cublas::Cublas;
use cudnn::{ConvKey, Cudnn};
use forebay::gpu::{DeviceError, Kernel, Lane, Pinned};
use forebay::mix::MIX_KERNELS;
use kernels::Kernels;
use launch::Launcher;
use memory_map::{InputMap, MemoryMap};
use report::{PendingLosses, PendingReport, PinnedPool};

use super::{Backend, BackendConfig, MicroStep, UpdateReport, normalization_table};
use crate::Error;
use crate::batch::Batch;
use crate::lamb::Lamb;
use crate::loss::{Criterion, Loss};
use crate::memory::MemoryPlan;
use crate::model::{Conv, Graph, Op};
use crate::process_group::ProcessGroup;
use crate::state::TrainState;

/// Maximum number of unreported steps when the next one starts.
const MAX_PENDING: usize = 1;

/// A network on a GPU.
#[derive(Debug)]
pub struct CudaBackend {
    config: CudaConfig,
    /// Forward and backward.
    training: MemoryPlan,
    /// Forward only, perhaps for images of another size.
    inference: MemoryPlan,
    memory: MemoryMap,
    input: InputMap,
    kernels: Kernels,
    mix_kernel: Kernel,
    group: ProcessGroup,
    /// Buckets of gradients, with the operation whose backward completes each.
    buckets: Vec<(usize, Range<usize>)>,
    has_ema: bool,
    updates: u64,
    batches_tracked: u64,
    /// Upload buffers. They alternate, so that one is filled while the other is copied.
    staging: [Pinned; 2],
    /// Number of uploads so far.
    uploads: usize,
    /// Losses of the microbatches of the step in progress.
    losses: Vec<PendingLosses>,
    pending_reports: VecDeque<PendingReport>,
    pinned_pool: PinnedPool,
    logits_buffer: Pinned,
    logits: Vec<f32>,
    // Dropped in this order, because these use the memory of the lane.
    collectives: Option<Collectives>,
    cudnn: Cudnn,
    cublas: Cublas,
    lane: Lane,
}

impl CudaBackend {
    /// Allocates the memory of the networks. Parameters are zero until [`Backend::load`]. The backend
    /// must be used on the thread that created it.
    ///
    /// # Errors
    /// When the GPU does not have enough memory, or a library is missing.
    pub fn new(cuda: CudaConfig, config: BackendConfig) -> Result<Self, Error> {
        let BackendConfig { train_graph, batch, eval_graph, eval_batch, mean, std } = config;
        let training = MemoryPlan::training(train_graph, batch);
        let inference = MemoryPlan::inference(eval_graph, eval_batch);
        let device = &cuda.device;
        let kernels = Kernels::compile(device, cuda.precision)?;
        let [mix_kernel] = device.compile("mix.cu", MIX_KERNELS, ["mix_u8_nhwc"])?;
        let mut cudnn = Cudnn::open(device, cuda.precision)?;
        let mut cublas = Cublas::open(device, cuda.precision)?;
        let mut workspace = 0;
        for (plan, train) in [(&training, true), (&inference, false)] {
            for (op, conv) in cudnn_convolutions(&plan.graph) {
                let key = ConvKey { op, train, images: plan.batch };
                workspace = workspace.max(cudnn.prepare(key, conv)?);
            }
        }
        let plans = [&training, &inference];
        let input = InputMap::new(plans);
        let memory = MemoryMap::new(plans, cuda.precision, &input, workspace, cuda.rank);
        let lane = device.lane(0, memory.bytes)?;
        let workspace = memory.workspace.clone();
        cudnn.attach(&lane, (lane.address(workspace.clone()), workspace.len()))?;
        cublas.attach(&lane)?;
        let logits = memory.logits.len();
        let mut backend = Self {
            buckets: memory.buckets(&training.graph, cuda.bucket_len),
            group: ProcessGroup::single(),
            has_ema: false,
            updates: 0,
            batches_tracked: 0,
            staging: [device.pinned(input.bytes)?, device.pinned(input.bytes)?],
            uploads: 0,
            losses: Vec::new(),
            pending_reports: VecDeque::new(),
            pinned_pool: PinnedPool::new(device.clone(), batch),
            logits_buffer: device.pinned(logits)?,
            logits: Vec::with_capacity(logits / 4),
            collectives: None,
            config: cuda,
            training,
            inference,
            memory,
            input,
            kernels,
            mix_kernel,
            cudnn,
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
        ] {
            self.launcher().clear(range)?;
        }
        let table = (0..3).flat_map(|c| normalization_table(mean[c], std[c]));
        let table: Vec<u8> = table.flat_map(f32::to_le_bytes).collect();
        let (chunks, tensors) = m.optimizer_tables(&self.training.graph);
        for (range, bytes) in
            [(&m.normalization, table), (&m.chunks, chunks), (&m.tensors, tensors)]
        {
            transfer::upload(&self.config.device, &self.lane, range.start, &bytes)?;
        }
        Ok(())
    }

    /// Waits until the GPU has finished all work.
    ///
    /// # Errors
    /// When the GPU fails.
    pub fn wait(&self) -> Result<(), Error> {
        Ok(self.lane.wait()?)
    }

    const fn launcher(&self) -> Launcher<'_> {
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
        let (samples, classes) = (batch.samples(), self.training.graph.classes);
        // Divisor of the sum over samples and, for mean BCE, over classes.
        let terms =
            samples as f64 * if loss.criterion == Criterion::Bce { classes as f64 } else { 1.0 };
        let gradient = self.gradient_address(self.training.graph.logits());
        self.launcher().loss(&self.input, loss, gradient, samples, weight / terms)?;
        let mut bytes = self.pinned_pool.take()?;
        self.lane.download(self.memory.losses.start, &mut bytes, 0..samples * 4)?;
        self.losses.push(PendingLosses { bytes, samples, terms });
        Ok(())
    }

    /// Number of page-locked buffers allocated so far. It does not grow in steady training.
    #[doc(hidden)]
    pub const fn pinned_buffers(&self) -> usize {
        self.pinned_pool.allocated()
    }

    /// Updates the running statistics by those of the last microbatch of each rank, in their order.
    pub(crate) fn update_running_statistics(&mut self) -> Result<(), DeviceError> {
        let world = self.collectives.as_ref().map_or(1, Collectives::world);
        if let Some(collectives) = &self.collectives {
            collectives.all_gather_statistics(&self.lane, &self.memory)?;
        }
        for rank in 0..world {
            self.launcher().norm_update_running(rank)?;
            self.batches_tracked += 1;
        }
        Ok(())
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
        let losses = std::mem::take(&mut self.losses);
        losses.iter().map(|losses| Ok(losses.wait()?)).sum()
    }
}

/// The convolutions that cuDNN computes: those without a bias, which only the classifier has.
fn cudnn_convolutions(graph: &Graph) -> impl Iterator<Item = (usize, &Conv)> {
    graph.ops.iter().enumerate().filter_map(|(i, op)| match op {
        Op::Conv { conv, bias: None, .. } => Some((i, conv)),
        _ => None,
    })
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
        self.forward_ops(PassConfig::training(batch, micro))?;
        self.update_running_statistics()?;
        Ok(())
    }

    fn backward(&mut self, batch: &Batch, micro: &MicroStep<'_>) -> Result<(), Error> {
        self.compute_loss(batch, micro.loss, micro.weight)?;
        let pass = PassConfig::training(batch, micro);
        let exchanges = micro.last && self.collectives.is_some();
        for op in (0..self.training.graph.ops.len()).rev() {
            self.backward_op(op, pass)?;
            if exchanges {
                self.exchange_buckets(op)?;
            }
        }
        match &self.collectives {
            Some(collectives) if exchanges => collectives.wait_before(&self.lane)?,
            _ => self.add_gradients()?,
        }
        Ok(())
    }

    fn update(
        &mut self,
        optimizer: &Lamb,
        lr: f64,
        model_ema_decay: Option<f64>,
    ) -> Result<(), Error> {
        self.updates += 1;
        if model_ema_decay.is_some() && !self.has_ema {
            // The average starts at the model as it was before its first update.
            self.has_ema = true;
            self.launcher().update_ema(0.0)?;
        }
        self.launcher().lamb(optimizer, self.updates, lr)?;
        if let Some(decay) = model_ema_decay {
            self.launcher().update_ema(decay)?;
        }
        let mut grad_norm = self.pinned_pool.take()?;
        self.lane.download(self.memory.grad_norm.start, &mut grad_norm, 0..8)?;
        let losses = std::mem::take(&mut self.losses);
        self.pending_reports.push_back(PendingReport { losses, grad_norm });
        Ok(())
    }

    fn poll_report(&mut self, flush: bool) -> Result<Option<UpdateReport>, Error> {
        let max_pending = if flush { 0 } else { MAX_PENDING };
        if self.pending_reports.len() <= max_pending {
            return Ok(None);
        }
        let Some(pending) = self.pending_reports.pop_front() else { return Ok(None) };
        Ok(Some(pending.wait(&mut self.pinned_pool)?))
    }

    fn logits(&mut self, batch: &Batch) -> Result<&[f32], Error> {
        batch.check(&self.inference.graph, self.inference.batch)?;
        self.load_batch(batch, false, None)?;
        let samples = batch.samples();
        self.forward_ops(PassConfig { samples, train: false, drop_path: false })?;
        self.download_logits(samples)?;
        Ok(&self.logits)
    }

    fn swap_ema(&mut self) -> Result<(), Error> {
        if self.has_ema {
            self.launcher().swap_ema()?;
        }
        Ok(())
    }

    fn state(&self) -> Result<TrainState, Error> {
        Ok(self.to_state()?)
    }

    fn load(&mut self, state: &TrainState) -> Result<(), String> {
        self.load_state(state)
    }
}
