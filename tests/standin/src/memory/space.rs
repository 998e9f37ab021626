//! The table of allocations.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::arena::{Arena, POISON, Pages, as_len, pointer};
use super::bits::Bits;
use super::pinned::QueuedCopy;
use crate::code::{Answer, Code};
use crate::engine::{Fault, FaultKind};

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
    fn open(&mut self) {
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
    fn slack_is_whole(&self) -> bool {
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
