//! Copies and fills by the driver, and global memory as an engine sees it.

use std::cell::RefCell;
use std::ops::Range;

use super::arena::POISON;
use super::space::{Allocation, Kind, Space};
use crate::engine::{BadAccess, Fault, FaultKind, Memory};

impl Space {
    /// Host to device.
    pub(crate) fn copy_in(&mut self, to: u64, from: &[u8]) -> Result<(), Fault> {
        let (found, range) = self.find_mut(to, from.len() as u64).map_err(illegal)?;
        found.bytes_mut(range).copy_from_slice(from);
        Ok(())
    }

    /// Device to host. What the kernel never wrote must not leave the device.
    pub(crate) fn copy_out(&self, from: u64, len: u64) -> Result<&[u8], Fault> {
        let (found, range) = self.find(from, len).map_err(illegal)?;
        let unwritten = self.unwritten_words(found, range.clone());
        if unwritten > 0 {
            let words = words(&range).count();
            return Err(Fault::new(
                FaultKind::OnlyHere,
                format!("{unwritten} of {words} words copied to the host were never written"),
            ));
        }
        Ok(found.bytes(range))
    }

    /// Device to device: what was not written stays so.
    pub(crate) fn copy_within(&mut self, to: u64, from: u64, len: u64) -> Result<(), Fault> {
        let (source, range) = self.find(from, len).map_err(illegal)?;
        let first = range.start;
        let holes: Vec<usize> = match &source.kind {
            Kind::Device { written, .. } if !written.all(range.clone()) => words(&range)
                .filter(|word| self.is_unwritten(source, word.clone()))
                .flatten()
                .filter(|byte| !written.get(*byte))
                .map(|byte| byte - first)
                .collect(),
            _ => Vec::new(),
        };
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

    /// Repeats a pattern of 1, 2 or 4 bytes.
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

    fn unwritten_words(&self, found: &Allocation, range: Range<usize>) -> usize {
        match &found.kind {
            Kind::Device { written, .. } if !written.all(range.clone()) => {
                words(&range).filter(|word| self.is_unwritten(found, word.clone())).count()
            }
            _ => 0,
        }
    }

    /// Part of one word of an allocation.
    fn is_unwritten(&self, found: &Allocation, word: Range<usize>) -> bool {
        let Kind::Device { written, .. } = &found.kind else { return false };
        if written.all(word.clone()) {
            return false;
        }
        let whole = word.start / 4 * 4..(word.start / 4 * 4 + 4).min(found.len());
        let poison = POISON.to_le_bytes();
        let is_poison = found.bytes(whole.clone()).iter().zip(&poison).all(|(a, b)| a == b);
        !self.native || is_poison
    }
}

/// A range cut at multiples of 4 (allocations start at multiples of 16).
fn words(range: &Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
    let Range { start, end } = *range;
    (start / 4..end.div_ceil(4)).map(move |word| (word * 4).max(start)..(word * 4 + 4).min(end))
}

fn illegal(what: String) -> Fault {
    Fault::new(FaultKind::IllegalAddress, what)
}

/// All memory, for the time of one launch.
#[derive(Debug)]
pub(crate) struct View<'a>(pub(crate) RefCell<&'a mut Space>);

impl Memory for View<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), BadAccess> {
        let space = self.0.borrow();
        let (found, range) = space.find(address, into.len() as u64).map_err(BadAccess::Illegal)?;
        let unwritten = space.unwritten_words(found, range.clone());
        if unwritten > 0 {
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
