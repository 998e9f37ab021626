//! Gates 10 and 11 for one stream: its window, and how fast its reader is.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::futures::Notified;
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
    deliveries: Mutex<Deliveries>,
}

/// When the deliveries in progress began, each with a number that tells those of one moment apart.
#[derive(Debug, Default)]
struct Deliveries {
    begun: BTreeSet<(Instant, u64)>,
    next: u64,
}

/// A microbatch that the reader has not taken yet, until dropped.
#[derive(Debug)]
pub(crate) struct Delivery {
    stream: Arc<StreamBuffers>,
    begun: (Instant, u64),
}

#[derive(Clone, Copy, Debug)]
struct State {
    speed: ReaderSpeed,
    /// Size of the window: microbatches that may be ahead of the reader now.
    window: usize,
    /// Microbatches that have a buffer or wait for one.
    held: usize,
    /// Microbatches that the reader has, in buffers of the server.
    lent: usize,
    /// Whether there is no next microbatch.
    ended: bool,
}

impl State {
    /// Bytes that the stream claims.
    fn claim(&self, microbatch_bytes: u64) -> u64 {
        let reserved = usize::from(self.speed != ReaderSpeed::Slow && !self.ended);
        microbatch_bytes.saturating_mul((self.held.max(reserved) + self.lent) as u64)
    }
}

/// One microbatch's claim, released when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    stream: Arc<StreamBuffers>,
    lent: bool,
}

impl Claim {
    /// Counts the microbatch as lent, besides those that the stream may hold. Returns whether that is possible: the
    /// reader is not slow and has at most the largest window, so that it can have a next one, and a buffer is left for
    /// each stream that has none, this one included.
    pub(super) fn lend(&mut self) -> bool {
        let StreamBuffers { budget, client, microbatch_bytes, .. } = &*self.stream;
        if !budget.lend(client, *microbatch_bytes) {
            return false;
        }
        self.lent = self.stream.lend();
        if !self.lent {
            budget.end_loan(client, *microbatch_bytes);
        }
        self.lent
    }

    /// Records that the reader took the microbatch within `time`, which has no place in the window any more.
    pub(super) fn record_speed(&self, time: Duration) {
        self.stream.record_speed(time);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.stream.microbatch_bytes
    }

    /// Counts the microbatch as kept instead, by whomever: the client of the stream has returned it.
    pub(super) fn keep(self) -> Kept {
        let (budget, bytes) = (Arc::clone(&self.stream.budget), self.stream.microbatch_bytes);
        // Before the loan ends, so that it is counted all the time.
        budget.keep(bytes);
        Kept { budget, bytes }
    }
}

/// Bytes of a microbatch that somebody keeps, until dropped.
#[derive(Debug)]
pub(super) struct Kept {
    budget: Arc<BufferBudget>,
    bytes: u64,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.budget.end_keeping(self.bytes);
    }
}

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
        let state = State { speed, window: 1, held: 0, lent: 0, ended: false };
        budget.open(client);
        budget.replace(0, state.claim(microbatch_bytes), true);
        let (places, state) = (Arc::new(Semaphore::new(1)), Mutex::new(state));
        let (client, deliveries) = (Arc::clone(client), Mutex::default());
        Self { client, slow_after, max_window, microbatch_bytes, budget, places, state, deliveries }
    }

    /// Records that the stream has ended, so that no buffer is left for a next microbatch. What it has still counts.
    pub(super) fn end(&self) {
        let mut before = false;
        self.update(|state| before = std::mem::replace(&mut state.ended, true), |_| true);
        if !before {
            self.budget.end(&self.client);
            self.budget.released.notify_waiters();
        }
    }

    /// Begins the delivery of a microbatch.
    pub(super) fn begin_delivery(self: &Arc<Self>) -> Delivery {
        let mut deliveries = self.deliveries();
        let begun = (Instant::now(), deliveries.next);
        deliveries.next += 1;
        deliveries.begun.insert(begun);
        Delivery { stream: Arc::clone(self), begun }
    }

    /// When the oldest of the deliveries in progress began.
    pub(super) fn delivering_since(&self) -> Option<Instant> {
        self.deliveries().begun.first().map(|(begun, _)| *begun)
    }

    /// A panic cannot leave the deliveries half-changed, so a poisoned lock is used as it is.
    fn deliveries(&self) -> MutexGuard<'_, Deliveries> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
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
                    return Claim { stream: Arc::clone(self), lent: false };
                }
                self.budget.release(client, bytes);
            }
            released.await;
        }
    }

    /// Records that the reader took a microbatch within `time`. Fast readers get a larger window, slow
    /// ones a smaller one; `place` is returned unless the window shrinks.
    pub(super) fn record_delivery(&self, time: Duration, place: OwnedSemaphorePermit) {
        let fast = self.record_speed(time);
        let mut state = self.lock();
        if fast && state.window < self.max_window {
            state.window += 1;
            self.places.add_permits(1);
        } else if !fast && state.window > 1 {
            state.window -= 1;
            place.forget();
        }
    }

    /// Records how fast the reader is that took a microbatch within `time`. Returns whether that is fast.
    fn record_speed(&self, time: Duration) -> bool {
        let fast = time <= self.slow_after;
        let speed = if fast { ReaderSpeed::Fast } else { ReaderSpeed::Slow };
        self.update(|state| state.speed = speed, |_| true);
        fast
    }

    /// Moves a microbatch from those that are held to those that are lent.
    fn lend(&self) -> bool {
        let may_lend =
            |state: &State| state.speed != ReaderSpeed::Slow && state.lent <= self.max_window;
        let mut state = self.lock();
        let mut after = *state;
        (after.held, after.lent) = (state.held - 1, state.lent + 1);
        let bytes = self.microbatch_bytes;
        let granted =
            may_lend(&state) && self.budget.replace(state.claim(bytes), after.claim(bytes), false);
        if granted {
            *state = after;
        }
        granted
    }

    /// Number of microbatches that are lent.
    pub(super) fn lent(&self) -> usize {
        self.lock().lent
    }

    /// Waits until a buffer is released, by any stream.
    pub(super) fn released(&self) -> Notified<'_> {
        self.budget.released.notified()
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
        let StreamBuffers { budget, client, microbatch_bytes, .. } = &*self.stream;
        if self.lent {
            self.stream.update(|state| state.lent -= 1, |_| true);
            budget.end_loan(client, *microbatch_bytes);
        } else {
            self.stream.update(|state| state.held -= 1, |_| true);
        }
        budget.release(client, *microbatch_bytes);
        budget.released.notify_waiters();
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.stream.deliveries().begun.remove(&self.begun);
    }
}

impl Drop for StreamBuffers {
    fn drop(&mut self) {
        self.end();
        let claim = self.lock().claim(self.microbatch_bytes);
        self.budget.replace(claim, 0, true);
        self.budget.close(&self.client);
        self.budget.released.notify_waiters();
    }
}
