//! Random numbers as a function of what they are for: the same in each run.

use xxhash_rust::xxh3::xxh3_64;

/// A random number for a purpose.
pub(crate) fn number(purpose: [u64; 2]) -> u64 {
    xxh3_64(&purpose.map(u64::to_le_bytes).concat())
}

/// A random number from 0 to 1 for a purpose.
pub(crate) fn fraction(purpose: [u64; 2]) -> f64 {
    (number(purpose) >> 11) as f64 / (1_u64 << 53) as f64
}
