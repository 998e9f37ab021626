//! The interface between the driver and the engines that execute kernels.
//!
//! The driver (streams, events, memory, checks of a launch) does not know how a kernel runs. An engine does not know streams: it
//! is called with one launch and a view of device memory, and returns when the launch has finished. Engine A (`gxx`) compiles the
//! source with g++; engine B (`ptx`) interprets the PTX of the real NVRTC. `gxx::load` and `ptx::load` create a [`Module`] from a
//! text; `module.rs` decides by the text which one to call.

use std::fmt;

/// The order in which blocks, and the threads of a block, are started: `FOREBAY_STANDIN_ORDER`.
///
/// A correct kernel gives the same result in both orders. One that lacks a barrier does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From the first to the last, x fastest.
    Forward,
    /// From the last to the first.
    Reverse,
}

/// The properties of a kernel (`.entry` in PTX, `__global__` in a source).
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// The size of each parameter in bytes, in order. The driver copies exactly these bytes from the caller's pointers.
    pub params: Vec<usize>,
    /// The bytes of static shared memory.
    pub shared_bytes: u32,
    /// `__launch_bounds__` (`.maxntid`, as a product): the maximum number of threads of a block, if the kernel declares it.
    pub max_threads: Option<u32>,
    /// Registers per thread, or 0 if the engine does not know.
    pub registers: u32,
    /// Bytes of local memory (stack, spills) per thread, or 0 if the engine does not know.
    pub local_bytes: u32,
}

/// A launch. The driver has checked grid, block and shared memory against the limits of the device.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The name of a kernel of the module.
    pub kernel: &'a str,
    /// The number of blocks in x, y and z. None is 0.
    pub grid: [u32; 3],
    /// The number of threads of a block in x, y and z. None is 0, and their product is at most 1024.
    pub block: [u32; 3],
    /// The bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// The value of each parameter, with the sizes of [`Kernel::params`].
    pub params: &'a [Vec<u8>],
    /// The order in which blocks and threads start.
    pub order: Order,
}

/// A loaded module. Launches are sequential.
pub trait Module: Send {
    /// The kernel with a name, if the module has one.
    fn kernel(&self, name: &str) -> Option<Kernel>;

    /// Whether kernels write memory directly instead of through [`Memory`], so that only poison reveals what was written.
    fn native(&self) -> bool {
        false
    }

    /// Executes a launch. After a fault the context is unusable, as on a GPU, and bytes that were written stay written.
    ///
    /// # Errors
    /// The first fault of a thread; [`FaultKind`] lists them.
    fn launch(&self, launch: &Launch<'_>, memory: &dyn Memory) -> Result<(), Fault>;
}

/// The global memory of the device, as a kernel sees it. Every access is checked as a whole: either all of its bytes are read or
/// written, or none.
pub trait Memory {
    /// Reads bytes of one allocation, all of which were written before.
    ///
    /// # Errors
    /// [`BadAccess::Illegal`] or [`BadAccess::Unwritten`].
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BadAccess>;

    /// Writes bytes of one allocation.
    ///
    /// # Errors
    /// [`BadAccess::Illegal`].
    fn write(&self, address: u64, from: &[u8]) -> Result<(), BadAccess>;
}

/// An invalid access of device memory, with a description. The engine adds kernel, block, thread and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadAccess {
    /// Outside every allocation, or in a freed one. The text has the distance to the nearest allocation.
    Illegal(String),
    /// Inside an allocation, but at least one byte was never written. Only the stand-in detects this.
    Unwritten(String),
}

/// The CUDA error that a fault becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// `CUDA_ERROR_ILLEGAL_ADDRESS`
    IllegalAddress,
    /// `CUDA_ERROR_MISALIGNED_ADDRESS`
    MisalignedAddress,
    /// `CUDA_ERROR_ILLEGAL_INSTRUCTION`: also an instruction that the engine does not support
    IllegalInstruction,
    /// `CUDA_ERROR_ASSERT`: a device `assert` or `__trap`
    Assert,
    /// `CUDA_ERROR_LAUNCH_FAILED`: divergent barriers, shuffles from inactive lanes, stack overflow, a hang
    LaunchFailed,
    /// `CUDA_ERROR_UNKNOWN`: a mistake that a GPU would not detect, such as a read of unwritten memory
    OnlyHere,
}

/// The fault of a launch.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The error for the caller.
    pub kind: FaultKind,
    /// A description of what happened, without the location.
    pub what: String,
    /// Block and thread, if a single thread caused it.
    pub at: Option<([u32; 3], [u32; 3])>,
    /// The line of the `.cu` file, if known.
    pub line: Option<u32>,
}

impl Fault {
    /// A fault without a known location, or not of a single thread.
    pub fn new(kind: FaultKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), at: None, line: None }
    }

    /// The fault of an invalid access by one thread.
    pub fn access(bad: BadAccess, block: [u32; 3], thread: [u32; 3], line: Option<u32>) -> Self {
        let (kind, what) = match bad {
            BadAccess::Illegal(what) => (FaultKind::IllegalAddress, what),
            BadAccess::Unwritten(what) => (FaultKind::OnlyHere, what),
        };
        Self { kind, what, at: Some((block, thread)), line }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((block, thread)) = self.at {
            let [bx, by, bz] = block;
            let [tx, ty, tz] = thread;
            write!(f, "block ({bx},{by},{bz}) thread ({tx},{ty},{tz}): ")?;
        }
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        f.write_str(&self.what)
    }
}
