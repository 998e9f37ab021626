//! The two passes with AVX2: the twins of `scalar.rs`.
//!
//! The multiply-add of AVX2, `madd`, multiplies 16-bit values, and a weight has 22 fractional bits.
//! Each weight is therefore split into two parts that fit 16 bits, `weight = high * 2^12 + low`
//! with `low` in `0..2^12`, and the parts are summed apart:
//!
//! ```text
//!   sum(pixel * weight) = sum(pixel * high) * 2^12 + sum(pixel * low)
//! ```
//!
//! The sums wrap at 32 bits. That is exact, because the result fits 32 bits: the scalar twin
//! computes it in an `i32`. `madd` also adds the products of neighbors, so weights come in pairs,
//! for two pixels of a row in the horizontal pass and for two rows in the vertical one.
//!
//! The horizontal pass computes one output column of four rows at once. A shuffle brings two pixels
//! of each row into the order that `madd` adds:
//!
//! ```text
//!   row    r0 g0 b0 r1 g1 b1 ..  ->  r0 r1 | g0 g1 | b0 b1 | 0 0     as 16 bits
//!   pair                              w0 w1 | w0 w1 | w0 w1 | w0 w1    once high, once low
//!   madd                              r      | g      | b      | -      added to the row's sums
//! ```

#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::{
    __m128i, __m256i, _mm_cvtsi128_si32, _mm_loadl_epi64, _mm_loadu_si128, _mm_srli_si128,
    _mm256_add_epi32, _mm256_castsi128_si256, _mm256_castsi256_si128, _mm256_extracti128_si256,
    _mm256_inserti128_si256, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_packs_epi32,
    _mm256_packus_epi16, _mm256_set1_epi32, _mm256_setr_epi8, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srai_epi32, _mm256_storeu_si256,
    _mm256_unpackhi_epi8, _mm256_unpacklo_epi8,
};

use super::rows::{PaddedRows, ROWS};
use super::scalar;
use super::weights::{WEIGHT_BITS, Weights};
use crate::geometry::View;
use crate::simd::Avx2;

/// Bits of the lower part of a weight.
const LOW_BITS: i32 = 12;

/// Two neighboring weights, split into parts. Each field holds that part of the first weight in its
/// lower 16 bits and that of the second in its upper 16 bits.
#[derive(Clone, Copy, Debug)]
struct Pair {
    high: i32,
    low: i32,
}

/// The passes with AVX2, and the memory that they reuse.
#[derive(Debug, Default)]
pub(super) struct Avx2Passes {
    /// Split weights.
    pairs: Vec<Pair>,
    padded: PaddedRows,
}

impl Avx2Passes {
    /// The horizontal pass; see [`super::passes::Passes::horizontal`].
    pub(super) fn horizontal(
        &mut self,
        _: Avx2,
        source: View<'_>,
        columns: &Weights,
        out: &mut [u8],
        stride: usize,
    ) {
        split(&columns.values, &mut self.pairs);
        let reach = reach(columns);
        let height = source.size().height;
        for (top, out) in (0..height).step_by(ROWS).zip(out.chunks_exact_mut(ROWS * stride)) {
            let rows = self.padded.rows(source, top, reach);
            // SAFETY: the token proves AVX2.
            unsafe { horizontal(rows, columns, &self.pairs, out, stride) };
        }
    }

    /// The vertical pass; see [`super::passes::Passes::vertical`].
    pub(super) fn vertical(
        &mut self,
        _: Avx2,
        data: &[u8],
        stride: usize,
        rows: &Weights,
        slot: &mut [u8],
    ) {
        split(&rows.values, &mut self.pairs);
        let outs = slot.chunks_exact_mut(slot.len() / rows.first.len());
        let weights = rows.values.chunks_exact(rows.taps);
        let pairs = self.pairs.chunks_exact(rows.taps / 2);
        for (((first, weights), pairs), out) in rows.first.iter().zip(weights).zip(pairs).zip(outs)
        {
            let data = &data[*first as usize * stride..];
            // SAFETY: the token proves AVX2.
            let done = unsafe { vertical(data, stride, pairs, out) };
            if done < out.len() {
                scalar::vertical(&data[done..], stride, weights, &mut out[done..]);
            }
        }
    }
}

