//! Address space for everything a device can reach: reserved once, handed out upwards, never reused.
//!
//! So an address tells for ever what it belonged to, and touching what was freed faults.
//! An allocation ends at an unmapped page (up to 15 bytes of slack, since it starts at a multiple of 16).
//! CUDA promises a start at a multiple of 256; here that holds for sizes that are multiples of 256.

use std::io;
use std::ptr::null_mut;

pub(crate) const PAGE: u64 = 4096;
const RESERVED: u64 = 1 << 42;

/// Fills memory that nobody has written. A NaN as f32, half of it a NaN as bf16.
pub(crate) const POISON: u32 = 0x7fba_dbad;

#[derive(Debug)]
pub(crate) struct Arena {
    base: u64,
    next: u64,
}

/// Whole pages of the arena.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pages {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl Arena {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping that nobody can access takes nothing from anyone.
        let base =
            unsafe { libc::mmap(null_mut(), as_len(RESERVED), libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.addr() as u64, next: base.addr() as u64 + PAGE })
    }

    /// Pages for so many bytes, with an unmapped page behind them.
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
        // SAFETY: the pages belong to the arena, whose users are kernels and copies of the stand-in; a host that
        // touches protected ones is what this is meant to stop.
        let done =
            unsafe { libc::mprotect(pointer(self.start).cast(), as_len(self.len), protection) };
        assert_eq!(done, 0, "mprotect: {}", io::Error::last_os_error());
    }

    /// Gives the memory back; the addresses stay reserved.
    pub(crate) fn unmap(self) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: replaces pages of the arena that were freed.
        let done = unsafe {
            libc::mmap(pointer(self.start).cast(), as_len(self.len), libc::PROT_NONE, flags, -1, 0)
        };
        assert_ne!(done, libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
    }

    /// Maps memory that exists twice: here, for the host to see, and at the pointer returned, for copies to use
    /// while the host's view is closed.
    pub(crate) fn map_twice(self) -> io::Result<*mut u8> {
        // SAFETY: a new file in memory, mapped over pages of the arena that nothing uses yet, and once elsewhere.
        // The descriptor is closed, which leaves the mappings.
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
