//! Memory that Python reads in place. It lives as long as the last array, buffer or `DLPack` capsule of it.
#![expect(unsafe_code, reason = "Python gets the address of memory that Rust owns")]

use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use forebay_client::Pixels;

use crate::process::Process;

/// Contiguous memory at an address that does not change.
///
/// From its creation on, only addresses of it are handed out, to Python and what Python passes it to: Rust
/// forms no reference to its content except in [`bytes`](Self::bytes).
#[derive(Debug)]
pub(crate) struct Memory {
    access: Access,
    length: usize,
    owner: ManuallyDrop<Owner>,
    made_in: Process,
}

/// Whether Python may write to memory, which Rust allows where it has an exclusive reference. Pixels in the memory of
/// a server are mapped without that right.
#[derive(Clone, Copy, Debug)]
enum Access {
    ReadOnly(*const u8),
    Writable(NonNull<u8>),
}

/// What frees the memory.
#[derive(Debug)]
pub(crate) enum Owner {
    Pixels(Pixels),
    Bytes(Vec<u8>),
    I64(Vec<i64>),
    F32(Vec<f32>),
}

// SAFETY: the owner can be sent and shared, and the address is that of its content.
unsafe impl Send for Memory {}
// SAFETY: as above. Whoever writes to the memory has asked Python for a writable array, and is responsible
// for who else reads it, as with every array in Python.
unsafe impl Sync for Memory {}

impl Memory {
    /// Memory that nobody writes to. Pixels in the memory of a server are read there.
    pub(crate) fn read_only(owner: impl Into<Owner>) -> Self {
        let owner = match owner.into() {
            // Without it, a forked process would not have the memory at all, and an array would be an address of
            // nothing.
            Owner::Pixels(pixels) if pixels.share_with_children().is_err() => {
                Owner::Bytes(pixels.into_vec())
            }
            owner => owner,
        };
        Self::new(Access::ReadOnly(owner.address()), owner)
    }

    /// Memory that Python may write to. Pixels in the memory of a server are copied, which takes a while.
    pub(crate) fn writable(owner: impl Into<Owner>) -> Self {
        let mut owner = owner.into();
        // The address of an empty vector is not null either.
        let address = NonNull::new(owner.address_mut()).unwrap_or(NonNull::dangling());
        Self::new(Access::Writable(address), owner)
    }

    fn new(access: Access, owner: Owner) -> Self {
        let length = owner.length();
        Self { access, length, owner: ManuallyDrop::new(owner), made_in: Process::current() }
    }

    /// The address, to be read. Nobody may write to it unless [`is_writable`](Self::is_writable).
    pub(crate) const fn address(&self) -> *const u8 {
        match self.access {
            Access::ReadOnly(address) => address,
            Access::Writable(address) => address.as_ptr(),
        }
    }

    pub(crate) const fn is_writable(&self) -> bool {
        matches!(self.access, Access::Writable(_))
    }

    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    /// The content. The caller must not hand it out beyond a copy: Python may write to it later.
    pub(crate) const fn bytes(&self) -> &[u8] {
        // SAFETY: the owner keeps `length` initialized bytes at the address.
        unsafe { std::slice::from_raw_parts(self.address(), self.length) }
    }
}

impl Owner {
    fn address(&self) -> *const u8 {
        match self {
            Self::Pixels(pixels) => pixels.as_ptr(),
            Self::Bytes(bytes) => bytes.as_ptr(),
            Self::I64(values) => values.as_ptr().cast(),
            Self::F32(values) => values.as_ptr().cast(),
        }
    }

    fn address_mut(&mut self) -> *mut u8 {
        match self {
            Self::Pixels(pixels) => pixels.bytes_mut().as_mut_ptr(),
            Self::Bytes(bytes) => bytes.as_mut_ptr(),
            Self::I64(values) => values.as_mut_ptr().cast(),
            Self::F32(values) => values.as_mut_ptr().cast(),
        }
    }

    fn length(&self) -> usize {
        match self {
            Self::Pixels(pixels) => pixels.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::I64(values) => size_of_val(&values[..]),
            Self::F32(values) => size_of_val(&values[..]),
        }
    }
}

impl From<Pixels> for Owner {
    fn from(pixels: Pixels) -> Self {
        Self::Pixels(pixels)
    }
}

impl From<Vec<u8>> for Owner {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<i64>> for Owner {
    fn from(values: Vec<i64>) -> Self {
        Self::I64(values)
    }
}

impl From<Vec<f32>> for Owner {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(values)
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this is the only place that takes it, and it is not used again.
        match unsafe { ManuallyDrop::take(&mut self.owner) } {
            // In a forked child, the lock of the stream's free buffers may be held forever, and what was leased is not
            // the child's to return.
            Owner::Pixels(pixels) if !self.made_in.is_current() => pixels.drop_in_child(),
            owner => drop(owner),
        }
    }
}
