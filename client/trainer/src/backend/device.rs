//! Selects and opens the device that trains.

use std::fmt;
use std::str::FromStr;

use forebay_types::Rank;

use super::conv_config::ConvConfig;
use super::cpu::CpuBackend;
use super::precision::Precision;
use super::{Backend, BackendConfig};
use crate::Error;

/// How a GPU trains.
#[derive(Clone, Debug)]
pub struct GpuConfig {
    /// The precision of activations.
    pub precision: Precision,
    /// Whether to capture the launches of a step in CUDA graphs.
    pub graphs: bool,
    /// How convolutions are computed.
    pub conv: ConvConfig,
}

impl Default for GpuConfig {
    fn default() -> Self {
        Self { precision: Precision::default(), graphs: true, conv: ConvConfig::default() }
    }
}

/// The device that trains: `cpu`, `cuda` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainDevice {
    /// The processor, in f32.
    Cpu,
    /// A GPU, in bf16 unless [`GpuConfig`] says otherwise. `None` is the GPU whose number is the local rank of the process.
    Cuda(Option<u32>),
}

impl TrainDevice {
    /// Replaces `cuda` by the GPU of a local rank, the number of the process on its machine.
    #[must_use]
    pub fn with_local_rank(self, local_rank: u32) -> Self {
        match self {
            Self::Cuda(None) => Self::Cuda(Some(local_rank)),
            device => device,
        }
    }

    /// Checks that the device exists, and that the libraries are there which training on it needs.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn check(self) -> Result<(), Error> {
        match self {
            Self::Cpu => Ok(()),
            Self::Cuda(device) => check_cuda(device.unwrap_or(0)),
        }
    }

    /// Opens a backend for a rank, which must then [`Backend::join`] its world.
    ///
    /// # Errors
    /// [`Error::Setting`] if this build does not support the device, and the error of the device if it does
    /// not exist or fails.
    pub fn open(self, config: BackendConfig, rank: Rank) -> Result<Box<dyn Backend>, Error> {
        self.open_with(config, rank, GpuConfig::default())
    }

    /// As [`Self::open`], with settings that only a GPU has.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        self,
        config: BackendConfig,
        rank: Rank,
        gpu: GpuConfig,
    ) -> Result<Box<dyn Backend>, Error> {
        match self {
            Self::Cpu => Ok(Box::new(CpuBackend::<f32>::new(config))),
            Self::Cuda(device) => open_cuda(device.unwrap_or(0), config, rank, gpu),
        }
    }
}

/// Opens a GPU, or returns one error about all libraries that are missing.
#[cfg(feature = "cuda")]
pub(crate) fn open_gpu(device: u32) -> Result<forebay::gpu::Gpu, forebay::gpu::DeviceError> {
    forebay::gpu::libraries::require(device, &super::cuda::LIBRARIES)?;
    forebay::gpu::Gpu::open(device)
}

#[cfg(feature = "cuda")]
fn check_cuda(device: u32) -> Result<(), Error> {
    Ok(open_gpu(device).map(drop)?)
}

#[cfg(not(feature = "cuda"))]
fn check_cuda(device: u32) -> Result<(), Error> {
    Err(not_built(device))
}

#[cfg(feature = "cuda")]
fn open_cuda(
    device: u32,
    config: BackendConfig,
    rank: Rank,
    gpu: GpuConfig,
) -> Result<Box<dyn Backend>, Error> {
    use super::cuda::{CudaBackend, CudaConfig};
    let device = open_gpu(device)?;
    let name = format!("{device:?}, {}", device.name()?);
    let GpuConfig { precision, graphs, conv } = gpu;
    let cuda = CudaConfig { rank, graphs, conv, ..CudaConfig::new(device, precision) };
    let backend = CudaBackend::new(cuda, config)?;
    tracing::info!(libraries = %forebay::gpu::libraries::describe(), "training on {name}");
    Ok(Box::new(backend))
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(
    device: u32,
    _config: BackendConfig,
    _rank: Rank,
    _gpu: GpuConfig,
) -> Result<Box<dyn Backend>, Error> {
    Err(not_built(device))
}

#[cfg(not(feature = "cuda"))]
fn not_built(device: u32) -> Error {
    Error::Setting {
        setting: "--device",
        problem: format!(
            "cuda:{device}: this forebay-trainer was built without CUDA: build it with `--features cuda`, or use \
             --device cpu"
        ),
    }
}

impl FromStr for TrainDevice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |n: &str| n.parse().map(|n| Self::Cuda(Some(n)));
        match (text, text.strip_prefix("cuda:").map(number)) {
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(None)),
            (_, Some(Ok(device))) => Ok(device),
            _ => Err(format!("unknown device {text:?}: expected cpu, cuda or cuda:N")),
        }
    }
}

impl fmt::Display for TrainDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(None) => write!(f, "cuda"),
            Self::Cuda(Some(device)) => write!(f, "cuda:{device}"),
        }
    }
}
