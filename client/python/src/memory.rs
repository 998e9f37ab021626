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
    address: NonNull<u8>,
    length: usize,
    owner: ManuallyDrop<Owner>,
    made_in: Process,
}

/// What frees the memory.
#[derive(Debug)]
#[expect(dead_code, reason = "held to be dropped")]
enum Owner {
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
    fn new(address: *mut u8, length: usize, owner: Owner) -> Self {
        // The address of an empty vector is not null either.
        let address = NonNull::new(address).unwrap_or(NonNull::dangling());
        Self { address, length, owner: ManuallyDrop::new(owner), made_in: Process::current() }
    }

    pub(crate) const fn address(&self) -> NonNull<u8> {
        self.address
    }

    pub(crate) const fn length(&self) -> usize {
        self.length
    }

    /// The content. The caller must not hand it out beyond a copy: Python may write to it later.
    pub(crate) const fn bytes(&self) -> &[u8] {
        // SAFETY: the owner keeps `length` initialized bytes at the address.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.length) }
    }
}

impl From<Pixels> for Memory {
    fn from(mut pixels: Pixels) -> Self {
        let bytes = pixels.bytes_mut();
        Self::new(bytes.as_mut_ptr(), bytes.len(), Owner::Pixels(pixels))
    }
}

impl From<Vec<u8>> for Memory {
    fn from(mut bytes: Vec<u8>) -> Self {
        Self::new(bytes.as_mut_ptr(), bytes.len(), Owner::Bytes(bytes))
    }
}

impl From<Vec<i64>> for Memory {
    fn from(mut values: Vec<i64>) -> Self {
        let length = size_of_val(&values[..]);
        Self::new(values.as_mut_ptr().cast(), length, Owner::I64(values))
    }
}

impl From<Vec<f32>> for Memory {
    fn from(mut values: Vec<f32>) -> Self {
        let length = size_of_val(&values[..]);
        Self::new(values.as_mut_ptr().cast(), length, Owner::F32(values))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // In a forked child, the lock of the stream's free buffers may be held forever.
        if self.made_in.is_current() {
            // SAFETY: this is the only place that drops it, and it is not used again.
            unsafe { ManuallyDrop::drop(&mut self.owner) }
        }
    }
}
