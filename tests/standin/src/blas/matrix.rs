//! Matrices in device memory.

use crate::engine::Fault;
use crate::machine::Machine;
use crate::memory::Operand;
use crate::number::Number;

/// A column-major matrix in device memory.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) name: &'static str,
    pub(super) address: u64,
    pub(super) number: Number,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) leading: usize,
    pub(super) stride: i64,
}

impl Stored {
    /// A matrix of the batch.
    pub(super) fn nth(&self, index: usize) -> Self {
        let offset = self.stride * i64::try_from(index * self.number.bytes()).unwrap_or(0);
        Self { address: self.address.wrapping_add_signed(offset), ..self.clone() }
    }

    /// The bytes from the first to the last element, including the gaps between columns.
    pub(super) fn span(&self) -> Operand {
        let elements = (self.columns - 1) * self.leading + self.rows;
        self.operand(0, elements)
    }

    /// The bytes of the elements: one range per column, or a single range if there are no gaps.
    fn pieces(&self) -> Vec<Operand> {
        if self.leading == self.rows {
            return vec![self.span()];
        }
        (0..self.columns).map(|column| self.operand(column * self.leading, self.rows)).collect()
    }

    fn operand(&self, first: usize, elements: usize) -> Operand {
        let bytes = self.number.bytes();
        Operand {
            name: self.name,
            address: self.address + (first * bytes) as u64,
            bytes: (elements * bytes) as u64,
        }
    }

    /// The elements, without gaps.
    pub(super) fn load(&self, machine: &Machine) -> Result<Vec<f32>, Fault> {
        let mut values = Vec::with_capacity(self.rows * self.columns);
        for piece in self.pieces() {
            values.extend(self.number.load(machine.space.input(&piece)?));
        }
        Ok(values)
    }

    pub(super) fn store(&self, values: &[f32], machine: &mut Machine) -> Result<(), Fault> {
        let pieces = self.pieces();
        for (piece, values) in pieces.iter().zip(values.chunks(values.len() / pieces.len())) {
            self.number.store(values, machine.space.output(piece)?);
        }
        Ok(())
    }
}
