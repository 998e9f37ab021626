//! Where batches are mixed: a device by name, and the mixer that it opens to.

use std::fmt;
use std::str::FromStr;
#[cfg(feature = "cuda")]
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "cuda")]
use super::Cuda;
use super::{Normalise, Output, convert, cpu, dense_target};
use crate::error::Error;
use crate::geometry::Size;
use crate::gpu::{DeviceError, HostBytes, HostMemory};
use crate::plan::{MixKind, MixPlan, MixSample};

/// A device by name: `cpu`, `cuda` for the first GPU, `cuda:N`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The CPU.
    #[default]
    Cpu,
    /// The GPU of that number, counted from 0.
    Cuda(u32),
}

/// Memory that a GPU's mixer takes on it, where nothing else is said: 64 MiB. A microbatch goes
/// through it in parts.
pub const DEVICE_BYTES: usize = 64 << 20;

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = match text.split_once(':') {
            None if text == "cpu" => return Ok(Self::Cpu),
            None if text == "cuda" => Some(0),
            Some(("cuda", number)) => number.parse().ok(),
            _ => None,
        };
        number.map(Self::Cuda).ok_or_else(|| format!("{text:?} is no device: cpu, cuda:0, cuda:1"))
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

/// Opens a device. A GPU's mixer takes `device_bytes` of its memory and holds them.
///
/// # Errors
/// When it is a GPU, and there is none, or no driver, or this forebay was built without CUDA.
pub fn open(device: Device, device_bytes: usize) -> Result<Mixer, DeviceError> {
    match device {
        Device::Cpu => Ok(Mixer::Cpu),
        Device::Cuda(number) => open_gpu(number, device_bytes),
    }
}

#[cfg(feature = "cuda")]
fn open_gpu(number: u32, bytes: usize) -> Result<Mixer, DeviceError> {
    Ok(Mixer::Cuda(Arc::new(Cuda::open(number, bytes)?)))
}

#[cfg(not(feature = "cuda"))]
const fn open_gpu(number: u32, _: usize) -> Result<Mixer, DeviceError> {
    Err(DeviceError::NotBuilt { device: number })
}

/// What mixes batches. All give the same bytes. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub enum Mixer {
    /// The calling thread.
    #[default]
    Cpu,
    /// A GPU.
    #[cfg(feature = "cuda")]
    Cuda(Arc<Cuda>),
}

/// A batch of clean pixels, u8 in NHWC, and what is to become of it.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// Of each sample.
    pub size: Size,
    /// One entry for each sample; used if `output.mixed`.
    pub plan: &'a MixPlan,
    /// What is to come out.
    pub output: Output,
    /// Used if the output is not u8.
    pub normalise: &'a Normalise,
}

impl Work<'_> {
    /// Bytes of the output, at the front of a buffer.
    pub fn payload_bytes(&self) -> usize {
        self.clean_bytes() * self.output.dtype.bytes()
    }

    /// Bytes of a buffer. Pixels that do not stay as they are lie behind the payload until they are
    /// converted.
    pub fn buffer_bytes(&self) -> usize {
        self.clean_at() + self.clean_bytes()
    }

    /// Where the clean pixels lie in a buffer.
    pub fn clean_at(&self) -> usize {
        if self.output.in_place() { 0 } else { self.payload_bytes() }
    }

    /// Bytes of the clean pixels.
    pub fn clean_bytes(&self) -> usize {
        self.plan.samples.len() * self.size.rgb_bytes()
    }

    /// Whether any sample is to be mixed.
    pub fn mixes(&self) -> bool {
        let mixed = |sample: &MixSample| sample.kind != MixKind::None;
        self.output.mixed && self.plan.samples.iter().any(mixed)
    }
}

impl Mixer {
    /// The device that was opened.
    pub fn device(&self) -> Device {
        match self {
            Self::Cpu => Device::Cpu,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => Device::Cuda(cuda.number()),
        }
    }

    /// The memory that its buffers must be of.
    pub fn memory(&self) -> HostMemory {
        match self {
            Self::Cpu => HostMemory::Pageable,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.memory(),
        }
    }

