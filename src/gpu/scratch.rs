//! Memory beside that of a lane, for measurements: it keeps what is overwritten, and clears the cache.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::ops::Range;

use cudarc::driver::result;
use cudarc::driver::sys::CUdevice_attribute;

use super::device::Gpu;
use super::error::DeviceError;
use super::lane::Lane;

/// Memory that lanes are copied to and from. Its work is done by a stream of its own, between that of the lane before and after.
#[derive(Debug)]
pub struct Scratch {
    lane: Lane,
    /// Bytes for copies.
    saved: Range<usize>,
    /// Bytes whose clearing leaves nothing else in the L2 cache. None if the driver does not tell its size.
    cache: Range<usize>,
}

impl Gpu {
    /// Allocates memory for copies of `bytes` bytes, and for clearing the L2 cache.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the memory cannot be allocated.
    pub fn scratch(&self, bytes: usize) -> Result<Scratch, DeviceError> {
        let l2 = self.context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
        // Twice the size, because the cache does not replace its oldest lines in order.
        let cache = 2 * l2.ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
        let lane = self.lane(0, (bytes + cache).max(1))?;
        Ok(Scratch { lane, saved: 0..bytes, cache: bytes..bytes + cache })
    }
}

impl Scratch {
    /// Keeps parts of a lane's memory, one after the other.
    ///
    /// # Panics
    /// If the parts are not within the lane's memory, or do not fit into this one.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn save(&self, of: &Lane, parts: &[Range<usize>]) -> Result<(), DeviceError> {
        self.copy(of, parts, |own, other| (own, other))
    }

    /// Copies the same parts back.
    ///
    /// # Panics
    /// If the parts are not within the lane's memory, or do not fit into this one.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn restore(&self, to: &Lane, parts: &[Range<usize>]) -> Result<(), DeviceError> {
        self.copy(to, parts, |own, other| (other, own))
    }

    /// Copies between this memory and parts of a lane's, in the direction that `order` gives: to, from.
    fn copy(
        &self,
        lane: &Lane,
        parts: &[Range<usize>],
        order: impl Fn(u64, u64) -> (u64, u64),
    ) -> Result<(), DeviceError> {
        self.between(lane, || {
            let mut done = 0;
            for part in parts {
                let end = done + part.len();
                assert!(end <= self.saved.end, "{parts:?} do not fit {:?}", self.saved);
                let own = self.lane.address(done..end);
                let (to, from) = order(own, lane.address(part.clone()));
                // SAFETY: both parts are within their memory, as `address` asserts, and different allocations; the streams wait
                // for each other.
                let copied = unsafe {
                    result::memcpy_dtod_async(to, from, part.len(), self.lane.stream().cu_stream())
                };
                copied.map_err(lane.device().failed("copying on the GPU"))?;
                done = end;
            }
            Ok(())
        })
    }

    /// Leaves nothing of a lane's memory in the L2 cache, as after other work.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn clear_cache(&self, before: &Lane) -> Result<(), DeviceError> {
        if self.cache.is_empty() {
            return Ok(());
        }
        self.between(before, || {
            let start = self.lane.address(self.cache.clone());
            // SAFETY: the bytes are within the memory, as `address` asserts.
            let cleared = unsafe {
                result::memset_d8_async(start, 0, self.cache.len(), self.lane.stream().cu_stream())
            };
            cleared.map_err(before.device().failed("clearing memory on the GPU"))
        })
    }

    /// Does work after all earlier work of a lane, and before all later work of it.
    fn between(
        &self,
        lane: &Lane,
        work: impl FnOnce() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        self.lane.follow(lane)?;
        work()?;
        lane.follow(&self.lane)
    }
}
