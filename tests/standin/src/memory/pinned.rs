//! Pinned host memory, which is protected from the host while a queued copy uses it.

use super::allocation::{Access, Allocation, Kind, QueuedCopy};
use super::arena::{PAGE, Pages, as_len};
use super::space::Space;
use crate::code::{Answer, Code};

impl Space {
    pub(crate) fn pin(&mut self, size: u64) -> Answer<u64> {
        let pages = self.arena.take(size).ok_or(Code::OUT_OF_MEMORY)?;
        let start = pages.end() - size.next_multiple_of(64);
        let own = pages.map_twice().map_err(|_full| Code::OUT_OF_MEMORY)?;
        // SAFETY: the second mapping is as long as the first one, and the start is within it.
        let data = unsafe { own.add(as_len(start - pages.start)) };
        let kind = Kind::Pinned { copies: Vec::new() };
        let mut allocation = Allocation { start, size, pages, data, kind };
        allocation.poison();
        self.live.insert(start, allocation);
        Ok(start)
    }

    /// Frees pinned memory. Returns the number of queued copies that still use it.
    pub(crate) fn unpin(&mut self, start: u64) -> Answer<usize> {
        let Some(Kind::Pinned { copies }) = self.live.get(&start).map(|found| &found.kind) else {
            return Err(Code::INVALID_VALUE);
        };
        let in_flight = copies.len();
        let gone = self.remove(start).ok_or(Code::INVALID_VALUE)?;
        // SAFETY: the second mapping was created by `pin` and is not used elsewhere.
        unsafe {
            let own = gone.data.sub(as_len(gone.start - gone.pages.start));
            libc::munmap(own.cast(), as_len(gone.pages.len));
        }
        Ok(in_flight)
    }

    /// Protects the bytes of a copy that was enqueued.
    pub(crate) fn copy_queued(&mut self, op: u64, start: u64, len: u64, access: Access) {
        self.in_flight.insert(op, start);
        self.change_copies(start, |copies| copies.push(QueuedCopy { op, start, len, access }));
    }

    /// Lifts the protection of a copy after it ran. Other operations are ignored.
    pub(crate) fn copy_finished(&mut self, op: u64) {
        if let Some(start) = self.in_flight.remove(&op) {
            self.change_copies(start, |copies| copies.retain(|copy| copy.op != op));
        }
    }

    fn change_copies(&mut self, address: u64, change: impl FnOnce(&mut Vec<QueuedCopy>)) {
        if let Ok((found, _)) = self.find_mut(address, 0)
            && let Kind::Pinned { copies } = &mut found.kind
        {
            let before = copies.clone();
            change(copies);
            let touched = before.iter().chain(&*copies);
            let (first, behind) = touched.fold((u64::MAX, 0), |(first, behind), copy| {
                (first.min(copy.start / PAGE * PAGE), behind.max(copy.start + copy.len))
            });
            protect(copies, first, behind);
        }
    }

    /// Handles a fault of the host at a page of the arena. An invalid access is an error. If the accessed bytes only share a page
    /// with those of a copy, the page is unprotected.
    pub(crate) fn host_touched(&mut self, address: u64, writes: bool) -> Result<(), String> {
        let does = if writes { "writes" } else { "reads" };
        let Some(found) = self.near(address).filter(|near| address < near.pages.end()) else {
            return Err(format!("the host {does} {}", self.describe(address, 0)));
        };
        let Kind::Pinned { copies } = &found.kind else {
            return Err(format!("the host {does} device memory: {}", self.describe(address, 0)));
        };
        let offset = address.saturating_sub(found.start);
        for copy in copies {
            if (copy.start..copy.start + copy.len).contains(&address) {
                let copy = match copy.access {
                    Access::Reads => "reads",
                    Access::Writes => "writes",
                };
                return Err(format!(
                    "the host {does} pinned memory (byte {offset} of {}) that a queued copy {copy}: wait for its event first",
                    found.size
                ));
            }
        }
        let page = Pages { start: address / PAGE * PAGE, len: PAGE };
        page.protect(libc::PROT_READ | libc::PROT_WRITE);
        Ok(())
    }
}

/// Sets the protection of pages for these copies, adjacent pages at once.
fn protect(copies: &[QueuedCopy], first: u64, behind: u64) {
    let mut run = Pages { start: first, len: 0 };
    while run.end() < behind {
        let allowed = protection(copies, run.end());
        while run.end() < behind && protection(copies, run.end()) == allowed {
            run.len += PAGE;
        }
        run.protect(allowed);
        run = Pages { start: run.end(), len: 0 };
    }
}

/// The host's access rights to a page while these copies are queued.
fn protection(copies: &[QueuedCopy], page: u64) -> i32 {
    let mut allowed = libc::PROT_READ | libc::PROT_WRITE;
    for copy in copies {
        if copy.start < page + PAGE && page < copy.start + copy.len {
            allowed &= match copy.access {
                Access::Reads => libc::PROT_READ,
                Access::Writes => libc::PROT_NONE,
            };
        }
    }
    allowed
}
