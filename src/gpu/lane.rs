//! A stream and its part of the GPU's memory. What one lane is given happens in order; lanes overlap.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, DevicePtr as _, DriverError, LaunchConfig, PushKernelArg as _,
};

use super::{Device, DeviceError, Kernel, Pinned};

/// Lanes of a device: while one copies, the kernels of the other run.
pub const LANES: usize = 2;

/// A stream and its part of the GPU's memory.
#[derive(Debug)]
pub struct Lane {
    device: Device,
    number: usize,
    // Freed before the stream ends.
    memory: CudaSlice<u8>,
    /// Recorded where another lane waits for this one.
    reached: CudaEvent,
    stream: Arc<CudaStream>,
}

/// What a kernel gets.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// Where a part of the lane's memory begins.
    Address(u64),
    /// `unsigned`.
    U32(u32),
    /// `float`.
    F32(f32),
}

/// How many threads run a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// Blocks in x and y.
    pub blocks: [u32; 2],
    /// Threads of a block, in x.
    pub threads: u32,
}

impl Lane {
    pub(super) fn new(device: &Device, number: usize, bytes: usize) -> Result<Self, DeviceError> {
        assert!(number < LANES, "lane {number} of {LANES}");
        let failed = device.failed("allocating the GPU's memory");
        let stream = device.context.new_stream().map_err(&failed)?;
        // SAFETY: the bytes are undefined until something is copied there, or a kernel writes them.
        let memory = unsafe { stream.alloc::<u8>(bytes) }.map_err(&failed)?;
        let reached = device.context.new_event(None).map_err(&failed)?;
        Ok(Self { device: device.clone(), number, memory, reached, stream })
    }

    /// The stream, for libraries that queue work of their own there.
    pub const fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Bytes of the memory.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether it has no memory.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// Copies a part of page-locked memory to `at` in the lane's.
    ///
    /// # Panics
    /// When either is too small.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn upload(&self, from: &Pinned, part: Range<usize>, at: usize) -> Result<(), DeviceError> {
        let to = self.address(at..at + part.len());
        from.upload(part, (&self.stream, self.number), to)
            .map_err(self.device.failed("copying to the GPU"))
    }

    /// Copies from `at` in the lane's memory to a part of page-locked memory.
    ///
    /// # Panics
    /// When either is too small.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn download(
        &self,
        at: usize,
        to: &mut Pinned,
        part: Range<usize>,
    ) -> Result<(), DeviceError> {
        let from = self.address(at..at + part.len());
        to.download(part, (&self.stream, self.number), from)
            .map_err(self.device.failed("copying from the GPU"))
    }

    /// Runs a kernel.
    ///
    /// # Errors
    /// When the driver does not start it. How it ended is told by what waits for it.
    ///
    /// # Safety
    /// The arguments must be those of the kernel's signature, in number and types, and it must stay
    /// inside the parts of the lane's memory whose addresses it gets.
    pub unsafe fn launch(
        &self,
        kernel: &Kernel,
        grid: Grid,
        args: &[Arg],
    ) -> Result<(), DeviceError> {
        let mut launch = self.stream.launch_builder(&kernel.0);
        for arg in args {
            match arg {
                Arg::Address(address) => launch.arg(address),
                Arg::U32(number) => launch.arg(number),
                Arg::F32(number) => launch.arg(number),
            };
        }
        let [x, y] = grid.blocks;
        let config = LaunchConfig {
            grid_dim: (x, y, 1),
            block_dim: (grid.threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the caller's promise.
        let launched = unsafe { launch.launch(config) };
        launched.map(drop).map_err(self.device.failed("starting a kernel"))
    }

    /// Where a part of its memory lies on the GPU.
    ///
    /// # Panics
    /// When the part is not inside.
    pub fn address(&self, part: Range<usize>) -> u64 {
        assert!(part.start <= part.end && part.end <= self.len(), "{part:?} of {}", self.len());
        let (start, _synchronised_by_us) = self.memory.device_ptr(&self.stream);
        start + part.start as u64
    }

    /// Has all that it is given from here on wait for all that another lane was given so far.
    ///
    /// # Errors
    /// When the driver fails.
    pub fn follow(&self, other: &Self) -> Result<(), DeviceError> {
        let recorded = other.reached.record(&other.stream);
        let follows = recorded.and_then(|()| self.stream.wait(&other.reached));
        follows.map_err(self.device.failed("having a lane wait for another"))
    }

    /// Waits until all that it was given is done.
    ///
    /// # Errors
    /// When any of it failed.
    pub fn wait(&self) -> Result<(), DeviceError> {
        let waited: Result<(), DriverError> = self.stream.synchronize();
        waited.map_err(self.device.failed("what the GPU did"))
    }
}