    /// Mixes a buffer of [`Mixer::memory`] with clean pixels at [`Work::clean_at`]; the output comes to
    /// its front. A GPU may still be at it when this returns: [`HostBytes::wait`] says how it went.
    ///
    /// # Errors
    /// [`Error::Device`] when a GPU fails.
    ///
    /// # Panics
    /// When the buffer is too small, or the plan cuts a box that is not inside.
    pub fn mix(&self, buffer: &mut HostBytes, work: &Work<'_>) -> Result<(), Error> {
        match self {
            Self::Cpu => mix_on_cpu(buffer, work),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.mix(buffer, work)?,
        }
        Ok(())
    }

    /// Applies a plan to a clean batch: what a trainer does with what it asked for unmixed. The bytes
    /// are those that a server that mixes would have sent.
    ///
    /// # Errors
    /// [`Error::Plan`] when plan and pixels do not fit each other, [`Error::Device`] when a GPU fails.
    pub fn apply(&self, clean: &[u8], work: &Work<'_>) -> Result<Vec<u8>, Error> {
        work.plan.check(work.size)?;
        if clean.len() != work.clean_bytes() {
            let (got, need) = (clean.len(), work.clean_bytes());
            return Err(Error::Plan { what: format!("the pixels are {got} bytes, not {need}") });
        }
        let mut buffer = self.memory().allocate(work.buffer_bytes())?;
        buffer[work.clean_at()..].copy_from_slice(clean);
        self.mix(&mut buffer, work)?;
        buffer.wait()?;
        Ok(buffer[..work.payload_bytes()].to_vec())
    }

    /// The dense targets of a batch, one after another: see [`dense_target`]. `labels` and `lambda`
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

/// What a self-test needs to know of a GPU.
impl Mixer {
    /// Its name and number.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn description(&self) -> Result<String, DeviceError> {
        match self {
            Self::Cpu => Ok("cpu".into()),
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => Ok(format!("cuda:{}, {}", cuda.number(), cuda.name()?)),
        }
    }

    /// Bytes a second that a GPU's memory moves at best; `None` where that is unknown.
    pub fn bandwidth(&self) -> Option<f64> {
        match self {
            Self::Cpu => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => cuda.bandwidth(),
        }
    }

    /// How long some work takes. On the CPU there are no copies, and the kernel is all.
    ///
    /// # Errors
    /// When a GPU fails.
    pub fn times(&self, work: &Work<'_>) -> Result<Times, Error> {
        match self {
            Self::Cpu => {
                let mut buffer = vec![0; work.buffer_bytes()];
                let started = Instant::now();
                mix_on_cpu(&mut buffer, work);
                let kernel = started.elapsed();
                let none = Duration::ZERO;
                Ok(Times { upload: none, kernel, download: none, whole: kernel })
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(cuda) => Ok(cuda.times(work)?),
        }
    }
}

/// How long it takes to mix a batch, each the least of several rounds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Copying the clean pixels in.
    pub upload: Duration,
    /// Mixing and converting.
    pub kernel: Duration,
    /// Copying the output out.
    pub download: Duration,
    /// All of it, overlapping, from a buffer to the same buffer.
    pub whole: Duration,
}

fn mix_on_cpu(buffer: &mut [u8], work: &Work<'_>) {
    let (payload, clean) = buffer.split_at_mut(work.clean_at());
    if work.mixes() {
        cpu::mix(&mut clean[..work.clean_bytes()], work.size, work.plan);
    }
    let sample = work.size.rgb_bytes();
    let converted = payload.chunks_exact_mut(sample * work.output.dtype.bytes());
    for (to, pixels) in converted.zip(clean.chunks_exact(sample)) {
        convert(pixels, work.output, work.normalise, to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names() {
        for (name, device) in
            [("cpu", Device::Cpu), ("cuda:0", Device::Cuda(0)), ("cuda:7", Device::Cuda(7))]
        {
            assert_eq!(name.parse(), Ok(device));
            assert_eq!(device.to_string(), name);
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for name in ["", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "CPU"] {
            assert!(name.parse::<Device>().unwrap_err().contains("cuda:0"), "{name}");
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn without_the_feature_a_gpu_is_refused() {
        let error = open(Device::Cuda(3), DEVICE_BYTES).unwrap_err().to_string();
        assert!(error.contains("cuda:3") && error.contains("--features cuda"), "{error}");
    }
}
