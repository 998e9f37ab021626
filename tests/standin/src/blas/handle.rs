//! Handles, modes, workspaces, version and status names.

use std::ffi::{c_char, c_int};

use super::{Answer, Status, code, wrong};
use crate::machine::inside;
use crate::memory::Operand;
use crate::table::{Out, Table, put};

#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) context: usize,
    /// The handle of the caller, 0 for the NULL stream.
    pub(super) stream: usize,
    pub(super) math: u32,
    pub(super) workspace: Option<Operand>,
}

static HANDLES: Table<Handle> = Table::new();

pub(super) fn get(handle: usize) -> Answer<Handle> {
    HANDLES.get(handle).ok_or(Status::NOT_INITIALIZED)
}

fn set(handle: usize, value: Handle) -> Answer {
    HANDLES.set(handle, value).ok_or(Status::NOT_INITIALIZED)
}

#[unsafe(no_mangle)]
extern "C" fn cublasCreate_v2(handle: Out<'_, usize>) -> u32 {
    code(inside(|machine| {
        let context = machine.current()?;
        let made = Handle { context, stream: 0, math: 0, workspace: None };
        put(handle, HANDLES.insert(made), Status::INVALID_VALUE)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cublasDestroy_v2(handle: usize) -> u32 {
    code(HANDLES.remove(handle).map(drop).ok_or(Status::NOT_INITIALIZED))
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetStream_v2(handle: usize, stream: usize) -> u32 {
    code(inside(|machine| {
        let found = get(handle)?;
        let resolved = machine.resolve(stream)?;
        if machine.queues.stream(resolved).context != found.context {
            return wrong(Status::INVALID_VALUE, "the stream belongs to another device");
        }
        set(handle, Handle { stream, workspace: None, ..found })
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetStream_v2(handle: usize, stream: Out<'_, usize>) -> u32 {
    code(get(handle).and_then(|found| put(stream, found.stream, Status::INVALID_VALUE)))
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetMathMode(handle: usize, math: u32) -> u32 {
    // Bit 4 forbids that parts of a sum are rounded to the type of C.
    code(get(handle).and_then(|found| match math & !16 {
        0..=3 => set(handle, Handle { math, ..found }),
        _ => wrong(Status::INVALID_VALUE, format!("math mode {math}")),
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetMathMode(handle: usize, math: Out<'_, u32>) -> u32 {
    code(get(handle).and_then(|found| put(math, found.math, Status::INVALID_VALUE)))
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetWorkspace_v2(handle: usize, address: u64, bytes: usize) -> u32 {
    code(get(handle).and_then(|found| {
        if !address.is_multiple_of(256) {
            return wrong(Status::INVALID_VALUE, "the workspace is not aligned to 256 bytes");
        }
        let workspace = Operand { name: "workspace", address, bytes: bytes as u64 };
        let workspace = (address != 0 && bytes > 0).then_some(workspace);
        set(handle, Handle { workspace, ..found })
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cublasSetPointerMode_v2(handle: usize, mode: u32) -> u32 {
    code(get(handle).and_then(|_| match mode {
        0 => Ok(()),
        _ => wrong(Status::NOT_SUPPORTED, "alpha and beta on the device"),
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetPointerMode_v2(handle: usize, mode: Out<'_, u32>) -> u32 {
    code(get(handle).and_then(|_| put(mode, 0, Status::INVALID_VALUE)))
}

/// The version is 13.0.0.
#[unsafe(no_mangle)]
extern "C" fn cublasGetVersion_v2(_handle: usize, version: Out<'_, c_int>) -> u32 {
    code(put(version, 130_000, Status::INVALID_VALUE))
}

/// The properties are major version, minor version and patch level.
#[unsafe(no_mangle)]
extern "C" fn cublasGetProperty(property: c_int, value: Out<'_, c_int>) -> u32 {
    let found = [13, 0, 0].get(usize::try_from(property).unwrap_or(usize::MAX));
    let found = found.copied().ok_or(Status::INVALID_VALUE);
    code(found.and_then(|found| put(value, found, Status::INVALID_VALUE)))
}

#[unsafe(no_mangle)]
extern "C" fn cublasLtGetProperty(property: c_int, value: Out<'_, c_int>) -> u32 {
    cublasGetProperty(property, value)
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetStatusName(status: u32) -> *const c_char {
    Status(status).text().as_ptr().cast()
}

#[unsafe(no_mangle)]
extern "C" fn cublasGetStatusString(status: u32) -> *const c_char {
    Status(status).text().as_ptr().cast()
}
