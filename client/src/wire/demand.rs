//! Whether the trainer waits for the next microbatch.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The trainer's demand, which the receivers of its microbatches see.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    waits: AtomicBool,
    begun: Notify,
}

impl Demand {
    /// The demand of someone who always waits.
    pub(crate) fn always() -> Self {
        Self { waits: AtomicBool::new(true), begun: Notify::new() }
    }

    /// Records whether the trainer waits.
    pub(crate) fn set(&self, waits: bool) {
        let before = self.waits.swap(waits, Ordering::Relaxed);
        if waits && !before {
            self.begun.notify_waiters();
        }
    }

    /// Waits until the trainer waits.
    pub(crate) async fn begins(&self) {
        loop {
            let mut begun = pin!(self.begun.notified());
            // Before the look, so that a beginning between look and wait is not missed.
            begun.as_mut().enable();
            if self.waits.load(Ordering::Relaxed) {
                return;
            }
            begun.await;
        }
    }
}
