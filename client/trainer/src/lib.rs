//! Trains ResNets by the recipes of "ResNet strikes back" (arXiv 2110.00476), on data from forebay servers.
//!
//! ```text
//!   train()      for every step:
//!     batch          next microbatch                     Batch, from a server or a folder
//!     backend        forward, backward    per microbatch  Backend: the CPU, or CUDA
//!     backend        update               per step        Optimizer, Schedule
//!     report         loss, norm, timing                   StepReport, over all ranks of a ProcessGroup
//!     on_step        the caller's: log, evaluation and checkpoint, for the command in command/train.rs
//! ```
//!
//! A network is a [`Graph`]: a list of operations on tensors. A backend plans its memory once, and runs
//! the operations forward and backward. The same microbatches give the same bits, on any number of
//! threads, in any world of ranks on the CPU, and however often training is stopped and resumed.
//!
//! # Example
//!
//! Two steps of a small ResNet on generated images:
//!
//! ```
//! use forebay_trainer::{
//!     Architecture, BackendConfig, Batch, Cursor, Error, Flow, Graph, MicrobatchName, Pixels, Rank,
//!     TrainConfig, TrainDevice, initial_state, train,
//! };
//!
//! let graph = Graph::new(&Architecture::named("resnet20", 10)?, 8, 8);
//! let config = BackendConfig {
//!     train_graph: graph.clone(),
//!     batch: 4,
//!     eval_graph: graph,
//!     eval_batch: 4,
//!     mean: [0.485, 0.456, 0.406],
//!     std: [0.229, 0.224, 0.225],
//! };
//! let mut backend = TrainDevice::Cpu.open(config, Rank::SINGLE)?;
//! let state = initial_state(backend.graph(), 0);
//! backend.load(&state).expect("the state is of this network");
//!
//! // One epoch of two steps of one microbatch.
//! let mut config = TrainConfig::preset("a2", 0.0, 2, 1)?;
//! config.schedule.epochs = 1;
//! let batches = (0..2).map(|step| {
//!     Ok::<_, Error>(Batch {
//!         name: MicrobatchName { seed: 0, epoch: 0, step, index: 0 },
//!         size: (8, 8),
//!         pixels: Pixels::Bytes(vec![128; 4 * 8 * 8 * 3].into()),
//!         label_a: vec![0, 1, 2, 3],
//!         label_b: vec![0, 1, 2, 3],
//!         lambda: vec![1.0; 4],
//!     })
//! });
//! let mut losses = Vec::new();
//! let end = train(&mut *backend, &config, Cursor::default(), batches, |_| false, |_, _, report| {
//!     losses.push(report.loss);
//!     Ok(Flow::Continue(()))
//! })?;
//! assert_eq!((end.epoch, losses.len()), (1, 2));
//! # Ok::<(), Error>(())
//! ```

mod accuracy;
mod backend;
mod batch;
mod checkpoint;
mod command;
mod curves;
mod difference;
mod drop_path;
mod error;
mod events;
mod init;
mod lamb;
mod loss;
mod loss_scaler;
mod memory;
mod model;
mod optimizer;
mod preset;
mod process_group;
mod schedule;
#[cfg(feature = "cuda")]
mod selftest;
mod simd;
mod state;
mod training_loop;

pub use accuracy::{Accuracy, evaluate};
pub use backend::conv_config::{ConvApi, ConvConfig, Norms};
pub use backend::device::{GpuConfig, TrainDevice};
pub use backend::precision::Precision;
pub use backend::{Backend, BackendConfig, MicroStep, UpdateReport};
pub use batch::{Batch, Pixels, Targets};
pub use checkpoint::{
    LoadedCheckpoint, RunMetadata, broadcast_checkpoint, latest_checkpoint, load_checkpoint,
    load_latest_checkpoint, read_model, remove_old_checkpoints, save_checkpoint, write_model,
};
pub use command::main;
pub use drop_path::DropPath;
pub use error::Error;
pub use forebay_types::{Cursor, MicrobatchName, Rank};
pub use init::initial_state;
pub use lamb::Lamb;
pub use loss::{Criterion, Loss};
pub use loss_scaler::LossScaler;
pub use model::{
    Architecture, BatchNorm, Block, Conv, Graph, Op, ParamKind, Parameter, Shape, Stem, TensorId,
};
pub use optimizer::Optimizer;
pub use optimizer::adamw::AdamW;
pub use optimizer::clip::{ClipGrad, ClipMode};
pub use optimizer::sgd::Sgd;
pub use process_group::{Element, ProcessGroup, Rendezvous, StopRequest, Timeouts};
pub use schedule::{Decay, Milestones, Schedule};
pub use simd::Real;
pub use state::{StateDict, Tensor, TrainState};
pub use training_loop::{Flow, StepReport, TrainConfig, train};

#[cfg(feature = "cuda")]
pub use backend::cuda::{BUCKET_LEN, CudaBackend, CudaConfig};

/// Internals that the tests of the workspace compare with other implementations.
#[doc(hidden)]
pub mod testing {
    pub use crate::backend::cpu::stepwise::{Stepwise, stepwise_f32, stepwise_f64};
    #[cfg(feature = "cuda")]
    pub use crate::backend::cuda::PassConfig;
    pub use crate::drop_path::drop_path_rates;
    pub use crate::lamb::ChunkSums;
    pub use crate::optimizer::clip::{clip_outputs, clip_values, norm_factor};
    pub use crate::optimizer::tensor::{OptimizerTensor, UpdateStep};
    #[cfg(feature = "cuda")]
    pub use crate::selftest::compare_operations;
}
