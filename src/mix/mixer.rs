//! The mixer: a CPU or a GPU. Both give the same bytes.

#[cfg(feature = "cuda")]
use std::sync::Arc;
use std::time::Duration;

use forebay_types::PixelFormat;
use rayon::ThreadPool;

use super::cpu;
#[cfg(feature = "cuda")]
use super::cuda::CudaMixer;
use super::device::Device;
use super::job::MixJob;
use super::targets::dense_target;
use super::times::MixTimes;
use crate::error::Error;
use crate::geometry::Size;
use crate::gpu::{DeviceError, HostBytes, HostMemory};

/// Device memory that a GPU's mixer takes by default: 64 MiB. A microbatch passes through it in parts.
pub const DEVICE_BYTES: usize = 64 << 20;

/// Mixes batches. Clones share the device.
#[derive(Clone, Debug, Default)]
pub enum Mixer {
    /// The CPU, by the threads of a rayon pool.
    #[default]
    Cpu,
    /// A GPU.
    #[cfg(feature = "cuda")]
    Cuda(Arc<CudaMixer>),
}

impl Mixer {
    /// Opens a device. A GPU's mixer allocates `device_bytes` of its memory.
    ///
    /// # Errors
    /// [`DeviceError::NotBuilt`] if this forebay was built without CUDA, [`DeviceError::NoLibrary`] if the
    /// driver or the compiler is not found, [`DeviceError::NoDevice`] if the machine has no such GPU,
    /// [`DeviceError::Compile`] if a kernel does not compile, and [`DeviceError::Driver`] if the GPU fails
    /// or its memory is exhausted.
    pub fn open(device: Device, device_bytes: usize) -> Result<Self, DeviceError> {
        match device {
            Device::Cpu => Ok(Self::Cpu),
            Device::Cuda(number) => Self::open_cuda(number, device_bytes),
        }
    }

    #[cfg(feature = "cuda")]
    fn open_cuda(number: u32, bytes: usize) -> Result<Self, DeviceError> {
        Ok(Self::Cuda(Arc::new(CudaMixer::open(number, bytes)?)))
    }

    #[cfg(not(feature = "cuda"))]
    const fn open_cuda(number: u32, _: usize) -> Result<Self, DeviceError> {
        Err(DeviceError::NotBuilt { device: number })
    }

    /// The device that was opened.
    pub fn device(&self) -> Device {
        match self {
            Self::Cpu => Device::Cpu,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => Device::Cuda(cuda.number()),
        }
    }

    /// The kind of memory that its buffers must have.
    pub fn memory(&self) -> HostMemory {
        match self {
            Self::Cpu => HostMemory::Pageable,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.memory(),
        }
    }

