//! YCbCr to RGB in plain Rust: the twin that the AVX2 kernel equals.

/// Converts a row.
pub(super) fn ycc(y: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
    for (pixel, ((&y, &cb), &cr)) in out.as_chunks_mut().0.iter_mut().zip(y.iter().zip(cb).zip(cr))
    {
        *pixel = pixel_of(y, cb, cr);
    }
}

/// JFIF's conversion with 16 fraction bits.
pub(super) fn pixel_of(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    // round(x * 2^16)
    const F_0_344: i32 = 22_554;
    const F_0_714: i32 = 46_802;
    const F_1_402: i32 = 91_881;
    const F_1_772: i32 = 116_130;
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    [
        y + ((F_1_402 * cr + HALF) >> 16),
        y + ((HALF - F_0_344 * cb - F_0_714 * cr) >> 16),
        y + ((F_1_772 * cb + HALF) >> 16),
    ]
    .map(|sample| sample.clamp(0, 255) as u8)
}
