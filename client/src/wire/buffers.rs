//! Pixel buffers, reused after the trainer dropped them.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Cause;

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
    pub(crate) fn get(&self, bytes: usize) -> Result<Pixels, Cause> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = free.unwrap_or_default();
        buffer.clear();
        buffer.try_reserve_exact(bytes).map_err(|_error| Cause::Memory(bytes))?;
        Ok(Pixels { bytes: buffer, home: self.clone() })
    }
}

/// The pixels of a microbatch, contiguous. Dropping them returns their buffer to the stream.
pub struct Pixels {
    bytes: Vec<u8>,
    home: Buffers,
}

impl Pixels {
    /// Takes the bytes, so that the buffer does not return to the stream.
    pub fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// The bytes, to be changed in place by their only holder.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
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
        let mut free = self.home.0.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bytes.capacity() > 0 && free.len() < MAX_FREE {
            free.push(std::mem::take(&mut self.bytes));
        }
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
