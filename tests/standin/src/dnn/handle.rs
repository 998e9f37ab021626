//! Handles, versions and status names.

use std::ffi::c_char;

use super::{Answer, Status, code};
use crate::machine::inside;
use crate::table::{Handle, Out, Table, put};

/// The context of each handle, and its stream: the handle of the caller, 0 for the NULL stream.
static HANDLES: Table<(usize, Handle)> = Table::new();

#[unsafe(no_mangle)]
extern "C" fn cudnnCreate(handle: Out<'_, usize>) -> u32 {
    code(inside(|machine| {
        let context = machine.current()?;
        put(handle, HANDLES.insert((context, 0)), Status::NULL_POINTER)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnDestroy(handle: usize) -> u32 {
    code(HANDLES.remove(handle).map(drop).ok_or(Status::NOT_INITIALIZED))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnSetStream(handle: usize, stream: usize) -> u32 {
    code(inside(|machine| {
        let (context, _) = HANDLES.get(handle).ok_or(Status::NOT_INITIALIZED)?;
        let resolved = machine.resolve(stream)?;
        if machine.queues.stream(resolved).context != context {
            return Err(Status::BAD_PARAM);
        }
        HANDLES.set(handle, (context, stream)).ok_or(Status::NOT_INITIALIZED)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnGetStream(handle: usize, stream: Out<'_, usize>) -> u32 {
    code(stream_of(handle).and_then(|found| put(stream, found, Status::NULL_POINTER)))
}

pub(super) fn stream_of(handle: usize) -> Answer<Handle> {
    HANDLES.get(handle).map(|(_, stream)| stream).ok_or(Status::NOT_INITIALIZED)
}

/// The context in which a handle was created.
pub(super) fn context_of(handle: usize) -> Answer<usize> {
    HANDLES.get(handle).map(|(context, _)| context).ok_or(Status::NOT_INITIALIZED)
}

/// The version is 9.21.0.
#[unsafe(no_mangle)]
extern "C" fn cudnnGetVersion() -> usize {
    92_100
}

/// The version of the CUDA runtime is 13.0.
#[unsafe(no_mangle)]
extern "C" fn cudnnGetCudartVersion() -> usize {
    13_000
}

#[unsafe(no_mangle)]
extern "C" fn cudnnGetErrorString(status: u32) -> *const c_char {
    Status(status).text().as_ptr().cast()
}
