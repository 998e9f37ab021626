//! The coefficients of a block.

/// The coefficients of a block in natural order, not yet dequantized.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(32))]
pub(super) struct Block(pub(super) [i16; 64]);

impl Block {
    pub(super) const EMPTY: Self = Self([0; 64]);
}
