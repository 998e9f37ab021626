//! The buffers that microbatches are made in, from a pool that is bounded in bytes.
//!
//! A buffer goes from the pool to the workers, to the sender, and returns when its last reader drops
//! it. While all are in use, the makers wait: this is the back-pressure. Buffers are reused, so a
//! steady run allocates none.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::error::Error;
use crate::gpu::{HostBytes, HostMemory};
use crate::sync::lock;

/// A pool of buffers, bounded in bytes. Clones share the buffers.
#[derive(Clone, Debug)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    memory: HostMemory,
    /// Held for a few instructions only. Buffers return on any thread that drops them.
    state: Mutex<State>,
    /// Signaled when a buffer returns, and when the pool is closed.
    returned: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Buffers that are not in use.
    free: Vec<HostBytes>,
    /// Bytes of all buffers, free or in use.
    allocated: usize,
    in_use: usize,
    /// Number of callers that wait for a buffer.
    waiting: usize,
    closed: bool,
}

impl BufferPool {
    /// A pool whose buffers take at most `limit` bytes together.
    pub fn new(limit: usize) -> Self {
        Self::with_memory(limit, HostMemory::Pageable)
    }

    /// A pool of buffers of a kind of memory, such as page-locked memory.
    pub fn with_memory(limit: usize, memory: HostMemory) -> Self {
        let (state, returned) = (Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { limit, memory, state, returned }) }
    }

    /// The bound in bytes.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Bytes of the buffers that are in use.
    pub fn bytes_in_use(&self) -> usize {
        lock(&self.shared.state).in_use
    }

    /// Number of callers that wait for a buffer.
    pub fn waiting(&self) -> usize {
        lock(&self.shared.state).waiting
    }

    /// A buffer of `len` bytes; waits until there is room. Its contents are unspecified.
    ///
    /// # Errors
    /// [`Error::BufferBudget`] if `len` exceeds the pool's limit, [`Error::Cancelled`] once the pool is
    /// closed, [`Error::Device`] if a device fails to allocate memory.
    pub fn acquire(&self, len: usize) -> Result<Buffer, Error> {
        self.acquire_evicting(len, || false)
    }

    /// A buffer of `len` bytes. While there is no room, calls `evict_one`, which is to drop a buffer
    /// that is kept in a cache; once it returns false, waits. This call counts as
    /// [`waiting`](Self::waiting) from before the first call of `evict_one` until it has a buffer.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_evicting(
        &self,
        len: usize,
        evict_one: impl Fn() -> bool,
    ) -> Result<Buffer, Error> {
        let Shared { limit, state, returned, .. } = &*self.shared;
        if len > *limit {
            return Err(Error::BufferBudget { need: len as u64, limit: *limit as u64 });
        }
        let mut guard = lock(state);
        if let Some(buffer) = self.take(&mut guard, len)? {
            return Ok(buffer);
        }
        guard.waiting += 1;
        let mut evictable = true;
        loop {
            let taken = self.take(&mut guard, len);
            if let Some(taken) = taken.transpose() {
                guard.waiting -= 1;
                return taken;
            }
            if evictable {
                drop(guard);
                evictable = evict_one();
                guard = lock(state);
            } else {
                guard = returned.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// A buffer of `len` bytes, if there is room now.
    pub fn try_acquire(&self, len: usize) -> Option<Buffer> {
        if len > self.shared.limit {
            return None;
        }
        self.take(&mut lock(&self.shared.state), len).ok()?
    }

    fn take(&self, state: &mut State, len: usize) -> Result<Option<Buffer>, Error> {
        if state.closed {
            return Err(Error::Cancelled);
        }
        let Some(bytes) = state.find(len, &self.shared)? else { return Ok(None) };
        state.in_use += bytes.len();
        Ok(Some(Buffer { bytes, len, shared: Arc::clone(&self.shared) }))
    }

    /// Fails all calls that wait or come later. Buffers in use stay valid.
    pub fn close(&self) {
        lock(&self.shared.state).closed = true;
        self.shared.returned.notify_all();
    }
}

impl State {
    /// The smallest free buffer of `len` to `2 * len` bytes, or else a new one. To stay below the
    /// limit, free buffers of other sizes are released. The upper bound keeps small microbatches out
    /// of large buffers, which would leave room for few of them.
    fn find(&mut self, len: usize, shared: &Shared) -> Result<Option<HostBytes>, Error> {
        let fits = len..=len.saturating_mul(2);
        let fitting = self.free.iter().enumerate().filter(|(_, bytes)| fits.contains(&bytes.len()));
        if let Some((index, _)) = fitting.min_by_key(|(_, bytes)| bytes.len()) {
            return Ok(Some(self.free.swap_remove(index)));
        }
        while self.allocated + len > shared.limit {
            let Some(released) = self.free.pop() else { return Ok(None) };
            self.allocated -= released.len();
        }
        let bytes = shared.memory.allocate(len)?;
        self.allocated += len;
        Ok(Some(bytes))
    }
}

/// A buffer of a [`BufferPool`]; returns to it when dropped.
pub struct Buffer {
    bytes: HostBytes,
    len: usize,
    shared: Arc<Shared>,
}

impl Buffer {
    /// Shortens the visible part, for example to cut off working space behind the payload.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// All of the memory, for a device to work on.
    pub const fn host(&mut self) -> &mut HostBytes {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = lock(&self.shared.state);
        state.in_use -= bytes.len();
        state.free.push(bytes);
        drop(state);
        self.shared.returned.notify_all();
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.len, self.bytes.len())
    }
}

/// The pixels of a finished microbatch, read-only and shared. The buffer returns to its pool when the
/// last clone is dropped.
#[derive(Clone, Debug)]
pub struct Pixels(Arc<Buffer>);

impl Pixels {
    /// Whether there is no other clone.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// Bytes of the buffer that holds them, which may be larger than the payload.
    pub fn buffer_bytes(&self) -> usize {
        self.0.bytes.len()
    }
}

impl From<Buffer> for Pixels {
    fn from(buffer: Buffer) -> Self {
        Self(Arc::new(buffer))
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

    use super::*;

    /// Calls `f` on another thread that waits for a buffer of `len` bytes by the time it runs.
    fn while_waiting(pool: &BufferPool, len: usize, f: impl FnOnce()) -> Result<usize, Error> {
        thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.acquire(len).map(|buffer| buffer.len()));
            while pool.waiting() == 0 {
                thread::yield_now();
            }
            f();
            waiter.join().unwrap()
        })
    }

    #[test]
    fn an_exhausted_pool_makes_callers_wait_until_a_buffer_returns() {
        let pool = BufferPool::new(100);
        let (first, second) = (pool.acquire(50).unwrap(), pool.acquire(50).unwrap());
        assert_eq!(while_waiting(&pool, 40, || drop(first)).unwrap(), 40);
        assert_eq!((pool.bytes_in_use(), pool.waiting()), (50, 0));
        drop(second);
        assert_eq!(pool.bytes_in_use(), 0);
    }

    #[test]
    fn buffers_are_reused() {
        let pool = BufferPool::new(1000);
        let first = pool.acquire(400).unwrap().as_ptr();
        assert_eq!(pool.acquire(300).unwrap().as_ptr(), first);
    }

    #[test]
    fn free_buffers_of_other_sizes_are_released_to_make_room() {
        let pool = BufferPool::new(100);
        drop((pool.acquire(30).unwrap(), pool.acquire(30).unwrap()));
        assert_eq!(pool.acquire(100).unwrap().len(), 100);
        let small: Vec<Buffer> = (0..3).map(|_| pool.acquire(30).unwrap()).collect();
        assert_eq!(pool.bytes_in_use(), 90, "the large buffer was released");
        drop(small);
    }

    #[test]
    fn try_acquire_never_waits() {
        let pool = BufferPool::new(100);
        let held = pool.try_acquire(60).unwrap();
        assert!(pool.try_acquire(60).is_none());
        assert_eq!(pool.try_acquire(40).unwrap().len(), 40);
        drop(held);
        assert_eq!(pool.try_acquire(100).unwrap().len(), 100);
        assert!(pool.try_acquire(101).is_none());
    }

    #[test]
    fn cached_buffers_are_evicted_before_a_caller_waits() {
        let pool = BufferPool::new(100);
        let cached = Mutex::new(vec![pool.acquire(50).unwrap(), pool.acquire(50).unwrap()]);
        let evict_one = || {
            assert_eq!(pool.waiting(), 1);
            cached.lock().unwrap().pop().is_some()
        };
        assert_eq!(pool.acquire_evicting(50, evict_one).unwrap().len(), 50);
        assert_eq!((cached.lock().unwrap().len(), pool.waiting()), (1, 0));
        // A buffer of another size needs the room of both.
        assert_eq!(pool.acquire_evicting(100, evict_one).unwrap().len(), 100);
    }

    #[test]
    fn pixels_return_with_their_last_reader() {
        let pool = BufferPool::new(100);
        let first = Pixels::from(pool.acquire(70).unwrap());
        let second = first.clone();
        assert!(!first.is_unique() && first.buffer_bytes() == 70);
        drop(first);
        assert!(second.is_unique() && pool.bytes_in_use() == 70);
        drop(second);
        assert_eq!(pool.bytes_in_use(), 0);
    }

    #[test]
    fn a_buffer_that_exceeds_the_limit_is_refused_at_once() {
        let error = BufferPool::new(100).acquire(101).unwrap_err();
        assert!(matches!(error, Error::BufferBudget { need: 101, limit: 100 }), "{error}");
    }

    #[test]
    fn closing_the_pool_ends_all_waits() {
        let pool = BufferPool::new(10);
        let held = pool.acquire(10).unwrap();
        let waited = while_waiting(&pool, 10, || pool.close());
        assert!(matches!(waited, Err(Error::Cancelled)));
        assert!(matches!(pool.acquire(1), Err(Error::Cancelled)));
        assert_eq!(held.len(), 10);
    }
}
