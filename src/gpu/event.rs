//! Events: points in the work of a stream, at which others wait or the GPU's clock is read.
//!
//! cudarc's own type has one flag at a time. Waiting takes two: an event that also takes the time is slower to record and to
//! wait for.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::mem::MaybeUninit;
use std::time::Duration;

use cudarc::driver::sys::{self, CUevent_flags, CUresult};
use cudarc::driver::{CudaStream, DriverError, result};

use super::device::Gpu;
use super::error::DeviceError;

/// An event of the driver.
#[derive(Debug)]
pub(super) struct Event {
    device: Gpu,
    event: sys::CUevent,
}

// SAFETY: it owns the event, and the driver's functions may be called from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// An event for which a thread waits asleep, and leaves its core to other work. It takes no time.
    pub(super) fn for_waiting(device: &Gpu) -> Result<Self, DeviceError> {
        let flags = [CUevent_flags::CU_EVENT_BLOCKING_SYNC, CUevent_flags::CU_EVENT_DISABLE_TIMING];
        let event = Self::new(device, flags.into_iter().fold(0, |all, flag| all | flag as u32));
        event.map_err(device.failed("creating an event"))
    }

    fn new(device: &Gpu, flags: u32) -> Result<Self, DriverError> {
        device.context.bind_to_thread()?;
        let mut event = MaybeUninit::uninit();
        // SAFETY: the driver writes the event, unless it returns an error.
        let event = unsafe {
            sys::cuEventCreate(event.as_mut_ptr(), flags).result()?;
            event.assume_init()
        };
        Ok(Self { device: device.clone(), event })
    }

    /// Places the event after all earlier work of a stream.
    pub(super) fn record(&self, stream: &CudaStream) -> Result<(), DriverError> {
        self.device.context.bind_to_thread()?;
        // SAFETY: the event exists until it is dropped, and the stream as long as its borrow.
        unsafe { result::event::record(self.event, stream.cu_stream()) }
    }

    /// Makes all later work of a stream wait until the event happens.
    pub(super) fn hold(&self, stream: &CudaStream) -> Result<(), DriverError> {
        self.device.context.bind_to_thread()?;
        // SAFETY: the event exists until it is dropped, and the stream as long as its borrow; the flags are the default.
        unsafe { sys::cuStreamWaitEvent(stream.cu_stream(), self.event, 0) }.result()
    }

    /// Whether the event has happened. One that was never recorded has.
    pub(super) fn is_complete(&self) -> Result<bool, DriverError> {
        self.device.context.bind_to_thread()?;
        // SAFETY: the event exists until it is dropped.
        match unsafe { sys::cuEventQuery(self.event) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            status => status.result().map(|()| true),
        }
    }

    /// Waits until the event happens. One that was never recorded has happened.
    pub(super) fn synchronize(&self) -> Result<(), DriverError> {
        self.device.context.bind_to_thread()?;
        // SAFETY: the event exists until it is dropped.
        unsafe { result::event::synchronize(self.event) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // An error is ignored here: a driver that cannot destroy an event has failed before, and that error was returned.
        let bound = self.device.context.bind_to_thread();
        // SAFETY: `new` created the event, and it is destroyed once.
        bound.and_then(|()| unsafe { result::event::destroy(self.event) }).ok();
    }
}

/// A point in the work of a lane, and the time at which the GPU reaches it.
#[derive(Debug)]
pub struct TimingEvent(Event);

impl Gpu {
    /// Creates an event, for [`Lane::record`](super::Lane::record).
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver fails.
    pub fn timing_event(&self) -> Result<TimingEvent, DeviceError> {
        let event = Event::new(self, CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32);
        event.map(TimingEvent).map_err(self.failed("creating an event"))
    }
}

impl TimingEvent {
    /// Places the event after all earlier work of a stream.
    pub(super) fn record(&self, stream: &CudaStream) -> Result<(), DriverError> {
        self.0.record(stream)
    }

    /// Waits for two events that were recorded, and returns the time from the earlier one to this one, by the GPU's clock.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if work before the events failed, or one was never recorded.
    pub fn since(&self, earlier: &Self) -> Result<Duration, DeviceError> {
        let waited = earlier.0.synchronize().and_then(|()| self.0.synchronize());
        let elapsed = waited.and_then(|()| elapsed(earlier.0.event, self.0.event));
        let milliseconds = elapsed.map_err(self.0.device.failed("executing work on the GPU"))?;
        Ok(Duration::from_secs_f64((f64::from(milliseconds) / 1e3).max(0.0)))
    }
}

/// The milliseconds between two events that have happened. cudarc asks for `cuEventElapsedTime_v2` only, and panics where
/// the driver is older than CUDA 12.8, which has it first.
fn elapsed(from: sys::CUevent, to: sys::CUevent) -> Result<f32, DriverError> {
    type Elapsed = unsafe extern "C" fn(*mut f32, sys::CUevent, sys::CUevent) -> CUresult;
    let mut milliseconds = 0.0;
    // SAFETY: the driver is loaded, the function has this signature under both names, and both events exist as long as their
    // borrows in the caller.
    unsafe {
        let driver = sys::culib();
        let found = driver.get::<Elapsed>(b"cuEventElapsedTime_v2");
        let found = found.or_else(|_older| driver.get::<Elapsed>(b"cuEventElapsedTime"));
        let found = found.map_err(|_missing| DriverError(CUresult::CUDA_ERROR_NOT_SUPPORTED))?;
        found(&raw mut milliseconds, from, to)
    }
    .result()?;
    Ok(milliseconds)
}
