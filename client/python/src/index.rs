//! Indexing in the background, so that Python can show its progress and handle Ctrl-C.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use forebay::dataset::{DatasetError, IndexOptions, Progress, Summary};
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::error::{dataset_error, internal, options_error};
use crate::wait::{in_parts, wait_for_thread};

/// Datasets at paths and URLs, with the settings by which they are found and read.
#[pyclass(frozen, module = "forebay._forebay")]
#[derive(Debug)]
pub(crate) struct Datasets(Arc<forebay_server::Datasets>);

#[pymethods]
impl Datasets {
    #[new]
    #[pyo3(signature = (index_dir=None, disk_cache=None, disk_cache_bytes=None))]
    fn new(
        index_dir: Option<PathBuf>,
        disk_cache: Option<PathBuf>,
        disk_cache_bytes: Option<&str>,
    ) -> PyResult<Self> {
        let bytes = disk_cache_bytes.map(str::parse).transpose();
        let bytes = bytes.map_err(|error| options_error(format!("disk_cache_bytes: {error}")))?;
        let datasets = forebay_server::Datasets::with_disk_cache(index_dir, disk_cache, bytes);
        Ok(Self(Arc::new(datasets)))
    }

    /// Whether a dataset has no index, or one that this version cannot use.
    fn needs_index(&self, py: Python<'_>, path: PathBuf) -> PyResult<bool> {
        let datasets = Arc::clone(&self.0);
        let lacks_index = move || match datasets.open(&path) {
            Ok(_dataset) => Ok(false),
            Err(error) => match error.downcast_ref() {
                Some(DatasetError::NoIndex { .. } | DatasetError::Index { .. }) => Ok(true),
                _ => Err(format!("{error:#}")),
            },
        };
        wait_for_thread(py, lacks_index)?.map_err(dataset_error)
    }

    /// Whether a dataset has no splits at all, of which `PATH#SPLIT` selects one.
    fn lacks_splits(&self, py: Python<'_>, path: PathBuf) -> PyResult<bool> {
        let datasets = Arc::clone(&self.0);
        let lacks_splits = move || {
            let error = datasets.open(&path).err();
            let error = error.as_ref().and_then(|error| error.downcast_ref());
            matches!(error, Some(DatasetError::Split { found, .. }) if found.is_empty())
        };
        wait_for_thread(py, lacks_splits)
    }

    /// Starts to index a dataset.
    fn index(&self, path: PathBuf, threads: usize) -> PyResult<Indexing> {
        let datasets = Arc::clone(&self.0);
        Indexing::start(move |progress| {
            let summary = datasets.build(&path, threads, &IndexOptions::default(), progress);
            summary.map_err(|error| format!("{error:#}"))
        })
    }
}

/// A dataset that is being indexed.
#[pyclass(frozen, module = "forebay._forebay")]
#[derive(Debug)]
pub(crate) struct Indexing(Arc<State>);

#[derive(Debug, Default)]
struct State {
    done: AtomicU64,
    total: AtomicU64,
    cancelled: AtomicBool,
    outcome: Mutex<Option<Result<Summary, Failure>>>,
    finished: Condvar,
}

#[derive(Clone, Debug)]
enum Failure {
    /// An error of the dataset, with its message.
    Dataset(String),
    Cancelled,
    Panic,
}

/// What unwinds the threads that index, so that they remove their files.
struct Cancelled;

impl Indexing {
    /// Calls `build` in a thread of its own.
    fn start(
        build: impl FnOnce(&(dyn Fn(Progress) + Sync)) -> Result<Summary, String> + Send + 'static,
    ) -> PyResult<Self> {
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        let run = move || {
            let progress = |Progress { done, total }: Progress| {
                if shared.cancelled.load(Ordering::Relaxed) {
                    resume_unwind(Box::new(Cancelled));
                }
                shared.total.store(total, Ordering::Relaxed);
                shared.done.fetch_max(done, Ordering::Relaxed);
            };
            let outcome = match catch_unwind(AssertUnwindSafe(|| build(&progress))) {
                Ok(result) => result.map_err(Failure::Dataset),
                Err(payload) if payload.is::<Cancelled>() => Err(Failure::Cancelled),
                Err(_panic) => Err(Failure::Panic),
            };
            *shared.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            shared.finished.notify_all();
        };
        let thread = thread::Builder::new().name("forebay-index".to_owned()).spawn(run);
        thread.map_err(|error| internal(format!("cannot start a thread: {error}")))?;
        Ok(Self(state))
    }
}

#[pymethods]
impl Indexing {
    /// Waits until it has ended, for 100 ms at most. Returns whether it has.
    fn wait(&self, py: Python<'_>) -> PyResult<bool> {
        let is_finished = |part| {
            let outcome = self.0.outcome.lock().unwrap_or_else(PoisonError::into_inner);
            let waited =
                self.0.finished.wait_timeout_while(outcome, part, |outcome| outcome.is_none());
            waited.unwrap_or_else(PoisonError::into_inner).0.is_some().then_some(())
        };
        // Its progress is shown after each part.
        Ok(in_parts(py, is_finished, || Ok(true))?.is_some())
    }

    /// Number of records that were checked, and of all.
    #[getter]
    fn progress(&self) -> (u64, u64) {
        (self.0.done.load(Ordering::Relaxed), self.0.total.load(Ordering::Relaxed))
    }

    /// Ends it soon, without an index.
    fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
    }

    /// What was indexed.
    fn summary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let outcome = self.0.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let summary = match outcome {
            None => return Err(PyRuntimeError::new_err("the dataset is still being indexed")),
            Some(Err(Failure::Dataset(error))) => return Err(dataset_error(error)),
            Some(Err(Failure::Cancelled)) => {
                return Err(PyRuntimeError::new_err("indexing was cancelled"));
            }
            Some(Err(Failure::Panic)) => {
                return Err(internal("a thread that indexes panicked".to_owned()));
            }
            Some(Ok(summary)) => summary,
        };
        let dict = PyDict::new(py);
        dict.set_item("records", summary.records)?;
        dict.set_item("bad", summary.bad.len())?;
        dict.set_item("digest", summary.digest.to_string())?;
        Ok(dict)
    }
}
