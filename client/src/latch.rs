//! Something that happens once, and that many wait for, who are woken in the order of their waiting.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// Not yet happened, or happened.
#[derive(Clone, Debug)]
pub(crate) struct Latch(Arc<Semaphore>);

impl Latch {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// It happens.
    pub(crate) fn open(&self) {
        self.0.close();
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.is_closed()
    }

    /// Returns when it has happened: a semaphore without permits gives none until it is closed.
    pub(crate) async fn opened(&self) {
        drop(self.0.acquire().await);
    }
}
