//! The buffers that microbatches are made in: a ring bounded in bytes, which is the back-pressure.
//!
//! A buffer goes from the ring to the workers, to the sender, and back when the last one who reads it
//! lets go. While all are out, whoever wants one waits. Buffers are kept and handed out again, so a
//! steady run allocates none.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Error;

/// Buffers of at most a number of bytes together.
#[derive(Clone, Debug)]
pub struct Ring {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    /// A lock, because buffers come back on whatever thread drops them; held for a few instructions.
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Buffers at rest.
    free: Vec<Vec<u8>>,
    /// Bytes of all buffers, at rest or out.
    allocated: usize,
    /// Bytes of the buffers that are out.
    out: usize,
    closed: bool,
}

impl Ring {
    /// A ring whose buffers take at most `limit` bytes together.
    pub fn new(limit: usize) -> Self {
        let shared = Shared { limit, state: Mutex::default(), returned: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// The bound in bytes.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Bytes of the buffers that are out.
    pub fn bytes_out(&self) -> usize {
        self.shared.lock().out
    }

    /// A buffer of `len` bytes; waits until there is room. Its content is whatever was in it.
    ///
    /// # Errors
    /// [`Error::BufferBudget`] if the whole ring is smaller, [`Error::Cancelled`] once the ring is
    /// closed.
    pub fn take(&self, len: usize) -> Result<Slab, Error> {
        if len > self.shared.limit {
            return Err(Error::BufferBudget { need: len as u64, limit: self.shared.limit as u64 });
        }
        let mut state = self.shared.lock();
        loop {
            if state.closed {
                return Err(Error::Cancelled);
            }
            if let Some(bytes) = state.find(len, self.shared.limit) {
                state.out += bytes.capacity();
                return Ok(Slab { bytes, len, shared: Arc::clone(&self.shared) });
            }
            state = self.shared.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A buffer of `len` bytes if there is room now.
    pub fn take_now(&self, len: usize) -> Option<Slab> {
        let mut state = self.shared.lock();
        if state.closed || len > self.shared.limit {
            return None;
        }
        let bytes = state.find(len, self.shared.limit)?;
        state.out += bytes.capacity();
        Some(Slab { bytes, len, shared: Arc::clone(&self.shared) })
    }

    /// Ends every wait, now and later. Buffers that are out stay valid.
    pub fn close(&self) {
        self.shared.lock().closed = true;
        self.shared.returned.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The smallest resting buffer that is large enough, or a new one if the limit allows it, after
    /// letting go of resting buffers that are too small.
    fn find(&mut self, len: usize, limit: usize) -> Option<Vec<u8>> {
        let fitting = self.free.iter().enumerate().filter(|(_, bytes)| bytes.len() >= len);
        if let Some((at, _)) = fitting.min_by_key(|(_, bytes)| bytes.len()) {
            return Some(self.free.swap_remove(at));
        }
        while self.allocated + len > limit {
            self.allocated -= self.free.pop()?.capacity();
        }
        let bytes = vec![0; len];
        self.allocated += bytes.capacity();
        Some(bytes)
    }
}

/// A buffer of a [`Ring`], returned when dropped.
pub struct Slab {
    bytes: Vec<u8>,
    len: usize,
    shared: Arc<Shared>,
}

impl Slab {
    /// Shortens the visible part, such as to cut off working space behind the payload.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = self.shared.lock();
        state.out -= bytes.capacity();
        state.free.push(bytes);
        drop(state);
        self.shared.returned.notify_all();
    }
}

impl Deref for Slab {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Slab {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Slab {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Slab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slab({} of {} bytes)", self.len, self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_full_ring_makes_the_next_one_wait_until_a_buffer_returns() {
        let ring = Ring::new(100);
        let (first, second) = (ring.take(50).unwrap(), ring.take(50).unwrap());
        let waiting = ring.clone();
        let waiter =
            thread::Builder::new().spawn(move || waiting.take(40).map(|s| s.len())).unwrap();
        thread::sleep(Duration::from_millis(30));
        assert!(!waiter.is_finished());
        drop(first);
        assert_eq!(waiter.join().unwrap().unwrap(), 40);
        assert_eq!(ring.bytes_out(), 50);
        drop(second);
        assert_eq!(ring.bytes_out(), 0);
    }

    #[test]
    fn buffers_are_used_again() {
        let ring = Ring::new(1000);
        let first = ring.take(400).unwrap().as_ptr();
        assert_eq!(ring.take(300).unwrap().as_ptr(), first);
    }

    #[test]
    fn buffers_of_another_size_make_room() {
        let ring = Ring::new(100);
        drop((ring.take(30).unwrap(), ring.take(30).unwrap()));
        assert_eq!(ring.take(100).unwrap().len(), 100);
    }

    #[test]
    fn whoever_does_not_wait_gets_what_there_is_room_for() {
        let ring = Ring::new(100);
        let held = ring.take_now(60).unwrap();
        assert!(ring.take_now(60).is_none());
        assert_eq!(ring.take_now(40).unwrap().len(), 40);
        drop(held);
        assert_eq!(ring.take_now(100).unwrap().len(), 100);
        assert!(ring.take_now(101).is_none());
    }

    #[test]
    fn more_than_the_limit_is_refused_at_once() {
        let error = Ring::new(100).take(101).unwrap_err();
        assert!(matches!(error, Error::BufferBudget { need: 101, limit: 100 }), "{error}");
    }

    #[test]
    fn closing_ends_the_wait() {
        let ring = Ring::new(10);
        let held = ring.take(10).unwrap();
        let waiting = ring.clone();
        let waiter =
            thread::Builder::new().spawn(move || waiting.take(10).map(|s| s.len())).unwrap();
        thread::sleep(Duration::from_millis(10));
        ring.close();
        assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled)));
        assert_eq!(held.len(), 10);
    }
}
