//! The two passes over rows: which kernel does them, and what memory it needs around it.

use super::coefficients::Table;
use super::scalar;
use crate::sample::View;
use crate::simd::Simd;

/// The kernels, with the scratch of those with vectors.
#[derive(Debug, Default)]
pub(super) struct Passes {
    simd: Simd,
    #[cfg(target_arch = "x86_64")]
    avx2: super::avx2::Scratch,
    #[cfg(target_arch = "x86_64")]
    avx512: super::avx512::Scratch,
}

impl Passes {
    pub(super) fn new(simd: Simd) -> Self {
        Self { simd, ..Self::default() }
    }

    pub(super) const fn simd(&self) -> Simd {
        self.simd
    }

    /// Writes the columns of the table for every row of `source` to `out`, which grows as needed;
    /// the bytes from one row to the next.
    pub(super) fn horizontal(
        &mut self,
        source: View<'_>,
        columns: &Table,
        out: &mut Vec<u8>,
    ) -> usize {
        // Whole groups of five columns, a byte more, and whole groups of four rows: vectors write so.
        let stride = (columns.first.len().next_multiple_of(5) * 3 + 1).next_multiple_of(64);
        let rows = source.size().height as usize;
        if out.len() < rows.next_multiple_of(4) * stride {
            out.resize(rows.next_multiple_of(4) * stride, 0);
        }
        #[cfg(target_arch = "x86_64")]
        if self.simd.avx512() {
            #[expect(unsafe_code, reason = "calls across target features")]
            // SAFETY: `simd` proves that the CPU has AVX-512.
            unsafe {
                if self.avx512.prepare(columns) {
                    self.avx512.horizontal(source, out, stride);
                    return stride;
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        if self.simd.avx2() {
            #[expect(unsafe_code, reason = "a call across target features")]
            // SAFETY: `simd` proves that the CPU has AVX2.
            unsafe {
                self.avx2.horizontal(source, columns, out, stride);
            }
            return stride;
        }
        for (y, out) in (0..source.size().height).zip(out.chunks_exact_mut(stride)) {
            scalar::horizontal(source.row(y), columns, out);
        }
        stride
    }

    /// Writes the table's rows, tightly packed: sums of the rows of `data`, which are `stride`
    /// apart.
    pub(super) fn vertical(&mut self, data: &[u8], stride: usize, rows: &Table, slot: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if self.simd.avx512() {
            #[expect(unsafe_code, reason = "a call across target features")]
            // SAFETY: `simd` proves that the CPU has AVX-512.
            unsafe {
                self.avx512.vertical(data, stride, rows, slot);
            }
            return;
        }
        #[cfg(target_arch = "x86_64")]
        if self.simd.avx2() {
            #[expect(unsafe_code, reason = "a call across target features")]
            // SAFETY: `simd` proves that the CPU has AVX2.
            unsafe {
                self.avx2.vertical(data, stride, rows, slot);
            }
            return;
        }
        let outs = slot.chunks_exact_mut(slot.len() / rows.first.len());
        let outputs = rows.first.iter().zip(rows.weights.chunks_exact(rows.taps));
        for ((first, weights), out) in outputs.zip(outs) {
            scalar::vertical(&data[*first as usize * stride..], stride, weights, out);
        }
    }
}
