//! The address space of everything that a device can access: reserved once, allocated upwards and never reused.
//!
//! An address therefore identifies its allocation forever, and an access of freed memory faults. An allocation ends at an unmapped
//! page, with up to 15 bytes of slack because its start is a multiple of 16. CUDA guarantees a start at a multiple of 256; here
//! that holds for sizes that are multiples of 256.

use std::io;
use std::ptr::null_mut;

pub(crate) const PAGE: u64 = 4096;
const RESERVED: u64 = 1 << 42;

/// The contents of unwritten memory: a NaN as f32, and each half a NaN as bf16.
pub(crate) const POISON: u32 = 0x7fba_dbad;

#[derive(Debug)]
pub(crate) struct Arena {
    base: u64,
    next: u64,
}

/// A range of pages of the arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Arena {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping without access does not affect other memory.
        let base =
            unsafe { libc::mmap(null_mut(), as_len(RESERVED), libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.addr() as u64, next: base.addr() as u64 + PAGE })
    }

    /// Allocates pages for `size` bytes, followed by an unmapped page.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<Pages> {
        let len = bytes.max(1).checked_next_multiple_of(PAGE)?;
        let next = self.next.checked_add(len)?.checked_add(PAGE)?;
        if next > self.base + RESERVED {
            return None;
        }
        let pages = Pages { start: self.next, len };
        self.next = next;
        Some(pages)
    }

    pub(crate) fn holds(&self, address: u64) -> bool {
        (self.base..self.base + RESERVED).contains(&address)
    }
}

impl Pages {
    pub(crate) fn end(self) -> u64 {
        self.start + self.len
    }

    pub(crate) fn protect(self, protection: i32) {
        // SAFETY: the pages belong to the arena, and only kernels and copies of the stand-in use them. Faults of host code that
        // accesses protected pages are the purpose.
        let done =
            unsafe { libc::mprotect(pointer(self.start).cast(), as_len(self.len), protection) };
        assert_eq!(done, 0, "mprotect: {}", io::Error::last_os_error());
    }

    /// Frees the memory. The addresses stay reserved.
    pub(crate) fn unmap(self) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the mapping replaces pages of the arena that were freed.
        let done = unsafe {
            libc::mmap(pointer(self.start).cast(), as_len(self.len), libc::PROT_NONE, flags, -1, 0)
        };
        assert_ne!(done, libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
    }

    /// Maps memory twice: at these pages, for the host, and at the returned pointer, for copies to use while the pages of the host
    /// are protected.
    pub(crate) fn map_twice(self) -> io::Result<*mut u8> {
        // SAFETY: a new file in memory is mapped over unused pages of the arena, and once elsewhere. Closing the descriptor keeps
        // the mappings.
        unsafe {
            let file = libc::memfd_create(c"forebay-standin".as_ptr(), libc::MFD_CLOEXEC);
            if file < 0 {
                return Err(io::Error::last_os_error());
            }
            let open = libc::PROT_READ | libc::PROT_WRITE;
            let len = as_len(self.len);
            let sized = libc::ftruncate(file, i64::try_from(self.len).unwrap_or(i64::MAX));
            let host = pointer(self.start).cast();
            let shared = libc::MAP_SHARED;
            let host = libc::mmap(host, len, open, shared | libc::MAP_FIXED, file, 0);
            let own = libc::mmap(null_mut(), len, open, shared, file, 0);
            let failed = sized != 0 || host == libc::MAP_FAILED || own == libc::MAP_FAILED;
            let error = io::Error::last_os_error();
            libc::close(file);
            if failed { Err(error) } else { Ok(own.cast()) }
        }
    }
}

pub(crate) fn pointer(address: u64) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(as_len(address))
}

pub(crate) fn as_len(bytes: u64) -> usize {
    usize::try_from(bytes).expect("64-bit addresses")
}
