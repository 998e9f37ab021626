//! Host memory: pageable, shared with other processes, or page-locked so that a GPU can copy to and from it directly.

use std::fmt;
use std::ops::{Deref, DerefMut};

#[cfg(feature = "cuda")]
use super::device::Gpu;
use super::error::DeviceError;
#[cfg(feature = "cuda")]
use super::pinned::Pinned;
use crate::shared_memory::SharedMemory;

/// Smallest buffer that is shared: a smaller one wastes much of its last page, and costs less to copy.
const MIN_SHARED_BYTES: usize = 64 << 10;

/// The allocator of buffers.
#[derive(Clone, Debug, Default)]
pub enum HostMemory {
    /// The global allocator.
    #[default]
    Pageable,
    /// Memory that other processes can read, for all but small buffers and as far as the system allows.
    Shared,
    /// The driver of a GPU, which locks the pages.
    #[cfg(feature = "cuda")]
    Pinned(Gpu),
}

impl HostMemory {
    /// Allocates a zeroed buffer.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if the driver cannot allocate page-locked memory.
    pub fn allocate(&self, len: usize) -> Result<HostBytes, DeviceError> {
        match self {
            Self::Shared if len >= MIN_SHARED_BYTES && SharedMemory::is_supported() => {
                let shared = SharedMemory::new(len).map(Bytes::Shared);
                Ok(HostBytes(shared.unwrap_or_else(|_none| Bytes::Pageable(vec![0; len]))))
            }
            Self::Pageable | Self::Shared => Ok(HostBytes(Bytes::Pageable(vec![0; len]))),
            #[cfg(feature = "cuda")]
            Self::Pinned(device) => Ok(HostBytes(Bytes::Pinned(device.pinned(len)?))),
        }
    }

    /// A buffer of another size in place of one that is no longer needed. The contents are unspecified.
    ///
    /// Pageable memory is resized, which costs less than to return it to the system and to touch new
    /// pages.
    ///
    /// # Errors
    /// As [`allocate`](Self::allocate).
    pub(crate) fn reallocate(
        &self,
        released: HostBytes,
        len: usize,
    ) -> Result<HostBytes, DeviceError> {
        match released.0 {
            Bytes::Pageable(bytes) if bytes.is_empty() || matches!(self, Self::Shared) => {
                drop(bytes);
                self.allocate(len)
            }
            Bytes::Pageable(mut bytes) => {
                bytes.truncate(len);
                bytes.shrink_to_fit();
                bytes.reserve_exact(len - bytes.len());
                bytes.resize(len, 0);
                Ok(HostBytes(Bytes::Pageable(bytes)))
            }
            Bytes::Shared(bytes) => {
                drop(bytes);
                self.allocate(len)
            }
            #[cfg(feature = "cuda")]
            Bytes::Pinned(bytes) => {
                drop(bytes);
                self.allocate(len)
            }
        }
    }
}

/// A buffer in host memory. If it is page-locked, it can be accessed once the copies that use it have been waited
/// for.
#[derive(Debug)]
pub struct HostBytes(Bytes);

enum Bytes {
    Pageable(Vec<u8>),
    Shared(SharedMemory),
    #[cfg(feature = "cuda")]
    Pinned(Pinned),
}

impl HostBytes {
    /// Waits for the copies that use the buffer, and gives it back to the host.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if a copy, or a kernel before it, failed.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::missing_const_for_fn, reason = "with a GPU it waits")
    )]
    pub fn wait(&mut self) -> Result<(), DeviceError> {
        match &mut self.0 {
            Bytes::Pageable(_) | Bytes::Shared(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Bytes::Pinned(bytes) => bytes.wait(),
        }
    }

    /// The page-locked memory, if the buffer is page-locked.
    #[cfg(feature = "cuda")]
    pub const fn pinned(&mut self) -> Option<&mut Pinned> {
        match &mut self.0 {
            Bytes::Pageable(_) | Bytes::Shared(_) => None,
            Bytes::Pinned(bytes) => Some(bytes),
        }
    }

    /// The memory that other processes can read, if the buffer is shared.
    pub const fn shared(&self) -> Option<&SharedMemory> {
        if let Bytes::Shared(bytes) = &self.0 { Some(bytes) } else { None }
    }

    /// Whether no other process has the buffer.
    pub fn is_exclusive(&self) -> bool {
        self.shared().is_none_or(SharedMemory::is_exclusive)
    }
}

impl Default for HostBytes {
    /// An empty buffer, which allocates nothing.
    fn default() -> Self {
        Self(Bytes::Pageable(Vec::new()))
    }
}

impl Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Pageable(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
            #[cfg(feature = "cuda")]
            Bytes::Pinned(bytes) => bytes,
        }
    }
}

impl DerefMut for HostBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Bytes::Pageable(bytes) => bytes,
            Bytes::Shared(bytes) => bytes,
            #[cfg(feature = "cuda")]
            Bytes::Pinned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pageable(bytes) => write!(f, "Pageable({} bytes)", bytes.len()),
            Self::Shared(bytes) => bytes.fmt(f),
            #[cfg(feature = "cuda")]
            Self::Pinned(bytes) => bytes.fmt(f),
        }
    }
}
