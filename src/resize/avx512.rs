//! The two passes with AVX-512 and VNNI: the twins of `scalar.rs`.
//!
//! VNNI's `dpbusd` multiplies four bytes by four signed bytes and adds the four products to a 32-bit
//! sum. Weights are therefore written in base 256, with three digits from -128 to 127, and the
//! digits are summed apart:
//!
//! ```text
//!   sum(pixel * weight) = sum(pixel * d2) * 2^16 + sum(pixel * d1) * 2^8 + sum(pixel * d0)
//! ```
//!
//! Three digits represent weights below 127/64 in magnitude, and a test shows that all are. The
//! sums wrap at 32 bits. That is exact, because the result fits 32 bits: the scalar twin computes
//! it in an `i32`. Weights come in fours, for four pixels of a row in the horizontal pass and for
//! four rows in the vertical one.
//!
//! The horizontal pass computes five output columns of four rows at once. The pixels that five
//! neighboring columns use overlap, so that one load of 64 bytes holds four taps of all of them,
//! unless the image shrinks to less than about a quarter. One permutation brings them into order:
//!
//! ```text
//!   load     64 bytes of a row, from the first pixel of the leftmost column on
//!   permute  column 0: r r r r | g g g g | b b b b || column 1: r r r r | .. || column 4 | - - - -
//!   dpbusd   four taps of 15 sums; the 16th is not used
//! ```

#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::{
    __m512i, __mmask64, _mm_storeu_si128, _mm512_add_epi32, _mm512_castsi512_si128,
    _mm512_dpbusd_epi32, _mm512_extracti32x4_epi32, _mm512_loadu_si512, _mm512_mask_storeu_epi8,
    _mm512_maskz_loadu_epi8, _mm512_packs_epi32, _mm512_packus_epi16, _mm512_permutexvar_epi8,
    _mm512_permutexvar_epi32, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_setzero_si512,
    _mm512_slli_epi32, _mm512_srai_epi32, _mm512_unpackhi_epi8, _mm512_unpackhi_epi16,
    _mm512_unpacklo_epi8, _mm512_unpacklo_epi16,
};

use super::rows::{PaddedRows, ROWS};
use super::weights::{WEIGHT_BITS, Weights};
use crate::geometry::View;
use crate::simd::Avx512;

/// The number of columns that the horizontal pass computes at once. Their 15 sums take all lanes of
/// a vector but one.
const COLUMNS: usize = 5;

/// The number of bytes in a vector.
const VECTOR: usize = 64;

/// Four neighboring weights. Each element holds one digit of all four, from the lowest digit on.
#[derive(Clone, Copy, Debug)]
struct Four([i32; 3]);

/// Five neighboring columns.
#[derive(Clone, Copy, Debug)]
struct Five {
    /// The byte of a row from which the pixels of all columns are read.
    start: usize,
    /// The permutation of the bytes from there on: four pixels of each column's red, green and blue.
    order: [u32; 16],
}

/// The passes with AVX-512, and the memory that they reuse.
#[derive(Debug, Default)]
pub(super) struct Avx512Passes {
    fours: Vec<Four>,
    fives: Vec<Five>,
    /// Three vectors of digits, for each five columns and each four of their weights.
    digits: Vec<[[i32; 16]; 3]>,
    padded: PaddedRows,
}

impl Avx512Passes {
    /// The horizontal pass; see [`super::passes::Passes::horizontal`]. Returns `false`, with `out`
    /// unchanged, where one vector cannot hold the pixels of four taps of five columns: where the
    /// image shrinks to less than about a quarter.
    pub(super) fn horizontal(
        &mut self,
        _: Avx512,
        source: View<'_>,
        columns: &Weights,
        out: &mut [u8],
        stride: usize,
    ) -> bool {
        // SAFETY: the token proves AVX-512.
        if !unsafe { self.prepare(columns) } {
            return false;
        }
        let fours = self.digits.len() / self.fives.len();
        let last = self.fives.iter().map(|five| five.start).max().unwrap_or(0);
        let reach = last + (fours - 1) * 12 + VECTOR;
        let height = source.size().height;
        for (top, out) in (0..height).step_by(ROWS).zip(out.chunks_exact_mut(ROWS * stride)) {
            let rows = self.padded.rows(source, top, reach);
            // SAFETY: the token proves AVX-512.
            unsafe { horizontal(rows, &self.fives, &self.digits, out, stride) };
        }
        true
    }

