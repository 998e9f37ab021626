//! Measures work of a lane by the GPU's own clock.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::ops::Range;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{DriverError, result};

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
        filled.map_err(self.driver_error("filling device memory"))
    }

    /// Runs work and waits for it. Returns the milliseconds that it took on the GPU.
    ///
    /// # Errors
    /// The error of the work, or [`DeviceError::Driver`] if the driver fails.
    pub fn time<E: From<DeviceError>>(
        &self,
        work: impl FnOnce() -> Result<(), E>,
    ) -> Result<f64, E> {
        let failed = self.driver_error("measuring work on the GPU");
        // Events measure time only with this flag; the default of cudarc is not to.
        let event = || self.stream().context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let (start, end) = (event().map_err(&failed)?, event().map_err(&failed)?);
        start.record(self.stream()).map_err(&failed)?;
        work()?;
        let ended = end.record(self.stream()).and_then(|()| start.elapsed_ms(&end));
        Ok(f64::from(ended.map_err(&failed)?))
    }

    fn driver_error(&self, call: &'static str) -> impl Fn(DriverError) -> DeviceError {
        let device = u32::try_from(self.stream().context().ordinal()).unwrap_or(u32::MAX);
        move |error| DeviceError::Driver { device, call, status: format!("{:?}", error.0) }
    }
}
