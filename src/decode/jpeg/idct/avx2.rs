//! The inverse DCT of two blocks at once, one in each half of the registers: the twin of `scalar.rs`.
#![expect(unsafe_code, reason = "SIMD intrinsics over pointers checked above each use")]
#![cfg_attr(not(test), expect(clippy::wildcard_imports, reason = "intrinsics"))]

use std::arch::x86_64::*;

use super::scalar::{
    CONST_BITS, F_0_298, F_0_390, F_0_541, F_0_765, F_0_899, F_1_175, F_1_501, F_1_847, F_1_961,
    F_2_053, F_2_562, F_3_072, PASS1_BITS, SHIFT_COLUMNS, SHIFT_ROWS, flat,
};
use crate::decode::jpeg::block::Block;
use crate::simd::Avx2;

/// Equals [`super::scalar::row_of_blocks`].
pub(super) fn row_of_blocks<'a>(
    _: Avx2,
    mut blocks: impl Iterator<Item = (&'a Block, u8)>,
    quant: &[u16; 64],
    out: &mut [u8],
    stride: usize,
) {
    let mut x = 0;
    while let Some((a, a_last)) = blocks.next() {
        // Without a second block, the first one is transformed twice: 8 columns after the last
        // block may be overwritten.
        let (b, b_last) = blocks.next().unwrap_or((a, a_last));
        let out = &mut out[x..];
        assert!(out.len() >= 7 * stride + 16, "room for eight rows of two blocks");
        if a_last == 0 && b_last == 0 {
            let (a, b) = (flat(a, quant), flat(b, quant));
            for y in 0..8 {
                out[y * stride..][..8].fill(a);
                out[y * stride + 8..][..8].fill(b);
            }
        } else {
            // SAFETY: the token proves AVX2, and the length of `out` was checked above.
            unsafe { two_blocks(a, b, quant, out, stride) };
        }
        x += 16;
    }
}

/// The factors of `_mm256_madd_epi16`: `a` for the first of each pair of inputs, `b` for the
/// second.
#[inline]
#[target_feature(enable = "avx2")]
fn pair(a: i32, b: i32) -> __m256i {
    _mm256_set1_epi32((a & 0xFFFF) | (b << 16))
}

/// Equals `transform_block` of the scalar twin, for two neighboring blocks.
///
/// # Safety
/// `out` holds at least `7 * stride + 16` bytes.
#[target_feature(enable = "avx2")]
unsafe fn two_blocks(a: &Block, b: &Block, quant: &[u16; 64], out: &mut [u8], stride: usize) {
    let mut x = [_mm256_setzero_si256(); 8];
    let mut deep = _mm256_setzero_si256();
    for (y, x) in x.iter_mut().enumerate() {
        // SAFETY: each array has 64 values, and these are the 8 values from 8 * y on.
        let (coefficients, factors) = unsafe {
            let a = _mm_load_si128(a.0.as_ptr().add(8 * y).cast());
            let b = _mm_load_si128(b.0.as_ptr().add(8 * y).cast());
            let factors = _mm_loadu_si128(quant.as_ptr().add(8 * y).cast());
            (_mm256_set_m128i(b, a), _mm256_broadcastsi128_si256(factors))
        };
        *x = _mm256_mullo_epi16(coefficients, factors);
        if y > 0 {
            deep = _mm256_or_si256(deep, coefficients);
        }
    }
    let deep_a = _mm_testz_si128(_mm256_castsi256_si128(deep), _mm256_castsi256_si128(deep)) == 0;
    let high = _mm256_extracti128_si256::<1>(deep);
    let deep_b = _mm_testz_si128(high, high) == 0;
    let shallow = _mm256_slli_epi16::<PASS1_BITS>(x[0]);
    let columns = if deep_a || deep_b {
        let mut columns = line::<SHIFT_COLUMNS>(x);
        if deep_a != deep_b {
            // Each block keeps its own variant, because the two differ where values overflow.
            let (a, b) = (-i8::from(deep_a), -i8::from(deep_b));
            let keep = _mm256_set_m128i(_mm_set1_epi8(b), _mm_set1_epi8(a));
            for column in &mut columns {
                *column = _mm256_blendv_epi8(shallow, *column, keep);
            }
        }
        columns
    } else {
        [shallow; 8]
    };
    let rows = line::<SHIFT_ROWS>(transpose(columns));
    let samples = transpose_to_samples(rows);
    for (i, &two) in samples.iter().enumerate() {
        // SAFETY: 16 bytes of rows 2 i and 2 i + 1, which are at most 7, are within `out`.
        unsafe {
            let row = out.as_mut_ptr().add(2 * i * stride);
            _mm_storeu_si128(row.cast(), _mm256_castsi256_si128(two));
            _mm_storeu_si128(row.add(stride).cast(), _mm256_extracti128_si256::<1>(two));
        }
    }
}

