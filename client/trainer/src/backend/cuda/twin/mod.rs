//! The kernels of ../kernels in Rust, for readers and for tests. They have the same names and do the same operations in the
//! same order, so they give the same bits. Threads, tiles and groups of 16 bytes appear only where they decide the order of
//! a sum.
//!
//! client/trainer/tests/kernels compares kernels with twins; backend/cpu/twins.rs compares twins with the CPU backend.

pub(crate) mod lamb;
pub(crate) mod loss;
pub(crate) mod norm;
pub(crate) mod optimizers;
pub(crate) mod pool;

use std::ops::AddAssign;

use half::f16;

/// Threads per block of all kernels.
pub(crate) const THREADS: usize = 256;

/// The storage type of activations: `f32`, `f16`, or bf16 as its bits.
pub(crate) trait Stored: Copy {
    /// Converts exactly.
    fn to_float(self) -> f32;
    /// Rounds to nearest, ties to even.
    fn to_stored(value: f32) -> Self;
}

impl Stored for f32 {
    fn to_float(self) -> f32 {
        self
    }

    fn to_stored(value: f32) -> Self {
        value
    }
}

impl Stored for u16 {
    fn to_float(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }

    fn to_stored(value: f32) -> Self {
        if value.is_nan() {
            return 0x7fff;
        }
        let bits = value.to_bits();
        // Adds half a unit of the last place that is kept, minus a bit if that place is even.
        let [.., low, high] = (bits + 0x7fff + (bits >> 16 & 1)).to_le_bytes();
        Self::from_le_bytes([low, high])
    }
}

impl Stored for f16 {
    fn to_float(self) -> f32 {
        self.to_f32()
    }

    fn to_stored(value: f32) -> Self {
        Self::from_f32(value)
    }
}

/// The loss scale, as the kernels keep it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scaler {
    pub(crate) updates: u64,
    pub(crate) skipped: u64,
    pub(crate) scale: f32,
    pub(crate) growth: u32,
    pub(crate) dynamic: bool,
    pub(crate) skip: bool,
}

impl Scaler {
    /// A scale that does not change.
    pub(crate) const fn fixed(scale: f32) -> Self {
        Self { updates: 0, skipped: 0, scale, growth: 0, dynamic: false, skip: false }
    }
}

/// Sums a value of each thread of a block.
fn block_sum<T: Copy + AddAssign>(mut scratch: [T; THREADS]) -> T {
    let mut half = THREADS / 2;
    while half > 0 {
        for thread in 0..half {
            let other = scratch[thread + half];
            scratch[thread] += other;
        }
        half /= 2;
    }
    scratch[0]
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is the purpose")]
const fn nearest(value: f64) -> f32 {
    value as f32
}
