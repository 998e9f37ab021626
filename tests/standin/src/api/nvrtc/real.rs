//! The real NVRTC, to which the stand-in's functions forward if `FOREBAY_STANDIN_NVRTC` names its file.

use std::ffi::{CStr, CString, c_void};
use std::ptr::NonNull;
use std::sync::OnceLock;

use crate::config::Config;
use crate::report::log;

/// The address of a function of the real NVRTC. `None` if there is none.
pub(super) fn symbol(name: &CStr) -> Option<NonNull<c_void>> {
    static LIBRARY: OnceLock<Option<usize>> = OnceLock::new();
    let library = (*LIBRARY.get_or_init(open))?;
    let library = std::ptr::with_exposed_provenance_mut(library);
    // SAFETY: an open library, and a name that is terminated by NUL.
    let found = NonNull::new(unsafe { libc::dlsym(library, name.as_ptr()) });
    if found.is_none() {
        log(&format!("the real NVRTC has no {}", name.to_string_lossy()));
    }
    found
}

fn open() -> Option<usize> {
    let path = Config::real_nvrtc()?;
    let file = CString::new(path.as_bytes()).ok()?;
    // SAFETY: a path that is terminated by NUL. Its functions stay its own, because they have the names of the stand-in's.
    let library = unsafe { libc::dlopen(file.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if library.is_null() {
        log(&format!("{path} cannot be loaded"));
        return None;
    }
    Some(library.expose_provenance())
}

/// Returns what the real function returns, if there is a real NVRTC.
macro_rules! forward {
    ($name:ident($($value:expr => $kind:ty),*)) => {
        if let Some(address) = real::symbol(const { c_name(concat!(stringify!($name), "\0")) }) {
            // SAFETY: the real function has this type, by nvrtc.h.
            let function = unsafe {
                std::mem::transmute::<*mut std::ffi::c_void, unsafe extern "C" fn($($kind),*) -> u32>(address.as_ptr())
            };
            // SAFETY: the caller guarantees what the function requires.
            return unsafe { function($($value),*) };
        }
    };
}
pub(super) use forward;