/// Sixteen 32-bit values, the low half and the high half of each group of eight.
type Wide = (__m256i, __m256i);

#[inline]
#[target_feature(enable = "avx2")]
fn multiply((low, high): Wide, constants: __m256i) -> Wide {
    (_mm256_madd_epi16(low, constants), _mm256_madd_epi16(high, constants))
}

#[inline]
#[target_feature(enable = "avx2")]
fn interleave(x: __m256i, y: __m256i) -> Wide {
    (_mm256_unpacklo_epi16(x, y), _mm256_unpackhi_epi16(x, y))
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(x: Wide, y: Wide) -> Wide {
    (_mm256_add_epi32(x.0, y.0), _mm256_add_epi32(x.1, y.1))
}

#[inline]
#[target_feature(enable = "avx2")]
fn sub(x: Wide, y: Wide) -> Wide {
    (_mm256_sub_epi32(x.0, y.0), _mm256_sub_epi32(x.1, y.1))
}

/// `x * 2^13`.
#[inline]
#[target_feature(enable = "avx2")]
fn scale(x: __m256i) -> Wide {
    let (low, high) = interleave(_mm256_setzero_si256(), x);
    (_mm256_srai_epi32::<{ 16 - CONST_BITS }>(low), _mm256_srai_epi32::<{ 16 - CONST_BITS }>(high))
}

#[inline]
#[target_feature(enable = "avx2")]
fn narrow<const SHIFT: i32>((low, high): Wide) -> __m256i {
    _mm256_packs_epi32(_mm256_srai_epi32::<SHIFT>(low), _mm256_srai_epi32::<SHIFT>(high))
}

/// Equals `line` of the scalar twin, for 16 lines.
#[inline]
#[target_feature(enable = "avx2")]
fn line<const SHIFT: i32>(x: [__m256i; 8]) -> [__m256i; 8] {
    let z = interleave(x[2], x[6]);
    let low = multiply(z, pair(F_0_541, F_0_541 - F_1_847));
    let high = multiply(z, pair(F_0_541 + F_0_765, F_0_541));
    let sum = scale(_mm256_add_epi16(x[0], x[4]));
    let difference = scale(_mm256_sub_epi16(x[0], x[4]));
    let even = [add(sum, high), add(difference, low), sub(difference, low), sub(sum, high)];

    let z = interleave(_mm256_add_epi16(x[7], x[3]), _mm256_add_epi16(x[5], x[1]));
    let mix3 = multiply(z, pair(F_1_175 - F_1_961, F_1_175));
    let mix4 = multiply(z, pair(F_1_175, F_1_175 - F_0_390));
    let (x71, x53) = (interleave(x[7], x[1]), interleave(x[5], x[3]));
    let odd = [
        add(multiply(x71, pair(-F_0_899, F_1_501 - F_0_899)), mix4),
        add(multiply(x53, pair(-F_2_562, F_3_072 - F_2_562)), mix3),
        add(multiply(x53, pair(F_2_053 - F_2_562, -F_2_562)), mix4),
        add(multiply(x71, pair(F_0_298 - F_0_899, -F_0_899)), mix3),
    ];
    let mut out = [_mm256_setzero_si256(); 8];
    let half = _mm256_set1_epi32(1 << (SHIFT - 1));
    for i in 0..4 {
        let even = add(even[i], (half, half));
        let (up, down) = (add(even, odd[i]), sub(even, odd[i]));
        out[i] = narrow::<SHIFT>(up);
        out[7 - i] = narrow::<SHIFT>(down);
    }
    out
}

/// Transposes the 8 x 8 values in each half.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(x: [__m256i; 8]) -> [__m256i; 8] {
    let (a0, a1) = (_mm256_unpacklo_epi16(x[0], x[1]), _mm256_unpackhi_epi16(x[0], x[1]));
    let (a2, a3) = (_mm256_unpacklo_epi16(x[2], x[3]), _mm256_unpackhi_epi16(x[2], x[3]));
    let (a4, a5) = (_mm256_unpacklo_epi16(x[4], x[5]), _mm256_unpackhi_epi16(x[4], x[5]));
    let (a6, a7) = (_mm256_unpacklo_epi16(x[6], x[7]), _mm256_unpackhi_epi16(x[6], x[7]));
    let (b0, b1) = (_mm256_unpacklo_epi32(a0, a2), _mm256_unpackhi_epi32(a0, a2));
    let (b2, b3) = (_mm256_unpacklo_epi32(a1, a3), _mm256_unpackhi_epi32(a1, a3));
    let (b4, b5) = (_mm256_unpacklo_epi32(a4, a6), _mm256_unpackhi_epi32(a4, a6));
    let (b6, b7) = (_mm256_unpacklo_epi32(a5, a7), _mm256_unpackhi_epi32(a5, a7));
    [
        _mm256_unpacklo_epi64(b0, b4),
        _mm256_unpackhi_epi64(b0, b4),
        _mm256_unpacklo_epi64(b1, b5),
        _mm256_unpackhi_epi64(b1, b5),
        _mm256_unpacklo_epi64(b2, b6),
        _mm256_unpackhi_epi64(b2, b6),
        _mm256_unpacklo_epi64(b3, b7),
        _mm256_unpackhi_epi64(b3, b7),
    ]
}

