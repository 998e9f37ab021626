//! YCbCr to RGB, 32 pixels at once: the twin of `scalar.rs`.
//!
//! The arithmetic has 16 bits, and cb and cr are centered on 0:
//!
//! ```text
//!   r = y +     cr + (26345 cr + 2^15 >> 16)                    1.402 * 2^16 = 2^16 + 26345
//!   g = y -     cr + (18734 cr - 22554 cb + 2^15 >> 16)         0.714 * 2^16 = 2^16 - 18734
//!   b = y + 2 * cb - (14942 cb ..)                              1.772 * 2^16 = 2^17 - 14942
//! ```
//!
//! The shifted terms of r and b come from a multiplication that keeps the high half, of the
//! doubled input: floor((floor(2 c x / 2^16) + 1) / 2) = floor((c x + 2^15) / 2^16).
#![expect(unsafe_code, reason = "SIMD intrinsics over pointers checked above each use")]
#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "intrinsics"))]

use std::arch::x86_64::*;

use super::scalar;
use crate::simd::Avx2;

/// Pixels converted at once.
const STEP: usize = 32;

/// Equals [`super::scalar::ycc`].
pub(super) fn ycc(_: Avx2, y: &[u8], cb: &[u8], cr: &[u8], out: &mut [u8]) {
    let width = out.len() / 3;
    let (y, cb, cr) = (&y[..width], &cb[..width], &cr[..width]);
    if width < STEP {
        return scalar::ycc(y, cb, cr, out);
    }
    let mut x = 0;
    loop {
        // SAFETY: the token proves AVX2, and x + 32 <= width.
        unsafe {
            pixels(
                y.as_ptr().add(x),
                cb.as_ptr().add(x),
                cr.as_ptr().add(x),
                out.as_mut_ptr().add(3 * x),
            );
        }
        if x + STEP == width {
            return;
        }
        // The last step converts some pixels again.
        x = (x + STEP).min(width - STEP);
    }
}

/// Converts 32 pixels.
///
/// # Safety
/// The inputs can be read for 32 bytes, the output written for 96.
#[target_feature(enable = "avx2")]
unsafe fn pixels(y: *const u8, cb: *const u8, cr: *const u8, out: *mut u8) {
    // SAFETY: 32 bytes of each input can be read.
    let (y, cb, cr) = unsafe {
        (_mm256_loadu_si256(y.cast()), _mm256_loadu_si256(cb.cast()), _mm256_loadu_si256(cr.cast()))
    };
    let zero = _mm256_setzero_si256();
    let low = convert(
        _mm256_unpacklo_epi8(y, zero),
        _mm256_unpacklo_epi8(cb, zero),
        _mm256_unpacklo_epi8(cr, zero),
    );
    let high = convert(
        _mm256_unpackhi_epi8(y, zero),
        _mm256_unpackhi_epi8(cb, zero),
        _mm256_unpackhi_epi8(cr, zero),
    );
    let parts = interleave(
        _mm256_packus_epi16(low[0], high[0]),
        _mm256_packus_epi16(low[1], high[1]),
        _mm256_packus_epi16(low[2], high[2]),
    );
    // The low halves are the first 16 pixels, the high halves the others.
    for (i, &part) in parts.iter().enumerate() {
        // SAFETY: 16 bytes from 16 i on and 16 from 48 + 16 i on are within the 96 bytes.
        unsafe {
            _mm_storeu_si128(out.add(16 * i).cast(), _mm256_castsi256_si128(part));
            _mm_storeu_si128(out.add(48 + 16 * i).cast(), _mm256_extracti128_si256::<1>(part));
        }
    }
}

/// `factor * x / 2`, rounded, over 2^16.
#[inline]
#[target_feature(enable = "avx2")]
fn rounded(x: __m256i, factor: i16) -> __m256i {
    let high = _mm256_mulhi_epi16(x, _mm256_set1_epi16(factor));
    _mm256_srai_epi16::<1>(_mm256_add_epi16(high, _mm256_set1_epi16(1)))
}

/// Converts 16 pixels, of 16 bits a sample.
#[inline]
#[target_feature(enable = "avx2")]
fn convert(y: __m256i, cb: __m256i, cr: __m256i) -> [__m256i; 3] {
    let center = _mm256_set1_epi16(128);
    let (cb, cr) = (_mm256_sub_epi16(cb, center), _mm256_sub_epi16(cr, center));
    let (cb2, cr2) = (_mm256_add_epi16(cb, cb), _mm256_add_epi16(cr, cr));
    let r = _mm256_add_epi16(_mm256_add_epi16(y, cr), rounded(cr2, 26_345));
    let b = _mm256_add_epi16(_mm256_add_epi16(y, cb2), rounded(cb2, -14_942));
    let factors = _mm256_unpacklo_epi16(_mm256_set1_epi16(-22_554), _mm256_set1_epi16(18_734));
    let half = _mm256_set1_epi32(1 << 15);
    let term =
        |pairs| _mm256_srai_epi32::<16>(_mm256_add_epi32(_mm256_madd_epi16(pairs, factors), half));
    let terms = _mm256_packs_epi32(
        term(_mm256_unpacklo_epi16(cb, cr)),
        term(_mm256_unpackhi_epi16(cb, cr)),
    );
    let g = _mm256_add_epi16(_mm256_sub_epi16(y, cr), terms);
    [r, g, b]
}

/// The shuffle of one plane. Byte `i` of plane `p` becomes byte `3 i + p` of the result, which is
/// byte `(3 i + p) mod 16` of one of three registers. The 16 positions are distinct, so that one
/// shuffle a plane moves all of its bytes to their positions.
const fn order(plane: usize) -> [i8; 16] {
    let mut order = [0; 16];
    let mut i = 0;
    while i < 16 {
        order[(3 * i + plane) % 16] = i as i8;
        i += 1;
    }
    order
}

/// A mask of the bytes whose index is `first` modulo 3.
const fn every_third(first: usize) -> [i8; 16] {
    let mut mask = [0; 16];
    let mut i = first;
    while i < 16 {
        mask[i] = -1;
        i += 3;
    }
    mask
}

const ORDER: [[i8; 16]; 3] = [order(0), order(1), order(2)];
const THIRD: [[i8; 16]; 3] = [every_third(0), every_third(1), every_third(2)];

#[inline]
#[target_feature(enable = "avx2")]
fn twice(bytes: &[i8; 16]) -> __m256i {
    // SAFETY: the array has 16 bytes.
    _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Interleaves three planes: in each half, 16 pixels become 48 bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn interleave(r: __m256i, g: __m256i, b: __m256i) -> [__m256i; 3] {
    let r = _mm256_shuffle_epi8(r, twice(&ORDER[0]));
    let g = _mm256_shuffle_epi8(g, twice(&ORDER[1]));
    let b = _mm256_shuffle_epi8(b, twice(&ORDER[2]));
    let [m0, m1, m2] = [twice(&THIRD[0]), twice(&THIRD[1]), twice(&THIRD[2])];
    // 16 = 1 mod 3, so that the three registers start with a byte of r, of b and of g.
    [
        _mm256_blendv_epi8(_mm256_blendv_epi8(b, r, m0), g, m1),
        _mm256_blendv_epi8(_mm256_blendv_epi8(b, r, m2), g, m0),
        _mm256_blendv_epi8(_mm256_blendv_epi8(b, r, m1), g, m2),
    ]
}
