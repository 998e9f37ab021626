//! A communicator by its handle, which cudarc does not expose.

use cudarc::driver::{CudaSlice, DevicePtr as _};
use cudarc::nccl::sys::ncclResult_t;
use cudarc::nccl::{Id, result, sys};

use crate::gpu::{Failure, Gpu, Outcome};

pub(super) struct Raw(pub(super) sys::ncclComm_t);

// SAFETY: a handle may be used on any thread.
unsafe impl Send for Raw {}
// SAFETY: as above.
unsafe impl Sync for Raw {}

impl Raw {
    pub(super) fn new(gpu: &Gpu, id: &Id, rank: usize) -> Result<Self, Failure> {
        gpu.context.bind_to_thread()?;
        let mut comm = std::ptr::null_mut();
        let id = sys::ncclUniqueId { internal: *id.internal() };
        // SAFETY: the output pointer is valid.
        unsafe { result::comm_init_rank(&raw mut comm, 2, id, rank as i32)? };
        Ok(Self(comm))
    }

    pub(super) fn error(&self) -> Result<ncclResult_t, Failure> {
        let mut error = ncclResult_t::ncclSuccess;
        // SAFETY: the communicator is valid.
        unsafe { sys::ncclCommGetAsyncError(self.0, &raw mut error).result()? };
        Ok(error)
    }

    pub(super) fn abort(&self) -> Outcome {
        // SAFETY: the communicator is valid, and is not used afterward.
        unsafe { result::comm_abort(self.0)? };
        Ok(())
    }

    pub(super) fn sum_in_place(&self, gpu: &Gpu, values: &CudaSlice<f32>) -> Outcome {
        let at = values.device_ptr(&gpu.two).0 as *mut std::ffi::c_void;
        let (kind, sum) = (sys::ncclDataType_t::ncclFloat32, sys::ncclRedOp_t::ncclSum);
        // SAFETY: the buffer has `count` elements.
        unsafe {
            result::all_reduce(at, at, values.len(), kind, sum, self.0, gpu.two.cu_stream().cast())?
        };
        Ok(())
    }
}