    /// Checks that samples of a size can be mixed into a format.
    ///
    /// # Errors
    /// [`DeviceError::Memory`] if the GPU's memory is too small for two of them.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(unused_variables, clippy::unnecessary_wraps, reason = "a CPU mixes any")
    )]
    pub(crate) fn check(&self, size: Size, format: PixelFormat) -> Result<(), DeviceError> {
        match self {
            Self::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.check(size, format),
        }
    }

    /// Number of microbatches of a client to make at once so that neither the CPU nor the device is idle. Two
    /// keep the CPU busy, because one fills the pool while the last samples of the other are made.
    /// While a GPU mixes, two more are made.
    pub(crate) const fn concurrency(&self) -> usize {
        match self {
            Self::Cpu => 2,
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => 4,
        }
    }

    /// Calls `fill` to write unmixed pixels, sample by sample, into a buffer of [`Mixer::memory`] that
    /// has the size of the payload, and then mixes them in place. Returns what `fill` returns, and the
    /// CPU time of mixing.
    ///
    /// `fill` runs on the pool. So does the CPU's mixing, as a part of the same task: a second task
    /// would queue behind all samples of the next microbatch. At most `workers` threads of the pool
    /// have copies of samples at once.
    ///
    /// # Errors
    /// Those of `fill`, and [`Error::Device`] when the GPU fails.
    pub(crate) fn fill_and_mix<T: Send>(
        &self,
        pool: &ThreadPool,
        buffer: &mut HostBytes,
        (job, workers): (&MixJob<'_>, usize),
        fill: impl FnOnce(Vec<&mut [u8]>) -> Result<T, Error> + Send,
    ) -> Result<(T, Duration), Error> {
        assert_eq!(buffer.len(), job.payload_bytes(), "a buffer of the payload");
        match self {
            Self::Cpu => {
                let buffer = &mut buffer[..];
                pool.install(|| {
                    let filled = fill(job.unmixed_slots(buffer).collect())?;
                    Ok((filled, cpu::mix_and_convert(buffer, job, workers)))
                })
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => {
                let slots = job.unmixed_slots(&mut buffer[..]).collect();
                let filled = pool.install(|| fill(slots))?;
                cuda.mix(buffer, job)?;
                buffer.wait()?;
                Ok((filled, Duration::ZERO))
            }
        }
    }

    /// Applies a plan to unmixed pixels, as a trainer does that requested unmixed pixels. The result is
    /// equal to the payload of a server that mixes. The CPU's mixing spreads over the rayon pool of
    /// the calling thread.
    ///
    /// # Errors
    /// [`Error::Plan`] when plan and pixels do not match, [`Error::Device`] when a GPU fails.
    pub fn apply(&self, unmixed: &[u8], job: &MixJob<'_>) -> Result<Vec<u8>, Error> {
        job.plan.check(job.size)?;
        if unmixed.len() != job.unmixed_bytes() {
            let (got, expected) = (unmixed.len(), job.unmixed_bytes());
            let what = format!("the pixels are {got} bytes, expected {expected}");
            return Err(Error::Plan { what });
        }
        let mut buffer = self.memory().allocate(job.payload_bytes())?;
        let samples = unmixed.chunks_exact(job.size.rgb_bytes());
        job.unmixed_slots(&mut buffer).zip(samples).for_each(|(to, of)| to.copy_from_slice(of));
        match self {
            Self::Cpu => {
                cpu::mix_and_convert(&mut buffer, job, usize::MAX);
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.mix(&mut buffer, job)?,
        }
        buffer.wait()?;
        Ok(buffer.to_vec())
    }

    /// The dense targets of a batch, one after the other: see [`dense_target`]. `labels` and `lambda`
    /// have one entry for each sample.
    ///
    /// # Errors
    /// [`Error::Device`] when a GPU fails.
    ///
    /// # Panics
    /// When a label is not below the number of classes.
    pub fn dense_targets(
        &self,
        labels: &[[u32; 2]],
        lambda: &[f64],
        smoothing: f64,
        classes: usize,
    ) -> Result<Vec<f32>, Error> {
        let samples = labels.iter().zip(lambda);
        match self {
            Self::Cpu => Ok(samples
                .flat_map(|(&labels, &lambda)| dense_target(labels, lambda, smoothing, classes))
                .collect()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => {
                Ok(cuda.dense_targets(&samples.collect::<Vec<_>>(), smoothing, classes)?)
            }
        }
    }
}

/// Methods for self-tests.
impl Mixer {
    /// Number and name of the device.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn description(&self) -> Result<String, DeviceError> {
        match self {
            Self::Cpu => Ok("cpu".into()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => Ok(format!("cuda:{}, {}", cuda.number(), cuda.name()?)),
        }
    }

    /// The libraries of CUDA that a GPU's mixer uses, with their versions.
    pub fn libraries(&self) -> Option<String> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(_) => Some(crate::gpu::libraries::describe()),
        }
    }

    /// Peak bandwidth of a GPU's memory in bytes a second; `None` if it is unknown.
    pub fn bandwidth(&self) -> Option<f64> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.bandwidth(),
        }
    }

    /// Measures how long a job takes. On the CPU there are no copies.
    ///
    /// # Errors
    /// [`Error::Device`] when a GPU fails.
    pub fn measure(&self, job: &MixJob<'_>) -> Result<MixTimes, Error> {
        match self {
            Self::Cpu => Ok(MixTimes::on_cpu(job)),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => Ok(cuda.measure(job)?),
        }
    }
}

#[cfg(all(test, not(feature = "cuda")))]
mod tests {
    use super::*;

    #[test]
    fn without_the_feature_a_gpu_is_refused() {
        let error = Mixer::open(Device::Cuda(3), DEVICE_BYTES).unwrap_err().to_string();
        assert!(error.contains("cuda:3") && error.contains("--features cuda"), "{error}");
    }
}
