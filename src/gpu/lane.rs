//! A lane: a stream with device memory of its own. Work in a lane is done in order; lanes overlap.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{
    CudaSlice, CudaStream, DevicePtr as _, DriverError, LaunchConfig, PushKernelArg as _, result,
};

use super::device::{Gpu, Kernel, LANES};
use super::error::DeviceError;
use super::event::{Event, TimingEvent};
use super::pinned::Pinned;

/// A stream with device memory of its own.
#[derive(Debug)]
pub struct Lane {
    device: Gpu,
    number: usize,
    // Declared before the stream, so that it is freed before the stream is destroyed.
    memory: CudaSlice<u8>,
    /// Recorded when another lane has to wait for this one.
    reached: Event,
    stream: Arc<CudaStream>,
}

/// A point in the work of a lane, for which other lanes can wait.
#[derive(Debug)]
pub struct Mark(Event);

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// The address of a part of the lane's memory.
    Address(u64),
    /// `unsigned`.
    U32(u32),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
}

/// The launch dimensions of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    /// The number of blocks in x and y.
    pub blocks: [u32; 2],
    /// The number of threads in a block, in x.
    pub threads: u32,
}

impl Gpu {
    /// Creates a stream with `bytes` bytes of device memory.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the memory cannot be allocated.
    pub fn lane(&self, number: usize, bytes: usize) -> Result<Lane, DeviceError> {
        Lane::new(self, number, bytes)
    }

    /// Creates a mark, which counts as reached until a lane sets it.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn mark(&self) -> Result<Mark, DeviceError> {
        Ok(Mark(Event::for_waiting(self)?))
    }
}

impl Lane {
    fn new(device: &Gpu, number: usize, bytes: usize) -> Result<Self, DeviceError> {
        assert!(number < LANES, "lane {number} of {LANES}");
        let failed = device.failed("allocating device memory");
        let stream = device.context.new_stream().map_err(&failed)?;
        // SAFETY: the bytes are undefined until a copy or a kernel writes them, and are not read
        // before.
        let memory = unsafe { stream.alloc::<u8>(bytes) }.map_err(|error| {
            let (number, call) = (device.number(), "allocating device memory");
            let free = device.context.mem_get_info().map_or(0, |(free, _)| free);
            let status = format!("{:?}: {bytes} bytes are needed, and {free} are free", error.0);
            DeviceError::Driver { device: number, call, status }
        })?;
        let reached = Event::for_waiting(device)?;
        Ok(Self { device: device.clone(), number, memory, reached, stream })
    }

    /// The stream, for libraries that enqueue their own work.
    pub const fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The number of bytes of the memory.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether the lane has no memory.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// Copies a part of page-locked memory to the lane's memory, from byte `at` on.
    ///
    /// # Panics
    /// Panics if the part is not within either memory.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn upload(
        &self,
        from: &mut Pinned,
        part: Range<usize>,
        at: usize,
    ) -> Result<(), DeviceError> {
        let to = self.address(at..at + part.len());
        from.upload(part, (&self.stream, self.number), to)
            .map_err(self.device.failed("copying to the GPU"))
    }

    /// Copies from the lane's memory, from byte `at` on, to a part of page-locked memory.
    ///
    /// # Panics
    /// Panics if the part is not within either memory.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
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

    /// Launches a kernel.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the launch fails. An error of the kernel itself is returned by the
    /// next call that waits for it.
    ///
    /// # Safety
    /// * The arguments have the number and the types of the kernel's signature.
    /// * The kernel accesses only the parts of the lane's memory whose addresses are arguments.
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
                Arg::F64(number) => launch.arg(number),
            };
        }
        let [x, y] = grid.blocks;
        let config = LaunchConfig {
            grid_dim: (x, y, 1),
            block_dim: (grid.threads, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the caller guarantees that the arguments fit the kernel.
        let launched = unsafe { launch.launch(config) };
        launched.map(drop).map_err(self.device.failed("launching a kernel"))
    }

    /// The device address of a part of the lane's memory.
    ///
    /// # Panics
    /// Panics if the part is not within the memory.
    pub fn address(&self, part: Range<usize>) -> u64 {
        assert!(part.start <= part.end && part.end <= self.len(), "{part:?} of {}", self.len());
        let (start, _synchronized_by_us) = self.memory.device_ptr(&self.stream);
        start + part.start as u64
    }

    /// Sets a mark after all work that this lane has so far.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn set_mark(&self, mark: &Mark) -> Result<(), DeviceError> {
        mark.0.record(&self.stream).map_err(self.device.failed("marking the work of a lane"))
    }

    /// Makes all later work of this lane wait for a mark, where another one has set it.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn follow_mark(&self, mark: &Mark) -> Result<(), DeviceError> {
        mark.0.hold(&self.stream).map_err(self.device.failed("making a lane wait for another"))
    }

    /// Copies a part of another lane's memory to this one's, from byte `at` on. The other lane must have written it
    /// before, which `follow` orders.
    ///
    /// # Panics
    /// Panics if the part is not within either memory.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn copy_from(
        &self,
        other: &Self,
        part: Range<usize>,
        at: usize,
    ) -> Result<(), DeviceError> {
        let (bytes, to) = (part.len(), self.address(at..at + part.len()));
        let from = other.address(part);
        let bound = self.stream.context().bind_to_thread();
        // SAFETY: both parts are within the lanes' memories, as `address` checks, which live as long as the lanes.
        let copied = bound.and_then(|()| unsafe {
            result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream())
        });
        copied.map_err(self.device.failed("copying on the GPU"))
    }

    pub(super) const fn device(&self) -> &Gpu {
        &self.device
    }

    /// Places an event after all earlier work of the lane.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn record(&self, event: &TimingEvent) -> Result<(), DeviceError> {
        event.record(&self.stream).map_err(self.device.failed("recording an event"))
    }

    /// Makes all later work of this lane wait for all earlier work of another one.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn follow(&self, other: &Self) -> Result<(), DeviceError> {
        let recorded = other.reached.record(&other.stream);
        let follows = recorded.and_then(|()| other.reached.hold(&self.stream));
        follows.map_err(self.device.failed("making a lane wait for another"))
    }

    /// Whether all work of the lane has finished.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if any of the work failed.
    pub fn is_idle(&self) -> Result<bool, DeviceError> {
        // SAFETY: a stream that is alive.
        match unsafe { sys::cuStreamQuery(self.stream.cu_stream()) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            status => {
                let queried = status.result().map(|()| true);
                queried.map_err(self.device.failed("executing work on the GPU"))
            }
        }
    }

    /// Waits for all work of the lane.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if any of the work failed.
    pub fn wait(&self) -> Result<(), DeviceError> {
        let waited: Result<(), DriverError> = self.stream.synchronize();
        waited.map_err(self.device.failed("executing work on the GPU"))
    }
}
