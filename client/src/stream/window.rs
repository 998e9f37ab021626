//! The window of a stream, which bounds the bytes that are ahead of the trainer.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of this many, because a semaphore hands out at most 2^32 permits.
const UNIT: usize = 1024;

/// Largest window in microbatches, however small they are.
pub(crate) const MAX_WINDOW: u32 = 256;

/// Largest number of segments that a stream receives at the same time, which is its number of calls.
pub(crate) const MAX_SEGMENTS: usize = 8;

/// Bounds of the window that [`Prefetch::Auto`](crate::Prefetch::Auto) stands for.
const MIN_BYTES: usize = 128 << 20;
const MAX_BYTES: usize = 2 << 30;

/// The window of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    bytes: usize,
    permits: Arc<Semaphore>,
    units: u32,
}

/// The right to have bytes ahead of the trainer, released when dropped.
pub(crate) type Reservation = OwnedSemaphorePermit;

impl Window {
    /// A window of that many bytes.
    pub(crate) fn new(bytes: usize) -> Self {
        let units = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX).max(1);
        let permits = (units as usize).min(Semaphore::MAX_PERMITS);
        Self { bytes, permits: Arc::new(Semaphore::new(permits)), units }
    }

    /// The size of the window.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Waits until that many bytes may be ahead of the trainer. Reservations are granted in the order
    /// of the calls. One that is larger than the window waits until nothing else is ahead.
    pub(crate) async fn reserve(&self, bytes: usize) -> Reservation {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let units = units.max(self.units.div_ceil(MAX_WINDOW)).min(self.units);
        Arc::clone(&self.permits)
            .acquire_many_owned(units)
            .await
            .expect("the semaphore is never closed")
    }
}

/// The size of a window that keeps all servers busy.
///
/// A step comes from one server, so that servers work at the same time only if the window spans
/// several steps. The hash that assigns steps is random: of `n` servers, the next `n` steps use about
/// 0.63 n, and the next `2 n` about 0.87 n. So the window has two steps per server.
pub(crate) fn automatic_bytes(servers: usize, step_bytes: usize) -> usize {
    let steps = if servers < 2 { 0 } else { 2 * servers.min(MAX_SEGMENTS) };
    step_bytes.saturating_mul(steps).clamp(MIN_BYTES, MAX_BYTES)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_ahead_are_bounded_and_one_microbatch_is_always_allowed() {
        let is_full = async |window: &Window| {
            timeout(Duration::from_secs(1), window.reserve(1)).await.is_err()
        };
        let window = Window::new(4096);
        let ahead = window.reserve(1 << 20).await;
        assert!(is_full(&window).await);
        drop(ahead);
        let _two = [window.reserve(2048).await, window.reserve(2048).await];
        assert!(is_full(&window).await);

        let window = Window::new(128 << 20);
        let mut many = Vec::new();
        for _ in 0..MAX_WINDOW {
            many.push(window.reserve(1).await);
        }
        assert!(is_full(&window).await);
    }

    #[test]
    fn the_default_window_spans_two_steps_of_each_server() {
        // One rank of a2: 8 microbatches of 256 images of 224 pixels in each step.
        let single = 8 * 256 * 224 * 224 * 3;
        assert_eq!(automatic_bytes(1, single), 128 << 20);
        assert_eq!(automatic_bytes(2, single), 4 * single);
        assert_eq!(automatic_bytes(3, single), 6 * single);
        assert_eq!(automatic_bytes(8, single), 2 << 30);
        // One of eight ranks, and small images.
        assert_eq!(automatic_bytes(3, single / 8), 6 * single / 8);
        assert_eq!(automatic_bytes(3, 1 << 20), 128 << 20);
        assert_eq!(automatic_bytes(3, usize::MAX), 2 << 30);
    }
}
