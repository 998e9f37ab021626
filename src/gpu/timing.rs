//! Measures work of a lane by the GPU's own clock.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::ops::Range;
use std::time::Duration;

use cudarc::driver::result;

use super::error::DeviceError;
use super::lane::Lane;

impl Lane {
    /// Sets every byte of a part of the memory.
    ///
    /// # Panics
    /// Panics if the part is not within the memory.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn fill(&self, part: Range<usize>, byte: u8) -> Result<(), DeviceError> {
        let (address, bytes, stream) = (self.address(part.clone()), part.len(), self.stream());
        // SAFETY: the part is within the lane's memory, which only the lane's stream uses.
        let filled = unsafe { result::memset_d8_async(address, byte, bytes, stream.cu_stream()) };
        filled.map_err(self.device().failed("filling device memory"))
    }

    /// Runs work and waits for it. Returns the time that it took on the GPU.
    ///
    /// # Errors
    /// The error of the work, or [`DeviceError::Driver`] if the driver fails.
    pub fn time<E: From<DeviceError>>(
        &self,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<Duration, E> {
        let (start, end) = (self.device().timing_event()?, self.device().timing_event()?);
        self.record(&start)?;
        work()?;
        self.record(&end)?;
        Ok(end.since(&start)?)
    }
}
