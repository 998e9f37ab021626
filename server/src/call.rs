//! The tasks of calls, which can be cut.
//!
//! A reader that takes nothing leaves its call's last pieces in HTTP/2's queue, where flow control holds
//! them and with them their slab. Nothing that a response body says can pass them. What frees them is to
//! drop the task that hyper runs for the call: the stream is then reset and its queue dropped.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task_local;

task_local! {
    static CUT: Cut;
}

/// Resets the stream of one call.
#[derive(Clone, Debug)]
pub(crate) struct Cut(Arc<Notify>);

impl Cut {
    /// The one of the call that the current task serves; `None` in a task of another kind.
    pub(crate) fn of_this_call() -> Option<Self> {
        CUT.try_with(Self::clone).ok()
    }

    /// Resets the stream, if it has not ended.
    pub(crate) fn reset(&self) {
        self.0.notify_one();
    }
}

/// Runs each call of a connection in a task of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls;

impl<F> hyper::rt::Executor<F> for Calls
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, call: F) {
        let cut = Cut(Arc::new(Notify::new()));
        let task = CUT.scope(cut.clone(), async move {
            tokio::select! {
                () = call => {}
                () = cut.0.notified() => {}
            }
        });
        drop(tokio::spawn(task));
    }
}
