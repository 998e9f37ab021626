//! Gates 10 to 12 and 15, for the microbatches of one stream.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::budget::acquire_permit;
use super::buffers::{BufferAdmission, BufferPermit, KeptBuffer};
use super::stream_buffers::{Delivery, ReaderSpeed, StreamBuffers};
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

/// The permit of a microbatch that is lent, until it is returned: its buffer.
#[derive(Debug)]
pub(crate) struct LentPermit {
    buffer: BufferPermit,
}

/// The permit of a microbatch that was returned and that somebody still has.
#[derive(Debug)]
pub(crate) struct KeptPermit {
    _buffer: KeptBuffer,
}

impl LentPermit {
    /// Releases the permit of a microbatch that the reader took within `time`, as frames after all. Otherwise a reader
    /// that cannot be told of its leases would count as fast however long it takes.
    pub(crate) fn delivered(self, time: Duration) {
        self.buffer.record_speed(time);
    }

    /// Counts the microbatch as one that somebody keeps.
    pub(crate) fn keep(self) -> KeptPermit {
        KeptPermit { _buffer: self.buffer.keep() }
    }
}

/// What becomes of a microbatch that could be lent.
#[derive(Debug)]
pub(crate) enum Lending {
    Lent(LentPermit),
    /// It has to be sent as frames.
    Frames(MicrobatchPermit),
}

impl MicrobatchPermit {
    /// Lends a microbatch that has been waiting since `ready`. If its stream has lent as much as it may, waits until a
    /// microbatch is returned, or `needed` is ready: the reader cannot return any before it has this one.
    pub(crate) async fn lend(
        mut self,
        ready: Instant,
        needed: impl Future<Output = ()>,
    ) -> Lending {
        let mut needed = std::pin::pin!(needed);
        let mut is_needed = false;
        loop {
            let stream = Arc::clone(&self.stream);
            let mut released = std::pin::pin!(stream.released());
            // Before the attempt, so that a release between attempt and wait is not missed.
            released.as_mut().enable();
            if self.buffer.lend() {
                let Self { stream, place, buffer } = self;
                stream.record_delivery(ready.elapsed(), place);
                return Lending::Lent(LentPermit { buffer });
            }
            // A slow reader gets frames, and what it has does not matter.
            if is_needed || stream.lent() == 0 || stream.speed() == ReaderSpeed::Slow {
                return Lending::Frames(self);
            }
            tokio::select! {
                () = released => {}
                // A reader that has just returned one needs the next: both may be known by now, so try again.
                () = &mut needed => is_needed = true,
            }
        }
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

    /// Begins the delivery of a microbatch, which lasts until the reader has taken all of it.
    pub(crate) fn begin_delivery(&self) -> Delivery {
        self.stream.begin_delivery()
    }

    /// Waits for the reader to accept a part of a microbatch, unless it stalls.
    ///
    /// # Errors
    /// [`Refusal::Stalled`].
    pub(crate) async fn delivery<T>(
        &self,
        accepted: impl Future<Output = T>,
    ) -> Result<T, Refusal> {
        let after = self.stall_timeout;
        timeout(after, accepted).await.map_err(|_elapsed| Refusal::Stalled { after })
    }

    /// Waits until the stream is evicted: others wait for a buffer, and its reader takes too long for a microbatch.
    ///
    /// All of a small one fits into the buffers of HTTP/2, so that nothing of the stream waits for its reader although
    /// that has taken none of it. So what counts is the time until it has taken everything.
    pub(crate) async fn evicted(&self, load: impl Fn() -> Load) -> Refusal {
        loop {
            sleep(self.stream.slow_after / 4).await;
            let Some(begun) = self.stream.delivering_since() else { continue };
            let Load { microbatches_waiting_for_buffer: waiting, drain_estimate, .. } = load();
            let (now, after) = (Instant::now(), begun.elapsed());
            if self.buffers.evicts(&self.stream, &self.client, after, waiting, now) {
                return Refusal::Evicted { after, wait: drain_estimate };
            }
        }
    }

    /// Ends the stream: no buffer is left for a next microbatch of it.
    pub(crate) fn end(&self) {
        self.stream.end();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use tokio::sync::Notify;

    use super::super::budget::UNIT;
    use super::*;
    use crate::admission::{Admission, Limits};

    #[tokio::test]
    async fn a_microbatch_that_is_needed_right_after_another_was_returned_is_lent() {
        let admission = Admission::new(Limits::default(), 16 * UNIT);
        let stream = admission.microbatches("a".into(), 1, UNIT, 8);
        let lend = async |needed: &Notify| {
            let (permit, _submission) = stream.microbatch().await;
            permit.lend(Instant::now(), needed.notified()).await
        };
        let (needed, mut lent) = (Notify::new(), Vec::new());
        // As many as the reader may have.
        for _ in 0..2 {
            let Lending::Lent(permit) = lend(&needed).await else { panic!("a buffer is left") };
            lent.push(permit);
        }
        // Which of two events is looked at first is random.
        for _ in 0..64 {
            let mut next = pin!(lend(&needed));
            let poll = next.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(poll, Poll::Pending), "the reader may have no third one");
            lent.pop();
            needed.notify_one();
            let Lending::Lent(permit) = next.await else { panic!("one was returned before") };
            lent.push(permit);
            // What the reader needed has come, whether or not the server has looked at that.
            let waited = pin!(needed.notified());
            let _was_set = waited.poll(&mut Context::from_waker(Waker::noop())).is_ready();
        }
        needed.notify_one();
        assert!(matches!(lend(&needed).await, Lending::Frames(_)), "none was returned");
    }
}
