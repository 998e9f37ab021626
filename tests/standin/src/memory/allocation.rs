//! An allocation: its pages, which of its bytes were written, and the copies that use it.

use std::ops::Range;

use super::arena::{POISON, Pages, as_len};
use super::bits::Bits;

/// An allocation that a device can access.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) start: u64,
    pub(crate) size: u64,
    pub(super) pages: Pages,
    /// The mapping that the stand-in itself uses. For pinned memory it is not at `start`.
    pub(super) data: *mut u8,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Device {
        device: usize,
        /// False until the stream of a stream-ordered allocation has reached it.
        open: bool,
        written: Bits,
    },
    Pinned {
        copies: Vec<QueuedCopy>,
    },
}

/// A queued copy that uses a part of an allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueuedCopy {
    /// The number of the operation.
    pub(super) op: u64,
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) access: Access,
}

/// How a queued copy accesses host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It reads, so the host may read too.
    Reads,
    /// It writes, so the host must not access the memory.
    Writes,
}

// SAFETY: the allocation owns the memory at `data`, and the lock of the machine orders all uses.
unsafe impl Send for Allocation {}

impl Allocation {
    /// A range of addresses as offsets into the allocation, if all of them are within it.
    pub(super) fn range(&self, address: u64, len: u64) -> Option<Range<usize>> {
        let start = address.checked_sub(self.start)?;
        let end = start.checked_add(len)?;
        (end <= self.size).then(|| as_len(start)..as_len(end))
    }

    pub(super) fn len(&self) -> usize {
        as_len(self.size)
    }

    pub(crate) fn is_pinned(&self) -> bool {
        matches!(self.kind, Kind::Pinned { .. })
    }

    /// Whether a byte is known to be written.
    pub(super) fn wrote(&self, byte: usize) -> bool {
        matches!(&self.kind, Kind::Device { written, .. } if written.get(byte))
    }

    /// A range of bytes.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        // SAFETY: the range is within the size, and the pages are mapped while the allocation is open.
        unsafe { std::slice::from_raw_parts(self.data.add(range.start), range.len()) }
    }

    pub(super) fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        if let Kind::Device { written, .. } = &mut self.kind {
            written.put(range.clone(), true);
        }
        // SAFETY: as in `bytes`, and the allocation is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }

    /// Maps and poisons the memory.
    pub(super) fn open(&mut self) {
        self.pages.protect(libc::PROT_READ | libc::PROT_WRITE);
        self.poison();
        if let Kind::Device { open, .. } = &mut self.kind {
            *open = true;
        }
    }

    pub(super) fn poison(&mut self) {
        let slack = as_len(self.start - self.pages.start);
        // SAFETY: these are all bytes of the pages, which are mapped.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(self.data.sub(slack), as_len(self.pages.len)) };
        bytes.chunks_exact_mut(4).for_each(|word| word.copy_from_slice(&POISON.to_le_bytes()));
    }

    /// Whether the slack, the bytes of its pages before and after the allocation, is still poison.
    pub(super) fn slack_is_whole(&self) -> bool {
        let before = as_len(self.start - self.pages.start);
        let after = as_len(self.pages.end() - self.start - self.size);
        let whole = |first: *mut u8, len: usize| {
            // SAFETY: the bytes are on the mapped pages, outside the allocation.
            let bytes = unsafe { std::slice::from_raw_parts(first, len) };
            let mut poison = POISON.to_le_bytes();
            poison.rotate_left(first.addr() % 4);
            let mut words = bytes.chunks_exact(4);
            words.all(|word| word == poison) && poison.starts_with(words.remainder())
        };
        // SAFETY: both pointers are on the pages.
        let (first, behind) = unsafe { (self.data.sub(before), self.data.add(as_len(self.size))) };
        whole(first, before) && whole(behind, after)
    }
}
