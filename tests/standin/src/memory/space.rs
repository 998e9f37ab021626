//! The table of allocations.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::allocation::{Allocation, Kind};
use super::arena::{Arena, as_len, pointer};
use super::bits::Bits;
use crate::code::{Answer, Code};
use crate::engine::{Fault, FaultKind};

/// All allocations of all devices.
#[derive(Debug)]
pub(crate) struct Space {
    pub(super) arena: Arena,
    pub(super) live: BTreeMap<u64, Allocation>,
    /// Start and size of freed allocations.
    freed: BTreeMap<u64, u64>,
    /// The used bytes of each device, and the limit of each.
    used: Vec<u64>,
    limit: u64,
    /// Queued copies that use pinned memory: the operation, and the start of the allocation.
    pub(super) in_flight: BTreeMap<u64, u64>,
    /// Whether a native kernel has run, whose writes are not tracked. Then bytes that are poison count as unwritten, and all others
    /// as written.
    pub(crate) native: bool,
}

impl Space {
    pub(crate) fn new(devices: usize, limit: u64) -> io::Result<Self> {
        Ok(Self {
            arena: Arena::new()?,
            live: BTreeMap::new(),
            freed: BTreeMap::new(),
            used: vec![0; devices],
            limit,
            in_flight: BTreeMap::new(),
            native: false,
        })
    }

    /// The free and total bytes of a device.
    pub(crate) fn info(&self, device: usize) -> (u64, u64) {
        (self.limit - self.used[device], self.limit)
    }

    /// Reserves device memory, which [`Space::open`] makes usable.
    pub(crate) fn reserve(&mut self, device: usize, size: u64) -> Answer<u64> {
        if size > self.limit - self.used[device] {
            return Err(Code::OUT_OF_MEMORY);
        }
        let pages = self.arena.take(size).ok_or(Code::OUT_OF_MEMORY)?;
        let start = pages.end() - size.next_multiple_of(16);
        let written = Bits::new(as_len(size));
        let kind = Kind::Device { device, open: false, written };
        self.used[device] += size;
        self.live.insert(start, Allocation { start, size, pages, data: pointer(start), kind });
        Ok(start)
    }

    pub(crate) fn open(&mut self, start: u64) {
        if let Some(allocation) = self.live.get_mut(&start) {
            allocation.open();
        }
    }

    /// Frees the device memory that starts at an address.
    pub(crate) fn free(&mut self, start: u64) -> Answer {
        let Some(Kind::Device { device, .. }) = self.live.get(&start).map(|found| &found.kind)
        else {
            return Err(Code::INVALID_VALUE);
        };
        let device = *device;
        let gone = self.remove(start).ok_or(Code::INVALID_VALUE)?;
        self.used[device] -= gone.size;
        Ok(())
    }

    /// Frees all remaining memory of a device. Returns the number of allocations.
    pub(crate) fn free_all(&mut self, device: usize) -> usize {
        let of_device = |found: &Allocation| matches!(found.kind, Kind::Device { device: of, .. } if of == device);
        let left: Vec<u64> =
            self.live.values().filter(|found| of_device(found)).map(|found| found.start).collect();
        left.iter().filter(|start| self.free(**start).is_ok()).count()
    }

    pub(super) fn remove(&mut self, start: u64) -> Option<Allocation> {
        let gone = self.live.remove(&start)?;
        gone.pages.unmap();
        self.freed.insert(start, gone.size);
        Some(gone)
    }

    /// The allocation at or before an address.
    pub(super) fn near(&self, address: u64) -> Option<&Allocation> {
        self.live.range(..=address).next_back().map(|(_, allocation)| allocation)
    }

    /// Whether an address was ever allocated.
    pub(crate) fn holds(&self, address: u64) -> bool {
        self.arena.holds(address)
    }

    /// The allocation that contains all of these bytes, open or not.
    pub(crate) fn known(&self, address: u64, len: u64) -> Option<&Allocation> {
        self.near(address).filter(|near| near.range(address, len).is_some())
    }

    /// The open allocation that contains all of these bytes, or a description of why none does.
    pub(crate) fn find(
        &self,
        address: u64,
        len: u64,
    ) -> Result<(&Allocation, Range<usize>), String> {
        let found = self.near(address).and_then(|near| Some((near, near.range(address, len)?)));
        match found {
            Some((found, _)) if matches!(found.kind, Kind::Device { open: false, .. }) => {
                Err(format!(
                    "{}, whose stream has not reached the allocation: no event orders the two",
                    self.describe(address, len)
                ))
            }
            Some(found) => Ok(found),
            None => Err(self.describe(address, len)),
        }
    }

    pub(super) fn find_mut(
        &mut self,
        address: u64,
        len: u64,
    ) -> Result<(&mut Allocation, Range<usize>), String> {
        let (start, range) = self.find(address, len).map(|(found, range)| (found.start, range))?;
        Ok((self.live.get_mut(&start).expect("the allocation was just found"), range))
    }

    /// Describes an address relative to the nearest allocation, live or freed.
    pub(crate) fn describe(&self, address: u64, len: u64) -> String {
        let bytes = if len == 0 { String::new() } else { format!("{len} bytes at ") };
        if !self.arena.holds(address) {
            return format!("illegal address: {bytes}{address:#x}, which is not of this device");
        }
        let gone = |(start, size): (&u64, &u64)| (*start, *size, ", which was freed");
        let living = |(start, found): (&u64, &Allocation)| {
            let kind = if found.is_pinned() { " of pinned memory" } else { "" };
            (*start, found.size, kind)
        };
        let before = [
            self.live.range(..=address).next_back().map(living),
            self.freed.range(..=address).next_back().map(gone),
        ];
        let after = [
            self.live.range(address..).next().map(living),
            self.freed.range(address..).next().map(gone),
        ];
        let before = before.into_iter().flatten().max_by_key(|(start, ..)| *start);
        let after = after.into_iter().flatten().min_by_key(|(start, ..)| *start);
        let past = before.map(|(start, size, _)| address.saturating_sub(start + size));
        match (before, after) {
            (Some((start, size, note)), _)
                if past <= after.map(|(start, ..)| start - address) || after.is_none() =>
            {
                let from = address - start;
                format!(
                    "illegal address: {bytes}{from} bytes from the start of a {size}-byte allocation{note}"
                )
            }
            (_, Some((start, size, note))) => {
                let ahead = start - address;
                format!(
                    "illegal address: {bytes}{ahead} bytes before the start of a {size}-byte allocation{note}"
                )
            }
            _ => format!("illegal address: {bytes}{address:#x}, and nothing was ever allocated"),
        }
    }

    /// Checks, after a native kernel, that it did not write outside an allocation.
    pub(crate) fn check_slack(&self) -> Result<(), Fault> {
        for allocation in self.live.values() {
            let open = matches!(allocation.kind, Kind::Device { open: true, .. });
            if open && !allocation.slack_is_whole() {
                let size = allocation.size;
                return Err(Fault::new(
                    FaultKind::IllegalAddress,
                    format!("bytes just before or after a {size}-byte allocation were written"),
                ));
            }
        }
        Ok(())
    }
}
