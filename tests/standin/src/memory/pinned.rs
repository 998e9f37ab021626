//! Pinned host memory: closed to the host while a queued copy uses it.

use super::arena::{PAGE, Pages, as_len};
use super::space::{Allocation, Kind, Space};
use crate::code::{Answer, Code};

/// A copy that is queued and uses part of an allocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    /// The operation's number.
    op: u64,
    start: u64,
    len: u64,
    access: Access,
}

/// What a queued copy does to host memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads it: the host may read as well.
    Reads,
    /// Writes it: the host must keep off.
    Writes,
}

impl Space {
    pub(crate) fn pin(&mut self, size: u64) -> Answer<u64> {
        let pages = self.arena.take(size).ok_or(Code::OUT_OF_MEMORY)?;
        let start = pages.end() - size.next_multiple_of(64);
        let own = pages.map_twice().map_err(|_full| Code::OUT_OF_MEMORY)?;
        // SAFETY: the second mapping is as long as the first, and the start lies in it.
        let data = unsafe { own.add(as_len(start - pages.start)) };
        let kind = Kind::Pinned { flights: Vec::new() };
        let mut allocation = Allocation { start, size, pages, data, kind };
        allocation.poison();
        self.live.insert(start, allocation);
        Ok(start)
    }

    /// Frees pinned memory; the answer is how many queued copies still use it.
    pub(crate) fn unpin(&mut self, start: u64) -> Answer<usize> {
        let Some(Kind::Pinned { flights }) = self.live.get(&start).map(|found| &found.kind) else {
            return Err(Code::INVALID_VALUE);
        };
        let in_flight = flights.len();
        let gone = self.remove(start).ok_or(Code::INVALID_VALUE)?;
        // SAFETY: the second mapping, made by `pin` and known to nobody else.
        unsafe {
            let own = gone.data.sub(as_len(gone.start - gone.pages.start));
            libc::munmap(own.cast(), as_len(gone.pages.len));
        }
        Ok(in_flight)
    }

    /// A copy of these bytes is queued.
    pub(crate) fn take_off(&mut self, op: u64, start: u64, len: u64, access: Access) {
        self.flying.insert(op, start);
        self.change_flights(start, |flights| flights.push(Flight { op, start, len, access }));
    }

    /// The operation ran, if it was such a copy.
    pub(crate) fn land(&mut self, op: u64) {
        if let Some(start) = self.flying.remove(&op) {
            self.change_flights(start, |flights| flights.retain(|flight| flight.op != op));
        }
    }

    fn change_flights(&mut self, address: u64, change: impl FnOnce(&mut Vec<Flight>)) {
        if let Ok((found, _)) = self.find_mut(address, 0)
            && let Kind::Pinned { flights } = &mut found.kind
        {
            let before = flights.clone();
            change(flights);
            let touched = before.iter().chain(&*flights);
            let (first, behind) = touched.fold((u64::MAX, 0), |(first, behind), flight| {
                (first.min(flight.start / PAGE * PAGE), behind.max(flight.start + flight.len))
            });
            protect(flights, first, behind);
        }
    }

    /// The host touched a page of pinned memory and faulted. Either it did what it must not, which the answer tells, or it
    /// touched bytes that merely share a page with a copy's: then the page is opened.
    pub(crate) fn host_touched(&mut self, address: u64, writes: bool) -> Result<(), String> {
        let does = if writes { "writes" } else { "reads" };
        let Some(found) = self.near(address).filter(|near| address < near.pages.end()) else {
            return Err(format!("the host {does} {}", self.describe(address, 0)));
        };
        let Kind::Pinned { flights } = &found.kind else {
            return Err(format!("the host {does} device memory: {}", self.describe(address, 0)));
        };
        let offset = address.saturating_sub(found.start);
        for flight in flights {
            if (flight.start..flight.start + flight.len).contains(&address) {
                let copy = match flight.access {
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

/// Closes or opens pages as these copies ask, neighbours together.
fn protect(flights: &[Flight], first: u64, behind: u64) {
    let mut run = Pages { start: first, len: 0 };
    while run.end() < behind {
        let allowed = protection(flights, run.end());
        while run.end() < behind && protection(flights, run.end()) == allowed {
            run.len += PAGE;
        }
        run.protect(allowed);
        run = Pages { start: run.end(), len: 0 };
    }
}

/// What the host may do with a page while these copies are queued.
fn protection(flights: &[Flight], page: u64) -> i32 {
    let mut allowed = libc::PROT_READ | libc::PROT_WRITE;
    for flight in flights {
        if flight.start < page + PAGE && page < flight.start + flight.len {
            allowed &= match flight.access {
                Access::Reads => libc::PROT_READ,
                Access::Writes => libc::PROT_NONE,
            };
        }
    }
    allowed
}
