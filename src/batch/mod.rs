//! The buffers that microbatches are made in, from a pool that is bounded in bytes.
//!
//! A buffer goes from the pool to the workers, to the sender, and returns when its last reader drops
//! it. While all are in use, the makers wait in line: this is the back-pressure. A buffer has exactly the
//! bytes that were asked for, so that what streams are admitted for is what they take. Buffers are
//! reused, so a steady run allocates none.
//!
//! A buffer may be in memory that other processes read. Once its last reader here has dropped it, it returns
//! only when none of them has it any more; until then it counts as in use.
//!
//! The pool also lends bytes to a maker whose pictures take more memory than its workers have of their
//! own. A maker gets its buffer and its loan at once, so that no two makers can wait for each other.

mod line;

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::error::Error;
use crate::gpu::{HostBytes, HostMemory};
use crate::shared_memory::SharedMemory;
use crate::sync::lock;
use line::Line;

/// Interval at which callers that wait look for buffers that other processes had.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

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
    /// Signaled when a buffer returns, when a caller leaves the line, and when the pool is closed.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Buffers that are not in use, in the order in which they returned.
    free: Vec<HostBytes>,
    /// Buffers that nobody here uses and another process still has.
    unreturned: Vec<HostBytes>,
    /// Bytes of all buffers, free or in use, and of all loans.
    allocated: usize,
    /// Bytes of buffers in use, and of all loans.
    in_use: usize,
    /// The callers that wait for a buffer.
    line: Line,
    closed: bool,
}

impl BufferPool {
    /// A pool whose buffers take at most `limit` bytes together.
    pub fn new(limit: usize) -> Self {
        Self::with_memory(limit, HostMemory::Pageable)
    }

    /// A pool of buffers of a kind of memory, such as page-locked memory.
    pub fn with_memory(limit: usize, memory: HostMemory) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { limit, memory, state, changed }) }
    }

    /// The bound in bytes.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// Whether buffers are in memory that other processes can read, all but small ones.
    pub fn shares_memory(&self) -> bool {
        matches!(self.shared.memory, HostMemory::Shared) && SharedMemory::is_supported()
    }

    /// Bytes of the buffers that are in use, and of all loans.
    pub fn bytes_in_use(&self) -> usize {
        let mut state = lock(&self.shared.state);
        state.take_back();
        state.in_use
    }

    /// Bytes of the buffers that nobody here uses and that another process still has.
    pub fn unreturned_bytes(&self) -> usize {
        let mut state = lock(&self.shared.state);
        state.take_back();
        state.unreturned.iter().map(|bytes| bytes.len()).sum()
    }

    /// Number of callers that wait for a buffer.
    pub fn waiting(&self) -> usize {
        lock(&self.shared.state).line.len()
    }

    /// A buffer of `len` bytes; waits until there is room. Its contents are unspecified.
    ///
    /// # Errors
    /// [`Error::BufferBudget`] if `len` exceeds the pool's limit, [`Error::Cancelled`] once the pool is
    /// closed, [`Error::Device`] if a device fails to allocate memory.
    pub fn acquire(&self, len: usize) -> Result<Buffer, Error> {
        self.acquire_evicting(len, || false)
    }

    /// A buffer of `len` bytes. While there is no room, waits in line; the first of the line calls
    /// `evict_one`, which is to drop a buffer that is kept in a cache, until it returns false. This call
    /// counts as [`waiting`](Self::waiting) from before the first call of `evict_one` until it has a
    /// buffer.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire).
    pub fn acquire_evicting(
        &self,
        len: usize,
        evict_one: impl Fn() -> bool,
    ) -> Result<Buffer, Error> {
        self.acquire_with_loan(len, 0, evict_one).map(|(buffer, _nothing)| buffer)
    }

    /// As [`acquire_evicting`](Self::acquire_evicting), with a loan of `lent` bytes.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire), for both together.
    pub(crate) fn acquire_with_loan(
        &self,
        len: usize,
        lent: usize,
        evict_one: impl Fn() -> bool,
    ) -> Result<(Buffer, Loan), Error> {
        let Shared { limit, state, changed, .. } = &*self.shared;
        let bytes = len.saturating_add(lent);
        if bytes > *limit {
            return Err(Error::BufferBudget { need: bytes as u64, limit: *limit as u64 });
        }
        let mut guard = lock(state);
        if let Some(taken) = self.take(&mut guard, (len, lent), None)? {
            return Ok(taken);
        }
        let place = guard.line.join(bytes);
        let mut evictable = true;
        loop {
            if let Some(taken) = self.take(&mut guard, (len, lent), Some(place)).transpose() {
                guard.line.leave(place);
                drop(guard);
                // The next one may be first now.
                changed.notify_all();
                return taken;
            }
            if evictable && guard.line.is_first(place) {
                drop(guard);
                evictable = evict_one();
                guard = lock(state);
            } else {
                guard = wait(changed, guard);
            }
        }
    }

    /// A buffer of `len` bytes, if there is room now.
    pub fn try_acquire(&self, len: usize) -> Option<Buffer> {
        if len > self.shared.limit {
            return None;
        }
        let taken = self.take(&mut lock(&self.shared.state), (len, 0), None).ok()?;
        taken.map(|(buffer, _nothing)| buffer)
    }

    /// A buffer and a loan for a caller at a place of the line, or for a new one.
    fn take(
        &self,
        state: &mut State,
        (len, lent): (usize, usize),
        place: Option<u64>,
    ) -> Result<Option<(Buffer, Loan)>, Error> {
        if state.closed {
            return Err(Error::Cancelled);
        }
        state.take_back();
        let (bytes, shared) = (len + lent, &self.shared);
        if !state.line.may_take(place, bytes, shared.limit - state.in_use) {
            return Ok(None);
        }
        let buffer = state.find(len, lent, shared)?;
        state.in_use += bytes;
        state.line.took(place, bytes);
        let buffer = Buffer { bytes: buffer, shared: Arc::clone(shared) };
        Ok(Some((buffer, Loan { bytes: lent, shared: Arc::clone(shared) })))
    }

    /// Fails all calls that wait or come later. Buffers in use stay valid.
    pub fn close(&self) {
        lock(&self.shared.state).closed = true;
        self.shared.changed.notify_all();
    }
}

