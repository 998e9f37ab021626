//! The environment of all cases: a context, two streams, the module, and the parts of cudarc that they use.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr,
    DriverError, LaunchConfig, PinnedHostSlice,
};
use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};

/// The error that ends a case, whose text is compared.
pub(crate) struct Failure(pub(crate) String);

pub(crate) type Outcome = Result<(), Failure>;

impl<E: fmt::Debug> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(format!("{error:?}"))
    }
}

#[derive(Clone)]
pub(crate) struct Gpu {
    pub(crate) context: Arc<CudaContext>,
    pub(crate) one: Arc<CudaStream>,
    pub(crate) two: Arc<CudaStream>,
    module: Arc<CudaModule>,
}

/// Compiles with the options of forebay.
pub(crate) fn compile(source: &str) -> Result<Ptx, Failure> {
    let options = CompileOptions {
        arch: Some("compute_80"),
        options: vec!["--fmad=false".to_owned(), "-lineinfo".to_owned()],
        name: Some("kernels.cu".to_owned()),
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(source, options).map_err(|error| match error {
        CompileError::CompileError { nvrtc, log, .. } => {
            Failure(format!("{nvrtc:?}: {}", log.to_string_lossy()))
        }
        other => Failure(format!("{other:?}")),
    })
}

pub(crate) fn grid(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

impl Gpu {
    pub(crate) fn new(ordinal: usize) -> Result<Self, Failure> {
        let context = CudaContext::new(ordinal)?;
        // As in forebay, cudarc's event tracking is off.
        // SAFETY: the cases order their streams themselves, unless they test that.
        unsafe { context.disable_event_tracking() };
        let module = context.load_module(compile(include_str!("kernels.cu"))?)?;
        Ok(Self { one: context.new_stream()?, two: context.new_stream()?, module, context })
    }

    pub(crate) fn kernel(&self, name: &str) -> Result<CudaFunction, Failure> {
        Ok(self.module.load_function(name)?)
    }

    pub(crate) fn pinned<T: DeviceRepr>(&self, len: usize) -> Result<PinnedHostSlice<T>, Failure> {
        // SAFETY: each case writes the memory before it reads it.
        Ok(unsafe { self.context.alloc_pinned_with_flags(len, 0) }?)
    }

    /// Unwritten memory.
    pub(crate) fn blank<T: DeviceRepr>(&self, len: usize) -> Result<CudaSlice<T>, Failure> {
        // SAFETY: a kernel writes it first, unless the case tests that.
        Ok(unsafe { self.one.alloc(len) }?)
    }

    pub(crate) fn event(&self) -> Result<CudaEvent, DriverError> {
        self.context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT))
    }
}

/// Launches a kernel: stream, kernel, shape, arguments.
macro_rules! launch {
    ($stream:expr, $kernel:expr, $shape:expr, $($argument:expr),+) => {{
        use cudarc::driver::PushKernelArg as _;
        let kernel = $kernel;
        let mut builder = $stream.launch_builder(&kernel);
        $(builder.arg($argument);)+
        // SAFETY: the arguments are those of the kernel, unless the case tests that.
        unsafe { builder.launch($shape) }
    }};
}
pub(crate) use launch;
