//! The client and its streams for Python.

use std::mem::ManuallyDrop;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use forebay_client::{
    Cursor, Description, End, Error, Microbatch as Received, Microbatches, Rank, ServerStats, Start,
};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::error::client_error;
use crate::log;
use crate::microbatch::Microbatch;
use crate::process::Process;
use crate::settings::{JobSettings, Settings};
use crate::wait::{in_parts, poll, runtime, wait, wait_unless};

/// A client of one or more servers.
#[pyclass(frozen, module = "forebay._forebay")]
#[derive(Debug)]
pub(crate) struct Client {
    inner: ManuallyDrop<forebay_client::Client>,
    made_in: Process,
}

#[pymethods]
impl Client {
    #[new]
    fn new(settings: Settings) -> PyResult<Self> {
        log::keep();
        let _inside = runtime()?.enter();
        let inner = forebay_client::Client::connect(settings.options()?);
        let inner = ManuallyDrop::new(inner.map_err(|error| client_error(&error))?);
        Ok(Self { inner, made_in: Process::current() })
    }

    /// Sizes, digests and names of a job.
    fn describe<'py>(&self, py: Python<'py>, job: JobSettings) -> PyResult<Bound<'py, PyDict>> {
        let (client, job) = (self.client()?, job.job()?);
        let description = wait(py, async move { client.describe(&job).await })?;
        description_dict(py, &description.map_err(|error| client_error(&error))?)
    }

    /// The plan of a microbatch as JSON, or `None` as soon as `is_abandoned` returns true while it waits: a server that
    /// was killed would be tried again for minutes.
    fn explain(
        &self,
        job: JobSettings,
        epoch: u64,
        step: u64,
        index: u32,
        is_abandoned: &Bound<'_, PyAny>,
    ) -> PyResult<Option<String>> {
        let (client, job) = (self.client()?, job.job()?);
        let explain = async move { client.explain(&job, Cursor { epoch, step }, index).await };
        let plan = wait_unless(is_abandoned.py(), explain, || is_abandoned.call0()?.is_truthy())?;
        plan.transpose().map_err(|error| client_error(&error))
    }

    /// Opens a stream: `steps` steps from a step on, of which the rank has `done` microbatches.
    #[pyo3(signature = (job, *, epoch, step, done, steps, rank, world))]
    #[expect(clippy::too_many_arguments, reason = "Python names them")]
    fn stream(
        &self,
        py: Python<'_>,
        job: JobSettings,
        epoch: u64,
        step: u64,
        done: u32,
        steps: u64,
        rank: u32,
        world: u32,
    ) -> PyResult<Stream> {
        let (client, job) = (self.client()?, job.job()?);
        let start = Start { cursor: Cursor { epoch, step }, done };
        let rank = Rank { rank, world };
        let open = async move { client.stream(&job, start, End::Steps(steps), rank).await };
        let inner = wait(py, open)?.map_err(|error| client_error(&error))?;
        let state = State { inner: Some(inner), ready: None };
        let state = ManuallyDrop::new(Mutex::new(state));
        Ok(Stream { state, made_in: self.made_in })
    }

    /// What is known of each server.
    fn servers<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let client = self.client()?;
        let servers = client.servers();
        let servers = servers.iter().map(|server| server_dict(py, server));
        PyList::new(py, servers.collect::<PyResult<Vec<_>>>()?)
    }
}

impl Client {
    fn client(&self) -> PyResult<forebay_client::Client> {
        self.made_in.check("loader")?;
        Ok(forebay_client::Client::clone(&self.inner))
    }
}

impl Drop for Client {
    #[expect(unsafe_code, reason = "what a fork leaves is not dropped")]
    fn drop(&mut self) {
        if self.made_in.is_current() {
            // SAFETY: this is the only place that drops it, and it is not used again.
            unsafe { ManuallyDrop::drop(&mut self.inner) }
        }
    }
}

/// A stream of microbatches.
#[pyclass(frozen, module = "forebay._forebay")]
#[derive(Debug)]
pub(crate) struct Stream {
    state: ManuallyDrop<Mutex<State>>,
    made_in: Process,
}

#[derive(Debug)]
struct State {
    /// `None` once it is closed.
    inner: Option<Microbatches>,
    /// What was received and not taken: a microbatch, an error, or the end.
    ready: Option<Result<Option<Received>, Error>>,
}

