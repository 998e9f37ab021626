//! The stand-in's own functions, which CUDA does not have.

#![expect(unsafe_code, reason = "C functions that are looked up by name")]

use std::ffi::CStr;

/// The numbers that the stand-in counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) waits: u64,
    pub(crate) launches: u64,
    pub(crate) graph_launches: u64,
    pub(crate) allocations: u64,
}

/// The address of a function of the stand-in. `None` on a real GPU.
fn standin(function: &CStr) -> Option<*mut libc::c_void> {
    const NAMES: [&CStr; 2] = [c"libcuda.so", c"libcuda.so.1"];
    // SAFETY: the library is loaded already, and is only looked up.
    let symbol = unsafe {
        let find = |name: &CStr| libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        let library = NAMES.iter().map(|name| find(name)).find(|library| !library.is_null())?;
        libc::dlsym(library, function.as_ptr())
    };
    (!symbol.is_null()).then_some(symbol)
}

/// What this thread has called so far.
pub(crate) fn counts() -> Option<Counts> {
    type Count = extern "C" fn(u32) -> u64;
    let function = standin(c"forebayStandinCount")?;
    // SAFETY: the function has this signature.
    let count = unsafe { std::mem::transmute::<*mut libc::c_void, Count>(function) };
    let [waits, launches, graph_launches, allocations] = [0, 1, 2, 3].map(|index| count(index));
    Some(Counts { waits, launches, graph_launches, allocations })
}

/// Makes the stand-in refuse the captures of this thread, or no longer.
pub(crate) fn refuse_captures(refuse: bool) {
    set(c"forebayStandinRefuseCaptures", refuse);
}

/// Makes the stand-in refuse the plans of cuDNN's graph API that this thread makes, or no longer.
pub(crate) fn refuse_plans(refuse: bool) {
    set(c"forebayStandinRefusePlans", refuse);
}

fn set(function: &CStr, refuse: bool) {
    type Refuse = extern "C" fn(bool);
    let function = standin(function).unwrap();
    // SAFETY: the functions have this signature.
    let function = unsafe { std::mem::transmute::<*mut libc::c_void, Refuse>(function) };
    function(refuse);
}

/// Whether the tests run on the stand-in. A GPU must have been opened, which loads the driver.
pub(crate) fn is_standin() -> bool {
    counts().is_some()
}
