//! Pixel buffers, reused after the trainer dropped them.

use std::fmt;
use std::io;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Cause;
use crate::wire::memory::Leased;

/// Number of free buffers that are kept: as many as a trainer usually holds at a time. Further ones are
/// freed.
const MAX_FREE: usize = 2;

/// The free buffers of one stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// An empty buffer with room for that many bytes.
    ///
    /// # Errors
    /// When there is not enough memory.
    pub(crate) fn get(&self, bytes: usize) -> Result<Filling, Cause> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = free.unwrap_or_default();
        buffer.clear();
        buffer.try_reserve_exact(bytes).map_err(|_error| Cause::Memory(bytes))?;
        Ok(Filling { bytes: buffer, home: self.clone() })
    }
}

/// A buffer of a stream, which returns to it when dropped.
#[derive(Debug)]
pub(crate) struct Filling {
    bytes: Vec<u8>,
    home: Buffers,
}

impl Filling {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

impl Deref for Filling {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        let mut free = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bytes.capacity() > 0 && free.len() < MAX_FREE {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// The pixels of a microbatch, contiguous. Dropping them returns their memory to the stream, or to the server on
/// this host that made them there.
pub struct Pixels(Memory);

#[derive(Debug)]
enum Memory {
    Own(Filling),
    Leased(Leased),
}

impl Pixels {
    /// Takes the bytes, so that their buffer does not return to the stream; copies them if they are in the memory of a
    /// server.
    pub fn into_vec(self) -> Vec<u8> {
        match self.0 {
            Memory::Own(mut buffer) => std::mem::take(&mut buffer.bytes),
            Memory::Leased(leased) => leased.bytes().to_vec(),
        }
    }

    /// The bytes, to be changed in place by their only holder. They are copied first if they are in the memory of a
    /// server, where they cannot be changed.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        if let Memory::Leased(leased) = &self.0 {
            let bytes = leased.bytes().to_vec();
            self.0 = Memory::Own(Filling { bytes, home: Buffers::default() });
        }
        match &mut self.0 {
            Memory::Own(buffer) => &mut buffer.bytes,
            Memory::Leased(_) => &mut [],
        }
    }

    /// Whether they are in the memory of a server on this host, which makes at most a few microbatches more before
    /// they are dropped.
    pub const fn is_shared(&self) -> bool {
        matches!(self.0, Memory::Leased(_))
    }

    /// Lets processes that are forked from now on read the bytes. Until then they have none that are in the memory of a
    /// server, which cannot use it again before all processes have dropped it, or ended.
    ///
    /// # Errors
    /// When the system has no memory left.
    pub fn share_with_children(&self) -> io::Result<()> {
        match &self.0 {
            Memory::Own(_) => Ok(()),
            Memory::Leased(leased) => leased.share_with_children(),
        }
    }

    /// Drops the bytes in a process that was forked from the one that received them: a server gets its memory back, and
    /// no lock is taken, which a thread of the other process may hold.
    pub fn drop_in_child(self) {
        match self.0 {
            Memory::Own(buffer) => std::mem::forget(buffer),
            Memory::Leased(leased) => leased.unmap(),
        }
    }
}

impl From<Filling> for Pixels {
    fn from(buffer: Filling) -> Self {
        Self(Memory::Own(buffer))
    }
}

impl From<Leased> for Pixels {
    fn from(leased: Leased) -> Self {
        Self(Memory::Leased(leased))
    }
}

impl Deref for Pixels {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Memory::Own(buffer) => buffer,
            Memory::Leased(leased) => leased.bytes(),
        }
    }
}

impl fmt::Debug for Pixels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pixels({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_buffer_is_reused() {
        let buffers = Buffers::default();
        let mut pixels = buffers.get(5000).unwrap();
        pixels.push(&[7; 5000]);
        let address = pixels.as_ptr();
        drop(pixels);
        let pixels = buffers.get(5000).unwrap();
        assert_eq!((pixels.as_ptr(), pixels.len()), (address, 0));
    }

    #[test]
    fn a_buffer_that_does_not_fit_into_memory_is_an_error() {
        let error = Buffers::default().get(usize::MAX).unwrap_err().to_string();
        assert_eq!(error, format!("a microbatch of {} bytes does not fit into memory", usize::MAX));
    }
}