/// Waits until something changes. Nothing tells when another process closes a file.
fn wait<'a>(changed: &Condvar, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    if guard.unreturned.is_empty() {
        return changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
    changed.wait_timeout(guard, LOOK_AGAIN).unwrap_or_else(PoisonError::into_inner).0
}

impl State {
    /// Frees the buffers that no other process has any more.
    fn take_back(&mut self) {
        let mut at = 0;
        while at < self.unreturned.len() {
            if self.unreturned[at].is_exclusive() {
                let bytes = self.unreturned.swap_remove(at);
                self.in_use -= bytes.len();
                self.free.push(bytes);
            } else {
                at += 1;
            }
        }
    }

    /// A free buffer of `len` bytes, or else a new one. For that and for a loan there is room if enough
    /// of the other free buffers are released.
    fn find(&mut self, len: usize, lent: usize, shared: &Shared) -> Result<HostBytes, Error> {
        let same = self.free.iter().rposition(|bytes| bytes.len() == len);
        let same = same.map(|index| self.free.remove(index));
        let more = lent + if same.is_some() { 0 } else { len };
        let mut released = HostBytes::default();
        while self.allocated + more > shared.limit {
            released = self.free.remove(0);
            self.allocated -= released.len();
        }
        let bytes = match same {
            Some(bytes) => bytes,
            None => shared.memory.reallocate(released, len)?,
        };
        self.allocated += more;
        Ok(bytes)
    }
}

/// Bytes that a [`BufferPool`] has lent; they return when this is dropped.
#[derive(Debug)]
pub(crate) struct Loan {
    bytes: usize,
    shared: Arc<Shared>,
}

impl Loan {
    /// Splits bytes off, which return on their own.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        self.bytes -= bytes;
        Self { bytes, shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut state = lock(&self.shared.state);
            state.in_use -= self.bytes;
            state.allocated -= self.bytes;
            drop(state);
            self.shared.changed.notify_all();
        }
    }
}

/// A buffer of a [`BufferPool`]; returns to it when dropped.
pub struct Buffer {
    bytes: HostBytes,
    shared: Arc<Shared>,
}

impl Buffer {
    /// All of the memory, for a device to work on.
    pub const fn host(&mut self) -> &mut HostBytes {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut state = lock(&self.shared.state);
        state.unreturned.push(bytes);
        state.take_back();
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes.len())
    }
}

/// The pixels of a finished microbatch, read-only and shared. The buffer returns to its pool when the
/// last clone is dropped, and with it a loan for what the microbatch has besides its pixels.
#[derive(Clone, Debug)]
pub struct Pixels(Arc<(Buffer, Option<Loan>)>);

impl Pixels {
    pub(crate) fn with_loan(buffer: Buffer, loan: Loan) -> Self {
        Self(Arc::new((buffer, Some(loan))))
    }

    /// Bytes that return to the pool when the last clone is dropped.
    pub(crate) fn held_bytes(&self) -> usize {
        self.0.0.len() + self.0.1.as_ref().map_or(0, |loan| loan.bytes)
    }

    /// The memory that other processes can read, if the pixels are in such memory.
    pub fn shared(&self) -> Option<&SharedMemory> {
        self.0.0.bytes.shared()
    }

    /// Whether there is no other clone.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl From<Buffer> for Pixels {
    fn from(buffer: Buffer) -> Self {
        Self(Arc::new((buffer, None)))
    }
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0.0
    }
}

impl AsRef<[u8]> for Pixels {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests;
