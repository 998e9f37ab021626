//! Waits without the GIL. Signals are handled every 100 ms, so that Ctrl-C works, and what the client logs is
//! passed on.

use std::sync::OnceLock;
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::{fork_error, internal};
use crate::log;
use crate::process::Process;

/// Longest time between two looks at signals.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Threads that receive, for all loaders of the process.
const THREADS: usize = 2;

/// The process's threads. They are never stopped, because nothing may wait for them when Python exits, and a
/// forked child has none of them.
static RUNTIME: OnceLock<(Process, Runtime)> = OnceLock::new();

/// The threads that receive; they start at the first call.
///
/// # Errors
/// When they cannot be started, or were started before a fork.
pub(crate) fn runtime() -> PyResult<&'static Runtime> {
    if RUNTIME.get().is_none() {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("forebay-client")
            .enable_all()
            .build()
            .map_err(|error| internal(format!("cannot start a thread: {error}")))?;
        // Another thread may have been faster.
        if let Err((_, unused)) = RUNTIME.set((Process::current(), runtime)) {
            unused.shutdown_background();
        }
    }
    let (process, runtime) = RUNTIME.get().expect("set above");
    if process.is_current() {
        return Ok(runtime);
    }
    Err(fork_error(
        "forebay was used before this process was forked, and its threads do not survive that: start \
         processes with the method \"spawn\", or make the first loader after the fork"
            .to_owned(),
    ))
}

/// Waits for a future, which goes on in the background. It is dropped if a signal ends the wait.
///
/// # Errors
/// The exception that a signal raised, such as `KeyboardInterrupt`, or a warning that is an error.
pub(crate) fn wait<T, F>(py: Python<'_>, future: F) -> PyResult<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let value = wait_unless(py, future, || Ok(false))?;
    Ok(value.expect("nothing ends the wait"))
}

/// As [`wait`], unless `is_vain` returns true, which is called between two parts of the wait: `None` then.
///
/// # Errors
/// As [`wait`], and those of `is_vain`.
pub(crate) fn wait_unless<T, F>(
    py: Python<'_>,
    future: F,
    is_vain: impl Fn() -> PyResult<bool>,
) -> PyResult<Option<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let runtime = runtime()?;
    let mut task = Task(runtime.spawn(future));
    loop {
        match py.detach(|| runtime.block_on(async { timeout(TICK, &mut task.0).await })) {
            Ok(Ok(value)) => {
                log::flush(py)?;
                return Ok(Some(value));
            }
            Ok(Err(panic)) => return Err(internal(panic.to_string())),
            Err(_elapsed) => tick(py)?,
        }
        if is_vain()? {
            return Ok(None);
        }
    }
}

/// What is done between two parts of a wait.
///
/// # Errors
/// As [`wait`].
pub(crate) fn tick(py: Python<'_>) -> PyResult<()> {
    py.check_signals()?;
    log::flush(py)
}

/// A task that ends when it is dropped.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
