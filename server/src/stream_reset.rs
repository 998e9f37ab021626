//! Resetting the HTTP/2 stream of one call.
//!
//! A reader that accepts no data leaves the last pieces of its call in the queue of the HTTP/2
//! connection, where flow control keeps them, and with them their buffer. Nothing that a response body
//! returns can overtake them. Dropping the task that hyper runs for the call does: it resets the stream
//! and drops its queue.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task_local;

task_local! {
    static CURRENT: StreamReset;
}

/// Resets the stream of one call.
#[derive(Clone, Debug)]
pub(crate) struct StreamReset(Arc<Notify>);

impl StreamReset {
    /// The handle of the call that the current task serves; `None` in any other task.
    pub(crate) fn of_current_call() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Resets the stream, unless it has ended.
    pub(crate) fn reset(&self) {
        self.0.notify_one();
    }
}

/// Runs each call of a connection in a task of its own, which can be reset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallExecutor;

impl<F> hyper::rt::Executor<F> for CallExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let reset = StreamReset(Arc::new(Notify::new()));
        let task = CURRENT.scope(reset.clone(), async move {
            tokio::select! {
                () = call => {}
                () = reset.0.notified() => {}
            }
        });
        drop(tokio::spawn(task));
    }
}