    /// The vertical pass; see [`super::passes::Passes::vertical`].
    pub(super) fn vertical(
        &mut self,
        _: Avx512,
        data: &[u8],
        stride: usize,
        rows: &Weights,
        slot: &mut [u8],
    ) {
        // SAFETY: the token proves AVX-512.
        unsafe { self.split(rows) };
        let outs = slot.chunks_exact_mut(slot.len() / rows.first.len());
        let fours = self.fours.chunks_exact(rows.taps.div_ceil(4));
        for ((first, fours), out) in rows.first.iter().zip(fours).zip(outs) {
            let data = &data[*first as usize * stride..];
            // SAFETY: the token proves AVX-512.
            unsafe { vertical(data, stride, fours, out) };
        }
    }

    /// Splits the weights and orders them for the horizontal pass. Returns whether a vector can
    /// hold the pixels of four taps of each five columns.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn prepare(&mut self, columns: &Weights) -> bool {
        self.split(columns);
        let fours = columns.taps.div_ceil(4);
        let last = columns.first.len() - 1;
        self.fives.clear();
        self.digits.clear();
        for column in (0..columns.first.len()).step_by(COLUMNS) {
            // The last column is repeated in place of columns past the end.
            let five = [0, 1, 2, 3, 4].map(|index| (column + index).min(last));
            let firsts = five.map(|column| columns.first[column]);
            let start = firsts.into_iter().fold(u32::MAX, u32::min);
            let offsets = firsts.map(|first| (first - start) * 3);
            if offsets.iter().any(|offset| *offset as usize + 12 > VECTOR) {
                return false;
            }
            let lane = |lane: usize| (lane / 3).min(COLUMNS - 1);
            let order = std::array::from_fn(|index| {
                (offsets[lane(index)] + [0, 1, 2][index % 3]) * 0x0101_0101 + 0x0906_0300
            });
            self.fives.push(Five { start: start as usize * 3, order });
            for index in 0..fours {
                let weights = five.map(|column| self.fours[column * fours + index].0);
                self.digits.push(std::array::from_fn(|digit| {
                    std::array::from_fn(|index| weights[lane(index)][digit])
                }));
            }
        }
        true
    }

    /// Splits weights into digits, and pads those of each output with zeros to a multiple of four.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn split(&mut self, weights: &Weights) {
        self.fours.clear();
        for weights in weights.values.chunks_exact(weights.taps) {
            self.fours.extend(weights.chunks(4).map(|some| {
                let mut four = [0; 4];
                four[..some.len()].copy_from_slice(some);
                Four::new(four)
            }));
        }
    }
}

impl Four {
    #[expect(clippy::inline_always, reason = "must take its caller's features")]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the low digit")]
    fn new(weights: [i32; 4]) -> Self {
        let low = |weights: [i32; 4]| i32::from_le_bytes(weights.map(|weight| weight as u8));
        // The weight without its low digit, which is negative where its upper bit is set.
        let rest = |weights: [i32; 4]| weights.map(|weight| (weight + 128) >> 8);
        Self([low(weights), low(rest(weights)), low(rest(rest(weights)))])
    }
}

