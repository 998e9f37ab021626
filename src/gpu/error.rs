//! Errors of GPUs.

/// An error of a GPU. The operator of the machine can act on it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// This build does not have the feature `cuda`.
    #[error(
        "cuda:{device}: this forebay was built without CUDA; build it with `--features cuda`, or use --device cpu"
    )]
    NotBuilt {
        /// The number of the requested GPU.
        device: u32,
    },
    /// Libraries of CUDA are not installed, or cannot be used.
    #[error("cuda:{device}: {report}; or use --device cpu")]
    NoLibrary {
        /// The number of the requested GPU.
        device: u32,
        /// Which libraries, where they were looked for, and what to do.
        report: String,
    },
    /// The machine has no GPU with the requested number.
    #[error(
        "cuda:{device}: the machine has {count} GPUs, numbered from 0; use one of them, or --device cpu"
    )]
    NoDevice {
        /// The number of the requested GPU.
        device: u32,
        /// The number of GPUs.
        count: u32,
    },
    /// A kernel does not compile for the GPU.
    #[error("cuda:{device}: {file} does not compile for this GPU: {log}")]
    Compile {
        /// The number of the GPU.
        device: u32,
        /// The source file.
        file: &'static str,
        /// The log of the compiler.
        log: String,
    },
    /// A call to the driver failed.
    #[error("cuda:{device}: {call} failed: {status}")]
    Driver {
        /// The number of the GPU.
        device: u32,
        /// The operation, such as `copying to the GPU`.
        call: &'static str,
        /// The driver's status, such as `CUDA_ERROR_OUT_OF_MEMORY`.
        status: String,
    },
    /// A sample and its mixing partner do not fit into the memory of a lane.
    #[error(
        "two samples need {need} bytes on the GPU, input and output, and a lane has {limit}; \
         raise --device-bytes to at least {}, or use a smaller image size or dtype", .need * 2
    )]
    Memory {
        /// The bytes of two samples, input and output.
        need: u64,
        /// The bytes of a lane.
        limit: u64,
    },
}
