//! Arrays that numpy, torch and JAX read in place.
#![expect(unsafe_code, reason = "Python's buffer protocol is a struct of pointers")]
#![expect(clippy::needless_pass_by_value, reason = "Python's arguments are extracted by value")]

use std::ffi::c_int;
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::{PyBufferError, PyMemoryError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView, PyTuple};

use crate::dlpack::{self, Consumer};
use crate::element::Element;
use crate::memory::{Memory, Owner};

/// Bytes that are copied in less time than it takes to give the GIL away and to get it back.
const COPIED_WITH_GIL: usize = 64 << 10;

/// Contiguous memory with a shape.
#[pyclass(frozen, module = "forebay")]
#[derive(Debug)]
pub(crate) struct Array {
    memory: Arc<Memory>,
    element: Element,
    shape: Box<[ffi::Py_ssize_t]>,
    /// Distances in bytes, of rows one after another.
    strides: Box<[ffi::Py_ssize_t]>,
}

impl Array {
    /// # Panics
    /// When the shape does not have the size of the memory.
    pub(crate) fn new(memory: Memory, element: Element, shape: &[usize]) -> Self {
        let memory = Arc::new(memory);
        let size = shape.iter().product::<usize>() * element.size();
        assert_eq!(memory.length(), size, "a shape that fits the memory");
        let signed = |size: usize| ffi::Py_ssize_t::try_from(size).expect("it fits into memory");
        let strides = (1..=shape.len()).map(|i| shape[i..].iter().product::<usize>());
        let strides = strides.map(|count| signed(count * element.size())).collect();
        let shape = shape.iter().map(|size| signed(*size)).collect();
        Self { memory, element, shape, strides }
    }

    /// A read-only array of one dimension.
    pub(crate) fn vector(values: impl Into<Owner>, element: Element) -> Self {
        let memory = Memory::read_only(values);
        let count = memory.length() / element.size();
        Self::new(memory, element, &[count])
    }

    pub(crate) const fn element(&self) -> Element {
        self.element
    }

    pub(crate) fn content(&self) -> &[u8] {
        self.memory.bytes()
    }

    fn count(&self) -> usize {
        self.memory.length() / self.element.size()
    }
}

#[pymethods]
impl Array {
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &*self.shape)
    }

    #[getter]
    fn ndim(&self) -> usize {
        self.shape.len()
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        self.element.name()
    }

    #[getter]
    fn itemsize(&self) -> usize {
        self.element.size()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.memory.length()
    }

    #[getter]
    fn readonly(&self) -> bool {
        !self.memory.is_writable()
    }

    fn tobytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, self.memory.bytes())
    }

    fn tolist(slf: Bound<'_, Self>) -> PyResult<Bound<'_, PyAny>> {
        PyMemoryView::from(slf.as_any())?.call_method0("tolist")
    }

    fn __len__(&self) -> PyResult<usize> {
        let first = self.shape.first().copied();
        first
            .and_then(|first| usize::try_from(first).ok())
            .ok_or_else(|| PyTypeError::new_err("an array without dimensions has no length"))
    }

    fn __repr__(&self) -> String {
        let shape: Vec<String> = self.shape.iter().map(ToString::to_string).collect();
        let access = if self.memory.is_writable() { "" } else { ", read-only" };
        format!("<forebay.Array ({}) {}{access}>", shape.join(", "), self.element.name())
    }

    #[getter]
    fn __array_interface__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let interface = PyDict::new(py);
        interface.set_item("shape", PyTuple::new(py, &*self.shape)?)?;
        interface.set_item("typestr", self.element.type_string())?;
        interface.set_item("data", (self.memory.address().addr(), self.readonly()))?;
        interface.set_item("version", 3)?;
        Ok(interface)
    }

    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        if stream.is_some() {
            return Err(PyBufferError::new_err(
                "the array is in the memory of the CPU: expected no stream",
            ));
        }
        if dl_device.is_some_and(|device| device != dlpack::CPU) {
            return Err(PyBufferError::new_err(
                "the array is in the memory of the CPU: copy it to the device after importing it",
            ));
        }
        let is_copied = copy == Some(true);
        let memory = if is_copied {
            py.detach(|| Arc::new(Memory::writable(self.memory.bytes().to_vec())))
        } else {
            Arc::clone(&self.memory)
        };
        let is_versioned = max_version.is_some_and(|(major, _)| major >= 1);
        let consumer = Consumer { is_versioned, is_copied };
        dlpack::export(py, memory, self.element, &self.shape, consumer)
    }

    #[expect(clippy::unused_self, reason = "a method of the protocol")]
    fn __dlpack_device__(&self) -> (i32, i32) {
        dlpack::CPU
    }

    /// # Safety
    /// `view` is what Python passes to an exporter: null, or a buffer to fill.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("expected a view to fill"));
        }
        let array = slf.get();
        let asks = |flag: c_int| flags & flag == flag;
        let refusal = if asks(ffi::PyBUF_WRITABLE) && array.readonly() {
            Some("the array is read-only: pass writable=True to the loader")
        } else if asks(ffi::PyBUF_F_CONTIGUOUS) && array.shape.len() > 1 {
            Some("the array has the order of C, not that of Fortran")
        } else {
            None
        };
        if let Some(why) = refusal {
            // SAFETY: it is not null, and Python expects no object after an error.
            unsafe { (*view).obj = ptr::null_mut() };
            return Err(PyBufferError::new_err(why));
        }
        let count = ffi::Py_ssize_t::try_from(array.memory.length()).expect("it is in memory");
        let itemsize = ffi::Py_ssize_t::try_from(array.element.size()).expect("at most 8");
        // Shape, strides, format and what is read-only are never written through these pointers.
        let format = array.element.format().as_ptr().cast_mut();
        let buffer = ffi::Py_buffer {
            buf: array.memory.address().cast_mut().cast(),
            len: count,
            itemsize,
            readonly: c_int::from(array.readonly()),
            // Whoever does not ask for a shape wants bytes, and may refuse more dimensions.
            ndim: if asks(ffi::PyBUF_ND) {
                c_int::try_from(array.shape.len()).expect("at most 4")
            } else {
                1
            },
            format: if asks(ffi::PyBUF_FORMAT) { format } else { ptr::null_mut() },
            shape: if asks(ffi::PyBUF_ND) {
                array.shape.as_ptr().cast_mut()
            } else {
                ptr::null_mut()
            },
            strides: if asks(ffi::PyBUF_STRIDES) {
                array.strides.as_ptr().cast_mut()
            } else {
                ptr::null_mut()
            },
            suboffsets: ptr::null_mut(),
            internal: ptr::null_mut(),
            // The view keeps the array, and with it all of the above.
            obj: slf.clone().into_ptr(),
        };
        // SAFETY: Python passed it to be filled.
        unsafe { view.write(buffer) };
        Ok(())
    }
}

