//! A request to stop, from any rank to all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether this rank was asked to stop, by its own process or by another rank. Clones share it.
///
/// The ranks learn of a request at different times, so that none of them acts upon its own: each step's report tells
/// all of them at once whether one of them was asked.
#[derive(Clone, Debug, Default)]
pub struct StopRequest(Arc<AtomicBool>);

impl StopRequest {
    /// Asks this rank to stop. Its heartbeat asks the others.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether this rank was asked to stop.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
