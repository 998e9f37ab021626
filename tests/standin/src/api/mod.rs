//! The driver's functions under their C names, a file for each chapter of NVIDIA's "CUDA Driver API".
//!
//! Which functions: those that cudarc's safe API calls for devices, contexts, memory, streams, events, modules, launches.
//! Signatures and error codes follow cuda.h 12.8 and the text of that manual; no claim was checked against a GPU.
//! A handle arrives as a number, since nothing ever follows it.

mod context;
mod copy;
mod device;
mod event;
mod launch;
mod memory;
mod module;
mod nvrtc;
mod stream;

use std::mem::MaybeUninit;

use crate::code::{Answer, Code};

/// Where a function puts a result: a pointer, perhaps null.
type Out<'a, T> = Option<&'a mut MaybeUninit<T>>;

fn put<T>(out: Out<'_, T>, value: T) -> Answer {
    out.ok_or(Code::INVALID_VALUE)?.write(value);
    Ok(())
}

/// A context's handle; its number is its device's.
fn context_handle(context: usize) -> usize {
    (context + 1) * 0x100
}

fn context_of(handle: usize, contexts: usize) -> Answer<usize> {
    let context = (handle / 0x100).wrapping_sub(1);
    let fits = handle.is_multiple_of(0x100) && context < contexts;
    if fits { Ok(context) } else { Err(Code::INVALID_CONTEXT) }
}
