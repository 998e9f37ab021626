//! What can go wrong with a GPU.

/// An error of a device: the turn of whoever runs the machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The feature `cuda` is off.
    #[error(
        "cuda:{device}: this forebay was built without CUDA; build it with `--features cuda`, or use --device cpu"
    )]
    NotBuilt {
        /// The device asked for.
        device: u32,
    },
    /// A library of CUDA's is not on this machine.
    #[error("cuda:{device}: {library} is not found; {help}, or use --device cpu")]
    NoLibrary {
        /// The device asked for.
        device: u32,
        /// `libcuda` or `libnvrtc`.
        library: &'static str,
        /// What to do about it.
        help: &'static str,
    },
    /// The machine has no GPU of that number.
    #[error(
        "cuda:{device}: the driver sees {count} GPUs, numbered from 0; use one of those, or --device cpu"
    )]
    NoDevice {
        /// The device asked for.
        device: u32,
        /// How many there are.
        count: u32,
    },
    /// A kernel does not compile for the device.
    #[error("cuda:{device}: {file} does not compile for this GPU: {log}")]
    Compile {
        /// The device.
        device: u32,
        /// The kernel's source.
        file: &'static str,
        /// What the compiler said.
        log: String,
    },
    /// A call of the driver failed.
    #[error("cuda:{device}: {call} failed: {status}")]
    Driver {
        /// The device.
        device: u32,
        /// What was tried.
        call: &'static str,
        /// The driver's status, such as `CUDA_ERROR_OUT_OF_MEMORY`.
        status: String,
    },
    /// A sample and its partner do not fit into a lane's memory.
    #[error(
        "two samples take {need} bytes on the GPU, before and after, and a lane has {limit}; \
         raise --device-bytes to {}, or use a smaller image or dtype", .need * 2
    )]
    Memory {
        /// Bytes of two samples.
        need: u64,
        /// Bytes of a lane.
        limit: u64,
    },
}
