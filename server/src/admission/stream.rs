//! Gates 10 to 12 and 15, for the microbatches of one stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::budget::acquire_permit;
use super::buffers::{BufferAdmission, BufferPermit};
use super::stream_buffers::StreamBuffers;
use crate::source::Load;
use crate::status::Refusal;

/// Most microbatches of one stream in the queue: enough to keep the workers busy. Further ones wait at
/// this gate, because the queue is fair between clients and not between the streams of a client.
const MAX_SUBMISSIONS: usize = 8;

/// The gates of one stream.
#[derive(Debug)]
pub(crate) struct StreamAdmission {
    client: Arc<str>,
    buffers: Arc<BufferAdmission>,
    stream: Arc<StreamBuffers>,
    submissions: Arc<Semaphore>,
    stall_timeout: Duration,
}

/// The permit of a microbatch from its submission to its delivery: a place in the window and a buffer.
#[derive(Debug)]
pub(crate) struct MicrobatchPermit {
    stream: Arc<StreamBuffers>,
    place: OwnedSemaphorePermit,
    buffer: BufferPermit,
}

impl MicrobatchPermit {
    /// Releases the permit of a microbatch that the reader took within `time`.
    pub(crate) fn delivered(self, time: Duration) {
        let Self { stream, place, buffer } = self;
        stream.record_delivery(time, place);
        drop(buffer);
    }
}

impl StreamAdmission {
    pub(super) fn new(
        client: Arc<str>,
        buffers: Arc<BufferAdmission>,
        stream: Arc<StreamBuffers>,
        stall_timeout: Duration,
        max_queued: usize,
    ) -> Self {
        // A stream by itself never exceeds the limit of its client.
        let submissions = Arc::new(Semaphore::new(MAX_SUBMISSIONS.min(max_queued)));
        Self { client, buffers, stream, submissions, stall_timeout }
    }

    /// Waits until the next microbatch may be submitted. The second permit is released when the
    /// microbatch leaves the queue.
    pub(crate) async fn microbatch(&self) -> (MicrobatchPermit, OwnedSemaphorePermit) {
        let place = self.stream.window_place().await;
        let buffer = self.buffers.admit(&self.stream).await;
        let submission = acquire_permit(&self.submissions).await;
        (MicrobatchPermit { stream: Arc::clone(&self.stream), place, buffer }, submission)
    }

    /// Waits for the reader to accept a part of a microbatch whose delivery began at `begun`, unless the
    /// reader stalls or is evicted.
    ///
    /// # Errors
    /// [`Refusal::Stalled`] or [`Refusal::Evicted`].
    pub(crate) async fn delivery<T>(
        &self,
        accepted: impl Future<Output = T>,
        begun: Instant,
        load: impl Fn() -> Load,
    ) -> Result<T, Refusal> {
        let mut accepted = std::pin::pin!(accepted);
        let (waiting_since, check) = (Instant::now(), self.stream.slow_after / 4);
        loop {
            let left = self.stall_timeout.saturating_sub(waiting_since.elapsed());
            if let Ok(accepted) = timeout(left.min(check), accepted.as_mut()).await {
                return Ok(accepted);
            }
            let now = Instant::now();
            if now - waiting_since >= self.stall_timeout {
                return Err(Refusal::Stalled { after: self.stall_timeout });
            }
            let Load { microbatches_waiting_for_buffer, drain_estimate, .. } = load();
            let waiting = microbatches_waiting_for_buffer;
            let delivering = now - begun;
            if self.buffers.evicts(&self.stream, &self.client, delivering, waiting, now) {
                return Err(Refusal::Evicted { after: delivering, wait: drain_estimate });
            }
        }
    }
}
