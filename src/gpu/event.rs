//! Events: marks in a stream. cudarc's own type cannot combine the flags of `cuEventCreate`.

#![expect(unsafe_code, reason = "calls of the CUDA driver")]

use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{CudaContext, CudaStream, DriverError};

use super::device::Gpu;
use super::error::DeviceError;

/// A thread that waits sleeps, and leaves its core to decoding.
const BLOCKING_SYNC: u32 = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32;
/// Without a time, recording and waiting cost less.
const DISABLE_TIMING: u32 = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as u32;

/// A mark in a stream.
#[derive(Debug)]
pub(super) struct Event {
    event: sys::CUevent,
    context: Arc<CudaContext>,
}

// SAFETY: calls to the driver are safe from any thread.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Gpu {
    /// Creates an event for ordering work and waiting for it. It keeps no time.
    pub(super) fn event(&self) -> Result<Event, DeviceError> {
        let event = Event::new(&self.context, BLOCKING_SYNC | DISABLE_TIMING);
        event.map_err(self.failed("creating an event"))
    }
}

impl Event {
    fn new(context: &Arc<CudaContext>, flags: u32) -> Result<Self, DriverError> {
        context.bind_to_thread()?;
        let mut event = std::ptr::null_mut();
        // SAFETY: a place for the event, which `drop` destroys.
        unsafe { sys::cuEventCreate(&raw mut event, flags) }.result()?;
        Ok(Self { event, context: Arc::clone(context) })
    }

    /// Marks the end of the work that the stream has so far.
    pub(super) fn record(&self, stream: &CudaStream) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: a live event and stream.
        unsafe { sys::cuEventRecord(self.event, stream.cu_stream()) }.result()
    }

    /// Makes all later work of a stream wait for the mark.
    pub(super) fn hold(&self, stream: &CudaStream) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: a live event and stream, and the flags that the driver defines.
        unsafe { sys::cuStreamWaitEvent(stream.cu_stream(), self.event, 0) }.result()
    }

    /// Waits until the GPU has reached the mark.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: a live event.
        unsafe { sys::cuEventSynchronize(self.event) }.result()
    }

    /// Whether the GPU has reached the mark.
    pub(super) fn is_complete(&self) -> Result<bool, DriverError> {
        self.context.bind_to_thread()?;
        // SAFETY: a live event.
        match unsafe { sys::cuEventQuery(self.event) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            status => status.result().map(|()| true),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // An error is ignored here: it was returned by what failed before.
        // SAFETY: the event was created once and is destroyed once.
        self.context
            .bind_to_thread()
            .and_then(|()| unsafe { sys::cuEventDestroy_v2(self.event) }.result())
            .ok();
    }
}
