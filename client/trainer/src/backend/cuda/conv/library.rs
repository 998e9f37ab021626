//! cuDNN itself: its handle, and the functions of its graph API.

#![expect(unsafe_code, reason = "calls of cuDNN")]

use std::ffi::{CStr, c_char, c_void};

use cudarc::cudnn::{result as dnn, sys};
use forebay::gpu::{DeviceError, Gpu, Lane, Library};

use super::refusal::Refusal;

/// A backend descriptor of cuDNN.
pub(super) type Raw = *mut c_void;

/// A handle of cuDNN, which executes on the stream of a lane.
pub(super) struct Handle {
    device: u32,
    pub(super) raw: sys::cudnnHandle_t,
}

impl Handle {
    pub(super) fn open(device: &Gpu) -> Result<Self, DeviceError> {
        device.require(&[Library::Cudnn])?;
        device.bind()?;
        let number = device.number();
        let raw = dnn::create_handle().map_err(|e| driver_error(number, "cudnnCreate", &e))?;
        Ok(Self { device: number, raw })
    }

    /// Runs all further convolutions on a lane, which must be dropped after this handle or be detached before.
    pub(super) fn attach(&self, lane: &Lane) -> Result<(), DeviceError> {
        self.set_stream(lane.stream().cu_stream().cast())
    }

    /// Forgets the lane. Nothing may be executed until another one is attached.
    pub(super) fn detach(&self) -> Result<(), DeviceError> {
        self.set_stream(std::ptr::null_mut())
    }

    fn set_stream(&self, stream: sys::cudaStream_t) -> Result<(), DeviceError> {
        // SAFETY: a live handle, and no stream or that of a lane that the caller keeps as long as it is attached.
        let set = unsafe { dnn::set_stream(self.raw, stream) };
        set.map_err(|e| self.error("cudnnSetStream", &e))
    }

    pub(super) fn error(&self, call: &'static str, status: &dyn std::fmt::Display) -> DeviceError {
        driver_error(self.device, call, status)
    }
}

fn driver_error(device: u32, call: &'static str, status: &dyn std::fmt::Display) -> DeviceError {
    DeviceError::Driver { device, call, status: status.to_string() }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: created once and destroyed once. A failure has no consequence here.
        unsafe { dnn::destroy_handle(self.raw) }.ok();
    }
}

/// The version of cuDNN, such as 9.21.0.
pub(super) fn version() -> String {
    let number = dnn::get_version();
    format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
}

macro_rules! functions {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal: ($($argument:ty),*) -> $result:ty;)*) => {
        /// The functions of the graph API.
        ///
        /// Loaded here instead of by cudarc, which panics where one is missing, and whose enumerations lack the
        /// statuses of later versions.
        #[derive(Clone, Copy)]
        pub(super) struct GraphApi {
            $($(#[$doc])* $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl GraphApi {
            /// # Errors
            /// If this libcudnn has no graph API.
            pub(super) fn load() -> Result<Self, Refusal> {
                // SAFETY: a handle is open, so the library is present.
                let library = unsafe { sys::culib() };
                $(
                    // SAFETY: the function has this type in all versions of cuDNN that have it.
                    let $name = *unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) -> $result>($symbol)
                    }
                    .map_err(|error| Refusal(format!("libcudnn has no graph API: {error}")))?;
                )*
                Ok(Self { $($name,)* })
            }
        }
    };
}

functions! {
    create = b"cudnnBackendCreateDescriptor\0": (u32, *mut Raw) -> u32;
    destroy = b"cudnnBackendDestroyDescriptor\0": (Raw) -> u32;
    finalize = b"cudnnBackendFinalize\0": (Raw) -> u32;
    set = b"cudnnBackendSetAttribute\0": (Raw, u32, u32, i64, *const c_void) -> u32;
    get = b"cudnnBackendGetAttribute\0": (Raw, u32, u32, i64, *mut i64, *mut c_void) -> u32;
    execute = b"cudnnBackendExecute\0": (sys::cudnnHandle_t, Raw, Raw) -> u32;
    error_string = b"cudnnGetErrorString\0": (u32) -> *const c_char;
}

