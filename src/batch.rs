//! The buffers that microbatches are made in: a ring bounded in bytes, which is the back-pressure.
//!
//! A buffer goes from the ring to the workers, to the sender, and back when the last one who reads it
//! lets go. While all are out, whoever wants one waits. Buffers are kept and handed out again, so a
//! steady run allocates none.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Error;
use crate::gpu::{HostBytes, HostMemory};

/// Buffers of at most a number of bytes together.
#[derive(Clone, Debug)]
pub struct Ring {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    memory: HostMemory,
    /// A lock, because buffers come back on whatever thread drops them; held for a few instructions.
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Buffers at rest.
    free: Vec<HostBytes>,
    /// Bytes of all buffers, at rest or out.
    allocated: usize,
    /// Bytes of the buffers that are out.
    out: usize,
    /// How many wait for one.
    waiting: usize,
    closed: bool,
}

impl Ring {
    /// A ring whose buffers take at most `limit` bytes together.
    pub fn new(limit: usize) -> Self {
        Self::of(limit, HostMemory::Pageable)
    }

    /// A ring of such memory.
    pub fn of(limit: usize, memory: HostMemory) -> Self {
        let (state, returned) = (Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { limit, memory, state, returned }) }
    }

    /// The bound in bytes.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Bytes of the buffers that are out.
    pub fn bytes_out(&self) -> usize {
        self.shared.lock().out
    }

    /// How many wait for a buffer.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting
    }

    /// A buffer of `len` bytes; waits until there is room. Its content is whatever was in it.
    ///
    /// # Errors
    /// [`Error::BufferBudget`] if the whole ring is smaller, [`Error::Cancelled`] once the ring is
    /// closed, [`Error::Device`] if a device gives no memory.
    pub fn take(&self, len: usize) -> Result<Slab, Error> {
        self.take_or(len, || false)
    }

    /// A buffer of `len` bytes. Where there is no room, asks `relieve` to let go of one, and again
    /// until it can do no more and says so by false; then waits. From before `relieve` is called
    /// until there is a buffer, [`waiting`](Self::waiting) counts this call.
    ///
    /// # Errors
    /// As [`take`](Self::take).
    pub fn take_or(&self, len: usize, relieve: impl Fn() -> bool) -> Result<Slab, Error> {
        if len > self.shared.limit {
            return Err(Error::BufferBudget { need: len as u64, limit: self.shared.limit as u64 });
        }
        let mut state = self.shared.lock();
        if let Some(slab) = self.slab(&mut state, len)? {
            return Ok(slab);
        }
        state.waiting += 1;
        let mut more = true;
        loop {
            let found = self.slab(&mut state, len);
            if !matches!(found, Ok(None)) {
                state.waiting -= 1;
                return found.map(|slab| slab.expect("just seen"));
            }
            if more {
                drop(state);
                more = relieve();
                state = self.shared.lock();
            } else {
                state = self.shared.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// A buffer of `len` bytes if there is room now.
    pub fn take_now(&self, len: usize) -> Option<Slab> {
        let mut state = self.shared.lock();
        if len > self.shared.limit { None } else { self.slab(&mut state, len).ok()? }
    }

    fn slab(&self, state: &mut State, len: usize) -> Result<Option<Slab>, Error> {
        if state.closed {
            return Err(Error::Cancelled);
        }
        let Some(bytes) = state.find(len, &self.shared)? else { return Ok(None) };
        state.out += bytes.len();
        Ok(Some(Slab { bytes, len, shared: Arc::clone(&self.shared) }))
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
    /// The smallest resting buffer that is large enough, and at most twice that, or a new one if the
    /// limit allows it, after letting go of resting buffers: small microbatches in the buffers of
    /// large ones would leave room for few.
    fn find(&mut self, len: usize, shared: &Shared) -> Result<Option<HostBytes>, Error> {
        let fits = len..=len.saturating_mul(2);
        let fitting = self.free.iter().enumerate().filter(|(_, bytes)| fits.contains(&bytes.len()));
        if let Some((at, _)) = fitting.min_by_key(|(_, bytes)| bytes.len()) {
            return Ok(Some(self.free.swap_remove(at)));
        }
        while self.allocated + len > shared.limit {
            let Some(resting) = self.free.pop() else { return Ok(None) };
            self.allocated -= resting.len();
        }
        let bytes = shared.memory.allocate(len)?;
        self.allocated += len;
        Ok(Some(bytes))
    }
}

/// A buffer of a [`Ring`], returned when dropped.
pub struct Slab {
    bytes: HostBytes,
    len: usize,
    shared: Arc<Shared>,
}

impl Slab {
    /// Shortens the visible part, such as to cut off working space behind the payload.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// All of the memory, for a device to work on.
    pub const fn host(&mut self) -> &mut HostBytes {
        &mut self.bytes
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = self.shared.lock();
        state.out -= bytes.len();
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

/// A slab that is written, and read by as many as want; returned when the last one lets go.
#[derive(Clone, Debug)]
pub struct Pixels(Arc<Slab>);

impl Pixels {
    /// Whether nobody else reads them.
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Bytes of the buffer that they keep from the ring.
    pub fn buffer_bytes(&self) -> usize {
        self.0.bytes.len()
    }
}

impl From<Slab> for Pixels {
    fn from(slab: Slab) -> Self {
        Self(Arc::new(slab))
    }
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Pixels {
    fn as_ref(&self) -> &[u8] {
        &self.0
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
        let small: Vec<Slab> = (0..3).map(|_| ring.take(30).unwrap()).collect();
        assert_eq!(ring.bytes_out(), 90, "the large one is gone");
        drop(small);
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
    fn whoever_waits_is_relieved_before() {
        let ring = Ring::new(100);
        let kept = Mutex::new(vec![ring.take(50).unwrap(), ring.take(50).unwrap()]);
        let relieve = || {
            assert_eq!(ring.waiting(), 1);
            kept.lock().unwrap().pop().is_some()
        };
        assert_eq!(ring.take_or(50, relieve).unwrap().len(), 50);
        assert_eq!((kept.lock().unwrap().len(), ring.waiting()), (1, 0));
        // Of another size: both have to go.
        assert_eq!(ring.take_or(100, relieve).unwrap().len(), 100);
    }

    #[test]
    fn pixels_go_back_with_the_last_who_reads_them() {
        let ring = Ring::new(100);
        let first = Pixels::from(ring.take(70).unwrap());
        let second = first.clone();
        assert!(!first.is_alone() && first.buffer_bytes() == 70);
        drop(first);
        assert!(second.is_alone() && ring.bytes_out() == 70);
        drop(second);
        assert_eq!(ring.bytes_out(), 0);
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
