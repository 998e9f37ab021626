//! Page-locked buffers through which the host sends data to a GPU, one after the other.

use std::collections::VecDeque;

use super::device::Gpu;
use super::error::DeviceError;
use super::pinned::Pinned;

/// Buffers of one size that are filled and uploaded in turn.
///
/// A buffer can be filled again once its upload has happened, which is at the latest when the GPU has done the work
/// that needed it. So there are as many buffers as the host is ahead of the GPU, up to a maximum; only then the host
/// waits.
#[derive(Debug)]
pub struct Staging {
    device: Gpu,
    bytes: usize,
    max: usize,
    /// From the one that was filled first.
    buffers: VecDeque<Pinned>,
}

impl Gpu {
    /// Buffers of `bytes` bytes each, of which at most `max` are allocated, as they are needed.
    ///
    /// # Panics
    /// Panics if `max` is 0.
    pub fn staging(&self, bytes: usize, max: usize) -> Staging {
        assert!(max > 0, "at least one buffer");
        Staging { device: self.clone(), bytes, max, buffers: VecDeque::new() }
    }
}

impl Staging {
    /// The next buffer to fill, which no upload uses. Its contents are unspecified.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if no memory can be allocated, or an upload, or a kernel before it, failed.
    pub fn take(&mut self) -> Result<&mut Pinned, DeviceError> {
        let is_idle = match self.buffers.front_mut() {
            Some(oldest) => oldest.is_idle()?,
            None => false,
        };
        if !is_idle && self.buffers.len() < self.max {
            self.buffers.push_front(self.device.pinned(self.bytes)?);
        }
        let mut oldest = self.buffers.pop_front().expect("at least one buffer");
        let waited = oldest.wait();
        self.buffers.push_back(oldest);
        waited?;
        Ok(self.buffers.back_mut().expect("one was just added"))
    }

    /// Number of buffers allocated so far. It does not grow once the host is as far ahead as it gets.
    pub fn len(&self) -> usize {
        self.buffers.len()
    }

    /// Whether no buffer was needed so far.
    pub fn is_empty(&self) -> bool {
        self.buffers.is_empty()
    }
}
