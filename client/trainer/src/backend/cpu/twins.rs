//! Compares the twins of the CUDA kernels with this backend in f64. Each value may differ by the rounding of f32, whose
//! bound is derived for that value. That the kernels give the bits of the twins is tested in
//! client/trainer/tests/kernels.

mod lamb;
mod loss;
mod near;
mod norm;
mod optimizers;
mod pool;
#[path = "../cuda/twin/mod.rs"]
mod twin;

/// Pseudo-random numbers in -1..1.
fn numbers(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(state >> 40).unwrap() as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn doubles(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().copied().map(f64::from).collect()
}

/// Bits, for exact comparisons.
fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}
