//! The system's loader: opens shared libraries and finds their functions.

#![expect(unsafe_code, reason = "calls of the loader")]

use std::ffi::{CStr, CString, OsStr, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::ptr::NonNull;

/// A library that was opened, and is never closed: the libraries of CUDA start threads, and other libraries find them by
/// their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handle(NonNull<c_void>);

// SAFETY: the loader may be called from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

/// Why a library was not opened.
#[derive(Debug)]
pub(super) enum Refusal {
    /// There is no file of this name.
    Absent,
    /// There is one, and the loader refused it for this reason.
    Broken(String),
}

/// Opens a library by its path, or by a name that the loader looks for.
pub(super) fn open(name: &OsStr) -> Result<Handle, Refusal> {
    let Ok(text) = CString::new(name.as_bytes()) else { return Err(Refusal::Absent) };
    // Its symbols are global, so that libraries which are opened later find them as if they were linked with it.
    // SAFETY: a name that is terminated by NUL. Loading a library runs its initializers, and these are NVIDIA's own.
    let handle = unsafe { libc::dlopen(text.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if let Some(handle) = NonNull::new(handle) {
        return Ok(Handle(handle));
    }
    // SAFETY: no preconditions.
    let reason = unsafe { libc::dlerror() };
    if reason.is_null() {
        return Err(Refusal::Absent);
    }
    // SAFETY: the message is terminated by NUL, and is copied before the next call of this thread.
    let reason = unsafe { CStr::from_ptr(reason) }.to_string_lossy().into_owned();
    // The name of another library at the beginning means that this one was found, and needs the other one.
    let absent = reason.strip_prefix(&*name.to_string_lossy());
    if absent.is_some_and(|rest| rest.contains("No such file or directory")) {
        return Err(Refusal::Absent);
    }
    Err(Refusal::Broken(reason))
}

impl Handle {
    /// The file of the library.
    pub(super) fn path(self) -> Option<PathBuf> {
        let mut map: *mut LinkMap = std::ptr::null_mut();
        let out: *mut *mut LinkMap = &raw mut map;
        // SAFETY: an open library, and a place for the pointer that this request returns.
        if unsafe { libc::dlinfo(self.0.as_ptr(), libc::RTLD_DI_LINKMAP, out.cast()) } != 0 {
            return None;
        }
        // SAFETY: the loader's description of a library that stays open, whose name is terminated by NUL.
        let name = unsafe { CStr::from_ptr(map.as_ref()?.name) };
        Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
    }

    /// A function of the library, or of those that it is linked with.
    ///
    /// # Safety
    /// `F` is the type of the function with this name.
    pub(super) unsafe fn function<F: Copy>(self, name: &CStr) -> Option<F> {
        assert_eq!(size_of::<F>(), size_of::<*mut c_void>(), "the type of a function");
        // SAFETY: an open library, and a name that is terminated by NUL.
        let address = NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })?;
        // SAFETY: the caller guarantees the type, which has the size of an address.
        Some(unsafe { std::mem::transmute_copy(&address) })
    }
}

/// The beginning of `struct link_map` of link.h.
#[repr(C)]
struct LinkMap {
    address: usize,
    name: *const std::ffi::c_char,
}
