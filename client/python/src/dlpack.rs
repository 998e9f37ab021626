//! `DLPack` 1.1, the exchange of tensors between libraries, as `dlpack.h` defines it: versioned for consumers that
//! know it, and the form before it for others.
#![expect(unsafe_code, reason = "DLPack hands over structs of pointers in capsules")]

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::element::Element;
use crate::memory::Memory;

/// `kDLCPU`, and the number of the device.
pub(crate) const CPU: (i32, i32) = (1, 0);

const VERSION: Version = Version { major: 1, minor: 1 };
const READ_ONLY: u64 = 1 << 0;
const IS_COPIED: u64 = 1 << 1;

#[repr(C)]
struct Version {
    major: u32,
    minor: u32,
}

#[repr(C)]
struct DataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

#[repr(C)]
struct Tensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    ndim: i32,
    dtype: DataType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// `DLManagedTensorVersioned`.
#[repr(C)]
struct Versioned {
    version: Version,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
    flags: u64,
    tensor: Tensor,
}

/// `DLManagedTensor`, the form before version 1.
#[repr(C)]
struct Unversioned {
    tensor: Tensor,
    context: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Self)>,
}

/// A form, which is at the start of its [`Exported`].
trait Managed: Sized {
    /// Name of a capsule that was not consumed.
    const NAME: &'static CStr;
}

impl Managed for Versioned {
    const NAME: &'static CStr = c"dltensor_versioned";
}

impl Managed for Unversioned {
    const NAME: &'static CStr = c"dltensor";
}

/// What a capsule points to, with all that it points to.
#[repr(C)]
struct Exported<M> {
    managed: M,
    _memory: Arc<Memory>,
    _shape: Box<[i64]>,
    _strides: Box<[i64]>,
}

/// What a consumer knows and gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Consumer {
    pub(crate) is_versioned: bool,
    pub(crate) is_copied: bool,
}

/// Makes a capsule of an array.
///
/// # Errors
/// When the array is read-only, and the consumer cannot know it.
pub(crate) fn export<'py>(
    py: Python<'py>,
    memory: Arc<Memory>,
    element: Element,
    shape: &[ffi::Py_ssize_t],
    consumer: Consumer,
) -> PyResult<Bound<'py, PyAny>> {
    let shape: Box<[i64]> = shape.iter().map(|size| *size as i64).collect();
    let strides: Box<[i64]> =
        (1..=shape.len()).map(|i| shape[i..].iter().product::<i64>()).collect();
    let (code, bits) = match element {
        Element::U8 => (1, 8),
        Element::F16 => (2, 16),
        Element::Bf16 => (4, 16),
        Element::F32 => (2, 32),
        Element::I64 => (0, 64),
    };
    let (device_type, device_id) = CPU;
    let tensor = Tensor {
        // Consumers learn below whether they may write through it.
        data: memory.address().cast_mut().cast(),
        device_type,
        device_id,
        ndim: i32::try_from(shape.len()).expect("at most 4"),
        dtype: DataType { code, bits, lanes: 1 },
        shape: shape.as_ptr().cast_mut(),
        strides: strides.as_ptr().cast_mut(),
        byte_offset: 0,
    };
    let context = std::ptr::null_mut();
    if consumer.is_versioned {
        let flags = if memory.is_writable() { 0 } else { READ_ONLY }
            | if consumer.is_copied { IS_COPIED } else { 0 };
        let deleter = Some(delete::<Versioned> as _);
        let managed = Versioned { version: VERSION, context, deleter, flags, tensor };
        capsule(py, Exported { managed, _memory: memory, _shape: shape, _strides: strides })
    } else if memory.is_writable() {
        let managed = Unversioned { tensor, context, deleter: Some(delete::<Unversioned> as _) };
        capsule(py, Exported { managed, _memory: memory, _shape: shape, _strides: strides })
    } else {
        Err(PyBufferError::new_err(
            "the array is read-only, which only consumers of DLPack 1.0 can know: pass writable=True \
             to the loader",
        ))
    }
}

fn capsule<M: Managed>(py: Python<'_>, exported: Exported<M>) -> PyResult<Bound<'_, PyAny>> {
    let exported = Box::into_raw(Box::new(exported));
    // SAFETY: the pointer is not null, the name lives forever, and the destructor frees what was not consumed.
    let capsule =
        unsafe { ffi::PyCapsule_New(exported.cast(), M::NAME.as_ptr(), Some(destroy::<M>)) };
    // SAFETY: it is null after an error, and else a new reference.
    let capsule = unsafe { Bound::from_owned_ptr_or_err(py, capsule) };
    capsule.inspect_err(|_error| {
        // SAFETY: no capsule has it.
        drop(unsafe { Box::from_raw(exported) });
    })
}

/// Frees what a capsule has if no consumer took it, who would have renamed the capsule.
unsafe extern "C" fn destroy<M: Managed>(capsule: *mut ffi::PyObject) {
    // SAFETY: Python passes the capsule that it is about to free.
    if unsafe { ffi::PyCapsule_IsValid(capsule, M::NAME.as_ptr()) } == 1 {
        // SAFETY: it is valid under this name.
        let exported = unsafe { ffi::PyCapsule_GetPointer(capsule, M::NAME.as_ptr()) };
        // SAFETY: `capsule` put it there.
        drop(unsafe { Box::from_raw(exported.cast::<Exported<M>>()) });
    }
}

/// Frees what a consumer has. It may be called on any thread, without the GIL.
unsafe extern "C" fn delete<M: Managed>(managed: *mut M) {
    // SAFETY: it is the first field of what `capsule` made, and consumers call this once.
    drop(unsafe { Box::from_raw(managed.cast::<Exported<M>>()) });
}
