//! The operands of library functions: inputs, which must have been written, outputs and workspaces.

use super::allocation::Kind;
use super::arena::POISON;
use super::space::Space;
use crate::engine::{Fault, FaultKind};

/// A range of device memory that a library function uses.
#[derive(Clone, Debug)]
pub(crate) struct Operand {
    /// The name in the manual of the library.
    pub(crate) name: &'static str,
    pub(crate) address: u64,
    pub(crate) bytes: u64,
}

impl Operand {
    /// Returns an error if this output overlaps one of the other operands.
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
    /// Reads an operand, all bytes of which must be written.
    pub(crate) fn input(&self, operand: &Operand) -> Result<&[u8], Fault> {
        let read = self.read_for(operand.address, operand.bytes, "that it reads");
        read.map_err(|fault| named(operand, fault))
    }

    /// The bytes of an operand, all of which must be on the device.
    pub(crate) fn output(&mut self, operand: &Operand) -> Result<&mut [u8], Fault> {
        let found = self.find_mut(operand.address, operand.bytes);
        let (found, range) =
            found.map_err(|what| named(operand, Fault::new(FaultKind::IllegalAddress, what)))?;
        Ok(found.bytes_mut(range))
    }

    /// Discards the contents of an operand: reading them is an error from now on.
    pub(crate) fn spoil(&mut self, operand: &Operand) -> Result<(), Fault> {
        let found = self.find_mut(operand.address, operand.bytes);
        let (found, range) =
            found.map_err(|what| named(operand, Fault::new(FaultKind::IllegalAddress, what)))?;
        // The phase of the pattern is that of the whole allocation.
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

    /// Whether the operand is in device memory.
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
