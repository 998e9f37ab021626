//! The two passes with AVX-512 and VNNI.
//!
//! VNNI multiplies four bytes by four signed bytes and adds the products to 32 bits. A weight is
//! written in base 256 with three digits from -128 to 127:
//!
//! ```text
//!   sum(pixel * weight) = sum(pixel * d2) * 2^16 + sum(pixel * d1) * 2^8 + sum(pixel * d0)
//! ```
//!
//! Three digits hold weights below 127/64 in size, and none comes near (a test says so).
//! The sums are kept in 32 bits modulo 2^32. The result fits 32 bits (the scalar twin computes it
//! there), so it is exact. Weights go in fours: of a row in the horizontal pass, of four rows in the
//! vertical one.

#![expect(unsafe_code, reason = "loads and stores of vectors")]

use std::arch::x86_64::{
    __m512i, __mmask64, _mm_storeu_si128, _mm512_add_epi32, _mm512_castsi512_si128,
    _mm512_dpbusd_epi32, _mm512_extracti32x4_epi32, _mm512_loadu_si512, _mm512_mask_storeu_epi8,
    _mm512_maskz_loadu_epi8, _mm512_packs_epi32, _mm512_packus_epi16, _mm512_permutexvar_epi8,
    _mm512_permutexvar_epi32, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_setzero_si512,
    _mm512_slli_epi32, _mm512_srai_epi32, _mm512_unpackhi_epi8, _mm512_unpackhi_epi16,
    _mm512_unpacklo_epi8, _mm512_unpacklo_epi16,
};

use super::coefficients::{Table, WEIGHT_BITS};
use super::rows::{Padded, ROWS};
use crate::sample::View;

/// Columns that the horizontal pass does at once: their 15 values are all but one of a vector's.
const COLUMNS: usize = 5;

/// Bytes of a vector.
const VECTOR: usize = 64;

/// Four neighbouring weights: each field holds one of their digits, the lowest first.
#[derive(Clone, Copy, Debug)]
struct Four([i32; 3]);

/// Five neighbouring columns.
#[derive(Clone, Copy, Debug)]
struct Five {
    /// Byte of a row from which the pixels of all columns are read.
    start: usize,
    /// From there on, the bytes for a column's red, green and blue: four pixels each.
    order: [u32; 16],
}

/// Weights as the passes take them, and copies of rows that end too early.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    fours: Vec<Four>,
    fives: Vec<Five>,
    /// For five columns and four of their weights: three vectors of digits.
    digits: Vec<[[i32; 16]; 3]>,
    padded: Padded,
}

impl Scratch {
    /// Prepares the horizontal pass. Whether it can be done here: a vector must hold the pixels that
    /// five columns have in common, which it does where the image shrinks to a quarter or more.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn prepare(&mut self, columns: &Table) -> bool {
        self.split(columns);
        let fours = columns.taps.div_ceil(4);
        let last = columns.first.len() - 1;
        self.fives.clear();
        self.digits.clear();
        for column in (0..columns.first.len()).step_by(COLUMNS) {
            // Past the last column it is repeated.
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

    /// The horizontal pass that was prepared; see [`super::passes::Passes::horizontal`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vnni")]
    pub(super) fn horizontal(&mut self, source: View<'_>, out: &mut [u8], stride: usize) {
        let fours = self.digits.len() / self.fives.len();
        let last = self.fives.iter().map(|five| five.start).max().unwrap_or(0);
        let reach = last + (fours - 1) * 12 + VECTOR;
        let height = source.size().height;
        for (top, out) in (0..height).step_by(ROWS).zip(out.chunks_exact_mut(ROWS * stride)) {
            let rows = self.padded.rows(source, top, reach);
            horizontal(rows, &self.fives, &self.digits, out, stride);
        }
    }

    /// The vertical pass; see [`super::passes::Passes::vertical`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    pub(super) fn vertical(&mut self, data: &[u8], stride: usize, rows: &Table, slot: &mut [u8]) {
        self.split(rows);
        let outs = slot.chunks_exact_mut(slot.len() / rows.first.len());
        let fours = self.fours.chunks_exact(rows.taps.div_ceil(4));
        for ((first, fours), out) in rows.first.iter().zip(fours).zip(outs) {
            vertical(&data[*first as usize * stride..], stride, fours, out);
        }
    }

    /// Splits the weights of a table. Those that an output lacks to whole fours are zero.
    #[target_feature(enable = "avx512f,avx512bw")]
    fn split(&mut self, table: &Table) {
        self.fours.clear();
        for weights in table.weights.chunks_exact(table.taps) {
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
        // Without the low digit, which is negative where its upper bit is set.
        let rest = |weights: [i32; 4]| weights.map(|weight| (weight + 128) >> 8);
        Self([low(weights), low(rest(weights)), low(rest(rest(weights)))])
    }
}

/// Four rows of the horizontal pass.
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
    // The dwords of four rows side by side.
    let by_row = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    for (index, (five, digits)) in fives.iter().zip(digits.chunks_exact(fours)).enumerate() {
        assert!(five.start + (fours - 1) * 12 + VECTOR <= shortest, "rows are too short to read");
        // SAFETY: 64 bytes.
        let order = unsafe { _mm512_loadu_si512(five.order.as_ptr().cast()) };
        let mut sums = [Sums::new(); ROWS];
        for (index, digits) in digits.iter().enumerate() {
            // SAFETY: 64 bytes each.
            let digits =
                digits.each_ref().map(|digit| unsafe { _mm512_loadu_si512(digit.as_ptr().cast()) });
            for (sums, row) in sums.iter_mut().zip(rows) {
                // SAFETY: 64 bytes lie in the row, as asserted above.
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
            // SAFETY: 16 bytes lie in the row, as asserted above.
            unsafe {
                let to = target.add(row * stride + index * COLUMNS * 3);
                _mm_storeu_si128(to.cast(), part);
            }
        }
    }
}

/// Sixteen sums of pixel times weight, digit by digit.
#[derive(Clone, Copy)]
struct Sums([__m512i; 3]);

impl Sums {
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new() -> Self {
        let zero = _mm512_setzero_si512();
        Self([_mm512_set1_epi32(1 << (WEIGHT_BITS - 1)), zero, zero])
    }

    /// Adds sixteen times four pixels times four weights.
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

/// One output row of the vertical pass. `data` starts with the first row that has a weight, rows are
/// `stride` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn vertical(data: &[u8], stride: usize, fours: &[Four], out: &mut [u8]) {
    let width = out.len();
    assert!(width <= stride && width <= data.len(), "a row of {width} bytes");
    // A weight of zero may stand for a row past the last.
    let last = (data.len() - width) / stride;
    for at in (0..width).step_by(VECTOR) {
        let mask: __mmask64 = u64::MAX >> (VECTOR - (width - at).min(VECTOR));
        let mut sums = [Sums::new(); 4];
        for (index, Four(digits)) in fours.iter().enumerate() {
            let [a, b, c, d] = [0, 1, 2, 3].map(|row| {
                let start = (index * 4 + row).min(last) * stride + at;
                // SAFETY: rows up to `last` have `width` bytes in `data`, where the mask ends.
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
