//! Input values for the kernels.

use crate::twin::{Scaler, Stored};

/// Pseudo-random values: most in -2..2, some zeros of both signs, some tiny and some large.
pub(crate) fn numbers(count: usize, seed: usize) -> Vec<f32> {
    let mut noise = noise(seed);
    let mut number = || {
        let bits = noise();
        let fraction = (bits >> 8) as f32 / 4_194_304.0 - 2.0;
        match bits & 63 {
            0 => 0.0,
            1 => -0.0,
            2 => fraction * 1e-42,
            3 => fraction * 1e-20,
            4 => fraction * 1000.0,
            _ => fraction,
        }
    };
    (0..count).map(|_| number()).collect()
}

/// Pseudo-random bits.
pub(crate) fn noise(seed: usize) -> impl FnMut() -> u32 {
    let mut state = (seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 32).unwrap()
    }
}

/// Pseudo-random values with some infinities.
pub(crate) fn with_infinities(count: usize, seed: usize) -> Vec<f32> {
    let (mut numbers, mut noise) = (numbers(count, seed), noise(seed + 1));
    for number in &mut numbers {
        match noise() & 31 {
            0 => *number = f32::INFINITY,
            1 => *number = f32::NEG_INFINITY,
            _ => {}
        }
    }
    numbers
}

/// Converts values to a storage type.
pub(crate) fn stored<S: Stored>(numbers: &[f32]) -> Vec<S> {
    numbers.iter().map(|number| S::to_stored(*number)).collect()
}

/// Memory that a kernel overwrites.
pub(crate) fn room<S: Stored>(count: usize) -> Vec<S> {
    vec![S::to_stored(f32::NAN); count]
}

/// A loss scaler as the kernels read it.
pub(crate) fn words(scaler: Scaler) -> [u32; 8] {
    let halves =
        |number: u64| [number, number >> 32].map(|n| u32::try_from(n & 0xffff_ffff).unwrap());
    let ([a, b], [c, d]) = (halves(scaler.updates), halves(scaler.skipped));
    let flags = [scaler.dynamic, scaler.skip].map(u32::from);
    [a, b, c, d, scaler.scale.to_bits(), scaler.growth, flags[0], flags[1]]
}
