//! Settings of the CUDA backend.

use forebay::gpu::{Gpu, Library};
use forebay_types::Rank;

use crate::backend::MicroStep;
use crate::backend::conv_config::ConvConfig;
use crate::backend::precision::Precision;
use crate::batch::Batch;

/// The libraries of CUDA that training on one GPU needs. Several need NCCL as well.
pub(crate) const LIBRARIES: [Library; 5] =
    [Library::Driver, Library::Nvrtc, Library::CublasLt, Library::Cublas, Library::Cudnn];

/// Settings of a network on a GPU.
#[derive(Clone, Debug)]
pub struct CudaConfig {
    /// The GPU.
    pub device: Gpu,
    /// The precision in which activations are stored.
    pub precision: Precision,
    /// The rank for which memory is planned.
    pub rank: Rank,
    /// Whether to capture the launches of a step in CUDA graphs.
    pub graphs: bool,
    /// Gradients per exchange with the other ranks, in values.
    pub bucket_len: usize,
    /// How convolutions are computed.
    pub conv: ConvConfig,
}

impl CudaConfig {
    /// A single rank, with the usual settings.
    pub fn new(device: Gpu, precision: Precision) -> Self {
        let (rank, bucket_len, conv) = (Rank::SINGLE, BUCKET_LEN, ConvConfig::default());
        Self { device, precision, rank, graphs: true, bucket_len, conv }
    }
}

/// Buckets of 16 MiB: large enough for the full bandwidth of `NVLink`, small enough that the exchange
/// starts early in the backward pass.
pub const BUCKET_LEN: usize = 4 << 20;

/// Settings of a pass over the graph.
#[derive(Clone, Copy, Debug)]
pub struct PassConfig {
    /// Samples of the microbatch.
    pub samples: usize,
    /// Whether to use batch statistics and the training graph, or running statistics and the graph of
    /// inference.
    pub train: bool,
    /// Whether to apply the uploaded stochastic-depth mask.
    pub drop_path: bool,
}

impl PassConfig {
    pub(super) const fn training(batch: &Batch, micro: &MicroStep<'_>) -> Self {
        Self { samples: batch.samples(), train: true, drop_path: micro.drop_path.is_some() }
    }
}
