//! An event that happens once, and that several tasks wait for.
//!
//! A latch is a semaphore that is closed to release its waiters. It is not a `tokio::sync::watch`,
//! which wakes its waiters in random order: the simulation repeats a seed event by event.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// A latch, closed until it is opened. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Latch(Arc<Semaphore>);

impl Latch {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Releases the waiters, in the order in which they began to wait.
    pub(crate) fn open(&self) {
        self.0.close();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until the latch is open: a semaphore without permits returns only when it is closed.
    pub(crate) async fn opened(&self) {
        drop(self.0.acquire().await);
    }
}
