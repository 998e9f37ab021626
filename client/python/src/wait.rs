//! Waits without the GIL. Signals are handled every 100 ms, so that Ctrl-C works, and what the client logs is
//! passed on. Nothing outside of this file waits by itself: a test looks for that.

use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use pyo3::prelude::*;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::error::{fork_error, internal};
use crate::log;
use crate::process::Process;

/// Longest time between two looks at signals.
const TICK: Duration = Duration::from_millis(100);

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
/// As [`in_parts`].
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
/// As [`in_parts`].
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
    let between = || {
        log::flush(py)?;
        is_vain()
    };
    let ended = in_parts(py, |part| poll(runtime, part, &mut task.0), between)?;
    ended.transpose().map_err(|panic| internal(panic.to_string()))
}

/// Waits for what another thread does, which goes on if a signal ends the wait.
///
/// # Errors
/// As [`in_parts`], and when the thread cannot be started or panics.
pub(crate) fn wait_for_thread<T: Send + 'static>(
    py: Python<'_>,
    run: impl FnOnce() -> T + Send + 'static,
) -> PyResult<T> {
    let (sender, receiver) = sync_channel(1);
    // Sending fails if a signal ended the wait.
    let thread = move || drop(sender.send(run()));
    let thread = thread::Builder::new().name("forebay-wait".to_owned()).spawn(thread);
    thread.map_err(|error| internal(format!("cannot start a thread: {error}")))?;
    let receive = move |part| match receiver.recv_timeout(part) {
        Ok(value) => Some(Some(value)),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => Some(None),
    };
    let ended = in_parts(py, receive, || Ok(false))?;
    ended.flatten().ok_or_else(|| internal("a thread panicked".to_owned()))
}

/// Polls a future for at most a part of a wait.
pub(crate) fn poll<F: Future + Unpin>(
    runtime: &Runtime,
    part: Duration,
    future: F,
) -> Option<F::Output> {
    runtime.block_on(async { timeout(part, future).await.ok() })
}

/// The wait of which every wait of this package is made, so that none of them holds up Ctrl-C: calls `attempt` without
/// the GIL, again and again, until it returns something. An attempt may wait for as long as it is told, which is
/// [`TICK`]. Signals are handled after each, and then `between` is called, which returns true to end the wait.
///
/// # Errors
/// The exception that a signal raised, such as `KeyboardInterrupt`, and those of `between`.
pub(crate) fn in_parts<T: Send>(
    py: Python<'_>,
    mut attempt: impl FnMut(Duration) -> Option<T> + Send,
    between: impl Fn() -> PyResult<bool>,
) -> PyResult<Option<T>> {
    loop {
        let ended = py.detach(|| attempt(TICK));
        py.check_signals()?;
        let is_vain = between()?;
        if ended.is_some() || is_vain {
            return Ok(ended);
        }
    }
}

/// A task that ends when it is dropped.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
