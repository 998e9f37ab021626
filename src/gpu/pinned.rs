//! Page-locked host memory that tracks the copies that use it.
//!
//! cudarc's own type does not wait for copies unless event tracking is on, so it can be freed while a
//! copy reads or writes it. [`Pinned`] records an event after the last copy of each lane, and waits
//! for the events before its bytes are accessed or freed.
//!
//! This is sound with shared references: a copy starts only through `&mut`, and a shared reference
//! waits for the copies before it exposes the bytes. While a shared reference exists, no copy can
//! start, and every thread that holds one has waited for those that started before. Threads that wait
//! at the same time wait for the same events, and clear flags that no other thread sets meanwhile.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream, DriverError, result};

use super::device::{Gpu, LANES};
use super::error::DeviceError;

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
    last: CudaEvent,
    /// Whether the event may not have happened yet.
    pending: AtomicBool,
}

// SAFETY: it owns its memory, as a `Vec` does, and calls to the driver are safe from any thread.
unsafe impl Send for Pinned {}
// SAFETY: shared references only read the bytes, after all copies that write them; no copy starts
// while a shared reference exists.
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
        let failed = device.failed("allocating page-locked memory");
        let copies = || {
            // A thread that waits sleeps, and leaves its core to decoding.
            let last = device.context.new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))?;
            Ok(Copies { last, pending: AtomicBool::new(false) })
        };
        let copies = [copies().map_err(&failed)?, copies().map_err(&failed)?];
        device.context.bind_to_thread().map_err(&failed)?;
        // The driver refuses to allocate 0 bytes. Without flags the memory is cached, which the CPU
        // needs to read results; cudarc's default is write-combined.
        // SAFETY: the memory is freed once, by `drop`.
        let start = unsafe { result::malloc_host(len.max(1), 0) }.map_err(&failed)?;
        let start = NonNull::new(start.cast::<u8>()).expect("allocated memory is not null");
        // A slice must not contain undefined bytes.
        // SAFETY: `len` bytes were allocated there.
        unsafe { start.write_bytes(0, len) };
        Ok(Self { device: device.clone(), start, len, copies })
    }

    /// Waits for the copies that use the memory.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if a copy, or a kernel before it, failed. No copy is pending then
    /// either.
    pub fn wait(&self) -> Result<(), DeviceError> {
        let mut ended = Ok(());
        for copies in &self.copies {
            if copies.pending.load(Ordering::Acquire) {
                ended = ended.and(copies.last.synchronize());
                copies.pending.store(false, Ordering::Release);
            }
        }
        ended.map_err(self.device.failed("executing work on the GPU"))
    }

    /// Copies a part of the memory to the GPU, after all earlier work of the stream.
    pub(super) fn upload(
        &mut self,
        part: Range<usize>,
        (stream, lane): (&CudaStream, usize),
        to: u64,
    ) -> Result<(), DriverError> {
        // SAFETY: the part is within the memory, and is neither freed nor written before the copy has
        // happened: `drop` and `deref_mut` wait for it.
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
        // happened: `drop`, `deref` and `deref_mut` wait for it.
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
            *copies.pending.get_mut() = true;
        }
        started
    }
}

impl Deref for Pinned {
    type Target = [u8];

    /// Waits for the copies. After a failed copy the bytes are unspecified; [`Pinned::wait`] returns
    /// the error.
    fn deref(&self) -> &[u8] {
        drop(self.wait());
        // SAFETY: `len` bytes are initialized, and no copy that writes them is pending.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        drop(self.wait());
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
