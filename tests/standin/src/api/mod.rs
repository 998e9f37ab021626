//! The functions of the driver under their C names, in one file for each chapter of NVIDIA's "CUDA Driver API".
//!
//! They are the functions that cudarc's safe API calls for devices, contexts, memory, streams, events, modules and launches.
//! Signatures and error codes follow cuda.h 12.8 and that manual, and were not checked against a GPU. Handles are passed as
//! numbers, because they are never dereferenced.

mod context;
mod copy;
pub(crate) mod counts;
mod device;
mod event;
mod graph;
mod launch;
mod memory;
mod module;
mod nvrtc;
mod stream;

use std::mem::MaybeUninit;

use crate::code::{Answer, Code};

/// An output pointer of a function, which may be null.
type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

fn put<T>(out: Out<'_, T>, value: T) -> Answer {
    out.ok_or(Code::INVALID_VALUE)?.write(value);
    Ok(())
}

/// The handle of a context, whose index is that of its device.
fn context_handle(context: usize) -> usize {
    (context + 1) * 0x100
}

fn context_of(handle: usize, contexts: usize) -> Answer<usize> {
    let context = (handle / 0x100).wrapping_sub(1);
    let fits = handle.is_multiple_of(0x100) && context < contexts;
    if fits { Ok(context) } else { Err(Code::INVALID_CONTEXT) }
}
