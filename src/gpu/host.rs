//! Memory of the host: ordinary, or page-locked so that a GPU copies to and from it directly.

use std::fmt;
use std::ops::{Deref, DerefMut};

use super::DeviceError;
#[cfg(feature = "cuda")]
use super::{Device, Pinned};

/// Where buffers come from.
#[derive(Clone, Debug, Default)]
pub enum HostMemory {
    /// The allocator.
    #[default]
    Plain,
    /// A device's driver, which locks their pages.
    #[cfg(feature = "cuda")]
    Pinned(Device),
}

impl HostMemory {
    /// A buffer of zeros.
    ///
    /// # Errors
    /// When the driver gives no memory.
    pub fn allocate(&self, len: usize) -> Result<HostBytes, DeviceError> {
        match self {
            Self::Plain => Ok(HostBytes(Bytes::Plain(vec![0; len]))),
            #[cfg(feature = "cuda")]
            Self::Pinned(device) => Ok(HostBytes(Bytes::Pinned(device.pinned(len)?))),
        }
    }
}

/// A buffer of the host's. Page-locked, to look at it waits for the copies that use it.
#[derive(Debug)]
pub struct HostBytes(Bytes);

enum Bytes {
    Plain(Vec<u8>),
    #[cfg(feature = "cuda")]
    Pinned(Pinned),
}

impl HostBytes {
    /// Waits for the copies that use it, and says how they ended.
    ///
    /// # Errors
    /// When a copy, or a kernel before it, failed.
    pub fn wait(&self) -> Result<(), DeviceError> {
        match &self.0 {
            Bytes::Plain(_) => Ok(()),
            #[cfg(feature = "cuda")]
            Bytes::Pinned(bytes) => bytes.wait(),
        }
    }

    /// The page-locked memory, if it is that.
    #[cfg(feature = "cuda")]
    pub const fn pinned(&mut self) -> Option<&mut Pinned> {
        match &mut self.0 {
            Bytes::Plain(_) => None,
            Bytes::Pinned(bytes) => Some(bytes),
        }
    }
}

impl Default for HostBytes {
    /// No bytes, not allocated.
    fn default() -> Self {
        Self(Bytes::Plain(Vec::new()))
    }
}

impl Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Bytes::Plain(bytes) => bytes,
            #[cfg(feature = "cuda")]
            Bytes::Pinned(bytes) => bytes,
        }
    }
}

impl DerefMut for HostBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Bytes::Plain(bytes) => bytes,
            #[cfg(feature = "cuda")]
            Bytes::Pinned(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(bytes) => write!(f, "Plain({} bytes)", bytes.len()),
            #[cfg(feature = "cuda")]
            Self::Pinned(bytes) => bytes.fmt(f),
        }
    }
}