/// Transposes eight columns of levels, which are centered on 0, to rows of samples. Each result
/// holds two rows of 16.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_to_samples(x: [__m256i; 8]) -> [__m256i; 4] {
    let (c02, c13) = (_mm256_packs_epi16(x[0], x[2]), _mm256_packs_epi16(x[1], x[3]));
    let (c46, c57) = (_mm256_packs_epi16(x[4], x[6]), _mm256_packs_epi16(x[5], x[7]));
    let (c01, c23) = (_mm256_unpacklo_epi8(c02, c13), _mm256_unpackhi_epi8(c02, c13));
    let (c45, c67) = (_mm256_unpacklo_epi8(c46, c57), _mm256_unpackhi_epi8(c46, c57));
    let (low0, high0) = (_mm256_unpacklo_epi16(c01, c23), _mm256_unpackhi_epi16(c01, c23));
    let (low4, high4) = (_mm256_unpacklo_epi16(c45, c67), _mm256_unpackhi_epi16(c45, c67));
    let center = _mm256_set1_epi8(-128);
    let mut rows = [
        _mm256_unpacklo_epi32(low0, low4),
        _mm256_unpackhi_epi32(low0, low4),
        _mm256_unpacklo_epi32(high0, high4),
        _mm256_unpackhi_epi32(high0, high4),
    ];
    for two in &mut rows {
        // Each half holds two rows of its block; the permutation joins the rows of both blocks.
        *two = _mm256_xor_si256(_mm256_permute4x64_epi64::<0b11_01_10_00>(*two), center);
    }
    rows
}
