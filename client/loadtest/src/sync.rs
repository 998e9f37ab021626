//! Shared state of threads and tasks.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// Locks a mutex, even if a thread panicked while it held the lock: what was recorded before is still right.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends a run early. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(watch::Sender<bool>);

impl Interrupt {
    /// Ends the run after the steps in progress.
    pub fn set(&self) {
        self.0.send_replace(true);
    }

    /// Whether the run is to end.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until the run is to end.
    pub async fn wait(&self) {
        // The sender is in this value, so that waiting for it cannot fail.
        self.0.subscribe().wait_for(|is_set| *is_set).await.ok();
    }
}
