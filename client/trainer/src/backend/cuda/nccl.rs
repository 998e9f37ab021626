//! The functions of NCCL that are used. cudarc has the types, but never asks the loader for `libnccl.so.2`.

#![expect(unsafe_code, reason = "calls of NCCL")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ops::Range;

use cudarc::nccl::sys::{ncclComm_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};
use forebay::gpu::{DeviceError, Gpu, Lane, Library, libraries};

/// A `ncclResult_t`, which newer versions of NCCL may extend.
type Status = u32;

/// The result of calls that continue in the background.
const IN_PROGRESS: Status = 7;

/// The collectives of a stream: addresses of input and output, number of elements, their type.
type AllGather = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    ncclDataType_t,
    ncclComm_t,
    *mut c_void,
) -> Status;
type AllReduce = unsafe extern "C" fn(
    *const c_void,
    *mut c_void,
    usize,
    ncclDataType_t,
    ncclRedOp_t,
    ncclComm_t,
    *mut c_void,
) -> Status;

/// NCCL, with a name for the errors.
#[derive(Clone, Copy)]
pub(super) struct Nccl {
    device: u32,
    get_unique_id: unsafe extern "C" fn(*mut ncclUniqueId) -> Status,
    comm_init_rank: unsafe extern "C" fn(*mut ncclComm_t, c_int, ncclUniqueId, c_int) -> Status,
    comm_get_async_error: unsafe extern "C" fn(ncclComm_t, *mut Status) -> Status,
    comm_destroy: unsafe extern "C" fn(ncclComm_t) -> Status,
    comm_abort: unsafe extern "C" fn(ncclComm_t) -> Status,
    all_gather: AllGather,
    all_reduce: AllReduce,
    get_error_string: unsafe extern "C" fn(Status) -> *const c_char,
}

/// A communicator. It is closed once, by [`Nccl::destroy`] or [`Nccl::abort`].
#[derive(Debug)]
pub(super) struct Comm(ncclComm_t);

// SAFETY: NCCL allows the calls for a communicator on any thread, one at a time.
unsafe impl Send for Comm {}

impl Nccl {
    pub(super) fn open(gpu: &Gpu) -> Result<Self, DeviceError> {
        let device = gpu.number();
        let library = libraries::load(device, Library::Nccl)?;
        macro_rules! function {
            ($name:literal) => {
                // SAFETY: the field has the type of this function in nccl.h.
                unsafe { library.function($name) }.ok_or_else(|| DeviceError::Driver {
                    device,
                    call: "loading NCCL",
                    status: format!(
                        "{library} lacks {}: install a newer NCCL 2",
                        $name.to_string_lossy()
                    ),
                })?
            };
        }
        Ok(Self {
            device,
            get_unique_id: function!(c"ncclGetUniqueId"),
            comm_init_rank: function!(c"ncclCommInitRank"),
            comm_get_async_error: function!(c"ncclCommGetAsyncError"),
            comm_destroy: function!(c"ncclCommDestroy"),
            comm_abort: function!(c"ncclCommAbort"),
            all_gather: function!(c"ncclAllGather"),
            all_reduce: function!(c"ncclAllReduce"),
            get_error_string: function!(c"ncclGetErrorString"),
        })
    }

    fn text(&self, status: Status) -> String {
        // SAFETY: any status is valid, and the text is a constant that is terminated by NUL.
        let text = unsafe { CStr::from_ptr((self.get_error_string)(status)) };
        text.to_string_lossy().into_owned()
    }

    fn result(&self, call: &'static str, status: Status) -> Result<(), DeviceError> {
        if status == 0 {
            return Ok(());
        }
        Err(DeviceError::Driver { device: self.device, call, status: self.text(status) })
    }

    pub(super) fn unique_id(&self) -> Result<ncclUniqueId, DeviceError> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: the pointer is valid.
        self.result("ncclGetUniqueId", unsafe { (self.get_unique_id)(&raw mut id) })?;
        Ok(id)
    }

    /// Connects to the other ranks, on the GPU whose context is bound to this thread. Waits for all of them.
    pub(super) fn connect(
        &self,
        id: ncclUniqueId,
        [rank, world]: [u32; 2],
    ) -> Result<Comm, DeviceError> {
        let [rank, world] = [rank, world].map(|n| c_int::try_from(n).expect("below 2^31"));
        let mut comm = std::ptr::null_mut();
        // SAFETY: a valid pointer for the result.
        let status = unsafe { (self.comm_init_rank)(&raw mut comm, world, id, rank) };
        self.result("ncclCommInitRank", status)?;
        Ok(Comm(comm))
    }

    /// The error of work in flight, if there is one.
    pub(super) fn async_error(&self, comm: &Comm) -> Option<String> {
        let mut error = 0;
        // SAFETY: a live communicator, and a valid pointer.
        let status = unsafe { (self.comm_get_async_error)(comm.0, &raw mut error) };
        let error = if status == 0 { error } else { status };
        (error != 0 && error != IN_PROGRESS).then(|| self.text(error))
    }

    /// Closes a communicator all of whose work has finished. A failure has no consequence here.
    pub(super) fn destroy(&self, Comm(comm): Comm) {
        // SAFETY: the communicator is live, and its owner gives it up.
        unsafe { (self.comm_destroy)(comm) };
    }

    /// Closes a communicator, and ends its work in flight. A failure has no consequence here.
    pub(super) fn abort(&self, Comm(comm): Comm) {
        // SAFETY: the communicator is live, and its owner gives it up.
        unsafe { (self.comm_abort)(comm) };
    }

    /// Collects `each` values of all ranks at `to`, where the rank's own ones are already.
    pub(super) fn all_gather(
        &self,
        comm: &Comm,
        lane: &Lane,
        (own, to, each): (u64, u64, usize),
    ) -> Result<(), DeviceError> {
        // SAFETY: the rank's own values are at their position among those of all ranks, as NCCL requires for in-place
        // operation, and the caller orders the lane with those that use the memory.
        let status = unsafe {
            (self.all_gather)(
                own as *const c_void,
                to as *mut c_void,
                each,
                ncclDataType_t::ncclFloat32,
                comm.0,
                lane.stream().cu_stream().cast(),
            )
        };
        self.result("ncclAllGather", status)
    }

    /// Sums values over all ranks, in place.
    pub(super) fn all_reduce(
        &self,
        comm: &Comm,
        lane: &Lane,
        values: &Range<u64>,
    ) -> Result<(), DeviceError> {
        let len = usize::try_from((values.end - values.start) / 4).expect("a range of memory");
        // SAFETY: the caller owns the range, and orders the lane with those that use it.
        let status = unsafe {
            (self.all_reduce)(
                values.start as *const c_void,
                values.start as *mut c_void,
                len,
                ncclDataType_t::ncclFloat32,
                ncclRedOp_t::ncclSum,
                comm.0,
                lane.stream().cu_stream().cast(),
            )
        };
        self.result("ncclAllReduce", status)
    }
}