impl GraphApi {
    /// Creates a descriptor, which the caller must destroy.
    pub(super) fn create(&self, kind: sys::cudnnBackendDescriptorType_t) -> Result<Raw, Refusal> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: room for one descriptor.
        let status = unsafe { (self.create)(kind as u32, &raw mut raw) };
        self.check(status, || format!("creating {kind:?}")).map(|()| raw)
    }

    /// # Safety
    /// The descriptor is live, and not used after this call.
    pub(super) unsafe fn destroy(&self, raw: Raw) {
        // SAFETY: guaranteed by the caller. A failure has no consequence here.
        unsafe { (self.destroy)(raw) };
    }

    /// # Safety
    /// The descriptor is live.
    pub(super) unsafe fn finalize(&self, raw: Raw) -> Result<(), Refusal> {
        // SAFETY: guaranteed by the caller.
        self.check(unsafe { (self.finalize)(raw) }, String::new)
    }

    /// # Safety
    /// The descriptor is live, and the values have the type that `kind` means.
    pub(super) unsafe fn set<T>(
        &self,
        raw: Raw,
        name: sys::cudnnBackendAttributeName_t,
        kind: sys::cudnnBackendAttributeType_t,
        values: &[T],
    ) -> Result<(), Refusal> {
        let count = length(values)?;
        // SAFETY: guaranteed by the caller; cuDNN copies the values.
        let status =
            unsafe { (self.set)(raw, name as u32, kind as u32, count, values.as_ptr().cast()) };
        self.check(status, || format!("setting {name:?}"))
    }

    /// Reads at most as many values of an attribute as there is room. Returns their number.
    ///
    /// # Safety
    /// The descriptor is live, and the values have the type that `kind` means.
    pub(super) unsafe fn get<T>(
        &self,
        raw: Raw,
        name: sys::cudnnBackendAttributeName_t,
        kind: sys::cudnnBackendAttributeType_t,
        values: &mut [T],
    ) -> Result<usize, Refusal> {
        let (room, mut count) = (length(values)?, 0);
        let to = values.as_mut_ptr().cast();
        // SAFETY: guaranteed by the caller, with the room that is passed.
        let status = unsafe { (self.get)(raw, name as u32, kind as u32, room, &raw mut count, to) };
        self.check(status, || format!("reading {name:?}"))?;
        Ok(usize::try_from(count).unwrap_or(0).min(values.len()))
    }

    /// # Safety
    /// The descriptors are live and finalized, and the addresses of the variant pack are of tensors that the plan's
    /// graph describes, in the memory of the lane to which the handle is attached.
    pub(super) unsafe fn execute(
        &self,
        handle: &Handle,
        plan: Raw,
        pack: Raw,
    ) -> Result<(), DeviceError> {
        // SAFETY: guaranteed by the caller.
        let executed = self.check(unsafe { (self.execute)(handle.raw, plan, pack) }, String::new);
        executed.map_err(|refusal| handle.error("cudnnBackendExecute", &refusal))
    }

    fn check(&self, status: u32, doing: impl FnOnce() -> String) -> Result<(), Refusal> {
        if status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS as u32 {
            return Ok(());
        }
        // SAFETY: cuDNN returns a constant for every number.
        let text = unsafe { (self.error_string)(status) };
        let text = if text.is_null() {
            format!("status {status}")
        } else {
            // SAFETY: a constant that ends with 0.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        let doing = doing();
        let context = if doing.is_empty() { doing } else { format!(" when {doing}") };
        Err(Refusal(format!("{text}{context}")))
    }
}

fn length<T>(values: &[T]) -> Result<i64, Refusal> {
    i64::try_from(values.len()).map_err(|error| Refusal(error.to_string()))
}
