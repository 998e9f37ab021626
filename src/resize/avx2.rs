//! The two passes with AVX2.
//!
//! A weight has 22 fractional bits and does not fit the 16-bit multiply-add. It is split as
//! `weight = high * 2^12 + low` with `low` in `0..2^12`, both of which fit:
//!
//! ```text
//!   sum(pixel * weight) = sum(pixel * high) * 2^12 + sum(pixel * low)
//! ```
//!
//! Both sums are kept in 32 bits modulo 2^32. The result fits 32 bits (the scalar twin computes it
//! there), so it is exact. Weights go in pairs, as `madd` takes them: two pixels of a row in the
//! horizontal pass, two rows in the vertical one.

#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::{
    __m128i, __m256i, _mm_cvtsi128_si32, _mm_loadl_epi64, _mm_loadu_si128, _mm_srli_si128,
    _mm256_add_epi32, _mm256_castsi128_si256, _mm256_castsi256_si128, _mm256_extracti128_si256,
    _mm256_inserti128_si256, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_packs_epi32,
    _mm256_packus_epi16, _mm256_set1_epi32, _mm256_setr_epi8, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_slli_epi32, _mm256_srai_epi32, _mm256_storeu_si256,
    _mm256_unpackhi_epi8, _mm256_unpacklo_epi8,
};

use super::coefficients::{Table, WEIGHT_BITS};
use super::rows::{Padded, ROWS};
use super::scalar;
use crate::sample::View;

/// Bits of the lower part of a weight.
const LOW_BITS: i32 = 12;

/// Two neighbouring weights, split: each field holds the first one's part in its lower 16 bits.
#[derive(Clone, Copy, Debug)]
struct Pair {
    high: i32,
    low: i32,
}

/// Split weights, and copies of rows that end too early to be read in whole vectors.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pairs: Vec<Pair>,
    padded: Padded,
}

impl Scratch {
    /// The horizontal pass; see [`super::passes::Passes::horizontal`].
    #[target_feature(enable = "avx2")]
    pub(super) fn horizontal(
        &mut self,
        source: View<'_>,
        columns: &Table,
        out: &mut [u8],
        stride: usize,
    ) {
        split(&columns.weights, &mut self.pairs);
        let reach = reach(columns);
        let height = source.size().height;
        for (top, out) in (0..height).step_by(ROWS).zip(out.chunks_exact_mut(ROWS * stride)) {
            let rows = self.padded.rows(source, top, reach);
            horizontal(rows, columns, &self.pairs, out, stride);
        }
    }

    /// The vertical pass; see [`super::passes::Passes::vertical`].
    #[target_feature(enable = "avx2")]
    pub(super) fn vertical(&mut self, data: &[u8], stride: usize, rows: &Table, slot: &mut [u8]) {
        split(&rows.weights, &mut self.pairs);
        let outs = slot.chunks_exact_mut(slot.len() / rows.first.len());
        let weights = rows.weights.chunks_exact(rows.taps);
        let pairs = self.pairs.chunks_exact(rows.taps / 2);
        for (((first, weights), pairs), out) in rows.first.iter().zip(weights).zip(pairs).zip(outs)
        {
            let data = &data[*first as usize * stride..];
            let done = vertical(data, stride, pairs, out);
            if done < out.len() {
                scalar::vertical(&data[done..], stride, weights, &mut out[done..]);
            }
        }
    }
}

/// Splits the weights of a table, which are even in number, into `pairs`.
fn split(weights: &[i32], pairs: &mut Vec<Pair>) {
    let (weights, _) = weights.as_chunks::<2>();
    let halves = |a: i32, b: i32| (a & 0xffff) | (b << 16);
    pairs.clear();
    pairs.extend(weights.iter().map(|[a, b]| Pair {
        high: halves(a >> LOW_BITS, b >> LOW_BITS),
        low: halves(a & ((1 << LOW_BITS) - 1), b & ((1 << LOW_BITS) - 1)),
    }));
}

/// Bytes of a row, from its first, that [`horizontal`] reads.
fn reach(columns: &Table) -> usize {
    let last = columns.first.iter().copied().max().unwrap_or(0) as usize;
    (last + columns.taps) * 3 + 4
}

/// Four rows of the horizontal pass. `pairs` are the split weights of `columns`.
#[target_feature(enable = "avx2")]
fn horizontal(rows: [&[u8]; ROWS], columns: &Table, pairs: &[Pair], out: &mut [u8], stride: usize) {
    let reach = reach(columns);
    assert!(rows.iter().all(|row| row.len() >= reach), "rows are too short to read");
    assert!(columns.first.len() * 3 < stride && out.len() >= ROWS * stride, "no room to write");
    let source = rows.map(<[u8]>::as_ptr);
    let target = out.as_mut_ptr();
    let outputs = columns.first.iter().zip(pairs.chunks_exact(columns.taps / 2));
    for (column, (first, pairs)) in outputs.enumerate() {
        // SAFETY: from `first` on, the pixels of all taps and 4 bytes more are read, and at
        // `column` 4 bytes are written: both lie inside the rows, as asserted above.
        unsafe {
            let bytes = pixel(source.map(|row| row.add(*first as usize * 3)), pairs);
            for (index, bytes) in bytes.into_iter().enumerate() {
                let at = target.add(index * stride + column * 3);
                at.cast::<[u8; 4]>().write_unaligned(bytes);
            }
        }
    }
}

/// One output pixel of four rows: red, green, blue and a byte of no meaning.
///
/// # Safety
/// Each row must have the pixels of all pairs and 4 bytes more.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn pixel(rows: [*const u8; ROWS], pairs: &[Pair]) -> [[u8; 4]; ROWS] {
    // Pixels of two rows -> 16-bit (red, red'), (green, green'), (blue, blue'), 0 of each.
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
        // SAFETY: 16 bytes from a pixel on: its pair, the next pair and 4 bytes more.
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
        // SAFETY: 8 bytes from a pixel on: its pair and 2 bytes more.
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

/// Eight sums of pixel times weight.
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

/// One output row of the vertical pass, in whole vectors: the bytes written. `data` starts with the
/// first row that has a weight, rows are `stride` apart.
#[target_feature(enable = "avx2")]
fn vertical(data: &[u8], stride: usize, pairs: &[Pair], out: &mut [u8]) -> usize {
    const BLOCK: usize = 32;
    let width = out.len();
    assert!(width <= stride && width <= data.len(), "a row of {width} bytes");
    // A weight of zero may stand for a row past the last.
    let last = (data.len() - width) / stride;
    let zero = _mm256_setzero_si256();
    let whole = width - width % BLOCK;
    for at in (0..whole).step_by(BLOCK) {
        let mut sums = [Sums::new(); 4];
        for (index, pair) in pairs.iter().enumerate() {
            let rows = [2 * index, 2 * index + 1].map(|row| row.min(last) * stride);
            // SAFETY: rows up to `last` have `width` bytes in `data`, and the block ends in them.
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
