//! Page-locked memory of the host, which knows the copies that use it.
//!
//! cudarc's own type does not wait for its copies unless event tracking is on, and is freed under them.
//! This one records an event after each copy, one for each lane, and waits for it before anybody
//! looks at the bytes or frees them.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::fmt;
use std::ops::{Deref, DerefMut, Range};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicBool, Ordering};

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream, DriverError, result};

use super::{Device, DeviceError, LANES};

/// Page-locked memory of the host.
pub struct Pinned {
    device: Device,
    start: NonNull<u8>,
    len: usize,
    copies: [Copies; LANES],
}

/// The copies of one lane.
struct Copies {
    /// Recorded after the last one.
    last: CudaEvent,
    /// Whether it may not have happened yet.
    running: AtomicBool,
}

// SAFETY: it owns its memory, as a `Vec` does; the driver's calls are safe from any thread.
unsafe impl Send for Pinned {}
// SAFETY: as above; shared, it is only read, after waiting for what writes.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(super) fn new(device: &Device, len: usize) -> Result<Self, DeviceError> {
        let failed = device.failed("allocating page-locked memory");
        let copies = || {
            // Whoever waits sleeps: the cores are for decoding.
            let last = device.context.new_event(Some(CUevent_flags::CU_EVENT_BLOCKING_SYNC))?;
            Ok(Copies { last, running: AtomicBool::new(false) })
        };
        let copies = [copies().map_err(&failed)?, copies().map_err(&failed)?];
        device.context.bind_to_thread().map_err(&failed)?;
        // The driver refuses to allocate nothing. No flags: memory that the CPU reads back must be
        // cached, and cudarc's default is not.
        // SAFETY: freed once, by `drop`.
        let start = unsafe { result::malloc_host(len.max(1), 0) }.map_err(&failed)?;
        let start = NonNull::new(start.cast::<u8>()).expect("memory that was allocated");
        // SAFETY: `len` bytes were allocated there. A slice may not be of undefined bytes.
        unsafe { start.write_bytes(0, len) };
        Ok(Self { device: device.clone(), start, len, copies })
    }

    /// Waits for the copies that use it, and says how they ended.
    ///
    /// # Errors
    /// When a copy, or a kernel before it, failed. None is running then either.
    pub fn wait(&self) -> Result<(), DeviceError> {
        let mut ended = Ok(());
        for copies in &self.copies {
            if copies.running.load(Ordering::Acquire) {
                ended = ended.and(copies.last.synchronize());
                copies.running.store(false, Ordering::Release);
            }
        }
        ended.map_err(self.device.failed("what the GPU did"))
    }

    /// Copies a part of it to the device's memory, after what the stream was given before.
    pub(super) fn upload(
        &self,
        part: Range<usize>,
        (stream, lane): (&CudaStream, usize),
        to: u64,
    ) -> Result<(), DriverError> {
        // SAFETY: the part is inside, and stays until the copy has happened: `drop` and whoever
        // writes wait for it.
        let from = unsafe { slice::from_raw_parts(self.at(&part), part.len()) };
        // SAFETY: the lane checked that there are as many bytes at `to`.
        self.copy(lane, stream, || unsafe {
            result::memcpy_htod_async(to, from, stream.cu_stream())
        })
    }

    /// Copies from the device's memory to a part of it, after what the stream was given before.
    pub(super) fn download(
        &mut self,
        part: Range<usize>,
        (stream, lane): (&CudaStream, usize),
        from: u64,
    ) -> Result<(), DriverError> {
        // SAFETY: the part is inside, and stays until the copy has happened: `drop` and whoever
        // looks wait for it.
        let to = unsafe { slice::from_raw_parts_mut(self.at(&part), part.len()) };
        // SAFETY: the lane checked that there are as many bytes at `from`.
        self.copy(lane, stream, || unsafe {
            result::memcpy_dtoh_async(to, from, stream.cu_stream())
        })
    }

    /// Where a part begins.
    fn at(&self, part: &Range<usize>) -> *mut u8 {
        assert!(part.start <= part.end && part.end <= self.len, "{part:?} of {}", self.len);
        // SAFETY: it is inside.
        unsafe { self.start.add(part.start).as_ptr() }
    }

    fn copy(
        &self,
        lane: usize,
        stream: &CudaStream,
        copy: impl FnOnce() -> Result<(), DriverError>,
    ) -> Result<(), DriverError> {
        let copies = &self.copies[lane];
        stream.context().bind_to_thread()?;
        let started = copy().and_then(|()| copies.last.record(stream));
        if started.is_err() {
            // Whatever was started has no event.
            stream.synchronize()?;
        } else {
            copies.running.store(true, Ordering::Release);
        }
        started
    }
}

impl Deref for Pinned {
    type Target = [u8];

    /// What a failed copy leaves are some bytes or other: see [`Pinned::wait`].
    fn deref(&self) -> &[u8] {
        drop(self.wait());
        // SAFETY: `len` initialised bytes, and no copy that writes them is running.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        drop(self.wait());
        // SAFETY: `len` initialised bytes, and no copy is running.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        drop(self.wait());
        let bound = self.device.context.bind_to_thread();
        // SAFETY: allocated by `new`, freed once, and no copy is running. A driver that cannot free
        // it has failed before, and said so.
        bound.and_then(|()| unsafe { result::free_host(self.start.as_ptr().cast()) }).ok();
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({} bytes, {:?})", self.len, self.device)
    }
}
