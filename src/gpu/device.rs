//! Opens a GPU and compiles its kernels.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUdevice_attribute};
use cudarc::driver::{CudaContext, CudaFunction, DriverError};

use super::compile::{Target, compile, known_capabilities};
use super::error::DeviceError;
use super::libraries::{self, Library};

/// Maximum number of lanes of a GPU. While one lane copies, the kernels of another one run.
pub const LANES: usize = 3;

/// A GPU that is open: it has a driver, a context and a compiler. Clones share the context.
#[derive(Clone)]
pub struct Gpu {
    pub(super) context: Arc<CudaContext>,
    number: u32,
}

/// A compiled kernel, loaded on a GPU.
#[derive(Clone, Debug)]
pub struct Kernel(pub(super) CudaFunction);

impl Gpu {
    /// Opens the GPU with a number, counted from 0.
    ///
    /// # Errors
    /// [`DeviceError::NoLibrary`] if the driver or the compiler is not found,
    /// [`DeviceError::NoDevice`] if the machine has no GPU with this number, and
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn open(number: u32) -> Result<Self, DeviceError> {
        libraries::require(number, &[Library::Driver, Library::Nvrtc])?;
        let count = match CudaContext::device_count() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
            count => count,
        };
        let count = u32::try_from(count.map_err(failed(number, "counting GPUs"))?).unwrap_or(0);
        if number >= count {
            return Err(DeviceError::NoDevice { device: number, count });
        }
        let context =
            CudaContext::new(number as usize).map_err(failed(number, "opening the GPU"))?;
        // SAFETY: nothing is allocated yet, and from here on `Lane` and `Pinned` order all work.
        unsafe { context.disable_event_tracking() };
        Ok(Self { context, number })
    }

    /// The number of the GPU.
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Binds the context to the calling thread, for libraries that use the current context.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn bind(&self) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(self.failed("binding the context to a thread"))
    }

    /// Loads libraries that are used on the GPU besides the driver and the compiler.
    ///
    /// # Errors
    /// [`DeviceError::NoLibrary`], with all that are missing.
    pub fn require(&self, libraries: &[Library]) -> Result<(), DeviceError> {
        libraries::require(self.number, libraries)
    }

    /// The model name of the GPU.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn name(&self) -> Result<String, DeviceError> {
        self.context.name().map_err(self.failed("reading the name of the GPU"))
    }

    /// The compute capability of the GPU, major and minor.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn compute_capability(&self) -> Result<(i32, i32), DeviceError> {
        let capability = self.context.compute_capability();
        capability.map_err(self.failed("reading the compute capability"))
    }

    /// The peak memory bandwidth in bytes a second, from clock rate and bus width. `None` if the
    /// driver does not report them.
    pub fn bandwidth(&self) -> Option<f64> {
        let attribute = |attribute| self.context.attribute(attribute).ok().filter(|&n| n > 0);
        let kilohertz = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE)?;
        let bits = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH)?;
        // Data is transferred on both edges of the clock.
        Some(2.0 * f64::from(kilohertz) * 1000.0 * f64::from(bits) / 8.0)
    }

    /// Compiles a file of kernels and loads the kernels with the given names.
    ///
    /// # Errors
    /// [`DeviceError::Compile`] with the compiler's log if the file does not compile, and
    /// [`DeviceError::Driver`] if the driver fails or has no kernel with one of the names.
    pub fn compile<const N: usize>(
        &self,
        file: &'static str,
        source: &str,
        names: [&str; N],
    ) -> Result<[Kernel; N], DeviceError> {
        let failed = |log| DeviceError::Compile { device: self.number, file, log };
        let compiled = compile(file, source, self.target().map_err(failed)?).map_err(failed)?;
        let module = self.context.load_module(compiled);
        let module = module.map_err(self.failed("loading kernels"))?;
        let kernels = names.map(|name| module.load_function(name).map(Kernel));
        let kernels = kernels.into_iter().collect::<Result<Vec<_>, _>>();
        let kernels = kernels.map_err(self.failed("finding a kernel"))?;
        Ok(kernels.try_into().expect("one kernel for each name"))
    }

    /// What kernels are compiled to.
    fn target(&self) -> Result<Target, String> {
        let capability = self.context.compute_capability();
        let (major, minor) = capability.map_err(|error| format!("{:?}", error.0))?;
        let known = known_capabilities().map_err(|error| error.to_string())?;
        let cuda = |library| libraries::load(self.number, library).ok()?.cuda();
        Target::choose(major * 10 + minor, &known, cuda(Library::Nvrtc), cuda(Library::Driver))
    }

    /// Converts an error of the driver. `call` says what was being done.
    pub(super) fn failed(&self, call: &'static str) -> impl Fn(DriverError) -> DeviceError {
        failed(self.number, call)
    }
}

fn failed(device: u32, call: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| DeviceError::Driver { device, call, status: format!("{:?}", error.0) }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{}", self.number)
    }
}