/// Computes four rows of the horizontal pass.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
fn horizontal(
    rows: [&[u8]; ROWS],
    fives: &[Five],
    digits: &[[[i32; 16]; 3]],
    out: &mut [u8],
    stride: usize,
) {
    let fours = digits.len() / fives.len();
    assert!(fives.len() * COLUMNS * 3 < stride && out.len() >= ROWS * stride, "no room to write");
    let shortest = rows.map(<[u8]>::len).into_iter().fold(usize::MAX, usize::min);
    let target = out.as_mut_ptr();
    // Packing interleaves the four rows by 32 bits; this permutation separates them.
    let by_row = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (index, (five, digits)) in fives.iter().zip(digits.chunks_exact(fours)).enumerate() {
        assert!(five.start + (fours - 1) * 12 + VECTOR <= shortest, "rows are too short to read");
        // SAFETY: the array has 64 bytes.
        let order = unsafe { _mm512_loadu_si512(five.order.as_ptr().cast()) };
        let mut sums = [Sums::new(); ROWS];
        for (index, digits) in digits.iter().enumerate() {
            // SAFETY: each array has 64 bytes.
            let digits =
                digits.each_ref().map(|digit| unsafe { _mm512_loadu_si512(digit.as_ptr().cast()) });
            for (sums, row) in sums.iter_mut().zip(rows) {
                // SAFETY: the row has 64 bytes from there on, as asserted above.
                let bytes =
                    unsafe { _mm512_loadu_si512(row.as_ptr().add(five.start + index * 12).cast()) };
                sums.add(_mm512_permutexvar_epi8(order, bytes), digits);
            }
        }
        let [a, b, c, d] = sums.map(|sums| sums.rounded());
        let bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
        let bytes = _mm512_permutexvar_epi32(by_row, bytes);
        let parts = [
            _mm512_castsi512_si128(bytes),
            _mm512_extracti32x4_epi32::<1>(bytes),
            _mm512_extracti32x4_epi32::<2>(bytes),
            _mm512_extracti32x4_epi32::<3>(bytes),
        ];
        for (row, part) in parts.into_iter().enumerate() {
            // SAFETY: the row has 16 bytes from there on, as asserted above.
            unsafe {
                let to = target.add(row * stride + index * COLUMNS * 3);
                _mm_storeu_si128(to.cast(), part);
            }
        }
    }
}

/// Sixteen sums of pixels times weights, apart for each digit.
#[derive(Clone, Copy)]
struct Sums([__m512i; 3]);

impl Sums {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new() -> Self {
        let zero = _mm512_setzero_si512();
        Self([_mm512_set1_epi32(1 << (WEIGHT_BITS - 1)), zero, zero])
    }

    /// Adds four pixels times four weights to each sum.
    #[target_feature(enable = "avx512f,avx512vnni")]
    #[inline]
    fn add(&mut self, pixels: __m512i, digits: [__m512i; 3]) {
        for (sum, digits) in self.0.iter_mut().zip(digits) {
            *sum = _mm512_dpbusd_epi32(*sum, pixels, digits);
        }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn rounded(self) -> __m512i {
        let [d0, d1, d2] = self.0;
        let upper = _mm512_add_epi32(_mm512_slli_epi32::<8>(d2), d1);
        let sum = _mm512_add_epi32(_mm512_slli_epi32::<8>(upper), d0);
        _mm512_srai_epi32::<WEIGHT_BITS>(sum)
    }
}

/// Computes one output row of the vertical pass. `data` starts with the first row that has a weight;
/// rows are `stride` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn vertical(data: &[u8], stride: usize, fours: &[Four], out: &mut [u8]) {
    let width = out.len();
    assert!(width <= stride && width <= data.len(), "a row of {width} bytes");
    // Weights of zero may be those of rows past the last one.
    let last = (data.len() - width) / stride;
    for at in (0..width).step_by(VECTOR) {
        let mask: __mmask64 = u64::MAX >> (VECTOR - (width - at).min(VECTOR));
        let mut sums = [Sums::new(); 4];
        for (index, Four(digits)) in fours.iter().enumerate() {
            let [a, b, c, d] = [0, 1, 2, 3].map(|row| {
                let start = (index * 4 + row).min(last) * stride + at;
                // SAFETY: rows up to `last` have `width` bytes in `data`, and the mask ends there.
                unsafe { _mm512_maskz_loadu_epi8(mask, data.as_ptr().add(start).cast()) }
            });
            let digits = digits.map(|digit| _mm512_set1_epi32(digit));
            let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
            sums[0].add(_mm512_unpacklo_epi16(ab, cd), digits);
            sums[1].add(_mm512_unpackhi_epi16(ab, cd), digits);
            let (ab, cd) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
            sums[2].add(_mm512_unpacklo_epi16(ab, cd), digits);
            sums[3].add(_mm512_unpackhi_epi16(ab, cd), digits);
        }
        let [a, b, c, d] = sums.map(|sums| sums.rounded());
        let bytes = _mm512_packus_epi16(_mm512_packs_epi32(a, b), _mm512_packs_epi32(c, d));
        // SAFETY: the mask ends within `out`.
        unsafe { _mm512_mask_storeu_epi8(out.as_mut_ptr().add(at).cast(), mask, bytes) };
    }
}
