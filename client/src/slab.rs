//! Buffers of pixels: bounded ahead of the trainer, reused behind it.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes are counted in units of this many, since a semaphore counts to 2^32 at a time.
const UNIT: usize = 1024;

/// The most microbatches ahead of the trainer, however small they are.
pub(crate) const MOST_AHEAD: u32 = 256;

/// The buffers of one stream.
#[derive(Clone, Debug)]
pub(crate) struct Slabs {
    ahead: Arc<Semaphore>,
    units: u32,
    free: Arc<Mutex<Vec<Vec<u8>>>>,
}

/// The right to hold bytes ahead of the trainer, given back when dropped.
pub(crate) type Ahead = OwnedSemaphorePermit;

impl Slabs {
    /// At most so many bytes ahead of the trainer.
    pub(crate) fn new(prefetch_bytes: usize) -> Self {
        let units = u32::try_from(prefetch_bytes / UNIT).unwrap_or(u32::MAX).max(1);
        let permits = (units as usize).min(Semaphore::MAX_PERMITS);
        Self { ahead: Arc::new(Semaphore::new(permits)), units, free: Arc::default() }
    }

    /// The right to hold so many bytes ahead of the trainer, as soon as they may be ahead, in the order
    /// of asking. What is more than all that may be ahead, waits until nothing else is.
    pub(crate) async fn reserve(&self, bytes: usize) -> Ahead {
        let units = u32::try_from(bytes.div_ceil(UNIT)).unwrap_or(u32::MAX);
        let units = units.max(self.units.div_ceil(MOST_AHEAD)).min(self.units);
        Arc::clone(&self.ahead)
            .acquire_many_owned(units)
            .await
            .expect("the semaphore is never closed")
    }

    /// An empty buffer with room for so many bytes.
    pub(crate) fn buffer(&self, bytes: usize) -> Pixels {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = free.unwrap_or_default();
        buffer.clear();
        buffer.reserve_exact(bytes);
        Pixels { bytes: buffer, home: Arc::clone(&self.free) }
    }
}

/// Buffers that wait to be used again: no more than a trainer holds at a time, so that memory is
/// given back after it held many.
const KEPT: usize = 2;

/// The pixels of a microbatch, contiguous; the buffer goes back to its stream when dropped.
pub struct Pixels {
    bytes: Vec<u8>,
    home: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Pixels {
    /// The bytes, without the buffer going back.
    pub fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pixels({} bytes)", self.bytes.len())
    }
}

impl Drop for Pixels {
    fn drop(&mut self) {
        let mut free = self.home.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bytes.capacity() > 0 && free.len() < KEPT {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again() {
        let slabs = Slabs::new(1 << 20);
        let mut pixels = slabs.buffer(5000);
        pixels.push(&[7; 5000]);
        let place = pixels.as_ptr();
        drop(pixels);
        let pixels = slabs.buffer(5000);
        assert_eq!((pixels.as_ptr(), pixels.len()), (place, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_ahead_is_bounded_and_one_microbatch_is_always_allowed() {
        let slabs = Slabs::new(4096);
        let wait = std::time::Duration::from_secs(1);
        let ahead = slabs.reserve(1 << 20).await;
        assert!(tokio::time::timeout(wait, slabs.reserve(1)).await.is_err());
        drop(ahead);
        let _two = [slabs.reserve(2048).await, slabs.reserve(2048).await];
        assert!(tokio::time::timeout(wait, slabs.reserve(1)).await.is_err());

        let slabs = Slabs::new(128 << 20);
        let mut many = Vec::new();
        for _ in 0..MOST_AHEAD {
            many.push(slabs.reserve(1).await);
        }
        assert!(tokio::time::timeout(wait, slabs.reserve(1)).await.is_err());
    }
}
