//! The seam between the driver and what executes kernels.
//!
//! The driver (streams, events, memory, checks of a launch) knows nothing of how a kernel runs. An engine knows
//! nothing of streams: it gets one launch, a view of device memory, and answers when the launch is over.
//! Engine A (`gxx`) compiles the source with g++; engine B (`ptx`) interprets the PTX of the real NVRTC.
//! `ptx::load` and `gxx::load`, both `fn(&str) -> Result<Box<dyn Module>, String>`, give a [`Module`]; what the text is decides
//! which one is asked.

use std::fmt;

/// In which order blocks and the threads of a block are started: `FOREBAY_STANDIN_ORDER`.
///
/// A correct kernel gives the same result in both. One that lacks a barrier does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// From 0 up, x fastest.
    Forward,
    /// From the last down.
    Reverse,
}

/// What a module says of one of its kernels (`.entry` in PTX, `__global__` in a source).
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    /// Bytes of each parameter, in order. The driver copies exactly these bytes from the caller's pointers.
    pub params: Vec<usize>,
    /// Bytes of static shared memory.
    pub shared_bytes: u32,
    /// `__launch_bounds__` (`.maxntid`, as a product): most threads of a block, if the kernel says so.
    pub max_threads: Option<u32>,
    /// Registers a thread, 0 where the engine does not know.
    pub registers: u32,
    /// Local memory (stack, spills) of a thread in bytes, 0 where the engine does not know.
    pub local_bytes: u32,
}

/// One launch. The driver has checked grid, block and shared memory against the device's limits.
#[derive(Debug)]
pub struct Launch<'a> {
    /// Name of a kernel of the module.
    pub kernel: &'a str,
    /// Blocks in x, y, z; none is 0.
    pub grid: [u32; 3],
    /// Threads of a block in x, y, z; none is 0, at most 1024 together.
    pub block: [u32; 3],
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
    /// The value of each parameter, of the sizes that [`Kernel::params`] names.
    pub params: &'a [Vec<u8>],
    /// The order in which blocks and threads start.
    pub order: Order,
}

/// A loaded module. Launches come one at a time.
pub trait Module: Send {
    /// The kernel of that name, if there is one.
    fn kernel(&self, name: &str) -> Option<Kernel>;

    /// Whether kernels write memory directly instead of through [`Memory`], so that only poison tells what was written.
    fn native(&self) -> bool {
        false
    }

    /// Runs a whole launch. After a fault the context is lost, as on a GPU; what was written stays written.
    fn launch(&self, launch: &Launch<'_>, memory: &dyn Memory) -> Result<(), Fault>;
}

/// Global memory of the device, as a kernel sees it. Every access is checked; parts of one access are not:
/// either all bytes are read or written or none.
pub trait Memory {
    /// Reads bytes that lie in one allocation and were written before.
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BadAccess>;

    /// Writes bytes of one allocation.
    fn write(&self, address: u64, from: &[u8]) -> Result<(), BadAccess>;
}

/// Why an access of device memory is refused. The texts are whole: the engine adds kernel, block, thread and line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadAccess {
    /// Outside of every allocation, or in one that was freed. Says how far from the nearest one.
    Illegal(String),
    /// Inside an allocation, but at least one byte was never written. Only the stand-in sees this.
    Unwritten(String),
}

/// Which of CUDA's errors a fault becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// `CUDA_ERROR_ILLEGAL_ADDRESS`
    IllegalAddress,
    /// `CUDA_ERROR_MISALIGNED_ADDRESS`
    MisalignedAddress,
    /// `CUDA_ERROR_ILLEGAL_INSTRUCTION`: also what an engine does not know
    IllegalInstruction,
    /// `CUDA_ERROR_ASSERT`: a device `assert` or `__trap`
    Assert,
    /// `CUDA_ERROR_LAUNCH_FAILED`: divergent barriers, shuffles without their lanes, stack overflow, hanging
    LaunchFailed,
    /// `CUDA_ERROR_UNKNOWN`: a mistake that a GPU would not notice, such as a read of memory never written
    OnlyHere,
}

/// Where a launch went wrong, and how.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What it becomes for the caller.
    pub kind: FaultKind,
    /// What happened, in words, without the place.
    pub what: String,
    /// Block and thread, where a single thread is to blame.
    pub at: Option<([u32; 3], [u32; 3])>,
    /// Line of the `.cu` file, if known.
    pub line: Option<u32>,
}

impl Fault {
    /// A fault whose place is not known, or not one thread's.
    pub fn new(kind: FaultKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), at: None, line: None }
    }

    /// Of an access by one thread.
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
