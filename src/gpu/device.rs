//! A GPU, found and opened; its kernels, compiled.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute};
use cudarc::driver::{CudaContext, CudaFunction, DriverError};
use cudarc::nvrtc::{self, CompileError, CompileOptions};

use super::{DeviceError, Lane, Pinned};

/// A GPU. Clones are the same one.
#[derive(Clone)]
pub struct Device {
    pub(super) context: Arc<CudaContext>,
    number: u32,
}

/// A function that runs on the GPU.
#[derive(Clone, Debug)]
pub struct Kernel(pub(super) CudaFunction);

impl Device {
    /// Opens the GPU of a number, counted from 0.
    ///
    /// # Errors
    /// When the driver or the compiler is not on this machine, or there is no such GPU.
    pub fn open(number: u32) -> Result<Self, DeviceError> {
        let missing = |library, help| DeviceError::NoLibrary { device: number, library, help };
        // SAFETY: loading the driver's libraries runs their initialisers, which is what they are for.
        let [cuda, nvrtc] = unsafe { [sys::is_culib_present(), nvrtc::sys::is_culib_present()] };
        if !cuda {
            return Err(missing("libcuda", "install the NVIDIA driver"));
        }
        if !nvrtc {
            let help = "install CUDA 12's NVRTC and have LD_LIBRARY_PATH lead to it";
            return Err(missing("libnvrtc", help));
        }
        let count = match CudaContext::device_count() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
            count => count,
        };
        let count = u32::try_from(count.map_err(failed(number, "counting the GPUs"))?).unwrap_or(0);
        if number >= count {
            return Err(DeviceError::NoDevice { device: number, count });
        }
        let context =
            CudaContext::new(number as usize).map_err(failed(number, "opening the GPU"))?;
        // SAFETY: nothing is allocated yet. Lanes and `Pinned` order their work themselves.
        unsafe { context.disable_event_tracking() };
        Ok(Self { context, number })
    }

    /// Which it is.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Makes it the calling thread's GPU, for libraries that ask the driver for that one.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn bind(&self) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(self.failed("choosing the GPU"))
    }

    /// The GPU's own name.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn name(&self) -> Result<String, DeviceError> {
        self.context.name().map_err(self.failed("asking for the GPU's name"))
    }

    /// The bytes a second that its memory moves at most, by its clock and width; `None` where the
    /// driver does not tell.
    pub fn bandwidth(&self) -> Option<f64> {
        let attribute = |attribute| self.context.attribute(attribute).ok().filter(|&n| n > 0);
        let kilohertz = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
        let bits = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
        // Data move on both edges of the clock.
        Some(2.0 * f64::from(kilohertz) * 1000.0 * f64::from(bits) / 8.0)
    }

    /// Compiles a file of kernels and loads those of the given names.
    ///
    /// # Errors
    /// With the compiler's words, when it refuses.
    pub fn compile<const N: usize>(
        &self,
        file: &'static str,
        source: &str,
        names: [&str; N],
    ) -> Result<[Kernel; N], DeviceError> {
        let capability = self.context.compute_capability();
        let (major, minor) = capability.map_err(self.failed("asking for the capability"))?;
        // No contraction to fused multiply-adds: the twins on the CPU have none.
        let options = CompileOptions {
            name: Some(file.to_owned()),
            fmad: Some(false),
            options: vec![format!("--gpu-architecture=sm_{major}{minor}"), "--std=c++17".into()],
            ..CompileOptions::default()
        };
        let compiled = nvrtc::compile_ptx_with_opts(source, options).map_err(|error| {
            let log = match error {
                CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
                other => other.to_string(),
            };
            DeviceError::Compile { device: self.number, file, log }
        })?;
        let module = self.context.load_module(compiled);
        let module = module.map_err(self.failed("loading the kernels"))?;
        let kernels = names.map(|name| module.load_function(name).map(Kernel));
        let kernels = kernels.into_iter().collect::<Result<Vec<_>, _>>();
        let kernels = kernels.map_err(self.failed("finding a kernel"))?;
        Ok(kernels.try_into().expect("one for each name"))
    }

    /// A stream with so many bytes of the GPU's memory.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn lane(&self, number: usize, bytes: usize) -> Result<Lane, DeviceError> {
        Lane::new(self, number, bytes)
    }

    /// Page-locked memory of the host, all zeros.
    ///
    /// # Errors
    /// When the memory is not there.
    pub fn pinned(&self, len: usize) -> Result<Pinned, DeviceError> {
        Pinned::new(self, len)
    }

    /// Makes a driver's error one of ours.
    pub(super) fn failed(&self, call: &'static str) -> impl Fn(DriverError) -> DeviceError {
        failed(self.number, call)
    }
}

fn failed(device: u32, call: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| DeviceError::Driver { device, call, status: format!("{:?}", error.0) }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{}", self.number)
    }
}
