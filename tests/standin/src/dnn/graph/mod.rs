//! The backend API of cuDNN: graphs of operations, engines that compute them, and execution plans.
//!
//! The contract is that of `cudnn_graph.h`, version 9.28, whose comments list the attributes of each descriptor; numbers that
//! cudarc's bindings lack are never returned. `tests/kernels/plan/contract.py` calls the real library with the same descriptors and
//! compares the answers.
//!
//! Stricter than cuDNN, so that correct calls here are correct there: attributes that the header calls required must be set, also
//! where cuDNN has a default; sizes and strides are positive; a graph has the handle of a device, or a description of one; tensors
//! with the same identifier are equal; a virtual tensor is computed and used; a variant pack names the tensors of its graph and no
//! others, once each; nothing overlaps.
//!
//! Engines compute a convolution, and these fusions, which cuDNN calls by these names:
//! - `ConvBNfprop`: scale, bias and `ReLU` of x, a convolution, and the sum and the sum of squares of each of its channels; f16 only.
//!   The same without scale, bias and `ReLU`, also of bf16, by an engine that is compiled at run time: cuDNN has one, whose plan cannot
//!   be checked without a driver. The convolution's output is stored. The header does not say whether the sums are those of values
//!   before or after rounding: both occur.
//! - `ConvBNwgrad`: scale, bias and `ReLU` of x, and the gradient of a filter; f16 only.
//! - `DgradDreluBNBwdWeight`: the gradient of an image, masked by the `ReLU` of a norm, and the gradient of the norm; f16 only.
//!
//! `NOT_SUPPORTED` here: all other graphs, all layouts but packed channels-last, dilation, groups, flipped filters, sums other than
//! f32, and types other than f32, f16 and bf16.

mod attributes;
mod compute;
mod descriptor;
mod device;
mod engine;
mod execute;
mod finalize;
mod fused;
mod heuristics;
mod methods;
mod names;
mod norm;
mod operation;
mod operation_graph;
mod pattern;
mod plan;
mod tensor;
mod values;

use std::ffi::c_void;

use super::{Status, code, wrong};
use crate::table::{Out, put};
use descriptor::{DESCRIPTORS, Descriptor, get};

#[unsafe(no_mangle)]
extern "C" fn cudnnBackendCreateDescriptor(kind: u32, out: Out<'_, usize>) -> u32 {
    code(Descriptor::new(kind).and_then(|made| {
        let out = out.ok_or(Status::NULL_POINTER)?;
        put(Some(out), DESCRIPTORS.insert(made), Status::NULL_POINTER)
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnBackendDestroyDescriptor(descriptor: usize) -> u32 {
    code(get(descriptor).map(|_| {
        DESCRIPTORS.remove(descriptor);
    }))
}

/// cuDNN calls it deprecated: `cudnnBackendCreateDescriptor` has already initialized the descriptor.
#[unsafe(no_mangle)]
extern "C" fn cudnnBackendInitialize(descriptor: usize) -> u32 {
    code(get(descriptor).and_then(|_| wrong(Status::NOT_SUPPORTED, "cudnnBackendInitialize")))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnBackendFinalize(descriptor: usize) -> u32 {
    code(get(descriptor).and_then(|mut found| {
        finalize::finalize(&mut found)?;
        DESCRIPTORS.set(descriptor, found).ok_or(Status::BAD_PARAM)
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnBackendSetAttribute(
    descriptor: usize,
    name: u32,
    type_: u32,
    count: i64,
    array: *const c_void,
) -> u32 {
    code(get(descriptor).and_then(|mut found| {
        // SAFETY: the caller passes `count` elements.
        unsafe { found.set(name, type_, count, array) }?;
        DESCRIPTORS.set(descriptor, found).ok_or(Status::BAD_PARAM)
    }))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cudnnBackendGetAttribute(
    descriptor: usize,
    name: u32,
    type_: u32,
    room: i64,
    count: Out<'_, i64>,
    array: *mut c_void,
) -> u32 {
    code(get(descriptor).and_then(|found| {
        if count.is_none() && array.is_null() {
            return wrong(Status::BAD_PARAM, "neither a count nor values are asked for");
        }
        // SAFETY: the caller passes room for this many elements.
        let read = unsafe { found.read(name, type_, room, array) }?;
        if let Some(count) = count {
            count.write(read);
        }
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn cudnnBackendExecute(handle: usize, plan: usize, pack: usize) -> u32 {
    code(execute::execute(handle, plan, pack))
}