/// Arrays that are joined along their first dimension, one after another, in new memory.
///
/// Microbatches in the memory of a server cannot be joined by mapping them one after another: a mapping begins at a page,
/// and most microbatches do not end at one. All of a step would have to be leased, too, which servers do not promise.
/// Instead each is copied when it comes, and dropped: the next ones are then made and received in the memory that it had.
#[pyclass(frozen, module = "forebay._forebay")]
#[derive(Debug)]
pub(crate) struct Joined {
    /// Number of arrays for which there is to be room.
    count: usize,
    state: Mutex<Option<Rows>>,
}

#[derive(Debug)]
struct Rows {
    bytes: Vec<u8>,
    count: usize,
    element: Element,
    /// The dimensions of a row.
    inner: Vec<usize>,
}

#[pymethods]
impl Joined {
    #[new]
    fn new(count: usize) -> Self {
        Self { count, state: Mutex::default() }
    }

    /// Copies an array behind the others. The first one is the largest.
    fn append(&self, py: Python<'_>, array: Bound<'_, Array>) -> PyResult<()> {
        let array = array.get();
        let unsigned = |size: &ffi::Py_ssize_t| usize::try_from(*size).unwrap_or(0);
        let (element, rows) = (array.element, array.shape.first().map_or(0, unsigned));
        let inner: Vec<usize> = array.shape.iter().skip(1).map(unsigned).collect();
        let content = array.memory.bytes();
        let copy = || -> PyResult<()> {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let all = state.get_or_insert_with(|| {
                let (bytes, inner) = (Vec::new(), inner.clone());
                Rows { bytes, count: 0, element, inner }
            });
            if (all.element, &all.inner) != (element, &inner) {
                return Err(PyValueError::new_err(
                    "expected arrays that differ in their first dimension only",
                ));
            }
            if all.bytes.is_empty() {
                let bytes = content.len().saturating_mul(self.count);
                let reserved = all.bytes.try_reserve_exact(bytes);
                reserved.map_err(|_too_large| {
                    PyMemoryError::new_err(format!(
                        "a batch of {bytes} bytes does not fit into memory"
                    ))
                })?;
            }
            all.bytes.extend_from_slice(content);
            all.count += rows;
            Ok(())
        };
        // To get the GIL back takes up to 5 ms if another thread computes, and there are few labels.
        if content.len() < COPIED_WITH_GIL { copy() } else { py.detach(copy) }
    }

    /// The joined array.
    fn finish(&self, writable: bool) -> PyResult<Array> {
        let rows = self.state.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(Rows { bytes, count, element, inner }) = rows else {
            return Err(PyValueError::new_err("expected at least one array"));
        };
        // Elements of 8 bytes are aligned, because allocations of bytes are.
        let memory = if writable { Memory::writable(bytes) } else { Memory::read_only(bytes) };
        let shape: Vec<usize> = [count].into_iter().chain(inner).collect();
        Ok(Array::new(memory, element, &shape))
    }
}

/// The values of an array of 64-bit integers.
///
/// # Errors
/// When it has others.
pub(crate) fn integers(array: &Bound<'_, Array>, what: &str) -> PyResult<Vec<i64>> {
    let array = array.get();
    if array.element != Element::I64 {
        return Err(PyTypeError::new_err(format!("expected {what} of int64")));
    }
    let values = array.content().chunks_exact(8);
    Ok(values.map(|value| i64::from_ne_bytes(value.try_into().expect("8 bytes"))).collect())
}

/// The values of an array of 32-bit floats.
///
/// # Errors
/// When it has others.
pub(crate) fn floats(array: &Bound<'_, Array>, what: &str) -> PyResult<Vec<f32>> {
    let array = array.get();
    if array.element() != Element::F32 {
        return Err(PyTypeError::new_err(format!("expected {what} of float32")));
    }
    let values: Vec<f32> = array
        .content()
        .chunks_exact(4)
        .map(|value| f32::from_ne_bytes(value.try_into().expect("4 bytes")))
        .collect();
    debug_assert_eq!(values.len(), array.count(), "all values");
    Ok(values)
}
