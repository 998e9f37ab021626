//! The two passes over rows, each by the widest kernel that the instruction set allows.

use super::scalar;
use super::weights::Weights;
use crate::geometry::View;
use crate::scratch::fit;
use crate::simd::Simd;

/// The kernels of both passes, and the memory that they reuse.
#[derive(Debug, Default)]
pub(super) struct Passes {
    simd: Simd,
    #[cfg(target_arch = "x86_64")]
    avx2: super::avx2::Avx2Passes,
    #[cfg(target_arch = "x86_64")]
    avx512: super::avx512::Avx512Passes,
}

impl Passes {
    pub(super) fn new(simd: Simd) -> Self {
        Self { simd, ..Self::default() }
    }

    pub(super) const fn simd(&self) -> Simd {
        self.simd
    }

    /// The horizontal pass: writes the weighted sums of columns, for every row of `source`, to
    /// `out`, which grows as needed. Returns the bytes from one row of `out` to the next.
    pub(super) fn horizontal(
        &mut self,
        source: View<'_>,
        columns: &Weights,
        out: &mut Vec<u8>,
    ) -> usize {
        // The kernels write whole groups of five columns and one byte more, of whole groups of four
        // rows.
        let stride = (columns.first.len().next_multiple_of(5) * 3 + 1).next_multiple_of(64);
        let rows = source.size().height as usize;
        if out.len() < rows.next_multiple_of(4) * stride {
            fit(out, rows.next_multiple_of(4) * stride, 0);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = self.simd.avx512()
            && self.avx512.horizontal(avx512, source, columns, out, stride)
        {
            return stride;
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = self.simd.avx2() {
            self.avx2.horizontal(avx2, source, columns, out, stride);
            return stride;
        }
        for (y, out) in (0..source.size().height).zip(out.chunks_exact_mut(stride)) {
            scalar::horizontal(source.row(y), columns, out);
        }
        stride
    }

    /// The vertical pass: writes the weighted sums of the rows of `data`, which are `stride` apart,
    /// to `slot`, tightly packed.
    pub(super) fn vertical(&mut self, data: &[u8], stride: usize, rows: &Weights, slot: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = self.simd.avx512() {
            return self.avx512.vertical(avx512, data, stride, rows, slot);
        }
        #[cfg(target_arch = "x86_64")]
        if let Some(avx2) = self.simd.avx2() {
            return self.avx2.vertical(avx2, data, stride, rows, slot);
        }
        let outs = slot.chunks_exact_mut(slot.len() / rows.first.len());
        let outputs = rows.first.iter().zip(rows.values.chunks_exact(rows.taps));
        for ((first, weights), out) in outputs.zip(outs) {
            scalar::vertical(&data[*first as usize * stride..], stride, weights, out);
        }
    }
}
