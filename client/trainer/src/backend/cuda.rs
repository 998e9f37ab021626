//! The CUDA backend, in the making: its kernels, its memory, its convolutions. Nothing runs a step yet.
#![expect(dead_code, reason = "what walks the graph is not here yet")]

mod conv;
mod kernels;
mod layout;

/// How activations are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// For training.
    Bf16,
    /// For tests, and to compare with the CPU.
    F32,
}

impl Number {
    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Bf16 => 2,
            Self::F32 => 4,
        }
    }
}
