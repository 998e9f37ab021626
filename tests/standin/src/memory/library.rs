//! Memory as a library's kernels use it: inputs that must have been written, outputs, workspaces.

use super::arena::POISON;
use super::space::{Kind, Space};
use crate::engine::{Fault, FaultKind};

/// Bytes of a device that a kernel of a library uses.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    /// As the library's manual calls it.
    pub(crate) name: &'static str,
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

impl Operand {
    /// A kernel that writes this and uses those as well would use what it writes.
    pub(crate) fn apart_from(&self, others: &[&Self]) -> Result<(), Fault> {
        let overlaps = |other: &&&Self| {
            self.address < other.address + other.bytes && other.address < self.address + self.bytes
        };
        others.iter().find(overlaps).map_or(Ok(()), |other| {
            let what = format!("{} and {} overlap", self.name, other.name);
            Err(Fault::new(FaultKind::OnlyHere, what))
        })
    }
}

impl Space {
    /// All of it must be on the device and written.
    pub(crate) fn input(&self, operand: &Operand) -> Result<&[u8], Fault> {
        let read = self.read_for(operand.address, operand.bytes, "that it reads");
        read.map_err(|fault| named(operand, fault))
    }

    /// All of it must be on the device.
    pub(crate) fn output(&mut self, operand: &Operand) -> Result<&mut [u8], Fault> {
        let found = self.find_mut(operand.address, operand.bytes);
        let (found, range) =
            found.map_err(|what| named(operand, Fault::new(FaultKind::IllegalAddress, what)))?;
        Ok(found.bytes_mut(range))
    }

    /// Its contents are lost: reading them is a mistake from now on.
    pub(crate) fn spoil(&mut self, operand: &Operand) -> Result<(), Fault> {
        let found = self.find_mut(operand.address, operand.bytes);
        let (found, range) =
            found.map_err(|what| named(operand, Fault::new(FaultKind::IllegalAddress, what)))?;
        // As if the whole allocation had been filled with it.
        let mut poison = POISON.to_le_bytes();
        poison.rotate_left(range.start % 4);
        for word in found.bytes_mut(range.clone()).chunks_mut(4) {
            word.copy_from_slice(&poison[..word.len()]);
        }
        if let Kind::Device { written, .. } = &mut found.kind {
            written.put(range, false);
        }
        Ok(())
    }

    /// Whether it lies on a device.
    pub(crate) fn is_on(&self, operand: &Operand, device: usize) -> bool {
        self.known(operand.address, operand.bytes).is_some_and(
            |found| matches!(found.kind, Kind::Device { device: of, .. } if of == device),
        )
    }
}

fn named(operand: &Operand, mut fault: Fault) -> Fault {
    fault.what = format!("{}: {}", operand.name, fault.what);
    fault
}