/// Splits weights, whose number is even, into `pairs`.
fn split(weights: &[i32], pairs: &mut Vec<Pair>) {
    let (weights, _) = weights.as_chunks::<2>();
    let halves = |a: i32, b: i32| (a & 0xffff) | (b << 16);
    pairs.clear();
    pairs.extend(weights.iter().map(|[a, b]| Pair {
        high: halves(a >> LOW_BITS, b >> LOW_BITS),
        low: halves(a & ((1 << LOW_BITS) - 1), b & ((1 << LOW_BITS) - 1)),
    }));
}

/// The number of bytes that [`horizontal`] reads of each row.
fn reach(columns: &Weights) -> usize {
    let last = columns.first.iter().copied().max().unwrap_or(0) as usize;
    (last + columns.taps) * 3 + 4
}

/// Four rows of the horizontal pass. `pairs` are the split weights of `columns`.
#[target_feature(enable = "avx2")]
fn horizontal(
    rows: [&[u8]; ROWS],
    columns: &Weights,
    pairs: &[Pair],
    out: &mut [u8],
    stride: usize,
) {
    let reach = reach(columns);
    assert!(rows.iter().all(|row| row.len() >= reach), "rows are too short to read");
    assert!(columns.first.len() * 3 < stride && out.len() >= ROWS * stride, "no room to write");
    let source = rows.map(<[u8]>::as_ptr);
    let target = out.as_mut_ptr();
    let outputs = columns.first.iter().zip(pairs.chunks_exact(columns.taps / 2));
    for (column, (first, pairs)) in outputs.enumerate() {
        // SAFETY: the pixels of all taps and 4 bytes more are read from `first` on, and 4 bytes are
        // written at `column`. Both are within the rows, as asserted above.
        unsafe {
            let bytes = pixel(source.map(|row| row.add(*first as usize * 3)), pairs);
            for (index, bytes) in bytes.into_iter().enumerate() {
                let at = target.add(index * stride + column * 3);
                at.cast::<[u8; 4]>().write_unaligned(bytes);
            }
        }
    }
}

/// Computes one output pixel of four rows: red, green, blue and a byte without meaning.
///
/// # Safety
/// The pixels of all pairs and 4 bytes more can be read from each row.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn pixel(rows: [*const u8; ROWS], pairs: &[Pair]) -> [[u8; 4]; ROWS] {
    // Two pixels of each of two rows -> 16-bit (red, red'), (green, green'), (blue, blue'), (0, 0).
    #[rustfmt::skip]
    let first = _mm256_setr_epi8(
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
        0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,
    );
    #[rustfmt::skip]
    let second = _mm256_setr_epi8(
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
        6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1,
    );
    let [a, b, c, d] = rows;
    let (mut ab, mut cd) = (Sums::new(), Sums::new());
    let (fours, rest) = pairs.as_chunks::<2>();
    for (index, [pair0, pair1]) in fours.iter().enumerate() {
        // SAFETY: the 16 bytes are those of two pairs and 4 bytes more.
        let (rows_ab, rows_cd) = unsafe {
            let load = |row: *const u8| _mm_loadu_si128(row.add(index * 12).cast());
            (join(load(a), load(b)), join(load(c), load(d)))
        };
        ab.add(_mm256_shuffle_epi8(rows_ab, first), *pair0);
        cd.add(_mm256_shuffle_epi8(rows_cd, first), *pair0);
        ab.add(_mm256_shuffle_epi8(rows_ab, second), *pair1);
        cd.add(_mm256_shuffle_epi8(rows_cd, second), *pair1);
    }
    if let [pair] = rest {
        // SAFETY: the 8 bytes are those of the last pair and 2 bytes more.
        let (rows_ab, rows_cd) = unsafe {
            let load = |row: *const u8| _mm_loadl_epi64(row.add(fours.len() * 12).cast());
            (join(load(a), load(b)), join(load(c), load(d)))
        };
        ab.add(_mm256_shuffle_epi8(rows_ab, first), *pair);
        cd.add(_mm256_shuffle_epi8(rows_cd, first), *pair);
    }
    let words = _mm256_packs_epi32(ab.rounded(), cd.rounded());
    let bytes = _mm256_packus_epi16(words, words);
    let (ac, bd) = (_mm256_castsi256_si128(bytes), _mm256_extracti128_si256::<1>(bytes));
    [
        _mm_cvtsi128_si32(ac).to_le_bytes(),
        _mm_cvtsi128_si32(bd).to_le_bytes(),
        _mm_cvtsi128_si32(_mm_srli_si128::<4>(ac)).to_le_bytes(),
        _mm_cvtsi128_si32(_mm_srli_si128::<4>(bd)).to_le_bytes(),
    ]
}

