//! Shared state of threads and tasks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// Locks a mutex, even if a thread panicked while it held the lock: what was recorded before is still right.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Time that steps in progress have to end.
const STEPS_GRACE: Duration = Duration::from_millis(500);

/// Ends a run early. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(watch::Sender<bool>);

impl Interrupt {
    /// Ends the run after the steps in progress, or without them if they take longer than half a second.
    pub fn set(&self) {
        self.0.send_replace(true);
    }

    /// Whether the run is to end.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until steps in progress are given up, a moment after the run was to end.
    pub(crate) async fn wait_for_steps(&self) {
        self.wait().await;
        tokio::time::sleep(STEPS_GRACE).await;
    }

    /// Waits until the run is to end.
    pub async fn wait(&self) {
        // The sender is in this value, so that waiting for it cannot fail.
        self.0.subscribe().wait_for(|is_set| *is_set).await.ok();
    }
}
