//! Page-locked host memory, and the copies between it and a GPU.
//!
//! A copy returns before it has happened, and until then its bytes belong to the GPU. So [`Pinned`] records an
//! event after the last copy of each lane, and gives access to its bytes only after [`Pinned::wait`] or
//! [`Pinned::is_idle`] has found these events complete. Access that comes too early is a mistake of the program
//! and panics: a hidden wait in its place would stall the caller without a trace.
//!
//! cudarc's own type waits only if event tracking is on, so it can be freed while a copy uses it.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::slice;

use cudarc::driver::{CudaStream, DriverError, result};

use super::device::{Gpu, LANES};
use super::error::DeviceError;
use super::event::Event;

/// Page-locked host memory.
pub struct Pinned {
    device: Gpu,
    start: NonNull<u8>,
    len: usize,
    copies: [Copies; LANES],
}

/// The copies of one lane that use the memory.
struct Copies {
    /// Recorded after the last copy.
    last: Event,
    /// Whether the event was not found complete since.
    pending: bool,
}

// SAFETY: it owns its memory, as a `Vec` does, and calls to the driver are safe from any thread.
unsafe impl Send for Pinned {}
// SAFETY: a shared reference only reads the bytes, and only while no copy is pending; a copy starts, and is
// found complete, through an exclusive reference.
unsafe impl Sync for Pinned {}

impl Gpu {
    /// Allocates page-locked host memory, which is zeroed.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the memory cannot be allocated.
    pub fn pinned(&self, len: usize) -> Result<Pinned, DeviceError> {
        Pinned::new(self, len)
    }
}

impl Pinned {
    fn new(device: &Gpu, len: usize) -> Result<Self, DeviceError> {
        let copies = || Ok(Copies { last: Event::for_waiting(device)?, pending: false });
        let copies = [copies()?, copies()?, copies()?];
        device.bind()?;
        // The driver refuses to allocate 0 bytes. Without flags the memory is cached, which the CPU
        // needs to read results; cudarc's default is write-combined.
        // SAFETY: the memory is freed once, by `drop`.
        let start = unsafe { result::malloc_host(len.max(1), 0) };
        let start = start.map_err(device.failed("allocating page-locked memory"))?;
        let start = NonNull::new(start.cast::<u8>()).expect("allocated memory is not null");
        // A slice must not contain undefined bytes.
        // SAFETY: `len` bytes were allocated there.
        unsafe { start.write_bytes(0, len) };
        Ok(Self { device: device.clone(), start, len, copies })
    }

    /// Waits for the copies that use the memory, and gives it back to the host.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if a copy, or a kernel before it, failed. No copy is pending then
    /// either, but the bytes are unspecified.
    pub fn wait(&mut self) -> Result<(), DeviceError> {
        let mut ended = Ok(());
        for copies in self.copies.iter_mut().filter(|copies| copies.pending) {
            ended = ended.and(copies.last.synchronize());
            copies.pending = false;
        }
        ended.map_err(self.device.failed("executing work on the GPU"))
    }

    /// Whether no copy uses the memory any more. Does not wait. If so, the memory belongs to the host.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if a copy, or a kernel before it, failed.
    pub fn is_idle(&mut self) -> Result<bool, DeviceError> {
        for copies in self.copies.iter_mut().filter(|copies| copies.pending) {
            let complete = copies.last.is_complete();
            if !complete.map_err(self.device.failed("executing work on the GPU"))? {
                return Ok(false);
            }
            copies.pending = false;
        }
        Ok(true)
    }

    /// Copies a part of the memory to the GPU, after all earlier work of the stream.
    pub(super) fn upload(
        &mut self,
        part: Range<usize>,
        (stream, lane): (&CudaStream, usize),
        to: u64,
    ) -> Result<(), DriverError> {
        // SAFETY: the part is within the memory, and is neither freed nor written before the copy has
        // happened: `drop` waits for it, and `deref_mut` panics.
        let from = unsafe { slice::from_raw_parts(self.at(&part), part.len()) };
        // SAFETY: the lane checked that its memory has these bytes at `to`.
        self.copy(lane, stream, || unsafe {
            result::memcpy_htod_async(to, from, stream.cu_stream())
        })
    }

    /// Copies from the GPU to a part of the memory, after all earlier work of the stream.
    pub(super) fn download(
        &mut self,
        part: Range<usize>,
        (stream, lane): (&CudaStream, usize),
        from: u64,
    ) -> Result<(), DriverError> {
        // SAFETY: the part is within the memory, and is neither freed nor accessed before the copy has
        // happened: `drop` waits for it, and `deref` and `deref_mut` panic.
        let to = unsafe { slice::from_raw_parts_mut(self.at(&part), part.len()) };
        // SAFETY: the lane checked that its memory has these bytes at `from`.
        self.copy(lane, stream, || unsafe {
            result::memcpy_dtoh_async(to, from, stream.cu_stream())
        })
    }

    /// The address of a part, which must be within the memory.
    fn at(&self, part: &Range<usize>) -> *mut u8 {
        assert!(part.start <= part.end && part.end <= self.len, "{part:?} of {}", self.len);
        // SAFETY: the part is within the memory, as asserted above.
        unsafe { self.start.add(part.start).as_ptr() }
    }

    /// Starts a copy and records the event after it.
    fn copy(
        &mut self,
        lane: usize,
        stream: &CudaStream,
        copy: impl FnOnce() -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        let copies = &mut self.copies[lane];
        stream.context().bind_to_thread()?;
        let started = copy().and_then(|()| copies.last.record(stream));
        if started.is_err() {
            // A copy that started anyway has no event.
            stream.synchronize()?;
        } else {
            copies.pending = true;
        }
        started
    }

    /// Panics if the memory may still belong to the GPU.
    fn assert_idle(&self) {
        let pending = self.copies.iter().any(|copies| copies.pending);
        assert!(!pending, "page-locked memory was accessed before its copies were waited for");
    }
}

impl Deref for Pinned {
    type Target = [u8];

    /// # Panics
    /// Panics if a copy was started and not waited for since.
    fn deref(&self) -> &[u8] {
        self.assert_idle();
        // SAFETY: `len` bytes are initialized, and no copy is pending.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pinned {
    /// # Panics
    /// Panics if a copy was started and not waited for since.
    fn deref_mut(&mut self) -> &mut [u8] {
        self.assert_idle();
        // SAFETY: `len` bytes are initialized, and no copy is pending.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        drop(self.wait());
        let bound = self.device.context.bind_to_thread();
        // An error is ignored here: a driver that cannot free memory has failed before, and that error
        // was returned.
        // SAFETY: `new` allocated the memory, it is freed once, and no copy is pending.
        bound.and_then(|()| unsafe { result::free_host(self.start.as_ptr().cast()) }).ok();
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({} bytes, {:?})", self.len, self.device)
    }
}