#[target_feature(enable = "avx2")]
#[inline]
fn join(low: __m128i, high: __m128i) -> __m256i {
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
}

/// Eight sums of pixels times weights.
#[derive(Clone, Copy)]
struct Sums {
    high: __m256i,
    low: __m256i,
}

impl Sums {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new() -> Self {
        Self { high: _mm256_setzero_si256(), low: _mm256_set1_epi32(1 << (WEIGHT_BITS - 1)) }
    }

    /// Adds eight pairs of pixels times a pair of weights.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn add(&mut self, pixels: __m256i, pair: Pair) {
        let high = _mm256_madd_epi16(pixels, _mm256_set1_epi32(pair.high));
        let low = _mm256_madd_epi16(pixels, _mm256_set1_epi32(pair.low));
        self.high = _mm256_add_epi32(self.high, high);
        self.low = _mm256_add_epi32(self.low, low);
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn rounded(self) -> __m256i {
        let sum = _mm256_add_epi32(_mm256_slli_epi32::<LOW_BITS>(self.high), self.low);
        _mm256_srai_epi32::<{ WEIGHT_BITS.cast_signed() }>(sum)
    }
}

/// Computes one output row of the vertical pass, in whole vectors, and returns the number of bytes
/// written. `data` starts with the first row that has a weight; rows are `stride` apart.
#[target_feature(enable = "avx2")]
fn vertical(data: &[u8], stride: usize, pairs: &[Pair], out: &mut [u8]) -> usize {
    const BLOCK: usize = 32;
    let width = out.len();
    assert!(width <= stride && width <= data.len(), "a row of {width} bytes");
    // Weights of zero may be those of rows past the last one.
    let last = (data.len() - width) / stride;
    let zero = _mm256_setzero_si256();
    let whole = width - width % BLOCK;
    for at in (0..whole).step_by(BLOCK) {
        let mut sums = [Sums::new(); 4];
        for (index, pair) in pairs.iter().enumerate() {
            let rows = [2 * index, 2 * index + 1].map(|row| row.min(last) * stride);
            // SAFETY: rows up to `last` have `width` bytes in `data`, and the block is within them.
            let [a, b] =
                rows.map(|row| unsafe { _mm256_loadu_si256(data.as_ptr().add(row + at).cast()) });
            let (low, high) = (_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b));
            sums[0].add(_mm256_unpacklo_epi8(low, zero), *pair);
            sums[1].add(_mm256_unpackhi_epi8(low, zero), *pair);
            sums[2].add(_mm256_unpacklo_epi8(high, zero), *pair);
            sums[3].add(_mm256_unpackhi_epi8(high, zero), *pair);
        }
        let low = _mm256_packs_epi32(sums[0].rounded(), sums[1].rounded());
        let high = _mm256_packs_epi32(sums[2].rounded(), sums[3].rounded());
        // SAFETY: the block ends within `out`.
        unsafe {
            let to = out.as_mut_ptr().add(at).cast();
            _mm256_storeu_si256(to, _mm256_packus_epi16(low, high));
        }
    }
    whole
}
