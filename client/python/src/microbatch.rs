//! A microbatch for Python.

use std::sync::{Mutex, PoisonError};

use forebay_client::{DType, Microbatch as Received, Mix, Timings};
use pyo3::IntoPyObjectExt as _;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::array::Array;
use crate::element::Element;
use crate::memory::Memory;

/// A microbatch: pixels and targets in memory that Python reads in place.
#[pyclass(frozen, module = "forebay._forebay")]
#[derive(Debug)]
pub(crate) struct Microbatch {
    #[pyo3(get)]
    epoch: u64,
    #[pyo3(get)]
    step: u64,
    #[pyo3(get)]
    index: u32,
    /// Whether it was in the memory of a server on this host.
    #[pyo3(get)]
    is_shared: bool,
    /// `None` once they are taken.
    pixels: Mutex<Option<Py<Array>>>,
    #[pyo3(get)]
    label_a: Py<Array>,
    #[pyo3(get)]
    label_b: Py<Array>,
    #[pyo3(get)]
    lam: Py<Array>,
    #[pyo3(get)]
    records: Py<Array>,
    #[pyo3(get)]
    xxh3: u64,
    /// Seconds that the trainer waited for it.
    #[pyo3(get)]
    wait: f64,
    mix: Vec<Mix>,
    timings: Timings,
}

impl Microbatch {
    pub(crate) fn new(py: Python<'_>, received: Received, writable: bool) -> PyResult<Self> {
        let element = match received.dtype {
            DType::U8 => Element::U8,
            DType::F16 => Element::F16,
            DType::Bf16 => Element::Bf16,
            DType::F32 => Element::F32,
        };
        let shape = received.shape.map(|size| size as usize);
        let is_shared = received.pixels.is_shared();
        let pixels = if writable {
            // Without the GIL, because pixels in the memory of a server are copied.
            py.detach(|| Memory::writable(received.pixels))
        } else {
            Memory::read_only(received.pixels)
        };
        let integers = |values: Vec<i64>| Py::new(py, Array::vector(values, Element::I64));
        let labels = |labels: Vec<u32>| integers(labels.into_iter().map(i64::from).collect());
        // The client refuses records of 2^40 and more.
        let records = received.records.into_iter().map(|id| i64::try_from(id).unwrap_or(i64::MAX));
        Ok(Self {
            epoch: received.name.epoch,
            step: received.name.step,
            index: received.name.index,
            is_shared,
            pixels: Mutex::new(Some(Py::new(py, Array::new(pixels, element, &shape))?)),
            label_a: labels(received.label_a)?,
            label_b: labels(received.label_b)?,
            lam: Py::new(py, Array::vector(received.lambda, Element::F32))?,
            records: integers(records.collect())?,
            xxh3: received.xxh3,
            wait: received.wait.as_secs_f64(),
            mix: received.mix,
            timings: received.timings,
        })
    }
}

#[pymethods]
impl Microbatch {
    /// The pixels, which it then has no more.
    fn take_pixels(&self) -> PyResult<Py<Array>> {
        let pixels = self.pixels.lock().unwrap_or_else(PoisonError::into_inner).take();
        pixels.ok_or_else(|| PyRuntimeError::new_err("the pixels were taken before"))
    }

    /// The mix that is left to the trainer, for each sample.
    #[getter]
    fn mix<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let of = |mix: &Mix| match *mix {
            Mix::Keep => ("keep",).into_bound_py_any(py),
            Mix::MixUp { lambda, partner_lambda } => {
                ("mixup", lambda, partner_lambda).into_bound_py_any(py)
            }
            Mix::CutMix { top, left, height, width } => {
                ("cutmix", top, left, height, width).into_bound_py_any(py)
            }
        };
        let all: Vec<_> = self.mix.iter().map(of).collect::<PyResult<_>>()?;
        PyList::new(py, all)
    }

    /// Seconds that the server spent, by stage.
    #[getter]
    fn timings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let timings = PyDict::new(py);
        for (stage, time) in self.timings.named() {
            timings.set_item(stage, time.as_secs_f64())?;
        }
        Ok(timings)
    }
}
