use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex of telemetry. They guard sums and lists that are whole whichever thread panicked.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
