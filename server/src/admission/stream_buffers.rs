//! Gates 10 and 11 for one stream: its window, and how fast its reader is.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::budget::{BufferBudget, acquire_permit};

/// The speed of a stream's reader, as observed so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReaderSpeed {
    /// The reader has not taken a microbatch yet.
    Unknown,
    /// The reader took its last microbatch within the limit.
    Fast,
    /// The reader took longer, or its client was evicted recently.
    Slow,
}

/// The buffers of one stream.
#[derive(Debug)]
pub(super) struct StreamBuffers {
    client: Arc<str>,
    /// A reader that takes longer for a microbatch is slow.
    pub(super) slow_after: Duration,
    /// Largest size of the window.
    max_window: usize,
    pub(super) microbatch_bytes: u64,
    budget: Arc<BufferBudget>,
    /// Free places of the window.
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    speed: ReaderSpeed,
    /// Size of the window: microbatches that may be ahead of the reader now.
    window: usize,
    /// Microbatches that have a buffer or wait for one.
    held: usize,
}

impl State {
    /// Bytes that the stream claims.
    fn claim(&self, microbatch_bytes: u64) -> u64 {
        let reserved = usize::from(self.speed != ReaderSpeed::Slow);
        microbatch_bytes.saturating_mul(self.held.max(reserved) as u64)
    }
}

/// One microbatch's claim, released when dropped.
#[derive(Debug)]
pub(super) struct Claim(Arc<StreamBuffers>);

impl StreamBuffers {
    /// A stream with a window of one microbatch, which grows to `max_window`.
    pub(super) fn new(
        client: &Arc<str>,
        budget: Arc<BufferBudget>,
        speed: ReaderSpeed,
        slow_after: Duration,
        max_window: usize,
        microbatch_bytes: u64,
    ) -> Self {
        let state = State { speed, window: 1, held: 0 };
        budget.open(client);
        budget.replace(0, state.claim(microbatch_bytes), true);
        let (places, state) = (Arc::new(Semaphore::new(1)), Mutex::new(state));
        let client = Arc::clone(client);
        Self { client, slow_after, max_window, microbatch_bytes, budget, places, state }
    }

    pub(super) fn speed(&self) -> ReaderSpeed {
        self.lock().speed
    }

    /// Waits for a place in the window.
    pub(super) async fn window_place(&self) -> OwnedSemaphorePermit {
        acquire_permit(&self.places).await
    }

    /// Waits until the budget has room for one more microbatch of this stream. The first one is granted unless
    /// its client has its share of the buffers: it was reserved when the stream was opened.
    pub(super) async fn claim(self: &Arc<Self>) -> Claim {
        loop {
            let mut released = pin!(self.budget.released.notified());
            // Before the attempt, so that a release between attempt and wait is not missed.
            released.as_mut().enable();
            let (client, bytes) = (&self.client, self.microbatch_bytes);
            if self.budget.hold(client, bytes) {
                if self.update(|state| state.held += 1, |before| before.held == 0) {
                    return Claim(Arc::clone(self));
                }
                self.budget.release(client, bytes);
            }
            released.await;
        }
    }

    /// Records that the reader took a microbatch within `time`. Fast readers get a larger window, slow
    /// ones a smaller one; `place` is returned unless the window shrinks.
    pub(super) fn record_delivery(&self, time: Duration, place: OwnedSemaphorePermit) {
        let fast = time <= self.slow_after;
        let speed = if fast { ReaderSpeed::Fast } else { ReaderSpeed::Slow };
        self.update(|state| state.speed = speed, |_| true);
        let mut state = self.lock();
        if fast && state.window < self.max_window {
            state.window += 1;
            self.places.add_permits(1);
        } else if !fast && state.window > 1 {
            state.window -= 1;
            place.forget();
        }
    }

    /// Changes the state together with the stream's claim, if the budget allows it or `force` returns
    /// true for the state before. Returns whether the state was changed.
    fn update(&self, change: impl FnOnce(&mut State), force: impl FnOnce(&State) -> bool) -> bool {
        let mut state = self.lock();
        let mut after = *state;
        change(&mut after);
        let bytes = self.microbatch_bytes;
        let granted = self.budget.replace(state.claim(bytes), after.claim(bytes), force(&state));
        if granted {
            *state = after;
        }
        granted
    }

    #[cfg(test)]
    pub(super) fn set_speed(&self, speed: ReaderSpeed) {
        self.update(|state| state.speed = speed, |_| true);
    }

    #[cfg(test)]
    pub(super) fn free_places(&self) -> usize {
        self.places.available_permits()
    }

    /// A panic cannot leave the state half-changed, so a poisoned lock is used as it is.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let StreamBuffers { budget, client, microbatch_bytes, .. } = &*self.0;
        self.0.update(|state| state.held -= 1, |_| true);
        budget.release(client, *microbatch_bytes);
        budget.released.notify_waiters();
    }
}

impl Drop for StreamBuffers {
    fn drop(&mut self) {
        let claim = self.lock().claim(self.microbatch_bytes);
        self.budget.replace(claim, 0, true);
        self.budget.close(&self.client);
        self.budget.released.notify_waiters();
    }
}
