//! Copies and fills by the driver, and global memory as an engine sees it.

use std::cell::RefCell;
use std::ops::Range;

use super::allocation::{Allocation, Kind};
use super::arena::POISON;
use super::space::Space;
use crate::engine::{BadAccess, Fault, FaultKind, Memory};

impl Space {
    /// Copies from the host to a device.
    pub(crate) fn copy_in(&mut self, to: u64, from: &[u8]) -> Result<(), Fault> {
        let (found, range) = self.find_mut(to, from.len() as u64).map_err(illegal)?;
        found.bytes_mut(range).copy_from_slice(from);
        Ok(())
    }

    /// Copies from a device to the host. Unwritten bytes are an error.
    pub(crate) fn copy_out(&self, from: u64, len: u64) -> Result<&[u8], Fault> {
        self.read_for(from, len, "copied to the host")
    }

    /// Bytes that must be on a device and written. `what` describes their use in the error.
    pub(super) fn read_for(&self, from: u64, len: u64, what: &str) -> Result<&[u8], Fault> {
        let (found, range) = self.find(from, len).map_err(illegal)?;
        let unwritten = self.unwritten(found, &range).len();
        if unwritten > 0 {
            let words = range.end.div_ceil(4) - range.start / 4;
            return Err(Fault::new(
                FaultKind::OnlyHere,
                format!("{unwritten} of {words} words {what} were never written"),
            ));
        }
        Ok(found.bytes(range))
    }

    /// Copies on a device. Copies of unwritten bytes are unwritten.
    pub(crate) fn copy_within(&mut self, to: u64, from: u64, len: u64) -> Result<(), Fault> {
        let (source, range) = self.find(from, len).map_err(illegal)?;
        let holes = self.unwritten(source, &range).into_iter().flatten();
        let holes = holes.filter(|byte| !source.wrote(*byte)).map(|byte| byte - range.start);
        let holes: Vec<usize> = holes.collect();
        let bytes = source.bytes(range).to_vec();
        let (target, range) = self.find_mut(to, len).map_err(illegal)?;
        target.bytes_mut(range.clone()).copy_from_slice(&bytes);
        if let Kind::Device { written, .. } = &mut target.kind {
            for hole in holes {
                written.put(range.start + hole..range.start + hole + 1, false);
            }
        }
        Ok(())
    }

    /// Fills memory with a pattern of 1, 2 or 4 bytes.
    pub(crate) fn fill(&mut self, to: u64, pattern: &[u8], count: u64) -> Result<(), Fault> {
        let len = count.saturating_mul(pattern.len() as u64);
        let (found, range) = self.find_mut(to, len).map_err(illegal)?;
        let bytes = found.bytes_mut(range);
        if let [byte] = pattern {
            bytes.fill(*byte);
        } else {
            bytes.chunks_exact_mut(pattern.len()).for_each(|chunk| chunk.copy_from_slice(pattern));
        }
        Ok(())
    }

    /// The unwritten words of a range, cut to the range. After a native kernel, words that are not poison count as written.
    fn unwritten(&self, found: &Allocation, range: &Range<usize>) -> Vec<Range<usize>> {
        let Kind::Device { written, .. } = &found.kind else { return Vec::new() };
        if written.all(range.clone()) {
            return Vec::new();
        }
        let first = range.start / 4 * 4;
        let (words, rest) =
            found.bytes(first..range.end.next_multiple_of(4).min(found.len())).as_chunks::<4>();
        let poison = POISON.to_le_bytes();
        let mut suspects: Vec<usize> =
            (0..words.len()).filter(|word| !self.native || words[*word] == poison).collect();
        if !rest.is_empty() && (!self.native || poison.starts_with(rest)) {
            suspects.push(words.len());
        }
        let parts = suspects.into_iter().map(|word| first + word * 4);
        let parts = parts.map(|word| word.max(range.start)..(word + 4).min(range.end));
        parts.filter(|part| !written.all(part.clone())).collect()
    }
}

fn illegal(what: String) -> Fault {
    Fault::new(FaultKind::IllegalAddress, what)
}

/// Access to all memory during a launch.
#[derive(Debug)]
pub(crate) struct View<'a>(pub(crate) RefCell<&'a mut Space>);

impl Memory for View<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BadAccess> {
        let space = self.0.borrow();
        let (found, range) = space.find(address, into.len() as u64).map_err(BadAccess::Illegal)?;
        if !space.unwritten(found, &range).is_empty() {
            let (len, size) = (into.len(), found.size);
            let at = address - found.start;
            return Err(BadAccess::Unwritten(format!(
                "read of memory never written: {len} bytes at byte {at} of a {size}-byte allocation"
            )));
        }
        into.copy_from_slice(found.bytes(range));
        Ok(())
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), BadAccess> {
        let mut space = self.0.borrow_mut();
        let (found, range) =
            space.find_mut(address, from.len() as u64).map_err(BadAccess::Illegal)?;
        found.bytes_mut(range).copy_from_slice(from);
        Ok(())
    }
}