#[pymethods]
impl Stream {
    /// Waits until there is something to take, for at most `seconds`. Returns whether there is.
    fn wait(&self, py: Python<'_>, seconds: f64) -> PyResult<bool> {
        self.made_in.check("iterator")?;
        let runtime = runtime()?;
        let end = Duration::try_from_secs_f64(seconds.max(0.0))
            .ok()
            .and_then(|duration| Instant::now().checked_add(duration));
        let left = || end.map(|end| end.saturating_duration_since(Instant::now()));
        let receive = |part: Duration| {
            let part = left().map_or(part, |left| left.min(part));
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let State { inner, ready } = &mut *state;
            let Some(stream) = inner.as_mut().filter(|_| ready.is_none()) else { return Some(()) };
            *ready = poll(runtime, part, pin!(stream.next())).map(Option::transpose);
            ready.is_some().then_some(())
        };
        let is_over = || {
            log::flush(py)?;
            Ok(left().is_some_and(|left| left.is_zero()))
        };
        Ok(in_parts(py, receive, is_over)?.is_some())
    }

    /// Takes the next microbatch, with pixels that may be written to if they are to be; `None` at the end. Waits as
    /// long as it takes.
    fn take(&self, py: Python<'_>, writable: bool) -> PyResult<Option<Microbatch>> {
        self.wait(py, f64::INFINITY)?;
        let next = py.detach(|| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.ready.take().unwrap_or(Ok(None))
        });
        let next = next.map_err(|error| client_error(&error))?;
        next.map(|received| Microbatch::new(py, received, writable)).transpose()
    }

    /// Ends the stream, which logs nothing any more. Microbatches that were taken stay.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if !self.made_in.is_current() {
            return Ok(());
        }
        let runtime = runtime()?;
        let mut closing = None;
        let close = |part| {
            let closing = closing.get_or_insert_with(|| {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.ready = None;
                state.inner.take().map(|stream| Box::pin(stream.close()))
            });
            closing.as_mut().map_or(Some(()), |closing| poll(runtime, part, closing))
        };
        // Passes nothing on: an error here would be of what came before.
        in_parts(py, close, || Ok(false)).map(drop)
    }
}

impl Drop for Stream {
    #[expect(unsafe_code, reason = "what a fork leaves is not dropped")]
    fn drop(&mut self) {
        if self.made_in.is_current() {
            // SAFETY: this is the only place that drops it, and it is not used again.
            unsafe { ManuallyDrop::drop(&mut self.state) }
        }
    }
}

fn description_dict<'py>(
    py: Python<'py>,
    description: &Arc<Description>,
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let of = &**description;
    dict.set_item("server_version", &of.server_version)?;
    dict.set_item("dataset_digest", of.dataset_digest.to_string())?;
    dict.set_item("records", of.records)?;
    dict.set_item("bad_records", of.bad_records)?;
    dict.set_item("classes", &of.classes)?;
    dict.set_item("recipe_digest", of.recipe_digest.to_string())?;
    dict.set_item("recipe", &of.recipe_toml)?;
    dict.set_item("samples_per_epoch", of.samples_per_epoch)?;
    dict.set_item("steps_per_epoch", of.steps_per_epoch)?;
    dict.set_item("batch", of.batch)?;
    dict.set_item("microbatches", of.microbatches)?;
    dict.set_item("image_size", of.image_size)?;
    dict.set_item("image_sizes", &of.image_sizes)?;
    dict.set_item("smoothing", of.smoothing)?;
    dict.set_item("mean", (of.mean[0], of.mean[1], of.mean[2]))?;
    dict.set_item("std", (of.std[0], of.std[1], of.std[2]))?;
    dict.set_item("datasets", &of.datasets)?;
    dict.set_item("weighted", of.weighted)?;
    Ok(dict)
}

fn server_dict<'py>(py: Python<'py>, server: &ServerStats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", &server.name)?;
    dict.set_item("present", server.present)?;
    dict.set_item("circuit", server.circuit.to_string())?;
    dict.set_item("excluded", server.excluded.as_ref())?;
    let counts = server.counts;
    for (name, count) in [
        ("steps", counts.steps),
        ("microbatches", counts.microbatches),
        ("bytes", counts.bytes),
        ("failures", counts.failures),
        ("hedges_sent", counts.hedges_sent),
        ("hedges_won", counts.hedges_won),
        ("overtaken", counts.overtaken),
        ("wasted_bytes", counts.wasted_bytes),
    ] {
        dict.set_item(name, count)?;
    }
    Ok(dict)
}
