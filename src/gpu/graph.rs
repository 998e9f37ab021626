//! CUDA graphs: the work of a lane, captured once and launched as often as wanted by a single call.

use std::fmt;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, DriverError};

use super::error::DeviceError;
use super::lane::Lane;

/// Captured work of one lane. Launched only on that lane, and dropped before it.
pub struct Graph(CudaGraph);

impl Lane {
    /// Captures the work that `enqueue` puts on this lane, and executes none of it.
    ///
    /// What `enqueue` passes to kernels by value is fixed in the graph; what they read from memory is read at each
    /// launch. It must neither wait for the GPU nor allocate memory, on any lane.
    ///
    /// # Errors
    /// That of `enqueue`, and [`DeviceError::Driver`] if something in it cannot be captured. Nothing was executed
    /// then, and the lane can be used as before.
    pub fn capture<E: From<DeviceError>>(
        &self,
        enqueue: impl FnOnce() -> Result<(), E>,
    ) -> Result<Graph, E> {
        let failed = self.device().failed("capturing a graph");
        // Other threads, which may use the GPU for other work meanwhile, are not restricted.
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream().begin_capture(mode).map_err(&failed)?;
        let enqueued = enqueue();
        let ended = self.stream().end_capture(CUgraphInstantiate_flags(0));
        enqueued?;
        let graph = ended.map_err(&failed)?;
        // The driver has no graph only where the capture became invalid.
        graph.map(Graph).ok_or_else(|| {
            failed(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)).into()
        })
    }

    /// Launches a graph that was captured on this lane.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the launch fails. An error of the work itself is returned by the next call that
    /// waits for it.
    pub fn launch_graph(&self, graph: &Graph) -> Result<(), DeviceError> {
        graph.0.launch().map_err(self.device().failed("launching a graph"))
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}
