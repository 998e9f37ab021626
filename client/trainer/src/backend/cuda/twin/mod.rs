//! The kernels of ../kernels in Rust: the same names, the same operations in the same order, so the same bits; for the
//! reader, and for tests. Threads, tiles and groups of 16 bytes are seen here only where they decide the order of a sum.
//!
//! client/trainer/tests/kernels runs kernels and twins beside each other; backend/cpu/twins.rs holds the twins against the
//! CPU backend.

pub(crate) mod lamb;
pub(crate) mod loss;
pub(crate) mod norm;
pub(crate) mod pool;

use std::ops::AddAssign;

/// Threads of a block, everywhere.
pub(crate) const THREADS: usize = 256;

/// How activations are stored: `f32`, or bf16 as its bits.
pub(crate) trait Stored: Copy {
    /// Exact.
    fn to_float(self) -> f32;
    /// To the nearest, ties to even.
    fn to_stored(number: f32) -> Self;
}

impl Stored for f32 {
    fn to_float(self) -> f32 {
        self
    }

    fn to_stored(number: f32) -> Self {
        number
    }
}

impl Stored for u16 {
    fn to_float(self) -> f32 {
        f32::from_bits(u32::from(self) << 16)
    }

    fn to_stored(number: f32) -> Self {
        if number.is_nan() {
            return 0x7fff;
        }
        let bits = number.to_bits();
        // Up by half of what is cut off; by a little less where that leads from an even number.
        let [.., low, high] = (bits + 0x7fff + (bits >> 16 & 1)).to_le_bytes();
        Self::from_le_bytes([low, high])
    }
}

/// The sum of what the threads of a block have.
fn tree<T: Copy + AddAssign>(mut room: [T; THREADS]) -> T {
    let mut half = THREADS / 2;
    while half > 0 {
        for thread in 0..half {
            let other = room[thread + half];
            room[thread] += other;
        }
        half /= 2;
    }
    room[0]
}

#[expect(clippy::cast_possible_truncation, reason = "rounding is what it is for")]
const fn nearest(number: f64) -> f32 {
    number as f32
}
